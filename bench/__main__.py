"""``make bench``: how fast it is on this machine, compared with others, with exactly-once and checked outputs.

One run uses one broker; every contestant is a separate process; figures are medians of
interleaved rounds. ``figure=value`` lines at the end are for programs. ``docs/performance.md``
says what each figure means.
"""

import argparse
import asyncio
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from bench import pages, suite
from bench.figures import Figures, table
from bench.ground import Ground
from bench.racing import QUIX_PYTHON, ContestantError
from deploy.local import LocalError
from deploy.local.broker import Broker

PARTITIONS = 4
BROKER_HEAP_MIB = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen parts, and print the figures."""
    chosen = _parser().parse_args(arguments)
    parts = _parts(chosen)
    if not parts:
        return _write_docs()
    if not QUIX_PYTHON.exists() and {"thin", "product"} & set(parts):
        print(f"Quix Streams is not installed in {QUIX_PYTHON.parent.parent}: run make bench", file=sys.stderr)
        return 2
    plan = suite.FAST if chosen.fast else suite.FULL
    plan = replace(plan, streams_threads=chosen.streams_threads)
    if chosen.rounds:
        plan = replace(plan, rounds=chosen.rounds)
    if chosen.events:
        plan = replace(plan, events=chosen.events)
    if chosen.compression:
        plan = replace(plan, compression=chosen.compression)
    if chosen.deliveries:
        plan = replace(plan, deliveries=chosen.deliveries)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each partition whose leader comes a moment late
    try:
        failed = uvloop.run(_measure(parts, plan, fast=chosen.fast))
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        kept = "" if chosen.fast else f"; parts that were done are kept in {pages.KEPT}"
        print(f"stopped; the broker and the contestants have ended{kept}", file=sys.stderr)
        return 128 + (signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return _write_docs() if chosen.write_docs else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = "\n".join(f"  {name:14} {_summary(name)}" for name in suite.PARTS)
    parser.add_argument("--fast", action="store_true", help="less, coarser, within 3 minutes")
    parser.add_argument(
        "--only", metavar="PART,...", help=f"instead of {', '.join(suite.ALWAYS)}; there are\n{parts}", default=""
    )
    parser.add_argument("--ingress", action="store_true", help="measure the ingress, with --fast too")
    parser.add_argument("--history", action="store_true", help="measure the Sending History, with --fast too")
    parser.add_argument("--scale", action="store_true", help="measure several workers and many partitions too")
    parser.add_argument("--long", action="store_true", help="keep ten million deliveries too")
    parser.add_argument("--rounds", type=int, metavar="N", help="3, or 1 with --fast")
    parser.add_argument("--events", type=int, metavar="N", help="300,000, or 60,000 with --fast")
    parser.add_argument("--deliveries", type=int, metavar="N", help="kept for the restart: 1,000,000, or 60,000")
    parser.add_argument("--streams-threads", type=int, default=1, metavar="N", help="of Kafka Streams (its default: 1)")
    parser.add_argument("--compression", metavar="NAME", help="of everybody's records; the product's default")
    parser.add_argument(
        "--write-docs", action="store_true", help="put the last full figures into docs/; alone it measures nothing"
    )
    return parser


def _summary(part: str) -> str:
    return (suite.PARTS[part].__doc__ or "").splitlines()[0]


def _parts(chosen: argparse.Namespace) -> list[str]:
    """Return what to measure, in the order of the suite."""
    extra = {name for name in ("ingress", "history", "scale", "long") if getattr(chosen, name)}
    named = {name for name in chosen.only.split(",") if name}
    unknown = named - suite.PARTS.keys()
    if unknown:
        message = f"no part {', '.join(sorted(unknown))}; there are {', '.join(suite.PARTS)}"
        raise SystemExit(message)
    if not named and not (chosen.write_docs and not extra):
        named = set(suite.QUICK if chosen.fast else suite.ALWAYS)
    return [name for name in suite.PARTS if name in named | extra]


async def _measure(parts: Sequence[str], plan: suite.Plan, *, fast: bool) -> list[str]:
    """Measure these parts, print their figures, and return the failed ones, whose figures are not kept."""
    began = time.monotonic()
    _end_in_order()
    machine = pages.machine()
    print(f"{machine}; load average {pages.load():.1f}", flush=True)
    if pages.busy():
        print("this machine is busy with something else: read the figures as ratios, if at all", flush=True)

    def tell(text: str) -> None:
        print(f"  {time.monotonic() - began:5.0f} s  {text}", flush=True)

    figures = Figures()
    failed: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="mailstreams-bench-") as folder,
        Broker(Path(folder) / "kafka", heap_mib=BROKER_HEAP_MIB) as broker,
    ):
        ground = Ground(broker, Path(folder), PARTITIONS, plan.compression)
        for name in parts:
            print(f"{name}: {_summary(name)}", flush=True)
            load, before = pages.load(), set(figures.rounds)
            try:
                await suite.PARTS[name](suite.Run(ground, plan, figures, tell))
            except (ContestantError, ValueError) as error:  # the others are measured all the same
                print(f"error: {name}: {error}", file=sys.stderr, flush=True)
                failed.append(name)
                continue
            new = [each for each in figures.all() if each.name not in before]
            pages.Measured.now(name, machine, load, fast=fast, events=plan.events, figures=new).keep()
    print()
    for row in table(figures.all()):
        print(row)
    print()
    for figure in figures.all():
        print(figure.line)
    return failed


def _end_in_order() -> None:
    """Handle SIGTERM like Ctrl-C, and Ctrl-C even where a background shell ignores it, so that our processes end."""
    task = asyncio.current_task()
    assert task is not None  # it is asked in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _write_docs() -> int:
    written = pages.write()
    print("\n".join(f"wrote {path}" for path in written) or "no full run is kept in var/bench: nothing written")
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
