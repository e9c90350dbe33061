"""How many signed webhooks one ingress takes, compared with two bare aiohttp handlers.

One of them only reads the body, the other also checks its signature (the same check), and neither
stores anything. The difference between the two is the cost of the signature; the difference between
the second and the ingress is the cost of our own code (docs/decisions/0005).

The servers are pinned to one core if the machine has two, and the sender to the
others; the broker is not pinned. Requests are signed beforehand; the sender keeps a fixed
number of connections busy. ``..._cpu_us_per_request`` is the server's own processor
time, which other load on the machine hardly changes.

Run a bare server: ``python -m bench.ingress PORT [VERIFICATION_KEY]``.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
import uvloop
from aiohttp import web

from bench.figures import percentile, ratio
from bench.ground import Ground
from bench.racing import ContestantError
from bench.traffic import bodies_of
from deploy.local import ports
from streams import codecs, topics
from streams.providers import PROVIDERS, WebhookRequest
from streams.settings import load
from streams.simulate import signing

CONNECTIONS = 32
ACCOUNT = "bench"
SERVER_CORE = 1
START_S = 30


@dataclass(frozen=True, slots=True)
class Load:
    """The result of one run of requests."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """The server's processor time for one request."""


async def measure(ground: Ground, seconds: float) -> dict[str, float]:
    """Return the figures of ``make bench`` on the ingress; each load lasts ``seconds``.

    Raises:
        ContestantError: a server did not start, or refused a request.
    """
    secrets = signing.draw()
    key = secrets.for_ingress()["sendgrid"]
    single = _requests(secrets, bodies_of(1, 2_000, 1))
    batched = _requests(secrets, bodies_of(2, 300, 100))
    port, admin = ports.find(2)
    environment = {
        "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": ground.bootstrap,
        "MAILSTREAMS_TOPICS__PARTITIONS": str(ground.partitions),
        "MAILSTREAMS_INGRESS__PORT": str(port),
        "MAILSTREAMS_INGRESS__ADMIN_PORT": str(admin),
        "MAILSTREAMS_INGRESS__RATE_PER_S": "1000000",
        "MAILSTREAMS_INGRESS__RATE_BURST": "1000000",
        "MAILSTREAMS_WORKER__LOG_LEVEL": "warning",
        f"MAILSTREAMS_ACCOUNTS__{ACCOUNT.upper()}__WEBHOOKS__SENDGRID__SECRETS__BENCH": key,
    }
    await topics.create(load(environment=environment))
    bare = [sys.executable, "-m", "bench.ingress", str(port)]
    with _sender_on_its_own_core():
        async with _server([sys.executable, "-m", "streams", "ingress"], environment, port) as ingress:
            one = await _measure(ingress, port, single, seconds)
            many = await _measure(ingress, port, batched, seconds)
        async with _server(bare, {}, port) as reader:
            reads = await _measure(reader, port, single, seconds)
        async with _server([*bare, key], {}, port) as verifier:
            verifies = await _measure(verifier, port, single, seconds)
    await ground.delete("mail.")
    found: dict[str, float] = {}
    for name, taken in (("ingress", one), ("bare_reads", reads), ("bare_verifies", verifies)):
        found[f"{name}_requests_per_s"] = taken.requests_per_s
        found[f"{name}_p50_ms"] = taken.p50_ms
        found[f"{name}_p99_ms"] = taken.p99_ms
        found[f"{name}_cpu_us_per_request"] = taken.cpu_us
    found["ingress_events_per_s_batches_of_100"] = many.requests_per_s * 100
    found["ingress_batches_of_100_p99_ms"] = many.p99_ms
    found["ingress_batches_of_100_cpu_us_per_event"] = many.cpu_us / 100
    found["ingress_ratio_bare_reads"] = ratio(one.requests_per_s, reads.requests_per_s)
    found["ingress_ratio_bare_verifies"] = ratio(one.requests_per_s, verifies.requests_per_s)
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


@contextmanager
def _sender_on_its_own_core() -> Iterator[None]:
    """Keep this process off the server's core, if there are two cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores - {SERVER_CORE} or cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@asynccontextmanager
async def _server(command: Sequence[str], environment: dict[str, str], port: int) -> AsyncIterator[psutil.Process]:
    """Run a server, on its own core if there are two, and yield it once it takes connections."""
    pin = ["taskset", "-c", str(SERVER_CORE)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []
    process = subprocess.Popen([*pin, *command], env=os.environ | environment)  # noqa: ASYNC220 - nothing else runs meanwhile
    try:
        for _ in range(START_S * 10):
            await asyncio.sleep(0.1)
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
        else:
            message = f"{' '.join(command[1:4])} takes no connections after {START_S} s"
            raise ContestantError(message)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


async def _measure(server: psutil.Process, port: int, requests: Sequence[bytes], seconds: float) -> Load:
    await _drive(port, requests, 1)  # connections to the broker, caches
    before = server.cpu_times()
    latencies, elapsed = await _drive(port, requests, seconds)
    after = server.cpu_times()
    return Load(
        requests_per_s=len(latencies) / elapsed,
        p50_ms=percentile(latencies, 0.5) * 1000,
        p99_ms=percentile(latencies, 0.99) * 1000,
        cpu_us=(after.user + after.system - before.user - before.system) / len(latencies) * 1e6,
    )


async def _drive(port: int, requests: Sequence[bytes], seconds: float) -> tuple[list[float], float]:
    """Return the seconds of each request, and of the whole run."""
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
                raise ContestantError(message)
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
    """Serve a handler that reads the body and, given a key, verifies it, and does nothing else."""

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
