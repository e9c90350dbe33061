"""Batches without a transaction, for a stage that may repeat a batch because the next stage absorbs repetitions.

The rule: the source position is committed only after every row is acknowledged
by all in-sync replicas. One idempotent producer serves the whole process, and what
all its lanes want to publish while it waits for the brokers goes together next: one
request for many lanes costs the brokers and this process little more than one for
a single lane (``docs/decisions/0015``).
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from aiokafka.errors import ProducerClosed

from streams.kafka.batches import Rows
from streams.kafka.closing import end, release_producer
from streams.kafka.producer import (
    AUTO,
    MAX_BATCH_BYTES,
    REPLACE_AFTER_IDLE_S,
    REPLACE_AFTER_ROWS,
    RETRY_BACKOFF_MS,
    Producer,
)
from streams.kafka.session import ProducerSession

TOGETHER_ROWS: Final = 2_000
"""From so many rows on nothing more goes with the same requests: to make them is processor time in the event loop."""


class _Publication(NamedTuple):
    rows: Rows
    acknowledged: asyncio.Future[None]


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
        self._request_timeout_s = request_timeout_s
        self._deadline_s = deadline_s
        self._replace_after_rows = replace_after_rows
        self._replace_after_idle_s = replace_after_idle_s
        self._used_at = 0.0
        self._producer: Producer | None = None
        self._session: ProducerSession | None = None
        self._waiting: deque[_Publication] = deque()
        """What goes with the next requests."""
        self._sending: asyncio.Task[None] | None = None
        self._failed = False

    async def publish(self, rows: Rows) -> None:
        """Send all rows and wait until every one is acknowledged.

        Raises:
            KafkaError: a row was refused, perhaps one of another lane; ``ProducerClosed``: these were not sent, as something
                had failed before. TimeoutError: not acknowledged in time. The process must end.
        """
        if self._failed:
            raise ProducerClosed
        if not any(rows.values()):
            return
        publication = _Publication(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(publication)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_waiting())
        deadline = asyncio.timeout(self._deadline_s)
        try:
            async with deadline:
                await publication.acknowledged
        except TimeoutError:
            if not deadline.expired():
                raise
            refusal = self._session and self._session.refusals.last
            message = (
                f"not acknowledged within {self._deadline_s:g} s{f' (the last refusal: {refusal})' if refusal else ''}"
            )
            raise TimeoutError(message) from None

    async def _send_waiting(self) -> None:
        """Send until nothing waits any more, or something fails."""
        together: list[_Publication] = []
        try:
            while self._waiting:
                together = self._next()
                session = await self._current()
                await session.write(_merged(rows for rows, _ in together))
                self._used_at = time.monotonic()
                for _, acknowledged in together:
                    if not acknowledged.done():  # its lane waits no more
                        acknowledged.set_result(None)
        except BaseException as error:
            told = error if isinstance(error, Exception) else ProducerClosed()
            for _, acknowledged in together:  # of one request, and nobody knows whose row it was
                if not acknowledged.done():
                    acknowledged.set_exception(told)
            self._fail()
            if told is not error:
                raise

    def _fail(self) -> None:
        """Let what waits fail, and everything that comes."""
        self._failed = True
        for _, acknowledged in self._waiting:
            if not acknowledged.done():
                acknowledged.set_exception(ProducerClosed())
        self._waiting.clear()

    def _next(self) -> list[_Publication]:
        together, rows = [], 0
        while self._waiting and rows < TOGETHER_ROWS:
            together.append(self._waiting.popleft())
            rows += sum(map(len, together[-1].rows.values()))
        return together

    async def _current(self) -> ProducerSession:
        session = self._session
        if session is not None:
            idle_s = time.monotonic() - self._used_at
            if session.most_rows_sent < self._replace_after_rows and idle_s < self._replace_after_idle_s:
                return session
        await self._release()
        self._producer = Producer(**self._options)
        await self._producer.start()
        self._session = ProducerSession(self._producer, self._request_timeout_s)
        return self._session

    async def _release(self) -> None:
        producer, self._producer, self._session = self._producer, None, None
        if producer is not None:
            await release_producer(producer)

    async def close(self) -> None:
        """Release the connections. Whoever still waits gets an error."""
        if self._sending is not None:
            await end([self._sending])
        self._fail()
        await self._release()


def _merged(several: Iterable[Rows]) -> Rows:
    """Return all rows by destination; those of one publication stay in their order."""
    merged: Rows = defaultdict(list)
    for rows in several:
        for destination, destined in rows.items():
            merged[destination] += destined
    return merged
