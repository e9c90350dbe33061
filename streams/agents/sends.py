"""``mail.sends`` -> ``mail.events``: what the application says it sent becomes a ``sent`` event.

Stateless, and at least once, like ``normalise``: the event's id is a fingerprint,
so a repeated report counts once. The event gives ``sent`` to the deliveries of
providers that never report it, and the reference to those whose events lack it.
It may come before or after the provider's own events.
"""

from dataclasses import dataclass
from datetime import datetime

from streams import records
from streams.domain.events import DeliveryEvent, EventType, Send
from streams.domain.status import from_micros
from streams.kafka.batches import Record, Row
from streams.kafka.lanes import Effects
from streams.kafka.partitioner import partition_of

STAGE = "sends"
PROVIDER_EVENT = "mail.sends"
"""The event's ``provider_event``: the application reported it, not a provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sends:
    """The fold of ``mail.sends``."""

    events_topic: str
    events_partitions: int

    def __call__(self, record: Record, effects: Effects) -> None:
        """Turn one report into one event.

        Raises:
            RecordError: it can never be understood.
        """
        event = event_of(records.decode_send(record.value), received_at=from_micros(record.timestamp * 1_000))
        delivery_id = event.delivery_id
        source = f"{record.topic}/{record.partition}/{record.offset}"
        value = records.encode_event(event, source, delivery_id=delivery_id)
        # The application may have chosen another key, or none: the partition is computed from the delivery id.
        key = delivery_id.encode()
        effects.emit(self.events_topic, partition_of(key, self.events_partitions), Row(key, value, record.timestamp))


def event_of(send: Send, *, received_at: datetime) -> DeliveryEvent:
    """Return the event of a send; without a time of its own, its time is that of receipt."""
    return DeliveryEvent(
        event_id=send.event_id,
        provider=send.provider,
        account=send.account,
        message_id=send.message_id,
        recipient=send.recipient,
        type=EventType.SENT,
        received_at=received_at,
        occurred_at=received_at if send.sent_at is None else send.sent_at,
        reference=send.reference,
        tags=send.tags,
        metadata=send.metadata,
        provider_event=PROVIDER_EVENT,
    )
