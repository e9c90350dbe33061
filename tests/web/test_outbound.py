"""What the ingress fetches of its own: the public internet only, little and quickly. And the certificates it keeps."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from streams.web import outbound
from streams.web.certificates import FORGET_FAILURE_S, KEEP_S, KEEP_STALE_S, MOST, Certificates
from streams.web.outbound import FetchError, GuardedClient, is_public
from tests.providers import signing
from tests.web.edge import Listener, self_signed


class Leads(AbstractResolver):
    """Every name leads to these addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "ff02::1",
        "not an address",
    ],
)
def test_these_addresses_are_not_spoken_to(address: str) -> None:
    assert not is_public(address)


def test_those_of_the_public_internet_are() -> None:
    assert is_public("52.95.110.1")
    assert is_public("2a05:d018::1")
    assert is_public("64:ff9b::345f:6e01")


@given(st.ip_addresses(v=4))
def test_an_old_address_in_new_clothes_is_judged_as_the_old_one(address: object) -> None:
    assert is_public(f"::ffff:{address}") == is_public(str(address))
    if ip_address(str(address)).is_private:
        assert not is_public(str(address))


async def test_a_name_that_leads_inside_is_not_spoken_to(listener: Listener) -> None:
    for addresses in (("127.0.0.1",), ("::1",), ("52.95.110.1", "127.0.0.1"), ()):
        client = GuardedClient(resolver=Leads(*addresses))
        with pytest.raises(FetchError):
            await client.get(f"https://sns.eu-west-1.amazonaws.com:{listener.port}/x.pem")
        await client.close()
    assert listener.connections() == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-west-1.amazonaws.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://u:p@host/x",
        "https:///x",
    ],
)
async def test_only_https_and_names_are_spoken_to(url: str) -> None:
    client = GuardedClient(resolver=Leads("127.0.0.1"))
    with pytest.raises((FetchError, ValueError)):
        await client.get(url)
    await client.close()


@pytest.fixture
async def amazon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[GuardedClient, int, Listener]]:
    """A server with a certificate for a name, and a client that trusts it and may speak to this machine."""
    pem = self_signed(tmp_path / "server.pem", "sns.test")
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(pem)
    inside = Listener()

    async def answer(request: web.Request) -> web.StreamResponse:
        what = request.path.strip("/")
        if what == "redirect":
            raise web.HTTPFound(f"http://127.0.0.1:{inside.port}/")
        if what == "slow":
            await asyncio.sleep(5)
        if what == "missing":
            raise web.HTTPNotFound(text="secret-of-theirs")
        return web.Response(body=b"x" * (outbound.MAX_ANSWER_BYTES + 1 if what == "large" else 10))

    app = web.Application()
    app.router.add_get("/{what}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=theirs)
    await site.start()
    monkeypatch.setattr(outbound, "is_public", lambda _address: True)
    client = GuardedClient(resolver=Leads("127.0.0.1"), tls=ssl.create_default_context(cafile=str(pem)), timeout_s=1)
    yield client, runner.addresses[0][1], inside
    await client.close()
    await runner.cleanup()
    inside.close()


async def test_a_small_answer_is_returned_and_nothing_else(amazon: tuple[GuardedClient, int, Listener]) -> None:
    client, port, inside = amazon

    assert await client.get(f"https://sns.test:{port}/good") == b"x" * 10
    for what in ("redirect", "slow", "missing", "large"):
        with pytest.raises(FetchError) as caught:
            await client.get(f"https://sns.test:{port}/{what}?Token=secret-of-ours")
        assert "secret" not in str(caught.value)
    with pytest.raises(FetchError):
        await client.get(f"https://other.test:{port}/good")  # the certificate is for another name
    assert inside.connections() == 0


# --- certificates ---

URL = signing.CERTIFICATE_URL


class Server:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = False

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        await asyncio.sleep(0.01)
        if self.fails:
            message = "away"
            raise FetchError(message)
        return pem(url)


def pem(text: str) -> bytes:
    return f"-----BEGIN CERTIFICATE-----\n{text}".encode()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_certificate_is_fetched_once_however_many_ask_for_it() -> None:
    server = Server()
    certificates = Certificates(server.fetch)

    found = await asyncio.gather(*(certificates.get(URL) for _ in range(20)))

    assert set(found) == {pem(URL)}
    assert await certificates.get(URL) == pem(URL)
    assert server.asked == [URL]


async def test_a_failure_is_remembered_for_a_while_and_then_tried_again() -> None:
    server, now = Server(), 1000.0
    certificates = Certificates(server.fetch, clock=lambda: now)
    server.fails = True
    for _ in range(3):
        with pytest.raises(FetchError):
            await certificates.get(URL)
    assert len(server.asked) == 1
    server.fails, now = False, 1031.0
    assert await certificates.get(URL) == pem(URL)


async def test_failures_never_push_a_good_certificate_out_and_cost_so_many_downloads_a_minute() -> None:
    server, now = Server(), 1000.0
    certificates = Certificates(server.fetch, clock=lambda: now)
    await certificates.get(URL)
    server.fails = True
    for number in range(500):
        with pytest.raises(FetchError):
            await certificates.get(f"{URL}{number}.pem")
    assert len(server.asked) == 30
    assert await certificates.get(URL) == pem(URL)
    assert len(certificates._failed) <= MOST


async def flood(certificates: Certificates, clock: Clock, minutes: int) -> None:
    """Ask for made-up addresses, as who knows a topic's ARN can make us, each minute more than we download in one."""
    for number in range(minutes * 100):
        clock.now += 0.6
        with contextlib.suppress(FetchError):
            await certificates.get(f"{URL}{number}.pem")


async def test_strangers_cannot_push_a_proven_certificate_out_nor_use_up_its_downloads() -> None:
    server, clock = Server(), Clock()
    certificates = Certificates(server.fetch, clock=clock)
    await certificates.get(URL)
    certificates.proved(URL)

    await flood(certificates, clock, 2)  # of addresses that do lead to certificates, more than are kept
    server.asked.clear()
    assert await certificates.get(URL) == pem(URL)
    assert server.asked == []

    clock.now += KEEP_STALE_S
    await flood(certificates, clock, 2)
    assert await certificates.get(URL) == pem(URL)
    assert server.asked[-1] == URL


async def test_the_downloads_of_proven_addresses_have_a_limit_too() -> None:
    server, clock = Server(), Clock()
    certificates = Certificates(server.fetch, clock=clock)
    for number in range(20):
        await certificates.get(f"{URL}{number}.pem")
        certificates.proved(f"{URL}{number}.pem")
    server.asked.clear()
    clock.now += KEEP_STALE_S

    for number in range(20):
        with contextlib.suppress(FetchError):
            await certificates.get(f"{URL}{number}.pem")

    assert len(server.asked) == 10


async def test_while_no_newer_copy_can_be_had_the_old_certificate_is_used_for_a_week() -> None:
    server, clock = Server(), Clock()
    certificates = Certificates(server.fetch, clock=clock)
    await certificates.get(URL)
    server.fails = True
    clock.now += KEEP_S

    for _ in range(3):
        assert await certificates.get(URL) == pem(URL)  # at once, and a newer copy is asked for beside it
        await asyncio.sleep(0.02)
    assert server.asked == [URL] * 2

    clock.now += FORGET_FAILURE_S
    server.fails = False
    assert await certificates.get(URL) == pem(URL)
    await asyncio.sleep(0.02)
    assert server.asked == [URL] * 3
    assert await certificates.get(URL) == pem(URL)
    assert server.asked == [URL] * 3  # the newer copy is kept

    clock.now += KEEP_STALE_S
    server.fails = True
    with pytest.raises(FetchError):
        await certificates.get(URL)


async def test_an_error_page_is_no_certificate_and_pushes_none_out() -> None:
    pages = [pem("first"), b"<html>we are sorry</html>"]
    clock = Clock()

    async def fetch(_url: str) -> bytes:
        return pages.pop(0)

    certificates = Certificates(fetch, clock=clock)
    await certificates.get(URL)
    clock.now += KEEP_S
    for _ in range(2):
        assert await certificates.get(URL) == pem("first")
        await asyncio.sleep(0)
    assert not pages


async def test_the_folder_is_looked_at_first_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "certificates").mkdir()
    kept = self_signed(tmp_path / "certificates" / URL.rpartition("/")[2], "sns.amazonaws.com").read_bytes()
    (tmp_path / "outside.pem").write_bytes(b"outside")
    server = Server()
    certificates = Certificates(server.fetch, folder=tmp_path / "certificates")

    assert await certificates.get(URL) == kept
    assert await certificates.get("https://sns.eu-west-1.amazonaws.com/../outside.pem") != b"outside"


@pytest.mark.parametrize("content", ["empty", "half", "page"])
async def test_a_file_of_the_folder_that_holds_no_certificate_is_passed_over(tmp_path: Path, content: str) -> None:
    file = tmp_path / URL.rpartition("/")[2]
    whole = signing.certificate()
    file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "page": b"<html>we are sorry</html>"}[content])
    clock, server = Clock(), Server()
    certificates = Certificates(server.fetch, folder=tmp_path, clock=clock)

    assert await certificates.get(URL) == pem(URL)

    server.fails = True
    clock.now += KEEP_STALE_S
    with pytest.raises(FetchError, match=r"its file in ingress\.certificates_dir holds none$"):
        await certificates.get(URL)
    file.write_bytes(whole)
    assert await certificates.get(URL) == whole
