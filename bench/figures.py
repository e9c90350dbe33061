"""The suite's own arithmetic: from measurements to figures.

The rule: a figure is the median of its rounds, and is always shown with its spread.
A ratio is taken within a round, where both sides had the same machine; the median
is then taken over these ratios.
"""

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

WARM_UP: Final = 0.05
"""The share of the outputs at each end that is not timed: processes start, caches fill, the last batches are short."""


class Goal(NamedTuple):
    """What a figure should reach."""

    at_least: bool
    """True: the figure should be at least the value; False: at most."""
    value: float

    def met_by(self, value: float) -> bool:
        """Tell whether a value reaches the goal."""
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:,g}"


GOALS: Final[Mapping[str, Goal]] = {
    "thin_ratio_aiokafka": Goal(True, 0.9),
    "thin_ratio_quix": Goal(True, 1.6),
    "thin_ratio_idiomatic_faust": Goal(True, 15),
    "thin_ratio_kafka_streams_eos": Goal(True, 1.0),
    "ratio_quix": Goal(True, 1.3),
    "overhead_us_ours": Goal(False, 15),
    "overhead_ratio_quix": Goal(False, 0.6),
    "end_to_end_ratio_status": Goal(True, 0.5),
    "latency_p50_ms": Goal(False, 60),
    "latency_p99_ms": Goal(False, 250),
    "transaction_cost_percent": Goal(False, 10),
    "restore_rows_per_s": Goal(True, 200_000),
    "restart_to_ready_s": Goal(False, 10),
    "rss_mb_at_1m_deliveries": Goal(False, 400),
    "monitor_tick_ms": Goal(False, 200),
    "monitor_cost_percent": Goal(False, 10),
    "deferrals_resolved_s": Goal(False, 30),
    "workers_2_cpu_growth_percent": Goal(False, 10),
    "workers_4_cpu_growth_percent": Goal(False, 10),
    "ingress_requests_per_s": Goal(True, 2_000),
    "ingress_p99_ms": Goal(False, 100),
    "ingress_events_per_s_batches_of_100": Goal(True, 20_000),
    "ingress_batches_of_100_p99_ms": Goal(False, 100),
    "ingress_ratio_bare_reads": Goal(True, 0.5),
    "ingress_ratio_bare_verifies": Goal(True, 0.5),
    "history_records_per_s": Goal(True, 10_000),
    "history_lag_p99_ms": Goal(False, 1_000),
    "history_first_page_ms": Goal(False, 100),
    "history_search_ms": Goal(False, 50),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its value in each round."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.values)

    @property
    def goal(self) -> Goal | None:
        """The figure's goal, if it has one."""
        return GOALS.get(self.name)

    @property
    def line(self) -> str:
        """The figure as ``name=value``, for programs."""
        return f"{self.name}={_plain(self.median)}"


@dataclass(slots=True)
class Figures:
    """All figures of a run, in the order in which they were first measured."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add one round's value."""
        self.rounds.setdefault(name, []).append(value)

    def all(self) -> list[Figure]:
        """Return all figures."""
        return [Figure(name, tuple(values)) for name, values in self.rounds.items()]


def ratio(of: float, to: float) -> float:
    """Return ``of / to``.

    Raises:
        ValueError: there is nothing to compare with.
    """
    if to <= 0:
        message = f"a ratio to {to} says nothing"
        raise ValueError(message)
    return of / to


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all are not above (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        message = "no values"
        raise ValueError(message)
    ordered = sorted(values)
    rank = max(-(-len(ordered) * round(share * 1000) // 1000), 1)
    return ordered[rank - 1]


class Window(NamedTuple):
    """The time in which a contestant was measured."""

    begin: float
    """Unix time in seconds."""
    end: float
    share: float
    """The share of all work that was done in it."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin


def window_of(appended: Sequence[float]) -> Window:
    """Return from when to when the work was timed, given the broker's times (s) of its outputs.

    Both ends lie in the middle of the work, where the same amount is in flight; so neither large batches nor a last
    flush are an advantage. An output appended exactly at one end counts as done before it.

    Raises:
        ValueError: there are too few outputs to tell.
    """
    ordered = sorted(appended)
    count = len(ordered)
    if count < 2 or ordered[0] == ordered[-1]:  # noqa: PLR2004 - a duration has two ends
        message = f"{count} outputs at one moment have no duration"
        raise ValueError(message)
    begin = ordered[int(count * WARM_UP)]
    end = ordered[int(count * (1 - WARM_UP))]
    if begin == end:  # a few large batches: take the whole time
        begin, end = ordered[0], ordered[-1]
    return Window(begin, end, (bisect_right(ordered, end) - bisect_right(ordered, begin)) / count)


def at(samples: Sequence[tuple[float, float]], moment: float) -> float:
    """Return the value at a moment, interpolated linearly between samples (time, value); outside them the nearest.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        message = "no samples"
        raise ValueError(message)
    after = bisect_left(samples, moment, key=lambda sample: sample[0])
    if after == 0:
        return samples[0][1]
    if after == len(samples):
        return samples[-1][1]
    (t0, v0), (t1, v1) = samples[after - 1], samples[after]
    return v0 + (v1 - v0) * (moment - t0) / (t1 - t0)


def growth_percent(before: float, after: float) -> float:
    """Return by how many per cent ``after`` is more than ``before``."""
    return (ratio(after, before) - 1) * 100


def table(figures: Iterable[Figure]) -> list[str]:
    """Return the rows of a Markdown table of the figures."""
    rows = ["| figure | median | lowest | highest | rounds | goal | |", "|---|---:|---:|---:|---:|---|---|"]
    for each in figures:
        goal, verdict = "", ""
        if each.goal is not None:
            goal, verdict = str(each.goal), "met" if each.goal.met_by(each.median) else "**missed**"
        spread = ["", ""] if len(each.values) == 1 else [_grouped(each.low), _grouped(each.high)]
        cells = [f"`{each.name}`", _grouped(each.median), *spread, str(len(each.values)), goal, verdict]
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return rows


def _plain(value: float) -> str:
    """Return four significant digits, or a whole number, without grouping."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004 - four digits


def _grouped(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - as above
