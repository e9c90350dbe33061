"""What the processes have in common: which problems of the topics keep one from starting, and how many files it may open."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError

from deploy.local import ports
from streams import process, topics
from streams.settings import Settings
from streams.topics import Problem


async def test_what_makes_less_safe_is_logged_and_only_what_forbids_keeps_a_process_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def found(*_: Any, **__: Any) -> list[Problem]:
        return [Problem("it is missing"), Problem("it is short", forbids=False)]

    monkeypatch.setattr(topics, "check", found)
    caplog.set_level(logging.WARNING)

    problems = await process.topic_problems(Settings())

    assert problems == ["it is missing"]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", "it is short")]


async def test_where_a_broker_that_another_one_names_is_out_of_reach_the_log_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[NodeNotReadyError | None] = [NodeNotReadyError("of node 2"), None]

    async def ask(*_: Any, **__: Any) -> list[Problem]:
        if error := answers.pop(0):
            raise error
        return []

    monkeypatch.setattr(topics, "check", ask)
    monkeypatch.setattr(process, "BROKER_RETRY_S", 0.0)

    assert await process.topic_problems(Settings()) == []

    (said,) = caplog.messages
    assert said == (
        "waiting for the broker at 127.0.0.1:19092: NodeNotReadyError: it answers, but a broker of that cluster cannot be "
        "reached from here: start it, or let its advertised.listeners name where it is reached"
    )


_WORKER = """
import resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from streams.settings import load
from streams.worker import run_worker
print(run_worker(load()), resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""


def test_a_worker_has_as_many_open_files_as_it_may() -> None:
    (port,) = ports.find(1)
    environment = os.environ | {"MAILSTREAMS_CONFIG": os.devnull, "MAILSTREAMS_WEB__PORT": str(port)}
    with socket.create_server(("127.0.0.1", port)):  # it is taken, so the worker ends before it needs a broker
        ended = subprocess.run(
            [sys.executable, "-c", _WORKER], env=environment, capture_output=True, text=True, check=False
        )

    assert ended.stdout == "2 True\n", ended.stderr


_HANGS = """
import logging, threading
from streams import worker
worker.LOG_TIMEOUT_S = 0.5
logging.basicConfig()
threading.Timer(0.5, worker._end_hung, [60.0]).start()
while True:
    logging.error("x" * 1000)
"""


def test_a_worker_that_hangs_because_nobody_reads_its_log_ends_all_the_same() -> None:
    hangs = subprocess.Popen([sys.executable, "-c", _HANGS], stderr=subprocess.PIPE)
    try:
        assert hangs.wait(30) == process.EXIT_STALLED
    finally:
        hangs.kill()
        hangs.communicate()


_HANGS_WITHOUT_THREADS = """
import threading
from streams import worker
threading.stack_size(1 << 46)  # more than there are addresses, so that no thread can be started
worker._end_hung(60.0)
"""


def test_a_worker_that_hangs_where_no_more_threads_can_be_started_ends_all_the_same() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _HANGS_WITHOUT_THREADS], capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == process.EXIT_STALLED, ended.stderr


@pytest.mark.parametrize(
    ("place", "why"), [("file", "File exists"), ("file/store", "Not a directory"), ("/proc/store", "No such file")]
)
def test_a_worker_whose_stores_cannot_be_kept_ends_before_it_joins_the_group(
    tmp_path: Path, place: str, why: str
) -> None:
    (tmp_path / "file").touch()
    environment = os.environ | {
        "MAILSTREAMS_CONFIG": os.devnull,
        "MAILSTREAMS_WEB__PORT": "0",
        "MAILSTREAMS_WORKER__DATADIR": str(tmp_path / place),
    }
    command = [sys.executable, "-m", "streams", "worker"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert ended.returncode == 2
    assert f"worker.datadir {tmp_path / place} cannot be used: {why}" in ended.stderr
    assert "Traceback" not in ended.stderr
