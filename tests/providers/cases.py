"""The payload files: ``payloads/<provider>/<case>.json`` or ``.txt``, each beside its ``<case>.events.json``.

An expected event names what differs from a bare one: a field at its default is
left out, and so are the three that every request here shares.
"""

import json
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from streams.domain.events import DeliveryEvent, EventType
from streams.providers import PROVIDERS, PoisonError, WebhookRequest
from streams.settings import Settings

PAYLOADS = Path(__file__).parent / "payloads"
RECEIVED_AT = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
ACCOUNT = "acme"


class Case(NamedTuple):
    provider: str
    name: str
    path: Path

    @property
    def body(self) -> bytes:
        return self.path.read_bytes()

    @property
    def expected_path(self) -> Path:
        return self.path.with_name(f"{self.name}.events.json")


def discover() -> list[Case]:
    """Return every payload file, in order."""
    return [
        Case(folder.name, path.stem, path)
        for folder in sorted(PAYLOADS.iterdir())
        for path in sorted(folder.iterdir())
        if not path.name.endswith(".events.json")
    ]


CASES = discover()


def request(provider: str, body: bytes) -> WebhookRequest:
    """Return the request that would bring a body, with the content type that the body shows."""
    content_type = "application/json"
    if provider == "mailgun" and body.startswith(b"--"):
        boundary = body.split(b"\r\n", 1)[0].removeprefix(b"--").decode("utf-8", "replace")
        content_type = f"multipart/form-data; boundary={boundary}"
    elif provider == "mailgun" and re.match(rb"[\w%+.-]+=", body):
        content_type = "application/x-www-form-urlencoded"
    return WebhookRequest(
        body=body,
        headers={"content-type": content_type},
        url=f"https://hooks.sender.example/{provider}/{ACCOUNT}",
        account=ACCOUNT,
        received_at=RECEIVED_AT,
        reference_keys=Settings().delivery.reference_keys,
    )


class Outcome(NamedTuple):
    """What a normaliser made of a body: events, bad elements, or a reason why the whole body is bad."""

    events: tuple[DeliveryEvent, ...]
    bad: tuple[tuple[int, bytes, str], ...] = ()
    poison: str | None = None


def outcome(provider: str, body: bytes) -> Outcome:
    """Run a normaliser; any exception but ``PoisonError`` comes through."""
    try:
        events = PROVIDERS[provider].normalise(request(provider, body))
    except PoisonError as error:
        return Outcome(error.events, tuple((bad.index, bad.data, bad.reason) for bad in error.bad), error.reason)
    assert isinstance(events, list)
    return Outcome(tuple(events))


_BARE = DeliveryEvent(
    event_id="", provider="", account="", message_id="", recipient="", type=EventType.UNKNOWN, received_at=RECEIVED_AT
)
_ALWAYS = ("event_id", "message_id", "recipient", "type")
_SHARED = ("provider", "account", "received_at")


def compact(event: DeliveryEvent) -> dict[str, Any]:
    """Return an event as its expectation is written."""
    written: dict[str, Any] = {}
    for field in fields(DeliveryEvent):
        value = getattr(event, field.name)
        if field.name in _SHARED or (field.name not in _ALWAYS and value == getattr(_BARE, field.name)):
            continue
        if isinstance(value, datetime):
            value = value.isoformat().replace("+00:00", "Z")
        written[field.name] = list(value) if isinstance(value, tuple) else value
    return written


def expectation(found: Outcome) -> Any:
    """Return an outcome as its expectation is written: the events; with bad elements, an object with both."""
    events = [compact(event) for event in found.events]
    if found.poison is None:
        return events
    return {"events": events, "bad": [{"index": index, "reason": reason} for index, _, reason in found.bad]}


def expected(case: Case) -> Any:
    """Return what a case expects."""
    return json.loads(case.expected_path.read_text(encoding="utf-8"))
