"""What a soak says of a worker: a leak is seen although the kills hide it, and what only wobbles is none."""

import io
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.soak.samples import MEASURES, Measure, Sample, Table, plot, slope_of

RSS = next(one for one in MEASURES if one.name == "rss_mb")
STORE = next(one for one in MEASURES if one.name == "store_mb")
LIFE_S = 300


def samples(grow: Callable[[Sample], Sample], hours: float = 1.0) -> list[Sample]:
    """One each 10 s, a kill each 300 s; each process warms up for a minute, the store fills for four."""
    chance = random.Random(7)
    found = []
    for at in range(0, round(hours * 3600), 10):
        age = at % LIFE_S
        one = Sample(
            at_s=float(at),
            life=at // LIFE_S + 1,
            age_s=float(age),
            rss_mb=300 + min(age, 60) + chance.gauss(0, 5),
            descriptors=90 + chance.randrange(3),
            tables=10 + at % 7,
            threads=20,
            tasks=50,
            store_mb=80 + min(at, 240) / 4 + chance.gauss(0, 4),
            lag=0,
            sent=at * 1000,
        )
        found.append(grow(one))
    return found


def word(found: list[Sample], measure: Measure) -> str:
    return slope_of(found, measure, warm_up_s=60, settled_s=240).word


def test_what_warms_up_and_then_wobbles_is_flat() -> None:
    found = samples(lambda one: one)
    assert {measure.name: word(found, measure) for measure in MEASURES} == {one.name: "flat" for one in MEASURES}


@pytest.mark.parametrize("hours", [0.25, 1.0])
def test_a_leak_that_each_kill_takes_back_is_seen_within_the_lives(hours: float) -> None:
    found = samples(lambda one: replace(one, rss_mb=one.rss_mb + one.age_s / 10), hours)

    slope = slope_of(found, RSS, warm_up_s=60, settled_s=240)

    assert slope.word == "grows"
    assert slope.per_hour == pytest.approx(360, rel=0.2)
    assert word(found, STORE) == "flat"


def test_a_store_that_grows_over_the_kills_is_seen() -> None:
    found = samples(lambda one: replace(one, store_mb=one.store_mb + one.at_s / 60))

    slope = slope_of(found, STORE, warm_up_s=60, settled_s=240)

    assert slope.word == "grows"
    assert slope.per_hour == pytest.approx(60, rel=0.2)


def test_a_task_more_each_minute_is_seen() -> None:
    tasks = next(one for one in MEASURES if one.name == "tasks")
    assert word(samples(lambda one: replace(one, tasks=50 + int(one.age_s // 60))), tasks) == "grows"


def test_a_saw_of_which_a_few_teeth_are_seen_is_flat() -> None:
    """Each life sees the store's tables pile up and be merged, in steps that are longer than a life's samples."""
    found = samples(lambda one: replace(one, tasks=60 + int(10 * math.sin(one.at_s / 70))), 0.2)
    tasks = next(one for one in MEASURES if one.name == "tasks")
    assert word(found, tasks) == "flat"


def test_what_shrinks_does_not_grow() -> None:
    assert word(samples(lambda one: replace(one, store_mb=one.store_mb - one.at_s / 60)), STORE) == "flat"


def test_with_too_few_samples_nothing_is_said() -> None:
    assert {word(samples(lambda one: one, 0.02), measure) for measure in MEASURES} == {"unknown"}
    slope = slope_of([], RSS, warm_up_s=60, settled_s=240)
    assert slope.word == "unknown"
    assert math.isnan(slope.mean)


def test_the_table_has_a_row_for_each_sample_and_the_plot_is_drawn(tmp_path: Path) -> None:
    found = samples(lambda one: one, 0.2)
    file = io.StringIO()
    table = Table(file)
    for one in found:
        table.add(one)
    plot(found, tmp_path / "soak.svg", "a title", warm_up_s=60, settled_s=240)

    rows = file.getvalue().splitlines()
    assert rows[0].startswith("at_s,life,age_s,rss_mb,descriptors,tables,threads,tasks,store_mb")
    assert len(rows) == len(found) + 1
    assert "<svg" in (tmp_path / "soak.svg").read_text()
