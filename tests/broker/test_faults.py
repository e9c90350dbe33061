"""A short set of faults, each caused on a real broker; the oracle says what must be true afterwards."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from streams import topics
from tests.broker import harness, oracle
from tests.broker.conftest import Make, World

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

POINTS = ["fenced", "folded", "published", "committed", "stored"]


async def _fed(make_world: Make, **overrides: object) -> tuple[World, int]:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    world = await make_world(WORKER__BATCH_RECORDS=200, **overrides)
    await world.feed(list(harness.bodies(seed, 1_000, 10, deliveries=1_500)))
    return world, seed


async def _true(world: World, *, stores: bool = True) -> None:
    verdict = await world.verify(stores=stores)
    assert verdict.word == oracle.ALL_DELIVERED, verdict.differences[:5]
    assert verdict.differences == []
    assert verdict.expected.applied > 5_000


async def test_a_worker_killed_at_each_named_point_of_the_batch_order_leaves_nothing_wrong(make_world: Make) -> None:
    world, seed = await _fed(make_world, KAFKA__GROUP_INSTANCE_ID="worker-1")
    chance = random.Random(seed)
    faulty = harness.WorkerProcess(world.worker.environment, world.worker.log, command=harness.FAULTY)
    for point in POINTS:
        faulty.start(FAULT=f"kill:{point}:{chance.randrange(1, 4)}")
        assert faulty.wait() == -signal.SIGKILL
        assert f"fault: kill at {point}" in faulty.output
    world.worker.start()
    await world.caught_up(90)
    assert world.worker.stop() == 0
    await _true(world)


@pytest.mark.parametrize("point", ["folded", "committed"])
async def test_a_zombie_that_wakes_after_its_partitions_moved_writes_nothing_that_counts(
    make_world: Make, point: str
) -> None:
    world, _ = await _fed(make_world)
    zombie = harness.WorkerProcess(
        dict(world.worker.environment) | {"MAILSTREAMS_WORKER__DATADIR": str(world.datadir.with_name("zombie"))},
        Path(f"{world.worker.log}.zombie"),
        command=harness.FAULTY,
    )
    zombie.start(FAULT=f"stop:{point}:6")
    zombie.wait_for("fault: stop")
    world.worker.start()  # gets the partitions when the zombie's session has timed out
    world.worker.wait_ready(60)
    await world.caught_up(90)
    zombie.signal(signal.SIGCONT)
    assert zombie.wait(60) == 1, zombie.output[-2000:]
    await world.feed(list(harness.bodies(1, 10, 10, deliveries=50)))
    await world.caught_up(60)
    assert world.worker.stop() == 0
    await _true(world)


async def test_a_second_worker_takes_its_share_and_gives_it_back(make_world: Make) -> None:
    world, _ = await _fed(make_world)
    second = harness.WorkerProcess(
        dict(world.worker.environment) | {"MAILSTREAMS_WORKER__DATADIR": str(world.datadir.with_name("second"))},
        Path(f"{world.worker.log}.second"),
    )
    world.worker.start()
    world.worker.wait_ready()
    second.start()
    second.wait_ready()
    deadline = time.monotonic() + 30
    while world.worker.metric("mailstreams_partitions_owned") != second.metric("mailstreams_partitions_owned") != 0:
        assert time.monotonic() < deadline, (world.worker.output, second.output)
        time.sleep(0.2)
    await world.feed(list(harness.bodies(2, 300, 10, deliveries=500)))
    assert second.stop() == 0
    await world.feed(list(harness.bodies(3, 300, 10, deliveries=500)))
    await world.caught_up(90)
    assert world.worker.stop() == 0
    await _true(world)


async def test_a_worker_beyond_the_partitions_is_ready_and_idle(make_world: Make) -> None:
    world = await make_world(TOPICS__PARTITIONS=1)
    second = harness.WorkerProcess(
        dict(world.worker.environment) | {"MAILSTREAMS_WORKER__DATADIR": str(world.datadir.with_name("second"))},
        Path(f"{world.worker.log}.second"),
    )
    for worker in (world.worker, second):
        worker.start()
        worker.wait_ready()
    deadline = time.monotonic() + 30
    while [world.worker.get("/readyz")[0], second.get("/readyz")[0]] != [200, 200]:
        assert time.monotonic() < deadline, (world.worker.get("/readyz"), second.get("/readyz"))
        time.sleep(0.2)
    owned = sorted(worker.metric("mailstreams_partitions_owned") for worker in (world.worker, second))
    assert owned[0] == 0 < owned[1]
    assert [second.stop(), world.worker.stop()] == [0, 0]


async def test_a_worker_told_to_stop_while_it_starts_stops_at_once(make_world: Make) -> None:
    world = await make_world()
    for pause in (0, 0.3, 0.6, 0.9):
        world.worker.start()
        world.worker.wait_for("/readyz")
        time.sleep(pause)
        began = time.monotonic()
        assert world.worker.stop() == 0, world.worker.output
        assert time.monotonic() - began < 10  # worker.shutdown_s is 20: it did not run out
        assert "Traceback" not in world.worker.output


async def test_a_broker_that_is_killed_and_comes_back_costs_time_and_nothing_else(make_world: Make) -> None:
    world, _ = await _fed(make_world, KAFKA__GROUP_INSTANCE_ID="worker-1")
    log = world.worker.log.with_name("supervised.log")
    with log.open("wb") as output:
        supervised = subprocess.Popen(
            [harness.FAULTY[0], "-m", "deploy.local.supervisor", "--", harness.FAULTY[0], "-m", "streams", "worker"],
            env=harness.inherited(world.worker.environment),
            stdout=output,
            stderr=output,
        )
        try:
            while b"partitions ready" not in log.read_bytes():
                time.sleep(0.1)
            for _ in range(2):
                time.sleep(random.uniform(0.2, 1))
                world.broker.kill()
                time.sleep(2)
                world.broker.start()
            await world.feed(list(harness.bodies(4, 100, 10, deliveries=500)))
            await world.caught_up(120)
        finally:
            supervised.send_signal(signal.SIGTERM)
            supervised.wait(60)
    await _true(world)


async def test_a_worker_waits_for_its_broker_and_says_so(make_world: Make) -> None:
    world = await make_world()
    world.broker.stop()
    world.worker.start()
    world.worker.wait_for("waiting for the broker", 30)
    assert world.worker.get("/livez")[0] == 200
    ready, why = world.worker.get("/readyz")
    assert (ready, "the broker does not answer" in why) == (503, True)
    world.broker.start()
    world.worker.wait_ready(60)
    assert world.worker.stop() == 0


async def test_the_oracle_sees_a_change_that_was_told_twice(make_world: Make) -> None:
    world, _ = await _fed(make_world)
    world.worker.start()
    await world.caught_up(60)
    assert world.worker.stop() == 0
    some = (await world.read(topics.STATUS_CHANGED))[0]
    await harness.send(world.broker, topics.STATUS_CHANGED, [(some.partition, some.key, some.value, [])])

    verdict = await world.verify()

    assert verdict.word == oracle.MORE
    assert len(verdict.differences) == 1
