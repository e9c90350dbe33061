"""Workers with a mistake in them: each breaks the promise in one way, and the oracle has to see it.

    MUTANT=dropped-commit python -m tests.faults.mutants

Each is a real worker with one part exchanged, so that what reaches the broker is
what such a mistake would really leave there.
"""

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.protocol.transaction import EndTxnRequest

from streams import codecs, topics
from streams.domain import deferrals
from streams.kafka.batches import Destination, Row
from streams.kafka.lanes import POSITION_KEY, Effects, Lane, StatefulLane, StatelessLane
from streams.kafka.session import ProducerSession, batches_of
from streams.kafka.transactions import TransactionalWriter
from streams.settings import load
from streams.worker import run_worker


def dropped_commit() -> None:
    """A batch's transaction is aborted, and the worker goes on as if it was committed."""
    telling: set[ProducerSession] = set()
    calls = count()
    begin, commit = ProducerSession.begin, ProducerSession.commit

    async def begun(session: ProducerSession, destinations: Any) -> None:
        if any(topic == topics.STATUS_CHANGED for topic, _ in destinations):
            telling.add(session)
        await begin(session, destinations)

    async def committed(session: ProducerSession) -> None:
        tells = session in telling
        telling.discard(session)
        if tells and next(calls) == 5:
            _made()
            name = session._transactional_id
            await session._ask_coordinator(
                EndTxnRequest(name, session.producer_id, session.epoch, transaction_result=False)
            )
        else:
            await commit(session)

    _patch(ProducerSession, "begin", begun)
    _patch(ProducerSession, "commit", committed)


def double_emission() -> None:
    """A change is told twice, the second time with a new revision."""
    emit, calls = Effects.emit, count()

    def twice(effects: Effects, topic: str, partition: int, row: Row) -> None:
        emit(effects, topic, partition, row)
        if topic == topics.STATUS_CHANGED and next(calls) == 100:
            value = codecs.decode(row.value or b"")
            assert isinstance(value, dict)
            _made()
            again = codecs.encode({**value, "revision": value["revision"] + 1})
            emit(effects, topic, partition, row._replace(value=again))

    _patch(Effects, "emit", twice)


def swallowed_exception() -> None:
    """Now and then a record fails and is skipped: what Faust does with an exception out of an agent."""
    fold, calls = StatefulLane._fold_record, count()

    def skip(lane: StatefulLane, record: Any, effects: Effects) -> None:
        try:
            _ = 1 // (next(calls) % 50)
            fold(lane, record, effects)
        except ZeroDivisionError:
            _made()

    _patch(StatefulLane, "_fold_record", skip)


def swallowed_poison() -> None:
    """A bad record leaves no dead letter."""
    _patch(Lane, "_bury", lambda *_: _made())


def skipped_tombstone() -> None:
    """An expired delivery stays on ``mail.status``."""
    emit = Effects.emit

    def skip(effects: Effects, topic: str, partition: int, row: Row) -> None:
        if topic == topics.STATUS and row.value is None:
            _made()
        else:
            emit(effects, topic, partition, row)

    _patch(Effects, "emit", skip)


def skipped_changelog_tombstone() -> None:
    """An expired delivery stays in the changelog."""

    def skip(rows: list[Row]) -> list[Row]:
        kept = [row for row in rows if row.value is not None]
        if len(kept) < len(rows):
            _made()
        return kept

    _patch_changelog(skip)


def stale_changelog() -> None:
    """A row of the changelog is the one before."""
    before: dict[bytes | None, bytes | None] = {}
    calls = count()

    def stale(rows: list[Row]) -> list[Row]:
        found = []
        for row in rows:
            old = before.get(row.key)
            before[row.key] = row.value
            if row.key != POSITION_KEY and old is not None and next(calls) % 50 == 0:
                _made()
                found.append(row._replace(value=old))
            else:
                found.append(row)
        return found

    _patch_changelog(stale)


def committed_over() -> None:
    """The broker refuses a batch inside a transaction, nobody looks, and the rest is committed."""
    calls = count()
    produce = ProducerSession.produce

    async def careless(session: ProducerSession, batches: Any) -> dict[Destination, int]:
        offsets: dict[Destination, int] = {}
        for destination, batch in batches.items():
            told = destination[0] == topics.STATUS_CHANGED and next(calls) == 3
            large = [Row(b"large", os.urandom(9 << 20), 0)]
            sent = next(batches_of(session.producer, large)) if told else batch
            try:
                offsets |= await produce(session, {destination: sent})
            except KafkaError:
                _made()
        return offsets

    _patch(ProducerSession, "produce", careless)


def offset_before_outputs() -> None:
    """``normalise`` commits its position first; then it is killed."""
    calls = count()

    async def commit(lane: StatelessLane, batch: Any, effects: Effects) -> None:
        position = lane._moved(batch)
        lane._positions.reach(lane.tp, position.offset, position.encode())
        await lane._positions.flush()
        if any(topic == topics.EVENTS for topic, _ in effects.outputs) and next(calls) == 2:
            _made()
            os.kill(os.getpid(), signal.SIGKILL)
        await lane._publisher.publish(effects.outputs)
        lane.position = position

    _patch(StatelessLane, "_commit", commit)


def position_before_outputs() -> None:
    """``track`` commits its position in a transaction of its own; then it is killed."""
    commit, calls = TransactionalWriter.commit, count()

    async def in_two(writer: TransactionalWriter, rows: Any) -> dict[Destination, int]:
        positions = {to: [row for row in sent if row.key == POSITION_KEY] for to, sent in rows.items()}
        others = {to: [row for row in sent if row.key != POSITION_KEY] for to, sent in rows.items()}
        ends = await commit(writer, {to: sent for to, sent in positions.items() if sent})
        if _tells(others) and next(calls) == 6:
            _made()
            os.kill(os.getpid(), signal.SIGKILL)
        return ends | await commit(writer, {to: sent for to, sent in others.items() if sent})

    _patch(TransactionalWriter, "commit", in_two)


def forgotten_alerts() -> None:
    """A tick takes every third deadline out of its index, and tells nobody."""
    elapse, calls = deferrals.elapse, count()

    def forget(episode: deferrals.Episode, now: int, policy: deferrals.Policy) -> deferrals.Step:
        step = elapse(episode, now, policy)
        if not step.alerts or next(calls) % 3:
            return step
        _made()
        return deferrals.Step(episode)

    _patch(deferrals, "elapse", forget)


def forgotten_end() -> None:
    """One episode of which something was told ends in silence."""
    observe, calls = deferrals.observe, count()

    def forget(
        episode: deferrals.Episode | None, deferral: deferrals.Deferral, policy: deferrals.Policy
    ) -> deferrals.Step:
        step = observe(episode, deferral, policy)
        if not step.alerts or next(calls) != 3:
            return step
        _made()
        return step._replace(alerts=())

    _patch(deferrals, "observe", forget)


MUTANTS: dict[str, Callable[[], None]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        dropped_commit,
        double_emission,
        swallowed_exception,
        swallowed_poison,
        skipped_tombstone,
        skipped_changelog_tombstone,
        stale_changelog,
        committed_over,
        offset_before_outputs,
        position_before_outputs,
        forgotten_alerts,
        forgotten_end,
    )
}


MADE = "the mistake was made"


def _tells(rows: Any) -> bool:
    """Whether a subscriber hears of these rows. A batch may hold barriers only: a mistake in it harms nobody."""
    return any(topic == topics.STATUS_CHANGED and sent for (topic, _), sent in rows.items())


def _made() -> None:
    print(MADE, file=sys.stderr, flush=True)


def _patch(where: Any, name: str, by: object) -> None:
    assert hasattr(where, name), f"{where} has no {name}: the mutant changes nothing"
    setattr(where, name, by)


def _patch_changelog(change: Callable[[list[Row]], list[Row]]) -> None:
    commit = TransactionalWriter.commit

    async def changed(writer: TransactionalWriter, rows: Any) -> dict[Destination, int]:
        return await commit(
            writer,
            {to: change(sent) if to[0].endswith("-deliveries-changelog") else sent for to, sent in rows.items()},
        )

    _patch(TransactionalWriter, "commit", changed)


if __name__ == "__main__":
    MUTANTS[os.environ["MUTANT"]]()
    sys.exit(run_worker(load()))
