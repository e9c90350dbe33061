"""The open loop: what is due is sent when it is due, whatever became of the requests before."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest

from streams import codecs, records
from streams.simulate import signing
from streams.simulate.driving import NO_ANSWER, Answer, Deliver, Outgoing, Summary, described, drive, ledger_line
from streams.simulate.story import PROFILES, PROVIDERS, SENDS, Arrival, arrivals

SIGNERS = signing.signers(signing.draw())


def schedule(start: datetime, *, messages: int = 30, providers: Sequence[str] = PROVIDERS) -> list[Arrival]:
    return list(
        arrivals(
            seed=1,
            start=start,
            rate=40,
            profile=PROFILES["load"],
            account="demo",
            messages=messages,
            providers=providers,
            until=start + timedelta(seconds=1.5),  # a test has not the time for whole lives
        )
    )


async def driven(
    deliver: Deliver, *, stop: asyncio.Event | None = None, **options: Any
) -> tuple[Summary, list[Arrival]]:
    start = datetime.now(UTC)
    found = schedule(start, **options.pop("schedule", {}))
    summary = Summary()
    await drive(
        found,
        start=start,
        account="demo",
        signers=SIGNERS,
        deliver=deliver,
        stop=stop or asyncio.Event(),
        summary=summary,
        **options,
    )
    return summary, found


async def test_each_request_is_sent_once_and_recorded_once_it_is_accepted() -> None:
    sent: list[Outgoing] = []
    ledger: list[Mapping[str, Any]] = []

    async def deliver(request: Outgoing) -> Answer:
        sent.append(request)
        return Answer(202)

    summary, found = await driven(deliver, record=ledger.append)

    assert summary.requests == summary.accepted == len(found) == len(sent) == len(ledger)
    assert summary.events == summary.accepted_events == sum(len(one.happenings) for one in found)
    assert sorted(key for line in ledger for key in line["events"]) == sorted(
        happening.event_key for one in found for happening in one.happenings
    )
    assert {line["sha256"] for line in ledger} == {sha256(request.body).hexdigest() for request in sent}
    assert {request.target for request in sent} == {*PROVIDERS, SENDS}
    for request in sent:
        if request.target == SENDS:
            told = records.decode_send(request.body)
            assert request.key == told.delivery_id.encode()


async def test_a_line_of_the_ledger_is_json_and_holds_no_address() -> None:
    ledger: list[bytes] = []

    async def deliver(_request: Outgoing) -> Answer:
        return Answer(200)

    await driven(deliver, record=lambda line: ledger.append(ledger_line(line)))

    assert all(line.endswith(b"\n") and codecs.decode(line)["status"] == 200 for line in ledger)
    assert b"@" not in b"".join(ledger)


async def test_a_ledger_that_cannot_be_written_to_ends_the_run() -> None:
    async def deliver(_request: Outgoing) -> Answer:
        return Answer(200)

    def full(_line: Mapping[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await driven(deliver, record=full)


async def test_a_slow_answer_delays_nobody_else() -> None:
    loop = asyncio.get_running_loop()
    starts: list[float] = []

    async def deliver(_request: Outgoing) -> Answer:
        starts.append(loop.time())
        await asyncio.sleep(0.7)
        return Answer(200)

    begun = loop.time()
    summary, found = await driven(deliver)

    due = [(one.due - found[0].due).total_seconds() for one in found]
    left = [one - starts[0] for one in starts]
    assert max(abs(a - b) for a, b in zip(due, left, strict=True)) < 0.5
    assert summary.percentiles()["p50"] >= 0.7
    assert loop.time() - begun < due[-1] + 3


async def test_a_receiver_that_stands_still_is_seen_in_the_latency_of_all_that_was_due_meanwhile() -> None:
    loop = asyncio.get_running_loop()
    opens_at = loop.time() + 1.0

    async def deliver(_request: Outgoing) -> Answer:
        await asyncio.sleep(max(0, opens_at - loop.time()))  # everybody waits for the same moment
        return Answer(200)

    summary, found = await driven(deliver, most_in_flight=2)

    waited = sum(1 for latency in summary.latencies_s if latency > 0.2)
    due_meanwhile = sum(1 for one in found if (one.due - found[0].due).total_seconds() < 0.7)
    assert waited >= due_meanwhile * 0.9 > 5


@pytest.mark.parametrize("status", [NO_ANSWER, 429, 500, 503])
async def test_what_is_refused_for_now_is_sent_again_with_the_same_bytes(status: int) -> None:
    seen: dict[bytes, int] = {}

    async def deliver(request: Outgoing) -> Answer:
        seen[request.body] = seen.get(request.body, 0) + 1
        return Answer(status if seen[request.body] == 1 else 200, retry_after_s=0.05)

    summary, found = await driven(deliver, schedule={"messages": 5, "providers": ["mailgun"]})

    assert (summary.accepted, summary.retries, summary.refused) == (len(found), len(found), {})
    assert set(seen.values()) == {2}


async def test_what_is_refused_for_good_is_not_sent_again() -> None:
    async def deliver(_request: Outgoing) -> Answer:
        return Answer(403)

    summary, found = await driven(deliver, schedule={"messages": 5})

    assert (summary.accepted, summary.retries, summary.refused) == (0, 0, {403: len(found)})
    assert summary.percentiles() == {}


async def test_attempts_come_to_an_end() -> None:
    async def deliver(_request: Outgoing) -> Answer:
        return Answer(503, retry_after_s=0.01)

    summary, found = await driven(deliver, attempts=3, schedule={"messages": 4})

    assert (summary.refused, summary.retries) == ({503: len(found)}, 2 * len(found))


async def test_stopped_it_sends_nothing_more_and_waits_for_what_is_under_way() -> None:
    stop = asyncio.Event()
    sent = 0

    async def deliver(_request: Outgoing) -> Answer:
        nonlocal sent
        sent += 1
        if sent == 5:
            stop.set()
        await asyncio.sleep(0.2)
        return Answer(200)

    summary, found = await driven(deliver, stop=stop)

    assert 5 <= summary.requests == summary.accepted < len(found)
    assert summary.abandoned == 0


async def test_stopped_it_does_not_wait_for_ever() -> None:
    stop = asyncio.Event()

    async def deliver(_request: Outgoing) -> Answer:
        stop.set()
        await asyncio.sleep(60)
        return Answer(200)

    async with asyncio.timeout(10):
        summary, _ = await driven(deliver, stop=stop, patience_s=0.3)

    assert (summary.accepted, summary.abandoned) == (0, summary.requests)


async def test_a_pause_before_another_attempt_ends_when_it_is_stopped() -> None:
    stop = asyncio.Event()

    async def deliver(_request: Outgoing) -> Answer:
        asyncio.get_running_loop().call_later(0.1, stop.set)
        return Answer(503, retry_after_s=60)

    async with asyncio.timeout(10):
        summary, _ = await driven(deliver, stop=stop, schedule={"messages": 3})

    assert summary.accepted == 0


def test_the_end_is_told_in_plain_lines() -> None:
    summary = Summary(requests=1200, events=2500, accepted=1190, accepted_events=2480, retries=7, seconds=60)
    summary.refused.update({401: 8, NO_ANSWER: 2})
    summary.latencies_s.extend(number / 1000 for number in range(1, 1001))
    summary.behind_s = 1.5

    assert described(summary) == [
        "1,200 requests with 2,500 events in 60.0 s (20.0 requests/s, 41.7 events/s)",
        "1,190 accepted with 2,480 events, 2 without an answer, 8 refused with 401; 7 sent again",
        "from due to accepted: p50 501.0 ms, p90 901.0 ms, p99 991.0 ms, p99.9 1.00 s, max 1.00 s",
        "the schedule was not kept: up to 1.50 s late by our own fault, which the latencies include; lower --rate",
    ]
