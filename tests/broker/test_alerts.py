"""The monitor of a real worker against the alert oracle: nothing missed, nothing false, nothing told twice."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from streams import codecs, records, topics
from streams.policies import policies_of
from tests.broker import harness
from tests.broker.conftest import Make, World
from tests.faults.alerts import Known, Told, problems

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

LONG = os.environ.get("MAILSTREAMS_TEST_ALERTS") == "long"
"""Ten kills, one each 20 s, as the claim has it; else four, one each 10 s."""
KILLS, EACH_S = (10, 20.0) if LONG else (4, 10.0)
SECOND_US = 1_000_000
OUTAGE_S = 30
"""So long a killed worker is away at most, with all that a busy machine adds."""
POLICY = {
    "DEFERRALS__WARN_AFTER_S": 6,
    "DEFERRALS__ESCALATE_AFTER_S": 14,
    "DEFERRALS__RETRY_WINDOW_S": 20,
    "DEFERRALS__OVERDUE_SLACK_S": 4,
}
LAST_DEADLINE_S = 24
OF_A_BACKLOG = {
    "DEFERRALS__WARN_AFTER_S": 6,
    "DEFERRALS__ESCALATE_AFTER_S": 7,
    "DEFERRALS__RETRY_WINDOW_S": 8,
    "DEFERRALS__OVERDUE_SLACK_S": 1,
}
"""The first deadline leaves time to write the backlog; the others come soon after it, as the worker waits for all."""


def sendgrid(number: int, kind: str, at: float, copy: int = 0) -> dict[str, Any]:
    """Return one event of SendGrid's; ``at`` in seconds since 1970, of which it keeps the whole ones."""
    made: dict[str, Any] = {
        "email": f"payer{number}@customer{number % 97}.example",
        "timestamp": int(at),
        "event": kind,
        "sg_event_id": f"{kind}-{number}-{copy}",
        "sg_message_id": f"m{number}.filter0001.16648.5515E0B88.0",
        "invoice": f"INV-{number}",
    }
    if kind == "deferred":
        throttled = number % 7 == 0
        made |= {
            "response": "IPs reached ISP-suggested hourly limits" if throttled else "421 4.3.2 Try again later",
            "attempt": str(copy + 1),
        }
    if kind == "bounce":
        made |= {"reason": "550 5.1.1 No such user", "status": "5.1.1", "type": "bounce"}
    return made


def plan(chance: random.Random, number: int, starts_at: float) -> list[tuple[float, dict[str, Any]]]:
    """Return the events of one message, each with the time at which SendGrid sends it: late, twice, in disorder."""
    happens = [(starts_at, "processed")] if chance.random() < 0.7 else []
    lasts = chance.choices([0.0, chance.uniform(1, 4), chance.uniform(8, 22), 50.0, None], [2, 5, 5, 3, 5])[0]
    tried = chance.choice([0, 1, 2, 3])
    if lasts != 0.0:
        happens += [(starts_at + n * (lasts or 18.0) / (tried + 1), "deferred") for n in range(tried + 1)]
    if lasts is not None:
        happens.append((starts_at + lasts, chance.choices(["delivered", "bounce", "dropped"], [6, 2, 1])[0]))
    sent = []
    for copy, (at, kind) in enumerate(happens):
        event = sendgrid(number, kind, at, copy)
        late = chance.choices([chance.uniform(0.1, 1.5), chance.uniform(5, 14)], [9, 1])[0]
        sent.append((at + late, event))
        if chance.random() < 0.2:
            sent.append((at + late + chance.uniform(0, 10), event))
    return sent


async def play(world: World, plans: Sequence[tuple[float, dict[str, Any]]], chance: random.Random) -> None:
    """Send each event when its time has come, a few together, to any partition."""
    left = sorted(plans, key=lambda one: one[0])
    async with AIOKafkaProducer(bootstrap_servers=world.broker.bootstrap, acks="all") as producer:
        while left:
            now = time.time()
            due = [event for at, event in left if at <= now]
            left = left[len(due) :]
            chance.shuffle(due)
            for first in range(0, len(due), 10):
                partition = chance.randrange(world.settings.topics.partitions)
                await producer.send_and_wait(
                    topics.raw_topic("sendgrid"),
                    codecs.encode(due[first : first + 10]),
                    partition=partition,
                    headers=harness.raw_headers("sendgrid"),
                )
            await asyncio.sleep(0.2)


async def all_read(world: World, *, provider: str = "sendgrid", timeout_s: float = 120) -> None:
    sources = (topics.raw_topic(provider), topics.EVENTS, topics.DEFERRALS)
    await harness.caught_up(world.broker, world.settings, sources, timeout_s)


async def alerts_of(world: World) -> list[dict[str, Any]]:
    """Return all alerts as a ``read_committed`` reader sees them, those of a delivery in order."""
    return [records.decode_alert(record.value) for record in await world.read(topics.DEFERRAL_ALERTS)]


async def histories(world: World) -> Mapping[str, list[Known]]:
    """Return what ``track`` read of each delivery, in its order, with the time at which the broker took the webhook."""
    taken = {
        f"{record.topic}/{record.partition}/{record.offset}": record.timestamp * 1_000
        for record in await world.read(topics.raw_topic("sendgrid"))
    }
    found: dict[str, list[Known]] = defaultdict(list)
    for record in await world.read(topics.EVENTS):
        assert record.value is not None
        event = records.decode_event(record.value)
        found[event.delivery_id].append(Known(taken[json.loads(record.value)["source"]], event))
    return found


async def complaints(world: World, told: Sequence[Told], ended_us: int) -> list[str]:
    """Return what the oracle finds wrong when nothing more can come after ``ended_us``."""
    policy = policies_of(world.settings)("acme", "sendgrid")

    def sure(since: int, until: int) -> bool:
        return min(until, ended_us) - since >= OUTAGE_S * SECOND_US

    def possible(since: int, until: int) -> bool:
        return since < min(until + 1_000, ended_us)  # the broker's times are in whole milliseconds

    found = []
    known = await histories(world)
    for delivery_id, history in known.items():
        of_it = [alert for alert in told if alert["delivery_id"] == delivery_id]
        found += [f"{delivery_id}: {each}" for each in problems(history, of_it, policy, sure, possible)]
    strangers = {alert["delivery_id"] for alert in told} - known.keys()
    return found + [f"{stranger}: false: nothing is known of it" for stranger in strangers]


async def test_alerts_of_a_worker_that_is_killed_again_and_again_are_those_that_the_oracle_demands(
    make_world: Make,
) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    world = await make_world(KAFKA__GROUP_INSTANCE_ID="worker-1", WORKER__BATCH_RECORDS=50, **POLICY)
    began = time.time()
    plans = [one for number in range(600) for one in plan(chance, number, began + chance.uniform(2, KILLS * EACH_S))]
    playing = asyncio.create_task(play(world, plans, chance))
    for _ in range(KILLS):
        world.worker.start()
        await asyncio.sleep(chance.uniform(0.3, 1) * EACH_S)
        world.worker.kill()
    world.worker.start()
    await playing
    overdue = began + KILLS * EACH_S + LAST_DEADLINE_S
    await asyncio.sleep(max(0, overdue - time.time()) + OUTAGE_S + 2)  # and every alert that is due has to be there
    await all_read(world)
    ended_us = time.time_ns() // 1_000
    assert world.worker.stop() == 0

    told = await alerts_of(world)
    assert await complaints(world, told, ended_us) == []
    levels = Counter(alert["level"] for alert in told)
    print(levels, Counter(alert["outcome"] for alert in told), sum(alert["annulled"] for alert in told), "annulled")
    assert min(levels[level] for level in ("raised", "escalated", "overdue", "resolved")) > 20

    # And the comparison would have seen each of the three.
    ended = {alert["delivery_id"] for alert in told if alert["level"] == "resolved"}
    one = next(n for n, alert in enumerate(told) if alert["level"] == "overdue" and alert["delivery_id"] not in ended)
    assert "missed: overdue" in " ".join(await complaints(world, told[:one] + told[one + 1 :], ended_us))
    assert "doubled: overdue" in " ".join(await complaints(world, [*told, told[one]], ended_us))
    early = [alert | ({"due_at": alert["deferred_since"]} if n == one else {}) for n, alert in enumerate(told)]
    assert "false: overdue" in " ".join(await complaints(world, early, ended_us))


async def _backlog(world: World) -> int:
    """Write raw webhooks while no worker runs; of one message alone the end is not among them: return its number."""
    count = 300
    now = time.time()
    await world.feed([codecs.encode([sendgrid(n, "deferred", now)]) for n in range(count + 1)], partition=0)
    filler: list[bytes | None] = [
        codecs.encode([sendgrid(1_000 + 100 * body + n, "processed", now) for n in range(100)]) for body in range(300)
    ]
    await world.feed(filler, partition=1)
    await world.feed([codecs.encode([sendgrid(n, "delivered", now + 1)]) for n in range(count)], partition=1)
    taken = [record.timestamp for record in await world.read(topics.raw_topic("sendgrid"))]
    assert max(taken) / 1000 < int(now) + 6, "all of it was taken before the first deadline"
    await asyncio.sleep(max(0, now + 11 - time.time()))  # every deadline has passed, by the wall clock
    return count


async def test_a_backlog_raises_no_alert_for_what_ended_in_it_and_silence_raises_a_true_one(make_world: Make) -> None:
    """Nothing is in ``mail.deferrals``; all is in raw, and the ends are read long after their deferrals."""
    world = await make_world(WORKER__BATCH_RECORDS=100, WORKER__TICK_INTERVAL_S=0.1, **OF_A_BACKLOG)
    silent = await _backlog(world)

    world.worker.start()
    await all_read(world)
    await _told(world, 3)
    assert world.worker.stop() == 0

    told = await alerts_of(world)
    assert {(alert["reference"], alert["level"]) for alert in told} == {
        (f"INV-{silent}", level) for level in ("raised", "escalated", "overdue")
    }
    assert await complaints(world, told, time.time_ns() // 1_000) == []


BY_THE_WALL_CLOCK = """
import sys, time
from streams.__main__ import main
from streams.kafka.progress import Progress
Progress.now = lambda self, tp: time.time_ns() // 1000
sys.argv = ["mailstreams", "worker"]
sys.exit(main())
"""


async def test_the_oracle_sees_what_a_monitor_that_goes_by_the_wall_clock_tells_of_a_backlog(make_world: Make) -> None:
    world = await make_world(WORKER__BATCH_RECORDS=100, WORKER__TICK_INTERVAL_S=0.1, **OF_A_BACKLOG)
    await _backlog(world)
    world.worker.command = (sys.executable, "-c", BY_THE_WALL_CLOCK)

    world.worker.start()
    await all_read(world)
    await _told(world, 3)
    assert world.worker.stop() == 0

    assert any(
        "false: raised" in each for each in await complaints(world, await alerts_of(world), time.time_ns() // 1_000)
    )


async def test_a_provider_whose_webhooks_cannot_be_read_is_held_and_silences_no_other(make_world: Make) -> None:
    world = await make_world(WORKER__POISON_MINIMUM=5, DEFERRALS__WARN_AFTER_S=4)
    now = time.time()
    await world.feed([mailgun("held", now)], provider="mailgun", partition=0)
    world.worker.start()
    await all_read(world, provider="mailgun")
    await world.feed([b"{malformed"] * 20, provider="mailgun", partition=1)
    await world.feed([mailgun("behind it", time.time())], provider="mailgun", partition=1)
    world.worker.wait_for("mail.raw.mailgun/1 stopped")
    stopped_in_time = time.time() < now + 4
    await world.feed([codecs.encode([sendgrid(1, "deferred", time.time())])])

    await _told(world, 1, of="sendgrid")
    await asyncio.sleep(5)
    if stopped_in_time:  # on a busy machine the first may have been raised before
        assert {alert["provider"] for alert in await alerts_of(world)} == {"sendgrid"}

    resumed = subprocess.run(
        [sys.executable, "-m", "streams", "resume", "mail.raw.mailgun", "1", "--dead-letter-through", "19"],
        env=dict(world.worker.environment) | {"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    told = await _told(world, 2, of="mailgun")
    assert world.worker.stop() == 0
    assert {(alert["level"], alert["due_at"]) for alert in told} >= {
        ("raised", f"{datetime.fromtimestamp(int(now) + 4, UTC):%Y-%m-%dT%H:%M:%SZ}")
    }, "the deadline that it had"


MAILGUN = json.loads(
    (Path(__file__).parents[1] / "providers" / "payloads" / "mailgun" / "failed_temporary.json").read_text(
        encoding="utf-8"
    )
)


def mailgun(name: str, at: float) -> bytes:
    """Return a temporary failure at a whole second."""
    data = MAILGUN["event-data"] | {"id": name, "timestamp": float(int(at))}
    data["message"] = {"headers": data["message"]["headers"] | {"message-id": f"{name.replace(' ', '-')}@mg.example"}}
    return codecs.encode(MAILGUN | {"event-data": data})


async def _told(world: World, count: int, *, of: str = "sendgrid", timeout_s: float = 120) -> list[dict[str, Any]]:
    """Wait until so many alerts of a provider were told."""
    deadline = time.monotonic() + timeout_s
    while True:
        told = [alert for alert in await alerts_of(world) if alert["provider"] == of]
        if len(told) >= count:
            return told
        assert time.monotonic() < deadline, (told, world.worker.output[-2_000:])
        await asyncio.sleep(0.5)
