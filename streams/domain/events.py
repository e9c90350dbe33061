"""The vocabulary: what a provider can report about one message to one recipient.

Every provider's words are translated into these, and everything after the
providers uses only these. They come from RFC 5321/3463/3464 and common usage;
a new one needs a line here that says what it means in mail terms.
"""

import hashlib
import re
import unicodedata
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Protocol, TypeVar

_SHOWN: Final = re.compile(r".*<([^<>]*[^<>\s]@[^<>\s][^<>]*)>")
"""With an address in it: by less, a search would find everybody."""


class EventType(StrEnum):
    """What happened to the delivery."""

    SENT = "sent"  # the provider took the message and will try to deliver it
    DEFERRED = "deferred"  # the receiving side does not take it now (4yz); it will be tried again
    DELIVERED = "delivered"  # the receiving server accepted it (250); no proof of the inbox
    BOUNCE = "bounce"  # the receiving server refused it for good; see BounceKind
    BOUNCE_OR_AUTO_REPLY = "bounce_or_auto_reply"  # SES Transient/General: a bounce, or an out-of-office reply
    AUTO_REPLY = "auto_reply"  # an out-of-office or challenge reply: proof of nothing
    DROPPED = "dropped"  # the provider did not even try: suppression list, quota, content
    OPEN = "open"  # the tracking image was loaded, by a person as far as the provider can tell
    MACHINE_OPEN = "machine_open"  # a privacy proxy or gateway loaded the image: proof of delivery only
    CLICK = "click"  # a tracked link was followed
    COMPLAINT = "complaint"  # the recipient marked it as spam (feedback loop, RFC 5965)
    UNSUBSCRIBE = "unsubscribe"  # the recipient does not want more of these
    OTHER = "other"  # known, and says nothing about the delivery (resubscribe, stored, ...): timeline only
    UNKNOWN = "unknown"  # a word this version does not know: counted, timeline only, never a failure


class BounceKind(StrEnum):
    """Why the receiving side refused, as far as it decides what to do next."""

    HARD = "hard"  # permanent and about the address: it does not exist (5.1.x), or the provider's own class is its hard one
    SOFT = "soft"  # retries ran out, mailbox full, message too large: a later message may pass
    BLOCK = "block"  # about us, not the address: reputation, policy, content (5.7.x)
    UNDETERMINED = "undetermined"  # the provider cannot tell


class SuppressionList(StrEnum):
    """The list of the account at the provider that made it drop the message."""

    BOUNCE = "bounce"  # the address bounced before
    SPAM = "spam"  # the recipient complained before
    UNSUBSCRIBE = "unsubscribe"  # the recipient unsubscribed before
    INVALID = "invalid"  # the address is malformed or known not to exist


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryEvent:
    """One thing that happened to one message to one recipient.

    Times are aware UTC datetimes. ``occurred_at`` is by the clock of the
    provider or of the receiving server, ``received_at`` by that of our ingress.
    """

    event_id: str
    """The provider's own id of the occurrence, else a fingerprint over what identifies it."""
    provider: str
    account: str
    message_id: str
    """The provider's id of the message, without angle brackets."""
    recipient: str
    """The address as the provider wrote it; ``normalised_recipient`` identifies the mailbox."""
    type: EventType
    received_at: datetime
    occurred_at: datetime | None = None
    reference: str | None = None
    """The application's own name for what was mailed: the invoice."""
    bounce_kind: BounceKind | None = None
    """Set exactly when ``type`` is ``BOUNCE``."""
    reason: str | None = None
    """The receiving server's answer or the provider's explanation, as text."""
    smtp_code: int | None = None
    """RFC 5321 reply code, 200-599."""
    enhanced_code: str | None = None
    """RFC 3463 status code, such as ``5.1.1``."""
    attempt: int | None = None
    """The provider's count of delivery attempts, from 1."""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    machine: bool = False
    """A machine, not a person, caused it, as far as the provider says."""
    user_agent: str | None = None
    suppression_list: SuppressionList | None = None
    retry_until: datetime | None = None
    """When the provider will give up, if it says so (SES ``expirationTime``)."""
    provider_event: str = ""
    """The provider's own word, such as ``failed/temporary``."""

    @property
    def delivery_id(self) -> str:
        """The identity of the delivery this event belongs to."""
        return delivery_id(self.account, self.provider, self.message_id, self.recipient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """An application's report that it handed one message to one recipient to a provider.

    Some providers never report that they took a message, and an event may lack the reference: this gives both.
    """

    account: str
    provider: str
    message_id: str
    """The id of the message in the provider's webhooks: mostly what its API answered with, without angle brackets."""
    recipient: str
    """The address alone, without a display name."""
    reference: str | None = None
    """The application's own name for what was mailed: the invoice."""
    sent_at: datetime | None = None
    """When the provider took it, by the application's clock; None: when we received this."""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def delivery_id(self) -> str:
        """The identity of the delivery that this begins."""
        return delivery_id(self.account, self.provider, self.message_id, self.recipient)

    @property
    def event_id(self) -> str:
        """A fingerprint: the same report again is the same event, one with another reference is another event."""
        at = "" if self.sent_at is None else self.sent_at.astimezone(UTC).isoformat()
        # "mail.sends" is part of ids that are stored: it stays, even if the topic's name changes
        return fed(hashlib.sha256(), "mail.sends", self.delivery_id, at, self.reference or "").hexdigest()


def normalised_recipient(address: str) -> str:
    """Return the form of an address that identifies its mailbox: trimmed, in lower case.

    RFC 5321 lets a server tell local parts apart by case; none in practice does,
    and providers change the case between the events of one message.
    """
    return address.strip().lower()


def searched_recipient(address: str) -> str:
    """Return the form in which addresses are compared when one is searched: normalised, with the domain's own letters.

    Nobody types ``xn--mller-kva.example`` for müller.example, but many providers write it so (RFC 5890).
    """
    local, at, domain = normalised_recipient(address).rpartition("@")
    if "xn--" in domain:
        domain = ".".join(map(_own_letters, domain.split(".")))
    return unicodedata.normalize("NFC", f"{local}{at}{domain}")


def shown_address(text: str) -> str:
    """Return the address in what mail programs show, as ``Ann Berg <ann@customer.example>``; else the text itself."""
    shown = _SHOWN.fullmatch(text.strip())
    return shown[1] if shown else text


def _own_letters(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        letters = label.removeprefix("xn--").encode("ascii").decode("punycode")
    except UnicodeError:
        return label
    return letters if letters and letters.isprintable() else label  # half of a surrogate pair is no text


def normalised_reference(reference: str) -> str:
    """Return the form in which references are compared when one is searched: trimmed, in lower case, composed (NFC).

    People type ``inv-4711`` for INV-4711, and no keyboard tells whether its ``ü`` is one character or two.
    """
    return unicodedata.normalize("NFC", reference.strip().lower())


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


_D = TypeVar("_D", bound=_Digest)


def fed(digest: _D, *parts: str) -> _D:
    """Return a digest that has taken in the parts. All ids are made like this and are stored, so it never changes.

    Each is UTF-8 after its length (4 bytes, big endian), which keeps ``("ab", "c")`` apart from ``("a", "bc")``.
    """
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest


def delivery_id(account: str, provider: str, message_id: str, recipient: str) -> str:
    """Return the 26 characters (BLAKE2b-128, base32, lower case) that name one message to one recipient.

    It carries no address, is safe in a URL and in a Kafka key, and spreads evenly over partitions.
    """
    digest = fed(hashlib.blake2b(digest_size=16), account, provider, message_id, normalised_recipient(recipient))
    return b32encode(digest.digest()).decode("ascii").rstrip("=").lower()
