"""``mailstreams feed PROVIDER FILE...``: send recorded webhook bodies the way the ingress sends received ones."""

import asyncio
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from streams import codecs, records, topics
from streams.cli import WRONG_USE, Failure, Invocation, json_option, pass_invocation
from streams.cli._account import ACCOUNT
from streams.cli._fresh import freshened
from streams.cli._kafka import acknowledged, producer, raw_topic_of, run
from streams.cli._numbers import RATE
from streams.cli._output import json_line, note, plural
from streams.providers import PROVIDERS
from streams.settings import Settings

_WINDOW: Final = 500
"""Most bodies that are sent and not yet acknowledged."""


@click.command("feed", epilog=f"PROVIDER: {', '.join(sorted(PROVIDERS))}.")
@click.argument("provider", type=click.Choice(sorted(PROVIDERS)), metavar="PROVIDER")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@click.option(
    "--account", type=ACCOUNT, default="default", show_default=True, help="Our name for the account at the provider."
)
@click.option("--as-now", is_flag=True, help="Make the messages new: fresh ids, and the newest event of each is now.")
@click.option("--rate", type=RATE, metavar="N", help="Send at most N bodies a second.")
@click.option("--repeat", type=click.IntRange(min=1), default=1, metavar="N", help="Send the files N times over.")
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    provider: str,
    files: Sequence[Path],
    *,
    account: str,
    as_now: bool,
    rate: float | None,
    repeat: int,
    as_json: bool,
) -> None:
    """Send webhook bodies from files to the PROVIDER's topic; - is standard input.

    Each file is one request's body, exactly as the provider sends it. It is marked as not verified, because no
    signature was checked. The command ends when all in-sync replicas have all of them.

    With --as-now the ids are replaced consistently over all files of the call, so that the events of one message
    stay together; with --repeat each round then has messages of its own.
    """
    settings = invocation.settings()
    bodies = [_read(path) for path in files]
    rounds = [
        freshened([(provider, body) for body in bodies], now=datetime.now(UTC), run=f"{secrets.token_hex(4)}-")
        if as_now
        else bodies
        for _ in range(repeat)
    ]
    count = run(_send(settings, provider, account, [body for bodies in rounds for body in bodies], rate))
    topic = topics.raw_topic(provider)
    if as_json:
        json_line({"topic": topic, "sent": count})
    else:
        note(f"sent {plural(count, 'request')} to {topic}")


def _read(path: Path) -> bytes:
    if str(path) == "-" and sys.stdin is None:
        message = "-: standard input is closed"
        raise Failure(message, exit_code=WRONG_USE)
    try:
        body = click.get_binary_stream("stdin").read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
        raise Failure(message, exit_code=WRONG_USE) from None
    if len(body) > topics.MAX_BODY_BYTES:
        message = f"{path}: {len(body)} bytes, a request may have {topics.MAX_BODY_BYTES}"
        raise Failure(message, exit_code=WRONG_USE)
    return body


async def _send(settings: Settings, provider: str, account: str, bodies: Sequence[bytes], rate: float | None) -> int:
    topic = await raw_topic_of(settings, provider)
    loop = asyncio.get_running_loop()
    async with producer(settings) as client:
        start = loop.time()
        waiting: list[asyncio.Future[object]] = []
        for index, body in enumerate(bodies):
            if rate is not None:
                await asyncio.sleep(max(0.0, start + index / rate - loop.time()))
            waiting.append(await client.send(topic, body, headers=_headers(provider, account, body)))
            if len(waiting) >= _WINDOW:
                await acknowledged(waiting)
                waiting.clear()
        await acknowledged(waiting)
    return len(bodies)


def _headers(provider: str, account: str, body: bytes) -> list[tuple[str, bytes]]:
    return records.encode_raw_headers(
        provider=provider, account=account, received_at=datetime.now(UTC), content_type=_content_type(body)
    )


def _content_type(body: bytes) -> str:
    """Return the content type that a provider would send: that of JSON, of a form, or, as SNS does, of plain text."""
    try:
        value = codecs.decode(body)
    except codecs.DecodeError:
        is_form = b"=" in body and not body.lstrip().startswith((b"{", b"["))
        return "application/x-www-form-urlencoded" if is_form else "application/json"
    return "text/plain; charset=UTF-8" if isinstance(value, dict) and "TopicArn" in value else "application/json"
