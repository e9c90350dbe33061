"""What goes in during a soak: SendGrid bodies at a pace, each of which is there for the books at the end.

The rule: an event's id is its number, 0, 1, 2, ... without a gap, so that a few
bits for each of them tell at the end what is missing. A message is reported on
only while it is among the newest, so that what has expired stays away.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaProducer

from streams import codecs, topics
from streams.settings import Settings
from tests.broker.harness import raw_headers

PER_BODY = 20
NEWEST = 5000
"""Messages that there may still be news of."""
KINDS = (["processed", "deferred", "delivered", "open", "bounce", "dropped"], [3, 3, 4, 2, 1, 1])
SEND_EVERY_S = 0.02
TOPIC = topics.raw_topic("sendgrid")


class Bodies(Iterator[bytes]):
    """SendGrid bodies for ever: half of the events are of messages never heard of before, a tenth is said twice."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._seed = seed
        self._newest: list[dict[str, Any]] = []
        self.events = 0
        """How many ids there are so far."""

    def __next__(self) -> bytes:
        events = [self._event(place) for place in range(PER_BODY)]
        if len(self._newest) > 2 * NEWEST:
            del self._newest[:-NEWEST]
        return codecs.encode(events)

    def _event(self, place: int) -> dict[str, Any]:
        chance, number = self._chance, self.events
        if place % 2 and self._newest:
            event = self._newest[-1 - int(chance.random() * min(NEWEST, len(self._newest)))]
            if chance.random() < 0.2:
                return event  # SendGrid repeats itself
            event = dict(event)
        else:
            event = {
                "email": f"payer{number}@customer{number % 97}.example",
                "sg_message_id": f"soak{self._seed}-{number}.filter0001.16648.5515E0B88.0",
                "invoice": f"INV-{number}",
            }
            self._newest.append(event)
        self.events += 1
        event |= {
            "event": chance.choices(*KINDS)[0],
            "timestamp": int(time.time()) - chance.randrange(7200),
            "sg_event_id": str(number),
        }
        if event["event"] == "deferred":
            event |= {"response": "421 4.7.0 Try again later", "attempt": str(chance.randrange(1, 9))}
        if event["event"] == "bounce":
            event |= {"reason": "550 5.1.1 No such user", "status": "5.1.1", "type": "bounce"}
        return event


class Load:
    """Writes bodies at a pace that nothing behind it changes; whatever is refused ends the soak."""

    def __init__(self, bootstrap: str, settings: Settings, bodies: Bodies) -> None:
        self._bootstrap = bootstrap
        self._partitions = settings.topics.partitions
        self._bodies = bodies
        self.sent = 0
        """Bodies that the broker acknowledged."""

    async def put(self, count: int) -> None:
        """Write so many bodies as fast as it goes."""
        async with self._producer() as producer:
            for _ in range(count):
                await self._send(producer)

    async def run(self, bodies_per_s: float) -> None:
        """Write at this pace until it is cancelled; then wait until the broker has all."""
        async with self._producer() as producer:
            began, sent = time.monotonic(), 0
            while True:
                for _ in range(sent, int((time.monotonic() - began) * bodies_per_s)):
                    await self._send(producer)
                    sent += 1
                await asyncio.sleep(SEND_EVERY_S)

    def _producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, enable_idempotence=True, acks="all", compression_type="zstd"
        )

    async def _send(self, producer: AIOKafkaProducer) -> None:
        headers = raw_headers("sendgrid")
        sent = await producer.send(TOPIC, next(self._bodies), partition=self.sent % self._partitions, headers=headers)
        self.sent += 1
        sent.add_done_callback(asyncio.Future.result)  # a refusal is an error of the loop, and ``raw`` has too few
