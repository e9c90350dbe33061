"""What every provider needs to read a field that may hold anything.

Rule: a function here takes any decoded JSON value, returns a bounded value or
``None``, and raises only the two exceptions that it names. Bounds exist because
every string is passed on through Kafka, tables and screens.

**Fingerprints.** Where a provider sends no id of the occurrence, the event id is
the SHA-256, in hex, over ``provider | account | event | message id | recipient |
time | detail``, each part in UTF-8 with its length before it (4 bytes, big
endian), the recipient in its normalised form, the time as ISO 8601 in UTC or
empty, the detail being what distinguishes two occurrences at the same time: a URL
or a reason. With a clock of whole seconds, two real opens in the same second become
one: harmless for the status, a small error in the count.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from streams import codecs
from streams.domain.events import DeliveryEvent, fed, normalised_recipient
from streams.domain.reasons import ReasonClass, classify
from streams.providers._contract import MOST_BAD, BadElement, PoisonError, WebhookRequest

ID_LIMIT = 512
"""Characters of an event id, a message id and a recipient."""
REASON_LIMIT = 2_000
USER_AGENT_LIMIT = 512
URL_LIMIT = 2_000
WORD_LIMIT = 256
"""Characters of a provider's own word, a tag, and the reference."""
TAGS_LIMIT = 32
METADATA_LIMIT = 32
METADATA_KEY_LIMIT = 128
METADATA_VALUE_LIMIT = 1_024


T = TypeVar("T")


class ElementError(ValueError):
    """One element cannot be understood; the text says why, without personal data."""


def required(value: T | None, reason: str) -> T:
    """Return a value that an element cannot do without.

    Raises:
        ElementError: it is missing, for ``reason``.
    """
    if value is None:
        raise ElementError(reason)
    return value


# --- whole bodies ---

# Escaped backslashes match too, so that a "u" after one is never taken for an escape. Group 1: half a surrogate pair.
_ESCAPES = re.compile(
    rb"(?:\\\\)+|(?:\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})+|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def decode_body(body: bytes | str) -> Any:
    r"""Return the JSON value of a body.

    Half of a surrogate pair (``\ud83d`` alone: an answer cut in the middle of an
    emoji) becomes U+FFFD, so that one such element does not make the whole batch bad.

    Raises:
        PoisonError: the whole body is bad.
    """
    try:
        return codecs.decode(body)
    except codecs.DecodeError as error:
        raw = body.encode("utf-8", "replace") if isinstance(body, str) else body
        if b"\\ud" in raw or b"\\uD" in raw:
            mended = _ESCAPES.sub(lambda escape: b"\\ufffd" if escape[1] else escape[0], raw)
            if mended != raw:
                try:
                    return codecs.decode(mended)
                except codecs.DecodeError:
                    pass  # also bad in another way: the first error says where
        raise PoisonError(str(error)) from None


def decode_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body that is one event.

    Raises:
        PoisonError: the body is not JSON, or not an object.
    """
    value = decode_body(body)
    if not isinstance(value, dict):
        message = "the body is not an object"
        raise PoisonError(message)
    return value


@dataclass(slots=True)
class BadElements:
    """The bad elements of one body: the first ``MOST_BAD`` are kept, the others only counted.

    A body of single digits has four million elements, and each dead letter carries all of the request's headers.
    """

    kept: list[BadElement] = field(default_factory=list)
    count: int = 0

    def add(self, index: int, element: Any, reason: str) -> None:
        """Add an element with its own bytes; ``element`` is decoded JSON, or bytes that are not JSON."""
        self.count += 1
        if self.count <= MOST_BAD:
            data = element if isinstance(element, bytes) else _encoded(element)
            self.kept.append(BadElement(index=index, data=data, reason=reason))


def _encoded(element: Any) -> bytes:
    """Return JSON.

    JSON can be decoded more deeply nested than it can be encoded (1,024 levels against 254). No provider sends that;
    it is cut, because the alternative, keeping the whole body for each such element, would multiply a hostile body.
    """
    try:
        return codecs.encode(element)
    except TypeError:
        return codecs.encode(_cut(element, 64))


def _cut(value: Any, depth: int) -> Any:
    """Return the value with null in place of every list and object below ``depth`` levels."""
    if isinstance(value, dict):
        return {key: _cut(inner, depth - 1) for key, inner in value.items()} if depth else None
    if isinstance(value, list):
        return [_cut(inner, depth - 1) for inner in value] if depth else None
    return value


def events_of_each(
    request: WebhookRequest, event_of: Callable[[dict[str, Any], WebhookRequest], DeliveryEvent | None]
) -> list[DeliveryEvent]:
    """Return the events of a body that is a list of objects, or one object of it, replayed alone.

    Args:
        request: Its body is JSON; it goes to ``event_of``, too.
        event_of: Returns an element's event, ``None`` if it is about no delivery; raises ``ElementError`` if it is bad.

    Raises:
        PoisonError: the body is neither of them, or some of its elements are bad.
    """
    elements = decode_body(request.body)
    if isinstance(elements, dict):
        elements = [elements]
    elif not isinstance(elements, list):
        message = "the body is not a list of events"
        raise PoisonError(message)
    events: list[DeliveryEvent] = []
    bad = BadElements()
    for index, element in enumerate(elements):
        if not isinstance(element, dict):
            bad.add(index, element, "not an object")
            continue
        try:
            event = event_of(element, request)
        except ElementError as error:
            bad.add(index, element, str(error))
        else:
            if event is not None:
                events.append(event)
    return result(events, bad)


def result(events: list[DeliveryEvent], bad: BadElements) -> list[DeliveryEvent]:
    """Return the events, or raise a ``PoisonError`` with them and the bad elements, if there are any."""
    if bad.count:
        message = f"{bad.count} of {bad.count + len(events)} elements could not be understood"
        raise PoisonError(message, events=events, bad=bad.kept if bad.count <= MOST_BAD else ())
    return events


# --- text ---


def text(value: Any, limit: int = WORD_LIMIT) -> str | None:
    """Return a non-blank string, cut at ``limit`` characters; ``None`` for anything else."""
    if not isinstance(value, str) or not value or value.isspace():
        return None
    return value[:limit]


def answer(reason: str | None, cause: str, smtp_code: int | None, enhanced_code: str | None) -> str | None:
    """Return the receiving server's answer; where it names no cause and the provider does, the provider's word leads it.

    ``450 try again later`` alone tells nobody that the mailbox is full; ``MailboxFull: 450 try again later`` does. An
    event's fingerprint is taken of the answer alone, so that a word more or less does not make another event of it.
    """
    if not cause or classify(reason, smtp_code, enhanced_code) is not ReasonClass.UNKNOWN:
        return reason
    return led_by(cause, reason)


def led_by(cause: str, reason: str | None) -> str:
    """Return a reason that begins with the provider's own word for the cause."""
    return f"{cause}: {reason}"[:REASON_LIMIT] if reason and reason.lower() != cause.lower() else cause


def identifier(value: Any) -> str | None:
    """Return an identifier: a trimmed string or a number in digits, ``None`` if there is none.

    One longer than ``ID_LIMIT`` is cut and ends in a hash of the whole, so that different ones stay different.
    """
    if isinstance(value, str):
        value = value.strip()
    elif isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    else:
        return None
    if len(value) > ID_LIMIT:
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        value = f"{value[: ID_LIMIT - len(digest) - 1]}~{digest}"
    return value or None


def address(value: Any) -> str | None:
    """Return a mail address without a display name (``Jo <jo@...>``) or a DSN's address type (``rfc822; jo@...``)."""
    if isinstance(value, str) and (value := value.strip()):
        if value[-1] == ">" and "<" in value:
            value = value[value.rindex("<") + 1 : -1]
        elif value[:7].lower() == "rfc822;":
            value = value[7:]
        return identifier(value)
    return None


def scalar(value: Any) -> str | None:
    """Return a JSON value as the text that a person would write; lists and objects as JSON with sorted keys."""
    if isinstance(value, str):
        return value
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    try:
        return codecs.encode(_sorted(value, 8)).decode()
    except (TypeError, ElementError):
        return None


def _sorted(value: Any, depth: int) -> Any:
    """Return the value with every object's keys sorted, so that their order in a body changes nothing."""
    if not depth:
        message = "nested too deeply"
        raise ElementError(message)
    if isinstance(value, dict):
        return {key: _sorted(value[key], depth - 1) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item, depth - 1) for item in value]
    return value


def tags(value: Any) -> tuple[str, ...]:
    """Return the tags of a string or a list of them, at most ``TAGS_LIMIT``."""
    if isinstance(value, str):
        value = (value,)
    elif not isinstance(value, list):
        return ()
    return tuple([found for found in map(text, value[:TAGS_LIMIT]) if found is not None])


def metadata(values: Any) -> dict[str, str]:
    """Return custom data as text -> text, at most ``METADATA_LIMIT`` entries (the first by sorted key)."""
    if not isinstance(values, dict) or not values:
        return {}
    if len(values) > METADATA_LIMIT:
        values = {key: values[key] for key in sorted(values)[:METADATA_LIMIT]}
    return {
        key[:METADATA_KEY_LIMIT]: found[:METADATA_VALUE_LIMIT]
        for key, value in values.items()
        if (found := scalar(value)) is not None
    }


def reference(keys: Sequence[str], values: Any, labels: Sequence[str] = ()) -> str | None:
    """Return the application's reference of a message: the first of ``keys`` in the custom data, else in the tags.

    A tag holds it as ``invoice:4711`` or ``invoice=4711``.
    """
    if isinstance(values, dict) and values:
        for key in keys:
            value = values.get(key)
            if value is not None and (found := text(scalar(value))) is not None:
                return found.strip()
    for key in keys if labels else ():
        for label in labels:
            if label.startswith((f"{key}:", f"{key}=")) and (found := text(label[len(key) + 1 :])) is not None:
                return found.strip()
    return None


def header_reference(keys: Sequence[str], headers: Any) -> str | None:
    """Return the reference from a message's headers, a list of names and values: the key ``invoice_id`` is found as ``X-Invoice-Id``."""
    if not isinstance(headers, list):
        return None
    values: dict[str, Any] = {}
    for header in headers:
        if isinstance(header, dict) and isinstance(name := header.get("name"), str) and name[:2].lower() == "x-":
            values.setdefault(name[2:].lower().replace("-", "_"), header.get("value"))
    if not values:
        return None
    return reference([key.lower().replace("-", "_").removeprefix("x_") for key in keys], values)


# --- times ---

_END = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def moment(value: Any) -> datetime | None:
    """Return seconds since the epoch (number or digits) as an aware UTC time; ``None`` outside 1970-9999."""
    if isinstance(value, str):
        try:
            value = float(value[:32])
        except ValueError:
            return None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Written so that NaN is refused too. Zero means a missing time, not the first second of 1970.
    return datetime.fromtimestamp(value, UTC) if 0 < value < _END else None


def iso_moment(value: Any) -> datetime | None:
    """Return an ISO 8601 time as an aware UTC time; ``None`` before 1970 or after 9999. Without an offset it is UTC."""
    if not isinstance(value, str) or len(value) > 40:  # noqa: PLR2004 longer than any form with offset and nanoseconds
        return None
    try:
        parsed = datetime.fromisoformat(value.strip())  # cuts Postmark's seventh fraction digit
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return parsed if parsed.year >= 1970 else None  # noqa: PLR2004 .NET writes 0001-01-01 for "no time"


# --- numbers ---


def count(value: Any) -> int | None:
    """Return a count of at least 1 (number or digits), such as a delivery attempt."""
    if isinstance(value, str) and len(value) < 7 and value.isascii() and value.isdigit():  # noqa: PLR2004 far above any count
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000:  # noqa: PLR2004 far above any count
        return value
    return None


# --- identity ---


def fingerprint(
    *, provider: str, account: str, event: str, message_id: str, recipient: str, time: datetime | None, detail: str
) -> str:
    """Return the event id of an occurrence that has no id of its provider; see the top of this file."""
    at = time.isoformat() if time is not None else ""
    parts = (provider, account, event, message_id, normalised_recipient(recipient), at, detail)
    return fed(hashlib.sha256(), *parts).hexdigest()


def section(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object under a key; an empty one if it is missing or not an object."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}
