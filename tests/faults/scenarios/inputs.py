"""Records that nobody should have sent, and clocks that are wrong."""

import asyncio
import time
from datetime import datetime

from streams import codecs, records, topics
from tests.broker import harness
from tests.faults.scenarios.registry import Scene, scenario
from tests.faults.world import PATIENCE_S

POISON: tuple[bytes | None, ...] = (
    None,
    b"",
    b"{malformed",
    b'[{"event": "\xff\xfe"}]',
    b"[" * 100_000 + b"]" * 100_000,
    b'[{"event": "delivered", "timestamp": NaN}]',
    b'[{"event": "delivered", "timestamp": 1e400}]',
    b'{"event": "delivered", "event": "bounce"}',
    b"42",
    b"null",
    b'[{"event": "delivered", "sg_event_id": "no-message"}]',
    b"\x00" * 1000,
)


@scenario("poison of every kind at every stage, and a kill on top", settings={"WORKER__POISON_MINIMUM": 1000})
async def poison(world: Scene) -> None:
    [worker] = await world.at_work()
    for provider in world.settings.topics.providers:
        await world.feed(list(POISON), provider=provider)
    keys = (None, b"a-key", b"\xff\xfe", b"")
    for topic in (topics.SENDS, topics.EVENTS, topics.DEFERRALS):
        rows: list[tuple[int, bytes | None, bytes | None, list[object]]] = [
            (number % 4, keys[number % len(keys)], value, [])
            for number, value in enumerate((*POISON, b"{}", b'{"delivery_id": 1}', codecs.encode({"provider": "x"})))
        ]
        await harness.send(world.broker, topic, rows)
        if topic == topics.EVENTS:
            world.foreign += [value for _, _, value, _ in rows]
    await world.measure(worker.kill)
    world.expect(worker.restarts == 1, f"the poison ended the worker: {worker.restarts} restarts")


@scenario(
    "one worker's clock is two hours ahead, the other's behind; events from tomorrow, 1970 and last month",
    # so that the traffic's deferrals fall due by the wrong clock, from now to an hour and a half in the future
    settings={"DEFERRALS__WARN_AFTER_S": 5400, "DEFERRALS__ESCALATE_AFTER_S": 6000},
    alerts=False,
)
async def skewed_clocks(world: Scene) -> None:
    workers = [world.member(f"worker-{ahead}", CLOCK_AHEAD_S=str(ahead)) for ahead in (7200, -7200)]
    for worker in workers:
        worker.kept = True
    await world.start(*workers)
    world.traffic.start()
    await world.flowing()
    now = int(time.time())
    times = (now + 86_400, now - 30 * 86_400, now - 60 * 86_400, 0, now * 1000, -1)
    await world.feed(
        [
            codecs.encode(
                [
                    {
                        "email": f"payer{number}@customer.example",
                        "timestamp": at,
                        "event": kind,
                        "sg_event_id": f"skewed-{number}-{kind}",
                        "sg_message_id": f"skewed{number}.filter0001.1.1.0",
                    }
                    for kind in ("processed", "deferred", "delivered")
                ]
            )
            for number, at in enumerate(times)
        ]
    )
    victim = world.chance.choice(workers)
    await world.measure(victim.kill)
    await world.traffic.stop()  # only with nothing to read does a worker go by its own clock
    async with asyncio.timeout(PATIENCE_S):
        while not any(map(_over_an_hour_ahead, await world.alerts())):
            await asyncio.sleep(1)
    restarts = {worker.name: worker.restarts for worker in workers}
    world.expect(sum(restarts.values()) == 1, f"the clocks ended a worker: {restarts} restarts")


def _over_an_hour_ahead(alert: harness.Record) -> bool:
    """Tell whether an alert fell due by a wrong clock, and so late that Kafka 4 by default would not take it."""
    due_at = datetime.fromisoformat(records.decode_alert(alert.value)["due_at"])
    return due_at.timestamp() > time.time() + 3600
