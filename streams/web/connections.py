"""Connections that never quote what they received: aiohttp's, made silent; and that end where nothing is taken.

The rule: what arrived on a connection is neither logged nor sent back. aiohttp quotes a line that is not HTTP in its
answer and in its log, with any key or address in it.
"""

import asyncio
import logging
import socket
from typing import Any, Final

from aiohttp import web

logger = logging.getLogger(__name__)

SERVER: Final = "mailstreams"
UNTAKEN_S: Final = 30.0
"""A connection whose other end takes nothing of an answer for this long is closed: the rest of the answer waits here."""


def described(error: BaseException) -> str:
    """Return the type of an error and where it arose, without its text, which may hold what was received."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "nowhere"
    return f"{type(error).__name__} at {place}"


class SilentConnection(web.RequestHandler):
    """One connection like aiohttp's, but it never quotes what it received."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the system close the connection if what is sent is not taken; elsewhere than on Linux it cannot."""
        super().connection_made(transport)
        option, found = getattr(socket, "TCP_USER_TIMEOUT", None), transport.get_extra_info("socket")
        if option is not None and found is not None:
            found.setsockopt(socket.IPPROTO_TCP, option, round(UNTAKEN_S * 1000))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP, and quote it neither in the answer nor in a log line."""
        del request, exc, message
        answer = web.Response(status=status, text="broken\n", headers={"Server": SERVER})
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log a connection's failure without the error's text, which may hold what was received."""
        del args
        error = kw.get("exc_info")
        logger.debug("a connection ended: %s", described(error) if isinstance(error, BaseException) else "")


class _Server(web.Server):
    """The protocol factory of an application."""

    def __init__(self, made: web.Server, options: dict[str, Any]) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
        )
        self._options = options

    def __call__(self) -> web.RequestHandler:
        """Return the handler of a new connection."""
        return SilentConnection(self, loop=asyncio.get_running_loop(), **self._options)


class SilentRunner(web.AppRunner):
    """Runs an application on silent connections; it has no access log.

    Args:
        app: What answers.
        shutdown_timeout: Seconds that requests in work have to end.
        handler_cancellation: Whether a request is given up when its connection is lost.
        options: Those of ``web.RequestHandler``.
    """

    __slots__ = ("_options",)

    def __init__(
        self, app: web.Application, *, shutdown_timeout: float, handler_cancellation: bool, **options: Any
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout, handler_cancellation=handler_cancellation)
        self._options = {"access_log": None, **options}

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self._options)
