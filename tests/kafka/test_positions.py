"""The positions of all lanes: committed together, late, but never early."""

import asyncio
from collections.abc import Mapping

import pytest
from aiokafka.errors import CommitFailedError, KafkaConnectionError
from faust.types import TP

from streams.kafka.positions import Positions

ONE, OTHER = TP("mail.raw.sendgrid", 0), TP("mail.raw.sendgrid", 1)


class Group:
    """The group's coordinator: what it took, and what it says."""

    def __init__(self, interval_s: float = 0.01) -> None:
        self.commits: list[dict[TP, tuple[int, str]]] = []
        self.fails: Exception | None = None
        self.crashes: list[BaseException] = []
        self.waits = asyncio.Event()
        self.waits.set()
        self.positions = Positions(self._commit, on_crash=self.crashes.append, interval_s=interval_s)

    async def _commit(self, positions: Mapping[TP, tuple[int, str]]) -> None:
        await self.waits.wait()
        if self.fails is not None:
            raise self.fails
        self.commits.append(dict(positions))

    async def until(self, commits: int) -> None:
        async with asyncio.timeout(5):
            while len(self.commits) < commits:
                await asyncio.sleep(0.005)


async def test_positions_of_a_while_are_committed_in_one_request_the_last_of_each_partition() -> None:
    group = Group()
    for offset in range(1, 6):
        group.positions.reach(ONE, offset, "one")
    group.positions.reach(OTHER, 9, "other")
    assert group.commits == []
    await group.until(1)
    assert group.commits == [{ONE: (5, "one"), OTHER: (9, "other")}]


async def test_what_is_reached_during_a_commit_is_committed_by_the_next() -> None:
    group = Group()
    group.waits.clear()
    group.positions.reach(ONE, 1, "")
    await asyncio.sleep(0.03)
    group.positions.reach(ONE, 2, "")
    group.waits.set()
    await group.until(2)
    assert group.commits == [{ONE: (1, "")}, {ONE: (2, "")}]


async def test_a_flush_commits_at_once_and_waits_for_a_commit_that_is_under_way() -> None:
    group = Group(interval_s=60)
    group.positions.reach(ONE, 1, "")
    await group.positions.flush()
    assert group.commits == [{ONE: (1, "")}]
    group.waits.clear()
    group.positions.reach(ONE, 2, "")
    first = asyncio.create_task(group.positions.flush())
    second = asyncio.create_task(group.positions.flush())
    await asyncio.sleep(0.01)
    assert not first.done()
    assert not second.done()
    group.waits.set()
    await asyncio.gather(first, second)
    assert group.commits[1:] == [{ONE: (2, "")}]


async def test_without_anything_reached_nothing_is_committed() -> None:
    group = Group()
    await group.positions.flush()
    assert group.commits == []


async def test_after_a_refused_commit_its_partitions_learn_that_they_have_a_new_owner() -> None:
    group = Group()
    group.fails = CommitFailedError("rebalanced")
    group.positions.reach(ONE, 1, "")
    await group.positions.flush()
    group.fails = None
    with pytest.raises(CommitFailedError, match="sendgrid/0 has a new owner"):
        group.positions.reach(ONE, 2, "")
    group.positions.reach(OTHER, 3, "")
    await group.positions.flush()
    assert (group.commits, group.crashes) == ([{OTHER: (3, "")}], [])


@pytest.mark.parametrize("error", [KafkaConnectionError(), RuntimeError("bug")])
async def test_positions_that_cannot_be_committed_for_another_reason_end_the_process(error: Exception) -> None:
    group = Group()
    group.fails = error
    group.positions.reach(ONE, 1, "")
    async with asyncio.timeout(5):
        while not group.crashes:
            await asyncio.sleep(0.005)
    assert group.crashes == [error]
