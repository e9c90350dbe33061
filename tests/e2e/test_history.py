"""A newcomer's first minutes with ``make run``: an invoice goes from sent to deferred to raised to its end, on the page."""

import re
from pathlib import Path

from playwright.async_api import expect

from tests.history.chain import running
from tests.history.test_browser import shot


async def test_an_invoice_goes_from_sent_to_deferred_to_raised_to_its_end_while_one_looks(tmp_path: Path) -> None:
    async with running(tmp_path) as chain:
        page = chain.page
        await page.evaluate("window.loadedOnce = true")
        chain.simulate("--provider", "sendgrid", "--rate", "0.7", "--seed", "3")
        raised = page.locator("tbody tr", has=page.locator(".level", has_text="Raised")).first
        await expect(raised).to_be_visible(timeout=120_000)
        reference = await raised.locator("a").inner_text()
        await shot(page, "chain-list-raised")
        assert await page.evaluate("window.loadedOnce"), "it changed by itself"
        await raised.locator("a").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(reference)
        await expect(page.locator("article header .status").first).to_have_text(
            re.compile("Delivered|Opened|Bounced"), timeout=120_000
        )
        became = [text.strip() for text in await page.locator(".timeline .became .status").all_inner_texts()]
        assert became[0] in {"Sent", "Deferred"}  # the news of its sending may come late
        assert "Deferred" in became[:2]
        assert became[-1] in {"Delivered", "Opened", "Bounced"}
        await expect(page.locator(".timeline", has_text="Alert: it has been deferred for long")).to_be_visible()
        await expect(page.locator(".timeline", has_text="The deferral ended")).to_be_visible(timeout=30_000)
        await shot(page, "chain-invoice-resolved")
