import subprocess
import sys
from datetime import UTC, datetime
from itertools import chain

import pytest

from deploy.local import ROOT, demo
from deploy.local.demo import Payload
from deploy.local.smoke import Outcome, differences
from streams.domain import status
from streams.domain.events import DeliveryEvent
from streams.providers import PROVIDERS, PoisonError, WebhookRequest
from streams.settings import Settings
from streams.simulate import story

PAYLOADS = demo.payloads()
EVENTS = sum(payload.events for payload in PAYLOADS)


def understood(payload: Payload) -> tuple[list[DeliveryEvent], int]:
    """Return the events of a payload, and how many of its elements are bad."""
    request = WebhookRequest(
        body=payload.path.read_bytes(),
        headers={"content-type": "application/json"},
        url=f"https://hooks.example.net/{payload.provider}/{demo.ACCOUNT}",
        account=demo.ACCOUNT,
        received_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
        reference_keys=Settings().delivery.reference_keys,
    )
    try:
        return PROVIDERS[payload.provider].normalise(request), 0
    except PoisonError as poison:
        return list(poison.events), len(poison.bad)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: f"{p.provider}/{p.path.stem}")
def test_a_payload_becomes_what_is_expected_of_it(payload: Payload) -> None:
    events, bad = understood(payload)

    assert len({(event.event_id, event.delivery_id) for event in events}) == payload.events
    assert bad == payload.dead_letters
    statuses: dict[str, list[str]] = {}
    deliveries: dict[str, status.Delivery] = {}
    for event in events:
        folded = status.fold(deliveries.get(event.delivery_id), event)
        assert folded.delivery is not None
        deliveries[event.delivery_id] = folded.delivery
        if folded.changed:
            statuses.setdefault(event.recipient, []).append(folded.delivery.status)
    assert statuses == payload.statuses


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: f"{p.provider}/{p.path.stem}")
def test_every_event_names_its_invoice_where_its_provider_lets_it(payload: Payload) -> None:
    if payload.provider == "azure_communication":
        assert all(event.reference is None for event in understood(payload)[0])
    else:
        assert all((event.reference or "").startswith("INV-2026-") for event in understood(payload)[0])


def test_the_demo_leads_to_every_status_and_to_two_dead_letters() -> None:
    statuses = chain.from_iterable(chain.from_iterable(payload.statuses.values()) for payload in PAYLOADS)

    assert {"sent", "delivered", "opened", "bounced", "deferred", "dropped"} == set(statuses)
    assert sum(payload.dead_letters for payload in PAYLOADS) == 2
    assert {payload.provider for payload in PAYLOADS} == set(PROVIDERS)


def test_no_recipient_is_in_two_payloads_of_a_provider() -> None:
    recipients = [(payload.provider, recipient) for payload in PAYLOADS for recipient in payload.statuses]

    assert len(recipients) == len(set(recipients))


def test_every_file_is_expected_and_every_expected_file_is_there() -> None:
    assert {payload.path for payload in PAYLOADS} == set(demo.FOLDER.glob("*/*.json"))


def right_outcome() -> Outcome:
    changes = [
        {"provider": payload.provider, "recipient": recipient, "status": status}
        for payload in PAYLOADS
        for recipient, statuses in payload.statuses.items()
        for status in statuses
    ]
    return Outcome(
        changes=changes,
        events=sum(payload.events for payload in PAYLOADS),
        dead_letters=sum(payload.dead_letters for payload in PAYLOADS),
    )


def test_smoke_accepts_the_expected_outcome() -> None:
    assert differences(PAYLOADS, right_outcome()) == []


def test_smoke_names_a_missing_status_a_doubled_one_and_a_wrong_one() -> None:
    outcome = right_outcome()
    outcome.changes.pop(0)
    assert differences(PAYLOADS, outcome) == [
        "sendgrid anna.berg@example.com: expected sent -> delivered -> opened, got delivered -> opened"
    ]

    outcome = right_outcome()
    outcome.changes.append(outcome.changes[-1])
    assert differences(PAYLOADS, outcome) == ["sendgrid good.neighbour@example.com: expected sent, got sent -> sent"]

    outcome = right_outcome()
    outcome.changes[-1] = {**outcome.changes[-1], "recipient": "nobody@example.com"}
    assert differences(PAYLOADS, outcome) == [
        "sendgrid good.neighbour@example.com: expected sent, got nothing",
        "sendgrid nobody@example.com: expected nothing, got sent",
    ]


def test_smoke_names_missing_events_and_dead_letters() -> None:
    outcome = right_outcome()
    outcome.events -= 1
    outcome.dead_letters = 0

    assert differences(PAYLOADS, outcome) == [
        f"expected {EVENTS} events, got {EVENTS - 1}",
        "expected 2 dead letters, got 0",
    ]


@pytest.mark.broker
def test_smoke_finds_all_well_in_the_whole_system() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.local.smoke"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    right = right_outcome()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == (
        f"{right.events} events in, {len(right.changes)} statuses, {right.dead_letters} dead letters, ok"
    )


def test_a_newcomer_sees_a_deferral_raised_and_resolved_within_a_minute() -> None:
    told = story.PROFILES["demo"]
    policy = demo.DEFERRALS

    assert set(demo.PROVIDERS) == set(story.PROVIDERS)
    assert policy["warn_after_s"] <= told.retry.least  # each deferral is raised before it is tried again
    assert told.first_answer.most + told.telling.most + told.retry.most < 60  # and ends, if the second try succeeds
    assert policy["warn_after_s"] < policy["escalate_after_s"] <= 2 * told.retry.most  # some are tried twice
    longest = told.retries[1] * told.retry.most + told.telling_late.most
    assert policy["retry_window_s"] + policy["overdue_slack_s"] > longest  # none is overdue
