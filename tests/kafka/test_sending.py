"""How batches are sent, where Kafka cannot be made to behave so at will; with a real broker it is in ``tests/contracts``."""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaConnectionError

from streams.kafka.batches import Row
from streams.kafka.sending import Turns, send_rows

ROWS = {("mail.status", 0): [Row(b"a", b"1", 1)], ("mail.status", 1): [Row(b"b", b"2", 1)]}


class Built(list[bytes | None]):
    """A record batch, as far as it is looked at here."""

    def append(self, *, key: bytes | None, **_: Any) -> object:  # type: ignore[override] # aiokafka's
        super().append(key)
        return self

    def record_count(self) -> int:
        return len(self)


class Producer:
    """aiokafka's producer whose broker says nothing: the first batch is never acknowledged, the second not even taken."""

    def __init__(self, *, then: BaseException | None) -> None:
        self.acknowledgement = asyncio.get_running_loop().create_future()
        self.sent = 0
        self._then = then

    def batch_for(self, rows: Iterable[Row]) -> Built:  # noqa: ARG002 - the producer's signature
        return Built()

    async def send_batch(self, batch: Built, topic: str, *, partition: int) -> Any:  # noqa: ARG002 - the same
        self.sent += 1
        if self.sent == 1:
            return self.acknowledgement
        if self._then is not None:
            raise self._then
        return await asyncio.sleep(60)


async def test_a_deadline_ends_the_sending_though_nothing_is_acknowledged() -> None:
    producer = Producer(then=None)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await send_rows(cast("Any", producer), ROWS, Turns())

    assert producer.sent == 2


async def test_a_batch_that_is_refused_is_told_when_the_others_are_acknowledged() -> None:
    producer = Producer(then=KafkaConnectionError())
    sending = asyncio.create_task(send_rows(cast("Any", producer), ROWS, Turns()))
    await asyncio.sleep(0.05)
    assert not sending.done()
    producer.acknowledgement.set_result(None)

    with pytest.raises(KafkaConnectionError):
        await sending
