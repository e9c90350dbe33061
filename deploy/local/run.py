"""``make run``: the whole system on this machine, alive until Ctrl-C.

A broker of our own with its data in ``var/run`` (or an existing cluster, ``--broker``), the topics, a worker under
the supervisor, demo payloads that trickle in, and in the terminal the statuses as they change.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.local import ROOT, LocalError, demo, jars
from deploy.local.broker import CONTROLLER_PORT, PORT, Broker
from deploy.local.stack import COMMAND, WEB_PORT, Stack, environment, interrupts

__all__ = ["main"]

_POLL_S = 0.1
_BEFORE_DEMO_S = 2.0  # the live view begins with what comes after it has found the broker
_BETWEEN_PAYLOADS_S = 1.5  # so that one can watch


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
    env = environment(with_settings=True)
    stack = Stack(folder, cluster=cluster, web_port=options.web_port, env=env, say=_say, command=command)
    code = 0
    with interrupts():
        try:
            stack.start()
            _introduce(stack)
            _live(stack, with_demo=options.demo or not options.broker)
        except KeyboardInterrupt:
            _say("stopping ...")
        except LocalError as error:
            _say(f"error: {error}")
            code = 1
        try:
            stack.stop()
        except KeyboardInterrupt:  # asked twice
            stack.kill()
    if code == 0:
        _say("stopped")
    return code


def _live(stack: Stack, *, with_demo: bool) -> None:
    """Show statuses as they change, and feed the demo meanwhile; ends by KeyboardInterrupt or LocalError only."""
    watch = stack.spawn("watch", "--from-now")
    payloads = iter(demo.payloads() if with_demo else [])
    next_at = time.monotonic() + _BEFORE_DEMO_S
    while True:
        stack.check()
        _check(watch)
        if time.monotonic() >= next_at:
            payload = next(payloads, None)
            if payload is None:
                next_at = float("inf")
                if with_demo:
                    _say("\nThat was the demo; the next start feeds new messages.\n")
            else:
                stack.call("feed", payload.provider, payload.path, "--as-now", "--account", demo.ACCOUNT)
                next_at = time.monotonic() + _BETWEEN_PAYLOADS_S
        time.sleep(_POLL_S)


def _check(watch: subprocess.Popen[bytes]) -> None:
    if watch.poll() is not None:
        message = f"`mailstreams watch` ended (exit code {watch.returncode})"
        raise LocalError(message)


def _introduce(stack: Stack) -> None:
    lines = {
        "broker": stack.bootstrap,
        "metrics": f"{stack.web}/metrics",
        "alive": f"{stack.web}/livez",
        "ready": f"{stack.web}/readyz",
        "worker's log": _shown(stack.worker_log),
    }
    if isinstance(stack.cluster, Broker):
        lines["broker's log"] = _shown(stack.cluster.log)
    _say("\nmailstreams is running; Ctrl-C stops it.\n")
    for name, value in lines.items():
        _say(f"  {name:<13} {value}")
    _say("\nStatuses as they change:\n")


def _say(line: str) -> None:
    print(line, flush=True)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _file_name(address: str) -> str:
    """Each cluster has a folder of its own: a local store belongs to the changelog it was built from."""
    return "at-" + re.sub(r"[^A-Za-z0-9.-]+", "-", address)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.run", description="Run the system on this machine.")
    parser.add_argument("--kafka-port", type=int, default=PORT, help="the broker's (default: %(default)s)")
    parser.add_argument(
        "--controller-port", type=int, default=CONTROLLER_PORT, help="the broker's second one (default: %(default)s)"
    )
    parser.add_argument("--web-port", type=int, default=WEB_PORT, help="of /metrics (default: %(default)s)")
    parser.add_argument("--broker", metavar="HOST:PORT", help="use this cluster, start none, feed nothing")
    parser.add_argument("--demo", action="store_true", help="feed the demo payloads to --broker too")
    parser.add_argument("--kafka", default=jars.KAFKA_VERSION, metavar="VERSION", help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=ROOT / "var" / "run", help="its folder (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
