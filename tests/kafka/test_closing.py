"""Clients that end whatever the broker does."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka.errors import ProducerClosed

from deploy.local.broker import Broker
from streams.kafka.batches import Row
from streams.kafka.closing import stop_consumer, stop_producer
from streams.kafka.producer import Producer
from tests.contracts.clients import new_topic


def sockets() -> int:
    return len(psutil.Process().net_connections())


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may stop."""
    with Broker(tmp_path / "kafka") as broker:
        yield broker
        broker.resume()


async def test_a_producer_whose_batch_is_never_acknowledged_ends_with_all_that_it_holds(own_broker: Broker) -> None:
    topic = await new_topic(own_broker)
    tasks, open_before = asyncio.all_tasks(), sockets()
    producer: Any = Producer(bootstrap_servers=own_broker.bootstrap, enable_idempotence=True, request_timeout_ms=500)
    await producer.start()
    batch = producer.batch_for([Row(b"a", b"1", 1)])
    batch.append(key=b"a", value=b"1", timestamp=None)
    own_broker.pause()
    sent = await producer.send_batch(batch, topic, partition=0)
    await asyncio.sleep(1)  # it is sent again already
    assert not sent.done()

    async with asyncio.timeout(20):
        await stop_producer(producer, 0.5)

    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() - tasks == set()
    assert sockets() == open_before
    with pytest.raises(ProducerClosed):
        await sent


async def test_a_producer_that_has_nothing_left_ends_in_order(broker: Broker) -> None:
    tasks, open_before = asyncio.all_tasks(), sockets()
    producer: Any = Producer(bootstrap_servers=broker.bootstrap, enable_idempotence=True, acks="all")
    await producer.start()
    await stop_producer(producer, 5)
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() - tasks == set()
    assert sockets() == open_before


class Client:
    closed = False

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
