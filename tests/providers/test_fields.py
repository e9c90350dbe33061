"""Fields that may hold anything give a bounded value or nothing."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.providers import PoisonError, _fields

SECOND = datetime(2026, 11, 3, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-11-03T10:00:00Z", SECOND),
        ("2026-11-03T10:00:00", SECOND),
        ("2026-11-03T05:00:00.0000009-05:00", SECOND),
        (" 2026-11-03T10:00:00.000Z ", SECOND),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),  # before year 1 in UTC
        ("9999-12-31T23:59:59-14:00", None),  # after year 9999 in UTC
        ("1969-12-31T23:59:59Z", None),
        ("2026-02-30T10:00:00Z", None),
        ("yesterday", None),
        ("", None),
        ("2" * 100_000, None),
        (1793700000, None),
        (None, None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_iso_time_is_read_or_unknown(value: Any, moment: datetime | None) -> None:
    assert _fields.iso_moment(value) == moment


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (1793700000, SECOND),
        (1793700000.0, SECOND),
        ("1793700000", SECOND),
        (True, None),
        (False, None),
        (0, None),
        (float("nan"), None),
        (float("inf"), None),
        ("nan", None),
        (-1, None),
        (10**18, None),
        ("x", None),
        ([], None),
    ],
    ids=repr,
)
def test_seconds_are_read_or_unknown(value: Any, moment: datetime | None) -> None:
    assert _fields.moment(value) == moment


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("ann@customer.example", "ann@customer.example"),
        (" Ann@Customer.Example ", "Ann@Customer.Example"),
        ("Ann <ann@customer.example>", "ann@customer.example"),
        ("<ann@customer.example>", "ann@customer.example"),
        (" Ann <ann@customer.example> ", "ann@customer.example"),
        (" rfc822; ann@customer.example", "ann@customer.example"),
        ("rfc822; ann@customer.example", "ann@customer.example"),
        ("RFC822;ann@customer.example", "ann@customer.example"),
        ("ann@customer.example>", "ann@customer.example>"),
        ("Ann <>", None),
        ("  ", None),
        ("", None),
        (7, None),
        (None, None),
        (["ann@customer.example"], None),
    ],
    ids=repr,
)
def test_an_address_is_taken_alone(value: Any, address: str | None) -> None:
    assert _fields.address(value) == address


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'"\ud83d"', "\ufffd"),
        (rb'"\uD83Dx"', "\ufffdx"),
        (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'["\\ud83d", "\ud83d"]', ["\\ud83d", "\ufffd"]),  # the first is a backslash and letters
        (rb'"\\\ud83d"', "\\\ufffd"),
    ],
    ids=repr,
)
def test_half_a_surrogate_pair_becomes_a_replacement_character(body: bytes, value: Any) -> None:
    assert _fields.decode_body(body) == value
    assert _fields.decode_body(body.decode()) == value


@given(st.binary(max_size=40))
def test_a_body_that_cannot_be_decoded_is_poison(junk: bytes) -> None:
    with pytest.raises(PoisonError) as caught:
        _fields.decode_body(b"[" + junk.replace(b"]", b""))

    assert caught.value.bad == ()


def test_tags_hold_the_reference_where_no_metadata_does() -> None:
    keys = ("invoice", "invoice_id")

    assert _fields.reference(keys, {"invoice_id": 4711}, ["invoice:9"]) == "4711"
    assert _fields.reference(keys, {"invoice": None}, ["x", "invoice_id=4712"]) == "4712"
    assert _fields.reference(keys, "junk", ["invoice:", "invoices:1"]) is None
    assert _fields.reference(keys, {}, ["invoice: 4713 "]) == _fields.reference(keys, {"invoice": " 4713"}) == "4713"


def test_a_header_holds_the_reference_under_the_name_of_the_key_however_either_is_written() -> None:
    headers = [7, {"name": 7}, {"name": "Invoice-Id", "value": "1"}, {"name": "x-INVOICE-id", "value": "4711"}]

    for key in ("invoice_id", "Invoice-ID", "X-Invoice-Id"):
        assert _fields.header_reference([key], headers) == "4711"
    assert _fields.header_reference(["invoice"], headers) is None


def test_a_fingerprint_keeps_its_parts_apart_and_knows_the_mailbox() -> None:
    def of(event: str, detail: str, recipient: str = "ann@customer.example") -> str:
        return _fields.fingerprint(
            provider="p", account="a", event=event, message_id="m", recipient=recipient, time=SECOND, detail=detail
        )

    assert of("open", "") == of("open", "", "Ann@Customer.example ")
    assert of("ab", "c") != of("a", "bc")
    assert of("open", "") == "d29bf9aefc94301b29d89ccaf1e7e789daa7a197c3d9c0ffdaadf8d22a2f6f9f"


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (1, 1),
        ("5", 5),
        (999_999, 999_999),
        (0, None),
        ("0", None),
        (-1, None),
        (1_000_000, None),
        (True, None),
        (1.0, None),
        ("x", None),
        ("\u0663", None),  # a digit of another script
        ("9" * 5_000, None),
        (None, None),
        ([1], None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_count_is_read_or_unknown(value: Any, count: int | None) -> None:
    assert _fields.count(value) == count


@pytest.mark.parametrize("value", ["", " \n", None, 7, ["x"]], ids=repr)
def test_what_is_blank_or_no_text_is_none(value: Any) -> None:
    assert _fields.text(value) is None
    assert _fields.metadata(value) == {}


def test_what_has_no_value_is_no_metadata() -> None:
    assert _fields.metadata({"a": None, "b": "", "c": 0, "d": False, "e": 1.5}) == {
        "b": "", "c": "0", "d": "false", "e": "1.5",
    }  # fmt: skip


def test_of_too_much_metadata_the_first_entries_are_kept_in_whatever_order_they_come() -> None:
    names = [f"k{number:02}" for number in range(_fields.METADATA_LIMIT + 1)]
    kept = dict.fromkeys(names[:-1], "v")

    assert _fields.metadata(dict.fromkeys(names, "v")) == _fields.metadata(dict.fromkeys(names[::-1], "v")) == kept


def test_labels_are_bounded_in_number_and_length() -> None:
    assert _fields.tags(["t" * 1_000] * 100) == ("t" * _fields.WORD_LIMIT,) * _fields.TAGS_LIMIT
    assert _fields.metadata({"k" * 1_000: "v" * 2_000}) == {
        "k" * _fields.METADATA_KEY_LIMIT: "v" * _fields.METADATA_VALUE_LIMIT
    }


def test_two_long_identifiers_stay_different_and_as_long_as_an_identifier_may_be() -> None:
    longest = "x" * _fields.ID_LIMIT
    one, other = (_fields.identifier(f"{longest}{end}") for end in "ab")

    assert _fields.identifier(longest) == longest
    assert one is not None
    assert (one != other, len(one)) == (True, _fields.ID_LIMIT)
