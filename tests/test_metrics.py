import re
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from streams.agents.track import Track
from streams.app import build
from streams.domain.advice import ALERT_ACTIONS
from streams.domain.destinations import DESTINATIONS
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.objective import Judgement
from streams.domain.reasons import ReasonClass
from streams.domain.status import Outcome, Status
from streams.kafka.batches import Batch
from streams.kafka.lanes import Count, Effects
from streams.metrics import HistoryMetrics, IngressMetrics, Metrics
from streams.observe import COUNTED, Observer
from streams.policies import policies_of
from streams.providers import PROVIDERS
from streams.records import encode_event
from streams.settings import Settings
from tests.domain.deliveries import event
from tests.kafka.fakes import SOURCE, batch, record

UNITS = ("_seconds", "_records", "_offsets", "_rows", "_events", "_info", "_bytes")
ADDRESS = "anna@example.com"


def created() -> Metrics:
    return Metrics.create(CollectorRegistry(), version="1.2.3")


def families(metrics: Metrics) -> list[Metric]:
    """Return our own, without the usual ones of a process."""
    return [family for family in metrics.registry.collect() if not family.name.startswith("process_")]


def observer(metrics: Metrics) -> Observer:
    return Observer(metrics, lambda point, tp: None)  # noqa: ARG005 - the protocol's


def test_every_name_begins_with_ours_and_has_a_help_text() -> None:
    for family in families(created()):
        assert family.name.startswith("mailstreams_")
        assert re.fullmatch(r"[a-z_]+", family.name)
        assert len(family.documentation) > 5


def test_times_are_in_seconds_and_no_name_says_total_by_itself() -> None:
    for family in families(created()):
        assert not re.search(r"_(ms|milliseconds|us|minutes|kb|total)(_|$)", family.name), family.name
        if re.search(r"time|delay|duration|latency", family.name):
            assert family.name.endswith("_seconds"), family.name
        if family.type == "histogram":
            assert family.name.endswith(UNITS), family.name


def test_all_metrics_of_the_class_are_on_the_registry_given_and_on_no_other() -> None:
    from prometheus_client import REGISTRY  # noqa: PLC0415 - only to see that it is not used

    metrics = created()
    names = {family.name for family in families(metrics)}
    assert len(names) == len(Metrics.__slots__) - 1 + 2, "open_deferrals is three of them"
    assert not names & {family.name for family in REGISTRY.collect()}
    created()  # a second worker in one process


def test_the_version_is_told() -> None:
    assert b'mailstreams_build_info{version="1.2.3"} 1.0' in generate_latest(created().registry)


@pytest.mark.parametrize("kind", [Metrics, IngressMetrics, HistoryMetrics])
def test_every_process_tells_when_it_was_started(kind: type[Metrics | IngressMetrics | HistoryMetrics]) -> None:
    registry = CollectorRegistry()
    kind.create(registry, version="1")
    started = registry.get_sample_value("process_start_time_seconds")
    assert started is not None
    assert 0 < time.time() - started < 86_400
    assert registry.get_sample_value("process_start_time_seconds") == started


def test_a_batch_is_counted_once_for_all_its_records() -> None:
    metrics = created()
    effects = Effects()
    effects.counts["events", "sendgrid", "delivered", "applied"] += 3
    effects.counts["changes", "sendgrid", "gmail", "delivered"] += 2
    effects.counts["requests", "sendgrid"] += 1
    effects.counts["clock_skew", "sendgrid"] += 1
    effects.counts["dead_letters", "track"] += 4
    effects.counts["expired",] += 5
    observer(metrics).committed(SOURCE, batch(record(1), record(2)), effects, 0.25, "track")

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("mailstreams_events_total", provider="sendgrid", type="delivered", outcome="applied") == 3
    assert value("mailstreams_status_changes_total", provider="sendgrid", destination="gmail", status="delivered") == 2
    assert value("mailstreams_webhook_requests_normalised_total", provider="sendgrid") == 1
    assert value("mailstreams_clock_skew_events_total", provider="sendgrid") == 1
    assert value("mailstreams_dead_letters_total", stage="track") == 4
    assert value("mailstreams_deliveries_expired_total") == 5
    assert value("mailstreams_batch_seconds_sum", stage="track") == 0.25
    assert value("mailstreams_batch_records_sum", stage="track") == 2


def test_a_tick_counts_as_a_batch_without_records() -> None:
    metrics = created()
    observer(metrics).committed(SOURCE, Batch(SOURCE, (), 5, 7), Effects(), 0.1, "track")
    assert metrics.registry.get_sample_value("mailstreams_batch_seconds_count", {"stage": "track"}) == 1
    assert metrics.registry.get_sample_value("mailstreams_batch_records_count", {"stage": "track"}) in (None, 0)


def test_every_count_that_a_stage_may_make_has_a_metric_with_its_labels() -> None:
    metrics = created()
    shapes = {name: len(labels) for name, *labels in counts_there_are()}
    assert shapes.pop("open_deferrals") == 4, "a gauge, of which the last label is no label but a time"
    assert {name: len(counted.counter(metrics)._labelnames) for name, counted in COUNTED.items()} == shapes
    assert {name for name, counted in COUNTED.items() if counted.counter(metrics)._labelnames[:1] == ("provider",)} == {
        name for name, counted in COUNTED.items() if counted.by_provider
    }


def test_every_count_that_a_stage_may_make_is_told() -> None:
    metrics = created()
    effects = Effects()
    for count in counts_there_are():
        effects.counts[count] += 1
    observer(metrics).committed(SOURCE, batch(record(1)), effects, 0.1, "track")
    for counted in COUNTED.values():
        [family] = counted.counter(metrics).collect()
        assert sum(sample.value for sample in family.samples if sample.name.endswith("_total")) == 1


def counts_there_are() -> list[Any]:
    """Return one of each ``lanes.Count``, with labels that nobody has."""
    found = []
    for shape in get_args(Count):
        names, *labels = get_args(shape)
        found += [(name, *("x" if label is str else 7 for label in labels)) for name in get_args(names)]
    return found


def test_a_stopped_partition_is_told_until_it_is_resumed_or_moves() -> None:
    metrics = created()
    watching = observer(metrics)
    labels = {"topic": SOURCE.topic, "partition": str(SOURCE.partition)}
    watching.stopped(SOURCE, "too many")
    assert metrics.registry.get_sample_value("mailstreams_partition_stopped", labels) == 1
    assert watching.stopped_partitions == {SOURCE: "too many"}
    watching.resumed(SOURCE)
    assert metrics.registry.get_sample_value("mailstreams_partition_stopped", labels) == 0
    watching.stopped(SOURCE, "again")
    watching.assigned(3)
    assert metrics.registry.get_sample_value("mailstreams_partition_stopped", labels) is None
    assert watching.stopped_partitions == {}


def test_a_deferral_whose_end_waits_behind_what_was_stopped_has_no_age_until_all_of_it_is_resumed() -> None:
    metrics = created()
    watching = observer(metrics)
    metrics.open_deferrals.load(SOURCE.partition, {("sendgrid", "gmail", "", 7): 1})

    def oldest() -> float | None:
        return metrics.registry.get_sample_value(
            "mailstreams_deferred_oldest_timestamp_seconds", {"provider": "sendgrid", "destination": "gmail"}
        )

    events, deferrals = SOURCE, TP("mail.deferrals", SOURCE.partition)
    for elsewhere in (TP("mail.raw.mailgun", SOURCE.partition), TP("mail.events", SOURCE.partition + 1)):
        watching.stopped(elsewhere, "too many")
        assert oldest() == 70
    watching.stopped(events, "too many")
    watching.stopped(deferrals, "too many")
    assert oldest() is None
    watching.resumed(events)
    assert oldest() is None
    watching.resumed(deferrals)
    assert oldest() == 70
    watching.stopped(events, "again")
    watching.assigned(3)
    assert oldest() == 70


def test_lag_of_partitions_that_moved_away_is_told_no_more() -> None:
    metrics = created()
    for partition in range(4):
        metrics.lag.labels(SOURCE.topic, str(partition)).set(1)
    observer(metrics).assigned(0)
    assert b"mailstreams_consumer_lag_records{" not in generate_latest(metrics.registry)


def test_a_worker_that_stands_by_has_no_monitor_that_ran_and_one_that_keeps_a_partition_has() -> None:
    metrics = created()
    watching = observer(metrics)
    watching.ticked(SOURCE, Batch(SOURCE, (), 5, 7), Effects(), 0.1, "monitor")

    def last_run() -> float | None:
        return metrics.registry.get_sample_value("mailstreams_monitor_last_run_timestamp_seconds")

    ran = last_run()
    watching.revoked()
    watching.assigned(1)
    assert last_run() == ran != 0
    watching.revoked()
    watching.assigned(0)
    assert last_run() == 0


def test_what_was_told_of_partitions_ends_when_they_are_given_back_and_not_only_at_the_next_assignment() -> None:
    metrics = created()
    watching = observer(metrics)
    metrics.lag.labels(SOURCE.topic, str(SOURCE.partition)).set(1)
    watching.ticked(SOURCE, Batch(SOURCE, (), 5, 7), Effects(), 0.1, "monitor")
    ours = (b"mailstreams_consumer_lag_records{", b"mailstreams_monitor_clock_timestamp_seconds{")
    assert all(name in generate_latest(metrics.registry) for name in ours)
    watching.revoked()
    assert not any(name in generate_latest(metrics.registry) for name in ours)


async def test_a_worker_that_the_brokers_do_not_reach_says_nothing_of_partitions_that_another_one_has_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = build(Settings.model_validate({"worker": {"datadir": tmp_path}, "kafka": {"session_timeout_s": 30}}))
    observer = cast("Observer", worker.app.restoring.hooks)
    registry = observer.metrics.registry
    observer.assigned(8)
    observer.metrics.lag.labels(SOURCE.topic, str(SOURCE.partition)).set(7)
    observer.metrics.open_deferrals.load(0, {("sendgrid", "gmail", "raised", 7): 5})
    observer.ticked(SOURCE, Batch(SOURCE, (), 5, 7), Effects(), 0.1, "monitor")
    observer.stopped(SOURCE, "too many")
    of_partitions = {
        b"mailstreams_consumer_lag_records{",
        b"mailstreams_monitor_clock_timestamp_seconds{",
        b"mailstreams_deferred_stuck{",
        b"mailstreams_deferred_age_seconds_bucket{",
    }

    def shown() -> set[bytes]:
        return {name for name in of_partitions if name in generate_latest(registry)}

    assert shown() == of_partitions, "before the first look nothing is known to be lost"
    now = time.monotonic()
    monkeypatch.setattr(worker.progress, "_heard_at", now)
    monkeypatch.setattr(worker.progress, "_looked_at", now)
    monkeypatch.setattr("streams.kafka.progress.time.monotonic", lambda: now + 29)
    assert shown() == of_partitions
    monkeypatch.setattr("streams.kafka.progress.time.monotonic", lambda: now + 30)
    assert shown() == set()
    assert registry.get_sample_value("mailstreams_partitions_owned") == 8, "else no alert says that its monitor stands"
    stopped = {"topic": SOURCE.topic, "partition": str(SOURCE.partition)}
    assert registry.get_sample_value("mailstreams_partition_stopped", stopped) == 1, "a person has to resume it"
    monkeypatch.setattr(worker.progress, "_heard_at", now + 30)
    assert shown() == of_partitions - {b"mailstreams_consumer_lag_records{"}, "a topic fails: the lag is an old one"
    monkeypatch.setattr(worker.progress, "_looked_at", now + 30)
    assert shown() == of_partitions


# -- beginning at 0 --------------------------------------------------------------------------------------------------------------------

CLOSED: dict[str, Collection[str]] = {
    "provider": (*PROVIDERS, "unknown"),
    "type": tuple(EventType),
    "status": tuple(Status),
    "destination": tuple(DESTINATIONS),
    "reason_class": tuple(ReasonClass),
    "stage": ("normalise", "sends", "track", "monitor"),
    "topic": (*(f"mail.raw.{name}" for name in PROVIDERS), "mail.sends", "mail.events", "mail.deferrals"),
}
"""Labels of which all values are known beforehand."""
OUTCOMES: dict[str, Collection[str]] = {"mailstreams_events": tuple(Outcome), "mailstreams_objective": tuple(Judgement)}
EXCEPTIONS = {
    "mailstreams_time_to_deliver": "all pairs would make /metrics larger by a third, and no alert reads it",
    "mailstreams_deferral_alerts": "not every level has every action; those that are possible are looked at below",
    "mailstreams_deferred_oldest_timestamp": "nothing is open, and 0 would be the year 1970",
    "mailstreams_deferred_age": "a gauge of what is open now: nothing is lost by its first value",
    "mailstreams_deferred_stuck": "a gauge of what is open now",
    "mailstreams_monitor_clock_timestamp": "of the partitions that are owned: of none yet",
    "mailstreams_consumer_lag": "of the partitions that are owned: of none yet",
    "mailstreams_partition_stopped": "of the partitions that are owned: of none yet",
    "mailstreams_build": "its label says which version this is",
}


async def test_every_series_whose_labels_are_known_beforehand_is_there_on_a_new_worker(tmp_path: Path) -> None:
    worker = build(Settings.model_validate({"worker": {"datadir": tmp_path}}))
    registry = worker.health_server._registry
    unexplained = set(EXCEPTIONS)
    for family in registry.collect():
        if family.name.startswith("process_"):
            continue
        exception = next((name for name in EXCEPTIONS if family.name.startswith(name)), None)
        if exception is not None:
            unexplained.discard(exception)
            continue
        [*names] = next(
            getattr(collector, "_labelnames", ())
            for collector, owned in registry._collector_to_names.items()
            if family.name in owned
        )
        values = [OUTCOMES[family.name] if name == "outcome" else CLOSED[name] for name in names]
        found = {tuple(sample.labels[name] for name in names) for sample in family.samples}
        assert found == {tuple(map(str, labels)) for labels in product(*values)}, family.name
    assert not unexplained, "an exception that is none any more"


def test_every_alert_that_can_be_told_is_there_on_a_new_worker() -> None:
    metrics = created()
    for provider in CLOSED["provider"]:
        for level, actions in ALERT_ACTIONS.items():
            for action in actions:
                labels = {"provider": provider, "level": level, "action": action}
                assert metrics.registry.get_sample_value("mailstreams_deferral_alerts_total", labels) == 0


# -- bounded labels ------------------------------------------------------------------------------------------------------------------


def series(metrics: Metrics) -> int:
    return sum(len(family.samples) for family in families(metrics))


def committed(metrics: Metrics, happened: Sequence[DeliveryEvent]) -> None:
    """Let ``track`` fold events as they stand on ``mail.events``, and commit."""
    fold = Track(
        status_changed_topic="c",
        status_topic="s",
        deferrals_topic="d",
        support_contacts={},
        policies=policies_of(Settings()),
        held=lambda _provider, _partition: False,
        expire_after_us=1,
        objective_us=1,
    )
    effects = Effects()
    for offset, each in enumerate(happened):
        fold.record(
            record(offset, encode_event(each, "mail.raw.x/0/1"), key=each.delivery_id.encode()),
            0,
            effects.rows.get,
            effects,
        )
    observer(metrics).committed(TP("mail.events", 0), batch(record(1)), effects, 0.1, "track")


def hostile(number: int, provider: str) -> DeliveryEvent:
    made = event(
        EventType.DELIVERED,
        0,
        event_id=f"e{number}",
        recipient=f"payer{number}@example.com",
        reason=f"reason {number}",
        tags=(f"tag{number}",),
        metadata={f"key{number}": "value"},
        reference=f"INV-{number}",
    )
    return replace(
        made,
        provider=provider,
        account=f"account{number}",
        message_id=f"m{number}",
        provider_event=f"word{number}",
        user_agent=f"agent {number}",
    )


def test_a_thousand_deliveries_make_no_more_series_than_one() -> None:
    one, many = created(), created()
    committed(one, [hostile(0, "sendgrid")])
    committed(many, [hostile(number, "sendgrid") for number in range(1_000)])
    assert series(many) == series(one)


def test_a_provider_that_nobody_knows_gets_no_series_of_its_own_and_an_address_is_never_a_label() -> None:
    known, strange = created(), created()
    committed(known, [hostile(0, "sendgrid")])
    committed(strange, [hostile(number, f"payer{number}@example.com") for number in range(100)])
    assert series(strange) <= series(known)
    assert b"@" not in generate_latest(strange.registry)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=30, unique=True))
def test_series_are_bounded_whatever_the_events_say(providers: list[str]) -> None:
    metrics = created()
    texts = [each for each in providers if each.encode("utf-8", "replace").decode() == each]
    committed(metrics, [hostile(number, each) for number, each in enumerate(texts)])
    labels = {
        sample.labels["provider"]
        for family in families(metrics)
        for sample in family.samples
        if "provider" in sample.labels
    }
    assert labels <= {*PROVIDERS, "unknown"}


LABELS = {"provider", "type", "outcome", "status", "stage", "topic", "partition", "version", "le"}
LABELS |= {"destination", "level", "reason_class", "action"}


def test_this_is_the_list_of_labels() -> None:
    labels = {
        label for metric in created().registry._collector_to_names for label in getattr(metric, "_labelnames", ())
    }
    assert labels | {"le"} == LABELS
