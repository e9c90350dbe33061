"""Rows -> what a page or an answer shows.

The rules: each query names the accounts that may be seen, and is bounded: a page is
read from ranges of one index, each from a cursor (keyset) and never by an offset. No
more of a range is read than the page may have. What people type reaches the database
only as a parameter.

An index begins with the columns of the filter, so that rows of other accounts, or of
another status, are not read. The table ``kinds`` says which account, provider and status
occur together, and so which ranges exist: a filter is one range for each kind that it
matches. A search with further conditions looks at ``WINDOW`` deliveries at a time; then
a page may have few items, or none, and still a cursor.
"""

import base64
import binascii
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final

import sqlalchemy as sa

from streams import codecs
from streams.domain.events import EventType, normalised_reference, shown_address
from streams.domain.status import Status, believable
from streams.history import schema
from streams.history.access import Viewer
from streams.history.projection import DAY, event_key, invoice_id, key_of, recipient_key, reference_key
from streams.history.timeline import (
    Change,
    Entry,
    advice_of,
    attempts_of,
    deferral_of,
    last_deferral,
    timeline,
    unheeded_since,
)
from streams.history.words import micros

STATUSES: Final = tuple(status.value for status in Status)
MOST_EVENTS: Final = 500
"""Events of a delivery that are shown; an image may be loaded 100,000 times."""
MOST_ON_PAGE: Final = 1500
"""Events of all deliveries on a page of an invoice: a page is made in less than half a second, and loaded at each change."""
MACHINE_OPEN: Final = EventType.MACHINE_OPEN.value
_THINNED: Final = (EventType.OPEN.value, EventType.CLICK.value, MACHINE_OPEN)
"""Events that are left out first, unless they made a change of status."""
MOST_TIMELINES: Final = 20
"""Deliveries on one page of an invoice."""
SHORTEST_PREFIX: Final = 2
LONGEST_SEARCH: Final = 1000
WINDOW: Final = 1000
"""Deliveries that are looked at for one page, if no index covers the whole filter."""
MOST_COUNTED: Final = 10_000
"""Deliveries that are counted one by one."""
_ABOVE_ALL: Final = "\U0010ffff"
_EPOCH: Final = date(1970, 1, 1)
_AT_ONCE: Final = 500
"""Deliveries fetched by one statement."""

_table: Final = schema.deliveries
_BY_TIME: Final = (_table.c.first_received_at, _table.c.delivery_id)
_NOT_OURS: Final = "the cursor is none of ours"


class CursorError(ValueError):
    """The cursor was not made by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which deliveries; by default all. Days are those of ``first_received_at``, in UTC."""

    statuses: tuple[str, ...] = ()
    account: str | None = None
    provider: str | None = None
    first_day: date | None = None
    last_day: date | None = None


@dataclass(slots=True, kw_only=True)
class Item:
    """A delivery in its present state."""

    record: Mapping[str, Any]
    """Its newest status: the record of ``mail.status-changed``, or of ``mail.status`` if that says something better since."""
    reference: str | None
    """From the record, else from a later event."""
    invoice_id: str | None
    first_received_at: int
    received_at: int
    deferred_since: int | None
    """While it waits: from the record, or from an alert that knows of an earlier deferral."""
    alert: Mapping[str, Any] | None = None
    """The newest alert, while its deferral goes on."""
    forgotten: Mapping[str, Any] | None = None
    """The alert that the delivery expired without a final event; the record's status is still deferred."""
    attempts: int = 0
    answer: Mapping[str, Any] | None = None
    """The deferred event whose answer counts, while it is deferred and the events were read."""
    entries: list[Entry] | None = None
    """The timeline, if it was asked for."""
    shown_events: int = 0
    """How many events the timeline has."""
    more_events: int = 0
    """How many events the timeline leaves out: opens and clicks first, and the oldest first."""
    begins_earlier: bool = False
    """The timeline lacks its beginning: the topics did not keep it, or it was not read yet."""
    unheeded_since: int | None = None
    """When we received a final word that the status lacks, if the events were read and there is one; µs."""
    machine_opened: bool = False
    """A machine loaded the tracking image: the record says so, or an event that came since."""

    @property
    def happened_at(self) -> tuple[int, int | None]:
        """When the status changed, and the provider's time if that is not believable, else None; µs."""
        said = micros(self.record.get("occurred_at"))
        at = believable(said, self.received_at)
        return (self.received_at, said) if at is None else (at, None)

    @property
    def retry_until(self) -> int | None:
        """While deferred: until when the provider tries, as far as is known; µs."""
        found = (micros(said.get("retry_until")) for said in (self.alert, self.record) if said is not None)
        return next((until for until in found if until is not None), None)

    @property
    def delivery_id(self) -> str:
        """Its id."""
        return str(self.record["delivery_id"])

    @property
    def advice(self) -> Mapping[str, Any]:
        """What it means and what to do: from the alert, if any: it knows how long it has lasted or how it ended."""
        return advice_of(self.alert or self.forgotten or self.record, time.time_ns() // 1000)


@dataclass(slots=True, kw_only=True)
class Page:
    """Some deliveries, and where the next ones begin."""

    items: list[Item] = field(default_factory=list)
    next_cursor: str | None = None


# --- lists -----------------------------------------------------------------------------------------------------------


def newest(connection: sa.Connection, viewer: Viewer, chosen: Filter, cursor: str | None, size: int) -> Page:
    """Return deliveries, the newest first.

    Raises:
        CursorError: the cursor was not made by us.
    """
    after = _decoded(cursor, (int, str))
    bounds, (first, until) = [], _days(chosen)
    if first is not None:
        bounds.append(_table.c.first_received_at >= first)
    if until is not None and (after is None or after[0] >= until):
        bounds.append(_table.c.first_received_at < until)  # else the cursor is the narrower bound
        after = None
    accounts = _accounts(viewer, chosen)
    if chosen.statuses or chosen.provider is not None:
        index, ranges = "ix_deliveries_kind", _of_kinds(connection, viewer, chosen)
    elif accounts is not None:
        index, ranges = "ix_deliveries_account", [[_table.c.account == account] for account in accounts]
    else:
        index, ranges = "ix_deliveries_newest", [[]]
    return _page(connection, _Order(index, _BY_TIME), [[*each, *bounds] for each in ranges], after, size)


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
    """Return deliveries by reference or by recipient, of one text the newest first.

    Those that have the very text come first; then those that begin with it, in reverse alphabetical order.

    Args:
        connection: To read from.
        viewer: Who asks.
        chosen: Further conditions.
        reference: What to look for; this or the next.
        recipient: The address.
        prefix: Texts that begin like this match, too.
        cursor: Where to go on.
        size: Most deliveries.

    Raises:
        CursorError: the cursor was not made by us.
    """
    if reference is not None:
        index, column, key = "ix_deliveries_account_reference", _table.c.reference_key, reference_key(reference)
    else:
        index, column = "ix_deliveries_account_recipient", _table.c.recipient_key
        key = recipient_key(shown_address(recipient or ""))
    after = _decoded(cursor, (str, int, str))
    if after is not None and not (after[0].startswith(key) if prefix else after[0] == key):
        raise CursorError(_NOT_OURS)
    accounts = _accounts_there(connection, viewer, chosen)
    among = [*_matching(chosen), *_within_days(chosen)]

    def read(fits: Sequence[sa.ColumnElement[bool]], constant: int, after: tuple[Any, ...] | None, size: int) -> Page:
        ranges = [[_table.c.account == account, *fits] for account in accounts]
        return _page(
            connection, _Order(index, (column, *_BY_TIME), constant=constant), ranges, after, size, among=among
        )

    page = Page()
    if after is None or after[0] == key:
        page = read([column == key], 1, after, size)
        if page.next_cursor is not None or not prefix:
            return page
        after = None
    left = size - len(page.items)
    others = read([column > key, *([column < key + _ABOVE_ALL] if after is None else [])], 0, after, max(left, 1))
    if left:
        page.items += others.items
        page.next_cursor = others.next_cursor
    elif others.items or others.next_cursor is not None:  # they begin on the next page
        last = page.items[-1]
        page.next_cursor = _encoded((key, last.first_received_at, last.delivery_id))
    return page


def invoice(
    connection: sa.Connection,
    viewer: Viewer,
    invoice_id: str,
    cursor: str | None,
    size: int = MOST_TIMELINES,
    *,
    most_events: int | None = None,
) -> Page:
    """Return all deliveries of a reference, the newest first, each with its timeline.

    Args:
        connection: To read from.
        viewer: Who asks.
        invoice_id: The digest of the reference.
        cursor: Where to go on.
        size: Most deliveries.
        most_events: Of all of them together; each gets the same share. None: only each has its limit.

    Raises:
        CursorError: the cursor was not made by us.
    """
    ranges = [
        [_table.c.account == account, _table.c.invoice_id == invoice_id]
        for account in _accounts_there(connection, viewer, Filter())
    ]
    order = _Order("ix_deliveries_account_invoice", _BY_TIME)
    page = _page(connection, order, ranges, _decoded(cursor, (int, str)), size)
    share = MOST_EVENTS if most_events is None else most_events // max(1, len(page.items))
    _add_timelines(connection, page.items, min(MOST_EVENTS, share))
    return page


def invoice_of(connection: sa.Connection, viewer: Viewer, reference: str) -> str | None:
    """Return the id of a reference's invoice: that of the reference as it is written, else that of its only spelling.

    Spellings are those that a search finds for it: they differ in the case of letters. If there is none, it is the id of
    the reference as it is written, which no delivery has; if there are several, None.
    """
    exact, sought = invoice_id(reference), normalised_reference(reference)
    accounts = _accounts_there(connection, viewer, Filter())
    spellings: set[str] = set()
    for index, column, key in (
        ("ix_deliveries_account_invoice", _table.c.invoice_id, exact),
        ("ix_deliveries_account_reference", _table.c.reference_key, key_of(sought)),
    ):
        for account in accounts:
            some = sa.select(_table.c.invoice_id, _table.c.reference).limit(WINDOW)
            some = some.where(_table.c.account == account, column == key)
            for row in connection.execute(some.with_hint(_table, f"INDEXED BY {index}", "sqlite")):
                if row.invoice_id == exact:
                    return exact
                if normalised_reference(row.reference) == sought:  # the key may be cut
                    spellings.add(row.invoice_id)
    if len(spellings) > 1:
        return None
    return spellings.pop() if spellings else exact


def deferred(connection: sa.Connection, viewer: Viewer, chosen: Filter, cursor: str | None, size: int) -> Page:
    """Return the deliveries that are deferred now, the one that waits longest first.

    Raises:
        CursorError: the cursor was not made by us.
    """
    index, ranges = _waiting(connection, viewer, chosen)
    order = _Order(index, (_table.c.deferred_since, _table.c.delivery_id), descending=False)
    among = _within_days(chosen)
    page = _page(connection, order, ranges, _decoded(cursor, (int, str)), size, among=among)
    _add_attempts(connection, page.items)
    return page


def _waiting(
    connection: sa.Connection, viewer: Viewer, chosen: Filter
) -> tuple[str, list[list[sa.ColumnElement[bool]]]]:
    """Return an index, and its ranges that hold the deferred deliveries; days are not considered."""
    index = "ix_deliveries_deferred"
    kinds: list[list[sa.ColumnElement[bool]]] = [[]]
    if chosen.provider is not None or _accounts(viewer, chosen) is not None:
        index = "ix_deliveries_deferred_kind"
        kinds = _of_kinds(connection, viewer, replace(chosen, statuses=(Status.DEFERRED,)), with_status=False)
    return index, [[*each, _table.c.deferred_since.is_not(None)] for each in kinds]


def delivery(connection: sa.Connection, viewer: Viewer, delivery_id: str) -> Item | None:
    """Return one delivery with its timeline; None: there is none that may be seen."""
    rows = connection.execute(sa.select(_table).where(_table.c.delivery_id == delivery_id)).all()
    accounts = _accounts(viewer, Filter())
    rows = [row for row in rows if accounts is None or row.account in accounts]
    items = _items(connection, rows)
    _add_timelines(connection, items, MOST_EVENTS)
    return items[0] if items else None


# --- counts ----------------------------------------------------------------------------------------------------------


def count(connection: sa.Connection, viewer: Viewer, chosen: Filter) -> dict[str, int]:
    """Return how many deliveries there are of each status, whatever status was chosen; the six come first."""
    table = schema.kinds if _days(chosen) == (None, None) else schema.counts
    rows = connection.execute(
        sa.select(table.c.status, sa.func.sum(table.c.deliveries))
        .where(*_counted(table, viewer, chosen))
        .group_by(table.c.status)
    )
    return dict.fromkeys(STATUSES, 0) | {status: int(number) for status, number in rows}


def count_deferred(connection: sa.Connection, viewer: Viewer, chosen: Filter) -> int:
    """Return how many deliveries are deferred now; ``MOST_COUNTED`` means this many or more.

    Forgotten deliveries are not counted: they still have the status, but wait no more.
    """
    index, ranges = _waiting(connection, viewer, chosen)
    number = 0
    for conditions in ranges:
        if number == MOST_COUNTED:
            break
        some = sa.select(_table.c.delivery_id).where(*conditions, *_within_days(chosen)).limit(MOST_COUNTED - number)
        some = some.with_hint(_table, f"INDEXED BY {index}", "sqlite")
        number += connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0
    return number


def facets(connection: sa.Connection, viewer: Viewer) -> tuple[list[str], list[str]]:
    """Return the accounts and the providers to choose from."""
    kinds = _kinds(connection, viewer, Filter())
    return sorted({kind.account for kind in kinds}), sorted({kind.provider for kind in kinds})


def _kinds(connection: sa.Connection, viewer: Viewer, chosen: Filter) -> Sequence[Any]:
    """Return each account, provider and status that occur together and match."""
    table = schema.kinds
    conditions = _counted(table, viewer, replace(chosen, first_day=None, last_day=None))
    if chosen.statuses:
        conditions.append(_in(table.c.status, chosen.statuses))
    return connection.execute(sa.select(table.c.account, table.c.provider, table.c.status).where(*conditions)).all()


def _counted(table: sa.Table, viewer: Viewer, chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """Return conditions for ``counts`` or ``kinds``, whatever status was chosen."""
    found: list[sa.ColumnElement[bool]] = []
    accounts = _accounts(viewer, chosen)
    if accounts is not None:
        found.append(_in(table.c.account, accounts))
    if chosen.provider is not None:
        found.append(table.c.provider == key_of(chosen.provider))
    if chosen.first_day is not None:
        found.append(table.c.day >= _day(chosen.first_day))
    if chosen.last_day is not None:
        found.append(table.c.day <= _day(chosen.last_day))
    return found


# --- conditions ------------------------------------------------------------------------------------------------------


def _accounts(viewer: Viewer, chosen: Filter) -> list[str] | None:
    """Return the accounts that may be seen and were chosen; None: all."""
    seen = None if viewer.accounts is None else sorted(set(map(key_of, viewer.accounts)))
    if chosen.account is None:
        return seen
    one = key_of(chosen.account)
    return [one] if seen is None or one in seen else []


def _accounts_there(connection: sa.Connection, viewer: Viewer, chosen: Filter) -> list[str]:
    """Return the accounts that may be seen, were chosen and have any deliveries."""
    return sorted({kind.account for kind in _kinds(connection, viewer, Filter(account=chosen.account))})


def _of_kinds(
    connection: sa.Connection, viewer: Viewer, chosen: Filter, *, with_status: bool = True
) -> list[list[sa.ColumnElement[bool]]]:
    """Return the ranges of a filter."""
    found = []
    for kind in _kinds(connection, viewer, chosen):
        found.append([_table.c.account == kind.account, _table.c.provider == kind.provider])
        if with_status:
            found[-1].append(_table.c.status == kind.status)
    return found


def _matching(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if chosen.statuses:
        found.append(_in(_table.c.status, chosen.statuses))
    if chosen.provider is not None:
        found.append(_table.c.provider == key_of(chosen.provider))
    return found


def _days(chosen: Filter) -> tuple[int | None, int | None]:
    """Return where the days begin and end, in µs."""
    first = None if chosen.first_day is None else _day(chosen.first_day) * DAY
    return first, None if chosen.last_day is None else (_day(chosen.last_day) + 1) * DAY


def _within_days(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    column, found, (first, until) = _table.c.first_received_at, [], _days(chosen)
    if first is not None:
        found.append(column >= first)
    if until is not None:
        found.append(column < until)
    return found


def _in(column: sa.Column[Any], values: Collection[str]) -> sa.ColumnElement[bool]:
    return column.in_(sorted(map(key_of, values)))


def _day(day: date) -> int:
    return (day - _EPOCH).days


# --- pages -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    """An index, and the order that it has within a range."""

    index: str
    place: tuple[sa.Column[Any], ...]
    """These columns together identify a delivery; the last one is its id."""
    constant: int = 0
    """How many of the first columns have a single value in every range."""
    descending: bool = True


def _page(
    connection: sa.Connection,
    order: _Order,
    ranges: Iterable[Sequence[sa.ColumnElement[bool]]],
    after: tuple[Any, ...] | None,
    size: int,
    *,
    among: Sequence[sa.ColumnElement[bool]] = (),
) -> Page:
    """Return a page of the deliveries in any of the ranges; no index covers ``among``."""
    most = max(WINDOW, size) + 1 if among else size + 1
    places: list[tuple[Any, ...]] = []
    for conditions in ranges:
        places += _places(connection, order, conditions, after, most)
        places.sort(reverse=order.descending)
        del places[most:]
    found: dict[str, Any] = {}
    for start in range(0, len(places), _AT_ONCE):
        names = [place[-1] for place in places[start : start + _AT_ONCE]]
        rows = connection.execute(sa.select(_table).where(_table.c.delivery_id.in_(names), *among))
        found |= {row.delivery_id: row for row in rows}
        if len(found) > size:
            break
    fitting = [place for place in places if place[-1] in found]
    page = Page(items=_items(connection, [found[place[-1]] for place in fitting[:size]]))
    if len(fitting) > size:
        page.next_cursor = _encoded(fitting[size - 1])
    elif len(places) == most:
        page.next_cursor = _encoded(places[-1])
    return page


def _places(
    connection: sa.Connection,
    order: _Order,
    conditions: Sequence[sa.ColumnElement[bool]],
    after: tuple[Any, ...] | None,
    most: int,
) -> list[tuple[Any, ...]]:
    """Return the first places of a range after a place. It reads only the index, and no more of it than it returns."""
    varying = order.place[order.constant :]
    query = sa.select(*order.place).where(*conditions).limit(most)
    query = query.with_hint(_table, f"INDEXED BY {order.index}", "sqlite")
    query = query.order_by(*(column.desc() if order.descending else column.asc() for column in varying))
    if after is not None:
        place = sa.tuple_(*varying)
        last = sa.tuple_(*after[order.constant :], types=[column.type for column in varying])
        query = query.where(place < last if order.descending else place > last)
    return [tuple(row) for row in connection.execute(query)]


def _encoded(place: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(codecs.encode(place)).rstrip(b"=").decode()


def _decoded(cursor: str | None, types: Sequence[type]) -> tuple[Any, ...] | None:
    if cursor is None:
        return None
    place: Any
    try:
        place = codecs.decode(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        place = None
    if not isinstance(place, list) or [type(part) for part in place] != list(types):
        raise CursorError(_NOT_OURS)
    if not all(0 <= part < 1 << 63 if isinstance(part, int) else _is_text(part) for part in place):
        raise CursorError(_NOT_OURS)
    return tuple(place)


def _is_text(part: str) -> bool:
    """Tell whether a database accepts it: PostgreSQL refuses NUL, and half of a surrogate pair is no text."""
    return "\x00" not in part and not any("\ud800" <= char <= "\udfff" for char in part)


def _items(connection: sa.Connection, rows: Sequence[Any]) -> list[Item]:
    alerts = _alerts(connection, [row.delivery_id for row in rows if row.status == Status.DEFERRED])
    items = []
    for row in rows:
        record = codecs.decode(row.record)
        deferral = deferral_of(
            alerts.get(row.delivery_id, ()), first_received_at=row.first_received_at, episode=row.episode
        )
        said = (deferral.alert or deferral.forgotten or record).get("attempts")
        items.append(
            Item(
                record=record,
                reference=row.reference,
                invoice_id=row.invoice_id,
                first_received_at=row.first_received_at,
                received_at=row.received_at,
                deferred_since=row.deferred_since,
                alert=deferral.alert,
                forgotten=deferral.forgotten,
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
    """Count the attempts again: the events may be ahead of the status."""
    table = schema.events
    found: dict[str, list[Mapping[str, Any]]] = {}
    began = {item.delivery_id: item.first_received_at for item in items}
    query = sa.select(table.c.delivery_id, table.c.received_at, table.c.record).where(
        table.c.delivery_id.in_(began), table.c.type == EventType.DEFERRED.value
    )
    for row in connection.execute(query):
        if row.received_at >= began[row.delivery_id]:  # else it is from a former life
            found.setdefault(row.delivery_id, []).append(codecs.decode(row.record))
    for item in items:
        deferrals = found.get(item.delivery_id, ())
        item.attempts = attempts_of(deferrals, item.attempts)
        item.answer = last_deferral(deferrals)


def _add_timelines(connection: sa.Connection, items: Sequence[Item], most: int) -> None:
    """Read the timeline of each, with at most so many events."""
    events, changes = schema.events, schema.changes
    alerts = _alerts(connection, [item.delivery_id for item in items])
    for item in items:
        here = events.c.delivery_id == item.delivery_id
        rows = connection.execute(
            sa.select(changes)
            .where(changes.c.delivery_id == item.delivery_id, changes.c.first_received_at == item.first_received_at)
            .order_by(changes.c.revision)
        ).all()
        causes = [event_key(row.cause_event_id) for row in rows[-most:] if row.cause_event_id]
        weight = sa.case((events.c.event_id.in_(causes), 0), (events.c.type.in_(_THINNED), 2), else_=1)
        weightiest = (
            sa.select(events.c.received_at, events.c.record)
            .where(here)
            .order_by(weight, events.c.received_at.desc(), events.c.event_id.desc())
            .limit(most)
        )
        received = [(row.received_at, codecs.decode(row.record)) for row in connection.execute(weightiest)]
        told = [event for _, event in received]
        by_machine = any(event.get("type") == MACHINE_OPEN for event in told)
        item.shown_events = len(told)
        if len(told) == most:
            kinds = sa.select(events.c.type, sa.func.count().label("number")).where(here).group_by(events.c.type)
            numbers = {row.type: row.number for row in connection.execute(kinds)}
            item.more_events = sum(numbers.values()) - most
            by_machine = MACHINE_OPEN in numbers
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
        item.machine_opened = item.machine_opened or by_machine
        item.begins_earlier = (
            not item.more_events
            and all(at > item.first_received_at for at, _ in received)
            and all(row.revision > 1 for row in rows)
        )
        of_this_life = [(at, event) for at, event in received if at >= item.first_received_at]
        item.unheeded_since = unheeded_since(item.record.get("status"), of_this_life)
        if item.deferred_since is not None or item.forgotten is not None:
            present = [event for _, event in of_this_life]
            item.attempts = attempts_of(present, item.attempts)
            item.answer = last_deferral(present)
