"""What time it is for retention; and how a history ends whose database does not answer."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.local import ports
from streams.history import projection, service
from streams.history.database import Database
from streams.history.projection import DAY
from streams.history.service import Today
from tests.history.support import NOW, Kept, Log, event, sqlite_url

YEAR_S = 365 * 24 * 3600.0
BEGAN_S = NOW.timestamp() - 2 * 3600


def test_a_wall_clock_that_is_years_ahead_lets_nothing_be_forgotten_and_time_goes_on(kept: Kept) -> None:
    wall, steady = NOW.timestamp() + 2 * YEAR_S, 100.0
    today = Today(kept.database, wall=lambda: wall, steady=lambda: steady)
    assert today() is None
    kept.apply(Log().tell(event("sent")).take())
    received_s = BEGAN_S + 1
    assert today() == received_s
    assert projection.forget(kept.database, round(received_s * 1_000_000) - 400 * DAY) == 0
    steady += 2 * YEAR_S
    assert today() == received_s + 2 * YEAR_S  # no news for two years: it is forgotten all the same
    assert projection.forget(kept.database, round((today() or 0) * 1_000_000) - 400 * DAY) == 1
    steady += 5
    assert today() == received_s + 2 * YEAR_S + 5


def test_it_is_never_later_than_the_wall_clock_says(kept: Kept) -> None:
    today = Today(kept.database, wall=lambda: BEGAN_S - 60, steady=lambda: 1.0)
    kept.apply(Log().tell(event("sent")).take())
    assert today() == BEGAN_S - 60


class Frozen:
    """A history whose sessions at PostgreSQL are frozen: their connections are kept, and nothing is answered."""

    def __init__(self, url: str, log: Path) -> None:
        self.log = log
        self._frozen: list[int] = []
        port, admin_port = ports.find(2)
        self._page = f"http://127.0.0.1:{port}/"
        environment = {
            "MAILSTREAMS_HISTORY__DATABASE_URL": url,
            "MAILSTREAMS_HISTORY__PORT": str(port),
            "MAILSTREAMS_HISTORY__ADMIN_PORT": str(admin_port),
            "MAILSTREAMS_HISTORY__SHUTDOWN_S": "0.5",
            "MAILSTREAMS_HISTORY__QUERY_TIMEOUT_S": "1",
            "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9",  # nothing listens there
        }
        impatient = (
            "import sys; from streams.history import edge, service; from streams.settings import load; "
            "service.STUCK_S, service.WATCH_S, edge.PATIENCE_S = float(sys.argv[1]), 0.1, 0.5; "
            "sys.exit(service.run_history(load()))"
        )
        self._start = [sys.executable, "-c", impatient], os.environ | environment

    def start(self, stuck_s: float) -> "subprocess.Popen[bytes]":
        """Start it and freeze its sessions while a page is asked for."""
        command, environment = self._start
        with self.log.open("wb") as log:
            child = subprocess.Popen([*command, str(stuck_s)], env=environment, stderr=log)
        while not self._is_served(1):
            assert child.poll() is None, self.log.read_text()
        with psycopg.connect(environment["MAILSTREAMS_HISTORY__DATABASE_URL"]) as connection:
            sessions = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            self._frozen = [pid for (pid,) in connection.execute(sessions)]
        for pid in self._frozen:
            os.kill(pid, signal.SIGSTOP)
        assert not self._is_served(1)
        return child

    def freeze_server(self) -> None:
        """Freeze PostgreSQL's first process, too, so that it begins no new session."""
        _, _, after_name = Path(f"/proc/{self._frozen[0]}/stat").read_text().rpartition(")")
        self._frozen.append(int(after_name.split()[1]))
        os.kill(self._frozen[-1], signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the sessions go on, and end."""
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def answer(self, path: str) -> tuple[int, str]:
        """Return the code and the text of the answer to a question."""
        try:
            with urllib.request.urlopen(self._page + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def _is_served(self, patience_s: float) -> bool:
        try:
            with urllib.request.urlopen(self._page, timeout=patience_s) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def frozen(new_postgresql: Callable[[], str], tmp_path: Path) -> Iterator[Frozen]:
    history = Frozen(new_postgresql(), tmp_path / "log")
    yield history
    history.thaw()


def test_a_history_ends_whose_postgresql_keeps_the_connection_and_answers_nothing(frozen: Frozen) -> None:
    child = frozen.start(stuck_s=1.5)
    try:
        assert child.wait(30) == 1
    finally:
        child.kill()
        child.wait()
    assert "the database has not answered for" in frozen.log.read_text()


def test_a_history_can_be_stopped_while_postgresql_answers_nothing(frozen: Frozen) -> None:
    child = frozen.start(stuck_s=300)
    try:
        child.terminate()
        assert child.wait(30) == 1
    finally:
        child.kill()
        child.wait()
    assert "the database does not answer" in frozen.log.read_text()


def test_a_page_says_that_postgresql_answers_nothing_though_all_readers_wait_for_it(frozen: Frozen) -> None:
    child = frozen.start(stuck_s=300)
    frozen.freeze_server()
    try:
        for path in ("", "deferred", "api/v1/counts", "export.csv", "api/v1/deferrals", ""):
            code, text = frozen.answer(path)
            assert code == 503
            assert "database does not answer now" in text
    finally:
        child.kill()
        child.wait()
    assert "the database does not answer: TimeoutError" in frozen.log.read_text()


async def test_a_history_that_did_not_run_itself_does_not_blame_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WATCH_S", 0.2)
    database = Database(sqlite_url(tmp_path))
    database.open()
    with database.write():  # as of a machine that slept in the midst of it
        monkeypatch.setattr(service, "STUCK_S", -1.0)
        watching = asyncio.create_task(service._watch(database))
        await asyncio.sleep(0.05)
    monkeypatch.setattr(service, "STUCK_S", 1.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await watching
    database.close()
