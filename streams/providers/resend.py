"""Resend: one JSON object a request, sent and signed by Svix.

https://resend.com/docs/webhooks/event-types, and a page for each event under https://resend.com/docs/webhooks/emails/:
``bounced``, ``clicked``, ``delivery-delayed``, ``failed``, ``suppressed`` and so on. The types of bounce:
https://resend.com/docs/dashboard/emails/email-bounces. What the pages do not show is in the OpenAPI document,
https://github.com/resend/resend-openapi, as ``WebhookEvent...``

- **Message id.** ``data.email_id``, the ``id`` that the sending API returned. Not ``data.message_id``, which is the header.
- **Event id.** The header ``svix-id``, "the same when the same webhook is being resent", also by hand. It is signed.
- **Time.** ``created_at`` beside ``type``; ``data.created_at`` is when the message was made. A click has its own time, too.
- **Recipients.** ``data.to`` is documented as the "impacted recipient email addresses", but with several recipients Resend
  sends an event for each of them, all with the whole list, and none says whose it is:
  https://github.com/resend/resend-python/issues/68, and django-anymail saw the same. What is about the message (sent,
  failed) is then an event for each of them; everything else is kept in each one's timeline (``OTHER``) and changes no
  status, unless the receiving server's answer names one of them. A bounce may have an answer for each recipient.
- **Copies** (cc, bcc) have such events as well, and these name the recipients in ``to`` only.
- **Tags** are an object in the documentation's samples and a list of names and values in Resend's own ingester:
  either is read. So are the message's custom ``headers``, which are missing if there are none.
- **Bounces** have the words of Amazon SES, by which Resend sends. ``diagnosticCode`` is the server's answer and ``message``
  Resend's own text about the subtype. Of a type that it calls ``Temporary`` and a subtype ``MessageRejected`` one page gives
  nothing but the names.
- Machine opens are not distinguished, and an unsubscription is about a contact: it is reported without a message.
- **A kind of mail event that Resend adds later** is kept as unknown if it names a message and a recipient, else it gives no
  event. Everything that is not ``email.*`` (domains, contacts, suppressions, inboxes) is about no delivery.

**Signature**: https://docs.svix.com/receiving/verifying-payloads/how-manual, the same as
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, which names the headers
``webhook-*``; Svix can send either.

- HMAC-SHA256 over ``{id}.{stamp}.{raw body}``. A secret is the *Signing Secret* as the webhook's page shows it: ``whsec_``
  and the key in base64. Neither id nor stamp may hold a full stop, so the three parts can be cut in one way only.
- The header is a list: ``v1,SIGNATURE``, one for each secret that is valid at the time of a rotation. Other versions are
  skipped: Resend gives no public key for them.
- The stamp is that of the attempt, new at each retry, so the window may be narrow.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from streams.domain import reasons, smtp
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList, normalised_recipient
from streams.providers import _fields as fields
from streams.providers import _proof as proof
from streams.providers._contract import (
    PoisonError,
    Provider,
    Refusal,
    Verification,
    VerificationError,
    WebhookRequest,
)

_NAME = "resend"
_MAIL = "email."
_MOST_RECIPIENTS = 100
"""Most recipients of one message; Resend itself takes 50. The bound keeps an event from multiplying its size."""

_EVENTS: dict[str, EventType] = {
    "email.scheduled": EventType.OTHER,  # to be sent up to 30 days later, when it is reported as sent; or to be cancelled
    "email.sent": EventType.SENT,  # the API request was successful; Resend will attempt the delivery
    "email.delivered": EventType.DELIVERED,  # handed over to the recipient's mail server
    "email.delivery_delayed": EventType.DEFERRED,  # a temporary issue: the inbox is full, or the server has trouble
    "email.bounced": EventType.BOUNCE,  # rejected by the recipient's mail server, or (SES' words) not even tried
    "email.suppressed": EventType.DROPPED,  # on the account's suppression list
    "email.failed": EventType.DROPPED,  # an error before sending: quota, domain not verified, invalid recipient
    "email.opened": EventType.OPEN,  # the recipient, or a machine, opened it
    "email.clicked": EventType.CLICK,  # a link was clicked
    "email.complained": EventType.COMPLAINT,  # delivered, and marked as spam
}

_BOUNCED = "email.bounced"
_NO_DELIVERY = frozenset({"email.received"})  # mail that Resend received for us

_OF_THE_MESSAGE = frozenset({"email.sent", "email.failed"})
"""What happened to all recipients at once, before Resend tried the first of them."""

_LISTS: dict[str, SuppressionList] = {  # a bounce's subtype, or the type of a suppression: Resend did not try
    "Suppressed": SuppressionList.BOUNCE,  # a recent history of producing hard bounces
    "OnAccountSuppressionList": SuppressionList.BOUNCE,  # it has bounced hard before; may hold complaints, too
}

_LISTED_FOR: dict[str, SuppressionList] = {  # the ``reason`` of a suppression; older ones have none
    "previous_bounce": SuppressionList.BOUNCE,
    "previous_complaint": SuppressionList.SPAM,
}

_BOUNCES: dict[str, BounceKind] = {
    "Permanent/NoEmail": BounceKind.HARD,  # the address could not be retrieved from the bounce message
    "Permanent/MessageRejected": BounceKind.BLOCK,  # refuses the message, by its name
    "Transient/MailboxFull": BounceKind.SOFT,  # may pass when the mailbox is no longer full
    "Transient/MessageTooLarge": BounceKind.SOFT,  # may pass if it is smaller
    "Transient/ContentRejected": BounceKind.SOFT,  # may pass with other content
    "Transient/AttachmentRejected": BounceKind.SOFT,  # may pass with another attachment
}
_TRANSIENT = frozenset({"Transient", "Temporary"})  # soft bounces; the page of the event names the second
_PERMANENT = "Permanent"
_UNSPECIFIC = frozenset({"", "General"})
_SAYS_NOTHING = _UNSPECIFIC | {"NoEmail", "Undetermined"}  # subtypes that name no cause


def normalise(request: WebhookRequest) -> list[DeliveryEvent]:
    """Return the events of one request, one for each recipient; ``[]`` if it is about no delivery.

    Raises:
        PoisonError: the body is no event, or lacks what identifies it.
    """
    record = fields.decode_object(request.body)
    try:
        return _events(record, request)
    except fields.ElementError as error:
        raise PoisonError(str(error)) from None


def _events(record: dict[str, Any], request: WebhookRequest) -> list[DeliveryEvent]:
    word = fields.required(fields.text(record.get("type")), "no type")
    if not word.startswith(_MAIL) or word in _NO_DELIVERY:
        return []
    data = fields.section(record, "data")
    message_id, recipients = fields.identifier(data.get("email_id")), _addresses(data.get("to"))
    if word not in _EVENTS and (message_id is None or not recipients):
        return []
    message_id = fields.required(message_id, "no email_id")
    recipients = fields.required(recipients or None, "no recipient")
    if len(recipients) > _MOST_RECIPIENTS:
        message = "too many recipients"
        raise fields.ElementError(message)

    meanings = _meanings(word, data, recipients)
    click = fields.section(data, "click")
    occurred_at = fields.iso_moment(click.get("timestamp")) or fields.iso_moment(record.get("created_at"))
    given_id = request.headers.get(f"{_prefix(request.headers)}-id", "")
    custom = _tags(data.get("tags"))
    reference = fields.reference(request.reference_keys, custom) or fields.header_reference(
        request.reference_keys, data.get("headers")
    )
    return [
        DeliveryEvent(
            event_id=_event_id(given_id, position)
            or fields.fingerprint(
                provider=_NAME,
                account=request.account,
                event=meaning.word,
                message_id=message_id,
                recipient=recipient,
                time=occurred_at,
                detail=fields.text(click.get("link"), fields.URL_LIMIT) or meaning.answer or "",
            ),
            provider=_NAME,
            account=request.account,
            message_id=message_id,
            recipient=recipient,
            type=meaning.type,
            received_at=request.received_at,
            occurred_at=occurred_at,
            reference=reference,
            bounce_kind=meaning.kind,
            reason=meaning.explanation,
            smtp_code=meaning.reply.smtp_code,
            enhanced_code=meaning.reply.enhanced_code,
            metadata=fields.metadata(custom),
            user_agent=fields.text(click.get("userAgent"), fields.USER_AGENT_LIMIT),
            suppression_list=meaning.suppression_list,
            provider_event=meaning.word,
        )
        for position, (recipient, meaning) in enumerate(meanings)
    ]


def _event_id(given: str, position: int) -> str | None:
    """Return Svix' id, and a number for further recipients of one event; ``None`` if what is given can be no such id."""
    return f"{given}{f'#{position}' if position else ''}" if _ID.fullmatch(given) else None


def _addresses(value: Any) -> list[str]:
    """Return the distinct addresses of a list of strings (or of one string), in order."""
    entries = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(found for found in map(fields.address, entries) if found is not None))


_ADDRESS = re.compile(r"[^\s<>()\[\]\"',;:@]{1,64}@[^\s<>()\[\]\"',;:@]{1,255}")


def _named(answer: str | None, recipients: list[str]) -> list[str]:
    """Return the one of several recipients whom the server's answer names; all, if it names none or more than one."""
    if len(recipients) == 1 or answer is None:
        return recipients
    said = {normalised_recipient(found.rstrip(".")) for found in _ADDRESS.findall(answer)}
    named = [recipient for recipient in recipients if normalised_recipient(recipient) in said]
    return named if len(named) == 1 else recipients


def _tags(value: Any) -> dict[str, Any]:
    """Return the tags that the sender set: an object, or a list of ``{"name": ..., "value": ...}``."""
    if isinstance(value, list):
        pairs = [(tag.get("name"), tag.get("value")) for tag in value if isinstance(tag, dict)]
        return {name: content for name, content in pairs if isinstance(name, str)}
    return value if isinstance(value, dict) else {}


# --- meaning ---


class _Meaning(NamedTuple):
    """What an event word means once its details are read."""

    type: EventType
    word: str
    answer: str | None = None
    """What the receiving server said."""
    explanation: str | None = None
    """The answer, or Resend's explanation; led by Resend's word for the cause where that says more."""
    reply: smtp.Reply = smtp.NO_REPLY
    kind: BounceKind | None = None
    suppression_list: SuppressionList | None = None


def _meanings(word: str, data: Mapping[str, Any], recipients: list[str]) -> list[tuple[str, _Meaning]]:
    """Return whom an event is about, and what it means for each of them.

    A bounce of several recipients has an answer for each; one that names its recipient is that recipient's bounce. One
    that names nobody may be that of any other, so it is in the timelines of these.
    """
    about = fields.section(data, "bounce")
    answers = about.get("diagnosticCode")
    if len(recipients) > 1 and word == _BOUNCED and isinstance(answers, list):
        own: dict[str, _Meaning] = {}
        of_nobody: _Meaning | None = None
        for answer in answers[:_MOST_RECIPIENTS]:
            if (said := fields.text(answer, fields.REASON_LIMIT)) is None:
                continue
            named = _named(said, recipients)
            if len(named) > 1:
                of_nobody = of_nobody or _for_timeline(_bounce(word, {**about, "diagnosticCode": said}))
            elif named[0] not in own:
                own[named[0]] = _bounce(word, {**about, "diagnosticCode": said})
        if own:
            others = [] if of_nobody is None else [(other, of_nobody) for other in recipients if other not in own]
            return [*own.items(), *others]
    meaning = _meaning(word, data)
    recipients = _named(meaning.answer, recipients)
    if len(recipients) > 1 and word in _EVENTS and word not in _OF_THE_MESSAGE:
        meaning = _for_timeline(meaning)
    return [(recipient, meaning) for recipient in recipients]


def _for_timeline(meaning: _Meaning) -> _Meaning:
    return meaning._replace(type=EventType.OTHER, kind=None, suppression_list=None)


def _meaning(word: str, data: Mapping[str, Any]) -> _Meaning:
    event_type = _EVENTS.get(word, EventType.UNKNOWN)
    if event_type is EventType.BOUNCE:
        return _bounce(word, fields.section(data, "bounce"))
    if word == "email.suppressed":
        about = fields.section(data, "suppressed")
        why = fields.text(about.get("type"), _DETAIL_LIMIT) or ""
        listed_for = _LISTED_FOR.get(fields.text(about.get("reason")) or "") or _LISTS.get(why)
        return _Meaning(
            event_type,
            _joined(word, why),
            explanation=_first_sentence(about.get("message")),
            suppression_list=listed_for,
        )
    if word == "email.failed":
        return _Meaning(
            event_type, word, explanation=fields.text(fields.section(data, "failed").get("reason"), fields.REASON_LIMIT)
        )
    return _Meaning(event_type, word)


def _bounce(word: str, about: Mapping[str, Any]) -> _Meaning:
    """Return what a bounce means: Resend did not try, something came back that may be an automatic reply, or it bounced."""
    bounce_type = fields.text(about.get("type"), _DETAIL_LIMIT) or ""
    subtype = fields.text(about.get("subType"), _DETAIL_LIMIT) or ""
    word = _joined(word, bounce_type, subtype)
    answer = _answer(about)
    explanation = answer or _first_sentence(about.get("message"))
    if subtype in _LISTS:
        return _Meaning(EventType.DROPPED, word, answer, explanation, suppression_list=_LISTS[subtype])
    if answer is None and bounce_type in _TRANSIENT and subtype in _UNSPECIFIC:
        # "Sometimes, inboxes use autoresponders"; such a reply is no report of a server, so it holds no answer of one.
        return _Meaning(EventType.BOUNCE_OR_AUTO_REPLY, word, explanation=explanation)
    reply = smtp.parse_reply(answer)
    vague = (reply.enhanced_code or ".0.0").endswith(".0.0")  # else the code says more than the word
    cause = subtype if vague and subtype not in _SAYS_NOTHING else ""
    return _Meaning(
        EventType.BOUNCE,
        word,
        answer,
        fields.answer(explanation, cause, reply.smtp_code, reply.enhanced_code),
        reply,
        _kind_of(bounce_type, subtype, answer, reply),
    )


def _kind_of(bounce_type: str, subtype: str, answer: str | None, reply: smtp.Reply) -> BounceKind:
    """Return why it bounced: by Resend's words, or by the server's answer if those name no cause.

    ``Permanent`` stays a hard bounce unless the server says plainly that it refuses us and not the address.
    """
    said = _BOUNCES.get(f"{bounce_type}/{subtype}")
    if said is not None:
        return said
    answered = smtp.bounce_kind_of(reply.enhanced_code, reply.smtp_code, answer)
    if bounce_type == _PERMANENT:
        refused = reasons.refuses_us(answered, answer, reply.smtp_code, reply.enhanced_code)
        return BounceKind.BLOCK if refused else BounceKind.HARD
    if bounce_type in _TRANSIENT and (answered is BounceKind.UNDETERMINED or subtype not in _UNSPECIFIC):
        return BounceKind.SOFT
    return answered


def _answer(about: Mapping[str, Any]) -> str | None:
    """Return the receiving server's answer: a ``diagnosticCode``, or a ``message`` that has a server's codes."""
    given = about.get("diagnosticCode")
    for value in given if isinstance(given, list) else [given]:
        if (found := fields.text(value, fields.REASON_LIMIT)) is not None:
            return found
    message = fields.text(about.get("message"), fields.REASON_LIMIT)
    return message if smtp.parse_reply(message) != smtp.NO_REPLY else None


def _first_sentence(value: Any) -> str | None:
    """Return the first sentence of Resend's own text.

    What follows is advice in general, whose words ("reputation", "mailbox", "content") tell nothing of this message.
    """
    message = fields.text(value, fields.REASON_LIMIT)
    return message.partition(". ")[0].removesuffix(".") if message is not None else None


_DETAIL_LIMIT = 128


def _joined(word: str, *details: str) -> str:
    return "/".join((word, *filter(None, details)))


# --- signature ---

_REPLAY_WINDOW_S = 300
"""Five minutes, as in Svix' and Resend's own libraries: https://docs.svix.com/receiving/verifying-payloads/why."""

_PREFIXES = ("svix", "webhook")
_ID = re.compile(r"[!-\-/-~]{1,256}")  # printable, and no full stop
_STAMP = re.compile(r"[0-9]{1,12}")  # seconds
_VERSION = "v1"  # HMAC-SHA256
_SECRET = "whsec_"  # noqa: S105 what a secret begins with
_LEAST_KEY = 16
"""Bytes of a key. The specification wants 24, and Svix' own example has 18: what is shorter was not copied whole."""


class _Signature(NamedTuple):
    """What the headers hold of the proof."""

    signed: bytes
    """What is signed before the body."""
    stamp_s: int
    given: Sequence[bytes]
    """Each signature of the version that we know."""


def verify(
    request: WebhookRequest,
    secrets: Mapping[str, str],
    *,
    now: datetime,
    replay_window_s: float | None,
    certificate: bytes | None = None,  # noqa: ARG001 the contract's; there is none here
) -> Verification:
    """Return which of the signing secrets made one of the signatures.

    Raises:
        VerificationError: none did, or the stamp is outside the replay window.
    """
    keys = _keys(secrets)
    signature = _signature(request.headers)
    for key_id, key in keys.items():
        digest = hmac.new(key, signature.signed, "sha256")
        digest.update(request.body)
        made = digest.digest()
        if any(hmac.compare_digest(given, made) for given in signature.given):
            ahead_s = proof.check_stamp(signature.stamp_s, now=now, replay_window_s=replay_window_s)
            return Verification(key_id=key_id, ahead_s=ahead_s)
    raise VerificationError(Refusal.MISMATCH, "the signature is not by one of our secrets, or not of this body")


def read_headers(headers: Mapping[str, str], secrets: Mapping[str, str]) -> bool:
    """Return False, because the signature covers the body.

    Raises:
        VerificationError: no signing secret is configured, or there is no well-formed signature.
    """
    _keys(secrets)
    _signature(headers)
    return False


def _keys(secrets: Mapping[str, str]) -> dict[str, bytes]:
    """Return our name for each usable secret -> its key.

    Raises:
        VerificationError: none is usable.
    """
    keys = {key_id: key for key_id, secret in secrets.items() if (key := _key(secret)) is not None}
    if not keys:
        raise VerificationError(Refusal.UNCONFIGURED, "no signing secret is configured")
    return keys


def _key(secret: str) -> bytes | None:
    secret = secret.strip()
    key = proof.base64_bytes(secret.removeprefix(_SECRET)) if secret.startswith(_SECRET) else None
    return key if key is not None and len(key) >= _LEAST_KEY else None


def _prefix(headers: Mapping[str, str]) -> str:
    """Return what the names of the proof's headers begin with: all three are of one kind, so that the id is the signed one."""
    return next((prefix for prefix in _PREFIXES if headers.get(f"{prefix}-signature")), _PREFIXES[0])


def _signature(headers: Mapping[str, str]) -> _Signature:
    """Return the signatures, and what they cover beside the body.

    Raises:
        VerificationError: one of the three headers is missing or malformed.
    """
    prefix = _prefix(headers)
    given, own_id, stamp = (headers.get(f"{prefix}-{name}") for name in ("signature", "id", "timestamp"))
    if not given or not own_id or not stamp:
        raise VerificationError(Refusal.MISSING, "no signature")
    parts = (part.partition(",") for part in given.split(" "))
    signatures = [proof.base64_bytes(encoded) for version, _, encoded in parts if version == _VERSION]
    readable = [signature for signature in signatures if signature]
    if not readable or not _ID.fullmatch(own_id) or not _STAMP.fullmatch(stamp):
        raise VerificationError(Refusal.MALFORMED, "a signature, id or stamp that cannot be read")
    return _Signature(f"{own_id}.{stamp}.".encode("ascii"), int(stamp), readable)


def secret_fault(secret: str) -> str | None:
    """Return why a secret is no signing secret; ``None`` if it is one."""
    return None if _key(secret) is not None else "not whsec_ and a key in base64, of at least 16 bytes"


PROVIDER = Provider(
    name=_NAME,
    normalise=normalise,
    verify=verify,
    secret_fault=secret_fault,
    read_headers=read_headers,
    replay_window_s=_REPLAY_WINDOW_S,
    # Resend does not say. It sends by Amazon SES (a domain's MX record is feedback-smtp.REGION.amazonses.com), which
    # tries for 14 hours at most.
    retry_window_s=14 * 3_600,
    kept_headers=frozenset(f"{prefix}-{name}" for prefix in _PREFIXES for name in ("id", "timestamp", "signature")),
)
