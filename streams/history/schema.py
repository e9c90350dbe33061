"""The tables of the history. A record is kept whole, as it was in the topic; the other columns are for searching.

Times are integers: microseconds since 1970-01-01T00:00:00Z. Text that is compared or ordered is compared byte by byte
(collation "C" in PostgreSQL, BINARY in SQLite), so that a prefix is a range of an index.

The rule: a change here needs a new file in ``migrations/versions``; a test compares the two.
"""

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text
from sqlalchemy.dialects import postgresql

metadata: Final = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_name)s"})

Key: Final = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Text that is compared or ordered."""


def _column(name: str, type_: Any, *, key: bool = False, null: bool = False) -> Column[Any]:
    return Column(name, type_, primary_key=key, nullable=null, autoincrement=False)


deliveries: Final = Table(
    "deliveries",
    metadata,
    _column("delivery_id", Key, key=True),
    _column("account", Key),
    _column("provider", Key),
    _column("status", Key),
    _column("first_received_at", BigInteger),  # with the revision: which record of a delivery is newer
    _column("revision", BigInteger),
    _column("received_at", BigInteger),  # of the last change
    _column("reference", Text, null=True),  # from the record, else from a later event
    _column("reference_key", Key, null=True),  # as it is searched: in lower case
    _column("invoice_id", Key, null=True),  # a digest of the reference: names it in a URL
    _column("recipient_key", Key),
    _column("deferred_since", BigInteger, null=True),  # while it is deferred: from the status, or from an alert
    _column("episode", BigInteger, null=True),  # the revision with which it became deferred; null: not seen
    _column("record", Text),
)
"""The newest record of ``mail.status-changed`` of each delivery."""

_BY_TIME: Final = (deliveries.c.first_received_at, deliveries.c.delivery_id)
Index("ix_deliveries_newest", *_BY_TIME)
Index("ix_deliveries_account", deliveries.c.account, *_BY_TIME)
Index("ix_deliveries_kind", deliveries.c.account, deliveries.c.provider, deliveries.c.status, *_BY_TIME)
Index("ix_deliveries_account_invoice", deliveries.c.account, deliveries.c.invoice_id, *_BY_TIME)
Index("ix_deliveries_account_reference", deliveries.c.account, deliveries.c.reference_key, *_BY_TIME)
Index("ix_deliveries_account_recipient", deliveries.c.account, deliveries.c.recipient_key, *_BY_TIME)
Index("ix_deliveries_received", deliveries.c.received_at)  # for retention
Index(
    "ix_deliveries_deferred",
    deliveries.c.deferred_since,
    deliveries.c.delivery_id,
    sqlite_where=deliveries.c.deferred_since.is_not(None),
    postgresql_where=deliveries.c.deferred_since.is_not(None),
)

Index(
    "ix_deliveries_deferred_kind",
    deliveries.c.account,
    deliveries.c.provider,
    deliveries.c.deferred_since,
    deliveries.c.delivery_id,
    sqlite_where=deliveries.c.deferred_since.is_not(None),
    postgresql_where=deliveries.c.deferred_since.is_not(None),
)

changes: Final = Table(
    "changes",
    metadata,
    _column("delivery_id", Key, key=True),
    _column("first_received_at", BigInteger, key=True),
    _column("revision", BigInteger, key=True),
    _column("status", Text),
    _column("bounce_kind", Text, null=True),
    _column("received_at", BigInteger),
    _column("occurred_at", BigInteger, null=True),
    _column("cause_event_id", Text, null=True),
    sqlite_with_rowid=False,
)
"""Every change of a status: how a delivery came to be what it is."""

events: Final = Table(
    "events",
    metadata,
    _column("delivery_id", Key, key=True),
    _column("event_id", Key, key=True),
    _column("type", Text),
    _column("received_at", BigInteger),
    _column("reference", Text, null=True),
    _column("record", Text),
    sqlite_with_rowid=False,  # one tree, in the order of deliveries, instead of two
)
"""The records of ``mail.events``, each event once."""

alerts: Final = Table(
    "alerts",
    metadata,
    _column("id", Key, key=True),
    _column("delivery_id", Key),
    _column("first_received_at", BigInteger),
    _column("episode", BigInteger),
    _column("level", Text),
    _column("record", Text),
)
"""The records of ``mail.deferral-alerts``, each alert once."""

Index("ix_alerts_delivery", alerts.c.delivery_id)

counts: Final = Table(
    "counts",
    metadata,
    _column("day", Integer, key=True),  # days since 1970-01-01 of first_received_at, in UTC
    _column("account", Key, key=True),
    _column("provider", Key, key=True),
    _column("status", Key, key=True),
    _column("deliveries", BigInteger),
)
"""How many rows of ``deliveries`` there are of each kind. Stored, as counting a million takes too long for a page."""

Index("ix_counts_account", counts.c.account, counts.c.day)

kinds: Final = Table(
    "kinds",
    metadata,
    _column("account", Key, key=True),
    _column("provider", Key, key=True),
    _column("status", Key, key=True),
    _column("deliveries", BigInteger),
)
"""The same for all days together: few rows, which say in which ranges of the indexes a filter finds anything."""

offsets: Final = Table(
    "offsets",
    metadata,
    _column("topic", Key, key=True),
    _column("partition", Integer, key=True),
    _column("next_offset", BigInteger),
)
"""The next offsets to read. Written in the same transaction as the rows, so that both are there or neither is."""
