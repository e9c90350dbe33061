"""Waiting messages by destination and age: the table of Postfix' ``qshape(1)``.

One row per destination, one column per age range, each twice as wide as the one
before. Read it as postmasters do: high counts at the right of one row mean that
a destination does not take our mail; at the left of all rows they are a burst.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

BUCKETS_MIN = tuple(5 * 2**n for n in range(9))
"""The upper limits of the columns in minutes, each included: 5, 10, 20, ... 1280. A last column has no limit."""
TOTAL = "TOTAL"
"""The destination of the first row."""
COLUMNS = ("T", *(str(minutes) for minutes in BUCKETS_MIN), f"{BUCKETS_MIN[-1]}+")
"""The headings of ``Row.total`` and ``Row.counts``."""

_LIMITS_S = tuple(minutes * 60 for minutes in BUCKETS_MIN)


class Row(NamedTuple):
    """How many messages wait for one destination."""

    destination: str
    total: int
    counts: tuple[int, ...]
    """One more than ``BUCKETS_MIN`` has: the last counts all older messages."""


def qshape(ages: Iterable[tuple[str, float]]) -> list[Row]:
    """Return the table's rows: the total, then the destinations, the largest first and equal ones by name.

    Args:
        ages: (destination, age in seconds) of each message that waits; a negative age counts as none.
    """
    total = [0] * (len(_LIMITS_S) + 1)
    by_destination: dict[str, list[int]] = {}
    for destination, age in ages:
        column = bisect_left(_LIMITS_S, age)
        counts = by_destination.get(destination)
        if counts is None:
            counts = by_destination[destination] = [0] * len(total)
        counts[column] += 1
        total[column] += 1
    rows = [Row(destination, sum(counts), tuple(counts)) for destination, counts in by_destination.items()]
    rows.sort(key=lambda row: (-row.total, row.destination))
    return [Row(TOTAL, sum(total), tuple(total)), *rows]
