"""The whole system, with a Chromium that looks at its pages: simulated providers, ingress, broker, worker, history."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Page, async_playwright

from deploy.local import demo, ports
from deploy.local.broker import Broker
from deploy.local.stack import Edge, Pages, Stack, environment
from tests.history.test_browser import CHROMIUM


@dataclass
class Chain:
    """What runs."""

    stack: Stack
    page: Page
    """Open on the list."""

    def simulate(self, *options: str) -> None:
        """Play the providers until the end."""
        assert self.stack.edge is not None
        self.stack.spawn(
            *("simulate", "--url", self.stack.edge.url, "--account", demo.ACCOUNT, "--secrets", self.stack.secrets),
            *("--quiet", *options),
            output=subprocess.DEVNULL,
        )


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Chain]:
    """Yield the whole system, as ``make run`` starts it, and a browser on its first page."""
    web, ingress, ingress_admin, history, history_admin = ports.find(5)
    pages = Pages(port=history, admin_port=history_admin)
    stack = Stack(
        folder,
        cluster=Broker(folder / "broker"),
        web_port=web,
        edge=Edge(port=ingress, admin_port=ingress_admin, simulated=True),
        pages=pages,
        env=environment(with_settings=False) | {"MAILSTREAMS_TOPICS__PARTITIONS": "4"},
        say=print,
    )
    try:
        await asyncio.to_thread(stack.start)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = await browser.new_page(viewport={"width": 1280, "height": 900})
            await page.goto(pages.url)
            yield Chain(stack, page)
            await browser.close()
    finally:
        await asyncio.to_thread(stack.stop)
