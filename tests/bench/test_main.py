"""The command of the benchmark, as a process."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploy.local import ROOT


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_it_stops_all_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        bench = subprocess.Popen(
            [sys.executable, "-m", "bench", "--fast", "--only", "end-to-end"], cwd=ROOT, stdout=output, stderr=output
        )
    itself = psutil.Process(bench.pid)
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 90
        while not any(_is_worker(each) for each in started):
            assert bench.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            started = itself.children(recursive=True)
            time.sleep(0.1)

        bench.send_signal(number)

        assert bench.wait(60) == 128 + number, log.read_text()
        assert log.read_text().splitlines()[-1].startswith("stopped; ")
        assert "Traceback" not in log.read_text()
        assert psutil.wait_procs(started, timeout=0)[1] == []
    finally:
        for left in [*started, itself]:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        bench.wait()


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[-3:] == ["-m", "streams", "worker"]
    except psutil.Error:  # it has ended, or is about to become another program
        return False
