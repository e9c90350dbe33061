"""Clients that end whatever the broker does."""

import asyncio
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka.errors import ProducerClosed

from deploy.local.broker import Broker
from streams.kafka.batches import Row
from streams.kafka.closing import end, stop_consumer, stop_producer
from streams.kafka.producer import Producer
from tests.brokers import Passing
from tests.contracts.clients import new_topic

BATCHES = 12


def sockets() -> int:
    return len(psutil.Process().net_connections())


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may stop."""
    with Passing(tmp_path / "kafka") as broker:
        yield broker
        broker.resume()


@pytest.mark.parametrize(
    ("size", "request_timeout_ms", "after_s"),
    [(1, 2_000, 3), (900 << 10, 30_000, 0.5)],
    ids=["sent again already", "more than the connection takes, whose orderly end would wait for it"],
)
async def test_a_producer_whose_batches_are_never_acknowledged_ends_with_all_that_it_holds(
    own_broker: Broker, size: int, request_timeout_ms: int, after_s: float
) -> None:
    topic = await new_topic(own_broker, partitions=BATCHES)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    tasks, open_before = asyncio.all_tasks(), sockets()
    producer: Any = Producer(
        bootstrap_servers=own_broker.bootstrap,
        enable_idempotence=True,
        request_timeout_ms=request_timeout_ms,
        max_batch_size=1 << 20,
        compression_type=None,
    )
    await producer.start()
    own_broker.pause()
    sent = []
    for partition in range(BATCHES):
        batch = producer.batch_for([Row(b"a", b"1", 1)])
        batch.append(key=b"a", value=bytes(size), timestamp=None)
        sent.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.sleep(after_s)
    assert not any(one.done() for one in sent)

    async with asyncio.timeout(20):
        await stop_producer(producer, 0.5)

    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() - tasks == set()
    assert sockets() <= open_before
    outcomes = await asyncio.gather(*sent, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ProducerClosed}
    del producer, sent, batch, outcomes
    gc.collect()
    assert complaints == []


async def test_a_producer_that_has_nothing_left_ends_in_order(broker: Broker) -> None:
    tasks, open_before = asyncio.all_tasks(), sockets()
    producer: Any = Producer(bootstrap_servers=broker.bootstrap, enable_idempotence=True, acks="all")
    await producer.start()
    await stop_producer(producer, 5)
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() - tasks == set()
    assert sockets() <= open_before


class Client:
    closed = False
    _conns: Mapping[int, Any] = {}

    async def close(self) -> None:
        self.closed = True


class Consumer:
    """aiokafka's consumer whose fetcher was waiting to try again when it was stopped."""

    def __init__(self) -> None:
        self._client = Client()

    async def stop(self) -> None:
        waiting = asyncio.create_task(asyncio.sleep(60))
        waiting.cancel()
        await waiting


async def test_a_consumers_own_cancellation_does_not_escape_and_its_connections_are_closed() -> None:
    consumer = Consumer()
    await stop_consumer(consumer)
    assert consumer._client.closed


async def test_whoever_is_cancelled_while_a_consumer_stops_is_cancelled() -> None:
    class Slow(Consumer):
        async def stop(self) -> None:
            await asyncio.sleep(60)

    stopping = asyncio.create_task(stop_consumer(Slow()))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping


async def test_a_task_whose_client_keeps_a_cancellation_to_itself_ends() -> None:
    told = 0

    async def runs() -> None:
        nonlocal told
        while told < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told += 1

    begun = asyncio.create_task(runs())
    await asyncio.sleep(0)
    await end([begun])
    assert told == 2
