"""Tokens that may be used once (Mailgun): a bounded memory of those that were.

The rule: a token is used up by the request that is answered 2xx, not by one that
failed, because a retry may carry it again. The same token with the same body again is
the provider's own repetition, and is answered as the first; with another body it
is a forgery made from a request that somebody saw.

The memory is this process's: another ingress, or this one after a restart, does
not know the tokens. Against that stand TLS and the replay window; what is repeated
whole is absorbed later by its event ids.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b

_SLACK_S = 600.0
_FOREVER_S = 7 * 86_400.0
"""For a provider whose stamps may have any age: as long as a raw record is kept."""


class Use(Enum):
    """What a token is when it comes."""

    NEW = "new"
    REPEATED = "repeated"
    """Used up by the very same body."""
    FORGED = "forged"
    """Used up, or just in use, by another body."""


@dataclass(slots=True)
class TokenMemory:
    """The tokens of one account at one provider."""

    keep_s: float
    """At least the replay window: afterwards the stamp is too old anyway."""
    most: int = 100_000
    """Beyond it the oldest is forgotten: some 20 MB."""
    _used: "OrderedDict[str, tuple[bytes, float]]" = field(default_factory=OrderedDict)
    _in_work: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    @classmethod
    def for_window(cls, replay_window_s: float | None) -> "TokenMemory":
        """Return a memory that outlasts a replay window, on both sides of the clock."""
        return cls(replay_window_s + _SLACK_S if replay_window_s is not None else _FOREVER_S)

    def begin(self, token: str, body: bytes, now: float) -> Use:
        """Say what the token is. If it is new it is in use from now on, until ``end``. ``now`` is monotonic, seconds."""
        self._forget(now)
        digest = _digest(body)
        if used := self._used.get(token):
            return Use.REPEATED if used[0] == digest else Use.FORGED
        working, count = self._in_work.get(token, (digest, 0))
        if working != digest:
            return Use.FORGED
        self._in_work[token] = (digest, count + 1)
        return Use.NEW

    def end(self, token: str, now: float, *, accepted: bool) -> None:
        """Say how the request ended that began with this token."""
        digest, count = self._in_work[token]
        if count > 1:
            self._in_work[token] = (digest, count - 1)
        else:
            del self._in_work[token]
        if accepted:
            self._used[token] = (digest, now)
            self._used.move_to_end(token)
            if len(self._used) > self.most:
                self._used.popitem(last=False)

    def _forget(self, now: float) -> None:
        while self._used:
            token, (_, since) = next(iter(self._used.items()))
            if now - since <= self.keep_s:
                return
            del self._used[token]


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
