"""Signing certificates of Amazon SNS, by the address that ``Provider.certificate_url`` has checked.

The rule: strangers choose which of Amazon's addresses is asked for, so that must cost
little: each is asked for once at a time, a failure is remembered for a while, so many
downloads a minute and no more; and failures never push a good certificate out.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from streams.web.limits import TokenBucket
from streams.web.outbound import FetchError

KEEP_S: Final = 24 * 3600.0
"""How long a certificate is kept. SNS changes it about once a year, under a new name."""
FORGET_FAILURE_S: Final = 30.0
MOST: Final = 32
"""Certificates kept, and failures: one for each region is enough."""
_PER_MINUTE: Final = 30

_Value = TypeVar("_Value")
Told = Callable[[str], None]


class Certificates:
    """Fetches and keeps certificates.

    Args:
        fetch: the guarded client's ``get``.
        folder: certificates by file name, looked at first.
        told: told ``fetched`` or ``failed`` of each download.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[bytes]],
        *,
        folder: Path | None = None,
        told: Told = lambda _outcome: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._folder = folder
        self._told = told
        self._clock = clock
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._failed: OrderedDict[str, float] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[bytes]] = {}
        self._bucket = TokenBucket(_PER_MINUTE / 60, _PER_MINUTE)

    async def get(self, url: str) -> bytes:
        """Return the file at ``url``, in PEM as it should be; whether it is one says the verification.

        Raises:
            FetchError: it cannot be had now.
        """
        now = self._clock()
        kept = self._kept.get(url)
        if kept is not None and now - kept[1] < KEEP_S:
            self._kept.move_to_end(url)
            return kept[0]
        if self._folder is not None and (found := self._from_folder(self._folder, url)) is not None:
            return found
        if now - self._failed.get(url, -FORGET_FAILURE_S) < FORGET_FAILURE_S:
            message = "the certificate could not be fetched a moment ago"
            raise FetchError(message)
        task = self._under_way.get(url)
        if task is None:
            if self._bucket.take(now) > 0:
                message = "too many certificates were asked for in the last minute"
                raise FetchError(message)
            task = asyncio.create_task(self._download(url))
            self._under_way[url] = task
            task.add_done_callback(lambda done: self._done(url, done))
        return await asyncio.shield(task)

    def _done(self, url: str, task: "asyncio.Task[bytes]") -> None:
        del self._under_way[url]
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any longer

    async def _download(self, url: str) -> bytes:
        try:
            found = await self._fetch(url)
        except FetchError:
            self._told("failed")
            _keep(self._failed, url, self._clock())
            raise
        self._told("fetched")
        _keep(self._kept, url, (found, self._clock()))
        return found

    @staticmethod
    def _from_folder(folder: Path, url: str) -> bytes | None:
        name = urlsplit(url).path.rpartition("/")[2]
        if not name.endswith(".pem") or name.startswith("."):
            return None
        try:
            return (folder / name).read_bytes()
        except OSError:
            return None


def _keep(kept: "OrderedDict[str, _Value]", url: str, value: _Value) -> None:
    kept[url] = value
    kept.move_to_end(url)
    if len(kept) > MOST:
        kept.popitem(last=False)
