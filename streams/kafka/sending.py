"""Rows as record batches, and the way of rows outside transactions to the brokers: aiokafka's own sender.

It repeats a batch whose answer is lost, which is what these rows need and what a
transaction must not have: that one has its own way (``session``).
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import islice

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from streams.kafka.batches import Destination, Row, Rows
from streams.kafka.producer import Producer


def batches_of(producer: Producer, rows: list[Row]) -> Iterator[BatchBuilder]:
    """Yield the rows as record batches, in order. A row larger than a batch gets a batch of its own."""
    batch = producer.batch_for(rows)
    for number, (key, value, timestamp_ms, headers) in enumerate(rows):
        if batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
            yield batch
            batch = producer.batch_for(islice(rows, number, None))
            batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers)
    if batch.record_count():
        yield batch


class Turns(defaultdict[Destination, asyncio.Lock]):
    """One sender at a time for each destination.

    aiokafka queues one batch per partition, and miscalculates the timeout of those that wait for its place.
    """

    def __init__(self) -> None:
        super().__init__(asyncio.Lock)


async def send_rows(producer: Producer, rows: Rows, turns: Turns) -> None:
    """Send all rows, and wait until every batch is acknowledged.

    The first batch of every partition goes before the second of any.

    Raises:
        KafkaError: a batch was refused. The others are awaited all the same.
    """
    waiting = deque((destination, batches_of(producer, destined)) for destination, destined in rows.items() if destined)
    sent: list[asyncio.Future[RecordMetadata]] = []
    try:
        while waiting:
            destination, batches = waiting.popleft()
            batch = next(batches, None)
            if batch is not None:
                topic, partition = destination
                async with turns[destination]:
                    sent.append(await producer.send_batch(batch, topic, partition=partition))
                waiting.append((destination, batches))
    except Exception:  # a cancellation is the caller's deadline: then nothing is awaited
        await asyncio.gather(*sent, return_exceptions=True)
        raise
    for outcome in await asyncio.gather(*sent, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
