"""``mailstreams watch``: statuses as they change and deferral alerts as they come, as a read_committed subscriber does."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import click
from rich.text import Text

from streams import topics
from streams.cli import Invocation, json_option, pass_invocation
from streams.cli._kafka import read_on, run
from streams.cli._open_deferrals import LEVEL_STYLES, duration_text
from streams.cli._output import STATUS_STYLES, clean, console, json_line, note, shortened, time_text
from streams.domain.deferrals import Level
from streams.domain.status import SECOND
from streams.records import RecordError, decode_alert, decode_status
from streams.settings import Settings

_STATUS_WIDTH: Final = max(map(len, STATUS_STYLES))
_PREVIOUS_WIDTH: Final = _STATUS_WIDTH + len("was ")
_ALERT: Final = "ALERT"


@click.command("watch")
@click.option(
    "--from-beginning/--from-now",
    default=False,
    show_default=True,
    help="Begin with the oldest change that is kept, or with the next one.",
)
@click.option("--alerts/--no-alerts", default=True, show_default=True, help="Show deferral alerts, too.")
@json_option
@pass_invocation
def command(invocation: Invocation, *, from_beginning: bool, alerts: bool, as_json: bool) -> None:
    """Show statuses as they change and deferral alerts as they come, one line each, until Ctrl-C.

    A line tells when it happened (UTC), the status, the one before it, the reference, the recipient, and the
    receiving server's answer; of an alert the time at which it fell due, and its level. With --json it is the record
    of mail.status-changed or mail.deferral-alerts itself; only alerts have a level.
    """
    names = [topics.STATUS_CHANGED, *([topics.DEFERRAL_ALERTS] if alerts else [])]
    run(_watch(invocation.settings(), names, from_beginning=from_beginning, as_json=as_json))


async def _watch(settings: Settings, names: list[str], *, from_beginning: bool, as_json: bool) -> None:
    out = console()
    async for batch in read_on(settings, *names, from_beginning=from_beginning):
        for record in batch:
            is_alert = record.topic == topics.DEFERRAL_ALERTS
            try:
                told = decode_alert(record.value) if is_alert else decode_status(record.value)
            except RecordError as error:
                note(f"{record.topic}/{record.partition}/{record.offset} cannot be shown: {error}")
                continue
            if as_json:
                json_line(told)
            else:
                out.print(alert_line(told) if is_alert else change_line(told))
                out.file.flush()


def change_line(change: Mapping[str, Any]) -> Text:
    """Return a status-changed record as one line for people."""
    status = clean(change.get("status"))
    bounce_kind = clean(change["bounce_kind"]) if change.get("bounce_kind") else ""
    previous = f"was {clean(change['previous'])}" if change.get("previous") else "new"
    marks = [mark for mark in ("late", "complained", "unsubscribed") if change.get(mark) is True]
    details = " ".join(part for part in [*marks, bounce_kind, clean(change.get("reason") or "")] if part)
    at = change.get("occurred_at") or change.get("received_at")
    return _line(at, (status, STATUS_STYLES.get(status, "")), previous, change, details)


def alert_line(alert: Mapping[str, Any]) -> Text:
    """Return a deferral alert as one line for people."""
    level = clean(alert.get("level"))
    if level == Level.RESOLVED:
        style = STATUS_STYLES["delivered"]
        wrong = "it was wrong: " if alert.get("annulled") is True else ""
        details = f"{wrong}{clean(alert.get('outcome'))} after {_waited(alert)}"
    else:
        style = next((style for known, style in LEVEL_STYLES.items() if known == level), "")
        details = " ".join(
            part for part in [f"deferred for {_waited(alert)}", clean(alert.get("reason") or "")] if part
        )
    return _line(alert.get("due_at"), (_ALERT, style), level, alert, details)


def _waited(alert: Mapping[str, Any]) -> str:
    """Return how long the episode lasted until the alert fell due."""
    try:
        waited = datetime.fromisoformat(alert["due_at"]) - datetime.fromisoformat(alert["deferred_since"])
    except (KeyError, TypeError, ValueError):
        return "an unknown time"
    return duration_text(int(waited.total_seconds()) * SECOND).strip()


def _line(at: object, what: tuple[str, str], then: str, record: Mapping[str, Any], details: str) -> Text:
    word, style = what
    return Text.assemble(
        (time_text(at), "dim"),
        "  ",
        (f"{word:<{_STATUS_WIDTH}}", style),
        (f"  {then:<{_PREVIOUS_WIDTH}}  ", "dim"),
        (f"{clean(record.get('reference') or '-'):<16}", "bold"),
        f"  {clean(record.get('recipient'))}",
        (f"  {shortened(details)}" if details else "", "dim"),
        (f"  {clean(record.get('provider'))}", "dim"),
    )
