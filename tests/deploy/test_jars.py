import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import LocalError, jars
from deploy.local.broker import Broker


@pytest.fixture(autouse=True)
def _ask_for_java_anew() -> Iterator[None]:
    jars.java.cache_clear()
    yield
    jars.java.cache_clear()


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


JAVA_17 = """echo 'openjdk version "17.0.13" 2024-10-15' >&2"""


def refused(cache: Path) -> str:
    with pytest.raises(LocalError) as error:
        jars.resolve(cache=cache)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("path")
def test_a_missing_java_is_told_in_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    message = refused(tmp_path)

    assert "Java is missing" in message
    assert "apt-get install default-jre-headless" in message


def test_a_java_that_is_too_old_is_told_with_its_version(tmp_path: Path, path: Path) -> None:
    program(path, "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    assert "Java 11: install Java 17 or newer" in refused(tmp_path)

    jars.java.cache_clear()
    program(path, "java", """echo 'java version "1.8.0_402"' >&2""")
    assert "Java 8: install Java 17 or newer" in refused(tmp_path)


def test_a_java_that_does_not_work_is_told(tmp_path: Path, path: Path) -> None:
    program(path, "java", "echo 'Unable to locate a Java Runtime.' >&2; exit 1")

    assert "no working Java" in refused(tmp_path)


def test_java_home_comes_before_the_path(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path, "java", "exit 1")
    (tmp_path / "jdk" / "bin").mkdir(parents=True)
    program(tmp_path / "jdk" / "bin", "java", JAVA_17)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))

    assert str(tmp_path / "jdk" / "bin" / "java") == jars.java()


def test_a_missing_maven_is_told_in_one_line_that_says_what_to_install(tmp_path: Path, path: Path) -> None:
    program(path, "java", JAVA_17)

    assert "apt-get install maven" in refused(tmp_path)


def test_what_maven_says_is_passed_on_in_one_line(tmp_path: Path, path: Path) -> None:
    program(path, "java", JAVA_17)
    program(path, "mvn", "echo '[ERROR] Could not resolve kafka_2.13:jar:0.0.0'; echo '[ERROR] more'; exit 1")

    assert "Could not resolve kafka_2.13:jar:0.0.0" in refused(tmp_path)
    program(path, "mvn", r"printf '\033[0m\033[m[ERROR] No network\n[ERROR] \n[ERROR] More\n\033[0m\n'; exit 1")
    assert refused(tmp_path).endswith(": [ERROR] No network")
    program(path, "mvn", "echo 'The JAVA_HOME environment variable is not defined correctly' >&2; exit 1")
    assert "JAVA_HOME environment variable" in refused(tmp_path)


def test_the_jars_are_fetched_once_and_again_after_a_failure_or_another_pom(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pom = tmp_path / "pom.xml"
    pom.write_text("<project/>")
    monkeypatch.setattr(jars, "POM", pom)
    program(path, "java", JAVA_17)
    calls = tmp_path / "calls"
    program(path, "mvn", f"echo x >> {calls}; exit 1")
    refused(tmp_path)
    program(path, "mvn", f"echo x >> {calls}")

    def resolve() -> int:
        assert tmp_path / "4.1.0" / "lib" == jars.resolve("4.1.0", cache=tmp_path)
        return len(calls.read_text().split())

    assert resolve() == 2
    assert resolve() == 2
    pom.write_text("<project><!-- changed --></project>")
    assert resolve() == 3


def test_without_the_cached_answer_java_is_asked_for_its_version_once(path: Path, tmp_path: Path) -> None:
    program(path, "java", f"echo x >> {tmp_path / 'asked'}; {JAVA_17}")

    assert jars.java() == jars.java()
    assert (tmp_path / "asked").read_text() == "x\n"


def test_a_broker_has_the_version_that_the_environment_asks_for_or_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KAFKA", "3.9.1")
    assert Broker(tmp_path).version == "3.9.1"
    assert Broker(tmp_path, version="4.0.0").version == "4.0.0"
    monkeypatch.setenv("KAFKA", "")
    assert Broker(tmp_path).version == jars.KAFKA_VERSION


def test_the_pom_names_no_repository() -> None:
    pom = jars.POM.read_text()

    assert "<repositor" not in pom
    assert "<pluginRepositor" not in pom


def test_the_command_prints_one_line_and_no_traceback(path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.local.jars"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(path)},
    )

    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith("error: Java is missing")
