"""What all contestants have in common: one broker, the topics, their inputs and their outputs."""

import asyncio
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import TopicPartition

from deploy.local.broker import Broker
from streams.kafka.partitioner import partition_of
from streams.kafka.producer import AUTO

Sent = tuple[int, bytes | None, bytes, Sequence[tuple[str, bytes]]]
"""An input record: partition, key, value, headers."""

BATCH_BYTES: Final = 900 << 10
_VISIBLE_TIMEOUT_S: Final = 30.0
_STAMPED_BY_BROKER: Final = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(8 << 20)}


@dataclass(slots=True)
class Contents:
    """The contents of a topic, as a ``read_committed`` reader sees them."""

    appended: list[float] = field(default_factory=list)
    """The timestamp of every record (s)."""
    checksums: dict[bytes, int] = field(default_factory=dict)
    """By key, a checksum over its values in order. The order between different keys is not promised."""

    def add(self, key: bytes, value: bytes | None) -> None:
        """Add a key's next value."""
        self.checksums[key] = zlib.crc32(value or b"", self.checksums.get(key, 0))


class Ground:
    """A running broker, and what the suite does with its topics."""

    def __init__(self, broker: Broker, folder: Path, partitions: int, compression: str) -> None:
        self.broker = broker
        self.bootstrap = broker.bootstrap
        self.folder = folder
        self.partitions = partitions
        self.compression = compression
        """The compression of all records, by its name in the product's settings."""

    @property
    def known_compression(self) -> str:
        """The same for clients that do not know ``auto``: the one that ``auto`` chooses for large batches."""
        return "zstd" if self.compression == AUTO else self.compression

    def partition_of(self, key: bytes) -> int:
        """Return the partition of a key, as every Kafka client chooses it."""
        return partition_of(key, self.partitions)

    async def create(self, topics: Iterable[str], *, partitions: int | None = None, compacted: bool = False) -> None:
        """Create topics whose records the broker stamps at the append: all races use this clock."""
        config = _STAMPED_BY_BROKER | ({"cleanup.policy": "compact"} if compacted else {})
        wanted = list(topics)
        admin = await self._admin()
        try:
            # aiokafka's annotations ask for a map of replica assignments that is not needed
            new: Any = NewTopic
            await admin.create_topics(
                [new(name, partitions or self.partitions, 1, topic_configs=config) for name in wanted]
            )
            async with asyncio.timeout(_VISIBLE_TIMEOUT_S):
                while not set(wanted) <= set(await admin.list_topics()):  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.05)
        finally:
            await admin.close()

    async def delete(self, naming: str) -> None:
        """Delete all topics with this text in their names, so that a contestant's topics do not slow down the next one."""
        admin = await self._admin()
        try:
            found = [name for name in await admin.list_topics() if naming in name]
            if found:
                await admin.delete_topics(found)
        finally:
            await admin.close()

    async def put(self, topic: str, rows: Iterable[Sent]) -> None:
        """Append records in large batches, as our own producers do."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all",
            max_batch_size=BATCH_BYTES,
            compression_type=None if self.known_compression == "none" else self.known_compression,
        ) as producer:
            batches: dict[int, BatchBuilder] = {}
            futures: list[asyncio.Future[Any]] = []
            for partition, key, value, headers in rows:
                batch = batches.get(partition) or batches.setdefault(partition, producer.create_batch())
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    futures.append(await producer.send_batch(batch, topic, partition=partition))
                    batch = batches[partition] = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None, headers=headers)
            for partition, batch in batches.items():
                futures.append(await producer.send_batch(batch, topic, partition=partition))
            await asyncio.gather(*futures)

    async def ends(self, topics: Sequence[str], *, partitions: int | None = None) -> dict[TopicPartition, int]:
        """Return the end of each partition for ``read_committed`` readers."""
        tps = [TopicPartition(topic, p) for topic in topics for p in range(partitions or self.partitions)]
        async with AIOKafkaConsumer(bootstrap_servers=self.bootstrap, isolation_level="read_committed") as consumer:
            return await _ends(consumer, tps)

    async def read(self, topic: str) -> Contents:
        """Return the contents of a topic."""
        contents = Contents()
        tps = [TopicPartition(topic, p) for p in range(self.partitions)]
        async with AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            isolation_level="read_committed",
            max_partition_fetch_bytes=8 << 20,
            auto_offset_reset="earliest",
        ) as consumer:
            consumer.assign(tps)
            await consumer.seek_to_beginning(*tps)
            ends = await _ends(consumer, tps)
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        contents.appended.append(record.timestamp / 1000)
                        contents.add(record.key or b"", record.value)
        return contents

    def size_of(self, topic: str) -> int:
        """Return the bytes of a topic's segments on the broker's disk."""
        return size_of(self.broker.data / "log", topic)

    async def _admin(self) -> Any:
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        return admin


def size_of(folder: Path, topic: str) -> int:
    """Return the bytes of a topic's segments in a broker's log directory.

    A deleted topic stays there for a minute (``file.delete.delay.ms``), as ``<topic>-<partition>.<id>-delete``; it may
    vanish at any moment.
    """
    partition = re.compile(re.escape(topic) + r"-\d+")
    logs = (log for each in folder.iterdir() if partition.fullmatch(each.name) for log in each.glob("*.log"))
    return sum(log.stat().st_size for log in logs)


async def _ends(consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
    while True:
        try:
            found: Mapping[TopicPartition, int] = await consumer.end_offsets(tps)
        except KafkaError:  # a topic that was created a moment ago
            await asyncio.sleep(0.1)
        else:
            return dict(found)
