"""The rows of the table ``deliveries``, in the store and in its changelog.

Byte 0 is the version; bytes 1-8 are ``last_received_at`` and bytes 9-16
``watch_at`` (0: none), big-endian, so that the indexes are made without decoding;
then JSON. Version 1 lacks ``watch_at`` and ``judged``; it is still read, and
becomes version 2 when its delivery changes.
"""

from struct import Struct

from streams.codecs import decode, encode
from streams.domain.status import Delivery, Fact, Kind
from streams.records._shared import BOUNCE_KINDS, LISTS, STATUSES, RowError, RowVersionError

_VERSION = 2
_HEADS = {1: 9, 2: 17}
"""Bytes before the JSON, by version."""
_head = Struct(">BQQ").pack


def encode_row(delivery: Delivery) -> bytes:
    """Return the row that keeps a delivery."""
    body = encode(
        (
            delivery.delivery_id,
            delivery.account,
            delivery.provider,
            delivery.message_id,
            [
                (
                    kind,
                    fact.first_at,
                    fact.last_at,
                    fact.first_received_at,
                    fact.ids,
                    fact.event_id,
                    fact.reason,
                    fact.smtp_code,
                    fact.enhanced_code,
                )
                for kind, fact in delivery.facts.items()
            ],
            delivery.recipient,
            delivery.reference,
            delivery.tags,
            delivery.metadata,
            delivery.suppression_list,
            delivery.attempt,
            delivery.retry_until,
            delivery.because,
            delivery.first_received_at,
            delivery.status,
            delivery.bounce_kind,
            delivery.complained,
            delivery.unsubscribed,
            delivery.revision,
            delivery.previous,
            delivery.cause_event_id,
            delivery.effective_at,
            delivery.occurred_at,
            delivery.received_at,
            delivery.late,
            delivery.judged,
        )
    )
    return _head(_VERSION, delivery.last_received_at, delivery.watch_at or 0) + body


def decode_row(row: bytes) -> Delivery:
    """Return the delivery that a row keeps.

    Raises:
        RowVersionError: a version that is not ours wrote it.
        RowError: it is damaged.
    """
    version = row[0] if row else 0
    head = _HEADS.get(version)
    if head is None:
        message = f"a row of `deliveries` has version {version}; this version of mailstreams knows 1 to {_VERSION}"
        raise RowVersionError(message)
    try:
        (
            delivery_id, account, provider, message_id, facts, recipient, reference, tags, metadata, suppression_list,
            attempt, retry_until, because, first_received_at, status, bounce_kind, complained, unsubscribed, revision,
            previous, cause_event_id, effective_at, occurred_at, received_at, late, *rest,
        ) = decode(row[head:])  # fmt: skip
        return Delivery(  # by position, in the order of its fields: that takes a third of the time
            delivery_id,
            account,
            provider,
            message_id,
            {_KINDS[f[0]]: Fact(f[1], f[2], f[3], tuple(f[4]), f[5], f[6], f[7], f[8]) for f in facts},
            tuple(recipient),
            reference and tuple(reference),
            tags and (tags[0], tags[1], tuple(tags[2])),
            metadata and (metadata[0], metadata[1], tuple(map(tuple, metadata[2]))),
            suppression_list and (suppression_list[0], suppression_list[1], LISTS[suppression_list[2]]),
            attempt,
            retry_until,
            due_of_row(row),
            _KINDS[because],
            first_received_at,
            STATUSES[status],
            bounce_kind and BOUNCE_KINDS[bounce_kind],
            complained,
            unsubscribed,
            revision,
            previous and STATUSES[previous],
            cause_event_id,
            effective_at,
            occurred_at,
            received_at,
            late,
            *((rest[0], watch_of_row(row)) if rest else ()),
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        message = f"a row of `deliveries` is damaged ({type(error).__name__})"
        raise RowError(message) from None


def due_of_row(row: bytes) -> int:
    """Return the ``last_received_at`` of a row, in microseconds since 1970, without decoding the rest."""
    return int.from_bytes(row[1:9], "big")


def watch_of_row(row: bytes) -> int | None:
    """Return the ``watch_at`` of a row, in microseconds since 1970, without decoding the rest; None: it has none."""
    return int.from_bytes(row[9:17], "big") or None if row[0] > 1 else None


_KINDS: dict[str, Kind] = {member.value: member for member in Kind}
