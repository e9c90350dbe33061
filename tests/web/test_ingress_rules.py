"""Rules of the ingress that need a writer that fails, a clock, or another place in the network: no broker here."""

import asyncio
import contextlib
import dataclasses
import errno
import gzip
import json
import logging
import os
import re
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import ClientSession, TCPConnector, web
from prometheus_client import CollectorRegistry

from streams import ingress as process
from streams import topics
from streams.ingress import _endpoints as served
from streams.metrics import IngressMetrics
from streams.providers import PROVIDERS, Refusal
from streams.records import Headers
from streams.settings import Ingress as IngressSettings
from streams.settings import load
from streams.web import trial
from streams.web.certificates import KEEP_STALE_S, Certificates
from streams.web.ingress import Endpoint, Ingress, Limits, Reason
from streams.web.limits import Handler, ReadBody, TokenBucket
from streams.web.listener import Listener
from streams.web.outbound import FetchError, GuardedClient
from streams.web.public import PublicServer
from streams.web.replay import TokenMemory
from streams.web.writer import NotWrittenError, RecordWriter
from tests.providers import signing
from tests.web import edge as world


class Writer:
    """Keeps what it is given; fails or waits as it is told."""

    def __init__(self) -> None:
        self.written: list[tuple[str, bytes, dict[str, bytes]]] = []
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def write(self, topic: str, value: bytes, headers: Headers) -> None:
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        self.written.append((topic, value, dict(headers)))


class Client:
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None

    async def get(self, url: str) -> bytes:
        self.asked.append(url)
        if self.error is not None:
            raise self.error
        return world.live_certificate()


def endpoint(name: str = "sendgrid", **changes: Any) -> Endpoint:
    secrets = {
        "sendgrid": {"2026": signing.public_base64(signing.p256("first"))},
        "mailgun": {"2026": signing.MAILGUN_KEY},
        "amazon_ses": {"events": signing.TOPIC},
        "postmark": {"2026": "basic:postmark:corréct horse"},
        "azure_communication": {"2026": f"header:X-Mailstreams-Secret:{signing.AZURE_SECRET}"},
        "brevo": {"2026": f"header:X-Brevo-Secret:{signing.BREVO_SECRET}"},
        "mailjet": {"2026": f"basic:{signing.MAILJET_CREDENTIAL}"},
        "resend": {"2026": signing.RESEND_SECRET},
    }[name]
    options: dict[str, Any] = {
        "provider": PROVIDERS[name],
        "account": "acme",
        "topic": f"mail.raw.{name}",
        "secrets": secrets,
        "replay_window_s": PROVIDERS[name].replay_window_s,
        "insecure": False,
        "auto_confirm": False,
        "bucket": TokenBucket(1e6, 1_000_000),
        "tokens": TokenMemory.for_windows([3600]),
    }
    return Endpoint(**(options | changes))


LIMITS = Limits(max_body_bytes=1 << 20, read_timeout_s=5, max_requests=50, max_memory_bytes=64 << 20)


@dataclasses.dataclass
class World:
    writer: Writer
    client: Client
    ingress: Ingress
    server: PublicServer
    listener: Listener
    url: str
    metrics: IngressMetrics

    def rejected(self, reason: str, provider: str = "sendgrid") -> float:
        """Return how many requests were refused so, of all accounts, as the metric counts them."""
        (family,) = self.metrics.rejected.collect()
        refused = {"provider": provider, "reason": reason}.items()
        return sum(one.value for one in family.samples if one.name.endswith("_total") and refused <= one.labels.items())

    def counted(self, name: str, **labels: str) -> float | None:
        """Return the value of a metric of the provider SendGrid."""
        return self.metrics.registry.get_sample_value(f"mailstreams_webhook_{name}", {"provider": "sendgrid"} | labels)

    async def post(
        self,
        signed: signing.Signed,
        headers: dict[str, str] | None = None,
        method: str = "POST",
        account: str = "acme",
    ) -> tuple[int, dict[str, str]]:
        async with (
            ClientSession(connector=TCPConnector(force_close=True, ssl=False)) as client,
            client.request(
                method,
                f"{self.url}/webhooks/{signed.provider}/{account}",
                data=signed.request.body,
                headers={**signed.request.headers, **(headers or {})},
            ) as answer,
        ):
            return answer.status, dict(answer.headers)


Make = Callable[..., Awaitable[World]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    servers: list[tuple[asyncio.Task[None], PublicServer]] = []

    async def make_world(
        *endpoints: Endpoint,
        limits: Limits = LIMITS,
        max_connections: int = 100,
        keepalive_timeout_s: float = 5,
        head_timeout_s: float = 5,
        tls: ssl.SSLContext | None = None,
        handshake_timeout_s: float = 60,
        others: Mapping[tuple[str, str], Handler] | None = None,
        **options: Any,
    ) -> World:
        writer, client = Writer(), Client()
        metrics = IngressMetrics.create(CollectorRegistry(), version="1")
        ingress = Ingress(
            endpoints=endpoints or [endpoint()],
            others=others or {},
            limits=limits,
            writer=cast("RecordWriter", writer),
            certificates=Certificates(client.get),
            client=cast("GuardedClient", client),
            metrics=metrics,
            **options,
        )
        public = PublicServer(
            ingress,
            head_timeout_s=head_timeout_s,
            keepalive_timeout_s=keepalive_timeout_s,
            max_connections=max_connections,
        )
        listener = Listener(public, tls=tls, handshake_timeout_s=handshake_timeout_s)
        url = f"{'https' if tls else 'http'}://127.0.0.1:{await listener.listen('127.0.0.1', 0)}"
        # small, so that an answer that is not read is soon with us: accepted connections inherit it
        listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        servers.append((asyncio.create_task(listener.serve()), public))
        return World(writer, client, ingress, public, listener, url, metrics)

    yield make_world
    for serving, public in servers:
        serving.cancel()
        public.pre_shutdown()
        await public.shutdown(1)


@pytest.mark.parametrize(
    ("provider", "code", "kind"),
    [
        ("sendgrid", 403, "text/plain"),
        ("amazon_ses", 403, "multipart/form-data"),
        ("mailgun", 403, "text/plain"),
        ("postmark", 401, "text/plain"),  # 403 makes it give up the event
        ("azure_communication", 503, "text/plain"),  # 401 and 403 do
        ("brevo", 429, "text/plain"),  # everything else does
        ("mailjet", 403, "text/plain"),
        ("resend", 403, "text/plain"),
    ],
)
async def test_each_provider_is_refused_by_a_code_after_which_it_comes_again(
    make: Make, provider: str, code: int, kind: str
) -> None:
    here = await make(endpoint(provider, secrets={}))

    assert (await here.post(world.GENUINE[provider]()))[0] == code
    assert (await here.post(world.GENUINE[provider](), headers={"content-type": kind}))[0] == 415


@pytest.mark.parametrize(("provider", "code"), [("sendgrid", 408), ("amazon_ses", 503)])  # 408 makes SNS give it up
async def test_a_body_that_does_not_come_in_time_is_refused_by_a_code_after_which_its_provider_comes_again(
    make: Make, provider: str, code: int
) -> None:
    here = await make(endpoint(provider), limits=dataclasses.replace(LIMITS, read_timeout_s=0.1))
    reader, writer = await connect(here)
    writer.write(world.head(world.GENUINE[provider]()))

    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).lower()

    assert int(head.split()[1]) == code
    assert (b"retry-after: 10\r\n" in head) == (code == 503)
    assert b"connection: close\r\n" in head
    assert here.rejected("too_slow", provider) == 1
    writer.close()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_headers_of_a_provider_are_kept_and_none_that_carries_a_credential(provider: str) -> None:
    kept = endpoint(provider).kept_headers

    assert kept == {"content-encoding", "user-agent"} | PROVIDERS[provider].kept_headers
    assert not kept & {"authorization", "cookie", "proxy-authorization", "x-amz-firehose-access-key"}
    assert kept == {name.lower() for name in kept}


async def test_beyond_its_rate_an_account_gets_429_and_is_told_when_to_come_again(make: Make) -> None:
    here = await make(endpoint(bucket=TokenBucket(0.5, 2)))

    answers = [await here.post(world.sendgrid()) for _ in range(3)]

    assert [status for status, _ in answers] == [200, 200, 429]
    assert answers[2][1]["Retry-After"] == "2"
    assert here.rejected("rate") == 1
    assert len(here.writer.written) == 2


async def test_forged_requests_do_not_use_up_the_providers_rate(make: Make) -> None:
    here = await make(endpoint(bucket=TokenBucket(0.01, 1)))

    assert {(await here.post(world.sendgrid(key="a stranger's")))[0] for _ in range(5)} == {403}
    assert (await here.post(world.sendgrid()))[0] == 200
    assert (here.rejected("mismatch"), here.rejected("rate"), len(here.writer.written)) == (5, 0, 1)


async def test_beyond_so_many_requests_or_bytes_in_work_the_answer_is_503(make: Make) -> None:
    size = len(world.sendgrid().request.body)
    for limits in (
        dataclasses.replace(LIMITS, max_requests=1),
        dataclasses.replace(LIMITS, max_memory_bytes=size + size // 2),
    ):
        here = await make(limits=limits)
        here.writer.go_on.clear()
        first = asyncio.create_task(here.post(world.sendgrid()))
        while not here.ingress.room.bytes:
            await asyncio.sleep(0.01)
        status, headers = await here.post(world.sendgrid())
        assert (status, headers["Retry-After"]) == (503, "1")
        assert here.rejected("busy") == 1
        here.writer.go_on.set()
        assert (await first)[0] == 200
        assert len(here.writer.written) == 1
        assert (here.ingress.room.requests, here.ingress.room.bytes) == (0, 0)


async def test_what_is_not_acknowledged_is_answered_503_and_leaves_its_token_to_the_retry(make: Make) -> None:
    here = await make(endpoint("mailgun"))
    signed = world.mailgun()
    here.writer.error = NotWrittenError()

    status, headers = await here.post(signed)
    here.writer.error = None

    assert (status, headers["Retry-After"]) == (503, "10")
    assert here.rejected("broker", "mailgun") == 1
    assert (await here.post(signed))[0] == 200
    assert len(here.writer.written) == 1


async def test_a_request_that_one_account_took_is_refused_at_another_with_the_same_signing_key(make: Make) -> None:
    tokens = TokenMemory.for_windows([3600, 3600])
    here = await make(endpoint("mailgun", tokens=tokens), endpoint("mailgun", account="other", tokens=tokens))
    signed = world.mailgun()

    assert (await here.post(signed))[0] == 200
    assert (await here.post(signed, account="other"))[0] == 403
    assert (await here.post(signed))[0] == 200  # the provider's own repetition
    assert here.rejected("replayed", "mailgun") == 1
    assert len(here.writer.written) == 1


def test_a_provider_that_is_left_out_is_not_said_to_be_open_to_anybody(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Its webhooks are answered 404, whatever the account's settings say of them."""
    file = tmp_path / "settings.toml"
    file.write_text(
        """
        topics.providers = ["postmark"]
        accounts.shop.webhooks.brevo.insecure = true
        accounts.shop.webhooks.mailjet = {}
        accounts.shop.webhooks.postmark.insecure = true
        """
    )

    process._say_what_is_served(load(file, {}))

    assert [message.partition(":")[0] for message in caplog.messages] == [
        "/webhooks/brevo/shop is not served",
        "/webhooks/mailjet/shop is not served",
        "/webhooks/postmark/shop is INSECURE",
    ]


def test_all_accounts_at_a_provider_share_the_memory_of_its_tokens() -> None:
    account = "MAILSTREAMS_ACCOUNTS__{}__WEBHOOKS__MAILGUN__{}".format
    settings = load(
        environment={
            account("ACME", "SECRETS__2026"): signing.MAILGUN_KEY,
            account("OTHER", "SECRETS__2026"): signing.MAILGUN_KEY,
            account("OTHER", "REPLAY_WINDOW_S"): "86400",
        }
    )

    of_mailgun = [one for one in served(settings) if one.provider.name == "mailgun"]

    assert [one.account for one in of_mailgun] == ["acme", "other"]
    assert len({id(one.tokens) for one in of_mailgun}) == 1
    assert of_mailgun[0].tokens.keep_s > 86_400  # the longest window of them


async def test_a_partition_without_a_leader_does_not_hold_back_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(environment={})
    specs = [spec for spec in topics.all_topics(settings) if spec.name in process._written(settings)]

    class Admin:
        """Describes a cluster whose missing broker held the only copy of one partition of each topic."""

        async def describe_topics(self) -> list[dict[str, Any]]:
            return [
                {
                    "topic": spec.name,
                    "partitions": [{"leader": 0 if at else -1, "replicas": [0]} for at in range(spec.partitions)],
                }
                for spec in specs
            ]

        async def describe_configs(self, _: object) -> list[Any]:
            return [SimpleNamespace(resources=[(0, "", 2, spec.name, spec.config.items()) for spec in specs])]

    @contextlib.asynccontextmanager
    async def admin_client(_: object) -> AsyncIterator[Admin]:
        yield Admin()

    monkeypatch.setattr(topics, "admin_client", admin_client)
    writing = asyncio.Event()

    async def run() -> None:
        writing.set()

    async with asyncio.timeout(5):
        await process._write(cast("process.Built", SimpleNamespace(settings=settings, writer=SimpleNamespace(run=run))))
    assert writing.is_set()


async def test_a_mistake_of_ours_is_answered_500_without_a_word_of_it(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    here = await make()
    here.writer.error = RuntimeError("jo@customer.example and a-secret")

    assert (await here.post(world.sendgrid()))[0] == 500

    assert here.rejected("internal") == 1
    assert "RuntimeError at " in caplog.text
    assert "a-secret" not in caplog.text
    assert "@" not in caplog.text


async def test_the_same_mistake_of_ours_is_logged_once_in_a_while(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    here = await make()
    here.writer.error = RuntimeError()

    for _ in range(3):
        assert (await here.post(world.sendgrid()))[0] == 500

    assert here.rejected("internal") == 3
    assert caplog.text.count("a mistake of ours") == 1


async def test_a_tls_connection_that_is_broken_in_the_middle_of_a_body_is_no_mistake_of_ours(
    make: Make, tmp_path: Path
) -> None:
    pem = world.self_signed(tmp_path / "server.pem", "hooks.test")
    here = await make(tls=IngressSettings(tls_certfile=pem).tls_context())
    signed = world.sendgrid()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(here.url.rpartition(":")[2]))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl._create_unverified_context().wrap_bio(incoming, outgoing, server_hostname="h")
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(65_536))
    client.write(world.head(signed) + signed.request.body[:1])
    writer.write(outgoing.read())
    while not here.ingress.room.requests:
        await asyncio.sleep(0.01)

    writer.write(b"\x17\x03\x03\x00\x20" + b"z" * 32)  # a record that nobody encrypted

    assert await closed(here, 10)
    while here.ingress.room.requests:
        await asyncio.sleep(0.01)
    assert (here.rejected("broken"), here.rejected("internal")) == (1, 0)
    writer.close()


async def test_a_verify_that_breaks_lets_nothing_in(make: Make) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise ZeroDivisionError

    here = await make(endpoint(provider=dataclasses.replace(PROVIDERS["sendgrid"], verify=broken)))

    assert (await here.post(world.sendgrid()))[0] == 500
    assert here.writer.written == []


# --- what a stranger costs ---


def bomb(signed: signing.Signed, size: int) -> signing.Signed:
    """Return a request whose body is zeroes, compressed to a thousandth."""
    headers = {**signed.request.headers, "content-encoding": "gzip"}
    request = dataclasses.replace(signed.request, body=gzip.compress(b"0" * size), headers=headers)
    return dataclasses.replace(signed, request=request)


@pytest.mark.parametrize(
    ("provider", "signed", "headers", "refusal"),
    [
        ("sendgrid", world.sendgrid, {"X-Twilio-Email-Event-Webhook-Signature": ""}, (401, "missing")),
        ("sendgrid", world.sendgrid, {"X-Twilio-Email-Event-Webhook-Timestamp": "today"}, (401, "malformed")),
        ("postmark", world.postmark, {"Authorization": "Basic bm9ib2R5"}, (401, "mismatch")),
        ("azure_communication", world.azure_communication, {signing.AZURE_HEADER: "a guess"}, (503, "mismatch")),
        ("brevo", world.brevo, {signing.BREVO_HEADER: "a guess"}, (429, "mismatch")),
        ("mailjet", world.mailjet, {"Authorization": "Basic bm9ib2R5"}, (403, "mismatch")),
        ("resend", world.resend, {"svix-signature": ""}, (401, "missing")),
        ("resend", world.resend, {"svix-signature": "v1a,AAAA"}, (401, "malformed")),
    ],
)
async def test_a_stranger_who_is_known_by_the_headers_sends_a_body_in_vain(
    make: Make, provider: str, signed: Callable[[], signing.Signed], headers: dict[str, str], refusal: tuple[int, str]
) -> None:
    here = await make(endpoint(provider))
    sent = signed()
    host, port = here.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = {**sent.request.headers, **headers, "Host": "h", "Content-Length": "1000"}
    writer.write(
        f"POST /webhooks/{provider}/acme HTTP/1.1\r\n".encode()
        + b"".join(f"{name}: {text}\r\n".encode() for name, text in without_doubles(head).items())
        + b"\r\n"
    )

    answer = await reader.readuntil(b"\r\n")  # though no byte of the body has come

    code, reason = refusal
    assert int(answer.split()[1]) == code
    assert here.ingress.room.requests == 0
    assert (here.rejected(reason, provider), here.writer.written) == (1, [])
    writer.close()


def without_doubles(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with the last of those that differ only by case."""
    return {name.lower(): text for name, text in headers.items()}


@pytest.mark.parametrize(("provider", "signed"), [("sendgrid", world.sendgrid), ("mailgun", world.mailgun)])
async def test_who_has_proved_nothing_cannot_have_a_few_bytes_inflated_to_many(
    make: Make, provider: str, signed: Callable[[], signing.Signed]
) -> None:
    here = await make(endpoint(provider), limits=dataclasses.replace(LIMITS, max_body_bytes=8 << 20))

    assert (await here.post(bomb(signed(), (1 << 20) + 1)))[0] == 413
    assert here.rejected("too_large", provider) == 1
    assert (await here.post(bomb(signed(), 1 << 19)))[0] in {401, 403}  # inflated, and looked at
    assert here.writer.written == []


async def test_who_has_proved_who_he_is_may_send_what_compresses_well(make: Make) -> None:
    here = await make(endpoint("postmark"), limits=dataclasses.replace(LIMITS, max_body_bytes=8 << 20))

    assert (await here.post(bomb(world.postmark(), 7 << 20)))[0] == 200


async def test_what_compresses_as_events_do_may_be_large_before_its_proof(make: Make) -> None:
    here = await make(limits=dataclasses.replace(LIMITS, max_body_bytes=8 << 20))
    events = [
        {"sg_event_id": os.urandom(16).hex(), "event": "delivered", "email": "a@b.example"} for _ in range(40_000)
    ]
    body = json.dumps(events).encode()
    packed = gzip.compress(body)
    assert len(body) > 2 << 20
    sent = world.sendgrid(body)
    request = dataclasses.replace(
        sent.request, body=packed, headers={**sent.request.headers, "content-encoding": "gzip"}
    )

    assert (await here.post(dataclasses.replace(sent, request=request)))[0] == 200


async def test_codings_in_two_lines_are_several_too(make: Make) -> None:
    here = await make(endpoint("postmark"))
    sent = world.postmark()
    body = gzip.compress(gzip.compress(sent.request.body))
    reader, writer = await connect(here)
    writer.write(world.head(sent, length=len(body), more="content-encoding: gzip\r\n" * 2) + body)

    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 415 ")
    assert (here.rejected("content_encoding", "postmark"), here.writer.written) == (1, [])
    writer.close()


class Line:
    """A connection of its own, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0.02)  # so that it is read as a piece of its own

    async def status(self) -> int:
        return int((await self.reader.readuntil(b"\r\n")).split()[1])

    async def ended(self) -> bool:
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass
        return True


@pytest.fixture
async def dial() -> AsyncIterator[Callable[[World], Awaitable[Line]]]:
    lines: list[Line] = []

    async def open_line(here: World) -> Line:
        host, port = here.url.removeprefix("http://").split(":")
        lines.append(Line(*await asyncio.open_connection(host, int(port))))
        return lines[-1]

    yield open_line
    for line in lines:
        line.writer.close()


Dial = Callable[[World], Awaitable[Line]]
HEAD = b"HEAD /webhooks/sendgrid/acme HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    ("pieces", "ends"), [(1, True), (10, True), (10, False)], ids=["at once", "in pieces", "without an end"]
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
async def test_a_head_that_is_too_large_is_refused_whatever_its_lines(
    make: Make, dial: Dial, pieces: int, ends: bool, first: bool
) -> None:
    here = await make()
    line = await dial(here)
    if not first:
        await line.send(HEAD + b"\r\n")
        assert await line.status() == 200
        await line.reader.readuntil(b"\r\n\r\n")
    head = HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"y" * 1000) for number in range(20))
    head += b"\r\n" if ends else b""
    step = -(-len(head) // pieces)
    with contextlib.suppress(ConnectionError):
        for at in range(0, len(head), step):
            await line.send(head[at : at + step])

    assert await line.status() == 431
    assert await line.ended()
    assert here.rejected("head_too_large", "unknown") == 1


async def test_a_large_body_in_many_pieces_is_no_head(make: Make, dial: Dial) -> None:
    here = await make()
    sent = world.sendgrid(json.dumps([{"event": "delivered", "filler": "x" * 200_000}]).encode())
    line = await dial(here)
    body = sent.request.body
    for _ in range(2):
        data = world.head(sent) + body
        for at in range(0, len(data), 20_000):
            await line.send(data[at : at + 20_000])
        assert await line.status() == 200
        await line.reader.readuntil(b"\r\n\r\n")
    assert len(here.writer.written) == 2


async def test_a_request_whose_head_comes_with_the_end_of_a_refused_body_is_answered(make: Make, dial: Dial) -> None:
    here = await make()
    refused = world.sendgrid(b"x" * 60_000).with_headers(x_twilio_email_event_webhook_signature=None)
    honest = world.sendgrid(json.dumps([{"event": "delivered", "filler": "x" * 100_000}]).encode())
    line = await dial(here)
    await line.send(world.head(refused) + refused.request.body[:5000])
    assert await line.status() == 401
    await line.reader.readuntil(b"missing\n")

    await line.send(refused.request.body[5000:] + world.head(honest) + honest.request.body[:5000])
    for at in range(5000, len(honest.request.body), 20_000):
        await line.send(honest.request.body[at : at + 20_000])

    assert await line.status() == 200
    assert [value for _, value, _ in here.writer.written] == [honest.request.body]


async def test_a_head_that_is_too_large_is_refused_behind_a_body_too(make: Make, dial: Dial) -> None:
    here = await make()
    refused = world.sendgrid(b"x" * 60_000).with_headers(x_twilio_email_event_webhook_signature=None)
    line = await dial(here)
    await line.send(world.head(refused) + refused.request.body[:5000])
    assert await line.status() == 401
    await line.reader.readuntil(b"missing\n")

    await line.send(
        refused.request.body[5000:] + HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(20))
    )
    await line.send(b"\r\n")

    assert await line.status() == 431
    assert await line.ended()


async def test_a_head_that_is_too_large_is_refused_before_another_in_the_same_read_too(make: Make, dial: Dial) -> None:
    here = await make()
    line = await dial(here)
    large = HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(20)) + b"\r\n"

    await line.send(large + HEAD + b"\r\n")

    assert await line.status() == 431


async def test_requests_before_it_on_the_connection_leave_nothing_to_a_head(make: Make, dial: Dial) -> None:
    here = await make()
    line = await dial(here)
    for _ in range(950):  # each once left 18 bytes
        line.writer.write(b"POST /n HTTP/1.1\r\nHost: h\r\nContent-Length: 17000\r\n\r\n" + b"x" * 17_000)
        await line.reader.readuntil(b"not_found\n")

    await line.send(HEAD)
    await line.send(b"\r\n")

    assert await line.status() == 200


async def test_a_malformed_chunk_is_answered_400_as_soon_as_it_comes(make: Make, dial: Dial) -> None:
    here = await make(endpoint("mailgun"), limits=dataclasses.replace(LIMITS, read_timeout_s=60))
    line = await dial(here)
    await line.send(world.head(world.mailgun(), length=-1, more="transfer-encoding: chunked\r\n") + b"5\r\nhello\r\n")
    await line.send(b"zz\r\n")

    async with asyncio.timeout(10):
        assert await line.status() == 400
        assert await line.ended()
    assert here.rejected("broken", "mailgun") == 1


async def test_the_next_head_has_as_little_time_as_the_first(make: Make, dial: Dial) -> None:
    here = await make(keepalive_timeout_s=60, head_timeout_s=0.3)
    idle, silent, slow = [await dial(here) for _ in range(3)]
    for line in (idle, slow):
        await line.send(HEAD + b"\r\n")
        assert await line.status() == 200
        await line.reader.readuntil(b"\r\n\r\n")
    await slow.send(b"POST /webh")

    async with asyncio.timeout(5):
        assert await slow.ended()
        assert await silent.ended()

    await idle.send(HEAD + b"\r\n")  # it asked for nothing, so it may stay
    assert await idle.status() == 200


async def test_a_head_that_was_begun_too_early_does_not_cost_the_answer_before_it(make: Make, dial: Dial) -> None:
    here = await make(head_timeout_s=0.1)
    here.writer.go_on.clear()
    line = await dial(here)
    sent = world.sendgrid()
    await line.send(world.head(sent) + sent.request.body)
    await line.send(b"POST /webh")
    await asyncio.sleep(0.3)
    here.writer.go_on.set()

    assert await line.status() == 200
    async with asyncio.timeout(5):
        assert await line.ended()


def test_connections_are_no_more_than_the_open_files_allow() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = (
        "import resource, logging; logging.basicConfig();"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}));"
        "from streams.ingress import _connections_that_fit as fit;"
        "print(fit(500), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    enough = subprocess.run(
        [sys.executable, "-c", script.format(hard=before[1])], capture_output=True, text=True, check=True
    )
    scarce = subprocess.run([sys.executable, "-c", script.format(hard=300)], capture_output=True, text=True, check=True)

    assert enough.stdout.split() == ["500", str(before[1])]
    assert scarce.stdout.split() == ["172", "300"]
    assert "172 connections are let in" in scarce.stderr


# --- where it was called ---


@pytest.mark.parametrize(
    ("options", "headers", "url"),
    [
        ({}, {}, "http://hooks.test"),
        ({}, {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.test"}, "http://hooks.test"),
        ({"trusted_proxies": ["10.0.0.0/8"]}, {"X-Forwarded-Proto": "https"}, "http://hooks.test"),
        ({"trusted_proxies": ["127.0.0.1"]}, {"X-Forwarded-Proto": "https"}, "https://hooks.test"),
        (
            {"trusted_proxies": ["127.0.0.0/8"]},
            {"X-Forwarded-Proto": "http, https", "X-Forwarded-Host": "evil.test, out.test:8443"},
            "https://out.test:8443",
        ),
        ({"trusted_proxies": ["127.0.0.1"]}, {"X-Forwarded-Host": "a b<script>"}, "http://"),
        ({"public_url": "https://hooks.example.net"}, {"X-Forwarded-Host": "evil.test"}, "https://hooks.example.net"),
    ],
)
async def test_forwarded_headers_are_believed_from_trusted_proxies_only(
    make: Make, options: dict[str, Any], headers: dict[str, str], url: str
) -> None:
    here = await make(**options)

    assert (await here.post(world.sendgrid(), {"Host": "hooks.test", **headers}))[0] == 200

    assert here.writer.written[0][2]["url"] == f"{url}/webhooks/sendgrid/acme".encode()


async def test_of_several_lines_of_a_forwarded_header_the_last_counts(make: Make, dial: Dial) -> None:
    here = await make(trusted_proxies=["127.0.0.1"])
    sent = world.sendgrid()
    line = await dial(here)
    forged = "x-forwarded-proto: http\r\nx-forwarded-host: evil.test\r\n"
    own = "x-forwarded-proto: https\r\nx-forwarded-host: out.test\r\n"
    await line.send(world.head(sent, more=forged + own) + sent.request.body)

    assert await line.status() == 200
    ((_, _, kept),) = here.writer.written
    assert kept["url"] == b"https://out.test/webhooks/sendgrid/acme"


# --- subscriptions ---


async def test_an_allowed_topic_is_confirmed_by_the_address_built_from_arn_and_token(make: Make) -> None:
    here = await make(endpoint("amazon_ses", auto_confirm=True))

    assert (await here.post(world.confirmation(SubscribeURL="https://evil.test/")))[0] == 200

    certificate, confirmed = here.client.asked
    assert certificate == signing.CERTIFICATE_URL
    assert confirmed.startswith("https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn")


async def test_a_confirmation_that_fails_is_answered_503_so_that_sns_asks_again(make: Make) -> None:
    here = await make(endpoint("amazon_ses", auto_confirm=True))
    await here.post(world.sns())  # the certificate is kept from now on
    here.client.error = FetchError("away")

    assert (await here.post(world.confirmation()))[0] == 503


async def test_without_its_certificate_a_message_of_our_topic_is_answered_503_not_403(make: Make) -> None:
    here = await make(endpoint("amazon_ses"))
    here.client.error = FetchError("away")

    assert (await here.post(world.sns()))[0] == 503
    assert here.writer.written == []


async def test_who_knows_the_topic_cannot_keep_its_messages_out_by_asking_for_other_certificates(make: Make) -> None:
    here = await make(endpoint("amazon_ses"))
    now = 1000.0
    here.ingress._certificates._clock = lambda: now
    assert (await here.post(world.sns()))[0] == 200
    here.client.error = FetchError("away")
    now += KEEP_STALE_S / 2  # the certificate is old by now, and the attacker uses up all downloads
    for number in range(40):
        await here.post(world.sns(SigningCertURL=f"{signing.CERTIFICATE_URL[:-4]}{number}.pem"))
    assert len(here.client.asked) <= 32

    assert (await here.post(world.sns()))[0] == 200

    assert here.client.asked[-1] == signing.CERTIFICATE_URL  # and its own downloads are left to it


async def test_without_auto_confirm_nothing_is_confirmed(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    here = await make(endpoint("amazon_ses"))

    with caplog.at_level(logging.WARNING):
        assert (await here.post(world.confirmation(Token="the-token")))[0] == 200

    assert here.client.asked == [signing.CERTIFICATE_URL]
    assert f"mailstreams webhook confirm {signing.TOPIC} --account acme" in caplog.text
    assert "the-token" not in caplog.text


@pytest.mark.parametrize("provider", ["amazon_ses", "mailgun", "sendgrid", "resend"])
async def test_a_clock_that_is_an_hour_slow_loses_no_webhook_and_is_logged(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    class Slow:
        by = timedelta(seconds=200)

        @classmethod
        def now(cls, zone: tzinfo) -> datetime:
            return datetime.now(zone) - cls.by

    monkeypatch.setattr("streams.web.ingress.datetime", Slow)
    here = await make(endpoint(provider))
    with caplog.at_level(logging.WARNING):
        assert (await here.post(world.GENUINE[provider]()))[0] == 200
    assert caplog.messages == []

    Slow.by = timedelta(hours=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (await here.post(world.GENUINE[provider]()))[0] == 200
    (said,) = caplog.messages
    ahead = r"a genuine stamp is 3[56]\d\d s ahead of this machine's clock: is the clock slow\?"
    assert re.fullmatch(f"/webhooks/{provider}/acme: {ahead}", said)
    assert len(here.writer.written) == 3

    if provider != "sendgrid":  # its stamps may have any age
        Slow.by = timedelta(days=2)
        status, headers = await here.post(world.GENUINE[provider]())
        assert (status, headers["Retry-After"]) == (503, "10")
        assert here.rejected("stale", provider) == 1


@pytest.mark.parametrize("auto_confirm", [False, True])
async def test_a_subscription_that_was_ended_is_logged_with_the_command_and_never_restored_unasked(
    make: Make, caplog: pytest.LogCaptureFixture, auto_confirm: bool
) -> None:
    here = await make(endpoint("amazon_ses", auto_confirm=auto_confirm))

    with caplog.at_level(logging.WARNING):
        assert (await here.post(world.confirmation(Type="UnsubscribeConfirmation", Token="the-token")))[0] == 200

    assert here.client.asked == [signing.CERTIFICATE_URL]
    assert "has ended the subscription" in caplog.text
    assert f"mailstreams webhook confirm {signing.TOPIC} --account acme --restore" in caplog.text
    assert "the-token" not in caplog.text


async def test_a_handshake_of_event_grid_that_is_not_acknowledged_gets_no_consent(make: Make) -> None:
    here = await make(endpoint("azure_communication"))
    here.writer.error = NotWrittenError()

    assert (await here.post(world.azure_handshake()))[0] == 503

    here.writer.error = None
    assert (await here.post(world.azure_handshake()))[0] == 200
    assert len(here.writer.written) == 1


async def test_a_handshake_of_event_grid_makes_no_request_and_logs_neither_code_nor_address(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    here = await make(endpoint("azure_communication", auto_confirm=True))

    with caplog.at_level(logging.INFO):
        assert (await here.post(world.azure_handshake(code="the-code")))[0] == 200

    assert here.client.asked == []
    assert "agreed to get webhooks of azure_communication for account acme" in caplog.text
    assert "the-code" not in caplog.text
    assert "eventgrid.azure.net" not in caplog.text


# --- connections ---


async def test_a_connection_too_many_is_closed_and_the_others_are_served(make: Make) -> None:
    here = await make(max_connections=2)
    host, port = "127.0.0.1", int(here.url.rpartition(":")[2])
    idle = [await asyncio.open_connection(host, port) for _ in range(2)]
    reader, writer = await asyncio.open_connection(host, port)

    assert await asyncio.wait_for(reader.read(), 5) == b""
    signed = world.sendgrid()
    idle[0][1].write(world.head(signed) + signed.request.body)
    assert (await idle[0][0].readline()).startswith(b"HTTP/1.1 200")
    for _, one in (*idle, (reader, writer)):
        one.close()
    await asyncio.sleep(0.1)
    assert here.server.open_connections == 0
    assert (await here.post(world.sendgrid()))[0] == 200


async def test_a_connection_counts_before_its_tls_handshake_and_gives_its_place_back_when_that_fails(
    make: Make, tmp_path: Path
) -> None:
    pem = world.self_signed(tmp_path / "server.pem", "hooks.test")
    here = await make(tls=IngressSettings(tls_certfile=pem).tls_context(), max_connections=3)
    port = int(here.url.rpartition(":")[2])
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]

    closed_at_once = [asyncio.create_task(reader.read()) for reader, _ in silent[3:]]
    async with asyncio.timeout(10):
        await asyncio.wait(closed_at_once)
    assert here.server.open_connections == 3
    assert not any(reader.at_eof() for reader, _ in silent[:3])

    silent[0][1].write(b"no handshake at all\r\n")  # which fails
    silent[1][1].close()
    async with asyncio.timeout(10):
        while here.server.open_connections > 1:
            await asyncio.sleep(0.01)
    assert (await here.post(world.sendgrid(), {"Host": "hooks.test"}))[0] == 200
    for _, writer in silent:
        writer.close()
    assert await closed(here, 10)


async def test_a_tls_handshake_that_takes_too_long_gives_its_place_back(make: Make, tmp_path: Path) -> None:
    pem = world.self_signed(tmp_path / "server.pem", "hooks.test")
    here = await make(tls=IngressSettings(tls_certfile=pem).tls_context(), handshake_timeout_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(here.url.rpartition(":")[2]))

    async with asyncio.timeout(10):
        assert await reader.read() == b""
    assert await closed(here, 10)
    writer.close()


async def test_while_no_file_is_left_for_a_connection_it_waits_and_then_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    accept, errors = loop.sock_accept, [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError()]

    async def scarce(listening: socket.socket) -> Any:
        if errors:
            raise errors.pop(0)
        return await accept(listening)

    monkeypatch.setattr(loop, "sock_accept", scarce)
    monkeypatch.setattr("streams.web.listener._AGAIN_S", 0.01)
    here = await make()

    assert (await here.post(world.sendgrid()))[0] == 200
    assert caplog.text.count("no connection can be let in: Too many open files") == 1


async def test_a_name_with_an_ipv6_address_is_listened_at_without_ipv6(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = socket.create_server

    def without_ipv6(address: Any, *, family: int, **more: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(address, family=family, **more)

    async def both(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    listener = Listener((await make()).server)

    assert await listener.listen("localhost", 0)
    assert [each.family for each in listener.sockets] == [socket.AF_INET]
    listener.sockets[0].close()


async def test_several_processes_can_share_a_port(make: Make) -> None:
    here = await make()
    one, other = Listener(here.server), Listener(here.server)

    port = await one.listen("127.0.0.1", 0, reuse_port=True)

    assert await other.listen("127.0.0.1", port, reuse_port=True) == port
    with pytest.raises(OSError, match="Address already in use"):
        await Listener(here.server).listen("127.0.0.1", port)
    for listener in (one, other):
        listener.sockets[0].close()


async def test_requests_one_after_the_other_on_one_connection_are_each_answered(make: Make) -> None:
    here = await make()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(here.url.rpartition(":")[2]))
    many = [world.sendgrid() for _ in range(40)]
    writer.write(b"".join(world.head(one) + one.request.body for one in many))

    for _ in many:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")

    writer.close()
    assert [value for _, value, _ in here.writer.written] == [one.request.body for one in many]


UNREAD = b"GET /n HTTP/1.1\r\nhost: h\r\n\r\n" * 100
"""Their answers fill the socket's buffer in a few rounds, and ours not at once."""


async def connect(here: World, *, tls: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", int(here.url.rpartition(":")[2])))
    context = ssl._create_unverified_context() if tls else None
    return await asyncio.open_connection(sock=sock, ssl=context, server_hostname="h" if tls else None, limit=1024)


async def closed(here: World, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while here.server.open_connections:
                await asyncio.sleep(0.02)
    return not here.server.open_connections


@pytest.mark.parametrize("tls", [False, True])
async def test_connections_whose_answers_are_not_read_are_closed_in_time_and_others_are_served(
    make: Make, tmp_path: Path, *, tls: bool
) -> None:
    pem = world.self_signed(tmp_path / "server.pem", "hooks.test")
    context = IngressSettings(tls_certfile=pem).tls_context() if tls else None
    here = await make(limits=dataclasses.replace(LIMITS, read_timeout_s=0.5), max_connections=3, tls=context)
    greedy = [await connect(here, tls=tls) for _ in range(3)]

    async def ask(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(UNREAD)
                await writer.drain()

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(ask(writer)) for _, writer in greedy]
        assert await closed(here, 30)
        assert (await here.post(world.sendgrid(), {"Host": "hooks.test"}))[0] == 200
        for one in asking:
            one.cancel()
    for _, writer in greedy:
        writer.transport.abort()


async def test_an_idle_connection_is_closed_even_if_its_last_answers_are_never_read(make: Make) -> None:
    here = await make(limits=dataclasses.replace(LIMITS, read_timeout_s=0.5), keepalive_timeout_s=0.5)
    _, writer = await connect(here)
    while len(here.server.connections) < 1:
        await asyncio.sleep(0.01)
    transport = here.server.connections[0].transport
    assert transport is not None
    while not transport.get_write_buffer_size():  # a little is left with us, not so much that we stop to write
        writer.write(UNREAD)
        await asyncio.sleep(0.05)

    assert await closed(here, 30)
    writer.transport.abort()


async def test_a_slow_reader_that_does_read_gets_all_its_answers(make: Make) -> None:
    here = await make(limits=dataclasses.replace(LIMITS, read_timeout_s=0.5))
    reader, writer = await connect(here)
    writer.write(UNREAD * 20)
    await asyncio.sleep(0.3)  # what came is more than fits anywhere, but it is read in time

    for _ in range(2000):
        assert (await reader.readuntil(b"not_found\n")).startswith(b"HTTP/1.1 404")

    writer.close()


async def test_bodies_that_do_not_come_take_no_place_from_those_that_do(make: Make) -> None:
    here = await make(limits=dataclasses.replace(LIMITS, max_requests=2))
    signed = world.sendgrid()
    heads = [await connect(here) for _ in range(6)]
    for _, writer in heads:
        writer.write(world.head(signed))
    await asyncio.sleep(0.3)

    assert (await here.post(world.sendgrid()))[0] == 200

    for reader, writer in heads:  # and each of them is taken as soon as its body does come
        writer.write(signed.request.body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert (here.ingress.room.requests, here.ingress.room.working, here.ingress.room.bytes) == (0, 0, 0)


SLOW = dataclasses.replace(LIMITS, read_timeout_s=60)


async def test_large_bodies_that_stall_keep_nobody_out(make: Make) -> None:
    here = await make(limits=dataclasses.replace(SLOW, max_memory_bytes=2 << 20))
    signed = world.sendgrid()
    stalled = []
    for _ in range(4):  # twice as much as there is room for
        reader, writer = await connect(here)
        writer.write(world.head(signed, length=LIMITS.max_body_bytes) + b"x" * (LIMITS.max_body_bytes - 1))
        await writer.drain()
        stalled.append((reader, writer))
    while here.ingress.room.bytes < 2 * (LIMITS.max_body_bytes - 1):
        await asyncio.sleep(0.01)

    large = world.sendgrid(b'[{"email":"jo@customer.example","sg_event_id":"%s"}]' % (b"x" * 500_000))
    assert [(await here.post(one))[0] for one in (signed, large)] == [200, 200]

    assert (await asyncio.wait_for(stalled[0][0].readline(), 5)).startswith(b"HTTP/1.1 503")
    for _, writer in stalled:
        writer.transport.abort()


async def test_a_few_compressed_bytes_that_stall_hold_no_memory(make: Make) -> None:
    here = await make(limits=dataclasses.replace(SLOW, max_memory_bytes=2 << 20))
    signed = world.sendgrid(b"\0" * (LIMITS.max_body_bytes - 1)).with_headers(content_encoding="gzip")
    bomb = gzip.compress(signed.request.body)
    stalled = [await connect(here) for _ in range(10)]
    for _, writer in stalled:
        writer.write(world.head(signed, length=len(bomb)) + bomb[:-1])
    while here.ingress.room.bytes < 10 * (len(bomb) - 1):
        await asyncio.sleep(0.01)

    assert here.ingress.room.bytes == 10 * (len(bomb) - 1)
    for _, writer in stalled:
        writer.transport.abort()


async def test_sends_whose_bodies_do_not_come_take_no_place_from_webhooks(make: Make) -> None:
    taken: list[bytes] = []

    async def take(_request: web.BaseRequest, read_body: ReadBody) -> web.StreamResponse:
        taken.append(await read_body(100))
        await here.writer.go_on.wait()
        return web.Response(status=202)

    here = await make(limits=dataclasses.replace(SLOW, max_requests=2), others={("POST", "/sends"): take})
    waiting = [await connect(here) for _ in range(3)]
    for _, writer in waiting:
        writer.write(b"POST /sends HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{")
    while here.ingress.room.bytes < 3:
        await asyncio.sleep(0.01)

    assert (await here.post(world.sendgrid()))[0] == 200

    here.writer.go_on.clear()  # those whose bodies are there do take a place each
    for _, writer in waiting[:2]:
        writer.write(b"}")
    while here.ingress.room.working < 2:
        await asyncio.sleep(0.01)
    assert (await here.post(world.sendgrid()))[0] == 503
    here.writer.go_on.set()
    for reader, writer in waiting[:2]:
        assert (await reader.readline()).startswith(b"HTTP/1.1 202")
        writer.close()
    assert taken == [b"{}"] * 2
    waiting[2][1].close()


async def test_complaints_about_one_endpoint_are_logged_once_in_a_while(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    here = await make()

    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            await here.post(world.sendgrid(key="a stranger's"))

    assert caplog.text.count("refused: mismatch") == 1


async def test_it_speaks_tls_itself_with_a_certificate(make: Make, tmp_path: Path) -> None:
    pem = world.self_signed(tmp_path / "server.pem", "hooks.test")
    here = await make(tls=IngressSettings(tls_certfile=pem).tls_context())

    assert (await here.post(world.sendgrid(), {"Host": "hooks.test"}))[0] == 200

    assert here.writer.written[0][2]["url"] == b"https://hooks.test/webhooks/sendgrid/acme"


MARKED = {trial.HEADER: "webhook test"}


async def test_a_marked_test_is_written_as_a_webhook_is_and_counts_as_no_sign_of_the_provider(make: Make) -> None:
    here = await make()
    assert here.counted("accepted_total", account="acme") == 0
    assert here.counted("tests_total", account="acme") == 0

    assert (await here.post(world.sendgrid(), MARKED))[0] == 200
    assert len(here.writer.written) == 1
    assert here.counted("tests_total", account="acme") == 1
    assert here.counted("accepted_total", account="acme") == 0
    assert here.counted("last_accepted_timestamp_seconds") == 0

    assert (await here.post(world.sendgrid()))[0] == 200
    assert here.counted("tests_total", account="acme") == 1
    assert here.counted("accepted_total", account="acme") == 1
    assert here.counted("last_accepted_timestamp_seconds") != 0


async def test_the_mark_of_a_test_proves_nothing_and_hides_no_refusal(make: Make) -> None:
    here = await make()

    assert (await here.post(world.sendgrid(key="a stranger's"), MARKED))[0] == 403

    assert here.writer.written == []
    assert here.rejected("mismatch") == 1
    assert here.counted("tests_total", account="acme") == 0


async def test_what_the_broker_does_not_acknowledge_counts_as_refused_and_not_as_accepted(make: Make) -> None:
    here = await make()
    here.writer.error = NotWrittenError()

    assert (await here.post(world.sendgrid()))[0] == 503

    assert here.rejected("broker") == 1
    assert here.counted("accepted_total", account="acme") == 0


async def test_what_an_account_gets_is_counted_apart_from_what_another_one_at_the_provider_gets(make: Make) -> None:
    other = {"2026": signing.public_base64(signing.p256("others"))}
    here = await make(endpoint(), endpoint(account="other", secrets=other))

    assert (await here.post(world.sendgrid()))[0] == 200
    assert (await here.post(world.sendgrid(), account="other"))[0] == 403

    accepted = {account: here.counted("accepted_total", account=account) for account in ("acme", "other")}
    refused = {
        account: here.counted("rejected_total", account=account, reason="mismatch") for account in ("acme", "other")
    }
    assert accepted == {"acme": 1, "other": 0}
    assert refused == {"acme": 0, "other": 1}


async def test_what_is_written_and_what_is_refused_for_whatever_reason_are_counted_from_0(make: Make) -> None:
    """A series that is born at 3 shows no increase, and a small installation has no more than that."""
    world = await make(endpoint("mailgun"))
    value = world.metrics.registry.get_sample_value
    assert value("mailstreams_ingress_records_total", {"topic": "mail.raw.mailgun"}) == 0
    assert value("mailstreams_ingress_produce_failures_total", {"topic": "mail.raw.mailgun"}) == 0
    known = {*Refusal, *Reason}
    for provider, account, reasons in (
        ("mailgun", "acme", known - {Reason.NOT_FOUND, Reason.HEAD_TOO_LARGE}),
        ("unknown", "", {Reason.NOT_FOUND, Reason.HEAD_TOO_LARGE, Reason.BROKEN}),
    ):
        whose = {"provider": provider, "account": account}
        born = {
            reason
            for reason in known
            if value("mailstreams_webhook_rejected_total", whose | {"reason": reason.value}) == 0
        }
        assert born == reasons
