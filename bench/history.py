"""The performance of the Sending History: ``python -m bench --history``, or alone ``python -m bench.history``.

- ``history_records_per_s``: ``mailstreams history``, on one core if the machine has two, reads the topics into
  SQLite: records of all topics a second, from the first transaction to the last;
- ``history_cpu_us_per_record``: the processor time of that, which a busy machine hardly changes;
- ``history_lag_p99_ms``: 2,000 events a second arrive, with the status changes that they cause; the time from sending
  a record until a reader of the database can see it;
- ``history_first_page_ms``: the first page and pages by status, provider and account among 1,000,000 deliveries, over
  HTTP, 99th percentile;
- ``history_search_ms``: the search by recipient and by reference, complete or by prefix, measured the same way;
- ``history_search_recipient_ms``: the search by recipient alone;
- ``history_small_account_ms``: lists and searches of an account with ten deliveries, all old;
- ``history_rare_filter_ms``: lists by a provider, and by a status of a provider, with only ten deliveries.
"""

import argparse
import asyncio
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer
from aiokafka import AIOKafkaProducer

from bench.figures import percentile
from bench.traffic import bodies_of
from deploy.local import ports
from deploy.local.broker import Broker
from streams import codecs, records, topics
from streams.domain.events import delivery_id
from streams.domain.status import Delivery, fold
from streams.history import projection
from streams.history.database import Database
from streams.history.service import build
from streams.kafka.partitioner import partition_of
from streams.providers import PROVIDERS, WebhookRequest
from streams.settings import Settings, load

PARTITIONS: Final = 4
EVENTS_PER_S: Final = 2_000
RUN_S: Final = 15.0
STEP_S: Final = 0.02
REQUESTS: Final = 300
_WARM_UP: Final = 20
_AT_ONCE: Final = 5_000
_STATUSES: Final = {"sent": 2, "delivered": 60, "opened": 30, "bounced": 4, "deferred": 2, "dropped": 2}
_RARE: Final = 10
"""Deliveries of the small account, and of the rare provider; the oldest ones."""

Row = tuple[str, bytes, bytes]
"""Topic, key and value."""
Tell = Callable[[str], None]


async def measure(broker: Broker, folder: Path, *, events: int, deliveries: int, tell: Tell) -> dict[str, float]:
    """Return the figures.

    Args:
        broker: Running, without topics of these names.
        folder: For databases.
        events: Number of events read for the first figure.
        deliveries: Number of deliveries in the database for pages and searches.
        tell: Called with each step.
    """
    tell("making events and what becomes of them")
    rows = list(rows_of(events + round(EVENTS_PER_S * RUN_S)))
    split = next(
        number for number, row in enumerate(rows) if number > len(rows) * events / (events + EVENTS_PER_S * RUN_S)
    )
    database = folder / "read.db"
    environment = environment_of(broker, database)
    await topics.create(load(environment=environment))
    found: dict[str, float] = {}
    await _send(broker, rows[:split])
    tell(f"reading {split:,} records")
    pin = ["taskset", "-c", "1"] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []
    child = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop
        [*pin, sys.executable, "-m", "streams", "history"], env={**os.environ, **environment}
    )
    try:
        found |= await _time_reading(database, psutil.Process(child.pid), split)
        tell(f"{EVENTS_PER_S:,} events a second for {RUN_S:g} s")
        found["history_lag_p99_ms"] = await _lag_p99_ms(broker, database, rows[split:])
    finally:
        child.terminate()
        child.wait(30)
    tell(f"making {deliveries:,} deliveries")
    found |= await asked(folder / "asked.db", deliveries, tell)
    return found


def environment_of(broker: Broker, database: Path) -> dict[str, str]:
    """Return the settings of a history on this broker."""
    port, admin_port = ports.find(2)
    return {
        "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "MAILSTREAMS_TOPICS__PARTITIONS": str(PARTITIONS),
        "MAILSTREAMS_HISTORY__DATABASE_URL": f"sqlite:///{database}",
        "MAILSTREAMS_HISTORY__PORT": str(port),
        "MAILSTREAMS_HISTORY__ADMIN_PORT": str(admin_port),
        "MAILSTREAMS_WORKER__LOG_LEVEL": "warning",
    }


def rows_of(events: int) -> Iterator[Row]:
    """Yield events, each followed by the change of status that it causes, if any, as a worker writes them."""
    normalise, keys = PROVIDERS["sendgrid"].normalise, Settings().delivery.reference_keys
    known: dict[str, Delivery] = {}
    for body in bodies_of(1, events // 10, 10):
        for event in normalise(WebhookRequest(body, {}, "https://hooks.example.net/", "acme", datetime.now(UTC), keys)):
            name = event.delivery_id
            key, old = name.encode(), known.get(name)
            yield topics.EVENTS, key, records.encode_event(event, "bench/0/0", delivery_id=name)
            new = fold(old, event, delivery_id=name).delivery
            if new is not None and (old is None or new.change.revision != old.change.revision):
                yield topics.STATUS_CHANGED, key, records.encode_status(new, support_contact=None, warn_after_us=10**9)
            if new is not None:
                known[name] = new


async def _send(broker: Broker, rows: Sequence[Row]) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, enable_idempotence=True, max_batch_size=900 << 10, linger_ms=20
    ) as producer:
        last: asyncio.Future[Any] | None = None
        for topic, key, value in rows:
            last = await producer.send(topic, value, key, partition_of(key, PARTITIONS))
        await producer.flush()
        if last is not None:
            await last


async def _time_reading(database: Path, child: psutil.Process, total: int) -> dict[str, float]:
    """Return records a second and processor time per record, without the start of the process."""
    began, spent, seen = 0.0, 0.0, 0
    with _reader(database) as read:
        while True:
            done, now, times = sum(read().values()), time.monotonic(), child.cpu_times()
            if done and not began:
                began, spent, seen = now, times.user + times.system, done
            if done >= total:
                return {
                    "history_records_per_s": (total - seen) / (now - began),
                    "history_cpu_us_per_record": (times.user + times.system - spent) / (total - seen) * 1e6,
                }
            await asyncio.sleep(0.01)


async def _lag_p99_ms(broker: Broker, database: Path, rows: Sequence[Row]) -> float:
    """Send at a constant rate, poll the database meanwhile, and compare."""
    sent: dict[tuple[str, int], list[tuple[int, float]]] = {}
    lags: list[float] = []
    per_s = len(rows) / RUN_S
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True, linger_ms=5) as producer:

        async def tell_all() -> None:
            began, number = time.monotonic(), 0
            while number < len(rows):
                due = round((time.monotonic() - began) * per_s)
                waiting = [
                    (topic, partition_of(key, PARTITIONS), time.monotonic(), await producer.send(topic, value, key))
                    for topic, key, value in rows[number:due]
                ]
                number = max(number, due)
                for topic, partition, at, future in waiting:
                    offset = (await future).offset
                    sent.setdefault((topic, partition), []).append((offset, at))
                await asyncio.sleep(STEP_S)

        telling = asyncio.create_task(tell_all())
        with _reader(database) as read:
            while not telling.done() or any(sent.values()):
                positions, now = read(), time.monotonic()
                for partition, waiting in sent.items():
                    while waiting and waiting[0][0] < positions.get(partition, 0):
                        lags.append(now - waiting.pop(0)[1])
                await asyncio.sleep(STEP_S / 4)
        await telling
    return percentile(sorted(lags), 0.99) * 1000


class _reader:  # noqa: N801 - reads as a function with `with`
    """Reads how far the history is."""

    def __init__(self, database: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{database}")

    def __enter__(self) -> Callable[[], dict[tuple[str, int], int]]:
        return self._read

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def _read(self) -> dict[tuple[str, int], int]:
        try:
            with self._engine.connect() as connection:
                return projection.read_offsets(connection)
        except sa.exc.OperationalError:  # it has not made its tables yet
            return {}


async def asked(database: Path, deliveries: int, tell: Tell) -> dict[str, float]:
    """Return how long pages and searches take with this many deliveries."""
    settings = load(environment={"MAILSTREAMS_HISTORY__DATABASE_URL": f"sqlite:///{database}"})
    store = Database(settings.history.database_url.get_secret_value())
    store.open()
    try:
        _fill(store, deliveries)
        store.tidy()
        tell(f"asking {REQUESTS} times for pages, and as often for what is searched")
        return await _ask(settings, store, deliveries)
    finally:
        store.close()


def _fill(store: Database, deliveries: int) -> None:
    chance = random.Random(5)
    positions: dict[projection.Partition, int] = {}
    batch: list[tuple[int, bytes | None]] = []
    for number in range(deliveries):
        batch.append((number, _status(number, deliveries, chance)))
        if len(batch) == _AT_ONCE or number == deliveries - 1:
            projection.apply(store, {(topics.STATUS_CHANGED, 0): batch}, positions)
            positions[topics.STATUS_CHANGED, 0] = number + 1
            batch = []


def _status(number: int, total: int, chance: random.Random) -> bytes:
    """Return a record of ``mail.status-changed`` with the fields that the history reads, of a realistic size."""
    status = chance.choices(list(_STATUSES), list(_STATUSES.values()))[0]
    at = (datetime.now(UTC) - timedelta(days=100 * (1 - number / total))).isoformat().replace("+00:00", "Z")
    recipient = _recipient(number)
    provider = "rare" if number < _RARE else ("sendgrid", "amazon_ses", "mailgun", "postmark")[number % 4]
    return codecs.encode(
        {
            "delivery_id": delivery_id("acme", provider, str(number), recipient),
            "revision": 1,
            "account": "small" if _RARE <= number < _RARE * 2 else "other" if number % 50 == 0 else "acme",
            "provider": provider,
            "message_id": f"{number:x}",
            "recipient": recipient,
            "reference": f"INV-{number:07}",
            "previous": None,
            "status": status,
            "bounce_kind": "hard" if status == "bounced" else None,
            "first_received_at": at,
            "received_at": at,
            "occurred_at": at,
            "reason": "250 2.0.0 OK: queued as 4711",
            "deferred_since": at if status == "deferred" else None,
            "attempts": 1,
            "cause_event_id": f"{number:032x}",
            "advice": {"code": "accepted", "meaning": "It was accepted. " * 8, "what_to_do": "Nothing. " * 8},
        }
    )


def _recipient(number: int) -> str:
    return f"payer{number * 7919 % 1_000_003}@customer{number % 9973}.example"


async def _ask(settings: Settings, store: Database, deliveries: int) -> dict[str, float]:
    chance = random.Random(6)
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as writer:
        built = build(settings, store, readers=readers, writer=writer)
        client: Any
        async with TestClient(TestServer(built.app, skip_url_asserts=True)) as client:

            async def timed(method: str, path: str, **more: Any) -> float:
                began = time.perf_counter()
                async with client.request(method, path, **more) as answer:
                    await answer.read()
                    if answer.status != 200:  # noqa: PLR2004 - HTTP's own
                        message = f"{path} was answered {answer.status}"
                        raise SystemExit(message)
                return time.perf_counter() - began

            async def times(asking: Callable[[], Awaitable[float]]) -> list[float]:
                return sorted([await asking() for _ in range(REQUESTS + _WARM_UP)][_WARM_UP:])

            def one_of(*paths: str) -> Callable[[], Awaitable[float]]:
                return lambda: timed("GET", chance.choice(paths))

            def searching(*kinds: str, **more: Any) -> Callable[[], Awaitable[float]]:
                def search() -> Awaitable[float]:
                    number = chance.randrange(deliveries)
                    kind, prefix = chance.choice(kinds), chance.random() < 0.5  # noqa: PLR2004 - one in two
                    text = _recipient(number) if kind == "recipient" else f"inv-{number:07}"
                    body = {kind: text[: 9 if kind == "recipient" else 8] if prefix else text, "prefix": prefix}
                    return timed("POST", "/api/v1/search", json=body | more)

                return search

            pages = ("/", "/", "/", "/?status=dropped", "/?status=bounced", "/?provider=mailgun", "/?account=other")
            first = await times(one_of(*pages))
            found = await times(searching("recipient", "reference"))
            recipient = await times(searching("recipient"))
            small = await times(one_of("/?account=small", "/?account=small&status=dropped", "/deferred?account=small"))
            small += await times(searching("recipient", "reference", account="small"))
            rare = await times(
                one_of("/?provider=rare", "/?provider=rare&status=delivered", "/?provider=rare&account=acme")
            )
    return {
        "history_first_page_ms": percentile(first, 0.99) * 1000,
        "history_first_page_p50_ms": statistics.median(first) * 1000,
        "history_search_ms": percentile(found, 0.99) * 1000,
        "history_search_p50_ms": statistics.median(found) * 1000,
        "history_search_recipient_ms": percentile(recipient, 0.99) * 1000,
        "history_small_account_ms": percentile(sorted(small), 0.99) * 1000,
        "history_rare_filter_ms": percentile(rare, 0.99) * 1000,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print ``figure=value`` lines."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--deliveries", type=int, default=1_000_000, metavar="N", help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mailstreams-bench-") as folder, Broker(Path(folder) / "kafka") as broker:
        figures = asyncio.run(
            measure(broker, Path(folder), events=chosen.events, deliveries=chosen.deliveries, tell=print)
        )
    for name, value in figures.items():
        print(f"{name}={value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
