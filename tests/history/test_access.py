"""Who sees what: keys, proxies, and everybody else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest

from streams.history import api, projection
from streams.history.access import Access
from streams.history.edge import BEHIND
from tests.history.support import Log, World, event, served, settings_for, sqlite_url

KEYS = {
    "ACCOUNTS__ACME__HISTORY_KEYS": sha256(b"acme-key").hexdigest(),
    "ACCOUNTS__OTHER__HISTORY_KEYS": f"{sha256(b'other-key').hexdigest()}, {sha256(b'both').hexdigest()}",
    "ACCOUNTS__THIRD__HISTORY_KEYS": sha256(b"both").hexdigest().upper(),
}
INVOICE = f"/invoices/{projection.invoice_id('INV-1')}"


def log() -> Log:
    log = Log()
    for account in ("acme", "other", "third"):
        log.tell(event("sent", account=account, recipient=f"{account}-payer@example.net"))
        log.tell(event("deferred", at=5, account=account, recipient=f"{account}-payer@example.net"))
    return log


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with served(sqlite_url(tmp_path), **KEYS) as world:
        world.tell(log())
        yield world


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


EVERY_GET = [
    "/",
    "/deferred",
    INVOICE,
    "/export.csv",
    "/api/v1/deliveries",
    "/api/v1/deferrals",
    "/api/v1/counts",
    "/api/v1/live",
    "/live",
    f"/api/v1{INVOICE}",
    "/static/history.css",
    "/api/v1/openapi.json",
]


@pytest.mark.parametrize("path", EVERY_GET)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(""),
        bearer("a" * 600),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic YWNtZTp3cm9uZw=="},
        {"Authorization": "acme-key"},
        {"X-Mailstreams-Accounts": "*"},
    ],
)
async def test_without_a_proof_nothing_is_shown(world: World, path: str, headers: dict[str, str]) -> None:
    answer = await world.client.get(path, headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert "payer" not in await answer.text()
    assert BEHIND not in answer.headers


@pytest.mark.parametrize(
    ("key", "sees"), [("acme-key", {"acme"}), ("other-key", {"other"}), ("both", {"other", "third"})]
)
async def test_a_key_sees_its_accounts_and_no_others(world: World, key: str, sees: set[str]) -> None:
    headers = bearer(key)
    for path in (
        "/",
        "/deferred",
        INVOICE,
        "/export.csv",
        "/api/v1/deliveries",
        "/api/v1/deferrals",
        f"/api/v1{INVOICE}",
    ):
        text = await (await world.client.get(path, headers=headers)).text()
        assert {account for account in ("acme", "other", "third") if f"{account}-payer" in text} == sees
    for path, form in (("/search", {"q": "inv-1"}), ("/export.csv", {"q": "inv-1", "by": "reference"})):
        text = await (await world.client.post(path, data=form, headers=headers)).text()
        assert {account for account in ("acme", "other", "third") if f"{account}-payer" in text} == sees
    answer = await world.client.post("/api/v1/history", json={"reference": "INV-1"}, headers=headers)
    assert {item["status"]["account"] for item in (await answer.json())["items"]} == sees
    counted = await (await world.client.get("/api/v1/counts", headers=headers)).json()
    assert counted["total"] == len(sees)


async def test_what_belongs_to_others_cannot_be_told_from_what_does_not_exist(world: World) -> None:
    theirs = next(name for name, delivery in log().known.items() if delivery.account == "other")
    for prefix in ("", "/api/v1"):
        known = await world.client.get(f"{prefix}/deliveries/{theirs}", headers=bearer("acme-key"))
        unknown = await world.client.get(f"{prefix}/deliveries/{'a' * 26}", headers=bearer("acme-key"))
        assert known.status == unknown.status == 404
        assert await known.text() == (await unknown.text())
        assert (await world.client.get(f"{prefix}/deliveries/{theirs}", headers=bearer("other-key"))).status == 200
    answer = await world.client.get("/api/v1/deliveries?account=other", headers=bearer("acme-key"))
    assert (await answer.json())["items"] == []


async def test_a_browser_gives_the_key_as_password(world: World) -> None:
    answer = await world.client.get("/", headers={"Authorization": aiohttp.encode_basic_auth("whoever", "acme-key")})
    assert answer.status == 200


async def test_a_live_view_hears_of_its_own_accounts_only(world: World) -> None:
    async with world.client.get("/api/v1/live", headers=bearer("acme-key")) as stream:
        assert stream.status == 200
        assert await stream.content.readline() == b"retry: 3000\n"
        world.built.hub.publish(
            [projection.Touched("d1", "other", None, "sent", 1), projection.Touched("d2", "acme", None, "sent", 1)]
        )
        lines = [await stream.content.readline() for _ in range(6)]  # the first three begin the stream
        assert b'"d2"' in b"".join(lines)
        assert b"d1" not in b"".join(lines)


async def test_a_trusted_proxy_says_whose_deliveries_are_seen(tmp_path: Path) -> None:
    async with served(sqlite_url(tmp_path), HISTORY__TRUSTED_PROXIES="127.0.0.1, ::1") as world:
        world.tell(log())

        async def total(*values: str) -> int:
            headers = [("X-Mailstreams-Accounts", value) for value in values]
            answer = await world.client.get("/api/v1/counts", headers=headers)
            return (await answer.json())["total"] if answer.status == 200 else -answer.status

        assert await total("acme") == 1
        assert await total("acme, other") == 2
        assert await total("*") == 3
        assert await total("nobody") == 0
        assert await total("") == -401
        assert await total("acme", "*") == -401  # two of them: one is a stranger's
        assert await total() == -401


async def test_the_header_of_anybody_else_counts_for_nothing(tmp_path: Path) -> None:
    async with served(sqlite_url(tmp_path), HISTORY__TRUSTED_PROXIES="10.0.0.0/8") as world:
        assert (await world.client.get("/", headers={"X-Mailstreams-Accounts": "*"})).status == 401


async def test_the_page_that_asks_for_a_key_says_so_as_it_is_typed(world: World) -> None:
    text = await (await world.client.get("/")).text()
    assert "A key of an account is needed: Authorization: Bearer KEY, or as the password." in text


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "x-forwarded-host", "X-Forwarded-Proto", "Via"]
)
async def test_without_any_proof_what_a_proxy_forwards_is_refused(tmp_path: Path, name: str) -> None:
    async with served(sqlite_url(tmp_path)) as world:
        world.tell(log())
        answer = await world.client.get("/", headers={name: "203.0.113.5"})
        assert answer.status == 403
        assert "history.trusted_proxies" in await answer.text()
        assert "payer" not in await answer.text()
    async with served(sqlite_url(tmp_path), **KEYS) as world:
        assert (await world.client.get("/", headers={name: "203.0.113.5", **bearer("acme-key")})).status == 200


async def test_without_any_proof_what_an_unconfigured_nginx_forwards_is_refused(tmp_path: Path) -> None:
    said = b"GET / HTTP/1.0\r\nHost: 127.0.0.1:19103\r\nConnection: close\r\n"  # by `proxy_pass` alone
    async with served(sqlite_url(tmp_path)) as world:
        world.tell(log())
        answer = await world.talk(said + b"\r\n")
        assert answer.split(b" ", 2)[1] == b"403"
        assert b"payer" not in answer
    async with served(sqlite_url(tmp_path), **KEYS) as world:
        answer = await world.talk(said + b"Authorization: Bearer acme-key\r\n\r\n")
        assert answer.split(b" ", 2)[1] == b"200"


async def test_beside_a_trusted_proxy_a_strangers_name_for_us_is_refused(tmp_path: Path) -> None:
    said = {"X-Mailstreams-Accounts": "*"}
    async with served(sqlite_url(tmp_path), HISTORY__TRUSTED_PROXIES="127.0.0.1") as world:
        for host, status in (("evil.example", 421), ("127.0.0.1:19103", 200), ("localhost", 200)):
            assert (await world.client.get("/", headers=said | {"Host": host})).status == status
        answer = await world.client.get("/", headers=said | {"Host": "history.example.net"})
        assert "history.public_hosts" in await answer.text()
    names = {"HISTORY__TRUSTED_PROXIES": "127.0.0.1", "HISTORY__PUBLIC_HOSTS": "history.example.net"}
    async with served(sqlite_url(tmp_path), **names) as world:
        for host, status in (("evil.example", 421), ("history.example.net", 200)):
            assert (await world.client.get("/", headers=said | {"Host": host})).status == status


def test_a_public_name_needs_a_proof() -> None:
    url, name = "sqlite:////nowhere", {"HISTORY__PUBLIC_HOSTS": "history.example.net"}
    (problem,) = Access(settings_for(url, **name)).problems()
    assert "history.public_hosts" in problem
    assert not Access(settings_for(url, HISTORY__TRUSTED_PROXIES="10.0.0.1", **name)).problems()
    assert not Access(settings_for(url, **name, **KEYS)).problems()


async def test_one_viewer_leaves_something_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(sqlite_url(tmp_path), HISTORY__MAX_REQUESTS="4", HISTORY__MAX_STREAMS="4", **KEYS) as world:
        going_on, waiting = asyncio.Event(), []

        async def wait(*_: object) -> dict[str, int]:
            waiting.append(1)
            await going_on.wait()
            return {}

        monkeypatch.setattr(api, "ask", wait)

        async def status(path: str, key: str) -> int:
            return (await world.client.get(path, headers=bearer(key))).status

        first = [asyncio.create_task(status("/api/v1/counts", "acme-key")) for _ in range(2)]
        while len(waiting) < 2:
            await asyncio.sleep(0.01)
        assert await status("/api/v1/counts", "acme-key") == 503
        other = asyncio.create_task(status("/api/v1/counts", "other-key"))
        while len(waiting) < 3:
            await asyncio.sleep(0.01)
        going_on.set()
        assert await asyncio.gather(*first, other) == [200, 200, 200]
        assert await status("/api/v1/counts", "acme-key") == 200
        async with contextlib.AsyncExitStack() as stack:
            for key, expected in (("acme-key", 200), ("acme-key", 200), ("acme-key", 503), ("other-key", 200)):
                asked = world.client.get("/live", headers=bearer(key))
                assert (await stack.enter_async_context(asked)).status == expected


async def test_people_behind_a_proxy_are_told_apart_by_where_it_says_they_are(tmp_path: Path) -> None:
    proxy = {"HISTORY__TRUSTED_PROXIES": "127.0.0.1", "HISTORY__MAX_STREAMS": "2"}
    async with served(sqlite_url(tmp_path), **proxy) as world, contextlib.AsyncExitStack() as stack:
        for source, expected in (("203.0.113.5", 200), ("9.9.9.9, 203.0.113.5", 503), ("203.0.113.6", 200)):
            asked = world.client.get("/live", headers={"X-Mailstreams-Accounts": "*", "X-Forwarded-For": source})
            assert (await stack.enter_async_context(asked)).status == expected


def test_another_address_than_this_machines_needs_a_proof() -> None:
    url = "sqlite:////nowhere"
    assert Access(settings_for(url, HISTORY__HOST="0.0.0.0")).problems()
    assert Access(settings_for(url, HISTORY__HOST="history.example.net")).problems()
    assert not Access(settings_for(url)).problems()
    assert not Access(settings_for(url, HISTORY__HOST="::1")).problems()
    assert not Access(settings_for(url, HISTORY__HOST="0.0.0.0", HISTORY__TRUSTED_PROXIES="10.0.0.1")).problems()
    assert not Access(settings_for(url, HISTORY__HOST="0.0.0.0", **KEYS)).problems()
