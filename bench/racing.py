"""A race: contestants do the same job on the same records in turn, round after round, each in its own process.

The broker's clock is used: outputs are stamped when they are appended, and a rate
is the work done between the first and the last twentieth of them. Processor time
and memory are read from outside, for Python and Java alike. A run counts only if
its outputs equal those of the pure job, key by key and value by value.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import psutil

from bench import figures
from bench.contestants import Task
from bench.ground import Contents, Ground, Sent
from bench.jobs import Job
from deploy.local import ROOT

QUIX_PYTHON: Final = ROOT / "var" / "bench" / "venv" / "bin" / "python"
"""Quix Streams' dependencies conflict with ours; `make bench` installs it separately."""
SAMPLE_S: Final = 0.1
STILL_S: Final = 1.0
"""Outputs that have not grown for this long are complete, or will never be."""
START_TIMEOUT_S: Final = 120.0
LOG_SHOWN: Final = 3000


class ContestantError(Exception):
    """A contestant ended, stalled, or produced other outputs than the job."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program that takes part."""

    name: str
    command: Sequence[str]
    """The command; a ``Task`` is added as its last argument."""
    options: Mapping[str, str] = field(default_factory=dict)
    makes_changelog: bool = False
    """It creates and names its own changelog topic."""
    share: float = 1.0
    """The share of the events that it gets; less than 1 where all would take too long."""


OURS = Contestant("ours", [sys.executable, "-m", "bench.contestants.ours"])
UNTRANSACTED = Contestant("ours_untransacted", OURS.command, {"transactions": "no"})
AIOKAFKA = Contestant("aiokafka", [sys.executable, "-m", "bench.contestants.aiokafka_loop"])
AIOKAFKA_STORED = Contestant("aiokafka_stored", AIOKAFKA.command, {"store": "rocksdb"})
QUIX = Contestant(
    "quix",
    [str(QUIX_PYTHON), "-m", "bench.contestants.quix"],
    {"guarantee": "at-least-once"},
    makes_changelog=True,
)
QUIX_EOS = Contestant("quix_eos", QUIX.command, {"guarantee": "exactly-once"}, makes_changelog=True)


class Sampler:
    """Watches a process and its children from outside until ``stop``."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self.cpu_s: list[tuple[float, float]] = []
        """(Unix time, processor seconds used so far)."""
        self.rss_mb = 0.0
        """The most memory it held, in MiB."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                times = [each.cpu_times() for each in family]
                self.cpu_s.append((time.time(), sum(each.user + each.system for each in times)))
                self.rss_mb = max(self.rss_mb, sum(each.memory_info().rss for each in family) / 2**20)
            except psutil.Error:  # it ended, which `check` reports
                return


class Running:
    """A running process, with its log and its samples."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | dict(environment or {}), stdout=output, stderr=output
            )
        self.samples = Sampler(self.process.pid)

    def check(self) -> None:
        """Raise ContestantError when it ended."""
        if self.process.poll() is not None:
            what = f"ended with {self.process.returncode}"
            raise self.failed(what)

    def failed(self, what: str) -> ContestantError:
        """Return the error with what happened and the end of the log, which is deleted after the run."""
        text = self.log.read_text(errors="replace")[-LOG_SHOWN:]
        return ContestantError(f"{self.log.stem} {what}; its log ends:\n{text}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.samples.stop()
        self.process.kill()  # its state is not needed any more
        self.process.wait()


class Result(NamedTuple):
    """One run of one contestant."""

    events_per_s: float
    cpu_us: float
    """Processor time of the whole process for one event, user and system, all threads."""
    rss_mb: float
    outputs: int


@dataclass(frozen=True, slots=True)
class Course:
    """The input records, and the expected outputs."""

    source: str
    events: int
    expected: Mapping[str, Contents]
    """By the job's output name."""
    outputs: int
    """Records of the first output."""


class Race:
    """One job on one broker (``Ground``)."""

    def __init__(self, ground: Ground, job: Job, records: Sequence[tuple[bytes, bytes]]) -> None:
        self._ground = ground
        self.job = job
        self._records = records
        self._courses: dict[float, Course] = {}

    async def course(self, share: float) -> Course:
        """Return the course of the first ``share`` of the records; filled at first use."""
        if share not in self._courses:
            taken = self._records[: round(len(self._records) * share)]
            source = f"{self.job.name}-{len(taken)}"
            await self._ground.create([source])
            await self._ground.put(source, self._rows(taken))
            expected, outputs = expected_of(self.job, taken)
            self._courses[share] = Course(source, len(taken), expected, outputs)
        return self._courses[share]

    async def run(self, contestant: Contestant, number: int) -> Result:
        """Let one contestant run, and return what was measured.

        Raises:
            ContestantError: it did not do the job.
        """
        course = await self.course(contestant.share)
        group = f"{self.job.name}-{contestant.name.replace('_', '-')}-{number}"
        folder = self._ground.folder / group
        folder.mkdir()
        task = Task(
            bootstrap=self._ground.bootstrap,
            job=self.job.name,
            source=course.source,
            outputs={name: f"{group}.{name}" for name in self.job.outputs},
            changelog=f"{group}-rows-changelog",
            group=group,
            partitions=self._ground.partitions,
            folder=folder,
            compression=self._ground.known_compression,
            product_compression=self._ground.compression,
            options=contestant.options,
        )
        await self._ground.create(task.outputs.values())
        if not contestant.makes_changelog:
            await self._ground.create([task.changelog], compacted=True)
        command = [*contestant.command, task.to_argument()]
        with Running(command, self._ground.folder / f"{group}.log") as running:
            contents = await self._until_done(running, course, task.outputs[self.job.outputs[0]])
            result = _result(course, contents, running.samples)
        await self._verify(course, task, contents)
        await self._ground.delete(group)
        shutil.rmtree(folder, ignore_errors=True)
        return result

    def _rows(self, records: Sequence[tuple[bytes, bytes]]) -> list[Sent]:
        return [(self._ground.partition_of(key), key, value, []) for key, value in records]

    async def _until_done(self, running: Running, course: Course, topic: str) -> Contents:
        """Wait for the last output of the first topic, and return the contents of the topic."""
        seen, grew_at = 0, time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            running.check()
            reached = sum((await self._ground.ends([topic])).values())
            now = time.monotonic()
            if reached > seen:
                seen, grew_at = reached, now
            elif reached >= course.outputs and now - grew_at > STILL_S:
                contents = await self._ground.read(topic)
                if len(contents.appended) >= course.outputs:
                    return contents
                grew_at = now  # commit markers count as offsets: the last records are not committed yet
            elif now - grew_at > START_TIMEOUT_S:
                what = f"made {topic} stand still at {reached} of {course.outputs}"
                raise running.failed(what)

    async def _verify(self, course: Course, task: Task, first: Contents) -> None:
        for position, (name, topic) in enumerate(task.outputs.items()):
            contents = first if position == 0 else await self._ground.read(topic)
            wrong = differences(course.expected[name], contents)
            if wrong:
                message = f"{topic} is not what the job says: {wrong}"
                raise ContestantError(message)


def differences(expected: Contents, found: Contents) -> str:
    """Return how two topics differ; empty if each key has the same values in the same order."""
    if expected.checksums == found.checksums:
        return ""
    missing = len(expected.checksums.keys() - found.checksums.keys())
    surplus = len(found.checksums.keys() - expected.checksums.keys())
    other = sum(found.checksums.get(key, checksum) != checksum for key, checksum in expected.checksums.items())
    return f"{missing} keys are missing, {surplus} are too many, {other} have other values"


def expected_of(job: Job, records: Sequence[tuple[bytes, bytes]]) -> tuple[dict[str, Contents], int]:
    """Return the job's outputs for these records, and the number of records of its first output."""
    rows: dict[bytes, bytes] = {}
    expected = {name: Contents() for name in job.outputs}
    outputs = 0
    for key, value in records:
        row, folded = job.fold(rows.get(key), key, value)
        if row is not None:
            rows[key] = row
        for name, output in folded:
            expected[name].add(key, output)
            outputs += name == job.outputs[0]
    return expected, outputs


def _result(course: Course, contents: Contents, samples: Sampler) -> Result:
    window = figures.window_of(contents.appended)
    events = course.events * window.share
    used = figures.at(samples.cpu_s, window.end) - figures.at(samples.cpu_s, window.begin)
    return Result(events / window.seconds, used / events * 1e6, samples.rss_mb, len(contents.appended))


Progress = Callable[[str], None]


async def hold(race: Race, contestants: Sequence[Contestant], number: int, tell: Progress) -> dict[str, Result]:
    """Let each run once, and return the results by name."""
    results = {}
    for contestant in contestants:
        result = results[contestant.name] = await race.run(contestant, number)
        tell(
            f"{race.job.name}, {contestant.name}: {result.events_per_s:,.0f} events/s, "
            f"{result.cpu_us:.1f} us of processor time each, {result.rss_mb:.0f} MiB"
        )
    return results
