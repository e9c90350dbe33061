"""What a delivery's status means in plain words, and what the sender should do now.

One table, ``ADVICE``, holds the texts; the tables below it map causes to them.
The receiving server's own code (RFC 3463, and the registry that RFC 5248 began)
says more than the provider's kind of bounce, so it is looked at first. Why a
message is deferred is decided by ``reasons``, for the status and for alerts alike.
A second table, ``ALERT_ADVICE``, is for the alerts of the deferral monitor:
by then the time to wait is over. No code is in both.

A ``code`` is part of the public contract: it is never renamed or given another
meaning. The prose may change. Everything here is shown to people who send
invoices, not to mail administrators.
"""

from dataclasses import replace
from typing import NamedTuple

from streams.domain import smtp, wording
from streams.domain.deferrals import Ending, Level
from streams.domain.events import BounceKind, SuppressionList
from streams.domain.reasons import ReasonClass, classify, classify_words, tells_mailbox_full
from streams.domain.status import Delivery, Fact, Kind, Status, from_micros


class Advice(NamedTuple):
    """What the sender reads."""

    code: str
    """Stable, for programs."""
    meaning: str
    """What happened, in plain words."""
    what_to_do: str


# {since}, {contact_from} and {support} are filled in by advise.
_TABLE = (
    # sent
    Advice(
        "wait_for_answer",
        "The message left; the recipient's mail server has not answered yet.",
        "Wait. It will become delivered, or something that explains itself.",
    ),
    Advice(
        "auto_reply_only",
        "An automatic reply came back, such as an out-of-office note. The recipient's mail server has not said yet "
        "whether it took the message.",
        "Wait. The automatic reply is no refusal.",
    ),
    # delivered
    Advice(
        "accepted",
        "The recipient's mail server accepted the message. That is no proof that it is in the inbox.",
        "Nothing. If the recipient cannot find it, ask them to look in the spam folder.",
    ),
    Advice(
        "accepted_read_by_machine",
        "The message arrived, and a machine loaded its images or followed its links, as privacy services and spam "
        "filters do. Whether a person has seen it is not known.",
        "Nothing. If the recipient cannot find it, ask them to look in the spam folder.",
    ),
    Advice(
        "accepted_after_refusal",
        "The recipient's mail server refused the message at first and accepted it later. The address may still be "
        "on the list of addresses that bounced, and then the next message to it is dropped.",
        "Nothing for this message. If the next one is dropped, ask {support} to take the address off the list.",
    ),
    Advice(
        "marked_as_spam",
        "The message arrived, and the recipient marked it as spam. Further messages to this address may be dropped.",
        "Ask the recipient, by another way than e-mail, whether it was a mistake and how they want their invoices.",
    ),
    Advice(
        "unsubscribed",
        "The message arrived, and the recipient unsubscribed. Further messages to this address may be dropped.",
        "Ask the recipient, by another way than e-mail, how they want their invoices.",
    ),
    # opened
    Advice(
        "opened",
        "The message was opened: its tracking image was loaded or one of its links followed.",
        "Nothing.",
    ),
    # bounced
    Advice(
        "no_such_address",
        "The recipient's mail server says that this address does not exist.",
        "Check the spelling of the part before the @. If it is right, ask the recipient for a current address.",
    ),
    Advice(
        "no_such_domain",
        "The part of the address after the @ does not exist or takes no mail.",
        "Check the spelling of the part after the @. If it is right, ask the recipient for a current address.",
    ),
    Advice(
        "malformed_address",
        "The recipient's mail server says that this is not a valid address.",
        "Check the address for typing mistakes, blanks and missing parts, and send again.",
    ),
    Advice(
        "mailbox_moved",
        "The recipient's mail server says that the mailbox has moved and names no new address.",
        "Ask the recipient for the new address.",
    ),
    Advice(
        "owner_changed",
        "The address, or its domain, belongs to somebody else now. The message was refused so that it does not reach a "
        "stranger.",
        "Send nothing more to this address. Ask the recipient, by another way than e-mail, for a current address.",
    ),
    Advice(
        "mailbox_closed",
        "The mailbox exists, but it is closed or takes no messages at present.",
        "Ask the recipient whether the mailbox is still in use, or for another address.",
    ),
    Advice(
        "mailbox_full",
        "The recipient's mailbox is full. The message was given up.",
        "Ask the recipient to make room, and send again.",
    ),
    Advice(
        "message_too_large",
        "The message is larger than the recipient's mail server allows.",
        "Send it with smaller or fewer attachments, or give the recipient a link instead.",
    ),
    Advice(
        "unreachable",
        "The recipient's mail server could not be reached. The message was given up.",
        "Check the spelling of the part after the @. If it is right, send again later or ask the recipient whether "
        "their mail works.",
    ),
    Advice(
        "mail_loop",
        "The message went in a circle between mail servers until one of them gave up: the recipient's mail system, or a "
        "forwarding there, is set up wrongly.",
        "Tell the recipient, by another way than e-mail, that mail to this address goes in a circle, and ask for another "
        "address.",
    ),
    Advice(
        "put_off_too_long",
        "The recipient's mail server put the message off, or was not reached, until the time to try was over. The "
        "message was given up.",
        "Send again later. If it happens again, ask the recipient whether their mail works and whether they block us. "
        "If it happens with several recipients, tell {support}.",
    ),
    Advice(
        "authentication_refused",
        "The recipient's mail server could not verify that the message comes from us, and refused it.",
        "Tell {support}: the sending domain's DNS records (SPF, DKIM, DMARC, reverse DNS) need mending. The address may be "
        "fine.",
    ),
    Advice(
        "blocked",
        "The recipient's mail server refused the message because of who sent it or what is in it: reputation, policy "
        "or a spam filter. The address may be fine.",
        "Ask the recipient to have our messages let through, or for another address, then send again. If it happens "
        "with several recipients, tell {support}.",
    ),
    Advice(
        "refused_address",
        "The recipient's mail server refused the message for good and gave no reason that we know.",
        "Check the spelling of the address. If it is right, ask the recipient for a current address.",
    ),
    Advice(
        "refused_this_message",
        "The recipient's mail server did not take this message, and it was given up. A later one may pass.",
        "Ask the recipient whether the mailbox is full, and send again.",
    ),
    Advice(
        "refused_unknown_why",
        "The message came back, and the provider could not tell why.",
        "Check the spelling of the address, and ask the recipient whether the mailbox is full.",
    ),
    Advice(
        "refused_or_auto_reply",
        "Something came back: a refusal, or an automatic reply such as an out-of-office note. The provider does not "
        "tell the two apart.",
        "Ask the recipient whether the message arrived. If it did not, check the spelling and send again.",
    ),
    # deferred
    Advice(
        "deferred_mailbox_full",
        "The recipient's mailbox is full. The message is tried again for a while.",
        "Ask the recipient to make room. If it is still deferred at {contact_from}, ask them for another address too.",
    ),
    Advice(
        "deferred_rate_or_reputation",
        "The recipient's mail server does not take messages from us just now: it limits how many, does not know us "
        "yet, or is careful with us. The message is tried again.",
        "Give it time. If it is still deferred at {contact_from}, ask the recipient whether they block us.",
    ),
    Advice(
        "deferred_authentication",
        "The recipient's mail server could not verify yet that the message comes from us. The message is tried again.",
        "Tell {support}: the sending domain's SPF, DKIM, DMARC or reverse DNS may need mending. If it is still "
        "deferred at {contact_from}, contact the recipient.",
    ),
    Advice(
        "deferred_unreachable",
        "The recipient's mail server cannot be reached just now. The message is tried again.",
        "Give it time. If it is still deferred at {contact_from}, check the part of the address after the @ and ask "
        "the recipient whether their mail works.",
    ),
    Advice(
        "deferred_unencrypted",
        "No encrypted connection with the recipient's mail server comes about just now, and without one the message is "
        "not handed over. It is tried again.",
        "Give it time. If it is still deferred at {contact_from}, tell {support}, and ask the recipient whether their "
        "mail works.",
    ),
    Advice(
        "deferred_held_by_provider",
        "Our e-mail provider holds the message back itself for now, to send no faster than the recipient's side likes. "
        "Nobody has refused it.",
        "Wait. If it is still deferred at {contact_from}, tell {support} that we may send too much at once.",
    ),
    Advice(
        "deferred_server_trouble",
        "The recipient's mail server has trouble of its own just now. The message is tried again.",
        "Give it time. If it is still deferred at {contact_from}, ask the recipient whether their mail works.",
    ),
    Advice(
        "deferred_provider_trouble",
        "Our e-mail provider has trouble of its own just now, so the message waits there. Nobody has refused it. It is "
        "tried again.",
        "Give it time. If it is still deferred at {contact_from}, tell {support}.",
    ),
    Advice(
        "deferred",
        "The recipient's mail server is not ready to take the message now. The message is tried again.",
        "Give it time. If it is still deferred at {contact_from}, ask the recipient whether they block us.",
    ),
    # dropped
    Advice(
        "dropped_bounced_before",
        "The message was not sent: the address is on the list of addresses that bounced, since {since} at the latest.",
        "Check the spelling. If the address should be able to receive, ask {support} for a manual send.",
    ),
    Advice(
        "dropped_spam_report",
        "The message was not sent: the address is on the list of recipients who marked a message as spam, since "
        "{since} at the latest.",
        "Ask the recipient, by another way than e-mail, whether they want our messages; if so, ask {support} for a "
        "manual send.",
    ),
    Advice(
        "dropped_unsubscribed",
        "The message was not sent: the address is on the list of recipients who unsubscribed, since {since} at the "
        "latest.",
        "Ask the recipient, by another way than e-mail, whether they want our messages; if so, ask {support} for a "
        "manual send.",
    ),
    Advice(
        "dropped_invalid_address",
        "The message was not sent: the address is on the list of invalid addresses, since {since} at the latest.",
        "Check the spelling. If the address should be able to receive, ask {support} for a manual send.",
    ),
    Advice(
        "dropped",
        "The message was not sent. The provider held it back, and named none of our lists as the reason.",
        "If the address should be able to receive, ask {support} for a manual send.",
    ),
)
ADVICE = {advice.code: advice for advice in _TABLE}
"""All advice, by code."""

# {support} is filled in by advise_deferral.
_ALERT_TABLE = (
    # raised: it waits for longer than usual
    Advice(
        "contact_recipient_now",
        "The message has been put off for a long time, and neither the recipient's mail server nor our e-mail provider "
        "says clearly why. It is still tried again.",
        "Contact the recipient now, by another way than e-mail: ask whether they block us or filter strictly, and "
        "agree how they get the message if it does not arrive.",
    ),
    Advice(
        "contact_recipient_greylisted",
        "The recipient's mail server wants to see the message tried again before it takes it, as it does with senders "
        "that it does not know. This should pass within an hour and has not.",
        "Contact the recipient now, by another way than e-mail, and ask their mail administrator to let our messages "
        "pass.",
    ),
    Advice(
        "contact_recipient_held_back",
        "The recipient's mail server takes few messages from us just now: it limits how many, or is careful with us. "
        "The message waits in line.",
        "If it is urgent, contact the recipient now by another way than e-mail. If it happens with several "
        "recipients, tell {support}.",
    ),
    Advice(
        "contact_recipient_mailbox_full",
        "The recipient's mailbox has been full for a long time. The message is still tried again.",
        "Contact the recipient now, by another way than e-mail: ask them to make room, or for another address.",
    ),
    Advice(
        "contact_recipient_unreachable",
        "The recipient's mail server has not been reachable for a long time, or its domain cannot be looked up. The "
        "message is still tried again.",
        "Check the spelling of the part after the @. If it is right, contact the recipient now, by another way than "
        "e-mail, and ask whether their mail works.",
    ),
    Advice(
        "contact_recipient_encryption",
        "No encrypted connection with the recipient's mail server comes about, and without one the message is not "
        "handed over. It is still tried again.",
        "Tell {support}, and contact the recipient now by another way than e-mail: their mail administrator should "
        "look at the certificate and the encryption settings of their mail server.",
    ),
    Advice(
        "mend_authentication_now",
        "The recipient's mail server cannot verify that the message comes from us and keeps putting it off. Other "
        "recipients will see the same.",
        "Tell {support} now: the sending domain's SPF, DKIM, DMARC or reverse DNS needs mending. Contact the recipient "
        "by another way than e-mail if it is urgent.",
    ),
    Advice(
        "wait_for_provider",
        "Our e-mail provider holds the message back itself, to send no faster than the recipient's side likes. Nobody "
        "has refused it.",
        "Wait. If many messages are held back like this, tell {support} that we send too much at once.",
    ),
    # escalated: half a day is lost, or the end of the retry window is near
    Advice(
        "send_by_another_way",
        "The message has been put off for so long that it may come too late or not at all: our e-mail provider tries for "
        "a limited time only.",
        "Do not wait any longer: send it by another way, such as another address, post or a portal, and tell the "
        "recipient. The message may still arrive as well.",
    ),
    # overdue: the window is over, and no final event came
    Advice(
        "ask_whether_it_arrived",
        "Our e-mail provider should have delivered the message or given up by now, and has told us neither. Whether "
        "it arrived is not known.",
        "Ask the recipient whether it arrived. If it did not, send it by another way. Tell {support}: events of the "
        "provider may have been lost.",
    ),
    # resolved
    Advice(
        "resolved_delivered",
        "The message was put off for a while; the recipient's mail server has now accepted it. That is no proof that "
        "it is in the inbox.",
        "Nothing. If it was sent by another way meanwhile, tell the recipient that they have it twice.",
    ),
    Advice(
        "resolved_opened",
        "The message was put off for a while; it has arrived and was opened.",
        "Nothing. If it was sent by another way meanwhile, tell the recipient that they have it twice.",
    ),
    Advice(
        "resolved_bounced",
        "The message was put off for a while and has now been given up or refused. It will not be tried again.",
        "Send it by another way. The delivery's own status says why it came back and what to do about the address.",
    ),
    Advice(
        "resolved_dropped",
        "The message was put off, and our e-mail provider then took it back without delivering it. It will not be "
        "tried again.",
        "Send it by another way. The delivery's own status says which list holds it back, if one does; {support} can "
        "take the address off.",
    ),
    Advice(
        "resolved_sent",
        "What we know now says that the message is on its way and is not put off.",
        "Wait. It will become delivered, or something that explains itself.",
    ),
    Advice(
        "resolved_expired",
        "The message was put off, no final word ever came, and we no longer keep track of it. Whether it arrived is "
        "not known.",
        "Ask the recipient whether it arrived. If it did not, send it by another way.",
    ),
)
ALERT_ADVICE = {advice.code: advice for advice in _ALERT_TABLE}
"""Every advice of the deferral monitor's alerts, by code."""

# The last two numbers of an enhanced code, else its middle number alone. The first one, 4 or 5, adds nothing to the
# status: providers give up on a 4.2.2 too.
_BOUNCED_BY_CODE = {
    "1.1": "no_such_address",
    "1.2": "no_such_domain",
    "1.3": "malformed_address",
    "1.6": "mailbox_moved",
    "1.7": "blocked",  # the server refuses our sender's address
    "1.8": "authentication_refused",  # RFC 3463: our sender's domain does not exist or takes no mail
    "1.10": "no_such_domain",  # RFC 7505: the domain declares that it takes no mail
    "1.20": "blocked",  # Exchange Online: what is in our From; in the next one, how much our own tenant may send
    "1.90": "blocked",
    "2.1": "mailbox_closed",
    "2.2": "mailbox_full",
    "2.3": "message_too_large",
    "2.121": "put_off_too_long",  # Exchange Online, as the next: the mailbox got more in an hour than it may
    "2.122": "put_off_too_long",
    "3.4": "message_too_large",  # RFC 3463: too big for the system, not for the mailbox
    "4.4": "no_such_domain",  # no route: in practice the domain has no DNS records
    "4.310": "no_such_domain",  # Exchange Online: "DNS domain ... does not exist"
    "4.5": "put_off_too_long",  # congestion; Gmail: "Daily SMTP relay sending limit exceeded"
    "4.6": "mail_loop",
    "4.8": "mail_loop",
    "4.12": "mail_loop",  # Exchange, as the next
    "4.14": "mail_loop",
    "4.7": "put_off_too_long",
    "4.300": "put_off_too_long",  # Exchange Online
    "4": "unreachable",
    "6": "blocked",  # what is in the message
    "7": "blocked",
    "7.17": "owner_changed",  # RFC 7293: the mailbox's; in the next row, the domain's
    "7.18": "owner_changed",
}
_BOUNCED_BY_CODE |= dict.fromkeys(smtp.AUTHENTICATION, "authentication_refused")

_BOUNCED_BY_KIND = {
    BounceKind.HARD: "refused_address",
    BounceKind.SOFT: "refused_this_message",
    BounceKind.BLOCK: "blocked",
    BounceKind.UNDETERMINED: "refused_unknown_why",
    None: "refused_unknown_why",
}
_MEANT_OTHERWISE = {BounceKind.HARD: "no_such_address", BounceKind.BLOCK: "blocked"}
"""By what a server means by a code that says something else in RFC 3463."""
_ANY_CAUSE = frozenset({"0", "7"})
"""Codes of these subjects are sent with refusals of any sort, so the text is read, too: undefined (5.0.350), policy."""
_ABOUT_THE_ADDRESS = frozenset(
    {"no_such_address", "no_such_domain", "malformed_address", "mailbox_moved", "owner_changed"}
)
"""What only a permanent refusal can say (RFC 3463, 3.2: "only useful for permanent failures")."""
_BOUNCED_BY_REASON = {
    ReasonClass.MAILBOX_FULL: "mailbox_full",
    ReasonClass.AUTH: "authentication_refused",
}
_BLOCKED_BY_REASON = frozenset({ReasonClass.REPUTATION, ReasonClass.CONTENT})
_NOBODY_ANSWERED = frozenset({ReasonClass.DNS, ReasonClass.TIMEOUT})
"""What a provider says itself, without a code of the server's: the domain or its server was not found or reached."""
_BOUNCED_BY_WORD = {  # the provider's own word, alone or before what the server said
    "MailboxFull": "mailbox_full",
    "MessageTooLarge": "message_too_large",
    "AttachmentRejected": "blocked",
    "ContentRejected": "blocked",
    "NoEmail": "no_such_address",
    "invalid domain": "no_such_domain",
    "no mail host": "unreachable",
}
_GIVEN_UP = frozenset(
    {"CustomTimeoutExceeded", "old", "expired", "system issue", "protocol issue", "connection issue"}
)  # fmt: skip
"""Words for "tried until it was too late", of SES, Mailgun and SendGrid; the issues are Mailjet's, of its own servers."""
_GIVEN_UP_BY_REASON = {  # by the last answer before: it is why the retries failed
    ReasonClass.MAILBOX_FULL: "mailbox_full",
    ReasonClass.REPUTATION: "blocked",
    ReasonClass.POLICY: "blocked",
    ReasonClass.CONTENT: "blocked",
    ReasonClass.AUTH: "authentication_refused",
    ReasonClass.DNS: "unreachable",
    ReasonClass.TIMEOUT: "unreachable",
}
_TWO_MEANINGS = "2.1"
"""Gmail's: "is disabled", and "is receiving mail at a rate that prevents additional messages". Orange's: "service refused"."""
_DEFERRED_BY_REASON = {  # the monitor's alerts use the same class, so that the two do not contradict each other
    ReasonClass.RATE_LIMITED: "deferred_rate_or_reputation",
    ReasonClass.GREYLISTED: "deferred_rate_or_reputation",
    ReasonClass.MAILBOX_FULL: "deferred_mailbox_full",
    ReasonClass.REPUTATION: "deferred_rate_or_reputation",
    ReasonClass.DNS: "deferred_unreachable",
    ReasonClass.TLS: "deferred_unencrypted",
    ReasonClass.TIMEOUT: "deferred_unreachable",
    ReasonClass.POLICY: "deferred_rate_or_reputation",
    ReasonClass.AUTH: "deferred_authentication",
    ReasonClass.CONTENT: "deferred_rate_or_reputation",
    ReasonClass.PREEMPTIVE: "deferred_held_by_provider",
    ReasonClass.UNKNOWN: "deferred",
}
_SERVER_TROUBLE = frozenset({"3", "4", "7"})
"""If the class is unknown, these subjects mean server trouble: the system; network and policy if the text says so."""
_TROUBLE_BY_WORD = {
    "RecipientServerError": "deferred_server_trouble",  # "A temporary issue with the recipient's email server"
    "InternalFailure": "deferred_provider_trouble",  # "An internal Amazon SES issue"
}
"""So do these words of the provider, here SES, of whose trouble it is."""
_DROPPED_BY_LIST = {
    SuppressionList.BOUNCE: "dropped_bounced_before",
    SuppressionList.SPAM: "dropped_spam_report",
    SuppressionList.UNSUBSCRIBE: "dropped_unsubscribed",
    SuppressionList.INVALID: "dropped_invalid_address",
    None: "dropped",
}

_RAISED_BY_REASON = {
    ReasonClass.RATE_LIMITED: "contact_recipient_held_back",
    ReasonClass.GREYLISTED: "contact_recipient_greylisted",
    ReasonClass.MAILBOX_FULL: "contact_recipient_mailbox_full",
    ReasonClass.REPUTATION: "contact_recipient_held_back",
    ReasonClass.DNS: "contact_recipient_unreachable",
    ReasonClass.TLS: "contact_recipient_encryption",
    ReasonClass.TIMEOUT: "contact_recipient_unreachable",
    ReasonClass.POLICY: "contact_recipient_now",
    ReasonClass.AUTH: "mend_authentication_now",
    ReasonClass.CONTENT: "contact_recipient_now",
    ReasonClass.PREEMPTIVE: "wait_for_provider",
    ReasonClass.UNKNOWN: "contact_recipient_now",
}
_RESOLVED_BY_ENDING: dict[Ending | None, str] = {ending: f"resolved_{ending}" for ending in Ending}

ALERT_ACTIONS: dict[Level, tuple[str, ...]] = {
    Level.RAISED: tuple(dict.fromkeys(_RAISED_BY_REASON.values())),
    Level.ESCALATED: ("send_by_another_way",),
    Level.OVERDUE: ("ask_whether_it_arrived",),
    Level.RESOLVED: tuple(_RESOLVED_BY_ENDING.values()),
}
"""The codes that the advice of an alert can have, by its level."""


def advise(delivery: Delivery, *, support_contact: str | None, warn_after_us: int) -> Advice:
    """Return the advice for a delivery in its present state.

    Args:
        delivery: The delivery.
        support_contact: Whom to ask for a manual send at this account; None: "your support".
        warn_after_us: Microseconds from the first deferral until it is time to contact the recipient.
    """
    advice = ADVICE[_code(delivery)]
    if "{" not in advice.meaning and "{" not in advice.what_to_do:
        return advice
    facts = {
        "support": support_contact or "your support",
        "since": _minute(delivery.dropped_since),
        "contact_from": _minute(delivery.deferred_since, warn_after_us),
    }
    return Advice(advice.code, advice.meaning.format_map(facts), advice.what_to_do.format_map(facts))


def advise_deferral(
    level: Level, ending: Ending | None, reason_class: ReasonClass, *, support_contact: str | None
) -> Advice:
    """Return the advice for an alert of the deferral monitor.

    Args:
        level: The alert's level.
        ending: What ended the episode, if the level is resolved; else None.
        reason_class: Why the message was put off last.
        support_contact: Whom to tell at this account; None: "your support".

    Raises:
        KeyError: The level is resolved, and nothing ended it.
    """
    match level:
        case Level.RAISED:
            code = _RAISED_BY_REASON[reason_class]
        case Level.ESCALATED | Level.OVERDUE:
            (code,) = ALERT_ACTIONS[level]
        case Level.RESOLVED:
            code = _RESOLVED_BY_ENDING[ending]
    advice = ALERT_ADVICE[code]
    if "{" not in advice.what_to_do:
        return advice
    return advice._replace(what_to_do=advice.what_to_do.format_map({"support": support_contact or "your support"}))


def _code(delivery: Delivery) -> str:
    match delivery.status:
        case Status.SENT:
            return "auto_reply_only" if delivery.because is Kind.AUTO_REPLY else "wait_for_answer"
        case Status.DELIVERED | Status.OPENED:
            return _arrived(delivery)
        case Status.BOUNCED:
            return _bounced(delivery)
        case Status.DEFERRED:
            return _deferred(delivery)
        case Status.DROPPED:
            return _DROPPED_BY_LIST[delivery.suppressed_by]


def _arrived(delivery: Delivery) -> str:
    # A complaint or an unsubscribe matters more than an open.
    if delivery.change.complained:
        return "marked_as_spam"
    if delivery.change.unsubscribed:
        return "unsubscribed"
    if delivery.status is Status.OPENED:
        return "opened"
    if delivery.accepted_after_refusal:
        return "accepted_after_refusal"
    return "accepted_read_by_machine" if delivery.machine_opened else "accepted"


def _bounced(delivery: Delivery) -> str:
    if delivery.because is Kind.BOUNCE_OR_AUTO_REPLY:
        return "refused_or_auto_reply"
    code = None if delivery.answer is None else _by_answer(delivery.answer)
    return code or _BOUNCED_BY_KIND[delivery.change.bounce_kind]


def _by_answer(answer: Fact) -> str | None:
    """Return the code for why a server refused, or the provider gave up; None: the answer does not say it."""
    quoted = smtp.quoted_refusal(answer.enhanced_code, answer.reason)
    if quoted is not None:
        code, enhanced = quoted.reply
        by_quoted = _by_server(replace(answer, reason=quoted.text, smtp_code=code, enhanced_code=enhanced))
        if by_quoted is not None:
            return by_quoted
    return _by_server(answer)


def _by_server(answer: Fact) -> str | None:
    """Return the code of the advice for what one server said; None: it does not say why.

    In this order: what some servers mean by a code that says something else; a message that was given up, by the last
    answer before; where the codes name no cause, the provider's own word, or words that have one meaning only; a
    temporary answer that became final; the other words; that nobody answered; the code itself.
    """
    transient = smtp.is_transient(answer.enhanced_code, answer.smtp_code)
    meant = smtp.meant_otherwise(answer.enhanced_code, answer.reason)
    if meant is not None:  # not what the code says; of a temporary answer that became final only the class is left
        why = classify(answer.reason, answer.smtp_code, answer.enhanced_code)
        return _given_up(why) if transient else _MEANT_OTHERWISE[meant]
    cause = (answer.enhanced_code or "").partition(".")[2]  # "5.1.10" -> "1.10"
    subject = cause.partition(".")[0]
    code = _BOUNCED_BY_CODE.get(cause) or _BOUNCED_BY_CODE.get(subject)
    reason = answer.reason or ""
    word, _, said = reason.partition(": ")
    words_say_more = smtp.leaves_cause_to_words(answer.enhanced_code, answer.smtp_code) or (
        subject in _ANY_CAUSE and cause not in _BOUNCED_BY_CODE
    )
    if subject == "1" and code in _ABOUT_THE_ADDRESS and not transient and wording.quotes_refusal_of_sender(reason):
        code, words_say_more = "blocked", True  # the code is from an answer about our own address
    if code == "put_off_too_long" or (word in _GIVEN_UP and (code is None or words_say_more or transient)):
        return _expired(smtp.quoted_answer(reason) or (said if word in _GIVEN_UP else ""))
    words = wording.words_of(reason) if words_say_more else ""
    if more := words_say_more and (_BOUNCED_BY_WORD.get(word) or _by_telling_words(words)):
        return more
    two_meanings = cause == _TWO_MEANINGS
    gave_up = transient and (
        code is None
        or words_say_more
        or code in _ABOUT_THE_ADDRESS
        or (two_meanings and not _says_closed(wording.words_of(reason)))
    )
    if gave_up or two_meanings:
        why = classify(reason, answer.smtp_code, answer.enhanced_code)
        if gave_up or why is ReasonClass.RATE_LIMITED:
            return _given_up(why)
    by_words = words_say_more and _by_words(words, blames_the_sender=code == "blocked")
    if not by_words and _has_no_code(answer) and classify_words(words) in _NOBODY_ANSWERED:
        return "unreachable"
    return by_words or code


def _says_closed(words: str) -> bool:
    return wording.says_closed(words) or wording.says_disabled(words)


def _has_no_code(answer: Fact) -> bool:
    return answer.smtp_code is None and answer.enhanced_code is None


def _by_telling_words(words: str) -> str | None:
    if wording.says_loop(words):
        return "mail_loop"
    # RFC 5321's "exceeded storage allocation" is said of both; any other word for a full mailbox means that.
    return "message_too_large" if wording.says_too_large(words) and not tells_mailbox_full(words) else None


def _by_words(words: str, *, blames_the_sender: bool) -> str | None:
    """Return the code for what a refusal for good says in words; None: nothing that we know.

    Args:
        words: Those of what the server said (``wording.words_of``).
        blames_the_sender: Its code does so; "does not exist" is then said of our own address or domain, but "no such
            user" is not.
    """
    why = classify_words(words)
    if why in _BOUNCED_BY_REASON:
        return _BOUNCED_BY_REASON[why]
    if wording.says_no_such_mailbox(words):
        return None if blames_the_sender and not wording.names_no_mailbox(words) else "no_such_address"
    if wording.kind_of_words(words) is BounceKind.BLOCK:
        return "blocked"
    if wording.says_closed(words) and not blames_the_sender:
        return "mailbox_closed"
    return "blocked" if why in _BLOCKED_BY_REASON else None


def _expired(last_answer: str) -> str:
    """Return the code for a message whose time ran out, by the server's last answer; "" where that is not known."""
    return _given_up(classify(last_answer, *smtp.parse_reply(last_answer)))


def _given_up(why: ReasonClass) -> str:
    """Return the code for a message that was put off until nobody tried any more, by the last reason."""
    return _GIVEN_UP_BY_REASON.get(why, "put_off_too_long")


def _deferred(delivery: Delivery) -> str:
    answer = delivery.facts[Kind.DEFERRED]
    why = classify(answer.reason, answer.smtp_code, answer.enhanced_code)
    if why is not ReasonClass.UNKNOWN:
        return _DEFERRED_BY_REASON[why]
    told = _TROUBLE_BY_WORD.get((answer.reason or "").partition(": ")[0])
    if told is None and (answer.enhanced_code or "")[2:3] in _SERVER_TROUBLE:
        told = "deferred_server_trouble"
    return told or _DEFERRED_BY_REASON[why]


def _minute(micros: int | None, after: int = 0) -> str:
    return "" if micros is None else f"{from_micros(micros + after):%Y-%m-%d %H:%M} UTC"
