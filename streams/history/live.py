"""Tells open pages and streams what changed.

The rule: a reader that is slow costs the others nothing. What waits for it is bounded;
beyond that it is told that it missed something, and reads the whole anew.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from streams.history.projection import Touched

MOST_WAITING: Final = 200
"""Changes that wait for one reader."""
MOST_AT_ONCE: Final = 1000
"""A batch with more deliveries than this is history being read, no news: everybody is told to read anew."""


def share(most: int) -> int:
    """Return how much of something one viewer may take: half of it, so that something is left for the others."""
    return (most + 1) // 2


class FullError(Exception):
    """As many listen as may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """What a reader wants to hear of."""

    accounts: frozenset[str] | None
    """Those that it may see; None: all."""
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
    """What waits for one reader."""

    interest: Interest
    waiting: dict[str, Touched] = field(default_factory=dict)
    """By delivery: of one that changed twice only the last is told."""
    missed: bool = False
    """More came than may wait."""
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
        """Let one more wait."""
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
        """Say that something was missed; what waits is then of no use."""
        self.waiting.clear()
        self.missed = True
        self._some.set()


class Hub:
    """Everybody who listens. Used within one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_one = share(most)
        self._subscriptions: set[Subscription] = set()
        self._of_viewers: Counter[Hashable] = Counter()
        self.sequence = time.time_ns()
        """Grows with all news. A page that was made at one, and listens at a later one, may have missed something."""
        self.closed = False
        """The process stops: streams end."""

    def __len__(self) -> int:
        return len(self._subscriptions)

    @contextmanager
    def subscribe(self, interest: Interest, viewer: Hashable = None) -> Iterator[Subscription]:
        """Listen for as long as the context lasts; ``viewer`` tells who listens.

        Raises:
            FullError: as many listen as may, or as one viewer may.
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
        self.sequence += 1
        for subscription in self._subscriptions:
            subscription.miss()

    def publish(self, news: Sequence[Touched]) -> None:
        """Tell everybody what concerns them."""
        self.sequence += len(news)
        for subscription in self._subscriptions:
            if len(news) > MOST_AT_ONCE:
                subscription.miss()
                continue
            for touched in news:
                subscription.add(touched)
