"""A bad network: a TCP proxy as the broker's advertised listener, which hurts a chosen request at the chosen moment.

It understands just enough of Kafka's protocol to know requests apart: a frame is
four bytes of length, then api key, version, correlation id and client id
(https://kafka.apache.org/protocol#protocol_messages). Answers pass as bytes; only
that to a late request is kept, since nobody else is there to hear it.
"""

import asyncio
import contextlib
import struct
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self

PRODUCE, FETCH, OFFSET_COMMIT, HEARTBEAT = 0, 1, 8, 12
INIT_PRODUCER_ID, ADD_PARTITIONS, END_TXN = 22, 24, 26
"""Api keys."""


class Harm(Enum):
    """What is done to a request."""

    DELAY = "held back for a while; whatever comes after it on the connection waits, too"
    LATE = "the connection is cut, and the request reaches the broker a while later all the same"
    HELD = "its sender hears nothing more, and when he has gone the request reaches the broker a while later"
    CUT_BEFORE = "the connection is cut and the broker never sees it"
    CUT_AFTER = "the broker gets it and the connection is cut before the answer"
    HALF_CLOSE = "the broker gets it, then the end of the stream; the client's half stays open and stays silent"


@dataclass
class Rule:
    """Which requests are harmed, and how."""

    api: int
    harm: Harm
    seconds: float = 0.0
    until: asyncio.Event | None = None
    """What is held back waits for this, too."""
    client: str = ""
    """Only those of clients whose id begins so."""
    skip: int = 0
    """So many that match pass first."""
    times: int = 1
    """So many are harmed, then no more."""
    done: int = 0
    victim: str = ""
    """The client whose request was harmed."""
    answer: bytes = b""
    """What the broker said to the late request, from behind the correlation id on, when ``answered``."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def over(self) -> None:
        """Wait as long as it holds back."""
        await asyncio.sleep(self.seconds)
        if self.until is not None:
            await self.until.wait()

    def hits(self, api: int, client: str) -> bool:
        """Count a request that matches; tell whether it is to be harmed."""
        if api != self.api or not client.startswith(self.client) or self.done >= self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.done += 1
        self.victim = client
        return True


class Proxy:
    """Listens on ``port`` and passes everything on to ``broker_port``, both on 127.0.0.1, but for what the rules say."""

    def __init__(self, port: int, broker_port: int) -> None:
        self.port = port
        self.rules: list[Rule] = []
        self.latency_s = 0.0
        """Added to every request."""
        self.open = asyncio.Event()
        """While it is not set nothing passes, in either direction: the network is gone, and nobody is told."""
        self.open.set()
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()
        for late in self._late:
            late.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    async def cut(self) -> None:
        """Cut every connection."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # one side is gone: so is the connection
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        silent = asyncio.Event()
        answers = asyncio.create_task(self._answers(from_broker, to_client, silent))
        requests = asyncio.create_task(self._requests(from_client, to_broker, silent))
        late: tuple[Rule, bytes] | None = None
        try:
            done, _ = await asyncio.wait({answers, requests}, return_when=asyncio.FIRST_COMPLETED)
            if requests in done and requests.exception() is None:
                late = requests.result()
        finally:
            for task in (answers, requests):
                task.cancel()
            await asyncio.gather(answers, requests, return_exceptions=True)
            if late is None:
                to_broker.close()
            else:  # the broker's half is still needed
                delivery = asyncio.create_task(self._deliver_late(*late, from_broker, to_broker))
                self._late.add(delivery)
                delivery.add_done_callback(self._late.discard)

    async def _answers(
        self, from_broker: asyncio.StreamReader, to_client: asyncio.StreamWriter, silent: asyncio.Event
    ) -> None:
        while data := await from_broker.read(1 << 16):
            await self.open.wait()
            if not silent.is_set():
                to_client.write(data)
                await to_client.drain()
        if silent.is_set():  # the broker closed its half, the client's stays
            await asyncio.Event().wait()

    async def _requests(
        self, from_client: asyncio.StreamReader, to_broker: asyncio.StreamWriter, silent: asyncio.Event
    ) -> tuple[Rule, bytes] | None:
        """Pass requests on until the connection is cut; return what is still to be delivered."""
        while True:
            head = await from_client.readexactly(4)
            body = await from_client.readexactly(struct.unpack(">i", head)[0])
            await self.open.wait()
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            rule = self._rule_for(body)
            harm = None if rule is None else rule.harm
            if rule is not None and rule.harm is Harm.DELAY:
                await rule.over()
            if rule is not None and rule.harm in {Harm.LATE, Harm.HELD}:
                if rule.harm is Harm.HELD:
                    await self._ignore(from_client)
                return rule, head + body
            if harm is Harm.CUT_BEFORE:
                return None
            if harm in {Harm.CUT_AFTER, Harm.HALF_CLOSE}:
                silent.set()
            to_broker.write(head + body)
            await to_broker.drain()
            if harm is Harm.CUT_AFTER:
                await asyncio.sleep(0.05)
                return None
            if harm is Harm.HALF_CLOSE:
                to_broker.write_eof()
                await self._ignore(from_client)
                return None

    @staticmethod
    async def _ignore(from_client: asyncio.StreamReader) -> None:
        """Let what else the client says go nowhere, until it has gone."""
        with contextlib.suppress(OSError):
            while await from_client.read(1 << 16):
                pass

    def _rule_for(self, body: bytes) -> Rule | None:
        api, _, _, length = struct.unpack_from(">hhih", body)
        client = body[10 : 10 + max(length, 0)].decode()
        return next((rule for rule in self.rules if rule.hits(api, client)), None)

    @staticmethod
    async def _deliver_late(
        rule: Rule, request: bytes, from_broker: asyncio.StreamReader, to_broker: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, EOFError):
            await rule.over()
            to_broker.write(request)
            answer = b""
            while answer[:4] != request[8:12]:  # the correlation ids: answers to what went before may come first
                [length] = struct.unpack(">i", await from_broker.readexactly(4))
                answer = await from_broker.readexactly(length)
            rule.answer = answer[4:]
            rule.answered.set()
        to_broker.close()
