"""What worker, ingress and history have in common as processes: exit statuses, signals, and waiting for a broker."""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

import uvloop
from aiokafka.errors import KafkaError

from streams import topics
from streams.brokers import RefusedError
from streams.logs import configure
from streams.settings import Settings
from streams.topics import TopicSpec

logger = logging.getLogger(__name__)

EXIT_OK: Final = 0
"""After an orderly stop."""
EXIT_CRASHED: Final = 1
EXIT_CANNOT_START: Final = 2
"""Something has to be set, made or freed first: another start alone does not help."""
EXIT_STALLED: Final = 75
"""The worker's event loop hung."""

BROKER_RETRY_S: Final = 2.0


def run(settings: Settings, work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Configure the logs, run the process's work to its end, and return its exit status."""
    configure(settings)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # also for threads that make a loop of their own
    with asyncio.Runner() as runner:
        return runner.run(work())


def stop_by_signals() -> asyncio.Event:
    """Return what SIGTERM and SIGINT set from now on, instead of ending the process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def error_of(done: "asyncio.Future[Any]") -> BaseException | None:
    """Return what ended a part of the process; a cancellation is some library's own, as nobody here asked for one."""
    return asyncio.CancelledError() if done.cancelled() else done.exception()


async def topic_problems(
    settings: Settings, wanted: Callable[[TopicSpec], bool] = lambda _: True, *, leaders: bool = True
) -> list[str]:
    """Return what is wrong with the topics or our access; while no broker answers, wait: a restart brings none back.

    Args:
        settings: All of them.
        wanted: Says which topics matter, as for ``topics.check``.
        leaders: Whether to wait until all of their partitions have a leader, too.
    """
    while True:
        try:
            return await topics.check(settings, wanted, leaders=leaders)
        except RefusedError as error:
            return [str(error)]
        except (KafkaError, OSError, TimeoutError) as error:
            servers = settings.kafka.bootstrap_servers
            logger.warning("waiting for the broker at %s: %s", servers, type(error).__name__)
            await asyncio.sleep(BROKER_RETRY_S)
