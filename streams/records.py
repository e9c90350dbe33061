"""The records on the wire: domain values <-> the keys, values and headers of every topic.

The only place that knows the names of fields on the wire. Four rules:

- *Readers are lenient about what is new*: unknown fields are ignored, an event
  type that this version does not know is ``unknown``.
- *And strict about the rest*: what cannot be understood raises ``RecordError``.
  That is poison: the record goes to the dead letters. Its text never carries
  personal data.
- *Equal values give equal bytes*: no clock, no random id, fields in fixed order.
- *A row that cannot be understood is no poison but a crash* (``RowError``): rows
  are our own memory, and going on without it would tell subscribers wrong things.

The public records are described by ``schemas/*.schema.json``; a field added
here is added there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b, sha256
from types import NoneType
from typing import Any, TypeVar

from streams.codecs import DecodeError, decode, encode, typed_decoder
from streams.domain.advice import advise
from streams.domain.events import BounceKind, DeliveryEvent, EventType, Send, SuppressionList
from streams.domain.status import Delivery, Fact, Kind, Status, from_micros
from streams.providers import PROVIDERS, WebhookRequest

Headers = list[tuple[str, bytes]]
_T = TypeVar("_T", str, str | None)


class RecordError(ValueError):
    """This record can never be understood."""


class RowError(RuntimeError):
    """A row of our own store or changelog cannot be understood."""


class RowVersionError(RowError):
    """The row was written by a version that this one does not know."""


# --- mail.events ---------------------------------------------------------------------------------------------------

LONGEST_NAME = 1_000
"""Characters of an id, an account or an address. RFC 5322 lines end at 998; nothing real is longer."""
LONGEST_TEXT = 1_000
"""Characters kept of a reason and of other prose; the whole is in the raw record."""
MOST_LABELS = 50
"""Tags, and entries of the metadata, that are kept of an event."""


def encode_event(event: DeliveryEvent, source: str, *, delivery_id: str | None = None) -> bytes:
    """Return the value of a record of ``mail.events``.

    Prose and labels are cut to their limits, so that no event, and no row made of events, outgrows a record.

    Args:
        event: The event.
        source: Where it came from: ``<topic>/<partition>/<offset>`` of the raw record.
        delivery_id: The event's own, if the caller knows it already (computing it takes longer than all the rest).

    Raises:
        RecordError: a field breaks the vocabulary's rules: an empty or endless id, a code out of range, half a
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
                "occurred_at": None if event.occurred_at is None else _utc(event.occurred_at, "occurred_at"),
                "received_at": _since_1970(_utc(event.received_at, "received_at")),
                "reason": _cut(event.reason),
                "smtp_code": event.smtp_code,
                "enhanced_code": event.enhanced_code,
                "attempt": event.attempt,
                "retry_until": None if event.retry_until is None else _utc(event.retry_until, "retry_until"),
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
        # The encoder's own text could quote the value.
        message = "the event holds something that JSON cannot"
        raise RecordError(message) from None


def decode_event(value: bytes | None) -> DeliveryEvent:
    """Return the event of a record of ``mail.events``.

    Nearly every record is just what ``encode_event`` writes, and is decoded in one pass. What does not fit goes the
    long way, which is lenient about what is new and says what is wrong with the rest.

    Raises:
        RecordError: it is none.
    """
    event = None
    if value is not None:
        with suppress(DecodeError):
            event = _decode_exactly(value)
    if event is None or event.received_at.tzinfo is not UTC or event.received_at < _EPOCH or not _in_utc(event):
        return _decode_leniently(value)
    _check_event(event)
    return event


_decode_exactly = typed_decoder(DeliveryEvent)


def _in_utc(event: DeliveryEvent) -> bool:
    return (event.occurred_at is None or event.occurred_at.tzinfo is UTC) and (
        event.retry_until is None or event.retry_until.tzinfo is UTC
    )


def _decode_leniently(value: bytes | None) -> DeliveryEvent:
    fields = _object(value)
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
    if (tags and not _all_text(tags)) or (metadata and not _all_text(metadata.values())):
        message = "a tag or a value of the metadata is no text"
        raise RecordError(message)
    event = DeliveryEvent(
        event_id=event_id,
        provider=provider,
        account=account,
        message_id=message_id,
        recipient=recipient,
        type=_EVENT_TYPES.get(type_, EventType.UNKNOWN),
        received_at=_since_1970(_time(received_at, "received_at")),
        occurred_at=None if occurred_at is None else _time(occurred_at, "occurred_at"),
        reference=reference,
        bounce_kind=None if bounce_kind is None else _BOUNCE_KINDS.get(bounce_kind, BounceKind.UNDETERMINED),
        reason=reason,
        smtp_code=smtp_code,
        enhanced_code=enhanced_code,
        attempt=attempt,
        tags=tuple(tags) if tags else (),
        metadata=metadata or {},
        machine=machine or False,
        user_agent=user_agent,
        suppression_list=_LISTS.get(suppression_list),  # a list of a newer version is none that we can name
        retry_until=None if retry_until is None else _time(retry_until, "retry_until"),
        provider_event=provider_event or "",
    )
    _check_event(event)
    return event


_EVENT_TYPES: dict[str, EventType] = {member.value: member for member in EventType}
_BOUNCE_KINDS: dict[str | None, BounceKind] = {member.value: member for member in BounceKind}
_LISTS: dict[str | None, SuppressionList] = {member.value: member for member in SuppressionList}

_ENHANCED_CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_MOST_ATTEMPTS = 1_000_000

_TEXT, _TEXT_OR_NONE, _COUNT_OR_NONE = (str,), (str, NoneType), (int, NoneType)
_EVENT_FIELDS: dict[str, tuple[type, ...]] = {
    "event_id": _TEXT,
    "account": _TEXT,
    "provider": _TEXT,
    "message_id": _TEXT,
    "recipient": _TEXT,
    "type": _TEXT,
    "received_at": _TEXT,
    "reference": _TEXT_OR_NONE,
    "bounce_kind": _TEXT_OR_NONE,
    "occurred_at": _TEXT_OR_NONE,
    "reason": _TEXT_OR_NONE,
    "smtp_code": _COUNT_OR_NONE,
    "enhanced_code": _TEXT_OR_NONE,
    "attempt": _COUNT_OR_NONE,
    "retry_until": _TEXT_OR_NONE,
    "suppression_list": _TEXT_OR_NONE,
    "machine": (bool, NoneType),
    "user_agent": _TEXT_OR_NONE,
    "tags": (list, NoneType),
    "metadata": (dict, NoneType),
    "provider_event": _TEXT_OR_NONE,
}


@lru_cache(maxsize=4096)  # events come in a handful of shapes: one look-up instead of twenty comparisons
def _wrong_type(types: tuple[type, ...]) -> str | None:
    """Return the name of the first field whose type is wrong."""
    for (name, allowed), actual in zip(_EVENT_FIELDS.items(), types, strict=True):
        if actual not in allowed:
            return name
    return None


def _check_event(event: DeliveryEvent) -> None:
    """Raise RecordError unless the event keeps the vocabulary's rules, as far as types do not say them."""
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


def _all_text(values: Iterable[object]) -> bool:
    return set(map(type, values)) == {str}


# --- the rows of the table `deliveries`, in the store and in its changelog --------------------------------------------
# byte 0: version; bytes 1-8: last_received_at, big-endian, so that expiry reads it without decoding; then JSON.

_ROW_VERSION = 1
_ROW_HEAD = 9


def encode_row(delivery: Delivery) -> bytes:
    """Return the row that keeps a delivery."""
    body = encode(
        (
            delivery.delivery_id,
            delivery.account,
            delivery.provider,
            delivery.message_id,
            [
                (
                    kind,
                    fact.first_at,
                    fact.last_at,
                    fact.first_received_at,
                    fact.ids,
                    fact.event_id,
                    fact.reason,
                    fact.smtp_code,
                    fact.enhanced_code,
                )
                for kind, fact in delivery.facts.items()
            ],
            delivery.recipient,
            delivery.reference,
            delivery.tags,
            delivery.metadata,
            delivery.suppression_list,
            delivery.attempt,
            delivery.retry_until,
            delivery.because,
            delivery.first_received_at,
            delivery.status,
            delivery.bounce_kind,
            delivery.complained,
            delivery.unsubscribed,
            delivery.revision,
            delivery.previous,
            delivery.cause_event_id,
            delivery.effective_at,
            delivery.occurred_at,
            delivery.received_at,
            delivery.late,
        )
    )
    return b"\x01" + delivery.last_received_at.to_bytes(8, "big") + body


def decode_row(row: bytes) -> Delivery:
    """Return the delivery that a row keeps.

    Raises:
        RowVersionError: a version that is not ours wrote it.
        RowError: it is damaged.
    """
    if row[:1] != b"\x01":
        version = row[0] if row else "missing"
        message = f"a row of `deliveries` has version {version}; this version of mailstreams knows {_ROW_VERSION}"
        raise RowVersionError(message)
    try:
        (
            delivery_id, account, provider, message_id, facts, recipient, reference, tags, metadata, suppression_list,
            attempt, retry_until, because, first_received_at, status, bounce_kind, complained, unsubscribed, revision,
            previous, cause_event_id, effective_at, occurred_at, received_at, late,
        ) = decode(row[_ROW_HEAD:])  # fmt: skip
        return Delivery(  # by position, in the order of its fields: that takes a third of the time
            delivery_id,
            account,
            provider,
            message_id,
            {_ROW_KINDS[f[0]]: Fact(f[1], f[2], f[3], tuple(f[4]), f[5], f[6], f[7], f[8]) for f in facts},
            tuple(recipient),
            reference and tuple(reference),
            tags and (tags[0], tags[1], tuple(tags[2])),
            metadata and (metadata[0], metadata[1], tuple(map(tuple, metadata[2]))),
            suppression_list and (suppression_list[0], suppression_list[1], _LISTS[suppression_list[2]]),
            attempt,
            retry_until,
            due_of_row(row),
            _ROW_KINDS[because],
            first_received_at,
            _STATUSES[status],
            bounce_kind and _BOUNCE_KINDS[bounce_kind],
            complained,
            unsubscribed,
            revision,
            previous and _STATUSES[previous],
            cause_event_id,
            effective_at,
            occurred_at,
            received_at,
            late,
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        message = f"a row of `deliveries` is damaged ({type(error).__name__})"
        raise RowError(message) from None


def due_of_row(row: bytes) -> int:
    """Return the ``last_received_at`` of a row, in microseconds since 1970, without decoding the rest."""
    return int.from_bytes(row[1:_ROW_HEAD], "big")


_ROW_KINDS: dict[str, Kind] = {member.value: member for member in Kind}
_STATUSES: dict[str, Status] = {member.value: member for member in Status}


# --- mail.status-changed and mail.status -----------------------------------------------------------------------------


def encode_status(delivery: Delivery, *, support_contact: str | None, warn_after_us: int) -> bytes:
    """Return the value of a record of ``mail.status-changed`` and of ``mail.status``.

    Args:
        delivery: The delivery as it stands.
        support_contact: Whom the advice names for a manual send at this account.
        warn_after_us: Microseconds from the first deferral until the advice says to contact the recipient.
    """
    advice = advise(delivery, support_contact=support_contact, warn_after_us=warn_after_us)
    answer = delivery.answer
    delivery_id, revision = delivery.delivery_id, delivery.revision
    change = f"{delivery_id}/{delivery.first_received_at}/{revision}"
    return encode(
        {
            "id": blake2b(change.encode(), digest_size=16).hexdigest(),
            "delivery_id": delivery_id,
            "revision": revision,
            "account": delivery.account,
            "provider": delivery.provider,
            "message_id": delivery.message_id,
            "recipient": delivery.recipient[2],
            "reference": None if delivery.reference is None else delivery.reference[2],
            "previous": delivery.previous,
            "status": delivery.status,
            "bounce_kind": delivery.bounce_kind,
            "settled": delivery.settled,
            "first_received_at": from_micros(delivery.first_received_at),
            "occurred_at": _moment(delivery.occurred_at),
            "received_at": from_micros(delivery.received_at),
            "late": delivery.late,
            "reason": None if answer is None else answer.reason,
            "smtp_code": None if answer is None else answer.smtp_code,
            "enhanced_code": None if answer is None else answer.enhanced_code,
            "deferred_since": _moment(delivery.deferred_since),
            "attempts": delivery.attempts,
            "retry_until": _moment(delivery.given_up_at),
            "suppression_list": delivery.suppressed_by,
            "dropped_since": _moment(delivery.dropped_since),
            "complained": delivery.complained,
            "unsubscribed": delivery.unsubscribed,
            "machine_opened": delivery.machine_opened,
            "cause_event_id": delivery.cause_event_id,
            "advice": {"code": advice.code, "meaning": advice.meaning, "what_to_do": advice.what_to_do},
        }
    )


def decode_status(value: bytes | None) -> dict[str, Any]:
    """Return the fields of a record of ``mail.status-changed`` or ``mail.status``, as ``schemas/`` describes them.

    Raises:
        RecordError: it is no such record.
    """
    fields = _object(value)
    if type(fields.get("delivery_id")) is not str or type(fields.get("revision")) is not int:
        message = "delivery_id or revision is missing"
        raise RecordError(message)
    return fields


# --- mail.raw.<provider> ---------------------------------------------------------------------------------------------

RAW_PROVIDER = "provider"
RAW_ACCOUNT = "account"
RAW_RECEIVED_AT = "received-at"
"""RFC 3339."""
RAW_CONTENT_TYPE = "content-type"
RAW_URL = "url"
"""The full URL that the provider called."""
RAW_VERIFIED = "verified"
"""``true``: the provider's signature was checked over these bytes; ``false``: it gives none, or none is set up."""
RAW_KEY_ID = "key-id"
"""Which of the account's keys verified it."""
RAW_HTTP = "http-"
"""Prefix of the HTTP headers that are kept, their names in lower case."""


def encode_raw_headers(
    *,
    provider: str,
    account: str,
    received_at: datetime,
    content_type: str | None = None,
    url: str = "",
    verified: bool = False,
    key_id: str | None = None,
    http_headers: Mapping[str, str] | None = None,
) -> Headers:
    """Return the headers of a raw record; its value is the body of the request as received."""
    headers = [
        (RAW_PROVIDER, provider.encode()),
        (RAW_ACCOUNT, account.encode()),
        (RAW_RECEIVED_AT, encode(_utc(received_at, RAW_RECEIVED_AT)).strip(b'"')),
        (RAW_URL, url.encode("utf-8", "surrogateescape")),
        (RAW_VERIFIED, b"true" if verified else b"false"),
    ]
    if content_type is not None:
        headers.append((RAW_CONTENT_TYPE, content_type.encode("utf-8", "surrogateescape")))
    if key_id is not None:
        headers.append((RAW_KEY_ID, key_id.encode()))
    headers.extend(
        (RAW_HTTP + name.lower(), text.encode("utf-8", "surrogateescape"))
        for name, text in (http_headers or {}).items()
    )
    return headers


def decode_raw(
    value: bytes | None, headers: Sequence[tuple[str, bytes | None]], *, reference_keys: Sequence[str]
) -> WebhookRequest:
    """Return the webhook request that a raw record keeps.

    Args:
        value: The body.
        headers: The record's headers; of two with one name the last counts.
        reference_keys: Where the account's messages carry their reference.

    Raises:
        RecordError: it has no value, no account or no time of receipt.
    """
    if value is None:
        message = "the record has no value"
        raise RecordError(message)
    texts = {name: (text or b"").decode("utf-8", "surrogateescape") for name, text in headers}
    account = texts.get(RAW_ACCOUNT)
    if not account:
        message = f"the header {RAW_ACCOUNT} is missing"
        raise RecordError(message)
    http = {name.removeprefix(RAW_HTTP): text for name, text in texts.items() if name.startswith(RAW_HTTP)}
    if RAW_CONTENT_TYPE in texts:
        http[RAW_CONTENT_TYPE] = texts[RAW_CONTENT_TYPE]
    return WebhookRequest(
        body=value,
        headers=http,
        url=texts.get(RAW_URL, ""),
        account=account,
        received_at=_time(texts.get(RAW_RECEIVED_AT), RAW_RECEIVED_AT),
        reference_keys=reference_keys,
    )


# --- mail.sends ------------------------------------------------------------------------------------------------------


def encode_send(send: Send) -> bytes:
    """Return the value of a record of ``mail.sends``; its key is the delivery id.

    Raises:
        RecordError: what ``decode_send`` would refuse.
    """
    value = encode(
        {
            "account": send.account,
            "provider": send.provider,
            "message_id": send.message_id,
            "recipient": send.recipient,
            "reference": send.reference,
            "sent_at": None if send.sent_at is None else _utc(send.sent_at, "sent_at"),
            "tags": send.tags,
            "metadata": send.metadata,
        }
    )
    _check_send(send)
    return value


def decode_send(value: bytes | None) -> Send:
    """Return what the application said in a record of ``mail.sends``.

    Raises:
        RecordError: it is no such record, or names no provider that we know.
    """
    return send_of(_object(value))


def send_of(fields: Mapping[str, Any]) -> Send:
    """Return the send of a decoded JSON object. The message id loses its angle brackets, the address its margins.

    Nothing is cut: a reference that lost its end would name another invoice.

    Raises:
        RecordError: a field is missing, has the wrong type or is too long; the text names the field, never its value.
    """
    for name, allowed in _SEND_FIELDS.items():
        if type(fields.get(name)) not in allowed:
            message = f"{name} is missing or has the wrong type"
            raise RecordError(message)
    sent_at, tags, metadata = fields.get("sent_at"), fields.get("tags") or [], fields.get("metadata") or {}
    if (tags and not _all_text(tags)) or (metadata and not _all_text(metadata.values())):
        message = "a tag or a value of the metadata is no text"
        raise RecordError(message)
    send = Send(
        account=fields["account"],
        provider=fields["provider"],
        message_id=fields["message_id"].strip().strip("<>").strip(),
        recipient=fields["recipient"].strip(),
        reference=(fields.get("reference") or "").strip() or None,
        sent_at=None if sent_at is None else _since_1970(_time(sent_at, "sent_at"), "sent_at"),
        tags=tuple(tags),
        metadata=metadata,
    )
    _check_send(send)
    return send


_SEND_FIELDS: dict[str, tuple[type, ...]] = {
    "account": _TEXT,
    "provider": _TEXT,
    "message_id": _TEXT,
    "recipient": _TEXT,
    "reference": _TEXT_OR_NONE,
    "sent_at": _TEXT_OR_NONE,
    "tags": (list, NoneType),
    "metadata": (dict, NoneType),
}
_ADDRESS = re.compile(r"""("[^"\x00-\x1f\x7f]+"|[^\s<>",;@\x00-\x1f\x7f]+)@[^\s<>",;@\x00-\x1f\x7f]+""")
"""An address alone: anything that is plainly a display name, a list or a slip is refused, nothing else."""


def _check_send(send: Send) -> None:
    """Raise RecordError unless the send keeps the rules that types do not say."""
    texts = (send.reference or "", *send.tags, *send.metadata, *send.metadata.values())
    if send.provider not in PROVIDERS:
        message = f"provider is none of {', '.join(PROVIDERS)}"
    elif not (
        0 < len(send.account) <= LONGEST_NAME
        and 0 < len(send.message_id) <= LONGEST_NAME
        and 0 < len(send.recipient) <= LONGEST_NAME
    ):
        message = f"account, message_id or recipient is empty or has over {LONGEST_NAME} characters"
    elif _ADDRESS.fullmatch(send.recipient) is None:
        message = "recipient is no e-mail address alone"
    elif len(send.tags) > MOST_LABELS or len(send.metadata) > MOST_LABELS:
        message = f"over {MOST_LABELS} tags or entries of the metadata"
    elif max(map(len, texts)) > LONGEST_TEXT:
        message = f"reference, a tag or an entry of the metadata has over {LONGEST_TEXT} characters"
    else:
        return
    raise RecordError(message)


# --- mail.dead-letters -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record, or one element of it, that can never be understood, and where it came from."""

    value: bytes | None
    """The original bytes, of which a long one keeps only the beginning."""
    topic: str
    """This and the next three say which record it was."""
    partition: int
    offset: int
    timestamp_ms: int
    """The broker's time of the record, in milliseconds since 1970."""
    stage: str
    """The agent that gave it up."""
    reason: str
    """Why, without personal data."""
    element: int | None = None
    """Which element of the body it is, from 0; None: the whole record."""
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    """The record's own headers."""
    size: int
    """Bytes of the original."""
    sha256: str
    """Of the original, in hexadecimal."""

    @property
    def truncated(self) -> bool:
        """The value is not the whole original: it cannot be replayed from here."""
        return len(self.value or b"") < self.size


def dead_letter(
    value: bytes | None,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    stage: str,
    reason: str,
    element: int | None = None,
    key: bytes | None = None,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> DeadLetter:
    """Return the dead letter of an original, measured."""
    original = value or b""
    return DeadLetter(
        value=value,
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=timestamp_ms,
        stage=stage,
        reason=reason,
        element=element,
        key=key,
        headers=tuple(headers),
        size=len(original),
        sha256=sha256(original).hexdigest(),
    )


_ORIGINAL = "original-"


def encode_dead_letter(letter: DeadLetter, *, limit: int) -> tuple[bytes | None, Headers]:
    """Return value and headers of a record of ``mail.dead-letters``.

    Args:
        letter: The dead letter.
        limit: Bytes of the original that are kept at most.
    """
    value = None if letter.value is None else letter.value[:limit]
    headers = [
        ("origin-topic", letter.topic.encode()),
        ("origin-partition", b"%d" % letter.partition),
        ("origin-offset", b"%d" % letter.offset),
        ("origin-timestamp", b"%d" % letter.timestamp_ms),
        ("stage", letter.stage.encode()),
        ("reason", letter.reason.encode("utf-8", "replace")),
        ("size", b"%d" % letter.size),
        ("sha256", letter.sha256.encode()),
    ]
    if letter.element is not None:
        headers.append(("element", b"%d" % letter.element))
    if letter.key is not None:
        headers.append(("origin-key", letter.key))
    if len(value or b"") < letter.size:
        headers.append(("truncated", b"true"))
    headers.extend((_ORIGINAL + name, text or b"") for name, text in letter.headers)
    return value, headers


def decode_dead_letter(value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> DeadLetter:
    """Return the dead letter of a record of ``mail.dead-letters``.

    Raises:
        RecordError: it is none.
    """
    facts = {name: text or b"" for name, text in headers if not name.startswith(_ORIGINAL)}
    try:
        return DeadLetter(
            value=value,
            topic=facts["origin-topic"].decode(),
            partition=int(facts["origin-partition"]),
            offset=int(facts["origin-offset"]),
            timestamp_ms=int(facts["origin-timestamp"]),
            stage=facts["stage"].decode(),
            reason=facts["reason"].decode(),
            element=int(facts["element"]) if "element" in facts else None,
            key=facts.get("origin-key"),
            headers=tuple(
                (name.removeprefix(_ORIGINAL), text or b"") for name, text in headers if name.startswith(_ORIGINAL)
            ),
            size=int(facts["size"]),
            sha256=facts["sha256"].decode(),
        )
    except (KeyError, ValueError):
        message = "a header of the dead letter is missing or malformed"
        raise RecordError(message) from None


# --- mail.control: what operators ask of the workers -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The order to go on with a source partition that stopped because too much of it was poison."""

    resume_id: str
    """An order that was carried out once is not carried out again."""
    requested_at: datetime
    dead_letter_through: int | None
    """Everything up to this offset goes to the dead letters without another look; None: nothing does."""


def encode_resume(resume_id: str, requested_at: datetime, dead_letter_through: int | None) -> bytes:
    """Return the value of an order; its key is ``<topic>/<partition>``."""
    return encode(
        {
            "resume_id": resume_id,
            "requested_at": _utc(requested_at, "requested_at"),
            "dead_letter_through": dead_letter_through,
        }
    )


def decode_resume(value: bytes | None) -> Resume:
    """Return the order of a record of ``mail.control``.

    Raises:
        RecordError: it is none.
    """
    fields = _object(value)
    resume_id, through = fields.get("resume_id"), fields.get("dead_letter_through")
    if type(resume_id) is not str or type(through) not in {int, NoneType}:
        message = "resume_id or dead_letter_through is missing or has the wrong type"
        raise RecordError(message)
    return Resume(
        resume_id=resume_id,
        requested_at=_time(fields.get("requested_at"), "requested_at"),
        dead_letter_through=through,
    )


# --- shared ----------------------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _object(value: bytes | None) -> dict[str, Any]:
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


def _time(text: Any, name: str) -> datetime:
    """Return the aware UTC datetime of an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        message = f"{name} is missing or no time"
        raise RecordError(message) from None
    return _utc(moment, name)


def _utc(moment: datetime, name: str) -> datetime:
    """Return an aware datetime in UTC, so that it is written with a Z."""
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


def _since_1970(moment: datetime, name: str = "received_at") -> datetime:
    if moment < _EPOCH:  # a row holds it as an unsigned number
        message = f"{name} is before 1970"
        raise RecordError(message)
    return moment


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)
