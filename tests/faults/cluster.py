"""Three brokers that are one cluster (KRaft), each its own process: for losing one at a time.

The rule: to whoever only wants an address it is what one ``Broker`` is; whoever
breaks it names a node. Every node is broker and controller, so each loss is one of
the quorum, too. What the cluster keeps itself (``__consumer_offsets``,
``__transaction_state``) has three copies, of which two must have a write, as the
product's topics have them here.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy.local import processes
from deploy.local.broker import Broker, new_cluster_id
from deploy.local.ports import HOST, find
from tests.brokers import Passing

NODES = 3
SETTINGS: dict[str, object] = {"TOPICS__REPLICATION_FACTOR": 3, "TOPICS__MIN_INSYNC_REPLICAS": 2}
"""Of the workers: what production is told to take."""
INTERNAL = ("__consumer_offsets", "__transaction_state")
HEAP_MIB = 256


class Cluster:
    """Three nodes in folders below one."""

    def __init__(self, folder: Path, *, version: str | None = None) -> None:
        found = find(2 * NODES)
        voters = ",".join(f"{number}@{HOST}:{port}" for number, port in enumerate(found[NODES:], 1))
        cluster_id = new_cluster_id()
        self.nodes = [
            Passing(
                folder / f"node-{number}",
                port=port,
                controller_port=controller_port,
                properties={"node.id": str(number), "controller.quorum.voters": voters, **_COPIES},
                version=version,
                heap_mib=HEAP_MIB,
                cluster_id=cluster_id,
            )
            for number, (port, controller_port) in enumerate(zip(found[:NODES], found[NODES:], strict=True), 1)
        ]

    @property
    def bootstrap(self) -> str:
        """The addresses of all nodes."""
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def process(self) -> processes.Process | None:
        """Of any node that runs."""
        return next((node.process for node in self.nodes if node.process), None)

    def start(self, *nodes: Broker, timeout_s: float = 120) -> None:
        """Start some nodes, or all, at once: one alone is no quorum and would never answer."""
        chosen = nodes or tuple(self.nodes)
        with ThreadPoolExecutor(len(chosen)) as pool:
            list(pool.map(lambda node: node.start(timeout_s=timeout_s), chosen))

    def stop(self) -> None:
        for node in self.nodes:
            node.stop(grace_s=5)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self.nodes:
            node.resume()

    async def whole(self, timeout_s: float) -> None:
        """Wait until every copy of every partition is in sync: only then may the next node be lost.

        Raises:
            TimeoutError: some copy is not there; the text says which.
        """
        deadline = time.monotonic() + timeout_s
        while lacking := await self._lacking():
            if time.monotonic() > deadline:
                message = f"copies are missing: {lacking[:5]}"
                raise TimeoutError(message)
            await asyncio.sleep(0.3)

    async def copies(self) -> dict[str, int]:
        """Return the fewest copies that a partition of each topic has, in sync or not."""
        return {topic: min(len(partition["replicas"]) for partition in found) for topic, found in await self._topics()}

    async def _lacking(self) -> list[str]:
        try:
            return [
                f"{topic}/{partition['partition']}: {partition['isr']} of {partition['replicas']}"
                for topic, found in await self._topics()
                for partition in found
                if partition["error_code"] or len(partition["isr"]) < len(partition["replicas"])
            ]
        except (KafkaError, OSError, TimeoutError) as error:
            return [f"the cluster does not answer: {error!r}"]

    async def _topics(self) -> Iterator[tuple[str, list[dict[str, list[int]]]]]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            described = await admin.describe_topics()
        finally:
            await admin.close()
        return ((topic["topic"], topic["partitions"]) for topic in described)


_COPIES = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "min.insync.replicas": "2",
    # A node that came back leads nothing until the controller gives it its partitions again (300 s by default): the
    # loss of such a node would be no fault.
    "leader.imbalance.check.interval.seconds": "3",
}
