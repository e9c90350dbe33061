"""How batches are compressed: what the producer chooses for some rows, and what stands in the broker's log."""

import asyncio
import struct
from collections.abc import Iterator

import pytest
from aiokafka.protocol.metadata import MetadataResponse_v1

from deploy.local.broker import Broker
from streams.kafka.batches import Row
from streams.kafka.producer import LARGE_BYTES, MAX_BATCH_BYTES, Producer
from streams.kafka.publishing import Publisher
from streams.kafka.session import batches_of
from streams.settings import Kafka
from streams.settings._sections import Compression
from streams.web.writer import Hooks, RecordWriter
from tests.contracts.clients import NOW_MS, fenced_writer, many_rows, new_topic

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
"""By their numbers in a batch."""
SMALL, LARGE = [Row(b"k", b"v" * 2_000, NOW_MS)], [Row(b"%d" % n, b"v" * 1_000, NOW_MS) for n in range(40)]

_HEADER = struct.Struct(">qiibIh")
"""Of a batch: base offset, length of what follows, leader epoch, magic, checksum, attributes."""
_BEFORE_LENGTH, _CODEC, _CONTROL = 12, 0b111, 0b10_0000


def codecs_in(log: bytes) -> Iterator[str]:
    """Yield the compression of each batch, transaction markers left out."""
    start = 0
    while start < len(log):
        _, length, _, magic, _, attributes = _HEADER.unpack_from(log, start)
        assert magic == 2
        if not attributes & _CONTROL:
            yield CODECS[attributes & _CODEC]
        start += _BEFORE_LENGTH + length


def codecs_of(broker: Broker, topic: str) -> list[str]:
    """Return the compression of each batch in the log of a topic's only partition."""
    (segment,) = (broker.data / "log" / f"{topic}-0").glob("*.log")
    return list(codecs_in(segment.read_bytes()))


async def chosen_for(rows: list[Row], compression_type: str | None) -> list[str]:
    """Return the compression of each batch that is made of these rows; nothing is sent."""
    producer = Producer(compression_type=compression_type, max_batch_size=MAX_BATCH_BYTES)
    return [codec for batch in batches_of(producer, rows) for codec in codecs_in(bytes(batch._build()))]


@pytest.mark.parametrize(
    ("leaders", "expected"), [((0, 1, 0), {0, 1, 2}), ((0, -1, 0), {0, 2}), ((-1, -1, -1), {0, 1, 2})]
)
async def test_a_partition_without_a_leader_is_taken_only_where_none_has_one(
    leaders: tuple[int, ...], expected: set[int]
) -> None:
    producer = Producer()
    partitions = [(0, partition, leader, [0, 1], [0]) for partition, leader in enumerate(leaders)]
    producer.client.cluster.update_metadata(
        MetadataResponse_v1([(0, "one", 9092, None), (1, "two", 9092, None)], 0, [(0, "topic", False, partitions)])
    )

    assert set(await producer.led_partitions("topic")) == expected


async def test_without_a_setting_a_small_batch_is_snappy_and_a_large_one_zstd() -> None:
    default = Kafka().producer_compression
    assert await chosen_for(SMALL, default) == ["snappy"]
    assert await chosen_for(LARGE, default) == ["zstd"]


async def test_a_batch_is_large_from_16_kib_of_keys_and_values_on() -> None:
    def rows(size: int) -> list[Row]:
        return [
            Row(b"key", b"v" * 997, NOW_MS),
            Row(None, b"v" * (size - 2_000), NOW_MS),
            Row(b"k" * 1_000, None, NOW_MS),
        ]

    assert await chosen_for(rows((16 << 10) - 1), "auto") == ["snappy"]
    assert await chosen_for(rows(16 << 10), "auto") == ["zstd"]


async def test_the_few_rows_that_a_large_batch_left_over_are_a_small_one() -> None:
    rows = [*many_rows(1, MAX_BATCH_BYTES - 1_000), *many_rows(1, 2_000)]
    assert await chosen_for(rows, "auto") == ["zstd", "snappy"]


@pytest.mark.parametrize("name", [each for each in Compression if each is not Compression.AUTO])
async def test_what_is_set_goes_for_batches_of_every_size(name: Compression) -> None:
    explicit = Kafka(compression_type=name).producer_compression
    assert await chosen_for(SMALL, explicit) == await chosen_for(LARGE, explicit) == [name.value]


async def test_rows_are_counted_no_further_than_until_they_are_large() -> None:
    rows = iter([Row(None, b"v" * (LARGE_BYTES // 4), NOW_MS)] * 100)
    Producer(compression_type="auto").batch_for(rows)
    assert len(list(rows)) == 96


async def test_a_small_transaction_is_snappy_on_the_broker_and_a_large_one_zstd(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker, compression_type=Kafka().producer_compression) as writer:
        for rows in (SMALL, LARGE, SMALL):
            await writer.commit({(topic, 0): rows})
    assert codecs_of(broker, topic) == ["snappy", "zstd", "snappy"]


async def test_a_small_publication_is_snappy_on_the_broker_and_a_large_one_zstd(broker: Broker) -> None:
    topic = await new_topic(broker)
    publisher = Publisher(
        client_options={"bootstrap_servers": broker.bootstrap},
        client_id="publisher",
        request_timeout_s=10,
        deadline_s=20,
        compression_type=Kafka().producer_compression,
    )
    try:
        for rows in (SMALL, LARGE, SMALL):
            await publisher.publish({(topic, 0): rows})
    finally:
        await publisher.close()
    assert codecs_of(broker, topic) == ["snappy", "zstd", "snappy"]


async def test_a_small_webhook_is_snappy_on_the_broker_and_a_large_one_zstd(broker: Broker) -> None:
    topic = await new_topic(broker)
    writer = RecordWriter(
        client_options={"bootstrap_servers": broker.bootstrap},
        client_id="ingress",
        timeout_s=10,
        partitions=1,
        hooks=Hooks(acknowledged=lambda *_: None, failed=lambda _: None),
        compression_type=Kafka().producer_compression,
    )
    running = asyncio.create_task(writer.run())
    try:
        for size in (2_000, 40_000, 2_000):
            await writer.write(topic, b"v" * size, [("http-content-type", b"application/json")])
    finally:
        running.cancel()
        await writer.close()
    assert codecs_of(broker, topic) == ["snappy", "zstd", "snappy"]
