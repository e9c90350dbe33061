"""Topics -> projection: a plain ``read_committed`` reader that begins where the database says.

The rule: it belongs to no consumer group and commits nothing. The offsets are in the
database, written together with their rows, so that the two agree after an end at any
moment, kill -9 included. They are where reading goes on, not where the last record is:
behind that may be markers of transactions, and their deletion loses nothing.

It keeps running without the broker: then the pages show what is known, and say since
when nothing new can come.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError, OffsetOutOfRangeError

from streams import topics
from streams.brokers import NOT_ALLOWED, RefusedError, absence
from streams.history import projection
from streams.history.database import Database
from streams.history.projection import Applied, Partition
from streams.kafka.closing import stop_consumer
from streams.metrics import HistoryMetrics
from streams.settings import Settings

logger = logging.getLogger(__name__)

TellProgress = Callable[[int, int], None]
"""Called with how many offsets were read, of how many."""

RETRY_S: Final = 2.0
LOOK_S: Final = 2.0
"""Between two looks at the ends of the topics."""
_LOOK_TIMEOUT_S: Final = 10.0
_POLL_MS: Final = 250
_STALL_S: Final = 60.0

_Consumer: Any = AIOKafkaConsumer  # annotated in part only


def _nothing() -> None:
    pass


class SourceError(Exception):
    """The topics do not match the database; the text says how, and what to do."""


@dataclass(slots=True)
class State:
    """The state of the connection to the broker."""

    connected: bool = False
    since: float = 0.0
    """Unix time of the broker's last answer while the topics can be read; 0: none yet."""
    lag: dict[str, int] = field(default_factory=dict)
    """Offsets not read yet, by topic."""

    @property
    def ever_connected(self) -> bool:
        """Whether the broker has answered since the start."""
        return self.since > 0


class Subscriber:
    """Keeps the database up to date.

    Args:
        settings: All of them.
        database: Open.
        writer: Runs what writes to the database: one thread, as there is one writer.
        metrics: Ours.
        told: Called with what each batch did, after it was written.
        missed: Called when a batch may have been written that nobody is told of.
        now: The wall clock, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database,
        writer: Executor,
        metrics: HistoryMetrics,
        told: Callable[[Applied], None],
        missed: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self.state = State()
        self._settings = settings
        self._database = database
        self._writer = writer
        self._metrics = metrics
        self._told = told
        self._missed = missed
        self._now = now
        self._positions: dict[Partition, int] = {}
        self._reads = False
        """Every partition was read from since the connect: before, an answer says little."""

    async def run(self) -> None:
        """Follow the topics for ever.

        Raises:
            SourceError: they do not match the database.
            RefusedError: no broker ever let us in.
            projection.MovedError, sqlalchemy.exc.DBAPIError: the database cannot be written to.
        """
        while True:
            try:
                await self._follow(None)
            except (KafkaError, OSError, TimeoutError) as error:
                if isinstance(error, RefusedError) and not self.state.ever_connected:
                    raise  # a password or a certificate is wrong: waiting does not help
                self.state.connected = False
                logger.warning("%s", self._described(error))
                await asyncio.sleep(RETRY_S)

    async def catch_up(self, progress: TellProgress, *, before: Callable[[], None] = _nothing) -> None:
        """Read to where the topics end now, and return.

        Args:
            progress: Called with how far it is.
            before: Run by the writer after the broker has reported where each topic begins and ends, and before the
                stored offsets are read: for what must not be done if nothing can be read.

        Raises:
            SourceError, sqlalchemy.exc.DBAPIError: as ``run``.
            aiokafka.errors.KafkaError, OSError, TimeoutError: the broker cannot be reached.
        """
        await self._follow(progress, before)

    async def _follow(self, progress: TellProgress | None, before: Callable[[], None] = _nothing) -> None:
        """Follow from where the database says; and anew from there, where retention overtook us: that counts the gap."""
        while True:
            try:
                await self._connect_and_read(progress, before)
            except OffsetOutOfRangeError:
                before = _nothing  # it is done
            else:
                return

    async def _connect_and_read(self, progress: TellProgress | None, before: Callable[[], None]) -> None:
        counts = await topics.partition_counts(self._settings, led=projection.TOPICS)
        missing = [topic for topic in projection.TOPICS if topic not in counts]
        if missing:
            raise SourceError(topics.missing(self._settings, missing[0]))
        partitions = [TopicPartition(topic, number) for topic in projection.TOPICS for number in range(counts[topic])]
        consumer = _Consumer(
            **self._settings.kafka.client_options(),
            client_id=f"{self._settings.worker.app_id}-history",
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="none",  # it would jump over what retention deleted, and nobody would know
            request_timeout_ms=round(self._settings.kafka.request_timeout_s * 1000),
        )
        consumer.assign(partitions)
        self._reads = False
        try:
            async with asyncio.timeout(topics.CONNECT_TIMEOUT_S):
                await consumer.start()
            first, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
            await self._in_writer(before)
            starts = await self._seek(consumer, first, end)
            ends = await consumer.end_offsets(partitions)
            if progress is not None:
                await self._read_to(consumer, starts, ends, progress)
                return
            try:
                await _until_one_fails(self._look(consumer, partitions), self._read_on(consumer))
            except Exception:
                await self._in_writer(_nothing)  # a batch in work is written yet, although its reader is gone
                self._missed()
                raise
        finally:
            await stop_consumer(consumer)

    async def _seek(
        self, consumer: Any, first: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int]:
        """Begin where the database says, else at the oldest record; return where that is."""
        self._positions = await self._in_writer(self._read_offsets)
        begin: dict[TopicPartition, int] = {}
        passed: dict[Partition, int] = {}
        for partition in first:
            stored = self._positions.get((partition.topic, partition.partition))
            if stored is not None and stored > end[partition]:
                message = (
                    f"the history is ahead of {partition.topic}/{partition.partition} ({stored} > {end[partition]}): "
                    "the brokers lost records, or the topic was created again; read what it has now, and keep what is "
                    "known: mailstreams history rebuild --keep; if it is another cluster, or the workers began anew with "
                    "another worker.app_id, begin with an empty database: "
                    "mailstreams history rebuild"
                )
                raise SourceError(message)
            if stored is not None and stored < first[partition]:
                skipped = first[partition] - stored
                logger.warning("%d offsets of %s/%d are gone unread", skipped, partition.topic, partition.partition)
                self._metrics.skipped_offsets.labels(partition.topic).inc(skipped)
                passed[partition.topic, partition.partition] = first[partition]
            begin[partition] = max(stored or 0, first[partition])
            consumer.seek(partition, begin[partition])
        if passed:  # else each connect would count them again until a record comes
            await self._write({}, passed)
        return begin

    async def _read_on(self, consumer: Any) -> None:
        while True:
            await self._read(consumer)

    async def _read_to(
        self,
        consumer: Any,
        starts: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        progress: TellProgress,
    ) -> None:
        # The position, not the last record's offset: the markers of transactions take offsets too.
        total = sum(ends[partition] - starts[partition] for partition in ends)
        done, moved_at = -1, self._now()
        while True:
            positions = {partition: await consumer.position(partition) for partition in ends}
            before, done = done, sum(min(positions[each], ends[each]) - starts[each] for each in ends)
            progress(done, total)
            if done >= total:
                return
            if done > before:
                moved_at = self._now()
            elif self._now() - moved_at > _STALL_S:
                message = f"nothing more was read for {_STALL_S:g} s"
                raise TimeoutError(message)
            await self._read(consumer)

    async def _read(self, consumer: Any) -> None:
        most = self._settings.history.batch_records
        fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=most)
        # It returns without an error, too, while nothing is answered; what is read of a partition tells its end.
        if not self._reads and all(consumer.highwater(each) is not None for each in consumer.assignment()):
            self._reads = True
            self._heard()
        batch = {
            (partition.topic, partition.partition): [(record.offset, record.value) for record in rows]
            for partition, rows in fetched.items()
            if rows
        }
        following: dict[Partition, int] = {}
        for each in consumer.assignment():
            place, position = (each.topic, each.partition), await consumer.position(each)
            if position > self._positions.get(place, 0):
                following[place] = position
        if not following:  # each record moves its partition
            return
        began = self._now()
        applied = await self._write(batch, following)
        if not batch:
            return
        ended = self._now()
        self._metrics.batch_seconds.observe(ended - began)
        oldest_ms = min(rows[0].timestamp for rows in fetched.values() if rows)
        self._metrics.delay.observe(max(0.0, ended - oldest_ms / 1000))
        for (topic, outcome), count in applied.outcomes.items():
            self._metrics.records.labels(topic, outcome.value).inc(count)
        for topic, number, offset, reason in applied.malformed:
            logger.warning("%s/%d/%d cannot be understood and is left out: %s", topic, number, offset, reason)
        self._told(applied)

    async def _write(self, batch: projection.Batch, following: Mapping[Partition, int]) -> Applied:
        applied: Applied = await self._in_writer(projection.apply, self._database, batch, self._positions, following)
        self._positions |= following
        return applied

    async def _look(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        """Ask the broker regularly where the topics end: that shows whether it answers, and how late we are."""
        while True:
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                ends = await consumer.end_offsets(partitions)
            lag = dict.fromkeys(projection.TOPICS, 0)
            for partition in partitions:
                async with asyncio.timeout(_LOOK_TIMEOUT_S):
                    lag[partition.topic] += max(0, ends[partition] - await consumer.position(partition))
            if self._reads:
                self._heard()
            self.state.lag = lag
            for topic, count in lag.items():
                self._metrics.lag.labels(topic).set(count)
            await asyncio.sleep(LOOK_S)

    def _heard(self) -> None:
        if not self.state.connected:
            logger.info("reading %s", ", ".join(projection.TOPICS))
        self.state.connected, self.state.since = True, self._now()
        self._metrics.last_heard.set(self.state.since)

    def _described(self, error: Exception) -> str:
        """Say what keeps the topics from being read: an absence passes by itself, anything else has to be mended."""
        servers, name = self._settings.kafka.bootstrap_servers, type(error).__name__
        if isinstance(error, RefusedError):
            return f"waiting for the broker at {servers}: {error}"
        if isinstance(error, NOT_ALLOWED):
            return f"the broker at {servers} lets nothing be read: {name}; allow it: mailstreams acls history"
        if isinstance(error, KafkaError) and not error.retriable and not isinstance(error, KafkaTimeoutError):
            return f"the topics at {servers} cannot be read: {name}"
        return f"waiting for the broker at {servers}: {absence(error)}"

    def _read_offsets(self) -> dict[Partition, int]:
        with self._database.read() as connection:
            return projection.read_offsets(connection)

    async def _in_writer(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *arguments)


async def _until_one_fails(*endless: Coroutine[Any, Any, None]) -> None:
    """Run them concurrently; raise what the first one raises, and cancel the others."""
    tasks = [asyncio.create_task(each) for each in endless]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
