"""``track`` and ``monitor`` of one partition without Kafka: real folds, real stores, changelogs as lists."""

import itertools
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from streams import records
from streams.agents.monitor import Monitor
from streams.agents.track import Track
from streams.collectors import Open, OpenDeferrals, slot_of
from streams.domain.deferrals import Episode, Policy, level_of, next_due
from streams.domain.events import DeliveryEvent
from streams.kafka.batches import Record, Row
from streams.kafka.lanes import Count, Effects
from streams.kafka.store import Budget, Changes, Store, open_store
from streams.kafka.stores import Stores, Table
from streams.policies import Policies
from streams.providers import PROVIDERS
from tests.domain.deferrals import POLICY
from tests.kafka.fakes import record

ALERTS, DEFERRALS = "mail.deferral-alerts", "mail.deferrals"
PARTITION = 2
DAY_US = 86_400_000_000
FOR_EVER = (1 << 63) - 1
TRACK = Track(
    status_changed_topic="mail.status-changed",
    status_topic="mail.status",
    deferrals_topic=DEFERRALS,
    support_contacts={},
    policies=Policies(default={}, other=POLICY),
    held=lambda _provider, _partition: False,
    expire_after_us=90 * DAY_US,
    objective_us=900_000_000,
)
BUDGET = Budget(cache_bytes=1 << 20, write_buffer_bytes=1 << 20)


def policies_of(policy: Policy, **more: Any) -> Policies:
    return Policies(default=dict.fromkeys(PROVIDERS, policy), other=policy, **more)


@dataclass
class Partition:
    """The monitor of one partition: what it wrote, and its store. Batches are committed as a lane does."""

    folder: Path
    policies: Policies = field(default_factory=lambda: policies_of(POLICY))
    alerts: list[Row] = field(default_factory=list)
    changelog: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    waiting: list[Record] = field(default_factory=list)
    """Records of ``mail.deferrals`` that the monitor has not read."""
    held: set[str] = field(default_factory=set)
    opens: bool = True
    """The partition is opened at once; else by ``open``."""
    visitor: Policies | None = None
    """Who has the partition first after a death, with other policies, and dies while it prepares."""
    counted: Counter[Count] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.deliveries: dict[bytes, bytes | None] = {}
        self._offsets = itertools.count()
        self._copies = itertools.count()
        self._start(next(self._copies))

    # -- the process ----------------------------------------------------------------------------------------------

    def _start(self, copy: int) -> None:
        self._path = self.folder / f"open-deferrals-{copy}"
        self.store: Store = open_store(self._path, BUDGET, on_rebuild=pytest.fail)
        self.gauges = OpenDeferrals(
            "mailstreams", ("raised", "escalated", "overdue"), CollectorRegistry(), given_up="overdue"
        )
        self.monitor = Monitor(
            alerts_topic=ALERTS,
            policies=self.policies,
            support_contacts={"main": "the support desk"},
            held=lambda provider, _partition: provider in self.held,
            gauges=self.gauges,
        )
        self._restore()
        if self.opens:
            self.open()

    def open(self) -> None:
        """Prepare the partition, as its lane does before the first batch."""
        _run(self.monitor.opened(PARTITION, self.store))

    def _restore(self) -> None:
        """Read what the store lacks, in pieces, as a restart does."""
        table = Table(
            name="open-deferrals",
            changelog_topic="changelog",
            due_of=self.monitor.due_of,
            watch_of=lambda _: None,
            policy=self.policies.digest,
        )
        lacking = range(self.store.changelog_offset or 0, len(self.changelog))
        for piece in (lacking[n : n + 3] for n in range(0, len(lacking), 3)):
            Stores._apply(
                table,
                self.store,
                [record(n, self.changelog[n][1], key=self.changelog[n][0]) for n in piece],
            )

    def restart(self, policies: Policies | None = None) -> None:
        """End the process and start another on the same store."""
        self.policies = policies or self.policies
        self.store.close()
        self._start(int(self._path.name.rpartition("-")[2]))

    def dies_opening(self, policies: Policies, writes: int) -> bool:
        """Start a process that dies after so many writes of its preparation; return whether there were so many."""
        own, opens = self.policies, self.opens
        self.opens = False
        self.restart(policies)
        self.policies, self.opens = own, opens
        write, left = self.store.write, iter([None] * writes)

        def dies(changes: Changes) -> None:
            try:
                next(left)
            except StopIteration:
                raise KeyboardInterrupt from None
            write(changes)

        self.store.write = dies  # type: ignore[method-assign] # where it dies
        try:
            self.open()
        except KeyboardInterrupt:
            return True
        return False

    def visit(self, policies: Policies, writes: int) -> None:
        """Let a process with other policies die after so many writes of its preparation, and start the own again."""
        self.dies_opening(policies, writes)
        self.restart()

    def rebuild(self) -> None:
        """Start another process that has no store: all comes from the changelog."""
        self.store.close()
        shutil.rmtree(self._path)
        self._start(next(self._copies))

    def close(self) -> None:
        self.store.close()

    # -- work -----------------------------------------------------------------------------------------------------

    def happens(self, *events: DeliveryEvent) -> None:
        """Let ``track`` fold events; what it says waits for the monitor."""
        for event in events:
            effects = Effects()
            key = event.delivery_id.encode()
            value = records.encode_event(event, "mail.raw.sendgrid/0/0")
            TRACK.record(record(next(self._offsets), value, key=key), PARTITION, self.deliveries.get, effects)
            self.deliveries |= effects.rows
            self._say(effects.outputs.get((DEFERRALS, PARTITION), ()))

    def forgets(self, event: DeliveryEvent) -> None:
        """Let ``track`` forget the event's delivery, as after 90 days."""
        key = event.delivery_id.encode()
        row = self.deliveries.pop(key)
        assert row is not None
        store = open_store(self.folder / f"forgets-{next(self._copies)}", BUDGET, on_rebuild=pytest.fail)
        store.write(Changes(rows={key: row}, due_added=[(records.due_of_row(row), key)]))
        effects = Effects()
        TRACK.tick(records.due_of_row(row) + TRACK.expire_after_us, PARTITION, store, effects)
        store.close()
        self._say(effects.outputs.get((DEFERRALS, PARTITION), ()))

    def _say(self, rows: Sequence[Row]) -> None:
        self.waiting += [record(next(self._offsets), row.value, key=row.key) for row in rows]

    def read(self, limit: int | None = None, *, dies: bool = False) -> None:
        """Let the monitor read what waits, as one batch."""
        taken, self.waiting = self.waiting[:limit], self.waiting[len(self.waiting) if limit is None else limit :]
        effects = Effects()

        def get(key: bytes) -> bytes | None:
            return effects.rows[key] if key in effects.rows else self.store.get(key)

        for each in taken:
            self.monitor.record(each, PARTITION, get, effects)
        self._commit(effects, dies=dies)

    def tick(self, now: int, *, dies: bool = False) -> Effects:
        """Let the monitor look at the clock."""
        effects = Effects()
        self.monitor.tick(now, PARTITION, self.store, effects)
        self._commit(effects, dies=dies)
        return effects

    def _commit(self, effects: Effects, *, dies: bool) -> None:
        """Do what a lane does: the transaction, then the store; ``dies`` in between."""
        self.alerts += effects.outputs.get((ALERTS, PARTITION), [])
        self.changelog += effects.rows.items()
        if dies and self.visitor is not None:
            self.visit(self.visitor, writes=0)
            return
        if dies:
            self.restart()
            return
        self.store.write(
            Changes(
                rows=effects.rows,
                due_added=effects.due_added,
                due_removed=effects.due_removed,
                changelog_offset=None if effects.only_indexes else len(self.changelog),
            )
        )
        for count, n in effects.counts.items():
            if count[0] == "open_deferrals":
                self.gauges.add(PARTITION, count[1:], n)
            else:
                self.counted[count] += n

    # -- looks ----------------------------------------------------------------------------------------------------

    @property
    def told(self) -> list[dict[str, Any]]:
        """All alerts, decoded, in order."""
        return [records.decode_alert(row.value) for row in self.alerts]

    @property
    def levels(self) -> list[str]:
        return [alert["level"] for alert in self.told]

    @property
    def episodes(self) -> dict[bytes, Episode]:
        return {key: records.decode_open_deferral(row) for key, row in self.store.rows()}

    @property
    def index(self) -> list[tuple[int, bytes]]:
        return self.store.due(FOR_EVER, 1_000_000)

    @property
    def exact_index(self) -> list[tuple[int, bytes]]:
        """The index as the rows demand it."""
        return sorted(
            (due, key)
            for key, episode in self.episodes.items()
            if (due := next_due(episode, self.policies(episode.account, episode.provider))) is not None
        )

    @property
    def recount(self) -> Counter[Open]:
        """What the gauges have to show."""
        return Counter(
            (e.provider, e.destination, level_of(e.told) or "", slot_of(e.since)) for e in self.episodes.values()
        )

    @property
    def shown(self) -> Counter[Open]:
        return Counter(self.gauges._open[PARTITION])


def _run(coroutine: Any) -> None:
    """Drive a coroutine that only gives others their turn."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        return
