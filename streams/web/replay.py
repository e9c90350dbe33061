"""Tokens that may be used once (Mailgun): a bounded memory of the used ones.

The rule: a token is used up by the request that is answered 2xx, not by one that
failed, because a retry may carry it again. The same token with the same body is
the provider's own repetition, and is answered like the first; with another body, or at
another account, it is a forgery made from a request that somebody saw.

All accounts at a provider share one memory: accounts may share a signing key, and
a subaccount's request carries its primary account's signature too, so a request that
verifies at one account may verify at others. But each account has its own room in it:
somebody with one account's key cannot make us forget the tokens of the others.

Each process has its own memory: another ingress, or this one after a restart, does
not know the tokens. TLS and the replay window protect there; an exact repetition
is absorbed later by its event ids.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b

from streams.providers import STAMP_AHEAD_S

MOST_EACH = 100_000
"""Tokens that are remembered for each account: some 20 MB."""
_SLACK_S = STAMP_AHEAD_S + 600.0
"""A stamp that is ahead of our clock is accepted for so much longer: until the clock has passed it by the window."""
_FOREVER_S = 7 * 86_400.0
"""For a provider whose stamps may have any age: as long as a raw record is kept."""


class Use(Enum):
    """What an arriving token is."""

    NEW = "new"
    REPEATED = "repeated"
    """Used up by the very same body."""
    FORGED = "forged"
    """Used up, or in use now, by another body or at another account."""


@dataclass(slots=True)
class TokenMemory:
    """The tokens of one provider."""

    keep_s: float
    """At least the longest replay window and ``STAMP_AHEAD_S``: afterwards the stamp is too old anyway."""
    most: int
    """Tokens of one account; beyond this number its oldest is forgotten."""
    _used: dict[str, bytes] = field(default_factory=dict)
    """Token -> digest of what it was used for, for all accounts."""
    _since: dict[str, "OrderedDict[str, float]"] = field(default_factory=dict)
    """Account -> its tokens, the earliest used first -> when each was used."""
    _in_work: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    @classmethod
    def for_windows(cls, replay_windows_s: Collection[float | None]) -> "TokenMemory":
        """Return a memory that outlasts each of these replay windows, also for stamps ahead of our clock."""
        keep_s = max((_FOREVER_S if it is None else it + _SLACK_S for it in replay_windows_s), default=_SLACK_S)
        return cls(keep_s=keep_s, most=MOST_EACH)

    def begin(self, token: str, account: str, body: bytes, now: float) -> Use:
        """Return what the token is; a new one is in use until ``end``. ``now`` is monotonic, in seconds."""
        self._forget(now)
        digest = _digest(account, body)
        if used := self._used.get(token):
            return Use.REPEATED if used == digest else Use.FORGED
        working, count = self._in_work.get(token, (digest, 0))
        if working != digest:
            return Use.FORGED
        self._in_work[token] = (digest, count + 1)
        return Use.NEW

    def end(self, token: str, account: str, now: float, *, accepted: bool) -> None:
        """Note how the request that began with this token ended."""
        digest, count = self._in_work[token]
        if count > 1:
            self._in_work[token] = (digest, count - 1)
        else:
            del self._in_work[token]
        if not accepted:
            return
        self._used[token] = digest
        own = self._since.setdefault(account, OrderedDict())
        own[token] = now
        own.move_to_end(token)
        if len(own) > self.most:
            del self._used[own.popitem(last=False)[0]]

    def _forget(self, now: float) -> None:
        for own in self._since.values():
            while own:
                token, since = next(iter(own.items()))
                if now - since <= self.keep_s:
                    break
                del own[token]
                del self._used[token]


def _digest(account: str, body: bytes) -> bytes:
    digest = blake2b(account.encode() + b"\0", digest_size=16)
    digest.update(body)
    return digest.digest()
