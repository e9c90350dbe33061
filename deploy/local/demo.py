"""The provider payloads of ``deploy/demo``, and their expected results (``expected.json``; see the README there)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local import ROOT

__all__ = ["ACCOUNT", "DEFERRALS", "FOLDER", "PROVIDERS", "Payload", "payloads"]

FOLDER = ROOT / "deploy" / "demo"
ACCOUNT = "demo"
"""The name of the account for which they are fed."""
PROVIDERS = tuple(sorted(path.name for path in FOLDER.iterdir() if path.is_dir()))
DEFERRALS = {"warn_after_s": 20, "escalate_after_s": 60, "retry_window_s": 120, "overdue_slack_s": 30}
"""The account's policy, short enough to watch: a deferral is raised, and mostly resolved, within a minute."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One body of a webhook."""

    path: Path
    events: int
    """The number of different events in it."""
    statuses: Mapping[str, Sequence[str]]
    """The statuses of each delivery in order, by recipient."""
    dead_letters: int

    @property
    def provider(self) -> str:
        """The provider whose webhook it is."""
        return self.path.parent.name


def payloads() -> list[Payload]:
    """Return all, in the order in which they are fed."""
    return [
        Payload(
            path=FOLDER / row["file"],
            events=row["events"],
            statuses=row["statuses"],
            dead_letters=row["dead_letters"],
        )
        for row in json.loads((FOLDER / "expected.json").read_text())
    ]
