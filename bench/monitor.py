"""What the deferral monitor costs: a part of the suite, and ``python -m bench.monitor`` alone.

- ``monitor_tick_ms``: a tick with 1,000 deadlines due among 1,000,000 open deferrals of one partition: look up, decide,
  encode, write to the store. Without the broker: its transaction costs the same as that of any small batch;
- ``monitor_idle_tick_ms``: the same with nothing due;
- ``monitor_open_s``: to open that partition after a restart;
- ``monitor_reindex_s``: the same after a change of the policies. Each of these figures with ``_cpu`` is processor time
  only, which a busy machine hardly changes;
- ``deferrals_resolved_s``: 100,000 raised deferrals of four partitions end at once, in a real worker with a real
  broker: from the first end that is sent to the last ``resolved`` that a ``read_committed`` reader can see;
- ``monitor_cost_percent``: how much longer a real worker takes for the same ``mail.events``, 5 % of the messages
  deferred, than a worker that sends the monitor nothing; ``monitor_cost_cpu_percent``: the same in processor time.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from bench import workers
from bench.figures import Figures, growth_percent
from bench.ground import Ground
from bench.racing import Running
from deploy.local.broker import Broker
from streams import records, topics
from streams.agents.monitor import Monitor
from streams.collectors import OpenDeferrals
from streams.domain.deferrals import Deferral, Episode, observe
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.status import Status
from streams.kafka.lanes import Effects
from streams.kafka.store import Budget, Changes, Store, open_store
from streams.policies import policies_of
from streams.settings import Settings

PARTITIONS: Final = 4
OPEN: Final = 1_000_000
DUE: Final = 1_000
TICKS: Final = 7
RESOLVED: Final = 100_000
MESSAGES: Final = 300_000
"""Enough for half a minute, so that the half second in which the monitor collects its last records is negligible."""
DEFERRED_SHARE: Final = 0.05
SECOND: Final = 1_000_000
BEGAN: Final = 1_790_000_000 * SECOND
UNMONITORED: Final = [
    sys.executable,
    "-c",
    """
import sys
from streams.__main__ import main
from streams.domain import deferrals
deferrals.is_news = lambda *_: False
sys.argv = ["mailstreams", "worker"]
sys.exit(main())
""",
]
"""A worker whose ``track`` sends nothing to the monitor."""


def main() -> int:
    """Measure, and print ``figure=value`` lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of monitor_cost_percent, interleaved (default 3)")
    parser.add_argument("--open", type=int, default=OPEN, help="open deferrals (default 1,000,000)")
    parser.add_argument("--only", choices=["store", "resolve", "cost"], help="one part")
    chosen = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each partition whose leader comes a moment late
    figures = Figures()
    if chosen.only in {None, "store"}:
        asyncio.run(of_the_store(figures, chosen.open))
    if chosen.only != "store":
        asyncio.run(_of_the_worker(figures, chosen.only, chosen.rounds))
    for figure in figures.all():
        print(figure.line)
    return 0


async def _of_the_worker(figures: Figures, only: str | None, rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="mailstreams-bench-") as folder,
        Broker(Path(folder) / "kafka") as broker,
    ):
        ground = Ground(broker, Path(folder), PARTITIONS, Settings().kafka.compression_type.value)
        if only in {None, "resolve"}:
            await of_resolving(figures, ground, print)
        if only in {None, "cost"}:
            await of_the_stage(figures, ground, rounds, print)


# --- a partition with a million open deferrals ---------------------------------------------------------------------------


async def of_the_store(figures: Figures, count: int) -> None:
    """Measure ticks and the opening of a partition; a count other than a million is part of the figures' names."""
    suffix = "" if count == OPEN else f"_at_{count // 1_000}k"

    def add(name: str, unit: str, took: tuple[float, float], scale: float = 1) -> None:
        for kind, seconds in zip(("", "_cpu"), took, strict=True):
            figures.add(f"monitor_{name}{kind}_{unit}{suffix}", seconds * scale)

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
        for number in range(TICKS):
            now = BEGAN + warn_after + (number * DUE + DUE - 1) * SECOND
            tick = Took()
            effects = _tick(monitor, store, now)
            add("tick", "ms", tick.stop(), 1e3)
            assert sum(map(len, effects.outputs.values())) == DUE
        idle = Took()
        _tick(monitor, store, now)
        add("idle_tick", "ms", idle.stop(), 1e3)
        add("open", "s", opened)
        other = replace(monitor, policies=policies_of(_with_window(settings)))
        reindexing = Took()
        await other.opened(0, store)
        add("reindex", "s", reindexing.stop())
        store.close()


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
        held=lambda _provider, _partition: False,
        gauges=OpenDeferrals(
            "mailstreams", ("raised", "escalated", "overdue"), CollectorRegistry(), given_up="overdue"
        ),
    )


def _with_window(settings: Settings) -> Settings:
    return settings.model_copy(update={"deferrals": settings.deferrals.model_copy(update={"warn_after_s": 1800.0})})


def _open(folder: Path) -> Store:
    budget = Budget(cache_bytes=64 << 20, write_buffer_bytes=64 << 20)
    return open_store(folder / "open-deferrals-0", budget, on_rebuild=print)


def _fill(store: Store, monitor: Monitor, count: int) -> None:
    """Write open deferrals, one for each second, as they are after a restart."""
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


async def of_resolving(figures: Figures, ground: Ground, tell: Callable[[str], None]) -> None:
    """Measure how soon a hundred thousand raised deferrals are resolved when all of them end."""
    warned_soon = {"MAILSTREAMS_DEFERRALS__WARN_AFTER_S": "1"}
    async with workers.deployed(ground, "resolving", more=warned_soon) as deployment:
        long_ago = datetime.now(UTC) - timedelta(hours=2)
        with deployment.worker() as worker:
            await deployment.put_events(_encoded(_event(n, EventType.DEFERRED, long_ago) for n in range(RESOLVED)))
            await _until(ground, RESOLVED, worker)
            began = time.monotonic()
            now = datetime.now(UTC)
            await deployment.put_events(_encoded(_event(n, EventType.DELIVERED, now) for n in range(RESOLVED)))
            sent = time.monotonic()
            await _until(ground, 2 * RESOLVED, worker)
            figures.add("deferrals_resolved_s", time.monotonic() - began)
            tell(f"{RESOLVED:,} ends, sent within {sent - began:.1f} s, are all resolved")


async def of_the_stage(figures: Figures, ground: Ground, rounds: int, tell: Callable[[str], None]) -> None:
    """Measure how much monitoring 5 % deferred messages costs the status stage."""
    for number in range(rounds):
        flows = {}
        for name, command in (("monitored", workers.COMMAND), ("unmonitored", UNMONITORED))[:: 1 if number % 2 else -1]:
            events = list(_encoded(_traffic(datetime.now(UTC))))
            flows[name] = await workers.monitored(ground, f"{name}-{number}", events, command)
        with_it, without = flows["monitored"], flows["unmonitored"]
        tell(
            f"monitored {with_it.events_per_s:,.0f} events/s, {with_it.cpu_us:.1f} us each; "
            f"not {without.events_per_s:,.0f}, {without.cpu_us:.1f} us"
        )
        figures.add("monitor_cost_percent", growth_percent(with_it.events_per_s, without.events_per_s))
        figures.add("monitor_cost_cpu_percent", growth_percent(without.cpu_us, with_it.cpu_us))


def _traffic(now: datetime) -> Iterator[DeliveryEvent]:
    """Yield ``sent`` and ``delivered`` for each message; one in twenty is deferred twice in between."""
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


def _encoded(events: Iterable[DeliveryEvent]) -> Iterator[tuple[bytes, bytes]]:
    for event in events:
        yield event.delivery_id.encode(), records.encode_event(event, "mail.raw.sendgrid/0/0")


async def _until(ground: Ground, alerts: int, worker: Running) -> None:
    """Wait until a ``read_committed`` reader has seen this many alerts."""
    async with AIOKafkaConsumer(
        bootstrap_servers=ground.bootstrap, isolation_level="read_committed", max_partition_fetch_bytes=8 << 20
    ) as consumer:
        tps = [TopicPartition(topics.DEFERRAL_ALERTS, p) for p in range(ground.partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        seen = 0
        while seen < alerts:
            worker.check()
            seen += sum(map(len, (await consumer.getmany(timeout_ms=50)).values()))


if __name__ == "__main__":
    sys.exit(main())
