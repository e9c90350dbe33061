"""Server-sent events: news as it comes, for as long as the reader stays."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

from streams.history.edge import SERVICE, VIEWER_NAME, write
from streams.history.live import Interest
from streams.history.projection import Touched

KEEPALIVE_S: Final = 15.0
"""Without news a comment is sent after this long: proxies close silent connections, and it shows who has left."""
RETRY_MS: Final = 3000
"""A reader that lost its connection connects again after this long."""

Words = Callable[[Sequence[Touched], bool], bytes]
"""Returns the bytes to write, for some news and for whether news was missed."""


async def stream(
    request: web.Request, interest: Interest, words: Words, *, since: int | None = None, calm_s: float = 0.0
) -> web.StreamResponse:
    """Answer with a stream that ends when the reader leaves or we stop.

    Args:
        request: The request to answer.
        interest: Which changes the reader wants.
        words: Turns news into events.
        since: The hub's sequence when the reader last read; if it is another now, the reader missed something.
        calm_s: After news, the next is sent this much later at the earliest, all at once.

    Raises:
        FullError: too many streams are open.
    """
    hub = request.app[SERVICE].hub
    with hub.subscribe(interest, request[VIEWER_NAME]) as subscription:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await answer.prepare(request)
        if since is not None and since != hub.sequence:
            subscription.miss()
        try:
            await write(request, answer, f"retry: {RETRY_MS}\n\n".encode())
            while not hub.closed:
                try:
                    async with asyncio.timeout(KEEPALIVE_S):
                        news, missed = await subscription.next()
                except TimeoutError:
                    await write(request, answer, b": still here\n\n")
                    continue
                if news or missed:
                    await write(request, answer, words(news, missed))
                    await asyncio.sleep(calm_s)
        except ConnectionResetError:
            pass  # the reader left
    return answer
