"""Workers that come, go, wait and stand by, on a real broker. What is broken on purpose is in ``tests/faults``."""

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from streams import topics
from streams.settings import load
from tests.broker import harness
from tests.broker.conftest import Make, World
from tests.faults import oracle

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


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


async def test_a_worker_that_had_no_partition_for_a_day_takes_over_when_another_goes(make_world: Make) -> None:
    world = await make_world(TOPICS__PARTITIONS=1, KAFKA__HEARTBEAT_INTERVAL_S=1)
    spare = harness.WorkerProcess(
        {
            **world.worker.environment,
            "MAILSTREAMS_WORKER__DATADIR": str(world.datadir.with_name("spare")),
            "MEMBERSHIP": "idle",
        },
        Path(f"{world.worker.log}.spare"),
        [sys.executable, "-m", "tests.faults.worker"],
    )
    world.worker.start()
    world.worker.wait_ready()
    spare.start()
    spare.wait_ready()
    assert spare.metric("mailstreams_partitions_owned") == 0
    time.sleep(4)  # some heartbeats, each of which looks how long nothing was fetched
    assert world.worker.stop() == 0
    deadline = time.monotonic() + 30
    while spare.metric("mailstreams_partitions_owned") == 0:
        assert time.monotonic() < deadline, spare.output
        time.sleep(0.2)
    await world.feed(list(harness.bodies(1, 10, 10, deliveries=20)))
    await world.caught_up(60)
    assert spare.stop() == 0


async def test_a_static_member_comes_back_under_its_name_though_its_host_has_another(make_world: Make) -> None:
    """As a new container has. Faust's own assignor ends each start with an AssertionError, as long as the name lives."""
    world = await make_world(KAFKA__GROUP_INSTANCE_ID="one", KAFKA__SESSION_TIMEOUT_S=19)
    world.worker.start(WEB_HOST="a-container")  # this is what Faust takes a URL from, by default the host's name
    world.worker.wait_ready()
    assert world.worker.stop() == 0
    world.worker.start(WEB_HOST="another-container")
    world.worker.wait_ready()
    assert world.worker.stop() == 0


async def test_static_members_read_the_topic_of_a_provider_that_is_new_to_them(make_world: Make) -> None:
    """The group gives each the assignment that it had before: without the new topic, which nobody would ever read."""
    names = "sendgrid"
    world = await make_world(
        KAFKA__GROUP_INSTANCE_ID="one", KAFKA__SESSION_TIMEOUT_S=19, TOPICS__PARTITIONS=1, TOPICS__PROVIDERS=names
    )
    world.worker.start()
    world.worker.wait_ready()
    owned = world.worker.metric("mailstreams_partitions_owned")
    assert world.worker.stop() == 0
    more = {**world.worker.environment, "MAILSTREAMS_TOPICS__PROVIDERS": f"{names},mailgun"}
    await topics.create(load(environment=more))
    world.worker.start(**more)
    world.worker.wait_for("mail.raw.mailgun: not all of it is read yet")
    deadline = time.monotonic() + 30
    while world.worker.metric("mailstreams_partitions_owned") != owned + 1:
        assert time.monotonic() < deadline, world.worker.output
        time.sleep(0.2)
    time.sleep(3)  # three more looks: it asks once
    assert world.worker.metric("mailstreams_rebalances_total") == 2
    assert world.worker.stop() == 0


async def test_static_members_read_partitions_that_a_topic_got_while_they_were_away(make_world: Make) -> None:
    """Two on one host: each has to know what the other one has, and asks only where a partition has no reader."""
    one, two = {"KAFKA__GROUP_INSTANCE_ID": "one"}, {"MAILSTREAMS_KAFKA__GROUP_INSTANCE_ID": "two"}
    world = await make_world(**one, KAFKA__SESSION_TIMEOUT_S=19, TOPICS__PARTITIONS=2, TOPICS__PROVIDERS="sendgrid")
    other = harness.WorkerProcess(
        {**world.worker.environment, **two, "MAILSTREAMS_WORKER__DATADIR": str(world.datadir.with_name("other"))},
        Path(f"{world.worker.log}.other"),
    )
    make_world.workers.append(other)
    workers = (world.worker, other)

    def owned() -> float:
        return sum(worker.metric("mailstreams_partitions_owned") for worker in workers)

    for worker in workers:
        worker.start()
        worker.wait_ready()
    deadline = time.monotonic() + 30
    while any(worker.get("/readyz")[0] != 200 for worker in workers):
        assert time.monotonic() < deadline, (world.worker.output, other.output)
        time.sleep(0.2)
    before = owned()
    assert other.stop() == 0
    other.start()
    other.wait_ready()
    time.sleep(3)  # three looks
    assert other.metric("mailstreams_rebalances_total") == 1, "nothing is new"
    assert [worker.stop() for worker in workers] == [0, 0]

    admin: Any = AIOKafkaAdminClient(bootstrap_servers=world.broker.bootstrap)
    await admin.start()
    await admin.create_partitions({"mail.raw.sendgrid": NewPartitions(3)})
    await admin.close()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.wait_ready()
    deadline = time.monotonic() + 45
    while owned() != before + 1:
        assert time.monotonic() < deadline, (world.worker.output, other.output)
        time.sleep(0.2)
    assert [worker.stop() for worker in workers] == [0, 0]


async def test_a_static_member_comes_back_though_it_reads_a_provider_fewer(make_world: Make) -> None:
    """The group gives it the assignment that it had before: aiokafka fails at the topic that it does not read any more."""
    world = await make_world(
        KAFKA__GROUP_INSTANCE_ID="one",
        KAFKA__SESSION_TIMEOUT_S=19,
        TOPICS__PARTITIONS=1,
        TOPICS__PROVIDERS="sendgrid,mailgun",
    )
    world.worker.start()
    world.worker.wait_ready()
    owned = world.worker.metric("mailstreams_partitions_owned")
    assert world.worker.stop() == 0
    world.worker.start(MAILSTREAMS_TOPICS__PROVIDERS="sendgrid")
    world.worker.wait_for("mail.raw.mailgun: not read here any more")
    deadline = time.monotonic() + 30
    while world.worker.metric("mailstreams_rebalances_total") < 2 or world.worker.get("/readyz")[0] != 200:
        assert time.monotonic() < deadline, world.worker.output
        time.sleep(0.2)
    time.sleep(3)  # three more looks: it asks once
    assert world.worker.metric("mailstreams_rebalances_total") == 2
    assert world.worker.metric("mailstreams_partitions_owned") == owned - 1
    assert world.worker.stop() == 0


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


async def test_a_worker_that_lost_its_membership_for_good_ends_instead_of_waiting_for_ever(make_world: Make) -> None:
    world = await make_world()
    lost = harness.WorkerProcess(
        {**world.worker.environment, "MEMBERSHIP": "dies"},
        world.worker.log,
        [sys.executable, "-m", "tests.faults.worker"],
    )
    lost.start()
    assert lost.wait(120) == 1
    assert "the worker ends: " in lost.output
    assert "Unexpected error during coordination" in lost.output


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


def _until_ready(worker: harness.WorkerProcess, ready: int) -> None:
    deadline = time.monotonic() + 30
    while worker.metric("mailstreams_ready") != ready:
        assert time.monotonic() < deadline, worker.get("/readyz")
        time.sleep(0.2)


async def test_a_worker_counts_as_ready_only_while_its_broker_answers(make_world: Make) -> None:
    world = await make_world()
    world.worker.start()
    world.worker.wait_ready()
    _until_ready(world.worker, 1)
    world.broker.pause()
    try:
        _until_ready(world.worker, 0)
        assert world.worker.get("/readyz") == (503, "the broker does not answer\n")
    finally:
        world.broker.resume()
    _until_ready(world.worker, 1)
    assert world.worker.stop() == 0
