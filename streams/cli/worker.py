"""``mailstreams worker``."""

import sys

import click

from streams.cli import Invocation, pass_invocation


@click.command("worker")
@pass_invocation
def command(invocation: Invocation) -> None:
    """Run a worker: webhooks in, statuses out.

    It reads the providers' webhooks from Kafka, keeps the status of every delivery and publishes each change exactly
    once. Start as many as there are partitions at most; they share the work. Ctrl-C or SIGTERM stops it in order.

    It ends with 1 when it can no longer work or stands still, 2 when it cannot start, and 75 when its event loop
    hangs: run it under a supervisor that starts it again.
    """
    settings = invocation.settings()
    from streams.worker import run_worker  # noqa: PLC0415 - Faust takes a second to import: not for --help

    sys.exit(run_worker(settings))
