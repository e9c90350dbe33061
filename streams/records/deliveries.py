"""The rows of the table ``deliveries``, in the store and in its changelog.

Byte 0 is the version; bytes 1-8 are ``last_received_at`` and bytes 9-16
``watch_at`` (0: none), big-endian, so that the indexes are built without decoding;
MessagePack follows. Older versions are still read, and are written as this one when
their delivery changes: version 2 lacked ``said_at`` of facts, because the last event's
answer always counted; version 1 was JSON, and lacked ``watch_at`` and ``judged`` too.
"""

from collections.abc import Callable
from struct import Struct
from types import GenericAlias
from typing import Any

from streams.codecs import pack, typed_decoder, typed_unpacker
from streams.domain.events import BounceKind, SuppressionList
from streams.domain.status import Change, Delivery, Fact, Kind, Status
from streams.records._shared import RowError, RowVersionError

_VERSION = 3
_HEADS = {1: 9, 2: 17, 3: 17}
"""Bytes before the body, by version."""
_BEFORE_CHANGE = 14
"""Fields of the body before those of the change, which ``judged`` follows."""
_head = Struct(">BQQ").pack


def encode_row(delivery: Delivery) -> bytes:
    """Return the row that keeps a delivery."""
    body = pack(
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
                    fact.said_at,
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
            *delivery.change,
            delivery.judged,
        )
    )
    return _head(_VERSION, delivery.last_received_at, delivery.watch_at or 0) + body


def decode_row(row: bytes) -> Delivery:
    """Return the delivery that a row keeps.

    Raises:
        RowVersionError: it was written by a version that this one does not know.
        RowError: it is damaged.
    """
    version = row[0] if row else 0
    if version not in _HEADS:
        message = f"a row of `deliveries` has version {version}; this version of mailstreams knows 1 to {_VERSION}"
        raise RowVersionError(message)
    body = row[_HEADS[version] :]
    try:
        fields = _unpack(body) if version == _VERSION else _older(version, body)
    except ValueError as error:
        message = f"a row of `deliveries` is damaged ({type(error).__name__})"
        raise RowError(message) from None
    (
        delivery_id, account, provider, message_id, facts, recipient, reference, tags, metadata, suppression_list,
        attempt, retry_until, because, first_received_at,
    ) = fields[:_BEFORE_CHANGE]  # fmt: skip
    return Delivery(  # by position, in the order of its fields: that takes a third of the time
        delivery_id,
        account,
        provider,
        message_id,
        {fact[0]: Fact(*fact[1:]) for fact in facts},
        recipient,
        reference,
        tags,
        metadata,
        suppression_list,
        attempt,
        retry_until,
        due_of_row(row),
        because,
        first_received_at,
        Change._make(fields[_BEFORE_CHANGE:-1]),
        fields[-1],
        watch_of_row(row),
    )


def _older(version: int, body: bytes) -> tuple[Any, ...]:
    return _unpack_2(body) if version == 2 else (*_decode_1(body), False)  # noqa: PLR2004 (the version before)


def due_of_row(row: bytes) -> int:
    """Return the ``last_received_at`` of a row, in microseconds since 1970, without decoding the rest."""
    return int.from_bytes(row[1:9], "big")


def watch_of_row(row: bytes) -> int | None:
    """Return the ``watch_at`` of a row, in microseconds since 1970, without decoding the rest; None: it has none."""
    return int.from_bytes(row[9:17], "big") or None if row[0] > 1 else None


# The body of a row, by position: the fields of Delivery in order, except the two in the head; for each fact, its kind
# and then its fields. Version 2 lacks the last field of each fact; version 1 lacks the last field of the body, too.
_FACT_2: Any = (Kind, int | None, int | None, int, tuple[int, ...], str, str | None, int | None, str | None)
_FACT: Any = (*_FACT_2, int | None)


def _said(type_: Any) -> Any:
    return GenericAlias(tuple, (int, str, type_))


def _fields(fact: Any) -> tuple[Any, ...]:
    return (
        str, str, str, str, GenericAlias(tuple, (GenericAlias(tuple, fact), ...)), _said(str), _said(str) | None,
        _said(tuple[str, ...]) | None, _said(tuple[tuple[str, str], ...]) | None, _said(SuppressionList) | None, int,
        int | None, Kind, int, Status, BounceKind | None, bool, bool, int, Status | None, str, int | None, int | None,
        int, bool, bool,
    )  # fmt: skip


_BODY: Any = GenericAlias(tuple, _fields(_FACT))
_BODY_2: Any = GenericAlias(tuple, _fields(_FACT_2))
_BODY_1: Any = GenericAlias(tuple, _fields(_FACT_2)[:-1])
_unpack: Callable[[bytes], tuple[Any, ...]] = typed_unpacker(_BODY)
_unpack_2: Callable[[bytes], tuple[Any, ...]] = typed_unpacker(_BODY_2)
_decode_1: Callable[[bytes], tuple[Any, ...]] = typed_decoder(_BODY_1)
