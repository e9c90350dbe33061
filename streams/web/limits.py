"""What one request, one account and all requests together may use: bytes, time, memory, rate.

The rule: whatever a stranger can make large is counted while it grows and refused
before it is large. A body is never inflated beyond its limit, not even by one chunk.
"""

import asyncio
import math
import zlib
from dataclasses import dataclass, field

from aiohttp import StreamReader

CHUNK_BYTES = 64 * 1024
_ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_DEFLATE = 8
"""The low four bits of a zlib stream's first byte (RFC 1950); some senders of "deflate" leave the zlib wrapper away."""


class TooLargeError(Exception):
    """The body, as it came or decompressed, is larger than it may be."""


class NoRoomError(Exception):
    """All requests together use all that they may."""


class UnknownEncodingError(Exception):
    """The Content-Encoding is none that is understood, or several."""


class BrokenBodyError(Exception):
    """What was sent is not compressed as it says, or ends too early."""


@dataclass(slots=True)
class Room:
    """How many requests are in work, and what their bodies use; and how much that may be.

    A request whose body is still coming is not in work: whoever sends none would keep everybody out. What such
    requests may use is bounded by their bytes, by the time for a body and by the number of connections.
    """

    max_requests: int
    """So many may be in work."""
    max_bytes: int
    requests: int = 0
    """Begun and not answered: in work, or their bodies are coming."""
    working: int = 0
    bytes: int = 0

    def enter(self) -> "Place":
        """Begin a request; it is not in work yet."""
        self.requests += 1
        return Place(self)


@dataclass(slots=True)
class Place:
    """One request in the room. To be left once, whatever becomes of the request."""

    room: Room
    bytes: int = 0
    working: bool = False

    def work(self) -> None:
        """Begin to work on it, once: its body is there.

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
            NoRoomError: there are not as many left.
        """
        if self.room.bytes + size > self.room.max_bytes:
            raise NoRoomError
        self.room.bytes += size
        self.bytes += size

    def leave(self) -> None:
        """Give back what it used."""
        self.room.requests -= 1
        self.room.working -= self.working
        self.working = False
        self.room.bytes -= self.bytes
        self.bytes = 0


@dataclass(slots=True)
class TokenBucket:
    """``burst`` at once, and then ``rate_per_s``."""

    rate_per_s: float
    burst: int
    _tokens: float = field(default=math.inf)
    _at: float = 0.0

    def take(self, now: float) -> float:
        """Take one token and return 0, or return in how many seconds there is one. ``now`` is monotonic, in seconds."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate_per_s)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate_per_s


class Inflater:
    """Undoes one Content-Encoding, at most so many bytes at a time.

    Raises:
        UnknownEncodingError: it is none of gzip and deflate. Several on top of each other are none either.
    """

    def __init__(self, encoding: str) -> None:
        window = _ENCODINGS.get(encoding.strip().lower())
        if window is None:
            raise UnknownEncodingError
        self._window = window
        self._stream = zlib.decompressobj(window)
        self._begun = False

    def feed(self, chunk: bytes, most: int) -> bytes:
        """Return what ``chunk`` inflates to.

        Raises:
            TooLargeError: that is more than ``most`` bytes.
            BrokenBodyError: it is not compressed so, or goes on after its end.
        """
        if chunk and not self._begun:
            self._begun = True
            if self._window == zlib.MAX_WBITS and chunk[0] & 0xF != _DEFLATE:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # one byte more than allowed is asked for, so that "just full" and "too much" differ; 0 would mean no limit
            inflated = self._stream.decompress(chunk, most + 1)
        except zlib.error:
            raise BrokenBodyError from None
        if len(inflated) > most:
            raise TooLargeError
        if self._stream.unused_data:
            raise BrokenBodyError
        return inflated

    def end(self) -> None:
        """Check that the stream is complete.

        Raises:
            BrokenBodyError: it is not.
        """
        if self._begun and not self._stream.eof:
            raise BrokenBodyError


async def read_body(content: StreamReader, *, encoding: str, most: int, place: Place, timeout_s: float) -> bytes:
    """Return a request's body, decompressed if ``encoding`` (its Content-Encoding) says that it is compressed.

    Args:
        content: as it comes over the wire: nothing may decompress it before.
        encoding: empty or ``identity`` for none.
        most: bytes that it may have as it comes, and decompressed.
        place: where its bytes are counted.
        timeout_s: all of it must come within so many seconds.

    Raises:
        TooLargeError, NoRoomError, UnknownEncodingError, BrokenBodyError: as named.
        TimeoutError: it did not come in time.
        aiohttp's own errors: the chunks are malformed, the connection is lost.
    """
    inflater = None if encoding in {"", "identity"} else Inflater(encoding)
    if inflater is None and content.is_eof():  # all of it came with the head, as most bodies do
        body = content.read_nowait()
        if len(body) > most:
            raise TooLargeError
        place.grow(len(body))
        return body
    received, parts, size = 0, [], 0
    async with asyncio.timeout(timeout_s):
        while chunk := await content.readany():
            received += len(chunk)
            if received > most:
                raise TooLargeError
            part = chunk if inflater is None else inflater.feed(chunk, most - size)
            place.grow(len(part))
            size += len(part)
            parts.append(part)
    if inflater is not None:
        inflater.end()
    return parts[0] if len(parts) == 1 else b"".join(parts)
