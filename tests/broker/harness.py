"""Real parts for tests: a worker process to start, kill and stop; records to send; a look at how far it is."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from streams import codecs, records, topics
from streams.settings import Settings, load


class Brokers(Protocol):
    """Whatever has an address: one broker, or a cluster."""

    @property
    def bootstrap(self) -> str: ...


def settings_for(
    broker: Brokers, datadir: Path, overrides: Mapping[str, object], *, partitions: int = 4
) -> tuple[Settings, dict[str, str]]:
    """Return settings for a worker on this broker, and the environment that gives them to a process."""
    environment = {
        "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "MAILSTREAMS_KAFKA__SESSION_TIMEOUT_S": "6",
        "MAILSTREAMS_KAFKA__HEARTBEAT_INTERVAL_S": "1",
        "MAILSTREAMS_KAFKA__REQUEST_TIMEOUT_S": "20",
        "MAILSTREAMS_KAFKA__REBALANCE_TIMEOUT_S": "20",
        "MAILSTREAMS_KAFKA__TRANSACTION_TIMEOUT_S": "15",
        "MAILSTREAMS_KAFKA__COMMIT_DEADLINE_S": "10",
        "MAILSTREAMS_TOPICS__PARTITIONS": str(partitions),
        "MAILSTREAMS_WORKER__DATADIR": str(datadir),
        "MAILSTREAMS_WEB__PORT": "0",
    } | {f"MAILSTREAMS_{name}": str(value) for name, value in overrides.items()}
    return load(environment=environment), environment


@dataclass
class WorkerProcess:
    """One worker as a process of its own, its log in a file."""

    environment: Mapping[str, str]
    log: Path
    command: Sequence[str] = (sys.executable, "-m", "streams", "worker")
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0
    port: int = field(default=0)

    def start(self, **more: str) -> None:
        self.starts += 1
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env={**os.environ, **self.environment, **more}, stdout=log, stderr=log
            )

    @property
    def output(self) -> str:
        """What it wrote since its last start."""
        with self.log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")

    def wait_ready(self, timeout_s: float = 60) -> None:
        self.wait_for("partitions ready", timeout_s)

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.output[-3000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no {text!r} after {timeout_s} s:\n{self.output[-3000:]}")
            time.sleep(0.05)

    def url(self, path: str) -> str:
        address = self.output.split("http://", 1)[1].split("/", 1)[0]
        return f"http://{address}{path}"

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url(path), timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, start: str) -> float:
        """Return the sum of all samples whose line begins with ``start``."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(start)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, timeout_s: float = 40) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def wait(self, timeout_s: float = 60) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)


Record = ConsumerRecord[bytes, bytes]


LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
"""When a webhook came, and its events happened, of which nothing is kept any more."""


def raw_headers(
    provider: str, account: str = "acme", *, received_at: datetime | None = None
) -> list[tuple[str, bytes]]:
    """Return the headers of a raw record as the ingress writes them; it was received now, if no time is given."""
    return records.encode_raw_headers(
        provider=provider,
        account=account,
        received_at=received_at or datetime.now(UTC),
        content_type="application/json",
        url=f"https://hooks.example.net/webhooks/{provider}/{account}",
        verified=False,
        key_id=None,
        http_headers={},
    )


async def send(broker: Brokers, topic: str, rows: Sequence[tuple[int, bytes | None, bytes | None, Any]]) -> None:
    """Send (partition, key, value, headers) rows with acks=all; batches, because ``send`` takes no null with a null."""
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, enable_idempotence=True, max_batch_size=900 << 10
    ) as producer:
        for partition in sorted({row[0] for row in rows}):
            batch = producer.create_batch()
            for _, key, value, headers in (row for row in rows if row[0] == partition):
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    await (await producer.send_batch(batch, topic, partition=partition))
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None, headers=headers)
            await (await producer.send_batch(batch, topic, partition=partition))


def bodies(seed: int, count: int, per_body: int, *, deliveries: int, now: datetime | None = None) -> list[bytes]:
    """Return SendGrid bodies: shuffled, repeated, disordered events of ``deliveries`` messages, up to two hours old."""
    chance = random.Random(seed)
    now_s = int(time.time() if now is None else now.timestamp())
    made = []
    recent: list[dict[str, Any]] = []
    number = 0
    for _ in range(count):
        events = []
        for _ in range(per_body):
            if recent and chance.random() < 0.15:
                events.append(chance.choice(recent))  # SendGrid repeats itself
                continue
            one = chance.randrange(deliveries)
            kind = chance.choices(
                ["processed", "deferred", "delivered", "open", "bounce", "dropped"], [3, 2, 4, 2, 1, 1]
            )[0]
            event: dict[str, Any] = {
                "email": f"payer{one}@customer{one % 97}.example",
                "timestamp": now_s - chance.randrange(7200),
                "event": kind,
                "sg_event_id": f"e{seed}-{number}",
                "sg_message_id": f"m{seed}-{one}.filter0001.16648.5515E0B88.0",
                "invoice": f"INV-{one}",
            }
            if kind == "deferred":
                event |= {"response": "421 4.7.0 Try again later", "attempt": str(chance.randrange(1, 9))}
            if kind == "bounce":
                event |= {
                    "reason": "550 5.1.1 No such user",
                    "status": "5.1.1",
                    "type": chance.choice(["bounce", "blocked"]),
                }
            if kind == "dropped":
                event |= {"reason": "Bounced Address"}
            number += 1
            events.append(event)
            recent.append(event)
            del recent[:-200]
        made.append(codecs.encode(events))
    return made


async def caught_up(
    broker: Brokers,
    settings: Settings,
    sources: Sequence[str],
    timeout_s: float,
    *,
    unless: Callable[[], bool] = lambda: False,
) -> None:
    """Wait until the group has committed the ends of all source topics, the upstream ones first, or ``unless`` holds.

    With ``mail.events`` among them, what follows from it is waited for too: the monitor's partitions linger.
    """
    deadline = time.monotonic() + timeout_s
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, isolation_level="read_committed")
    await admin.start()
    await consumer.start()
    try:
        for topic in sources:
            tps = [TopicPartition(topic, p) for p in range(settings.topics.partitions)]
            while True:
                ends = await consumer.end_offsets(tps)
                committed: dict[TopicPartition, OffsetAndMetadata] = {}
                with suppress(GroupCoordinatorNotAvailableError):  # a new cluster has none before its first member
                    committed = await admin.list_consumer_group_offsets(settings.worker.app_id, partitions=tps)
                behind = {
                    tp: end
                    for tp, end in ends.items()
                    if end > 0 and (tp not in committed or committed[tp].offset < end)
                }
                if not behind or unless():
                    break
                if time.monotonic() > deadline:
                    raise AssertionError(f"not caught up after {timeout_s} s: {behind} {committed}")
                await asyncio.sleep(0.2)
        while topics.EVENTS in sources and not unless() and not await _monitored(broker, settings, admin):
            if time.monotonic() > deadline:
                raise AssertionError(f"the monitor has not caught up after {timeout_s} s")
            await asyncio.sleep(0.2)
    finally:
        await consumer.stop()
        await admin.close()


async def _monitored(broker: Brokers, settings: Settings, admin: AIOKafkaAdminClient) -> bool:
    """Tell whether the monitor's records are processed; a log ends with commit markers, which nobody commits."""
    log = await read_all(broker, topics.DEFERRALS, settings.topics.partitions)
    last = {TopicPartition(topics.DEFERRALS, p): found[-1].offset for p, found in log.items() if found}
    if not last:
        return True
    committed = await admin.list_consumer_group_offsets(settings.worker.app_id, partitions=list(last))
    return all(tp in committed and committed[tp].offset > offset for tp, offset in last.items())


async def read_topics(
    broker: Brokers, names: Sequence[str], partitions: int, *, isolation_level: str = "read_committed"
) -> dict[str, dict[int, list[Record]]]:
    """Return every record of some topics, by topic and partition, in order."""
    found: dict[str, dict[int, list[Record]]] = {name: {p: [] for p in range(partitions)} for name in names}
    async with AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap,
        isolation_level=isolation_level,
        max_partition_fetch_bytes=8 << 20,
        fetch_max_wait_ms=50,  # what is asked for before the seek is not there yet, and would be waited for
        request_timeout_ms=60_000,
    ) as consumer:
        tps = [TopicPartition(name, p) for name in names for p in range(partitions)]
        consumer.assign(tps)
        begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        for tp, begin in begins.items():
            consumer.seek(tp, begin)  # not seek_to_beginning: a reset to the end under way can win over it
        behind = {tp for tp in tps if begins[tp] < ends[tp]}
        while behind:
            for tp, fetched in (await consumer.getmany(timeout_ms=100)).items():
                found[tp.topic][tp.partition].extend(record for record in fetched if record.offset < ends[tp])
            behind = {tp for tp in behind if await consumer.position(tp) < ends[tp]}
    return found


async def read_all(
    broker: Brokers, topic: str, partitions: int, *, isolation_level: str = "read_committed"
) -> dict[int, list[Record]]:
    """Return every record of a topic, by partition, in order."""
    return (await read_topics(broker, [topic], partitions, isolation_level=isolation_level))[topic]


RAW_AND_EVENTS = (topics.raw_topic("sendgrid"), topics.EVENTS)


async def delete_topics(broker: Brokers, *names: str) -> None:
    """Delete topics and wait until they are gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics(list(names))
        while not set(await admin.list_topics()).isdisjoint(names):
            await asyncio.sleep(0.1)
    finally:
        await admin.close()
