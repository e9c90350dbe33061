"""A broker that is killed, stopped in order, or stands still."""

import asyncio

from tests.faults.scenarios.registry import Play, Scene, scenario


@scenario("the broker is killed and started again, 5 times", short=True)
async def broker_killed(world: Scene) -> None:
    await world.at_work(2)

    async def kill_and_start() -> None:
        await asyncio.to_thread(world.broker.kill)
        await world.pause(0.2, 4)
        await asyncio.to_thread(world.broker.start, timeout_s=120)

    for _ in world.times(5):
        await world.backlog(100)
        await world.pause(0.1, 1)
        await world.measure(kill_and_start)


@scenario("the broker is stopped in order and started again, 5 times")
async def broker_restarted(world: Scene) -> None:
    await world.at_work(2)

    async def restart() -> None:
        await asyncio.to_thread(world.broker.stop)
        await asyncio.to_thread(world.broker.start, timeout_s=120)

    for _ in world.times(5):
        await world.pause(0.1, 1)
        await world.measure(restart)


def _broker_stands_for(seconds: float) -> Play:
    async def broker_stands(world: Scene) -> None:
        await world.at_work(2)
        await world.backlog(100)

        async def stand() -> None:
            world.broker.pause()
            await asyncio.sleep(seconds)
            world.broker.resume()

        await world.measure(stand)

    return broker_stands


for _seconds in (5, 30, 90):
    scenario(f"the broker stands still (SIGSTOP) for {_seconds} s", named=f"broker-stands-{_seconds}s")(
        _broker_stands_for(_seconds)
    )
