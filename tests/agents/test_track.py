from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import records
from streams.agents.track import EXPIRED_PER_TICK, Track
from streams.domain import status
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.objective import WORD_WITHIN
from streams.kafka.batches import Record, Row
from streams.kafka.lanes import Effects
from streams.kafka.store import Budget, Changes, Store, open_store
from streams.policies import LOOK_AGAIN_US, policies_of
from streams.records import RecordError, RowError
from streams.settings import Account, DeferralOverrides, Settings
from tests.domain.deferrals import GREYLISTED, THROTTLED
from tests.domain.deliveries import at, event, histories
from tests.kafka.fakes import TIME_MS, record

CHANGED, STATUS, DEFERRALS = "mail.status-changed", "mail.status", "mail.deferrals"
DAY_US = 86_400_000_000
TRACK = Track(
    status_changed_topic=CHANGED,
    status_topic=STATUS,
    deferrals_topic=DEFERRALS,
    support_contacts={"main": "the support desk"},
    policies=policies_of(Settings()),
    held=lambda _provider, _partition: False,
    expire_after_us=90 * DAY_US,
    objective_us=900_000_000,
)
PARTITION = 2


def of(happened: DeliveryEvent, offset: int = 7) -> Record:
    value = records.encode_event(happened, f"mail.raw.sendgrid/0/{offset}")
    return record(offset, value, key=happened.delivery_id.encode())


def fold(*happened: DeliveryEvent, effects: Effects | None = None) -> Effects:
    effects = effects or Effects()
    for offset, each in enumerate(happened):
        TRACK.record(of(each, offset), PARTITION, effects.rows.get, effects)
    return effects


def told(effects: Effects, topic: str) -> list[Row]:
    return effects.outputs.get((topic, PARTITION), [])


def micros(seconds: float) -> int:
    return status.to_micros(at(seconds))


# -- events ------------------------------------------------------------------------------------------------------------------


def test_the_first_event_of_a_delivery_is_a_change_told_on_both_topics() -> None:
    happened = event(EventType.DEFERRED, 0, reason="421 later")
    effects = fold(happened)
    key = happened.delivery_id.encode()
    [changed], [shown] = told(effects, CHANGED), told(effects, STATUS)
    assert changed == shown
    assert changed.key == key
    assert changed.timestamp_ms == TIME_MS, "that of the record, never the clock's"
    fields = records.decode_status(changed.value)
    assert (fields["status"], fields["revision"], fields["delivery_id"]) == ("deferred", 1, happened.delivery_id)
    assert list(effects.rows) == [key]
    assert effects.due_added == [(micros(2), key)]
    assert effects.counts == {
        ("changes", "sendgrid", "other", "deferred"): 1,
        ("events", "sendgrid", "deferred", "applied"): 1,
        ("deferrals", "sendgrid", "other", "unknown"): 1,
    }


def test_a_repeated_event_changes_nothing_and_is_counted() -> None:
    happened = event(EventType.DELIVERED, 0)
    effects = fold(happened)
    before = (dict(effects.rows), list(effects.due_added), told(effects, CHANGED)[:], told(effects, STATUS)[:])
    fold(happened, effects=effects)
    assert (effects.rows, effects.due_added, told(effects, CHANGED), told(effects, STATUS)) == before
    assert effects.counts[("events", "sendgrid", "delivered", "duplicate")] == 1


def test_news_that_changes_no_status_is_told_on_the_status_topic_only() -> None:
    effects = fold(event(EventType.DEFERRED, 0, attempt=1), event(EventType.DEFERRED, 600, attempt=2))
    assert len(told(effects, CHANGED)) == 1
    attempts = [records.decode_status(row.value)["attempts"] for row in told(effects, STATUS)]
    assert attempts == [1, 2]
    assert {records.decode_status(row.value)["revision"] for row in told(effects, STATUS)} == {1}


def test_each_attempt_is_counted_by_its_own_answer_also_when_it_comes_late() -> None:
    attempt = event(EventType.DEFERRED, 0, **GREYLISTED)
    effects = fold(
        attempt,
        attempt,
        event(EventType.DEFERRED, 90, **THROTTLED),
        event(EventType.DEFERRED, 60, **GREYLISTED),
        event(EventType.DELIVERED, 95),
    )
    counted = {labels: n for labels, n in effects.counts.items() if labels[0] == "deferrals"}
    assert counted == {
        ("deferrals", "sendgrid", "other", "greylisted"): 2,
        ("deferrals", "sendgrid", "other", "preemptive"): 1,
    }


def test_the_index_gets_one_entry_a_delivery_and_not_one_an_event() -> None:
    effects = fold(*(event(EventType.DEFERRED, seconds) for seconds in range(0, 600, 60)))
    assert len(effects.due_added) == 1


def test_an_event_that_says_nothing_is_counted_and_leaves_no_row() -> None:
    effects = fold(event(EventType.UNKNOWN, 0), event(EventType.OTHER, 0))
    assert (effects.rows, effects.outputs, effects.due_added) == ({}, {}, [])
    assert effects.counts == {
        ("events", "sendgrid", "unknown", "ignored"): 1,
        ("events", "sendgrid", "other", "ignored"): 1,
    }


def test_a_clock_that_cannot_be_believed_is_counted() -> None:
    effects = fold(event(EventType.DELIVERED, 3_600, received=0))
    assert effects.counts[("clock_skew", "sendgrid")] == 1


def test_the_advice_names_the_accounts_support_contact() -> None:
    effects = fold(event(EventType.DROPPED, 0))
    advice = records.decode_status(told(effects, STATUS)[0].value)["advice"]
    assert "the support desk" in advice["what_to_do"]


# -- poison --------------------------------------------------------------------------------------------------------------------

POISON: list[tuple[str, Any]] = [
    ("no value", record(1, None)),
    ("no JSON", record(1, b"{")),
    ("not UTF-8", record(1, b'"\xff"')),
    ("no object", record(1, b"[]")),
    ("a missing id", record(1, b"{}")),
    ("nested brackets", record(1, b"[" * 100_000)),
    ("NaN", record(1, b'{"event_id": NaN}')),
    ("a key that is no delivery id", record(1, of(event(EventType.SENT)).value, key=b"\xff")),
]


def keyless() -> Record:
    return replace(of(event(EventType.SENT)), key=None)


@pytest.mark.parametrize(("what", "poison"), [*POISON, ("no key", keyless())], ids=lambda value: str(value)[:20])
def test_a_poison_event_raises_and_leaves_no_trace(what: str, poison: Record) -> None:
    effects = fold(event(EventType.DEFERRED, 0))
    before = (dict(effects.rows), list(effects.due_added), told(effects, STATUS)[:], dict(effects.counts))
    with pytest.raises((RecordError, UnicodeDecodeError)):
        TRACK.record(poison, PARTITION, effects.rows.get, effects)
    assert (effects.rows, effects.due_added, told(effects, STATUS), effects.counts) == before, what


def test_a_row_that_cannot_be_read_is_no_poison() -> None:
    happened = of(event(EventType.DELIVERED, 0))
    for row in (b"", b"\x01", b"\x09whatever", b"\x01" + bytes(8) + b"[]"):
        with pytest.raises(RowError):
            TRACK.record(happened, PARTITION, lambda _, row=row: row, Effects())  # type: ignore[misc] # a lambda's default has no type


# -- equal input, equal bytes -----------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(histories)
def test_equal_input_gives_equal_bytes(history: Sequence[DeliveryEvent]) -> None:
    assert fold(*history) == fold(*history)


@settings(max_examples=40)
@given(histories, st.data())
def test_repeating_what_was_folded_already_tells_nothing_more(
    history: Sequence[DeliveryEvent], data: st.DataObject
) -> None:
    effects = fold(*history)
    changes, rows = len(told(effects, CHANGED)), dict(effects.rows)
    fold(*data.draw(st.lists(st.sampled_from(history), max_size=6)), effects=effects)
    assert len(told(effects, CHANGED)) == changes
    assert effects.rows.keys() == rows.keys()


@settings(max_examples=40)
@given(histories)
def test_the_revisions_told_are_1_2_3(history: Sequence[DeliveryEvent]) -> None:
    revisions: dict[bytes | None, list[int]] = {}
    for row in told(fold(*history), CHANGED):
        revisions.setdefault(row.key, []).append(records.decode_status(row.value)["revision"])
    assert all(each == list(range(1, len(each) + 1)) for each in revisions.values())


@settings(max_examples=40)
@given(histories)
def test_cutting_a_history_into_batches_makes_no_difference(history: Sequence[DeliveryEvent]) -> None:
    whole = fold(*history)
    store: dict[bytes, bytes | None] = {}
    changed: list[Row] = []
    for offset, each in enumerate(history):
        effects = Effects()
        TRACK.record(of(each, offset), PARTITION, store.get, effects)
        store |= effects.rows
        changed += told(effects, CHANGED)
    assert store == whole.rows
    assert changed == told(whole, CHANGED)


# -- ticks ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "s", Budget(cache_bytes=1 << 20, write_buffer_bytes=1 << 20), on_rebuild=pytest.fail)
    yield store
    store.close()


def put(store: Store, effects: Effects) -> None:
    store.write(
        Changes(
            rows=effects.rows,
            due_added=effects.due_added,
            due_removed=effects.due_removed,
            watch_added=effects.watch_added,
            watch_removed=effects.watch_removed,
        )
    )


def tick(store: Store, now: int) -> Effects:
    effects = Effects()
    TRACK.tick(now, PARTITION, store, effects)
    return effects


def test_a_delivery_without_events_for_its_time_leaves_tombstones_in_table_and_status(store: Store) -> None:
    happened = event(EventType.DELIVERED, 0)
    key = happened.delivery_id.encode()
    put(store, fold(happened))
    due = micros(2) + 90 * DAY_US

    assert tick(store, due - 1) == Effects()
    effects = tick(store, due)

    assert effects.rows == {key: None}
    assert effects.outputs == {(STATUS, PARTITION): [Row(key, None, due // 1000)]}
    assert effects.due_removed == [(micros(2), key)]
    assert effects.counts == {("expired",): 1}


def test_the_tombstones_time_is_when_it_fell_due_and_not_when_it_was_looked_at(store: Store) -> None:
    put(store, fold(event(EventType.DELIVERED, 0)))
    due = micros(2) + 90 * DAY_US
    assert tick(store, due) == tick(store, due + 40 * DAY_US)


def test_a_delivery_that_had_a_later_event_moves_on_in_the_index_and_stays(store: Store) -> None:
    first, later = event(EventType.DELIVERED, 0), event(EventType.OPEN, 30 * 86_400)
    key = first.delivery_id.encode()
    put(store, fold(first))
    put(store, fold(later, effects=Effects(rows=dict(store.rows()))))

    effects = tick(store, micros(2) + 90 * DAY_US)

    assert (effects.rows, effects.outputs, effects.counts) == ({}, {}, {})
    assert effects.due_removed == [(micros(2), key)]
    assert effects.due_added == [(micros(30 * 86_400 + 2), key)]
    put(store, effects)
    assert tick(store, micros(30 * 86_400 + 2) + 90 * DAY_US).rows == {key: None}


def test_an_entry_without_a_row_is_only_removed(store: Store) -> None:
    store.write(Changes(due_added=[(5, b"gone")]))
    effects = tick(store, 5 + 90 * DAY_US)
    assert effects == Effects(due_removed=[(5, b"gone")])


def test_a_delivery_that_stands_twice_in_the_index_expires_once(store: Store) -> None:
    """A restore enters a row once for each version of it that the changelog still holds."""
    happened = event(EventType.DELIVERED, 0)
    key = happened.delivery_id.encode()
    put(store, fold(happened))
    store.write(Changes(due_added=[(micros(1), key)]))

    effects = tick(store, micros(2) + 90 * DAY_US)

    assert effects.outputs[STATUS, PARTITION] == [Row(key, None, (micros(2) + 90 * DAY_US) // 1000)]
    assert effects.counts == {("expired",): 1}
    assert sorted(effects.due_removed) == [(micros(1), key), (micros(2), key)]
    put(store, effects)
    assert store.due(2**63, 10) == []


def test_a_tick_does_a_bounded_amount_and_the_next_goes_on(store: Store) -> None:
    row = next(iter(fold(event(EventType.DELIVERED, 0)).rows.values()))
    keys = [b"key-%05d" % n for n in range(EXPIRED_PER_TICK * 2 + 10)]
    store.write(Changes(rows=dict.fromkeys(keys, row), due_added=[(micros(2), key) for key in keys]))
    expired: list[int] = []
    for _ in range(4):
        effects = tick(store, micros(2) + 90 * DAY_US)
        expired.append(len(effects.rows))
        put(store, effects)
    assert expired == [EXPIRED_PER_TICK, EXPIRED_PER_TICK, 10, 0]
    assert list(store.rows()) == []


def test_an_event_after_the_expiry_begins_the_delivery_anew(store: Store) -> None:
    happened = event(EventType.DELIVERED, 0)
    put(store, fold(happened))
    put(store, tick(store, micros(2) + 90 * DAY_US))
    effects = Effects()
    TRACK.record(of(event(EventType.OPEN, 91 * 86_400)), PARTITION, store.get, effects)
    fields = records.decode_status(told(effects, CHANGED)[0].value)
    assert (fields["revision"], fields["previous"], fields["status"]) == (1, None, "opened")
    assert effects.due_added == [(micros(91 * 86_400 + 2), happened.delivery_id.encode())]


def test_a_delivery_does_not_expire_while_its_provider_is_held_and_does_after_it(store: Store) -> None:
    """A partition of its webhooks stands: its next event may be in there."""
    held = {"sendgrid"}
    holding = replace(TRACK, held=lambda provider, _partition: provider in held)
    waits, goes = event(EventType.DEFERRED, 0), replace(event(EventType.DELIVERED, 0), provider="postmark")
    put(store, fold(waits, goes))
    due = micros(2) + 90 * DAY_US

    def tick_at(now: int) -> Effects:
        effects = Effects()
        holding.tick(now, PARTITION, store, effects)
        put(store, effects)
        return effects

    first = tick_at(due)
    assert first.rows == {goes.delivery_id.encode(): None}
    assert {row.key for rows in first.outputs.values() for row in rows} == {goes.delivery_id.encode()}
    assert tick_at(due + LOOK_AGAIN_US - 1) == Effects()
    assert tick_at(due + LOOK_AGAIN_US).only_indexes
    held.clear()
    last = tick_at(due + 2 * LOOK_AGAIN_US)
    assert last.rows == {waits.delivery_id.encode(): None}
    assert told(last, STATUS) == [Row(waits.delivery_id.encode(), None, due // 1000)], "as when it fell due"
    assert store.due(2**62, 10) == []


def test_an_event_that_a_standing_partition_held_back_keeps_its_delivery(store: Store) -> None:
    happened = event(EventType.DEFERRED, 0)
    put(store, fold(happened))
    due = micros(2) + 90 * DAY_US
    effects = Effects()
    replace(TRACK, held=lambda _provider, _partition: True).tick(due, PARTITION, store, effects)
    put(store, effects)
    put(store, fold(event(EventType.DELIVERED, 30 * 86_400), effects=Effects(rows=dict(store.rows()))))

    put(store, tick(store, due + LOOK_AGAIN_US))
    assert [at for at, _ in store.due(2**62, 10)] == [micros(30 * 86_400 + 2)]


def test_a_clock_that_was_ahead_while_a_provider_was_held_puts_nothing_off(store: Store) -> None:
    """Neither the expiry nor the judgement of a delivery."""
    happened = event(EventType.SENT, 0)
    put(store, fold(happened))
    effects = Effects()
    replace(TRACK, held=lambda _provider, _partition: True).tick(micros(400 * 86_400), PARTITION, store, effects)
    put(store, effects)
    late = tick(store, micros(0) + TRACK.objective_us)
    assert judgements(late) == {("objective", "sendgrid", "missed"): 1}
    put(store, late)
    assert tick(store, micros(2) + 90 * DAY_US).rows == {happened.delivery_id.encode(): None}


# -- what the monitor has to know ----------------------------------------------------------------------------------------------


def deferrals(effects: Effects) -> list[tuple[str | None, bool]]:
    """Return what was said on ``mail.deferrals``, as (status, whether it was one more attempt)."""
    said = [records.decode_deferral(row.value) for row in told(effects, DEFERRALS)]
    return [(each.status, each.attempt) for each in said]


def test_every_deferral_is_said_and_what_ends_it() -> None:
    effects = fold(
        event(EventType.SENT, 0),
        event(EventType.DEFERRED, 60),
        event(EventType.DEFERRED, 600),
        event(EventType.DELIVERED, 900),
    )
    assert deferrals(effects) == [("deferred", True), ("deferred", True), ("delivered", False)]
    assert {row.timestamp_ms for row in told(effects, DEFERRALS)} == {TIME_MS + 1, TIME_MS + 2, TIME_MS + 3}


def test_nothing_is_said_of_a_delivery_that_was_never_deferred() -> None:
    assert deferrals(fold(event(EventType.SENT, 0), event(EventType.DELIVERED, 5), event(EventType.OPEN, 9))) == []


def test_what_happens_after_the_end_is_no_matter_of_the_monitor() -> None:
    effects = fold(event(EventType.DEFERRED, 0), event(EventType.DELIVERED, 60), event(EventType.OPEN, 90))
    assert deferrals(effects) == [("deferred", True), ("delivered", False)]


def test_a_deferral_after_the_end_is_said_as_an_attempt_that_changed_nothing() -> None:
    effects = fold(event(EventType.DELIVERED, 60), event(EventType.DEFERRED, 30))
    assert deferrals(effects) == [("delivered", True)]


def test_a_repeated_deferral_is_said_once() -> None:
    happened = event(EventType.DEFERRED, 0)
    assert deferrals(fold(happened, happened)) == [("deferred", True)]


def test_news_that_the_alerts_show_are_said_too() -> None:
    effects = fold(event(EventType.DEFERRED, 0), event(EventType.SENT, -5, reference="4711"))
    assert deferrals(effects) == [("deferred", True), ("deferred", False)]
    assert records.decode_deferral(told(effects, DEFERRALS)[-1].value).reference == "4711"


def test_a_repeated_deferral_that_is_believed_only_the_second_time_is_said() -> None:
    early = replace(event(EventType.DEFERRED, 6_000), received_at=at(5_400))
    effects = fold(event(EventType.DROPPED, 0), early)
    assert records.decode_status(told(effects, STATUS)[-1].value)["status"] == "dropped"
    said = len(told(effects, DEFERRALS))
    fold(replace(early, received_at=at(5_760)), effects=effects)
    assert records.decode_status(told(effects, STATUS)[-1].value)["status"] == "deferred"
    assert effects.counts["events", "sendgrid", "deferred", "duplicate"] == 1
    assert len(told(effects, DEFERRALS)) == said + 1


def test_a_delivery_that_is_forgotten_while_it_is_deferred_is_said_to_be(store: Store) -> None:
    put(store, fold(event(EventType.DEFERRED, 0)))
    effects = tick(store, micros(2) + 90 * DAY_US)
    assert deferrals(effects) == [(None, False)]
    [said] = [records.decode_deferral(row.value) for row in told(effects, DEFERRALS)]
    assert said.status_at == micros(2) + 90 * DAY_US


def test_of_one_that_is_forgotten_after_a_deferral_its_end_is_said_once_more(store: Store) -> None:
    """The monitor may have lost it, and nothing else would ever close the deferral."""
    put(store, fold(event(EventType.DEFERRED, 0), event(EventType.DELIVERED, 60)))
    effects = tick(store, micros(62) + 90 * DAY_US)
    assert deferrals(effects) == [("delivered", False)]
    [said] = [records.decode_deferral(row.value) for row in told(effects, DEFERRALS)]
    assert said.status_at == micros(60)


def test_of_one_that_was_never_deferred_nothing_is_said_when_it_is_forgotten(store: Store) -> None:
    put(store, fold(event(EventType.SENT, 0), event(EventType.DELIVERED, 60)))
    assert deferrals(tick(store, micros(62) + 90 * DAY_US)) == []


# -- in time ------------------------------------------------------------------------------------------------------------------------

OBJECTIVE_US = TRACK.objective_us


def judgements(effects: Effects) -> dict[tuple[str | int, ...], int]:
    return {labels: n for labels, n in effects.counts.items() if labels[0] in {"objective", "without_word"}}


def test_a_delivery_in_time_is_counted_with_the_time_that_it_took() -> None:
    effects = fold(event(EventType.SENT, 0), event(EventType.DELIVERED, 30))
    assert judgements(effects) == {("objective", "sendgrid", "met"): 1}
    assert effects.observations == {("time_to_deliver", "sendgrid", "other"): [30.0]}


def test_one_that_is_not_delivered_at_its_deadline_is_counted_by_the_clock_and_never_again(store: Store) -> None:
    put(store, fold(event(EventType.SENT, 0), event(EventType.DEFERRED, 60)))
    assert judgements(tick(store, micros(0) + OBJECTIVE_US - 1)) == {}
    late = tick(store, micros(0) + OBJECTIVE_US)
    assert judgements(late) == {("objective", "sendgrid", "missed"): 1}
    put(store, late)
    assert tick(store, micros(0) + OBJECTIVE_US + 1) == Effects()
    effects = Effects()
    delivered = event(EventType.DELIVERED, 5_000)
    TRACK.record(of(delivered), PARTITION, store.get, effects)
    assert judgements(effects) == {}
    assert effects.observations == {("time_to_deliver", "sendgrid", "other"): [5_000.0]}, (
        "late, and yet it took so long"
    )
    put(store, effects)
    effects = Effects()
    for again in (delivered, event(EventType.DELIVERED, 5_100), event(EventType.OPEN, 6_000)):
        TRACK.record(of(again), PARTITION, store.get, effects)
    assert (judgements(effects), effects.observations) == ({}, {})


def test_one_that_was_delivered_in_between_costs_a_look_and_nothing_else(store: Store) -> None:
    put(store, fold(event(EventType.SENT, 0), event(EventType.DELIVERED, 30)))
    effects = tick(store, micros(0) + OBJECTIVE_US)
    assert (effects.rows, effects.outputs, effects.counts) == ({}, {}, {})
    assert effects.only_indexes


def test_silence_for_a_day_is_counted_once(store: Store) -> None:
    put(store, fold(event(EventType.SENT, 0)))
    for now in (OBJECTIVE_US, DAY_US - 1):
        put(store, tick(store, micros(0) + now))
    silent = tick(store, micros(0) + DAY_US)
    assert judgements(silent) == {("without_word", "sendgrid"): 1}
    put(store, silent)
    assert store.watched(2**62, 10) == []


def test_a_delivery_that_stands_twice_in_the_watch_index_is_counted_once(store: Store) -> None:
    """A restore enters a row once for each version of it."""
    happened = event(EventType.SENT, 0)
    put(store, fold(happened))
    store.write(Changes(watch_added=[(micros(5), happened.delivery_id.encode())]))
    effects = tick(store, micros(0) + OBJECTIVE_US)
    assert judgements(effects) == {("objective", "sendgrid", "missed"): 1}
    put(store, effects)
    assert store.watched(micros(0) + OBJECTIVE_US, 10) == []


def test_the_silence_of_a_held_provider_is_no_miss_and_is_looked_at_again(store: Store) -> None:
    """A partition of its webhooks stands: the word that it was delivered may be in there."""
    held = {"sendgrid"}
    holding = replace(TRACK, held=lambda provider, _partition: provider in held)
    put(store, fold(event(EventType.SENT, 0)))
    deadline = micros(0) + OBJECTIVE_US

    def tick_at(now: int) -> Effects:
        effects = Effects()
        holding.tick(now, PARTITION, store, effects)
        put(store, effects)
        return effects

    first = tick_at(deadline)
    assert (judgements(first), first.rows) == ({}, {})
    assert tick_at(deadline + LOOK_AGAIN_US - 1) == Effects()
    assert judgements(tick_at(deadline + LOOK_AGAIN_US)) == {}
    held.clear()
    assert judgements(tick_at(deadline + 2 * LOOK_AGAIN_US)) == {("objective", "sendgrid", "missed"): 1}
    assert [due for due, _ in store.watched(2**62, 10)] == [micros(0) + WORD_WITHIN]


def test_what_was_held_and_delivered_meanwhile_is_judged_by_its_own_times(store: Store) -> None:
    holding = replace(TRACK, held=lambda _provider, _partition: True)
    put(store, fold(event(EventType.SENT, 0)))
    effects = Effects()
    holding.tick(micros(0) + OBJECTIVE_US, PARTITION, store, effects)
    put(store, effects)
    effects = Effects()
    holding.record(of(event(EventType.DELIVERED, 30)), PARTITION, store.get, effects)
    assert judgements(effects) == {("objective", "sendgrid", "met"): 1}
    put(store, effects)
    late = tick(store, micros(0) + OBJECTIVE_US + LOOK_AGAIN_US)
    assert judgements(late) == {}
    put(store, late)
    assert store.watched(2**62, 10) == []


def test_one_that_was_dropped_at_its_deadline_and_is_deferred_for_ever_after_it_is_counted_once(store: Store) -> None:
    happened = event(EventType.SENT, 0)
    put(store, fold(happened, event(EventType.DROPPED, 60)))
    dropped = tick(store, micros(0) + OBJECTIVE_US)
    assert judgements(dropped) == {}
    put(store, dropped)
    assert store.watched(2**62, 10) == []

    effects = Effects()
    TRACK.record(of(event(EventType.DEFERRED, 3_600)), PARTITION, store.get, effects)
    put(store, effects)
    late = tick(store, micros(3_602))
    assert judgements(late) == {("objective", "sendgrid", "missed"): 1}
    put(store, late)
    assert store.watched(2**62, 10) == []


def test_an_objective_that_was_raised_is_the_deadline_of_what_is_under_way_too(store: Store) -> None:
    raised = replace(TRACK, objective_us=4 * OBJECTIVE_US)
    put(store, fold(event(EventType.SENT, 0)))

    def tick_at(now: int) -> Effects:
        effects = Effects()
        raised.tick(now, PARTITION, store, effects)
        put(store, effects)
        return effects

    assert judgements(tick_at(micros(0) + OBJECTIVE_US)) == {}
    assert tick_at(micros(0) + 4 * OBJECTIVE_US - 1) == Effects()
    assert judgements(tick_at(micros(0) + 4 * OBJECTIVE_US)) == {("objective", "sendgrid", "missed"): 1}


# -- what is counted ---------------------------------------------------------------------------------------------------------


def test_a_delivery_arrives_once_and_opens_of_an_old_one_are_no_arrival() -> None:
    arrived = [
        fold(event(EventType.SENT, 0), event(EventType.DEFERRED, 10), event(EventType.DELIVERED, 30)),
        fold(event(EventType.SENT, 0), event(EventType.DELIVERED, 30), event(EventType.OPEN, 90_000)),
        fold(event(EventType.SENT, 0), event(EventType.OPEN, 60), event(EventType.COMPLAINT, 90)),
    ]
    assert [effects.counts["arrivals", "sendgrid", "other"] for effects in arrived] == [1, 1, 1]
    assert ("arrivals", "sendgrid", "other") not in fold(event(EventType.SENT, 0), event(EventType.DEFERRED, 9)).counts


def test_the_advice_of_a_deferral_names_the_time_at_which_its_own_accounts_policy_raises_it() -> None:
    hasty = policies_of(
        Settings(accounts={"main": Account(deferrals={"sendgrid": DeferralOverrides(warn_after_s=60)})})
    )
    happened = replace(event(EventType.DEFERRED, 0, reason="421 later"), account="main")

    def advice(track: Track) -> str:
        effects = Effects()
        track.record(of(happened), PARTITION, effects.rows.get, effects)
        return str(records.decode_status(told(effects, CHANGED)[0].value)["advice"])

    assert advice(TRACK) != advice(replace(TRACK, policies=hasty))
