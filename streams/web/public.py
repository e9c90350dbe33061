"""The public port: connections that hold little, and not for long, before and after a request is answered.

The rule: whatever a stranger can make a connection hold is bounded in bytes and in time, and so is the number of
connections. ``limits`` bounds what a request may use while it is answered.
"""

import asyncio
from itertools import islice
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage

from streams.web.connections import SERVER, SilentConnection
from streams.web.ingress import HEAD_TOO_LARGE, Ingress

MAX_HEAD_BYTES: Final = 16_384
"""A request line and its headers together: providers send less than 2 KB, proxies add as much. With
``ingress.max_connections`` it bounds the memory of connections that have not sent a whole head yet."""


class Connection(SilentConnection):
    """One connection of the public port: it never quotes what it received, and is bounded.

    What a stranger can make it hold before we look at a request is bounded in bytes and in time, for the first request
    and for each that follows: aiohttp bounds the lines of a head, which together could be a megabyte, but the time for
    none of them.

    It does not wait for a client that does not read. While an answer cannot be written no other timer runs, and even a
    closed transport lives until its last byte is read: in both cases the connection is cut after a while, else a few
    clients could hold all connections for as long as they like.
    """

    __slots__ = ("_content", "_counted_by", "_head_bytes", "_head_timer", "_unread_timer", "_wire", "head_too_large")

    def __init__(self, manager: "PublicServer", **options: Any) -> None:
        super().__init__(manager, **options)
        manager.open_connections += 1
        self._counted_by: PublicServer | None = manager
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None  # aiohttp forgets its own once it is closing
        self._content: StreamReader | None = None  # the body of the request that is being answered
        self._head_bytes = 0
        self.head_too_large = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a silent connection is closed after ``head_timeout_s``."""
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
        """Stop counting a connection that never began; for others ``connection_lost`` does so."""
        if self._wire is None:
            self._leave()

    def _leave(self) -> None:
        if self._counted_by is not None:
            self._counted_by.open_connections -= 1
            self._counted_by = None

    def data_received(self, data: bytes) -> None:
        """Take bytes of a body, or of a head; those of a head are counted."""
        body = self._content if self._content is not None and not self._content.is_eof() else None
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:  # a head has ended, perhaps in the same read as the end of a body
            self._heads_ended(self._request_count - heads, body)
        elif body is None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()
            elif data and self._head_timer is None:
                self._start_head_timer()

    def _heads_ended(self, count: int, body: StreamReader | None) -> None:
        """Check each head by its own size: other bytes of its reads belong to bodies or the next request, and do not count."""
        self._stop_head_timer()
        self._head_bytes = 0
        message, self._content = self._messages[-1]
        ended = [head for head, _ in islice(reversed(self._messages), count) if isinstance(head, RawRequestMessage)]
        self.head_too_large = self.head_too_large or any(_head_bytes(head) > MAX_HEAD_BYTES for head in ended)
        if not isinstance(message, RawRequestMessage) and body is not None and not body.is_eof():
            # not a head but an error in this body, which aiohttp holds back until the body's own request is answered
            body.set_exception(web.RequestPayloadError())

    def pause_writing(self) -> None:
        """Write no more for now: the client does not read. It gets ``unread_timeout_s`` to do so."""
        super().pause_writing()
        self._start_unread_timer()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        if self._wire is None or not self._wire.is_closing():
            self._stop_unread_timer()
        super().resume_writing()

    async def start(self) -> None:
        """Answer one request after the other; then give the client some time to read the rest."""
        try:
            await super().start()
        finally:
            self._start_unread_timer()

    def force_close(self) -> None:
        """Close once the client has read the answers or its time is over."""
        super().force_close()
        self._start_unread_timer()

    def _start_unread_timer(self) -> None:
        """Cut the connection after ``unread_timeout_s``; a timer that is running is not restarted."""
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
        """Count a request that is not HTTP, or that has too long a line, and answer without quoting it."""
        too_large = isinstance(exc, LineTooLong)
        if isinstance(self._manager, PublicServer):
            self._manager.count_broken(HEAD_TOO_LARGE if too_large else 400)
        return _head_too_large() if too_large else super().handle_error(request, status, exc, message)

    def _refuse_head(self) -> None:
        """Answer that a head is too large before it ends, and close."""
        manager = self._manager
        if isinstance(manager, PublicServer):
            manager.count_broken(HEAD_TOO_LARGE)
        if self._wire is not None and self._current_request is None:  # else this would be in the middle of its answer
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
        else:  # this partial head was sent too early: its time begins when its turn comes
            self._start_head_timer()


class PublicServer(web.Server):
    """The protocol factory of the public port.

    Args:
        ingress: what answers.
        head_timeout_s: time for a head from its first byte, or for the first head from the start of the connection.
        keepalive_timeout_s: an idle connection is closed after this time.
        max_connections: the caller that accepts connections closes further ones at once.
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
            "auto_decompress": False,  # our own stops at the limit
            "max_line_size": MAX_HEAD_BYTES,
            "max_field_size": MAX_HEAD_BYTES,
            "max_headers": 64,
            "lingering_time": 1.0,  # so that a refused client gets to read its answer
        }

    def __call__(self) -> Connection:
        """Return the handler of a new connection, which is counted from now on."""
        return Connection(self, loop=asyncio.get_running_loop(), **self._connection_options)

    def count_broken(self, code: int) -> None:
        """Count a request that is not HTTP, or whose head is too large."""
        self._ingress.count_broken(code)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, Connection) and request.protocol.head_too_large:
            self.count_broken(HEAD_TOO_LARGE)
            return _head_too_large()
        return await self._ingress.handle(request)


def _head_too_large() -> web.Response:
    answer = web.Response(status=HEAD_TOO_LARGE, text="head_too_large\n", headers={"Server": SERVER})
    answer.force_close()
    return answer


def _head_bytes(message: RawRequestMessage) -> int:
    return len(message.path) + sum(len(name) + len(text) + 4 for name, text in message.raw_headers)
