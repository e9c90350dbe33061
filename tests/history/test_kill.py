"""The history as a process, on a real broker: kill -9 anywhere leaves the database equal to the model."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.local import ports
from deploy.local.broker import Broker
from streams import codecs, topics
from streams.history import projection, schema
from streams.history.database import Database
from streams.kafka.partitioner import partition_of
from streams.settings import Settings
from tests.broker import harness
from tests.history.support import Kept, Log, event, settings_for, sqlite_url
from tests.history.world import model_of, rows_of

PARTITIONS = 2
KILLS = 20
DELIVERIES = 1500
NOBODY = "127.0.0.1:9"
"""Nothing listens there."""


class Process:
    """``mailstreams history``, to be killed."""

    def __init__(self, bootstrap: str, folder: Path, **more: str) -> None:
        self.port, self.admin_port = ports.find(2)
        self.log = folder / "history.log"
        self.url = sqlite_url(folder)
        self.environment = {
            "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "MAILSTREAMS_TOPICS__PARTITIONS": str(PARTITIONS),
            "MAILSTREAMS_HISTORY__PORT": str(self.port),
            "MAILSTREAMS_HISTORY__ADMIN_PORT": str(self.admin_port),
            "MAILSTREAMS_HISTORY__DATABASE_URL": self.url,
            "MAILSTREAMS_HISTORY__BATCH_RECORDS": "100",
        } | more
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "streams", "history", *arguments],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child is not None and self.child.poll() is None:
            self.kill()

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait()

    def stop(self) -> int:
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(30)

    def get(self, port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while self.get(self.admin_port, "/readyz")[0] != 200:
            assert self.child is not None
            assert self.child.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.1)

    def offsets(self) -> int:
        """Return how far it is, all partitions together."""
        engine = sa.create_engine(self.url)
        try:
            with engine.connect() as connection:
                return int(connection.scalar(sa.text("SELECT sum(next_offset) FROM offsets")) or 0)
        except sa.exc.OperationalError:  # it has not made its tables yet
            return 0
        finally:
            engine.dispose()


def log_of(seed: int, deliveries: int, prefix: str = "") -> Log:
    """Return shuffled, repeated, disordered events of many deliveries, and some alerts."""
    chance = random.Random(seed)
    log = Log()
    for number in range(deliveries * 4):
        one, told = chance.randrange(deliveries), chance.randrange(number + 1)
        log.tell(
            event(
                chance.choices(["sent", "deferred", "delivered", "open", "bounce", "dropped"], [3, 2, 4, 2, 1, 1])[0],
                at=chance.randrange(7000),
                message_id=f"{prefix}{seed}-{one}",
                recipient=f"payer{one}@customer{one % 97}.example",
                reference=f"INV-{one % 50}" if told % 3 else None,  # what is told again is the same again
                event_id=f"e{told}",
                reason="451 4.7.1 come back later",
            )
        )
        if chance.random() < 0.02:
            level = chance.choice(["raised", "escalated", "resolved"])
            log.alert(
                f"{next(reversed(log.known))}",
                level,
                outcome="expired" if level == "resolved" else None,
                id=f"{prefix}{seed:08x}{number:016x}",
            )
    return log


async def fill(broker: Broker, log: Log) -> None:
    for (topic, _), rows in log.take().items():
        sent: list[tuple[int, bytes, bytes | None, list[tuple[str, bytes]]]] = []
        for _, value in rows:
            key = codecs.decode(value or b"")["delivery_id"].encode()
            sent.append((partition_of(key, PARTITIONS), key, value, []))
        await harness.send(broker, topic, sent)


class Load:
    """Puts records in for as long as it runs, in transactions, of which some are aborted: nobody may see those."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._chance = random.Random(8)
        self.committed = 0
        self.aborted: set[str] = set()
        """Deliveries of which only aborted transactions tell."""

    async def run(self, stop: asyncio.Event) -> None:
        """Go on until told, and until all that was to be sent is."""
        seed = 0
        async with AIOKafkaProducer(
            bootstrap_servers=self._broker.bootstrap, transactional_id="tests-history-load", linger_ms=5
        ) as producer:
            while not stop.is_set() or seed < KILLS:
                aborts = seed % 4 == 3
                log = log_of(
                    seed if seed < KILLS else 1000 + seed, DELIVERIES // KILLS, prefix="aborted" if aborts else ""
                )
                # topic beside topic in any order: an alert may come before its status, and an event after it
                waiting = {topic: [value for _, value in found] for (topic, _), found in log.take().items()}
                order = [topic for topic, found in waiting.items() for _ in found]
                self._chance.shuffle(order)
                rows = [(topic, waiting[topic].pop(0)) for topic in order]
                await producer.begin_transaction()
                for number, (topic, value) in enumerate(rows):
                    key = codecs.decode(value or b"")["delivery_id"].encode()
                    await producer.send(topic, value, key, partition_of(key, PARTITIONS))
                    if number % 50 == 0:  # at a pace at which kills fall between
                        await asyncio.sleep(self._chance.random() * 0.1)
                if aborts:
                    await producer.flush()  # they are in the topic, and only the marker says that they do not count
                    await producer.abort_transaction()
                    self.aborted |= log.known.keys()
                else:
                    await producer.commit_transaction()
                    self.committed += 1
                seed += 1


async def all_records(broker: Broker) -> dict[str, list[bytes | None]]:
    found: dict[str, list[bytes | None]] = {}
    for topic in projection.TOPICS:
        by_partition = await harness.read_all(broker, topic, PARTITIONS)
        found[topic] = [record.value for records in by_partition.values() for record in records]
    return found


async def ends_of(broker: Broker) -> dict[projection.Partition, int]:
    """Return where each partition ends, markers of transactions included; those that begin there are left out."""
    every = [TopicPartition(topic, number) for topic in projection.TOPICS for number in range(PARTITIONS)]
    async with AIOKafkaConsumer(
        *projection.TOPICS, bootstrap_servers=broker.bootstrap, group_id=None, isolation_level="read_committed"
    ) as consumer:
        ends = await consumer.end_offsets(every)
    return {(each.topic, each.partition): end for each, end in ends.items() if end}


def settings_at(broker: Broker, process: Process) -> Settings:
    return settings_for(process.url, KAFKA__BOOTSTRAP_SERVERS=broker.bootstrap, TOPICS__PARTITIONS=str(PARTITIONS))


async def caught_up(process: Process, broker: Broker, timeout_s: float = 120) -> None:
    end = sum((await ends_of(broker)).values())
    deadline = time.monotonic() + timeout_s
    while process.offsets() < end:
        assert process.child is not None
        assert process.child.poll() is None, process.log.read_text()[-2000:]
        assert time.monotonic() < deadline, f"{process.offsets()} of {end}"
        await asyncio.sleep(0.1)


async def test_after_twenty_kills_under_load_the_database_is_the_models(own_broker: Broker, tmp_path: Path) -> None:
    process = Process(own_broker.bootstrap, tmp_path)
    await topics.create(settings_at(own_broker, process))
    chance = random.Random(3)
    load, enough = Load(own_broker), asyncio.Event()
    loading = asyncio.create_task(load.run(enough))
    moved, loaded = 0, 0
    try:
        for _ in range(KILLS):
            process.start()
            began, before = time.monotonic(), process.offsets()
            while process.offsets() == before and time.monotonic() - began < 30:
                assert not loading.done() or loading.exception() is None
                await asyncio.sleep(0.01)  # into the work, not into the start
            await asyncio.sleep(chance.random() * 0.3)
            loaded += not loading.done()
            process.kill()
            moved += process.offsets() > before
        enough.set()
        await loading
        process.start()
        await caught_up(process, own_broker)
        process.wait_ready()
        assert process.stop() == 0
    finally:
        loading.cancel()
        if process.child is not None and process.child.poll() is None:
            process.kill()
    assert moved >= KILLS // 2, "the kills fell into its work"
    assert loaded == KILLS, "records came all the time"
    assert load.committed > KILLS // 2
    assert len(load.aborted) > KILLS
    database = Database(process.url, query_timeout_s=60)
    database.open()
    with database.read() as connection:
        model = model_of(await all_records(own_broker))
        rows = rows_of(connection)
        assert rows == model
        assert projection.read_offsets(connection) == await ends_of(own_broker)
        assert len(model["deliveries"]) > 1000
        assert not load.aborted & rows["deliveries"].keys()
    database.close()


async def test_while_the_broker_is_away_the_pages_stay_and_afterwards_it_goes_on(
    own_broker: Broker, tmp_path: Path
) -> None:
    """aiokafka lets a cancellation of its own escape when a consumer is stopped while connections are refused."""
    with Process(own_broker.bootstrap, tmp_path) as process:
        await topics.create(settings_at(own_broker, process))
        await fill(own_broker, log_of(1, 50))
        process.start()
        await caught_up(process, own_broker)
        own_broker.kill()
        deadline = time.monotonic() + 60
        while "waiting for the broker" not in process.log.read_text():
            assert process.child is not None
            assert process.child.poll() is None, process.log.read_text()[-2000:]
            assert time.monotonic() < deadline, process.log.read_text()[-2000:]
            await asyncio.sleep(0.2)
        assert process.get(process.admin_port, "/readyz")[0] == 200
        assert process.get(process.port, "/")[0] == 200
        own_broker.start()
        await fill(own_broker, log_of(2, 50))
        await caught_up(process, own_broker)
        assert process.stop() == 0


def rebuild(process: Process, option: str = "--yes") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "streams", "history", "rebuild", option],
        env={**os.environ, **process.environment},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_a_rebuild_makes_the_same_from_the_topics(own_broker: Broker, tmp_path: Path) -> None:
    with Process(own_broker.bootstrap, tmp_path) as process:
        await topics.create(settings_at(own_broker, process))
        await fill(own_broker, log_of(1, 300))
        process.start()
        await caught_up(process, own_broker)
        refused = rebuild(process)
        assert refused.returncode == 1
        assert "stop that one first" in refused.stderr
        assert process.stop() == 0
    engine = sa.create_engine(process.url)
    with engine.begin() as connection:
        before = rows_of(connection)
        connection.execute(sa.text("UPDATE deliveries SET status = 'lost'"))
        connection.execute(sa.text("DELETE FROM events"))
    engine.dispose()
    done = rebuild(process)
    assert done.returncode == 0, done.stderr
    database = Database(process.url, query_timeout_s=60)
    database.open()
    with database.read() as connection:
        assert rows_of(connection) == before == model_of(await all_records(own_broker))
    database.close()


async def test_a_database_that_knows_nothing_of_mail_status_catches_up_by_itself(
    own_broker: Broker, tmp_path: Path
) -> None:
    """Versions before this one did not read it."""
    with Process(own_broker.bootstrap, tmp_path) as process:
        await topics.create(settings_at(own_broker, process))
        log = log_of(1, 300)
        found = {topic: rows for (topic, _), rows in log.rows.items() if topic != topics.STATUS}
        await fill(own_broker, log)
        model, ends = model_of(await all_records(own_broker)), await ends_of(own_broker)
        database = Database(process.url, query_timeout_s=60)
        database.open()
        Kept(database).apply({(topic, 0): rows for topic, rows in found.items()})
        with database.write() as connection:
            assert rows_of(connection) != model
            connection.execute(sa.delete(schema.offsets))
            connection.execute(
                sa.insert(schema.offsets),
                [
                    {"topic": topic, "partition": partition, "next_offset": end}
                    for (topic, partition), end in ends.items()
                    if topic != topics.STATUS
                ],
            )
        database.close()
        process.start()
        await caught_up(process, own_broker)
        assert process.stop() == 0
    database.open()
    with database.read() as connection:
        assert rows_of(connection) == model
    database.close()


def rows_after_a_rebuild_that_cannot_begin(process: Process, status: int, why: str) -> bool:
    """Run a rebuild that ends so, and return whether all is in the database that was before."""
    database = Database(process.url, query_timeout_s=60)
    database.open()
    Kept(database).apply(log_of(2, 20).take())
    with database.read() as connection:
        before = rows_of(connection), projection.read_offsets(connection)
    database.close()
    done = rebuild(process)
    assert done.returncode == status, done.stderr
    assert why in done.stderr
    database = Database(process.url, query_timeout_s=60)
    database.open()
    with database.read() as connection:
        after = rows_of(connection), projection.read_offsets(connection)
    database.close()
    return bool(before[0]["deliveries"]) and after == before


def test_a_rebuild_deletes_nothing_where_no_broker_answers(tmp_path: Path) -> None:
    assert rows_after_a_rebuild_that_cannot_begin(Process(NOBODY, tmp_path), 3, NOBODY)


async def test_a_rebuild_deletes_nothing_where_a_topic_is_missing(own_broker: Broker, tmp_path: Path) -> None:
    process = Process(own_broker.bootstrap, tmp_path)
    assert await asyncio.to_thread(rows_after_a_rebuild_that_cannot_begin, process, 1, "mail.")


async def test_without_the_broker_the_pages_show_what_is_known(tmp_path: Path) -> None:
    process = Process(NOBODY, tmp_path)
    process.start()
    try:
        deadline = time.monotonic() + 60
        while process.get(process.port, "/")[0] != 200:
            assert time.monotonic() < deadline, process.log.read_text()[-2000:]
            await asyncio.sleep(0.1)
        assert "New events do not arrive just now" in process.get(process.port, "/")[1]
        status, why = process.get(process.admin_port, "/readyz")
        assert (status, why) == (503, "no broker has answered yet\n")
        assert process.get(process.admin_port, "/livez")[0] == 200
        assert process.stop() == 0
    finally:
        if process.child is not None and process.child.poll() is None:
            process.kill()


async def test_a_history_that_is_ahead_of_its_topics_refuses_to_go_on_and_can_keep_what_they_lost(
    own_broker: Broker, tmp_path: Path
) -> None:
    process = Process(own_broker.bootstrap, tmp_path)
    await topics.create(settings_at(own_broker, process))
    kept, lost = log_of(1, 50), log_of(2, 50)
    told = {topic: [value for _, value in [*rows, *lost.rows[topic, 0]]] for (topic, _), rows in kept.rows.items()}
    database = Database(process.url, query_timeout_s=60)
    database.open()
    Kept(database).apply(kept.rows)
    Kept(database, {(topic, 0): rows[-1][0] + 1 for (topic, _), rows in kept.rows.items()}).apply(lost.take())
    database.close()
    await fill(own_broker, kept)
    process.start()
    assert process.child is not None
    assert process.child.wait(60) == 2
    assert "mailstreams history rebuild --keep" in process.log.read_text()
    done = rebuild(process, "--keep")
    assert done.returncode == 0, done.stderr
    database.open()
    with database.read() as connection:
        assert rows_of(connection) == model_of(told)
        assert projection.read_offsets(connection) == await ends_of(own_broker)
    database.close()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"MAILSTREAMS_HISTORY__HOST": "0.0.0.0"}, "nobody has to prove who they are"),
        ({"MAILSTREAMS_HISTORY__DATABASE_URL": "sqlite:////proc/none/history.db"}, "the database cannot be used"),
        ({"MAILSTREAMS_HISTORY__DATABASE_URL": "postgresql://u:hidden@127.0.0.1:9/x"}, "the database cannot be used"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(more: dict[str, str], why: str, tmp_path: Path) -> None:
    process = Process(NOBODY, tmp_path, **more)
    process.start()
    assert process.child is not None
    assert process.child.wait(60) == 2
    (line,) = [line for line in process.log.read_text().splitlines() if "error" in line]
    assert why in line
    assert "hidden" not in process.log.read_text()
