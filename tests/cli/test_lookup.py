"""What became of a message, found by any of its names."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streams import codecs, records, topics
from streams.cli import _lookup_search, lookup
from streams.cli._kafka import TellProgress, read_to_end
from streams.cli._lookup_question import Question
from streams.domain.deferrals import Alert, Ending, Episode, Level
from streams.domain.events import BounceKind, DeliveryEvent, EventType
from streams.domain.reasons import ReasonClass
from streams.settings import Settings
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
        ["--message-id", "message-found.recvd-5f54b5d587-pczjm-1-67BADEEA-6.0"],
        ["--message-id", "<message-found@eu-west-1.amazonses.com>"],
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


@pytest.mark.parametrize(
    ("written", "recipient"),
    [
        ("<shown@customer.example>", "shown@customer.example"),
        ("Ann Berg <Shown@Customer.example>", "shown@customer.example"),
        ('"Berg, Ann" <shown@customer.example>', "shown@customer.example"),
        ("letters@bücher.example", "letters@xn--bcher-kva.example"),
        ("Ann <LETTERS@BÜCHER.example>", "letters@xn--bcher-kva.example"),
        ("letters@bu\u0308cher.example", "letters@xn--bcher-kva.example"),
        ("ascii@xn--strae-oqa.example", "ascii@straße.example"),
    ],
)
@pytest.mark.parametrize("option", [(), ("--recipient",)])
def test_an_address_is_found_as_a_person_has_it(
    invoke: Invoke, cluster: Cluster, written: str, recipient: str, option: tuple[str, ...]
) -> None:
    """A mail program shows a name, and a customer's domain has letters that the provider reports in ASCII."""
    one = event("as-a-person-has-it", recipient=recipient)
    known(cluster, one)

    result = invoke("lookup", *option, written, "--json")

    assert [codecs.decode(line)["delivery_id"] for line in result.stdout.splitlines()] == [one.delivery_id]


@pytest.mark.parametrize("domain", ["xn--", "xn--ü.example", "xn--99999999.example", "xn--ib9b.example", "", "@"])
def test_a_domain_that_stands_for_no_letters_is_looked_for_as_it_is(domain: str) -> None:
    assert Question.of(f"nobody@{domain}", {}).forms["recipient"] >= {f"nobody@{domain}"}


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


def test_while_a_message_is_deferred_its_newest_alert_says_what_to_do(invoke: Invoke, cluster: Cluster) -> None:
    """As in the Sending History: the status knows only what was true when its newest event came."""
    put_off = event("overdue", EventType.DEFERRED, reason="452 4.2.2 mailbox full", smtp_code=452)
    known(cluster, put_off)
    overdue = alert_record(put_off, Level.OVERDUE, timedelta(hours=73))
    cluster.produce(topics.DEFERRAL_ALERTS, alert_record(put_off, Level.RAISED, timedelta(hours=1)), overdue)

    text = invoke("lookup", "INV-overdue").stdout
    found = codecs.decode(invoke("lookup", "INV-overdue", "--json").stdout)

    advice = records.decode_alert(overdue["value"])["advice"]
    assert found["advice"] == advice != found["status"]["advice"]
    assert advice["what_to_do"] in text
    assert found["status"]["advice"]["what_to_do"] not in text
    shown = dict(line.split(maxsplit=1) for line in text.splitlines() if line.startswith(("  attempts", "  tried")))
    assert shown == {"attempts": "3", "tried": "until    2026-11-25 10:00:00"}


def test_an_alert_of_an_earlier_deferral_says_nothing_about_what_to_do(invoke: Invoke, cluster: Cluster) -> None:
    """As in the Sending History: the monitor may be behind, and its alert of a deferral that a drop has ended be newest."""
    hours = [RECEIVED + timedelta(hours=number) for number in range(4)]
    sent, put_off, dropped, put_off_again = (
        event("two-deferrals", kind, event_id=f"two-deferrals-{number}", received_at=hour, occurred_at=hour)
        for number, (hour, kind) in enumerate(
            zip(hours, (EventType.SENT, EventType.DEFERRED, EventType.DROPPED, EventType.DEFERRED), strict=True)
        )
    )
    known(cluster, sent, put_off, dropped, put_off_again)
    cluster.produce(topics.DEFERRAL_ALERTS, alert_record(put_off, Level.OVERDUE, timedelta(hours=1)))

    found = codecs.decode(invoke("lookup", "INV-two-deferrals", "--json").stdout)

    assert (found["status"]["status"], found["status"]["revision"]) == ("deferred", 4)
    assert found["advice"] == found["status"]["advice"]


def test_an_alert_of_a_deferral_that_ended_says_nothing_about_what_to_do(invoke: Invoke, cluster: Cluster) -> None:
    put_off = event("over", EventType.DEFERRED)
    known(cluster, put_off, event("over", EventType.DELIVERED))
    cluster.produce(topics.DEFERRAL_ALERTS, alert_record(put_off, Level.RAISED, timedelta(hours=1)))

    found = codecs.decode(invoke("lookup", "INV-over", "--json").stdout)

    assert found["advice"] == found["status"]["advice"]


def test_without_the_right_to_read_alerts_all_else_is_shown(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(cluster, event("no-alerts"))
    monkeypatch.setattr(
        topics, "DEFERRAL_ALERTS", "no.such.alerts"
    )  # who may not see a topic is told that it is missing

    result = invoke("lookup", "INV-no-alerts", "--json")

    assert result.exit_code == 0
    assert (
        "without alerts, and of a deferral without the newest advice: topic no.such.alerts is missing" in result.stderr
    )
    assert codecs.decode(result.stdout)["alerts"] is None


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


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x", "--reference", "y"],
        [""],
        ["--reference", " "],
        ["<>"],
        ["--reference", "", "--recipient", "found@example.com"],
    ],
)
def test_a_question_is_either_a_text_or_options(invoke: Invoke, arguments: list[str]) -> None:
    assert invoke("lookup", *arguments).exit_code == 2


def test_events_of_a_delivery_without_a_status_are_shown_all(invoke: Invoke, cluster: Cluster) -> None:
    now = datetime.now(UTC)
    without_reference = event("no-status", EventType.SENT, reference=None, received_at=now)
    cluster.produce(topics.EVENTS, *map(event_record, [without_reference, event("no-status", received_at=now)]))

    text = invoke("lookup", "INV-no-status").stdout
    found = codecs.decode(invoke("lookup", "INV-no-status", "--json").stdout)

    assert "no status yet" in text
    assert (found["status"], found["no_status"], found["advice"]) == (None, "not_yet", None)
    assert [one["type"] for one in found["timeline"]] == ["delivered", "sent"]


def test_the_heading_names_the_reference_that_any_of_the_events_says(invoke: Invoke, cluster: Cluster) -> None:
    now = datetime.now(UTC)
    sent = event("headed", EventType.SENT, reference=None, received_at=now, occurred_at=now)
    delivered = event("headed", received_at=now, occurred_at=now + timedelta(seconds=1))
    cluster.produce(topics.EVENTS, *map(event_record, [sent, delivered]))

    assert invoke("lookup", "INV-headed").stdout.startswith("INV-headed to headed@example.com\n")


def test_a_server_that_answers_by_codes_alone_has_answered(invoke: Invoke, cluster: Cluster) -> None:
    known(cluster, event("codes", EventType.BOUNCE, bounce_kind=BounceKind.SOFT, smtp_code=552, enhanced_code="5.2.2"))

    assert "  answer         552 5.2.2\n" in invoke("lookup", "INV-codes").stdout


def test_a_status_whose_reference_is_newer_than_what_is_looked_for_is_found(invoke: Invoke, cluster: Cluster) -> None:
    """Kafka has removed the status with the old reference; only an event says it still."""
    sent, bounce = bounced("corrected")
    known(cluster, sent, replace(bounce, reference="INV-corrected-2"))

    found = codecs.decode(invoke("lookup", "INV-corrected", "--json").stdout)

    assert (found["status"]["status"], found["status"]["reference"]) == ("bounced", "INV-corrected-2")
    assert found["no_status"] is None


def deferred_and_delivered(name: str) -> tuple[DeliveryEvent, DeliveryEvent]:
    hour_later = RECEIVED + timedelta(hours=1)
    return event(name, EventType.DEFERRED), event(name, received_at=hour_later, occurred_at=hour_later)


def test_a_status_that_lacks_a_final_word_is_called_out_of_date_and_gives_no_advice(
    invoke: Invoke, cluster: Cluster
) -> None:
    """The worker has written the event and not yet its status: who still waits, or sends it again, is misled."""
    put_off, arrived = deferred_and_delivered("behind")
    known(cluster, put_off)
    cluster.produce(topics.DEFERRAL_ALERTS, alert_record(put_off, Level.OVERDUE, timedelta(hours=73)))
    before = codecs.decode(invoke("lookup", "INV-behind", "--json").stdout)
    cluster.produce(topics.EVENTS, event_record(arrived))

    text = invoke("lookup", "INV-behind").stdout
    found = codecs.decode(invoke("lookup", "INV-behind", "--json").stdout)

    assert (before["status_is_behind"], found["status_is_behind"]) == (False, True)
    assert (found["status"]["status"], found["advice"]) == ("deferred", None)
    assert text.splitlines()[:2] == [
        "INV-behind to behind@example.com: deferred",
        "  out of date: an event below has a final word, the worker has not come to it (mailstreams worker)",
    ]
    assert before["advice"]["what_to_do"] not in text


def test_a_status_that_changes_during_the_search_is_read_again(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_off, arrived = deferred_and_delivered("meanwhile")
    known(cluster, put_off)
    written: list[DeliveryEvent] = []

    async def and_the_worker_goes_on(settings: Settings, topic: str, tell: TellProgress) -> AsyncIterator[Any]:
        if topic == topics.EVENTS and not written:
            written.append(arrived)
            await asyncio.to_thread(known, cluster, put_off, arrived)
        async for batch in read_to_end(settings, topic, tell):
            yield batch

    monkeypatch.setattr(_lookup_search, "read_to_end", and_the_worker_goes_on)

    found = codecs.decode(invoke("lookup", "INV-meanwhile", "--json").stdout)

    assert (found["status"]["status"], found["status_is_behind"]) == ("delivered", False)
    assert found["advice"] == found["status"]["advice"]


def test_the_final_word_of_a_former_life_does_not_contradict_the_present_status(
    invoke: Invoke, cluster: Cluster
) -> None:
    former = RECEIVED - timedelta(days=1)
    known(cluster, event("lives", EventType.DEFERRED))
    cluster.produce(topics.EVENTS, event_record(event("lives", received_at=former, occurred_at=former)))

    found = codecs.decode(invoke("lookup", "INV-lives", "--json").stdout)

    assert (found["status_is_behind"], found["advice"]) == (False, found["status"]["advice"])


def test_a_timeline_whose_beginning_is_no_longer_kept_says_so(invoke: Invoke, cluster: Cluster) -> None:
    """Else a message that nobody has opened, long ago, and one of which nothing is kept look alike."""
    sent, bounce = bounced("old")
    cluster.produce(topics.STATUS, status_record(sent, bounce), commit=True)
    gone = "  earlier events are no longer kept (topics.events_retention_days: 8)\n"

    with_none = invoke("lookup", "INV-old").stdout
    cluster.produce(topics.EVENTS, event_record(bounce))
    with_the_last = invoke("lookup", "INV-old").stdout
    cluster.produce(topics.EVENTS, event_record(sent))
    with_all = invoke("lookup", "INV-old").stdout

    assert with_none.endswith(gone)
    assert f"{gone}  2026-11-22 10:02:00  bounce" in with_the_last
    assert gone not in with_all


def test_why_a_delivery_without_a_status_has_none_is_said(invoke: Invoke, cluster: Cluster) -> None:
    now = datetime.now(UTC)

    def of(name: str, kind: EventType, age: timedelta) -> DeliveryEvent:
        at = now - age
        return event(f"why-{name}", kind, recipient="why@example.com", received_at=at, occurred_at=at)

    removed = of("tombstone", EventType.DELIVERED, timedelta(days=2))
    long_ago = of("age", EventType.DELIVERED, timedelta(days=91))
    again = of("again", EventType.DELIVERED, timedelta())
    nothing = of("nothing", EventType.OTHER, timedelta(days=91))
    cluster.produce(topics.EVENTS, *map(event_record, [removed, long_ago, again, nothing]))
    gone = alert_record(removed, Level.RESOLVED, timedelta(days=90), ending=Ending.EXPIRED)
    cluster.produce(
        topics.DEFERRAL_ALERTS, gone, alert_record(again, Level.RESOLVED, timedelta(), ending=Ending.EXPIRED)
    )
    day_ago = round((now - timedelta(days=1)).timestamp() * 1000)
    cluster.produce(
        topics.STATUS,
        *({"key": one.delivery_id.encode(), "value": None, "timestamp_ms": day_ago} for one in (removed, again)),
    )

    text = invoke("lookup", "--recipient", "why@example.com").stdout
    lines = map(codecs.decode, invoke("lookup", "--recipient", "why@example.com", "--json").stdout.splitlines())

    assert {line["delivery_id"]: (line["no_status"], line["advice"]) for line in lines} == {
        removed.delivery_id: ("forgotten", records.decode_alert(gone["value"])["advice"]),
        long_ago.delivery_id: ("forgotten", None),
        again.delivery_id: ("not_yet", None),
        nothing.delivery_id: ("changes_nothing", None),
    }
    assert text.count("forgotten, 90 days after its last event") == 2
    assert text.count("no status yet: ") == text.count("no status: none of its events says ") == 1


def test_of_a_delivery_that_was_forgotten_while_deferred_the_alerts_still_say_it(
    invoke: Invoke, cluster: Cluster
) -> None:
    """Its status and its events are gone by then, and the alert that it ended without a final word has just come."""
    put_off = event("long-forgotten", EventType.DEFERRED)
    raised, ended = (
        alert_record(put_off, Level.RAISED, timedelta(hours=1)),
        alert_record(put_off, Level.RESOLVED, timedelta(days=90), ending=Ending.EXPIRED),
    )
    unnamed = raised | {"value": raised["value"].replace(b'"reference":"INV-long-forgotten"', b'"reference":null')}
    cluster.produce(topics.DEFERRAL_ALERTS, unnamed, ended)

    text = invoke("lookup", "INV-long-forgotten").stdout
    found = codecs.decode(invoke("lookup", "INV-long-forgotten", "--json").stdout)

    advice = records.decode_alert(ended["value"])["advice"]
    assert (found["status"], found["no_status"], found["advice"]) == (None, "forgotten", advice)
    assert [alert["level"] for alert in found["alerts"]] == ["raised", "resolved"]
    assert text.startswith(
        "INV-long-forgotten to long-forgotten@example.com\nforgotten, 90 days after its last event\n"
    )
    assert f"  delivery id    {put_off.delivery_id}\n" in text
    assert "  message id     message-long-forgotten\n" in text
    assert advice["what_to_do"] in text


def test_a_status_is_found_by_a_reference_that_only_an_alert_names(invoke: Invoke, cluster: Cluster) -> None:
    put_off = event("named-before", EventType.DEFERRED)
    known(cluster, replace(put_off, reference="INV-named-anew"))
    cluster.produce(topics.DEFERRAL_ALERTS, alert_record(put_off, Level.RAISED, timedelta(hours=1)))

    found = codecs.decode(invoke("lookup", "INV-named-before", "--json").stdout)

    assert (found["status"]["reference"], len(found["timeline"])) == ("INV-named-anew", 1)


def test_a_time_that_cannot_be_is_replaced_by_that_of_receipt_and_named(invoke: Invoke, cluster: Cluster) -> None:
    received = RECEIVED + timedelta(minutes=1)
    later = RECEIVED + timedelta(minutes=5)
    known(
        cluster,
        event("clock", received_at=received, occurred_at=datetime(2036, 2, 7, 6, 28, tzinfo=UTC)),
        event("clock", EventType.SENT, received_at=later, occurred_at=later),
    )

    text = invoke("lookup", "INV-clock").stdout

    remark = "(time of receipt; the provider's clock said 2036-02-07 06:28:00, which cannot be)"
    assert f"  last change    2026-11-22 10:01:00  {remark}\n" in text
    assert f"  2026-11-22 10:01:00  delivered  {remark}\n  2026-11-22 10:05:00  sent\n" in text


def test_an_event_that_came_twice_is_shown_once(invoke: Invoke, cluster: Cluster) -> None:
    events = bounced("twice")
    known(cluster, *events)
    cluster.produce(topics.EVENTS, *map(event_record, events))

    assert len(codecs.decode(invoke("lookup", "INV-twice", "--json").stdout)["timeline"]) == 2


def test_of_an_event_that_came_twice_the_first_copy_is_shown(invoke: Invoke, cluster: Cluster) -> None:
    """As in the Sending History. An application that reports a send again does not send it after its delivery."""
    sent, delivered = (
        event("reported-again", kind, received_at=at, occurred_at=at)
        for kind, at in ((EventType.SENT, RECEIVED), (EventType.DELIVERED, RECEIVED + timedelta(minutes=1)))
    )
    known(cluster, sent, delivered)
    a_day_later = RECEIVED + timedelta(days=1)
    cluster.produce(topics.EVENTS, event_record(replace(sent, received_at=a_day_later, occurred_at=a_day_later)))

    timeline = codecs.decode(invoke("lookup", "INV-reported-again", "--json").stdout)["timeline"]

    assert [(one["type"], one["occurred_at"]) for one in timeline] == [
        ("sent", "2026-11-22T10:00:00Z"),
        ("delivered", "2026-11-22T10:01:00Z"),
    ]


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


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("ann@xn--mller-kva.example", "Ann@Müller.example"),
        ("ann@grün.example", "ann@xn--grn-ioa.example"),
        ("ann@gru\u0308n.example", "ann@GRÜN.example"),
    ],
)
def test_an_address_is_found_however_its_domain_is_written(
    invoke: Invoke, cluster: Cluster, said: str, typed: str
) -> None:
    known(cluster, event(f"domain-{said}", recipient=said))

    assert f"domain-{said}" in invoke("lookup", "--recipient", typed, "--json").stdout
    assert invoke("lookup", typed).exit_code == 0


def test_an_answer_says_since_when_nothing_new_came(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(cluster, event("quiet", EventType.SENT))

    assert "newest event" not in invoke("lookup", "INV-quiet").stderr
    assert "; the newest event of all mail was received at 20" in invoke("lookup", "INV-never").stderr
    monkeypatch.setattr(lookup, "_QUIET_S", -3600.0)
    told = invoke("lookup", "INV-quiet", "--json")
    assert "the newest event of all mail was received at 20" in told.stderr
    assert "newest event" not in told.stdout


def test_nobody_is_told_to_wait_for_a_word_that_does_not_come_any_more(invoke: Invoke, cluster: Cluster) -> None:
    for days in (6, 8):
        at = datetime.now(UTC) - timedelta(days)
        known(cluster, event(f"days-{days}", EventType.SENT, received_at=at, occurred_at=at))

    assert "Wait. It will become" in invoke("lookup", "INV-days-6").stdout
    assert "Do not wait any longer" in invoke("lookup", "INV-days-8").stdout
    assert codecs.decode(invoke("lookup", "INV-days-8", "--json").stdout)["advice"]["code"] == "no_word"


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
