"""Every inner name of Faust, mode, aiokafka, rocksdict and aiohttp that ``streams`` relies on.

Each is looked at once, with a sentence that says who needs it: when a version changes one, the test that fails says
what to read again. What a name does is in the other files of this folder.
"""

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import aiokafka
import faust
import pytest
import rocksdict
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter as StreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment, Subscription, SubscriptionState, TopicPartitionState
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator, MessageBatch
from aiokafka.producer.sender import Sender
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, RecordMetadata
from faust.app.base import App
from faust.assignor import PartitionAssignor
from faust.assignor.client_assignment import ClientMetadata
from faust.serializers import codecs
from faust.streams import Stream
from faust.tables.manager import TableManager
from faust.transport.consumer import Consumer, ConsumerThread, Fetcher, ThreadDelegateConsumer
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types.settings import Settings
from faust.types.tuples import ConsumerMessage, Message
from mode import Service
from mode.threads import QueueServiceThread

PINNED = {
    "faust-streaming": "0.15.3",
    "mode-streaming": "0.7.1",
    "aiokafka": "0.14.0",
    "rocksdict": "0.3.29",
    "aiohttp": "3.14.5",
}


@pytest.mark.parametrize(("package", "pinned"), PINNED.items())
def test_the_installed_version_is_the_one_that_was_read(package: str, pinned: str) -> None:
    assert version(package) == pinned, f"{package} changed: go through tests/contracts before you pin the new version"


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


SIGNATURES: list[tuple[Callable[..., Any], list[str], str]] = [
    # Faust's consumer and its thread: streams/kafka/transport.py
    (Consumer._drain_messages, ["self", "fetcher"], "BatchConsumer replaces it: batches instead of records"),
    (Consumer.ack, ["self", "message"], "BatchConsumer takes finished batches back here"),
    (Consumer.on_partitions_revoked, ["self", "revoked"], "BatchConsumer closes the lanes before Faust waits"),
    (Consumer.perform_seek, ["self"], "BatchConsumer does nothing here"),
    (Consumer.verify_all_partitions_active, ["self"], "BatchConsumer does nothing here"),
    (Consumer.on_buffer_full, ["self", "tp"], "BatchConsumer does nothing here"),
    (Consumer.on_buffer_drop, ["self", "tp"], "BatchConsumer does nothing here"),
    (Consumer.resume_partitions, ["self", "tps"], "the restore lets Faust deliver"),
    (Consumer.resume_flow, ["self"], "the restore lets Faust deliver"),
    (Consumer.assignment, ["self"], "the restore resumes what is assigned"),
    (ThreadDelegateConsumer._new_consumer_thread, ["self"], "BatchConsumer makes its own thread"),
    (driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"], "ours reads committed records only"),
    (
        driver.AIOKafkaConsumerThread._fetch_records,
        ["self", "consumer", "active_partitions", "timeout", "max_records"],
        "ours takes records and positions of the same moment",
    ),
    (driver.AIOKafkaConsumerThread._ensure_consumer, ["self"], "all that happens in the consumer's thread"),
    (GroupCoordinator.check_errors, ["self"], "BatchConsumer notices that its membership is lost"),
    (ConsumerThread.__init__, ["self", "consumer", "kwargs"], "BatchConsumer makes its thread so"),
    (QueueServiceThread.call_thread, ["self", "fun", "args", "kwargs"], "calls into the consumer's thread"),
    # the app and its table manager: streams/kafka/restore.py, application.py
    (TableManager.on_start, ["self"], "LaneTableManager replaces it"),
    (TableManager.on_stop, ["self"], "LaneTableManager replaces it"),
    (TableManager._update_channels, ["self"], "LaneTableManager registers changelog topics with it"),
    (TableManager.on_partitions_revoked, ["self", "revoked"], "LaneTableManager gives up its restore"),
    (
        TableManager.on_rebalance,
        ["self", "assigned", "revoked", "newly_assigned", "generation_id"],
        "LaneTableManager begins its restore",
    ),
    (TableManager.wait_until_recovery_completed, ["self"], "LaneTableManager says when the first restore is done"),
    (TableManager.on_actives_ready, ["self"], "LaneTableManager tells it"),
    (TableManager.on_standbys_ready, ["self"], "LaneTableManager tells it"),
    (
        faust.Table.on_rebalance,
        ["self", "assigned", "revoked", "newly_assigned", "generation_id"],
        "LaneTableManager calls it",
    ),
    (App.on_rebalance_end, ["self"], "the restore ends the rebalance for Faust's sensors"),
    (App._create_directories, ["self"], "BatchedApp makes none"),
    (Service.wait_for_stopped, ["self", "coros", "timeout"], "LaneTableManager waits for its first restore"),
    (Service.maybe_start, ["self"], "the restore starts the fetcher"),
    (Service.sleep, ["self", "n"], "BatchConsumer sleeps, and wakes when it is stopped"),
    # streams and messages: streams/kafka/application.py, streams/kafka/lanes.py
    (Stream.noack, ["self"], "agents acknowledge by themselves"),
    (Stream.events, ["self"], "agents iterate over events"),
    (faust.Event.ack, ["self"], "a lane acknowledges"),
    (Message.ack, ["self", "consumer", "n"], "Event.ack ends in it"),
    (ConsumerMessage.on_final_ack, ["self", "consumer"], "which ends in Consumer.ack"),
    (codecs.register, ["name", "codec"], "the batch codec"),
    # aiokafka's producer: streams/kafka/producer.py, session.py, streams/web/writer.py
    (aiokafka.AIOKafkaProducer.create_batch, ["self"], "batches of rows"),
    (aiokafka.AIOKafkaProducer.send_batch, ["self", "batch", "topic", "partition"], "batches of the ingress"),
    (BatchBuilder.append, ["self", "timestamp", "key", "value", "headers"], "batches of rows"),
    (
        BatchBuilder._set_producer_state,
        ["self", "producer_id", "producer_epoch", "base_sequence"],
        "ProducerSession counts its rows",
    ),
    (BatchBuilder._build, ["self"], "ProducerSession sends the batch itself"),
    (Sender._find_coordinator, ["self", "coordinator_type", "coordinator_key"], "ProducerSession asks it"),
    (Sender._coordinator_dead, ["self", "coordinator_type"], "ProducerSession looks for another one"),
    (
        AddPartitionsToTxnRequest.__init__,
        ["self", "transactional_id", "producer_id", "producer_epoch", "topics"],
        "ProducerSession.begin",
    ),
    (ProduceRequest.__init__, ["self", "transactional_id", "required_acks", "timeout", "topics"], "ProducerSession"),
    (
        EndTxnRequest.__init__,
        ["self", "transactional_id", "producer_id", "producer_epoch", "transaction_result"],
        "ProducerSession.commit",
    ),
    (ClusterMetadata.leader_for_partition, ["self", "partition"], "ProducerSession writes to leaders"),
    (BatchBuilder.record_count, ["self"], "batches of rows"),
    (aiokafka.AIOKafkaProducer.partitions_for, ["self", "topic"], "Producer.led_partitions"),
    (ClusterMetadata.available_partitions_for_topic, ["self", "topic"], "Producer.led_partitions"),
    (
        AIOKafkaClient.send,
        ["self", "node_id", "request", "group"],
        "ProducerSession sends its requests",
    ),
    (AIOKafkaClient.bootstrap, ["self"], "Progress asks the bootstrap servers where the brokers are"),
    (ClusterMetadata.brokers, ["self"], "Progress knows where they were"),
    (ClusterMetadata.is_bootstrap, ["self", "node_id"], "Progress knows where they were"),
    (
        AIOKafkaClient.ready,
        ["self", "node_id", "group"],
        "ProducerSession sends nothing before, and Progress asks whether a broker answers",
    ),
    (AIOKafkaClient.add_topic, ["self", "topic"], "Progress follows topics without reading them"),
    (AIOKafkaClient.force_metadata_update, ["self"], "commit_known_topics asks whether a topic is gone"),
    (ClusterMetadata.partitions_for_topic, ["self", "topic"], "commit_known_topics asks whether a topic is gone"),
    # aiokafka's connection: streams/brokers.py
    (
        create_conn,
        [
            *("host", "port", "client_id", "request_timeout_ms", "ssl_context", "security_protocol", "max_idle_ms"),
            *("on_close", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password"),
            *("sasl_kerberos_service_name", "sasl_kerberos_domain_name", "sasl_oauth_token_provider"),
        ],
        "why a broker does not let us in",
    ),
    # aiokafka's consumer: streams/kafka/transport.py, offsets.py, progress.py
    (Assignment.state_value, ["self", "tp"], "the positions of all partitions"),
    (aiokafka.AIOKafkaConsumer.seek, ["self", "partition", "offset"], "a lane starts at a known offset"),
    (aiokafka.AIOKafkaConsumer.pause, ["self", "partitions"], "a full backlog"),
    (aiokafka.AIOKafkaConsumer.resume, ["self", "partitions"], "a full backlog"),
    (aiokafka.AIOKafkaConsumer.commit, ["self", "offsets"], "positions of the stage without state"),
    (aiokafka.AIOKafkaConsumer.position, ["self", "partition"], "the restore goes by positions"),
    (aiokafka.AIOKafkaConsumer.beginning_offsets, ["self", "partitions"], "bounds of a log"),
    (aiokafka.AIOKafkaConsumer.end_offsets, ["self", "partitions"], "bounds of a log"),
    (aiokafka.AIOKafkaConsumer.partitions_for_topic, ["self", "topic"], "Progress looks at every partition"),
    (AIOKafkaAdminClient.find_coordinator, ["self", "group_id", "coordinator_type"], "who knows committed positions"),
    (AIOKafkaAdminClient._send_request, ["self", "request", "node_id"], "the restore and Progress read them"),
    (OffsetFetchRequest.__init__, ["self", "consumer_group", "partitions"], "by this request"),
    # aiohttp's server: streams/web/connections.py, public.py
    (web.RequestHandler.connection_made, ["self", "transport"], "connections begin their timers"),
    (web.RequestHandler.connection_lost, ["self", "exc"], "Connection gives its place back"),
    (web.RequestHandler.data_received, ["self", "data"], "Connection counts the bytes of heads"),
    (web.RequestHandler.pause_writing, ["self"], "Connection cuts a client that does not read"),
    (web.RequestHandler.resume_writing, ["self"], "Connection lets one that reads go on"),
    (web.RequestHandler.start, ["self"], "Connection gives what is unread some time"),
    (web.RequestHandler.force_close, ["self"], "Connection gives what is unread some time"),
    (
        web.RequestHandler.handle_error,
        ["self", "request", "status", "exc", "message"],
        "SilentConnection quotes nothing",
    ),
    (web.RequestHandler.log_exception, ["self", "args", "kw"], "SilentConnection quotes nothing"),
    (web.Server.__call__, ["self"], "each makes connections of its own"),
    (web.AppRunner._make_server, ["self"], "SilentRunner makes its own server"),
]


@pytest.mark.parametrize(
    ("function", "expected", "who"), SIGNATURES, ids=lambda value: getattr(value, "__qualname__", "")
)
def test_a_function_that_is_called_or_replaced_has_its_signature(
    function: Callable[..., Any], expected: list[str], who: str
) -> None:
    found = parameters(function)
    assert found == expected, f"{function.__qualname__}{tuple(found)} was {tuple(expected)}: {who}"


ASYNC = [
    Consumer._drain_messages,
    Consumer.on_partitions_revoked,
    Sender._find_coordinator,
    AIOKafkaClient.ready,
    Consumer.perform_seek,
    Consumer.verify_all_partitions_active,
    driver.AIOKafkaConsumerThread._fetch_records,
    TableManager.on_start,
    TableManager.on_stop,
    TableManager._update_channels,
    TableManager.on_rebalance,
    TableManager.wait_until_recovery_completed,
    AIOKafkaClient.send,
    AIOKafkaClient.close,
    aiokafka.AIOKafkaConsumer.position,
    aiokafka.AIOKafkaConsumer.commit,
    web.RequestHandler.start,
    web.AppRunner._make_server,
]
SYNC = [
    Consumer.ack,
    Consumer.resume_partitions,
    Consumer.resume_flow,
    Consumer.on_buffer_full,
    Consumer.on_buffer_drop,
    TableManager.on_partitions_revoked,
    TableManager.on_actives_ready,
    TableManager.on_standbys_ready,
    App.on_rebalance_end,
    driver.AIOKafkaConsumerThread._create_worker_consumer,
    aiokafka.AIOKafkaConsumer.seek,
    aiokafka.AIOKafkaConsumer.pause,
    aiokafka.AIOKafkaConsumer.resume,
    aiokafka.AIOKafkaProducer.create_batch,
    BatchBuilder.append,
    BatchBuilder._set_producer_state,
    BatchBuilder._build,
    Sender._coordinator_dead,
    web.RequestHandler.data_received,
    web.RequestHandler.force_close,
    web.RequestHandler.handle_error,
]


@pytest.mark.parametrize("function", ASYNC, ids=lambda function: function.__qualname__)
def test_what_is_awaited_is_a_coroutine_function(function: Callable[..., Any]) -> None:
    assert inspect.iscoroutinefunction(function), f"{function.__qualname__} is no coroutine any more"


@pytest.mark.parametrize("function", SYNC, ids=lambda function: function.__qualname__)
def test_what_is_not_awaited_is_a_plain_function(function: Callable[..., Any]) -> None:
    assert not inspect.iscoroutinefunction(function), f"{function.__qualname__} became a coroutine: nobody awaits it"


PROPERTIES: list[tuple[type, str, str]] = [
    (Consumer, "flow_active", "BatchConsumer fetches only while the flow is active"),
    (Consumer, "consumer_stopped_errors", "BatchConsumer ends its loop on them"),
    (Service, "should_stop", "every loop ends on it"),
    (Service, "crashed", "the worker ends when Faust gives up"),
    (Service, "crash_reason", "and says why"),
    (App, "_fetcher", "the restore starts it, the stop stops it"),
    (App, "flow_control", "the restore resumes it"),
    (App, "consumer", "BatchedApp.batch_consumer"),
    (App, "tables", "the worker's health asks it"),
    (App, "assignor", "the consumer's assignment strategy"),
    (PartitionAssignor, "_url", "Assignor takes the URL that an earlier process of its name had"),
    (PartitionAssignor, "_decompress", "Assignor reads that URL"),
    (ClientMetadata, "url", "Assignor reads that URL"),
    (SubscriptionState, "reassignment_in_progress", "a static member watches topics once it has its assignment"),
    (SubscriptionState, "subscription", "the positions of all partitions"),
    (Subscription, "assignment", "the positions of all partitions"),
    (Assignment, "tps", "the positions of all partitions"),
    (TopicPartitionState, "has_valid_position", "the positions of all partitions"),
    (TopicPartitionState, "position", "the positions of all partitions"),
    (MessageAccumulator, "fail_all", "stop_producer ends who waits for its batches"),
    (Sender, "sender_task", "stop_producer ends it"),
    *((DefaultRecordBatch, name, "Producer.batch_for chooses it") for name in ("CODEC_SNAPPY", "CODEC_ZSTD")),
    *((rocksdict.Rdict, name, "the store") for name in ("get", "write", "iter", "close")),
    *((rocksdict.WriteBatch, name, "the store writes a batch as one") for name in ("put", "delete")),
    *(
        (rocksdict.RdictIter, name, "the store's iteration, whose status tells an end from a corrupt block")
        for name in ("seek", "seek_to_first", "valid", "key", "value", "next", "status")
    ),
    *(
        (rocksdict.ReadOptions, name, "the store reads a suspect one through")
        for name in ("fill_cache", "set_verify_checksums", "set_readahead_size")
    ),
    *(
        (web.RequestHandler, name, "Connection tells heads from bodies, and whose turn it is")
        for name in ("_request_count", "_messages", "_current_request", "_manager")
    ),
    (StreamWriter, "output_size", "the ingress sends 100 Continue before an answer"),
    (rocksdict.WriteBufferManager, "new_write_buffer_manager_with_cache", "one budget for all stores"),
]


@pytest.mark.parametrize(("owner", "name", "who"), PROPERTIES)
def test_an_attribute_that_is_read_exists(owner: type, name: str, who: str) -> None:
    assert hasattr(owner, name), f"{owner.__name__}.{name} is gone: {who}"


@pytest.mark.parametrize(
    "name",
    [
        "broker_client_id",
        "id",
        "consumer_group_instance_id",
        "PartitionAssignor",
        "broker_max_poll_interval",
        "consumer_max_fetch_size",
        "broker_request_timeout",
        "broker_session_timeout",
        "broker_rebalance_timeout",
        "broker_heartbeat_interval",
    ],
)
def test_a_setting_that_the_consumer_is_made_of_exists(name: str) -> None:
    assert name in inspect.signature(Settings.__init__).parameters or hasattr(Settings, name), f"conf.{name} is gone"


def test_the_table_manager_says_that_recovery_began_and_that_partitions_are_ready() -> None:
    source = inspect.getsource(TableManager.__init__)
    assert "self._recovery_started" in source, "LaneTableManager sets it at a rebalance: no table may be added after it"
    app = faust.App("contract-tables", store="memory://", autodiscover=False)
    tables: Any = app.tables
    assert tables.actives_ready is False
    tables.on_actives_ready()
    assert tables.actives_ready is True


def test_consumer_options_that_we_give_are_known_to_aiokafka() -> None:
    known = set(inspect.signature(aiokafka.AIOKafkaConsumer.__init__).parameters)
    ours = {
        "client_id", "group_id", "group_instance_id", "partition_assignment_strategy", "enable_auto_commit",
        "auto_offset_reset", "isolation_level", "max_poll_records", "max_poll_interval_ms",
        "max_partition_fetch_bytes", "fetch_max_wait_ms", "request_timeout_ms", "session_timeout_ms",
        "rebalance_timeout_ms", "heartbeat_interval_ms",
    }  # fmt: skip
    assert ours <= known, f"AIOKafkaConsumer no longer takes {ours - known}"


def test_producer_options_that_we_give_are_known_to_aiokafka() -> None:
    known = set(inspect.signature(aiokafka.AIOKafkaProducer.__init__).parameters)
    ours = {
        "transactional_id", "client_id", "transaction_timeout_ms", "request_timeout_ms", "retry_backoff_ms",
        "max_batch_size", "compression_type", "enable_idempotence", "acks",
    }  # fmt: skip
    assert ours <= known, f"AIOKafkaProducer no longer takes {ours - known}"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (aiokafka.AIOKafkaConsumer, "_client"),
        (aiokafka.AIOKafkaProducer, "client"),
        (aiokafka.AIOKafkaProducer, "_sender"),
        (aiokafka.AIOKafkaProducer, "_message_accumulator"),
        (AIOKafkaClient, "_conns"),
        (AIOKafkaConnection, "_protocol"),
        (MessageAccumulator, "_batches"),
        (MessageAccumulator, "_pending_batches"),
        (MessageBatch, "_drain_waiter"),
    ],
)
def test_what_is_closed_has_what_is_closed_in_it(owner: type, name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(owner), f"{owner.__name__}.{name} is gone: streams/kafka/closing.py"


def test_a_started_producer_has_its_id_and_its_epoch() -> None:
    assert "self._txn_manager = " in inspect.getsource(aiokafka.AIOKafkaProducer.__init__)
    for name in ("producer_id", "producer_epoch", "transactional_id"):
        assert name in inspect.getsource(TransactionManager), f"TransactionManager.{name} is gone: ProducerSession"


def test_a_batch_is_compressed_as_the_accumulator_says_when_it_is_made() -> None:
    create, make = aiokafka.AIOKafkaProducer.create_batch, MessageAccumulator.create_builder
    assert "self._message_accumulator = " in inspect.getsource(aiokafka.AIOKafkaProducer.__init__)
    assert "self._message_accumulator.create_builder(" in inspect.getsource(create)
    assert "self._compression_type" in inspect.getsource(make), "Producer.batch_for sets it before each batch"


def test_what_aiohttp_read_of_a_request_is_counted_and_put_into_its_queue_with_its_body() -> None:
    source = inspect.getsource(web.RequestHandler.data_received)
    assert "self._request_count += 1" in source, "Connection sees by it that a head has ended"
    assert "self._messages.append((msg, payload))" in source, "Connection reads the newest message and its body there"
    assert "_ErrInfo(status=400, exc=exc, message=exc.message), EMPTY_PAYLOAD" in source, "and sees that it is none"
    assert not issubclass(_ErrInfo, RawRequestMessage)


def test_what_has_been_sent_is_counted_as_the_answers_size() -> None:
    assert "request.writer.output_size > 0" in inspect.getsource(web.RequestHandler.handle_error)


def test_the_tuples_of_aiokafka_have_their_fields() -> None:
    assert OffsetAndMetadata._fields == ("offset", "metadata")
    assert "offset" in RecordMetadata._fields
    fields = set(getattr(ConsumerRecord, "__dataclass_fields__", {}))
    assert {"topic", "partition", "offset", "timestamp", "key", "value", "headers"} <= fields


def test_a_message_takes_its_arguments_in_the_order_in_which_the_transport_gives_them() -> None:
    assert parameters(ConsumerMessage.__init__)[:13] == [
        "self", "topic", "partition", "offset", "timestamp", "timestamp_type", "headers", "key", "value",
        "checksum", "serialized_key_size", "serialized_value_size", "tp",
    ]  # fmt: skip
    assert "generation_id" in parameters(ConsumerMessage.__init__)


def test_transports_are_found_by_an_alias_and_codecs_by_a_name() -> None:
    assert isinstance(TRANSPORTS.aliases, dict), "streams.kafka.transport.register writes TRANSPORTS.aliases"
    assert {"_loads", "_dumps"} <= set(vars(codecs.Codec)), "the batch codec overrides them"


def test_the_transport_says_which_consumer_it_makes() -> None:
    assert driver.Transport.Consumer is driver.Consumer
    assert driver.Consumer.consumer_stopped_errors
    assert issubclass(driver.Consumer, ThreadDelegateConsumer)
    assert isinstance(inspect.getattr_static(Service, "task"), classmethod | staticmethod), "@Service.task"


def test_the_fetcher_drains_the_consumer_that_faust_made() -> None:
    source = inspect.getsource(Fetcher)
    assert "_drain_messages(self)" in source, "Fetcher calls Consumer._drain_messages(fetcher)"


def test_the_app_calls_the_table_manager_with_the_generation() -> None:
    source = inspect.getsource(App._on_partitions_assigned)
    assert "self.tables.on_rebalance" in source
    assert "assigned, revoked, newly_assigned, generation_id" in source
    app = faust.App("contract-generation", store="memory://", autodiscover=False)
    assert app.consumer_generation_id == 0, "app.consumer_generation_id binds a restore to its generation"


def test_a_member_that_divided_no_topics_watches_none_unless_it_is_told_which() -> None:
    source = inspect.getsource(GroupCoordinator.__init__) + inspect.getsource(GroupCoordinator._on_join_prepare)
    assert source.count("self._group_subscription = None") == 2, "watch_topics sets it where nothing was divided"
    assert "self._group_instance_id = " in source, "watch_topics does so for static members only"
    watching = inspect.getsource(GroupCoordinator._handle_metadata_update)
    assert "self._metadata_snapshot != metadata_snapshot" in watching, "watch_topics sets what is compared"
    assert parameters(GroupCoordinator.request_rejoin) == ["self"]
    made = inspect.getsource(aiokafka.AIOKafkaConsumer.__init__)
    assert made.count("self._subscription") == 2, "ours takes its place before anything else has it"
    assert "self._subscription.subscribe(topics=topics)" in made, "which we do not pass"
    assigning = inspect.getsource(GroupCoordinator._on_join_complete)
    assert "self._subscription.assign_from_subscribed(assignment.partitions())" in assigning, (
        "Subscription overrides it"
    )
    for distribution, kept in (
        ("changelog_distribution", "_tps_url"),
        ("external_topic_distribution", "_external_tps_url"),
    ):
        assert f"self.{distribution} = " in inspect.getsource(PartitionAssignor.on_assignment), "Assignor.divided"
        assert f"self.{kept} = " in inspect.getsource(getattr(PartitionAssignor, distribution).fset), "Assignor.divided"


def test_the_consumer_remembers_what_is_unacknowledged_and_who_waits_for_it() -> None:
    source = inspect.getsource(Consumer.__init__) + inspect.getsource(Consumer._wait_for_ack)
    for name in ("_unacked_messages", "_waiting_for_ack"):
        assert f"self.{name}" in source, f"BatchConsumer.ack keeps {name}"
