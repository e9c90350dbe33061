"""A race on a real broker, so that a change of the product that stops its own contestant is seen before somebody measures."""

from pathlib import Path

from bench import jobs, pure, racing, traffic
from bench.ground import Ground
from bench.racing import AIOKAFKA, AIOKAFKA_STORED, OURS, Race
from deploy.local.broker import Broker

BODIES = 3_000
EVENTS_PER_BODY = 10


async def test_contestants_do_the_products_job(broker: Broker, tmp_path: Path) -> None:
    ground = Ground(broker, tmp_path, partitions=2, compression="auto")
    race = Race(ground, jobs.named("product"), pure.events_of(traffic.bodies_of(1, BODIES, EVENTS_PER_BODY)))

    # It compares all outputs with those of the pure job, and raises if one differs.
    results = await racing.hold(race, [OURS, AIOKAFKA, AIOKAFKA_STORED], 0, tell=print)

    assert len({result.outputs for result in results.values()}) == 1
    assert all(result.outputs > BODIES and result.events_per_s > 0 for result in results.values())
