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
        self.unknown: set[TP] = set()
        self.asked = 0
        self.crashes: list[BaseException] = []
        self.waits = asyncio.Event()
        self.waits.set()
        self.positions = Positions(self._commit, on_crash=self.crashes.append, interval_s=interval_s)

    async def _commit(self, positions: Mapping[TP, tuple[int, str]]) -> set[TP]:
        self.asked += 1
        await self.waits.wait()
        if self.fails is not None:
            raise self.fails
        if known := {tp: at for tp, at in positions.items() if tp not in self.unknown}:
            self.commits.append(known)
        return positions.keys() & self.unknown

    async def until(self, commits: int) -> None:
        async with asyncio.timeout(5):
            while len(self.commits) < commits:
                await asyncio.sleep(0.005)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while self.asked < times:
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


async def test_what_a_commit_leaves_out_is_committed_when_the_broker_knows_its_topic_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A follower of the group hears nothing of it, and a partition without records tells no other position."""
    group = Group()
    group.unknown = {ONE, OTHER}
    group.positions.reach(ONE, 1, "one")
    group.positions.reach(OTHER, 1, "other")
    await group.until_asked(3)
    group.positions.reach(OTHER, 2, "other")
    await group.until_asked(5)
    assert group.commits == []
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [ONE.topic]
    group.unknown.clear()
    await group.until(1)
    assert group.commits == [{ONE: (1, "one"), OTHER: (2, "other")}]


async def test_what_a_commit_left_out_is_forgotten_with_its_lane() -> None:
    group = Group()
    group.unknown = {ONE, OTHER}
    group.positions.reach(ONE, 1, "")
    group.positions.reach(OTHER, 2, "")
    await group.positions.flush()
    group.positions.forget(ONE)
    group.unknown.clear()
    await group.until(1)
    assert group.commits == [{OTHER: (2, "")}]


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
