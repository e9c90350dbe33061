"""A broker for the command line alone: its topics have the real names, as in production and in a child process."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from click.testing import CliRunner, Result

from deploy.local.broker import Broker
from streams import topics
from streams.cli import cli
from streams.settings import Settings, load
from tests import java
from tests.brokers import Passing
from tests.contracts.clients import settled

_Producer: Any = AIOKafkaProducer
_Consumer: Any = AIOKafkaConsumer
_TRANSACTIONAL_ID = "the-tests"

Invoke = Callable[..., Result]


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Passing(tmp_path_factory.mktemp("kafka-cli"), heap_mib=256, properties=java.LASTING) as broker:
        yield broker


def environment(bootstrap: str) -> dict[str, str]:
    return {
        "MAILSTREAMS_CONFIG": os.devnull,
        "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "MAILSTREAMS_TOPICS__PARTITIONS": "3",
    }


@pytest.fixture(autouse=True)
def _no_settings_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MAILSTREAMS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MAILSTREAMS_CONFIG", os.devnull)


@pytest.fixture
def invoke() -> Invoke:
    """Run a command in this process."""

    def invoke(*arguments: object, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin, prog_name="mailstreams")

    return invoke


@dataclass(frozen=True, slots=True)
class Cluster:
    """A broker with all topics, for a command line that finds it by its environment."""

    settings: Settings

    def produce(self, topic: str, *records: dict[str, Any], commit: bool | None = None) -> list[Any]:
        """Write records; in a transaction that is committed or aborted, or in none."""
        return asyncio.run(self._produce(topic, records, commit))

    def consume(self, topic: str) -> list[Any]:
        """Return all that a topic holds, uncommitted records too."""
        return asyncio.run(self._consume(topic))

    async def _produce(self, topic: str, records: Sequence[dict[str, Any]], commit: bool | None) -> list[Any]:
        options = self.settings.kafka.client_options() | {"max_request_size": topics.MAX_RECORD_BYTES}
        if commit is not None:
            options["transactional_id"] = _TRANSACTIONAL_ID
        client = _Producer(**options)
        await client.start()
        try:
            if commit is None:
                return [await client.send_and_wait(topic, **record) for record in records]
            await client.begin_transaction()
            written = [await client.send_and_wait(topic, **record) for record in records]
            await (client.commit_transaction() if commit else client.abort_transaction())
            return written
        finally:
            await client.stop()
            if commit is not None:
                await settled(self.settings.kafka.bootstrap_servers, _TRANSACTIONAL_ID)

    async def _consume(self, topic: str) -> list[Any]:
        count = (await topics.partition_counts(self.settings))[topic]
        partitions = [TopicPartition(topic, number) for number in range(count)]
        client = _Consumer(
            **self.settings.kafka.client_options(),
            max_partition_fetch_bytes=topics.MAX_RECORD_BYTES,
            fetch_max_wait_ms=50,  # what is asked for before the seek is not there yet, and would be waited for
        )
        client.assign(partitions)
        await client.start()
        try:
            ends = await client.end_offsets(partitions)
            # not seek_to_beginning: a reset to the end that is under way already would win over it
            for partition, offset in (await client.beginning_offsets(partitions)).items():
                client.seek(partition, offset)
            found: list[Any] = []
            while any([await client.position(partition) < end for partition, end in ends.items()]):
                for records in (await client.getmany(timeout_ms=200)).values():
                    found.extend(records)
            return found
        finally:
            await client.stop()


@pytest.fixture(scope="package")
def _cluster(broker: Broker) -> Cluster:
    cluster = Cluster(load(None, environment(broker.bootstrap)))
    asyncio.run(topics.create(cluster.settings))
    return cluster


@pytest.fixture
def cluster(_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name, value in environment(_cluster.settings.kafka.bootstrap_servers).items():
        monkeypatch.setenv(name, value)
    return _cluster


def spawn(*arguments: object, **environ: str) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, without Python's buffers: as a person would see it."""
    return subprocess.Popen(
        [sys.executable, "-m", "streams", *map(str, arguments)],
        env=os.environ | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
