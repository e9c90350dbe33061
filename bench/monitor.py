"""What the deferral monitor costs: ``python -m bench.monitor``.

- ``monitor_tick_ms``: a tick with 1,000 deadlines due among 1,000,000 open deferrals of one partition: look up, decide,
  encode, write to the store. Without the broker, whose transaction is that of any small batch;
- ``monitor_idle_tick_ms``: the same with nothing due;
- ``monitor_open_s``: to open that partition after a restart;
- ``monitor_reindex_s``: the same when the policies are others than before; each of these with ``_cpu``: of the processor
  alone, which says the same on a busy machine;
- ``deferrals_resolved_s``: 100,000 raised deferrals of four partitions end at once, in a real worker with a real
  broker: from the first end that is sent to the last ``resolved`` that a ``read_committed`` reader can see;
- ``monitor_cost_percent``: how much longer a real worker takes for the same ``mail.events``, 5 % of the messages
  deferred, than one that tells the monitor nothing.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from deploy.local.broker import Broker
from streams import records, topics
from streams.agents.monitor import Monitor
from streams.collectors import OpenDeferrals
from streams.domain.deferrals import Deferral, Episode, observe
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.status import Status
from streams.kafka.lanes import Effects
from streams.kafka.partitioner import partition_of
from streams.kafka.store import Budget, Changes, Store, open_store
from streams.policies import policies_of
from streams.settings import Settings, load

PARTITIONS = 4
OPEN = 1_000_000
DUE = 1_000
RESOLVED = 100_000
MESSAGES = 100_000
DEFERRED_SHARE = 0.05
SECOND = 1_000_000
BEGAN = 1_790_000_000 * SECOND
PROGRAM = [sys.executable, "-m", "streams", "worker"]
UNMONITORED = [
    sys.executable,
    "-c",
    """
import sys
from streams.__main__ import main
from streams.agents import track
track._concerns_monitor = lambda *_: False
sys.argv = ["mailstreams", "worker"]
sys.exit(main())
""",
]
"""A worker whose ``track`` says nothing to the monitor."""


def main() -> int:
    """Measure, and print ``figure=value`` lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of monitor_cost_percent, interleaved (default 3)")
    parser.add_argument("--open", type=int, default=OPEN, help="open deferrals (default 1,000,000)")
    parser.add_argument("--only", choices=["store", "resolve", "cost"], help="one part")
    chosen = parser.parse_args()
    measured: dict[str, float] = {}
    if chosen.only in {None, "store"}:
        measured |= asyncio.run(of_the_store(chosen.open))
    if chosen.only in {None, "resolve"}:
        measured |= asyncio.run(of_resolving())
    if chosen.only in {None, "cost"}:
        measured |= asyncio.run(of_the_stage(chosen.rounds))
    for name, value in measured.items():
        print(f"{name}={value:.4g}")
    return 0


# --- a partition with a million open deferrals ---------------------------------------------------------------------------


async def of_the_store(count: int = OPEN) -> dict[str, float]:
    """Measure ticks and the opening of a partition."""
    with tempfile.TemporaryDirectory(prefix="mailstreams-bench-") as folder:
        settings = Settings()
        monitor = _monitor(settings)
        store = _open(Path(folder))
        _fill(store, monitor, count)
        store.close()
        store = _open(Path(folder))
        opening = Took()
        await monitor.opened(0, store)
        opened = opening.stop()
        warn_after = monitor.policies.other.warn_after
        ticks = []
        for number in range(7):
            now = BEGAN + warn_after + (number * DUE + DUE - 1) * SECOND
            tick = Took()
            effects = _tick(monitor, store, now)
            ticks.append(tick.stop())
            assert sum(map(len, effects.outputs.values())) == DUE
        idle = Took()
        _tick(monitor, store, now)
        idled = idle.stop()
        other = replace(monitor, policies=policies_of(_with_window(settings)))
        reindexing = Took()
        await other.opened(0, store)
        reindexed = reindexing.stop()
        store.close()
    return {
        "monitor_tick_ms": statistics.median(wall for wall, _ in ticks) * 1e3,
        "monitor_tick_cpu_ms": statistics.median(cpu for _, cpu in ticks) * 1e3,
        "monitor_idle_tick_ms": idled[0] * 1e3,
        "monitor_open_s": opened[0],
        "monitor_open_cpu_s": opened[1],
        "monitor_reindex_s": reindexed[0],
        "monitor_reindex_cpu_s": reindexed[1],
    }


class Took:
    """Seconds of the wall and of this process's processor time."""

    def __init__(self) -> None:
        self._began = (time.perf_counter(), time.process_time())

    def stop(self) -> tuple[float, float]:
        """Return both since the beginning."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


def _monitor(settings: Settings) -> Monitor:
    return Monitor(
        alerts_topic=topics.DEFERRAL_ALERTS,
        policies=policies_of(settings),
        support_contacts={},
        held=lambda _: False,
        gauges=OpenDeferrals("mailstreams", ("raised", "escalated", "overdue"), CollectorRegistry()),
    )


def _with_window(settings: Settings) -> Settings:
    return settings.model_copy(update={"deferrals": settings.deferrals.model_copy(update={"warn_after_s": 1800.0})})


def _open(folder: Path) -> Store:
    budget = Budget(cache_bytes=64 << 20, write_buffer_bytes=64 << 20)
    return open_store(folder / "open-deferrals-0", budget, on_rebuild=print)


def _fill(store: Store, monitor: Monitor, count: int) -> None:
    """Write open deferrals, one of each second, as they stand after a restart."""
    store.write(Changes(policy=monitor.policies.digest))
    for first in range(0, count, 10_000):
        rows: dict[bytes, bytes | None] = {}
        due = []
        for number in range(first, first + 10_000):
            episode = _episode(number, monitor)
            row = records.encode_open_deferral(episode)
            key = episode.delivery_id.encode()
            rows[key] = row
            due_at = monitor.due_of(row)
            assert due_at is not None
            due.append((due_at, key))
        store.write(Changes(rows=rows, due_added=due, changelog_offset=first))


def _episode(number: int, monitor: Monitor) -> Episode:
    began = BEGAN + number * SECOND
    event = _event(number, EventType.DEFERRED, datetime.fromtimestamp(began / SECOND, UTC))
    deferral = Deferral(
        delivery_id=event.delivery_id,
        account=event.account,
        provider=event.provider,
        message_id=event.message_id,
        recipient=event.recipient,
        reference=f"INV-{number}",
        first_received_at=began,
        revision=2,
        status=Status.DEFERRED,
        status_at=began,
        first_at=began,
        last_at=began,
        dropped_at=None,
        attempts=1,
        reason=event.reason,
        smtp_code=event.smtp_code,
        enhanced_code=event.enhanced_code,
        retry_until=None,
        attempt=True,
    )
    episode = observe(None, deferral, monitor.policies(event.account, event.provider)).episode
    assert episode is not None
    return episode


def _tick(monitor: Monitor, store: Store, now: int) -> Effects:
    effects = Effects()
    monitor.tick(now, 0, store, effects)
    store.write(Changes(rows=effects.rows, due_added=effects.due_added, due_removed=effects.due_removed))
    return effects


# --- a real worker -------------------------------------------------------------------------------------------------------


async def of_resolving() -> dict[str, float]:
    """Measure how soon a hundred thousand raised deferrals are resolved when all of them end."""
    with _world(warn_after_s=1) as (broker, settings, environment, log):
        await topics.create(settings)
        long_ago = datetime.now(UTC) - timedelta(hours=2)
        with _worker(PROGRAM, environment, log) as worker:
            await _send(broker, (_event(n, EventType.DEFERRED, long_ago) for n in range(RESOLVED)))
            await _until(broker, RESOLVED, worker)
            began = time.monotonic()
            await _send(broker, (_event(n, EventType.DELIVERED, datetime.now(UTC)) for n in range(RESOLVED)))
            sent = time.monotonic()
            await _until(broker, 2 * RESOLVED, worker)
            print(f"  {RESOLVED} ends sent within {sent - began:.1f} s", flush=True)
            return {"deferrals_resolved_s": time.monotonic() - began}


async def of_the_stage(rounds: int) -> dict[str, float]:
    """Measure what 5 % deferred messages cost the status stage because they are monitored."""
    ratios, cpu = [], []
    for number in range(rounds):
        took = {}
        for program in (PROGRAM, UNMONITORED)[:: 1 if number % 2 else -1]:
            took[program is PROGRAM] = await _time_of_traffic(program)
        print(
            f"  round {number + 1}: {took[True][0]:.2f} s ({took[True][1]:.2f} s of CPU) monitored, "
            f"{took[False][0]:.2f} s ({took[False][1]:.2f} s of CPU) not",
            flush=True,
        )
        ratios.append(took[True][0] / took[False][0] - 1)
        cpu.append(took[True][1] / took[False][1] - 1)
    return {
        "monitor_cost_percent": statistics.median(ratios) * 100,
        "monitor_cpu_percent": statistics.median(cpu) * 100,
    }


async def _time_of_traffic(program: list[str]) -> tuple[float, float]:
    """Return seconds of the wall and of the processor that a worker takes for ``mail.events``."""
    with _world(warn_after_s=3600) as (broker, settings, environment, log):
        await topics.create(settings)
        await _send(broker, _traffic(datetime.now(UTC)))
        with _worker(program, environment, log) as worker:
            process = psutil.Process(worker.pid)
            began = (0.0, 0.0)
            async for share in _progress(broker, settings, (topics.EVENTS, topics.DEFERRALS), worker):
                now = (time.monotonic(), sum(process.cpu_times()[:2]))
                if share > 0 and began == (0.0, 0.0):
                    began = now
            return now[0] - began[0], now[1] - began[1]


def _traffic(now: datetime) -> Iterator[DeliveryEvent]:
    """Yield sent and delivered of each message; one of twenty was deferred in between, twice."""
    for number in range(MESSAGES):
        kinds = [EventType.SENT, EventType.DELIVERED]
        if number % round(1 / DEFERRED_SHARE) == 0:
            kinds[1:1] = [EventType.DEFERRED, EventType.DEFERRED]
        for position, kind in enumerate(kinds):
            yield _event(number, kind, now + timedelta(seconds=position), position)


def _event(number: int, kind: EventType, at: datetime, position: int = 0) -> DeliveryEvent:
    deferred = kind is EventType.DEFERRED
    return DeliveryEvent(
        event_id=f"{kind}-{number}-{position}",
        provider="sendgrid",
        account="acme",
        message_id=f"message-{number}",
        recipient=f"payer{number}@{('gmail.com', 'outlook.com', 'customer.example')[number % 3]}",
        type=kind,
        occurred_at=at,
        received_at=at,
        reference=f"INV-{number}",
        reason="421 4.7.0 Try again later" if deferred else None,
        smtp_code=421 if deferred else None,
        enhanced_code="4.7.0" if deferred else None,
    )


@contextmanager
def _world(*, warn_after_s: float) -> Iterator[tuple[Broker, Settings, Mapping[str, str], Path]]:
    with tempfile.TemporaryDirectory(prefix="mailstreams-bench-") as folder, Broker(Path(folder) / "kafka") as broker:
        environment = {
            "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
            "MAILSTREAMS_TOPICS__PARTITIONS": str(PARTITIONS),
            "MAILSTREAMS_WORKER__DATADIR": str(Path(folder) / "data"),
            "MAILSTREAMS_WEB__PORT": "0",
            "MAILSTREAMS_WORKER__LOG_LEVEL": "warning",
            "MAILSTREAMS_DEFERRALS__WARN_AFTER_S": str(warn_after_s),
        }
        yield broker, load(environment=environment), environment, Path(folder) / "worker.log"


@contextmanager
def _worker(program: list[str], environment: Mapping[str, str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as output:
        worker = subprocess.Popen(program, env={**os.environ, **environment}, stdout=output, stderr=output)
        try:
            yield worker
        finally:
            if worker.poll() is None:
                worker.terminate()
                worker.wait(60)
            else:
                print(log.read_text(errors="replace")[-2_000:], file=sys.stderr)


async def _send(broker: Broker, events: Iterator[DeliveryEvent]) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, enable_idempotence=True, max_batch_size=900 << 10, linger_ms=20
    ) as producer:
        for chunk in iter(lambda: list(itertools.islice(events, 5_000)), []):
            sent: list[Any] = []
            for event in chunk:
                key = event.delivery_id.encode()
                value = records.encode_event(event, "mail.raw.sendgrid/0/0")
                sent.append(await producer.send(topics.EVENTS, value, key, partition_of(key, PARTITIONS)))
            await asyncio.gather(*sent)


async def _until(broker: Broker, alerts: int, worker: "subprocess.Popen[bytes]") -> None:
    """Wait until a ``read_committed`` reader has seen so many alerts."""
    async with AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap, isolation_level="read_committed", max_partition_fetch_bytes=8 << 20
    ) as consumer:
        tps = [TopicPartition(topics.DEFERRAL_ALERTS, p) for p in range(PARTITIONS)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        seen = 0
        while seen < alerts:
            if worker.poll() is not None:
                message = f"the worker ended with {worker.returncode}"
                raise SystemExit(message)
            seen += sum(map(len, (await consumer.getmany(timeout_ms=50)).values()))


async def _progress(
    broker: Broker, settings: Settings, sources: tuple[str, ...], worker: "subprocess.Popen[bytes]"
) -> Any:
    """Yield the share of the first source that is processed, until all of all of them is."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, isolation_level="read_committed") as consumer:
            tps = [TopicPartition(topic, p) for topic in sources for p in range(PARTITIONS)]
            while True:
                if worker.poll() is not None:
                    message = f"the worker ended with {worker.returncode}"
                    raise SystemExit(message)
                try:
                    committed = await admin.list_consumer_group_offsets(settings.worker.app_id, partitions=tps)
                except GroupCoordinatorNotAvailableError:  # a new cluster has none before its first member
                    await asyncio.sleep(0.05)
                    continue
                ends = await consumer.end_offsets(tps)
                done = {tp: max(at.offset, 0) for tp, at in committed.items()}
                first = [tp for tp in tps if tp.topic == sources[0]]
                yield sum(done.get(tp, 0) for tp in first) / max(sum(ends[tp] for tp in first), 1)
                if all(done.get(tp, 0) >= ends[tp] for tp in tps):
                    return
                await asyncio.sleep(0.02)
    finally:
        await admin.close()


if __name__ == "__main__":
    sys.exit(main())
