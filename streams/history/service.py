"""Run the history until it is told to stop: the subscriber, the pages and the interface, in one process.

The rule: like the ingress, it starts without the broker and shows what it knows; an
orderly stop finishes the requests and the transaction in work, and exits with 0.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError

from streams import __version__
from streams.brokers import RefusedError
from streams.history import api, export, pages, projection
from streams.history.access import Access
from streams.history.database import READERS, Database, DatabaseError, cause
from streams.history.edge import Service, application
from streams.history.live import Hub
from streams.history.projection import Applied, MovedError
from streams.history.subscriber import SourceError, Subscriber, TellProgress
from streams.kafka.closing import end
from streams.metrics import HistoryMetrics
from streams.process import EXIT_CANNOT_START, EXIT_CRASHED, EXIT_OK, error_of, run, stop_by_signals
from streams.settings import Settings
from streams.web.connections import SilentRunner
from streams.web.health import HealthServer

logger = logging.getLogger(__name__)

FORGET_EVERY_S: Final = 3600.0
STRAYS_EVERY: Final = 24
"""Once in this many times, events and alerts without a delivery are looked for, too: that reads all of them."""
STUCK_S: Final = 300.0
"""A transaction that takes longer has no end: the database is frozen, or a proxy before it has lost it and says nothing."""
WATCH_S: Final = 5.0
_DAY_S: Final = 24 * 3600
_KEEPALIVE_S: Final = 75.0


def run_history(settings: Settings) -> int:
    """Run the history and return its exit status: 0 after an orderly stop, 1 after a crash, 2 when it cannot start."""
    return run(settings, lambda: _run(settings))


async def rebuild(settings: Settings, progress: TellProgress, *, keep: bool = False) -> None:
    """Read all that the topics hold, into an empty database or beside what it has.

    Nothing is deleted before the broker has reported where all topics begin and end.

    Args:
        settings: All of them.
        progress: Called with how many offsets were read, of how many.
        keep: Delete nothing.

    Raises:
        DatabaseError: it cannot be used, or the history runs on it; or it cannot be written to any more, and what was
            read is kept.
        SourceError: a topic is missing; nothing was deleted.
        aiokafka.errors.KafkaError, OSError, TimeoutError: the broker cannot be reached. If at the start, nothing was
            deleted; if later, what was read is kept, and the history goes on from there.
    """
    database = open_database(settings)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
            subscriber = Subscriber(
                settings,
                database=database,
                writer=writer,
                metrics=HistoryMetrics.create(CollectorRegistry(), version=__version__),
                told=lambda _: None,
                missed=lambda: None,
                now=time.time,
            )
            begin = projection.read_again if keep else projection.clear
            await subscriber.catch_up(progress, before=lambda: begin(database))
    except DBAPIError as error:  # only the first line of its text: a later one may quote a row, with addresses
        message = f"the database cannot be written to: {cause(error)}"
        raise DatabaseError(message) from None
    except MovedError as error:
        raise DatabaseError(str(error)) from None
    finally:
        database.close()


def open_database(settings: Settings) -> Database:
    """Return the database of the settings, locked for us and with up-to-date tables.

    Raises:
        DatabaseError: it cannot be used.
    """
    own = settings.history
    database = Database(own.database_url.get_secret_value(), query_timeout_s=own.query_timeout_s)
    database.open()
    return database


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A history, built and not yet listening."""

    settings: Settings
    app: web.Application
    hub: Hub
    subscriber: Subscriber
    metrics: HistoryMetrics
    health: HealthServer
    stopping: asyncio.Event


def build(settings: Settings, database: Database, *, readers: Executor, writer: Executor) -> Built:
    """Return a history for these settings. Call it inside a running event loop."""
    own = settings.history
    metrics = HistoryMetrics.create(CollectorRegistry(), version=__version__)
    for topic in projection.TOPICS:
        metrics.skipped_offsets.labels(topic)  # a series that begins at 20 hides its first increase
    hub, stopping = Hub(own.max_streams), asyncio.Event()
    metrics.streams.set_function(lambda: len(hub))

    def told(applied: Applied) -> None:
        hub.publish(applied.touched)

    subscriber = Subscriber(
        settings, database=database, writer=writer, metrics=metrics, told=told, missed=hub.miss, now=time.time
    )

    def not_ready() -> Sequence[str]:
        if stopping.is_set():
            return ["stopping"]
        return [] if subscriber.state.ever_connected else ["no broker has answered yet"]

    metrics.ready.set_function(lambda: not not_ready())
    app = application(
        Service(
            settings=settings,
            database=database,
            readers=readers,
            access=Access(settings),
            hub=hub,
            state=subscriber.state,
            metrics=metrics,
            error_page=pages.error_page,
        )
    )
    for part in (pages, api, export):
        part.add_routes(app)
    return Built(
        settings=settings,
        app=app,
        hub=hub,
        subscriber=subscriber,
        metrics=metrics,
        health=HealthServer(
            host=own.admin_host,
            port=own.admin_port,
            registry=metrics.registry,
            not_live=list,
            not_ready=not_ready,
        ),
        stopping=stopping,
    )


def runner_of(built: Built) -> web.AppRunner:
    """Return a history's runner. A malformed request may hold a key: neither its answer nor a log line quotes it."""
    return SilentRunner(  # without an access log: a line for each request would say who looks at what
        built.app,
        keepalive_timeout=_KEEPALIVE_S,
        shutdown_timeout=built.settings.history.shutdown_s,
        handler_cancellation=True,  # a closed page needs no answer
    )


async def _run(settings: Settings) -> int:
    stop = stop_by_signals()
    problems = Access(settings).problems()
    for problem in problems:
        logger.error("%s", problem)
    if problems:
        return EXIT_CANNOT_START
    try:
        database = await asyncio.to_thread(open_database, settings)
    except DatabaseError as error:
        logger.error("%s", error)  # noqa: TRY400 - one line says it all
        return EXIT_CANNOT_START
    try:
        with (
            ThreadPoolExecutor(READERS, thread_name_prefix="reader") as readers,
            ThreadPoolExecutor(1, thread_name_prefix="writer") as writer,
        ):
            built = build(settings, database, readers=readers, writer=writer)
            status = await _serve(
                built, stop, lambda: _forget(settings, database, writer, built.metrics), lambda: _watch(database)
            )
            await _end_if_stuck(database, max(settings.history.shutdown_s, settings.history.query_timeout_s))
            return status
    finally:
        database.close()


async def _serve(built: Built, stop: asyncio.Event, *endless: Callable[[], Any]) -> int:
    own = built.settings.history
    runner = runner_of(built)
    place = (own.admin_host, own.admin_port)
    try:
        admin_port = await built.health.start()
        place = (own.host, own.port)
        await runner.setup()
        await web.TCPSite(runner, own.host, own.port).start()
    except OSError as error:
        logger.error("cannot listen on %s:%s: %s", *place, error.strerror)  # noqa: TRY400 - one line says it all
        await runner.cleanup()
        await built.health.stop()
        return EXIT_CANNOT_START
    logger.info("http://%s:%d/metrics /livez /readyz", own.admin_host, admin_port)
    logger.info("http://%s:%d/", own.host, runner.addresses[0][1])
    if Access(built.settings).is_open:
        logger.info("whoever is on this machine sees all accounts: no key and no proxy is set up")
    tasks = [asyncio.create_task(work) for work in (stop.wait(), built.subscriber.run(), *(each() for each in endless))]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    status = EXIT_OK if stop.is_set() else _reason(done)
    logger.info("stopping")
    built.stopping.set()
    built.hub.close()
    await end(tasks)
    await runner.cleanup()
    await built.health.stop()
    logger.info("stopped")
    return status


def _reason(done: "set[asyncio.Task[Any]]") -> int:
    for task in done:
        error = error_of(task)
        if isinstance(error, SourceError | MovedError | RefusedError):
            logger.error("%s", error)
            return EXIT_CANNOT_START
        if isinstance(error, DatabaseError):
            logger.error("%s", error)
            return EXIT_CRASHED
        if isinstance(error, DBAPIError):  # its own text has the values of the statement: addresses
            logger.error("the database cannot be written to: %s", cause(error))
        elif error is not None:
            logger.error("the history ends: %s", type(error).__name__, exc_info=error)
    return EXIT_CRASHED


async def _watch(database: Database) -> None:
    """Watch over the transactions for as long as each of them ends.

    Raises:
        DatabaseError: one does not.
    """
    was_stuck = False
    while True:
        is_stuck = (busy_s := database.busy_s()) > STUCK_S
        if is_stuck and was_stuck:  # at one look only, it is this process that did not run
            message = f"the database has not answered for {busy_s:.0f} s"
            raise DatabaseError(message)
        was_stuck = is_stuck
        await asyncio.sleep(WATCH_S)


async def _end_if_stuck(database: Database, patience_s: float) -> None:
    """Wait for the transactions in work. If one does not end, end the process here: its thread ends in no other way."""
    until = time.monotonic() + patience_s
    while database.busy_s():
        if time.monotonic() > until:
            logger.error("the database does not answer: what it has not written is read again")
            logging.shutdown()
            os._exit(EXIT_CRASHED)
        await asyncio.sleep(0.05)


class Today:
    """What time it is for retention: the wall clock, but no later than the records show.

    A host's clock that is years ahead would delete everything, and the topics do not bring it back. So time goes on
    from the newest change of a status, which other hosts have stamped, as fast as a clock that nobody sets.
    """

    def __init__(self, database: Database, *, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        self._database = database
        self._wall, self._steady = wall, steady
        self._ahead: float | None = None
        """The time that the records show, less the steady clock; seconds. None: there was no record yet."""

    def __call__(self) -> float | None:
        """Return the time in seconds; None: nothing is known that could be too old."""
        newest = projection.newest_news(self._database)
        if newest is not None:
            ahead = newest / 1_000_000 - self._steady()
            self._ahead = ahead if self._ahead is None else max(self._ahead, ahead)
        return None if self._ahead is None else min(self._wall(), self._ahead + self._steady())


async def _forget(settings: Settings, database: Database, writer: Executor, metrics: HistoryMetrics) -> None:
    """Regularly delete what is too old, a little at a time."""
    loop, today = asyncio.get_running_loop(), Today(database, wall=time.time, steady=time.monotonic)
    runs = 0
    while True:
        if (now := await loop.run_in_executor(writer, today)) is not None:
            before = round((now - settings.history.retention_days * _DAY_S) * 1_000_000)
            await _forget_until(before, settings, database, writer, metrics, with_strays=runs % STRAYS_EVERY == 0)
            runs += 1
        await loop.run_in_executor(writer, database.tidy)
        await asyncio.sleep(FORGET_EVERY_S)


async def _forget_until(
    before: int, settings: Settings, database: Database, writer: Executor, metrics: HistoryMetrics, *, with_strays: bool
) -> None:
    loop, total = asyncio.get_running_loop(), 0
    while number := await loop.run_in_executor(writer, projection.forget, database, before):
        total += number
        metrics.forgotten.inc(number)
    if total:
        logger.info(
            "%d deliveries had no change of status for %g days and are deleted", total, settings.history.retention_days
        )
    place: str | None = "" if with_strays else None
    while place is not None:
        place = await loop.run_in_executor(writer, projection.forget_strays, database, place, before)
