"""What happens, in each provider's own documented form: one function a provider, from a happening to a value for JSON.

The forms are those of the providers' documentation, whose pages are named in
``streams/providers/<provider>.py``; addresses and hosts are under ``.example``
(RFC 2606) and IP addresses are those reserved for documentation (RFC 5737).
A repetition is the same value again, because that is what providers send.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from streams.domain.events import BounceKind, EventType, Send, SuppressionList
from streams.simulate.story import BATCHING, Happening, Plot

REGION: Final = "eu-west-1"
TOPIC_ARN: Final = f"arn:aws:sns:{REGION}:123456789012:mailstreams-simulated"
"""The SNS topic that simulated SES notifications come from."""

_SENDER: Final = "billing@sender.example"
_READER: Final = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
_PROXY: Final = "Mozilla/5.0"
_CODES: Final = re.compile(r"(?:([245]\d\d)[ -])?([245]\.\d{1,3}\.\d{1,3})?")

Payload = Any
"""A value for JSON."""


def payload(provider: str, happenings: Sequence[Happening]) -> Payload:
    """Return what one webhook request of a provider holds.

    Raises:
        ValueError: there are several happenings, but the provider sends one event a request.
    """
    values = [SHAPES[provider](happening) for happening in happenings]
    if provider in BATCHING:
        return values
    (value,) = values
    return value


def send(happening: Happening) -> Send:
    """Return what the application reports when it has handed the message to the provider."""
    message = happening.message
    return Send(
        account=message.account,
        provider=message.provider,
        message_id=MESSAGE_IDS[message.provider](message.token),
        recipient=message.recipient,
        reference=message.reference,
        sent_at=happening.occurred_at,
    )


# --- SendGrid ---


def _sendgrid(happening: Happening) -> Payload:
    message = happening.message
    own_id = _sendgrid_id(message.token)
    word = _SENDGRID_WORDS[happening.type]
    element: dict[str, Any] = {
        "email": message.recipient,
        "timestamp": int(happening.occurred_at.timestamp()),
        "smtp-id": f"<{own_id}@geopod-ismtpd-1-0>",
        "event": word,
        "category": ["invoices"],
        "sg_event_id": f"{word}-{happening.event_key}",
        "sg_message_id": f"{own_id}.filterdrecv-p3iad2-5b55dcd864-pbk2w-17-{message.token[:8].upper()}-10E.0",
        "invoice": message.reference,
    }
    return element | _sendgrid_facts(happening)


def _sendgrid_facts(happening: Happening) -> dict[str, Any]:  # noqa: PLR0911 - one return for each word
    link = f"https://pay.sender.example/{happening.message.reference}"
    _, status = _codes(happening.answer)
    match happening.type:
        case EventType.DEFERRED:
            return {"response": happening.answer, "attempt": str(happening.attempt), "tls": 1}
        case EventType.DELIVERED:
            return {"response": happening.answer, "ip": "192.0.2.10", "tls": 1}
        case EventType.BOUNCE if happening.plot is Plot.DEFERRED_BOUNCED:
            return {"reason": "unable to get a response within 72 hours", "status": "4.0.0", "type": "expired"}
        case EventType.BOUNCE:
            kind, classification = _SENDGRID_BOUNCES[happening.bounce_kind]
            facts = {"reason": happening.answer, "status": status, "type": kind, "ip": "192.0.2.10", "tls": 1}
            return facts | {"bounce_classification": classification}
        case EventType.DROPPED:
            return {"reason": _SENDGRID_DROPS[happening.suppression_list], "status": "5.0.0"}
        case EventType.OPEN:
            return {"useragent": _READER, "ip": "198.51.100.7", "sg_machine_open": False, "sg_content_type": "html"}
        case EventType.MACHINE_OPEN:
            return {"useragent": _PROXY, "ip": "198.51.100.8", "sg_machine_open": True, "sg_content_type": "html"}
        case EventType.CLICK:
            return {
                "useragent": _READER,
                "ip": "198.51.100.7",
                "url": link,
                "url_offset": {"index": 0, "type": "html"},
            }
        case _:
            return {}


_SENDGRID_WORDS: Final[Mapping[EventType, str]] = {
    EventType.SENT: "processed",
    EventType.DEFERRED: "deferred",
    EventType.DELIVERED: "delivered",
    EventType.BOUNCE: "bounce",
    EventType.DROPPED: "dropped",
    EventType.OPEN: "open",
    EventType.MACHINE_OPEN: "open",
    EventType.CLICK: "click",
    EventType.COMPLAINT: "spamreport",
    EventType.UNSUBSCRIBE: "unsubscribe",
}
_SENDGRID_BOUNCES: Final[Mapping[BounceKind | None, tuple[str, str]]] = {
    BounceKind.HARD: ("bounce", "Invalid Address"),
    BounceKind.SOFT: ("blocked", "Mailbox Unavailable"),
    BounceKind.BLOCK: ("blocked", "Reputation"),
}
_SENDGRID_DROPS: Final[Mapping[SuppressionList | None, str]] = {
    SuppressionList.BOUNCE: "Bounced Address",
    SuppressionList.SPAM: "Spam Reporting Address",
    SuppressionList.UNSUBSCRIBE: "Unsubscribed Address",
    SuppressionList.INVALID: "Invalid",
}


def _sendgrid_id(token: str) -> str:
    return token[:22]


# --- Amazon SES ---


def _amazon_ses(happening: Happening) -> Payload:
    """Return the bare event record; ``signing`` puts it into the envelope of its transport."""
    message = happening.message
    message_id = _amazon_ses_id(message.token)
    word, section = _SES_WORDS[happening.type]
    return {
        "eventType": word,
        "mail": {
            "timestamp": _iso(message.sent_at),
            "source": f"Billing <{_SENDER}>",
            "sourceArn": f"arn:aws:ses:{REGION}:123456789012:identity/sender.example",
            "sendingAccountId": "123456789012",
            "messageId": message_id,
            "destination": [message.recipient],
            "headersTruncated": False,
            "headers": [
                {"name": "From", "value": f"Billing <{_SENDER}>"},
                {"name": "To", "value": message.recipient},
                {"name": "Subject", "value": f"Invoice {message.reference}"},
            ],
            "commonHeaders": {
                "from": [f"Billing <{_SENDER}>"],
                "to": [message.recipient],
                "messageId": message_id,
                "subject": f"Invoice {message.reference}",
            },
            "tags": {"ses:configuration-set": ["invoices"], "invoice": [message.reference]},
        },
        section: _ses_facts(happening),
    }


def _ses_facts(happening: Happening) -> dict[str, Any]:  # noqa: PLR0911 - one return for each word
    recipient = happening.message.recipient
    _, status = _codes(happening.answer)
    at = {"timestamp": _iso(happening.occurred_at)}
    feedback = {"feedbackId": f"0107019a{happening.event_key}-000000"}
    match happening.type:
        case EventType.DEFERRED:
            delayed = {"emailAddress": recipient, "status": status, "diagnosticCode": f"smtp; {happening.answer}"}
            until = {} if happening.gives_up_at is None else {"expirationTime": _iso(happening.gives_up_at)}
            return at | {"delayType": "TransientCommunicationFailure", "delayedRecipients": [delayed]} | until
        case EventType.DELIVERED:
            took = round((happening.occurred_at - happening.message.sent_at) / timedelta(milliseconds=1))
            facts = {"processingTimeMillis": took, "recipients": [recipient], "smtpResponse": happening.answer}
            return at | facts | {"reportingMTA": "a7-12.smtp-out.eu-west-1.amazonses.com"}
        case EventType.BOUNCE | EventType.DROPPED | EventType.BOUNCE_OR_AUTO_REPLY:
            kind, subtype, answer = _ses_bounce(happening)
            bounced = {"emailAddress": recipient}
            if answer:
                bounced |= {"action": "failed", "status": _codes(answer)[1] or "5.0.0"}
                bounced |= {"diagnosticCode": f"smtp; {answer}"}
            facts = {"bounceType": kind, "bounceSubType": subtype, "bouncedRecipients": [bounced]}
            return facts | at | feedback | {"reportingMTA": "dsn; mta.customer.example"}
        case EventType.COMPLAINT:
            facts = {"complainedRecipients": [{"emailAddress": recipient}], "complaintFeedbackType": "abuse"}
            return facts | at | feedback | {"userAgent": "Feedback Loop (V0.01)", "complaintSubType": None}
        case EventType.OPEN:
            return at | {"ipAddress": "198.51.100.7", "userAgent": _READER}
        case EventType.CLICK:
            link = f"https://pay.sender.example/{happening.message.reference}"
            return at | {"ipAddress": "198.51.100.7", "userAgent": _READER, "link": link, "linkTags": None}
        case EventType.UNSUBSCRIBE:
            preferences = {"topicSubscriptionStatus": [{"topicName": "invoices", "subscriptionStatus": "OptIn"}]}
            return at | {
                "contactList": "customers",
                "source": "UnsubscribeHeader",
                "newTopicPreferences": {"unsubscribeAll": True} | preferences,
                "oldTopicPreferences": {"unsubscribeAll": False} | preferences,
            }
        case _:
            return {}  # "send" holds nothing beside "mail"


def _ses_bounce(happening: Happening) -> tuple[str, str, str]:
    """Return bounceType, bounceSubType and the answer that is quoted."""
    if happening.type is EventType.DROPPED:
        because = "Amazon SES did not send the message to this address because it is on the suppression list"
        return "Permanent", "OnAccountSuppressionList", f"550 5.1.1 {because} for your account"
    if happening.type is EventType.BOUNCE_OR_AUTO_REPLY:
        return "Transient", "General", ""
    if happening.bounce_kind is BounceKind.HARD:
        return "Permanent", "General", happening.answer
    if happening.plot is Plot.DEFERRED_BOUNCED:
        return "Transient", "CustomTimeoutExceeded", happening.answer
    return "Transient", "MailboxFull", happening.answer


_SES_WORDS: Final[Mapping[EventType, tuple[str, str]]] = {  # the word, and the section that describes it
    EventType.SENT: ("Send", "send"),
    EventType.DEFERRED: ("DeliveryDelay", "deliveryDelay"),
    EventType.DELIVERED: ("Delivery", "delivery"),
    EventType.BOUNCE: ("Bounce", "bounce"),
    EventType.DROPPED: ("Bounce", "bounce"),
    EventType.BOUNCE_OR_AUTO_REPLY: ("Bounce", "bounce"),
    EventType.COMPLAINT: ("Complaint", "complaint"),
    EventType.OPEN: ("Open", "open"),
    EventType.CLICK: ("Click", "click"),
    EventType.UNSUBSCRIBE: ("Subscription", "subscription"),
}


def _amazon_ses_id(token: str) -> str:
    return f"0107019a{token[:8]}-{_uuid(token)}-000000"


# --- Mailgun ---


def _mailgun(happening: Happening) -> Payload:
    """Return the request without its signature, which ``signing`` puts beside the event."""
    message = happening.message
    own_id = _mailgun_id(message.token)
    data: dict[str, Any] = {
        "id": f"{happening.number:02d}{message.token[:20]}",
        "timestamp": round(happening.occurred_at.timestamp(), 6),
        "log-level": _MAILGUN_LEVELS.get(happening.type, "info"),
        "event": _MAILGUN_WORDS[happening.type],
        "account": {"id": "1234567890303a4bd1f33898"},
        "domain": {"name": "mg.sender.example"},
        "message": {
            "headers": {
                "from": f"Billing <{_SENDER}>",
                "message-id": own_id,
                "subject": f"Invoice {message.reference}",
                "to": message.recipient,
            },
            "attachments": [{"filename": "invoice.pdf", "content-type": "application/pdf", "size": 48_231}],
            "size": 52_417,
        },
        "envelope": {"sender": _SENDER, "transport": "smtp", "targets": message.recipient},
        "recipient": message.recipient,
        "recipient-domain": message.recipient.rpartition("@")[2],
        "flags": {"is-test-mode": False, "is-authenticated": True, "is-routed": False, "is-system-test": False},
        "tags": ["invoices"],
        "campaigns": [],
        "user-variables": {"invoice": message.reference},
    }
    return {"event-data": data | _mailgun_facts(happening)}


def _mailgun_facts(happening: Happening) -> dict[str, Any]:  # noqa: C901, PLR0911 - one return for each word
    code, enhanced = _codes(happening.answer)
    text = happening.answer.removeprefix(f"{code} ")
    status: dict[str, Any] = {
        "attempt-no": happening.attempt,
        "code": int(code or 250),
        "message": text,
        "description": "",
        "tls": True,
        "mx-host": f"mx.{happening.message.recipient.rpartition('@')[2]}",
        "session-seconds": 0.412,
        "enhanced-code": enhanced,
        "certificate-verified": True,
        "utf8": True,
    }
    client = {"client-type": "email client", "client-os": "OS X", "device-type": "desktop"}
    reader = client | {"client-name": "Apple Mail", "user-agent": _READER, "bot": ""}
    seen = {"ip": "198.51.100.7", "geolocation": {"country": "US", "region": "CA", "city": "San Francisco"}}
    match happening.type:
        case EventType.SENT:
            return {"method": "HTTP"}
        case EventType.DELIVERED:
            return {"delivery-status": status}
        case EventType.DEFERRED:
            status |= {"retry-seconds": 600, "bounce-type": "soft"}
            reason = "greylisted" if "Greylist" in happening.answer else "generic"
            return {"severity": "temporary", "reason": reason, "delivery-status": status}
        case EventType.BOUNCE if happening.plot is Plot.DEFERRED_BOUNCED:
            status |= {"code": 602, "message": "Too old", "enhanced-code": ""}
            return {"severity": "permanent", "reason": "old", "delivery-status": status}
        case EventType.BOUNCE:
            hard, block = happening.bounce_kind is BounceKind.HARD, happening.bounce_kind is BounceKind.BLOCK
            status |= {"bounce-type": "hard" if hard else "soft"}
            reason = "espblock" if block else "bounce"
            return {"severity": "permanent", "reason": reason, "delivery-status": status}
        case EventType.DROPPED:
            reason, code_of_list, words = _MAILGUN_LISTS[happening.suppression_list]
            status |= {"code": code_of_list, "message": "", "description": words, "enhanced-code": ""}
            return {"severity": "permanent", "reason": reason, "delivery-status": status}
        case EventType.OPEN:
            return seen | {"client-info": reader}
        case EventType.MACHINE_OPEN:
            proxy = client | {"client-name": "unknown", "user-agent": _PROXY, "bot": "apple"}
            return {"ip": "198.51.100.8", "client-info": proxy}
        case EventType.CLICK:
            link = f"https://pay.sender.example/{happening.message.reference}"
            return seen | {"url": link, "client-info": reader}
        case EventType.UNSUBSCRIBE:
            return seen | {"client-info": reader}
        case _:
            return {}


_MAILGUN_WORDS: Final[Mapping[EventType, str]] = {
    EventType.SENT: "accepted",
    EventType.DEFERRED: "failed",
    EventType.DELIVERED: "delivered",
    EventType.BOUNCE: "failed",
    EventType.DROPPED: "failed",
    EventType.OPEN: "opened",
    EventType.MACHINE_OPEN: "opened",
    EventType.CLICK: "clicked",
    EventType.COMPLAINT: "complained",
    EventType.UNSUBSCRIBE: "unsubscribed",
}
_MAILGUN_LEVELS: Final[Mapping[EventType, str]] = {
    EventType.DEFERRED: "warn",
    EventType.BOUNCE: "error",
    EventType.DROPPED: "error",
    EventType.COMPLAINT: "warn",
}
_MAILGUN_LISTS: Final[Mapping[SuppressionList | None, tuple[str, int, str]]] = {
    SuppressionList.BOUNCE: ("suppress-bounce", 605, "Not delivering to previously bounced address"),
    SuppressionList.UNSUBSCRIBE: (
        "suppress-unsubscribe",
        606,
        "Not delivering to a user who has unsubscribed from your messages",
    ),
    SuppressionList.SPAM: (
        "suppress-complaint",
        607,
        "Not delivering to a user who marked your messages as spam",
    ),
}


def _mailgun_id(token: str) -> str:
    return f"{token[:14]}.{token[14:]}@mg.sender.example"


# --- Postmark ---


def _postmark(happening: Happening) -> Payload:
    message = happening.message
    record: dict[str, Any] = {
        "RecordType": "Bounce",
        "MessageStream": "outbound",
        "ServerID": 123456,
        "MessageID": _uuid(message.token),
        "Tag": "invoices",
        "Metadata": {"invoice": message.reference},
    }
    at = f"{happening.occurred_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}0Z"  # seven digits
    found = {
        "Client": {"Name": "Apple Mail", "Company": "Apple", "Family": "Apple Mail"},
        "OS": {"Name": "OS X 10.15", "Company": "Apple", "Family": "OS X"},
        "Platform": "Desktop",
        "UserAgent": _READER,
        "Geo": {"CountryISOCode": "RS", "Country": "Serbia", "City": "Novi Sad", "IP": "198.51.100.7"},
        "ReceivedAt": at,
        "Recipient": message.recipient,
    }
    match happening.type:
        case EventType.DELIVERED:
            details = f"smtp;{happening.answer}"
            return record | {
                "RecordType": "Delivery",
                "Recipient": message.recipient,
                "DeliveredAt": at,
                "Details": details,
            }
        case EventType.OPEN:
            return record | found | {"RecordType": "Open", "FirstOpen": happening.number == _FIRST_OPEN}
        case EventType.CLICK:
            link = f"https://pay.sender.example/{message.reference}"
            return record | found | {"RecordType": "Click", "ClickLocation": "HTML", "OriginalLink": link}
        case EventType.UNSUBSCRIBE:
            return record | {
                "RecordType": "SubscriptionChange",
                "ChangedAt": at,
                "Recipient": message.recipient,
                "Origin": "Recipient",
                "SuppressSending": True,
                "SuppressionReason": "ManualSuppression",
            }
        case _:
            return record | _postmark_bounce(happening, at)


_FIRST_OPEN = 2  # after sent and delivered


def _postmark_bounce(happening: Happening, at: str) -> dict[str, Any]:
    kind, code, name, inactive = _POSTMARK_BOUNCES[happening.type, happening.bounce_kind or happening.suppression_list]
    facts: dict[str, Any] = {
        # One sequence of numbers for all bounces of a server.
        "ID": int(happening.message.token[:12], 16) * 100 + happening.number,
        "Type": kind,
        "TypeCode": code,
        "Name": name,
        "Description": f"{name}.",
        "Details": f"smtp;{happening.answer}" if happening.answer else "",
        "Email": happening.message.recipient,
        "From": _SENDER,
        "BouncedAt": at,
        "DumpAvailable": True,
        "Inactive": inactive,
        "CanActivate": kind != "SpamComplaint",
        "Subject": f"Invoice {happening.message.reference}",
        "Content": "",
    }
    return facts | {"RecordType": "SpamComplaint"} if kind == "SpamComplaint" else facts


_POSTMARK_BOUNCES: Final[
    Mapping[tuple[EventType, BounceKind | SuppressionList | None], tuple[str, int, str, bool]]
] = {  # Type, TypeCode, Name, whether Postmark stops sending there
    (EventType.DEFERRED, None): ("Transient", 2, "Message delayed", False),
    (EventType.BOUNCE, BounceKind.HARD): ("HardBounce", 1, "Hard bounce", True),
    (EventType.BOUNCE, BounceKind.SOFT): ("SoftBounce", 4096, "Soft bounce", False),
    (EventType.BOUNCE, BounceKind.BLOCK): ("Blocked", 100006, "ISP block", False),
    (EventType.DROPPED, SuppressionList.INVALID): ("BadEmailAddress", 100000, "Invalid email address", True),
    (EventType.DROPPED, None): (
        "ManuallyDeactivated",
        100002,
        "Manually deactivated",
        True,
    ),
    (EventType.AUTO_REPLY, None): ("AutoResponder", 64, "Auto responder", False),
    (EventType.COMPLAINT, None): ("SpamComplaint", 512, "Spam complaint", True),
}


# --- Azure Communication Services ---

_AZURE_TOPIC: Final = (
    "/subscriptions/00000000-0000-4000-8000-123456789012/resourcegroups/mail/providers/microsoft.communication"
    "/communicationservices/mailstreams-simulated"
)


def _azure_communication(happening: Happening) -> Payload:
    """Return Event Grid's array with its one event."""
    message = happening.message
    message_id = _uuid(message.token)
    moment = happening.occurred_at.astimezone(UTC)
    data: dict[str, Any] = {"sender": _SENDER, "recipient": message.recipient, "messageId": message_id}
    at = f"{moment:%Y-%m-%dT%H:%M:%S.%f}0+00:00"  # seven digits
    engagement = _AZURE_ENGAGEMENTS.get(happening.type)
    if engagement is not None:
        link = f"https://pay.sender.example/{message.reference}"
        data |= {
            "userActionTimeStamp": at,
            "engagementContext": link if happening.type is EventType.CLICK else "",
            "userAgent": _READER,
            "engagementType": engagement,
        }
    else:
        data |= {
            "status": _AZURE_STATUSES[happening.type, happening.bounce_kind],
            "deliveryStatusDetails": {"statusMessage": happening.answer},
            "deliveryAttemptTimeStamp": at,
        }
    return [
        {
            # The first digits identify the message, the last ones count its happenings.
            "id": _uuid(f"{message.token[:28]}{happening.number:04x}"),
            "topic": _AZURE_TOPIC,
            "subject": f"sender/{_SENDER}/message/{message_id}",
            "data": data,
            "eventType": "Microsoft.Communication.Email"
            + ("DeliveryReportReceived" if engagement is None else "EngagementTrackingReportReceived"),
            "dataVersion": "1.0",
            "metadataVersion": "1",
            "eventTime": _iso(moment),
        }
    ]


_AZURE_STATUSES: Final[Mapping[tuple[EventType, BounceKind | None], str]] = {
    (EventType.DELIVERED, None): "Delivered",
    (EventType.BOUNCE, BounceKind.HARD): "Bounced",
    (EventType.BOUNCE, BounceKind.SOFT): "Failed",
    (EventType.BOUNCE, BounceKind.BLOCK): "FilteredSpam",
    (EventType.DROPPED, None): "Suppressed",
}
_AZURE_ENGAGEMENTS: Final[Mapping[EventType, str]] = {EventType.OPEN: "view", EventType.CLICK: "click"}


# --- Brevo ---


def _brevo(happening: Happening) -> Payload:
    message = happening.message
    at = happening.occurred_at.timestamp()
    event: dict[str, Any] = {
        "event": _brevo_word(happening),
        "email": message.recipient,
        "id": 731904,  # the webhook's
        "date": f"{happening.occurred_at.astimezone(_PARIS):%Y-%m-%d %H:%M:%S}",
        "ts": int(at),
        "message-id": f"<{_brevo_id(message.token)}>",
        "ts_event": int(at),
        "ts_epoch": int(at * 1_000),
        "subject": f"Invoice {message.reference}",
        "X-Mailin-custom": f"invoice:{message.reference}",
        "template_id": 22,
        "tags": ["invoices"],
    }
    match happening.type:
        case EventType.OPEN | EventType.UNSUBSCRIBE:
            return event | {"user_agent": _READER, "device_used": "DESKTOP"}
        case EventType.MACHINE_OPEN:
            return event | {"user_agent": _PROXY, "device_used": "UNKNOWN"}
        case EventType.CLICK:
            link = f"https://pay.sender.example/{message.reference}"
            return event | {"user_agent": _READER, "device_used": "DESKTOP", "link": link}
        case EventType.DEFERRED | EventType.BOUNCE:
            return event | {"sending_ip": "192.0.2.10", "reason": happening.answer}
        case EventType.DROPPED if happening.suppression_list is None:
            return event | {"reason": "blocked : due to blacklist user"}
        case _:
            return event | {"sending_ip": "192.0.2.10"}


_PARIS: Final = timezone(timedelta(hours=1))


def _brevo_word(happening: Happening) -> str:
    if happening.type is EventType.BOUNCE:
        return "hard_bounce" if happening.bounce_kind is BounceKind.HARD else "soft_bounce"
    if happening.type is EventType.DROPPED:
        return "blocked" if happening.suppression_list is None else "invalid_email"
    if happening.type is EventType.OPEN and happening.number == _FIRST_OPEN:
        return "unique_opened"
    return _BREVO_WORDS[happening.type]


_BREVO_WORDS: Final[Mapping[EventType, str]] = {
    EventType.SENT: "request",
    EventType.DEFERRED: "deferred",
    EventType.DELIVERED: "delivered",
    EventType.OPEN: "opened",
    EventType.MACHINE_OPEN: "unique_proxy_open",
    EventType.CLICK: "click",
    EventType.COMPLAINT: "spam",
    EventType.UNSUBSCRIBE: "unsubscribed",
}


def _brevo_id(token: str) -> str:
    return f"{token[:12]}.{token[12:]}@smtp-relay.sender.example"


# --- Mailjet ---


def _mailjet(happening: Happening) -> Payload:
    message = happening.message
    return {
        "event": _MAILJET_WORDS[happening.type],
        "time": int(happening.occurred_at.timestamp()),
        "MessageID": int(_mailjet_id(message.token)),
        "Message_GUID": _uuid(message.token),
        "email": message.recipient,
        "mj_campaign_id": 0,
        "mj_contact_id": int(message.token[:8], 16),
        "customcampaign": "",
        "CustomID": message.reference,
        "Payload": "",
    } | _mailjet_facts(happening)


def _mailjet_facts(happening: Happening) -> dict[str, Any]:  # noqa: PLR0911 - one return for each word
    seen = {"ip": "198.51.100.7", "geo": "FR", "agent": _READER}
    match happening.type:
        case EventType.DELIVERED:
            own_id = _mailjet_id(happening.message.token)
            return {"mj_message_id": own_id, "smtp_reply": f"sent ({happening.answer})"}
        case EventType.DEFERRED | EventType.BOUNCE:
            hard = happening.bounce_kind is BounceKind.HARD
            late = happening.plot is Plot.DEFERRED_BOUNCED and happening.type is EventType.BOUNCE
            related, error = ("system", "connection issue") if late else _MAILJET_BOUNCES[happening.bounce_kind]
            facts = {"blocked": hard, "hard_bounce": hard, "error_related_to": related, "error": error}
            return facts | {"comment": happening.answer}
        case EventType.DROPPED:
            related, error = _MAILJET_DROPS[happening.suppression_list]
            return {"error_related_to": related, "error": error}
        case EventType.OPEN:
            return seen
        case EventType.CLICK:
            return seen | {"url": f"https://pay.sender.example/{happening.message.reference}"}
        case EventType.UNSUBSCRIBE:
            return seen | {"mj_list_id": 1}
        case _:
            return {"source": "JMRPP"}


_MAILJET_WORDS: Final[Mapping[EventType, str]] = {
    EventType.DELIVERED: "sent",
    EventType.DEFERRED: "bounce",
    EventType.BOUNCE: "bounce",
    EventType.DROPPED: "blocked",
    EventType.OPEN: "open",
    EventType.CLICK: "click",
    EventType.COMPLAINT: "spam",
    EventType.UNSUBSCRIBE: "unsub",
}
_MAILJET_BOUNCES: Final[Mapping[BounceKind | None, tuple[str, str]]] = {  # error_related_to, error
    None: ("domain", "greylisted"),
    BounceKind.HARD: ("recipient", "user unknown"),
    BounceKind.SOFT: ("recipient", "quota exceeded"),
    BounceKind.BLOCK: ("spam", "sender blocked"),
}
_MAILJET_DROPS: Final[Mapping[SuppressionList | None, tuple[str, str]]] = {
    SuppressionList.BOUNCE: ("mailjet", "preblocked"),
    SuppressionList.SPAM: ("recipient", "spam reporter"),
    SuppressionList.INVALID: ("domain", "typofix"),
    None: ("mailjet", "duplicate in campaign"),
}


def _mailjet_id(token: str) -> str:
    return str(2**60 + int(token[:15], 16))  # beyond what a float holds, as Mailjet's are


# --- Resend ---


def _resend(happening: Happening) -> Payload:
    message = happening.message
    made_at = message.sent_at.astimezone(UTC)
    data: dict[str, Any] = {
        "created_at": f"{made_at:%Y-%m-%dT%H:%M:%S.%f}+00:00",
        "email_id": _uuid(message.token),
        "message_id": f"<{message.token}@sender.example>",
        "from": f"Billing <{_SENDER}>",
        "to": [message.recipient],
        "subject": f"Invoice {message.reference}",
        "tags": {"invoice": message.reference, "category": "invoices"},
    }
    return {
        "type": f"email.{_RESEND_WORDS[happening.type]}",
        "created_at": _iso(happening.occurred_at),
        "data": data | _resend_facts(happening),
    }


def _resend_facts(happening: Happening) -> dict[str, Any]:
    match happening.type:
        case EventType.BOUNCE | EventType.BOUNCE_OR_AUTO_REPLY:
            kind, subtype = _RESEND_BOUNCES[happening.bounce_kind]
            if happening.plot is Plot.MAILBOX_FULL:
                subtype = "MailboxFull"
            answer = {"diagnosticCode": [f"smtp; {happening.answer}"]} if happening.answer else {}
            words = "The recipient's email provider sent a bounce message."
            return {"bounce": {"message": words, "subType": subtype, "type": kind} | answer}
        case EventType.DROPPED:
            words = "Resend has suppressed sending to this address because it is on the account-level suppression list."
            return {"suppressed": {"message": words, "type": "OnAccountSuppressionList"}}
        case EventType.CLICK:
            return {
                "click": {
                    "ipAddress": "198.51.100.7",
                    "link": f"https://pay.sender.example/{happening.message.reference}",
                    "timestamp": _iso(happening.occurred_at),
                    "userAgent": _READER,
                }
            }
        case _:
            return {}


_RESEND_WORDS: Final[Mapping[EventType, str]] = {
    EventType.SENT: "sent",
    EventType.DEFERRED: "delivery_delayed",
    EventType.DELIVERED: "delivered",
    EventType.BOUNCE: "bounced",
    EventType.BOUNCE_OR_AUTO_REPLY: "bounced",
    EventType.DROPPED: "suppressed",
    EventType.OPEN: "opened",
    EventType.CLICK: "clicked",
    EventType.COMPLAINT: "complained",
}
_RESEND_BOUNCES: Final[Mapping[BounceKind | None, tuple[str, str]]] = {  # type and subtype, as from Amazon SES
    BounceKind.HARD: ("Permanent", "General"),
    BounceKind.BLOCK: ("Permanent", "General"),  # it has no word of its own: the answer says it
    BounceKind.SOFT: ("Transient", "General"),
    None: ("Transient", "General"),  # a bounce or an automatic reply
}


# --- shared ---


def _codes(answer: str) -> tuple[str, str]:
    """Return the reply code and the enhanced code at the beginning of an answer; empty if there is none."""
    found = _CODES.match(answer)
    return (found[1] or "", found[2] or "") if found is not None else ("", "")


def _iso(moment: datetime) -> str:
    """Return a time as Amazon writes it: milliseconds and Z."""
    return f"{moment.astimezone(UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def _uuid(token: str) -> str:
    return f"{token[:8]}-{token[8:12]}-{token[12:16]}-{token[16:20]}-{token[20:32]}"


SHAPES: Final[Mapping[str, Callable[[Happening], Payload]]] = {
    "sendgrid": _sendgrid,
    "amazon_ses": _amazon_ses,
    "mailgun": _mailgun,
    "postmark": _postmark,
    "azure_communication": _azure_communication,
    "brevo": _brevo,
    "mailjet": _mailjet,
    "resend": _resend,
}
"""Provider -> its event for a happening that it reports."""

MESSAGE_IDS: Final[Mapping[str, Callable[[str], str]]] = {
    "sendgrid": _sendgrid_id,
    "amazon_ses": _amazon_ses_id,
    "mailgun": _mailgun_id,
    "postmark": _uuid,
    "azure_communication": _uuid,
    "brevo": _brevo_id,
    "mailjet": _mailjet_id,
    "resend": _uuid,
}
"""Provider -> the id that its API would have answered with, from a message's token."""
