"""How many signed webhooks one ingress takes, beside two bare aiohttp handlers.

One of them only reads the body, the other checks its signature too (the same check),
and neither keeps anything: what lies between them is the price of knowing who sends, what lies
between the second and the ingress is all that is ours (docs/decisions/0005).

The servers are pinned to one core where the machine has two, the sender and the
broker run on the other. Requests are signed beforehand; the sender keeps a fixed
number of connections busy. ``..._cpu_us_per_request`` is the server's own processor
time, which depends little on what else the machine does.

Run a bare server: ``python -m bench.ingress PORT [VERIFICATION_KEY]``.
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

import psutil
import uvloop
from aiohttp import web

from bench.traffic import bodies_of
from deploy.local import ports
from deploy.local.broker import Broker
from streams import codecs, topics
from streams.providers import PROVIDERS, WebhookRequest
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
    cpu_us: float
    """The server's processor time for one request."""


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
        with _server([sys.executable, "-m", "streams", "ingress"], environment) as ingress:
            one = _measure(ingress, port, single, seconds)
            many = _measure(ingress, port, batched, seconds)
        bare = [sys.executable, "-m", "bench.ingress", str(port)]
        with _server(bare, {}) as reader:
            reads = _measure(reader, port, single, seconds)
        with _server([*bare, secrets.for_ingress()["sendgrid"]], {}) as verifier:
            verifies = _measure(verifier, port, single, seconds)
    for name, load_ in (("ingress", one), ("bare_reads", reads), ("bare_verifies", verifies)):
        found[f"{name}_requests_per_s"] = load_.requests_per_s
        found[f"{name}_p50_ms"] = load_.p50_ms
        found[f"{name}_p99_ms"] = load_.p99_ms
        found[f"{name}_cpu_us_per_request"] = load_.cpu_us
    found["ingress_events_per_s_batches_of_100"] = many.requests_per_s * 100
    found["ingress_batches_of_100_p99_ms"] = many.p99_ms
    found["ingress_batches_of_100_cpu_us_per_event"] = many.cpu_us / 100
    found["ingress_ratio_bare_reads"] = one.requests_per_s / reads.requests_per_s
    found["ingress_ratio_bare_verifies"] = one.requests_per_s / verifies.requests_per_s
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

    def __enter__(self) -> psutil.Process:
        time.sleep(4)
        return psutil.Process(self._process.pid)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def _measure(server: psutil.Process, port: int, requests: Sequence[bytes], seconds: float) -> Load:
    asyncio.run(_drive(port, requests, 1))  # connections to the broker, caches
    before = server.cpu_times()
    latencies, elapsed = asyncio.run(_drive(port, requests, seconds))
    after = server.cpu_times()
    latencies.sort()
    return Load(
        requests_per_s=len(latencies) / elapsed,
        p50_ms=latencies[len(latencies) // 2] * 1000,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1000,
        cpu_us=(after.user + after.system - before.user - before.system) / len(latencies) * 1e6,
    )


async def _drive(port: int, requests: Sequence[bytes], seconds: float) -> tuple[list[float], float]:
    """Return the seconds that each request took, and all of them together."""
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
    return latencies, time.perf_counter() - began


def _bare(port: int, key: str | None) -> None:
    """Serve what reads the body, and with a key verifies it, and no more."""

    async def read(request: web.Request) -> web.Response:
        body = await request.read()
        if key is not None:
            webhook = WebhookRequest(
                body=body,
                headers={name.lower(): text for name, text in request.headers.items()},
                url="",
                account=ACCOUNT,
                received_at=datetime.now(UTC),
            )
            PROVIDERS["sendgrid"].verify(webhook, {"bench": key}, now=datetime.now(UTC), replay_window_s=None)
        return web.Response(text="ok")

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    app = web.Application(client_max_size=16 << 20)
    app.router.add_post("/webhooks/{provider}/{account}", read)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    _bare(int(sys.argv[1]), next(iter(sys.argv[2:]), None))
