"""Dead letters: what could not be understood, with its origin and the reason, on ``mail.dead-letters``.

The rule: a dead letter holds the original bytes and never the text of a foreign
exception, which could quote an address. It is written with the same guarantee
as everything else of its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streams.kafka.batches import Record, Row
from streams.records import dead_letter, encode_dead_letter

LONGEST_KEY = 1024
"""In bytes. Ours have 26; a key longer than this is not ours, and is not kept."""
HEADERS_KEPT = 64 << 10
"""Bytes of the original's headers that are kept."""
_HEADER_OVERHEAD = 16
"""Bytes counted for each header beside its name and value, for our overhead and Kafka's: empty ones are not free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    """Makes dead letters, and says where they go."""

    topic: str
    partitions: int
    max_bytes: int
    """How many bytes of the original are kept."""

    def of_record(self, record: Record, stage: str, error: BaseException) -> tuple[int, Row]:
        """Return (partition, row) for a whole record."""
        return self._row(record, record.value, stage, reason_of(error), None)

    def of_element(self, record: Record, stage: str, data: bytes, reason: str, element: int) -> tuple[int, Row]:
        """Return (partition, row) for one element of a record whose other elements are good."""
        return self._row(record, data, stage, reason, element)

    def _row(
        self, record: Record, value: bytes | None, stage: str, reason: str, element: int | None
    ) -> tuple[int, Row]:
        small_key = record.key if record.key is not None and len(record.key) <= LONGEST_KEY else None
        letter = dead_letter(
            value,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            stage=stage,
            reason=reason,
            element=element,
            key=small_key,
            headers=_bounded(record.headers),
        )
        body, headers = encode_dead_letter(letter, limit=self.max_bytes)
        return record.partition % self.partitions, Row(small_key, body, record.timestamp, headers)


def reason_of(error: BaseException) -> str:
    """Return why a record is bad, without personal data: of exceptions that are not ours only the type."""
    name = type(error).__name__
    return f"{name}: {error}" if type(error).__module__.startswith("streams.") else name


def _bounded(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """Return the headers that fit: a dead letter too large to be written would crash the worker at every start."""
    kept, size = [], 0
    for name, value in headers:
        size += len(name) + len(value or b"") + _HEADER_OVERHEAD
        if size > HEADERS_KEPT:
            break
        kept.append((name, value))
    return kept
