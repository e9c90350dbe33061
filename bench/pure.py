"""The cost of each pure function alone: processor time for one event, with nothing else in the process.

Measured on the product's own traffic, every function with its real inputs.
``overhead_us`` of a contestant is its whole processor time for an event minus that of
the job's fold, which calls these functions.
"""

import gc
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.jobs import Job
from bench.jobs.product import OBJECTIVE_US, WARN_AFTER_US
from streams import records
from streams.domain import objective, status
from streams.domain.destinations import destination_of
from streams.domain.status import Kind
from streams.kafka.partitioner import partition_of
from streams.providers import PROVIDERS, WebhookRequest
from streams.settings import Settings


def requests_of(bodies: Sequence[bytes]) -> list[WebhookRequest]:
    """Return the bodies as the normaliser takes them."""
    received_at = datetime.now(UTC)
    url = "https://hooks.example.net/webhooks/sendgrid/acme"
    keys = Settings().delivery.reference_keys
    return [WebhookRequest(body, {}, url, "acme", received_at, keys) for body in bodies]


def events_of(bodies: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return (key, value) of the records of ``mail.events`` that the bodies become."""
    normalise = PROVIDERS["sendgrid"].normalise
    return [
        (event.delivery_id.encode(), records.encode_event(event, "bench"))
        for request in requests_of(bodies)
        for event in normalise(request)
    ]


def job_us(job: Job, records: Sequence[tuple[bytes, bytes]]) -> float:
    """Return the processor time of a job's fold for one record, rows in a dictionary, in microseconds."""
    rows: dict[bytes, bytes] = {}
    fold = job.fold

    def run() -> None:
        for key, value in records:
            row, _ = fold(rows.get(key), key, value)
            if row is not None:
                rows[key] = row

    return _us(run, len(records))


def functions_us(bodies: Sequence[bytes]) -> dict[str, float]:
    """Return the processor time of each function in microseconds, by name; all for one event."""
    requests = requests_of(bodies)
    normalise = PROVIDERS["sendgrid"].normalise
    events = [event for request in requests for event in normalise(request)]
    pairs = [(event, event.delivery_id) for event in events]
    values = [records.encode_event(event, "bench", delivery_id=delivery_id) for event, delivery_id in pairs]
    keys = [delivery_id.encode() for _, delivery_id in pairs]
    deliveries: dict[str, status.Delivery] = {}
    folds, afters = [], []
    for value, (_, delivery_id) in zip(values, pairs, strict=True):
        event = records.decode_event(value)
        before = deliveries.get(delivery_id)
        folds.append((before, event, delivery_id))
        after = status.fold(before, event, delivery_id=delivery_id).delivery
        if after is not None:
            deliveries[delivery_id] = after
            if after is not before:
                afters.append(after)
    rows = [records.encode_row(after) for after in afters]
    deferred = [after for after in afters if Kind.DEFERRED in after.facts]

    def encode_status(after: status.Delivery) -> bytes:
        return records.encode_status(after, support_contact=None, warn_after_us=WARN_AFTER_US)

    def encode_deferral(after: status.Delivery) -> bytes:
        return records.encode_deferral(after, attempt=True)

    def fold(case: tuple[status.Delivery | None, Any, str]) -> object:
        return status.fold(case[0], case[1], delivery_id=case[2])

    per_body = len(events) / len(requests)
    return {
        "normalise_sendgrid": _each(normalise, requests) / per_body,
        "delivery_id": _each(lambda event: event.delivery_id, events),
        "encode_event": _each(lambda pair: records.encode_event(pair[0], "bench", delivery_id=pair[1]), pairs),
        "partition_of": _each(lambda key: partition_of(key, 4), keys),
        "decode_event": _each(records.decode_event, values),
        "decode_row": _each(records.decode_row, rows),
        "fold": _each(fold, folds),
        "judge": _each(lambda after: objective.judge(None, after, OBJECTIVE_US), afters),
        "encode_row": _each(records.encode_row, afters),
        "encode_status": _each(encode_status, afters),
        "encode_deferral": _each(encode_deferral, deferred),
        "destination_of": _each(lambda after: destination_of(after.recipient[2]), afters),
    }


def _each(function: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Return the processor time of one call, without that of the loop, in microseconds."""

    def run() -> None:
        for given in inputs:
            function(given)

    def nothing() -> None:
        for _given in inputs:
            pass

    return max(_us(run, len(inputs)) - _us(nothing, len(inputs)), 0.0)


def _us(run: Callable[[], None], count: int) -> float:
    """Return the processor time of ``run`` over ``count`` in microseconds, without garbage collection."""
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        run()
        return (time.process_time() - began) / count * 1e6
    finally:
        gc.enable()
