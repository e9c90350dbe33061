"""The table counts each message once: in its destination's row and the total, in the column of its age."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.qshape import BUCKETS_MIN, COLUMNS, TOTAL, Row, qshape

MINUTE = 60.0


def test_the_buckets_are_those_of_postfix() -> None:
    assert BUCKETS_MIN == (5, 10, 20, 40, 80, 160, 320, 640, 1280)
    assert COLUMNS == ("T", "5", "10", "20", "40", "80", "160", "320", "640", "1280", "1280+")


def test_nothing_that_waits_is_a_total_of_zero() -> None:
    assert qshape([]) == [Row(TOTAL, 0, (0,) * 10)]


@pytest.mark.parametrize(
    ("age", "column"),
    [
        (-30.0, 0),
        (0.0, 0),
        (5 * MINUTE, 0),  # a limit belongs to its column, as `le` does in the metrics
        (5 * MINUTE + 0.001, 1),
        (10 * MINUTE, 1),
        (11 * MINUTE, 2),
        (1280 * MINUTE, 8),
        (1280 * MINUTE + 1, 9),
        (float("inf"), 9),
    ],
)
def test_an_age_is_counted_up_to_and_including_its_limit(age: float, column: int) -> None:
    (total, row) = qshape([("gmail", age)])
    assert row.counts == total.counts == tuple(int(number == column) for number in range(10))


def test_the_largest_destination_comes_first_and_equal_ones_by_name() -> None:
    ages = [("yahoo", 1.0), ("gmail", 1.0), ("apple", 700 * MINUTE), ("yahoo", 30 * MINUTE)]
    assert qshape(ages) == [
        Row(TOTAL, 4, (2, 0, 0, 1, 0, 0, 0, 0, 1, 0)),
        Row("yahoo", 2, (1, 0, 0, 1, 0, 0, 0, 0, 0, 0)),
        Row("apple", 1, (0, 0, 0, 0, 0, 0, 0, 0, 1, 0)),
        Row("gmail", 1, (1, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
    ]


@given(st.lists(st.tuples(st.sampled_from(["gmail", "yahoo", "apple", "other"]), st.floats(allow_nan=False))))
def test_every_message_is_counted_once(ages: list[tuple[str, float]]) -> None:
    total, *rows = qshape(ages)
    assert total.total == len(ages) == sum(row.total for row in rows)
    assert {row.destination for row in rows} == {destination for destination, _ in ages}
    assert all(row.total == sum(row.counts) and len(row.counts) == len(COLUMNS) - 1 for row in (total, *rows))
    assert total.counts == tuple(map(sum, zip(*(row.counts for row in rows), strict=True))) or not rows
    assert rows == sorted(rows, key=lambda row: (-row.total, row.destination))
