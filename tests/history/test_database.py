"""How the database is reached."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
import sqlalchemy as sa

from streams.history import database as module
from streams.history.database import Database, DatabaseError
from streams.history.service import rebuild
from streams.history.subscriber import Subscriber
from tests.history.support import Kept, Log, event, settings_for, sqlite_url


def parameters(url: str) -> dict[str, str]:
    """Return what libpq was told."""
    database = Database(url)
    database.open()
    try:
        with database.read() as connection:
            return dict(cast("Any", connection.connection.dbapi_connection).info.get_parameters())
    finally:
        database.close()


def test_a_postgresql_server_that_vanishes_is_noticed_within_half_a_minute(new_postgresql: Callable[[], str]) -> None:
    found = parameters(new_postgresql())

    assert int(found["tcp_user_timeout"]) <= 30_000  # what was sent is not acknowledged
    waits = (int(found[f"keepalives_{name}"]) for name in ("idle", "interval", "count"))
    idle_s, interval_s, count = waits
    assert idle_s + interval_s * count <= 30  # nothing is sent, and an answer is waited for
    assert int(found["connect_timeout"]) <= 30


def test_what_the_url_says_of_the_connection_holds(new_postgresql: Callable[[], str]) -> None:
    found = parameters(f"{new_postgresql()}?tcp_user_timeout=60000&application_name=ours")

    assert (found["tcp_user_timeout"], found["application_name"]) == ("60000", "ours")
    assert found["keepalives_count"] == "3"


def test_a_host_that_vanishes_is_noticed_by_postgresql_within_half_a_minute(new_postgresql: Callable[[], str]) -> None:
    database = Database(new_postgresql())
    database.open()
    assert database._lock_connection is not None
    try:
        with database.read() as reader, database.write() as writer:
            for session in (reader, writer, database._lock_connection):
                waits = (
                    session.exec_driver_sql(f"SHOW tcp_keepalives_{name}") for name in ("idle", "interval", "count")
                )
                idle_s, interval_s, count = (int(str(wait.scalar())) for wait in waits)
                assert 0 < idle_s + interval_s * count <= 30
    finally:
        database.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_postgresql_database_that_cannot_hold_every_letter_is_refused(postgresql: str, encoding: str) -> None:
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        for name, its in ((f"not_{encoding.lower()}", "UTF8"), (encoding.lower(), encoding)):
            connection.execute(f"CREATE DATABASE {name} ENCODING '{its}' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(DatabaseError, match=f"has the encoding {encoding} and needs UTF8: CREATE DATABASE"):
        Database(f"{postgresql}/{encoding.lower()}").open()
    good = Database(f"{postgresql}/not_{encoding.lower()}?client_encoding={encoding.lower()}")
    good.open()
    Kept(good).apply(Log().tell(event("sent", reference="😀")).take())
    good.close()


def test_the_lock_of_a_process_that_ends_meanwhile_is_waited_for(new_postgresql: Callable[[], str]) -> None:
    url = new_postgresql()
    first, second = Database(url), Database(url, query_timeout_s=0.01)
    first.open()
    with ThreadPoolExecutor(1) as pool, psycopg.connect(url, autocommit=True) as looking:
        opening = pool.submit(second.open)
        while looking.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone() is None:
            assert not opening.done()
        first.close()
        opening.result(30)
    second.close()


def test_whoever_is_refused_is_told_how_to_end_the_session_of_a_process_that_is_gone(
    new_postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_PATIENCE_S", 0.1)
    url = new_postgresql()
    gone, other = Database(url), Database(new_postgresql())
    gone.open()
    other.open()
    with pytest.raises(DatabaseError, match="stop that one first") as refused:
        Database(url).open()
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute(str(refused.value).partition("there: ")[2].encode()).fetchall() == [(True,)]
    again = Database(url)
    again.open()
    again.close()
    with other.write() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    assert other._lock_connection is not None
    assert other._lock_connection.exec_driver_sql("SELECT 1").scalar() == 1
    other.close()
    gone.close()


def zero_the_header(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite_pages(path: Path) -> None:
    pages = path.read_bytes()
    path.write_bytes(pages[:4096] + b"\xff" * (len(pages) - 4096))


def drop_a_table(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE kinds")


@pytest.mark.parametrize("damage", [zero_the_header, truncate, overwrite_pages, drop_a_table])
async def test_whoever_has_a_damaged_file_is_told_to_delete_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    async def begin(_: Subscriber, _progress: object, *, before: Callable[[], None]) -> None:
        before()

    monkeypatch.setattr(Subscriber, "catch_up", begin)
    database = Database(sqlite_url(tmp_path))
    database.open()
    Kept(database).apply(Log().tell(*(event("sent", message_id=f"m{number}") for number in range(50))).take())
    database.close()
    damage(tmp_path / "history.db")
    with pytest.raises(DatabaseError, match="delete the file with its -wal and -shm, and put a backup in its place"):
        await rebuild(settings_for(sqlite_url(tmp_path)), lambda _done, _total: None)


def read_all(database: Database) -> int:
    """Return how many deliveries there are."""
    database.open()
    try:
        with database.read() as connection:
            return len(connection.exec_driver_sql("SELECT * FROM deliveries").all())
    finally:
        database.close()


def test_a_backup_is_restored_where_the_old_wal_is_deleted_and_is_damaged_where_it_is_left(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    database.open()
    kept, log = Kept(database), Log()
    told = [event("delivered", message_id=f"m{number}", reason="250 OK " * 50) for number in range(600)]
    kept.apply(log.tell(*told[:200]).take())
    copy = tmp_path / "copy.db"
    with contextlib.closing(sqlite3.connect(tmp_path / "history.db")) as other:
        other.execute("VACUUM INTO ?", (str(copy),))  # as the documentation says, while the history runs
        kept.apply(log.tell(*told[200:400]).take())
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # as in a history that has run for long
    for number in range(400, 600, 20):
        kept.apply(log.tell(*told[number : number + 20]).take())

    def restored(name: str, *, deletes_wal: bool) -> Database:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(copy, folder / "history.db")
        if not deletes_wal:  # as kill -9 leaves it
            shutil.copy(tmp_path / "history.db-wal", folder)
        return Database(sqlite_url(folder))

    assert read_all(restored("as documented", deletes_wal=True)) == 200
    with pytest.raises((DatabaseError, sa.exc.DatabaseError), match="malformed"):
        read_all(restored("beside the old -wal", deletes_wal=False))
    database.close()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_database_is_for_its_own_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    database = Database(sqlite_url(folder))
    before = os.umask(0o022)
    try:
        database.open()
    finally:
        os.umask(before)
    Kept(database).apply(Log().tell(event("sent")).take())
    assert mode(folder) == 0o700
    assert {file.suffix: mode(file) for file in folder.glob("*.db*") if file.suffix != ".lock"} == dict.fromkeys(
        (".db", ".db-wal", ".db-shm"), 0o600
    )
    database.close()


def test_the_rights_of_a_folder_and_a_database_that_are_there_stay(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.touch()
    for each, rights in ((tmp_path, 0o750), (path, 0o640)):
        each.chmod(rights)
    database = Database(sqlite_url(tmp_path))
    database.open()
    assert (mode(tmp_path), mode(path)) == (0o750, 0o640)
    database.close()


def test_sqlites_planner_learns_how_the_rows_are_spread(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    database.open()
    Kept(database).apply(Log().tell(*(event("sent", message_id=f"m{number}") for number in range(50))).take())
    database.tidy()
    with database.read() as connection:
        rows = connection.exec_driver_sql("SELECT idx, stat FROM sqlite_stat1 WHERE tbl = 'deliveries'")
        known = {row.idx: row.stat for row in rows}
    assert known["ix_deliveries_account"].startswith("50 50 ")  # rows, and rows of an account
    database.close()
