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
