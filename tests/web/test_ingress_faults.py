"""The one promise of the ingress, under faults: what was answered 2xx is on its topic, webhooks and sends alike.

Both are asked for at once, by as many clients each, and judged by the same rule.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout

from deploy.local import ports
from deploy.local.broker import Broker
from streams import records, topics
from streams.settings import load
from streams.web import sends
from tests.broker.harness import read_all
from tests.brokers import Passing
from tests.web import edge as world
from tests.web.edge import Edge

pytestmark = pytest.mark.broker

OUTAGE_S = float(os.environ.get("OUTAGE_S", "3.5"))
"""Of each of the two outages of the broker; a minute is tried by hand."""


WEBHOOKS, SENDS = topics.raw_topic("sendgrid"), topics.SENDS
"""The two things that are asked for, by the topic where each has to be."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request, and the values that are on its topic once it was answered 2xx."""

    topic: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    good: int
    values: Sequence[bytes]


def webhook() -> Ask:
    signed = world.sendgrid()
    body = signed.request.body
    return Ask(
        topic=WEBHOOKS,
        path="/webhooks/sendgrid/acme",
        body=body,
        headers=signed.request.headers,
        good=200,
        values=[body],
    )


def told() -> Ask:
    """Return a request of three sends: of several partitions, so that a part may be written and another not."""
    values = [
        records.encode_send(
            records.send_of(
                {
                    "account": "acme",
                    "provider": "postmark",
                    "message_id": token_hex(8),
                    "recipient": "jo@customer.example",
                    "sent_at": "2026-11-03T10:00:00Z",
                }
            )
        )
        for _ in range(3)
    ]
    return Ask(
        topic=SENDS,
        path=sends.PATH,
        body=b"[" + b",".join(values) + b"]",
        headers={"Authorization": f"Bearer {world.API_KEY}", "Content-Type": "application/json"},
        good=202,
        values=values,
    )


class Ledger:
    """Clients that ask without a pause, and what each was answered: of webhooks and of sends, each by its topic."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self.accepted: dict[str, set[bytes]] = {WEBHOOKS: set(), SENDS: set()}
        self.codes: dict[str, Counter[int | None]] = {WEBHOOKS: Counter(), SENDS: Counter()}
        self.slowest_s = 0.0
        self._stop = False

    async def _client(self, make: Callable[[], Ask]) -> None:
        async with ClientSession(timeout=ClientTimeout(total=20)) as client:
            while not self._stop:
                ask = make()
                begun = time.monotonic()
                try:
                    async with client.post(f"{self._edge.url}{ask.path}", data=ask.body, headers=ask.headers) as answer:
                        code: int | None = answer.status
                        assert answer.status != 503 or int(answer.headers["Retry-After"]) > 0
                except (ClientError, OSError, TimeoutError):
                    code = None  # never answered: it may be there or not
                    await asyncio.sleep(0.02)
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
                self.codes[ask.topic][code] += 1
                if code == ask.good:
                    self.accepted[ask.topic].update(ask.values)

    async def during(self, fault: Callable[[], Coroutine[Any, Any, None]], clients: int = 6) -> None:
        """Ask by so many clients for either while the fault goes on."""
        tasks = [asyncio.create_task(self._client(make)) for make in (webhook, told) for _ in range(clients)]
        try:
            await fault()
        finally:
            self._stop = True
            await asyncio.gather(*tasks)

    @property
    def counts(self) -> dict[str, int]:
        """How many were accepted."""
        return {topic: len(values) for topic, values in self.accepted.items()}

    async def grows(self, count: int, timeout_s: float = 30) -> None:
        """Wait until so many more of either were accepted."""
        enough = {topic: found + count for topic, found in self.counts.items()}
        deadline = time.monotonic() + timeout_s
        while any(found < enough[topic] for topic, found in self.counts.items()):
            assert time.monotonic() < deadline, self.codes
            await asyncio.sleep(0.05)

    async def missing(self) -> set[bytes]:
        """Return what was accepted and is not on its topic."""
        found = {
            topic: {
                one.value
                for part in (await read_all(self._edge.broker, topic, world.PARTITIONS)).values()
                for one in part
            }
            for topic in self.accepted
        }
        return {value for topic, values in self.accepted.items() for value in values - found[topic]}


def started(broker: Broker, folder: Path) -> Edge:
    port, admin_port = ports.find(2)
    edge = Edge(
        broker,
        folder,
        world.environment(
            broker,
            folder,
            MAILSTREAMS_INGRESS__PORT=str(port),
            MAILSTREAMS_INGRESS__ADMIN_PORT=str(admin_port),
            MAILSTREAMS_INGRESS__ACKNOWLEDGE_TIMEOUT_S="2",
            MAILSTREAMS_INGRESS__READ_TIMEOUT_S="5",
        ),
    )
    edge.start()
    edge.wait_ready()
    return edge


@pytest.fixture
def own(edge_broker: Broker, tmp_path: Path) -> Iterator[Edge]:
    """An ingress that the test may hurt, but not its broker."""
    edge = started(edge_broker, tmp_path)
    yield edge
    edge.kill()


@pytest.fixture(scope="module")
def fragile_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Passing(tmp_path_factory.mktemp("fragile-kafka")) as broker:
        settings = load(environment=world.environment(broker, tmp_path_factory.mktemp("fragile-settings")))
        asyncio.run(topics.create(settings))
        yield broker


@pytest.fixture
def fragile(fragile_broker: Broker, tmp_path: Path) -> Iterator[Edge]:
    """An ingress and a broker that the test may hurt."""
    edge = started(fragile_broker, tmp_path)
    yield edge
    edge.kill()
    fragile_broker.resume()
    if fragile_broker.process is None:
        fragile_broker.start()


async def test_nothing_answered_2xx_is_lost_when_the_ingress_is_killed_ten_times(own: Edge) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    ledger = Ledger(own)

    async def kill_ten_times() -> None:
        for _ in range(10):
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            await asyncio.to_thread(own.kill)
            await asyncio.to_thread(own.start)
            await asyncio.to_thread(own.wait_ready)
        await asyncio.sleep(0.3)

    await ledger.during(kill_ten_times)

    assert min(ledger.counts.values()) > 100
    assert min(codes[None] for codes in ledger.codes.values()) >= 10  # it was under load of either each time
    assert not await ledger.missing()


@pytest.mark.parametrize("fault", ["paused", "killed"])
async def test_while_the_broker_is_away_the_answer_is_503_and_nothing_answered_2xx_is_lost(
    fragile: Edge, fault: str
) -> None:
    ledger = Ledger(fragile)

    async def away_twice() -> None:
        for _ in range(2):
            await asyncio.sleep(0.5)
            if fault == "paused":
                fragile.broker.pause()
            else:
                await asyncio.to_thread(fragile.broker.kill)
            await asyncio.sleep(0.5)
            before = ledger.counts
            await asyncio.sleep(OUTAGE_S)
            assert ledger.counts == before
            assert "mailstreams_ready 0.0" in await asyncio.to_thread(own_metrics, fragile)
            if fault == "paused":
                fragile.broker.resume()
            else:
                await asyncio.to_thread(fragile.broker.start)
            await asyncio.to_thread(fragile.wait_ready)
            await ledger.grows(20)

    await ledger.during(away_twice)

    assert set(ledger.codes[WEBHOOKS]) == {200, 503}
    assert set(ledger.codes[SENDS]) == {202, 503}
    assert ledger.slowest_s < 2 + 8  # the patience of the settings, and of a busy machine
    assert not await ledger.missing()


async def test_a_request_in_work_is_finished_when_the_ingress_is_told_to_stop(own: Edge) -> None:
    signed = world.sendgrid()
    _, writer_idle = await asyncio.open_connection(*own.address)
    reader, writer = await asyncio.open_connection(*own.address)
    writer.write(world.head(signed) + signed.request.body[:10])
    await asyncio.sleep(0.3)
    assert own.process is not None
    own.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection(*own.address)
    writer.write(signed.request.body[10:])

    answer = await asyncio.wait_for(reader.read(), 10)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer.lower()
    assert await asyncio.to_thread(own.process.wait, 10) == 0
    assert signed.request.body in [one.value for one in await own.records("sendgrid")]
    writer_idle.close()


async def test_under_load_a_stop_loses_nothing_and_ends_with_0(own: Edge) -> None:
    ledger = Ledger(own)

    async def stop() -> None:
        await asyncio.sleep(1)
        assert await asyncio.to_thread(own.stop) == 0

    await ledger.during(stop)

    assert min(ledger.counts.values()) > 20
    assert set(ledger.codes[WEBHOOKS]) <= {200, None}
    assert set(ledger.codes[SENDS]) <= {202, None}
    assert "not finished" not in own.output
    assert not await ledger.missing()


async def test_it_starts_without_the_broker_answers_503_and_then_goes_on(fragile: Edge) -> None:
    assert await asyncio.to_thread(fragile.stop) == 0
    await asyncio.to_thread(fragile.broker.stop)
    await asyncio.to_thread(fragile.start)

    status, _, headers = await fragile.post(world.sendgrid())
    assert (status, headers["Retry-After"]) == (503, "10")
    await asyncio.to_thread(fragile.broker.start)
    await asyncio.to_thread(fragile.wait_ready)

    assert (await fragile.post(world.sendgrid()))[0] == 200


async def test_while_no_webhook_comes_it_knows_that_the_broker_is_gone_and_that_it_is_back(fragile: Edge) -> None:
    for go, come in (
        (fragile.broker.kill, fragile.broker.start),
        (fragile.broker.pause, fragile.broker.resume),
    ):
        await asyncio.to_thread(go)
        async with asyncio.timeout(60):
            while "mailstreams_ready 0.0" not in await asyncio.to_thread(own_metrics, fragile):
                await asyncio.sleep(0.1)
        await asyncio.to_thread(come)
        await asyncio.to_thread(fragile.wait_ready)

    assert (await fragile.post(world.sendgrid()))[0] == 200


async def test_without_its_topics_it_ends_with_2_and_says_how_to_make_them(tmp_path: Path, edge_broker: Broker) -> None:
    edge = Edge(edge_broker, tmp_path, world.environment(edge_broker, tmp_path, MAILSTREAMS_TOPICS__PARTITIONS="64"))
    await asyncio.to_thread(edge.start)
    assert edge.process is not None

    assert await asyncio.to_thread(edge.process.wait, 20) == 2

    assert "topic mail.sends has 3 partitions, 64 are needed" in edge.output


def own_metrics(edge: Edge) -> str:
    return "\n".join(f"{name} {value}" for name, value in edge.metrics().items())
