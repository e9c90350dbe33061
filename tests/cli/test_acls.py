"""``mailstreams acls``: commands that an administrator can paste; the broker is not asked."""

import shlex

from tests.cli.conftest import Invoke


def test_a_command_is_for_one_kind_of_resource_and_says_who_and_what(invoke: Invoke) -> None:
    printed = invoke("acls", "subscriber", "--user", "CN=a b").stdout.splitlines()

    assert printed[0] == "# subscriber: an application that acts on statuses or alerts"
    start = ["--add", "--allow-principal", "User:CN=a b", "--operation", "Read"]
    assert [shlex.split(line)[5:] for line in printed[1:]] == [
        [*start, "--topic", "mail.status-changed", "--topic", "mail.status", "--topic", "mail.deferral-alerts"],
        [*start, "--group", "CN=a b", "--resource-pattern-type", "prefixed"],
    ]


def test_without_a_role_all_are_printed(invoke: Invoke) -> None:
    printed = invoke("acls").stdout.splitlines()

    headings = [line.removeprefix("# ").partition(":")[0] for line in printed if line.startswith("#")]
    assert headings == ["ingress", "sender", "worker", "history", "subscriber", "support", "operator"]
    assert all(line.startswith(("#", "kafka-acls.sh --bootstrap-server 127.0.0.1:19092 ")) for line in printed)


def test_a_user_for_all_roles_at_once_is_refused(invoke: Invoke) -> None:
    result = invoke("acls", "--user", "one")

    assert (result.exit_code, result.stderr) == (2, "mailstreams: --user is the user of one role: name the role\n")
