"""Where the history is kept: SQLite by default, PostgreSQL by a setting; reached through SQLAlchemy either way.

The rule: one process writes. It holds a lock for as long as it runs, and each of its
transactions is one ``Database.write``. Readers have connections that cannot write,
are not blocked by the writer (SQLite's WAL), and give up after a while.
"""

import contextlib
import fcntl
import functools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import DBAPIError, OperationalError

READERS: Final = 4
"""Queries that run at the same time."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK_KEY: Final = 0x6D61696C  # "mail"
_WRITER_CACHE_KIB: Final = 128 * 1024
_READER_CACHE_KIB: Final = 16 * 1024
_CHECKPOINT_PAGES: Final = 16 * 1024
"""64 MiB of the WAL are gathered before a checkpoint: while catching up, each page is moved only once."""
_MMAP_BYTES: Final = 1 << 30
_BUSY_MS: Final = 10_000
_LOOKED_AT: Final = 1000
"""Rows of an index that are looked at to learn how all of them are spread."""
_STEPS: Final = 10_000
"""SQLite's virtual machine looks at the clock after this many instructions, about ten times a millisecond."""
_CANCELLED: Final = "57014"
"""PostgreSQL's query_canceled."""

_NOTICED: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
"""For libpq, unless the URL sets them: a server that is gone is noticed in 15 to 25 s, not in up to two hours."""
_ENCODED: Final = {"client_encoding": "utf8"}
"""For libpq, whatever the URL or the server says: with SQL_ASCII texts would come as bytes."""
_NOTICES: Final = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
"""For the server, in each session: it notices within 25 s that we are gone, and releases our lock."""
LOCK_PATIENCE_S: Final = 30.0
"""How long to wait for PostgreSQL's lock: a host that lost its power holds it until the server notices."""
_DAMAGES: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_DAMAGED: Final = (
    "the file is damaged: delete the file with its -wal and -shm, and put a backup in its place if there is one; "
    "then start the history, and it reads what the topics have"
)
_LOCK_NOT_AVAILABLE: Final = "55P03"
"""PostgreSQL's lock_not_available."""
_WHOSE_LOCK: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks "  # noqa: S608 - of our constant alone
    f"WHERE locktype = 'advisory' AND objid = {_LOCK_KEY} "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class DatabaseError(Exception):
    """The database cannot be used; the text says why, and what to do. It never holds the URL, which has a password."""


class TooSlowError(Exception):
    """A query took longer than it may."""


class Database:
    """The tables of one history.

    Args:
        url: As in the setting ``history.database_url``.
        query_timeout_s: A reader's statement is given up after this long.
    """

    def __init__(self, url: str, *, query_timeout_s: float = 5.0) -> None:
        parsed = sa.make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if not self.is_sqlite:
            told = _NOTICED | dict(parsed.query) | _ENCODED
            parsed = parsed.set(drivername="postgresql+psycopg").update_query_dict(told)
        self.path = Path(parsed.database or "") if self.is_sqlite else None
        """The file, if it is SQLite."""
        self.insert: Any = insert_sqlite if self.is_sqlite else insert_postgresql
        """``INSERT ... ON CONFLICT``: both have it, each in its own dialect."""
        self._lock_file: IO[str] | None = None
        self._lock_connection: sa.Connection | None = None
        self._begun: dict[object, float] = {}
        """When each transaction in work began, by the steady clock."""
        try:
            self._writer = sa.create_engine(parsed, pool_size=1, max_overflow=0, hide_parameters=True)
            self._readers = sa.create_engine(
                parsed,
                pool_size=READERS + 1,  # one more holds PostgreSQL's lock
                max_overflow=0,
                pool_pre_ping=not self.is_sqlite,
                hide_parameters=True,  # parameters hold addresses, and errors get into logs
            )
        except ModuleNotFoundError:
            message = "PostgreSQL's driver is missing; install it beside mailstreams: pip install 'psycopg[binary]'"
            raise DatabaseError(message) from None
        if self.is_sqlite:
            sa.event.listen(self._writer, "connect", functools.partial(_prepare_sqlite, writes=True))
            sa.event.listen(self._writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
            sa.event.listen(self._readers, "connect", functools.partial(_prepare_sqlite, writes=False))
            sa.event.listen(self._readers, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        else:
            limit_ms = round(query_timeout_s * 1000)
            sa.event.listen(self._writer, "connect", functools.partial(_prepare_postgresql, limit_ms=None))
            sa.event.listen(self._readers, "connect", functools.partial(_prepare_postgresql, limit_ms=limit_ms))
        self._query_timeout_s = query_timeout_s

    def open(self) -> None:
        """Become the one writer, and bring the tables up to date.

        Raises:
            DatabaseError: another process writes, the database cannot be reached, or a newer version made its tables.
        """
        try:
            if self.path is not None:  # every recipient's address: for our user alone, unless somebody says more
                self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
                self.path.touch(0o600)
            self._lock()
            self._migrate()
        except OSError as error:
            self.close()
            message = f"the database cannot be used: {error.strerror}"
            raise DatabaseError(message) from None
        except DBAPIError as error:
            self.close()
            message = f"the database cannot be used: {cause(error)}"
            raise DatabaseError(message) from None
        except DatabaseError:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections and release the lock."""
        if self._lock_connection is not None:
            self._lock_connection.close()
            self._lock_connection = None
        self._writer.dispose()
        self._readers.dispose()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Yield a connection within a transaction, which is committed at the end, or not at all after an exception."""
        with self._in_work(), self._writer.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection that sees one consistent state of the database.

        Raises:
            TooSlowError: a statement took longer than it may.
        """
        with self._in_work(), self._readers.connect() as connection:
            dbapi: Any = connection.connection.dbapi_connection
            if self.is_sqlite:
                deadline = time.monotonic() + self._query_timeout_s
                dbapi.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            try:
                yield connection
            except OperationalError as error:
                if _was_given_up(error):
                    raise TooSlowError from None
                raise
            finally:
                if self.is_sqlite:
                    dbapi.set_progress_handler(None, 0)

    def busy_s(self) -> float:
        """Return how long the oldest of the transactions in work has taken; 0: none is in work.

        PostgreSQL's own time limits do not help where it is frozen, or where a proxy before it keeps the connection.
        """
        begun = list(self._begun.values())  # at once: other threads change it
        return time.monotonic() - min(begun) if begun else 0.0

    @contextlib.contextmanager
    def _in_work(self) -> Iterator[None]:
        transaction = object()
        self._begun[transaction] = time.monotonic()
        try:
            yield
        finally:
            del self._begun[transaction]

    def tidy(self) -> None:
        """Let the planner update its statistics about the rows. Cheap; to be done now and then."""
        if self.is_sqlite:
            with self.write() as connection:
                connection.exec_driver_sql(f"PRAGMA analysis_limit = {_LOOKED_AT}")
                # not PRAGMA optimize: it goes by the queries of this session, which are few
                connection.exec_driver_sql("ANALYZE")

    def _lock(self) -> None:
        message = "another process writes to this history (mailstreams history, or its rebuild): stop that one first"
        if self.path is not None:
            self._lock_file = self.path.with_name(self.path.name + ".lock").open("a")
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it however we end
            except OSError:
                raise DatabaseError(message) from None
            return
        # a separate session: PostgreSQL releases the lock when the session ends
        self._lock_connection = self._readers.connect()
        encoding = self._lock_connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":  # the first letter that it lacks would end the process, again after each restart
            message = (
                f"the database has the encoding {encoding} and needs UTF8: "
                "CREATE DATABASE history ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
            )
            raise DatabaseError(message)
        self._lock_connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        self._lock_connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(LOCK_PATIENCE_S * 1000)}")
        try:
            self._lock_connection.execute(sa.select(sa.func.pg_advisory_lock(_LOCK_KEY)))
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            message += f"; if it is gone and PostgreSQL does not know yet, end its session there: {_WHOSE_LOCK}"
            raise DatabaseError(message) from None
        self._lock_connection.commit()

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with self.write() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                message = "a newer version of mailstreams made the database's tables: use that version"
                raise DatabaseError(message) from None


def _prepare_sqlite(connection: Any, _: Any, *, writes: bool) -> None:
    # The driver's own BEGIN comes too late and not before a SELECT; ours come from the event "begin".
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    if writes:
        cursor.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last transactions, offsets included: then they are read again. Nothing breaks.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        cursor.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_PAGES * 4096}")
    else:
        cursor.execute("PRAGMA query_only = ON")
    cursor.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB if writes else _READER_CACHE_KIB}")
    cursor.execute(f"PRAGMA mmap_size = {_MMAP_BYTES}")
    cursor.execute("PRAGMA temp_store = MEMORY")
    cursor.close()


def _prepare_postgresql(connection: Any, _: Any, *, limit_ms: int | None) -> None:
    """Prepare a session; ``limit_ms`` is the time limit of a reader's statements, None for the writer."""
    with connection.cursor() as cursor:
        for name, value in _NOTICES.items():
            cursor.execute(f"SET {name} = {value}")
        if limit_ms is not None:
            cursor.execute(f"SET statement_timeout = {limit_ms}")
            cursor.execute("SET default_transaction_read_only = on")
            # A page runs several queries, and the writer may commit between two of them.
            cursor.execute("SET default_transaction_isolation = 'repeatable read'")
    connection.commit()


def _was_given_up(error: OperationalError) -> bool:
    original = error.orig
    return str(original) == "interrupted" or getattr(original, "sqlstate", None) == _CANCELLED


def cause(error: DBAPIError) -> str:
    """Return the first line of the driver's message, which names no password; and what to do if a file is damaged."""
    line = str(error.orig).strip().partition("\n")[0]
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the rest says where it was noticed
    return f"{line}; {_DAMAGED}" if code in _DAMAGES or line.startswith("no such table") else line
