"""How far everything is: the time for a tick, the lag of each partition, and what shows that a worker has stalled.

The rule for a tick's time: everything that the broker took before that time has
been processed, by all stages up to and including the tick's own. So catching up on
a two-hour backlog raises no false alarm, and silence still raises a true one: with
nothing to read, the time is the wall clock. The time never goes back, unless the
wall clock was set: what was concluded from a wrong clock is forgotten.

- For the first topics, the broker's timestamps give the time: an unprocessed record
  is not older than the one processed last. If all are processed, the time is the
  wall clock. If records can go to any partition, all partitions of a topic count.
- Later stages get records of many source partitions, new ones between old ones, so
  no record's timestamp shows how old the records after it are. There a *barrier*
  gives the time: the topic's end at the moment when the earlier stages had reached
  a time. When the stage has passed that end, it has reached that time.

A partition that is stopped because too much of it was poison waits for a person. If
its records can go to any partition, it would stop the clock of all of them, and one
provider's broken format would silence the alarms of all others. So it does not count
there. Instead ``held`` reports its topic to each partition of a stage until that has
processed everything that was held back: until then, silence about what is in it
proves nothing.

All of it comes from one look a second at the broker: end offsets against
committed positions, whose metadata holds the last timestamp (``positions.Position``).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from streams.kafka.closing import stop_consumer
from streams.kafka.offsets import committed_offsets
from streams.kafka.positions import Position
from streams.kafka.transport import METADATA_MAX_AGE_MS

logger = logging.getLogger(__name__)

CLOCK_STEP_S = 5.0
"""If wall and monotonic clock differ by more than this between two looks, the wall clock was set or the host slept."""
STRANDED_S = 30.0
"""After this long without an answer it is asked whether the brokers are where we look for them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far one partition is."""

    end: int
    """Offset after the last record that a ``read_committed`` reader can see."""
    position: int
    """The committed position; the partition's beginning where nothing was committed."""
    timestamp_ms: int
    """Broker timestamp of the last record processed; -1 if unknown."""
    stopped: bool = False
    """It waits for a person to resume it."""

    @property
    def lag(self) -> int:
        """Offsets not yet processed (commit markers count)."""
        return max(self.end - self.position, 0)


class Barrier(NamedTuple):
    """A stage that has processed its partition up to ``end`` has processed everything that came before ``time`` (µs)."""

    time: int
    end: int


def time_for_tick(wall_us: int, upstream: Iterable[Standing]) -> int | None:
    """Return the time (µs) if the first topics' partitions are this far; None while a lagging one's time is unknown.

    Their records have the broker's own timestamps, which only rise.
    """
    now = wall_us
    for standing in upstream:
        if standing.lag:
            if standing.timestamp_ms < 0:
                return None
            now = min(now, standing.timestamp_ms * 1000)
    return now


class TopicMissingError(UnknownTopicOrPartitionError):
    """The brokers answer, and do not show us a topic."""

    def __init__(self, topic: str, others: Mapping[TP, Standing]) -> None:
        super().__init__(topic)
        self.topic = topic
        self.others = others
        """The standings of the topics that they show."""


class StrandedError(Exception):
    """The brokers have other addresses than those that the clients of this process know."""


class Progress:
    """Looks at the broker once a second while the process lives."""

    def __init__(
        self,
        *,
        client_options: Mapping[str, Any],
        group_id: str,
        upstream_topics: Mapping[str, tuple[str, ...]],
        shared_topics: frozenset[str],
        timeless_topics: tuple[str, ...] = (),
        interval_s: float = 1.0,
        request_timeout_s: float = 10.0,
    ) -> None:
        """Prepare to look.

        Args:
            client_options: How to reach the broker.
            group_id: The group whose positions count.
            upstream_topics: For each source topic all topics before it, starting with the first ones.
            shared_topics: Those of them whose records can go to any partition of the next topic.
            timeless_topics: Looked at too, but not upstream: what waits in them prevents nothing that falls due.
            interval_s: Time between two looks.
            request_timeout_s: Timeout of one request.
        """
        self._client_options = dict(client_options) | {"request_timeout_ms": int(request_timeout_s * 1000)}
        self._group_id = group_id
        self._upstream_topics = upstream_topics
        self._shared_topics = shared_topics
        self._timeless_topics = timeless_topics
        self._interval_s = interval_s
        self._request_timeout_s = request_timeout_s
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._standings: dict[TP, Standing] = {}
        self._barriers: dict[TP, Barrier] = {}
        self._passed: dict[TP, int] = {}
        self._latest_us = 0
        """The latest that the wall clock has shown since it was set: no stage has come further, no barrier is later."""
        self._held: dict[tuple[str, TP], int] = {}
        """``_latest_us`` when a partition of a first topic was last seen stopped, for each partition that it holds up."""
        self._now: dict[TP, int] = {}
        self._looked_at: float | None = None
        self._heard_at: float | None = None
        """When the group's coordinator last answered, also within a look that failed."""
        self._clocks: tuple[int, float] | None = None
        """The wall clock (µs) and the monotonic one (s) at the last look."""
        self._clock_was_set = False
        """Set since the last look: the next one gives no time."""
        self.missing: str | None = None
        """The topic that spoiled the last look: the brokers answer, and do not show it."""
        self.on_look: list[Callable[[Mapping[TP, Standing]], Awaitable[None] | None]] = []
        """Told the standings, also while a topic is missing: then those of the others."""

    def now(self, tp: TP) -> int | None:
        """Return the time for a tick of ``tp`` (µs), or None while that is not known."""
        if not self.fresh or tp not in self._passed:
            return None
        self._now[tp] = max(self._passed[tp], self._now.get(tp, 0))
        return self._now[tp]

    def held(self, topic: str, tp: TP) -> bool:
        """Tell whether a partition of ``topic`` is stopped, or ``tp`` may not have processed all that it held back.

        What comes to another partition of the stage does not count: one that is stopped would keep all of them waiting.
        """
        return (topic, tp) in self._held

    @property
    def fresh(self) -> bool:
        """True while the last look is recent: the broker answers."""
        return self._looked_at is not None and time.monotonic() - self._looked_at < self._interval_s * 5 + 2

    def heard_within(self, seconds: float) -> bool:
        """Return whether the last answer of the group's coordinator, if there was one, is no longer ago.

        It is the broker that gives the partitions of a silent worker to another one. Not the last look: a single topic that
        fails, as while one of its partitions has no leader, makes every look of every worker fail, and nobody's partitions
        move. Such a look waits for the topic, and only the next one asks the coordinator again.
        """
        return self._within(seconds, self._heard_at)

    def looked_within(self, seconds: float) -> bool:
        """Return whether the last whole look, if there was one, is no longer ago: what it found is no old story."""
        return self._within(seconds, self._looked_at)

    def _within(self, seconds: float, since: float | None) -> bool:
        """Compare with ``seconds``, or with what a look in vain takes if that is longer, and something to spare."""
        return since is None or time.monotonic() - since < max(seconds, self._request_timeout_s * 1.5)

    async def run(self) -> None:
        """Look once a second, for ever. While the broker does not answer, the last look grows stale, nothing else.

        Raises:
            StrandedError: only another process finds the brokers.
        """
        while True:
            try:
                await self._look()
                self._looked_at = time.monotonic()
                await self._tell(self._standings)
                self.missing = None
            except TopicMissingError as error:
                logger.warning("the brokers do not show the topic %s: until they do, nothing falls due", error.topic)
                self.missing = error.topic
                await self._tell(error.others)  # what hangs meanwhile has to end
            except (KafkaError, OSError, TimeoutError) as error:
                logger.warning("the broker does not answer: %s", type(error).__name__)
                self.missing = None
                if self._heard_at is None or time.monotonic() - self._heard_at > STRANDED_S:
                    await self._check_addresses()
            await asyncio.sleep(self._interval_s)

    async def _tell(self, standings: Mapping[TP, Standing]) -> None:
        for told in self.on_look:
            result = told(standings)
            if result is not None:
                await result

    async def _check_addresses(self) -> None:
        """Ask the bootstrap servers where the brokers are, as every client does once, at its start.

        After that aiokafka asks none but the brokers that it knows. If all of them have gone, as where each got another
        address while none answered, no client of this process finds the others, though the bootstrap servers name them.

        Raises:
            StrandedError: they are at none of the addresses that one of our clients knows, and nobody answers there. A broker
                may have several names, one for each of its listeners: while it answers, the client learns all from it.
        """
        client: Any = AIOKafkaClient(**self._client_options)
        try:
            await client.bootstrap()
        except (KafkaError, OSError, TimeoutError):
            return
        finally:
            await client.close()
        named = _addresses(client.cluster)
        for ours in (self._consumer, self._admin):
            if ours is None:
                continue
            theirs = ours._client  # noqa: SLF001 - no public way
            known = _addresses(theirs.cluster)
            if known and named and known.isdisjoint(named) and not await _answers(theirs):
                message = (
                    f"the brokers are at {', '.join(sorted(named))} now, and no longer at {', '.join(sorted(known))}"
                )
                raise StrandedError(message)

    async def _look(self) -> None:
        """Look at every topic, and conclude how far each stage has come.

        Raises:
            TopicMissingError: a topic is not shown, so nothing is concluded.
        """
        consumer, admin = await self._clients()
        wall_us = time.time_ns() // 1000
        self._read_clocks(wall_us, time.monotonic())
        await self._committed(admin, [])  # whichever topic fails below, the coordinator was heard
        standings: dict[TP, Standing] = {}
        missing: str | None = None
        # In the order of the data flow, and each topic's end before its position: what was appended before
        # `wall_us` is then either behind a position or seen as lag.
        for topic in self._topics():
            partitions = consumer.partitions_for_topic(topic)
            if not partitions:
                # The topic exists: the start checked. A broker that has just come back may not know it for a moment,
                # and without it the path to a stage would look shorter than it is, and its clock would be ahead.
                consumer._client.force_metadata_update()  # noqa: SLF001 - else aiokafka asks in five minutes
                missing = missing or topic
                continue
            tps = [TopicPartition(topic, p) for p in sorted(partitions)]
            ends = await consumer.end_offsets(tps)
            committed = await self._committed(admin, tps)
            never = [tp for tp in tps if tp not in committed or committed[tp].offset < 0]
            begins = await consumer.beginning_offsets(never) if never else {}
            for tp in tps:
                if tp in begins:
                    position = Position(begins[tp])
                else:
                    position = Position.of_committed(committed[tp].offset, committed[tp].metadata)
                standings[TP(tp.topic, tp.partition)] = Standing(
                    ends[tp],
                    position.offset,
                    position.timestamp_ms,
                    stopped=position.poison is not None and position.poison.stopped is not None,
                )
        if missing is not None:
            raise TopicMissingError(missing, standings)
        self._saw(wall_us, standings)

    async def _committed(
        self, admin: AIOKafkaAdminClient, tps: list[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        committed = await committed_offsets(admin, self._group_id, tps)
        self._heard_at = time.monotonic()
        return committed

    def _read_clocks(self, wall_us: int, monotonic_s: float) -> None:
        """Forget what was concluded from the wall clock if it was set since the last look.

        Otherwise a host whose clock is ahead at boot would keep that time until the right time has reached it. A host
        that slept has the right time, and loses only one look.
        """
        before, self._clocks = self._clocks, (wall_us, monotonic_s)
        if before is None:
            return
        step_s = (wall_us - before[0]) / 1e6 - (monotonic_s - before[1])
        if abs(step_s) <= CLOCK_STEP_S:
            return
        logger.warning(
            "the wall clock was set by %+.0f s, or the host slept: the time for ticks is determined again", step_s
        )
        self._clock_was_set = True
        self._now.clear()
        self._passed.clear()
        self._barriers.clear()
        self._held = dict.fromkeys(self._held, wall_us)
        self._latest_us = 0

    def _saw(self, wall_us: int, standings: dict[TP, Standing]) -> None:
        """Conclude from a look how far each stage has come, and which topics are held."""
        self._standings = standings
        # From the look before: the group's offsets can show a transaction a moment before its topics do.
        passed_before = dict(self._passed)
        clock_was_set, self._clock_was_set = self._clock_was_set, False
        for source, upstream in self._upstream_topics.items():
            for tp, standing in standings.items():
                if tp.topic == source and not clock_was_set:
                    self._pass(tp, standing, self._time_before(wall_us, tp, upstream, passed_before))
        stages = [tp for tp in standings if tp.topic in self._upstream_topics]
        stopped = {tp.topic for tp, standing in standings.items() if standing.stopped} & self._shared_topics
        self._latest_us = max(self._latest_us, wall_us)  # a clock that goes back by less than a step ends no hold
        self._held |= {(topic, tp): self._latest_us for topic in stopped for tp in stages}
        self._held = {of: since for of, since in self._held.items() if self._passed.get(of[1], 0) <= since}

    def _time_before(
        self, wall_us: int, tp: TP, upstream: tuple[str, ...], passed_before: Mapping[TP, int]
    ) -> int | None:
        """Return the time that everything upstream of ``tp`` has reached; None: unknown."""
        sources = [
            standing
            for (topic, partition), standing in self._standings.items()
            if topic in upstream and topic not in self._upstream_topics
            if topic in self._shared_topics or partition == tp.partition
            if not (standing.stopped and topic in self._shared_topics)
        ]
        times = [time_for_tick(wall_us, sources)]
        times += [passed_before.get(TP(topic, tp.partition)) for topic in upstream if topic in self._upstream_topics]
        return None if None in times else min(time for time in times if time is not None)

    def _pass(self, tp: TP, standing: Standing, time_before: int | None) -> None:
        """Remove the barrier if it was passed, and set the next one."""
        barrier = self._barriers.get(tp)
        if barrier is not None and standing.position >= barrier.end:
            self._passed[tp] = barrier.time
            del self._barriers[tp]
        if time_before is None:
            return
        if not standing.lag:
            self._passed[tp] = time_before
        elif tp not in self._barriers:
            self._barriers[tp] = Barrier(time_before, standing.end)

    async def _clients(self) -> tuple[AIOKafkaConsumer, AIOKafkaAdminClient]:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **self._client_options, isolation_level="read_committed", metadata_max_age_ms=METADATA_MAX_AGE_MS
            )
            try:
                await consumer.start()
            except BaseException:
                await stop_consumer(consumer)
                raise
            self._consumer = consumer
            for topic in self._topics():
                await consumer._client.add_topic(topic)  # noqa: SLF001 - assigning would fetch; only metadata is needed
        if self._admin is None:
            admin = AIOKafkaAdminClient(**self._client_options)
            await admin.start()
            self._admin = admin
        return self._consumer, self._admin

    def _topics(self) -> list[str]:
        """Return every topic once, each after those that are upstream of it."""
        topics: dict[str, None] = dict.fromkeys(self._timeless_topics)
        for source, upstream in self._upstream_topics.items():
            topics |= dict.fromkeys(upstream)
            topics[source] = None
        return list(topics)


def _addresses(cluster: ClusterMetadata) -> set[str]:
    """Return where the brokers are, as they say. One that no broker has told of yet knows only the bootstrap servers."""
    brokers: set[Any] = cluster.brokers()
    return {f"{each.host}:{each.port}" for each in brokers if not cluster.is_bootstrap(each.nodeId)}


async def _answers(client: Any) -> bool:
    """Tell whether one of the brokers that a client knows lets it connect."""
    for each in client.cluster.brokers():
        if await client.ready(each.nodeId):
            return True
    return False
