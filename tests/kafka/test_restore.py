"""From an assignment to lanes, against real logs; only the group's assignment itself is not Kafka's here."""

import asyncio
import re
import resource
import shutil
import struct
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    KafkaError,
    NotCoordinatorForGroupError,
)
from aiokafka.structs import TopicPartition
from faust.types import TP

from deploy.local.broker import Broker
from streams.kafka import restore, stores
from streams.kafka.application import BatchedApp
from streams.kafka.batches import Record, Row
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.lanes import POSITION_KEY, FoldTurn, Lane, LaneContext, StatefulLane, StatelessLane
from streams.kafka.offsets import committed_offsets
from streams.kafka.poison import Poison, PoisonLimit
from streams.kafka.positions import Position
from streams.kafka.restore import LaneTableManager, Restoring, StatefulStage, StatelessStage
from streams.kafka.store import CHANGELOG, CHANGELOG_OFFSET, CONDEMNED, SUSPECT, Budget, Changes, Store, open_store
from streams.kafka.stores import STALE_AFTER_S, RestoreError, Stores, Table
from streams.kafka.transactions import TransactionalWriter
from tests.contracts.clients import (
    NOW_MS,
    commit_position,
    end_of,
    fenced_writer,
    new_topic,
    new_writer,
    plain_transactional,
    rows,
    unique,
)
from tests.kafka.fakes import Commands, Fakes, until


def due_of(row: bytes) -> int:
    return int(struct.unpack(">Q", row[:8])[0])


def watch_of(row: bytes) -> int | None:
    return 1_000 + due_of(row) if row.endswith(b"watched") else None


def row(due: int, text: bytes = b"") -> bytes:
    return struct.pack(">Q", due) + text


class Fold:
    """A stage that holds nothing beside its table."""

    def closed(self, partition: int) -> None: ...


class World:
    """One partition of a stateful stage, one of a stage without state, and what a worker brings to them."""

    def __init__(self, broker: Broker, folder: Path, source: str, changelog: str, plain: str) -> None:
        self.broker = broker
        self.folder = folder
        self.group = unique("group")
        self.source, self.plain = TP(source, 0), TP(plain, 0)
        self.changelog = changelog
        self.writer_name = unique("owner")
        self.hooks = Fakes()
        self.writers: list[TransactionalWriter] = []
        self.opened: list[Lane] = []
        self.managers: list[LaneTableManager] = []

    def manager(self) -> LaneTableManager:
        """Return what a worker that starts now restores with."""
        app = BatchedApp(self.group, store="memory://", autodiscover=False, TableManager=LaneTableManager)
        app.restoring = Restoring(
            stateful=(
                StatefulStage(
                    name="track",
                    source_topic=self.source.topic,
                    fold=cast("Any", Fold()),
                    table=Table(name="deliveries", changelog_topic=self.changelog, due_of=due_of, watch_of=watch_of),
                ),
            ),
            stateless=(StatelessStage(name="normalise", source_topic=self.plain.topic, fold=cast("Any", None)),),
            client_options={"bootstrap_servers": self.broker.bootstrap},
            group_id=self.group,
            datadir=self.folder,
            budget=Budget(cache_bytes=1 << 20, write_buffer_bytes=1 << 20),
            new_writer=self._new_writer,
            publisher=cast("Any", None),
            lane_context=LaneContext(
                limit=PoisonLimit(share=0.5, window=100, minimum=5),
                dead_letters=DeadLetters(topic="dead", partitions=1, max_bytes=1_000),
                resume_commands=Commands(),
                hooks=self.hooks,
                on_crash=self.hooks.crashes.append,
                fold_turn=FoldTurn(),
            ),
            on_crash=self.hooks.crashes.append,
            hooks=self.hooks,
        )
        app.batching = cast("Any", None)
        app._consumer = cast("Any", type("Consumer", (), {"commit_positions": None})())
        manager = app.tables
        assert isinstance(manager, LaneTableManager)
        self.managers.append(manager)
        return manager

    def _new_writer(self, stage: str, partition: int) -> TransactionalWriter:
        assert (stage, partition) == ("track", 0)
        writer = new_writer(self.broker, transactional_id=self.writer_name)
        self.writers.append(writer)
        return writer

    async def restore(
        self, manager: LaneTableManager | None = None, *, timeout_s: float = 20
    ) -> tuple[StatefulLane, StatelessLane, Store]:
        manager = self.manager() if manager is None else manager  # Faust's table manager is an empty dictionary
        async with asyncio.timeout(timeout_s):
            lanes = await manager._open_lanes(frozenset({self.source, self.plain, TP(self.changelog, 0)}))
        self.opened += lanes
        stateful, stateless = lanes
        assert isinstance(stateful, StatefulLane)
        assert isinstance(stateless, StatelessLane)
        return stateful, stateless, manager.stores.by_source[self.source]

    async def crash(self) -> None:
        """Let go of everything, as the end of a process does."""
        for writer in self.writers:
            await writer.close()
        for manager in self.managers:
            manager.stores.close_but(set())
        self.opened, self.managers = [], []

    async def work(
        self,
        position: int,
        *changelog: tuple[bytes, bytes | None],
        position_row: Position | None = None,
        at_ms: int = NOW_MS,
    ) -> None:
        """Commit what a worker commits: rows, the position's row and the group's offset."""
        kept = position_row or Position(position, NOW_MS)
        async with fenced_writer(self.broker, transactional_id=self.writer_name) as writer:
            await writer.commit(
                {
                    (self.changelog, 0): [
                        *(Row(key, value, at_ms) for key, value in changelog),
                        Row(POSITION_KEY, kept.encode().encode(), at_ms),
                    ]
                },
            )
        await commit_position(self.broker, self.group, self.source.topic, position, kept.encode())

    async def fill_sources(self, count: int = 20) -> None:
        await commit_position(self.broker, unique("group"), self.plain.topic, 0)  # a young broker has no coordinator
        async with fenced_writer(self.broker) as writer:
            await writer.commit(
                {tp: rows(*(b"%d" % n for n in range(count))) for tp in (self.source, self.plain)},
            )

    async def commit_by_hand(self, tp: TP, offset: int, metadata: str = "") -> None:
        await commit_position(self.broker, self.group, tp.topic, offset, metadata)

    async def delete_before(self, tp: TP, offset: int) -> None:
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(*tp): RecordsToDelete(before_offset=offset)})
        finally:
            await admin.close()


@pytest.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    world = World(
        broker,
        tmp_path,
        await new_topic(broker, "source"),
        await new_topic(broker, "changelog", config={"cleanup.policy": "compact"}),
        await new_topic(broker, "plain"),
    )
    yield world
    await world.crash()


# -- positions -----------------------------------------------------------------------------------------------------------------


async def test_a_partition_that_was_never_worked_on_starts_at_the_beginning_of_its_log(world: World) -> None:
    await world.fill_sources()
    stateful, stateless, store = await world.restore()
    assert (stateful.tp, stateful.position) == (world.source, Position(0))
    assert (stateless.tp, stateless.position) == (world.plain, Position(0))
    assert list(store.rows()) == []


@pytest.mark.parametrize("wrong", [3, 15])
async def test_the_position_is_that_of_the_reserved_row_whatever_the_group_has_committed(
    world: World, wrong: int
) -> None:
    await world.fill_sources()
    await world.work(9, (b"a", row(1)), position_row=Position(9, NOW_MS, Poison(seen=9, bad=2)))
    await world.commit_by_hand(world.source, wrong)
    stateful, _, _ = await world.restore()
    assert stateful.position == Position(9, NOW_MS, Poison(seen=9, bad=2))


async def test_a_commit_that_is_still_pending_is_not_missed(world: World) -> None:
    await world.fill_sources()
    await world.work(4)
    # The previous owner asked for the commit and died; its markers are being written while the next one restores.
    async with plain_transactional(world.broker, world.writer_name) as previous:
        await previous.begin_transaction()
        await previous.send_and_wait(
            world.changelog, key=POSITION_KEY, value=Position(8).encode().encode(), partition=0
        )
        await previous.commit_transaction()
        stateful, _, _ = await world.restore()
        assert stateful.position.offset == 8


async def test_a_stage_without_state_goes_on_from_its_committed_offset_with_what_its_metadata_says(
    world: World,
) -> None:
    await world.fill_sources()
    kept = Position(7, NOW_MS, Poison(seen=7, bad=6, stopped="too many"))
    await world.commit_by_hand(world.plain, 7, kept.encode())
    _, stateless, _ = await world.restore()
    assert stateless.position == kept
    assert stateless.stopped == "too many"


async def test_an_offset_moved_by_hand_is_obeyed_in_a_stage_without_state(world: World) -> None:
    await world.fill_sources()
    await world.commit_by_hand(world.plain, 5, "by kafka-consumer-groups.sh")
    _, stateless, _ = await world.restore()
    assert stateless.position == Position(5)


async def test_records_that_retention_deleted_unread_are_skipped_and_counted(world: World) -> None:
    await world.fill_sources()
    await world.work(4)
    await world.delete_before(world.source, 10)
    stateful, _, _ = await world.restore()
    assert stateful.position.offset == 10
    assert world.hooks.skipped_offsets == [(world.source, 6)]


async def test_a_source_that_ends_before_the_position_was_made_anew_and_is_refused(world: World) -> None:
    await world.fill_sources(5)
    await world.work(400)
    with pytest.raises(RestoreError, match=r"ends at 6, but was processed up to 400.*worker\.app_id"):
        await world.restore()


async def test_a_source_of_a_stage_without_state_that_was_made_anew_names_what_lets_it_be_read(world: World) -> None:
    await world.fill_sources(5)
    await world.commit_by_hand(world.plain, 400)
    with pytest.raises(RestoreError, match=rf"--group {world.group} --topic {world.plain.topic}:0 --reset-offsets"):
        await world.restore()


# -- the changelog ----------------------------------------------------------------------------------------------------------------


async def test_a_store_holds_the_newest_row_of_each_key_and_the_index_finds_it(world: World) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(10)), (b"b", row(20)))
    await world.work(6, (b"a", row(30, b"newer")), (b"b", None), (b"c", row(5)))
    _, _, store = await world.restore()
    assert dict(store.rows()) == {b"a": row(30, b"newer"), b"c": row(5)}
    assert {entry for entry in store.due(100, 100) if store.get(entry[1])} >= {(30, b"a"), (5, b"c")}
    assert store.watched(2_000, 100) == []
    assert store.position == Position(6, NOW_MS).encode().encode()
    assert POSITION_KEY not in dict(store.rows()), "the reserved row is no row"


async def test_a_row_that_is_watched_is_found_in_its_own_index(world: World) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(10, b"watched")), (b"b", row(20)))
    _, _, store = await world.restore()
    assert store.watched(2_000, 100) == [(1_010, b"a")]
    assert store.due(100, 100) == [(10, b"a"), (20, b"b")]


async def test_a_store_that_was_elsewhere_for_longer_than_tombstones_are_kept_is_read_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(10)), (b"b", row(20)))
    _, _, store = await world.restore()
    # another owner deletes a row, and its tombstone is compacted away: here it is a row that the log never had
    store.write(Changes(rows={b"compacted": row(30)}))
    await world.crash()
    await world.work(6, (b"a", row(40)))

    _, _, store = await world.restore()
    assert dict(store.rows()) == {b"a": row(40), b"b": row(20), b"compacted": row(30)}, "a young one reads the tail"
    await world.crash()
    await world.work(8, (b"a", row(50)))
    days_later = time.time() + 4 * 86_400
    monkeypatch.setattr(stores, "time", SimpleNamespace(time=lambda: days_later, monotonic=time.monotonic))

    _, _, store = await world.restore()
    assert dict(store.rows()) == {b"a": row(50), b"b": row(20)}
    assert store.due(100, 100)[-1] == (50, b"a")


@pytest.mark.parametrize("lacks", [0, 1], ids=["nothing", "the last marker, as a lane leaves it"])
async def test_a_store_that_lacks_no_row_is_kept_however_old_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch, lacks: int
) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(10)))
    _, _, store = await world.restore()
    end = await end_of(world.broker, world.changelog)
    store._database.put(CHANGELOG_OFFSET, struct.pack(">Q", end - lacks))
    store.write(Changes(rows={b"mark": row(30)}))
    await world.crash()
    years_later = time.time() + 400 * 86_400
    monkeypatch.setattr(stores, "time", SimpleNamespace(time=lambda: years_later, monotonic=time.monotonic))
    _, _, store = await world.restore()
    assert dict(store.rows()) == {b"a": row(10), b"mark": row(30)}
    assert store.changelog_offset == end


async def test_a_store_that_lacks_what_came_after_a_quiet_time_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lacks the last marker of before, and rows that are not old."""
    await world.fill_sources()
    await world.work(3, (b"a", row(10)))
    _, _, store = await world.restore()
    store._database.put(CHANGELOG_OFFSET, struct.pack(">Q", await end_of(world.broker, world.changelog) - 1))
    store.write(Changes(rows={b"mark": row(30)}))
    await world.crash()
    quiet_until = time.time() + 1
    await world.work(6, (b"b", row(20)), at_ms=int(quiet_until * 1000) + 1)
    then = SimpleNamespace(time=lambda: quiet_until + STALE_AFTER_S, monotonic=time.monotonic)
    monkeypatch.setattr(stores, "time", then)
    _, _, store = await world.restore()
    assert dict(store.rows()) == {b"a": row(10), b"b": row(20), b"mark": row(30)}


async def test_a_changelog_that_ends_in_markers_is_restored_to_its_end_and_does_not_hang(world: World) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    async with plain_transactional(world.broker, world.writer_name) as aborted:
        await aborted.begin_transaction()
        await aborted.send_and_wait(world.changelog, key=b"a", value=row(66), partition=0)
        await aborted.abort_transaction()
    end = await end_of(world.broker, world.changelog)
    assert end == 5  # two rows, a commit marker, a row that was never, an abort marker
    _, _, store = await world.restore(timeout_s=10)
    assert store.changelog_offset == end
    assert dict(store.rows()) == {b"a": row(1)}


async def test_what_a_previous_owner_left_open_is_ended_first_and_never_restored(world: World) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    zombie = new_writer(world.broker, transactional_id=world.writer_name)
    await zombie.fence()
    producer = zombie._producer
    assert producer is not None
    await producer.begin_transaction()
    await producer.send_and_wait(world.changelog, key=b"a", value=row(66), partition=0)

    _, _, store = await world.restore(timeout_s=10)

    assert dict(store.rows()) == {b"a": row(1)}
    assert store.changelog_offset == await end_of(world.broker, world.changelog)
    with pytest.raises(Exception, match=r"newer producer|fenced|Fenced|epoch"):
        await producer.commit_transaction()
    await zombie.close()


async def test_every_partition_is_fenced_before_anything_is_read(world: World) -> None:
    order: list[str] = []

    async def fenced(point: str, tp: TP) -> None:
        order.append(point)
        assert tp == world.source

    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    world.hooks.on_reached = fenced
    manager = world.manager()
    open_store = manager.stores._open_one

    def opened(*arguments: Any) -> Store:
        order.append("opened")
        return open_store(*arguments)

    manager.stores._open_one = opened  # type: ignore[method-assign, assignment] # only to see when
    await world.restore(manager)
    assert order == ["fenced", "opened"]


async def test_a_fence_that_takes_too_long_names_what_it_fences(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: TransactionalWriter) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(restore, "FENCE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(TransactionalWriter, "fence", never)
    with pytest.raises(TimeoutError) as found:
        await world.restore()
    assert found.value.__notes__ == [f"while {world.writer_name} was fenced"]


@pytest.mark.parametrize(("limit", "told"), [(387, True), (388, False), (resource.RLIM_INFINITY, False)])
async def test_too_few_open_files_for_the_stores_of_an_assignment_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: int, *, told: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    await world.fill_sources()

    await world.restore()

    warned = [message for message in caplog.messages if "open files" in message]
    assert bool(warned) == told
    assert all("1 stores may need 388 open files, but the process may open only 387" in each for each in warned)


async def test_a_restore_tells_from_its_beginning_how_much_is_left_in_the_metric_and_in_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "streams.kafka.stores")
    monkeypatch.setattr(stores, "PROGRESS_EVERY_S", 0)
    await world.fill_sources()
    for position in range(1, 4):
        await world.work(position, *((b"%d" % n, row(n, b"x" * 1_000)) for n in range(3_000)))
    offsets = await end_of(world.broker, world.changelog)

    monkeypatch.setattr(stores, "ROWS_AT_ONCE", 1_000)
    await world.restore()

    told = world.hooks.remaining_offsets
    assert (told[0], told[-1]) == (offsets, 0), "all of it before the first is read"
    assert len(set(told)) > 3
    assert told == sorted(told, reverse=True)
    begun, *progress = [message for message in caplog.messages if "offsets" in message]
    assert begun == f"restoring {offsets} changelog offsets of 1 partitions"
    assert progress[-1] == "restored 100 %, 0 offsets left"
    assert len(progress) == len(told) - 1
    assert re.fullmatch(r"restored [1-9]\d? %, \d+ offsets left", progress[0]), progress[0]


async def test_a_restart_reads_only_what_its_store_lacks(world: World) -> None:
    await world.fill_sources()
    await world.work(3, *((b"%d" % n, row(n)) for n in range(50)))
    await world.restore()
    assert world.hooks.restored_rows == 51
    assert world.hooks.remaining_offsets[-1] == 0
    await world.crash()
    await world.work(4, (b"new", row(7)))
    world.hooks.restored_rows = 0
    _, _, store = await world.restore()
    assert world.hooks.restored_rows == 2
    assert len(dict(store.rows())) == 51


@pytest.mark.parametrize("loaded_offsets", [1, 10_000])
async def test_a_kill_after_a_restore_takes_nothing_back_though_a_long_one_wrote_without_the_stores_log(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loaded_offsets: int
) -> None:
    monkeypatch.setattr(stores, "LOADED_OFFSETS", loaded_offsets)
    await world.fill_sources()
    rows = {b"%d" % n: row(n, b"x" * 1_000) for n in range(50)}
    await world.work(3, *rows.items())
    end = await end_of(world.broker, world.changelog)
    _, _, store = await world.restore()
    killed = tmp_path / "killed"
    shutil.copytree(store.path, killed)  # what is on disk while it is open
    logged_bytes = sum(path.stat().st_size for path in killed.glob("*.log"))
    assert (logged_bytes < 5_000) == (loaded_offsets == 1)
    left = open_store(killed, Budget(cache_bytes=1 << 20, write_buffer_bytes=1 << 20), on_rebuild=pytest.fail)
    assert (dict(left.rows()), left.changelog_offset) == (rows, end)
    left.close()


@pytest.mark.parametrize("loaded_offsets", [1, 40], ids=["and loads on", "and writes what is left"])
async def test_a_restore_that_is_cut_off_while_it_loads_goes_on_and_leaves_no_store_loading(
    world: World, monkeypatch: pytest.MonkeyPatch, loaded_offsets: int
) -> None:
    monkeypatch.setattr(stores, "LOADED_OFFSETS", loaded_offsets)
    monkeypatch.setattr(stores, "ROWS_AT_ONCE", 20)
    await world.fill_sources()
    rows = {b"%d" % n: row(n) for n in range(50)}
    await world.work(3, *rows.items())
    apply, manager = Stores._apply, world.manager()
    cut_off: list[bool] = []

    def fails_once(table: Table, store: Store, records: Sequence[Record]) -> None:
        apply(table, store, records)
        if not cut_off:
            cut_off.append(store.is_loading)
            raise KafkaConnectionError

    monkeypatch.setattr(Stores, "_apply", staticmethod(fails_once))
    with pytest.raises(KafkaConnectionError):
        await world.restore(manager)
    assert cut_off == [True]
    _, _, store = await world.restore(manager)
    assert not store.is_loading
    assert dict(store.rows()) == rows


async def test_the_loop_goes_on_while_a_store_is_opened_anew_and_a_restore_that_is_cut_off_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB may take seconds for it, and the next restore uses the store."""
    monkeypatch.setattr(stores, "LOADED_OFFSETS", 1)
    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    begun, go, set_loading = threading.Event(), threading.Event(), Store.set_loading

    def slow(store: Store, *, loading: bool) -> None:
        begun.set()
        assert go.wait(20)
        set_loading(store, loading=loading)

    monkeypatch.setattr(Store, "set_loading", slow)
    manager = world.manager()
    restoring = asyncio.create_task(world.restore(manager))
    await until(begun.is_set)
    for _ in range(2):
        restoring.cancel()
        await asyncio.sleep(0.05)
    assert not restoring.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert manager.stores.by_source[world.source].is_loading
    _, _, store = await world.restore(manager)
    assert (store.is_loading, dict(store.rows())) == (False, {b"a": row(1)})


async def test_a_store_that_is_up_to_date_reads_nothing(world: World) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    await world.restore()
    await world.crash()
    world.hooks.restored_rows = 0
    stateful, _, store = await world.restore()
    assert world.hooks.restored_rows == 0
    assert stateful.position.offset == 3
    assert dict(store.rows()) == {b"a": row(1)}


async def test_a_condemned_store_is_rebuilt_from_the_changelog(world: World) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    _, _, store = await world.restore()
    path = store.path
    await world.crash()
    (path / CONDEMNED).touch()
    stateful, _, store = await world.restore()
    assert dict(store.rows()) == {b"a": row(1)}
    assert stateful.position.offset == 3
    assert [name for name, _ in world.hooks.rebuilds] == [path.name]


async def test_a_suspect_store_is_read_through_and_rebuilt_at_the_same_start_if_it_is_corrupt(world: World) -> None:
    await world.fill_sources()
    await world.work(3, *((b"%d" % n, row(n, b"x" * 500)) for n in range(100)))
    _, _, store = await world.restore()
    path = store.path
    await world.crash()
    (path / SUSPECT).touch()
    _, _, store = await world.restore()
    assert world.hooks.rebuilds == [], "it is sound"
    assert not store.suspect
    await world.crash()

    (path / SUSPECT).touch()
    table = max(path.glob("*.sst"), key=lambda each: each.stat().st_size)
    damaged = bytearray(table.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    table.write_bytes(damaged)
    stateful, _, store = await world.restore()
    assert [name for name, _ in world.hooks.rebuilds] == [path.name]
    assert len(dict(store.rows())) == 100
    assert stateful.position.offset == 3


async def test_an_empty_changelog_of_a_source_that_was_worked_on_is_no_fresh_start(world: World) -> None:
    await world.fill_sources()
    await world.commit_by_hand(world.source, 9)
    with pytest.raises(RestoreError, match="is empty, although its source was worked on"):
        await world.restore()


async def test_a_changelog_that_lost_its_beginning_is_refused(world: World) -> None:
    await world.fill_sources()
    world.changelog = await new_topic(world.broker, "changelog", config={"cleanup.policy": "compact,delete"})
    await world.work(3, (b"a", row(1)))
    await world.work(4, (b"b", row(1)))
    await world.delete_before(TP(world.changelog, 0), 3)
    with pytest.raises(RestoreError, match="begins at offset 3, but is needed from 0 on"):
        await world.restore()


async def test_a_changelog_that_is_shorter_than_the_store_is_refused(world: World) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    _, _, store = await world.restore()
    store.write(Changes(changelog_offset=99))
    await world.crash()
    with pytest.raises(RestoreError, match="ends at 3, but the store deliveries-0 is at 99"):
        await world.restore()


async def test_a_store_of_another_app_id_is_rebuilt_and_nothing_of_it_is_left(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    await world.restore()
    await world.crash()
    world.changelog = await new_topic(world.broker, "another-changelog", config={"cleanup.policy": "compact"})
    await world.work(4, (b"b", row(1)), (b"c", row(1)), (b"d", row(1)))  # it has more than the store was at
    for _ in range(2):
        stateful, _, store = await world.restore()
        assert dict(store.rows()) == {b"b": row(1), b"c": row(1), b"d": row(1)}
        assert stateful.position.offset == 4
        await world.crash()
    assert caplog.text.count("store deliveries-0 is a copy of another worker.app_id's changelog, and is rebuilt") == 1


async def test_a_store_of_an_older_version_is_kept_and_notes_its_changelog(world: World) -> None:
    await world.fill_sources()
    await world.work(3, (b"a", row(1)))
    _, _, store = await world.restore()
    path = store.path
    await world.crash()
    older = open_store(path, Budget(cache_bytes=1 << 20, write_buffer_bytes=1 << 20), on_rebuild=pytest.fail)
    older._database.delete(CHANGELOG)
    older.close()
    world.hooks.restored_rows = 0
    _, _, store = await world.restore()
    assert world.hooks.restored_rows == 0
    assert store.changelog == world.changelog.encode()


async def test_a_restore_that_fails_lets_go_of_its_producers(world: World) -> None:
    await world.fill_sources()
    await world.commit_by_hand(world.source, 9)
    with pytest.raises(RestoreError):
        await world.restore()
    assert len(world.writers) == 1
    assert world.writers[0]._producer is None


@pytest.mark.parametrize("client", [AIOKafkaConsumer, AIOKafkaAdminClient], ids=lambda client: str(client.__name__))
async def test_a_restore_that_is_given_up_while_a_client_starts_closes_it(
    world: World, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    await world.fill_sources()
    start, started = client.start, asyncio.Event()
    clients: list[Any] = []

    async def starts_slowly(one: Any) -> None:
        await start(one)
        clients.append(one)
        started.set()
        await asyncio.sleep(60)

    manager = world.manager()
    App(world, manager)
    monkeypatch.setattr(client, "start", starts_slowly)
    manager._task = asyncio.create_task(manager._restore(frozenset({world.source}), 5))
    async with asyncio.timeout(20):
        await started.wait()
        manager.on_partitions_revoked({world.source})
        await asyncio.wait([manager._task])
    assert [one._closed for one in clients] == [True]


async def test_stores_of_partitions_that_moved_away_are_closed_and_others_stay_open(world: World) -> None:
    await world.fill_sources()
    manager = world.manager()
    stateful, _, store = await world.restore(manager)
    await stateful.release()
    again, _, same = await world.restore(manager)
    assert same is store
    await again.release()
    await manager._open_lanes(frozenset({world.plain}))
    assert manager.stores.by_source == {}


# -- as Faust calls it --------------------------------------------------------------------------------------------------------------


class App:
    """What the table manager asks of the rest of the app at an assignment."""

    def __init__(self, world: World, manager: LaneTableManager) -> None:
        self.order: list[str] = []
        app = manager.app
        app.consumer_generation_id = 5
        app._consumer = cast("Any", self)
        app.lanes = cast("Any", self)
        app._fetcher = cast("Any", self)
        app.flow_control = cast("Any", self)
        self.started: dict[TP, int] = {}
        self.committed: dict[TP, int] = {}
        self.lanes: list[Lane] = []
        self.world = world

    async def commit_positions(self, positions: Mapping[TP, tuple[int, str]]) -> set[TP]:  # noqa: ARG002 - the consumer's
        return set()

    async def pause_all(self) -> None:
        self.order.append("pause")

    def stop_partitions(self) -> None:
        self.order.append("stop")

    async def close(self) -> None:
        self.order.append("closed")

    def pause_partitions(self, tps: Any) -> None: ...

    def assignment(self) -> set[TP]:
        return set()

    async def start_partitions(self, offsets: dict[TP, int], *, committed: dict[TP, int]) -> None:
        self.order.append("seek")
        self.started = offsets
        self.committed = committed

    def open(self, lane: Lane) -> None:
        self.order.append("lane")
        self.lanes.append(lane)
        self.world.opened.append(lane)

    def resume_partitions(self, tps: Any) -> None:  # noqa: ARG002 - the consumer's signature
        self.order.append("resume")

    def resume(self) -> None: ...

    def resume_flow(self) -> None:
        self.order.append("flow")

    async def maybe_start(self) -> None:
        self.order.append("fetch")


async def restored(manager: LaneTableManager, assigned: set[TP], generation_id: int) -> None:
    task = asyncio.create_task(manager._restore(frozenset(assigned), generation_id))
    async with asyncio.timeout(20):
        await task


async def test_partitions_are_sought_and_lanes_opened_before_anything_is_delivered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchedApp, "fetcher", property(lambda app: app._fetcher))
    await world.fill_sources()
    await world.work(9)
    manager = world.manager()
    app = App(world, manager)
    await restored(manager, {world.source, world.plain}, 5)
    assert world.hooks.crashes == []
    assert app.order == ["seek", "lane", "lane", "resume", "flow", "fetch"]
    assert app.started == {world.source: 9, world.plain: 0}
    assert manager.actives_ready
    assert not manager.restoring


async def test_a_restore_that_was_overtaken_by_a_rebalance_opens_nothing(world: World) -> None:
    await world.fill_sources()
    manager = world.manager()
    app = App(world, manager)
    manager.app.consumer_generation_id = 6
    await restored(manager, {world.source, world.plain}, 5)
    assert app.order == []
    assert not manager.actives_ready
    assert world.hooks.crashes == []


async def test_a_restore_that_fails_crashes_the_worker(world: World) -> None:
    await world.fill_sources()
    await world.commit_by_hand(world.source, 9)
    manager = world.manager()
    app = App(world, manager)
    await restored(manager, {world.source, world.plain}, 5)
    assert [type(error) for error in world.hooks.crashes] == [RestoreError]
    assert app.order == []
    assert not manager.actives_ready


async def test_a_revoke_gives_up_the_restore_under_way(world: World) -> None:
    reached = asyncio.Event()

    async def hold(point: str, tp: TP) -> None:  # noqa: ARG001 - the hook's signature
        reached.set()
        await asyncio.sleep(60)

    world.hooks.on_reached = hold
    manager = world.manager()
    app = App(world, manager)
    manager._task = asyncio.create_task(manager._restore(frozenset({world.source}), 5))
    async with asyncio.timeout(20):
        await reached.wait()
        assert manager.restoring
        manager.on_partitions_revoked({world.source})
        await asyncio.wait([manager._task])
    assert not manager.restoring
    assert world.hooks.crashes == []
    assert app.order == []
    assert world.writers[0]._producer is None, "its producer is let go of"


async def test_a_restore_that_is_given_up_is_told_so_once_and_closes_what_it_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next assignment can come while it still closes: told again it would leave its producers open."""
    reached, closing = asyncio.Event(), asyncio.Event()

    async def hold(point: str, tp: TP) -> None:  # noqa: ARG001 - the hook's signature
        reached.set()
        await asyncio.sleep(60)

    close = TransactionalWriter.close

    async def closes_slowly(writer: TransactionalWriter) -> None:
        closing.set()
        await asyncio.sleep(0.2)
        await close(writer)

    monkeypatch.setattr(TransactionalWriter, "close", closes_slowly)
    world.hooks.on_reached = hold
    manager = world.manager()
    App(world, manager)
    manager._task = asyncio.create_task(manager._restore(frozenset({world.source}), 5))
    async with asyncio.timeout(20):
        await reached.wait()
        manager.on_partitions_revoked({world.source})
        await closing.wait()
        await manager._cancel()
    assert world.writers[0]._producer is None


async def test_a_restore_that_did_not_hear_that_it_is_given_up_is_told_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "CANCEL_AGAIN_S", 0.05)
    heard = 0

    async def deaf() -> None:
        nonlocal heard
        while heard < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:  # as some of aiokafka's own do
                heard += 1

    manager = world.manager()
    manager._task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await manager._cancel()
    assert heard == 2


async def test_a_group_whose_coordinator_still_loads_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for a group that never committed, it would begin at the oldest record."""
    await world.fill_sources()
    await world.commit_by_hand(world.plain, 4)
    answers: list[KafkaError] = [GroupLoadInProgressError(), NotCoordinatorForGroupError()]

    async def loads(*asked: Any) -> Any:
        if answers:
            raise answers.pop()
        return await committed_offsets(*asked)

    monkeypatch.setattr(restore, "committed_offsets", loads)
    monkeypatch.setattr(restore, "COMMITTED_RETRY_S", 0.01)
    _, lane, _ = await world.restore()
    assert answers == []
    assert lane.position.offset == 4


@pytest.mark.parametrize("error", [GroupAuthorizationFailedError(), GroupLoadInProgressError()])
async def test_a_group_whose_positions_are_never_told_is_no_new_one(
    world: World, monkeypatch: pytest.MonkeyPatch, error: KafkaError
) -> None:
    async def never(*_: Any) -> Any:
        raise error

    await world.fill_sources()
    monkeypatch.setattr(restore, "committed_offsets", never)
    monkeypatch.setattr(restore, "COMMITTED_TIMEOUT_S", 0.5)
    manager = world.manager()
    App(world, manager)
    await restored(manager, {world.source, world.plain}, 5)
    assert world.hooks.crashes == [error]


async def test_a_closed_table_manager_begins_no_restore(world: World) -> None:
    """A worker that stops in the middle of a rebalance may still be assigned something."""
    manager = world.manager()
    app = App(world, manager)
    await manager.close()
    await manager.on_rebalance({world.source}, set(), {world.source}, 5)
    assert app.order == ["stop", "closed"]
    assert manager._task is None
