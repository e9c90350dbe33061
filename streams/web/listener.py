"""Where connections of the public port come in.

The rule: a connection counts from the moment that it is accepted. asyncio's own server says nothing of one before its
TLS handshake is done, so silent ones could use up all open files.
"""

import asyncio
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
"""After so long it is tried again whether there is a file for a connection."""


class Listener:
    """Lets connections in, and closes at once those that are too many.

    Args:
        server: what they are connected to.
        tls: of the public port; ``None``: it speaks plain HTTP.
        handshake_timeout_s: a TLS handshake must be done within so long.
    """

    def __init__(
        self,
        server: PublicServer,
        *,
        tls: ssl.SSLContext | None = None,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self.tls = tls
        """Of the connections to come; it may be replaced by another."""
        self.sockets: list[socket.socket] = []
        self._server = server
        self._handshake_timeout_s = handshake_timeout_s
        self._coming: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Listen at every address of a host, and return the port.

        Raises:
            OSError: the port is taken or not allowed.
        """
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                self.sockets.append(
                    socket.create_server(address, family=family, backlog=_BACKLOG, reuse_port=reuse_port)
                )
                self.sockets[-1].setblocking(False)
        except OSError:
            self._close()
            raise
        return int(self.sockets[0].getsockname()[1])

    async def serve(self) -> None:
        """Let connections in until it is cancelled; then no more, nor those whose handshake is not done."""
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
            except ConnectionError:  # it has gone again
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
            await asyncio.sleep(0)  # while there are connections, accepting them waits for nothing

    async def _connect(self, accepted: socket.socket, connection: Connection) -> None:
        """Begin a connection, or give its place back where its TLS handshake fails or takes too long."""
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self.tls,
                ssl_handshake_timeout=self._handshake_timeout_s if self.tls is not None else None,
            )
        except OSError as error:  # as strangers make it happen all the time
            logger.debug("a connection did not begin: %s", described(error))
        finally:
            connection.give_up()
