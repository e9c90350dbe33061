"""What Faust does with messages, acknowledgements, tables and transports, where ``streams`` relies on it."""

import asyncio
from typing import Any, cast

import faust
import pytest
from faust.app.base import BootStrategy
from faust.serializers import codecs
from faust.transport.drivers import TRANSPORTS
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streams import topics
from streams.kafka.application import BatchedApp
from streams.kafka.restore import LaneTableManager
from streams.kafka.transport import CODEC, SCHEME, BatchConsumer, BatchConsumerThread, Transport, register
from tests.kafka.fakes import SOURCE, batch, consumer_of, faust_app, record


def test_faust_finds_our_transport_under_its_scheme_and_registering_twice_is_no_harm() -> None:
    register()
    register()
    assert TRANSPORTS.by_name(SCHEME) is Transport


async def test_faust_makes_our_consumer_and_our_thread() -> None:
    app = faust_app()
    consumer = consumer_of(app)
    assert isinstance(consumer._thread, BatchConsumerThread)
    assert consumer._thread.thread_loop is not asyncio.get_running_loop(), "heartbeats run beside the main loop"
    assert app.batch_consumer is consumer


async def test_faust_starts_no_producer_and_asks_nothing_of_the_one_that_it_never_started() -> None:
    app = faust_app()
    ours, theirs = (cast("BootStrategy", one.boot_strategy) for one in (app, faust.App("plain")))
    assert list(ours.kafka_producer()) == [], "Faust's own knows neither our TLS nor our password"
    assert [type(one).__name__ for one in theirs.kafka_producer()] == ["Producer"]

    await app.producer.flush()  # as at each rebalance
    await app.producer.buffer.wait_until_ebb()  # as before each message


async def test_the_worker_consumer_reads_committed_records_and_never_jumps() -> None:
    app = faust_app()
    app.Table("deliveries", partitions=4, key_type=bytes, value_type=bytes)
    thread = consumer_of(app)._thread
    made = thread._create_worker_consumer(cast("Transport", app.transport))
    assert made._isolation_level == "read_committed"
    assert made._auto_offset_reset == "none"
    assert made._enable_auto_commit is False
    assert made._group_id == "contract"
    assert made._partition_assignment_strategy == [app.assignor]


async def test_the_batch_codec_hands_a_batch_through_faust_untouched() -> None:
    app = faust_app()
    sent = batch(record(5), record(7), position=9)
    message = consumer_of(app)._message_of(sent)
    event = await app.topic(SOURCE.topic, key_serializer="raw", value_serializer=CODEC).decode(message)
    assert event.value is sent
    assert event.message.tp == SOURCE
    assert event.message.offset == 7
    assert codecs.loads(CODEC, sent) is sent


def unacknowledged(app: BatchedApp) -> ConsumerMessage:
    message = consumer_of(app)._message_of(batch(record(5)))
    consumer_of(app).track_message(message)
    return message


async def test_acknowledging_an_event_ends_in_our_consumer_which_forgets_the_message() -> None:
    app = faust_app()
    consumer = consumer_of(app)
    message = unacknowledged(app)
    assert message in consumer._unacked_messages
    message.incref()
    event = app.create_event(None, message.value, [], message)

    assert event.ack() is True

    assert message.acked
    assert message not in consumer._unacked_messages, "Faust waits for it at a rebalance, without a time limit"


async def test_an_acknowledgement_wakes_who_waits_for_all_of_them() -> None:
    app = faust_app()
    consumer = consumer_of(app)
    message = unacknowledged(app)
    waiting = asyncio.create_task(consumer._wait_for_ack(timeout=1))
    await asyncio.sleep(0)
    consumer.ack(message)
    async with asyncio.timeout(0.5):
        await waiting


async def test_our_consumer_commits_nothing_by_itself() -> None:
    app = faust_app()
    consumer = consumer_of(app)
    consumer.ack(unacknowledged(app))
    assert await consumer.commit() is False
    assert not any(consumer._acked.values())


async def test_a_stream_without_acknowledgements_leaves_them_to_the_lane() -> None:
    app = faust_app()
    app.flow_control.resume()
    stream: Any = app.stream(app.channel())
    taken: list[Any] = []

    async def agent() -> None:
        async for event in stream.noack().events():
            taken.append(event)
            if len(taken) == 2:
                return

    running = asyncio.create_task(agent())
    messages = []
    for offset in (5, 6):
        message = consumer_of(app)._message_of(batch(record(offset)))
        message.incref()
        messages.append(message)
        stream.channel.queue.put_nowait(app.create_event(None, message.value, [], message))
    async with asyncio.timeout(5):
        await running
    assert [event.value.records[0].offset for event in taken] == [5, 6]
    assert not any(message.acked for message in messages), "an event asked for is not an event done"


async def test_faust_names_a_changelog_as_we_do() -> None:
    app = faust.App("mailstreams", store="memory://", autodiscover=False)
    table = app.Table(topics.DELIVERIES_TABLE, partitions=4, key_type=bytes, value_type=bytes)
    assert table.changelog_topic.get_topic_name() == topics.changelog_topic("mailstreams")


async def test_a_table_makes_the_assignor_keep_source_and_changelog_together() -> None:
    app = BatchedApp("contract-assignor", store="memory://", autodiscover=False, TableManager=LaneTableManager)
    table = app.Table("deliveries", partitions=4, key_type=bytes, value_type=bytes)
    assert isinstance(app.tables, LaneTableManager)
    assert app.tables.changelog_topics == {table.changelog_topic.get_topic_name()}


async def test_our_table_manager_never_starts_fausts_recovery() -> None:
    app = BatchedApp("contract-recovery", store="memory://", autodiscover=False, TableManager=LaneTableManager)
    tables = app.tables
    assert isinstance(tables, LaneTableManager)
    tables.on_partitions_revoked(set())
    assert tables._recovery is None
    assert tables.actives_ready is False


async def test_waiting_for_the_first_restore_ends_when_it_is_done() -> None:
    app = BatchedApp("contract-first", store="memory://", autodiscover=False, TableManager=LaneTableManager)
    tables = app.tables
    assert isinstance(tables, LaneTableManager)
    waiting = asyncio.create_task(tables.wait_until_recovery_completed())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    tables._first_ready.set()
    async with asyncio.timeout(5):
        assert await waiting is False, "True would mean that the app was stopped"


async def test_the_generation_is_known_to_the_app_and_carried_by_each_message() -> None:
    app = faust_app()
    app.consumer_generation_id = 7
    assert consumer_of(app)._message_of(batch(record(1))).generation_id == 7


async def test_the_methods_that_faust_calls_for_single_records_do_nothing() -> None:
    consumer: BatchConsumer = consumer_of(faust_app())
    await consumer.perform_seek()
    await consumer.verify_all_partitions_active()
    consumer.on_buffer_full(TP("t", 0))
    consumer.on_buffer_drop(TP("t", 0))
    assert not consumer._active_partitions


def test_this_folder_says_so_when_a_name_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.contracts import test_names  # noqa: PLC0415 - the check is under test here

    monkeypatch.delattr(faust.transport.consumer.Consumer, "flow_active", raising=False)
    with pytest.raises(AssertionError, match="flow_active is gone"):
        test_names.test_an_attribute_that_is_read_exists(faust.transport.consumer.Consumer, "flow_active", "us")
