"""A bad network: a TCP proxy as the broker's advertised listener, which hurts a chosen request at the chosen moment.

It understands just enough of Kafka's protocol to know requests apart: a frame is
four bytes of length, then api key, version, correlation id and client id
(https://kafka.apache.org/protocol#protocol_messages). Answers pass as bytes.
"""

import asyncio
import contextlib
import struct
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

PRODUCE, FETCH, OFFSET_COMMIT, HEARTBEAT = 0, 1, 8, 12
INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 22, 24, 25, 26, 28
"""Api keys."""


class Harm(Enum):
    """What is done to a request."""

    DELAY = "held back for a while; whatever comes after it on the connection waits, too"
    LATE = "the connection is cut, and the request reaches the broker a while later all the same"
    CUT_BEFORE = "the connection is cut and the broker never sees it"
    CUT_AFTER = "the broker gets it and the connection is cut before the answer"
    HALF_CLOSE = "the broker gets it, then the end of the stream; the client's half stays open and stays silent"


@dataclass
class Rule:
    """Which requests are harmed, and how."""

    api: int
    harm: Harm
    seconds: float = 0.0
    client: str = ""
    """Only those of clients whose id begins so."""
    skip: int = 0
    """So many that match pass first."""
    times: int = 1
    """So many are harmed, then no more."""
    done: int = 0

    def hits(self, api: int, client: str) -> bool:
        """Count a request that matches; tell whether it is to be harmed."""
        if api != self.api or not client.startswith(self.client) or self.done >= self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.done += 1
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
        kept = False
        try:
            done, _ = await asyncio.wait({answers, requests}, return_when=asyncio.FIRST_COMPLETED)
            kept = requests in done and requests.exception() is None and requests.result()
        finally:
            for task in (answers, requests):
                task.cancel()
            await asyncio.gather(answers, requests, return_exceptions=True)
            if not kept:
                to_broker.close()

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
    ) -> bool:
        """Pass requests on until the connection is cut; return True if the broker's half is still needed."""
        while True:
            head = await from_client.readexactly(4)
            body = await from_client.readexactly(struct.unpack(">i", head)[0])
            await self.open.wait()
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            rule = self._rule_for(body)
            harm = None if rule is None else rule.harm
            if rule is not None and rule.harm is Harm.DELAY:
                await asyncio.sleep(rule.seconds)
            if rule is not None and rule.harm is Harm.LATE:
                late = asyncio.create_task(self._deliver_late(to_broker, head + body, rule.seconds))
                self._late.add(late)
                late.add_done_callback(self._late.discard)
                return True
            if harm is Harm.CUT_BEFORE:
                return False
            if harm in {Harm.CUT_AFTER, Harm.HALF_CLOSE}:
                silent.set()
            to_broker.write(head + body)
            await to_broker.drain()
            if harm is Harm.CUT_AFTER:
                await asyncio.sleep(0.05)
                return False
            if harm is Harm.HALF_CLOSE:
                to_broker.write_eof()
                while await from_client.read(1 << 16):
                    pass  # what else the client says goes nowhere
                return False

    def _rule_for(self, body: bytes) -> Rule | None:
        api, _, _, length = struct.unpack_from(">hhih", body)
        client = body[10 : 10 + max(length, 0)].decode()
        return next((rule for rule in self.rules if rule.hits(api, client)), None)

    @staticmethod
    async def _deliver_late(to_broker: asyncio.StreamWriter, request: bytes, seconds: float) -> None:
        with contextlib.suppress(OSError):
            await asyncio.sleep(seconds)
            to_broker.write(request)
            await to_broker.drain()
            await asyncio.sleep(1)
            to_broker.close()
