"""Records -> rows: one transaction for each batch, with the offsets in it.

The rule: a record that is read again changes nothing. A change is identified by
(delivery id, first_received_at, revision), and a delivery's row is the greatest of its
statuses in that order: ``mail.status-changed`` has no tombstones, so a delivery that
begins again has a later ``first_received_at``. Between two changes ``mail.status``
repeats the revision with a better answer, list, reference or cause: the last such
record counts, and it is no change. An event and an alert are identified by their own
ids. Offsets are moved only if they are still as they were read: so two processes that
write to one database notice at once.

A record that cannot be understood is left out and counted. It is still in the topic,
and blocks nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from streams import codecs, records, topics
from streams.domain.events import normalised_reference, searched_recipient
from streams.domain.status import Status, believable
from streams.history import schema
from streams.history.database import Database
from streams.history.timeline import deferral_of
from streams.history.words import micros

TOPICS: Final = (topics.STATUS_CHANGED, topics.STATUS, topics.EVENTS, topics.DEFERRAL_ALERTS)
"""The topics that the history is made of."""

LONGEST_KEY: Final = 200
"""Characters of an indexed column: with four bytes each they fit into a page of PostgreSQL."""
DAY: Final = 24 * 3600 * 1_000_000
_AT_ONCE: Final = 500
"""Keys in one query."""

_LARGEST: Final = 2**63 - 1
_T = TypeVar("_T")
_Row = dict[str, Any]
"""A row of a table, by the names of its columns."""

Partition = tuple[str, int]
"""Topic and number."""
Batch = Mapping[Partition, Sequence[tuple[int, bytes | None]]]
"""(offset, value) of records of some partitions, each in order and with none left out."""


class Outcome(StrEnum):
    """What became of a record: a closed set, fit for a metric's label."""

    APPLIED = "applied"
    KNOWN = "known"  # it says nothing new: read before, older than what is known, or a tombstone
    MALFORMED = "malformed"


class Touched(NamedTuple):
    """A delivery that has news."""

    delivery_id: str
    account: str
    invoice_id: str | None
    status: str
    revision: int


@dataclass(slots=True)
class Applied:
    """What a batch did."""

    touched: list[Touched] = field(default_factory=list)
    outcomes: dict[tuple[str, Outcome], int] = field(default_factory=lambda: defaultdict(int))
    """Records by topic and what became of them."""
    malformed: list[tuple[str, int, int, str]] = field(default_factory=list)
    """(topic, partition, offset, reason) of the malformed records; the reason holds no personal data."""


class MovedError(RuntimeError):
    """The offsets are no longer as they were read: another process writes to this database."""


def invoice_id(reference: str) -> str:
    """Return the id of all deliveries of a reference in a URL: 32 hexadecimal digits that reveal nothing of it."""
    return _digest(reference)


def reference_key(reference: str) -> str:
    """Return a reference as it is searched."""
    return key_of(normalised_reference(reference))


def recipient_key(recipient: str) -> str:
    """Return an address as it is searched."""
    return key_of(searched_recipient(recipient))


def key_of(text: str) -> str:
    """Return a text that fits into an index."""
    return text.replace("\x00", "\ufffd")[:LONGEST_KEY]


def event_key(event_id: str) -> str:
    """Return the key of an event: its id if that fits into an index, else a digest."""
    return event_id if len(event_id) <= LONGEST_KEY else f"long:{_digest(event_id)}"


def read_offsets(connection: sa.Connection) -> dict[Partition, int]:
    """Return the next offset to read, of each partition of which anything was read."""
    table = schema.offsets
    return {(row.topic, row.partition): row.next_offset for row in connection.execute(sa.select(table))}


def apply(
    database: Database,
    batch: Batch,
    positions: Mapping[Partition, int],
    following: Mapping[Partition, int] = MappingProxyType({}),
) -> Applied:
    """Write a batch of records, and the next offsets to read.

    Args:
        database: Open.
        batch: The records.
        positions: The next offsets that the database held, of the partitions that it knew.
        following: The next offsets to read, where nobody else knows them: of partitions without records in the batch,
            and behind their records, where markers of transactions and aborted records take offsets, too.

    Raises:
        MovedError: the database holds other offsets now.
        sqlalchemy.exc.DBAPIError: the database cannot be written to. Nothing was written.
    """
    applied = Applied()
    news = _News(applied)
    for (topic, partition), rows in sorted(batch.items(), key=_topics_place):
        take = _TAKERS[topic]
        for offset, value in rows:
            try:
                take(news, value)
            except (records.RecordError, codecs.DecodeError, OverflowError) as error:
                applied.outcomes[topic, Outcome.MALFORMED] += 1
                applied.malformed.append((topic, partition, offset, str(error)))
    with database.write() as connection:
        read = {place: rows[-1][0] + 1 for place, rows in batch.items()}
        _move(connection, database, {**read, **following}, positions)
        _write(connection, database, news)
    return applied


def clear(database: Database) -> None:
    """Empty all tables, so that everything is read again."""
    with database.write() as connection:
        for table in schema.metadata.sorted_tables:
            connection.execute(sa.delete(table))


def read_again(database: Database) -> None:
    """Let everything be read again, and keep what is known, as long as the workers kept their revisions."""
    with database.write() as connection:
        connection.execute(sa.delete(schema.offsets))


def newest_news(database: Database) -> int | None:
    """Return when the newest change of any status was received, in µs; None: there is no delivery."""
    with database.write() as connection:  # the writer's has no time limit
        newest: int | None = connection.scalar(sa.select(sa.func.max(schema.deliveries.c.received_at)))
    return newest


def forget(database: Database, before: int, *, most: int = 1000) -> int:
    """Delete deliveries whose status has not changed since ``before`` (µs), with all that belongs to them.

    One that is deferred stays for as long as its provider reports attempts, although these change nothing.

    Returns:
        How many. Call it until it returns 0: each transaction is short, so that new records are not delayed.
    """
    table, events = schema.deliveries, schema.events
    is_tried = sa.exists().where(events.c.delivery_id == table.c.delivery_id, events.c.received_at >= before)
    with database.write() as connection:
        old = connection.execute(
            sa.select(*_KNOWN)
            .where(table.c.received_at < before, sa.or_(table.c.deferred_since.is_(None), ~is_tried))
            .order_by(table.c.received_at)
            .limit(most)
        ).all()
        counted: dict[tuple[int, str, str, str], int] = defaultdict(int)
        for row in old:
            counted[row.first_received_at // DAY, row.account, row.provider, row.status] -= 1
        for some in _chunks((row.delivery_id for row in old), _AT_ONCE):
            for each in (schema.deliveries, schema.changes, schema.events, schema.alerts):
                connection.execute(sa.delete(each).where(each.c.delivery_id.in_(some)))
        _count(connection, database, counted)
    return len(old)


def forget_strays(database: Database, after: str, before: int, *, most: int = 1000) -> str | None:
    """Delete events and alerts from before ``before`` (µs) whose delivery does not exist; one call looks at some of them.

    An event that makes no change of status may come after its delivery was forgotten, and so may an alert.

    Args:
        database: Open.
        after: Where to begin: empty, then what the last call returned.
        before: Events received later are kept, and alerts of deliveries that began later: their first status may be still to come.
        most: Deliveries to look at.

    Returns:
        Where the next call begins; None: that was all.
    """
    ages = {schema.events: schema.events.c.received_at, schema.alerts: schema.alerts.c.first_received_at}
    with database.write() as connection:
        named: set[str] = set()
        for table in ages:
            names = sa.select(table.c.delivery_id).where(table.c.delivery_id > after).distinct()
            named.update(connection.scalars(names.order_by(table.c.delivery_id).limit(most)))
        seen = sorted(named)[:most]
        known = _known(connection, seen)
        for some in _chunks((name for name in seen if name not in known), _AT_ONCE):
            for table, age in ages.items():
                connection.execute(sa.delete(table).where(table.c.delivery_id.in_(some), age < before))
    return seen[-1] if len(seen) == most else None


def _topics_place(item: tuple[Partition, Any]) -> int:
    """Return what puts the changes before their copies in ``mail.status``, which then need no decoding."""
    return TOPICS.index(item[0][0])


# --- what the records say --------------------------------------------------------------------------------------------


class _News:
    """The contents of a batch, decoded."""

    def __init__(self, applied: Applied) -> None:
        self.applied = applied
        self.statuses: list[tuple[str, _Row]] = []
        """By topic: rows of ``deliveries`` as they would be if nothing else were known."""
        self.changes: list[_Row] = []
        self.events: list[_Row] = []
        self.alerts: list[_Row] = []
        self._decoded: dict[bytes | None, _Row] = {}
        """Rows by what they were made of: half of the batch may be copies in ``mail.status``."""

    def take_change(self, value: bytes | None) -> None:
        row, change = _rows_of_status(value)
        self.statuses.append((topics.STATUS_CHANGED, row))
        self.changes.append(change)
        self._decoded[value] = row

    def take_status(self, value: bytes | None) -> None:
        if value is None:  # the worker forgot the delivery; the history keeps it for a time of its own
            self.applied.outcomes[topics.STATUS, Outcome.KNOWN] += 1
            return
        row = self._decoded.get(value)
        self.statuses.append((topics.STATUS, _rows_of_status(value)[0] if row is None else row.copy()))

    def take_event(self, value: bytes | None) -> None:
        fields = records.json_object(value)
        event_id = _text(fields, "event_id")
        self.events.append(
            {
                "delivery_id": _text(fields, "delivery_id"),
                "event_id": event_key(event_id),
                "type": key_of(_text(fields, "type")),
                "received_at": _time(fields, "received_at"),
                "reference": _clean(_text_or_none(fields, "reference")),
                "record": _whole(value),
            }
        )

    def take_alert(self, value: bytes | None) -> None:
        fields = records.decode_alert(value)
        self.alerts.append(
            {
                "id": _text(fields, "id"),
                "delivery_id": _text(fields, "delivery_id"),
                "first_received_at": _time(fields, "first_received_at"),
                "episode": _number(fields, "episode"),
                "level": key_of(_text(fields, "level")),
                "record": _whole(value),
            }
        )


_TAKERS: Final = {
    topics.STATUS_CHANGED: _News.take_change,
    topics.STATUS: _News.take_status,
    topics.EVENTS: _News.take_event,
    topics.DEFERRAL_ALERTS: _News.take_alert,
}
_NAMES: Final = frozenset({"delivery_id", "id"})
"""Ids that we made, and short: they are used as keys unchanged."""


def _rows_of_status(value: bytes | None) -> tuple[_Row, _Row]:
    """Return the row of ``deliveries`` that a status makes by itself, and its row of ``changes`` if it is a change."""
    fields = records.decode_status(value)
    status, revision, received_at = _text(fields, "status"), _number(fields, "revision"), _time(fields, "received_at")
    is_deferred = status == Status.DEFERRED
    both = {
        "delivery_id": _text(fields, "delivery_id"),
        "first_received_at": _time(fields, "first_received_at"),
        "revision": revision,
        "status": key_of(status),
        "received_at": received_at,
    }
    return both | {
        "account": key_of(_text(fields, "account")),
        "provider": key_of(_text(fields, "provider")),
        **_reference_columns(_text_or_none(fields, "reference")),
        "recipient_key": recipient_key(_text(fields, "recipient")),
        "deferred_since": _deferred_since(fields, received_at) if is_deferred else None,
        "episode": revision if is_deferred and fields.get("previous") != Status.DEFERRED else None,
        "record": _whole(value),
    }, both | {
        "bounce_kind": _clean(_text_or_none(fields, "bounce_kind")),
        "occurred_at": _time_or_none(fields, "occurred_at"),
        "cause_event_id": _clean(_text_or_none(fields, "cause_event_id")),
    }


def _text(fields: Mapping[str, Any], name: str) -> str:
    text = fields.get(name)
    if type(text) is not str or not text or (name in _NAMES and (len(text) > LONGEST_KEY or "\x00" in text)):
        raise _wrong(name)
    return _clean(text) or ""


def _text_or_none(fields: Mapping[str, Any], name: str) -> str | None:
    text = fields.get(name)
    if text is not None and type(text) is not str:
        raise _wrong(name)
    return text or None


def _number(fields: Mapping[str, Any], name: str) -> int:
    number = fields.get(name)
    if type(number) is not int or not 0 <= number <= _LARGEST:
        raise _wrong(name)
    return number


def _time(fields: Mapping[str, Any], name: str) -> int:
    if (at := micros(fields.get(name))) is None:
        raise _wrong(name)
    return at


def _time_or_none(fields: Mapping[str, Any], name: str) -> int | None:
    return None if fields.get(name) is None else _time(fields, name)


def _deferred_since(fields: Mapping[str, Any], received_at: int) -> int:
    """Return since when a deferred status says that the delivery is deferred."""
    return _time_or_none(fields, "deferred_since") or received_at


def _wrong(name: str) -> records.RecordError:
    return records.RecordError(f"{name} is missing or has the wrong type")


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _clean(text: str | None) -> str | None:
    """Return a text that PostgreSQL accepts, too: one without NUL."""
    return text.replace("\x00", "\ufffd") if text is not None and "\x00" in text else text


def _whole(value: bytes | None) -> str:
    return (value or b"").decode()


def _reference_columns(reference: str | None) -> dict[str, str | None]:
    if reference is None:
        return {"reference": None, "reference_key": None, "invoice_id": None}
    return {
        "reference": _clean(reference),
        "reference_key": reference_key(reference),
        "invoice_id": invoice_id(reference),
    }


# --- what becomes of the rows ----------------------------------------------------------------------------------------

_table = schema.deliveries
_KNOWN: Final = (
    _table.c.delivery_id,
    _table.c.account,
    _table.c.provider,
    _table.c.status,
    _table.c.first_received_at,
    _table.c.revision,
    _table.c.reference,
    _table.c.reference_key,
    _table.c.invoice_id,
    _table.c.episode,
    _table.c.record,
)


def _write(connection: sa.Connection, database: Database, news: _News) -> None:
    applied = news.applied
    told = {row["delivery_id"] for rows in (news.changes, news.events, news.alerts) for row in rows}
    known = _known(connection, told | {row["delivery_id"] for _, row in news.statuses})
    fresh = _fold(news, known)
    counted: dict[tuple[int, str, str, str], int] = defaultdict(int)
    for row in fresh.values():
        if (old := known.get(row["delivery_id"])) is not None:
            counted[old["first_received_at"] // DAY, old["account"], old["provider"], old["status"]] -= 1
        counted[row["first_received_at"] // DAY, row["account"], row["provider"], row["status"]] += 1

    _insert_new(connection, database, schema.changes, news.changes)
    for topic, table, rows in (
        (topics.EVENTS, schema.events, news.events),
        (topics.DEFERRAL_ALERTS, schema.alerts, news.alerts),
    ):
        inserted = _insert_new(connection, database, table, rows)
        applied.outcomes[topic, Outcome.APPLIED] += inserted
        applied.outcomes[topic, Outcome.KNOWN] += len(rows) - inserted
    _fill_references(connection, news, known, fresh)
    if fresh:
        statement = database.insert(_table)
        columns = {column.name: statement.excluded[column.name] for column in _table.c if not column.primary_key}
        connection.execute(
            statement.on_conflict_do_update(index_elements=["delivery_id"], set_=columns), list(fresh.values())
        )
    _heed_alerts(connection, news, fresh)
    _count(connection, database, counted)
    for delivery_id, row in {**known, **fresh}.items():
        if delivery_id in fresh or delivery_id in told:  # else mail.status repeated what is known
            applied.touched.append(
                Touched(delivery_id, row["account"], row["invoice_id"], row["status"], row["revision"])
            )


def _fold(news: _News, known: Mapping[str, _Row]) -> dict[str, _Row]:
    """Return the new row of each delivery whose newest status is in the batch."""
    fresh: dict[str, _Row] = {}
    outcomes = news.applied.outcomes
    for topic, row in news.statuses:
        delivery_id = row["delivery_id"]
        old: _Row | None = fresh.get(delivery_id) or known.get(delivery_id)
        if old is not None:
            if not _is_newer(topic, row, old):
                outcomes[topic, Outcome.KNOWN] += 1
                continue
            same_life = row["first_received_at"] == old["first_received_at"]
            if same_life and row["deferred_since"] is not None and row["episode"] is None:
                row["episode"] = old["episode"]  # it is still the same deferral
            if row["reference"] is None:
                row |= {name: old[name] for name in ("reference", "reference_key", "invoice_id")}
        outcomes[topic, Outcome.APPLIED] += 1
        fresh[delivery_id] = row
    return fresh


def _is_newer(topic: str, row: _Row, old: _Row) -> bool:
    """Tell whether a status says more than the known one.

    Of two records with one revision the later one on ``mail.status`` counts: the first is a copy of the change, the
    others are better.
    """
    place, known = (row["first_received_at"], row["revision"]), (old["first_received_at"], old["revision"])
    if topic == topics.STATUS and place == known:
        return bool(row["record"] != old["record"])
    return place > known


def _heed_alerts(connection: sa.Connection, news: _News, fresh: Mapping[str, _Row]) -> None:
    """Set ``deferred_since`` from status and alerts together, whichever came first.

    An alert may know of an earlier beginning. And if a delivery was forgotten while it was deferred, only the alert
    that it is resolved says so: no status will follow, and the delivery waits no more.
    """
    told = {row["delivery_id"] for row in news.alerts}
    told.update(delivery_id for delivery_id, row in fresh.items() if row["deferred_since"] is not None)
    table = schema.alerts
    for some in _chunks(sorted(told), _AT_ONCE):
        alerts: dict[str, list[Any]] = defaultdict(list)
        query = sa.select(table.c.delivery_id, table.c.record).where(table.c.delivery_id.in_(some))
        for row in connection.execute(query):
            alerts[row.delivery_id].append(codecs.decode(row.record))
        if not alerts:
            continue
        waiting = sa.select(_table).where(
            _table.c.delivery_id.in_(sorted(alerts)), _table.c.status == Status.DEFERRED.value
        )
        for row in connection.execute(waiting).all():
            found = deferral_of(alerts[row.delivery_id], first_received_at=row.first_received_at, episode=row.episode)
            said = _deferred_since(codecs.decode(row.record), row.received_at)
            earliest = said if found.since is None else min(said, found.since)
            since = None if found.forgotten is not None else earliest
            if since != row.deferred_since:
                one = _table.c.delivery_id == row.delivery_id
                connection.execute(sa.update(_table).where(one).values(deferred_since=since))


def _fill_references(connection: sa.Connection, news: _News, known: dict[str, _Row], fresh: dict[str, _Row]) -> None:
    """Give a delivery whose status names no reference that of its events, in the database and in these rows.

    An event may be read long before the status that it causes. Of several references the last one counts, as in
    ``domain.status``: by the provider's clock, then by the event's id.
    """
    table = schema.events
    without = {delivery_id for delivery_id, row in fresh.items() if row["reference"] is None}
    for row in news.events:
        old = None if row["delivery_id"] in fresh else known.get(row["delivery_id"])
        if row["reference"] is not None and old is not None and old["reference"] is None:
            without.add(row["delivery_id"])
    for some in _chunks(sorted(without), _AT_ONCE):
        query = sa.select(table.c.delivery_id, table.c.event_id, table.c.received_at, table.c.reference, table.c.record)
        said: dict[str, tuple[int, str, str]] = {}
        for found in connection.execute(query.where(table.c.delivery_id.in_(some), table.c.reference.is_not(None))):
            at = believable(micros(codecs.decode(found.record).get("occurred_at")), found.received_at)
            one = (-1 if at is None else at, found.event_id, found.reference)
            said[found.delivery_id] = max(one, said.get(found.delivery_id, one))
        for delivery_id, (_, _, reference) in said.items():
            columns = _reference_columns(reference)
            if delivery_id in fresh:
                fresh[delivery_id] |= columns
            else:
                connection.execute(sa.update(_table).where(_table.c.delivery_id == delivery_id).values(columns))
                known[delivery_id] |= columns


def _known(connection: sa.Connection, delivery_ids: Iterable[str]) -> dict[str, _Row]:
    found: dict[str, _Row] = {}
    for some in _chunks(sorted(delivery_ids), _AT_ONCE):
        for row in connection.execute(sa.select(*_KNOWN).where(_table.c.delivery_id.in_(some))).mappings():
            found[row["delivery_id"]] = dict(row)
    return found


def _insert_new(connection: sa.Connection, database: Database, table: sa.Table, rows: Sequence[_Row]) -> int:
    """Insert the rows whose keys are not there; return how many."""
    if not rows:
        return 0
    statement = database.insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    return connection.execute(statement, rows).rowcount


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _count(connection: sa.Connection, database: Database, counted: Mapping[tuple[int, str, str, str], int]) -> None:
    cells = [
        {"day": day, "account": account, "provider": provider, "status": status, "deliveries": number}
        for (day, account, provider, status), number in counted.items()
        if number
    ]
    of_kind: dict[tuple[str, str, str], int] = defaultdict(int)
    for (_, *kind), number in counted.items():
        of_kind[kind[0], kind[1], kind[2]] += number
    kinds = [
        {"account": account, "provider": provider, "status": status, "deliveries": number}
        for (account, provider, status), number in of_kind.items()
        if number
    ]
    for table, rows in ((schema.counts, cells), (schema.kinds, kinds)):
        if rows:
            statement = database.insert(table)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(table.primary_key.columns),
                    set_={"deliveries": table.c.deliveries + statement.excluded.deliveries},
                ),
                rows,
            )
            connection.execute(sa.delete(table).where(table.c.deliveries == 0))


def _move(
    connection: sa.Connection,
    database: Database,
    following: Mapping[Partition, int],
    positions: Mapping[Partition, int],
) -> None:
    table = schema.offsets
    for partition, next_offset in following.items():
        place = {"topic": partition[0], "partition": partition[1]}
        if partition in positions:
            moved = connection.execute(
                sa.update(table)
                .where(
                    table.c.topic == partition[0],
                    table.c.partition == partition[1],
                    table.c.next_offset == positions[partition],
                )
                .values(next_offset=next_offset)
            )
        else:
            statement = database.insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
            moved = connection.execute(statement, place | {"next_offset": next_offset})
        if moved.rowcount != 1:
            message = "another process writes to this history"
            raise MovedError(message)
