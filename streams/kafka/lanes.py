"""One lane per owned partition: a task that takes the partition's batches in order and puts each into effect.

The order of one batch in a ``StatefulLane``, the heart of the system:

1. fold all records, purely, over an overlay of the table;
2. produce every output, every changelog row and the source position, in one
   transaction, and wait for every acknowledgement;
3. commit, all under one deadline;
4. write the same rows to the store, with the changelog offset they reach;
5. acknowledge to Faust, which then delivers the next batch.

The source position is a row of the changelog, and a start reads it only there. The
group's offset shows others how far the lane is: for lag, and for the clock of later
stages. It is committed a moment later (``positions``), with those of all lanes.

A process killed at any step loses nothing and repeats nothing that a
``read_committed`` reader has seen: before 3 is done, the batch has no effect; after
it, the changelog holds what the store lacks.

An error with ONE record in 1 is poison: the record goes to the dead letters, in the
same transaction. Everything else is a crash: the lane ends, the process ends, and
the next process starts from what was committed.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, cast

from aiokafka.errors import CommitFailedError, KafkaError
from faust.types import TP, EventT

from streams.kafka.batches import Batch, Record, Row, Rows
from streams.kafka.closing import was_cancelled
from streams.kafka.dead_letters import DeadLetters, reason_of
from streams.kafka.poison import Poison, PoisonLimit
from streams.kafka.positions import Position, Positions
from streams.kafka.publishing import Publisher
from streams.kafka.store import Changes, Store, StoreCorruptError
from streams.kafka.transactions import TransactionalWriter, TransactionInDoubtError
from streams.records import RowError

logger = logging.getLogger(__name__)

SLICE_S = 0.005
"""How long a lane folds before other tasks of the loop run: other partitions' acknowledgements, health checks."""
RECORDS_PER_LOOK = 25
"""Records folded between two looks at the clock."""
SHORT_BATCH = 250
"""A batch of up to this many records is folded at once. A longer one waits for its turn (``FoldTurn``)."""
FEW_KEYS = 100
"""Up to this many keys are looked up in the event loop, more of them in a thread."""
KEYS_AT_ONCE = 500
"""Keys per look-up in a thread: RocksDB holds the blocks of all of them until it has read the last."""
POSITION_KEY = b"\x00position"
"""The reserved changelog row that holds the source position. No delivery id begins with a zero byte."""
RESUME_POLL_S = 2.0
RESUME_TIMEOUT_S = 10.0
"""A look-up of commands that takes longer is given up, and repeated."""
NOT_POISON = (MemoryError, RowError, StoreCorruptError)
"""Raised while one record is folded, but caused by the process, the release or the disk: a crash, not poison."""


Count = (
    tuple[Literal["expired"]]
    | tuple[Literal["requests", "clock_skew", "without_word", "dead_letters"], str]
    | tuple[Literal["arrivals", "objective"], str, str]
    | tuple[Literal["events", "changes", "deferrals", "alerts"], str, str, str]
    | tuple[Literal["open_deferrals"], str, str, str, int]
)
"""A metric and its labels: all that a stage may count. Not an enum: hashing one runs Python code, for each event."""
Observation = tuple[Literal["time_to_deliver"], str, str]
"""A histogram and its labels."""


@dataclass(slots=True)
class Effects:
    """What a folded batch changes, once it is committed."""

    outputs: Rows = field(default_factory=lambda: defaultdict(list))
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    """Table rows by key; None deletes. Also the overlay that later records of the batch read."""
    due_added: list[tuple[int, bytes]] = field(default_factory=list)
    due_removed: list[tuple[int, bytes]] = field(default_factory=list)
    watch_added: list[tuple[int, bytes]] = field(default_factory=list)
    watch_removed: list[tuple[int, bytes]] = field(default_factory=list)
    counts: dict[Count, int] = field(default_factory=lambda: defaultdict(int))
    """What to add to the metrics when it is committed."""
    observations: dict[Observation, list[float]] = field(default_factory=dict)
    """What to observe in histograms when it is committed."""

    def emit(self, topic: str, partition: int, row: Row) -> None:
        """Add one output record."""
        self.outputs[topic, partition].append(row)

    def observe(self, value: float, *name: *Observation) -> None:
        """Add a value to a histogram."""
        self.observations.setdefault(name, []).append(value)

    @property
    def only_indexes(self) -> bool:
        """True if only the indexes change, which are local: no transaction is needed."""
        return not (self.rows or self.outputs)


class Hooks(Protocol):
    """What lanes report to the rest of the process. Called in the event loop, must not block."""

    @property
    def reached(self) -> Callable[[str, TP], Awaitable[None] | None]:
        """Called when a named point of the batch order is reached; the fault suite stops or kills the process there."""

    def committed(self, tp: TP, batch: Batch, effects: Effects, seconds: float, stage: str) -> None:
        """A batch took effect."""

    def ticked(self, tp: TP, batch: Batch, effects: Effects, seconds: float, stage: str) -> None:
        """A tick was done; it may have had no effect at all."""

    def stopped(self, tp: TP, reason: str) -> None:
        """A partition was stopped: too many of its records are bad."""

    def resumed(self, tp: TP) -> None:
        """A stopped partition runs again."""


class ResumeCommand(NamedTuple):
    """An operator's command to resume a stopped partition."""

    resume_id: str
    dead_letter_through: int | None
    """Bad records up to this offset go to the dead letters without being counted; None: all are counted."""


class ResumeCommands(Protocol):
    """Where a stopped lane looks for the command to resume."""

    async def latest(self, tp: TP, stopped_at: int) -> ResumeCommand | None:
        """Return the newest command for ``tp``, stopped at this offset, or None."""


class StatefulFold(Protocol):
    """The stage's own work. Once it is opened it is pure, except that it reads the table."""

    async def opened(self, partition: int, store: Store) -> None:
        """Prepare for the partition, before its first batch. It may take long, and lets other tasks run meanwhile."""

    def closed(self, partition: int) -> None:
        """Forget the partition: it may have another owner."""

    def record(self, record: Record, partition: int, get: Callable[[bytes], bytes | None], effects: Effects) -> None:
        """Fold one record. Any exception but NOT_POISON is poison: change ``effects`` only when nothing can fail."""

    def tick(self, now: int, partition: int, store: Store, effects: Effects) -> None:
        """Do what is due at ``now`` (µs), a bounded amount of it. Any exception is a crash."""


StatelessFold = Callable[[Record, Effects], None]


class PartlyBadError(Exception):
    """Some of a record can be understood. ``apply`` writes the good part, and dead letters for the rest."""

    def __init__(self, reason: str, *, apply: Callable[[Effects], None]) -> None:
        super().__init__(reason)
        self.apply = apply


class LaneClosedError(Exception):
    """The partition was revoked while the lane waited."""


class FoldTurn(asyncio.Lock):
    """Lets one lane at a time fold a long batch, in the order in which they ask."""

    taken = 0
    """How many turns were taken so far. While this grows, a waiting lane makes progress."""

    def __init__(self) -> None:
        super().__init__()
        self.next = asyncio.Lock()
        """Held by the lane whose turn is next, so that the looked-up rows of only one waiting lane are in memory."""

    async def acquire(self) -> Literal[True]:
        """Wait for the turn, and take it."""
        await super().acquire()
        self.taken += 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneContext:
    """What all lanes of a process have in common."""

    limit: PoisonLimit
    dead_letters: DeadLetters
    resume_commands: ResumeCommands
    hooks: Hooks
    on_crash: Callable[[BaseException], None]
    fold_turn: FoldTurn
    """One for all lanes."""


class Lane(ABC):
    """The common part: batches in order, poison, stopping and resuming, and committing the position to the group."""

    def __init__(self, tp: TP, *, stage: str, position: Position, positions: Positions, context: LaneContext) -> None:
        self.tp = tp
        self.stage = stage
        self.position = position
        self._positions = positions
        self.poison = position.poison or Poison()
        self._limit = context.limit
        self._dead_letters = context.dead_letters
        self._resume_commands = context.resume_commands
        self._hooks = context.hooks
        self._on_crash = context.on_crash
        self._fold_turn = context.fold_turn
        self._inbox: asyncio.Queue[EventT[Any] | None] = asyncio.Queue()
        """Batches; None wakes the task when the lane closes."""
        self._closing = asyncio.Event()
        self._control_lost = False
        self._task: asyncio.Task[None] | None = None
        self._in_queue = False
        self.opening = True
        """True while it prepares for its first batch, for a time that depends on what is in the store."""

    @property
    def stopped(self) -> str | None:
        """Why the partition is stopped, or None."""
        return self.poison.stopped

    @property
    def turns_passed(self) -> int | None:
        """How many turns all lanes took so far, while this lane's batch waits for its turn to fold; else None."""
        return self._fold_turn.taken if self._in_queue else None

    def start(self) -> None:
        """Begin to take batches."""
        self._task = asyncio.create_task(self._run(), name=f"lane {self.stage} {self.tp.topic}/{self.tp.partition}")

    def take(self, event: EventT[Any]) -> None:
        """Queue one batch; it is acknowledged once it has taken effect."""
        if self._closing.is_set():
            event.ack()  # the partition's next owner reads it again
        else:
            self._inbox.put_nowait(event)

    async def close(self) -> None:
        """Finish the batch in work, if any, and release everything."""
        self._closing.set()
        if self._task is not None:
            self._inbox.put_nowait(None)
            await asyncio.wait([self._task])
        await self.release()

    async def release(self) -> None:
        """Commit the last position, and release what the lane holds."""
        await self._positions.flush()
        self._positions.forget(self.tp)

    async def _open(self) -> None:  # noqa: B027 - a lane may need nothing
        """Prepare, before the first batch."""

    async def _run(self) -> None:
        if self.stopped is not None:
            self._hooks.stopped(self.tp, self.stopped)
        try:
            await self._open()
            self.opening = False
            while not self._closing.is_set():
                event = await self._inbox.get()
                if event is None:
                    return
                try:
                    await self._process(cast("Batch", event.value))
                finally:
                    event.ack()
        except LaneClosedError:
            return
        except BaseException as error:  # whatever it is, the process must not go on without this lane
            if was_cancelled(error):
                raise
            try:
                error.add_note(
                    f"{self.stage} of {self.tp.topic}/{self.tp.partition}, done up to {self.position.offset}"
                )
            finally:  # there may be no memory left for a note
                self._on_crash(error)
        finally:
            self.opening = False
            self._closing.set()
            while not self._inbox.empty():
                queued = self._inbox.get_nowait()
                if queued is not None:
                    queued.ack()

    async def _process(self, batch: Batch) -> None:
        if self.stopped is not None:
            if batch.is_tick:
                return  # in a stopped partition nothing falls due: its facts are incomplete
            await self._wait_for_resume()
        if batch.is_tick:
            await self._tick(batch)
            return
        while True:
            began = asyncio.get_running_loop().time()
            effects = Effects()
            done = await self._fold_in_turn(batch, effects)
            await self._commit(done, effects)
            self._hooks.committed(self.tp, done, effects, asyncio.get_running_loop().time() - began, self.stage)
            await self._tell_group(self.position)
            if self.stopped is None:
                return
            self._hooks.stopped(self.tp, self.stopped)
            await self._wait_for_resume()
            batch = Batch(self.tp, batch.records[len(done.records) :], batch.position)

    async def _fold_in_turn(self, batch: Batch, effects: Effects) -> Batch:
        """Fold the records; a long batch only while no other lane folds one.

        Lanes that fold alternately would all finish at the same time, and then wait for the broker at the same time.
        In turn, one folds while the next one's rows are looked up and the others commit.

        Raises:
            LaneClosedError: the partition was revoked before its turn came.
        """
        if len(batch.records) <= SHORT_BATCH:
            await self._look_up(batch.records)
            return await self._fold(batch, effects)
        self._in_queue = True
        async with self._fold_turn.next:
            self._check_open()
            await self._look_up(batch.records)
            await self._fold_turn.acquire()
        try:
            self._in_queue = False
            self._check_open()
            return await self._fold(batch, effects)
        finally:
            self._fold_turn.release()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise LaneClosedError

    async def _fold(self, batch: Batch, effects: Effects) -> Batch:
        """Fold the records; return the part of the batch that was folded: all of it, unless the partition stopped."""
        good = 0
        clock = asyncio.get_running_loop().time
        slice_ends = clock() + SLICE_S
        for index, record in enumerate(batch.records):
            if not index % RECORDS_PER_LOOK and clock() >= slice_ends:
                await asyncio.sleep(0)
                slice_ends = clock() + SLICE_S
            try:
                self._fold_record(record, effects)
                good += 1
            except NOT_POISON as error:
                error.add_note(f"at offset {record.offset}")
                raise
            except Exception as error:  # noqa: BLE001 - whatever a pure function raises on one record is poison
                self.poison.good(self._limit, good)
                good = 0
                if self.poison.exceeded_by(record.offset, reason_of(error), self._limit):
                    return Batch(self.tp, batch.records[:index], record.offset)
                self._bury(record, error, effects)
        self.poison.good(self._limit, good)
        return batch

    def _bury(self, record: Record, error: Exception, effects: Effects) -> None:
        """Send what is bad to the dead letters, and emit what is good."""
        if isinstance(error, PartlyBadError):
            error.apply(effects)
            return
        partition, row = self._dead_letters.of_record(record, self.stage, error)
        effects.emit(self._dead_letters.topic, partition, row)
        effects.counts["dead_letters", self.stage] += 1

    def _moved(self, batch: Batch) -> Position:
        """Return the position after ``batch``."""
        timestamp = batch.records[-1].timestamp if batch.records else self.position.timestamp_ms
        return Position(batch.position, timestamp, self.poison)

    async def _tell_group(self, position: Position) -> None:
        """Commit a position to the group: soon, or at once if the partition is stopped, because that may last long.

        Raises:
            LaneClosedError: the partition has a new owner.
        """
        try:
            self._positions.reach(self.tp, position.offset, position.encode())
        except CommitFailedError as error:
            raise LaneClosedError from error
        if self.stopped is not None:
            await self._positions.flush()

    async def _wait_for_resume(self) -> None:
        """Wait for a command that was not obeyed before.

        Raises:
            LaneClosedError: the partition was revoked.
        """
        closing = asyncio.create_task(self._closing.wait())
        try:
            while True:
                looking = asyncio.create_task(self._latest_command())
                await asyncio.wait({looking, closing}, return_when=asyncio.FIRST_COMPLETED)
                if closing.done():
                    looking.cancel()
                    await asyncio.wait({looking}, timeout=1)
                    raise LaneClosedError
                command = looking.result()
                if command is not None and command.resume_id != self.poison.resume_id:
                    self.poison.resume(*command)
                    self._hooks.resumed(self.tp)
                    return
                await asyncio.wait({closing}, timeout=RESUME_POLL_S)
                if closing.done():
                    raise LaneClosedError
        finally:
            closing.cancel()

    async def _latest_command(self) -> ResumeCommand | None:
        """Return the newest command; None while no broker answers: a stopped partition can wait."""
        try:
            async with asyncio.timeout(RESUME_TIMEOUT_S):
                command = await self._resume_commands.latest(self.tp, self.poison.stopped_at)
        except (KafkaError, OSError, asyncio.CancelledError) as error:  # a TimeoutError is an OSError
            if was_cancelled(error):
                raise
            if not self._control_lost:
                logger.warning(
                    "%s/%s is stopped, and the command to resume it cannot be read: %s. It is tried again until it can",
                    self.tp.topic,
                    self.tp.partition,
                    type(error).__name__,
                )
            self._control_lost = True
            return None
        self._control_lost = False
        return command

    async def _reach(self, point: str) -> None:
        waited = self._hooks.reached(point, self.tp)
        if waited is not None:
            await waited

    async def _look_up(self, records: Sequence[Record]) -> None:  # noqa: B027 - a lane may keep nothing
        """Prepare to fold these records."""

    @abstractmethod
    def _fold_record(self, record: Record, effects: Effects) -> None:
        """Fold one record; any exception is poison, except NOT_POISON."""

    @abstractmethod
    async def _tick(self, batch: Batch) -> None:
        """Do what is due."""

    @abstractmethod
    async def _commit(self, batch: Batch, effects: Effects) -> None:
        """Write the effects, and advance the position with them."""


class StatefulLane(Lane):
    """A lane whose batches are exactly-once: a table partition, its changelog, its transactions."""

    def __init__(
        self,
        tp: TP,
        *,
        stage: str,
        position: Position,
        positions: Positions,
        context: LaneContext,
        fold: StatefulFold,
        store: Store,
        writer: TransactionalWriter,
        changelog_topic: str,
    ) -> None:
        super().__init__(tp, stage=stage, position=position, positions=positions, context=context)
        self._stage_fold = fold
        self._store = store
        self._writer = writer
        self._changelog_topic = changelog_topic
        self._overlay: dict[bytes, bytes | None] = {}
        self._stored: dict[bytes, bytes | None] = {}
        """The store's rows for the batch that is being folded, or is next."""

    async def _look_up(self, records: Sequence[Record]) -> None:
        """Read the rows of all records.

        RocksDB releases the GIL, and getting it back may take a while, so keys are read in bulk. Reads may go to disk,
        so a thread does them if they are many.

        Raises:
            LaneClosedError: the partition was revoked meanwhile.
        """
        keys = list({key for record in records if (key := record.key) is not None})
        if len(keys) <= FEW_KEYS:
            self._stored = self._store.get_many(keys)
            return
        self._stored = {}
        for begin in range(0, len(keys), KEYS_AT_ONCE):
            self._check_open()
            self._stored |= await asyncio.to_thread(self._store.get_many, keys[begin : begin + KEYS_AT_ONCE])

    def _get(self, key: bytes) -> bytes | None:
        """Read the table as of the record being folded: the batch's own rows override the store's."""
        if key in self._overlay:
            return self._overlay[key]
        if key in self._stored:
            return self._stored[key]
        return self._store.get(key)

    async def _fold(self, batch: Batch, effects: Effects) -> Batch:
        self._overlay = effects.rows
        done = await super()._fold(batch, effects)
        self._stored = {}
        return done

    def _fold_record(self, record: Record, effects: Effects) -> None:
        self._stage_fold.record(record, self.tp.partition, self._get, effects)

    async def _open(self) -> None:
        if self._store.position is not None:
            # A worker killed after its transaction may not have committed the position to the group. Commit the stored
            # one unchanged: if retention has overtaken a stopped partition, `resume` must find the offset of the stop.
            await self._tell_group(Position.decode(self._store.position))
        await self._unless_closed(self._stage_fold.opened(self.tp.partition, self._store))

    async def _unless_closed(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what may take minutes, and give it up when the lane closes.

        Raises:
            LaneClosedError: the partition was revoked before it was done.
        """
        working, closing = asyncio.create_task(work), asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({working, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise LaneClosedError
            working.result()
        finally:
            closing.cancel()
            working.cancel()  # does nothing to one that is done
            await asyncio.wait({working})

    async def _tick(self, batch: Batch) -> None:
        assert batch.now is not None
        effects = Effects()
        began = asyncio.get_running_loop().time()
        self._stage_fold.tick(batch.now, self.tp.partition, self._store, effects)
        _outlive(effects, self.position.timestamp_ms)
        if effects.only_indexes:
            self._store.write(_changes(effects))
        else:
            await self._commit(batch, effects)
        self._hooks.ticked(self.tp, batch, effects, asyncio.get_running_loop().time() - began, self.stage)
        if not effects.only_indexes:
            await self._tell_group(self.position)

    async def _commit(self, batch: Batch, effects: Effects) -> None:
        position = self._moved(batch)
        encoded = position.encode().encode()
        changelog = (self._changelog_topic, self.tp.partition)
        timestamp = max(position.timestamp_ms, 0)
        rows = [Row(key, value, timestamp) for key, value in effects.rows.items()]
        rows.append(Row(POSITION_KEY, encoded, timestamp))
        await self._reach("folded")
        ends = await self._writer.commit(effects.outputs | {changelog: rows})
        await self._reach("committed")
        self._store.write(_changes(effects, changelog_offset=ends[changelog], position=encoded))
        self.position = position
        await self._reach("stored")

    async def release(self) -> None:
        """Commit the last position and close the producer; the store stays open for the next lane of this partition."""
        self._stage_fold.closed(self.tp.partition)
        await super().release()
        await self._writer.close()


def _outlive(effects: Effects, timestamp_ms: int) -> None:
    """Make no output of a tick older than the last record before it.

    A deadline that is known late, as when a webhook comes after weeks, may be older than its topic's retention: the
    brokers would delete the record before anybody reads it.
    """
    for rows in effects.outputs.values():
        rows[:] = [row if row.timestamp_ms >= timestamp_ms else row._replace(timestamp_ms=timestamp_ms) for row in rows]


def _changes(effects: Effects, *, changelog_offset: int | None = None, position: bytes | None = None) -> Changes:
    return Changes(
        rows=effects.rows,
        due_added=effects.due_added,
        due_removed=effects.due_removed,
        watch_added=effects.watch_added,
        watch_removed=effects.watch_removed,
        changelog_offset=changelog_offset,
        position=position,
    )


class StatelessLane(Lane):
    """A lane whose batches may be repeated: the position is committed soon after everything is acknowledged."""

    def __init__(
        self,
        tp: TP,
        *,
        stage: str,
        position: Position,
        positions: Positions,
        context: LaneContext,
        fold: StatelessFold,
        publisher: Publisher,
    ) -> None:
        super().__init__(tp, stage=stage, position=position, positions=positions, context=context)
        self._fold_one = fold
        self._publisher = publisher

    def _fold_record(self, record: Record, effects: Effects) -> None:
        self._fold_one(record, effects)

    async def _tick(self, batch: Batch) -> None:
        """Nothing falls due in a stage without state."""

    async def _commit(self, batch: Batch, effects: Effects) -> None:
        position = self._moved(batch)
        await self._reach("folded")
        await self._publisher.publish(effects.outputs)
        await self._reach("published")
        self.position = position


class Lanes:
    """All lanes of this process. ``BatchedApp.serve`` hands batches in; assignments open and close lanes."""

    def __init__(self, *, close_timeout_s: float, on_crash: Callable[[BaseException], None]) -> None:
        self._close_timeout_s = close_timeout_s
        self._on_crash = on_crash
        self._lanes: dict[TP, Lane] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        """Closing lanes: they take no more batches and are not yet closed."""

    @property
    def by_partition(self) -> Mapping[TP, Lane]:
        """The open lanes."""
        return self._lanes

    def open(self, lane: Lane) -> None:
        """Start a lane."""
        assert lane.tp not in self._lanes
        self._lanes[lane.tp] = lane
        lane.start()

    def take(self, event: EventT[Any]) -> None:
        """Hand a batch to its partition's lane. If there is none, drop it: the next owner reads it again."""
        lane = self._lanes.get(event.message.tp)
        if lane is None:
            event.ack()
        else:
            lane.take(event)

    async def close(self) -> None:
        """Finish every batch in work and close all lanes, or end the process when that takes too long.

        A hung batch must not block the group's rebalance: this process is of no use, and another can go on.

        A second call, such as a stop in the middle of a rebalance, waits for the same lanes: its caller then takes away
        what they need for their last batches.
        """
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            closing = asyncio.create_task(lane.close())
            self._finishing.add(closing)
            closing.add_done_callback(self._finishing.discard)
        if not self._finishing:
            return
        done, pending = await asyncio.wait(self._finishing, timeout=self._close_timeout_s)
        if pending:
            self._on_crash(TransactionInDoubtError(f"{len(pending)} lanes did not finish their batch in time"))
        for task in done:
            task.result()
