"""Workers that are killed, stopped in order, join, leave and hang."""

import asyncio
import contextlib
import signal
import time

from tests.faults.scenarios.registry import Scene, scenario
from tests.faults.worker import POINTS
from tests.faults.world import Member

SESSION_10_S: dict[str, object] = {"KAFKA__SESSION_TIMEOUT_S": 10, "KAFKA__HEARTBEAT_INTERVAL_S": 2}
"""As Kafka's own system tests have it."""
AT_ONCE_S = 10
"""A second or two, on a machine that does much else."""


@scenario("kill -9 of one of three workers, 20 times; a supervisor starts it again", settings=SESSION_10_S, kills=True)
async def kill_at_random(world: Scene) -> None:
    workers = await world.at_work(3)
    for number in world.times(20, 3):
        if number % 2:
            await world.backlog(200)
        await world.pause(0.1, 2)
        await world.measure(world.chance.choice(workers).kill)


@scenario(
    "kill -9 of one of three workers that does not come back: the others take over", settings=SESSION_10_S, kills=True
)
async def failover(world: Scene) -> None:
    workers = await world.at_work(3, static=False)
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
    """The heir has the victim's name: nothing but its own fence is waited for, no session and no timeout."""
    limit_s = world.settings.kafka.transaction_timeout_s + 10  # the broker looks for old ones each 10 s
    for heir_comes in (True, False):
        patience = {"MAILSTREAMS_KAFKA__TRANSACTION_TIMEOUT_S": "300"} if heir_comes else {}
        victim = world.member(f"victim-{heir_comes}", fault="kill:sent:3", static="one-name", **patience)
        await world.backlog(300)
        victim.start()
        await world.ended(victim)
        left_open = time.monotonic()
        world.expect(await world.undecided(), "no transaction was left open")
        if heir_comes:
            heir = world.member("heir", static="one-name")
            heir.start()
            await world.said(heir, "/readyz")  # Python has come up; it has yet to join, and to fence
            began = time.monotonic()
        while await world.undecided():
            await asyncio.sleep(0.2)
        took = time.monotonic() - left_open
        world.outcome.notes.append(f"{'heir' if heir_comes else 'no heir'}: readers held back for {took:.1f} s")
        if heir_comes:
            took = time.monotonic() - began
            world.outcome.notes.append(f"{took:.1f} s of it since the heir began")
            world.expect(took < AT_ONCE_S, f"the heir held readers back for {took:.0f} s: that is not at once")
            await world.said(heir, "partitions ready")
            await world.caught_up()
            await world.stop(heir)
        else:
            world.expect(took < limit_s + 5, f"an open transaction held readers back for {took:.0f} s")
    await world.start(world.member("last", static="one-name"))


@scenario(
    "SIGTERM and start again, one of three static members after the other",
    settings={"KAFKA__SESSION_TIMEOUT_S": 30, "KAFKA__REQUEST_TIMEOUT_S": 60, "KAFKA__REBALANCE_TIMEOUT_S": 60},
)
async def rolling_restart(world: Scene) -> None:
    """None is away for as long as its session: nobody else is assigned anything anew, so nobody else's partitions stand."""
    workers = await world.at_work(3)
    for worker in workers:
        worker.kept = False
        others = [other for other in workers if other is not worker]
        before = [other.metric("mailstreams_rebalances_total") for other in others]

        async def restart(worker: Member = worker) -> None:
            await world.stop(worker)
            await world.start(worker)

        await world.measure(restart)
        after = [other.metric("mailstreams_rebalances_total") for other in others]
        world.outcome.notes.append(f"assignments of the others: {before} before, {after} after")
        world.expect(
            after == before, f"when {worker.name} was restarted the others were assigned their partitions anew"
        )
        world.expect("Traceback" not in worker.log.read_text(), f"{worker.name} wrote a traceback")


async def _joined(member: Member) -> bool:
    """Tell whether a worker has come into the group since it was started."""
    if not member.alive or "/readyz" not in member.output:
        return False
    with contextlib.suppress(OSError):  # it ends at this moment
        return await asyncio.to_thread(member.metric, "mailstreams_rebalances_total") > 0
    return False


@scenario("each second a worker joins or leaves, at most three alive", settings=SESSION_10_S)
async def join_and_leave_storm(world: Scene) -> None:
    """As in Kafka's own, only who has come leaves: a process that ends while it starts is no member, and harms nobody."""
    slots = [world.member(f"worker-{number}") for number in range(6)]
    for slot in slots:
        slot.kept = False
    await world.start(slots[0])
    staying = [slots[0]]
    world.traffic.start()
    await world.flowing()
    world.subscriber.watching = True
    until = time.monotonic() + (12 if world.quick else 60)
    joined = left = 0
    while time.monotonic() < until:
        free = [slot for slot in slots if not slot.alive]
        staying = [slot for slot in staying if slot.alive]
        if len(slots) - len(free) < 3:
            free[0].start()
            staying.append(free[0])
            joined += 1
        elif staying and await _joined(staying[0]):
            staying.pop(0).signal(signal.SIGTERM)
            left += 1
        await asyncio.sleep(1)
    for slot in staying:
        slot.kept = True
    world.expect(joined >= (3 if world.quick else 12), f"only {joined} workers joined: that is no storm")
    world.expect(left >= (1 if world.quick else 8), f"only {left} workers left: that is no storm")
    took = await world.measure(lambda: None)
    silence = world.subscriber.longest_silence_s
    world.outcome.notes.append(f"{joined} joined, {left} left, longest silence of a partition {silence:.0f} s")
    world.expect(world.quick or silence < 60, f"a partition stood for {silence:.0f} s")
    world.expect(world.quick or took < 60, f"it took {took:.0f} s after the storm")
    failed = [slot.name for slot in slots if slot.starts and "the stop failed" in slot.log.read_text()]
    world.expect(not failed, f"a stop failed: {failed}")


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
