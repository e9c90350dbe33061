"""What makes brokers cheap, of which tests start dozens: above all Java's archive of the classes that Kafka loads.

With the archive a start takes three fifths of the processor time. ``make test`` makes it once; where it is not, all goes
on without it. Java takes an archive only with the very Java and jars from which it was made, by path and time: those
are in its name, so that it is looked for under another one as soon as they change.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.local import LocalError, jars
from deploy.local.broker import Broker

QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Brokers live for a few seconds each: Java's quick compiler makes them ready for half the processor time."""

LASTING = {"metadata.max.idle.interval.ms": "0"}
"""Of a broker that many tests share: it writes nothing twice a second to say that nothing happened."""


def options(version: str) -> str:
    """Return what Java is to be told in ``JDK_JAVA_OPTIONS`` by tests that start brokers of a version."""
    try:
        found = archive(version)
    except LocalError:  # those that need no broker need no Java
        return QUICK
    return f'{QUICK} "-XX:SharedArchiveFile={found}"' if found.exists() else QUICK


def archive(version: str) -> Path:
    """Return where the archive of a version of Kafka is, or would be.

    Raises:
        LocalError: there is no Java.
    """
    home = jars.CACHE / version
    files = [Path(jars.java()).resolve(), *sorted((home / "lib").glob("*.jar"))]
    made_from = "".join(f"{file} {file.stat().st_mtime_ns}\n" for file in files)
    return home / f"classes-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.jsa"


def make(version: str) -> None:
    """Make the archive of a version, unless there is one, from what a broker needs until it has our topics.

    Raises:
        LocalError: no broker can be started.
    """
    lib = jars.resolve(version)
    target = archive(version)
    if target.exists():
        return
    print("archiving the classes of Kafka, for tests that start it ...")
    for old in target.parent.glob("classes-*"):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        os.environ["JDK_JAVA_OPTIONS"] = f'{QUICK} "-XX:DumpLoadedClassList={folder}/%p.classes"'
        with Broker(folder / "kafka", version=version) as broker:
            env = os.environ | {"MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap}
            subprocess.run(
                [sys.executable, "-m", "streams", "topics", "create"], env=env, check=True, capture_output=True
            )
        os.environ["JDK_JAVA_OPTIONS"] = QUICK
        lists = [path.read_text().splitlines() for path in folder.glob("*.classes")]
        classes = dict.fromkeys(line for found in lists for line in found if not line.startswith("#"))
        (folder / "classes").write_text("\n".join(classes) + "\n")
        dump = [jars.java(), "-Xshare:dump", f"-XX:SharedClassListFile={folder / 'classes'}"]
        subprocess.run(
            [*dump, f"-XX:SharedArchiveFile={folder / 'archive'}", "-cp", f"{lib}/*"], check=True, capture_output=True
        )
        (folder / "archive").rename(target)


def main() -> int:
    """Make the archive that is not there yet; without one all goes on, only slower."""
    parser = argparse.ArgumentParser(prog="python -m tests.java", description=make.__doc__)
    parser.add_argument("--kafka", default=jars.asked_for(), metavar="VERSION", help="default: %(default)s")
    version = parser.parse_args().kafka
    try:
        make(version)
    except (LocalError, OSError, subprocess.CalledProcessError) as error:
        print(f"tests go without an archive of Kafka's classes: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
