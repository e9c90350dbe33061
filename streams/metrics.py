"""Every metric, once: name, help, unit, labels. Prefix ``mailstreams_``, base units, bounded labels.

The rule: no label ever carries an address, an id or free text. Counters are
raised when a batch took effect, not when it was read; a crash between the two
can leave them short, never long. Exactness is in the topics.
"""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BATCH_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
DELAY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one worker."""

    registry: CollectorRegistry
    build_info: Gauge
    requests: Counter
    events: Counter
    status_changes: Counter
    expired: Counter
    clock_skew: Counter
    dead_letters: Counter
    batches: Histogram
    batch_records: Histogram
    processing_delay: Histogram
    lag: Gauge
    ready: Gauge
    partitions_owned: Gauge
    partitions_stopped: Gauge
    rebalances: Counter
    store_rebuilds: Counter
    restored_rows: Counter
    restoring: Gauge
    skipped_offsets: Counter
    last_commit_timestamp: Gauge

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
                "Delivery events folded, by what they were to their delivery: applied, duplicate, ignored",
                ["provider", "type", "outcome"],
                registry=registry,
            ),
            status_changes=Counter(
                "mailstreams_status_changes",
                "Status-changed records, by the status after the change",
                ["provider", "status"],
                registry=registry,
            ),
            expired=Counter(
                "mailstreams_deliveries_expired", "Deliveries forgotten after their time", registry=registry
            ),
            clock_skew=Counter(
                "mailstreams_clock_skew_events",
                "Events whose own time was not believable",
                ["provider"],
                registry=registry,
            ),
            dead_letters=Counter(
                "mailstreams_dead_letters", "Records, or parts of them, never understood", ["stage"], registry=registry
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
            lag=Gauge(
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
                "1 for a partition that stands because too many of its records are bad",
                ["topic", "partition"],
                registry=registry,
            ),
            rebalances=Counter("mailstreams_rebalances", "Assignments received", registry=registry),
            store_rebuilds=Counter(
                "mailstreams_store_rebuilds", "Stores moved aside as corrupt and rebuilt", registry=registry
            ),
            restored_rows=Counter("mailstreams_restored_rows", "Changelog rows read at assignments", registry=registry),
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
        )
        metrics.build_info.labels(version).set(1)
        return metrics


REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class IngressMetrics:
    """The metrics of one ingress. ``provider`` is one that is built in, or ``unknown``."""

    registry: CollectorRegistry
    build_info: Gauge
    requests: Counter
    rejected: Counter
    unrecorded: Counter
    request_seconds: Histogram
    in_flight: Gauge
    in_flight_bytes: Gauge
    produce_seconds: Histogram
    produce_failures: Counter
    produced: Counter
    ready: Gauge
    certificates: Counter
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
                ["provider", "reason"],
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
            in_flight=Gauge("mailstreams_ingress_requests_in_flight", "Requests in work", registry=registry),
            in_flight_bytes=Gauge(
                "mailstreams_ingress_bytes_in_flight", "Bytes of the bodies of requests in work", registry=registry
            ),
            produce_seconds=Histogram(
                "mailstreams_ingress_produce_seconds",
                "From handing a batch of records to the client until all in-sync replicas have it",
                buckets=REQUEST_SECONDS,
                registry=registry,
            ),
            produce_failures=Counter(
                "mailstreams_ingress_produce_failures", "Batches not acknowledged", registry=registry
            ),
            produced=Counter(
                "mailstreams_ingress_records", "Records that all in-sync replicas have", ["topic"], registry=registry
            ),
            ready=Gauge(
                "mailstreams_ready", "1 when the ingress takes requests and the broker them", registry=registry
            ),
            certificates=Counter(
                "mailstreams_ingress_certificates",
                "Downloads of signing certificates: fetched, failed",
                ["outcome"],
                registry=registry,
            ),
            last_request=Gauge(
                "mailstreams_webhook_last_accepted_timestamp_seconds",
                "When a webhook was last verified and written",
                ["provider"],
                registry=registry,
            ),
            sends_requests=Counter(
                "mailstreams_sends_requests", "Requests to POST /sends, by outcome", ["outcome"], registry=registry
            ),
            sends=Counter("mailstreams_sends", "Sends accepted by POST /sends", registry=registry),
        )
        metrics.build_info.labels(version).set(1)
        for outcome in ("fetched", "failed"):
            metrics.certificates.labels(outcome)
        return metrics
