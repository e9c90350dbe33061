"""Each part has its own user, speaks TLS, and has the rights of the documentation's table: they are enough, and no more.

The system works with them from the webhook to the page; then each user tries what is not in the table.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import ClientSession
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from deploy.local import ports
from streams import topics
from streams.settings import Settings
from tests.broker.harness import WorkerProcess
from tests.e2e.secured import ROLES, Secured, grants
from tests.installed import absent
from tests.web import edge as world

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        absent("/usr/bin/openssl"), reason="openssl makes the page's certificates: apt-get install openssl"
    ),
]

ALL = [spec.name for spec in topics.all_topics(Settings())]
MESSAGE_ID = "m1.filter0001.16648.5515E0B88.0"
EVENTS = [
    {"email": "jo@customer.example", "sg_event_id": "e1", "sg_message_id": MESSAGE_ID, "event": "processed"},
    {"email": "jo@customer.example", "sg_event_id": "e2", "sg_message_id": MESSAGE_ID, "event": "deferred"},
]
DEADLINE_S = 60

# aiokafka's clients are annotated in part only
_Consumer: Any = AIOKafkaConsumer
_Producer: Any = AIOKafkaProducer
_Admin: Any = AIOKafkaAdminClient


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Give the broker with its users, their rights, and the topics, which the operator created."""
    made = Secured(tmp_path_factory.mktemp("secured"))
    try:
        made.start()
        created = made.run("operator", "topics", "create")
        assert created.returncode == 0, created.stdout + created.stderr
        assert created.stderr == f"{len(ALL)} topics, all fit\n"
        yield made
    finally:
        made.broker.stop()


# -- the rights are enough --------------------------------------------------------------------------------------------


async def test_with_these_rights_a_signed_webhook_becomes_a_status_a_page_and_an_alert(secured: Secured) -> None:
    ingress = world.Edge(secured.broker, secured.folder, secured.environment("ingress"))
    worker = WorkerProcess(secured.environment("worker"), secured.folder / "worker.log")
    page, admin = ports.find(2)
    history = WorkerProcess(
        secured.environment("history", MAILSTREAMS_HISTORY__PORT=str(page), MAILSTREAMS_HISTORY__ADMIN_PORT=str(admin)),
        secured.folder / "history.log",
        (sys.executable, "-m", "streams", "history"),
    )
    running: list[world.Edge | WorkerProcess] = [ingress, worker, history]
    try:
        await asyncio.to_thread(ingress.start)
        worker.start()
        history.start()
        await asyncio.to_thread(worker.wait_ready)
        await asyncio.to_thread(ingress.wait_ready)
        now = int(time.time()) - 7200
        body = json.dumps([{**event, "timestamp": now + number} for number, event in enumerate(EVENTS)]).encode()
        assert (await ingress.post(world.sendgrid(body)))[0] == 200
        assert (await ingress.post(world.sendgrid(b"no JSON")))[0] == 200
        told = {"provider": "postmark", "message_id": "p1", "recipient": "jo@customer.example", "reference": "INV-1"}
        async with (
            ClientSession() as client,
            client.post(
                f"{ingress.url}/sends", json=[told], headers={"Authorization": f"Bearer {world.API_KEY}"}
            ) as answer,
        ):
            assert answer.status == 202, await answer.text()

        seen = await _subscribed(secured, {"deferred", "sent", "raised"})
        assert set(seen) >= {"deferred", "sent", "raised"}
        async with asyncio.timeout(DEADLINE_S):
            while b"INV-1" not in await asyncio.to_thread(_get, f"http://127.0.0.1:{page}/"):
                await asyncio.sleep(0.2)
        people_use_the_commands(secured)
        for process in running:
            assert await asyncio.to_thread(process.stop) == 0, process.output
    finally:
        for process in running:
            if process.process is not None and process.process.poll() is None:
                process.kill()
    said = "".join(path.read_text(errors="replace") for path in secured.folder.glob("*.log"))
    assert "partitions ready" in said
    assert not [password for password in secured.passwords.values() if password in said]


def people_use_the_commands(secured: Secured) -> None:
    """Try what support and operators do at a terminal."""
    for command, expected in (("lookup INV-1", "INV-1"), ("deferrals --addresses", "jo@customer.example")):
        ran = secured.run("support", *command.split())
        assert (ran.returncode, expected in ran.stdout) == (0, True), ran.stdout + ran.stderr
    watching = subprocess.Popen(
        (sys.executable, "-m", "streams", "watch", "--from-beginning"),
        env={**os.environ, **secured.environment("support")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=20)
    assert watching.returncode in {0, 130}

    (secured.folder / "body.json").write_text("[]")
    for command in (
        "dead-letters list",
        "dead-letters replay --all",
        "feed sendgrid body.json",
        "resume",
        "topics check",
    ):
        ran = secured.run("operator", *command.split())
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
    ran = secured.run("operator", "resume", topics.raw_topic("sendgrid"), "0")
    assert "is not stopped" in ran.stderr, ran.stderr


async def _subscribed(secured: Secured, wanted: set[str]) -> list[str]:
    """Return the statuses and alerts that a subscriber of both topics is told, until all that is wanted came."""
    seen: list[str] = []
    async with (
        asyncio.timeout(DEADLINE_S),
        _Consumer(
            topics.STATUS_CHANGED,
            topics.DEFERRAL_ALERTS,
            **secured.options("subscriber"),
            group_id=f"{ROLES['subscriber'].user}-reminders",
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        ) as consumer,
    ):
        while not wanted <= set(seen):
            record = await consumer.getone()
            told = json.loads(record.value)
            seen.append(told["level"] if record.topic == topics.DEFERRAL_ALERTS else told["status"])
        await consumer.commit()
    return seen


def _get(url: str) -> bytes:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        content: bytes = answer.read()
        return content
    return b""


# -- and no more ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
async def test_a_user_reads_and_writes_the_topics_of_its_rows_and_no_others(secured: Secured, role: str) -> None:
    readable, writable = set(), set()
    admin = _Admin(**secured.options(role))
    await admin.start()
    try:
        for name in ALL:
            if await _may_read(admin, name):
                readable.add(name)
            if await _may_write(admin, name):
                writable.add(name)
    finally:
        await admin.close()

    assert readable == _named(role, "Read")
    assert writable == _named(role, "Write")


def test_the_rows_keep_apart_what_must_be_kept_apart() -> None:
    assert {role for role in ROLES if topics.STATUS_CHANGED in _named(role, "Write")} == {"worker"}
    assert _named("ingress", "Read") == set()
    assert _named("subscriber", "Write") == _named("history", "Write") == _named("support", "Write") == set()
    raw = {name for name in ALL if name.startswith(topics.RAW_PREFIX)}
    assert {role for role in ROLES if raw & _named(role, "Write")} == {"ingress", "operator"}


def _named(role: str, operation: str) -> set[str]:
    names = grants(role, "topic", operation)
    return {topic for topic in ALL if topic in names or (topics.RAW_PREFIX in names and topic.startswith("mail.raw."))}


async def _may_read(admin: Any, topic: str) -> bool:
    """Ask for records of a topic; the broker judges the user before it looks."""
    request = FetchRequest(0, 0, 1 << 20, 0, [(topic, [(0, 0, 1 << 20)])])
    answer = await admin._send_request(request)
    ((_, partitions),) = answer.topics
    return _allowed(partitions[0][1])


async def _may_write(admin: Any, topic: str) -> bool:
    """Write to a partition that is not there; the user is judged before that."""
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 4096)
    batch.append(0, 0, b"key", b"value", [])
    answer = await admin._send_request(ProduceRequest(None, -1, 5000, [(topic, [(999, bytes(batch.build()))])]))
    ((_, partitions),) = answer.topics
    return _allowed(partitions[0][1])


def _allowed(code: int) -> bool:
    return for_code(code) is not TopicAuthorizationFailedError


def test_nobody_else_can_read_the_private_keys_that_the_commands_make(secured: Secured) -> None:
    for name in ("ca-key.pem", "broker-key.pem", "broker-keystore.pem"):
        assert (secured.folder / name).stat().st_mode & 0o077 == 0, name


async def test_a_subscriber_that_writes_a_status_is_refused(secured: Secured) -> None:
    async with _Producer(**secured.options("subscriber")) as producer:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(topics.STATUS_CHANGED, b"{}", key=b"d")


async def test_an_ingress_that_reads_webhooks_is_refused(secured: Secured) -> None:
    consumer = _Consumer(**secured.options("ingress"), auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topics.raw_topic("sendgrid"), number) for number in range(3)])
    await consumer.start()
    try:
        with pytest.raises(TopicAuthorizationFailedError):
            async with asyncio.timeout(20):
                await consumer.getone()
    finally:
        await consumer.stop()


@pytest.mark.parametrize("role", ROLES)
async def test_nobody_can_delete_or_alter_a_topic(secured: Secured, role: str) -> None:
    admin = _Admin(**secured.options(role))
    await admin.start()
    try:
        deleted = await admin.delete_topics([topics.STATUS])
        with pytest.raises(TopicAuthorizationFailedError):
            await admin.create_partitions({topics.STATUS: NewPartitions(9)})
    finally:
        await admin.close()

    assert for_code(deleted.topic_error_codes[0][1]) is TopicAuthorizationFailedError


async def test_a_worker_can_create_no_topic(secured: Secured) -> None:
    admin = _Admin(**secured.options("worker"))
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic("mail.mine", 1, 1)])
    finally:
        await admin.close()

    assert for_code(answer.topic_errors[0][1]) is TopicAuthorizationFailedError


@pytest.mark.parametrize("role", [role for role in ROLES if role != "worker"])
async def test_nobody_else_joins_the_workers_or_takes_their_transactions(secured: Secured, role: str) -> None:
    admin = _Admin(**secured.options(role))
    await admin.start()
    try:
        request = JoinGroupRequest("mailstreams", 10_000, 10_000, "", "", "consumer", [("range", b"")])
        joined = await admin._send_request(request)
    finally:
        await admin.close()
    producer = _Producer(**secured.options(role), transactional_id="mailstreams-track-0")
    with pytest.raises(TransactionalIdAuthorizationFailed):
        async with asyncio.timeout(20):
            await producer.start()
    await producer.stop()

    assert for_code(joined.error_code) is GroupAuthorizationFailedError


# -- who is not let in is told why ------------------------------------------------------------------------------------

WRONG_PASSWORD = {"MAILSTREAMS_KAFKA__SASL_PASSWORD": "not-the-password"}
STARTS = [("worker", "worker"), ("ingress", "ingress"), ("history", "history")]


@pytest.mark.parametrize(("role", "command"), STARTS)
def test_a_wrong_password_ends_what_starts_with_2_and_a_line_that_says_what_to_do(
    secured: Secured, role: str, command: str
) -> None:
    ran = secured.run(role, command, **WRONG_PASSWORD, MAILSTREAMS_HISTORY__PORT=_port(), **_admin_port())

    assert ran.returncode == 2, ran.stderr
    said = f"it refuses the user 'mailstreams-{role}' or the password (SCRAM-SHA-512): set kafka.sasl_username and"
    assert len([line for line in ran.stderr.splitlines() if said in line]) == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "not-the-password" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(("role", "command"), STARTS)
def test_a_certificate_that_is_not_trusted_ends_what_starts_with_2_and_a_line_that_says_what_to_do(
    secured: Secured, role: str, command: str
) -> None:
    stranger = world.self_signed(secured.folder / "stranger.pem", "localhost")
    ran = secured.run(
        role,
        command,
        MAILSTREAMS_KAFKA__SSL_CAFILE=str(stranger),
        MAILSTREAMS_HISTORY__PORT=_port(),
        **_admin_port(),
    )

    assert ran.returncode == 2, ran.stderr
    assert "its certificate is not trusted (self-signed certificate in certificate chain): set kafka.ssl_cafile" in (
        ran.stderr
    )
    assert "Traceback" not in ran.stderr
    assert secured.passwords[role] not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("SASL_PASSWORD", "wrong", "it refuses the user 'mailstreams-support' or the password"),
        ("SASL_USERNAME", "nobody", "it refuses the user 'nobody' or the password"),
        ("SASL_MECHANISM", "PLAIN", "it does not offer PLAIN here: set kafka.sasl_mechanism"),
        ("SSL_CAFILE", "/etc/hostname", "kafka.ssl_cafile: "),
        ("BOOTSTRAP_SERVERS", "127.0.0.1:{port}", "its certificate is not for '127.0.0.1': name it in"),
    ],
)
def test_a_command_that_is_not_let_in_says_in_one_line_what_to_set(
    secured: Secured, setting: str, value: str, said: str
) -> None:
    value = value.format(port=secured.server.partition(":")[2])
    ran = secured.run("support", "lookup", "INV-1", **{f"MAILSTREAMS_KAFKA__{setting}": value})

    assert ran.returncode == (2 if "cafile" in said else 3)
    (line,) = ran.stderr.splitlines()
    assert said in line
    assert secured.passwords["support"] not in line


def test_a_command_without_the_right_says_which_command_prints_the_rights(secured: Secured) -> None:
    ran = secured.run("subscriber", "lookup", "INV-1")
    assert ran.returncode == 3
    assert "the user mailstreams-subscriber may not see it; allow it: mailstreams acls" in ran.stderr

    ran = secured.run("ingress", "topics", "create")
    assert ran.returncode == 1
    assert "cannot be created: Authorization failed; which rights it takes: mailstreams acls operator" in ran.stderr


def _port() -> str:
    (port,) = ports.find(1)
    return str(port)


def _admin_port() -> dict[str, str]:
    return {"MAILSTREAMS_HISTORY__ADMIN_PORT": _port()}
