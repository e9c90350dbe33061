"""What the suite writes into the documentation."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from bench import pages
from bench.figures import Figure
from bench.pages import Measured

PARTS = ("thin", "product", "long")
MARKED = f"before\n{pages._BEGIN}\nold\n{pages._END}\nafter\n"


def measured(*, fast: bool) -> Measured:
    return Measured.now("thin", "a machine", 0.1, fast=fast, events=10, figures=[Figure("thin_ratio_quix", (1.7, 2.0))])


def test_only_what_is_between_the_marks_is_replaced() -> None:
    written = pages.replaced(MARKED, ["new"])

    assert written == f"before\n{pages._BEGIN}\n\nnew\n\n{pages._END}\nafter\n"
    assert pages.replaced(written, ["new"]) == written


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="has no"):
        pages.replaced("no marks", ["new"])


@pytest.mark.parametrize("page", [pages.PERFORMANCE, pages.SCALING])
def test_both_pages_have_their_marks(page: Path) -> None:
    assert pages.replaced(page.read_text(), ["new"]).count("\nnew\n") == 1


def test_a_full_run_is_kept_and_a_fast_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "KEPT", tmp_path)

    measured(fast=True).keep()
    assert pages.kept(["thin"]) == []
    measured(fast=False).keep()
    [found] = pages.kept(["thin", "product"])
    assert found.all() == [Figure("thin_ratio_quix", (1.7, 2.0))]
    assert json.loads((tmp_path / "thin.json").read_text())["machine"] == "a machine"


def test_the_machine_says_what_a_step_of_its_python_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "step_ns", lambda: 111.6)

    assert f"Python {platform.python_version()} (112 ns a step)" in pages.machine()


def test_a_part_that_was_not_measured_keeps_its_table() -> None:
    old = "\n".join(pages.tables([replace(measured(fast=False), part=part) for part in ("thin", "long")], PARTS, {}))
    page = pages.replaced(MARKED, [old.replace("a machine", "an older one")])

    lines = pages.tables([measured(fast=False)], PARTS, pages.written(page))

    assert "\n".join(lines) == old.replace("a machine", "an older one").replace("an older one", "a machine", 1)


def test_a_step_of_python_is_measured() -> None:
    assert 0 < pages.step_ns() < 1e5


def test_a_table_says_when_where_and_how_busy() -> None:
    lines = pages.tables([measured(fast=False)], PARTS, {})

    assert lines[0] == "### thin"
    assert "a machine" in lines[2]
    assert "Load average before: 0.1" in lines[3]


def test_a_billion_deliveries_are_computed_from_what_was_measured() -> None:
    found = "\n".join(pages.scaling({"end_to_end_events_per_s": 20_000, "restore_rows_per_s": 250_000}))

    assert "| events a second, mean | 34,722 |" in found
    assert "| workers (one core each) | 11 |" in found  # 104,167 / 10,000, rounded up
    assert "| partitions | 44 |" in found
    assert "| hours to rebuild a lost store | 9.1 |" in found  # 90e9 / 11 / 250,000 s
    assert "| stores, TB, all workers | not measured |" in found
