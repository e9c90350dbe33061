"""Mail is deferred, somebody is called, and told when it is over: with every part real, and the worker killed meanwhile.

A broker, the ingress, a worker under its supervisor, Prometheus and Alertmanager run as in ``make run``; the rules and
routes are those of ``deploy``, with other thresholds and shorter times. The providers are simulated, and a web server
on loopback is who is called.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from deploy.local import demo, ports, processes
from deploy.local.broker import Broker
from deploy.local.stack import Edge, Stack, environment
from deploy.local.watchers import Pace, Watchers
from streams.domain.events import EventType
from streams.simulate.story import PROFILES, life
from tests.e2e.prometheus import Prometheus
from tests.e2e.receiver import Receiver, receiver

pytestmark = pytest.mark.timeout(600)

ALERT = "MailDeferralsStuck"
PROVIDER = "sendgrid"
MESSAGES = 12
PACE = Pace(every_s=1, holds_s=2, lingers_s=45, gathers_s=1, thresholds={"deferrals_stuck": 0})
"""An alert lingers for longer than a killed worker is away."""
ENV = {
    "MAILSTREAMS_TOPICS__PARTITIONS": "4",
    f"MAILSTREAMS_ACCOUNTS__{demo.ACCOUNT.upper()}__DEFERRALS__{PROVIDER.upper()}__WARN_AFTER_S": "3",
    "MAILSTREAMS_KAFKA__SESSION_TIMEOUT_S": "6",
    "MAILSTREAMS_KAFKA__HEARTBEAT_INTERVAL_S": "2",
}

_Consumer: Any = AIOKafkaConsumer  # annotated in part only


@dataclass(frozen=True, slots=True)
class System:
    """Everything that runs."""

    stack: Stack
    receiver: Receiver
    prometheus: Prometheus

    def simulate(self, seed: int) -> Any:
        """Start the simulated provider; it ends when the last of its webhooks was taken."""
        assert self.stack.edge is not None
        return self.stack.spawn(
            *("simulate", "--url", self.stack.edge.url, "--account", demo.ACCOUNT, "--secrets", self.stack.secrets),
            *("--provider", PROVIDER, "--messages", str(MESSAGES), "--rate", "10", "--seed", str(seed), "--quiet"),
        )

    def kill_worker(self) -> None:
        """Kill it as a failing machine does; its supervisor starts it again."""
        process = processes.read(self.stack.folder / "worker.pid")
        assert process is not None
        process.kill()

    def open_deferrals(self) -> float:
        """Return how many deliveries are deferred now, as Prometheus knows."""
        answers = self.prometheus.instant("sum(mailstreams_deferred_age_seconds_bucket{le='+Inf'})")
        return sum(float(answer["value"][1]) for answer in answers)

    def wait(self, query: str, *, timeout_s: float = 60) -> None:
        """Wait until Prometheus has an answer to a query."""
        deadline = time.monotonic() + timeout_s
        while not self.prometheus.instant(query):
            assert time.monotonic() < deadline, query
            self.stack.check()
            time.sleep(0.2)

    def alerts(self) -> list[dict[str, Any]]:
        """Return all of mail.deferral-alerts as a read_committed subscriber sees it, in the order of each delivery."""
        return asyncio.run(_read(self.stack.bootstrap, "mail.deferral-alerts"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("pager")
    web, public, admin, prometheus_port, alertmanager_port = ports.find(5)
    with receiver() as told:
        watchers = Watchers(
            prometheus_port=prometheus_port, alertmanager_port=alertmanager_port, pace=PACE, receiver=told.url
        )
        stack = Stack(
            folder,
            cluster=Broker(folder / "broker"),
            web_port=web,
            edge=Edge(port=public, admin_port=admin, simulated=True),
            watchers=watchers,
            env=environment(with_settings=False) | ENV,
            say=print,
        )
        try:
            stack.start()
            system = System(stack, told, Prometheus(watchers.prometheus))
            told.wait("Watchdog", "firing", since=0, timeout_s=60)
            yield system
        finally:
            stack.stop()


def deferred_messages(seed: int) -> set[str]:
    """Return the references of the messages that a seed defers, without the day in them."""
    now = datetime.now(UTC)
    lives = [
        life(
            seed=seed,
            number=number,
            sent_at=now,
            profile=PROFILES["demo"],
            account=demo.ACCOUNT,
            providers=(PROVIDER,),
        )
        for number in range(MESSAGES)
    ]
    return {
        one.message.reference.rpartition("-")[2]
        for one in lives
        if any(happening.type is EventType.DEFERRED for happening in one.happenings)
    }


@pytest.mark.parametrize(
    ("seed", "killed"),
    [(21, ""), (24, "when it was deferred"), (31, "when the alert had arrived")],
    ids=["nobody is killed", "killed before the alert", "killed after the alert"],
)
def test_the_alert_arrives_and_is_resolved_when_the_last_deferral_has_ended(
    system: System, seed: int, killed: str
) -> None:
    """In each of these seeds three messages are deferred at once, for 25 to 65 s."""
    expected = deferred_messages(seed)
    assert len(expected) == 3
    known = {alert["id"] for alert in system.alerts()}
    begun = time.time()
    simulation = system.simulate(seed)

    if killed == "when it was deferred":
        system.wait("sum(mailstreams_deferred_age_seconds_bucket{le='+Inf'}) > 0")
        system.kill_worker()
    firing = system.receiver.wait(ALERT, "firing", since=begun, timeout_s=90, meanwhile=system.stack.check)
    if killed == "when the alert had arrived":
        system.kill_worker()
    assert simulation.wait(timeout=120) == 0
    resolved = system.receiver.wait(ALERT, "resolved", since=begun, timeout_s=180, meanwhile=system.stack.check)

    assert (firing.receiver, firing.labels["severity"]) == ("day", "warning")
    assert (firing.labels["provider"], firing.labels["destination"]) == (PROVIDER, "other")
    assert firing.annotations["summary"].startswith("Mail by sendgrid to other stays deferred: ")
    assert firing.annotations["runbook_url"] == f"docs/runbooks/{ALERT}.md"
    assert resolved.labels == firing.labels
    assert system.open_deferrals() == 0
    assert [one.status for one in system.receiver.of(ALERT, since=begun)].count("resolved") == 1

    told: dict[str, list[str]] = defaultdict(list)
    alerts = [alert for alert in system.alerts() if alert["id"] not in known]
    for alert in alerts:
        told[alert["reference"].rpartition("-")[2]].append(alert["level"])
    assert set(told) == expected
    for levels in told.values():
        assert levels in (["raised", "resolved"], ["raised", "escalated", "resolved"])
    assert len({alert["id"] for alert in alerts}) == len(alerts)


def test_the_killed_worker_was_missed_and_came_back(system: System) -> None:
    """It runs after the others: a worker that is gone is told, too, and while it is, nothing about open deferrals is.

    It is the only one, so no monitor runs anywhere.
    """
    begun = time.time()
    assert system.stack.edge is not None
    assert not system.receiver.of("MailWorkersMissing", since=begun)
    system.kill_worker()

    missed = system.receiver.wait("MailMonitorStalledEverywhere", "firing", since=begun, timeout_s=60)
    back = system.receiver.wait("MailMonitorStalledEverywhere", "resolved", since=begun, timeout_s=120)

    assert missed.receiver == back.receiver == "pager"


async def _read(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    consumer = _Consumer(
        topic, bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        found: list[dict[str, Any]] = []
        ends = await consumer.end_offsets(consumer.assignment())
        # The position, not the last record's offset: the markers of transactions take offsets too.
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [json.loads(record.value) for record in records]
        return found
    finally:
        await consumer.stop()
