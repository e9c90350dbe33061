"""Metrics that ``prometheus_client`` has no type for: a histogram fed in bulk, what is owned and what is open now.

The rule: nothing here is computed per event. A batch hands over its values at
once, and a scrape does the arithmetic.

A worker that the brokers do not reach still takes its partitions for its own while another
one has them: so what is reported of partitions is reported only while ``shown`` says so.
"""

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.domain.qshape import BUCKETS_MIN

QSHAPE_SECONDS = tuple(60 * minutes for minutes in BUCKETS_MIN)
"""Postfix' ``qshape`` buckets: 5, 10, 20, ... 1280 minutes."""
SLOT_S = 10
"""Open deferrals are counted by the slot of time in which they began, so that no scrape looks at each of them."""

Open = tuple[str, str, str, int]
"""(provider, destination, highest level published or "", slot) of open deferrals."""


def slot_of(since_us: int) -> int:
    """Return the slot of a time in microseconds since 1970."""
    return since_us // (SLOT_S * 1_000_000)


class BulkHistogram(Collector):
    """A histogram that takes many values at once."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._bounds = tuple(buckets)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def observe(self, labels: tuple[str, ...], values: Iterable[float]) -> None:
        """Add values to one series."""
        counts = self._counts.setdefault(labels, [0] * (len(self._bounds) + 1))
        total = 0.0
        for value in values:
            counts[bisect_left(self._bounds, value)] += 1
            total += value
        self._sums[labels] = self._sums.get(labels, 0.0) + total

    def describe(self) -> Iterator[Metric]:
        """Tell the registry what will come."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """Yield the histogram for a scrape."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, counts in self._counts.items():
            family.add_metric(list(labels), _cumulated(self._bounds, counts), self._sums[labels])
        yield family


def always() -> bool:
    """Return that it may be shown."""
    return True


class OwnedGauge(Gauge):
    """A gauge of partitions that this worker owns: no series while ``shown`` is False, and the same values after it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.shown: Callable[[], bool] = always
        super().__init__(*args, **kwargs)

    def collect(self) -> Iterable[Metric]:
        """Return the series for a scrape."""
        return super().collect() if self.shown() else ()


@dataclass(slots=True)
class _Queue:
    """The open deferrals of one provider at one destination."""

    by_slot: Counter[int] = field(default_factory=Counter)
    by_level: Counter[str] = field(default_factory=Counter)
    """By the highest level published, or ""."""
    oldest_slot: int | None = None
    """Of those whose age is worth an alert."""


class OpenDeferrals(Collector):
    """The open deferrals of this worker: how many, how old, which level was published.

    Series exist only while something is open, and only for partitions that this
    worker owns and has read, as far as ``shown`` knows: a sum over workers neither
    doubles nor dips for long.
    """

    def __init__(
        self,
        prefix: str,
        levels: Sequence[str],
        registry: CollectorRegistry,
        *,
        given_up: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Show nothing yet.

        Args:
            prefix: of the metric names.
            levels: the alert levels that an open deferral can have.
            registry: where it is collected.
            given_up: the level after which the provider tries no more: its age is worth no alert.
            clock: seconds since 1970.
        """
        self._prefix, self._levels, self._clock, self._given_up = prefix, tuple(levels), clock, given_up
        self._open: dict[int, dict[Open, int]] = {}
        self._left_out: frozenset[int] = frozenset()
        self.shown: Callable[[], bool] = always
        registry.register(self)

    def load(self, partition: int, counts: Mapping[Open, int]) -> None:
        """Show a partition, with these counts."""
        self._open[partition] = dict(counts)

    def forget(self, partition: int) -> None:
        """Show nothing of a partition."""
        self._open.pop(partition, None)

    def leave_out_of_oldest(self, partitions: Iterable[int]) -> None:
        """Leave these partitions, and no others, out of the oldest deferral.

        The events that end their deferrals wait behind what stopped the partitions, so nobody knows how old they are.
        """
        self._left_out = frozenset(partitions)

    def add(self, partition: int, key: Open, n: int) -> None:
        """Change the count of a partition that is shown."""
        counts = self._open.get(partition)
        if counts is not None:
            left = counts.get(key, 0) + n
            if left:
                counts[key] = left
            else:
                counts.pop(key, None)

    def describe(self) -> Iterator[Metric]:
        """Tell the registry what will come."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        """Yield all of it for a scrape."""
        oldest, ages, stuck = self._families()
        now = self._clock()
        for (provider, destination), queue in (self._queues() if self.shown() else {}).items():
            labels = [provider, destination]
            if queue.oldest_slot is not None:
                oldest.add_metric(labels, float(queue.oldest_slot * SLOT_S))
            buckets = [0] * (len(QSHAPE_SECONDS) + 1)
            total = 0.0
            for slot, n in queue.by_slot.items():
                age = max(now - slot * SLOT_S, 0.0)
                buckets[bisect_left(QSHAPE_SECONDS, age)] += n
                total += age * n
            ages.add_metric(labels, _cumulated(QSHAPE_SECONDS, buckets), total)
            for level in self._levels:
                stuck.add_metric([*labels, level], queue.by_level[level])
        yield from (oldest, ages, stuck)

    def _queues(self) -> dict[tuple[str, str], "_Queue"]:
        """Return what is open in all partitions together, by provider and destination."""
        queues: defaultdict[tuple[str, str], _Queue] = defaultdict(_Queue)
        for partition, counts in self._open.items():
            left_out = partition in self._left_out
            for (provider, destination, level, slot), n in counts.items():
                queue = queues[provider, destination]
                queue.by_slot[slot] += n
                queue.by_level[level] += n
                if level != self._given_up and not left_out:
                    queue.oldest_slot = slot if queue.oldest_slot is None else min(slot, queue.oldest_slot)
        return queues

    def _families(self) -> tuple[GaugeMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily]:
        pair = ["provider", "destination"]
        return (
            GaugeMetricFamily(
                f"{self._prefix}_deferred_oldest_timestamp_seconds",
                "When the oldest deferral began that its provider still tries, to ten seconds; no series while there is "
                "none, and none of a stopped partition",
                labels=pair,
            ),
            GaugeHistogramMetricFamily(
                f"{self._prefix}_deferred_age_seconds",
                "Ages of the open deferrals, in the buckets of Postfix' qshape",
                labels=pair,
            ),
            GaugeMetricFamily(
                f"{self._prefix}_deferred_stuck",
                "Open deferrals by the highest level that was published for them",
                labels=[*pair, "level"],
            ),
        )


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return Prometheus' buckets: each counts everything up to its bound."""
    buckets, seen = [], 0
    for bound, n in zip((*bounds, float("inf")), counts, strict=True):
        seen += n
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(seen)))
    return buckets
