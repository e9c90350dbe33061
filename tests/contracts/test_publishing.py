"""What brokers and aiokafka do with rows outside transactions (see ``streams.kafka.publishing``), against a real broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError, NotLeaderForPartitionError
from aiokafka.protocol.produce import ProduceRequest

from deploy.local.broker import Broker
from streams.kafka.publishing import Publisher
from tests.contracts.between import lose_once, producer_of, record, refuse, refuse_connections
from tests.contracts.clients import end_of, many_rows, new_topic, rows, until_registered, values


@asynccontextmanager
async def publisher_to(broker: Broker, **more: Any) -> AsyncIterator[Publisher]:
    options: dict[str, Any] = {"request_timeout_s": 10, "deadline_s": 20} | more
    publisher = Publisher(client_options={"bootstrap_servers": broker.bootstrap}, client_id="publisher", **options)
    try:
        yield publisher
    finally:
        await publisher.close()


def produced(requests: list[Any]) -> list[Any]:
    return [request._topics for request in requests if isinstance(request, ProduceRequest)]


async def test_many_lanes_that_publish_to_one_partition_lose_nothing(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with publisher_to(broker) as publisher:
        sent = [many_rows(100, 3_000) for _ in range(12)]
        await asyncio.gather(*(publisher.publish({(topic, 0): each}) for each in sent))
    found = await values(broker, topic)
    assert sorted(found) == sorted(row.value or b"" for each in sent for row in each)


async def test_rows_of_one_lane_keep_their_order_over_many_batches(broker: Broker) -> None:
    topic = await new_topic(broker)
    sent = many_rows(300, 8_000)  # 2.4 MB: three batches
    async with publisher_to(broker) as publisher:
        await publisher.publish({(topic, 0): sent})
    assert await values(broker, topic) == [row.value for row in sent]


async def test_nothing_is_sent_for_no_rows(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with publisher_to(broker) as publisher:
        await publisher.publish({(topic, 0): []})
        await publisher.publish({})
    assert await end_of(broker, topic) == 0


@pytest.mark.parametrize("before", [True, False], ids=["before-the-broker-has-it", "after-the-broker-has-it"])
async def test_a_request_that_is_lost_is_sent_again_and_its_rows_are_there_once(broker: Broker, before: bool) -> None:
    first, second = await new_topic(broker), await new_topic(broker)
    async with publisher_to(broker) as publisher:
        await publisher.publish({(first, 0): rows(b"before"), (second, 0): rows(b"before")})
        lost = lose_once(producer_of(publisher), ProduceRequest, before=before)
        requests = record(publisher)
        await publisher.publish({(first, 0): rows(b"a", b"b"), (second, 0): rows(b"c")})
        await publisher.publish({(first, 0): rows(b"after")})
    assert lost == ["ProduceRequest"]
    assert produced(requests)[0] == produced(requests)[1], "the same rows with the same sequence numbers"
    assert await values(broker, first) == [b"before", b"a", b"b", b"after"]
    assert await values(broker, second) == [b"before", b"c"]


async def test_rows_that_the_broker_does_not_take_yet_are_sent_again_with_the_same_sequence_numbers(
    broker: Broker,
) -> None:
    topic = await new_topic(broker)
    async with publisher_to(broker) as publisher:
        await publisher.publish({(topic, 0): rows(b"before")})
        requests = refuse(publisher, ProduceRequest, NotLeaderForPartitionError, times=2)
        await publisher.publish({(topic, 0): rows(b"a", b"b")})
    assert len(produced(requests)) == 3
    assert produced(requests)[0] == produced(requests)[1] == produced(requests)[2]
    assert await values(broker, topic) == [b"before", b"a", b"b"]


async def test_a_broker_to_which_nothing_can_be_sent_is_waited_for(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with publisher_to(broker) as publisher:
        await publisher.publish({(topic, 0): rows(b"a")})
        refused = refuse_connections(publisher, ConnectionGroup.DEFAULT, times=3)
        await publisher.publish({(topic, 0): rows(b"b")})
    assert not refused
    assert await values(broker, topic) == [b"a", b"b"]


@pytest.mark.broker
async def test_a_broker_that_stands_still_for_a_while_gets_every_row_once(own_broker: Broker) -> None:
    """The request waits in the broker while its answer counts as lost; then it comes a second time."""
    topic = await new_topic(own_broker)
    async with publisher_to(own_broker, request_timeout_s=1, deadline_s=60) as publisher:
        await publisher.publish({(topic, 0): rows(b"a")})
        session, requests = publisher._session, record(publisher)
        assert session is not None
        own_broker.pause()
        try:
            publishing = [asyncio.create_task(publisher.publish({(topic, 0): rows(b"b%d" % n)})) for n in range(3)]
            async with asyncio.timeout(30):
                while not session.refusals.last:
                    await asyncio.sleep(0.1)
        finally:
            own_broker.resume()
        await until_registered(own_broker)
        await asyncio.gather(*publishing)
    assert len(produced(requests)) > 1
    assert sorted(await values(own_broker, topic)) == [b"a", b"b0", b"b1", b"b2"]


@pytest.mark.broker
async def test_a_deadline_is_kept_while_the_broker_stands_still(own_broker: Broker) -> None:
    topic = await new_topic(own_broker)
    async with publisher_to(own_broker, request_timeout_s=10, deadline_s=1) as publisher:
        await publisher.publish({(topic, 0): rows(b"a")})
        own_broker.pause()
        try:
            with pytest.raises(TimeoutError):
                await publisher.publish({(topic, 0): rows(b"b")})
            async with asyncio.timeout(10):
                await publisher.close()
        finally:
            own_broker.resume()
        await until_registered(own_broker)


async def test_a_producer_is_replaced_before_its_sequence_numbers_wrap(broker: Broker) -> None:
    topic = await new_topic(broker)
    producers = []
    async with publisher_to(broker, replace_after_rows=3) as publisher:
        for number in range(4):
            await publisher.publish({(topic, 0): rows(b"%d-a" % number, b"%d-b" % number)})
            producers.append(publisher._producer)
    assert producers[0] is producers[1]
    assert producers[2] is not producers[1]
    assert await values(broker, topic) == [b"%d-%s" % (n, half) for n in range(4) for half in (b"a", b"b")]


async def test_a_row_that_the_broker_refuses_fails_its_publication(broker: Broker) -> None:
    small = await new_topic(broker, config={"max.message.bytes": "2000"})
    async with publisher_to(broker) as publisher:
        with pytest.raises(KafkaError):
            await publisher.publish({(small, 0): many_rows(1, 5_000)})
