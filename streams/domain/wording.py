"""What the words of mail servers' answers say of a refusal, whatever their codes are.

First the words are taken from an answer (``words_of``), without the names in it.
Then each question has its phrases beside it, and ``kind_of_words`` at the end
says in which order they count. Rule of this file: it knows no code, it never
raises, and its time is bounded for any text, because only the first
``LOOKED_AT`` characters are read: phrases are plain substrings, and patterns look
only a bounded distance around one.

To add an answer: put it into a file of ``tests/domain/answers`` first, then the
shortest phrase of it that names the cause into the right row below.
"""

import re
from functools import lru_cache

from streams.domain.events import BounceKind

LOOKED_AT = 1_000
"""Characters of an answer that are read; servers put first what matters."""


def words_of(text: str | None) -> str:
    """Return the words of an answer that may be its reason, in lower case: what the functions below read."""
    return _words_of((text or "")[:LOOKED_AT])


@lru_cache(maxsize=64)  # its kind and its advice ask for the words of one answer several times
def _words_of(text: str) -> str:
    words = without_names(text).lower()
    for preface in _PREFACES:
        words = words.replace(preface, "")
    if "=pass" in words:
        words = _PASSED.sub("", words)
    return without_space_of_server(words)


_PREFACES = (
    "unknown address error",  # Cisco, 5.1.0
    "remote server returned unknown recipient or mailbox unavailable",  # Exchange Online, 5.1.351
)
"""What a relay says itself before whatever a server said of the recipient, such as that the message is too large."""
_PASSED = re.compile(r"(?<![a-z])(?:spf|dkim|dmarc)=pass(?![a-z])", re.ASCII)
"""What was verified is no reason: "account does not exist [spf=pass dkim=pass]"."""


# An address, a link, a host name. Each begins where a word begins, and its parts cannot contain what ends them: a
# character is looked at a few times. Host names are in small letters: "RESOLVER.ADR.RecipientNotFound" is none.
# Nor is "user unknown.please check": a host has two dots, a digit, a hyphen or a well-known end.
_NAMES = re.compile(
    r"(?<![\w.+=-])[\w.+=-]{1,128}@[\w.-]{1,255}"
    r"|(?P<name>https?://[^\s;,)>\"']{1,1000}|(?<![\w.-])(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,63}(?![\w-]))",
    re.ASCII,
)
_BLOCK_LISTS = ("spamhaus", "spamcop", "barracudacentral", "dnsbl", "surbl", "uribl", "blacklist", "blocklist")
_GREYLIST = re.compile(r"gr[ae]y-?list(?:ing|ed)?|postgrey", re.ASCII)


def without_names(text: str) -> str:
    """Return what is read of an answer without the addresses, links and hosts that it names: they are nobody's reason.

    The name of a block list is one, and stays, though not the word "greylist" in it.
    """
    return _NAMES.sub(_reason_in, text[:LOOKED_AT])


def _reason_in(found: re.Match[str]) -> str:
    name: str | None = found["name"]
    if name is None:
        return ""
    if _NO_HOST.fullmatch(name):
        return name
    lowered = name.lower()
    if _LIST_LABELS.search(lowered) is None and not any(known in lowered for known in _BLOCK_LISTS):
        return ""
    return _GREYLIST.sub("", lowered)


def links_to_greylisting(text: str) -> bool:
    """Tell whether an answer has a link about greylisting, such as "see http://postgrey.schweikert.ch/help/x.html".

    That may be why, if nothing else is said. The name of a block list comes first.
    """
    if "://" not in text[:LOOKED_AT]:
        return False
    return any(
        name.startswith("http")
        and _GREYLIST.search(name) is not None
        and not any(known in name for known in _BLOCK_LISTS)
        for name in ((found["name"] or "").lower() for found in _NAMES.finditer(text[:LOOKED_AT]))
    )


# Of the top-level domains only such as are no word that may begin a sentence.
_NO_HOST = re.compile(
    r"[a-z]+\.(?!(?:com|net|org|info|biz|edu|gov|eu|de|fr|uk|nl|ch|pl|cz|ru|br|ca|au|jp|cn)\Z)[a-z]+", re.ASCII
)
_LIST_LABELS = re.compile(r"(?<![\w-])r?bl\.", re.ASCII)  # bl.mailspike.net


# --- our own address is not accepted ---

_SENDER_PLAINLY_REFUSED = (
    "sender rejected",
    "sender denied",
    "sender address rejected",
    "sender verify",
    "sender does not exist",
    "sender address does not exist",
    "sender's domain does not exist",
    "domain of sender",
    "domain of the sender",
    "absenderpostfach gesperrt",
    "absenderpostfach ist gesperrt",
    "absenderpostfach existiert",
)
_SENDER_UNKNOWN = (  # after words for the mailbox only in passing: "user unknown (we do not accept unknown senders)"
    "sender unknown",
    "sender address unknown",
    "sender mailbox not found",
    "sender not found",
    "unknown sender",
    "invalid sender",  # Orange, of our domain
)
_SENDER_REFUSED = (*_SENDER_PLAINLY_REFUSED, *_SENDER_UNKNOWN, "sender domain")  # the last one may only name us


def refuses_sender(text: str | None) -> bool:
    """Tell whether the words of an answer refuse our own address."""
    return _says_of_sender(text, _SENDER_REFUSED)


def quotes_refusal_of_sender(text: str | None) -> bool:
    """Tell whether an enhanced code about an address is quoted from what our own server said of our own, as Exim does.

    "User unknown; sender domain ours.example" only names us. A sender that is unknown is the cause unless words for the
    mailbox stand before: "unknown sender: no such user" is all about ours.
    """
    if _says_of_sender(text, _SENDER_PLAINLY_REFUSED):
        return True
    if not _says_of_sender(text, _SENDER_UNKNOWN):
        return False
    words = words_of(text)
    sender = _first(words, _SENDER_UNKNOWN)
    return not (names_no_mailbox(words[:sender]) or any(verb in words[:sender] for verb in _DOES_NOT_EXIST))


def _says_of_sender(text: str | None, phrases: tuple[str, ...]) -> bool:
    if text is None or "sender" not in text[:LOOKED_AT].lower():  # spares the common 5.1.1
        return False
    words = words_of(text)
    return any(phrase in words for phrase in phrases)


def _first(words: str, phrases: tuple[str, ...]) -> int:
    return min(words.index(phrase) for phrase in phrases if phrase in words)


TOO_MANY_WRONG = tuple(
    f"{much} {wrong} {whom}"
    for much in ("too many", "excessive", "rate of", "number of")
    for wrong in ("invalid", "unknown")
    for whom in ("recipient", "user")
)
"""We wrote to too many addresses that do not exist: GoDaddy and others block us then. It says nothing of this one."""


# --- the mailbox does not exist ---

_NO_SUCH_MAILBOX = (
    "user unknown",
    "unknown user",
    "no such user",
    "unknown recipient",
    "recipient unknown",
    "recipient not found",
    "recipientnotfound",
    "no such recipient",
    "invalid recipient",
    "no such mailbox",
    "mailbox not found",
    "unknown mailbox",
    "unknown address",
    "address unknown",
    "addressee unknown",
    "user not found",
    "not a valid mailbox",
    "not a valid recipient",
    "no such person",
    "no such address",
    "user not exist",  # Coremail
    "does not have an account",
    "not listed in domino directory",
    "unrouteable address",  # Exim: by its own tables
    "unknown local part",
    "adress unknown",  # sic: Strato
    "no mailbox here",
    "invalid user:",  # NetEase
    "user is terminated",  # Mail.ru
    "user doesn't have a",  # Yahoo: "This user doesn't have a yahoo.com account"
    "benutzer unbekannt",
    "unbekannter benutzer",
    "empfänger unbekannt",
    "empfaenger unbekannt",
    "utilisateur inconnu",
    "destinataire inconnu",
    "destinataire invalide",
    "usuario desconocido",
    "destinatario desconocido",
    "用户不存在",
    "邮箱不存在",
)
_DOES_NOT_EXIST = ("does not exist", "doesn't exist", "existiert nicht", "n'existe pas", "no existe")
# What does not exist may be ours: our address, or what the DNS says of our names. It stands near the verb, and nothing
# that a recipient has stands between them: "returned to sender because the user does not exist" is said of the user.
_OUR_ADDRESS = (  # "Absenderadresse" among them
    r"(?:sender|(?<!par l')exp[eé]diteur|[eé]metteur|(?<!por el )remitente|(?<![a-z])from address)(?:'s)?"
    r"(?:[ -]?(?:(?:e-?)?mail[ -]?)?(?:address|adresse|mailbox|account|konto|postfach|compte))?"
)
_OUR_RECORD = r"(?<![a-z])(?:ptr|spf|dkim|dmarc|helo|reverse dns|rdns)(?![a-z=])"
_THEIRS = (
    r"(?:(?<![a-z])(?:user|recipient|mailbox|account|contact|empf|postfach|konto|destinata|compte|cuenta|usuario|buz)"
    r"|(?<!ip )(?<!ip-)add?ress)"
)
_NEAR = rf"(?:(?!{_THEIRS}| - )[^.:;,()!/=\n]|\.\d){{0,30}}"
_VERB = f"(?:{'|'.join(_DOES_NOT_EXIST)})"
_VERB_FIRST = (  # "no existe registro SPF para su dominio"; "an A record does not exist for the HELO name"
    r"(?:(?:no existe|n'existe pas) "
    r"(?:(?:el|la|un|una|ning[uú]n|registros?|direcci[oó]n|cuenta|del?|d'enregistrement) ){0,4}"
    r"|does(?: not|n't) exist for (?:the|your) )"
)
_OURS_DOES_NOT_EXIST = re.compile(
    f"(?:{_OUR_ADDRESS}|{_OUR_RECORD}){_NEAR}{_VERB}|{_VERB_FIRST}(?:remitente|{_OUR_RECORD})", re.ASCII
)
_COMMAND_DOES_NOT_EXIST = re.compile(f"(?:command|verb|befehl|commande|comando) ?{_VERB}", re.ASCII)  # 502 5.5.1
_A_DOMAIN = ("domain", "domäne", "dominio")  # "domaine" among them


@lru_cache(maxsize=64)  # its kind and its advice ask the same
def names_no_mailbox(words: str) -> bool:
    """Tell whether the words are those for a mailbox that does not exist, whatever else they say."""
    return any(phrase in words for phrase in _NO_SUCH_MAILBOX) and not any(phrase in words for phrase in TOO_MANY_WRONG)


def _says_something_does_not_exist(words: str) -> bool:
    return any(verb in words for verb in _DOES_NOT_EXIST) and not _COMMAND_DOES_NOT_EXIST.search(words)


def _says_that_ours_does_not_exist(words: str) -> bool:
    return _says_something_does_not_exist(words) and _OURS_DOES_NOT_EXIST.search(words) is not None


def says_no_such_mailbox(words: str) -> bool:
    """Tell whether the words of an answer say that the mailbox does not exist, and not that its domain does not."""
    if kind_of_words(words) is not BounceKind.HARD:
        return False
    return names_no_mailbox(words) or not any(domain in words for domain in _A_DOMAIN)


# --- the mailbox is closed ---

# "blocked" is said of the mailbox, not of us; whether for good, the code says. Our own account may be blocked, too.
_CLOSED = re.compile(
    r"(?<!your )(?<!sender )(?<!sender's )(?<!sending )(?<!absender)"
    r"(?:(?:mailbox|account) (?:is ?|has been )?(?:temporarily |currently )?(?:blocked|closed)"
    r"|(?:mailbox|account|user|recipient) (?:that you tried to reach )?(?:is ?|has been )?(?:temporarily |currently )?"
    r"(?:disabled|suspended)"
    r"|archived recipient"  # Orange
    r"|postfach (?:ist )?(?:gesperrt|deaktiviert)|lettres (?:est )?d[eé]sactiv[eé]e"
    r"|accountdisabled|mailboxdisabled)",  # Exchange's exceptions
    re.ASCII,
)
_MAY_BE_CLOSED = ("blocked", "closed", "disabled", "suspended", "archived", "postfach", "lettres")
"""One of them stands in whatever ``_CLOSED`` finds."""
_WHO_IS_INACTIVE = ("mailbox", "account", "user", "recipient")


def says_closed(words: str) -> bool:
    """Tell whether the words of an answer say that the mailbox takes no messages any more."""
    if "relaying to" in words:  # "relaying to this recipient is disabled"
        return False
    if "inactiv" in words and "your account" not in words:
        return any(who in words for who in _WHO_IS_INACTIVE)
    return any(word in words for word in _MAY_BE_CLOSED) and _CLOSED.search(words) is not None


_DISABLED = re.compile(
    r"(?<![a-z])(?:disabled|locked|closed|suspended|gesperrt)|d[eé]sactiv|deactiv|deaktiv|停用", re.ASCII
)
_SOMETHING_ELSE_IS = ("sender", "sending", "your account", "your ip", "your domain", "relay", "connection")


def says_disabled(words: str) -> bool:
    """Tell whether the words say that the mailbox is closed, where the code is about it already: one word is enough then."""
    return _DISABLED.search(words) is not None and not any(other in words for other in _SOMETHING_ELSE_IS)


# --- the mailbox is full, the message is too large or goes in a circle ---

FULL_IN_OTHER_LANGUAGES = (
    "postfach voll",
    "postfach ist voll",
    "empfängers ist voll",
    "empfaengers ist voll",
    "speicherplatz des",  # Kontos, Benutzers ueberschritten; "des Servers" is left out before
    "boîte pleine",
    "boite pleine",
    "destinataire pleine",  # Orange, 417
    "lettres pleine",
    "lettres est pleine",
    "quota dépass",
    "quota depass",
    "buzón lleno",
    "buzon lleno",
    "buzón está lleno",
    "buzon esta lleno",
    "cuota excedida",
    "邮箱已满",
    "空间不足",
)
"""Words for a full mailbox, for ``reasons`` as well: German, French, Spanish and Chinese."""
_SPACE_OF_SERVER = re.compile(
    r"speicherplatz des [\w-]{0,40}(?:server|system)|(?:系统|磁盘|服务器|附件)(?:存储|剩余)?空间不足"
)


def without_space_of_server(words: str) -> str:
    """Return the words without those for a server or a disk that is full: it is nobody's mailbox."""
    return _SPACE_OF_SERVER.sub("", words) if "speicherplatz" in words or "空间不足" in words else words


_FULL = (
    "mailbox full",
    "mailbox is full",
    "over quota",
    "overquota",
    "quota exceeded",
    "exceeded quota",
    "mailbox limit exceeded",
    "storage",
    "too many messages on the server",  # WEB.DE, of the mailbox
    *FULL_IN_OTHER_LANGUAGES,
)
_TOO_LARGE = (
    "message size",  # RFC 1870: "message size exceeds fixed maximum message size"; Exim, Postfix, Exchange
    "mail size",
    "mailsize",  # NetEase
    "message too large",
    "message is too large",
    "message too big",
    "message is too big",
    "message exceeds max",
    "message exceeds the max",
    "nachricht zu gro",  # groß, gross
    "nachricht ist zu gro",
    "message trop volumineux",
    "taille limite du message",  # Orange, 514
    "mensaje demasiado grande",
    "邮件过大",
)
_LOOP = ("mail loop", "routing loop", "too many hops", "hop count exceeded")


def says_too_large(words: str) -> bool:
    """Tell whether the words of an answer say that the message is too large."""
    return any(phrase in words for phrase in _TOO_LARGE)


def says_loop(words: str) -> bool:
    """Tell whether the words of an answer say that the message goes in a circle."""
    return any(phrase in words for phrase in _LOOP)


# --- it refuses us ---

_LISTS_US = (  # even where a mailbox is said to be blocked: "mail to this mailbox blocked using Spamhaus"
    "blacklist",
    "black list",
    "blocklist",
    "denylist",
    " rbl",
    " bl.",  # bl.mailspike.net
    "reputation",
    "spamhaus",
    "dnsbl",
    "blocked using",
    "blocked by spam",
)
_BLOCKS_US = (  # unless it is the mailbox that is closed
    "block",
    "spam",  # spam, Spamcop
    "policy",
    "dmarc",
    "dkim",
    "spf ",
    "spf:",
    "reverse dns",
    "reverse lookup",
    "ptr record",
    "ptr resource record",  # GMX
    "invalid dns mx",  # GMX, of our domain
    "ehlo argument",  # Gmail: "HELO/EHLO argument is invalid"
    "dt:spm",  # NetEase
    "a problem occurred. (ask your postmaster",  # T-Online
    "content denied",  # QQ
    "rejected by recipients",  # QQ: the recipient has listed us; the next, Exchange Online
    "access denied, rejected by recipient",
    "frequency limit",  # QQ
    "mail rejete",  # Orange, 506: suspected spam; the next, 103 and 510: our address
    "service refuse",
    "requires tls",  # Mimecast, as the next
    "requires encryption",
    "spoof",
    "authentication required",  # from whoever is not one of its users
    "administrative prohibition",  # Exim's text where an access list gives none
    "not accepting connections",  # a banner: the server does not want to talk to us
    "rate limit",
    "too many messages",
    "relay",  # relaying denied: we may not send there
    "virus",
    "垃圾邮件",  # spam
)
_OUR_HELO = re.compile(
    r"(?<![a-z])(?<!send )(?<!send a )(?<!say )(?<!ehlo or )helo(?![a-z]|(?:[/ ]| or )ehlo first| first| is required)",
    re.ASCII,
)
"""The name that we give is refused, however that is said. Not "send HELO first", which is about the order of commands."""
_PLAINLY_BLOCKS_US = (  # "policy" and "relay" alone are also said of a recipient
    "block",
    "relay not permitted",
    "relay access denied",
    "relaying denied",
    "policy restrictions",
    "policy reasons",
    "administrative policy",
    "spoof",
    "service refuse",
    "mailpolicy violation",  # Zoho, as the next
    "rejected by destination domain",
    "administrative prohibition",
    "authentication required",
    "rejected by recipients",
    "access denied, rejected by recipient",
)


def plainly_blocks_us(words: str) -> bool:
    """Tell whether the words of an answer that is a block leave no doubt that it is one."""
    return any(phrase in words for phrase in _PLAINLY_BLOCKS_US) or _says_that_ours_does_not_exist(words)


# --- why, from all of them ---

# The first row that is found wins.
_BY_WORDS = (
    # Why our own address is not accepted may read like a refusal of the recipient's. Postfix, 5.1.0: "Sender address
    # rejected: User unknown"; Exim puts the answer of our own server before "Sender verify failed".
    (BounceKind.BLOCK, (*_SENDER_REFUSED, *TOO_MANY_WRONG)),
    (BounceKind.SOFT, ("mx info", *_FULL, *_LOOP, *_TOO_LARGE)),  # SendGrid: "unable to get mx info"
    (BounceKind.HARD, _NO_SUCH_MAILBOX),
)


@lru_cache(maxsize=64)  # as above
def kind_of_words(words: str) -> BounceKind:
    """Return why a final refusal happened from its words alone."""
    for kind, phrases in _BY_WORDS:
        if any(phrase in words for phrase in phrases):
            return kind
    if _says_something_does_not_exist(words):
        return BounceKind.BLOCK if _says_that_ours_does_not_exist(words) else BounceKind.HARD
    if any(phrase in words for phrase in _LISTS_US):
        return BounceKind.BLOCK
    if says_closed(words):
        return BounceKind.UNDETERMINED
    if any(phrase in words for phrase in _BLOCKS_US) or ("helo" in words and _OUR_HELO.search(words) is not None):
        return BounceKind.BLOCK
    return BounceKind.UNDETERMINED
