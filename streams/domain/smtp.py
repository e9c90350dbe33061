"""The codes in mail servers' answers: found in free text, and what they say of a refusal.

A reply code has three digits (RFC 5321, 4.2.1); an enhanced status code has the
form class.subject.detail (RFC 3463, registry RFC 5248). Providers hand both
over as text that also holds addresses, sizes, ports and versions, so a number
counts as a code only where servers put codes. Where the codes leave it open why
a message was refused, the words decide (``wording``).

Rule of this file: it never raises, and its time is bounded for any text, because
only the first ``LOOKED_AT`` characters are read and no pattern can backtrack far.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from streams.domain import wording
from streams.domain.events import BounceKind
from streams.domain.wording import LOOKED_AT


class Reply(NamedTuple):
    """The codes of an answer; ``None`` if it has none."""

    smtp_code: int | None
    """RFC 5321 reply code, 200-599."""
    enhanced_code: str | None
    """RFC 3463 status code, such as ``5.1.1``."""


NO_REPLY = Reply(None, None)

# 2yz-5yz with y 0-5 is the grammar of RFC 5321; 57z is not, but is in use ("571 Message refused").
_CODE = r"(?:[2-5][0-5]\d|57\d)"
# Subject 0-7 is all that RFC 3463 defines. What follows must not make it an address, a host name or a longer number.
_ENHANCED = r"[245]\.0{0,2}[0-7]\.\d{1,3}(?![\w]|\.\w)"
# "retry after 300 seconds", "size 552 KB": a number with a unit is no code.
_NO_UNIT = r"(?!\s{0,2}(?=[kmgbsdhort%])(?:[kmg]?b|s|ms|secs?|seconds?|min|minutes?|hours?|days?|bytes|octets|messages|recipients|times|%)(?!\w))"

_FLAGS = re.ASCII | re.IGNORECASE

# The usual case: "550 5.1.1 ...", "smtp; 550-5.7.26 ...", "421-4.7.28", "550 #5.1.0 ...", "5.0.0", "250 OK".
_AT_START = re.compile(
    r"\s{0,8}(?:[a-z][a-z0-9-]{0,30}\s?;\s{0,2})?[<(\[#]{0,2}"
    rf"(?:(?P<code>{_CODE})(?!\w|[.,:]\d){_NO_UNIT}(?:[ -]{{1,3}}[<(\[#]{{0,2}}(?P<after>{_ENHANCED}))?|(?P<alone>{_ENHANCED}))",
    _FLAGS,
)
# Anywhere, both together: "... said: 550 5.1.1 unknown".
_TOGETHER = re.compile(rf"(?<![\w.])(?P<code>{_CODE})[ -]{{1,3}}[<(\[#]{{0,2}}(?P<after>{_ENHANCED})", _FLAGS)
# A reply code quoted in the middle follows a colon, a bracket or a semicolon: "host mx[192.0.2.1] said: 550 User unknown".
_QUOTED = re.compile(rf"[:;\])>]\s{{0,2}}(?P<code>{_CODE})(?!\w|[.,:]\d){_NO_UNIT}", _FLAGS)
# An enhanced code in the middle: "554 Denied (5.7.1)", "status=5.1.1"; "v5.1.1" and "name/5.1.1" are versions.
_IN_TEXT = re.compile(rf"(?<![\w./@])(?<!version )(?<!release )(?P<alone>{_ENHANCED})", _FLAGS)


def parse_reply(text: str | None) -> Reply:
    """Return the reply code and the enhanced code of an answer, ``NO_REPLY`` if there is none; never raises."""
    if text is None:
        return NO_REPLY
    text = text[:LOOKED_AT]
    found = _AT_START.match(text)
    if found is not None:
        code, after, alone = found.groups()
        if alone is not None:
            return _inner_answer(text, alone) or Reply(None, _canonical(alone))
        return Reply(int(code), _canonical(after) if after is not None else _enhanced_of_class(text, code[0]))
    found = _TOGETHER.search(text)
    if found is not None:
        return Reply(int(found["code"]), _canonical(found["after"]))
    found = _QUOTED.search(text)
    if found is not None:
        return Reply(int(found["code"]), _enhanced_of_class(text, found["code"][0]))
    found = _IN_TEXT.search(text)
    # Alone in the middle of a text, 2.x.y is far more often a version than a success.
    return NO_REPLY if found is None or found["alone"][0] == "2" else Reply(None, _canonical(found["alone"]))


# SES: "... unable to deliver in 840 minutes.<452 4.2.2 full>"; Exchange Online: "Message expired -> 421 4.4.1 ...";
# SendGrid: "delivery expired, last response: 421 try later"; Cisco: "Delivery expired (message too old) 452-'4.2.2 full'",
# "... [Default] 452-'4.2.2 full'" and "... ('452', ['4.2.2 full'])".
_QUOTED_WHOLE = re.compile(
    r"(?:<|->|last response:|too old\)(?: \[\w{1,32}\])?(?: \(')?)\s{0,2}"
    rf"(?P<answer>[45][0-5]\d(?!\w|[.,:]\d){_NO_UNIT}.*)",
    _FLAGS | re.DOTALL,
)


def quoted_answer(text: str) -> str | None:
    """Return the server's own answer, if the report that the message was given up quotes it; else ``None``."""
    found = _QUOTED_WHOLE.search(text[:LOOKED_AT])
    return None if found is None else found["answer"]


class Refusal(NamedTuple):
    """What a server said, quoted by a relay, and its codes."""

    text: str
    reply: Reply


def quoted_refusal(enhanced_code: str | None, text: str | None) -> Refusal | None:
    """Return what a server said where Exchange Online quotes it, with its codes, behind one that says nothing; else None."""
    if text is None or (enhanced_code or "").partition(".")[2] != _QUOTES_A_REFUSAL:
        return None
    answer = quoted_answer(text)
    reply = parse_reply(answer)
    if answer is None or reply.enhanced_code is None or reply.enhanced_code[0] != (enhanced_code or "")[0]:
        return None
    return None if reply.enhanced_code.endswith(_QUOTES_A_REFUSAL) else Refusal(answer, reply)


def reply_code(value: object) -> int | None:
    """Return a number (or its digits) as an RFC 5321 reply code; ``None`` for anything else, such as a provider's own 605."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 200 <= value <= 599 and (value // 10 % 10 <= 5 or value // 10 == 57) else None  # noqa: PLR2004 the grammar of RFC 5321, 4.2
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():  # noqa: PLR2004 three digits
        return reply_code(int(value))
    return None


def enhanced_code(value: object) -> str | None:
    """Return the enhanced code that a field holds, in canonical form; ``None`` if it holds none."""
    if not isinstance(value, str):
        return None
    found = _WHOLE.fullmatch(value[:32].strip())
    return _canonical(found[0]) if found is not None else None


_WHOLE = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)


def more_specific(first: str | None, second: str | None) -> str | None:
    """Return the enhanced code that says more: ``first``, unless it is None or ``x.0.0`` and ``second`` is not None."""
    if first is None or (second is not None and first.endswith(".0.0")):
        return second or first
    return first


# Cisco's: "5.1.0 - Unknown address error 550-'5.1.1 <...> User unknown'", through SES among others.
_INNER = re.compile(rf"(?<![\w.])(?P<code>{_CODE})[ -]{{1,3}}['\"<(\[#]{{1,2}}(?P<after>{_ENHANCED})", _FLAGS)


def _inner_answer(text: str, enhanced: str) -> Reply | None:
    """Return the server's own answer where a relay quotes it behind an enhanced code that says less; else None."""
    if not enhanced.endswith(".0"):
        return None
    found = _INNER.search(text)
    if found is None or found["after"][0] != enhanced[0]:
        return None
    return Reply(int(found["code"]), _canonical(found["after"]))


def _enhanced_of_class(text: str, digit: str) -> str | None:
    """Return the first enhanced code of the reply's own class; another class belongs to something else."""
    if "." not in text:  # spares the common "250 OK"
        return None
    for found in _IN_TEXT.finditer(text):
        if found["alone"][0] == digit:
            return _canonical(found["alone"])
    return None


@lru_cache(maxsize=1_024)
def _canonical(code: str) -> str:
    """Return the code without leading zeros, which RFC 3463 forbids and some servers write."""
    if "0" not in code:
        return code
    return ".".join(str(int(part)) for part in code.split("."))


# --- why it was refused ---

AUTHENTICATION = frozenset(
    f"7.{detail}" for detail in (20, 21, 22, 23, 24, 25, 26, 27, 30, 31, 32, 40, 509, 515)
)  # fmt: skip
"""The last two numbers of the codes that say: it could not be verified that the message comes from us.

RFC 7372: DKIM (20-22), SPF (23, 24), reverse DNS (25), several (26); RFC 7505: the sender's domain takes no mail (27).
Gmail, "SMTP errors and codes": none of all (26), SPF (27), DKIM (30), DMARC (31, 40), alignment (32). Microsoft, "NDR
error codes in Exchange Online" and "Fix NDR error 550 5.7.515": SPF (23), DMARC (509), all three (515).
Not 29: ARC in the registry, "not sent over TLS" at Gmail, and it is Gmail that sends it.
"""

_HARD, _SOFT, _BLOCK, _UNDETERMINED = BounceKind.HARD, BounceKind.SOFT, BounceKind.BLOCK, BounceKind.UNDETERMINED

_BY_DETAIL: dict[str, BounceKind] = {
    "1.7": _BLOCK,  # our sender address is malformed
    "1.8": _BLOCK,  # our sender's domain is refused
    "1.9": _SOFT,  # relayed to a mailer that cannot report back
    "1.20": _BLOCK,  # Exchange Online: what is in our From; in the next one, how much our own tenant may send
    "1.90": _BLOCK,
    "4.4": _HARD,  # unable to route: the address' domain has no host
    "4.310": _HARD,  # Exchange Online: "DNS domain ... does not exist"
    "7.17": _HARD,  # RFC 7293: the mailbox has another owner now; about the address, although filed under policy
    "7.18": _HARD,  # RFC 7293: the domain has
}

_BY_SUBJECT: dict[str, BounceKind] = {
    "1": _HARD,  # the address: no such mailbox, no such domain, moved, null MX (RFC 7505)
    "2": _SOFT,  # the mailbox: disabled, full, message too long for it, list trouble
    "3": _SOFT,  # the receiving system: full, not accepting, message too big
    "4": _SOFT,  # network and routing: no answer, congestion, expired
    "5": _SOFT,  # protocol: too many recipients, syntax; another attempt may differ
    "6": _BLOCK,  # the content or its conversion
    "7": _BLOCK,  # security and policy: reputation, authentication, spam
}

_NO_MAILBOX = "mailbox unavailable"
"""With 5.5.0, and nothing else said, Outlook.com has no such mailbox. Alone it is RFC 5321's text for any 550 (4.2.3)."""

_BY_REPLY: dict[int, BounceKind] = {
    556: _HARD,  # RFC 7504: the domain never accepts mail
    530: _BLOCK,  # authentication required
    534: _BLOCK,
    535: _BLOCK,
    538: _BLOCK,
    571: _BLOCK,  # not in the RFC; used for policy
}
# Where the words say nothing: servers use these for other causes as well.
_BY_REPLY_ALONE: dict[int, BounceKind] = {
    521: _HARD,  # RFC 7504: the host never accepts mail; AT&T: our address is blocked
    552: _SOFT,  # mailbox full (RFC 5321) or message too large (RFC 1870); Yahoo: no such mailbox; a filter refused
}


_NOT_LOCAL = 551
_ELSEWHERE = ("not local", "not hosted here", " moved", "please try <")
"""RFC 5321, 3.4: the user is not here, "please try <another address>". Servers use 551 for anything else as well."""
_WE_ARE_NOT_LOCAL = ("your ip", "you are", "sender")


def bounce_kind_of(enhanced_code: str | None, smtp_code: int | None, text: str | None) -> BounceKind:
    """Return why a final refusal happened, from its codes and, where these are generic, its words.

    For the cases in which a provider says nothing better. A 4yz answer that
    became final (retries ran out) is never ``HARD``: it said nothing permanent.
    """
    quoted = quoted_refusal(enhanced_code, text)
    if quoted is not None:
        kind = _kind_of(quoted.reply.enhanced_code, quoted.reply.smtp_code, quoted.text)
        if kind is not _UNDETERMINED:
            return kind
    return _kind_of(enhanced_code, smtp_code, text)


def _kind_of(enhanced_code: str | None, smtp_code: int | None, text: str | None) -> BounceKind:
    """Return the kind for one answer: by an enhanced code that names a cause, else by such a reply code, else by the words."""
    rest = (enhanced_code or "").partition(".")[2]
    transient = is_transient(enhanced_code, smtp_code)
    meant = None if transient else meant_otherwise(enhanced_code, text) or _no_such_user(rest, text)
    if meant is not None:
        return meant
    kind = _BY_DETAIL.get(rest) or _BY_SUBJECT.get(rest.partition(".")[0])
    if transient:
        return _BLOCK if kind is _BLOCK else _SOFT
    if rest.startswith("1.") and wording.quotes_refusal_of_sender(text):
        kind = _BLOCK
    # 6.0 and 7.0 do say what it was about, and "does not exist" is said of the sender there.
    if kind is _BLOCK or (kind is not None and not leaves_cause_to_words(enhanced_code, smtp_code)):
        return kind
    words = wording.words_of(text)
    said = _BY_REPLY.get(smtp_code or 0) or wording.kind_of_words(words)
    if said is not _UNDETERMINED:
        return said
    not_here: tuple[str, ...] = (_NO_MAILBOX,) if rest == "5.0" else ()
    if kind is None and smtp_code == _NOT_LOCAL and not any(phrase in words for phrase in _WE_ARE_NOT_LOCAL):
        not_here = _ELSEWHERE
    if any(phrase in words for phrase in not_here):
        return _HARD
    return kind or _BY_REPLY_ALONE.get(smtp_code or 0, _UNDETERMINED)


def leaves_cause_to_words(enhanced_code: str | None, smtp_code: int | None) -> bool:
    """Tell whether the codes of a refusal name no cause: none, "other or undefined" of a subject, or a protocol error.

    Nor does a code for the address with 552, which is about storage: Orange has 552 5.1.1 for a full mailbox.
    """
    _, _, cause = (enhanced_code or "").partition(".")
    return (
        cause in {"", _QUOTES_A_REFUSAL}
        or cause.endswith(".0")
        or cause[0] == "5"
        or (cause[0] == "1" and smtp_code == _STORAGE)
    )


_STORAGE = 552
_QUOTES_A_REFUSAL = "1.351"
"""Exchange Online: "Remote server returned unknown recipient or mailbox unavailable -> ", and what that server said."""


def meant_otherwise(enhanced_code: str | None, text: str | None) -> BounceKind | None:
    """Return the kind where words say that a server means something else by its code than RFC 3463; else None."""
    rows = _MEANT_OTHERWISE.get((enhanced_code or "").partition(".")[2])
    if rows is None:
        return None
    said = (text or "")[:LOOKED_AT].lower()
    return next((kind for kind, phrases in rows if any(phrase in said for phrase in phrases)), None)


_MEANT_OTHERWISE: dict[str, tuple[tuple[BounceKind, tuple[str, ...]], ...]] = {
    # RFC 3463, no answer from the host. Microsoft Learn, "Fix NDR error 550 5.4.1": no such mailbox, as in "All recipient
    # addresses rejected". Zoho: a rule of the recipient's organisation.
    "4.1": (
        (_HARD, ("recipient address rejected", "recipient addresses rejected")),
        (_BLOCK, ("rejected by destination domain",)),
    ),
    # RFC 7505, the domain takes no mail. Microsoft Learn, "5.1.10 in Exchange Online": no such mailbox.
    "1.10": ((_HARD, ("recipientnotfound", "not found by smtp address lookup")),),
    # RFC 3463, too long for the mailbox. Zoho: a rule of the recipient's organisation, of whatever sort.
    "2.3": ((_BLOCK, ("mailpolicy violation",)),),
}


def _no_such_user(rest: str, text: str | None) -> BounceKind | None:
    """Return that the address is wrong where words say so beside a code that is sent with refusals of any sort."""
    if rest not in _ANY_POLICY or wording.refuses_sender(text):
        return None
    return _HARD if wording.names_no_mailbox(wording.words_of(text)) else None


_ANY_POLICY = frozenset({"7.0", "7.1"})  # Yandex: "550 5.7.1 No such user!"


def blocks_by_code(enhanced_code: str | None, smtp_code: int | None) -> bool:
    """Tell whether the codes of a refusal say that it is one of the sender or the content."""
    rest = (enhanced_code or "").partition(".")[2]
    kind = _BY_DETAIL.get(rest) or _BY_SUBJECT.get(rest.partition(".")[0])
    return _BLOCK in {kind, _BY_REPLY.get(smtp_code or 0)}


def names_address(enhanced_code: str | None, smtp_code: int | None) -> bool:
    """Tell whether the codes of a refusal for good say what is wrong with the recipient's address or domain."""
    return (enhanced_code or "").partition(".")[2] in _NAMES_ADDRESS and smtp_code not in _SAID_OF_ANYBODY


_NAMES_ADDRESS = frozenset({"1.1", "1.2", "1.3", "1.6", "1.10", "4.4", "4.310", "7.17", "7.18"})
_SAID_OF_ANYBODY = frozenset({521, 551})
"""Also sent where our own address is blocked, or is not one of the server's own network."""


def is_transient(enhanced_code: str | None, smtp_code: int | None) -> bool:
    """Tell whether an answer says that another attempt may succeed; the enhanced code decides, if there is one."""
    if enhanced_code:
        return enhanced_code.startswith("4")
    return smtp_code is not None and 400 <= smtp_code < 500  # noqa: PLR2004 the transient class of RFC 5321
