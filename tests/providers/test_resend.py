"""What only Resend does: a list of recipients of whom one is meant, Amazon SES' words with texts of its own, Svix' ids."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.domain.objective import Judged, Judgement, judge
from streams.domain.status import SECOND, fold
from streams.providers import PROVIDERS
from tests.domain.deliveries import fold_all
from tests.providers.cases import PAYLOADS, outcome, request

FOLDER = PAYLOADS / "resend"
SEVERAL = ["ann@customer.example", "bob@customer.example"]


def record(name: str, **data: Any) -> dict[str, Any]:
    """Return a payload with fields of its data replaced."""
    found = json.loads((FOLDER / f"{name}.json").read_bytes())
    assert isinstance(found, dict)
    return {**found, "data": {**found["data"], **data}}


def normalised(value: dict[str, Any], headers: Mapping[str, str] | None = None) -> list[DeliveryEvent]:
    asked = request("resend", json.dumps(value).encode())
    return PROVIDERS["resend"].normalise(replace(asked, headers={**asked.headers, **(headers or {})}))


def bounce(bounce_type: str, subtype: str, *answers: str, to: list[str] | None = None) -> DeliveryEvent:
    about = {"type": bounce_type, "subType": subtype, "message": "It bounced.", "diagnosticCode": list(answers)}
    (event,) = normalised(record("bounced_permanent_general", bounce=about, to=to or SEVERAL[:1]))
    return event


# --- whose it is ---


@pytest.mark.parametrize(
    "name",
    [
        "scheduled",
        "delivered",
        "delivery_delayed",
        "bounced_transient_mailbox_full",
        "suppressed",
        "opened",
        "clicked",
        "complained",
    ],
)
def test_of_several_recipients_none_is_taken_for_the_one_that_is_meant(name: str) -> None:
    events = normalised(record(name, to=SEVERAL))

    assert [event.recipient for event in events] == SEVERAL
    assert {event.type for event in events} == {EventType.OTHER}
    assert {(event.bounce_kind, event.suppression_list) for event in events} == {(None, None)}
    assert {event.provider_event for event in events} == {normalised(record(name))[0].provider_event}


@pytest.mark.parametrize(("name", "meaning"), [("sent", EventType.SENT), ("failed", EventType.DROPPED)])
def test_what_happened_to_the_whole_message_happened_to_each_recipient(name: str, meaning: EventType) -> None:
    events = normalised(record(name, to=SEVERAL))

    assert [(event.recipient, event.type) for event in events] == [(recipient, meaning) for recipient in SEVERAL]


@pytest.mark.parametrize(
    ("answer", "recipients"),
    [
        ("550 5.1.1 <bob@customer.example>: user unknown", ["bob@customer.example"]),
        ("550 5.1.1 BOB@Customer.example: user unknown", ["bob@customer.example"]),
        ("550 no mailbox here by the name of bob@customer.example.", ["bob@customer.example"]),
        ("550 user unknown", SEVERAL),
        ("550 user unknown; mail from billing@sender.example", SEVERAL),
        ("550 bob@customer.example and ann@customer.example: user unknown", SEVERAL),
        ("550 jacob@customer.example: user unknown", SEVERAL),
        ("550 bob@customer.example.net: user unknown", SEVERAL),
    ],
)
def test_the_recipient_whom_the_answer_names_is_the_one_that_is_meant(answer: str, recipients: list[str]) -> None:
    about = {"type": "Permanent", "subType": "General", "diagnosticCode": [f"smtp; {answer}"]}

    events = normalised(record("bounced_permanent_general", bounce=about, to=SEVERAL))

    assert [event.recipient for event in events] == recipients
    assert {event.type for event in events} == {EventType.BOUNCE if len(recipients) == 1 else EventType.OTHER}


def test_of_several_answers_each_that_names_one_recipient_is_its_bounce_and_the_rest_is_in_the_timelines() -> None:
    answers = [
        "smtp; 550 user unknown",
        "smtp; 550 5.1.1 <bob@customer.example>: user unknown",
        None,
        "smtp; 552 5.2.2 <ann@customer.example>: mailbox full",
        "smtp; 550 5.7.1 <bob@customer.example>: refused",
    ]
    about = {"type": "Permanent", "subType": "General", "diagnosticCode": answers}

    events = normalised(record("bounced_permanent_general", bounce=about, to=[*SEVERAL, "cy@customer.example"]))

    assert [(event.recipient, event.type, event.enhanced_code) for event in events] == [
        ("bob@customer.example", EventType.BOUNCE, "5.1.1"),
        ("ann@customer.example", EventType.BOUNCE, "5.2.2"),
        ("cy@customer.example", EventType.OTHER, None),
    ]
    assert events[2].reason == "smtp; 550 user unknown"
    assert len({event.event_id for event in events}) == len(events)


def test_a_scheduled_message_is_not_sent_before_resend_sends_it() -> None:
    """That is up to 30 days later, or never if it is cancelled: it would be judged late, and count as without word."""
    scheduled, sent, delivered = (
        normalised({**record(name), "created_at": at})[0]
        for name, at in (
            ("scheduled", "2026-11-01T10:00:00Z"),
            ("sent", "2026-11-03T10:00:00Z"),
            ("delivered", "2026-11-03T10:00:03Z"),
        )
    )
    assert fold(None, scheduled).delivery is None

    before = fold_all([scheduled, sent])

    assert judge(before, fold_all([scheduled, sent, delivered]), 900 * SECOND) == Judged(Judgement.MET, 3 * SECOND)


def test_the_same_recipient_twice_is_one() -> None:
    (event,) = normalised(record("delivered", to=["ann@customer.example", "Ann Berg <ann@customer.example>"]))

    assert (event.type, event.recipient) == (EventType.DELIVERED, "ann@customer.example")


def test_more_recipients_than_resend_takes_are_poison() -> None:
    many = [f"r{n}@customer.example" for n in range(101)]

    assert len(normalised(record("sent", to=many[:100]))) == 100
    assert outcome("resend", json.dumps(record("sent", to=many)).encode()).poison == "too many recipients"


# --- ids and times ---


@pytest.mark.parametrize("prefix", ["svix", "webhook"])
def test_the_id_of_the_webhook_names_the_event_and_a_retry_keeps_it(prefix: str) -> None:
    first = {f"{prefix}-id": "msg_1", f"{prefix}-timestamp": "1793707200", f"{prefix}-signature": "v1,AAAA"}
    again = {**first, f"{prefix}-timestamp": "1793725200", f"{prefix}-signature": "v1,BBBB"}

    ids = [[event.event_id for event in normalised(record("sent", to=SEVERAL), headers)] for headers in (first, again)]

    assert ids == [["msg_1", "msg_1#1"]] * 2


@pytest.mark.parametrize("given", ["", " ", "msg_\udcff", "msg_é", "msg.1", "m" * 300])
def test_a_header_that_can_be_no_id_of_svix_names_no_event(given: str) -> None:
    """An endpoint that proves nothing (``insecure``) hands over any bytes, and not all of them can be written."""
    bare, named = (normalised(record("delivered"), headers)[0].event_id for headers in ({}, {"svix-id": given}))

    assert bare == named


def test_the_headers_that_name_an_event_are_kept_with_its_record() -> None:
    assert {"svix-id", "webhook-id", "svix-signature", "webhook-signature"} <= PROVIDERS["resend"].kept_headers


def test_without_the_id_an_event_has_a_fingerprint_that_a_repetition_shares() -> None:
    opened, again, later = (
        normalised({**record("opened"), "created_at": at})[0].event_id
        for at in ("2026-11-03T10:20:41.002Z", "2026-11-03T10:20:41.002Z", "2026-11-03T10:20:41.003Z")
    )

    assert opened == again != later


def test_the_time_is_that_of_the_event_and_not_of_the_message() -> None:
    (event,) = normalised(record("delivered"))
    assert event.occurred_at is not None
    assert event.occurred_at.isoformat() == "2026-11-03T10:00:05.126000+00:00"

    (event,) = normalised({**record("delivered"), "created_at": None})
    assert event.occurred_at is None


def test_a_click_has_a_time_of_its_own() -> None:
    (event,) = normalised(record("clicked"))
    assert event.occurred_at is not None
    assert event.occurred_at.isoformat() == "2026-11-03T10:20:57.163000+00:00"

    (event,) = normalised(record("clicked", click={"link": "https://pay.sender.example/4711"}))
    assert event.occurred_at is not None
    assert event.occurred_at.isoformat() == "2026-11-03T10:21:00.326000+00:00"


# --- bounces ---


@pytest.mark.parametrize(
    ("bounce_type", "subtype", "meaning"),
    [
        ("Permanent", "General", (EventType.BOUNCE, BounceKind.HARD, None)),
        ("Permanent", "NoEmail", (EventType.BOUNCE, BounceKind.HARD, None)),
        ("Permanent", "MessageRejected", (EventType.BOUNCE, BounceKind.BLOCK, None)),
        ("Permanent", "Later", (EventType.BOUNCE, BounceKind.HARD, None)),
        ("Permanent", "", (EventType.BOUNCE, BounceKind.HARD, None)),
        ("Permanent", "Suppressed", (EventType.DROPPED, None, SuppressionList.BOUNCE)),
        ("Permanent", "OnAccountSuppressionList", (EventType.DROPPED, None, SuppressionList.BOUNCE)),
        ("Transient", "General", (EventType.BOUNCE_OR_AUTO_REPLY, None, None)),
        ("Transient", "", (EventType.BOUNCE_OR_AUTO_REPLY, None, None)),
        ("Temporary", "General", (EventType.BOUNCE_OR_AUTO_REPLY, None, None)),
        ("Transient", "MailboxFull", (EventType.BOUNCE, BounceKind.SOFT, None)),
        ("Transient", "MessageTooLarge", (EventType.BOUNCE, BounceKind.SOFT, None)),
        ("Transient", "ContentRejected", (EventType.BOUNCE, BounceKind.SOFT, None)),
        ("Transient", "AttachmentRejected", (EventType.BOUNCE, BounceKind.SOFT, None)),
        ("Temporary", "Later", (EventType.BOUNCE, BounceKind.SOFT, None)),
        ("Undetermined", "Undetermined", (EventType.BOUNCE, BounceKind.UNDETERMINED, None)),
        ("Later", "Later", (EventType.BOUNCE, BounceKind.UNDETERMINED, None)),
        ("", "", (EventType.BOUNCE, BounceKind.UNDETERMINED, None)),
    ],
)
def test_each_type_of_bounce_has_its_meaning(bounce_type: str, subtype: str, meaning: tuple[Any, ...]) -> None:
    event = bounce(bounce_type, subtype)

    assert (event.type, event.bounce_kind, event.suppression_list) == meaning
    assert event.provider_event == "/".join(filter(None, ["email.bounced", bounce_type, subtype]))


@pytest.mark.parametrize(
    ("bounce_type", "subtype", "answer", "kind"),
    [
        ("Permanent", "General", "550 5.1.1 user unknown", BounceKind.HARD),
        ("Permanent", "General", "550 5.7.1 blocked using Spamhaus", BounceKind.BLOCK),
        ("Permanent", "NoEmail", "550 5.7.1 blocked using Spamhaus", BounceKind.HARD),
        ("Permanent", "General", "552 5.2.2 mailbox full", BounceKind.HARD),
        ("Transient", "General", "452 4.2.2 mailbox full", BounceKind.SOFT),
        ("Transient", "General", "554 5.7.1 blocked by policy", BounceKind.BLOCK),
        ("Transient", "General", "failed", BounceKind.SOFT),
        ("Transient", "MailboxFull", "550 5.1.1 user unknown", BounceKind.SOFT),
        ("Transient", "Later", "550 5.1.1 user unknown", BounceKind.SOFT),
        ("Undetermined", "Undetermined", "550 5.1.1 user unknown", BounceKind.HARD),
        ("", "", "550 5.7.1 blocked by policy", BounceKind.BLOCK),
    ],
)
def test_the_answer_decides_where_the_words_leave_it_open(
    bounce_type: str, subtype: str, answer: str, kind: BounceKind
) -> None:
    event = bounce(bounce_type, subtype, f"smtp; {answer}")

    assert (event.type, event.bounce_kind) == (EventType.BOUNCE, kind)
    assert (event.reason or "").endswith(f"smtp; {answer}")


@pytest.mark.parametrize("codes", [[], None, "absent", [""], [None, 17], {}, "smtp; 550 5.1.1 unknown"])
def test_an_answer_is_found_in_a_list_or_alone_and_may_be_missing(codes: Any) -> None:
    about = {
        "type": "Permanent",
        "subType": "General",
        "message": "The mailbox is gone. Remove it.",
        "diagnosticCode": codes,
    }
    if codes == "absent":
        del about["diagnosticCode"]

    (event,) = normalised(record("bounced_permanent_general", bounce=about))

    assert event.reason == (
        "smtp; 550 5.1.1 unknown" if isinstance(codes, str) and codes != "absent" else "The mailbox is gone"
    )


def test_of_several_answers_the_first_is_told() -> None:
    event = bounce("Permanent", "General", "smtp; 550 5.1.1 unknown", "smtp; 550 5.7.1 blocked using Spamhaus")

    assert (event.reason, event.enhanced_code, event.bounce_kind) == (
        "smtp; 550 5.1.1 unknown",
        "5.1.1",
        BounceKind.HARD,
    )


def test_a_message_with_a_servers_codes_is_its_answer() -> None:
    about = {"type": "Transient", "subType": "General", "message": "452 4.2.2 Mailbox full. Try again. Later."}

    (event,) = normalised(record("bounced_permanent_general", bounce=about))

    assert (event.type, event.reason, event.smtp_code) == (EventType.BOUNCE, about["message"], 452)


def test_the_advice_in_resends_own_texts_is_not_the_cause() -> None:
    (event,) = normalised(record("bounced_permanent_general_without_answer"))

    assert "reputation" not in (event.reason or "")
    assert event.bounce_kind is BounceKind.HARD


# --- what the sender attached ---


@pytest.mark.parametrize(
    ("tags", "metadata"),
    [
        ({"invoice": "INV-4711", "category": "x"}, {"invoice": "INV-4711", "category": "x"}),
        ([{"name": "invoice", "value": "INV-4711"}], {"invoice": "INV-4711"}),
        ([{"name": "invoice", "value": "INV-4711"}, {"name": 1}, "junk", None], {"invoice": "INV-4711"}),
    ],
)
def test_tags_are_read_as_an_object_and_as_a_list(tags: Any, metadata: dict[str, str]) -> None:
    (event,) = normalised(record("delivered", tags=tags))

    assert (event.reference, event.metadata) == ("INV-4711", metadata)


@pytest.mark.parametrize("tags", [None, [], "junk", 17])
def test_without_a_tag_the_reference_is_that_of_a_header(tags: Any) -> None:
    headers = [{"name": "X-INVOICE", "value": "INV-4712"}, {"name": 1}, None]

    (event,) = normalised(record("delivered", tags=tags, headers=headers))

    assert (event.reference, event.metadata) == ("INV-4712", {})


# --- what is about no delivery ---


@pytest.mark.parametrize(
    "word", ["contact.created", "domain.deleted", "suppression.removed", "inbox.email.sent", "later"]
)
def test_what_is_no_mail_event_gives_no_event(word: str) -> None:
    assert normalised({**record("delivered"), "type": word}) == []


@pytest.mark.parametrize("missing", ["email_id", "to"])
def test_a_new_kind_of_mail_event_that_is_of_no_delivery_is_left_out(missing: str) -> None:
    nothings: list[Any] = [None, "", " ", [], {}]
    for nothing in nothings:
        assert normalised(record("unknown_event", **{missing: nothing})) == []


@pytest.mark.parametrize(("missing", "reason"), [("email_id", "no email_id"), ("to", "no recipient")])
def test_of_the_kinds_that_we_know_what_identifies_is_required(missing: str, reason: str) -> None:
    found = outcome("resend", json.dumps(record("delivered", **{missing: None})).encode())

    assert (found.events, found.poison) == ((), reason)


def test_a_list_is_poison_because_resend_sends_one_event_a_request() -> None:
    assert outcome("resend", json.dumps([record("delivered")]).encode()).poison == "the body is not an object"
