"""The topics as declared, and created and checked on a real broker."""

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, LeaderNotAvailableError

from deploy.local import ports
from deploy.local.broker import Broker
from streams import topics
from streams.providers import PROVIDERS
from streams.settings import Kafka, Settings, Topics, Worker

_NewPartitions: Any = NewPartitions
_NewTopic: Any = NewTopic
_ConfigResource: Any = ConfigResource
DAY_MS = 24 * 3600 * 1000
NAMES = (
    "RAW_PREFIX",
    "SENDS",
    "EVENTS",
    "STATUS_CHANGED",
    "STATUS",
    "DEFERRALS",
    "DEFERRAL_ALERTS",
    "DEAD_LETTERS",
    "CONTROL",
)


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give this test topics of its own on the shared broker."""
    prefix = f"t{secrets.token_hex(4)}."
    for name in NAMES:
        monkeypatch.setattr(topics, name, prefix + getattr(topics, name))
    return prefix


@pytest.fixture
def chosen(broker: Broker, prefix: str) -> Iterator[Settings]:
    settings = Settings(
        kafka=Kafka(bootstrap_servers=broker.bootstrap),
        topics=Topics(partitions=3),
        worker=Worker(app_id=f"{prefix}app"),
    )
    yield settings
    asyncio.run(_delete_all(settings))


async def _delete_all(settings: Settings) -> None:
    async with topics.admin_client(settings) as admin:
        await admin.delete_topics([spec.name for spec in topics.all_topics(settings)])


def by_name(settings: Settings) -> dict[str, topics.TopicSpec]:
    return {spec.name: spec for spec in topics.all_topics(settings)}


def test_there_is_a_raw_topic_for_each_provider_that_is_read() -> None:
    everything = by_name(Settings())
    only_one = by_name(Settings(topics=Topics(providers=("mailgun",))))

    assert {name for name in everything if name.startswith("mail.raw.")} == {f"mail.raw.{name}" for name in PROVIDERS}
    assert {name for name in only_one if name.startswith("mail.raw.")} == {"mail.raw.mailgun"}


def test_every_topic_that_is_keyed_by_delivery_has_the_partition_count_of_the_changelog() -> None:
    specs = by_name(Settings(topics=Topics(partitions=5)))
    keyed = (
        "mail.sends",
        "mail.events",
        "mail.status-changed",
        "mail.status",
        "mail.deferrals",
        "mail.deferral-alerts",
        "mailstreams-deliveries-changelog",
        "mailstreams-open-deferrals-changelog",
    )

    assert {specs[name].partitions for name in keyed} == {5}
    assert all(specs[name].fixed_partitions for name in keyed)


@pytest.mark.parametrize("name", ["mail.raw.sendgrid", "mail.sends"])
def test_what_comes_from_outside_may_be_large_and_carries_the_brokers_time(name: str) -> None:
    config = by_name(Settings())[name].config

    assert config["max.message.bytes"] == str(8 * 1024 * 1024)
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert config["retention.ms"] == str(7 * DAY_MS)


@pytest.mark.parametrize(
    "name", ["mail.status", "mail.control", "mailstreams-deliveries-changelog", "mailstreams-open-deferrals-changelog"]
)
def test_what_has_a_newest_record_is_compacted_and_tombstones_outlive_a_weeks_absence(name: str) -> None:
    config = by_name(Settings())[name].config

    assert config["cleanup.policy"] == "compact"
    assert config["min.cleanable.dirty.ratio"] == "0.1"
    assert config["delete.retention.ms"] == str(7 * DAY_MS)
    assert "retention.ms" not in config


def test_a_dead_letter_of_the_largest_size_fits_its_topic() -> None:
    limits = [entry.le for entry in Worker.model_fields["dead_letter_max_bytes"].metadata if getattr(entry, "le", None)]

    assert limits[0] < int(by_name(Settings())["mail.dead-letters"].config["max.message.bytes"])


def test_every_topic_asks_for_the_replicas_that_are_set() -> None:
    specs = topics.all_topics(Settings(topics=Topics(replication_factor=3, min_insync_replicas=2)))

    assert {spec.config["min.insync.replicas"] for spec in specs} == {"2"}


def test_only_the_control_topic_holds_no_addresses() -> None:
    assert [spec.name for spec in topics.all_topics(Settings()) if not spec.holds_addresses] == ["mail.control"]


def test_what_is_missing_is_said_with_the_command_that_creates_it(chosen: Settings) -> None:
    problems = asyncio.run(topics.check(chosen))

    assert len(problems) == len(topics.all_topics(chosen))
    assert topics.Problem(f"topic {topics.EVENTS} is missing; create it: mailstreams topics create") in problems


async def test_a_topic_that_is_there_without_a_leader_is_waited_for_and_nobody_is_told_to_create_it() -> None:
    class Admin:
        """What a broker says that has just come back: it knows of a topic, and not yet of who leads it."""

        async def describe_topics(self) -> list[dict[str, Any]]:
            return [
                {"topic": topics.EVENTS, "partitions": [{"leader": 1}, {"leader": -1}]},
                {"topic": topics.STATUS, "partitions": [{"leader": 1}]},
            ]

    with pytest.raises(LeaderNotAvailableError):
        await topics._partition_counts(Admin(), {topics.EVENTS, topics.STATUS})

    assert await topics._partition_counts(Admin(), {topics.STATUS}) == {topics.STATUS: 1}
    assert set(await topics._partitions(Admin(), leaders=False)) == {topics.EVENTS, topics.STATUS}


def test_created_topics_fit_and_creating_again_creates_nothing(chosen: Settings) -> None:
    created = asyncio.run(topics.create(chosen))

    assert created == topics.all_topics(chosen)
    assert asyncio.run(topics.check(chosen)) == []
    assert asyncio.run(topics.create(chosen)) == []


def test_created_topics_have_all_of_their_configuration(chosen: Settings) -> None:
    specs = asyncio.run(topics.create(chosen))

    async def found() -> Any:
        async with topics.admin_client(chosen) as admin:
            return await topics._configs(admin, [spec.name for spec in specs])

    configs = asyncio.run(found())
    for spec in specs:
        assert dict(spec.config).items() <= configs[spec.name].items(), spec.name


def test_another_partition_count_is_refused_where_a_key_would_move(chosen: Settings) -> None:
    asyncio.run(topics.create(chosen))
    other = chosen.model_copy(update={"topics": Topics(partitions=2)})

    problems = asyncio.run(topics.check(other))

    assert len(problems) == 8
    assert all("has 3 partitions, 2 are needed" in problem.text for problem in problems)
    assert all("set it: MAILSTREAMS_TOPICS__PARTITIONS=3; if nothing" in problem.text for problem in problems)
    assert not any(topics.RAW_PREFIX in problem.text for problem in problems)


def test_no_topic_is_created_beside_keyed_ones_with_another_partition_count(chosen: Settings) -> None:
    """As at an upgrade in a shell without the settings: with the wrong count it could never be changed."""
    asyncio.run(topics.create(chosen))

    async def delete() -> None:
        async with topics.admin_client(chosen) as admin:
            await admin.delete_topics([topics.DEFERRAL_ALERTS])
        while topics.DEFERRAL_ALERTS in await topics.partition_counts(chosen):
            await asyncio.sleep(0.1)

    asyncio.run(delete())
    other = chosen.model_copy(update={"topics": Topics(partitions=2)})

    with pytest.raises(topics.TopicsError, match=r"nothing is created: .* set it: MAILSTREAMS_TOPICS__PARTITIONS=3;"):
        asyncio.run(topics.create(other))

    assert topics.DEFERRAL_ALERTS not in asyncio.run(topics.partition_counts(chosen))
    assert [spec.name for spec in asyncio.run(topics.create(chosen))] == [topics.DEFERRAL_ALERTS]


def test_a_topic_that_a_readers_question_made_can_be_deleted_and_created(chosen: Settings) -> None:
    """By the default of brokers, with one partition: no other topic is there, so all of them seem to have one."""

    async def ask() -> None:
        async with topics.admin_client(chosen) as admin:
            await admin.create_topics([_NewTopic(topics.STATUS, 1, 1)])
        while topics.STATUS not in await topics.partition_counts(chosen):
            await asyncio.sleep(0.1)

    asyncio.run(ask())

    with pytest.raises(topics.TopicsError) as told:
        asyncio.run(topics.create(chosen))

    text = str(told.value)
    assert "if all that are in use have 1, set it: MAILSTREAMS_TOPICS__PARTITIONS=1" in text
    assert "if nothing was ever written to it" in text
    assert text.endswith(f"--delete --topic {topics.STATUS}; then: mailstreams topics create")


def test_partitions_that_are_too_few_for_an_unkeyed_topic_can_be_added(chosen: Settings) -> None:
    asyncio.run(topics.create(chosen))
    other = chosen.model_copy(update={"topics": Topics(partitions=4)})

    problems = asyncio.run(topics.check(other))

    assert any(f"--alter --topic {topics.DEAD_LETTERS} --partitions 4" in problem.text for problem in problems)


def test_a_control_topic_with_two_partitions_is_refused(chosen: Settings) -> None:
    asyncio.run(topics.create(chosen))

    async def add() -> None:
        async with topics.admin_client(chosen) as admin:
            await admin.create_partitions({topics.CONTROL: _NewPartitions(2)})
        while (await topics.partition_counts(chosen))[topics.CONTROL] != 2:
            await asyncio.sleep(0.1)

    asyncio.run(add())

    (problem,) = asyncio.run(topics.check(chosen))
    assert problem.text.startswith(f"topic {topics.CONTROL} has 2 partitions, 1 are needed; delete it: kafka-topics.sh")


@pytest.mark.parametrize(
    ("name", "value"),
    [("cleanup.policy", "delete"), ("max.message.bytes", "1048576"), ("message.timestamp.type", "LogAppendTime")],
)
def test_a_configuration_that_breaks_a_promise_is_refused_with_the_command_that_mends_it(
    chosen: Settings, name: str, value: str
) -> None:
    spec = {spec.name: spec for spec in asyncio.run(topics.create(chosen))}[topics.STATUS]
    _alter(chosen, topics.STATUS, dict(spec.config) | {name: value})

    (problem,) = asyncio.run(topics.check(chosen))

    assert problem == topics.Problem(
        f"topic {topics.STATUS} has {name}={value}, {spec.config[name]} is needed; change it: kafka-configs.sh "
        f"--bootstrap-server {chosen.kafka.bootstrap_servers} --alter --entity-type topics "
        f"--entity-name {topics.STATUS} --add-config {name}={spec.config[name]}"
    )


def test_topics_that_were_made_before_more_copies_were_wanted_are_told_and_forbid_no_start(chosen: Settings) -> None:
    asyncio.run(topics.create(chosen))
    safer = chosen.model_copy(update={"topics": Topics(partitions=3, replication_factor=3, min_insync_replicas=2)})

    problems = asyncio.run(topics.check(safer))

    assert problems == [
        topics.Problem(
            f"topic {spec.name} has partitions with 1 copy, 3 are needed; add them: kafka-reassign-partitions.sh "
            "(docs/operations.md#more-copies-of-a-topic)",
            forbids=False,
        )
        for spec in topics.all_topics(chosen)
    ]


@pytest.mark.parametrize(("in_sync", "told"), [("1", True), ("2", False), ("3", False)])
def test_copies_of_which_too_few_have_to_have_a_record_are_told_with_the_command_that_mends_it(
    in_sync: str, *, told: bool
) -> None:
    settings = Settings(topics=Topics(replication_factor=3, min_insync_replicas=2))
    (spec,) = [spec for spec in topics.all_topics(settings) if spec.name == topics.EVENTS]

    problems = list(topics._too_few_copies(spec, 3, {"min.insync.replicas": in_sync}, settings))

    said = topics.Problem(
        f"topic mail.events has min.insync.replicas={in_sync}, 2 is needed; change it: kafka-configs.sh --bootstrap-server "
        f"{settings.kafka.bootstrap_servers} --alter --entity-type topics --entity-name mail.events "
        "--add-config min.insync.replicas=2",
        forbids=False,
    )
    assert problems == ([said] if told else [])


@pytest.mark.parametrize(
    ("name", "found", "told"),
    [
        ("mail.events", "3600000", True),
        ("mail.events", "86400000", False),
        ("mail.events", None, False),
        ("mail.sends", "3600000", False),
    ],
    ids=["Kafka 4's default", "ours", "unknown before 3.6", "by the broker's own clock"],
)
def test_a_topic_that_stops_a_worker_whose_clock_is_hours_ahead_is_told_and_forbids_no_start(
    name: str, found: str | None, *, told: bool
) -> None:
    config = {} if found is None else {"message.timestamp.after.max.ms": found}

    problems = list(topics._too_little_ahead(by_name(Settings())[name], config, "host:9092"))

    assert [problem.forbids for problem in problems] == [False] * told
    assert all("--add-config message.timestamp.after.max.ms=86400000" in problem.text for problem in problems)


async def test_a_broker_that_does_not_know_how_far_ahead_a_record_may_be_is_not_asked_for_it() -> None:
    class Admin:
        """A broker before Kafka 3.6."""

        def __init__(self) -> None:
            self.asked: list[dict[str, str]] = []

        async def create_topics(self, wanted: list[Any]) -> Any:
            self.asked += [topic.topic_configs for topic in wanted]
            unknown = "Unknown topic config name: message.timestamp.after.max.ms"
            knows = "message.timestamp.after.max.ms" not in wanted[0].topic_configs
            error = (wanted[0].name, 0, None) if knows else (wanted[0].name, 40, unknown)
            return type("Answer", (), {"topic_errors": [error]})

    spec = by_name(Settings())["mail.events"]

    await topics._create_missing(admin := Admin(), [spec], 1)

    first, second = admin.asked
    assert first == spec.config == second | {"message.timestamp.after.max.ms": str(DAY_MS)}


def test_a_longer_retention_and_a_larger_limit_are_the_operators_choice(chosen: Settings) -> None:
    spec = {spec.name: spec for spec in asyncio.run(topics.create(chosen))}[topics.EVENTS]
    _alter(chosen, topics.EVENTS, dict(spec.config) | {"retention.ms": "-1", "max.message.bytes": "9000000"})

    assert asyncio.run(topics.check(chosen)) == []


@pytest.mark.parametrize("retention_ms", [14 * DAY_MS, -1, 2**63 - 1])
def test_a_topic_that_does_not_outlive_the_webhooks_by_a_day_is_told_and_forbids_no_start(
    chosen: Settings, retention_ms: int
) -> None:
    raw = topics.raw_topic("sendgrid")
    specs = {spec.name: spec for spec in asyncio.run(topics.create(chosen))}
    _alter(chosen, raw, dict(specs[raw].config) | {"retention.ms": str(retention_ms)})
    _alter(chosen, topics.STATUS_CHANGED, dict(specs[topics.STATUS_CHANGED].config) | {"retention.ms": "-1"})
    endless = retention_ms in {-1, 2**63 - 1}
    needed = -1 if endless else retention_ms + DAY_MS

    problems = asyncio.run(topics.check(chosen))

    too_short = [topics.EVENTS, topics.DEFERRALS]
    if endless:
        too_short += [topics.DEFERRAL_ALERTS, topics.DEAD_LETTERS]
    assert problems == [
        topics.Problem(
            f"topic {name} has retention.ms={specs[name].config['retention.ms']}, {needed} is needed, "
            f"a day longer than {raw}, whose records' time it carries; change it: "
            f"kafka-configs.sh --bootstrap-server {chosen.kafka.bootstrap_servers} --alter --entity-type topics "
            f"--entity-name {name} --add-config retention.ms={needed}",
            forbids=False,
        )
        for name in too_short
    ]


def test_what_the_brokers_refuse_is_said_in_one_sentence(chosen: Settings) -> None:
    greedy = chosen.model_copy(update={"topics": Topics(partitions=3, replication_factor=3)})

    with pytest.raises(topics.TopicsError, match=r"cannot be created: .*replication factor"):
        asyncio.run(topics.create(greedy))


def test_an_absent_broker_is_an_error_at_once() -> None:
    (port,) = ports.find(1)
    settings = Settings(kafka=Kafka(bootstrap_servers=f"127.0.0.1:{port}"))

    with pytest.raises(KafkaConnectionError):
        asyncio.run(topics.check(settings))


def _alter(settings: Settings, topic: str, config: dict[str, str]) -> None:
    """Replace a topic's configuration, and wait until the broker shows it."""

    async def differs(admin: Any) -> bool:
        found = (await topics._configs(admin, [topic]))[topic]
        assert isinstance(found, dict)
        return not config.items() <= found.items()

    async def alter() -> None:
        async with topics.admin_client(settings) as admin:
            await admin.alter_configs([_ConfigResource(ConfigResourceType.TOPIC, topic, config)])
            while await differs(admin):
                await asyncio.sleep(0.05)

    asyncio.run(alter())
