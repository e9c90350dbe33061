"""What pages, interface and export have in common: limits, headers, errors, parameters.

The rule: everything in a request is checked against a list of what is expected. A
refusal names the parameter; no value of a request is ever repeated in an error, and
nothing of it is logged.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import date
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import parse_qsl

import sqlalchemy as sa
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from sqlalchemy.exc import SQLAlchemyError

from streams.history.access import REALM, VIEWER, Access, Viewer
from streams.history.database import Database, TooSlowError
from streams.history.live import FullError, Hub, share
from streams.history.queries import LONGEST_SEARCH, SHORTEST_PREFIX, STATUSES, CursorError, Filter
from streams.history.subscriber import State
from streams.history.words import machine_time
from streams.metrics import HistoryMetrics
from streams.settings import Settings
from streams.web.connections import described
from streams.web.problems import problem

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 16 * 1024
MOST_ITEMS: Final = 200
"""Deliveries in one answer."""
_LONGEST: Final = 1000
"""Characters of a parameter."""
_LONGEST_CURSOR: Final = 4000
"""Characters of a cursor: it holds a search's key, of up to ``projection.LONGEST_KEY`` characters, encoded twice."""
_MOST_FIELDS: Final = 20
DELIVERY_ID: Final = "[a-z2-7]{26}"
INVOICE_ID: Final = "[0-9a-f]{32}"
"""The form of these ids in a path; anything else is not looked up."""
API: Final = "/api/"
LIVE: Final = "/live"
"""The end of the paths that are streams."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_NO_STORE: Final = "no-store"
"""Pages hold addresses: no cache may keep them."""
AS_OF: Final = "X-Mailstreams-As-Of"
"""When the broker answered last, RFC 3339; missing if it has not yet."""
BEHIND: Final = "X-Mailstreams-Records-Behind"
"""How many records of the topics were not read at that time."""

_T = TypeVar("_T")


ErrorPage = Callable[[web.Request, "Refused"], str]
"""Returns the HTML of a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What handlers work with."""

    settings: Settings
    database: Database
    readers: Executor
    """Runs queries to the database."""
    access: Access
    hub: Hub
    state: State
    metrics: HistoryMetrics
    error_page: ErrorPage


SERVICE: Final = web.AppKey("service", Service)
SEQUENCE: Final = web.RequestKey("sequence", int)
"""The hub's sequence when the request came, before anything was read."""
VIEWER_NAME: Final = web.RequestKey[Hashable]("viewer_name", object)
"""Identifies a viewer, for the limits of each."""
_BEGUN: Final = web.RequestKey("begun", web.StreamResponse)
"""The answer whose head is, or is about to be, written."""
_IN_WORK: Final = web.AppKey("in_work", asyncio.Semaphore)
_OF_VIEWERS: Final = web.AppKey("of_viewers", Counter[Hashable])
PATIENCE_S: Final = 15.0
"""So much longer than a query may take, a page waits for its database: nothing else ends a query to a frozen one."""
WRITE_TIMEOUT_S: Final = 30.0
"""A client that reads nothing for this long is given up: it holds a place that others need."""


_CLOSING: Final = frozenset({HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT})


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault of ours
    """The request is answered with a problem (RFC 9457)."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}
        self.closes = closes or status in _CLOSING
        """The connection is closed after the answer: the rest of the body is not read."""


def application(service: Service) -> web.Application:
    """Return an application without routes, whose answers follow the rules of this file."""
    app = web.Application(middlewares=[_measure, _refuse, _admit], client_max_size=MAX_BODY_BYTES)
    app[SERVICE] = service
    app[_IN_WORK] = asyncio.Semaphore(service.settings.history.max_requests)
    app[_OF_VIEWERS] = Counter()
    app.on_response_prepare.append(_add_headers)
    return app


@web.middleware
async def _measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    began, metrics = time.perf_counter(), request.app[SERVICE].metrics
    request[SEQUENCE] = request.app[SERVICE].hub.sequence
    answer = await handler(request)
    resource = request.match_info.route.resource
    page = "none" if resource is None else resource.canonical
    metrics.requests.labels(page, str(answer.status)).inc()
    if not request.path.endswith(LIVE):
        metrics.request_seconds.labels(page).observe(time.perf_counter() - began)
    return answer


@web.middleware
async def _refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionResetError:
        raise  # there is nobody to answer
    except Exception as error:  # noqa: BLE001 - each kind has its answer
        if _BEGUN in request:
            return cut(request, request[_BEGUN], error)
        return answer_of(request, _refusal_of(error))


def _refusal_of(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, web.HTTPException):
        return _of_aiohttp(error)
    if isinstance(error, web.RequestPayloadError | HttpProcessingError):
        return Refused(HTTPStatus.BAD_REQUEST, "the body is not as its headers say", closes=True)
    if type(error) in _OF_OURS:
        return _OF_OURS[type(error)]()
    if isinstance(error, SQLAlchemyError):
        return _unanswered(type(error).__name__)  # its text has values
    logger.error("a mistake of ours", exc_info=error)  # the log's own filter takes addresses out of it
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a mistake of ours")


def cut(request: web.Request, answer: web.StreamResponse, error: Exception) -> web.StreamResponse:
    """Abort the connection of an answer that was begun and cannot be finished: an error answer would land inside it.

    A client of HTTP/1.1 or later notices, because the end of the answer is missing. In HTTP/1.0 the end of the
    connection is the end of the answer: there, what was written is still sent.

    Returns:
        The answer itself, for the handler to return: aiohttp makes another answer of anything that is raised.
    """
    logger.error("an answer is cut: %s", described(error))  # without the text of the error, which has values
    if request.transport is not None and request.version >= HttpVersion11:
        request.transport.abort()
    return answer


@web.middleware
async def _admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    access, in_work = request.app[SERVICE].access, request.app[_IN_WORK]
    if not access.serves(request):
        raise Refused(
            HTTPStatus.MISDIRECTED_REQUEST,
            "we are not called so; whoever runs this: name the host in history.public_hosts",
        )
    if access.is_bypassed(request):
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "the request came through a proxy (or by HTTP/1.0, as many proxies send it), but nobody has to prove who "
            "they are; whoever runs this: set history.trusted_proxies or accounts.NAME.history_keys",
        )
    viewer = access.viewer(request)
    if viewer is None:
        raise Refused(
            HTTPStatus.UNAUTHORIZED,
            "a key of an account is needed: Authorization: Bearer KEY, or as the password",
            headers={"WWW-Authenticate": REALM},
        )
    request[VIEWER] = viewer
    name = request[VIEWER_NAME] = (viewer, access.source(request))
    if request.path.endswith(LIVE):  # the hub bounds these
        return await handler(request)
    of_viewers, most = request.app[_OF_VIEWERS], share(request.app[SERVICE].settings.history.max_requests)
    if in_work.locked() or of_viewers[name] >= most:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once", headers={"Retry-After": "1"})
    of_viewers[name] += 1
    try:
        async with in_work:
            return await handler(request)
    finally:
        of_viewers[name] -= 1
        if not of_viewers[name]:
            del of_viewers[name]


async def _add_headers(request: web.Request, answer: web.StreamResponse) -> None:
    request[_BEGUN] = answer
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    if answer.headers.setdefault("Cache-Control", _NO_STORE) == _NO_STORE and VIEWER in request:
        state = request.app[SERVICE].state
        if state.ever_connected:
            answer.headers[AS_OF] = machine_time(int(state.since) * 1_000_000)
            answer.headers[BEHIND] = str(sum(state.lag.values()))
    answer.headers["Server"] = "mailstreams"


def _unanswered(why: str) -> Refused:
    logger.error("the database does not answer: %s", why)
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the database does not answer now", headers={"Retry-After": "5"})


def _bad_cursor() -> Refused:
    how = {"name": "cursor", "detail": "take next_cursor of the answer before, or leave it out"}
    return Refused(HTTPStatus.BAD_REQUEST, "the cursor is none that we gave", errors=[how])


def _too_slow() -> Refused:
    words = "the question takes too long; ask for less: a longer text, or fewer days"
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, words)


def _full() -> Refused:
    words = "as many live views are open as may be"
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, words, headers={"Retry-After": "60"})


_OF_OURS: Final[Mapping[type[Exception], Callable[[], Refused]]] = {
    CursorError: _bad_cursor,
    TooSlowError: _too_slow,
    FullError: _full,
}


def answer_of(request: web.Request, refused: Refused) -> web.Response:
    """Return a refusal in the form that the client reads: JSON or HTML."""
    if request.path.startswith(API):
        answer = problem(refused.status, refused.detail, errors=refused.errors, headers=refused.headers)
    else:
        text = request.app[SERVICE].error_page(request, refused)
        headers = dict(refused.headers)
        answer = web.Response(status=refused.status, text=text, content_type="text/html", headers=headers)
    if refused.closes:
        answer.force_close()
    return answer


def _of_aiohttp(error: web.HTTPException) -> Refused:
    words = {
        HTTPStatus.NOT_FOUND: "there is nothing here",
        HTTPStatus.METHOD_NOT_ALLOWED: "this cannot be asked so",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"a request may have {MAX_BODY_BYTES} bytes",
    }
    status = HTTPStatus(error.status)
    allow = error.headers.get("Allow")
    return Refused(status, words.get(status, status.phrase), headers={"Allow": allow} if allow else {})


def not_found(what: str) -> NoReturn:
    """Refuse what does not exist, or not for this viewer: the answer is the same.

    Raises:
        Refused: always.
    """
    raise Refused(HTTPStatus.NOT_FOUND, f"no {what} of this name; if it was sent just now, look again in a moment")


async def ask(request: web.Request, question: Callable[[sa.Connection, Viewer], _T]) -> _T:
    """Query the database outside the event loop; ``question`` sees one consistent state."""
    service, viewer = request.app[SERVICE], request[VIEWER]

    def read() -> _T:
        with service.database.read() as connection:
            return question(connection, viewer)

    return await by_reader(request, read)


async def by_reader(request: web.Request, work: Callable[[], _T]) -> _T:
    """Run something in a thread of the readers.

    Raises:
        Refused: that takes too long, or all threads are stuck in questions to a database that does not answer.
    """
    service = request.app[SERVICE]
    try:
        async with asyncio.timeout(service.settings.history.query_timeout_s + PATIENCE_S):
            return await asyncio.get_running_loop().run_in_executor(service.readers, work)
    except TimeoutError as error:
        raise _unanswered(type(error).__name__) from None


async def in_time(request: web.Request, reading: Awaitable[_T]) -> _T:
    """Wait for a request's body, at most for the read timeout."""
    limit_s = request.app[SERVICE].settings.history.read_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            return await reading
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {limit_s:g} s") from None


async def write(request: web.Request, answer: web.StreamResponse, some: bytes) -> None:
    """Write a part of an answer.

    Raises:
        ConnectionResetError: the reader left, or did not read for ``WRITE_TIMEOUT_S``.
    """
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await answer.write(some)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError from None


class Parameters:
    """The parameters of a request, from its query, form or JSON. ``done`` refuses those that were not taken.

    Args:
        given: Names and values; a list of texts, or a text with commas, means several values.
        of_program: An empty value is wrong, but for the cursor. A form sends all its fields; of a program it is a
            variable that was not set, and without the condition it would get everything.
    """

    def __init__(self, given: Mapping[str, Any], *, of_program: bool = False) -> None:
        self._given = {name: value for name, value in given.items() if value is not None and value != ""}
        self._taken: set[str] = set()
        self._errors: list[dict[str, str]] = []
        if of_program:
            empty = [name for name, value in given.items() if name != "cursor" and _is_empty(value)]
            self._errors.extend({"name": name[:64], "detail": "is empty: leave it out"} for name in empty[:5])

    def text(self, name: str, *, most: int = _LONGEST) -> str | None:
        """Take a text; None: it is missing."""
        self._taken.add(name)
        value = self._given.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.wrong(name, "must be a text")
            return None
        if len(value) > most or "\x00" in value or not _is_unicode(value):
            self.wrong(name, f"must have at most {most} characters, and none that is no text")
            return None
        return value.strip() or None

    def cursor(self) -> str | None:
        """Take where a list goes on; None: at its beginning."""
        return self.text("cursor", most=_LONGEST_CURSOR)

    def texts(self, name: str, allowed: Sequence[str]) -> tuple[str, ...]:
        """Take some of the allowed texts."""
        self._taken.add(name)
        value = self._given.get(name)
        if value is None:
            return ()
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(part in allowed for part in parts if isinstance(part, str)):
            self.wrong(name, f"must be of: {', '.join(allowed)}")
            return ()
        if not all(isinstance(part, str) for part in parts):
            self.wrong(name, "must be texts")
            return ()
        return tuple(dict.fromkeys(parts))

    def day(self, name: str) -> date | None:
        """Take a day."""
        text = self.text(name)
        if text is None:
            return None
        try:
            if len(text) != len("2026-01-31"):
                raise ValueError  # noqa: TRY301 - Python takes other forms of ISO 8601 too
            return date.fromisoformat(text)
        except ValueError:
            self.wrong(name, "must be a day such as 2026-01-31")
            return None

    def number(self, name: str, default: int, most: int) -> int:
        """Take a number from 1 on."""
        self._taken.add(name)
        value = self._given.get(name, default)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(most)):
            value = int(value)
        if type(value) is not int or not 1 <= value <= most:
            self.wrong(name, f"must be a number from 1 to {most}")
            return default
        return value

    def flag(self, name: str) -> bool:
        """Take true or false."""
        self._taken.add(name)
        value = self._given.get(name, False)
        if type(value) is not bool:
            self.wrong(name, "must be true or false")
            return False
        return value

    def filter(self, *, with_status: bool = True) -> Filter:
        """Take the filter that all lists have."""
        first, last = self.day("from"), self.day("to")
        if first is not None and last is not None and first > last:
            self.wrong("from", "must not be after to")
        return Filter(
            statuses=self.texts("status", STATUSES) if with_status else (),
            account=self.text("account"),
            provider=self.text("provider"),
            first_day=first,
            last_day=last,
        )

    def searched(self, name: str, *, prefix: bool) -> str | None:
        """Take a text to search for."""
        text = self.text(name, most=LONGEST_SEARCH)
        if text is not None and prefix and len(text) < SHORTEST_PREFIX:
            self.wrong(name, f"must have at least {SHORTEST_PREFIX} characters to be a beginning")
        return text

    def wrong(self, name: str, detail: str) -> None:
        """Note what is wrong."""
        self._errors.append({"name": name, "detail": detail})

    def done(self) -> None:
        """Refuse the request if something is wrong with it.

        Raises:
            Refused: with everything that is wrong.
        """
        known = ", ".join(sorted(self._taken))
        unknown = [name for name in self._given if name not in self._taken]
        self._errors.extend({"name": name[:64], "detail": f"is not known here; known: {known}"} for name in unknown[:5])
        if self._errors:
            raise Refused(HTTPStatus.BAD_REQUEST, "something that was asked for is wrong", errors=self._errors)


def _is_empty(value: object) -> bool:
    return not value.strip() if isinstance(value, str) else value == []


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be written in UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def form_of(request: web.Request) -> Parameters:
    """Return the parameters of a form, as browsers send it.

    Raises:
        Refused: it is not a form, or does not come in time.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be that of a form")
    body = await in_time(request, request.read())
    try:
        pairs = parse_qsl(body.decode(), encoding="utf-8", errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Refused(HTTPStatus.BAD_REQUEST, "the form cannot be read") from None
    return Parameters({name: ",".join(value for other, value in pairs if other == name) for name, _ in pairs})


def query_of(request: web.Request) -> Parameters:
    """Return the parameters of a request's query; a name that occurs twice has several values."""
    query = request.query
    given = {name: ",".join(query.getall(name)) for name in query}
    return Parameters(given, of_program=request.path.startswith(API))
