"""What is deferred now, read from the changelog as the monitor writes it."""

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import demo
from deploy.local.stack import Edge, Stack
from streams import codecs, records, topics
from streams.cli import _kafka
from streams.cli._open_deferrals import duration_text
from streams.domain.deferrals import Episode, Told
from streams.domain.destinations import DESTINATIONS, destination_of
from streams.domain.reasons import ReasonClass
from streams.kafka.lanes import POSITION_KEY
from streams.settings import load
from tests.brokers import Passing
from tests.cli.conftest import Cluster, Invoke, environment, spawn
from tests.test_texts import HOSTILE

MINUTE = 60 * 1_000_000
HOUR = 60 * MINUTE
BOUNDS = [5, 10, 20, 40, 80, 160, 320, 640, 1280]
FIELDS = [
    *("delivery_id", "account", "provider", "message_id", "recipient", "reference", "first_received_at", "episode"),
    *("level", "destination", "deferred_since", "age_s", "attempts", "reason", "smtp_code", "enhanced_code"),
    *("reason_class", "retry_until", "retry_left_s"),
]


def episode(name: str, age: int = HOUR, **changes: Any) -> Episode:
    """Return an open deferral that is so old (µs) now."""
    since = time.time_ns() // 1000 - age
    recipient = changes.get("recipient", f"{name}@gmail.com")
    values: dict[str, Any] = {
        "delivery_id": f"delivery-{name}",
        "account": "default",
        "provider": "sendgrid",
        "message_id": f"message-{name}",
        "recipient": recipient,
        "reference": f"INV-{name}",
        "destination": destination_of(recipient),
        "first_received_at": since,
        "number": 2,
        "since": since,
        "attempts": 3,
        "reason": "450 4.2.1 too fast",
        "smtp_code": 450,
        "enhanced_code": "4.2.1",
        "reason_class": ReasonClass.RATE_LIMITED,
        "retry_until": None,
    }
    return Episode(**(values | changes))


def closed(one: Episode) -> dict[str, Any]:
    return {"key": one.delivery_id.encode(), "value": None}


def row(one: Episode) -> dict[str, Any]:
    return {"key": one.delivery_id.encode(), "value": records.encode_open_deferral(one)}


class Changelog:
    """The changelog of an application id of its own, so that tests see their own rows only."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.cluster, self.topic = cluster, topic

    def write(self, *rows: dict[str, Any], commit: bool | None = True) -> None:
        self.cluster.produce(self.topic, *rows, commit=commit)

    def opened(self, *episodes: Episode) -> None:
        self.write(*map(row, episodes))


@pytest.fixture
def changelog(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Changelog:
    app_id = f"deferrals-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("MAILSTREAMS_WORKER__APP_ID", app_id)
    settings = load(
        None, environment(cluster.settings.kafka.bootstrap_servers) | {"MAILSTREAMS_WORKER__APP_ID": app_id}
    )
    asyncio.run(topics.create(settings))
    return Changelog(cluster, topics.changelog_topic(app_id, topics.OPEN_DEFERRALS_TABLE))


def json_of(invoke: Invoke, *arguments: object) -> list[dict[str, Any]]:
    result = invoke("deferrals", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return [codecs.decode(line) for line in result.stdout.splitlines()]


def names(found: Sequence[dict[str, Any]]) -> list[str]:
    return [one["delivery_id"].removeprefix("delivery-") for one in found]


# -- the table --------------------------------------------------------------------------------------------------------


def test_open_deferrals_are_shown_the_oldest_first(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(
        episode("young", 42 * MINUTE),
        episode("old", 26 * HOUR + 2 * MINUTE, told=Told.RAISED | Told.ESCALATED, provider="mailgun"),
        episode("middle", 3 * HOUR + 5 * MINUTE, told=Told.RAISED, retry_until=time.time_ns() // 1000 + 2 * HOUR),
    )

    result = invoke("deferrals")

    headings, *lines = result.stdout.splitlines()
    assert " ".join(headings.split()) == (
        "age level gives up (UTC) reference provider destination tries reason delivery id answer"
    )
    assert [line.split()[0:1] + line.split()[2:3] + line.split()[8:14] for line in lines] == [
        ["1d", "escalated", "INV-old", "mailgun", "gmail", "3", "rate_limited", "delivery-old"],
        ["3h", "raised", "INV-middle", "sendgrid", "gmail", "3", "rate_limited", "delivery-middle"],
        ["42m", "-", "INV-young", "sendgrid", "gmail", "3", "rate_limited", "delivery-young"],
    ]
    assert lines[0].endswith("450 4.2.1 too fast")
    assert ", 18h 02m ago" in lines[0]  # mailgun tries for 8 h
    assert ", in 1h 59m" in lines[1]  # as the provider named it
    assert ", in 2d 23h" in lines[2]  # sendgrid tries for 72 h
    assert result.stderr == "3 open deferrals\n"


def test_the_settings_of_an_account_say_when_its_provider_gives_up(
    invoke: Invoke, changelog: Changelog, monkeypatch: pytest.MonkeyPatch
) -> None:
    changelog.opened(episode("ours", HOUR, account="billing"), episode("theirs", HOUR))
    monkeypatch.setenv("MAILSTREAMS_ACCOUNTS__BILLING__DEFERRALS__SENDGRID__RETRY_WINDOW_S", "5400")

    left = {one["delivery_id"]: one["retry_left_s"] for one in json_of(invoke)}

    assert 1700 < left["delivery-ours"] <= 1800
    assert left["delivery-theirs"] > 70 * 3600


def test_with_the_file_of_make_run_the_demos_deadline_is_shown(
    invoke: Invoke, changelog: Changelog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changelog.opened(episode("demo", MINUTE, account=demo.ACCOUNT), episode("ours", MINUTE))
    bootstrap = os.environ["MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS"]
    monkeypatch.delenv("MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS")
    stack = Stack(tmp_path, cluster=bootstrap, web_port=1, edge=Edge(simulated=True), env={}, say=print)
    stack._write_settings()

    result = invoke("--config", stack.settings, "deferrals", "--json")

    left = {one["delivery_id"]: one["retry_left_s"] for one in map(codecs.decode, result.stdout.splitlines())}
    assert 0 < left["delivery-demo"] <= demo.DEFERRALS["retry_window_s"] - 60
    assert left["delivery-ours"] > 70 * 3600


def test_what_was_closed_or_aborted_is_not_shown_and_the_newest_row_counts(
    invoke: Invoke, changelog: Changelog
) -> None:
    first = episode("again", attempts=1)
    changelog.opened(first, episode("gone"))
    changelog.write(closed(episode("gone")), row(replace(first, attempts=7)))
    changelog.write({"key": POSITION_KEY, "value": b"a position"})
    for partition in range(3):  # the end of every partition is a marker that nobody delivers
        changelog.write(row(episode("aborted")) | {"partition": partition}, commit=False)

    assert [(one["delivery_id"], one["attempts"]) for one in json_of(invoke)] == [("delivery-again", 7)]
    assert invoke("deferrals").stderr == "1 open deferral\n"


def test_without_addresses_none_is_shown_also_not_those_in_answers(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(
        episode("ann", reason="450 <ann@gmail.com>: mailbox of ANN%40gmail.com busy"),
        episode("bob", reference="bob@example.com", reason="an\u200bother\x1f@exam\u200bple.com is full"),
    )

    shown = invoke("deferrals").stdout + invoke("deferrals", "--json").stdout
    asked = invoke("deferrals", "--addresses").stdout
    as_json = json_of(invoke, "--addresses")

    for text in ("@gmail.com", "%40gmail", "@exam"):
        assert text not in shown
    assert shown.count("<address>") >= 6
    assert "ann@gmail.com  450 <ann@gmail.com>: mailbox" in asked
    assert {one["recipient"] for one in as_json} == {"ann@gmail.com", "bob@gmail.com"}
    assert {one["recipient"] for one in json_of(invoke)} == {None}


def test_hostile_text_of_others_reaches_no_terminal_and_forges_no_row(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(
        episode(
            "hostile",
            reason=HOSTILE,
            reference=HOSTILE,
            provider=HOSTILE,
            destination=HOSTILE,
            recipient=HOSTILE,
            delivery_id=HOSTILE,
        )
    )

    text = invoke("deferrals", "--addresses").stdout + invoke("deferrals", "--qshape").stdout
    as_json = invoke("deferrals", "--json", "--addresses")

    lines = text.splitlines() + as_json.stdout.splitlines()
    assert len(lines) == 2 + 3 + 1
    assert all(line.isprintable() for line in lines)
    assert codecs.decode(as_json.stdout)["reason"] == HOSTILE


def test_wide_letters_keep_the_columns(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(episode("wide", reference="請求書-1"), episode("long", reference="x" * 200))

    wide = next(line for line in invoke("deferrals").stdout.splitlines() if "請求書" in line)
    plain = next(line for line in invoke("deferrals").stdout.splitlines() if "x…" in line)

    assert wide.index("delivery-wide") == plain.index("delivery-long") - len("請求書")


def test_a_long_answer_is_cut_and_an_absent_one_shows_its_codes(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(episode("long", 3 * HOUR, reason="busy " * 100), episode("codes", 2 * HOUR, reason=None))
    changelog.opened(episode("nothing", reason=None, smtp_code=None, enhanced_code=None, reference=None))

    _, long, codes, nothing = invoke("deferrals").stdout.splitlines()

    assert long.endswith("…")
    assert long.count("busy") < 30
    assert codes.endswith("  450 4.2.1")
    assert nothing.endswith("  -")


def test_of_many_the_oldest_are_shown_and_the_rest_is_counted(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(*(episode(str(number), (number + 1) * HOUR) for number in range(60)))

    two = invoke("deferrals", "--limit", 2)
    usual = invoke("deferrals")

    assert [name in two.stdout for name in ("INV-59", "INV-58", "INV-57")] == [True, True, False]
    assert two.stderr == "60 open deferrals\n58 more, all younger; see --limit\n"
    assert len(usual.stdout.splitlines()) == 1 + 50
    assert len(json_of(invoke)) == 60
    assert names(json_of(invoke, "--limit", 1)) == ["59"]


def test_a_row_of_another_version_is_said_and_the_others_are_shown(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(episode("known"))
    changelog.write({"key": b"later", "value": b"\x09[]"}, {"key": b"damaged", "value": b"\x01{}"})

    result = invoke("deferrals")

    assert "INV-known" in result.stdout
    assert "2 rows not shown: a row of `open-deferrals` " in result.stderr


# -- filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("--provider mailgun", ["b"]),
        ("--provider mailgun --provider postmark", ["b", "c"]),
        ("--account billing", ["c"]),
        ("--destination microsoft", ["b"]),
        ("--destination gmail --destination other", ["a", "c"]),
        ("--older-than 2h", ["a", "b"]),
        ("--older-than 150m", ["a"]),
        ("--older-than 9000s", ["a"]),
        ("--older-than 1.5h", ["a", "b"]),
        ("--older-than 1d", []),
        ("--level none", ["a"]),
        ("--level raised", ["b"]),
        ("--level overdue --level none", ["a", "c"]),
        ("--level escalated", []),
        ("--provider sendgrid --older-than 4h", []),
        ("", ["a", "b", "c"]),
    ],
)
def test_each_filter_leaves_what_fits(invoke: Invoke, changelog: Changelog, arguments: str, found: list[str]) -> None:
    changelog.opened(
        episode("a", 3 * HOUR),
        episode("b", 2 * HOUR + MINUTE, provider="mailgun", recipient="b@hotmail.fr", told=Told.RAISED),
        episode("c", provider="postmark", account="billing", recipient="c@firm.example", told=Told(7)),
    )

    assert names(json_of(invoke, *arguments.split())) == found


def test_a_filter_that_nothing_fits_says_what_there_is_without_it(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(episode("a"), episode("b"), episode("c", provider="mailgun"))

    result = invoke("deferrals", "--provider", "sendgird")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "nothing fits; open without the filters: 3 (sendgrid 2, mailgun 1)\n"
    assert invoke("deferrals", "--provider", "mailgun").stderr == "1 open deferral, of 3\n"


@pytest.mark.parametrize(
    "arguments",
    ["--older-than 5", "--older-than h", "--older-than -5m", "--older-than 2w", "--level high", "--destination gmial"],
)
def test_a_filter_of_no_meaning_is_wrong_use(invoke: Invoke, arguments: str) -> None:
    assert invoke("deferrals", *arguments.split()).exit_code == 2


# -- nothing, and no broker -------------------------------------------------------------------------------------------


def test_nothing_deferred_is_no_failure_and_says_what_it_means(invoke: Invoke, changelog: Changelog) -> None:
    never = invoke("deferrals")
    changelog.opened(episode("over"))
    changelog.write(closed(episode("over")))
    over = invoke("deferrals")

    assert (never.exit_code, never.stdout, over.exit_code, over.stdout) == (0, "", 0, "")
    assert "or no worker has run" in never.stderr
    assert "every delivery that was has another status now" in over.stderr
    assert invoke("deferrals", "--json").stdout == ""
    assert invoke("deferrals", "--qshape").stdout == ""


@pytest.mark.parametrize("how", ["", "--json", "--qshape", "--watch"])
def test_a_missing_topic_is_said_with_the_command_that_creates_it(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("MAILSTREAMS_WORKER__APP_ID", "never-created")

    result = invoke("deferrals", *how.split())

    assert result.exit_code == 3
    assert result.stderr == (
        "mailstreams: topic never-created-open-deferrals-changelog is missing; create it: mailstreams topics create\n"
    )
    assert cluster.settings


def test_a_broker_that_goes_while_it_is_watched_ends_it_with_one_line(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_kafka, "_PROOF_S", 0.5)
    monkeypatch.setattr(_kafka, "_REQUEST_TIMEOUT_MS", 3000)
    with Passing(tmp_path, heap_mib=256) as mortal:
        for name, value in environment(mortal.bootstrap).items():
            monkeypatch.setenv(name, value)
        asyncio.run(topics.create(load(None, environment(mortal.bootstrap))))
        ending = threading.Timer(4, mortal.stop)
        ending.start()
        result = invoke("deferrals", "--watch")
        ending.join()

    assert result.exit_code == 3
    assert "nothing is deferred" in result.stderr.splitlines()[0]
    assert [line.partition(" (")[0] for line in result.stderr.splitlines()[1:]] == [
        f"mailstreams: no broker answers at {mortal.bootstrap}"
    ]


# -- programs ---------------------------------------------------------------------------------------------------------


def test_json_has_always_the_same_fields_by_the_names_of_the_alerts(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(
        episode("full", 2 * HOUR, told=Told.RAISED),
        episode("bare", reference=None, reason=None, smtp_code=None, enhanced_code=None),
    )

    full, bare = json_of(invoke)

    assert list(full) == list(bare) == FIELDS
    assert 7200 <= full["age_s"] < 7300
    assert (full["level"], bare["level"]) == ("raised", None)
    assert (full["episode"], full["attempts"], full["destination"]) == (2, 3, "gmail")
    assert full["deferred_since"].endswith("Z")
    assert 69 * 3600 < full["retry_left_s"] <= 70 * 3600
    assert (bare["reference"], bare["reason"], bare["smtp_code"], bare["enhanced_code"]) == (None,) * 4


# -- qshape -----------------------------------------------------------------------------------------------------------


def test_the_matrix_counts_by_destination_and_age_and_its_sums_agree(invoke: Invoke, changelog: Changelog) -> None:
    ages = [3, 7, 7, 15, 39, 100, 200, 400, 700, 1279, 1290, 5000]  # minutes
    recipients = ["gmail.com", "hotmail.com", "gmail.com", "firm.example"]
    changelog.opened(
        *(
            episode(str(number), age * MINUTE, recipient=f"{number}@{recipients[number % 4]}")
            for number, age in enumerate(ages)
        )
    )

    text = invoke("deferrals", "--qshape")
    as_json = json_of(invoke, "--qshape")

    headings, *rows = [line.split() for line in text.stdout.splitlines()]
    assert headings == ["T", *map(str, BOUNDS), "1280+"]
    assert rows[0] == ["TOTAL", "12", "1", "2", "1", "1", "0", "1", "1", "1", "2", "2"]
    numbers = {destination: list(map(int, counts)) for destination, *counts in rows}
    assert {name: counts[0] for name, counts in numbers.items() if name != "TOTAL"} == {
        "gmail": 6,
        "microsoft": 3,
        "other": 3,
    }
    total = numbers.pop("TOTAL")
    assert total == [sum(column) for column in zip(*numbers.values(), strict=True)]
    assert all(counts[0] == sum(counts[1:]) for counts in numbers.values())
    assert [[row["destination"], row["total"], *row["counts"].values()] for row in as_json] == [
        [row[0], *map(int, row[1:])] for row in rows
    ]
    assert list(as_json[0]["counts"]) == headings[1:]


def test_the_matrix_counts_what_fits_the_filters(invoke: Invoke, changelog: Changelog) -> None:
    changelog.opened(episode("a"), episode("b", provider="mailgun"), episode("c", 30 * HOUR))

    result = invoke("deferrals", "--qshape", "--provider", "sendgrid", "--older-than", "2h")

    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [["TOTAL", "1"], ["gmail", "1"]]
    assert set(json_of(invoke, "--qshape")[0]["counts"]) == {*map(str, BOUNDS), "1280+"}
    assert all(one["destination"] in {"TOTAL", *DESTINATIONS} for one in json_of(invoke, "--qshape"))


# -- watching ---------------------------------------------------------------------------------------------------------


class Watched:
    """A running ``deferrals --watch`` that has no terminal."""

    def __init__(self, *arguments: object) -> None:
        self._child = spawn("deferrals", "--watch", *arguments)

    def line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, self._child.stderr.read() if self._child.stderr else ""
        return line.rstrip("\n")

    def ready(self) -> str:
        """Wait until it has read what there was."""
        assert self._child.stderr is not None
        return self._child.stderr.readline()

    def end(self) -> tuple[int, str, str]:
        self._child.send_signal(signal.SIGINT)
        output, errors = self._child.communicate(timeout=30)
        return self._child.returncode, output, errors


def test_without_a_terminal_watch_prints_what_is_open_and_then_each_change(changelog: Changelog) -> None:
    there = episode("there", 2 * HOUR)
    changelog.opened(there)
    watched = Watched()

    first = watched.line()
    assert watched.ready() == "1 open deferral\n"
    changelog.opened(episode("new", MINUTE))
    opened = watched.line()
    changelog.write(row(episode("aborted")), commit=False)
    changelog.write(row(replace(there, attempts=4)), {"key": POSITION_KEY, "value": b"a position"})
    deferred = watched.line()
    changelog.write(row(replace(there, attempts=4, told=Told.RAISED)))
    raised = watched.line()
    changelog.write(closed(there))
    ended = watched.line()

    seen = [(line.split()[2], "INV-there" in line) for line in (first, opened, deferred, raised, ended)]
    assert seen == [("open", True), ("opened", False), ("deferred", True), ("raised", True), ("closed", True)]
    assert "INV-new" in opened
    assert "@" not in first
    assert watched.end() == (130, "", "")


def test_a_reader_who_has_seen_enough_ends_the_watch_without_a_traceback(changelog: Changelog) -> None:
    """As by ``deferrals --watch | head -1``."""
    changelog.opened(episode("there"))
    with spawn("deferrals", "--watch") as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert "INV-there" in child.stdout.readline()
        assert child.stderr.readline() == "1 open deferral\n"
        child.stdout.close()

        changelog.opened(episode("one too many"))

        assert (child.wait(timeout=60), child.stderr.read()) == (1, "")


def test_watch_tells_a_program_each_change_with_all_fields(changelog: Changelog) -> None:
    watched = Watched("--json", "--provider", "sendgrid", "--level", "raised")
    assert "nothing is deferred" in watched.ready()
    one = episode("one", told=Told.RAISED)

    changelog.opened(episode("other", provider="mailgun", told=Told.RAISED), replace(one, told=Told.NOTHING))
    changelog.opened(one)
    changelog.opened(replace(one, reason="451 wait"), replace(one, reason="451 wait", told=Told(3)))
    changelog.opened(replace(one, number=9))
    changelog.write(closed(one))
    found = [codecs.decode(watched.line()) for _ in range(5)]

    assert [line["change"] for line in found] == ["came", "changed", "left", "came", "closed"]
    assert list(found[0]) == ["change", *FIELDS]
    assert {line["delivery_id"] for line in found} == {"delivery-one"}
    assert watched.end() == (130, "", "")


def test_what_comes_of_age_while_it_is_watched_comes_to_fit(changelog: Changelog) -> None:
    changelog.opened(episode("young", 0))
    watched = Watched("--json", "--older-than", "4s")

    assert (line := codecs.decode(watched.line()))["change"] in {"came", "open"}
    assert line["age_s"] >= 4
    assert watched.end()[0] == 130


def test_a_matrix_cannot_be_redrawn_where_no_terminal_is(invoke: Invoke, changelog: Changelog) -> None:
    result = invoke("deferrals", "--watch", "--qshape")

    assert result.exit_code == 2
    assert "needs a terminal" in result.stderr
    assert changelog.topic


class Terminal:
    """A command on a terminal of 100 columns and 12 lines."""

    def __init__(self, *arguments: object) -> None:
        self._mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 100, 0, 0))
        self._child = subprocess.Popen(
            [sys.executable, "-m", "streams", *map(str, arguments)],
            env={name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
            | {"TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def until(self, wanted: str) -> None:
        """Read until a text was drawn that was not before; fails when the command ends without it."""
        begin = len(self.text)
        while wanted not in self.text[begin:]:
            self.text += os.read(self._mine, 65_536).decode("utf-8", "replace")

    def interrupt(self) -> int:
        self._child.send_signal(signal.SIGINT)
        while True:
            try:
                read = os.read(self._mine, 65_536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not read:
                break
            self.text += read.decode("utf-8", "replace")
        return self._child.wait(timeout=30)

    def close(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        os.close(self._mine)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    begun: list[Terminal] = []

    def begin(*arguments: object) -> Terminal:
        begun.append(Terminal(*arguments))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()


def test_on_a_terminal_the_table_is_redrawn_and_the_screen_given_back(
    changelog: Changelog, terminal: Callable[..., Terminal]
) -> None:
    changelog.opened(*(episode(f"old-{number}", (9 + number) * HOUR) for number in range(9)))

    screen = terminal("deferrals", "--watch")
    screen.until("2 more, all younger")
    assert "INV-old-0" not in screen.text  # seven rows fit
    for number in range(8):
        changelog.write(closed(episode(f"old-{number}")))
    screen.until("1 open deferral")
    changelog.opened(episode("fresh"))
    screen.until("INV-fresh")
    changelog.write(closed(episode("fresh")), closed(episode("old-8")))
    screen.until("nothing is deferred")

    assert screen.interrupt() == 130
    assert "\x1b[?1049l" in screen.text.rpartition("nothing is deferred")[2]
    assert "Traceback" not in screen.text


def test_on_a_terminal_the_matrix_is_redrawn(changelog: Changelog, terminal: Callable[..., Terminal]) -> None:
    changelog.opened(episode("a"))

    screen = terminal("deferrals", "--watch", "--qshape")
    screen.until("1280+")
    changelog.opened(episode("b", recipient="b@yahoo.com"))
    screen.until("yahoo")

    assert screen.interrupt() == 130


# -- small words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (86_399, "23h 59m"),
        (86_400, "1d 00h"),
    ],
)
def test_a_length_of_time_is_told_in_its_two_largest_units(seconds: int, text: str) -> None:
    assert duration_text(seconds * 1_000_000) == text


@given(st.integers(min_value=0, max_value=10**16))
def test_a_length_of_time_is_short(micros: int) -> None:
    assert len(duration_text(micros)) <= len("115740d 00h")
