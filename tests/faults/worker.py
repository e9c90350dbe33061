"""A worker with a fault in it.

    FAULT=kill:committed:3 python -m tests.faults.worker

does ``kill`` when the point ``committed`` is reached for the third time. What can be done:

=====  ====================================================================
kill   SIGKILL
stop   SIGSTOP, until somebody wakes it
hang   the lane waits for ever, the event loop goes on
block  the event loop stands still for ever
=====  ====================================================================

The points are those that ``streams.kafka`` names (``fenced``, ``folded``,
``published``, ``committed``, ``stored``; ``folded`` of the stages with transactions
only: ``published`` is the next thing in the other) and two more inside the transaction:
``sent``, when every row is acknowledged and its end is not yet asked for, and
``ending``, when its end is asked for and not yet answered.

``EXPIRE_AFTER_S=120`` makes it forget a delivery two minutes after its last event,
``CLOCK_AHEAD_S=3600`` sets its clock forward, ``ROWS=1`` makes it write rows of
``deliveries`` as version 1 did, where that version could say the same (in it the last
event of a fact always spoke), ``MEMBERSHIP=dies`` ends aiokafka's task that takes
care of the membership in the group, as it ends by itself when the first broker it
asks names no brokers (one that stood still, and that the controller has given up);
``MEMBERSHIP=idle`` makes it look to aiokafka as if it had fetched nothing for a day.
``RESTORED=20`` makes it restore by loading its stores, 50 rows at a time, and
kills it after 20 of these pieces (0: never). Its write buffers are small, so that
some of what was restored is in files by then.
"""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.transaction import EndTxnRequest
from faust.types import TP

from streams import topics
from streams.kafka.session import ProducerSession

POINTS = ("fenced", "folded", "published", "sent", "ending", "committed", "stored")
"""Where a fault can be put, in the order in which a worker comes by (``published`` is the stage without transactions)."""

TRANSACTIONAL = (topics.EVENTS, topics.DEFERRALS)
"""Sources of the stages whose batches are transactions."""

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Fault:
    """Does what ``FAULT`` says, once."""

    def __init__(self, what: str, where: str, when: str) -> None:
        self._what, self._where, self._when = what, where, int(when)
        self._seen: Counter[str] = Counter()

    def reached(self, point: str, tp: TP) -> Any:
        if point == "folded" and tp.topic not in TRANSACTIONAL:
            return None
        self._seen[point] += 1
        if point != self._where or self._seen[point] != self._when:
            return None
        print(f"fault: {self._what} at {point} of {tp.topic}/{tp.partition}", file=sys.stderr, flush=True)
        if self._what == "hang":
            return asyncio.Event().wait()
        if self._what == "block":
            time.sleep(3600)
        os.kill(os.getpid(), _SIGNALS[self._what])
        return None

    def inside_transactions(self) -> None:
        """Put the points ``sent`` and ``ending`` around the end of a transaction: the product has no business there."""
        commit: Any = ProducerSession.commit
        start: Any = AIOKafkaProducer.start

        async def committing(session: ProducerSession) -> None:
            self.reached("sent", _tp_of(session.producer))
            await commit(session)

        async def starting(producer: Any) -> None:
            send = producer.client.send

            async def observed(node_id: int, request: Any, **options: Any) -> Any:
                if not isinstance(request, EndTxnRequest):
                    return await send(node_id, request, **options)
                asked = asyncio.ensure_future(send(node_id, request, **options))
                await asyncio.sleep(0)  # it is in the socket now; what was written is sent even if we die
                self.reached("ending", _tp_of(producer))
                return await asked

            producer.client.send = observed
            await start(producer)

        ProducerSession.commit = committing  # type: ignore[assignment,method-assign] # a fault on purpose
        AIOKafkaProducer.start = starting  # type: ignore[method-assign]


def _tp_of(producer: Any) -> TP:
    stage, _, partition = str(producer._txn_manager.transactional_id).rpartition("-")
    return TP(stage, int(partition))


def set_clock_ahead(seconds: float) -> None:
    """Before anything else is imported that keeps one of these functions."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def lose_membership() -> None:
    name = "_GroupCoordinator__coordination_routine"
    assert hasattr(GroupCoordinator, name)

    async def dies(_: GroupCoordinator) -> None:
        raise AssertionError("Did we not perform bootstrap?")

    setattr(GroupCoordinator, name, dies)


def be_idle_for_a_day() -> None:
    """Look as if nothing was fetched for a day, as a worker without a partition does after one."""
    state: Any = SubscriptionState
    idle = state.fetcher_idle_time.fget
    state.fetcher_idle_time = property(lambda self: idle(self) and 86_400 + idle(self))


def write_version_1() -> None:
    """Be a worker of before ``judged``, ``watch_at`` and ``said_at``."""
    from streams import records  # noqa: PLC0415 - the clock is set before

    encode = records.encode_row

    def encode_row(delivery: Any) -> bytes:
        row = encode(delivery)
        return version_1(row) if all(fact.said_at is None for fact in delivery.facts.values()) else row

    records.encode_row = encode_row


def version_1(row: bytes) -> bytes:
    """Return a row of version 3 as version 1 wrote it.

    No ``watch_at`` in the head; JSON, with no ``judged`` at its end and no ``said_at`` at the end of a fact.
    """
    assert row[0] == 3, "the rows have a new version: add what version 3 lacks"
    *fields, _judged = msgspec.msgpack.decode(row[17:])
    fields[4] = [fact[:-1] for fact in fields[4]]
    return b"\x01" + row[1:9] + msgspec.json.encode(fields)


def restore_by_loading(killed_after: int) -> None:
    """Restore by loading, in small pieces, and die after so many of them."""
    from streams.kafka import store, stores  # noqa: PLC0415 - the clock is set before

    store.MAX_WRITE_BUFFER = 64 << 10
    stores.ROWS_AT_ONCE, stores.LOADED_OFFSETS = 50, 0
    apply, applied = stores.Stores._apply, Counter[str]()

    def apply_or_die(*piece: Any) -> None:
        apply(*piece)
        applied["pieces"] += 1
        if applied["pieces"] == killed_after:
            print(f"fault: kill after {killed_after} pieces of the restore", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    stores.Stores._apply = staticmethod(apply_or_die)  # type: ignore[method-assign,assignment]


def main() -> int:
    set_clock_ahead(float(os.environ.get("CLOCK_AHEAD_S", "0")))
    from streams.app import nothing_reached  # noqa: PLC0415 - the clock is set before
    from streams.observe import Reached  # noqa: PLC0415
    from streams.settings import load  # noqa: PLC0415
    from streams.worker import run_worker  # noqa: PLC0415

    reached: Reached = nothing_reached
    if "FAULT" in os.environ:
        fault = Fault(*os.environ["FAULT"].split(":"))
        fault.inside_transactions()
        reached = fault.reached
    if os.environ.get("MEMBERSHIP") == "dies":
        lose_membership()
    if os.environ.get("MEMBERSHIP") == "idle":
        be_idle_for_a_day()
    if os.environ.get("ROWS") == "1":
        write_version_1()
    if "RESTORED" in os.environ:
        restore_by_loading(int(os.environ["RESTORED"]))
    settings = load()
    if "EXPIRE_AFTER_S" in os.environ:  # unchecked: a day is the least that can be set
        days = float(os.environ["EXPIRE_AFTER_S"]) / 86_400
        delivery = settings.delivery.model_copy(update={"expire_after_days": days})
        settings = settings.model_copy(update={"delivery": delivery})
    return run_worker(settings, reached=reached)


if __name__ == "__main__":
    sys.exit(main())
