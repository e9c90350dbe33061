"""The JSON interface, ``/api/v1``; ``openapi.json`` beside this file describes it.

The rule: a delivery is its newest record of ``mail.status-changed`` or ``mail.status``,
as their schema describes it, plus what only the history knows. Lists have ``items``
and ``next_cursor``, errors are ``application/problem+json``.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib import resources
from typing import Any, Final

import sqlalchemy as sa
from aiohttp import web

from streams import __version__, codecs
from streams.history import queries
from streams.history.access import VIEWER, Viewer
from streams.history.edge import (
    DELIVERY_ID,
    INVOICE_ID,
    MOST_ITEMS,
    SERVICE,
    Parameters,
    Refused,
    ask,
    in_time,
    not_found,
    query_of,
)
from streams.history.live import Interest
from streams.history.projection import Touched
from streams.history.queries import Item, Page
from streams.history.sse import stream
from streams.history.timeline import Entry
from streams.history.words import machine_time

PREFIX: Final = "/api/v1"


def openapi() -> dict[str, Any]:
    """Return the description of the interface, OpenAPI 3.1."""
    text = resources.files("streams.history").joinpath("openapi.json").read_bytes()
    document: dict[str, Any] = codecs.decode(text)
    document["info"]["version"] = __version__
    return document


def add_routes(app: web.Application) -> None:
    """Add the interface to an application."""
    document = codecs.encode(openapi())

    async def described(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    app.router.add_get(f"{PREFIX}/openapi.json", described)
    app.router.add_get(f"{PREFIX}/deliveries", deliveries)
    app.router.add_get(f"{PREFIX}/deliveries/{{delivery_id:{DELIVERY_ID}}}", delivery)
    app.router.add_post(f"{PREFIX}/search", search)
    app.router.add_post(f"{PREFIX}/history", history)
    app.router.add_get(f"{PREFIX}/invoices/{{invoice_id:{INVOICE_ID}}}", invoice)
    app.router.add_get(f"{PREFIX}/deferrals", deferrals)
    app.router.add_get(f"{PREFIX}/counts", counts)
    app.router.add_get(f"{PREFIX}/live", live, allow_head=False)  # HEAD makes no sense for a stream


async def deliveries(request: web.Request) -> web.Response:
    """Answer with deliveries, the newest first."""
    asked = query_of(request)
    chosen, cursor, size = asked.filter(), asked.cursor(), _size(request, asked)
    asked.done()
    page = await ask(request, lambda connection, viewer: queries.newest(connection, viewer, chosen, cursor, size))
    return _json(_page(page))


async def search(request: web.Request) -> web.Response:
    """Answer with deliveries by reference or recipient. A POST, as an address must not be in a URL."""
    asked = await _body(request)
    prefix = asked.flag("prefix")
    reference, recipient = asked.searched("reference", prefix=prefix), asked.searched("recipient", prefix=prefix)
    if (reference is None) is (recipient is None):
        asked.wrong("reference", "this or recipient is needed, and not both")
    chosen, cursor, size = asked.filter(), asked.cursor(), _size(request, asked)
    asked.done()

    def read(connection: sa.Connection, viewer: Viewer) -> Page:
        return queries.search(
            connection,
            viewer,
            chosen,
            reference=reference,
            recipient=recipient,
            prefix=prefix,
            cursor=cursor,
            size=size,
        )

    return _json(_page(await ask(request, read)))


async def history(request: web.Request) -> web.Response:
    """Answer with the Sending History of a reference. A POST, as a reference may hold anything."""
    asked = await _body(request)
    reference, cursor = asked.text("reference"), asked.cursor()
    if reference is None:
        asked.wrong("reference", "is missing")
    asked.done()
    name = await ask(request, lambda connection, viewer: queries.invoice_of(connection, viewer, reference or ""))
    if name is None:
        raise Refused(HTTPStatus.NOT_FOUND, "several invoices differ from it in the case of letters: search for it")
    return await _history(request, name, cursor)


async def invoice(request: web.Request) -> web.Response:
    """Answer with the Sending History of an invoice's id."""
    asked = query_of(request)
    cursor = asked.cursor()
    asked.done()
    return await _history(request, request.match_info["invoice_id"], cursor)


async def delivery(request: web.Request) -> web.Response:
    """Answer with one delivery and its timeline."""
    query_of(request).done()
    name = request.match_info["delivery_id"]
    item = await ask(request, lambda connection, viewer: queries.delivery(connection, viewer, name))
    if item is None:
        not_found("delivery")
    return _json(_item(item))


async def deferrals(request: web.Request) -> web.Response:
    """Answer with what is deferred now, the longest first."""
    asked = query_of(request)
    chosen, cursor, size = asked.filter(with_status=False), asked.cursor(), _size(request, asked)
    asked.done()
    page = await ask(request, lambda connection, viewer: queries.deferred(connection, viewer, chosen, cursor, size))
    return _json(_page(page))


async def counts(request: web.Request) -> web.Response:
    """Answer with how many deliveries there are of each status."""
    asked = query_of(request)
    chosen = asked.filter(with_status=False)
    asked.done()
    found = await ask(request, lambda connection, viewer: queries.count(connection, viewer, chosen))
    return _json({"total": sum(found.values()), "by_status": found})


async def live(request: web.Request) -> web.StreamResponse:
    """Stream what changes, as server-sent events: ``change`` with the delivery, ``missed`` when there were too many.

    It begins with ``missed``, also when a client connects again: what changed between its reading and its connection would
    be lost otherwise.
    """
    asked = query_of(request)
    interest = Interest(
        accounts=request[VIEWER].accounts, invoice_id=asked.text("invoice_id"), delivery_id=asked.text("delivery_id")
    )
    asked.done()
    return await stream(request, interest, _events, since=_NEVER)


_NEVER: Final = 0
"""No sequence of the hub: whoever connects has missed something."""


def _events(news: Sequence[Touched], missed: bool) -> bytes:
    parts = [b"event: change\ndata: " + codecs.encode(touched._asdict()) + b"\n\n" for touched in news]
    if missed:
        parts.append(b"event: missed\ndata: {}\n\n")
    return b"".join(parts)


async def _history(request: web.Request, name: str, cursor: str | None) -> web.Response:
    page = await ask(request, lambda connection, viewer: queries.invoice(connection, viewer, name, cursor))
    if not page.items:
        not_found("invoice")
    return _json({"invoice_id": page.items[0].invoice_id, "reference": page.items[0].reference, **_page(page)})


async def _body(request: web.Request) -> Parameters:
    if request.content_type != "application/json":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json")
    text = await in_time(request, request.read())
    try:
        body = codecs.decode(text)
    except codecs.DecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
    if not isinstance(body, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    return Parameters(body, of_program=True)


def _size(request: web.Request, asked: Parameters) -> int:
    return asked.number("limit", request.app[SERVICE].settings.history.page_size, MOST_ITEMS)


def _page(page: Page) -> dict[str, Any]:
    return {"items": [_item(item) for item in page.items], "next_cursor": page.next_cursor}


def _item(item: Item) -> dict[str, Any]:
    found: dict[str, Any] = {
        "delivery_id": item.delivery_id,
        "invoice_id": item.invoice_id,
        "reference": item.reference,
        "status": item.record,
        "alert": item.alert,
        "advice": item.advice,
        "attempts": item.attempts,
    }
    if item.entries is not None:
        found["timeline"] = [_entry(entry) for entry in item.entries]
        found["older_events"] = item.more_events
        found["status_is_behind"] = item.unheeded_since is not None
    return found


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "at": machine_time(entry.at),
        "late": entry.late,
        "event": entry.event,
        "alert": entry.alert,
        "became": [
            {"status": change.status, "bounce_kind": change.bounce_kind, "revision": change.revision}
            for change in entry.changes
        ],
    }


def _json(value: Mapping[str, Any]) -> web.Response:
    return web.Response(body=codecs.encode(value), content_type="application/json")
