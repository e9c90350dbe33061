"""What a command prints: for people in colour, for programs as one JSON object a line.

Every string that came from outside passes ``clean`` or ``json_line``: a
receiving server's answer may hold escape sequences that would take over the
operator's terminal, or line breaks that would forge lines.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from streams import codecs
from streams.cli._kafka import TellProgress
from streams.texts import clean as clean  # noqa: PLC0414 - commands take it from here, beside json_line

STATUS_STYLES: Final = {
    "sent": "cyan",
    "delivered": "green",
    "opened": "bold green",
    "bounced": "bold red",
    "deferred": "yellow",
    "dropped": "magenta",
}

_HIDDEN_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def json_line(value: Any) -> None:
    """Print a value as one line of JSON; characters that control a terminal are escaped, which keeps the value.

    In UTF-8 whatever the terminal's encoding is, as RFC 8259 has it: a program is to read it.
    """
    text = codecs.encode(value).decode("utf-8")
    click.echo(
        _HIDDEN_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()
    )  # which flushes, if it is open


def console() -> Console:
    """Return standard output: coloured on a terminal, never wrapped, and markup in texts has no effect."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def note(text: str) -> None:
    """Print text that is not the command's result, to standard error."""
    click.echo(text, err=True)


def status_text(status: object) -> Text:
    """Return a status in its colour."""
    return Text(clean(status), style=STATUS_STYLES.get(str(status), ""))


def time_text(value: object) -> str:
    """Return a time as people read it, in UTC and whole seconds; any other value cleaned."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return clean(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        try:
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        except OverflowError:  # beyond the calendar in UTC, as 9999-12-31T23:59:59-01:00 is
            return clean(value)
    return "" if value is None else clean(value)


def time_of_ms(milliseconds: int) -> str:
    """Return a Kafka timestamp as people read it; an empty text if there is none."""
    try:
        return time_text(datetime.fromtimestamp(milliseconds / 1000, UTC)) if milliseconds >= 0 else ""
    except (ValueError, OverflowError, OSError):
        return ""


def shortened(text: str, limit: int = 120) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 record, 2 records."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@contextmanager
def progress(text: str) -> Iterator[TellProgress]:
    """Show on standard error how much of a topic was read, if that is a terminal."""
    stderr = Console(stderr=True)
    if not stderr.is_terminal:
        yield lambda _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
