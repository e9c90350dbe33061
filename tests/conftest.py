"""What all tests share: hypothesis' profiles, and one real Kafka broker, started when a test asks.

``make test`` runs files side by side in several processes (pytest-xdist). "The session" is one such process: each
has a broker of its own, on free ports and in a folder of its own.
"""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from deploy.local import jars
from deploy.local.broker import Broker
from tests import java, order
from tests.brokers import Passing

# No deadline anywhere: how long an example takes depends on who else uses the machine.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

os.environ.setdefault("JDK_JAVA_OPTIONS", java.options(jars.asked_for()))

# A shell that starts us in the background makes us deaf to Ctrl-C, and so each process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Give a real broker on free ports with temporary data; tests keep apart by the names of their topics."""
    with Passing(tmp_path_factory.mktemp("kafka"), properties=java.LASTING) as broker:
        yield broker


pytest_plugins = ["tests.reports"]

STARTS_A_BROKER = {"broker", "own_broker", "make_world"}
"""Fixtures; a test that starts one without them carries the mark itself."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> order.FromBothEnds | None:
    """Let ``--dist loadfile`` take files from both ends."""
    return order.FromBothEnds(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files in order; and mark what needs the broker, for ``-m 'not broker'`` and `make test-broker`."""
    order.arrange(items)
    for item in items:
        if not STARTS_A_BROKER.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.broker)
