import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import processes

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
BUSY = """
import hashlib, threading
def work():
    while True: hashlib.sha256(bytes(1 << 16))
for _ in range(8): threading.Thread(target=work).start()
print("up", flush=True)
"""
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def start(command: list[str]) -> tuple[subprocess.Popen[bytes], processes.Process]:
    child, process = processes.spawn(command, output=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    return child, process


@pytest.fixture
def sleeper() -> Iterator[processes.Process]:
    child, process = start(SLEEPER)
    with child:
        yield process
        process.kill()


def test_a_running_process_is_alive_and_an_ended_one_is_not(sleeper: processes.Process) -> None:
    assert sleeper.alive

    sleeper.kill()

    assert not sleeper.alive


def test_a_stopped_process_is_alive_and_can_be_ended(sleeper: processes.Process) -> None:
    sleeper.signal(signal.SIGSTOP)
    assert sleeper.alive

    started = time.monotonic()
    sleeper.end(grace_s=10)

    assert not sleeper.alive
    assert time.monotonic() - started < 5


def test_a_paused_process_has_done_its_last_work_when_pause_returns() -> None:
    child, process = start([sys.executable, "-c", BUSY])

    def last_of_each_thread() -> list[str]:  # nanoseconds on a processor, ... (the kernel's scheduler/sched-stats)
        return [path.read_text() for path in sorted(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))]

    with child:
        try:
            for _ in range(50):
                process.pause()
                before = last_of_each_thread()
                time.sleep(0.005)
                assert before == last_of_each_thread() != []
                process.signal(signal.SIGCONT)
        finally:
            process.kill()


def test_another_process_with_the_same_id_is_not_taken_for_it_and_not_touched(sleeper: processes.Process) -> None:
    earlier = processes.Process(sleeper.pid, "an earlier moment")

    earlier.end(grace_s=0.1)
    earlier.kill()

    assert not earlier.alive
    assert sleeper.alive


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_time() -> None:
    child, process = start(STUBBORN)
    with child:
        process.end(grace_s=0.3)

        assert child.wait() == -signal.SIGKILL


def test_what_was_written_down_is_found_again_while_it_runs(sleeper: processes.Process, tmp_path: Path) -> None:
    path = tmp_path / "sleeper.pid"
    sleeper.write(path)

    assert sleeper == processes.read(path)
    sleeper.kill()
    assert None is processes.read(path)


@pytest.mark.parametrize("text", ["", "4711", "{}", '{"pid": 1}', "[]"])
def test_a_broken_pid_file_names_no_process(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.pid"
    path.write_text(text)

    assert None is processes.read(path)


def test_a_process_does_not_hear_the_ctrl_c_of_our_terminal(sleeper: processes.Process) -> None:
    assert os.getpgid(sleeper.pid) != os.getpgid(0)
    assert os.getsid(sleeper.pid) != os.getsid(0)


def test_without_proc_the_system_is_asked_by_ps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    child, process = start(SLEEPER)
    with child:
        monkeypatch.setenv("TZ", "Asia/Tokyo")  # a laptop travels
        assert process.alive
        process.kill()
        assert not process.alive
