"""What was searched for, under a random name: so what a search found has a URL to come back to, and no address is in it.

The rule: it is kept in memory only, and not for long. Whoever comes later, or after a restart, searches again; and one
viewer does not find what another one searched for.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streams.history.access import Viewer
from streams.history.live import share

MOST_KEPT: Final = 1000
KEPT_S: Final = 24 * 3600.0
"""Since it was last looked at; an open page looks each minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What somebody wants to find."""

    text: str
    kinds: tuple[str, ...]
    """Where: ``reference``, ``recipient`` or both."""
    cursor: str | None
    """Where to go on: it has an address in it, too."""


class Searches:
    """The searches of all viewers. Used within one event loop."""

    def __init__(self, *, most: int = MOST_KEPT, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._now = now
        self._kept: dict[str, tuple[Viewer, Search, float]] = {}
        """By name; the one that was not looked at for longest comes first."""

    def keep(self, viewer: Viewer, search: Search) -> str:
        """Keep a search and return its name; the same search of the same viewer keeps its name."""
        self._forget()
        of_viewer = [name for name, (who, _, _) in self._kept.items() if who == viewer]
        for name in of_viewer:
            if self._kept[name][1] == search:
                return name
        if len(of_viewer) >= share(self._most):
            del self._kept[of_viewer[0]]
        elif len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        name = secrets.token_urlsafe(16)
        self._kept[name] = (viewer, search, self._now())
        return name

    def find(self, viewer: Viewer, name: str) -> Search | None:
        """Return what somebody searched for; None: it is not kept, or is another viewer's."""
        self._forget()
        who, search, _ = self._kept.get(name, (None, None, 0.0))
        if who != viewer or search is None:
            return None
        del self._kept[name]
        self._kept[name] = (viewer, search, self._now())
        return search

    def _forget(self) -> None:
        before = self._now() - KEPT_S
        for name in [name for name, (_, _, at) in self._kept.items() if at < before]:
            del self._kept[name]
