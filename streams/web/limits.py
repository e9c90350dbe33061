"""What one request, one account and all requests together may use: bytes, time, memory, rate.

The rule: everything that a stranger can make large is counted while it grows and refused
before it is large. A body is never inflated beyond its limit, nor before all of it has
arrived: otherwise anybody could occupy much memory with a few bytes. When memory is used
up, the body that began to arrive first makes room: to keep others out, an attacker would
have to send that much memory again in the time that another's body needs.
"""

import asyncio
import math
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import StreamReader, web

ReadBody = Callable[[int], Awaitable[bytes]]
"""Reads the request's body, at most this many bytes; raises TooLargeError, NoRoomError or TimeoutError."""
Handler = Callable[[web.BaseRequest, ReadBody], Awaitable[web.StreamResponse]]
"""Answers a request whose body is read within limits."""

_ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_DEFLATE = 8
"""The low four bits of a zlib stream's first byte (RFC 1950); some senders of "deflate" leave the zlib wrapper away."""

UNPROVEN_BYTES = 1 << 20
"""A compressed body of an unproven sender may inflate to this size, or to 32 times the bytes received if that is more.
Events compress to a tenth or a twentieth of their size, but zeroes to a thousandth: without this limit a stranger's
8 KB would make us inflate and hash 8 MiB, which takes tens of milliseconds."""
_UNPROVEN_RATIO = 32


class TooLargeError(Exception):
    """The body, as it came or decompressed, is larger than it may be."""


class NoRoomError(Exception):
    """All requests together have reached their limit, or this one had to make room for another."""


class UnknownEncodingError(Exception):
    """The Content-Encoding is not supported, or there are several."""


class BrokenBodyError(Exception):
    """The body is not compressed as its Content-Encoding says, ends too early, or continues after its end."""


@dataclass(slots=True)
class Room:
    """How many requests are in work and how many bytes their bodies use, and the limits of both.

    A request whose body is still arriving is not in work: else clients that send no body would keep everybody out.
    Such requests are bounded by their bytes, by the time for a body and by the number of connections.
    """

    max_requests: int
    """At most this many may be in work."""
    max_bytes: int
    requests: int = 0
    """Begun and not yet answered: in work, or with a body still arriving."""
    working: int = 0
    bytes: int = 0
    coming: "dict[Place, Callable[[], object]]" = field(default_factory=dict)
    """Requests whose bodies are still arriving, the earliest first -> what stops each."""

    def enter(self) -> "Place":
        """Begin a request; it is not in work yet."""
        self.requests += 1
        return Place(self)

    def take(self, place: "Place", size: int) -> None:
        """Let a place grow; if there is no room, stop bodies that began to arrive before its own.

        Raises:
            NoRoomError: stopping them would not be enough; nothing was stopped.
        """
        needed, stopped = self.bytes + size - self.max_bytes, []
        for older in self.coming:
            if needed <= 0 or older is place:
                break
            if older.bytes:
                stopped.append(older)
                needed -= older.bytes
        if needed > 0:
            raise NoRoomError
        for older in stopped:
            older.stop()
        self.bytes += size
        place.bytes += size


@dataclass(slots=True, eq=False)
class Place:
    """One request in the room. Call ``leave`` exactly once, however the request ends."""

    room: Room
    bytes: int = 0
    working: bool = False
    stopped: bool = False
    """Its body had to make room for another."""

    @contextmanager
    def coming(self, stop: Callable[[], object]) -> Iterator[None]:
        """Count its body as arriving within the block; ``stop`` is called if it has to make room for another."""
        self.room.coming[self] = stop
        try:
            yield
        finally:
            self.room.coming.pop(self, None)

    def stop(self) -> None:
        """Make room for another."""
        self.stopped = True
        self._give_back()
        self.room.coming.pop(self)()

    def work(self) -> None:
        """Count it as in work, now that its body is complete. To be called once.

        Raises:
            NoRoomError: too many are in work.
        """
        if self.room.working >= self.room.max_requests:
            raise NoRoomError
        self.room.working += 1
        self.working = True

    def grow(self, size: int) -> None:
        """Take ``size`` more bytes.

        Raises:
            NoRoomError: fewer are left, or it had to make room for another.
        """
        if self.stopped:
            raise NoRoomError
        self.room.take(self, size)

    def leave(self) -> None:
        """Give back what it used."""
        self.room.requests -= 1
        self.room.working -= self.working
        self.working = False
        self._give_back()

    def _give_back(self) -> None:
        self.room.bytes -= self.bytes
        self.bytes = 0


@dataclass(slots=True)
class TokenBucket:
    """A rate limit: ``burst`` tokens at once, and then ``rate_per_s``."""

    rate_per_s: float
    burst: int
    _tokens: float = field(default=math.inf)
    _at: float = 0.0

    def take(self, now: float) -> float:
        """Take one token and return 0, or return the seconds until there is one. ``now`` is monotonic, in seconds."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate_per_s)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate_per_s


def coding_of(request: web.BaseRequest) -> str:
    """Return the Content-Encoding in lower case, of all its lines; several together make a word that is not supported."""
    return ",".join(request.headers.getall("Content-Encoding", ())).strip().lower()


def inflate(body: bytes, encoding: str, most: int) -> bytes:
    """Return what a body with this Content-Encoding, a key of ``_ENCODINGS``, inflates to.

    Raises:
        TooLargeError: that is more than ``most`` bytes.
        BrokenBodyError: it is not compressed that way, ends too early, or continues after its end.
    """
    if not body:
        return body
    window = _ENCODINGS[encoding]
    if window == zlib.MAX_WBITS and body[0] & 0xF != _DEFLATE:
        window = -zlib.MAX_WBITS
    stream = zlib.decompressobj(window)
    try:
        # one byte more than allowed is asked for, so that "just full" and "too much" differ; 0 would mean no limit
        inflated = stream.decompress(body, most + 1)
    except zlib.error:
        raise BrokenBodyError from None
    if len(inflated) > most:
        raise TooLargeError
    if stream.unused_data or not stream.eof:
        raise BrokenBodyError
    return inflated


async def read_body(
    content: StreamReader, *, encoding: str, most: int, proven: bool, place: Place, timeout_s: float
) -> bytes:
    """Return a request's body, decompressed if ``encoding`` (its Content-Encoding) says that it is compressed.

    Args:
        content: as received: nothing may have decompressed it.
        encoding: from ``coding_of``; empty or ``identity`` for none. Several encodings of one body are not supported.
        most: bytes that it may have, both as received and decompressed.
        proven: its sender is already proven; else the body may inflate only as far as ``UNPROVEN_BYTES`` says.
        place: where its bytes are counted.
        timeout_s: all of it must arrive within this many seconds.

    Raises:
        TooLargeError, NoRoomError, UnknownEncodingError, BrokenBodyError: as named.
        TimeoutError: it did not come in time.
        aiohttp's own errors: the chunks are malformed, the connection is lost.
    """
    compressed = encoding not in {"", "identity"}
    if compressed and encoding not in _ENCODINGS:
        raise UnknownEncodingError
    if content.is_eof():  # all of it came with the head, as most bodies do
        body = content.read_nowait()
        if len(body) > most:
            raise TooLargeError
        place.grow(len(body))
    else:
        body = await _gather(content, most, place, timeout_s)
    if compressed:
        allowed = most if proven else min(most, max(UNPROVEN_BYTES, _UNPROVEN_RATIO * len(body)))
        body = inflate(body, encoding, allowed)
        place.grow(len(body))
    return body


async def _gather(content: StreamReader, most: int, place: Place, timeout_s: float) -> bytes:
    parts, size = [], 0
    patience = asyncio.timeout(timeout_s)

    def stop() -> None:
        if not patience.expired():
            patience.reschedule(0)

    try:
        async with patience:
            with place.coming(stop):
                while part := await content.readany():
                    size += len(part)
                    if size > most:
                        raise TooLargeError
                    place.grow(len(part))
                    parts.append(part)
    except TimeoutError:
        if not place.stopped:
            raise
    if place.stopped:
        raise NoRoomError
    return parts[0] if len(parts) == 1 else b"".join(parts)
