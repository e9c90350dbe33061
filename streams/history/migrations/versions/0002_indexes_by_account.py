"""Indexes that begin with what is chosen by, and which kinds of deliveries there are."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

_KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_BY_TIME = ("first_received_at", "delivery_id")


def upgrade() -> None:
    """Apply it."""
    op.create_index("ix_deliveries_kind", "deliveries", ["account", "provider", "status", *_BY_TIME])
    for name, column in (("invoice", "invoice_id"), ("reference", "reference_key"), ("recipient", "recipient_key")):
        op.drop_index(f"ix_deliveries_{name}", "deliveries")
        op.create_index(f"ix_deliveries_account_{name}", "deliveries", ["account", column, *_BY_TIME])
    op.create_index(
        "ix_deliveries_deferred_kind",
        "deliveries",
        ["account", "provider", "deferred_since", "delivery_id"],
        sqlite_where=sa.text("deferred_since IS NOT NULL"),
        postgresql_where=sa.text("deferred_since IS NOT NULL"),
    )
    op.create_index("ix_counts_account", "counts", ["account", "day"])
    op.create_table(
        "kinds",
        sa.Column("account", _KEY, nullable=False),
        sa.Column("provider", _KEY, nullable=False),
        sa.Column("status", _KEY, nullable=False),
        sa.Column("deliveries", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", "provider", "status", name="pk_kinds"),
    )
    op.execute(
        "INSERT INTO kinds (account, provider, status, deliveries) "
        "SELECT account, provider, status, sum(deliveries) FROM counts GROUP BY account, provider, status"
    )
