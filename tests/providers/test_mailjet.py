"""What only Mailjet does: an id beyond what a float holds, drops and deferrals among the bounces, events without an id."""

import json
from typing import Any

import pytest

from streams.domain.advice import advise
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from tests.domain.deliveries import fold_all
from tests.providers.cases import PAYLOADS, outcome

FOLDER = PAYLOADS / "mailjet"
HARD, SOFT, BLOCK = BounceKind.HARD, BounceKind.SOFT, BounceKind.BLOCK
DEFERRED, DROPPED = EventType.DEFERRED, EventType.DROPPED
LISTS = SuppressionList


def event(name: str) -> dict[str, Any]:
    (found,) = json.loads((FOLDER / f"{name}.json").read_bytes())
    assert isinstance(found, dict)
    return found


def normalised(*elements: dict[str, Any]) -> tuple[DeliveryEvent, ...]:
    found = outcome("mailjet", json.dumps(elements).encode())
    assert found.poison is None
    return found.events


def advice_for(found: DeliveryEvent) -> str:
    return advise(fold_all([found]), support_contact=None, warn_after_us=3_600_000_000).code


# --- identity ---


@pytest.mark.parametrize("given", [2**53 + 1, 1_152_921_526_333_757_313, 2**63 - 1, "1152921526333757315"])
def test_the_message_id_is_its_digits_whatever_a_float_would_make_of_them(given: Any) -> None:
    (found,) = normalised({**event("sent"), "MessageID": given})

    assert found.message_id == str(given)


@pytest.mark.parametrize("given", [None, 0, "0", "", 1.152921526333757e18, True, [1]], ids=repr)
def test_without_a_message_id_it_is_the_same_one_as_text(given: Any) -> None:
    (found,) = normalised({**event("sent"), "MessageID": given})

    assert found.message_id == "1152921526333757313"


def test_a_guid_alone_names_no_message_because_the_other_events_are_known_by_another_id() -> None:
    opened = event("open")
    del opened["MessageID"]

    found = outcome("mailjet", json.dumps([opened]).encode())

    assert [reason for _, _, reason in found.bad] == ["no MessageID"]


@pytest.mark.parametrize("missing", [{"email": "ann@customer.example"}, {"MessageID": 1_152_921_526_333_757_313}])
def test_an_event_of_nobody_has_neither_a_message_nor_an_address(missing: dict[str, Any]) -> None:
    of_nobody = json.loads((FOLDER / "events_of_nobody.json").read_bytes())[0]
    assert normalised(of_nobody) == ()

    assert len(outcome("mailjet", json.dumps([{**of_nobody, **missing}]).encode()).bad) == 1


def test_a_repetition_in_another_group_is_the_same_event() -> None:
    first, second = event("bounce_quota_exceeded"), event("open")

    alone = outcome("mailjet", json.dumps(first).encode()).events
    together = normalised(second, first)

    assert [one.event_id for one in alone] == [together[1].event_id]


def test_what_differs_is_another_event() -> None:
    clicked = event("click")
    changes: list[dict[str, Any]] = [
        {},
        {"time": clicked["time"] + 1},
        {"url": "https://pay.sender.example/another"},
        {"MessageID": clicked["MessageID"] + 1},
        {"email": "bob@customer.example"},
        {"event": "open"},
    ]

    assert len({one.event_id for one in normalised(*({**clicked, **change} for change in changes))}) == len(changes)


# --- meaning ---


@pytest.mark.parametrize(
    ("error", "permanent", "temporary", "advice", "advice_temporary"),
    [
        ("user unknown", HARD, SOFT, "no_such_address", "no_such_address"),
        ("mailbox inactive", HARD, SOFT, "mailbox_closed", "mailbox_closed"),
        ("quota exceeded", SOFT, SOFT, "mailbox_full", "mailbox_full"),
        ("blacklisted", DROPPED, DROPPED, "dropped", "dropped"),
        ("spam reporter", DROPPED, DROPPED, "dropped_spam_report", "dropped_spam_report"),
        ("invalid domain", HARD, SOFT, "no_such_domain", "no_such_domain"),
        ("no mail host", HARD, SOFT, "unreachable", "unreachable"),
        ("relay/access denied", BLOCK, BLOCK, "blocked", "blocked"),
        ("greylisted", SOFT, DEFERRED, "refused_this_message", "deferred_rate_or_reputation"),
        ("typofix", DROPPED, DROPPED, "dropped_invalid_address", "dropped_invalid_address"),
        ("bad or empty template", DROPPED, DROPPED, "dropped", "dropped"),
        ("error in template language", DROPPED, DROPPED, "dropped", "dropped"),
        ("sender blocked", BLOCK, BLOCK, "blocked", "blocked"),
        ("content blocked", BLOCK, BLOCK, "blocked", "blocked"),
        ("policy issue", BLOCK, BLOCK, "blocked", "blocked"),
        ("system issue", SOFT, SOFT, "put_off_too_long", "put_off_too_long"),
        ("protocol issue", SOFT, SOFT, "put_off_too_long", "put_off_too_long"),
        ("connection issue", SOFT, SOFT, "put_off_too_long", "put_off_too_long"),
        ("preblocked", DROPPED, DROPPED, "dropped_bounced_before", "dropped_bounced_before"),
        ("duplicate in campaign", DROPPED, DROPPED, "dropped", "dropped"),
        ("spam preblocked", DROPPED, DROPPED, "dropped", "dropped"),
    ],
)
def test_each_error_of_a_bounce_has_its_meaning_and_leads_to_its_advice(
    error: str, permanent: Any, temporary: Any, advice: str, advice_temporary: str
) -> None:
    bounced = {**event("bounce_user_unknown"), "error_related_to": "", "comment": ""}
    for hard, meaning, code in ((True, permanent, advice), (False, temporary, advice_temporary)):
        for written in (error, error.upper()):
            (found,) = normalised({**bounced, "error": written, "hard_bounce": hard})

            assert (found.bounce_kind or found.type) is meaning
            assert found.reason == written
            assert found.provider_event == f"bounce/{written}"
            if written == error:
                assert advice_for(found) == code


@pytest.mark.parametrize(
    ("error", "suppression_list"),
    [
        ("user unknown", LISTS.INVALID),
        ("mailbox inactive", LISTS.BOUNCE),
        ("quota exceeded", LISTS.BOUNCE),
        ("blacklisted", None),
        ("spam reporter", LISTS.SPAM),
        ("invalid domain", LISTS.INVALID),
        ("no mail host", LISTS.BOUNCE),
        ("relay/access denied", None),
        ("greylisted", None),
        ("typofix", LISTS.INVALID),
        ("bad or empty template", None),
        ("content blocked", None),
        ("system issue", None),
        ("preblocked", LISTS.BOUNCE),
        ("duplicate in campaign", None),
        ("a new error", None),
    ],
)
def test_what_is_blocked_was_not_tried_and_has_the_list_that_the_error_names(
    error: str, suppression_list: SuppressionList | None
) -> None:
    (found,) = normalised({**event("blocked_preblocked"), "error": error})

    assert (found.type, found.bounce_kind, found.suppression_list) == (DROPPED, None, suppression_list)
    assert found.reason == error


@pytest.mark.parametrize(
    ("related", "meaning"),
    [
        ("recipient", HARD),
        ("domain", HARD),
        ("content", DROPPED),
        ("spam", BLOCK),
        ("system", SOFT),
        ("mailjet", DROPPED),
        ("Mailjet", DROPPED),
        ("the moon", HARD),
    ],
)
def test_an_error_that_mailjet_adds_later_is_read_by_what_it_is_related_to(related: str, meaning: Any) -> None:
    bounced = {**event("bounce_user_unknown"), "error": "a new error", "error_related_to": related, "comment": ""}

    (found,) = normalised(bounced)

    assert (found.bounce_kind or found.type) is meaning


@pytest.mark.parametrize(
    ("hard", "comment", "kind"),
    [
        (True, "550 5.1.1 User unknown", HARD),
        ("true", "", HARD),
        (1, "", HARD),
        (False, "550 5.1.1 User unknown", SOFT),
        ("false", "", SOFT),
        (True, "550 5.7.1 blocked using Spamhaus", BLOCK),
        (False, "550 5.7.1 blocked using Spamhaus", BLOCK),
        (None, "550 5.1.1 User unknown", HARD),
        (None, "452 4.2.2 Mailbox full", SOFT),
        (None, "", BounceKind.UNDETERMINED),
    ],
)
def test_without_an_error_it_is_as_permanent_as_mailjet_says_and_about_whom_the_server_says(
    hard: Any, comment: str, kind: BounceKind
) -> None:
    bounced = {**event("bounce_user_unknown"), "hard_bounce": hard, "comment": comment}
    del bounced["error"], bounced["error_related_to"]

    (found,) = normalised(bounced)

    assert (found.type, found.bounce_kind) == (EventType.BOUNCE, kind)


@pytest.mark.parametrize(
    ("comment", "kind"), [("550 5.1.1 User unknown", HARD), ("450 try again", SOFT), ("", HARD), (None, HARD)]
)
def test_of_an_address_that_does_not_exist_the_answer_says_whether_it_is_permanent_if_mailjet_does_not(
    comment: str | None, kind: BounceKind
) -> None:
    bounced = {**event("bounce_user_unknown"), "comment": comment}
    del bounced["hard_bounce"]

    (found,) = normalised(bounced)

    assert found.bounce_kind is kind


@pytest.mark.parametrize("error", ["relay/access denied", "sender blocked", "content blocked", "policy issue"])
@pytest.mark.parametrize(
    ("hard", "comment", "kind"),
    [
        (True, "550 5.1.1 User unknown", HARD),
        (True, "550 no such user", HARD),
        (True, "550 5.1.10 RESOLVER.ADR.RecipientNotFound", HARD),
        (True, "550 5.4.1 Recipient address rejected: Access denied", HARD),
        (True, "550 5.1.1 User unknown; rejected by Spamhaus", HARD),
        (True, "554 5.7.1 <ann@customer.example>: Relay access denied", BLOCK),
        (True, "550 5.1.1 Recipient address rejected: Relay access denied", BLOCK),
        (True, "550 5.1.1 Rejected as spam", BLOCK),
        (True, "550 5.7.1 Service unavailable, blocked using Spamhaus", BLOCK),
        (True, "521 Your IP is not allowed to send here", BLOCK),
        (True, "550 5.1.0 Access denied. IP name lookup failed [192.0.2.1]", BLOCK),
        (True, "550 5.1.0 192.0.2.1 is not allowed to send from ours.example", BLOCK),
        (True, "550 5.1.0 Your IP is not welcome here", BLOCK),
        (True, "551 Your IP is not local", BLOCK),
        (True, "550 MAIL FROM domain does not exist", BLOCK),
        (True, "552 5.2.2 Mailbox full", BLOCK),
        (True, "450 4.1.1 User unknown", BLOCK),
        (True, "550 rejected", BLOCK),
        (True, "", BLOCK),
        (False, "550 5.1.1 User unknown", BLOCK),
        (None, "550 5.1.1 User unknown", BLOCK),
    ],
)
def test_an_error_about_the_sender_is_a_block_unless_the_answer_is_plainly_about_the_address(
    error: str, hard: bool | None, comment: str, kind: BounceKind
) -> None:
    bounced = {**event("bounce_user_unknown"), "error": error, "hard_bounce": hard, "comment": comment}

    (found,) = normalised(bounced)

    assert (found.type, found.bounce_kind) == (EventType.BOUNCE, kind)


def test_that_mailjet_will_block_the_next_message_changes_nothing_about_this_one() -> None:
    for name in ("bounce_user_unknown", "bounce_quota_exceeded"):
        before, after = normalised(*({**event(name), "blocked": blocked} for blocked in (False, True)))
        assert before == after


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("bounce_of_the_documentation", "unreachable"),
        ("bounce_user_unknown", "no_such_address"),
        ("bounce_mailbox_inactive", "mailbox_closed"),
        ("bounce_quota_exceeded", "mailbox_full"),
        ("bounce_no_mail_host", "unreachable"),
        ("bounce_relay_denied", "blocked"),
        ("bounce_greylisted_for_good", "put_off_too_long"),
        ("bounce_sender_blocked", "blocked"),
        ("bounce_connection_issue", "unreachable"),
    ],
)
def test_the_answer_and_the_error_together_lead_to_the_advice(name: str, advice: str) -> None:
    (found,) = normalised(event(name))

    assert advice_for(found) == advice


def test_a_soft_bounce_is_taken_back_by_a_delivery() -> None:
    bounced, sent = normalised(event("bounce_quota_exceeded"), {**event("sent"), "time": 1_793_710_000})

    assert fold_all([bounced, sent]).status == "delivered"


# --- answers ---


@pytest.mark.parametrize(
    ("written", "codes"),
    [
        ("sent (250 2.0.0 OK 1433333948 fa5si855896wjc.199 - gsmtp)", (250, "2.0.0")),
        ("sent (250 OK)", (250, None)),
        ("250 2.1.5 OK", (250, "2.1.5")),
        ("sent", (None, None)),
    ],
)
def test_the_codes_of_a_delivery_are_read_inside_the_brackets_of_the_log(written: str, codes: Any) -> None:
    (found,) = normalised({**event("sent"), "smtp_reply": written})

    assert (found.reason, (found.smtp_code, found.enhanced_code)) == (written, codes)


def test_an_error_that_the_answer_names_itself_is_not_put_before_it() -> None:
    answers = ("550 5.1.1 User unknown", "550 rejected", "550 5.7.1 blocked using Spamhaus")

    found = normalised(*({**event("bounce_user_unknown"), "comment": answer} for answer in answers))

    assert [one.reason for one in found] == [answers[0], "user unknown: 550 rejected", answers[2]]


# --- what the sender attached ---


@pytest.mark.parametrize(
    ("attached", "reference"),
    [
        ({"Payload": '{"invoice": "INV-1"}', "CustomID": "mail-1"}, "INV-1"),
        ({"Payload": {"invoice": 17}, "CustomID": "mail-1"}, "17"),
        ({"Payload": '{"color": "red"}', "CustomID": "invoice=INV-2"}, "INV-2"),
        ({"Payload": "", "CustomID": " INV-3 "}, "INV-3"),
        ({"Payload": "INV-4", "CustomID": ""}, None),
        ({"Payload": "", "CustomID": "mail-1", "customcampaign": "invoice:INV-5"}, "INV-5"),
        ({"Payload": "", "CustomID": ""}, None),
        ({"Payload": None, "CustomID": None}, None),
    ],
)
def test_the_reference_is_in_the_payload_or_is_the_custom_id(attached: dict[str, Any], reference: str | None) -> None:
    (found,) = normalised({**event("sent"), **attached})

    assert found.reference == reference


@pytest.mark.parametrize(
    ("payload", "metadata"),
    [
        ("row,15", {"Payload": "row,15"}),
        ("{}", {}),
        (" \n", {}),
        ("[1, 2]", {"Payload": "[1, 2]"}),
        ('{"a": 1, ', {"Payload": '{"a": 1, '}),
        ('{"a": {"b": [true, null]}, "c": null}', {"a": '{"b":[true,null]}'}),
        ("{" * 3_000, {"Payload": "{" * 1_024}),
        ('{"a": "\\ud83d"}', {"a": "\ufffd"}),
        (17, {}),
    ],
)
def test_a_payload_that_is_no_json_object_is_kept_as_text(payload: Any, metadata: dict[str, str]) -> None:
    (found,) = normalised({**event("sent"), "CustomID": "", "Payload": payload})

    assert found.metadata == metadata
