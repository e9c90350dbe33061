import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    UnknownTopicOrPartitionError,
)
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import ports
from deploy.local.broker import Broker
from streams.kafka.closing import end
from streams.kafka.positions import Position
from streams.kafka.progress import Progress, Standing, StrandedError, time_for_tick
from tests.brokers import Passing
from tests.contracts.clients import commit_position, fenced_writer, new_topic, plain_transactional, rows, unique
from tests.faults.proxy import Proxy

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

EVENTS, DEFERRALS, RAW, OTHER_RAW, SENDS = (
    TP("events", 0), TP("deferrals", 0), TP("raw.a", 3), TP("raw.b", 1), TP("sends", 0)
)  # fmt: skip
UPSTREAM = {
    "events": ("raw.a", "raw.b"),
    "deferrals": ("raw.a", "raw.b", "events"),
}
SHARED = frozenset({"raw.a", "raw.b"})
SECOND = 1_000_000
Standings = Mapping[TP, Standing]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [1_000.0]
    monkeypatch.setattr("streams.kafka.progress.time.monotonic", lambda: seconds[0])
    return seconds


def progress_of(*looks: Standings, wall_us: int = WALL) -> Progress:
    """Return what looked at the broker so often, once a second, for the last time at ``wall_us``."""
    progress = Progress(client_options={}, group_id="group", upstream_topics=UPSTREAM, shared_topics=SHARED)
    for number, standings in enumerate(looks):
        saw(progress, standings, wall_us - (len(looks) - 1 - number) * SECOND)
    return progress


def saw(progress: Progress, standings: Standings, wall_us: int) -> None:
    progress._saw(wall_us, dict(standings))
    progress._looked_at = time.monotonic()


def all_read(**others: Standing) -> dict[TP, Standing]:
    """Return a look at which everything was read, but for what is given: raw, other_raw, events, deferrals, sends."""
    names = {"raw": RAW, "other_raw": OTHER_RAW, "events": EVENTS, "deferrals": DEFERRALS, "sends": SENDS}
    return dict.fromkeys(names.values(), AT_END) | {names[name]: standing for name, standing in others.items()}


@pytest.mark.usefixtures("clock")
def test_where_everything_is_read_it_is_the_wall_clock() -> None:
    assert progress_of(all_read()).now(EVENTS) == WALL


@pytest.mark.usefixtures("clock")
def test_the_second_stage_follows_the_first_by_one_look() -> None:
    """The group's offsets can show a transaction before its topics do: a second later they have."""
    progress = progress_of(all_read())
    assert progress.now(DEFERRALS) is None
    saw(progress, all_read(), WALL + SECOND)
    assert progress.now(DEFERRALS) == WALL


@pytest.mark.usefixtures("clock")
def test_a_backlog_on_any_upstream_partition_holds_a_ticks_time_back() -> None:
    progress = progress_of(all_read(raw=behind(2)), all_read(raw=behind(2)))
    assert progress.now(EVENTS) == progress.now(DEFERRALS) == WALL - 2 * HOUR


@pytest.mark.usefixtures("clock")
def test_what_waits_in_a_topic_that_can_prevent_nothing_holds_no_time_back() -> None:
    stands = Standing(9, 0, (WALL - 17 * HOUR) // 1000, stopped=True)
    progress = progress_of(all_read(sends=stands), all_read(sends=stands))
    assert progress.now(EVENTS) == WALL
    assert progress.now(DEFERRALS) == WALL - SECOND, "one look later, as ever"
    assert not progress.held("sends", DEFERRALS)


def test_such_a_topic_is_looked_at_all_the_same() -> None:
    progress = Progress(
        client_options={}, group_id="g", upstream_topics=UPSTREAM, shared_topics=SHARED, timeless_topics=("sends",)
    )
    assert set(progress._topics()) == {"sends", "raw.a", "raw.b", "events", "deferrals"}


@pytest.mark.usefixtures("clock")
def test_a_two_hour_backlog_in_raw_with_empty_deferrals_moves_the_time_with_it_and_not_with_the_wall_clock() -> None:
    empty = {TP("deferrals", 0): Standing(0, 0, -1), TP("events", 0): Standing(0, 0, -1)}
    progress = progress_of(all_read(raw=behind(2)) | empty, all_read(raw=behind(2)) | empty)
    for hours in (1.5, 1, 0.5):
        saw(progress, all_read(raw=behind(hours)) | empty, WALL)
        saw(progress, all_read(raw=behind(hours)) | empty, WALL)
        assert progress.now(DEFERRALS) == WALL - hours * HOUR


@pytest.mark.usefixtures("clock")
def test_a_backlog_of_which_nothing_was_read_yet_leaves_the_time_unknown() -> None:
    unread = all_read(raw=Standing(end=10, position=0, timestamp_ms=-1))
    progress = progress_of(unread, unread)
    assert progress.now(EVENTS) is progress.now(DEFERRALS) is None


@pytest.mark.usefixtures("clock")
def test_a_backlog_of_the_partition_itself_holds_its_time_back_and_that_of_its_neighbour_does_not() -> None:
    progress = progress_of(all_read(events=behind(2)) | {TP("events", 1): AT_END})
    assert progress.now(EVENTS) is None
    assert progress.now(TP("events", 1)) == WALL


@pytest.mark.usefixtures("clock")
def test_a_new_record_processed_before_older_ones_does_not_make_the_time_new() -> None:
    """Records of a partition that was read up stand in a stage's topic before those of one that was behind."""
    newest = Standing(end=100, position=50, timestamp_ms=WALL // 1000)
    progress = progress_of(all_read(), all_read())
    then = progress.now(EVENTS)
    for second in range(1, 4):
        saw(progress, all_read(events=newest), WALL + second * SECOND)
        assert progress.now(EVENTS) == then
    assert progress.now(DEFERRALS) == then


@pytest.mark.usefixtures("clock")
def test_a_stage_that_is_never_read_up_still_comes_to_the_time_of_each_barrier_that_it_passes() -> None:
    """Under load there is always something new; the time must go on all the same."""
    progress = progress_of(all_read())
    for second in range(1, 6):
        busy = Standing(end=1_000 * (second + 1), position=1_000 * second, timestamp_ms=0)
        saw(progress, all_read(events=busy, deferrals=busy), WALL + second * SECOND)
    assert progress.now(EVENTS) == WALL + 4 * SECOND, "the end of the look before is passed"
    assert WALL < (progress.now(DEFERRALS) or 0) <= WALL + 4 * SECOND


@pytest.mark.usefixtures("clock")
def test_a_partition_of_the_stage_before_holds_only_the_same_one_of_the_next() -> None:
    both = {TP("events", 1): AT_END, TP("deferrals", 1): AT_END}
    looks = [all_read(events=behind(2)) | both] * 2
    progress = progress_of(*looks)
    assert progress.now(DEFERRALS) is None
    assert progress.now(TP("deferrals", 1)) == WALL - SECOND


@pytest.mark.usefixtures("clock")
def test_topics_that_are_not_upstream_say_nothing() -> None:
    assert progress_of(all_read() | {TP("other", 0): behind(9), TP("sends", 1): behind(9)}).now(EVENTS) == WALL


@pytest.mark.usefixtures("clock")
def test_the_time_never_goes_back() -> None:
    progress = progress_of(all_read())
    assert progress.now(EVENTS) == WALL
    saw(progress, all_read(raw=behind(2)), WALL + SECOND)
    assert progress.now(EVENTS) == WALL
    saw(progress, all_read(), WALL + 2 * SECOND)
    assert progress.now(EVENTS) == WALL + 2 * SECOND


LOOKS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from([EVENTS, DEFERRALS, RAW, OTHER_RAW, SENDS]), STANDINGS), st.integers(0, 5)
    ),
    max_size=10,
)


@pytest.mark.usefixtures("clock")
@given(LOOKS)
def test_the_time_never_goes_back_and_is_never_after_the_wall_clock_whatever_is_seen(
    looks: list[tuple[dict[TP, Standing], int]],
) -> None:
    progress = progress_of()
    last = dict.fromkeys((EVENTS, DEFERRALS), 0)
    wall_us = WALL
    for standings, seconds in looks:
        wall_us += seconds * SECOND
        saw(progress, standings, wall_us)
        for tp, before in last.items():
            now = progress.now(tp)
            assert now is None or before <= now <= wall_us
            last[tp] = before if now is None else now


@pytest.mark.usefixtures("clock")
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_nothing_that_came_before_the_time_is_ever_unprocessed(steps: list[tuple[bool, int, int, int]]) -> None:
    """A model of the whole way: a fact comes each second or none does, each stage takes some; a look a second."""
    raw: list[int] = []
    taken = {RAW: 0, EVENTS: 0, DEFERRALS: 0}
    progress = progress_of()
    wall_us = WALL
    for comes, *takes in steps:
        wall_us += SECOND
        if comes:
            raw.append(wall_us - 1)
        before = len(raw)
        standings = {}
        for tp, n in zip(taken, takes, strict=True):
            taken[tp] = min(taken[tp] + n, before)
            last = raw[taken[tp] - 1] // 1000 if taken[tp] else -1
            standings[tp] = Standing(end=before, position=taken[tp], timestamp_ms=last)
            before = taken[tp]
        saw(progress, standings, wall_us)
        for tp in (EVENTS, DEFERRALS):
            now = progress.now(tp)
            assert now is None or all(time // 1000 * 1000 >= now for time in raw[taken[tp] :])


# -- a stopped partition ----------------------------------------------------------------------------------------------------

STANDS = Standing(end=10, position=4, timestamp_ms=behind(2).timestamp_ms, stopped=True)


@pytest.mark.usefixtures("clock")
def test_a_stopped_raw_partition_of_one_provider_does_not_stop_the_time_of_all() -> None:
    progress = progress_of(all_read(raw=STANDS), all_read(raw=STANDS))
    assert (progress.now(EVENTS), progress.now(DEFERRALS)) == (WALL, WALL - SECOND)


@pytest.mark.usefixtures("clock")
def test_its_own_provider_is_held_and_no_other() -> None:
    progress = progress_of(all_read(raw=STANDS))
    assert progress.held("raw.a", EVENTS)
    assert progress.held("raw.a", DEFERRALS)
    assert not progress.held("raw.b", DEFERRALS)


@pytest.mark.usefixtures("clock")
def test_a_stopped_partition_of_a_stage_stops_the_time_of_its_own_number() -> None:
    standing = {TP("events", 1): AT_END}
    progress = progress_of(all_read(events=STANDS) | standing, all_read(events=STANDS) | standing)
    assert progress.now(EVENTS) is progress.now(DEFERRALS) is None
    assert progress.now(TP("events", 1)) == WALL


@pytest.mark.usefixtures("clock")
def test_a_provider_is_held_until_all_that_its_partition_held_back_has_come_through() -> None:
    """Resuming alone is not enough: the time stands at the wall clock already, and never goes back."""
    progress = progress_of(all_read(raw=STANDS), all_read(raw=STANDS))
    held: list[bool] = []
    for second, standings in enumerate(
        [
            all_read(raw=behind(2)),  # resumed
            all_read(events=behind(1)),  # normalised; now the next stage has it
            all_read(events=behind(1)),
            all_read(deferrals=behind(1)),
            all_read(),
            all_read(),
        ]
    ):
        saw(progress, standings, WALL + (1 + second) * SECOND)
        held.append(progress.held("raw.a", DEFERRALS))
    assert held == [True, True, True, True, False, False]


@pytest.mark.usefixtures("clock")
def test_a_provider_stays_held_until_the_last_stage_is_through_also_after_a_restart() -> None:
    """A process that has just started has come nowhere yet, and must not take that for having come through."""
    progress = progress_of(all_read(raw=STANDS, deferrals=behind(2)), all_read(raw=STANDS, deferrals=behind(2)))
    resumed = Standing(end=16, position=4, timestamp_ms=5)  # what was held back waits at its end
    in_work = Standing(end=16, position=10, timestamp_ms=5)
    held: list[bool] = []
    for second, deferrals in enumerate([resumed, in_work, AT_END]):
        saw(progress, all_read(deferrals=deferrals), WALL + (1 + second) * SECOND)
        held.append(progress.held("raw.a", DEFERRALS))
    assert held == [True, True, False]


@pytest.mark.usefixtures("clock")
def test_a_partition_of_a_stage_that_is_stopped_keeps_a_provider_held_for_its_own_number_alone() -> None:
    """One bad release stops a partition of each; the webhooks are resumed first."""
    own, other = (TP("events", 1), TP("deferrals", 1)), (EVENTS, DEFERRALS)
    there = {TP("deferrals", 1): AT_END, TP("events", 1): STANDS}
    progress = progress_of(all_read(raw=STANDS) | there, all_read(raw=STANDS) | there)
    for second in range(1, 4):
        saw(progress, all_read() | there, WALL + second * SECOND)
    assert [progress.held("raw.a", tp) for tp in (*own, *other)] == [True, True, False, False]
    for second in range(4, 7):
        saw(progress, all_read() | there | {TP("events", 1): AT_END}, WALL + second * SECOND)
    assert [progress.held("raw.a", tp) for tp in (*own, *other)] == [False] * 4


RAWS = (TP("raw.a", 0), TP("raw.a", 1), TP("raw.b", 0))
STAGES = tuple(TP(topic, number) for topic in ("events", "deferrals") for number in (0, 1))
Fact = tuple[int, str, int]
"""When it came, on which raw topic, and the number of the partition to which its delivery belongs."""


class Way:
    """A model of all partitions: facts come, are taken from one topic to the next, and a look follows."""

    def __init__(self) -> None:
        self.logs: dict[TP, list[Fact]] = {tp: [] for tp in (*RAWS, *STAGES)}
        self.taken: dict[TP, int] = dict.fromkeys(self.logs, 0)
        self.stopped: set[TP] = set()
        self.wall_us = WALL
        self.restart()

    def restart(self) -> None:
        self.progress = progress_of()

    def take(self, tp: TP, count: int) -> None:
        for fact in self.logs[tp][self.taken[tp] :][:count]:
            self.taken[tp] += 1
            if tp.topic != "deferrals":
                self.logs[TP("deferrals" if tp.topic == "events" else "events", fact[2])].append(fact)

    def look(self) -> None:
        standings = {
            tp: Standing(len(log), at, log[at - 1][0] // 1000 if at else -1, stopped=tp in self.stopped)
            for (tp, log), at in zip(self.logs.items(), self.taken.values(), strict=True)
        }
        saw(self.progress, standings, self.wall_us)

    def unread(self, stage: TP) -> list[Fact]:
        """Return what is still to come to a partition of a stage."""
        before = [
            *RAWS,
            *(tp for tp in STAGES if tp.partition == stage.partition and tp.topic in {"events", stage.topic}),
        ]
        return [fact for tp in before for fact in self.logs[tp][self.taken[tp] :] if fact[2] == stage.partition]


@given(st.data())
def test_whatever_is_unread_and_older_than_the_time_is_of_a_provider_that_is_held(data: st.DataObject) -> None:
    """With stops, resumes and restarts at any moment."""
    way = Way()
    takes = st.lists(st.sampled_from([0, 0, 1, 5, 1_000]), min_size=len(way.logs), max_size=len(way.logs))
    for _ in range(data.draw(st.integers(3, 15))):
        way.wall_us += SECOND
        for raw, number in data.draw(st.lists(st.tuples(st.sampled_from(RAWS), st.integers(0, 1)), max_size=4)):
            way.logs[raw].append((way.wall_us - 1, raw.topic, number))
        turned = data.draw(st.none() | st.sampled_from(RAWS))
        if turned is not None:
            way.stopped ^= {turned}
        if data.draw(st.integers(0, 5)) == 0:
            way.restart()
        for tp, count in zip(way.logs, data.draw(takes), strict=True):
            if tp not in way.stopped:
                way.take(tp, count)
        way.look()
        for stage in STAGES:
            now = way.progress.now(stage)
            assert now is None or all(
                time // 1000 * 1000 >= now or way.progress.held(topic, stage) for time, topic, _ in way.unread(stage)
            )


# -- a wall clock that is set ---------------------------------------------------------------------------------------------------


class Clocks:
    """The two clocks of a host, of which the wall's can be set."""

    def __init__(self, progress: Progress, monotonic: list[float]) -> None:
        self.progress = progress
        self.monotonic = monotonic
        self.wall_us = WALL

    def look(self, standings: Standings, *, set_by: float = 0, after: float = 1) -> None:
        """Look again, so many seconds after the last time; in between, somebody set the wall clock."""
        self.monotonic[0] += after
        self.wall_us += round((after + set_by) * SECOND)
        self.progress._read_clocks(self.wall_us, self.monotonic[0])
        saw(self.progress, standings, self.wall_us)


@pytest.fixture
def clocks(clock: list[float]) -> Clocks:
    return Clocks(progress_of(), clock)


def test_a_clock_that_was_ahead_for_a_moment_is_not_believed_any_longer(clocks: Clocks) -> None:
    """A host that boots two hours ahead, until NTP sets it right: for two hours every deferral was raised at once."""
    for _ in range(3):
        clocks.look(all_read())
    assert clocks.progress.now(DEFERRALS) == clocks.wall_us - SECOND

    clocks.look(all_read(), set_by=-7_200)
    assert clocks.progress.now(EVENTS) is clocks.progress.now(DEFERRALS) is None
    clocks.look(all_read())
    clocks.look(all_read())
    assert clocks.progress.now(EVENTS) == clocks.wall_us
    assert clocks.progress.now(DEFERRALS) == clocks.wall_us - SECOND


def test_a_barrier_of_the_wrong_time_is_taken_down(clocks: Clocks) -> None:
    clocks.look(all_read(events=Standing(end=100, position=50, timestamp_ms=1)))
    clocks.look(all_read(events=Standing(end=100, position=90, timestamp_ms=1)), set_by=-7_200)
    clocks.look(all_read(events=Standing(end=200, position=101, timestamp_ms=1)))
    assert clocks.progress.now(EVENTS) is None
    clocks.look(all_read(events=Standing(end=300, position=201, timestamp_ms=1)))
    assert clocks.progress.now(EVENTS) == clocks.wall_us - SECOND


def test_a_provider_is_not_held_for_as_long_as_the_clock_was_ahead(clocks: Clocks) -> None:
    clocks.look(all_read(raw=STANDS))
    clocks.look(all_read(raw=STANDS), set_by=86_400)
    clocks.look(all_read(deferrals=behind(1)), set_by=-86_400)
    assert clocks.progress.held("raw.a", DEFERRALS)
    held = []
    for standings in (all_read(deferrals=behind(1)), all_read(deferrals=behind(1)), all_read(), all_read(), all_read()):
        clocks.look(standings)
        held.append(clocks.progress.held("raw.a", DEFERRALS))
    assert held[-1] is False


def test_a_clock_that_is_set_while_a_provider_is_held_lets_nothing_pass_that_is_not_processed(clocks: Clocks) -> None:
    clocks.look(all_read(raw=STANDS))
    clocks.look(all_read(raw=STANDS), set_by=-3_600)
    for _ in range(4):
        clocks.look(all_read(raw=behind(2)))
        assert clocks.progress.held("raw.a", DEFERRALS)
        now = clocks.progress.now(DEFERRALS)
        assert now is None or now <= WALL - 2 * HOUR


LAGS = Standing(end=12, position=9, timestamp_ms=5)


@pytest.mark.parametrize("before", [AT_END, LAGS])  # with its barrier at the later time
@pytest.mark.parametrize("then", [STANDS, behind(2)])
def test_a_provider_stays_held_when_the_clock_goes_back_by_less_than_a_step(
    clocks: Clocks, before: Standing, then: Standing
) -> None:
    """A stage has already come to a time that the wall clock shows once more."""
    clocks.look(all_read(raw=STANDS))
    clocks.look(all_read(raw=STANDS, events=before))
    clocks.look(all_read(raw=STANDS, events=LAGS), set_by=-4)
    held = [clocks.progress.held("raw.a", EVENTS)]
    for _ in range(5):
        clocks.look(all_read(raw=then))
        held.append(clocks.progress.held("raw.a", EVENTS))
    assert held == [True] * 6


def test_a_host_that_slept_loses_one_look(clocks: Clocks) -> None:
    """The monotonic clock stands still while a virtual machine is suspended: the wall is right."""
    clocks.look(all_read())
    clocks.look(all_read(), set_by=3_600)
    assert clocks.progress.now(EVENTS) is None
    clocks.look(all_read())
    assert clocks.progress.now(EVENTS) == clocks.wall_us


def test_a_slow_look_and_a_clock_that_is_drawn_near_slowly_are_no_step(
    clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.look(all_read())
    for after, set_by in ((60, 0), (1, 4.9), (1, -4.9), (1, 0.1)):
        clocks.look(all_read(), after=after, set_by=set_by)
        assert clocks.progress.now(EVENTS) is not None
    assert caplog.messages == []


def test_that_the_clock_was_set_is_logged_once_with_by_how_much(
    clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    for set_by in (0, 0, -7_200, 0, 0):
        clocks.look(all_read(), set_by=set_by)
    [message] = caplog.messages
    assert "-7200 s" in message


def test_without_a_fresh_look_there_is_no_time(clock: list[float]) -> None:
    progress = progress_of(all_read())
    assert progress.fresh
    clock[0] += 60
    assert not progress.fresh
    assert progress.now(EVENTS) is None


async def test_a_topic_that_fails_ends_the_look_and_the_coordinator_was_heard_all_the_same(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One partition without a leader: no worker has a fresh look, and each keeps its partitions."""
    raw, events = await new_topic(broker), await new_topic(broker)
    progress = Progress(
        client_options={"bootstrap_servers": broker.bootstrap},
        group_id=unique("group"),
        upstream_topics={events: (raw,)},
        shared_topics=frozenset({raw}),
    )
    try:
        await soon(progress._look)
        seconds = time.monotonic() + 60
        monkeypatch.setattr("streams.kafka.progress.time.monotonic", lambda: seconds)
        assert not progress.heard_within(30)
        consumer: Any = progress._consumer
        monkeypatch.setattr(consumer, "end_offsets", no_leader)
        with pytest.raises(LeaderNotAvailableError):
            await progress._look()
        assert progress.heard_within(30)
    finally:
        await close(progress)
    assert not progress.fresh


async def close(progress: Progress) -> None:
    """Release what a process keeps until its end."""
    if progress._consumer is not None:
        await progress._consumer.stop()
    if progress._admin is not None:
        await progress._admin.close()


async def no_leader(tps: object) -> None:
    raise LeaderNotAvailableError(tps)


async def soon(look: Callable[[], Awaitable[None]]) -> None:
    """Look until it succeeds: the first group of a broker has no coordinator for a moment, and a new topic no leader."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(KafkaError):
                return await look()
            await asyncio.sleep(0.05)


async def test_while_the_coordinator_does_not_answer_it_is_not_heard(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other brokers may answer: the group gives the partitions to another worker all the same."""
    progress = Progress(client_options={}, group_id="group", upstream_topics=UPSTREAM, shared_topics=SHARED)

    async def clients() -> tuple[Any, Any]:
        return None, None

    async def silent(*_: object) -> None:
        raise KafkaTimeoutError

    monkeypatch.setattr(progress, "_clients", clients)
    monkeypatch.setattr("streams.kafka.progress.committed_offsets", silent)
    progress._heard_at = clock[0]
    clock[0] += 29
    with pytest.raises(KafkaTimeoutError):
        await progress._look()
    assert progress.heard_within(30)
    clock[0] += 1
    assert not progress.heard_within(30)


def test_a_request_that_gets_no_answer_is_not_yet_silence_however_short_the_session_is(clock: list[float]) -> None:
    """A look at a topic without a leader waits that long, and only the next one hears the coordinator again."""
    progress = Progress(
        client_options={}, group_id="group", upstream_topics=UPSTREAM, shared_topics=SHARED, request_timeout_s=10
    )
    progress._heard_at = progress._looked_at = clock[0]
    clock[0] += 14
    assert progress.heard_within(6)
    assert progress.looked_within(6)
    clock[0] += 1
    assert not progress.heard_within(6)
    assert not progress.looked_within(6)


def test_before_the_first_look_there_is_no_time() -> None:
    progress = Progress(client_options={}, group_id="group", upstream_topics=UPSTREAM, shared_topics=SHARED)
    assert not progress.fresh
    assert progress.now(EVENTS) is None


async def test_a_look_at_the_broker_sees_ends_positions_and_the_last_timestamp(broker: Broker) -> None:
    raw, events, group = await new_topic(broker, partitions=2), await new_topic(broker), unique("group")
    progress = Progress(
        client_options={"bootstrap_servers": broker.bootstrap},
        group_id=group,
        upstream_topics={events: (raw,)},
        shared_topics=frozenset({raw}),
    )
    try:
        async with fenced_writer(broker) as writer:
            await writer.commit({(raw, 0): rows(b"a", b"b"), (events, 0): rows(b"c")})
        await commit_position(broker, group, raw, 1, Position(1, 1_234).encode())
        await commit_position(broker, group, events, 0, "by another tool")
        await progress._look()
    finally:
        await close(progress)
    assert progress._standings == {
        TP(raw, 0): Standing(end=3, position=1, timestamp_ms=1_234),
        TP(raw, 1): Standing(end=0, position=0, timestamp_ms=-1),
        TP(events, 0): Standing(end=2, position=0, timestamp_ms=-1),
    }


async def test_partitions_that_a_topic_gets_are_looked_at_soon(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.kafka.progress.METADATA_MAX_AGE_MS", 100)
    raw = await new_topic(broker)
    progress = Progress(
        client_options={"bootstrap_servers": broker.bootstrap},
        group_id=unique("group"),
        upstream_topics={raw: ()},
        shared_topics=frozenset(),
    )
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        async with asyncio.timeout(20):
            while len(progress._standings) < 2:
                with contextlib.suppress(KafkaError):  # also of a broker whose first group this is
                    await progress._look()
                    await admin.create_partitions({raw: NewPartitions(2)})
                await asyncio.sleep(0.05)
    finally:
        await admin.close()
        await close(progress)


async def test_a_client_that_cannot_start_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    stop = AIOKafkaConsumer.stop

    async def recording(consumer: AIOKafkaConsumer) -> None:
        await stop(consumer)  # type: ignore[no-untyped-call] # aiokafka's
        stopped.append(consumer)

    monkeypatch.setattr(AIOKafkaConsumer, "stop", recording)
    (port,) = ports.find(1)
    progress = Progress(
        client_options={"bootstrap_servers": f"127.0.0.1:{port}"},
        group_id="group",
        upstream_topics=UPSTREAM,
        shared_topics=SHARED,
    )
    with pytest.raises(KafkaConnectionError):
        await progress._look()
    assert len(stopped) == 1


@pytest.mark.parametrize("stays", [True, False])
async def test_a_worker_ends_when_the_brokers_have_other_addresses_and_not_while_they_are_only_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stays: bool
) -> None:
    monkeypatch.setattr("streams.kafka.progress.STRANDED_S", 1)
    first, second = ports.find(2)

    def advertise(port: int) -> Mapping[str, str]:
        return {"advertised.listeners": f"PLAINTEXT://{ports.HOST}:{port}"}

    broker = Passing(tmp_path, properties=advertise(first))
    await asyncio.to_thread(broker.start)
    assert broker.port is not None
    progress = Progress(
        client_options={"bootstrap_servers": broker.bootstrap},
        group_id=unique("group"),
        upstream_topics={},
        shared_topics=frozenset(),
    )
    running = asyncio.create_task(progress.run())
    try:
        async with Proxy(first, broker.port):
            async with asyncio.timeout(20):
                while not progress.fresh:
                    await asyncio.sleep(0.05)
        if stays:  # the bootstrap server answers, and names the address at which nobody answers
            await asyncio.sleep(4)
            assert not running.done()
            async with Proxy(first, broker.port), asyncio.timeout(20):
                looked_at = progress._looked_at
                while progress._looked_at == looked_at:
                    await asyncio.sleep(0.05)
            return
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(2)
        assert not running.done(), "no broker answers: another process would not help"
        broker.properties = dict(advertise(second))
        await asyncio.to_thread(broker.start)
        async with Proxy(second, broker.port), asyncio.timeout(20):
            with pytest.raises(StrandedError) as stranded:
                await running
        assert str(stranded.value) == (
            f"the brokers are at {ports.HOST}:{second} now, and no longer at {ports.HOST}:{first}"
        )
    finally:
        await end([running])
        await close(progress)
        await asyncio.to_thread(broker.kill)


async def test_a_worker_waits_for_the_coordinator_of_a_broker_that_has_another_name_at_each_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.kafka.progress.STRANDED_S", 1)
    first, second, controller = ports.find(3)
    names = {"PLAINTEXT": first, "OTHER": second, "CONTROLLER": controller}
    broker = Passing(
        tmp_path,
        port=first,
        controller_port=controller,
        properties={
            "listeners": ",".join(f"{name}://{ports.HOST}:{port}" for name, port in names.items()),
            "advertised.listeners": f"PLAINTEXT://{ports.HOST}:{second},OTHER://localhost:{second}",
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
            "inter.broker.listener.name": "PLAINTEXT",
        },
    )
    await asyncio.to_thread(broker.start)
    progress = Progress(
        client_options={"bootstrap_servers": f"{ports.HOST}:{first}"},
        group_id=unique("group"),
        upstream_topics={},
        shared_topics=frozenset(),
    )
    running = asyncio.create_task(progress.run())
    try:
        async with asyncio.timeout(20):
            while not progress.fresh:
                await asyncio.sleep(0.05)
        assert progress._admin is not None
        await progress._admin._client.force_metadata_update()
        assert [each.host for each in progress._admin._client.cluster.brokers()] == ["localhost"]

        async def away(*_: object) -> None:
            raise GroupCoordinatorNotAvailableError

        monkeypatch.setattr("streams.kafka.progress.committed_offsets", away)
        await asyncio.sleep(4)
        assert not running.done(), "the broker answers: another process would wait as well"
    finally:
        await end([running])
        await close(progress)
        await asyncio.to_thread(broker.kill)


async def test_an_open_transaction_is_no_lag(broker: Broker) -> None:
    events, group = await new_topic(broker), unique("group")
    progress = Progress(
        client_options={"bootstrap_servers": broker.bootstrap},
        group_id=group,
        upstream_topics={events: ()},
        shared_topics=frozenset(),
    )
    try:
        async with plain_transactional(broker) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(events, key=b"a", value=b"a", partition=0)
            await soon(progress._look)
            assert progress._standings[TP(events, 0)].lag == 0
            await producer.abort_transaction()
    finally:
        await close(progress)


async def test_while_the_broker_does_not_know_a_topic_only_the_others_are_told_and_soon_after_all(
    broker: Broker,
) -> None:
    """No time is concluded from them; but the watchdog goes on, or what hangs meanwhile would hang for as long."""
    events, raw = await new_topic(broker), unique("late")
    progress = Progress(
        client_options={"bootstrap_servers": broker.bootstrap},
        group_id=unique("group"),
        upstream_topics={events: (raw,)},
        shared_topics=frozenset({raw}),
    )
    told: list[set[TP]] = []
    progress.on_look.append(lambda standings: told.append(set(standings)))
    try:

        async def refused() -> None:
            with pytest.raises(UnknownTopicOrPartitionError):
                await progress._look()

        await soon(refused)
        assert progress._standings == {}
        running = asyncio.create_task(progress.run())
        async with asyncio.timeout(20):
            while progress.missing != raw or not told:
                await asyncio.sleep(0.05)
        assert not progress.fresh
        assert told[-1] == {TP(events, 0)}
        await new_topic(broker, named=raw)
        async with asyncio.timeout(20):
            while not progress.fresh:
                await asyncio.sleep(0.05)
        assert progress.missing is None
        assert told[-1] == {TP(raw, 0), TP(events, 0)}
        await end([running])
    finally:
        await close(progress)
    assert progress._standings.keys() == {TP(raw, 0), TP(events, 0)}
