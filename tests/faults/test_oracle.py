"""The oracle is itself tested: it says yes to a right worker, and no to each that is wrong."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from streams import codecs, records, topics
from streams.domain.status import Status
from streams.settings import Settings
from tests.broker import harness
from tests.brokers import Passing
from tests.faults import oracle
from tests.faults.mutants import MADE, MUTANTS
from tests.faults.oracle import Kinds, Log, Stored, Written
from tests.faults.traffic import waiting

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

RIGHT = "right"
WAITING = 60
"""So many messages have been deferred for long."""
OLD = 4
"""So many are so old that they expire at once."""
MUTANT = [sys.executable, "-m", "tests.faults.mutants"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Passing(tmp_path_factory.mktemp("oracle")) as broker:
        yield broker


async def run(broker: Broker, folder: Path, name: str) -> tuple[Written, Settings]:
    """Run a worker, with a mistake unless ``name`` is ``RIGHT``, on topics of its own; a killed one gets an heir."""
    overrides = {
        "WORKER__APP_ID": name,
        "WORKER__BATCH_RECORDS": 100,
        "WORKER__TICK_INTERVAL_S": 0.2,
        "WORKER__POISON_MINIMUM": 100,
        "DELIVERY__EXPIRE_AFTER_DAYS": 30,
        "KAFKA__GROUP_INSTANCE_ID": "worker-1",
    }
    settings, environment = harness.settings_for(broker, folder / name, overrides)
    names = {spec.name for spec in topics.all_topics(settings)}
    await harness.delete_topics(broker, *(names & set(await topics.partition_counts(settings))))
    await topics.create(settings)
    await feed(broker, settings)
    worker = harness.WorkerProcess(environment, folder / f"{name}.log")
    if name != RIGHT:
        mutant = harness.WorkerProcess({**environment, "MUTANT": name}, folder / f"{name}.mutant.log", MUTANT)
        mutant.start()
        try:
            # One that skips records now and then may skip some of the old ones, too.
            await lived(broker, settings, mutant.ended, forgotten=1 if name == "swallowed-exception" else OLD)
        finally:
            mutant.stop()
        assert MADE in mutant.output
    worker.start()
    worker.wait_ready(120)
    try:
        if name == RIGHT:
            await lived(broker, settings, worker.ended, forgotten=OLD)
        await harness.caught_up(broker, settings, harness.RAW_AND_EVENTS, 120)
    finally:
        assert worker.stop() == 0
    return await oracle.read(broker, settings, [folder / name]), settings


async def lived(broker: Broker, settings: Settings, ended: Callable[[], bool], *, forgotten: int) -> None:
    """Wait until a worker has processed everything and told alerts; then let every second of the long deferrals end."""
    await harness.caught_up(broker, settings, harness.RAW_AND_EVENTS, 120, unless=ended)
    await ticked(broker, settings, ended, forgotten)
    ends = (0, None, waiting("delivered", range(0, WAITING, 2)), harness.raw_headers("sendgrid"))
    await harness.send(broker, topics.raw_topic("sendgrid"), [ends])
    await harness.caught_up(broker, settings, harness.RAW_AND_EVENTS, 120, unless=ended)


async def feed(broker: Broker, settings: Settings) -> None:
    """Much that is good, some that waits for long, some poison, and a few messages so old that they expire at once."""
    count = settings.topics.partitions
    now = harness.raw_headers("sendgrid")
    old = harness.raw_headers("sendgrid", received_at=harness.LONG_AGO)
    bodies = [
        *((body, now) for body in harness.bodies(1, 300, 10, deliveries=400)),
        (waiting("deferred", range(WAITING)), now),
        *((body, now) for body in (b"{malformed", b"42", None)),
        *(
            (body, old)
            for number in range(OLD)
            for body in harness.bodies(1000 + number, 1, 1, deliveries=1, now=harness.LONG_AGO)
        ),
    ]
    rows = [(number % count, None, body, headers) for number, (body, headers) in enumerate(bodies)]
    await harness.send(broker, topics.raw_topic("sendgrid"), rows)


async def ticked(broker: Broker, settings: Settings, ended: Callable[[], bool], forgotten: int) -> None:
    """Wait until ticks have forgotten so many of the old messages and told alerts, of every partition.

    A tombstone in one of the two topics is enough: a mutant may not write the other.
    """
    names = [topics.changelog_topic(settings.worker.app_id), topics.STATUS, topics.DEFERRAL_ALERTS]
    deadline = time.monotonic() + 150
    while not ended():
        assert time.monotonic() < deadline, "no tick does anything"
        logs = await harness.read_topics(broker, names, settings.topics.partitions)
        gone = [sum(one.value is None for found in log.values() for one in found) for log in logs.values()]
        if max(gone) >= forgotten and all(logs[topics.DEFERRAL_ALERTS].values()):
            return


@pytest.fixture(scope="module")
def right(cluster: Broker, tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, Settings]:
    return asyncio.run(run(cluster, tmp_path_factory.mktemp("right"), RIGHT))


def test_a_right_worker_is_right(right: tuple[Written, Settings]) -> None:
    verdict = oracle.judge(*right)

    assert [str(one) for one in verdict.differences] == []
    assert verdict.word == oracle.ALL_DELIVERED
    expected, log = verdict.expected, right[0].logs[topics.EVENTS]
    accounted = expected.applied + expected.duplicate + expected.ignored + expected.poison
    assert accounted == sum(map(len, log.values())) > 2_000
    assert len(expected.dead_letters) == 3
    assert len(expected.forgotten) == OLD


# --- mistakes in the worker ------------------------------------------------------------------------------------------

SEEN: Mapping[str, tuple[Kinds, str]] = {
    "dropped-commit": (Kinds.LOST, "status-changed"),
    "double-emission": (Kinds.SURPLUS, "status-changed"),
    "swallowed-exception": (Kinds.WRONG, "changelog of deliveries"),
    "swallowed-poison": (Kinds.LOST, "dead-letters"),
    "skipped-tombstone": (Kinds.LOST, "status"),
    "skipped-changelog-tombstone": (Kinds.SURPLUS, "changelog of deliveries"),
    "stale-changelog": (Kinds.WRONG, "changelog of deliveries"),
    "committed-over": (Kinds.LOST, "status-changed"),
    "offset-before-outputs": (Kinds.LOST, "events"),
    "position-before-outputs": (Kinds.LOST, "status-changed"),
    "forgotten-alerts": (Kinds.LOST, "alerts"),
    "forgotten-end": (Kinds.LOST, "alerts"),
}


@pytest.mark.parametrize("name", sorted(MUTANTS))
async def test_a_wrong_worker_is_found_out(cluster: Broker, tmp_path: Path, name: str) -> None:
    verdict = oracle.judge(*await run(cluster, tmp_path, name))

    kind, where = SEEN[name]
    assert not verdict.right
    assert any(one.kind is kind and one.where == where for one in verdict.differences), verdict.differences[:5]


# --- edits of a right run's logs -------------------------------------------------------------------------------------

CHANGELOG = topics.changelog_topic(RIGHT)


def without(log: Log, number: int) -> Log:
    """Return a log without one record."""
    return _with(log, lambda records: [*records[:number], *records[number + 1 :]])


def without_last(log: Log) -> Log:
    """Return a log without the newest record of a partition."""
    return _with(log, lambda records: records[:-1])


def again(log: Log, number: int) -> Log:
    """Return a log in which one record stands twice."""
    return _with(log, lambda records: [*records[: number + 1], *records[number:]])


def backwards(log: Log) -> Log:
    """Return a log whose first partition is in the wrong order."""
    return _with(log, lambda records: records[::-1])


def reworded(log: Log, level: str, field: str, value: object) -> Log:
    """Return a log whose first alert of a level says something else in one field."""
    told = [
        record for found in log.values() for record in found if records.decode_alert(record.value)["level"] == level
    ]
    alert = records.decode_alert(told[0].value)
    assert alert[field] != value
    other = replace(told[0], value=codecs.encode(alert | {field: value}))
    return {partition: [other if one is told[0] else one for one in found] for partition, found in log.items()}


def _with(log: Log, change: Callable[[Sequence[harness.Record]], Sequence[harness.Record]]) -> Log:
    first = next(partition for partition, records in log.items() if records)
    return {**log, first: change(log[first])}


@pytest.mark.parametrize(
    ("topic", "edit", "seen"),
    [
        (topics.EVENTS, lambda log: without(log, 3), Kinds.LOST),
        (topics.raw_topic("sendgrid"), lambda log: without(log, 3), Kinds.WRONG),
        (topics.STATUS_CHANGED, lambda log: without(log, 3), Kinds.LOST),
        (topics.STATUS_CHANGED, lambda log: again(log, 3), Kinds.REPEATED),
        (topics.STATUS_CHANGED, backwards, Kinds.WRONG),
        (topics.DEFERRALS, lambda log: without(log, 3), Kinds.LOST),
        (topics.DEFERRALS, lambda log: again(log, 3), Kinds.REPEATED),
        (topics.STATUS, without_last, Kinds.LOST),
        (topics.STATUS, lambda log: again(log, 3), Kinds.REPEATED),
        (CHANGELOG, backwards, Kinds.WRONG),
        (topics.changelog_topic(RIGHT, topics.OPEN_DEFERRALS_TABLE), backwards, Kinds.WRONG),
        (topics.DEFERRAL_ALERTS, lambda log: without(log, 0), Kinds.LOST),
        (topics.DEFERRAL_ALERTS, lambda log: again(log, 0), Kinds.REPEATED),
        (topics.DEAD_LETTERS, lambda log: without(log, 0), Kinds.LOST),
    ],
)
def test_a_log_that_was_tampered_with_is_found_out(
    right: tuple[Written, Settings], topic: str, edit: Callable[[Log], Log], seen: Kinds
) -> None:
    written, settings = right
    assert topic in written.logs

    verdict = oracle.judge(Written({**written.logs, topic: edit(written.logs[topic])}, written.stores), settings)

    assert seen in {one.kind for one in verdict.differences}, verdict.differences[:5]


@pytest.mark.parametrize(
    ("level", "field", "value"),
    [
        ("raised", "reference", "INV-999"),
        ("raised", "retry_until", "1970-01-01T00:00:00Z"),
        ("resolved", "annulled", True),
    ],
)
def test_an_alert_that_says_what_its_delivery_never_was_is_found_out(
    right: tuple[Written, Settings], level: str, field: str, value: object
) -> None:
    written, settings = right
    logs = {**written.logs, topics.DEFERRAL_ALERTS: reworded(written.logs[topics.DEFERRAL_ALERTS], level, field, value)}

    verdict = oracle.judge(Written(logs, written.stores), settings)

    assert [(one.kind, one.where) for one in verdict.differences] == [(Kinds.WRONG, "alerts")]
    assert f"{level} of episode" in verdict.differences[0].what


def test_alerts_that_the_facts_demand_and_nobody_told_are_found_out(right: tuple[Written, Settings]) -> None:
    written, settings = right
    silent: Log = dict.fromkeys(written.logs[topics.DEFERRAL_ALERTS], ())
    logs = {**written.logs, topics.DEFERRAL_ALERTS: silent}

    verdict = oracle.judge(Written(logs, written.stores), settings, ticked_us=time.time_ns() // 1000)

    missed = [one for one in verdict.differences if one.where == "alerts" and "missed: raised" in one.what]
    assert missed
    assert verdict.word == oracle.LESS


@pytest.mark.parametrize(
    ("kept", "seen"),
    [
        ((), "missed: raised"),
        (("raised",), "missed: resolved"),
        (("resolved",), "false: resolved"),
    ],
)
def test_alerts_of_an_episode_that_ended_are_found_missing_without_knowing_the_time(
    right: tuple[Written, Settings], kept: Sequence[str], seen: str
) -> None:
    written, settings = right
    log = written.logs[topics.DEFERRAL_ALERTS]
    told = [(record.key, records.decode_alert(record.value)) for found in log.values() for record in found]
    ended = {key for key, alert in told if alert["level"] == "resolved"}
    _, first = min((alert["due_at"], key) for key, alert in told if key in ended and alert["level"] == "raised")
    logs = {
        **written.logs,
        topics.DEFERRAL_ALERTS: {
            partition: [one for one in found if one.key != first or records.decode_alert(one.value)["level"] in kept]
            for partition, found in log.items()
        },
    }

    verdict = oracle.judge(Written(logs, written.stores), settings)

    assert any(one.where == "alerts" and seen in one.what for one in verdict.differences)
    assert {one.where for one in verdict.differences} == {"alerts"}


@pytest.mark.parametrize("table", oracle.TABLES)
def test_a_store_that_differs_from_its_changelog_is_found_out(right: tuple[Written, Settings], table: str) -> None:
    written, settings = right
    stores = deepcopy(written.stores)
    some = min(stores[table].rows)
    row = stores[table].rows[some]
    stores[table].rows[some] = row.replace(b"payer", b"buyer")
    assert stores[table].rows[some] != row

    verdict = oracle.judge(Written(written.logs, stores), settings)

    assert [(one.kind, one.where) for one in verdict.differences] == [(Kinds.WRONG, f"store of {table}")]


def _watched(stored: Stored) -> bytes:
    waiting = {
        key: records.decode_row(row) for key, row in stored.rows.items() if records.watch_of_row(row) is not None
    }
    return min(key for key, delivery in waiting.items() if delivery.status is Status.SENT)


def _put_off(stored: Stored) -> None:
    for key, entries in stored.due.items():
        stored.due[key] = {at + 1 for at in entries}


@pytest.mark.parametrize(
    ("table", "forget", "seen"),
    [
        (topics.DELIVERIES_TABLE, lambda it: it.due.pop(min(it.rows)), "would never expire"),
        (topics.DELIVERIES_TABLE, lambda it: it.watched.pop(_watched(it)), "would never be judged"),
        (topics.OPEN_DEFERRALS_TABLE, lambda it: it.due.clear(), "would never be alerted on"),
        (topics.OPEN_DEFERRALS_TABLE, _put_off, "would never be alerted on"),
        (topics.DELIVERIES_TABLE, lambda it: it.positions.update({1: b"{}"}), "partition 1 stands at"),
    ],
)
def test_a_store_that_would_forget_or_repeat_is_found_out(
    right: tuple[Written, Settings], table: str, forget: Callable[[Stored], object], seen: str
) -> None:
    written, settings = right
    stores = deepcopy(written.stores)
    forget(stores[table])

    verdict = oracle.judge(Written(written.logs, stores), settings)

    assert verdict.differences
    assert all(seen in one.what and one.where == f"store of {table}" for one in verdict.differences)


def test_a_record_in_a_partition_where_nobody_looks_for_it_is_found_out(right: tuple[Written, Settings]) -> None:
    written, settings = right
    log = written.logs[topics.STATUS]
    moved = {**log, 0: [*log[0], log[1][0]], 1: log[1][1:]}

    verdict = oracle.judge(Written({**written.logs, topics.STATUS: moved}, written.stores), settings)

    assert any("stands in partition 0" in one.what for one in verdict.differences)


def test_the_words_are_kafkas() -> None:
    expected = oracle.Expected()
    lost, more, other = (
        oracle.Difference(Kinds.LOST, "", "is missing"),
        oracle.Difference(Kinds.SURPLUS, "", "is too many"),
        oracle.Difference(Kinds.WRONG, "", "too many words decide nothing"),
    )
    assert oracle.Verdict([], expected).word == "ALL-RECORDS-DELIVERED"
    assert oracle.Verdict([other], expected).word == "ALL-RECORDS-DELIVERED"
    assert oracle.Verdict([more], expected).word == "PROCESSED-MORE-THAN-GENERATED"
    assert oracle.Verdict([more, lost], expected).word == "PROCESSED-LESS-THAN-GENERATED"
    assert (oracle.Verdict([more, other], expected).wrong, str(more)) == (2, ": is too many (wrong)")
