import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams import codecs, records
from streams.agents.normalise import Normalise
from streams.domain.events import DeliveryEvent
from streams.kafka.batches import Record, Row
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.lanes import Effects, PartlyBadError
from streams.kafka.partitioner import partition_of
from streams.providers import PROVIDERS, PoisonError, WebhookRequest
from streams.providers._contract import MOST_BAD
from streams.records import RecordError
from tests.kafka.fakes import TIME_MS, record

RAW = TP("mail.raw.sendgrid", 3)
EVENTS, DEAD = "mail.events", "mail.dead-letters"
PARTITIONS = 8
FOLD = Normalise(
    provider=PROVIDERS["sendgrid"],
    reference_keys=("invoice",),
    events_topic=EVENTS,
    events_partitions=PARTITIONS,
    dead_letters=DeadLetters(topic=DEAD, partitions=4, max_bytes=200_000),
)
HEADERS = tuple(
    records.encode_raw_headers(
        provider="sendgrid",
        account="acme",
        received_at=datetime(2026, 9, 21, 14, 14, tzinfo=UTC),
        content_type="application/json",
    )
)


def element(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "email": f"payer{number}@customer.example",
        "timestamp": 1_790_000_000 + number,
        "event": "delivered",
        "sg_event_id": f"e{number}",
        "sg_message_id": f"m{number}.filter0001",
        "invoice": f"INV-{number}",
    } | more


def raw(*elements: Any, offset: int = 5, headers: Any = HEADERS) -> Record:
    return record(offset, codecs.encode(list(elements)), tp=RAW, headers=headers)


def normalised(request: Record) -> Effects:
    effects = Effects()
    FOLD(request, effects)
    return effects


def events_of(effects: Effects) -> list[tuple[int, Row]]:
    return [(p, row) for (topic, p), rows in effects.outputs.items() if topic == EVENTS for row in rows]


def letters_of(effects: Effects) -> list[records.DeadLetter]:
    return [
        records.decode_dead_letter(row.value, row.headers)
        for (topic, _), rows in effects.outputs.items()
        if topic == DEAD
        for row in rows
    ]


def test_each_event_goes_to_the_partition_of_its_delivery_with_the_delivery_id_as_key() -> None:
    effects = normalised(raw(*(element(n) for n in range(30))))
    found = events_of(effects)
    assert len(found) == 30
    assert len({partition for partition, _ in found}) > 3
    for partition, row in found:
        assert row.key is not None
        event = records.decode_event(row.value)
        assert row.key == event.delivery_id.encode()
        assert partition == partition_of(row.key, PARTITIONS)
        assert b"@" not in row.key
    assert effects.counts == {("requests", "sendgrid"): 1}


def test_the_events_time_and_source_are_those_of_the_request() -> None:
    [(_, row)] = events_of(normalised(raw(element(), offset=41)))
    assert row.timestamp_ms == TIME_MS + 41
    assert codecs.decode(row.value or b"")["source"] == "mail.raw.sendgrid/3/41"
    event = records.decode_event(row.value)
    assert (event.account, event.provider, event.reference) == ("acme", "sendgrid", "INV-1")


APPENDED = datetime.fromtimestamp((TIME_MS + 5) / 1_000, UTC)


def received_by(
    received_at: datetime, *, appended: timedelta = timedelta(), happened: timedelta = timedelta()
) -> datetime:
    """Return when an event was received that happened, and was appended by the broker, so long after ``APPENDED``."""
    headers = [(name, received_at.isoformat().encode() if name == "received-at" else value) for name, value in HEADERS]
    body = codecs.encode([element(timestamp=int((APPENDED + happened).timestamp()))])
    stamp = round((APPENDED + appended).timestamp() * 1_000)
    [(_, row)] = events_of(normalised(record(5, body, tp=RAW, headers=headers, timestamp=stamp)))
    assert row.timestamp_ms == stamp
    return records.decode_event(row.value).received_at


@pytest.mark.parametrize("wrong", [timedelta(minutes=-6), timedelta(days=-100), timedelta(days=41)], ids=str)
def test_where_the_clock_of_the_ingress_must_be_wrong_the_event_was_received_at_the_brokers_time(
    wrong: timedelta,
) -> None:
    assert received_by(APPENDED + wrong) == APPENDED


@pytest.mark.parametrize("later", [timedelta(), timedelta(hours=1), timedelta(days=30)], ids=str)
def test_what_is_appended_again_or_late_was_received_when_the_ingress_says(later: timedelta) -> None:
    assert received_by(APPENDED, appended=later) == APPENDED


@pytest.mark.parametrize("later", [timedelta(hours=1), timedelta(days=1), timedelta(days=10)], ids=str)
def test_a_replay_keeps_its_time_where_the_providers_clock_was_fast(later: timedelta) -> None:
    assert received_by(APPENDED, appended=later, happened=timedelta(minutes=6)) == APPENDED


def test_where_the_event_is_in_the_future_by_the_brokers_time_too_nothing_is_known_better() -> None:
    both = timedelta(minutes=-6)
    assert received_by(APPENDED + both, appended=both) == APPENDED + both
    assert received_by(APPENDED, happened=timedelta(minutes=6)) == APPENDED
    assert received_by(APPENDED, appended=timedelta(hours=1), happened=timedelta(days=10)) == APPENDED


def test_an_event_without_a_time_of_its_own_was_received_when_the_ingress_says() -> None:
    [(_, row)] = events_of(normalised(raw(element(timestamp=None))))
    event = records.decode_event(row.value)
    assert (event.occurred_at, event.received_at) == (None, datetime(2026, 9, 21, 14, 14, tzinfo=UTC))


def test_an_event_whose_time_has_no_zone_is_a_dead_letter_and_no_crash() -> None:
    def careless(request: WebhookRequest) -> list[DeliveryEvent]:
        first, second = PROVIDERS["sendgrid"].normalise(request)
        return [first, replace(second, occurred_at=datetime(2026, 9, 21, 14, 13))]  # noqa: DTZ001 that is the mistake

    fold = replace(FOLD, provider=replace(PROVIDERS["sendgrid"], normalise=careless))
    effects = partly_bad(fold, raw(element(1), element(2)))
    assert [records.decode_event(row.value).event_id for _, row in events_of(effects)] == ["e1"]
    assert [letter.element for letter in letters_of(effects)] == [None]


def test_equal_requests_give_equal_bytes() -> None:
    request = raw(*(element(n) for n in range(5)))
    assert normalised(request) == normalised(request)


def test_events_of_one_delivery_keep_the_order_of_the_request() -> None:
    request = raw(*(element(1, sg_event_id=f"e{n}", event=kind) for n, kind in enumerate(["processed", "delivered"])))
    assert [records.decode_event(row.value).event_id for _, row in events_of(normalised(request))] == ["e0", "e1"]


def test_a_request_without_events_is_one_that_was_understood() -> None:
    effects = normalised(raw())
    assert (effects.outputs, effects.counts) == ({}, {("requests", "sendgrid"): 1})


@pytest.mark.parametrize(
    "request_",
    [
        record(1, None, tp=RAW, headers=HEADERS),
        record(1, b"", tp=RAW, headers=HEADERS),
        record(1, b"{malformed", tp=RAW, headers=HEADERS),
        record(1, b'["\xff"]', tp=RAW, headers=HEADERS),
        record(1, b"[" * 100_000, tp=RAW, headers=HEADERS),
        record(1, b"[NaN]", tp=RAW, headers=HEADERS),
        record(1, b'"text"', tp=RAW, headers=HEADERS),
        record(1, codecs.encode([element()]), tp=RAW, headers=()),
        record(1, codecs.encode([element()]), tp=RAW, headers=(("account", None),)),
        record(1, codecs.encode([element()]), tp=RAW, headers=(("account", b"acme"), ("received-at", b"yesterday"))),
        record(1, b"x" * 5_000_000, tp=RAW, headers=HEADERS),
    ],
    ids=range(11),
)
def test_a_request_that_can_never_be_understood_is_poison_and_leaves_no_trace(request_: Record) -> None:
    effects = Effects()
    with pytest.raises((RecordError, PoisonError)) as caught:
        FOLD(request_, effects)
    assert not isinstance(caught.value, PartlyBadError)
    assert effects == Effects()
    assert "@" not in str(caught.value)


def test_a_bad_element_goes_to_the_dead_letters_without_its_neighbours() -> None:
    request = raw(element(1), {"event": "delivered"}, element(2), 7)
    effects = Effects()
    with pytest.raises(PartlyBadError) as caught:
        FOLD(request, effects)
    assert effects == Effects(), "nothing yet: the lane decides whether the partition stops"
    assert "@" not in str(caught.value)

    caught.value.apply(effects)

    assert {records.decode_event(row.value).event_id for _, row in events_of(effects)} == {"e1", "e2"}
    letters = letters_of(effects)
    assert [letter.element for letter in letters] == [1, 3]
    assert letters[0].value is not None
    assert codecs.decode(letters[0].value) == {"event": "delivered"}
    assert {(letter.topic, letter.partition, letter.offset, letter.stage) for letter in letters} == {
        (RAW.topic, RAW.partition, 5, "normalise")
    }
    assert effects.counts == {("requests", "sendgrid"): 1, ("dead_letters", "normalise"): 2}


def partly_bad(fold: Normalise, request: Record) -> Effects:
    effects = Effects()
    with pytest.raises(PartlyBadError) as caught:
        fold(request, effects)
    caught.value.apply(effects)
    return effects


def test_a_request_with_many_bad_elements_is_one_dead_letter_beside_its_good_events() -> None:
    few = partly_bad(FOLD, raw(element(1), *[1] * MOST_BAD, element(2)))
    assert [letter.element for letter in letters_of(few)] == [*range(1, MOST_BAD + 1)]

    request = raw(element(1), *[1] * 50_000, element(2))
    many = partly_bad(FOLD, request)

    assert events_of(many) == events_of(few), "a replay of the letter gives the same events again, by their ids"
    [letter] = letters_of(many)
    assert (letter.element, letter.value, letter.truncated) == (None, request.value, False)
    assert letter.reason == "PoisonError: 50000 of 50002 elements could not be understood"
    assert many.counts == {("requests", "sendgrid"): 1, ("dead_letters", "normalise"): 1}
    replayed = events_of(partly_bad(FOLD, record(99, letter.value, tp=RAW, headers=letter.headers)))
    assert [records.decode_event(row.value) for _, row in replayed] == [
        records.decode_event(row.value) for _, row in events_of(many)
    ], "the same occurrences by their ids, which track absorbs"


def test_a_request_of_which_nothing_is_good_and_much_is_bad_is_poison_as_a_whole() -> None:
    effects = Effects()
    with pytest.raises(PoisonError, match="21 of 21 elements could not be understood"):
        FOLD(raw(*[1] * (MOST_BAD + 1)), effects)
    assert effects == Effects()


def test_events_that_break_the_rules_of_the_wire_are_one_dead_letter_and_not_a_lost_request() -> None:
    def careless(request: WebhookRequest) -> list[DeliveryEvent]:
        first, *others = PROVIDERS["sendgrid"].normalise(request)
        return [first, *(replace(other, message_id="m" * 2_000) for other in others)]

    request = raw(*(element(n) for n in range(1, 40)))
    fold = replace(FOLD, provider=replace(PROVIDERS["sendgrid"], normalise=careless))
    effects = partly_bad(fold, request)
    assert [records.decode_event(row.value).event_id for _, row in events_of(effects)] == ["e1"]
    [letter] = letters_of(effects)
    assert (letter.element, letter.value) == (None, request.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from(["email", "timestamp", "event", "sg_event_id", "sg_message_id", "invoice", "reason", "type"])


@given(st.lists(st.dictionaries(FIELDS, JSON, max_size=8), max_size=4), st.integers(0, 4))
def test_whatever_a_body_holds_good_neighbours_are_unharmed(strange: list[dict[str, Any]], at: int) -> None:
    elements = [*strange[:at], element(1), *strange[at:]]
    request = record(1, json.dumps(elements).encode("utf-8", "replace"), tp=RAW, headers=HEADERS)
    effects = Effects()
    try:
        FOLD(request, effects)
    except PartlyBadError as error:
        error.apply(effects)
    except (RecordError, PoisonError):
        assert not _plain(request.value or b""), "a body that JSON itself does not allow"
        return
    assert "e1" in {records.decode_event(row.value).event_id for _, row in events_of(effects)}


def _plain(body: bytes) -> bool:
    try:
        codecs.decode(body)
    except codecs.DecodeError:
        return False
    return True
