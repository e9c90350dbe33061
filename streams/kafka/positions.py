"""How far each lane is, committed to the group: all together, a few times a second and when a lane closes.

The rule: a position is reported here only after everything before it is
acknowledged, so it may be committed late, but never early. After a kill a stateless
stage starts at the committed position, and re-reading is harmless. A stateful one
starts at its changelog's position and commits that again. One commit per batch would
cost more than a small batch itself, and every batch would wait for the one before.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiokafka.errors import CommitFailedError
from faust.types import TP

logger = logging.getLogger(__name__)

COMMIT_EVERY_S: Final = 0.25

Commit = Callable[[Mapping[TP, tuple[int, str]]], Awaitable[None]]
"""Commits (position, metadata) of partitions in one request; raises CommitFailedError when they have a new owner."""


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
        if self._task is None:
            self._task = asyncio.create_task(self._flush_soon(), name="commit positions")

    async def flush(self) -> None:
        """Commit now what was reached; when this returns, no commit is under way."""
        async with self._committing:
            reached, self._reached = self._reached, {}
            if not reached:
                return
            try:
                await self._commit(reached)
            except CommitFailedError:
                # The group went on without this member; the next owner repeats the uncommitted part, which is harmless.
                self._refused |= reached.keys()
                for topic, partition in sorted(reached):
                    logger.warning("%s/%s: position not committed, the partition has a new owner", topic, partition)
            except Exception as error:  # noqa: BLE001 - whatever it is, positions are not committed any more
                self._on_crash(error)

    async def _flush_soon(self) -> None:
        await asyncio.sleep(self._interval_s)
        self._task = None  # positions reached from here on are committed by the next task
        await self.flush()
