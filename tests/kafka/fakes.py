"""What stands at the process boundary in the tests of lanes and of the consumer: Kafka, the disk, the operator."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from aiokafka.structs import ConsumerRecord
from faust.types import TP

from streams.kafka.application import BatchedApp
from streams.kafka.batches import Batch, Record, Row, Rows
from streams.kafka.lanes import Effects, ResumeCommand
from streams.kafka.transport import CODEC, SCHEME, BatchConsumer, Batching, register

SOURCE = TP("mail.events", 2)
TIME_MS = 1_790_000_000_000


def record(
    offset: int, value: bytes | None = b"v", *, key: bytes | None = None, tp: TP = SOURCE, **more: Any
) -> Record:
    return ConsumerRecord(
        topic=tp.topic,
        partition=tp.partition,
        offset=offset,
        timestamp=more.pop("timestamp", TIME_MS + offset),
        timestamp_type=0,
        key=b"k%d" % offset if key is None else key,
        value=value,
        checksum=None,
        serialized_key_size=-1 if key is None else len(key),
        serialized_value_size=-1 if value is None else len(value),
        headers=more.pop("headers", ()),
    )


def batch(*records: Record, position: int | None = None, tp: TP = SOURCE) -> Batch:
    return Batch(tp, records, records[-1].offset + 1 if position is None else position)


@dataclass
class Event:
    """Faust's event, as far as a lane sees it."""

    value: Batch
    acks: int = 0
    acked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def message(self) -> Any:
        return cast("Any", type("Message", (), {"tp": self.value.tp}))

    def ack(self) -> bool:
        self.acks += 1
        self.acked.set()
        return True


@dataclass
class Writer:
    """Kafka's transactions: what was committed, in order."""

    order: list[str]
    transactions: list[Rows] = field(default_factory=list)
    fails: BaseException | None = None
    next_offset: int = 100
    closed: bool = False

    async def commit(self, rows: Rows) -> dict[tuple[str, int], int]:
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        self.order.append("transaction")
        self.transactions.append(rows)
        ends = {}
        for destination, destined in rows.items():
            self.next_offset += len(destined)
            ends[destination] = self.next_offset
        return ends

    async def close(self) -> None:
        self.closed = True


@dataclass
class Publisher:
    """Kafka without transactions."""

    order: list[str]
    published: list[Rows] = field(default_factory=list)
    fails: BaseException | None = None

    async def publish(self, rows: Rows) -> None:
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        self.order.append("acknowledged")
        self.published.append(rows)


@dataclass
class Commands:
    """The operator."""

    command: ResumeCommand | None = None
    asked: int = 0
    stands: list[int] = field(default_factory=list)
    fails: BaseException | None = None
    hangs: bool = False

    async def latest(self, tp: TP, stopped_at: int) -> ResumeCommand | None:  # noqa: ARG002 - there is one partition
        self.asked += 1
        self.stands.append(stopped_at)
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        return self.command

    async def looks(self, count: int) -> None:
        """Wait until the lane looked so many times more."""
        asked = self.asked
        await until(lambda: self.asked >= asked + count)


@dataclass
class Hooks:
    """The rest of the process."""

    order: list[str]
    told: list[tuple[Any, ...]] = field(default_factory=list)
    effects: list[Effects] = field(default_factory=list)
    hold: str | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def reached(self) -> Callable[[str, TP], Awaitable[None] | None]:
        def reached(point: str, tp: TP) -> Awaitable[None] | None:  # noqa: ARG001 - there is one partition
            self.order.append(point)
            return self._hold() if point == self.hold else None

        return reached

    async def _hold(self) -> None:
        self.held.set()
        await self.go.wait()

    def committed(self, tp: TP, batch: Batch, effects: Effects, seconds: float, stage: str) -> None:  # noqa: ARG002 - the protocol's
        self.order.append("told")
        self.told.append(("committed", [r.offset for r in batch.records], batch.position))
        self.effects.append(effects)

    def ticked(self, tp: TP, batch: Batch, effects: Effects, seconds: float, stage: str) -> None:  # noqa: ARG002 - the protocol's
        self.order.append("ticked")
        self.effects.append(effects)

    def stopped(self, tp: TP, reason: str) -> None:
        self.told.append(("stopped", tp, reason))

    def resumed(self, tp: TP) -> None:
        self.told.append(("resumed", tp))


async def until(true: Callable[[], object], timeout_s: float = 30) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.002)


def values_of(rows: list[Row]) -> list[bytes | None]:
    return [row.value for row in rows]


# -- Faust, without a broker ----------------------------------------------------------------------------------------------


class Clock:
    """Stands for ``Progress``."""

    def __init__(self, now: int | None = None) -> None:
        self.time = now

    def now(self, tp: TP) -> int | None:  # noqa: ARG002 - one time for all
        return self.time


def faust_app(
    *,
    max_records: int = 10,
    max_bytes: int = 100_000,
    tick_interval_s: float = 60,
    linger_s: Mapping[str, float] | None = None,
    rest_share: Mapping[str, float] | None = None,
) -> BatchedApp:
    """Return an app with our transport that is never started."""
    register()
    app = BatchedApp(
        "contract",
        broker=f"{SCHEME}://127.0.0.1:1",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
    )
    app.batching = Batching(
        max_records=max_records,
        max_bytes=max_bytes,
        tick_topics=frozenset({SOURCE.topic}),
        tick_interval_s=tick_interval_s,
        client_options={"bootstrap_servers": "127.0.0.1:1"},
        linger_s=linger_s or {},
        rest_share=rest_share or {},
    )
    app.progress = cast("Any", Clock())
    app.topic(SOURCE.topic, key_serializer="raw", value_serializer=CODEC)
    return app


def consumer_of(app: BatchedApp) -> BatchConsumer:
    consumer = app.consumer
    assert isinstance(consumer, BatchConsumer)
    return consumer


class Fakes(Hooks):
    """The rest of the process, for the restore too."""

    def __init__(self) -> None:
        super().__init__([])
        self.crashes: list[BaseException] = []
        self.restored_rows = 0
        self.remaining_offsets: list[int] = []
        self.skipped_offsets: list[tuple[TP, int]] = []
        self.rebuilds: list[tuple[str, str]] = []
        self.on_reached: Callable[[str, TP], Awaitable[None] | None] = lambda point, tp: None  # noqa: ARG005 - nothing

    @property
    def reached(self) -> Callable[[str, TP], Awaitable[None] | None]:
        return self.on_reached

    def rebuilt(self, store: str, reason: str) -> None:
        self.rebuilds.append((store, reason))

    def restored(self, rows: int) -> None:
        self.restored_rows += rows

    def remaining(self, offsets: int) -> None:
        self.remaining_offsets.append(offsets)

    def skipped(self, tp: TP, offsets: int) -> None:
        self.skipped_offsets.append((tp, offsets))

    def assigned(self, tps: int) -> None:
        self.told.append(("assigned", tps))

    def revoked(self) -> None:
        self.told.append(("revoked",))
