"""One Kafka transaction a batch: outputs, changelog rows and source position become visible together or not at all.

The source position is one of the rows. The group's offset is not part of the
transaction: it would cost two more requests in sequence, and a start does not use it.

The rule: **after any doubt the process ends.** aiokafka uses the transaction
protocol from before KIP-890, in which a delayed request can end a later
transaction of the same epoch. So inside a transaction no request is sent twice,
no lost connection is survived, and a producer that failed once is never used
again; the next owner fences with a new epoch, which ends what was left open.

Also: aiokafka commits although batches have failed. So every future of
``send_batch`` is awaited before the commit is requested.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.structs import RecordMetadata

from streams.kafka.batches import Row, Rows
from streams.kafka.closing import release_producer
from streams.kafka.producer import AUTO, Producer

MAX_BATCH_BYTES: Final = 900 << 10  # below the broker's default max.message.bytes of 1 MiB
RETRY_BACKOFF_MS: Final = 10  # the wait whenever the last transaction is still closing; 100 by default
REPLACE_AFTER_ROWS: Final = 1 << 30
"""aiokafka wraps a sequence number to a negative value at 2^31, so a producer is replaced well before."""
REPLACE_AFTER_IDLE_S: Final = 12 * 3600.0
"""The broker forgets a producer that was idle for a day, and a transactional id after seven (its defaults)."""


class TransactionInDoubtError(Exception):
    """Something inside a transaction was lost, late or repeated. Only a new epoch may go on: the process must end."""


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


def _identity_of(producer: Producer) -> tuple[int, int]:
    """Return the id and the epoch that the broker gave the producer."""
    manager = producer._txn_manager  # noqa: SLF001 - no public way to the epoch
    assert manager is not None  # it is transactional
    return manager.producer_id, manager.producer_epoch


class Turns(defaultdict[tuple[str, int], asyncio.Lock]):
    """One sender at a time for each destination.

    aiokafka queues one batch per partition, and miscalculates the timeout of those that wait for its place.
    """

    def __init__(self) -> None:
        super().__init__(asyncio.Lock)


async def send_rows(producer: Producer, rows: Rows, turns: Turns) -> dict[tuple[str, int], int]:
    """Send all rows, wait until every batch is acknowledged, and return each partition's next offset.

    The first batch of every partition goes before the second of any, so that one
    AddPartitionsToTxn names them all.

    Raises:
        KafkaError: a batch was refused. The others are awaited all the same.
    """
    waiting = deque((destination, batches_of(producer, destined)) for destination, destined in rows.items() if destined)
    sent: list[tuple[tuple[str, int], int, asyncio.Future[RecordMetadata]]] = []
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
    ends: dict[tuple[str, int], int] = {}
    for (destination, count, _), outcome in zip(sent, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            raise outcome
        ends[destination] = max(ends.get(destination, -1), outcome.offset + count)
    return ends


class TransactionalWriter:
    """Writes one partition's batches, each in a transaction. ``fence`` makes this one the only owner."""

    def __init__(
        self,
        *,
        client_options: Mapping[str, Any],
        transactional_id: str,
        transaction_timeout_s: float,
        request_timeout_s: float,
        deadline_s: float,
        compression_type: str | None = AUTO,
        replace_after_rows: int = REPLACE_AFTER_ROWS,
        replace_after_idle_s: float = REPLACE_AFTER_IDLE_S,
    ) -> None:
        self.transactional_id = transactional_id
        self._deadline_s = deadline_s
        self._replace_after_rows = replace_after_rows
        self._replace_after_idle_s = replace_after_idle_s
        self._used_at = 0.0
        self._options: dict[str, Any] = dict(client_options) | {
            "transactional_id": transactional_id,
            "client_id": transactional_id,
            "transaction_timeout_ms": int(transaction_timeout_s * 1000),
            "request_timeout_ms": int(request_timeout_s * 1000),
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "max_batch_size": MAX_BATCH_BYTES,
            "compression_type": compression_type,
        }
        self._producer: Producer | None = None
        self._failed = False
        self._in_transaction = False
        self._end_requested = False
        self._rows_sent = 0
        self._turns = Turns()

    async def fence(self) -> None:
        """Become the only owner: end what the previous owner left open, and make everything it still sends fail.

        Returns only when the previous owner's transaction is completed, so a
        ``read_committed`` reader that starts now sees all of it or nothing.
        """
        producer = Producer(**self._options)
        self._watch_requests(producer)
        self._producer = producer
        self._rows_sent = 0
        self._used_at = time.monotonic()
        await producer.start()

    async def commit(self, rows: Rows) -> dict[tuple[str, int], int]:
        """Write ``rows`` in one transaction.

        Returns:
            For each (topic, partition) written to, the offset after its last row.

        Raises:
            TransactionInDoubtError: the transaction is not known to be committed. The process must end.
        """
        producer = self._producer
        if producer is None or self._failed:
            message = f"{self.transactional_id} failed before or was never fenced"
            raise TransactionInDoubtError(message)
        idle_s = time.monotonic() - self._used_at
        try:
            async with asyncio.timeout(self._deadline_s):
                if self._rows_sent >= self._replace_after_rows or idle_s >= self._replace_after_idle_s:
                    producer = await self._replace(producer)
                ends = await self._commit(producer, rows)
        except BaseException as error:
            self._failed = True
            if isinstance(error, asyncio.CancelledError):
                raise
            message = f"transaction of {self.transactional_id}: {error!r}"
            raise TransactionInDoubtError(message) from error
        self._used_at = time.monotonic()
        self._rows_sent += max((len(destined) for destined in rows.values()), default=0)
        return ends

    async def _commit(self, producer: Producer, rows: Rows) -> dict[tuple[str, int], int]:
        self._end_requested = False
        await producer.begin_transaction()
        self._in_transaction = True
        ends = await send_rows(producer, rows, self._turns)
        await producer.commit_transaction()
        self._in_transaction = False
        return ends

    async def _replace(self, producer: Producer) -> Producer:
        """Go on with the next epoch, if no other owner had one meanwhile.

        Raises:
            TransactionInDoubtError: the epoch is not the next one, or the producer id has changed: Kafka forgot the
                id, or the partition had another owner, which must not be fenced by one that does not know its work.
        """
        before, epoch = _identity_of(producer)
        await producer.stop()
        await self.fence()
        assert self._producer is not None
        if _identity_of(self._producer) != (before, epoch + 1):
            message = f"{self.transactional_id} was fenced by another owner, or forgotten by the broker"
            raise TransactionInDoubtError(message)
        return self._producer

    async def close(self) -> None:
        """Release the connections. What is open is not aborted here: the next owner's fence does that."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await release_producer(producer)

    def _watch_requests(self, producer: Producer) -> None:
        """Refuse, inside a transaction, what aiokafka would survive: a lost connection, a second EndTxn.

        The error is no ``KafkaError``, so none of aiokafka's handlers retries it; it ends the sender.
        """
        send: Callable[..., Awaitable[Any]] = producer.client.send

        async def send_once(node_id: int, request: Any, **options: Any) -> Any:
            if isinstance(request, EndTxnRequest):
                if self._end_requested:
                    message = "EndTxn would be sent twice"
                    raise TransactionInDoubtError(message)
                self._end_requested = True
            try:
                return await send(node_id, request, **options)
            except KafkaError as error:
                if self._in_transaction:
                    message = f"{type(request).__name__} was lost inside a transaction: {error!r}"
                    raise TransactionInDoubtError(message) from error
                raise

        producer.client.send = send_once  # type: ignore[method-assign] # the one place that all its requests pass
