"""Topics that were deleted, made anew or truncated: refused, unless nothing is lost by it."""

import asyncio
import shutil

from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition

from streams import topics
from tests.broker import harness
from tests.faults.scenarios.registry import Play, Scene, scenario
from tests.faults.world import Member


async def _at_rest(world: Scene) -> Member:
    """A worker that has worked and is stopped in order; nothing flows."""
    worker = world.member("worker", static=True)
    worker.kept = False
    await world.start(worker)
    await world.backlog(100)
    await world.caught_up()
    await world.stop(worker)
    return worker


async def _refuses(world: Scene, worker: Member, because: str) -> None:
    """The worker must not start: it would be wrong, or silent. A second time neither."""
    told = sum(map(len, world.subscriber.seen.values()))
    for _ in range(2):
        worker.start()
        status = await world.ended(worker)
        world.expect(status == 1, f"it ended with {status}")
        world.expect(
            f"RestoreError: {because}" in worker.output or because in worker.output, f"no {because!r} in the log"
        )
    after = sum(map(len, world.subscriber.seen.values()))
    world.expect(after == told, f"{after - told} changes were told all the same")


@scenario("the changelog is deleted and made anew: refused, not taken for a fresh start", judged=False)
async def changelog_deleted(world: Scene) -> None:
    worker = await _at_rest(world)
    await harness.delete_topic(world.broker, topics.changelog_topic("mailstreams"))
    await topics.create(world.settings)
    await _refuses(world, worker, "was deleted")
    shutil.rmtree(worker.datadir)
    await _refuses(world, worker, "was deleted")


@scenario("the changelog loses its beginning: refused by whoever needs it", judged=False)
async def changelog_truncated(world: Scene) -> None:
    worker = await _at_rest(world)
    changelog = topics.changelog_topic("mailstreams")
    resource = ConfigResource(ConfigResourceType.TOPIC, changelog, configs={"cleanup.policy": "compact,delete"})
    kept = ConfigResource(ConfigResourceType.TOPIC, changelog, configs={"cleanup.policy": "compact"})
    async with world.admin() as admin:
        await admin.alter_configs([resource])
        await asyncio.sleep(1)
        partitions = range(world.settings.topics.partitions)
        await admin.delete_records(
            {TopicPartition(changelog, partition): RecordsToDelete(before_offset=10) for partition in partitions}
        )
        await admin.alter_configs([kept])
        await asyncio.sleep(1)
    await world.start(worker)  # its stores have what the changelog lacks
    await world.stop(worker)
    shutil.rmtree(worker.datadir)
    await _refuses(world, worker, "it was truncated")


def _made_anew(topic: str) -> Play:
    async def made_anew(world: Scene) -> None:
        worker = await _at_rest(world)
        await harness.delete_topic(world.broker, topic)
        await topics.create(world.settings)
        await _refuses(world, worker, "was deleted and made anew, or truncated")

    return made_anew


for _topic in (topics.EVENTS, topics.DEFERRALS):
    scenario(
        f"{_topic} is deleted and made anew: refused", named=f"{_topic.replace('.', '-')}-made-anew", judged=False
    )(_made_anew(_topic))


async def _raw_made_anew(world: Scene) -> None:
    """What was in it counts as put on ``mail.events`` by ourselves: its source is gone."""
    events = await harness.read_all(world.broker, topics.EVENTS, world.settings.topics.partitions)
    world.foreign += [record.value for found in events.values() for record in found]
    await harness.delete_topic(world.broker, topics.raw_topic("sendgrid"))
    await topics.create(world.settings)


@scenario(
    "a raw topic is deleted and made anew while no worker runs: Kafka forgot the position, it is read from its start"
)
async def raw_made_anew(world: Scene) -> None:
    worker = await _at_rest(world)
    await _raw_made_anew(world)
    await world.start(worker)
    worker.kept = True
    world.traffic.start()
    await world.flowing()


@scenario("a raw topic is deleted and made anew under a working worker")
async def raw_made_anew_under_a_worker(world: Scene) -> None:
    worker = world.member("worker", static=True)
    await world.start(worker)
    await world.backlog(100)
    await world.caught_up()
    await _raw_made_anew(world)
    world.traffic.start()
    await world.measure(lambda: None, patience_s=400)  # the client looks for new topics each 30 s
    world.outcome.notes.append(f"{worker.restarts} restarts")
