"""Notifies open pages and streams of changes.

The rule: a slow reader costs the others nothing. Its queue is bounded; beyond that, the
reader is notified that it missed something, and reads everything again.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from streams.history.projection import Touched

MOST_WAITING: Final = 200
"""Changes that wait for one reader."""
MOST_AT_ONCE: Final = 1000
"""A batch with more deliveries than this is a backlog, not news: all readers are notified to read again."""
LAST_SEQUENCE: Final = 2**63 - 1


def share(most: int) -> int:
    """Return how much of something one viewer may take: half of it, so that something is left for the others."""
    return (most + 1) // 2


def _sequence() -> int:
    """Return a random number, from 1, for a state of things. One that grew would count for an account the mail of all."""
    return secrets.randbelow(LAST_SEQUENCE) + 1


class FullError(Exception):
    """The limit of readers is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """Which changes a reader wants."""

    accounts: frozenset[str] | None
    """The accounts that it may see; None: all."""
    invoice_id: str | None = None
    """Only this invoice; None: all."""
    delivery_id: str | None = None

    def covers(self, touched: Touched) -> bool:
        """Tell whether a delivery is of interest."""
        return (
            (self.accounts is None or touched.account in self.accounts)
            and (self.invoice_id is None or touched.invoice_id == self.invoice_id)
            and (self.delivery_id is None or touched.delivery_id == self.delivery_id)
        )


@dataclass(slots=True, eq=False)
class Subscription:
    """The queue of one reader."""

    interest: Interest
    waiting: dict[str, Touched] = field(default_factory=dict)
    """By delivery: if one changed twice, only the last change is reported."""
    missed: bool = False
    """More changes came than may wait."""
    _some: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self) -> tuple[list[Touched], bool]:
        """Wait for news; return what is new, and whether something was missed."""
        await self._some.wait()
        self._some.clear()
        found, missed = list(self.waiting.values()), self.missed
        self.waiting.clear()
        self.missed = False
        return found, missed

    def add(self, touched: Touched) -> None:
        """Queue one more change."""
        if not self.interest.covers(touched):
            return
        if len(self.waiting) >= MOST_WAITING and touched.delivery_id not in self.waiting:
            self.miss()
            return
        self.waiting[touched.delivery_id] = touched
        self._some.set()

    def wake(self) -> None:
        """Let ``next`` return, with or without news."""
        self._some.set()

    def miss(self) -> None:
        """Note that something was missed; what is queued is then of no use."""
        self.waiting.clear()
        self.missed = True
        self._some.set()


class Hub:
    """All readers. Used within one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_one = share(most)
        self._subscriptions: set[Subscription] = set()
        self._of_viewers: Counter[Hashable] = Counter()
        self.sequence = _sequence()
        """Another one after each change. A page made at one value and subscribed at another may lack some."""
        self.closed = False
        """The process is stopping: streams end."""

    def __len__(self) -> int:
        return len(self._subscriptions)

    @contextmanager
    def subscribe(self, interest: Interest, viewer: Hashable = None) -> Iterator[Subscription]:
        """Subscribe for as long as the context lasts; ``viewer`` identifies the reader.

        Raises:
            FullError: the limit of all readers, or of one viewer, is reached.
        """
        if len(self._subscriptions) >= self._most or self._of_viewers[viewer] >= self._most_of_one:
            raise FullError
        subscription = Subscription(interest)
        self._subscriptions.add(subscription)
        self._of_viewers[viewer] += 1
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            self._of_viewers[viewer] -= 1
            if not self._of_viewers[viewer]:
                del self._of_viewers[viewer]

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        for subscription in self._subscriptions:
            subscription.wake()

    def miss(self) -> None:
        """Tell everybody that something may have changed of which nothing is known here."""
        self.sequence = _sequence()
        for subscription in self._subscriptions:
            subscription.miss()

    def publish(self, news: Sequence[Touched]) -> None:
        """Report the changes to the readers that they concern."""
        if news:
            self.sequence = _sequence()
        for subscription in self._subscriptions:
            if len(news) > MOST_AT_ONCE:
                subscription.miss()
                continue
            for touched in news:
                subscription.add(touched)
