"""What only Amazon SES has: ways that wrap each other, and several recipients in a record."""

import json
from typing import Any

import pytest

from streams.domain.events import EventType
from tests.providers.cases import PAYLOADS, outcome

FOLDER = PAYLOADS / "amazon_ses"


def payload(name: str) -> Any:
    return json.loads((FOLDER / name).read_bytes())


def test_an_occurrence_has_one_event_id_by_whatever_way_it_comes() -> None:
    ways = ["bounce_permanent_general", "sns_envelope", "eventbridge", "eventbridge_through_sns", "notification_bounce"]

    ids = {outcome("amazon_ses", (FOLDER / f"{way}.json").read_bytes()).events[0].event_id for way in ways}
    ids |= {outcome("amazon_ses", (FOLDER / "firehose.txt").read_bytes()).events[1].event_id}
    ids |= {outcome("amazon_ses", (FOLDER / "firehose_http_endpoint.json").read_bytes()).events[1].event_id}

    assert len(ids) == 1


def test_a_delivery_has_one_event_id_in_event_publishing_and_in_feedback_notifications() -> None:
    published = payload("delivery.json")
    notified = {**published, "notificationType": published["eventType"]}
    del notified["eventType"]
    del notified["mail"]["tags"]

    first, second = (outcome("amazon_ses", json.dumps(record).encode()) for record in (published, notified))

    assert first.events[0].event_id == second.events[0].event_id


def test_two_sns_messages_with_one_record_are_one_event() -> None:
    envelope = payload("sns_envelope.json")
    again = {**envelope, "MessageId": "another", "Timestamp": "2026-11-03T10:59:00.000Z"}

    assert outcome("amazon_ses", json.dumps(again).encode()) == outcome("amazon_ses", json.dumps(envelope).encode())


def test_two_delays_of_one_message_are_two_events() -> None:
    first = payload("delivery_delay.json")
    second = payload("delivery_delay.json")
    second["deliveryDelay"]["timestamp"] = "2026-11-03T10:35:00.000Z"

    ids = {outcome("amazon_ses", json.dumps(record).encode()).events[0].event_id for record in (first, second)}

    assert len(ids) == 2


def test_a_bounce_of_one_of_several_recipients_keeps_the_address_of_the_report() -> None:
    record = payload("bounce_after_forwarding.json")
    record["mail"]["destination"].append("bob@customer.example")

    assert outcome("amazon_ses", json.dumps(record).encode()).events[0].recipient == "ann.private@elsewhere.example"


def test_the_data_of_a_bad_recipient_is_the_whole_record() -> None:
    record = payload("bounce_with_a_bad_recipient.json")

    found = outcome("amazon_ses", json.dumps(record).encode())

    assert json.loads(found.bad[0][1]) == record


def test_the_data_of_a_bad_line_is_the_line() -> None:
    body = (FOLDER / "firehose_with_a_bad_line.txt").read_bytes()

    assert outcome("amazon_ses", body).bad[0][1] == body.split(b"\n")[1]


@pytest.mark.parametrize(
    "body",
    [
        {"Type": "Notification", "Message": "not JSON"},
        {"Type": "Notification", "Message": '"a scalar"'},
        {"detail-type": "Email Bounced", "detail": {}},
        {"detail-type": "Email Bounced"},
        {"records": [{"data": "%%%"}]},
        {"records": [{}]},
        {"records": ["x"]},
        {"records": [{"data": "bm90IEpTT04K"}]},
        {"eventType": "Send", "mail": {"messageId": "m"}},
        {"eventType": "Send", "mail": {"destination": ["ann@customer.example"]}},
        {"eventType": 7, "mail": {"messageId": "m", "destination": ["ann@customer.example"]}},
        [17],
    ],
    ids=json.dumps,
)
def test_what_is_no_record_is_poison(body: Any) -> None:
    found = outcome("amazon_ses", json.dumps(body).encode())

    assert found.poison is not None
    assert not found.events


def test_a_record_with_more_recipients_than_a_message_can_have_is_poison() -> None:
    record = payload("notification_delivery.json")
    record["delivery"]["recipients"] = [f"r{n}@customer.example" for n in range(1_001)]

    found = outcome("amazon_ses", json.dumps(record).encode())

    assert (found.events, found.bad[0][2]) == ((), "too many recipients")


def test_envelopes_within_envelopes_end() -> None:
    body: Any = payload("send.json")
    for _ in range(4):
        body = {"Type": "Notification", "Message": json.dumps(body)}

    assert outcome("amazon_ses", json.dumps(body).encode()).poison is not None


def test_an_open_of_one_of_several_recipients_changes_no_status() -> None:
    found = outcome("amazon_ses", (FOLDER / "open_by_one_of_several.json").read_bytes())

    assert {event.type for event in found.events} == {EventType.OTHER}
