"""Which deliveries fit a question, as the topics hold them now.

It reads ``mail.status``, ``mail.events`` and ``mail.deferral-alerts`` from end to end,
because Kafka has no index by reference or recipient.

The rule: of a status the newest record counts, of an event that came more than once the
first. What fitted once stays found, whatever its newest record says: its reference may
have been corrected since. A record that cannot be understood is passed over: the worker's
own readers count it.
"""

from functools import partial
from typing import Any

from streams import topics
from streams.brokers import NOT_ALLOWED
from streams.cli import Failure
from streams.cli._kafka import TellProgress, read_to_end, unavailable
from streams.cli._lookup_found import Found, why_no_status
from streams.cli._lookup_question import Question
from streams.cli._output import note, progress
from streams.records import RecordError, decode_alert, decode_event, decode_status
from streams.settings import Settings


async def search(settings: Settings, question: Question) -> tuple[list[Found], int | None]:
    """Return the deliveries that fit, the newest last; and when the newest event of all mail was received, in µs."""
    found: dict[str, Found] = {}
    with progress(f"reading {topics.STATUS}") as tell:
        await _read_statuses(settings, question, found, tell)
    known = set(found)
    with progress(f"reading {topics.EVENTS}") as tell:
        newest = await _read_events(settings, question, found, tell)
    if set(found) - known:
        # an event of a delivery without a status fitted: its earlier events may not have named what was looked for,
        # and its status may name something newer instead
        await _read_again(settings, question, found)
    elif any(delivery.status_is_behind for delivery in found.values()):
        with progress(f"reading {topics.STATUS} again") as tell:
            await _read_statuses(settings, None, found, tell)
    known = set(found)
    await _read_alerts_if_allowed(settings, question, found)
    if set(found) - known:
        # only an alert fitted: the delivery was forgotten since, or its status and all events name something newer
        await _read_again(settings, question, found)
        await _read_alerts_if_allowed(settings, question, found)
    for delivery in found.values():
        delivery.no_status = why_no_status(delivery, settings.delivery.expire_after_days)
    there = (each for each in found.values() if each.status is not None or each.events or each.alerts)
    return sorted(there, key=lambda delivery: (delivery.last_received_at, delivery.delivery_id)), newest


async def _read_again(settings: Settings, question: Question, found: dict[str, Found]) -> None:
    """Take in all events and the newest status of what is found."""
    with progress(f"reading {topics.EVENTS} again") as tell:
        await _read_events(settings, question, found, tell)
    with progress(f"reading {topics.STATUS} again") as tell:
        await _read_statuses(settings, None, found, tell)


async def _read_statuses(
    settings: Settings, question: Question | None, found: dict[str, Found], tell: TellProgress
) -> None:
    """Take in the newest status of what is found already, and of what fits; without a question nothing else is found."""
    async for batch in read_to_end(settings, topics.STATUS, tell):
        for record in batch:
            delivery_id = (record.key or b"").decode("utf-8", "replace")
            delivery = found.get(delivery_id)
            if not record.value:  # a tombstone: the delivery expired
                if delivery is not None:
                    delivery.status, delivery.forgotten_at = None, record.timestamp * 1000
                continue
            if delivery is None and (question is None or not question.may_fit(record.value)):
                continue
            try:
                status = decode_status(record.value)
            except RecordError:
                continue
            if delivery is not None or (question is not None and question.fits(status.get)):
                delivery = found.setdefault(status["delivery_id"], Found(status["delivery_id"]))
                delivery.status, delivery.forgotten_at = status, None


async def _read_events(
    settings: Settings, question: Question, found: dict[str, Found], tell: TellProgress
) -> int | None:
    """Take in the events of what is found already, and of a delivery that fits from the fitting event on.

    Returns:
        When the newest event of all was received, in µs; None: there is none.
    """
    keys = {delivery_id.encode() for delivery_id in found}
    newest_ms = 0
    async for batch in read_to_end(settings, topics.EVENTS, tell):
        newest_ms = max([newest_ms, *(record.timestamp for record in batch)])
        for record in batch:
            if not record.value or not (record.key in keys or question.may_fit(record.value)):
                continue
            try:
                event = decode_event(record.value)
            except RecordError:
                continue
            delivery = found.get(event.delivery_id)
            if delivery is None and question.fits(partial(getattr, event)):
                delivery = found[event.delivery_id] = Found(event.delivery_id)
                keys.add(event.delivery_id.encode())
            if delivery is not None:
                delivery.events.setdefault(event.event_id, event)
    return newest_ms * 1000 or None


async def _read_alerts_if_allowed(settings: Settings, question: Question, found: dict[str, Found]) -> None:
    """Take in the alerts. Without them the rest is still worth showing, with a note that they are missing."""
    try:
        with progress(f"reading {topics.DEFERRAL_ALERTS}") as tell:
            await _read_alerts(settings, question, found, tell)
    except (Failure, *NOT_ALLOWED) as error:
        lines = error.lines if isinstance(error, Failure) else unavailable(error, settings)
        note(f"without alerts, and of a deferral without the newest advice: {'; '.join(lines)}")
        for delivery in found.values():
            delivery.alerts = None


async def _read_alerts(settings: Settings, question: Question, found: dict[str, Found], tell: TellProgress) -> None:
    """Take in the alerts of what is found already, and of a delivery that fits from the fitting alert on."""
    alerts: dict[str, list[dict[str, Any]]] = {}
    for delivery in found.values():
        alerts[delivery.delivery_id] = delivery.alerts = []
    keys = {delivery_id.encode() for delivery_id in found}
    async for batch in read_to_end(settings, topics.DEFERRAL_ALERTS, tell):
        for record in batch:
            if not record.value or not (record.key in keys or question.may_fit(record.value)):
                continue
            try:
                alert = decode_alert(record.value)
            except RecordError:
                continue
            delivery_id = alert["delivery_id"]
            if delivery_id not in alerts and question.fits(alert.get):
                found[delivery_id] = Found(delivery_id, alerts=alerts.setdefault(delivery_id, []))
                keys.add(delivery_id.encode())
            if delivery_id in alerts:
                alerts[delivery_id].append(alert)
