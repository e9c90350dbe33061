"""The oracle: what the tables must hold, computed from all that the topics hold, in one pass and by other code."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from streams import topics

Tables = dict[str, Any]
_DAY_S = 24 * 3600


def model_of(records: Mapping[str, Sequence[bytes | None]]) -> Tables:
    """Return the tables as they must be.

    Args:
        records: The values of each topic, in the order of the topic's partitions.
    """
    statuses = [json.loads(value or b"") for value in records[topics.STATUS_CHANGED]]
    states = [json.loads(value or b"") for value in records[topics.STATUS]]
    events = [json.loads(value or b"") for value in records[topics.EVENTS]]
    newest: dict[str, dict[str, Any]] = {}
    for status in [*statuses, *states]:  # a state beats the change that it comes from, and the last one those before it
        old = newest.get(status["delivery_id"])
        if old is None or _order(status) >= _order(old):
            newest[status["delivery_id"]] = status
    said: dict[str, set[str]] = defaultdict(set)
    for each in [*events, *statuses, *states]:
        if each["reference"] is not None:
            said[each["delivery_id"]].add(each["reference"])
    changes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for status in sorted(statuses, key=_order):
        changes[status["delivery_id"]].append(status)
    alerts = _first((json.loads(value or b"") for value in records[topics.DEFERRAL_ALERTS]), "id")
    deliveries = {
        name: {
            "status": status["status"],
            "revision": status["revision"],
            "first_received_at": status["first_received_at"],
            **_references(said[name]),
            "recipient": status["recipient"].strip().lower(),
            "deferred_since": _waits_since(status, _episode(changes[name]), alerts.values()),
            "episode": _episode(changes[name]),
            "record": status,
        }
        for name, status in newest.items()
    }
    return {
        "deliveries": deliveries,
        "changes": {(status["delivery_id"], *_order(status)): status["status"] for status in statuses},
        "events": _first(events, "delivery_id", "event_id"),
        "alerts": alerts,
        "counts": Counter(
            (_day(status["first_received_at"]), status["account"], status["provider"], status["status"])
            for status in newest.values()
        ),
        "kinds": Counter((status["account"], status["provider"], status["status"]) for status in newest.values()),
    }


def rows_of(connection: sa.Connection) -> Tables:
    """Return the same of the database."""

    def read(text: str) -> sa.CursorResult[Any]:
        return connection.execute(sa.text(text))

    return {
        "deliveries": {
            row.delivery_id: {
                "status": row.status,
                "revision": row.revision,
                "first_received_at": json.loads(row.record)["first_received_at"],
                "reference": row.reference,
                "reference_key": row.reference_key,
                "invoice_id": row.invoice_id,
                "recipient": row.recipient_key,
                "deferred_since": row.deferred_since,
                "episode": row.episode,
                "record": json.loads(row.record),
            }
            for row in read("SELECT * FROM deliveries")
        },
        "changes": {
            (row.delivery_id, row.first_received_at, row.revision): row.status for row in read("SELECT * FROM changes")
        },
        "events": {(row.delivery_id, row.event_id): json.loads(row.record) for row in read("SELECT * FROM events")},
        "alerts": {(row.id,): json.loads(row.record) for row in read("SELECT * FROM alerts")},
        "counts": {
            (row.day, row.account, row.provider, row.status): row.deliveries for row in read("SELECT * FROM counts")
        },
        "kinds": {(row.account, row.provider, row.status): row.deliveries for row in read("SELECT * FROM kinds")},
    }


def _references(said: set[str]) -> dict[str, str | None]:
    """Return the columns of the one reference that was said of a delivery, in whatever record."""
    assert len(said) <= 1, "of several this model does not know which counts"
    for reference in said:
        digest = hashlib.blake2b(reference.encode(), digest_size=16).hexdigest()
        return {"reference": reference, "reference_key": reference.lower(), "invoice_id": digest}
    return {"reference": None, "reference_key": None, "invoice_id": None}


def _episode(changes: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the revision with which the deferral began that goes on; of the changes in their order."""
    episode = None
    for change in changes:
        if change["status"] != "deferred":
            episode = None
        elif change["previous"] != "deferred":
            episode = change["revision"]
    return episode


def _waits_since(status: Mapping[str, Any], episode: int | None, alerts: Iterable[Mapping[str, Any]]) -> int | None:
    """Return since when a delivery waits, as its status and the alerts of that very deferral say together."""
    if status["status"] != "deferred":
        return None
    said = [_micros(status["deferred_since"] or status["received_at"])]
    own = [
        alert
        for alert in alerts
        if alert["delivery_id"] == status["delivery_id"]
        and _micros(alert["first_received_at"]) == _micros(status["first_received_at"])
        and alert["episode"] >= (episode or 0)
    ]
    for alert in own:
        if alert["episode"] == max(other["episode"] for other in own):
            said.append(_micros(alert["deferred_since"]))
            if (alert["level"], alert["outcome"]) == ("resolved", "expired"):
                return None
    return min(said)


def _first(records: Iterable[dict[str, Any]], *names: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the first of all records that have the same name."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in records:
        found.setdefault(tuple(record[name] for name in names), record)
    return found


def _order(status: Mapping[str, Any]) -> tuple[int, int]:
    return _micros(status["first_received_at"]), status["revision"]


def _micros(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def _day(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) // _DAY_S
