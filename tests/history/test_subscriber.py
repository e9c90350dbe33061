"""The subscriber beside a real broker: what it counts and says when the topics are not as it left them."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import (
    CorruptRecordException,
    KafkaConnectionError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
)
from prometheus_client import CollectorRegistry

from deploy.local.broker import Broker
from streams import topics
from streams.brokers import absence
from streams.history import projection, subscriber
from streams.history.database import Database
from streams.history.subscriber import Subscriber
from streams.kafka.closing import end
from streams.metrics import HistoryMetrics
from streams.settings import Settings
from tests.broker import harness
from tests.history.support import settings_for, sqlite_url

HEARD = "mailstreams_history_last_heard_timestamp_seconds"
PARTITION = TopicPartition(topics.EVENTS, 0)
LARGE = 600 << 10
"""Bytes of a record of which one fetch holds one."""


class Writer(ThreadPoolExecutor):
    """The writer, which waits before its first batch."""

    def __init__(self) -> None:
        super().__init__(1)
        self.reached, self.goes_on = threading.Event(), threading.Event()

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **more: Any) -> "Future[Any]":
        def held() -> Any:
            if work is projection.apply:
                self.reached.set()
                assert self.goes_on.wait(60)
            return work(*arguments, **more)

        return super().submit(held)


class Followed:
    """A subscriber, and what it did."""

    def __init__(self, settings: Settings, database: Database, writer: ThreadPoolExecutor) -> None:
        self.metrics = HistoryMetrics.create(CollectorRegistry(), version="0")
        self.database = database
        self.something, self.missed = asyncio.Event(), asyncio.Event()
        self.subscriber = Subscriber(
            settings,
            database=database,
            writer=writer,
            metrics=self.metrics,
            told=lambda _: self.something.set(),
            missed=self.missed.set,
            now=lambda: 1.0,
        )

    def position(self) -> int:
        with self.database.read() as connection:
            return projection.read_offsets(connection).get((PARTITION.topic, PARTITION.partition), 0)

    async def reads_to(self, end: int) -> None:
        async with asyncio.timeout(60):
            while self.position() < end:
                await self.something.wait()
                self.something.clear()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def counted(self, name: str, **labels: str) -> float:
        return self.value(name, topic=PARTITION.topic, **labels) or 0


@asynccontextmanager
async def followed(broker: Broker, folder: Path, writer: ThreadPoolExecutor) -> AsyncIterator[Followed]:
    settings = settings_for(
        sqlite_url(folder),
        KAFKA__BOOTSTRAP_SERVERS=broker.bootstrap,
        TOPICS__PARTITIONS="1",
        HISTORY__BATCH_RECORDS="1",
    )
    await topics.create(settings)
    database = Database(sqlite_url(folder))
    database.open()
    try:
        yield Followed(settings, database, writer)
    finally:
        database.close()


@pytest.mark.parametrize("rebuilds", [False, True])
async def test_records_that_retention_deletes_while_it_reads_are_counted_and_the_rest_is_read(
    own_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture, rebuilds: bool
) -> None:
    with Writer() as writer:
        async with followed(own_broker, tmp_path, writer) as one:
            await harness.send(own_broker, PARTITION.topic, [(0, None, os.urandom(LARGE), [])] * 10)
            cleared: list[None] = []
            task = asyncio.create_task(
                one.subscriber.catch_up(lambda _done, _total: None, before=lambda: cleared.append(None))
                if rebuilds
                else one.subscriber.run()
            )
            await asyncio.to_thread(writer.reached.wait, 60)
            async with topics.admin_client(one.subscriber._settings) as admin:
                await admin.delete_records({PARTITION: RecordsToDelete(9)})
            writer.goes_on.set()
            await one.reads_to(10)
            if rebuilds:
                await task
                assert len(cleared) == 1
            await end([task])
            skipped = one.counted("mailstreams_history_skipped_offsets_total")
            assert skipped > 0
            assert skipped + one.counted("mailstreams_history_records_total", outcome="malformed") == 10
            assert f"offsets of {PARTITION.topic}/0 are gone unread" in caplog.text


async def test_markers_of_transactions_that_retention_deletes_are_no_loss_and_a_true_gap_is_told_once(
    own_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partition = TopicPartition(topics.DEFERRAL_ALERTS, 0)

    async def read_to_the_end() -> tuple[float, int]:
        """Connect anew, and return what was counted as lost so far, and the offset in the database."""
        await one.subscriber.catch_up(lambda _done, _total: None)
        with one.database.read() as connection:
            stored = projection.read_offsets(connection)[partition.topic, partition.partition]
        return one.value("mailstreams_history_skipped_offsets_total", topic=partition.topic) or 0, stored

    async def send(*, aborted: bool) -> None:
        await producer.begin_transaction()
        await producer.send_and_wait(partition.topic, b"{}", partition=partition.partition)
        await (producer.abort_transaction() if aborted else producer.commit_transaction())

    async def delete_all() -> None:
        async with topics.admin_client(one.subscriber._settings) as admin:
            await admin.delete_records({partition: RecordsToDelete(-1)})

    with ThreadPoolExecutor(1) as writer:
        async with (
            followed(own_broker, tmp_path, writer) as one,
            AIOKafkaProducer(
                bootstrap_servers=own_broker.bootstrap, transactional_id="tests-history-markers"
            ) as producer,
        ):
            await send(aborted=False)
            assert await read_to_the_end() == (0, 2)
            await send(aborted=True)
            assert await read_to_the_end() == (0, 4)
            await delete_all()
            assert await read_to_the_end() == (0, 4)
            assert "gone unread" not in caplog.text

            await send(aborted=False)
            await delete_all()
            for _ in range(2):
                assert await read_to_the_end() == (2, 6)
            assert caplog.messages.count(f"2 offsets of {partition.topic}/0 are gone unread") == 1
            assert caplog.text.count("gone unread") == 1


async def test_a_broker_that_answers_and_lets_nothing_be_read_is_not_heard(
    own_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [TopicAuthorizationFailedError(), CorruptRecordException(), KafkaConnectionError(), NodeNotReadyError()]
    heard: list[tuple[bool, float | None]] = []

    class Refusing(AIOKafkaConsumer):
        async def getmany(self, *partitions: Any, **more: Any) -> Any:
            if errors:
                heard.append((one.subscriber.state.connected, one.value(HEARD)))
                raise errors.pop(0)
            return await super().getmany(*partitions, **more)

    monkeypatch.setattr(subscriber, "_Consumer", Refusing)
    monkeypatch.setattr(subscriber, "RETRY_S", 0.0)
    with ThreadPoolExecutor(1) as writer:
        async with followed(own_broker, tmp_path, writer) as one:
            await harness.send(own_broker, PARTITION.topic, [(0, None, b"{}", [])])
            task = asyncio.create_task(one.subscriber.run())
            await one.reads_to(1)
            await end([task])
            assert (one.subscriber.state.connected, one.value(HEARD)) == (True, 1.0)
    assert heard == [(False, 0.0)] * 4
    at = own_broker.bootstrap
    for said in (
        f"the broker at {at} lets nothing be read: TopicAuthorizationFailedError; allow it: mailstreams acls history",
        f"the topics at {at} cannot be read: CorruptRecordException",
        f"waiting for the broker at {at}: KafkaConnectionError",
        f"waiting for the broker at {at}: {absence(NodeNotReadyError())}",
    ):
        assert said in caplog.messages


async def test_a_batch_that_is_written_after_its_reader_has_gone_is_told_as_missed(
    own_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(AIOKafkaConsumer):
        async def end_offsets(self, partitions: Any) -> Any:
            if writer.reached.is_set():
                broke.set()
                raise KafkaConnectionError
            return await super().end_offsets(partitions)  # type: ignore[no-untyped-call]  # aiokafka annotates in part

    broke = asyncio.Event()
    monkeypatch.setattr(subscriber, "_Consumer", Breaking)
    monkeypatch.setattr(subscriber, "LOOK_S", 0.01)
    with Writer() as writer:
        async with followed(own_broker, tmp_path, writer) as one:
            await harness.send(own_broker, PARTITION.topic, [(0, None, b"{}", [])])
            task = asyncio.create_task(one.subscriber.run())
            await asyncio.to_thread(writer.reached.wait, 60)
            await broke.wait()
            assert not one.missed.is_set()
            writer.goes_on.set()
            await asyncio.wait_for(one.missed.wait(), 60)
            assert one.position() == 1
            assert not one.something.is_set()
            await end([task])
