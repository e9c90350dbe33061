"""What the lanes and the restore report, as metrics and as health: one place between ``kafka`` and ``metrics``."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from faust.types import TP
from prometheus_client import Counter

from streams.agents.monitor import STAGE as MONITOR
from streams.domain.status import SECOND
from streams.kafka.batches import Batch
from streams.kafka.lanes import Effects, Lanes
from streams.kafka.progress import Progress, Standing
from streams.kafka.restore import LaneTableManager
from streams.kafka.watchdog import Watchdog
from streams.metrics import Metrics
from streams.providers import label_of
from streams.topics import DEFERRALS, EVENTS

logger = logging.getLogger(__name__)


class Counted(NamedTuple):
    """How a stage's count becomes a metric."""

    counter: Callable[[Metrics], Counter]
    by_provider: bool
    """The first label is the provider, mapped by ``label_of``: in an event it is whatever its writer put there."""


COUNTED: Final[Mapping[str, Counted]] = {
    "requests": Counted(lambda metrics: metrics.requests, by_provider=True),
    "events": Counted(lambda metrics: metrics.events, by_provider=True),
    "changes": Counted(lambda metrics: metrics.status_changes, by_provider=True),
    "arrivals": Counted(lambda metrics: metrics.arrivals, by_provider=True),
    "expired": Counted(lambda metrics: metrics.expired, by_provider=False),
    "clock_skew": Counted(lambda metrics: metrics.clock_skew, by_provider=True),
    "dead_letters": Counted(lambda metrics: metrics.dead_letters, by_provider=False),
    "objective": Counted(lambda metrics: metrics.objective, by_provider=True),
    "without_word": Counted(lambda metrics: metrics.without_word, by_provider=True),
    "deferrals": Counted(lambda metrics: metrics.deferrals, by_provider=True),
    "alerts": Counted(lambda metrics: metrics.alerts, by_provider=True),
}
"""The counter of each ``lanes.Count``, except ``open_deferrals``, which is a gauge."""
_BEFORE_MONITOR = frozenset({EVENTS, DEFERRALS})
"""Partition n of these topics carries what ends the open deferrals of partition n."""

Reached = Callable[[str, TP], Awaitable[None] | None]


@dataclass(slots=True)
class Observer:
    """Implements ``lanes.Hooks`` and ``restore.RestoreHooks`` for a worker."""

    metrics: Metrics
    reached: Reached
    stopped_partitions: dict[TP, str] = field(default_factory=dict)
    """Stopped partitions of this worker, with the reason."""

    def committed(self, tp: TP, batch: Batch, effects: Effects, seconds: float, stage: str) -> None:
        """Count what a batch did, once for all its records."""
        metrics = self.metrics
        now = time.time()
        metrics.batches.labels(stage).observe(seconds)
        metrics.last_commit_timestamp.set(now)
        if batch.records:
            metrics.batch_records.labels(stage).observe(len(batch.records))
            metrics.processing_delay.labels(stage).observe(max(now - batch.records[-1].timestamp / 1000, 0))
        self._count(tp.partition, effects)
        logger.debug("%s/%s: %d records in %.3f s", tp.topic, tp.partition, len(batch.records), seconds)

    def ticked(self, tp: TP, batch: Batch, effects: Effects, seconds: float, stage: str) -> None:
        """Count what a tick did, and that the monitor is alive."""
        self._count(tp.partition, effects)
        if stage == MONITOR and batch.now is not None:
            self.metrics.monitor_run.observe(seconds)
            self.metrics.monitor_last_run.set(time.time())
            self.metrics.monitor_clock.labels(str(tp.partition)).set(batch.now / SECOND)

    def _count(self, partition: int, effects: Effects) -> None:
        metrics = self.metrics
        for count, n in effects.counts.items():
            if count[0] == "open_deferrals":
                metrics.open_deferrals.add(partition, count[1:], n)
                continue
            counted = COUNTED[count[0]]
            labels: tuple[str, ...] = count[1:]
            if counted.by_provider:
                labels = (label_of(labels[0]), *labels[1:])
            counter = counted.counter(metrics)
            (counter.labels(*labels) if labels else counter).inc(n)
        for (_, provider, destination), values in effects.observations.items():
            metrics.time_to_deliver.observe((label_of(provider), destination), values)

    def stopped(self, tp: TP, reason: str) -> None:
        """Say that a partition was stopped, and how to resume it."""
        self.stopped_partitions[tp] = reason
        self.metrics.partitions_stopped.labels(tp.topic, str(tp.partition)).set(1)
        self._leave_out_of_oldest()
        logger.error(
            "%s/%s stopped: %s. When the cause is mended: mailstreams resume %s %s",
            tp.topic,
            tp.partition,
            reason,
            tp.topic,
            tp.partition,
        )

    def resumed(self, tp: TP) -> None:
        """Say that a partition runs again."""
        self.stopped_partitions.pop(tp, None)
        self.metrics.partitions_stopped.labels(tp.topic, str(tp.partition)).set(0)
        self._leave_out_of_oldest()
        logger.warning("%s/%s resumed", tp.topic, tp.partition)

    def _leave_out_of_oldest(self) -> None:
        """Leave out of the oldest deferral each partition whose monitor, or a stage before it, is stopped."""
        stopped = (tp.partition for tp in self.stopped_partitions if tp.topic in _BEFORE_MONITOR)
        self.metrics.open_deferrals.leave_out_of_oldest(stopped)

    def rebuilt(self, store: str, reason: str) -> None:  # noqa: ARG002 - the protocol's
        """Count a store that was moved aside; the store has logged why."""
        self.metrics.store_rebuilds.inc()

    def restored(self, rows: int) -> None:
        """Count changelog rows read."""
        self.metrics.restored_rows.inc(rows)

    def remaining(self, offsets: int) -> None:
        """Show how much of the changelogs is still to be read."""
        self.metrics.restore_remaining.set(offsets)

    def skipped(self, tp: TP, offsets: int) -> None:
        """Count source records that retention deleted before they were read."""
        self.metrics.skipped_offsets.labels(tp.topic).inc(offsets)

    def assigned(self, tps: int) -> None:
        """Count an assignment; a partition stopped before is reported again by its new lane.

        A worker that has none stands by: when it takes over, its monitor has not run yet.
        """
        self.metrics.rebalances.inc()
        self.metrics.partitions_owned.set(tps)
        if not tps:
            self.metrics.monitor_last_run.set(0)
        self.metrics.restore_remaining.set(0)  # of a restore that was given up
        self.stopped_partitions.clear()
        self.metrics.partitions_stopped.clear()
        self._leave_out_of_oldest()
        self.revoked()

    def revoked(self) -> None:
        """Report nothing more on partitions that another worker reports on from now on."""
        self.metrics.lag.clear()
        self.metrics.monitor_clock.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Why a worker is not live or not ready, and what it does once a second."""

    metrics: Metrics
    observer: Observer
    tables: LaneTableManager
    lanes: Lanes
    progress: Progress
    watchdog: Watchdog

    def __post_init__(self) -> None:
        # Computed at each scrape, not at each look: while the broker is away there are none, and the last one was good.
        self.metrics.ready.set_function(lambda: not self.not_ready())

    def not_live(self) -> list[str]:
        """Return why the process should be restarted; nothing when it should not."""
        return [self.watchdog.stalled] if self.watchdog.stalled else []

    def not_ready(self) -> list[str]:
        """Return why the worker cannot work now; nothing when it can."""
        why = []
        if not self.progress.fresh:
            missing = self.progress.missing
            why.append(f"the brokers do not show the topic {missing}" if missing else "the broker does not answer")
        if self.tables.restoring:
            why.append("stores are being restored")
        elif not self.tables.actives_ready:
            why.append("no partitions are assigned yet")
        why += [
            f"{tp.topic}/{tp.partition} stopped: {reason}" for tp, reason in self.observer.stopped_partitions.items()
        ]
        return why

    def look(self, standings: Mapping[TP, Standing]) -> None:
        """Compare what the broker says with what this worker owns."""
        owned = set(self.lanes.by_partition)
        for tp in owned:
            standing = standings.get(tp)
            if standing is not None:
                self.metrics.lag.labels(tp.topic, str(tp.partition)).set(standing.lag)
        opening = {tp for tp, lane in self.lanes.by_partition.items() if lane.opening}
        excused = self.tables.restoring or not self.tables.actives_ready
        self.metrics.restoring.set(self.tables.restoring)
        self.metrics.tasks.set(len(asyncio.all_tasks()))
        self.watchdog.look(
            standings,
            owned - self.observer.stopped_partitions.keys() - opening,
            excused=excused,
            restore=self.tables.steps if self.tables.restoring else None,
            queued={
                tp: lane.turns_passed for tp, lane in self.lanes.by_partition.items() if lane.turns_passed is not None
            },
        )
        self.metrics.restore_idle.set(self.watchdog.restore_idle_s)
