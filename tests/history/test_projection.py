"""Records -> rows, on SQLite and on PostgreSQL: what is read again changes nothing, the newest change wins."""

import random
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from streams import codecs, topics
from streams.domain.events import DeliveryEvent
from streams.domain.status import to_micros
from streams.history import database, projection, queries, schema
from streams.history.access import Viewer
from streams.history.database import Database, DatabaseError, TooSlowError
from streams.history.projection import DAY, MovedError, Outcome, invoice_id
from streams.history.queries import Filter, count, delivery, search
from tests.history.support import NOW, Kept, Log, event
from tests.history.world import model_of, rows_of

ALL = Viewer(None)


def rows(kept: Kept, table: sa.Table) -> list[Any]:
    with kept.database.read() as connection:
        return list(connection.execute(sa.select(table)))


def test_the_migrations_make_the_tables_that_the_code_knows(kept: Kept) -> None:
    with kept.database.write() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        connection.exec_driver_sql("ALTER TABLE alerts ADD COLUMN more TEXT")
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) != []


def test_a_database_of_the_first_version_is_brought_up_to_date_with_what_it_holds(kept: Kept, url: str) -> None:
    log = Log().tell(event("sent"), event("bounce", message_id="m2"), event("sent", message_id="m3"))
    log.tell(event("sent", message_id="m4", recipient="ann@xn--mller-kva.example"))
    kept.apply(log.tell(event("sent", message_id="m5", reference="RÜ-1", recipient="jürgen@grün.example")).take())
    before = {table.name: sorted(rows(kept, table)) for table in schema.metadata.sorted_tables}
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with kept.database.write() as connection:
        for table in schema.metadata.sorted_tables:
            table.drop(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for table in schema.metadata.sorted_tables:
            if table.name != "kinds" and before[table.name]:
                connection.execute(sa.insert(table), [row._asdict() for row in before[table.name]])
        coded = {"recipient_key": "ann@xn--mller-kva.example"}  # as it was searched then
        known = sa.update(schema.deliveries).where(schema.deliveries.c.recipient_key == "ann@müller.example")
        assert connection.execute(known.values(coded)).rowcount == 1
        apart = {"reference_key": "ru\u0308-1", "recipient_key": "ju\u0308rgen@gru\u0308n.example"}
        known = sa.update(schema.deliveries).where(schema.deliveries.c.reference_key == "rü-1")
        assert connection.execute(known.values(apart)).rowcount == 1
    kept.database.close()
    again = Database(url)
    again.open()
    assert {table.name: sorted(rows(Kept(again), table)) for table in schema.metadata.sorted_tables} == before
    again.close()


def test_a_database_of_a_newer_version_is_refused(kept: Kept, url: str) -> None:
    with kept.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    kept.database.close()
    with pytest.raises(DatabaseError, match="newer version"):
        Database(url).open()


def test_one_process_writes(kept: Kept, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_PATIENCE_S", 0.1)
    assert kept.database
    with pytest.raises(DatabaseError, match="stop that one first"):
        Database(url).open()


def test_a_reader_cannot_write(kept: Kept) -> None:
    with pytest.raises(sa.exc.DBAPIError), kept.database.read() as connection:
        connection.execute(sa.delete(schema.offsets))


def test_a_page_is_made_from_one_state_whatever_is_written_meanwhile(kept: Kept) -> None:
    log = Log().tell(event("sent"))
    kept.apply(log.take())
    with kept.database.read() as connection:
        before = count(connection, ALL, Filter())
        kept.apply(log.tell(event("sent", message_id="m2")).take())
        assert count(connection, ALL, Filter()) == before
    with kept.database.read() as connection:
        assert count(connection, ALL, Filter()) != before


def test_a_question_that_takes_too_long_is_given_up(url: str) -> None:
    impatient = Database(url, query_timeout_s=0.2)
    impatient.open()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(TooSlowError), impatient.read() as connection:
        connection.exec_driver_sql(endless)
    with impatient.read() as connection:  # and the connection is as good as before
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.offsets)) == 0
    impatient.close()


def test_what_is_read_again_changes_nothing(kept: Kept) -> None:
    log = Log().tell(event("sent"), event("deferred", at=10), event("delivered", at=90), event("open", at=99))
    batch = log.take()
    kept.apply(batch)
    before = {table.name: rows(kept, table) for table in schema.metadata.sorted_tables}
    with kept.database.write() as connection:
        connection.execute(sa.delete(schema.offsets))
    again = projection.apply(kept.database, batch, {})
    assert {table.name: rows(kept, table) for table in schema.metadata.sorted_tables} == before
    assert again.outcomes[topics.STATUS_CHANGED, Outcome.KNOWN] == 4
    assert again.outcomes[topics.EVENTS, Outcome.KNOWN] == 4


def test_an_older_change_does_not_win(kept: Kept) -> None:
    log = Log().tell(event("sent"), event("delivered", at=10))
    batch = log.take()
    changes = batch[topics.STATUS_CHANGED, 0]
    kept.apply({(topics.STATUS_CHANGED, 0): [(0, changes[1][1]), (1, changes[0][1])]})
    (row,) = rows(kept, schema.deliveries)
    assert (row.status, row.revision) == ("delivered", 2)
    assert len(rows(kept, schema.changes)) == 2


def test_a_delivery_that_begins_anew_replaces_the_old_one_although_its_revision_is_smaller(kept: Kept) -> None:
    kept.apply(Log().tell(event("sent"), event("delivered", at=10), event("open", at=20)).take())
    later = Log().tell(event("bounce", start=NOW + timedelta(days=100)))
    kept.apply(
        {partition: [(offset + 100, value) for offset, value in found] for partition, found in later.take().items()}
    )
    (row,) = rows(kept, schema.deliveries)
    assert (row.status, row.revision) == ("bounced", 1)
    with kept.database.read() as connection:
        assert count(connection, ALL, Filter()) == dict.fromkeys(
            ("sent", "delivered", "opened", "bounced", "deferred", "dropped"), 0
        ) | {"bounced": 1}
        item = delivery(connection, ALL, row.delivery_id)
    assert item is not None
    assert [change.revision for entry in item.entries or () for change in entry.changes] == [1]


def test_a_change_within_a_deferral_keeps_its_episode(kept: Kept) -> None:
    log = Log().tell(event("sent"), event("deferred", at=10))
    kept.apply(log.take())
    kept.apply(log.tell(event("complaint", at=11), event("unsubscribe", at=12)).take())
    (row,) = rows(kept, schema.deliveries)
    opened = [each for each in rows(kept, schema.changes) if each.status == "deferred"]
    if row.status == "deferred":
        assert row.episode == min(each.revision for each in opened)


@pytest.mark.parametrize("first", projection.TOPICS)
def test_a_deferral_that_expired_waits_no_more_whichever_record_came_first(kept: Kept, first: str) -> None:
    log = Log().tell(event("sent"), event("deferred", at=10))
    log.alert(next(iter(log.known)), "raised", id="a" * 32)
    log.alert(next(iter(log.known)), "resolved", outcome="expired")
    batch = log.take()
    kept.apply({(first, 0): batch.pop((first, 0))})
    kept.apply(batch)
    (row,) = rows(kept, schema.deliveries)
    assert (row.status, row.deferred_since) == ("deferred", None)
    with kept.database.read() as connection:
        assert queries.deferred(connection, ALL, Filter(), None, 5).items == []
        assert queries.count_deferred(connection, ALL, Filter()) == 0


def test_a_delivery_that_begins_anew_and_is_deferred_waits_whatever_became_of_its_former_life(kept: Kept) -> None:
    log = Log().tell(event("sent", start=NOW - timedelta(days=99)), event("deferred", start=NOW - timedelta(days=99)))
    (name,) = log.known
    log.alert(name, "resolved", outcome="expired")
    kept.apply(log.take())
    log.known.clear()
    kept.apply(log.tell(event("sent", event_id="s2"), event("deferred", at=10, event_id="d2")).take())
    (row,) = rows(kept, schema.deliveries)
    assert row.deferred_since is not None
    kept.apply(log.alert(name, "resolved", outcome="delivered", id="b" * 32).take())
    assert rows(kept, schema.deliveries) == [row]
    kept.apply(log.alert(name, "resolved", outcome="expired", id="c" * 32, episode=row.episode - 1).take())
    assert rows(kept, schema.deliveries) == [row]


@pytest.mark.parametrize("first", projection.TOPICS)
def test_what_waits_longest_is_first_by_what_its_alert_knows_too(kept: Kept, first: str) -> None:
    log = Log().tell(event("deferred", at=10), event("deferred", at=20, message_id="m2"))
    older, newer = log.known
    log.alert(newer, "raised", deferred_since=(NOW - timedelta(days=2)).isoformat())
    batch = log.take()
    kept.apply({(first, 0): batch.pop((first, 0))})
    kept.apply(batch)
    with kept.database.read() as connection:
        page = queries.deferred(connection, ALL, Filter(), None, 1)
        assert [(item.delivery_id, item.deferred_since) for item in page.items] == [
            (newer, to_micros(NOW - timedelta(days=2)))
        ]
        (item,) = queries.deferred(connection, ALL, Filter(), page.next_cursor, 1).items
        assert item.delivery_id == older


def test_what_is_deferred_is_counted_as_it_is_listed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    for number in range(6):
        account, provider = ("acme", "other")[number % 2], ("sendgrid", "mailgun")[number % 3 % 2]
        log.tell(event("deferred", message_id=f"m{number}", account=account, provider=provider, start=NOW))
    log.tell(event("deferred", message_id="old", start=NOW - timedelta(days=9)), event("sent", message_id="no"))
    log.alert(next(iter(log.known)), "resolved", outcome="expired")
    kept.apply(log.take())
    for viewer in (ALL, Viewer(frozenset({"acme"})), Viewer(frozenset())):
        for chosen in (Filter(), Filter(provider="mailgun"), Filter(account="other"), Filter(first_day=NOW.date())):
            with kept.database.read() as connection:
                listed = queries.deferred(connection, viewer, chosen, None, 50).items
                assert queries.count_deferred(connection, viewer, chosen) == len(listed)
    monkeypatch.setattr(queries, "MOST_COUNTED", 3)
    for viewer in (ALL, Viewer(frozenset({"acme", "other"}))):
        with kept.database.read() as connection:
            assert queries.count_deferred(connection, viewer, Filter()) == 3


def test_attempts_of_a_former_life_are_not_counted_and_are_told(kept: Kept) -> None:
    log = Log()
    for number in range(5):
        log.tell(event("deferred", at=number, attempt=number + 1, reason="then", start=NOW - timedelta(days=99)))
    (name,) = log.known
    log.known.clear()
    log.tell(event("deferred", at=10, event_id="d2", reason="now", occurred_at=None))
    kept.apply(log.take())
    with kept.database.read() as connection:
        (listed,) = queries.deferred(connection, ALL, Filter(), None, 5).items
        alone = delivery(connection, ALL, name)
    assert alone is not None
    assert len([entry for entry in alone.entries or () if entry.event is not None]) == 6
    for item in (listed, alone):
        assert item.attempts == 1
        assert item.answer is not None
        assert item.answer["reason"] == "now"


def shown(kept: Kept, log: Log) -> queries.Item:
    """Return the one delivery of a log as a page shows it."""
    (name,) = log.known
    with kept.database.read() as connection:
        item = delivery(connection, ALL, name)
    assert item is not None
    return item


FULL: dict[str, Any] = {"reason": "452 4.2.2 mailbox full", "smtp_code": 452, "enhanced_code": "4.2.2"}
REFRESHED = [
    ([event("deferred", attempt=1), event("deferred", at=60, attempt=2, **FULL)], "deferred_mailbox_full"),
    ([event("delivered", at=900), event("bounce", at=30, received=950)], "accepted_after_refusal"),
    ([event("dropped"), event("dropped", at=5, suppression_list="spam")], "dropped_spam_report"),
]


@pytest.mark.parametrize(("events", "code"), REFRESHED)
@pytest.mark.parametrize("first", [topics.STATUS_CHANGED, topics.STATUS, topics.EVENTS])
def test_advice_is_that_of_the_newest_status_also_where_the_status_itself_did_not_change(
    kept: Kept, first: str, events: list[DeliveryEvent], code: str
) -> None:
    log = Log().tell(*events)
    batch = log.take()
    changed = codecs.decode(batch[topics.STATUS_CHANGED, 0][0][1] or b"")
    kept.apply({(first, 0): batch.pop((first, 0))})
    kept.apply(batch)
    item = shown(kept, log)
    assert changed["advice"]["code"] != code
    assert item.advice["code"] == code
    assert item.record == log.newest[item.delivery_id]
    assert [row.revision for row in rows(kept, schema.changes)] == [1]


def test_a_delivery_is_found_by_its_corrected_reference_and_no_more_by_the_wrong_one(kept: Kept) -> None:
    log = Log().tell(event("sent", reference="INV-4711"))
    kept.apply(log.take())
    kept.apply(log.tell(event("sent", at=9, reference="INV-4712")).take())
    with kept.database.read() as connection:
        assert search(connection, ALL, Filter(), reference="INV-4711", size=5).items == []
        (item,) = search(connection, ALL, Filter(), reference="INV-4712", size=5).items
    assert (item.reference, item.invoice_id) == ("INV-4712", invoice_id("INV-4712"))


def test_of_several_references_of_events_the_one_said_last_counts(kept: Kept) -> None:
    log = Log().tell(event("sent", at=9, reference="INV-B"), event("sent", at=5, received=20, reference="INV-A"))
    log.tell(event("sent", reference="INV-0", received=21, occurred_at=NOW - timedelta(days=99)))  # no such clock
    batch = log.take()
    status = codecs.decode(batch[topics.STATUS_CHANGED, 0][0][1] or b"") | {"reference": None}
    alone = {(topics.STATUS_CHANGED, 0): [(9, codecs.encode(status))]}
    kept.apply({(topics.EVENTS, 0): batch[topics.EVENTS, 0]})
    kept.apply(alone)
    assert rows(kept, schema.deliveries)[0].reference == "INV-B" == log.newest[status["delivery_id"]]["reference"]


def test_a_copy_of_what_is_known_is_no_news(kept: Kept) -> None:
    batch = Log().tell(event("sent"), event("delivered", at=5)).take()
    copies = {(topics.STATUS, 0): batch.pop((topics.STATUS, 0))}
    kept.apply(batch)
    applied = kept.apply(copies)
    assert applied.outcomes[topics.STATUS, Outcome.KNOWN] == 2
    assert applied.touched == []


def test_a_delivery_that_the_worker_forgot_stays_in_the_history(kept: Kept) -> None:
    log = Log().tell(event("sent"), event("delivered", at=5))
    log.add(topics.STATUS, None)
    applied = kept.apply(log.take())
    assert shown(kept, log).record["status"] == "delivered"
    assert applied.malformed == []


def test_a_delivery_whose_changes_are_gone_from_the_topic_is_shown_as_it_stands(kept: Kept) -> None:
    log = Log().tell(event("sent"), event("delivered", at=5))
    kept.apply({(topics.STATUS, 0): log.take()[topics.STATUS, 0]})
    assert shown(kept, log).record["status"] == "delivered"
    with kept.database.read() as connection:
        assert count(connection, ALL, Filter())["delivered"] == 1


def test_a_reference_that_came_after_the_last_change_is_found(kept: Kept) -> None:
    log = Log().tell(event("delivered", reference=None))
    kept.apply(log.take())
    kept.apply(log.tell(event("sent", at=-5, received=50, reference="INV-77-Ü")).take())
    with kept.database.read() as connection:
        (item,) = search(connection, ALL, Filter(), reference="inv-77-u\u0308", size=5).items
    assert item.reference == "INV-77-Ü"
    assert item.invoice_id == invoice_id("INV-77-Ü")
    kept.apply(log.tell(event("open", at=60, reference=None)).take())
    assert rows(kept, schema.deliveries)[0].reference == "INV-77-Ü"


def test_a_reference_that_came_before_the_first_change_is_found(kept: Kept) -> None:
    batch = Log().tell(event("delivered", reference="INV-78")).take()
    status = codecs.decode(batch[topics.STATUS_CHANGED, 0][0][1] or b"") | {"reference": None}
    kept.apply({(topics.EVENTS, 0): batch[topics.EVENTS, 0]})
    kept.apply({(topics.STATUS_CHANGED, 0): [(9, codecs.encode(status))]})
    assert rows(kept, schema.deliveries)[0].reference == "INV-78"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b"{}",
        b'{"delivery_id": 5, "revision": 1}',
        b'{"delivery_id": "' + b"a" * 300 + b'", "revision": 1}',
        b'{"delivery_id": "a", "event_id": "", "id": "a", "level": "raised"}',
    ],
)
def test_what_cannot_be_understood_is_counted_and_in_nobodys_way(kept: Kept, value: bytes | None) -> None:
    log = Log()
    for topic in projection.TOPICS:
        log.add(topic, value)
    log.tell(event("sent"))
    applied = kept.apply(log.take())
    assert {topic: applied.outcomes[topic, Outcome.MALFORMED] for topic in projection.TOPICS} == dict.fromkeys(
        projection.TOPICS, 1
    )
    assert len(rows(kept, schema.deliveries)) == 1


def test_numbers_and_texts_beyond_what_a_database_holds_are_no_crash(kept: Kept) -> None:
    batch = Log().tell(event("sent")).take()
    good = codecs.decode(batch[topics.STATUS_CHANGED, 0][0][1] or b"")
    log = Log()
    log.add(topics.STATUS_CHANGED, codecs.encode(good | {"revision": 2**63}))
    log.add(topics.STATUS_CHANGED, codecs.encode(good | {"revision": -1}))
    log.add(topics.STATUS_CHANGED, codecs.encode(good | {"reference": "ä\x00" * 500, "recipient": "ü\x00" * 500}))
    log.add(topics.EVENTS, codecs.decode(batch[topics.EVENTS, 0][0][1] or b"") and batch[topics.EVENTS, 0][0][1])
    log.tell(event("open", at=5, event_id="é" * 1000), event("open", at=5, event_id="é" * 999))
    applied = kept.apply(log.take())
    assert applied.outcomes[topics.STATUS_CHANGED, Outcome.MALFORMED] == 2
    assert len(rows(kept, schema.events)) == 3


def test_two_processes_that_write_to_one_database_notice(kept: Kept) -> None:
    log = Log().tell(event("sent"))
    first = log.take()
    stale = dict(kept.positions)
    kept.apply(first)
    with pytest.raises(MovedError):
        projection.apply(kept.database, first, stale)
    second = log.tell(event("delivered", at=5)).take()
    kept.apply(second)
    with pytest.raises(MovedError):
        projection.apply(kept.database, second, dict.fromkeys(second, 1))


def test_what_had_no_news_for_long_is_forgotten_with_all_that_belongs_to_it(kept: Kept) -> None:
    old, new = Log(), Log()
    old.tell(event("sent", start=NOW - timedelta(days=500)), event("deferred", at=5, start=NOW - timedelta(days=500)))
    old.alert(next(iter(old.known)), "raised")
    new.tell(event("sent", message_id="m2"))
    kept.apply(old.take())
    kept.apply(
        {partition: [(offset + 99, value) for offset, value in found] for partition, found in new.take().items()}
    )
    assert projection.forget(kept.database, to_micros(NOW) - 400 * DAY) == 1
    assert projection.forget(kept.database, to_micros(NOW) - 400 * DAY) == 0
    assert [row.record for row in rows(kept, schema.alerts)] == []
    assert {
        row.delivery_id for table in (schema.deliveries, schema.events, schema.changes) for row in rows(kept, table)
    } == {next(iter(new.known))}
    with kept.database.read() as connection:
        assert sum(count(connection, ALL, Filter()).values()) == 1


def test_a_delivery_whose_attempts_are_reported_is_kept_although_its_status_does_not_change(kept: Kept) -> None:
    log = Log().tell(event("sent", start=NOW - timedelta(days=5)), event("deferred", start=NOW - timedelta(days=5)))
    log.tell(event("deferred", at=60, start=NOW - timedelta(days=1), attempt=40))
    kept.apply(log.take())
    assert projection.forget(kept.database, to_micros(NOW) - 2 * DAY) == 0
    kept.apply(log.alert(next(iter(log.known)), "resolved", outcome="expired").take())
    assert projection.forget(kept.database, to_micros(NOW) - 2 * DAY) == 1


def test_what_came_after_its_delivery_was_forgotten_is_forgotten_in_its_turn(kept: Kept) -> None:
    log = Log().tell(*(event("sent", message_id=f"m{number}") for number in range(10)))
    log.add(
        topics.EVENTS,
        codecs.encode({"delivery_id": "a", "event_id": "e", "type": "open", "received_at": "2020-01-01T00:00:00Z"}),
    )
    log.add(topics.EVENTS, codecs.encode({"delivery_id": "z", "event_id": "e", "type": "open", "received_at": NOW}))
    alert = {"delivery_id": "b", "first_received_at": "2020-01-01T00:00:00Z", "episode": 1, "level": "raised"}
    log.add(topics.DEFERRAL_ALERTS, codecs.encode(alert | {"id": "a1"}))
    log.add(topics.DEFERRAL_ALERTS, codecs.encode(alert | {"id": "a2", "delivery_id": "y", "first_received_at": NOW}))
    log.add(topics.DEFERRAL_ALERTS, codecs.encode(alert | {"id": "a3", "delivery_id": next(iter(log.known))}))
    kept.apply(log.take())
    place: str | None = ""
    looks = 0
    while place is not None:
        place = projection.forget_strays(kept.database, place, to_micros(NOW) - 400 * DAY, most=3)
        looks += 1
    assert looks == 5
    assert {row.delivery_id for row in rows(kept, schema.events)} == {*log.known, "z"}
    assert {row.id for row in rows(kept, schema.alerts)} == {"a2", "a3"}


def test_counts_are_those_of_the_rows_whatever_the_batches(kept: Kept) -> None:
    chance = random.Random(7)
    log = Log()
    for number in range(300):
        log.tell(
            event(
                chance.choice(["sent", "deferred", "delivered", "bounce", "open", "dropped"]),
                at=chance.randrange(400_000),
                message_id=f"m{chance.randrange(60)}",
                account=chance.choice(["acme", "other"]),
                event_id=f"e{number}",
            )
        )
        if chance.random() < 0.2:
            kept.apply(log.take())
    if log.rows:
        kept.apply(log.take())
    counted = Counter(
        (row.first_received_at // DAY, row.account, row.provider, row.status) for row in rows(kept, schema.deliveries)
    )
    assert {tuple(row)[:4]: row.deliveries for row in rows(kept, schema.counts)} == counted
    assert len(rows(kept, schema.counts)) > 10
    kinds = Counter((row.account, row.provider, row.status) for row in rows(kept, schema.deliveries))
    assert {tuple(row)[:3]: row.deliveries for row in rows(kept, schema.kinds)} == kinds


def test_the_rows_are_those_of_the_model(kept: Kept) -> None:
    chance = random.Random(11)
    log = Log()
    everything: dict[str, list[bytes | None]] = {topic: [] for topic in projection.TOPICS}
    for number in range(400):
        log.tell(
            event(
                chance.choice(["sent", "deferred", "delivered", "bounce", "open", "dropped", "machine_open"]),
                at=chance.randrange(9000),
                message_id=f"m{chance.randrange(50)}",
                reference=chance.choice([None, "INV-5"]),
                event_id=f"e{number % 350}",
            )
        )
        if chance.random() < 0.1:
            batch = log.take()
            for (topic, _), found in batch.items():
                everything[topic] += [value for _, value in found]
            kept.apply(batch)
    with kept.database.read() as connection:
        assert rows_of(connection) == model_of(everything)


@pytest.mark.parametrize("seed", range(4))
def test_the_rows_are_those_of_the_model_however_far_one_topic_is_ahead_of_another(kept: Kept, seed: int) -> None:
    chance = random.Random(seed)
    log = Log()
    everything: dict[str, list[bytes | None]] = {topic: [] for topic in projection.TOPICS}
    held: dict[projection.Partition, list[tuple[int, bytes | None]]] = {}
    for number in range(300):
        start = NOW - timedelta(days=90 - number // 10)
        log.tell(
            event(
                chance.choices(["sent", "deferred", "delivered", "dropped"], [2, 8, 1, 1])[0],
                start=start,
                at=chance.randrange(900),
                message_id=f"m{chance.randrange(60)}",
                event_id=f"e{number}",
            )
        )
        name = chance.choice(list(log.newest))
        if chance.random() < 0.5:
            since = start - timedelta(seconds=chance.randrange(-900, 900))
            level, outcome = chance.choice(
                [("raised", None), ("escalated", None), ("resolved", "expired"), ("resolved", "delivered")]
            )
            status = log.newest[name]
            one = invoice_id(
                f"{name}/{status['first_received_at']}/{status['revision']}/{level}"
            )  # as the worker has it
            log.alert(name, level, outcome=outcome, id=one, deferred_since=since.isoformat())
        if chance.random() < 0.05:
            log.known.pop(name, None)  # it is forgotten; what comes next is another life
        for partition, found in log.take().items():
            held.setdefault(partition, []).extend(found)
            everything[partition[0]] += [value for _, value in found]
        for partition in list(held):
            if chance.random() < 0.1:
                kept.apply({partition: held.pop(partition)})
    kept.apply(held)
    with kept.database.read() as connection:
        model = model_of(everything)
        assert rows_of(connection) == model
    again = {(topic, 0): list(enumerate(values)) for topic, values in everything.items()}
    projection.read_again(kept.database)
    kept.positions.clear()
    while any(again.values()):
        partition = chance.choice([partition for partition, left in again.items() if left])
        kept.apply({partition: again[partition][:70]})
        del again[partition][:70]
    with kept.database.read() as connection:
        assert rows_of(connection) == model, "what is read again changes nothing"
    waiting = [row["deferred_since"] is not None for row in model["deliveries"].values() if row["status"] == "deferred"]
    assert {True, False} == set(waiting)
