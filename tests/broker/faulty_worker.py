"""A worker that dies or freezes at a named point of the batch order.

    FAULT=kill:committed:3 python -m tests.broker.faulty_worker

kills itself (SIGKILL) when the point ``committed`` is reached for the third time;
``stop`` freezes it (SIGSTOP) instead, until somebody wakes it.
"""

import os
import signal
import sys
from collections import Counter

from faust.types import TP

from streams.settings import load
from streams.worker import run_worker

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def main() -> int:
    what, where, when = os.environ["FAULT"].split(":")
    seen: Counter[str] = Counter()

    def reached(point: str, tp: TP) -> None:
        seen[point] += 1
        if point == where and seen[point] == int(when):
            print(f"fault: {what} at {point} of {tp.topic}/{tp.partition}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), _SIGNALS[what])

    return run_worker(load(), reached=reached)


if __name__ == "__main__":
    sys.exit(main())
