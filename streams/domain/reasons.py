"""Why a message was deferred, in one word of a closed set.

The receiving server's answer is examined in this order: words that name one
cause (servers put more into their text than into their codes, and Gmail, Yahoo
and Microsoft use ``4.7.0`` for everything); enhanced codes that name one cause;
words that only suggest one; a link about greylisting; the subject of the enhanced
code; the reply code.
Within the words the order of the rows decides: a server that limits our rate
*because* the message is not authenticated is an authentication problem.

Rule of this file, as of ``wording``: it never raises, and its time is bounded for
any text, because only the first ``LOOKED_AT`` characters are read and phrases
are plain substrings. A phrase begins where a word begins, so only the few whose
first letters occur are tried. The cache is not enough: texts differ in addresses
and ids, so most are new.

To add an answer: put it into a file of ``tests/domain/answers`` first, then the
shortest phrase of it that names the cause into the right row below.
"""

import re
from enum import StrEnum
from functools import lru_cache

from streams.domain import smtp, wording
from streams.domain.events import BounceKind
from streams.domain.smtp import AUTHENTICATION
from streams.domain.wording import FULL_IN_OTHER_LANGUAGES, LOOKED_AT, TOO_MANY_WRONG


class ReasonClass(StrEnum):
    """Why a receiving server, or the provider itself, put a message off."""

    RATE_LIMITED = "rate_limited"  # too much at once: messages, connections, or mail for this one mailbox
    GREYLISTED = "greylisted"  # the server does not know us yet and waits for the second attempt
    MAILBOX_FULL = "mailbox_full"
    REPUTATION = "reputation"  # of our address or domain: complaints, block lists, unwanted mail
    DNS = "dns"  # the recipient's domain or its mail servers could not be looked up
    TLS = "tls"  # no encrypted connection came about, or the certificate was not trusted
    TIMEOUT = "timeout"  # the server was not reached, did not answer in time or hung up
    POLICY = "policy"  # a rule of the receiving side that it does not explain
    AUTH = "auth"  # it could not verify that the message comes from us: SPF, DKIM, DMARC, the DNS of our names
    CONTENT = "content"  # what is in the message
    PREEMPTIVE = "preemptive"  # the provider holds the message back itself, for now; no server was asked
    UNKNOWN = "unknown"  # no reason given, or only that the server has trouble of its own


def classify(reason: str | None, smtp_code: int | None, enhanced_code: str | None) -> ReasonClass:
    """Return why a message was deferred; never raises.

    Args:
        reason: The text of the answer, or what the provider says instead of one.
        smtp_code: The RFC 5321 reply code.
        enhanced_code: The RFC 3463 status code, such as ``4.7.28``.
    """
    return _classify("" if reason is None else reason[:LOOKED_AT], smtp_code, enhanced_code)


def classify_words(words: str) -> ReasonClass:
    """Return why, from the words of an answer alone (``wording.words_of``)."""
    return _cause(_plain(words), None, None)


def tells_mailbox_full(words: str) -> bool:
    """Tell whether an answer says that the mailbox is full, in words that have no other meaning."""
    return _by_words(words, _starts(words), _TELLING) is ReasonClass.MAILBOX_FULL


def refuses_us(kind: BounceKind, reason: str | None, smtp_code: int | None, enhanced_code: str | None) -> bool:
    """Tell whether a refusal for good is plainly about the sender or the content, even if the provider blames the address.

    A single word such as "policy" or "relay" is too little for that, and the words for a mailbox that does not exist
    outweigh any code.

    Args:
        kind: What codes and words make of it (``smtp.bounce_kind_of``).
        reason: The text of the answer.
        smtp_code: The RFC 5321 reply code.
        enhanced_code: The RFC 3463 status code.
    """
    if kind is not BounceKind.BLOCK and kind is not BounceKind.UNDETERMINED:
        return False
    quoted = smtp.quoted_refusal(enhanced_code, reason)
    if quoted is not None:
        reason, (smtp_code, enhanced_code) = quoted
    words = wording.words_of(reason)
    if kind is BounceKind.BLOCK:
        if wording.refuses_sender(reason):
            return True
        if wording.names_no_mailbox(words):
            return False
        if (
            smtp.blocks_by_code(enhanced_code, smtp_code)
            or smtp_code == _HOST_ANSWER
            or wording.plainly_blocks_us(words)
        ):
            return True
    elif wording.says_closed(words):
        return False
    return classify_words(words) in _ABOUT_US


def refuses_address(kind: BounceKind, reason: str | None, smtp_code: int | None, enhanced_code: str | None) -> bool:
    """Tell whether a refusal for good is plainly about the address, even if the provider blames the sender.

    So it is if the answer says that there is no such mailbox, or if its code names the address and no word is about us. An
    undefined code (5.1.0), a reply code alone (521, 551) or "does not exist" is too little: it may be said of us.

    Args:
        kind: What codes and words make of it (``smtp.bounce_kind_of``).
        reason: The text of the answer.
        smtp_code: The RFC 5321 reply code.
        enhanced_code: The RFC 3463 status code.
    """
    if kind is not BounceKind.HARD or wording.quotes_refusal_of_sender(reason):
        return False
    quoted = smtp.quoted_refusal(enhanced_code, reason)
    if quoted is not None:
        reason, (smtp_code, enhanced_code) = quoted
    words = wording.words_of(reason)
    if wording.names_no_mailbox(words) or smtp.meant_otherwise(enhanced_code, reason) is BounceKind.HARD:
        return True
    return smtp.names_address(enhanced_code, smtp_code) and not (
        "your ip" in words
        or wording.kind_of_words(words) is BounceKind.BLOCK
        or wording.plainly_blocks_us(words)
        or classify_words(words) in _ABOUT_US
    )


def code_of(own: str | None, reported: str | None, smtp_code: int | None, reason: str | None) -> str | None:
    """Return the status code of an answer: its own, else that of the report about it, unless the answer says otherwise.

    Who reports a bounce may make its code of the reply code alone: Sendmail has 5.1.3 for any 553 and 5.2.2 for any 552.

    Args:
        own: The code in the text of the answer.
        reported: The code beside it.
        smtp_code: The RFC 5321 reply code.
        reason: The text of the answer.
    """
    is_specific = own is not None and not own.endswith(".0.0")
    if reported is None or is_specific or _contradicts(reason, smtp_code, own, reported):
        return own
    return smtp.more_specific(reported, own)


def _contradicts(reason: str | None, smtp_code: int | None, own: str | None, reported: str) -> bool:
    if reported.endswith(".0.0") or (smtp.is_transient(reported, None) and smtp.is_transient(own, smtp_code)):
        return False
    answered = smtp.bounce_kind_of(own, None if smtp_code in _ANY_REFUSAL else smtp_code, reason)
    if refuses_us(answered, reason, smtp_code, own):
        answered = BounceKind.BLOCK
    if answered is BounceKind.UNDETERMINED:
        return False
    told = smtp.bounce_kind_of(reported, smtp_code, reason)
    if answered is told is BounceKind.SOFT:
        meant, said = classify(None, None, reported), classify(reason, smtp_code, own)
        if said is ReasonClass.UNKNOWN:  # no cause that we know contradicts none, but a message may be too large
            return meant is not ReasonClass.UNKNOWN and wording.says_too_large(wording.words_of(reason))
        return meant not in {ReasonClass.UNKNOWN, said}
    return answered is not told


_ANY_REFUSAL = frozenset({521, 552})
"""Servers use these reply codes for several causes, so alone they contradict no status code that names one."""
_HOST_ANSWER = 521
"""RFC 7504: a host answers so, whoever the recipient is; AT&T: "521 < 192.0.2.1 > is blocked"."""
_ABOUT_US = frozenset({ReasonClass.REPUTATION, ReasonClass.CONTENT, ReasonClass.AUTH})


@lru_cache(maxsize=1_024)  # many messages get the same answer, word for word
def _classify(reason: str, smtp_code: int | None, enhanced_code: str | None) -> ReasonClass:
    words = _plain(wording.without_names(reason))  # content@example.com is no content
    return _cause(words, smtp_code, enhanced_code, greylisting=wording.links_to_greylisting(reason))


def _cause(words: str, smtp_code: int | None, enhanced_code: str | None, *, greylisting: bool = False) -> ReasonClass:
    starts = _starts(words)
    cause = (enhanced_code or "").partition(".")[2]  # "4.7.28" -> "7.28"
    return (
        _by_words(words, starts, _TELLING)
        or _BY_DETAIL.get(cause)
        or _by_words(words, starts, _LIKELY)
        or (ReasonClass.GREYLISTED if greylisting else None)
        or _BY_SUBJECT.get(cause.partition(".")[0])
        or _BY_REPLY.get(smtp_code)
        or ReasonClass.UNKNOWN
    )


# Each line of an answer begins with its codes (RFC 5321, 4.2.1); in the joined text they are in the middle of phrases.
_CODES = re.compile(r" [245][0-7]\d[ -](?:[245]\.\d{1,3}\.\d{1,3} )?", re.ASCII)


def _plain(reason: str) -> str:
    """Return the text in lower case, on one line, without codes and without what is said of a server's disk."""
    return wording.without_space_of_server(_CODES.sub(" ", " ".join(reason.lower().split())))


_WORD = re.compile("[a-z0-9]+|[^\x00-\x7f]")  # beyond ASCII each character is a word: Chinese has no blanks
_START = 3
"""How many letters of its first word a phrase is found by."""


def _starts(words: str) -> set[str]:
    return {word[:_START] for word in _WORD.findall(words)}


_Table = tuple[tuple[ReasonClass, tuple[str, ...]], ...]
_Index = dict[str, list[tuple[int, str, ReasonClass]]]
"""Start of a phrase's first word -> its row, the phrase, and the class it means."""


def _index(table: _Table) -> _Index:
    index: _Index = {}
    for row, (reason_class, phrases) in enumerate(table):
        for phrase in phrases:
            index.setdefault(_WORD.findall(phrase)[0][:_START], []).append((row, phrase, reason_class))
    return index


def _by_words(words: str, starts: set[str], index: _Index) -> ReasonClass | None:
    found = [
        (row, reason_class) for start in starts for row, phrase, reason_class in index.get(start, ()) if phrase in words
    ]
    return min(found)[1] if found else None


# The first row that is found wins. All in lower case.
_TELLING_WORDS: _Table = (
    (
        # Never escalated, so nothing that a receiving server would say belongs here.
        ReasonClass.PREEMPTIVE,
        (
            "isp-suggested",  # SendGrid: "IPs reached ISP-suggested hourly limits", "... max connection limits"
            "ips reached max port limit",
            "ip reached max connection limit",
            "sendingdeferral",  # SES
        ),
    ),
    (
        ReasonClass.GREYLISTED,
        (
            "greylist",
            "graylist",
            "grey-list",
            "gray-list",
            "grey list",
            "gray list",
            "postgrey",
            "internal resources are temporarily unavailable",  # Mimecast, as the next two
            "internal resource are temporarily unavailable",
            "internal resource temporarily unavailable",
        ),
    ),
    (
        # Not "rate limited" alone: that is only the effect, and the text may name the cause, too.
        ReasonClass.RATE_LIMITED,
        (
            "unusual rate",  # Gmail, 4.7.28
            "mail flood",
            "too quickly",  # Gmail: "The user you are trying to contact is receiving mail too quickly"
            "receiving mail at a rate",
            "receiving mail at too great a rate",
            "excessive volume",  # Apple
            "sending quota",
            "message quota",
            "quota for sending",  # Gmail, 4.7.28: "exceeded its quota for sending messages with the same Message-ID"
        ),
    ),
    (
        ReasonClass.MAILBOX_FULL,
        (
            "mailbox full",
            "destinationmailboxfull",  # Azure
            "mailboxfull",  # SES
            "mailbox is full",
            "mailbox temporarily full",
            "inbox is full",
            "inbox full",
            "over quota",
            "over-quota",
            "overquota",
            "out of storage",  # Gmail: "the recipient's inbox is out of storage space"
            "quota exceeded",
            "quotaexceeded",
            "exceeded quota",
            "exceeds quota",
            "exceeded its quota",
            "exceeded their quota",
            "exceeded the quota",
            "quota limit exceeded",
            "quota full",
            "storage quota",  # T-Online: "Over STORAGE quota"
            "mailbox quota",
            "allowed storage",  # WEB.DE: "User has exhausted allowed storage space"
            "mailbox size limit",
            "too many messages on the server",  # WEB.DE, of a mailbox
            "mailbox limit exceeded",
            *FULL_IN_OTHER_LANGUAGES,
        ),
    ),
    (
        ReasonClass.TLS,
        (
            "starttls",
            "start tls",
            "tls required",
            "tls is required",
            "requires tls",  # Mimecast, as the next
            "requires encryption",
            "tls not available",
            "tls connection",
            "tls handshake",
            "tls negotiation",
            "tls session",
            "tls error",
            "tls: ",
            "tlsv1",
            "tlsa",
            "ssl handshake",
            "ssl error",
            "ssl routines",
            "ssl_",
            "x509",
            "certificate",
            "mta-sts",
        ),
    ),
    (
        # Exchange: a group, a mailbox or a whole server that takes mail from its own organisation only. "Authenticated" is
        # about logging in there, not about SPF and DKIM.
        ReasonClass.POLICY,
        (
            "resolver.rst",  # RESOLVER.RST.SenderNotAuthenticatedForGroup, 5.7.133; ...ForMailbox, 5.7.134
            "sendernotauthenticatedfor",
            "delivery restriction check",
            "client was not authenticated",  # 5.7.57, and 5.7.1 on premises
            "client not authenticated",
            "not authenticated by organization",  # 5.7.12
            "mailpolicy violation",  # Zoho, as the next
            "rejected by destination domain",
        ),
    ),
    (ReasonClass.TIMEOUT, ("suspiciousremoteservererror",)),  # Exchange Online, of a server that hung up
    (ReasonClass.DNS, ("mx info",)),  # SendGrid: "unable to get mx info: failed to get IPs from PTR record ..."
    (
        ReasonClass.AUTH,
        (
            "unauthenticated",
            "not authenticated",
            "authentication didn't pass",
            "authentication did not pass",
            "authentication fail",
            "fail authentication",
            "fails authentication",
            "authentication information",  # Gmail: "does not have authentication information or fails to pass ..."
            "authentication checks",
            "dmarc",
            "dkim",
            "spf ",
            "spf:",
            "spf=",
            "(spf",
            "reverse dns",
            "rdns",
            "reverse hostname",
            "reverse lookup",
            "ptr record",
            "ptr resource record",  # GMX
            "cannot find your hostname",  # Postfix, of our address
            "invalid helo",
            "bad helo",  # Microsoft
            "sender policy framework",
            "helo command rejected",  # Postfix, of the name that the provider's server gives: "Host not found"
            "sender verify",  # Exim
            "sender address rejected: domain not found",  # Postfix
            "invalid dns mx or a/aaaa",  # GMX, of our domain
            "byoiphostnamelookup",  # SES: BYOIPHostNameLookupUnavailable, of the account's own addresses
        ),
    ),
    (
        # The scanner has trouble, so nothing is known of the message; "virus" below would say that it has one.
        ReasonClass.UNKNOWN,
        (
            "virus_scan failed",  # amavis: "virus_scan FAILED: virus_scan: ALL VIRUS SCANNERS FAILED"
            "virus scanners failed",
            "virus scanner failed",
            "virus scanner temporarily",
            "virus scanner unavailable",
        ),
    ),
    (
        ReasonClass.CONTENT,
        (
            "nature of the content",  # Gmail
            "suspicious content",
            "[ph01]",  # Yahoo: looks like phishing; its text says "policy reasons"
            "phish",
            "virus",
            "malware",
            "attachment",
            "spamhaus dbl",  # these three list domains in the text
            "surbl",
            "uribl",
            "dt:spm",  # NetEase
            "mail rejete",  # Orange, 506: suspected spam
        ),
    ),
    (
        ReasonClass.REPUTATION,
        (
            "ofr_999",  # Orange
            "too many errors from your ip",  # Free, as the next
            "too many spams",
            "ip blocked",  # Naver
            "reputation",
            "complaint",
            "[tss",  # Yahoo: "[TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or ..."
            "[ts0",
            "[ipts",
            "temporarily deferred",
            "unsolicited",
            "suspicious",
            "blacklist",
            "blocklist",
            "block list",
            "block-list",
            "black list",
            "denylist",
            "blocked using",
            "temporarily blocked",
            "banned",
            "dnsbl",
            "dt:rbl",  # NetEase
            " rbl",
            " bl.",  # bl.mailspike.net
            "a problem occurred. (ask your postmaster",  # T-Online
            "spamhaus",
            "spamcop",
            "barracudacentral",
            "namespace mining",  # Microsoft: guessing addresses
            "directory harvest",
            *TOO_MANY_WRONG,
            "hl:rep",  # NetEase: many recipients that do not exist
            "hl:mep",  # NetEase: forged sender domains
            "bl000",  # Comcast
            "espblock",  # Mailgun
            "ipfailure",  # SES: the address is blocked or throttled
            "spamdetected",  # SES: much unwanted mail from this account
        ),
    ),
    (
        ReasonClass.RATE_LIMITED,
        (
            "rate limit",
            "rate-limit",
            "ratelimit",
            "throttl",  # SendGrid: "IPs were throttled by recipient server"; Comcast
            "too many messages",
            "too many mails",
            "too many letters",  # Yandex
            "too many emails",
            "too many recipients",
            "too many connect",  # connections, connects
            "too many concurrent",
            "too many simultaneous",
            "too many open",
            "too many sessions",
            "too many smtp sessions",
            "too many requests",
            "too frequent",
            "too fast",
            "too much mail",
            "too much email",
            "frequency limit",  # QQ
            "maximum number of connections",  # Microsoft, as the next three
            "maximum number of concurrent",
            "limits for how many messages",
            "thread limit",
            "maximum connections",
            "connection limit",
            "connections limit",
            "relay limit exceeded",  # Gmail: "Peak SMTP relay limit exceeded"
            "hourly limit",
            "daily limit",
            "sending limit",
            "send limit",  # GMX
            "limit for processing requests",
            "slow down",
            "server busy",  # Microsoft, 4.7.500: it slows down one address
            "server is busy",
            "trop de connexions",  # Orange
            "hl:icc",  # NetEase: connections at once
            "hl:ifc",  # NetEase: messages in a short time
            "mi:dmc",  # NetEase: messages on one connection
            "mi:sfq",  # NetEase: messages of one sender
            "rp:drc",  # NetEase: recipients on one connection
        ),
    ),
    (
        ReasonClass.DNS,
        (
            "mx record",
            "mx lookup",
            "no mx",
            "nxdomain",
            "servfail",
            "name service error",  # Postfix
            "host not found",
            "no such host",
            "domain not found",
            "host lookup did not complete",  # Exim
            "could not resolve",
            "cannot resolve",
            "unable to resolve",
            "failed to resolve",
            "name or service not known",
            "dns error",
            "dnserror",  # Postmark
            "mx of domain",  # Brevo: "Unable to find MX of domain ..."
            "dns fail",
            "dns lookup",
            "lookup dns",  # SES
            "dns query",
            "dns resol",
            "dns server",
            "dns timeout",
        ),
    ),
    (
        ReasonClass.TIMEOUT,
        (
            "timed out",
            "timeout",
            "time-out",
            "connection refused",
            "connection reset",
            "connection dropped",
            "connection closed",
            "closed connection",
            "closed by remote host",
            "closed by peer",
            "lost connection",
            "broken pipe",
            "unexpected eof",
            "no route to host",
            "unreachable",
            "unable to connect",  # SES: "smtp; 421 4.4.1 Unable to connect to remote host"
            "could not connect",
            "failed to connect",
            "cannot connect",
            "unable to establish",
            "no answer from host",
            "retry time not reached",  # Exim: failed for so long that it is not tried each time
            "transientcommunication",  # SES: TransientCommunicationFailure
        ),
    ),
)

_LIKELY_WORDS: _Table = (
    (ReasonClass.CONTENT, ("spam", "content")),
    (
        ReasonClass.POLICY,
        (
            "policy",
            "policies",
            "whitelist",
            "allowlist",
            "access denied",
            "administrative",
            "prohibited",
            "not allowed",
        ),
    ),
    (
        # The text says that the server itself has trouble, whatever the code says.
        ReasonClass.UNKNOWN,
        (
            "temporary system problem",  # Gmail, with 4.7.0 too
            "temporary server error",  # Exchange Online, with 4.7.0 too: its own servers cannot be reached
            "temporary local problem",  # Exim
            "local error",
            "internal error",
            "service unavailable",  # Apple, with 4.7.1
            "service currently unavailable",
            "service not available",
            "service is currently unavailable",  # Yandex, with 4.7.1
            "temporarily unavailable",  # Yahoo, with 4.7.1
        ),
    ),
    (ReasonClass.MAILBOX_FULL, ("exceeded storage",)),  # RFC 5321's text for any 552 (4.2.3), so another cause wins
)

_TELLING, _LIKELY = _index(_TELLING_WORDS), _index(_LIKELY_WORDS)

# The last two numbers of an enhanced code that name one cause: RFC 3463, the registry of RFC 5248, and what the large
# receivers add to it, as they document it.
_BY_DETAIL: dict[str, ReasonClass] = {
    "1.2": ReasonClass.DNS,  # the recipient's domain
    "1.8": ReasonClass.AUTH,  # the sender's domain
    "2.2": ReasonClass.MAILBOX_FULL,
    "2.121": ReasonClass.RATE_LIMITED,  # Microsoft, as the next: the mailbox got more in an hour than it may
    "2.122": ReasonClass.RATE_LIMITED,
    "3.1": ReasonClass.UNKNOWN,  # the server's disk is full, which no text should turn into something else
    "4.3": ReasonClass.DNS,  # "directory server failure"
    "4.4": ReasonClass.DNS,  # unable to route: no DNS records for the domain
    "4.5": ReasonClass.RATE_LIMITED,  # congestion; Gmail: "Server busy"
    "4.310": ReasonClass.DNS,  # Microsoft: the domain does not exist
    "4.316": ReasonClass.TIMEOUT,  # Microsoft: connection refused
    "5.3": ReasonClass.RATE_LIMITED,  # too many recipients
    "7.5": ReasonClass.TLS,  # cryptographic failure; Microsoft: the certificate
    "7.10": ReasonClass.TLS,  # encryption needed
    "7.29": ReasonClass.TLS,  # Gmail; ARC in the registry
    "7.28": ReasonClass.RATE_LIMITED,  # mail flood
    "7.500": ReasonClass.RATE_LIMITED,  # Microsoft: server busy
}
_BY_DETAIL |= dict.fromkeys(AUTHENTICATION, ReasonClass.AUTH)
# Microsoft: STARTTLS, DANE and MTA-STS (321-325); rate limits by the address' reputation (650, 651) and by the number
# of connections (652).
_BY_DETAIL |= {f"7.{detail}": ReasonClass.TLS for detail in (321, 322, 323, 324, 325)}
_BY_DETAIL |= {"7.650": ReasonClass.REPUTATION, "7.651": ReasonClass.REPUTATION, "7.652": ReasonClass.RATE_LIMITED}

_BY_SUBJECT: dict[str, ReasonClass] = {
    "4": ReasonClass.TIMEOUT,  # network and routing
    "6": ReasonClass.CONTENT,
    "7": ReasonClass.POLICY,
}

_BY_REPLY: dict[int | None, ReasonClass] = {
    454: ReasonClass.TLS,  # RFC 3207: TLS not available due to a temporary reason
}
