"""A worker that makes no progress ends itself: a silent stall is Faust's best-known failure.

The rule: the worker ends when an owned partition has records waiting, the broker
answers, and yet nothing was committed for ``limit_s``. Its supervisor starts another.

Not a stall:

- a partition that is stopped on purpose, or is still opening;
- a rebalance, or a restore as long as its steps advance within ``limit_s``;
- a batch that waits behind those of other partitions, as long as these get their turns;
- a broker that does not answer: a restart would not help.

A separate thread watches the event loop itself, because a loop that hangs cannot
watch anything.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from faust.types import TP

from streams.kafka.progress import Standing

logger = logging.getLogger(__name__)


class StalledError(Exception):
    """No progress although there is work."""


class Watchdog:
    """Called with every look of ``Progress``; calls ``on_stall`` once."""

    def __init__(self, *, limit_s: float, on_stall: Callable[[BaseException], None]) -> None:
        self._limit_s = limit_s
        self._on_stall = on_stall
        self._seen: dict[TP, tuple[tuple[int, int | None], float]] = {}
        self._restore: tuple[int, float] | None = None
        self._looked_at = time.monotonic()
        self._loop_seen = time.monotonic()
        self.stalled: str | None = None
        self.restore_idle_s = 0.0
        """For how long the running restore has done nothing."""

    def look(
        self,
        standings: Mapping[TP, Standing],
        owned: set[TP],
        *,
        excused: bool,
        restore: int | None = None,
        queued: Mapping[TP, int] | None = None,
    ) -> None:
        """Compare positions with those of the last look.

        Args:
            standings: All partitions, as ``Progress`` saw them; none of a topic that is missing.
            owned: Those that this worker is to work on now: assigned, restored, not stopped.
            excused: A restore or a rebalance runs.
            restore: How many steps the running restore has made; None: none runs.
            queued: Partitions whose batch waits for its turn, with the number of turns that others had so far.
        """
        now = self._loop_seen = time.monotonic()
        away, self._looked_at = now - self._looked_at > self._limit_s / 2, now
        if excused or away:  # while the broker did not answer there were no looks, and no work was possible
            self._seen = {}
        if away:
            self._restore = None
        self._look_at_restore(restore, now)
        if excused:
            return
        for tp in self._seen.keys() - (owned & standings.keys()):
            del self._seen[tp]  # the limit runs anew when it is worked on, or seen, again
        for tp in owned:
            standing = standings.get(tp)
            if standing is None:
                continue
            reached = (standing.position, (queued or {}).get(tp))
            before, since = self._seen.get(tp, (None, now))
            if standing.lag == 0 or reached != before:
                self._seen[tp] = (reached, now)
            elif now - since > self._limit_s:
                self._stall(
                    f"{tp.topic}/{tp.partition} is stuck at offset {standing.position} with {standing.lag} more to go "
                    f"for {now - since:.0f} s"
                )

    def _look_at_restore(self, steps: int | None, now: float) -> None:
        if steps is None or self._restore is None or self._restore[0] != steps:
            self._restore = None if steps is None else (steps, now)
        self.restore_idle_s = now - self._restore[1] if self._restore is not None else 0.0
        if self.restore_idle_s > self._limit_s:
            self._stall(f"the restore of the stores has done nothing for {self.restore_idle_s:.0f} s")

    def _stall(self, reason: str) -> None:
        if self.stalled is None:
            self.stalled = reason
            self._on_stall(StalledError(reason))

    def beat(self) -> None:
        """Say that the event loop runs."""
        self._loop_seen = time.monotonic()

    def watch_loop(self, on_hang: Callable[[float], None]) -> threading.Thread:
        """Start the thread that calls ``on_hang`` (in that thread) when the event loop does not run for ``limit_s``."""

        def watch() -> None:
            while (silent := time.monotonic() - self._loop_seen) <= self._limit_s:
                time.sleep(1.0)
            on_hang(silent)

        self.beat()  # it may have waited for the broker since it was made
        thread = threading.Thread(target=watch, name="watchdog", daemon=True)
        thread.start()
        return thread
