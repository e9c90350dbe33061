"""What only Amazon SES has: ways that wrap each other, and several recipients in a record."""

import json
from base64 import b64encode
from typing import Any

import pytest

from streams.domain.events import BounceKind, EventType
from streams.domain.status import Status
from tests.domain.deliveries import fold_all
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


def test_a_bounce_from_before_its_message_was_sent_has_no_time_so_no_delivery_is_later() -> None:
    """Its time is that of the server that sent it back, and so is the fault of a slow clock."""
    delivered, bounced = payload("delivery.json"), payload("bounce_permanent_general.json")
    delivered["delivery"]["timestamp"] = "2026-11-03T10:00:02.000Z"
    bounced["bounce"]["timestamp"] = "2026-11-03T09:57:30.000Z"

    found = [outcome("amazon_ses", json.dumps(record).encode()).events[0] for record in (delivered, bounced)]

    assert [each.occurred_at is None for each in found] == [False, True]
    assert fold_all(found).status is Status.BOUNCED


def test_a_bounce_within_the_second_in_which_its_message_was_sent_has_a_time() -> None:
    """SES leaves the milliseconds out of a bounce's time, and not out of that of the message."""
    record = payload("bounce_permanent_general.json")
    record["mail"]["timestamp"] = "2026-11-03T10:00:00.422Z"
    known = []
    for second in ("10:00:00", "09:59:59"):
        record["bounce"]["timestamp"] = f"2026-11-03T{second}.000Z"
        (event,) = outcome("amazon_ses", json.dumps(record).encode()).events
        known.append(event.occurred_at is not None)

    assert known == [True, False]


def test_a_time_of_a_bounce_that_is_not_believed_tells_two_bounces_apart_nevertheless() -> None:
    first, second = payload("bounce_permanent_general.json"), payload("bounce_permanent_general.json")
    first["bounce"]["timestamp"] = "2026-11-03T09:57:30.000Z"
    second["bounce"]["timestamp"] = "2026-11-03T09:57:31.000Z"
    for record in (first, second):
        del record["bounce"]["feedbackId"]

    assert (
        len({outcome("amazon_ses", json.dumps(record).encode()).events[0].event_id for record in (first, second)}) == 2
    )


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


def bounced(bounce_type: str, subtype: str, **recipient: str) -> tuple[EventType, BounceKind | None]:
    record = payload("bounce_permanent_general.json")
    record["bounce"] |= {"bounceType": bounce_type, "bounceSubType": subtype}
    record["bounce"]["bouncedRecipients"] = [{"emailAddress": "ann@customer.example", **recipient}]
    (event,) = outcome("amazon_ses", json.dumps(record).encode()).events
    return event.type, event.bounce_kind


@pytest.mark.parametrize(
    ("bounce_type", "kind"),
    [("Permanent", BounceKind.HARD), ("Transient", BounceKind.SOFT), ("Undetermined", BounceKind.UNDETERMINED)],
)
def test_a_subtype_that_ses_adds_later_is_of_the_kind_of_its_type(bounce_type: str, kind: BounceKind) -> None:
    assert bounced(bounce_type, "AddedLater") == (EventType.BOUNCE, kind)


@pytest.mark.parametrize(
    ("action", "meaning"),
    [
        ("failed", (EventType.BOUNCE, BounceKind.HARD)),
        ("delayed", (EventType.DEFERRED, None)),
        ("Delivered", (EventType.DELIVERED, None)),
        ("relayed", (EventType.OTHER, None)),
        (" expanded ", (EventType.OTHER, None)),
    ],
)
def test_what_the_report_says_of_a_recipient_counts_more_than_the_word_bounce(
    action: str, meaning: tuple[EventType, BounceKind | None]
) -> None:
    assert bounced("Permanent", "General", action=action) == meaning


@pytest.mark.parametrize(
    ("feedback", "event_type"),
    [
        ("abuse", EventType.COMPLAINT),
        ("fraud", EventType.COMPLAINT),
        (None, EventType.COMPLAINT),
        ("not-spam", EventType.OTHER),
        ("auth-failure", EventType.OTHER),
    ],
)
def test_a_feedback_report_that_accuses_nobody_is_no_complaint(feedback: str | None, event_type: EventType) -> None:
    record = payload("complaint.json")
    record["complaint"]["complaintFeedbackType"] = feedback

    assert [event.type for event in outcome("amazon_ses", json.dumps(record).encode()).events] == [event_type]


@pytest.mark.parametrize(
    ("name", "section", "key"),
    [("delivery", "delivery", "recipients"), ("delivery_delay", "deliveryDelay", "delayedRecipients")],
)
def test_of_nobody_whom_it_names_a_delivery_or_delay_says_nothing(name: str, section: str, key: str) -> None:
    nobodies: list[list[Any] | None] = [[], None]
    for nobody in nobodies:
        record = payload(f"{name}.json")
        record[section][key] = nobody
        found = outcome("amazon_ses", json.dumps(record).encode())
        assert (found.events, found.bad[0][2]) == ((), "no recipient")


def types(record: Any) -> list[EventType]:
    found = outcome("amazon_ses", json.dumps(record).encode())
    assert found.poison is None
    return [event.type for event in found.events]


def to_two(name: str) -> Any:
    record = payload(f"{name}.json")
    record["mail"]["destination"] = ["ann@customer.example", "bob@customer.example"]
    return record


@pytest.mark.parametrize("name", ["open", "click", "subscription_unsubscribe_all", "subscription_opt_out_of_a_topic"])
def test_what_one_of_several_recipients_did_changes_the_status_of_none(name: str) -> None:
    assert types(to_two(name)) == [EventType.OTHER, EventType.OTHER]


def test_a_message_to_several_that_ses_did_not_send_because_of_complaints_is_dropped_for_each_that_it_names() -> None:
    record = to_two("complaint_on_account_suppression_list")
    record["complaint"]["complainedRecipients"] = [{"emailAddress": one} for one in record["mail"]["destination"]]

    events = outcome("amazon_ses", json.dumps(record).encode()).events

    assert [(event.type, event.suppression_list) for event in events] == [(EventType.DROPPED, "spam")] * 2


@pytest.mark.parametrize(
    ("old", "new", "event_type"),
    [
        ({}, {"invoices": "OptOut"}, EventType.UNSUBSCRIBE),
        ({"invoices": "OptOut"}, {"invoices": "OptOut", "reminders": "OptOut"}, EventType.UNSUBSCRIBE),
        ({"invoices": "OptOut"}, {"invoices": "OptOut", "reminders": "OptIn"}, EventType.OTHER),
        ({"invoices": "OptOut"}, {"invoices": "OptIn"}, EventType.OTHER),
        ({"invoices": "OPT_IN"}, {"invoices": "OPT_OUT"}, EventType.UNSUBSCRIBE),
    ],
)
def test_who_leaves_one_more_topic_unsubscribes_and_who_had_left_it_does_not_again(
    old: dict[str, str], new: dict[str, str], event_type: EventType
) -> None:
    record = payload("subscription_opt_out_of_a_topic.json")
    for key, topics in (("oldTopicPreferences", old), ("newTopicPreferences", new)):
        listed = [{"topicName": name, "subscriptionStatus": status} for name, status in topics.items()]
        record["subscription"][key] = {"unsubscribeAll": False, "topicSubscriptionStatus": listed}

    assert types(record) == [event_type]


def test_several_records_in_a_list_or_in_one_record_of_firehose_are_all_read() -> None:
    records = [payload("send.json"), payload("delivery.json")]
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)

    for body in (records, {"records": [{"data": b64encode(lines).decode()}]}):
        assert types(body) == [EventType.SENT, EventType.DELIVERED]
