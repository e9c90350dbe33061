"""``make bench``: how many events a second one worker turns into truth.

Two figures, each from a topic filled beforehand, so that the sender costs the
worker nothing:

- ``status_events_per_s``: ``mail.events`` -> status-changed, status, changelog, store (the stage ``track`` alone);
- ``end_to_end_events_per_s``: SendGrid bodies of ten events on ``mail.raw.sendgrid`` -> the same (both stages).

Each with ``..._cpu_us_per_event``, the worker's own processor time, which does not
depend on what else the machine does. With ``--ingress`` also what the ingress takes.

The clock runs from the first committed batch to the last. Broker and worker
share this machine: read the figures as ratios.
"""

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition

from bench import ingress
from bench.traffic import bodies_of
from deploy.local.broker import Broker
from streams import records, topics
from streams.kafka.partitioner import partition_of
from streams.providers import PROVIDERS, WebhookRequest
from streams.settings import Settings, load

PARTITIONS = 4
EVENTS_PER_BODY = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print ``figure=value`` lines."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=300_000, help="events of each figure (default 300,000)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds; the median counts (default 1)")
    parser.add_argument("--ingress", action="store_true", help="measure the ingress too")
    chosen = parser.parse_args(arguments)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {chosen.events} events")
    measured: dict[str, list[float]] = {}
    for number in range(chosen.rounds):
        for name, source in (("status", "events"), ("end_to_end", "raw")):
            rate, cpu_us = asyncio.run(_measure(source, chosen.events, seed=number))
            print(f"  round {number + 1}: {name} {rate:,.0f} events/s, {cpu_us:.1f} us each", flush=True)
            measured.setdefault(f"{name}_events_per_s", []).append(rate)
            measured.setdefault(f"{name}_cpu_us_per_event", []).append(cpu_us)
    if chosen.ingress:
        for name, value in ingress.measure().items():
            measured[name] = [value]
    for name, values in measured.items():
        print(f"{name}={sorted(values)[len(values) // 2]:.4g}")
    return 0


async def _measure(source: str, count: int, *, seed: int) -> tuple[float, float]:
    """Return events a second, and the worker's microseconds of processor time for each."""
    with tempfile.TemporaryDirectory(prefix="mailstreams-bench-") as folder, Broker(Path(folder) / "kafka") as broker:
        settings, environment = _settings(broker, Path(folder))
        await topics.create(settings)
        print(f"  filling the {source} topic", flush=True)
        if source == "raw":
            source_topics = [topics.raw_topic("sendgrid"), topics.EVENTS]
            await _fill_raw(broker, count, seed)
        else:
            source_topics = [topics.EVENTS]
            await _fill_events(broker, count, seed)
        with (Path(folder) / "worker.log").open("wb") as log:
            worker = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop
                [sys.executable, "-m", "streams", "worker"], env={**os.environ, **environment}, stdout=log, stderr=log
            )
        try:
            began = _cpu_s(worker.pid)
            elapsed = await _time_from_first_to_last(
                broker, settings, source_topics, worker, Path(folder) / "worker.log"
            )
            return count / elapsed, (_cpu_s(worker.pid) - began) / count * 1e6
        finally:
            worker.terminate()
            worker.wait(60)


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _settings(broker: Broker, folder: Path) -> tuple[Settings, dict[str, str]]:
    environment = {
        "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "MAILSTREAMS_TOPICS__PARTITIONS": str(PARTITIONS),
        "MAILSTREAMS_WORKER__DATADIR": str(folder / "data"),
        "MAILSTREAMS_WEB__PORT": "0",
        "MAILSTREAMS_WORKER__LOG_LEVEL": "warning",
    }
    return load(environment=environment), environment


async def _fill_raw(broker: Broker, count: int, seed: int) -> None:
    headers = records.encode_raw_headers(
        provider="sendgrid",
        account="acme",
        received_at=datetime.now(UTC),
        content_type="application/json",
        url="https://hooks.example.net/webhooks/sendgrid/acme",
        verified=False,
        key_id=None,
        http_headers={},
    )
    bodies = bodies_of(seed, count // EVENTS_PER_BODY, EVENTS_PER_BODY)
    rows = [(number % PARTITIONS, None, body, headers) for number, body in enumerate(bodies)]
    await _send(broker, topics.raw_topic("sendgrid"), rows)


async def _fill_events(broker: Broker, count: int, seed: int) -> None:
    normalise = PROVIDERS["sendgrid"].normalise
    rows: list[tuple[int, bytes | None, bytes, Any]] = []
    for body in bodies_of(seed, count // EVENTS_PER_BODY, EVENTS_PER_BODY):
        request = WebhookRequest(body, {}, "https://hooks.example.net/", "acme", datetime.now(UTC))
        for event in normalise(request):
            key = event.delivery_id.encode()
            rows.append((partition_of(key, PARTITIONS), key, records.encode_event(event, "bench"), []))
    await _send(broker, topics.EVENTS, rows)


async def _send(broker: Broker, topic: str, rows: Sequence[tuple[int, bytes | None, bytes, Any]]) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, enable_idempotence=True, max_batch_size=900 << 10, linger_ms=20
    ) as producer:
        last: asyncio.Future[Any] | None = None
        for partition, key, value, headers in rows:
            last = await producer.send(topic, value, key, partition, headers=headers)
        await producer.flush()
        if last is not None:
            await last


async def _time_from_first_to_last(
    broker: Broker, settings: Settings, source_topics: Sequence[str], worker: "subprocess.Popen[bytes]", log: Path
) -> float:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    began = None
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        tps = [TopicPartition(topic, p) for topic in source_topics for p in range(settings.topics.partitions)]
        while True:
            if worker.poll() is not None:
                message = f"the worker ended with {worker.returncode}: see {log}"
                raise SystemExit(message)
            # upstream first: its commit comes after its output is written
            try:
                committed = await admin.list_consumer_group_offsets(settings.worker.app_id, partitions=tps)
            except GroupCoordinatorNotAvailableError:  # a new cluster has none before its first member
                await asyncio.sleep(0.05)
                continue
            ends = await consumer.end_offsets(tps)
            positions = {tp: at.offset for tp, at in committed.items()}
            if began is None and any(position > 0 for position in positions.values()):
                began = time.monotonic()
            if all(positions.get(tp, 0) >= ends[tp] for tp in tps):
                await admin.close()
                return time.monotonic() - (began or time.monotonic())
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
