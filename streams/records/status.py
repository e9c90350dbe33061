"""``mail.status-changed`` and ``mail.status``: what subscribers read."""

from hashlib import blake2b
from typing import Any

from streams.codecs import encode
from streams.domain.advice import advise
from streams.domain.status import Delivery
from streams.records._shared import RecordError, json_object, rfc3339, rfc3339_or_none


def encode_status(delivery: Delivery, *, support_contact: str | None, warn_after_us: int) -> bytes:
    """Return the value of a record of ``mail.status-changed`` and of ``mail.status``.

    Args:
        delivery: The delivery in its present state.
        support_contact: The contact that the advice names for a manual send at this account.
        warn_after_us: Microseconds from the first deferral until the advice says to contact the recipient.
    """
    advice = advise(delivery, support_contact=support_contact, warn_after_us=warn_after_us)
    answer = delivery.answer
    delivery_id, change = delivery.delivery_id, delivery.change
    identity = f"{delivery_id}/{delivery.first_received_at}/{change.revision}"
    return encode(
        {
            "id": blake2b(identity.encode(), digest_size=16).hexdigest(),
            "delivery_id": delivery_id,
            "revision": change.revision,
            "account": delivery.account,
            "provider": delivery.provider,
            "message_id": delivery.message_id,
            "recipient": delivery.recipient[2],
            "reference": None if delivery.reference is None else delivery.reference[2],
            "previous": change.previous,
            "status": change.status,
            "bounce_kind": change.bounce_kind,
            "settled": delivery.settled,
            "first_received_at": rfc3339(delivery.first_received_at),
            "occurred_at": rfc3339_or_none(change.occurred_at),
            "received_at": rfc3339(change.received_at),
            "late": change.late,
            "reason": None if answer is None else answer.reason,
            "smtp_code": None if answer is None else answer.smtp_code,
            "enhanced_code": None if answer is None else answer.enhanced_code,
            "deferred_since": rfc3339_or_none(delivery.deferred_since),
            "attempts": delivery.attempts,
            "retry_until": rfc3339_or_none(delivery.given_up_at),
            "suppression_list": delivery.suppressed_by,
            "dropped_since": rfc3339_or_none(delivery.dropped_since),
            "complained": change.complained,
            "unsubscribed": change.unsubscribed,
            "machine_opened": delivery.machine_opened,
            "cause_event_id": change.cause_event_id,
            "advice": {"code": advice.code, "meaning": advice.meaning, "what_to_do": advice.what_to_do},
        }
    )


def decode_status(value: bytes | None) -> dict[str, Any]:
    """Return the fields of a record of ``mail.status-changed`` or ``mail.status``, as ``schemas/`` describes them.

    Raises:
        RecordError: it is not such a record.
    """
    fields = json_object(value)
    if type(fields.get("delivery_id")) is not str or type(fields.get("revision")) is not int:
        message = "delivery_id or revision is missing"
        raise RecordError(message)
    return fields
