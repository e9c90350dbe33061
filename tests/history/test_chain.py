"""From a provider's webhook to the open page: ingress, broker, worker, history, browser, all real."""

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.history.chain import running
from tests.history.test_browser import CHROMIUM, shot
from tests.installed import absent

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(absent(CHROMIUM), reason="Chromium is not installed: apt-get install chromium"),
]


async def test_an_open_page_shows_what_a_provider_reports(tmp_path: Path) -> None:
    async with running(tmp_path) as chain:
        page = chain.page
        await expect(page.get_by_text("Nothing was sent yet")).to_be_visible()
        await page.evaluate("window.loadedOnce = true")
        chain.simulate("--provider", "sendgrid", "--profile", "load", "--rate", "2", "--messages", "12")
        await expect(page.locator("tbody tr")).to_have_count(12, timeout=60_000)
        await expect(page.locator("tbody .status.opened, tbody .status.delivered").first).to_be_visible(timeout=30_000)
        assert await page.evaluate("window.loadedOnce"), "it changed by itself"
        await page.locator("tbody a").first.click()
        await expect(page.locator("article .timeline li").first).to_be_visible()
        await shot(page, "chain-invoice")
