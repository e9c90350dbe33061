"""What goes from ``track`` to ``monitor``, what ``monitor`` remembers, and what it tells."""

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streams import codecs
from streams.domain.deferrals import Alert, Deferral, Episode, Level, Told, elapse, observe
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.status import Kind, Status, from_micros, later, to_micros
from streams.records import (
    RecordError,
    RowError,
    RowVersionError,
    decode_alert,
    decode_deferral,
    decode_open_deferral,
    encode_alert,
    encode_deferral,
    encode_forgotten,
    encode_open_deferral,
)
from tests.domain.deferrals import DEFERRALS, HOUR, POLICY, alerts, deferred, said, us
from tests.domain.deliveries import at, event, fold_all, histories

# -- mail.deferrals -----------------------------------------------------------------------------------------------------------


def of(*history: DeliveryEvent, attempt: bool = True) -> Deferral:
    return decode_deferral(encode_deferral(fold_all(history), attempt=attempt))


def test_a_deferral_says_how_the_delivery_stands_and_when_it_was_put_off() -> None:
    told = of(
        event(EventType.SENT, 0, reference="4711"),
        event(EventType.DEFERRED, 60, attempt=1, reason="421 busy", smtp_code=421, retry_until=7_200),
        event(EventType.DEFERRED, 660, attempt=2, reason="451 later", smtp_code=451, enhanced_code="4.7.1"),
    )

    assert (told.status, told.revision, told.reference, told.attempts) == (Status.DEFERRED, 2, "4711", 2)
    assert (told.first_at, told.last_at, told.dropped_at) == (us(60), us(660), None)
    assert (told.reason, told.smtp_code, told.enhanced_code) == ("451 later", 451, "4.7.1")
    assert told.retry_until == us(7_200)
    assert told.attempt


def test_the_end_bears_the_deciding_events_own_time() -> None:
    told = of(event(EventType.DEFERRED, 0), event(EventType.DELIVERED, 90, received=4_000), attempt=False)
    assert (told.status, told.status_at, told.attempt) == (Status.DELIVERED, us(90), False)


def test_where_the_provider_names_no_time_it_is_when_we_received_it() -> None:
    told = of(event(EventType.DEFERRED, None, received=7), event(EventType.DELIVERED, None, received=90))
    assert (told.first_at, told.status_at) == (us(7), us(90))


def test_a_drop_is_told_with_its_time() -> None:
    told = of(event(EventType.DEFERRED, 0), event(EventType.DROPPED, 600), event(EventType.DEFERRED, 7_200))
    assert (told.status, told.dropped_at, told.last_at) == (Status.DEFERRED, us(600), us(7_200))


def test_a_forgotten_delivery_has_no_status_and_the_time_at_which_it_was_forgotten() -> None:
    delivery = fold_all([event(EventType.DEFERRED, 0)])
    told = decode_deferral(encode_forgotten(delivery, us(90)))
    assert (told.status, told.status_at, told.attempt) == (None, us(90), False)


@given(histories, st.booleans())
def test_what_track_says_of_any_delivery_can_be_read_and_opens_an_episode_exactly_while_it_is_deferred(
    history: list[DeliveryEvent],
    attempt: bool,
) -> None:
    delivery = fold_all(history)
    assume(Kind.DEFERRED in delivery.facts)
    told = decode_deferral(encode_deferral(delivery, attempt=attempt))
    assert encode_deferral(delivery, attempt=attempt) == encode_deferral(delivery, attempt=attempt)
    assert told.first_at <= told.last_at
    episode = observe(None, told, POLICY).episode
    assert (episode is not None) == (delivery.status is Status.DEFERRED)
    if episode is not None and (told.dropped_at is None or later(told.first_at, told.dropped_at)):
        assert episode.since == told.first_at


GOOD = json.loads(encode_deferral(fold_all([event(EventType.DEFERRED, 0)]), attempt=True))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_deferral_without_one_of_its_fields_is_refused(name: str) -> None:
    with pytest.raises(RecordError):
        decode_deferral(json.dumps({field: value for field, value in GOOD.items() if field != name}).encode())


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_deferral_with_a_field_of_another_type_is_refused(name: str) -> None:
    with pytest.raises(RecordError):
        decode_deferral(json.dumps(GOOD | {name: ["x"]}).encode())


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"null"])
def test_what_is_no_record_of_deferrals_is_refused(value: bytes | None) -> None:
    with pytest.raises(RecordError):
        decode_deferral(value)


def test_the_refusal_says_nothing_of_what_it_refuses() -> None:
    with pytest.raises(RecordError) as refused:
        decode_deferral(json.dumps(GOOD | {"recipient": ["anna@gmail.com"], "attempts": "anna"}).encode())
    assert "anna" not in str(refused.value)


def test_a_status_of_a_newer_version_is_refused() -> None:
    with pytest.raises(RecordError):
        decode_deferral(json.dumps(GOOD | {"status": "recalled"}).encode())


def test_a_field_of_a_newer_version_is_ignored() -> None:
    assert decode_deferral(json.dumps(GOOD | {"new": 1}).encode()) == decode_deferral(json.dumps(GOOD).encode())


# -- rows of open-deferrals -----------------------------------------------------------------------------------------------------


def episode_of(deferral: Deferral) -> Episode:
    episode = observe(None, deferral, POLICY).episode
    assert episode is not None
    return episode


@given(DEFERRALS, st.integers(0, 7), st.none() | st.integers(0, 2**62))
def test_a_row_keeps_its_episode(deferral: Deferral, told: int, first_due: int | None) -> None:
    episode = replace(episode_of(deferral), told=Told(told), first_due=first_due)
    row = encode_open_deferral(episode)
    assert decode_open_deferral(row) == episode
    assert row == encode_open_deferral(episode)


OF_VERSION_1 = (
    b'\x01["3ez2dq7dfqkjp25zbwcswk4ooe","billing","sendgrid","message-1","anna@gmail.com","4711","gmail",'
    b'1795175995000000,2,1795176000000000,1,"421 4.7.0 Try again later",421,"4.7.0","policy",null,1,1795179600000000]'
)


def test_rows_that_stand_in_changelogs_today_can_be_read_for_ever() -> None:
    episode = elapse(episode_of(deferred()), us(HOUR), POLICY).episode
    assert decode_open_deferral(OF_VERSION_1) == episode


@pytest.mark.parametrize("row", [b"", b"\x00", b"\x02" + OF_VERSION_1[1:]])
def test_a_row_of_another_version_is_refused_as_such(row: bytes) -> None:
    with pytest.raises(RowVersionError, match="version"):
        decode_open_deferral(row)


@given(st.integers(1, len(OF_VERSION_1) - 1))
def test_a_damaged_row_is_refused_without_a_word_of_it(length: int) -> None:
    with pytest.raises(RowError) as refused:
        decode_open_deferral(OF_VERSION_1[:length])
    assert "anna" not in str(refused.value)


# -- mail.deferral-alerts -------------------------------------------------------------------------------------------------------


def told(alert: Alert) -> dict[str, object]:
    return decode_alert(encode_alert(alert, support_contact="the support desk"))


def raised(deferral: Deferral | None = None) -> Alert:
    return elapse(episode_of(deferral or deferred()), us(HOUR), POLICY).alerts[0]


def test_an_alert_says_what_is_known_of_its_episode() -> None:
    fields = told(raised(deferred(attempts=3)))

    assert (fields["level"], fields["episode"], fields["attempts"]) == ("raised", 2, 3)
    assert (fields["deferred_since"], fields["due_at"]) == ("2026-11-20T12:00:00Z", "2026-11-20T13:00:00Z")
    assert fields["retry_until"] == "2026-11-23T12:00:00Z"
    assert (fields["outcome"], fields["duration_s"], fields["annulled"]) == (None, None, False)


def test_a_resolved_one_says_how_it_ended_and_after_how_long() -> None:
    open_ = raised().episode
    [alert] = observe(open_, said(Status.DELIVERED, 5_400.5), POLICY).alerts
    fields = told(alert)

    assert (fields["level"], fields["outcome"], fields["duration_s"]) == ("resolved", "delivered", 5_400.5)
    assert fields["due_at"] == "2026-11-20T13:30:00.500000Z"


def test_the_advice_names_whom_to_tell() -> None:
    overdue = elapse(episode_of(deferred()), us(100 * HOUR), POLICY).alerts[-1]
    assert overdue.level is Level.OVERDUE
    assert "the support desk" in str(told(overdue)["advice"])


def test_the_id_of_an_alert_is_one_for_ever() -> None:
    """Subscribers drop what they have seen by it: changing how it is made tells everything twice."""
    assert told(raised())["id"] == "6faa10af25b4a6bb387f8d024ecf58f7"


@given(alerts, alerts)
def test_two_alerts_have_one_id_exactly_when_delivery_episode_and_level_are_the_same(one: Alert, other: Alert) -> None:
    def what(alert: Alert) -> tuple[object, ...]:
        episode = alert.episode
        return (episode.delivery_id, episode.first_received_at, episode.number, alert.level)

    for_other_delivery = replace(other, episode=replace(other.episode, delivery_id="vfjjvrlawzcmoqtcuaopdmxhoy"))
    for_its_second_life = replace(other, episode=replace(other.episode, first_received_at=to_micros(at(9e6))))
    for each in (other, for_other_delivery, for_its_second_life):
        assert (told(one)["id"] == told(each)["id"]) == (what(one) == what(each))


@given(alerts)
def test_equal_alerts_give_equal_bytes_and_their_times_are_the_rules(alert: Alert) -> None:
    value = encode_alert(alert, support_contact=None)
    assert value == encode_alert(alert, support_contact=None)
    fields = decode_alert(value)
    assert (fields["outcome"] is None) == (fields["duration_s"] is None) == (fields["level"] != "resolved")
    assert fields["due_at"] == codecs.decode(codecs.encode(from_micros(alert.due_at)))


@pytest.mark.parametrize(
    "value", [None, b"{", b"[]", b"{}", b'{"delivery_id": "x"}', b'{"level": 1, "delivery_id": "x"}']
)
def test_what_is_no_alert_is_refused(value: bytes | None) -> None:
    with pytest.raises(RecordError):
        decode_alert(value)
