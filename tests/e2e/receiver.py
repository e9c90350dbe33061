"""Whom Alertmanager tells, on loopback: it keeps every notification."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deploy.local import ports


@dataclass(frozen=True, slots=True)
class Told:
    """One alert of a notification."""

    at: float
    """When it came, Unix time."""
    receiver: str
    """Alertmanager's name of whom it told."""
    status: str
    """firing, resolved"""
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels["alertname"]


@dataclass(slots=True)
class Receiver:
    """What came so far."""

    url: str
    told: list[Told] = field(default_factory=list)

    def of(self, name: str, *, since: float = 0) -> list[Told]:
        """Return what was told of an alert after a Unix time."""
        return [one for one in self.told if one.name == name and one.at >= since]

    def wait(
        self, name: str, status: str, *, since: float, timeout_s: float, meanwhile: Callable[[], None] = lambda: None
    ) -> Told:
        """Wait for an alert after a Unix time, and return its first notification."""
        deadline = time.monotonic() + timeout_s
        while not (found := [one for one in self.of(name, since=since) if one.status == status]):
            assert time.monotonic() < deadline, f"{name} is not {status}; told: {self.told}"
            meanwhile()
            time.sleep(0.1)
        return found[0]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Give a receiver that listens."""
    found = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            now = time.time()
            found.told += [
                Told(now, body["receiver"], alert["status"], alert["labels"], alert["annotations"])
                for alert in body["alerts"]
            ]
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has there
            pass

    server = ThreadingHTTPServer((ports.HOST, 0), Handler)
    found.url = f"http://{ports.HOST}:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
