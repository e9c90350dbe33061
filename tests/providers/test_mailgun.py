"""What only Mailgun has: forms, and codes of its own."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from streams.domain.events import BounceKind, DeliveryEvent, EventType
from streams.providers import PROVIDERS, PoisonError, WebhookRequest
from tests.providers.cases import PAYLOADS, outcome

RECEIVED_AT = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)


def normalise(body: bytes, content_type: str | None) -> list[DeliveryEvent]:
    headers = {} if content_type is None else {"content-type": content_type}
    return PROVIDERS["mailgun"].normalise(
        WebhookRequest(body=body, headers=headers, url="", account="acme", received_at=RECEIVED_AT)
    )


def failed(**data: Any) -> bytes:
    value = json.loads((PAYLOADS / "mailgun" / "failed_permanent.json").read_bytes())
    value["event-data"].update(data)
    return json.dumps(value).encode()


FORM = {"event": "opened", "recipient": "ann@customer.example", "message-id": "m@mg", "timestamp": "1793700000"}


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "Application/X-WWW-Form-URLEncoded; charset=UTF-8"],
)
def test_a_form_is_told_by_its_content_type(content_type: str) -> None:
    assert normalise(urlencode(FORM).encode(), content_type)[0].type is EventType.OPEN


def test_a_variable_with_the_name_of_one_of_mailguns_fields_does_not_replace_it() -> None:
    variables = {"recipient": "jo@other.example", "Event": "bounced"}
    form = [*FORM.items(), *variables.items(), ("timestamp", "of the sender"), ("timestamp", "1793700001")]

    (event,) = normalise(urlencode(form).encode(), "application/x-www-form-urlencoded")

    assert (event.type, event.recipient) == (EventType.OPEN, "ann@customer.example")
    assert event.occurred_at == datetime.fromtimestamp(1793700001, UTC)


def test_json_is_json_whatever_the_content_type_says() -> None:
    body = (PAYLOADS / "mailgun" / "opened.json").read_bytes()

    for content_type in (None, "application/x-www-form-urlencoded", "multipart/form-data"):
        assert normalise(body, content_type)[0].type is EventType.OPEN


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (urlencode(FORM).encode(), None),
        (urlencode(FORM).encode(), "text/plain"),
        (b"&".join(b"a=%d" % n for n in range(2_000)), "application/x-www-form-urlencoded"),
        (b"--x\r\n", "multipart/form-data"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"--" * 100_000, 'multipart/form-data; boundary="-"'),
        (b"event=opened", "application/x-www-form-urlencoded"),
        (b"event=opened&recipient=a%40b", "application/x-www-form-urlencoded"),
        (b"event=opened&recipient=a%40b&message-headers=%7B", "application/x-www-form-urlencoded"),
        (
            b"event=opened&recipient=a%40b&message-headers=%5B%5B%22Subject%22%2C7%5D%5D",
            "application/x-www-form-urlencoded",
        ),
        (b"recipient=a%40b&message-id=m", "application/x-www-form-urlencoded"),
    ],
    ids=range(11),
)
def test_what_is_no_form_of_mailgun_is_poison(body: bytes, content_type: str | None) -> None:
    with pytest.raises(PoisonError):
        normalise(body, content_type)


def test_bytes_that_are_not_utf_8_in_a_form_are_replaced() -> None:
    body = urlencode(FORM).encode() + b"&user-agent=%ff%fe\xff"

    assert normalise(body, "application/x-www-form-urlencoded")[0].user_agent == "\ufffd\ufffd\ufffd"


def test_a_list_of_mailgun_is_known_by_its_code_alone() -> None:
    (event,) = outcome("mailgun", failed(reason="bounce", **{"delivery-status": {"code": 605}})).events

    assert (event.type, event.suppression_list, event.smtp_code) == (EventType.DROPPED, "bounce", None)


def test_an_unknown_list_drops_without_naming_one() -> None:
    (event,) = outcome("mailgun", failed(reason="suppress-something")).events

    assert (event.type, event.suppression_list) == (EventType.DROPPED, None)


@pytest.mark.parametrize(("code", "event_type"), [(451, EventType.DEFERRED), (550, EventType.BOUNCE)])
def test_without_a_severity_the_code_decides(code: int, event_type: EventType) -> None:
    (event,) = outcome("mailgun", failed(severity=None, **{"delivery-status": {"code": code}})).events

    assert event.type is event_type


def test_a_soft_bounce_for_reputation_is_a_block() -> None:
    status = {"code": 550, "message": "5.7.1 Refused for reputation", "bounce-type": "soft"}

    (event,) = outcome("mailgun", failed(**{"delivery-status": status})).events

    assert event.bounce_kind is BounceKind.BLOCK


def test_the_same_id_on_two_days_is_two_events() -> None:
    ids = {outcome("mailgun", failed(timestamp=day)).events[0].event_id for day in (1793700000, 1793800000)}

    assert len(ids) == 2


@pytest.mark.parametrize(
    ("reason", "code", "suppression_list"),
    [
        ("suppress-bounce", None, "bounce"),
        ("suppress-complaint", None, "spam"),
        ("suppress-unsubscribe", None, "unsubscribe"),
        ("bounce", 605, "bounce"),
        ("bounce", 606, "unsubscribe"),
        ("bounce", 607, "spam"),
    ],
)
def test_each_list_of_mailgun_is_known_by_its_word_alone_and_by_its_code_alone(
    reason: str, code: int | None, suppression_list: str
) -> None:
    (event,) = outcome("mailgun", failed(reason=reason, **{"delivery-status": {"code": code}})).events

    assert (event.type, event.suppression_list) == (EventType.DROPPED, suppression_list)


@pytest.mark.parametrize(
    ("code", "event_type"),
    [
        (None, EventType.BOUNCE),
        (399, EventType.BOUNCE),
        (400, EventType.DEFERRED),
        (499, EventType.DEFERRED),
        (500, EventType.BOUNCE),
    ],
)
def test_without_a_severity_only_a_transient_code_is_tried_again(code: int | None, event_type: EventType) -> None:
    (event,) = outcome("mailgun", failed(severity=None, reason="generic", **{"delivery-status": {"code": code}})).events

    assert event.type is event_type


def test_a_temporary_failure_is_tried_again_also_where_nobody_says_when() -> None:
    (event,) = outcome("mailgun", failed(severity="temporary", reason="generic", **{"delivery-status": {}})).events

    assert event.type is EventType.DEFERRED


@pytest.mark.parametrize(
    ("bounce_type", "kind"), [("hard", BounceKind.HARD), ("soft", BounceKind.SOFT), (None, BounceKind.HARD)]
)
def test_mailguns_bounce_type_decides_where_the_answer_says_nothing(bounce_type: str | None, kind: BounceKind) -> None:
    status = {"code": None, "message": "rejected", "bounce-type": bounce_type}

    (event,) = outcome("mailgun", failed(reason="generic", **{"delivery-status": status})).events

    assert (event.type, event.bounce_kind) == (EventType.BOUNCE, kind)


def test_a_form_that_says_only_that_it_bounced_is_a_hard_bounce() -> None:
    (event,) = normalise(urlencode(FORM | {"event": "bounced"}).encode(), "application/x-www-form-urlencoded")

    assert (event.type, event.bounce_kind) == (EventType.BOUNCE, BounceKind.HARD)


def test_the_names_of_mailguns_fields_may_have_capitals() -> None:
    form = {"Event": "opened", "Recipient": "ann@customer.example", "Message-Id": "<m@mg>", "Timestamp": "1793700000"}

    (event,) = normalise(urlencode(form).encode(), "application/x-www-form-urlencoded")

    assert (event.type, event.message_id, event.recipient) == (EventType.OPEN, "m@mg", "ann@customer.example")


def test_a_rejected_message_without_recipients_is_of_those_of_its_envelope() -> None:
    value = json.loads((PAYLOADS / "mailgun" / "rejected.json").read_bytes())
    data = value["event-data"]
    data.pop("recipient", None)
    data["envelope"] = {"targets": "bcc@customer.example"}

    assert [event.recipient for event in outcome("mailgun", json.dumps(value).encode()).events] == [
        "bcc@customer.example"
    ]


def test_a_delayed_bounce_that_names_no_message_is_a_delivery_of_its_own() -> None:
    (event,) = outcome("mailgun", failed(id="B1", flags={"is-delayed-bounce": True}, envelope={}, message={})).events

    assert (event.type, event.message_id, event.recipient) == (EventType.BOUNCE, "B1", "ann@customer.example")


@pytest.mark.parametrize(
    "data",
    [
        {"flags": {"is-delayed-bounce": False}},
        {"flags": {}},
        {"flags": {"is-delayed-bounce": True}, "event": "delivered"},
        {"flags": {"is-delayed-bounce": True}, "id": None},
        {"flags": {"is-delayed-bounce": True}, "severity": "temporary"},
    ],
)
def test_any_other_event_of_mailgun_has_to_name_its_message(data: dict[str, Any]) -> None:
    assert outcome("mailgun", failed(**{"message": {"headers": {}}, **data})).poison == "no message-id"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"bounce-code": "5.4.14", "message": "smtp; 550 rejected"}, "5.4.14"),
        ({"bounce-code": "5.0.0", "message": "smtp; 550 5.1.1 unknown"}, "5.1.1"),
        ({"bounce-code": "5.0.0", "enhanced-code": "5.1.1", "message": "smtp; rejected"}, "5.1.1"),
        ({"bounce-code": "", "message": "smtp; 550 rejected"}, None),
    ],
)
def test_a_delayed_bounce_has_its_status_code_under_a_name_of_its_own(status: dict[str, str], code: str | None) -> None:
    (event,) = outcome("mailgun", failed(reason="generic", **{"delivery-status": {"code": 550, **status}})).events

    assert (event.smtp_code, event.enhanced_code) == (550, code)


@pytest.mark.parametrize(
    ("reported", "answer", "code", "kind"),
    [
        ("5.1.1", "550 5.7.1 rejected", "5.7.1", BounceKind.BLOCK),
        ("5.1.0", "5.1.0 - Unknown address error 550-'5.7.1 rejected'", "5.7.1", BounceKind.BLOCK),
        ("5.1.3", "553 192.0.2.1 is listed at zen.spamhaus.org", None, BounceKind.BLOCK),
        ("5.2.0", "550 192.0.2.1 is listed at zen.spamhaus.org", "5.2.0", BounceKind.BLOCK),
        ("5.2.2", "552 message exceeds fixed maximum message size", None, BounceKind.SOFT),
        ("5.2.0", "550 rejected", None, BounceKind.HARD),
        ("5.7.0", "550 rejected", "5.7.0", BounceKind.BLOCK),
        ("4.4.7", "550 rejected", "4.4.7", BounceKind.SOFT),
    ],
)
def test_the_answer_of_a_delayed_bounce_outweighs_the_status_code_of_who_reports_it(
    reported: str, answer: str, code: str | None, kind: BounceKind
) -> None:
    """Sendmail makes its own code of the reply code alone: 5.1.3 of any 553, 5.2.0 of any 550, 5.2.2 of any 552."""
    status = {"bounce-code": reported, "message": f"smtp; {answer}"}

    (event,) = outcome("mailgun", failed(reason="generic", **{"delivery-status": status})).events

    assert (event.enhanced_code, event.bounce_kind) == (code, kind)


def test_the_code_of_a_form_that_bounced_may_be_the_status_code() -> None:
    form = {**FORM, "event": "bounced", "code": "5.7.1", "error": "Rejected"}

    (event,) = normalise(urlencode(form).encode(), "application/x-www-form-urlencoded")

    assert (event.smtp_code, event.enhanced_code, event.bounce_kind) == (None, "5.7.1", BounceKind.BLOCK)
