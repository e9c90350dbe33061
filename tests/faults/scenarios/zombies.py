"""A worker that stood still past its session timeout wakes when another has its partitions: it must write nothing."""

import asyncio
import signal

from tests.faults.scenarios.registry import Play, Scene, scenario
from tests.faults.worker import POINTS


def _zombie_at(point: str) -> Play:
    async def zombie(world: Scene) -> None:
        await world.backlog(300)
        sleeper = world.member("zombie", fault=f"stop:{point}:{2 if point == 'published' else 4}")
        sleeper.start()
        await world.said(sleeper, "fault: stop")
        heir = world.member("heir")
        heir.start()  # gets the partitions when the zombie's session has timed out
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
