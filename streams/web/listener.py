"""Accepts the connections of the public port.

The rule: a connection counts from the moment that it is accepted. asyncio's own server does not report one before its
TLS handshake is done, so silent connections could use up all open files.
"""

import asyncio
import errno
import logging
import socket
import ssl
from typing import Final

from streams.web.connections import described
from streams.web.public import Connection, PublicServer

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 10.0
_BACKLOG: Final = 1024
_AGAIN_S: Final = 1.0
"""When no connection could be accepted, as with no open file left, it is tried again after this time."""


class Listener:
    """Accepts connections, and closes those above the limit at once.

    Args:
        server: makes the handler of each connection, and counts the connections.
        tls: used for new connections; ``None``: plain HTTP.
        handshake_timeout_s: a TLS handshake must be done within this time.
    """

    def __init__(
        self,
        server: PublicServer,
        *,
        tls: ssl.SSLContext | None = None,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self.tls = tls
        """Used for new connections; it may be replaced."""
        self.sockets: list[socket.socket] = []
        self._server = server
        self._handshake_timeout_s = handshake_timeout_s
        self._coming: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Listen on every address of a host, and return the port.

        Raises:
            OSError: the port is taken or not allowed.
        """
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        unknown = None
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                listening = socket.create_server(address, family=family, backlog=_BACKLOG, reuse_port=reuse_port)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # a kernel without IPv6, which may still know the name ::1
                    unknown = error
                    continue
                self._close()
                raise
            listening.setblocking(False)
            self.sockets.append(listening)
        if unknown is not None and not self.sockets:
            raise unknown
        return int(self.sockets[0].getsockname()[1])

    async def serve(self) -> None:
        """Accept connections until it is cancelled; then also drop those whose handshake is not done."""
        try:
            async with asyncio.TaskGroup() as group:
                for listening in self.sockets:
                    group.create_task(self._accept(listening))
        finally:
            self._close()
            for task in self._coming:
                task.cancel()

    def _close(self) -> None:
        for listening in self.sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except ConnectionError:  # the client has already closed it
                continue
            except OSError as error:
                logger.warning("no connection can be let in: %s", error.strerror)
                await asyncio.sleep(_AGAIN_S)
                continue
            if self._server.open_connections >= self._server.max_connections:
                accepted.close()
            else:
                task = loop.create_task(self._connect(accepted, self._server()))
                self._coming.add(task)
                task.add_done_callback(self._coming.discard)
            await asyncio.sleep(0)  # accepting waits for nothing while connections are queued, so let others run

    async def _connect(self, accepted: socket.socket, connection: Connection) -> None:
        """Begin a connection, or stop counting it if its TLS handshake fails or takes too long."""
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self.tls,
                ssl_handshake_timeout=self._handshake_timeout_s if self.tls is not None else None,
            )
        except OSError as error:  # at DEBUG, because strangers can cause it at any time
            logger.debug("a connection did not begin: %s", described(error))
        finally:
            connection.give_up()
