"""Who may see which accounts.

The rule: without a proof nothing is shown, except on this machine alone. There are
two proofs: a key of an account, and the word of a proxy that is trusted by its
address. An account sees its own deliveries; what belongs to others does not exist.

Where neither is set up, it serves this machine only (``problems`` refuses any other
address), and only under this machine's own names: a page of a stranger whose name
points here would read everything otherwise (DNS rebinding).
"""

import base64
import binascii
import hmac
import ipaddress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from aiohttp import web

from streams.settings import Settings

REALM: Final = 'Basic realm="Sending History", charset="UTF-8"'
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_KEY_BYTES: Final = 512
"""A key longer than this is none."""
_EVERYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks."""

    accounts: frozenset[str] | None
    """Whose deliveries they may see; None: all."""


VIEWER: Final = web.RequestKey("viewer", Viewer)


class Access:
    """Decides from the settings."""

    def __init__(self, settings: Settings) -> None:
        own = settings.history
        self._digests = [
            (name, digest.lower().encode())
            for name, account in settings.accounts.items()
            for digest in account.history_keys
        ]
        self._proxies = [ipaddress.ip_network(network) for network in own.trusted_proxies]
        self._header = own.accounts_header
        self._public_hosts = frozenset(name.lower() for name in own.public_hosts)
        self._hosts = _LOOPBACK_NAMES | {own.host.lower()} | self._public_hosts
        self._host = own.host

    @property
    def is_open(self) -> bool:
        """Whether everybody on this machine sees everything, as no proof is set up."""
        return not self._digests and not self._proxies

    def problems(self) -> list[str]:
        """Return why it must not be served as it is set up; nothing when it may."""
        if not self.is_open or _is_loopback(self._host):
            return []
        problem = (
            f"history.host is {self._host}, so that others can reach it, but nobody has to prove who they are: "
            "set history.trusted_proxies or accounts.NAME.history_keys"
        )
        return [problem]

    def serves(self, request: web.BaseRequest) -> bool:
        """Tell whether we are called by a name of ours."""
        if not self.is_open and not self._public_hosts:
            return True  # a stranger's page that gets here has no proof to show
        host = request.headers.get("Host", "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return name in self._hosts

    def viewer(self, request: web.BaseRequest) -> Viewer | None:
        """Return who asks; None: they did not prove it."""
        if self.is_open:
            return Viewer(None)
        if (accounts := self._by_key(request)) is not None:
            return Viewer(accounts)
        said = request.headers.getall(self._header, [])
        if len(said) == 1 and self._is_proxy(request.remote):
            names = frozenset(name.strip() for name in said[0].split(",") if name.strip())
            if _EVERYTHING in names:
                return Viewer(None)
            return Viewer(names) if names else None
        return None

    def _by_key(self, request: web.BaseRequest) -> frozenset[str] | None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        key = given.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() == "basic":  # a browser asks for a user too, who does not matter
            try:
                key = base64.b64decode(key, validate=True).partition(b":")[2]
            except binascii.Error:
                return None
        elif scheme.lower() != "bearer":
            return None
        if not 0 < len(key) <= _KEY_BYTES:
            return None
        digest = sha256(key).hexdigest().encode()
        # Every key is compared, each in constant time: how long it takes tells nothing.
        matched = [account for account, ours in self._digests if hmac.compare_digest(ours, digest)]
        return frozenset(matched) or None

    def _is_proxy(self, remote: str | None) -> bool:
        try:
            address = ipaddress.ip_address(remote or "")
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._proxies)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
