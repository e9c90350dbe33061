"""How the database is reached."""

from collections.abc import Callable
from typing import Any, cast

from streams.history.database import Database


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
