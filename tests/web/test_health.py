from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from streams.metrics import Metrics
from streams.web.health import HealthServer


@dataclass
class World:
    url: str
    not_live: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)
    metrics: Metrics = field(default_factory=lambda: Metrics.create(CollectorRegistry(), version="1.2.3"))

    async def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.request(method, self.url + path) as answer:
            return answer.status, await answer.text()


def server_of(world: World, *, host: str = "127.0.0.1", port: int = 0) -> HealthServer:
    return HealthServer(
        host=host,
        port=port,
        registry=world.metrics.registry,
        not_live=lambda: world.not_live,
        not_ready=lambda: world.not_ready,
    )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World("")
    server = server_of(world)
    world.url = f"http://127.0.0.1:{await server.start()}"
    yield world
    await server.stop()


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_a_worker_that_is_well_says_ok(world: World, path: str) -> None:
    assert await world.get(path) == (200, "ok\n")


async def test_a_worker_of_no_use_is_not_live_and_says_why(world: World) -> None:
    world.not_live.append("mail.events/0 is stuck at offset 4 with 6 more to go for 31 s")
    assert await world.get("/livez") == (503, "mail.events/0 is stuck at offset 4 with 6 more to go for 31 s\n")
    assert (await world.get("/readyz"))[0] == 200, "one says restart me, the other says not now"


async def test_a_worker_that_cannot_work_now_is_not_ready_and_gives_every_reason_a_line(world: World) -> None:
    world.not_ready += ["the broker does not answer", "stores are being restored"]
    assert await world.get("/readyz") == (503, "the broker does not answer\nstores are being restored\n")
    assert (await world.get("/livez"))[0] == 200


async def test_it_is_asked_anew_each_time(world: World) -> None:
    world.not_ready.append("no partitions are assigned yet")
    assert (await world.get("/readyz"))[0] == 503
    world.not_ready.clear()
    assert (await world.get("/readyz"))[0] == 200


async def test_metrics_are_in_the_format_of_prometheus(world: World) -> None:
    world.metrics.expired.inc(3)
    async with aiohttp.ClientSession() as session, session.get(world.url + "/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    assert families["mailstreams_deliveries_expired"].samples[0].value == 3
    assert families["mailstreams_build_info"].samples[0].labels == {"version": "1.2.3"}
    assert all(name.startswith(("mailstreams_", "process_")) for name in families), "nothing of Python's or Faust's own"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("POST", "/livez", 405), ("HEAD", "/livez", 200)]
)
async def test_there_is_nothing_else(world: World, method: str, path: str, status: int) -> None:
    assert (await world.get(path, method))[0] == status


async def test_a_taken_port_is_an_error_at_the_start(world: World) -> None:
    port = int(world.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="address already in use"):
        await server_of(world, port=port).start()


async def test_a_server_that_was_stopped_does_not_listen_and_stopping_again_is_no_harm() -> None:
    world = World("")
    server = server_of(world)
    await server.stop()
    world.url = f"http://127.0.0.1:{await server.start()}"
    await server.stop()
    await server.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await world.get("/livez")
