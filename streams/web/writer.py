"""Writes records, and returns when all in-sync replicas have them: what the ingress promises by a 2xx.

The rule: **a record is written when the broker has acknowledged it, and a write that
fails or takes too long is reported as failed**, although the record may appear later: the
sender repeats it, and repetitions are absorbed by event ids. A producer that failed once
is never used again.

It is ready while webhooks can be written. A send goes to the partition of its key and to no
other, so neither a failed one nor a written one says anything about webhooks, which go to any
partition of their own topics.

Group commit: while a batch is being sent, further records gather into the next one.
An idle ingress sends each record at once, a busy one sends few, large batches.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.errors import KafkaError, KafkaTimeoutError

from streams.kafka.closing import release_producer
from streams.kafka.partitioner import partition_of
from streams.kafka.producer import AUTO, MAX_BATCH_BYTES, REPLACE_AFTER_ROWS, RETRY_BACKOFF_MS, Producer
from streams.records import Headers

logger = logging.getLogger(__name__)

MAX_SENDERS: Final = 4
"""Batches of one topic that are sent at once, each to another partition."""
STALLED_S: Final = 0.05
"""If a record has waited this long, another sender starts: the first one's partition may have lost its leader."""
LINGER_S: Final = 0.001
_SWEEP_S: Final = 0.1
_MAX_BATCH_RECORDS: Final = 2000
_RETRY_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
_LOOK_S: Final = 5.0
"""After this long without an answer, a broker is asked: while nothing is written, only this shows whether one is there."""
_RETIRE_TIMEOUT_S: Final = 10.0
# These three are counted in ``timeout_s``, the patience for one record.
_LOOK_TIMEOUTS: Final = 2
"""The longest that asking may take, because the first broker that is asked may be a silent one."""
_DOUBT_TIMEOUTS: Final = 2
"""So long after an unacknowledged webhook, only another one's acknowledgement shows that the broker works."""
_RECENT_TIMEOUTS: Final = 0.5
"""An acknowledgement of that age still shows that the broker takes some webhooks."""
_COMPLAIN_S: Final = 60.0
"""The same complaint is logged at most once in this time, unless it had ended."""
_OVERHEAD_BYTES: Final = 1500
"""The rough size of a record's headers: records that do not fit after all go with the next batch."""


class NotWrittenError(TimeoutError):
    """The broker has not acknowledged a record, but may have written it."""


@dataclass(slots=True, eq=False)
class _Entry:
    queue: "_Queue"
    key: bytes | None
    value: bytes
    headers: Headers
    since: float
    done: "asyncio.Future[None]"

    @property
    def size(self) -> int:
        return len(self.value) + _OVERHEAD_BYTES


@dataclass(slots=True)
class _Queue:
    """Records that wait for one topic, or for one of its partitions if they have a key."""

    topic: str
    partition: int | None
    max_senders: int
    waiting: dict[int, _Entry] = field(default_factory=dict)
    """By the entry's id, in the order of arrival."""
    senders: int = 0

    def is_stalled(self, now: float) -> bool:
        """Return whether a record has waited longer than ``STALLED_S`` and one more sender is allowed."""
        return (
            self.senders < self.max_senders
            and bool(self.waiting)
            and now - next(iter(self.waiting.values())).since > STALLED_S
        )


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks for metrics."""

    acknowledged: Callable[[str, int, float], None]
    """Topic, records, seconds."""
    failed: Callable[[str], None]
    """Topic of a batch that was not acknowledged."""


class RecordWriter:
    """One idempotent producer for the whole process, replaced when it fails.

    Args:
        client_options: how aiokafka reaches the brokers.
        client_id: how the brokers see this process.
        timeout_s: a record that is not acknowledged after this long counts as not written.
        partitions: the partition count of the keyed topics.
        hooks: callbacks for metrics.
    """

    def __init__(
        self,
        *,
        client_options: Mapping[str, Any],
        client_id: str,
        timeout_s: float,
        partitions: int,
        hooks: Hooks,
        linger_s: float = LINGER_S,
        compression_type: str | None = AUTO,
        replace_after_rows: int = REPLACE_AFTER_ROWS,
    ) -> None:
        self._options: dict[str, Any] = dict(client_options) | {
            "client_id": client_id,
            "enable_idempotence": True,
            "acks": "all",
            "request_timeout_ms": int(timeout_s * 1000),  # also how long a batch is retried: nobody waits longer
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "max_batch_size": MAX_BATCH_BYTES,
            "compression_type": compression_type,
        }
        self._timeout_s = timeout_s
        self._partitions = partitions
        self._hooks = hooks
        self._linger_s = linger_s
        self._replace_after_rows = replace_after_rows
        self._queues: dict[tuple[str, int | None], _Queue] = {}
        self._producer: Any = None
        self._producer_since = 0.0
        self._heard_at = 0.0
        """When a broker last answered, or was last asked."""
        self._rows_sent = 0
        self._producer_there = asyncio.Event()
        self._producer_wanted = asyncio.Event()
        self._producer_wanted.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._busy: set[tuple[str, int]] = set()
        self._unanswered: dict[int, _Entry] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._reached = False
        """The last producer started, and nothing since then shows that no broker is there."""
        self._acknowledged_at = 0.0
        """When a webhook was last acknowledged."""
        self._doubted_until = 0.0
        """Until then only a webhook's acknowledgement counts: a producer starts even if the broker acknowledges nothing."""
        self._complaints: dict[str, float] = {}
        """Topic, or nothing for the broker itself -> when it was logged that it fails."""

    async def run(self) -> None:
        """Start a producer whenever one is needed, and retry until the broker is there; writes wait for it."""
        failures = 0
        while True:
            await self._until_producer_wanted()
            producer = Producer(**self._options)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await producer.start()
            except (KafkaError, OSError, TimeoutError) as error:
                self._reached = False
                self._complain(type(error).__name__)
                self._spawn(release_producer(producer, _RETIRE_TIMEOUT_S))
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
                continue
            failures = 0
            self._producer, self._producer_since = producer, time.monotonic()
            self._heard_at = self._producer_since
            self._reached = True
            self._recovered()
            self._producer_wanted.clear()
            self._producer_there.set()

    async def _until_producer_wanted(self) -> None:
        """Wait until another producer is needed; meanwhile check that the one in use reaches a broker."""
        while not self._producer_wanted.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._heard_at + _LOOK_S - time.monotonic(), 0)):
                    await self._producer_wanted.wait()
            if not self._producer_wanted.is_set() and time.monotonic() >= self._heard_at + _LOOK_S:
                if self._producer is not None:  # else it was closed
                    await self._look(self._producer)
                self._heard_at = time.monotonic()

    async def _look(self, producer: Any) -> None:
        """Ask for a sign of life of a broker; give that up once a write has shown that another producer is needed."""

        async def ask() -> None:
            async with asyncio.timeout(_LOOK_TIMEOUTS * self._timeout_s):
                await producer.look()

        asking, wanted = asyncio.create_task(ask()), asyncio.create_task(self._producer_wanted.wait())
        try:
            await asyncio.wait({asking, wanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            wanted.cancel()
        error = asking.exception() if asking.done() else None
        if error is None or producer is not self._producer:
            return
        if not isinstance(error, (KafkaError, OSError, TimeoutError)):
            raise error
        self._reached = False
        self._complain(f"it does not answer, {type(error).__name__}")
        self._retire(producer)

    @property
    def why_not_ready(self) -> list[str]:
        """Why a webhook would probably not be written now. While a producer is replaced, it waits for the next one."""
        doubted = time.monotonic() < self._doubted_until
        return ["the broker does not acknowledge records"] if doubted or not self._reached else []

    async def write(self, topic: str, value: bytes, headers: Headers) -> None:
        """Write a record to any partition of a topic.

        Raises:
            NotWrittenError: it was not acknowledged in time.
        """
        await self._acknowledged([self._put(self._queue(topic, None), None, value, headers)])

    async def write_keyed(self, topic: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Write (key, value) records, each to the partition of its key.

        Raises:
            NotWrittenError: not all were acknowledged in time.
        """
        queues = [self._queue(topic, partition_of(key, self._partitions)) for key, _ in rows]
        await self._acknowledged(
            [self._put(queue, key, value, []) for queue, (key, value) in zip(queues, rows, strict=True)]
        )

    async def close(self) -> None:
        """Release the connections. All writes must have ended before."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await release_producer(producer)

    def _queue(self, topic: str, partition: int | None) -> _Queue:
        queue = self._queues.get((topic, partition))
        if queue is None:
            queue = _Queue(topic, partition, MAX_SENDERS if partition is None else 1)
            self._queues[topic, partition] = queue
        return queue

    def _put(self, queue: _Queue, key: bytes | None, value: bytes, headers: Headers) -> tuple[_Queue, _Entry]:
        now = time.monotonic()
        entry = _Entry(queue, key, value, headers, now, asyncio.get_running_loop().create_future())
        queue.waiting[id(entry)] = entry
        self._unanswered[id(entry)] = entry
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        if queue.senders == 0 or queue.is_stalled(now):
            self._begin_sender(queue)
        return queue, entry

    def _begin_sender(self, queue: _Queue) -> None:
        queue.senders += 1
        self._spawn(self._send(queue))

    async def _acknowledged(self, put: Sequence[tuple[_Queue, _Entry]]) -> None:
        try:
            for _, entry in put:
                await entry.done
        finally:
            for queue, entry in put:  # nobody waits for the remaining ones either
                queue.waiting.pop(id(entry), None)
                self._unanswered.pop(id(entry), None)
                if not entry.done.cancel() and not entry.done.cancelled():
                    entry.done.exception()  # retrieved, else asyncio logs it

    def _sweep(self) -> None:
        """Fail records that took too long, and start another sender for records that wait and that none follows.

        One timer serves all: with one timeout for all, the oldest comes first.
        """
        self._sweeper = None
        now = time.monotonic()
        for number, entry in list(self._unanswered.items()):
            if now - entry.since < self._timeout_s:
                break
            del self._unanswered[number]
            if not entry.done.done():
                entry.done.set_exception(NotWrittenError())
                self._late(entry)
        for queue in self._queues.values():
            if queue.is_stalled(now):
                self._begin_sender(queue)
        if self._unanswered:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _late(self, entry: _Entry) -> None:
        """Doubt and replace a producer that had the whole timeout for this record."""
        if self._producer is None or entry.since >= self._producer_since:
            self._doubt(entry.queue, f"nothing after {self._timeout_s:g} s")
            self._retire(self._producer)

    async def _send(self, queue: _Queue) -> None:
        """Send the waiting records, batch after batch, until there are none."""
        try:
            while queue.waiting:
                await asyncio.sleep(self._linger_s)
                await self._producer_there.wait()
                if entries := self._take(queue):
                    await self._send_batch(queue, entries)
        finally:
            queue.senders -= 1

    @staticmethod
    def _take(queue: _Queue) -> list[_Entry]:
        entries: list[_Entry] = []
        size = 0
        for entry in queue.waiting.values():
            size += entry.size
            if entries and (size > MAX_BATCH_BYTES or len(entries) >= _MAX_BATCH_RECORDS):
                break
            entries.append(entry)
        for entry in entries:
            del queue.waiting[id(entry)]
        return entries

    async def _send_batch(self, queue: _Queue, entries: list[_Entry]) -> None:
        producer = self._producer
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):  # nobody waits for longer, and the next batch needs its turn
                await self._produce(producer, queue, entries)
        except Exception as error:  # noqa: BLE001 - whatever it is, these records are not known to be written
            self._failed(producer, queue, error)
            for entry in entries:
                if not entry.done.done():
                    entry.done.set_exception(NotWrittenError())
            return
        self._recovered()
        self._recovered(queue.topic)
        self._heard_at = time.monotonic()
        if queue.partition is None:
            self._doubted_until, self._acknowledged_at = 0.0, self._heard_at
        self._hooks.acknowledged(queue.topic, len(entries), time.monotonic() - begun)
        for entry in entries:
            if not entry.done.done():
                entry.done.set_result(None)
        if self._rows_sent >= self._replace_after_rows:
            self._retire(producer)

    async def _produce(self, producer: Any, queue: _Queue, entries: list[_Entry]) -> None:
        """Send the entries as one batch and wait for its acknowledgement; those that do not fit return to the queue."""
        partition = queue.partition
        if partition is None:
            partition = self._next_partition(queue.topic, await producer.led_partitions(queue.topic))
        place = (queue.topic, partition)
        self._busy.add(place)
        try:
            batch = producer.batch_for(entries)
            for number, entry in enumerate(entries):
                if batch.append(key=entry.key, value=entry.value, timestamp=None, headers=entry.headers) is None:
                    queue.waiting = {id(left): left for left in entries[number:]} | queue.waiting
                    del entries[number:]
                    break
            self._rows_sent += len(entries)
            # shielded: aiokafka does not expect its future of a batch to be cancelled
            await asyncio.shield(await producer.send_batch(batch, queue.topic, partition=partition))
        finally:
            self._busy.discard(place)

    def _next_partition(self, topic: str, led_partitions: Collection[int]) -> int:
        """Return the next partition in turn, preferably one to which no batch is being sent."""
        partitions = sorted(led_partitions)
        self._turn += 1
        free = [partition for partition in partitions if (topic, partition) not in self._busy]
        chosen = free or partitions
        return chosen[self._turn % len(chosen)]

    def _failed(self, producer: Any, queue: _Queue, error: Exception) -> None:
        self._hooks.failed(queue.topic)
        if producer is self._producer:
            if isinstance(error, TimeoutError | KafkaTimeoutError):
                self._doubt(queue, type(error).__name__)
            else:  # this batch was refused, which says nothing about the next one
                self._complain(type(error).__name__, queue.topic)
            self._retire(producer)

    def _doubt(self, queue: _Queue, why: str) -> None:
        """Note that a record was not acknowledged in time; doubt the broker if that may be so for all webhooks.

        It is if none was acknowledged lately. Not "since that record came": it may have waited for its turn while the
        batch before, the last one, was acknowledged.
        """
        now = time.monotonic()
        if queue.partition is None and now - self._acknowledged_at >= _RECENT_TIMEOUTS * self._timeout_s:
            self._doubted_until = now + _DOUBT_TIMEOUTS * self._timeout_s
        self._complain(why, queue.topic)

    def _complain(self, why: str, topic: str = "") -> None:
        now = time.monotonic()
        if now - self._complaints.get(topic, -_COMPLAIN_S) >= _COMPLAIN_S:
            self._complaints[topic] = now
            logger.warning("the broker does not acknowledge records%s: %s", topic and f" of {topic}", why)

    def _recovered(self, topic: str = "") -> None:
        if self._complaints.pop(topic, None) is not None:
            logger.info("the broker is back%s", topic and f" for {topic}")

    def _retire(self, producer: Any) -> None:
        """Stop using this producer; batches that it has sent may still be acknowledged."""
        if producer is None or producer is not self._producer:
            return
        self._producer, self._rows_sent = None, 0
        self._producer_there.clear()
        self._producer_wanted.set()
        self._spawn(release_producer(producer, _RETIRE_TIMEOUT_S))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
