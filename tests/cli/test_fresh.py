"""Old bodies made new: what changes, what stays, what belongs together."""

import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deploy.local import demo
from streams import codecs
from streams.cli._fresh import fresh_id, fresh_message_id, freshened, instant, moved
from streams.domain.events import DeliveryEvent
from streams.providers import PROVIDERS, PoisonError, WebhookRequest
from streams.settings import Settings

NOW = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)
DEMO = [(payload.provider, payload.path.read_bytes()) for payload in demo.payloads()]


def fresh(provider: str, *values: Any, run: str = "run1") -> list[Any]:
    bodies = freshened([(provider, codecs.encode(value)) for value in values], now=NOW, run=run)
    return [codecs.decode(body) for body in bodies]


def events_of(provider: str, body: bytes, headers: dict[str, str] | None = None) -> Sequence[DeliveryEvent]:
    keys = Settings().delivery.reference_keys
    request = WebhookRequest(body, headers or {}, url="", account="a", received_at=NOW, reference_keys=keys)
    try:
        return PROVIDERS[provider].normalise(request)
    except PoisonError as error:
        return error.events


@pytest.mark.parametrize(("provider", "body"), DEMO)
def test_every_event_of_a_fresh_body_is_a_new_one_of_a_new_message_and_else_the_same(
    provider: str, body: bytes
) -> None:
    (new_body,) = freshened([(provider, body)], now=NOW, run="run1")

    for old, new in zip(events_of(provider, body), events_of(provider, new_body), strict=True):
        assert (old.event_id == new.event_id, old.message_id == new.message_id) == (False, False)
        assert (old.recipient, old.type, old.reference, old.reason) == (
            new.recipient,
            new.type,
            new.reference,
            new.reason,
        )


@pytest.mark.parametrize(("provider", "body"), DEMO)
def test_a_message_keeps_its_distances_in_time_and_its_newest_event_is_now(provider: str, body: bytes) -> None:
    (new_body,) = freshened([(provider, body)], now=NOW, run="run1")
    old, new = events_of(provider, body), events_of(provider, new_body)

    shifts = {
        a.message_id: b.occurred_at - a.occurred_at
        for a, b in zip(old, new, strict=True)
        if a.occurred_at and b.occurred_at
    }
    for a, b in zip(old, new, strict=True):
        assert a.occurred_at is not None
        assert b.occurred_at is not None
        assert abs(b.occurred_at - a.occurred_at - shifts[a.message_id]) <= timedelta(seconds=1)
    newest = max(event.occurred_at for event in new if event.occurred_at)
    assert NOW - timedelta(seconds=10) <= newest  # the notification itself is later than what it tells
    assert newest <= NOW + timedelta(seconds=1)


def test_two_runs_have_no_message_and_no_event_in_common() -> None:
    def ids(run: str) -> set[str]:
        bodies = freshened(DEMO, now=NOW, run=run)
        events = [event for (name, _), body in zip(DEMO, bodies, strict=True) for event in events_of(name, body)]
        return {event.event_id for event in events} | {event.delivery_id for event in events}

    assert not ids("run1") & ids("run2")


def test_a_duplicate_stays_a_duplicate_and_a_message_stays_together_over_several_bodies() -> None:
    one = [
        {"event": "processed", "sg_event_id": "ZXZlbnQtb25l", "sg_message_id": "a" * 22 + ".recvd-1", "timestamp": 100}
    ]
    two = [{"event": "open", "sg_event_id": "ZXZlbnQtdHdv", "sg_message_id": "a" * 22 + ".filter0-9", "timestamp": 160}]

    first, second, again = fresh("sendgrid", one, two, one)

    assert first == again
    assert first[0]["sg_message_id"][:22] == second[0]["sg_message_id"][:22] != "a" * 22
    assert first[0]["sg_message_id"][22:] == ".recvd-1"
    assert (second[0]["timestamp"] - first[0]["timestamp"], second[0]["timestamp"]) == (60, round(NOW.timestamp()))


def test_messages_of_different_years_all_become_new() -> None:
    old = {"event": "open", "sg_message_id": "old-message-of-2016", "timestamp": 1_460_000_000}
    new = {"event": "open", "sg_message_id": "new-message-of-2026", "timestamp": 1_790_000_000}

    ((first, second),) = fresh("sendgrid", [old, new])

    assert first["timestamp"] == second["timestamp"] == round(NOW.timestamp())


SES: dict[str, Any] = {
    "eventType": "DeliveryDelay",
    "mail": {
        "timestamp": "2026-11-22T10:00:00.000Z",
        "messageId": "0107019372e0d201-5b7a1c3e-000000",
        "destination": ["a@example.com"],
        "headers": [{"name": "Message-ID", "value": "<1234567890abcdef@example.com>"}, {"name": "To", "value": "x"}],
        "tags": {"id": ["4711"], "timestamp": ["2020-01-01T00:00:00Z"]},
    },
    "deliveryDelay": {"timestamp": "2026-11-22T10:05:00.000Z", "expirationTime": "2026-11-23T00:00:00.000Z"},
}


def test_a_deadline_moves_along_but_is_not_the_newest_time() -> None:
    (event,) = fresh("amazon_ses", SES)

    assert event["deliveryDelay"]["timestamp"] == "2026-11-23T12:00:00.250Z"
    assert event["deliveryDelay"]["expirationTime"] == "2026-11-24T01:55:00.250Z"
    assert event["mail"]["timestamp"] == "2026-11-23T11:55:00.250Z"


def test_what_the_application_attached_stays_as_it_is() -> None:
    (ses,) = fresh("amazon_ses", SES)
    (mailgun,) = fresh("mailgun", {"event-data": {"id": "x" * 20, "user-variables": {"id": "4711", "timestamp": 5}}})

    assert ses["mail"]["tags"] == SES["mail"]["tags"]
    assert ses["mail"]["headers"][1] == {"name": "To", "value": "x"}
    assert mailgun["event-data"]["user-variables"] == {"id": "4711", "timestamp": 5}
    assert mailgun["event-data"]["id"] != "x" * 20


def test_the_same_message_comes_out_of_every_wrapping_of_ses() -> None:
    text = codecs.encode(SES).decode()
    sns = {"Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324", "Message": text}
    bridge = {"id": "7bf73129-1428-4cd3-a780-95db273d1602", "time": "2026-11-22T10:05:01Z", "detail": SES}
    lines = codecs.encode(SES) + b"\n" + codecs.encode(SES) + b"\n"

    bodies = freshened(
        [("amazon_ses", body) for body in (codecs.encode(SES), codecs.encode(sns), codecs.encode(bridge), lines)],
        now=NOW,
        run="run1",
    )

    bare, in_sns, in_bridge = (codecs.decode(body) for body in bodies[:3])
    in_lines = [codecs.decode(line) for line in bodies[3].splitlines()]
    wanted = bare["mail"]["messageId"]
    assert wanted != SES["mail"]["messageId"]
    assert codecs.decode(in_sns["Message"])["mail"]["messageId"] == wanted
    assert in_sns["MessageId"] != sns["MessageId"]
    assert in_bridge["detail"]["mail"]["messageId"] == wanted
    assert in_bridge["time"] == "2026-11-23T12:00:00Z"
    assert [line["mail"]["messageId"] for line in in_lines] == [wanted, wanted]


def test_a_form_stays_a_form() -> None:
    pairs = [
        ("event", "delivered"),
        ("Message-Id", "<20261122.1.5C0F8E1D@example.net>"),
        ("message-headers", '[["Message-Id","<20261122.1.5C0F8E1D@example.net>"],["To","a@example.com"]]'),
        ("timestamp", "1795341604"),
        ("my-var", "ü & ö"),
        ("tag", "one"),
        ("tag", "two"),
    ]

    (body,) = freshened([("mailgun", urlencode(pairs).encode())], now=NOW, run="run1")

    new = parse_qsl(body.decode())
    assert [name for name, _ in new] == [name for name, _ in pairs]
    found = dict(new)
    assert re.fullmatch(r"<\d{8}\.\d\.[0-9A-F]{8}@example\.net>", found["Message-Id"])
    assert codecs.decode(found["message-headers"]) == [["Message-Id", found["Message-Id"]], ["To", "a@example.com"]]
    assert (found["timestamp"], found["my-var"]) == (str(round(NOW.timestamp())), "ü & ö")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"no json & no form",
        b"[" * 100_000,
        b"[" * 500 + b"]" * 500,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b'[{"timestamp": NaN}]',
        b64encode(bytes(range(256))),
        b"null\r\n--boundary\r\nContent-Disposition: form-data",
    ],
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_cannot_be_read_is_sent_as_it_is(provider: str, body: bytes) -> None:
    assert freshened([(provider, body)], now=NOW, run="run1") == [body]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["timestamp", "ID", "MessageID", "Message", "time", "value", "name", "mail", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(sorted(PROVIDERS)), JSON)
def test_whatever_json_is_fed_its_shape_stays(provider: str, value: Any) -> None:
    def shape(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {name: shape(member) for name, member in inner.items()}
        return [shape(member) for member in inner] if isinstance(inner, list) else type(inner)

    (new,) = fresh(provider, value)

    assert shape(new) == shape(value)


@given(st.text(min_size=1, max_size=60))
def test_an_id_is_always_replaced_by_the_same_one_which_is_another(value: str) -> None:
    assert fresh_id(value, "run1") == fresh_id(value, "run1")
    if sum(map(str.isalnum, value)) > 3 and value.isascii():
        assert fresh_id(value, "run1") != fresh_id(value, "run2")


@given(st.integers(1, 2**63 - 1))
@example(212)  # became 1000
@example(2**63 - 1)
def test_a_number_stays_a_number_of_as_many_digits(value: int) -> None:
    new = fresh_id(value, "run1")

    assert len(str(new)) == len(str(value))
    assert new < 2**63


def test_an_id_keeps_its_shape() -> None:
    uuid = "883953f4-6105-42a2-a16a-77a8eac79401"

    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", fresh_message_id(uuid, "run1"))
    assert re.fullmatch(r"<[0-9a-f]{16}@example\.com>", fresh_message_id("<1234567890abcdef@example.com>", "run1"))
    assert fresh_message_id("short", "run1").startswith("run1")


@pytest.mark.parametrize(
    ("value", "later"),
    [
        (100, 101),
        (100.25, 101.75),
        (1_793_700_000_312, 1_793_700_001_812),  # milliseconds
        ("100", "102"),
        ("100.250", "101.750"),
        ("2026-11-22T10:00:00Z", "2026-11-22T10:00:01Z"),
        ("2026-11-22T10:00:00.250Z", "2026-11-22T10:00:01.750Z"),
        ("2026-11-22T10:00:00.2500000+02:00", "2026-11-22T10:00:01.7500000+02:00"),
        ("2026-11-22", "2026-11-22"),
        ("soon", "soon"),
        (True, True),
        (None, None),
        (10**30, 10**30),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
    ],
)
def test_a_time_keeps_its_notation(value: Any, later: Any) -> None:
    assert moved(value, timedelta(seconds=1.5)) in {later, 102 if value == 100 and isinstance(value, int) else later}


def test_of_brevos_times_the_one_in_the_accounts_zone_is_not_the_newest() -> None:
    at = 1_793_700_000
    (event,) = fresh(
        "brevo", {"message-id": "<a.1@b>", "ts": at + 32_400, "ts_event": at, "ts_epoch": at * 1_000 + 250}
    )

    assert event["ts_epoch"] == int(NOW.timestamp() * 1_000)
    assert event["ts"] - event["ts_event"] == 32_400


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis wants naive bounds
def test_a_time_that_was_moved_means_the_moved_time(moment: datetime) -> None:
    shift = timedelta(days=3, seconds=7)

    assert instant(moved(f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z", shift)) == moment + shift


def test_a_message_id_of_mailjet_stays_a_number_that_is_the_same_as_its_text() -> None:
    sent = {"MessageID": 1_152_921_526_333_757_313, "mj_message_id": "1152921526333757313", "time": 1_793_700_005}
    opened = {"MessageID": 1_152_921_526_333_757_313, "CustomID": "1152921526333757313", "time": 1_793_700_065}

    ((new, seen),) = fresh("mailjet", [sent, opened])

    assert new["MessageID"] == seen["MessageID"] != sent["MessageID"]
    assert new["mj_message_id"] == str(new["MessageID"])
    assert seen["CustomID"] == opened["CustomID"]
    assert (new["time"], seen["time"]) == (int(NOW.timestamp()) - 60, int(NOW.timestamp()))
