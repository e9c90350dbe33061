"""The jobs that contestants do, as pure functions: the part that is the same for all of them.

A job folds one record into the row of its key and returns the outputs. The contestant
does everything else (fetching, storing rows, changelogs, producing, committing).
"""

from collections.abc import Callable
from dataclasses import dataclass

Folded = tuple[bytes | None, list[tuple[str, bytes]]]
"""The new row, or None if it does not change; the outputs, as (output, value)."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job."""

    name: str
    outputs: tuple[str, ...]
    """The names of its outputs, the most frequent first; each has its own topic."""
    fold: Callable[[bytes | None, bytes, bytes], Folded]
    """(row, key, value of the record) -> the row and the outputs. Pure."""


def named(name: str) -> Job:
    """Return a job; only its own modules are imported, so that a contestant needs no others.

    Raises:
        ValueError: there is no job of this name.
    """
    if name == "thin":
        from bench.jobs import thin  # noqa: PLC0415 - see the docstring

        return thin.JOB
    if name == "product":
        from bench.jobs import product  # noqa: PLC0415 - see the docstring

        return product.JOB
    message = f"no job {name!r}"
    raise ValueError(message)
