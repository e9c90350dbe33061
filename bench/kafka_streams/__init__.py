"""The Java contestant: built by Maven from ``src`` at first use, and whenever its source changed."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from bench.racing import Contestant
from deploy.local import ROOT, LocalError, jars

HERE = Path(__file__).parent
BUILT = ROOT / "var" / "bench" / "kafka-streams"
HEAP_MIB = 1024


def contestants(threads: int = 1) -> tuple[Contestant, Contestant]:
    """Return Kafka Streams at least once and exactly once, built.

    Raises:
        LocalError: Java, its compiler or Maven is missing, or Maven cannot build it.
    """
    _build()
    command = [
        jars.java(),
        f"-Xmx{HEAP_MIB}m",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{BUILT / 'classes'}:{BUILT / 'lib'}/*",
        "bench.ThinJob",
    ]

    def contestant(name: str, guarantee: str) -> Contestant:
        options = {"guarantee": guarantee, "threads": str(threads)}
        return Contestant(name, command, options, makes_changelog=True)

    return contestant("kafka_streams", "at_least_once"), contestant("kafka_streams_eos", "exactly_once_v2")


def _build() -> None:
    sources = [HERE / "pom.xml", *sorted(HERE.rglob("*.java"))]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    done = BUILT / "complete"  # holds the digest of the sources
    if done.exists() and done.read_text() == wanted:
        return
    maven = shutil.which("mvn")
    if maven is None or shutil.which("javac") is None:
        message = "Maven and a JDK are needed to build it, e.g. apt-get install maven default-jdk-headless"
        raise LocalError(message)
    print("building the Kafka Streams contestant by Maven ...", file=sys.stderr, flush=True)
    shutil.rmtree(BUILT, ignore_errors=True)
    goals = ["compiler:compile", "dependency:copy-dependencies", "-DincludeScope=runtime"]
    built = subprocess.run(
        [maven, "-q", "-B", "-f", HERE / "pom.xml", f"-Doutput={BUILT}", *goals, f"-DoutputDirectory={BUILT / 'lib'}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        said = [line for line in built.stdout.splitlines() if line.startswith("[ERROR]")]
        message = f"Maven could not build it: {said[0] if said else f'exit code {built.returncode}'}"
        raise LocalError(message)
    done.write_text(wanted)
