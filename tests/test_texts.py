"""Text that others wrote: whatever it is, what is shown of it is one harmless line."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from streams.texts import clean

HOSTILE = "\x1b]0;owned\x07\x1b[2J550 no\r\nforged: line\x9b31m \u202eevil\u2066 \u200bzero\u2028new\x00\x7f"


def test_escape_sequences_and_line_breaks_of_others_are_taken_out() -> None:
    assert clean(HOSTILE) == "]0;owned[2J550 no forged: line31m evil zero new"


@given(st.text())
def test_what_is_shown_of_a_text_is_one_line_with_nothing_that_a_terminal_obeys_or_that_reorders_it(text: str) -> None:
    shown = clean(text)

    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not set(shown) & set("\n\r\t\x00\x1b\u202e\u2066\u200b\ufeff")
    assert clean(shown) == shown


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_letters_and_signs_of_every_script_stay(text: str) -> None:
    assert clean(text) == text
