"""Recorded bodies go in; status changes are seen as a read_committed subscriber sees them."""

import signal
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.local import ROOT, demo
from streams import codecs, records, topics
from streams.cli.watch import alert_line, change_line
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.status import Delivery, fold
from streams.providers import PROVIDERS
from tests.cli.conftest import Cluster, Invoke, spawn
from tests.test_texts import HOSTILE

RECEIVED = datetime(2026, 11, 22, 10, tzinfo=UTC)


def event(name: str, kind: EventType = EventType.DELIVERED, **changes: Any) -> DeliveryEvent:
    values: dict[str, Any] = {
        "event_id": f"{name}-{kind}",
        "provider": "sendgrid",
        "account": "default",
        "message_id": f"message-{name}",
        "recipient": f"{name}@example.com",
        "type": kind,
        "received_at": RECEIVED,
        "occurred_at": RECEIVED,
        "reference": f"INV-{name}",
    }
    return DeliveryEvent(**(values | changes))


def status_record(*events: DeliveryEvent) -> dict[str, Any]:
    delivery: Delivery | None = None
    for one in events:
        delivery = fold(delivery, one).delivery
    assert delivery is not None
    value = records.encode_status(delivery, support_contact="the desk", warn_after_us=3_600_000_000)
    return {"key": delivery.delivery_id.encode(), "value": value}


def headers_of(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


def test_a_body_arrives_as_it_is_with_the_headers_of_the_ingress(
    invoke: Invoke, cluster: Cluster, tmp_path: Path
) -> None:
    body = b'{"RecordType": "Delivery",  "MessageID": "fed-exactly"}\n'
    (tmp_path / "body.json").write_bytes(body)

    result = invoke("feed", "postmark", tmp_path / "body.json", "--account", "billing")

    assert (result.exit_code, result.stderr) == (0, "sent 1 request to mail.raw.postmark\n")
    (record,) = [one for one in cluster.consume("mail.raw.postmark") if one.value == body]
    request = records.decode_raw(record.value, record.headers, reference_keys=())
    assert (request.account, request.headers["content-type"]) == ("billing", "application/json")
    assert abs(datetime.now(UTC) - request.received_at) < timedelta(minutes=1)
    assert headers_of(record)["verified"] == "false"
    assert not [name for name in headers_of(record) if name.startswith(records.RAW_HTTP)]
    assert record.key is None


def test_fresh_bodies_of_one_call_keep_their_messages_together_and_each_round_has_its_own(
    invoke: Invoke, cluster: Cluster
) -> None:
    paths = [payload.path for payload in demo.payloads() if payload.provider == "sendgrid"]
    before = len(cluster.consume("mail.raw.sendgrid"))

    result = invoke("feed", "sendgrid", *paths, "--as-now", "--repeat", "2", "--json")

    assert codecs.decode(result.stdout) == {"topic": "mail.raw.sendgrid", "sent": 2 * len(paths)}
    fed = cluster.consume("mail.raw.sendgrid")
    assert len(fed) - before == 2 * len(paths)
    bodies = [codecs.decode(one.value) for one in fed]
    ids = [{element["sg_message_id"] for element in body if isinstance(element, dict)} for body in bodies]
    assert len(set.union(*ids)) == sum(map(len, ids))


def test_a_body_can_come_by_standard_input(invoke: Invoke, cluster: Cluster) -> None:
    body = b"event=delivered&Message-Id=by-standard-input"

    assert invoke("feed", "mailgun", "-", stdin=body).exit_code == 0

    (record,) = [one for one in cluster.consume("mail.raw.mailgun") if one.value == body]
    assert headers_of(record)["content-type"] == "application/x-www-form-urlencoded"


def test_a_body_of_any_bytes_is_fed(invoke: Invoke, cluster: Cluster) -> None:
    body = b"\xff\x00 hostile " + b"[" * 1000

    assert invoke("feed", "amazon_ses", "-", "--as-now", stdin=body).exit_code == 0
    assert any(one.value == body for one in cluster.consume("mail.raw.amazon_ses"))


def test_the_largest_body_fits_and_a_larger_one_is_refused(invoke: Invoke, cluster: Cluster) -> None:
    largest = b"x" * topics.MAX_BODY_BYTES

    assert invoke("feed", "postmark", "-", stdin=largest).exit_code == 0
    refused = invoke("feed", "postmark", "-", stdin=largest + b"x")

    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert cluster.settings


def test_the_rate_is_kept(invoke: Invoke, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(b"{}")
    begin = time.monotonic()

    assert invoke("feed", "postmark", tmp_path / "body.json", "--repeat", "6", "--rate", "5").exit_code == 0

    assert time.monotonic() - begin >= 1.0
    assert cluster.settings


def test_an_unknown_provider_and_an_absent_file_are_wrong_use(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("feed", "sendgird", tmp_path).exit_code == 2
    assert invoke("feed", "sendgrid", tmp_path / "none.json").exit_code == 2
    assert invoke("feed", "sendgrid").exit_code == 2


def test_a_topic_that_is_missing_is_said_with_the_command_that_creates_it(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "RAW_PREFIX", "no.such.")

    result = invoke("feed", "postmark", "-", stdin=b"{}")

    assert result.exit_code == 3
    assert result.stderr == "mailstreams: topic no.such.postmark is missing; create it: mailstreams topics create\n"
    assert cluster.settings


def test_nothing_is_fed_to_a_topic_that_no_worker_reads(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILSTREAMS_TOPICS__PROVIDERS", "postmark")

    refused = invoke("feed", "brevo", "-", stdin=b'{"event": "no worker reads it"}')

    assert refused.exit_code == 2
    assert refused.stderr.startswith("mailstreams: no worker reads mail.raw.brevo: topics.providers leaves brevo out")
    assert not any(b"no worker reads it" in one.value for one in cluster.consume("mail.raw.brevo"))


@pytest.mark.parametrize("account", ["", "billing shop", "ä", "x" * 65])
def test_a_name_that_no_account_can_have_is_refused_before_every_body_becomes_a_dead_letter(
    invoke: Invoke, account: str
) -> None:
    result = invoke("feed", "postmark", "-", "--account", account, stdin=b"{}")

    assert result.exit_code == 2
    assert "Invalid value for '--account'" in result.stderr


def test_every_provider_can_be_fed(invoke: Invoke) -> None:
    usage = invoke("feed", "--help").stdout

    assert all(name in usage for name in PROVIDERS)


class Watched:
    """A running ``watch``; give its lines when enough of them came."""

    def __init__(self, *arguments: str) -> None:
        self._child = spawn("watch", *arguments)

    def lines(self, fit: str, count: int) -> list[str]:
        assert self._child.stdout is not None
        found: list[str] = []
        while len(found) < count:
            line = self._child.stdout.readline()
            assert line, self._child.stderr.read() if self._child.stderr else ""
            if fit in line:
                found.append(line.rstrip("\n"))
        return found

    def end(self) -> str:
        self._child.send_signal(signal.SIGINT)
        _, errors = self._child.communicate(timeout=30)
        return errors


def test_watch_shows_each_committed_change_as_it_comes(cluster: Cluster) -> None:
    watched = Watched("--json", "--from-beginning", "--no-alerts")
    aborted = status_record(event("watch-aborted"))
    first = status_record(event("watch-1", EventType.SENT))
    second = status_record(event("watch-1", EventType.SENT), event("watch-1", EventType.DELIVERED))

    cluster.produce(topics.STATUS_CHANGED, aborted, commit=False)
    cluster.produce(topics.STATUS_CHANGED, first, second, commit=True)
    lines = watched.lines("watch-", 2)
    errors = watched.end()

    assert [codecs.decode(line) for line in lines] == [codecs.decode(first["value"]), codecs.decode(second["value"])]
    assert errors == ""


def test_watch_begins_now_if_not_told_otherwise(cluster: Cluster) -> None:
    cluster.produce(topics.STATUS_CHANGED, status_record(event("watch-old")), commit=True)
    seen_one = threading.Event()

    def produce_until_seen() -> None:
        while not seen_one.wait(0.5):
            cluster.produce(topics.STATUS_CHANGED, status_record(event("watch-new")), commit=True)

    watched = Watched()
    writer = threading.Thread(target=produce_until_seen)
    writer.start()
    try:
        seen = watched.lines("INV-watch-", 1)
    finally:
        seen_one.set()
        writer.join()
    watched.end()

    assert "watch-old" not in seen[0]
    assert "\x1b" not in seen[0]


def test_a_line_tells_status_previous_reference_recipient_and_answer(cluster: Cluster) -> None:
    refused = event("watch-line", EventType.DEFERRED, reason="450 4.2.0 Greylisted", smtp_code=450)
    value = status_record(event("watch-line", EventType.SENT), refused)["value"]

    line = change_line(records.decode_status(value)).plain

    assert line.split() == [
        *("2026-11-22", "10:00:00", "deferred", "was", "sent", "INV-watch-line"),
        *("watch-line@example.com", "450", "4.2.0", "Greylisted", "sendgrid"),
    ]
    assert cluster.settings


@pytest.mark.parametrize("field", ["reference", "recipient", "reason", "status", "bounce_kind", "provider", "previous"])
def test_hostile_text_of_others_cannot_move_the_cursor_or_forge_a_line(field: str) -> None:
    change: Mapping[str, Any] = records.decode_status(status_record(event("hostile"))["value"]) | {field: HOSTILE}

    line = change_line(change).plain

    assert line.isprintable()
    assert "evil" in line


def alert(name: str = "raised", **changes: Any) -> dict[str, Any]:
    """Return an example of the schema, with changes."""
    example = ROOT / "schemas" / "examples" / "deferral-alert.v1" / f"{name}.json"
    return {**codecs.decode(example.read_bytes()), **changes}


def test_watch_shows_deferral_alerts_among_the_changes_unless_told_not_to(cluster: Cluster) -> None:
    watched, without = Watched("--from-beginning"), Watched("--no-alerts", "--from-beginning")
    told = {"key": b"k", "value": codecs.encode(alert(reference="INV-alert"))}

    cluster.produce(topics.DEFERRAL_ALERTS, told, commit=True)
    cluster.produce(topics.STATUS_CHANGED, status_record(event("beside-alert")), commit=True)
    lines = watched.lines("-alert", 2)
    others = without.lines("-alert", 1)

    assert {line.split()[2] for line in lines} == {"ALERT", "delivered"}
    assert others[0].split()[2] == "delivered"
    assert without.end() == ""
    # Other tests of this cluster tell alerts that nobody can read.
    assert all("cannot be shown" in line for line in watched.end().splitlines())


def test_a_line_of_an_alert_tells_its_level_how_long_it_waits_and_why() -> None:
    line = alert_line(alert(due_at="2026-11-20T12:00:50Z", deferred_since="2026-11-20T12:00:30Z")).plain

    assert line.split() == [
        *("2026-11-20", "12:00:50", "ALERT", "raised", "2026-4711", "anna.berg@example.com"),
        *("deferred", "for", "20s", "421", "4.7.0", "Try", "again", "later", "sendgrid"),
    ]


def test_a_line_of_a_resolved_alert_tells_the_outcome_and_whether_it_was_wrong() -> None:
    ended = alert(level="resolved", outcome="delivered", due_at="2026-11-20T12:01:30Z")
    ended["deferred_since"] = "2026-11-20T12:00:30Z"

    assert "delivered after 1m 00s" in alert_line(ended).plain
    assert "it was wrong" not in alert_line(ended).plain
    assert "it was wrong: delivered after 1m 00s" in alert_line({**ended, "annulled": True}).plain


@pytest.mark.parametrize(
    "field", ["reference", "recipient", "reason", "level", "provider", "outcome", "due_at", "deferred_since"]
)
def test_hostile_text_in_an_alert_cannot_move_the_cursor_or_forge_a_line(field: str) -> None:
    for level in ("raised", "resolved"):
        assert alert_line(alert(**{"level": level, "outcome": "bounced", field: HOSTILE})).plain.isprintable()


def test_a_record_that_is_none_is_noted_and_the_next_ones_are_shown(cluster: Cluster) -> None:
    watched = Watched("--from-beginning")
    cluster.produce(topics.STATUS_CHANGED, {"key": b"k", "value": b"\x1b[31mno json"})
    cluster.produce(topics.STATUS_CHANGED, status_record(event("watch-after-bad")), commit=True)

    watched.lines("watch-after-bad", 1)
    errors = watched.end()

    assert "cannot be shown" in errors
    assert "\x1b" not in errors
