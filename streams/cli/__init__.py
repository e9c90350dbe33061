"""The command line: one file a group of commands.

A command's file is imported when that command is called, so that ``--help`` and
shell completion answer at once. Any error that a person can cause, from a
misspelled setting to an absent broker, is answered by one line and an exit code,
never by a traceback.
"""

import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import streams

if TYPE_CHECKING:
    from streams.settings import Settings

OK: Final = 0
NOTHING_FOUND: Final = 1
WRONG_USE: Final = 2
BROKER_UNAVAILABLE: Final = 3
INTERRUPTED: Final = 130

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_COMMANDS: Final = {
    "worker": ("streams.cli.worker", "Run a worker: webhooks in, statuses out."),
    "ingress": ("streams.cli.ingress", "Take the providers' webhooks over HTTP."),
    "history": ("streams.cli.history", "Serve the Sending History: pages and a JSON interface."),
    "topics": ("streams.cli.topics", "Create the topics, or check that they fit."),
    "feed": ("streams.cli.feed", "Send webhook bodies from files."),
    "simulate": ("streams.cli.simulate", "Play the providers: signed webhooks of made-up messages."),
    "watch": ("streams.cli.watch", "Show statuses as they change."),
    "lookup": ("streams.cli.lookup", "Say what became of a message, and what to do now."),
    "deferrals": ("streams.cli.deferrals", "Show what is deferred now: since when, why, and until when."),
    "dead-letters": ("streams.cli.dead_letters", "List, show and replay what could not be understood."),
    "resume": ("streams.cli.resume", "Let a stopped source partition go on."),
    "webhook": ("streams.cli.webhook", "Try a webhook, or confirm a subscription."),
    "acls": ("streams.cli.acls", "Print the rights that each part needs in Kafka."),
    "config": ("streams.cli.config", "Show the settings in force, or all that can be set."),
}


class Failure(click.ClickException):
    """A failure that a person can correct, in plain lines, with its exit code."""

    def __init__(self, *lines: str, exit_code: int = NOTHING_FOUND) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.exit_code = exit_code

    def show(self, file: Any = None) -> None:
        """Write each line to standard error."""
        for line in self.lines:
            click.echo(f"mailstreams: {line}", file=file or sys.stderr)


@dataclass(slots=True)
class Invocation:
    """The options before the command."""

    config: Path | None = None

    def settings(self) -> "Settings":
        """Read the settings; a wrong one ends the command with ``WRONG_USE``."""
        from streams.settings import SettingsError, load  # noqa: PLC0415 - not for --help and --version

        try:
            return load(self.config)
        except SettingsError as error:
            raise Failure(*error.problems, exit_code=WRONG_USE) from None


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


class _Commands(click.Group):
    """The commands, imported when called; turns errors that a person can cause into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command = importlib.import_module(module).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415 - needed for a mistake only

            if similar := get_close_matches(args[0], _COMMANDS, n=1):
                error.message += f" Did you mean {similar[0]}?"
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            try:
                argument.encode()
            except UnicodeEncodeError:  # bytes from the shell that no record and no answer can hold
                message = "an argument is not UTF-8; what is the terminal's encoding?"
                raise click.UsageError(message, ctx) from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except click.Abort as error:
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise  # the answer to a question was No
            click.echo(err=True)  # Ctrl-C at a question leaves the cursor behind it
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if (failure := _failure(error, ctx)) is None:
                raise
            raise failure from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all well; 1 nothing found, or a check failed; 2 wrong use or wrong settings; "
    "3 the broker cannot be reached or refuses; 130 ended by Ctrl-C.",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The settings file (TOML). Default: $MAILSTREAMS_CONFIG, else ./mailstreams.toml if there is one.",
)
@click.version_option(streams.__version__, prog_name="mailstreams", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """One truthful status per e-mail, from providers' webhooks, on Kafka."""
    ctx.obj = Invocation(config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal's encoding lacks is no reason to end an answer
        sys.stdout.reconfigure(errors="backslashreplace")
    cli.main(args=None if arguments is None else list(arguments), prog_name="mailstreams")


def _failure(error: Exception, ctx: click.Context) -> Failure | None:
    """Return what to show for an error that a person can correct; none for click's own and for our own mistakes."""
    if isinstance(error, (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError)):
        return None
    if isinstance(error, OSError) and error.errno in _FULL:  # a disk, mostly that to which the output goes
        return Failure(": ".join(filter(None, (error.filename, os.strerror(error.errno)))))
    from streams.cli._kafka import unavailable  # noqa: PLC0415 - needed for a failure only
    from streams.settings import SettingsError  # noqa: PLC0415 - needed for a failure only
    from streams.topics import TopicsError  # noqa: PLC0415 - needed for a failure only

    if isinstance(error, SettingsError):
        return Failure(*error.problems, exit_code=WRONG_USE)
    if isinstance(error, TopicsError):
        return Failure(str(error))
    invocation = ctx.find_object(Invocation)
    assert invocation is not None, "set by the group itself"
    lines = unavailable(error, invocation.settings())
    return Failure(*lines, exit_code=BROKER_UNAVAILABLE) if lines else None
