"""Disks that are full; stores that are damaged, locked, of the version before, or lost, also when their logs were compacted."""

import asyncio
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from deploy.local.broker import Broker
from streams import topics
from tests.broker import harness
from tests.faults import oracle
from tests.faults.scenarios.registry import Play, Scene, scenario
from tests.faults.traffic import waiting
from tests.faults.world import PATIENCE_S


def _no_file_larger(pid: int, size: int) -> None:
    """Let every write beyond ``size`` bytes of a file fail (EFBIG); a full disk fails as such."""
    psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))


@scenario("the disk of the stores is full: the worker ends and says why; then there is space again", short=True)
async def disk_full_for_the_store(world: Scene) -> None:
    [worker] = await world.at_work()
    worker.kept = False
    assert worker.process is not None
    _no_file_larger(worker.process.pid, 4096)
    await world.backlog(100)
    status = await world.ended(worker)
    world.expect(status == 1, f"it ended with {status}")
    world.expect("StoreCorruptError" in worker.output, "it did not say why")
    world.outcome.notes.append(f"ended with {status}")
    worker.kept = True
    await world.measure(lambda: None)


@scenario("the disk of the broker is full: it ends; then there is space again")
async def disk_full_for_the_broker(world: Scene) -> None:
    await world.at_work(2)
    await world.backlog(200)  # a large batch: the broker unpacks its library of zstd at the first, which is a file, too
    await world.flowing()
    assert isinstance(world.broker, Broker)
    process = world.broker.process
    assert process is not None
    # above its own log, or it could not say why
    _no_file_larger(process.pid, world.broker.log.stat().st_size + (256 << 10))
    filling = asyncio.create_task(world.backlog(500))
    async with asyncio.timeout(120):
        while world.broker.process is not None:
            await asyncio.sleep(0.1)
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    said = world.broker.log.read_text()
    why = ("java.io.IOException: File too large", "Shutdown broker because all log dirs in ")
    world.expect(all(words in said for words in why), "it ended and did not say why")

    async def start() -> None:
        world.broker.kill()
        await asyncio.to_thread(world.broker.start, timeout_s=120)

    await world.measure(start)


# --- stores ----------------------------------------------------------------------------------------------------------


def _largest(store: Path, pattern: str) -> Path:
    return max(store.glob(pattern), key=lambda path: path.stat().st_size)


def _truncate_sst(store: Path) -> None:
    sst = _largest(store, "*.sst")
    os.truncate(sst, sst.stat().st_size // 2)


def _flip_bit(store: Path) -> None:
    sst = _largest(store, "*.sst")
    data = bytearray(sst.read_bytes())
    data[len(data) // 3] ^= 0x10
    sst.write_bytes(data)


def _truncate_manifest(store: Path) -> None:
    os.truncate(_largest(store, "MANIFEST-*"), 1)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated-sst": _truncate_sst,
    "missing-sst": lambda store: _largest(store, "*.sst").unlink(),
    "flipped-bit": _flip_bit,
    "missing-current": lambda store: (store / "CURRENT").unlink(),
    "truncated-manifest": _truncate_manifest,
    "deleted": shutil.rmtree,
}


def _damaged(damages: list[str]) -> Play:
    async def damaged(world: Scene) -> None:
        """Damage the stores at rest, one way each in turn; then read every row."""
        bodies = list(harness.bodies(world.seed, 200, 10, deliveries=300))
        worker = world.member("worker", static=True)
        await world.start(worker)
        await world.feed(bodies)
        await world.caught_up()
        worker.kept = False
        for _ in range(2):  # a start turns the write-ahead log into files of rows
            await world.stop(worker)
            await world.start(worker)
        await world.stop(worker)
        stores = [path for path in sorted(worker.datadir.glob("*-?")) if list(path.glob("*.sst"))]
        world.expect(len(stores) >= len(damages), f"only {len(stores)} stores have files of rows")
        for number, store in enumerate(stores):
            DAMAGES[damages[number % len(damages)]](store)
        worker.kept = True
        worker.start()
        world.traffic.start()
        await world.feed(bodies)  # duplicates: each reads its row
        await world.measure(lambda: None)
        world.outcome.notes.append(f"{len(stores)} stores damaged, {worker.restarts} restarts")
        noticed = list(worker.datadir.glob("*.corrupt-*"))
        rebuilt = {"deleted"}.issuperset(damages) or noticed
        world.expect(rebuilt, "nobody noticed: no store was moved aside")
        world.expect(worker.restarts <= 1, f"{worker.restarts} restarts: what harmed one store may have harmed all")

    return damaged


for _damage in DAMAGES:
    scenario(f"stores: {_damage.replace('-', ' ')}", named=f"store-{_damage}")(_damaged([_damage]))
scenario("stores: a different damage each", named="stores-damaged")(
    _damaged(["truncated-sst", "missing-sst", "flipped-bit", "truncated-manifest"])
)


@scenario("another process holds the lock of a store")
async def store_locked(world: Scene) -> None:
    [worker] = await world.at_work()
    worker.kept = False
    await world.stop(worker)
    with (worker.datadir / "deliveries-0" / "LOCK").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        worker.start()
        status = await world.ended(worker)
        world.expect(status == 1, f"it ended with {status}")
        world.expect("deliveries-0 cannot be opened" in worker.output, "it did not say why")
    worker.kept = True
    await world.measure(lambda: None)
    world.expect(not list(worker.datadir.glob("*.corrupt-*")), "a locked store was taken for a corrupt one")


@scenario("rows as the version before wrote them, in the store and in the changelog, under this version", short=True)
async def version_before(world: Scene) -> None:
    before = world.member("before", ROWS="1")
    await world.start(before)
    await world.backlog(100)
    world.traffic.start()
    await world.flowing()
    await world.stop(before)
    in_place = world.member("in-place", MAILSTREAMS_WORKER__DATADIR=str(before.datadir))
    await world.measure(lambda: world.start(in_place))
    await world.stop(in_place)
    await world.measure(lambda: world.start(world.member("elsewhere")))


@scenario(
    "lost stores are restored past their logs: kill -9 in the midst of it, again and again, and once more after it"
)
async def killed_while_restoring(world: Scene) -> None:
    [worker] = await world.at_work()
    place = {"MAILSTREAMS_WORKER__DATADIR": str(worker.datadir)}
    for round_ in world.times(3):
        await _history(world)
        worker.kept = False
        await asyncio.to_thread(worker.kill)
        shutil.rmtree(worker.datadir)
        for pieces in (1, world.chance.randrange(2, 10), world.chance.randrange(10, 40)):
            dying = world.member(f"dying-{round_}-{pieces}", static=worker.name, RESTORED=str(pieces), **place)
            dying.start()
            status = await world.ended(dying)
            world.expect(status == -signal.SIGKILL, f"after {pieces} pieces it ended with {status}")
            world.outcome.notes.append(f"killed after {pieces} pieces")
        through = world.member(f"through-{round_}", static=worker.name, RESTORED="0", **place)
        await world.start(through)
        await world.flowing()
        await asyncio.to_thread(through.kill)
        worker.kept = True  # which starts it again
        await world.measure(lambda: None)


# --- compacted logs --------------------------------------------------------------------------------------------------

COMPACTED = {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"}
"""Whatever is older than a second or two, and has a newer record of its key, goes. Tombstones stay, as in production."""


async def _configure(world: Scene, specs: Sequence[topics.TopicSpec], more: Mapping[str, str]) -> None:
    resources = [ConfigResource(ConfigResourceType.TOPIC, one.name, configs={**one.config, **more}) for one in specs]
    async with world.admin() as admin:
        await admin.alter_configs(resources)


async def _history(world: Scene) -> None:
    """Write several records of each of many keys, one batch after the other."""
    bodies = harness.bodies(world.chance.randrange(1 << 30), 200, 10, deliveries=200)
    for number in range(10):
        await world.feed([*bodies[number::10], waiting("deferred", range(100), again=world.chance.randrange(3600))])
        await world.flowing()


async def _offsets(world: Scene, names: Sequence[str]) -> dict[tuple[str, int], set[int]]:
    logs = await harness.read_topics(world.broker, names, world.settings.topics.partitions)
    return {(name, p): {one.offset for one in found} for name, log in logs.items() for p, found in log.items()}


@scenario(
    "the logs are compacted under traffic; then the stores are lost, and rebuilt of what is left",
    broker={"log.cleaner.backoff.ms": "200"},
)
async def compacted_changelogs(world: Scene) -> None:
    """No store is lost before a third of what stood in each partition has gone."""
    app_id = world.settings.worker.app_id
    names = [topics.STATUS, *(topics.changelog_topic(app_id, table) for table in oracle.TABLES)]
    specs = [spec for spec in topics.all_topics(world.settings) if spec.name in names]
    [worker] = await world.at_work()
    await _history(world)
    stood = await _offsets(world, names)
    await _configure(world, specs, COMPACTED)
    gone = dict.fromkeys(stood, 0.0)
    async with asyncio.timeout(PATIENCE_S):
        while min(gone.values()) < 1 / 3:
            await asyncio.sleep(1)
            left = await _offsets(world, names)
            gone = {at: len(offsets - left[at]) / len(offsets) for at, offsets in stood.items()}
    for name in names:
        share = min(share for (of, _), share in gone.items() if of == name)
        world.outcome.notes.append(f"{name}: {share:.0%} of the records gone")
    for _ in world.times(3):
        await _history(world)
        worker.kept = False
        await asyncio.to_thread(worker.kill)
        shutil.rmtree(worker.datadir)
        worker.kept = True
        await world.measure(lambda: None)
        world.expect("restoring " in worker.output, "it restored nothing")
    await _configure(
        world, specs, {}
    )  # a log that is cleaned while the oracle reads it may lack the middle of a sequence
