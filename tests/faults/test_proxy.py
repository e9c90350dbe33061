"""The bad network does what its rules say, and nothing where there is none."""

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from deploy.local import ports
from tests.faults.proxy import END_TXN, PRODUCE, Harm, Proxy, Rule


class Echo:
    """A broker that answers each request with itself, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(4)
                body = await reader.readexactly(struct.unpack(">i", head)[0])
                self.got.append(body)
                writer.write(head + body)
        except (EOFError, OSError):
            self.ended.set()
            writer.close()


def request(api: int, client: bytes = b"me", content: bytes = b"...") -> bytes:
    """Return a request whose correlation id is how it begins, so that its echo is an answer to it."""
    body = struct.pack(">hhih", api, 0, api << 16, len(client)) + client + content
    return struct.pack(">i", len(body)) + body


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, Proxy]]:
    broker = Echo()
    at, through = ports.find(2)
    server = await asyncio.start_server(broker.serve, "127.0.0.1", at)
    async with Proxy(through, at) as proxy:
        yield broker, proxy
    server.close()


async def asked(proxy: Proxy, sent: bytes) -> tuple[bytes, asyncio.StreamWriter]:
    """Return the answer (nothing: the connection was cut) and the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(sent)
    return await reader.read(1000), writer


async def test_without_a_rule_that_fits_everything_passes(echo: tuple[Echo, Proxy]) -> None:
    broker, proxy = echo
    proxy.rules = [Rule(END_TXN, Harm.CUT_BEFORE, client="other"), Rule(PRODUCE, Harm.CUT_BEFORE, skip=1)]
    for sent in (request(END_TXN), request(PRODUCE), request(3)):
        assert (await asked(proxy, sent))[0] == sent
    assert len(broker.got) == 3


@pytest.mark.parametrize(("harm", "arrives"), [(Harm.CUT_BEFORE, False), (Harm.CUT_AFTER, True)])
async def test_a_cut_connection_has_no_answer(echo: tuple[Echo, Proxy], harm: Harm, arrives: bool) -> None:
    broker, proxy = echo
    proxy.rules = [Rule(END_TXN, harm)]
    assert (await asked(proxy, request(END_TXN)))[0] == b""
    assert bool(broker.got) is arrives
    assert (await asked(proxy, request(END_TXN)))[0] == request(END_TXN)  # a rule hits once


async def test_a_late_request_arrives_when_its_sender_is_gone(echo: tuple[Echo, Proxy]) -> None:
    broker, proxy = echo
    proxy.rules = [Rule(END_TXN, Harm.LATE, 0.2)]
    assert (await asked(proxy, request(END_TXN)))[0] == b""
    assert broker.got == []
    while not broker.got:
        await asyncio.sleep(0.01)
    assert broker.got == [request(END_TXN)[4:]]


async def test_a_held_request_arrives_when_its_sender_has_given_up(echo: tuple[Echo, Proxy]) -> None:
    broker, proxy = echo
    until = asyncio.Event()
    rule = Rule(PRODUCE, Harm.HELD, until=until)
    proxy.rules = [rule]
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(request(PRODUCE) + request(END_TXN))
    while not rule.done:
        await asyncio.sleep(0.01)
    until.set()
    await asyncio.sleep(0.1)
    assert broker.got == []
    writer.close()
    async with asyncio.timeout(10):
        await rule.answered.wait()
    assert broker.got == [request(PRODUCE)[4:]]
    assert rule.answer == request(PRODUCE)[8:]
    assert rule.victim == "me"


async def test_a_half_closed_connection_says_nothing_and_stays_open(echo: tuple[Echo, Proxy]) -> None:
    broker, proxy = echo
    proxy.rules = [Rule(END_TXN, Harm.HALF_CLOSE)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await asked(proxy, request(END_TXN))
    assert len(broker.got) == 1
    assert broker.ended.is_set()


async def test_a_delay_holds_back_what_comes_after_it(echo: tuple[Echo, Proxy]) -> None:
    broker, proxy = echo
    proxy.rules = [Rule(END_TXN, Harm.DELAY, 0.2)]
    answer, _ = await asked(proxy, request(END_TXN) + request(PRODUCE))
    assert answer.startswith(request(END_TXN))
    while len(broker.got) < 2:
        await asyncio.sleep(0.01)


async def test_a_network_that_is_gone_passes_nothing_until_it_is_back(echo: tuple[Echo, Proxy]) -> None:
    broker, proxy = echo
    proxy.open.clear()
    asking = asyncio.create_task(asked(proxy, request(PRODUCE)))
    await asyncio.sleep(0.1)
    assert broker.got == []
    proxy.open.set()
    assert (await asking)[0] == request(PRODUCE)
