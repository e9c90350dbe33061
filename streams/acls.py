"""Who may do what in Kafka: the one source of the commands, of the documentation's table and of the test.

The rule: **a right is listed only if a part of the system needs it from a broker.** ``make e2e`` runs every part as
its own user with exactly these rights (``tests/e2e/test_access.py``); there a missing right stops a part.

Operations imply others, as in Kafka: Read, Write and Alter imply Describe, AlterConfigs implies DescribeConfigs.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from streams import topics
from streams.agents import monitor, track
from streams.history import projection
from streams.settings import Settings

USER_PREFIX: Final = "mailstreams-"
"""With the role's name after it: the user of a role unless another is chosen."""


class Resource(StrEnum):
    """What a right applies to, named like the options of ``kafka-acls.sh``."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"


class Operation(StrEnum):
    """What may be done, in Kafka's own words."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DESCRIBE = "Describe"
    DESCRIBE_CONFIGS = "DescribeConfigs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Some operations on some resources of one kind."""

    resource: Resource
    names: tuple[str, ...]
    prefixed: bool = False
    """The names are prefixes."""
    operations: tuple[Operation, ...]
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A part of the system, or a person, with a user of its own."""

    name: str
    description: str
    user: str
    grants: tuple[Grant, ...]


def roles(settings: Settings, user: str | None = None) -> list[Role]:
    """Return every role with its rights, for ``user`` or else each for its default user."""

    def user_of(role: str) -> str:
        return user or USER_PREFIX + role

    return [
        _ingress(user_of("ingress")),
        _sender(user_of("sender")),
        _worker(user_of("worker"), settings),
        _history(user_of("history")),
        _subscriber(user_of("subscriber")),
        _support(user_of("support"), settings),
        _operator(user_of("operator"), settings),
    ]


def commands(role: Role, *, servers: str, command_config: str) -> list[str]:
    """Return the ``kafka-acls.sh`` commands that give a role its rights; running them again does no harm."""
    start = ["kafka-acls.sh", "--bootstrap-server", servers, "--command-config", command_config]
    start += ["--add", "--allow-principal", f"User:{role.user}"]
    made = []
    for grant in role.grants:
        words = [*start, *_options("operation", grant.operations), *_options(grant.resource, grant.names)]
        made.append(shlex.join([*words, *(["--resource-pattern-type", "prefixed"] if grant.prefixed else [])]))
    return made


def table(all_roles: Sequence[Role]) -> str:
    """Return the rights as a table for the documentation; a name that ends in ``*`` is a prefix."""
    lines = ["| user | may | on | for what |", "|---|---|---|---|"]
    for role in all_roles:
        for number, grant in enumerate(role.grants):
            user = f"`{role.user}`" if number else f"`{role.user}`: {role.description}"
            end = "*" if grant.prefixed else ""
            names = ", ".join(f"`{name}{end}`" for name in grant.names)
            many = "s" if len(grant.names) > 1 or grant.prefixed else ""
            kind = f"{grant.resource.replace('-', ' ')}{many}"
            may = ", ".join(grant.operations)
            lines.append(f"| {user} | {may} | {kind} {names} | {grant.purpose} |")
    return "\n".join(lines)


def _options(name: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from (f"--{name}", value)


# -- the roles --------------------------------------------------------------------------------------------------------


def _ingress(user: str) -> Role:
    write = (Operation.WRITE, Operation.DESCRIBE_CONFIGS)
    return Role(
        name="ingress",
        description="`mailstreams ingress`",
        user=user,
        grants=(
            _raw(write, "to write webhooks, after a check that the topics fit"),
            _on_topics((topics.SENDS,), write, "the same for `POST /sends`"),
        ),
    )


def _sender(user: str) -> Role:
    return Role(
        name="sender",
        description="an application that reports its sends through Kafka",
        user=user,
        grants=(_on_topics((topics.SENDS,), (Operation.WRITE,), "to report what was sent"),),
    )


def _worker(user: str, settings: Settings) -> Role:
    app_id = settings.worker.app_id
    read, write, look = Operation.READ, Operation.WRITE, Operation.DESCRIBE_CONFIGS
    return Role(
        name="worker",
        description="`mailstreams worker`",
        user=user,
        grants=(
            _raw((read, look), "to read webhooks"),
            _on_topics(
                (topics.SENDS, topics.CONTROL), (read, look), "to read what was sent, and the operators' commands"
            ),
            _on_topics(
                (topics.EVENTS, topics.DEFERRALS, *_changelogs(settings)),
                (read, write, look),
                "what one stage writes and the next reads, and the tables' changelogs",
            ),
            _on_topics(
                (topics.STATUS_CHANGED, topics.STATUS, topics.DEFERRAL_ALERTS, topics.DEAD_LETTERS),
                (write, look),
                "to write what subscribers and operators read",
            ),
            Grant(
                resource=Resource.GROUP,
                names=(app_id,),
                operations=(read,),
                purpose="to share the work, and to commit positions",
            ),
            Grant(
                resource=Resource.TRANSACTIONAL_ID,
                names=tuple(f"{app_id}-{stage}-" for stage in (track.STAGE, monitor.STAGE)),
                prefixed=True,
                operations=(write,),
                purpose="one for each partition",
            ),
        ),
    )


def _history(user: str) -> Role:
    return Role(
        name="history",
        description="`mailstreams history`",
        user=user,
        grants=(_on_topics(projection.TOPICS, (Operation.READ,), "to show them; it is in no group"),),
    )


def _subscriber(user: str) -> Role:
    return Role(
        name="subscriber",
        description="an application that acts on statuses or alerts",
        user=user,
        grants=(
            _on_topics(
                (topics.STATUS_CHANGED, topics.STATUS, topics.DEFERRAL_ALERTS), (Operation.READ,), "to act on them"
            ),
            Grant(
                resource=Resource.GROUP,
                names=(user,),
                prefixed=True,
                operations=(Operation.READ,),
                purpose="groups of its own: those whose names begin with the user's",
            ),
        ),
    )


def _support(user: str, settings: Settings) -> Role:
    open_deferrals = topics.changelog_topic(settings.worker.app_id, topics.OPEN_DEFERRALS_TABLE)
    return Role(
        name="support",
        description="people with `mailstreams watch`, `lookup` and `deferrals`",
        user=user,
        grants=(
            _on_topics(
                (topics.STATUS_CHANGED, topics.STATUS, topics.EVENTS, topics.DEFERRAL_ALERTS, open_deferrals),
                (Operation.READ,),
                "`mailstreams watch`, `lookup` and `deferrals`",
            ),
        ),
    )


def _operator(user: str, settings: Settings) -> Role:
    create = (Operation.CREATE, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS)
    every = [spec.name for spec in topics.all_topics(settings) if not spec.name.startswith(topics.RAW_PREFIX)]
    return Role(
        name="operator",
        description="people with `mailstreams topics`, `dead-letters`, `feed`, `resume` and `webhook confirm`",
        user=user,
        grants=(
            _raw(create, "`mailstreams topics`"),
            _on_topics(tuple(every), create, "`mailstreams topics`"),
            _on_topics((topics.DEAD_LETTERS,), (Operation.READ,), "`mailstreams dead-letters`"),
            _raw((Operation.WRITE,), "`mailstreams dead-letters replay` and `feed`"),
            _on_topics((topics.raw_topic("amazon_ses"),), (Operation.READ,), "`mailstreams webhook confirm`"),
            _on_topics(
                (topics.SENDS, topics.EVENTS, topics.DEFERRALS), (Operation.WRITE,), "`mailstreams dead-letters replay`"
            ),
            _on_topics(
                (topics.STATUS,),
                (Operation.READ,),
                "`mailstreams dead-letters replay`, to see whether one is out of date",
            ),
            _on_topics((topics.CONTROL,), (Operation.WRITE,), "`mailstreams resume`"),
            Grant(
                resource=Resource.GROUP,
                names=(settings.worker.app_id,),
                operations=(Operation.DESCRIBE,),
                purpose="`mailstreams resume`: which partitions are stopped",
            ),
        ),
    )


def _raw(operations: tuple[Operation, ...], purpose: str) -> Grant:
    return Grant(
        resource=Resource.TOPIC, names=(topics.RAW_PREFIX,), prefixed=True, operations=operations, purpose=purpose
    )


def _on_topics(names: tuple[str, ...], operations: tuple[Operation, ...], purpose: str) -> Grant:
    return Grant(resource=Resource.TOPIC, names=names, operations=operations, purpose=purpose)


def _changelogs(settings: Settings) -> tuple[str, ...]:
    tables = (topics.DELIVERIES_TABLE, topics.OPEN_DEFERRALS_TABLE)
    return tuple(topics.changelog_topic(settings.worker.app_id, name) for name in tables)
