"""The minimum: consume, fold in a dictionary, produce in batches. No transactions, no store, no rebalance: at least once.

It does what a fast hand-written loop would do: aiokafka's own batches, one changelog
row per key and batch, waiting for acknowledgements while the next batch is folded,
and a commit after each batch.
"""

import asyncio
import gc
from collections.abc import Iterable
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from bench import jobs
from bench.contestants import Task

BATCH_BYTES = 900 << 10
RECORDS_A_POLL = 8_000


async def run(task: Task) -> None:
    """Do the job for ever."""
    job = jobs.named(task.job)
    rows: dict[bytes, bytes] = {}
    consumer = AIOKafkaConsumer(
        task.source,
        bootstrap_servers=task.bootstrap,
        group_id=task.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=task.bootstrap,
        acks="all",
        max_batch_size=BATCH_BYTES,
        compression_type=None if task.compression == "none" else task.compression,
    )
    await producer.start()
    await consumer.start()
    sent: list[asyncio.Future[Any]] = []
    done: dict[TopicPartition, int] = {}
    while True:
        fetched = await consumer.getmany(timeout_ms=500, max_records=int(task.options.get("records", RECORDS_A_POLL)))
        sending: list[asyncio.Future[Any]] = []
        for tp, records in fetched.items():
            changed: dict[bytes, bytes] = {}
            outputs: dict[str, list[tuple[bytes, bytes, int]]] = {name: [] for name in job.outputs}
            for record in records:
                key: Any = record.key  # aiokafka allows None; here each record has a key
                row, folded = job.fold(rows.get(key), key, record.value)  # type: ignore[arg-type] # the same
                if row is not None:
                    rows[key] = changed[key] = row
                for name, value in folded:
                    outputs[name].append((key, value, record.timestamp))
            for name, outgoing in outputs.items():
                sending += await _send(producer, task.outputs[name], tp.partition, outgoing)
            last = records[-1].timestamp
            kept = ((key, row, last) for key, row in changed.items())
            sending += await _send(producer, task.changelog, tp.partition, kept)
        if sent:
            await asyncio.gather(*sent)
            await consumer.commit(done)
        sent, done = sending, {tp: records[-1].offset + 1 for tp, records in fetched.items()}


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, outgoing: Iterable[tuple[bytes, bytes, int]]
) -> list[asyncio.Future[Any]]:
    futures = []
    batch = producer.create_batch()
    for key, value, timestamp in outgoing:
        if batch.append(key=key, value=value, timestamp=timestamp) is None:
            futures.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=timestamp)
    if batch.record_count():
        futures.append(await producer.send_batch(batch, topic, partition=partition))
    return futures


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    uvloop.run(run(Task.of_this_process()))
