"""A producer's id and epoch, and the requests that write with them: a transaction is three, one after the other.

AddPartitionsToTxn for everything that is written, Produce for the rows (several if
they do not fit into one record batch), EndTxn. The rule: **inside a transaction a
request whose answer is lost is not repeated**, because nobody knows what it did, and
it may still be on its way. Repeated is only what the brokers have refused.

Rows outside a transaction need Produce only. There a lost one is repeated, too: a
broker that has them already knows them by their sequence numbers.

aiokafka's producer became the owner of the id, knows the brokers, and holds the
connections. Its own sender is not used: after a lost connection it sends EndTxn again,
it commits although a batch was refused, and a small transaction takes it half as much
processor time again (``docs/decisions/0014``).
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, cast

from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    NotCoordinatorError,
    OperationNotAttempted,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest
from aiokafka.structs import TopicPartition

from streams.kafka.batches import Destination, Row, Rows
from streams.kafka.producer import RETRY_BACKOFF_MS, Producer

logger = logging.getLogger(__name__)

_BACKOFF_S: Final = RETRY_BACKOFF_MS / 1000
_LONG_S: Final = 1.0
"""A request that is refused for so long is told of. Most of them wait for the markers of the last transaction only."""
_ALL_IN_SYNC: Final = -1
_NOBODY: Final = -1
_NO_REFUSALS: Final = frozenset({NoError, OperationNotAttempted})
"""The second is said of partitions beside one that is refused."""
_NOT_YET: Final = frozenset({ConcurrentTransactions, CoordinatorLoadInProgressError, UnknownTopicOrPartitionError})
"""The last transaction's markers are still being written, or a broker has only just begun."""
_OF_TOPICS: Final = frozenset({TopicAuthorizationFailedError, UnknownTopicOrPartitionError})
"""What the coordinator says of single topics; everything else it says of the whole transaction."""
_MOVED: Final = frozenset({CoordinatorNotAvailableError, NotCoordinatorError})
"""Another broker is the coordinator now."""


Answer = type[KafkaError]
"""An error code of the protocol; ``NoError`` is one of them."""
_NO_LEADER: Final[tuple[Answer, int]] = (LeaderNotAvailableError, -1)
_NO_ANSWER: Final[tuple[Answer, int]] = (KafkaConnectionError, -1)


class AnswerLostError(Exception):
    """A broker may have got a request, and we do not know what it did."""


def batches_of(producer: Producer, rows: list[Row]) -> Iterator[BatchBuilder]:
    """Yield the rows as record batches, in order. A row larger than a batch gets a batch of its own."""
    batch = producer.batch_for(rows)
    for number, (key, value, timestamp_ms, headers) in enumerate(rows):
        if batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
            yield batch
            batch = producer.batch_for(islice(rows, number, None))
            batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers)
    if batch.record_count():
        yield batch


class Refusals:
    """Why a request has to be sent again: waits before each repetition, and says so once when it lasts long."""

    def __init__(self) -> None:
        self.last = ""
        """The newest one of this request; empty: none."""
        self._began = 0.0
        self._told = False

    def begin(self) -> None:
        """Count from now on: the next request."""
        self.last, self._began, self._told = "", time.monotonic(), False

    async def wait(self, what: str, refusal: Answer) -> None:
        """Wait before the repetition; ``what`` is refused."""
        self.last = f"{what}: {refusal.__name__}"
        if not self._told and time.monotonic() - self._began >= _LONG_S:
            self._told = True
            logger.warning("%s for %.0f s: the request is sent again until its deadline", self.last, _LONG_S)
        await asyncio.sleep(_BACKOFF_S)


class ProducerSession:
    """One epoch of an idempotent producer; one with a transactional id can make transactions.

    It ends with the first error: then only a new epoch may go on.
    """

    def __init__(self, producer: Producer, request_timeout_s: float) -> None:
        """Take a producer that was started, which gave it its epoch."""
        manager = producer._txn_manager  # noqa: SLF001 - no public way to the epoch
        assert manager is not None  # it is idempotent
        self.producer = producer
        self.producer_id: int = manager.producer_id
        self.epoch: int = manager.producer_epoch
        self._client: Any = producer.client
        self._transactional_id: Any = manager.transactional_id  # or None
        self._request_timeout_ms = int(request_timeout_s * 1000)
        self._rows_sent: defaultdict[Destination, int] = defaultdict(int)
        """By partition; the sequence number of its next batch."""
        self.refusals = Refusals()

    @property
    def most_rows_sent(self) -> int:
        """How many rows were sent to the partition that got the most."""
        return max(self._rows_sent.values(), default=0)

    async def begin(self, destinations: Iterable[Destination]) -> None:
        """Begin a transaction that writes to these partitions.

        Raises:
            KafkaError: the brokers refuse it.
            AnswerLostError: it is not known whether they did.
        """
        partitions: dict[str, list[int]] = defaultdict(list)
        for topic, partition in destinations:
            partitions[topic].append(partition)
        request = AddPartitionsToTxnRequest(
            self._transactional_id, self.producer_id, self.epoch, list(partitions.items())
        )
        self.refusals.begin()
        while True:
            answer = await self._ask_coordinator(request)
            said: defaultdict[Answer, set[str]] = defaultdict(set)
            for topic, found in answer.errors:
                for _, code in found:
                    said[for_code(code)].add(topic)
            refused = said.keys() - _NO_REFUSALS
            if not refused:
                return
            for error in refused:
                what = ", ".join(sorted(said[error])) if error in _OF_TOPICS else self._transactional_id
                self._take_refusal(what, error)
            await self.refusals.wait(what, error)

    async def write(self, rows: Rows) -> dict[Destination, int]:
        """Write the first batch of every partition, then the second of every one, and so on.

        Returns:
            For each partition written to, the offset after its last row.

        Raises:
            KafkaError, AnswerLostError: as ``produce`` does.
        """
        unsent = {to: batches_of(self.producer, destined) for to, destined in rows.items()}
        ends: dict[Destination, int] = {}
        while True:
            batches = {to: batch for to, left in unsent.items() if (batch := next(left, None)) is not None}
            if not batches:
                return ends
            offsets = await self.produce(batches)
            ends |= {to: offset + batches[to].record_count() for to, offset in offsets.items()}

    async def produce(self, batches: Mapping[Destination, BatchBuilder]) -> dict[Destination, int]:
        """Write one batch to each of these partitions, and return the offset of its first row.

        Raises:
            KafkaError: a broker refuses one for good. The answers for the others are awaited all the same.
            AnswerLostError: it is not known whether one was written. Outside a transaction it is sent again instead.
        """
        unwritten = {destination: self._built(destination, batch) for destination, batch in batches.items()}
        offsets: dict[Destination, int] = {}
        self.refusals.begin()
        while True:
            answers = await self._produce_once(unwritten)
            offsets |= {to: offset for to, (error, offset) in answers.items() if error is NoError}
            unwritten = {to: unwritten[to] for to, (error, _) in answers.items() if error is not NoError}
            if not unwritten:
                return offsets
            for topic, partition in unwritten:
                error, _ = answers[topic, partition]
                if not error.retriable:
                    raise error(topic)
            await self.refusals.wait(f"{topic}/{partition}", error)
            if any(answers[to][0].invalid_metadata for to in unwritten):
                await self._client.force_metadata_update()  # it may hang, since it asks any of the brokers

    async def commit(self) -> None:
        """Commit: everything that was written becomes visible, together.

        What was refused is repeated, though the coordinator that refused it may have begun to commit before another took
        its place: until this epoch begins something else, a second EndTxn says the same.

        Raises:
            KafkaError: the coordinator refuses it.
            AnswerLostError: it is not known whether it did.
        """
        request = EndTxnRequest(self._transactional_id, self.producer_id, self.epoch, transaction_result=True)
        self.refusals.begin()
        while True:
            answer = await self._ask_coordinator(request)
            error = for_code(answer.error_code)
            if error is NoError:
                return
            self._take_refusal(self._transactional_id, error)
            await self.refusals.wait(self._transactional_id, error)

    def _take_refusal(self, what: str, error: Answer) -> None:
        """Prepare to repeat what the coordinator refused.

        Raises:
            KafkaError: it refuses it for good.
        """
        if error not in _NOT_YET | _MOVED:
            raise error(what)
        if error in _MOVED:
            self.producer._sender._coordinator_dead(CoordinationType.TRANSACTION)  # noqa: SLF001 - it is looked up anew

    def _built(self, destination: Destination, batch: BatchBuilder) -> bytes:
        batch._set_producer_state(self.producer_id, self.epoch, self._rows_sent[destination])  # noqa: SLF001
        self._rows_sent[destination] += batch.record_count()
        return cast("bytes", batch._build())  # noqa: SLF001 - as aiokafka's own sender does

    async def _produce_once(self, batches: Mapping[Destination, bytes]) -> dict[Destination, tuple[Answer, int]]:
        """Send each batch to the broker that leads its partition; return the answers, with the offset if it is written."""
        answers: dict[Destination, tuple[Answer, int]] = {}
        by_leader: dict[int, dict[Destination, bytes]] = defaultdict(dict)
        for destination, records in batches.items():
            leader = await self._leader_of(destination)
            if leader is None:
                answers[destination] = _NO_LEADER
            else:
                by_leader[leader][destination] = records
        requests = (self._produce_to(leader, led) for leader, led in by_leader.items())
        for answer in await asyncio.gather(*requests, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            answers |= answer
        return answers

    async def _leader_of(self, destination: Destination) -> int | None:
        cluster, tp = self._client.cluster, TopicPartition(*destination)
        leader = cluster.leader_for_partition(tp)
        if leader is None:
            await self.producer.partitions_for(tp.topic)  # the first row for this topic
            leader = cluster.leader_for_partition(tp)
        return None if leader == _NOBODY else leader

    async def _produce_to(
        self, leader: int, batches: Mapping[Destination, bytes]
    ) -> dict[Destination, tuple[Answer, int]]:
        if not await self._client.ready(leader):  # nothing was sent, so nothing can be lost
            return dict.fromkeys(batches, _NO_LEADER)
        topics: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for (topic, partition), records in batches.items():
            topics[topic].append((partition, records))
        request = ProduceRequest(self._transactional_id, _ALL_IN_SYNC, self._request_timeout_ms, list(topics.items()))
        try:
            response = await self._ask(leader, request, ConnectionGroup.DEFAULT)
        except AnswerLostError:
            if self._transactional_id is not None:
                raise
            return dict.fromkeys(batches, _NO_ANSWER)
        answers: dict[Destination, tuple[Answer, int]] = {
            (topic, partition): (for_code(code), offset)
            for topic, partitions in response.topics
            for partition, code, offset, *_ in partitions
        }
        if missing := batches.keys() - answers.keys():
            message = f"the answer to ProduceRequest lacks {missing}"
            raise AnswerLostError(message)
        return answers

    async def _ask_coordinator(self, request: Any) -> Any:
        """Ask as soon as the coordinator can be reached: until then nothing was sent, so nothing can be lost."""
        while (coordinator := await self._reachable_coordinator()) is None:
            await self.refusals.wait(self._transactional_id, CoordinatorNotAvailableError)
        return await self._ask(coordinator, request, ConnectionGroup.COORDINATION)

    async def _reachable_coordinator(self) -> int | None:
        sender: Any = self.producer._sender  # noqa: SLF001 - it knows the coordinator from the fence
        try:
            coordinator: int = await sender._find_coordinator(CoordinationType.TRANSACTION, self._transactional_id)  # noqa: SLF001
        except KafkaError as error:
            if isinstance(error.__cause__, KafkaConnectionError):
                return None  # the broker that was asked for it went away; this question may be asked again
            raise
        if await self._client.ready(coordinator, group=ConnectionGroup.COORDINATION):
            return coordinator
        sender._coordinator_dead(CoordinationType.TRANSACTION)  # noqa: SLF001 - it is looked up anew
        return None

    async def _ask(self, node_id: int, request: Any, group: Any) -> Any:
        try:
            return await self._client.send(node_id, request, group=group)
        except KafkaError as error:
            message = f"{type(request).__name__} was lost: {error!r}"
            raise AnswerLostError(message) from error
