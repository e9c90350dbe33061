"""``make run``: the whole system on this machine, until Ctrl-C.

A broker of our own with its data in ``var/run`` (or an existing cluster, ``--broker``), the topics, a worker, an
ingress and the Sending History under supervisors, Prometheus and Alertmanager where they are installed, simulated providers that send it
webhooks, and in the terminal the statuses and alerts as they come.
"""

import argparse
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.local import ROOT, LocalError, demo, jars, watchers
from deploy.local.broker import CONTROLLER_PORT, PORT, Broker
from deploy.local.stack import (
    COMMAND,
    HISTORY_ADMIN_PORT,
    HISTORY_PORT,
    INGRESS_ADMIN_PORT,
    INGRESS_PORT,
    WEB_PORT,
    Edge,
    Pages,
    Stack,
    environment,
    interrupts,
    say,
)
from deploy.local.watchers import ALERTMANAGER_PORT, PROMETHEUS_PORT, Watchers

__all__ = ["main"]

_POLL_S = 0.1
_BEFORE_DEMO_S = 2.0  # the live view shows only changes after it has found the broker
_RATE = "0.7"  # messages a second, about two statuses: slow enough to read
_SEEDS = 1 << 31
_REFUSED = re.compile(rb"[0-9,]+ refused")


def main(arguments: Sequence[str] | None = None, *, command: Sequence[str] = COMMAND) -> int:
    """Run the system until it is interrupted.

    Args:
        arguments: Of the command line.
        command: The program of the package's command line.

    Returns:
        0 after Ctrl-C, SIGTERM or SIGHUP; 1 when something failed, with the reason printed.
    """
    options = _options(arguments)
    folder = options.data / _file_name(options.broker) if options.broker else options.data
    cluster = options.broker or Broker(
        folder / "broker", port=options.kafka_port, controller_port=options.controller_port, version=options.kafka
    )
    with_demo = options.demo or not options.broker
    stack = Stack(
        folder,
        cluster=cluster,
        web_port=options.web_port,
        edge=Edge(port=options.ingress_port, admin_port=options.ingress_admin_port, simulated=with_demo),
        pages=Pages(port=options.history_port, admin_port=options.history_admin_port),
        watchers=_watchers(options, with_demo=with_demo),
        env=environment(with_settings=True),
        say=say,
        command=command,
    )
    code = 0
    with interrupts():
        try:
            stack.start()
            _introduce(stack)
            _live(stack, with_demo=with_demo)
        except KeyboardInterrupt:
            say("stopping ...")
        except (LocalError, OSError) as error:  # OSError: such as a full disk
            say(f"error: {error}")
            code = 1
        finally:
            stack.end()
    if code == 0:
        say("stopped")
    return code


def _watchers(options: argparse.Namespace, *, with_demo: bool) -> Watchers | None:
    """Return Prometheus and Alertmanager where they are installed, with the times of a demonstration."""
    if watchers.missing():
        return None
    return Watchers(
        prometheus_port=options.prometheus_port,
        alertmanager_port=options.alertmanager_port,
        pace=watchers.DEMO if with_demo else None,
    )


def _live(stack: Stack, *, with_demo: bool) -> None:
    """Show statuses and alerts as they come, and simulate the providers; ends only by KeyboardInterrupt or LocalError."""
    watch = stack.spawn("watch", "--from-now")
    begin_at = time.monotonic() + _BEFORE_DEMO_S
    simulation = None
    while True:
        stack.check()
        _check(watch)
        if with_demo and simulation is None and time.monotonic() >= begin_at:
            simulation = _Simulation(stack, say)
        if simulation:
            simulation.look()
        time.sleep(_POLL_S)


class _Simulation:
    """The simulated providers, with a new seed at each start, so that each start shows new messages.

    The system does not depend on them: if they fail, that is printed once, and everything else continues.
    """

    def __init__(self, stack: Stack, say: Callable[[str], None]) -> None:
        assert stack.edge is not None, "it sends to the ingress"
        self.log = simulation_log(stack)
        self._say = say
        self._told_refused = self._told_end = False
        self._read_to = 0
        with self.log.open("wb") as log:  # a new log for each run; the child keeps it open itself
            self._child = stack.spawn(
                *("simulate", "--url", stack.edge.url, "--account", demo.ACCOUNT, "--secrets", stack.secrets),
                *("--profile", "demo", "--rate", _RATE, "--seed", str(secrets.randbelow(_SEEDS))),
                output=log,
                errors=subprocess.STDOUT,
            )

    def look(self) -> None:
        """Print what went wrong since the last look."""
        if self._told_end:
            return
        code = self._child.poll()
        if code is not None:
            self._told_end = True
            last = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
            self._say(f"\nthe simulated providers ended (exit code {code}): {last}\n  see {_shown(self.log)}\n")
        elif not self._told_refused and self._refused():
            self._told_refused = True
            self._say(f"\nthe ingress refuses simulated webhooks; see {_shown(self.log)} and ingress.log beside it\n")

    def _refused(self) -> bool:
        """Whether a line that was written since the last look says that something was refused."""
        with self.log.open("rb") as log:
            log.seek(self._read_to)
            new = log.read().rpartition(b"\n")[0]  # the last line may be half of one
        self._read_to += len(new)
        return _REFUSED.search(new) is not None


def simulation_log(stack: Stack) -> Path:
    """Return the path of the simulated providers' log."""
    return stack.folder / "simulate.log"


def _check(watch: subprocess.Popen[bytes]) -> None:
    if watch.poll() is not None:
        message = f"`mailstreams watch` ended (exit code {watch.returncode})"
        raise LocalError(message)


def _introduce(stack: Stack) -> None:
    assert stack.edge is not None, "it is started by main"
    assert stack.pages is not None, "as the edge"
    lines = {
        "look here": f"{stack.pages.url}/  (Sending History)",
        "webhooks": f"{stack.edge.url}/webhooks/PROVIDER/ACCOUNT",
        "broker": stack.bootstrap,
        "worker": f"{stack.web}/metrics /livez /readyz",
        "ingress": f"{stack.edge.admin}/metrics /livez /readyz",
        "alerts": f"not watched: apt-get install {watchers.PACKAGES}",
        "history": f"{stack.pages.admin}/metrics /livez /readyz",
        "logs": f"{_shown(stack.worker_log)}, {stack.ingress_log.name}, {stack.history_log.name}",
        "ask it": f"{_shown(Path(sys.executable).with_name('mailstreams'))} --config {_shown(stack.settings)} deferrals",
    }
    if stack.watchers:
        lines["alerts"] = f"{stack.watchers.prometheus}/alerts, {stack.watchers.alertmanager}"
    if stack.edge.simulated:
        lines["logs"] += f", {simulation_log(stack).name}"
        lines["account"] = f"{demo.ACCOUNT}: simulated providers, with the secrets in {_shown(stack.secrets)}"
    if isinstance(stack.cluster, Broker):
        lines["broker's log"] = _shown(stack.cluster.log)
    say("\nmailstreams is running; Ctrl-C stops it.\n")
    for name, value in lines.items():
        say(f"  {name:<13} {value}")
    say("\nStatuses and deferral alerts as they come:\n")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _file_name(address: str) -> str:
    """Each cluster has its own folder: a local store belongs to the changelog from which it was built."""
    return "at-" + re.sub(r"[^A-Za-z0-9.-]+", "-", address)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.run", description="Run the system on this machine.")
    parser.add_argument("--kafka-port", type=int, default=PORT, help="the broker's (default: %(default)s)")
    parser.add_argument(
        "--controller-port", type=int, default=CONTROLLER_PORT, help="the broker's second one (default: %(default)s)"
    )
    parser.add_argument("--web-port", type=int, default=WEB_PORT, help="of the worker (default: %(default)s)")
    parser.add_argument("--ingress-port", type=int, default=INGRESS_PORT, help="for webhooks (default: %(default)s)")
    parser.add_argument(
        "--ingress-admin-port", type=int, default=INGRESS_ADMIN_PORT, help="of its /metrics (default: %(default)s)"
    )
    parser.add_argument("--history-port", type=int, default=HISTORY_PORT, help="of the pages (default: %(default)s)")
    parser.add_argument(
        "--history-admin-port", type=int, default=HISTORY_ADMIN_PORT, help="of its /metrics (default: %(default)s)"
    )
    parser.add_argument("--prometheus-port", type=int, default=PROMETHEUS_PORT, help="default: %(default)s")
    parser.add_argument("--alertmanager-port", type=int, default=ALERTMANAGER_PORT, help="default: %(default)s")
    parser.add_argument("--broker", metavar="HOST:PORT", help="use this cluster, start none, simulate nothing")
    parser.add_argument("--demo", action="store_true", help="simulate providers with --broker too")
    parser.add_argument("--kafka", default=jars.asked_for(), metavar="VERSION", help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=ROOT / "var" / "run", help="its folder (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
