import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local import ROOT, LocalError, demo, ports, processes, run
from deploy.local.stack import Stack, environment

# Stands for the package's command line; what it does when it is called as a worker is in FAKE.
STAND_IN = """
import http.server, os, pathlib, sys, time
command, fake = sys.argv[1], os.environ["FAKE"]
print(*sys.argv[1:], flush=True)
pathlib.Path(os.environ["CALLS"]).open("a").write(" ".join(sys.argv[1:]) + "\\n")
if command == "topics" and fake == "no cluster":
    sys.exit("mailstreams: the brokers do not answer")
if command == "watch":
    time.sleep(60)
if command == "worker":
    if fake == "crash":
        sys.exit("the changelog is empty but offsets are committed")
    class Endpoints(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()
        def log_message(self, *_):
            pass
    http.server.HTTPServer(("127.0.0.1", int(os.environ["MAILSTREAMS_WEB__PORT"])), Endpoints).serve_forever()
"""
COMMAND = (sys.executable, "-c", STAND_IN)
CLUSTER = "kafka.example.net:9092"  # nobody asks it: the stand-in does not


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


class Place:
    """A folder with a stack on it, and what the stack says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder.parent / "calls"
        self.said: list[str] = []
        self.web_port = ports.find(1)[0]
        self.stacks: list[Stack] = []

    def env(self, fake: str) -> dict[str, str]:
        return {**os.environ, "FAKE": fake, "CALLS": str(self.calls_file)}

    def stack(self, fake: str = "works") -> Stack:
        stack = Stack(
            self.folder,
            cluster=CLUSTER,
            web_port=self.web_port,
            env=self.env(fake),
            say=self.said.append,
            command=COMMAND,
        )
        self.stacks.append(stack)
        return stack

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    @property
    def running(self) -> list[processes.Process]:
        found = [processes.read(path) for path in self.folder.glob("*.pid")]
        return [process for process in found if process]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "run")
    yield place
    for stack in place.stacks:
        stack.kill()


def test_the_topics_are_created_before_the_worker_starts(place: Place) -> None:
    stack = place.stack()

    stack.start()

    assert place.calls == ["topics create", "worker"]
    assert stack.worker_log.read_text() == "worker\n"


def test_stop_ends_everything_that_was_started(place: Place) -> None:
    stack = place.stack()
    stack.start()
    watch = stack.spawn("watch", output=subprocess.PIPE)
    assert len(place.running) == 2

    stack.stop()

    assert not place.running
    assert not list(place.folder.glob("*.pid"))
    with watch:
        assert watch.wait(timeout=1) == -signal.SIGTERM


def test_what_the_command_line_complains_of_is_passed_on(place: Place) -> None:
    with pytest.raises(LocalError) as error:
        place.stack("no cluster").start()

    assert str(error.value) == "`mailstreams topics create` failed: mailstreams: the brokers do not answer"
    assert not place.running


def test_a_worker_that_crashes_again_and_again_is_told_with_its_last_lines(place: Place) -> None:
    with pytest.raises(LocalError) as error:
        place.stack("crash").start()

    assert "the worker was given up after its crashes" in str(error.value)
    assert "the changelog is empty but offsets are committed" in str(error.value)
    assert any("restart in 0.5 s" in line for line in place.said)


def test_a_used_web_port_is_refused_before_anything_starts(place: Place) -> None:
    with socket.create_server((ports.HOST, place.web_port)), pytest.raises(LocalError, match="WEB_PORT"):
        place.stack().start()

    assert not place.calls


def test_a_second_one_on_the_same_folder_is_refused_and_the_first_goes_on(place: Place) -> None:
    place.stack().start()
    first = place.running

    with pytest.raises(LocalError, match="it runs already on"):
        place.stack().start()

    assert first == place.running


def test_settings_of_the_shell_do_not_reach_a_run_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILSTREAMS_KAFKA__SECURITY_PROTOCOL", "SSL")

    assert environment(with_settings=True)["MAILSTREAMS_KAFKA__SECURITY_PROTOCOL"] == "SSL"
    assert "MAILSTREAMS_KAFKA__SECURITY_PROTOCOL" not in environment(with_settings=False)
    assert environment(with_settings=False)["MAILSTREAMS_CONFIG"] == os.devnull


RUN = f"import sys; from deploy.local import run; sys.exit(run.main(sys.argv[1:], command={COMMAND!r}))"


def start_run(place: Place, *options: str, fake: str = "works") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, "--data", str(place.folder.parent), "--web-port", str(place.web_port), *options],
        cwd=ROOT,
        env=place.env(fake),
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.fixture
def cluster_place(tmp_path: Path) -> Place:
    """Where ``run`` keeps what belongs to CLUSTER."""
    return Place(tmp_path / "at-kafka.example.net-9092")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_ends_well_and_leaves_nothing_behind_when_it_is_interrupted(
    cluster_place: Place, number: signal.Signals
) -> None:
    with start_run(cluster_place, "--broker", CLUSTER) as child:
        until(lambda: "watch --from-now" in cluster_place.calls)
        child.send_signal(number)
        output, _ = child.communicate(timeout=10)

    assert child.returncode == 0
    assert not cluster_place.running
    assert f"http://127.0.0.1:{cluster_place.web_port}/metrics" in output
    assert CLUSTER in output
    assert output.endswith("stopping ...\nstopped\n")


def test_an_existing_cluster_is_fed_nothing_unless_asked(cluster_place: Place) -> None:
    with start_run(cluster_place, "--broker", CLUSTER) as child:
        until(lambda: "watch --from-now" in cluster_place.calls)
        time.sleep(run._BEFORE_DEMO_S + 1)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=10)
    assert not [call for call in cluster_place.calls if call.startswith("feed")]

    first = demo.payloads()[0]
    with start_run(cluster_place, "--broker", CLUSTER, "--demo") as child:
        until(lambda: f"feed {first.provider} {first.path} --as-now --account demo" in cluster_place.calls)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=10)


def test_run_ends_with_the_reason_when_the_worker_was_given_up(cluster_place: Place) -> None:
    with start_run(cluster_place, "--broker", CLUSTER, fake="crash") as child:
        output, _ = child.communicate(timeout=60)

    assert child.returncode == 1
    assert "error: the worker was given up after its crashes" in output
    assert "the changelog is empty but offsets are committed" in output


def test_run_brings_a_killed_worker_back(cluster_place: Place) -> None:
    with start_run(cluster_place, "--broker", CLUSTER) as child:
        until(lambda: "watch --from-now" in cluster_place.calls)
        worker = processes.read(cluster_place.folder / "worker.pid")
        assert worker is not None
        worker.kill()
        until(lambda: cluster_place.calls.count("worker") == 2)
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=10)

    assert child.returncode == 0
    assert "worker crashed (signal SIGKILL): restart in 0.5 s" in output


def test_what_a_killed_run_left_behind_is_ended_at_the_next_start_and_nothing_else(cluster_place: Place) -> None:
    with start_run(cluster_place, "--broker", CLUSTER) as child:
        until(lambda: "watch --from-now" in cluster_place.calls)
        left = cluster_place.running
        child.kill()  # nobody can clean up after that
    assert len(left) == 2
    assert all(process.alive for process in left)
    us = cluster_place.folder / "reused-id.pid"
    us.write_text(f'{{"pid": {os.getpid()}, "started": "another moment"}}')

    with start_run(cluster_place, "--broker", CLUSTER) as child:
        until(lambda: cluster_place.calls.count("watch --from-now") == 2)
        assert not any(process.alive for process in left)
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=10)

    assert all(f"ending process {process.pid}, which an earlier run left behind" in output for process in left)
    assert f"ending process {os.getpid()}" not in output
    assert not us.exists()
