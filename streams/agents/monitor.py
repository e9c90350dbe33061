"""``mail.deferrals`` -> ``mail.deferral-alerts``: no message stays deferred in silence.

Exactly once for ``read_committed`` readers. The rule itself is ``domain.deferrals``;
this file reads records, applies the rule and writes the result. Open episodes are the
rows of the table ``open-deferrals``; its due index holds the next deadline of each, so
a tick costs as much as is due, not as much as is open, and a restart rebuilds nothing.

Only a tick raises an alert, and its time never runs ahead of what was processed
upstream: catching up raises no false alarm. A provider is *on hold* while one of its
raw partitions is stopped: an event that ends its episodes may be in there, so its
deadlines wait where they are, and are looked at again later (``kafka.walk``).
``MailPartitionStopped`` pages an operator then.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from streams import records
from streams.collectors import Open, OpenDeferrals, slot_of
from streams.domain import deferrals
from streams.domain.deferrals import Alert, Episode
from streams.kafka.batches import Record, Row
from streams.kafka.lanes import Effects
from streams.kafka.store import UNKNOWN_POLICY, Changes, Store
from streams.kafka.walk import Walk
from streams.policies import Held, Policies
from streams.providers import label_of

STAGE = "monitor"
ALERTS_PER_TICK = 2_000
"""Most deadlines that one tick handles; the rest are still due at the next."""
ROWS_PER_SLICE = 2_000
"""Rows read, while a partition opens, before the event loop gets its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """The fold of ``mail.deferrals`` over the table ``open-deferrals``."""

    alerts_topic: str
    policies: Policies
    support_contacts: Mapping[str, str]
    """By account."""
    held: Held
    """Whether a provider is on hold in a partition: its deadlines have to wait."""
    gauges: OpenDeferrals
    _walks: defaultdict[int, Walk] = field(default_factory=lambda: defaultdict(Walk), init=False)
    """By partition."""

    async def opened(self, partition: int, store: Store) -> None:
        """Count the open episodes; if the policies have changed, compute every deadline again.

        The store's note of its policies is reset first and written last. So if the worker dies in between, the next one
        computes all deadlines again, even if it has the old policies.
        """
        digest = self.policies.digest
        anew = store.policy != digest
        if anew:
            store.write(Changes(policy=UNKNOWN_POLICY))
            await _clear_index(store)
        counts: Counter[Open] = Counter()
        due: list[tuple[int, bytes]] = []
        for number, (key, row) in enumerate(store.rows()):
            episode = records.decode_open_deferral(row)
            counts[_open(episode)] += 1
            at = self._next_due(episode) if anew else None
            if at is not None:
                due.append((at, key))
            if number % ROWS_PER_SLICE == ROWS_PER_SLICE - 1:
                if anew:
                    store.write(Changes(due_added=due))
                    due = []
                await asyncio.sleep(0)
        if anew:
            store.write(Changes(due_added=due, policy=digest))
        self.gauges.load(partition, counts)

    def closed(self, partition: int) -> None:
        """Remove the partition from the gauges."""
        self.gauges.forget(partition)
        self._walks.pop(partition, None)

    def due_of(self, row: bytes) -> int | None:
        """Return the next deadline of a row (µs), or None."""
        return self._next_due(records.decode_open_deferral(row))

    def record(self, record: Record, partition: int, get: Callable[[bytes], bytes | None], effects: Effects) -> None:
        """Take in what ``track`` reports about a delivery.

        Raises:
            RecordError: it is not such a record, or its key is missing.
        """
        deferral = records.decode_deferral(record.value)
        key = records.delivery_key(record.key)
        row = get(key)
        before = None if row is None else records.decode_open_deferral(row)
        after, alerts = deferrals.observe(before, deferral, self.policies(deferral.account, deferral.provider))
        # by the record's time, and not by that of the event, which may be older than the alerts are kept
        rows = [self._row_of(key, alert, record.timestamp) for alert in alerts]
        encoded = None if after is None else records.encode_open_deferral(after)
        # From here on nothing can fail, so that a poison record leaves no trace.
        if encoded != row:
            self._replace(key, before, after, encoded, effects)
        self._publish(partition, alerts, rows, effects)

    def tick(self, now: int, partition: int, store: Store, effects: Effects) -> None:
        """Raise the alerts that are due.

        An entry of the index can be stale: a restore adds an entry for each version of a row.
        """
        walk = self._walks[partition]
        for due, key in walk.piece(store.due, now, ALERTS_PER_TICK):
            row = store.get(key)
            if row is None or key in effects.rows:
                effects.due_removed.append((due, key))
                continue
            before = records.decode_open_deferral(row)
            if self.held(before.provider, partition):
                walk.wait()
                continue
            effects.due_removed.append((due, key))
            after, alerts = deferrals.elapse(before, now, self.policies(before.account, before.provider))
            if not alerts or after is None:
                at = self._next_due(before)
                if at is not None and at > due:
                    effects.due_added.append((at, key))  # the entry was too early; the index may lack this one
                continue
            self._replace(key, before, after, records.encode_open_deferral(after), effects)
            self._publish(
                partition, alerts, [self._row_of(key, alert, alert.due_at // 1000) for alert in alerts], effects
            )

    def _replace(
        self, key: bytes, before: Episode | None, after: Episode | None, row: bytes | None, effects: Effects
    ) -> None:
        """Replace a row in the table, in the due index and in the gauges."""
        effects.rows[key] = row
        due_before = due_after = None
        if before is not None:
            effects.counts["open_deferrals", *_open(before)] -= 1
            due_before = self._next_due(before)
        if after is not None:
            effects.counts["open_deferrals", *_open(after)] += 1
            due_after = self._next_due(after)
        if due_before == due_after:
            return
        if due_before is not None:
            effects.due_removed.append((due_before, key))
        if due_after is not None:
            effects.due_added.append((due_after, key))

    def _publish(self, partition: int, alerts: Sequence[Alert], rows: Sequence[Row], effects: Effects) -> None:
        for alert, row in zip(alerts, rows, strict=True):
            effects.emit(self.alerts_topic, partition, row)
            effects.counts["alerts", alert.episode.provider, alert.level, records.alert_action(alert)] += 1

    def _row_of(self, key: bytes, alert: Alert, timestamp_ms: int) -> Row:
        support_contact = self.support_contacts.get(alert.episode.account)
        return Row(key, records.encode_alert(alert, support_contact=support_contact), timestamp_ms)

    def _next_due(self, episode: Episode) -> int | None:
        return deferrals.next_due(episode, self.policies(episode.account, episode.provider))


async def _clear_index(store: Store) -> None:
    entries = store.due_entries()
    while removed := list(islice(entries, ROWS_PER_SLICE)):
        store.write(Changes(due_removed=removed))
        await asyncio.sleep(0)


def _open(episode: Episode) -> Open:
    """Return the key under which the metrics count an open episode."""
    return (
        label_of(episode.provider),
        episode.destination,
        deferrals.level_of(episode.told) or "",
        slot_of(episode.since),
    )
