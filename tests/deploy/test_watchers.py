"""What a run gives Prometheus and Alertmanager: the files of ``deploy``, with other addresses and more impatience."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from deploy.local import LocalError, watchers
from deploy.local.watchers import ALERTMANAGER, DEMO, PROMETHEUS, Pace, Watchers

PACE = Pace(every_s=1, holds_s=2, lingers_s=20, gathers_s=1, thresholds={"deferrals_stuck": 0})
TARGETS = {"worker": ["127.0.0.1:1001"], "ingress": ["127.0.0.1:1002"]}


def lines_that_differ(folder: Path) -> list[tuple[str, str]]:
    """Return the lines of the configuration that are others than in ``deploy``, before and after."""
    differ = []
    originals = {path.name: path for path in [*PROMETHEUS.glob("rules/*.yml"), PROMETHEUS / "prometheus.yml"]}
    for written in [*folder.glob("rules/*.yml"), folder / "prometheus.yml"]:
        before, after = originals.pop(written.name).read_text(), written.read_text()
        differ += [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert not originals
    return differ


def test_without_a_pace_the_rules_are_as_in_the_files(tmp_path: Path) -> None:
    Watchers().configure(tmp_path, targets=TARGETS)

    assert lines_that_differ(tmp_path) == []


def test_a_pace_changes_times_and_the_thresholds_that_it_names_and_nothing_else(tmp_path: Path) -> None:
    Watchers(pace=PACE).configure(tmp_path, targets=TARGETS)

    differ = lines_that_differ(tmp_path)
    times = r" *(scrape_interval|scrape_timeout|evaluation_interval|for|keep_firing_for): \d+[smh]"
    others = [pair for pair in differ if not re.fullmatch(times, pair[0])]
    holds = {
        (re.search(r"for: 0", before) is None, after.split(": ")[1]) for before, after in differ if " for:" in before
    }
    assert holds == {(True, "2s"), (False, "0s")}  # what is told at once still is
    assert {after.split(": ")[1] for before, after in differ if "keep_firing_for" in before} == {"20s"}
    assert [(before.strip(), after.strip()) for before, after in others] == [("expr: 50", "expr: 0")]


def test_a_threshold_that_is_not_there_is_refused(tmp_path: Path) -> None:
    pace = Pace(every_s=1, holds_s=1, lingers_s=1, gathers_s=1, thresholds={"deferals_stuck": 0})

    with pytest.raises(LookupError, match="deferals_stuck"):
        Watchers(pace=pace).configure(tmp_path, targets=TARGETS)


def test_the_thresholds_of_the_demonstration_are_there(tmp_path: Path) -> None:
    Watchers(pace=DEMO).configure(tmp_path, targets=TARGETS)


def test_the_addresses_are_this_runs_and_what_an_earlier_one_wrote_is_gone(tmp_path: Path) -> None:
    Watchers().configure(tmp_path, targets={**TARGETS, "web": ["127.0.0.1:1003"]})
    Watchers(prometheus_port=1004, alertmanager_port=1005).configure(tmp_path, targets=TARGETS)

    found = {path.stem: yaml.safe_load(path.read_text()) for path in (tmp_path / "targets").iterdir()}
    assert found == {
        "worker": [{"targets": ["127.0.0.1:1001"]}],
        "ingress": [{"targets": ["127.0.0.1:1002"]}],
        "prometheus": [{"targets": ["127.0.0.1:1004"]}],
        "alertmanager": [{"targets": ["127.0.0.1:1005"]}],
    }
    assert found.keys() <= set(re.findall(r"targets/(\w+)\.yml", (PROMETHEUS / "prometheus.yml").read_text()))


def test_nobody_is_told_without_a_receiver_and_all_receivers_are_the_one_that_is_given(tmp_path: Path) -> None:
    Watchers().configure(tmp_path, targets=TARGETS)
    silent = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    Watchers(receiver="http://127.0.0.1:1006/").configure(tmp_path, targets=TARGETS)
    told = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())

    names = [receiver["name"] for receiver in yaml.safe_load(ALERTMANAGER.read_text())["receivers"]]
    assert silent["receivers"] == [{"name": name} for name in names]
    assert [receiver["webhook_configs"][0]["url"] for receiver in told["receivers"]] == ["http://127.0.0.1:1006/"] * 3
    assert silent["route"] == told["route"] == yaml.safe_load(ALERTMANAGER.read_text())["route"]


def test_what_is_not_installed_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if "alertmanager" in name else found(name) or "/x")

    assert watchers.missing() == ["alertmanager"]
    with pytest.raises(LocalError, match=r"alertmanager .* apt-get install prometheus prometheus-alertmanager"):
        Watchers().commands(tmp_path)
