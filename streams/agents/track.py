"""``mail.events`` -> ``mail.status-changed`` and ``mail.status``: facts are kept, a status is derived, changes are told.

Exactly once for ``read_committed`` readers. The rule itself is
``domain.status.fold``; here it is read, applied and written.

A tick expires deliveries that had no event for a long time: their row, and their
record in ``mail.status``, become tombstones.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from faust.streams import Stream
from faust.types import StreamT

from streams import records
from streams.domain import status
from streams.kafka.batches import Batch, Record, Row
from streams.kafka.lanes import Effects, Lanes
from streams.kafka.store import Store

STAGE = "track"
EXPIRED_PER_TICK = 500
"""Bounds the work of one tick; what is left falls due again at the next."""


def agent(lanes: Lanes) -> Callable[[StreamT[Any]], Awaitable[None]]:
    """Return the agent: it hands each batch to its partition's lane, which acknowledges it when it took effect."""

    async def track(stream: StreamT[Any]) -> None:
        async for event in cast("Stream[Batch]", stream).noack().events():
            lanes.take(event)

    return track


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """The fold of ``mail.events`` over the table ``deliveries``."""

    status_changed_topic: str
    status_topic: str
    support_contacts: Mapping[str, str]
    """By account."""
    warn_after_us: int
    expire_after_us: int

    def record(self, record: Record, partition: int, get: Callable[[bytes], bytes | None], effects: Effects) -> None:
        """Fold one event into its delivery.

        Raises:
            RecordError: it is no event, or its key is missing.
        """
        event = records.decode_event(record.value)
        if record.key is None:
            message = "the key, the delivery id, is missing"
            raise records.RecordError(message)
        key = record.key
        row = get(key)
        delivery = None if row is None else records.decode_row(row)
        folded = status.fold(delivery, event, delivery_id=key.decode("ascii"))
        after = folded.delivery
        told = None
        if after is not None and (folded.changed or folded.shown):
            told = records.encode_status(
                after,
                support_contact=self.support_contacts.get(after.account),
                warn_after_us=self.warn_after_us,
            )
        encoded = None if after is None or after is delivery else records.encode_row(after)
        # From here on nothing can fail, so that a poison record leaves no trace.
        if encoded is not None and after is not None:
            effects.rows[key] = encoded
            if row is None:
                effects.due_added.append((after.last_received_at, key))
        if told is not None:
            shown = Row(key, told, record.timestamp)
            if folded.changed:
                effects.emit(self.status_changed_topic, partition, shown)
                assert after is not None
                effects.count("changes", after.provider, after.status)
            effects.emit(self.status_topic, partition, shown)
        effects.count("events", event.provider, event.type, folded.outcome)
        if folded.clock_skewed:
            effects.count("clock_skew", event.provider)

    def tick(self, now: int, partition: int, store: Store, effects: Effects) -> None:
        """Expire what had no event for ``expire_after_us``.

        The due index holds the time of some earlier event: a delivery that had a later one moves on in the index.
        """
        until = now - self.expire_after_us
        for due, key in store.due(until, EXPIRED_PER_TICK):
            effects.due_removed.append((due, key))
            row = store.get(key)
            if row is None or key in effects.rows:  # a restore enters a row once for each version of it
                continue
            last_event_at = records.due_of_row(row)
            if last_event_at > until:
                effects.due_added.append((last_event_at, key))
                continue
            effects.rows[key] = None
            timestamp_ms = (last_event_at + self.expire_after_us) // 1000
            effects.emit(self.status_topic, partition, Row(key, None, timestamp_ms))
            effects.count("expired")
