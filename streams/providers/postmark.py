"""Postmark: one JSON object a request.

https://postmarkapp.com/developer/webhooks/webhooks-overview, and a page for each: ``bounce-webhook``,
``delivery-webhook``, ``open-tracking-webhook``, ``click-webhook``, ``spam-complaint-webhook``,
``subscription-change-webhook``. The types of bounce: https://postmarkapp.com/developer/api/bounce-api#bounce-types

- Postmark does not report that it accepted a message: it sends no ``sent``.
- **Event id.** ``ID`` of a bounce or complaint (one sequence for both), else a fingerprint.
- A subscription change without a message (a manual suppression by the account, a reactivation: ``MessageID`` is null,
  as documented) is about no delivery and gives no event.

**Proof.** Postmark signs nothing; it sends a user and password in the URL, or headers of your choice, with each
request: https://postmarkapp.com/developer/webhooks/webhooks-overview#protecting-your-webhook and ``HttpAuth``,
``HttpHeaders`` in https://postmarkapp.com/developer/api/webhooks-api. A secret is such a credential: see ``_proof``.
"""

import re
from collections.abc import Mapping
from typing import Any

from streams.domain import smtp
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.providers import _fields as fields
from streams.providers import _proof as proof
from streams.providers._contract import PoisonError, Provider, WebhookRequest

_NAME = "postmark"

_RECORDS: dict[str, tuple[EventType, str]] = {  # what it means, and the field with its time
    "Delivery": (EventType.DELIVERED, "DeliveredAt"),  # accepted by the receiving server
    "Bounce": (EventType.BOUNCE, "BouncedAt"),  # an answer other than acceptance; ``Type`` says which
    "SpamComplaint": (EventType.COMPLAINT, "BouncedAt"),  # marked as spam
    "Open": (EventType.OPEN, "ReceivedAt"),  # the tracking image was loaded
    "Click": (EventType.CLICK, "ReceivedAt"),  # a tracked link was followed
    "SubscriptionChange": (EventType.OTHER, "ChangedAt"),  # the recipient went on or off the stream's suppression list
}

_UNKNOWN = (EventType.UNKNOWN, "")  # a type of record that Postmark adds later

_IMPLIED: tuple[tuple[str, str], ...] = (  # older forms, and some current samples, have no RecordType
    ("DeliveredAt", "Delivery"),
    ("BouncedAt", "Bounce"),
    ("ChangedAt", "SubscriptionChange"),
    ("ClickLocation", "Click"),
    ("FirstOpen", "Open"),
    ("FromFull", "Inbound"),
)

_NO_DELIVERY = frozenset({"Inbound"})  # mail that Postmark received for us; its webhook was pointed here by mistake

_BOUNCES: dict[str, tuple[EventType, BounceKind | SuppressionList | None]] = {
    "HardBounce": (EventType.BOUNCE, BounceKind.HARD),  # unknown user, mailbox not found
    "SoftBounce": (EventType.BOUNCE, BounceKind.SOFT),  # full, disabled, over quota; a HardBounce may follow
    "Blocked": (EventType.BOUNCE, BounceKind.BLOCK),  # the provider blocks for content or reputation
    "DMARCPolicy": (EventType.BOUNCE, BounceKind.BLOCK),  # refused by the From domain's DMARC policy
    "VirusNotification": (EventType.BOUNCE, BounceKind.BLOCK),  # the answer warns of a virus in the message
    "Transient": (EventType.DEFERRED, None),  # delayed, such as by network trouble
    "DnsError": (EventType.DEFERRED, None),  # a temporary DNS error
    "OpenRelayTest": (EventType.DEFERRED, None),  # the answer is a test for an open relay
    "BadEmailAddress": (EventType.DROPPED, SuppressionList.INVALID),  # not a valid address
    "ManuallyDeactivated": (EventType.DROPPED, None),  # the account took the address off; nobody unsubscribed
    "Unconfirmed": (EventType.DROPPED, None),  # registration not confirmed
    "SMTPApiError": (EventType.DROPPED, None),  # Postmark could not take the message over its SMTP API
    "TemplateRenderingFailed": (EventType.DROPPED, None),  # the template could not be filled
    "AutoResponder": (EventType.AUTO_REPLY, None),  # out of office, on vacation
    "AddressChange": (EventType.AUTO_REPLY, None),  # the recipient announces another address
    "ChallengeVerification": (EventType.AUTO_REPLY, None),  # asks the sender to prove that it is a person
    "SpamNotification": (EventType.COMPLAINT, None),  # delivered, but blocked by the user or classified as spam
    "SpamComplaint": (EventType.COMPLAINT, None),  # explicitly marked as spam
    "Unsubscribe": (EventType.UNSUBSCRIBE, None),  # asks to be removed
    "Subscribe": (EventType.OTHER, None),  # asks to be added
    "InboundError": (EventType.OTHER, None),  # about incoming mail
    "Unknown": (EventType.OTHER, None),  # Postmark could not classify the answer
}

_DMARC = "Bounce/DMARCPolicy"
_DNS = "Bounce/DnsError"

_SUPPRESSIONS: dict[str, tuple[EventType, BounceKind | None]] = {  # why the recipient went on the list
    "HardBounce": (EventType.BOUNCE, BounceKind.HARD),  # the message bounced; the Bounce webhook says so too
    "SpamComplaint": (EventType.COMPLAINT, None),  # broadcast streams report complaints only here
    "ManualSuppression": (EventType.UNSUBSCRIBE, None),  # the recipient unsubscribed
}


def normalise(request: WebhookRequest) -> list[DeliveryEvent]:
    """Return the event of one request.

    Raises:
        PoisonError: the body is no event, or lacks what identifies it.
    """
    record = fields.decode_object(request.body)
    try:
        event = _event(record, request)
    except fields.ElementError as error:
        raise PoisonError(str(error)) from None
    return [event] if event is not None else []


def _event(record: dict[str, Any], request: WebhookRequest) -> DeliveryEvent | None:
    get = record.get
    word = fields.text(get("RecordType")) or next((name for key, name in _IMPLIED if key in record), None)
    word = fields.required(word, "no RecordType")
    if word in _NO_DELIVERY or (word == "SubscriptionChange" and not get("MessageID")):
        return None
    message_id = fields.required(fields.identifier(get("MessageID")), "no MessageID")
    recipient = fields.required(
        fields.address(get("Recipient")) or fields.address(get("Email")), "no Recipient and no Email"
    )

    event_type, provider_event, kind, suppression_list = _meaning(word, record)
    details = fields.text(get("Details"), fields.REASON_LIMIT)
    reason = details or _described(fields.text(get("Description"), fields.REASON_LIMIT))
    reply = smtp.parse_reply(reason)
    explanation = reason
    if provider_event == _DMARC and "dmarc" not in (reason or "").lower():
        explanation = fields.led_by("DMARCPolicy", reason)  # else nobody says why
    elif provider_event == _DNS:
        explanation = fields.answer(reason, "DnsError", *reply)
    tags = fields.tags(get("Tag"))
    occurred_at = fields.iso_moment(get(_RECORDS.get(word, _UNKNOWN)[1]))
    given = get("ID")
    return DeliveryEvent(
        event_id=(fields.identifier(given) if given else None)  # an ID of 0 means none
        or fields.fingerprint(
            provider=_NAME,
            account=request.account,
            event=provider_event,
            message_id=message_id,
            recipient=recipient,
            time=occurred_at,
            detail=fields.text(get("OriginalLink"), fields.URL_LIMIT) or reason or "",
        ),
        provider=_NAME,
        account=request.account,
        message_id=message_id,
        recipient=recipient,
        type=event_type,
        received_at=request.received_at,
        occurred_at=occurred_at,
        reference=fields.reference(request.reference_keys, get("Metadata"), tags),
        bounce_kind=kind,
        reason=explanation,
        smtp_code=reply.smtp_code,
        enhanced_code=reply.enhanced_code,
        tags=tags,
        metadata=fields.metadata(get("Metadata")),
        user_agent=fields.text(get("UserAgent"), fields.USER_AGENT_LIMIT),
        suppression_list=suppression_list,
        provider_event=provider_event,
    )


def _described(description: str | None) -> str | None:
    """Return Postmark's fixed text for a type of bounce without its examples, of which nobody knows which holds.

    "Unable to temporarily deliver message (i.e. mailbox full, account disabled, ...)" says of no mailbox that it is full.
    """
    return None if description is None else _EXAMPLES.sub("", description)


_EXAMPLES = re.compile(r" ?\((?:i\.e\.|e\.g\.|ex:)[^)]{0,200}\)")


def _meaning(word: str, record: Mapping[str, Any]) -> tuple[EventType, str, BounceKind | None, SuppressionList | None]:
    """Return our type, Postmark's full word, the kind of a bounce, and the suppression list of a drop."""
    event_type, _ = _RECORDS.get(word, _UNKNOWN)
    if event_type is EventType.BOUNCE:
        bounce_type = fields.text(record.get("Type")) or ""
        event_type, cause = _BOUNCES.get(bounce_type, (EventType.UNKNOWN, None))
        word = f"{word}/{bounce_type}".rstrip("/")
        return (event_type, word, cause, None) if isinstance(cause, BounceKind) else (event_type, word, None, cause)
    if word == "SubscriptionChange" and record.get("SuppressSending") is True:
        why = fields.text(record.get("SuppressionReason")) or ""
        event_type, kind = _SUPPRESSIONS.get(why, (EventType.UNKNOWN, None))
        return event_type, f"{word}/{why}".rstrip("/"), kind, None
    return event_type, word, None, None


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
    # https://postmarkapp.com/support/article/understanding-inbound-webhook-retries-in-postmark
    instead_of={403: 401},
)
