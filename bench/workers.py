"""The real worker, as it is deployed: ``python -m streams worker``, all stages, exactly once.

Measures its rate end to end, the latency of one event, and the cost of a restart.
Its topics are those of the product, so the broker's timestamps cannot be used: rates
come from the group's committed positions, read twenty times a second.
"""

import asyncio
import base64
import contextlib
import hashlib
import re
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from bench import figures, pure, traffic
from bench.ground import Ground, Sent
from bench.racing import Running
from streams import records, topics
from streams.domain.events import DeliveryEvent, EventType
from streams.kafka.partitioner import partition_of
from streams.settings import Settings, load

COMMAND: Final = [sys.executable, "-m", "streams", "worker"]
RAW: Final = topics.raw_topic("sendgrid")
READY: Final = "partitions ready"
LOOK_S: Final = 0.05
STILL_S: Final = 120.0
SEND_EVERY_S: Final = 0.005
WARM_UP_S: Final = 3.0


class Flow(NamedTuple):
    """How one worker, or several, processed a backlog."""

    events_per_s: float
    cpu_us: float
    """Processor time of all workers for one event."""
    rss_mb: float
    """The most memory that one of them held."""


class Latency(NamedTuple):
    """The latency of records (ms)."""

    hops: Mapping[str, list[float]]
    """By topic: from the raw record's append until a reader of that topic has the resulting record."""
    batches: Mapping[str, float]
    """From the worker's own metrics: mean time and size of a batch, by stage."""
    sent_per_s: float
    cpu_percent: float
    """The worker's share of one core while the events were sent."""


class Deployment:
    """Newly created topics of the product on the broker, and workers on them."""

    def __init__(
        self, ground: Ground, name: str, *, partitions: int | None = None, more: Mapping[str, str] | None = None
    ) -> None:
        self.ground = ground
        self.folder = ground.folder / name
        self.folder.mkdir()
        self.environment = {
            "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": ground.bootstrap,
            "MAILSTREAMS_TOPICS__PARTITIONS": str(partitions or ground.partitions),
            "MAILSTREAMS_WORKER__APP_ID": f"bench-{name}",
            "MAILSTREAMS_KAFKA__COMPRESSION_TYPE": ground.compression,
            "MAILSTREAMS_WEB__PORT": "0",
            **(more or {}),
        }
        self.settings: Settings = load(environment=self.environment)
        self.started = 0

    @property
    def partitions(self) -> int:
        """Partitions of each topic."""
        return self.settings.topics.partitions

    def datadir(self, number: int = 0) -> Path:
        """Return where a worker keeps its stores."""
        return self.folder / f"data-{number}"

    def worker(self, number: int = 0, command: Sequence[str] = COMMAND) -> Running:
        """Start a worker."""
        self.started += 1
        more = {"MAILSTREAMS_WORKER__DATADIR": str(self.datadir(number))}
        return Running(command, self.folder / f"worker-{self.started}.log", self.environment | more)

    async def put_bodies(self, bodies: Iterable[bytes]) -> None:
        """Fill the raw topic."""
        headers = _headers()
        await self.ground.put(RAW, [(n % self.partitions, None, body, headers) for n, body in enumerate(bodies)])

    async def put_events(self, events: Iterable[tuple[bytes, bytes]]) -> None:
        """Fill ``mail.events``."""

        def rows() -> Iterator[Sent]:
            for key, value in events:
                yield partition_of(key, self.partitions), key, value, []

        await self.ground.put(topics.EVENTS, rows())


@contextlib.asynccontextmanager
async def deployed(
    ground: Ground, name: str, *, partitions: int | None = None, more: Mapping[str, str] | None = None
) -> AsyncIterator[Deployment]:
    """Create the product's topics, and delete them at the end; ``more``: settings other than the defaults."""
    deployment = Deployment(ground, name, partitions=partitions, more=more)
    await topics.create(deployment.settings)
    try:
        yield deployment
    finally:
        await ground.delete("mail.")
        await ground.delete(deployment.settings.worker.app_id)
        shutil.rmtree(deployment.folder, ignore_errors=True)


async def end_to_end(ground: Ground, name: str, count: int, per_body: int, seed: int) -> tuple[Flow, dict[str, float]]:
    """Return how one worker processes SendGrid bodies, and the bytes per event in each topic."""
    async with deployed(ground, name) as deployment:
        await deployment.put_bodies(traffic.bodies_of(seed, count // per_body, per_body))
        with deployment.worker() as worker:
            flow = await _work_off(deployment, [worker], [RAW, topics.EVENTS], count)
        sizes = {
            short: ground.size_of(topic) / count
            for short, topic in (
                ("raw", RAW),
                ("events", topics.EVENTS),
                ("status_changed", topics.STATUS_CHANGED),
                ("status", topics.STATUS),
                ("deferrals", topics.DEFERRALS),
            )
        }
        return flow, sizes


async def whole_worker(ground: Ground, name: str, bodies: list[bytes]) -> Flow:
    """Return how one worker processes ``mail.events``, its monitor included."""
    async with deployed(ground, name) as deployment:
        events = pure.events_of(bodies)
        await deployment.put_events(events)
        with deployment.worker() as worker:
            return await _work_off(deployment, [worker], [topics.EVENTS], len(events))


async def monitored(ground: Ground, name: str, events: list[tuple[bytes, bytes]], command: Sequence[str]) -> Flow:
    """Return how one worker processes ``mail.events`` and everything that it sends to its monitor."""
    async with deployed(ground, name) as deployment:
        await deployment.put_events(events)
        with deployment.worker(command=command) as worker:
            await ready(worker)
            began = time.time()
            await _until_worked_off(deployment, [worker], [topics.EVENTS], len(events))
            progress = await _until_worked_off(deployment, [worker], [topics.DEFERRALS, topics.EVENTS], len(events))
            return flow_of(began, progress, [worker.samples.cpu_s], worker.samples.rss_mb)


async def several(ground: Ground, name: str, bodies: list[bytes], workers: int, partitions: int) -> Flow:
    """Return how several workers share ``mail.events``; all of them are ready before the first event."""
    async with deployed(ground, name, partitions=partitions) as deployment:
        with contextlib.ExitStack() as held:
            running = []
            for number in range(workers):
                running.append(held.enter_context(deployment.worker(number)))
                await ready(running[-1])
            await asyncio.sleep(5)  # the last rebalance, and the rest of the start-up
            events = pure.events_of(bodies)
            putting = asyncio.create_task(deployment.put_events(events))
            flow = await _work_off(deployment, running, [topics.EVENTS], len(events))
            await putting
            return flow


async def latency(ground: Ground, name: str, seconds: float, per_s: int, seed: int) -> Latency:
    """Send single-event bodies at a fixed rate, without waiting for results, and read every topic on their way."""
    watched = {"raw": RAW, "events": topics.EVENTS, "status_changed": topics.STATUS_CHANGED}
    async with deployed(ground, name) as deployment:
        bodies = traffic.bodies_of(seed, round((WARM_UP_S + seconds) * per_s), 1)
        with deployment.worker() as worker:
            await ready(worker)
            stop = asyncio.Event()
            started_at = time.time() + WARM_UP_S
            readers = {
                short: asyncio.create_task(_ages(ground, topic, started_at, stop)) for short, topic in watched.items()
            }
            await asyncio.sleep(1)
            began = time.time()
            sent_per_s = await _send_at(ground, bodies, per_s)
            ended = time.time()
            # Wait until all have arrived, or the slowest would be left out.
            await _until_worked_off(deployment, [worker], [RAW, topics.EVENTS], len(bodies))
            await asyncio.sleep(1)
            stop.set()
            hops = {short: await reader for short, reader in readers.items()}
            used = figures.at(worker.samples.cpu_s, ended) - figures.at(worker.samples.cpu_s, began)
            return Latency(hops, _batches(worker), sent_per_s, used / (ended - began) * 100)


class Kept(NamedTuple):
    """The cost of this many deliveries."""

    events_per_s: float
    rss_mb: float
    """After all were taken in."""
    store_bytes: float
    """For one delivery, on the worker's disk."""
    changelog_bytes: float
    """The same, in the changelog; compressed."""
    status_bytes: float
    """The same, in ``mail.status``; compressed."""
    restart_s: list[float]
    """From the process's start until all partitions run, after an orderly stop."""
    killed_s: list[float]
    """The same after a kill: the group first has to notice it."""
    restore_rows_per_s: list[float]
    rss_restarted_mb: float


async def keeping(ground: Ground, name: str, deliveries: int, rounds: int, *, kill: bool) -> Kept:
    """Let one worker take in this many deliveries, restart it, delete its store, and kill it if ``kill``."""
    async with deployed(ground, name) as deployment:
        await deployment.put_events(_one_event_each(deliveries))
        with deployment.worker() as worker:
            flow = await _work_off(deployment, [worker], [topics.EVENTS], deliveries)
            await asyncio.sleep(2)
            rss = psutil.Process(worker.process.pid).memory_info().rss / 2**20
            store = sum(path.stat().st_size for path in deployment.datadir().rglob("*") if path.is_file())
            _stop(worker)
        restarts, kills, restores = [], [], []
        rss_restarted = 0.0
        for _ in range(rounds):
            with deployment.worker() as worker:
                restarts.append(await ready(worker))
                rss_restarted = max(rss_restarted, worker.samples.rss_mb)
                _stop(worker)
        for _ in range(rounds):
            shutil.rmtree(deployment.datadir())
            with deployment.worker() as worker:
                began, rows = await _wait_for(worker, r"restoring (\d+) changelog offsets")
                ended, _ = await _wait_for(worker, READY)
                restores.append(int(rows[1]) / (ended - began))
                _stop(worker)
        if kill:
            with deployment.worker() as worker:
                await ready(worker)
            with deployment.worker() as worker:  # the one before was killed at the end of its block
                kills.append(await ready(worker))
        return Kept(
            flow.events_per_s,
            rss,
            store / deliveries,
            ground.size_of(topics.changelog_topic(deployment.settings.worker.app_id)) / deliveries,
            ground.size_of(topics.STATUS) / deliveries,
            restarts,
            kills,
            restores,
            rss_restarted,
        )


class Idle(NamedTuple):
    """The cost of an idle worker with many partitions."""

    ready_s: float
    rss_mb: float
    sockets: int
    threads: int
    cpu_percent: float


async def many_partitions(ground: Ground, name: str, partitions: int) -> Idle:
    """Start one worker on topics with this many partitions each."""
    async with deployed(ground, name, partitions=partitions) as deployment:
        with deployment.worker() as worker:
            ready_s = await ready(worker, timeout_s=300)
            await asyncio.sleep(5)
            began, used = time.time(), figures.at(worker.samples.cpu_s, time.time())
            await asyncio.sleep(10)
            cpu = (figures.at(worker.samples.cpu_s, time.time()) - used) / (time.time() - began) * 100
            process = psutil.Process(worker.process.pid)
            return Idle(ready_s, worker.samples.rss_mb, len(process.net_connections()), process.num_threads(), cpu)


# -- waiting ------------------------------------------------------------------------------------------------------------


async def ready(worker: Running, timeout_s: float = 120) -> float:
    """Wait until a worker has all its partitions, and return how long that took since it was started."""
    at, _ = await _wait_for(worker, READY, timeout_s)
    return at - psutil.Process(worker.process.pid).create_time()


async def _wait_for(worker: Running, pattern: str, timeout_s: float = 120) -> tuple[float, re.Match[str]]:
    """Wait until a worker's log matches the pattern; return when it did, and the match."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = re.search(pattern, worker.log.read_text(errors="replace"))
        if found:
            return time.time(), found
        worker.check()
        if time.monotonic() > deadline:
            what = f"said no {pattern!r} within {timeout_s:g} s"
            raise worker.failed(what)
        await asyncio.sleep(0.02)


def _stop(worker: Running) -> None:
    """Stop a worker in good order."""
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(60)


async def _work_off(deployment: Deployment, workers: list[Running], sources: list[str], count: int) -> Flow:
    """Let the group process all sources, the last of which gets ``count`` events; return the measurements."""
    for worker in workers:
        await ready(worker)
    began = time.time()
    progress = await _until_worked_off(deployment, workers, sources, count)
    rss_mb = max(worker.samples.rss_mb for worker in workers)
    return flow_of(began, progress, [worker.samples.cpu_s for worker in workers], rss_mb)


async def _until_worked_off(
    deployment: Deployment, workers: list[Running], sources: list[str], count: int
) -> list[tuple[float, int]]:
    """Wait until the group has processed all sources; return (time, events done) of the last source."""
    partitions = deployment.partitions
    last = [TopicPartition(sources[-1], p) for p in range(partitions)]
    before = [TopicPartition(source, p) for source in sources[:-1] for p in range(partitions)]
    before_ends = await deployment.ground.ends(sources[:-1], partitions=partitions) if before else {}
    progress: list[tuple[float, int]] = []
    moved_at = time.monotonic()
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=deployment.ground.bootstrap)
    await admin.start()
    try:
        while True:
            for worker in workers:
                worker.check()
            positions = await _committed(admin, deployment.settings.worker.app_id, [*before, *last])
            done = sum(positions.get(tp, 0) for tp in last)
            if not progress or done > progress[-1][1]:
                moved_at = time.monotonic()
            progress.append((time.time(), done))
            if done >= count and all(positions.get(tp, 0) >= end for tp, end in before_ends.items()):
                break
            if time.monotonic() - moved_at > STILL_S:
                what = f"made {sources[-1]} stand still at {done} of {count}"
                raise workers[0].failed(what)
            await asyncio.sleep(LOOK_S)
    finally:
        await admin.close()
    return progress


def flow_of(
    began: float, progress: list[tuple[float, int]], cpu_s: list[list[tuple[float, float]]], rss_mb: float
) -> Flow:
    """Return rate and cost of the whole work, from the moment when the workers could begin until the last commit.

    The time does not begin at the first commit, because the earlier stages have worked far ahead by then.

    Args:
        began: When the workers had their partitions and there was something to do.
        progress: (time, events done) in order of time.
        cpu_s: For each worker (time, processor seconds).
        rss_mb: The most memory that one worker held.

    Raises:
        ValueError: the work was done before the first look.
    """
    end, total = progress[-1]
    if end <= began or not total:
        message = f"{total} events were done at once: too few to measure"
        raise ValueError(message)
    used = sum(figures.at(each, end) - figures.at(each, began) for each in cpu_s)
    return Flow(total / (end - began), used / total * 1e6, rss_mb)


async def _committed(admin: Any, group: str, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
    try:
        found = await admin.list_consumer_group_offsets(group, partitions=tps)
    except KafkaError:  # a new cluster has no coordinator before its first member
        return {}
    return {tp: max(at.offset, 0) for tp, at in found.items()}  # -1: nothing yet


# -- latency ------------------------------------------------------------------------------------------------------------


async def _ages(ground: Ground, topic: str, since: float, stop: asyncio.Event) -> list[float]:
    """Read a topic as a subscriber would; return each record's age (ms), from the broker's timestamp of its raw record.

    Every stage copies the timestamp of its source record, so it is the same in all topics.
    """
    ages: list[float] = []
    async with AIOKafkaConsumer(
        bootstrap_servers=ground.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    ) as consumer:
        consumer.assign([TopicPartition(topic, p) for p in range(ground.partitions)])
        while not stop.is_set():
            fetched = await consumer.getmany(timeout_ms=200)
            now = time.time()
            for found in fetched.values():
                ages += [(now - record.timestamp / 1000) * 1000 for record in found if record.timestamp / 1000 >= since]
    return ages


async def _send_at(ground: Ground, bodies: list[bytes], per_s: int) -> float:
    """Append bodies at a fixed rate; return the rate that was reached."""
    headers = _headers()
    began = time.monotonic()
    async with AIOKafkaProducer(bootstrap_servers=ground.bootstrap, acks="all") as producer:
        sent = 0
        while sent < len(bodies):
            due = min(int((time.monotonic() - began) * per_s) + 1, len(bodies))
            for number in range(sent, due):
                partition = number % ground.partitions
                await producer.send(RAW, bodies[number], partition=partition, headers=headers)
            sent = due
            await asyncio.sleep(SEND_EVERY_S)
        await producer.flush()
    return len(bodies) / (time.monotonic() - began)


_SAMPLE: Final = re.compile(r'^mailstreams_batch_(seconds|records)_(sum|count)\{stage="(\w+)"\} (\S+)$', re.MULTILINE)


def _batches(worker: Running) -> dict[str, float]:
    """Return mean time (ms) and records of a batch by stage, from the worker's metrics."""
    address = re.search(r"(http://\S+)/metrics", worker.log.read_text(errors="replace"))
    assert address is not None
    with urllib.request.urlopen(f"{address[1]}/metrics", timeout=10) as answer:
        found = {
            (kind, part, stage): float(value) for kind, part, stage, value in _SAMPLE.findall(answer.read().decode())
        }
    means: dict[str, float] = {}
    for (kind, part, stage), total in found.items():
        count = found.get((kind, "count", stage), 0)
        if part == "sum" and count:
            means[f"{stage}_batch_{'ms' if kind == 'seconds' else 'records'}"] = (
                total / count * (1000 if kind == "seconds" else 1)
            )
    return means


# -- what is put in -----------------------------------------------------------------------------------------------------


def _headers() -> list[tuple[str, bytes]]:
    return records.encode_raw_headers(
        provider="sendgrid",
        account="acme",
        received_at=datetime.now(UTC),
        content_type="application/json",
        url="https://hooks.example.net/webhooks/sendgrid/acme",
        verified=True,
        key_id="bench",
        http_headers={},
    )


def _one_event_each(deliveries: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield one ``delivered`` per delivery, made from one template record because encoding a million takes long."""
    now = datetime.now(UTC)
    event = DeliveryEvent(
        event_id="e0000000000-q4P1S7vXTkS9u5yR2mVx0A",
        provider="sendgrid",
        account="acme",
        message_id="m0000000000.filter0001.16648.5515E0B88.0",
        recipient="payer0000000000@customer.example",
        type=EventType.DELIVERED,
        received_at=now,
        occurred_at=now,
        reference="INV-0000000000",
        reason="250 2.0.0 OK",
        smtp_code=250,
        enhanced_code="2.0.0",
        tags=("invoice",),
        provider_event="delivered",
    )
    template = records.encode_event(event, "bench/0/0").replace(event.delivery_id.encode(), b"DELIVERY")
    for number in range(deliveries):
        key = base64.b32encode(hashlib.blake2b(b"%d" % number, digest_size=16).digest()).rstrip(b"=").lower()
        yield key, template.replace(b"DELIVERY", key).replace(b"0000000000", b"%010d" % number)
