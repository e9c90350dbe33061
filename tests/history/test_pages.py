"""The pages over HTTP: what is shown, and what hostile input becomes."""

import csv
import hashlib
import io
import re
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from streams import codecs, records, topics
from streams.history import export, projection, queries, schema, words
from streams.history.access import Access, Viewer
from streams.history.database import TooSlowError
from streams.history.edge import HEADERS, MAX_BODY_BYTES
from streams.history.export import safe
from streams.history.live import Subscription
from streams.history.searches import KEPT_S, Search, Searches
from tests.history.support import NOW, Log, World, event, served, sqlite_url

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}${7*7}\u202e&lt;"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with served(sqlite_url(tmp_path)) as world:
        yield world


async def page(world: World, path: str, *, status: int = 200, **form: str) -> str:
    answer = await (world.client.post(path, data=form) if form else world.client.get(path))
    text = await answer.text()
    assert answer.status == status, text
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers["Cache-Control"] == "no-store"
    return text


def invoice_of(reference: str) -> str:
    return f"/invoices/{projection.invoice_id(reference)}"


async def test_an_empty_history_says_what_to_do_next(world: World) -> None:
    assert "Nothing was sent yet" in await page(world, "/")
    assert "Nothing fits" in await page(world, "/?status=bounced")
    assert "Nothing is deferred" in await page(world, "/deferred")
    assert "what is in the middle or at the end is not found" in await page(world, "/search", q="INV-1")
    assert "Nothing found" in await page(world, "/search", q="ann@example.net")


async def test_an_invoice_shows_every_recipient_and_every_resend(world: World) -> None:
    world.tell(
        Log().tell(
            event("delivered"),
            event("bounce", message_id="m2", recipient="bob@example.net", reason="550 5.1.1 No such user here"),
            event("sent", message_id="m3", at=600),
            event("sent", message_id="m4", reference="INV-2", recipient="eve@example.net"),
        )
    )
    text = await page(world, invoice_of("INV-1"))
    assert len(re.findall('<article class="delivery', text)) == 3
    assert "bob@example.net" in text
    assert "eve@example.net" not in text
    assert "550 5.1.1 No such user here" in text
    assert "What to do:" in text


async def test_a_deferral_shows_the_alerts_advice_its_age_and_deadline(world: World) -> None:
    log = Log().tell(event("sent"), event("deferred", at=60, reason="451 later", smtp_code=451, attempt=7))
    log.alert(next(iter(log.known)), "raised")
    world.tell(log)
    for path in (invoice_of("INV-1"), "/deferred", "/"):
        assert "Raised" in await page(world, path)
    text = await page(world, invoice_of("INV-1"))
    assert "Contact the recipient now." in text
    assert re.search("<strong>(1 hour|2 hours)</strong>", text)  # it turns into the second a minute after the start
    assert "in 2 days" in text
    assert "<dd>7</dd>" in text


async def test_a_deferrals_age_and_deadline_are_the_alerts_where_that_knows_more(world: World) -> None:
    log = Log().tell(event("sent"), event("deferred", at=60))
    since = (NOW - timedelta(hours=30)).isoformat()
    log.alert(next(iter(log.known)), "raised", deferred_since=since)
    world.tell(log)
    for path in (invoice_of("INV-1"), "/deferred"):
        assert "<strong>1 day</strong>" in await page(world, path)
        assert "in 2 days" in await page(world, path)


async def test_a_deferrals_age_and_deadline_are_the_records_where_the_alert_knows_less(world: World) -> None:
    log = Log().tell(event("sent"), event("deferred", at=60, retry_until=NOW + timedelta(days=5, hours=1)))
    later = (NOW - timedelta(minutes=10)).isoformat()
    log.alert(next(iter(log.known)), "raised", deferred_since=later, retry_until=None)
    world.tell(log)
    for path in (invoice_of("INV-1"), "/deferred"):
        assert re.search("<strong>(1 hour|2 hours)</strong>", await page(world, path))
        assert "in 5 days" in await page(world, path)


BEYOND = ("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00")


@pytest.mark.parametrize("time", BEYOND)
@pytest.mark.parametrize("topic", projection.TOPICS)
async def test_a_time_that_is_beyond_the_calendar_in_utc_hides_no_page(world: World, topic: str, time: str) -> None:
    log = Log().tell(event("sent"), event("deferred", at=60))
    (name,) = log.known
    log.alert(name, "raised")
    batch = log.take()
    times = ("first_received_at", "received_at", "occurred_at", "deferred_since", "retry_until", "due_at")
    foreign = [
        (offset + 1000 * number, codecs.encode({**record, field: time}))
        for offset, value in batch.pop((topic, 0))
        for record in [codecs.decode(value or b"")]
        for number, field in enumerate(set(times) & set(record))
    ]
    applied = world.kept.apply({**batch, (topic, 0): sorted(foreign)})
    assert applied.malformed
    for path in ("/", "/deferred", invoice_of("INV-1"), f"/deliveries/{name}", f"/api/v1/deliveries/{name}"):
        assert (await world.client.get(path)).status == 200


@pytest.mark.parametrize(("ahead", "believed"), [(4, True), (6, False), (-39 * 1440, True), (-41 * 1440, False)])
async def test_a_providers_time_that_cannot_be_is_not_shown_as_the_time(
    world: World, ahead: int, believed: bool
) -> None:
    start = NOW - timedelta(days=1)
    said = start + timedelta(minutes=ahead)
    world.tell(Log().tell(event("delivered", start=start, received=0, occurred_at=said)))
    header = (await page(world, invoice_of("INV-1"))).partition("</header>\n  <div")[0].rpartition("<article")[2]
    shown = re.findall(r'<span class="exact">([^<]+)</span>', header)
    assert shown == [f"{said if believed else start:%Y-%m-%d %H:%M:%S} UTC"]
    assert (f"the provider's clock said {said:%Y-%m-%d %H:%M:%S}" in header.replace("&#39;", "'")) is not believed


async def test_of_very_many_events_opens_and_clicks_are_left_out_first(world: World) -> None:
    log = Log().tell(
        event("sent"), event("deferred", at=5), event("machine_open", at=8, machine=True), event("delivered", at=10)
    )
    log.tell(*(event("open", at=20 + number, event_id=f"o{number}") for number in range(600)))
    world.tell(log)
    text = (await page(world, invoice_of("INV-1"))).partition("Timeline")[2]
    for kind in ("sent", "deferred", "delivered"):
        assert text.count(words.EVENTS[kind]) == 1
    assert text.count("<li>") == queries.MOST_EVENTS
    assert f"{queries.MOST_EVENTS} events are shown; 104 more are not" in text
    assert text.count('class="became"') == 4  # sent, deferred, delivered, opened: each with the event that made it
    assert "The event behind this change" not in text
    assert words.MACHINE_OPENED in await page(world, invoice_of("INV-1"))


async def test_deliveries_on_one_page_share_its_events_and_each_has_more_on_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MOST_ON_PAGE", 30)
    log = Log()
    for name in ("a", "b", "c"):
        log.tell(event("sent", message_id=name))
        log.tell(*(event("open", message_id=name, at=20 + at, event_id=f"o{at}") for at in range(14)))
    world.tell(log)
    text = await page(world, invoice_of("INV-1"))
    assert text.count("<li>") == 30
    assert text.count("10 events are shown; 5 more are not") == 3
    for name in log.known:
        assert f'href="/deliveries/{name}">Show more of them' in text
        assert (await page(world, f"/deliveries/{name}")).count("<li>") == 15


async def test_a_page_is_made_outside_the_event_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with very many events would hold up everybody else's."""
    world.tell(Log().tell(event("sent")))
    threads = set()

    def relative(*_: object) -> str:
        threads.add(threading.get_ident())
        return "then"

    monkeypatch.setattr(words, "relative", relative)
    for path in ("/", invoice_of("INV-1")):
        assert "then" in await page(world, path)
    assert threads
    assert threading.get_ident() not in threads


async def test_only_an_invoices_first_page_says_how_often_it_was_sent(world: World) -> None:
    world.tell(Log().tell(*(event("sent", message_id=f"{number}") for number in range(queries.MOST_TIMELINES + 2))))
    first = await page(world, invoice_of("INV-1"))
    assert f"Sent {queries.MOST_TIMELINES} times or more" in first
    (more,) = re.findall(r'rel="next" href="([^"]+)"', first)
    assert "counting every recipient" not in await page(world, more)


async def test_a_timeline_that_lacks_its_beginning_says_so(world: World) -> None:
    log = Log().tell(event("sent"), event("deferred", at=10), event("delivered", at=20))
    told = {topic: rows for (topic, _), rows in log.take().items()}
    path = f"/deliveries/{next(iter(log.known))}"
    for topic, kept, says in (
        (topics.STATUS, told[topics.STATUS], "What happened is not here"),  # as long after, with only mail.status
        (topics.STATUS_CHANGED, told[topics.STATUS_CHANGED][1:], "What came before is not here"),
        (topics.EVENTS, told[topics.EVENTS][1:], "What came before is not here"),
        (topics.STATUS_CHANGED, told[topics.STATUS_CHANGED][:1], "The event behind this change is not here"),
        (topics.EVENTS, told[topics.EVENTS][:1], None),
    ):
        projection.apply(world.kept.database, {(topic, len(kept)): kept}, {})
        found = re.findall("What .{4,11} is not here|The event .* is not here", await page(world, path))
        assert found[:1] == ([says] if says else []), topic


async def test_a_change_whose_event_is_not_here_says_so(world: World) -> None:
    batch = Log().tell(event("delivered")).take()
    world.kept.apply({(topics.STATUS_CHANGED, 0): batch[topics.STATUS_CHANGED, 0]})
    text = await page(world, invoice_of("INV-1"))
    assert "The event behind this change is not here: it is not kept any more, or was not read yet" in text


STATUS = ("delivery_id", "revision", "account", "provider", "recipient", "status", "first_received_at", "received_at")
REQUIRED = {
    topics.STATUS_CHANGED: STATUS,
    topics.STATUS: STATUS,
    topics.EVENTS: ("delivery_id", "event_id", "type", "received_at"),
    topics.DEFERRAL_ALERTS: ("id", "delivery_id", "first_received_at", "episode", "level"),
}


@pytest.mark.parametrize("kind", ["deferred", "bounce", "dropped", "open"])
@pytest.mark.parametrize("others", ["missing", 5, [5], {"a": 1}, "text"])
async def test_a_record_with_nothing_but_what_is_required_is_shown(world: World, kind: str, others: Any) -> None:
    log = Log().tell(event(kind, reference=None))
    name = next(iter(log.known))
    log.alert(name, "raised")
    log.alert(name, "resolved", id="r", episode=0)
    kept = Log(first_offset=5000)
    for (topic, _), rows in log.take().items():
        for _, value in rows:
            record = {field: said for field, said in codecs.decode(value or b"").items() if field in REQUIRED[topic]}
            if others != "missing":
                shown = ("reason", "smtp_code", "tags", "suppression_list", "user_agent", "advice", "attempt", "attempts",
                         "bounce_kind", "provider_event", "message_id", "outcome", "duration_s", "retry_until",
                         "dropped_since", "annulled", "machine")  # fmt: skip
                optional = ("bounce_kind",) if REQUIRED[topic] is STATUS else ()
                record |= dict.fromkeys([field for field in shown if field not in optional], others)
            kept.add(topic, codecs.encode(record))
    world.tell(kept)
    for path in ("/", "/deferred", f"/deliveries/{name}"):
        assert "ann@example.net" in await page(world, path) or (path == "/deferred" and kind != "deferred")
    assert (await world.client.get("/export.csv")).status == 200
    assert (await world.client.get(f"/api/v1/deliveries/{name}")).status == 200


async def test_a_search_shows_references_and_recipients_that_begin_so(world: World) -> None:
    world.tell(
        Log().tell(
            event("sent", reference="ann-77", recipient="bob@example.net"),
            event("sent", message_id="m2", reference="INV-2", recipient="ann@example.net"),
            event("sent", message_id="m3", reference="ann@example.net", recipient="eve@example.net"),
        )
    )
    text = await page(world, "/search", q="ann")
    assert "References and recipients that begin with" in text
    assert text.index("ann-77") < text.index("INV-2")
    text = await page(world, "/search", q="ann@")
    assert "eve@example.net" in text
    assert "INV-2" in text
    assert "INV-2" not in await page(world, "/search", q="ann", by="reference")
    await page(world, "/search", q="ann", cursor="x", status=400)


async def test_when_the_deferral_is_over_the_statuss_advice_counts_again(world: World) -> None:
    log = Log().tell(event("sent"), event("deferred", at=60))
    log.alert(next(iter(log.known)), "raised")
    log.tell(event("delivered", at=600))
    world.tell(log)
    assert "Raised" not in await page(world, "/")
    text = await page(world, invoice_of("INV-1"))
    assert "Contact the recipient now." not in text
    assert "Alert: it has been deferred for long" in text


@pytest.mark.parametrize("ago_s", [300, 5])
async def test_a_status_that_lacks_a_final_word_is_called_out_of_date_when_the_worker_had_the_time_for_it(
    world: World, ago_s: int
) -> None:
    start = datetime.now(UTC) - timedelta(seconds=4000)  # not NOW: other tests ran since
    log = Log().tell(event("sent", start=start), event("deferred", at=10, start=start))
    (name,) = log.known
    log.alert(name, "raised")
    last = event("delivered", start=start, at=4000 - ago_s)
    log.add(topics.EVENTS, records.encode_event(last, "mail.raw.x/0/0"))  # and no status, as of a stopped partition
    world.tell(log)
    for path in (f"/deliveries/{name}", invoice_of("INV-1")):
        text = await page(world, path)
        assert ("The status is out of date" in text) is (ago_s > 60)
        assert ("Contact the recipient now." in text) is (ago_s < 60)
    found = await (await world.client.get(f"/api/v1/deliveries/{name}")).json()
    assert found["status_is_behind"]
    world.tell(log.tell(last))
    assert "The status is out of date" not in await page(world, f"/deliveries/{name}")
    found = await (await world.client.get(f"/api/v1/deliveries/{name}")).json()
    assert not found["status_is_behind"]


async def test_nobody_is_told_to_wait_for_a_word_that_does_not_come_any_more(world: World) -> None:
    for number, days in enumerate((6, 8)):
        world.tell(
            Log().tell(event("sent", message_id=f"m{number}", reference=f"INV-{days}", start=NOW - timedelta(days)))
        )
    for path in ("/", "/export.csv"):
        text = await page(world, path)
        assert text.count("Wait. It will become delivered") == 1
        assert text.count("Do not wait any longer") == 1
    assert "Wait. It will become delivered" in await page(world, invoice_of("INV-6"))
    text = await page(world, invoice_of("INV-8"))
    assert "nothing more is known here after a week" in text
    assert "Wait. It will become delivered" not in text
    world.tell(Log().tell(event("sent", start=NOW - timedelta(8)), event("deferred", at=5, start=NOW - timedelta(8))))
    assert "Do not wait any longer" not in await page(world, invoice_of("INV-1"))


async def test_a_deferral_that_expired_says_so_and_is_not_deferred_now(world: World) -> None:
    until = NOW + timedelta(minutes=5)
    log = Log().tell(
        event("deferred", retry_until=until, reason="451 later", attempt=4), event("sent", message_id="m2")
    )
    name = next(iter(log.known))
    world.tell(log)
    assert "<strong>1</strong> message waits" in await page(world, "/deferred")
    ended = {"code": "resolved_expired", "meaning": "No final word ever came.", "what_to_do": "Ask whether it arrived."}
    log.alert(name, "raised", id="a" * 32, retry_until=until.isoformat())
    log.alert(name, "resolved", outcome="expired", advice=ended, duration_s=9.0, attempts=4)
    world.tell(log)
    assert "Nothing is deferred" in await page(world, "/deferred")
    assert (await (await world.client.get("/api/v1/deferrals")).json())["items"] == []
    text = await page(world, f"/deliveries/{name}")
    for said in (ended["meaning"], ended["what_to_do"], "no final word came", "451 later", "<dd>4</dd>"):
        assert said in text
    for said in ("Deferred for", "The provider tries until", "Contact the recipient now."):
        assert said not in text
    assert ended["what_to_do"] in await page(world, "/")
    item = await (await world.client.get(f"/api/v1/deliveries/{name}")).json()
    assert (item["advice"], item["alert"], item["attempts"]) == (ended, None, 4)


async def test_a_drop_shows_the_list_since_when_and_whom_to_ask(world: World) -> None:
    world.tell(Log().tell(event("dropped", suppression_list="spam")))
    text = await page(world, invoice_of("INV-1"))
    assert words.LISTS["spam"] in text
    assert "at the latest" in text
    assert 'href="https://support.example.net/manual-send"' in text


async def test_an_open_says_what_it_proves_and_whether_a_machine_did_it(world: World) -> None:
    world.tell(Log().tell(event("delivered"), event("machine_open", at=5, machine=True)))
    text = await page(world, invoice_of("INV-1"))
    assert words.ONLY_MACHINE_OPENED in text
    world.tell(Log().tell(event("open", message_id="m2", reference="INV-2", machine=False)))
    text = await page(world, invoice_of("INV-2"))
    assert words.OPENED in text
    assert words.MACHINE_OPENED not in text


@pytest.mark.parametrize("kind", ["hard", "block", "soft", "undetermined"])
async def test_no_server_is_said_to_have_refused_what_it_may_never_have_seen(world: World, kind: str) -> None:
    world.tell(Log().tell(event("bounce", bounce_kind=kind, reason="4.4.7 Delivery time expired")))
    text = await page(world, invoice_of("INV-1"))
    assert (words.EVENTS["bounce"] in text) is (kind in {"hard", "block"})
    assert (words.GIVEN_UP in text) is (kind in {"soft", "undetermined"})


async def test_an_event_that_came_out_of_order_is_marked_late(world: World) -> None:
    world.tell(
        Log().tell(event("sent"), event("open", at=900, received=901), event("delivered", at=100, received=1000))
    )
    text = await page(world, invoice_of("INV-1"))
    assert text.count("late: received") == 1
    text = text.partition("Timeline")[2]
    order = [text.index(words.EVENTS[kind]) for kind in ("sent", "delivered", "open")]
    assert order == sorted(order)


async def test_a_delivery_without_a_reference_has_a_page_of_its_own(world: World) -> None:
    log = Log().tell(event("delivered", reference=None))
    world.tell(log)
    text = await page(world, f"/deliveries/{next(iter(log.known))}")
    assert "A message without a reference" in text


async def test_filters_counts_and_pages(tmp_path: Path) -> None:
    async with served(sqlite_url(tmp_path), HISTORY__PAGE_SIZE="10") as world:
        log = Log()
        for number in range(25):
            start = NOW - timedelta(days=number, hours=1)
            log.tell(
                event(
                    "delivered" if number % 5 else "bounce",
                    message_id=f"m{number}",
                    reference=f"R-{number}",
                    start=start,
                )
            )
        world.tell(log)
        seen, path = [], "/"
        while path:
            text = await page(world, path)
            seen += re.findall(r">(?:<bdi>)(R-\d+)<", text)
            following = re.search(r'rel="next" href="([^"]+)"', text)
            path = following[1].replace("&amp;", "&") if following else ""
        assert seen == [f"R-{number}" for number in range(25)]
        assert re.search(r'Bounced <span class="count">5<', await page(world, "/"))
        bounced = await page(world, "/?status=bounced")
        assert re.findall(r"<bdi>(R-\d+)<", bounced) == ["R-0", "R-5", "R-10", "R-15", "R-20"]
        day = (NOW - timedelta(days=7, hours=1)).date().isoformat()
        assert re.findall(r"<bdi>(R-\d+)<", await page(world, f"/?from={day}&to={day}")) == ["R-7"]
        assert "Nothing fits" in await page(world, "/?provider=mailgun")


async def test_a_search_finds_by_beginning_in_any_case_and_goes_on_to_further_pages(tmp_path: Path) -> None:
    async with served(sqlite_url(tmp_path), HISTORY__PAGE_SIZE="10") as world:
        log = Log()
        for number in range(15):
            log.tell(
                event(
                    "delivered",
                    message_id=f"m{number}",
                    reference=f"Inv-{number:02}",
                    recipient=f"Ann{number}@Example.net",
                )
            )
        world.tell(log)
        text = await page(world, "/search", q="INV-")
        cursor = re.search(r'name="cursor" value="([^"]+)"', text)
        assert cursor is not None
        second = await page(world, "/search", q="INV-", by="reference", cursor=cursor[1])
        found = re.findall(r"<bdi>(Inv-\d+)<", text + second)
        assert sorted(found) == [f"Inv-{number:02}" for number in range(15)]
        assert re.findall(r"<bdi>(Inv-\d+)<", await page(world, "/search", q="ANN7@example.NET")) == ["Inv-07"]
        assert "Inv-07" in await page(world, "/search", q="ann7")


@pytest.mark.parametrize("said", ["Ann@xn--mller-kva.example", "ann@Müller.example"])
@pytest.mark.parametrize("typed", ["ann@müller.example", "ANN@MÜLLER.EXA", "ann@mu\u0308", "ann@xn--mller-kva.example"])
async def test_an_address_is_found_however_its_domain_is_written(world: World, said: str, typed: str) -> None:
    world.tell(Log().tell(event("delivered", recipient=said)))
    assert "INV-1" in await page(world, "/search", q=typed)
    assert "Nothing found" in await page(world, "/search", q="ann@muller.example")


@pytest.mark.parametrize(
    "typed", ["Ann Berg <ann@example.net>", " <Ann@Example.net> ", '"Berg, Ann" <ann@example.net>']
)
async def test_an_address_is_found_as_a_mail_program_shows_it(world: World, typed: str) -> None:
    world.tell(Log().tell(event("delivered", recipient="ann@example.net")))
    assert "INV-1" in await page(world, "/search", q=typed)
    assert "Nothing found" in await page(world, "/search", q="Ann Berg <bob@example.net>")


@pytest.mark.parametrize("typed", ["x < >", "x <a>", "x < @ >"])
async def test_a_search_for_no_address_in_angle_brackets_does_not_find_everybody(world: World, typed: str) -> None:
    world.tell(Log().tell(event("delivered", recipient="ann@example.net")))
    assert "Nothing found" in await page(world, "/search", q=typed)
    answer = await world.client.post("/api/v1/search", json={"recipient": typed, "prefix": True})
    assert (answer.status, "ann@example.net" in await answer.text()) == (200, False)


async def test_a_search_is_found_again_under_a_name_that_says_nothing(world: World) -> None:
    world.tell(Log().tell(event("sent")))
    answer = await world.client.post("/search", data={"q": "ann@"}, allow_redirects=False)
    assert answer.status == 303
    path = answer.headers["Location"]
    assert re.fullmatch(r"/search/[A-Za-z0-9_-]{22}", path)
    assert "INV-1" in await page(world, path)
    again = await world.client.post("/search", data={"q": "ann@"}, allow_redirects=False)
    assert again.headers["Location"] == path
    assert "search again" in await page(world, "/search/" + 22 * "a", status=404)


def test_searches_are_few_are_forgotten_and_belong_to_one_viewer() -> None:
    now, one, other = 0.0, Viewer(frozenset({"a"})), Viewer(frozenset({"b"}))
    searches = Searches(most=4, now=lambda: now)
    kept = [Search(text=text, kinds=("reference",), cursor=None) for text in ("first", "second", "third")]
    theirs = searches.keep(other, kept[0])
    names = [searches.keep(one, kept[0]), searches.keep(one, kept[1])]
    assert searches.find(one, theirs) is None
    assert searches.find(one, names[0]) == kept[0]
    names.append(searches.keep(one, kept[2]))  # more than its share: what it did not look at for longest goes
    assert [searches.find(one, name) for name in names] == [kept[0], None, kept[2]]
    assert searches.find(other, theirs) == kept[0]
    now = KEPT_S + 1
    assert searches.find(other, theirs) is None


async def test_a_status_that_only_a_newer_worker_knows_is_counted_and_leads_nowhere(world: World) -> None:
    batch = Log().tell(event("sent"), event("sent", message_id="m2")).take()
    newer = codecs.decode(batch[topics.STATUS_CHANGED, 0][0][1] or b"") | {"status": "lost&found"}
    kept = Log()
    kept.add(topics.STATUS_CHANGED, codecs.encode(newer))
    kept.add(topics.STATUS_CHANGED, batch[topics.STATUS_CHANGED, 0][1][1])
    world.tell(kept)
    tabs = (await page(world, "/")).partition('aria-label="By status"')[2].partition("</nav>")[0]
    assert "Lost&amp;found" in tabs
    links = re.findall(r'href="([^"]+)"', tabs)
    assert len(links) == 1 + len(queries.STATUSES)
    for link in links:
        await page(world, link.replace("&amp;", "&"))


async def test_the_next_page_of_the_longest_references_is_shown_and_saved(tmp_path: Path) -> None:
    text = "\N{GRINNING FACE}" * projection.LONGEST_KEY
    async with served(sqlite_url(tmp_path), HISTORY__PAGE_SIZE="10") as world:
        world.tell(Log().tell(*(event("sent", message_id=f"m{number}", reference=text) for number in range(15))))
        cursor = re.search(r'name="cursor" value="([^"]+)"', await page(world, "/search", q=text))
        assert cursor is not None
        assert len(cursor[1]) > 1000
        form: dict[str, Any] = {"q": text, "by": "reference", "cursor": cursor[1]}
        assert (await page(world, "/search", **form)).count("<tr") == 5 + 1
        answer = await world.client.post("/export.csv", data=form)
        assert answer.status == 200
        asked = {"reference": text, "cursor": cursor[1]}
        answer = await world.client.post("/api/v1/search", json=asked | {"prefix": True})
        assert len((await answer.json())["items"]) == 5


async def test_hostile_content_in_every_field_from_outside_stays_text(world: World) -> None:
    log = Log(support_contact=HOSTILE)
    more: dict[str, Any] = {
        "reference": HOSTILE,
        "recipient": f"{HOSTILE}@example.net",
        "message_id": HOSTILE,
        "provider": HOSTILE,
    }
    said: dict[str, Any] = {
        "reason": HOSTILE,
        "user_agent": HOSTILE,
        "tags": (HOSTILE,),
        "metadata": {HOSTILE: HOSTILE},
        "provider_event": HOSTILE,
    }
    log.tell(
        event("sent", account=HOSTILE, **more, **said),
        event("deferred", at=5, account=HOSTILE, **more, **said),
    )
    name = next(iter(log.known))
    log.alert(name, "raised", reason=HOSTILE, advice={"code": HOSTILE, "meaning": HOSTILE, "what_to_do": HOSTILE})
    log.alert(name, "resolved", id="f" * 32, outcome=HOSTILE, episode=0)
    log.tell(event("bounce", message_id="b", account=HOSTILE, reference=HOSTILE, **said))
    log.tell(event("dropped", message_id="d", account=HOSTILE, reference=HOSTILE, **said))
    world.tell(log)
    for text in (
        await page(world, "/"),
        await page(world, "/deferred"),
        await page(world, invoice_of(HOSTILE)),
        await page(world, f"/deliveries/{name}"),
        await page(world, "/search", q=HOSTILE[:12]),
        await page(world, "/search", q=HOSTILE + "none"),
    ):
        assert "alert(1)" in text
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "onerror=alert(2)>" not in text
        assert "\u202e" not in re.sub(r'="[^"]*"', "", text)
        assert "49" not in re.sub(r"\d{2}:\d{2}:\d{2}|[\d-]{10}", "", re.sub(r"<[^>]+>", "", text))


@pytest.mark.parametrize(
    "path",
    [
        "/?status=lost",
        "/?status=sent'--",
        "/?from=yesterday",
        "/?from=2026-13-01",
        "/?from=20260101",
        "/?from=2026-02-01&to=2026-01-01",
        "/?cursor=x",
        "/?cursor=WyJhIiwgMV0",
        "/?cursor=WzEsMl0",
        "/?cursor=" + "W" * 999,
        "/?cursor=" + "A" * 2000,
        "/?who=me",
        "/?account=" + "a" * 1001,
        "/?account=%00",
        "/invoices",
        "/invoices?reference=ann@example.net",
        "/live?account=acme",
        "/deferred?status=sent",
        "/export.csv?cursor=x",
    ],
)
async def test_a_malformed_question_is_refused_and_not_said_back(world: World, path: str) -> None:
    text = await page(world, path, status=400)
    assert "ann@example.net" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/invoices/xyz",
        "/deliveries/UP",
        "/static/../pages.py",
        "/static/%2e%2e%2fpages.py",
        "/static/none.js",
        invoice_of("none"),
        "/deliveries/" + "a" * 26,
    ],
)
async def test_what_is_not_there_is_not_found(world: World, path: str) -> None:
    await page(world, path, status=404)


async def test_a_body_that_is_too_large_or_no_form_is_refused(world: World) -> None:
    await page(world, "/search", status=413, q="a" * (MAX_BODY_BYTES + 1))
    answer = await world.client.post(
        "/search", data=b"--x\r\nbroken", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status == 415
    answer = await world.client.post(
        "/search", data=b"\xff\xfe=%ff&q=%00", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.status == 400
    answer = await world.client.put("/search", data=b"x")
    assert answer.status == 405


async def test_sql_in_a_search_is_a_text_like_any_other(world: World) -> None:
    world.tell(Log().tell(event("delivered")))
    for text in (
        "' OR 1=1 --",
        "INV-1' UNION SELECT * FROM deliveries --",
        "%",
        "__",
        "\\",
        "'; DROP TABLE deliveries; --",
    ):
        if len(text) > 1:
            assert "Nothing found" in await page(world, "/search", q=text)
    assert "INV-1" in await page(world, "/search", q="inv-1")


async def test_a_link_by_reference_leads_to_the_invoice(world: World) -> None:
    world.tell(Log().tell(event("sent")))
    for reference in ("INV-1", "inv-1"):  # people type it as they like
        answer = await world.client.get("/invoices", params={"reference": reference}, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, invoice_of("INV-1"))


async def test_a_link_by_a_reference_that_several_invoices_may_mean_leads_to_a_search(world: World) -> None:
    world.tell(Log().tell(event("sent"), event("sent", message_id="m2", reference="inv-1")))
    text = await page(world, "/invoices?reference=Inv-1")
    for reference in ("INV-1", "inv-1"):
        assert f'href="{invoice_of(reference)}"' in text
        answer = await world.client.get("/invoices", params={"reference": reference}, allow_redirects=False)
        assert answer.headers["Location"] == invoice_of(reference)
    answer = await world.client.post("/api/v1/history", json={"reference": "Inv-1"})
    assert (answer.status, "several invoices" in await answer.text()) == (404, True)


async def test_no_address_is_in_any_link(world: World) -> None:
    log = Log().tell(event("deferred"), event("sent", message_id="m2", reference="ann@example.net"))
    world.tell(log)
    for path in ("/", "/deferred", invoice_of("INV-1"), invoice_of("ann@example.net")):
        text = await page(world, path)
        links = re.findall(r'(?:href|action|src|hx-get|hx-post|sse-connect)="([^"]*)"', text)
        assert len(links) > 5
        assert not [link for link in links if "@" in link or "%40" in link]


async def test_a_csv_file_has_the_rows_and_no_formula(world: World) -> None:
    log = Log()
    for number, text in enumerate(["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "plain"]):
        log.tell(
            event("deferred", message_id=f"m{number}", reference=text, reason=text, recipient=f"{text}x@example.net")
        )
    world.tell(log)
    answer = await world.client.get("/export.csv")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    rows = list(csv.DictReader(io.StringIO((await answer.text()).removeprefix("\ufeff"))))
    assert len(rows) == 7
    assert not [cell for row in rows for cell in row.values() if cell[:1] in set("=+-@\t\r")]
    assert {row["status"] for row in rows} == {"deferred"}
    answer = await world.client.post("/export.csv", data={"q": "plain", "by": "reference"})
    assert len(list(csv.DictReader(io.StringIO(await answer.text())))) == 1
    assert (await world.client.post("/export.csv", data={"q": "plain"})).status == 400


def test_a_cell_that_a_spreadsheet_would_calculate_becomes_text() -> None:
    assert safe("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert safe("\u202e=1") == "'=1"
    assert safe("INV-1") == "INV-1"
    assert safe(None) == ""


@pytest.mark.parametrize(
    "answer",
    ["450 later;=cmd|' /C calc'!A0;", '450 later;"=1+1;', "450 later;\u200b+1", "450 later;\t@SUM(1)", ";;-1"],
)
def test_no_cell_is_calculated_where_the_separator_of_cells_is_a_semicolon(answer: str) -> None:
    line = export._lines([["INV-1", safe(answer), safe("ann@example.net")]])
    cells = next(csv.reader([line], delimiter=";"))
    assert len(cells) > 1
    assert not any(cell.strip().startswith(("=", "+", "-", "@")) for cell in cells)
    assert safe("451 4.7.1; try later; code -5") == "451 4.7.1; try later; code -5"


async def test_an_export_ends_at_its_limit(tmp_path: Path) -> None:
    async with served(sqlite_url(tmp_path), HISTORY__EXPORT_ROWS="3") as world:
        log = Log()
        for number in range(5):
            log.tell(event("delivered", message_id=f"m{number}"))
        world.tell(log)
        lines = list(csv.reader(io.StringIO(await (await world.client.get("/export.csv")).text())))
        assert [line[2] for line in lines[1:-1]] == ["delivered"] * 3
        assert lines[-1][0].startswith("THE FILE ENDS HERE")
        assert "the newest 3 of 5" in await page(world, "/")
        form = {"q": "INV-1", "by": "reference"}
        assert "THE FILE ENDS HERE" in await (await world.client.post("/export.csv", data=form)).text()
    async with served(sqlite_url(tmp_path), HISTORY__EXPORT_ROWS="5") as world:
        text = await (await world.client.get("/export.csv")).text()
        assert len(text.splitlines()) == 6
        assert "THE FILE ENDS HERE" not in text
        assert "the newest" not in (await page(world, "/")).partition("export")[2]


@pytest.mark.parametrize("path", ["/export.csv", "/live", "/api/v1/live", "/", "/deferred", "/api/v1/counts", "/none"])
async def test_no_answer_to_head_has_a_body(world: World, path: str) -> None:
    head = b"HEAD %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    before, _, after = (
        await world.talk(head % (path.encode(), b"") + head % (b"/none", b"Connection: close\r\n"))
    ).partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1.1 (200|404|405) ", before)
    assert (b" 405 " in before) is (path in {"/export.csv", "/live", "/api/v1/live"})
    assert re.fullmatch(rb"HTTP/1.1 404 .*?\r\n\r\n", after, re.DOTALL), "the next answer begins where this one ends"


@pytest.mark.parametrize(
    "error", [TooSlowError(), sa.exc.OperationalError("ann@example.net", {}, Exception()), KeyError()]
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_export_that_fails_within_is_cut_and_is_no_second_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, version: str
) -> None:
    monkeypatch.setattr(Access, "is_bypassed", lambda *_: False)  # as with a key, for which HTTP/1.0 will do
    monkeypatch.setattr(export, "AT_ONCE", 2)
    world.tell(Log().tell(*(event("delivered", message_id=f"m{number}") for number in range(5))))
    newest, asked = queries.newest, 0

    def fails(*more: Any) -> queries.Page:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise error
        return newest(*more)

    monkeypatch.setattr(queries, "newest", fails)
    answer = await world.talk(f"GET /export.csv HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
    assert asked == 2
    assert answer.count(b"HTTP/1.") == 1
    assert b"<html" not in answer
    assert b"ann@example.net" not in answer.partition(b"\r\n\r\n")[0]
    assert type(error).__name__ in caplog.text
    assert "@" not in caplog.text
    if version == "1.1":
        assert not answer.endswith(b"0\r\n\r\n"), "the end of chunks would say that it is whole"
    else:  # the end of the connection says that it is whole; so the last line has to say that it is not
        assert answer.rstrip().splitlines()[-1].startswith(b'"THE FILE IS NOT WHOLE')
    assert (await world.client.get("/export.csv")).status == 200


async def test_a_mistake_within_an_answer_cuts_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(*_: object) -> bytes:
        raise RuntimeError("ann@example.net")

    monkeypatch.setattr(Subscription, "next", mistaken)
    answer = await world.talk(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.count(b"HTTP/1.") == 1
    assert b"<html" not in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert "RuntimeError" in caplog.text
    assert "ann@" not in caplog.text


@pytest.mark.parametrize("path", ["/search", "/api/v1/search", "/export.csv"])
@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"Content-Encoding: gzip\r\nContent-Length: 3", b"q=x"),
        (b"Content-Encoding: deflate\r\nContent-Length: 3", b"q=x"),
        (b"Transfer-Encoding: chunked", b"zz\r\n\r\n"),
    ],
)
async def test_a_body_that_is_not_as_its_header_says_is_refused(
    world: World, caplog: pytest.LogCaptureFixture, path: str, header: bytes, body: bytes
) -> None:
    kind = b"application/json" if path.startswith("/api/") else b"application/x-www-form-urlencoded"
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n%s\r\n\r\n"
    answer = await world.talk(head % (path.encode(), kind, header), body)
    assert re.match(rb"HTTP/1.[01] 400 ", answer)  # 1.0, where the body's end came before anybody asked for the body
    assert answer.count(b"HTTP/1.") == 1
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]


async def test_static_files_are_those_that_were_vendored(world: World) -> None:
    listed = dict(
        re.findall(
            r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$",
            resources.files("streams.history").joinpath("static/VENDORED.md").read_text(),
            re.MULTILINE,
        )
    )
    assert len(listed) == 2
    for name, digest in listed.items():
        answer = await world.client.get(f"/static/{name}")
        assert hashlib.sha256(await answer.read()).hexdigest() == digest
    text = await page(world, "/")
    for link in re.findall(r'"(/static/[^"]+)"', text):
        answer = await world.client.get(link)
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]


async def test_what_comes_from_another_host_is_not_served(world: World) -> None:
    for host in ("evil.example", "evil.example:19103", "127.0.0.1.evil.example", ""):
        assert (await world.client.get("/", headers={"Host": host})).status == 421
    for host in ("localhost:19103", "127.0.0.1", "[::1]:19103", "LOCALHOST"):
        assert (await world.client.get("/", headers={"Host": host})).status == 200


async def test_a_mistake_of_ours_is_answered_and_logged_without_what_was_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(queries, "search", mistaken)
    text = await page(world, "/search", status=500, q="ann@example.net")
    assert "ann@" not in text
    assert "a mistake of ours" in caplog.text
    assert "ann@" not in caplog.text


async def test_no_address_is_logged_whatever_is_asked_and_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    log = Log().tell(event("deferred"))
    log.add(topics.STATUS_CHANGED, b'{"delivery_id": "a", "revision": 1, "recipient": "ann@example.net"}')
    world.tell(log)
    for path in ("/", "/?account=ann@example.net", "/invoices?reference=ann@example.net", "/ann@example.net"):
        await world.client.get(path)
    await world.client.post("/search", data={"q": "ann@example.net"})
    await world.client.post("/api/v1/search", json={"recipient": "ann@example.net", "cursor": "ann@example.net"})
    with pytest.raises(sa.exc.DBAPIError) as error, world.kept.database.write() as connection:
        connection.execute(sa.insert(schema.deliveries), {"delivery_id": "a", "recipient_key": "ann@example.net"})
    assert "ann@" not in str(error.value)
    assert "ann@" not in caplog.text


@pytest.mark.parametrize(
    "malformed",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization : Bearer SECRETKEY\r\n\r\n",
        b"SECRETKEY\r\n\r\n",
        b"GET /SECRETKEY HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: SECRETKEY\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_quoted_neither_in_the_answer_nor_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture, malformed: bytes
) -> None:
    caplog.set_level("DEBUG")
    answer = await world.talk(malformed)
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert answer.endswith(b"\r\n\r\nbroken\n")
    assert "SECRETKEY" not in caplog.text
