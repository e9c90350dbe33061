"""Processes that we started, and no others.

A process id is used again after its process has ended, so a process is known by its id *and* the moment it started.
Each is the leader of its own session: a Ctrl-C in the terminal does not reach it, and ending it ends its children,
if any, and nothing else.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

__all__ = ["Process", "read", "spawn"]

_PROC = Path("/proc")
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """A process, from its start until it has ended."""

    pid: int
    started: str
    """Its start time, as the system writes it; equal texts mean the same moment."""

    @property
    def alive(self) -> bool:
        """Whether it still runs (a stopped one does, a zombie does not)."""
        return _started(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal to its process group, if it still runs."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def pause(self, timeout_s: float = 10) -> None:
        """Pause it (SIGSTOP), and return only when all its threads have stopped.

        The signal is delivered before it takes effect: each thread stops when it is next about to run, and until then
        a thread on another processor still answers.

        Raises:
            TimeoutError: one of its threads has not stopped after that time (a thread that waits for a disk does not).
        """
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + timeout_s
        while self.alive and not _stands(self.pid):
            if time.monotonic() > deadline:
                message = f"process {self.pid} did not stand still within {timeout_s:.0f} s"
                raise TimeoutError(message)
            time.sleep(_POLL_S)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; return whether it has."""
        deadline = time.monotonic() + timeout_s
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def end(self, grace_s: float) -> None:
        """Ask it to end (SIGTERM), and kill it after the grace time (SIGKILL)."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a stopped process would not handle SIGTERM
        if not self.wait(grace_s):
            self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.signal(signal.SIGKILL)
        self.wait(timeout_s=10)

    def write(self, path: Path) -> None:
        """Save it to a file, for ``read`` in another process."""
        path.write_text(json.dumps(asdict(self)) + "\n")


def read(path: Path) -> Process | None:
    """Return the process that was saved to a file, if it is still alive."""
    try:
        process = Process(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return process if process.alive else None


def spawn(
    command: Sequence[str | Path],
    *,
    output: IO[bytes] | int | None = None,
    errors: int | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[subprocess.Popen[bytes], Process]:
    """Start a command in its own session, without input.

    Args:
        command: Program and arguments.
        output: Where its output goes, as for ``subprocess``; None: where ours goes.
        errors: Where its errors go, likewise; None: to ``output``.
        env: Its whole environment; None: ours.

    Raises:
        OSError: the program cannot be started.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if errors is None else errors,
        env=env,
        start_new_session=True,
    )
    return child, Process(child.pid, _started(child.pid) or "ended at once")


def _stands(pid: int) -> bool:
    """Whether each of its threads has stopped."""
    if _PROC.joinpath("self", "stat").exists():
        stats = [_stat(thread / "stat") for thread in _PROC.joinpath(str(pid), "task").glob("*")]
        return all(fields is None or fields[0] in "TZX" for fields in stats)
    asked = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout.strip().startswith("T")


def _stat(path: Path) -> list[str] | None:
    """Return the fields of proc(5)'s ``stat`` of a process or thread, from its state on; None if it has ended."""
    try:
        stat = path.read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()  # the name before can contain any characters


def _started(pid: int) -> str | None:
    if _PROC.joinpath("self", "stat").exists():
        fields = _stat(_PROC.joinpath(str(pid), "stat"))
        if fields is None:
            return None
        state, ticks = fields[0], fields[19]
        boot = _PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()
        return None if state == "Z" else f"{boot} {ticks}"
    asked = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},  # this machine's language and time zone can change meanwhile
    )
    state, _, started = asked.stdout.strip().partition(" ")
    return None if asked.returncode or state.startswith("Z") else started.strip()
