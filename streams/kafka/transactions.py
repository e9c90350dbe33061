"""One Kafka transaction a batch: outputs, changelog rows and source position become visible together or not at all.

The source position is one of the rows. The group's offset is not part of the
transaction: it would cost two more requests in sequence, and a start does not use it.

The rule: **after any doubt the process ends.** aiokafka uses the transaction
protocol from before KIP-890, in which a delayed request can end a later
transaction of the same epoch. So inside a transaction no request is sent twice
whose answer is lost (``session``), and a producer that failed once is never used
again; the next owner fences with a new epoch, which ends what was left open.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from streams.kafka.batches import Destination, Rows
from streams.kafka.closing import release_producer
from streams.kafka.producer import (
    AUTO,
    MAX_BATCH_BYTES,
    REPLACE_AFTER_IDLE_S,
    REPLACE_AFTER_ROWS,
    RETRY_BACKOFF_MS,
    Producer,
)
from streams.kafka.session import ProducerSession


class TransactionInDoubtError(Exception):
    """Something inside a transaction was lost, late or refused. Only a new epoch may go on: the process must end."""


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
        self._request_timeout_s = request_timeout_s
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
        self._session: ProducerSession | None = None
        self._failed = False

    async def fence(self) -> None:
        """Become the only owner: end what the previous owner left open, and make everything it still sends fail.

        Returns only when the previous owner's transaction is completed, so a
        ``read_committed`` reader that starts now sees all of it or nothing.
        """
        self._producer = Producer(**self._options)
        self._used_at = time.monotonic()
        await self._producer.start()
        self._session = ProducerSession(self._producer, self._request_timeout_s)

    async def commit(self, rows: Rows) -> dict[Destination, int]:
        """Write ``rows`` in one transaction.

        Returns:
            For each (topic, partition) written to, the offset after its last row.

        Raises:
            TransactionInDoubtError: the transaction is not known to be committed. The process must end.
        """
        session = self._session
        if session is None or self._failed:
            message = f"{self.transactional_id} failed before, is closed, or was never fenced"
            raise TransactionInDoubtError(message)
        idle_s = time.monotonic() - self._used_at
        try:
            async with asyncio.timeout(self._deadline_s):
                if session.most_rows_sent >= self._replace_after_rows or idle_s >= self._replace_after_idle_s:
                    session = await self._replaced(session)
                ends = await self._commit(session, rows)
        except BaseException as error:
            self._failed = True
            if isinstance(error, asyncio.CancelledError):
                raise
            refusal = session.refusals.last
            message = (
                f"transaction of {self.transactional_id}: {error!r}{refusal and f' (the last refusal: {refusal})'}"
            )
            raise TransactionInDoubtError(message) from error
        self._used_at = time.monotonic()
        return ends

    async def _commit(self, session: ProducerSession, rows: Rows) -> dict[Destination, int]:
        destinations = [to for to, destined in rows.items() if destined]
        if not destinations:
            return {}
        await session.begin(destinations)
        ends = await session.write(rows)
        await session.commit()
        return ends

    async def _replaced(self, session: ProducerSession) -> ProducerSession:
        """Go on with the next epoch, if no other owner had one meanwhile.

        Raises:
            TransactionInDoubtError: the epoch is not the next one, or the producer id has changed: Kafka forgot the
                id, or the partition had another owner, which must not be fenced by one that does not know its work.
        """
        await session.producer.stop()
        await self.fence()
        assert self._session is not None
        if (self._session.producer_id, self._session.epoch) != (session.producer_id, session.epoch + 1):
            message = f"{self.transactional_id} was fenced by another owner, or forgotten by the broker"
            raise TransactionInDoubtError(message)
        return self._session

    async def close(self) -> None:
        """Release the connections. What is open is not aborted here: the next owner's fence does that."""
        producer, self._producer, self._session = self._producer, None, None
        if producer is not None:
            await release_producer(producer)
