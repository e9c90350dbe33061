"""Recipients are searched with their domain in its own letters: müller.example, and not xn--mller-kva.example."""

import sqlalchemy as sa
from alembic import op

from streams.domain.events import searched_recipient

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply it."""
    table = sa.table("deliveries", sa.column("delivery_id"), sa.column("recipient_key"))
    connection = op.get_bind()
    coded = sa.select(table).where(table.c.recipient_key.like("%xn--%"))
    for delivery_id, key in connection.execute(coded).all():
        one = sa.update(table).where(table.c.delivery_id == delivery_id)
        connection.execute(one.values(recipient_key=searched_recipient(key)))
