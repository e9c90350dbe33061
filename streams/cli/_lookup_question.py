"""What ``lookup`` looks for, and whether a record holds it.

The rule: texts are compared in the form that the Sending History compares; a part of
a name is not the name. What is looked for may be written in other ways than in the
records: an address as a mail program shows it, or its domain in letters where the
provider reports it in ASCII. The bytes of a record tell whether it is worth decoding, so
that millions are passed over in seconds.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streams import codecs
from streams.cli import WRONG_USE, Failure
from streams.domain.events import normalised_reference, searched_recipient, shown_address
from streams.providers import PROVIDERS

_PLACES: Final = ("reference", "recipient", "message_id", "delivery_id")
_ASCII: Final = re.compile(rb"[\x20-\x7e]+(?![\x80-\xff])")
"""Without a letter before one that is not ASCII: in the record the two may be one character."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for: one text in any of the four places, or several places that must all fit."""

    given: dict[str, str]
    forms: dict[str, frozenset[str]]
    """Place -> every form in which a record may hold it, as it is compared."""
    any_of: bool
    needles: tuple[bytes, ...]
    """Byte strings in lower case; a fitting record's lower-cased value holds at least one of them."""

    @classmethod
    def of(cls, text: str | None, chosen: dict[str, str]) -> "Question":
        """Return the question: a text, or what was chosen.

        Raises:
            Failure: it is both or neither, or one of them is empty.
        """
        given = chosen or dict.fromkeys(_PLACES, text or "")
        wanted = {name: _plain(name, value) for name, value in given.items()}
        if (text is not None and chosen) or not all(wanted.values()):
            message = "give either TEXT or options that say what it is; none may be empty"
            raise Failure(message, exit_code=WRONG_USE)
        forms = {name: _forms(name, value) for name, value in wanted.items()}
        needles = {_needle(form) for several in forms.values() for form in several}
        return cls(given, forms, any_of=not chosen, needles=tuple(needles))

    def __str__(self) -> str:
        names = {name.replace("_", " "): value for name, value in self.given.items()}
        if self.any_of:
            return f"{next(iter(self.given.values()))} as {', '.join(names)}"
        return ", ".join(f"{name} {value}" for name, value in names.items())

    def may_fit(self, value: bytes) -> bool:
        """Tell whether a record's value is worth decoding."""
        lower = value.lower()
        return any(needle in lower for needle in self.needles)

    def fits(self, of: Callable[[str], object]) -> bool:
        """Tell whether a delivery's fields fit."""
        hits = (_plain(name, str(of(name) or "")) in forms for name, forms in self.forms.items())
        return any(hits) if self.any_of else all(hits)


def _plain(name: str, value: str) -> str:
    """Return a value in the form in which it is compared."""
    if name == "recipient":
        return searched_recipient(shown_address(value))
    if name == "reference":
        return normalised_reference(value)
    return value.strip().strip("<>") if name == "message_id" else value.strip()


def _forms(name: str, value: str) -> frozenset[str]:
    """Return a plain value, and in which other forms a record may hold it.

    Of a message id what each provider's webhooks would hold, of an address the one with its domain in ASCII.
    """
    if name == "recipient":
        return frozenset({value, _in_ascii(value)})
    others = {provider.message_id(value) for provider in PROVIDERS.values()} if name == "message_id" else set()
    return frozenset({value, *others} - {""})


def _in_ascii(address: str) -> str:
    local, at, domain = address.rpartition("@")
    labels = (each if each.isascii() else f"xn--{each.encode('punycode').decode()}" for each in domain.split("."))
    return f"{local}{at}{'.'.join(labels)}"


def _needle(value: str) -> bytes:
    """Return a part of the value's JSON, in lower case, that every lower-cased record with the value holds.

    Bytes are lower-cased only where they are ASCII, so it is the longest ASCII part; an empty one is in every record.
    Nobody writes the three characters that Unicode takes for ASCII ones (U+212A for k, U+037E for ;, U+1FEF for `): a
    record with one of them is passed over.
    """
    return max(_ASCII.findall(codecs.encode(value)[1:-1].lower()), key=len, default=b"")
