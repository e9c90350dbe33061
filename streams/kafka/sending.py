"""Rows as record batches, and their way to the brokers through aiokafka's own sender.

The sender repeats what may be repeated, so this is for rows outside a transaction. A
transaction has its own way (``session``).
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


async def send_rows(producer: Producer, rows: Rows, turns: Turns) -> dict[Destination, int]:
    """Send all rows, wait until every batch is acknowledged, and return each partition's next offset.

    The first batch of every partition goes before the second of any.

    Raises:
        KafkaError: a batch was refused. The others are awaited all the same.
    """
    waiting = deque((destination, batches_of(producer, destined)) for destination, destined in rows.items() if destined)
    sent: list[tuple[Destination, int, asyncio.Future[RecordMetadata]]] = []
    try:
        while waiting:
            destination, batches = waiting.popleft()
            batch = next(batches, None)
            if batch is not None:
                topic, partition = destination
                count = batch.record_count()
                async with turns[destination]:
                    future = await producer.send_batch(batch, topic, partition=partition)
                sent.append((destination, count, future))
                waiting.append((destination, batches))
    except Exception:  # a cancellation is the caller's deadline: then nothing is awaited
        await asyncio.gather(*(future for _, _, future in sent), return_exceptions=True)
        raise
    outcomes = await asyncio.gather(*(future for _, _, future in sent), return_exceptions=True)
    ends: dict[Destination, int] = {}
    for (destination, count, _), outcome in zip(sent, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            raise outcome
        ends[destination] = max(ends.get(destination, -1), outcome.offset + count)
    return ends
