"""The stores of the owned partitions: opened, brought up to the end of their changelogs, closed.

The rule: a store is a copy of its changelog, which is the truth. A store that is corrupt,
stale or missing is read again from the changelog; a changelog that lacks what it once
held is an error that a person has to resolve (``RestoreError``).
"""

import asyncio
import contextlib
import logging
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from streams.kafka.batches import Record
from streams.kafka.lanes import POSITION_KEY
from streams.kafka.offsets import bounds
from streams.kafka.store import UNKNOWN_POLICY, Budget, Changes, Store, StoreCorruptError, files_needed, open_store

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 5.0
ROWS_AT_ONCE = 2_000
"""Rows unpacked before they are written, of all changelogs. A fetch may hold 20,000: too many for the CPU's cache."""
LOADED_OFFSETS = 10_000
"""A store that lacks this many changelog offsets or more is loaded: with another write buffer and without RocksDB's log."""
MARKER = 1  # offset, of a transaction; a store that lacks a row lacks the marker behind it too: two offsets
STALE_AFTER_S = 3.5 * 86_400
"""A store lacking rows older than this is rebuilt: the broker keeps tombstones for 7 days (``delete.retention.ms``)."""


class RestoreError(Exception):
    """The state and the logs do not fit together. Going on would be wrong, or hide it; a person has to decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a stage keeps, and how its rows are found again by time."""

    name: str
    changelog_topic: str
    due_of: Callable[[bytes], int | None]
    """The time (µs) under which a row is in the due index; None: it is not."""
    watch_of: Callable[[bytes], int | None]
    """The same for the watch index."""
    policy: bytes | None = None
    """What ``due_of`` computes with, if that can change. The store notes it, or ``UNKNOWN_POLICY`` if two are mixed."""


class StoreHooks(Protocol):
    """What the stores report to the rest of the process."""

    def rebuilt(self, store: str, reason: str) -> None:
        """A store was moved aside."""

    def restored(self, rows: int) -> None:
        """This many changelog rows were read."""

    def remaining(self, offsets: int) -> None:
        """This many changelog offsets are still to be read; 0 when a restore is done."""


@dataclass(slots=True)
class _Behind:
    """A store, and what it lacks of its changelog."""

    table: Table
    store: Store
    end: int
    """Where the changelog ended when the restore began."""
    left: int
    """Offsets still to be read."""


class Stores:
    """The stores of this process."""

    def __init__(self, *, datadir: Path, budget: Budget, hooks: StoreHooks) -> None:
        self._datadir = datadir
        self._budget = budget
        self._hooks = hooks
        self.by_source: dict[TP, Store] = {}
        """Open stores by source partition."""
        self.steps = 0
        """Grows with everything that is checked or restored."""

    def close_but(self, kept: set[TP]) -> None:
        """Close all stores but those of ``kept``."""
        for tp in self.by_source.keys() - kept:
            self.by_source.pop(tp).close()

    async def restore(
        self,
        consumer: AIOKafkaConsumer,
        tables: Mapping[TP, Table],
        committed: Mapping[TopicPartition, OffsetAndMetadata],
    ) -> None:
        """Open the stores of these source partitions, and bring each up to the end of its changelog.

        Args:
            consumer: Without an assignment and a group; ``read_committed``.
            tables: What is kept of each source partition.
            committed: What the group committed of them.

        Raises:
            RestoreError: a changelog lacks something that it once held.
            StoreCorruptError: a store cannot be opened for a reason that an empty one would share.
        """
        if not tables:
            return
        changelogs = {tp: TP(table.changelog_topic, tp.partition) for tp, table in tables.items()}
        begins, ends = await bounds(consumer, changelogs.values())
        await self._open(tables)
        await self._empty_stale(consumer, tables, changelogs, ends)
        starts = {
            tp: _start_of(
                self.by_source[tp],
                changelog,
                begin=begins[changelog],
                end=ends[changelog],
                committed=committed.get(TopicPartition(*tp)),
            )
            for tp, changelog in changelogs.items()
        }
        behind = {
            TopicPartition(*changelog): _Behind(tables[tp], self.by_source[tp], end, left)
            for tp, changelog in changelogs.items()
            if (left := (end := ends[changelog]) - starts[tp]) > 0
        }
        loaded = {each.store for each in behind.values() if each.left >= LOADED_OFFSETS}
        for tp in tables:
            store = self.by_source[tp]
            await self._set_loading(store, loading=store in loaded)  # a restore that was cut off may have left it so
        if behind:
            await self._catch_up(consumer, behind)

    async def _catch_up(self, consumer: AIOKafkaConsumer, behind: Mapping[TopicPartition, _Behind]) -> None:
        """Read the changelogs from where their stores end to where they ended when it began."""
        total = left = sum(each.left for each in behind.values())
        logger.info("restoring %d changelog offsets of %d partitions", total, len(behind))
        self._hooks.remaining(total)
        consumer.assign(list(behind))
        for changelog, each in behind.items():
            consumer.seek(changelog, each.end - each.left)
        told = time.monotonic()
        while left:
            fetched = await consumer.getmany(timeout_ms=200, max_records=ROWS_AT_ONCE)
            for changelog, records in fetched.items():
                each = behind[changelog]
                self._apply(each.table, each.store, records)
                self._hooks.restored(len(records))
                await asyncio.sleep(0)
            for changelog, each in behind.items():
                if not each.left:
                    continue
                # the position, not the last record: the log may end with commit markers
                reached = await consumer.position(changelog)
                each.left = max(each.end - reached, 0)
                if not each.left:
                    await self._set_loading(each.store, loading=False)
                    each.store.write(Changes(changelog_offset=reached))
                    await asyncio.sleep(0)  # many may end at the same time
                    consumer.pause(changelog)
            left_before, left = left, sum(each.left for each in behind.values())
            self.steps += left != left_before
            self._hooks.remaining(left)
            if time.monotonic() - told > PROGRESS_EVERY_S:
                told = time.monotonic()
                logger.info("restored %d %%, %d offsets left", 100 - 100 * left // total, left)

    async def _set_loading(self, store: Store, *, loading: bool) -> None:
        """Open a store anew, in a thread. A restore that is cut off waits for it: the next one uses the store."""
        if store.is_loading == loading:
            return
        opening = asyncio.create_task(asyncio.to_thread(store.set_loading, loading=loading))
        try:
            await asyncio.shield(opening)
        finally:
            while not opening.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({opening})
            opening.exception()  # whoever is cut off does not raise it
        self.steps += 1

    async def _open(self, tables: Mapping[TP, Table]) -> None:
        """Open all stores; if one of this worker's was found corrupt, read the others through before they are used."""
        self._budget.shared_by(len(tables))
        _warn_of_few_files(len(tables))
        for store in self.by_source.values():
            store.resize()
        for tp, table in tables.items():
            if tp not in self.by_source:
                self.by_source[tp] = self._open_one(table, tp)
        for tp, table in tables.items():
            if self.by_source[tp].suspect:
                await self._check(table, tp)

    def _open_one(self, table: Table, tp: TP) -> Store:
        path = self._datadir / f"{table.name}-{tp.partition}"

        def rebuilt(reason: str) -> None:
            self._hooks.rebuilt(path.name, reason)

        store = open_store(path, self._budget, on_rebuild=rebuilt)
        changelog = table.changelog_topic.encode()
        if store.changelog not in {changelog, None}:  # an older version noted none
            logger.warning("store %s is a copy of another worker.app_id's changelog, and is rebuilt", path.name)
            return _emptied(store, partial(self._open_one, table, tp))
        if store.changelog is None:
            store.write(Changes(changelog=changelog))
        return store

    async def _check(self, table: Table, tp: TP) -> None:
        """Read a store through; if it is corrupt, replace it by an empty one."""
        store = self.by_source[tp]
        began = time.monotonic()
        try:
            with contextlib.closing(store.check()) as pieces:
                for _ in pieces:
                    self.steps += 1
                    await asyncio.sleep(0)
        except StoreCorruptError:
            if not store.condemned:
                raise
            store.close()
            self.by_source[tp] = self._open_one(table, tp)
        else:
            logger.info("store %s is sound, checked in %.1f s", store.path.name, time.monotonic() - began)

    async def _empty_stale(
        self,
        consumer: AIOKafkaConsumer,
        tables: Mapping[TP, Table],
        changelogs: Mapping[TP, TP],
        ends: Mapping[TP, int],
    ) -> None:
        """Empty the stores that were not kept up to date for days: other workers had their partitions meanwhile.

        What they lack may have been compacted and lost its tombstones: rows deleted long ago would come back, and
        deferrals resolved long ago would raise alerts. Rows after one that is not yet stale are not stale either. A
        partition where nothing happened for days is not stale: its store lacks only the last transaction's marker.
        """
        behind = {
            tp: reached
            for tp, changelog in changelogs.items()
            if (reached := self.by_source[tp].changelog_offset) is not None and reached + MARKER < ends[changelog]
        }
        if not behind:
            return
        stale_ms = int((time.time() - STALE_AFTER_S) * 1000)
        fresh = await consumer.offsets_for_times({TopicPartition(*changelogs[tp]): stale_ms for tp in behind})
        for tp, reached in behind.items():
            first = fresh[TopicPartition(*changelogs[tp])]
            # If it lacks one offset more, that is a marker or a position: behind a row of a delivery come both.
            if first is None or reached + MARKER < first.offset:
                store = self.by_source.pop(tp)
                logger.warning(
                    "store %s is older than %.1f days and is rebuilt", store.path.name, STALE_AFTER_S / 86_400
                )
                self.by_source[tp] = _emptied(store, partial(self._open_one, tables[tp], tp))

    @staticmethod
    def _apply(table: Table, store: Store, records: Sequence[Record]) -> None:
        """Write a piece of the changelog to the store."""
        rows: dict[bytes, bytes | None] = {}
        position = None
        for record in records:
            if record.key == POSITION_KEY:
                position = record.value
            elif record.key is not None:  # a compacted topic has none without
                rows[record.key] = record.value
        due = [(at, key) for key, row in rows.items() if row is not None and (at := table.due_of(row)) is not None]
        watch = [(at, key) for key, row in rows.items() if row is not None and (at := table.watch_of(row)) is not None]
        store.write(
            Changes(
                rows=rows,
                due_added=due,
                watch_added=watch,
                position=position,
                changelog_offset=records[-1].offset + 1,
                policy=_policy_after(table, store),
            )
        )


def _emptied(store: Store, opened: Callable[[], Store]) -> Store:
    store.close()
    shutil.rmtree(store.path)
    return opened()


def _start_of(store: Store, changelog: TP, *, begin: int, end: int, committed: OffsetAndMetadata | None) -> int:
    """Return the changelog offset to restore a store from.

    Raises:
        RestoreError: the changelog lacks something that it once held. (A compacted topic never loses its beginning.)
    """
    reached = store.changelog_offset
    worked = committed is not None and committed.offset > 0
    lost = None
    if begin == end == 0 and worked:
        lost = "is empty, although its source was worked on: it was deleted"
    elif begin > (reached or 0):
        lost = f"begins at offset {begin}, but is needed from {reached or 0} on: it was truncated"
    elif reached is not None and reached > end:
        lost = f"ends at {end}, but the store {store.path.name} is at {reached}: it was deleted and created again, or truncated"
    if lost is not None:
        message = (
            f"{changelog.topic}/{changelog.partition} {lost}. Restore it from a backup, or give the workers a new "
            "worker.app_id, which reads everything again and publishes every status again."
        )
        raise RestoreError(message)
    return begin if reached is None else reached


def _warn_of_few_files(stores: int) -> None:
    """Warn while there are few rows: with many, a store that cannot open a file ends the worker again and again."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_needed(stores)
    if limit != resource.RLIM_INFINITY and limit < needed:
        logger.warning(
            "%d stores may need %d open files, but the process may open only %d: raise its limit (ulimit -Hn, LimitNOFILE=)",
            stores,
            needed,
            limit,
        )


def _policy_after(table: Table, store: Store) -> bytes | None:
    """Return the policy to note when entries by the table's policy join the index; None: the noted one stays."""
    if table.policy is None or store.policy == table.policy:
        return None
    return table.policy if store.changelog_offset is None else UNKNOWN_POLICY
