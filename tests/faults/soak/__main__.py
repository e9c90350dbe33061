"""``make soak HOURS=1``: the real worker at half of what it can do, killed every five minutes; does anything grow?

First a backlog says what it can do on this machine. Then half of that goes in,
for hours; deliveries expire soon, so that the store reaches the size at which as
much goes as comes. At the end all has to expire, and the books have to be right:
nothing lost, nothing wrong, nothing told twice.

python -m tests.faults.soak --hours 0.2 --kill-every 60
"""

import argparse
import asyncio
import contextlib
import logging
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from deploy.local import ROOT, jars
from deploy.local.broker import Broker
from streams import topics
from streams.settings import Kafka, Settings
from tests.broker import harness
from tests.broker.harness import Record
from tests.faults import oracle
from tests.faults.origin import first_line
from tests.faults.soak import books
from tests.faults.soak.load import PER_BODY, TOPIC, Bodies, Load
from tests.faults.soak.samples import MEASURES, Sample, Table, plot, slope_of

PARTITIONS = 8
EXPIRE_AFTER_S = 120
"""A delivery is forgotten so soon after its last event."""
WARM_UP_S = 90.0
"""Of a process: until its write buffers and its read cache are full."""
SETTLED_S = 2.0 * EXPIRE_AFTER_S
"""Of the store, since the load began."""
SAMPLE_S = 10.0
PROGRESS_S = 60.0
BACKLOG = 100_000
"""Events that say what the worker can do."""
PATIENCE_S = 600.0
SETTINGS: dict[str, object] = {
    **{
        f"KAFKA__{name.upper()}": Kafka.model_fields[name].default
        for name in (
            "session_timeout_s",
            "heartbeat_interval_s",
            "request_timeout_s",
            "rebalance_timeout_s",
            "transaction_timeout_s",
            "commit_deadline_s",
        )
    },  # the product's own patience, not that of the tests
    "WORKER__STORE_CACHE_MB": 80,  # the write buffers count in it: what is left for reading fills at once
    "KAFKA__GROUP_INSTANCE_ID": "soak",  # it comes back under its name, without waiting for its session to end
}


class Soak:
    """One soak in a temporary folder; what stays is in ``results``."""

    def __init__(self, folder: Path, results: Path, *, kafka: str, seed: int) -> None:
        self.results = results
        self.broker = Broker(folder / "kafka", version=kafka)
        self._datadir = folder / "data"
        self._seed = seed
        self.samples: list[Sample] = []
        self.ready_s: list[float] = []
        """From each kill until the next process had its partitions."""
        self.crashes = 0
        """How often the worker ended by itself."""
        self.events_per_s = 0.0
        """What went in."""
        self._life = 0
        self._ready_at = 0.0

    async def open(self) -> None:
        """Start the broker and make the topics."""
        await asyncio.to_thread(self.broker.start, timeout_s=PATIENCE_S)
        self.settings: Settings
        self.settings, environment = harness.settings_for(self.broker, self._datadir, SETTINGS, partitions=PARTITIONS)
        await topics.create(self.settings)
        self.worker = harness.WorkerProcess(
            {**environment, "EXPIRE_AFTER_S": str(EXPIRE_AFTER_S)},
            self.results / "worker.log",
            (sys.executable, "-m", "tests.faults.worker"),
        )
        self.bodies = Bodies(self._seed)
        self.load = Load(self.broker.bootstrap, self.settings, self.bodies)

    async def close(self) -> None:
        """End what runs."""
        if self.worker_runs:
            await asyncio.to_thread(self.worker.kill)
        await asyncio.to_thread(self.broker.stop)

    @property
    def worker_runs(self) -> bool:
        return hasattr(self, "worker") and self.worker.process is not None and not self.worker.ended()

    async def capacity(self) -> float:
        """Return how many events a second the worker takes from a backlog."""
        await self.load.put(BACKLOG // PER_BODY)
        await self._start()
        began = time.monotonic()
        await self._caught_up()
        took = time.monotonic() - began
        status = await asyncio.to_thread(
            self.worker.stop, 60
        )  # what a backlog took of memory is not what a life begins with
        assert status == 0, f"the worker stopped with {status}"
        self._life = 0
        await self._start()
        return self.load.sent * PER_BODY / took

    async def run(self, seconds: float, events_per_s: float, kill_every_s: float) -> None:
        """Let the load flow; kill, sample and say how it goes."""
        began, sent_before = time.monotonic(), self.load.sent
        loading = asyncio.create_task(self.load.run(events_per_s / PER_BODY))
        with (self.results / "soak.csv").open("w", newline="") as file:
            table = Table(file)
            next_kill = began + (kill_every_s or seconds + 1)
            next_sample = next_word = began
            while (now := time.monotonic()) < began + seconds:
                if loading.done():
                    loading.result()
                if not self.worker_runs:
                    await self._restart()
                if now >= next_kill:
                    next_kill += kill_every_s
                    await self._kill()
                if now >= next_sample:
                    next_sample += SAMPLE_S
                    with contextlib.suppress(OSError, psutil.Error):  # a busy worker that does not answer in 5 s
                        self.samples.append(await asyncio.to_thread(self._sample, now - began))
                        table.add(self.samples[-1])
                if now >= next_word and self.samples:
                    next_word += PROGRESS_S
                    print(_words(self.samples[-1], seconds, kills=len(self.ready_s)), flush=True)
                await asyncio.sleep(0.2)
        loading.cancel()
        await asyncio.wait([loading])
        self.events_per_s = (self.load.sent - sent_before) * PER_BODY / (time.monotonic() - began)

    async def judge(self) -> dict[str, int]:
        """Let everything come to rest and expire; return lost, wrong, repeated."""
        await self._caught_up()
        print(f"all is processed; waiting {EXPIRE_AFTER_S} s until everything has expired", flush=True)
        await asyncio.sleep(EXPIRE_AFTER_S)
        await self._at_rest()
        status = await asyncio.to_thread(self.worker.stop, 60)
        assert status == 0, f"the worker stopped with {status}"
        found = {"lost": 0, "wrong": 0, "repeated": 0}
        kept = sum(len(oracle._stored([self._datadir], table, PARTITIONS).rows) for table in oracle.TABLES)
        if kept:
            print(f"{kept} rows are left in the stores", flush=True)
            found["wrong"] += kept
        ids = books.Ids(self.bodies.events)
        async with self._consumer() as consumer:
            raw = await self._count(consumer, TOPIC)
            found["lost"] += max(0, self.load.sent - raw)
            dead = await self._count(consumer, topics.DEAD_LETTERS)
            found["wrong"] += dead
            for number in range(PARTITIONS):
                began = time.monotonic()
                partition = await self._book(consumer, number, ids)
                for kind, count in partition.differences():
                    found[kind] += count
                print(
                    f"[{number + 1}/{PARTITIONS}] {partition.events} events of {partition.deliveries} deliveries, "
                    f"{partition.changes} changes told: compared in {time.monotonic() - began:.0f} s",
                    flush=True,
                )
        found["lost"] += ids.missing
        found["wrong"] += ids.foreign
        return found

    async def _book(self, consumer: AIOKafkaConsumer, number: int, ids: books.Ids) -> books.Partition:
        warn_after_us = int(self.settings.deferrals.warn_after_s * 1_000_000)
        book = books.Partition(ids, warn_after_us=warn_after_us)
        for topic in (topics.EVENTS, topics.STATUS_CHANGED, topics.STATUS):
            async for record in _records(consumer, TopicPartition(topic, number)):
                assert record.key is not None
                if topic == topics.STATUS:
                    book.shown(record.key, record.value)
                else:
                    assert record.value is not None
                    (book.event if topic == topics.EVENTS else book.told)(record.key, record.value)
        return book

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self.broker.bootstrap,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=8 << 20,
        )

    async def _count(self, consumer: AIOKafkaConsumer, topic: str) -> int:
        tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        return sum(ends[tp] - begins[tp] for tp in tps)

    async def _start(self) -> None:
        self.worker.start()
        await asyncio.to_thread(self.worker.wait_ready, PATIENCE_S)
        self._life += 1
        self._ready_at = time.monotonic()

    async def _kill(self) -> None:
        began = time.monotonic()
        await asyncio.to_thread(self.worker.kill)
        await self._start()
        self.ready_s.append(time.monotonic() - began)

    async def _restart(self) -> None:
        """Start a worker again that ended by itself, as a supervisor does; that is no good sign."""
        self.crashes += 1
        print(f"the worker ended by itself: {_last_error(self.worker.output)}", flush=True)
        await self._start()

    async def _caught_up(self) -> None:
        sources = (TOPIC, topics.EVENTS)
        while True:
            await harness.caught_up(
                self.broker, self.settings, sources, PATIENCE_S, unless=lambda: not self.worker_runs
            )
            if self.worker_runs:
                return
            await self._restart()

    async def _at_rest(self) -> None:
        """Wait until nothing has expired for some seconds."""
        async with self._consumer() as consumer, asyncio.timeout(PATIENCE_S):
            before = -1
            while before != (before := await self._count(consumer, topics.STATUS)):
                await asyncio.sleep(5)

    def _sample(self, at_s: float) -> Sample:
        assert self.worker.process is not None
        process = psutil.Process(self.worker.process.pid)
        store = sum(_size(path) for path in self._datadir.rglob("*"))
        inside = str(self._datadir)
        tables = sum(one.path.startswith(inside) for one in process.open_files())
        return Sample(
            at_s=at_s,
            life=self._life,
            age_s=time.monotonic() - self._ready_at,
            rss_mb=process.memory_info().rss / (1 << 20),
            descriptors=process.num_fds() - tables,
            tables=tables,
            threads=process.num_threads(),
            tasks=int(self.worker.metric("mailstreams_asyncio_tasks")),
            store_mb=store / (1 << 20),
            lag=int(self.worker.metric("mailstreams_consumer_lag_records{")),
            sent=self.bodies.events,
        )


def _last_error(output: str) -> str:
    """Return why a worker ended, as it says it itself."""
    said = [line for line in output.splitlines() if "the worker ends" in line]
    return said[-1].partition("the worker ends: ")[2] if said else "it did not say why"


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # compaction deletes files under our eyes
        return path.stat().st_size if path.is_file() else 0
    return 0


async def _records(consumer: AIOKafkaConsumer, tp: TopicPartition) -> AsyncIterator[Record]:
    """Yield a partition's records up to its end now."""
    consumer.assign([tp])
    begin, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    consumer.seek(tp, begin)
    while begin < end and await consumer.position(tp) < end:
        for found in (await consumer.getmany(timeout_ms=200)).values():
            for record in found:
                yield record


def _words(sample: Sample, seconds: float, *, kills: int) -> str:
    return (
        f"[{sample.at_s / 60:.1f}/{seconds / 60:.1f} min] {sample.sent} events, lag {sample.lag}, "
        f"rss {sample.rss_mb:.0f} MiB, {sample.descriptors} descriptors, {sample.threads} threads, "
        f"{sample.tasks} tasks, store {sample.store_mb:.1f} MiB, {kills} kills"
    )


async def _soak(options: argparse.Namespace, folder: Path, results: Path, seed: int) -> bool:
    soak = Soak(folder, results, kafka=options.kafka, seed=seed)
    seconds = options.hours * 3600
    found: dict[str, int] = {}
    try:
        await soak.open()
        capacity = await soak.capacity()
        rate = options.rate or capacity / 2
        print(f"a backlog is worked off at {capacity:.0f} events/s; {rate:.0f} go in", flush=True)
        await soak.run(seconds, rate, options.kill_every)
        found = await soak.judge()
    finally:
        await soak.close()
        flat = _report(soak, options, found)
    return flat and not any(found.values())


def _report(soak: Soak, options: argparse.Namespace, found: dict[str, int]) -> bool:
    """Print what there is; return whether nothing grows and no worker ended by itself."""
    marks = {"warm_up_s": WARM_UP_S, "settled_s": SETTLED_S}
    slopes = {measure: slope_of(soak.samples, measure, **marks) for measure in MEASURES}
    if soak.samples:
        title = f"{soak.samples[-1].at_s / 3600:.2f} h, {soak.events_per_s:.0f} events/s, {len(soak.ready_s)} kills"
        plot(soak.samples, soak.results / "soak.svg", title, **marks)
    print(f"\n{'':12} {'mean':>10} {'an hour':>10} {'+-':>8} {'%/h':>8}")
    for measure, slope in slopes.items():
        print(
            f"{measure.name:12} {slope.mean:10.1f} {slope.per_hour:+10.1f} {slope.error:8.1f} "
            f"{slope.percent_per_hour:+8.1f} {slope.word}"
        )
    print(f"\n{soak.results}: soak.csv, soak.svg, worker.log")
    figures: dict[str, object] = {
        "soak_hours": f"{options.hours:g}",
        "soak_kills": len(soak.ready_s),
        "soak_crashes": soak.crashes,
    }
    if soak.events_per_s:
        figures |= {"soak_events_per_s": f"{soak.events_per_s:.0f}", "soak_events": soak.bodies.events}
    if soak.ready_s:
        figures |= {
            "soak_ready_s_p50": f"{statistics.median(soak.ready_s):.1f}",
            "soak_ready_s_max": f"{max(soak.ready_s):.1f}",
        }
    for measure, slope in slopes.items():
        if slope.word != "unknown":
            figures[f"soak_{measure.name}_mean"] = f"{slope.mean:.1f}"
            figures[f"soak_{measure.name}_per_hour"] = f"{slope.per_hour:.2f}"
        figures[f"soak_{measure.name}_verdict"] = slope.word
    if found:
        figures |= {f"soak_records_{kind}": count for kind, count in found.items()}
    print(*(f"{name}={value}" for name, value in figures.items()), sep="\n", flush=True)
    return not soak.crashes and not any(slope.word == "grows" for slope in slopes.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if nothing grows and the books are right, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description="Does anything grow?")
    parser.add_argument("--hours", type=float, default=1.0, help="fractions, too (default: %(default)s)")
    parser.add_argument("--rate", type=float, metavar="EVENTS/S", help="instead of half of what the worker can do")
    parser.add_argument(
        "--kill-every", type=float, default=300, metavar="S", help="0: never, for slow leaks (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="to repeat a run; printed at the beginning")
    parser.add_argument("--kafka", default=jars.asked_for(), metavar="VERSION", help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=ROOT / "var" / "soak", help="default: %(default)s")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 30) if options.seed is None else options.seed
    results = options.results / time.strftime("%Y%m%dT%H%M%S")
    results.mkdir(parents=True)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # our own clients find the leaders of new topics
    print(first_line(seed, options.kafka), flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="mailstreams-soak-") as folder:
            return 0 if asyncio.run(_soak(options, Path(folder), results, seed)) else 1
    except KeyboardInterrupt:
        print("interrupted: what is above is of what ran", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
