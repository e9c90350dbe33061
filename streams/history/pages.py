"""The pages: HTML made here, complete without JavaScript; with it, parts are loaded again when something changes.

The rule: no address in a URL. An invoice's page is named by a digest of its reference,
a delivery's by its id, and what was searched for, which comes in the body of a POST, by a random name.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from importlib import resources
from typing import Any, Final
from urllib.parse import urlencode

import sqlalchemy as sa
from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from streams import __version__
from streams.domain.status import to_micros
from streams.history import queries, words
from streams.history.access import VIEWER, Viewer
from streams.history.edge import (
    DELIVERY_ID,
    INVOICE_ID,
    SEQUENCE,
    SERVICE,
    Refused,
    ask,
    by_reader,
    form_of,
    not_found,
    query_of,
)
from streams.history.live import LAST_SEQUENCE, Interest
from streams.history.queries import Filter, Page
from streams.history.searches import Search, Searches
from streams.history.sse import stream
from streams.texts import clean

AWAY_S: Final = 20.0
"""After this long without an answer from the broker, a page says that it may be out of date."""
UNHEEDED_S: Final = 60.0
"""A status that lacks a final word for this long is called out of date; the worker needs much less."""
CALM_S: Final = 0.5
"""Least time between two notices to a page to load again."""

_SEARCHES: Final = web.AppKey("searches", Searches)
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"


def _static() -> dict[str, tuple[bytes, str, str]]:
    """Return the files that pages need: name -> contents, type, digest."""
    found = {}
    for file in resources.files("streams.history").joinpath("static").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _TYPES:
            contents = file.read_bytes()
            found[file.name] = (contents, _TYPES[suffix], hashlib.sha256(contents).hexdigest()[:16])
    return found


_STATIC: Final = _static()


class _Environment(Environment):
    """A field missing in a record is None: an older version may have written it. Any other missing name is an error."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and not hasattr(obj, attribute):
            return obj.get(attribute)
        return super().getattr(obj, attribute)


def _harmless(value: object) -> str:
    """Return a value that came from outside as it may be shown; the template escapes it."""
    return "" if value is None else clean(value)


def _environment() -> Environment:
    environment = _Environment(
        loader=PackageLoader("streams.history"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "harmless": _harmless,
        "micros": words.micros,
        "machine_time": words.machine_time,
        "exact": words.exact,
        "duration": words.duration,
    }
    environment.globals |= {
        "words": words,
        "version": __version__,
        "static": lambda name: f"/static/{name}?{_STATIC[name][2]}",
        "most_events": queries.MOST_EVENTS,
        "most_counted": queries.MOST_COUNTED,
        "statuses": queries.STATUSES,
    }
    return environment


_ENVIRONMENT: Final = _environment()


def add_routes(app: web.Application) -> None:
    """Add the pages to an application."""
    app.router.add_get("/", newest)
    app[_SEARCHES] = Searches()
    app.router.add_post("/search", search)
    app.router.add_get("/search/{search:[A-Za-z0-9_-]{22}}", found)
    app.router.add_get("/invoices", by_reference)
    app.router.add_get(f"/invoices/{{invoice_id:{INVOICE_ID}}}", invoice)
    app.router.add_get(f"/deliveries/{{delivery_id:{DELIVERY_ID}}}", delivery)
    app.router.add_get("/deferred", deferred)
    app.router.add_get("/live", live, allow_head=False)  # a stream knows of no HEAD
    app.router.add_get("/static/{name}", static)


# --- lists -----------------------------------------------------------------------------------------------------------


async def newest(request: web.Request) -> web.Response:
    """Answer with deliveries, the newest first."""
    asked = query_of(request)
    chosen, cursor = asked.filter(), asked.cursor()
    asked.done()
    size = request.app[SERVICE].settings.history.page_size

    def read(connection: sa.Connection, viewer: Viewer) -> dict[str, Any]:
        return {
            "page": queries.newest(connection, viewer, chosen, cursor, size),
            "counts": queries.count(connection, viewer, chosen),
            **_choices(connection, viewer),
        }

    found = await ask(request, read)
    return await _render(
        request,
        "list.html",
        chosen=chosen,
        cursor=cursor,
        chosen_number=sum(
            number for status, number in found["counts"].items() if not chosen.statuses or status in chosen.statuses
        ),
        filters=_query_of(chosen),
        query=lambda **changed: _url("/", _query_of(chosen) | changed),
        **found,
    )


async def search(request: web.Request) -> web.Response:
    """Redirect to what a search finds. A browser goes back there without asking whether to send the form once more."""
    asked = await form_of(request)
    text, cursor, by = (
        asked.searched("q", prefix=True),
        asked.cursor(),
        asked.texts("by", ("reference", "recipient")),
    )
    kinds = by or ("reference", "recipient")
    if cursor is not None and len(kinds) > 1:
        asked.wrong("by", "is needed with a cursor, and only one")
    asked.done()
    if text is None:
        return _see("/")
    name = request.app[_SEARCHES].keep(request[VIEWER], Search(text=text, kinds=kinds, cursor=cursor))
    return _see(f"/search/{name}")


async def found(request: web.Request) -> web.Response:
    """Answer with deliveries whose reference or recipient is, or begins with, the text of a search."""
    query_of(request).done()
    search = request.app[_SEARCHES].find(request[VIEWER], request.match_info["search"])
    if search is None:
        raise Refused(HTTPStatus.NOT_FOUND, "what was searched for is not kept any more: search again")
    size = request.app[SERVICE].settings.history.page_size

    def read(connection: sa.Connection, viewer: Viewer) -> list[tuple[str, Page]]:
        def one(kind: str) -> Page:
            sought: dict[str, Any] = {kind: search.text}
            return queries.search(connection, viewer, Filter(), prefix=True, cursor=search.cursor, size=size, **sought)

        return [(kind, one(kind)) for kind in search.kinds]

    pages = await ask(request, read)
    return await _render(request, "search.html", text=search.text, kinds=search.kinds, found=pages)


async def deferred(request: web.Request) -> web.Response:
    """Answer with what is deferred now, the longest first."""
    asked = query_of(request)
    chosen, cursor = asked.filter(with_status=False), asked.cursor()
    asked.done()
    size = request.app[SERVICE].settings.history.page_size

    def read(connection: sa.Connection, viewer: Viewer) -> dict[str, Any]:
        return {
            "page": queries.deferred(connection, viewer, chosen, cursor, size),
            "number": queries.count_deferred(connection, viewer, chosen),
            **_choices(connection, viewer),
        }

    found = await ask(request, read)
    return await _render(
        request,
        "deferred.html",
        chosen=chosen,
        cursor=cursor,
        filters=_query_of(chosen),
        query=lambda **changed: _url("/deferred", _query_of(chosen) | changed),
        **found,
    )


# --- one invoice, one delivery ---------------------------------------------------------------------------------------


async def by_reference(request: web.Request) -> web.Response:
    """Redirect to the page of a reference: for links in the application, which does not know the digest."""
    asked = query_of(request)
    reference = asked.text("reference")
    if reference is None:
        asked.wrong("reference", "is missing")
    elif "@" in reference:
        asked.wrong("reference", "looks like an address, which must not be in a URL: search for it instead")
    asked.done()
    name = await ask(request, lambda connection, viewer: queries.invoice_of(connection, viewer, reference or ""))
    if name is None:  # several differ from it in the case of letters: whoever asks knows which one is meant
        sought = Search(text=reference or "", kinds=("reference",), cursor=None)
        return _see(f"/search/{request.app[_SEARCHES].keep(request[VIEWER], sought)}")
    return _see(f"/invoices/{name}")


async def invoice(request: web.Request) -> web.Response:
    """Answer with the Sending History of an invoice: every recipient, every resend."""
    asked = query_of(request)
    cursor = asked.cursor()
    asked.done()
    name = request.match_info["invoice_id"]

    def read(connection: sa.Connection, viewer: Viewer) -> Page:
        return queries.invoice(connection, viewer, name, cursor, most_events=queries.MOST_ON_PAGE)

    page = await ask(request, read)
    if not page.items:
        not_found("invoice")
    return await _render(request, "invoice.html", page=page, cursor=cursor, invoice_id=name)


async def delivery(request: web.Request) -> web.Response:
    """Answer with one delivery."""
    query_of(request).done()
    name = request.match_info["delivery_id"]
    item = await ask(request, lambda connection, viewer: queries.delivery(connection, viewer, name))
    if item is None:
        not_found("delivery")
    return await _render(request, "delivery.html", item=item)


# --- live and static -------------------------------------------------------------------------------------------------


async def live(request: web.Request) -> web.StreamResponse:
    """Notify a page, for as long as it is open, to load its contents again."""
    asked = query_of(request)
    one_invoice, one_delivery = asked.text("invoice"), asked.text("delivery")
    since = asked.number("since", 1, LAST_SEQUENCE) if "since" in request.query else None
    asked.done()
    interest = Interest(accounts=request[VIEWER].accounts, invoice_id=one_invoice, delivery_id=one_delivery)
    return await stream(
        request, interest, lambda _news, _missed: b"event: change\ndata: \n\n", since=since, calm_s=CALM_S
    )


async def static(request: web.Request) -> web.Response:
    """Answer with a file that pages need."""
    name = request.match_info["name"]
    if name not in _STATIC:
        not_found("file")
    contents, content_type, digest = _STATIC[name]
    headers = {"Cache-Control": _FOR_EVER if request.query_string == digest else "no-cache"}
    return web.Response(body=contents, content_type=content_type, charset="utf-8", headers=headers)


# --- rendering -------------------------------------------------------------------------------------------------------


def error_page(request: web.Request, refused: Refused) -> str:
    """Return the page of a refusal."""
    return _html(request, "error.html", refused=refused, known=VIEWER in request)  # strangers learn nothing about us


async def _render(request: web.Request, template: str, **values: Any) -> web.Response:
    """Return a page. It is made outside the event loop: one with 1,500 events takes some tenths of a second."""
    made = await by_reader(request, partial(_html, request, template, **values))
    return web.Response(text=made, content_type="text/html")


def _html(request: web.Request, template: str, **values: Any) -> str:
    service = request.app[SERVICE]
    now = datetime.now(UTC)
    heard = service.state.since
    contacts = {name: account.support_contact for name, account in service.settings.accounts.items()}
    return _ENVIRONMENT.get_template(template).render(
        now=now,
        made=to_micros(now),
        relative=lambda at: words.relative(at, now),
        age=lambda at: words.duration(max(0.0, (now.timestamp() * 1_000_000 - at) / 1_000_000)),
        is_out_of_date=lambda item: (
            item.unheeded_since is not None and to_micros(now) - item.unheeded_since > UNHEEDED_S * 1_000_000
        ),
        is_past=lambda at: at < now.timestamp() * 1_000_000,
        away=now.timestamp() - heard > AWAY_S,
        heard=round(heard * 1_000_000) if heard else None,
        behind=sum(service.state.lag.values()),
        contact=contacts.get,
        export_rows=service.settings.history.export_rows,
        path=request.path,
        here=request.path_qs,
        since=request[SEQUENCE],
        **values,
    )


def _see(path: str) -> web.Response:
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": path})


def _choices(connection: sa.Connection, viewer: Viewer) -> dict[str, Any]:
    accounts, providers = queries.facets(connection, viewer)
    return {"accounts": accounts, "providers": providers, "statuses": queries.STATUSES}


def _query_of(chosen: Filter) -> dict[str, str | None]:
    return {
        "status": ",".join(chosen.statuses) or None,
        "account": chosen.account,
        "provider": chosen.provider,
        "from": chosen.first_day.isoformat() if chosen.first_day else None,
        "to": chosen.last_day.isoformat() if chosen.last_day else None,
    }


def _url(path: str, query: Mapping[str, str | None]) -> str:
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path
