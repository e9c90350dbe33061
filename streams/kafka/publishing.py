"""Batches without a transaction, for a stage that may repeat a batch because the next stage absorbs repetitions.

The rule: the source position is committed only after every row is acknowledged
by all in-sync replicas. One idempotent producer serves the whole process.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from streams.kafka.batches import Rows
from streams.kafka.closing import release_producer
from streams.kafka.producer import (
    AUTO,
    MAX_BATCH_BYTES,
    REPLACE_AFTER_IDLE_S,
    REPLACE_AFTER_ROWS,
    RETRY_BACKOFF_MS,
    Producer,
)
from streams.kafka.sending import Turns, send_rows


class Publisher:
    """An idempotent producer, replaced before its sequence numbers wrap, and never used again after a failure."""

    def __init__(
        self,
        *,
        client_options: Mapping[str, Any],
        client_id: str,
        request_timeout_s: float,
        deadline_s: float,
        compression_type: str | None = AUTO,
        replace_after_rows: int = REPLACE_AFTER_ROWS,
        replace_after_idle_s: float = REPLACE_AFTER_IDLE_S,
    ) -> None:
        self._options: dict[str, Any] = dict(client_options) | {
            "client_id": client_id,
            "enable_idempotence": True,
            "acks": "all",
            "request_timeout_ms": int(request_timeout_s * 1000),
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "max_batch_size": MAX_BATCH_BYTES,
            "compression_type": compression_type,
        }
        self._deadline_s = deadline_s
        self._replace_after_rows = replace_after_rows
        self._replace_after_idle_s = replace_after_idle_s
        self._used_at = 0.0
        self._producer: Producer | None = None
        self._in_work: Counter[Producer] = Counter()
        """How many publications wait for each producer's acknowledgements."""
        self._retired: set[Producer] = set()
        """Replaced producers whose acknowledgements may still be awaited."""
        self._stopping: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._rows_sent = 0
        self._turns = Turns()

    async def publish(self, rows: Rows) -> None:
        """Send all rows and wait until every one is acknowledged.

        Raises:
            KafkaError: a row was refused. TimeoutError: not acknowledged in time. The process must end.
        """
        producer = await self._current()
        self._in_work[producer] += 1
        self._rows_sent += sum(map(len, rows.values()))
        try:
            async with asyncio.timeout(self._deadline_s):
                await send_rows(producer, rows, self._turns)
        finally:
            self._in_work[producer] -= 1
            self._stop_idle()

    async def _current(self) -> Producer:
        async with self._starting:
            idle = time.monotonic() - self._used_at >= self._replace_after_idle_s
            if self._producer is None or idle or self._rows_sent >= self._replace_after_rows:
                producer = Producer(**self._options)
                await producer.start()
                if self._producer is not None:
                    self._retired.add(self._producer)  # others may still wait for its acknowledgements
                self._producer, self._rows_sent = producer, 0
                self._stop_idle()
            self._used_at = time.monotonic()
            return self._producer

    def _stop_idle(self) -> None:
        """Stop the replaced producers that nothing waits for any more: each holds connections and tasks."""
        for producer in [each for each in self._retired if not self._in_work[each]]:
            self._retired.discard(producer)
            del self._in_work[producer]
            task = asyncio.create_task(release_producer(producer))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Release the connections."""
        producers = [*self._retired, *([self._producer] if self._producer else [])]
        self._producer = None
        self._retired = set()
        for producer in producers:
            await release_producer(producer)
        if self._stopping:
            await asyncio.wait(self._stopping)
