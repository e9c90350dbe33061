"""The oracle: what the tables must hold, computed from all that the topics hold, in one pass and by other code."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
    events = [json.loads(value or b"") for value in records[topics.EVENTS]]
    newest: dict[str, dict[str, Any]] = {}
    for status in statuses:
        old = newest.get(status["delivery_id"])
        if old is None or _order(status) > _order(old):
            newest[status["delivery_id"]] = status
    said: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event["reference"] is not None:
            said[event["delivery_id"]].add(event["reference"])
    deliveries = {
        name: {
            "status": status["status"],
            "revision": status["revision"],
            "first_received_at": status["first_received_at"],
            "referred": status["reference"] is not None or bool(said[name]),
            "recipient": status["recipient"].strip().lower(),
            "deferred": status["status"] == "deferred",
            "record": status,
        }
        for name, status in newest.items()
    }
    return {
        "deliveries": deliveries,
        "changes": {(status["delivery_id"], *_order(status)): status["status"] for status in statuses},
        "events": {(event["delivery_id"], event["event_id"]) for event in events},
        "alerts": {json.loads(value or b"")["id"] for value in records[topics.DEFERRAL_ALERTS]},
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
                "referred": row.reference is not None and row.invoice_id is not None,
                "recipient": row.recipient_key,
                "deferred": row.deferred_since is not None,
                "record": json.loads(row.record),
            }
            for row in read("SELECT * FROM deliveries")
        },
        "changes": {
            (row.delivery_id, row.first_received_at, row.revision): row.status for row in read("SELECT * FROM changes")
        },
        "events": {(row.delivery_id, row.event_id) for row in read("SELECT delivery_id, event_id FROM events")},
        "alerts": {row.id for row in read("SELECT id FROM alerts")},
        "counts": {
            (row.day, row.account, row.provider, row.status): row.deliveries for row in read("SELECT * FROM counts")
        },
        "kinds": {(row.account, row.provider, row.status): row.deliveries for row in read("SELECT * FROM kinds")},
    }


def _order(status: Mapping[str, Any]) -> tuple[int, int]:
    return _micros(status["first_received_at"]), status["revision"]


def _micros(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def _day(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) // _DAY_S
