"""What only Azure does: reports of the end alone, engagement of nobody, several services in one subscription."""

import json
from typing import Any

import pytest

from streams.domain.events import BounceKind, EventType, SuppressionList
from tests.providers.cases import PAYLOADS, outcome

FOLDER = PAYLOADS / "azure_communication"


def event(name: str) -> dict[str, Any]:
    (found,) = json.loads((FOLDER / f"{name}.json").read_bytes())
    assert isinstance(found, dict)
    return found


def normalised(*elements: dict[str, Any]) -> Any:
    found = outcome("azure_communication", json.dumps(elements).encode())
    assert found.poison is None
    return found.events


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        ("Delivered", (EventType.DELIVERED, None, None)),
        ("Bounced", (EventType.BOUNCE, BounceKind.HARD, None)),
        ("Failed", (EventType.BOUNCE, BounceKind.SOFT, None)),
        ("Quarantined", (EventType.BOUNCE, BounceKind.BLOCK, None)),
        ("FilteredSpam", (EventType.BOUNCE, BounceKind.BLOCK, None)),
        ("Suppressed", (EventType.DROPPED, None, SuppressionList.BOUNCE)),
        ("Expanded", (EventType.OTHER, None, None)),
        ("OutForDelivery", (EventType.UNKNOWN, None, None)),  # a word of the logs; no report has it
    ],
)
def test_each_status_of_a_report_has_its_meaning_in_any_case(status: str, meaning: tuple[Any, ...]) -> None:
    report = event("report_delivered")
    for written in (status, status.lower(), status.upper()):
        (found,) = normalised({**report, "data": {**report["data"], "status": written}})
        assert (found.type, found.bounce_kind, found.suppression_list) == meaning
        assert found.provider_event == f"EmailDeliveryReportReceived/{written}"


@pytest.mark.parametrize("recipient", [None, "", "absent"])
def test_an_engagement_of_nobody_gives_no_event_and_is_no_poison(recipient: str | None) -> None:
    seen = event("engagement_view")
    seen["data"].pop("recipient")
    if recipient != "absent":
        seen["data"]["recipient"] = recipient

    assert normalised(seen) == ()


def test_an_engagement_of_the_libraries_names_is_read_as_well() -> None:
    seen = event("engagement_view")
    data = {**seen["data"], "engagement": "Click", "userActionTimestamp": "2026-11-03T11:00:00Z"}
    del data["engagementType"], data["userActionTimeStamp"]

    (found,) = normalised({**seen, "data": data})

    assert (found.type, found.occurred_at.isoformat()) == (EventType.CLICK, "2026-11-03T11:00:00+00:00")


def test_without_a_time_of_its_own_it_is_the_time_of_the_event() -> None:
    report = event("report_delivered")
    for time in (None, "0001-01-01T00:00:00+00:00", "yesterday"):
        (found,) = normalised({**report, "data": {**report["data"], "deliveryAttemptTimeStamp": time}})
        assert found.occurred_at.isoformat() == "2026-11-03T10:01:01.822000+00:00"


def test_a_repetition_has_the_id_of_what_it_repeats_and_two_recipients_have_two() -> None:
    report = event("report_delivered")
    other = {**report, "id": "another", "data": {**report["data"], "recipient": "bob@customer.example"}}

    once, again, of_other = normalised(report, report, other)

    assert once.event_id == again.event_id != of_other.event_id
    assert once.message_id == of_other.message_id


def test_texts_and_calls_of_the_same_subscription_are_left_out() -> None:
    for word in ("SMSReceived", "ChatMessageReceived", "CallStarted"):
        assert normalised({**event("of_another_service"), "eventType": f"Microsoft.Communication.{word}"}) == ()


@pytest.mark.parametrize("missing", ["messageId", "recipient"])
def test_a_new_kind_of_mail_event_that_is_of_no_delivery_is_left_out_and_stops_nothing(missing: str) -> None:
    new = event("unknown_mail_event")
    for data in ({**new["data"], missing: None}, {**new["data"], missing: " "}, "junk", None):
        assert normalised({**new, "data": data}) == ()


@pytest.mark.parametrize("name", ["report_delivered", "engagement_view"])
def test_of_the_kinds_that_we_know_what_identifies_is_required_so_that_a_new_format_is_seen(name: str) -> None:
    known = event(name)
    del known["data"]["messageId"]

    found = outcome("azure_communication", json.dumps([known]).encode())

    assert [reason for _, _, reason in found.bad] == ["no messageId"]


def test_what_no_service_of_microsoft_calls_an_event_is_bad() -> None:
    found = outcome("azure_communication", json.dumps([{"eventType": "Bounce"}]).encode())

    assert [reason for _, _, reason in found.bad] == ["an eventType of nobody's"]


def test_a_dead_letter_of_event_grid_is_read_as_the_event_that_it_holds() -> None:
    dead = {
        "deadLetterReason": "MaxDeliveryAttemptsExceeded",
        "deliveryAttempts": 30,
        "lastDeliveryOutcome": "TimedOut",
        "publishTime": "2026-11-03T10:01:02.0265758Z",
    }

    assert normalised({**event("report_delivered"), **dead}) == normalised(event("report_delivered"))
