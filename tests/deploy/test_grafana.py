"""The dashboards, as far as they can be checked without a Grafana: the files, the queries, the alerts.

That the queries find something in a real run is tests/e2e. The checks return the false things that they found, so that
each can be shown a false thing, too.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.grafana import DASHBOARDS, FOLDER, render
from deploy.grafana.panels import number
from deploy.grafana.queries import PanelQuery, concrete, panel_queries, panels_of_alerts, variable_queries
from deploy.grafana.thresholds import RULES, threshold
from streams.metrics import HistoryMetrics, IngressMetrics, Metrics
from tests.docs import pages
from tests.installed import need

COMMITTED = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
QUERIES = [query for dashboard in COMMITTED.values() for query in panel_queries(dashboard)]
RULE_LIST = [
    rule
    for path in RULES.glob("*.yml")
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"]: {**rule, "expr": str(rule["expr"])} for rule in RULE_LIST if "record" in rule}
ALERTS = {(rule["alert"], rule["annotations"]["dashboard"]) for rule in RULE_LIST if "alert" in rule}
"""Each with the dashboards that its rules name."""
DISCOVERED = {"instance", "job", "le"}
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
}


def declared() -> dict[str, set[str]]:
    """Return the names of all series of worker, ingress and history, with the labels of each."""
    found: dict[str, set[str]] = {}
    for kind in (Metrics, IngressMetrics, HistoryMetrics):
        registry = CollectorRegistry()
        kind.create(registry, version="1")
        for collector in registry._collector_to_names:
            # The one of the process has no describe().
            for family in getattr(collector, "describe", collector.collect)():
                labels = {*getattr(collector, "_labelnames", ()), *getattr(family, "_labelnames", ())}
                for suffix in SUFFIXES[family.type]:
                    found.setdefault(family.name + suffix, set()).update(labels)
    return found


DECLARED = declared()


def unknown_metrics(exprs: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the metrics named in queries that nobody declares."""
    named = {
        name
        for expr in exprs
        for name in re.findall(r"[a-z_]*:?mailstreams[:_][a-z0-9_:]+|process_[a-z_]+", strings_out(expr))
    }
    return sorted(named - set(known))


def strings_out(expr: str) -> str:
    return re.sub(r'"[^"]*"', '""', expr)


def unknown_labels(exprs: Iterable[str], known: Mapping[str, set[str]]) -> list[str]:
    """Return what is matched against a label that the metric has not: it would match nothing once a value is chosen."""
    return [
        f"{name}{{{label}}}"
        for expr in exprs
        for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", strings_out(expr))
        for label in re.findall(r"(\w+)\s*[=!]", matchers)
        if name in known and label not in known[name] | DISCOVERED
    ]


def promtool(folder: Path, exprs: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Write every query as a recording rule and let Prometheus' own parser read them."""
    rules = [{"record": f"panel:query:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    file = folder / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    return subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)


# -- the files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_committed_file_is_what_the_code_builds(name: str) -> None:
    assert (FOLDER / name).read_text() == render(DASHBOARDS[name]()), "run `make dashboards`"


def test_a_panel_more_is_another_file() -> None:
    name, build = next(iter(DASHBOARDS.items()))
    assert (FOLDER / name).read_text() != render(build().with_panel(number("More", "Says nothing.", "up")))


def test_no_file_is_left_that_nobody_builds() -> None:
    assert COMMITTED.keys() == DASHBOARDS.keys()


def test_addresses_in_grafana_and_panel_ids_are_unique() -> None:
    assert len({dashboard["uid"] for dashboard in COMMITTED.values()}) == len(COMMITTED)
    for dashboard in COMMITTED.values():
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids) > 5


def test_no_panel_lies_upon_another_or_leaves_the_grid() -> None:
    for dashboard in COMMITTED.values():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert at["x"] + at["w"] <= 24, panel["title"]
            assert not cells & taken, panel["title"]
            taken |= cells


def test_no_two_panels_of_a_dashboard_have_one_title() -> None:
    for dashboard in COMMITTED.values():
        titles = [panel["title"] for panel in dashboard["panels"] if panel["type"] != "row"]
        assert len(set(titles)) == len(titles)


def test_every_panel_says_what_it_shows() -> None:
    for query in QUERIES:
        assert len(query.description) > 10, query


# -- the queries -------------------------------------------------------------------------------------------------------


def test_every_metric_of_a_panel_is_declared_or_recorded() -> None:
    assert len(QUERIES) > 60
    assert unknown_metrics((query.expr for query in QUERIES), {*DECLARED, *RECORDED}) == []


def test_every_label_that_a_panel_chooses_by_is_one_of_the_metric() -> None:
    assert unknown_labels((query.expr for query in QUERIES), DECLARED) == []


def test_every_choice_at_the_head_is_a_label_of_its_metric() -> None:
    for dashboard in COMMITTED.values():
        for name, metric in variable_queries(dashboard):
            assert name in DECLARED[metric], (dashboard["title"], name)


def test_a_wrong_metric_and_a_wrong_label_are_seen() -> None:
    assert unknown_metrics(['rate(mailstreams_redy{job="mailstreams-worker"}[5m])'], DECLARED) == ["mailstreams_redy"]
    assert unknown_metrics(["provider:mailstreams_x:sum"], RECORDED) == ["provider:mailstreams_x:sum"]
    assert unknown_labels(['mailstreams_ready{provider=~".*"}'], DECLARED) == ["mailstreams_ready{provider}"]


def test_every_metric_is_on_a_dashboard() -> None:
    shown = "\n".join([*(query.expr for query in QUERIES), *(rule["expr"] for rule in RECORDED.values())])
    parts = ("_bucket", "_sum", "_count", "_gsum", "_gcount")
    families = {re.sub(f"({'|'.join(parts)})$", "", name) for name in DECLARED}
    # Of the history a dashboard shows what an alert looks at, and so it is with the usual ones of a process.
    families = {name for name in families if not name.startswith(("mailstreams_history_", "process_"))}
    assert {name for name in families if not re.search(rf"\b{name}({'|'.join(parts)})?\b", shown)} == set()


def test_a_series_is_named_by_labels_that_its_query_keeps() -> None:
    for query in QUERIES:
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            kept = re.findall(r"\bby \(([^)]*)\)", query.expr)
            names = {name.strip() for group in kept for name in group.split(",")}
            assert not kept or label in names, query


def test_promtool_understands_every_query(tmp_path: Path) -> None:
    need_promtool()
    checked = promtool(tmp_path, (concrete(query.expr) for query in QUERIES))
    assert checked.returncode == 0, checked.stderr
    assert f"SUCCESS: {len(QUERIES)} rules found" in checked.stdout


def test_promtool_refuses_a_query_that_is_none(tmp_path: Path) -> None:
    need_promtool()
    checked = promtool(tmp_path, ["sum(rate(mailstreams_events_total))"])
    assert checked.returncode != 0
    assert "expected type range vector" in checked.stderr


@pytest.mark.parametrize(
    ("panel", "series", "shown"),
    [
        (
            "Since the last webhook, by provider",
            {
                # Nothing came since the start of either, and of the other provider to one of them only.
                'mailstreams_webhook_last_accepted_timestamp_seconds{provider="mailgun", instance="a"}': 0,
                'mailstreams_webhook_last_accepted_timestamp_seconds{provider="mailgun", instance="b"}': 0,
                'mailstreams_webhook_last_accepted_timestamp_seconds{provider="postmark", instance="a"}': 0,
                'mailstreams_webhook_last_accepted_timestamp_seconds{provider="postmark", instance="b"}': 500,
            },
            {'{provider="postmark"}': 100},
        ),
        (
            "Monitor last ran",
            {
                # The second stands by since it gave its partitions back; the third has not run yet.
                'mailstreams_monitor_last_run_timestamp_seconds{job="mailstreams-worker", instance="a"}': 590,
                'mailstreams_partitions_owned{job="mailstreams-worker", instance="a"}': 8,
                'mailstreams_monitor_last_run_timestamp_seconds{job="mailstreams-worker", instance="b"}': 100,
                'mailstreams_partitions_owned{job="mailstreams-worker", instance="b"}': 0,
                'mailstreams_monitor_last_run_timestamp_seconds{job="mailstreams-worker", instance="c"}': 0,
                'mailstreams_partitions_owned{job="mailstreams-worker", instance="c"}': 8,
            },
            {"{}": 10},
        ),
    ],
)
def test_a_panel_shows_neither_a_time_that_was_never_set_nor_a_worker_that_stands_by(
    tmp_path: Path, panel: str, series: Mapping[str, float], shown: Mapping[str, float]
) -> None:
    (expr,) = {query.expr for query in QUERIES if query.panel == panel}

    tested = answered(tmp_path, expr, series, shown)

    assert tested.returncode == 0, tested.stdout + tested.stderr


LAG = 'mailstreams_consumer_lag_records{topic="mail.events", partition="3", instance="a"}'
LAG_ELSEWHERE = LAG.replace('"a"', '"b"')
OF_GMAIL = 'provider="mailgun", destination="gmail"'
ON_HOLD = 'mailstreams_deferred_age_seconds_gcount{provider="postmark", destination="gmail"}'
WAITS = f"mailstreams_deferred_age_seconds_gcount{{{OF_GMAIL}}}"
OVERDUE, RAISED = (f'mailstreams_deferred_stuck{{{OF_GMAIL}, level="{level}"}}' for level in ("overdue", "raised"))
AGE = f"provider_destination:mailstreams_deferred_oldest:age_seconds{{{OF_GMAIL}}}"
STANDS = 'mailstreams_partition_stopped{topic="mail.events", partition="3", instance="a"}'
WAITING = ("Deferred now", "Stuck now", "Deferred", "Stuck, by level", "Oldest", "Partitions that stand")


@pytest.mark.parametrize(
    ("panel", "series", "shown"),
    [
        *((panel, {}, {}) for panel in WAITING),
        *((panel, {LAG: 0}, {"{}": 0}) for panel in WAITING),
        ("Deferred now", {LAG: 0, WAITS: 7}, {"{}": 7}),
        ("Stuck now", {LAG: 0, RAISED: 3, OVERDUE: 2}, {"{}": 3}),
        ("Deferred", {LAG: 0, WAITS: 7}, {"{}": 7}),
        ("Stuck, by level", {LAG: 0, RAISED: 3, OVERDUE: 2}, {'{level="overdue"}': 2, '{level="raised"}': 3}),
        ("Oldest", {LAG: 0, WAITS: 7, OVERDUE: 2, AGE: 900}, {"{}": 900}),
        ("Oldest", {LAG: 0, WAITS: 7, OVERDUE: 2}, {}),  # the provider is on hold: nobody knows
        ("Oldest", {LAG: 0, WAITS: 7, ON_HOLD: 1, OVERDUE: 2, AGE: 900}, {"{}": 900}),  # of those whose age is known
        ("Oldest", {LAG: 0, WAITS: 7, OVERDUE: 7}, {"{}": 0}),
        ("Partitions that stand", {LAG: 0, STANDS: 1}, {"{}": 1}),
        ("Partitions that stand", {STANDS: 1}, {"{}": 1}),
        ("Partitions that stand", {STANDS: 0}, {}),  # it was resumed, before this worker was cut off
        ("Partitions that stand", {STANDS: 1, LAG_ELSEWHERE: 0}, {"{}": 0}),  # it was resumed after that
    ],
)
def test_nothing_that_waits_is_0_and_a_panel_says_so_only_while_a_worker_reports(
    tmp_path: Path, panel: str, series: Mapping[str, float], shown: Mapping[str, float]
) -> None:
    """All workers may be cut off from the brokers: then they report nothing, and "none" would look well."""
    (expr,) = {query.expr for query in QUERIES if query.panel == panel}

    tested = answered(tmp_path, expr, series, shown)

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_table_of_stopped_partitions_shows_those_of_which_the_alert_tells() -> None:
    (shown,) = {query.expr for query in QUERIES if query.panel == "Which partitions stand"}
    (told,) = {rule["expr"] for rule in RULE_LIST if rule.get("alert") == "MailPartitionStopped"}

    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", told)


def test_the_oldest_is_said_to_be_that_of_those_whose_age_is_known() -> None:
    (said,) = {query.description for query in QUERIES if query.panel == "Oldest"}

    assert "of those whose age is known" in said


def test_such_a_panel_says_that_nothing_is_known() -> None:
    said = {
        panel["title"]: panel["fieldConfig"]["defaults"]["noValue"]
        for dashboard in COMMITTED.values()
        for panel in dashboard["panels"]
        if panel["title"] in {*WAITING, "Waiting records"}
    }

    assert said == dict.fromkeys((*WAITING, "Waiting records"), "unknown")


@pytest.mark.parametrize(
    ("panel", "limit", "shown"), [("Burn rate, fast", "late_share_fast", 9), ("Burn rate, slow", "late_share_slow", 6)]
)
def test_the_line_in_the_burn_rates_is_where_the_alert_fires(
    tmp_path: Path, panel: str, limit: str, shown: float
) -> None:
    """With an objective of 0.9 no rate is above 10, so the fast alert fires at 9 and not at 14.4."""
    (expr,) = {query.expr for query in QUERIES if query.panel == panel and "{{provider}}" not in query.legend}
    series = {f"mailstreams:{limit}:limit": shown / 10, "mailstreams:objective_met_share:threshold": 0.9}

    tested = answered(tmp_path, f"round({expr}, 0.001)", series, {"{}": shown})

    assert tested.returncode == 0, tested.stdout + tested.stderr


def answered(
    folder: Path, expr: str, series: Mapping[str, float], answer: Mapping[str, float]
) -> subprocess.CompletedProcess[str]:
    """Ask Prometheus' own engine a query at the 600th second of some series, and let it compare the answer."""
    need_promtool()
    asked = {
        "expr": concrete(expr),
        "eval_time": "10m",
        "exp_samples": [{"labels": labels, "value": value} for labels, value in answer.items()],
    }
    given = [{"series": name, "values": f"{value}x10"} for name, value in series.items()]
    cases = {"tests": [{"interval": "1m", "input_series": given, "promql_expr_test": [asked]}]}
    file = folder / "cases.yml"
    file.write_text(json.dumps(cases))  # JSON is YAML
    return subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)


def need_promtool() -> None:
    need("promtool", "prometheus")


# -- the alerts --------------------------------------------------------------------------------------------------------


def test_every_alert_has_a_panel_on_the_dashboard_that_it_names() -> None:
    shown = {(alert, dashboard["uid"]) for dashboard in COMMITTED.values() for alert in panels_of_alerts(dashboard)}
    assert len(ALERTS) > 10
    assert {(alert, uid) for alert, uid in ALERTS if alert != "Watchdog"} <= shown
    assert {uid for _, uid in ALERTS} <= {dashboard["uid"] for dashboard in COMMITTED.values()}


def test_every_alert_that_a_panel_names_is_there() -> None:
    named = {alert for dashboard in COMMITTED.values() for alert in panels_of_alerts(dashboard)}
    assert named <= {alert for alert, _ in ALERTS}


def test_the_page_says_where_each_alert_is_shown() -> None:
    shown = [
        [f"`{alert}`", dashboard["title"], "; ".join(panels)]
        for dashboard in COMMITTED.values()
        for alert, panels in panels_of_alerts(dashboard).items()
        if (alert, dashboard["uid"]) in ALERTS
    ]
    assert pages.read("docs/dashboards.md").table("Where an alert is shown") == sorted(shown)


def test_the_page_names_the_dashboards() -> None:
    named = [row[0] for row in pages.read("docs/dashboards.md").table("Dashboards")]
    assert named == [dashboard().build().title for dashboard in DASHBOARDS.values()]


def test_a_threshold_that_nobody_wrote_is_an_error() -> None:
    assert threshold("objective_met_share") < 1
    with pytest.raises(LookupError, match="no_such"):
        threshold("no_such")


# -- how they are read back --------------------------------------------------------------------------------------------


def test_the_variables_of_grafana_become_what_it_would_send() -> None:
    asked = 'sum(rate(x{provider=~"$provider"}[$__rate_interval])) + increase(y[$__range])'

    assert concrete(asked) == 'sum(rate(x{provider=~".*"}[1m])) + increase(y[1h])'
    with pytest.raises(ValueError, match="pool"):
        concrete('x{pool=~"$pool"}')


def test_queries_and_alerts_are_read_out_of_a_dashboard() -> None:
    dashboard: dict[str, Any] = {
        "title": "Board",
        "panels": [
            {"type": "row", "title": "Row"},
            {
                "type": "stat",
                "title": "Panel",
                "description": "Says.\n\nAlerts: MailA, MailB",
                "targets": [{"refId": "A", "expr": "up", "instant": True, "legendFormat": "x"}],
            },
        ],
    }

    assert panel_queries(dashboard) == [
        PanelQuery("Board", "Panel", "A", "up", legend="x", instant=True, description="Says.\n\nAlerts: MailA, MailB")
    ]
    assert panels_of_alerts(dashboard) == {"MailA": ["Panel"], "MailB": ["Panel"]}
