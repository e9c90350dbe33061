"""The database's versions, oldest first; run at each start by ``database.migrate``."""
