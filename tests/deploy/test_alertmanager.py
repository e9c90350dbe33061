"""Who is told what: the routes, asked of amtool, and what is held back, asked of an Alertmanager that runs."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local import ports, processes
from deploy.local.watchers import ALERTMANAGER, Watchers
from tests.deploy.test_prometheus import ALERTS
from tests.installed import need

Labels = Mapping[str, str]


def amtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    need("amtool", "prometheus-alertmanager")
    return subprocess.run(["amtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_alertmanager_takes_the_configuration() -> None:
    assert amtool("check-config", ALERTMANAGER).returncode == 0


def test_a_configuration_that_it_would_not_take_is_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "alertmanager.yml"
    wrong.write_text(ALERTMANAGER.read_text().replace("receiver: pager", "receiver: nobody"))

    assert amtool("check-config", wrong).returncode != 0


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=MailDestinationBlocked severity=critical provider=sendgrid", "pager"),
        ("alertname=MailDeferralsStuck severity=warning provider=sendgrid", "day"),
        ("alertname=SomethingNew", "day"),
        ("alertname=Watchdog severity=none", "watchdog"),
    ],
)
def test_critical_wakes_somebody_warning_waits_for_the_day_and_the_watchdog_goes_its_own_way(
    labels: str, receiver: str
) -> None:
    tested = amtool("config", "routes", "test", f"--config.file={ALERTMANAGER}", *labels.split())

    assert tested.stdout.strip() == receiver


def test_the_receivers_are_placeholders_and_there_is_no_secret() -> None:
    receivers = yaml.safe_load(ALERTMANAGER.read_text())["receivers"]

    for receiver in receivers:
        assert set(receiver) == {"name", "webhook_configs"}
        for webhook in receiver["webhook_configs"]:
            assert webhook["url"].split("/")[2].endswith(".example")


# -- what is held back ------------------------------------------------------------------------------------------------


SAME_ANSWERS = 10


class Running:
    """An Alertmanager with the real file, that tells nobody."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, alerts: list[Labels] | None = None) -> Any:
        body = None if alerts is None else json.dumps([{"labels": dict(labels)} for labels in alerts]).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def held_back(self, *alerts: Labels) -> list[str]:
        """Return the names of those among some alerts that are not told; the last one may not be."""
        self.ask("/api/v2/alerts", list(alerts))
        deadline = time.monotonic() + 20
        answers: list[list[str] | None] = []
        while True:
            said = self.ask("/api/v2/alerts")
            known = [alert["labels"] for alert in said if alert["status"]["state"] in {"active", "suppressed"}]
            all_known = all(labels in known for labels in alerts)
            held = sorted(alert["labels"]["alertname"] for alert in said if alert["status"]["inhibitedBy"])
            answers.append(held if all_known else None)
            # It learns of the alerts one by one: only an answer that it keeps giving has heard of all.
            if all_known and len(answers) >= SAME_ANSWERS and all(it == held for it in answers[-SAME_ANSWERS:]):
                return held
            assert time.monotonic() < deadline, said
            time.sleep(0.1)


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Running]:
    prometheus_port, port = ports.find(2)
    watchers = Watchers(prometheus_port=prometheus_port, alertmanager_port=port)
    watchers.configure(tmp_path, targets={})
    with (tmp_path / "log").open("wb") as log:
        child, process = processes.spawn(watchers.commands(tmp_path)["alertmanager"], output=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{watchers.alertmanager}/-/ready", timeout=2).close()
                break
            except OSError:
                assert child.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield Running(watchers.alertmanager)
    finally:
        process.kill()
        child.wait()


def alert(name: str, **labels: str) -> Labels:
    """Return the labels of an alert as its rule gives them, and those of the series."""
    of_rule = next(rule["labels"] for rule in ALERTS if rule["alert"] == name)
    return {"alertname": name, **of_rule, **labels}


GMAIL = {"provider": "sendgrid", "destination": "gmail"}
APPLE = {"provider": "sendgrid", "destination": "apple"}

MONITORS_OWN = ["MailDeferralNearExpiry", "MailDeferralOldestAge", "MailDeferralsOverdue", "MailDeferralsStuck"]
"""What only a monitor that runs can tell."""
COUNTED = ["MailDestinationBlocked", "MailTimeToDeliverBudgetBurn", "MailDeliveriesWithoutWord"]
"""What is counted as statuses change, whether a monitor runs or not."""
SEVERITIES = ("critical", "warning")


@pytest.mark.parametrize(
    ("alerts", "held"),
    [
        (
            [alert("MailMonitorStalledEverywhere"), *(alert(name, **GMAIL) for name in MONITORS_OWN)],
            MONITORS_OWN,
        ),
        (
            [
                alert("MailMonitorStalledEverywhere"),
                *(alert(name, **GMAIL) for name in COUNTED),
                alert("MailDeadLetters"),
            ],
            [],
        ),
        (
            [alert("MailMonitorStalledEverywhere"), alert("MailMonitorStalled", instance="b")],
            ["MailMonitorStalled"],
        ),
        # The oldest age is held back by that near the end, so it is left out.
        (
            [
                alert("MailMonitorStalled", instance="b"),
                *(alert(name, **APPLE) for name in MONITORS_OWN if name != "MailDeferralOldestAge"),
                *(alert(name, **GMAIL) for name in COUNTED),
            ],
            [],
        ),
        (
            [alert("MailDeferralNearExpiry", **GMAIL), alert("MailDeferralOldestAge", **GMAIL)],
            ["MailDeferralOldestAge"],
        ),
        ([alert("MailDeferralNearExpiry", **GMAIL), alert("MailDeferralOldestAge", **APPLE)], []),
        ([alert("MailDestinationBlocked", **GMAIL), alert("MailDeferralsStuck", **GMAIL)], ["MailDeferralsStuck"]),
        ([alert("MailDestinationBlocked", **GMAIL), alert("MailRefusedOrDropped", **GMAIL)], []),
        ([alert("MailDestinationBlocked", **GMAIL), alert("MailDeferralShareSpike", **APPLE)], []),
        *(
            (
                [alert("MailIngressMissing", condition=condition), alert("MailProviderSilent", provider="mailgun")],
                held,
            )
            for condition, held in (
                ("none_ready", ["MailProviderSilent"]),
                ("unacknowledged", ["MailProviderSilent"]),
                ("too_few_ready", []),
            )
        ),
        (
            [alert("MailTimeToDeliverBudgetBurn", provider="ses", severity=severity) for severity in SEVERITIES],
            ["MailTimeToDeliverBudgetBurn"],
        ),
        *(
            (
                [
                    alert("MailWebhooksRefused", provider=provider, severity=severity, **account)
                    for provider, account, severity in zip(("mailgun", of), accounts, SEVERITIES, strict=True)
                ],
                held,
            )
            for accounts, of, held in (
                (({"account": "billing"}, {"account": "billing"}), "mailgun", ["MailWebhooksRefused"]),
                (({"account": "billing"}, {"account": "news"}), "mailgun", []),
                (({}, {"account": "news"}), "mailgun", ["MailWebhooksRefused"]),
                (({}, {"account": "news"}), "postmark", []),
                (({}, {}), "mailgun", ["MailWebhooksRefused"]),
                (({"account": "billing"}, {}), "mailgun", []),
            )
        ),
        (
            [
                alert("MailProcessRestarts", job=f"mailstreams-{who}", instance="a", severity=severity)
                for who, severity in zip(("worker", "web"), SEVERITIES, strict=True)
            ],
            [],
        ),
        *(
            (
                [
                    alert(name, instance=instance, severity=severity, **labels)
                    for instance, severity in zip(("a", other), SEVERITIES, strict=True)
                ],
                held,
            )
            for name, labels in (
                ("MailProcessRestarts", {"job": "mailstreams-worker"}),
                ("MailCertificateExpires", {}),
            )
            for other, held in (("a", [name]), ("b", []))
        ),
    ],
)
def test_what_follows_from_something_else_is_held_back(
    alertmanager: Running, alerts: list[Labels], held: list[str]
) -> None:
    assert alertmanager.held_back(*alerts) == held
