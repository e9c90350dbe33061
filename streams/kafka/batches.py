"""A batch: what one Faust event is in this system.

Idiomatic Faust costs some 300 µs a record, nearly all of it per event. A batch
holds everything that was fetched of ONE partition and not yet processed, so
that the cost is paid once. Because a batch has one partition, it has one owner,
one store and one transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aiokafka.structs import ConsumerRecord
from faust.types import TP

from streams.records import Headers


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in offset order. Without records it is a tick, or a position beyond the last record."""

    tp: TP
    records: Sequence["Record"]
    position: int
    """The offset to go on from once this batch is done.

    Not simply the last record's offset + 1: commit markers and compaction leave
    holes, and the consumer's position knows how far they reach.
    """
    now: int | None = None
    """A tick's time for this partition (µs), computed by ``progress``; None if the batch is no tick."""

    @property
    def is_tick(self) -> bool:
        """True for a batch that only carries a time."""
        return self.now is not None


Record = ConsumerRecord[bytes, bytes]
"""A record as aiokafka gives it: key, value and headers are bytes or None."""

_NO_HEADERS: Headers = []  # shared by all rows without headers; aiokafka requires a list and does not change it


class Row(NamedTuple):
    """A record to be produced. A tuple: a batch holds thousands."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    """Derived from the source record, never from the clock, so that a repetition is byte-identical."""
    headers: Headers = _NO_HEADERS


Destination = tuple[str, int]
"""A topic and one of its partitions."""

Rows = dict[Destination, list[Row]]
"""Each list is in the order in which it is to be read."""
