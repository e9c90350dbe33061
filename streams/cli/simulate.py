"""``mailstreams simulate``: a made-up world of invoices, in every provider's own words and signatures."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Final

import click

from streams import records, topics
from streams.cli import INTERRUPTED, NOTHING_FOUND, WRONG_USE, Failure, Invocation, json_option, pass_invocation
from streams.cli._account import ACCOUNT
from streams.cli._ingress import NOBODY, SECRETS, URL, ingress_url, settings_text, to_ingress
from streams.cli._kafka import partitions_of, producer, raw_topic_of, run
from streams.cli._numbers import RATE, SECONDS
from streams.cli._output import clean, json_line, note
from streams.process import stop_by_signals
from streams.settings import Settings
from streams.simulate import signing
from streams.simulate.driving import (
    NO_ANSWER,
    Answer,
    Deliver,
    Outgoing,
    Summary,
    described,
    drive,
    ledger_line,
)
from streams.simulate.story import PROFILES, PROVIDERS, SENDS, arrivals

DEMO: Final = "demo"
_NEWS_EVERY_S: Final = 10.0
_REFUSED: Final = frozenset({401, 403, 404})


@click.command("simulate")
@click.option(
    "--url", type=URL, metavar="URL", help="The ingress. Default: the one that the settings describe, on this machine."
)
@click.option("--kafka", is_flag=True, help="Write to the raw topics, past the ingress; nothing is verified.")
@click.option(
    "--account",
    type=ACCOUNT,
    default=DEMO,
    show_default=True,
    help="Our name for the account; use it for nothing else.",
)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    type=click.Choice(PROVIDERS),
    help="Only this one; may be given several times. Default: those of topics.providers.",
)
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="demo",
    show_default=True,
    help="demo: deferrals end within a minute; real: within hours, opens within days; load: all within seconds.",
)
@click.option(
    "--rate",
    type=RATE,
    default=2.0,
    show_default=True,
    metavar="N",
    help="Messages a second; each brings about three events.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed is another world.")
@click.option("--messages", type=click.IntRange(min=1), metavar="N", help="Send N messages and tell each to its end.")
@click.option(
    "--duration",
    type=SECONDS,
    metavar="S",
    help="End after S seconds, whatever is open.",
)
@click.option(
    "--secrets",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=SECRETS,
    show_default=True,
    metavar="DIR",
    help="What the simulated providers sign with; made if it is not there.",
)
@click.option("--show-settings", is_flag=True, help="Print the settings with which the ingress takes it all, and end.")
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Add a line of JSON for each request that was answered 2xx.",
)
@click.option("--quiet", is_flag=True, help="No news while it runs.")
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    *,
    url: str | None,
    kafka: bool,
    account: str,
    providers: Sequence[str],
    profile: str,
    rate: float,
    seed: int,
    messages: int | None,
    duration: float | None,
    folder: Path,
    show_settings: bool,
    ledger: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Play the providers: webhooks of made-up messages, in their true shapes, with signatures.

    Messages are delivered, opened, deferred and then delivered or bounced, refused, dropped; people complain,
    machines open messages, mailboxes of absent people reply. Webhooks come late, out of order, and some twice. For
    Postmark, Azure and Mailjet, which report no sent, the application reports its sends.

    The schedule is fixed by --seed and --rate and waits for no answer: a latency counts from when a request was due.
    Requests that are refused temporarily are sent again. Without --messages and --duration it goes on until Ctrl-C; at
    the end it prints what became of all requests. Exit code 1: something was refused or never answered.

    The ingress must know the simulated providers' secrets: --show-settings prints them as settings. They are made at
    random, for simulation only: anybody who has them can forge what the account reports.
    """
    if url is not None and kafka:
        message = "--url and --kafka exclude each other"
        raise click.UsageError(message)
    try:
        secrets = signing.load(folder)
    except (OSError, ValueError) as error:
        text = f"{folder}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise Failure(text, exit_code=WRONG_USE) from None
    if show_settings:
        click.echo(settings_text(secrets, folder, account), nl=False)
        return
    settings = invocation.settings()
    target = None if kafka else url or ingress_url(settings)
    summary = Summary()
    world = _World(
        settings=settings,
        url=target,
        secrets=secrets,
        account=account,
        # of another one the ingress knows no address
        providers=tuple(providers) or tuple(name for name in PROVIDERS if name in settings.topics.providers),
        profile=profile,
        rate=rate,
        seed=seed,
        messages=messages,
        duration=duration,
        summary=summary,
        news=not quiet and not as_json,
    )
    with ExitStack() as files:
        try:
            lines = files.enter_context(ledger.open("ab", buffering=0)) if ledger is not None else None
        except OSError as error:
            text = f"{ledger}: {error.strerror or error}"
            raise Failure(text, exit_code=WRONG_USE) from None
        interrupted = run(world.play(lines))
    _tell(summary, as_json=as_json)
    if interrupted:
        raise SystemExit(INTERRUPTED)
    if summary.refused:
        raise Failure(*_advice(summary, target, folder, account), exit_code=NOTHING_FOUND)


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """One run."""

    settings: Settings
    url: str | None
    """Of the ingress; None: requests are written directly to Kafka."""
    secrets: signing.Secrets
    account: str
    providers: Sequence[str]
    profile: str
    rate: float
    seed: int
    messages: int | None
    duration: float | None
    """In seconds."""
    summary: Summary
    """Filled while it runs."""
    news: bool
    """Whether progress is printed now and then."""

    async def play(self, ledger: FileIO | None) -> bool:
        """Send it all; return whether it was ended by a signal.

        Raises:
            Failure: the ledger cannot be written to.
        """
        stop = stop_by_signals()
        async with self._deliverer() as deliver:
            if self.news:
                note(f"simulating {self.rate:g} messages/s to {self.url or 'Kafka'}; Ctrl-C ends it")
            news = asyncio.create_task(self._tell_news())
            start = datetime.now(UTC)
            try:
                await drive(
                    arrivals(
                        seed=self.seed,
                        start=start,
                        rate=self.rate,
                        profile=PROFILES[self.profile],
                        account=self.account,
                        providers=self.providers,
                        messages=self.messages,
                        until=None if self.duration is None else start + timedelta(seconds=self.duration),
                    ),
                    start=start,
                    account=self.account,
                    signers=signing.signers(self.secrets),
                    deliver=deliver,
                    stop=stop,
                    summary=self.summary,
                    record=(lambda _line: None) if ledger is None else partial(_write, ledger),
                )
            finally:
                news.cancel()
        return stop.is_set()

    @asynccontextmanager
    async def _deliverer(self) -> AsyncIterator[Deliver]:
        if self.url is None:
            async with _to_kafka(self.settings, self.providers) as deliver:
                yield deliver
        else:
            async with to_ingress(self.url, send_key=self.secrets.send_key) as deliver:
                yield deliver

    async def _tell_news(self) -> None:
        summary, begun = self.summary, time.monotonic()
        while True:
            await asyncio.sleep(_NEWS_EVERY_S)
            if self.news:
                refused = f", {sum(summary.refused.values()):,} refused" if summary.refused else ""
                note(f"{time.monotonic() - begun:6.0f} s  {summary.accepted:,} requests accepted{refused}")


def _write(ledger: FileIO, line: Mapping[str, Any]) -> None:
    """Write a line of the ledger, all of it."""
    left = ledger_line(line)
    try:
        while left:
            left = left[ledger.write(left) :]
    except OSError as error:
        text = f"{ledger.name!s}: {error.strerror or error}; the ledger lacks what was accepted since"
        raise Failure(text) from None


@asynccontextmanager
async def _to_kafka(settings: Settings, providers: Sequence[str]) -> AsyncIterator[Deliver]:
    """Yield a function that writes requests to their topics as the ingress would, unverified."""
    from aiokafka.errors import KafkaError  # noqa: PLC0415 - for this way only

    await partitions_of(settings, topics.SENDS)  # a missing topic is reported at once, and not created by asking for it
    for provider in providers:
        await raw_topic_of(settings, provider)
    async with producer(settings) as client:

        async def deliver(request: Outgoing) -> Answer:
            try:
                if request.target == SENDS:
                    sent = await client.send(topics.SENDS, request.body, request.key)
                else:
                    headers = _headers(request)
                    sent = await client.send(topics.raw_topic(request.target), request.body, headers=headers)
                await sent
            except (KafkaError, TimeoutError, OSError):
                return Answer(NO_ANSWER)
            return Answer(200)

        yield deliver


def _headers(request: Outgoing) -> list[tuple[str, bytes]]:
    lower = {name.lower(): text for name, text in request.headers.items()}
    lower.pop("authorization", None)  # a credential is never kept
    return records.encode_raw_headers(
        provider=request.target,
        account=request.account,
        received_at=datetime.now(UTC),
        content_type=lower.pop("content-type"),
        url=f"simulated:/webhooks/{request.target}/{request.account}",
        http_headers=lower,
    )


def _tell(summary: Summary, *, as_json: bool) -> None:
    if not as_json:
        for line in described(summary):
            click.echo(line)
        return
    json_line(
        {
            "requests": summary.requests,
            "events": summary.events,
            "accepted": summary.accepted,
            "accepted_events": summary.accepted_events,
            "refused": {str(status): count for status, count in sorted(summary.refused.items())},
            "abandoned": summary.abandoned,
            "retries": summary.retries,
            "seconds": round(summary.seconds, 3),
            "behind_s": round(summary.behind_s, 6),
            "latency_s": {name: round(value, 6) for name, value in summary.percentiles().items()},
        }
    )


def _advice(summary: Summary, url: str | None, folder: Path, account: str) -> list[str]:
    """Return what to do about refused requests."""
    if url is None:
        return ["the broker did not take everything"]
    lines = []
    if summary.refused[NO_ANSWER]:
        lines.append(NOBODY.format(clean(url)))
    if any(summary.refused[status] for status in _REFUSED):
        options = f"--secrets {folder} --account {account} --show-settings"
        lines.append(f"the ingress does not know the account or its secrets: mailstreams simulate {options}")
    return lines or [f"{url} refused a part; its log says why"]
