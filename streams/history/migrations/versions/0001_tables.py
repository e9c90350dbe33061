"""The tables of the first version."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

_KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_BY_TIME = ("first_received_at", "delivery_id")


def upgrade() -> None:
    """Apply it."""
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", _KEY, nullable=False),
        sa.Column("account", _KEY, nullable=False),
        sa.Column("provider", _KEY, nullable=False),
        sa.Column("status", _KEY, nullable=False),
        sa.Column("first_received_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("reference_key", _KEY, nullable=True),
        sa.Column("invoice_id", _KEY, nullable=True),
        sa.Column("recipient_key", _KEY, nullable=False),
        sa.Column("deferred_since", sa.BigInteger(), nullable=True),
        sa.Column("episode", sa.BigInteger(), nullable=True),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", name="pk_deliveries"),
    )
    op.create_index("ix_deliveries_newest", "deliveries", [*_BY_TIME])
    op.create_index("ix_deliveries_account", "deliveries", ["account", *_BY_TIME])
    op.create_index("ix_deliveries_invoice", "deliveries", ["invoice_id", *_BY_TIME])
    op.create_index("ix_deliveries_reference", "deliveries", ["reference_key", *_BY_TIME])
    op.create_index("ix_deliveries_recipient", "deliveries", ["recipient_key", *_BY_TIME])
    op.create_index("ix_deliveries_received", "deliveries", ["received_at"])
    op.create_index(
        "ix_deliveries_deferred",
        "deliveries",
        ["deferred_since", "delivery_id"],
        sqlite_where=sa.text("deferred_since IS NOT NULL"),
        postgresql_where=sa.text("deferred_since IS NOT NULL"),
    )
    op.create_table(
        "changes",
        sa.Column("delivery_id", _KEY, nullable=False),
        sa.Column("first_received_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("bounce_kind", sa.Text(), nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=True),
        sa.Column("cause_event_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("delivery_id", "first_received_at", "revision", name="pk_changes"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("delivery_id", _KEY, nullable=False),
        sa.Column("event_id", _KEY, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "event_id", name="pk_events"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "alerts",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("delivery_id", _KEY, nullable=False),
        sa.Column("first_received_at", sa.BigInteger(), nullable=False),
        sa.Column("episode", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_delivery", "alerts", ["delivery_id"])
    op.create_table(
        "counts",
        sa.Column("day", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("account", _KEY, nullable=False),
        sa.Column("provider", _KEY, nullable=False),
        sa.Column("status", _KEY, nullable=False),
        sa.Column("deliveries", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "account", "provider", "status", name="pk_counts"),
    )
    op.create_table(
        "offsets",
        sa.Column("topic", _KEY, nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", name="pk_offsets"),
    )
