"""From a new assignment to running lanes, in the one order that is safe.

For each partition of a stateful stage:

1. **fence**: start the lane's transactional producer. That ends what the
   previous owner left open, and fails whatever it still sends;
2. **restore**: read the changelog from where the store ends to where it ends now;
3. take the **source position** from the changelog's reserved row, not from the
   group's committed offset: that is behind after a kill, and is then set right;
4. **seek** to it, drop whatever was fetched before, and only then deliver.

Faust's own recovery reads changelogs through its consumer and waits for the last
offset, which in a transactional log is a commit marker and never arrives. So its
TableManager is replaced by this one; its tables stay, for their names, their
changelog topics and the assignor that keeps source and changelog together.

No heartbeat runs while ``on_partitions_assigned`` does, so all of this happens in
a task of its own, bound to the generation: a later rebalance cancels it.
"""

import asyncio
import contextlib
import logging
import resource
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.tables.manager import TableManager
from faust.types import TP

from streams.kafka.application import BatchedApp
from streams.kafka.closing import stop_consumer, was_cancelled
from streams.kafka.lanes import (
    POSITION_KEY,
    Lane,
    LaneContext,
    StatefulFold,
    StatefulLane,
    StatelessFold,
    StatelessLane,
)
from streams.kafka.offsets import committed_offsets
from streams.kafka.poison import Position
from streams.kafka.positions import Positions
from streams.kafka.publishing import Publisher
from streams.kafka.store import UNKNOWN_POLICY, Budget, Changes, Store, StoreCorruptError, files_needed, open_store
from streams.kafka.transactions import TransactionalWriter

logger = logging.getLogger(__name__)

FENCE_TIMEOUT_S = 60.0
FENCES_AT_ONCE = 16
COMMITTED_TIMEOUT_S = 30.0
COMMITTED_RETRY_S = 0.2
CANCEL_AGAIN_S = 5.0  # longer than the clients take to close
PROGRESS_EVERY_S = 5.0
ROWS_AT_ONCE = 2_000
"""Unpacked and then written, of all changelogs. A fetch may hold 20,000, which leave the processor's cache before they are written."""
UNLOGGED_OFFSETS = 10_000
"""A store that lacks so much of its changelog is written without its log."""
MARKER = 1  # offset, of a transaction; a row has another beside it, so a store that lacks one lacks no row
STALE_AFTER_S = 3.5 * 86_400
"""A store that lacks rows older than this is read anew: the broker keeps a tombstone for 7 days (``delete.retention.ms``)."""


class RestoreError(Exception):
    """The state and the logs do not fit together. Going on would be wrong or silent; a person has to decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatefulStage:
    """What is needed to open a lane of a stateful stage."""

    name: str
    source_topic: str
    changelog_topic: str
    table: str
    fold: StatefulFold
    due_of: Callable[[bytes], int | None]
    """The time (µs) under which a row stands in the due index; None: it does not."""
    watch_of: Callable[[bytes], int | None]
    """The same for the watch index."""
    policy: bytes | None = None
    """What ``due_of`` computes by, if that can change: the store notes it, and forgets it where two are mixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatelessStage:
    """What is needed to open a lane of a stateless stage."""

    name: str
    source_topic: str
    fold: StatelessFold


class RestoreHooks(Protocol):
    """What the restore tells the rest of the process."""

    @property
    def reached(self) -> Callable[[str, TP], Awaitable[None] | None]:
        """Called when a named point of the order is reached."""

    def rebuilt(self, store: str, reason: str) -> None:
        """A store was moved aside."""

    def restored(self, rows: int) -> None:
        """So many changelog rows were read."""

    def remaining(self, offsets: int) -> None:
        """So many changelog offsets are still to be read; 0 when a restore is done."""

    def skipped(self, tp: TP, offsets: int) -> None:
        """Source records were deleted by retention before they were read."""

    def assigned(self, tps: int) -> None:
        """A new assignment of so many source partitions is being restored."""

    def revoked(self) -> None:
        """All partitions were given back, and their lanes are closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoring:
    """Everything that ``LaneTableManager`` needs; ``App.restoring`` carries it."""

    stateful: tuple[StatefulStage, ...]
    stateless: tuple[StatelessStage, ...]
    client_options: Mapping[str, Any]
    group_id: str
    datadir: Path
    budget: Budget
    new_writer: Callable[[str, int], TransactionalWriter]
    """(stage, partition) -> the writer of its lane."""
    publisher: Publisher
    lane_context: LaneContext
    on_crash: Callable[[BaseException], None]
    hooks: RestoreHooks


class LaneTableManager(TableManager):
    """Faust's table manager, with our restore in place of its recovery."""

    app: BatchedApp

    def __init__(self, app: BatchedApp, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._task: asyncio.Task[None] | None = None
        self._first_ready = asyncio.Event()
        self._closed = False
        self._skipped_from: dict[TP, int] = {}
        """Of partitions whose committed position retention has overtaken: what is committed."""
        self.stores: dict[TP, Store] = {}
        """Open stores by source partition."""
        self.restoring = False
        """A restore is under way: no partition is worked on."""
        self.steps = 0
        """Grows with all that a restore gets done; one whose steps do not grow stands still."""

    async def on_start(self) -> None:
        """Register the tables' changelog topics, so that the assignor knows them; recovery is ours."""
        await self._update_channels()

    async def on_stop(self) -> None:
        """Stop fetching, finish what is in work, close the stores."""
        await self.app.fetcher.stop()
        await self.close()
        for table in self.values():
            await table.stop()

    async def close(self) -> None:
        """Give up a restore that is under way, finish the batches in work, close the stores, and begin nothing more."""
        self._closed = True
        await self._cancel()
        self.app.batch_consumer.stop_partitions()
        await self.app.lanes.close()
        self._close_stores_but(set())

    def on_partitions_revoked(self, revoked: set[TP]) -> None:  # noqa: ARG002 - Faust's signature
        """Give up a restore that is under way: the assignment it works for is gone."""
        self.actives_ready = False
        if self._task is not None:
            self._task.cancel()

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],
        newly_assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Begin to restore what was assigned, in the background."""
        if self._closed:
            return  # the worker is about to leave the group
        self._recovery_started.set()
        for table in self.values():
            await table.on_rebalance(assigned, revoked, newly_assigned, generation_id)
        await self._update_channels()
        await self._cancel()
        await self.app.batch_consumer.pause_all()
        self._task = asyncio.create_task(self._restore(frozenset(assigned), generation_id), name="restore")

    async def wait_until_recovery_completed(self) -> bool:
        """Wait until the first restore is done; return True when the app was stopped before."""
        return bool(await self.wait_for_stopped(self._first_ready.wait()))

    async def _cancel(self) -> None:
        """Give up the restore that is under way, and wait for its end.

        One that was told to end already closes its clients: told once more it would leave them open. Where a library
        took the first word for its own, it hears a second.
        """
        task, self._task = self._task, None
        if task is None:
            return
        if not task.cancelling():
            task.cancel()
        while not (await asyncio.wait([task], timeout=CANCEL_AGAIN_S))[0]:
            task.cancel()

    # -- one assignment ---------------------------------------------------------------------------------

    async def _restore(self, assigned: frozenset[TP], generation_id: int) -> None:
        self.restoring = True
        began = time.monotonic()
        lanes: list[Lane] = []
        self._skipped_from = {}
        try:
            lanes = await self._open_lanes(assigned)
            if self.app.consumer_generation_id != generation_id:
                return
            offsets = {lane.tp: lane.position.offset for lane in lanes}
            await self.app.batch_consumer.start_partitions(offsets, committed=self._skipped_from)
            count = len(lanes)
            while lanes:
                self.app.lanes.open(lanes.pop())
            await self._go()
            logger.info("%d partitions ready after %.1f s", count, time.monotonic() - began)
        except BaseException as error:
            if was_cancelled(error):
                raise  # the assignment is gone; any other cancellation is some library's, and must not end in silence
            self.app.restoring.on_crash(error)
        finally:
            self.restoring = False
            for lane in lanes:  # those that were never opened
                await lane.release()

    async def _go(self) -> None:
        """Let Faust deliver: what its own recovery does at its end."""
        consumer = self.app.consumer
        consumer.resume_partitions(consumer.assignment())
        self.app.flow_control.resume()
        consumer.resume_flow()
        await self.app.fetcher.maybe_start()
        self.on_actives_ready()
        self.on_standbys_ready()
        self.app.on_rebalance_end()
        self._first_ready.set()

    async def _open_lanes(self, assigned: frozenset[TP]) -> list[Lane]:
        wanted: Restoring = self.app.restoring
        stateful = [(stage, tp) for stage in wanted.stateful for tp in assigned if tp.topic == stage.source_topic]
        stateless = [(stage, tp) for stage in wanted.stateless for tp in assigned if tp.topic == stage.source_topic]
        sources = [tp for _, tp in stateful] + [tp for _, tp in stateless]
        wanted.hooks.assigned(len(sources))
        if not sources:  # more workers than partitions; and aiokafka cannot stop a consumer that never had any
            self._close_stores_but(set())
            return []
        self._close_stores_but({tp for _, tp in stateful})
        writers = await self._fence(stateful)
        try:
            consumer = AIOKafkaConsumer(
                **wanted.client_options,
                client_id=f"{wanted.group_id}-restore",
                isolation_level="read_committed",
                auto_offset_reset="none",
                max_partition_fetch_bytes=4 << 20,
            )
            await consumer.start()
            self.steps += 1
            try:
                committed = await self._committed(sources)
                await self._restore_stores(consumer, stateful, committed)
                begins, ends = await bounds(consumer, sources)
            finally:
                await stop_consumer(consumer)
        except BaseException:
            await asyncio.gather(*(writer.close() for writer in writers.values()))
            raise
        lanes: list[Lane] = []
        positions = Positions(self.app.batch_consumer.commit_positions, on_crash=wanted.on_crash)
        for stage, tp in stateful:
            store = self.stores[tp]
            position = Position.decode(store.position) if store.position else None
            lanes.append(
                StatefulLane(
                    tp,
                    stage=stage.name,
                    position=self._checked(tp, position, begins[tp], ends[tp]),
                    positions=positions,
                    context=wanted.lane_context,
                    fold=stage.fold,
                    store=store,
                    writer=writers[tp],
                    changelog_topic=stage.changelog_topic,
                )
            )
        for plain, tp in stateless:
            at = committed.get(TopicPartition(tp.topic, tp.partition))
            position = None if at is None else Position.of_committed(at.offset, at.metadata)
            lanes.append(
                StatelessLane(
                    tp,
                    stage=plain.name,
                    position=self._checked(tp, position, begins[tp], ends[tp]),
                    positions=positions,
                    context=wanted.lane_context,
                    fold=plain.fold,
                    publisher=wanted.publisher,
                )
            )
        return lanes

    def _close_stores_but(self, kept: set[TP]) -> None:
        for tp in self.stores.keys() - kept:
            self.stores.pop(tp).close()

    async def _fence(self, stateful: list[tuple[StatefulStage, TP]]) -> dict[TP, TransactionalWriter]:
        writers = {tp: self.app.restoring.new_writer(stage.name, tp.partition) for stage, tp in stateful}
        gate = asyncio.Semaphore(FENCES_AT_ONCE)

        async def fence(tp: TP, writer: TransactionalWriter) -> None:
            async with gate, asyncio.timeout(FENCE_TIMEOUT_S):
                await writer.fence()
            self.steps += 1
            waited = self.app.restoring.hooks.reached("fenced", tp)
            if waited is not None:
                await waited

        try:
            await asyncio.gather(*(fence(tp, writer) for tp, writer in writers.items()))
        except BaseException:
            await asyncio.gather(*(writer.close() for writer in writers.values()))
            raise
        return writers

    async def _committed(self, sources: list[TP]) -> dict[TopicPartition, OffsetAndMetadata]:
        if not sources:
            return {}
        admin = AIOKafkaAdminClient(**self.app.restoring.client_options)
        await admin.start()
        try:
            found = await self._asked(admin, [TopicPartition(*tp) for tp in sources])
        finally:
            await admin.close()
        return {tp: at for tp, at in found.items() if at.offset >= 0}

    async def _asked(
        self, admin: AIOKafkaAdminClient, sources: list[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Ask until a coordinator knows: one that has just taken over reads its log first.

        Raises:
            KafkaError: it takes too long, or will never be answered.
        """
        deadline = time.monotonic() + COMMITTED_TIMEOUT_S
        while True:
            try:
                return await committed_offsets(admin, self.app.restoring.group_id, sources)
            except KafkaError as error:
                if not error.retriable or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(COMMITTED_RETRY_S)

    def _checked(self, tp: TP, position: Position | None, begin: int, end: int) -> Position:
        """Return a position that can be read from.

        Raises:
            RestoreError: the topic ends before the position: it was deleted and made anew, or truncated.
        """
        if position is None:
            return Position(begin)
        if position.offset > end:
            message = (
                f"{tp.topic}/{tp.partition} ends at {end}, but was processed up to {position.offset}: the topic was "
                "deleted and made anew, or truncated. Restore it, or give the workers a new worker.app_id to start over."
            )
            raise RestoreError(message)
        if position.offset < begin:
            logger.error(
                "%s/%s: offsets %d to %d were deleted by retention before they were read",
                tp.topic,
                tp.partition,
                position.offset,
                begin - 1,
            )
            self.app.restoring.hooks.skipped(tp, begin - position.offset)
            self._skipped_from[tp] = position.offset
            position.offset = begin
        return position

    # -- the stores ---------------------------------------------------------------------------------------

    async def _restore_stores(
        self,
        consumer: AIOKafkaConsumer,
        stateful: list[tuple[StatefulStage, TP]],
        committed: Mapping[TopicPartition, OffsetAndMetadata],
    ) -> None:
        """Bring every store up to the end of its changelog."""
        by_changelog = {TP(stage.changelog_topic, tp.partition): (stage, tp) for stage, tp in stateful}
        if not by_changelog:
            return
        begins, ends = await bounds(consumer, by_changelog)
        await self._open_stores(stateful)
        await self._empty_stale_stores(consumer, by_changelog, ends)
        starts = {
            changelog: self._start_of(
                self.stores[tp],
                changelog,
                begin=begins[changelog],
                end=ends[changelog],
                committed=committed.get(TopicPartition(*tp)),
            )
            for changelog, (_, tp) in by_changelog.items()
        }
        behind = {changelog for changelog, start in starts.items() if start < ends[changelog]}
        if not behind:
            return
        total = left = sum(ends[changelog] - starts[changelog] for changelog in behind)
        logger.info("restoring %d changelog offsets of %d partitions", total, len(behind))
        self.app.restoring.hooks.remaining(total)
        consumer.assign([TopicPartition(*changelog) for changelog in behind])
        for changelog in behind:
            consumer.seek(TopicPartition(*changelog), starts[changelog])
        # What a kill takes back of it is restored again. The first write after it, which is logged, costs a file.
        logged = {changelog: ends[changelog] - starts[changelog] < UNLOGGED_OFFSETS for changelog in behind}
        told = time.monotonic()
        while behind:
            fetched = await consumer.getmany(timeout_ms=200, max_records=ROWS_AT_ONCE)
            for topic_partition, records in fetched.items():
                changelog = TP(topic_partition.topic, topic_partition.partition)
                stage, tp = by_changelog[changelog]
                self._apply(stage, self.stores[tp], records, logged=logged[changelog])
                self.app.restoring.hooks.restored(len(records))
                await asyncio.sleep(0)
            left, left_before = 0, left
            for changelog in list(behind):
                # the position, not the last record: the log may end with commit markers
                reached = await consumer.position(TopicPartition(*changelog))
                left += max(ends[changelog] - reached, 0)
                if reached >= ends[changelog]:
                    self.stores[by_changelog[changelog][1]].write(Changes(changelog_offset=reached))
                    await asyncio.sleep(0)  # many may end at the same time
                    behind.discard(changelog)
                    consumer.pause(TopicPartition(*changelog))
            self.steps += left != left_before
            self.app.restoring.hooks.remaining(left)
            if time.monotonic() - told > PROGRESS_EVERY_S:
                told = time.monotonic()
                logger.info("restored %d %%, %d offsets left", 100 - 100 * left // total, left)

    async def _open_stores(self, stateful: list[tuple[StatefulStage, TP]]) -> None:
        """Open all stores; if one of this worker's was found corrupt, read the others through before they are used."""
        budget = self.app.restoring.budget
        budget.shared_by(len(stateful))
        _warn_of_few_files(len(stateful))
        for store in self.stores.values():
            store.resize(budget)
        for stage, tp in stateful:
            if tp not in self.stores:
                self.stores[tp] = self._open_store(stage, tp)
        for stage, tp in stateful:
            if self.stores[tp].suspect:
                await self._check(stage, tp)

    async def _empty_stale_stores(
        self, consumer: AIOKafkaConsumer, by_changelog: Mapping[TP, tuple[StatefulStage, TP]], ends: Mapping[TP, int]
    ) -> None:
        """Empty the stores that have been elsewhere, or nowhere, for days: others had their partitions meanwhile.

        What they lack may have been compacted, and then lacks the tombstones: rows deleted long ago would live again, and
        deferrals resolved long ago be told. What is written after a row not yet stale is not stale itself. A partition
        where nothing happened for days is not stale: its store lacks the last transaction's marker and nothing else.
        """
        behind = {
            changelog: reached
            for changelog, (_, tp) in by_changelog.items()
            if (reached := self.stores[tp].changelog_offset) is not None and reached + MARKER < ends[changelog]
        }
        if not behind:
            return
        stale_ms = int((time.time() - STALE_AFTER_S) * 1000)
        fresh = await consumer.offsets_for_times({TopicPartition(*changelog): stale_ms for changelog in behind})
        for changelog, reached in behind.items():
            first = fresh[TopicPartition(*changelog)]
            if first is None or reached < first.offset:
                stage, tp = by_changelog[changelog]
                store = self.stores.pop(tp)
                logger.warning(
                    "store %s is older than %.1f days and read anew", store.path.name, STALE_AFTER_S / 86_400
                )
                store.close()
                shutil.rmtree(store.path)
                self.stores[tp] = self._open_store(stage, tp)

    def _open_store(self, stage: StatefulStage, tp: TP) -> Store:
        wanted: Restoring = self.app.restoring
        path = wanted.datadir / f"{stage.table}-{tp.partition}"

        def rebuilt(reason: str) -> None:
            wanted.hooks.rebuilt(path.name, reason)

        return open_store(path, wanted.budget, on_rebuild=rebuilt)

    async def _check(self, stage: StatefulStage, tp: TP) -> None:
        """Read a store through, and open it anew, empty, if it is corrupt."""
        store = self.stores[tp]
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
            self.stores[tp] = self._open_store(stage, tp)
        else:
            logger.info("store %s is sound, checked in %.1f s", store.path.name, time.monotonic() - began)

    @staticmethod
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
            lost = f"ends at {end}, but the store {store.path.name} is at {reached}: it was deleted and made anew, or truncated"
        if lost is not None:
            message = (
                f"{changelog.topic}/{changelog.partition} {lost}. Restore it from a backup, or give the workers a new "
                "worker.app_id, which reads everything again and publishes every status anew."
            )
            raise RestoreError(message)
        return begin if reached is None else reached

    @staticmethod
    def _apply(stage: StatefulStage, store: Store, records: list[Any], *, logged: bool) -> None:
        """Write a piece of the changelog to the store."""
        rows: dict[bytes, bytes | None] = {}
        position = None
        for record in records:
            if record.key == POSITION_KEY:
                position = record.value
            else:
                rows[record.key] = record.value
        due = [(at, key) for key, row in rows.items() if row is not None and (at := stage.due_of(row)) is not None]
        watch = [(at, key) for key, row in rows.items() if row is not None and (at := stage.watch_of(row)) is not None]
        store.write(
            Changes(
                rows=rows,
                due_added=due,
                watch_added=watch,
                position=position,
                changelog_offset=records[-1].offset + 1,
                policy=_policy_after(stage, store),
            ),
            logged=logged,
        )


def _warn_of_few_files(stores: int) -> None:
    """Say it while there are few rows: with many, a store that finds no file left ends the worker again and again."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_needed(stores)
    if limit != resource.RLIM_INFINITY and limit < needed:
        logger.warning(
            "%d stores may need %d open files, and the process may open %d only: raise its limit (ulimit -Hn, LimitNOFILE=)",
            stores,
            needed,
            limit,
        )


def _policy_after(stage: StatefulStage, store: Store) -> bytes | None:
    """Return what to note of an index that gets entries computed by the stage's policy; None: what is noted stays true."""
    if stage.policy is None or store.policy == stage.policy:
        return None
    return stage.policy if store.changelog_offset is None else UNKNOWN_POLICY


async def bounds(consumer: AIOKafkaConsumer, tps: Any) -> tuple[dict[TP, int], dict[TP, int]]:
    """Return the first and the end offset of each partition."""
    asked = [TopicPartition(*tp) for tp in tps]
    if not asked:
        return {}, {}
    # All at once: of a topic that it does not know aiokafka waits a tenth of a second, of one after the other.
    await asyncio.gather(*(consumer._client.add_topic(topic) for topic in {tp.topic for tp in asked}))  # noqa: SLF001
    begins = await consumer.beginning_offsets(asked)
    ends = await consumer.end_offsets(asked)
    return {TP(*tp): at for tp, at in begins.items()}, {TP(*tp): at for tp, at in ends.items()}
