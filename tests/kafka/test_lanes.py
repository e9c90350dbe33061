"""The order of one batch, poison, standing still and going on; only Kafka, the operator and the process are fakes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka.errors import CommitFailedError, KafkaConnectionError, TopicAuthorizationFailedError
from faust.types import TP

from streams import records
from streams.kafka import lanes as module
from streams.kafka.batches import Batch, Record, Row
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.lanes import (
    POSITION_KEY,
    Effects,
    FoldTurn,
    Lane,
    LaneContext,
    Lanes,
    PartlyBadError,
    ResumeCommand,
    StatefulLane,
    StatelessLane,
)
from streams.kafka.poison import Poison, PoisonLimit
from streams.kafka.positions import Position, Positions
from streams.kafka.store import Budget, Changes, Store, StoreCorruptError, open_store
from streams.kafka.transactions import TransactionInDoubtError
from streams.records import RecordError, RowError
from tests.kafka.fakes import (
    SOURCE,
    TIME_MS,
    Commands,
    Event,
    Hooks,
    Publisher,
    Writer,
    batch,
    record,
    until,
    values_of,
)

CHANGELOG = "app-deliveries-changelog"
OUT = ("mail.status-changed", SOURCE.partition)
DEAD = ("mail.dead-letters", SOURCE.partition)
STORED = (CHANGELOG, SOURCE.partition)
LIMIT = PoisonLimit(share=0.5, window=100, minimum=2)


class Fold:
    """A stage that counts: a record's value is ``+n``, ``bad``, ``partly`` or ``row``; its key the row's."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.ticked: list[int] = []
        self.due: list[bytes] = []
        self.local: list[tuple[int, bytes]] = []
        self.opening: list[str] = []
        self.fails: BaseException | None = None

    async def opened(self, partition: int, store: Store) -> None:
        self.opening.append(f"opening {partition} {store.path.name}")
        await asyncio.sleep(0)
        self.opening.append("opened")

    def closed(self, partition: int) -> None:
        self.opening.append(f"closed {partition}")

    def record(self, record: Record, partition: int, get: Callable[[bytes], bytes | None], effects: Effects) -> None:
        self.seen.append(record.offset)
        assert record.key is not None
        match record.value:
            case b"bad":
                message = "no event"
                raise RecordError(message)
            case b"partly":
                raise PartlyBadError("element 1", apply=lambda effects: effects.emit(*OUT, Row(b"half", b"half", 1)))
            case b"row":
                message = "damaged"
                raise RowError(message)
            case b"foreign":
                raise ZeroDivisionError
            case b"memory":
                raise MemoryError
        number = int(get(record.key) or b"0") + int(record.value or b"0")
        effects.rows[record.key] = b"%d" % number
        effects.emit(OUT[0], partition, Row(record.key, b"%d" % number, record.timestamp))
        effects.counts["requests", "counted"] += 1

    def tick(self, now: int, partition: int, store: Store, effects: Effects) -> None:
        if self.fails is not None:
            raise self.fails
        self.ticked.append(now)
        for key in self.due:
            assert store.get(key) is not None
            effects.rows[key] = None
            effects.emit(OUT[0], partition, Row(key, None, 1))
        effects.due_added.extend(self.local)


class Seen(list[int]):
    """What a lane sees, told to all as the lane's number."""

    def __init__(self, number: int, told: list[int]) -> None:
        super().__init__()
        self._number, self._told = number, told

    def append(self, _: int) -> None:
        self._told.append(self._number)


class World:
    """A lane and everything around it."""

    def __init__(self, folder: Path, *, position: Position | None = None, turn: FoldTurn | None = None) -> None:
        self.turn = turn or FoldTurn()
        self.order: list[str] = []
        self.hooks = Hooks(self.order)
        self.commands = Commands()
        self.crashes: list[BaseException] = []
        self.folder = folder
        self.fold = Fold()
        self.writer = Writer(self.order)
        self.publisher = Publisher(self.order)
        self.commits: list[tuple[TP, int, str]] = []
        self.commit_fails: BaseException | None = None
        self.unknown: set[TP] = set()
        self.position = position or Position(0)
        self.store = open_store(
            folder / "store", Budget(cache_bytes=1 << 20, write_buffer_bytes=1 << 20), on_rebuild=pytest.fail
        )

    def _context(self) -> LaneContext:
        return LaneContext(
            limit=LIMIT,
            dead_letters=DeadLetters(topic=DEAD[0], partitions=4, max_bytes=1_000),
            resume_commands=self.commands,
            hooks=self.hooks,
            on_crash=self.crashes.append,
            fold_turn=self.turn,
        )

    def _positions(self, interval_s: float) -> Positions:
        async def commit(positions: Mapping[TP, tuple[int, str]]) -> set[TP]:
            if self.commit_fails is not None:
                raise self.commit_fails
            self.order.append("position")
            self.commits.extend((tp, *position) for tp, position in positions.items() if tp not in self.unknown)
            return positions.keys() & self.unknown

        return Positions(commit, on_crash=self.crashes.append, interval_s=interval_s)

    def stateful(self, *, told_after_s: float = 60) -> StatefulLane:
        return StatefulLane(
            SOURCE,
            stage="track",
            position=self.position,
            positions=self._positions(told_after_s),
            context=self._context(),
            fold=self.fold,
            store=self.store,
            writer=cast("Any", self.writer),
            changelog_topic=CHANGELOG,
        )

    def stateless(self) -> StatelessLane:
        def fold(record: Record, effects: Effects) -> None:
            self.fold.record(record, SOURCE.partition, lambda _: None, effects)
            effects.rows.clear()

        return StatelessLane(
            SOURCE,
            stage="track",
            position=self.position,
            positions=self._positions(0.01),
            context=self._context(),
            fold=fold,
            publisher=cast("Any", self.publisher),
        )

    async def process(self, lane: Lane, *batches: Batch) -> list[Event]:
        """Give batches to a started lane and wait for their acknowledgements."""
        events = [Event(each) for each in batches]
        for event in events:
            lane.take(cast("Any", event))
        async with asyncio.timeout(30):
            for event in events:
                await event.acked.wait()
        return events

    def rows_of(self, destination: tuple[str, int]) -> list[list[Row]]:
        return [rows.get(destination, []) for rows in self.writer.transactions]

    def kept_positions(self) -> list[Position]:
        """The position row of each transaction."""
        return [
            Position.decode(row.value or b"")
            for rows in self.rows_of(STORED)
            for row in rows
            if row.key == POSITION_KEY
        ]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESUME_POLL_S", 0.01)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


@pytest.fixture
async def lane(world: World) -> AsyncIterator[StatefulLane]:
    lane = world.stateful()
    lane.start()
    yield lane
    await lane.close()


def bad(*offsets: int) -> list[Record]:
    return [record(offset, b"bad") for offset in offsets]


# -- the order of a batch --------------------------------------------------------------------------------------------------


async def test_the_steps_of_a_batch_have_one_order_and_the_acknowledgement_is_the_last(
    world: World, lane: StatefulLane
) -> None:
    event = Event(batch(record(5, b"1", key=b"a")))
    world.hooks.hold = "stored"
    lane.take(cast("Any", event))
    await world.hooks.held.wait()
    assert event.acks == 0
    world.hooks.go.set()
    await event.acked.wait()
    assert world.order == ["folded", "transaction", "committed", "stored", "told"]
    assert event.acks == 1


async def test_the_store_is_untouched_until_the_transaction_is_committed(world: World, lane: StatefulLane) -> None:
    world.hooks.hold = "committed"
    lane.take(cast("Any", Event(batch(record(5, b"1", key=b"a")))))
    await world.hooks.held.wait()
    assert len(world.writer.transactions) == 1
    assert world.store.get(b"a") is None
    assert world.store.changelog_offset is None
    world.hooks.go.set()
    await until(lambda: world.store.get(b"a") == b"1")


async def test_outputs_changelog_rows_and_position_are_one_transaction(world: World, lane: StatefulLane) -> None:
    await world.process(lane, batch(record(5, b"1", key=b"a"), record(6, b"2", key=b"b"), position=9))
    [rows] = world.writer.transactions
    expected = Position(9, TIME_MS + 6, Poison(seen=2)).encode()
    assert values_of(rows[OUT]) == [b"1", b"2"]
    assert [(row.key, row.value) for row in rows[STORED]] == [
        (b"a", b"1"),
        (b"b", b"2"),
        (POSITION_KEY, expected.encode()),
    ]
    assert {row.timestamp_ms for row in rows[STORED]} == {TIME_MS + 6}, "derived from the source, never from the clock"
    assert set(rows) == {OUT, STORED}
    assert world.store.changelog_offset == world.writer.next_offset
    assert world.store.position == expected.encode()


async def test_later_records_of_a_batch_read_what_earlier_ones_wrote(world: World, lane: StatefulLane) -> None:
    await world.process(lane, batch(record(1, b"1", key=b"a"), record(2, b"2", key=b"a")))
    await world.process(lane, batch(record(3, b"4", key=b"a")))
    assert world.store.get(b"a") == b"7"
    assert [values_of(rows) for rows in world.rows_of(OUT)] == [[b"1", b"3"], [b"7"]]
    assert [row.value for row in world.rows_of(STORED)[0] if row.key == b"a"] == [b"3"], "a row once a batch"


@pytest.mark.parametrize("distinct", [7, module.FEW_KEYS + 1, 2 * module.KEYS_AT_ONCE + 1])
@pytest.mark.parametrize("size", [3 * module.RECORDS_PER_LOOK, 3 * module.KEYS_AT_ONCE])
async def test_a_record_reads_the_table_as_it_is_then_however_many_are_looked_up_before_it(
    world: World, lane: StatefulLane, size: int, distinct: int
) -> None:
    keys = [b"%d" % (number % distinct) for number in range(size)]
    for first in (0, 10_000):
        records = [record(first + number, b"1", key=key) for number, key in enumerate(keys)]
        await world.process(lane, batch(*records))
    for key in set(keys):
        assert world.store.get(key) == b"%d" % (2 * keys.count(key)), "each counted on from the one before it"


async def test_batches_are_processed_one_after_the_other_in_order(world: World, lane: StatefulLane) -> None:
    await world.process(lane, *(batch(record(n, b"1", key=b"a")) for n in range(10)))
    assert world.fold.seen == list(range(10))
    assert world.order == ["folded", "transaction", "committed", "stored", "told"] * 10
    assert world.store.get(b"a") == b"10"


async def test_a_transaction_in_doubt_crashes_and_touches_nothing_else(world: World, lane: StatefulLane) -> None:
    world.writer.fails = TransactionInDoubtError("lost")
    await world.process(lane, batch(record(1, b"1", key=b"a")))
    await until(lambda: world.crashes)
    assert world.crashes == [world.writer.fails]
    assert world.store.get(b"a") is None
    assert world.store.changelog_offset is None
    assert world.hooks.told == []
    assert lane.position.offset == 0


async def test_a_crashed_lane_takes_nothing_more(world: World, lane: StatefulLane) -> None:
    world.writer.fails = TransactionInDoubtError("lost")
    waiting = [batch(record(n, b"1")) for n in (1, 2, 3)]
    await world.process(lane, *waiting)
    world.writer.fails = None
    await world.process(lane, batch(record(4, b"1")))
    assert world.fold.seen == [1]
    assert world.writer.transactions == []
    assert len(world.crashes) == 1


async def test_other_partitions_get_their_turn_during_a_long_batch(
    world: World, lane: StatefulLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(module, "SLICE_S", 0.0)
    task = asyncio.create_task(other())
    event = Event(batch(*(record(n, b"1") for n in range(5_000))))
    lane.take(cast("Any", event))
    await until(lambda: world.order)
    task.cancel()
    assert turns >= 5_000 // module.RECORDS_PER_LOOK


async def test_of_long_batches_one_is_folded_at_a_time_while_others_are_committed(tmp_path: Path) -> None:
    turn, long = FoldTurn(), module.SHORT_BATCH * 3
    seen: list[int] = []
    worlds = [World(tmp_path / str(number), turn=turn) for number in range(3)]
    lanes = [each.stateful() for each in worlds]
    events = [Event(batch(*(record(n, b"1") for n in range(long)))) for _ in worlds]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "SLICE_S", 0.0)
        for number, (each, lane, event) in enumerate(zip(worlds, lanes, events, strict=True)):
            each.fold.seen = cast("Any", Seen(number, seen))
            lane.start()
            lane.take(cast("Any", event))
        async with asyncio.timeout(30):
            for event in events:
                await event.acked.wait()
    assert seen == [0] * long + [1] * long + [2] * long
    for each, lane in zip(worlds, lanes, strict=True):
        await lane.close()
        each.store.close()


async def test_while_a_long_batch_is_folded_a_thread_looks_up_the_next_one_and_none_after_it(tmp_path: Path) -> None:
    turn = FoldTurn()
    looked_up: list[tuple[int, int, bool]] = []
    worlds = [World(tmp_path / str(number), turn=turn) for number in range(2)]
    lanes = [each.stateful() for each in worlds]
    events = [Event(batch(*(record(n, b"1") for n in range(module.SHORT_BATCH + 1)))) for _ in worlds]

    def watched(number: int, get_many: Callable[..., dict[bytes, bytes | None]]) -> Callable[..., Any]:
        def look(keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
            looked_up.append((number, len(keys), threading.current_thread() is threading.main_thread()))
            return get_many(keys)

        return look

    async with turn:
        for number, (each, lane, event) in enumerate(zip(worlds, lanes, events, strict=True)):
            each.store.get_many = watched(number, each.store.get_many)  # type: ignore[method-assign] # to see when
            lane.start()
            lane.take(cast("Any", event))
        await until(lambda: looked_up)
        await asyncio.sleep(0.05)
        assert looked_up == [(0, module.SHORT_BATCH + 1, False)]
    for event in events:
        await event.acked.wait()
    assert looked_up[1:] == [(1, module.SHORT_BATCH + 1, False)]
    for each, lane in zip(worlds, lanes, strict=True):
        assert len(each.fold.seen) == module.SHORT_BATCH + 1
        await lane.close()
        each.store.close()


async def test_a_short_batch_does_not_wait_for_a_long_one_to_be_folded(tmp_path: Path) -> None:
    world = World(tmp_path, turn=FoldTurn())
    lane = world.stateful()
    lane.start()
    assert world.turn is not None
    async with world.turn:
        await world.process(lane, batch(*(record(n, b"1") for n in range(module.SHORT_BATCH))))
    assert len(world.fold.seen) == module.SHORT_BATCH
    await lane.close()
    world.store.close()


async def test_whose_batch_waits_for_its_turn_tells_how_many_had_theirs(tmp_path: Path) -> None:
    world = World(tmp_path, turn=FoldTurn())
    lane = world.stateful()
    lane.start()
    long = batch(*(record(n, b"1") for n in range(module.SHORT_BATCH + 1)))
    assert lane.turns_passed is None
    async with world.turn:
        event = Event(long)
        lane.take(cast("Any", event))
        await asyncio.sleep(0.01)
        assert lane.turns_passed == 1
    await event.acked.wait()
    assert lane.turns_passed is None
    async with world.turn:
        lane.take(cast("Any", Event(long)))
        await asyncio.sleep(0.01)
        assert lane.turns_passed == 3
    await lane.close()
    world.store.close()


async def test_a_batch_whose_turn_comes_when_its_partition_is_revoked_is_not_folded(tmp_path: Path) -> None:
    world = World(tmp_path, turn=FoldTurn())
    lane = world.stateful()
    lane.start()
    assert world.turn is not None
    await world.turn.acquire()
    event = Event(batch(*(record(n, b"1") for n in range(module.SHORT_BATCH + 1))))
    lane.take(cast("Any", event))
    await asyncio.sleep(0)
    closing = asyncio.create_task(lane.close())
    await asyncio.sleep(0)
    world.turn.release()
    await closing
    assert (world.fold.seen, world.writer.transactions, world.crashes, event.acks) == ([], [], [], 1)
    world.store.close()


async def test_a_partition_that_is_revoked_while_it_is_looked_up_waits_for_one_piece_and_folds_nothing(
    world: World, lane: StatefulLane
) -> None:
    pieces: list[int] = []

    def revoked(keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        pieces.append(len(keys))
        lane._closing.set()
        return dict.fromkeys(keys)

    world.store.get_many = revoked  # type: ignore[method-assign] # in the middle of it
    await world.process(lane, batch(*(record(n, b"1") for n in range(3 * module.KEYS_AT_ONCE))))
    assert pieces == [module.KEYS_AT_ONCE]
    assert (world.fold.seen, world.writer.transactions, world.crashes) == ([], [], [])
    assert not world.turn.next.locked()


async def test_without_records_a_batch_keeps_the_last_known_time(tmp_path: Path) -> None:
    world = World(tmp_path, position=Position(3, 1_234))
    lane = world.stateful()
    lane.start()
    world.store.write(Changes(rows={b"a": b"1"}))
    world.fold.due = [b"a"]
    await world.process(lane, Batch(SOURCE, (), 3, now=99))
    assert {row.timestamp_ms for row in world.rows_of(STORED)[0]} == {1_234}
    await lane.close()
    world.store.close()


# -- poison -----------------------------------------------------------------------------------------------------------------


async def test_a_poison_record_leaves_no_trace_but_its_dead_letter_in_the_same_transaction(
    world: World, lane: StatefulLane
) -> None:
    await world.process(lane, batch(record(1, b"1", key=b"a"), *bad(2), record(3, b"1", key=b"a")))
    [rows] = world.writer.transactions
    assert values_of(rows[OUT]) == [b"1", b"2"]
    assert [row.key for row in rows[STORED]] == [b"a", POSITION_KEY]
    [dead] = rows[DEAD]
    letter = records.decode_dead_letter(dead.value, dead.headers)
    assert (letter.offset, letter.value, letter.stage, letter.reason) == (2, b"bad", "track", "RecordError: no event")
    assert world.hooks.effects[0].counts[("dead_letters", "track")] == 1
    assert world.crashes == []


async def test_a_foreign_exception_on_one_record_is_poison_and_its_text_is_not_kept(
    world: World, lane: StatefulLane
) -> None:
    await world.process(lane, batch(record(1, b"foreign"), record(2, b"1", key=b"a")))
    [dead] = world.rows_of(DEAD)[0]
    assert records.decode_dead_letter(dead.value, dead.headers).reason == "ZeroDivisionError"
    assert world.store.get(b"a") == b"1"


async def test_of_a_partly_bad_record_the_good_part_goes_on_its_way(world: World, lane: StatefulLane) -> None:
    await world.process(lane, batch(record(1, b"1", key=b"a"), record(2, b"partly"), record(3, b"1", key=b"b")))
    assert values_of(world.rows_of(OUT)[0]) == [b"1", b"half", b"1"]
    assert world.rows_of(DEAD) == [[]], "the fold made its own dead letters"
    assert lane.poison.bad == 1, "and yet it counts"


@pytest.mark.parametrize(("value", "error"), [(b"row", RowError), (b"memory", MemoryError)])
async def test_a_row_that_cannot_be_read_and_a_lack_of_memory_are_no_poison_but_a_crash(
    world: World, lane: StatefulLane, value: bytes, error: type[BaseException]
) -> None:
    await world.process(lane, batch(record(1, b"1", key=b"a"), record(2, value)))
    await until(lambda: world.crashes)
    assert [type(each) for each in world.crashes] == [error]
    assert world.crashes[0].__notes__ == [
        "at offset 2",
        f"{lane.stage} of {lane.tp.topic}/{lane.tp.partition}, done up to {lane.position.offset}",
    ]
    assert world.writer.transactions == []
    assert world.store.get(b"a") is None


async def test_a_corrupt_store_is_no_poison_but_a_crash(world: World, lane: StatefulLane) -> None:
    def corrupt(keys: Sequence[bytes]) -> dict[bytes, bytes | None]:  # noqa: ARG001 - the store's signature
        message = "block checksum mismatch"
        raise StoreCorruptError(message)

    lane._store.get_many = corrupt  # type: ignore[method-assign] # a disk that fails while it is read
    await world.process(lane, batch(record(1, b"1", key=b"a")))
    await until(lambda: world.crashes)
    assert [type(each) for each in world.crashes] == [StoreCorruptError]
    assert world.writer.transactions == []


# -- standing still and going on ------------------------------------------------------------------------------------------------


async def stopped(world: World, lane: Lane) -> Event:
    """Bring a lane to a stand at offset 13: 10 is good, 11 and 12 go to the dead letters, 13 is one too many."""
    event = Event(batch(record(10, b"1", key=b"a"), *bad(11, 12, 13, 14), record(15, b"1", key=b"b"), position=20))
    lane.take(cast("Any", event))
    await until(lambda: any(told[0] == "stopped" for told in world.hooks.told))
    return event


async def test_a_partition_that_stops_commits_what_was_before_and_not_the_record_that_stopped_it(
    world: World, lane: StatefulLane
) -> None:
    event = await stopped(world, lane)
    [rows] = world.writer.transactions
    assert values_of(rows[OUT]) == [b"1"]
    assert [records.decode_dead_letter(row.value, row.headers).offset for row in rows[DEAD]] == [11, 12]
    kept = world.kept_positions()[-1]
    assert kept.offset == 13
    assert world.commits == [(SOURCE, 13, kept.encode())], "and the group sees at once why it stands"
    assert kept.poison is not None
    assert kept.poison.stopped == "3 of the last 4 records are bad: RecordError: no event"
    assert event.acks == 0, "Faust gives it nothing more meanwhile"
    assert world.hooks.told == [
        ("committed", [10, 11, 12], 13),
        ("stopped", SOURCE, "3 of the last 4 records are bad: RecordError: no event"),
    ]
    assert lane.stopped == "3 of the last 4 records are bad: RecordError: no event"


async def test_a_resumed_partition_goes_on_exactly_with_the_record_that_stopped_it(
    world: World, lane: StatefulLane
) -> None:
    event = await stopped(world, lane)
    world.fold.seen.clear()
    world.commands.command = ResumeCommand("first", None)
    await event.acked.wait()
    assert world.fold.seen == [13, 14, 15]
    assert ("resumed", SOURCE) in world.hooks.told
    [_, rows] = world.writer.transactions
    assert [records.decode_dead_letter(row.value, row.headers).offset for row in rows[DEAD]] == [13, 14]
    assert values_of(rows[OUT]) == [b"1"]
    kept = world.kept_positions()[-1]
    assert (kept.offset, kept.poison) == (20, Poison(seen=3, bad=2, resume_id="first"))


async def test_a_partition_whose_cause_was_not_mended_stops_again_and_obeys_no_command_twice(
    world: World, lane: StatefulLane
) -> None:
    event = Event(batch(*bad(*range(10, 20))))
    lane.take(cast("Any", event))
    await until(lambda: world.hooks.told)
    world.commands.command = ResumeCommand("first", None)
    await until(lambda: sum(told[0] == "stopped" for told in world.hooks.told) == 2)
    asked = world.commands.asked
    await until(lambda: world.commands.asked > asked + 3)
    assert lane.stopped
    assert event.acks == 0
    assert [kept.offset for kept in world.kept_positions()] == [12, 14]
    assert set(world.commands.stands) == {12, 14}, "each command is asked for by the offset of the stand"
    world.commands.command = ResumeCommand("second", 19)
    await event.acked.wait()
    assert world.kept_positions()[-1].offset == 20


async def test_dead_letter_through_lets_all_bad_records_up_to_it_go_and_no_good_one(
    world: World, lane: StatefulLane
) -> None:
    event = Event(batch(*bad(*range(10, 20)), record(20, b"1", key=b"a"), *bad(21, 22), position=23))
    lane.take(cast("Any", event))
    await until(lambda: world.hooks.told)
    world.commands.command = ResumeCommand("only", 19)
    await event.acked.wait()
    dead = [records.decode_dead_letter(row.value, row.headers).offset for rows in world.rows_of(DEAD) for row in rows]
    assert dead == [*range(10, 20), 21, 22]
    assert world.store.get(b"a") == b"1"
    assert lane.stopped is None


async def test_a_stopped_partition_is_still_stopped_after_a_restart(world: World, lane: StatefulLane) -> None:
    await stopped(world, lane)
    await lane.close()
    assert world.store.position is not None
    world.position = Position.decode(world.store.position)
    assert world.position.offset == 13
    world.hooks.told.clear()
    world.fold.seen.clear()
    world.commands.asked = 0

    again = world.stateful()
    again.start()
    event = Event(batch(*bad(13, 14), record(15, b"1", key=b"b"), position=20))
    again.take(cast("Any", event))
    await until(lambda: world.commands.asked)
    assert world.hooks.told == [("stopped", SOURCE, "3 of the last 4 records are bad: RecordError: no event")]
    assert world.fold.seen == []
    world.commands.command = ResumeCommand("first", 14)
    await event.acked.wait()
    assert world.store.get(b"b") == b"1"
    await again.close()


async def test_in_a_stopped_partition_nothing_falls_due(world: World) -> None:
    world.position = Position(13, TIME_MS, Poison(stopped="too many"))
    lane = world.stateful()
    lane.start()
    [event] = await world.process(lane, Batch(SOURCE, (), 13, now=99))
    assert world.fold.ticked == []
    assert world.writer.transactions == []
    assert event.acks == 1
    await lane.close()


async def test_a_revoke_ends_the_wait_of_a_stopped_partition(world: World, lane: StatefulLane) -> None:
    event = await stopped(world, lane)
    async with asyncio.timeout(2):
        await lane.close()
    assert event.acks == 1
    assert world.crashes == []
    assert len(world.writer.transactions) == 1


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_revoke_ends_also_the_look_for_a_command_at_once(
    world: World, lane: StatefulLane, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    world.commands.hangs = hangs
    monkeypatch.setattr(module, "RESUME_POLL_S", 30)
    event = await stopped(world, lane)
    await until(lambda: world.commands.asked)
    async with asyncio.timeout(2):
        await lane.close()
    assert (event.acks, world.crashes) == (1, [])


@pytest.mark.parametrize(
    "error",
    [KafkaConnectionError(), OSError(), TopicAuthorizationFailedError(), asyncio.CancelledError(), None],
)
async def test_a_partition_that_stands_outlives_the_broker_and_says_once_that_it_cannot_look(
    world: World,
    lane: StatefulLane,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException | None,
) -> None:
    """None: the broker says nothing at all. aiokafka's consumer can raise the cancellation of a task of its own."""
    monkeypatch.setattr(module, "RESUME_TIMEOUT_S", 0.01)
    for outage in (1, 2):
        world.commands.fails, world.commands.hangs = error, error is None
        if outage == 1:
            event = await stopped(world, lane)
        await world.commands.looks(4)
        assert len(caplog.messages) == outage, caplog.messages
        world.commands.fails, world.commands.hangs = None, False
        await world.commands.looks(2)
    assert type(error or TimeoutError()).__name__ in caplog.messages[0]
    world.commands.command = ResumeCommand("first", None)
    await event.acked.wait()
    assert world.crashes == []


async def test_what_is_no_fault_of_the_broker_is_a_crash_also_while_a_partition_stands(
    world: World, lane: StatefulLane
) -> None:
    world.commands.fails = ZeroDivisionError()
    await stopped(world, lane)
    await until(lambda: world.crashes)
    assert world.crashes == [world.commands.fails]


async def test_a_cancellation_that_nobody_asked_for_ends_no_lane_in_silence(
    world: World, lane: StatefulLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.writer, "fails", asyncio.CancelledError())
    await world.process(lane, batch(record(1, b"1", key=b"a")))
    await until(lambda: world.crashes)
    assert [type(error) for error in world.crashes] == [asyncio.CancelledError]


# -- ticks -------------------------------------------------------------------------------------------------------------------


async def test_a_tick_with_nothing_due_is_no_transaction(world: World, lane: StatefulLane) -> None:
    await world.process(lane, Batch(SOURCE, (), 7, now=99))
    assert world.fold.ticked == [99]
    assert world.writer.transactions == []
    assert world.order == ["ticked"]


async def test_what_falls_due_at_a_tick_is_a_transaction_like_any_other(world: World, lane: StatefulLane) -> None:
    world.store.write(Changes(rows={b"a": b"1"}))
    world.fold.due = [b"a"]
    await world.process(lane, Batch(SOURCE, (), 7, now=99))
    [rows] = world.writer.transactions
    assert rows[OUT] == [Row(b"a", None, 1)]
    assert (rows[STORED][0].key, rows[STORED][0].value) == (b"a", None)
    assert [kept.offset for kept in world.kept_positions()] == [7]
    assert world.store.get(b"a") is None
    assert world.order == ["folded", "transaction", "committed", "stored", "ticked"]


async def test_what_fell_due_long_ago_has_the_time_of_the_last_record_so_that_its_retention_begins_now(
    world: World, lane: StatefulLane
) -> None:
    await world.process(lane, batch(record(3, b"1", key=b"a")))
    world.fold.due = [b"a"]
    await world.process(lane, Batch(SOURCE, (), 7, now=99))
    assert world.writer.transactions[-1][OUT] == [Row(b"a", None, TIME_MS + 3)]


async def test_a_change_of_the_due_index_alone_is_local(world: World, lane: StatefulLane) -> None:
    world.fold.local = [(5, b"a")]
    await world.process(lane, Batch(SOURCE, (), 7, now=99))
    assert world.writer.transactions == []
    assert world.store.due(10, 10) == [(5, b"a")]


async def test_an_exception_of_a_tick_is_no_poison_but_a_crash(world: World, lane: StatefulLane) -> None:
    world.fold.fails = RecordError("even this")
    await world.process(lane, Batch(SOURCE, (), 7, now=99))
    await until(lambda: world.crashes)
    assert world.crashes == [world.fold.fails]


# -- closing ------------------------------------------------------------------------------------------------------------------


async def test_closing_finishes_the_batch_in_work_and_acknowledges_what_it_did_not_process(world: World) -> None:
    lane = world.stateful()
    lane.start()
    world.hooks.hold = "folded"
    first, second = Event(batch(record(1, b"1", key=b"a"))), Event(batch(record(2, b"1", key=b"b")))
    lane.take(cast("Any", first))
    lane.take(cast("Any", second))
    await world.hooks.held.wait()
    closing = asyncio.create_task(lane.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    world.hooks.go.set()
    async with asyncio.timeout(5):
        await closing
    assert (first.acks, second.acks) == (1, 1)
    assert world.store.get(b"a") == b"1"
    assert world.store.get(b"b") is None, "whoever owns the partition next reads it again"
    assert len(world.writer.transactions) == 1
    assert world.writer.closed
    assert world.crashes == []


async def test_a_closed_lane_acknowledges_what_it_does_not_process(world: World) -> None:
    lane = world.stateful()
    lane.start()
    await lane.close()
    [event] = await world.process(lane, batch(record(1, b"1", key=b"a")))
    assert event.acks == 1
    assert world.fold.seen == []


async def test_an_idle_lane_closes_at_once_and_one_that_never_began_too(world: World) -> None:
    lane = world.stateful()
    lane.start()
    async with asyncio.timeout(1):
        await lane.close()
        await world.stateful().close()


# -- how far it is ------------------------------------------------------------------------------------------------------------


async def test_a_closed_lane_leaves_no_position_to_be_told_when_its_topic_is_known_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.unknown = {SOURCE}
    lane = world.stateless()
    lane.start()
    await world.process(lane, batch(record(5, b"1", key=b"a"), position=9))
    await lane.close()
    world.unknown = set()
    await lane._positions.flush()
    assert world.order[-1] == "position", "it was tried"
    assert world.commits == []
    world.store.close()


async def test_the_group_is_told_of_a_transaction_soon_after_it_and_of_none_that_failed(tmp_path: Path) -> None:
    world = World(tmp_path)
    lane = world.stateful(told_after_s=0.01)
    lane.start()
    await world.process(lane, batch(record(5, b"1", key=b"a"), position=9))
    await until(lambda: world.commits)
    assert world.order == ["folded", "transaction", "committed", "stored", "told", "position"]
    assert world.commits == [(SOURCE, 9, world.kept_positions()[-1].encode())]
    world.writer.fails = TransactionInDoubtError("lost")
    await world.process(lane, batch(record(10, b"1", key=b"a")))
    await lane.close()
    assert len(world.commits) == 1
    world.store.close()


async def test_the_group_is_told_of_a_tick_that_moved_the_position(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.write(Changes(rows={b"a": b"1"}))
    world.fold.due = [b"a"]
    lane = world.stateful()
    lane.start()
    await world.process(lane, Batch(SOURCE, (), 7, now=99))
    await lane.close()
    assert [offset for _, offset, _ in world.commits] == [7]
    world.store.close()


async def test_a_lane_tells_the_group_where_it_begins_for_one_that_was_killed_after_a_commit_may_not_have(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, position=Position(9, TIME_MS))
    world.store.write(Changes(position=world.position.encode().encode()))
    lane = world.stateful(told_after_s=0.01)
    lane.start()
    await until(lambda: world.commits)
    assert world.commits == [(SOURCE, 9, Position(9, TIME_MS).encode())]
    await lane.close()
    world.store.close()


async def test_where_retention_has_overtaken_a_partition_that_stands_the_group_is_told_where_it_stands(
    tmp_path: Path,
) -> None:
    stands = Position(9, TIME_MS, Poison(seen=4, bad=3, stopped="3 of the last 4 records are bad", stopped_at=9))
    world = World(tmp_path, position=Position(15, TIME_MS, stands.poison))
    world.store.write(Changes(position=stands.encode().encode()))
    lane = world.stateful()
    lane.start()
    await until(lambda: world.commits)
    [(_, offset, metadata)] = world.commits
    assert (offset, metadata) == (9, stands.encode())
    lane.take(cast("Any", Event(batch(record(15, b"1", key=b"a")))))
    await until(lambda: world.commands.stands)
    told = Position.of_committed(offset, metadata)
    assert told.poison is not None
    assert set(world.commands.stands) == {told.poison.stopped_at}, "a command for that stand is looked for"
    await lane.close()
    world.store.close()


async def test_a_lane_that_has_done_nothing_tells_the_group_nothing(tmp_path: Path) -> None:
    """A committed offset beside an empty changelog means that the changelog was deleted."""
    world = World(tmp_path, position=Position(9))
    lane = world.stateful()
    lane.start()
    await asyncio.sleep(0)
    await lane.close()
    assert world.commits == []
    world.store.close()


async def test_a_lane_whose_partition_has_a_new_owner_ends_with_its_last_batch_counted(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.commit_fails = CommitFailedError("rebalanced")
    lane = world.stateful(told_after_s=0.01)
    lane.start()
    await world.process(lane, batch(record(1, b"1", key=b"a")))
    await asyncio.sleep(0.05)
    await world.process(lane, *(batch(record(n, b"1", key=b"a")) for n in (2, 3)))
    assert world.crashes == []
    assert world.fold.seen == [1, 2]
    assert [told[1] for told in world.hooks.told] == [[1], [2]]
    await lane.close()
    world.store.close()


# -- a stage without state ---------------------------------------------------------------------------------------------------------


async def test_a_stage_without_state_commits_its_position_after_every_row_is_acknowledged(world: World) -> None:
    lane = world.stateless()
    lane.start()
    await world.process(lane, batch(record(1, b"1", key=b"a"), *bad(2), position=4))
    await until(lambda: world.commits)
    assert world.order == ["folded", "acknowledged", "published", "told", "position"]
    assert world.commits == [(SOURCE, 4, Position(4, TIME_MS + 2, Poison(seen=2, bad=1)).encode())]
    assert set(world.publisher.published[0]) == {OUT, DEAD}
    assert world.writer.transactions == []
    await lane.close()


async def test_a_stage_without_state_commits_its_last_position_when_it_closes(world: World) -> None:
    lane = world.stateless()
    lane.start()
    await world.process(lane, *(batch(record(n, b"1", key=b"a")) for n in (1, 2, 3)))
    await lane.close()
    assert world.commits[-1][:2] == (SOURCE, 4)
    assert len(world.publisher.published) == 3


async def test_rows_that_are_not_acknowledged_are_a_crash_and_no_position(world: World) -> None:
    world.publisher.fails = TimeoutError()
    lane = world.stateless()
    lane.start()
    await world.process(lane, batch(record(1, b"1", key=b"a")))
    await until(lambda: world.crashes)
    assert world.commits == []
    await lane.close()


async def test_a_position_that_the_group_no_longer_takes_ends_the_lane_and_not_the_process(world: World) -> None:
    world.commit_fails = CommitFailedError("rebalanced")
    lane = world.stateless()
    lane.start()
    await world.process(lane, batch(record(1, b"1", key=b"a")))
    await asyncio.sleep(0.05)
    await world.process(lane, *(batch(record(n, b"1", key=b"a")) for n in (2, 3)))
    assert world.crashes == []
    assert world.fold.seen == [1, 2]
    await lane.close()


async def test_a_stage_without_state_takes_no_notice_of_ticks(world: World) -> None:
    lane = world.stateless()
    lane.start()
    await world.process(lane, Batch(SOURCE, (), 7, now=99))
    assert world.order == []
    await lane.close()


async def test_a_stage_without_state_stops_and_resumes_at_the_same_record(world: World) -> None:
    lane = world.stateless()
    lane.start()
    event = await stopped(world, lane)
    assert [offset for _, offset, _ in world.commits] == [13]
    world.commands.command = ResumeCommand("first", 14)
    await event.acked.wait()
    await until(lambda: len(world.commits) > 1)
    assert [offset for _, offset, _ in world.commits] == [13, 20]
    dead = [
        records.decode_dead_letter(row.value, row.headers).offset
        for rows in world.publisher.published
        for row in rows.get(DEAD, [])
    ]
    assert dead == [11, 12, 13, 14]
    await lane.close()


# -- all lanes together ----------------------------------------------------------------------------------------------------------


async def test_a_batch_without_a_lane_is_nobodys_and_acknowledged(world: World) -> None:
    lanes = Lanes(close_timeout_s=1, on_crash=world.crashes.append)
    event = Event(batch(record(1)))
    lanes.take(cast("Any", event))
    assert event.acks == 1


async def test_a_lane_that_still_opens_says_so_and_gives_up_at_once_when_its_partition_goes(world: World) -> None:
    async def forever(partition: int, store: Store) -> None:  # noqa: ARG001 - the fold's signature
        while True:
            await asyncio.sleep(0)

    world.fold.opened = forever  # type: ignore[method-assign] # a monitor with millions of open deferrals
    lane = world.stateful()
    lane.start()
    event = Event(batch(record(1, b"1", key=b"a")))
    lane.take(cast("Any", event))
    await asyncio.sleep(0.05)
    assert lane.opening
    async with asyncio.timeout(5):
        await lane.close()
    assert (event.acks, world.crashes, world.fold.seen) == (1, [], [])
    assert world.fold.opening == [f"closed {SOURCE.partition}"]


async def test_a_lane_that_has_opened_opens_no_more(world: World, lane: StatefulLane) -> None:
    await world.process(lane, batch(record(1, b"1", key=b"a")))
    assert not lane.opening


async def test_a_lane_that_cannot_open_is_a_crash(world: World) -> None:
    async def fails(partition: int, store: Store) -> None:  # noqa: ARG001 - the fold's signature
        raise StoreCorruptError

    world.fold.opened = fails  # type: ignore[method-assign] # a disk that fails while it is read
    lane = world.stateful()
    lane.start()
    await until(lambda: world.crashes)
    assert [type(error) for error in world.crashes] == [StoreCorruptError]
    await lane.close()


async def test_an_opened_lane_takes_its_partitions_batches_until_all_are_closed(world: World) -> None:
    lanes = Lanes(close_timeout_s=1, on_crash=world.crashes.append)
    lanes.open(world.stateful())
    assert set(lanes.by_partition) == {SOURCE}
    event = Event(batch(record(1, b"1", key=b"a")))
    lanes.take(cast("Any", event))
    await event.acked.wait()
    await lanes.close()
    assert set(lanes.by_partition) == set()
    assert world.store.get(b"a") == b"1"
    await lanes.close()  # again is no harm
    assert world.crashes == []


async def test_a_fold_is_told_once_before_its_partitions_first_batch_and_once_after_its_last(world: World) -> None:
    """On that hangs that no series of a partition is told by two workers."""
    lanes = Lanes(close_timeout_s=5, on_crash=world.crashes.append)
    lanes.open(world.stateful())
    world.hooks.hold = "folded"
    lanes.take(cast("Any", Event(batch(record(1, b"1", key=b"a")))))
    await world.hooks.held.wait()
    closing = asyncio.create_task(lanes.close())
    await asyncio.sleep(0.01)
    assert world.fold.opening == [f"opening {SOURCE.partition} store", "opened"], "not while its batch is in work"
    world.hooks.go.set()
    await closing
    assert world.fold.opening[2:] == [f"closed {SOURCE.partition}"]
    await lanes.close()
    assert world.fold.opening[2:] == [f"closed {SOURCE.partition}"]
    assert world.crashes == []


async def test_a_hung_batch_does_not_hold_the_rebalance_but_ends_the_process(world: World) -> None:
    lanes = Lanes(close_timeout_s=0.05, on_crash=world.crashes.append)
    lanes.open(world.stateful())
    world.hooks.hold = "folded"
    lanes.take(cast("Any", Event(batch(record(1, b"1", key=b"a")))))
    await world.hooks.held.wait()
    async with asyncio.timeout(2):
        await lanes.close()
    assert [type(error) for error in world.crashes] == [TransactionInDoubtError]
    world.hooks.go.set()
    await until(lambda: world.writer.closed)


async def test_who_closes_while_others_close_waits_for_the_same_end(world: World) -> None:
    """A stop in the middle of a rebalance takes away what the last batches need."""
    lanes = Lanes(close_timeout_s=5, on_crash=world.crashes.append)
    lanes.open(world.stateful())
    world.hooks.hold = "folded"
    lanes.take(cast("Any", Event(batch(record(1, b"1", key=b"a")))))
    await world.hooks.held.wait()
    closings = [asyncio.create_task(lanes.close()) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert not any(closing.done() for closing in closings)
    world.hooks.go.set()
    await asyncio.gather(*closings)
    assert world.store.get(b"a") == b"1"
    assert world.crashes == []
