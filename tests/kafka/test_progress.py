import time
from collections.abc import Mapping

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.broker import Broker
from streams.kafka.poison import Position
from streams.kafka.progress import Progress, Standing, time_for_tick
from tests.contracts.clients import fenced_writer, new_topic, plain_transactional, rows, unique

WALL = 1_790_000_000_000_000
HOUR = 3_600_000_000
AT_END = Standing(end=10, position=10, timestamp_ms=5)


def behind(hours_ago: float) -> Standing:
    return Standing(end=10, position=4, timestamp_ms=round((WALL - hours_ago * HOUR) / 1000))


def test_in_silence_the_time_is_the_wall_clock_however_old_the_last_record() -> None:
    assert time_for_tick(WALL, [AT_END, Standing(0, 0, -1)]) == WALL
    assert time_for_tick(WALL, []) == WALL


def test_in_a_backlog_the_time_is_that_of_the_record_processed_last() -> None:
    assert time_for_tick(WALL, [AT_END, behind(2)]) == WALL - 2 * HOUR


def test_of_several_backlogs_the_oldest_counts() -> None:
    assert time_for_tick(WALL, [behind(1), behind(3), behind(2)]) == WALL - 3 * HOUR


def test_a_backlog_of_which_nothing_was_processed_says_nothing() -> None:
    assert time_for_tick(WALL, [AT_END, Standing(end=10, position=0, timestamp_ms=-1)]) is None


def test_a_record_of_the_future_is_not_believed() -> None:
    assert time_for_tick(WALL, [behind(-5)]) == WALL


def test_lag_counts_offsets_and_is_never_negative() -> None:
    assert Standing(end=10, position=4, timestamp_ms=0).lag == 6
    assert Standing(end=4, position=10, timestamp_ms=0).lag == 0


STANDINGS = st.builds(
    Standing, end=st.integers(0, 20), position=st.integers(0, 20), timestamp_ms=st.integers(-1, WALL // 500)
)


@given(st.lists(STANDINGS, max_size=6))
def test_the_time_is_never_after_the_wall_clock_nor_after_any_backlogs_last_record(standings: list[Standing]) -> None:
    now = time_for_tick(WALL, standings)
    if now is None:
        assert any(s.lag and s.timestamp_ms < 0 for s in standings)
    else:
        assert now <= WALL
        assert all(now <= s.timestamp_ms * 1000 for s in standings if s.lag)


# -- Progress -------------------------------------------------------------------------------------------------------------

EVENTS, RAW = TP("events", 0), TP("raw", 3)
OTHER = TP("other", 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [1_000.0]
    monkeypatch.setattr("streams.kafka.progress.time.monotonic", lambda: seconds[0])
    return seconds


def progress_of(standings: Mapping[TP, Standing], wall_us: int = WALL) -> Progress:
    progress = Progress(client_options={}, group_id="group", upstream_topics={"events": ("raw",)})
    saw(progress, standings, wall_us)
    return progress


def saw(progress: Progress, standings: Mapping[TP, Standing], wall_us: int) -> None:
    progress._standings = dict(standings)
    progress._wall_us = wall_us
    progress._looked_at = time.monotonic()


@pytest.mark.usefixtures("clock")
def test_a_backlog_on_any_upstream_partition_holds_a_ticks_time_back() -> None:
    progress = progress_of({EVENTS: AT_END, RAW: behind(2)})
    assert progress.now(EVENTS) == WALL - 2 * HOUR


@pytest.mark.usefixtures("clock")
def test_a_backlog_of_the_partition_itself_holds_its_time_back_and_that_of_its_neighbour_does_not() -> None:
    progress = progress_of({EVENTS: behind(2), TP("events", 1): AT_END, RAW: AT_END})
    assert progress.now(EVENTS) == WALL - 2 * HOUR
    assert progress.now(TP("events", 1)) == WALL


@pytest.mark.usefixtures("clock")
def test_topics_that_are_not_upstream_say_nothing() -> None:
    assert progress_of({EVENTS: AT_END, OTHER: behind(9)}).now(EVENTS) == WALL


@pytest.mark.usefixtures("clock")
def test_the_time_never_goes_back() -> None:
    progress = progress_of({EVENTS: AT_END, RAW: AT_END})
    assert progress.now(EVENTS) == WALL
    saw(progress, {EVENTS: AT_END, RAW: behind(2)}, WALL + 1_000_000)
    assert progress.now(EVENTS) == WALL
    saw(progress, {EVENTS: AT_END, RAW: AT_END}, WALL + 2_000_000)
    assert progress.now(EVENTS) == WALL + 2_000_000


@pytest.mark.usefixtures("clock")
@given(st.lists(st.tuples(st.lists(STANDINGS, max_size=3), st.integers(WALL - HOUR, WALL + HOUR)), max_size=10))
def test_the_time_never_goes_back_whatever_is_seen(looks: list[tuple[list[Standing], int]]) -> None:
    progress = progress_of({})
    last = 0
    for standings, wall_us in looks:
        saw(progress, {TP("raw", p): standing for p, standing in enumerate(standings)}, wall_us)
        now = progress.now(EVENTS)
        assert now is None or now >= last
        last = last if now is None else now


def test_without_a_fresh_look_there_is_no_time(clock: list[float]) -> None:
    progress = progress_of({EVENTS: AT_END})
    assert progress.fresh
    clock[0] += 60
    assert not progress.fresh
    assert progress.now(EVENTS) is None


def test_before_the_first_look_there_is_no_time() -> None:
    progress = Progress(client_options={}, group_id="group", upstream_topics={"events": ("raw",)})
    assert not progress.fresh
    assert progress.now(EVENTS) is None


async def test_a_look_at_the_broker_sees_ends_positions_and_the_last_timestamp(broker: Broker) -> None:
    raw, events, group = await new_topic(broker, partitions=2), await new_topic(broker), unique("group")
    progress = Progress(
        client_options={"bootstrap_servers": broker.bootstrap}, group_id=group, upstream_topics={events: (raw,)}
    )
    try:
        async with fenced_writer(broker, group_id=group) as writer:
            await writer.commit(
                {(raw, 0): rows(b"a", b"b"), (events, 0): rows(b"c")},
                {(raw, 0): (1, Position(1, 1_234).encode()), (events, 0): (0, "by another tool")},
            )
        await progress._look()
    finally:
        await progress.close()
    assert progress.standings == {
        TP(raw, 0): Standing(end=3, position=1, timestamp_ms=1_234),
        TP(raw, 1): Standing(end=0, position=0, timestamp_ms=-1),
        TP(events, 0): Standing(end=2, position=0, timestamp_ms=-1),
    }


async def test_an_open_transaction_is_no_lag(broker: Broker) -> None:
    events, group = await new_topic(broker), unique("group")
    progress = Progress(
        client_options={"bootstrap_servers": broker.bootstrap}, group_id=group, upstream_topics={events: ()}
    )
    try:
        async with plain_transactional(broker) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(events, key=b"a", value=b"a", partition=0)
            await progress._look()
            assert progress.standings[TP(events, 0)].lag == 0
            await producer.abort_transaction()
    finally:
        await progress.close()
