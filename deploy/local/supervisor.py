"""Keeps a command running: restarts it when it crashes, and gives up when that does not help.

A crash is any end other than exit code 0. The restart waits, twice as long after each crash, so as not to flood a
broker that is away; five crashes within two minutes mean that a restart does not help, and a person has to find out why.
The worker relies on this: it ends by crashing whenever only a fresh start is safe.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from deploy.local import processes

__all__ = ["Policy", "Supervisor"]

_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When to restart, and when to give up. Times are seconds."""

    first_delay_s: float = 0.5
    """Before the first restart; it doubles with each crash."""
    longest_delay_s: float = 10
    healthy_after_s: float = 60
    """A run of this length was healthy: the next delay is the first one again."""
    crashes: int = 5
    """Give up after this many crashes within ``within_s``."""
    within_s: float = 120
    grace_s: float = 25
    """From the request to stop until SIGKILL; above ``worker.shutdown_s``, so that an orderly stop can end."""


class Supervisor:
    """Runs a command until it ends by itself, is stopped, or crashes too often.

    Args:
        command: Program and arguments.
        log: Where its output and errors go, line by line; the supervisor does not close it.
        env: Its whole environment; None: ours.
        policy: When to restart and to give up.
        pid_file: Where the running process is saved, for ``processes.read``.
        say: Called with a line for each crash and restart.
        kept_lines: How many of the last lines of output to keep for ``last_lines``.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: IO[bytes],
        env: Mapping[str, str] | None = None,
        policy: Policy | None = None,
        pid_file: Path | None = None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        kept_lines: int = 15,
    ) -> None:
        self.command = command
        self.policy = policy or Policy()
        self.gave_up = False
        """Whether it crashed too often."""
        self.restarts = 0
        self._log = log
        self._env = env
        self._pid_file = pid_file
        self._say = say
        self._tail: deque[str] = deque(maxlen=kept_lines)
        self._process: processes.Process | None = None
        self._stop_signal: int | None = None
        self._stop_asked_at = 0.0

    @property
    def process(self) -> processes.Process | None:
        """The current process; None before the first start and between two runs."""
        process = self._process
        return process if process and process.alive else None

    @property
    def last_lines(self) -> list[str]:
        """The last lines that the command printed."""
        return list(self._tail)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Pass a signal on and let ``run`` end; kills after the grace time. Safe in a signal handler and any thread."""
        if self._stop_signal is None:
            self._stop_asked_at = time.monotonic()
            self._stop_signal = number
        if process := self.process:
            process.signal(number)

    def kill(self) -> None:
        """As ``stop``, without the grace time."""
        self.stop(signal.SIGKILL)

    def run(self) -> int:
        """Run the command, again after each crash.

        Returns:
            0 when it ended well or was stopped and obeyed, else its last exit code (128 + n for signal n).

        Raises:
            OSError: the program cannot be started at all.
        """
        crashes: deque[float] = deque(maxlen=self.policy.crashes)
        delay = self.policy.first_delay_s
        while True:
            started = time.monotonic()
            code = self._run_once()
            if code == 0 or self._stop_signal is not None:
                return 0 if code in (0, self._stop_signal and 128 + self._stop_signal) else code
            ended = time.monotonic()
            how = _how(code)
            crashes.append(ended)
            if len(crashes) == self.policy.crashes and ended - crashes[0] <= self.policy.within_s:
                self.gave_up = True
                self._say(f"crashed ({how}) {len(crashes)} times in {ended - crashes[0]:.0f} s: given up")
                return code
            if ended - started >= self.policy.healthy_after_s:
                delay = self.policy.first_delay_s
            self._say(f"crashed ({how}): restart in {delay:g} s")
            if not self._sleep(delay):
                return 0
            delay = min(2 * delay, self.policy.longest_delay_s)
            self.restarts += 1

    def _run_once(self) -> int:
        child, self._process = processes.spawn(
            self.command, env=self._env, output=subprocess.PIPE, errors=subprocess.STDOUT
        )
        if self._pid_file:
            self._process.write(self._pid_file)
        copier = threading.Thread(target=self._copy, args=(child.stdout,), daemon=True)
        copier.start()
        try:
            if self._stop_signal is not None:  # requested while it was being started
                self._process.signal(self._stop_signal)
            while child.poll() is None:
                time.sleep(_POLL_S)
                if self._stop_signal is not None and time.monotonic() > self._stop_asked_at + self.policy.grace_s:
                    self._process.kill()
        finally:
            self._process.kill()  # does nothing if it has ended; not left behind when we are interrupted
            copier.join(timeout=1)  # a grandchild may hold the pipe for ever
            if self._pid_file:
                self._pid_file.unlink(missing_ok=True)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _copy(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                with contextlib.suppress(ValueError):  # the log was closed: the run is over
                    self._log.write(line)
                    self._log.flush()
                if text := line.decode(errors="replace").rstrip():
                    self._tail.append(text)

    def _sleep(self, seconds: float) -> bool:
        """Sleep; return whether no stop interrupted it. No lock, because ``stop`` may run in a signal handler."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._stop_signal is not None:
                return False
            time.sleep(min(_POLL_S, left))
        return self._stop_signal is None


def _how(code: int) -> str:
    """Say how a process ended: by a signal, in the shells' convention, if there is such a one."""
    number = code - 128
    return f"signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"exit code {code}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Supervise a command until it ends."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.supervisor",
        description="Run COMMAND, restart it when it crashes, give up after too many crashes.",
        usage="%(prog)s [options] -- COMMAND [ARGUMENT ...]",
    )
    defaults = Policy()
    parser.add_argument("--log", type=Path, help="append its output to this file (default: the standard error)")
    parser.add_argument("--first-delay", type=float, default=defaults.first_delay_s, metavar="SECONDS")
    parser.add_argument("--longest-delay", type=float, default=defaults.longest_delay_s, metavar="SECONDS")
    parser.add_argument("--healthy-after", type=float, default=defaults.healthy_after_s, metavar="SECONDS")
    parser.add_argument("--crashes", type=int, default=defaults.crashes, help="give up after so many ...")
    parser.add_argument("--within", type=float, default=defaults.within_s, metavar="SECONDS", help="... in this time")
    parser.add_argument(
        "--grace", type=float, default=defaults.grace_s, metavar="SECONDS", help="from SIGTERM to SIGKILL"
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    policy = Policy(
        first_delay_s=options.first_delay,
        longest_delay_s=options.longest_delay,
        healthy_after_s=options.healthy_after,
        crashes=options.crashes,
        within_s=options.within,
        grace_s=options.grace,
    )
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(options.log.open("ab")) if options.log else sys.stderr.buffer
        supervisor = Supervisor(options.command, log=log, policy=policy)

        def forward(number: int, _frame: FrameType | None) -> None:
            supervisor.stop(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, forward)
        try:
            code = supervisor.run()
        except OSError as error:
            print(f"error: cannot start {shlex.join(options.command)}: {error.strerror}", file=sys.stderr)
            return os.EX_UNAVAILABLE
        if supervisor.gave_up:
            print("its last lines:", *supervisor.last_lines, sep="\n  ", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
