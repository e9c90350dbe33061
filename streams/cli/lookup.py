"""``mailstreams lookup``: what became of a message, and what to do now.

It reads ``mail.status``, ``mail.events`` and ``mail.deferral-alerts`` from end to
end, because Kafka has no index by reference or recipient. A record is decoded only
if its bytes hold what is looked for, so that millions are read in seconds.

The rule: it says what the Sending History says. References are compared in the same
form, a time that cannot be is replaced by that of receipt, and what to do is taken
from the newest alert of a deferral that goes on.
"""

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from streams import codecs, topics
from streams.brokers import NOT_ALLOWED
from streams.cli import NOTHING_FOUND, WRONG_USE, Failure, Invocation, json_option, pass_invocation
from streams.cli._kafka import TellProgress, read_to_end, run, unavailable
from streams.cli._output import clean, console, json_line, note, progress, status_text, time_text
from streams.domain.events import DeliveryEvent, normalised_recipient, normalised_reference
from streams.domain.status import SECOND, Status, believable, fold, from_micros, to_micros
from streams.history.timeline import Deferral, deferral_of
from streams.history.words import micros
from streams.providers import PROVIDERS
from streams.records import RecordError, decode_alert, decode_event, decode_status
from streams.settings import Settings

_ASCII: Final = re.compile(rb"[\x20-\x7e]+(?![\x80-\xff])")
"""Without a letter before one that is not ASCII: in the record the two may be one character."""
_DAY: Final = 24 * 3600 * SECOND


@click.command("lookup")
@click.argument("text", required=False)
@click.option(
    "--reference",
    metavar="TEXT",
    help="The application's reference, such as the invoice's number; in any case of letters.",
)
@click.option("--recipient", metavar="ADDRESS", help="The recipient's address, in any case of letters.")
@click.option(
    "--message-id", metavar="ID", help="The provider's id of the message, in any form that docs/sends.md names."
)
@click.option("--delivery-id", metavar="ID", help="Our id of one message to one recipient.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Show the newest N in full.")
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    text: str | None,
    *,
    reference: str | None,
    recipient: str | None,
    message_id: str | None,
    delivery_id: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Say what became of a message, and what to do now: status, advice and timeline.

    TEXT alone is tried as reference, recipient, message id and delivery id. Options given together must all fit.
    The timeline goes back as far as mail.events is kept (topics.events_retention_days), and holds the alerts that
    were published for the delivery while it was deferred. While it is deferred, the advice is that of its newest
    alert. Exit code 1: nothing found.
    """
    chosen = {"reference": reference, "recipient": recipient, "message_id": message_id, "delivery_id": delivery_id}
    question = _Question.of(text, {name: value for name, value in chosen.items() if value is not None})
    settings = invocation.settings()
    found = run(_search(settings, question))
    if not found:
        lines = [f"nothing found for {clean(question)}"]
        lines.append(
            "an event shows up once the worker has read it (mailstreams worker); "
            f"the timeline goes back {settings.topics.events_retention_days:g} days, "
            f"the status {settings.delivery.expire_after_days:g} days"
        )
        raise Failure(*lines, exit_code=NOTHING_FOUND)
    if as_json:
        for delivery in found:
            json_line(
                {
                    "delivery_id": delivery.delivery_id,
                    "status": delivery.status,
                    "no_status": delivery.no_status,
                    "advice": delivery.said().get("advice"),
                    "timeline": delivery.timeline(),
                    "alerts": delivery.told(),
                }
            )
        return
    out = console()
    for number, delivery in enumerate(found[-limit:]):
        if number:
            out.print()
        _print(out, delivery, settings.delivery.expire_after_days)
    if len(found) > limit:
        note(f"{len(found) - limit} older not shown; see --limit")


@dataclass(frozen=True, slots=True)
class _Question:
    """What is looked for: one text in any of the four places, or several places that must all fit."""

    given: dict[str, str]
    forms: dict[str, frozenset[str]]
    """Place -> every form in which a record may hold it, as it is compared."""
    any_of: bool

    @classmethod
    def of(cls, text: str | None, chosen: dict[str, str]) -> "_Question":
        given = chosen or dict.fromkeys(_PLACES, text or "")
        wanted = {name: _plain(name, value) for name, value in given.items()}
        if (text is not None and chosen) or not all(wanted.values()):
            message = "give either TEXT or options that say what it is; none may be empty"
            raise Failure(message, exit_code=WRONG_USE)
        return cls(given, {name: _forms(name, value) for name, value in wanted.items()}, any_of=not chosen)

    def __str__(self) -> str:
        names = {name.replace("_", " "): value for name, value in self.given.items()}
        if self.any_of:
            return f"{next(iter(self.given.values()))} as {', '.join(names)}"
        return ", ".join(f"{name} {value}" for name, value in names.items())

    def needles(self) -> list[bytes]:
        """Return byte strings in lower case; a fitting record's lower-cased value holds at least one of them."""
        return list({_needle(form) for forms in self.forms.values() for form in forms})

    def fits(self, of: Callable[[str], object]) -> bool:
        """Tell whether a delivery's fields fit."""
        hits = (_plain(name, str(of(name) or "")) in forms for name, forms in self.forms.items())
        return any(hits) if self.any_of else all(hits)


_PLACES: Final = ("reference", "recipient", "message_id", "delivery_id")


def _needle(value: str) -> bytes:
    """Return a part of the value's JSON, in lower case, that every lower-cased record with the value holds.

    Bytes are lower-cased only where they are ASCII, so it is the longest ASCII part; an empty one is in every record.
    """
    return max(_ASCII.findall(codecs.encode(value)[1:-1].lower()), key=len, default=b"")


def _plain(name: str, value: str) -> str:
    """Return a value in the form in which it is compared."""
    if name == "recipient":
        return normalised_recipient(value)
    if name == "reference":
        return normalised_reference(value)
    return value.strip().strip("<>") if name == "message_id" else value.strip()


def _forms(name: str, value: str) -> frozenset[str]:
    """Return a plain value and, of a message id, what each provider's webhooks would hold of it."""
    others = {provider.message_id(value) for provider in PROVIDERS.values()} if name == "message_id" else set()
    return frozenset({value, *others} - {""})


class _NoStatus(StrEnum):
    """Why a delivery with events has no status."""

    FORGOTTEN = "forgotten"  # its last event came too long ago
    CHANGES_NOTHING = "changes_nothing"  # all of its events are of type other or unknown
    NOT_YET = "not_yet"  # the worker has not come to its events


@dataclass(slots=True)
class _Found:
    """A delivery: its newest status record, its events without duplicates, and its alerts."""

    delivery_id: str
    status: dict[str, Any] | None = None
    forgotten_at: int | None = None
    """The time of its tombstone in ``mail.status``, if that is the newest record; µs."""
    events: dict[str, DeliveryEvent] = field(default_factory=dict)
    alerts: list[dict[str, Any]] | None = field(default_factory=list)
    """None: they could not be read."""
    no_status: _NoStatus | None = None

    def timeline(self) -> list[DeliveryEvent]:
        """Return the events in the order in which they happened, as far as that is known."""
        return sorted(self.events.values(), key=lambda event: (_when(event)[0], event.received_at, event.event_id))

    def told(self) -> list[dict[str, Any]] | None:
        """Return the alerts in the order in which they fell due; None: they could not be read."""
        return None if self.alerts is None else sorted(self.alerts, key=_due_at)

    def said(self) -> Mapping[str, Any]:
        """Return the record that says what to do now: while it is deferred the newest alert, or else the status.

        Of one that was forgotten while it was deferred, the alert that says so.
        """
        alerts = self.alerts or ()
        if self.status is not None and self.status.get("status") == Status.DEFERRED:
            began = micros(self.status.get("first_received_at"))
        elif self.no_status is _NoStatus.FORGOTTEN:
            began = max((micros(alert.get("first_received_at")) or 0 for alert in alerts), default=None)
        else:
            began = None
        deferral = Deferral() if began is None else deferral_of(alerts, first_received_at=began, episode=None)
        return deferral.alert or deferral.forgotten or self.status or {}

    @property
    def last_received_at(self) -> int:
        """Return the newest known time of receipt; µs."""
        times = [to_micros(event.received_at) for event in self.events.values()]
        if self.status is not None:
            times.append(micros(self.status.get("received_at")) or 0)
        return max(times, default=0)


def _why_no_status(delivery: _Found, settings: Settings) -> _NoStatus | None:
    """Return why a delivery has no status; None if it has one."""
    if delivery.status is not None:
        return None
    counted = (event for event in delivery.events.values() if fold(None, event).delivery is not None)
    last = max((to_micros(event.received_at) for event in counted), default=None)
    if delivery.forgotten_at is not None and (last is None or last <= delivery.forgotten_at):
        return _NoStatus.FORGOTTEN
    if last is None:
        return _NoStatus.CHANGES_NOTHING
    # Kafka removes a tombstone in time: then the age alone tells
    expired = last + settings.delivery.expire_after_days * _DAY < time.time_ns() // 1000
    return _NoStatus.FORGOTTEN if expired else _NoStatus.NOT_YET


async def _search(settings: Settings, question: _Question) -> list[_Found]:
    """Return the deliveries that fit, the newest last."""
    found: dict[str, _Found] = {}
    with progress(f"reading {topics.STATUS}") as tell:
        await _read_statuses(settings, question.needles(), question.fits, found, tell)
    known = set(found)
    with progress(f"reading {topics.EVENTS}") as tell:
        await _read_events(settings, question, found, tell)
    if set(found) - known:
        # an event of a delivery without a status fitted: its earlier events may not have named what was looked for
        with progress(f"reading {topics.EVENTS} again") as tell:
            await _read_events(settings, question, found, tell)
        # and its status may name something newer instead
        with progress(f"reading {topics.STATUS} again") as tell:
            await _read_statuses(settings, (), lambda _of: False, found, tell)
    found = {name: delivery for name, delivery in found.items() if delivery.status is not None or delivery.events}
    if found:
        await _read_alerts_if_allowed(settings, found)
    for delivery in found.values():
        delivery.no_status = _why_no_status(delivery, settings)
    return sorted(found.values(), key=lambda delivery: (delivery.last_received_at, delivery.delivery_id))


async def _read_statuses(
    settings: Settings,
    needles: Collection[bytes],
    fits: Callable[[Callable[[str], object]], bool],
    found: dict[str, _Found],
    tell: TellProgress,
) -> None:
    """Take in the newest status of what is found already, and of what fits."""
    async for batch in read_to_end(settings, topics.STATUS, tell):
        for record in batch:
            delivery_id = (record.key or b"").decode("utf-8", "replace")
            delivery = found.get(delivery_id)
            if not record.value:  # a tombstone: the delivery expired
                if delivery is not None:
                    delivery.status, delivery.forgotten_at = None, record.timestamp * 1000
                continue
            if delivery is None and not _holds(record.value, needles):
                continue
            try:
                status = decode_status(record.value)
            except RecordError:
                continue  # not reported here: the worker's own readers count it
            # A delivery that fitted once stays found, with its newest status, even if its reference has changed since.
            if delivery is not None or fits(status.get):
                delivery = found.setdefault(status["delivery_id"], _Found(status["delivery_id"]))
                delivery.status, delivery.forgotten_at = status, None


async def _read_events(settings: Settings, question: _Question, found: dict[str, _Found], tell: TellProgress) -> None:
    needles = question.needles()
    keys = {delivery_id.encode() for delivery_id in found}
    async for batch in read_to_end(settings, topics.EVENTS, tell):
        for record in batch:
            if not record.value or not (record.key in keys or _holds(record.value, needles)):
                continue
            try:
                event = decode_event(record.value)
            except RecordError:
                continue  # the worker's own readers count it
            delivery = found.get(event.delivery_id)
            if delivery is None and question.fits(partial(getattr, event)):
                delivery = found[event.delivery_id] = _Found(event.delivery_id)
                keys.add(event.delivery_id.encode())
            if delivery is not None:
                delivery.events[event.event_id] = event


async def _read_alerts_if_allowed(settings: Settings, found: dict[str, _Found]) -> None:
    """Take in the alerts. Without them the rest is still worth showing, with a note that they are missing."""
    try:
        with progress(f"reading {topics.DEFERRAL_ALERTS}") as tell:
            await _read_alerts(settings, found, tell)
    except (Failure, *NOT_ALLOWED) as error:
        lines = error.lines if isinstance(error, Failure) else unavailable(error, settings)
        note(f"without alerts, and of a deferral without the newest advice: {'; '.join(lines)}")
        for delivery in found.values():
            delivery.alerts = None


async def _read_alerts(settings: Settings, found: dict[str, _Found], tell: TellProgress) -> None:
    keys: dict[bytes, list[dict[str, Any]]] = {}
    for delivery in found.values():
        keys[delivery.delivery_id.encode()] = delivery.alerts = []
    async for batch in read_to_end(settings, topics.DEFERRAL_ALERTS, tell):
        for record in batch:
            if (alerts := keys.get(record.key)) is None:
                continue
            try:
                alerts.append(decode_alert(record.value))
            except RecordError:
                continue


def _holds(value: bytes, needles: Collection[bytes]) -> bool:
    if not needles:
        return False
    lower = value.lower()
    return any(needle in lower for needle in needles)


def _print(out: Console, delivery: _Found, expire_after_days: float) -> None:
    status, timeline = delivery.status, delivery.timeline()
    if status is None:
        first = timeline[0]
        out.print(Text(f"{clean(first.reference or first.message_id)} to {clean(first.recipient)}", style="bold"))
        assert delivery.no_status is not None
        out.print(_NO_STATUS[delivery.no_status].format(days=expire_after_days))
        _print_advice(out, delivery)
    else:
        _print_status(out, delivery, status)
    _print_fields(
        out,
        [
            ("provider", _either(status, timeline, "provider")),
            ("account", _either(status, timeline, "account")),
            ("message id", _either(status, timeline, "message_id")),
            ("delivery id", delivery.delivery_id),
        ],
    )
    lines = [(_when(event)[0], _event_line(event)) for event in timeline]
    lines += [(_due_at(alert), _alert_line(alert)) for alert in delivery.told() or ()]
    for _, line in sorted(lines, key=lambda entry: entry[0]):
        out.print(line)


_NO_STATUS: Final = {
    _NoStatus.FORGOTTEN: "forgotten, {days:g} days after its last event",
    _NoStatus.CHANGES_NOTHING: "no status: none of its events says what became of the message",
    _NoStatus.NOT_YET: "no status yet: the events are there, the worker has not come to them (mailstreams worker)",
}


def _print_status(out: Console, delivery: _Found, status: Mapping[str, Any]) -> None:
    heading = f"{clean(status.get('reference') or status.get('message_id'))} to {clean(status.get('recipient'))}: "
    kind = f" ({clean(status['bounce_kind'])})" if status.get("bounce_kind") else ""
    out.print(Text.assemble((heading, "bold"), status_text(status.get("status")), kind))
    _print_advice(out, delivery)
    marks = [mark.replace("_", " ") for mark in ("complained", "unsubscribed", "machine_opened") if status.get(mark)]
    said = (delivery.said(), status)  # of a deferral, the alert may know more
    _print_fields(
        out,
        [
            ("last change", _last_change(status)),
            ("answer", status.get("reason")),
            ("deferred since", min(filter(None, (time_text(each.get("deferred_since")) for each in said)), default="")),
            ("attempts", max((each["attempts"] for each in said if isinstance(each.get("attempts"), int)), default=0)),
            ("tried until", next(filter(None, (time_text(each.get("retry_until")) for each in said)), "")),
            ("also", ", ".join(marks)),
        ],
    )


def _print_advice(out: Console, delivery: _Found) -> None:
    advice = delivery.said().get("advice")
    if isinstance(advice, dict):
        out.print(f"  {clean(advice.get('meaning', ''))}")
        out.print(Text(f"  {clean(advice.get('what_to_do', ''))}", style="bold"))


def _print_fields(out: Console, fields: Sequence[tuple[str, object]]) -> None:
    for name, value in fields:
        if value:
            out.print(Text.assemble((f"  {name:<15}", "dim"), clean(value)))


def _event_line(event: DeliveryEvent) -> Text:
    kind = f" {event.bounce_kind}" if event.bounce_kind else ""
    attempt = f"attempt {event.attempt}" if event.attempt else ""
    codes = " ".join(str(code) for code in (event.smtp_code, event.enhanced_code) if code)
    details = [detail for detail in (attempt, event.reason or codes) if detail]
    at, remark = _when(event)
    return Text.assemble(
        (f"  {_time(at)}  ", "dim"),
        f"{event.type}{kind}",
        (f" ({clean(event.provider_event)})", "dim") if event.provider_event else "",
        f"  {clean(': '.join(details))}" if details else "",
        (remark, "dim"),
    )


def _when(event: DeliveryEvent) -> tuple[int, str]:
    """Return when an event happened, in µs, and a remark if that is not what the provider said."""
    return _believed(None if event.occurred_at is None else to_micros(event.occurred_at), to_micros(event.received_at))


def _last_change(status: Mapping[str, Any]) -> str:
    """Return when the last revision began, with a remark if that is not what the provider said."""
    received_at = micros(status.get("received_at"))
    if received_at is None:
        return ""
    at, remark = _believed(micros(status.get("occurred_at")), received_at)
    return f"{_time(at)}{remark}"


def _believed(occurred_at: int | None, received_at: int) -> tuple[int, str]:
    at = believable(occurred_at, received_at)
    if at is not None:
        return at, ""
    said = "" if occurred_at is None else f"; the provider's clock said {_time(occurred_at)}, which cannot be"
    return received_at, f"  (time of receipt{said})"


def _time(at: int) -> str:
    return time_text(from_micros(at))


def _due_at(alert: Mapping[str, Any]) -> int:
    """Return the deadline that fell due; of a resolved alert: when the deferral ended; µs."""
    return micros(alert.get("due_at")) or 0


def _alert_line(alert: Mapping[str, Any]) -> Text:
    """Return an alert as a line: for an open deferral until when the provider tries, else how it ended."""
    outcome = alert.get("outcome")
    ended = f"it is {clean(outcome)}" if outcome else f"the provider gives up at {time_text(alert.get('retry_until'))}"
    return Text.assemble(
        (f"  {time_text(alert.get('due_at'))}  ", "dim"),
        (f"alert: {clean(alert['level'])}", "yellow"),
        f"  {ended}",
        ("  (it should not have been told: it had ended before)" if alert.get("annulled") is True else "", "dim"),
    )


def _either(status: dict[str, Any] | None, timeline: Sequence[DeliveryEvent], name: str) -> object:
    return status.get(name) if status is not None else getattr(timeline[0], name)
