"""Mailjet: the Event API, a JSON array of the events of one second, or a single event.

https://dev.mailjet.com/email/guides/webhooks/, and the same as a file:
https://github.com/mailjet/api-documentation/blob/master/guides/_event-api.md. What its words mean:
https://documentation.mailjet.com/hc/en-us/articles/360048398994-Email-statuses-all-metrics-explained

- **``sent`` means delivered**: "the destination SMTP server [...] has accepted the message". Mailjet does not report that
  it took a message: it sends no event that would be our ``sent``.
- **Message id.** ``MessageID``, which the Send API returns beside ``MessageUUID``, for each recipient. It is a number beyond
  2^53, so a program that reads it as a float has another one; here it is its digits. ``Message_GUID`` is the
  ``MessageUUID``; neither can be computed from the other, and the guide lists only ``MessageID`` among what every event
  has, so a sender has to keep that one. ``mj_message_id`` is the same as text, deprecated.
- **Event id.** There is none: a fingerprint of what a repetition keeps. Events may be grouped otherwise when they are
  repeated, so the place in the array is no part of it.
- **Bounces.** ``hard_bounce`` says only that the error is permanent; whose fault it is, ``error`` says. A bounce that is not
  permanent ends the retries: Mailjet tries "until the email is either successfully delivered or ends up with a 'soft
  bounce'" (https://documentation.mailjet.com/hc/en-us/articles/360043229453). Only of ``greylisted`` the guide says "Delivery
  will be re-attempted": that is a deferral, unless it is permanent.
- **Drops** are ``blocked``: Mailjet did not try. A bounce whose error is a decision of Mailjet's is one as well.
- ``blocked`` of a bounce announces that the next message is not tried; it says nothing of this one.
- **Reference.** An entry of ``Payload`` if that is a JSON object, else ``CustomID``: ``invoice:4711``, or all of it, because
  it is the sender's own name of the message.
- Opens have no sign of a machine. How long Mailjet tries to deliver is not documented.
- **An event with ``MessageID`` 0 and no address**, as Mailjet has sent them (https://github.com/gip-inclusion/les-emplois/pull/6500),
  tries the URL and is about no delivery.

**Proof.** Mailjet signs nothing; it sends the user and password of the URL that it calls. A secret is such a credential: see
``_proof``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from streams.domain import reasons, smtp
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.providers import _fields as fields
from streams.providers import _proof as proof
from streams.providers._contract import PoisonError, Provider, WebhookRequest

_NAME = "mailjet"

_EVENTS: dict[str, EventType] = {
    "sent": EventType.DELIVERED,  # accepted by the receiving server
    "open": EventType.OPEN,  # the tracking image was loaded
    "click": EventType.CLICK,  # a tracked link was followed
    "bounce": EventType.BOUNCE,  # refused, or given up; ``error`` says why
    "blocked": EventType.DROPPED,  # not tried; ``error`` says why
    "spam": EventType.COMPLAINT,  # marked as spam; ``source`` names the feedback loop
    "unsub": EventType.UNSUBSCRIBE,  # unsubscribed by the link of the message
}

_HARD, _SOFT, _BLOCK = BounceKind.HARD, BounceKind.SOFT, BounceKind.BLOCK
_DEFERRED, _DROPPED = EventType.DEFERRED, EventType.DROPPED

# What an error means in a bounce (hard: if it is permanent), and the list that it names if the message was not tried.
# https://dev.mailjet.com/email/guides/webhooks/#possible-values-for-errors; quotation marks: Mailjet's explanation
_ERRORS: dict[str, tuple[BounceKind | EventType, SuppressionList | None]] = {
    # recipient
    "user unknown": (_HARD, SuppressionList.INVALID),  # "Email address doesn't exist"
    "mailbox inactive": (_HARD, SuppressionList.BOUNCE),  # "inactive for too long", so it probably does not exist
    "quota exceeded": (_SOFT, SuppressionList.BOUNCE),  # "a non-permanent error", whatever ``hard_bounce`` says
    "blacklisted": (_DROPPED, None),  # "a blacklisted recipient for this account": on which list is not said
    "spam reporter": (_DROPPED, SuppressionList.SPAM),  # reported an earlier message of this account as spam
    # domain
    "invalid domain": (_HARD, SuppressionList.INVALID),  # "a typo in the domain name", or it has expired
    "no mail host": (_HARD, SuppressionList.BOUNCE),  # "Nobody answers when we knock at the door"
    "relay/access denied": (_BLOCK, None),  # "The destination mail server is refusing to talk to us"
    "greylisted": (_DEFERRED, None),  # "Delivery will be re-attempted"
    "typofix": (_DROPPED, SuppressionList.INVALID),  # "The domain part [...] was not valid": found before it was tried
    # content
    "bad or empty template": (_DROPPED, None),  # there was nothing to send
    "error in template language": (_DROPPED, None),  # the same
    # spam
    "sender blocked": (_BLOCK, None),  # "quite bad! You should contact us"
    "content blocked": (_BLOCK, None),  # the content "has triggered an anti-spam filter"
    "policy issue": (_BLOCK, None),  # a rule of the receiving side
    # system
    "system issue": (_SOFT, None),  # on Mailjet's side, "A temporary error"
    "protocol issue": (_SOFT, None),  # "should not happen, and never be permanent"
    "connection issue": (_SOFT, None),  # the same
    # mailjet
    "preblocked": (_DROPPED, SuppressionList.BOUNCE),  # "recently (or repeatedly) bounced"
    "duplicate in campaign": (_DROPPED, None),  # X-Mailjet-DeduplicateCampaign: the first one was sent
    "spam preblocked": (_DROPPED, None),  # Mailjet's own filter calls it spam; only in the API's list of states
}

_RELATED: dict[str, BounceKind | EventType] = {  # for an error that Mailjet adds later, ``error_related_to``
    "recipient": _HARD,
    "domain": _HARD,
    "content": _DROPPED,
    "spam": _BLOCK,
    "system": _SOFT,
    "mailjet": _DROPPED,
}

_SAY_MORE = frozenset(
    {"invalid domain", "no mail host", "greylisted", "system issue", "protocol issue", "connection issue"}
)  # fmt: skip
"""Errors by which the advice goes, whatever the answer says."""

_TRUE = (True, "true", "True", "1")


class _Meaning(NamedTuple):
    type: EventType
    word: str
    """Mailjet's full word."""
    error: str
    kind: BounceKind | None
    suppression_list: SuppressionList | None


def normalise(request: WebhookRequest) -> list[DeliveryEvent]:
    """Return the events of one request: of a list (``version`` 2 of the webhook), or of one event alone.

    Raises:
        PoisonError: the body is neither, or some of its elements are bad.
    """
    return fields.events_of_each(request, _event)


def _event(element: dict[str, Any], request: WebhookRequest) -> DeliveryEvent | None:
    get = element.get
    word = fields.required(fields.text(get("event")), "no event")
    message_id, recipient = _message_id(element), fields.address(get("email"))
    if message_id is None and recipient is None and get("MessageID") == 0:
        return None
    message_id = fields.required(message_id, "no MessageID")
    recipient = fields.required(recipient, "no email")

    reason = next((found for name in _REASONS if (found := fields.text(get(name), fields.REASON_LIMIT))), None)
    reply = smtp.parse_reply(reason if reason is None else reason.removeprefix(_LOGGED))
    meaning = _meaning(element, word, reason, reply)
    custom_id = fields.text(get("CustomID"))
    custom = _custom(element, custom_id)
    tags = fields.tags(get("customcampaign"))
    occurred_at = fields.moment(get("time"))
    return DeliveryEvent(
        event_id=fields.fingerprint(
            provider=_NAME,
            account=request.account,
            event=meaning.word,
            message_id=message_id,
            recipient=recipient,
            time=occurred_at,
            detail=fields.text(get("url"), fields.URL_LIMIT) or reason or "",
        ),
        provider=_NAME,
        account=request.account,
        message_id=message_id,
        recipient=recipient,
        type=meaning.type,
        received_at=request.received_at,
        occurred_at=occurred_at,
        reference=_reference(request, custom, custom_id, tags),
        bounce_kind=meaning.kind,
        reason=_explanation(reason, meaning, reply),
        smtp_code=reply.smtp_code,
        enhanced_code=reply.enhanced_code,
        tags=tags,
        metadata=fields.metadata(custom),
        user_agent=fields.text(get("agent"), fields.USER_AGENT_LIMIT),
        suppression_list=meaning.suppression_list,
        provider_event=meaning.word,
    )


_REASONS = ("comment", "smtp_reply", "source")  # of a bounce, of a delivery, of a complaint
_LOGGED = "sent ("
"""How a delivery's answer begins: as in a log of Postfix's, ``sent (250 2.0.0 OK ...)``."""


def _message_id(element: Mapping[str, Any]) -> str | None:
    """Return the digits of the message's id; 0 is none."""
    for name in ("MessageID", "mj_message_id"):
        found = fields.identifier(element.get(name))
        if found is not None and found != "0":
            return found
    return None


# --- what the sender attached ---


def _custom(element: Mapping[str, Any], custom_id: str | None) -> dict[str, Any]:
    """Return the entries of the payload if it is a JSON object, else the payload as one entry; and the custom id."""
    payload = element.get("Payload")
    if isinstance(payload, str) and payload and not payload.isspace():
        found = _object(payload)
        payload = {"Payload": payload} if found is None else found
    custom = payload if isinstance(payload, dict) else {}
    return custom if custom_id is None else {**custom, "CustomID": custom_id}


def _object(given: str) -> dict[str, Any] | None:
    """Return the JSON object that a text holds; ``None`` if it holds none."""
    if not given.lstrip().startswith("{"):
        return None
    try:
        found = fields.decode_body(given)
    except PoisonError:
        return None
    return found if isinstance(found, dict) else None


def _reference(
    request: WebhookRequest, custom: Mapping[str, Any], custom_id: str | None, tags: tuple[str, ...]
) -> str | None:
    if custom_id is None:
        return fields.reference(request.reference_keys, custom, tags)
    custom_id = custom_id.strip()
    return fields.reference(request.reference_keys, custom, (custom_id, *tags)) or custom_id


# --- meaning ---


def _meaning(element: Mapping[str, Any], word: str, reason: str | None, reply: smtp.Reply) -> _Meaning:
    """Return what an event means."""
    event_type = _EVENTS.get(word, EventType.UNKNOWN)
    if event_type is not EventType.BOUNCE and event_type is not EventType.DROPPED:
        return _Meaning(event_type, word, "", None, None)
    error, related = (fields.text(element.get(name)) or "" for name in ("error", "error_related_to"))
    word = f"{word}/{error or related}".rstrip("/")
    cause, suppression_list = _ERRORS.get(error.strip().lower(), (None, None))
    cause = cause or _RELATED.get(related.strip().lower())
    if event_type is EventType.DROPPED or cause is _DROPPED:
        return _Meaning(EventType.DROPPED, word, error, None, suppression_list)
    hard = element.get("hard_bounce")
    permanent = None if hard is None else hard in _TRUE
    if cause is _DEFERRED and not permanent:
        return _Meaning(EventType.DEFERRED, word, error, None, None)
    return _Meaning(EventType.BOUNCE, word, error, _kind(cause, reason, reply, permanent=permanent), None)


def _kind(
    cause: BounceKind | EventType | None, reason: str | None, reply: smtp.Reply, *, permanent: bool | None
) -> BounceKind:
    """Return why it bounced: the error decides, and the server's answer where Mailjet names none.

    What Mailjet calls permanent and about the sender is about the address only if the answer says that there is no such
    mailbox, or has a code for that and no word about us: Microsoft's "550 5.4.1 Recipient address rejected: Access denied".

    Args:
        cause: What the error means; None: none that we know.
        reason: What the server said.
        reply: Its codes.
        permanent: What Mailjet says; None: nothing.
    """
    if cause is _DEFERRED:
        return _SOFT  # it was greylisted until nobody tried any more
    answered = smtp.bounce_kind_of(reply.enhanced_code, reply.smtp_code, reason)
    if cause is _BLOCK and permanent and reasons.refuses_address(answered, reason, *reply):
        return _HARD
    if isinstance(cause, BounceKind) and cause is not _HARD:
        return cause
    if cause is None and reasons.refuses_us(answered, reason, *reply):
        return _BLOCK
    if permanent is not None:
        return _HARD if permanent else _SOFT
    return _HARD if cause is _HARD and answered is BounceKind.UNDETERMINED else answered


def _explanation(reason: str | None, meaning: _Meaning, reply: smtp.Reply) -> str | None:
    """Return the server's answer, led by Mailjet's word for the error where that says more."""
    error = meaning.error
    if not error or (reason is not None and error.lower() in reason.lower()):
        return reason
    if meaning.type is EventType.DROPPED or error.strip().lower() in _SAY_MORE:
        return fields.led_by(error, reason)
    return fields.answer(reason, error, *reply)


# --- proof ---


verify = proof.verify_sender
read_headers = proof.read_credentials
secret_fault = proof.credential_fault


PROVIDER = Provider(
    name=_NAME,
    normalise=normalise,
    verify=verify,
    secret_fault=secret_fault,
    read_headers=read_headers,
    # Nothing in instead_of: "Any other HTTP code" than 200 is retried, every 30 seconds for 24 hours.
)
