import threading
import time

import pytest
from faust.types import TP

from streams.kafka.progress import Standing
from streams.kafka.watchdog import StalledError, Watchdog

FIRST, SECOND = TP("mail.events", 0), TP("mail.events", 1)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streams.kafka.watchdog.time.monotonic", lambda: clock.seconds)
    return clock


@pytest.fixture
def stalls() -> list[BaseException]:
    return []


@pytest.fixture
def watchdog(clock: Clock, stalls: list[BaseException]) -> Watchdog:  # noqa: ARG001 - the clock is set first
    return Watchdog(limit_s=30, on_stall=stalls.append)


def at(position: int, end: int = 10) -> Standing:
    return Standing(end=end, position=position, timestamp_ms=0)


def test_a_partition_with_lag_that_does_not_move_is_a_stall_and_told_once(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    for _ in range(40):
        watchdog.look({FIRST: at(4)}, {FIRST}, excused=False)
        clock.seconds += 1
    assert [type(error) for error in stalls] == [StalledError]
    assert str(stalls[0]) == "mail.events/0 is stuck at offset 4 with 6 more to go for 31 s"
    assert watchdog.stalled == str(stalls[0])


def look(watchdog: Watchdog, clock: Clock, standing: Standing, *, seconds: int, excused: bool = False) -> None:
    """Look once a second, as ``Progress`` does."""
    for _ in range(seconds):
        clock.seconds += 1
        watchdog.look({FIRST: standing}, {FIRST}, excused=excused)


def test_it_is_no_stall_before_the_limit(watchdog: Watchdog, clock: Clock, stalls: list[BaseException]) -> None:
    look(watchdog, clock, at(4), seconds=31)
    assert stalls == []


def test_progress_however_slow_is_no_stall(watchdog: Watchdog, clock: Clock, stalls: list[BaseException]) -> None:
    for position in range(10):
        look(watchdog, clock, at(position, end=1_000), seconds=29)
    assert stalls == []


def test_a_partition_whose_batch_waits_for_its_turn_gets_on_with_every_turn_of_another(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    for turns in range(20):  # a slow machine that owns many partitions takes minutes to come round
        for _ in range(10):
            clock.seconds += 1
            watchdog.look({FIRST: at(4)}, {FIRST}, excused=False, queued={FIRST: turns})
    assert stalls == []


def test_a_queue_in_which_nobody_has_a_turn_is_a_stall(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    for _ in range(40):
        clock.seconds += 1
        watchdog.look({FIRST: at(4)}, {FIRST}, excused=False, queued={FIRST: 7})
    assert len(stalls) == 1


def test_turns_of_others_excuse_nobody_who_is_not_in_the_queue(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    for turns in range(40):
        clock.seconds += 1
        watchdog.look({FIRST: at(4), SECOND: at(turns, 99)}, {FIRST, SECOND}, excused=False, queued={SECOND: turns})
    assert len(stalls) == 1
    assert "mail.events/0 " in str(stalls[0])


def test_the_limit_runs_from_the_first_new_record_after_silence(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    look(watchdog, clock, at(10), seconds=1_000)
    look(watchdog, clock, at(10, end=11), seconds=30)
    assert stalls == []
    look(watchdog, clock, at(10, end=11), seconds=1)
    assert len(stalls) == 1


def test_a_restore_excuses_and_the_limit_runs_anew_after_it(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    look(watchdog, clock, at(4), seconds=29)
    look(watchdog, clock, at(4), seconds=1_000, excused=True)
    look(watchdog, clock, at(4), seconds=31)
    assert stalls == []
    look(watchdog, clock, at(4), seconds=1)
    assert len(stalls) == 1


def look_at_restore(watchdog: Watchdog, clock: Clock, steps: int | None, *, seconds: int) -> None:
    for _ in range(seconds):
        clock.seconds += 1
        watchdog.look({FIRST: at(4)}, set(), excused=True, restore=steps)


def test_a_restore_that_gets_on_is_excused_however_long_it_takes(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    for steps in range(40):
        look_at_restore(watchdog, clock, steps, seconds=29)
    assert stalls == []
    look_at_restore(watchdog, clock, None, seconds=1_000)
    assert watchdog.restore_idle_s == 0, "a rebalance is no restore"
    look_at_restore(watchdog, clock, 39, seconds=29)
    assert stalls == [], "another restore begins anew"


def test_a_restore_that_does_nothing_is_a_stall_and_told_once(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    look_at_restore(watchdog, clock, 7, seconds=31)
    assert (stalls, watchdog.restore_idle_s) == ([], 30)
    look_at_restore(watchdog, clock, 7, seconds=10)
    assert [type(error) for error in stalls] == [StalledError]
    assert str(stalls[0]) == watchdog.stalled == "the restore of the stores has done nothing for 31 s"


def test_the_time_in_which_no_broker_answered_does_not_count_for_a_restore_either(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    look_at_restore(watchdog, clock, 7, seconds=20)
    clock.seconds += 600
    look_at_restore(watchdog, clock, 7, seconds=31)
    assert stalls == []


def test_the_time_in_which_no_broker_answered_does_not_count(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    look(watchdog, clock, at(4), seconds=5)
    clock.seconds += 600  # Progress looks and gets no answer: nobody tells the watchdog
    look(watchdog, clock, at(4), seconds=31)
    assert stalls == []
    look(watchdog, clock, at(4), seconds=1)
    assert len(stalls) == 1, "the broker is back, and still nothing moves"


def test_a_partition_that_is_not_this_workers_or_is_stopped_is_no_stall(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    watchdog.look({FIRST: at(4), SECOND: at(4)}, {FIRST, SECOND}, excused=False)
    for position in range(5, 45):
        clock.seconds += 1
        watchdog.look({FIRST: at(position, end=100), SECOND: at(4)}, {FIRST}, excused=False)
    clock.seconds += 1
    watchdog.look({FIRST: at(5), SECOND: at(4)}, {FIRST, SECOND}, excused=False)
    assert stalls == [], "the time in which it stood on purpose does not count"


def test_the_partitions_are_watched_one_by_one(watchdog: Watchdog, clock: Clock, stalls: list[BaseException]) -> None:
    for second in range(40):
        watchdog.look({FIRST: at(second, end=1_000), SECOND: at(4)}, {FIRST, SECOND}, excused=False)
        clock.seconds += 1
    assert watchdog.stalled is not None
    assert "mail.events/1" in watchdog.stalled
    assert len(stalls) == 1


def test_while_a_topic_is_missing_its_partitions_are_excused_and_the_others_are_not(
    watchdog: Watchdog, clock: Clock, stalls: list[BaseException]
) -> None:
    both = {FIRST: at(4), SECOND: at(4)}
    watchdog.look(both, {FIRST, SECOND}, excused=False)
    for position in range(5, 45):
        clock.seconds += 1
        watchdog.look({SECOND: at(position, end=100)}, {FIRST, SECOND}, excused=False)
    clock.seconds += 1
    watchdog.look(both, {FIRST, SECOND}, excused=False)
    assert stalls == [], "the time in which nobody saw it does not count"
    for _ in range(31):
        clock.seconds += 1
        watchdog.look({SECOND: at(4)}, {FIRST, SECOND}, excused=False)
    assert [str(error).split(" ")[0] for error in stalls] == ["mail.events/1"]


def test_a_partition_that_was_not_seen_says_nothing(watchdog: Watchdog, stalls: list[BaseException]) -> None:
    watchdog.look({}, {FIRST}, excused=False)
    assert stalls == []


def test_an_event_loop_that_hangs_is_told_by_a_thread_of_its_own() -> None:
    told = threading.Event()
    silent: list[float] = []

    def on_hang(seconds: float) -> None:
        silent.append(seconds)
        told.set()

    watchdog = Watchdog(limit_s=0.1, on_stall=lambda _: None)
    thread = watchdog.watch_loop(on_hang)
    assert told.wait(5)
    thread.join(5)
    assert len(silent) == 1
    assert silent[0] > 0.1


def test_an_event_loop_that_beats_is_left_alone() -> None:
    hung: list[float] = []
    watchdog = Watchdog(limit_s=1.5, on_stall=lambda _: None)
    thread = watchdog.watch_loop(hung.append)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        watchdog.beat()
        time.sleep(0.05)
    assert hung == []
    thread.join(5)
    assert len(hung) == 1, "it beats no more"


def test_the_time_before_the_event_loop_is_watched_does_not_count(clock: Clock) -> None:
    """As while a worker that starts waits for its broker."""
    hung: list[float] = []
    watchdog = Watchdog(limit_s=30, on_stall=lambda _: None)
    clock.seconds += 3_600
    watchdog.watch_loop(hung.append)
    time.sleep(0.2)
    assert hung == []
