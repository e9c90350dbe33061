"""The topics: the one place that names them, declares them, creates them and checks them.

No other file writes a topic's name. ``mail.sends``, ``mail.events`` and the
topics after it, but for dead letters and control, have the same partition count,
key (the delivery id) and partitioner (murmur2), so that one worker owns a delivery
from end to end. So that count can never be changed in place, and ``check`` keeps
a worker from starting on a cluster where it does not fit.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidConfigurationError,
    KafkaConnectionError,
    LeaderNotAvailableError,
    NotControllerError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from streams import brokers
from streams.settings import RETENTION_MARGIN_DAYS, Settings

RAW_PREFIX: Final = "mail.raw."
SENDS: Final = "mail.sends"
EVENTS: Final = "mail.events"
STATUS_CHANGED: Final = "mail.status-changed"
STATUS: Final = "mail.status"
DEFERRALS: Final = "mail.deferrals"
DEFERRAL_ALERTS: Final = "mail.deferral-alerts"
DEAD_LETTERS: Final = "mail.dead-letters"
CONTROL: Final = "mail.control"

DELIVERIES_TABLE: Final = "deliveries"
"""The Faust table of the stage ``track``; Faust names its changelog topic after it."""
OPEN_DEFERRALS_TABLE: Final = "open-deferrals"
"""The Faust table of the stage ``monitor``."""

MAX_RECORD_BYTES: Final = 8 * 1024 * 1024
"""The largest batch of records that a topic takes, in bytes; so also the limit of a webhook with its headers."""
MAX_BODY_BYTES: Final = MAX_RECORD_BYTES - 64 * 1024
"""The largest webhook body that fits into a record together with its headers."""

# aiokafka annotates its admin client only in part, and its answers have types that are made at run time
_Admin: Any = AIOKafkaAdminClient
_NewTopic: Any = NewTopic
_ConfigResource: Any = ConfigResource

CONNECT_TIMEOUT_S: Final = 10.0
_VISIBLE_TIMEOUT_S: Final = 60.0
_DAY_MS: Final = 24 * 60 * 60 * 1000
_MEBIBYTE: Final = 1024 * 1024
_LONGEST_MS: Final = 2**63 - 1 - RETENTION_MARGIN_DAYS * _DAY_MS
"""A retention from here on is for ever, as Kafka's ``Long.MAX`` is: a day longer would not be a long."""
_CHECKED_CONFIG: Final = ("cleanup.policy", "max.message.bytes", "message.timestamp.type")
"""Settings on which our guarantees depend; an operator may change retention and the like, within limits."""
_AHEAD: Final = "message.timestamp.after.max.ms"
"""How far ahead of its own clock a broker lets a record be. What falls due is stamped with its deadline, by a worker's clock."""


class TopicsError(Exception):
    """The brokers refuse a topic as it is declared; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of a topic that does not fit."""

    text: str
    """What, and the command that mends it."""
    forbids: bool = True
    """A process that needs the topic does not start. Else it runs, and less is safe than the settings say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """A topic as it should be."""

    name: str
    description: str
    """What one of its records is."""
    partitions: int
    fixed_partitions: bool
    """Another partition count would move keys or break a promised order; if False, more partitions do no harm."""
    config: Mapping[str, str]
    """Kafka's topic settings, by their Kafka names."""
    holds_addresses: bool
    """Its records carry e-mail addresses: limit who may read it."""


def raw_topic(provider: str) -> str:
    """Return the topic of a provider's webhooks as received."""
    return RAW_PREFIX + provider


def changelog_topic(app_id: str, table: str = DELIVERIES_TABLE) -> str:
    """Return the topic that a Faust table is rebuilt from, named as Faust names it."""
    return f"{app_id}-{table}-changelog"


def all_topics(settings: Settings) -> list[TopicSpec]:
    """Return every topic of the system, in the order in which data passes them."""
    chosen = settings.topics
    delete = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MAX_RECORD_BYTES),
        "message.timestamp.type": "CreateTime",
        # Kafka 4 lets a record be an hour ahead: a worker that is two hours ahead could write nothing at all. But one that
        # is a year ahead is better stopped than obeyed: it would forget every delivery.
        _AHEAD: str(_DAY_MS),
        "min.insync.replicas": str(chosen.min_insync_replicas),
        "segment.bytes": str(128 * _MEBIBYTE),
        # segments are deleted whole: each spans a day at most, so that addresses do not outlive the retention by a week
        "segment.ms": str(_DAY_MS),
    }
    compact = {
        **delete,
        "cleanup.policy": "compact",
        "segment.bytes": str(64 * _MEBIBYTE),
        "min.cleanable.dirty.ratio": "0.1",
        # a reader that was away for less than this sees every tombstone
        "delete.retention.ms": str(7 * _DAY_MS),
        # an expired delivery's address is gone for good within a week
        "max.compaction.lag.ms": str(7 * _DAY_MS),
    }

    def keyed(name: str, description: str, config: Mapping[str, str]) -> TopicSpec:
        """Return a topic whose key is the delivery id."""
        return TopicSpec(
            name=name,
            description=description,
            partitions=chosen.partitions,
            fixed_partitions=True,
            config=config,
            holds_addresses=True,
        )

    return [
        *(
            TopicSpec(
                name=raw_topic(provider),
                description=f"{provider}'s webhooks: the body as received, how it came in the headers",
                partitions=chosen.partitions,
                fixed_partitions=False,
                # the broker's clock: the lag of the whole system is measured from it
                config={**delete, **_retention(chosen.raw_retention_days), "message.timestamp.type": "LogAppendTime"},
                holds_addresses=True,
            )
            for provider in chosen.providers
        ),
        keyed(
            SENDS,
            "what the application handed to a provider: message id, recipient, its own reference",
            # the broker's clock, as for the raw topics: it is the time of receipt, and the clock of ticks follows it
            {**delete, **_retention(chosen.raw_retention_days), "message.timestamp.type": "LogAppendTime"},
        ),
        keyed(
            EVENTS,
            "one delivery event a record, in our own vocabulary",
            {**delete, **_retention(chosen.events_retention_days)},
        ),
        keyed(
            changelog_topic(settings.worker.app_id), "internal: what the table `deliveries` is rebuilt from", compact
        ),
        keyed(
            changelog_topic(settings.worker.app_id, OPEN_DEFERRALS_TABLE),
            "internal: what the table `open-deferrals` is rebuilt from",
            compact,
        ),
        keyed(
            STATUS_CHANGED,
            "every change of a delivery's status, exactly once for read_committed readers",
            {**delete, **_retention(chosen.status_changed_retention_days)},
        ),
        keyed(STATUS, "the newest state of every delivery; a tombstone when it expired", compact),
        keyed(
            DEFERRALS,
            "internal: deferred events, and the status changes of deliveries that were deferred",
            {**delete, **_retention(chosen.events_retention_days)},
        ),
        keyed(
            DEFERRAL_ALERTS,
            "deliveries that stay deferred: raised, escalated, overdue, resolved",
            {**delete, **_retention(chosen.status_changed_retention_days)},
        ),
        TopicSpec(
            name=DEAD_LETTERS,
            description="what could not be understood, with its origin and the reason",
            partitions=chosen.partitions,
            fixed_partitions=False,
            config={**delete, **_retention(chosen.dead_letter_retention_days)},
            holds_addresses=True,
        ),
        TopicSpec(
            name=CONTROL,
            description="internal: what an operator tells the workers, such as resume",
            partitions=1,
            fixed_partitions=True,
            config=compact,
            holds_addresses=False,
        ),
    ]


async def create(settings: Settings) -> list[TopicSpec]:
    """Create the topics that are missing, wait until the cluster shows them, and return them.

    An existing topic is left as it is: ``check`` says what does not fit.

    Raises:
        TopicsError: the brokers refuse a topic, or do not show it in time; or keyed topics that exist have another
            partition count than the settings say: one that is created with it could never be changed.
        aiokafka.errors.KafkaError, TimeoutError: the brokers cannot be reached.
    """
    specs = all_topics(settings)
    async with admin_client(settings) as admin:
        there = await _partition_counts(admin)
        missing = [spec for spec in specs if spec.name not in there]
        if missing:
            _check_partitions_of_keyed(specs, there, settings)
            await _create_missing(admin, missing, settings.topics.replication_factor)
            await _wait_until_visible(admin, missing)
    return missing


async def check(
    settings: Settings,
    wanted: Callable[[TopicSpec], bool] = lambda _: True,
    *,
    leaders: bool = True,
    answering: bool = False,
) -> list[Problem]:
    """Return what does not fit; nothing when all is well.

    Args:
        settings: All of them.
        wanted: Says which topics to check: a part that writes two of them needs no right to describe the others.
        leaders: Whether all partitions must have a leader: a part that only writes can use those that have one.
        answering: Whether the leaders are asked, too. Once too many brokers are gone to agree on anything new, those
            that are left go on to name the leaders of before.

    Raises:
        streams.brokers.SilentError, streams.brokers.RefusedError: a leader does not answer, or does not let us in.
        aiokafka.errors.KafkaError, TimeoutError: the brokers cannot be reached, or have only just come back.
    """
    specs = [spec for spec in all_topics(settings) if wanted(spec)]
    async with admin_client(settings) as admin:
        there = await _partitions(admin, {spec.name for spec in specs}, leaders=leaders)
        if answering:
            await _ask_leaders(admin, settings, [one for spec in specs for one in there.get(spec.name, [])])
        configs = await _configs(admin, [spec.name for spec in specs if spec.name in there])
    problems: list[Problem] = []
    for spec in specs:
        if spec.name in there:
            problems.extend(_problems_of(spec, there[spec.name], configs[spec.name], settings))
        else:
            problems.append(Problem(missing(settings, spec.name)))
    retentions = {name: _retention_of(config) for name, config in configs.items() if not isinstance(config, str)}
    problems.extend(_read_too_late(specs, retentions, settings.kafka.bootstrap_servers))
    return problems


def missing(settings: Settings, name: str) -> str:
    """Return what to say of a topic not shown to us: with access control a broker does not reveal if it exists."""
    text = f"topic {name} is missing; create it: mailstreams topics create"
    user = settings.kafka.sasl_username or (settings.kafka.ssl_certfile and "of the certificate")
    return f"{text}; or the user {user} may not see it; allow it: mailstreams acls" if user else text


async def partition_counts(settings: Settings, led: Iterable[str] = ()) -> dict[str, int]:
    """Return the partition count of every topic, ours or not, that the brokers show us with all its leaders.

    Args:
        settings: How to reach the brokers.
        led: Topics that raise an error, rather than being left out, while a partition has no leader: see below.

    Raises:
        aiokafka.errors.LeaderNotAvailableError: a topic of ``led`` exists, but a partition has no leader just now.
        aiokafka.errors.KafkaError, TimeoutError: the brokers cannot be reached.
    """
    async with admin_client(settings) as admin:
        return await _partition_counts(admin, frozenset(led))


def _retention(days: float) -> dict[str, str]:
    return {"retention.ms": str(round(days * _DAY_MS))}


def _problems_of(
    spec: TopicSpec, partitions: Sequence[Mapping[str, Any]], config: Mapping[str, str] | str, settings: Settings
) -> Iterator[Problem]:
    """Yield what does not fit of a topic that is there: partitions, settings, copies.

    Args:
        spec: The topic as it should be.
        partitions: Its partitions, as ``_partitions`` returns them.
        config: Its settings, or the reason why they cannot be read (``_configs``).
        settings: All of them.
    """
    servers = settings.kafka.bootstrap_servers
    found = len(partitions)
    if found < spec.partitions or (spec.fixed_partitions and found != spec.partitions):
        yield Problem(_partitions_problem(spec, found, servers))
    if isinstance(config, str):
        yield Problem(f"topic {spec.name}: its configuration cannot be read: {config}")
        return
    for name in _CHECKED_CONFIG:
        if not _fits(name, config.get(name), spec.config[name]):
            yield Problem(_config_problem(spec.name, name, config.get(name), spec.config[name], servers))
    yield from _too_little_ahead(spec, config, servers)
    copies = min(len(partition["replicas"]) for partition in partitions)
    yield from _too_few_copies(spec, copies, config, settings)


def _too_few_copies(spec: TopicSpec, copies: int, config: Mapping[str, str], settings: Settings) -> Iterator[Problem]:
    """Yield what makes a record of the topic less safe than the settings say: it was made with others, mostly the defaults.

    A topic with fewer copies than ``min.insync.replicas`` takes no record at all, so it gets the copies first.
    """
    factor, in_sync = settings.topics.replication_factor, settings.topics.min_insync_replicas
    if copies < factor:
        text = (
            f"topic {spec.name} has partitions with {copies} {'copy' if copies == 1 else 'copies'}, {factor} are needed; "
            "add them: kafka-reassign-partitions.sh (docs/operations.md#more-copies-of-a-topic)"
        )
        yield Problem(text, forbids=False)
    name = "min.insync.replicas"
    if int(config.get(name, in_sync)) < in_sync <= copies:
        text = _config_problem(spec.name, name, config[name], str(in_sync), settings.kafka.bootstrap_servers)
        yield Problem(text, forbids=False)


def _too_little_ahead(spec: TopicSpec, config: Mapping[str, str], servers: str) -> Iterator[Problem]:
    """Yield that the broker refuses what a worker writes whose clock is not a day ahead. Before Kafka 3.6 it never does."""
    found, wanted = config.get(_AHEAD), spec.config[_AHEAD]
    if found is not None and int(found) < int(wanted) and spec.config["message.timestamp.type"] == "CreateTime":
        yield Problem(_config_problem(spec.name, _AHEAD, found, wanted, servers), forbids=False)


def _retention_of(config: Mapping[str, str]) -> float:
    """Return for how long a topic keeps a record, in ms; infinite where it keeps all of them."""
    retention = int(config.get("retention.ms", -1))
    return math.inf if retention < 0 or retention >= _LONGEST_MS else retention


def _read_too_late(specs: Sequence[TopicSpec], retentions: Mapping[str, float], servers: str) -> Iterator[Problem]:
    """Yield the topics that do not outlive what their records are made of, and so lose what is made of it late.

    By what the topics have, as an operator may have changed one of them and not the others.
    """
    kept = [spec for spec in specs if spec.name in retentions and spec.config["cleanup.policy"] == "delete"]
    sources = [spec.name for spec in kept if spec.config["message.timestamp.type"] == "LogAppendTime"]
    if not sources:
        return
    longest = max(sources, key=lambda name: retentions[name])
    needed = retentions[longest] + RETENTION_MARGIN_DAYS * _DAY_MS
    for spec in kept:
        found = retentions[spec.name]
        if spec.name not in sources and found < needed:
            value = "-1" if math.isinf(needed) else f"{needed:.0f}"
            why = f", a day longer than {longest}, whose records' time it carries"
            text = _config_problem(spec.name, "retention.ms", f"{found:.0f}", value, servers, why=why)
            yield Problem(text, forbids=False)


def _config_problem(topic: str, name: str, found: str | None, wanted: str, servers: str, *, why: str = "") -> str:
    return (
        f"topic {topic} has {name}={found}, {wanted} is needed{why}; change it: "
        f"kafka-configs.sh --bootstrap-server {servers} --alter --entity-type topics --entity-name {topic} "
        f"--add-config {name}={wanted}"
    )


def _fits(name: str, found: str | None, wanted: str) -> bool:
    if name == "max.message.bytes":
        return found is not None and int(found) >= int(wanted)
    return found == wanted


def _partitions_problem(spec: TopicSpec, found: int, servers: str) -> str:
    start = f"topic {spec.name} has {found} partitions, {spec.partitions} are needed"
    if not spec.fixed_partitions:
        return (
            f"{start}; add them: kafka-topics.sh --bootstrap-server {servers} --alter --topic {spec.name} "
            f"--partitions {spec.partitions}"
        )
    delete = (
        f"kafka-topics.sh --bootstrap-server {servers} --delete --topic {spec.name}; then: mailstreams topics create"
    )
    if spec.name == CONTROL:
        return f"{start}; delete it: {delete}"
    return (
        f"{start} and a keyed topic cannot be changed in place; if all that are in use have {found}, "
        f"set it: MAILSTREAMS_TOPICS__PARTITIONS={found}; if nothing was ever written to it, as where a reader made it by "
        f"asking for it, delete it: {delete}"
    )


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[Any]:
    """Yield a started admin client.

    Raises:
        aiokafka.errors.KafkaError, TimeoutError: the brokers cannot be reached.
    """
    admin = _Admin(**settings.kafka.client_options(), request_timeout_ms=round(settings.kafka.request_timeout_s * 1000))
    try:
        await _start(admin, settings)
        yield admin
    finally:
        await admin.close()


async def _start(admin: Any, settings: Settings) -> None:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await admin.start()
    except (KafkaConnectionError, TimeoutError):
        if refused := await brokers.refusal(settings.kafka.client_options()):
            raise refused from None
        raise


async def _partition_counts(admin: Any, led: AbstractSet[str] = frozenset()) -> dict[str, int]:
    """Return the partition count of every topic whose partitions all have a leader: see ``_partitions``."""
    return {name: len(partitions) for name, partitions in (await _partitions(admin, led)).items()}


async def _partitions(
    admin: Any, led: AbstractSet[str] = frozenset(), *, leaders: bool = True
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the partitions of every topic that all have a leader, each as the brokers describe it.

    Without ``leaders``, those of every topic.

    It asks for all topics, because asking for one by name creates it if ``auto.create.topics.enable`` is on.

    Raises:
        LeaderNotAvailableError: a topic of ``led`` exists without. That happens for a moment when a broker comes back,
            and nobody should be advised to create a topic that exists.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for topic in await admin.describe_topics():
        partitions = topic["partitions"]
        if partitions and (not leaders or all(partition["leader"] >= 0 for partition in partitions)):
            found[topic["topic"]] = partitions
        elif topic["topic"] in led:
            raise LeaderNotAvailableError(topic["topic"])
    return found


async def _ask_leaders(admin: Any, settings: Settings, partitions: Iterable[Mapping[str, Any]]) -> None:
    """Make sure that the brokers answer that lead these partitions, by the word of the one that was asked.

    Raises:
        streams.brokers.SilentError: one does not.
        streams.brokers.RefusedError: one does, and does not let us in.
    """
    leaders = {partition["leader"] for partition in partitions}
    known = {
        broker["node_id"]: (broker["host"], broker["port"]) for broker in (await admin.describe_cluster())["brokers"]
    }
    gone = await brokers.silent(settings.kafka.client_options(), [known[node] for node in leaders & known.keys()])
    if gone:
        text = f"partitions of the topics are led by a broker that does not answer ({', '.join(gone)}): {brokers.OUT_OF_REACH}"
        raise brokers.SilentError(text)


def _check_partitions_of_keyed(specs: Sequence[TopicSpec], there: Mapping[str, int], settings: Settings) -> None:
    for spec in specs:
        found = there.get(spec.name, spec.partitions)
        if spec.fixed_partitions and spec.name != CONTROL and found != spec.partitions:
            problem = _partitions_problem(spec, found, settings.kafka.bootstrap_servers)
            text = f"nothing is created: {problem}"
            raise TopicsError(text)


async def _create_missing(admin: Any, specs: Sequence[TopicSpec], replication_factor: int) -> None:
    """Request the topics until each exists; a cluster that has just started has no controller yet."""
    waiting = {spec.name: dict(spec.config) for spec in specs}
    partitions = {spec.name: spec.partitions for spec in specs}
    deadline = asyncio.get_running_loop().time() + _VISIBLE_TIMEOUT_S
    while waiting:
        answer = await admin.create_topics(
            [
                _NewTopic(name, partitions[name], replication_factor, topic_configs=config)
                for name, config in waiting.items()
            ]
        )
        for name, code, *message in answer.topic_errors:
            error = for_code(code)
            if code == 0 or error is TopicAlreadyExistsError:  # another process was quicker
                del waiting[name]
            elif error is InvalidConfigurationError and _AHEAD in waiting[name] and _AHEAD in str(message):
                # a broker before 3.6 does not know it, and lets a record be ahead
                waiting[name] = {key: value for key, value in waiting[name].items() if key != _AHEAD}
            elif not issubclass(error, (NotControllerError, RequestTimedOutError, LeaderNotAvailableError)):
                rights = "; which rights it takes: mailstreams acls operator" if error in brokers.NOT_ALLOWED else ""
                why = str((message and message[0]) or error.__name__)
                why = why.rstrip(".") if rights else why
                text = f"topic {name} cannot be created: {why}{rights}"
                raise TopicsError(text)
        if waiting:
            await _pause(deadline, f"topics cannot be created: {', '.join(waiting)}")


async def _wait_until_visible(admin: Any, specs: Sequence[TopicSpec]) -> None:
    deadline = asyncio.get_running_loop().time() + _VISIBLE_TIMEOUT_S
    while missing := {spec.name for spec in specs} - set(await _partition_counts(admin)):
        await _pause(deadline, f"topics were created but have no leader yet: {', '.join(sorted(missing))}")


async def _pause(deadline: float, otherwise: str) -> None:
    if asyncio.get_running_loop().time() > deadline:
        raise TopicsError(otherwise)
    await asyncio.sleep(0.2)


async def _configs(admin: Any, names: Sequence[str]) -> dict[str, dict[str, str] | str]:
    """Return each topic's configuration, or the reason why it cannot be read."""
    configs: dict[str, dict[str, str] | str] = {}
    if not names:
        return configs
    resources = [_ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    for answer in await admin.describe_configs(resources):
        for code, message, _, name, entries in answer.resources:
            if code:
                error = for_code(code)
                allow = "; allow it: mailstreams acls" if error is TopicAuthorizationFailedError else ""
                configs[name] = f"{(message or error.__name__).rstrip('.')}{allow}"
            else:
                configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs
