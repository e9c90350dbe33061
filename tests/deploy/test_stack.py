import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from deploy.local import ROOT, LocalError, demo, ports, processes, run, watchers
from deploy.local.stack import COMMAND as REAL
from deploy.local.stack import Edge, Pages, Stack, environment, interrupts, toml, variables
from deploy.local.watchers import Watchers
from streams import settings
from streams.cli._ingress import ingress_url
from streams.providers import PROVIDERS
from tests.web.edge import self_signed

# Stands for the package's command line; how it goes wrong is in FAKE.
STAND_IN = """
import http.server, json, os, pathlib, sys, time
command, fake, begun = sys.argv[1], os.environ["FAKE"], time.monotonic()
if command == "simulate" and "--show-settings" in sys.argv:
    print('accounts.demo.webhooks.postmark.secrets.simulated = "basic:a:b"')
    sys.exit()
if command != "topics":
    print(*sys.argv[1:], flush=True)
pathlib.Path(os.environ["CALLS"]).open("a").write(" ".join(sys.argv[1:]) + "\\n")
if command == "topics" and fake == "no cluster":
    sys.exit("mailstreams: the brokers do not answer")
if command == "topics" and fake == "other topics":
    print("topic mail.events has 8 partitions, 4 are needed")
    sys.exit("1 problem")
if command == "simulate" and fake == "simulation ends":
    sys.exit("mailstreams: no certificate")
if command == "simulate" and fake == "simulation refused":
    print("    10 s  0 requests accepted, 7 refused", flush=True)
if command in ("watch", "simulate"):
    time.sleep(60)
if command in ("worker", "ingress", "history"):
    if fake == "crash" and command == "worker":
        sys.exit("the changelog is empty but offsets are committed")
    if fake == "ingress crash" and command == "ingress":
        sys.exit("accounts.billing: unknown setting")
    ours = {name: value for name, value in os.environ.items() if name.startswith("MAILSTREAMS_")}
    pathlib.Path(os.environ["CALLS"]).with_name(command + ".json").write_text(json.dumps(ours))
    class Endpoints(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            ready = {"stopped": "mail.events/1 stopped: 21 of the last 30 records are bad: no JSON"}.get(fake, "ok")
            ready = {"unassigned": "mail.events/1 stopped: it is bad\\nno partitions are assigned yet"}.get(fake, ready)
            if fake == "restoring" and time.monotonic() < begun + 6:
                ready = "the broker does not answer\\nstores are being restored"
            self.send_response(404 if self.path != "/readyz" else 200 if ready == "ok" else 503)
            self.end_headers()
            if ready != "ok":  # whoever is told that all is well reads no further
                self.wfile.write(ready.encode())
        def log_message(self, *_):
            pass
    admin = {"ingress": "INGRESS__ADMIN_PORT", "history": "HISTORY__ADMIN_PORT"}
    port = "MAILSTREAMS_" + admin.get(command, "WEB__PORT")
    http.server.HTTPServer(("127.0.0.1", int(os.environ[port])), Endpoints).serve_forever()
"""
COMMAND = (sys.executable, "-c", STAND_IN)
CLUSTER = "kafka.example.net:9092"  # nobody asks it: the stand-in does not


def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
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
        found = iter(ports.find(7))
        self.web_port, self.ingress_port, self.admin_port = next(found), next(found), next(found)
        self.history_port, self.history_admin_port = next(found), next(found)
        self.prometheus_port, self.alertmanager_port = next(found), next(found)
        self.stacks: list[Stack] = []

    def env(self, fake: str) -> dict[str, str]:
        return {**os.environ, "FAKE": fake, "CALLS": str(self.calls_file)}

    def stack(
        self,
        fake: str = "works",
        *,
        edge: Edge | None = None,
        pages: Pages | None = None,
        watching: Watchers | None = None,
    ) -> Stack:
        stack = Stack(
            self.folder,
            cluster=CLUSTER,
            web_port=self.web_port,
            edge=edge,
            pages=pages,
            watchers=watching,
            env=self.env(fake),
            say=self.said.append,
            command=COMMAND,
        )
        self.stacks.append(stack)
        return stack

    def edge(self, *, simulated: bool = False) -> Edge:
        return Edge(port=self.ingress_port, admin_port=self.admin_port, simulated=simulated)

    def pages(self) -> Pages:
        return Pages(port=self.history_port, admin_port=self.history_admin_port)

    def settings_of(self, process: str) -> dict[str, str]:
        """Return the settings with which a process was started."""
        found: dict[str, str] = json.loads(self.calls_file.with_name(f"{process}.json").read_text())
        return found

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


def test_a_log_that_has_grown_long_over_many_runs_is_put_aside(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.stack._LONG_LOG", 7)
    place.folder.mkdir()
    stack = place.stack()
    stack.worker_log.write_text("earlier\n")

    stack.start()

    assert stack.worker_log.read_text() == "worker\n"
    assert stack.worker_log.with_name("worker.log.1").read_text() == "earlier\n"


def test_the_ingress_has_a_log_and_ports_of_its_own_and_is_waited_for(place: Place) -> None:
    stack = place.stack(edge=place.edge())

    stack.start()

    assert sorted(place.calls) == ["ingress", "topics create", "worker"]
    assert stack.ingress_log.read_text() == "ingress\n"
    given = place.settings_of("ingress")
    assert given["MAILSTREAMS_INGRESS__PORT"] == str(place.ingress_port)
    assert given["MAILSTREAMS_INGRESS__ADMIN_PORT"] == str(place.admin_port)
    assert given["MAILSTREAMS_INGRESS__HOST"] == given["MAILSTREAMS_INGRESS__ADMIN_HOST"] == ports.HOST
    assert given["MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS"] == CLUSTER


def read(place: Place, process: str) -> settings.Settings:
    """Return what the command line reads where a process was started."""
    return settings.load(None, place.settings_of(process))


def test_all_processes_of_a_simulation_have_one_file_with_the_demos_policy_and_the_brokers_address(
    place: Place,
) -> None:
    stack = place.stack(edge=place.edge(simulated=True), pages=place.pages())

    stack.start()

    for process in ("worker", "ingress", "history"):
        assert place.settings_of(process)["MAILSTREAMS_CONFIG"] == str(stack.settings)
    found = settings.load(stack.settings, {})  # as from another terminal
    assert found.kafka.bootstrap_servers == CLUSTER
    assert found.accounts["demo"].deferrals == read(place, "worker").accounts["demo"].deferrals
    assert set(found.accounts["demo"].deferrals) == set(PROVIDERS)
    assert all(one.model_dump() == demo.DEFERRALS for one in found.accounts["demo"].deferrals.values())
    assert not found.accounts["demo"].webhooks


def test_without_a_simulation_the_file_has_the_addresses_only(place: Place) -> None:
    stack = place.stack(edge=place.edge())

    stack.start()

    assert tomllib.loads(stack.settings.read_text()) == {
        "kafka": {"bootstrap_servers": CLUSTER},
        "ingress": {"host": ports.HOST, "port": place.ingress_port},
    }


def test_a_command_in_another_terminal_finds_the_ingress(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text("[ingress]\nport = 8443\n")  # where it is to listen in production
    monkeypatch.setenv("MAILSTREAMS_CONFIG", str(tmp_path / "own.toml"))
    stack = place.stack(edge=place.edge())

    stack.start()

    assert ingress_url(settings.load(stack.settings, {})) == place.edge().url


def set_by(by: str, own: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the user's own settings by a file or by variables."""
    if by == "file":
        (folder / "own.toml").write_text("\n".join(toml(own)), encoding="utf-8")
        monkeypatch.setenv("MAILSTREAMS_CONFIG", str(folder / "own.toml"))
    else:
        for name, value in variables(own).items():
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize("simulated", [True, False])
@pytest.mark.parametrize("by", ["file", "variable"])
def test_the_simulated_providers_and_a_person_are_told_where_an_ingress_with_a_certificate_is(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by: str, simulated: bool
) -> None:
    certificate = str(self_signed(tmp_path / "it.pem", "hooks.example.net"))
    own = {"ingress": {"tls_certfile": certificate, "tls_keyfile": certificate}}
    set_by(by, own, tmp_path, monkeypatch)
    stack = place.stack(edge=place.edge(simulated=simulated))

    stack.start()

    speaks_tls = read(place, "ingress").ingress.tls_context() is not None
    assert speaks_tls is not simulated  # its certificate is one for hooks.example.net, of nobody's authority
    assert stack.edge is not None
    scheme = "https" if speaks_tls else "http"
    assert stack.edge.url == ingress_url(read(place, "ingress")) == f"{scheme}://{ports.HOST}:{place.ingress_port}"
    assert any("speaks no TLS" in line for line in place.said) is simulated


@pytest.mark.parametrize("by", ["file", "variable"])
def test_the_users_own_settings_win_over_the_demos_policy_and_lose_against_the_brokers_address(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    own = {
        "kafka": {"bootstrap_servers": "elsewhere.example.net:9092"},
        "accounts": {"demo": {"deferrals": {"mailgun": {"warn_after_s": 7}}}, "billing": {"support_contact": "ä"}},
    }
    set_by(by, own, tmp_path, monkeypatch)
    stack = place.stack(edge=place.edge(simulated=True))

    stack.start()

    found = read(place, "worker")
    assert found.kafka.bootstrap_servers == CLUSTER
    assert found.accounts["billing"].support_contact == "ä"
    policy = found.accounts["demo"].deferrals["mailgun"]
    assert (policy.warn_after_s, policy.retry_window_s) == (7, demo.DEFERRALS["retry_window_s"])
    assert stack.settings.stat().st_mode & 0o077 == 0  # it may hold the user's secrets


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("a = ", "not TOML"), ("a = '\xff'", "not TOML")])
def test_an_own_file_that_cannot_be_read_is_told_before_anything_starts(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    own = tmp_path / "own.toml"
    if text is not None:
        own.write_bytes(text.encode("latin-1"))
    monkeypatch.setenv("MAILSTREAMS_CONFIG", str(own))

    with pytest.raises(LocalError, match=f"own.toml: {said}"):
        place.stack().start()

    assert not place.calls


def test_an_own_file_is_read_as_the_commands_read_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAILSTREAMS_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    own = Path("mailstreams.toml")
    own.symlink_to("nothing.toml")
    with pytest.raises(LocalError, match=r"mailstreams.toml: No such file"):
        place.stack().start()
    place.stacks.pop().stop()

    own.unlink()
    own.write_text("[topics]\npartitions = 3\n", encoding="utf-8-sig")  # as some editors write it
    place.stack().start()

    assert read(place, "worker").topics.partitions == settings.load(own, {}).topics.partitions == 3


def test_settings_survive_being_written_as_toml() -> None:
    whole = {
        "ingress": {"certificates_dir": 'a "b"\\c', "max_requests": 5, "reuse_port": True, "shutdown_s": 2.5},
        "delivery": {"reference_keys": ["a", "ß", "🎈"]},
        "accounts": {"with.dot": {"deferrals": {}}, "empty": {}, "": {"api_keys": []}},
    }

    assert tomllib.loads("\n".join(toml(whole))) == whole


def test_what_is_not_needed_is_missed_once_and_all_else_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watchers, "commands", lambda *_: {"prometheus": ["true"]})
    watching = Watchers(prometheus_port=place.prometheus_port, alertmanager_port=place.alertmanager_port)
    stack = place.stack(watching=watching)
    stack.start()

    def missed() -> int:
        stack.check()
        return sum("the prometheus ended by itself" in line for line in place.said)

    until(missed)

    assert missed() == 1


def test_the_history_has_a_database_in_the_folder_unless_another_one_is_wanted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.stack(pages=place.pages()).start()
    assert place.settings_of("history")["MAILSTREAMS_HISTORY__PORT"] == str(place.history_port)
    assert database_of(read(place, "history")) == f"sqlite:///{place.folder / 'history' / 'history.db'}"
    place.stacks.pop().stop()
    monkeypatch.setenv("MAILSTREAMS_HISTORY__DATABASE_URL", "postgresql://db.example.net/history")
    monkeypatch.setenv("MAILSTREAMS_HISTORY__ADMIN_PORT", "8443")  # where it is in production
    place.stack(pages=place.pages()).start()
    assert place.settings_of("history")["MAILSTREAMS_HISTORY__ADMIN_PORT"] == str(place.history_admin_port)
    assert database_of(read(place, "history")).startswith("postgresql://db")


def database_of(found: settings.Settings) -> str:
    return found.history.database_url.get_secret_value()


@pytest.mark.parametrize("variable", [None, "postgresql://us:secret@db.example.net/history"])
def test_a_rebuild_in_another_terminal_finds_the_database_of_this_history_and_no_other(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    (tmp_path / "own.toml").write_text('[history]\ndatabase_url = "postgresql://production.example.net/history"\n')
    monkeypatch.setenv("MAILSTREAMS_CONFIG", str(tmp_path / "own.toml"))
    if variable is not None:
        monkeypatch.setenv("MAILSTREAMS_HISTORY__DATABASE_URL", variable)
    stack = place.stack(pages=place.pages())

    stack.start()

    wanted = variable or f"sqlite:///{place.folder / 'history' / 'history.db'}"
    assert database_of(settings.load(stack.settings, {})) == database_of(read(place, "history")) == wanted
    assert stack.settings.stat().st_mode & 0o077 == 0  # the URL may hold a password


def test_only_the_ingress_of_a_simulation_gets_the_simulated_secrets(place: Place) -> None:
    secret = "MAILSTREAMS_ACCOUNTS__DEMO__WEBHOOKS__POSTMARK__SECRETS__SIMULATED"
    stack = place.stack(edge=place.edge(simulated=True))
    stack.start()
    assert place.settings_of("ingress")[secret] == "basic:a:b"
    assert secret not in place.settings_of("worker")
    stack.stop()

    place.stack(edge=place.edge()).start()

    assert secret not in place.settings_of("ingress")


def test_the_simulated_secrets_as_variables_are_the_settings_that_simulate_shows_beside_the_users_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "own.toml").write_text('[accounts.billing.webhooks.postmark.secrets]\nmine = "basic:me:secret"\n')
    shown = subprocess.run(
        [*REAL, "simulate", "--show-settings", "--secrets", tmp_path / "secrets"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(with_settings=False),
    ).stdout
    (tmp_path / "shown.toml").write_text(shown)

    both = settings.load(tmp_path / "own.toml", variables(tomllib.loads(shown)))

    wanted = settings.load(tmp_path / "shown.toml", {})
    assert set(both.accounts) == {"billing", "demo"}
    assert both.accounts["demo"] == wanted.accounts["demo"]
    assert set(wanted.accounts["demo"].webhooks) == set(PROVIDERS)
    assert wanted.accounts["demo"].api_keys
    assert both.ingress.certificates_dir == wanted.ingress.certificates_dir is not None


def test_stop_ends_everything_that_was_started(place: Place) -> None:
    stack = place.stack(edge=place.edge())
    stack.start()
    watch = stack.spawn("watch", output=subprocess.PIPE)
    assert len(place.running) == 3

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


def test_what_does_not_fit_of_the_topics_is_passed_on_and_not_only_how_much_of_it(place: Place) -> None:
    with pytest.raises(LocalError) as error:
        place.stack("other topics").start()

    said = "topic mail.events has 8 partitions, 4 are needed\n1 problem"
    assert str(error.value) == f"`mailstreams topics create` failed: {said}"


def test_a_worker_that_waits_for_nothing_but_a_persons_resume_has_started_and_it_is_said(place: Place) -> None:
    place.stack("stopped").start()

    (said,) = place.said
    assert "mail.events/1 stopped: 21 of the last 30 records are bad: no JSON" in said
    assert "`mailstreams resume`" in said


def test_a_worker_that_waits_for_something_else_too_has_not_started(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.local.stack._READY_S", 2)

    with pytest.raises(LocalError, match="no partitions are assigned yet"):
        place.stack("unassigned").start()


def test_a_worker_that_restores_its_stores_is_waited_for_as_long_as_that_takes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.local.stack._READY_S", 4)
    monkeypatch.setattr("deploy.local.stack._RESTORING_TOLD_S", 1)

    place.stack("restoring", edge=place.edge()).start()

    (said,) = (line for line in place.said if "restores its stores" in line)
    assert "worker.log" in said


def test_a_worker_that_crashes_again_and_again_is_told_with_its_last_lines(place: Place) -> None:
    with pytest.raises(LocalError) as error:
        place.stack("crash").start()

    assert "the worker was given up after its crashes" in str(error.value)
    assert "the changelog is empty but offsets are committed" in str(error.value)
    assert any("restart in 0.5 s" in line for line in place.said)


def test_an_ingress_that_cannot_start_is_told_with_its_last_lines(place: Place) -> None:
    with pytest.raises(LocalError) as error:
        place.stack("ingress crash", edge=place.edge()).start()

    assert "the ingress was given up after its crashes" in str(error.value)
    assert "accounts.billing: unknown setting" in str(error.value)


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        ("web_port", "WEB_PORT"),
        ("ingress_port", "INGRESS_PORT"),
        ("admin_port", "INGRESS_ADMIN_PORT"),
        ("history_port", "HISTORY_PORT"),
        ("history_admin_port", "HISTORY_ADMIN_PORT"),
    ],
)
def test_a_used_port_is_refused_before_anything_starts(place: Place, taken: str, named: str) -> None:
    with socket.create_server((ports.HOST, getattr(place, taken))), pytest.raises(LocalError, match=f" {named}="):
        place.stack(edge=place.edge(), pages=place.pages()).start()

    assert not place.calls


def test_a_second_one_on_the_same_folder_is_refused_and_the_first_goes_on(place: Place) -> None:
    place.stack().start()
    first = place.running

    with pytest.raises(LocalError, match="it runs already on"):
        place.stack().start()

    assert first == place.running


def test_a_second_run_on_the_same_folder_leaves_the_broker_of_the_first_alone(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    pid_file = place.folder / "broker" / "broker.pid"
    pid_file.parent.mkdir(parents=True)
    child, broker = processes.spawn(["sleep", "60"])
    with child, (place.folder / "lock").open("a") as lock:
        broker.write(pid_file)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            assert run.main(["--data", str(place.folder)]) == 1

            assert "it runs already on" in capsys.readouterr().out
            assert processes.read(pid_file) == broker
        finally:
            broker.kill()


def test_a_proxy_of_the_environment_is_not_asked_for_what_runs_here(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nobody is there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # made before
    monkeypatch.setattr("deploy.local.stack._READY_S", 5)

    place.stack().start()


def test_a_terminal_that_says_twice_that_it_was_closed_interrupts_once_and_a_person_as_often_as_wanted() -> None:
    with interrupts():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_third_interrupt_leaves_nothing_behind_that_the_second_began_to_kill(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = place.stack(edge=place.edge())
    kill = stack.kill

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        kill()

    with interrupts():
        stack.start()
        monkeypatch.setattr(stack, "stop", Mock(side_effect=KeyboardInterrupt))
        monkeypatch.setattr(stack, "kill", interrupted)
        assert place.running

        stack.end()

        assert not place.running


def test_settings_of_the_shell_do_not_reach_a_run_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILSTREAMS_KAFKA__SECURITY_PROTOCOL", "SSL")

    assert environment(with_settings=True)["MAILSTREAMS_KAFKA__SECURITY_PROTOCOL"] == "SSL"
    assert "MAILSTREAMS_KAFKA__SECURITY_PROTOCOL" not in environment(with_settings=False)
    assert environment(with_settings=False)["MAILSTREAMS_CONFIG"] == os.devnull


RUN = f"import sys; from deploy.local import run; sys.exit(run.main(sys.argv[1:], command={COMMAND!r}))"


def start_run(place: Place, *options: str, fake: str = "works", output: int = subprocess.PIPE) -> subprocess.Popen[str]:
    own_ports = {
        "--web-port": place.web_port,
        "--ingress-port": place.ingress_port,
        "--ingress-admin-port": place.admin_port,
        "--history-port": place.history_port,
        "--history-admin-port": place.history_admin_port,
        "--prometheus-port": place.prometheus_port,
        "--alertmanager-port": place.alertmanager_port,
    }
    own = [text for option, port in own_ports.items() for text in (option, str(port))]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, "--data", str(place.folder.parent), *own, *options],
        cwd=ROOT,
        env=place.env(fake),
        text=True,
        stdout=output,
        start_new_session=True,
    )


@pytest.fixture
def cluster_place(tmp_path: Path) -> Iterator[Place]:
    """Where ``run`` keeps what belongs to CLUSTER."""
    place = Place(tmp_path / "at-kafka.example.net-9092")
    yield place
    for left in place.running:
        left.kill()


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
    assert f"http://127.0.0.1:{cluster_place.ingress_port}/webhooks/PROVIDER/ACCOUNT" in output
    assert f"http://127.0.0.1:{cluster_place.admin_port}/metrics" in output
    assert f"http://127.0.0.1:{cluster_place.history_port}/  (Sending History)" in output
    assert f"mailstreams --config {cluster_place.folder / 'mailstreams.toml'} deferrals\n" in output
    assert CLUSTER in output
    assert output.endswith("stopping ...\nstopped\n")


@pytest.mark.parametrize("channel", [os.pipe, os.openpty])
def test_run_leaves_nothing_behind_when_who_reads_its_output_goes_first(
    cluster_place: Place, channel: Callable[[], tuple[int, int]]
) -> None:
    reader, writer = channel()  # as in `make run | tee log`, and on a terminal that is closed
    with start_run(cluster_place, "--broker", CLUSTER, output=writer) as child:
        os.close(writer)
        until(lambda: "watch --from-now" in cluster_place.calls)
        os.close(reader)
        child.send_signal(signal.SIGHUP)

        assert child.wait(timeout=10) == 0
    assert not cluster_place.running


def test_run_leaves_nothing_behind_when_the_disk_is_full(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "mailstreams.toml")
    monkeypatch.setattr(Stack, "start", Mock(side_effect=full))
    monkeypatch.setattr(Stack, "stop", stop := Mock())

    assert run.main(["--data", str(place.folder)]) == 1

    assert "No space left on device: 'mailstreams.toml'" in capsys.readouterr().out
    stop.assert_called_once_with()


def simulations(place: Place) -> list[str]:
    return [call for call in place.calls if call.startswith("simulate")]


def test_an_existing_cluster_has_an_ingress_but_no_simulation_unless_asked(cluster_place: Place) -> None:
    with start_run(cluster_place, "--broker", CLUSTER) as child:
        until(lambda: "watch --from-now" in cluster_place.calls)
        time.sleep(run._BEFORE_DEMO_S + 1)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=10)
    assert "ingress" in cluster_place.calls
    assert not simulations(cluster_place)
    assert not [name for name in cluster_place.settings_of("ingress") if "__ACCOUNTS__DEMO" in name]

    with start_run(cluster_place, "--broker", CLUSTER, "--demo") as child:
        until(lambda: simulations(cluster_place))
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=10)
    assert f"--url http://127.0.0.1:{cluster_place.ingress_port} --account demo " in simulations(cluster_place)[0]
    assert "ended" not in output
    assert not cluster_place.running


def test_each_start_simulates_another_world(cluster_place: Place) -> None:
    for number in (1, 2):
        with start_run(cluster_place, "--broker", CLUSTER, "--demo") as child:
            until(lambda: len(simulations(cluster_place)) == number)  # noqa: B023 - it is used in this turn only
            child.send_signal(signal.SIGINT)
            child.communicate(timeout=10)

    first, second = (call.partition("--seed ")[2] for call in simulations(cluster_place))
    assert first != second


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        ("simulation ends", "the simulated providers ended (exit code 1): mailstreams: no certificate"),
        ("simulation refused", "the ingress refuses simulated webhooks; see "),
    ],
)
def test_a_simulation_that_fails_is_told_once_and_the_rest_goes_on(cluster_place: Place, fake: str, said: str) -> None:
    with start_run(cluster_place, "--broker", CLUSTER, "--demo", fake=fake) as child:
        until(lambda: simulations(cluster_place))
        time.sleep(1)
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=10)

    assert child.returncode == 0
    assert output.count(said) == 1


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
        watching = [processes.read(cluster_place.folder / f"{name}.pid") for name in ("prometheus", "alertmanager")]
        child.kill()  # nobody can clean up after that
    # Prometheus and Alertmanager end by themselves, mostly: nobody reads any more what they write.
    assert len(left) == len(["worker", "ingress", "history", "watch"]) + (0 if watchers.missing() else 2)
    left = [process for process in left if process not in watching]
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
