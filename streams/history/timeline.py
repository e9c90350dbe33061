"""What happened to a delivery, in the order in which it happened: events, changes of status and alerts as one list. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streams.domain.deferrals import Ending, Level
from streams.domain.events import EventType
from streams.domain.status import SECOND, Status, believable, later, weight_of
from streams.history.words import NO_WORD, micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row of ``changes``."""

    revision: int
    status: str
    bounce_kind: str | None
    received_at: int
    occurred_at: int | None
    cause_event_id: str | None


@dataclass(slots=True, kw_only=True)
class Entry:
    """A line of the timeline."""

    at: int
    """When it happened, by the provider's clock where that is believable, else when we received it; µs."""
    received_at: int
    late: bool = False
    """Something that happened later was known already."""
    event: Mapping[str, Any] | None = None
    """A record of ``mail.events``."""
    alert: Mapping[str, Any] | None = None
    """A record of ``mail.deferral-alerts``."""
    changes: list[Change] = field(default_factory=list)
    """The changes of status that the event made; without event and alert, one whose event is not known."""


def timeline(
    events: Iterable[Mapping[str, Any]], changes: Iterable[Change], alerts: Iterable[Mapping[str, Any]]
) -> list[Entry]:
    """Return what happened, the oldest first.

    Args:
        events: Records of ``mail.events``, each once.
        changes: Of the delivery's present life.
        alerts: Records of ``mail.deferral-alerts``.
    """
    entries = _of_events(events)
    by_cause = {entry.event["event_id"]: entry for entry in entries if entry.event is not None}
    for change in sorted(changes, key=lambda change: change.revision):
        cause = by_cause.get(change.cause_event_id)
        if cause is not None:
            cause.changes.append(change)
        else:
            at = believable(change.occurred_at, change.received_at)
            entries.append(
                Entry(at=change.received_at if at is None else at, received_at=change.received_at, changes=[change])
            )
    for alert in alerts:
        at = micros(alert.get("due_at")) or 0
        entries.append(Entry(at=at, received_at=at, alert=alert))
    entries.sort(key=lambda entry: (entry.at, entry.received_at))
    return entries


def attempts_of(events: Iterable[Mapping[str, Any]], said: int) -> int:
    """Return how often delivery was tried: what the status or alert said, or more if the events show more.

    The events are those of the delivery's present life: attempts of a former life do not count.
    """
    deferrals = [event for event in events if event.get("type") == EventType.DEFERRED]
    counted = [number for event in deferrals if isinstance(number := event.get("attempt"), int)]
    return max(said, len(deferrals), *counted, 0)


def last_deferral(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the deferred event whose answer counts: as in the status, the newest of those that say most."""
    entries = _of_events(event for event in events if event.get("type") == EventType.DEFERRED)
    return (
        max(entries, key=lambda entry: (_weight(entry.event), entry.at, entry.received_at)).event if entries else None
    )


_WAITING: Final = frozenset({Status.SENT.value, Status.DEFERRED.value, Status.DROPPED.value})
_FINAL: Final = frozenset(
    {
        EventType.DELIVERED.value,
        EventType.BOUNCE.value,
        EventType.BOUNCE_OR_AUTO_REPLY.value,
        EventType.OPEN.value,
        EventType.MACHINE_OPEN.value,
        EventType.CLICK.value,
        EventType.COMPLAINT.value,
        EventType.UNSUBSCRIBE.value,
    }
)
"""Each makes by itself a status that is none of ``_WAITING`` (``domain.status``, rules 1 to 3)."""


def unheeded_since(status: object, events: Iterable[tuple[int, Mapping[str, Any]]]) -> int | None:
    """Return since when a final word is known here that the status lacks: the worker has not come to it; µs.

    Args:
        status: The newest.
        events: When each was received, µs, and its record; those of the delivery's present life.
    """
    if status not in _WAITING:
        return None
    return min((at for at, event in events if event.get("type") in _FINAL), default=None)


_WAITED: Final = 7 * 24 * 3600 * SECOND
"""No provider tries for so long: of what is sent for longer, nothing more will be reported; µs."""


def advice_of(said: Mapping[str, Any], now: int) -> Mapping[str, Any]:
    """Return the advice of a status or an alert; but not to wait for a word that does not come any more.

    Args:
        said: The record.
        now: µs.
    """
    advice = said.get("advice")
    if not isinstance(advice, dict):
        return {}
    received_at = micros(said.get("received_at"))
    if advice.get("code") == "wait_for_answer" and received_at is not None and now - received_at > _WAITED:
        return NO_WORD
    return advice


def _weight(event: Mapping[str, Any] | None) -> int:
    return 0 if event is None else weight_of(event.get("reason"), event.get("smtp_code"), event.get("enhanced_code"))


def _of_events(events: Iterable[Mapping[str, Any]]) -> list[Entry]:
    entries = []
    latest: int | None = None
    for event in sorted(events, key=_received):
        received_at = _received(event)[0]
        at = believable(micros(event.get("occurred_at")), received_at)
        entries.append(
            Entry(at=received_at if at is None else at, received_at=received_at, late=later(latest, at), event=event)
        )
        if at is not None and (latest is None or at > latest):
            latest = at
    return entries


def _received(event: Mapping[str, Any]) -> tuple[int, str]:
    return micros(event.get("received_at")) or 0, str(event.get("event_id"))


_LEVELS: Final = {level.value: place for place, level in enumerate(Level)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """What the alerts of a deferred delivery say about the deferral that its status reports."""

    alert: Mapping[str, Any] | None = None
    """The newest one, while the deferral goes on."""
    forgotten: Mapping[str, Any] | None = None
    """The alert that the delivery was forgotten without a final event: nothing else will report that."""
    since: int | None = None
    """The earliest beginning that any of the alerts knows; µs."""


def deferral_of(alerts: Iterable[Mapping[str, Any]], *, first_received_at: int, episode: int | None) -> Deferral:
    """Return what the alerts say of a delivery whose status is deferred.

    Args:
        alerts: All alerts of the delivery.
        first_received_at: That of the delivery; alerts of a former life do not count.
        episode: The revision that opened the deferral; None: not seen; then the newest episode counts.
    """
    here = [
        alert
        for alert in alerts
        if micros(alert.get("first_received_at")) == first_received_at
        and isinstance(alert.get("episode"), int)
        and alert.get("level") in _LEVELS
        and (episode is None or alert["episode"] >= episode)
    ]
    if not here:
        return Deferral()
    newest = max(here, key=lambda alert: (alert["episode"], _LEVELS[alert["level"]]))
    known = (micros(alert.get("deferred_since")) for alert in here if alert["episode"] == newest["episode"])
    is_over = newest["level"] == Level.RESOLVED
    return Deferral(
        alert=None if is_over else newest,
        forgotten=newest if is_over and newest.get("outcome") == Ending.EXPIRED else None,
        since=min((at for at in known if at is not None), default=None),
    )
