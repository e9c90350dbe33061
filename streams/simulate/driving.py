"""Sends each request when it is due: open loop.

The rule: **the schedule is fixed beforehand and waits for no answer.** A slow answer
does not delay the next request, and a latency is counted from when the request was
due, not from when it was sent; else a receiver that pauses for a second looks fast,
because nothing was sent meanwhile ("coordinated omission").

A request that is refused temporarily (5xx, 408, 425, 429, no answer) is sent again as
providers do, only sooner; one that is refused for good (other 4xx) is not.
"""

import asyncio
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from streams import codecs, records
from streams.simulate.shapes import payload, send
from streams.simulate.signing import Sign
from streams.simulate.story import SENDS, Arrival

NO_ANSWER: Final = 0
"""In place of an HTTP status: there was no connection, or no answer in time."""
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
BEHIND_S: Final = 0.25
"""Above this delay we report that the schedule was not kept: the machine is too small for the rate."""
_AGAIN: Final = frozenset({NO_ANSWER, 408, 425, 429})
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_NAP_S: Final = 0.5
_MOST_WITHOUT_YIELD: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request, ready to be sent."""

    target: str
    """The provider's name, or ``SENDS``."""
    account: str
    body: bytes
    headers: Mapping[str, str]
    key: bytes | None
    """For a send, its delivery id."""
    event_keys: tuple[str, ...]
    """The happenings that it reports; a repetition has the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    """HTTP status, or ``NO_ANSWER``."""
    retry_after_s: float | None = None


Deliver = Callable[[Outgoing], Awaitable[Answer]]
"""Sends a request and returns what came back; raises nothing."""
Record = Callable[[Mapping[str, Any]], None]
"""Takes a line of the ledger: a request that was answered 2xx."""


@dataclass(slots=True)
class Summary:
    """What was sent and what became of it."""

    requests: int = 0
    events: int = 0
    accepted: int = 0
    """Requests answered 2xx."""
    accepted_events: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    """Requests that were given up, by the last status."""
    retries: int = 0
    abandoned: int = 0
    """Requests whose answer was not waited for, because the run ended."""
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    """From due to answered 2xx, retries included."""
    behind_s: float = 0.0
    """The longest time from a request's due time to its first attempt: our own delay."""
    seconds: float = 0.0
    by_target: Counter[str] = field(default_factory=Counter)
    """Accepted requests."""

    def percentiles(self) -> dict[str, float]:
        """Return the latencies in seconds by percentile, and the largest; nothing if nothing was accepted."""
        ordered = sorted(self.latencies_s)
        if not ordered:
            return {}
        found = {f"p{of:g}": ordered[min(len(ordered) - 1, int(len(ordered) * of / 100))] for of in PERCENTILES}
        return found | {"max": ordered[-1]}


def outgoing(arrival: Arrival, *, account: str, signers: Mapping[str, Sign], at: datetime) -> Outgoing:
    """Return a request as its provider, or the application, would send it now."""
    keys = tuple(happening.event_key for happening in arrival.happenings)
    if arrival.target == SENDS:
        sent = send(arrival.happenings[0])
        return Outgoing(
            target=SENDS,
            account=account,
            body=records.encode_send(sent),
            headers={"Content-Type": "application/json"},
            key=sent.delivery_id.encode(),
            event_keys=keys,
        )
    signed = signers[arrival.target](payload(arrival.target, arrival.happenings), at=at)
    return Outgoing(
        target=arrival.target, account=account, body=signed.body, headers=signed.headers, key=None, event_keys=keys
    )


async def drive(
    arrivals: Iterable[Arrival],
    *,
    start: datetime,
    account: str,
    signers: Mapping[str, Sign],
    deliver: Deliver,
    stop: asyncio.Event,
    summary: Summary,
    record: Record = lambda _line: None,
    attempts: int = 8,
    most_in_flight: int = 5_000,
    patience_s: float = 10.0,
) -> None:
    """Send everything when it is due, and return when all is answered or given up, or soon after ``stop``.

    Args:
        arrivals: In the order in which they are due.
        start: The schedule's time at the moment of the call.
        account: Our name for the account.
        signers: Provider -> how it signs.
        deliver: Sends one request.
        stop: Once it is set, nothing more is sent, and requests in flight get ``patience_s``.
        summary: Filled during the run, so that it can be shown meanwhile.
        record: Called with a line for each request that was answered 2xx, after the answer. What it raises ends the run:
            a ledger that lacks a line would show a loss that there was none.
        attempts: How often a request is sent at most.
        most_in_flight: Most requests in flight, to bound the memory; the latency of those that wait goes on counting.
        patience_s: How long requests in flight are waited for after ``stop``.
    """
    run = _Run(
        zero=asyncio.get_running_loop().time(),
        deliver=deliver,
        stop=stop,
        summary=summary,
        record=record,
        attempts=attempts,
    )
    under_way: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    def ended(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)

    since_yield = 0
    try:
        for arrival in arrivals:
            due = (arrival.due - start).total_seconds()
            since_yield = 0 if await run.wait_until(due) else since_yield + 1
            if since_yield >= _MOST_WITHOUT_YIELD:
                since_yield = 0
                await asyncio.sleep(0)
            while len(under_way) >= most_in_flight and not stop.is_set():
                await asyncio.wait(under_way, timeout=_NAP_S, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set() or failures:
                break
            request = outgoing(arrival, account=account, signers=signers, at=datetime.now(UTC))
            task = asyncio.create_task(run.send(request, due))
            under_way.add(task)
            task.add_done_callback(ended)
        await _finish(under_way, stop, patience_s)
        if failures:
            raise failures[0]
    finally:
        left = list(under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        summary.abandoned += len(left)
        summary.seconds = run.now()


async def _finish(under_way: set[asyncio.Task[None]], stop: asyncio.Event, patience_s: float) -> None:
    """Wait for the requests in flight: for all of them, or after a stop for a while."""
    while under_way and not stop.is_set():
        await asyncio.wait(under_way, timeout=_NAP_S)
    if under_way:
        await asyncio.wait(under_way, timeout=patience_s)


@dataclass(slots=True, kw_only=True)
class _Run:
    zero: float
    """The loop's time at which the schedule began."""
    deliver: Deliver
    stop: asyncio.Event
    summary: Summary
    record: Record
    attempts: int

    def now(self) -> float:
        """Return the seconds since the schedule began."""
        return asyncio.get_running_loop().time() - self.zero

    async def wait_until(self, due: float) -> bool:
        """Wait until a time of the schedule, or until ``stop``; return False if that time had already come."""
        waited = False
        while (left := due - self.now()) > 0 and not self.stop.is_set():
            waited = True
            await asyncio.sleep(min(left, _NAP_S))
        return waited

    async def send(self, request: Outgoing, due: float) -> None:
        """Send a request until it is accepted, refused for good or given up."""
        summary = self.summary
        summary.requests += 1
        summary.events += len(request.event_keys)
        summary.behind_s = max(summary.behind_s, self.now() - due)
        for attempt in range(1, self.attempts + 1):
            answer = await self.deliver(request)
            if 200 <= answer.status < 300:  # noqa: PLR2004 - what providers take for success
                self._accepted(request, answer, self.now() - due, attempt)
                return
            again = answer.status in _AGAIN or answer.status >= 500  # noqa: PLR2004 - the server's fault (RFC 9110)
            if not again or attempt == self.attempts or self.stop.is_set():
                summary.refused[answer.status] += 1
                return
            summary.retries += 1
            pause = answer.retry_after_s or min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
            with_stop = asyncio.create_task(self.stop.wait())
            await asyncio.wait({with_stop}, timeout=pause)
            with_stop.cancel()

    def _accepted(self, request: Outgoing, answer: Answer, latency_s: float, attempts: int) -> None:
        summary = self.summary
        summary.accepted += 1
        summary.accepted_events += len(request.event_keys)
        summary.by_target[request.target] += 1
        summary.latencies_s.append(latency_s)
        self.record(
            {
                "at": datetime.now(UTC),
                "target": request.target,
                "account": request.account,
                "events": request.event_keys,
                "sha256": sha256(request.body).hexdigest(),
                "status": answer.status,
                "latency_s": round(latency_s, 6),
                "attempts": attempts,
            }
        )


def ledger_line(line: Mapping[str, Any]) -> bytes:
    """Return a line of the ledger: JSON and a line feed. It holds no address."""
    return codecs.encode(line) + b"\n"


def described(summary: Summary) -> Sequence[str]:
    """Return what became of everything, in lines for people."""
    seconds = max(summary.seconds, 1e-9)
    sent = f"{summary.requests:,} requests with {summary.events:,} events in {seconds:,.1f} s"
    became = f"{summary.accepted:,} accepted with {summary.accepted_events:,} events"
    for status, count in sorted(summary.refused.items()):
        became += f", {count:,} {_named(status)}"
    if summary.abandoned:
        became += f", {summary.abandoned:,} not waited for"
    if summary.retries:
        became += f"; {summary.retries:,} sent again"
    lines = [
        f"{sent} ({summary.requests / seconds:,.1f} requests/s, {summary.events / seconds:,.1f} events/s)",
        became,
    ]
    if latencies := summary.percentiles():
        shown = ", ".join(f"{name} {_time(value)}" for name, value in latencies.items())
        lines.append(f"from due to accepted: {shown}")
    if summary.behind_s > BEHIND_S:
        lines.append(
            f"the schedule was not kept: up to {_time(summary.behind_s)} late by our own fault, "
            "which the latencies include; lower --rate"
        )
    return lines


def _named(status: int) -> str:
    return "without an answer" if status == NO_ANSWER else f"refused with {status}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
