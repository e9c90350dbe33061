"""The image's check of its health: content with whichever of the three processes runs in the container."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deploy.healthcheck import PORTS
from deploy.local import ROOT, ports
from streams.settings import Settings, load

FILE = ROOT / "deploy" / "healthcheck.py"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


@contextmanager
def answering(port: int, code: int) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.shutdown()
        thread.join()


def code_of(environment: dict[str, str]) -> int:
    return subprocess.run([sys.executable, FILE], env=os.environ | environment, check=False).returncode


@pytest.mark.parametrize("variable", PORTS)
def test_one_process_that_is_live_is_enough_whichever_it_is(variable: str) -> None:
    environment = dict(zip(PORTS, map(str, ports.find(3)), strict=True))

    with answering(int(environment[variable]), 200):
        alone = code_of(environment)
    with answering(int(environment[variable]), 503):
        hung = code_of(environment)

    assert (alone, hung, code_of(environment)) == (0, 1, 1)


def test_a_proxy_of_the_environment_is_not_asked() -> None:
    live, proxy, dead = ports.find(3)
    through = {"http_proxy": f"http://127.0.0.1:{proxy}", "no_proxy": ""}
    first, *others = PORTS
    nobody = dict.fromkeys(others, str(dead))

    with answering(live, 200):
        assert code_of({**nobody, first: str(live), **through}) == 0
    with answering(proxy, 200):
        assert code_of({**nobody, first: str(dead), **through}) == 1


def test_it_asks_at_the_ports_that_the_settings_have_by_default() -> None:
    def asked(settings: Settings) -> tuple[int, ...]:
        return settings.web.port, settings.ingress.admin_port, settings.history.admin_port

    assert asked(Settings()) == tuple(PORTS.values())
    assert asked(load(None, {**dict(zip(PORTS, "123", strict=True)), "MAILSTREAMS_CONFIG": os.devnull})) == (1, 2, 3)


def test_the_image_has_it_and_runs_it() -> None:
    assert "COPY deploy/healthcheck.py /opt/mailstreams/healthcheck.py\n" in DOCKERFILE
    assert "chmod 0644 /opt/mailstreams/healthcheck.py" in DOCKERFILE
    assert 'CMD ["python", "/opt/mailstreams/healthcheck.py"]\n' in DOCKERFILE
    assert "!deploy/healthcheck.py\n" in (ROOT / ".dockerignore").read_text()
