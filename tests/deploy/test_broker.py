import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from deploy.local import LocalError, broker, ports
from deploy.local.broker import Broker

# annotated in part only
Producer: Any = AIOKafkaProducer
Consumer: Any = AIOKafkaConsumer
Admin: Any = AIOKafkaAdminClient
Topic: Any = NewTopic


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, not started, in a folder whose name takes more than ASCII to write."""
    own = Broker(tmp_path / r"Łukasz \u0041 käfka 🎈")
    yield own
    own.stop()


async def write(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer(bootstrap_servers=bootstrap, request_timeout_ms=5000, max_request_size=9 * 1024 * 1024)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str) -> bytes:
    consumer = Consumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        value: bytes = (await consumer.getone()).value
        return value
    finally:
        await consumer.stop()


async def create(bootstrap: str, topic: str) -> None:
    admin = Admin(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([Topic(topic, 1, 1)])
    finally:
        await admin.close()


async def test_a_record_of_the_size_of_the_largest_webhook_goes_through(broker: Broker) -> None:
    await create(broker.bootstrap, "large")
    value = os.urandom(8 * 1024 * 1024)

    await write(broker.bootstrap, "large", value)

    assert value == await read(broker.bootstrap, "large")


async def test_a_topic_that_nobody_created_is_not_created(broker: Broker) -> None:
    with pytest.raises(KafkaError):
        await write(broker.bootstrap, "undeclared", b"x")


def test_the_broker_of_the_session_logs_to_its_file(broker: Broker) -> None:
    assert "Kafka Server started" in broker.log.read_text()
    assert "SLF4J" not in (broker.data / "broker.out").read_text()


async def test_its_data_outlives_a_kill_in_a_folder_of_any_name_and_its_address_stays(own: Broker) -> None:
    own.start()
    bootstrap = own.bootstrap
    await create(bootstrap, "kept")
    await write(bootstrap, "kept", b"value")

    own.kill()
    assert own.process is None
    own.start()

    assert bootstrap == own.bootstrap
    assert (own.data / "log" / "kept-0").is_dir()
    assert await read(own.bootstrap, "kept") == b"value"


def test_a_paused_broker_answers_nobody_until_it_is_resumed_and_can_be_stopped(own: Broker) -> None:
    own.start()
    own.pause()
    process = own.process
    assert process is not None
    assert process.pid == os.getpgid(process.pid) != os.getpgid(0)  # its own group: nothing else stands still
    with socket.create_connection((ports.HOST, own.port or 0), timeout=1) as connection:  # the system still accepts
        connection.sendall(bytes.fromhex("00000013 0003 0001 00000001 0005") + b"tests" + bytes(4))
        with pytest.raises(TimeoutError):
            connection.recv(1)

        own.resume()
        assert connection.recv(4)
    own.pause()
    started = time.monotonic()
    own.stop(grace_s=10)

    assert time.monotonic() - started < 9
    assert own.process is None
    own.stop()  # again: nothing to do


def test_a_used_port_is_refused_in_a_line_that_names_it_and_the_setting(tmp_path: Path) -> None:
    port, other = ports.find(2)
    for own, setting in (
        (Broker(tmp_path / "kafka", port=port, controller_port=other), "KAFKA_PORT"),
        (Broker(tmp_path / "kafka", port=other, controller_port=port), "CONTROLLER_PORT"),
    ):
        with socket.create_server((ports.HOST, port)), pytest.raises(LocalError) as error:
            own.start()
        assert f"port {port} is not free (Address already in use): choose another by {setting}=<port>" == str(
            error.value
        )
        assert own.process is None


def test_a_folder_that_kafka_would_take_for_two_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the second would be below it

    with pytest.raises(LocalError, match="a path with a comma"):
        Broker(tmp_path / "mail, streams").start()

    assert not list(tmp_path.iterdir())


def test_a_callers_setting_wins_and_if_kafka_refuses_it_the_reason_is_told(own: Broker) -> None:
    own.properties = {"offsets.topic.num.partitions": "0"}

    with pytest.raises(LocalError) as error:
        own.start()

    assert "offsets.topic.num.partitions" in str(error.value)
    assert "\n" not in str(error.value)
    assert own.process is None


def test_it_starts_only_once_on_its_folder_and_is_stopped_from_anywhere(
    own: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    own.start()
    with pytest.raises(LocalError, match="a broker already runs on"):
        Broker(own.data).start()
    data = ["--data", str(own.data)]
    assert broker.main(["status", *data]) == 0
    assert broker.main(["start", *data]) == 1
    assert broker.main(["stop", *data]) == 0
    assert broker.main(["status", *data]) == 1

    assert "error: a broker already runs on" in capsys.readouterr().err
    assert own.process is None


def test_an_interrupt_while_it_starts_leaves_no_broker_behind(own: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(broker, "_answers", interrupt)

    with pytest.raises(KeyboardInterrupt):
        own.start()

    assert own.process is None
