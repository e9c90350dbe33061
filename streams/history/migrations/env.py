"""Run by Alembic: the migrations, on the connection that ``Database.open`` brings."""

from alembic import context

from streams.history.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
