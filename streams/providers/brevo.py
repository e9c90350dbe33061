"""Brevo (formerly Sendinblue): transactional webhooks, one JSON object an event, or an array of them if "batched".

https://developers.brevo.com/docs/transactional-webhooks, and under the same address ``batch-webhooks`` (up to 500 events,
every five minutes), ``secured-webhooks``, ``retry-mechanism``. What the events mean is said of the logs, too:
https://developers.brevo.com/reference/gettransacemailcontent; of bounces: https://help.brevo.com/hc/en-us/articles/209435165

- **Message id.** ``message-id``, which is the ``messageId`` that the sending API returned, angle brackets included.
- **Event id.** None: ``id`` is the webhook's, the same in all its requests. So it is a fingerprint.
- **First opens** have a word of their own, ``unique_opened``. Brevo has been seen to send ``opened`` beside it: of the same time
  these two are one event. The same goes for the opens of a proxy.
- **Words.** Webhooks say ``soft_bounce``, the settings of a webhook ``softBounce``, the report of all events ``softBounces``:
  each is read, in any case. The report (``GET /v3/smtp/statistics/events``) also has ``messageId`` and a ``date`` with its
  zone; so what an outage has lost can be fed from there.
- **Times.** The page calls ``ts_epoch`` milliseconds, and its samples hold seconds: its size tells. It calls it the time "of
  when message was sent"; in webhooks it is the event's. ``ts_event`` should be UTC and has been seen in the account's zone,
  as ``ts`` and ``date`` are: it is read only without ``ts_epoch``, those two never.
- **Order.** Brevo sends ``delivered`` before ``request`` at times, and ``request`` also for what it blocks afterwards.
- **A soft bounce** is what could not be delivered within 36 hours, for whatever reason; a hard one "has been rejected" because
  the address does not exist, or because the server "has blocked the delivery". Neither word says whether it is about us,
  so an answer that plainly refuses us decides.
- **An invalid address.** The page on the logs says of ``invalid_email`` that "the senders email" is; it is read as the recipient's,
  which is the one that the event names.
- **Tags** are a list; where the page shows ``tag`` instead, it is text, or the list as JSON in a text.
- **X-Mailin-custom**, a header of the message, is whatever the sender put there: an object in JSON, ``name:value|name:value``
  as in Brevo's sample of a message, or one text.
- Events of marketing campaigns and of contacts, mail that Brevo received for us, and text messages have webhooks of their own.
  If one of these was pointed here by mistake, it is about no delivery.

**Proof.** Brevo signs nothing; it sends a user and password from the webhook's URL, a bearer token, or headers of your choice
with each request. A secret is such a credential: see ``_proof``; a token's is ``header:Authorization:Bearer TOKEN``.

**It never repeats** a webhook that was answered with a 4xx other than 429, or with any 5xx. So 429 is the answer wherever a
later attempt may succeed.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from streams.domain import reasons, smtp
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.providers import _fields as fields
from streams.providers import _proof as proof
from streams.providers._contract import PoisonError, Provider, WebhookRequest, bare_message_id

_NAME = "brevo"

_EVENTS: dict[str, EventType] = {
    "request": EventType.SENT,  # "pushed for delivery"; of a blocked message, too
    "delivered": EventType.DELIVERED,  # reached the recipient: its server took it
    "deferred": EventType.DEFERRED,  # "delayed by the recipient's mail server"; tried for 36 hours, then a soft bounce
    "soft_bounce": EventType.BOUNCE,  # "temporarily rejected", until the 36 hours were over
    "hard_bounce": EventType.BOUNCE,  # "permanently rejected"; the address goes on the blocklist
    "bounces": EventType.BOUNCE,  # of the report: either
    "invalid_email": EventType.DROPPED,  # the address is not valid, so it was not tried
    "blocked": EventType.DROPPED,  # on the account's blocklist, for a reason that is not told; or the sender is
    "error": EventType.DROPPED,  # "an error occurred during the mail transfer", such as a sender that is not validated
    "opened": EventType.OPEN,  # the tracking image was loaded
    "unique_opened": EventType.OPEN,  # the same, for the first time
    "proxy_open": EventType.MACHINE_OPEN,  # loaded by a proxy, such as that of Apple's Mail Privacy Protection
    "unique_proxy_open": EventType.MACHINE_OPEN,  # the same, for the first time
    "click": EventType.CLICK,  # a link was followed
    "spam": EventType.COMPLAINT,  # marked as spam
    "unsubscribed": EventType.UNSUBSCRIBE,  # wants no more mail of this sender
}

_OTHER_WORDS: dict[str, str] = {  # of the settings, the report and the logs; case and underscores do not matter
    "sent": "request",
    "requests": "request",
    "soft_bounces": "soft_bounce",
    "hard_bounces": "hard_bounce",
    "invalid": "invalid_email",
    "open": "opened",
    "loaded_by_proxy": "proxy_open",
    "unique_loaded_by_proxy": "unique_proxy_open",
    "clicks": "click",
    "clicked": "click",
    "complaint": "spam",
    "unsubscribe": "unsubscribed",
}

_NO_DELIVERY = frozenset({"list_addition", "contact_updated", "contact_deleted"})  # about a contact

_KINDS: dict[str, BounceKind] = {"soft_bounce": BounceKind.SOFT, "hard_bounce": BounceKind.HARD}
_LISTS: dict[str, SuppressionList] = {"invalid_email": SuppressionList.INVALID}

_NO_REASON = "sent"  # stands in the reason of what was taken or delivered
_CUSTOM = "X-Mailin-custom"


def _folded(word: str) -> str:
    return word.lower().replace("_", "")


_WORDS = {_folded(word): word for word in (*_EVENTS, *_NO_DELIVERY)} | {
    _folded(other): word for other, word in _OTHER_WORDS.items()
}
"""A word in any of its spellings -> that of the webhooks."""


def normalise(request: WebhookRequest) -> list[DeliveryEvent]:
    """Return the events of one request (or of one element of a batch, replayed alone).

    Raises:
        PoisonError: the body is no event and no array of events, or some of its elements are bad.
    """
    return fields.events_of_each(request, _event)


def _event(element: dict[str, Any], request: WebhookRequest) -> DeliveryEvent | None:
    get = element.get
    given = fields.text(get("event"))
    if given is None and _is_of_another_webhook(element):
        return None
    given = fields.required(given, "no event")
    word = _WORDS.get(_folded(given))
    message_id, recipient = _message_id(element), fields.address(get("email"))
    if word in _NO_DELIVERY or (message_id is None and "camp_id" in element):
        return None  # about a contact, or a campaign
    if word is None and (message_id is None or recipient is None):
        return None  # something new, and probably no delivery either
    message_id = fields.required(message_id, "no message-id")
    recipient = fields.required(recipient, "no email")

    event_type = _EVENTS.get(word or "", EventType.UNKNOWN)
    reason = fields.text(get("reason"), fields.REASON_LIMIT)
    if reason == _NO_REASON:
        reason = None
    reply = smtp.parse_reply(reason)
    occurred_at = _occurred_at(element)
    tags, custom = _tags(element), _custom(get(_CUSTOM))
    return DeliveryEvent(
        event_id=fields.fingerprint(
            provider=_NAME,
            account=request.account,
            event=(word or given).removeprefix("unique_"),
            message_id=message_id,
            recipient=recipient,
            time=occurred_at,
            detail=(fields.text(get("link"), fields.URL_LIMIT) if event_type is EventType.CLICK else reason) or "",
        ),
        provider=_NAME,
        account=request.account,
        message_id=message_id,
        recipient=recipient,
        type=event_type,
        received_at=request.received_at,
        occurred_at=occurred_at,
        reference=fields.reference(request.reference_keys, custom, tags),
        bounce_kind=_bounce_kind(word, reason, reply) if event_type is EventType.BOUNCE else None,
        reason=reason,
        smtp_code=reply.smtp_code,
        enhanced_code=reply.enhanced_code,
        tags=tags,
        metadata=fields.metadata(custom),
        machine=event_type is EventType.MACHINE_OPEN,
        user_agent=fields.text(get("user_agent"), fields.USER_AGENT_LIMIT),
        suppression_list=_LISTS.get(word or ""),
        provider_event=given,
    )


def _is_of_another_webhook(element: Mapping[str, Any]) -> bool:
    """Tell whether this is mail that Brevo received for us, or the status of a text message."""
    return isinstance(element.get("items"), list) or isinstance(element.get("msg_status"), str)


def _message_id(element: Mapping[str, Any]) -> str | None:
    given = fields.identifier(element.get("message-id")) or fields.identifier(element.get("messageId"))
    return bare_message_id(given) or None if given is not None else None


def _bounce_kind(word: str | None, reason: str | None, reply: smtp.Reply) -> BounceKind:
    """Return the kind: Brevo's word decides, unless the answer plainly refuses us, for which Brevo has no word."""
    by_code = smtp.bounce_kind_of(reply.enhanced_code, reply.smtp_code, reason)
    if reasons.refuses_us(by_code, reason, reply.smtp_code, reply.enhanced_code):
        return BounceKind.BLOCK
    return _KINDS.get(word or "", by_code)


# --- times ---

_MILLISECONDS = 100_000_000_000
"""From here on a number is milliseconds since the epoch: as such 1973, as seconds the year 5138."""
_WITH_ZONE = re.compile(r"[0-9-]{10}T[0-9:.]{5,20}(?:Z|[+-][0-9:]{4,5})")


def _occurred_at(element: Mapping[str, Any]) -> datetime | None:
    date = element.get("date")
    return (
        _moment(element.get("ts_epoch"))
        or _moment(element.get("ts_event"))
        or (fields.iso_moment(date) if isinstance(date, str) and _WITH_ZONE.fullmatch(date) else None)
    )


def _moment(value: Any) -> datetime | None:
    if isinstance(value, int | float) and value >= _MILLISECONDS:
        value /= 1_000
    return fields.moment(value)


# --- what the sender attached ---


def _tags(element: Mapping[str, Any]) -> tuple[str, ...]:
    for given in (element.get("tags"), element.get("tag")):
        inside = _json_in(given, "[")
        if found := fields.tags(given if inside is None else inside):
            return found
    return ()


def _custom(given: Any) -> dict[str, Any]:
    """Return the names and values of the custom header; a text without names is under the header's own."""
    if not isinstance(given, str) or not given.strip():
        return given if isinstance(given, dict) else {}
    given = given.strip()
    if given[0] == "{":
        inside = _json_in(given, "{")
        return inside if isinstance(inside, dict) else {_CUSTOM: given}
    pairs = [part.partition(":") for part in given.split("|", fields.METADATA_LIMIT)]
    if all(name.strip() and colon for name, colon, _ in pairs):
        return {name.strip(): value.strip() for name, _, value in pairs}
    return {_CUSTOM: given}


def _json_in(given: Any, bracket: str) -> Any:
    """Return the JSON that a text holds if it begins with this bracket; ``None`` if it is none."""
    if not isinstance(given, str) or given.lstrip()[:1] != bracket:
        return None
    try:
        return fields.decode_body(given)
    except PoisonError:
        return None


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
    retry_window_s=36 * 3_600,  # https://help.brevo.com/hc/en-us/articles/209435165
    # https://developers.brevo.com/docs/retry-mechanism: only 429 is sent again. What is not here would be refused again.
    instead_of={401: 429, 403: 429, 408: 429, 500: 429, 503: 429},
)
