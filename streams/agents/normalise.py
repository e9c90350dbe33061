"""``mail.raw.<provider>`` -> ``mail.events``: a provider's words become delivery events.

Stateless, and at least once: the next stage recognises a repeated event by its id.
One request can hold many events; a bad one among them goes to the dead letters
alone. If many are bad, the whole request goes there once: so the cost of one record
is bounded, whatever it holds.

The time of receipt is the ingress', unless its clock must be wrong: see ``_received``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streams import records
from streams.domain.events import DeliveryEvent
from streams.domain.status import believable, from_micros, to_micros
from streams.kafka.batches import Record, Row
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.lanes import Effects, PartlyBadError
from streams.kafka.partitioner import partition_of
from streams.providers import BadElement, PoisonError, Provider

STAGE = "normalise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise:
    """The fold of one provider's raw topic."""

    provider: Provider
    reference_keys: Sequence[str]
    events_topic: str
    events_partitions: int
    dead_letters: DeadLetters

    def __call__(self, record: Record, effects: Effects) -> None:
        """Turn one request into events.

        Raises:
            RecordError, PoisonError: the request can never be understood.
            PartlyBadError: a part of it can be.
        """
        request = records.decode_raw(record.value, record.headers, reference_keys=self.reference_keys)
        whole: Exception | None = None  # why all of it is kept; a replay repeats good events, known by their ids
        bad: Sequence[BadElement] = ()
        try:
            events: Sequence[DeliveryEvent] = self.provider.normalise(request)
        except PoisonError as error:
            if not error.bad and not error.events:
                raise
            events, bad = error.events, error.bad
            if not bad:
                whole = error
        source = f"{record.topic}/{record.partition}/{record.offset}"
        appended_at = record.timestamp * 1_000
        rows: list[tuple[int, Row]] = []
        for given in events:
            event = _received(given, appended_at)
            delivery_id = event.delivery_id
            try:
                value = records.encode_event(event, source, delivery_id=delivery_id)
            except records.RecordError as error:
                whole = whole or error  # which element it was is no longer known
                continue
            key = delivery_id.encode()
            rows.append((partition_of(key, self.events_partitions), Row(key, value, record.timestamp)))
        if whole is not None:
            letters = [self.dead_letters.of_record(record, STAGE, whole)]
            raise PartlyBadError(str(whole), apply=lambda effects: self._emit(rows, letters, effects))
        if bad:
            letters = [self.dead_letters.of_element(record, STAGE, it.data, it.reason, it.index) for it in bad]
            raise PartlyBadError(bad[0].reason, apply=lambda effects: self._emit(rows, letters, effects))
        self._emit(rows, [], effects)

    def _emit(self, rows: list[tuple[int, Row]], letters: list[tuple[int, Row]], effects: Effects) -> None:
        for partition, row in rows:
            effects.emit(self.events_topic, partition, row)
        for partition, row in letters:
            effects.emit(self.dead_letters.topic, partition, row)
        effects.counts["requests", self.provider.name] += 1
        if letters:
            effects.counts["dead_letters", STAGE] += len(letters)


def _received(event: DeliveryEvent, appended_at: int) -> DeliveryEvent:
    """Return the event, received at the broker's time if only by that its own time is believable, and it is the nearer.

    An ingress whose clock is six minutes slow would have each event come from the future, and one that boots in the past
    would have its deliveries expire at once. The broker's time alone decides nothing: a replay is appended days after its
    receipt. Its events' times fit that receipt, or are nearer to it, as where the provider's clock is six minutes fast.

    Args:
        event: As the provider's file made it.
        appended_at: When the broker appended the record (µs).
    """
    at = event.occurred_at
    if at is None or at.tzinfo is None:  # the encoder refuses a time without a zone
        return event
    occurred_at, received_at = to_micros(at), to_micros(event.received_at)
    if believable(occurred_at, received_at) is not None or believable(occurred_at, appended_at) is None:
        return event
    if abs(occurred_at - appended_at) >= abs(occurred_at - received_at):
        return event
    return replace(event, received_at=from_micros(appended_at))
