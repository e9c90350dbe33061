"""Records as the worker writes them, made by the same rules; and a history to ask, without a broker."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from streams import codecs, records, topics
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.status import Delivery, fold
from streams.history import projection
from streams.history.database import Database
from streams.history.projection import Applied, Partition
from streams.history.service import Built, build, runner_of
from streams.settings import Settings, load

NOW = datetime.now(UTC).replace(microsecond=0)
Client = TestClient[Any, Any]


def event(
    type_: EventType | str,
    *,
    at: float = 0.0,
    received: float | None = None,
    reference: str | None = "INV-1",
    recipient: str = "ann@example.net",
    account: str = "acme",
    provider: str = "sendgrid",
    message_id: str = "m1",
    start: datetime = NOW - timedelta(hours=2),
    **more: Any,
) -> DeliveryEvent:
    """Return an event ``at`` seconds after ``start``; received a second later unless said."""
    occurred_at = start + timedelta(seconds=at)
    kind = EventType(type_)
    if kind is EventType.BOUNCE:
        more.setdefault("bounce_kind", "hard")
    return DeliveryEvent(
        event_id=more.pop("event_id", f"{kind}-{message_id}-{at}"),
        provider=provider,
        account=account,
        message_id=message_id,
        recipient=recipient,
        type=kind,
        received_at=occurred_at + timedelta(seconds=1) if received is None else start + timedelta(seconds=received),
        occurred_at=more.pop("occurred_at", occurred_at),
        reference=reference,
        **more,
    )


@dataclass
class Log:
    """The three topics, with one partition each, as a worker would fill them."""

    support_contact: str | None = "https://support.example.net/manual-send"
    rows: dict[Partition, list[tuple[int, bytes | None]]] = field(default_factory=dict)
    known: dict[str, Delivery] = field(default_factory=dict)
    newest: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The newest status of each delivery."""
    first_offset: int = 3

    def __post_init__(self) -> None:
        self._offsets = itertools.count(self.first_offset, 2)  # with holes, as real logs have

    def tell(self, *events: DeliveryEvent) -> "Log":
        """Add events, and the changes of status that they make."""
        for each in events:
            self.add(topics.EVENTS, records.encode_event(each, "mail.raw.x/0/0"))
            old = self.known.get(each.delivery_id)
            new = fold(old, each).delivery
            assert new is not None
            self.known[each.delivery_id] = new
            if old is None or new.change.revision != old.change.revision:
                status = records.encode_status(new, support_contact=self.support_contact, warn_after_us=3600 * 10**6)
                self.newest[each.delivery_id] = codecs.decode(status)
                self.add(topics.STATUS_CHANGED, status)
        return self

    def alert(self, delivery_id: str, level: str, **more: Any) -> "Log":
        """Add an alert about a delivery that was told of."""
        status = self.newest[delivery_id]
        since = status["deferred_since"] or status["received_at"]
        fields = {
            "id": f"{delivery_id}-{level}-{more.get('episode', status['revision'])}"[-32:],
            **{name: status[name] for name in ("delivery_id", "account", "provider", "message_id", "recipient")},
            "reference": status["reference"],
            "first_received_at": status["first_received_at"],
            "episode": status["revision"],
            "level": level,
            "due_at": since,
            "destination": "other",
            "deferred_since": since,
            "attempts": 3,
            "reason": "451 4.7.1 Try again later",
            "smtp_code": 451,
            "enhanced_code": "4.7.1",
            "reason_class": "greylisted",
            "retry_until": (NOW + timedelta(hours=70)).isoformat().replace("+00:00", "Z"),
            "outcome": None,
            "duration_s": None,
            "annulled": False,
            "advice": {
                "code": f"deferral_{level}",
                "meaning": f"It is {level}.",
                "what_to_do": "Contact the recipient now.",
            },
        }
        self.add(topics.DEFERRAL_ALERTS, codecs.encode(fields | more))
        return self

    def add(self, topic: str, value: bytes | None, partition: int = 0) -> None:
        """Add a record."""
        rows = self.rows.setdefault((topic, partition), [])
        rows.append((next(self._offsets), value))

    def take(self) -> dict[Partition, list[tuple[int, bytes | None]]]:
        """Return what came since the last call."""
        rows, self.rows = self.rows, {}
        return rows


@dataclass
class Kept:
    """A database and how far it has read."""

    database: Database
    positions: dict[Partition, int] = field(default_factory=dict)

    def apply(self, batch: Mapping[Partition, Sequence[tuple[int, bytes | None]]]) -> Applied:
        """Write a batch."""
        applied = projection.apply(self.database, batch, self.positions)
        self.positions |= {partition: rows[-1][0] + 1 for partition, rows in batch.items()}
        return applied


def settings_for(url: str, **overrides: str) -> Settings:
    """Return settings of a history on any free port; ``overrides`` are variables without their prefix."""
    environment = {
        "MAILSTREAMS_HISTORY__DATABASE_URL": url,
        "MAILSTREAMS_HISTORY__PORT": "0",
        "MAILSTREAMS_HISTORY__ADMIN_PORT": "0",
        "MAILSTREAMS_ACCOUNTS__ACME__SUPPORT_CONTACT": "https://support.example.net/manual-send",
    } | {f"MAILSTREAMS_{name}": value for name, value in overrides.items()}
    return load(environment=environment)


def sqlite_url(folder: Path) -> str:
    """Return the URL of a new database in a folder."""
    return f"sqlite:///{folder / 'history.db'}"


@dataclass
class World:
    """A history that is served, and is told things."""

    kept: Kept
    built: Built
    client: Client

    def tell(self, log: Log) -> None:
        """Let it read what is new in a log, and tell who listens."""
        applied = self.kept.apply(log.take())
        self.built.hub.publish(applied.touched)

    async def talk(self, *said: bytes) -> bytes:
        """Say something on a connection of its own and return all that is answered before the other side ends it."""
        url = self.client.make_url("/")
        assert url.host is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            for each in said:
                writer.write(each)
                await writer.drain()
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()


class _Server(TestServer):
    """Serves as the process does."""

    def __init__(self, built: Built) -> None:
        super().__init__(built.app, skip_url_asserts=True)
        self._built = built

    async def _make_runner(self, **_: Any) -> web.AppRunner:
        return runner_of(self._built)


@contextlib.asynccontextmanager
async def served(url: str, **overrides: str) -> AsyncIterator[World]:
    """Yield a history with pages and interface. Nothing is read from Kafka."""
    settings = settings_for(url, **overrides)
    database = Database(url, query_timeout_s=settings.history.query_timeout_s)
    database.open()
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as writer:
        built = build(settings, database, readers=readers, writer=writer)
        built.subscriber.state.since = datetime.now(UTC).timestamp()
        built.subscriber.state.connected = True
        async with TestClient(_Server(built)) as client:
            yield World(Kept(database), built, client)
            built.hub.close()
    database.close()
