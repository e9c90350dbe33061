"""Which producer is used, and how long one that was replaced lives; Kafka is a fake here."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from streams.kafka import publishing
from streams.kafka.batches import Row, Rows
from streams.kafka.publishing import Publisher
from tests.kafka.fakes import until

ROWS: Rows = {("mail.events", 0): [Row(None, b"1", 1)]}


class Producer:
    """A connection to the broker, that holds back its acknowledgements where it is told to."""

    made: "list[Producer]"
    acknowledging: asyncio.Event
    fails: BaseException | None = None

    def __init__(self, **_options: Any) -> None:
        self.rows = 0
        self.stops = 0
        Producer.made.append(self)

    async def start(self) -> None:
        await asyncio.sleep(0)

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.stops += 1


async def send_rows(producer: Producer, rows: Rows, _turns: object) -> None:
    producer.rows += sum(map(len, rows.values()))
    await Producer.acknowledging.wait()
    if Producer.fails is not None:
        raise Producer.fails


@pytest.fixture(autouse=True)
def _broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Producer.made, Producer.acknowledging, Producer.fails = [], asyncio.Event(), None
    Producer.acknowledging.set()
    monkeypatch.setattr(publishing, "Producer", Producer)
    monkeypatch.setattr(publishing, "send_rows", send_rows)
    return iter([None])


def publisher(**more: Any) -> Publisher:
    return Publisher(client_options={}, client_id="p", request_timeout_s=1, deadline_s=5, **more)


async def test_who_sends_once_a_day_keeps_one_connection_and_not_one_a_day() -> None:
    seldom = publisher(replace_after_idle_s=0)
    for day in range(1, 20):
        await seldom.publish(ROWS)
        await asyncio.sleep(0.01)
        assert [each.stops for each in Producer.made] == [1] * (day - 1) + [0]
    await seldom.close()
    assert [each.stops for each in Producer.made] == [1] * 19


async def test_a_producer_that_was_replaced_lives_until_its_last_rows_are_acknowledged() -> None:
    busy = publisher(replace_after_rows=2)
    Producer.acknowledging.clear()
    waiting = [asyncio.create_task(busy.publish(ROWS)) for _ in range(5)]
    await until(lambda: sum(each.rows for each in Producer.made) == 5)
    assert [(each.rows, each.stops) for each in Producer.made] == [(2, 0), (2, 0), (1, 0)]
    Producer.acknowledging.set()
    await asyncio.gather(*waiting)
    await until(lambda: [each.stops for each in Producer.made] == [1, 1, 0])
    await busy.close()
    assert [each.stops for each in Producer.made] == [1, 1, 1]


async def test_a_producer_that_was_replaced_is_stopped_also_when_its_last_rows_fail() -> None:
    busy = publisher(replace_after_rows=1)
    Producer.acknowledging.clear()
    waiting = [asyncio.create_task(busy.publish(ROWS)) for _ in range(2)]
    await until(lambda: sum(each.rows for each in Producer.made) == 2)
    Producer.fails = TimeoutError()
    Producer.acknowledging.set()
    assert [type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)] == [TimeoutError] * 2
    await until(lambda: Producer.made[0].stops)


async def test_closing_stops_also_those_that_still_wait() -> None:
    busy = publisher(replace_after_rows=1)
    Producer.acknowledging.clear()
    waiting = [asyncio.create_task(busy.publish(ROWS)) for _ in range(3)]
    await until(lambda: sum(each.rows for each in Producer.made) == 3)
    await busy.close()
    assert [each.stops for each in Producer.made] == [1] * 3
    Producer.acknowledging.set()
    await asyncio.gather(*waiting)
    await asyncio.sleep(0.01)
    assert [each.stops for each in Producer.made] == [1] * 3
