"""How far a partition is; and the positions of all lanes, committed to the group together, a few times a second.

The rule: a position is reported here only after everything before it is
acknowledged, so it may be committed late, but never early. After a kill a stateless
stage starts at the committed position, and re-reading is harmless. A stateful one
starts at its changelog's position and commits that again. One commit per batch would
cost more than a small batch itself, and every batch would wait for the one before.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiokafka.errors import CommitFailedError
from faust.types import TP

from streams import codecs
from streams.kafka.poison import Poison

logger = logging.getLogger(__name__)

COMMIT_EVERY_S: Final = 0.25


@dataclass(slots=True)
class Position:
    """How far a partition's stage is: kept as a reserved changelog row, or as the metadata of the committed offset."""

    offset: int
    """The next source offset to read."""
    timestamp_ms: int = -1
    """The broker's timestamp of the last record processed; -1 before the first."""
    poison: Poison | None = None

    def encode(self) -> str:
        """Return compact JSON."""
        poison = self.poison or Poison()
        value: dict[str, object] = {"offset": self.offset, "ts": self.timestamp_ms}
        if poison.seen or poison.resume_id:
            value |= {"seen": poison.seen, "bad": poison.bad}
        if poison.stopped is not None:
            value["stopped"] = True
            value["reason"] = poison.stopped[:200]
        if poison.through >= 0:
            value["through"] = poison.through
        if poison.resume_id:
            value["resume_id"] = poison.resume_id
        return codecs.encode(value).decode()

    @classmethod
    def decode(cls, text: str | bytes) -> "Position":
        """Return the position that ``encode`` wrote.

        Raises:
            ValueError: something else wrote it.
        """
        value = codecs.decode(text)
        if not isinstance(value, dict) or not isinstance(value.get("offset"), int):
            message = "not a position"
            raise ValueError(message)  # noqa: TRY004 - the value is wrong, not the argument's type
        poison = Poison(
            seen=value.get("seen", 0),
            bad=value.get("bad", 0),
            stopped=value.get("reason", "stopped") if value.get("stopped") else None,
            stopped_at=value["offset"] if value.get("stopped") else -1,
            through=value.get("through", -1),
            resume_id=value.get("resume_id", ""),
        )
        return cls(value["offset"], value.get("ts", -1), poison)

    @classmethod
    def of_committed(cls, offset: int, metadata: str | None) -> "Position":
        """Return the position of a committed offset. It overrides the one in the metadata: a person may have moved it.

        Metadata that ``encode`` did not write comes from another tool, and has neither a timestamp nor poison.
        """
        try:
            position = cls.decode(metadata or "")
        except ValueError:
            return cls(offset)
        position.offset = offset
        return position


Commit = Callable[[Mapping[TP, tuple[int, str]]], Awaitable[set[TP]]]
"""Commits (position, metadata) of partitions in one request; raises CommitFailedError when they have a new owner. Returns
those that it left out, because the brokers do not know their topics."""


class Positions:
    """Collects the positions of all lanes of one assignment, and commits them."""

    def __init__(
        self, commit: Commit, *, on_crash: Callable[[BaseException], None], interval_s: float = COMMIT_EVERY_S
    ) -> None:
        self._commit = commit
        self._on_crash = on_crash
        self._interval_s = interval_s
        self._reached: dict[TP, tuple[int, str]] = {}
        self._refused: set[TP] = set()
        self._gone: set[str] = set()
        self._committing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def reach(self, tp: TP, offset: int, metadata: str) -> None:
        """Note that ``tp`` was processed up to ``offset``; that is committed soon.

        Raises:
            CommitFailedError: an earlier position of it was refused: the partition has a new owner.
        """
        if tp in self._refused:
            message = f"{tp.topic}/{tp.partition} has a new owner"
            raise CommitFailedError(message)
        self._reached[tp] = (offset, metadata)
        self._commit_soon()

    async def flush(self) -> None:
        """Commit now what was reached; when this returns, no commit is under way."""
        async with self._committing:
            reached, self._reached = self._reached, {}
            if not reached:
                return
            try:
                left_out = await self._commit(reached)
            except CommitFailedError:
                # The group went on without this member; the next owner repeats the uncommitted part, which is harmless.
                self._refused |= reached.keys()
                for topic, partition in sorted(reached):
                    logger.warning("%s/%s: position not committed, the partition has a new owner", topic, partition)
            except Exception as error:  # noqa: BLE001 - whatever it is, positions are not committed any more
                self._on_crash(error)
            else:
                self._keep({tp: reached[tp] for tp in left_out})

    def forget(self, tp: TP) -> None:
        """Forget what is left to commit of ``tp``: its lane is closed, and another member may own it."""
        self._reached.pop(tp, None)

    def _keep(self, left_out: Mapping[TP, tuple[int, str]]) -> None:
        """Try again to commit what was left out, for as long as this assignment lasts.

        A broker that has just come back may not know a topic for a moment. aiokafka joins the group anew for other
        metadata only in the group's leader, so nothing else would ever tell the position of a partition without records.
        """
        gone = {tp.topic for tp in left_out}
        for topic in sorted(gone - self._gone):
            logger.warning("%s: gone; its positions are not committed unless it comes back", topic)
        self._gone = gone
        if left_out:
            self._reached = {**left_out, **self._reached}
            self._commit_soon()

    def _commit_soon(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._flush_soon(), name="commit positions")

    async def _flush_soon(self) -> None:
        await asyncio.sleep(self._interval_s)
        self._task = None  # positions reached from here on are committed by the next task
        await self.flush()
