"""The records on the wire: what is written can be read, and what cannot be read is refused without a word of it."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.advice import advise
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.domain.status import Delivery, fold, to_micros
from streams.records import (
    DeadLetter,
    RecordError,
    Resume,
    RowError,
    RowVersionError,
    dead_letter,
    decode_dead_letter,
    decode_event,
    decode_raw,
    decode_resume,
    decode_row,
    decode_status,
    due_of_row,
    encode_dead_letter,
    encode_event,
    encode_raw_headers,
    encode_resume,
    encode_row,
    encode_status,
    watch_of_row,
)
from streams.records.events import _EVENT_FIELDS, _decode_leniently
from tests.domain.deliveries import NOON, at, event, events, fold_all, histories

HOUR = 3_600_000_000
REQUIRED = ["event_id", "account", "provider", "message_id", "recipient", "type", "received_at"]
SOURCE = "mail.raw.sendgrid/3/1234"


def status_bytes(delivery: Delivery) -> bytes:
    return encode_status(delivery, support_contact="billing support", warn_after_us=HOUR)


def plain_event() -> DeliveryEvent:
    return replace(
        event(EventType.BOUNCE, 0.123456, kind=BounceKind.HARD, reason="550 5.1.1 no anna@example.com here"),
        event_id="event-1",
        smtp_code=550,
        enhanced_code="5.1.1",
        attempt=2,
        reference="4711",
        tags=("invoice", "march"),
        metadata={"customer": "7"},
        user_agent="Mozilla/5.0",
        suppression_list=SuppressionList.BOUNCE,
        retry_until=at(900),
        provider_event="bounce/bounce",
    )


def with_fields(**changes: Any) -> bytes:
    fields = json.loads(encode_event(plain_event(), SOURCE))
    fields.update(changes)
    return json.dumps(fields).encode()


def without_field(name: str) -> bytes:
    fields = json.loads(encode_event(plain_event(), SOURCE))
    del fields[name]
    return json.dumps(fields).encode()


# --- mail.events ---


@given(events(list(EventType)))
def test_an_event_written_and_read_is_the_same(one: DeliveryEvent) -> None:
    assert decode_event(encode_event(one, SOURCE)) == one


@given(events(list(EventType)))
def test_equal_events_give_equal_bytes(one: DeliveryEvent) -> None:
    assert encode_event(one, SOURCE) == encode_event(decode_event(encode_event(one, SOURCE)), SOURCE)


def test_an_event_on_the_wire_has_these_fields() -> None:
    assert json.loads(encode_event(plain_event(), SOURCE)) == {
        "event_id": "event-1",
        "delivery_id": plain_event().delivery_id,
        "account": "main",
        "provider": "sendgrid",
        "message_id": "message-1",
        "recipient": "anna@example.com",
        "reference": "4711",
        "type": "bounce",
        "bounce_kind": "hard",
        "occurred_at": "2026-11-20T12:00:00.123456Z",
        "received_at": "2026-11-20T12:00:02.123456Z",
        "reason": "550 5.1.1 no anna@example.com here",
        "smtp_code": 550,
        "enhanced_code": "5.1.1",
        "attempt": 2,
        "retry_until": "2026-11-20T12:15:00Z",
        "suppression_list": "bounce",
        "machine": False,
        "user_agent": "Mozilla/5.0",
        "tags": ["invoice", "march"],
        "metadata": {"customer": "7"},
        "provider_event": "bounce/bounce",
        "source": SOURCE,
    }


def test_a_delivery_id_that_the_caller_knows_is_written() -> None:
    assert json.loads(encode_event(plain_event(), SOURCE, delivery_id="known"))["delivery_id"] == "known"


def test_a_field_of_a_newer_version_is_ignored() -> None:
    assert decode_event(with_fields(mood="sunny")) == plain_event()


def test_a_word_of_a_newer_version_is_read_as_the_least_it_can_mean() -> None:
    assert decode_event(with_fields(type="teleported")).type is EventType.UNKNOWN
    assert decode_event(with_fields(bounce_kind="bouncy")).bounce_kind is BounceKind.UNDETERMINED
    assert decode_event(with_fields(suppression_list="moon")).suppression_list is None


@pytest.mark.parametrize(
    "name",
    sorted(set(json.loads(with_fields())) - set(REQUIRED)),
)
def test_an_event_may_lack_what_is_optional(name: str) -> None:
    assert decode_event(without_field(name)).event_id == "event-1"


@pytest.mark.parametrize("name", REQUIRED)
def test_an_event_without_what_is_required_is_refused_and_the_field_named(name: str) -> None:
    for value in (without_field(name), with_fields(**{name: None}), with_fields(**{name: 7})):
        with pytest.raises(RecordError, match=name):
            decode_event(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"event_id": NaN}',
        b'{"event_id": "\\ud800"}',
        with_fields(event_id=""),
        with_fields(recipient="a" * 1_001),
        with_fields(received_at="yesterday"),
        with_fields(received_at="2026-11-20T12:00:00"),
        with_fields(received_at="1969-12-31T23:59:59Z"),
        with_fields(received_at="0001-01-01T00:00:00+14:00"),
        with_fields(occurred_at="2026-13-20T12:00:00Z"),
        with_fields(occurred_at=1_700_000_000),
        with_fields(retry_until="later"),
        with_fields(smtp_code="550"),
        with_fields(smtp_code=True),
        with_fields(smtp_code=99),
        with_fields(smtp_code=10**30),
        with_fields(enhanced_code="5.1"),
        with_fields(enhanced_code="5.1.1 anna@example.com"),
        with_fields(attempt=0),
        with_fields(attempt=1.5),
        with_fields(machine="yes"),
        with_fields(tags="invoice"),
        with_fields(tags=["invoice", 7]),
        with_fields(metadata=["customer"]),
        with_fields(metadata={"customer": {"id": 7}}),
    ],
)
def test_what_is_no_event_is_refused_without_personal_data(value: bytes | None) -> None:
    with pytest.raises(RecordError) as refused:
        decode_event(value)
    assert "anna" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(json.loads(with_fields()))), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_at_all_is_an_event_or_refused(value: bytes) -> None:
    with suppress(RecordError):
        decode_event(value)


_JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just("2026-11-20T12:00:00"),
    st.just("2026-11-20T12:00:00+02:00"), st.just("1960-01-01T00:00:00Z"),  # we write microseconds; of more digits one way rounds, the other cuts
    st.lists(st.one_of(st.text(), st.integers())), st.dictionaries(st.text(), st.one_of(st.text(), st.integers())),
)  # fmt: skip


@given(events(), st.dictionaries(st.sampled_from(sorted(_EVENT_FIELDS)), _JUNK, max_size=3))
def test_the_one_pass_and_the_long_way_read_the_same_or_refuse_both(one: DeliveryEvent, junk: dict[str, Any]) -> None:
    value = json.dumps(json.loads(encode_event(one, "mail.raw.sendgrid/0/1")) | junk).encode()

    read = _outcome(decode_event, value)

    assert read == _outcome(_decode_leniently, value)


def _outcome(decode: Callable[[bytes | None], DeliveryEvent], value: bytes) -> DeliveryEvent | str:
    try:
        return decode(value)
    except RecordError:
        return "refused"


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_id": ""},
        {"message_id": "m" * 1_001},
        {"recipient": "anna\ud800@example.com"},
        {"smtp_code": 1_000},
        {"attempt": 0},
        {"attempt": 10**30},
        {"enhanced_code": "5.1.1.1"},
        {"received_at": datetime(2026, 11, 20)},  # noqa: DTZ001 (naive on purpose)
        {"occurred_at": datetime(2026, 11, 20)},  # noqa: DTZ001
        {"retry_until": datetime(2026, 11, 20)},  # noqa: DTZ001
        {"received_at": datetime(1969, 12, 31, tzinfo=UTC)},
        {"bounce_kind": None},
        {"type": EventType.OPEN},
        {"reason": "half a \ud800 pair"},
    ],
)
def test_an_event_that_breaks_the_vocabulary_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordError) as refused:
        encode_event(replace(plain_event(), **wrong), SOURCE)
    assert "anna" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [{"event_id": ""}, {"message_id": "m" * 1_001}, {"smtp_code": 600}, {"attempt": 0}, {"enhanced_code": "5.1"}],
    ids=str,
)
@pytest.mark.parametrize("type_", ["bounce", "a word of a newer version"])
def test_an_event_that_breaks_the_vocabulary_is_not_read_whatever_version_wrote_it(
    type_: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(RecordError):
        decode_event(with_fields(type=type_, **wrong))


def test_times_of_other_zones_are_written_and_read_in_utc() -> None:
    moscow = timezone(timedelta(hours=3))
    one = replace(plain_event(), occurred_at=datetime(2026, 11, 20, 15, tzinfo=moscow))
    assert json.loads(encode_event(one, SOURCE))["occurred_at"] == "2026-11-20T12:00:00Z"
    assert decode_event(with_fields(occurred_at="2026-11-20T15:00:00+03:00")).occurred_at == NOON


def test_an_endless_event_is_cut_to_what_a_record_and_a_row_can_hold() -> None:
    prose = "\x01" * 5_000_000  # six bytes of JSON each: the worst there is
    labels = tuple(f"{number}{prose[:2_000]}" for number in range(1_000))
    one = replace(
        plain_event(),
        reason=prose,
        reference=prose,
        user_agent=prose,
        provider_event=prose,
        tags=labels,
        metadata=dict(zip(labels, labels, strict=True)),
    )
    value = encode_event(one, SOURCE)
    assert len(value) < 1_000_000
    cut = decode_event(value)
    delivery = None
    for type_ in EventType:
        for kind in BounceKind if type_ is EventType.BOUNCE else [None]:
            delivery = fold(delivery, replace(cut, type=type_, bounce_kind=kind)).delivery
    assert delivery is not None
    assert len(encode_row(delivery)) < 1_000_000
    assert len(status_bytes(delivery)) < 1_000_000


def test_cutting_the_same_event_twice_is_cutting_it_once() -> None:
    one = replace(plain_event(), reason="x" * 2_000, metadata={str(number): "y" * 2_000 for number in range(99)})
    cut = decode_event(encode_event(one, SOURCE))
    assert decode_event(encode_event(cut, SOURCE)) == cut
    assert list(cut.metadata) == sorted(cut.metadata)


# --- rows ---


@given(histories)
def test_a_row_written_and_read_is_the_same(history: list[DeliveryEvent]) -> None:
    delivery = fold_all(history)
    assert decode_row(encode_row(delivery)) == delivery
    assert encode_row(decode_row(encode_row(delivery))) == encode_row(delivery)


@given(histories)
def test_a_row_tells_its_last_receipt_without_being_decoded(history: list[DeliveryEvent]) -> None:
    last = max(to_micros(one.received_at) for one in history)
    assert due_of_row(encode_row(fold_all(history))) == last


OF_VERSION_1 = (
    b'\x01\x00\x06`\xb4\x03\x0f\xa2\x80["vfjjvrlawzcmoqtcuaopdmxhoy","main","sendgrid","message-1",[["sent",'
    b'1795176000000000,1795176000000000,1795176002000000,[1971835917959106308],"e1",null,null,null],["deferred",'
    b'1795176060000000,1795176060000000,1795176062000000,[18361515465031745400],"e2","421 4.7.0 Try again later",421,'
    b'"4.7.0"],["bounce_soft",1795176120000000,1795176120000000,1795176122000000,[17828712899006645721],"e3",'
    b'"452 4.2.2 Mailbox full",452,"4.2.2"]],[1795176120000000,"e3","anna@example.com"],[1795176000000000,"e1","4711"],'
    b'[1795176000000000,"e1",["invoice"]],[1795176000000000,"e1",[["customer","7"]]],null,2,1795183200000000,'
    b'"bounce_soft",1795176002000000,"bounced","soft",false,false,3,"deferred","e3",1795176120000000,1795176120000000,'
    b"1795176122000000,false]"
)
"""As the version before `watch_at` and `judged` wrote it."""


def test_a_row_of_version_1_is_read_and_becomes_the_newest_version_when_it_is_written_again() -> None:
    history = [
        event(EventType.SENT, 0, event_id="e1", reference="4711", tags=("invoice",), metadata={"customer": "7"}),
        event(
            EventType.DEFERRED,
            60,
            event_id="e2",
            reason="421 4.7.0 Try again later",
            smtp_code=421,
            enhanced_code="4.7.0",
            attempt=2,
            retry_until=7_200,
        ),
        event(
            EventType.BOUNCE,
            120,
            event_id="e3",
            kind=BounceKind.SOFT,
            reason="452 4.2.2 Mailbox full",
            smtp_code=452,
            enhanced_code="4.2.2",
        ),
    ]

    delivery = decode_row(OF_VERSION_1)

    assert delivery == fold_all(history)
    assert (delivery.judged, delivery.watch_at, watch_of_row(OF_VERSION_1)) == (False, None, None)
    assert due_of_row(OF_VERSION_1) == to_micros(at(122))
    again = encode_row(delivery)
    assert again[0] == 3
    assert decode_row(again) == delivery


@given(histories, st.booleans(), st.none() | st.integers(1, 2**62))
def test_a_row_of_version_2_is_read_and_its_last_event_is_the_one_that_spoke(
    history: list[DeliveryEvent], judged: bool, watch_at: int | None
) -> None:
    delivery = replace(fold_all(history), judged=judged, watch_at=watch_at)
    spoken = {kind: replace(fact, said_at=None) for kind, fact in delivery.facts.items()}
    fields = msgspec.msgpack.decode(encode_row(delivery)[17:])
    fields[4] = [fact[:-1] for fact in fields[4]]
    of_version_2 = b"\x02" + encode_row(delivery)[1:17] + msgspec.msgpack.encode(fields)

    assert decode_row(of_version_2) == replace(delivery, facts=spoken)
    assert (due_of_row(of_version_2), watch_of_row(of_version_2)) == (delivery.last_received_at, watch_at)
    assert decode_row(encode_row(decode_row(of_version_2))) == replace(delivery, facts=spoken)


@given(histories, st.booleans(), st.none() | st.integers(1, 2**62))
def test_a_row_keeps_what_the_clock_watches(history: list[DeliveryEvent], judged: bool, watch_at: int | None) -> None:
    delivery = replace(fold_all(history), judged=judged, watch_at=watch_at)
    row = encode_row(delivery)

    assert decode_row(row) == delivery
    assert watch_of_row(row) == watch_at
    assert due_of_row(row) == delivery.last_received_at


def test_rows_sort_by_their_last_receipt_byte_by_byte() -> None:
    early, late = (encode_row(fold_all([event(EventType.SENT, seconds)])) for seconds in (0, 70_000))
    assert early[:9] < late[:9]


@pytest.mark.parametrize("head", [b"", b"\x00", b"\x04", b"{"])
def test_a_row_of_another_version_is_refused_as_such(head: bytes) -> None:
    with pytest.raises(RowVersionError, match="version"):
        decode_row(head + encode_row(fold_all([event(EventType.SENT)]))[1:] if head else b"")


@given(histories, st.data())
def test_a_damaged_row_is_refused_and_never_taken_for_poison(history: list[DeliveryEvent], data: st.DataObject) -> None:
    row = encode_row(fold_all(history))
    with pytest.raises(RowError) as refused:
        decode_row(row[: data.draw(st.integers(0, len(row) - 1))])
    assert not isinstance(refused.value, ValueError)
    assert "example.com" not in str(refused.value)


# --- mail.status-changed and mail.status ---


def test_a_status_on_the_wire_has_these_fields() -> None:
    history = [
        event(EventType.SENT, 0, event_id="one", reference="4711"),
        event(EventType.DEFERRED, 60, event_id="two", reason="450 4.7.1 greylisted", smtp_code=450,
              enhanced_code="4.7.1", attempt=3, retry_until=90_000),
    ]  # fmt: skip
    delivery = fold_all(history)
    assert json.loads(status_bytes(delivery)) == {
        "id": json.loads(status_bytes(delivery))["id"],
        "delivery_id": delivery.delivery_id,
        "revision": 2,
        "account": "main",
        "provider": "sendgrid",
        "message_id": "message-1",
        "recipient": "anna@example.com",
        "reference": "4711",
        "previous": "sent",
        "status": "deferred",
        "bounce_kind": None,
        "settled": False,
        "first_received_at": "2026-11-20T12:00:02Z",
        "occurred_at": "2026-11-20T12:01:00Z",
        "received_at": "2026-11-20T12:01:02Z",
        "late": False,
        "reason": "450 4.7.1 greylisted",
        "smtp_code": 450,
        "enhanced_code": "4.7.1",
        "deferred_since": "2026-11-20T12:01:00Z",
        "attempts": 3,
        "retry_until": "2026-11-21T13:00:00Z",
        "suppression_list": None,
        "dropped_since": None,
        "complained": False,
        "unsubscribed": False,
        "machine_opened": False,
        "cause_event_id": "two",
        "advice": {
            "code": "deferred_rate_or_reputation",
            "meaning": advise(delivery, support_contact=None, warn_after_us=HOUR).meaning,
            "what_to_do": advise(delivery, support_contact=None, warn_after_us=HOUR).what_to_do,
        },
    }


@given(histories)
def test_equal_deliveries_give_equal_bytes(history: list[DeliveryEvent]) -> None:
    delivery = fold_all(history)
    assert status_bytes(decode_row(encode_row(delivery))) == status_bytes(delivery)
    assert decode_status(status_bytes(delivery))["delivery_id"] == delivery.delivery_id


@given(histories)
def test_a_status_is_rewritten_exactly_when_it_shows_something_else(history: list[DeliveryEvent]) -> None:
    delivery = None
    for each in history:
        folded = fold(delivery, each)
        assert folded.delivery is not None
        if delivery is not None:
            differs = status_bytes(folded.delivery) != status_bytes(delivery)
            assert differs == (folded.changed or folded.refreshed)
        assert not (folded.changed and folded.refreshed)
        delivery = folded.delivery


@given(histories)
def test_the_id_of_a_change_is_that_of_its_revision_only(history: list[DeliveryEvent]) -> None:
    delivery = None
    ids: dict[int, set[str]] = {}
    for each in history:
        delivery = fold(delivery, each).delivery
        assert delivery is not None
        ids.setdefault(delivery.change.revision, set()).add(decode_status(status_bytes(delivery))["id"])
    assert all(len(each) == 1 for each in ids.values())
    assert len(set.union(*ids.values())) == len(ids)


def test_a_delivery_begun_again_after_its_expiry_has_other_ids() -> None:
    before, after = fold_all([event(EventType.OPEN, 0)]), fold_all([event(EventType.OPEN, 0, received=9_000_000)])
    assert before.change.revision == after.change.revision
    assert decode_status(status_bytes(before))["id"] != decode_status(status_bytes(after))["id"]


@pytest.mark.parametrize("value", [None, b"", b"[]", b"{}", b'{"delivery_id": "x", "revision": "1"}'])
def test_what_is_no_status_is_refused(value: bytes | None) -> None:
    with pytest.raises(RecordError):
        decode_status(value)


# --- mail.raw.<provider> ---


def test_a_raw_record_written_and_read_is_the_request() -> None:
    headers = encode_raw_headers(
        provider="mailgun",
        account="main",
        received_at=at(0.5),
        content_type="application/json; charset=utf-8",
        url="https://hooks.example/mailgun/main?x=ü",
        verified=True,
        key_id="2026",
        http_headers={"X-Signature": "abc\udcff"},
    )
    assert dict(headers) == {
        "provider": b"mailgun",
        "account": b"main",
        "received-at": b"2026-11-20T12:00:00.500000Z",
        "content-type": b"application/json; charset=utf-8",
        "url": "https://hooks.example/mailgun/main?x=ü".encode(),
        "verified": b"true",
        "key-id": b"2026",
        "http-x-signature": b"abc\xff",
    }
    request = decode_raw(b"{}", headers, reference_keys=("invoice",))
    assert request.body == b"{}"
    assert dict(request.headers) == {
        "x-signature": "abc\udcff",
        "content-type": "application/json; charset=utf-8",
    }
    assert request.url == "https://hooks.example/mailgun/main?x=ü"
    assert (request.account, request.received_at) == ("main", at(0.5))
    assert request.reference_keys == ("invoice",)


def test_a_raw_record_needs_no_more_than_account_and_receipt() -> None:
    headers = encode_raw_headers(provider="mailgun", account="main", received_at=NOON)
    assert dict(headers)["verified"] == b"false"
    request = decode_raw(b"", [(name, value) for name, value in headers if name in {"account", "received-at"}],
                         reference_keys=())  # fmt: skip
    assert (request.body, request.url, dict(request.headers)) == (b"", "", {})


@pytest.mark.parametrize(
    ("value", "drop", "add"),
    [
        (None, "", []),
        (b"{}", "account", []),
        (b"{}", "", [("account", b"")]),
        (b"{}", "", [("account", None)]),
        (b"{}", "received-at", []),
        (b"{}", "", [("received-at", b"\xff")]),
        (b"{}", "", [("received-at", b"2026-11-20")]),
        (b"{}", "", [("received-at", None)]),
    ],
)
def test_a_raw_record_without_body_account_or_receipt_is_refused(
    value: bytes | None, drop: str, add: list[tuple[str, bytes | None]]
) -> None:
    headers: list[tuple[str, bytes | None]] = [
        *encode_raw_headers(provider="mailgun", account="main", received_at=NOON)
    ]
    with pytest.raises(RecordError):
        decode_raw(value, [each for each in headers if each[0] != drop] + add, reference_keys=())


# --- mail.dead-letters ---


def letter(value: bytes | None = b'{"broken"', **changes: Any) -> DeadLetter:
    facts: dict[str, Any] = {
        "topic": "mail.raw.mailgun",
        "partition": 3,
        "offset": 12,
        "timestamp_ms": 1_795_176_000_000,
        "stage": "normalise",
        "reason": "not JSON at line 1, column 10",
        "key": b"\x00\xff",
        "headers": [("account", b"main"), ("http-x", b"\xff"), ("account", b"again"), ("reason", b"theirs")],
    }
    return dead_letter(value, **{**facts, **changes})


@pytest.mark.parametrize(
    "one", [letter(), letter(None), letter(b""), letter(element=0), letter(key=None), letter(headers=())]
)
def test_a_dead_letter_written_and_read_is_the_same(one: DeadLetter) -> None:
    again = decode_dead_letter(*encode_dead_letter(one, limit=1_000))
    assert again == one
    assert not again.truncated


def test_a_dead_letter_keeps_where_it_came_from_in_headers() -> None:
    value, headers = encode_dead_letter(letter(element=4), limit=1_000)
    assert value == b'{"broken"'
    assert headers == [
        ("origin-topic", b"mail.raw.mailgun"),
        ("origin-partition", b"3"),
        ("origin-offset", b"12"),
        ("origin-timestamp", b"1795176000000"),
        ("stage", b"normalise"),
        ("reason", b"not JSON at line 1, column 10"),
        ("size", b"9"),
        ("sha256", hashlib.sha256(b'{"broken"').hexdigest().encode()),
        ("element", b"4"),
        ("origin-key", b"\x00\xff"),
        ("original-account", b"main"),
        ("original-http-x", b"\xff"),
        ("original-account", b"again"),
        ("original-reason", b"theirs"),
    ]


def test_a_long_dead_letter_keeps_its_beginning_its_size_and_its_hash() -> None:
    value, headers = encode_dead_letter(letter(b"x" * 5_000), limit=1_000)
    assert value == b"x" * 1_000
    assert dict(headers)["truncated"] == b"true"
    again = decode_dead_letter(value, headers)
    assert again.truncated
    assert (again.size, again.sha256) == (5_000, letter(b"x" * 5_000).sha256)
    assert encode_dead_letter(again, limit=1_000) == (value, headers)


def test_what_is_no_dead_letter_is_refused() -> None:
    _, headers = encode_dead_letter(letter(), limit=1_000)
    for missing in ("origin-topic", "origin-partition", "origin-offset", "origin-timestamp", "stage", "reason"):
        with pytest.raises(RecordError):
            decode_dead_letter(b"", [each for each in headers if each[0] != missing])
    for malformed in (("origin-offset", b"twelve"), ("stage", b"\xff"), ("size", None)):
        with pytest.raises(RecordError):
            decode_dead_letter(b"", [*headers, malformed])


# --- mail.control ---


@pytest.mark.parametrize("through", [None, 0, 12])
def test_a_resume_written_and_read_is_the_same(through: int | None) -> None:
    value = encode_resume("resume-1", NOON, through, app_id="mailstreams", offset=9)
    assert decode_resume(value) == Resume(
        resume_id="resume-1", requested_at=NOON, dead_letter_through=through, app_id="mailstreams", offset=9
    )


def test_a_resume_of_an_older_version_does_not_say_which_stop_it_was_for() -> None:
    old = decode_resume(b'{"resume_id":"1","requested_at":"2026-11-20T12:00:00Z","dead_letter_through":5123}')
    assert (old.resume_id, old.app_id, old.offset) == ("1", None, None)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"{}",
        b'{"resume_id": 1, "requested_at": "2026-11-20T12:00:00Z", "dead_letter_through": null}',
        b'{"resume_id": "1", "requested_at": "noon", "dead_letter_through": null}',
        b'{"resume_id": "1", "requested_at": "2026-11-20T12:00:00Z", "dead_letter_through": "12"}',
        b'{"resume_id": "1", "requested_at": "2026-11-20T12:00:00Z", "dead_letter_through": true}',
        b'{"resume_id": "1", "requested_at": "2026-11-20T12:00:00Z", "dead_letter_through": null, "offset": "1"}',
        b'{"resume_id": "1", "requested_at": "2026-11-20T12:00:00Z", "dead_letter_through": null, "app_id": 1}',
    ],
)
def test_what_is_no_resume_is_refused(value: bytes | None) -> None:
    with pytest.raises(RecordError):
        decode_resume(value)


# --- all of them ---


@pytest.mark.parametrize("read", [decode_event, decode_status, decode_resume])
def test_every_reader_refuses_a_tombstone_as_a_value(read: Callable[[bytes | None], object]) -> None:
    with pytest.raises(RecordError, match="no value"):
        read(None)
