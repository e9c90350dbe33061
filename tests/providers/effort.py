"""What a stranger's request may cost before anything is proved, by counting: a clock would tell of the machine."""

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

from streams.providers import _proof

MOST_LINES: Final = _proof.PARSED_LIMIT // 8
MOST_MEMORY: Final = 5 * _proof.PARSED_LIMIT // 2
"""Work below both takes a few milliseconds, and a body of ``PARSED_LIMIT`` is copied twice at most."""

Work = Callable[[], object]


def is_affordable(work: Work) -> bool:
    """Tell whether work costs little enough for what has proved nothing yet."""
    work()  # what is made once is not counted
    return memory_of(work) <= MOST_MEMORY and lines_of(work) <= MOST_LINES


def memory_of(work: Work) -> int:
    """Return the bytes that work holds at most at a time: what a decoder written in C costs is what it builds."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return most - before


def lines_of(work: Work) -> int:
    """Return the lines of Python that work runs."""
    lines = 0

    def count(_frame: object, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    traced = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(traced)
    return lines
