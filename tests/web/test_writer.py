"""When a writer reports that it can write, and to which partition, in cases that a real Kafka cannot be brought into at will."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from typing import Any, ClassVar

import pytest
from aiokafka.errors import KafkaConnectionError, UnknownTopicOrPartitionError

from streams import topics
from streams.web import writer as module
from streams.web.writer import Hooks, NotWrittenError, RecordWriter

PATIENCE_S = 0.3


class Batch:
    def append(self, **_: Any) -> object:
        return self


class Producer:
    """aiokafka's producer on brokers that answer, and of which too few have the records: it is tried for ever."""

    acknowledges = False
    away = False
    hangs = False
    """A look gets no answer, as while one of several brokers is silent."""
    looked = 0
    started = 0
    stopped = 0
    led: Collection[int] = frozenset({0})
    silent: Collection[int | str] = frozenset()
    """Partitions and topics that never acknowledge, even if the others do."""
    fails: BaseException | None = None
    """What the silent ones raise, if anything."""
    written: ClassVar[list[int]] = []

    def __init__(self, **_: Any) -> None:
        self.client = self
        self._sender = self
        self.sender_task = None
        self._message_accumulator = self
        self._conns: dict[int, Any] = {}
        self._batches: dict[int, Any] = {}
        self._pending_batches: set[Any] = set()

    async def start(self) -> None:
        if Producer.away:
            raise KafkaConnectionError
        Producer.started += 1

    async def look(self) -> None:
        if Producer.hangs:
            Producer.looked += 1
            await asyncio.Event().wait()
        if Producer.away:
            raise KafkaConnectionError

    async def stop(self) -> None:
        await asyncio.sleep(60)

    async def close(self) -> None:
        Producer.stopped += 1

    def fail_all(self, _: BaseException) -> None:
        """Nothing waits here."""

    async def led_partitions(self, _: str) -> Collection[int]:
        return Producer.led

    def batch_for(self, _: object) -> Batch:
        return Batch()

    async def send_batch(self, _: Any, topic: str, *, partition: int) -> "asyncio.Future[None]":
        future = asyncio.get_running_loop().create_future()
        Producer.written.append(partition)
        if Producer.acknowledges and not {partition, topic} & set(Producer.silent):
            future.set_result(None)
        elif Producer.fails is not None:
            future.set_exception(Producer.fails)
        return future


@pytest.fixture
async def writer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RecordWriter]:
    monkeypatch.setattr(module, "Producer", Producer)
    monkeypatch.setattr(module, "_RETIRE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(module, "_LOOK_S", 0.05)
    Producer.acknowledges, Producer.started, Producer.stopped = False, 0, 0
    Producer.away, Producer.led, Producer.silent, Producer.written = False, {0}, set(), []
    Producer.hangs, Producer.looked, Producer.fails = False, 0, None
    writer = RecordWriter(
        client_options={},
        client_id="ingress",
        timeout_s=PATIENCE_S,
        partitions=1,
        hooks=Hooks(acknowledged=lambda *_: None, failed=lambda _: None),
    )
    running = asyncio.create_task(writer.run())
    while writer.why_not_ready:
        await asyncio.sleep(0.01)
    yield writer
    running.cancel()


async def refused(writer: RecordWriter) -> None:
    with pytest.raises(NotWrittenError):
        await writer.write("mail.raw.sendgrid", b"{}", [])


async def test_a_broker_that_lets_producers_start_and_acknowledges_nothing_is_not_taken_for_ready(
    writer: RecordWriter,
) -> None:
    for number in (1, 2):
        await refused(writer)
        while Producer.started < number + 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert writer.why_not_ready == ["the broker does not acknowledge records"]


async def test_an_acknowledgement_or_a_while_without_a_failure_makes_it_ready_again(writer: RecordWriter) -> None:
    await refused(writer)
    Producer.acknowledges = True
    await writer.write("mail.raw.sendgrid", b"{}", [])
    assert writer.why_not_ready == []

    Producer.acknowledges = False
    await refused(writer)
    await asyncio.sleep(0.05)
    assert writer.why_not_ready
    await asyncio.sleep(PATIENCE_S * 2)
    assert writer.why_not_ready == []


async def test_a_producer_that_failed_is_given_up_with_its_connections(writer: RecordWriter) -> None:
    for _ in range(3):
        await refused(writer)
    async with asyncio.timeout(20):
        while Producer.stopped < 3:
            await asyncio.sleep(0.01)
    assert Producer.started >= 3


async def test_a_broker_that_goes_while_nothing_is_written_makes_it_not_ready_until_it_is_back(
    writer: RecordWriter,
) -> None:
    async with asyncio.timeout(20):
        for _ in range(2):
            Producer.away = True
            while not writer.why_not_ready:
                await asyncio.sleep(0.01)
            Producer.away = False
            while writer.why_not_ready:
                await asyncio.sleep(0.01)
    assert Producer.written == []


async def test_a_look_that_gets_no_answer_does_not_hold_back_the_next_producer(
    writer: RecordWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_TIMEOUTS", 1_000)
    Producer.hangs = True
    async with asyncio.timeout(20):
        while not Producer.looked:
            await asyncio.sleep(0.01)
        await refused(writer)
        while Producer.started < 2:
            await asyncio.sleep(0.01)


async def test_a_record_behind_a_partition_that_is_silent_goes_to_another_though_nothing_follows_it(
    writer: RecordWriter,
) -> None:
    Producer.acknowledges, Producer.led, Producer.silent = True, {0, 1, 2}, {1}
    first = asyncio.create_task(writer.write("mail.raw.sendgrid", b"{}", []))
    while Producer.written != [1]:  # in its turn
        await asyncio.sleep(0)

    await writer.write("mail.raw.sendgrid", b"{}", [])

    assert Producer.written == [1, 0]
    with pytest.raises(NotWrittenError):
        await first


@pytest.mark.parametrize("error", [None, UnknownTopicOrPartitionError()], ids=["no leader", "no topic"])
async def test_sends_that_fail_say_nothing_about_webhooks(
    writer: RecordWriter, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    Producer.acknowledges, Producer.silent, Producer.fails = True, {topics.SENDS}, error
    answers: list[list[str]] = []
    with caplog.at_level(logging.INFO):
        for number in range(3):
            sending = asyncio.create_task(writer.write_keyed(topics.SENDS, [(b"key", b"{}")]))
            while not sending.done():
                answers.append(writer.why_not_ready)
                await asyncio.sleep(0)
            assert isinstance(sending.exception(), NotWrittenError)
            while Producer.started < number + 2:
                answers.append(writer.why_not_ready)
                await asyncio.sleep(0)
            await writer.write("mail.raw.sendgrid", b"{}", [])
    assert answers
    assert not any(answers)
    (said,) = caplog.messages  # once a minute, however often webhooks are acknowledged in between
    assert said.startswith("the broker does not acknowledge records of mail.sends: ")


async def test_sends_that_are_written_say_nothing_about_webhooks(writer: RecordWriter) -> None:
    """A load balancer would go on to send webhooks here, and each would be answered 503."""
    Producer.acknowledges, Producer.silent = True, {"mail.raw.sendgrid"}

    async def send() -> None:
        await writer.write_keyed(topics.SENDS, [(b"key", b"{}")])

    failing = asyncio.create_task(refused(writer))
    while not Producer.written:
        await asyncio.sleep(0)
    await send()
    await failing
    assert writer.why_not_ready == ["the broker does not acknowledge records"]
    await send()
    assert writer.why_not_ready == ["the broker does not acknowledge records"]

    Producer.silent = set()
    await writer.write("mail.raw.mailgun", b"{}", [])
    assert writer.why_not_ready == []


async def test_a_webhook_that_fails_while_others_are_written_leaves_it_ready(writer: RecordWriter) -> None:
    Producer.acknowledges, Producer.silent = True, {"mail.raw.mailgun"}
    lost = asyncio.create_task(writer.write("mail.raw.mailgun", b"{}", []))
    while not Producer.written:
        await asyncio.sleep(0)
    while not lost.done():
        await writer.write("mail.raw.sendgrid", b"{}", [])

    assert isinstance(lost.exception(), NotWrittenError)
    assert writer.why_not_ready == []


async def test_a_webhook_that_waited_while_the_last_acknowledged_one_was_sent_makes_it_unready(
    writer: RecordWriter,
) -> None:
    Producer.acknowledges, Producer.silent = True, {"mail.raw.mailgun"}
    lost = asyncio.create_task(writer.write("mail.raw.mailgun", b"{}", []))
    while not Producer.written:
        await asyncio.sleep(0)
    await writer.write("mail.raw.sendgrid", b"{}", [])

    assert isinstance((await asyncio.gather(lost, return_exceptions=True))[0], NotWrittenError)
    assert writer.why_not_ready == ["the broker does not acknowledge records"]
