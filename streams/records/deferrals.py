"""``mail.deferrals`` and ``mail.deferral-alerts``, and the rows of the table ``open-deferrals``.

``mail.deferrals`` and the rows are internal to ``track`` and ``monitor``, of this
version and the next. The alerts are public: ``schemas/deferral-alert.v1.schema.json``.

A row: byte 0 is the version, then JSON.
"""

from hashlib import blake2b
from typing import Any

from streams.codecs import DecodeError, decode, encode, typed_decoder
from streams.domain.advice import advise_deferral
from streams.domain.deferrals import Alert, Deferral, Episode, Told
from streams.domain.reasons import ReasonClass
from streams.domain.status import Delivery, Fact, Kind, Status
from streams.records._shared import (
    RecordError,
    RowError,
    RowVersionError,
    json_object,
    rfc3339,
)

_VERSION = 1
_HEAD = bytes([_VERSION])


# --- mail.deferrals --------------------------------------------------------------------------------------------------


def encode_deferral(delivery: Delivery, *, attempt: bool) -> bytes:
    """Return the value of a record of ``mail.deferrals``.

    Args:
        delivery: A delivery with at least one deferral.
        attempt: Whether one more deferral is the reason for the record.
    """
    change = delivery.change
    status_at = change.received_at if change.effective_at is None else change.effective_at
    return _encode_deferral(delivery, change.status, status_at, attempt=attempt)


def encode_forgotten(delivery: Delivery, forgotten_at: int) -> bytes:
    """Return the value of the last record of a delivery that expired while it was deferred; ``forgotten_at`` in µs."""
    return _encode_deferral(delivery, None, forgotten_at, attempt=False)


def _encode_deferral(delivery: Delivery, status: Status | None, status_at: int, *, attempt: bool) -> bytes:
    deferred = delivery.facts[Kind.DEFERRED]
    dropped = delivery.facts.get(Kind.DROPPED)
    return encode(
        {
            "delivery_id": delivery.delivery_id,
            "account": delivery.account,
            "provider": delivery.provider,
            "message_id": delivery.message_id,
            "recipient": delivery.recipient[2],
            "reference": None if delivery.reference is None else delivery.reference[2],
            "first_received_at": delivery.first_received_at,
            "revision": delivery.change.revision,
            "status": status,
            "status_at": status_at,
            "first_at": deferred.began,
            "last_at": _last(deferred),
            "dropped_at": None if dropped is None else _last(dropped),
            "attempts": delivery.attempts,
            "reason": deferred.reason,
            "smtp_code": deferred.smtp_code,
            "enhanced_code": deferred.enhanced_code,
            "retry_until": delivery.retry_until,
            "attempt": attempt,
        }
    )


def decode_deferral(value: bytes | None) -> Deferral:
    """Return the content of a record of ``mail.deferrals``.

    Raises:
        RecordError: it is not such a record.
    """
    if value is None:
        message = "the record has no value"
        raise RecordError(message)
    try:
        return _decode_deferral(value)
    except DecodeError as error:
        raise RecordError(str(error)) from None


_decode_deferral = typed_decoder(Deferral)


def _last(fact: Fact) -> int:
    return fact.first_received_at if fact.last_at is None else fact.last_at


# --- the rows of the table `open-deferrals` --------------------------------------------------------------------------


def encode_open_deferral(episode: Episode) -> bytes:
    """Return the row that keeps an open episode."""
    return _HEAD + encode(
        (
            episode.delivery_id,
            episode.account,
            episode.provider,
            episode.message_id,
            episode.recipient,
            episode.reference,
            episode.destination,
            episode.first_received_at,
            episode.number,
            episode.since,
            episode.attempts,
            episode.reason,
            episode.smtp_code,
            episode.enhanced_code,
            episode.reason_class,
            episode.retry_until,
            int(episode.told),
            episode.first_due,
        )
    )


def decode_open_deferral(row: bytes) -> Episode:
    """Return the episode that a row keeps.

    Raises:
        RowVersionError: it was written by a version that this one does not know.
        RowError: it is damaged.
    """
    if row[:1] != _HEAD:
        version = row[0] if row else "missing"
        message = f"a row of `open-deferrals` has version {version}; this version of mailstreams knows {_VERSION}"
        raise RowVersionError(message)
    try:
        (
            delivery_id, account, provider, message_id, recipient, reference, destination, first_received_at, number,
            since, attempts, reason, smtp_code, enhanced_code, reason_class, retry_until, told, first_due,
        ) = decode(row[1:])  # fmt: skip
        return Episode(
            delivery_id=delivery_id,
            account=account,
            provider=provider,
            message_id=message_id,
            recipient=recipient,
            reference=reference,
            destination=destination,
            first_received_at=first_received_at,
            number=number,
            since=since,
            attempts=attempts,
            reason=reason,
            smtp_code=smtp_code,
            enhanced_code=enhanced_code,
            reason_class=_REASON_CLASSES[reason_class],
            retry_until=retry_until,
            told=_TOLD[told],
            first_due=first_due,
        )
    except (ValueError, TypeError, KeyError) as error:
        message = f"a row of `open-deferrals` is damaged ({type(error).__name__})"
        raise RowError(message) from None


_REASON_CLASSES: dict[str, ReasonClass] = {member.value: member for member in ReasonClass}
_TOLD = {n: Told(n) for n in range(8)}


# --- mail.deferral-alerts --------------------------------------------------------------------------------------------


def alert_action(alert: Alert) -> str:
    """Return the code of an alert's advice: what to do, from a closed set."""
    return advise_deferral(alert.level, alert.ending, alert.episode.reason_class, support_contact=None).code


def encode_alert(alert: Alert, *, support_contact: str | None) -> bytes:
    """Return the value of a record of ``mail.deferral-alerts``.

    Args:
        alert: The alert.
        support_contact: The contact that the advice names for this account.
    """
    episode = alert.episode
    advice = advise_deferral(alert.level, alert.ending, episode.reason_class, support_contact=support_contact)
    what = f"{episode.delivery_id}/{episode.first_received_at}/{episode.number}/{alert.level}"
    duration = alert.duration
    return encode(
        {
            "id": blake2b(what.encode(), digest_size=16).hexdigest(),
            "delivery_id": episode.delivery_id,
            "account": episode.account,
            "provider": episode.provider,
            "message_id": episode.message_id,
            "recipient": episode.recipient,
            "reference": episode.reference,
            "first_received_at": rfc3339(episode.first_received_at),
            "episode": episode.number,
            "level": alert.level,
            "due_at": rfc3339(alert.due_at),
            "destination": episode.destination,
            "deferred_since": rfc3339(episode.since),
            "attempts": episode.attempts,
            "reason": episode.reason,
            "smtp_code": episode.smtp_code,
            "enhanced_code": episode.enhanced_code,
            "reason_class": episode.reason_class,
            "retry_until": rfc3339(alert.retry_until),
            "outcome": alert.ending,
            "duration_s": None if duration is None else duration / 1_000_000,
            "annulled": alert.annulled,
            "advice": {"code": advice.code, "meaning": advice.meaning, "what_to_do": advice.what_to_do},
        }
    )


def decode_alert(value: bytes | None) -> dict[str, Any]:
    """Return the fields of a record of ``mail.deferral-alerts``, as ``schemas/`` describes them.

    Raises:
        RecordError: it is not such a record.
    """
    fields = json_object(value)
    if type(fields.get("delivery_id")) is not str or type(fields.get("level")) is not str:
        message = "delivery_id or level is missing"
        raise RecordError(message)
    return fields
