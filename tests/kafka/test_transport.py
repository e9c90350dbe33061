"""The consumer of batches without a broker: what was fetched, how it becomes batches, one at a time."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import CommitFailedError, IllegalStateError
from aiokafka.structs import TopicPartition
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka import transport
from streams.kafka.batches import Batch, Record
from streams.kafka.transport import (
    BACKLOG_BATCHES,
    BatchConsumer,
    Subscription,
    _Backlog,
    _size_of,
    watch_topics,
)
from tests.kafka.fakes import SOURCE, Clock, consumer_of, faust_app, record, until

# -- cutting a backlog ---------------------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(0, 2_000), max_size=60)


def backlog_of(sizes: list[int], *, gap: int = 1, after: int = 5) -> tuple[_Backlog, list[Record]]:
    records = [record(10 + index * gap, b"x" * size) for index, size in enumerate(sizes)]
    backlog = _Backlog(position=10 + len(sizes) * gap + after)
    backlog.add(records)
    return backlog, records


@given(SIZES, st.integers(1, 20), st.integers(100, 5_000), st.integers(1, 3))
def test_cutting_keeps_the_order_loses_nothing_and_keeps_to_the_limits(
    sizes: list[int], max_records: int, max_bytes: int, gap: int
) -> None:
    backlog, records = backlog_of(sizes, gap=gap)
    cut: list[Record] = []
    while (batch := backlog.cut(SOURCE, max_records, max_bytes)) is not None:
        assert batch.records
        assert not batch.is_tick
        assert len(batch.records) <= max_records
        assert len(batch.records) == 1 or sum(map(_size_of, batch.records)) <= max_bytes
        cut.extend(batch.records)
        left = records[len(cut) :]
        assert batch.position == (left[0].offset if left else backlog.position)
        assert backlog.size == sum(map(_size_of, left))
    assert cut == records


@given(SIZES, st.integers(1, 20), st.integers(100, 5_000))
def test_a_batch_takes_as_much_as_the_limits_allow(sizes: list[int], max_records: int, max_bytes: int) -> None:
    backlog, records = backlog_of(sizes)
    batch = backlog.cut(SOURCE, max_records, max_bytes)
    if batch is not None and backlog.records:
        one_more = [*batch.records, backlog.records[0]]
        assert len(one_more) > max_records or sum(map(_size_of, one_more)) > max_bytes
    elif batch is not None:
        assert list(batch.records) == records


def test_an_empty_backlog_gives_nothing() -> None:
    assert _Backlog(position=7).cut(SOURCE, 10, 1_000) is None


def test_the_position_after_the_last_record_passes_the_markers_behind_it() -> None:
    backlog, _ = backlog_of([1, 1], after=40)
    batch = backlog.cut(SOURCE, 10, 1_000)
    assert batch is not None
    assert batch.position == 52


def test_a_tick_comes_before_the_records_bears_the_offset_to_go_on_from_and_takes_none_of_them() -> None:
    backlog, records = backlog_of([1, 1])
    backlog.tick = 77
    assert backlog.cut(SOURCE, 10, 1_000) == Batch(SOURCE, (), 10, 77)
    assert backlog.tick is None
    then = backlog.cut(SOURCE, 10, 1_000)
    assert then is not None
    assert list(then.records) == records
    backlog.tick = 78
    assert backlog.cut(SOURCE, 10, 1_000) == Batch(SOURCE, (), backlog.position, 78)


def test_a_record_without_key_and_value_is_not_free() -> None:
    assert _size_of(record(1, None, key=b"")) > 0


# -- fetch -> backlog -> batch -> acknowledgement ----------------------------------------------------------------------------


class Thread:
    """Stands for the consumer's thread and the broker behind it."""

    def __init__(self) -> None:
        self.fetched: asyncio.Queue[tuple[dict[TP, list[Record]], dict[TP, int]]] = asyncio.Queue()
        self.asked: list[set[TP]] = []
        self.paused: dict[TP, bool] = {}
        self.started_at: list[dict[TP, int]] = []
        self.fails: BaseException | None = None

    async def take(self, tps: set[TP], timeout_s: float) -> Any:  # noqa: ARG002 - the thread's signature
        self.asked.append(set(tps))
        return await self.fetched.get()

    async def start_at(self, offsets: dict[TP, int]) -> None:
        self.started_at.append(dict(offsets))

    def set_paused_soon(self, tp: TP, *, paused: bool) -> None:
        self.paused[tp] = paused

    async def commit_positions(self, positions: Mapping[TP, tuple[int, str]]) -> set[TP]:  # noqa: ARG002 - the thread's signature
        if self.fails is not None:
            raise self.fails
        return set()


class World:
    """A consumer whose loops run, with what it delivers."""

    def __init__(self, **options: Any) -> None:
        self.app = faust_app(**options)
        self.consumer: BatchConsumer = consumer_of(self.app)
        self.thread = Thread()
        self.consumer._thread = cast("Any", self.thread)
        self.delivered: list[Any] = []
        self.consumer.callback = self._callback
        self.consumer.resume_flow()
        fetcher = cast("Any", type("Fetcher", (), {"should_stop": False})())
        self.tasks = [
            asyncio.create_task(self.consumer._drain_messages(fetcher)),
            asyncio.create_task(_task(self.consumer, "_deliver")),
            asyncio.create_task(_task(self.consumer, "_ticker")),
            asyncio.create_task(_task(self.consumer, "_settle")),
        ]

    async def _callback(self, message: Any) -> None:
        self.delivered.append(message)

    def fetch(self, *offsets: int, tp: TP = SOURCE, position: int | None = None) -> None:
        position = (offsets[-1] + 1 if offsets else -1) if position is None else position
        self.thread.fetched.put_nowait(({tp: [record(o, tp=tp) for o in offsets]} if offsets else {}, {tp: position}))

    @property
    def offsets(self) -> list[list[int]]:
        return [[r.offset for r in message.value.records] for message in self.delivered]

    @property
    def waiting(self) -> int:
        """How many fetched records wait for a batch."""
        backlog = self.consumer._backlogs.get(SOURCE)
        return len(backlog.records) if backlog else 0

    async def quiet(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _task(consumer: BatchConsumer, name: str) -> None:
    """Run what ``@Service.task`` would run."""
    task: Any = getattr(type(consumer), name)
    await task.fun(consumer)


@pytest.fixture
async def world() -> Any:
    world = World()
    yield world
    await world.close()


async def test_nothing_is_fetched_before_a_partition_was_started(world: World) -> None:
    await world.quiet()
    assert world.thread.asked == []
    await world.consumer.start_partitions({SOURCE: 10})
    assert world.thread.started_at == [{SOURCE: 10}]
    world.fetch(10)
    await until(lambda: world.delivered)
    assert world.thread.asked[0] == {SOURCE}, "asked by name: aiokafka complains about partitions it cannot place"


async def test_a_partition_has_one_batch_outside_and_the_next_takes_all_that_gathered_meanwhile(world: World) -> None:
    await world.consumer.start_partitions({SOURCE: 10})
    world.fetch(10)
    await until(lambda: world.delivered)
    for offset in (11, 12, 13):
        world.fetch(offset)
    await until(lambda: world.waiting == 3)
    assert world.offsets == [[10]]

    world.consumer.ack(world.delivered[0])
    await until(lambda: len(world.delivered) == 2)

    assert world.offsets == [[10], [11, 12, 13]]
    assert world.delivered[0].acked


async def test_a_position_beyond_the_last_record_is_made_true_when_no_record_takes_it_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SETTLE_S", 0.01)
    await world.consumer.start_partitions({SOURCE: 10})
    world.fetch(10, position=11)
    await until(lambda: world.delivered)
    world.fetch(position=14)  # aborted transactions
    await asyncio.sleep(0.1)
    assert len(world.delivered) == 1, "a batch is outside"

    world.consumer.ack(world.delivered[0])
    await until(lambda: len(world.delivered) == 2)
    world.consumer.ack(world.delivered[1])

    assert world.delivered[1].value == Batch(SOURCE, (), 14)
    await asyncio.sleep(0.1)
    assert len(world.delivered) == 2, "once"
    world.fetch(14)
    await until(lambda: len(world.delivered) == 3)
    assert world.offsets[2] == [14]


async def test_a_position_that_retention_has_overtaken_is_made_true_without_a_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SETTLE_S", 0.01)
    other = TP(SOURCE.topic, 3)
    await world.consumer.start_partitions({SOURCE: 10, other: 5}, committed={SOURCE: 3})

    await until(lambda: world.delivered)
    await asyncio.sleep(0.1)

    assert [message.value for message in world.delivered] == [Batch(SOURCE, (), 10)]


async def test_partitions_do_not_wait_for_each_other(world: World) -> None:
    other = TP(SOURCE.topic, 3)
    await world.consumer.start_partitions({SOURCE: 10, other: 20})
    world.fetch(10)
    world.fetch(20, tp=other)
    await until(lambda: len(world.delivered) == 2)
    assert world.offsets == [[10], [20]]


async def test_what_was_fetched_for_an_earlier_assignment_is_dropped(world: World) -> None:
    await world.consumer.start_partitions({SOURCE: 10})
    await until(lambda: world.thread.asked)
    world.consumer.stop_partitions()
    await world.consumer.start_partitions({SOURCE: 10})
    world.fetch(10, 11)  # was asked for before
    world.fetch(10, 11, 12)
    await until(lambda: world.delivered)
    assert world.offsets == [[10, 11, 12]]


async def test_a_batch_that_waited_while_its_partition_was_revoked_is_not_delivered() -> None:
    world = World()
    world.tasks[1].cancel()  # nothing is delivered yet
    try:
        await world.consumer.start_partitions({SOURCE: 10})
        world.fetch(10)
        await until(lambda: not world.consumer._ready.empty())
        world.consumer.stop_partitions()
        world.tasks.append(asyncio.create_task(_task(world.consumer, "_deliver")))
        await world.quiet()
        assert world.delivered == []
    finally:
        await world.close()


@pytest.mark.parametrize("generations_later", [0, 1])
async def test_an_acknowledgement_from_an_earlier_assignment_frees_nothing(
    world: World, generations_later: int
) -> None:
    await world.consumer.start_partitions({SOURCE: 10})
    world.fetch(10)
    await until(lambda: world.delivered)
    early = world.delivered[0]
    world.app.consumer_generation_id += generations_later
    world.consumer.stop_partitions()
    await world.consumer.start_partitions({SOURCE: 10})
    world.fetch()  # the question of before
    world.fetch(10)
    await until(lambda: len(world.delivered) == 2)
    world.fetch(11)
    world.consumer.ack(early)
    await until(lambda: world.waiting == 1)
    await world.quiet()
    assert world.offsets == [[10], [10]], "one batch of this assignment is outside"
    world.consumer.ack(world.delivered[1])
    await until(lambda: len(world.delivered) == 3)


async def test_a_full_backlog_pauses_its_partition_and_a_half_empty_one_resumes_it(world: World) -> None:
    await world.consumer.start_partitions({SOURCE: 0})
    world.fetch(0)
    await until(lambda: world.delivered)
    limit = world.consumer.batching.max_records * BACKLOG_BATCHES
    world.fetch(*range(1, limit))
    await until(lambda: world.waiting == limit - 1)
    assert world.thread.paused == {}
    world.fetch(limit)
    await until(lambda: world.thread.paused == {SOURCE: True})
    while world.waiting > limit // 2:
        assert world.thread.paused == {SOURCE: True}
        count = len(world.delivered)
        world.consumer.ack(world.delivered[-1])
        await until(lambda count=count: len(world.delivered) > count)  # type: ignore[misc] # a lambda's default has no type
    assert world.thread.paused == {SOURCE: False}


async def test_large_records_fill_a_backlog_too() -> None:
    world = World(max_records=1_000, max_bytes=1_000)
    try:
        await world.consumer.start_partitions({SOURCE: 0})
        world.thread.fetched.put_nowait(({SOURCE: [record(n, b"x" * 1_000) for n in range(8)]}, {SOURCE: 8}))
        await until(lambda: world.thread.paused == {SOURCE: True})
    finally:
        await world.close()


async def test_a_partition_that_lingers_gathers_what_comes_after_a_batch_and_lets_the_first_one_go_at_once() -> None:
    world = World(linger_s={SOURCE.topic: 0.3})
    try:
        await world.consumer.start_partitions({SOURCE: 10})
        world.fetch(10)
        await until(lambda: world.delivered)
        world.consumer.ack(world.delivered[0])
        world.fetch(11)
        await until(lambda: world.waiting == 1)
        await world.quiet()
        assert world.offsets == [[10]]
        world.fetch(12)
        await until(lambda: len(world.delivered) == 2)
        assert world.offsets == [[10], [11, 12]]
    finally:
        await world.close()


@pytest.mark.parametrize("share", [1.0, 0.5])
async def test_a_partition_rests_after_a_batch_as_long_as_that_took_or_a_share_of_it(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    world = World(rest_share={SOURCE.topic: share} if share != 1 else {})
    clock = world.consumer.loop.time
    later = 0.0
    monkeypatch.setattr(world.consumer.loop, "time", lambda: clock() + later, raising=False)
    monkeypatch.setattr(transport, "REST_MAX_S", 3600.0)
    try:
        await world.consumer.start_partitions({SOURCE: 10})
        world.fetch(10)
        await until(lambda: world.delivered)
        later = 60.0  # the batch took a minute
        world.consumer.ack(world.delivered[0])
        world.fetch(11)
        await until(lambda: world.waiting == 1)
        later = 60.0 + 60.0 * share - 1
        world.fetch(12)
        await until(lambda: world.waiting == 2)
        await world.quiet()
        assert world.offsets == [[10]]
        later = 60.0 + 60.0 * share + 1
        world.fetch(13)
        await until(lambda: len(world.delivered) == 2)
        assert world.offsets == [[10], [11, 12, 13]]
    finally:
        await world.close()


async def test_a_partition_does_not_rest_from_a_tick_nor_for_long_from_a_large_batch() -> None:
    world = World(tick_interval_s=0.02)
    try:
        await world.consumer.start_partitions({SOURCE: 10})
        world.fetch(10)
        await until(lambda: world.delivered)
        backlog = world.consumer._backlogs[SOURCE]
        backlog.cut_at -= 3600.0
        world.consumer.ack(world.delivered[0])
        assert backlog.rested_at - world.consumer.loop.time() == pytest.approx(transport.REST_MAX_S, abs=0.05)
        rested_at = backlog.rested_at
        cast("Clock", world.app.progress).time = 1_234
        await until(lambda: len(world.delivered) == 2)
        assert world.delivered[1].value.is_tick
        world.consumer.ack(world.delivered[1])
        assert backlog.rested_at == rested_at
    finally:
        await world.close()


@pytest.mark.parametrize("limit", [{"max_records": 3}, {"max_bytes": 300}])
async def test_a_partition_of_which_a_whole_batch_waits_does_not_rest(limit: dict[str, int]) -> None:
    world = World(**limit)
    try:
        await world.consumer.start_partitions({SOURCE: 10})
        world.fetch(10)
        await until(lambda: world.delivered)
        world.consumer.ack(world.delivered[0])
        world.consumer._backlogs[SOURCE].rested_at = world.consumer.loop.time() + 3600.0
        world.fetch(11, 12)
        await until(lambda: world.waiting == 2)
        await world.quiet()
        assert world.offsets == [[10]]
        world.fetch(13, 14, 15)
        await until(lambda: len(world.delivered) == 2)
    finally:
        await world.close()


async def test_neither_a_full_batch_nor_a_tick_lingers() -> None:
    world = World(linger_s={SOURCE.topic: 3600.0}, max_records=3, tick_interval_s=0.02)
    try:
        await world.consumer.start_partitions({SOURCE: 10})
        world.fetch(10)
        await until(lambda: world.delivered)
        world.consumer.ack(world.delivered[0])
        world.fetch(11, 12, 13)
        await until(lambda: len(world.delivered) == 2)
        world.consumer.ack(world.delivered[1])
        world.fetch(14)
        cast("Clock", world.app.progress).time = 1_234
        await until(lambda: len(world.delivered) == 3)
        assert world.delivered[2].value.now == 1_234
        assert world.offsets == [[10], [11, 12, 13], []]
    finally:
        await world.close()


async def test_what_lingers_while_its_partition_is_revoked_is_not_delivered() -> None:
    world = World(linger_s={SOURCE.topic: 0.1})
    try:
        await world.consumer.start_partitions({SOURCE: 10})
        world.fetch(10)
        await until(lambda: world.delivered)
        world.consumer.ack(world.delivered[0])
        world.fetch(11)
        await until(lambda: world.waiting == 1)
        world.consumer.stop_partitions()
        await asyncio.sleep(0.2)
        assert world.offsets == [[10]]
    finally:
        await world.close()


async def test_the_position_of_a_batch_passes_markers_that_were_read_with_it_or_after_it(world: World) -> None:
    await world.consumer.start_partitions({SOURCE: 10})
    world.fetch(10, 11, position=14)
    await until(lambda: world.delivered)
    assert world.delivered[0].value.position == 14
    world.consumer.ack(world.delivered[0])
    world.fetch(position=20)
    world.fetch(21)
    await until(lambda: len(world.delivered) == 2)
    assert world.delivered[1].value.position == 22


async def test_a_partition_gets_ticks_that_bear_the_position_and_only_when_the_time_is_known() -> None:
    world = World(tick_interval_s=0.02)
    raw = TP("mail.raw.sendgrid", 0)
    try:
        await world.consumer.start_partitions({SOURCE: 10, raw: 5})
        await asyncio.sleep(0.1)
        assert world.delivered == []
        cast("Clock", world.app.progress).time = 1_234
        await until(lambda: world.delivered)
        assert [(m.value.tp, m.value.records, m.value.position, m.value.now) for m in world.delivered] == [
            (SOURCE, (), 10, 1_234)
        ]
        await asyncio.sleep(0.1)
        assert len(world.delivered) == 1, "a tick waits for the one before, and raw topics get none"
        world.consumer.ack(world.delivered[0])
        await until(lambda: len(world.delivered) == 2)
    finally:
        await world.close()


async def test_a_revoke_empties_the_lanes_before_faust_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Lanes:
        async def close(self) -> None:
            order.append("lanes")

    async def faust_waits(self: Any, revoked: set[TP]) -> None:  # noqa: ARG001 - Faust's signature
        order.append("faust")

    class Restoring:
        class hooks:  # noqa: N801 - an attribute
            @staticmethod
            def revoked() -> None:
                order.append("told")

    world.app.lanes = cast("Any", Lanes())
    world.app.restoring = cast("Any", Restoring())
    monkeypatch.setattr("faust.transport.consumer.Consumer.on_partitions_revoked", faust_waits)
    await world.consumer.start_partitions({SOURCE: 10})
    await world.consumer.on_partitions_revoked({SOURCE})
    assert order == ["lanes", "told", "faust"], "a last tick tells nothing after that"
    assert world.waiting == 0


async def test_a_commit_for_a_partition_that_left_this_member_is_a_failed_commit(world: World) -> None:
    world.thread.fails = IllegalStateError("not assigned")
    with pytest.raises(CommitFailedError):
        await world.consumer.commit_positions({SOURCE: (5, "")})


# -- the topics of a static member -----------------------------------------------------------------------------------------


def member(
    *, static: bool = True, watched: set[str] | None = None, rebalancing: bool = False, left_over: str | None = None
) -> Any:
    """Return what ``watch_topics`` reads of a consumer that knows ``old`` and ``new``, and not ``gone``."""
    partitions = {"old": {0, 1}, "new": {0}}
    asked: list[str] = []
    return SimpleNamespace(
        _coordinator=SimpleNamespace(
            _group_instance_id="one" if static else None,
            _group_subscription=watched,
            _metadata_snapshot={},
            request_rejoin=lambda: asked.append("rejoin"),
        ),
        _subscription=SimpleNamespace(
            reassignment_in_progress=rebalancing, left_over=frozenset() if left_over is None else {left_over}
        ),
        _client=SimpleNamespace(cluster=SimpleNamespace(partitions_for_topic=partitions.get)),
        subscription=lambda: {"old", "new", "gone"},
        asked=asked,
    )


def test_a_static_member_watches_its_topics_and_asks_for_those_that_nobody_reads() -> None:
    consumer = member()
    assert watch_topics(consumer, {"old": 2}) == {"new"}
    assert consumer.asked == ["rejoin"]
    assert consumer._coordinator._group_subscription == {"old", "new", "gone"}
    assert consumer._coordinator._metadata_snapshot == {"old": 2, "new": 1, "gone": 0}


def test_a_static_member_whose_topics_are_all_divided_only_watches_them() -> None:
    consumer = member()
    assert watch_topics(consumer, {"old": 2, "new": 1}) == set()
    assert consumer.asked == []
    assert consumer._coordinator._group_subscription == {"old", "new", "gone"}


def test_a_static_member_asks_for_the_partitions_that_a_topic_got_before_it_came_back() -> None:
    consumer = member()
    assert watch_topics(consumer, {"old": 1, "new": 1}) == {"old"}
    assert consumer.asked == ["rejoin"]


def test_a_static_member_asks_once_who_reads_what_it_does_not_read_any_more() -> None:
    consumer = member(left_over="former")
    assert watch_topics(consumer, {"old": 2, "new": 1, "former": 1}) == {"former"}
    assert consumer.asked == ["rejoin"]
    again = member(left_over="former")
    assert watch_topics(again, {"old": 2, "new": 1, "former": 1}, frozenset({"former"})) == set()
    assert again.asked == []


async def test_of_an_assignment_only_partitions_of_topics_that_are_read_are_taken() -> None:
    subscription = Subscription()
    subscription.subscribe({"old"})
    subscription.assign_from_subscribed([TopicPartition("old", 1), TopicPartition("former", 0)])
    assert subscription.assigned_partitions() == {TopicPartition("old", 1)}
    assert subscription.left_over == {"former"}
    subscription.assign_from_subscribed([TopicPartition("old", 0)])
    assert subscription.left_over == set()


@pytest.mark.parametrize("other", [{"static": False}, {"watched": {"old"}}, {"rebalancing": True}])
def test_another_member_is_left_to_aiokafka(other: dict[str, Any]) -> None:
    consumer = member(**other)
    assert watch_topics(consumer, {}) == set()
    assert consumer.asked == []
    assert consumer._coordinator._group_subscription == other.get("watched")
