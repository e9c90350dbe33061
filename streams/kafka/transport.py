"""The consumer behind Faust: it yields one batch of a partition where Faust's own yields one record.

The rule: a partition has at most one batch outside this file. Everything that
is fetched goes at once into the partition's backlog (what stays in aiokafka's
fetcher delays its broker's next fetch by 100 ms); when the batch before it is
acknowledged, the next takes all that has gathered. So batches grow under load
and stay small when idle, and a partition is processed in order.

After a batch its partition rests as long as the batch took, or a share of that, unless a full one waits.
A small batch costs the loop, the broker and the network nearly as much as a larger
one, and a batch begun at once finds the last transaction still closing. So
partitions that rest in turn do more in fewer batches, and each is done sooner.

Nothing here commits on its own: a batch's stage does, with its outputs. Positions are
aiokafka's, which account for the gaps that commit markers leave in a log.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import aiokafka
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.serializers import codecs
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, Message
from mode import Service

from streams.kafka.application import BatchedApp
from streams.kafka.batches import Batch, Record
from streams.kafka.closing import end, stop_consumer

logger = logging.getLogger(__name__)

SCHEME = "mailstreams"
"""The URL scheme under which Faust finds this transport."""
CODEC = "mailstreams-batch"
"""The serializer of batched topics: a batch is a value already."""
POLL_S = 0.5
MEMBERSHIP_CHECK_S = 1.0
SETTLE_S = 1.0  # a position that stays this long beyond the last record is delivered without records
POSITIONS_S = 0.25  # how often all positions are read; doing it at each fetch costs as much as a small batch
LEAVE_AGAIN_S = 0.2  # a healthy member leaves sooner
FETCH_MAX_WAIT_MS = 100  # how long a paused and resumed partition may wait for a fetch that was sent without it
METADATA_MAX_AGE_MS = 30_000  # so long a topic that was created again, or has more partitions, may be left unread
COMMIT_LOOK_S = 1.0  # a commit that takes longer may be of a topic that is gone
FETCH_BYTES = 256 * 1024
"""Compressed bytes of one partition in one fetch; a larger record batch comes alone (KIP-74).

A whole fetch is unpacked at once, to several times its size. So this trades memory for the rate at which a worker
catches up: docs/performance.md says what larger ones gain and cost."""
REST_MAX_S = 0.1  # a batch that takes longer is not small
BACKLOG_BATCHES = 2  # a partition is paused when this many full batches wait; each can hold several megabytes
_RECORD_OVERHEAD = 64  # bytes a record costs beside key, value and headers; keeps empty records from being free


class _PassThrough(codecs.Codec):
    """Hand a batch through Faust's decoding untouched."""

    def _loads(self, s: Any) -> Any:
        return s

    def _dumps(self, s: Any) -> Any:
        return s


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """The consumer's settings; ``App.batching`` carries them."""

    max_records: int
    max_bytes: int
    tick_topics: frozenset[str]
    """Topics whose partitions get ticks."""
    tick_interval_s: float
    client_options: Mapping[str, Any]
    linger_s: Mapping[str, float] = field(default_factory=dict)
    """By topic: how long after a batch its partition waits for the next, so that a trickle makes few transactions."""
    rest_share: Mapping[str, float] = field(default_factory=dict)
    """By topic: how long a partition rests after a batch, as a share of the time that the batch took; else 1."""


@dataclass(slots=True)
class _Backlog:
    """What was fetched of one partition and is not yet in a batch."""

    position: int
    """Offset after everything that was fetched."""
    delivered: int = -1
    """The position of the last batch, except ticks, or what was committed before; -1: nothing is ahead of it."""
    settling: bool = False
    """A batch without records, which carries only the position, is to be delivered."""
    records: list[Record] = field(default_factory=list)
    size: int = 0
    busy: bool = False
    """A batch is on its way or being processed."""
    outside: Batch | None = None
    """That batch, once it is cut."""
    tick: int | None = None
    """A tick to be delivered before the next records, with its time (µs)."""
    paused: bool = False
    cut_at: float = float("-inf")
    """When the last batch of records was cut, by the loop's clock. Not 0 at first: a host just booted is near it."""
    rested_at: float = float("-inf")
    """Until when it rests after its last batch, by the same clock."""
    waiting: bool = False
    """It rests or lingers, and will be offered afterwards."""

    def add(self, records: list[Record]) -> None:
        self.records.extend(records)
        self.size += sum(map(_size_of, records))

    def cut(self, tp: TP, max_records: int, max_bytes: int) -> Batch | None:
        """Take the next batch: a due tick, else all records within the limits, else a position ahead, else nothing."""
        if self.tick is not None:
            now, self.tick = self.tick, None
            return Batch(tp, (), self.records[0].offset if self.records else self.position, now)
        self.settling = False
        if not self.records:
            if not self.is_ahead:
                return None
            self.delivered = self.position
            return Batch(tp, (), self.position)
        batch = self._cut_records(tp, max_records, max_bytes)
        self.delivered = batch.position
        return batch

    @property
    def is_ahead(self) -> bool:
        """Tell whether no records are left, and yet the position is beyond that of the last batch."""
        return not self.records and 0 <= self.delivered < self.position

    def _cut_records(self, tp: TP, max_records: int, max_bytes: int) -> Batch:
        if self.size <= max_bytes and len(self.records) <= max_records:
            taken, self.records, self.size = self.records, [], 0
            return Batch(tp, taken, self.position)
        count = size = 0
        for record in self.records[:max_records]:
            size += _size_of(record)
            if count and size > max_bytes:
                size -= _size_of(record)
                break
            count += 1
        taken, self.records = self.records[:count], self.records[count:]
        self.size -= size
        return Batch(tp, taken, self.records[0].offset if self.records else self.position)


def _size_of(record: Record) -> int:
    size = _RECORD_OVERHEAD + record.serialized_key_size + record.serialized_value_size  # each -1 for None
    if record.headers:
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
    return size


class Subscription(SubscriptionState):
    """aiokafka's, which takes no partition of a topic that this member does not read.

    A static member that comes back gets the assignment that it had, though it may read fewer topics now. aiokafka's own
    would fail at the first other one, which ends the worker: at every start, for as long as the name lives.
    """

    left_over: frozenset[str] = frozenset()
    """The topics that were left out of the last assignment."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # aiokafka's

    def assign_from_subscribed(self, assignment: Iterable[TopicPartition]) -> None:
        """Take the partitions of what is read here."""
        given = list(assignment)
        self.left_over = frozenset(tp.topic for tp in given) - self.topics
        super().assign_from_subscribed({tp for tp in given if tp.topic not in self.left_over})


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """aiokafka's consumer in a thread of its own, so that heartbeats go on while the main loop folds."""

    consumer: "BatchConsumer"
    _taking: asyncio.Task[dict[TopicPartition, list[Record]]] | None = None
    _all_read_at = float("-inf")
    """When every position was read last, by the monotonic clock."""
    _asked_for: frozenset[str] = frozenset()
    """Topics for which this member has asked the group to divide all partitions anew."""

    def _create_worker_consumer(
        self,
        transport: driver.Transport,  # noqa: ARG002 - Faust's signature
    ) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        batching = self.consumer.batching
        consumer = aiokafka.AIOKafkaConsumer(
            **batching.client_options,
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            partition_assignment_strategy=[self.app.assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",  # if a position is gone, the restore decides: no silent jump
            isolation_level="read_committed",
            max_poll_records=batching.max_records * BACKLOG_BATCHES,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
        )
        consumer._subscription = Subscription()  # noqa: SLF001 - no public way to choose it; nothing has the other one yet
        return consumer

    async def take(self, tps: set[TP], timeout_s: float) -> tuple[dict[TP, list[Record]], dict[TP, int]]:
        """Return what was fetched of ``tps``, and those partitions' positions, at times all: both of the same moment."""
        taken = await self.call_thread(self._take, tps, timeout_s)
        return cast("tuple[dict[TP, list[Record]], dict[TP, int]]", taken)

    async def _take(self, tps: set[TP], timeout_s: float) -> tuple[dict[TP, list[Record]], dict[TP, int]]:
        # Named: else aiokafka raises the error of any partition that has no position, such as our changelogs.
        fetched: Coroutine[Any, Any, Any] = self._fetch_records(self._ensure_consumer(), tps, timeout_s, None)
        taking = self._taking = asyncio.create_task(fetched)
        try:
            await asyncio.wait([taking])
        finally:
            taking.cancel()  # does nothing to one that is done
        if taking.cancelled():
            return {}, {}  # of an assignment that is gone
        records = taking.result()
        return {TP(*tp): found for tp, found in records.items()}, self._positions_after(records)

    def _positions_after(self, records: Iterable[TopicPartition]) -> dict[TP, int]:
        assignment = self._assignment()
        if assignment is None:
            return {}
        asked: Iterable[TopicPartition] = records
        if time.monotonic() - self._all_read_at >= POSITIONS_S:
            self._all_read_at = time.monotonic()
            asked = assignment.tps
        states = ((TP(*tp), assignment.state_value(tp)) for tp in asked)
        return {tp: state.position for tp, state in states if state is not None and state.has_valid_position}

    async def start_at(self, offsets: Mapping[TP, int]) -> None:
        """Seek each partition to its offset, drop what was fetched before, and fetch."""
        await self.call_thread(self._start_at, offsets)

    async def _start_at(self, offsets: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        if self._taking is not None:
            # A call that still waits belongs to an earlier assignment, so what it returns is dropped. After the seek
            # that would be records of the new assignment, and aiokafka's position would already be past them.
            self._taking.cancel()
            await asyncio.wait([self._taking])
        for tp, offset in offsets.items():
            consumer.seek(TopicPartition(tp.topic, tp.partition), offset)
        self._set_paused(offsets, paused=False)

    async def pause_all(self) -> None:
        """Stop fetching everything that is assigned, until ``start_at``."""
        await self.call_thread(self._pause_all)

    async def _pause_all(self) -> None:
        assignment = self._assignment()
        if assignment is not None:
            self._set_paused(assignment.tps, paused=True)

    def set_paused_soon(self, tp: TP, *, paused: bool) -> None:
        """Pause or resume fetching ``tp`` from any thread, without waiting."""
        self.thread_loop.call_soon_threadsafe(lambda: self._set_paused([tp], paused=paused))

    def _set_paused(self, tps: Iterable[TP | TopicPartition], *, paused: bool) -> None:
        consumer = self._ensure_consumer()
        wanted = {TopicPartition(tp.topic, tp.partition) for tp in tps} & consumer.assignment()
        if wanted:
            if paused:
                consumer.pause(*wanted)
            else:
                consumer.resume(*wanted)

    async def commit_positions(self, positions: Mapping[TP, tuple[int, str]]) -> set[TP]:
        """Commit (position, metadata) of partitions under the group's current generation; return those left out.

        Raises:
            aiokafka.errors.CommitFailedError: this member is no longer in the group's current generation.
        """
        consumer = self._ensure_consumer()
        offsets = {TopicPartition(*tp): OffsetAndMetadata(*position) for tp, position in positions.items()}
        return {TP(*tp) for tp in await self.call_thread(commit_known_topics, consumer, offsets)}

    async def check_membership(self) -> None:
        """Do nothing while aiokafka maintains the membership in the group, and knows and watches every topic.

        Raises:
            KafkaError: aiokafka's task has ended: this process will never be assigned anything again.
        """
        consumer = self._consumer
        if consumer is not None:
            await self.call_thread(check_membership, consumer)
            await self.call_thread(self._watch_topics)

    async def _watch_topics(self) -> None:
        divided = cast("BatchedApp", self.app).group_assignor.divided
        self._asked_for |= watch_topics(self._ensure_consumer(), divided, self._asked_for)

    async def leave_group(self) -> None:
        """Tell the group that this member is gone, so that its partitions move at once."""
        await self.call_thread(self._leave_group)

    async def _leave_group(self) -> None:
        """Leave, over another connection if a join that waits for the other members blocks the usual one.

        A broker answers a connection's requests in order, and aiokafka leaves only when its join is answered: the other
        members would wait for this one, and it for them.
        """
        consumer: Any = self._ensure_consumer()
        stopping = asyncio.ensure_future(stop_consumer(consumer))  # from here on it begins no other join
        left = nobody = JoinGroupRequest.UNKNOWN_MEMBER_ID
        while not (await asyncio.wait([stopping], timeout=LEAVE_AGAIN_S))[0]:
            group = consumer._coordinator  # noqa: SLF001 - no public way to leave without waiting
            dynamic = group is not None and group._group_instance_id is None  # noqa: SLF001 - a static member stays one
            if dynamic and group.coordinator_id is not None and group.member_id not in {left, nobody}:
                left = group.member_id
                request = LeaveGroupRequest(group.group_id, left)
                with contextlib.suppress(KafkaError):
                    await consumer._client.send(group.coordinator_id, request)  # noqa: SLF001 - the other connection
        await stopping

    def _assignment(self) -> Any:
        subscription = self._ensure_consumer()._subscription.subscription  # noqa: SLF001 - no public way to all positions
        return None if subscription is None else subscription.assignment


async def commit_known_topics(
    consumer: aiokafka.AIOKafkaConsumer, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> set[TopicPartition]:
    """Commit, but not the positions of a topic that the brokers do not know; return the partitions that are left out.

    aiokafka repeats a commit of such a topic for ever: no later position of any partition would be committed, and if a
    topic of that name is created, an offset of the old one would be written to it. A topic that lacks one of the
    partitions is such a new one.

    Raises:
        KafkaError, IllegalStateError: as ``AIOKafkaConsumer.commit`` does.
    """
    client = consumer._client  # noqa: SLF001 - no public way to ask for newer metadata

    def known() -> dict[TopicPartition, OffsetAndMetadata]:
        gone = {tp.topic for tp in offsets if tp.partition not in (client.cluster.partitions_for_topic(tp.topic) or ())}
        return {tp: at for tp, at in offsets.items() if tp.topic not in gone}

    while left := known():
        committing = asyncio.create_task(consumer.commit(left))
        try:
            while committing.done() or known() == left:
                if (await asyncio.wait([committing], timeout=COMMIT_LOOK_S))[0]:
                    committing.result()
                    return offsets.keys() - left.keys()
                updating = client.force_metadata_update()
                await asyncio.wait([committing, updating], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end([committing])
    return set(offsets)


async def check_membership(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Raise the error that ended aiokafka's membership; if it does not know a topic, let it refresh the metadata.

    A broker that has just come back may know no topic for a moment. The group's leader then assigns nothing, and would
    notice only at the next regular refresh of the metadata.

    Raises:
        KafkaError: aiokafka's task has ended.
    """
    coordinator, client = consumer._coordinator, consumer._client  # noqa: SLF001 - it checks only while it fetches
    if coordinator is not None:  # it is None while the consumer starts
        coordinator.check_errors()
    if not all(map(client.cluster.partitions_for_topic, consumer.subscription())):
        client.force_metadata_update()  # done in the background; with other metadata the leader assigns again


def watch_topics(
    consumer: aiokafka.AIOKafkaConsumer, divided: Mapping[str, int], asked_for: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Let a static member join anew when its topics are not those that were divided, or one gets more partitions.

    aiokafka watches the topics in that member only which divided them last. A static one that comes back divides nothing:
    it gets the assignment that it had, though it may read more topics now, or one has more partitions. When all have come
    back, nobody watches. Or it reads fewer: other members, which may read them, get the partitions that it has left over.

    Args:
        consumer: The member; this is called in its thread.
        divided: How many partitions of each topic were divided for its assignment.
        asked_for: The topics for which it has joined anew before.

    Returns:
        The topics for which it joins anew now.
    """
    group: Any = consumer._coordinator  # noqa: SLF001 - no public way to watch topics as the one that divides does
    if group is None or group._group_instance_id is None or group._group_subscription is not None:  # noqa: SLF001
        return frozenset()
    if consumer._subscription.reassignment_in_progress:  # noqa: SLF001
        return frozenset()
    cluster = consumer._client.cluster  # noqa: SLF001
    counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in consumer.subscription()}
    new = frozenset(topic for topic, count in counts.items() if count > divided.get(topic, 0)) - asked_for
    left_over = cast("Subscription", consumer._subscription).left_over - asked_for  # noqa: SLF001
    group._group_subscription = consumer.subscription()  # noqa: SLF001
    group._metadata_snapshot = counts  # noqa: SLF001 - with other counts aiokafka joins anew, from now on
    if new:
        logger.info(
            "%s: not all of it is read yet; the group is asked to divide its partitions anew", ", ".join(sorted(new))
        )
    if left_over:
        logger.info(
            "%s: not read here any more; the group is asked to divide its partitions anew", ", ".join(sorted(left_over))
        )
    if new or left_over:
        group.request_rejoin()
    return new | left_over


class BatchConsumer(driver.Consumer):
    """Faust's consumer, of batches. Every topic that the app consumes is batched; changelogs are never fetched here."""

    app: BatchedApp
    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batching: Batching = self.app.batching
        self._backlogs: dict[TP, _Backlog] = {}
        self._ready: asyncio.Queue[tuple[int, TP]] = asyncio.Queue()
        self._epoch = 0  # changes when everything fetched before is void

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- from a new assignment to fetching, and back -------------------------------------------------

    async def start_partitions(self, offsets: Mapping[TP, int], *, committed: Mapping[TP, int] | None = None) -> None:
        """Begin to fetch and deliver exactly these partitions, from exactly these offsets.

        Args:
            offsets: Where to begin.
            committed: The committed position, where it differs.
        """
        self.stop_partitions()
        await self._thread.start_at(offsets)
        committed = committed or {}
        self._backlogs = {tp: _Backlog(position=at, delivered=committed.get(tp, at)) for tp, at in offsets.items()}

    def stop_partitions(self) -> None:
        """Forget all that was fetched and deliver nothing more, until ``start_partitions``."""
        self._epoch += 1
        self._backlogs = {}

    async def pause_all(self) -> None:
        """Stop aiokafka from fetching what is assigned."""
        await self._thread.pause_all()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish what is in flight before Faust waits for it without a time limit."""
        self.stop_partitions()
        await self.app.lanes.close()
        self.app.restoring.hooks.revoked()
        await super().on_partitions_revoked(revoked)

    # -- fetch -> backlog -> batch -> lane ----------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        while not (self.should_stop or fetcher.should_stop):
            if not self._backlogs or not self.flow_active:
                await self.sleep(0.01)
                continue
            epoch = self._epoch
            try:
                records, positions = await self._thread.take(set(self._backlogs), POLL_S)
            except self.consumer_stopped_errors:
                if self.app.should_stop or self.should_stop:
                    return
                raise
            except KafkaError:
                if epoch == self._epoch:
                    raise
                continue  # of an assignment that is gone, or of the next one before its positions are known
            if epoch != self._epoch:
                continue
            for tp in records.keys() | positions.keys():
                backlog = self._backlogs.get(tp)
                if backlog is not None:
                    backlog.add(records.get(tp, []))
                    backlog.position = max(backlog.position, positions.get(tp, -1))
                    self._pause_when_full(tp, backlog)
                    self._offer(tp, backlog)

    def _pause_when_full(self, tp: TP, backlog: _Backlog) -> None:
        full = (
            len(backlog.records) >= self.batching.max_records * BACKLOG_BATCHES
            or backlog.size >= self.batching.max_bytes * BACKLOG_BATCHES
        )
        half = (
            len(backlog.records) <= self.batching.max_records * BACKLOG_BATCHES // 2
            and backlog.size <= self.batching.max_bytes * BACKLOG_BATCHES // 2
        )
        if (full and not backlog.paused) or (half and backlog.paused):
            backlog.paused = full
            self._thread.set_paused_soon(tp, paused=full)

    def _offer(self, tp: TP, backlog: _Backlog) -> None:
        if backlog.busy or not (backlog.records or backlog.settling or backlog.tick is not None):
            return
        if backlog.tick is None and not backlog.settling and self._lingers(tp, backlog):
            return
        backlog.busy = True
        self._ready.put_nowait((self._epoch, tp))

    def _lingers(self, tp: TP, backlog: _Backlog) -> bool:
        """Tell whether the partition waits for more records; if so, schedule its offer for afterwards."""
        if len(backlog.records) >= self.batching.max_records or backlog.size >= self.batching.max_bytes:
            return False
        lingered_at = backlog.cut_at + self.batching.linger_s.get(tp.topic, 0.0)
        left_s = max(lingered_at, backlog.rested_at) - self.loop.time()
        if left_s <= 0:
            return False
        if not backlog.waiting:
            backlog.waiting = True
            self.loop.call_later(left_s, self._offer_again, tp, backlog)
        return True

    def _offer_again(self, tp: TP, backlog: _Backlog) -> None:
        backlog.waiting = False
        if self._backlogs.get(tp) is backlog:  # else it was revoked meanwhile
            self._offer(tp, backlog)

    @Service.task
    async def _deliver(self) -> None:
        while not self.should_stop:
            epoch, tp = await self._ready.get()
            backlog = self._backlogs.get(tp)
            if backlog is None or epoch != self._epoch:
                continue  # revoked, or offered for an assignment that is gone
            batch = backlog.cut(tp, self.batching.max_records, self.batching.max_bytes)
            assert batch is not None  # it was offered, and only this task takes
            backlog.outside = batch
            if batch.records:
                backlog.cut_at = self.loop.time()
            self._pause_when_full(tp, backlog)
            await self.callback(self._message_of(batch))

    def _message_of(self, batch: Batch) -> ConsumerMessage:
        last = batch.records[-1] if batch.records else None
        return ConsumerMessage(
            batch.tp.topic,
            batch.tp.partition,
            last.offset if last else batch.position,
            last.timestamp / 1000 if last else time.time(),
            0,
            [],
            None,
            cast("bytes", batch),  # Faust's value of a message is bytes; ours goes through CODEC as it is
            None,
            0,
            0,
            batch.tp,
            generation_id=self.app.consumer_generation_id,
        )

    def ack(self, message: Message) -> bool:
        """Take a finished batch back: its partition may have the next. Commit nothing: its lane takes care of that."""
        message.acked = True
        self._unacked_messages.discard(message)
        if self._waiting_for_ack is not None and not self._waiting_for_ack.done():
            self._waiting_for_ack.set_result(None)
        backlog, batch = self._backlogs.get(message.tp), cast("Batch", message.value)
        # Else it is of an earlier assignment. That may have the same generation: a member of a group that needs no other
        # division joins it again.
        if backlog is not None and backlog.outside is batch:
            backlog.busy, backlog.outside = False, None
            if batch.records:
                now = self.loop.time()
                share = self.batching.rest_share.get(message.tp.topic, 1.0)
                backlog.rested_at = now + share * min(now - backlog.cut_at, REST_MAX_S)
            self._offer(message.tp, backlog)
        return True

    @Service.task
    async def _watch_membership(self) -> None:
        """End the process when its membership is lost for good, as when the first broker asked lists no brokers.

        aiokafka reports that only while something is fetched. Without partitions the worker would wait for ever.
        """
        while not self.should_stop:
            await self.sleep(MEMBERSHIP_CHECK_S)
            try:
                await self._thread.check_membership()
            except KafkaError as error:
                if not self.should_stop:
                    self.app.restoring.on_crash(error)
                return

    # -- positions without records ----------------------------------------------------------------------

    @Service.task
    async def _settle(self) -> None:
        """Deliver a position up to which there is nothing more to read, when no record carries it.

        Aborted transactions may follow the last record, and what retention deleted unread may precede the first.
        While the committed position is before them, the partition seems to lag: its clock does not advance, and in the
        end the watchdog takes the worker for stalled.
        """
        seen: dict[TP, int] = {}
        while not self.should_stop:
            await self.sleep(SETTLE_S)
            ahead = {tp: backlog.position for tp, backlog in self._backlogs.items() if backlog.is_ahead}
            for tp, position in ahead.items():
                if seen.get(tp) == position:
                    self._backlogs[tp].settling = True
                    self._offer(tp, self._backlogs[tp])
            seen = ahead

    # -- ticks ----------------------------------------------------------------------------------------

    @Service.task
    async def _ticker(self) -> None:
        while not self.should_stop:
            await self.sleep(self.batching.tick_interval_s)
            for tp, backlog in self._backlogs.items():
                if tp.topic in self.batching.tick_topics:
                    now = self.app.progress.now(tp)
                    if now is not None:
                        backlog.tick = now
                        self._offer(tp, backlog)

    async def leave_group(self) -> None:
        """Leave the group without finishing anything, so that others need not wait for the session to time out."""
        await self._thread.leave_group()

    async def wait_empty(self) -> None:
        """Finish the batches in work. Faust's own wait has no limit and cannot be cancelled; closing lanes has one."""
        self.stop_partitions()
        await self.app.lanes.close()

    # -- what Faust does for single records and we do not need ------------------------------------------

    async def perform_seek(self) -> None:
        """Do nothing: ``start_partitions`` has set every partition to a known offset."""

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: the watchdog sees a partition that makes no progress, and acts."""

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: a partition has one batch in Faust's buffers, and pressure shows in its backlog."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Do nothing, for the same reason."""

    async def commit_positions(self, positions: Mapping[TP, tuple[int, str]]) -> set[TP]:
        """Commit (position, metadata) of partitions; see ``BatchConsumerThread``."""
        try:
            return await self._thread.commit_positions(positions)
        except IllegalStateError as error:  # a partition left this member between the check and the commit
            raise aiokafka.errors.CommitFailedError(str(error)) from error


class Transport(driver.Transport):
    """Faust's aiokafka transport with the consumer of batches."""

    Consumer = BatchConsumer


def register() -> None:
    """Make the transport known to Faust under ``SCHEME`` and the batch codec under ``CODEC``. Idempotent."""
    TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"
    codecs.register(CODEC, _PassThrough())
