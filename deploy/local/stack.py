"""Worker and ingress on a cluster, as an operator runs them: topics, both supervised, and an orderly stop.

Everything is done by the public command line, in separate processes. ``stop`` ends everything that is started here,
last first, and nothing else: see ``processes``.
"""

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from deploy.local import LocalError, demo, ports, processes
from deploy.local.broker import Broker
from deploy.local.supervisor import Supervisor
from deploy.local.watchers import Watchers

__all__ = [
    "COMMAND",
    "HISTORY_ADMIN_PORT",
    "HISTORY_PORT",
    "INGRESS_ADMIN_PORT",
    "INGRESS_PORT",
    "WEB_PORT",
    "Edge",
    "Pages",
    "Stack",
    "environment",
    "interrupts",
    "say",
    "toml",
    "variables",
]

COMMAND = (sys.executable, "-m", "streams")
WEB_PORT = 19100
"""The default of the package's own setting ``web.port``."""
INGRESS_PORT = 19101
"""The default of ``ingress.port``."""
INGRESS_ADMIN_PORT = 19102
"""The default of ``ingress.admin_port``."""
HISTORY_PORT = 19103
"""The default of ``history.port``."""
HISTORY_ADMIN_PORT = 19104
"""The default of ``history.admin_port``."""

_POLL_S = 0.1
_READY_S = 90.0
_RESTORING_TOLD_S = 10.0
_RESTORING = "stores are being restored"
"""A line of ``/readyz`` of a worker that reads what its stores lack, for minutes after a loss; it ends when it does not get on."""
_STOPPED = re.compile(r"\S+/\d+ stopped: .*")
"""A line of ``/readyz`` about a partition that waits for a person: the process does all else, and no wait makes it ready."""
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STDERR = 2
_TLS = ("tls_certfile", "tls_keyfile")
"""Of the section ``ingress``."""
_LONG_LOG = 20 << 20
"""Bytes; a log that an earlier run left longer than that is put aside, in place of the one that was put aside before."""
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment is none for us


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The ingress of a stack."""

    port: int = INGRESS_PORT
    """Where it takes webhooks."""
    admin_port: int = INGRESS_ADMIN_PORT
    """Of its endpoints for operators."""
    simulated: bool = False
    """Whether it accepts the webhooks of ``mailstreams simulate``, for the account ``demo``."""
    tls: bool = False
    """Whether it speaks TLS, as the user's own settings may say; known once the stack starts."""

    @property
    def url(self) -> str:
        """Where it takes webhooks."""
        return f"http{'s' if self.tls else ''}://{ports.HOST}:{self.port}"

    @property
    def admin(self) -> str:
        """Where its endpoints for operators are."""
        return f"http://{ports.HOST}:{self.admin_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The Sending History of a stack."""

    port: int = HISTORY_PORT
    """Where its pages are."""
    admin_port: int = HISTORY_ADMIN_PORT
    """Of its endpoints for operators."""

    @property
    def url(self) -> str:
        """Where its pages are."""
        return f"http://{ports.HOST}:{self.port}"

    @property
    def admin(self) -> str:
        """Where its endpoints for operators are."""
        return f"http://{ports.HOST}:{self.admin_port}"


class Stack:
    """Our own broker or an existing cluster, its topics, one worker; optionally an ingress, pages and watchers.

    Args:
        folder: Where all of it keeps its files; one stack at a time uses it.
        cluster: Our broker, or the address of a cluster that exists.
        web_port: Of the worker's endpoints.
        edge: The ingress; None: there is none.
        pages: The Sending History; None: there is none.
        watchers: Prometheus and Alertmanager; None: they are not started. If they cannot run, that is printed, and
            everything else continues.
        env: The environment of the command line, besides the variables that this class sets.
        say: Called with each line on what happens.
        command: The command line's program.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cluster: Broker | str,
        web_port: int,
        edge: Edge | None = None,
        pages: Pages | None = None,
        watchers: Watchers | None = None,
        env: Mapping[str, str],
        say: Callable[[str], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.folder = folder
        self.cluster = cluster
        self.web = f"http://{ports.HOST}:{web_port}"
        self.edge = edge
        self.pages = pages
        self.watchers = watchers
        self.worker_log = folder / "worker.log"
        self.ingress_log = folder / "ingress.log"
        self.history_log = folder / "history.log"
        self.secrets = folder / "simulate"
        """The secrets of the simulated providers."""
        self.settings = folder / "mailstreams.toml"
        """The settings that all processes share, also for commands in another terminal; written by ``start``."""
        self._web_port = web_port
        self._env = dict(env)
        self._say = say
        self._command = command
        self._owned = contextlib.ExitStack()
        self._locked = False
        """Whether the folder is ours; if not, so is nothing that runs on it."""
        self._children: list[processes.Process] = []
        self._services: list[_Service] = []

    @property
    def bootstrap(self) -> str:
        """The address of the cluster."""
        return self.cluster if isinstance(self.cluster, str) else self.cluster.bootstrap

    def start(self) -> None:
        """Start what is missing, and wait until all of it is ready.

        Raises:
            LocalError: something on this machine prevents it.
        """
        self._lock()
        self._end_leftovers()
        ports.check(self._web_port, "WEB_PORT")
        if self.edge:
            ports.check(self.edge.port, "INGRESS_PORT")
            ports.check(self.edge.admin_port, "INGRESS_ADMIN_PORT")
        if self.pages:
            ports.check(self.pages.port, "HISTORY_PORT")
            ports.check(self.pages.admin_port, "HISTORY_ADMIN_PORT")
        if self.watchers:
            ports.check(self.watchers.prometheus_port, "PROMETHEUS_PORT")
            ports.check(self.watchers.alertmanager_port, "ALERTMANAGER_PORT")
        if isinstance(self.cluster, Broker):
            self.cluster.start()
        self._write_settings()
        self._env |= {
            "MAILSTREAMS_CONFIG": str(self.settings.absolute()),
            "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "MAILSTREAMS_WEB__HOST": ports.HOST,
            "MAILSTREAMS_WEB__PORT": str(self._web_port),
            "MAILSTREAMS_WORKER__DATADIR": str(self.folder / "store"),
        }
        self.call("topics", "create")
        self._serve("worker", self.web, self.worker_log, self._env)
        if self.edge:
            self._serve("ingress", self.edge.admin, self.ingress_log, self._env | self._ingress_settings(self.edge))
        if self.pages:
            self._serve("history", self.pages.admin, self.history_log, self._history_settings(self.pages))
        for service in self._services:
            self._wait_until_ready(service)
        if self.watchers:
            self._watch(self.watchers)

    def check(self) -> None:
        """Make sure that everything that was started still runs.

        Raises:
            LocalError: worker or ingress was given up, or the broker is gone; the text holds the last lines.
        """
        for service in self._services:
            service.check(self._say)
        if isinstance(self.cluster, Broker) and self.cluster.process is None:
            message = f"the broker ended; see {self.cluster.log}"
            raise LocalError(message)

    def call(self, *arguments: str | Path) -> str:
        """Run the command line to its end and return what it printed.

        Raises:
            LocalError: it failed; the text is its output.
        """
        child, process = self._spawn(arguments, output=subprocess.PIPE, errors=subprocess.PIPE)
        try:
            output, errors = child.communicate()
        finally:
            process.kill()  # nothing if it has ended
            self._forget(process)
        if child.returncode:
            # `topics create` says what does not fit as its result, and only how much of it as an error
            said = [text for part in (output, errors) if (text := part.decode(errors="replace").strip())]
            reason = "\n".join(said) or f"exit code {child.returncode}"
            message = f"`mailstreams {shlex.join(map(str, arguments))}` failed: {reason}"
            raise LocalError(message)
        return output.decode()

    def spawn(
        self, *arguments: str | Path, output: IO[bytes] | int | None = None, errors: int = STDERR
    ) -> subprocess.Popen[bytes]:
        """Start the command line and leave it running until ``stop``.

        Args:
            arguments: The command and its options.
            output: Where its output goes, as for ``subprocess``; None: where ours goes.
            errors: Where its errors go, likewise; by default where ours go.
        """
        child, _ = self._spawn(arguments, output=output, errors=errors)
        return child

    def stop(self) -> None:
        """Stop everything that was started, in order: clients before servers, the broker last."""
        children = list(self._children)
        for process in children:
            process.signal(signal.SIGTERM)  # all at once, so that they end in parallel
        for process in children:
            process.end(grace_s=5)
            self._forget(process)
        for service in self._services:
            service.supervisor.stop()
        self._join()
        if isinstance(self.cluster, Broker) and self._locked:
            self.cluster.stop()
        self._release()

    def kill(self) -> None:
        """Stop everything at once, without waiting for an orderly end."""
        for process in list(self._children):
            process.kill()
            self._forget(process)
        for service in self._services:
            service.supervisor.kill()
        self._join()
        if isinstance(self.cluster, Broker) and self._locked:
            self.cluster.kill()
        self._release()

    def end(self) -> None:
        """Stop everything in order, or at once if a person is in a hurry (a second Ctrl-C).

        That takes about a second, and a third Ctrl-C would leave processes behind.
        """
        try:
            self.stop()
        except KeyboardInterrupt:
            for number in INTERRUPTS:
                signal.signal(number, signal.SIG_IGN)
            self.kill()

    def _watch(self, watchers: Watchers) -> None:
        """Start Prometheus and Alertmanager; they are supervised, and nothing waits for them."""
        folder = self.folder / "watchers"
        targets = {"worker": [self.web.removeprefix("http://")]}
        if self.edge:
            targets["ingress"] = [self.edge.admin.removeprefix("http://")]
        if self.pages:
            targets["web"] = [self.pages.admin.removeprefix("http://")]
        watchers.configure(folder, targets=targets)
        for name, command in watchers.commands(folder).items():
            url = watchers.prometheus if name == "prometheus" else watchers.alertmanager
            self._serve(name, url, self.folder / f"{name}.log", self._env, command=command)

    def _serve(
        self, name: str, url: str, log: Path, env: Mapping[str, str], *, command: Sequence[str] | None = None
    ) -> None:
        """Start a command of the package, or another one that nothing depends on, under a supervisor."""
        if log.exists() and log.stat().st_size > _LONG_LOG:
            log.replace(log.with_name(f"{log.name}.1"))
        supervisor = Supervisor(
            command or [*self._command, name],
            log=self._owned.enter_context(log.open("ab")),
            env=env,
            pid_file=self.folder / f"{name}.pid",
            say=lambda line: self._say(f"{name} {line}"),
        )
        thread = threading.Thread(target=supervisor.run, name=f"supervisor of {name}", daemon=True)
        self._services.append(
            _Service(name=name, url=url, log=log, supervisor=supervisor, thread=thread, needed=command is None)
        )
        thread.start()

    def _write_settings(self) -> None:
        """Write the file: the user's own file overrides the demo's policy, and where broker, ingress and database are overrides both.

        Raises:
            LocalError: the user's own file cannot be read.
        """
        own: Mapping[str, Any] = {}
        named = self._env.get("MAILSTREAMS_CONFIG")
        path = Path(named or "mailstreams.toml")
        if named or os.path.lexists(path):  # a folder or a link to nothing is refused, as by the commands
            try:
                own = tomllib.loads(path.read_text(encoding="utf-8-sig"))
            except OSError as error:
                message = f"{path}: {error.strerror or error}"
                raise LocalError(message) from None
            except ValueError as error:  # not TOML, or not even UTF-8
                message = f"{path}: not TOML: {error}"
                raise LocalError(message) from None
        settings = _merged(_merged(self._demo_settings(), own), self._addresses())
        if self.edge:
            self.edge = replace(self.edge, tls=self._speaks_tls(self.edge, settings["ingress"]))
        lines = ["# Written at each start: what all processes of this run have in common.", *toml(settings)]
        self.settings.unlink(missing_ok=True)
        self.settings.touch(mode=0o600)  # the user's own file may hold secrets, and a database's URL its password
        self.settings.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _speaks_tls(self, edge: Edge, settings: dict[str, Any]) -> bool:
        """Return whether the ingress speaks TLS. Where providers are simulated it does not: these settings are taken out.

        The certificate is for another name than this machine's, and mostly signed by nobody whom the simulation trusts.
        """
        variables = {name: f"MAILSTREAMS_INGRESS__{name.upper()}" for name in _TLS}
        wanted = any(name in settings or variables[name] in self._env for name in _TLS)
        if not (wanted and edge.simulated):
            return wanted
        for name in _TLS:
            settings.pop(name, None)
            self._env.pop(variables[name], None)
        self._say("the ingress speaks no TLS: the simulated providers do not trust ingress.tls_certfile")
        return False

    def _addresses(self) -> dict[str, Any]:
        """Return where broker, ingress and database are, for commands in another terminal.

        Those that send webhooks look for the ingress, and `history rebuild` empties the database that it finds.
        """
        addresses: dict[str, Any] = {"kafka": {"bootstrap_servers": self.bootstrap}}
        if self.edge:
            addresses["ingress"] = {"host": ports.HOST, "port": self.edge.port}
        if self.pages:
            own = f"sqlite:///{(self.folder / 'history' / 'history.db').absolute()}"
            addresses["history"] = {"database_url": self._env.get("MAILSTREAMS_HISTORY__DATABASE_URL", own)}
        return addresses

    def _demo_settings(self) -> dict[str, Any]:
        """Return the policy of the simulated account, with short times, so that alerts can be seen in a demo."""
        if not (self.edge and self.edge.simulated):
            return {}
        return {"accounts": {demo.ACCOUNT: {"deferrals": dict.fromkeys(demo.PROVIDERS, demo.DEFERRALS)}}}

    def _history_settings(self, pages: Pages) -> dict[str, str]:
        """Return the environment of the history; ours may override all but the ports, of which we wait for one and print the other."""
        return {
            "MAILSTREAMS_HISTORY__HOST": ports.HOST,
            "MAILSTREAMS_HISTORY__ADMIN_HOST": ports.HOST,
            **self._env,
            "MAILSTREAMS_HISTORY__PORT": str(pages.port),
            "MAILSTREAMS_HISTORY__ADMIN_PORT": str(pages.admin_port),
        }

    def _ingress_settings(self, edge: Edge) -> dict[str, str]:
        own = {
            "MAILSTREAMS_INGRESS__HOST": ports.HOST,
            "MAILSTREAMS_INGRESS__PORT": str(edge.port),
            "MAILSTREAMS_INGRESS__ADMIN_HOST": ports.HOST,
            "MAILSTREAMS_INGRESS__ADMIN_PORT": str(edge.admin_port),
        }
        if not edge.simulated:
            return own
        # As variables, not in the file: all processes read the file, and these are for the ingress only.
        shown = self.call("simulate", "--show-settings", "--account", demo.ACCOUNT, "--secrets", self.secrets)
        return own | variables(tomllib.loads(shown))

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
        for service in self._services:
            service.thread.join()

    def _lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._owned.enter_context((self.folder / "lock").open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it however we end
        except OSError:
            message = f"it runs already on {self.folder}: stop that one first"
            raise LocalError(message) from None
        self._locked = True

    def _release(self) -> None:
        self._locked = False
        self._owned.close()

    def _end_leftovers(self) -> None:
        """End processes that a killed run left behind: we hold the lock, so nothing supervises them."""
        for pid_file in sorted(self.folder.glob("*.pid")):
            if left := processes.read(pid_file):
                self._say(f"ending process {left.pid}, which an earlier run left behind")
                left.end(grace_s=15)
            pid_file.unlink(missing_ok=True)
        if isinstance(self.cluster, Broker) and (left := self.cluster.process):
            self._say(f"ending the broker, process {left.pid}, which an earlier run left behind")
            self.cluster.stop()

    def _wait_until_ready(self, service: "_Service") -> None:
        why, begun = "no answer", time.monotonic()
        deadline = begun + _READY_S
        told = False
        while time.monotonic() < deadline:
            self.check()
            try:
                with _DIRECTLY.open(f"{service.url}/readyz", timeout=2):
                    return
            except urllib.error.HTTPError as error:
                why = error.read().decode(errors="replace").strip() or str(error)
                if all(map(_STOPPED.fullmatch, why.splitlines())):
                    lines = [f"the {service.name} runs; let go on, once the cause is mended, by `mailstreams resume`:"]
                    self._say("\n  ".join(["", *lines, *why.splitlines(), ""]))
                    return
                if _RESTORING in why.splitlines():
                    deadline = time.monotonic() + _READY_S
                    if not told and time.monotonic() > begun + _RESTORING_TOLD_S:
                        self._say(f"the {service.name} restores its stores from the topics; see {service.log}")
                        told = True
            except OSError as error:
                why = str(error)
            time.sleep(_POLL_S)
        message = f"the {service.name} was not ready after {_READY_S:.0f} s ({why}); see {service.log}"
        raise LocalError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """A process of the stack that is restarted when it crashes."""

    name: str
    url: str
    """The URL of its ``/readyz``, without the path."""
    log: Path
    supervisor: Supervisor
    thread: threading.Thread
    needed: bool
    """Whether the stack cannot run without it."""
    told: threading.Event = field(default_factory=threading.Event)
    """Set when its end was printed."""

    def check(self, say: Callable[[str], None]) -> None:
        """Make sure that it runs or is being restarted; if it is not needed, only print once that it does not run.

        Raises:
            LocalError: it is needed, and does not run any more.
        """
        if self.thread.is_alive() or self.told.is_set():
            return
        self.told.set()
        how = "was given up after its crashes" if self.supervisor.gave_up else "ended by itself"
        lines = [f"the {self.name} {how}; see {self.log}", *self.supervisor.last_lines]
        if self.needed:
            raise LocalError("\n  ".join(lines))
        say("\n".join(["", *lines, ""]))


def variables(settings: Mapping[str, Any], *above: str) -> dict[str, str]:
    """Return settings, nested as in the file, as the equivalent environment variables.

    Args:
        settings: The contents of a section, or all of them.
        above: The names of the enclosing sections.
    """
    found: dict[str, str] = {}
    for name, value in settings.items():
        path = (*above, name)
        if isinstance(value, Mapping):
            found |= variables(value, *path)
        else:
            text = ",".join(value) if isinstance(value, list) else str(value)
            found[f"MAILSTREAMS_{'__'.join(path).upper()}"] = text
    return found


def toml(settings: Mapping[str, Any], *above: str) -> Iterator[str]:
    """Yield settings, nested as in the file, as lines of TOML.

    Args:
        settings: The contents of a section, or all of them.
        above: The names of the enclosing sections, as they are written.
    """
    for name, value in settings.items():
        path = (*above, name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False))
        if isinstance(value, Mapping) and value:
            yield from toml(value, *path)
        else:  # JSON's strings, numbers and lists are also valid TOML; no setting has another type
            yield f"{'.'.join(path)} = {json.dumps(value, ensure_ascii=False, default=str)}"


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def environment(*, with_settings: bool) -> dict[str, str]:
    """Return our environment for the command line.

    Args:
        with_settings: Whether to use the settings of this shell and folder (``MAILSTREAMS_...``,
            ``mailstreams.toml``), or the defaults.
    """
    if with_settings:
        return dict(os.environ)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAILSTREAMS_")}
    return env | {"MAILSTREAMS_CONFIG": os.devnull}


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (the terminal was closed) do what Ctrl-C does.

    A terminal that is closed says so twice, once by its shell; the second SIGHUP is no person in a hurry.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in INTERRUPTS]
    try:
        yield
    finally:
        for number, handler in zip(INTERRUPTS, before, strict=True):
            signal.signal(number, handler)


def say(line: str) -> None:
    """Print a line for a person, or nothing once nobody listens: the terminal or the program behind a pipe is gone."""
    try:
        print(line, flush=True)
    except BlockingIOError:  # it listens, but not now: another program made it non-blocking
        return
    except OSError:  # what is buffered is tried again at our end, which would fail again
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
