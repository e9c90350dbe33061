from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer
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


def command(resume_id: str, through: int | None = None) -> bytes:
    return encode_resume(resume_id, datetime(2026, 11, 20, tzinfo=UTC), through)


async def test_the_newest_command_for_a_partition_counts_and_those_for_others_do_not(broker: Broker) -> None:
    topic = await new_topic(broker, "control")
    control = ControlTopic(topic, {"bootstrap_servers": broker.bootstrap})
    assert await control.latest(STOPPED) is None
    await told(
        broker,
        topic,
        ("mail.raw.sendgrid/2", command("first")),
        ("mail.raw.sendgrid/22", command("other")),
        ("mail.raw.sendgrid/2", command("second", 17)),
        ("mail.events/2", command("third")),
    )
    assert await control.latest(STOPPED) == ("second", 17)
    assert await control.latest(TP("mail.events", 2)) == ("third", None)
    assert await control.latest(TP("mail.events", 3)) is None


async def test_what_is_no_command_is_passed_over(broker: Broker) -> None:
    topic = await new_topic(broker, "control")
    control = ControlTopic(topic, {"bootstrap_servers": broker.bootstrap})
    await told(
        broker,
        topic,
        ("mail.raw.sendgrid/2", command("first")),
        ("mail.raw.sendgrid/2", b"{"),
        ("mail.raw.sendgrid/2", b'{"resume_id":7}'),
        ("mail.raw.sendgrid/2", None),
    )
    assert await control.latest(STOPPED) == ("first", None)
