"""Brokers whose data nobody needs once their tests have ended: quick to start, and to end.

Kafka's tool that prepares a folder is a Java process of its own: a quarter of what a start costs. What it writes differs
only in the ids of node, folder and cluster, so that each process of tests runs it once, and then copies.
"""

from pathlib import Path
from types import TracebackType

from deploy.local.broker import Broker, new_cluster_id

_META = "meta.properties"
_prepared: dict[str, dict[str, bytes]] = {}
"""By version of Kafka: what its tool wrote into a folder, by name; without the file of the ids."""


class Passing(Broker):
    """A broker whose folder is prepared without Kafka's tool, and which ends by SIGKILL where its ``with`` does."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _format(self, lib: Path) -> None:
        folder = self.data / "log"
        if (folder / _META).exists():
            return
        if self.version not in _prepared:
            super()._format(lib)
            _prepared[self.version] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != _META}
            return
        folder.mkdir()
        for name, content in _prepared[self.version].items():
            (folder / name).write_bytes(content)
        ids = {
            "version": "1",
            "node.id": self.properties.get("node.id", "1"),
            "directory.id": new_cluster_id(),
            "cluster.id": self.cluster_id or new_cluster_id(),
        }
        (folder / _META).write_text("".join(f"{key}={value}\n" for key, value in ids.items()))
