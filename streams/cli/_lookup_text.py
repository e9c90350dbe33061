"""A delivery that ``lookup`` found, as people read it.

The rule: what became of it and what to do come first, then what names it, then what
happened, the oldest first. Texts of others pass ``clean``. Times are UTC, and one that
is not what the provider said carries a remark.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from streams.cli._lookup_found import Found, NoStatus, due_at
from streams.cli._output import clean, status_text, time_text
from streams.domain.events import DeliveryEvent
from streams.domain.status import believable, from_micros, to_micros
from streams.history.words import micros
from streams.settings import Settings

_NO_STATUS: Final = {
    NoStatus.FORGOTTEN: "forgotten, {days:g} days after its last event",
    NoStatus.CHANGES_NOTHING: "no status: none of its events says what became of the message",
    NoStatus.NOT_YET: "no status yet: the events are there, the worker has not come to them (mailstreams worker)",
}
_OUT_OF_DATE: Final = (
    "  out of date: an event below has a final word, the worker has not come to it (mailstreams worker)"
)


def print_delivery(out: Console, delivery: Found, settings: Settings) -> None:
    """Print all that is known of a delivery."""
    name = (
        f"{clean(delivery.named('reference') or delivery.named('message_id'))} to {clean(delivery.named('recipient'))}"
    )
    if delivery.status is None:
        out.print(Text(name, style="bold"))
        assert delivery.no_status is not None
        out.print(_NO_STATUS[delivery.no_status].format(days=settings.delivery.expire_after_days))
        _print_advice(out, delivery)
    else:
        _print_status(out, name, delivery, delivery.status)
    _print_fields(
        out,
        [
            ("provider", delivery.named("provider")),
            ("account", delivery.named("account")),
            ("message id", delivery.named("message_id")),
            ("delivery id", delivery.delivery_id),
        ],
    )
    if delivery.begins_earlier:
        days = settings.topics.events_retention_days
        out.print(Text(f"  earlier events are no longer kept (topics.events_retention_days: {days:g})", "dim"))
    lines = [_event_line(event) for event in delivery.timeline()]
    lines += [(due_at(alert), _alert_line(alert)) for alert in delivery.told() or ()]
    for _, line in sorted(lines, key=lambda entry: entry[0]):
        out.print(line)


def _print_status(out: Console, name: str, delivery: Found, status: Mapping[str, Any]) -> None:
    kind = f" ({clean(status['bounce_kind'])})" if status.get("bounce_kind") else ""
    out.print(Text.assemble((f"{name}: ", "bold"), status_text(status.get("status")), kind))
    if delivery.status_is_behind:
        out.print(Text(_OUT_OF_DATE, style="bold"))
    _print_advice(out, delivery)
    marks = [mark.replace("_", " ") for mark in ("complained", "unsubscribed", "machine_opened") if status.get(mark)]
    said = (delivery.said(), status)  # of a deferral, the alert may know more
    _print_fields(
        out,
        [
            ("last change", _last_change(status)),
            ("answer", _answer(status.get("reason"), status.get("smtp_code"), status.get("enhanced_code"))),
            ("deferred since", min(filter(None, (time_text(each.get("deferred_since")) for each in said)), default="")),
            ("attempts", max((each["attempts"] for each in said if isinstance(each.get("attempts"), int)), default=0)),
            ("tried until", next(filter(None, (time_text(each.get("retry_until")) for each in said)), "")),
            ("also", ", ".join(marks)),
        ],
    )


def _print_advice(out: Console, delivery: Found) -> None:
    advice = delivery.advice()
    if advice is not None:
        out.print(f"  {clean(advice.get('meaning', ''))}")
        out.print(Text(f"  {clean(advice.get('what_to_do', ''))}", style="bold"))


def _print_fields(out: Console, fields: Sequence[tuple[str, object]]) -> None:
    for name, value in fields:
        if value:
            out.print(Text.assemble((f"  {name:<15}", "dim"), clean(value)))


def _event_line(event: DeliveryEvent) -> tuple[int, Text]:
    """Return when an event happened, in µs, and its line."""
    kind = f" {event.bounce_kind}" if event.bounce_kind else ""
    attempt = f"attempt {event.attempt}" if event.attempt else ""
    answer = _answer(event.reason, event.smtp_code, event.enhanced_code)
    said_at = None if event.occurred_at is None else to_micros(event.occurred_at)
    at, remark = _believed(said_at, to_micros(event.received_at))
    return at, Text.assemble(
        (f"  {_time(at)}  ", "dim"),
        f"{event.type}{kind}",
        (f" ({clean(event.provider_event)})", "dim") if event.provider_event else "",
        f"  {clean(': '.join(filter(None, (attempt, answer))))}" if attempt or answer else "",
        (remark, "dim"),
    )


def _answer(reason: object, smtp_code: object, enhanced_code: object) -> str:
    """Return what the receiving server answered: its text, or else its codes."""
    return str(reason or " ".join(str(code) for code in (smtp_code, enhanced_code) if code))


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


def _last_change(status: Mapping[str, Any]) -> str:
    """Return when the last revision began, with a remark if that is not what the provider said."""
    received_at = micros(status.get("received_at"))
    if received_at is None:
        return ""
    at, remark = _believed(micros(status.get("occurred_at")), received_at)
    return f"{_time(at)}{remark}"


def _believed(occurred_at: int | None, received_at: int) -> tuple[int, str]:
    """Return when something happened, in µs, and a remark if that is not what the provider said."""
    at = believable(occurred_at, received_at)
    if at is not None:
        return at, ""
    said = "" if occurred_at is None else f"; the provider's clock said {_time(occurred_at)}, which cannot be"
    return received_at, f"  (time of receipt{said})"


def _time(at: int) -> str:
    return time_text(from_micros(at))
