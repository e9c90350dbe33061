"""Rows -> what a page or an answer shows.

The rules: each question names the accounts that may be seen, and is bounded: a page
is a range of one index, from a cursor (keyset) and never by an offset. What people
type reaches the database as a parameter only.

The table ``counts`` says on which days a filter has anything, and so how far back a
page has to look: a filter that fits few rows does not read them all.
"""

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import sqlalchemy as sa

from streams import codecs
from streams.history import schema
from streams.history.access import Viewer
from streams.history.projection import DAY, key_of, recipient_key, reference_key
from streams.history.timeline import Change, Entry, attempts_of, last_deferral, open_alert, timeline

STATUSES: Final = ("sent", "delivered", "opened", "bounced", "deferred", "dropped")
MOST_EVENTS: Final = 500
"""Events of a delivery that are shown; an image may be loaded 100,000 times."""
SHORTEST_PREFIX: Final = 2
LONGEST_SEARCH: Final = 1000
_ABOVE_ALL: Final = "\U0010ffff"
_EPOCH: Final = date(1970, 1, 1)
_LAST_DAY: Final = (date.max - _EPOCH).days

_table: Final = schema.deliveries


class CursorError(ValueError):
    """The cursor is none that we gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which deliveries; nothing said: all. Days are those of ``first_received_at``, in UTC."""

    statuses: tuple[str, ...] = ()
    account: str | None = None
    provider: str | None = None
    first_day: date | None = None
    last_day: date | None = None


@dataclass(slots=True, kw_only=True)
class Item:
    """A delivery as it stands."""

    record: Mapping[str, Any]
    """The record of ``mail.status-changed``."""
    reference: str | None
    """The record's, else what an event said since."""
    invoice_id: str | None
    first_received_at: int
    received_at: int
    deferred_since: int | None
    alert: Mapping[str, Any] | None = None
    """The newest alert, while its deferral goes on."""
    attempts: int = 0
    answer: Mapping[str, Any] | None = None
    """The newest deferral's event, while it is deferred and the events were asked for."""
    entries: list[Entry] | None = None
    """The timeline, if it was asked for."""
    more_events: int = 0
    """Events that the timeline leaves out: the oldest ones."""
    machine_opened: bool = False
    """A machine loaded the tracking image: the record says so, or an event that came since."""

    @property
    def delivery_id(self) -> str:
        """Its id."""
        return str(self.record["delivery_id"])

    @property
    def advice(self) -> Mapping[str, Any]:
        """What it means and what to do: the alert's while there is one, as it knows how long it has lasted."""
        advice = (self.alert or self.record).get("advice")
        return advice if isinstance(advice, dict) else {}


@dataclass(slots=True, kw_only=True)
class Page:
    """Some deliveries, and where the next ones begin."""

    items: list[Item] = field(default_factory=list)
    next_cursor: str | None = None


# --- lists -----------------------------------------------------------------------------------------------------------


def newest(connection: sa.Connection, viewer: Viewer, chosen: Filter, cursor: str | None, size: int) -> Page:
    """Return deliveries, the newest first.

    Raises:
        CursorError: of the cursor.
    """
    columns = (_table.c.first_received_at, _table.c.delivery_id)
    after = _decoded(cursor, (int, str))
    span = _span(connection, viewer, chosen, None if after is None else after[0], size)
    if span is None:
        return Page()
    conditions = [*_visible(viewer), *_matching(chosen), columns[0] >= span[0] * DAY, columns[0] < (span[1] + 1) * DAY]
    return _page(connection, columns, conditions, after, size, descending=True)


def search(
    connection: sa.Connection,
    viewer: Viewer,
    chosen: Filter,
    *,
    reference: str | None = None,
    recipient: str | None = None,
    prefix: bool = False,
    cursor: str | None = None,
    size: int,
) -> Page:
    """Return deliveries by reference or by recipient; the newest of each first, the last of the alphabet first.

    Args:
        connection: To read from.
        viewer: Who asks.
        chosen: Further conditions.
        reference: What to look for; this or the next.
        recipient: The address.
        prefix: What begins so fits too.
        cursor: Where to go on.
        size: Most deliveries.

    Raises:
        CursorError: of the cursor.
    """
    if reference is not None:
        column, key = _table.c.reference_key, reference_key(reference)
    else:
        column, key = _table.c.recipient_key, recipient_key(recipient or "")
    fits = [column >= key, column < key + _ABOVE_ALL] if prefix else [column == key]
    columns = (column, _table.c.first_received_at, _table.c.delivery_id)
    conditions = [*fits, *_visible(viewer), *_matching(chosen), *_days(chosen)]
    return _page(connection, columns, conditions, _decoded(cursor, (str, int, str)), size, descending=True)


def invoice(
    connection: sa.Connection, viewer: Viewer, invoice_id: str, cursor: str | None, size: int, *, with_timeline: bool
) -> Page:
    """Return all deliveries of a reference, the newest first.

    Raises:
        CursorError: of the cursor.
    """
    columns = (_table.c.first_received_at, _table.c.delivery_id)
    conditions = [_table.c.invoice_id == invoice_id, *_visible(viewer)]
    page = _page(connection, columns, conditions, _decoded(cursor, (int, str)), size, descending=True)
    if with_timeline:
        _add_timelines(connection, page.items)
    return page


def deferred(connection: sa.Connection, viewer: Viewer, chosen: Filter, cursor: str | None, size: int) -> Page:
    """Return the deliveries that are deferred now, the one that waits longest first.

    Raises:
        CursorError: of the cursor.
    """
    columns = (_table.c.deferred_since, _table.c.delivery_id)
    conditions = [columns[0].is_not(None), *_visible(viewer), *_matching(chosen), *_days(chosen)]
    page = _page(connection, columns, conditions, _decoded(cursor, (int, str)), size, descending=False)
    _add_attempts(connection, page.items)
    return page


def delivery(connection: sa.Connection, viewer: Viewer, delivery_id: str) -> Item | None:
    """Return one delivery with its timeline; None: there is none that may be seen."""
    rows = connection.execute(sa.select(_table).where(_table.c.delivery_id == delivery_id, *_visible(viewer))).all()
    items = _items(connection, rows)
    _add_timelines(connection, items)
    return items[0] if items else None


# --- counts ----------------------------------------------------------------------------------------------------------


def count(connection: sa.Connection, viewer: Viewer, chosen: Filter) -> dict[str, int]:
    """Return how many deliveries there are of each status, whatever status was chosen; the six come first."""
    table = schema.counts
    rows = connection.execute(
        sa.select(table.c.status, sa.func.sum(table.c.deliveries))
        .where(*_counted(viewer, chosen, with_status=False))
        .group_by(table.c.status)
    )
    return dict.fromkeys(STATUSES, 0) | {status: int(number) for status, number in rows}


def facets(connection: sa.Connection, viewer: Viewer) -> tuple[list[str], list[str]]:
    """Return the accounts and the providers that there are to choose from."""
    table = schema.counts
    accounts, providers = (
        list(connection.scalars(sa.select(column).where(*_counted(viewer, Filter())).distinct().order_by(column)))
        for column in (table.c.account, table.c.provider)
    )
    return accounts, providers


def _span(
    connection: sa.Connection, viewer: Viewer, chosen: Filter, before: int | None, size: int
) -> tuple[int, int] | None:
    """Return the first and the last day within which the page must lie; None: there is nothing.

    Of the cursor's own day an unknown part is on earlier pages, so it is not counted on.
    """
    table = schema.counts
    last = _LAST_DAY if before is None else before // DAY
    rows = connection.execute(
        sa.select(table.c.day, sa.func.sum(table.c.deliveries))
        .where(*_counted(viewer, chosen), table.c.day <= last)
        .group_by(table.c.day)
        .order_by(table.c.day.desc())
    )
    newest_day, oldest_day, certain = None, None, 0
    for day, number in rows:
        newest_day = day if newest_day is None else newest_day
        oldest_day = day
        certain += 0 if before is not None and day == last else int(number)
        if certain > size:
            break
    return None if newest_day is None or oldest_day is None else (oldest_day, newest_day)


# --- conditions ------------------------------------------------------------------------------------------------------


def _visible(viewer: Viewer) -> list[sa.ColumnElement[bool]]:
    return [] if viewer.accounts is None else [_in(_table.c.account, viewer.accounts)]


def _matching(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if chosen.statuses:
        found.append(_in(_table.c.status, chosen.statuses))
    if chosen.account is not None:
        found.append(_table.c.account == key_of(chosen.account))
    if chosen.provider is not None:
        found.append(_table.c.provider == key_of(chosen.provider))
    return found


def _days(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    column, found = _table.c.first_received_at, []
    if chosen.first_day is not None:
        found.append(column >= _day(chosen.first_day) * DAY)
    if chosen.last_day is not None:
        found.append(column < (_day(chosen.last_day) + 1) * DAY)
    return found


def _counted(viewer: Viewer, chosen: Filter, *, with_status: bool = True) -> list[sa.ColumnElement[bool]]:
    table, found = schema.counts, []
    if viewer.accounts is not None:
        found.append(_in(table.c.account, viewer.accounts))
    if chosen.account is not None:
        found.append(table.c.account == key_of(chosen.account))
    if chosen.provider is not None:
        found.append(table.c.provider == key_of(chosen.provider))
    if with_status and chosen.statuses:
        found.append(_in(table.c.status, chosen.statuses))
    if chosen.first_day is not None:
        found.append(table.c.day >= _day(chosen.first_day))
    if chosen.last_day is not None:
        found.append(table.c.day <= _day(chosen.last_day))
    return found


def _in(column: sa.Column[Any], values: Collection[str]) -> sa.ColumnElement[bool]:
    """Return a condition that an index serves: one value needs no list."""
    keys = sorted(map(key_of, values))
    return column == keys[0] if len(keys) == 1 else column.in_(keys)


def _day(day: date) -> int:
    return (day - _EPOCH).days


# --- pages -----------------------------------------------------------------------------------------------------------


def _page(
    connection: sa.Connection,
    columns: Sequence[sa.Column[Any]],
    conditions: Iterable[sa.ColumnElement[bool]],
    after: tuple[Any, ...] | None,
    size: int,
    *,
    descending: bool,
) -> Page:
    """Return a page in the order of ``columns``, which together name a delivery and are a beginning of an index."""
    query = sa.select(_table).where(*conditions).limit(size + 1)
    query = query.order_by(*(column.desc() if descending else column.asc() for column in columns))
    if after is not None:
        place, last = sa.tuple_(*columns), sa.tuple_(*after, types=[column.type for column in columns])
        query = query.where(place < last if descending else place > last)
    rows = connection.execute(query).all()
    page = Page(items=_items(connection, rows[:size]))
    if len(rows) > size:
        page.next_cursor = _encoded([getattr(rows[size - 1], column.name) for column in columns])
    return page


def _encoded(place: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(codecs.encode(place)).rstrip(b"=").decode()


def _decoded(cursor: str | None, types: Sequence[type]) -> tuple[Any, ...] | None:
    if cursor is None:
        return None
    try:
        place = codecs.decode(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        place = None
    if not isinstance(place, list) or [type(part) for part in place] != list(types):
        message = "the cursor is none of ours"
        raise CursorError(message)
    if any(isinstance(part, int) and not 0 <= part < 1 << 63 for part in place) or "\x00" in str(place):
        message = "the cursor is none of ours"
        raise CursorError(message)
    return tuple(place)


def _items(connection: sa.Connection, rows: Sequence[Any]) -> list[Item]:
    waiting = [row.delivery_id for row in rows if row.deferred_since is not None]
    alerts = _alerts(connection, waiting)
    items = []
    for row in rows:
        record = codecs.decode(row.record)
        alert = open_alert(
            alerts.get(row.delivery_id, ()),
            status=row.status,
            first_received_at=row.first_received_at,
            episode=row.episode,
        )
        said = (alert or record).get("attempts")
        items.append(
            Item(
                record=record,
                reference=row.reference,
                invoice_id=row.invoice_id,
                first_received_at=row.first_received_at,
                received_at=row.received_at,
                deferred_since=row.deferred_since,
                alert=alert,
                attempts=said if isinstance(said, int) else 0,
                machine_opened=record.get("machine_opened") is True,
            )
        )
    return items


def _alerts(connection: sa.Connection, delivery_ids: Collection[str]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    if not delivery_ids:
        return found
    table = schema.alerts
    for row in connection.execute(sa.select(table).where(table.c.delivery_id.in_(delivery_ids))):
        found.setdefault(row.delivery_id, []).append(codecs.decode(row.record))
    return found


def _add_attempts(connection: sa.Connection, items: Sequence[Item]) -> None:
    """Count the attempts anew: between two changes of status only the events tell of them."""
    table = schema.events
    found: dict[str, list[Mapping[str, Any]]] = {}
    query = sa.select(table.c.delivery_id, table.c.record).where(
        table.c.delivery_id.in_([item.delivery_id for item in items]), table.c.type == "deferred"
    )
    for row in connection.execute(query):
        found.setdefault(row.delivery_id, []).append(codecs.decode(row.record))
    for item in items:
        deferrals = found.get(item.delivery_id, ())
        item.attempts = attempts_of(deferrals, item.attempts)
        item.answer = last_deferral(deferrals)


def _add_timelines(connection: sa.Connection, items: Sequence[Item]) -> None:
    """Read what happened to each."""
    events, changes = schema.events, schema.changes
    alerts = _alerts(connection, [item.delivery_id for item in items])
    for item in items:
        here = events.c.delivery_id == item.delivery_id
        newest_first = (
            sa.select(events.c.record)
            .where(here)
            .order_by(events.c.received_at.desc(), events.c.event_id.desc())
            .limit(MOST_EVENTS)
        )
        told = [codecs.decode(record) for record in connection.scalars(newest_first)]
        if len(told) == MOST_EVENTS:
            total = connection.scalar(sa.select(sa.func.count()).select_from(events).where(here)) or 0
            item.more_events = total - MOST_EVENTS
        rows = connection.execute(
            sa.select(changes).where(
                changes.c.delivery_id == item.delivery_id, changes.c.first_received_at == item.first_received_at
            )
        )
        item.entries = timeline(
            told,
            [
                Change(
                    revision=row.revision,
                    status=row.status,
                    bounce_kind=row.bounce_kind,
                    received_at=row.received_at,
                    occurred_at=row.occurred_at,
                    cause_event_id=row.cause_event_id,
                )
                for row in rows
            ],
            alerts.get(item.delivery_id, ()),
        )
        item.machine_opened = item.machine_opened or any(event.get("type") == "machine_open" for event in told)
        if item.deferred_since is not None:
            item.attempts = attempts_of(told, item.attempts)
            item.answer = last_deferral(told)
