"""The status of a delivery: derived from facts, never stepped through.

Providers repeat themselves and report out of order. So a state machine breaks in
production, "the last event wins" can go back to an older status, and "the worst
wins" forbids a real recovery. Therefore two steps:

1. *Fold.* Each event is merged into the facts of its delivery (``domain.facts``):
   any order and any repetition of the same events gives the same facts.
2. *Derive.* The status is a function of the facts, read from top to bottom:

   ===  ==============================================================  =====================
   no.  if there is                                                     the status is
   ===  ==============================================================  =====================
   1    a hard bounce, unless a delivered is later                      bounced (hard)
   2    a soft, block or undetermined bounce, if there is no            bounced (that kind)
        delivered or the bounce is later
   2b   a bounce that may be an auto-reply, if nothing of rule 3 is     bounced (soft)
        there
   3    a person's open or click                                        opened
        delivered, a machine's open, a complaint or an unsubscribe      delivered
   4    a drop, unless a deferral is later                              dropped
   5    a deferral                                                      deferred
   6    anything else                                                   sent
   ===  ==============================================================  =====================

   "a is later than b" means: both times are known, and a is more than ``SKEW``
   after b.

An open by a machine (privacy proxy, gateway) proves that the message arrived,
not that a person saw it. Invoices get out-of-office replies all the time, and
some providers report them as bounces: rule 2b lets them bounce a delivery only
while nothing shows that it arrived. An auto-reply known as such proves nothing.

Times in this file are integers: microseconds since 1970-01-01T00:00:00Z.
``docs/status-rules.md`` explains the same in prose, with a table of cases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar

from streams.domain.events import BounceKind, DeliveryEvent, SuppressionList
from streams.domain.facts import (
    FUTURE,
    IDS_KEPT,
    PAST,
    SECOND,
    SKEW,
    Fact,
    Kind,
    Said,
    believable,
    digest_of,
    fact_of,
    from_micros,
    items_of,
    kind_of,
    last_said,
    later,
    list_of_drop,
    merged,
    to_micros,
    weight_of,
)

__all__ = [  # with the names of the facts that others need
    "FUTURE",
    "IDS_KEPT",
    "PAST",
    "SECOND",
    "SKEW",
    "Change",
    "Delivery",
    "Derived",
    "Fact",
    "Folded",
    "Kind",
    "Outcome",
    "Status",
    "believable",
    "derive",
    "fold",
    "from_micros",
    "later",
    "shows_otherwise",
    "to_micros",
    "weight_of",
]

_T = TypeVar("_T")


class Status(StrEnum):
    """What became of the delivery, as far as is known."""

    SENT = "sent"  # it left; the recipient's server has not answered yet
    DELIVERED = "delivered"  # the receiving server accepted it; no proof of the inbox
    OPENED = "opened"  # a person loaded the tracking image or followed a link
    BOUNCED = "bounced"  # the receiving server refused it for good
    DEFERRED = "deferred"  # the receiving side does not take it now; it will be tried again
    DROPPED = "dropped"  # not even tried, to protect the sender's reputation


SETTLED = frozenset({Status.DELIVERED, Status.OPENED, Status.BOUNCED, Status.DROPPED})
"""Statuses that normally do not change any more, except from delivered to opened."""

_REFUSALS = frozenset({Kind.BOUNCE_HARD, Kind.BOUNCE_SOFT, Kind.BOUNCE_BLOCK, Kind.BOUNCE_UNDETERMINED})
_TOLD_APART = frozenset({Status.SENT, Status.BOUNCED})  # the advice for these depends on the fact that decided


class Derived(NamedTuple):
    """The conclusion from the facts of a delivery."""

    status: Status
    bounce_kind: BounceKind | None
    """Set exactly when the status is bounced."""
    because: Kind
    """The fact that decided it."""


class Change(NamedTuple):
    """What a delivery's status became, and through which event. Unlike the facts it depends on the order of arrival."""

    status: Status
    bounce_kind: BounceKind | None
    complained: bool
    unsubscribed: bool
    revision: int
    """Counts the changes of the four above from 1."""
    previous: Status | None
    """The status before; None: there was nothing before."""
    cause_event_id: str
    """The event whose arrival made the change."""
    effective_at: int | None
    """The event time of the fact that decided the status."""
    occurred_at: int | None
    """The cause's event time as its provider reported it, believable or not."""
    received_at: int
    """When we received the cause."""
    late: bool
    """The cause is older than that of the change before, by their own times: the events came out of order."""


# Not frozen for the reason of a Fact. Once built it does not change (a test checks that of fold), except its last two
# fields: domain.objective sets them before the delivery is written or shared.


@dataclass(slots=True)
class Delivery:
    """All that is kept of one delivery: one message to one recipient."""

    delivery_id: str
    account: str
    provider: str
    message_id: str

    # The facts, which depend on the set of events only.
    facts: dict[Kind, Fact]
    recipient: Said[str]
    """The address as the provider wrote it last."""
    reference: Said[str] | None
    tags: Said[tuple[str, ...]] | None
    metadata: Said[tuple[tuple[str, str], ...]] | None
    """Sorted by key."""
    suppression_list: Said[SuppressionList] | None
    """The list that made the provider drop it."""
    attempt: int
    """The greatest attempt that a provider reported; 0: none did."""
    retry_until: int | None
    """The latest time that a provider named for giving up."""
    last_received_at: int
    because: Kind
    """The fact that decides the status now."""

    first_received_at: int
    """When we received the event that began this delivery; it never changes, so that it can order the revisions."""
    change: Change
    """The last one."""

    # For domain.objective, which looks at deliveries when they are due.
    judged: bool = False
    """It has been counted as delivered in time or not."""
    watch_at: int | None = None
    """When to look at it again; None: never."""

    @property
    def status(self) -> Status:
        """The status now."""
        return self.change.status

    @property
    def settled(self) -> bool:
        """The status normally does not change any more, except from delivered to opened."""
        return self.change.status in SETTLED

    @property
    def given_up_at(self) -> int | None:
        """While deferred: when the provider will give up, if it says so."""
        return self.retry_until if self.change.status is Status.DEFERRED else None

    @property
    def deferred_since(self) -> int | None:
        """While deferred: since when.

        A drop ended an earlier episode: then since the last change made it deferred again; at the earliest since the drop,
        which may have arrived later than that change.
        """
        if self.change.status is not Status.DEFERRED:
            return None
        began, dropped = self.facts[Kind.DEFERRED].began, self.facts.get(Kind.DROPPED)
        if dropped is None or dropped.last_at is None or later(began, dropped.last_at):
            return began
        since = self.change.received_at if self.change.effective_at is None else self.change.effective_at
        return since if later(since, dropped.last_at) else dropped.last_at

    @property
    def dropped_since(self) -> int | None:
        """While dropped: when the first drop happened; the address has been on the list since then or longer."""
        return self.facts[Kind.DROPPED].began if self.change.status is Status.DROPPED else None

    @property
    def attempts(self) -> int:
        """How often delivery was tried, as far as is known: the provider's count, or ours of the deferrals."""
        deferred = self.facts.get(Kind.DEFERRED)
        return self.attempt if deferred is None else max(self.attempt, len(deferred.ids))

    @property
    def machine_opened(self) -> bool:
        """A machine loaded the tracking image or followed a link."""
        return Kind.MACHINE_OPEN in self.facts

    @property
    def accepted_after_refusal(self) -> bool:
        """A server refused it at some time, but it was delivered; no person's open, complaint, unsubscribe is known."""
        return (
            self.change.status is Status.DELIVERED
            and not self.change.complained
            and not self.change.unsubscribed
            and not _REFUSALS.isdisjoint(self.facts)
        )

    @property
    def suppressed_by(self) -> SuppressionList | None:
        """While dropped: the list that made the provider drop it; None: it named none."""
        if self.change.status is not Status.DROPPED or self.suppression_list is None:
            return None
        return self.suppression_list[2]

    @property
    def answer(self) -> Fact | None:
        """The fact whose reason and codes explain the status: the server's answer, else the provider's words.

        Not simply the last answer: a late "try again" does not explain a bounce.
        """
        if self.change.status is Status.OPENED or self.change.status is Status.DELIVERED:
            return self.facts.get(Kind.DELIVERED)
        return self.facts.get(self.because)


class Outcome(StrEnum):
    """What an event did to its delivery."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"  # its id was folded before (beyond IDS_KEPT that is not known: then it is applied)
    IGNORED = "ignored"  # it says nothing about the delivery: of type other or unknown


@dataclass(slots=True)
class Folded:
    """A delivery after one more event, and what has to be written."""

    delivery: Delivery | None
    """The same object that was passed in, if nothing changed: then there is no row to write."""
    outcome: Outcome
    changed: bool
    """There is a new revision: it goes to ``mail.status-changed`` and ``mail.status``."""
    refreshed: bool
    """No new revision, but something that ``mail.status`` shows changed: it goes there only."""
    clock_skewed: bool
    """The event's own time was not believable and was ignored."""


def fold(delivery: Delivery | None, event: DeliveryEvent, *, delivery_id: str | None = None) -> Folded:
    """Return the delivery with one more of its events merged in.

    Pure and deterministic; the delivery passed in is not changed. The caller makes sure that the event belongs to the
    delivery; it may pass the event's ``delivery_id`` if it knows it: computing it takes longer than all the rest.
    """
    kind = kind_of(event)
    if kind is None:
        return Folded(delivery, Outcome.IGNORED, changed=False, refreshed=False, clock_skewed=False)
    received_at = to_micros(event.received_at)
    occurred_at = None if event.occurred_at is None else to_micros(event.occurred_at)
    at = believable(occurred_at, received_at)
    skewed = at is None and occurred_at is not None
    if delivery is None:
        begun = _begin(event, delivery_id or event.delivery_id, kind, at, occurred_at, received_at)
        return Folded(begun, Outcome.APPLIED, changed=True, refreshed=False, clock_skewed=skewed)

    # The merge: each value below is the old object itself if the event adds nothing to it.
    event_id = event.event_id
    digest = digest_of(event_id)
    old = delivery.facts.get(kind)
    fact = fact_of(event, at, received_at, digest) if old is None else merged(old, event, at, received_at, digest)
    outcome = Outcome.DUPLICATE if old is not None and digest in old.ids else Outcome.APPLIED
    rank = -1 if at is None else at
    recipient = max(delivery.recipient, (rank, event_id, event.recipient))
    reference = last_said(delivery.reference, rank, event_id, event.reference)
    tags = last_said(delivery.tags, rank, event_id, event.tags)
    metadata = last_said(delivery.metadata, rank, event_id, items_of(event))
    suppression_list = last_said(delivery.suppression_list, rank, event_id, list_of_drop(event, kind))
    attempt = delivery.attempt if event.attempt is None else max(delivery.attempt, event.attempt)
    retry_until = delivery.retry_until
    if event.retry_until is not None:
        until = to_micros(event.retry_until)
        retry_until = until if retry_until is None else max(retry_until, until)
    if (
        fact is old
        and received_at <= delivery.last_received_at
        and recipient is delivery.recipient
        and reference is delivery.reference
        and tags is delivery.tags
        and metadata is delivery.metadata
        and suppression_list is delivery.suppression_list
        and attempt == delivery.attempt
        and retry_until == delivery.retry_until
    ):
        return Folded(delivery, outcome, changed=False, refreshed=False, clock_skewed=skewed)

    facts = delivery.facts if fact is old else {**delivery.facts, kind: fact}
    derived = derive(facts)
    change = _change(delivery.change, facts, derived, event_id, at, occurred_at, received_at)
    after = Delivery(  # by position, in the order of its fields: by keyword it would take four times as long
        delivery.delivery_id,
        delivery.account,
        delivery.provider,
        delivery.message_id,
        facts,
        recipient,
        reference,
        tags,
        metadata,
        suppression_list,
        attempt,
        retry_until,
        max(received_at, delivery.last_received_at),
        derived.because,
        delivery.first_received_at,
        change,
        delivery.judged,
        delivery.watch_at,
    )
    changed = change is not delivery.change
    refreshed = not changed and shows_otherwise(after, delivery)
    return Folded(after, outcome, changed=changed, refreshed=refreshed, clock_skewed=skewed)


def _begin(  # noqa: PLR0917 (a private helper of one caller, on the hot path)
    event: DeliveryEvent, delivery_id: str, kind: Kind, at: int | None, occurred_at: int | None, received_at: int
) -> Delivery:
    """Return the delivery of which this is the first event."""
    event_id = event.event_id
    rank = -1 if at is None else at
    facts = {kind: fact_of(event, at, received_at, digest_of(event_id))}
    derived = derive(facts)
    return Delivery(  # by position, as in fold
        delivery_id,
        event.account,
        event.provider,
        event.message_id,
        facts,
        (rank, event_id, event.recipient),
        last_said(None, rank, event_id, event.reference),
        last_said(None, rank, event_id, event.tags),
        last_said(None, rank, event_id, items_of(event)),
        last_said(None, rank, event_id, list_of_drop(event, kind)),
        event.attempt or 0,
        None if event.retry_until is None else to_micros(event.retry_until),
        received_at,
        derived.because,
        received_at,
        _change(None, facts, derived, event_id, at, occurred_at, received_at),
    )


def _change(  # noqa: PLR0917 (a private helper, on the hot path)
    last: Change | None,
    facts: Mapping[Kind, Fact],
    derived: Derived,
    event_id: str,
    at: int | None,
    occurred_at: int | None,
    received_at: int,
) -> Change:
    """Return the change that these facts make, which an event has completed; the last one itself if they make none."""
    status, bounce_kind, because = derived
    complained, unsubscribed = Kind.COMPLAINT in facts, Kind.UNSUBSCRIBE in facts
    if (
        last is not None
        and status is last.status
        and bounce_kind is last.bounce_kind
        and complained is last.complained
        and unsubscribed is last.unsubscribed
    ):
        return last
    return Change(
        status,
        bounce_kind,
        complained,
        unsubscribed,
        1 if last is None else last.revision + 1,
        None if last is None else last.status,
        event_id,
        facts[because].last_at,
        occurred_at,
        received_at,
        # not by `effective_at`: a complaint leaves the fact that decides the status, and its time, as they are
        last is not None and _earlier(at, believable(last.occurred_at, last.received_at)),
    )


def _earlier(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one < other


def shows_otherwise(one: Delivery, other: Delivery) -> bool:
    """Tell whether ``mail.status`` would differ between two states of a delivery with the same status.

    A test checks that, value by value; this comparison takes a third of the time of building both records.
    """
    return (
        one.recipient[2] != other.recipient[2]
        or (one.reference is not other.reference and _value(one.reference) != _value(other.reference))
        or one.attempts != other.attempts
        or (one.facts is not other.facts and _facts_show_otherwise(one, other))
        or one.given_up_at != other.given_up_at
        or one.suppressed_by is not other.suppressed_by
    )


def _facts_show_otherwise(one: Delivery, other: Delivery) -> bool:
    answer, other_answer = one.answer, other.answer
    return (
        (answer is not other_answer and _said(answer) != _said(other_answer))
        or one.machine_opened is not other.machine_opened
        or (one.because is not other.because and one.status in _TOLD_APART)
        or one.accepted_after_refusal is not other.accepted_after_refusal
        or one.deferred_since != other.deferred_since
        or one.dropped_since != other.dropped_since
    )


def _said(answer: Fact | None) -> tuple[str | None, int | None, str | None]:
    return (None, None, None) if answer is None else (answer.reason, answer.smtp_code, answer.enhanced_code)


def _value(said: Said[_T] | None) -> _T | None:
    return None if said is None else said[2]


# The conclusions that derive can reach, each with the fact that decides it.
_HARD_BOUNCED = Derived(Status.BOUNCED, BounceKind.HARD, Kind.BOUNCE_HARD)
_SOFTER_BOUNCED = (  # of two with the same time the first here wins: it tells the sender more
    Derived(Status.BOUNCED, BounceKind.BLOCK, Kind.BOUNCE_BLOCK),
    Derived(Status.BOUNCED, BounceKind.SOFT, Kind.BOUNCE_SOFT),
    Derived(Status.BOUNCED, BounceKind.UNDETERMINED, Kind.BOUNCE_UNDETERMINED),
)
_PERHAPS_BOUNCED = Derived(Status.BOUNCED, BounceKind.SOFT, Kind.BOUNCE_OR_AUTO_REPLY)
_ARRIVED = (  # the first one in the facts decides
    Derived(Status.OPENED, None, Kind.OPEN),
    Derived(Status.OPENED, None, Kind.CLICK),
    Derived(Status.DELIVERED, None, Kind.DELIVERED),
    Derived(Status.DELIVERED, None, Kind.MACHINE_OPEN),
    Derived(Status.DELIVERED, None, Kind.COMPLAINT),
    Derived(Status.DELIVERED, None, Kind.UNSUBSCRIBE),
)
_NOT_TRIED = Derived(Status.DROPPED, None, Kind.DROPPED)
_NOT_NOW = Derived(Status.DEFERRED, None, Kind.DEFERRED)
_UNDER_WAY = Derived(Status.SENT, None, Kind.SENT)
_ONLY_AUTO_REPLIED = Derived(Status.SENT, None, Kind.AUTO_REPLY)  # proof of nothing but that it was sent


def derive(facts: Mapping[Kind, Fact]) -> Derived:  # noqa: PLR0911 (one return for each line of the table)
    """Return the conclusion from the facts: the table at the head of this file, line by line.

    At least one fact is needed.
    """
    delivered = facts.get(Kind.DELIVERED)
    hard = facts.get(Kind.BOUNCE_HARD)
    if hard is not None and not (delivered is not None and later(delivered.last_at, hard.last_at)):
        return _HARD_BOUNCED  # 1
    softer = _last_softer_bounce(facts)
    if softer is not None and (delivered is None or later(facts[softer.because].last_at, delivered.last_at)):
        return softer  # 2
    arrived = _first_arrival(facts)
    if arrived is None and Kind.BOUNCE_OR_AUTO_REPLY in facts:
        return _PERHAPS_BOUNCED  # 2b
    if arrived is not None:
        return arrived  # 3
    dropped = facts.get(Kind.DROPPED)
    deferred = facts.get(Kind.DEFERRED)
    if dropped is not None and not (deferred is not None and later(deferred.last_at, dropped.last_at)):
        return _NOT_TRIED  # 4
    if deferred is not None:
        return _NOT_NOW  # 5
    return _UNDER_WAY if Kind.SENT in facts else _ONLY_AUTO_REPLIED  # 6


def _last_softer_bounce(facts: Mapping[Kind, Fact]) -> Derived | None:
    """Return the last of the soft, block and undetermined bounces; an unknown time counts as the earliest."""
    last = None
    last_rank = -2
    for bounced in _SOFTER_BOUNCED:
        fact = facts.get(bounced.because)
        if fact is not None:
            rank = -1 if fact.last_at is None else fact.last_at
            if rank > last_rank:
                last, last_rank = bounced, rank
    return last


def _first_arrival(facts: Mapping[Kind, Fact]) -> Derived | None:
    for arrived in _ARRIVED:
        if arrived.because in facts:
            return arrived
    return None
