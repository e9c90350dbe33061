"""From a new assignment to running lanes, in the one order that is safe.

For each partition of a stateful stage:

1. **fence**: start the lane's transactional producer. That ends the transaction
   that the previous owner left open, and makes anything it still sends fail;
2. **restore**: read the changelog from where the store ends to where it ends now;
3. take the **source position** from the changelog's reserved row, not from the
   group's committed offset: that is behind after a kill, and the lane corrects it;
4. **seek** to it, drop everything fetched before, and only then deliver.

Faust's own recovery reads changelogs through its consumer and waits for the last
offset, which in a transactional log is a commit marker and never arrives. So its
TableManager is replaced by this one; its tables stay, for their names, their
changelog topics and the assignor that keeps source and changelog together.

No heartbeat runs during ``on_partitions_assigned``, so all of this happens in
a task of its own, bound to the generation: a later rebalance cancels it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
    Lane,
    LaneContext,
    StatefulFold,
    StatefulLane,
    StatelessFold,
    StatelessLane,
)
from streams.kafka.offsets import bounds, committed_offsets
from streams.kafka.positions import Position, Positions
from streams.kafka.publishing import Publisher
from streams.kafka.store import Budget
from streams.kafka.stores import RestoreError, StoreHooks, Stores, Table
from streams.kafka.transactions import TransactionalWriter

logger = logging.getLogger(__name__)

FENCE_TIMEOUT_S = 60.0
FENCES_AT_ONCE = 16
COMMITTED_TIMEOUT_S = 30.0
COMMITTED_RETRY_S = 0.2
CANCEL_AGAIN_S = 5.0  # longer than the clients take to close
_ALL_ANEW = "give the workers a new worker.app_id to start over"
_ANEW = (
    "stop all workers and let it be read from its beginning, where events that are known change nothing: "
    "kafka-consumer-groups.sh --bootstrap-server HOST:PORT --group {0} --topic {1.topic}:{1.partition} --reset-offsets "
    "--to-earliest --execute"
)
"""For a stage without state: nothing but the group knows its position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatefulStage:
    """What is needed to open a lane of a stateful stage."""

    name: str
    source_topic: str
    fold: StatefulFold
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class StatelessStage:
    """What is needed to open a lane of a stateless stage."""

    name: str
    source_topic: str
    fold: StatelessFold


class RestoreHooks(StoreHooks, Protocol):
    """What the restore reports to the rest of the process."""

    @property
    def reached(self) -> Callable[[str, TP], Awaitable[None] | None]:
        """Called when a named point of the order is reached."""

    def skipped(self, tp: TP, offsets: int) -> None:
        """Source records were deleted by retention before they were read."""

    def assigned(self, tps: int) -> None:
        """A new assignment of this many source partitions is being restored."""

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
        """The position as committed, for each partition where retention has overtaken it."""
        self.restoring = False
        """A restore is under way: no partition is worked on."""
        self._steps = 0

    @cached_property
    def stores(self) -> Stores:
        """The stores of the owned partitions."""
        wanted: Restoring = self.app.restoring  # set after this object is made
        return Stores(datadir=wanted.datadir, budget=wanted.budget, hooks=wanted.hooks)

    @property
    def steps(self) -> int:
        """Grows with everything a restore gets done; a restore whose steps do not grow has stalled."""
        return self._steps + self.stores.steps

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
        self.stores.close_but(set())

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

        A restore that was cancelled before is closing its clients; another cancel would leave them open. But a library
        may swallow a cancel, so it is repeated after ``CANCEL_AGAIN_S``.
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
                raise  # the assignment is gone; any other cancellation comes from a library, and must not end silently
            self.app.restoring.on_crash(error)
        finally:
            self.restoring = False
            for lane in lanes:  # those that were never opened
                await lane.release()

    async def _go(self) -> None:
        """Let Faust deliver, with the steps that end its own recovery."""
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
            self.stores.close_but(set())
            return []
        self.stores.close_but({tp for _, tp in stateful})
        writers = await self._fence(stateful)
        try:
            consumer = AIOKafkaConsumer(
                **wanted.client_options,
                client_id=f"{wanted.group_id}-restore",
                isolation_level="read_committed",
                auto_offset_reset="none",
                max_partition_fetch_bytes=4 << 20,
            )
            try:
                await consumer.start()
                self._steps += 1
                committed = await self._committed(sources)
                await self.stores.restore(consumer, {tp: stage.table for stage, tp in stateful}, committed)
                begins, ends = await bounds(consumer, sources)
            finally:
                await stop_consumer(consumer)
        except BaseException:
            await asyncio.gather(*(writer.close() for writer in writers.values()))
            raise
        lanes: list[Lane] = []
        positions = Positions(self.app.batch_consumer.commit_positions, on_crash=wanted.on_crash)
        for stage, tp in stateful:
            store = self.stores.by_source[tp]
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
                    changelog_topic=stage.table.changelog_topic,
                )
            )
        for plain, tp in stateless:
            at = committed.get(TopicPartition(tp.topic, tp.partition))
            position = None if at is None else Position.of_committed(at.offset, at.metadata)
            lanes.append(
                StatelessLane(
                    tp,
                    stage=plain.name,
                    position=self._checked(tp, position, begins[tp], ends[tp], anew=_ANEW.format(wanted.group_id, tp)),
                    positions=positions,
                    context=wanted.lane_context,
                    fold=plain.fold,
                    publisher=wanted.publisher,
                )
            )
        return lanes

    async def _fence(self, stateful: list[tuple[StatefulStage, TP]]) -> dict[TP, TransactionalWriter]:
        writers = {tp: self.app.restoring.new_writer(stage.name, tp.partition) for stage, tp in stateful}
        gate = asyncio.Semaphore(FENCES_AT_ONCE)

        async def fence(tp: TP, writer: TransactionalWriter) -> None:
            try:
                async with gate, asyncio.timeout(FENCE_TIMEOUT_S):
                    await writer.fence()
            except Exception as error:
                error.add_note(f"while {writer.transactional_id} was fenced")
                raise
            self._steps += 1
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
        try:
            await admin.start()
            found = await self._asked(admin, [TopicPartition(*tp) for tp in sources])
        finally:
            await admin.close()
        return {tp: at for tp, at in found.items() if at.offset >= 0}

    async def _asked(
        self, admin: AIOKafkaAdminClient, sources: list[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Ask until the coordinator answers: one that has just taken over loads its log first.

        Raises:
            KafkaError: no answer in time, or an error that is not retriable.
        """
        deadline = time.monotonic() + COMMITTED_TIMEOUT_S
        while True:
            try:
                return await committed_offsets(admin, self.app.restoring.group_id, sources)
            except KafkaError as error:
                if not error.retriable or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(COMMITTED_RETRY_S)

    def _checked(self, tp: TP, position: Position | None, begin: int, end: int, *, anew: str = _ALL_ANEW) -> Position:
        """Return a position that can be read from.

        Raises:
            RestoreError: the topic ends before the position: it was deleted and created again, or truncated.
        """
        if position is None:
            return Position(begin)
        if position.offset > end:
            message = (
                f"{tp.topic}/{tp.partition} ends at {end}, but was processed up to {position.offset}: the topic was "
                f"deleted and created again, or truncated. Restore it, or {anew}."
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
