"""Everything that one scenario needs: a broker, topics, workers that are started again when they end, traffic, a witness."""

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition

from deploy.local import ports
from deploy.local.broker import Broker
from deploy.local.jars import KAFKA_VERSION
from streams import topics
from streams.domain.events import Send
from streams.kafka.partitioner import partition_of
from streams.settings import Settings
from tests.broker import harness
from tests.brokers import Passing
from tests.faults import oracle
from tests.faults.cluster import Cluster
from tests.faults.proxy import Proxy
from tests.faults.traffic import Subscriber, Traffic, send_record

PLAIN = (sys.executable, "-m", "streams", "worker")
FAULTY = (sys.executable, "-m", "tests.faults.worker")
PATIENCE_S = 240.0
"""How long the suite waits for something that must come: the machine may be busy, and nothing is judged by it."""
RESTART_AFTER_S = 0.5
"""A supervisor starts a worker again so soon after it ended."""


@dataclass
class Member(harness.WorkerProcess):
    """A worker of the group, with a name and a folder of its own."""

    name: str = ""
    datadir: Path = Path()
    kept: bool = True
    """It is started again when it ends, as a supervisor would."""
    restarts: int = 0
    """How often it ended by itself."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Outcome:
    """What became of a scenario."""

    verdict: oracle.Verdict | None = None
    """None where the logs were destroyed on purpose: then ``complaints`` says all."""
    complaints: list[str] = field(default_factory=list)
    """What was promised and did not hold, beside the verdict."""
    recoveries_s: list[float] = field(default_factory=list)
    """From each fault to the first input after it that came through each partition."""
    notes: list[str] = field(default_factory=list)
    duplicates: int = 0
    """Revisions that the subscriber saw again."""
    lost: int = 0
    """Revisions that the subscriber missed when their turn came, and what was acknowledged and is not there."""

    @property
    def survived(self) -> bool:
        return not self.complaints and (self.verdict is None or self.verdict.right)


class World:
    """A broker, or a cluster, of its own in a folder of its own; ``open`` it, play, ``settle``, ``close``."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        kafka: str = KAFKA_VERSION,
        proxied: bool = False,
        cluster: bool = False,
        broker: Mapping[str, str] | None = None,
    ) -> None:
        """``broker``: settings of the one broker."""
        self.folder = folder
        self.seed = seed
        self.chance = random.Random(seed)
        self.outcome = Outcome()
        self.members: dict[str, Member] = {}
        self.foreign: list[bytes | None] = []
        """What the scenario itself put on ``mail.events``."""
        port, controller_port, workers_port, proxy_port = ports.find(4)
        properties = dict(broker or {})
        if proxied:  # a second listener, for the workers alone, that says the proxy's address
            properties |= {
                "listeners": f"PLAINTEXT://127.0.0.1:{port},BAD://127.0.0.1:{workers_port},CONTROLLER://127.0.0.1:{controller_port}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},BAD://127.0.0.1:{proxy_port}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,BAD:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "inter.broker.listener.name": "PLAINTEXT",
            }
        self.broker: Broker | Cluster = (
            Cluster(folder / "kafka", version=kafka)
            if cluster
            else Passing(
                folder / "kafka", port=port, controller_port=controller_port, properties=properties, version=kafka
            )
        )
        self.proxy = Proxy(proxy_port, workers_port) if proxied else None
        self.settings: Settings
        self.environment: Mapping[str, str]
        self.traffic: Traffic
        self.subscriber: Subscriber
        self._keeper: asyncio.Task[None] | None = None

    # -- beginning and end ----------------------------------------------------------------------------------

    async def open(self, **overrides: object) -> None:
        """Start the broker, make the topics, begin to listen. ``overrides`` are settings of the workers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self.broker.start, timeout_s=PATIENCE_S)
        self.settings, environment = harness.settings_for(self.broker, self.folder / "data", overrides)
        if self.proxy is not None:
            await self.proxy.__aenter__()
            environment["MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS"] = f"127.0.0.1:{self.proxy.port}"
        self.environment = environment
        await topics.create(self.settings)
        self.traffic = Traffic(self.broker.bootstrap, self.settings, self.seed)
        self.subscriber = Subscriber(self.broker.bootstrap, self.settings)
        self.subscriber.start()
        self._keeper = asyncio.create_task(self._keep(), name="keeper")

    async def settle(self, *, alerts: bool = True) -> None:
        """End the traffic, let everything come to rest, stop the workers in order, and judge.

        ``alerts``: the workers' clocks are right, so that it is known what has to be told by now.
        """
        self.subscriber.watching = False
        await self.traffic.stop()
        await self.caught_up()
        ticked_us = await self.ticked() if alerts else None
        await self._release_keeper()
        owners = self._owners()
        await self.stop_all()
        verdict = await oracle.verify(self.broker, self.settings, owners, foreign=self.foreign, ticked_us=ticked_us)
        self.outcome.verdict = verdict
        self.expect(verdict.expected.applied > 0, "no event was applied: there was nothing to judge")
        await self._compare_witness(verdict)
        await self._compare_edge()

    def hear_subscriber(self) -> None:
        """Take down what the subscriber complains of."""
        self.outcome.duplicates = len(self.subscriber.repeated)
        self.outcome.lost += len(self.subscriber.out_of_order)
        self.expect(not self.subscriber.repeated, f"the subscriber saw again: {self.subscriber.repeated[:3]}")
        self.expect(not self.subscriber.out_of_order, f"the subscriber saw a gap: {self.subscriber.out_of_order[:3]}")

    async def close(self) -> None:
        """End everything that runs, whatever happened."""
        await self._release_keeper()
        for member in self.members.values():
            if member.alive:
                member.signal(signal.SIGCONT)
                await asyncio.to_thread(member.kill)
        for piece in ("subscriber", "traffic"):
            if hasattr(self, piece):
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(20):
                        await getattr(self, piece).stop()
        if self.proxy is not None:
            with contextlib.suppress(Exception):
                await self.proxy.__aexit__(None, None, None)
        self.broker.resume()
        await asyncio.to_thread(self.broker.kill)

    # -- workers ----------------------------------------------------------------------------------------------

    def member(self, name: str, *, fault: str | None = None, static: bool | str = False, **more: str) -> Member:
        """Return a worker that is not started yet.

        Args:
            name: Of its folder and its log.
            fault: As in ``tests.faults.worker``.
            static: A static member of the group, by its own name or by this one.
            more: Environment.
        """
        environment = {
            **self.environment,
            "MAILSTREAMS_WORKER__DATADIR": str(self.folder / f"data-{name}"),
            **({"MAILSTREAMS_KAFKA__GROUP_INSTANCE_ID": name if static is True else static} if static else {}),
            **({"FAULT": fault} if fault else {}),
            **more,
        }
        faulty = fault is not None or any(not key.startswith("MAILSTREAMS_") for key in more)
        member = Member(
            environment,
            self.folder / f"{name}.log",
            FAULTY if faulty else PLAIN,
            name=name,
            datadir=self.folder / f"data-{name}",
            kept=not faulty,
        )
        self.members[name] = member
        return member

    async def start(self, *members: Member) -> None:
        """Start workers and wait until each is ready."""
        for member in members:
            member.start()
        await asyncio.gather(*(asyncio.to_thread(member.wait_ready, PATIENCE_S) for member in members))

    async def said(self, member: Member, text: str) -> None:
        """Wait until a worker wrote ``text`` since its last start."""
        await asyncio.to_thread(member.wait_for, text, PATIENCE_S)

    async def ended(self, member: Member) -> int:
        """Wait until a worker that is not kept has ended; return its exit status."""
        return await asyncio.to_thread(member.wait, PATIENCE_S)

    async def stop(self, member: Member) -> None:
        """Stop a worker in order (SIGTERM)."""
        member.kept = False
        if member.alive:
            status = await asyncio.to_thread(member.stop, 60)
            if status != 0:
                self.outcome.notes.append(f"{member.name} stopped with {status}")

    async def stop_all(self) -> None:
        await asyncio.gather(*(self.stop(member) for member in self.members.values()))

    async def _keep(self) -> None:
        """Start what ended again, as a supervisor does."""
        while True:
            for member in list(self.members.values()):
                if member.kept and member.process is not None and not member.alive:
                    member.restarts += 1
                    await asyncio.sleep(RESTART_AFTER_S)
                    if member.kept:
                        member.start()
            await asyncio.sleep(0.05)

    async def _release_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    # -- faults and waiting -----------------------------------------------------------------------------------

    async def measure(
        self, fault: Callable[[], Awaitable[object] | object], *, patience_s: float = PATIENCE_S
    ) -> float:
        """Do harm; return the seconds until webhooks and sends that came after it have passed through every partition."""
        began, since_ms = time.monotonic(), int(time.time() * 1000) + 1
        result = fault()
        if isinstance(result, Awaitable):
            await result
        await self.subscriber.recovered(since_ms, patience_s)
        took = time.monotonic() - began
        self.outcome.recoveries_s.append(took)
        return took

    async def flowing(self) -> None:
        """Wait until webhooks and sends pass through every partition."""
        await self.subscriber.recovered(int(time.time() * 1000), PATIENCE_S)

    async def feed(self, bodies: Sequence[bytes | None], *, provider: str = "sendgrid") -> None:
        """Put bodies on a raw topic, spread over its partitions."""
        count = self.settings.topics.partitions
        headers = harness.raw_headers(provider)
        rows = [(number % count, None, body, headers) for number, body in enumerate(bodies)]
        await harness.send(self.broker, topics.raw_topic(provider), rows)

    async def feed_sends(self, sends: Iterable[Send]) -> None:
        """Put sends on ``mail.sends``, each in the partition of its key."""
        partitions = self.settings.topics.partitions
        records = map(send_record, sends)
        rows: list[tuple[int, bytes, bytes, list[object]]] = [
            (partition_of(key, partitions), key, value, []) for key, value in records
        ]
        await harness.send(self.broker, topics.SENDS, rows)

    async def backlog(self, count: int = 500) -> None:
        """Put ten times ``count`` events in at once, so that the next batches are large."""
        await self.feed(harness.bodies(self.chance.randrange(1 << 30), count, 10, deliveries=count))

    async def caught_up(self) -> None:
        """Wait until every stage has processed all that there is."""
        raw = [topics.raw_topic(name) for name in self.settings.topics.providers]
        await harness.caught_up(self.broker, self.settings, (*raw, topics.SENDS, topics.EVENTS), PATIENCE_S)

    async def committed(self, topic: str) -> dict[int, int]:
        """Return the group's committed offsets of a topic."""
        tps = [TopicPartition(topic, p) for p in range(self.settings.topics.partitions)]
        async with self.admin() as admin:
            found = await admin.list_consumer_group_offsets(self.settings.worker.app_id, partitions=tps)
        return {tp.partition: at.offset for tp, at in found.items() if at.offset >= 0}

    @contextlib.asynccontextmanager
    async def admin(self) -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def undecided(self) -> int:
        """Return how many offsets of the transactional topics a ``read_committed`` reader has to wait for."""
        names = (
            topics.STATUS_CHANGED,
            topics.STATUS,
            topics.DEFERRALS,
            topics.DEFERRAL_ALERTS,
            *(topics.changelog_topic(self.settings.worker.app_id, table) for table in oracle.TABLES),
        )
        tps = [TopicPartition(name, p) for name in names for p in range(self.settings.topics.partitions)]
        ends: list[int] = []
        for level in ("read_uncommitted", "read_committed"):
            async with AIOKafkaConsumer(
                *names, bootstrap_servers=self.broker.bootstrap, isolation_level=level
            ) as consumer:
                ends.append(sum((await consumer.end_offsets(tps)).values()))
        return ends[0] - ends[1]

    def expect(self, holds: object, otherwise: str) -> None:
        """Complain if something does not hold."""
        if not holds:
            self.outcome.complaints.append(otherwise)

    # -- the judgement ----------------------------------------------------------------------------------------

    async def ticked(self) -> int:
        """Wait until the monitor has looked at everything that is open, several times; return since when (µs)."""
        async with asyncio.timeout(PATIENCE_S):
            told = -1
            while told != (told := len(await self.alerts())):
                since_us = time.time_ns() // 1000
                await asyncio.sleep(5)
        return since_us

    async def alerts(self) -> list[harness.Record]:
        """Return what was told on ``mail.deferral-alerts``."""
        log = await harness.read_all(self.broker, topics.DEFERRAL_ALERTS, self.settings.topics.partitions)
        return [record for found in log.values() for record in found]

    def _owners(self) -> list[Path]:
        """Return the folders of the living workers: together they own everything."""
        return [member.datadir for member in self.members.values() if member.alive]

    async def _compare_witness(self, verdict: oracle.Verdict) -> None:
        log = await harness.read_all(self.broker, topics.STATUS_CHANGED, self.settings.topics.partitions)
        await self.subscriber.caught_up_with(log)
        self.hear_subscriber()
        same = dict(self.subscriber.seen) == dict(verdict.expected.changes)
        self.expect(same, "the subscriber did not see what the model says")

    async def _compare_edge(self) -> None:
        """Whatever was acknowledged, to the provider or to the application, is in its topic."""
        names = (topics.raw_topic("sendgrid"), topics.SENDS)
        logs = await harness.read_topics(self.broker, names, self.settings.topics.partitions)
        there = {(name, record.value) for name, log in logs.items() for found in log.values() for record in found}
        missing = Counter(topic for topic, value in self.traffic.acknowledged if (topic, value) not in there)
        self.outcome.lost += missing.total()
        self.expect(not missing, f"what was acknowledged is not there: {dict(missing)}")
