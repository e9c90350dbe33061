"""A delivery as ``lookup`` found it: its newest status, its events and its alerts, and what they say together.

The rule: it says what the Sending History says. A time that cannot be is replaced by
that of receipt, and what to do is taken from the newest alert of a deferral that goes
on. A delivery without a status says why it has none; one whose status lacks a final word
that an event has gives no advice.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from streams.domain.events import DeliveryEvent
from streams.domain.status import SECOND, Status, believable, fold, to_micros
from streams.history.timeline import Deferral, advice_of, deferral_of
from streams.history.words import micros

_DAY: Final = 24 * 3600 * SECOND
_WAITING: Final = frozenset({Status.SENT, Status.DEFERRED, Status.DROPPED})
"""None of these is the status of a delivery with an event that by itself makes another (``domain.status``, rules 1 to 3)."""


class NoStatus(StrEnum):
    """Why a delivery with events or alerts has no status."""

    FORGOTTEN = "forgotten"  # its last event came too long ago
    CHANGES_NOTHING = "changes_nothing"  # all of its events are of type other or unknown
    NOT_YET = "not_yet"  # the worker has not come to its events


@dataclass(slots=True)
class Found:
    """A delivery: its newest status record, its events, and its alerts."""

    delivery_id: str
    status: dict[str, Any] | None = None
    forgotten_at: int | None = None
    """The time of its tombstone in ``mail.status``, if that is the newest record; µs."""
    events: dict[str, DeliveryEvent] = field(default_factory=dict)
    """By their ids; of one that came more than once the first copy, as in the history's database."""
    alerts: list[dict[str, Any]] | None = field(default_factory=list)
    """None: they could not be read."""
    no_status: NoStatus | None = None

    def named(self, name: str) -> object:
        """Return a field that status, events and alerts have alike: of the status, or else what was said of it last."""
        if self.status is not None:
            return self.status.get(name)
        said = [getattr(event, name) for event in self.timeline()] or [alert.get(name) for alert in self.told() or ()]
        return next((value for value in reversed(said) if value), None)

    def timeline(self) -> list[DeliveryEvent]:
        """Return the events in the order in which they happened, as far as that is known."""
        return sorted(self.events.values(), key=lambda event: (happened_at(event), event.received_at, event.event_id))

    def told(self) -> list[dict[str, Any]] | None:
        """Return the alerts in the order in which they fell due; None: they could not be read."""
        return None if self.alerts is None else sorted(self.alerts, key=due_at)

    def said(self) -> Mapping[str, Any]:
        """Return the record that says what to do now: while it is deferred the newest alert, or else the status.

        Of one that was forgotten while it was deferred, the alert that says so. Nothing if that is known to be wrong.
        """
        if self.status_is_behind:
            return {}
        alerts = self.alerts or ()
        began = episode = None
        if self.status is not None and self.status.get("status") == Status.DEFERRED:
            began = micros(self.status.get("first_received_at"))
            if self.status.get("previous") != Status.DEFERRED:  # else an earlier revision began the deferral
                episode = self.status.get("revision")
        elif self.no_status is NoStatus.FORGOTTEN:
            began = max((micros(alert.get("first_received_at")) or 0 for alert in alerts), default=None)
        deferral = Deferral() if began is None else deferral_of(alerts, first_received_at=began, episode=episode)
        return deferral.alert or deferral.forgotten or self.status or {}

    def advice(self) -> Mapping[str, Any] | None:
        """Return what it means and what to do now; None if that is not known."""
        return advice_of(self.said(), time.time_ns() // 1000) or None

    @property
    def status_is_behind(self) -> bool:
        """The status lacks a final word that an event of the delivery's present life has: the worker has not come to it.

        It says this of what is surely so: the events may not go back to the delivery's beginning.
        """
        if self.status is None or self.status.get("status") not in _WAITING:
            return False
        began = micros(self.status.get("first_received_at")) or 0
        return any(to_micros(event.received_at) >= began and _is_final(event) for event in self.events.values())

    @property
    def begins_earlier(self) -> bool:
        """The delivery's first event is not among its events: it is older than what ``mail.events`` keeps."""
        began = None if self.status is None else micros(self.status.get("first_received_at"))
        return began is not None and all(to_micros(event.received_at) > began for event in self.events.values())

    @property
    def last_received_at(self) -> int:
        """Return the newest known time of receipt, or of an alert if only alerts are known; µs."""
        times = [to_micros(event.received_at) for event in self.events.values()]
        if self.status is not None:
            times.append(micros(self.status.get("received_at")) or 0)
        return max(times or map(due_at, self.alerts or ()), default=0)


def happened_at(event: DeliveryEvent) -> int:
    """Return when an event happened: by its own time if that can be, else when we received it; µs."""
    received_at = to_micros(event.received_at)
    at = believable(None if event.occurred_at is None else to_micros(event.occurred_at), received_at)
    return received_at if at is None else at


def due_at(alert: Mapping[str, Any]) -> int:
    """Return the deadline that fell due; of a resolved alert: when the deferral ended; µs."""
    return micros(alert.get("due_at")) or 0


def _is_final(event: DeliveryEvent) -> bool:
    alone = fold(None, event).delivery
    return alone is not None and alone.status not in _WAITING


def why_no_status(delivery: Found, expire_after_days: float) -> NoStatus | None:
    """Return why a delivery has no status; None if it has one."""
    if delivery.status is not None:
        return None
    counted = (event for event in delivery.events.values() if fold(None, event).delivery is not None)
    last = max((to_micros(event.received_at) for event in counted), default=None)
    if delivery.forgotten_at is not None and (last is None or last <= delivery.forgotten_at):
        return NoStatus.FORGOTTEN
    if last is None:  # an alert is of a delivery that had a status
        return NoStatus.FORGOTTEN if delivery.alerts else NoStatus.CHANGES_NOTHING
    # Kafka removes a tombstone in time: then the age alone tells
    expired = last + expire_after_days * _DAY < time.time_ns() // 1000
    return NoStatus.FORGOTTEN if expired else NoStatus.NOT_YET
