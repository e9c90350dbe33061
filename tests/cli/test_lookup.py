"""What became of a message, found by any of its names."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from streams import codecs, records, topics
from streams.domain.deferrals import Alert, Ending, Episode, Level
from streams.domain.events import BounceKind, DeliveryEvent, EventType
from streams.domain.reasons import ReasonClass
from tests.cli.conftest import Cluster, Invoke
from tests.cli.test_feed_and_watch import RECEIVED, event, status_record
from tests.test_texts import HOSTILE


def event_record(one: DeliveryEvent) -> dict[str, Any]:
    return {"key": one.delivery_id.encode(), "value": records.encode_event(one, "mail.raw.sendgrid/0/1")}


def known(cluster: Cluster, *events: DeliveryEvent) -> None:
    """Write what the worker writes for these events of one delivery."""
    cluster.produce(topics.EVENTS, *(event_record(one) for one in events))
    cluster.produce(topics.STATUS, status_record(*events), commit=True)


def alert_record(one: DeliveryEvent, level: Level, after: timedelta, **changes: Any) -> dict[str, Any]:
    """Return what the monitor tells of a deferral that this event opened, so long after it."""
    since = int(RECEIVED.timestamp()) * 1_000_000
    episode = Episode(
        delivery_id=one.delivery_id,
        account=one.account,
        provider=one.provider,
        message_id=one.message_id,
        recipient=one.recipient,
        reference=one.reference,
        destination="other",
        first_received_at=since,
        number=2,
        since=since,
        attempts=3,
        reason=one.reason,
        smtp_code=one.smtp_code,
        enhanced_code=None,
        reason_class=ReasonClass.UNKNOWN,
        retry_until=None,
    )
    due_at = since + int(after.total_seconds()) * 1_000_000
    alert = Alert(episode=episode, level=level, due_at=due_at, retry_until=since + 72 * 3600 * 1_000_000, **changes)
    return {"key": one.delivery_id.encode(), "value": records.encode_alert(alert, support_contact=None)}


def bounced(name: str, **changes: Any) -> Sequence[DeliveryEvent]:
    later = {"received_at": RECEIVED + timedelta(minutes=2), "occurred_at": RECEIVED + timedelta(minutes=2)}
    said = {"bounce_kind": BounceKind.HARD, "reason": "550 5.1.1 no such user", "provider_event": "bounce/bounce"}
    return [event(name, EventType.SENT, **changes), event(name, EventType.BOUNCE, **later, **said, **changes)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--reference", "INV-found"],
        ["--reference", " inv-FOUND"],
        ["--recipient", "Found@Example.COM"],
        ["--message-id", "message-found"],
        ["--message-id", "<message-found>"],
        ["--delivery-id", event("found").delivery_id],
        ["--reference", "INV-found", "--recipient", "found@example.com"],
        ["INV-found"],
        ["inv-found"],
        ["found@example.com"],
        ["message-found"],
        [event("found").delivery_id],
    ],
    ids=" ".join,
)
def test_a_delivery_is_found_by_each_of_its_names(invoke: Invoke, cluster: Cluster, arguments: list[str]) -> None:
    known(cluster, *bounced("found"))
    known(cluster, *bounced("neighbour"))

    result = invoke("lookup", *arguments, "--json")

    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    found = codecs.decode(line)
    assert found["delivery_id"] == event("found").delivery_id
    assert found["status"]["status"] == "bounced"
    assert [one["type"] for one in found["timeline"]] == ["sent", "bounce"]


def test_status_advice_and_timeline_are_shown_to_people(invoke: Invoke, cluster: Cluster) -> None:
    known(cluster, *bounced("shown"))

    text = invoke("lookup", "INV-shown").stdout

    advice = records.decode_status(status_record(*bounced("shown"))["value"])["advice"]
    assert text.startswith("INV-shown to shown@example.com: bounced (hard)\n")
    assert advice["meaning"] in text
    assert advice["what_to_do"] in text
    assert "2026-11-22 10:02:00  bounce hard (bounce/bounce)  550 5.1.1 no such user" in text
    assert text.index("10:00:00  sent") < text.index("10:02:00  bounce")


def test_the_alerts_of_a_deferral_are_in_the_timeline_where_they_fell_due(invoke: Invoke, cluster: Cluster) -> None:
    hours = [RECEIVED + timedelta(hours=number) for number in (0, 2)]
    put_off, arrived = (
        event("alerted", kind, received_at=hour, occurred_at=hour)
        for kind, hour in zip((EventType.DEFERRED, EventType.DELIVERED), hours, strict=True)
    )
    known(cluster, put_off, arrived)
    resolved = {"ending": Ending.DELIVERED}
    cluster.produce(
        topics.DEFERRAL_ALERTS,
        alert_record(put_off, Level.RAISED, timedelta(hours=1)),
        alert_record(put_off, Level.RESOLVED, timedelta(hours=2), **resolved),
        alert_record(event("neighbour"), Level.RAISED, timedelta(hours=1)),
        {"key": put_off.delivery_id.encode(), "value": b"no json"},
        commit=True,
    )
    cluster.produce(topics.DEFERRAL_ALERTS, alert_record(put_off, Level.OVERDUE, timedelta(hours=1)), commit=False)

    text = invoke("lookup", "INV-alerted").stdout
    found = codecs.decode(invoke("lookup", "INV-alerted", "--json").stdout)

    timeline = [line.strip() for line in text.splitlines() if line.startswith("  2026-11-22 1")]
    assert [line.partition("  ")[2] for line in timeline] == [
        "deferred",
        "alert: raised  the provider gives up at 2026-11-25 10:00:00",
        "delivered",
        "alert: resolved  it is delivered",
    ]
    assert [one["level"] for one in found["alerts"]] == ["raised", "resolved"]
    assert len(found["timeline"]) == 2


def test_an_alert_that_was_wrong_is_marked(invoke: Invoke, cluster: Cluster) -> None:
    put_off = event("annulled", EventType.DEFERRED)
    known(cluster, put_off)
    wrong = {"ending": Ending.DELIVERED, "annulled": True}
    cluster.produce(topics.DEFERRAL_ALERTS, alert_record(put_off, Level.RESOLVED, timedelta(hours=1), **wrong))

    assert "it should not have been told" in invoke("lookup", "INV-annulled").stdout


def test_options_given_together_must_all_fit(invoke: Invoke, cluster: Cluster) -> None:
    known(cluster, *bounced("both"))

    result = invoke("lookup", "--reference", "INV-both", "--recipient", "other@example.com")

    assert result.exit_code == 1


def test_a_part_of_a_name_is_not_the_name(invoke: Invoke, cluster: Cluster) -> None:
    known(cluster, *bounced("whole-name"))

    assert invoke("lookup", "INV-whole").exit_code == 1


def test_nothing_found_is_exit_code_1_and_says_what_was_looked_for_and_how_far_back(
    invoke: Invoke, cluster: Cluster
) -> None:
    result = invoke("lookup", "INV-never")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing found for INV-never as reference, recipient, message id, delivery id" in result.stderr
    assert "8 days" in result.stderr
    assert cluster.settings


@pytest.mark.parametrize("arguments", [[], ["x", "--reference", "y"], [""], ["--reference", " "], ["<>"]])
def test_a_question_is_either_a_text_or_options(invoke: Invoke, arguments: list[str]) -> None:
    assert invoke("lookup", *arguments).exit_code == 2


def test_events_of_a_delivery_without_a_status_are_shown_all(invoke: Invoke, cluster: Cluster) -> None:
    without_reference = event("no-status", EventType.SENT, reference=None)
    cluster.produce(topics.EVENTS, *map(event_record, [without_reference, event("no-status")]))

    text = invoke("lookup", "INV-no-status").stdout
    found = codecs.decode(invoke("lookup", "INV-no-status", "--json").stdout)

    assert "no status yet" in text
    assert found["status"] is None
    assert [one["type"] for one in found["timeline"]] == ["delivered", "sent"]


def test_an_event_that_came_twice_is_shown_once(invoke: Invoke, cluster: Cluster) -> None:
    events = bounced("twice")
    known(cluster, *events)
    cluster.produce(topics.EVENTS, *map(event_record, events))

    assert len(codecs.decode(invoke("lookup", "INV-twice", "--json").stdout)["timeline"]) == 2


def test_the_newest_status_counts_and_an_expired_one_is_gone(invoke: Invoke, cluster: Cluster) -> None:
    sent, bounce = bounced("expiring")
    cluster.produce(topics.STATUS, status_record(sent), status_record(sent, bounce), commit=True)

    newest = codecs.decode(invoke("lookup", "INV-expiring", "--json").stdout)["status"]
    cluster.produce(topics.STATUS, {"key": sent.delivery_id.encode(), "value": None}, commit=True)

    assert newest["revision"] == 2
    assert invoke("lookup", "INV-expiring").exit_code == 1


def test_a_delivery_whose_reference_became_another_is_shown_as_it_is_now(invoke: Invoke, cluster: Cluster) -> None:
    """A provider may say another one than the application did; the older status is not the present one."""
    sent, bounce = bounced("renamed")
    named_anew = replace(bounce, reference="4711")
    cluster.produce(topics.STATUS, status_record(sent), status_record(sent, named_anew), commit=True)

    for name in ("INV-renamed", "4711"):
        status = codecs.decode(invoke("lookup", name, "--json").stdout)["status"]
        assert (status["status"], status["reference"]) == ("bounced", "4711")


def test_what_was_aborted_is_not_found_and_does_not_stop_the_search(invoke: Invoke, cluster: Cluster) -> None:
    known(cluster, *bounced("committed"))
    for topic in (topics.STATUS, topics.EVENTS):  # at the end of every partition: the end is a marker nobody delivers
        for partition in range(3):
            record = status_record(*bounced("aborted")) | {"partition": partition}
            cluster.produce(topic, record, commit=False)

    assert invoke("lookup", "INV-aborted").exit_code == 1
    assert invoke("lookup", "INV-committed").exit_code == 0


def test_of_many_the_newest_are_shown_and_the_rest_is_counted(invoke: Invoke, cluster: Cluster) -> None:
    for number in range(4):
        when = RECEIVED + timedelta(hours=number)
        known(cluster, event(f"many-{number}", recipient="many@example.com", received_at=when, occurred_at=when))

    result = invoke("lookup", "--recipient", "many@example.com", "--limit", "2")

    assert [name in result.stdout for name in ("many-0", "many-1", "many-2", "many-3")] == [False, False, True, True]
    assert "2 older not shown" in result.stderr
    assert len(invoke("lookup", "--recipient", "many@example.com", "--json").stdout.splitlines()) == 4


@pytest.mark.parametrize(
    "recipient", ["Jürgen@example.com", "ÄÖ@EXAMPLE.COM", "用户@example.com", 'q"uo\\te@example.com']
)
def test_an_address_of_any_letters_is_found_in_any_case(invoke: Invoke, cluster: Cluster, recipient: str) -> None:
    known(cluster, event(f"letters-{recipient}", recipient=recipient))

    assert invoke("lookup", "--recipient", recipient.lower()).exit_code == 0
    assert invoke("lookup", "--recipient", recipient.upper()).exit_code == 0


@pytest.mark.parametrize(("said", "typed"), [("Rü-1", "RU\u0308-1"), ("RU\u0308-2", "rü-2"), ("LİRA-3", "lİra-3")])
def test_a_reference_is_found_however_its_letters_are_composed(
    invoke: Invoke, cluster: Cluster, said: str, typed: str
) -> None:
    known(cluster, event(f"composed-{said}", reference=said))

    assert invoke("lookup", "--reference", typed).exit_code == 0


def test_hostile_text_of_others_reaches_no_terminal(invoke: Invoke, cluster: Cluster) -> None:
    known(
        cluster,
        event("hostile", EventType.DEFERRED, reference=HOSTILE, reason=HOSTILE, provider_event=HOSTILE, smtp_code=450),
    )

    text = invoke("lookup", "--message-id", "message-hostile")
    as_json = invoke("lookup", "--message-id", "message-hostile", "--json")

    for line in text.stdout.splitlines() + as_json.stdout.splitlines():
        assert line.isprintable()
    assert codecs.decode(as_json.stdout)["status"]["reference"] == HOSTILE
    assert not any(line.startswith("forged") for line in text.stdout.splitlines())


def test_records_that_are_none_do_not_stop_the_search(invoke: Invoke, cluster: Cluster) -> None:
    for topic in (topics.STATUS, topics.EVENTS):
        cluster.produce(
            topic, {"key": b"k", "value": b"INV-after-bad no json"}, {"key": b"k", "value": b'"INV-after-bad"'}
        )
    known(cluster, event("after-bad"))

    assert invoke("lookup", "INV-after-bad").exit_code == 0
