"""Every metric, once: name, help, unit, labels. Prefix ``mailstreams_``, base units, bounded labels.

The rule: no label ever carries an address, an id or free text. Counters are
raised after a batch has taken effect, not when it is read; a crash in between
can leave them too low, and a batch that a stage without state repeats is counted
again. The exact numbers are in the topics.

Beside its own, each process exports the usual metrics of a process, ``process_*``:
from ``process_start_time_seconds`` the alerts derive how often it was started.
"""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from streams.collectors import BulkHistogram, OpenDeferrals, OwnedGauge
from streams.domain.advice import ALERT_ACTIONS
from streams.domain.deferrals import Level
from streams.domain.destinations import DESTINATIONS
from streams.domain.events import EventType
from streams.domain.objective import Judgement
from streams.domain.reasons import ReasonClass
from streams.domain.status import Outcome, Status
from streams.providers import PROVIDERS, UNKNOWN

# Bounds of histograms.
BATCH_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
DELAY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
DELIVERY_SECONDS = (1, 5, 15, 30, 60, 120, 300, 900, 1800, 3600, 14_400, 43_200, 86_400, 259_200)

PROVIDER_LABELS = (*PROVIDERS, UNKNOWN)
OPEN_LEVELS = (Level.RAISED, Level.ESCALATED, Level.OVERDUE)
"""The levels of alerts that an open deferral can have."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one worker."""

    registry: CollectorRegistry
    build_info: Gauge
    requests: Counter
    events: Counter
    status_changes: Counter
    arrivals: Counter
    expired: Counter
    time_to_deliver: BulkHistogram
    objective: Counter
    without_word: Counter
    deferrals: Counter
    alerts: Counter
    open_deferrals: OpenDeferrals
    retry_window: Gauge
    monitor_run: Histogram
    monitor_last_run: Gauge
    monitor_clock: OwnedGauge
    clock_skew: Counter
    dead_letters: Counter
    batches: Histogram
    batch_records: Histogram
    processing_delay: Histogram
    lag: OwnedGauge
    ready: Gauge
    partitions_owned: Gauge
    partitions_stopped: Gauge
    rebalances: Counter
    store_rebuilds: Counter
    restored_rows: Counter
    restore_remaining: Gauge
    restore_idle: Gauge
    restoring: Gauge
    skipped_offsets: Counter
    last_commit_timestamp: Gauge
    tasks: Gauge

    @classmethod
    def create(cls, registry: CollectorRegistry, *, version: str) -> "Metrics":
        """Define all of them on ``registry``."""
        metrics = cls(
            registry=registry,
            build_info=Gauge("mailstreams_build_info", "1, by version", ["version"], registry=registry),
            requests=Counter(
                "mailstreams_webhook_requests_normalised",
                "Webhook requests turned into events, at least partly",
                ["provider"],
                registry=registry,
            ),
            events=Counter(
                "mailstreams_events",
                "Delivery events folded, by their effect on the delivery: applied, duplicate, ignored",
                ["provider", "type", "outcome"],
                registry=registry,
            ),
            status_changes=Counter(
                "mailstreams_status_changes",
                "Status-changed records, by the status after the change",
                ["provider", "destination", "status"],
                registry=registry,
            ),
            arrivals=Counter(
                "mailstreams_arrivals",
                "Deliveries that became delivered or opened and had been neither before; the open of an old message does not "
                "count",
                ["provider", "destination"],
                registry=registry,
            ),
            expired=Counter(
                "mailstreams_deliveries_expired", "Deliveries forgotten after their time", registry=registry
            ),
            time_to_deliver=BulkHistogram(
                "mailstreams_time_to_deliver_seconds",
                "From the provider's acceptance of a message to its delivery; only delivered messages are counted",
                ["provider", "destination"],
                DELIVERY_SECONDS,
                registry,
            ),
            objective=Counter(
                "mailstreams_objective",
                "Messages by whether they were delivered in time; each counted once, at its delivery or its deadline",
                ["provider", "outcome"],
                registry=registry,
            ),
            without_word=Counter(
                "mailstreams_deliveries_without_word",
                "Messages about which the provider reported nothing for 24 h after it took them",
                ["provider"],
                registry=registry,
            ),
            deferrals=Counter(
                "mailstreams_deferrals",
                "Deferred attempts, by the class of the server's answer",
                ["provider", "destination", "reason_class"],
                registry=registry,
            ),
            alerts=Counter(
                "mailstreams_deferral_alerts",
                "Deferral alerts published, by level and by the code of their advice",
                ["provider", "level", "action"],
                registry=registry,
            ),
            open_deferrals=OpenDeferrals("mailstreams", OPEN_LEVELS, registry, given_up=Level.OVERDUE),
            retry_window=Gauge(
                "mailstreams_retry_window_seconds",
                "How long the provider tries again, according to the settings of accounts that have no window of their own",
                ["provider"],
                registry=registry,
            ),
            monitor_run=Histogram(
                "mailstreams_monitor_run_seconds",
                "Time of one tick of the monitor, for one partition",
                buckets=BATCH_SECONDS,
                registry=registry,
            ),
            monitor_last_run=Gauge(
                "mailstreams_monitor_last_run_timestamp_seconds",
                "When a tick of the monitor was last done; 0 before the first, and without partitions",
                registry=registry,
            ),
            monitor_clock=OwnedGauge(
                "mailstreams_monitor_clock_timestamp_seconds",
                "What time it was for the last tick of each partition; behind while something upstream is unread",
                ["partition"],
                registry=registry,
            ),
            clock_skew=Counter(
                "mailstreams_clock_skew_events",
                "Events whose own time was not believable",
                ["provider"],
                registry=registry,
            ),
            dead_letters=Counter(
                "mailstreams_dead_letters",
                "Records, or parts of them, that were not understood",
                ["stage"],
                registry=registry,
            ),
            batches=Histogram(
                "mailstreams_batch_seconds",
                "Time of one batch, from the first fold to the store",
                ["stage"],
                buckets=BATCH_SECONDS,
                registry=registry,
            ),
            batch_records=Histogram(
                "mailstreams_batch_records",
                "Records in one batch",
                ["stage"],
                buckets=(1, 10, 100, 500, 1000, 2500, 5000, 10_000),
                registry=registry,
            ),
            processing_delay=Histogram(
                "mailstreams_processing_delay_seconds",
                "From the broker's timestamp of a batch's last record to its effect",
                ["stage"],
                buckets=DELAY_SECONDS,
                registry=registry,
            ),
            lag=OwnedGauge(
                "mailstreams_consumer_lag_records",
                "Offsets not yet processed, of the partitions this worker owns",
                ["topic", "partition"],
                registry=registry,
            ),
            ready=Gauge("mailstreams_ready", "1 when all assigned partitions are restored and run", registry=registry),
            partitions_owned=Gauge(
                "mailstreams_partitions_owned", "Source partitions of this worker", registry=registry
            ),
            partitions_stopped=Gauge(
                "mailstreams_partition_stopped",
                "1 for a partition that is stopped because too many of its records are bad",
                ["topic", "partition"],
                registry=registry,
            ),
            rebalances=Counter("mailstreams_rebalances", "Assignments received", registry=registry),
            store_rebuilds=Counter(
                "mailstreams_store_rebuilds", "Stores moved aside as corrupt and rebuilt", registry=registry
            ),
            restored_rows=Counter("mailstreams_restored_rows", "Changelog rows read at assignments", registry=registry),
            restore_remaining=Gauge(
                "mailstreams_restore_remaining_offsets",
                "Changelog offsets still to be read before this worker goes on",
                registry=registry,
            ),
            restore_idle=Gauge(
                "mailstreams_restore_idle_seconds",
                "Time since the running restore last made progress; 0 when none runs",
                registry=registry,
            ),
            restoring=Gauge("mailstreams_restoring", "1 while stores are brought up to date", registry=registry),
            skipped_offsets=Counter(
                "mailstreams_skipped_offsets",
                "Source offsets that retention deleted before they were read",
                ["topic"],
                registry=registry,
            ),
            last_commit_timestamp=Gauge(
                "mailstreams_last_commit_timestamp_seconds", "When a batch last took effect", registry=registry
            ),
            tasks=Gauge(
                "mailstreams_asyncio_tasks",
                "Tasks of the event loop; a number that only grows is a leak",
                registry=registry,
            ),
        )
        metrics.build_info.labels(version).set(1)
        ProcessCollector(registry=registry)
        metrics._initialise()
        return metrics

    def show_partitions_while(self, owned: Callable[[], bool], *, lag: Callable[[], bool]) -> None:
        """Show nothing of single partitions while ``owned`` returns False: another worker may own them and report on them.

        ``lag`` decides on the lag alone: the last whole look found it, and while a single topic fails there is none.

        Not ``partitions_owned``: while this worker's monitor does not run, it says that it should. Nor
        ``partitions_stopped``: a stopped partition waits for a person, also while nobody knows who has it.
        """
        self.monitor_clock.shown = self.open_deferrals.shown = owned
        self.lag.shown = lag

    def begin_stage(self, stage: str) -> None:
        """Create the series of one of this worker's stages at 0, as ``_initialise`` does with all others."""
        self.dead_letters.labels(stage)
        self.batches.labels(stage)
        self.batch_records.labels(stage)
        self.processing_delay.labels(stage)

    def _initialise(self) -> None:
        """Create every series that is known beforehand at 0: one that first appears at 20 loses that increase.

        Not those of ``time_to_deliver``: all pairs would make /metrics larger by a third, and no alert reads it.
        """
        for provider in PROVIDER_LABELS:
            self.without_word.labels(provider)
            self.requests.labels(provider)
            self.clock_skew.labels(provider)
            for type_ in EventType:
                for outcome in Outcome:
                    self.events.labels(provider, type_, outcome)
            for judgement in Judgement:
                self.objective.labels(provider, judgement)
            for level, actions in ALERT_ACTIONS.items():
                for action in actions:
                    self.alerts.labels(provider, level, action)
            for destination in DESTINATIONS:
                self.arrivals.labels(provider, destination)
                for status in Status:
                    self.status_changes.labels(provider, destination, status)
                for reason_class in ReasonClass:
                    self.deferrals.labels(provider, destination, reason_class)


@dataclass(frozen=True, slots=True)
class IngressMetrics:
    """The metrics of one ingress.

    ``provider`` is one that is built in, or ``unknown``; ``account`` is a name of the settings, or empty for ``unknown``.
    """

    registry: CollectorRegistry
    build_info: Gauge
    requests: Counter
    rejected: Counter
    accepted: Counter
    tests: Counter
    unrecorded: Counter
    request_seconds: Histogram
    in_flight: Gauge
    in_flight_bytes: Gauge
    produce_seconds: Histogram
    produce_failures: Counter
    produced: Counter
    ready: Gauge
    certificates: Counter
    certificate_expiry: Gauge
    last_request: Gauge
    sends_requests: Counter
    sends: Counter

    @classmethod
    def create(cls, registry: CollectorRegistry, *, version: str) -> "IngressMetrics":
        """Define all of them on ``registry``."""
        metrics = cls(
            registry=registry,
            build_info=Gauge("mailstreams_build_info", "1, by version", ["version"], registry=registry),
            requests=Counter(
                "mailstreams_webhook_requests",
                "Webhook requests answered, by the code of the answer",
                ["provider", "code"],
                registry=registry,
            ),
            rejected=Counter(
                "mailstreams_webhook_rejected",
                "Webhook requests answered with anything but 200, by the reason",
                ["provider", "account", "reason"],
                registry=registry,
            ),
            accepted=Counter(
                "mailstreams_webhook_accepted",
                "Webhooks verified and written, without tests: the signs that a provider works",
                ["provider", "account"],
                registry=registry,
            ),
            tests=Counter(
                "mailstreams_webhook_tests",
                "Webhooks of mailstreams webhook test, verified and written",
                ["provider", "account"],
                registry=registry,
            ),
            unrecorded=Counter(
                "mailstreams_webhook_unrecorded",
                "Webhook requests answered 200 that left no record: head, ping, repeated",
                ["provider", "reason"],
                registry=registry,
            ),
            request_seconds=Histogram(
                "mailstreams_webhook_request_seconds",
                "From a webhook request's head to its answer",
                ["provider"],
                buckets=REQUEST_SECONDS,
                registry=registry,
            ),
            in_flight=Gauge("mailstreams_ingress_requests_in_flight", "Requests in progress", registry=registry),
            in_flight_bytes=Gauge(
                "mailstreams_ingress_bytes_in_flight", "Bytes of the bodies of requests in progress", registry=registry
            ),
            produce_seconds=Histogram(
                "mailstreams_ingress_produce_seconds",
                "From handing a batch of records to the client until all in-sync replicas have it",
                buckets=REQUEST_SECONDS,
                registry=registry,
            ),
            produce_failures=Counter(
                "mailstreams_ingress_produce_failures", "Batches not acknowledged", ["topic"], registry=registry
            ),
            produced=Counter(
                "mailstreams_ingress_records", "Records that all in-sync replicas have", ["topic"], registry=registry
            ),
            ready=Gauge(
                "mailstreams_ready",
                "1 when the ingress takes requests and the broker takes its records",
                registry=registry,
            ),
            certificates=Counter(
                "mailstreams_ingress_certificates",
                "Downloads of signing certificates: fetched, failed",
                ["outcome"],
                registry=registry,
            ),
            certificate_expiry=Gauge(
                "mailstreams_ingress_certificate_expiry_timestamp_seconds",
                "When the certificate of the public port expires; 0 without TLS",
                registry=registry,
            ),
            last_request=Gauge(
                "mailstreams_webhook_last_accepted_timestamp_seconds",
                "When a webhook was last verified and written, without tests",
                ["provider"],
                registry=registry,
            ),
            sends_requests=Counter(
                "mailstreams_sends_requests", "Requests to POST /sends, by outcome", ["outcome"], registry=registry
            ),
            sends=Counter("mailstreams_sends", "Sends accepted by POST /sends", registry=registry),
        )
        metrics.build_info.labels(version).set(1)
        ProcessCollector(registry=registry)
        for outcome in ("fetched", "failed"):
            metrics.certificates.labels(outcome)
        return metrics


@dataclass(frozen=True, slots=True)
class HistoryMetrics:
    """The metrics of one history service. ``page`` is the name of a route, from a closed set."""

    registry: CollectorRegistry
    build_info: Gauge
    records: Counter
    batch_seconds: Histogram
    delay: Histogram
    lag: Gauge
    last_heard: Gauge
    skipped_offsets: Counter
    forgotten: Counter
    ready: Gauge
    requests: Counter
    request_seconds: Histogram
    streams: Gauge

    @classmethod
    def create(cls, registry: CollectorRegistry, *, version: str) -> "HistoryMetrics":
        """Define all of them on ``registry``."""
        metrics = cls(
            registry=registry,
            build_info=Gauge("mailstreams_build_info", "1, by version", ["version"], registry=registry),
            records=Counter(
                "mailstreams_history_records",
                "Records read, by what became of them: applied, known, malformed",
                ["topic", "outcome"],
                registry=registry,
            ),
            batch_seconds=Histogram(
                "mailstreams_history_batch_seconds",
                "Time of one transaction of the projection, decoding included",
                buckets=BATCH_SECONDS,
                registry=registry,
            ),
            delay=Histogram(
                "mailstreams_history_delay_seconds",
                "From the broker's timestamp of a batch's first record until it can be seen",
                buckets=DELAY_SECONDS,
                registry=registry,
            ),
            lag=Gauge("mailstreams_history_lag_records", "Offsets not yet read", ["topic"], registry=registry),
            last_heard=Gauge(
                "mailstreams_history_last_heard_timestamp_seconds",
                "When the broker last answered while the topics could be read; 0: not yet",
                registry=registry,
            ),
            skipped_offsets=Counter(
                "mailstreams_history_skipped_offsets",
                "Offsets that retention deleted before they were read",
                ["topic"],
                registry=registry,
            ),
            forgotten=Counter(
                "mailstreams_history_deliveries_forgotten", "Deliveries deleted after their time", registry=registry
            ),
            ready=Gauge(
                "mailstreams_ready",
                "1 when the history can be seen and has begun to follow the topics",
                registry=registry,
            ),
            requests=Counter(
                "mailstreams_history_requests",
                "Requests answered, by page and code",
                ["page", "code"],
                registry=registry,
            ),
            request_seconds=Histogram(
                "mailstreams_history_request_seconds",
                "From a request's head to its answer",
                ["page"],
                buckets=REQUEST_SECONDS,
                registry=registry,
            ),
            streams=Gauge("mailstreams_history_streams", "Live views that are open", registry=registry),
        )
        metrics.build_info.labels(version).set(1)
        ProcessCollector(registry=registry)
        return metrics
