"""Which entries of an index a tick looks at, so that those that have to wait cost little.

The rule: what is due and has to wait, because its provider is on hold, stays in the
index at its own time. No time in the store comes from a tick: while a worker's clock
is ahead, that would be a time far in the future, and the right clock would not
correct it. How far a walk has come is known in memory only, and is lost with the
process.
"""

from collections.abc import Callable

from streams.policies import LOOK_AGAIN_US

Entry = tuple[int, bytes]
"""The time (µs) under which a key is in an index, and the key."""
Look = Callable[[int, int, Entry | None], list[Entry]]
"""``Store.due`` or ``Store.watched``."""


class Walk:
    """One partition's walk through one of its indexes, as far as it is due: a piece each tick, from the earliest on.

    While nothing has to wait, each tick begins with the earliest entry. What waits is passed over until the walk has
    come to its end and ``LOOK_AGAIN_US`` have passed since it began; then it begins again. Until then it does not see
    an entry that joins the index behind it either.
    """

    def __init__(self) -> None:
        self._began = self._now = 0
        self._last: Entry | None = None
        self._ended = False
        self._some_wait = False

    def piece(self, look: Look, now: int, limit: int) -> list[Entry]:
        """Return the next entries that are due at ``now`` (µs), at most ``limit``. They are removed, or have to wait."""
        went_back = now < self._now  # the clock was wrong
        if not self._some_wait or went_back or (self._ended and now >= self._began + LOOK_AGAIN_US):
            self._began, self._last, self._some_wait = now, None, False
        found = look(now, limit, self._last)
        self._now, self._ended = now, len(found) < limit
        if found:
            self._last = found[-1]
        return found

    def wait(self) -> None:
        """Note that an entry of this piece stays in the index."""
        self._some_wait = True
