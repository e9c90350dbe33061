"""Every query of every dashboard, asked of a real Prometheus that scraped a real run.

Broker, worker, ingress and Prometheus are real, the providers are simulated. What is wrong in a panel and no parser sees is seen
here: labels that do not fit, a quotient whose sides never meet, a metric that nobody ever raises.
"""

import json
import time
from collections.abc import Iterable, Iterator

import pytest

from deploy.grafana import DASHBOARDS, FOLDER
from deploy.grafana.deferrals import qshape
from deploy.grafana.queries import PanelQuery, concrete, panel_queries, variable_queries
from deploy.local import demo, ports
from deploy.local.broker import Broker
from deploy.local.stack import Edge, Stack, environment
from deploy.local.watchers import Pace, Watchers
from tests.e2e.prometheus import Prometheus

pytestmark = pytest.mark.timeout(600)

MESSAGES_S = 20
RUN_S = 75
"""Long enough for deferrals to be raised (after 20 s, ``demo.DEFERRALS``) and resolved, and for a rate over a minute."""
EVERY_SECOND = Pace(every_s=1, holds_s=5, lingers_s=5, gathers_s=1)

MAY_BE_EMPTY = {
    ("Deferrals", "Alerts that fire"): "no alert has to fire in a run that is well",
    ("Flow of statuses", "Times not believed"): "the simulated clocks are right",
    ("Pipeline", "Certificate expires in"): "it speaks no TLS",
    ("Pipeline", "Dead letters by stage"): "every record was understood",
    ("Pipeline", "History: records not read yet"): "no history runs here",
    ("Pipeline", "Which partitions stand"): "none stands",
    ("Pipeline", "Webhooks that left no record"): "nobody pinged",
}
"""What only trouble brings, with the reason; it has to be answered without an error all the same."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Give a Prometheus that has scraped a run in which mail was sent, deferred, told and delivered."""
    folder = tmp_path_factory.mktemp("dashboards")
    web, public, admin, prometheus_port, alertmanager_port = ports.find(5)
    edge = Edge(port=public, admin_port=admin, simulated=True)
    watchers = Watchers(prometheus_port=prometheus_port, alertmanager_port=alertmanager_port, pace=EVERY_SECOND)
    stack = Stack(
        folder,
        cluster=Broker(folder / "broker"),
        web_port=web,
        edge=edge,
        watchers=watchers,
        env=environment(with_settings=False) | {"MAILSTREAMS_TOPICS__PARTITIONS": "4"},
        say=print,
    )
    try:
        stack.start()
        stack.spawn(
            *("simulate", "--url", edge.url, "--account", demo.ACCOUNT, "--secrets", stack.secrets),
            *("--rate", str(MESSAGES_S), "--quiet"),
        )
        deadline = time.monotonic() + RUN_S
        while time.monotonic() < deadline:
            stack.check()
            time.sleep(1)
        yield Prometheus(watchers.prometheus)
    finally:
        stack.stop()


def unanswered(prometheus: Prometheus, queries: Iterable[PanelQuery]) -> list[PanelQuery]:
    """Return the queries to which there is no answer, as their panels ask them: now, or over the last minute."""
    now = time.time()
    return [
        query
        for query in queries
        if not (
            prometheus.instant(concrete(query.expr))
            if query.instant
            else prometheus.range(concrete(query.expr), now - 60, now, step_s=5)
        )
    ]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_finds_something_in_a_real_run(prometheus: Prometheus, name: str) -> None:
    queries = panel_queries(json.loads((FOLDER / name).read_text()))
    assert len(queries) > 10
    empty = unanswered(prometheus, queries)
    assert [query for query in empty if (query.dashboard, query.panel) not in MAY_BE_EMPTY] == []


def test_an_excuse_is_for_a_panel_that_is_there() -> None:
    boards = [json.loads(path.read_text()) for path in FOLDER.glob("*.json")]
    assert {(board["title"], panel["title"]) for board in boards for panel in board["panels"]} >= MAY_BE_EMPTY.keys()


def test_a_query_that_finds_nothing_is_seen(prometheus: Prometheus) -> None:
    wrong = PanelQuery(
        "d", "p", "A", 'sum(mailstreams_ready{job="mailstreams"})', legend="", instant=True, description=""
    )
    assert unanswered(prometheus, [wrong]) == [wrong]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_choice_at_the_head_has_values(prometheus: Prometheus, name: str) -> None:
    for label, metric in variable_queries(json.loads((FOLDER / name).read_text())):
        assert prometheus.values(label, metric), (label, metric)


def test_the_buckets_of_qshape_add_up_to_its_total(prometheus: Prometheus) -> None:
    at = time.time()
    columns = {
        heading: {
            answer["metric"]["destination"]: float(answer["value"][1])
            for answer in prometheus.instant(concrete(expr), at)
        }
        for heading, expr in qshape().items()
    }
    total = columns.pop("T")
    assert total
    for destination, deliveries in total.items():
        assert sum(column[destination] for column in columns.values()) == deliveries > 0
        assert min(column[destination] for column in columns.values()) >= 0


def test_no_rule_fails(prometheus: Prometheus) -> None:
    assert [rule for rule in prometheus.rules() if rule["health"] != "ok"] == []
