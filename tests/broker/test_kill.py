"""kill -9 at random moments: nothing lost, nothing wrong, nothing told twice."""

import random
import time

import pytest

from tests.broker import harness
from tests.broker.conftest import Make
from tests.faults import oracle


@pytest.mark.broker
@pytest.mark.timeout(280)
async def test_after_five_kills_everything_equals_the_model(make_world: Make) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    world = await make_world(KAFKA__GROUP_INSTANCE_ID="worker-1", WORKER__BATCH_RECORDS=1000)
    await world.feed(list(harness.bodies(seed, 20_000, 10, deliveries=30_000)))
    for _ in range(5):
        world.worker.start()
        world.worker.wait_ready()
        time.sleep(chance.uniform(0.1, 3))
        world.worker.kill()
    world.worker.start()
    await world.caught_up(200)
    assert world.worker.stop() == 0

    verdict = await world.verify()

    assert verdict.word == oracle.ALL_DELIVERED, verdict.differences[:5]
    assert verdict.differences == []
    assert verdict.expected.applied > 100_000
    assert verdict.expected.duplicate > 10_000
