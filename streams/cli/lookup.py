"""``mailstreams lookup``: what became of a message, and what to do now.

It reads ``mail.status``, ``mail.events`` and ``mail.deferral-alerts`` from end to
end, because Kafka has no index by reference or recipient. A record is decoded only
if its bytes hold what is looked for, so that millions are read in seconds.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from streams import codecs, topics
from streams.cli import NOTHING_FOUND, WRONG_USE, Failure, Invocation, json_option, pass_invocation
from streams.cli._kafka import TellProgress, read_to_end, run
from streams.cli._output import clean, console, json_line, note, progress, status_text, time_text
from streams.domain.events import DeliveryEvent, normalised_recipient, normalised_reference
from streams.records import RecordError, decode_alert, decode_event, decode_status
from streams.settings import Settings

_ASCII: Final = re.compile(rb"[\x20-\x7e]+(?![\x80-\xff])")
"""Without a letter before one that is not ASCII: in the record the two may be one character."""
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@click.command("lookup")
@click.argument("text", required=False)
@click.option(
    "--reference",
    metavar="TEXT",
    help="The application's reference, such as the invoice's number; in any case of letters.",
)
@click.option("--recipient", metavar="ADDRESS", help="The recipient's address, in any case of letters.")
@click.option("--message-id", metavar="ID", help="The provider's id of the message; with or without <>.")
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
    were published for the delivery while it was deferred. Exit code 1: nothing found.
    """
    chosen = {"reference": reference, "recipient": recipient, "message_id": message_id, "delivery_id": delivery_id}
    question = _Question.of(text, {name: value for name, value in chosen.items() if value})
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
                    "timeline": delivery.timeline(),
                    "alerts": delivery.told(),
                }
            )
        return
    out = console()
    for number, delivery in enumerate(found[-limit:]):
        if number:
            out.print()
        _print(out, delivery)
    if len(found) > limit:
        note(f"{len(found) - limit} older not shown; see --limit")


@dataclass(frozen=True, slots=True)
class _Question:
    """What is looked for: one text in any of the four places, or several places that must all fit."""

    given: dict[str, str]
    wanted: dict[str, str]
    """The same in the form in which it is compared."""
    any_of: bool

    @classmethod
    def of(cls, text: str | None, chosen: dict[str, str]) -> "_Question":
        given = chosen or dict.fromkeys(_PLACES, text or "")
        wanted = {name: _plain(name, value) for name, value in given.items()}
        if (text is not None and chosen) or not all(wanted.values()):
            message = "give either TEXT or options that say what it is"
            raise Failure(message, exit_code=WRONG_USE)
        return cls(given, wanted, any_of=not chosen)

    def __str__(self) -> str:
        names = {name.replace("_", " "): value for name, value in self.given.items()}
        if self.any_of:
            return f"{next(iter(self.given.values()))} as {', '.join(names)}"
        return ", ".join(f"{name} {value}" for name, value in names.items())

    def needles(self) -> list[bytes]:
        """Return byte strings in lower case; a fitting record's lower-cased value holds at least one of them."""
        return list({_needle(value) for value in self.wanted.values()})

    def fits(self, of: Callable[[str], object]) -> bool:
        """Tell whether a delivery's fields fit."""
        hits = (_plain(name, str(of(name) or "")) == value for name, value in self.wanted.items())
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


@dataclass(slots=True)
class _Found:
    """A delivery: its newest status record, its events without duplicates, and its alerts."""

    delivery_id: str
    status: dict[str, Any] | None = None
    events: dict[str, DeliveryEvent] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)

    def timeline(self) -> list[DeliveryEvent]:
        """Return the events in the order in which they happened, as far as that is known."""
        return sorted(self.events.values(), key=lambda event: (event.occurred_at or event.received_at, event.event_id))

    def told(self) -> list[dict[str, Any]]:
        """Return the alerts in the order in which they fell due."""
        return sorted(self.alerts, key=_due_at)

    @property
    def last_received_at(self) -> datetime:
        """Return the newest known time of receipt."""
        times = [event.received_at for event in self.events.values()]
        if self.status is not None and isinstance(received := self.status.get("received_at"), str):
            times.append(datetime.fromisoformat(received))
        return max(times, default=_NEVER)


async def _search(settings: Settings, question: _Question) -> list[_Found]:
    """Return the deliveries that fit, the newest last."""
    found: dict[str, _Found] = {}
    with progress(f"reading {topics.STATUS}") as tell:
        await _read_statuses(settings, question, found, tell)
    known = set(found)
    with progress(f"reading {topics.EVENTS}") as tell:
        await _read_events(settings, question, found, tell)
    if set(found) - known:
        # an event of a delivery without a status fitted: its earlier events may not have named what was looked for
        with progress(f"reading {topics.EVENTS} again") as tell:
            await _read_events(settings, question, found, tell)
    if found:
        with progress(f"reading {topics.DEFERRAL_ALERTS}") as tell:
            await _read_alerts(settings, found, tell)
    return sorted(found.values(), key=lambda delivery: (delivery.last_received_at, delivery.delivery_id))


async def _read_statuses(settings: Settings, question: _Question, found: dict[str, _Found], tell: TellProgress) -> None:
    needles = question.needles()
    async for batch in read_to_end(settings, topics.STATUS, tell):
        for record in batch:
            delivery_id = (record.key or b"").decode("utf-8", "replace")
            if not record.value:  # a tombstone: the delivery expired
                found.pop(delivery_id, None)
                continue
            if delivery_id not in found and not _holds(record.value, needles):
                continue
            try:
                status = decode_status(record.value)
            except RecordError:
                continue  # not reported here: the worker's own readers count it
            # A delivery that fitted once stays found, with its newest status, even if its reference has changed since.
            if delivery_id in found or question.fits(status.get):
                found[status["delivery_id"]] = _Found(status["delivery_id"], status)


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


async def _read_alerts(settings: Settings, found: dict[str, _Found], tell: TellProgress) -> None:
    keys = {delivery_id.encode(): delivery for delivery_id, delivery in found.items()}
    async for batch in read_to_end(settings, topics.DEFERRAL_ALERTS, tell):
        for record in batch:
            if (delivery := keys.get(record.key)) is None:
                continue
            try:
                delivery.alerts.append(decode_alert(record.value))
            except RecordError:
                continue


def _holds(value: bytes, needles: Iterable[bytes]) -> bool:
    lower = value.lower()
    return any(needle in lower for needle in needles)


def _print(out: Console, delivery: _Found) -> None:
    status, timeline = delivery.status, delivery.timeline()
    if status is None:
        first = timeline[0]
        out.print(Text(f"{clean(first.reference or first.message_id)} to {clean(first.recipient)}", style="bold"))
        out.print("no status yet: the events are there, the worker has not come to them (mailstreams worker)")
    else:
        _print_status(out, status)
    _print_fields(
        out,
        [
            ("provider", _either(status, timeline, "provider")),
            ("account", _either(status, timeline, "account")),
            ("message id", _either(status, timeline, "message_id")),
            ("delivery id", delivery.delivery_id),
        ],
    )
    lines = [(event.occurred_at or event.received_at, _event_line(event)) for event in timeline]
    lines += [(_due_at(alert), _alert_line(alert)) for alert in delivery.told()]
    for _, line in sorted(lines, key=lambda entry: entry[0]):
        out.print(line)


def _print_status(out: Console, status: dict[str, Any]) -> None:
    heading = f"{clean(status.get('reference') or status.get('message_id'))} to {clean(status.get('recipient'))}: "
    kind = f" ({clean(status['bounce_kind'])})" if status.get("bounce_kind") else ""
    out.print(Text.assemble((heading, "bold"), status_text(status.get("status")), kind))
    advice = status.get("advice")
    if isinstance(advice, dict):
        out.print(f"  {clean(advice.get('meaning', ''))}")
        out.print(Text(f"  {clean(advice.get('what_to_do', ''))}", style="bold"))
    marks = [mark.replace("_", " ") for mark in ("complained", "unsubscribed", "machine_opened") if status.get(mark)]
    _print_fields(
        out,
        [
            ("since", time_text(status.get("occurred_at") or status.get("received_at"))),
            ("answer", status.get("reason")),
            ("deferred since", time_text(status.get("deferred_since"))),
            ("attempts", status.get("attempts")),
            ("tried until", time_text(status.get("retry_until"))),
            ("also", ", ".join(marks)),
        ],
    )


def _print_fields(out: Console, fields: Sequence[tuple[str, object]]) -> None:
    for name, value in fields:
        if value:
            out.print(Text.assemble((f"  {name:<15}", "dim"), clean(value)))


def _event_line(event: DeliveryEvent) -> Text:
    kind = f" {event.bounce_kind}" if event.bounce_kind else ""
    attempt = f"attempt {event.attempt}" if event.attempt else ""
    codes = " ".join(str(code) for code in (event.smtp_code, event.enhanced_code) if code)
    details = [detail for detail in (attempt, event.reason or codes) if detail]
    return Text.assemble(
        (f"  {time_text(event.occurred_at or event.received_at)}  ", "dim"),
        f"{event.type}{kind}",
        (f" ({clean(event.provider_event)})", "dim") if event.provider_event else "",
        f"  {clean(': '.join(details))}" if details else "",
        ("" if event.occurred_at else "  (time of receipt)", "dim"),
    )


def _due_at(alert: dict[str, Any]) -> datetime:
    """Return the deadline that fell due; of a resolved alert: when the deferral ended."""
    try:
        due_at = datetime.fromisoformat(alert["due_at"])
    except (KeyError, TypeError, ValueError):
        return _NEVER
    return _NEVER if due_at.tzinfo is None else due_at


def _alert_line(alert: dict[str, Any]) -> Text:
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
