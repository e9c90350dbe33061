"""The thin job: decode, look up, fold, store, publish. Hardly any logic, to show the cost of everything else.

Each record is one SendGrid event, with its message id as the key. The row holds the
status; a change of it is published. ``bench/kafka_streams`` does the same in Java, to the byte.
"""

import orjson

from bench.jobs import Folded, Job

STATUS = {
    "processed": "sent",
    "deferred": "deferred",
    "bounce": "bounced",
    "delivered": "delivered",
    "open": "opened",
    "dropped": "dropped",
}


def fold(row: bytes | None, key: bytes, value: bytes) -> Folded:
    """Fold one event. Every event writes its row, as it keeps the newest time."""
    event = orjson.loads(value)
    before = None if row is None else orjson.loads(row)["status"]
    status = STATUS[event["event"]]
    after = orjson.dumps({"status": status, "at": event["timestamp"], "email": event["email"]})
    if status == before:
        return after, []
    return after, [("changed", orjson.dumps({"id": key.decode(), "from": before, "to": status}))]


JOB = Job("thin", ("changed",), fold)
