import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import logs
from streams.logs import RateLimit, configure
from streams.settings import load

ADDRESS = "anna.smith+x@example.com"
Configure = Callable[..., io.StringIO]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Configure logging onto a text that can be read; afterwards all is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("faust", "mode", "aiokafka")}

    def configured(**settings: str) -> io.StringIO:
        written = io.StringIO()
        monkeypatch.setattr(sys, "stderr", written)
        configure(load(environment={f"MAILSTREAMS_WORKER__{name}": value for name, value in settings.items()}))
        return written

    yield configured
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


def lines(written: io.StringIO) -> list[str]:
    return written.getvalue().splitlines()


# -- no address ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["console", "json"])
def test_an_address_in_somebody_elses_text_is_replaced(configured: Configure, format_: str) -> None:
    written = configured(LOG_FORMAT=format_)
    logging.getLogger("aiokafka.consumer").error("cannot decode %r of <%s>, (%s)", ADDRESS.encode(), ADDRESS, ADDRESS)
    assert ADDRESS not in written.getvalue()
    assert written.getvalue().count("<address>") == 3


@pytest.mark.parametrize("format_", ["console", "json"])
def test_an_address_in_a_traceback_is_replaced(configured: Configure, format_: str) -> None:
    written = configured(LOG_FORMAT=format_)
    try:
        int(f"bad: {ADDRESS}")
    except ValueError:
        logging.getLogger("streams.worker").exception("the worker ends")
    text = written.getvalue()
    assert "ValueError: invalid literal for int() with base 10: 'bad: <address>'" in text.replace('\\"', '"')
    assert "test_logs.py" in text, "the traceback itself is kept"
    assert ADDRESS not in text


@pytest.mark.parametrize(
    "text",
    [
        "to anna@example.com.",
        "<anna@example.com>",
        "'anna@example.com'",
        "mailto:anna@example.com?subject=x",
        "b'anna@example.com'",
        "bücher@exämple.de",
        "anna@[192.0.2.1]",
        "x=anna+tag@example.com;y=1",
        '{"email":"anna@example.com"}',
        "anna.o'brien@example.com",
        "'o\\'anna@example.com'",
        "brien'anna%40example.com",
        '"anna smith"@example.com',
        r'"smith \"anna\" @home"@example.com',
        r'{"email":"\"anna smith\"@example.com"}',
    ],
)
def test_an_address_is_known_in_whatever_it_stands(configured: Configure, text: str) -> None:
    written = configured(LOG_FORMAT="json")
    logging.getLogger("faust").error("%s", text)
    [line] = lines(written)
    assert "@" not in line
    assert not any(part in line for part in ("anna", "brien", "smith"))
    assert "<address>" in line


def test_what_stands_before_a_quoted_address_is_kept() -> None:
    assert logs.without_addresses("recipient='ann@x.example'") == "recipient='<address>'"
    assert logs.without_addresses("to=['ann@x.example', 'bob@x.example']") == "to=['<address>', '<address>']"


LOCAL = st.from_regex(r"[A-Za-z0-9.!#$%&*+/=?^_`{|}~-]['A-Za-z0-9.!#$%&*+/=?^_`{|}~-]{0,63}", fullmatch=True).filter(
    lambda local: "='" not in local and "{'" not in local  # there it is a quotation mark
)
DOMAIN = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,8}){1,3}", fullmatch=True)


@given(st.text(max_size=20), LOCAL, DOMAIN, st.text(max_size=20))
def test_no_address_of_rfc_5321_is_left_in_a_text(before: str, local: str, domain: str, after: str) -> None:
    event: dict[str, Any] = {"event": f"{before} <{local}@{domain}> {after}"}
    assert " <<address>> " in logs._without_addresses(None, "error", event)["event"]


# -- form ----------------------------------------------------------------------------------------------------------------------------


def test_json_lines_are_one_object_each_with_time_level_and_logger(configured: Configure) -> None:
    written = configured(LOG_FORMAT="json")
    logging.getLogger("streams.worker").info("worker %s", "started")
    logging.getLogger("streams.kafka.lanes").warning("two\nlines")
    first, second = [json.loads(line) for line in lines(written)]
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "worker started", "level": "info", "logger": "streams.worker"}
    assert second["event"] == "two\nlines"


def test_lines_for_people_have_the_text_and_no_colours_in_a_file(configured: Configure) -> None:
    written = configured(LOG_FORMAT="console")
    logging.getLogger("streams.worker").info("worker started")
    [line] = lines(written)
    assert "worker started" in line
    assert "\x1b" not in line


def test_the_level_of_the_settings_holds_for_ours(configured: Configure) -> None:
    written = configured(LOG_LEVEL="warning", LOG_FORMAT="json")
    logging.getLogger("streams.worker").info("no")
    logging.getLogger("streams.worker").warning("yes")
    assert [json.loads(line)["event"] for line in lines(written)] == ["yes"]


@pytest.mark.parametrize("level", ["debug", "info"])
@pytest.mark.parametrize("logger", ["faust.app", "mode.service", "aiokafka.consumer"])
def test_of_faust_and_aiokafka_only_warnings_are_written(configured: Configure, level: str, logger: str) -> None:
    written = configured(LOG_LEVEL=level, LOG_FORMAT="json")
    logging.getLogger(logger).info("no")
    logging.getLogger(logger).warning("yes")
    assert [json.loads(line)["event"] for line in lines(written)] == ["yes"]


def test_configuring_twice_writes_each_line_once(configured: Configure) -> None:
    configured(LOG_FORMAT="json")
    written = configured(LOG_FORMAT="json")
    logging.getLogger("streams.worker").info("once")
    assert len(lines(written)) == 1


# -- with the broker away --------------------------------------------------------------------------------------------------------------


class Clock:
    seconds = 1_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streams.logs.time.monotonic", lambda: clock.seconds)
    return clock


def said(limit: RateLimit, text: str, *args: object, logger: str = "aiokafka.conn") -> str | None:
    record = logging.LogRecord(logger, logging.WARNING, "f.py", 1, text, args, None)
    return record.getMessage() if limit.filter(record) else None


def test_the_same_text_is_written_once_in_a_while_and_the_next_says_how_often_it_was_held(clock: Clock) -> None:
    limit = RateLimit(10)
    assert said(limit, "cannot connect to %s", "a") == "cannot connect to a"
    for number in range(500):
        clock.seconds += 0.01
        assert said(limit, "cannot connect to %s", number) is None
    clock.seconds += 6
    assert said(limit, "cannot connect to %s", "z") == "cannot connect to z (and 500 times more since)"
    clock.seconds += 11
    assert said(limit, "cannot connect to %s", "y") == "cannot connect to y"


@pytest.mark.usefixtures("clock")
def test_another_text_and_another_logger_have_their_own_turn() -> None:
    limit = RateLimit(10)
    assert said(limit, "one")
    assert said(limit, "two")
    assert said(limit, "one", logger="aiokafka.cluster")
    assert said(limit, "one") is None


@pytest.mark.usefixtures("clock")
def test_our_own_lines_are_never_held_back() -> None:
    limit = RateLimit(10)
    assert all(said(limit, "stopped", logger="streams.observe") for _ in range(100))


def test_a_flood_leaves_a_trickle(configured: Configure, clock: Clock) -> None:
    written = configured(LOG_FORMAT="json")
    for _ in range(6_000):  # a minute, 100 a second
        logging.getLogger("aiokafka.client").error("Unable to request metadata from node")
        clock.seconds += 0.01
    assert 5 <= len(lines(written)) <= 7
