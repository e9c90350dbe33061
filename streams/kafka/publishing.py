"""Batches without a transaction, for a stage that may repeat itself because the next one absorbs repetitions.

The rule: the source position is committed only after every row is acknowledged
by all in-sync replicas. One idempotent producer serves the whole process.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer

from streams.kafka.batches import Rows
from streams.kafka.transactions import (
    MAX_BATCH_BYTES,
    REPLACE_AFTER_IDLE_S,
    REPLACE_AFTER_ROWS,
    RETRY_BACKOFF_MS,
    Turns,
    send_rows,
)


class Publisher:
    """An idempotent producer, replaced before its sequence numbers wrap, and never used again after a failure."""

    def __init__(
        self,
        *,
        client_options: Mapping[str, Any],
        client_id: str,
        request_timeout_s: float,
        deadline_s: float,
        compression_type: str | None = "zstd",
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
        self._producer: AIOKafkaProducer | None = None
        self._retired: list[AIOKafkaProducer] = []
        self._starting = asyncio.Lock()
        self._rows_sent = 0
        self._turns = Turns()

    async def publish(self, rows: Rows) -> None:
        """Send all rows and wait until every one is acknowledged.

        Raises:
            KafkaError: a row was refused. TimeoutError: not acknowledged in time. The process must end.
        """
        producer = await self._current()
        self._rows_sent += sum(map(len, rows.values()))
        async with asyncio.timeout(self._deadline_s):
            await send_rows(producer, rows, self._turns)

    async def _current(self) -> AIOKafkaProducer:
        async with self._starting:
            idle = time.monotonic() - self._used_at >= self._replace_after_idle_s
            if self._producer is None or idle or self._rows_sent >= self._replace_after_rows:
                if self._producer is not None:
                    self._retired.append(self._producer)  # others may still wait for its acknowledgements
                producer = AIOKafkaProducer(**self._options)
                await producer.start()
                self._producer, self._rows_sent = producer, 0
            self._used_at = time.monotonic()
            return self._producer

    async def close(self) -> None:
        """Release the connections."""
        for producer in [*self._retired, *([self._producer] if self._producer else [])]:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(producer.stop(), timeout=2)
        self._producer = None
        self._retired = []
