"""One broker and one ingress process for all tests of the edge that do no harm to them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from streams import topics
from streams.settings import load
from tests import java
from tests.brokers import Passing
from tests.web.edge import Edge, Listener, environment


@pytest.fixture(scope="package")
def edge_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Passing(tmp_path_factory.mktemp("edge-kafka"), properties=java.LASTING) as broker:
        asyncio.run(topics.create(load(environment=environment(broker, tmp_path_factory.mktemp("edge-settings")))))
        yield broker


@pytest.fixture(scope="package")
def edge(edge_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder: Path = tmp_path_factory.mktemp("edge")
    edge = Edge(edge_broker, folder, environment(edge_broker, folder))
    edge.start()
    try:
        edge.wait_ready()
        yield edge
    finally:
        edge.kill()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()
