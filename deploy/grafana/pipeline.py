"""Pipeline: whether our own machinery works, from a webhook's arrival to the status, and the monitor.

By worker and topic, not by provider: faults shown here are in our own system.
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import (
    ACT,
    GOOD,
    LOOK,
    Query,
    Section,
    board,
    known,
    lines,
    number,
    pick,
    quantile,
    share,
    table,
)
from deploy.grafana.thresholds import threshold

WORKER = 'job="mailstreams-worker"'
INGRESS = 'job="mailstreams-ingress"'
HANDLED = 'provider!="unknown"'
"""Without the paths of no account, which anybody on the internet tries."""
STOPPED = (
    "max by (topic, partition) (mailstreams_partition_stopped) > 0 unless on (topic, partition) "
    "(mailstreams_consumer_lag_records unless on (job, instance, topic, partition) mailstreams_partition_stopped > 0)"
)
"""As in MailPartitionStopped: not what only a worker says that is cut off, while another one has the partition."""


def dashboard() -> Dashboard:
    """Return "Pipeline"."""
    return board(
        "Pipeline",
        "mailstreams-pipeline",
        "Whether workers, ingresses and the monitor do their work, and how far behind they are.",
        [
            Section(
                "Now",
                [
                    number(
                        "Workers ready",
                        "Those that stand by without partitions count, too.",
                        f"sum({pick('mailstreams_ready', WORKER)})",
                        steps=((None, ACT), (threshold("workers_ready"), GOOD)),
                        alerts=("MailWorkersMissing",),
                    ),
                    number(
                        "Ingresses ready",
                        "While none is, providers get 503 or no answer, and some do not come again.",
                        f"sum({pick('mailstreams_ready', INGRESS)})",
                        steps=((None, ACT), (threshold("ingresses_ready"), GOOD)),
                        alerts=("MailIngressMissing",),
                    ),
                    number(
                        "Partitions that stand",
                        "Too many of their records are bad. `mailstreams resume` lists them and lets them go on.",
                        known(f"count({STOPPED})"),
                        steps=((None, GOOD), (1, ACT)),
                        alerts=("MailPartitionStopped",),
                        absent="unknown",
                    ),
                    number(
                        "Waiting records",
                        "Of all topics; a commit marker counts as one.",
                        "sum(topic:mailstreams_consumer_lag_records:sum)",
                        steps=((None, GOOD), (threshold("consumer_lag_records"), LOOK)),
                        alerts=("MailConsumerLagGrowing",),
                        absent="unknown",
                    ),
                    number(
                        "Monitor last ran",
                        "How long ago, in the worker where it is longest. It should run each second. Workers that "
                        "stand by without partitions do not count.",
                        # A monitor that has not run yet reports 0, which is not a time.
                        f"max(time() - ({pick('mailstreams_monitor_last_run_timestamp_seconds', WORKER)} > 0)"
                        " and on (job, instance) mailstreams_partitions_owned > 0)",
                        unit="s",
                        steps=((None, GOOD), (60, LOOK), (threshold("monitor_silence_seconds"), ACT)),
                        alerts=("MailMonitorStalled", "MailMonitorStalledEverywhere"),
                        absent="never",
                    ),
                    number(
                        "Monitor's clock behind",
                        "While a backlog is read, it is earlier for the monitor, so that nothing looks too old.",
                        "max(time() - (mailstreams_monitor_clock_timestamp_seconds > 0))",
                        unit="s",
                        steps=((None, GOOD), (threshold("monitor_behind_seconds"), LOOK)),
                        alerts=("MailMonitorClockBehind",),
                        absent="never",
                    ),
                ],
            ),
            Section(
                "Behind",
                [
                    lines(
                        "Waiting records by topic",
                        "What grows for minutes is a stage that is too slow or stands.",
                        Query("topic:mailstreams_consumer_lag_records:sum", "{{topic}}"),
                        Query("mailstreams:consumer_lag_records:threshold", "limit", limit=True),
                        alerts=("MailConsumerLagGrowing",),
                    ),
                    lines(
                        "History: records not read yet",
                        "By topic: what the pages do not show yet. Empty where no history runs.",
                        Query("topic:mailstreams_history_lag_records:max", "{{topic}}"),
                        Query("mailstreams:history_lag_records:threshold", "limit", limit=True),
                        alerts=("MailHistoryBehind",),
                    ),
                    lines(
                        "Processing delay",
                        "From the broker's timestamp of a batch's last record to its effect, by stage.",
                        Query(quantile(0.5, "mailstreams_processing_delay_seconds", by="stage"), "{{stage}} p50"),
                        Query(quantile(0.99, "mailstreams_processing_delay_seconds", by="stage"), "{{stage}} p99"),
                        unit="s",
                    ),
                    lines(
                        "Since the last commit",
                        "By worker; without traffic it grows, and that is all right.",
                        Query("time() - (mailstreams_last_commit_timestamp_seconds > 0)", "{{instance}}"),
                        unit="s",
                    ),
                    lines(
                        "Monitor: clock behind",
                        "By worker. Until it has caught up, what is deferred is told that much later. Below 0, as the legend "
                        "says, its own clock is ahead, and what is deferred is told too early.",
                        Query(
                            "max by (instance) (time() - (mailstreams_monitor_clock_timestamp_seconds > 0))",
                            "{{instance}}",
                        ),
                        Query("mailstreams:monitor_behind_seconds:threshold", "limit", limit=True),
                        unit="s",
                        alerts=("MailMonitorClockBehind", "MailClockSkew"),
                    ),
                ],
            ),
            Section(
                "Workers",
                [
                    lines(
                        "Partitions by worker",
                        "Source partitions that each one owns.",
                        Query("mailstreams_partitions_owned", "{{instance}}"),
                        alerts=("MailWorkersMissing",),
                        stacked=True,
                    ),
                    lines(
                        "Rebalances and restores",
                        "Assignments that each worker received; 1 while it brings its stores up to date.",
                        Query("increase(mailstreams_rebalances_total[15m])", "{{instance}} assignments in 15 min"),
                        Query("mailstreams_restoring", "{{instance}} restoring"),
                        Query("job:mailstreams_rebalances:limit", "limit", limit=True),
                        alerts=("MailRebalanceStorm",),
                    ),
                    lines(
                        "Starts",
                        "Of each process in 30 min. More than one is a crash, mostly; its log says of what.",
                        Query(
                            'max by (job, instance) (changes(process_start_time_seconds{job=~"mailstreams-.+"}[30m]))',
                            "{{job}} {{instance}}",
                        ),
                        Query("mailstreams:process_restarts:threshold", "limit", limit=True),
                        alerts=("MailProcessRestarts",),
                    ),
                    lines(
                        "Failed scrapes",
                        "How many times in 6 h Prometheus lost each process. A start is one of them, if a scrape falls into it.",
                        Query('max by (job, instance) (resets(up{job=~"mailstreams-.+"}[6h]))', "{{job}} {{instance}}"),
                        Query("mailstreams:scrape_failures:threshold", "limit", limit=True),
                        alerts=("MailScrapesFail",),
                    ),
                    lines(
                        "Rows restored",
                        "Changelog rows read a second at assignments, the offsets that are left to read, and for how long nothing came.",
                        Query("rate(mailstreams_restored_rows_total[$__rate_interval])", "{{instance}} rows a second"),
                        Query("mailstreams_restore_remaining_offsets", "{{instance}} offsets left"),
                        Query("mailstreams_restore_idle_seconds", "{{instance}} seconds without progress"),
                    ),
                    lines(
                        "Tasks",
                        "Of each worker's event loop: they come and go with partitions; a number that only grows is a leak.",
                        Query("mailstreams_asyncio_tasks", "{{instance}}"),
                    ),
                    lines(
                        "Batch time",
                        "From the first fold to the store, by stage.",
                        Query(quantile(0.5, "mailstreams_batch_seconds", by="stage"), "{{stage}} p50"),
                        Query(quantile(0.99, "mailstreams_batch_seconds", by="stage"), "{{stage}} p99"),
                        unit="s",
                    ),
                    lines(
                        "Records in a batch",
                        "On average, by stage: it grows under load.",
                        Query(
                            share(
                                "sum by (stage) (rate(mailstreams_batch_records_sum[$__rate_interval]))",
                                "sum by (stage) (rate(mailstreams_batch_records_count[$__rate_interval]))",
                            ),
                            "{{stage}}",
                        ),
                    ),
                    lines(
                        "Monitor: time of a run",
                        "It costs what is due and not what is open.",
                        Query(quantile(0.5, "mailstreams_monitor_run_seconds"), "p50"),
                        Query(quantile(0.99, "mailstreams_monitor_run_seconds"), "p99"),
                        unit="s",
                        alerts=("MailMonitorStalled",),
                    ),
                ],
            ),
            Section(
                "What must not be",
                [
                    lines(
                        "Dead letters by stage",
                        "Records, or parts of them, that were not understood. `mailstreams dead-letters list`.",
                        Query("sum by (stage) (increase(mailstreams_dead_letters_total[15m]))", "{{stage}} in 15 min"),
                        alerts=("MailDeadLetters",),
                    ),
                    lines(
                        "Offsets skipped",
                        "Deleted by retention before they were read: loss.",
                        Query("sum by (topic) (mailstreams_skipped_offsets_total)", "{{topic}} since the start"),
                        alerts=("MailRecordsSkipped",),
                    ),
                    table(
                        "Which partitions stand",
                        "Mend the cause, then `mailstreams resume TOPIC PARTITION`.",
                        {"stopped": STOPPED},
                        steps=((None, GOOD), (1, ACT)),
                        alerts=("MailPartitionStopped",),
                        width=12,
                    ),
                    lines(
                        "Stores rebuilt",
                        "They were corrupt and were made anew from the changelog. The disk may be failing.",
                        Query("mailstreams_store_rebuilds_total", "{{instance}} since its start"),
                        alerts=("MailStoreRebuilt",),
                    ),
                ],
            ),
            Section(
                "Ingress",
                [
                    lines(
                        "Webhooks by answer",
                        "Anything but 200 is repeated by the provider, or lost.",
                        Query("sum by (code) (rate(mailstreams_webhook_requests_total[$__rate_interval]))", "{{code}}"),
                        unit="reqps",
                        alerts=("MailWebhooksRefused",),
                        stacked=True,
                    ),
                    lines(
                        "Webhooks refused",
                        "By account and reason; a signature that fails is a secret that was changed on one side only.",
                        Query(
                            "sum by (provider, account, reason) "
                            f"(rate({pick('mailstreams_webhook_rejected_total', HANDLED)}[$__rate_interval]))",
                            "{{provider}} {{account}} {{reason}}",
                        ),
                        unit="reqps",
                        alerts=("MailWebhooksRefused",),
                    ),
                    lines(
                        "Time to answer",
                        "From a request's head to its answer, all in-sync replicas included.",
                        Query(quantile(0.5, "mailstreams_webhook_request_seconds", by="provider"), "{{provider}} p50"),
                        Query(quantile(0.99, "mailstreams_webhook_request_seconds", by="provider"), "{{provider}} p99"),
                        unit="s",
                    ),
                    lines(
                        "Time of the broker",
                        "From handing over a batch until all in-sync replicas have it.",
                        Query(quantile(0.5, "mailstreams_ingress_produce_seconds"), "p50"),
                        Query(quantile(0.99, "mailstreams_ingress_produce_seconds"), "p99"),
                        unit="s",
                    ),
                    lines(
                        "Records and batches that failed",
                        "Records that all in-sync replicas have, and batches that were not acknowledged, by topic.",
                        Query(
                            "sum by (topic) (rate(mailstreams_ingress_records_total[$__rate_interval]))", "{{topic}}"
                        ),
                        Query(
                            "sum by (topic) (rate(mailstreams_ingress_produce_failures_total[$__rate_interval]))",
                            "{{topic}} failed",
                            limit=True,
                        ),
                        unit="cps",
                        alerts=("MailIngressMissing",),
                    ),
                    lines(
                        "Webhooks that left no record",
                        "Answered 200, and there was nothing to write: head, ping, repeated.",
                        Query(
                            "sum by (reason) (rate(mailstreams_webhook_unrecorded_total[$__rate_interval]))",
                            "{{reason}}",
                        ),
                        unit="reqps",
                    ),
                    lines(
                        "In work: requests",
                        "By ingress.",
                        Query("mailstreams_ingress_requests_in_flight", "{{instance}}"),
                        width=8,
                    ),
                    lines(
                        "In work: bytes of bodies",
                        "By ingress; at its limit it answers 503.",
                        Query("mailstreams_ingress_bytes_in_flight", "{{instance}}"),
                        unit="bytes",
                        width=8,
                    ),
                    lines(
                        "Certificates",
                        "Downloads of Amazon SNS's signing certificates.",
                        Query(
                            "sum by (outcome) (mailstreams_ingress_certificates_total)", "{{outcome}} since the start"
                        ),
                        width=8,
                    ),
                    lines(
                        "Certificate expires in",
                        "The certificate of the public port, by ingress; no line where a proxy speaks TLS.",
                        Query(
                            "(mailstreams_ingress_certificate_expiry_timestamp_seconds > 0) - time()", "{{instance}}"
                        ),
                        Query("mailstreams:certificate_left_seconds:threshold", "limit", limit=True),
                        unit="s",
                        alerts=("MailCertificateExpires",),
                    ),
                    lines(
                        "Requests to POST /sends",
                        "By outcome.",
                        Query(
                            "sum by (outcome) (rate(mailstreams_sends_requests_total[$__rate_interval]))", "{{outcome}}"
                        ),
                        unit="reqps",
                    ),
                    lines(
                        "Sends and webhooks taken in",
                        "Sends that the application told; webhook requests that became events.",
                        Query("sum(rate(mailstreams_sends_total[$__rate_interval]))", "sends"),
                        Query(
                            "sum by (provider) (rate(mailstreams_webhook_requests_normalised_total[$__rate_interval]))",
                            "{{provider}}",
                        ),
                        unit="cps",
                    ),
                ],
            ),
            Section(
                "Versions",
                [
                    table(
                        "Versions",
                        "Which runs where; during a roll-out there are two.",
                        {"processes": "count by (job, version) (mailstreams_build_info)"},
                    )
                ],
            ),
        ],
    )
