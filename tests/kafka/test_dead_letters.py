from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import records
from streams.kafka.dead_letters import HEADERS_KEPT, LONGEST_KEY, DeadLetters, reason_of
from streams.kafka.lanes import PartlyBadError
from streams.providers import PoisonError
from tests.kafka.fakes import SOURCE, record

ADDRESS = "anna@example.com"
MAKER = DeadLetters(topic="mail.dead-letters", partitions=4, max_bytes=1_000)


def test_a_dead_letter_holds_the_bytes_the_origin_and_the_reason() -> None:
    original = record(17, b"\xff{not json", key=b"k", headers=(("account", b"acme"), ("none", None)))
    partition, row = MAKER.of_record(original, "normalise", records.RecordError("the record is no JSON object"))
    letter = records.decode_dead_letter(row.value, row.headers)
    assert partition == SOURCE.partition % 4
    assert (row.key, row.timestamp_ms) == (b"k", original.timestamp)
    assert letter.value == b"\xff{not json"
    assert (letter.topic, letter.partition, letter.offset) == (SOURCE.topic, SOURCE.partition, 17)
    assert letter.timestamp_ms == original.timestamp
    assert (letter.stage, letter.element) == ("normalise", None)
    assert letter.reason == "RecordError: the record is no JSON object"
    assert list(letter.headers) == [("account", b"acme"), ("none", b"")]
    assert not letter.truncated


def test_an_element_of_a_record_is_kept_without_its_neighbours() -> None:
    _, row = MAKER.of_element(record(17, b"[1,2]"), "normalise", b"2", "not an object", 1)
    letter = records.decode_dead_letter(row.value, row.headers)
    assert (letter.value, letter.element, letter.reason, letter.offset) == (b"2", 1, "not an object", 17)


def test_a_long_original_is_cut_and_its_hash_and_length_say_so() -> None:
    _, row = MAKER.of_record(record(1, b"x" * 5_000), "normalise", records.RecordError("x"))
    letter = records.decode_dead_letter(row.value, row.headers)
    assert (letter.value, letter.size, letter.truncated) == (b"x" * 1_000, 5_000, True)


def test_a_record_without_key_and_value_becomes_a_dead_letter_too() -> None:
    original = replace(record(1, None), key=None)
    _, row = MAKER.of_record(original, "track", records.RecordError("the record has no value"))
    assert (row.key, row.value) == (None, None)
    assert records.decode_dead_letter(row.value, row.headers).size == 0


def test_a_long_key_is_somebody_elses_and_not_kept() -> None:
    long = b"k" * (LONGEST_KEY + 1)
    _, row = MAKER.of_record(record(1, key=long), "track", records.RecordError("x"))
    assert row.key is None
    assert "origin-key" not in dict(row.headers)
    _, row = MAKER.of_record(record(1, key=long[1:]), "track", records.RecordError("x"))
    assert row.key == long[1:]


# -- no foreign text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"could not parse {ADDRESS}"),
        KeyError(ADDRESS),
        UnicodeDecodeError("utf-8", ADDRESS.encode() + b"\xff", 16, 17, "invalid start byte"),
        RecursionError(ADDRESS),
        type("OwnError", (Exception,), {"__module__": "another.package"})(ADDRESS),
        type("OwnError", (Exception,), {"__module__": "streamsother"})(ADDRESS),
    ],
)
def test_of_a_foreign_exception_only_the_type_is_told(error: Exception) -> None:
    assert reason_of(error) == type(error).__name__
    _, row = MAKER.of_record(record(1), "track", error)
    assert not any(ADDRESS.encode() in value for _, value in row.headers)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (records.RecordError("the record has no value"), "RecordError: the record has no value"),
        (PoisonError("unknown shape"), "PoisonError: unknown shape"),
        (PartlyBadError("element 3", apply=lambda _: None), "PartlyBadError: element 3"),
    ],
)
def test_of_our_own_exceptions_the_text_is_told(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


# -- bounded --------------------------------------------------------------------------------------------------------------------

HEADERS = st.lists(st.tuples(st.text(max_size=30), st.none() | st.binary(max_size=300)), max_size=40)


@given(HEADERS, st.integers(0, 3_000), st.binary(max_size=2_000), st.binary(max_size=2_000))
def test_a_dead_letter_is_never_larger_than_the_limit_and_a_constant(
    headers: list[tuple[str, bytes | None]], repeat: int, value: bytes, key: bytes
) -> None:
    original = record(1, value, key=key, headers=tuple(headers * repeat))
    _, row = MAKER.of_record(original, "normalise", records.RecordError("x"))
    size = len(row.value or b"") + len(row.key or b"")
    size += sum(len(name.encode("utf-8", "surrogatepass")) + len(text) + 10 for name, text in row.headers)
    assert size <= MAKER.max_bytes + 8 * HEADERS_KEPT


def test_a_million_empty_headers_do_not_make_a_dead_letter_that_no_broker_takes() -> None:
    original = record(1, b"x", headers=(("", b""),) * 1_000_000)
    _, row = MAKER.of_record(original, "normalise", records.RecordError("x"))
    assert len(row.headers) < 10_000


def test_few_small_headers_are_all_kept() -> None:
    headers = tuple((f"h{n}", b"v" * 100) for n in range(50))
    _, row = MAKER.of_record(record(1, headers=headers), "normalise", records.RecordError("x"))
    assert records.decode_dead_letter(row.value, row.headers).headers == headers
