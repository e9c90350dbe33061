"""The faults, each as a scenario with a name: what is done to a running system. The oracle says what must hold.

A scenario gets an open ``World`` whose traffic flows, does its harm while workers
work, and returns; then everything comes to rest and is judged (``play``).
What a scenario itself finds missing, it says by ``world.expect``.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition

from deploy.local.jars import KAFKA_VERSION
from streams import codecs, topics
from tests.broker import harness
from tests.faults.proxy import (
    ADD_OFFSETS,
    ADD_PARTITIONS,
    END_TXN,
    FETCH,
    HEARTBEAT,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    Harm,
    Rule,
)
from tests.faults.worker import POINTS
from tests.faults.world import Member, Outcome, World

Play = Callable[["Scene"], Awaitable[None]]

TRANSACTIONAL = "mailstreams-track-"
"""The client ids of the producers of ``track`` begin so."""


class Scene(World):
    """A world, and how often a fault is repeated in it."""

    def __init__(self, folder: Path, *, seed: int, kafka: str, proxied: bool, quick: bool) -> None:
        super().__init__(folder, seed=seed, kafka=kafka, proxied=proxied)
        self.quick = quick

    def times(self, whole: int, quick: int = 1) -> range:
        return range(quick if self.quick else whole)

    async def pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(least, most))


@dataclass(frozen=True)
class Scenario:
    """A fault with a name."""

    name: str
    about: str
    play: Play
    settings: Mapping[str, object] = field(default_factory=dict)
    """Of the workers."""
    proxied: bool = False
    """The workers reach the broker through ``world.proxy``."""
    alerts: bool = True
    """The clocks are right: it is known which alerts have to be told."""
    judged: bool = True
    """False where logs are destroyed on purpose: then the scenario itself says what has to hold."""
    short: bool = False
    """Part of ``make test``."""
    kills: bool = False
    """Its recoveries are those of the figures ``recovery_s_*``."""


SCENARIOS: dict[str, Scenario] = {}


def scenario(about: str, *, named: str | None = None, **options: object) -> Callable[[Play], Play]:
    """Enter a function under its own name, with dashes."""

    def enter(play: Play) -> Play:
        name = named or play.__name__.replace("_", "-")
        SCENARIOS[name] = Scenario(name, about, play, **options)  # type: ignore[arg-type] # the fields of Scenario
        return play

    return enter


async def play(chosen: Scenario, folder: Path, *, seed: int, quick: bool, kafka: str = KAFKA_VERSION) -> Outcome:
    """Play a scenario in a world of its own and judge."""
    world = Scene(folder, seed=seed, kafka=kafka, proxied=chosen.proxied, quick=quick)
    try:
        await world.open(**chosen.settings)
        await chosen.play(world)
        if chosen.judged:
            await world.settle(alerts=chosen.alerts)
        else:
            world.expect(not world.subscriber.repeated, "the subscriber saw a revision again")
    finally:
        await world.close()
    return world.outcome


# --- workers ---------------------------------------------------------------------------------------------------------

SESSION_10_S: dict[str, object] = {"KAFKA__SESSION_TIMEOUT_S": 10, "KAFKA__HEARTBEAT_INTERVAL_S": 2}
"""As Kafka's own system tests have it."""


async def _three(world: Scene, *, static: bool) -> list[Member]:
    workers = [world.member(f"worker-{number}", static=static) for number in range(3)]
    await world.start(*workers)
    world.traffic.start()
    await world.flowing()
    return workers


@scenario("kill -9 of one of three workers, 20 times; a supervisor starts it again", settings=SESSION_10_S, kills=True)
async def kill_at_random(world: Scene) -> None:
    workers = await _three(world, static=True)
    for number in world.times(20, 3):
        if number % 2:
            await world.backlog(200)
        await world.pause(0.1, 2)
        await world.measure(world.chance.choice(workers).kill)


@scenario(
    "kill -9 of one of three workers that does not come back: the others take over", settings=SESSION_10_S, kills=True
)
async def failover(world: Scene) -> None:
    workers = await _three(world, static=False)
    for _ in world.times(5):
        victim = world.chance.choice(workers)
        victim.kept = False
        await world.measure(victim.kill)
        victim.kept = True
        await world.start(victim)
        await world.flowing()


@scenario("kill -9 at each named point of the batch order, 3 times each", short=True)
async def kill_at_each_point(world: Scene) -> None:
    faulty = world.member("worker", fault="kill:folded:1", static=True)
    for point in POINTS:
        for _ in world.times(3):
            await world.backlog(100)
            faulty.start(FAULT=f"kill:{point}:{world.chance.randrange(1, 5)}")
            status = await world.ended(faulty)
            world.expect(status == -signal.SIGKILL, f"at {point} it ended with {status}")
    world.traffic.start()
    heir = world.member("heir", static=True, MAILSTREAMS_WORKER__DATADIR=str(faulty.datadir))
    heir.datadir = faulty.datadir
    await world.start(heir)


@scenario("a transaction is left open: the next owner ends it at once, and without one its timeout does")
async def hanging_transaction(world: Scene) -> None:
    limit_s = world.settings.kafka.transaction_timeout_s + 10  # the broker looks for old ones each 10 s
    for heir_comes in (True, False):
        victim = world.member(f"victim-{heir_comes}", fault="kill:sent:3")
        await world.backlog(300)
        victim.start()
        await world.ended(victim)
        left_open = time.monotonic()
        world.expect(await world.undecided(), "no transaction was left open")
        if heir_comes:
            heir = world.member("heir")
            heir.start()
        while await world.undecided():
            await asyncio.sleep(0.2)
        took = time.monotonic() - left_open
        world.outcome.notes.append(f"{'heir' if heir_comes else 'no heir'}: readers held back for {took:.1f} s")
        if heir_comes:
            await world.said(heir, "partitions ready")
            await world.caught_up()
            await world.stop(heir)
        else:
            world.expect(took < limit_s + 5, f"an open transaction held readers back for {took:.0f} s")
    await world.start(world.member("last"))


@scenario("SIGTERM and start again, one of three static members after the other")
async def rolling_restart(world: Scene) -> None:
    workers = await _three(world, static=True)
    for worker in workers:
        worker.kept = False

        async def restart(worker: Member = worker) -> None:
            await world.stop(worker)
            await world.start(worker)

        await world.measure(restart)
        world.expect("Traceback" not in worker.output, f"{worker.name} wrote a traceback")


@scenario("each second a worker joins or leaves, at most three alive", settings=SESSION_10_S)
async def join_and_leave_storm(world: Scene) -> None:
    slots = [world.member(f"worker-{number}") for number in range(6)]
    for slot in slots:
        slot.kept = False
    alive: list[Member] = []
    await world.start(slots[0])
    alive.append(slots[0])
    world.traffic.start()
    await world.flowing()
    world.subscriber.watching = True
    until = time.monotonic() + (12 if world.quick else 60)
    while time.monotonic() < until:
        running = [slot for slot in slots if slot.alive]
        free = [slot for slot in slots if not slot.alive]
        if len(running) < 3 and free:
            free[0].start()
            alive.append(free[0])
        else:
            oldest = next((member for member in alive if member.alive), None)
            if oldest is not None:
                alive.remove(oldest)
                oldest.signal(signal.SIGTERM)
        await asyncio.sleep(1)
    for slot in slots:
        slot.kept = slot.alive and slot in alive
    if not any(slot.kept for slot in slots):
        slots[0].kept = True
    took = await world.measure(lambda: None)
    silence = world.subscriber.longest_silence_s
    world.outcome.notes.append(f"longest silence of a partition {silence:.0f} s")
    world.expect(world.quick or silence < 60, f"a partition stood for {silence:.0f} s")
    world.expect(world.quick or took < 60, f"it took {took:.0f} s after the storm")


@scenario("six workers for four partitions: the idle ones are well, and one of them takes over")
async def more_workers_than_partitions(world: Scene) -> None:
    workers = [world.member(f"worker-{number}") for number in range(6)]
    await world.start(*workers)
    world.traffic.start()
    await world.flowing()
    owned = {worker.name: worker.metric("mailstreams_partitions_owned") for worker in workers}
    world.expect(sum(count == 0 for count in owned.values()) >= 2, f"nobody is idle: {owned}")
    world.expect(all(worker.get("/livez")[0] == 200 for worker in workers), "an idle worker is not live")
    victim = max(workers, key=lambda worker: owned[worker.name])
    victim.kept = False
    await world.measure(victim.kill)


# --- zombies ---------------------------------------------------------------------------------------------------------


def _zombie_at(point: str) -> Play:
    async def zombie(world: Scene) -> None:
        await world.backlog(300)
        sleeper = world.member("zombie", fault=f"stop:{point}:{2 if point == 'published' else 4}")
        sleeper.start()
        await world.said(sleeper, "fault: stop")
        heir = world.member("heir")
        heir.start()  # gets the partitions when the zombie's session has timed out
        await world.said(heir, "partitions ready")
        world.traffic.start()
        await world.flowing()
        sleeper.signal(signal.SIGCONT)
        for _ in range(20):
            if not sleeper.alive:
                break
            await asyncio.sleep(0.5)
        world.outcome.notes.append(
            "the zombie joined again" if sleeper.alive else f"the zombie ended with {await world.ended(sleeper)}"
        )
        await world.flowing()
        await world.stop(sleeper)
        await world.flowing()

    return zombie


for _point in POINTS:
    scenario(
        f"a worker stopped past its session timeout at {_point}, and woken when another has its partitions",
        named=f"zombie-at-{_point}",
        short=_point == "sent",
    )(_zombie_at(_point))


# --- the broker ------------------------------------------------------------------------------------------------------


async def _two(world: Scene) -> None:
    await world.start(world.member("worker-0", static=True), world.member("worker-1", static=True))
    world.traffic.start()
    await world.flowing()


@scenario("the broker is killed and started again, 5 times", short=True)
async def broker_killed(world: Scene) -> None:
    await _two(world)

    async def kill_and_start() -> None:
        await asyncio.to_thread(world.broker.kill)
        await world.pause(0.2, 4)
        await asyncio.to_thread(world.broker.start, timeout_s=120)

    for _ in world.times(5):
        await world.backlog(100)
        await world.pause(0.1, 1)
        await world.measure(kill_and_start)


@scenario("the broker is stopped in order and started again, 5 times")
async def broker_restarted(world: Scene) -> None:
    await _two(world)

    async def restart() -> None:
        await asyncio.to_thread(world.broker.stop)
        await asyncio.to_thread(world.broker.start, timeout_s=120)

    for _ in world.times(5):
        await world.pause(0.1, 1)
        await world.measure(restart)


def _broker_stands_for(seconds: float) -> Play:
    async def broker_stands(world: Scene) -> None:
        await _two(world)
        await world.backlog(100)

        async def stand() -> None:
            world.broker.pause()
            await asyncio.sleep(seconds)
            world.broker.resume()

        await world.measure(stand)

    return broker_stands


for _seconds in (5, 30, 90):
    scenario(f"the broker stands still (SIGSTOP) for {_seconds} s", named=f"broker-stands-{_seconds}s")(
        _broker_stands_for(_seconds)
    )


# --- the network -----------------------------------------------------------------------------------------------------


async def _one(world: Scene) -> Member:
    worker = world.member("worker", static=True)
    await world.start(worker)
    world.traffic.start()
    await world.flowing()
    return worker


async def _harm(world: Scene, rule: Rule) -> float:
    """Let a rule hit, and wait until all is well again."""
    assert world.proxy is not None

    async def hit() -> None:
        assert world.proxy is not None
        world.proxy.rules = [rule]
        async with asyncio.timeout(60):
            while not rule.done:
                await asyncio.sleep(0.02)

    took = await world.measure(hit)
    world.proxy.rules = []
    return took


@scenario("EndTxn is held back for 5 s, then for longer than the worker waits for it", proxied=True)
async def delayed_end_of_transaction(world: Scene) -> None:
    worker = await _one(world)
    await _harm(world, Rule(END_TXN, Harm.DELAY, 5, TRANSACTIONAL))
    world.expect(worker.restarts == 0, "a delay within the deadline ended the worker")
    await _harm(world, Rule(END_TXN, Harm.DELAY, world.settings.kafka.commit_deadline_s + 3, TRANSACTIONAL))
    world.expect(worker.restarts == 1, "a delay beyond the deadline did not end the worker")


@scenario("EndTxn reaches the broker when its sender is gone and the next owner works", proxied=True, short=True)
async def late_end_of_transaction(world: Scene) -> None:
    worker = await _one(world)
    delays = (2.0,) if world.quick else (0.3, 1.0, 2.0, 4.0, 8.0, 14.0)
    for seconds in delays:
        await _harm(world, Rule(END_TXN, Harm.LATE, seconds, TRANSACTIONAL))
    world.expect(worker.restarts >= len(delays), f"it was restarted {worker.restarts} times for {len(delays)} cuts")


def _cut_at(harm: Harm) -> Play:
    async def cut(world: Scene) -> None:
        worker = await _one(world)
        requests = (PRODUCE, ADD_PARTITIONS, ADD_OFFSETS, TXN_OFFSET_COMMIT, END_TXN)
        for api in requests[-2:] if world.quick else requests:
            await _harm(world, Rule(api, harm, client=TRANSACTIONAL, skip=world.chance.randrange(3)))
        world.outcome.notes.append(f"{worker.restarts} restarts")

    return cut


for _harm_done, _name in (
    (Harm.CUT_BEFORE, "connection-cut-before-the-request"),
    (Harm.CUT_AFTER, "connection-cut-before-the-answer"),
    (Harm.HALF_CLOSE, "connection-half-closed"),
):
    scenario(f"inside a transaction, at each of its requests: {_harm_done.value}", named=_name, proxied=True)(
        _cut_at(_harm_done)
    )


@scenario("no byte passes for 5 and 20 s; then every connection is cut", proxied=True)
async def network_gone(world: Scene) -> None:
    await _one(world)
    assert world.proxy is not None
    proxy = world.proxy

    async def gone(seconds: float) -> None:
        proxy.open.clear()
        await asyncio.sleep(seconds)
        proxy.open.set()

    for seconds in (5,) if world.quick else (5, 20):
        await world.measure(partial(gone, seconds))
    await world.measure(proxy.cut)


@scenario("every request takes 50 ms, every write 300 ms, every 20th heartbeat and fetch 3 s", proxied=True)
async def slow_output(world: Scene) -> None:
    await _one(world)
    assert world.proxy is not None
    world.proxy.latency_s = 0.05
    world.proxy.rules = [
        Rule(PRODUCE, Harm.DELAY, 0.3, times=1 << 30),
        *(Rule(api, Harm.DELAY, 3, skip=20 * number) for api in (HEARTBEAT, FETCH) for number in range(1, 4)),
    ]
    await world.backlog(200)
    await asyncio.sleep(8 if world.quick else 30)
    world.proxy.latency_s = 0
    world.proxy.rules = []
    await world.measure(lambda: None)


# --- disks -----------------------------------------------------------------------------------------------------------


def _no_file_larger(pid: int, size: int) -> None:
    """Let every write beyond ``size`` bytes of a file fail (EFBIG); a full disk fails as such."""
    psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))


@scenario("the disk of the stores is full: the worker ends and says why; then there is space again", short=True)
async def disk_full_for_the_store(world: Scene) -> None:
    worker = await _one(world)
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
    await _two(world)
    process = world.broker.process
    assert process is not None
    _no_file_larger(process.pid, 4096)
    async with asyncio.timeout(120):
        while world.broker.process is not None:
            await asyncio.sleep(0.1)

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

    return damaged


for _damage in DAMAGES:
    scenario(f"stores: {_damage.replace('-', ' ')}", named=f"store-{_damage}")(_damaged([_damage]))
scenario("stores: a different damage each", named="stores-damaged")(
    _damaged(["truncated-sst", "missing-sst", "flipped-bit", "truncated-manifest"])
)


@scenario("another process holds the lock of a store")
async def store_locked(world: Scene) -> None:
    worker = await _one(world)
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


# --- topics ----------------------------------------------------------------------------------------------------------


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
    await world.measure(lambda: None, patience_s=400)  # the client looks for new topics each 5 minutes
    world.outcome.notes.append(f"{worker.restarts} restarts")


# --- records, clocks, agents, versions -------------------------------------------------------------------------------

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
    worker = await _one(world)
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
    "one worker's clock is an hour ahead, the other's an hour behind; events from tomorrow, 1970 and last month",
    alerts=False,
)
async def skewed_clocks(world: Scene) -> None:
    workers = [world.member(f"worker-{ahead}", CLOCK_AHEAD_S=str(ahead)) for ahead in (3600, -3600)]
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


@scenario(
    "an agent hangs, then the whole event loop: the watchdog ends the worker", settings={"WORKER__WATCHDOG_S": 15}
)
async def hung_agent(world: Scene) -> None:
    for what, expected in (("hang", 1), ("block", 75)):
        worker = world.member(f"worker-{what}", fault=f"{what}:folded:9")
        await world.backlog(100)
        worker.start()
        await world.said(worker, f"fault: {what}")
        world.traffic.start()
        status = await world.ended(worker)
        world.expect(status == expected, f"{what}: it ended with {status}, not {expected}")
    await world.start(world.member("last"))


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
