"""The monitor over a real store: what it tells, what it remembers, and what a restart leaves of both."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams import records
from streams.agents.monitor import ALERTS_PER_TICK
from streams.domain.deferrals import Episode, Told, observe
from streams.domain.events import BounceKind, DeliveryEvent, EventType
from streams.domain.status import SECOND, Delivery, Kind, fold
from streams.kafka.lanes import Effects
from streams.kafka.store import Changes
from streams.policies import LOOK_AGAIN_US
from streams.policies import policies_of as policies_of_settings
from streams.records import RecordError, RowError
from streams.settings import Account, DeferralOverrides, Settings
from tests.agents.driving import PARTITION, Partition, policies_of
from tests.domain.deferrals import GREYLISTED, HOUR, MINUTE, POLICY, THROTTLED, deferred, us
from tests.domain.deliveries import NOON, event
from tests.kafka.fakes import record

DAY = 86_400
KEY = event(EventType.SENT).delivery_id.encode()


def deferral(seconds: float, **more: Any) -> DeliveryEvent:
    return event(EventType.DEFERRED, seconds, **(GREYLISTED | more))


def of_message(happened: DeliveryEvent, number: int, **more: Any) -> DeliveryEvent:
    return replace(happened, message_id=f"message-{number}", **more)


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[Partition]:
    partition = Partition(tmp_path)
    yield partition
    partition.close()


# -- from an event to an alert ------------------------------------------------------------------------------------------------


def test_a_message_deferred_for_an_hour_is_raised_once(partition: Partition) -> None:
    partition.happens(event(EventType.SENT, 0), deferral(60))
    partition.read()
    for seconds in (0, HOUR + 59, HOUR + 60, HOUR + 61, 2 * HOUR):
        partition.tick(us(seconds))

    [alert] = partition.told
    assert (alert["level"], alert["due_at"], alert["episode"]) == ("raised", "2026-11-20T13:01:00Z", 2)
    assert partition.alerts[0].key == KEY
    assert partition.alerts[0].timestamp_ms == us(HOUR + 60) // 1000, "the deadline's, never the clock's"


def test_an_end_that_is_told_late_has_the_records_time_so_that_retention_does_not_delete_it_unread(
    partition: Partition,
) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.tick(us(HOUR))
    partition.happens(event(EventType.DELIVERED, 2 * HOUR))
    [told] = partition.waiting
    partition.read()

    assert partition.told[-1]["due_at"] == "2026-11-20T14:00:00Z"
    assert partition.alerts[-1].timestamp_ms == told.timestamp != us(2 * HOUR) // 1000


def test_the_end_resolves_it_and_leaves_nothing(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.tick(us(HOUR))
    partition.happens(event(EventType.DELIVERED, 2 * HOUR))
    partition.read()

    assert partition.levels == ["raised", "resolved"]
    assert (partition.episodes, partition.index, partition.changelog[-1]) == ({}, [], (KEY, None))
    assert partition.tick(us(100 * HOUR)) == Effects()


def test_what_ends_in_time_is_told_of_nobody(partition: Partition) -> None:
    partition.happens(deferral(0), deferral(600), event(EventType.DELIVERED, 900))
    partition.read()
    partition.tick(us(100 * HOUR))
    assert partition.alerts == []


def test_a_tick_with_nothing_due_changes_nothing(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    assert partition.tick(us(HOUR) - 1) == Effects()


def test_a_late_delivery_annuls_the_alert(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.tick(us(HOUR))
    partition.happens(event(EventType.DELIVERED, 5 * MINUTE, received=2 * HOUR))
    partition.read()
    assert [(alert["level"], alert["annulled"]) for alert in partition.told] == [("raised", False), ("resolved", True)]


def test_a_delivery_that_is_forgotten_resolves_as_expired(partition: Partition) -> None:
    happened = deferral(0)
    partition.happens(happened)
    partition.read()
    partition.tick(us(100 * HOUR))
    partition.forgets(happened)
    partition.read()

    assert partition.levels == ["raised", "escalated", "overdue", "resolved"]
    assert (partition.told[-1]["outcome"], partition.told[-1]["annulled"]) == ("expired", False)
    assert partition.told[-1]["due_at"] == "2027-02-18T12:00:02Z"
    assert partition.episodes == {}


def test_an_end_that_the_monitor_never_got_is_told_when_the_delivery_is_forgotten(partition: Partition) -> None:
    """Retention was quicker than the monitor, say. Else the deferral would be open, and overdue, for ever."""
    happened = deferral(0)
    partition.happens(happened)
    partition.read()
    partition.tick(us(100 * HOUR))
    partition.happens(event(EventType.DELIVERED, 2 * HOUR))
    partition.waiting.clear()
    partition.read()
    assert len(partition.episodes) == 1
    partition.forgets(happened)
    partition.read()

    assert partition.levels == ["raised", "escalated", "overdue", "resolved"]
    assert (partition.told[-1]["outcome"], partition.told[-1]["due_at"]) == ("delivered", "2026-11-20T14:00:00Z")
    assert (partition.episodes, partition.index) == ({}, [])


def test_a_second_episode_after_a_drop_has_alerts_of_its_own(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.tick(us(HOUR))
    partition.happens(event(EventType.DROPPED, 2 * HOUR), deferral(DAY))
    partition.read()
    partition.tick(us(DAY + HOUR))

    assert [(alert["level"], alert["episode"]) for alert in partition.told] == [
        ("raised", 1), ("resolved", 1), ("raised", 3)
    ]  # fmt: skip
    assert len({alert["id"] for alert in partition.told}) == 3
    assert partition.told[-1]["deferred_since"] == "2026-11-21T12:00:00Z"


def test_a_drop_that_comes_late_parts_the_deferrals_before_and_after_it(partition: Partition) -> None:
    """Else a message would be escalated by an age that was not this episode's."""
    partition.happens(deferral(0), deferral(10 * HOUR), event(EventType.DROPPED, HOUR / 2, received=10 * HOUR + 60))
    partition.read()
    partition.tick(us(12 * HOUR + 60))

    [alert] = partition.told
    assert (alert["level"], alert["due_at"], alert["deferred_since"]) == (
        "raised", "2026-11-20T23:00:00Z", "2026-11-20T22:00:00Z"
    )  # fmt: skip


def test_a_status_says_no_age_of_before_a_drop_that_came_late() -> None:
    delivery: Delivery | None = None
    for each in (deferral(0), deferral(10 * HOUR), event(EventType.DROPPED, HOUR, received=10 * HOUR + 60)):
        delivery = fold(delivery, each).delivery
    assert delivery is not None
    assert delivery.deferred_since == us(HOUR)


def test_a_deferral_of_before_1970_has_an_unknown_time_and_stops_nothing(partition: Partition) -> None:
    """Its deadline would be negative, which no index can hold: neither this process nor the next one could go on."""
    since_1970 = (datetime(1970, 1, 2, tzinfo=UTC) - NOON).total_seconds()
    partition.happens(deferral(since_1970 - DAY - 3_600, received=since_1970))
    partition.read()
    partition.rebuild()

    partition.tick(us(since_1970 + HOUR))
    assert [(alert["level"], alert["deferred_since"]) for alert in partition.told] == [
        ("raised", "1970-01-02T00:00:00Z")
    ]


@given(
    st.lists(
        st.builds(
            event,
            st.sampled_from([EventType.SENT, EventType.DEFERRED, EventType.DEFERRED, EventType.DROPPED]),
            st.integers(0, 20).map(lambda n: n * 50),
        ),
        max_size=8,
    )
)
def test_the_status_and_the_monitor_say_the_same_of_since_when_it_is_deferred(history: list[DeliveryEvent]) -> None:
    """Where the events come in the order in which they happened: a drop that comes late is known to no status."""
    history.sort(key=lambda each: (each.occurred_at, each.event_id))
    delivery: Delivery | None = None
    episode: Episode | None = None
    for each in history:
        before, delivery = delivery, fold(delivery, each).delivery
        if delivery is None or Kind.DEFERRED not in delivery.facts or delivery is before:
            continue
        said = records.decode_deferral(records.encode_deferral(delivery, attempt=each.type is EventType.DEFERRED))
        episode = observe(episode, said, POLICY).episode
    if episode is not None and delivery is not None:
        assert delivery.deferred_since == episode.since


def test_the_providers_own_throttling_is_not_escalated(partition: Partition) -> None:
    partition.happens(deferral(0, **THROTTLED))
    partition.read()
    partition.tick(us(1_000 * HOUR))
    assert partition.levels == ["raised", "overdue"]
    assert {alert["reason_class"] for alert in partition.told} == {"preemptive"}


def test_the_advice_names_the_accounts_support_contact(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.tick(us(100 * HOUR))
    assert any("the support desk" in alert["advice"]["what_to_do"] for alert in partition.told)


def test_alerts_are_counted_by_level_and_by_what_is_to_be_done(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.tick(us(13 * HOUR))
    counted = {labels: n for labels, n in partition.counted.items() if labels[0] == "alerts"}
    assert counted == {
        ("alerts", "sendgrid", "raised", "contact_recipient_greylisted"): 1,
        ("alerts", "sendgrid", "escalated", "send_by_another_way"): 1,
    }


# -- policies -----------------------------------------------------------------------------------------------------------------


def test_an_account_may_have_its_own_policy_at_one_provider() -> None:
    policies = policies_of_settings(
        Settings(
            accounts={
                "vip": Account(deferrals={"sendgrid": DeferralOverrides(warn_after_s=60, retry_window_s=7_200)}),
                "plain": Account(),
            }
        )
    )

    own = policies("vip", "sendgrid")
    assert (own.warn_after, own.retry_window, own.overdue_slack) == (60 * SECOND, 7_200 * SECOND, HOUR * SECOND)
    assert policies("vip", "mailgun").warn_after == policies("plain", "sendgrid").warn_after == HOUR * SECOND


def test_each_provider_has_its_own_retry_window_and_one_that_nobody_knows_the_longest() -> None:
    policies = policies_of_settings(Settings())
    hours = {name: policies("a", name).retry_window // SECOND / HOUR for name in ("sendgrid", "mailgun", "amazon_ses")}
    assert hours == {"sendgrid": 72, "mailgun": 8, "amazon_ses": 14}
    assert policies("a", "nobody").retry_window == 72 * HOUR * SECOND


def test_the_policy_of_the_account_decides_when_it_is_raised(tmp_path: Path) -> None:
    strict = replace(POLICY, warn_after=60 * SECOND)
    partition = Partition(tmp_path, policies=policies_of(POLICY, of_account={("vip", "sendgrid"): strict}))
    partition.happens(of_message(deferral(0), 1, account="vip"), of_message(deferral(0), 2))
    partition.read()
    partition.tick(us(60))
    assert [alert["account"] for alert in partition.told] == ["vip"]
    partition.close()


def test_another_policy_moves_every_deadline_at_the_next_start(partition: Partition) -> None:
    for number in range(5):
        partition.happens(of_message(deferral(number), number))
    partition.read()
    before = partition.index
    partition.restart(policies_of(replace(POLICY, warn_after=60 * SECOND)))

    assert partition.index == partition.exact_index == [(due - 59 * MINUTE * SECOND, key) for due, key in before]
    partition.tick(us(60))
    assert partition.levels == ["raised"]


def test_a_worker_that_dies_while_it_computes_them_begins_again(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.agents.monitor.ROWS_PER_SLICE", 2)
    for number in range(7):
        partition.happens(of_message(deferral(number), number))
    partition.read()
    strict = policies_of(replace(POLICY, warn_after=60 * SECOND))
    for writes in range(7):
        assert partition.dies_opening(strict, writes)
    partition.restart(strict)
    assert partition.index == partition.exact_index
    assert len(partition.index) == 7


def test_policies_that_were_given_up_while_they_were_taken_in_leave_no_deadline_out(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.agents.monitor.ROWS_PER_SLICE", 2)
    for number in range(7):
        partition.happens(of_message(deferral(number), number))
    partition.read()
    exact = partition.exact_index
    for writes in range(8):
        partition.visit(policies_of(replace(POLICY, warn_after=60 * SECOND)), writes)
        assert partition.index == exact


@pytest.mark.parametrize("warn_after", [MINUTE, 5 * HOUR])
def test_rows_that_somebody_restored_by_other_policies_fall_due_by_ours(partition: Partition, warn_after: int) -> None:
    partition.happens(of_message(deferral(0), 1))
    partition.read()
    partition.happens(of_message(deferral(1), 2))
    partition.visitor = policies_of(replace(POLICY, warn_after=warn_after * SECOND))
    partition.read(dies=True)
    assert partition.index == partition.exact_index


def test_an_index_that_was_restored_from_nothing_is_not_computed_again(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.opens = False
    partition.rebuild()
    assert partition.store.policy == partition.policies.digest
    assert partition.index == partition.exact_index


def test_a_deadline_that_was_entered_too_early_is_entered_again(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    exact = partition.exact_index
    ((due, key),) = exact
    partition.store.write(Changes(due_removed=exact, due_added=[(due - 5, key)]))
    partition.tick(due - 1)
    assert partition.index == exact
    assert partition.told == []


def test_the_same_policy_leaves_the_index_alone(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.store.write(Changes(due_added=[(7, b"a mark")]))
    partition.restart()
    assert (7, b"a mark") in partition.index


def test_the_digest_of_the_policies_is_another_for_each_of_them() -> None:
    one = policies_of(POLICY)
    others = [
        policies_of(replace(POLICY, warn_after=1)),
        policies_of(POLICY, of_account={("a", "sendgrid"): POLICY}),
        policies_of(replace(POLICY, escalate_after=HOUR)),
        replace(one, other=replace(POLICY, overdue_slack=0)),
    ]
    assert len({policies.digest for policies in (one, *others)}) == 5
    assert policies_of(POLICY).digest == one.digest


# -- a provider that is held -----------------------------------------------------------------------------------------------------


def test_a_held_provider_waits_and_others_do_not(partition: Partition) -> None:
    partition.happens(of_message(deferral(0), 1), of_message(deferral(1), 2, provider="mailgun"))
    partition.read()
    partition.held.add("sendgrid")
    partition.tick(us(HOUR + 10))
    assert [alert["provider"] for alert in partition.told] == ["mailgun"]
    assert partition.changelog[-1][0] != KEY


def test_what_was_held_is_told_later_with_the_deadline_that_it_had(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.held.add("sendgrid")
    for minutes in range(120):
        partition.tick(us(HOUR + minutes * MINUTE))
    assert partition.alerts == []
    assert len(partition.index) == 1, "it is looked at again, in one place"
    partition.held.clear()
    last = HOUR + 119 * MINUTE
    partition.tick(us(last) + LOOK_AGAIN_US)
    assert [(alert["level"], alert["due_at"]) for alert in partition.told] == [("raised", "2026-11-20T13:00:00Z")]


def test_what_ended_while_it_was_held_is_told_of_nobody(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.held.add("sendgrid")
    partition.tick(us(HOUR))
    partition.happens(event(EventType.DELIVERED, 10 * MINUTE, received=3 * HOUR))
    partition.read()
    partition.held.clear()
    partition.tick(us(100 * HOUR))
    assert partition.alerts == []
    assert partition.index == []


def test_a_held_deadline_survives_a_restart(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.held.add("sendgrid")
    partition.tick(us(HOUR))
    partition.held.clear()
    partition.restart()
    partition.tick(us(HOUR) + LOOK_AGAIN_US)
    assert partition.levels == ["raised"]


def test_a_clock_that_was_ahead_while_a_provider_was_held_moves_no_deadline(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.held.add("sendgrid")
    partition.tick(us(365 * DAY))
    partition.held.clear()
    for hours in (1, 12, 73):
        partition.tick(us(hours * HOUR))
    assert partition.levels == ["raised", "escalated", "overdue"]


def test_a_provider_that_is_held_starves_no_other(partition: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.agents.monitor.ALERTS_PER_TICK", 2)
    partition.happens(*(of_message(deferral(n), n) for n in range(5)))
    partition.happens(of_message(deferral(9), 9, provider="mailgun"))
    partition.read()
    partition.held.add("sendgrid")
    before = partition.exact_index
    for second in range(3):
        partition.tick(us(2 * HOUR) + second)
    assert [alert["provider"] for alert in partition.told] == ["mailgun"]
    assert partition.index == partition.exact_index
    assert set(before) - set(partition.index) == {before[-1]}


# -- the index -------------------------------------------------------------------------------------------------------------------


def test_a_tick_tells_a_bounded_amount_and_the_next_goes_on(partition: Partition) -> None:
    episode = observe(None, deferred(), POLICY).episode
    assert episode is not None
    keys = [b"key-%05d" % n for n in range(ALERTS_PER_TICK * 2 + 10)]
    partition.store.write(
        Changes(
            rows=dict.fromkeys(keys, records.encode_open_deferral(episode)), due_added=[(us(HOUR), key) for key in keys]
        )
    )
    told = []
    for _ in range(4):
        before = len(partition.alerts)
        partition.tick(us(HOUR))
        told.append(len(partition.alerts) - before)
    assert told == [ALERTS_PER_TICK, ALERTS_PER_TICK, 10, 0]


def test_an_entry_that_is_stale_tells_nothing_and_is_gone(partition: Partition) -> None:
    partition.happens(deferral(1_800))
    partition.read()
    stale = [(us(100), KEY), (us(200), b"no such row")]
    partition.store.write(Changes(due_added=stale))

    partition.tick(us(300))

    assert partition.alerts == []
    assert partition.index == partition.exact_index == [(us(HOUR + 1_800), KEY)]


def test_a_delivery_that_stands_twice_in_the_index_is_told_of_once(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.store.write(Changes(due_added=[(us(HOUR - 100), KEY)]))
    partition.tick(us(HOUR))
    assert partition.levels == ["raised"]
    partition.tick(us(12 * HOUR))
    assert partition.levels == ["raised", "escalated"]


def test_a_worker_killed_between_the_commit_and_the_store_tells_nothing_twice(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read(dies=True)
    partition.tick(us(HOUR), dies=True)
    partition.tick(us(HOUR))
    partition.tick(us(12 * HOUR), dies=True)
    partition.tick(us(12 * HOUR))
    partition.happens(event(EventType.BOUNCE, 20 * HOUR, kind=BounceKind.HARD))
    partition.read(dies=True)
    assert partition.levels == ["raised", "escalated", "resolved"]
    assert partition.episodes == {}


# -- poison ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b"{", b"[]", b"{}", b'{"delivery_id": "x"}'])
def test_a_poison_record_raises_and_leaves_no_trace(partition: Partition, value: bytes | None) -> None:
    effects = Effects()
    with pytest.raises(RecordError):
        partition.monitor.record(record(1, value), PARTITION, effects.rows.get, effects)
    assert effects == Effects()


def test_a_record_without_a_key_is_poison(partition: Partition) -> None:
    partition.happens(deferral(0))
    effects = Effects()
    with pytest.raises(RecordError, match="key"):
        partition.monitor.record(replace(partition.waiting[0], key=None), PARTITION, effects.rows.get, effects)
    assert effects == Effects()


def test_a_row_that_cannot_be_read_is_no_poison(partition: Partition) -> None:
    partition.happens(deferral(0))
    for row in (b"", b"\x01", b"\x09whatever", b"\x01[]"):
        with pytest.raises(RowError):
            partition.monitor.record(partition.waiting[0], PARTITION, lambda _, row=row: row, Effects())  # type: ignore[misc] # a lambda's default has no type


# -- gauges ------------------------------------------------------------------------------------------------------------------------


def test_nothing_is_shown_of_a_partition_that_moved_away(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    assert partition.shown.total() == 1
    partition.monitor.closed(PARTITION)
    assert list(partition.gauges.collect()) == list(partition.gauges.describe()) or not any(
        family.samples for family in partition.gauges.collect()
    )


async def test_opening_a_large_partition_gives_others_their_turn(partition: Partition) -> None:
    episode = observe(None, deferred(), POLICY).episode
    assert episode is not None
    row = records.encode_open_deferral(episode)
    partition.store.write(Changes(rows={b"key-%05d" % n: row for n in range(20_000)}))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await partition.monitor.opened(PARTITION, partition.store)
    task.cancel()
    assert turns > 5
    assert partition.shown.total() == 20_000


# -- whatever happens ----------------------------------------------------------------------------------------------------------------

MESSAGES = 3


def _more_of(type_: EventType, answer: dict[str, Any]) -> dict[str, Any]:
    match type_:
        case EventType.DEFERRED:
            return answer
        case EventType.BOUNCE:
            return {"kind": BounceKind.HARD}
    return {}


HAPPENS = st.builds(
    lambda type_, at, received, number, answer, event_id: of_message(
        event(type_, at, received=received, event_id=event_id, **_more_of(type_, answer)), number
    ),
    st.sampled_from([EventType.DEFERRED] * 4 + [EventType.SENT, EventType.DELIVERED, EventType.BOUNCE, EventType.DROPPED]),
    st.integers(0, 30 * HOUR),
    st.integers(0, 40 * HOUR),
    st.integers(1, MESSAGES),
    st.sampled_from([GREYLISTED, THROTTLED, {"retry_until": 5 * HOUR}, {}]),
    st.integers(0, 30).map("event-{}".format),
)  # fmt: skip
STEPS = st.lists(
    HAPPENS
    | st.sampled_from(["read", "read one", "restart", "rebuild", "read and die", "tick and die", "policy", "visit"])
    | st.integers(0, 100 * HOUR),
    max_size=30,
)


def play(partition: Partition, steps: list[DeliveryEvent | str | int]) -> None:
    now = 0
    for step in steps:
        match step:
            case DeliveryEvent():
                partition.happens(step)
            case int():
                now = max(now, step)
                partition.tick(us(now))
            case "tick and die":
                partition.tick(us(now), dies=True)
            case "restart":
                partition.restart()
            case "rebuild":
                partition.rebuild()
            case "visit":
                partition.visitor = policies_of(replace(POLICY, warn_after=7 * SECOND))
                partition.visit(partition.visitor, writes=len(partition.changelog) % 4)
            case "policy":
                other = replace(POLICY, warn_after=partition.policies.other.warn_after // 2 + SECOND)
                partition.restart(policies_of(other))
            case _:
                partition.read(1 if step == "read one" else None, dies=step == "read and die")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_gauges_rows_and_index_agree_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[DeliveryEvent | str | int]
) -> None:
    partition = Partition(tmp_path_factory.mktemp("life"))
    try:
        play(partition, steps)
        assert partition.shown == partition.recount
        assert set(partition.exact_index) <= set(partition.index), "no deadline is forgotten"
        newest = dict(partition.changelog)
        assert {key: row for key, row in newest.items() if row is not None} == dict(partition.store.rows())
        partition.rebuild()
        assert partition.shown == partition.recount
        assert set(partition.exact_index) <= set(partition.index)
        ids = [alert["id"] for alert in partition.told]
        assert len(ids) == len(set(ids))
        told = {key: bool(episode.told) for key, episode in partition.episodes.items()}
        assert all(told[key] == (episode.told is not Told.NOTHING) for key, episode in partition.episodes.items())
    finally:
        partition.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(HAPPENS | st.integers(0, 100 * HOUR), max_size=20))
def test_the_index_is_exact_where_each_record_is_a_batch_of_its_own_and_nothing_was_restored(
    tmp_path_factory: pytest.TempPathFactory, steps: list[DeliveryEvent | int]
) -> None:
    partition = Partition(tmp_path_factory.mktemp("exact"))
    try:
        now = 0
        for step in steps:
            if isinstance(step, DeliveryEvent):
                partition.happens(step)
                while partition.waiting:
                    partition.read(1)
            else:
                now = max(now, step)
                partition.tick(us(now))
            assert partition.index == partition.exact_index
    finally:
        partition.close()


def test_an_entry_that_is_stale_is_gone_also_if_nothing_more_falls_due(partition: Partition) -> None:
    partition.happens(deferral(0))
    partition.read()
    partition.tick(us(100 * HOUR))
    assert partition.levels == ["raised", "escalated", "overdue"]
    # as a restore enters it, for an older version of the row
    partition.store.write(Changes(due_added=[(us(HOUR), KEY)]))

    partition.tick(us(100 * HOUR))

    assert partition.levels == ["raised", "escalated", "overdue"]
    assert partition.index == partition.exact_index == []
