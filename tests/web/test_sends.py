"""POST /sends by real HTTP; what is accepted lies in the topic of a real broker."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from multidict import CIMultiDict

from deploy.local.broker import Broker
from streams import records, topics
from streams.kafka.partitioner import partition_of
from streams.settings import Kafka, Settings, Topics
from streams.web import sends
from streams.web.limits import Room, TokenBucket, read_body

KEY, OTHER_KEY, SHARED_KEY = "key-of-billing", "key-of-shop", "key-of-both"
KEYS = {
    "billing": [sha256(KEY.encode()).hexdigest(), sha256(SHARED_KEY.encode()).hexdigest().upper()],
    "shop": [sha256(OTHER_KEY.encode()).hexdigest(), sha256(SHARED_KEY.encode()).hexdigest()],
}
PLAIN: dict[str, Any] = {
    "account": "billing",
    "provider": "postmark",
    "message_id": "883953f4-6105-42a2-a16a-77a8eac79483",
    "recipient": "ann@customer.example",
    "reference": "INV-4711",
    "sent_at": "2026-11-03T10:00:00Z",
}

Client = TestClient[web.Request, web.Application]


class Desk:
    """Stands for the ingress: keeps what was published, and what it was told."""

    def __init__(self) -> None:
        self.published: list[tuple[bytes, bytes]] = []
        self.told: list[tuple[str, int]] = []
        self.error: Exception | None = None

    async def publish(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        if self.error is not None:
            raise self.error
        self.published.extend(rows)

    def tell(self, outcome: sends.Outcome, count: int) -> None:
        self.told.append((str(outcome), count))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def application(**options: Any) -> web.Application:
    """Return what serves ``POST /sends`` as the ingress does."""
    handle = sends.handler(keys=KEYS, **options)

    async def post(request: web.Request) -> web.StreamResponse:
        place = Room(max_requests=1, max_bytes=8 << 20).enter()
        return await handle(
            request,
            lambda most: read_body(request.content, encoding="", most=most, proven=True, place=place, timeout_s=0.5),
        )

    app = web.Application()
    app.router.add_post(sends.PATH, post)
    return app


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[Client]:
    async with TestClient(TestServer(application(publish=desk.publish, on_outcome=desk.tell))) as client:
        yield client


async def post(
    client: Client, value: Any = PLAIN, *, key: str | None = KEY, data: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    if key is not None:
        sent.setdefault("Authorization", f"Bearer {key}")
    body = json.dumps(value).encode() if data is None else data
    async with client.post("/sends", data=body, headers=sent) as answer:
        read = json.loads(await answer.read())
        if answer.status != 202:
            assert answer.content_type == "application/problem+json"
            assert (read["type"], read["status"]) == ("about:blank", answer.status)
        return answer.status, read, answer


async def test_one_send_is_accepted_and_published_under_its_delivery(client: Client, desk: Desk) -> None:
    status, answer, _ = await post(client)

    expected = records.send_of(PLAIN)
    assert (status, answer) == (202, {"accepted": 1, "delivery_ids": [expected.delivery_id]})
    ((key, value),) = desk.published
    assert (key, records.decode_send(value)) == (expected.delivery_id.encode(), expected)
    assert desk.told == [("accepted", 1)]


async def test_beyond_its_rate_an_account_gets_429_and_a_stranger_cannot_use_it_up(desk: Desk) -> None:
    buckets = {"billing": TokenBucket(0.5, 2)}
    async with TestClient(
        TestServer(application(publish=desk.publish, on_outcome=desk.tell, buckets=buckets))
    ) as client:
        for _ in range(5):
            assert (await post(client, key="a stranger's"))[0] == 401
        answers = [await post(client) for _ in range(3)]

    assert [status for status, _, _ in answers] == [202, 202, 429]
    assert answers[2][2].headers["Retry-After"] == "2"
    assert desk.told[-1] == ("rate", 0)


async def test_an_array_is_accepted_as_a_whole(client: Client, desk: Desk) -> None:
    many = [{**PLAIN, "message_id": f"m{number}"} for number in range(1000)]

    status, answer, _ = await post(client, many)

    assert (status, answer["accepted"], len(set(answer["delivery_ids"]))) == (202, 1000, 1000)
    assert len(desk.published) == 1000


@pytest.mark.parametrize("count", [0, 1001])
async def test_an_array_that_is_empty_or_too_long_is_refused(client: Client, desk: Desk, count: int) -> None:
    status, answer, _ = await post(client, [PLAIN] * count)

    assert (status, answer["detail"], desk.published) == (422, "an array must have 1 to 1000 elements", [])


async def test_the_account_may_be_left_out_where_the_key_has_only_one(client: Client, desk: Desk) -> None:
    without = {name: value for name, value in PLAIN.items() if name != "account"}

    assert (await post(client, without))[0] == 202
    assert records.decode_send(desk.published[0][1]).account == "billing"
    assert (await post(client, without, key=SHARED_KEY))[0] == 422


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic a2V5", "Bearer wrong", f"Token {KEY}", KEY])
async def test_without_a_key_of_ours_nothing_is_taken(client: Client, desk: Desk, authorization: str) -> None:
    status, _, answer = await post(client, Authorization=authorization)

    assert (status, desk.published, desk.told) == (401, [], [("unauthenticated", 0)])
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_without_the_header_nothing_is_taken(client: Client) -> None:
    assert (await post(client, key=None))[0] == 401


@pytest.mark.parametrize("digest", [digest for digests in KEYS.values() for digest in digests])
async def test_the_hash_of_a_key_is_no_key(client: Client, digest: str) -> None:
    assert (await post(client, key=digest))[0] == 401


async def test_a_key_tells_sends_of_its_own_account_only(client: Client, desk: Desk) -> None:
    status, answer, _ = await post(client, [{**PLAIN, "account": "shop"}, PLAIN], key=KEY)

    assert (status, answer["errors"]) == (403, [{"index": 0, "detail": "account is not that of the API key"}])
    assert (desk.published, desk.told) == ([], [("forbidden", 0)])
    assert (await post(client, key=OTHER_KEY))[0] == 403


@pytest.mark.parametrize("account", ["billing", "shop"])
async def test_a_key_of_two_accounts_speaks_for_both(client: Client, account: str) -> None:
    assert (await post(client, {**PLAIN, "account": account}, key=SHARED_KEY))[0] == 202


async def test_one_bad_element_refuses_all_and_is_named_without_its_value(client: Client, desk: Desk) -> None:
    bad = [PLAIN, {**PLAIN, "recipient": "Secret <secret@customer.example>"}, 7, {**PLAIN, "sent_at": "secret"}]

    status, answer, _ = await post(client, bad)

    assert status == 422
    assert [error["index"] for error in answer["errors"]] == [1, 2, 3]
    assert "secret" not in json.dumps(answer).lower()
    assert (desk.published, desk.told) == ([], [("invalid", 0)])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"account": NaN}'])
async def test_what_is_no_json_is_refused(client: Client, desk: Desk, data: bytes) -> None:
    assert (await post(client, data=data))[0] == 400
    assert desk.published == []


async def test_another_media_type_and_a_compressed_body_are_refused(client: Client, desk: Desk) -> None:
    assert (await post(client, Content_Type="text/plain"))[0] == 415
    assert (await post(client, Content_Encoding="gzip", data=b"\x1f\x8b\x08\x00"))[0] == 415
    assert (await post(client, Content_Type="application/vnd.sends+json; charset=utf-8"))[0] == 202
    assert len(desk.published) == 1


async def test_a_second_line_that_says_compressed_is_read_too(client: Client) -> None:
    lines = [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
    headers = CIMultiDict([("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}"), *lines])

    async with client.post("/sends", data=b"", headers=headers) as answer:
        assert answer.status == 415


async def test_a_body_that_is_too_large_is_refused_declared_or_not(client: Client, desk: Desk) -> None:
    large = b" " * (sends.MAX_BODY_BYTES + 1)
    assert (await post(client, data=large))[0] == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield large[: len(large) // 100]

    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    try:
        async with client.post("/sends", data=chunks(), headers=headers) as answer:
            assert answer.status == 413
    except aiohttp.ClientError:
        pass  # the connection is closed while we still write: refused all the same
    assert desk.told == [("too_large", 0)] * 2


async def test_a_body_that_does_not_come_is_not_waited_for(client: Client, desk: Desk) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"POST /sends HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())

    answer = await asyncio.wait_for(reader.readline(), 5)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert desk.told == [("too_slow", 0)]
    writer.close()


@pytest.mark.parametrize("error", [KafkaTimeoutError(), TimeoutError(), ConnectionResetError()])
async def test_while_the_broker_is_away_the_answer_says_to_come_again(
    client: Client, desk: Desk, error: Exception
) -> None:
    desk.error = error

    status, _, answer = await post(client)

    assert (status, answer.headers["Retry-After"], desk.told) == (503, "10", [("unavailable", 0)])


async def test_another_method_is_not_allowed(client: Client) -> None:
    async with client.get("/sends") as answer:
        assert answer.status == 405


async def test_what_was_answered_202_lies_in_the_topic_in_the_partition_of_its_delivery(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAW_PREFIX", "SENDS", "EVENTS", "STATUS_CHANGED", "STATUS", "DEFERRALS", "DEAD_LETTERS", "CONTROL"):
        monkeypatch.setattr(topics, name, f"t{secrets.token_hex(4)}.{getattr(topics, name)}")
    settings = Settings(kafka=Kafka(bootstrap_servers=broker.bootstrap), topics=Topics(partitions=3))
    await topics.create(settings)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True) as producer:

        async def publish(rows: Sequence[tuple[bytes, bytes]]) -> None:
            sent = [await producer.send(topics.SENDS, value, key) for key, value in rows]
            await asyncio.gather(*sent)

        async with TestClient(TestServer(application(publish=publish))) as client:
            many = [{**PLAIN, "message_id": f"m{number}"} for number in range(50)]
            status, answer, _ = await post(client, many)
    assert status == 202

    found: dict[str, int] = {}
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        partitions = [TopicPartition(topics.SENDS, number) for number in range(3)]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        while len(found) < 50:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for record in batch:
                    assert record.timestamp_type == 1  # the broker's time
                    found[records.decode_send(record.value).delivery_id] = record.partition
    assert set(found) == set(answer["delivery_ids"])
    assert all(number == partition_of(delivery_id.encode(), 3) for delivery_id, number in found.items())
