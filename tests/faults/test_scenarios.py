"""A short set of the faults, each in its quick form. ``make chaos`` plays all of them in full."""

import os
from pathlib import Path

import pytest

from deploy.local.jars import KAFKA_VERSION
from tests.faults.scenarios import SCENARIOS, Scenario, play

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

SHORT = [one for one in SCENARIOS.values() if one.short]


@pytest.mark.parametrize("chosen", SHORT, ids=lambda one: one.name)
async def test_a_fault_leaves_nothing_lost_nothing_wrong_and_nothing_told_twice(
    chosen: Scenario, tmp_path: Path
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)

    outcome = await play(chosen, tmp_path, seed=seed, quick=True, kafka=os.environ.get("KAFKA", KAFKA_VERSION))

    assert outcome.complaints == []
    assert outcome.verdict is not None
    assert [str(one) for one in outcome.verdict.differences] == []
    assert outcome.duplicates == 0


def test_every_scenario_has_a_name_of_its_own_and_says_what_it_does() -> None:
    assert len(SHORT) >= 5
    assert len({one.about for one in SCENARIOS.values()}) == len(SCENARIOS)
