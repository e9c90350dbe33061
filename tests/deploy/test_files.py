"""What is said in several places says the same: versions, ports, the broker's settings."""

import fcntl
import os
import re
import subprocess
from pathlib import Path

import pytest

from deploy.local import ROOT, broker, jars, stack, watchers
from streams.settings import Ingress, Kafka, Web

MAKEFILE = (ROOT / "Makefile").read_text()
COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def make(*arguments: str, cwd: Path = ROOT, **more: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | more
    command = ["make", f"--file={ROOT / 'Makefile'}", *arguments]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, env=env)
    return ran.stdout


def default(variable: str) -> str:
    found = re.search(rf"^{variable} = *([^#\s]*)##", MAKEFILE, re.MULTILINE)
    assert found is not None
    return found[1]


def test_make_alone_prints_every_target_and_variable() -> None:
    printed = make()

    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert f"  make {target} " in printed
    for variable in (
        "KAFKA_PORT",
        "CONTROLLER_PORT",
        "WEB_PORT",
        "INGRESS_PORT",
        "INGRESS_ADMIN_PORT",
        "PROMETHEUS_PORT",
        "ALERTMANAGER_PORT",
        "BROKER",
        "DEMO",
    ):
        assert f"  {variable} " in printed


def test_every_port_of_run_is_a_variable_that_reaches_it() -> None:
    names = (
        *("KAFKA_PORT", "CONTROLLER_PORT", "WEB_PORT", "INGRESS_PORT", "INGRESS_ADMIN_PORT"),
        *("PROMETHEUS_PORT", "ALERTMANAGER_PORT"),
    )
    given = [f"{name}={number}" for number, name in enumerate(names, 1)]

    commands = make("--dry-run", "--assume-old=.venv/.runtime", "run", *given)

    for number, name in enumerate(names, 1):
        assert f"--{name.lower().replace('_', '-')} {number} " in commands
    assert "--broker" not in commands
    assert "--demo" not in commands


@pytest.mark.parametrize(("demo", "fed"), [("1", True), ("0", False), ("", False)])
def test_an_existing_cluster_is_fed_only_with_demo_1(demo: str, fed: bool) -> None:
    commands = make("--dry-run", "run", "BROKER=kafka.example.net:9092", f"DEMO={demo}")

    assert "--broker kafka.example.net:9092" in commands
    assert fed == ("--demo" in commands)


def test_the_shell_decides_neither_which_cluster_is_used_nor_what_is_removed() -> None:
    commands = make("--dry-run", "run", "distclean", BROKER="prod.example.net:9092", VENV="/home/me/venv", DEMO="1")

    assert "rm -rf .venv var " in commands
    assert "prod.example.net" not in commands
    assert "/home/me/venv" not in commands
    assert "--demo" not in commands


@pytest.mark.parametrize("lock", ["lock", "at-kafka.example.net-9092/lock"])
def test_clean_leaves_the_data_of_whatever_runs(tmp_path: Path, lock: str) -> None:
    path = tmp_path / "var" / "run" / lock
    path.parent.mkdir(parents=True)
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(subprocess.CalledProcessError) as error:
            make("clean", cwd=tmp_path)
    assert error.value.stderr.startswith("make run is running: stop it first\n")
    assert path.exists()

    make("clean", cwd=tmp_path)

    assert not path.exists()


def test_clean_says_what_else_kept_it_from_looking(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        make("clean", "PYTHON=no-such-python", cwd=tmp_path)

    assert "no-such-python" in error.value.stderr
    assert "is running" not in error.value.stderr


def environment_in(folder: Path, python: str | Path, packages: str | None = None) -> None:
    """Make what ``make`` sees of an environment that is complete: the link to its Python, packages, stamps."""
    for name in ("requirements.lock", "requirements-build.lock", "requirements-dev.lock", "pyproject.toml"):
        (folder / name).touch()
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(python)
    if packages:
        (folder / ".venv" / "lib" / packages).mkdir(parents=True)
    for stamp in (".runtime", ".tools"):
        (folder / ".venv" / stamp).touch()


def test_an_environment_that_is_made_anew_gets_its_packages_anew(tmp_path: Path) -> None:
    environment_in(tmp_path, "/usr/bin/a-python-that-was-replaced")

    commands = make("--dry-run", "check", cwd=tmp_path)

    assert "venv --clear .venv" in commands
    assert [name for name in ("requirements.lock", "requirements-dev.lock") if f"-r {name}" in commands] == [
        "requirements.lock",
        "requirements-dev.lock",
    ]


def test_an_environment_whose_python_was_upgraded_under_it_is_made_anew(tmp_path: Path) -> None:
    """As from Debian 12 to 13: /usr/bin/python3 is another one, whose file is older than our stamps."""
    (tmp_path / "python3.13").touch()
    environment_in(tmp_path, tmp_path / "python3.13", packages="python3.11")

    upgraded = make("--dry-run", "check", cwd=tmp_path)
    (tmp_path / ".venv" / "lib" / "python3.13").mkdir()
    fitting = make("--dry-run", "check", cwd=tmp_path)

    assert "venv --clear .venv" in upgraded
    assert "-r requirements.lock" in upgraded
    assert "venv --clear .venv" not in fitting
    assert "-r requirements.lock" not in fitting


def test_an_environment_of_a_python_that_was_built_to_debug_is_kept(tmp_path: Path) -> None:
    """As Debian's python3.11-dbg, whose packages are in the folder of python3.11."""
    (tmp_path / "python3.11-dbg").touch()
    environment_in(tmp_path, tmp_path / "python3.11-dbg", packages="python3.11")

    assert "venv --clear .venv" not in make("--dry-run", "check", cwd=tmp_path)


def test_a_folder_that_is_no_environment_is_not_emptied_for_one(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one").touch()

    with pytest.raises(subprocess.CalledProcessError) as error:
        make("photos/bin/python", "VENV=photos", cwd=tmp_path)

    assert "photos is no virtual environment, and not empty" in error.value.stderr
    assert (tmp_path / "photos" / "one").exists()


def test_the_version_of_kafka_is_the_same_everywhere() -> None:
    assert f"<kafka.version>{jars.KAFKA_VERSION}</kafka.version>" in jars.POM.read_text()
    assert default("KAFKA") == jars.KAFKA_VERSION
    assert f"image: apache/kafka:{jars.KAFKA_VERSION}\n" in COMPOSE


def test_the_ports_are_the_ones_at_which_the_package_looks_by_default() -> None:
    assert default("KAFKA_PORT") == str(broker.PORT)
    assert default("CONTROLLER_PORT") == str(broker.CONTROLLER_PORT)
    assert default("WEB_PORT") == str(stack.WEB_PORT)
    assert Kafka().bootstrap_servers == f"127.0.0.1:{broker.PORT}"
    assert Web().port == stack.WEB_PORT
    assert default("INGRESS_PORT") == str(stack.INGRESS_PORT) == str(Ingress().port)
    assert default("INGRESS_ADMIN_PORT") == str(stack.INGRESS_ADMIN_PORT) == str(Ingress().admin_port)
    assert default("PROMETHEUS_PORT") == str(watchers.PROMETHEUS_PORT)
    assert default("ALERTMANAGER_PORT") == str(watchers.ALERTMANAGER_PORT)
    assert f'"127.0.0.1:{watchers.PROMETHEUS_PORT}:9090"' in COMPOSE
    assert f'"127.0.0.1:{watchers.ALERTMANAGER_PORT}:9093"' in COMPOSE
    assert f"127.0.0.1:{stack.INGRESS_PORT}:{stack.INGRESS_PORT}" in COMPOSE
    assert f"http://127.0.0.1:{stack.INGRESS_ADMIN_PORT}/livez" in COMPOSE
    assert f"MAILSTREAMS_WEB__PORT={stack.WEB_PORT}" in DOCKERFILE
    assert f"127.0.0.1:{stack.WEB_PORT}:{stack.WEB_PORT}" in COMPOSE


def test_the_broker_in_containers_is_set_as_the_embedded_one() -> None:
    in_compose = dict(re.findall(r"^      KAFKA_([A-Z_]+): \"?([^\"\n]*)\"?$", COMPOSE, re.MULTILINE))
    for line in (broker.TEMPLATES / "server.properties").read_text().splitlines():
        name, _, value = line.partition("=")
        if not line or line.startswith("#") or "${" in value or name.startswith("broker."):
            continue  # addresses, and what makes the tests quick, are different
        assert in_compose.get(name.upper().replace(".", "_")) == value, name


def test_few_partitions_for_the_topics_of_kafka_itself() -> None:
    template = (broker.TEMPLATES / "server.properties").read_text()

    partitions = {
        name: int(count) for name, count in re.findall(r"^(\S+num\.partitions)=(\d+)$", template, re.MULTILINE)
    }
    assert {"offsets.topic.num.partitions", "transaction.state.log.num.partitions"} <= partitions.keys()
    assert max(partitions.values()) < 50


@pytest.mark.parametrize(
    "name", ["requirements.lock", "requirements-dev.lock", "requirements-bench.lock", "requirements-build.lock"]
)
def test_a_lock_pins_every_package_by_hash_and_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"\n(?=\S)", text)

    pinned = [entry for entry in entries if not entry.startswith("#")]
    assert pinned
    assert all(re.match(r"[\w.-]+==\S+ (; .*)?\\\n +--hash=sha256:", entry) for entry in pinned)
    assert "://" not in text


def test_the_image_is_built_from_locks_with_hashes_and_runs_as_a_numbered_user() -> None:
    assert DOCKERFILE.count("--require-hashes -r requirements") == 2
    assert '--only-binary "${ONLY_BINARY}" --require-hashes -r requirements.lock' in DOCKERFILE
    assert "\nARG ONLY_BINARY=:all:\n" in DOCKERFILE
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, re.MULTILINE)


def test_ci_is_executable_and_runs_check_and_test() -> None:
    ci = ROOT / ".ci" / "run"

    assert os.access(ci, os.X_OK)
    assert "set -euo pipefail" in ci.read_text()
    assert ci.read_text().endswith("make check\nmake test\n")


def test_ci_installs_what_the_alert_rules_are_checked_with_and_starts_no_service() -> None:
    ci = (ROOT / ".ci" / "run").read_text()

    assert set(watchers.PACKAGES.split()) <= set(re.findall(r"missing\+=\((\S+)\)", ci))
    assert ci.index("exit 101") < ci.index("apt-get install")
