"""A broker of their own for the tests of a file that stop it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from tests.brokers import Passing


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that may be stopped for a while without harm to other tests."""
    path: Path = tmp_path_factory.mktemp("paused")
    with Passing(path) as broker:
        yield broker
