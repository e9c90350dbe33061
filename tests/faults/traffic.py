"""What goes in during a fault, and who reads what comes out: webhooks and sends without a pause, and a subscriber.

Both live through everything that happens to the broker. The subscriber is the
promise's own witness: a ``read_committed`` reader of ``mail.status-changed`` from
the first record to the last, which checks every revision as it comes.
"""

import asyncio
import contextlib
import random
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from streams import codecs, records, topics
from streams.domain.events import Send
from streams.kafka.partitioner import partition_of
from streams.providers import PROVIDERS
from streams.settings import Settings
from tests.broker.harness import Record, raw_headers

PULSES_PER_S = 10
EVENTS_PER_PULSE = 20
KINDS = (["processed", "deferred", "delivered", "open", "bounce", "dropped"], [3, 3, 4, 2, 1, 1])
TOPIC = topics.raw_topic("sendgrid")


@dataclass(frozen=True, slots=True)
class Pulse:
    """What comes at once: a webhook, and what the application says of its own sends."""

    partition: int
    """Of the raw topic."""
    body: bytes
    sends: Sequence[tuple[int, Send]]
    """With the partitions of ``mail.sends``: those of their keys."""


def pulses(seed: int, partitions: int) -> Iterator[Pulse]:
    """Yield pulses for ever; half the events of each webhook are of messages never heard of before.

    The reference names the partition of the source (``R`` of the raw topic, ``S`` of ``mail.sends``) that first spoke of
    the message, so that a reader of the end of the way knows how it began; whoever speaks of it elsewhere names none.
    """
    chance = random.Random(seed)
    number = 0
    known: list[dict[str, Any]] = []
    while True:
        partition = number % partitions
        now = int(time.time())
        events = []
        for place in range(EVENTS_PER_PULSE):
            if known and place % 2:
                event = dict(chance.choice(known))
                if not event.get("invoice", "").startswith(f"R{partition}-"):
                    event.pop("invoice", None)
                elif chance.random() < 0.5:
                    events.append(event)  # SendGrid repeats itself
                    continue
            else:
                event = {
                    "email": f"payer{number}-{place}@customer{place}.example",
                    "sg_message_id": f"live{seed}-{number}-{place}.filter0001.16648.5515E0B88.0",
                    "invoice": f"R{partition}-{number}-{place}",
                }
                known.append(event)
            event |= {
                "event": chance.choices(*KINDS)[0],
                "timestamp": now - chance.randrange(7200),
                "sg_event_id": f"live{seed}-{number}-{place}",
            }
            if event["event"] == "deferred":
                event |= {"response": "421 4.7.0 Try again later", "attempt": str(chance.randrange(1, 9))}
            if event["event"] == "bounce":
                event |= {"reason": "550 5.1.1 No such user", "status": "5.1.1", "type": "bounce"}
            events.append(event)
        del known[:-500]
        yield Pulse(partition, codecs.encode(events), _sends(seed, number, partitions, chance))
        number += 1


def _sends(seed: int, number: int, partitions: int, chance: random.Random) -> list[tuple[int, Send]]:
    """One of a message that no provider speaks of, one of a message in this pulse's webhook or in one before."""
    own = Send(
        account="acme",
        provider=chance.choice(sorted(PROVIDERS)),
        message_id=f"sent{seed}-{number}",
        recipient=f"payer{number}@customer.example",
    )
    partition = partition_of(own.delivery_id.encode(), partitions)
    own = replace(own, reference=f"S{partition}-{number}")
    about = max(0, number - chance.randrange(5))
    shared = Send(
        account="acme",
        provider="sendgrid",
        message_id=f"live{seed}-{about}-0",
        recipient=f"payer{about}-0@customer0.example",
    )
    return [(partition, own), (partition_of(shared.delivery_id.encode(), partitions), shared)]


def waiting(kind: str, messages: Iterable[int], *, again: int = 0) -> bytes:
    """Return a body of events of messages that have been put off for two hours; ``again`` tells it from those before."""
    now = int(time.time())
    return codecs.encode(
        [
            {
                "email": f"payer@customer{number}.example",
                "timestamp": now - 7200 + number + again if kind == "deferred" else now,
                "event": kind,
                "sg_event_id": f"{kind}-{number}-{again}",
                "sg_message_id": f"waiting{number}.filter0001.16648.5515E0B88.0",
            }
            for number in messages
        ]
    )


def send_record(send: Send) -> tuple[bytes, bytes]:
    """Return key and value as the ingress writes them."""
    return send.delivery_id.encode(), records.encode_send(send)


class Traffic:
    """Writes pulses until it is stopped; keeps what the broker acknowledged."""

    def __init__(self, bootstrap: str, settings: Settings, seed: int) -> None:
        self._bootstrap = bootstrap
        self._pulses = pulses(seed, settings.topics.partitions)
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.acknowledged: list[tuple[str, bytes]] = []
        """What all in-sync replicas have, by topic: the webhooks and the sends that were answered with success."""

    def start(self) -> None:
        self._stopping.clear()
        self._task = asyncio.create_task(self._run(), name="traffic")

    async def stop(self) -> None:
        self._stopping.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def _run(self) -> None:
        while not self._stopping.is_set():
            # As at the ingress, which answers 503: the provider comes again.
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await self._write()
            await asyncio.sleep(0.2)

    async def _write(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, enable_idempotence=True, acks="all", request_timeout_ms=5_000
        )
        try:
            await producer.start()
            while not self._stopping.is_set():
                pulse = next(self._pulses)
                rows: list[tuple[str, int, bytes | None, bytes, list[tuple[str, bytes]]]] = [
                    *((topics.SENDS, to, *send_record(send), []) for to, send in pulse.sends),
                    (TOPIC, pulse.partition, None, pulse.body, raw_headers("sendgrid")),
                ]
                for topic, to, key, value, headers in rows:
                    sent = await producer.send(topic, value, key, partition=to, headers=headers)
                    async with asyncio.timeout(10):
                        await sent
                    self.acknowledged.append((topic, value))
                await asyncio.sleep(1 / PULSES_PER_S)
        finally:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await producer.stop()


class Subscriber:
    """Reads ``mail.status-changed`` from its beginning, and complains of all that was promised not to be."""

    def __init__(self, bootstrap: str, settings: Settings) -> None:
        self._bootstrap = bootstrap
        self._partitions = range(settings.topics.partitions)
        self._monitor = topics.changelog_topic(settings.worker.app_id, topics.OPEN_DEFERRALS_TABLE)
        self._tasks: list[asyncio.Task[None]] = []
        self._next: dict[int, int] = dict.fromkeys(self._partitions, 0)
        self._last: dict[tuple[bytes, str], int] = {}
        self._arrived: dict[int, float] = {}
        self.seen: dict[bytes, list[bytes]] = defaultdict(list)
        """Every value, by delivery, in the order in which it came."""
        self.repeated: list[str] = []
        """Revisions that came again."""
        self.out_of_order: list[str] = []
        """Revisions that came before their turn: one is missing, or late."""
        self.processed_ms: dict[tuple[str, int], int] = {}
        """The newest input seen, by its broker timestamp, for each partition of a source ("raw" or "sends", n), of the
        output ("told", n) and of the monitor ("watched", n)."""
        self.longest_silence_s = 0.0
        """Between two records of a partition, while ``watching``."""
        self.watching = False

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(read), name=f"subscriber {read.__name__}")
            for read in (self._read, self._watch)
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def caught_up_with(self, log: dict[int, list[Record]], timeout_s: float = 60) -> None:
        """Wait until it has seen the last record of every partition."""
        async with asyncio.timeout(timeout_s):
            while any(found and self._next[p] <= found[-1].offset for p, found in log.items()):
                await asyncio.sleep(0.05)

    async def recovered(self, since_ms: int, timeout_s: float) -> None:
        """Wait until webhooks and sends that came after ``since_ms`` have passed through every partition of every stage."""
        kinds = ("raw", "sends", "told", "watched")
        wanted = [(kind, partition) for kind in kinds for partition in self._partitions]
        async with asyncio.timeout(timeout_s):
            while any(self.processed_ms.get(one, 0) < since_ms for one in wanted):
                await asyncio.sleep(0.02)

    @staticmethod
    async def _run(read: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await read()
            await asyncio.sleep(0.2)

    @contextlib.asynccontextmanager
    async def _consumer(self, topic: str, reset: str) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            isolation_level="read_committed",
            auto_offset_reset=reset,
            request_timeout_ms=11_000,
            fetch_max_wait_ms=100,
        )
        try:
            await consumer.start()
            consumer.assign([TopicPartition(topic, p) for p in self._partitions])
            yield consumer
        finally:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await consumer.stop()

    async def _read(self) -> None:
        async with self._consumer(topics.STATUS_CHANGED, "none") as consumer:
            for partition, offset in self._next.items():
                consumer.seek(TopicPartition(topics.STATUS_CHANGED, partition), offset)
            while True:
                for tp, fetched in (await consumer.getmany(timeout_ms=100)).items():
                    for record in fetched:
                        self._take(record)
                    self._next[tp.partition] = fetched[-1].offset + 1
                self._listen()

    async def _watch(self) -> None:
        """Follow the monitor by its changelog: what it commits has the timestamp of the last input in it."""
        async with self._consumer(self._monitor, "earliest") as consumer:
            while True:
                for tp, fetched in (await consumer.getmany(timeout_ms=100)).items():
                    self._mark(("watched", tp.partition), max(record.timestamp for record in fetched))

    def _take(self, record: Record) -> None:
        assert record.key is not None
        assert record.value is not None
        told = records.decode_status(record.value)
        delivery = (record.key, told["first_received_at"])
        last, revision = self._last.get(delivery, 0), told["revision"]
        if revision <= last:
            self.repeated.append(f"{record.key!r}: {revision} after {last}")
        elif revision > last + 1:
            self.out_of_order.append(f"{record.key!r}: {revision} after {last}")
        self._last[delivery] = max(revision, last)
        self.seen[record.key].append(record.value)
        self._arrived[record.partition] = time.monotonic()
        self._mark(("told", record.partition), record.timestamp)
        by = _BEGAN.match(str(told["reference"]))
        if by is not None and revision == 1:  # what is told later may be the word of another partition
            self._mark((_SOURCES[by[1]], int(by[2])), record.timestamp)

    def _mark(self, where: tuple[str, int], timestamp_ms: int) -> None:
        self.processed_ms[where] = max(self.processed_ms.get(where, 0), timestamp_ms)

    def _listen(self) -> None:
        if self.watching and self._arrived:
            self.longest_silence_s = max(self.longest_silence_s, time.monotonic() - min(self._arrived.values()))


_BEGAN = re.compile("([RS])([0-9]+)-")
_SOURCES = {"R": "raw", "S": "sends"}
