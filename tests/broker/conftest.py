"""A broker, topics and a worker process for one test alone: what it writes is compared with the model as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from streams import topics
from streams.settings import Settings
from tests.broker import harness
from tests.brokers import Passing
from tests.faults import oracle


@dataclass
class World:
    """Everything that one test of a worker needs."""

    broker: Broker
    settings: Settings
    worker: harness.WorkerProcess
    datadir: Path
    foreign: list[bytes | None] = field(default_factory=list)
    """What the test itself put on ``mail.events``."""

    async def feed(
        self, bodies: list[bytes | None], *, provider: str = "sendgrid", partition: int | None = None
    ) -> None:
        """Put bodies on a raw topic, spread over its partitions or all on one."""
        count = self.settings.topics.partitions
        headers = harness.raw_headers(provider)
        rows = [
            (number % count if partition is None else partition, None, body, headers)
            for number, body in enumerate(bodies)
        ]
        await harness.send(self.broker, topics.raw_topic(provider), rows)

    async def caught_up(self, timeout_s: float = 60, *, provider: str = "sendgrid") -> None:
        await harness.caught_up(self.broker, self.settings, (topics.raw_topic(provider), topics.EVENTS), timeout_s)

    async def verify(self, *, stores: bool = True) -> oracle.Verdict:
        return await oracle.verify(self.broker, self.settings, [self.datadir] if stores else [], foreign=self.foreign)

    async def read(self, topic: str) -> list[harness.Record]:
        found = await harness.read_all(self.broker, topic, self.settings.topics.partitions)
        return [record for records in found.values() for record in records]


class Make:
    """Makes one ``World``; closes it at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.broker = Passing(folder / "kafka")
        self.workers: list[harness.WorkerProcess] = []

    async def __call__(self, **overrides: object) -> World:
        self.broker.start()
        datadir = self._folder / "data"
        settings, environment = harness.settings_for(self.broker, datadir, overrides)
        await topics.create(settings)
        worker = harness.WorkerProcess(environment, self._folder / "worker.log")
        self.workers.append(worker)
        return World(self.broker, settings, worker, datadir)

    def close(self) -> None:
        for worker in self.workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.kill()
        self.broker.kill()


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Make]:
    """Make a world with the settings that the test wants."""
    make = Make(tmp_path)
    yield make
    make.close()
