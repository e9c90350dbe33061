"""The books of a soak: they balance for what the product's own stages make of a load, and see each kind of mistake."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from streams import topics
from streams.agents.track import Track
from streams.kafka.lanes import Effects
from streams.policies import policies_of
from streams.settings import load
from tests.broker.harness import raw_headers
from tests.faults.oracle import _sources
from tests.faults.soak import books
from tests.faults.soak.books import Ids, Partition
from tests.faults.soak.load import PER_BODY, Bodies

SETTINGS = load(environment={"MAILSTREAMS_TOPICS__PARTITIONS": "1"})
WARN_AFTER_US = int(SETTINGS.deferrals.warn_after_s * 1_000_000)
Rows = list[tuple[bytes, bytes | None]]


def rows_of(effects: Effects, topic: str) -> Rows:
    return [(row.key or b"", row.value) for (name, _), rows in effects.outputs.items() if name == topic for row in rows]


def played(bodies: Bodies, count: int) -> dict[str, Rows]:
    """What the stages write for so many bodies; then everything expires."""
    apply = dict(_sources(SETTINGS))[topics.raw_topic("sendgrid")]
    track = Track(
        status_changed_topic=topics.STATUS_CHANGED,
        status_topic=topics.STATUS,
        deferrals_topic=topics.DEFERRALS,
        support_contacts={},
        policies=policies_of(SETTINGS),
        held=lambda _provider, _partition: False,
        expire_after_us=1,
        objective_us=1,
    )
    rows: dict[bytes, bytes] = {}
    logs: dict[str, Rows] = {topics.EVENTS: [], topics.STATUS_CHANGED: [], topics.STATUS: []}
    for offset in range(count):
        raw = record(topics.raw_topic("sendgrid"), offset, None, next(bodies), raw_headers("sendgrid"))
        effects = Effects()
        apply(raw, effects)
        for key, value in rows_of(effects, topics.EVENTS):
            logs[topics.EVENTS].append((key, value))
            after = Effects()
            track.record(record(topics.EVENTS, 0, key, value, []), 0, rows.get, after)
            rows |= {key: row for key, row in after.rows.items() if row is not None}
            for topic in (topics.STATUS_CHANGED, topics.STATUS):
                logs[topic] += rows_of(after, topic)
    logs[topics.STATUS] += [(key, None) for key in rows]
    return logs


def record(topic: str, offset: int, key: bytes | None, value: bytes | None, headers: Any) -> Any:
    return SimpleNamespace(
        topic=topic, partition=0, offset=offset, key=key, value=value, headers=headers, timestamp=1_800_000_000_000
    )


def found(logs: dict[str, Rows], ids: Ids) -> Counter[str]:
    book = Partition(ids, warn_after_us=WARN_AFTER_US)
    for key, value in logs[topics.EVENTS]:
        book.event(key, value or b"")
    for key, value in logs[topics.STATUS_CHANGED]:
        book.told(key, value or b"")
    for key, value in logs[topics.STATUS]:
        book.shown(key, value)
    counts: Counter[str] = Counter()
    for kind, count in book.differences():
        counts[kind] += count
    return counts


@pytest.fixture(scope="module")
def made() -> tuple[Bodies, dict[str, Rows]]:
    bodies = Bodies(7)
    return bodies, played(bodies, 100)


def test_what_the_stages_make_of_a_load_balances(made: tuple[Bodies, dict[str, Rows]]) -> None:
    bodies, logs = made
    ids = Ids(bodies.events)

    assert found(logs, ids) == {}

    assert (ids.missing, ids.foreign) == (0, 0)
    assert len(logs[topics.STATUS_CHANGED]) > 500
    assert bodies.events < len(logs[topics.EVENTS]) <= 100 * PER_BODY, "some are said twice"


def test_events_that_stand_there_twice_change_nothing(made: tuple[Bodies, dict[str, Rows]]) -> None:
    bodies, logs = made
    events = logs[topics.EVENTS]
    again = [*events[:700], *events[600:]]
    assert found({**logs, topics.EVENTS: again}, Ids(bodies.events)) == {}


@pytest.mark.parametrize(
    ("topic", "harm", "expected"),
    [
        (topics.STATUS_CHANGED, lambda rows: rows[:-1], {"lost": 1}),
        (topics.STATUS_CHANGED, lambda rows: [*rows, rows[9]], {"repeated": 1}),
        (topics.STATUS_CHANGED, lambda rows: [(rows[0][0], b"{}"), *rows[1:]], {"wrong": 1}),
        (topics.STATUS_CHANGED, lambda rows: [*rows, (b"nobody", b"{}")], {"repeated": 1}),
        (topics.STATUS, lambda rows: rows[:-2], {"wrong": 2}),
    ],
    ids=["a change lost", "a change told twice", "another value", "a delivery of nobody", "two that never expire"],
)
def test_a_mistake_is_seen(
    made: tuple[Bodies, dict[str, Rows]], topic: str, harm: Any, expected: dict[str, int]
) -> None:
    bodies, logs = made
    assert found({**logs, topic: harm(logs[topic])}, Ids(bodies.events)) == expected


def test_two_changes_in_the_wrong_order_are_seen(made: tuple[Bodies, dict[str, Rows]]) -> None:
    bodies, logs = made
    by_key: dict[bytes, list[int]] = {}
    for place, (key, _) in enumerate(logs[topics.STATUS_CHANGED]):
        by_key.setdefault(key, []).append(place)
    first, second = next(places for places in by_key.values() if len(places) > 1)[:2]
    swapped = list(logs[topics.STATUS_CHANGED])
    swapped[first], swapped[second] = swapped[second], swapped[first]
    assert found({**logs, topics.STATUS_CHANGED: swapped}, Ids(bodies.events)) == {"wrong": 1}


def test_an_event_that_is_missing_and_one_of_nobody_are_seen(made: tuple[Bodies, dict[str, Rows]]) -> None:
    bodies, logs = made
    ids = Ids(bodies.events)
    found({**logs, topics.EVENTS: logs[topics.EVENTS][:-1]}, ids)
    assert ids.missing == 1
    ids = Ids(bodies.events - 1)
    found(logs, ids)
    assert ids.foreign == 1


def test_news_of_a_delivery_whose_facts_are_gone_is_no_verdict(
    made: tuple[Bodies, dict[str, Rows]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies, logs = made
    monkeypatch.setattr(books, "KEPT", 2)
    with pytest.raises(AssertionError, match="closed"):
        found(logs, Ids(bodies.events))
