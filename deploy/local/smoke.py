"""``make smoke``: the whole system on temporary data and free ports, fed once, checked, and removed.

The checks use what any subscriber can use: ``mailstreams watch`` for the statuses, a plain ``read_committed`` consumer
for the rest. The expected results are in ``deploy/demo/expected.json``.
"""

import argparse
import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from deploy.local import LocalError, demo, jars, ports
from deploy.local.broker import Broker
from deploy.local.stack import COMMAND, Stack, environment, interrupts, say

__all__ = ["main"]

EVENTS = "mail.events"
DEAD_LETTERS = "mail.dead-letters"

_Consumer: Any = AIOKafkaConsumer  # annotated in part only

_POLL_S = 0.1
_SETTLE_S = 1.0  # after everything has arrived: more output in this time is a failure


@dataclass(slots=True)
class Outcome:
    """The results."""

    changes: list[dict[str, Any]] = field(default_factory=list)
    """The records of ``mail.status-changed``, in the order in which they were read."""
    events: int = 0
    dead_letters: int = 0

    def statuses(self) -> dict[tuple[str, str], list[str]]:
        """Return the statuses of each delivery in order, by provider and recipient."""
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for change in self.changes:
            found[change["provider"], change["recipient"]].append(change["status"])
        return dict(found)


def main(arguments: Sequence[str] | None = None, *, command: Sequence[str] = COMMAND) -> int:
    """Start, feed, compare, stop.

    Args:
        arguments: Of the command line.
        command: The program of the package's command line.

    Returns:
        0 if the results are exactly as expected; 1 otherwise, with the differences printed; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.local.smoke", description=__doc__)
    parser.add_argument("--kafka", default=jars.asked_for(), metavar="VERSION", help="default: %(default)s")
    parser.add_argument(
        "--timeout",
        type=float,
        default=40,
        metavar="SECONDS",
        help="wait so long for the outcome (default: %(default)g)",
    )
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="mailstreams-smoke-"))
    kafka_port, controller_port, web_port = ports.find(3)
    broker = Broker(folder / "broker", port=kafka_port, controller_port=controller_port, version=options.kafka)
    env = environment(with_settings=False) | {"MAILSTREAMS_TOPICS__PARTITIONS": "4"}
    stack = Stack(folder, cluster=broker, web_port=web_port, env=env, say=say, command=command)
    code = 1
    with interrupts():
        try:
            stack.start()
            say(f"broker {stack.bootstrap}, worker {stack.web}")
            expected = demo.payloads()
            outcome = _observe(stack, expected, options.timeout)
            wrong = differences(expected, outcome)
            counts = f"{outcome.events} events in, {len(outcome.changes)} statuses, {outcome.dead_letters} dead letters"
            say("\n".join([*wrong, f"{counts}, {'NOT ok' if wrong else 'ok'}"]))
            code = 1 if wrong else 0
        except KeyboardInterrupt:
            code = 130
        except (LocalError, OSError) as error:  # OSError: such as a full disk
            say(f"error: {error}")
        finally:
            stack.end()
    if code == 1 and any(folder.rglob("*.log")):
        print(f"the logs are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def differences(expected: Iterable[demo.Payload], outcome: Outcome) -> list[str]:
    """Return a line for each difference between expected and actual results."""
    expected = list(expected)
    wanted = {(p.provider, to): list(statuses) for p in expected for to, statuses in p.statuses.items()}
    found = outcome.statuses()
    lines = [
        f"{provider} {recipient}: expected {_path(wanted.get(key))}, got {_path(found.get(key))}"
        for key in sorted(wanted.keys() | found.keys())
        for provider, recipient in [key]
        if wanted.get(key) != found.get(key)
    ]
    for name, want, got in (
        ("events", sum(payload.events for payload in expected), outcome.events),
        ("dead letters", sum(payload.dead_letters for payload in expected), outcome.dead_letters),
    ):
        if want != got:
            lines.append(f"expected {want} {name}, got {got}")
    return lines


def _observe(stack: Stack, expected: Sequence[demo.Payload], timeout_s: float) -> Outcome:
    """Feed everything, and wait until as many results came as expected, or until the timeout."""
    watch = stack.spawn("watch", "--json", "--no-alerts", "--from-beginning", output=subprocess.PIPE)
    outcome = Outcome()
    threading.Thread(target=_read, args=(watch, outcome.changes), daemon=True).start()
    for provider, group in itertools.groupby(sorted(expected, key=lambda p: p.provider), key=lambda p: p.provider):
        stack.call("feed", provider, *(payload.path for payload in group), "--as-now", "--account", demo.ACCOUNT)

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        stack.check()
        if watch.poll() is not None:
            message = f"`mailstreams watch` ended (exit code {watch.returncode})"
            raise LocalError(message)
        if len(outcome.changes) >= sum(len(s) for payload in expected for s in payload.statuses.values()):
            outcome.events, outcome.dead_letters = asyncio.run(_count(stack.bootstrap))
            if not differences(expected, outcome):
                break
        time.sleep(_POLL_S)
    time.sleep(_SETTLE_S)
    outcome.events, outcome.dead_letters = asyncio.run(_count(stack.bootstrap))
    return outcome


def _read(watch: subprocess.Popen[bytes], changes: list[dict[str, Any]]) -> None:
    assert watch.stdout is not None
    for line in watch.stdout:
        change = json.loads(line)
        changes.append(change)
        before = change.get("previous") or "new"
        say(f"  {change['provider']:<11} {change.get('reference') or '-':<14} {before:>9} -> {change['status']}")


async def _count(bootstrap: str) -> tuple[int, int]:
    """Return how many different events and how many dead letters there are."""
    consumer = _Consumer(
        EVENTS,
        DEAD_LETTERS,
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",  # no group: it reads every partition, and leaves no trace
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        events: set[tuple[bytes | None, str]] = set()
        dead_letters = 0
        # The position, not the last record's offset: transaction markers have offsets too.
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                if partition.topic == EVENTS:
                    events |= {(record.key, json.loads(record.value)["event_id"]) for record in records}
                else:
                    dead_letters += len(records)
        return len(events), dead_letters
    finally:
        await consumer.stop()


def _path(statuses: Sequence[str] | None) -> str:
    return " -> ".join(statuses) if statuses else "nothing"


if __name__ == "__main__":
    sys.exit(main())
