"""API keys: which accounts a key belongs to. Only the SHA-256 of a key is known here."""

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

from aiohttp import web

_MOST_BYTES: Final = 512
"""A longer key is never valid."""


class Keys:
    """The keys of all accounts.

    Args:
        digests: Account -> the SHA-256 of each of its keys, in hexadecimal.
    """

    def __init__(self, digests: Mapping[str, Sequence[str]]) -> None:
        self._digests = [(account, each.lower().encode()) for account, found in digests.items() for each in found]

    def __bool__(self) -> bool:
        """Tell whether there is any key."""
        return bool(self._digests)

    def accounts_of(self, key: bytes) -> frozenset[str]:
        """Return the accounts that a key belongs to; an empty set if it is unknown."""
        if not 0 < len(key) <= _MOST_BYTES:
            return frozenset()
        digest = sha256(key).hexdigest().encode()
        # Every key is compared, each in constant time: the time taken reveals nothing.
        return frozenset([account for account, ours in self._digests if hmac.compare_digest(ours, digest)])


def credential(request: web.BaseRequest) -> tuple[str, bytes]:
    """Return the request's credential: the scheme of its Authorization, in lower case, and what follows it."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower(), given.strip().encode("utf-8", "surrogateescape")
