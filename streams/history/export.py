"""CSV, for a spreadsheet. Formula-safe: a cell that a spreadsheet would calculate becomes text.

The rule: a value that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return
gets an apostrophe in front, whatever it is; and every value is quoted. What a stranger
wrote (an address, a server's answer) could otherwise run in the reader's spreadsheet. So
does what follows a semicolon: where that is the system's separator, as in most of Europe,
Excel ends a cell at it, in spite of our quotation marks.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import sqlalchemy as sa
from aiohttp import HttpVersion11, web

from streams.history import queries
from streams.history.access import Viewer
from streams.history.edge import SERVICE, ask, cut, form_of, query_of, write
from streams.history.queries import Filter, Item, Page
from streams.history.words import machine_time
from streams.texts import clean

AT_ONCE: Final = 500
"""Deliveries in one query to the database."""
COLUMNS: Final = (
    "reference",
    "recipient",
    "status",
    "alert",
    "first_received_at",
    "received_at",
    "account",
    "provider",
    "message_id",
    "bounce_kind",
    "smtp_code",
    "enhanced_code",
    "reason",
    "meaning",
    "what_to_do",
    "delivery_id",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - full-width ones count too
_WITHIN: Final = re.compile(r"""(;["'\s]*)(?=[=+\-@＝＋－＠])""")  # noqa: RUF001 - as above
_BOM: Final = "\ufeff"
"""Without it Excel reads UTF-8 as something else."""

More = Callable[[sa.Connection, Viewer, str | None], Page]


def add_routes(app: web.Application) -> None:
    """Add the export to an application."""
    app.router.add_get("/export.csv", newest, allow_head=False)  # HEAD makes no sense for a streamed answer
    app.router.add_post("/export.csv", search)


async def newest(request: web.Request) -> web.StreamResponse:
    """Answer with deliveries, the newest first."""
    asked = query_of(request)
    chosen = asked.filter()
    asked.done()
    return await _answer(
        request, lambda connection, viewer, cursor: queries.newest(connection, viewer, chosen, cursor, AT_ONCE)
    )


async def search(request: web.Request) -> web.StreamResponse:
    """Answer with what a search found."""
    asked = await form_of(request)
    text, by = asked.searched("q", prefix=True), asked.texts("by", ("reference", "recipient"))
    asked.cursor()  # ignored: the whole is exported, not one page
    if text is None or len(by) != 1:
        asked.wrong("q", "and by are needed")
    asked.done()

    def more(connection: sa.Connection, viewer: Viewer, cursor: str | None) -> Page:
        return queries.search(connection, viewer, Filter(), **{by[0]: text}, prefix=True, cursor=cursor, size=AT_ONCE)

    return await _answer(request, more)


async def _answer(request: web.Request, more: More) -> web.StreamResponse:
    most = left = request.app[SERVICE].settings.history.export_rows
    page = await ask(request, partial(_with_cursor, more, None))
    answer = web.StreamResponse(
        headers={
            "Content-Type": "text/csv; charset=utf-8",
            "Content-Disposition": 'attachment; filename="sending-history.csv"',
        }
    )
    await answer.prepare(request)
    try:
        await write(request, answer, (_BOM + _lines([COLUMNS])).encode())
        while True:
            await write(request, answer, _lines(map(row_of, page.items[:left])).encode())
            left -= len(page.items)
            if left < 0 or (left == 0 and page.next_cursor is not None):
                words = (
                    f"THE FILE ENDS HERE: it may have {most} deliveries, and there are more; choose fewer days or less"
                )
                await write(request, answer, _note(words))
                break
            if page.next_cursor is None:
                break
            page = await ask(request, partial(_with_cursor, more, page.next_cursor))
    except ConnectionResetError:
        raise  # the reader left
    except Exception as error:  # noqa: BLE001 - any error leaves half a file, which must not look like a whole one
        if request.version < HttpVersion11:  # there only a line in the file can say so
            await write(request, answer, _note("THE FILE IS NOT WHOLE: something went wrong meanwhile; save it anew"))
        return cut(request, answer, error)
    await answer.write_eof()
    return answer


def _note(words: str) -> bytes:
    """Return a line with a note instead of a delivery."""
    return _lines([[words] + [""] * (len(COLUMNS) - 1)]).encode()


def _with_cursor(more: More, cursor: str | None, connection: sa.Connection, viewer: Viewer) -> Page:
    return more(connection, viewer, cursor)


def row_of(item: Item) -> list[str]:
    """Return the cells of a delivery, in the order of ``COLUMNS``."""
    record = item.record
    known = {
        "reference": item.reference,
        "alert": item.alert["level"] if item.alert else None,
        "first_received_at": machine_time(item.first_received_at),
        "received_at": machine_time(item.received_at),
        "meaning": item.advice.get("meaning"),
        "what_to_do": item.advice.get("what_to_do"),
    }
    return [safe(known[name] if name in known else record.get(name)) for name in COLUMNS]


def safe(value: object) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    cell = _WITHIN.sub(r"\1'", clean(text))
    return f"'{cell}" if text.startswith(_FORMULA) or cell.lstrip().startswith(_FORMULA) else cell


def _lines(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue()
