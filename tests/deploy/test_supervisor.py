import io
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local import ROOT, processes
from deploy.local.supervisor import Policy, Supervisor

FAST = Policy(first_delay_s=0.05, longest_delay_s=0.2, healthy_after_s=60, crashes=5, within_s=120, grace_s=5)


def python(text: str) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(text)]


def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


class Run:
    """A supervisor in a thread, with all that it says and that its command prints."""

    def __init__(self, command: list[str], policy: Policy = FAST, pid_file: Path | None = None) -> None:
        self.log = io.BytesIO()
        self.said: list[str] = []
        self.code: int | None = None
        self.supervisor = Supervisor(
            command, log=self.log, policy=policy, pid_file=pid_file, say=self.said.append, kept_lines=3
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.supervisor.run()

    def wait(self, timeout_s: float = 20) -> int:
        self.thread.join(timeout_s)
        assert self.code is not None, "the supervisor still runs"
        return self.code

    @property
    def printed(self) -> list[str]:
        return self.log.getvalue().decode().splitlines()


@pytest.fixture
def counter(tmp_path: Path) -> str:
    """Python that counts its starts into ``n`` (1, 2, ...)."""
    path = tmp_path / "starts"
    return f"p = __import__('pathlib').Path({str(path)!r})\nn = len(p.read_text()) + 1 if p.exists() else 1\np.write_text('x' * n)\n"


def test_an_end_with_exit_code_0_ends_it_without_a_restart() -> None:
    run = Run(python("print('done')"))

    assert run.wait() == 0
    assert run.printed == ["done"]
    assert run.supervisor.restarts == 0


def test_a_crash_is_followed_by_a_restart(counter: str) -> None:
    run = Run(python(counter + "print('start', n)\nraise SystemExit(3 if n < 3 else 0)"))

    assert run.wait() == 0
    assert run.printed == ["start 1", "start 2", "start 3"]
    assert run.said == ["crashed (exit code 3): restart in 0.05 s", "crashed (exit code 3): restart in 0.1 s"]


def test_a_kill_is_a_crash_too_and_is_told_by_the_signals_name(counter: str) -> None:
    run = Run(python(counter + "import os\nif n == 1: os.kill(os.getpid(), 9)"))

    assert run.wait() == 0
    assert run.said[0] == "crashed (signal SIGKILL): restart in 0.05 s"


def test_an_exit_code_of_no_signal_is_a_crash_as_any_other(counter: str) -> None:
    run = Run(python(counter + "raise SystemExit(255 if n == 1 else 0)"))

    assert run.wait() == 0
    assert run.said == ["crashed (exit code 255): restart in 0.05 s"]


def test_too_many_crashes_in_too_short_a_time_end_it_with_the_last_lines_kept() -> None:
    run = Run(python("print('a'); print('b'); print('c'); raise SystemExit('no such table')"))

    assert run.wait() == 1
    assert run.supervisor.gave_up
    assert run.supervisor.restarts == 4
    assert run.supervisor.last_lines == ["b", "c", "no such table"]
    assert "crashed (exit code 1) 5 times in" in run.said[-1]


def test_the_delay_doubles_up_to_the_longest() -> None:
    run = Run(python("raise SystemExit(1)"))
    run.wait()

    assert [line.rpartition("in ")[2] for line in run.said[:-1]] == ["0.05 s", "0.1 s", "0.2 s", "0.2 s"]


def test_crashes_that_lie_far_apart_do_not_add_up(counter: str) -> None:
    policy = Policy(first_delay_s=0.01, longest_delay_s=0.01, crashes=2, within_s=0.3)
    run = Run(python(counter + "__import__('time').sleep(0.5)\nraise SystemExit(1 if n < 4 else 0)"), policy)

    assert run.wait() == 0
    assert not run.supervisor.gave_up
    assert run.supervisor.restarts == 3


def test_after_a_healthy_run_the_delay_is_the_first_one_again(counter: str) -> None:
    policy = Policy(first_delay_s=0.05, longest_delay_s=1, healthy_after_s=0.5, crashes=9)
    run = Run(python(counter + "if n == 3: __import__('time').sleep(0.7)\nraise SystemExit(1 if n < 5 else 0)"), policy)
    run.wait()

    assert [line.rpartition("in ")[2] for line in run.said] == ["0.05 s", "0.1 s", "0.05 s", "0.1 s"]


def test_stop_passes_sigterm_on_and_ends_without_a_restart(tmp_path: Path) -> None:
    pid_file = tmp_path / "child.pid"
    obedient = """
        import signal, sys, time
        def end(number, frame):
            print("ending"); sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("up")
        time.sleep(60)
    """
    run = Run(python(obedient), pid_file=pid_file)
    until(lambda: run.printed)
    assert run.supervisor.process == processes.read(pid_file)

    run.supervisor.stop()

    assert run.wait() == 0
    assert run.printed == ["up", "ending"]
    assert not pid_file.exists()


def test_a_child_that_dies_of_the_signal_it_was_sent_has_obeyed() -> None:
    run = Run(python("print('up'); __import__('time').sleep(60)"))
    until(lambda: run.printed)

    run.supervisor.stop()

    assert run.wait() == 0


def test_a_child_that_does_not_obey_is_killed_after_the_grace_time() -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)"
    run = Run(python(stubborn), Policy(grace_s=0.3))
    until(lambda: run.printed)
    started = time.monotonic()

    run.supervisor.stop()

    assert run.wait() == 128 + signal.SIGKILL
    assert 0.3 <= time.monotonic() - started < 3


def test_stop_during_the_wait_before_a_restart_ends_it_at_once() -> None:
    run = Run(python("raise SystemExit(1)"), Policy(first_delay_s=30))
    until(lambda: run.said)

    run.supervisor.stop()

    assert run.wait(timeout_s=2) == 0
    assert run.supervisor.restarts == 0


def test_a_grandchild_that_keeps_the_output_open_does_not_keep_it_from_ending() -> None:
    run = Run(python("import subprocess; subprocess.Popen(['sleep', '3']); print('gone')"))
    started = time.monotonic()

    assert run.wait() == 0
    assert time.monotonic() - started < 2.9


SUPERVISE = [sys.executable, "-m", "deploy.local.supervisor"]


def test_the_command_ends_with_the_reason_and_the_last_lines_when_it_gives_up() -> None:
    options = ["--first-delay", "0.01", "--longest-delay", "0.01", "--crashes", "3", "--"]
    ran = subprocess.run(
        [*SUPERVISE, *options, *python("raise SystemExit('the store is locked')")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert "3 times" in ran.stderr
    assert "its last lines:\n  the store is locked\n" in ran.stderr


def test_the_command_names_a_program_that_is_not_there() -> None:
    ran = subprocess.run([*SUPERVISE, "no-such-program"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode != 0
    assert ran.stderr == "error: cannot start no-such-program: No such file or directory\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_passes_signals_on_and_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    child = python("import os, time; print(os.getpid()); time.sleep(60)")
    with subprocess.Popen([*SUPERVISE, "--log", str(log), "--", *child], cwd=ROOT) as supervisor:
        until(lambda: log.exists() and log.read_text().strip())
        supervisor.send_signal(number)

        assert supervisor.wait(timeout=10) == 0
    assert not Path("/proc", log.read_text().split()[0]).exists()
