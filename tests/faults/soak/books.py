"""Nothing lost, nothing wrong, nothing told twice, for logs that are too long for the oracle's memory.

The rule: one partition at a time, one record at a time, all that is kept of a
delivery is a count and a digest. The events are folded with the pure rules, as the
oracle does it; what has to be told of each delivery and what was told are digested
in their order and must be equal.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from streams import records
from streams.domain.status import Delivery, fold

KEPT = 50_000
"""Deliveries whose facts are kept; there is news of the newest only (``load.NEWEST``)."""


@dataclass(slots=True)
class Digest:
    """What was told of a delivery: how often, and all of it in its order."""

    count: int = 0
    sum: bytes = b""

    def add(self, value: bytes) -> None:
        self.count += 1
        self.sum = hashlib.blake2b(value, digest_size=8, key=self.sum).digest()


class Ids:
    """Which numbers were seen, a bit for each."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._bits = bytearray(count // 8 + 1)
        self.foreign = 0
        """Ids that nobody gave."""
        self.seen = 0

    def add(self, text: str) -> None:
        number = int(text) if text.isdecimal() else self._count
        if number >= self._count:
            self.foreign += 1
            return
        byte, bit = number >> 3, 1 << (number & 7)
        self.seen += not self._bits[byte] & bit
        self._bits[byte] |= bit

    @property
    def missing(self) -> int:
        return self._count - self.seen


class Partition:
    """The books of one partition of ``mail.events``, ``mail.status-changed`` and ``mail.status``."""

    def __init__(self, ids: Ids, *, warn_after_us: int) -> None:
        self._ids = ids
        self._warn_after_us = warn_after_us
        self._deliveries: OrderedDict[bytes, Delivery] = OrderedDict()
        self._expected: dict[bytes, Digest] = {}
        self._told: dict[bytes, Digest] = {}
        self._shown: set[bytes] = set()
        self.events = 0

    def event(self, key: bytes, value: bytes) -> None:
        """Take a record of ``mail.events``."""
        self.events += 1
        event = records.decode_event(value)
        self._ids.add(event.event_id)
        before = self._deliveries.get(key)
        assert before is not None or key not in self._expected, "news of a delivery that the books have closed"
        folded = fold(before, event, delivery_id=key.decode("ascii"))
        after = folded.delivery
        if after is None:
            return
        self._deliveries[key] = after
        self._deliveries.move_to_end(key)
        if len(self._deliveries) > KEPT:
            self._deliveries.popitem(last=False)
        digest = self._expected.setdefault(key, Digest())
        if folded.changed:
            digest.add(records.encode_status(after, support_contact=None, warn_after_us=self._warn_after_us))

    def told(self, key: bytes, value: bytes) -> None:
        """Take a record of ``mail.status-changed``."""
        self._told.setdefault(key, Digest()).add(value)

    def shown(self, key: bytes, value: bytes | None) -> None:
        """Take a record of ``mail.status``."""
        if value is None:
            self._shown.discard(key)
        else:
            self._shown.add(key)

    @property
    def deliveries(self) -> int:
        return len(self._expected)

    @property
    def changes(self) -> int:
        return sum(one.count for one in self._told.values())

    def differences(self) -> Iterator[tuple[str, int]]:
        """Yield (lost, repeated or wrong, how many records)."""
        nothing = Digest()
        for key in self._expected.keys() | self._told.keys():
            wanted, told = self._expected.get(key, nothing), self._told.get(key, nothing)
            if told.count < wanted.count:
                yield "lost", wanted.count - told.count
            elif told.count > wanted.count:
                yield "repeated", told.count - wanted.count
            elif told.sum != wanted.sum:
                yield "wrong", 1
        if self._shown:  # everything has expired by now
            yield "wrong", len(self._shown)
