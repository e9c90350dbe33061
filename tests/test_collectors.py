"""The collectors against prometheus_client's own parser: what a scrape sees is what was counted."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from streams.collectors import QSHAPE_SECONDS, SLOT_S, BulkHistogram, OpenDeferrals, slot_of

NOW = 1_790_000_000
LEVELS = ("raised", "escalated", "overdue")
GMAIL, OTHER = ("sendgrid", "gmail"), ("sendgrid", "other")


def collector() -> tuple[OpenDeferrals, CollectorRegistry]:
    registry = CollectorRegistry()
    return OpenDeferrals("mailstreams", LEVELS, registry, given_up="overdue", clock=lambda: float(NOW)), registry


def began(seconds_ago: float) -> int:
    return slot_of(round((NOW - seconds_ago) * 1_000_000))


def value(registry: CollectorRegistry, name: str, pair: tuple[str, str], **labels: str) -> float | None:
    return registry.get_sample_value(name, {"provider": pair[0], "destination": pair[1]} | labels)


# -- open deferrals -------------------------------------------------------------------------------------------------------------


def test_the_oldest_the_ages_and_the_levels_are_shown() -> None:
    open_, registry = collector()
    open_.load(0, {(*GMAIL, "", began(100)): 2, (*GMAIL, "raised", began(4_000)): 1})

    assert value(registry, "mailstreams_deferred_oldest_timestamp_seconds", GMAIL) == NOW - 4_000
    within = [
        value(registry, "mailstreams_deferred_age_seconds_bucket", GMAIL, le=str(float(s))) for s in QSHAPE_SECONDS
    ]
    assert within[:5] == [2, 2, 2, 2, 3]
    assert value(registry, "mailstreams_deferred_age_seconds_bucket", GMAIL, le="+Inf") == 3
    assert value(registry, "mailstreams_deferred_age_seconds_gcount", GMAIL) == 3
    assert value(registry, "mailstreams_deferred_age_seconds_gsum", GMAIL) == 4_200
    stuck = {level: value(registry, "mailstreams_deferred_stuck", GMAIL, level=level) for level in LEVELS}
    assert stuck == {"raised": 1, "escalated": 0, "overdue": 0}


def test_qshapes_buckets_are_those_of_postfix() -> None:
    assert [seconds / 60 for seconds in QSHAPE_SECONDS] == [5, 10, 20, 40, 80, 160, 320, 640, 1280]


def test_no_series_is_shown_where_nothing_is_open() -> None:
    open_, registry = collector()
    open_.load(0, {})
    open_.add(0, (*GMAIL, "", began(1)), 1)
    open_.add(0, (*GMAIL, "", began(1)), -1)
    assert b"mailstreams_deferred_" not in b"".join(
        line for line in generate_latest(registry).splitlines() if not line.startswith(b"#")
    )


def test_partitions_are_added_up_and_one_that_moved_away_is_shown_no_more() -> None:
    open_, registry = collector()
    for partition in (0, 1):
        open_.load(partition, {(*GMAIL, "raised", began(10)): 1})
    assert value(registry, "mailstreams_deferred_stuck", GMAIL, level="raised") == 2
    open_.forget(0)
    assert value(registry, "mailstreams_deferred_stuck", GMAIL, level="raised") == 1
    open_.forget(1)
    assert value(registry, "mailstreams_deferred_stuck", GMAIL, level="raised") is None


def test_what_is_counted_of_a_partition_that_is_not_shown_is_dropped() -> None:
    open_, registry = collector()
    open_.add(7, (*GMAIL, "", began(1)), 1)
    assert value(registry, "mailstreams_deferred_oldest_timestamp_seconds", GMAIL) is None


def test_a_stopped_partition_has_no_oldest_one_and_is_counted_all_the_same() -> None:
    open_, registry = collector()
    open_.load(0, {(*GMAIL, "", began(100)): 1})
    open_.load(1, {(*GMAIL, "raised", began(4_000)): 1, (*OTHER, "raised", began(5_000)): 1})
    open_.leave_out_of_oldest([1])

    assert value(registry, "mailstreams_deferred_oldest_timestamp_seconds", GMAIL) == began(100) * SLOT_S
    assert value(registry, "mailstreams_deferred_oldest_timestamp_seconds", OTHER) is None
    assert value(registry, "mailstreams_deferred_stuck", OTHER, level="raised") == 1
    assert value(registry, "mailstreams_deferred_age_seconds_gcount", OTHER) == 1
    open_.leave_out_of_oldest([])
    assert value(registry, "mailstreams_deferred_oldest_timestamp_seconds", OTHER) == began(5_000) * SLOT_S


def test_what_its_provider_has_given_up_is_old_no_longer_but_stuck() -> None:
    open_, registry = collector()
    open_.load(0, {(*GMAIL, "overdue", began(90_000)): 1, (*GMAIL, "raised", began(3_600)): 1})
    assert value(registry, "mailstreams_deferred_oldest_timestamp_seconds", GMAIL) == began(3_600) * SLOT_S
    open_.add(0, (*GMAIL, "raised", began(3_600)), -1)
    assert value(registry, "mailstreams_deferred_oldest_timestamp_seconds", GMAIL) is None
    assert value(registry, "mailstreams_deferred_stuck", GMAIL, level="overdue") == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from([GMAIL, OTHER]), st.sampled_from(["", *LEVELS]), st.integers(0, 100_000), st.booleans()
        ),
        max_size=40,
    )
)
def test_a_scrape_shows_what_was_added_and_not_taken_away(
    steps: list[tuple[tuple[str, str], str, int, bool]],
) -> None:
    open_, registry = collector()
    open_.load(0, {})
    model: Counter[tuple[str, str, str, int]] = Counter()
    for pair, level, seconds_ago, goes in steps:
        key = (*pair, level, began(seconds_ago))
        n = -1 if goes and model[key] else 1
        model[key] += n
        open_.add(0, key, n)
    for pair in (GMAIL, OTHER):
        of_pair = {key: n for key, n in model.items() if key[:2] == pair and n}
        total = sum(of_pair.values())
        assert (value(registry, "mailstreams_deferred_age_seconds_gcount", pair) or 0) == total
        oldest = min((key[3] * SLOT_S for key in of_pair if key[2] != "overdue"), default=None)
        assert value(registry, "mailstreams_deferred_oldest_timestamp_seconds", pair) == oldest
        for level in LEVELS:
            expected = sum(n for key, n in of_pair.items() if key[2] == level) if total else None
            assert value(registry, "mailstreams_deferred_stuck", pair, level=level) == expected


def test_prometheus_can_read_it_in_both_of_its_formats() -> None:
    open_, registry = collector()
    open_.load(0, {(*GMAIL, "raised", began(10)): 1})
    text = openmetrics(registry).decode()  # type: ignore[no-untyped-call] # of prometheus_client
    families = {family.name: family.type for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call] # of prometheus_client
    assert families == {
        "mailstreams_deferred_oldest_timestamp_seconds": "gauge",
        "mailstreams_deferred_age_seconds": "gaugehistogram",
        "mailstreams_deferred_stuck": "gauge",
    }
    assert b'mailstreams_deferred_age_seconds_bucket{destination="gmail",le="300.0",provider="sendgrid"} 1.0' in (
        generate_latest(registry)
    )


# -- a histogram in bulk --------------------------------------------------------------------------------------------------------

BOUNDS = (1, 5, 15)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.lists(st.floats(0, 30), max_size=5)), max_size=8))
def test_it_shows_what_prometheus_own_histogram_shows(batches: list[tuple[str, list[float]]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BulkHistogram("took_seconds", "x", ["who"], BOUNDS, ours)
    plain = Histogram("took_seconds", "x", ["who"], buckets=BOUNDS, registry=theirs)
    for who, values in batches:
        bulk.observe((who,), values)
        for each in values:
            plain.labels(who).observe(each)
        plain.labels(who)
    for who in ("a", "b"):
        for name, labels in [
            *(("took_seconds_bucket", {"who": who, "le": le}) for le in ("1.0", "5.0", "15.0", "+Inf")),
            ("took_seconds_count", {"who": who}),
            ("took_seconds_sum", {"who": who}),
        ]:
            expected = theirs.get_sample_value(name, labels)
            assert ours.get_sample_value(name, labels) == (expected if expected is None else pytest.approx(expected))
