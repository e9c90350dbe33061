"""What a scenario is, the table in which all enter themselves, and how one is played."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.jars import KAFKA_VERSION
from tests.faults.world import Member, Outcome, World

Play = Callable[["Scene"], Awaitable[None]]


class Scene(World):
    """A world, how scenarios commonly begin in it, and how often a fault is repeated."""

    def __init__(self, chosen: "Scenario", folder: Path, *, seed: int, kafka: str, quick: bool) -> None:
        super().__init__(
            folder, seed=seed, kafka=kafka, proxied=chosen.proxied, cluster=chosen.cluster, broker=chosen.broker
        )
        self.quick = quick

    def times(self, whole: int, quick: int = 1) -> range:
        return range(quick if self.quick else whole)

    async def at_work(self, count: int = 1, *, static: bool = True) -> list[Member]:
        """Return so many workers (``static``: members by name) that are ready, with traffic that has come through them."""
        workers = [self.member(f"worker-{number}", static=static) for number in range(count)]
        await self.start(*workers)
        self.traffic.start()
        await self.flowing()
        return workers

    async def pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(least, most))


@dataclass(frozen=True)
class Scenario:
    """A fault with a name."""

    name: str
    about: str
    play: Play
    settings: Mapping[str, object] = field(default_factory=dict)
    """Of the workers."""
    broker: Mapping[str, str] = field(default_factory=dict)
    """Settings of the broker."""
    proxied: bool = False
    """The workers reach the broker through ``world.proxy``."""
    cluster: bool = False
    """Three brokers, not one."""
    alerts: bool = True
    """The clocks are right: it is known which alerts have to be told."""
    judged: bool = True
    """False where logs are destroyed on purpose: then the scenario itself says what has to hold."""
    short: bool = False
    """Part of ``make test``."""
    kills: bool = False
    """Its recoveries are those of the figures ``recovery_s_*``."""


SCENARIOS: dict[str, Scenario] = {}


def scenario(about: str, *, named: str | None = None, **options: object) -> Callable[[Play], Play]:
    """Enter a function under its own name, with dashes."""

    def enter(play: Play) -> Play:
        name = named or play.__name__.replace("_", "-")
        SCENARIOS[name] = Scenario(name, about, play, **options)  # type: ignore[arg-type] # the fields of Scenario
        return play

    return enter


async def play(chosen: Scenario, folder: Path, *, seed: int, quick: bool, kafka: str = KAFKA_VERSION) -> Outcome:
    """Play a scenario in a world of its own and judge. What it breaks off with is a complaint; what was seen before stays."""
    world = Scene(chosen, folder, seed=seed, kafka=kafka, quick=quick)
    try:
        await world.open(**chosen.settings)
        await chosen.play(world)
        if chosen.judged:
            await world.settle(alerts=chosen.alerts)
        else:
            world.hear_subscriber()
    except Exception as error:  # noqa: BLE001 - whatever it is, the fault was not survived
        (folder / "error.txt").write_text(traceback.format_exc())
        world.outcome.complaints.append(f"{type(error).__name__}: {str(error)[-600:]}")
    finally:
        await world.close()
    return world.outcome
