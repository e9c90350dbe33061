"""The command line as a whole: help, settings, exit codes, and an absent broker."""

import io
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local import ports
from streams import __version__, codecs, topics
from streams.cli import main
from streams.history.subscriber import Subscriber
from streams.settings import Settings
from tests.cli.conftest import Cluster, Invoke, spawn
from tests.cli.test_feed_and_watch import event, status_record

COMMANDS = ["worker", "topics", "feed", "watch", "lookup", "deferrals", "dead-letters", "resume", "config"]
NEED_A_BROKER = [
    ["topics", "check"],
    ["topics", "create"],
    ["feed", "postmark", "-"],
    ["watch"],
    ["lookup", "INV-1"],
    ["deferrals"],
    ["deferrals", "--watch"],
    ["dead-letters", "list"],
    ["dead-letters", "replay", "--all"],
    ["resume"],
    ["resume", "mail.events", "0"],
]


def test_help_lists_every_command_and_the_exit_codes(invoke: Invoke) -> None:
    result = invoke("--help")

    assert result.exit_code == 0
    assert all(re.search(rf"^  {name} ", result.stdout, re.MULTILINE) for name in COMMANDS)
    assert all(re.search(rf"\b{code} ", result.stdout) for code in ("0", "1", "2", "3", "130"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(invoke: Invoke, name: str) -> None:
    result = invoke(name, "--help")

    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: mailstreams {name}")


def test_the_version_is_printed(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"mailstreams {__version__}\n"


def test_help_and_version_load_neither_kafka_nor_faust() -> None:
    code = (
        "import sys\n"
        "from streams.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'aiokafka', 'faust', 'pydantic', 'rich', 'rocksdict'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_misspelled_command_is_wrong_use_and_the_right_one_is_named(invoke: Invoke) -> None:
    result = invoke("lokup", "INV-1")

    assert result.exit_code == 2
    assert "Did you mean lookup?" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "--rate", "nan"],
        ["simulate", "--rate", "1e-300"],
        ["simulate", "--rate", "inf"],
        ["simulate", "--duration", "nan"],
        ["simulate", "--duration", "inf"],
        ["simulate", "--duration", "1e12"],
        ["feed", "postmark", "-", "--rate", "nan"],
    ],
    ids=" ".join,
)
def test_a_number_that_no_clock_can_take_is_wrong_use(invoke: Invoke, arguments: list[str]) -> None:
    result = invoke(*arguments)

    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[-2]}'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_argument_in_another_encoding_is_wrong_use_and_not_said_back() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "streams", "lookup", b"R\xe9f"], capture_output=True, check=False, timeout=60
    )
    assert process.returncode == 2
    assert b"not UTF-8" in process.stderr
    assert b"Traceback" not in process.stderr
    assert b"R\xe9f" not in process.stderr


@pytest.mark.parametrize("arguments", [["topics", "check"], ["config", "show"], ["worker"], ["resume"]])
def test_wrong_settings_end_every_command_with_a_line_for_each(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("MAILSTREAMS_WEB__PORT", "x")
    monkeypatch.setenv("MAILSTREAMS_KAFKA__BOOTSTRAP", "x")

    result = invoke(*arguments)

    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["mailstreams", "mailstreams"]
    assert any("web.port" in line for line in lines)


def test_a_file_that_is_not_there_is_said_in_one_line(invoke: Invoke) -> None:
    result = invoke("--config", "/no/such.toml", "config", "show")

    assert (result.exit_code, result.stderr) == (2, "mailstreams: /no/such.toml: No such file or directory\n")


def test_an_ingress_whose_certificate_is_not_there_ends_with_a_line(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILSTREAMS_INGRESS__TLS_CERTFILE", "/no/such.pem")

    others, ingress = invoke("config", "show"), invoke("ingress")

    assert (others.exit_code, others.stderr) == (
        0,
        "the ingress cannot start here: ingress.tls_certfile: path does not point to a file\n",
    )
    assert (ingress.exit_code, ingress.stderr) == (
        2,
        "mailstreams: ingress.tls_certfile: path does not point to a file\n",
    )


def test_config_show_prints_toml_of_what_is_in_force_without_secrets(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "some.toml"
    path.write_text('[accounts."a.b"]\nsupport_contact = "the \\"desk\\""\n[web]\nport = 5\n')
    for name, value in {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "PLAIN", "SASL_USERNAME": "me"}.items():
        monkeypatch.setenv(f"MAILSTREAMS_KAFKA__{name}", value)
    monkeypatch.setenv("MAILSTREAMS_KAFKA__SASL_PASSWORD", "hunter2")

    text = invoke("--config", path, "config", "show").stdout
    as_json = invoke("--config", path, "config", "show", "--json").stdout

    shown = tomllib.loads(text)
    assert (shown["web"]["port"], shown["kafka"]["sasl_username"]) == (5, "me")
    assert shown["accounts"]["a.b"]["support_contact"] == 'the "desk"'
    assert codecs.decode(as_json)["kafka"]["sasl_password"] == shown["kafka"]["sasl_password"] == "**********"
    assert "hunter2" not in text + as_json


def test_config_reference_is_the_page(invoke: Invoke) -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"

    assert invoke("config", "reference").stdout == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", NEED_A_BROKER, ids=" ".join)
def test_an_absent_broker_is_said_in_one_line_that_tells_what_to_do(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    (port,) = ports.find(1)
    monkeypatch.setenv("MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{port}")

    result = invoke(*arguments, stdin=b"{}")

    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"mailstreams: no broker answers at 127.0.0.1:{port} (")
    assert line.endswith("start one (make run) or set kafka.bootstrap_servers")


def test_a_port_that_takes_connections_and_never_answers_is_given_up_in_time(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()

        result = invoke("topics", "check")

    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert time.monotonic() - begin < 15


def test_a_process_of_its_own_ends_alike_and_without_a_traceback() -> None:
    (port,) = ports.find(1)
    child = spawn("lookup", "INV-1", MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")

    output, errors = child.communicate(timeout=30)

    assert (child.returncode, output, len(errors.splitlines())) == (3, "", 1)


@pytest.mark.parametrize(
    "arguments", [["config", "reference"], ["simulate", "--help"], ["lookup", "INV-1", "--json"], ["lookup", "INV-1"]]
)
def test_a_full_disk_behind_the_output_is_said_in_one_line(cluster: Cluster, arguments: list[str]) -> None:
    cluster.produce(topics.STATUS, status_record(event("1")))

    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(
            [sys.executable, "-m", "streams", *arguments], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )

    assert (process.returncode, process.stderr) == (1, b"mailstreams: No space left on device\n")


def test_topics_check_says_what_is_missing_and_fails(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILSTREAMS_WORKER__APP_ID", "another")

    result = invoke("topics", "check", "--json")

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    for line, table in zip(lines, ("deliveries", "open-deferrals"), strict=True):
        assert f"another-{table}-changelog is missing" in codecs.decode(line)["problem"]
        assert cluster.settings.worker.app_id not in line.partition("; create it")[0]


def test_topics_create_creates_what_is_missing_and_says_that_all_fit(invoke: Invoke, cluster: Cluster) -> None:
    first = invoke("topics", "create")
    second = invoke("topics", "check")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert f"{len(topics.all_topics(cluster.settings))} topics, all fit" in second.stderr
    assert cluster.settings.topics.partitions == 3


@pytest.mark.parametrize(("created", "ends"), [(True, (0, "")), (False, (1, "it is missing\n"))])
def test_a_topic_just_created_is_not_missing_because_another_broker_has_not_heard_of_it(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, *, created: bool, ends: tuple[int, str]
) -> None:
    answers = [[topics.Problem("it is missing")], []]

    async def create(settings: Settings) -> list[topics.TopicSpec]:
        return topics.all_topics(settings) if created else []

    async def check(*_: object, **__: object) -> list[topics.Problem]:
        return answers.pop(0)

    monkeypatch.setattr(topics, "create", create)
    monkeypatch.setattr(topics, "check", check)

    result = invoke("topics", "create")

    told = "".join(line for line in result.stdout.splitlines(keepends=True) if not line.startswith("created "))
    assert (result.exit_code, told) == ends


@pytest.mark.parametrize(("forbids", "of_create"), [(True, 1), (False, 0)])
def test_a_topic_that_makes_less_safe_fails_the_check_and_not_the_start_that_creates_what_is_missing(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, *, forbids: bool, of_create: int
) -> None:
    async def created(*_: object) -> list[topics.TopicSpec]:
        return []

    async def found(*_: object, **__: object) -> list[topics.Problem]:
        return [topics.Problem("it does not fit", forbids=forbids)]

    monkeypatch.setattr(topics, "create", created)
    monkeypatch.setattr(topics, "check", found)

    create, check = invoke("topics", "create"), invoke("topics", "check", "--json")

    assert (create.exit_code, create.stdout) == (of_create, "it does not fit\n")
    assert (check.exit_code, codecs.decode(check.stdout)) == (
        1,
        {"problem": "it does not fit", "forbids_start": forbids},
    )


def test_ctrl_c_at_a_question_ends_with_130_and_a_no_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    codes = []
    for answer in (interrupted, lambda _: "n"):
        monkeypatch.setattr("click.termui.visible_prompt_func", answer)
        with pytest.raises(SystemExit) as ended:
            main(["history", "rebuild"])
        codes.append(ended.value.code)

    assert codes == [130, 1]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_what_the_terminals_encoding_lacks_is_escaped_and_json_is_utf_8(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("MAILSTREAMS_ACCOUNTS__A__SUPPORT_CONTACT", "użytkownik ü 😀")
    written = {}
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output := io.BytesIO(), encoding))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        written[len(arguments)] = output.getvalue()

    escaped = "użytkownik ü 😀".encode(encoding, "backslashreplace").decode(encoding)
    assert f'support_contact = "{escaped}"' in written[2].decode(encoding)
    assert codecs.decode(written[3])["accounts"]["a"]["support_contact"] == "użytkownik ü 😀"


@pytest.mark.parametrize("arguments", ["config show", "config show --json"])
def test_an_output_that_is_closed_is_no_error(arguments: str) -> None:
    child = subprocess.run(
        f"{sys.executable} -m streams {arguments} >&-", shell=True, stderr=subprocess.PIPE, check=False, timeout=60
    )

    assert (child.returncode, child.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("feed postmark -", "-: standard input is closed"),
        ("history rebuild", "standard input is closed, so nobody can be asked; not to be asked: --yes"),
    ],
)
def test_an_input_that_is_closed_is_said_where_it_is_needed(arguments: str, said: str) -> None:
    child = subprocess.run(
        f"{sys.executable} -m streams {arguments} <&-", shell=True, capture_output=True, check=False, timeout=60
    )

    assert (child.returncode, child.stdout, child.stderr.decode()) == (2, b"", f"mailstreams: {said}\n")


def test_topics_check_asks_the_leaders_because_a_broker_alone_names_those_of_before(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = ports.find(1)

    class Alone(AIOKafkaAdminClient):
        """Asks the one of three that is left: it does not know that the others are gone."""

        async def describe_cluster(self) -> dict[str, Any]:
            found = await super().describe_cluster()
            return found | {"brokers": [*found["brokers"], {"node_id": 2, "host": "127.0.0.1", "port": port}]}

        async def describe_topics(self, topics: list[str] | None = None) -> list[Any]:
            found = await super().describe_topics(topics)
            found[0]["partitions"][0]["leader"] = 2
            return found

    assert invoke("topics", "check").exit_code == 0
    monkeypatch.setattr(topics, "_Admin", Alone)

    result = invoke("topics", "check")

    assert result.exit_code == 3
    assert result.stderr == (
        "mailstreams: partitions of the topics are led by a broker that does not answer "
        f"(127.0.0.1:{port}): start it, or let its advertised.listeners name where it is reached\n"
    )
    assert cluster.settings


def test_topics_check_says_that_a_partition_has_no_leader(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaderless(AIOKafkaAdminClient):
        async def describe_topics(self, topics: list[str] | None = None) -> list[Any]:
            found = await super().describe_topics(topics)
            (control,) = (topic for topic in found if topic["topic"] == "mail.control")
            control["partitions"][0]["leader"] = -1
            return found

    monkeypatch.setattr(topics, "_Admin", Leaderless)

    result = invoke("topics", "check")

    assert result.exit_code == 3
    assert result.stderr.endswith(
        "answers, but a partition has no leader now ([Error 5] LeaderNotAvailableError: mail.control): "
        "start the brokers that have its copies\n"
    )
    assert cluster.settings


def test_a_rebuild_whose_disk_is_full_ends_with_a_line(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fill(subscriber: Subscriber, *_: object, **__: object) -> None:
        with subscriber._database.write() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.exec_driver_sql("CREATE TABLE big AS SELECT zeroblob(100000)")

    monkeypatch.setattr(Subscriber, "catch_up", fill)
    monkeypatch.setenv("MAILSTREAMS_HISTORY__DATABASE_URL", f"sqlite:///{tmp_path}/history.db")

    result = invoke("history", "rebuild", "--yes")

    assert (result.exit_code, result.stderr) == (
        1,
        "mailstreams: the database cannot be written to: database or disk is full\n",
    )


def test_ctrl_c_ends_a_command_with_130_and_nothing_else(cluster: Cluster) -> None:
    cluster.produce(
        topics.STATUS_CHANGED, {"value": codecs.encode({"delivery_id": "d", "status": "sent", "revision": 1})}
    )
    child = spawn("watch", "--from-beginning")
    assert child.stdout is not None
    assert child.stdout.readline(), "it has begun: before, Ctrl-C would interrupt Python's imports"
    child.send_signal(signal.SIGINT)

    _, errors = child.communicate(timeout=30)

    assert (child.returncode, errors) == (130, "")


def test_a_reader_that_went_away_is_no_error(cluster: Cluster) -> None:
    child = subprocess.run(
        f"{sys.executable} -m streams config show | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Traceback" not in child.stderr
    assert child.stdout == "[kafka]\n"
    assert cluster.settings
