"""``mail.sends`` becomes sent events; on the real fold, they give providers that report no sent theirs."""

import json
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from streams import records
from streams.agents.sends import Sends, event_of
from streams.domain.events import DeliveryEvent, EventType, Send
from streams.domain.status import Delivery, Status, fold
from streams.kafka.batches import Record
from streams.kafka.lanes import Effects
from streams.kafka.partitioner import partition_of
from streams.providers import PROVIDERS, WebhookRequest
from tests.test_sends_record import sends

RECEIVED_MS = 1_793_700_004_500
RECEIVED = datetime.fromtimestamp(RECEIVED_MS / 1000, UTC)
MESSAGE = "883953f4-6105-42a2-a16a-77a8eac79483"
ADDRESS = "ann@customer.example"
FOLD = Sends(events_topic="mail.events", events_partitions=7)


def record(value: bytes | None, *, key: bytes | None = None) -> Record:
    return ConsumerRecord("mail.sends", 2, 41, RECEIVED_MS, 1, key, value, None, len(key or b""), len(value or b""), ())


def folded(value: bytes | None, *, key: bytes | None = None) -> Effects:
    effects = Effects()
    FOLD(record(value, key=key), effects)
    return effects


def told(**changes: Any) -> Send:
    values: dict[str, Any] = {
        "account": "billing",
        "provider": "postmark",
        "message_id": MESSAGE,
        "recipient": ADDRESS,
        "reference": "INV-4711",
        "sent_at": datetime(2026, 11, 3, 10, tzinfo=UTC),
    }
    return Send(**(values | changes))


def delivered_by_postmark() -> list[DeliveryEvent]:
    body = {
        "RecordType": "Delivery",
        "MessageID": MESSAGE,
        "Recipient": "Ann@Customer.example",
        "DeliveredAt": "2026-11-03T10:00:04Z",
        "Details": "smtp;250 2.0.0 OK",
    }
    request = WebhookRequest(json.dumps(body).encode(), {}, "", "billing", RECEIVED)
    return PROVIDERS["postmark"].normalise(request)


def fold_all(events: list[DeliveryEvent]) -> Delivery:
    delivery: Delivery | None = None
    for event in events:
        delivery = fold(delivery, event).delivery
    assert delivery is not None
    return delivery


@given(sends, st.none() | st.binary())
def test_each_send_becomes_one_sent_event_in_the_partition_of_its_delivery_whatever_its_own_key(
    send: Send, key: bytes | None
) -> None:
    effects = folded(records.encode_send(send), key=key)

    ((target, [row]),) = effects.outputs.items()
    assert target == ("mail.events", partition_of(send.delivery_id.encode(), 7))
    assert (row.key, row.timestamp_ms) == (send.delivery_id.encode(), RECEIVED_MS)
    assert row.value is not None
    event = records.decode_event(row.value)
    assert (event.type, event.delivery_id, event.event_id) == (EventType.SENT, send.delivery_id, send.event_id)
    assert (event.reference, event.received_at) == (send.reference, RECEIVED)
    assert json.loads(row.value)["source"] == "mail.sends/2/41"


def test_the_same_record_gives_the_same_bytes() -> None:
    value = records.encode_send(told())

    assert folded(value).outputs == folded(value).outputs


def test_without_a_time_of_its_own_it_happened_when_it_was_received() -> None:
    assert event_of(told(sent_at=None), received_at=RECEIVED).occurred_at == RECEIVED
    assert event_of(told(), received_at=RECEIVED).occurred_at == told().sent_at


@pytest.mark.parametrize("value", [None, b"{}", b"not json", b'{"account": "a", "provider": "nobody"}'])
def test_what_cannot_be_understood_is_poison_and_has_no_effect(value: bytes | None) -> None:
    effects = Effects()
    with pytest.raises(records.RecordError):
        FOLD(record(value), effects)
    assert effects == Effects()


def test_a_provider_that_reports_no_sent_gets_it_and_the_reference_from_the_send() -> None:
    (delivery,) = delivered_by_postmark()
    assert delivery.reference is None

    begun = fold(None, event_of(told(), received_at=RECEIVED))
    assert begun.delivery is not None
    assert (begun.delivery.status, begun.changed) == (Status.SENT, True)

    after = fold(begun.delivery, delivery)
    assert after.delivery is not None
    shown = records.decode_status(records.encode_status(after.delivery, support_contact=None, warn_after_us=1))
    assert (shown["status"], shown["previous"], shown["reference"]) == ("delivered", "sent", "INV-4711")


def test_a_send_told_after_the_delivery_shows_its_reference_and_changes_no_status() -> None:
    (delivery,) = delivered_by_postmark()
    before = fold(None, delivery).delivery

    late = fold(before, event_of(told(), received_at=RECEIVED))

    assert late.delivery is not None
    assert (late.delivery.status, late.changed, late.refreshed) == (Status.DELIVERED, False, True)
    assert late.delivery.reference is not None
    assert late.delivery.reference[2] == "INV-4711"


def test_in_every_order_and_told_twice_it_comes_to_the_same() -> None:
    send = event_of(told(), received_at=RECEIVED)
    events = [send, send, *delivered_by_postmark()]

    results = [fold_all(list(order)) for order in permutations(events)]

    assert {(one.status, one.reference and one.reference[2]) for one in results} == {(Status.DELIVERED, "INV-4711")}
    assert all(one.facts == results[0].facts for one in results)


@pytest.mark.parametrize("sent_at", [datetime(2026, 11, 3, 10, 0, 1, tzinfo=UTC), None], ids=["later", "none"])
def test_a_reference_told_anew_at_a_later_time_or_without_one_replaces_the_old_one(sent_at: datetime | None) -> None:
    first = event_of(told(), received_at=RECEIVED)
    second = event_of(told(reference="INV-4712", sent_at=sent_at), received_at=RECEIVED)

    for order in permutations([first, second]):
        delivery = fold_all(list(order))
        assert delivery.reference is not None
        assert delivery.reference[2] == "INV-4712"
