"""What goes together, who is told what, and how long a producer lives; Kafka is a fake here."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError, ProducerClosed

from streams.kafka import publishing
from streams.kafka.batches import Row, Rows
from streams.kafka.publishing import TOGETHER_ROWS, Publisher
from tests.kafka.fakes import until

EVENTS, DEAD_LETTERS = ("mail.events", 0), ("mail.dead-letters", 0)


def rows(*names: str) -> list[Row]:
    return [Row(None, name.encode(), 1) for name in names]


class Producer:
    """A connection to the brokers, which can be made to stay silent or to refuse."""

    made: "list[Producer]"
    starts: BaseException | None = None

    def __init__(self, **_options: Any) -> None:
        self.stops = 0
        Producer.made.append(self)

    async def start(self) -> None:
        await asyncio.sleep(0)
        if Producer.starts is not None:
            raise Producer.starts

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.stops += 1


class Session:
    """The requests of one producer, and the brokers' answers."""

    written: list[list[tuple[str, list[bytes | None]]]]
    """By request: the topics and the values of their rows."""
    answering: asyncio.Event
    refuses: BaseException | None = None

    def __init__(self, producer: Producer, _request_timeout_s: float) -> None:
        self.producer = producer
        self.most_rows_sent = 0
        self.refusals = SimpleNamespace(last="mail.events/0: NotEnoughReplicasError")

    async def write(self, destined: Rows) -> None:
        Session.written.append([(topic, [row.value for row in each]) for (topic, _), each in destined.items()])
        self.most_rows_sent += max(map(len, destined.values()))
        await Session.answering.wait()
        if Session.refuses is not None:
            raise Session.refuses


@pytest.fixture(autouse=True)
def _brokers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Producer.made, Producer.starts = [], None
    Session.written, Session.answering, Session.refuses = [], asyncio.Event(), None
    Session.answering.set()
    monkeypatch.setattr(publishing, "Producer", Producer)
    monkeypatch.setattr(publishing, "ProducerSession", Session)
    return iter([None])


def publisher(**more: Any) -> Publisher:
    return Publisher(client_options={}, client_id="p", request_timeout_s=1, **{"deadline_s": 5, **more})


async def publishing_while_one_waits(busy: Publisher, *several: Rows) -> list[asyncio.Task[None]]:
    """Begin a publication that is not answered, and the others only then."""
    Session.answering.clear()
    tasks = [asyncio.create_task(busy.publish({EVENTS: rows("first")}))]
    await until(lambda: Session.written)
    tasks += [asyncio.create_task(busy.publish(each)) for each in several]
    await asyncio.sleep(0.01)
    assert len(Session.written) == 1, "one request at a time"
    return tasks


async def outcomes(tasks: list[asyncio.Task[None]]) -> list[type[BaseException] | None]:
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [None if each is None else type(each) for each in found]


# -- what goes together -----------------------------------------------------------------------------------------------------


async def test_what_all_lanes_want_to_publish_while_one_waits_goes_together_next() -> None:
    busy = publisher()
    tasks = await publishing_while_one_waits(
        busy, {EVENTS: rows("a", "b")}, {DEAD_LETTERS: rows("bad")}, {EVENTS: rows("c")}
    )
    Session.answering.set()
    assert await outcomes(tasks) == [None] * 4
    assert Session.written[1:] == [[("mail.events", [b"a", b"b", b"c"]), ("mail.dead-letters", [b"bad"])]]
    await busy.close()


async def test_a_lanes_own_rows_are_left_as_they_are() -> None:
    """It counts them afterwards."""
    busy = publisher()
    several: list[Rows] = [{EVENTS: rows("a")}, {EVENTS: rows("b")}]
    tasks = await publishing_while_one_waits(busy, *several)
    Session.answering.set()
    await outcomes(tasks)
    assert several == [{EVENTS: rows("a")}, {EVENTS: rows("b")}]
    await busy.close()


async def test_no_more_goes_together_than_can_be_made_into_requests_at_once() -> None:
    busy = publisher()
    half = rows(*["x"] * (TOGETHER_ROWS // 2))
    tasks = await publishing_while_one_waits(busy, *[{EVENTS: half}] * 5)
    Session.answering.set()
    assert await outcomes(tasks) == [None] * 6
    assert [len(values) for ((_, values),) in Session.written[1:]] == [TOGETHER_ROWS, TOGETHER_ROWS, TOGETHER_ROWS // 2]
    await busy.close()


# -- who is told what ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_told_to_all_whose_rows_went_together_and_nothing_is_sent_any_more() -> None:
    busy = publisher()
    Session.answering.clear()
    tasks = [asyncio.create_task(busy.publish({EVENTS: rows(name)})) for name in ("a", "b")]
    await until(lambda: Session.written)
    tasks.append(asyncio.create_task(busy.publish({EVENTS: rows("waits")})))
    await asyncio.sleep(0.01)
    Session.refuses = MessageSizeTooLargeError()
    Session.answering.set()
    assert await outcomes(tasks) == [MessageSizeTooLargeError, MessageSizeTooLargeError, ProducerClosed]
    with pytest.raises(ProducerClosed):
        await busy.publish({EVENTS: rows("comes")})
    assert Session.written == [[("mail.events", [b"a", b"b"])]]
    await busy.close()
    assert [each.stops for each in Producer.made] == [1]


async def test_a_deadline_is_kept_by_what_waits_for_the_brokers_and_by_what_waits_for_its_turn() -> None:
    busy = publisher(deadline_s=0.05)
    tasks = await publishing_while_one_waits(busy, {EVENTS: rows("a")})
    found = await asyncio.gather(*tasks, return_exceptions=True)
    refused = "not acknowledged within 0.05 s (the last refusal: mail.events/0: NotEnoughReplicasError)"
    assert [(type(each), str(each)) for each in found] == [(TimeoutError, refused)] * 2
    await busy.close()


async def test_a_time_out_of_the_brokers_is_told_as_it_is_and_not_as_a_deadline() -> None:
    busy = publisher()
    Session.refuses = TimeoutError("of a connection")
    with pytest.raises(TimeoutError, match=r"^of a connection$"):
        await busy.publish({EVENTS: rows("a")})
    await busy.close()


async def test_a_lane_that_is_cancelled_takes_nothing_from_the_others() -> None:
    busy = publisher()
    tasks = await publishing_while_one_waits(busy, {EVENTS: rows("a")}, {EVENTS: rows("b")})
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.sleep(0)
    Session.answering.set()
    assert await outcomes(tasks) == [asyncio.CancelledError, asyncio.CancelledError, None]
    await busy.close()


async def test_a_producer_that_cannot_start_is_told_and_released() -> None:
    Producer.starts = OSError("no route")
    lonely = publisher()
    with pytest.raises(OSError, match="no route"):
        await lonely.publish({EVENTS: rows("a")})
    await lonely.close()
    assert [each.stops for each in Producer.made] == [1]


async def test_closing_tells_those_that_still_wait_and_those_that_come_too_late() -> None:
    busy = publisher()
    tasks = await publishing_while_one_waits(busy, {EVENTS: rows("a")})
    await busy.close()
    assert await outcomes(tasks) == [ProducerClosed] * 2
    with pytest.raises(ProducerClosed):
        await busy.publish({EVENTS: rows("b")})
    assert [each.stops for each in Producer.made] == [1]


async def test_closing_tells_also_those_whose_sending_has_not_begun() -> None:
    quick = publisher()
    task = asyncio.create_task(quick.publish({EVENTS: rows("a")}))
    await asyncio.sleep(0)
    await quick.close()
    assert await outcomes([task]) == [ProducerClosed]
    assert not Session.written


# -- how long a producer lives -----------------------------------------------------------------------------------------------


async def test_who_sends_once_a_day_keeps_one_connection_and_not_one_a_day() -> None:
    seldom = publisher(replace_after_idle_s=0)
    for day in range(1, 20):
        await seldom.publish({EVENTS: rows("a")})
        assert [each.stops for each in Producer.made] == [1] * (day - 1) + [0]
    await seldom.close()
    assert [each.stops for each in Producer.made] == [1] * 19


async def test_a_producer_is_replaced_when_one_partition_got_as_many_rows_as_it_may() -> None:
    busy = publisher(replace_after_rows=2)
    for _ in range(5):
        await busy.publish({EVENTS: rows("a"), DEAD_LETTERS: rows("b")})
    assert [each.stops for each in Producer.made] == [1, 1, 0]
    await busy.close()
    assert [each.stops for each in Producer.made] == [1, 1, 1]
