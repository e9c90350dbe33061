"""Kafka's jars: resolved once by Maven into ``var/kafka/<version>/lib``, and the Java that runs them."""

import argparse
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.local import ROOT, LocalError

__all__ = ["KAFKA_VERSION", "asked_for", "java", "resolve"]

KAFKA_VERSION = "4.1.0"
"""The version that is run by default."""

POM = ROOT / "deploy" / "kafka" / "pom.xml"
CACHE = ROOT / "var" / "kafka"
OLDEST_JAVA = 17  # Kafka 4.0 and later, KIP-1013


def resolve(version: str = KAFKA_VERSION, *, cache: Path = CACHE) -> Path:
    """Return the folder with the jars of a Kafka version, fetched by Maven if they are not there yet.

    Raises:
        LocalError: Java or Maven is missing, or Maven cannot find the jars.
    """
    java()
    home = cache / version
    home.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256(POM.read_bytes()).hexdigest()
    done = home / "complete"  # holds the digest of the pom that the jars were resolved from
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits for the first and finds the jars
        if not (done.exists() and done.read_text() == wanted):
            print(f"resolving the jars of Kafka {version} by Maven ...", file=sys.stderr, flush=True)
            done.unlink(missing_ok=True)
            shutil.rmtree(home / "lib", ignore_errors=True)
            _copy_dependencies(version, home / "lib")
            done.write_text(wanted)
    return home / "lib"


def _copy_dependencies(version: str, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        message = "Maven is missing, which fetches Kafka: install it, e.g. apt-get install maven"
        raise LocalError(message)
    fetched = subprocess.run(
        [
            maven,
            "-q",
            "-B",
            "-f",
            POM,
            f"-Dkafka.version={version}",
            "dependency:copy-dependencies",
            f"-DoutputDirectory={folder}",
            "-DincludeScope=runtime",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        # The first of them, which says what is wrong, begins with escape sequences; others are empty.
        said = re.findall(r"^(?:\x1b\[\d*m)*(\[ERROR\] .+)", fetched.stdout, re.MULTILINE)
        said += fetched.stderr.strip().splitlines()[-1:]  # its script's, such as a JAVA_HOME without Java
        message = f"Maven could not fetch Kafka {version}: {said[0] if said else f'exit code {fetched.returncode}'}"
        raise LocalError(message)


def asked_for() -> str:
    """Return the version that a broker has if its caller names none: ``KAFKA`` of the environment, else ours.

    `make` passes its variable on, so `make test-broker KAFKA=3.9.1` reaches every broker that a test starts.
    """
    return os.environ.get("KAFKA") or KAFKA_VERSION


@functools.cache
def java() -> str:
    """Return the path of a Java that is new enough: that of ``JAVA_HOME``, else that of ``PATH``.

    Raises:
        LocalError: there is no such Java.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=Path(home, "bin")) if home else None
    found = found or shutil.which("java")
    install = f"install Java {OLDEST_JAVA} or newer, e.g. apt-get install default-jre-headless"
    if found is None:
        message = f"Java is missing, which runs Kafka: {install}"
        raise LocalError(message)
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', said)  # Java 8 calls itself 1.8
    if version is None or int(version[1]) < OLDEST_JAVA:
        message = f"{found} is {f'Java {version[1]}' if version else 'no working Java'}: {install}"
        raise LocalError(message)
    return found


def main() -> int:
    """Resolve the jars and print their folder."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.jars", description=__doc__)
    parser.add_argument("--kafka", default=asked_for(), metavar="VERSION", help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        print(resolve(arguments.kafka))
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
