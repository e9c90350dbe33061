"""The jobs that contestants do, as pure functions: what is the same for all of them.

A job folds one record into the row of its key and says what to tell. Everything
else (fetching, keeping rows, changelogs, producing, committing) is the contestant's.
"""

from collections.abc import Callable
from dataclasses import dataclass

Folded = tuple[bytes | None, list[tuple[str, bytes]]]
"""The new row, or None when it stays as it is; what to tell, as (output, value)."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job."""

    name: str
    outputs: tuple[str, ...]
    """What it tells, the most frequent first; each is a topic of its own."""
    fold: Callable[[bytes | None, bytes, bytes], Folded]
    """(row, key, value of the record) -> the row and what to tell. Pure."""


def named(name: str) -> Job:
    """Return a job; only its own imports are made, so that a contestant needs no more than that.

    Raises:
        ValueError: there is none of this name.
    """
    if name == "thin":
        from bench.jobs import thin  # noqa: PLC0415 - see the docstring

        return thin.JOB
    if name == "product":
        from bench.jobs import product  # noqa: PLC0415 - see the docstring

        return product.JOB
    message = f"no job {name!r}"
    raise ValueError(message)
