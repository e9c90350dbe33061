"""``mail.events`` -> ``mail.status-changed`` and ``mail.status``: keep facts, derive a status, publish changes.

Exactly once for ``read_committed`` readers. The rule itself is ``domain.status.fold``;
this file reads records, applies the rule and writes the result. What concerns a
deferral goes to ``mail.deferrals`` too, for the monitor.

A tick does two things. It expires deliveries that had no event for a long time:
their row, and their record in ``mail.status``, become tombstones. And it counts
those that were not delivered in time (``domain.objective``).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streams import records
from streams.domain import deferrals, objective, status
from streams.domain.destinations import destination_of
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.reasons import classify
from streams.domain.status import SECOND, Delivery, Folded, Kind, Outcome, Status
from streams.kafka.batches import Record, Row
from streams.kafka.lanes import Effects
from streams.kafka.store import Store
from streams.kafka.walk import Walk
from streams.policies import Held, Policies

STAGE = "track"
EXPIRED_PER_TICK = 500
"""Bounds the work of one tick; the rest is still due at the next."""
WATCHED_PER_TICK = 5_000
"""The same; nearly all of them were delivered long ago, and the head of the row shows that."""

_ARRIVED = frozenset({Status.DELIVERED, Status.OPENED})

_News = tuple[bytes | None, bytes | None, bytes | None, objective.Judged | None]
"""A row, the values for ``mail.status`` and ``mail.deferrals``, a judgement; each is None if there is nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """The fold of ``mail.events`` over the table ``deliveries``."""

    status_changed_topic: str
    status_topic: str
    deferrals_topic: str
    support_contacts: Mapping[str, str]
    """By account."""
    policies: Policies
    """The advice of a deferral names the time from which the monitor will raise it."""
    expire_after_us: int
    objective_us: int
    held: Held
    """Whether a provider is on hold in a partition: a missing event proves nothing, as it may be in the stopped partition."""
    _expiries: defaultdict[int, Walk] = field(default_factory=lambda: defaultdict(Walk), init=False)
    """By partition; so are the next."""
    _watches: defaultdict[int, Walk] = field(default_factory=lambda: defaultdict(Walk), init=False)

    async def opened(self, partition: int, store: Store) -> None:
        """Nothing to prepare."""

    def closed(self, partition: int) -> None:
        """Forget how far its ticks have come."""
        self._expiries.pop(partition, None)
        self._watches.pop(partition, None)

    def record(self, record: Record, partition: int, get: Callable[[bytes], bytes | None], effects: Effects) -> None:
        """Fold one event into its delivery.

        Raises:
            RecordError: it is no event, or its key is missing.
        """
        event = records.decode_event(record.value)
        key = records.delivery_key(record.key)
        row = get(key)
        delivery = None if row is None else records.decode_row(row)
        folded = status.fold(delivery, event, delivery_id=key.decode("ascii"))
        new_row, status_value, deferral, judged = self._news(delivery, folded, event.type)
        # From here on nothing can fail, so that a poison record leaves no trace.
        after = folded.delivery
        if after is not None and new_row is not None:
            effects.rows[key] = new_row
            if row is None:
                effects.due_added.append((after.last_received_at, key))
            if after.watch_at is not None and (delivery is None or after.watch_at != delivery.watch_at):
                effects.watch_added.append((after.watch_at, key))
        if after is not None and status_value is not None:
            shown = Row(key, status_value, record.timestamp)
            if folded.changed:
                effects.emit(self.status_changed_topic, partition, shown)
                _count_change(delivery, after, effects)
            effects.emit(self.status_topic, partition, shown)
        if deferral is not None:
            effects.emit(self.deferrals_topic, partition, Row(key, deferral, record.timestamp))
        if after is not None and judged is not None:
            _count(judged, after, effects)
        _count_event(event, folded, effects)

    def _news(self, before: Delivery | None, folded: Folded, type_: EventType) -> _News:
        """Return what to write about a delivery after an event; everything that can fail happens here."""
        after = folded.delivery
        if after is None or after is before:
            return None, None, None, None
        judged = objective.judge(before, after, self.objective_us)
        status_value = deferral = None
        if folded.changed or folded.refreshed:
            status_value = records.encode_status(
                after,
                support_contact=self.support_contacts.get(after.account),
                warn_after_us=self.policies(after.account, after.provider).warn_after,
            )
        if Kind.DEFERRED in after.facts and deferrals.is_news(before, folded, type_):
            attempt = type_ is EventType.DEFERRED and folded.outcome is Outcome.APPLIED
            deferral = records.encode_deferral(after, attempt=attempt)
        return records.encode_row(after), status_value, deferral, judged

    def tick(self, now: int, partition: int, store: Store, effects: Effects) -> None:
        """Expire old deliveries, and count late ones."""
        self._expire(now - self.expire_after_us, partition, store, effects)
        self._watch(now, partition, store, effects)

    def _expire(self, until: int, partition: int, store: Store, effects: Effects) -> None:
        """Forget deliveries whose last event was at ``until`` or before.

        The due index holds the time of some earlier event: if a later one came since, the entry moves to that time. If
        the provider is on hold, the entry waits: the delivery's next event may be in the backlog.

        Of one that was ever deferred the monitor is told once more how it stands: it may not have got the end, because
        retention was quicker, and nothing else would close the deferral.
        """
        walk = self._expiries[partition]
        for due, key in walk.piece(store.due, until, EXPIRED_PER_TICK):
            row = store.get(key)
            if row is None or key in effects.rows:  # a restore adds an entry for each version of a row
                effects.due_removed.append((due, key))
                continue
            last_event_at = records.due_of_row(row)
            if last_event_at > until:
                effects.due_removed.append((due, key))
                effects.due_added.append((last_event_at, key))
                continue
            delivery = records.decode_row(row)
            if self.held(delivery.provider, partition):
                walk.wait()
                continue
            effects.due_removed.append((due, key))
            effects.rows[key] = None
            expired_at = last_event_at + self.expire_after_us
            effects.emit(self.status_topic, partition, Row(key, None, expired_at // 1000))
            effects.counts["expired",] += 1
            if Kind.DEFERRED in delivery.facts:
                last = (
                    records.encode_forgotten(delivery, expired_at)
                    if delivery.status is Status.DEFERRED
                    else records.encode_deferral(delivery, attempt=False)
                )
                effects.emit(self.deferrals_topic, partition, Row(key, last, expired_at // 1000))

    def _watch(self, now: int, partition: int, store: Store, effects: Effects) -> None:
        """Look at the deliveries that are due. Most were judged long ago; the row's head shows it without decoding."""
        walk = self._watches[partition]
        for due, key in walk.piece(store.watched, now, WATCHED_PER_TICK):
            row = store.get(key)
            watch_at = None if row is None or key in effects.rows else records.watch_of_row(row)
            # below `due`: an older version moved the entry while its provider was on hold
            if row is None or watch_at is None or watch_at > due:
                effects.watch_removed.append((due, key))
                continue
            delivery = records.decode_row(row)
            if self.held(delivery.provider, partition):
                walk.wait()
                continue
            effects.watch_removed.append((due, key))
            watched = objective.watch(delivery, self.objective_us)
            effects.rows[key] = records.encode_row(delivery)
            if delivery.watch_at is not None:
                effects.watch_added.append((delivery.watch_at, key))
            if watched.judgement is not None:
                effects.counts["objective", delivery.provider, watched.judgement] += 1
            if watched.without_word:
                effects.counts["without_word", delivery.provider] += 1


def _count_change(before: Delivery | None, after: Delivery, effects: Effects) -> None:
    destination = destination_of(after.recipient[2])
    effects.counts["changes", after.provider, destination, after.status] += 1
    if after.status in _ARRIVED and (before is None or before.status not in _ARRIVED):
        effects.counts["arrivals", after.provider, destination] += 1


def _count_event(event: DeliveryEvent, folded: Folded, effects: Effects) -> None:
    effects.counts["events", event.provider, event.type, folded.outcome] += 1
    if folded.clock_skewed:
        effects.counts["clock_skew", event.provider] += 1
    if event.type is EventType.DEFERRED and folded.outcome is Outcome.APPLIED:
        # Not counted in the monitor, which knows only the last answer: an attempt may come late.
        class_ = classify(event.reason, event.smtp_code, event.enhanced_code)
        effects.counts["deferrals", event.provider, destination_of(event.recipient), class_] += 1


def _count(judged: objective.Judged, delivery: Delivery, effects: Effects) -> None:
    if judged.judgement is not None:
        effects.counts["objective", delivery.provider, judged.judgement] += 1
    if judged.took is not None:
        destination = destination_of(delivery.recipient[2])
        effects.observe(judged.took / SECOND, "time_to_deliver", delivery.provider, destination)
