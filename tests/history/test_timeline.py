"""What happened, in order: pure, so tried with whatever hypothesis thinks of."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import codecs, records
from streams.domain.events import EventType
from streams.domain.status import SKEW, Status, fold, to_micros
from streams.history.timeline import (
    Change,
    Deferral,
    attempts_of,
    deferral_of,
    last_deferral,
    timeline,
    unheeded_since,
)
from streams.history.words import duration, micros, relative
from tests.history.support import event

START = datetime(2026, 11, 1, tzinfo=UTC)
seconds = st.integers(0, 3600)


def record(name: str, occurred: int | None, received: int, type_: str = "open") -> dict[str, Any]:

    def at(number: int) -> str:
        return (START + timedelta(seconds=number)).isoformat()

    return {
        "event_id": name,
        "type": type_,
        "occurred_at": None if occurred is None else at(occurred),
        "received_at": at(received),
    }


events = st.lists(st.tuples(st.none() | seconds, seconds), max_size=12).map(
    lambda times: [record(f"e{number}", *each) for number, each in enumerate(times)]
)


@given(events, st.randoms(use_true_random=False))
def test_the_order_in_which_events_are_read_does_not_matter(found: list[dict[str, Any]], chance: Any) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)
    assert timeline(found, [], []) == timeline(shuffled, [], [])


@given(events)
def test_every_event_is_there_once_in_the_order_of_its_time(found: list[dict[str, Any]]) -> None:
    entries = timeline(found, [], [])
    assert sorted(entry.event["event_id"] for entry in entries if entry.event) == sorted(
        each["event_id"] for each in found
    )
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)


@given(events)
def test_late_is_exactly_what_something_later_was_known_before(found: list[dict[str, Any]]) -> None:
    entries = timeline(found, [], [])
    for one in entries:
        assert one.event is not None
        known = one.event["occurred_at"] is not None
        before = [
            other
            for other in entries
            if other.event is not None
            and other.event["occurred_at"] is not None
            and (other.received_at, other.event["event_id"]) < (one.received_at, one.event["event_id"])
            and other.at > one.at + SKEW
            and believed(other.event)
        ]
        assert one.late is (known and believed(one.event) and bool(before))


def believed(event: Mapping[str, Any]) -> bool:
    ahead = datetime.fromisoformat(event["occurred_at"]) - datetime.fromisoformat(event["received_at"])
    return ahead <= timedelta(minutes=5)


def test_a_change_is_shown_with_the_event_that_made_it_or_else_by_itself() -> None:
    kept = Change(revision=1, status="sent", bounce_kind=None, received_at=1, occurred_at=None, cause_event_id="e0")
    gone = Change(
        revision=2, status="delivered", bounce_kind=None, received_at=2, occurred_at=None, cause_event_id="gone"
    )
    entries = timeline([record("e0", 0, 1, "sent")], [gone, kept], [])
    assert [(entry.event is not None, [change.revision for change in entry.changes]) for entry in entries] == [
        (False, [2]),
        (True, [1]),
    ]


def alert(level: str, episode: int = 2, first: int = 0, since: int = 0, **more: Any) -> dict[str, Any]:
    first_received_at, deferred_since = (START + timedelta(seconds=seconds) for seconds in (first, since))
    return {
        "level": level,
        "episode": episode,
        "first_received_at": first_received_at.isoformat(),
        "deferred_since": deferred_since.isoformat(),
        **more,
    }


def said(*alerts: Mapping[str, Any], episode: int | None = 2) -> Deferral:
    return deferral_of(alerts, first_received_at=to_micros(START), episode=episode)


def test_the_alert_that_counts_is_the_highest_of_the_deferral_that_goes_on() -> None:
    assert said().alert is None
    assert said(alert("escalated"), alert("raised")).alert == alert("escalated")
    assert said(alert("raised"), alert("resolved")).alert is None
    assert said(alert("raised", episode=1)) == Deferral()
    assert said(alert("raised", first=5)) == Deferral()
    assert said(alert("raised"), alert("unheard-of")).alert == alert("raised")
    assert said(alert("raised", episode=7), episode=None).alert is not None


def test_a_deferral_began_when_the_earliest_alert_of_its_episode_says() -> None:
    assert said().since is None
    assert said(alert("raised", since=5), alert("escalated", since=3)).since == to_micros(START + timedelta(seconds=3))
    assert said(alert("raised", since=5), alert("resolved", since=3)).since == to_micros(START + timedelta(seconds=3))
    assert said(alert("raised", episode=2, since=3), alert("raised", episode=4, since=5), episode=None).since == (
        to_micros(START + timedelta(seconds=5))
    )
    assert said(alert("raised", deferred_since="yesterday")).since is None


def test_only_the_alert_that_it_expired_says_that_a_deferral_was_forgotten() -> None:
    expired = alert("resolved", outcome="expired")
    assert said(expired, alert("raised")).forgotten == expired
    assert said(alert("resolved", outcome="delivered")).forgotten is None
    assert said(alert("raised", outcome="expired")).forgotten is None
    assert said(alert("resolved", outcome="expired", first=5)).forgotten is None
    assert said(alert("resolved", outcome="expired", episode=1)).forgotten is None
    assert said(expired, alert("raised", episode=4)).forgotten is None


def test_attempts_are_what_was_said_or_more_if_the_events_know_of_more() -> None:
    told = [record("a", 0, 1, "deferred") | {"attempt": 5}, record("b", 9, 9, "deferred"), record("c", 3, 3)]
    assert attempts_of([], 2) == 2
    assert attempts_of(told, 2) == 5
    assert attempts_of(told, 9) == 9


def test_the_answer_that_counts_is_the_newest_of_those_that_say_most_as_in_the_status() -> None:
    full = record("full", 0, 1, "deferred") | {"reason": "452 4.2.2 mailbox full", "enhanced_code": "4.2.2"}
    bare = record("bare", 9, 9, "deferred") | {"smtp_code": 450}
    mute = record("mute", 10, 10, "deferred")
    assert [counts(mute), counts(bare, mute), counts(mute, full, bare)] == ["mute", "bare", "full"]
    assert counts(record("new", 20, 20, "deferred") | {"reason": "busy"}, full) == "new"
    assert last_deferral([record("open", 3, 3)]) is None


def counts(*events: Mapping[str, Any]) -> str:
    found = last_deferral(events)
    assert found is not None
    return str(found["event_id"])


@pytest.mark.parametrize("kind", EventType)
def test_a_word_is_final_where_the_rules_make_a_final_status_of_it(kind: EventType) -> None:
    told = event(kind)
    alone = fold(None, told).delivery
    is_final = alone is not None and alone.status not in {Status.SENT, Status.DEFERRED, Status.DROPPED}
    said = codecs.decode(records.encode_event(told, "mail.raw.x/0/0"))
    for status in ("sent", "deferred", "dropped"):
        assert (unheeded_since(status, [(7, said)]) == 7) is is_final
    for other in ("delivered", "opened", "bounced", None):
        assert unheeded_since(other, [(7, said)]) is None


def test_times_are_said_as_people_say_them() -> None:
    now = START + timedelta(days=3)

    def at(ago: int) -> int:
        return to_micros(now - timedelta(seconds=ago))

    assert [relative(at(ago), now) for ago in (0, 30, 61, 7200, 86400 * 3, -7200)] == [
        "just now",
        "30 seconds ago",
        "1 minute ago",
        "2 hours ago",
        "3 days ago",
        "in 2 hours",
    ]
    assert duration(0) == "no time"


@given(st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=2))
def test_whatever_is_no_time_with_its_zone_is_none(value: Any) -> None:
    assert micros(START.isoformat()) == to_micros(START)
    assert micros("2026-11-01T00:00:00") is None
    assert micros(value) is None or isinstance(value, str)
