"""The minimum: consume, fold in a dictionary, produce in batches. No transactions, no store, no rebalance: at least once.

It does what a fast hand-written loop would do: aiokafka's own batches, one changelog
row per key and batch, waiting for acknowledgements while the next batch is folded,
and a commit after each batch.

With the option ``store=rocksdb`` the rows are kept in RocksDB, a batch's rows read at
once and written at once, and nothing else is different. It shows the cost of a store
alone: whoever keeps rows on disk has to pay it.
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
from streams.kafka.store import Budget, Changes, Store, open_store

BATCH_BYTES = 900 << 10
RECORDS_A_POLL = 8_000
STORE_CACHE_MB, STORE_WRITE_BUFFER_MB = 128, 64
"""Of all stores together: the product's defaults."""


async def run(task: Task) -> None:
    """Do the job for ever."""
    job = jobs.named(task.job)
    stores = _Stores(task) if task.options.get("store") == "rocksdb" else None
    everything: dict[bytes, bytes | None] = {}
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
            store = None if stores is None else stores.of(tp.partition)
            # aiokafka allows a record to have no key; here each has one
            rows = everything if store is None else store.get_many(list({record.key for record in records}))  # type: ignore[misc]
            changed: dict[bytes, bytes | None] = {}
            outputs: dict[str, list[tuple[bytes, bytes, int]]] = {name: [] for name in job.outputs}
            for record in records:
                key: Any = record.key
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
            if store is not None:
                store.write(Changes(rows=changed))
        if sent:
            await asyncio.gather(*sent)
            await consumer.commit(done)
        sent, done = sending, {tp: records[-1].offset + 1 for tp, records in fetched.items()}


class _Stores:
    """One for each partition, as the product has them."""

    def __init__(self, task: Task) -> None:
        self._folder = task.folder
        self._budget = Budget(cache_bytes=STORE_CACHE_MB << 20, write_buffer_bytes=STORE_WRITE_BUFFER_MB << 20)
        self._budget.shared_by(task.partitions)
        self._stores: dict[int, Store] = {}

    def of(self, partition: int) -> Store:
        if partition not in self._stores:
            self._stores[partition] = open_store(self._folder / str(partition), self._budget, on_rebuild=print)
        return self._stores[partition]


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, outgoing: Iterable[tuple[bytes, bytes | None, int]]
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
