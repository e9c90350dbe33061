"""What is printed: harmless on a terminal, whatever came from outside."""

import json
import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.cli._output import json_line, plural, shortened, time_of_ms, time_text


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4))
def test_a_line_of_json_means_the_same_and_holds_nothing_that_a_terminal_obeys(value: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lines: list[bytes] = []
        patch.setattr("streams.cli._output.click.echo", lines.append)
        json_line(value)

    line = lines.pop().decode("utf-8")
    assert not lines
    assert json.loads(line) == value
    assert not {unicodedata.category(char) for char in line} & {"Cc", "Zl", "Zp"}
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff") & set(line)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2026-11-22T10:00:03.871Z", "2026-11-22 10:00:03"),
        ("2026-11-22T12:00:03+02:00", "2026-11-22 10:00:03"),
        (datetime(2026, 11, 22, 10, tzinfo=UTC), "2026-11-22 10:00:00"),
        (None, ""),
        ("\x1b[31msoon", "[31msoon"),
        (5, "5"),
        ("9999-12-31T23:59:59-01:00", "9999-12-31 23:59:59-01:00"),
        ("0001-01-01T00:00:00+01:00", "0001-01-01 00:00:00+01:00"),
    ],
)
def test_times_are_shown_in_utc(value: Any, text: str) -> None:
    assert time_text(value) == text


def test_small_words() -> None:
    assert [plural(1, "record"), plural(2, "record"), plural(0, "record")] == ["1 record", "2 records", "0 records"]
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"
    assert time_of_ms(1_795_341_603_871) == "2026-11-22 10:00:03"
    assert [time_of_ms(-1), time_of_ms(10**18)] == ["", ""]
