"""What is measured of a worker over hours, and whether it grows: least squares, a CSV file and a plot.

The rule: what dies with a process (memory, descriptors, threads, tasks) is judged
inside the lives of the processes, as one slope common to all of them, each with a
level of its own: the kills would hide a leak. What stays (the store) is judged
over the whole. The first minutes of each, while caches fill and nothing expires
yet, do not count.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import IO

from matplotlib.figure import Figure

HOUR_S = 3600
GROWS_PERCENT = 10.0
"""Of its mean, an hour: a measure that surely grows by more than that does not stay the same."""
FEWEST = 10
"""Samples, for a slope."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the worker."""

    at_s: float
    """Since the load began."""
    life: int
    """Which process it is: 1, 2, ..."""
    age_s: float
    """Since that one was ready."""
    rss_mb: float
    descriptors: int
    """But those of the store's tables, which come and go as it is compacted."""
    tables: int
    """Open files of the store."""
    threads: int
    tasks: int
    store_mb: float
    lag: int
    """Offsets of all sources that are not processed yet."""
    sent: int
    """Events so far."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that must not grow."""

    name: str
    unit: str
    lasting: bool = False
    """It outlives the process."""


MEASURES = (
    Measure("rss_mb", "MiB"),
    Measure("descriptors", ""),
    Measure("threads", ""),
    Measure("tasks", ""),
    Measure("store_mb", "MiB", lasting=True),
)


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples."""

    per_hour: float
    error: float
    """Its standard error; wider where a sample resembles the one before, as those of a saw do."""
    mean: float
    samples: int

    @property
    def percent_per_hour(self) -> float:
        return 100 * self.per_hour / self.mean if self.mean else 0.0

    @property
    def word(self) -> str:
        """``flat``, ``grows``, or ``unknown`` when there are too few samples."""
        if self.samples < FEWEST:
            return "unknown"
        surely = self.per_hour - 2 * self.error
        return "grows" if surely > abs(self.mean) * GROWS_PERCENT / 100 else "flat"


def slope_of(samples: Sequence[Sample], measure: Measure, *, warm_up_s: float, settled_s: float) -> Slope:
    """Return the slope of a measure.

    Args:
        samples: In order of time.
        measure: What to look at.
        warm_up_s: What dies with the process counts from this age on.
        settled_s: What lasts counts from this time on: the store has reached the size at which as much goes as comes.
    """
    if measure.lasting:
        groups = [[(one.at_s, float(getattr(one, measure.name))) for one in samples if one.at_s >= settled_s]]
    else:
        lives = sorted({one.life for one in samples})
        groups = [
            [
                (one.at_s, float(getattr(one, measure.name)))
                for one in samples
                if one.life == life and one.age_s >= warm_up_s
            ]
            for life in lives
        ]
    return _common_slope([group for group in groups if group])


def _common_slope(groups: Sequence[Sequence[tuple[float, float]]]) -> Slope:
    """Least squares with one slope and a level for each group."""
    count = sum(map(len, groups))
    mean = sum(value for group in groups for _, value in group) / count if count else math.nan
    spread = covariance = 0.0
    centred: list[tuple[float, float]] = []
    for group in groups:
        at_mean = sum(at for at, _ in group) / len(group)
        value_mean = sum(value for _, value in group) / len(group)
        centred += [(at - at_mean, value - value_mean) for at, value in group]
    for at, value in centred:
        spread += at * at
        covariance += at * value
    free = count - len(groups) - 1
    if free < 1 or not spread:
        return Slope(math.nan, math.nan, mean, 0)
    slope = covariance / spread
    squares = sum((value - slope * at) ** 2 for at, value in centred)
    left = [value - slope * at for at, value in centred]
    alike = sum(before * after for before, after in pairwise(left)) / squares if squares else 0.0
    alike = min(max(alike, 0.0), 0.95)  # the first autocorrelation: so much less do the samples say than their number
    error = math.sqrt(squares / free / spread * (1 + alike) / (1 - alike))
    return Slope(slope * HOUR_S, error * HOUR_S, mean, count)


class Table:
    """A CSV file to which samples are added as they are taken."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._rows = csv.writer(file)
        self._rows.writerow([one.name for one in fields(Sample)])

    def add(self, sample: Sample) -> None:
        self._rows.writerow([f"{value:.2f}" if isinstance(value, float) else value for value in astuple(sample)])
        self._file.flush()


def plot(samples: Sequence[Sample], path: Path, title: str, *, warm_up_s: float, settled_s: float) -> None:
    """Draw every measure over time, with the kills, and the samples that count in a darker tone."""
    figure = Figure(figsize=(10, 2 * len(MEASURES) + 1), layout="constrained")
    figure.suptitle(title)
    kills = [(before.at_s + after.at_s) / 120 for before, after in pairwise(samples) if after.life != before.life]
    for axes, measure in zip(figure.subplots(len(MEASURES), 1, sharex=True), MEASURES, strict=True):
        for counts in (False, True):
            chosen = [
                one
                for one in samples
                if (one.at_s >= settled_s if measure.lasting else one.age_s >= warm_up_s) is counts
            ]
            axes.plot(
                [one.at_s / 60 for one in chosen],
                [getattr(one, measure.name) for one in chosen],
                ".",
                color="tab:blue" if counts else "lightgray",
            )
        for kill in kills:
            axes.axvline(kill, color="tab:red", linestyle=":", linewidth=1)
        slope = slope_of(samples, measure, warm_up_s=warm_up_s, settled_s=settled_s)
        axes.set_ylabel(f"{measure.name.removesuffix('_mb')} {measure.unit}")
        axes.set_title(f"{slope.percent_per_hour:+.1f} % an hour: {slope.word}", loc="right", fontsize="small")
        axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes; dotted: kill -9; gray: does not count")
    figure.savefig(path)
