"""What a question costs: counted in steps of SQLite's virtual machine, as a clock would say something else each time."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from streams import codecs, topics
from streams.domain.events import delivery_id
from streams.history import queries
from streams.history.access import Viewer
from streams.history.database import Database
from streams.history.projection import invoice_id
from streams.history.queries import Filter, Page
from tests.history.support import NOW, Kept, sqlite_url

ALL = Viewer(None)
SMALL = Viewer(frozenset({"small"}))
SIZE = 10
FEW, MANY = 300, 6000
FIRST_DAY = NOW.date() - timedelta(days=90)
FIRST_MINUTE = datetime.combine(FIRST_DAY, time(), UTC)  # as "old days" ends with the day, at any hour of today

Question = Callable[[sa.Connection], Page]


def status(number: int, **more: Any) -> dict[str, Any]:
    at = (FIRST_MINUTE + timedelta(minutes=number)).isoformat()
    fields = {
        "account": "acme",
        "provider": "sendgrid",
        "recipient": f"payer{number:06}@example.net",
        "reference": "INV-1",
        "status": "deferred" if number % 3 == 0 else "delivered",
    } | more
    return {
        "delivery_id": delivery_id(fields["account"], "sendgrid", str(number), fields["recipient"]),
        "revision": 1,
        "first_received_at": at,
        "received_at": at,
        "deferred_since": at if fields["status"] == "deferred" else None,
        "attempts": 1,
        **fields,
    }


def crowded(folder: Path, crowd: int) -> Kept:
    """Return a history of a large account, with a few of a small one and a few that are rare, all of them old."""
    folder.mkdir()
    kept = Kept(Database(sqlite_url(folder)))
    kept.database.open()
    found = [status(number, account="small", provider="mailgun") for number in range(0, 12, 2)]
    found += [status(number, status="dropped") for number in range(1, 12, 2)]
    found += [status(12, provider="postmark", status="deferred"), status(13, account="small", status="bounced")]
    found += [status(20 + number) for number in range(crowd)]
    kept.apply({(topics.STATUS_CHANGED, 0): [(number, codecs.encode(each)) for number, each in enumerate(found)]})
    return kept


@pytest.fixture(scope="module", params=["as they grew", "tidied"])
def histories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kept, Kept]]:
    folder = tmp_path_factory.mktemp("crowded")
    both = crowded(folder / "few", FEW), crowded(folder / "many", MANY)
    if request.param == "tidied":
        for each in both:
            each.database.tidy()
    yield both
    for each in both:
        each.database.close()


def asked(kept: Kept, question: Question) -> tuple[Page, int]:
    """Return the answer and what it cost."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with kept.database.read() as connection:
        question(connection)  # the page cache, the planner and whatever else is made once
        connection.connection.dbapi_connection.set_progress_handler(step, 1)  # type: ignore[union-attr]
        return question(connection), steps


def by(**chosen: Any) -> Question:
    return lambda connection: queries.newest(connection, ALL, Filter(**chosen), None, SIZE)


def found(viewer: Viewer = ALL, chosen: Filter = Filter(), **sought: Any) -> Question:  # noqa: B008 - it is frozen
    return lambda connection: queries.search(connection, viewer, chosen, **{"size": SIZE, **sought})


BOUNDED: Mapping[str, tuple[Question, int]] = {
    "all": (by(), SIZE),
    "a rare status": (by(statuses=("dropped",)), 6),
    "two rare statuses": (by(statuses=("dropped", "bounced")), 7),
    "a rare provider": (by(provider="postmark"), 1),
    "a rare account": (by(account="small"), 7),
    "a status that a provider has nowhere": (by(provider="mailgun", statuses=("dropped",)), 0),
    "old days": (by(last_day=FIRST_DAY), SIZE),
    "a rare status of old days": (by(statuses=("bounced",), last_day=FIRST_DAY + timedelta(days=1)), 1),
    "a status of days that had none": (
        by(statuses=("dropped",), first_day=date(2020, 1, 1), last_day=date(2020, 2, 1)),
        0,
    ),
    "a small account's list": (lambda connection: queries.newest(connection, SMALL, Filter(), None, SIZE), 7),
    "a small account's recipients": (found(SMALL, recipient="payer", prefix=True), 7),
    "a small account's references": (found(SMALL, reference="inv", prefix=True), 7),
    "a small account's reference": (found(SMALL, reference="inv-1"), 7),
    "a large account's recipients": (found(recipient="payer", prefix=True), SIZE),
    "a small account's invoice": (
        lambda connection: queries.invoice(connection, SMALL, invoice_id("INV-1"), None, SIZE),
        7,
    ),
    "what is deferred of a small account": (
        lambda connection: queries.deferred(connection, SMALL, Filter(), None, SIZE),
        2,
    ),
    "what is deferred at a rare provider": (
        lambda connection: queries.deferred(connection, ALL, Filter(provider="postmark"), None, SIZE),
        1,
    ),
}


@pytest.mark.parametrize("what", BOUNDED)
def test_what_a_page_costs_does_not_depend_on_other_rows(what: str, histories: tuple[Kept, Kept]) -> None:
    question, number = BOUNDED[what]
    (few_page, few), (many_page, many) = (asked(kept, question) for kept in histories)
    assert len(few_page.items) == len(many_page.items) == number
    assert many <= few * 1.2, f"{few} steps became {many}"


def test_what_costs_too_much_is_seen(histories: tuple[Kept, Kept]) -> None:
    def everything(connection: sa.Connection) -> Page:
        connection.exec_driver_sql("SELECT count(*) FROM deliveries WHERE status = 'dropped'").all()
        return Page()

    (_, few), (_, many) = (asked(kept, everything) for kept in histories)
    assert many > few * 10


@pytest.mark.parametrize(
    "ask",
    [
        lambda cursor: lambda connection: queries.newest(connection, ALL, Filter(), cursor, SIZE),
        lambda cursor: (
            lambda connection: queries.newest(
                connection, ALL, Filter(statuses=("delivered",), last_day=NOW.date()), cursor, SIZE
            )
        ),
        lambda cursor: found(recipient="payer", prefix=True, cursor=cursor),
        lambda cursor: found(reference="inv-1", cursor=cursor),
        lambda cursor: lambda connection: queries.invoice(connection, ALL, invoice_id("INV-1"), cursor, SIZE),
        lambda cursor: lambda connection: queries.deferred(connection, ALL, Filter(), cursor, SIZE),
    ],
    ids=["newest", "filtered", "beginning", "reference", "invoice", "deferred"],
)
def test_a_late_page_costs_what_the_second_costs(
    ask: Callable[[str | None], Question], histories: tuple[Kept, Kept]
) -> None:
    kept, cursor, seen, costs = histories[0], None, [], []
    while True:
        page, steps = asked(kept, ask(cursor))
        seen += [item.delivery_id for item in page.items]
        costs.append(steps)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) > SIZE * 5
    assert max(costs[2:]) <= costs[1] * 1.2


def test_a_search_with_a_rare_condition_looks_at_so_many_at_a_time_and_finds_all(
    histories: tuple[Kept, Kept],
) -> None:
    kept, cursor, seen, costs = histories[1], None, 0, []
    while True:
        sought = found(ALL, Filter(statuses=("dropped",)), reference="inv", prefix=True, cursor=cursor)
        page, steps = asked(kept, sought)
        seen += len(page.items)
        costs.append(steps)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == 6
    assert len(costs) == MANY // queries.WINDOW + 1
    assert max(costs) < 100 * queries.WINDOW


def test_a_cursor_of_another_search_is_refused(histories: tuple[Kept, Kept]) -> None:
    page, _ = asked(histories[0], found(recipient="payer", prefix=True))
    for other in (
        found(recipient="bob", prefix=True, cursor=page.next_cursor),
        found(recipient="bob@example.net", cursor=page.next_cursor),
    ):
        with pytest.raises(queries.CursorError), histories[0].database.read() as connection:
            other(connection)
