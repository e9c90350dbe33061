"""Azure Communication Services Email: Event Grid's array of events, most often of one.

https://learn.microsoft.com/azure/event-grid/communication-services-email-events, and on their delivery:
``delivery-and-retry``, ``delivery-properties``, ``end-point-validation-event-grid-events-schema`` under the same
address. Event Grid has two schemas: this is its own; that of CloudEvents 1.0 is not read.

- Azure reports only the end of a delivery: nothing when it accepted the message, nothing while it retries, no
  complaint and no unsubscription. It sends no ``sent`` and no ``deferred``.
- **Message id.** ``data.messageId``, the id of the operation that the sending API began.
- **Event id.** ``id`` of the event, which a repetition keeps.
- **One report a recipient**, also for a message to many.
- **Opens and clicks** have a ``recipient`` in Microsoft's libraries and none in the page's sample. One without it
  belongs to no known recipient, and gives no event.
- The page writes ``deliveryAttemptTimeStamp`` and ``userActionTimeStamp``, the libraries ``...Timestamp``: either is
  read. It writes ``view`` in its sample and ``View`` in its text: case does not matter.
- An event holds nothing of the application's own, so no reference either.
- **A kind of mail event that Microsoft adds later** is kept as unknown if it names a message and a recipient. One that
  lacks either is probably about a domain or a resource, and gives no event: if it were poison, a subscription to all
  kinds could stop the reports beside it. The kinds that we know must have both.

**Proof.** Event Grid signs nothing; it sends headers of your choice (*delivery properties*) with each request, also
with the handshake: a value that is not well formed is dropped "during event delivery to webhook destinations, but not
during webhook validation". A secret is such a credential: see ``_proof``.

**Handshake.** Event Grid asks first whether the webhook wants its events: an array of one
``SubscriptionValidationEvent`` with a code, which the answer has to repeat. Only a subscription that carries our
secret gets this answer. The ``validationUrl`` beside the code is never called.
"""

from collections.abc import Mapping
from typing import Any

from streams import codecs
from streams.domain import reasons, smtp
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.providers import _fields as fields
from streams.providers import _proof as proof
from streams.providers._contract import PoisonError, Provider, WebhookRequest

_NAME = "azure_communication"

_MICROSOFT = "Microsoft."
_NAMESPACE = f"{_MICROSOFT}Communication."
_MAIL = f"{_NAMESPACE}Email"  # one subscription may bring texts, calls and chats as well
_REPORT = "EmailDeliveryReportReceived"
_ENGAGEMENT = "EmailEngagementTrackingReportReceived"
_KNOWN = frozenset({_REPORT, _ENGAGEMENT})
_HANDSHAKE = "Microsoft.EventGrid.SubscriptionValidationEvent"

_STATUSES: dict[str, tuple[EventType, BounceKind | SuppressionList | None]] = {
    "delivered": (EventType.DELIVERED, None),  # handed over to the recipient's server
    "bounced": (EventType.BOUNCE, BounceKind.HARD),  # hard bounce: no such address, or an invalid domain
    "failed": (EventType.BOUNCE, BounceKind.SOFT),  # not delivered; a permanent failure has the word above
    "quarantined": (EventType.BOUNCE, BounceKind.BLOCK),  # put aside as spam, bulk mail or phishing
    "filteredspam": (EventType.BOUNCE, BounceKind.BLOCK),  # refused or blocked as spam
    "suppressed": (EventType.DROPPED, SuppressionList.BOUNCE),  # bounced hard before: not tried for up to 14 days
    "expanded": (EventType.OTHER, None),  # a distribution list, replaced by its members
}

_ENGAGEMENTS: dict[str, EventType] = {
    "view": EventType.OPEN,  # the message was opened
    "click": EventType.CLICK,  # a link in it was followed
}

_TIMES = ("deliveryAttemptTimeStamp", "deliveryAttemptTimestamp", "userActionTimeStamp", "userActionTimestamp")


def normalise(request: WebhookRequest) -> list[DeliveryEvent]:
    """Return the events of one request (or of one element of it, replayed alone); ``[]`` for a handshake.

    Raises:
        PoisonError: the body is no array of events, or some of its elements are bad.
    """
    return fields.events_of_each(request, _event)


def _event(element: dict[str, Any], request: WebhookRequest) -> DeliveryEvent | None:
    word = fields.required(fields.text(element.get("eventType")), "no eventType")
    if not word.startswith(_MAIL):
        if not word.startswith(_MICROSOFT):
            message = "an eventType of nobody's"
            raise fields.ElementError(message)
        return None  # Event Grid's own, such as a handshake, or another service's
    word = word.removeprefix(_NAMESPACE)
    data = fields.section(element, "data")
    get = data.get
    if word == _ENGAGEMENT and not get("recipient"):
        return None
    message_id, recipient = fields.identifier(get("messageId")), fields.address(get("recipient"))
    if word not in _KNOWN and (message_id is None or recipient is None):
        return None
    message_id = fields.required(message_id, "no messageId")
    recipient = fields.required(recipient, "no recipient")

    event_type, detail, kind, suppression_list = _meaning(word, data)
    moments = (fields.iso_moment(value) for value in (*map(get, _TIMES), element.get("eventTime")))
    occurred_at = next((moment for moment in moments if moment is not None), None)
    reason = fields.text(fields.section(data, "deliveryStatusDetails").get("statusMessage"), fields.REASON_LIMIT)
    reply = smtp.parse_reply(reason)
    if kind is BounceKind.SOFT and _refuses_us(reason, reply):
        kind = BounceKind.BLOCK  # "Failed" says only that it was given up
    provider_event = f"{word}/{detail}".rstrip("/")
    return DeliveryEvent(
        event_id=fields.identifier(element.get("id"))
        or fields.fingerprint(
            provider=_NAME,
            account=request.account,
            event=provider_event,
            message_id=message_id,
            recipient=recipient,
            time=occurred_at,
            detail=fields.text(get("engagementContext"), fields.URL_LIMIT) or reason or "",
        ),
        provider=_NAME,
        account=request.account,
        message_id=message_id,
        recipient=recipient,
        type=event_type,
        received_at=request.received_at,
        occurred_at=occurred_at,
        bounce_kind=kind,
        reason=reason,
        smtp_code=reply.smtp_code,
        enhanced_code=reply.enhanced_code,
        user_agent=fields.text(get("userAgent"), fields.USER_AGENT_LIMIT),
        suppression_list=suppression_list,
        provider_event=provider_event,
    )


def _meaning(word: str, data: Mapping[str, Any]) -> tuple[EventType, str, BounceKind | None, SuppressionList | None]:
    """Return what an event means, Azure's word for it, the kind of a bounce, and the suppression list of a drop."""
    if word == _ENGAGEMENT:
        detail = fields.text(data.get("engagementType")) or fields.text(data.get("engagement")) or ""
        return _ENGAGEMENTS.get(detail.lower(), EventType.UNKNOWN), detail, None, None
    if word != _REPORT:
        return EventType.UNKNOWN, "", None, None
    detail = fields.required(fields.text(data.get("status")), "no status")
    event_type, cause = _STATUSES.get(detail.lower(), (EventType.UNKNOWN, None))
    if isinstance(cause, BounceKind):
        return event_type, detail, cause, None
    return event_type, detail, None, cause


def _refuses_us(reason: str | None, reply: smtp.Reply) -> bool:
    answered = smtp.bounce_kind_of(reply.enhanced_code, reply.smtp_code, reason)
    return reasons.refuses_us(answered, reason, reply.smtp_code, reply.enhanced_code)


# --- proof ---


verify = proof.verify_sender
read_headers = proof.read_credentials
secret_fault = proof.credential_fault


# --- handshake ---

_EVENT_TYPE = "aeg-event-type"
_CODE_LIMIT = 512
"""Characters of a validation code; those of the documentation have 36."""


def consent(request: WebhookRequest) -> bytes | None:
    """Return the JSON that tells Event Grid that we want its events; ``None`` if the request is no handshake.

    It repeats the code of the request, so use it only for a request that ``verify`` has accepted.
    """
    if request.headers.get(_EVENT_TYPE, "").strip().lower() != "subscriptionvalidation":
        return None
    try:
        elements = fields.decode_body(request.body)
    except PoisonError:
        return None
    if not isinstance(elements, list) or len(elements) != 1 or not isinstance(elements[0], dict):
        return None  # "The array contains only the validation event."
    if elements[0].get("eventType") != _HANDSHAKE:
        return None
    code = fields.section(elements[0], "data").get("validationCode")
    if not isinstance(code, str) or not code or len(code) > _CODE_LIMIT:
        return None
    return codecs.encode({"validationResponse": code})


PROVIDER = Provider(
    name=_NAME,
    normalise=normalise,
    verify=verify,
    secret_fault=secret_fault,
    read_headers=read_headers,
    consent=consent,
    kept_headers=frozenset({_EVENT_TYPE, "aeg-delivery-count", "aeg-subscription-name"}),
    instead_of={401: 503, 403: 503},  # https://learn.microsoft.com/azure/event-grid/delivery-and-retry
)
