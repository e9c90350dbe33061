from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.poison import Poison, PoisonLimit
from streams.kafka.positions import Position

LIMIT = PoisonLimit(share=0.1, window=100, minimum=5)
# The minimum is below the window, or it could never be exceeded; and so is the share below (window - 1) / window.
LIMITS = st.builds(PoisonLimit, share=st.floats(0.01, 0.9), window=st.integers(20, 500), minimum=st.integers(0, 19))
HISTORY = st.lists(st.booleans(), max_size=400)
"""True: a good record."""


def stopped_at(poison: Poison, limit: PoisonLimit, history: list[bool], first: int = 0) -> int | None:
    """Return the index of the record that stops the partition."""
    for index, good in enumerate(history):
        if good:
            poison.good(limit)
        elif poison.exceeded_by(first + index, "why", limit):
            return index
    return None


@given(LIMITS, st.integers(0, 2_000))
def test_a_stream_of_good_records_never_stops(limit: PoisonLimit, count: int) -> None:
    poison = Poison()
    assert stopped_at(poison, limit, [True] * count) is None
    assert poison.bad == 0
    assert poison.stopped is None


@given(LIMITS, HISTORY)
def test_so_few_bad_records_as_the_minimum_never_stop_a_partition(limit: PoisonLimit, history: list[bool]) -> None:
    bad_left = limit.minimum
    few = []
    for good in history:
        few.append(good or bad_left == 0)
        bad_left -= not few[-1]
    assert stopped_at(Poison(), limit, few) is None


@given(LIMITS, HISTORY)
def test_a_stream_of_bad_records_stops_whatever_came_before(limit: PoisonLimit, history: list[bool]) -> None:
    poison = Poison()
    if stopped_at(poison, limit, history) is None:
        assert stopped_at(poison, limit, [False] * (limit.window * 8 + limit.minimum * 8), 1_000) is not None
    assert poison.stopped


def test_the_record_that_is_one_too_many_stops_it_and_the_reason_says_how_many() -> None:
    poison = Poison()
    assert stopped_at(poison, LIMIT, [False] * 10) == 5
    assert poison.stopped == "6 of the last 6 records are bad: why"
    assert poison.stopped_at == 5
    assert (poison.seen, poison.bad) == (5, 5), "the record that stopped it was not dealt with and is not counted"


def test_a_share_below_the_limit_goes_on_for_ever_and_one_above_it_stops() -> None:
    below = [index % 12 != 0 for index in range(5_000)]
    above = [index % 7 != 0 for index in range(5_000)]
    assert stopped_at(Poison(), LIMIT, below) is None
    assert stopped_at(Poison(), LIMIT, above) is not None


def test_old_records_fade() -> None:
    poison = Poison()
    assert stopped_at(poison, LIMIT, [False] * 5 + [True] * 1_000) is None
    assert poison.bad == 0
    assert poison.seen < 2 * LIMIT.window


@given(LIMITS, HISTORY)
def test_counting_good_records_together_or_one_by_one_never_lets_the_share_grow(
    limit: PoisonLimit, history: list[bool]
) -> None:
    poison = Poison()
    for good in history:
        before = (poison.bad, poison.seen)
        if good:
            poison.good(limit, 3)
            assert poison.bad <= before[0]
        elif poison.exceeded_by(0, "why", limit):
            break
        assert 0 <= poison.bad <= poison.seen


# -- resume ----------------------------------------------------------------------------------------------------------------


def test_a_resumed_partition_counts_afresh_and_remembers_the_command() -> None:
    poison = Poison()
    stopped_at(poison, LIMIT, [False] * 6)
    poison.resume("first", None)
    assert poison == Poison(resume_id="first")
    assert stopped_at(poison, LIMIT, [False] * 6) == 5, "the cause was not mended"


def test_bad_records_through_the_offset_named_are_not_counted_and_those_after_it_are() -> None:
    poison = Poison()
    stopped_at(poison, LIMIT, [False] * 6)
    poison.resume("second", 1_000)
    assert stopped_at(poison, LIMIT, [False] * 500, first=501) is None  # through 1,000
    assert (poison.seen, poison.bad) == (0, 0)
    assert stopped_at(poison, LIMIT, [False] * 6, first=1_001) == 5


def test_a_resume_without_an_offset_takes_back_an_earlier_one() -> None:
    poison = Poison()
    poison.resume("first", 1_000)
    poison.resume("second", None)
    assert stopped_at(poison, LIMIT, [False] * 6) == 5


# -- the position on disk -----------------------------------------------------------------------------------------------------

POISONS = st.builds(
    Poison,
    seen=st.integers(0, 10**6),
    bad=st.integers(0, 10**6),
    stopped=st.none() | st.text(max_size=200),
    through=st.integers(-1, 2**62),
    resume_id=st.text(max_size=40).filter(bool),
)


@given(st.integers(0, 2**62), st.integers(-1, 2**42), POISONS)
def test_a_position_survives_being_written_and_read(offset: int, timestamp_ms: int, poison: Poison) -> None:
    position = Position(offset, timestamp_ms, poison)
    assert Position.decode(position.encode()) == position
    assert Position.decode(position.encode().encode()) == position


def test_counts_survive_also_before_the_first_resume() -> None:
    position = Position(7, 8, Poison(seen=50, bad=4))
    assert Position.decode(position.encode()).poison == Poison(seen=50, bad=4)


def test_a_position_without_poison_is_short_and_read_as_clean() -> None:
    assert Position(12).encode() == '{"offset":12,"ts":-1}'
    assert Position.decode('{"offset":12,"ts":-1}') == Position(12, -1, Poison())


def test_where_a_partition_stands_is_the_offset_that_was_kept() -> None:
    kept = Position.decode(Position(7, 8, Poison(stopped="why")).encode())
    running = Position.decode(Position(7, 8, Poison(seen=1)).encode())
    assert kept.poison is not None
    assert running.poison is not None
    assert (kept.poison.stopped_at, running.poison.stopped_at) == (7, -1)
    kept.poison.resume("first", None)
    assert kept.poison.stopped_at == -1


def test_a_stopped_partition_stays_stopped_even_without_a_reason() -> None:
    assert Position.decode(Position(1, 1, Poison(stopped="")).encode()).poison == Poison(stopped="")
    assert (Position.decode('{"offset":1,"stopped":true}').poison or Poison()).stopped


def test_a_long_reason_is_cut_so_that_the_commits_metadata_stays_below_the_brokers_limit() -> None:
    long = Position(2**62, 2**42, Poison(stopped="ü" * 5_000, resume_id="x" * 64, seen=10**6, bad=10**6, through=2**62))
    assert len(long.encode().encode()) < 4_096  # offset.metadata.max.bytes


@pytest.mark.parametrize("text", ["", "x", "[]", "7", "{}", '{"offset":"7"}', '{"offset":null}', "null", "\x00", "{"])
def test_what_something_else_wrote_is_no_position(text: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - several texts, one type
        Position.decode(text)


@pytest.mark.parametrize("metadata", [None, "", "by kafka-consumer-groups.sh", '{"offset":"7"}'])
def test_an_offset_that_another_tool_committed_is_a_position_without_a_past(metadata: str | None) -> None:
    assert Position.of_committed(5, metadata) == Position(5)


@given(st.integers(0, 2**62), POISONS)
def test_a_committed_offset_holds_and_the_rest_is_what_its_metadata_says(offset: int, poison: Poison) -> None:
    metadata = Position(7, 1_234, poison).encode()
    assert Position.of_committed(offset, metadata) == Position(offset, 1_234, poison)


@given(st.text() | st.binary())
def test_no_metadata_whatever_makes_reading_a_position_fail_otherwise(text: Any) -> None:
    with suppress(ValueError):
        Position.decode(text)
