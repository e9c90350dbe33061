"""Signing certificates of Amazon SNS, by the address that ``Provider.certificate_url`` has checked.

The rule: strangers can choose which of Amazon's addresses is fetched, so a fetch must cost
little, and must cost genuine senders nothing. Each address is fetched once at a time, a
failure is remembered for a while, and the downloads per minute are limited. An address
whose certificate has verified a request is *proven*: what strangers ask for never evicts
its certificate and never uses up its downloads. A kept certificate stays in use while a
newer copy cannot be fetched.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from cryptography import x509

from streams.web.limits import TokenBucket
from streams.web.outbound import FetchError

KEEP_S: Final = 24 * 3600.0
"""A certificate is fetched again after this time. SNS changes it about once a year, under a new name."""
KEEP_STALE_S: Final = 7 * KEEP_S
"""Without a newer copy it is used for this long, so that one that Amazon removed is not trusted for ever."""
FORGET_FAILURE_S: Final = 30.0
MOST: Final = 32
"""Most entries of each kind (certificates of proven addresses, of others, failures): one for each region is enough."""
_PER_MINUTE: Final = 30
_PROVEN_PER_MINUTE: Final = 10
"""Downloads of proven addresses, counted apart from all others."""

_PEM: Final = b"-----BEGIN CERTIFICATE-----"

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Kept:
    pem: bytes
    since: float
    """Monotonic seconds."""


class Certificates:
    """Fetches and keeps certificates.

    Args:
        fetch: the guarded client's ``get``.
        folder: certificates by file name, looked up before any download; a file that holds none, as while it is being
            written, is passed over, so that the answer is no final one.
        on_download: called with ``fetched`` or ``failed`` for each download.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[bytes]],
        *,
        folder: Path | None = None,
        on_download: Callable[[str], None] = lambda _outcome: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._folder = folder
        self._on_download = on_download
        self._clock = clock
        self._proven: OrderedDict[str, _Kept] = OrderedDict()
        self._unproven: OrderedDict[str, _Kept] = OrderedDict()
        self._failed: OrderedDict[str, float] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[bytes]] = {}
        self._bucket = TokenBucket(_PER_MINUTE / 60, _PER_MINUTE)
        self._proven_bucket = TokenBucket(_PROVEN_PER_MINUTE / 60, _PROVEN_PER_MINUTE)

    async def get(self, url: str) -> bytes:
        """Return the file at ``url``; whether it is a trusted certificate is decided by the verification.

        Raises:
            FetchError: it cannot be fetched now.
        """
        now = self._clock()
        kept = self._proven.get(url) or self._unproven.get(url)
        if kept is not None and now - kept.since < KEEP_S:
            return kept.pem
        found = self._from_folder(self._folder, url) if self._folder is not None else None
        if found is not None and _is_certificate(found):
            return found
        if kept is not None and now - kept.since < KEEP_STALE_S:
            with contextlib.suppress(FetchError):
                self._download(url, now)  # nobody waits for it
            return kept.pem
        try:
            return await asyncio.shield(self._download(url, now))
        except FetchError as error:
            if found is None:
                raise
            message = f"{error}; and its file in ingress.certificates_dir holds none"
            raise FetchError(message) from None

    def proved(self, url: str) -> None:
        """Note that a request was verified by what ``get`` returned for ``url``."""
        kept = self._unproven.pop(url, None)
        if kept is not None:
            _keep(self._proven, url, kept)

    def _download(self, url: str, now: float) -> "asyncio.Task[bytes]":
        """Return the download of ``url`` that is under way, or begin one.

        Raises:
            FetchError: none may begin now.
        """
        task = self._under_way.get(url)
        if task is not None:
            return task
        if now - self._failed.get(url, -FORGET_FAILURE_S) < FORGET_FAILURE_S:
            message = "the certificate could not be fetched a moment ago"
            raise FetchError(message)
        bucket = self._proven_bucket if url in self._proven else self._bucket
        if bucket.take(now) > 0:
            message = "too many certificates were asked for in the last minute"
            raise FetchError(message)
        task = self._under_way[url] = asyncio.create_task(self._fetch_and_keep(url))
        task.add_done_callback(lambda done: self._done(url, done))
        return task

    def _done(self, url: str, task: "asyncio.Task[bytes]") -> None:
        del self._under_way[url]
        if not task.cancelled():
            task.exception()  # retrieved, else asyncio logs it where nobody waits for it

    async def _fetch_and_keep(self, url: str) -> bytes:
        try:
            found = await self._fetch(url)
            if _PEM not in found:
                message = "what lies there is no certificate"
                raise FetchError(message)  # noqa: TRY301 - it is a failed download like any other
        except FetchError:
            self._on_download("failed")
            _keep(self._failed, url, self._clock())
            raise
        self._on_download("fetched")
        _keep(self._proven if url in self._proven else self._unproven, url, _Kept(found, self._clock()))
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


@lru_cache(maxsize=MOST)
def _is_certificate(pem: bytes) -> bool:
    try:
        x509.load_pem_x509_certificate(pem)
    except ValueError:
        return False
    return True


def _keep(kept: "OrderedDict[str, _Value]", url: str, value: _Value) -> None:
    kept[url] = value
    kept.move_to_end(url)
    if len(kept) > MOST:
        kept.popitem(last=False)
