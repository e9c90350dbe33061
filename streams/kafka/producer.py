"""The producer of everything that is written in batches: aiokafka's, which also accepts ``auto`` as its compression.

``auto`` chooses the compression of each batch by the size of the rows it is made
for. Any other value applies to all batches. The producer also reports which
partitions have a leader and whether a broker answers.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

AUTO: Final = "auto"
MAX_BATCH_BYTES: Final = 900 << 10  # below the broker's default max.message.bytes of 1 MiB
RETRY_BACKOFF_MS: Final = 10  # aiokafka's is 100, which is waited whenever the last transaction is still closing
REPLACE_AFTER_ROWS: Final = 1 << 30
"""At 2^31 aiokafka wraps a sequence number to a negative value, and ours does not wrap: a producer is replaced well
before."""
REPLACE_AFTER_IDLE_S: Final = 12 * 3600.0
"""The broker forgets a producer that was idle for a day, and a transactional id after seven (its defaults)."""
LARGE_BYTES: Final = 16 << 10
"""A batch whose keys and values have this many bytes or more is large.

A small batch costs the broker and both clients much more with zstd than with another compression or none: at 2,000
events/s, where batches have a few kB, the median event took 136 ms with zstd and 96 ms with none. For a large batch
zstd is the best: 83 kB took 138 µs (lz4 324, snappy 49), and the result was half the size of snappy's.
"""


class Keyed(Protocol):
    """What a batch is made for."""

    @property
    def key(self) -> bytes | None:
        """The record's key."""

    @property
    def value(self) -> bytes | None:
        """The record's value."""


class Producer(AIOKafkaProducer):
    """aiokafka's producer; its batches are made by ``batch_for``.

    Args:
        compression_type: ``auto``, or what aiokafka takes.
        options: the other options of aiokafka's producer.
    """

    def __init__(self, *, compression_type: str | None = AUTO, **options: Any) -> None:
        self._chooses = compression_type == AUTO
        super().__init__(compression_type="zstd" if self._chooses else compression_type, **options)  # type: ignore[no-untyped-call] # aiokafka's

    def batch_for(self, rows: Iterable[Keyed]) -> BatchBuilder:
        """Return an empty batch for these rows, or for as many of the first ones as fit."""
        if self._chooses:
            # A batch takes the accumulator's compression when it is created, so that is set before each.
            codec = DefaultRecordBatch.CODEC_ZSTD if _are_large(rows) else DefaultRecordBatch.CODEC_SNAPPY
            self._message_accumulator._compression_type = codec  # noqa: SLF001 - in public only for the whole producer
        batch: BatchBuilder = self.create_batch()
        return batch

    async def led_partitions(self, topic: str) -> Collection[int]:
        """Return the partitions of a topic that have a leader, as far as is known; all of them if none has one."""
        everything: Collection[int] = await self.partitions_for(topic)
        return self.client.cluster.available_partitions_for_topic(topic) or everything

    async def look(self) -> None:
        """Check that some broker answers, and update which partitions have leaders.

        Raises:
            KafkaConnectionError: no broker answers.
        """
        if not await self.client.force_metadata_update():
            raise KafkaConnectionError


def _are_large(rows: Iterable[Keyed]) -> bool:
    """Tell whether these make a large batch. Counting stops as soon as that is known: there may be thousands."""
    size = 0
    for row in rows:
        size += len(row.key or b"") + len(row.value or b"")
        if size >= LARGE_BYTES:
            return True
    return False
