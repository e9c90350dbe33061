"""The ingress as a stranger and as a provider meet it: a real process, real requests, a real broker."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from secrets import token_hex
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from click.testing import CliRunner

from streams import records, topics
from streams.cli import cli
from streams.settings import Ingress
from streams.web.outbound import GuardedClient
from tests.broker.harness import read_all
from tests.providers import signing
from tests.providers.signing import Signed
from tests.web import edge as world
from tests.web.edge import GENUINE, Edge, Listener

pytestmark = pytest.mark.broker

MOST = Ingress().max_body_bytes


@contextlib.asynccontextmanager
async def refusing(edge: Edge, provider: str, code: int, reason: str, *, times: int = 1) -> AsyncIterator[None]:
    """Judge what is sent meanwhile: it must be answered so, be counted so, and leave nothing on any raw topic."""
    before, rejected, answered = await edge.count(), edge.rejected(provider, reason), edge.answered(provider, code)
    yield
    assert edge.rejected(provider, reason) == rejected + times
    assert edge.answered(provider, code) == answered + times
    assert await edge.count() == before


async def refused(edge: Edge, sent: Signed, code: int, reason: str, **options: object) -> None:
    """Send it; it must be refused so."""
    async with refusing(edge, str(options.get("provider") or sent.provider), code, reason):
        status, body, headers = await edge.post(sent, **options)  # type: ignore[arg-type] # passed through
    assert (status, body) == (code, f"{reason}\n".encode())
    assert headers["Server"] == "mailstreams"


# --- what is let in ---


@pytest.mark.parametrize("provider", GENUINE)
async def test_a_genuine_request_is_on_its_topic_byte_for_byte_when_it_is_answered_200(
    edge: Edge, provider: str
) -> None:
    signed = GENUINE[provider]()
    body = signed.request.body

    status, _, _ = await edge.post(signed, headers={"Cookie": "session=1", "User-Agent": "Provider/1.0", "X-Else": "y"})

    assert status == 200
    (record,) = [one for one in await edge.records(provider, "acme") if one.value == body]
    headers = dict(record.headers)
    assert headers["provider"] == provider.encode()
    assert headers["verified"] == b"true"
    assert headers["key-id"] in {b"2026", b"events"}
    assert headers["url"] == f"{edge.url}/webhooks/{provider}/acme".encode()
    assert headers["content-type"] == signed.request.headers["content-type"].encode()
    assert headers["http-user-agent"] == b"Provider/1.0"
    assert not [name for name in headers if "cookie" in name or "authorization" in name or "x-else" in name]
    assert records.decode_raw(record.value, record.headers, reference_keys=()).account == "acme"


async def test_what_sendgrid_signed_can_be_verified_again_from_the_record(edge: Edge) -> None:
    signed = world.sendgrid()
    await edge.post(signed)

    (record,) = [one for one in await edge.records("sendgrid", "acme") if one.value == signed.request.body]
    kept = records.decode_raw(record.value, record.headers, reference_keys=())

    assert Signed(provider="sendgrid", request=kept, secrets=signed.secrets, window_s=None).refusal() is None


async def test_while_secrets_are_rotated_both_are_accepted_and_the_record_says_which(edge: Edge) -> None:
    for key, name in (("first", b"2026"), ("next", b"2027")):
        signed = world.sendgrid(key=key)
        assert (await edge.post(signed))[0] == 200
        (record,) = [one for one in await edge.records("sendgrid") if one.value == signed.request.body]
        assert dict(record.headers)["key-id"] == name


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
    ],
)
async def test_a_compressed_body_is_verified_and_kept_as_the_provider_made_it(
    edge: Edge, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    signed = world.sendgrid()

    status, _, _ = await edge.post(signed, data=compress(signed.request.body), headers={"Content-Encoding": encoding})

    assert status == 200
    (record,) = [one for one in await edge.records("sendgrid") if one.value == signed.request.body]
    assert dict(record.headers)["http-content-encoding"] == encoding.encode()


async def test_the_largest_body_is_taken_even_if_it_cannot_be_compressed(edge: Edge) -> None:
    body = os.urandom(MOST)

    status, _, _ = await edge.post(world.sendgrid(b""), data=body, account="open", headers={"X": "y" * 4000})

    assert status == 200
    assert body in [one.value for one in await edge.records("sendgrid", "open")]


async def test_a_body_in_chunks_is_taken(edge: Edge) -> None:
    signed = world.sendgrid()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(signed.request.body), 7):
            yield signed.request.body[start : start + 7]

    assert (await edge.post(signed, data=chunks()))[0] == 200
    assert signed.request.body in [one.value for one in await edge.records("sendgrid")]


async def test_a_client_that_asks_before_it_sends_its_body_is_told_to_go_on(edge: Edge) -> None:
    signed = world.sendgrid()

    answer = await edge.raw(
        world.head(signed, more="expect: 100-continue\r\nconnection: close\r\n"), then=[(0.2, signed.request.body)]
    )

    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_an_insecure_endpoint_takes_anything_says_so_at_the_start_and_in_the_record(edge: Edge) -> None:
    body = b'[{"sg_event_id":"%s"}]' % token_hex(8).encode()

    assert (await edge.post(world.sendgrid(body), account="open", headers={"X-Twilio": "nothing"}))[0] == 200

    (record,) = [one for one in await edge.records("sendgrid", "open") if one.value == body]
    assert dict(record.headers)["verified"] == b"false"
    assert "key-id" not in dict(record.headers)
    assert "/webhooks/sendgrid/open is INSECURE" in edge.output


async def test_a_header_that_holds_a_credential_is_not_kept_whatever_its_name(edge: Edge) -> None:
    signed = world.postmark("")
    secret = "a-secret-in-a-strange-place"

    status, _, _ = await edge.post(signed, account="header", headers={"User-Agent": secret, "Authorization": ""})

    assert status == 200
    (record,) = await edge.records("postmark", "header")
    assert secret.encode() not in b"".join(value for _, value in record.headers)


async def test_firehose_reads_the_answer_that_it_asks_for(edge: Edge) -> None:
    body = json.dumps({"requestId": "r-1", "timestamp": 1, "records": []}).encode()
    signed = world.sns()

    status, answer, headers = await edge.post(
        signed,
        data=body,
        account="header",
        headers={
            "Content-Type": "application/json",
            "X-Amz-Firehose-Access-Key": "firehose-key",
            "X-Amz-Firehose-Request-Id": "r-1",
        },
    )

    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(answer)["requestId"] == "r-1"


# --- Event Grid's handshake ---


async def test_event_grid_gets_its_code_back_when_the_handshake_carries_the_secret(edge: Edge) -> None:
    asked = world.azure_handshake(code="512d38b6-c7b8-40c8-89fe-f46f9e9622b6")

    status, answer, headers = await edge.post(asked, headers={"aeg-subscription-name": "INVOICES"})

    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(answer) == {"validationResponse": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"}
    (record,) = [one for one in await edge.records("azure_communication") if one.value == asked.request.body]
    assert dict(record.headers)["http-aeg-subscription-name"] == b"INVOICES"  # as with SNS, the record says who asked
    assert not [name for name, value in record.headers if signing.AZURE_SECRET.encode() in value]


async def test_whoever_lacks_the_secret_gets_no_consent(edge: Edge) -> None:
    await refused(edge, world.azure_handshake("a guess"), 503, "mismatch")
    bare = world.azure_handshake().with_headers(x_mailstreams_secret=None)
    await refused(edge, bare, 503, "missing")
    await refused(edge, bare, 503, "missing", account=f"acme?code={quote(signing.AZURE_SECRET)}")
    await refused(edge, world.azure_handshake(), 503, "mismatch", account="header")  # the secret of another account


@pytest.mark.parametrize("code", ["<script>alert(1)</script>", '"}', "\r\n\r\n<b>", "{\u2028"])
async def test_whatever_a_code_holds_the_answer_is_json_and_never_a_page(edge: Edge, code: str) -> None:
    status, answer, headers = await edge.post(world.azure_handshake(code=code))

    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(answer) == {"validationResponse": code}
    assert int(headers["Content-Length"]) == len(answer)


async def test_an_insecure_endpoint_consents_to_nothing_so_that_a_person_has_to(edge: Edge) -> None:
    status, answer, _ = await edge.post(world.azure_handshake(), account="open")

    assert (status, answer) == (200, b"")


async def test_a_webhook_that_is_no_handshake_gets_no_code_even_if_it_holds_one(edge: Edge) -> None:
    asked = world.azure_handshake()

    for word in ("Notification", None):
        status, answer, _ = await edge.post(asked.with_headers(aeg_event_type=word))
        assert (status, answer) == (200, b"")
    status, answer, _ = await edge.post(
        world.azure_communication().with_headers(aeg_event_type="SubscriptionValidation")
    )
    assert (status, answer) == (200, b"")


async def test_the_other_schemas_handshake_by_options_is_refused(edge: Edge) -> None:
    status, _, headers = await edge.post(
        world.azure_communication(), method="OPTIONS", headers={"WebHook-Request-Origin": "eventgrid.azure.net"}
    )

    assert status == 405
    assert not [name for name in headers if name.lower().startswith("webhook-")]


async def test_head_and_signed_pings_are_answered_200_and_leave_no_record(edge: Edge) -> None:
    before = await edge.count()

    assert (await edge.post(world.sendgrid(), method="HEAD", data=b""))[0] == 200
    assert (await edge.post(world.sendgrid(b"[]")))[0] == 200

    assert await edge.count() == before
    assert edge.metrics()['mailstreams_webhook_unrecorded_total{provider="sendgrid",reason="ping"}'] >= 1


# --- what is not let in ---

UNPROVEN = {"azure_communication": 503, "brevo": 429}
"""What these are answered where the others get 401, because at 401 they give up the event."""


async def test_a_request_without_a_signature_is_refused(edge: Edge) -> None:
    for provider, make in GENUINE.items():
        bare = make()
        name = {
            "sendgrid": "x-twilio-email-event-webhook-signature",
            "postmark": "authorization",
            "azure_communication": signing.AZURE_HEADER,
            "brevo": signing.BREVO_HEADER,
            "mailjet": "authorization",
            "resend": "svix-signature",
        }.get(provider)
        if name is not None:
            bare = bare.with_headers(**{name.replace("-", "_"): None})
        elif provider == "mailgun":
            bare = bare.with_json(lambda value: value.pop("signature"))
        else:
            bare = bare.with_json(lambda value: value.pop("Signature"))
        await refused(edge, bare, UNPROVEN.get(provider, 401), "missing")


async def test_401_asks_for_a_credential_because_sns_sends_that_of_its_url_only_then(edge: Edge) -> None:
    _, _, headers = await edge.post(world.sns().with_json(lambda value: value.pop("Signature")))

    assert headers["WWW-Authenticate"].startswith("Basic ")


async def test_a_forged_request_is_refused(edge: Edge) -> None:
    await refused(edge, world.sendgrid(key="a stranger's"), 403, "mismatch")
    await refused(edge, world.mailgun(key="guessed"), 403, "mismatch")
    await refused(edge, world.mailjet("mailjet:guessed"), 403, "mismatch")
    await refused(edge, world.sns().with_json(lambda value: value.update(Message="{}")), 403, "mismatch")
    await refused(edge, world.resend(secret=signing.RESEND_OTHER), 403, "mismatch")


async def test_postmark_gets_401_where_others_get_403_because_403_makes_it_give_up_the_event(edge: Edge) -> None:
    await refused(edge, world.postmark("postmark:wrong"), 401, "mismatch")


async def test_event_grid_gets_503_where_others_get_401_or_403_because_those_make_it_give_up_the_event(
    edge: Edge,
) -> None:
    await refused(edge, world.azure_communication("a guess"), 503, "mismatch")
    await refused(edge, world.azure_communication(), 503, "unconfigured", account="other")
    _, _, headers = await edge.post(world.azure_communication("a guess"))
    assert int(headers["Retry-After"]) > 0
    assert "WWW-Authenticate" not in headers


async def test_brevo_gets_429_where_others_get_401_or_403_because_it_gives_up_the_event_at_everything_else(
    edge: Edge,
) -> None:
    await refused(edge, world.brevo("a guess"), 429, "mismatch")
    await refused(edge, world.brevo(), 429, "unconfigured", account="other")


async def test_a_signature_that_cannot_be_read_is_refused(edge: Edge) -> None:
    await refused(edge, world.sendgrid().with_headers(x_twilio_email_event_webhook_signature="%%%"), 401, "malformed")


async def test_a_truncated_or_changed_body_is_refused(edge: Edge) -> None:
    signed = world.sendgrid()

    await refused(edge, signed.with_body(signed.request.body[:-3]), 403, "mismatch")
    await refused(edge, signed.with_body(signed.request.body.replace(b"jo@", b"ko@")), 403, "mismatch")


@pytest.mark.parametrize("provider", GENUINE)
async def test_a_genuine_request_of_another_provider_is_refused(edge: Edge, provider: str) -> None:
    code = UNPROVEN.get(provider, 401)
    basic = {"postmark", "mailjet"}  # both send a user and password, but not the same
    others = [
        make().with_headers(content_type="application/json")
        for name, make in GENUINE.items()
        if name != provider and not {name, provider} <= basic
    ]

    async with refusing(edge, provider, code, "missing", times=len(others)):
        answers = [(await edge.post(sent, provider=provider))[:2] for sent in others]

    assert answers == [(code, b"missing\n")] * len(others)


async def test_a_user_and_password_of_another_provider_is_refused(edge: Edge) -> None:
    await refused(edge, replace(world.postmark(), provider="mailjet"), 403, "mismatch")
    await refused(edge, replace(world.mailjet(), provider="postmark"), 401, "mismatch")


async def test_a_genuine_request_of_another_account_is_refused(edge: Edge) -> None:
    await refused(edge, world.sendgrid(), 403, "mismatch", account="other")
    await refused(edge, world.mailgun(), 403, "mismatch", account="other")
    await refused(edge, world.sns(), 401, "missing", account="header")
    await refused(edge, world.postmark(), 401, "mismatch", account="header")
    await refused(edge, world.azure_communication(), 503, "mismatch", account="header")
    await refused(edge, world.brevo(), 429, "mismatch", account="header")
    await refused(edge, world.mailjet(), 403, "mismatch", account="header")
    await refused(edge, world.resend(), 403, "mismatch", account="other")


async def test_a_stale_request_is_refused_so_that_it_comes_again_because_our_clock_may_be_wrong(edge: Edge) -> None:
    await refused(edge, world.mailgun(age_s=13 * 3600), 503, "stale")
    await refused(edge, world.resend(age_s=330), 503, "stale")
    old = signing.sns(signing.notification(Timestamp="2026-01-03T11:59:58.655Z"))
    await refused(edge, old, 503, "stale")


async def test_a_mailgun_token_cannot_carry_another_event(edge: Edge) -> None:
    genuine = world.mailgun()
    assert (await edge.post(genuine))[0] == 200

    forged = genuine.with_json(lambda value: value["event-data"].update(event="failed"))

    await refused(edge, forged, 403, "replayed")


async def test_the_very_same_mailgun_request_again_is_answered_200_and_written_once(edge: Edge) -> None:
    genuine = world.mailgun()

    assert [(await edge.post(genuine))[0] for _ in range(3)] == [200, 200, 200]

    assert [one.value for one in await edge.records("mailgun")].count(genuine.request.body) == 1


async def test_an_unset_provider_is_refused_and_postmark_too_without_giving_up(edge: Edge) -> None:
    await refused(edge, world.sendgrid(), 403, "unconfigured", account="header")
    await refused(edge, world.postmark(), 401, "unconfigured", account="other")


async def test_nothing_tells_an_unknown_account_from_an_unknown_provider_or_path(edge: Edge) -> None:
    paths = [
        "/webhooks/sendgrid/nobody",
        "/webhooks/nothing/acme",
        "/",
        "/webhooks/sendgrid/acme/",
        "/metrics",
        "/livez",
    ]
    methods, answers = ("POST", "GET", "HEAD"), set()
    times = len(paths) * len(methods)
    async with refusing(edge, "unknown", 404, "not_found", times=times), ClientSession() as client:
        for path in paths:
            for method in methods:
                async with client.request(method, f"{edge.url}{path}", data=b"{}") as answer:
                    headers = frozenset((k, v) for k, v in answer.headers.items() if k != "Date")
                    answers.add((answer.status, await answer.read() or b"not_found\n", headers))

    assert len(answers) == 1
    assert next(iter(answers))[:2] == (404, b"not_found\n")


async def test_other_methods_are_refused(edge: Edge) -> None:
    async with refusing(edge, "sendgrid", 405, "method", times=5):
        for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH"):
            status, _, headers = await edge.post(world.sendgrid(), method=method)
            assert (status, headers["Allow"]) == (405, "POST, HEAD")


async def test_other_content_types_are_refused(edge: Edge) -> None:
    for provider, kind in (
        ("sendgrid", "text/html"),
        ("sendgrid", "text/plain"),
        ("amazon_ses", "multipart/form-data"),
    ):
        await refused(edge, GENUINE[provider]().with_headers(content_type=kind), 415, "content_type")
    await refused(edge, world.sendgrid().with_headers(content_type=None), 415, "content_type")


# --- what is too large, too slow or no HTTP ---


def too_long(signed: Signed) -> list[bytes]:
    return [world.head(signed, length=MOST + 1)]  # refused before it is sent


def too_slow(signed: Signed) -> list[bytes]:
    return [world.head(signed), *(signed.request.body[at : at + 1] for at in range(5))]


def too_large_a_head(signed: Signed) -> list[bytes]:
    return [world.head(signed, more=f"x: {'y' * 1000}\r\n" * 20) + signed.request.body]


def bad_chunks(signed: Signed) -> list[bytes]:
    return [world.head(signed, length=-1, more="transfer-encoding: chunked\r\n") + b"ZZ\r\n" + signed.request.body]


def two_lengths(signed: Signed) -> list[bytes]:
    return [world.head(signed, more="content-length: 3\r\n") + signed.request.body]


@pytest.mark.parametrize(
    ("pieces", "provider", "code", "reason"),
    [
        (too_long, "sendgrid", 413, "too_large"),
        (too_slow, "sendgrid", 408, "too_slow"),
        (bad_chunks, "unknown", 400, "broken"),
        (two_lengths, "unknown", 400, "broken"),
        (too_large_a_head, "unknown", 431, "head_too_large"),
    ],
)
async def test_a_genuine_request_that_comes_wrongly_is_refused_counted_and_on_no_topic(
    edge: Edge, pieces: Callable[[Signed], list[bytes]], provider: str, code: int, reason: str
) -> None:
    first, *then = pieces(world.sendgrid())

    async with refusing(edge, provider, code, reason):
        answer = await edge.raw(first, then=[(0.25, piece) for piece in then])

    assert int(answer.split()[1]) == code


async def test_a_request_that_ends_before_its_length_is_counted_and_not_taken(edge: Edge) -> None:
    signed = world.sendgrid()
    async with refusing(edge, "sendgrid", 400, "broken"):
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(world.head(signed, length=len(signed.request.body) + 5) + signed.request.body)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)

    assert b" 200 " not in answer


async def test_an_oversize_body_in_chunks_is_refused_while_it_comes(edge: Edge) -> None:
    async with refusing(edge, "sendgrid", 413, "too_large"):
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(world.head(world.sendgrid(), length=-1, more="transfer-encoding: chunked\r\n"))
        closed = False
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not closed:
            try:
                writer.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
                await writer.drain()
            except ConnectionError:  # it closes the connection while we still send
                closed = True
        with contextlib.suppress(ConnectionError):
            assert (await asyncio.wait_for(reader.read(), 10))[:13] in {b"HTTP/1.1 413 ", b""}
        writer.close()

    assert closed


def bomb(times: int) -> bytes:
    data = b"\0" * (10 << 20)
    for _ in range(times):
        data = gzip.compress(data)
    return data


async def test_a_gzip_bomb_is_refused_before_it_is_inflated(edge: Edge) -> None:
    await refused(edge, world.sendgrid(), 413, "too_large", data=bomb(1), headers={"Content-Encoding": "gzip"})


async def test_a_bomb_in_a_bomb_is_inflated_once_and_then_proves_nothing(edge: Edge) -> None:
    await refused(edge, world.sendgrid(), 403, "mismatch", data=bomb(3), headers={"Content-Encoding": "gzip"})


async def test_several_or_unknown_encodings_are_refused(edge: Edge) -> None:
    for encoding in ("gzip, gzip", "br", "zstd", "nothing"):
        await refused(
            edge, world.sendgrid(), 415, "content_encoding", data=bomb(2), headers={"Content-Encoding": encoding}
        )


async def test_what_is_not_compressed_as_it_says_is_refused(edge: Edge) -> None:
    good = gzip.compress(world.sendgrid().request.body)
    for data in (b"no gzip", good[:-4], good + b"more", good + good):
        await refused(edge, world.sendgrid(), 400, "broken", data=data, headers={"Content-Encoding": "gzip"})


async def test_a_head_that_does_not_come_in_time_ends_the_connection(edge: Edge) -> None:
    drops = [(0.25, b"x-drop: 1\r\n") for _ in range(8)]

    assert await edge.raw(b"POST /webhooks/sendgrid/acme HTTP/1.1\r\nhost: h\r\n", then=drops, timeout_s=3) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 not http at all, secret-of-mine\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nbad header secret-of-mine\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\n" + b"".join(b"x-%d: secret-of-mine\r\n" % i for i in range(500)) + b"\r\n",
        b"POST /webhooks/sendgrid/acme HTTP/1.1\r\ncontent-type: application/json\r\n"  # noqa: ISC004 - one request
        b"transfer-encoding: chunked\r\nhost: h\r\n\r\nZZ secret-of-mine\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_400_and_never_quoted(edge: Edge, data: bytes) -> None:
    async with refusing(edge, "unknown", 400, "broken"):
        answer = await edge.raw(data)

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"secret-of-mine" not in answer
    assert answer.endswith(b"broken\n")
    assert "secret-of-mine" not in edge.output


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nhost: h\r\nx: " + b"secret-of-mine" * 2000 + b"\r\n\r\n",
        b"POST /" + b"secret-of-mine" * 2000 + b" HTTP/1.1\r\nhost: h\r\n\r\n",
    ],
    ids=["header", "request line"],
)
async def test_a_line_that_is_longer_than_a_head_may_be_is_answered_431_and_logged_but_never_quoted(
    edge: Edge, data: bytes
) -> None:
    async with refusing(edge, "unknown", 431, "head_too_large"):
        answer = await edge.raw(data)

    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.0 431 "))
    assert answer.endswith(b"head_too_large\n")
    assert "a request: refused: head_too_large" in edge.output
    assert b"secret-of-mine" not in answer
    assert "secret-of-mine" not in edge.output


async def test_one_header_may_have_what_a_head_may_have(edge: Edge) -> None:
    sent = world.sendgrid().with_headers(x_forwarded_client_cert="c" * 15_000)
    assert (await edge.post(sent))[0] == 200


# --- what it must not fetch ---


async def test_no_address_in_a_request_is_ever_fetched(edge: Edge, listener: Listener) -> None:
    elsewhere = f"127.0.0.1:{listener.port}/SimpleNotificationService-0.pem"
    for url in (
        f"http://{elsewhere}",
        f"https://{elsewhere}",
        f"https://sns.eu-west-1.amazonaws.com@{elsewhere}",
        f"https://sns.eu-west-1.amazonaws.com.{elsewhere}",
    ):
        await refused(edge, world.sns(SigningCertURL=url), 403, "untrusted")
        await refused(edge, world.confirmation(SigningCertURL=url), 403, "untrusted")
    asks = world.confirmation(SubscribeURL=f"http://127.0.0.1:{listener.port}/?Action=ConfirmSubscription")
    assert (await edge.post(asks))[0] == 200

    assert listener.connections() == 0


async def test_for_a_topic_that_is_not_ours_no_certificate_is_asked_for(edge: Edge) -> None:
    foreign = world.sns(TopicArn=signing.TOPIC.replace("123456789012", "999999999999"))

    await refused(edge, foreign, 403, "untrusted")

    assert edge.metrics()['mailstreams_ingress_certificates_total{outcome="failed"}'] == 0


async def test_a_subscription_is_kept_and_logged_with_the_command_but_without_its_token(edge: Edge) -> None:
    token = "token" + token_hex(20)

    assert (await edge.post(world.confirmation(Token=token)))[0] == 200

    assert f"mailstreams webhook confirm {signing.TOPIC} --account acme" in edge.output
    assert token not in edge.output
    assert [one for one in await edge.records("amazon_ses", "acme") if token.encode() in (one.value or b"")]


@pytest.mark.parametrize("restore", [False, True])
def test_the_command_confirms_or_restores_by_the_address_built_from_the_newest_verified_message_of_that_kind(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, restore: bool
) -> None:
    asked: list[str] = []

    async def get(_: GuardedClient, url: str) -> bytes:
        asked.append(url)
        return b""

    monkeypatch.setattr(GuardedClient, "get", get)
    for name, value in edge.environment.items():
        monkeypatch.setenv(name, value)
    token = "newest" + token_hex(20)
    kinds = ("UnsubscribeConfirmation", "SubscriptionConfirmation")  # the other one comes last
    for kind, its_token in zip(kinds if restore else reversed(kinds), (token, "other"), strict=True):
        asks = world.confirmation(Type=kind, Token=its_token, SubscribeURL="https://evil.test/")
        assert asyncio.run(edge.post(asks))[0] == 200

    asked_for = ["webhook", "confirm", signing.TOPIC, "--account", "acme", *(["--restore"] if restore else [])]
    done = CliRunner().invoke(cli, asked_for)
    wrong = CliRunner().invoke(cli, ["webhook", "confirm", signing.TOPIC + "x", "--account", "acme"])
    nobody = CliRunner().invoke(cli, ["webhook", "confirm", signing.TOPIC, "--account", "header"])

    assert (done.exit_code, wrong.exit_code, nobody.exit_code) == (0, 2, 2), done.output
    (url,) = asked
    assert url.startswith("https://sns.eu-west-1.amazonaws.com/?")
    assert token in url
    assert token not in done.output


# --- the neighbours ---


async def test_sends_are_taken_on_the_same_port_with_the_accounts_key(edge: Edge) -> None:
    send = {
        "provider": "postmark",
        "message_id": token_hex(8),
        "recipient": "jo@customer.example",
        "sent_at": world.now_text(),
    }
    async with ClientSession() as client:
        async with client.post(
            f"{edge.url}/sends", json=send, headers={"Authorization": f"Bearer {world.API_KEY}"}
        ) as ok:
            assert ok.status == 202, await ok.text()
        async with client.post(f"{edge.url}/sends", json=send, headers={"Authorization": "Bearer wrong"}) as wrong:
            assert wrong.status == 401
            assert wrong.headers["Server"] == "mailstreams"

    found = await read_all(edge.broker, topics.SENDS, world.PARTITIONS)
    assert [one for part in found.values() for one in part if send["message_id"].encode() in (one.value or b"")]
    assert edge.metrics()["mailstreams_sends_total"] >= 1


async def test_the_admin_port_says_how_it_is_and_the_public_one_does_not(edge: Edge) -> None:
    async with ClientSession() as client:
        for path in ("/livez", "/readyz", "/metrics"):
            async with client.get(f"{edge.admin_url}{path}") as answer:
                assert answer.status == 200
            async with client.get(f"{edge.url}{path}") as answer:
                assert answer.status == 404


async def test_no_secret_address_or_body_is_in_any_log_line_or_metric(edge: Edge) -> None:
    """Runs after the others of this file: their requests have all been refused or taken by now."""
    await edge.post(world.postmark("postmark:wr0ng-passw0rd"))
    await edge.post(world.sendgrid().with_headers(authorization="Bearer s3cr3t-token"))
    said = edge.output + "".join(edge.metrics())

    for hidden in (
        "customer.example",
        "corréct horse",
        "wr0ng-passw0rd",
        "s3cr3t-token",
        signing.MAILGUN_KEY,
        world.API_KEY,
        "firehose-key",
        signing.AZURE_SECRET,
        signing.BREVO_SECRET,
        signing.MAILJET_CREDENTIAL,
        signing.RESEND_SECRET.removeprefix("whsec_"),
        "a guess",
        "validationCode",
        "eventgrid.azure.net",
        signing.public_base64(signing.p256("first")),
        "sg_event_id",
        "Traceback",
    ):
        assert hidden not in said
    assert not re.search(r"\S@\S", said)
