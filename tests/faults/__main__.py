"""``make chaos``: all faults one after the other, a line for each, a table and figures at the end.

python -m tests.faults --quick --only zombie-at-sent --seed 7
"""

import argparse
import asyncio
import logging
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.jars import KAFKA_VERSION
from tests.faults import oracle
from tests.faults.origin import first_line
from tests.faults.scenarios import SCENARIOS, Scenario, play
from tests.faults.world import Outcome

RECOVERY_S = 15
"""95 of 100 times all partitions process again within so long after kill -9, with a session timeout of 10 s."""


@dataclass(frozen=True)
class Played:
    """A scenario that was tried."""

    scenario: Scenario
    outcome: Outcome
    seconds: float

    @property
    def differences(self) -> Sequence[oracle.Difference]:
        return self.outcome.verdict.differences if self.outcome.verdict is not None else ()

    @property
    def lost(self) -> int:
        """How many records the oracle, the subscriber and the providers miss; one record may count for each."""
        return self.outcome.lost + (0 if self.outcome.verdict is None else self.outcome.verdict.lost)

    @property
    def word(self) -> str:
        if self.outcome.verdict is None:
            return "-" if self.outcome.survived else "FAILED"
        return self.outcome.verdict.word

    @property
    def recovery(self) -> str:
        found = self.outcome.recoveries_s
        return f"{max(found):.1f}" if found else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every fault was survived."""
    options = _parser().parse_args(arguments)
    if options.list:
        for one in SCENARIOS.values():
            print(f"{one.name:36} {one.about}")
        return 0
    unknown = set(options.only) - SCENARIOS.keys()
    if unknown:
        print(f"no such scenario: {', '.join(sorted(unknown))}; --list names all", file=sys.stderr)
        return 2
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")  # as tests/conftest.py
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # our own clients live through the outages, too
    chosen = [one for one in SCENARIOS.values() if not options.only or one.name in options.only]
    seed = random.SystemRandom().randrange(1 << 30) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="mailstreams-chaos-"))
    print(first_line(seed, options.kafka), f"logs in {folder}", flush=True)
    played = [
        _try(one, folder, seed=seed, quick=options.quick, kafka=options.kafka, place=f"{number}/{len(chosen)}")
        for number, one in enumerate(chosen, 1)
    ]
    print(*_table(played), sep="\n")
    print(*_figures(played), sep="\n")
    slow = _p95(_kills(played)) >= RECOVERY_S
    if slow:
        print(f"after kill -9 it took too long until all partitions went on: 95 % within {RECOVERY_S} s is the goal")
    return 0 if all(one.outcome.survived for one in played) and not slow else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Break a real system in every way that we know."
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this scenario; may be given several times"
    )
    parser.add_argument("--seed", type=int, help="to repeat a run; printed at the beginning")
    parser.add_argument("--quick", action="store_true", help="each fault once or a few times")
    parser.add_argument(
        "--kafka", default=KAFKA_VERSION, metavar="VERSION", help="of the broker (default: %(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    return parser


def _try(one: Scenario, folder: Path, *, seed: int, quick: bool, kafka: str, place: str) -> Played:
    began = time.monotonic()
    outcome = asyncio.run(play(one, folder / one.name, seed=seed, quick=quick, kafka=kafka))
    played = Played(one, outcome, time.monotonic() - began)
    how = "survived" if outcome.survived else "FAILED"
    print(f"[{place}] {one.name}: {how} after {played.seconds:.0f} s", *outcome.notes, sep="; ", flush=True)
    for complaint in [*outcome.complaints, *played.differences[:5]]:
        print(f"    {complaint}", flush=True)
    if outcome.survived:
        shutil.rmtree(folder / one.name, ignore_errors=True)
    else:
        print(f"    its logs: {folder / one.name}", flush=True)
    return played


def _table(played: Sequence[Played]) -> list[str]:
    lines = ["", f"{'fault':36} {'verdict':30} {'lost':>5} {'wrong':>5} {'twice':>5} {'recovery s':>10} {'s':>5}"]
    for one in played:
        verdict = one.outcome.verdict
        lost, wrong, twice = ("-",) * 3 if verdict is None else (one.lost, verdict.wrong, verdict.repeated)
        mark = "" if one.outcome.survived else "  FAILED"
        lines.append(
            f"{one.scenario.name:36} {one.word:30} {lost:>5} {wrong:>5} {twice:>5} "
            f"{one.recovery:>10} {one.seconds:5.0f}{mark}"
        )
    return [*lines, ""]


def _kills(played: Sequence[Played]) -> list[float]:
    """Return the times of recovery after kill -9 among three workers, the shortest first (s)."""
    return sorted(s for one in played if one.scenario.kills for s in one.outcome.recoveries_s)


def _p95(values: Sequence[float]) -> float:
    """Return the 95th percentile; 0 where there are too few to have one."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else 0.0


def _figures(played: Sequence[Played]) -> list[str]:
    verdicts = [one.outcome.verdict for one in played if one.outcome.verdict is not None]
    kills = _kills(played)
    figures: dict[str, object] = {
        "faults_survived": sum(one.outcome.survived for one in played),
        "faults_tried": len(played),
        # broken off before anything could be compared: its records count in none of the figures below
        "faults_not_judged": sum(one.scenario.judged and one.outcome.verdict is None for one in played),
        "records_lost": sum(one.lost for one in played),
        "records_wrong": sum(verdict.wrong for verdict in verdicts),
        "duplicates_read_committed": sum(one.outcome.duplicates for one in played)
        + sum(verdict.repeated for verdict in verdicts),
    }
    if len(kills) > 1:  # those of kill -9 among three workers
        figures["recovery_s_p50"] = f"{statistics.median(kills):.1f}"
        figures["recovery_s_p95"] = f"{_p95(kills):.1f}"
        figures["recovery_s_max"] = f"{kills[-1]:.1f}"
    return [f"{name}={value}" for name, value in figures.items()]


if __name__ == "__main__":
    sys.exit(main())
