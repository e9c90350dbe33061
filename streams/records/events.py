"""``mail.events``: one delivery event per record."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC
from functools import lru_cache
from types import NoneType
from typing import Any, TypeVar

from streams.codecs import DecodeError, encode, typed_decoder
from streams.domain.events import BounceKind, DeliveryEvent, EventType
from streams.records._shared import (
    BOUNCE_KINDS,
    COUNT_OR_NONE,
    EPOCH,
    LISTS,
    LONGEST_NAME,
    LONGEST_TEXT,
    MOST_LABELS,
    TEXT,
    TEXT_OR_NONE,
    RecordError,
    all_text,
    json_object,
    since_1970,
    time_of,
    utc,
)

_T = TypeVar("_T", str, str | None)


def encode_event(event: DeliveryEvent, source: str, *, delivery_id: str | None = None) -> bytes:
    """Return the value of a record of ``mail.events``.

    Texts and labels are cut to their limits, so that no event, and no row made of events, is too large for a record.

    Args:
        event: The event.
        source: Where it came from: ``<topic>/<partition>/<offset>`` of the raw record.
        delivery_id: The event's own, if the caller knows it already (computing it takes longer than all the rest).

    Raises:
        RecordError: a field breaks the vocabulary's rules: an empty or too long id, a code out of range, half a
            surrogate pair, a naive time, a time before 1970.
    """
    _check_event(event)
    if (event.type is EventType.BOUNCE) is (event.bounce_kind is None):
        message = "bounce_kind is not set exactly when the type is bounce"
        raise RecordError(message)
    try:
        return encode(
            {
                "event_id": event.event_id,
                "delivery_id": delivery_id or event.delivery_id,
                "account": event.account,
                "provider": event.provider,
                "message_id": event.message_id,
                "recipient": event.recipient,
                "reference": _cut(event.reference),
                "type": event.type,
                "bounce_kind": event.bounce_kind,
                "occurred_at": None if event.occurred_at is None else utc(event.occurred_at, "occurred_at"),
                "received_at": since_1970(utc(event.received_at, "received_at")),
                "reason": _cut(event.reason),
                "smtp_code": event.smtp_code,
                "enhanced_code": event.enhanced_code,
                "attempt": event.attempt,
                "retry_until": None if event.retry_until is None else utc(event.retry_until, "retry_until"),
                "suppression_list": event.suppression_list,
                "machine": event.machine,
                "user_agent": _cut(event.user_agent),
                "tags": [_cut(tag) for tag in event.tags[:MOST_LABELS]],
                "metadata": _cut_items(event.metadata) if event.metadata else {},
                "provider_event": _cut(event.provider_event),
                "source": source,
            }
        )
    except TypeError:
        # The encoder's own error text could quote the value.
        message = "the event holds something that JSON cannot"
        raise RecordError(message) from None


def decode_event(value: bytes | None) -> DeliveryEvent:
    """Return the event of a record of ``mail.events``.

    Nearly every record is exactly what ``encode_event`` writes, and is decoded in one pass. Any other is decoded field
    by field: that accepts what is new, and says what is wrong with the rest.

    Raises:
        RecordError: it is not an event.
    """
    event = None
    if value is not None:
        with suppress(DecodeError):
            event = _decode_exactly(value)
    if event is None or event.received_at.tzinfo is not UTC or event.received_at < EPOCH or not _in_utc(event):
        return _decode_leniently(value)
    _check_event(event)
    return event


_decode_exactly = typed_decoder(DeliveryEvent)


def _in_utc(event: DeliveryEvent) -> bool:
    return (event.occurred_at is None or event.occurred_at.tzinfo is UTC) and (
        event.retry_until is None or event.retry_until.tzinfo is UTC
    )


def _decode_leniently(value: bytes | None) -> DeliveryEvent:
    fields = json_object(value)
    values: tuple[Any, ...] = tuple(map(fields.get, _EVENT_FIELDS))
    wrong = _wrong_type(tuple(map(type, values)))
    if wrong is not None:
        message = f"{wrong} is missing or has the wrong type"
        raise RecordError(message)
    (
        event_id, account, provider, message_id, recipient, type_, received_at,
        reference, bounce_kind, occurred_at, reason, smtp_code, enhanced_code, attempt, retry_until,
        suppression_list, machine, user_agent, tags, metadata, provider_event,
    ) = values  # fmt: skip
    if (tags and not all_text(tags)) or (metadata and not all_text(metadata.values())):
        message = "a tag or a value of the metadata is no text"
        raise RecordError(message)
    event = DeliveryEvent(
        event_id=event_id,
        provider=provider,
        account=account,
        message_id=message_id,
        recipient=recipient,
        type=_EVENT_TYPES.get(type_, EventType.UNKNOWN),
        received_at=since_1970(time_of(received_at, "received_at")),
        occurred_at=None if occurred_at is None else time_of(occurred_at, "occurred_at"),
        reference=reference,
        bounce_kind=None if bounce_kind is None else BOUNCE_KINDS.get(bounce_kind, BounceKind.UNDETERMINED),
        reason=reason,
        smtp_code=smtp_code,
        enhanced_code=enhanced_code,
        attempt=attempt,
        tags=tuple(tags) if tags else (),
        metadata=metadata or {},
        machine=machine or False,
        user_agent=user_agent,
        suppression_list=LISTS.get(suppression_list),  # None if only a newer version knows the list
        retry_until=None if retry_until is None else time_of(retry_until, "retry_until"),
        provider_event=provider_event or "",
    )
    _check_event(event)
    return event


_EVENT_TYPES: dict[str, EventType] = {member.value: member for member in EventType}

_ENHANCED_CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_MOST_ATTEMPTS = 1_000_000

_EVENT_FIELDS: dict[str, tuple[type, ...]] = {
    "event_id": TEXT,
    "account": TEXT,
    "provider": TEXT,
    "message_id": TEXT,
    "recipient": TEXT,
    "type": TEXT,
    "received_at": TEXT,
    "reference": TEXT_OR_NONE,
    "bounce_kind": TEXT_OR_NONE,
    "occurred_at": TEXT_OR_NONE,
    "reason": TEXT_OR_NONE,
    "smtp_code": COUNT_OR_NONE,
    "enhanced_code": TEXT_OR_NONE,
    "attempt": COUNT_OR_NONE,
    "retry_until": TEXT_OR_NONE,
    "suppression_list": TEXT_OR_NONE,
    "machine": (bool, NoneType),
    "user_agent": TEXT_OR_NONE,
    "tags": (list, NoneType),
    "metadata": (dict, NoneType),
    "provider_event": TEXT_OR_NONE,
}


@lru_cache(maxsize=4096)  # events come in a handful of shapes: one look-up instead of twenty comparisons
def _wrong_type(types: tuple[type, ...]) -> str | None:
    """Return the name of the first field whose type is wrong."""
    for (name, allowed), actual in zip(_EVENT_FIELDS.items(), types, strict=True):
        if actual not in allowed:
            return name
    return None


def _check_event(event: DeliveryEvent) -> None:
    """Raise RecordError if the event breaks a rule of the vocabulary that types do not express."""
    if not (
        0 < len(event.event_id) <= LONGEST_NAME
        and 0 < len(event.account) <= LONGEST_NAME
        and 0 < len(event.provider) <= LONGEST_NAME
        and 0 < len(event.message_id) <= LONGEST_NAME
        and 0 < len(event.recipient) <= LONGEST_NAME
    ):
        message = f"an id, the account, the provider or the recipient is empty or has over {LONGEST_NAME} characters"
    elif event.smtp_code is not None and not 200 <= event.smtp_code <= 599:  # noqa: PLR2004 (RFC 5321, 4.2.1)
        message = "smtp_code is not from 200 to 599"
    elif event.enhanced_code is not None and _ENHANCED_CODE.fullmatch(event.enhanced_code) is None:
        message = "enhanced_code is not of the form of RFC 3463"
    elif event.attempt is not None and not 1 <= event.attempt <= _MOST_ATTEMPTS:
        message = f"attempt is not from 1 to {_MOST_ATTEMPTS}"
    else:
        return
    raise RecordError(message)


def _cut(text: _T) -> _T:
    """Return at most LONGEST_TEXT characters of a text; None stays None."""
    return text[:LONGEST_TEXT] if text else text


def _cut_items(metadata: Mapping[str, str]) -> dict[str, str]:
    return {_cut(key): _cut(metadata[key]) for key in sorted(metadata)[:MOST_LABELS]}
