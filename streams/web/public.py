"""The public port: connections that hold little, and not for long, before and after a request is answered.

The rule: whatever a stranger can make a connection hold is bounded in bytes and in time, and so is the number of
connections. What a request may use that is being answered, ``limits`` bounds.
"""

import asyncio
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.http_parser import RawRequestMessage

from streams.web.connections import SERVER, SilentConnection
from streams.web.ingress import HEAD_TOO_LARGE, Ingress

MAX_HEAD_BYTES: Final = 16_384
"""Of a request line and its headers together: providers send less than 2 KB, proxies add as much. With
``ingress.max_connections`` it bounds what connections hold that have not asked anything yet."""


class Connection(SilentConnection):
    """One connection of the public port: silent about what it was sent, and bounded.

    What a stranger can make it hold before we look at a request is bounded in bytes and in time, for the first request
    and for each that follows: aiohttp bounds a head's lines, which together could be half a megabyte, and the time for
    none of them.

    It does not wait for a client that does not read. While an answer cannot be written no other timer runs, and a
    closed transport too lives on until its last byte is read: both times it is cut after a while, else a few clients
    could hold all connections for as long as they like.
    """

    __slots__ = ("_content", "_counted_by", "_head_bytes", "_head_timer", "_unread_timer", "_wire", "head_too_large")

    def __init__(self, manager: "PublicServer", **options: Any) -> None:
        super().__init__(manager, **options)
        manager.open_connections += 1
        self._counted_by: PublicServer | None = manager
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None  # aiohttp forgets its own once it is closing
        self._content: StreamReader | None = None  # the body of the request that is answered
        self._head_bytes = 0
        self.head_too_large = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a silent connection is closed before long."""
        super().connection_made(transport)
        self._wire = self.transport
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._leave()
        self._wire = None
        self._stop_head_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Give its place back where it has not begun and never will; else its end does."""
        if self._wire is None:
            self._leave()

    def _leave(self) -> None:
        if self._counted_by is not None:
            self._counted_by.open_connections -= 1
            self._counted_by = None

    def data_received(self, data: bytes) -> None:
        """Take bytes: of a body, or of a head, whose bytes are counted."""
        body = self._content if self._content is not None and not self._content.is_eof() else None
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:  # a head has ended, perhaps in the read that brought the end of a body
            self._head_ended(body)
        elif body is None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()
            elif data and self._head_timer is None:
                self._start_head_timer()

    def _head_ended(self, body: StreamReader | None) -> None:
        """Judge a head by its own size: what else came with it is its body or the next request, and is not counted."""
        self._stop_head_timer()
        self._head_bytes = 0
        message, self._content = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self.head_too_large = self.head_too_large or _head_bytes(message) > MAX_HEAD_BYTES
        elif body is not None and not body.is_eof():
            # no head but an error in this body; aiohttp keeps it until the request is answered that waits for the body
            body.set_exception(web.RequestPayloadError())

    def pause_writing(self) -> None:
        """Write no more for now: the client does not read. It has some time to."""
        super().pause_writing()
        self._start_unread_timer()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        if self._wire is None or not self._wire.is_closing():
            self._stop_unread_timer()
        super().resume_writing()

    async def start(self) -> None:
        """Answer one request after the other; then what is still unread has some time to be read."""
        try:
            await super().start()
        finally:
            self._start_unread_timer()

    def force_close(self) -> None:
        """Close, once what was answered is read or its time is over."""
        super().force_close()
        self._start_unread_timer()

    def _start_unread_timer(self) -> None:
        """Cut the connection in a while; the first such while counts."""
        manager = self._manager
        if self._unread_timer is None and self._wire is not None and isinstance(manager, PublicServer):
            self._unread_timer = asyncio.get_running_loop().call_later(manager.unread_timeout_s, self._wire.abort)

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Count what is no HTTP, and answer without quoting it."""
        if isinstance(self._manager, PublicServer):
            self._manager.told_broken()
        return super().handle_error(request, status, exc, message)

    def _refuse_head(self) -> None:
        """Say that a head is too large before it ends, and close."""
        manager = self._manager
        if isinstance(manager, PublicServer):
            manager.told_broken(HEAD_TOO_LARGE)
        if self._wire is not None and self._current_request is None:  # else this would stand within its answer
            self._wire.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\r\n")
        self.force_close()

    def _start_head_timer(self) -> None:
        manager = self._manager
        assert isinstance(manager, PublicServer)
        self._head_timer = asyncio.get_running_loop().call_later(manager.head_timeout_s, self._close_if_silent)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_if_silent(self) -> None:
        self._head_timer = None
        if self._current_request is None:
            self.force_close()
        else:  # what is half there was sent too early: its time begins when its turn comes
            self._start_head_timer()


class PublicServer(web.Server):
    """The protocol factory of the public port.

    Args:
        ingress: what answers.
        head_timeout_s: a request's head must come within so long of its first byte, the first one's of the connection.
        keepalive_timeout_s: an idle connection is closed after so long.
        max_connections: who accepts further ones is to close them at once.
    """

    def __init__(
        self, ingress: Ingress, *, head_timeout_s: float, keepalive_timeout_s: float, max_connections: int
    ) -> None:
        super().__init__(self._handle, request_factory=None)
        self.head_timeout_s = head_timeout_s
        self.unread_timeout_s = ingress.limits.read_timeout_s
        self.max_connections = max_connections
        self.open_connections = 0
        self._ingress = ingress
        self._connection_options: dict[str, Any] = {
            "keepalive_timeout": keepalive_timeout_s,
            "access_log": None,
            "auto_decompress": False,  # ours stops at the limit
            "max_line_size": 4096,
            "max_field_size": 8190,
            "max_headers": 64,
            "lingering_time": 1.0,  # so that a refused client gets to read its answer
        }

    def __call__(self) -> Connection:
        """Return the handler of a new connection, which counts from now on."""
        return Connection(self, loop=asyncio.get_running_loop(), **self._connection_options)

    def told_broken(self, code: int = 400) -> None:
        """Count a request that is no HTTP, or whose head is too large."""
        self._ingress.count_broken(code)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, Connection) and request.protocol.head_too_large:
            self.told_broken(HEAD_TOO_LARGE)
            answer = web.Response(status=HEAD_TOO_LARGE, text="head_too_large\n", headers={"Server": SERVER})
            answer.force_close()
            return answer
        return await self._ingress.handle(request)


def _head_bytes(message: RawRequestMessage) -> int:
    return len(message.path) + sum(len(name) + len(text) + 4 for name, text in message.raw_headers)
