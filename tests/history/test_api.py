"""The JSON interface: its description is valid, and each path answers as it says, good and bad."""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestServer
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from streams import topics
from streams.history import api, edge, export, projection, queries, schema
from streams.history.database import TooSlowError
from streams.history.edge import MAX_BODY_BYTES
from streams.history.live import MOST_AT_ONCE, MOST_WAITING, Hub, Interest
from streams.history.projection import Touched
from streams.web import connections
from tests.history.support import NOW, Log, World, event, served, sqlite_url

SCHEMAS = Path(__file__).parents[2] / "schemas"
DOCUMENT = api.openapi()
INVOICE = projection.invoice_id("INV-1")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with served(sqlite_url(tmp_path), HISTORY__PAGE_SIZE="10") as world:
        log = Log().tell(
            event("sent"),
            event("deferred", at=5, reason="451 later", tags=("a",), metadata={"b": "c"}),
            event("bounce", message_id="m2", recipient="Bob@example.net"),
            event("dropped", message_id="m3", suppression_list="spam"),
            event("open", message_id="m4", at=900),
            event("delivered", message_id="m4", at=5, received=999),
            event("delivered", message_id="m5", reference=None, start=NOW - timedelta(days=3)),
        )
        log.alert(next(iter(log.known)), "raised", id="a" * 32)
        for number in range(12):
            log.tell(event("delivered", message_id=f"x{number}", reference=f"X-{number}"))
        world.tell(log)
        yield world


def check(path: str, method: str, status: int, content_type: str, body: Any) -> None:
    """Compare an answer with what the description says of it."""
    answers = DOCUMENT["paths"][path][method]["responses"]
    assert str(status) in answers, f"{status} is not described"
    described = resolved(answers[str(status)])["content"]
    assert content_type in described
    schema = described[content_type]["schema"]
    registry = Registry().with_resource(
        "urn:openapi", Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
    )
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:openapi#/'))
    jsonschema.Draft202012Validator(
        absolute, registry=registry, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(body)


def resolved(found: Mapping[str, Any]) -> Any:
    if "$ref" not in found:
        return found
    value: Any = DOCUMENT
    for part in found["$ref"].removeprefix("#/").split("/"):
        value = value[part]
    return value


async def ask(world: World, method: str, template: str, status: int = 200, path: str | None = None, **more: Any) -> Any:
    answer = await world.client.request(method, path or template, **more)
    assert answer.status == status, await answer.text()
    body = json.loads(await answer.text())
    check(template.partition("?")[0], method.lower(), status, answer.content_type, body)
    if status >= 400:
        assert body["status"] == status
    return body


def test_the_description_is_valid_and_a_wrong_one_is_not() -> None:
    validate(DOCUMENT)
    with pytest.raises(Exception, match="responses"):
        validate(DOCUMENT | {"paths": {"/x": {"get": {"responses": "none"}}}})


@pytest.mark.parametrize(
    ("component", "file"), [("Status", "status.v1"), ("Event", "event.v1"), ("Alert", "deferral-alert.v1")]
)
def test_the_records_are_described_as_their_schemas_do(component: str, file: str) -> None:
    schema = json.loads((SCHEMAS / f"{file}.schema.json").read_text())
    assert DOCUMENT["components"]["schemas"][component] == {
        name: value for name, value in schema.items() if name not in {"$schema", "$id"}
    }


async def test_every_path_is_described_and_every_description_is_a_path(world: World) -> None:
    served_paths = {
        (route.resource.canonical, route.method.lower())
        for route in world.built.app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/api/") and route.method != "HEAD"
    }
    assert served_paths == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


async def test_the_history_of_a_reference(world: World) -> None:
    found = await ask(world, "POST", "/api/v1/history", json={"reference": "INV-1"})
    assert [item["status"]["status"] for item in found["items"]].count("deferred") == 1
    assert len(found["items"]) == 4
    assert found == await ask(world, "GET", "/api/v1/invoices/{invoice_id}", path=f"/api/v1/invoices/{INVOICE}")
    await ask(world, "POST", "/api/v1/history", 404, json={"reference": "INV-2"})
    await ask(world, "GET", "/api/v1/invoices/{invoice_id}", 404, path="/api/v1/invoices/none")


async def test_a_reference_is_found_in_any_case_of_letters_unless_several_invoices_are_spelled_so(
    world: World,
) -> None:
    exact = await ask(world, "POST", "/api/v1/history", json={"reference": "INV-1"})
    assert await ask(world, "POST", "/api/v1/history", json={"reference": "inv-1"}) == exact
    log = Log(first_offset=5000)
    world.tell(log.tell(event("sent", message_id="y", reference="Inv-1")))
    await ask(world, "POST", "/api/v1/history", 404, json={"reference": "inv-1"})
    assert await ask(world, "POST", "/api/v1/history", json={"reference": "INV-1"}) == exact
    world.tell(log.tell(event("sent", message_id="z", reference="A" * 300)))
    await ask(world, "POST", "/api/v1/history", json={"reference": "a" * 300})
    await ask(world, "POST", "/api/v1/history", 404, json={"reference": "a" * 299})


async def test_every_answer_tells_how_old_is_what_it_says(world: World) -> None:
    name = {"reference": "INV-2"}
    state = world.built.subscriber.state
    state.since, state.lag = datetime(2026, 11, 1, tzinfo=UTC).timestamp(), {topics.EVENTS: 1500, topics.STATUS: 2}
    for answer in (
        await world.client.get("/api/v1/deliveries"),
        await world.client.post("/api/v1/history", json=name),
        await world.client.get("/export.csv"),
        lost := await world.client.get(f"/invoices/{projection.invoice_id('INV-2')}"),
    ):
        assert answer.headers[edge.AS_OF] == "2026-11-01T00:00:00Z"
        assert answer.headers[edge.BEHIND] == "1502"
    assert "What is shown may be old" in await lost.text()
    described = {edge.AS_OF, edge.BEHIND}
    assert set(DOCUMENT["components"]["responses"]["NotFound"]["headers"]) == described
    state.since = 0.0
    answer = await world.client.post("/api/v1/history", json=name)
    assert described.isdisjoint(answer.headers), "no broker has answered yet"


async def test_a_deliverys_timeline(world: World) -> None:
    (deferred,) = (await ask(world, "GET", "/api/v1/deferrals"))["items"]
    template = "/api/v1/deliveries/{delivery_id}"
    found = await ask(world, "GET", template, path=f"/api/v1/deliveries/{deferred['delivery_id']}")
    assert [entry["event"]["type"] for entry in found["timeline"] if entry["event"]] == ["sent", "deferred"]
    assert [change["status"] for entry in found["timeline"] for change in entry["became"]] == ["sent", "deferred"]
    assert found["alert"]["level"] == "raised"
    assert found["advice"] == found["alert"]["advice"]
    assert found["attempts"] == 3
    await ask(world, "GET", template, 404, path=f"/api/v1/deliveries/{'a' * 26}")


async def test_a_search_finds_the_very_text_first(world: World) -> None:
    log = Log(first_offset=5000)
    for number, reference in enumerate(("47", "47", "4700", "4701", "4702")):
        log.tell(event("sent", reference=reference, message_id=f"s{number}"))
    world.tell(log)
    for limit in (1, 2, 3, 10):
        found: list[str] = []
        said: dict[str, Any] = {"reference": "47", "prefix": True, "limit": limit}
        while said.get("cursor", "") is not None:
            page = await ask(world, "POST", "/api/v1/search", json=said)
            found += [item["reference"] for item in page["items"]]
            said["cursor"] = page["next_cursor"]
        assert found == ["47", "47", "4702", "4701", "4700"], limit


async def test_late_is_what_was_known_after_something_later(world: World) -> None:
    found = await ask(world, "POST", "/api/v1/search", json={"reference": "INV-1", "status": ["opened"]})
    name = found["items"][0]["delivery_id"]
    item = await ask(world, "GET", "/api/v1/deliveries/{delivery_id}", path=f"/api/v1/deliveries/{name}")
    assert [(entry["event"]["type"], entry["late"]) for entry in item["timeline"]] == [
        ("delivered", True),
        ("open", False),
    ]


async def test_a_cursor_leads_through_all_pages_without_a_gap(world: World) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        found = await ask(world, "GET", "/api/v1/deliveries", path=f"/api/v1/deliveries?limit=4{cursor}")
        seen += [item["delivery_id"] for item in found["items"]]
        if found["next_cursor"] is None:
            break
        cursor = f"&cursor={found['next_cursor']}"
    assert len(seen) == len(set(seen)) == 17
    found, names = {"next_cursor": None}, []
    while True:
        found = await ask(
            world,
            "POST",
            "/api/v1/search",
            json={"reference": "x-", "prefix": True, "limit": 5, "cursor": found["next_cursor"]},
        )
        names += [item["reference"] for item in found["items"]]
        if found["next_cursor"] is None:
            break
    assert names == sorted((f"X-{number}" for number in range(12)), reverse=True)


async def test_lists_are_chosen_by_status_account_provider_and_day(world: World) -> None:
    day = (NOW - timedelta(days=3)).date().isoformat()
    for query, total in (
        ("status=bounced,dropped", 2),
        ("status=bounced&status=dropped", 2),
        ("account=acme&provider=sendgrid", 17),
        ("account=none", 0),
        (f"to={day}", 1),
        (f"from={day}&to={day}", 1),
    ):
        found = await ask(world, "GET", "/api/v1/deliveries", path=f"/api/v1/deliveries?limit=200&{query}")
        assert len(found["items"]) == total
    counted = await ask(world, "GET", "/api/v1/counts")
    assert counted["total"] == 17
    assert list(counted["by_status"]) == list(queries.STATUSES)


async def test_a_search_finds_what_is_and_what_begins_so(world: World) -> None:
    for body, total in (
        ({"recipient": "bob@EXAMPLE.net"}, 1),
        ({"recipient": "bob"}, 0),
        ({"recipient": "bob", "prefix": True}, 1),
        ({"reference": "inv-1"}, 4),
        ({"reference": "inv-1", "status": ["bounced"]}, 1),
        ({"reference": "%", "prefix": False}, 0),
    ):
        assert len((await ask(world, "POST", "/api/v1/search", json=body))["items"]) == total


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reference": ""},
        {"reference": 5},
        {"reference": ["a"]},
        {"reference": "a" * 1001},
        {"reference": "a\x00"},
        {"reference": "a", "recipient": "b"},
        {"reference": "a", "prefix": True},
        {"reference": "ab", "prefix": "yes"},
        {"reference": "a", "limit": 0},
        {"reference": "a", "limit": 201},
        {"reference": "a", "limit": 1.5},
        {"reference": "a", "limit": True},
        {"reference": "a", "cursor": "x"},
        {"reference": "a", "cursor": 5},
        {"reference": "a", "status": "lost"},
        {"reference": "a", "status": ""},
        {"reference": "a", "status": []},
        {"reference": "a", "account": " "},
        {"reference": "a", "status": [5]},
        {"reference": "a", "status": [["sent"]]},
        {"reference": "a", "status": {"sent": 1}},
        {"reference": "a", "from": 5},
        {"reference": "a", "sql": "1"},
    ],
)
async def test_a_malformed_search_is_refused_by_name(world: World, body: Any) -> None:
    found = await ask(world, "POST", "/api/v1/search", 400, json=body)
    assert found["errors"] or "cursor" in found["detail"]


@pytest.mark.parametrize("path", ["deliveries?account=", "deliveries?status=", "counts?to=", "live?invoice_id="])
async def test_a_condition_that_is_empty_is_refused_and_does_not_mean_everything(world: World, path: str) -> None:
    found = await ask(world, "GET", f"/api/v1/{path.partition('?')[0]}", 400, path=f"/api/v1/{path}")
    assert found["errors"] == [{"name": path.partition("?")[2].partition("=")[0], "detail": "is empty: leave it out"}]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b"null", b"\xff", b'{"reference": "\\ud800"}', b"[" * 10_000])
async def test_a_body_that_is_no_object_is_refused(world: World, data: bytes) -> None:
    await ask(world, "POST", "/api/v1/search", 400, data=data, headers={"Content-Type": "application/json"})


async def test_a_body_that_is_too_large_or_of_another_type_is_refused(world: World) -> None:
    await ask(world, "POST", "/api/v1/search", 415, data=b"{}", headers={"Content-Type": "text/plain"})
    large = json.dumps({"reference": "a" * MAX_BODY_BYTES}).encode()
    await ask(world, "POST", "/api/v1/history", 413, data=large, headers={"Content-Type": "application/json"})


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with served(sqlite_url(tmp_path), HISTORY__READ_TIMEOUT_S="0.2") as world:
        url = world.client.make_url("/")
        assert url.host is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            b"POST /api/v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_question_that_takes_too_long_is_answered_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        raise TooSlowError

    monkeypatch.setattr(queries, "count", slow)
    await ask(world, "GET", "/api/v1/counts", 503)


async def test_more_requests_than_may_be_in_work_are_answered_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(sqlite_url(tmp_path), HISTORY__MAX_REQUESTS="1", HISTORY__MAX_STREAMS="1") as world:
        going_on = asyncio.Event()

        async def wait(*_: object) -> dict[str, int]:
            await going_on.wait()
            return {}

        monkeypatch.setattr(api, "ask", wait)
        first = asyncio.create_task(world.client.get("/api/v1/counts"))
        await asyncio.sleep(0.1)
        await ask(world, "GET", "/api/v1/counts", 503)
        going_on.set()
        assert (await first).status == 200
        async with world.client.get("/api/v1/live") as stream:
            assert stream.status == 200
            await ask(world, "GET", "/api/v1/live", 503)


async def test_errors_name_no_value_of_the_request(world: World) -> None:
    for path in ("/api/v1/deliveries?status=SECRET", "/api/v1/deliveries/SECRET", "/api/v1/SECRET"):
        assert "SECRET" not in await (await world.client.get(path)).text()


async def begun(stream: aiohttp.ClientResponse) -> None:
    """Check that a stream begins by telling its reader to read everything: nothing was kept until now."""
    lines = [await asyncio.wait_for(stream.content.readline(), 5) for _ in range(5)]
    assert lines == [b"retry: 3000\n", b"\n", b"event: missed\n", b"data: {}\n", b"\n"]


async def test_a_stream_tells_what_changes_as_it_changes(world: World) -> None:
    async with world.client.get("/api/v1/live") as stream:
        assert stream.content_type == "text/event-stream"
        await begun(stream)
        log = Log(first_offset=5000)
        world.tell(log.tell(event("sent", message_id="new")))
        lines = [await stream.content.readline() for _ in range(3)]
        assert lines[0] == b"event: change\n"
        assert json.loads(lines[1].removeprefix(b"data: "))["status"] == "sent"


async def test_a_stream_of_an_invoice_hears_of_a_reference_that_came_late(world: World) -> None:
    log = Log(first_offset=5000).tell(event("delivered", message_id="late", reference=None))
    world.tell(log)
    async with world.client.get(f"/api/v1/live?invoice_id={projection.invoice_id('INV-LATE')}") as stream:
        await begun(stream)
        world.tell(log.tell(event("sent", at=-5, received=50, message_id="late", reference="INV-LATE")))
        lines = [await asyncio.wait_for(stream.content.readline(), 5) for _ in range(3)]
        assert json.loads(lines[1].removeprefix(b"data: "))["invoice_id"] == projection.invoice_id("INV-LATE")


async def test_a_reader_that_takes_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "WRITE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(export, "AT_ONCE", 50)
    async with served(sqlite_url(tmp_path), HISTORY__MAX_REQUESTS="1") as world:
        log = Log()
        for number in range(400):
            log.tell(event("deferred", message_id=f"m{number}", reason="451 later " * 4000))
        world.tell(log)
        url = world.client.make_url("/")
        assert url.host is not None
        _, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
        writer.write(b"GET /export.csv HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = asyncio.get_running_loop().time() + 20
        for expected in (503, 200):  # at first it holds the only place; then it is given up
            while (await world.client.get("/api/v1/counts")).status != expected:
                assert asyncio.get_running_loop().time() < deadline, expected
                await asyncio.sleep(0.05)
        writer.close()


async def test_an_answer_of_which_nothing_is_taken_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNTAKEN_S", 1.0)
    async with served(sqlite_url(tmp_path)) as world:
        log = Log()
        for number in range(200):
            log.tell(event("deferred", message_id=f"m{number}", reason="451 later " * 8000))
        world.tell(log)
        server = world.client.server
        assert isinstance(server, TestServer)
        assert server.runner is not None
        assert server.runner.server is not None
        reader, writer = await asyncio.open_connection(server.host, server.port, limit=1024)
        writer.write(b"GET /api/v1/deliveries?limit=200 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await reader.readexactly(100)
        deadline = asyncio.get_running_loop().time() + 20
        while server.runner.server.connections:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        writer.close()


async def test_streams_end_when_the_process_stops(world: World) -> None:
    async with world.client.get("/live") as stream:
        world.built.hub.close()
        assert await asyncio.wait_for(stream.content.read(), 5) == b"retry: 3000\n\n"


async def test_postgresql_gives_the_same_answers(world: World, new_postgresql: Callable[[], str]) -> None:
    names = [
        item["delivery_id"]
        for item in (await ask(world, "GET", "/api/v1/deliveries", path="/api/v1/deliveries?limit=200"))["items"]
    ]
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/api/v1/deliveries?limit=4", None),
        ("GET", "/api/v1/deliveries?status=bounced,dropped&account=acme&from=2020-01-01", None),
        ("GET", "/api/v1/deferrals", None),
        ("GET", "/api/v1/counts", None),
        ("POST", "/api/v1/search", {"reference": "x-", "prefix": True, "limit": 5}),
        ("POST", "/api/v1/search", {"recipient": "bob@example.net"}),
        ("POST", "/api/v1/history", {"reference": "INV-1"}),
        *(("GET", f"/api/v1/deliveries/{name}", None) for name in names),
    ]
    async with served(new_postgresql(), HISTORY__PAGE_SIZE="10") as other:
        with world.kept.database.read() as connection:
            for table, topic in (
                (schema.deliveries, topics.STATUS_CHANGED),
                (schema.events, topics.EVENTS),
                (schema.alerts, topics.DEFERRAL_ALERTS),
            ):
                values = [
                    (number, record.encode())
                    for number, record in enumerate(connection.scalars(sa.select(table.c.record)))
                ]
                other.kept.apply({(topic, 0): values})
        for method, path, body in asked:
            answers = [await (await each.client.request(method, path, json=body)).json() for each in (world, other)]
            for answer in answers:  # only the newest changes were copied
                for item in [answer, *answer.get("items", [])]:
                    item["timeline"] = [entry for entry in item.get("timeline", []) if entry["event"]]
                    for entry in item["timeline"]:
                        entry["became"] = None
            assert answers[0] == answers[1], path
            following = answers[0].get("next_cursor")
            if following and method == "GET":
                pages = [await (await each.client.get(f"{path}&cursor={following}")).json() for each in (world, other)]
                assert pages[0] == pages[1]
                assert pages[0]["items"]


def cursor_of(*place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).rstrip(b"=").decode()


async def test_a_nul_anywhere_is_refused_and_never_reaches_the_database(url: str) -> None:
    async with served(url) as world:
        world.tell(Log().tell(event("sent")))
        for path in ("/api/v1/deliveries/%00", "/api/v1/invoices/%00", f"/api/v1/deliveries/{'a' * 25}%00"):
            assert (await world.client.get(path)).status == 404
        for place in ([1, "\x00"], [1, "a\x00b"], [1, "\ud800"], [1 << 63, "a"], [-1, "a"]):
            for path in ("/", "/deferred", "/api/v1/deliveries", "/api/v1/deferrals", f"/api/v1/invoices/{INVOICE}"):
                assert (await world.client.get(path, params={"cursor": cursor_of(*place)})).status == 400
        for key in ("ann\x00", "\ud800"):
            body = {"recipient": "ann", "prefix": True, "cursor": cursor_of(key, 1, "a")}
            await ask(world, "POST", "/api/v1/search", 400, json=body)


def touched(number: int, account: str = "a") -> Touched:
    return Touched(f"d{number}", account, None, "sent", 1)


async def test_a_slow_reader_has_a_bounded_queue_and_learns_that_it_missed_something() -> None:
    hub = Hub(10)
    with hub.subscribe(Interest(accounts=None)) as slow:
        hub.publish([touched(number) for number in range(MOST_WAITING)])
        assert not slow.missed
        hub.publish([touched(0)])
        assert len(slow.waiting) == MOST_WAITING
        hub.publish([touched(MOST_WAITING)])
        assert await slow.next() == ([], True)
        hub.publish([touched(number) for number in range(MOST_AT_ONCE + 1)])
        assert await slow.next() == ([], True)
        hub.publish([touched(5), touched(6)])
        assert await slow.next() == ([touched(5), touched(6)], False)
    assert len(hub) == 0


def test_the_number_in_a_page_does_not_count_what_happens_in_other_accounts() -> None:
    hub, seen = Hub(10), []
    for number in range(5):
        hub.publish([touched(number)])
        seen.append(hub.sequence)
    assert len(set(seen)) == 5
    assert {later - earlier for earlier, later in itertools.pairwise(seen)} != {1}
    hub.publish([])
    assert hub.sequence == seen[-1]


async def test_a_reader_hears_of_what_it_asked_for_and_may_see() -> None:
    hub = Hub(10)
    with hub.subscribe(Interest(accounts=frozenset({"a"}), delivery_id="d2")) as one:
        hub.publish([touched(1), touched(2, "b"), touched(3)])
        assert not one.waiting
        hub.publish([touched(2)])
        assert (await one.next())[0] == [touched(2)]


async def test_what_nobody_knows_of_is_missed_by_all_who_listen_and_by_pages_that_begin_to_listen() -> None:
    hub = Hub(10)
    before = hub.sequence
    with hub.subscribe(Interest(accounts=frozenset({"a"}), delivery_id="d2")) as one:
        hub.miss()
        assert await one.next() == ([], True)
    assert hub.sequence != before


def test_the_history_reads_public_topics_only() -> None:
    assert set(projection.TOPICS) == {topics.STATUS_CHANGED, topics.STATUS, topics.EVENTS, topics.DEFERRAL_ALERTS}
