"""Mailgun: webhooks in JSON, and the legacy ones in form fields.

- https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads: ``{signature, event-data}``.
  The page shows the event alone, which is taken too.
- https://documentation.mailgun.com/docs/mailgun/user-manual/tracking-messages/open-click-bot-detect: ``client-info.bot``.
- https://help.mailgun.com/hc/en-us/articles/14048832145051-Legacy-Webhooks: the forms.

**Event id.** ``event-data.id`` is unique only within a day, so the UTC day of the event is added. The signature's
token is not used: it is not documented that a retry keeps it. A form has no id, so its fingerprint is used.

**A delayed bounce**, one that comes by mail after the delivery, has an empty ``envelope``, and where that mail does not quote
ours an empty ``message.headers`` as well. Then nothing says which message bounced: such a bounce is a delivery of its
own, whose message id is its ``id``.

**Codes.** ``delivery-status.code`` is the server's reply code or one of Mailgun's own: 498 and 499 (no MX, time-out),
605-607 (on a suppression list). Only the server's reply code is an SMTP code. The status code of RFC 3463 is in
``enhanced-code``, of some delayed bounces only in ``bounce-code``, and of a form that bounced at times in ``code``. Of a
message that became too old (602), Mailgun's libraries (mailgun-go and mailgun-java) have the server's last answer, too:
``last-code`` and ``last-message``.

**Signature.** https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks: HMAC-SHA256 of a
stamp and a random token, in the body; a secret is the *HTTP webhook signing key*. **It does not cover the event**:
anybody who sees one request can put another event under its signature. TLS, the replay window and the rule that a
token is accepted once protect against that.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote_plus

from streams import codecs
from streams.domain import reasons, smtp
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
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

_NAME = "mailgun"

_EVENTS: dict[str, EventType] = {
    "accepted": EventType.SENT,  # Mailgun took the message and queued it
    "rejected": EventType.DROPPED,  # Mailgun refused to send it; ``reject.reason`` says why
    "delivered": EventType.DELIVERED,  # accepted by the receiving server
    "failed": EventType.BOUNCE,  # not delivered; ``severity`` tells whether it is tried again
    "opened": EventType.OPEN,  # images were loaded; ``client-info.bot`` marks machines
    "clicked": EventType.CLICK,  # a link was followed
    "unsubscribed": EventType.UNSUBSCRIBE,  # the unsubscribe link was used
    "complained": EventType.COMPLAINT,  # the spam button was used (feedback loop)
    "stored": EventType.OTHER,  # an incoming message was stored for us
    # legacy forms only
    "bounced": EventType.BOUNCE,  # a permanent refusal by the receiving server
    "dropped": EventType.BOUNCE,  # given up: refused ("hardfail"), too old ("old"), or on a list (605-607)
}

# about a mailing list kept at Mailgun: https://documentation.mailgun.com/docs/mailgun/user-manual/events/events
_NO_DELIVERY = frozenset({"list_member_uploaded", "list_member_upload_error", "list_uploaded"})

_LISTS: dict[str, SuppressionList] = {  # ``reason`` of a failure without an attempt
    "suppress-bounce": SuppressionList.BOUNCE,  # bounced before
    "suppress-complaint": SuppressionList.SPAM,  # complained before
    "suppress-unsubscribe": SuppressionList.UNSUBSCRIBE,  # unsubscribed before
}

_LIST_CODES: dict[int, SuppressionList] = {
    605: SuppressionList.BOUNCE,  # "Not delivering to previously bounced address"
    606: SuppressionList.UNSUBSCRIBE,  # "... to a user who has unsubscribed from your messages"
    607: SuppressionList.SPAM,  # "... to a user who marked your messages as spam"
}

# ``reason`` of a permanent failure that says more than its code; the words: mailgun-go, ``events/enums.go``
_REASONS: dict[str, BounceKind] = {
    "old": BounceKind.SOFT,  # retried until the message was too old
    "greylisted": BounceKind.SOFT,  # and no later attempt was taken either
    "espblock": BounceKind.BLOCK,  # the receiving provider blocks the sender
    "blacklisted": BounceKind.BLOCK,  # the sender is on a block list
}
_TOO_OLD = "old"
_TEST = "test"
_SAYS_NOTHING = frozenset({"generic", "bounce", "hardfail"})  # ``reason`` that names no cause

_BOUNCE_TYPES: dict[str, BounceKind] = {  # ``delivery-status.bounce-type``
    "hard": BounceKind.HARD,
    "soft": BounceKind.SOFT,
}

_FORM_FIELDS = frozenset(  # Mailgun's own, in lower case; all others are the sender's variables
    """
    attachment-count attachment-1 body-plain body-html campaign-id campaign-name city client-info client-name client-os
    client-type code country description device-type domain error event ip mailing-list message-headers message-id
    my-variables notification reason recipient region severity signature tag timestamp token url user-agent user-variables
    x-mailgun-sid x-mailgun-tag
    """.split()  # noqa: SIM905 forty quoted names would hide what is a list of words
)
_FORM_LIMIT = 1_000
"""Form fields that are read; a real form has some thirty."""

_ADDRESS = re.compile(r"[^\s<>\",;@]{1,64}@[^\s<>\",;@]{1,255}")  # RFC 5321, 4.5.3.1: bounds that also bound the search


class _Report(NamedTuple):
    """What a webhook says, in JSON or as a form."""

    word: str
    message_id: str
    recipients: Sequence[str]
    given_id: str | None
    occurred_at: datetime | None
    test: bool
    """Sent in test mode (``o:testmode``): Mailgun took the message and sent it to nobody."""
    severity: str | None
    cause: str | None
    """Mailgun's ``reason``: one word."""
    cause_in_word: bool
    """The full word of a bounce ends in its cause, as in the legacy forms, and not in its severity."""
    reason: str | None
    """The server's answer, else what Mailgun writes instead."""
    status: Mapping[str, Any]
    """``delivery-status``, or the part of it that a form has."""
    bot: bool
    variables: Any
    labels: tuple[str, ...]
    url: str | None
    user_agent: str | None


class _Meaning(NamedTuple):
    """What an event word means once severity, cause and codes are read."""

    type: EventType
    word: str
    smtp_code: int | None
    enhanced_code: str | None
    kind: BounceKind | None = None
    suppression_list: SuppressionList | None = None
    cause: str = ""
    """Mailgun's word for why it was refused or put off; empty where that says nothing."""


def normalise(request: WebhookRequest) -> list[DeliveryEvent]:
    """Return the event of one request; a rejected message without ``recipient`` gives one for each in ``To``.

    A request about a mailing list gives none.

    Raises:
        PoisonError: the body holds no event, or the event lacks what identifies it.
    """
    try:
        form = _form(request)
        report = _current(fields.decode_body(request.body)) if form is None else _legacy(form)
    except fields.ElementError as error:
        raise PoisonError(str(error)) from None
    if report is None:
        return []
    meaning = _meaning(report)
    return [
        _event(report, meaning, request, recipient, position) for position, recipient in enumerate(report.recipients)
    ]


def _event(report: _Report, meaning: _Meaning, request: WebhookRequest, recipient: str, position: int) -> DeliveryEvent:
    return DeliveryEvent(
        event_id=_event_id(report.given_id, report.occurred_at, position)
        or fields.fingerprint(
            provider=_NAME,
            account=request.account,
            event=meaning.word,
            message_id=report.message_id,
            recipient=recipient,
            time=report.occurred_at,
            detail=report.url or report.reason or "",
        ),
        provider=_NAME,
        account=request.account,
        message_id=report.message_id,
        recipient=recipient,
        type=meaning.type,
        received_at=request.received_at,
        occurred_at=report.occurred_at,
        reference=fields.reference(request.reference_keys, report.variables, report.labels),
        bounce_kind=meaning.kind,
        reason=_explanation(report.reason, meaning),
        smtp_code=meaning.smtp_code,
        enhanced_code=meaning.enhanced_code,
        attempt=fields.count(report.status.get("attempt-no")),
        tags=report.labels,
        metadata=fields.metadata(report.variables),
        machine=meaning.type is EventType.MACHINE_OPEN,
        user_agent=report.user_agent,
        suppression_list=meaning.suppression_list,
        provider_event=meaning.word,
    )


def _event_id(given: str | None, occurred_at: datetime | None, position: int) -> str | None:
    """Return Mailgun's id with the day in which it is unique, and a number for further recipients of one event."""
    if given is None:
        return None
    day = f"/{occurred_at:%Y-%m-%d}" if occurred_at is not None else ""
    return fields.identifier(f"{given}{day}{f'#{position}' if position else ''}")


# --- meaning ---


def _explanation(reason: str | None, meaning: _Meaning) -> str | None:
    """Return the server's answer, led by Mailgun's word where that says more."""
    if meaning.cause == _TOO_OLD:
        return fields.led_by(_TOO_OLD, reason)  # it was given up, whatever the last answer was
    return fields.answer(reason, meaning.cause, meaning.smtp_code, meaning.enhanced_code)


def _meaning(report: _Report) -> _Meaning:
    """Return our type, Mailgun's full word, the codes, and why it bounced or was dropped."""
    word, cause, severity = report.word, report.cause, report.severity
    reply = smtp.parse_reply(report.reason)
    code = fields.count(report.status.get("code"))
    smtp_code = smtp.reply_code(code) if code is not None else reply.smtp_code
    enhanced = _enhanced_code(report, smtp_code, reply)
    event_type = _EVENTS.get(word, EventType.UNKNOWN)
    if report.test:  # Mailgun took it; all else says nothing about a delivery
        said = event_type if event_type is EventType.SENT else EventType.OTHER
        return _Meaning(said, f"{word}/{_TEST}", smtp_code, enhanced)
    if event_type is not EventType.BOUNCE:
        # A scanner that follows links proves as little as one that loads images: only that the message arrived.
        seen = EventType.MACHINE_OPEN if report.bot and word in _ENGAGEMENT else event_type
        return _Meaning(seen, word, smtp_code, enhanced)
    full = f"{word}/{severity}" if severity is not None else word
    if (cause is not None and cause.startswith("suppress-")) or code in _LIST_CODES:
        suppression_list = _LISTS.get(cause or "") or _LIST_CODES.get(code or 0)
        return _Meaning(EventType.DROPPED, full, smtp_code, enhanced, suppression_list=suppression_list)
    why = "" if cause is None or cause in _SAYS_NOTHING else cause
    if _is_tried_again(report, code):
        return _Meaning(EventType.DEFERRED, full, smtp_code, enhanced, cause=why)
    if report.cause_in_word and cause is not None:
        full = f"{word}/{cause}"
    kind = _bounce_kind(report, smtp_code, enhanced)
    return _Meaning(event_type, full, smtp_code, enhanced, kind, cause=why)


def _enhanced_code(report: _Report, smtp_code: int | None, reply: smtp.Reply) -> str | None:
    """Return the answer's own status code, else that of the report that came back, unless the answer says otherwise."""
    own = smtp.more_specific(smtp.enhanced_code(report.status.get("enhanced-code")), reply.enhanced_code)
    given = (smtp.enhanced_code(report.status.get(name)) for name in _REPORTED_CODES)
    found = reasons.code_of(own, next(filter(None, given), None), smtp_code, report.reason)
    if found == own or not smtp.leaves_cause_to_words(found, smtp_code):
        return found
    # Softer than what nothing explains, so the code has to name a cause.
    reported_kind, own_kind = (smtp.bounce_kind_of(code, smtp_code, report.reason) for code in (found, own))
    return own if reported_kind is BounceKind.SOFT and own_kind is BounceKind.UNDETERMINED else found


_REPORTED_CODES = ("bounce-code", "code")


def _is_tried_again(report: _Report, code: int | None) -> bool:
    """Tell whether a failure is temporary: Mailgun's severity decides, or without one the code.

    A message that became too old is tried no more, even where that last report's severity is ``temporary``, as a user
    saw of a domain without an MX (https://feedback.mailgun.com/forums/914635-general-feedback/suggestions/37219720).
    Should it be delivered after all, then that wins over a soft bounce.
    """
    if report.cause == _TOO_OLD:
        return report.severity == "temporary" and bool(fields.count(report.status.get("retry-seconds")))
    if report.severity == "temporary":
        return True
    return report.severity is None and report.word == "failed" and _transient(code)


_ENGAGEMENT = frozenset({"opened", "clicked"})


def _bounce_kind(report: _Report, code: int | None, enhanced: str | None) -> BounceKind:
    """Return the kind: Mailgun's words decide, and the answer where it plainly refuses us or Mailgun says nothing."""
    by_code = smtp.bounce_kind_of(enhanced, code, report.reason)
    said = _REASONS.get(report.cause or "") or _BOUNCE_TYPES.get(fields.text(report.status.get("bounce-type")) or "")
    if reasons.refuses_us(by_code, report.reason, code, enhanced):
        return BounceKind.BLOCK  # Mailgun's bounce types, hard and soft, have no word for it
    if said is None and by_code is BounceKind.UNDETERMINED and report.severity in _PERMANENT:
        return BounceKind.HARD  # nothing says why: Mailgun puts the address on its bounce list
    return said or by_code


_PERMANENT = frozenset({None, "permanent"})  # legacy forms have no severity; any other says nothing of the address


def _transient(code: int | None) -> bool:
    return code is not None and 400 <= code < 500  # noqa: PLR2004 the transient class of RFC 5321


# --- JSON ---


def _current(body: Any) -> _Report | None:
    data = body.get("event-data", body) if isinstance(body, dict) else None
    data = fields.required(data if isinstance(data, dict) else None, "no event-data")
    word = fields.required(fields.text(data.get("event")), "no event")
    if word in _NO_DELIVERY:
        return None
    headers = fields.section(fields.section(data, "message"), "headers")
    message_id = fields.required(_bare(headers.get("message-id")) or _of_no_message(data, word), "no message-id")
    recipients = fields.required(_recipients(data, headers) or None, "no recipient")

    status = fields.section(data, "delivery-status")
    client = fields.section(data, "client-info")
    cause = fields.text(data.get("reason"))
    if cause == _TOO_OLD:
        status = _with_last_answer(status)
    return _Report(
        word=word,
        message_id=message_id,
        recipients=recipients,
        given_id=fields.identifier(data.get("id")),
        occurred_at=fields.moment(data.get("timestamp")),
        test=fields.section(data, "flags").get("is-test-mode") is True,
        severity=fields.text(data.get("severity")),
        cause=cause,
        cause_in_word=False,
        reason=fields.text(status.get("message"), fields.REASON_LIMIT)
        or fields.text(status.get("description"), fields.REASON_LIMIT)
        or fields.text(fields.section(data, "reject").get("reason"), fields.REASON_LIMIT)
        or cause,
        status=status,
        bot=fields.text(client.get("bot")) is not None,  # apple, gmail, generic; empty: none seen
        variables=data.get("user-variables"),
        labels=() if word == "unsubscribed" else fields.tags(data.get("tags")),  # there they say from what: "*" is all
        url=fields.text(data.get("url"), fields.URL_LIMIT),
        user_agent=fields.text(client.get("user-agent"), fields.USER_AGENT_LIMIT),
    )


def _with_last_answer(status: dict[str, Any]) -> dict[str, Any]:
    """Return the status with the server's last answer, if it is there, in place of Mailgun's "Too old"."""
    message = fields.text(status.get("last-message"), fields.REASON_LIMIT)
    return status if message is None else {**status, "message": message, "code": status.get("last-code")}


def _of_no_message(data: dict[str, Any], word: str) -> str | None:
    """Return the id of a delayed bounce, for one that does not say of which message; ``None`` for any other event.

    Only of a permanent one: nothing would ever end a deferral of a message that nobody knows, nor its alerts.
    """
    permanent = word == "failed" and data.get("severity") == "permanent"
    delayed = permanent and fields.section(data, "flags").get("is-delayed-bounce") is True
    return fields.identifier(data.get("id")) if delayed else None


def _recipients(data: dict[str, Any], headers: dict[str, Any]) -> list[str]:
    """Return the recipients of the event: ``recipient``, else (rejected, stored) those of the message."""
    recipient = fields.address(data.get("recipient"))
    if recipient is not None:
        return [recipient]
    for source in (fields.section(data, "envelope").get("targets"), headers.get("to")):
        if isinstance(source, str) and (found := _mailboxes(source[: fields.REASON_LIMIT])):
            return found
    return []


_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_BETWEEN = re.compile(r"[,;]")


def _mailboxes(header: str) -> list[str]:
    """Return the distinct addresses of a list of mailboxes; one in a display name is none of them."""
    mailboxes = _BETWEEN.split(_QUOTED.sub("", header))
    found = (_ADDRESS.search(mailbox, mailbox.rfind("<") + 1) for mailbox in mailboxes)
    return list(dict.fromkeys(match[0] for match in found if match is not None))


def _bare(value: Any) -> str | None:
    """Return a message id without its angle brackets."""
    found = fields.identifier(value)
    return (found.strip("<> ") or None) if found is not None else None


# --- legacy forms ---
#
# A sender's variable may have the name of one of Mailgun's own fields. Mailgun writes its variables after its own fields,
# but before the signature: so the first value of a name is Mailgun's, and of the signature's fields the last
# (https://github.com/anymail/django-anymail, ``anymail/webhooks/mailgun.py``).

_Form = dict[str, list[str]]
"""The fields of a form: name as written -> its values in order."""


def _form(request: WebhookRequest) -> _Form | None:
    """Return the form in the body; ``None`` if the body is not declared as one."""
    kind = _form_kind(request)
    if kind == _URLENCODED:
        try:
            pairs = parse_qsl(
                request.body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_FORM_LIMIT
            )
        except ValueError:
            message = "too many form fields"
            raise fields.ElementError(message) from None
    elif kind == _MULTIPART:
        pairs = [
            (name.decode("utf-8", "replace"), content.decode("utf-8", "replace")) for name, content in _parts(request)
        ]
    else:
        return None
    form: _Form = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


_URLENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"


def _form_kind(request: WebhookRequest) -> str | None:
    """Return the content type of a form; ``None`` if the body is not declared as one, or is JSON nevertheless."""
    kind = request.headers.get("content-type", "")[:64].partition(";")[0].strip().lower()
    return kind if kind in {_URLENCODED, _MULTIPART} and request.body.lstrip()[:1] != b"{" else None


_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_PART_NAME = re.compile(rb'[\s;]name="([^"\r\n]{0,256})"', re.IGNORECASE)


def _parts(request: WebhookRequest) -> list[tuple[bytes, bytes]]:
    """Return name and content of the text fields of a multipart form (RFC 7578); files are left out."""
    content_type = request.headers.get("content-type", "")
    found = fields.required(_BOUNDARY.search(content_type[:1_000]), "multipart form without a boundary")
    boundary = b"--" + (found[1] or found[2]).encode("utf-8", "replace")
    pairs = []
    for part in request.body.split(boundary, _FORM_LIMIT)[1:]:
        head, separator, content = part.partition(b"\r\n\r\n")
        name = _PART_NAME.search(head[:2_000])
        if separator and name is not None and b"filename" not in head[:2_000].lower():
            pairs.append((name[1], content.removesuffix(b"\r\n")))
    return pairs


def _legacy(form: _Form) -> _Report:
    own: dict[str, str] = {}
    for name, values in form.items():
        if (known := name.lower()) in _SIGNATURE_FIELDS:
            own[known] = values[-1]
        elif known in _FORM_FIELDS:
            own.setdefault(known, values[0])
    word = fields.required(fields.text(own.get("event")), "no event")
    recipient = fields.required(fields.address(own.get("recipient")), "no recipient")
    message_id = fields.required(
        _bare(own.get("message-id")) or _bare(_header(own.get("message-headers"), "message-id")), "no message-id"
    )

    cause = fields.text(own.get("reason"))
    return _Report(
        word=word,
        message_id=message_id,
        recipients=(recipient,),
        given_id=None,
        occurred_at=fields.moment(own.get("timestamp")),
        test=False,  # a form does not say
        severity=fields.text(own.get("severity")),
        cause=cause,
        cause_in_word=True,
        reason=fields.text(own.get("error"), fields.REASON_LIMIT)
        or fields.text(own.get("description"), fields.REASON_LIMIT)
        or fields.text(own.get("notification"), fields.REASON_LIMIT)
        or cause,
        status={"code": own.get("code")},
        bot=False,
        variables={name: values[0] for name, values in form.items() if name.lower() not in _FORM_FIELDS},
        labels=fields.tags([tag for name, values in form.items() if name.lower() in _TAG_FIELDS for tag in values]),
        url=fields.text(own.get("url"), fields.URL_LIMIT),
        user_agent=fields.text(own.get("user-agent"), fields.USER_AGENT_LIMIT),
    )


_TAG_FIELDS = frozenset({"tag", "x-mailgun-tag"})


def _header(headers: str | None, name: str) -> Any:
    """Return a header of the original message; the field holds a JSON list of pairs."""
    if headers is None:
        return None
    try:
        pairs = fields.decode_body(headers)
    except PoisonError:
        return None
    for pair in pairs if isinstance(pairs, list) else []:
        if isinstance(pair, list) and len(pair) == 2 and fields.text(pair[0]) is not None and pair[0].lower() == name:  # noqa: PLR2004 name and value
            return pair[1]
    return None


# --- signature ---

_REPLAY_WINDOW_S = 43_200
"""Twelve hours. Mailgun retries a webhook for eight (after 10, 10, 15, 30, 60, 120 and 240 minutes), does not document
whether with a new stamp, and warns of further delays. A narrower window could lose all that an outage delayed."""

_STAMP = re.compile(r"[1-9][0-9]{9}")  # ten digits, until 2286: else stamp and token could be split elsewhere
_TOKEN = re.compile(r"[0-9A-Za-z_-]{1,100}")  # "Randomly generated string with length of 50"
_HEX = re.compile(r"[0-9a-fA-F]{64}")


def verify(
    request: WebhookRequest,
    secrets: Mapping[str, str],
    *,
    now: datetime,
    replay_window_s: float | None,
    certificate: bytes | None = None,  # noqa: ARG001 the contract's; there is none here
) -> Verification:
    """Return which signing key made the signature, and the token, which must not be accepted again.

    A subaccount's webhooks carry a second signature, made with the primary account's key; either is enough.

    Raises:
        VerificationError: none of the keys did, or the stamp is outside the replay window.
    """
    keys = {key_id: secret.strip() for key_id, secret in secrets.items() if secret_fault(secret) is None}
    if not keys:
        raise VerificationError(Refusal.UNCONFIGURED, "no signing key is configured")
    if len(request.body) > proof.PARSED_LIMIT:
        raise VerificationError(Refusal.MALFORMED, "too large for a webhook of Mailgun")
    given = _signature(request)
    stamp, token = given.get("timestamp"), given.get("token")
    stamp = str(stamp) if isinstance(stamp, int) else stamp
    signatures = [found for name in ("signature", "parent-signature") if (found := given.get(name)) is not None]
    if not signatures or stamp is None or token is None:
        raise VerificationError(Refusal.MISSING, "no signature")
    if not all(_is(found, _HEX) for found in signatures) or not _is(stamp, _STAMP) or not _is(token, _TOKEN):
        raise VerificationError(Refusal.MALFORMED, "a signature, stamp or token that cannot be read")
    signed = f"{stamp}{token}".encode("ascii")
    for key_id, key in keys.items():
        digest = hmac.digest(key.encode("utf-8", "surrogatepass"), signed, "sha256")
        if any(hmac.compare_digest(bytes.fromhex(found), digest) for found in signatures):
            ahead_s = proof.check_stamp(int(stamp), now=now, replay_window_s=replay_window_s)
            if _form_kind(request) is None:
                proof.check_json(request.body)  # else a changed copy would use up the token of the genuine one
            return Verification(key_id=key_id, replay_token=token, ahead_s=ahead_s)
    raise VerificationError(Refusal.MISMATCH, "the signature is not by one of our keys")


def secret_fault(secret: str) -> str | None:
    """Return why a secret is no signing key; ``None`` if it may be one."""
    key = secret.strip()
    if key[:1] in {'"', "'"}:  # docker's --env-file takes them for a part of the value
        return "the signing key is in quotation marks"
    return None if key else "the signing key is empty"


_members = codecs.members_decoder("signature")


def _signature(request: WebhookRequest) -> Mapping[str, Any]:
    """Return the fields that hold the signature: an object in JSON, or beside the others in a form.

    Nothing else is decoded, because the sender has not proved anything yet.
    """
    try:
        if (kind := _form_kind(request)) is not None:
            return _form_signature(_raw_pairs(request.body) if kind == _URLENCODED else _parts(request), kind)
        if request.body.lstrip()[:1] == b"[":  # another provider's batch
            return {}
        # Half of a surrogate pair (see ``decode_body``) must not make the proof fail. All surrogates are replaced
        # unseen, by any letter: the only text that is read is the signature, which has none.
        body = request.body.replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0")
        signature = _members(body).get("signature", b"{}")
        found = codecs.decode(signature) if len(signature) <= _SIGNATURE_LIMIT else None
    except (fields.ElementError, codecs.DecodeError):
        found = None
    if not isinstance(found, dict):
        raise VerificationError(Refusal.MALFORMED, "the body is no webhook of Mailgun")
    return found


def _raw_pairs(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields of a urlencoded form as written, not decoded."""
    pairs = body.split(b"&", _FORM_LIMIT)
    if len(pairs) > _FORM_LIMIT:
        message = "too many form fields"
        raise fields.ElementError(message)
    return [(name, value) for name, _, value in (pair.partition(b"=") for pair in pairs)]


def _form_signature(pairs: list[tuple[bytes, bytes]], kind: str) -> dict[str, str]:
    """Return the signature's fields, the last of each name; a value that is too long is cut and so invalid."""
    given: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        if len(raw_name) > _NAME_LIMIT:
            continue
        name, value = (part.decode("utf-8", "replace") for part in (raw_name, raw_value[:_SIGNATURE_LIMIT]))
        name = (unquote_plus(name) if kind == _URLENCODED else name).lower()
        if name in _SIGNATURE_FIELDS:
            given[name] = unquote_plus(value) if kind == _URLENCODED else value
    return given


_SIGNATURE_LIMIT = 4_096
"""Bytes of the signature object, and of a signature's form field; real ones have some 250 and 64."""
_NAME_LIMIT = 48  # bytes of the longest of these names with each character percent-encoded
_SIGNATURE_FIELDS = frozenset({"timestamp", "token", "signature", "parent-signature"})


def _is(value: Any, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


PROVIDER = Provider(
    name=_NAME,
    normalise=normalise,
    verify=verify,
    secret_fault=secret_fault,
    replay_window_s=_REPLAY_WINDOW_S,
    retry_window_s=8 * 3_600,
    content_types=frozenset({"application/json", _URLENCODED, _MULTIPART}),
)
