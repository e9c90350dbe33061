"""``mailstreams history``: the pages and the interface; and ``history rebuild``."""

import sys
from typing import Final

import click

from streams.cli import WRONG_USE, Failure, Invocation, pass_invocation
from streams.cli._kafka import run
from streams.cli._output import note, progress

_ASKED: Final = (
    "This deletes the history and reads the topics anew. What is older than the topics keep is lost "
    "(events {events:g} days, changes of status and alerts {changes:g} days)."
)


@click.group("history", invoke_without_command=True)
@pass_invocation
@click.pass_context
def command(ctx: click.Context, invocation: Invocation) -> None:
    """Serve the Sending History: pages for people, JSON for programs.

    It reads mail.status-changed, mail.status, mail.events and mail.deferral-alerts into a database of its own
    (history.database_url). Ctrl-C or SIGTERM stops it in order. It also starts without the broker, and shows what it
    knows.
    """
    if ctx.invoked_subcommand is not None:
        return
    settings = invocation.settings()
    from streams.history.service import run_history  # noqa: PLC0415 - takes a while to import: not for --help

    sys.exit(run_history(settings))


@command.command("rebuild")
@click.option("--keep", is_flag=True, help="Delete nothing: keep what the topics no longer have.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def rebuild(invocation: Invocation, *, keep: bool, yes: bool) -> None:
    """Empty the database and read the topics anew, with progress.

    With --keep: for brokers that lost records, or topics that were created again, while the workers kept their state.
    Without: for another cluster or worker.app_id, whose revisions began at 1 again. The history must not run meanwhile.
    Nothing is deleted before the broker has said where the topics begin and end. When this is ended early, the history
    goes on from where it was.

    It does not repair a damaged file of SQLite: delete that, with its -wal and -shm, and start the history.
    """
    settings = invocation.settings()
    from streams.history.database import DatabaseError  # noqa: PLC0415 - takes a while to import: not for --help
    from streams.history.service import rebuild as work  # noqa: PLC0415 - takes a while to import: not for --help
    from streams.history.subscriber import SourceError  # noqa: PLC0415 - takes a while to import: not for --help

    if not yes and not keep:
        if sys.stdin is None:
            message = "standard input is closed, so nobody can be asked; not to be asked: --yes"
            raise Failure(message, exit_code=WRONG_USE)
        days = settings.topics
        note(_ASKED.format(events=days.events_retention_days, changes=days.status_changed_retention_days))
        click.confirm("Go on?", abort=True)
    try:
        with progress("offsets") as tell:
            run(work(settings, tell, keep=keep))
    except (DatabaseError, SourceError) as error:
        raise Failure(str(error)) from None
    note("the history has all that the topics have" if keep else "the history is as the topics say")
