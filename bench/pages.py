"""The figures in the documentation: kept after each part, and written between two marks of a page.

The rule: what a page says was measured by the suite, in a full run, and the page
says when, where and how busy the machine was. Coarse figures are never written.
"""

import json
import math
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from bench.figures import Figure, table
from deploy.local import ROOT, jars

KEPT: Final = ROOT / "var" / "bench" / "figures"
PERFORMANCE: Final = ROOT / "docs" / "performance.md"
SCALING: Final = ROOT / "docs" / "scaling.md"
_BEGIN: Final = "<!-- bench: written by `python -m bench --write-docs`; do not edit -->"
_END: Final = "<!-- bench: end -->"

A_BILLION: Final = 1_000_000_000
"""Deliveries a day that ``docs/scaling.md`` computes for."""
EVENTS_PER_DELIVERY: Final = 3
PEAK: Final = 3
"""The busiest hour, as a multiple of the mean of the day."""
USED: Final = 0.5
"""The share of a worker's capacity that is planned for; the rest is for working off a backlog."""
KEPT_DAYS: Final = 90
REPLICAS: Final = 3
_TERABYTE: Final = 1e12
_DAY_S: Final = 86_400
STEPS: Final = 1_000_000
TRIES: Final = 3
BUSY: Final = 0.5
"""With a higher load average before the start, other programs use the machine."""


def machine() -> str:
    """Return a description of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return (
        f"{model[1].strip() if model else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()} ({step_ns():.0f} ns a step), "
        f"Kafka {jars.asked_for()}"
    )


def step_ns() -> float:
    """Return the time of a step of Python here: turn a number into text, put it into a dictionary; the best of three.

    The same version differs by a third between hosts and between builds (PGO, LTO), and no build says how it was made.
    """
    taken = []
    for _ in range(TRIES):
        texts: dict[int, str] = {}
        began = time.perf_counter()
        for number in range(STEPS):
            texts[number & 1023] = str(number)
        taken.append(time.perf_counter() - began)
    return min(taken) / STEPS * 1e9


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def busy() -> bool:
    """Tell whether other programs use this machine now."""
    return load() > BUSY


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures of one part."""

    part: str
    at: str
    machine: str
    load_before: float
    """Load average when the part began; except for the first part, it includes our own load."""
    fast: bool
    events: int
    figures: Mapping[str, Sequence[float]]

    @classmethod
    def now(cls, part: str, on: str, load_before: float, *, fast: bool, events: int, figures: Iterable[Figure]) -> Self:
        """Return what was measured just now."""
        return cls(
            part=part,
            at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            machine=on,
            load_before=load_before,
            fast=fast,
            events=events,
            figures={each.name: each.values for each in figures},
        )

    def keep(self) -> None:
        """Keep the figures for ``write``, unless they are coarse."""
        if not self.fast:
            KEPT.mkdir(parents=True, exist_ok=True)
            (KEPT / f"{self.part}.json").write_text(json.dumps(asdict(self), indent=1))

    def all(self) -> list[Figure]:
        """Return the figures."""
        return [Figure(name, tuple(values)) for name, values in self.figures.items()]


def kept(parts: Iterable[str]) -> list[Measured]:
    """Return the kept figures of these parts."""
    files = [KEPT / f"{part}.json" for part in parts]
    return [Measured(**json.loads(path.read_text())) for path in files if path.exists()]


def write() -> list[Path]:
    """Write the kept figures into the pages, and return the pages that were written."""
    from bench.suite import PARTS  # noqa: PLC0415 - the suite does not need to know of pages, nor be loaded to test them

    measured = kept(PARTS)
    if not measured:
        return []
    figures = {figure.name: figure.median for each in measured for figure in each.all()}
    page = PERFORMANCE.read_text()
    PERFORMANCE.write_text(replaced(page, tables(measured, PARTS, written(page))))
    SCALING.write_text(replaced(SCALING.read_text(), scaling(figures)))
    return [PERFORMANCE, SCALING]


def replaced(page: str, lines: Iterable[str]) -> str:
    """Return the page with these lines between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, _, after = _divided(page)
    return "\n".join([f"{before}{_BEGIN}", "", *lines, "", f"{_END}{after}"])


def _divided(page: str) -> tuple[str, str, str]:
    """Return what is before, between and after the marks."""
    before, begin, rest = page.partition(_BEGIN)
    between, end, after = rest.partition(_END)
    if not (begin and end):
        message = f"the page has no {_BEGIN} ... {_END}"
        raise ValueError(message)
    return before, between, after


def written(page: str) -> dict[str, list[str]]:
    """Return what the page says of each part.

    Raises:
        ValueError: it has no marks.
    """
    _, *sections = re.split(r"^### ", _divided(page)[1], flags=re.MULTILINE)
    return {(lines := section.strip().split("\n"))[0]: lines[1:] for section in sections}


def tables(measured: Sequence[Measured], parts: Iterable[str], old: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the figures as Markdown, a table for each part, in this order; one that is not measured keeps its ``old``."""
    new = {each.part: _section_of(each) for each in measured}
    sections = ((part, new.get(part) or old.get(part)) for part in parts)
    lines = [line for part, section in sections if section for line in (f"### {part}", *section, "")]
    return lines[:-1]


def _section_of(measured: Measured) -> list[str]:
    return [
        "",
        f"{measured.at}, {measured.machine}.",
        f"Load average before: {measured.load_before:.1f}; `--events {measured.events}`.",
        "",
        *table(measured.all()),
    ]


def scaling(figures: Mapping[str, float]) -> list[str]:
    """Return the needs of a billion deliveries a day, as Markdown; "not measured" where a figure is missing."""
    mean = A_BILLION * EVENTS_PER_DELIVERY / _DAY_S
    deliveries = A_BILLION * KEPT_DAYS

    def of(*names: str) -> list[float] | None:
        found = [figures.get(name) for name in names]
        return None if None in found else [value for value in found if value is not None]

    def workers() -> float | None:
        found = of("end_to_end_events_per_s")
        return None if found is None else math.ceil(mean * PEAK / (found[0] * USED))

    def terabytes(name: str, count: float) -> float | None:
        found = of(name)
        return None if found is None else found[0] * count / _TERABYTE

    count = workers()
    store = terabytes("disk_bytes_per_delivery_store", deliveries)
    restore = of("restore_rows_per_s")
    events = A_BILLION * EVENTS_PER_DELIVERY
    rows: list[tuple[str, float | None, str]] = [
        ("events a second, mean", mean, f"{EVENTS_PER_DELIVERY} events a delivery"),
        ("events a second, busiest hour", mean * PEAK, f"{PEAK} times the mean"),
        ("workers (one core each)", count, f"`end_to_end_events_per_s`, {USED:.0%} used in the busiest hour"),
        ("partitions", None if count is None else 4 * count, "4 a worker"),
        ("deliveries kept", deliveries, f"{KEPT_DAYS} days"),
        ("stores, TB, all workers", store, "`disk_bytes_per_delivery_store`"),
        ("store, TB, each worker", store / count if store and count else None, ""),
        (
            "hours to rebuild a lost store",
            deliveries / count / restore[0] / 3600 if count and restore else None,
            "`restore_rows_per_s`",
        ),
        *(
            (
                f"brokers, TB, `{topic}` of {days} days",
                terabytes(name, events * days * REPLICAS),
                f"`{name}`, {REPLICAS} replicas",
            )
            for topic, name, days in (
                ("mail.raw.*", "disk_bytes_per_event_raw", 7),
                ("mail.events", "disk_bytes_per_event_events", 8),
                ("mail.status-changed", "disk_bytes_per_event_status_changed", 30),
            )
        ),
        *(
            (f"brokers, TB, {topic}", terabytes(name, deliveries * REPLICAS), f"`{name}`, {REPLICAS} replicas")
            for topic, name in (
                ("`mail.status`", "disk_bytes_per_delivery_status"),
                ("the changelog of `deliveries`", "disk_bytes_per_delivery_changelog"),
            )
        ),
    ]
    lines = ["| for 10^9 deliveries a day | | from |", "|---|---:|---|"]
    for what, value, source in rows:
        lines.append(f"| {what} | {'not measured' if value is None else _digits(value)} | {source} |")
    return lines


def _digits(value: float) -> str:
    """Return a number with its significant digits: no decimals for a count or a large number."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"  # noqa: PLR2004 - three digits
