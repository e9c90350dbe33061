"""A race on a real broker, so that a change of the product that stops its own contestant is seen before somebody measures."""

import asyncio
from pathlib import Path

from bench import jobs, pure, traffic
from bench.ground import Ground
from bench.racing import OURS, Race
from deploy.local.broker import Broker

BODIES = 3_000
EVENTS_PER_BODY = 10


def test_our_own_contestant_does_the_products_job(broker: Broker, tmp_path: Path) -> None:
    ground = Ground(broker, tmp_path, partitions=2, compression="auto")
    records = pure.events_of(traffic.bodies_of(1, BODIES, EVENTS_PER_BODY))

    # It compares all outputs with those of the pure job, and raises if one differs.
    result = asyncio.run(Race(ground, jobs.named("product"), records).run(OURS, 0))

    assert result.outputs > BODIES
    assert result.events_per_s > 0
