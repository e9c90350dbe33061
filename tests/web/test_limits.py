"""What a stranger may use: rules of rate, room and inflation."""

import contextlib
import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.web.limits import (
    BrokenBodyError,
    Inflater,
    NoRoomError,
    Room,
    TokenBucket,
    TooLargeError,
    UnknownEncodingError,
)

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}


def inflate(encoding: str, data: bytes, most: int, step: int) -> bytes:
    inflater, found = Inflater(encoding), b""
    for start in range(0, len(data), step):
        found += inflater.feed(data[start : start + step], most - len(found))
    inflater.end()
    return found


@given(st.sampled_from(sorted(COMPRESS)), st.binary(max_size=2000), st.integers(1, 300))
def test_what_was_compressed_comes_back_in_whatever_pieces_it_arrives(encoding: str, body: bytes, step: int) -> None:
    assert inflate(encoding, COMPRESS[encoding](body), len(body), step) == body


@given(st.sampled_from(sorted(COMPRESS)), st.integers(1, 5000), st.integers(1, 300), st.data())
def test_it_never_inflates_beyond_the_limit(encoding: str, size: int, step: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(0, size - 1))
    with pytest.raises(TooLargeError):
        inflate(encoding, COMPRESS[encoding](b"\0" * size), most, step)


@given(st.sampled_from(sorted(COMPRESS)), st.binary(max_size=300), st.integers(1, 50))
def test_whatever_the_bytes_it_inflates_or_says_why_not(encoding: str, data: bytes, step: int) -> None:
    with contextlib.suppress(BrokenBodyError, TooLargeError):
        inflate(encoding, data, 1000, step)


def test_one_piece_of_a_bomb_is_never_inflated_whole() -> None:
    bomb = gzip.compress(b"\0" * (50 << 20))
    with pytest.raises(TooLargeError):
        Inflater("gzip").feed(bomb, 1000)


def test_only_gzip_and_deflate_are_known() -> None:
    for encoding in ("br", "zstd", "gzip, gzip", "compress", "gzip;q=1"):
        with pytest.raises(UnknownEncodingError):
            Inflater(encoding)


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=3)
    assert [bucket.take(100.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(100.05) == pytest.approx(0.05)
    assert bucket.take(100.11) == 0


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.floats(0, 2), max_size=200))
def test_a_bucket_never_gives_more_than_burst_and_rate_allow(rate: int, burst: int, pauses: list[float]) -> None:
    bucket, now, given_ = TokenBucket(rate, burst), 0.0, 0
    for pause in pauses:
        now += pause
        given_ += bucket.take(now) == 0
        assert given_ <= burst + rate * now + 1e-6


def test_a_room_takes_so_many_requests_and_so_many_bytes_and_gets_all_back() -> None:
    room = Room(max_requests=2, max_bytes=100)
    first, second, third = room.enter(), room.enter(), room.enter()
    first.work()
    second.work()
    with pytest.raises(NoRoomError):
        third.work()
    third.leave()
    assert (room.requests, room.working) == (2, 2)
    first.grow(60)
    with pytest.raises(NoRoomError):
        second.grow(41)
    second.grow(40)
    first.leave()
    second.leave()
    assert (room.requests, room.working, room.bytes) == (0, 0, 0)
