"""The faults of a cluster: three brokers, three copies of everything, two of which must have a write.

The rule: one broker at a time may be lost, whatever it led, and nobody notices
for longer than it takes to elect others; with two lost nothing can be written, so
nothing is acknowledged, and it goes on by itself when one is back. The next node
is only lost when every copy is in sync again, as an operator would wait.
"""

import asyncio
from functools import partial

from deploy.local.broker import Broker
from tests.faults import cluster
from tests.faults.scenarios.registry import Scene, scenario
from tests.faults.world import PATIENCE_S

STAND_S = 12.0
"""Two brokers are away for so long: beyond every deadline of the workers' transactions."""
SILENT_S = 30.0
"""One broker says nothing for so long: the others have long taken over, and the workers have long been restarted."""


async def _two_workers(world: Scene) -> cluster.Cluster:
    brokers = world.broker
    assert isinstance(brokers, cluster.Cluster)
    await world.at_work(2)
    await brokers.whole(PATIENCE_S)
    copies = await brokers.copies()
    assert set(cluster.INTERNAL) <= copies.keys()
    world.expect(set(copies.values()) == {3}, f"not everything has three copies: {copies}")
    return brokers


def _in_turn(brokers: cluster.Cluster, rounds: range) -> list[Broker]:
    return [node for _ in rounds for node in brokers.nodes]


async def _back(world: Scene, brokers: cluster.Cluster, *nodes: Broker) -> None:
    await asyncio.to_thread(brokers.start, *nodes, timeout_s=PATIENCE_S)
    await brokers.whole(PATIENCE_S)
    await world.flowing()


def _note_restarts(world: Scene) -> None:
    restarts = sum(member.restarts for member in world.members.values())
    world.outcome.notes.append(f"{restarts} restarts of workers")


@scenario(
    "each of three brokers is killed in turn, and comes back when the others have taken over",
    settings=cluster.SETTINGS,
    cluster=True,
)
async def one_of_three_brokers_killed(world: Scene) -> None:
    brokers = await _two_workers(world)
    for node in _in_turn(brokers, world.times(3)):
        await world.backlog(100)
        await world.pause(0.1, 1)
        await world.measure(partial(asyncio.to_thread, node.kill))
        await _back(world, brokers, node)
    _note_restarts(world)


@scenario(
    "each of three brokers is stopped in order, one after the other, and started again",
    settings=cluster.SETTINGS,
    cluster=True,
)
async def one_of_three_brokers_stopped(world: Scene) -> None:
    brokers = await _two_workers(world)
    for node in _in_turn(brokers, world.times(2)):
        await world.pause(0.1, 1)
        await world.measure(partial(asyncio.to_thread, node.stop))
        await _back(world, brokers, node)
    _note_restarts(world)


@scenario(
    "each of three brokers stands still (SIGSTOP) for 30 s, in turn: the others have taken over when it wakes",
    settings=cluster.SETTINGS,
    cluster=True,
)
async def one_of_three_brokers_stands(world: Scene) -> None:
    brokers = await _two_workers(world)
    for node in _in_turn(brokers, world.times(1)):
        await world.backlog(100)

        async def stand(node: Broker = node) -> None:
            node.pause()
            await asyncio.sleep(SILENT_S)
            node.resume()

        await world.measure(stand)
        await brokers.whole(PATIENCE_S)
        await world.flowing()
    _note_restarts(world)


@scenario(
    "two of three brokers are killed: nothing is acknowledged and nothing told until one is back",
    settings=cluster.SETTINGS,
    cluster=True,
)
async def two_of_three_brokers_killed(world: Scene) -> None:
    brokers = await _two_workers(world)
    for number in world.times(3):
        await world.backlog(100)
        await world.pause(0.1, 1)
        away = [node for place, node in enumerate(brokers.nodes) if place != number]
        await asyncio.gather(*(asyncio.to_thread(node.kill) for node in away))
        await asyncio.sleep(1)  # what was acknowledged before is still on its way to us
        before = _progress(world)
        await asyncio.sleep(STAND_S)
        world.expect(_progress(world) == before, f"something was written on one copy: {before}, {_progress(world)}")
        first, second = away
        await world.measure(partial(asyncio.to_thread, brokers.start, first, timeout_s=PATIENCE_S))
        await _back(world, brokers, second)
    _note_restarts(world)


def _progress(world: Scene) -> tuple[int, int]:
    """Return how many webhooks were acknowledged, and how many changes were told."""
    return len(world.traffic.acknowledged), sum(map(len, world.subscriber.seen.values()))
