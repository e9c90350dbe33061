"""What aiokafka's batches, positions and offsets do, where ``streams.kafka`` relies on more than a name."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CommitFailedError, IllegalStateError, NoOffsetForPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from deploy.local.broker import Broker
from streams import topics
from streams.kafka import transport
from streams.kafka.offsets import bounds, committed_offsets
from streams.kafka.producer import Producer
from streams.kafka.session import batches_of
from streams.kafka.transport import FETCH_BYTES, BatchConsumerThread, check_membership, commit_known_topics
from tests.contracts.clients import (
    NOW_MS,
    committed,
    end_of,
    fenced_writer,
    many_rows,
    new_topic,
    plain_transactional,
    rows,
    unique,
    values,
)


@asynccontextmanager
async def consumer_of(broker: Broker, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, fetch_max_wait_ms=100, **options) as consumer:
        yield consumer


# -- batches --------------------------------------------------------------------------------------------------------------


def test_a_batch_takes_its_first_record_whatever_its_size_and_then_says_that_it_is_full() -> None:
    batch = BatchBuilder(1_000, 0)
    assert batch.append(key=b"k", value=b"x" * 50_000, timestamp=NOW_MS) is not None
    assert batch.append(key=b"k", value=b"y", timestamp=NOW_MS) is None
    assert batch.record_count() == 1


def test_a_batch_counts_what_it_took_and_nothing_that_it_refused() -> None:
    batch = BatchBuilder(1_000, 0)
    taken = 0
    while batch.append(key=b"k", value=b"x" * 100, timestamp=NOW_MS) is not None:
        taken += 1
    assert 5 <= taken <= 9
    assert batch.record_count() == taken
    assert batch.append(key=b"k", value=b"", timestamp=NOW_MS) is None, "a batch that was full once stays full"


async def test_rows_become_batches_in_order_and_none_is_lost_or_larger_than_it_may_be(broker: Broker) -> None:
    sent = many_rows(400, 8_000)
    async with Producer(bootstrap_servers=broker.bootstrap, max_batch_size=100_000) as producer:
        batches = list(batches_of(producer, sent))
        assert sum(batch.record_count() for batch in batches) == 400
        assert len(batches) > 30
        assert all(batch.size() <= 100_000 for batch in batches)
        assert list(batches_of(producer, [])) == []


# -- positions --------------------------------------------------------------------------------------------------------------


async def test_a_log_that_ends_in_markers_is_read_to_its_end_by_position_although_its_last_offset_never_comes(
    broker: Broker,
) -> None:
    topic, name = await new_topic(broker), unique("owner")
    tp = TopicPartition(topic, 0)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(b"a", b"b")})
    async with plain_transactional(broker, name) as aborted:
        await aborted.begin_transaction()
        await aborted.send_and_wait(topic, key=b"x", value=b"x", partition=0)
        await aborted.abort_transaction()

    async with consumer_of(broker, isolation_level="read_committed") as consumer:
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        end = (await consumer.end_offsets([tp]))[tp]
        found = []
        async with asyncio.timeout(10):
            while await consumer.position(tp) < end:
                for fetched in (await consumer.getmany(timeout_ms=100)).values():
                    found.extend(fetched)
    assert end == 5
    assert [record.offset for record in found] == [0, 1]
    assert found[-1].offset + 1 < end, "who waits for offset 4 waits for ever"


async def test_the_assignment_knows_every_position_at_once_and_it_passes_markers(broker: Broker) -> None:
    topic = await new_topic(broker)
    tp = TopicPartition(topic, 0)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(b"a", b"b")})
    async with consumer_of(broker, isolation_level="read_committed") as consumer:
        consumer.assign([tp])
        assignment = consumer._subscription.subscription.assignment
        assert assignment.tps == {tp}
        consumer.seek(tp, 0)
        assert assignment.state_value(tp).has_valid_position
        assert assignment.state_value(tp).position == 0
        async with asyncio.timeout(10):
            while assignment.state_value(tp).position < 3:
                await consumer.getmany(timeout_ms=100)
        assert await consumer.position(tp) == 3


async def test_a_partition_that_was_not_sought_has_no_valid_position(broker: Broker) -> None:
    topic = await new_topic(broker)
    tp = TopicPartition(topic, 0)
    async with consumer_of(broker, isolation_level="read_committed", auto_offset_reset="none") as consumer:
        await asyncio.sleep(0)  # aiokafka's stop() raises CancelledError when its tasks have not begun
        consumer.assign([tp])
        state = consumer._subscription.subscription.assignment.state_value(tp)
        assert not state.has_valid_position
        consumer.seek(tp, 7)
        assert state.has_valid_position


async def test_without_a_reset_policy_a_position_that_is_gone_is_an_error_and_no_silent_jump(broker: Broker) -> None:
    topic = await new_topic(broker)
    tp = TopicPartition(topic, 0)
    async with consumer_of(
        broker, group_id=unique("group"), auto_offset_reset="none", enable_auto_commit=False
    ) as consumer:
        consumer.assign([tp])
        with pytest.raises(NoOffsetForPartitionError):
            async with asyncio.timeout(10):
                await consumer.getmany(timeout_ms=5_000)


async def test_a_seek_drops_what_was_fetched_before(broker: Broker) -> None:
    topic = await new_topic(broker)
    tp = TopicPartition(topic, 0)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(*(b"%d" % n for n in range(100)))})
    async with consumer_of(broker, isolation_level="read_committed") as consumer:
        consumer.assign([tp])
        consumer.seek(tp, 0)
        first = await consumer.getmany(timeout_ms=5_000, max_records=10)
        assert [r.offset for r in first[tp]] == list(range(10))
        consumer.seek(tp, 50)  # 90 records wait in the fetcher
        then = await consumer.getmany(timeout_ms=5_000, max_records=10)
        assert [r.offset for r in then[tp]] == list(range(50, 60))


async def test_a_paused_partition_gives_nothing_until_it_is_resumed(broker: Broker) -> None:
    topic = await new_topic(broker)
    tp = TopicPartition(topic, 0)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(b"a")})
    async with consumer_of(broker, isolation_level="read_committed") as consumer:
        consumer.assign([tp])
        consumer.seek(tp, 0)
        consumer.pause(tp)
        assert await consumer.getmany(timeout_ms=400) == {}
        consumer.resume(tp)
        assert [r.value for r in (await consumer.getmany(timeout_ms=5_000))[tp]] == [b"a"]


async def test_a_reader_of_committed_records_sees_nothing_of_an_open_or_aborted_transaction(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with plain_transactional(broker) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, key=b"a", value=b"a", partition=0)
        assert await end_of(broker, topic) == 0, "end_offsets is the last stable offset"
        assert await end_of(broker, topic, isolation_level="read_uncommitted") == 1
        assert await values(broker, topic) == []
        await producer.abort_transaction()
    assert await values(broker, topic) == []
    assert await end_of(broker, topic) == 2


async def test_a_record_larger_than_a_fetch_may_be_is_read_all_the_same_and_so_is_the_next(broker: Broker) -> None:
    largest = {"max.message.bytes": str(topics.MAX_RECORD_BYTES)}
    topic = await new_topic(broker, config=largest)
    tp = TopicPartition(topic, 0)
    body = os.urandom(topics.MAX_BODY_BYTES)
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap, max_request_size=topics.MAX_RECORD_BYTES
    ) as producer:
        for value in (b"before", body, b"after"):
            await producer.send_and_wait(topic, value, partition=0)

    async with consumer_of(broker, max_partition_fetch_bytes=FETCH_BYTES) as consumer:
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        found: list[bytes | None] = []
        async with asyncio.timeout(30):
            while len(found) < 3:
                for fetched in (await consumer.getmany(timeout_ms=200)).values():
                    found.extend(record.value for record in fetched)
    assert len(body) > 10 * FETCH_BYTES
    assert found == [b"before", body, b"after"]


# -- offsets ------------------------------------------------------------------------------------------------------------------


async def test_committed_offsets_come_with_their_metadata_and_those_never_committed_are_below_zero(
    broker: Broker,
) -> None:
    topic, group = await new_topic(broker, partitions=2), unique("group")
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with consumer_of(broker, group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign([first])
        await consumer.commit({first: OffsetAndMetadata(12, '{"offset":12}')})
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        found = await committed_offsets(admin, group, [first, second])
    finally:
        await admin.close()
    assert found[first] == OffsetAndMetadata(12, '{"offset":12}')
    assert second not in found or found[second].offset < 0


async def test_who_is_not_of_the_groups_current_generation_cannot_commit(broker: Broker) -> None:
    topic, group = await new_topic(broker), unique("group")
    tp = TopicPartition(topic, 0)
    async with (
        consumer_of(broker, group_id=group, enable_auto_commit=False) as member,
        consumer_of(broker, group_id=group, enable_auto_commit=False) as stranger,
    ):
        member.subscribe([topic])
        async with asyncio.timeout(20):
            while not member.assignment():
                await member.getmany(timeout_ms=100)
        stranger.assign([tp])
        with pytest.raises(CommitFailedError):
            await stranger.commit({tp: 1})
        await member.commit({tp: 2})
        with pytest.raises(IllegalStateError):  # BatchConsumer.commit_position makes a CommitFailedError of it
            await member.commit({TopicPartition(topic, 99): 1})


async def test_a_commit_leaves_out_a_topic_that_is_gone_or_came_back_with_fewer_partitions(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka's own repeats all of it for ever."""
    monkeypatch.setattr("streams.kafka.transport.COMMIT_LOOK_S", 0.05)
    topic, group = await new_topic(broker, partitions=2), unique("g")
    gone, also_gone, stays = (
        TopicPartition(topic, 0),
        TopicPartition(topic, 1),
        TopicPartition(await new_topic(broker), 0),
    )
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    async with consumer_of(broker, group_id=group, enable_auto_commit=False, retry_backoff_ms=10) as consumer:

        async def commit(offset: int) -> set[TopicPartition]:
            at = OffsetAndMetadata(offset, "")
            return await commit_known_topics(consumer, {gone: at, also_gone: at, stays: at})

        consumer.assign([gone, also_gone, stays])
        await consumer._client.force_metadata_update()
        assert await commit(1) == set()
        assert await committed(broker, group, topic) == (1, "")
        try:
            await admin.delete_topics([topic])
        finally:
            await admin.close()
        async with asyncio.timeout(20):
            while await commit(7) != {gone, also_gone}:  # until the deletion takes effect
                await asyncio.sleep(0.01)
            monkeypatch.setattr("streams.kafka.transport.COMMIT_LOOK_S", 60)
            assert await commit(8) == {gone, also_gone}, "it knows that already"
            await new_topic(broker, named=topic)
            await consumer._client.force_metadata_update()
            assert await commit(9) == {gone, also_gone}
            assert await committed(broker, group, stays.topic) == (9, "")
            assert await committed(broker, group, topic) is None
            assert await commit_known_topics(consumer, {gone: OffsetAndMetadata(3, "")}) == set(), "it is known again"
            assert await committed(broker, group, topic) == (3, "")


async def test_a_member_whose_join_waits_for_the_others_leaves_over_another_connection(broker: Broker) -> None:
    topic, group = await new_topic(broker), unique("group")
    patient = {"heartbeat_interval_ms": 20_000, "session_timeout_ms": 60_000, "rebalance_timeout_ms": 60_000}
    async with consumer_of(broker, group_id=group, **patient) as member:  # hears of the others after 20 s
        member.subscribe([topic])
        async with asyncio.timeout(20):
            while not member.assignment():
                await member.getmany(timeout_ms=100)
        for leaves_at_once in (False, True):
            joining: Any = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group, **patient)
            await joining.start()
            joining.subscribe([topic])
            async with asyncio.timeout(20):
                while not joining._coordinator.member_id:
                    await asyncio.sleep(0.05)
            thread: Any = SimpleNamespace(_ensure_consumer=lambda joining=joining: joining)
            stop = BatchConsumerThread._leave_group(thread) if leaves_at_once else joining.stop()
            stopping = asyncio.create_task(stop)
            done, _ = await asyncio.wait([stopping], timeout=3)
            assert bool(done) == leaves_at_once
            if not done:
                await joining._client.close()  # as the end of a process
                stopping.cancel()
                await asyncio.wait([stopping])


class Assigned(BatchConsumerThread):
    """Our consumer's thread on this very loop, with one partition assigned."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self.consumer = cast("Any", SimpleNamespace(flow_active=True))
        self._taking = None


@pytest.mark.parametrize("sought_first", [True, False])
async def test_whoever_waited_for_records_before_a_seek_takes_none_that_are_read_after_it(
    broker: Broker, *, sought_first: bool
) -> None:
    """A rebalance can be over before a question of before it is: what it took then would be read by nobody."""
    tp = TP(await new_topic(broker), 0)
    async with consumer_of(broker) as consumer:
        consumer.assign([TopicPartition(*tp)])
        thread = Assigned(consumer)
        await thread._start_at({tp: 0})
        waiting = asyncio.create_task(thread._take({tp}, 5))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        if sought_first:
            await thread._start_at({tp: 0})
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            await producer.send_and_wait(tp.topic, b"a", partition=0)
        if not sought_first:
            found, positions = await waiting
            assert [record.offset for record in found[tp]] == [0]
            assert positions == {tp: 1}
            await thread._start_at({tp: 0})  # again, from where it was
        else:
            assert await waiting == ({}, {})
        found, positions = await thread._take({tp}, 5)
        assert [record.offset for record in found[tp]] == [0]
        assert positions == {tp: 1}


async def test_a_fetch_tells_the_positions_of_what_it_found_and_four_times_a_second_all(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_in, quiet = TP(await new_topic(broker), 0), TP(await new_topic(broker), 0)
    async with (
        consumer_of(broker) as consumer,
        AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer,
    ):
        consumer.assign([TopicPartition(*found_in), TopicPartition(*quiet)])
        thread = Assigned(consumer)
        await thread._start_at({found_in: 0, quiet: 0})
        told = []
        for interval_s in (3600.0, 3600.0, 0.0):  # nothing was told before the first
            monkeypatch.setattr(transport, "POSITIONS_S", interval_s)
            await producer.send_and_wait(found_in.topic, b"a", partition=0)
            told.append((await thread._take({found_in, quiet}, 5))[1])
    assert told == [{found_in: 1, quiet: 0}, {found_in: 2}, {found_in: 3, quiet: 0}]


async def test_the_bounds_of_many_topics_cost_no_wait_for_each(broker: Broker) -> None:
    asked = [TP(await new_topic(broker), 0) for _ in range(6)]
    async with consumer_of(broker) as consumer:
        began = asyncio.get_running_loop().time()
        begins, ends = await bounds(consumer, asked)
        took_together = asyncio.get_running_loop().time() - began
    async with consumer_of(broker) as consumer:
        began = asyncio.get_running_loop().time()
        await consumer.beginning_offsets([TopicPartition(*tp) for tp in asked])
        took_aiokafka = asyncio.get_running_loop().time() - began
    assert begins == ends == dict.fromkeys(asked, 0)
    assert took_aiokafka > 0.5, "aiokafka has mended it"
    assert took_together < took_aiokafka - 0.2


async def test_a_topic_can_be_followed_without_reading_it(broker: Broker) -> None:
    topic = await new_topic(broker, partitions=3)
    async with consumer_of(broker) as consumer:
        await consumer._client.add_topic(topic)
        assert consumer.partitions_for_topic(topic) == {0, 1, 2}
        assert consumer.assignment() == frozenset()


async def test_a_group_gets_a_topic_that_was_not_known_when_it_was_divided_as_soon_as_it_is_there(
    broker: Broker,
) -> None:
    topic = unique("late")
    async with consumer_of(broker, group_id=unique("group"), retry_backoff_ms=10) as consumer:
        consumer.subscribe([topic])
        await consumer._subscription.wait_for_assignment()
        assert not consumer.assignment()
        await new_topic(broker, named=topic)
        async with asyncio.timeout(20):  # by itself aiokafka looks in five minutes
            while not consumer.assignment():
                await check_membership(consumer)
                await asyncio.sleep(0.1)
    assert await end_of(broker, topic) == 0
