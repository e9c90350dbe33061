"""Who may see which accounts.

The rule: without a proof nothing is shown, except to this machine itself. There are
two proofs: a key of an account, and a header of a proxy that is trusted by its address.
An account sees its own deliveries; those of others look as if they did not exist.

If neither proof is set up, it serves this machine only (``problems`` refuses any other
address, and any other name), and only under this machine's own names: otherwise a
foreign page whose host name points here could read everything (DNS rebinding). Names
are checked, too, if a proxy is trusted: a browser on its machine has its address. And
if neither is set up, a request that is seen to be forwarded is refused: a proxy in front
that is not set up here would show everything to everybody who reaches it. This recognises
most proxies and not all: nginx with HTTP/1.1 adds nothing of its own to a request. Only a
proof keeps others out.
"""

import base64
import binascii
import ipaddress
from dataclasses import dataclass
from typing import Final

from aiohttp import HttpVersion11, web

from streams.settings import Settings
from streams.web.keys import Keys, credential
from streams.web.proxies import trusts

REALM: Final = 'Basic realm="Sending History", charset="UTF-8"'
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_FORWARDED: Final = (
    "Via",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Server",
    "X-Real-IP",
)
_EVERYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks."""

    accounts: frozenset[str] | None
    """The accounts whose deliveries they may see; None: all."""


VIEWER: Final = web.RequestKey("viewer", Viewer)


class Access:
    """Decides by the settings who may see what."""

    def __init__(self, settings: Settings) -> None:
        own = settings.history
        self._keys = Keys({name: account.history_keys for name, account in settings.accounts.items()})
        self._trusted = trusts(own.trusted_proxies)
        self._header = own.accounts_header
        self._public_hosts = frozenset(name.lower() for name in own.public_hosts)
        self._hosts = _LOOPBACK_NAMES | {own.host.lower()} | self._public_hosts
        self._host = own.host

    @property
    def is_open(self) -> bool:
        """Whether everybody on this machine sees everything, because no proof is set up."""
        return not self._keys and self._trusted is None

    def problems(self) -> list[str]:
        """Return why the history must not be served with these settings; empty if it may."""
        if not self.is_open:
            return []
        if _is_loopback(self._host):
            if not self._public_hosts:
                return []
            problem = (
                "history.public_hosts is set, so that others come by that name, but nobody has to prove who they are: "
                "set history.trusted_proxies or accounts.NAME.history_keys, or leave history.public_hosts empty"
            )
            return [problem]
        problem = (
            f"history.host is {self._host}, so that others can reach it, but nobody has to prove who they are: "
            "set history.trusted_proxies or accounts.NAME.history_keys"
        )
        return [problem]

    def serves(self, request: web.BaseRequest) -> bool:
        """Tell whether the request's host name is acceptable."""
        if self._keys and self._trusted is None and not self._public_hosts:
            return True  # a foreign page that reaches us has no key
        host = request.headers.get("Host", "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return name in self._hosts

    def is_bypassed(self, request: web.BaseRequest) -> bool:
        """Tell whether the request was, as far as can be seen, forwarded although no proof is set up.

        Browsers and programs speak HTTP/1.1; nginx before 1.29.7 forwards with HTTP/1.0 by default.
        """
        if not self.is_open:
            return False
        return request.version < HttpVersion11 or any(name in request.headers for name in _FORWARDED)

    def source(self, request: web.BaseRequest) -> str:
        """Return where a request comes from: as a trusted proxy says, else the address at the other end."""
        said = request.headers.getall("X-Forwarded-For", [])
        if said and self._is_proxy(request.remote):
            return said[-1].rpartition(",")[2].strip()
        return request.remote or ""

    def viewer(self, request: web.BaseRequest) -> Viewer | None:
        """Return who asks; None: there is no valid proof."""
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
        scheme, key = credential(request)
        if scheme == "basic":  # a browser asks for a user name too, which does not matter
            try:
                key = base64.b64decode(key, validate=True).partition(b":")[2]
            except binascii.Error:
                return None
        elif scheme != "bearer":
            return None
        return self._keys.accounts_of(key) or None

    def _is_proxy(self, remote: str | None) -> bool:
        return self._trusted is not None and self._trusted(remote or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
