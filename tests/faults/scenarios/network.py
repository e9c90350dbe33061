"""A network that delays, cuts and half-closes connections, above all in the middle of a transaction."""

import asyncio
import contextlib
import shutil
import time
from functools import partial
from typing import Any

from aiokafka.protocol.produce import ProduceResponse_v7
from aiokafka.protocol.transaction import AddPartitionsToTxnResponse_v0, EndTxnResponse_v0

from tests.faults.proxy import (
    ADD_PARTITIONS,
    END_TXN,
    FETCH,
    HEARTBEAT,
    OFFSET_COMMIT,
    PRODUCE,
    Harm,
    Rule,
)
from tests.faults.scenarios.registry import Play, Scene, scenario

TRACK, MONITOR = "mailstreams-track-", "mailstreams-monitor-"
"""The client ids of the producers of the two stages with transactions begin so."""
NORMALISE = "mailstreams-normalise"
"""That of the producer for rows outside transactions."""


ANSWERS: dict[int, Any] = {
    PRODUCE: ProduceResponse_v7,
    ADD_PARTITIONS: AddPartitionsToTxnResponse_v0,
    END_TXN: EndTxnResponse_v0,
}
"""To the requests of a transaction, in the versions that our client speaks."""
ACCEPTED, OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH, CONCURRENT_TRANSACTIONS, PRODUCER_FENCED = 0, 45, 47, 51, 90
"""Error codes."""


async def _hit(world: Scene, rule: Rule) -> None:
    """Let a rule hit."""
    assert world.proxy is not None
    world.proxy.rules = [rule]
    async with asyncio.timeout(60):
        while not rule.done:
            await asyncio.sleep(0.02)


async def _harm(world: Scene, rule: Rule) -> float:
    """Let a rule hit, and wait until all is well again."""
    assert world.proxy is not None
    took = await world.measure(lambda: _hit(world, rule))
    world.proxy.rules = []
    return took


async def _answered(rule: Rule) -> set[int]:
    """Wait until the broker has answered a late request; return the error codes, one for each partition that it names."""
    async with asyncio.timeout(60):
        await rule.answered.wait()
    answer = ANSWERS[rule.api].decode(rule.answer)
    if rule.api == END_TXN:
        return {answer.error_code}
    topics = answer.topics if rule.api == PRODUCE else answer.errors
    return {partition[1] for _, partitions in topics for partition in partitions}


@scenario("EndTxn is held back for 5 s, then for longer than the worker waits for it", proxied=True)
async def delayed_end_of_transaction(world: Scene) -> None:
    [worker] = await world.at_work()
    await _harm(world, Rule(END_TXN, Harm.DELAY, 5, client=TRACK))
    world.expect(worker.restarts == 0, "a delay within the deadline ended the worker")
    await _harm(world, Rule(END_TXN, Harm.DELAY, world.settings.kafka.commit_deadline_s + 3, client=TRACK))
    world.expect(worker.restarts == 1, "a delay beyond the deadline did not end the worker")


def _late_end(client: str) -> Play:
    # before the successor has fenced, while it does, and after
    allowed = {ACCEPTED, CONCURRENT_TRANSACTIONS, INVALID_PRODUCER_EPOCH, PRODUCER_FENCED}

    async def late_end(world: Scene) -> None:
        [worker] = await world.at_work()
        delays = (2.0,) if world.quick else (0.3, 1.0, 2.0, 4.0, 8.0, 14.0)
        for seconds in delays:
            late = Rule(END_TXN, Harm.LATE, seconds, client=client)
            await _harm(world, late)
            found = await _answered(late)
            world.outcome.notes.append(f"after {seconds:g} s: error {found}")
            world.expect(found and found <= allowed, f"the broker answered {found} to a late EndTxn, not {allowed}")
        world.expect(worker.restarts >= len(delays), f"it was restarted {worker.restarts} times for {len(delays)} cuts")

    return late_end


scenario(
    "EndTxn reaches the broker when its sender is gone and the next owner works",
    named="late-end-of-transaction",
    proxied=True,
    short=True,
)(_late_end(TRACK))
scenario(
    "the monitor's EndTxn reaches the broker when its sender is gone and the next owner works",
    named="late-end-of-the-monitor",
    proxied=True,
)(_late_end(MONITOR))


def _late(*, fenced: bool) -> Play:
    """Hold back each request of a transaction until its sender has given up and ended, then deliver it.

    ``fenced``: while the next transaction of the same partition is open, the successor's; else before there is one.
    """
    allowed = {INVALID_PRODUCER_EPOCH, PRODUCER_FENCED} if fenced else {ACCEPTED}

    async def late(world: Scene) -> None:
        [worker] = await world.at_work()
        apis = (PRODUCE,) if world.quick else tuple(ANSWERS)
        for api in apis:
            until, end = asyncio.Event(), asyncio.Event()
            held = Rule(api, Harm.HELD, until=until, client=TRACK, skip=world.chance.randrange(3))
            worker.kept = fenced
            if fenced:
                await _harm(world, held)
                await _hit(world, Rule(END_TXN, Harm.DELAY, until=end, client=held.victim))
            else:
                await _hit(world, held)
                await world.ended(worker)
            until.set()
            found = await _answered(held)
            end.set()
            name = ANSWERS[api].__name__.partition("Response")[0]
            world.outcome.notes.append(f"{name}: error {found}")
            world.expect(found and found <= allowed, f"the broker answered {found} to a late {name}, not {allowed}")
            worker.kept = True
            await world.measure(lambda: None)
        world.expect(worker.restarts >= len(apis), f"it gave up {worker.restarts} times for {len(apis)} held requests")

    return late


LATE: dict[str, object] = {"KAFKA__COMMIT_DEADLINE_S": 5}
scenario(
    "each request of a transaction reaches the broker when its sender has given up and the successor's is open: refused",
    named="late-write-after-the-fence",
    settings=LATE,
    proxied=True,
)(_late(fenced=True))
scenario(
    "each request of a transaction reaches the broker when its sender has given up and nobody has fenced yet",
    named="late-write-before-the-fence",
    settings=LATE,
    proxied=True,
)(_late(fenced=False))


def _cut_at(harm: Harm) -> Play:
    async def cut(world: Scene) -> None:
        [worker] = await world.at_work()
        requests = [(api, TRACK) for api in ((ADD_PARTITIONS, END_TXN) if world.quick else ANSWERS)]
        for api, client in (*requests, (END_TXN, MONITOR)):
            await _harm(world, Rule(api, harm, client=client, skip=world.chance.randrange(3)))
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


@scenario("outside a transaction, a request is lost before or behind the broker, late, or never answered", proxied=True)
async def harmed_publication(world: Scene) -> None:
    [worker] = await world.at_work()
    for harm in (Harm.CUT_BEFORE, Harm.CUT_AFTER):
        await _harm(world, Rule(PRODUCE, harm, client=NORMALISE, skip=world.chance.randrange(3)))
    late = Rule(PRODUCE, Harm.LATE, 2, client=NORMALISE)
    await _harm(world, late)
    found = await _answered(late)
    world.outcome.notes.append(f"late: error {found}")
    world.expect(found <= {ACCEPTED, OUT_OF_ORDER_SEQUENCE}, f"the broker answered {found} to rows that it had already")
    world.expect(worker.restarts == 0, "the worker ended, though the request could be sent again")
    await _harm(world, Rule(PRODUCE, Harm.HALF_CLOSE, client=NORMALISE))
    world.expect(worker.restarts == 1, "silence beyond the deadline did not end the worker")


@scenario("the commit of the group's offset: late, cut before and behind the broker, half closed", proxied=True)
async def harmed_offset_commit(world: Scene) -> None:
    """Nothing begins at it, but the clock of the stages behind goes by it."""
    [worker] = await world.at_work()
    for harm in (Harm.CUT_BEFORE, Harm.CUT_AFTER, Harm.HALF_CLOSE, Harm.LATE):
        await _harm(world, Rule(OFFSET_COMMIT, harm, 3, skip=world.chance.randrange(3)))
    world.outcome.notes.append(f"{worker.restarts} restarts")


@scenario("no byte passes for 5 and 20 s; then every connection is cut", proxied=True)
async def network_gone(world: Scene) -> None:
    await world.at_work()
    assert world.proxy is not None
    proxy = world.proxy

    async def gone(seconds: float) -> None:
        proxy.open.clear()
        await asyncio.sleep(seconds)
        proxy.open.set()

    for seconds in (5,) if world.quick else (5, 20):
        await world.measure(partial(gone, seconds))
    await world.measure(proxy.cut)


@scenario(
    "the changelog is not delivered to a worker whose stores are gone: the watchdog ends it, until the network is well",
    settings={"WORKER__WATCHDOG_S": 15},
    proxied=True,
)
async def restore_stands(world: Scene) -> None:
    worker = world.member("worker", static=True)
    worker.kept = False
    await world.start(worker)
    await world.backlog(200)
    await world.caught_up()
    await world.stop(worker)
    shutil.rmtree(worker.datadir)
    assert world.proxy is not None
    world.proxy.rules = [Rule(FETCH, Harm.DELAY, 3600, client="mailstreams-restore", times=1 << 30)]
    worker.start()
    await world.said(worker, "restoring ")
    began = time.monotonic()
    idle_s = 0.0
    while worker.alive and time.monotonic() < began + 60:
        with contextlib.suppress(OSError):  # it ends at this moment
            idle_s = max(idle_s, await asyncio.to_thread(worker.metric, "mailstreams_restore_idle_seconds"))
        await asyncio.sleep(0.5)
    took = time.monotonic() - began
    world.outcome.notes.append(f"ended after {took:.0f} s")
    await world.stop(worker)
    world.expect(await world.ended(worker) == 1, "it did not end by itself")
    world.expect("StalledError: the restore of the stores has done nothing" in worker.output, "it did not say why")
    world.expect(10 < took < 40, f"it took {took:.0f} s to end")
    world.expect(idle_s > 5, f"the metric showed {idle_s:.0f} s at most")
    world.proxy.rules = []
    await world.proxy.cut()
    worker.kept = True
    worker.start()
    world.traffic.start()
    await world.measure(lambda: None)


@scenario("every request takes 50 ms, every write 300 ms, every 20th heartbeat and fetch 3 s", proxied=True)
async def slow_output(world: Scene) -> None:
    await world.at_work()
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
