"""How many signed webhooks one ingress takes, beside a bare aiohttp handler that only reads the body.

Both servers are pinned to one core where the machine has two, the sender and the
broker run on the other. Requests are signed beforehand; the sender keeps a fixed
number of connections busy.

Run a bare server: ``python -m bench.ingress PORT``.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from aiohttp import web

from bench.traffic import bodies_of
from deploy.local import ports
from deploy.local.broker import Broker
from streams import codecs, topics
from streams.settings import load
from streams.simulate import signing

CONNECTIONS = 32
ACCOUNT = "bench"


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one run of requests."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


def measure(seconds: float = 5.0) -> dict[str, float]:
    """Return the figures of ``make bench`` that are about the ingress."""
    secrets = signing.draw()
    single = _requests(secrets, bodies_of(1, 2_000, 1))
    batched = _requests(secrets, bodies_of(2, 300, 100))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="mailstreams-bench-") as folder, Broker(Path(folder) / "kafka") as broker:
        port, admin = ports.find(2)
        environment = {
            "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
            "MAILSTREAMS_TOPICS__PARTITIONS": "4",
            "MAILSTREAMS_INGRESS__PORT": str(port),
            "MAILSTREAMS_INGRESS__ADMIN_PORT": str(admin),
            "MAILSTREAMS_INGRESS__RATE_PER_S": "1000000",
            "MAILSTREAMS_INGRESS__RATE_BURST": "1000000",
            "MAILSTREAMS_WORKER__LOG_LEVEL": "warning",
            f"MAILSTREAMS_ACCOUNTS__{ACCOUNT.upper()}__WEBHOOKS__SENDGRID__SECRETS__BENCH": secrets.for_ingress()[
                "sendgrid"
            ],
        }
        asyncio.run(topics.create(load(environment=environment)))
        with _server([sys.executable, "-m", "streams", "ingress"], environment):
            one = asyncio.run(_drive(port, single, seconds))
            many = asyncio.run(_drive(port, batched, seconds))
        with _server([sys.executable, "-m", "bench.ingress", str(port)], {}):
            bare = asyncio.run(_drive(port, single, seconds))
    found["ingress_requests_per_s"] = one.requests_per_s
    found["ingress_p50_ms"] = one.p50_ms
    found["ingress_p99_ms"] = one.p99_ms
    found["ingress_events_per_s_batches_of_100"] = many.requests_per_s * 100
    found["ingress_batches_of_100_p99_ms"] = many.p99_ms
    found["bare_aiohttp_requests_per_s"] = bare.requests_per_s
    found["ingress_ratio_bare_aiohttp"] = one.requests_per_s / bare.requests_per_s
    return found


def _requests(secrets: signing.Secrets, bodies: Sequence[bytes]) -> list[bytes]:
    sign = signing.signers(secrets)["sendgrid"]
    made = []
    for body in bodies:
        signed = sign(codecs.decode(body), at=datetime.now(UTC))
        headers = "".join(f"{name}: {value}\r\n" for name, value in signed.headers.items())
        head = f"POST /webhooks/sendgrid/{ACCOUNT} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(signed.body)}\r\n"
        made.append(head.encode() + headers.encode() + b"\r\n" + signed.body)
    return made


class _server:  # noqa: N801 - reads as a function with `with`
    """A server process, pinned to the second core where there is one."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        pin = ["taskset", "-c", "1"] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []
        self._process = subprocess.Popen([*pin, *command], env=os.environ | environment)

    def __enter__(self) -> None:
        time.sleep(4)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


async def _drive(port: int, requests: Sequence[bytes], seconds: float) -> Load:
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one(offset: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        number = offset
        while time.perf_counter() < end:
            began = time.perf_counter()
            writer.write(requests[number % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                message = f"the server answered {head[:40]!r}"
                raise SystemExit(message)
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            latencies.append(time.perf_counter() - began)
            number += CONNECTIONS
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
    elapsed = time.perf_counter() - began
    latencies.sort()
    return Load(
        len(latencies) / elapsed, latencies[len(latencies) // 2] * 1000, latencies[int(len(latencies) * 0.99)] * 1000
    )


def _bare(port: int) -> None:
    """Serve what only reads the body."""

    async def read(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="ok")

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    app = web.Application(client_max_size=16 << 20)
    app.router.add_post("/webhooks/{provider}/{account}", read)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    _bare(int(sys.argv[1]))
