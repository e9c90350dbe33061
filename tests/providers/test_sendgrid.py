"""What only SendGrid has: message ids with a tail, and arguments between its own fields."""

import json
from typing import Any

import pytest

from streams.domain.events import BounceKind, DeliveryEvent, EventType
from tests.providers.cases import outcome


def event(**fields: Any) -> DeliveryEvent:
    element = {
        "event": "delivered",
        "email": "ann@customer.example",
        "sg_message_id": "m.filter1",
        "timestamp": 1793620000,
    }
    (found,) = outcome("sendgrid", json.dumps([{**element, **fields}]).encode()).events
    return found


@pytest.mark.parametrize(
    ("given", "header", "message_id"),
    [
        (
            "IWe-stDXSP-9ybMzJVc_PA.filterdrecv-p3iad2-5b55dcd864-pbk2w-17-5EF98383-10E.0",
            None,
            "IWe-stDXSP-9ybMzJVc_PA",
        ),
        ("euo2iKxdSayPF4YE4--I7A.recvd-5f54b5d587-pczjm-1-67BADEEA-6.0", None, "euo2iKxdSayPF4YE4--I7A"),
        ("14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0", None, "14c5d75ce93.dfd.64b469"),
        ("IWe-stDXSP-9ybMzJVc_PA.another-machine-1.0", None, "IWe-stDXSP-9ybMzJVc_PA"),
        ("sg_message_id", None, "sg_message_id"),
        ("", "<IWe-stDXSP-9ybMzJVc_PA@geopod-ismtpd-1-0>", "IWe-stDXSP-9ybMzJVc_PA"),
        (None, "<14c5d75ce93.dfd.64b469@ismtpd-555>", "14c5d75ce93.dfd.64b469"),
        (None, "<invoice-4711@sender.example>", "invoice-4711@sender.example"),
    ],
)
def test_the_message_id_is_the_one_that_the_api_returned(
    given: str | None, header: str | None, message_id: str
) -> None:
    assert event(sg_message_id=given, **{"smtp-id": header}).message_id == message_id


def test_a_long_id_is_cut_and_stays_distinct() -> None:
    first, second = (event(sg_event_id="x" * 600 + tail).event_id for tail in "ab")

    assert len(first) == len(second) == 512
    assert first != second


def test_only_the_first_32_arguments_in_the_order_of_their_names_are_kept() -> None:
    arguments = {f"key{n:03d}": n for n in range(100)}

    found = event(**dict(reversed(arguments.items())), invoice="INV-4711")

    assert sorted(found.metadata) == sorted([*arguments, "invoice"])[:32]
    assert found.reference == "INV-4711"


def test_the_first_reference_key_wins() -> None:
    assert event(invoice_id="second", invoice="first", reference=" ").reference == "first"


def test_an_argument_named_type_does_not_touch_other_events() -> None:
    assert event(type="invoice").provider_event == "delivered"


@pytest.mark.parametrize(
    ("classification", "kind"),
    [
        ("Invalid Address", BounceKind.HARD),
        ("TECHNICAL", BounceKind.SOFT),
        ("Technical Failure", BounceKind.SOFT),
        ("mailbox unavailable", BounceKind.SOFT),
        ("Content", BounceKind.BLOCK),
        ("Reputation", BounceKind.BLOCK),
        ("Frequency/Volume", BounceKind.BLOCK),
        ("Frequency or Volume Too High", BounceKind.BLOCK),
        ("Unclassified", BounceKind.BLOCK),
        (["Content"], BounceKind.BLOCK),
    ],
)
def test_a_classification_refines_a_block(classification: Any, kind: BounceKind) -> None:
    assert event(event="bounce", type="blocked", bounce_classification=classification).bounce_kind is kind


@pytest.mark.parametrize("moment", [0, -5, 10**40, 1e300, True, None, "x", "nan", "inf", [], {}, 253402300800])
def test_a_time_that_is_none_leaves_the_time_unknown(moment: Any) -> None:
    found = event(timestamp=moment)

    assert (found.type, found.occurred_at) == (EventType.DELIVERED, None)


def test_an_address_is_taken_out_of_its_display_name() -> None:
    assert event(email="Ann Example <ann@customer.example>").recipient == "ann@customer.example"


@pytest.mark.parametrize("bounce_type", ["bounce", "bounced", "Bounce"])
def test_what_sendgrid_put_on_its_bounce_list_is_hard_whatever_the_answer_and_the_classification(
    bounce_type: str,
) -> None:
    found = event(event="bounce", type=bounce_type, reason="552 5.2.2 Mailbox full", bounce_classification="Reputation")

    assert found.bounce_kind is BounceKind.HARD


@pytest.mark.parametrize(
    ("classification", "kind"),
    [
        ("Invalid Address", BounceKind.HARD),
        ("Technical", BounceKind.SOFT),
        ("Technical Failure", BounceKind.SOFT),
        ("Mailbox Unavailable", BounceKind.SOFT),
        ("Content", BounceKind.BLOCK),
        ("Reputation", BounceKind.BLOCK),
        ("Frequency/Volume", BounceKind.BLOCK),
        ("Frequency or Volume Too High", BounceKind.BLOCK),
        ("Unclassified", BounceKind.HARD),
    ],
)
def test_without_a_type_the_classification_says_more_than_that_it_is_permanent(
    classification: str, kind: BounceKind
) -> None:
    assert event(event="bounce", reason="rejected", bounce_classification=classification).bounce_kind is kind


@pytest.mark.parametrize("by_machine", [True, "true", "True"], ids=repr)
def test_an_open_that_sendgrid_calls_a_machines_is_no_persons_in_whatever_form_it_says_so(by_machine: Any) -> None:
    found = event(event="open", sg_machine_open=by_machine)

    assert (found.type, found.machine) == (EventType.MACHINE_OPEN, True)
    assert event(event="open", sg_machine_open=False).type is EventType.OPEN


@pytest.mark.parametrize(
    ("reason", "suppression_list"),
    [
        ("Dropped, as it is a Bounced Address.", "bounce"),
        ("Spam Reporting Address (2026-10-01)", "spam"),
        (" unsubscribed address ", "unsubscribe"),
        ("Invalid", "invalid"),
        ("Invalid SMTPAPI header", None),
    ],
)
def test_the_list_that_made_sendgrid_drop_a_message_is_known_by_its_words_within_others(
    reason: str, suppression_list: str | None
) -> None:
    found = event(event="dropped", reason=reason)

    assert (found.type, found.suppression_list) == (EventType.DROPPED, suppression_list)


@pytest.mark.parametrize("key", ["unique_args", "custom_args"])
def test_a_reference_is_found_also_where_the_arguments_are_an_object_of_their_own(key: str) -> None:
    assert event(**{key: {"invoice": "INV-4711"}}).reference == "INV-4711"
