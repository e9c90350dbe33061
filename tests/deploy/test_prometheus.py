"""The rules of Prometheus: each alert has its cases, its runbook and real metrics, and each case would notice a change.

The checks return the false things that they found, so that each can be shown a false thing, too.
"""

import copy
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.local import ROOT
from deploy.local.watchers import PROMETHEUS
from streams.metrics import HistoryMetrics, IngressMetrics, Metrics
from tests.docs import pages
from tests.installed import need

RULES = PROMETHEUS / "rules"
CASES = PROMETHEUS / "tests"
RUNBOOKS = ROOT / "docs" / "runbooks"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
LONG_S = 6 * 3_600
AT_ONCE = {
    "MailDeadLetters",
    "MailProcessRestarts",
    "MailRecordsSkipped",
    "MailScrapesFail",
    "MailStoreRebuilt",
    "Watchdog",
}
"""What they tell has happened, and does not pass by itself."""

Rule = dict[str, Any]


@functools.cache
def rules_of(path: Path) -> list[Rule]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


FILES = sorted(RULES.glob("*.yml"))
ALL = [rule for path in FILES for rule in rules_of(path)]
ALERTS = [rule for rule in ALL if "alert" in rule]
NAMES = {rule["alert"] for rule in ALERTS}
RECORDED = {rule["record"]: str(rule["expr"]) for rule in ALL if "record" in rule}
THRESHOLDS = {name: expr for name, expr in RECORDED.items() if name.endswith(":threshold")}
TEST_FILES = sorted(CASES.glob("*.yml"))


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    need("promtool", "prometheus")
    env = os.environ | {"GOGC": "400"}  # an eighth of its time is the collection of garbage that never grows large
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, env=env)


def unquoted(expr: str) -> str:
    return re.sub(r'"[^"]*"', '""', expr)


def thresholds_in(expr: str, recorded: Mapping[str, str] = RECORDED) -> set[str]:
    """Return the thresholds that an expression uses, also through what is recorded."""
    found: set[str] = set()
    for name in re.findall(r"[a-z_]*:?mailstreams[:_][a-z0-9_:]+", unquoted(expr)):
        if name.endswith(":threshold"):
            found.add(name)
        elif name in recorded:
            found |= thresholds_in(recorded[name], recorded)
    return found


# -- the files --------------------------------------------------------------------------------------------------------


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    checked = promtool("check", "config", PROMETHEUS / "prometheus.yml")

    assert checked.returncode == 0, checked.stderr
    assert f"{len(FILES)} rule files found" in checked.stdout


def test_a_rule_that_prometheus_would_not_take_is_seen(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "rules" / "wrong.yml").write_text("groups: [{name: x, rules: [{alert: X, expr: 'sum('}]}]")

    assert promtool("check", "config", tmp_path / "prometheus.yml").returncode != 0


def test_what_is_recorded_is_recorded_before_it_is_used() -> None:
    """Groups are evaluated side by side, the rules of a group one after the other."""
    for path in FILES:
        (group,) = yaml.safe_load(path.read_text())["groups"]
        seen = set(THRESHOLDS)
        for rule in group["rules"]:
            used = set(re.findall(r"\w*:mailstreams_\w+:\w+", unquoted(str(rule["expr"]))))
            assert used <= seen, (path.name, rule)
            seen.add(rule.get("record", ""))


# -- alerts, runbooks, cases ------------------------------------------------------------------------------------------


def fired(cases: Mapping[str, Any]) -> set[str]:
    return {
        each["alertname"]
        for test in cases["tests"]
        for each in test.get("alert_rule_test", ())
        if each.get("exp_alerts")
    }


def silent(cases: Mapping[str, Any]) -> set[str]:
    return {
        each["alertname"]
        for test in cases["tests"]
        for each in test.get("alert_rule_test", ())
        if not each.get("exp_alerts")
    }


def test_every_alert_has_a_runbook_a_line_in_the_index_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [yaml.safe_load(path.read_text()) for path in TEST_FILES]
    index = (RUNBOOKS / "README.md").read_text()

    assert len(NAMES) >= 20
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == NAMES
    assert set(re.findall(r"^\| \[(\w+)\]\(\1\.md\)", index, re.MULTILINE)) == NAMES
    assert set.union(*map(fired, cases)) == NAMES
    assert set.union(*map(silent, cases)) == NAMES - {"Watchdog"}


def test_the_cases_of_an_alert_are_in_the_file_named_as_that_of_its_rule() -> None:
    for path in TEST_FILES:
        alerts = {rule["alert"] for rule in rules_of(RULES / path.name) if "alert" in rule}
        assert fired(yaml.safe_load(path.read_text())) == alerts


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.stem))
def test_the_alerts_fire_and_are_silent_as_their_cases_say(path: Path) -> None:
    tested = promtool("test", "rules", path)

    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: "-".join([rule["alert"], *rule["labels"].values()]))
def test_an_alert_says_how_bad_it_is_who_tells_what_and_where_to_read_on(rule: Rule) -> None:
    notes = rule["annotations"]

    assert rule["labels"]["severity"] in {"critical", "warning", "none"}
    assert rule["labels"]["component"] in {"monitor", "worker", "ingress", "history", "alerting"}
    assert (rule["for"] == "0m") == (rule["alert"] in AT_ONCE)
    assert set(notes) == {"summary", "description", "runbook_url", "dashboard"}
    assert "$value" in notes["summary"] + notes["description"] or rule["alert"] in {"MailPartitionStopped", "Watchdog"}
    assert notes["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert (ROOT / notes["runbook_url"]).is_file()


def test_an_alert_names_a_dashboard_that_there_is() -> None:
    uids = {yaml.safe_load(path.read_text())["uid"] for path in DASHBOARDS.glob("*.json")}

    assert {rule["annotations"]["dashboard"] for rule in ALERTS} <= uids


def test_two_rules_make_no_alert_with_the_same_labels() -> None:
    """Prometheus would write one series twice, and the end of one would be taken for the end of both."""
    kept = [(rule["alert"], *sorted(rule["labels"].items())) for rule in ALERTS]
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_runbook_says_the_severity_the_rule_and_the_thresholds_and_has_the_four_parts(name: str) -> None:
    page = pages.read(f"docs/runbooks/{name}.md")
    mine = [rule for rule in ALERTS if rule["alert"] == name]
    file = file_of(name)

    assert page.text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page.text, re.MULTILINE) == HEADINGS
    severities = dict.fromkeys(rule["labels"]["severity"] for rule in mine)
    assert f"Severity: {', '.join(severities)}.\n" in page.text
    assert f"Rule: [{file}](../../deploy/prometheus/rules/{file})." in page.text
    used = set.union(*(thresholds_in(rule["expr"]) for rule in mine))
    assert set(re.findall(r"`(mailstreams:\w+:threshold)`", page.text)) == used
    diagnosis = page.text.split("## Diagnosis")[1].split("## Mitigation")[0]
    assert pages.commands([pages.Page(page.path, diagnosis)]) or name == "Watchdog"


# -- metrics and thresholds -------------------------------------------------------------------------------------------

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
}


def declared() -> set[str]:
    """Return the names of all series that worker, ingress and history can have."""
    found: set[str] = set()
    for kind in (Metrics, IngressMetrics, HistoryMetrics):
        registry = CollectorRegistry()
        kind.create(registry, version="1")
        found |= {family.name + suffix for family in registry.collect() for suffix in SUFFIXES[family.type]}
    return found


def unknown_series(exprs: Iterable[str], known: set[str]) -> set[str]:
    """Return what is named in expressions and neither exported nor recorded."""
    ours = re.compile(r"[a-z_]*:?mailstreams[:_][a-z0-9_:]+|\bprocess_[a-z_]+")
    named = {name for expr in exprs for name in ours.findall(unquoted(expr))}
    return named - known


def test_every_metric_that_a_rule_names_is_exported_or_recorded() -> None:
    known = declared() | set(RECORDED)

    assert unknown_series([str(rule["expr"]) for rule in ALL], known) == set()
    assert unknown_series(["rate(mailstreams_deferral_total[5m]) > mailstreams:x:threshold"], known) == {
        "mailstreams_deferral_total",
        "mailstreams:x:threshold",
    }


def test_every_metric_of_the_cases_is_exported() -> None:
    for path in TEST_FILES:
        series = [each["series"] for test in yaml.safe_load(path.read_text())["tests"] for each in test["input_series"]]
        assert unknown_series(series, declared()) == set()


def test_every_threshold_is_used_and_every_one_that_is_used_is_there() -> None:
    assert set.union(*(thresholds_in(rule["expr"]) for rule in ALERTS)) == set(THRESHOLDS)
    named = {name for rule in ALERTS for name in re.findall(r'query "([^"]+)"', str(rule["annotations"]))}
    assert named <= set(RECORDED)


def hidden_figures(expr: str) -> list[str]:
    """Return figures with which an expression compares, but for 0, which means: at all."""
    return [found for found in re.findall(r"[<>=]=?\s*(-?[\d.]+)", unquoted(expr)) if float(found) != 0]


def test_no_alert_hides_a_figure_from_the_thresholds() -> None:
    for rule in ALERTS:
        assert hidden_figures(rule["expr"]) == [], rule["alert"]
    assert hidden_figures('x{a="> 3"} > 5 and y >= 0') == ["5"]


# -- other thresholds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["0.99", "0.93", "0.9", "0.8", "0.5"])
def test_mail_that_is_all_late_raises_both_alerts_whatever_share_of_it_may_be_late(
    objective: str, tmp_path: Path
) -> None:
    """14.4 times the share that may be late is more than all mail with an objective of 0.93: nothing would exceed it."""
    changed = Changed(tmp_path, "deliveries.yml", {"MailTimeToDeliverBudgetBurn"})
    changed.set_rule("record", "mailstreams:objective_met_share:threshold", objective)
    late = {"series": 'mailstreams_objective_total{provider="mailgun", outcome="missed"}', "values": "0+100x400"}
    firing = 'count by (severity) (ALERTS{alertname="MailTimeToDeliverBudgetBurn", alertstate="firing"})'

    def case(*severities: str) -> dict[str, Any]:
        expected = [{"labels": f'{{severity="{severity}"}}', "value": 1} for severity in severities]
        asked = {"expr": firing, "eval_time": "380m", "exp_samples": expected}
        tests = [{"interval": "1m", "input_series": [late], "promql_expr_test": [asked]}]
        return {**changed.cases, "tests": tests}

    assert not changed._fails(case("critical", "warning"))
    assert changed._fails(case())


@pytest.mark.parametrize(
    ("ready", "conditions"),
    [
        (("0x40", "0x40"), {"none_ready", "too_few_ready"}),
        (("0x40", "1x40"), {"too_few_ready"}),
        (("0x40", "1 0 0 1 1 0 1 1 1 0 " * 4), {"too_few_ready"}),
        ((), {"none_ready", "too_few_ready"}),
        (("1x40", "1x40"), set()),
    ],
)
def test_where_two_ingresses_are_wanted_the_alert_says_whether_one_is_left(
    ready: tuple[str, ...], conditions: set[str], tmp_path: Path
) -> None:
    """Alertmanager goes by it: while one is left, a provider that is silent has another reason. It may come and go."""
    changed = Changed(tmp_path, "ingress.yml", {"MailIngressMissing"})
    changed.set_rule("record", "mailstreams:ingresses_ready:threshold", "2")
    series = [
        {"series": f'mailstreams_ready{{job="mailstreams-ingress", instance="{name}"}}', "values": values}
        for name, values in zip("ab", ready, strict=False)
    ]
    asked = {
        "expr": 'count by (condition) (ALERTS{alertname="MailIngressMissing", alertstate="firing"})',
        "eval_time": "10m",
        "exp_samples": [{"labels": f'{{condition="{condition}"}}', "value": 1} for condition in conditions],
    }
    tests = [{"interval": "15s", "input_series": series, "promql_expr_test": [asked]}]

    assert not changed._fails(changed.cases | {"evaluation_interval": "15s", "tests": tests})


# -- would the cases notice? ------------------------------------------------------------------------------------------


def recorded_in(text: str) -> set[str]:
    """Return the names of what is recorded that a text holds, and of all by which that is recorded."""
    found = {name for name in RECORDED if name in text}
    return found.union(*(recorded_in(RECORDED[name]) for name in found))


def seconds(duration: str) -> int:
    """Return Prometheus' ``1d2h30m`` in seconds."""
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    return sum(int(count) * units[unit] for count, unit in re.findall(r"(\d+)([smhd])", duration))


def dumped(content: object) -> str:
    text: str = yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False)
    return text


class Changed:
    """A copy of rules and cases in which something was changed; of both what some alerts of one file need.

    Rules that they do not go by are left out: those change nothing but the time that it takes to evaluate them.
    """

    def __init__(self, folder: Path, file: str, alerts: set[str]) -> None:
        self.folder = folder
        self.alerts = alerts
        # As text: YAML takes a series of zeros, 0x30, for the number 48.
        self.cases = yaml.load((CASES / file).read_text(), Loader=yaml.CBaseLoader)
        shutil.copytree(RULES, folder / "rules")
        (folder / "tests").mkdir()
        needed = alerts.union(*(recorded_in(str(rule)) for rule in ALERTS if rule["alert"] in alerts))
        self._write_rules(lambda rule: rule if rule.get("alert", rule.get("record")) in needed else None)

    def set_rule(self, kind: str, name: str, expr: str) -> None:
        self._write_rules(lambda rule: rule | {"expr": expr} if rule.get(kind) == name else rule)

    def _write_rules(self, changed: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        """Write each rule as it is changed; one of which None is made is left out."""
        for path in (self.folder / "rules").glob("*.yml"):
            content = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
            group = content["groups"][0]
            group["rules"] = [new for rule in group["rules"] if (new := changed(rule)) is not None]
            path.write_text(dumped(content))

    def noticed(self, *, firing: bool, quiet: bool) -> bool:
        """Return whether a case fails; of those in which alerts fire, of those in which none does, or of both.

        Those of many hours are played only if none of the others fails: they take most of the time.
        """
        cases = copy.deepcopy(self.cases)
        for test in cases["tests"]:
            test.pop("promql_expr_test", None)
            test["alert_rule_test"] = [
                each
                for each in test.get("alert_rule_test", ())
                if each["alertname"] in self.alerts and (firing if each.get("exp_alerts") else quiet)
            ]
        short: list[Any] = []
        long: list[Any] = []
        for test in cases["tests"]:
            if asked := [seconds(each["eval_time"]) for each in test["alert_rule_test"]]:
                (short if max(asked) < LONG_S else long).append(test)
        return any(self._fails(cases | {"tests": tests}) for tests in (short, long) if tests)

    def _fails(self, cases: Mapping[str, Any]) -> bool:
        path = self.folder / "tests" / "cases.yml"
        path.write_text(dumped(cases))
        return promtool("test", "rules", path).returncode != 0


def file_of(name: str) -> str:
    (file,) = {path.name for path in FILES if any(rule.get("alert") == name for rule in rules_of(path))}
    return file


def users_of(threshold: str) -> dict[str, set[str]]:
    """Return the alerts that use a threshold, by the file in which they are."""
    users: dict[str, set[str]] = {}
    for rule in ALERTS:
        if threshold in thresholds_in(rule["expr"]):
            users.setdefault(file_of(rule["alert"]), set()).add(rule["alert"])
    return users


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.stem))
def test_the_copy_in_which_nothing_was_changed_passes(path: Path, tmp_path: Path) -> None:
    alerts = {rule["alert"] for rule in rules_of(RULES / path.name) if "alert" in rule}

    assert alerts
    for name in alerts:
        assert not Changed(tmp_path / name, path.name, {name}).noticed(firing=True, quiet=True), name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_alert_that_never_fires_is_noticed(name: str, tmp_path: Path) -> None:
    changed = Changed(tmp_path, file_of(name), {name})
    changed.set_rule("alert", name, "vector(1) > 2")

    assert changed.noticed(firing=True, quiet=False)


@pytest.mark.parametrize("name", sorted(NAMES - {"Watchdog"}))
def test_an_alert_that_always_fires_is_noticed(name: str, tmp_path: Path) -> None:
    changed = Changed(tmp_path, file_of(name), {name})
    changed.set_rule("alert", name, "vector(1)")

    assert changed.noticed(firing=False, quiet=True)


@pytest.mark.parametrize("name", sorted(THRESHOLDS))
def test_a_threshold_that_is_ten_times_too_high_or_too_low_is_noticed(name: str, tmp_path: Path) -> None:
    figure = float(THRESHOLDS[name])
    for file, alerts in users_of(name).items():
        for factor in (0.1, 10):
            changed = Changed(tmp_path / file / str(factor), file, alerts)
            changed.set_rule("record", name, f"{figure * factor or (1000 if factor > 1 else -1)}")
            assert changed.noticed(firing=True, quiet=True), (file, factor)
