"""Topics, writers and plain clients on the shared broker; every name is new, so that tests keep apart."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from deploy.local.broker import Broker
from streams.kafka.batches import Row
from streams.kafka.transactions import TransactionalWriter

Destination = tuple[str, int]
NOW_MS = int(time.time() * 1000)
"""A store that lacks rows of months ago would be read anew."""


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:12]}"


async def new_topic(
    broker: Broker,
    name: str = "topic",
    *,
    partitions: int = 1,
    config: Mapping[str, str] | None = None,
    named: str | None = None,
) -> str:
    """Create a topic and wait until it has leaders. Nothing in it is too old: tests write fixed times."""
    topic = named or unique(name)
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.create_topics(
            [NewTopic(topic, partitions, 1, topic_configs={"retention.ms": "-1"} | dict(config or {}))]
        )
        for _ in range(200):
            found = await admin.describe_topics()
            if any(
                each["topic"] == topic
                and len(each["partitions"]) == partitions
                and all(partition["leader"] >= 0 for partition in each["partitions"])
                for each in found
            ):
                return topic
            await asyncio.sleep(0.05)
    finally:
        await admin.close()
    raise AssertionError(f"{topic} did not appear")


def rows(*values: bytes) -> list[Row]:
    return [Row(value, value, NOW_MS) for value in values]


def many_rows(count: int, size: int) -> list[Row]:
    """Return rows that cannot be compressed, so that they fill batches."""
    return [Row(b"%d" % n, os.urandom(size), NOW_MS) for n in range(count)]


def new_writer(
    broker: Broker,
    *,
    transactional_id: str | None = None,
    deadline_s: float = 10,
    request_timeout_s: float = 10,
    **more: Any,
) -> TransactionalWriter:
    return TransactionalWriter(
        client_options={"bootstrap_servers": broker.bootstrap},
        transactional_id=transactional_id or unique("writer"),
        transaction_timeout_s=30,
        request_timeout_s=request_timeout_s,
        deadline_s=deadline_s,
        **more,
    )


async def settled(bootstrap: str, transactional_id: str) -> None:
    """Wait until the last transaction is completed: a commit answers before its markers are written everywhere."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, transactional_id=transactional_id, retry_backoff_ms=10
    ):  # whose start is the fence
        pass


async def until_registered(broker: Broker) -> None:
    """Wait until a broker that stood still is named again by its own metadata.

    After its session it is fenced, until the controller takes it back. Meanwhile it answers that there is no broker, and
    a client that starts then ends with an AssertionError of aiokafka's.
    """
    async with asyncio.timeout(60):
        while not await _named(broker):
            await asyncio.sleep(0.1)


async def _named(broker: Broker) -> bool:
    client = AIOKafkaClient(bootstrap_servers=broker.bootstrap)
    try:
        await client.bootstrap()
        return bool(client.cluster.brokers())
    finally:
        await client.close()


@asynccontextmanager
async def fenced_writer(broker: Broker, **more: Any) -> AsyncIterator[TransactionalWriter]:
    """Give a writer; afterwards its last transaction is settled."""
    writer = new_writer(broker, **more)
    await writer.fence()
    try:
        yield writer
    finally:
        await writer.close()
        await settled(broker.bootstrap, writer.transactional_id)


@asynccontextmanager
async def plain_transactional(broker: Broker, transactional_id: str | None = None) -> AsyncIterator[Any]:
    """Give aiokafka's producer as it is, without our rules; afterwards its last transaction is settled."""
    name = transactional_id or unique("plain")
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap,
        transactional_id=name,
        retry_backoff_ms=10,
        request_timeout_ms=10_000,
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()
        await settled(broker.bootstrap, name)


async def read(
    broker: Broker, topic: str, partition: int = 0, *, isolation_level: str = "read_committed"
) -> Sequence[Any]:
    """Return all records of a partition up to the end that the isolation level shows."""
    found: list[Any] = []
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, isolation_level=isolation_level) as consumer:
        tp = TopicPartition(topic, partition)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        end = (await consumer.end_offsets([tp]))[tp]
        while await consumer.position(tp) < end:
            for fetched in (await consumer.getmany(timeout_ms=100)).values():
                found.extend(fetched)
    return found


async def values(broker: Broker, topic: str, partition: int = 0, **how: str) -> list[bytes]:
    return [record.value for record in await read(broker, topic, partition, **how)]


async def end_of(broker: Broker, topic: str, *, isolation_level: str = "read_committed") -> int:
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, isolation_level=isolation_level) as consumer:
        tp = TopicPartition(topic, 0)
        return int((await consumer.end_offsets([tp]))[tp])


async def committed(broker: Broker, group_id: str, topic: str, partition: int = 0) -> tuple[int, str] | None:
    """Return the group's committed (offset, metadata)."""
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        tp = TopicPartition(topic, partition)
        found = (await admin.list_consumer_group_offsets(group_id, partitions=[tp])).get(tp)
        return None if found is None or found.offset < 0 else (found.offset, found.metadata)
    finally:
        await admin.close()


async def commit_position(broker: Broker, group_id: str, topic: str, offset: int, metadata: str = "") -> None:
    """Commit partition 0's offset as somebody who is no member: the group has none at that time."""
    async with AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap, group_id=group_id, enable_auto_commit=False
    ) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(offset, metadata)})
