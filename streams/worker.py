"""Run a worker until it is told to stop or can no longer work.

The rule: crash-only. A worker that cannot go on writes why and ends at once,
with an exit status that is not 0; a supervisor starts the next one, which goes on
from what was committed. An orderly stop finishes the batches in work and leaves
the group, so that others take over without waiting.
"""

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn

from aiokafka.errors import InvalidSessionTimeoutError, InvalidTransactionTimeout

from streams.app import Worker, build, nothing_reached
from streams.brokers import NOT_ALLOWED
from streams.observe import Reached
from streams.process import (
    EXIT_CANNOT_START,
    EXIT_CRASHED,
    EXIT_OK,
    EXIT_STALLED,
    error_of,
    raise_open_files,
    run,
    stop_by_signals,
    topic_problems,
)
from streams.settings import Settings

logger = logging.getLogger(__name__)

LEAVE_TIMEOUT_S = 3.0
LOG_TIMEOUT_S = 10.0
"""A worker that hangs ends without its last words if they cannot be written for this long."""
GC_THRESHOLD = (100_000, 50, 100)
_LIMITS: Final = {
    InvalidSessionTimeoutError: "set kafka.session_timeout_s within the brokers' group.min.session.timeout.ms (6 s by "
    "default) and group.max.session.timeout.ms",
    InvalidTransactionTimeout: "set kafka.transaction_timeout_s to the brokers' transaction.max.timeout.ms at most",
}
"""Which setting the brokers do not take, by their own limits: we cannot know these before."""


def run_worker(settings: Settings, *, reached: Reached = nothing_reached) -> int:
    """Run a worker until its process ends: 0 after an orderly stop, 1 after a crash, 2 when it cannot start, 75 when it hung."""
    gc.freeze()  # start-up objects live for ever, and a batch makes thousands of objects without a cycle:
    gc.set_threshold(*GC_THRESHOLD)  # collecting at the default pace is wasted work
    raise_open_files()  # the stores alone may need thousands
    return run(settings, lambda: _run(settings, reached))


async def _run(settings: Settings, reached: Reached) -> int:
    stop = stop_by_signals()
    if problem := _datadir_problem(settings.worker.datadir):
        logger.error("worker.datadir %s cannot be used: %s", settings.worker.datadir, problem)
        return EXIT_CANNOT_START
    worker = build(settings, reached=reached)
    try:
        port = await worker.health_server.start()
    except OSError as error:
        logger.error("cannot listen on %s:%s: %s", settings.web.host, settings.web.port, error.strerror)  # noqa: TRY400 - one line says it all
        return EXIT_CANNOT_START
    logger.info("http://%s:%d/metrics /livez /readyz", settings.web.host, port)
    problems = await _unless(stop, topic_problems(settings))
    if problems:
        for problem in problems:
            logger.error("%s", problem)
        return EXIT_CANNOT_START
    if not stop.is_set():
        await _work(worker, stop)
    return EXIT_OK


def _datadir_problem(datadir: Path) -> str | None:
    """Return why no store can be kept there. Found later, it would end the worker in the group, and all others pause."""
    try:
        datadir.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold addresses
        with tempfile.TemporaryFile(dir=datadir):
            return None
    except OSError as error:
        return error.strerror


async def _work(worker: Worker, stop: asyncio.Event) -> NoReturn:
    worker.watchdog.watch_loop(_end_hung)
    starting = asyncio.create_task(worker.app.start(), name="start")
    ended: list[asyncio.Future[Any]] = [
        worker.crashed,
        asyncio.create_task(_faust_crashed(worker)),
        asyncio.create_task(stop.wait()),
        asyncio.create_task(worker.progress.run(), name="progress"),
        asyncio.create_task(_beat(worker)),
    ]
    done: set[asyncio.Future[Any]]
    done, _ = await asyncio.wait([*ended, starting], return_when=asyncio.FIRST_COMPLETED)
    if starting in done and starting.exception() is None:
        logger.info("worker started")
        done, _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        await _stop(worker)
    await _end(worker, _reason(done))


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, list[str]]) -> list[str]:
    """Return what ``work`` returns, or nothing if ``stop`` is set before."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    return working.result() if working.done() else []


def _reason(done: set[asyncio.Future[Any]]) -> BaseException:
    for task in done:
        error = error_of(task)
        if error is not None:
            return error
        result = task.result()
        if isinstance(result, BaseException):
            return result
    return RuntimeError("the worker ended without a reason")


async def _faust_crashed(worker: Worker) -> BaseException:
    """Wait until Faust gives up on one of its services."""
    while not worker.app.crashed:  # noqa: ASYNC110 - Faust's crash is a flag, there is nothing to await
        await asyncio.sleep(0.1)
    return worker.app.crash_reason or RuntimeError("Faust crashed")


async def _beat(worker: Worker) -> None:
    while True:
        worker.watchdog.beat()
        await asyncio.sleep(0.5)


async def _stop(worker: Worker) -> NoReturn:
    logger.info("stopping: finishing what is in work")
    limit_s = worker.settings.worker.shutdown_s
    stopping = asyncio.create_task(_stop_all(worker))
    ends: list[asyncio.Future[Any]] = [stopping, worker.crashed]
    done, _ = await asyncio.wait(ends, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    error = _reason(done) if worker.crashed in done else error_of(stopping) if stopping in done else None
    if stopping in done and error is None:
        logger.info("stopped")
        _exit(EXIT_OK)
    if error is None:
        logger.error("not finished in %g s: what was not committed is done again", limit_s)
    else:
        logger.error("the stop failed: what was not committed is done again: %s", _described(error), exc_info=error)
    await _leave(worker)
    _exit(EXIT_CRASHED)


async def _stop_all(worker: Worker) -> None:
    """Finish the batches in work, close the stores, leave the group. Faust's own stop adds nothing, and can hang."""
    await worker.app.lane_tables.close()
    await worker.publisher.close()
    await worker.app.batch_consumer.leave_group()


async def _end(worker: Worker, error: BaseException) -> NoReturn:
    """End the process after a crash. Nothing in memory is worth saving; leaving the group lets others go on at once."""
    logger.error("the worker ends: %s", _described(error), exc_info=error)
    await _leave(worker)
    _exit(EXIT_CRASHED)


async def _leave(worker: Worker) -> None:
    """Leave the group, if that is possible at once: else the others wait until the session times out."""
    try:
        async with asyncio.timeout(LEAVE_TIMEOUT_S):
            await worker.app.batch_consumer.leave_group()
    except BaseException as failed:  # noqa: BLE001 - the group finds out by itself when the session times out
        logger.debug("could not leave the group: %r", failed)


def _end_hung(silent_s: float) -> None:
    # The loop may hang because nobody reads the log, and it then holds the lock that the next line waits for.
    ending = threading.Timer(LOG_TIMEOUT_S, os._exit, [EXIT_STALLED])
    ending.daemon = True
    with contextlib.suppress(RuntimeError):  # no more threads can be started: then without this limit
        ending.start()
    logger.critical("the event loop has not run for %.0f s: the worker ends", silent_s)
    faulthandler.dump_traceback(all_threads=True)
    _exit(EXIT_STALLED)


def _exit(status: int) -> NoReturn:
    """End now: threads, sockets and open transactions need no clean-up, because the next owner fences."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _described(error: BaseException) -> str:
    lacks = any(isinstance(one, NOT_ALLOWED) for one in (error, error.__cause__))  # a transaction's error has a cause
    rights = "; which rights it takes: mailstreams acls worker" if lacks else ""
    limit = next((f"; {limit}" for kind, limit in _LIMITS.items() if isinstance(error, kind)), "")
    where = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{where}{rights}{limit}"
