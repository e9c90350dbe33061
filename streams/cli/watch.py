"""``mailstreams watch``: the statuses as they change, as a read_committed subscriber sees them."""

from collections.abc import Mapping
from typing import Any, Final

import click
from rich.text import Text

from streams import topics
from streams.cli import Invocation, json_option, pass_invocation
from streams.cli._kafka import read_on, run
from streams.cli._output import STATUS_STYLES, clean, console, json_line, note, shortened, time_text
from streams.records import RecordError, decode_status
from streams.settings import Settings

_STATUS_WIDTH: Final = max(map(len, STATUS_STYLES))


@click.command("watch")
@click.option(
    "--from-beginning/--from-now",
    default=False,
    show_default=True,
    help="Begin with the oldest change that is kept, or with the next one.",
)
@json_option
@pass_invocation
def command(invocation: Invocation, *, from_beginning: bool, as_json: bool) -> None:
    """Show statuses as they change, one line each, until Ctrl-C.

    A line tells when it happened (UTC), the status, the one before it, the reference, the recipient, and the
    receiving server's answer. With --json it is the record of mail.status-changed itself.
    """
    run(_watch(invocation.settings(), from_beginning=from_beginning, as_json=as_json))


async def _watch(settings: Settings, *, from_beginning: bool, as_json: bool) -> None:
    out = console()
    async for batch in read_on(settings, topics.STATUS_CHANGED, from_beginning=from_beginning):
        for record in batch:
            try:
                change = decode_status(record.value)
            except RecordError as error:
                note(f"{record.topic}/{record.partition}/{record.offset} cannot be shown: {error}")
                continue
            if as_json:
                json_line(change)
            else:
                out.print(change_line(change))
                out.file.flush()


def change_line(change: Mapping[str, Any]) -> Text:
    """Return a status-changed record as one line for people."""
    status = clean(change.get("status"))
    bounce_kind = clean(change["bounce_kind"]) if change.get("bounce_kind") else ""
    previous = f"was {clean(change['previous'])}" if change.get("previous") else "new"
    marks = [mark for mark in ("late", "complained", "unsubscribed") if change.get(mark) is True]
    details = " ".join(part for part in [*marks, bounce_kind, clean(change.get("reason") or "")] if part)
    return Text.assemble(
        (time_text(change.get("occurred_at") or change.get("received_at")), "dim"),
        "  ",
        (f"{status:<{_STATUS_WIDTH}}", STATUS_STYLES.get(status, "")),
        (f"  {previous:<{_STATUS_WIDTH + len('was ')}}  ", "dim"),
        (f"{clean(change.get('reference') or '-'):<16}", "bold"),
        f"  {clean(change.get('recipient'))}",
        (f"  {shortened(details)}" if details else "", "dim"),
        (f"  {clean(change.get('provider'))}", "dim"),
    )
