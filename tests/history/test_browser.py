"""The pages in a real Chromium: what people see and do. Screenshots for a person are kept in ``var/screenshots``."""

import asyncio
import contextlib
import itertools
import os
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
import sqlalchemy as sa
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from streams.history import projection, schema
from tests.history.support import NOW, Log, World, event, served, sqlite_url
from tests.installed import absent

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SHOTS = Path(__file__).parents[2] / "var" / "screenshots"
HOSTILE = "\"'><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b style=color:red>\u202ebold</b>"
INVOICE = f"/invoices/{projection.invoice_id('INV-2026-0042')}"

_numbers = itertools.count(1)

pytestmark = [
    pytest.mark.skipif(absent(CHROMIUM), reason="Chromium is not installed: apt-get install chromium"),
    pytest.mark.asyncio(loop_scope="module"),  # as of the browser, which all tests share
]


def six(log: Log) -> Log:
    """Tell of one invoice with a delivery in each of the six statuses, and of some others."""
    start = NOW - timedelta(hours=3)

    def tell(type_: str, name: str, at: float, **more: Any) -> None:
        more.setdefault("reference", "INV-2026-0042")
        log.tell(event(type_, message_id=f"<{name}>", recipient=f"{name}@customer.example", at=at, start=start, **more))

    for name in ("sent", "delivered", "opened", "bounced", "deferred"):
        tell("sent", name, 0)
    tell("delivered", "delivered", 4, reason="250 2.0.0 OK: queued as 4711", smtp_code=250, enhanced_code="2.0.0")
    tell("open", "opened", 1800, user_agent="Mozilla/5.0 (X11; Linux x86_64)")
    tell("delivered", "opened", 6, received=2000, reason="250 2.0.0 OK", smtp_code=250)
    tell("machine_open", "opened", 1900, machine=True, user_agent="GoogleImageProxy")
    tell(
        "bounce",
        "bounced",
        9,
        reason="550 5.1.1 The e-mail account does not exist",
        smtp_code=550,
        enhanced_code="5.1.1",
    )
    for number in range(4):
        at = 10 + 1500 * number
        tell(
            "deferred",
            "deferred",
            at,
            reason="451 4.7.1 Greylisting in action",
            smtp_code=451,
            enhanced_code="4.7.1",
            attempt=number + 1,
        )
    tell("dropped", "dropped", 3, suppression_list="bounce", reason="Bounced Address")
    waiting = next(name for name, delivery in log.known.items() if delivery.recipient[2].startswith("deferred"))
    log.alert(
        waiting,
        "raised",
        advice={
            "code": "deferral_raised",
            "meaning": "The recipient's mail server has not taken the message for an hour.",
            "what_to_do": "Contact the recipient by another way, and ask whether they block us.",
        },
    )
    for number in range(12):
        name, reference = f"payer{number}", f"INV-2026-{number + 50:04}"
        tell("sent", name, 100 + number, reference=reference)
        tell("delivered", name, 200 + number, reference=reference)
    return log


@pytest_asyncio.fixture(loop_scope="module")
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with served(sqlite_url(tmp_path), HISTORY__PAGE_SIZE="10") as world:
        world.tell(six(Log()))
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def opened(browser: Browser, world: World, path: str, **context: Any) -> AsyncIterator[Page]:
    """Yield a page; whatever its console complains about fails the test, a breach of the CSP included."""
    context.setdefault("viewport", {"width": 1280, "height": 900})
    async with await browser.new_context(base_url=str(world.client.make_url("/")), **context) as made:
        page = await made.new_page()
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(path)
        yield page
        assert complaints == []


async def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


async def assert_accessible(page: Page) -> None:
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_are_accessible_and_can_be_read(browser: Browser, world: World, scheme: str) -> None:
    for name, path in (
        ("list", "/"),
        ("invoice", INVOICE),
        ("deferred", "/deferred"),
        ("empty", "/?provider=none"),
        ("not-found", "/nothing"),
    ):
        async with contextlib.AsyncExitStack() as stack:
            if name == "not-found":  # the console says that it was a 404, and is right
                made = await stack.enter_async_context(
                    await browser.new_context(base_url=str(world.client.make_url("/")), color_scheme=scheme)  # type: ignore[arg-type]
                )
                page = await made.new_page()
                await page.goto(path)
            else:
                page = await stack.enter_async_context(opened(browser, world, path, color_scheme=scheme))
            await assert_accessible(page)
            await shot(page, f"{name}-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_what_is_seen_less_often_is_accessible_too(
    browser: Browser, world: World, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "locked").mkdir()
    key = {"ACCOUNTS__ACME__HISTORY_KEYS": "0" * 64}
    with world.kept.database.read() as connection:
        names = list(connection.scalars(sa.select(schema.deliveries.c.delivery_id).order_by("status").limit(3)))
    async with (
        served(sqlite_url(tmp_path / "empty")) as empty,
        served(sqlite_url(tmp_path / "locked"), **key) as locked,
    ):
        for name in names:
            async with opened(browser, world, f"/deliveries/{name}", color_scheme=scheme) as page:
                await assert_accessible(page)
                await shot(page, f"delivery-{scheme}")
        async with opened(browser, empty, "/", color_scheme=scheme) as page:
            await expect(page.get_by_text("Nothing was sent yet")).to_be_visible()
            await assert_accessible(page)
            await shot(page, f"nothing-yet-{scheme}")
        world.tell(Log(first_offset=5000).tell(event("sent", reference="payer-list", message_id="p", start=NOW)))
        for text, tables in (("payer", 2), ("payer1", 1), ("nobody", 0)):
            async with opened(browser, world, "/", color_scheme=scheme) as page:
                await page.get_by_role("searchbox").fill(text)
                await page.get_by_role("button", name="Search").click()
                await expect(page.get_by_role("table")).to_have_count(tables)
                await assert_accessible(page)
                await shot(page, f"search-{tables}-{scheme}")
        answer = await locked.client.get("/")
        assert answer.status == 401
        text = await answer.text()
        async with await browser.new_context(base_url=str(world.client.make_url("/")), color_scheme=scheme) as made:
            page = await made.new_page()
            # a browser shows it to whoever gives up to type a key, and this one has nobody who types
            await page.route("**/locked", lambda route: route.fulfill(body=text, content_type="text/html"))
            await page.goto("/locked")
            await expect(page.get_by_text("A key of an account is needed")).to_be_visible()
            await assert_accessible(page)
            await shot(page, f"locked-{scheme}")


async def test_axe_finds_what_is_wrong(browser: Browser, world: World) -> None:
    async with opened(browser, world, "/") as page:
        await page.evaluate("document.querySelector('#q').labels.forEach(label => label.remove())")
        await page.evaluate("document.querySelector('#q').placeholder = ''")
        assert (await Axe().run(page)).violations_count > 0


async def test_each_status_has_an_icon_a_word_a_time_and_advice(browser: Browser, world: World) -> None:
    async with opened(browser, world, INVOICE) as page:
        for status in ("sent", "delivered", "opened", "bounced", "deferred", "dropped"):
            article = page.locator("article", has=page.get_by_role("heading", name=f"{status}@customer.example"))
            badge = article.locator("header .status").first
            await expect(badge).to_have_text(status.capitalize())
            await expect(badge.locator("svg")).to_be_visible()
            await expect(article.locator("header time .ago")).to_have_text(re.compile("hours? ago"))
            await expect(article.locator("header time .exact")).to_have_text(re.compile(r"^\d{4}-\d\d-\d\d .* UTC$"))
            await expect(article.get_by_text("What to do:")).to_be_visible()
        await expect(page.get_by_text("Contact the recipient by another way")).to_be_visible()


async def test_a_person_filters_searches_and_goes_to_an_invoice_by_keyboard_alone(
    browser: Browser, world: World
) -> None:
    async with opened(browser, world, "/") as page:
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to the content")).to_be_focused()
        await page.get_by_role("link", name="Bounced").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("tbody tr")).to_have_count(1)
        await page.get_by_role("searchbox").focus()
        await page.keyboard.type("deferred@")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("References and recipients that begin with")
        assert "@" not in page.url
        await page.locator("tbody a").first.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("INV-2026-0042")


async def test_a_page_changes_by_itself_and_keeps_the_focus(browser: Browser, world: World) -> None:
    log = Log(first_offset=5000)
    async with opened(browser, world, "/") as page:
        row = page.locator("tbody tr", has=page.get_by_text("INV-LIVE"))
        await expect(row).to_have_count(0)
        world.tell(log.tell(event("sent", reference="INV-LIVE", message_id="live", start=NOW)))
        await expect(row.locator(".status")).to_have_text("Sent")
        await row.get_by_role("link").focus()
        world.tell(log.tell(event("deferred", reference="INV-LIVE", message_id="live", at=3, start=NOW)))
        await expect(row.locator(".status")).to_have_text("Deferred")
        await expect(row.get_by_role("link")).to_be_focused()
        log.alert(next(iter(log.known)), "raised")
        world.tell(log)
        await expect(row.locator(".status")).to_have_text(["Deferred", "Raised"])
        world.tell(log.tell(event("delivered", reference="INV-LIVE", message_id="live", at=9, start=NOW)))
        await expect(row.locator(".status")).to_have_text(["Delivered"])


SEEN = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true}); document.dispatchEvent(new Event('visibilitychange')) }"
"""What a change of tabs is to a page; a browser without a screen takes all its tabs for seen."""


async def listening(world: World, pages: int) -> None:
    """Wait until so many pages listen."""
    async with asyncio.timeout(20):
        while len(world.built.hub) != pages:
            await asyncio.sleep(0.01)


async def test_a_page_listens_while_it_is_seen_and_then_shows_what_it_missed(browser: Browser, world: World) -> None:
    log = Log(first_offset=5000)
    async with opened(browser, world, "/") as page:
        row = page.locator("tbody tr", has=page.get_by_text("INV-LIVE"))
        await listening(world, 1)
        await page.evaluate(SEEN, True)
        await listening(world, 0)
        world.tell(log.tell(event("sent", reference="INV-LIVE", message_id="live", start=NOW)))
        await page.evaluate(SEEN, False)
        await expect(row.locator(".status")).to_have_text("Sent")
        await listening(world, 1)
        world.tell(log.tell(event("deferred", reference="INV-LIVE", message_id="live", at=3, start=NOW)))
        await expect(row.locator(".status")).to_have_text("Deferred")


async def test_more_tabs_are_open_than_a_browser_has_connections(browser: Browser, world: World) -> None:
    async with await browser.new_context(base_url=str(world.client.make_url("/"))) as made:
        for _ in range(8):
            page = await made.new_page()
            await page.goto("/", timeout=10_000)
            await listening(world, 1)
            await page.evaluate(SEEN, True)
            await listening(world, 0)


async def test_a_page_that_was_refused_listens_later_and_once(
    browser: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.built.hub, "_most", 0)
    async with await browser.new_context(base_url=str(world.client.make_url("/"))) as made:
        page = await made.new_page()
        async with page.expect_response(lambda answer: answer.status == 503):  # the console says so, and is right
            await page.goto("/")
        await page.evaluate(SEEN, True)
        monkeypatch.setattr(world.built.hub, "_most", 10)
        await page.evaluate(SEEN, False)
        await listening(world, 1)
        await changed(page, world, "INV-2026-0042")
        assert len(world.built.hub) == 1


@pytest.mark.parametrize("name", ["Next page", "Back to the beginning"])
async def test_the_pager_keeps_the_focus_when_the_page_changes(browser: Browser, world: World, name: str) -> None:
    async with opened(browser, world, "/") as page:
        if name != "Next page":
            await page.get_by_role("link", name="Next page").click()
        await page.get_by_role("link", name=name).focus()
        await changed(page, world, "INV-2026-0042")
        await expect(page.get_by_role("link", name=name)).to_be_focused()


async def test_links_in_what_changes_keep_the_focus(browser: Browser, world: World) -> None:
    for path, role, name in (
        (f"/?cursor={BEYOND_THE_END}", "link", "Show all"),
        (INVOICE, "link", "https://support.example.net/manual-send"),
    ):
        async with opened(browser, world, path) as page:
            link = page.locator("#live").get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
            await link.focus()
            await changed(page, world, "INV-2026-0042")
            await expect(link).to_be_focused()
    async with opened(browser, world, "/") as page:
        await page.get_by_role("searchbox").fill("payer")
        await page.get_by_role("button", name="Search").click()
        for button in ("Next page of recipients", "Save these recipients as CSV"):
            await page.locator("#live").get_by_role("button", name=button).focus()
            await changed(page, world, "payer-list")
            await expect(page.locator("#live").get_by_role("button", name=button)).to_be_focused()


BEYOND_THE_END = "WzAsImEiXQ"
"""A cursor of the newest deliveries. The page has none; only its counts change."""


async def changed(page: Page, world: World, reference: str) -> None:
    """Let something change, and wait until the page was swapped."""
    await page.evaluate("document.querySelector('#live').dataset.old = 'yes'")
    number = next(_numbers)
    log = Log(first_offset=number * 100_000)
    world.tell(log.tell(event("sent", reference=reference, message_id=f"changed-{number}", start=NOW)))
    await expect(page.locator("#live[data-old]")).to_have_count(0)


async def test_a_page_that_cannot_be_loaded_again_says_so_until_it_can(browser: Browser, world: World) -> None:
    log = Log(first_offset=5000)
    login = "<!DOCTYPE html><title>Log in</title><form><input type=password></form>"
    async with await browser.new_context(
        base_url=str(world.client.make_url("/"))
    ) as made:  # the console tells of errors
        page = await made.new_page()
        await page.goto("/")
        notice = page.get_by_role("alert")
        row = page.locator("tbody tr", has=page.get_by_text("INV-LIVE"))
        for number, answer in enumerate(
            (
                lambda route: route.fulfill(status=503),
                lambda route: route.abort(),
                lambda route: route.fulfill(body=login, content_type="text/html"),
            )
        ):
            await page.route(str(world.client.make_url("/")), answer)
            world.tell(log.tell(event("deferred", reference="INV-LIVE", message_id=f"{number}", at=number, start=NOW)))
            await expect(notice).to_contain_text(re.compile(r"Not up to date since \d{4}-\d\d-\d\d .* UTC"))
            await expect(row).to_have_count(number)
            if number == 0:
                await assert_accessible(page)
                await shot(page, "out-of-date")
            await page.unroute_all()
            await page.evaluate("htmx.trigger('#live', 'again')")
            await expect(row).to_have_count(number + 1)
            await expect(notice).to_be_hidden()


LOADED = "window.loaded = new Promise(done => document.addEventListener('htmx:afterRequest', () => done(1), {once: true})); 0"
"""Lets ``window.loaded`` wait until the page was loaded again, whether it was swapped or not.

It ends with a number: ``evaluate`` itself waits for a promise that is the last value, here for the poll of each minute.
"""


async def test_a_page_does_not_change_under_a_persons_hands(browser: Browser, world: World) -> None:
    log = Log(first_offset=5000)
    async with opened(browser, world, "/") as page:
        await listening(world, 1)
        heading = page.locator("tbody tr").first.get_by_text("@customer.example")
        await heading.dblclick()
        selected = await page.evaluate("getSelection().toString()")
        assert selected
        world.tell(log.tell(event("sent", reference="INV-LIVE", message_id="live", start=NOW)))
        await expect(page.get_by_role("alert")).to_contain_text("as soon as no text is selected")
        assert await page.evaluate("getSelection().toString()") == selected
        await page.evaluate("getSelection().removeAllRanges()")
        await expect(page.get_by_role("alert")).to_be_hidden()
        row = page.locator("tbody tr", has=page.get_by_text("INV-LIVE"))
        await expect(row.locator(".status")).to_have_text("Sent")
        await row.get_by_role("link").hover()
        await page.mouse.down()
        await page.evaluate(LOADED)
        world.tell(log.tell(event("deferred", reference="INV-LIVE", message_id="live", at=3, start=NOW)))
        await page.evaluate("window.loaded")
        await page.mouse.up()
        await expect(page.get_by_role("heading", level=1)).to_have_text("INV-LIVE")


async def test_a_page_on_which_nothing_differs_is_left_as_it_is(browser: Browser, world: World) -> None:
    async with opened(browser, world, "/deferred?provider=none") as page:
        await page.evaluate("document.querySelector('#live').dataset.old = 'yes'")
        await page.evaluate(f"{LOADED}; htmx.trigger('#live', 'again'); 0")
        await page.evaluate("window.loaded")
        await expect(page.locator("#live[data-old]")).to_have_count(1)


async def test_a_searchs_page_changes_by_itself(browser: Browser, world: World) -> None:
    log = Log(first_offset=5000)
    async with opened(browser, world, "/") as page:
        await page.get_by_role("searchbox").fill("INV-SEARCHED")
        await page.get_by_role("button", name="Search").click()
        await expect(page.get_by_text("Nothing found")).to_be_visible()
        world.tell(log.tell(event("sent", reference="INV-SEARCHED-1", message_id="s", start=NOW)))
        await expect(page.locator("tbody tr")).to_have_count(1)


async def test_a_person_goes_back_to_what_a_search_found(browser: Browser, world: World) -> None:
    async with opened(browser, world, "/") as page:
        await page.get_by_role("searchbox").fill("deferred@")
        await page.get_by_role("button", name="Search").click()
        await page.locator("tbody a").first.click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("INV-2026-0042")
        await page.go_back()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.get_by_role("searchbox")).to_have_value("deferred@")


async def test_without_javascript_everything_works(browser: Browser, world: World) -> None:
    async with opened(browser, world, "/", java_script_enabled=False) as page:
        await expect(page.locator("tbody tr")).to_have_count(10)
        await page.get_by_role("link", name="Next page").click()
        await expect(page.locator("tbody tr")).to_have_count(8)
        await page.get_by_text("Filter", exact=True).click()
        await page.get_by_label("From").fill("2020-01-01")
        await page.get_by_role("button", name="Show").click()
        assert "from=2020-01-01" in page.url
        await page.get_by_role("searchbox").fill("inv-2026-0042")
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator("tbody tr")).to_have_count(6)
        await page.locator("tbody a").first.click()
        await expect(page.locator("article")).to_have_count(6)
        await page.get_by_role("link", name="Deferred", exact=True).click()
        await expect(page.locator("tbody tr")).to_have_count(1)


@pytest.mark.parametrize("width", [360, 320])  # the second is 1280 at 400 % (WCAG 2.2, 1.4.10)
async def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, world: World, width: int) -> None:
    log = Log(first_offset=5000)
    long = "a-very-long-word-" * 20
    world.tell(
        log.tell(
            event(
                "deferred",
                reference=long,
                recipient=f"{long}@example.net",
                message_id=long,
                reason=long,
                user_agent=long,
                tags=(long,),
            )
        )
    )
    for name, path in (
        ("list", "/"),
        ("invoice", INVOICE),
        ("deferred", "/deferred"),
        ("long", f"/deliveries/{next(iter(log.known))}"),
    ):
        async with opened(
            browser, world, path, viewport={"width": width, "height": 740}, is_mobile=True, has_touch=True
        ) as page:
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} wide"
            await assert_accessible(page)
            await shot(page, f"{name}-phone")


async def test_hostile_content_is_shown_and_does_nothing(browser: Browser, world: World) -> None:
    log = Log(support_contact=HOSTILE, first_offset=5000)
    said: dict[str, Any] = {"reason": HOSTILE, "user_agent": HOSTILE, "tags": (HOSTILE,), "provider_event": HOSTILE}
    for number, kind in enumerate(("sent", "deferred", "delivered", "open", "bounce", "dropped")):
        log.tell(
            event(
                kind, reference=HOSTILE, recipient=f"{HOSTILE}@example.net", message_id=f"{number}", at=number, **said
            )
        )
    world.tell(log)
    for path in ("/", "/deferred", f"/invoices/{projection.invoice_id(HOSTILE)}"):
        async with opened(browser, world, path) as page:
            assert "document.title=" in await page.locator("main").inner_text()
            assert await page.title() != "owned"
            assert await page.locator("main script, main img, main b").count() == 0
            await page.get_by_role("searchbox").fill(HOSTILE[:30])
            await page.get_by_role("button", name="Search").click()
            await expect(page.locator("tbody tr")).to_have_count(6 * 2)  # by its reference, and by its recipient
            assert await page.title() != "owned"


async def test_a_printed_invoice_has_its_contents_and_no_controls(browser: Browser, world: World) -> None:
    async with opened(browser, world, INVOICE) as page:
        await page.emulate_media(media="print")
        await expect(page.get_by_role("searchbox")).to_be_hidden()
        await expect(page.locator("article").first).to_be_visible()
        await shot(page, "invoice-print")


async def test_no_page_may_frame_it(browser: Browser, world: World) -> None:
    async with await browser.new_context() as made:
        page = await made.new_page()
        await page.set_content(f'<iframe src="{world.client.make_url("/")}"></iframe>')
        frame = page.frames[-1]
        assert "Sending History" not in await frame.content()
