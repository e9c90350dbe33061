"""Amazon SES: event publishing and feedback notifications, by any of the ways that can deliver them.

- event publishing (``eventType``):
  https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
- feedback notifications (``notificationType``): https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html

**Ways.** An SNS notification (the record is a JSON *string* in ``Message``), SNS raw message delivery (the bare
record), EventBridge (the record is ``detail``), Firehose (bare records, a newline after each), Firehose's HTTP
endpoint (such lines in base64 under ``records[].data``), and one way wrapped in another.
https://docs.aws.amazon.com/ses/latest/dg/monitoring-eventbridge.html
https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-firehose-contents.html
https://docs.aws.amazon.com/firehose/latest/dev/httpdeliveryrequestresponse.html

**One record names several recipients**; each becomes an event.

**Event ids.** One occurrence often arrives by two ways (an identity's feedback topic and a configuration set), each
with an envelope id of its own. So the envelope's id is not used: a bounce or complaint is identified by its
``feedbackId`` and the recipient, everything else by the fingerprint of the record.

**Opens and clicks** do not say which of several recipients it was. With more than one, they are kept in the timeline
(``OTHER``) and change no status.

**Proof.** SNS signs its messages (``_sns``): a secret is the ARN of a topic that we accept. EventBridge's API
destinations, Firehose's HTTP endpoint and raw message delivery sign nothing and send a credential (``_proof``):
``header:x-amz-firehose-access-key:VALUE`` for Firehose, the connection's API key or basic authentication for
EventBridge, a user and password in the subscription's URL for raw message delivery.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from streams import codecs
from streams.domain import reasons, smtp
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.providers import _fields as fields
from streams.providers import _proof as proof
from streams.providers import _sns as sns
from streams.providers._contract import (
    Handshake,
    PoisonError,
    Provider,
    Refusal,
    Verification,
    VerificationError,
    WebhookRequest,
    bare_message_id,
)

_NAME = "amazon_ses"
_MOST_RECIPIENTS = 1_000
"""Most recipients of one record; SES itself takes 50 a message. The bound keeps a record from multiplying its size."""


class _Word(NamedTuple):
    """What one event word means and where its record holds the facts."""

    type: EventType
    section: str
    """The key of the object that describes the event."""
    recipients: str = ""
    """The key of the recipients in it; empty: all of ``mail.destination``."""
    reason: str = ""
    """The key of the explanation in it."""


_EVENTS: dict[str, _Word] = {
    "Send": _Word(EventType.SENT, "send"),  # accepted; counted even if a suppression list will stop it
    # accepted by the receiving server
    "Delivery": _Word(EventType.DELIVERED, "delivery", "recipients", "smtpResponse"),
    # a temporary issue; retried
    "DeliveryDelay": _Word(EventType.DEFERRED, "deliveryDelay", "delayedRecipients", "delayType"),
    "Bounce": _Word(EventType.BOUNCE, "bounce", "bouncedRecipients"),  # permanently rejected, or given up
    # marked as spam
    "Complaint": _Word(EventType.COMPLAINT, "complaint", "complainedRecipients", "complaintFeedbackType"),
    "Reject": _Word(EventType.DROPPED, "reject", reason="reason"),  # SES found a virus and did not send
    "Rendering Failure": _Word(EventType.DROPPED, "failure", reason="errorMessage"),  # the template could not be filled
    "Open": _Word(EventType.OPEN, "open"),  # the tracking image was loaded
    "Click": _Word(EventType.CLICK, "click"),  # a tracked link was followed
    "Subscription": _Word(EventType.OTHER, "subscription"),  # preferences changed; unsubscribing is distinguished below
}

_NO_DELIVERY = frozenset(
    {
        "Received",  # mail that SES received for us
        "AmazonSnsSubscriptionSucceeded",  # an identity's feedback topic was set up
    }
)

_VALIDATION = "Successfully validated SNS topic"  # plain text that SES sends when a topic is chosen
_SNS_HANDSHAKES = (sns.SUBSCRIPTION, sns.UNSUBSCRIPTION)

_DROPPED_BOUNCES: dict[str, SuppressionList] = {  # subtypes of Permanent for which SES did not try
    "Suppressed": SuppressionList.BOUNCE,  # the global list: a recent history of bouncing as invalid
    "OnAccountSuppressionList": SuppressionList.BOUNCE,  # the account's list; may also hold complaints, SES does not say
    "OnTenantSuppressionList": SuppressionList.BOUNCE,  # the tenant's list
    "UnsubscribedRecipient": SuppressionList.UNSUBSCRIBE,  # opted out of the contact list
    "EmailValidationSuppressed": SuppressionList.INVALID,  # failed SES' own validation of addresses
}

_BOUNCES: dict[str, BounceKind] = {
    "Permanent/General": BounceKind.HARD,  # a hard bounce without a specific reason; the server's answer may name one
    "Permanent/NoEmail": BounceKind.HARD,  # the address does not exist
    "Transient/MailboxFull": BounceKind.SOFT,
    "Transient/MessageTooLarge": BounceKind.SOFT,
    "Transient/CustomTimeoutExceeded": BounceKind.SOFT,  # not delivered within the time that the sender gave
    "Transient/ContentRejected": BounceKind.SOFT,  # may pass with other content
    "Transient/AttachmentRejected": BounceKind.SOFT,  # may pass with another attachment
    "Undetermined/Undetermined": BounceKind.UNDETERMINED,
}

_TOO_OLD = "CustomTimeoutExceeded"
_SAYS_NOTHING = frozenset({"", "General", "Undetermined"})  # subtypes that name no cause

_BOUNCE_TYPES: dict[str, BounceKind] = {  # for subtypes that SES adds later
    "Permanent": BounceKind.HARD,
    "Transient": BounceKind.SOFT,
    "Undetermined": BounceKind.UNDETERMINED,
}

# RFC 3464, 2.3.3: what the DSN says of this recipient; "failed" is the bounce itself
_ACTIONS: dict[str, EventType] = {
    "delayed": EventType.DEFERRED,  # SES lists such recipients beside the failed ones
    "delivered": EventType.DELIVERED,
    "relayed": EventType.OTHER,  # passed on to a server that sends no DSN
    "expanded": EventType.OTHER,  # delivered to a list; its members have their own reports
}

_FAILED = "failed"
_TRANSIENT_GENERAL = "Transient/General"
_PERMANENT_GENERAL = "Permanent/General"

_NOT_COMPLAINTS = frozenset(  # RFC 5965 feedback types that are no "this is spam"
    {
        "not-spam",  # the recipient took it out of the spam folder
        "auth-failure",  # RFC 6591: a report on DKIM or SPF
    }
)


def normalise(request: WebhookRequest) -> list[DeliveryEvent]:
    """Return the events of one request, one for each recipient of each record in it.

    Raises:
        PoisonError: the body holds no record, or some records or recipients are bad. A bad element is a record, only
            once for all its bad recipients, or a line that is not JSON; its index counts the records and lines.
    """
    events: list[DeliveryEvent] = []
    bad = fields.BadElements()
    for index, record in enumerate(_records(request.body)):
        if isinstance(record, _Unreadable):
            bad.add(index, record.part, record.reason)
            continue
        why = None
        for found in _events(record, request):
            if isinstance(found, str):
                why = found
            else:
                events.append(found)
        if why is not None:
            bad.add(index, record, why)
    return fields.result(events, bad)


# --- ways ---


class _Unreadable(NamedTuple):
    """A part of the body that is not a record: raw bytes, or a decoded value."""

    part: Any
    reason: str


def _records(body: bytes) -> Iterator[dict[str, Any] | _Unreadable]:
    """Yield the bare SES records of a body, in whatever envelopes they came."""
    if body.lstrip()[: len(_VALIDATION)] == _VALIDATION.encode():
        return
    try:
        value = fields.decode_body(body)
    except PoisonError:
        lines = body.split(b"\n") if b"\n" in body else []
        values = [(line, _line(line)) for line in lines if line.strip()]
        if not any(isinstance(value, dict) for _, value in values):
            raise  # not lines of records: the body is bad
        for line, value in values:
            yield from (
                _unwrap(value, line) if isinstance(value, dict) else (_Unreadable(line, "the line is not an object"),)
            )
        return
    if isinstance(value, list):
        for element in value:
            yield from _unwrap(element, element)
    else:
        yield from _unwrap(value, body)


def _line(line: bytes) -> Any:
    try:
        return fields.decode_body(line)
    except PoisonError:
        return None


def _unwrap(value: Any, source: Any, depth: int = 3) -> Iterator[dict[str, Any] | _Unreadable]:
    """Yield the records inside an envelope; envelopes may be nested ``depth`` deep (EventBridge through SNS).

    ``source`` is the part of the body to keep if there is no record.
    """
    if not isinstance(value, dict) or not depth:
        yield _Unreadable(source, "not an SES record")
    elif isinstance(value.get("Message"), str):
        # Checked first: SNS signs what is in Message, and nothing beside it.
        yield from _sns(value, source, depth)
    elif "eventType" in value or "notificationType" in value:
        yield value
    elif "detail-type" in value:
        yield from _event_bridge(value, source)
    elif isinstance(value.get("records"), list):
        for record in value["records"]:
            yield from _firehose(record, depth)
    else:
        yield _Unreadable(source, "not an SES record")


def _sns(envelope: dict[str, Any], source: Any, depth: int) -> Iterator[dict[str, Any] | _Unreadable]:
    message: str = envelope["Message"]
    if envelope.get("Type") in _SNS_HANDSHAKES or message.lstrip().startswith(_VALIDATION):
        return
    try:
        inner = fields.decode_body(message)
    except PoisonError:
        yield _Unreadable(source, "the SNS Message is not JSON")
        return
    yield from _unwrap(inner, source, depth - 1)


def _event_bridge(envelope: dict[str, Any], source: Any) -> Iterator[dict[str, Any] | _Unreadable]:
    detail = envelope.get("detail")
    if isinstance(detail, dict) and ("eventType" in detail or "notificationType" in detail):
        yield detail
    elif (fields.text(envelope["detail-type"]) or "Email ").startswith("Email "):
        yield _Unreadable(source, "the EventBridge detail is not an SES record")
    # otherwise "Sending Status Enabled" and the like: about the account, not about a message


def _firehose(record: Any, depth: int) -> Iterator[dict[str, Any] | _Unreadable]:
    """Yield the records of one entry of what Firehose sends to an HTTP endpoint."""
    data = record.get("data") if isinstance(record, dict) else None
    try:
        lines = b64decode(data, validate=True).split(b"\n") if isinstance(data, str) else []
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        lines = []
    if not lines:
        yield _Unreadable(record, "the Firehose record has no data")
    for line in lines:
        if line.strip():
            yield from _unwrap(_line(line), line, depth - 1)


# --- records ---


def _events(record: dict[str, Any], request: WebhookRequest) -> Iterator[DeliveryEvent | str]:
    """Yield an event for each recipient of a record, or the reason why it cannot be understood."""
    name = fields.text(record.get("eventType")) or fields.text(record.get("notificationType"))
    if name is None:
        yield "no eventType"
        return
    if name in _NO_DELIVERY:
        return
    mail = fields.section(record, "mail")
    message_id = fields.identifier(mail.get("messageId"))
    if message_id is None:
        yield "no mail.messageId"
        return
    word = _EVENTS.get(name, _Word(EventType.UNKNOWN, ""))
    about = fields.section(record, word.section)
    destinations = _addresses(mail.get("destination"))
    tags = _tags(mail)
    facts = _Facts(
        request=request,
        name=name,
        word=word,
        message_id=message_id,
        mail=mail,
        about=about,
        destinations=destinations,
        reference=fields.reference(request.reference_keys, tags)
        or fields.header_reference(request.reference_keys, mail.get("headers")),
        metadata=fields.metadata(tags),
    )
    if word.recipients:
        found = about.get(word.recipients)
        entries = found if isinstance(found, list) else [found] if found is not None else []
    else:
        entries = destinations
    named = bool(entries) or word.type not in _MAY_NAME_NOBODY
    if not named:
        entries = destinations
    if not entries:
        yield "no recipient"
    elif len(entries) > _MOST_RECIPIENTS:
        yield "too many recipients"
    else:
        for entry in entries:
            yield _event(facts, entry, alone=len(entries) == 1, named=named)


_MAY_NAME_NOBODY = frozenset({EventType.BOUNCE, EventType.COMPLAINT})
"""A bounce does so if SES could not parse the answer, such as an out-of-office reply; a complaint, if it is anonymous."""


def _addresses(value: Any) -> list[str]:
    """Return the distinct addresses of a list of strings, in order."""
    if not isinstance(value, list):
        return []
    return list(dict.fromkeys(found for found in map(fields.address, value) if found is not None))


class _Facts(NamedTuple):
    """What all recipients of a record share."""

    request: WebhookRequest
    name: str
    word: _Word
    message_id: str
    mail: dict[str, Any]
    about: dict[str, Any]
    destinations: list[str]
    reference: str | None
    metadata: dict[str, str]


def _event(facts: _Facts, entry: Any, *, alone: bool, named: bool) -> DeliveryEvent | str:
    """Return the event of one recipient, or the reason why it cannot be understood.

    Args:
        facts: What all recipients of the record share.
        entry: The recipient, as the record has it.
        alone: There is no other one.
        named: The record says whom the event is about; else it is taken for every recipient of the message.
    """
    word, about = facts.word, facts.about
    entry = entry if isinstance(entry, dict) else {"emailAddress": entry}
    recipient = fields.address(entry.get("emailAddress"))
    if recipient is None:
        return "a recipient has no address"

    if word.type is EventType.BOUNCE and alone and len(facts.destinations) == 1:
        # The address is the DSN's Final-Recipient: the end of a forwarding, if there was one. The delivery that failed
        # is the one to the address that the message was sent to.
        recipient = facts.destinations[0]
    reason = fields.text(entry.get("diagnosticCode"), fields.REASON_LIMIT)
    if reason is None and word.reason:
        reason = fields.text(about.get(word.reason), fields.REASON_LIMIT)
    code, enhanced = smtp.parse_reply(reason)
    enhanced = reasons.code_of(enhanced, smtp.enhanced_code(entry.get("status")), code, reason)
    event_type, detail, suppression_list = _meaning(facts, fields.text(entry.get("action")), alone=alone)
    if not named and not alone:
        event_type, suppression_list = EventType.OTHER, None
    elif not named and word.type is EventType.BOUNCE:
        event_type, suppression_list = EventType.BOUNCE_OR_AUTO_REPLY, None
    kind = _kind_of(detail, reason, code, enhanced) if event_type is EventType.BOUNCE else None
    if event_type is EventType.BOUNCE and detail.endswith(f"/{_TOO_OLD}"):
        explanation: str | None = fields.led_by(_TOO_OLD, reason)  # it was given up, whatever the last answer was
    else:
        explanation = fields.answer(reason, _cause(word.type, event_type, detail, enhanced), code, enhanced)

    sent_at = fields.iso_moment(facts.mail.get("timestamp"))
    occurred_at = fields.iso_moment(about.get("timestamp")) or sent_at
    # A bounce has the time of the server that sent it back, mostly without its milliseconds. If that is before the second
    # in which the message was sent, its clock is wrong.
    sent_in = sent_at and sent_at.replace(microsecond=0)
    unbelievable = word.type is EventType.BOUNCE and occurred_at and sent_in and occurred_at < sent_in
    feedback_id = fields.identifier(about.get("feedbackId"))
    return DeliveryEvent(
        event_id=fields.fingerprint(
            provider=_NAME,
            account=facts.request.account,
            event=f"{facts.name}/{event_type}",
            message_id=facts.message_id,
            recipient=recipient,
            time=None if feedback_id else occurred_at,
            detail=feedback_id or fields.text(about.get("link"), fields.URL_LIMIT) or reason or "",
        ),
        provider=_NAME,
        account=facts.request.account,
        message_id=facts.message_id,
        recipient=recipient,
        type=event_type,
        received_at=facts.request.received_at,
        occurred_at=None if unbelievable else occurred_at,
        reference=facts.reference,
        bounce_kind=kind,
        reason=explanation,
        smtp_code=code,
        enhanced_code=enhanced,
        metadata=facts.metadata,
        user_agent=fields.text(about.get("userAgent"), fields.USER_AGENT_LIMIT),
        suppression_list=suppression_list,
        retry_until=fields.iso_moment(about.get("expirationTime")),
        provider_event=f"{facts.name}/{detail}" if detail else facts.name,
    )


_ENGAGEMENT = frozenset({EventType.OPEN, EventType.CLICK})


def _meaning(facts: _Facts, action: str | None, *, alone: bool) -> tuple[EventType, str, SuppressionList | None]:
    """Return our type, what SES adds to its word, and the suppression list if one made SES drop the message."""
    event_type, about = facts.word.type, facts.about
    if event_type is EventType.BOUNCE:
        return _bounce(
            fields.text(about.get("bounceType")) or "", fields.text(about.get("bounceSubType")) or "", action
        )
    if event_type is EventType.DEFERRED:
        return event_type, fields.text(about.get("delayType")) or "", None
    if event_type is EventType.COMPLAINT:
        said, detail, suppression_list = _complaint(
            fields.text(about.get("complaintSubType")) or "", fields.text(about.get("complaintFeedbackType"))
        )
        # Most mailbox providers hide who complained; SES then names all recipients there "who might have".
        return EventType.OTHER if said is EventType.COMPLAINT and not alone else said, detail, suppression_list
    if event_type in _ENGAGEMENT and not alone:
        return EventType.OTHER, "", None  # one of several recipients
    if facts.name == "Subscription" and _unsubscribed(about):
        return EventType.UNSUBSCRIBE if alone else EventType.OTHER, "", None
    return event_type, "", None


def _bounce(bounce_type: str, subtype: str, action: str | None) -> tuple[EventType, str, SuppressionList | None]:
    """Return what a bounced recipient means: SES dropped it, the DSN reports no failure, or it bounced."""
    detail = f"{bounce_type}/{subtype}".strip("/")
    if bounce_type == "Permanent" and subtype in _DROPPED_BOUNCES:
        return EventType.DROPPED, detail, _DROPPED_BOUNCES[subtype]
    action = (action or "").strip().lower()
    if action in _ACTIONS:
        return _ACTIONS[action], detail, None
    if detail == _TRANSIENT_GENERAL and action != _FAILED:
        return EventType.BOUNCE_OR_AUTO_REPLY, detail, None  # out-of-office replies come as this too, without a DSN
    return EventType.BOUNCE, detail, None


def _kind_of(detail: str, reason: str | None, code: int | None, enhanced: str | None) -> BounceKind:
    """Return why it bounced: by SES' words, or by the server's answer if those name no cause.

    ``Permanent`` stays a hard bounce unless the server says plainly that it refuses us and not the address.
    """
    answered = smtp.bounce_kind_of(enhanced, code, reason)
    if detail == _TRANSIENT_GENERAL and answered is not BounceKind.UNDETERMINED:
        return answered
    if detail == _PERMANENT_GENERAL and reasons.refuses_us(answered, reason, code, enhanced):
        return BounceKind.BLOCK
    return _BOUNCES.get(detail) or _BOUNCE_TYPES.get(detail.partition("/")[0]) or answered


def _cause(record_type: EventType, event_type: EventType, detail: str, enhanced: str | None) -> str:
    """Return the cause in SES' own word, such as ``MailboxFull``; empty where its word, or the code, says no more."""
    if record_type is EventType.DEFERRED:
        word = detail
    elif event_type is EventType.BOUNCE and (enhanced or ".0.0").endswith(".0.0"):
        word = detail.partition("/")[2]
    else:
        return ""
    return "" if word in _SAYS_NOTHING else word


def _complaint(subtype: str, feedback: str | None) -> tuple[EventType, str, SuppressionList | None]:
    """Return what a complaint record means: SES dropped the message, a report of another kind, or a complaint."""
    if subtype.endswith("SuppressionList"):  # OnAccount..., OnTenant...: accepted, but not sent
        return EventType.DROPPED, subtype, SuppressionList.SPAM
    return (EventType.OTHER if feedback in _NOT_COMPLAINTS else EventType.COMPLAINT), feedback or "", None


def _unsubscribed(subscription: dict[str, Any]) -> bool:
    """Tell whether the change of preferences unsubscribed the recipient from everything or from a topic."""
    new = fields.section(subscription, "newTopicPreferences")
    old = fields.section(subscription, "oldTopicPreferences")
    return new.get("unsubscribeAll") is True or bool(_opted_out(new) - _opted_out(old))


def _opted_out(preferences: dict[str, Any]) -> set[str]:
    topics = preferences.get("topicSubscriptionStatus")
    return {
        fields.text(topic.get("topicName")) or ""
        for topic in (topics if isinstance(topics, list) else [])
        if isinstance(topic, dict) and fields.text(topic.get("subscriptionStatus")) in _OPT_OUT
    }


_OPT_OUT = frozenset({"OptOut", "OPT_OUT"})  # in the records, and as the API spells it


def _tags(mail: dict[str, Any]) -> dict[str, Any]:
    """Return the message tags that the sender set, each with a list of values; those named ``ses:...`` are SES' own."""
    found: dict[str, Any] = {}
    for name, values in fields.section(mail, "tags").items():
        if not name.startswith("ses:"):
            found[name] = values[0] if isinstance(values, list) and len(values) == 1 else values
    return found


_MADE_HEADER = re.compile(r"@[a-z0-9-]{1,63}\.amazonses\.com$")


def message_id(given: str) -> str:
    """Return SES' id of a message, also from the ``Message-ID`` header ``<ID@REGION.amazonses.com>`` that SES makes of it.

    https://github.com/nodemailer/nodemailer/blob/master/lib/ses-transport/index.js: Nodemailer returns the header.
    """
    return _MADE_HEADER.sub("", bare_message_id(given))


# --- proof ---

_REPLAY_WINDOW_S = 7_200
"""Two hours. SNS waits up to 3,600 s in all between its at most 100 attempts of 15 s, all with the stamp of the first:
https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html. Credentials have no stamp."""


def verify(
    request: WebhookRequest,
    secrets: Mapping[str, str],
    *,
    now: datetime,
    replay_window_s: float | None,
    certificate: bytes | None = None,
) -> Verification:
    """Return which credential the request carries, or which of our topics SNS signed it for.

    A subscription is confirmed only for a topic among the secrets, so there a credential is not enough.

    Raises:
        VerificationError: neither proves the sender.
    """
    topics = {key_id: secret for key_id, secret in secrets.items() if sns.is_topic(secret)}
    credentials = {key_id: secret for key_id, secret in secrets.items() if proof.credential(secret) is not None}
    if not topics and not credentials:
        raise VerificationError(Refusal.UNCONFIGURED, "neither a topic nor a credential is configured")
    proven, refusal = None, VerificationError(Refusal.MISSING, "no signature of SNS")
    if credentials:  # first, because it costs nothing, whatever the body
        try:
            proven = proof.verify_credentials(request.headers, credentials)
        except VerificationError as error:
            refusal = error
    message = sns.envelope(request.body)
    if proven is not None and (message is None or message["Type"] == sns.NOTIFICATION):
        return proven
    if message is None:
        if refusal.reason is Refusal.MISSING and len(request.body) > proof.PARSED_LIMIT:
            raise VerificationError(Refusal.MALFORMED, "too large for a message of SNS")
        raise refusal
    topic = next((key_id for key_id, arn in topics.items() if arn == message["TopicArn"]), None)
    if topic is None:
        raise VerificationError(Refusal.UNTRUSTED, "a topic that is not among ours")
    ahead_s = sns.check_signature(message, certificate=certificate, now=now, replay_window_s=replay_window_s)
    proof.check_json(request.body)
    return Verification(key_id=topic, ahead_s=ahead_s)


def read_headers(headers: Mapping[str, str], secrets: Mapping[str, str]) -> bool:
    """Return whether the headers carry one of our credentials; if not, SNS must have signed the body.

    Raises:
        VerificationError: they carry none, and no topic is configured; or nothing is.
    """
    try:
        proof.verify_credentials(headers, secrets)
    except VerificationError:
        if any(sns.is_topic(secret) for secret in secrets.values()):
            return False
        raise
    return True


def secret_fault(secret: str) -> str | None:
    """Return why a secret is neither a topic's ARN nor a credential; ``None`` if it is one."""
    if sns.is_topic(secret) or proof.credential(secret) is not None:
        return None
    return "neither the ARN of an SNS topic nor basic:USER:PASSWORD nor header:NAME:VALUE"


def certificate_url(request: WebhookRequest) -> str | None:
    """Return the address of an SNS message's certificate; ``None`` if it is none, too large for one, or not signed.

    Raises:
        VerificationError: a malformed SNS message, or the address is not one of Amazon SNS in the topic's region.
    """
    message = sns.envelope(request.body)
    return sns.certificate_url(message) if message is not None and "Signature" in message else None


def handshake(request: WebhookRequest) -> Handshake | None:
    """Return the subscription that SNS asks us to confirm, or has ended; ``None`` if neither, or the body is too large.

    Raises:
        VerificationError: a malformed SNS message.
    """
    message = sns.envelope(request.body)
    return sns.handshake(message) if message is not None else None


_FIREHOSE_ID = "x-amz-firehose-request-id"
_GUID = re.compile(r"[0-9A-Za-z_-]{1,128}")  # "an opaque GUID"


def answer(request: WebhookRequest) -> bytes | None:
    """Return the body that Firehose requires in a 200: its request's id and our time in milliseconds; else ``None``.

    https://docs.aws.amazon.com/firehose/latest/dev/httpdeliveryrequestresponse.html: any other answer is a failure.
    """
    request_id = request.headers.get(_FIREHOSE_ID, "")
    if not _GUID.fullmatch(request_id):
        return None
    return codecs.encode({"requestId": request_id, "timestamp": int(request.received_at.timestamp() * 1_000)})


PROVIDER = Provider(
    name=_NAME,
    normalise=normalise,
    verify=verify,
    secret_fault=secret_fault,
    message_id=message_id,
    replay_window_s=_REPLAY_WINDOW_S,
    retry_window_s=14 * 3_600,  # the maximum, and the default, of its MaxDeliverySeconds
    content_types=frozenset({"application/json", "text/plain"}),  # SNS sends JSON as text/plain by default
    kept_headers=frozenset(
        {
            _FIREHOSE_ID,
            "x-amz-firehose-source-arn",
            "x-amz-sns-message-id",
            "x-amz-sns-message-type",
            "x-amz-sns-rawdelivery",
            "x-amz-sns-subscription-arn",
            "x-amz-sns-topic-arn",
        }
    ),
    # https://docs.aws.amazon.com/sns/latest/dg/sns-http-https-endpoint-as-subscriber.html: SNS retries
    # after no 4xx but 429. Other refused requests would be refused again, but a body that was too slow may be valid
    instead_of={408: 503},
    read_headers=read_headers,
    certificate_url=certificate_url,
    handshake=handshake,
    answer=answer,
)
