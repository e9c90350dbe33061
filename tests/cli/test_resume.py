"""A stopped source partition is listed and told to go on."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from streams import codecs, records, topics
from streams.kafka.poison import Poison
from streams.kafka.positions import Position
from tests.cli.conftest import Cluster, Invoke
from tests.test_texts import HOSTILE

_Consumer: Any = AIOKafkaConsumer
TOPIC = "mail.raw.mailgun"


def commit(cluster: Cluster, partition: int, metadata: str, offset: int = 100) -> None:
    """Commit as the worker does, with what it knows of the partition in the metadata."""

    async def work() -> None:
        settings = cluster.settings
        where = TopicPartition(TOPIC, partition)
        client = _Consumer(**settings.kafka.client_options(), group_id=settings.worker.app_id, enable_auto_commit=False)
        client.assign([where])
        await client.start()
        try:
            await client.commit({where: OffsetAndMetadata(offset, metadata)})
        finally:
            await client.stop()

    asyncio.run(work())


def stopped(reason: str = "15 of the last 20 records are bad: no RecordType") -> str:
    return Position(100, poison=Poison(seen=20, bad=15, stopped=reason)).encode()


def orders(cluster: Cluster) -> list[tuple[str, records.Resume]]:
    return [(record.key.decode(), records.decode_resume(record.value)) for record in cluster.consume(topics.CONTROL)]


def test_without_arguments_what_is_stopped_is_listed_with_the_command(invoke: Invoke, cluster: Cluster) -> None:
    commit(cluster, 0, stopped())
    commit(cluster, 1, Position(100, poison=Poison(seen=20, bad=1)).encode())
    commit(cluster, 2, "written by another tool")

    result = invoke("resume")
    as_json = codecs.decode(invoke("resume", "--json").stdout)

    assert result.exit_code == 0
    assert result.stdout == (
        f"{TOPIC}/0 is stopped at offset 100: 15 of the last 20 records are bad: no RecordType\n"
        f"  mailstreams resume {TOPIC} 0\n"
    )
    assert as_json == {
        "topic": TOPIC,
        "partition": 0,
        "offset": 100,
        "reason": "15 of the last 20 records are bad: no RecordType",
    }


def test_nothing_stopped_is_said(invoke: Invoke, cluster: Cluster) -> None:
    commit(cluster, 0, Position(100).encode())

    result = invoke("resume")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing is stopped\n")


def test_a_stopped_partition_is_told_to_go_on(invoke: Invoke, cluster: Cluster) -> None:
    commit(cluster, 0, stopped())
    before = orders(cluster)

    result = invoke("resume", TOPIC, 0)

    assert (result.exit_code, "told to go on" in result.stderr) == (0, True)
    assert "or once one runs" in result.stderr, "nobody looked whether one does"
    (key, order) = orders(cluster)[-1]
    assert (key, order.dead_letter_through) == (f"{TOPIC}/0", None)
    assert (order.app_id, order.offset) == (cluster.settings.worker.app_id, 100), "it is for this stand alone"
    assert order.resume_id not in {old.resume_id for _, old in before}


def test_a_command_is_for_the_stop_that_the_worker_knows_also_where_the_offset_was_moved(
    invoke: Invoke, cluster: Cluster
) -> None:
    commit(cluster, 0, stopped(), offset=40)

    assert invoke("resume", TOPIC, 0).exit_code == 0

    assert orders(cluster)[-1][1].offset == 100


def test_records_up_to_an_offset_can_be_given_up(invoke: Invoke, cluster: Cluster) -> None:
    commit(cluster, 0, stopped())

    result = invoke("resume", TOPIC, 0, "--dead-letter-through", 120, "--json")

    assert codecs.decode(result.stdout) == {"resumed": TOPIC, "partition": 0, "dead_letter_through": 120}
    assert orders(cluster)[-1][1].dead_letter_through == 120


def test_an_offset_that_is_past_is_refused(invoke: Invoke, cluster: Cluster) -> None:
    commit(cluster, 0, stopped())
    before = len(orders(cluster))

    result = invoke("resume", TOPIC, 0, "--dead-letter-through", 99)

    assert (result.exit_code, len(orders(cluster))) == (2, before)
    assert "is stopped at offset 100" in result.stderr


def test_a_partition_that_is_not_stopped_is_refused(invoke: Invoke, cluster: Cluster) -> None:
    commit(cluster, 1, Position(100).encode())
    before = len(orders(cluster))

    result = invoke("resume", TOPIC, 1)

    assert result.exit_code == 1
    assert result.stderr == f"mailstreams: {TOPIC}/1 is not stopped; the list: mailstreams resume\n"
    assert len(orders(cluster)) == before


def test_a_topic_needs_a_partition(invoke: Invoke) -> None:
    assert invoke("resume", TOPIC).exit_code == 2
    assert invoke("resume", TOPIC, "x").exit_code == 2
    assert invoke("resume", "--dead-letter-through", 5).exit_code == 2


def test_a_hostile_reason_reaches_no_terminal(invoke: Invoke, cluster: Cluster) -> None:
    commit(cluster, 0, stopped(HOSTILE))

    text = invoke("resume").stdout

    assert all(line.isprintable() for line in text.splitlines())
