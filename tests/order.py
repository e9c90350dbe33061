"""In which order ``make test`` runs the files, and which of its processes runs which.

Some files mostly wait, for brokers and for clocks, and others do nothing but work. If all processes went through one
list, they would wait together in one folder and be in each other's way in the next. So they take files from both ends
of it: the last process from the end, where those stand that work, all others from the front, where those stand that
wait. On either side the longest come first: what is left, where the two meet, is short.
"""

from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from deploy.local import ROOT

WAITING: Final = (
    "tests/broker/test_alerts.py",
    "tests/faults/test_scenarios.py",
    "tests/faults/test_oracle.py",
    "tests/web/",
    "tests/cli/",
    "tests/broker/test_worker.py",
    "tests/history/test_kill.py",
    "tests/broker/test_members.py",
    "tests/broker/test_kill.py",
    "tests/deploy/test_stack.py",
    "tests/history/test_chain.py",
    "tests/bench/test_main.py",
    "tests/deploy/test_broker.py",
    "tests/deploy/test_demo.py",
    "tests/contracts/",
    "tests/broker/",
)
"""Files and folders, the longest first."""
WORKING: Final = (
    "tests/deploy/test_prometheus.py",
    "tests/providers/test_all.py",
    "tests/history/test_browser.py",
    "tests/agents/",
    "tests/providers/",
    "tests/history/",
    "tests/faults/test_alerts.py",
    "tests/simulate/",
    "tests/domain/",
)
"""The same; whatever is in neither list is run between the two."""
TOGETHER: Final = ("tests/cli/", "tests/web/")
"""Folders that one process runs as a whole: their tests share a broker, which ends with the last of them."""


def rank(name: str) -> int:
    """Return the place of a test's file among all: the less, the nearer to the front."""
    for place, start in enumerate(WAITING):
        if name.startswith(start):
            return place - len(WAITING)
    for place, start in enumerate(WORKING):
        if name.startswith(start):
            return len(WORKING) - place
    return 0


def arrange(items: list[pytest.Item]) -> None:
    """Put the tests in order, those of a file as they were."""
    for name in (*WAITING, *WORKING):
        if not (ROOT / name).exists():
            message = f"tests/order.py names {name}, which is not there"
            raise pytest.UsageError(message)
    items.sort(key=lambda item: rank(item.nodeid))


class FromBothEnds(LoadFileScheduling):
    """Gives the last process what stands at the end, and all others what stands at the front."""

    def _split_scope(self, nodeid: str) -> str:
        together = (folder for folder in TOGETHER if nodeid.startswith(folder))
        return next(together, super()._split_scope(nodeid))

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is self.nodes[-1]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
