"""What the records have in common: errors, limits, times, and the members of the vocabulary by their values."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from types import NoneType
from typing import Any

from streams.codecs import DecodeError, decode
from streams.domain.events import BounceKind, SuppressionList
from streams.domain.status import Status, from_micros

Headers = list[tuple[str, bytes]]


class RecordError(ValueError):
    """This record can never be understood."""


class RowError(RuntimeError):
    """A row of our own store or changelog cannot be understood."""


class RowVersionError(RowError):
    """The row was written by a version that this one does not know."""


LONGEST_NAME = 1_000
"""Characters of an id, an account or an address. RFC 5322 lines end at 998; nothing real is longer."""
LONGEST_TEXT = 1_000
"""Characters kept of a reason and of other prose; the whole text is in the raw record."""
MOST_LABELS = 50
"""Tags, and entries of the metadata, that are kept of an event."""

TEXT, TEXT_OR_NONE, COUNT_OR_NONE = (str,), (str, NoneType), (int, NoneType)
BOUNCE_KINDS: dict[str | None, BounceKind] = {member.value: member for member in BounceKind}
LISTS: dict[str | None, SuppressionList] = {member.value: member for member in SuppressionList}
STATUSES: dict[str | None, Status] = {member.value: member for member in Status}

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def delivery_key(key: bytes | None) -> bytes:
    """Return the key of a record about a delivery: the delivery id.

    Raises:
        RecordError: it is missing.
    """
    if key is None:
        message = "the key, the delivery id, is missing"
        raise RecordError(message)
    return key


def json_object(value: bytes | None) -> dict[str, Any]:
    """Return the JSON object that is a record's value.

    Raises:
        RecordError: the value is missing, or is not a JSON object.
    """
    if value is None:
        message = "the record has no value"
        raise RecordError(message)
    try:
        fields = decode(value)
    except DecodeError as error:
        raise RecordError(str(error)) from None
    if type(fields) is not dict:
        message = "the record is no JSON object"
        raise RecordError(message)
    return fields


def time_of(text: Any, name: str) -> datetime:
    """Return the aware UTC datetime of an RFC 3339 time, whose letters may be small; it names no leap second.

    Raises:
        RecordError: it is no such time.
    """
    try:
        moment = datetime.fromisoformat(f"{text[:-1]}Z" if text[-1:] == "z" else text)  # Python knows the capital only
    except (TypeError, ValueError):
        message = f"{name} is missing or no time"
        raise RecordError(message) from None
    return utc(moment, name)


def utc(moment: datetime, name: str) -> datetime:
    """Return an aware datetime in UTC, so that it is written with a Z.

    Raises:
        RecordError: it has no time zone, or is beyond the calendar in UTC.
    """
    if moment.tzinfo is UTC:
        return moment
    if moment.tzinfo is None:
        message = f"{name} has no time zone"
        raise RecordError(message)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        message = f"{name} is beyond the calendar"
        raise RecordError(message) from None


def since_1970(moment: datetime, name: str = "received_at") -> datetime:
    """Return a time of 1970 or later: a row holds it as an unsigned number.

    Raises:
        RecordError: it is before.
    """
    if moment < EPOCH:
        message = f"{name} is before 1970"
        raise RecordError(message)
    return moment


def rfc3339(micros: int) -> str:
    """Return microseconds since 1970 as RFC 3339 in UTC: the same text as of an encoded datetime, but faster."""
    seconds, micros = divmod(micros, 1_000_000)
    return f"{_second(seconds)}.{micros:06d}Z" if micros else f"{_second(seconds)}Z"


def rfc3339_or_none(micros: int | None) -> str | None:
    """Return the same as ``rfc3339``; None stays None."""
    return None if micros is None else rfc3339(micros)


@lru_cache(maxsize=16_384)  # the events of a batch happened within some hours, most of them just now
def _second(seconds: int) -> str:
    return from_micros(seconds * 1_000_000).isoformat()[:19]


def all_text(values: Iterable[object]) -> bool:
    """Tell whether the values are all text; they are not if there is none."""
    return set(map(type, values)) == {str}
