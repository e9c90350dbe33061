"""What worker, ingress and history share as processes: exit statuses, signals, limits, and waiting for a broker."""

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

import uvloop
from aiokafka.errors import KafkaError

from streams import topics
from streams.brokers import RefusedError, absence
from streams.logs import configure
from streams.settings import Settings
from streams.topics import TopicSpec

logger = logging.getLogger(__name__)

EXIT_OK: Final = 0
"""After an orderly stop."""
EXIT_CRASHED: Final = 1
EXIT_CANNOT_START: Final = 2
"""Something has to be configured, created or freed first: a restart alone does not help."""
EXIT_STALLED: Final = 75
"""The worker's event loop hung."""

BROKER_RETRY_S: Final = 2.0
_UNLIMITED_FILES: Final = 10_240
"""The soft limit of open files that is asked for where there is no hard one: what macOS allows (``OPEN_MAX``)."""


def run(settings: Settings, work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Configure the logs, run the process's work to its end, and return its exit status."""
    configure(settings)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # also for threads that make a loop of their own
    with asyncio.Runner() as runner:
        return runner.run(work())


def stop_by_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set from now on, instead of ending the process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: a shell or a unit gives 1,024 of half a million by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:  # as on macOS, where the system has a limit of its own all the same
        wanted = soft if soft == resource.RLIM_INFINITY else max(soft, _UNLIMITED_FILES)
    else:
        wanted = hard
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def error_of(done: "asyncio.Future[Any]") -> BaseException | None:
    """Return the error that ended a part of the process; a cancellation counts as one: nothing here asks for any."""
    return asyncio.CancelledError() if done.cancelled() else done.exception()


async def topic_problems(
    settings: Settings, wanted: Callable[[TopicSpec], bool] = lambda _: True, *, leaders: bool = True
) -> list[str]:
    """Return why the topics or our access prevent a start; while no broker answers, wait: a restart would not help.

    A problem that does not prevent the start is logged.

    Args:
        settings: All settings.
        wanted: Says which topics matter, as for ``topics.check``.
        leaders: Whether to wait until all their partitions have a leader, as for ``topics.check``.
    """
    while True:
        try:
            problems = await topics.check(settings, wanted, leaders=leaders)
        except RefusedError as error:
            return [str(error)]
        except (KafkaError, OSError, TimeoutError) as error:
            servers = settings.kafka.bootstrap_servers
            logger.warning("waiting for the broker at %s: %s", servers, absence(error))
            await asyncio.sleep(BROKER_RETRY_S)
            continue
        for problem in problems:
            if not problem.forbids:
                logger.warning("%s", problem.text)
        return [problem.text for problem in problems if problem.forbids]
