"""A worker on a cluster, as an operator runs it: topics, the supervised worker, and the orderly end of all of it.

Everything is done by the public command line, in processes of their own. Whatever is started here is ended by
``stop``, last first, and nothing else is: see ``processes``.
"""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from deploy.local import LocalError, ports, processes
from deploy.local.broker import Broker
from deploy.local.supervisor import Supervisor

__all__ = ["COMMAND", "WEB_PORT", "Stack", "environment", "interrupts"]

COMMAND = (sys.executable, "-m", "streams")
WEB_PORT = 19100
"""The default of the package's own setting ``web.port``."""

_POLL_S = 0.1
STDERR = 2


class Stack:
    """A broker of ours or somebody's cluster, its topics and one worker.

    Args:
        folder: Where all of it keeps its files; one stack at a time uses it.
        cluster: Our broker, or the address of a cluster that exists.
        web_port: Of the worker's endpoints.
        env: What the command line finds in its environment, besides what this class sets.
        say: Is told what happens, a line each.
        command: The command line's program.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cluster: Broker | str,
        web_port: int,
        env: Mapping[str, str],
        say: Callable[[str], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.folder = folder
        self.cluster = cluster
        self.web = f"http://{ports.HOST}:{web_port}"
        self.worker_log = folder / "worker.log"
        self._web_port = web_port
        self._env = dict(env)
        self._say = say
        self._command = command
        self._owned = contextlib.ExitStack()
        self._children: list[processes.Process] = []
        self._supervisor: Supervisor | None = None
        self._supervision: threading.Thread | None = None

    @property
    def bootstrap(self) -> str:
        """The address of the cluster."""
        return self.cluster if isinstance(self.cluster, str) else self.cluster.bootstrap

    def start(self) -> None:
        """Start what is missing, and wait until the worker is ready.

        Raises:
            LocalError: something stands in the way.
        """
        self._lock()
        self._end_leftovers()
        ports.check(self._web_port, "WEB_PORT")
        if isinstance(self.cluster, Broker):
            self.cluster.start()
        self._env |= {
            "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "MAILSTREAMS_WEB__HOST": ports.HOST,
            "MAILSTREAMS_WEB__PORT": str(self._web_port),
            "MAILSTREAMS_WORKER__DATADIR": str(self.folder / "store"),
        }
        self.call("topics", "create")
        log = self._owned.enter_context(self.worker_log.open("ab"))
        self._supervisor = Supervisor(
            [*self._command, "worker"],
            log=log,
            env=self._env,
            pid_file=self.folder / "worker.pid",
            say=lambda line: self._say(f"worker {line}"),
        )
        self._supervision = threading.Thread(target=self._supervisor.run, name="supervisor", daemon=True)
        self._supervision.start()
        self._wait_until_ready(timeout_s=90)

    def check(self) -> None:
        """Make sure that what was started still runs.

        Raises:
            LocalError: the worker was given up, or the broker is gone; the text holds the worker's last lines.
        """
        if self._supervisor and self._supervision and not self._supervision.is_alive():
            how = "was given up after its crashes" if self._supervisor.gave_up else "ended by itself"
            raise LocalError("\n  ".join([f"the worker {how}; see {self.worker_log}", *self._supervisor.last_lines]))
        if isinstance(self.cluster, Broker) and self.cluster.process is None:
            message = f"the broker ended; see {self.cluster.log}"
            raise LocalError(message)

    def call(self, *arguments: str | Path) -> str:
        """Run the command line to its end and return what it printed.

        Raises:
            LocalError: it failed; the text is what it said.
        """
        child, process = self._spawn(arguments, output=subprocess.PIPE, errors=subprocess.PIPE)
        try:
            output, errors = child.communicate()
        finally:
            process.kill()  # nothing if it has ended
            self._forget(process)
        if child.returncode:
            said = errors.decode(errors="replace").strip() or f"exit code {child.returncode}"
            message = f"`mailstreams {shlex.join(map(str, arguments))}` failed: {said}"
            raise LocalError(message)
        return output.decode()

    def spawn(self, *arguments: str, output: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
        """Start the command line and leave it running until ``stop``.

        Args:
            arguments: The command and its options.
            output: Where its output goes, as for ``subprocess``; None: where ours goes. Its errors go where ours go.
        """
        child, _ = self._spawn(arguments, output=output, errors=None if output is None else STDERR)
        return child

    def stop(self) -> None:
        """Stop everything that was started, in good order."""
        for process in list(self._children):
            process.end(grace_s=5)
            self._forget(process)
        if self._supervisor:
            self._supervisor.stop()
            self._join()
        if isinstance(self.cluster, Broker):
            self.cluster.stop()
        self._owned.close()

    def kill(self) -> None:
        """Stop everything at once, as when nobody wants to wait for the good order."""
        for process in list(self._children):
            process.kill()
            self._forget(process)
        if self._supervisor:
            self._supervisor.kill()
            self._join()
        if isinstance(self.cluster, Broker):
            self.cluster.kill()
        self._owned.close()

    def _spawn(
        self, arguments: Sequence[str | Path], *, output: IO[bytes] | int | None, errors: int | None
    ) -> tuple[subprocess.Popen[bytes], processes.Process]:
        child, process = processes.spawn([*self._command, *arguments], output=output, errors=errors, env=self._env)
        self._children.append(process)
        process.write(self._pid_file(process))
        return child, process

    def _forget(self, process: processes.Process) -> None:
        self._children.remove(process)
        self._pid_file(process).unlink(missing_ok=True)

    def _pid_file(self, process: processes.Process) -> Path:
        return self.folder / f"child-{process.pid}.pid"

    def _join(self) -> None:
        if self._supervision:
            self._supervision.join()

    def _lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._owned.enter_context((self.folder / "lock").open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however we end
        except OSError:
            message = f"it runs already on {self.folder}: stop that one first"
            raise LocalError(message) from None

    def _end_leftovers(self) -> None:
        """End what a former run left behind because it was killed: the lock is ours, so nobody watches over it."""
        for pid_file in sorted(self.folder.glob("*.pid")):
            if left := processes.read(pid_file):
                self._say(f"ending process {left.pid}, which an earlier run left behind")
                left.end(grace_s=15)
            pid_file.unlink(missing_ok=True)
        if isinstance(self.cluster, Broker) and (left := self.cluster.process):
            self._say(f"ending the broker, process {left.pid}, which an earlier run left behind")
            self.cluster.stop()

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        why = "no answer"
        while time.monotonic() < deadline:
            self.check()
            try:
                with urllib.request.urlopen(f"{self.web}/readyz", timeout=2):  # noqa: S310 - our own http address
                    return
            except urllib.error.HTTPError as error:
                why = error.read().decode(errors="replace").strip() or str(error)
            except OSError as error:
                why = str(error)
            time.sleep(_POLL_S)
        message = f"the worker was not ready after {timeout_s:.0f} s ({why}); see {self.worker_log}"
        raise LocalError(message)


def environment(*, with_settings: bool) -> dict[str, str]:
    """Return our environment for the command line.

    Args:
        with_settings: Whether the settings of this shell and folder (``MAILSTREAMS_...``, ``mailstreams.toml``)
            hold. Without them the defaults do.
    """
    if with_settings:
        return dict(os.environ)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAILSTREAMS_")}
    return env | {"MAILSTREAMS_CONFIG": os.devnull}


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (the terminal was closed) do what Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
