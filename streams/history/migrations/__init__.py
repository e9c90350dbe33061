"""The database's versions, oldest first; run at each start by ``Database.open``."""
