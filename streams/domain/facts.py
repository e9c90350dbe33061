"""The facts of a delivery: what is known of all of its events together, and how one more is merged in.

The rule: merging is min, max and bounded union, so that any order and any repetition
of the same events gives the same facts. An event's own time counts only if its clock
can be right, and of two times close to each other none is later: the clocks are those
of providers and of receiving servers; they differ, and a minute between them says
nothing. Of several answers the one that says most counts, not simply the last.

Times in this file are integers: microseconds since 1970-01-01T00:00:00Z.
``domain.status`` derives the status from the facts.
"""

from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import TypeVar

from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList

SECOND = 1_000_000
SKEW = 60 * SECOND
"""Two times closer than this are not ordered."""
FUTURE = 5 * 60 * SECOND
"""An event cannot have happened longer than this after we received it: then its clock is wrong."""
PAST = 40 * 24 * 3600 * SECOND
"""Nor this long before: no provider reports that late."""
IDS_KEPT = 64
"""Most distinct events of one kind that are counted; an image may be loaded 100,000 times."""


class Kind(StrEnum):
    """The kinds of facts: the event types that concern the delivery, with bounces split by kind."""

    SENT = "sent"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    BOUNCE_HARD = "bounce_hard"
    BOUNCE_SOFT = "bounce_soft"
    BOUNCE_BLOCK = "bounce_block"
    BOUNCE_UNDETERMINED = "bounce_undetermined"
    BOUNCE_OR_AUTO_REPLY = "bounce_or_auto_reply"
    AUTO_REPLY = "auto_reply"
    DROPPED = "dropped"
    OPEN = "open"
    MACHINE_OPEN = "machine_open"
    CLICK = "click"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"


# Not frozen because the worker builds one for every event it reads, and a frozen dataclass takes four times as long to
# build. Once built it does not change (a test checks that of fold).


@dataclass(slots=True)
class Fact:
    """What is known of all events of one kind of one delivery."""

    first_at: int | None
    """Smallest known event time; None: no event of this kind had a believable one."""
    last_at: int | None
    """Largest known event time."""
    first_received_at: int
    ids: tuple[int, ...]
    """The smallest ``IDS_KEPT`` 64-bit hashes of the ids of its events, ascending; a full tuple means "64 or more"."""
    event_id: str
    """The event whose answer counts: the greatest by (how much it says; time, unknown being earliest; event id)."""
    reason: str | None
    """This and the two codes are its answer: a later event without an answer does not erase it."""
    smtp_code: int | None
    enhanced_code: str | None
    said_at: int | None = None
    """That event's time, if it is not ``last_at``; -1: unknown, while ``last_at`` is known."""

    @property
    def began(self) -> int:
        """When the first such event happened: by its own time if known, but not after the first was received."""
        return self.first_received_at if self.first_at is None else min(self.first_at, self.first_received_at)


_T = TypeVar("_T")
Said = tuple[int, str, _T]
"""A value and the event that said it last: (event time, -1 if unknown; event id; value). The greatest wins."""


# --- times ---


def believable(occurred_at: int | None, received_at: int) -> int | None:
    """Return an event's own time; None if there is none, or if the clock that it came from must be wrong."""
    if occurred_at is None or not max(received_at - PAST, 0) <= occurred_at <= received_at + FUTURE:
        return None
    return occurred_at


def later(one: int | None, other: int | None) -> bool:
    """Tell whether one event time is certainly after another: both are known, and ``SKEW`` does not explain it."""
    return one is not None and other is not None and one > other + SKEW


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """Return the microseconds from 1970-01-01T00:00:00Z to an aware datetime."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def from_micros(micros: int) -> datetime:
    """Return the aware UTC datetime that is this many microseconds after 1970-01-01T00:00:00Z."""
    return _EPOCH + timedelta(0, 0, micros)  # days, seconds, microseconds: keywords would take half as long again


# --- kinds ---

_KINDS = {
    EventType.SENT: Kind.SENT,
    EventType.DEFERRED: Kind.DEFERRED,
    EventType.DELIVERED: Kind.DELIVERED,
    EventType.BOUNCE_OR_AUTO_REPLY: Kind.BOUNCE_OR_AUTO_REPLY,
    EventType.AUTO_REPLY: Kind.AUTO_REPLY,
    EventType.DROPPED: Kind.DROPPED,
    EventType.OPEN: Kind.OPEN,
    EventType.MACHINE_OPEN: Kind.MACHINE_OPEN,
    EventType.CLICK: Kind.CLICK,
    EventType.COMPLAINT: Kind.COMPLAINT,
    EventType.UNSUBSCRIBE: Kind.UNSUBSCRIBE,
}
_BOUNCES = {
    BounceKind.HARD: Kind.BOUNCE_HARD,
    BounceKind.SOFT: Kind.BOUNCE_SOFT,
    BounceKind.BLOCK: Kind.BOUNCE_BLOCK,
    BounceKind.UNDETERMINED: Kind.BOUNCE_UNDETERMINED,
    None: Kind.BOUNCE_UNDETERMINED,  # a provider's file should have said which; the bounce counts all the same
}
_MACHINES_TOO = {Kind.OPEN: Kind.MACHINE_OPEN, Kind.CLICK: Kind.MACHINE_OPEN}


def kind_of(event: DeliveryEvent) -> Kind | None:
    """Return the kind of fact that the event is; None: it says nothing about the delivery."""
    if event.type is EventType.BOUNCE:
        return _BOUNCES[event.bounce_kind]
    kind = _KINDS.get(event.type)
    if event.machine and kind is not None:
        return _MACHINES_TOO.get(kind, kind)
    return kind


# --- merging ---


def fact_of(event: DeliveryEvent, at: int | None, received_at: int, digest: int) -> Fact:
    """Return the fact of a single event."""
    return Fact(at, at, received_at, (digest,), event.event_id, event.reason, event.smtp_code, event.enhanced_code)


def merged(fact: Fact, event: DeliveryEvent, at: int | None, received_at: int, digest: int) -> Fact:
    """Return the fact with one more event; the same object, if the event adds nothing."""
    first_at, last_at, ids = fact.first_at, fact.last_at, fact.ids
    if at is not None:
        first_at = at if first_at is None else min(first_at, at)
        last_at = at if last_at is None else max(last_at, at)
    if digest not in ids and (len(ids) < IDS_KEPT or digest < ids[-1]):
        place = bisect_left(ids, digest)
        ids = (*ids[:place], digest, *ids[place:])[:IDS_KEPT]
    first_received_at = min(fact.first_received_at, received_at)
    rank = -1 if at is None else at
    said_at = (-1 if fact.last_at is None else fact.last_at) if fact.said_at is None else fact.said_at
    if _speaks(event, rank, fact, said_at):
        said_at = rank
        said = (event.event_id, event.reason, event.smtp_code, event.enhanced_code)
    elif (first_at, last_at, first_received_at, ids) == (fact.first_at, fact.last_at, fact.first_received_at, fact.ids):
        return fact
    else:
        said = (fact.event_id, fact.reason, fact.smtp_code, fact.enhanced_code)
    is_last = said_at == (-1 if last_at is None else last_at)
    return Fact(first_at, last_at, first_received_at, ids, *said, None if is_last else said_at)


def _speaks(event: DeliveryEvent, rank: int, fact: Fact, said_at: int) -> bool:
    """Tell whether the event's answer, instead of the present one, counts for all of its kind.

    Two copies of one event may differ in their text; then the text decides, so that the order of arrival does not.
    """
    weight = weight_of(event.reason, event.smtp_code, event.enhanced_code)
    before = weight_of(fact.reason, fact.smtp_code, fact.enhanced_code)
    if weight != before:
        return weight > before
    if rank != said_at:
        return rank > said_at
    if event.event_id != fact.event_id:
        return event.event_id > fact.event_id
    return (event.reason or "", event.smtp_code or 0, event.enhanced_code or "") > (
        fact.reason or "",
        fact.smtp_code or 0,
        fact.enhanced_code or "",
    )


def weight_of(reason: str | None, smtp_code: int | None, enhanced_code: str | None) -> int:
    """Return how much an answer says: 0 nothing, 1 temporary or permanent, 2 a cause. The greatest counts."""
    if reason:
        return 2
    if enhanced_code:
        return 1 if enhanced_code.endswith(".0.0") else 2  # x.0.0 is "undefined" (RFC 3463)
    return 1 if smtp_code else 0


def last_said(old: Said[_T] | None, rank: int, event_id: str, value: _T | None) -> Said[_T] | None:
    """Return the value that was said last; the same object, if the event says none or an earlier one."""
    if not value:
        return old
    said = (rank, event_id, value)
    return said if old is None or said > old else old


def items_of(event: DeliveryEvent) -> tuple[tuple[str, str], ...]:
    """Return the event's metadata, sorted by key."""
    return tuple(sorted(event.metadata.items())) if event.metadata else ()


def list_of_drop(event: DeliveryEvent, kind: Kind) -> SuppressionList | None:
    """Return the list that made the provider drop the message; None: the event is no drop, or names none."""
    return event.suppression_list if kind is Kind.DROPPED else None


def digest_of(event_id: str) -> int:
    """Return the 64 bits that stand for an event id; a collision within one delivery is practically impossible."""
    return int.from_bytes(blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
