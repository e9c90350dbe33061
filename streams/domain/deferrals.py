"""Deferral episodes: from when a delivery is deferred until it is not, and the alerts in between.

An *episode* opens when a delivery's status becomes deferred and closes when it
becomes anything else. Its age runs from its first deferral. While it is open,
alerts fall due by age, at most one of each level:

=========  ==========================================================================
raised     it waits for longer than the policy's warn age
escalated  half a day is lost, or the end of the provider's retry window is near: time for another way
overdue    the window is over, and no final event has come
resolved   it ended, after at least one of the other alerts
=========  ==========================================================================

The rule: two pure functions. ``observe`` takes in what ``track`` reports about a
delivery (``is_news`` says when); ``elapse`` takes in the time. Only ``elapse`` raises
alerts, only ``observe`` resolves them. An alert carries the deadline that passed, never
the time at which that was noticed, so that a restart or a backlog makes no difference.

Facts can come late. An earlier deferral makes the deadlines earlier. If a delivery
turns out to have ended before the first alert's deadline, the alert is resolved as
``annulled``: it was wrong. The provider's own throttling (``preemptive``) is
raised but never escalated: nobody blocks us, and it passes.

Times are integers: microseconds since 1970-01-01T00:00:00Z.
"""

from dataclasses import dataclass, replace
from enum import IntFlag, StrEnum
from typing import NamedTuple

from streams.domain.destinations import destination_of
from streams.domain.events import EventType
from streams.domain.reasons import ReasonClass, classify
from streams.domain.status import SECOND, Delivery, Folded, Outcome, Status, later

HOUR = 3600 * SECOND
ESCALATE_BY = 12 * HOUR
"""Latest age for an escalation, unless the policy says otherwise: half a working day is lost by then."""
ESCALATE_SHARE = 0.75
"""Share of the retry window: a quarter of it is left to send the message by another way."""


class Level(StrEnum):
    """What an alert says about its episode, in order of age."""

    RAISED = "raised"
    ESCALATED = "escalated"
    OVERDUE = "overdue"
    RESOLVED = "resolved"


class Ending(StrEnum):
    """What ended an episode: the status that the delivery has now, or none at all."""

    SENT = "sent"  # not seen in practice: a deferral fact is never removed
    DELIVERED = "delivered"
    OPENED = "opened"
    BOUNCED = "bounced"
    DROPPED = "dropped"
    EXPIRED = "expired"  # the delivery was forgotten without a final event


class Told(IntFlag):
    """The levels that were published for an open episode."""

    NOTHING = 0
    RAISED = 1
    ESCALATED = 2
    OVERDUE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When to alert, for one account at one provider. All in microseconds."""

    warn_after: int
    """Age at which an episode is raised."""
    escalate_after: int | None
    """Age at which it is escalated; None: the smaller of ``ESCALATE_BY`` and ``ESCALATE_SHARE`` of the retry window."""
    retry_window: int
    """How long the provider tries again, if it names no end itself."""
    overdue_slack: int
    """How long the final event may take to reach us after the end of the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """What ``track`` reports about a delivery that was deferred: a record of ``mail.deferrals``."""

    delivery_id: str
    account: str
    provider: str
    message_id: str
    recipient: str
    reference: str | None
    first_received_at: int
    revision: int
    status: Status | None
    """The present one; None: the delivery was forgotten."""
    status_at: int
    """Since when: the deciding fact's own time, else when we received it."""
    first_at: int
    """When the first deferral of all happened: its own time, else when we received it."""
    last_at: int
    """The same for the last deferral."""
    dropped_at: int | None
    """When the last drop happened, if there was one: later deferrals belong to another episode."""
    attempts: int
    reason: str | None
    """This and the two codes: of all deferrals, the answer that counts (``Fact.event_id``)."""
    smtp_code: int | None
    enhanced_code: str | None
    retry_until: int | None
    """The latest time that the provider itself named for giving up."""
    attempt: bool
    """True: one more deferral is the reason for the record; False: something else changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """An open episode: a row of ``open-deferrals``."""

    delivery_id: str
    account: str
    provider: str
    message_id: str
    recipient: str
    reference: str | None
    destination: str
    """Who runs the recipient's mailbox, as far as its domain tells (``domain.destinations``)."""
    first_received_at: int
    number: int
    """The revision of the status change that opened it: it identifies an episode of the delivery."""
    since: int
    attempts: int
    reason: str | None
    smtp_code: int | None
    enhanced_code: str | None
    reason_class: ReasonClass
    retry_until: int | None
    told: Told = Told.NOTHING
    first_due: int | None = None
    """The deadline of the first alert that was published; None: none was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What subscribers read: a record of ``mail.deferral-alerts``."""

    episode: Episode
    level: Level
    due_at: int
    """The deadline that passed; for ``resolved``: when the episode ended."""
    retry_until: int
    """When the provider gives up, as it says or as the policy assumes."""
    ending: Ending | None = None
    """Set exactly when the level is resolved."""
    annulled: bool = False
    """We know now that it had ended before the first alert's deadline: there was no reason to alert."""

    @property
    def duration(self) -> int | None:
        """For a resolved episode, the time from its first deferral to its end (µs)."""
        return max(self.due_at - self.episode.since, 0) if self.level is Level.RESOLVED else None


class Step(NamedTuple):
    """The result: the episode afterwards (None: none is open), and the alerts to publish, in order."""

    episode: Episode | None
    alerts: tuple[Alert, ...] = ()


def is_news(before: Delivery | None, folded: Folded, type_: EventType) -> bool:
    """Tell whether ``observe`` has to know of an event of a delivery that has deferrals.

    It does of another attempt, and of a change of a delivery that is or was deferred. A repeated event can be such a
    change: its time may be too far in the future at first, but not when it comes again. So can a drop that comes late: the
    deferrals before it were another episode, although no status shows that.
    """
    applied = folded.outcome is Outcome.APPLIED
    if type_ is EventType.DEFERRED and applied:
        return True
    assert folded.delivery is not None
    was_or_is = folded.delivery.status is Status.DEFERRED or (before is not None and before.status is Status.DEFERRED)
    return was_or_is and (folded.changed or folded.refreshed or (type_ is EventType.DROPPED and applied))


def observe(episode: Episode | None, deferral: Deferral, policy: Policy) -> Step:
    """Take in what track reports about the delivery. Never raises an alert: only time does.

    A record that is older than what the open episode knows changes nothing. If no episode is open, an old record is not
    recognised here: the sender of a repeated one has to check (``mailstreams dead-letters replay`` does).
    """
    if episode is not None and _is_old(episode, deferral):
        return Step(episode)
    if deferral.status is not Status.DEFERRED:
        return Step(None) if episode is None else _close(episode, deferral, policy)
    if episode is None:
        return Step(
            Episode(
                delivery_id=deferral.delivery_id,
                account=deferral.account,
                provider=deferral.provider,
                message_id=deferral.message_id,
                recipient=deferral.recipient,
                reference=deferral.reference,
                destination=destination_of(deferral.recipient),
                first_received_at=deferral.first_received_at,
                number=deferral.revision,
                since=_since(deferral, deferral.last_at),
                attempts=deferral.attempts,
                reason=deferral.reason,
                smtp_code=deferral.smtp_code,
                enhanced_code=deferral.enhanced_code,
                reason_class=classify(deferral.reason, deferral.smtp_code, deferral.enhanced_code),
                retry_until=deferral.retry_until,
            )
        )
    return Step(_renewed(episode, deferral))


def elapse(episode: Episode, now: int, policy: Policy) -> Step:
    """Take in the time: return an alert for every level that is due and was not published yet."""
    alerts = []
    told = episode.told
    first_due = episode.first_due
    for level, due in _deadlines(episode, policy):
        if due <= now:
            told |= _TOLD[level]
            # A fact that came late can bring an earlier deadline than those that were published.
            first_due = due if first_due is None else min(first_due, due)
            alerts.append((level, due))
    if not alerts:
        return Step(episode)
    end = ends_at(episode, policy)
    after = replace(episode, told=told, first_due=first_due)
    return Step(after, tuple(Alert(episode=after, level=level, due_at=due, retry_until=end) for level, due in alerts))


def next_due(episode: Episode, policy: Policy) -> int | None:
    """Return the earliest deadline of a level that was not published yet; None: nothing more falls due."""
    return min((due for _, due in _deadlines(episode, policy)), default=None)


def ends_at(episode: Episode, policy: Policy) -> int:
    """Return when the provider gives up: as it says, else as the policy assumes."""
    return episode.since + policy.retry_window if episode.retry_until is None else episode.retry_until


def level_of(told: Told) -> Level | None:
    """Return the highest level that was published; None: none was."""
    return _HIGHEST[told]


_TOLD = {Level.RAISED: Told.RAISED, Level.ESCALATED: Told.ESCALATED, Level.OVERDUE: Told.OVERDUE}
# By the number of a `Told`: iterating over a flag's members takes longer than all the rest of a tick.
_HIGHEST = tuple(next((level for level in reversed(_TOLD) if _TOLD[level] & n), None) for n in range(8))
_UNTOLD = tuple(tuple(level for level in _TOLD if not _TOLD[level] & n) for n in range(8))


def _deadlines(episode: Episode, policy: Policy) -> list[tuple[Level, int]]:
    """Return the levels that can still be published, each with its deadline, in the order of the levels."""
    end = ends_at(episode, policy)
    left = max(end - episode.since, 0)
    deadlines: list[tuple[Level, int]] = []
    for level in _UNTOLD[episode.told]:
        if level is Level.RAISED:
            deadlines.append((level, episode.since + policy.warn_after))
        elif level is Level.OVERDUE:
            deadlines.append((level, max(end, episode.since + policy.warn_after) + policy.overdue_slack))
        elif episode.reason_class is not ReasonClass.PREEMPTIVE and not episode.told & Told.OVERDUE:
            chosen = policy.escalate_after
            after = min(ESCALATE_BY, int(ESCALATE_SHARE * left)) if chosen is None else min(chosen, left)
            deadlines.append((level, episode.since + max(after, policy.warn_after)))
    return deadlines


def _since(deferral: Deferral, known: int) -> int:
    """Return when the episode began; by what was known before, it began at ``known``.

    A drop ends an episode; only the last deferral is surely after it.
    """
    dropped_at = deferral.dropped_at
    if dropped_at is None or later(deferral.first_at, dropped_at):
        return min(known, deferral.first_at)
    return known if later(known, dropped_at) else deferral.last_at


def _is_old(episode: Episode, deferral: Deferral) -> bool:
    """Tell whether a record is from before the episode or its last attempt: in one life both numbers only grow."""
    if deferral.first_received_at != episode.first_received_at:
        return deferral.first_received_at < episode.first_received_at
    return deferral.revision < episode.number or deferral.attempts < episode.attempts


def _renewed(episode: Episode, deferral: Deferral) -> Episode:
    """Return the episode updated by the record: an attempt that came late counts, too."""
    known = [until for until in (episode.retry_until, deferral.retry_until) if until is not None]
    return replace(
        episode,
        recipient=deferral.recipient,
        reference=deferral.reference or episode.reference,
        since=_since(deferral, episode.since),
        attempts=deferral.attempts,
        reason=deferral.reason,
        smtp_code=deferral.smtp_code,
        enhanced_code=deferral.enhanced_code,
        reason_class=classify(deferral.reason, deferral.smtp_code, deferral.enhanced_code),
        retry_until=max(known, default=None),
    )


def _close(episode: Episode, deferral: Deferral, policy: Policy) -> Step:
    if episode.first_due is None:
        return Step(None)
    ending = Ending.EXPIRED if deferral.status is None else Ending(deferral.status)
    last = _renewed(episode, deferral)
    resolved = Alert(
        episode=last,
        level=Level.RESOLVED,
        due_at=deferral.status_at,
        retry_until=ends_at(last, policy),
        ending=ending,
        annulled=deferral.status_at < episode.first_due,
    )
    return Step(None, (resolved,))
