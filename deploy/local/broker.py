"""A real Kafka broker on this machine: a single node that is its own controller (KRaft).

All its files are in one folder: ``server.properties``, ``broker.log``, ``broker.pid`` and its data in ``log``. The
folder may be used again: the data is kept. Only the broker that was started on that folder is stopped or paused.
"""

import argparse
import base64
import contextlib
import shlex
import signal
import socket
import string
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local import ROOT, LocalError, jars, ports, processes

__all__ = ["CONTROLLER_PORT", "PORT", "Broker", "new_cluster_id"]

PORT = 19092
"""The port in the default of the package's setting ``kafka.bootstrap_servers``."""

CONTROLLER_PORT = 19093
TEMPLATES = ROOT / "deploy" / "kafka"


class Broker:
    """A broker on a folder.

    Args:
        data: The folder; made if it is not there.
        port: Where clients connect, on 127.0.0.1; None: a free one, found at each start.
        controller_port: Where the controller listens; None: a free one.
        properties: Settings of the broker that override those of ``deploy/kafka/server.properties``.
        version: Of Kafka; None: the value of ``KAFKA`` in the environment, else ours.
        heap_mib: Java's heap in MiB.
        cluster_id: Of the cluster that it belongs to (``new_cluster_id``); None: it is the only broker.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        controller_port: int | None = None,
        properties: Mapping[str, str] | None = None,
        version: str | None = None,
        heap_mib: int = 512,
        cluster_id: str | None = None,
    ) -> None:
        self.data = data.resolve()
        self.port = port
        self.controller_port = controller_port
        self.properties = dict(properties or {})
        self.version = version or jars.asked_for()
        self.heap_mib = heap_mib
        self.cluster_id = cluster_id
        self.log = self.data / "broker.log"
        self._pid_file = self.data / "broker.pid"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Its address for clients, ``host:port``."""
        if self.port is None:
            message = "the broker has no port before its first start"
            raise LocalError(message)
        return f"{ports.HOST}:{self.port}"

    @property
    def process(self) -> processes.Process | None:
        """The running broker of this folder, whoever started it; None if there is none."""
        return processes.read(self._pid_file)

    def start(self, *, timeout_s: float = 60) -> None:
        """Start it and wait until it answers.

        A free port that was found once is used again at later starts, so that clients find the broker.

        Raises:
            LocalError: Java, Maven or a port is missing, the folder cannot be used, it is already running, or it did
                not start.
        """
        if "," in str(self.data):
            message = f"{self.data}: Kafka takes a path with a comma for two: use another folder"
            raise LocalError(message)
        if running := self.process:
            message = f"a broker already runs on {self.data} (process {running.pid})"
            raise LocalError(message)
        lib = jars.resolve(self.version)
        found = ports.find(2)
        self.port = found[0] if self.port is None else self.port
        self.controller_port = found[1] if self.controller_port is None else self.controller_port
        ports.check(self.port, "KAFKA_PORT")
        ports.check(self.controller_port, "CONTROLLER_PORT")
        self._configure()
        self._format(lib)
        with (self.data / "broker.out").open("wb") as output:  # Java's output before and after the log
            command = self._java(lib, "kafka.Kafka", str(self._config))
            self._child, process = processes.spawn(command, output=output)
        process.write(self._pid_file)
        try:
            self._wait_until_ready(self._child, timeout_s)
        except BaseException:  # Ctrl-C too: leave no half-started broker behind
            self.kill()
            raise

    def stop(self, *, grace_s: float = 15) -> None:
        """Stop it in order, or by force after the grace time; do nothing if it does not run."""
        if process := self.process:
            process.end(grace_s)
        self._pid_file.unlink(missing_ok=True)
        self._reap()

    def kill(self) -> None:
        """Kill it (SIGKILL), as a power cut would."""
        if process := self.process:
            process.kill()
        self._reap()

    def pause(self) -> None:
        """Pause it (SIGSTOP), at once: its connections stay open and it does not answer."""
        if process := self.process:
            process.pause()

    def resume(self) -> None:
        """Let it continue after ``pause`` (SIGCONT)."""
        if process := self.process:
            process.signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _reap(self) -> None:
        if self._child:  # None if an earlier process started it
            self._child.wait()
            self._child = None

    @property
    def _config(self) -> Path:
        return self.data / "server.properties"

    def _configure(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        template = string.Template((TEMPLATES / "server.properties").read_text())
        text = template.substitute(
            host=ports.HOST,
            port=self.port,
            controller_port=self.controller_port,
            log_dirs=_for_java(str(self.data / "log")),
        )
        # Java takes the last of two equal keys.
        own = "".join(f"{key}={_for_java(value)}\n" for key, value in self.properties.items())
        self._config.write_text(f"{text}\n# From the caller.\n{own}", encoding="ascii")

    def _format(self, lib: Path) -> None:
        """Give the data folder its cluster id, which it then keeps."""
        if (self.data / "log" / "meta.properties").exists():
            return
        cluster = self.cluster_id or new_cluster_id()
        command = self._java(lib, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config))
        formatted = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if formatted.returncode:
            message = f"Kafka could not prepare {self.data / 'log'}: {_last_line(formatted.stderr or formatted.stdout)}"
            raise LocalError(message)

    def _java(self, lib: Path, *arguments: str) -> list[str]:
        return [
            jars.java(),
            f"-Xmx{self.heap_mib}m",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={TEMPLATES / 'log4j2.properties'}",
            f"-Dmailstreams.log={self.log}",
            "-cp",
            f"{lib}/*",
            *arguments,
        ]

    def _wait_until_ready(self, child: subprocess.Popen[bytes], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not _answers(self.bootstrap):
            if child.poll() is not None:
                message = f"Kafka ended while it started (exit code {child.returncode}): {self._last_error()}"
                raise LocalError(message)
            if time.monotonic() > deadline:
                message = f"Kafka did not answer on {self.bootstrap} within {timeout_s:.0f} s; see {self.log}"
                raise LocalError(message)
            time.sleep(0.05)

    def _last_error(self) -> str:
        log = self.log.read_text(errors="replace") if self.log.exists() else ""
        errors = [line for line in log.splitlines() if " ERROR " in line or " FATAL " in line]
        if errors:
            return f"{errors[-1]}; see {self.log}"
        return _last_line((self.data / "broker.out").read_text(errors="replace"))


def new_cluster_id() -> str:
    """Return an id that no other cluster has."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "m")


def _for_java(value: str) -> str:
    """Return a value as a file of properties has it: Java reads Latin-1, and takes a backslash for an escape."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = [code for (code,) in struct.iter_unpack(">H", units)]
    return "".join(chr(code) if 0x20 <= code < 0x7F else f"\\u{code:04x}" for code in codes)  # noqa: PLR2004 - what ASCII prints


def _last_line(text: str) -> str:
    """Return the last line that is not part of a Java stack trace."""
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith(("at ", "... "))]
    return said[-1] if said else "it said nothing"


def _answers(address: str) -> bool:
    """Ask for the cluster's metadata (Kafka protocol, Metadata v1, no topics): does a broker name itself and a controller?

    A listening port is not enough: a broker takes requests for a while before its controller lets it serve.
    """
    host, _, port = address.rpartition(":")
    client = b"mailstreams"
    header = struct.pack(">hhih", 3, 1, 1, len(client)) + client
    request = header + struct.pack(">i", 0)
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        size = struct.unpack(">i", _receive(connection, 4))[0]
        answer = _receive(connection, size)
        brokers = struct.unpack_from(">i", answer, 4)[0]
        at = 8
        for _ in range(brokers):  # node id, host, port, rack (a string of length -1 is null)
            at += 4
            at += 2 + struct.unpack_from(">h", answer, at)[0] + 4
            at += 2 + max(0, struct.unpack_from(">h", answer, at)[0])
        controller = struct.unpack_from(">i", answer, at)[0]
        return bool(brokers > 0 and controller >= 0)
    return False


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            message = "the broker closed the connection"
            raise ConnectionError(message)
        data += part
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    """Start, stop or look up a broker that keeps running after the command has ended."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.broker", description="A Kafka broker on this machine, for trying and testing."
    )
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("--data", type=Path, default=ROOT / "var" / "broker", help="its folder (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="for clients (default: %(default)s)")
    parser.add_argument("--controller-port", type=int, default=CONTROLLER_PORT, help="default: %(default)s")
    parser.add_argument("--kafka", default=jars.asked_for(), metavar="VERSION", help="default: %(default)s")
    parser.add_argument("--heap", type=int, default=512, metavar="MIB", help="Java's heap (default: %(default)s)")
    parser.add_argument("--property", action="append", default=[], metavar="KEY=VALUE", help="a setting of the broker")
    options = parser.parse_args(arguments)
    broker = Broker(
        options.data,
        port=options.port,
        controller_port=options.controller_port,
        properties=dict(item.partition("=")[::2] for item in options.property),
        version=options.kafka,
        heap_mib=options.heap,
    )
    try:
        if options.action == "start":
            broker.start()
            stop = ["python", "-m", "deploy.local.broker", "stop", "--data", str(options.data)]
            print(f"Kafka {options.kafka} on {broker.bootstrap}, log {broker.log}; stop it by: {shlex.join(stop)}")
        elif options.action == "stop":
            broker.stop()
        else:
            process = broker.process
            print(f"process {process.pid}" if process else "not running")
            return 0 if process else 1
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
