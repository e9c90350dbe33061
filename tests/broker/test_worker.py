"""What a worker does with good and bad records, over restarts, with a damaged store: on a real broker."""

import asyncio
import shutil
import subprocess
import sys
import time

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from streams import codecs, records, topics
from tests.broker import harness
from tests.broker.conftest import Make, World
from tests.faults import oracle

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


def good(number: int, kind: str = "delivered", *, at: float | None = None) -> bytes:
    return codecs.encode(
        [
            {
                "email": f"payer{number}@customer.example",
                "timestamp": int(time.time() if at is None else at) - 60,
                "event": kind,
                "sg_event_id": f"good-{number}-{kind}",
                "sg_message_id": f"message{number}.filter0001.1.1.0",
                "invoice": f"INV-{number}",
            }
        ]
    )


async def _settled(world: World) -> oracle.Verdict:
    """Wait until all is processed, stop the worker in order, and compare."""
    await world.caught_up()
    assert world.worker.stop() == 0
    return await world.verify()


async def test_poison_of_every_kind_goes_to_the_dead_letters_and_its_neighbours_are_unharmed(make_world: Make) -> None:
    world = await make_world(WORKER__POISON_MINIMUM=100)
    bad_element = codecs.encode([codecs.decode(good(900))[0], {"event": "delivered", "sg_event_id": "no-message"}])
    poison: list[bytes | None] = [
        b"{malformed",
        b'[{"event": "\xff\xfe"}]',
        b"[" * 100_000 + b"]" * 100_000,
        b'[{"event": "delivered", "timestamp": NaN}]',
        None,
        b"",
        b"42",
        bad_element,
    ]
    unknown = codecs.encode([codecs.decode(good(901))[0] | {"event": "teleported", "sg_event_id": "unknown-1"}])
    huge = codecs.encode([codecs.decode(good(902))[0] | {"response": "x" * 5_000_000}])
    bodies: list[bytes | None] = []
    for number, bad in enumerate(poison):
        bodies += [good(number), bad]
    bodies += [unknown, huge, good(903)]
    world.worker.start()
    world.worker.wait_ready()
    await world.feed(bodies)
    await world.feed([b"{malformed"], provider="mailgun")
    no_events: list[tuple[int, bytes | None, bytes | None, list[object]]] = [
        (0, None, good(1), []),
        (1, b"a-key", b"no event", []),
        (2, b"another", None, []),
        (3, b"\xff\xfe", b"{}", []),
    ]
    await harness.send(world.broker, topics.EVENTS, no_events)
    world.foreign += [value for _, _, value, _ in no_events]

    await world.caught_up(provider="mailgun")
    verdict = await _settled(world)

    assert verdict.word == oracle.ALL_DELIVERED
    assert verdict.differences == []
    letters = await world.read(topics.DEAD_LETTERS)
    origins = sorted(
        (letter.topic, -1 if letter.element is None else letter.element)
        for letter in (records.decode_dead_letter(record.value, record.headers) for record in letters)
    )
    assert origins == sorted(
        [("mail.raw.sendgrid", -1)] * (len(poison) - 1)
        + [("mail.raw.sendgrid", 1), ("mail.raw.mailgun", -1)]
        + [("mail.events", -1)] * 4
    )
    events = [records.decode_event(record.value) for record in await world.read(topics.EVENTS) if _is_event(record)]
    assert {event.message_id for event in events} >= {f"message{n}" for n in [*range(len(poison)), 900, 901, 902, 903]}


def _is_event(record: harness.Record) -> bool:
    try:
        records.decode_event(record.value)
    except records.RecordError:
        return False
    return True


async def test_a_partition_full_of_poison_stops_alone_and_goes_on_after_resume(make_world: Make) -> None:
    world = await make_world(WORKER__POISON_MINIMUM=5)
    world.worker.start()
    world.worker.wait_ready()
    await world.feed([b"{malformed"] * 40, partition=2)
    await world.feed([good(1)], partition=2)
    world.worker.wait_for("mail.raw.sendgrid/2 stopped")

    # the others go on
    await world.feed([good(2)], partition=1)
    deadline = time.monotonic() + 20
    while not await world.read(topics.STATUS_CHANGED):
        assert time.monotonic() < deadline
    ready, why = world.worker.get("/readyz")
    assert (ready, "mail.raw.sendgrid/2 stopped" in why) == (503, True)
    assert world.worker.get("/livez")[0] == 200
    assert len(await world.read(topics.DEAD_LETTERS)) == 5
    assert world.worker.metric('mailstreams_partition_stopped{partition="2",topic="mail.raw.sendgrid"}') == 1

    # a restart does not forget it
    assert world.worker.stop() == 0
    world.worker.start()
    world.worker.wait_for("mail.raw.sendgrid/2 stopped")
    assert len(await world.read(topics.DEAD_LETTERS)) == 5

    # resumed through the last bad offset, all bad ones go to the dead letters and the good one is processed
    done = _mailstreams(world, "resume", "mail.raw.sendgrid", "2", "--dead-letter-through", "39")
    assert done.returncode == 0, done.stderr
    verdict = await _settled(world)
    assert len(await world.read(topics.DEAD_LETTERS)) == 40
    assert (verdict.word, verdict.differences, verdict.expected.applied) == (oracle.ALL_DELIVERED, [], 2)


def _mailstreams(world: World, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "streams", *arguments],
        env=dict(world.worker.environment) | {"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_a_worker_goes_on_where_it_was_stopped_and_reads_only_the_tail(make_world: Make) -> None:
    world = await make_world()
    world.worker.start()
    world.worker.wait_ready()
    await world.feed([good(n) for n in range(200)])
    await world.caught_up()
    assert world.worker.stop() == 0
    assert "Traceback" not in world.worker.output
    world.worker.start()
    world.worker.wait_ready()
    assert world.worker.metric("mailstreams_restored_rows_total") == 0
    await world.feed([good(n, "open") for n in range(200)])
    verdict = await _settled(world)
    assert (verdict.word, verdict.differences) == (oracle.ALL_DELIVERED, [])
    assert sum(map(len, verdict.expected.changes.values())) == 400


@pytest.mark.parametrize("damage", ["deleted", "missing CURRENT", "truncated MANIFEST"])
async def test_a_lost_or_corrupt_store_is_rebuilt_from_the_changelog(make_world: Make, damage: str) -> None:
    world = await make_world()
    world.worker.start()
    world.worker.wait_ready()
    await world.feed([good(n) for n in range(200)])
    await world.caught_up()
    assert world.worker.stop() == 0
    stores = sorted(world.datadir.glob("deliveries-?"))
    assert len(stores) == 4
    assert world.datadir.stat().st_mode & 0o077 == 0, "the stores hold addresses"
    for store in stores:
        if damage == "deleted":
            shutil.rmtree(store)
        elif damage == "missing CURRENT":
            (store / "CURRENT").unlink()
        else:
            manifest = next(store.glob("MANIFEST-*"))
            manifest.write_bytes(manifest.read_bytes()[:1])
    world.worker.start()
    world.worker.wait_ready()
    assert world.worker.metric("mailstreams_restored_rows_total") >= 200
    if damage == "missing CURRENT":
        assert world.worker.metric("mailstreams_store_rebuilds_total") == 4
    await world.feed([good(n, "open") for n in range(200)])
    verdict = await _settled(world)
    assert (verdict.word, verdict.differences) == (oracle.ALL_DELIVERED, [])


async def test_a_changelog_that_was_deleted_is_refused_and_not_taken_for_a_fresh_start(make_world: Make) -> None:
    world = await make_world()
    world.worker.start()
    world.worker.wait_ready()
    await world.feed([good(n) for n in range(50)])
    await world.caught_up()
    assert world.worker.stop() == 0
    changelog = topics.changelog_topic(world.settings.worker.app_id)
    await harness.delete_topics(world.broker, changelog)
    await topics.create(world.settings)
    world.worker.start()
    assert world.worker.wait() == 1
    assert "RestoreError" in world.worker.output
    assert "was deleted" in world.worker.output


async def test_a_worker_refuses_to_start_without_its_topics_and_says_which_command_mends_it(make_world: Make) -> None:
    world = await make_world()
    await harness.delete_topics(world.broker, topics.STATUS)
    world.worker.start()
    assert world.worker.wait() == 2
    assert "mail.status is missing; create it: mailstreams topics create" in world.worker.output


async def test_deliveries_expire_by_ticks_and_leave_tombstones(make_world: Make) -> None:
    world = await make_world(DELIVERY__EXPIRE_AFTER_DAYS=1, WORKER__TICK_INTERVAL_S=0.2)
    headers = harness.raw_headers("sendgrid", received_at=harness.LONG_AGO)
    body = good(1, at=harness.LONG_AGO.timestamp())
    world.worker.start()
    world.worker.wait_ready()
    await harness.send(world.broker, topics.raw_topic("sendgrid"), [(0, None, body, headers)])
    await world.feed([good(2)])
    await world.caught_up()
    deadline = time.monotonic() + 30
    while not [record for record in await world.read(topics.STATUS) if record.value is None]:
        assert time.monotonic() < deadline, world.worker.output
    assert world.worker.stop() == 0
    tombstones = [record for record in await world.read(topics.STATUS) if record.value is None]
    (told_of_old,) = [
        r for r in await world.read(topics.STATUS_CHANGED) if records.decode_status(r.value)["reference"] == "INV-1"
    ]
    assert [record.key for record in tombstones] == [told_of_old.key]
    changelog = topics.changelog_topic(world.settings.worker.app_id)
    assert [r.key for r in await world.read(changelog) if r.value is None] == [told_of_old.key]


async def test_a_worker_gets_on_past_what_nobody_can_read(make_world: Make) -> None:
    """Retention deletes a partition's unread tail while no worker runs; a transaction at another's end is aborted."""
    world = await make_world(WORKER__WATCHDOG_S=8, KAFKA__COMMIT_DEADLINE_S=6, WORKER__TICK_INTERVAL_S=0.2)
    world.worker.start()
    world.worker.wait_ready()
    await world.feed([good(1)], partition=1)
    await world.caught_up()
    assert world.worker.stop() == 0
    raw = topics.raw_topic("sendgrid")
    await world.feed([good(2)] * 5, partition=1)
    admin = AIOKafkaAdminClient(bootstrap_servers=world.broker.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(raw, 1): RecordsToDelete(6)})
    async with AIOKafkaProducer(
        bootstrap_servers=world.broker.bootstrap, transactional_id="somebody's", acks="all"
    ) as producer:
        for topic in (topics.EVENTS, topics.DEFERRALS):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"never", partition=2)
            await producer.abort_transaction()

    world.worker.start()
    world.worker.wait_for("offsets 1 to 5 were deleted by retention")
    world.worker.wait_ready()

    ends = {TopicPartition(raw, 1): 6, TopicPartition(topics.EVENTS, 2): 2, TopicPartition(topics.DEFERRALS, 2): 2}
    deadline = time.monotonic() + 30
    while True:
        committed = await admin.list_consumer_group_offsets(world.settings.worker.app_id, partitions=list(ends))
        if all(tp in committed and committed[tp].offset >= end for tp, end in ends.items()):
            break
        assert time.monotonic() < deadline, (committed, world.worker.output)
        await asyncio.sleep(0.2)
    await admin.close()
    time.sleep(10)  # longer than the watchdog's patience
    assert world.worker.get("/livez")[0] == 200
    assert time.time() - world.worker.metric('mailstreams_monitor_clock_timestamp_seconds{partition="2"}') < 10
    assert world.worker.stop() == 0


async def test_a_worker_says_which_of_its_timeouts_the_brokers_do_not_take(make_world: Make) -> None:
    world = await make_world(KAFKA__SESSION_TIMEOUT_S=3)
    world.worker.start()
    assert world.worker.wait() == 1
    assert (
        "InvalidSessionTimeoutError; set kafka.session_timeout_s within the brokers' group.min" in world.worker.output
    )


async def test_a_worker_says_that_the_brokers_want_a_shorter_transaction_timeout(make_world: Make) -> None:
    make_world.broker.properties["transaction.max.timeout.ms"] = "10000"
    world = await make_world()
    world.worker.start()
    assert world.worker.wait() == 1
    assert "; set kafka.transaction_timeout_s to the brokers' transaction.max.timeout.ms" in world.worker.output
