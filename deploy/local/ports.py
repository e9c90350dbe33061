"""Ports that are free, below the range from which the system gives ports to outgoing connections.

A port of that range (32768 and above on Linux) may be free now and taken by any connection a moment later.
"""

import contextlib
import random
import socket
import time

from deploy.local import LocalError

__all__ = ["HOST", "check", "find"]

HOST = "127.0.0.1"
LOWEST = 1024
LOWEST_FOUND = 15000  # what people choose by hand is mostly below
HIGHEST = 32767
PATIENCE_S = 2.0


def check(port: int, setting: str) -> None:
    """Make sure that nothing listens on a port.

    The last threads of a process can hold its sockets for a moment after it counts as ended, so a port that is in use
    is tried again for a moment.

    Raises:
        LocalError: it is in use or out of range; the text names the port and the setting that changes it.
    """
    if not LOWEST <= port <= HIGHEST:
        message = f"{setting}={port}: choose a port from {LOWEST} to {HIGHEST}"
        raise LocalError(message)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            _bind(port).close()
        except OSError as error:
            if time.monotonic() > deadline:
                message = f"port {port} is not free ({error.strerror}): choose another by {setting}=<port>"
                raise LocalError(message) from None
            time.sleep(0.05)
        else:
            return


def find(count: int) -> list[int]:
    """Return ports that were all free at the same moment.

    Raises:
        LocalError: there are not this many free ports.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:  # held until all are found, so that they differ
        candidates = range(LOWEST_FOUND, HIGHEST + 1)
        # At random, so that two sessions that search at the same time seldom find the same ports.
        for port in random.SystemRandom().sample(candidates, len(candidates)):
            if len(found) == count:
                return found
            with contextlib.suppress(OSError):
                held.enter_context(_bind(port))
                found.append(port)
    message = f"no {count} free ports from {LOWEST_FOUND} to {HIGHEST} on {HOST}"
    raise LocalError(message)


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As Kafka and aiohttp do: connections that a former server closed do not block the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener
