"""A worker that stood still wakes when another has its partitions: it must write nothing that anybody sees.

A dynamic member loses them when its session has timed out, a static one at once, to whoever comes under its name.
"""

import asyncio
import contextlib
import signal

from tests.faults.scenarios.registry import Play, Scene, scenario
from tests.faults.worker import POINTS
from tests.faults.world import PATIENCE_S


def _zombie_at(point: str, *, static: bool | str = False) -> Play:
    """``static``: the name of both in the group; without it they are dynamic members."""

    async def zombie(world: Scene) -> None:
        await world.backlog(300)
        sleeper = world.member("zombie", fault=f"stop:{point}:{2 if point == 'published' else 4}", static=static)
        sleeper.start()
        await world.said(sleeper, "fault: stop")
        heir = world.member("heir", static=static)
        heir.start()  # gets the partitions with the name, or when the zombie's session has timed out
        await world.said(heir, "partitions ready")
        world.traffic.start()
        await world.flowing()
        sleeper.signal(signal.SIGCONT)
        for _ in range(20):
            if not sleeper.alive:
                break
            await asyncio.sleep(0.5)
        world.outcome.notes.append(
            "the zombie joined again" if sleeper.alive else f"the zombie ended with {await world.ended(sleeper)}"
        )
        # A client that told its name in each heartbeat would hear FENCED_INSTANCE_ID and end. aiokafka tells it only when
        # it joins: the woken one is unknown, joins anew and takes the name back, unless a fence ends it before.
        world.outcome.notes.append(f"{heir.restarts} restarts of the heir")
        await world.flowing()
        await world.stop(sleeper)
        await world.flowing()

    return zombie


for _point in POINTS:
    scenario(
        f"a worker stopped past its session timeout at {_point}, and woken when another has its partitions",
        named=f"zombie-at-{_point}",
        short=_point == "sent",
    )(_zombie_at(_point))
    scenario(
        f"a static member stopped at {_point}, and woken when another has its name and its partitions",
        named=f"static-zombie-at-{_point}",
    )(_zombie_at(_point, static="one-name"))


@scenario("two workers live under one name, and throw each other out of the group until one is stopped")
async def one_name_twice(world: Scene) -> None:
    first, second = (world.member(name, static="one-name") for name in ("first", "second"))
    await world.start(first)
    world.traffic.start()
    await world.flowing()
    second.start()
    await asyncio.sleep(10 if world.quick else 30)

    def took_over() -> int:
        return sum(worker.log.read_text().count("partitions ready") for worker in (first, second))

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):  # on a busy machine a restart alone may take longer than the sleep
            while took_over() <= 2:
                await asyncio.sleep(0.5)
    world.outcome.notes.append(f"{took_over()} times one took over, {first.restarts + second.restarts} restarts")
    world.expect(took_over() > 2, "nobody threw the other out")
    await world.measure(lambda: world.stop(first))
