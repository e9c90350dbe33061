import gc
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from faust.types import TP

from deploy.local.broker import Broker
from streams.kafka.control import ControlTopic
from streams.records import encode_resume
from tests.contracts.clients import new_topic

STOPPED = TP("mail.raw.sendgrid", 2)


async def told(broker: Broker, topic: str, *commands: tuple[str, bytes | None]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True) as producer:
        for key, value in commands:
            await producer.send_and_wait(topic, key=key.encode(), value=value, partition=0)


APP = "mailstreams"
NOON = datetime(2026, 11, 20, tzinfo=UTC)


def command(resume_id: str, through: int | None = None, *, app_id: str = APP, offset: int = 12) -> bytes:
    return encode_resume(resume_id, NOON, through, app_id=app_id, offset=offset)


def control_of(broker: Broker, topic: str) -> ControlTopic:
    return ControlTopic(topic, {"bootstrap_servers": broker.bootstrap}, app_id=APP)


async def test_the_newest_command_for_a_partition_counts_and_those_for_others_do_not(broker: Broker) -> None:
    topic = await new_topic(broker, "control")
    control = control_of(broker, topic)
    assert await control.latest(STOPPED, 12) is None
    await told(
        broker,
        topic,
        ("mail.raw.sendgrid/2", command("first")),
        ("mail.raw.sendgrid/22", command("other")),
        ("mail.raw.sendgrid/2", command("second", 17)),
        ("mail.events/2", command("third")),
    )
    assert await control.latest(STOPPED, 12) == ("second", 17)
    assert await control.latest(TP("mail.events", 2), 12) == ("third", None)
    assert await control.latest(TP("mail.events", 3), 12) is None


async def test_what_is_no_command_is_passed_over(broker: Broker) -> None:
    topic = await new_topic(broker, "control")
    control = control_of(broker, topic)
    await told(
        broker,
        topic,
        ("mail.raw.sendgrid/2", command("first")),
        ("mail.raw.sendgrid/2", b"{"),
        ("mail.raw.sendgrid/2", b'{"resume_id":7}'),
        ("mail.raw.sendgrid/2", None),
    )
    assert await control.latest(STOPPED, 12) == ("first", None)


async def test_a_command_is_for_one_stop_of_one_application(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "streams")
    topic = await new_topic(broker, "control")
    control = control_of(broker, topic)
    old = b'{"resume_id":"old","requested_at":"2026-11-20T00:00:00Z","dead_letter_through":5123}'
    await told(
        broker,
        topic,
        ("mail.raw.sendgrid/2", old),
        ("mail.raw.sendgrid/2", command("mine")),
        ("mail.raw.sendgrid/2", command("earlier", 5_123, offset=5_000)),
        ("mail.raw.sendgrid/2", command("another's", 5_123, app_id="mailstreams-2")),
    )
    assert await control.latest(STOPPED, 12) == ("mine", None)
    assert await control.latest(STOPPED, 5_000) == ("earlier", 5_123)
    assert await control.latest(STOPPED, 21) is None
    assert await control.latest(STOPPED, -1) is None
    passed_over = [message for message in caplog.messages if "is ignored" in message]
    assert len(passed_over) == 4, "each of them once"


async def test_a_broker_that_does_not_answer_leaves_nothing_open(recwarn: pytest.WarningsRecorder) -> None:
    control = ControlTopic("mail.control", {"bootstrap_servers": "127.0.0.1:1"}, app_id=APP)
    with pytest.raises(KafkaConnectionError):
        await control.latest(STOPPED, 12)
    del control
    gc.collect()
    assert [warning for warning in recwarn if "Unclosed" in str(warning.message)] == []
