"""Old webhook bodies made new: fresh ids, and times moved so that a message's newest is now.

So the same recorded bodies can be fed again and again and are new messages each
time. Ids are replaced consistently over all bodies of one call, so that the
events of a message stay together and a duplicate stays a duplicate; each id
keeps its shape. The times of a message are all moved by the same amount.
Everything else stays as it is, also a body that cannot be read and a signature:
so the signature of a fresh body is not valid.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import shake_256
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from streams import codecs

_SECONDS: Final = re.compile(r"-?\d{1,12}(\.\d+)?")
_ISO: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)T(?P<clock>\d\d:\d\d:\d\d)(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:?\d\d)"
)
_MICROSECOND_DIGITS: Final = 6
_LEAST_MILLISECONDS: Final = 10**11
"""A number from here on is milliseconds: as such 1973, as seconds the year 5138."""
_CLASSES: Final = ("0123456789", "abcdef", "ghijklmnopqrstuvwxyz", "ABCDEF", "GHIJKLMNOPQRSTUVWXYZ")
_SENDGRID_ID: Final = 22  # 16 bytes in base64
_LONG_ID: Final = 12
_LARGEST_ID: Final = 2**63 - 1
_DEEPEST: Final = 64

_JSON_TEXTS: Final = frozenset({"message", "message-headers"})
"""Names of strings that hold JSON: SNS's ``Message``, Mailgun's legacy ``message-headers`` (a list of pairs)."""
_FOREIGN: Final = frozenset(
    {"metadata", "user-variables", "tags", "custom_args", "unique_args", "customid", "payload", "customcampaign"}
)  # fmt: skip
"""What the application attached to the message: an id or a time in it is the application's own."""


@dataclass(frozen=True, slots=True)
class _Names:
    """The fields of a provider that have to be fresh; in lower case, as ``Message-Id`` and ``message-id`` are one."""

    message: Sequence[str]
    """Ids of the message, the best one first, as ``name`` or ``owner.name``: events that share it move together."""
    other: frozenset[str]
    """Ids of the event, of the request, of the notification."""
    times: frozenset[str]
    """Times of what happened."""
    deadlines: frozenset[str] = frozenset()
    """Times that are moved too but do not count as the newest: in the future, or in a zone that nobody names."""

    def known(self) -> frozenset[str]:
        """Return every name, without its owner."""
        return self.message_ids() | self.other | self.times | self.deadlines

    def message_ids(self) -> frozenset[str]:
        """Return the names of the message's ids, without their owner."""
        return frozenset(name.rpartition(".")[2] for name in self.message)


_NAMES: Final[Mapping[str, _Names]] = {
    # https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
    "sendgrid": _Names(("sg_message_id", "smtp-id"), frozenset({"sg_event_id"}), frozenset({"timestamp"})),
    # https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html; id and time: EventBridge
    "amazon_ses": _Names(
        ("mail.messageid",),
        frozenset({"feedbackid", "id", "message-id"}),
        frozenset({"timestamp", "arrivaldate", "time"}),
        frozenset({"expirationtime"}),
    ),
    # https://documentation.mailgun.com/docs/mailgun/user-manual/tracking-messages/
    "mailgun": _Names(("message-id",), frozenset({"id", "token", "event-id"}), frozenset({"timestamp"})),
    # https://postmarkapp.com/developer/webhooks/webhooks-overview
    "postmark": _Names(
        ("messageid",), frozenset({"id"}), frozenset({"deliveredat", "bouncedat", "receivedat", "changedat"})
    ),
    # https://learn.microsoft.com/azure/event-grid/communication-services-email-events
    "azure_communication": _Names(
        ("data.messageid",),
        frozenset({"id"}),
        frozenset({"deliveryattempttimestamp", "useractiontimestamp", "eventtime"}),
    ),
    # https://developers.brevo.com/docs/transactional-webhooks; "id" is the webhook's, and stays
    "brevo": _Names(
        ("message-id", "messageid"), frozenset(), frozenset({"ts_epoch", "ts_event", "date"}), frozenset({"ts"})
    ),
    # https://dev.mailjet.com/email/guides/webhooks/
    "mailjet": _Names(("messageid", "mj_message_id"), frozenset({"message_guid"}), frozenset({"time"})),
    # https://resend.com/docs/webhooks/event-types; timestamp: a click's
    "resend": _Names(("data.email_id", "data.message_id"), frozenset(), frozenset({"created_at", "timestamp"})),
}


def freshened(bodies: Sequence[tuple[str, bytes]], *, now: datetime, run: str) -> list[bytes]:
    """Return the bodies as if their messages were new.

    Args:
        bodies: provider and body of each request.
        now: aware; becomes the time of the newest event of each message.
        run: different for each call; the same run gives the same ids.
    """
    documents = [_Document.read(provider, body) for provider, body in bodies]
    newest: dict[str, datetime] = {}
    for document in documents:
        for part in document.parts:
            message = _message(part, document.names)
            times = list(_times(part, document.names))
            if times:
                newest[message] = max([*times, *([newest[message]] if message in newest else [])])
    for document in documents:
        for index, part in enumerate(document.parts):
            moment = newest.get(_message(part, document.names))
            shift = now - moment if moment is not None else timedelta()
            document.parts[index] = _Fresh(document.names, run, shift).value(part)
    return [document.written() for document in documents]


@dataclass(slots=True)
class _Document:
    """A body split into parts that are each about one message, and how to join them again."""

    names: _Names
    parts: list[Any]
    write: Callable[[list[Any]], bytes]

    @classmethod
    def read(cls, provider: str, body: bytes) -> "_Document":
        names = _NAMES.get(provider)
        if names is None:
            return cls.unread(body)
        try:
            value = codecs.decode(body)
        except codecs.DecodeError:
            return cls._read_lines(names, body) or cls._read_form(names, body) or cls.unread(body)
        if _is_deep(value, _DEEPEST):
            return cls.unread(body)
        if isinstance(value, list):
            return cls(names, value, codecs.encode)
        return cls(names, [value], lambda parts: codecs.encode(parts[0]))

    @classmethod
    def _read_lines(cls, names: _Names, body: bytes) -> "_Document | None":
        """Read JSON values, one a line, as Firehose delivers them."""
        try:
            values = [codecs.decode(line) for line in body.splitlines() if line.strip()]
        except codecs.DecodeError:
            return None
        if _is_deep(values, _DEEPEST):
            return None
        return cls(names, values, lambda parts: b"".join(codecs.encode(part) + b"\n" for part in parts))

    @classmethod
    def _read_form(cls, names: _Names, body: bytes) -> "_Document | None":
        """Read ``application/x-www-form-urlencoded``, in which a name may come twice."""
        try:
            pairs = parse_qsl(body.decode("ascii").strip(), keep_blank_values=True, strict_parsing=True)
        except (UnicodeDecodeError, ValueError):
            return None
        if not any(name.lower() in names.known() for name, _ in pairs):
            return None
        return cls(names, [_Form(pairs)], lambda parts: urlencode(parts[0].pairs).encode("ascii"))

    @classmethod
    def unread(cls, body: bytes) -> "_Document":
        return cls(_Names((), frozenset(), frozenset()), [], lambda _parts: body)

    def written(self) -> bytes:
        return self.write(self.parts)


@dataclass(slots=True)
class _Form:
    pairs: list[tuple[str, str]]


@dataclass(slots=True)
class _Fresh:
    """Replaces ids and moves times, also in nested values and in JSON inside strings."""

    names: _Names
    run: str
    shift: timedelta
    message_ids: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.message_ids = self.names.message_ids()

    def value(self, value: Any) -> Any:
        if isinstance(value, dict):
            header = str(value.get("name", ""))  # SES lists headers as objects of name and value
            return {name: self.member(header if name == "value" else name, inner) for name, inner in value.items()}
        if isinstance(value, _Form):
            return _Form([(name, str(self.member(name, inner))) for name, inner in value.pairs])
        if _is_pair(value):
            return [value[0], self.member(value[0], value[1])]
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        return value

    def member(self, name: str, value: Any) -> Any:
        name = name.lower()
        if name in _FOREIGN:
            return value
        if name in self.message_ids:
            return fresh_message_id(value, self.run)
        if name in self.names.other:
            return fresh_id(value, self.run)
        if name in self.names.times or name in self.names.deadlines:
            return moved(value, self.shift)
        if name in _JSON_TEXTS and (inside := _json_inside(value)) is not None:
            return codecs.encode(self.value(inside)).decode("utf-8")
        return self.value(value)


def fresh_message_id(value: Any, run: str) -> Any:
    """Return another message id of the same shape; what a provider adds to an id or puts around it stays.

    A number and its digits as text are one id and stay one (Mailjet's ``MessageID`` and ``mj_message_id``).
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and value[0] != "0" and len(value) < 20:  # noqa: PLR2004 - 64 bits
        return str(fresh_id(int(value), run))
    if not isinstance(value, str) or not value:
        return fresh_id(value, run)
    base = message_base(value)
    return value.replace(base, fresh_id(base, run), 1)


def message_base(value: str) -> str:
    """Return the part of a message id that names the message: ``id`` of ``<id@host>`` and SendGrid's ``id.recv...``."""
    bare = re.split(r"\.recv|\.filter|@", value.strip("<> "))[0] or value
    return bare[:_SENDGRID_ID] if bare.find(".") == _SENDGRID_ID else bare


def fresh_id(value: Any, run: str) -> Any:
    """Return another id of the same shape: always the same one for the same id and run."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not value:
        return value
    noise = shake_256(f"{run}:{value}".encode("utf-8", "surrogatepass"))
    if isinstance(value, int):
        low = 10 ** (len(str(abs(value))) - 1)
        return low + int.from_bytes(noise.digest(8), "big") % (min(9 * low - 1, _LARGEST_ID - low) + 1)
    fresh = "".join(_like(char, byte) for char, byte in zip(value, noise.digest(len(value)), strict=True))
    # there are few short ids of one shape: two runs could get the same one
    return fresh if sum(map(str.isalnum, value)) >= _LONG_ID else f"{run}{fresh}"


def _like(char: str, byte: int) -> str:
    """Return a character of the same class, so that digits, hexadecimal and base64 remain what they are."""
    for letters in _CLASSES:
        if char in letters:
            return letters[byte % len(letters)]
    return char


def moved(value: Any, shift: timedelta) -> Any:
    """Return a time moved, in its own notation: a number, seconds as text, or ISO 8601; anything else as it is."""
    if isinstance(value, bool) or instant(value) is None:
        return value
    seconds = shift.total_seconds()
    try:
        if isinstance(value, int):
            return round(value + seconds * (1_000 if value >= _LEAST_MILLISECONDS else 1))
        if isinstance(value, float):
            return round(value + seconds, _MICROSECOND_DIGITS)
        if _SECONDS.fullmatch(value):
            digits = len(value.partition(".")[2])
            return f"{float(value) + seconds:.{digits}f}"
        return _moved_iso(value, shift)
    except OverflowError:  # beyond the year 9999
        return value


def instant(value: Any) -> datetime | None:
    """Return the time that a value means; None if it is not a time."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1_000 if value >= _LEAST_MILLISECONDS else value, UTC)
        if isinstance(value, str) and _SECONDS.fullmatch(value):
            return datetime.fromtimestamp(float(value), UTC)
        if isinstance(value, str) and (match := _ISO.fullmatch(value)):
            fraction = (match["fraction"] or "")[: _MICROSECOND_DIGITS + 1]
            return datetime.fromisoformat(f"{match['day']}T{match['clock']}{fraction}{match['zone']}")
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _moved_iso(value: str, shift: timedelta) -> str:
    match = _ISO.fullmatch(value)
    moment = instant(value)
    assert match is not None, "instant took it for ISO 8601"
    assert moment is not None, "as above"
    later = moment + shift
    digits = len(match["fraction"] or ".") - 1
    fraction = f".{later.microsecond:06d}".ljust(digits + 1, "0")[: digits + 1] if digits else ""
    return f"{later:%Y-%m-%dT%H:%M:%S}{fraction}{match['zone']}"


def _message(part: Any, names: _Names) -> str:
    """Return the id of the message that a part is about; parts without one share the empty id."""
    found = list(_members(part))
    for wanted in names.message:
        for owner, name, value in found:
            if wanted not in {name, f"{owner}.{name}"} or isinstance(value, bool) or not value:
                continue
            if isinstance(value, (str, int)):
                return message_base(str(value))
    return ""


def _times(part: Any, names: _Names) -> Iterator[datetime]:
    for _, name, value in _members(part):
        if name in names.times and (moment := instant(value)) is not None:
            yield moment


def _members(value: Any, owner: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield owner, name and value of everything that has a name, names in lower case."""
    members: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, _Form):
        members = value.pairs
    elif _is_pair(value):
        members = [(value[0], value[1])]
    elif isinstance(value, list):
        for inner in value:
            yield from _members(inner, owner)
    for written, inner in members:
        name = written.lower()
        if name in _FOREIGN:
            continue
        yield owner, name, inner
        inside = _json_inside(inner) if name in _JSON_TEXTS else None
        yield from _members(inner if inside is None else inside, name)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)  # noqa: PLR2004 - a pair is two


def _is_deep(value: Any, left: int) -> bool:
    """Tell whether values are nested more than ``left`` times, as in no webhook."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (left == 0 or any(_is_deep(inner, left - 1) for inner in value))


def _json_inside(value: Any) -> Any:
    """Return the JSON object or list that a string holds; None if it holds none."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        try:
            inside = codecs.decode(value)
        except codecs.DecodeError:
            return None
        return None if _is_deep(inside, _DEEPEST) else inside
    return None
