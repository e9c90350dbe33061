"""The records of ``mail.sends``: what is written can be read, and what is wrong is named, never quoted."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.events import Send
from streams.providers import PROVIDERS
from streams.records import RecordError, decode_send, encode_send

_names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Z"], exclude_characters='<>@,;"'), min_size=1)
_labels = st.text(st.characters(codec="utf-8"), max_size=30)

sends = st.builds(
    Send,
    account=_names,
    provider=st.sampled_from(sorted(PROVIDERS)),
    message_id=_names,
    recipient=st.builds("{}@{}".format, _names, _names),
    reference=st.none() | _names,
    sent_at=st.none() | st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds are naive
    tags=st.lists(_labels, max_size=5).map(tuple),
    metadata=st.dictionaries(_labels, _labels, max_size=5),
).map(lambda one: replace(one, message_id=PROVIDERS[one.provider].message_id(one.message_id)))

PLAIN: dict[str, Any] = {
    "account": "billing",
    "provider": "postmark",
    "message_id": "883953f4-6105-42a2-a16a-77a8eac79483",
    "recipient": "ann@customer.example",
    "reference": "INV-4711",
    "sent_at": "2026-11-03T10:00:00.250000Z",
    "tags": ["invoices"],
    "metadata": {"customer": "7"},
}


def read(**changes: Any) -> Send:
    return decode_send(json.dumps(PLAIN | changes).encode())


@given(sends)
def test_a_send_written_and_read_is_the_same(one: Send) -> None:
    assert decode_send(encode_send(one)) == one


def test_a_send_on_the_wire_has_these_fields() -> None:
    assert json.loads(encode_send(read())) == PLAIN


@pytest.mark.parametrize("text", ["2026-11-03T10:00:00.25z", "2026-11-03t10:00:00.25Z", "2026-11-03 11:00:00.25+01:00"])
def test_a_time_may_be_written_in_each_way_of_rfc_3339(text: str) -> None:
    assert read(sent_at=text) == read()


@pytest.mark.parametrize(
    "text",
    ["2026-12-31T23:59:60Z", "2026-11-03T10:00:00+24:00", "1969-12-31T23:59:59Z", "z", "", "2026-11-03T10:00:00"],
)
def test_a_time_that_is_not_of_the_calendar_from_1970_on_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="sent_at"):
        read(sent_at=text)


def test_what_may_be_missing_may_be_null_too() -> None:
    least = {name: PLAIN[name] for name in ("account", "provider", "message_id", "recipient")}

    assert decode_send(json.dumps(least).encode()) == read(reference=None, sent_at=None, tags=None, metadata=None)


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert read(campaign={"deep": [1]}) == read()


def test_a_message_id_loses_its_angle_brackets_and_an_address_its_margins() -> None:
    assert read(message_id=" <1@mg.sender.example> ").message_id == "1@mg.sender.example"
    assert read(recipient=" ann@customer.example ").recipient == "ann@customer.example"


@pytest.mark.parametrize(
    ("provider", "held", "message_id"),
    [
        ("amazon_ses", "<0102018f-aa-000000@eu-west-1.amazonses.com>", "0102018f-aa-000000"),
        ("amazon_ses", "0102018f-aa-000000@email.amazonses.com", "0102018f-aa-000000"),  # us-east-1
        ("amazon_ses", "1@eu-west-1.amazonses.com.sender.example", "1@eu-west-1.amazonses.com.sender.example"),
        ("sendgrid", "IWe-stDXSP-9ybMzJVc_PA.recvd-5f54b5d587-pczjm-1-67BADEEA-6.0", "IWe-stDXSP-9ybMzJVc_PA"),
        ("sendgrid", "<IWe-stDXSP-9ybMzJVc_PA@geopod-ismtpd-1-0>", "IWe-stDXSP-9ybMzJVc_PA"),
        ("sendgrid", "<invoice.recv-1@sender.example>", "invoice.recv-1@sender.example"),  # the sender's own
        ("mailgun", "<1.recv@eu-west-1.amazonses.com>", "1.recv@eu-west-1.amazonses.com"),
    ],
)
def test_a_message_id_is_read_as_in_the_providers_webhooks(provider: str, held: str, message_id: str) -> None:
    assert read(provider=provider, message_id=held).message_id == message_id


def test_a_header_without_an_id_is_refused() -> None:
    with pytest.raises(RecordError, match="message_id"):
        read(provider="amazon_ses", message_id="<@eu-west-1.amazonses.com>")


def test_a_quoted_local_part_may_hold_what_else_would_be_a_list() -> None:
    assert read(recipient='"ann, sales"@customer.example').recipient == '"ann, sales"@customer.example'


def test_a_time_with_an_offset_is_the_same_time_in_utc() -> None:
    assert read(sent_at="2026-11-03T11:00:00.25+01:00") == read()
    assert read(sent_at="2026-11-03T11:00:00.25+01:00").event_id == read().event_id


@given(sends, st.timedeltas(timedelta(hours=-12), timedelta(hours=12)))
def test_the_event_id_does_not_depend_on_the_zone_in_which_the_time_was_written(one: Send, offset: timedelta) -> None:
    if one.sent_at is not None and 1971 < one.sent_at.year < 9999:
        moved = one.sent_at.astimezone(timezone(offset))
        assert Send(**{n: getattr(one, n) for n in Send.__slots__} | {"sent_at": moved}).event_id == one.event_id


def test_another_reference_or_time_is_another_event_and_labels_are_not() -> None:
    assert read(reference="INV-4712").event_id != read().event_id
    assert read(sent_at=None).event_id != read().event_id
    assert read(tags=None, metadata=None).event_id == read().event_id


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"account": None}, "account"),
        ({"account": ""}, "account"),
        ({"provider": "gmail"}, "provider"),
        ({"message_id": 7}, "message_id"),
        ({"message_id": "<>"}, "message_id"),
        ({"recipient": "Secret Name <secret@customer.example>"}, "recipient"),
        ({"recipient": "secret@a.example, other@b.example"}, "recipient"),
        ({"recipient": "secret@a.example\r\nBcc: x@b.example"}, "recipient"),
        ({"recipient": "secret"}, "recipient"),
        ({"reference": 4711}, "reference"),
        ({"reference": "secret" * 200}, "reference"),
        ({"sent_at": "yesterday"}, "sent_at"),
        ({"sent_at": "2026-11-03T10:00:00"}, "sent_at"),
        ({"sent_at": "1969-12-31T23:59:59Z"}, "sent_at"),
        ({"sent_at": 1793700000}, "sent_at"),
        ({"tags": "secret"}, "tags"),
        ({"tags": {"secret": "v"}}, "tags"),
        ({"tags": ["secret", 7]}, "tag"),
        ({"tags": ["secret"] * 51}, "tags"),
        ({"metadata": "secret"}, "metadata"),
        ({"metadata": ["secret"]}, "metadata"),
        ({"metadata": {"secret": 7}}, "metadata"),
        ({"metadata": {"k": "secret" * 200}}, "metadata"),
        ({"metadata": {"secret" * 200: "v"}}, "metadata"),
    ],
)
def test_what_is_wrong_is_named_and_never_quoted(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecordError, match=named) as raised:
        read(**changes)
    assert "secret" not in str(raised.value).lower()


@pytest.mark.parametrize("value", [None, b"", b"[]", b"null", b"{", b"\xff", b'{"account": NaN}'])
def test_what_is_no_object_is_refused(value: bytes | None) -> None:
    with pytest.raises(RecordError):
        decode_send(value)


def test_what_could_not_be_read_cannot_be_written() -> None:
    with pytest.raises(RecordError):
        encode_send(Send(account="a", provider="postmark", message_id="m", recipient="no address"))
