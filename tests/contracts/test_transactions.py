"""What aiokafka 0.14 demands of a transaction (see ``streams.kafka.transactions``), against a real broker."""

import asyncio
import time
from typing import Any

import pytest
from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    BrokerResponseError,
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    InvalidProducerEpoch,
    MessageSizeTooLargeError,
    NotCoordinatorError,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest
from aiokafka.structs import TopicPartition

from deploy.local.broker import Broker
from streams.kafka.batches import Row
from streams.kafka.transactions import TransactionInDoubtError
from tests.contracts.between import hold_back, lose_once, never_told, producer_of, record, refuse, refuse_connections
from tests.contracts.clients import (
    NOW_MS,
    end_of,
    fenced_writer,
    many_rows,
    new_topic,
    new_writer,
    plain_transactional,
    read,
    rows,
    unique,
    until_registered,
    values,
)

TOO_LARGE = many_rows(1, 5_000)[0]
SMALL_TOPIC = {"max.message.bytes": "2000"}


async def test_rows_of_a_transaction_become_visible_together(broker: Broker) -> None:
    first, second = await new_topic(broker), await new_topic(broker)
    async with fenced_writer(broker) as writer:
        go = asyncio.Event()
        hold_back(writer, EndTxnRequest, go)
        task = asyncio.create_task(writer.commit({(first, 0): rows(b"a", b"b"), (second, 0): rows(b"c")}))
        while await end_of(broker, second, isolation_level="read_uncommitted") == 0:
            await asyncio.sleep(0.01)
        assert await values(broker, first) == await values(broker, second) == []
        go.set()
        ends = await task

    assert await values(broker, first) == [b"a", b"b"]
    assert await values(broker, second) == [b"c"]
    assert ends == {(first, 0): 2, (second, 0): 1}


async def test_rows_keep_their_key_timestamp_headers_and_tombstones(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        await writer.commit(
            {
                (topic, 0): [
                    Row(b"k", b"v", NOW_MS, [("h", b"1")]),
                    Row(b"k", None, NOW_MS + 1),
                    Row(None, None, NOW_MS + 2, [("only", b"headers")]),
                ]
            }
        )
    found = await read(broker, topic)
    assert [(r.key, r.value, r.timestamp, list(r.headers)) for r in found] == [
        (b"k", b"v", NOW_MS, [("h", b"1")]),
        (b"k", None, NOW_MS + 1, []),
        (None, None, NOW_MS + 2, [("only", b"headers")]),
    ]


async def test_the_returned_end_is_after_the_last_row_of_a_log_with_markers_and_of_several_batches(
    broker: Broker,
) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker, compression_type=None) as writer:
        assert await writer.commit({(topic, 0): rows(b"a")}) == {(topic, 0): 1}
        ends = await writer.commit({(topic, 0): many_rows(300, 8_000)})  # 2.4 MB: three batches
    assert ends == {(topic, 0): 302}  # the row, its commit marker, 300 rows
    assert await end_of(broker, topic) == 303


# -- a produce that fails inside a transaction ------------------------------------------------------------------------


async def test_plain_aiokafka_commits_a_transaction_of_which_a_batch_failed(broker: Broker) -> None:
    good, small = await new_topic(broker), await new_topic(broker, config=SMALL_TOPIC)
    async with plain_transactional(broker) as producer:
        await producer.begin_transaction()
        batch, large = producer.create_batch(), producer.create_batch()
        batch.append(key=b"a", value=b"a", timestamp=NOW_MS)
        large.append(key=TOO_LARGE.key, value=TOO_LARGE.value, timestamp=NOW_MS)
        await producer.send_batch(batch, good, partition=0)
        failing = await producer.send_batch(large, small, partition=0)
        await producer.commit_transaction()
        with pytest.raises(MessageSizeTooLargeError):
            await failing

    assert await values(broker, good) == [b"a"], (
        "aiokafka no longer commits over a failed batch: one reason less for session.py"
    )
    assert await values(broker, small) == []


async def test_a_produce_that_fails_inside_a_transaction_is_not_committed(broker: Broker) -> None:
    good, small = await new_topic(broker), await new_topic(broker, config=SMALL_TOPIC)
    name = unique("writer")
    async with fenced_writer(broker, transactional_id=name) as writer:
        await writer.commit({(good, 0): rows(b"before")})
        with pytest.raises(TransactionInDoubtError, match="MessageSizeTooLarge"):
            await writer.commit(
                {(good, 0): rows(b"a"), (small, 0): [TOO_LARGE]},
            )
    async with fenced_writer(broker, transactional_id=name):
        assert await values(broker, good) == [b"before"]
        assert await values(broker, small) == []


async def test_a_batch_that_the_broker_does_not_take_yet_is_sent_again_with_the_same_sequence_number(
    broker: Broker,
) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(b"before")})
        requests = refuse(writer, ProduceRequest, NotLeaderForPartitionError)
        ends = await writer.commit({(topic, 0): rows(b"a", b"b")})
        await writer.commit({(topic, 0): rows(b"after")})
    produced = [request._topics for request in requests if isinstance(request, ProduceRequest)]
    assert len(produced) == 3
    assert produced[0] == produced[1]
    assert ends == {(topic, 0): 4}  # one row and its marker before
    assert await values(broker, topic) == [b"before", b"a", b"b", b"after"]


async def test_a_batch_of_which_the_brokers_answer_says_nothing_is_not_committed_over(broker: Broker) -> None:
    first, second, name = await new_topic(broker), await new_topic(broker), unique("writer")
    async with fenced_writer(broker, transactional_id=name) as writer:
        client = producer_of(writer).client
        send = client.send

        async def without_the_second(node_id: int, request: Any, **options: Any) -> Any:
            if isinstance(request, ProduceRequest):
                request._topics = [each for each in request._topics if each[0] == first]
            return await send(node_id, request, **options)

        client.send = without_the_second
        with pytest.raises(TransactionInDoubtError, match=f"lacks.*{second}"):
            await writer.commit({(first, 0): rows(b"a"), (second, 0): rows(b"b")})
    async with fenced_writer(broker, transactional_id=name):
        assert await values(broker, first) == []


async def test_a_transaction_waits_until_the_last_one_is_closed(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        requests = refuse(writer, AddPartitionsToTxnRequest, ConcurrentTransactions)
        await writer.commit({(topic, 0): rows(b"a")})
    assert [type(request) for request in requests].count(AddPartitionsToTxnRequest) >= 2
    assert await values(broker, topic) == [b"a"]


async def test_a_transaction_looks_for_a_coordinator_that_has_moved(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        requests = refuse(writer, AddPartitionsToTxnRequest, NotCoordinatorError)
        await writer.commit({(topic, 0): rows(b"a")})
    assert FindCoordinatorRequest in map(type, requests)
    assert await values(broker, topic) == [b"a"]


NOT_FOR_GOOD = [
    NotCoordinatorError,
    CoordinatorNotAvailableError,
    CoordinatorLoadInProgressError,
    ConcurrentTransactions,
]


@pytest.mark.parametrize("begun", [False, True], ids=["and did nothing", "and had begun to commit"])
@pytest.mark.parametrize("refusal", NOT_FOR_GOOD)
async def test_an_end_of_transaction_that_a_coordinator_refuses_is_sent_again(
    broker: Broker, refusal: type[BrokerResponseError], begun: bool
) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        requests = refuse(writer, EndTxnRequest, refusal, times=2, seen=begun)
        assert await writer.commit({(topic, 0): rows(b"a")}) == {(topic, 0): 1}
        assert [type(request) for request in requests].count(EndTxnRequest) == 3
        await writer.commit({(topic, 0): rows(b"b")})
        assert await values(broker, topic) == [b"a", b"b"]
    assert await end_of(broker, topic) == 4, "two rows, each with one marker"


async def test_an_end_of_transaction_that_is_refused_for_good_is_not_sent_again(broker: Broker) -> None:
    topic, name = await new_topic(broker), unique("writer")
    async with fenced_writer(broker, transactional_id=name) as writer:
        requests = refuse(writer, EndTxnRequest, InvalidProducerEpoch)
        with pytest.raises(TransactionInDoubtError, match="InvalidProducerEpoch"):
            await writer.commit({(topic, 0): rows(b"a")})
        assert [type(request) for request in requests].count(EndTxnRequest) == 1
    async with fenced_writer(broker, transactional_id=name):
        assert await values(broker, topic) == []


async def test_a_request_that_is_refused_until_the_deadline_is_told_with_the_refusal(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker, deadline_s=1.5) as writer:
        refuse(writer, ProduceRequest, NotEnoughReplicasError, times=1000)
        with pytest.raises(TransactionInDoubtError, match=f"TimeoutError.*{topic}/0: NotEnoughReplicasError"):
            await writer.commit({(topic, 0): rows(b"a")})
    told = [record.getMessage() for record in caplog.records if record.name == "streams.kafka.session"]
    assert told == [f"{topic}/0: NotEnoughReplicasError for 1 s: the request is sent again until its deadline"]


async def test_a_refusal_is_told_although_no_broker_tells_who_leads_now(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker, deadline_s=2) as writer:
        await writer.commit({(topic, 0): rows(b"a")})
        refuse(writer, ProduceRequest, NotLeaderForPartitionError)
        never_told(writer)
        with pytest.raises(TransactionInDoubtError, match=f"TimeoutError.*{topic}/0: NotLeaderForPartitionError"):
            await writer.commit({(topic, 0): rows(b"b")})


async def test_a_refusal_that_has_nothing_to_do_with_the_leader_needs_no_other_broker(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(b"a")})
        refuse(writer, ProduceRequest, NotEnoughReplicasError)
        never_told(writer)
        await writer.commit({(topic, 0): rows(b"b")})
    assert await values(broker, topic) == [b"a", b"b"]


async def test_what_may_not_be_written_to_is_told_with_its_topics(broker: Broker) -> None:
    topics = sorted([await new_topic(broker), await new_topic(broker)])
    async with fenced_writer(broker) as writer:
        refuse(writer, AddPartitionsToTxnRequest, TopicAuthorizationFailedError)
        with pytest.raises(TransactionInDoubtError, match=f"TopicAuthorizationFailedError.*{', '.join(topics)}"):
            await writer.commit({(topic, 0): rows(b"a") for topic in topics})


@pytest.mark.parametrize("refusal", [TransactionalIdAuthorizationFailed, InvalidProducerEpoch])
async def test_what_is_refused_to_the_writer_itself_is_told_with_its_name_and_not_with_a_topic(
    broker: Broker, refusal: type[BrokerResponseError]
) -> None:
    topic, name = await new_topic(broker), unique("writer")
    async with fenced_writer(broker, transactional_id=name) as writer:
        refuse(writer, AddPartitionsToTxnRequest, refusal)
        with pytest.raises(TransactionInDoubtError, match=rf"{refusal.__name__}\('{name}'\)"):
            await writer.commit({(topic, 0): rows(b"a")})


async def test_rows_to_a_topic_that_was_not_written_to_before_and_to_none_at_all(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        assert await writer.commit({(topic, 0): []}) == {}
        assert await writer.commit({}) == {}
        assert await writer.commit({(topic, 0): rows(b"a")}) == {(topic, 0): 1}


# -- a lost connection, a repeated EndTxn --------------------------------------------------------------------------------

REQUESTS = [AddPartitionsToTxnRequest, ProduceRequest, EndTxnRequest]


@pytest.mark.parametrize("before", [True, False], ids=["before-the-broker-has-it", "after-the-broker-has-it"])
@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda request_type: request_type.__name__)
async def test_a_connection_lost_inside_a_transaction_puts_it_in_doubt(
    broker: Broker, request_type: type, before: bool
) -> None:
    topic, name = await new_topic(broker), unique("writer")
    writer = new_writer(broker, transactional_id=name, deadline_s=60, request_timeout_s=60)
    await writer.fence()
    lost = lose_once(producer_of(writer), request_type, before=before)
    requests = record(writer)
    began = time.monotonic()

    with pytest.raises(TransactionInDoubtError, match=f"{request_type.__name__} was lost"):
        await writer.commit({(topic, 0): rows(b"a")})

    assert lost == [request_type.__name__]
    assert [type(request) for request in requests].count(request_type) == 1, "it is not sent again"
    assert time.monotonic() - began < 30, "it is told at once, not when the deadline is over"
    # And it is never used again.
    with pytest.raises(TransactionInDoubtError, match="failed before"):
        await writer.commit({(topic, 0): rows(b"b")})
    await writer.close()
    async with fenced_writer(broker, transactional_id=name):
        told = request_type is EndTxnRequest and not before
        assert await values(broker, topic) == ([b"a"] if told else []), "in doubt is either wholly there or not at all"


async def test_plain_aiokafka_sends_a_second_end_of_transaction_after_a_lost_connection(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with plain_transactional(broker) as producer:
        ends: list[int] = []
        lost = lose_once(producer, EndTxnRequest, before=True)
        send = producer.client.send

        async def counted(node_id: int, request: Any, **options: Any) -> Any:
            ends.extend([1] if isinstance(request, EndTxnRequest) else [])
            return await send(node_id, request, **options)

        producer.client.send = counted
        await producer.begin_transaction()
        await producer.send(topic, key=b"a", value=b"a", partition=0)
        await producer.commit_transaction()
    assert lost == ["EndTxnRequest"]
    assert len(ends) == 2, "aiokafka no longer repeats EndTxn: one reason less for session.py"


async def test_a_connection_lost_outside_a_transaction_is_survived(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(b"a")})
        for connection in list(producer_of(writer).client._conns.values()):
            connection.close()
        await writer.commit({(topic, 0): rows(b"b")})
    assert await values(broker, topic) == [b"a", b"b"]


@pytest.mark.parametrize("group", ConnectionGroup, ids=lambda group: group.name)
async def test_a_transaction_waits_for_a_broker_to_which_nothing_could_be_sent(
    broker: Broker, group: ConnectionGroup
) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(b"a")})
        requests, refused = record(writer), refuse_connections(writer, group, times=3)
        await writer.commit({(topic, 0): rows(b"b")})
    assert not refused
    sent = [type(request) for request in requests if isinstance(request, (ProduceRequest, EndTxnRequest))]
    assert sent == [ProduceRequest, EndTxnRequest]
    assert await values(broker, topic) == [b"a", b"b"]


async def test_a_transaction_asks_again_for_its_coordinator_where_the_broker_that_was_asked_goes_away(
    broker: Broker,
) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        refuse(writer, AddPartitionsToTxnRequest, NotCoordinatorError)
        lost = lose_once(producer_of(writer), FindCoordinatorRequest, before=False)
        await writer.commit({(topic, 0): rows(b"a")})
    assert lost == ["FindCoordinatorRequest"]
    assert await values(broker, topic) == [b"a"]


async def test_a_transaction_waits_for_a_broker_no_longer_than_its_deadline(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker, deadline_s=1) as writer:
        await writer.commit({(topic, 0): rows(b"a")})
        refuse_connections(writer, ConnectionGroup.DEFAULT, times=10_000)
        with pytest.raises(TransactionInDoubtError, match=f"TimeoutError.*{topic}/0: LeaderNotAvailableError"):
            await writer.commit({(topic, 0): rows(b"b")})


async def test_a_cancelled_commit_is_never_followed_by_another(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        task = asyncio.create_task(writer.commit({(topic, 0): rows(b"a")}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TransactionInDoubtError):
            await writer.commit({(topic, 0): rows(b"b")})


async def test_a_writer_that_is_closed_writes_nothing(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): rows(b"a")})
        await writer.close()
        with pytest.raises(TransactionInDoubtError, match="is closed"):
            await writer.commit({(topic, 0): rows(b"b")})
    assert await values(broker, topic, isolation_level="read_uncommitted") == [b"a"]


async def test_a_writer_that_was_never_fenced_writes_nothing(broker: Broker) -> None:
    topic = await new_topic(broker)
    with pytest.raises(TransactionInDoubtError, match="never fenced"):
        await new_writer(broker).commit({(topic, 0): rows(b"a")})
    assert await values(broker, topic, isolation_level="read_uncommitted") == []


# -- fencing -------------------------------------------------------------------------------------------------------------


async def test_a_fence_ends_at_once_what_the_previous_owner_left_open_and_it_is_never_seen(broker: Broker) -> None:
    topic, name = await new_topic(broker), unique("owner")
    async with plain_transactional(broker, name) as previous:
        await previous.begin_transaction()
        await previous.send_and_wait(topic, key=b"zombie", value=b"zombie", partition=0)
        assert await end_of(broker, topic) == 0, "the transaction is open"

        began = time.monotonic()
        async with fenced_writer(broker, transactional_id=name) as writer:
            took = time.monotonic() - began
            assert await end_of(broker, topic) == 2, "the row and the abort marker, before fence() returns"
            assert await values(broker, topic) == []
            assert took < 5
            await writer.commit({(topic, 0): rows(b"new")})
    assert await values(broker, topic) == [b"new"]
    assert await values(broker, topic, isolation_level="read_uncommitted") == [b"zombie", b"new"]


async def test_a_fenced_writers_commit_raises_and_nothing_of_it_is_seen(broker: Broker) -> None:
    topic, name = await new_topic(broker), unique("owner")
    async with fenced_writer(broker, transactional_id=name) as stalled:
        await stalled.commit({(topic, 0): rows(b"a")})
        async with fenced_writer(broker, transactional_id=name) as owner:
            with pytest.raises(TransactionInDoubtError):
                await stalled.commit({(topic, 0): rows(b"zombie")})
            await owner.commit({(topic, 0): rows(b"b")})
    assert await values(broker, topic) == [b"a", b"b"]


async def test_a_writer_fenced_in_the_middle_of_its_transaction_never_becomes_visible(broker: Broker) -> None:
    topic, name = await new_topic(broker), unique("owner")
    async with fenced_writer(broker, transactional_id=name) as stalled:
        go = asyncio.Event()
        held = hold_back(stalled, EndTxnRequest, go)
        task = asyncio.create_task(stalled.commit({(topic, 0): rows(b"zombie")}))
        await held.wait()
        async with fenced_writer(broker, transactional_id=name) as owner:
            await owner.commit({(topic, 0): rows(b"a")})
            go.set()
            with pytest.raises(TransactionInDoubtError):
                await task
    assert await values(broker, topic) == [b"a"]


# -- the deadline -------------------------------------------------------------------------------------------------------


@pytest.mark.broker
async def test_the_deadline_is_kept_while_the_broker_stands_still(own_broker: Broker) -> None:
    topic = await new_topic(own_broker)
    name = unique("writer")
    writer = new_writer(own_broker, transactional_id=name, deadline_s=2, request_timeout_s=60)
    await writer.fence()
    await writer.commit({(topic, 0): rows(b"a")})
    own_broker.pause()
    try:
        began = time.monotonic()
        with pytest.raises(TransactionInDoubtError, match="Timeout"):
            await writer.commit({(topic, 0): rows(b"b")})
        assert 1.9 < time.monotonic() - began < 30, "nor is a request's own time waited for"
        began = time.monotonic()
        await writer.close()
        assert time.monotonic() - began < 30, "nothing waits for a broker that does not answer"
    finally:
        own_broker.resume()
    await until_registered(own_broker)
    async with fenced_writer(own_broker, transactional_id=name):
        seen = await values(own_broker, topic)
    assert seen in ([b"a"], [b"a", b"b"]), "in doubt is either wholly there or not at all"


# -- sequence numbers, order of batches ------------------------------------------------------------------------------------


async def test_aiokafka_wraps_a_sequence_number_to_a_negative_value(broker: Broker) -> None:
    tp = TopicPartition("any", 0)
    async with plain_transactional(broker) as producer:
        manager = producer._txn_manager
        assert manager is not None
        manager.increment_sequence_number(tp, 2**31 - 1)
        manager.increment_sequence_number(tp, 1)
        assert manager.sequence_number(tp) < 0, "aiokafka wraps to 0 now: producers need no replacement any more"


async def test_a_producer_is_replaced_before_its_sequence_numbers_wrap(broker: Broker) -> None:
    topic = await new_topic(broker)
    async with fenced_writer(broker, replace_after_rows=5) as writer:
        producers = []
        for number in range(6):
            await writer.commit({(topic, 0): rows(b"%d-a" % number, b"%d-b" % number)})
            producers.append(producer_of(writer))
        assert producers[0] is producers[1] is producers[2]
        assert producers[3] is not producers[2], "after 6 rows the next transaction has a new producer"
        assert writer._session is not None
        assert writer._session.most_rows_sent <= 6
    assert await values(broker, topic) == [b"%d-%s" % (n, half) for n in range(6) for half in (b"a", b"b")]


@pytest.mark.parametrize("limit", [{"replace_after_rows": 0}, {"replace_after_idle_s": 0.0}])
async def test_a_producer_that_is_to_be_replaced_takes_nothing_back_from_an_owner_that_came_meanwhile(
    broker: Broker, limit: dict[str, Any]
) -> None:
    topic, name = await new_topic(broker), unique("replaced")
    async with (
        fenced_writer(broker, transactional_id=name, **limit) as woken,
        fenced_writer(broker, transactional_id=name) as successor,
    ):
        with pytest.raises(TransactionInDoubtError):
            await woken.commit({(topic, 0): rows(b"of the one that slept")})
        with pytest.raises(TransactionInDoubtError):
            await woken.commit({(topic, 0): rows(b"once more")})
        assert producer_of(successor) is not producer_of(woken)
    assert await values(broker, topic) == []


async def test_the_first_batch_of_every_output_goes_before_the_second_of_any(broker: Broker) -> None:
    first, second, third = [await new_topic(broker) for _ in range(3)]
    async with fenced_writer(broker) as writer:
        requests = record(writer)
        await writer.commit(
            {(first, 0): many_rows(300, 8_000), (second, 0): many_rows(150, 8_000), (third, 0): rows(b"a")}
        )
    produced = [{topic for topic, _ in request._topics} for request in requests if isinstance(request, ProduceRequest)]
    assert produced == [{first, second, third}, {first, second}, {first}]
    # asked again while the last transaction is still closing, but always for all
    added = [request for request in requests if isinstance(request, AddPartitionsToTxnRequest)]
    assert added
    assert all({topic for topic, _ in request._topics} == {first, second, third} for request in added)


async def test_rows_of_one_partition_keep_their_order_over_many_batches(broker: Broker) -> None:
    topic = await new_topic(broker)
    sent = many_rows(500, 8_000)
    async with fenced_writer(broker) as writer:
        await writer.commit({(topic, 0): sent})
    assert await values(broker, topic) == [row.value for row in sent]


async def test_a_row_larger_than_a_batch_is_sent_in_one_of_its_own(broker: Broker) -> None:
    topic = await new_topic(broker, config={"max.message.bytes": str(8 << 20)})
    large = Row(b"large", b"z" * (3 << 20), NOW_MS)
    async with fenced_writer(broker, compression_type=None) as writer:
        await writer.commit({(topic, 0): [*rows(b"a"), large, *rows(b"b")]})
    assert await values(broker, topic) == [b"a", large.value, b"b"]
