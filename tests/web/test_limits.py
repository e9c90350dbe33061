"""What a stranger may use: rules of rate, room and inflation."""

import asyncio
import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader
from hypothesis import given
from hypothesis import strategies as st

from streams.web.limits import (
    BrokenBodyError,
    NoRoomError,
    Place,
    Room,
    TokenBucket,
    TooLargeError,
    UnknownEncodingError,
    inflate,
    read_body,
)

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}


@given(st.sampled_from(sorted(COMPRESS)), st.binary(max_size=2000))
def test_what_was_compressed_comes_back(encoding: str, body: bytes) -> None:
    assert inflate(COMPRESS[encoding](body), encoding, len(body)) == body


@given(st.binary(min_size=1, max_size=2000))
def test_deflate_without_its_wrapper_is_understood_too(body: bytes) -> None:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    assert inflate(stream.compress(body) + stream.flush(), "deflate", len(body)) == body


@given(st.sampled_from(sorted(COMPRESS)), st.integers(1, 5000), st.data())
def test_it_never_inflates_beyond_the_limit(encoding: str, size: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(0, size - 1))
    with pytest.raises(TooLargeError):
        inflate(COMPRESS[encoding](b"\0" * size), encoding, most)


@given(st.sampled_from(sorted(COMPRESS)), st.binary(max_size=300))
def test_whatever_the_bytes_it_inflates_or_says_why_not(encoding: str, data: bytes) -> None:
    with contextlib.suppress(BrokenBodyError, TooLargeError):
        inflate(data, encoding, 1000)


@given(st.sampled_from(sorted(COMPRESS)), st.binary(max_size=300), st.data())
def test_a_compressed_body_that_ends_too_early_or_goes_on_is_broken(
    encoding: str, body: bytes, data: st.DataObject
) -> None:
    whole = COMPRESS[encoding](body)
    for broken in (whole[: data.draw(st.integers(1, len(whole) - 1))], whole + b"x"):
        with pytest.raises(BrokenBodyError):
            inflate(broken, encoding, 1000)


def test_a_bomb_is_never_inflated_whole() -> None:
    bomb = gzip.compress(b"\0" * (50 << 20))
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        inflate(bomb, "gzip", 1000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


async def test_only_gzip_and_deflate_are_known() -> None:
    for encoding in ("br", "zstd", "gzip, gzip", "compress", "gzip;q=1"):
        with pytest.raises(UnknownEncodingError):
            await read_body(body(b"x"), encoding=encoding, most=10, proven=True, place=Room(1, 10).enter(), timeout_s=5)


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


# --- bodies that come slowly ---


def body(*parts: bytes, ends: bool = True) -> StreamReader:
    """Return a body of which these parts have come."""
    reader = StreamReader(Mock(), 1 << 20, loop=asyncio.get_running_loop())
    for part in parts:
        reader.feed_data(part)
    if ends:
        reader.feed_eof()
    return reader


@dataclass
class Reading:
    """A body that comes, and the task that reads it."""

    place: Place
    content: StreamReader
    task: "asyncio.Task[bytes]"

    async def gets(self, part: bytes) -> None:
        self.content.feed_data(part)
        await asyncio.sleep(0)


async def reading(room: Room, part: bytes, encoding: str = "") -> Reading:
    place, content = room.enter(), body(part, ends=False)
    task = asyncio.create_task(
        read_body(content, encoding=encoding, most=1 << 20, proven=True, place=place, timeout_s=60)
    )
    await asyncio.sleep(0)
    return Reading(place, content, task)


async def test_where_memory_is_used_up_the_body_that_comes_for_longest_makes_room() -> None:
    room = Room(max_requests=10, max_bytes=100)
    oldest, older, newest = [await reading(room, b"x" * size) for size in (40, 40, 20)]

    await newest.gets(b"x" * 10)

    with pytest.raises(NoRoomError):
        await oldest.task
    assert not older.task.done()
    assert room.bytes == 40 + 30
    for left in (older, newest):
        left.content.feed_eof()
    assert [len(await left.task) for left in (older, newest)] == [40, 30]
    for left in (oldest, older, newest):
        left.place.leave()
    assert (room.requests, room.bytes, room.coming) == (0, 0, {})


async def test_a_body_makes_room_for_older_ones_of_nobody_but_itself() -> None:
    room = Room(max_requests=10, max_bytes=100)
    older, newer = [await reading(room, b"x" * size) for size in (40, 60)]

    await older.gets(b"x")

    with pytest.raises(NoRoomError):
        await older.task
    assert not newer.task.done()
    newer.task.cancel()


async def test_bodies_in_work_make_no_room_and_no_body_is_stopped_in_vain() -> None:
    room = Room(max_requests=10, max_bytes=100)
    in_work = room.enter()
    in_work.grow(60)
    coming = await reading(room, b"x" * 20)

    with pytest.raises(NoRoomError):
        room.enter().grow(41)
    await asyncio.sleep(0)
    assert not coming.task.done()
    room.enter().grow(40)
    with pytest.raises(NoRoomError):
        await coming.task
    assert room.bytes == 100


async def test_bodies_of_which_nothing_came_are_left_alone() -> None:
    room = Room(max_requests=10, max_bytes=100)
    silent = await reading(room, b"")
    held = await reading(room, b"x" * 100)

    room.enter().grow(50)

    with pytest.raises(NoRoomError):
        await held.task
    assert not silent.task.done()
    silent.content.feed_eof()
    assert await silent.task == b""


async def test_a_body_that_ends_just_as_it_makes_room_is_not_taken() -> None:
    room = Room(max_requests=10, max_bytes=100)
    held = await reading(room, b"x" * 100)

    held.content.feed_eof()
    room.enter().grow(50)

    with pytest.raises(NoRoomError):
        await held.task


async def test_a_body_whose_time_is_over_just_as_it_makes_room_is_stopped_once() -> None:
    room = Room(max_requests=10, max_bytes=100)
    task = asyncio.create_task(
        read_body(body(b"x" * 100, ends=False), encoding="", most=100, proven=True, place=room.enter(), timeout_s=0)
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # its timer has run, and it does not know yet
    assert room.coming

    room.enter().grow(50)

    with pytest.raises(NoRoomError):
        await task


async def test_a_compressed_body_holds_no_more_than_came_of_it_until_all_of_it_is_there() -> None:
    room = Room(max_requests=10, max_bytes=1 << 20)
    bomb = gzip.compress(b"\0" * (1 << 19))

    held = await reading(room, bomb[:-1], "gzip")

    assert room.bytes == len(bomb) - 1
    held.content.feed_data(bomb[-1:])
    held.content.feed_eof()
    assert await held.task == b"\0" * (1 << 19)
    assert room.bytes == len(bomb) + (1 << 19)


async def test_a_body_that_does_not_come_in_time_is_not_waited_for() -> None:
    place = Room(max_requests=1, max_bytes=100).enter()
    with pytest.raises(TimeoutError):
        await read_body(body(b"x", ends=False), encoding="", most=10, proven=True, place=place, timeout_s=0.01)
    assert not place.room.coming
