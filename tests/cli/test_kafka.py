"""Commands end, whatever the brokers do: aiokafka itself would try for ever."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError, KafkaTimeoutError

from deploy.local import ports
from deploy.local.broker import Broker
from streams import topics
from streams.cli import BROKER_UNAVAILABLE, Failure
from streams.cli import _kafka as module
from streams.settings import Settings, load
from tests.brokers import Passing
from tests.cli.conftest import Invoke, environment


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may stop."""
    with Passing(tmp_path / "kafka") as broker:
        yield broker
        broker.resume()


@pytest.fixture
async def settings(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a cluster with our topics, for commands that are impatient."""
    for name, value in (("_ACKNOWLEDGE_S", 1.0), ("_STOP_S", 0.5), ("_PROOF_S", 0.5), ("_REQUEST_TIMEOUT_MS", 3_000)):
        monkeypatch.setattr(module, name, value)
    settings = load(environment=environment(own_broker.bootstrap))
    await topics.create(settings)
    return settings


async def test_a_command_that_writes_ends_when_nothing_is_acknowledged(own_broker: Broker, settings: Settings) -> None:
    async def write() -> None:
        async with module.producer(settings) as client:
            await client.partitions_for(topics.CONTROL)  # else it would ask a broker that is silent
            own_broker.pause()
            await module.acknowledged([await client.send(topics.CONTROL, b"resume", partition=0)])

    async def fill_the_buffer() -> None:
        async with module.producer(settings):
            raise KafkaTimeoutError  # by aiokafka's send

    with pytest.raises(Failure, match="not acknowledged within 3 s"):
        await fill_the_buffer()
    with pytest.raises(
        Failure, match=r"not acknowledged within 1 s.*; a part may be written, and doing it again"
    ) as told:
        await write()
    assert told.value.exit_code == BROKER_UNAVAILABLE


async def test_whoever_watches_is_told_when_the_brokers_are_gone(own_broker: Broker, settings: Settings) -> None:
    async def watch() -> None:
        async for _ in module.read_on(settings, topics.STATUS_CHANGED, from_beginning=True):
            pytest.fail("nothing was written")

    watching = asyncio.create_task(watch())
    await asyncio.sleep(2)
    assert not watching.done(), "an idle topic is no broker that is gone"
    own_broker.kill()
    with pytest.raises(KafkaError):
        await watching


def test_a_cluster_that_names_a_broker_out_of_reach_is_not_said_to_refuse(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As one in a container that names itself as only other containers find it: the port that was asked is another one."""
    elsewhere = f"PLAINTEXT://127.0.0.1:{ports.find(1)[0]}"
    with Passing(tmp_path, heap_mib=256, properties={"advertised.listeners": elsewhere}) as broker:
        monkeypatch.setenv("MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap)

        result = invoke("topics", "create")

    assert result.exit_code == BROKER_UNAVAILABLE
    assert f"{broker.bootstrap} answers, but a broker of that cluster cannot be reached from here" in result.stderr
    assert "advertised.listeners" in result.stderr
