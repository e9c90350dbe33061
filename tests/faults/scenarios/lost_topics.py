"""Topics that were deleted, made anew or truncated: refused, unless nothing is lost by it."""

import asyncio
import shutil
import signal

from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition

from streams import topics
from streams.domain.events import Send
from tests.broker import harness
from tests.faults import oracle
from tests.faults.scenarios.registry import Play, Scene, scenario
from tests.faults.traffic import waiting
from tests.faults.world import PATIENCE_S, Member

WAITING = 100
"""So many messages have been deferred for long."""
SENT = [
    Send(account="acme", provider="postmark", message_id=f"sent-{number}", recipient=f"payer{number}@customer.example")
    for number in range(100)
]


async def _worked(world: Scene) -> Member:
    """A worker that has processed all that there is; nothing flows."""
    worker = world.member("worker", static=True)
    worker.kept = False
    await world.start(worker)
    await world.backlog(100)
    await world.feed_sends(SENT)
    await world.caught_up()
    return worker


async def _at_rest(world: Scene) -> Member:
    """Likewise, stopped in order."""
    worker = await _worked(world)
    await world.stop(worker)
    return worker


async def _told_and_at_rest(world: Scene) -> tuple[Member, int]:
    """Likewise, when alerts were told of every partition, and half of the deferrals ended; and since when (µs)."""
    worker = await _worked(world)
    await world.feed([waiting("deferred", range(WAITING))])
    await world.caught_up()
    ticked_us = await world.ticked()
    told = {record.partition for record in await world.alerts()}
    world.expect(len(told) == world.settings.topics.partitions, f"alerts were told of the partitions {told} only")
    await world.feed([waiting("delivered", range(0, WAITING, 2))])
    await world.caught_up()
    await world.stop(worker)
    return worker, ticked_us


async def _refuses(world: Scene, worker: Member, topic: str, because: str) -> None:
    """The worker must not start: it would be wrong, or silent. A second time neither."""
    told = await _told(world)
    for _ in range(2):
        worker.start()
        status = await world.ended(worker)
        world.expect(status == 1, f"it ended with {status}")
        said = [line for line in worker.output.splitlines() if "RestoreError: " in line]
        named = any(f" {topic}/" in line and because in line for line in said)
        world.expect(named, f"no line names {topic} and says {because!r}: {said}")
    after = await _told(world)
    world.expect(after == told, f"changes or alerts were told all the same: {told} before, {after} after")


async def _told(world: Scene) -> tuple[int, int]:
    """Return how many changes were seen, and how many alerts were told."""
    return sum(map(len, world.subscriber.seen.values())), len(await world.alerts())


async def _judge_but(world: Scene, table: str, ticked_us: int) -> None:
    """Whatever else was written is right, alerts too: only the changelog of ``table`` is harmed."""
    verdict = await oracle.verify(world.broker, world.settings, foreign=world.foreign, ticked_us=ticked_us)
    wrong = [str(one) for one in verdict.differences if one.where != f"changelog of {table}"]
    world.expect(verdict.expected.applied > 0, "no event was applied: there was nothing to judge")
    world.expect(not wrong, f"{len(wrong)} differences: {wrong[:3]}")


def _changelog_deleted(table: str) -> Play:
    async def changelog_deleted(world: Scene) -> None:
        worker, ticked_us = await _told_and_at_rest(world)
        changelog = topics.changelog_topic(world.settings.worker.app_id, table)
        await harness.delete_topics(world.broker, changelog)
        await topics.create(world.settings)
        await _refuses(world, worker, changelog, "was deleted")
        shutil.rmtree(worker.datadir)
        await _refuses(world, worker, changelog, "was deleted")
        await _judge_but(world, table, ticked_us)

    return changelog_deleted


def _changelog_truncated(table: str) -> Play:
    async def changelog_truncated(world: Scene) -> None:
        worker, ticked_us = await _told_and_at_rest(world)
        changelog = topics.changelog_topic(world.settings.worker.app_id, table)
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
        await _refuses(world, worker, changelog, "it was truncated")
        await _judge_but(world, table, ticked_us)

    return changelog_truncated


for _table in oracle.TABLES:
    scenario(
        f"the changelog of {_table} is deleted and made anew: refused, not taken for a fresh start",
        named=f"{_table}-changelog-deleted",
        judged=False,
    )(_changelog_deleted(_table))
    scenario(
        f"the changelog of {_table} loses its beginning: refused by whoever needs it",
        named=f"{_table}-changelog-truncated",
        judged=False,
    )(_changelog_truncated(_table))


def _made_anew(topic: str) -> Play:
    async def made_anew(world: Scene) -> None:
        worker = await _at_rest(world)
        await harness.delete_topics(world.broker, topic)
        await topics.create(world.settings)
        await _refuses(world, worker, topic, "was deleted and created again, or truncated")

    return made_anew


for _topic in (topics.EVENTS, topics.DEFERRALS):
    scenario(
        f"{_topic} is deleted and made anew: refused", named=f"{_topic.replace('.', '-')}-made-anew", judged=False
    )(_made_anew(_topic))


async def _sources_made_anew(world: Scene) -> None:
    """What was in them counts as put on ``mail.events`` by ourselves: its source is gone."""
    events = await harness.read_all(world.broker, topics.EVENTS, world.settings.topics.partitions)
    world.foreign += [record.value for found in events.values() for record in found]
    for topic in (topics.raw_topic("sendgrid"), topics.SENDS):
        await harness.delete_topics(world.broker, topic)
    await topics.create(world.settings)


@scenario(
    "a raw topic and mail.sends are deleted and made anew while no worker runs: Kafka forgot the position, they are read "
    "from their start"
)
async def sources_made_anew(world: Scene) -> None:
    worker = await _at_rest(world)
    await _sources_made_anew(world)
    await world.start(worker)
    worker.kept = True
    world.traffic.start()
    await world.flowing()


@scenario("a raw topic and mail.sends are deleted and made anew under a working worker")
async def sources_made_anew_under_a_worker(world: Scene) -> None:
    worker = await _worked(world)
    worker.kept = True
    await _sources_made_anew(world)
    world.traffic.start()
    await world.measure(lambda: None, patience_s=400)  # the client looks for new topics each 30 s
    world.outcome.notes.append(f"{worker.restarts} restarts")


@scenario("a raw topic is deleted while its records are in work, and made anew when the worker has noticed: it goes on")
async def source_deleted_in_work(world: Scene) -> None:
    raw = topics.raw_topic("sendgrid")
    worker = world.member("worker", fault="stop:published:1", static=True)
    await world.backlog(1_000)
    worker.start()
    await world.said(worker, f"fault: stop at published of {raw}/")
    await harness.delete_topics(world.broker, raw)
    await world.feed_sends(SENT)  # another topic has positions to commit, too
    worker.signal(signal.SIGCONT)  # now the lane tells the group how far it is
    async with asyncio.timeout(PATIENCE_S):
        while "partitions ready after" not in worker.output.partition(f"{raw}: gone")[2]:
            await asyncio.sleep(0.2)
    await harness.caught_up(world.broker, world.settings, (topics.SENDS, topics.EVENTS), PATIENCE_S)
    events = await harness.read_all(world.broker, topics.EVENTS, world.settings.topics.partitions)
    world.foreign += [record.value for found in events.values() for record in found]
    await topics.create(world.settings)
    world.traffic.start()
    await world.measure(lambda: None, patience_s=400)
    world.expect(worker.alive, "it ended")
