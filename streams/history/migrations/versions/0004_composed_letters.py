"""References and recipients are searched with their letters composed (NFC), also those that an older version wrote."""

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply it."""
    table = sa.table("deliveries", *map(sa.column, ("delivery_id", "reference_key", "recipient_key")))
    connection = op.get_bind()
    for column in (table.c.reference_key, table.c.recipient_key):
        lettered = sa.select(table.c.delivery_id, column).where(column.regexp_match("[^ -~]"))
        for delivery_id, key in connection.execute(lettered).all():
            if (composed := unicodedata.normalize("NFC", key)) != key:
                one = sa.update(table).where(table.c.delivery_id == delivery_id)
                connection.execute(one.values({column.name: composed}))
