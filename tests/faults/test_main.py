"""What `make chaos` says of what it found."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults import __main__ as chaos
from tests.faults.oracle import Difference, Expected, Kinds, Verdict
from tests.faults.scenarios import SCENARIOS
from tests.faults.world import Outcome

FAULT = SCENARIOS["broker-killed"]


def outcome(*kinds: Kinds) -> Outcome:
    differences = [Difference(kind, "mail.status", f"record {number}") for number, kind in enumerate(kinds)]
    return Outcome(verdict=Verdict(differences, Expected()))


def test_what_was_lost_wrong_or_told_twice_stands_in_the_table_and_in_the_figures() -> None:
    found = (outcome(), outcome(Kinds.LOST, Kinds.WRONG), outcome(Kinds.REPEATED))
    found[1].lost = 1  # seen by the subscriber, or at the edge
    played = [chaos.Played(FAULT, each, 1.0) for each in found]

    figures = dict(line.split("=") for line in chaos._figures(played))
    rows = [line.split()[2:5] for line in chaos._table(played)[2:5]]

    assert rows == [["0", "0", "0"], ["2", "1", "0"], ["0", "0", "1"]]
    assert figures["faults_survived"] == "1"
    assert figures["faults_not_judged"] == "0"
    assert (figures["records_lost"], figures["records_wrong"]) == ("2", "1")
    assert figures["duplicates_read_committed"] == "1"


def test_each_difference_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def play(*_: Any, **__: Any) -> Outcome:
        return outcome(Kinds.WRONG)

    monkeypatch.setattr(chaos, "play", play)
    chaos._try(FAULT, tmp_path, seed=1, quick=True, kafka="4.1.0", place="1/1")

    said = capsys.readouterr().out
    assert "[1/1] broker-killed: FAILED" in said
    assert "mail.status: record 0 (" in said
