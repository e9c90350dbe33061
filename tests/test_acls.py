"""The rights in Kafka: what is printed and what is documented is the one list; that it is enough is proven by ``make e2e``."""

from deploy.local import ROOT
from streams import acls, topics
from streams.acls import Operation, Resource, Role
from streams.cli import acls as command
from streams.settings import Settings, Worker

PAGE = (ROOT / "docs" / "kafka-security.md").read_text(encoding="utf-8")
ROLES = acls.roles(Settings())


def may(role: Role, operation: Operation) -> set[str]:
    """Return the topics of the defaults on which a role may do something."""
    every = [spec.name for spec in topics.all_topics(Settings())]
    return {
        topic
        for grant in role.grants
        if grant.resource is Resource.TOPIC and operation in grant.operations
        for topic in every
        if topic in grant.names or (grant.prefixed and topic.startswith(grant.names))
    }


def by_name(name: str) -> Role:
    (role,) = [role for role in ROLES if role.name == name]
    return role


def test_the_table_of_the_page_is_the_list() -> None:
    assert f"\n{acls.table(ROLES)}\n" in PAGE, "write it anew: mailstreams acls --table"


def test_the_command_names_every_role() -> None:
    assert [role.name for role in ROLES] == list(command.ROLES)
    assert {role.user for role in ROLES} == {f"mailstreams-{name}" for name in command.ROLES}


def test_only_the_worker_says_what_a_status_is() -> None:
    for topic in (topics.STATUS_CHANGED, topics.STATUS, topics.DEFERRAL_ALERTS):
        assert [role.name for role in ROLES if topic in may(role, Operation.WRITE)] == ["worker"]


def test_the_ingress_reads_nothing_and_readers_write_nothing() -> None:
    assert may(by_name("ingress"), Operation.READ) == set()
    for name in ("history", "subscriber", "support"):
        assert may(by_name(name), Operation.WRITE) == set()


def test_every_right_is_on_something_that_is_there() -> None:
    known = {spec.name for spec in topics.all_topics(Settings())} | {topics.RAW_PREFIX}
    for role in ROLES:
        for grant in role.grants:
            assert grant.resource is not Resource.TOPIC or set(grant.names) <= known, role.name


def test_an_app_id_is_a_part_of_groups_transactions_and_changelogs() -> None:
    other = acls.roles(Settings(worker=Worker(app_id="second")))
    (worker,) = [role for role in other if role.name == "worker"]
    names = [name for grant in worker.grants for name in grant.names]

    assert {"second", "second-track-", "second-monitor-", "second-deliveries-changelog"} <= set(names)
    assert not [name for name in names if name.startswith("mailstreams")]
