"""``mailstreams ingress``."""

import sys

import click

from streams.cli import Invocation, pass_invocation


@click.command("ingress")
@pass_invocation
def command(invocation: Invocation) -> None:
    """Take the providers' webhooks over HTTP and write them to Kafka.

    A request is verified with the account's secrets and answered 200 when all in-sync replicas have it. Providers call
    /webhooks/PROVIDER/ACCOUNT; the application reports its sends to /sends. Ctrl-C or SIGTERM stops it in order.

    It also starts without the broker, and answers 503 until there is one.
    """
    settings = invocation.settings()
    from streams.ingress import run_ingress  # noqa: PLC0415 - aiohttp and Kafka take a while to import: not for --help

    sys.exit(run_ingress(settings))
