"""Reading and writing topics for a person at a terminal: bounded waits, no consumer group, no flood of log lines."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NotCoordinatorForGroupError,
)
from aiokafka.structs import OffsetAndMetadata

from streams import topics
from streams.brokers import NOT_ALLOWED, OUT_OF_REACH, RefusedError, SilentError
from streams.cli import BROKER_UNAVAILABLE, WRONG_USE, Failure
from streams.kafka.closing import stop_consumer, stop_producer
from streams.kafka.offsets import committed_offsets
from streams.settings import Settings

TellProgress = Callable[[int, int], None]
"""Called with how many offsets were read, and of how many."""

_Result = TypeVar("_Result")

_COORDINATOR_STARTS: Final = (
    GroupCoordinatorNotAvailableError,  # no group was ever used: the broker now creates its topic for groups
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)
_RETRY_S: Final = 0.2
_STALL_TIMEOUT_S: Final = 30.0
_POLL_MS: Final = 500
_ACKNOWLEDGE_S: Final = 30.0
_STOP_S: Final = 5.0
_PROOF_S: Final = 10.0
"""A follower that gets no records checks this often that the brokers answer: aiokafka itself retries in silence."""
_REQUEST_TIMEOUT_MS: Final = 30_000
_MAX_RECORDS: Final = 5000
_FETCH_BYTES: Final = topics.MAX_RECORD_BYTES + 1024 * 1024

# aiokafka's clients are annotated in part only
_Consumer: Any = AIOKafkaConsumer
_Producer: Any = AIOKafkaProducer


class _LastWords(logging.Handler):
    """Keeps aiokafka's last warning, which says what is wrong, instead of writing hundreds of them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


_last_words = _LastWords()


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a command's work; aiokafka's own log lines are kept off the terminal."""
    logger = logging.getLogger("aiokafka")
    logger.propagate = False
    if _last_words not in logger.handlers:
        logger.addHandler(_last_words)
    _last_words.text = ""
    return asyncio.run(work)


def unavailable(error: BaseException, settings: Settings) -> tuple[str, ...]:
    """Return what to say when the brokers cannot be reached or refuse; nothing for any other error."""
    servers = settings.kafka.bootstrap_servers
    if isinstance(error, (RefusedError, SilentError)):
        return (str(error),)
    if isinstance(error, (TimeoutError, KafkaConnectionError, KafkaTimeoutError)):
        why = f" ({_last_words.text or error})" if _last_words.text or str(error) else ""
        return (f"no broker answers at {servers}{why}; start one (make run) or set kafka.bootstrap_servers",)
    if isinstance(error, NodeNotReadyError):
        text = (
            f"{servers} answers, but a broker of that cluster cannot be reached from here ({_last_words.text or error}): "
            f"{OUT_OF_REACH}"
        )
        return (text,)
    if isinstance(error, NOT_ALLOWED):
        what = str(error.args[0]) if error.args else type(error).__name__
        return (f"the broker at {servers} does not allow it ({what}); which rights it takes: mailstreams acls",)
    if isinstance(error, KafkaError):
        refuses = f"the broker at {servers} refuses: {error}"
        lacks = (
            f"{servers} answers, but a partition has no leader now ({error}): start the brokers that have its copies"
        )
        return (lacks if isinstance(error, LeaderNotAvailableError) else refuses,)
    return ()


async def partitions_of(settings: Settings, topic: str) -> int:
    """Return how many partitions a topic has; wait for their leaders.

    Raises:
        Failure: the topic does not exist.
        aiokafka.errors.LeaderNotAvailableError: a partition of it has had no leader for too long.
    """
    counts = await _soon(lambda: topics.partition_counts(settings, led=(topic,)), LeaderNotAvailableError)
    if topic not in counts:
        raise Failure(topics.missing(settings, topic), exit_code=BROKER_UNAVAILABLE)
    return counts[topic]


async def raw_topic_of(settings: Settings, provider: str) -> str:
    """Return the topic of a provider's webhooks, to write to it.

    Raises:
        Failure: no worker reads it, or it does not exist: said at once, and not created by asking for it.
        aiokafka.errors.LeaderNotAvailableError: as ``partitions_of``.
    """
    topic = topics.raw_topic(provider)
    if provider not in settings.topics.providers:
        message = (
            f"no worker reads {topic}: topics.providers leaves {provider} out; to add it: docs/providers/README.md"
        )
        raise Failure(message, exit_code=WRONG_USE)
    await partitions_of(settings, topic)
    return topic


async def committed(settings: Settings) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return what the workers' consumer group committed; nothing if no worker ever ran."""
    async with topics.admin_client(settings) as admin:
        return await _soon(lambda: committed_offsets(admin, settings.worker.app_id), *_COORDINATOR_STARTS)


async def _soon(ask: Callable[[], Awaitable[_Result]], *passing: type[KafkaError]) -> _Result:
    """Ask again while the answer is a temporary error, but not for ever."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + topics.CONNECT_TIMEOUT_S
    while True:
        try:
            return await ask()
        except passing:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(_RETRY_S)


@asynccontextmanager
async def producer(settings: Settings) -> AsyncIterator[Any]:
    """Yield a started producer; what it acknowledged is on all in-sync replicas.

    Raises:
        Failure: so little was acknowledged that nothing more could be sent for too long.
    """
    client = _Producer(
        **settings.kafka.client_options(),
        acks="all",
        enable_idempotence=True,
        max_request_size=_FETCH_BYTES,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        linger_ms=5,
    )
    try:
        await _start(client)
        try:
            yield client
        except KafkaTimeoutError:  # aiokafka's buffer stayed full
            raise _not_acknowledged(_REQUEST_TIMEOUT_MS / 1000) from None
    finally:
        await stop_producer(client, _STOP_S)


async def acknowledged(waiting: Sequence[Awaitable[object]]) -> None:
    """Wait until all that was sent is acknowledged.

    Raises:
        Failure: it takes too long. aiokafka itself would try for ever, and may still succeed.
    """
    try:
        async with asyncio.timeout(_ACKNOWLEDGE_S):
            await asyncio.gather(*waiting)
    except TimeoutError:
        raise _not_acknowledged(_ACKNOWLEDGE_S) from None


def _not_acknowledged(seconds: float) -> Failure:
    """Return what to say when brokers that were reached do not say that they have what was sent.

    Mostly too few replicas are in sync. All that we write is recognised when it comes again.
    """
    why = f" ({_last_words.text})" if _last_words.text else ""
    message = f"not acknowledged within {seconds:g} s{why}; a part may be written, and doing it again does no harm"
    return Failure(message, exit_code=BROKER_UNAVAILABLE)


@asynccontextmanager
async def consumer(settings: Settings, *names: str) -> AsyncIterator[Any]:
    """Yield a started read_committed consumer of every partition of some topics, outside any group.

    Raises:
        Failure: one of the topics does not exist.
    """
    counts = {topic: await partitions_of(settings, topic) for topic in names}
    client = _Consumer(
        **settings.kafka.client_options(),
        group_id=None,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
    )
    client.assign([TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)])
    try:
        await _start(client)
        yield client
    finally:
        await stop_consumer(client)


@dataclass(frozen=True, slots=True)
class _Span:
    """The offsets that a topic held at one moment: each partition from its start up to its end, which is not included.

    A reader's progress is its position, because the last offset may be a commit marker, which is never delivered.
    """

    starts: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]

    @property
    def total(self) -> int:
        """The number of offsets."""
        return self.done(self.ends)

    def done(self, positions: Mapping[TopicPartition, int]) -> int:
        """Return how many of its offsets are before these positions."""
        return sum(max(0, min(positions[each], end) - self.starts[each]) for each, end in self.ends.items())


async def _seek_to_start(client: Any) -> _Span:
    """Let a consumer begin with the oldest record; return the offsets that it has to read now."""
    partitions = list(client.assignment())
    span = _Span(await client.beginning_offsets(partitions), await client.end_offsets(partitions))
    for partition, offset in span.starts.items():
        client.seek(partition, offset)
    return span


async def _positions(client: Any) -> Mapping[TopicPartition, int]:
    return {partition: await client.position(partition) for partition in client.assignment()}


async def read_to_end(
    settings: Settings, topic: str, progress: TellProgress | None = None
) -> AsyncIterator[Sequence[Any]]:
    """Yield what a topic holds now, in lists of records of one partition each, and end there."""
    async with consumer(settings, topic) as client:
        span = await _seek_to_start(client)
        last_step, read = asyncio.get_running_loop().time(), -1
        while True:
            done = span.done(await _positions(client))
            if progress is not None:
                progress(done, span.total)
            if done == span.total:
                return
            now = asyncio.get_running_loop().time()
            if done > read:
                last_step, read = now, done
            elif now - last_step > _STALL_TIMEOUT_S:
                message = f"nothing more of {topic} was read for {_STALL_TIMEOUT_S:g} s"
                raise KafkaTimeoutError(message)
            for partition, records in (await client.getmany(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)).items():
                yield [record for record in records if record.offset < span.ends[partition]]


async def read_on(settings: Settings, *names: str, from_beginning: bool) -> AsyncIterator[Sequence[Any]]:
    """Yield records of some topics as they are committed, from now on or from the oldest, without an end.

    Each list is of one partition.

    Raises:
        aiokafka.errors.KafkaError: the brokers are gone.
    """
    async with consumer(settings, *names) as client:
        partitions = list(client.assignment())
        edge = client.beginning_offsets if from_beginning else client.end_offsets
        for partition, offset in (await edge(partitions)).items():
            client.seek(partition, offset)
        async for found in _polled(settings, client):
            for records in found.values():
                yield records


async def read_and_follow(
    settings: Settings, topic: str, progress: TellProgress | None = None
) -> AsyncGenerator[Sequence[Any] | None, None]:
    """Yield what a topic holds, then None, then what is committed from then on, and None again at each pause.

    It never ends; without new records there is a None about twice a second.

    Raises:
        aiokafka.errors.KafkaError: the brokers are gone.
    """
    async with consumer(settings, topic) as client:
        span = await _seek_to_start(client)
        caught_up = False
        async for found in _polled(settings, client):
            for records in found.values():
                yield records
            if not caught_up:
                done = span.done(await _positions(client))
                caught_up = done == span.total
                if progress is not None:
                    progress(done, span.total)
            if caught_up:
                yield None


async def _polled(settings: Settings, client: Any) -> AsyncIterator[Mapping[TopicPartition, Sequence[Any]]]:
    """Yield what a consumer gets, without an end; without new records an empty mapping, about twice a second.

    Raises:
        Failure: a topic is gone.
        aiokafka.errors.KafkaError: the brokers are gone.
    """
    loop = asyncio.get_running_loop()
    partitions = list(client.assignment())
    proven = loop.time()
    while True:
        found = await client.getmany(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
        yield found
        if found:
            proven = loop.time()
        elif loop.time() - proven > _PROOF_S:
            try:
                await client.end_offsets(partitions)
            except KafkaTimeoutError:
                for topic in {partition.topic for partition in partitions}:
                    await partitions_of(settings, topic)  # the brokers may answer while the topic is gone
                raise
            proven = loop.time()


async def _start(client: Any) -> None:
    async with asyncio.timeout(topics.CONNECT_TIMEOUT_S):
        await client.start()
