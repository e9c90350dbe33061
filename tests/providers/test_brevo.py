"""What only Brevo does: many spellings of a word, times in two units, a custom header of several forms, no event ids."""

import json
from typing import Any

import pytest

from streams.domain.advice import advise
from streams.domain.events import BounceKind, EventType, SuppressionList
from streams.domain.status import Status, fold
from streams.providers import PROVIDERS
from tests.providers.cases import PAYLOADS, outcome

FOLDER = PAYLOADS / "brevo"


def event(name: str, **changes: Any) -> dict[str, Any]:
    found = json.loads((FOLDER / f"{name}.json").read_bytes())
    assert isinstance(found, dict)
    return {**found, **changes}


def normalised(*elements: dict[str, Any]) -> Any:
    found = outcome("brevo", json.dumps(elements).encode())
    assert found.poison is None
    return found.events


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("request sent requests", (EventType.SENT, None, None)),
        ("delivered", (EventType.DELIVERED, None, None)),
        ("deferred", (EventType.DEFERRED, None, None)),
        ("soft_bounce softBounce softBounces", (EventType.BOUNCE, BounceKind.SOFT, None)),
        ("hard_bounce hardBounce hardBounces", (EventType.BOUNCE, BounceKind.HARD, None)),
        ("bounces", (EventType.BOUNCE, BounceKind.UNDETERMINED, None)),
        ("invalid_email invalid", (EventType.DROPPED, None, SuppressionList.INVALID)),
        ("blocked error", (EventType.DROPPED, None, None)),
        ("opened open unique_opened uniqueOpened", (EventType.OPEN, None, None)),
        ("proxy_open proxyOpen unique_proxy_open uniqueProxyOpen", (EventType.MACHINE_OPEN, None, None)),
        ("loadedByProxy", (EventType.MACHINE_OPEN, None, None)),
        ("click clicks clicked", (EventType.CLICK, None, None)),
        ("spam complaint", (EventType.COMPLAINT, None, None)),
        ("unsubscribed unsubscribe", (EventType.UNSUBSCRIBE, None, None)),
        ("reply", (EventType.UNKNOWN, None, None)),  # in the settings of a webhook; no page shows the event
    ],
)
def test_each_word_has_its_meaning_in_every_spelling_of_the_pages(words: str, meaning: tuple[Any, ...]) -> None:
    for word in words.split():
        (found,) = normalised(event("delivered", event=word))
        assert (found.type, found.bounce_kind, found.suppression_list) == meaning
        assert found.provider_event == word
        assert found.machine is (found.type is EventType.MACHINE_OPEN)


# --- one occurrence, one event ---


def test_a_repetition_is_the_same_event_whatever_the_spelling_and_the_webhook_that_brings_it() -> None:
    first = event("soft_bounce")

    once, again, of_another = normalised(first, {**first, "event": "softBounce"}, {**first, "id": 731905})

    assert once.event_id == again.event_id == of_another.event_id


@pytest.mark.parametrize(("first", "every"), [("unique_opened", "opened"), ("unique_proxy_open", "proxy_open")])
def test_both_words_for_one_first_open_are_one_event_and_the_next_open_is_another(first: str, every: str) -> None:
    seen = event(first, link="")

    one, same, later = normalised(
        seen, {**seen, "event": every, "link": None}, {**seen, "event": every, "ts_epoch": seen["ts_epoch"] + 1}
    )

    assert one.event_id == same.event_id != later.event_id


def test_what_distinguishes_two_occurrences_of_one_time_makes_two_events() -> None:
    click, deferred = event("click"), event("deferred")

    ids = [
        found.event_id
        for found in normalised(
            click,
            {**click, "link": "https://pay.sender.example/another"},
            {**click, "email": "bob@customer.example"},
            {**click, "message-id": "<another@smtp-relay.sender.example>"},
            deferred,
            {**deferred, "reason": "421 4.4.1 Connection timed out"},
            {**deferred, "event": "soft_bounce"},
        )
    ]

    assert len(set(ids)) == 7


# --- the message ---


@pytest.mark.parametrize("name", ["message-id", "messageId"])
@pytest.mark.parametrize("written", ["<a.1@smtp-relay.sender.example>", "a.1@smtp-relay.sender.example"])
def test_the_message_is_named_as_the_sending_api_names_it(name: str, written: str) -> None:
    sent = event("delivered")
    del sent["message-id"]

    (found,) = normalised({**sent, name: written})

    assert found.message_id == PROVIDERS["brevo"].message_id(written) == "a.1@smtp-relay.sender.example"


@pytest.mark.parametrize("name", ["delivered", "hard_bounce", "opened", "unsubscribed"])
def test_of_the_kinds_that_we_know_what_identifies_is_required_so_that_a_new_format_is_seen(name: str) -> None:
    for field in ("message-id", "email"):
        found = outcome("brevo", json.dumps(event(name, **{field: None})).encode())
        assert [reason for _, _, reason in found.bad] == [f"no {field}"]


@pytest.mark.parametrize("missing", ["message-id", "email"])
def test_a_new_kind_of_event_that_is_of_no_delivery_is_left_out_and_stops_nothing(missing: str) -> None:
    for value in (None, "", " ", 0.5):
        assert normalised(event("of_unknown_type", **{missing: value})) == ()


@pytest.mark.parametrize("word", ["list_addition", "listAddition", "contact_updated", "contact_deleted"])
def test_what_happens_to_a_contact_is_left_out(word: str) -> None:
    assert normalised(event("list_addition", event=word)) == ()


@pytest.mark.parametrize("word", ["delivered", "opened", "hard_bounce", "unsubscribe", "spam"])
def test_what_happens_to_a_campaign_is_left_out(word: str) -> None:
    assert normalised(event("marketing_click", event=word)) == ()


# --- times ---


@pytest.mark.parametrize(
    ("times", "moment"),
    [
        ({"ts_epoch": 1_793_700_000_987}, "2026-11-03T10:00:00.987000+00:00"),  # as documented
        ({"ts_epoch": 1_793_700_000}, "2026-11-03T10:00:00+00:00"),  # as in the samples
        ({"ts_epoch": 1_793_700_000_000, "ts_event": 1_793_732_400}, "2026-11-03T10:00:00+00:00"),  # in a zone
        ({"ts_epoch": None, "ts_event": 1_793_700_000}, "2026-11-03T10:00:00+00:00"),
        ({"ts_epoch": 0, "ts_event": 1_793_700_000}, "2026-11-03T10:00:00+00:00"),
        ({"ts_epoch": "soon", "ts_event": 1_793_700_000_987}, "2026-11-03T10:00:00.987000+00:00"),
        (
            {"ts_epoch": None, "ts_event": None, "date": "2026-11-03T11:00:00.104+01:00"},
            "2026-11-03T10:00:00.104000+00:00",
        ),
        ({"ts_epoch": None, "ts_event": None, "date": "2026-11-03T10:00:00Z"}, "2026-11-03T10:00:00+00:00"),
        ({"ts_epoch": None, "ts_event": None, "date": "2026-11-03 11:00:00"}, None),  # of a zone that nobody names
        ({"ts_epoch": True, "ts_event": -1, "date": "2026-11-03T11:00:00"}, None),
    ],
)
def test_the_time_is_read_in_either_unit_and_never_from_a_field_whose_zone_is_unknown(
    times: dict[str, Any], moment: str | None
) -> None:
    (found,) = normalised(event("delivered", ts=1_793_700_000, **times))

    assert (None if found.occurred_at is None else found.occurred_at.isoformat()) == moment


# --- what the sender attached ---


@pytest.mark.parametrize(
    ("custom", "metadata", "reference"),
    [
        ('{"invoice": "INV-4711", "user_id": 43}', {"invoice": "INV-4711", "user_id": "43"}, "INV-4711"),
        ({"invoice": "INV-4711"}, {"invoice": "INV-4711"}, "INV-4711"),
        ("invoice:INV-4711|user_id: 43", {"invoice": "INV-4711", "user_id": "43"}, "INV-4711"),
        ("invoice:INV:4711", {"invoice": "INV:4711"}, "INV:4711"),
        ("some_custom_header", {"X-Mailin-custom": "some_custom_header"}, None),
        ("invoice:INV-4711|and more", {"X-Mailin-custom": "invoice:INV-4711|and more"}, None),
        (":INV-4711", {"X-Mailin-custom": ":INV-4711"}, None),
        ('{"invoice": ', {"X-Mailin-custom": '{"invoice":'}, None),
        ('["INV-4711"]', {"X-Mailin-custom": '["INV-4711"]'}, None),
        (" ", {}, None),
        (17, {}, None),
        (None, {}, None),
    ],
)
def test_the_custom_header_is_read_in_each_form(custom: Any, metadata: dict[str, str], reference: str | None) -> None:
    (found,) = normalised(event("delivered", **{"X-Mailin-custom": custom}))

    assert found.metadata == metadata
    assert found.reference == reference


def test_a_custom_header_of_very_many_names_costs_no_more_than_those_that_are_kept() -> None:
    (found,) = normalised(event("delivered", **{"X-Mailin-custom": "|".join(["a:1"] * 100_000)}))

    assert list(found.metadata) == ["a"]


@pytest.mark.parametrize(
    ("labels", "tags"),
    [
        ({"tags": ["invoice:INV-4712", "b"]}, ("invoice:INV-4712", "b")),
        ({"tags": "invoice:INV-4712"}, ("invoice:INV-4712",)),
        ({"tags": '["invoice:INV-4712"]'}, ("invoice:INV-4712",)),
        ({"tags": None, "tag": '["invoice:INV-4712", "b"]'}, ("invoice:INV-4712", "b")),
        ({"tags": [], "tag": "invoice:INV-4712"}, ("invoice:INV-4712",)),
        ({"tags": ["invoice:INV-4712"], "tag": "another"}, ("invoice:INV-4712",)),
        ({"tags": None, "tag": "[invoice:INV-4712]"}, ("[invoice:INV-4712]",)),
        ({"tags": None, "tag": ""}, ()),
    ],
)
def test_tags_are_read_as_a_list_a_text_and_a_list_in_a_text(labels: dict[str, Any], tags: tuple[str, ...]) -> None:
    (found,) = normalised(event("delivered", **{"X-Mailin-custom": None}, **labels))

    assert found.tags == tags
    assert found.reference == ("INV-4712" if tags and tags[0].startswith("invoice:") else None)


# --- what a person reads ---


@pytest.mark.parametrize(
    ("name", "reason", "advice"),
    [
        ("soft_bounce", "452 4.2.2 The mailbox is full", "mailbox_full"),
        ("soft_bounce", "Unable to find MX of domain custmer.example", "unreachable"),
        ("soft_bounce", "451 4.3.0 Temporary failure, try again later", "put_off_too_long"),
        ("soft_bounce", "554 5.7.1 blocked using zen.spamhaus.org", "blocked"),
        ("soft_bounce", "552 5.3.4 Message size exceeds fixed limit", "message_too_large"),
        ("soft_bounce", None, "refused_this_message"),
        ("hard_bounce", "550 5.1.1 no such user", "no_such_address"),
        (
            "hard_bounce",
            "550 5.7.26 Unauthenticated email is not accepted due to DMARC policy",
            "authentication_refused",
        ),
        ("hard_bounce", "550 5.7.1 Message rejected as spam by content filter", "blocked"),
        ("hard_bounce", None, "refused_address"),
        ("invalid_email", None, "dropped_invalid_address"),
        ("blocked", "blocked : due to blacklist user", "dropped"),
        ("error", "Sending has been rejected because the sender you used is not valid", "dropped"),
        ("deferred", "Unable to find MX of domain custmer.example", "deferred_unreachable"),
        ("proxy_open", None, "accepted_read_by_machine"),
        ("request", "sent", "wait_for_answer"),
        ("delivered", "sent", "accepted"),
    ],
)
def test_the_advice_is_right_for_what_brevo_says(name: str, reason: str | None, advice: str) -> None:
    (found,) = normalised(event(name, reason=reason))
    delivery = fold(None, found).delivery

    assert delivery is not None
    assert advise(delivery, support_contact=None, warn_after_us=0).code == advice
    assert found.reason == (None if reason == "sent" else reason)


def test_a_message_that_brevo_takes_and_then_blocks_is_dropped_in_whatever_order_it_says_so() -> None:
    taken = event("request")
    blocked = {**event("blocked"), "message-id": taken["message-id"]}

    for told in (normalised(taken, blocked), normalised(blocked, taken)):
        delivery = fold(fold(None, told[0]).delivery, told[1]).delivery
        assert delivery is not None
        assert delivery.status is Status.DROPPED
