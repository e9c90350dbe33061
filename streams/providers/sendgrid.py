"""Twilio SendGrid: the Event Webhook, a JSON array of events.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event

- **Message id.** ``sg_message_id`` is the id that the Mail Send API returned as ``X-Message-ID``, then the name of
  the machine that handled it: ``IWe-stDXSP-9ybMzJVc_PA.filterdrecv-p3iad2-...``. The first part is the message.
  An asynchronous bounce has none ("Twilio doesn't return the message ID"); then ``smtp-id`` holds it, if SendGrid made
  that. Without both (https://github.com/sendgrid/docs/issues/5177), nothing says which message bounced: such a bounce
  is a delivery of its own, whose message id is its ``sg_event_id``.
- **Event id.** ``sg_event_id``; duplicates are documented, and `track` recognises them by it.
- **Custom arguments** are mixed with SendGrid's own fields: a field that SendGrid does not document is the sender's.
- Times are whole seconds.

**Signature** (the "Signed Event Webhook"):
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features

- ECDSA on P-256 over the SHA-256 of the stamp's bytes and then the raw body, including its last line feed. A secret is
  SendGrid's *Verification Key* as its pages show it: the public key in base64 (DER). It is not secret, but nobody else
  may choose it.
- Failed requests are retried for 24 hours; whether a retry gets a new stamp is not documented. So any age is
  accepted unless the settings name a window: a repeated body gives the same event ids, which changes nothing.
- The OAuth 2.0 that SendGrid also offers is not used.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from streams.domain import reasons, smtp
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.providers import _fields as fields
from streams.providers import _proof as proof
from streams.providers._contract import (
    Provider,
    Refusal,
    Verification,
    VerificationError,
    WebhookRequest,
    bare_message_id,
)

_NAME = "sendgrid"

_EVENTS: dict[str, EventType] = {
    "processed": EventType.SENT,  # received and ready to be delivered
    "deferred": EventType.DEFERRED,  # temporarily rejected; retried for up to 72 hours, then a bounce of type blocked
    "delivered": EventType.DELIVERED,  # accepted by the receiving server
    "bounce": EventType.BOUNCE,  # refused; ``type`` distinguishes a bounce from a block
    "dropped": EventType.DROPPED,  # not sent; ``reason`` names the list or the fault
    "open": EventType.OPEN,  # the HTML message was opened; ``sg_machine_open`` marks Apple's privacy proxy
    "click": EventType.CLICK,  # a link was clicked
    "spamreport": EventType.COMPLAINT,  # marked as spam
    "unsubscribe": EventType.UNSUBSCRIBE,  # opted out of all mail of this account
    "group_unsubscribe": EventType.UNSUBSCRIBE,  # opted out of one group, ``asm_group_id``
    "group_resubscribe": EventType.OTHER,  # opted into the group again
}

_NO_DELIVERY = frozenset({"account_status_change"})  # about the SendGrid account; names no message and no recipient

_BOUNCE_TYPES: dict[str, BounceKind] = {
    "bounce": BounceKind.HARD,  # permanent; the address goes on the bounce list
    "bounced": BounceKind.HARD,  # the same, as SendGrid's support writes it
    "blocked": BounceKind.BLOCK,  # temporary ("soft"); on no list: later messages are attempted
    "expired": BounceKind.SOFT,  # retried until the message was too old
}
_EXPIRED = "expired"

# https://www.twilio.com/docs/sendgrid/ui/analytics-and-reporting/bounce-and-block-classifications
# Refines a block or a bounce without a type; two of the names are spelled differently in the API.
_CLASSIFICATIONS: dict[str, BounceKind] = {
    "invalid address": BounceKind.HARD,  # no such mailbox, or the address is malformed
    "technical": BounceKind.SOFT,  # DNS, time-outs, trouble at the receiving side
    "technical failure": BounceKind.SOFT,
    "mailbox unavailable": BounceKind.SOFT,  # full, suspended
    "content": BounceKind.BLOCK,  # the content was refused
    "reputation": BounceKind.BLOCK,  # the sending IP or domain was refused
    "frequency/volume": BounceKind.BLOCK,  # too much at once
    "frequency or volume too high": BounceKind.BLOCK,
}

_DROPS: dict[str, SuppressionList] = {  # matched without regard to case; every other reason names no list
    "bounced address": SuppressionList.BOUNCE,  # on the bounce list
    "spam reporting address": SuppressionList.SPAM,  # on the spam report list
    "unsubscribed address": SuppressionList.UNSUBSCRIBE,  # on the unsubscribe list
    "invalid": SuppressionList.INVALID,  # on the invalid e-mail list; not the start of "Invalid SMTPAPI header"
}

_OWN = frozenset(  # SendGrid's own fields; all others are custom arguments
    """
    asm_group_id attempt automation_id bounce_classification category cert_err domain email event from ip
    marketing_campaign_id marketing_campaign_name marketing_campaign_split_id marketing_campaign_version mc_auto_name
    mc_auto_step_id mc_automation_id mc_pod_id mc_stats newsletter phase_id pool post_type reason response send_at
    sg_content_type sg_event_id sg_machine_open sg_message_id sg_template_id sg_template_name sg_user_id singlesend_id
    singlesend_name smtp-id status template template_hash template_id template_version_id timestamp tls type
    unique_args custom_args url url_offset useragent
    """.split()  # noqa: SIM905 fifty quoted names would hide what is a list of words
)


def normalise(request: WebhookRequest) -> list[DeliveryEvent]:
    """Return the events of one Event Webhook request (or of one element of it, replayed alone).

    Raises:
        PoisonError: the body is no array of events, or some of its elements are bad.
    """
    return fields.events_of_each(request, _event)


def _event(element: dict[str, Any], request: WebhookRequest) -> DeliveryEvent | None:
    get = element.get
    word = fields.required(fields.text(get("event")), "no event")
    if word in _NO_DELIVERY:
        return None
    recipient = fields.required(fields.address(get("email")), "no email")
    event_id = fields.identifier(get("sg_event_id"))
    message_id = _message_id(element) or (event_id if word == "bounce" else None)
    message_id = fields.required(message_id, "no sg_message_id and no smtp-id")
    reason = fields.text(get("response"), fields.REASON_LIMIT) or fields.text(get("reason"), fields.REASON_LIMIT)
    code, enhanced = smtp.parse_reply(reason)
    if (status := get("status")) is not None:
        enhanced = reasons.code_of(enhanced, smtp.enhanced_code(status), code, reason)
    event_type, word, kind, suppression_list = _meaning(element, word, reason, enhanced, code)
    explanation = reason
    if kind is BounceKind.SOFT and word.endswith(f"/{_EXPIRED}"):
        explanation = fields.led_by(_EXPIRED, reason)  # it was given up, whatever the last answer was
    labels = fields.tags(category) if (category := get("category")) is not None else ()
    custom = _custom(element)
    occurred_at = fields.moment(get("timestamp"))
    return DeliveryEvent(
        event_id=event_id
        or fields.fingerprint(
            provider=_NAME,
            account=request.account,
            event=word,
            message_id=message_id,
            recipient=recipient,
            time=occurred_at,
            detail=fields.text(get("url"), fields.URL_LIMIT) or reason or "",
        ),
        provider=_NAME,
        account=request.account,
        message_id=message_id,
        recipient=recipient,
        type=event_type,
        received_at=request.received_at,
        occurred_at=occurred_at,
        reference=fields.reference(request.reference_keys, custom, labels) if custom or labels else None,
        bounce_kind=kind,
        reason=explanation,
        smtp_code=code,
        enhanced_code=enhanced,
        attempt=fields.count(get("attempt")),
        tags=labels,
        metadata=fields.metadata(custom),
        machine=event_type is EventType.MACHINE_OPEN,
        user_agent=fields.text(get("useragent"), fields.USER_AGENT_LIMIT),
        suppression_list=suppression_list,
        provider_event=word,
    )


def _meaning(
    element: dict[str, Any], word: str, reason: str | None, enhanced: str | None, code: int | None
) -> tuple[EventType, str, BounceKind | None, SuppressionList | None]:
    """Return our type, SendGrid's full word, and why it bounced or was dropped."""
    event_type = _EVENTS.get(word, EventType.UNKNOWN)
    if event_type is EventType.OPEN and element.get("sg_machine_open") in _TRUE:
        return EventType.MACHINE_OPEN, word, None, None
    if event_type is not EventType.BOUNCE and event_type is not EventType.DROPPED:
        return event_type, word, None, None
    bounce_type = fields.text(element.get("type"))
    if bounce_type is not None:
        word = f"{word}/{bounce_type}"
        bounce_type = bounce_type.lower()
    if event_type is EventType.DROPPED and bounce_type != _EXPIRED:
        return event_type, word, None, _suppression_list(reason)
    # also "dropped" with the type expired: it was tried, and became too old.
    kind = _bounce_kind(bounce_type, element.get("bounce_classification"), enhanced, code, reason)
    return EventType.BOUNCE, word, kind, None


_TRUE = (True, "true", "True")


def _message_id(element: dict[str, Any]) -> str | None:
    """Return the id that the Mail Send API gave for the message."""
    given = fields.identifier(element.get("sg_message_id"))
    if given is not None:
        return _without_machine(given)
    header = fields.identifier(element.get("smtp-id"))
    return (_of_header(header.strip("<> ")) or None) if header is not None else None


def message_id(given: str) -> str:
    """Return the id of the Mail Send API, also from an ``sg_message_id`` or SendGrid's own ``Message-ID`` header."""
    given = bare_message_id(given)
    return _of_header(given) if "@" in given else _without_machine(given)


def _without_machine(given: str) -> str:
    """Return the part of an ``sg_message_id`` before the name of the machine, if there is one."""
    for mark in (".recv", ".filter"):
        at = given.find(mark)
        if at > 0:
            return given[:at]
    # The machine has a new kind of name: current ids have 22 characters and no dot.
    return given[:22] if given.find(".") == 22 else given  # noqa: PLR2004 16 bytes in base64


def _of_header(header: str) -> str:
    """Return the id in SendGrid's own ``Message-ID``; one that the sender set holds none and stays whole."""
    local, _, host = header.partition("@")
    return local if "ismtpd" in host else header  # "<id@ismtpd...>" or "<id@geopod-ismtpd...>"


def _bounce_kind(
    bounce_type: str | None, classification: Any, enhanced: str | None, code: int | None, reason: str | None
) -> BounceKind:
    """Return the kind: SendGrid's type decides; its classification and the codes refine a block."""
    kind = _BOUNCE_TYPES.get(bounce_type) if bounce_type is not None else None
    if kind is BounceKind.HARD or kind is BounceKind.SOFT:
        return kind
    classified = _CLASSIFICATIONS.get(classification.lower()) if isinstance(classification, str) else None
    if classified is not None:
        return classified
    by_code = smtp.bounce_kind_of(enhanced, code, reason)
    if kind is BounceKind.BLOCK:
        return BounceKind.SOFT if by_code is BounceKind.SOFT else kind
    # Without a type it is the older form. The documentation calls a bounce permanent.
    return BounceKind.HARD if by_code is BounceKind.UNDETERMINED else by_code


def _suppression_list(reason: str | None) -> SuppressionList | None:
    if reason is None:
        return None
    words = reason.strip().lower()
    found = _DROPS.get(words)
    if found is None:
        for phrase, candidate in _DROPS.items():
            if phrase != "invalid" and phrase in words:
                return candidate
    return found


def _custom(element: dict[str, Any]) -> dict[str, Any]:
    """Return the sender's arguments: keys that SendGrid does not document, ``unique_args`` and ``custom_args``."""
    # Not a difference of sets: its order would change from one process to the next.
    custom = {key: value for key, value in element.items() if key not in _OWN}
    if "unique_args" in element or "custom_args" in element:
        return {**fields.section(element, "unique_args"), **fields.section(element, "custom_args"), **custom}
    return custom


# --- signature ---

_SIGNATURE = "x-twilio-email-event-webhook-signature"
_STAMP = "x-twilio-email-event-webhook-timestamp"
_DIGITS = re.compile(r"[0-9]{1,20}")
_ALGORITHM = ec.ECDSA(utils.Prehashed(hashes.SHA256()))


def verify(
    request: WebhookRequest,
    secrets: Mapping[str, str],
    *,
    now: datetime,
    replay_window_s: float | None,
    certificate: bytes | None = None,  # noqa: ARG001 the contract's; there is none here
) -> Verification:
    """Return which of the verification keys belongs to the signature.

    Raises:
        VerificationError: none does.
    """
    keys = {key_id: key for key_id, secret in secrets.items() if (key := _public_key(secret)) is not None}
    if not keys:
        raise VerificationError(Refusal.UNCONFIGURED, "no verification key is configured")
    signature, stamp = _signature_of(request.headers)
    # A body of events begins with a bracket. If it could begin with a digit, stamp and body could be split elsewhere.
    if request.body[:1].isdigit():
        raise VerificationError(Refusal.MALFORMED, "a body that begins as a stamp")
    digest = hashlib.sha256(stamp.encode("ascii"))
    digest.update(request.body)
    for key_id, key in keys.items():
        try:
            key.verify(signature, digest.digest(), _ALGORITHM)
        except InvalidSignature:
            continue
        ahead_s = proof.check_stamp(int(stamp), now=now, replay_window_s=replay_window_s)
        return Verification(key_id=key_id, ahead_s=ahead_s)
    raise VerificationError(Refusal.MISMATCH, "the signature is not by one of our keys, or not of this body")


def read_headers(headers: Mapping[str, str], secrets: Mapping[str, str]) -> bool:
    """Return False, because the signature covers the body.

    Raises:
        VerificationError: no verification key is configured, or there is no well-formed signature.
    """
    if not any(_public_key(secret) is not None for secret in secrets.values()):
        raise VerificationError(Refusal.UNCONFIGURED, "no verification key is configured")
    _signature_of(headers)
    return False


def _signature_of(headers: Mapping[str, str]) -> tuple[bytes, str]:
    """Return the signature and the stamp, digits only.

    Raises:
        VerificationError: one of them is missing or malformed.
    """
    given, stamp = headers.get(_SIGNATURE), headers.get(_STAMP)
    if not given or not stamp:
        raise VerificationError(Refusal.MISSING, "no signature")
    signature = proof.base64_bytes(given)
    if signature is None or not _DIGITS.fullmatch(stamp):
        raise VerificationError(Refusal.MALFORMED, "a signature or a stamp that cannot be read")
    return signature, stamp


def secret_fault(secret: str) -> str | None:
    """Return why a secret is no verification key; ``None`` if it is one."""
    return None if _public_key(secret) is not None else "not a public key on P-256 in base64 (DER)"


@lru_cache(maxsize=128)
def _public_key(secret: str) -> ec.EllipticCurvePublicKey | None:
    der = proof.base64_bytes("".join(secret.split()))
    try:
        key = load_der_public_key(der or b"")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None


PROVIDER = Provider(
    name=_NAME,
    normalise=normalise,
    verify=verify,
    secret_fault=secret_fault,
    message_id=message_id,
    read_headers=read_headers,
    retry_window_s=72 * 3_600,
    kept_headers=frozenset({_SIGNATURE, _STAMP}),
)
