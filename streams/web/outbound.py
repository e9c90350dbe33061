"""The only requests that the ingress makes of its own: a signing certificate, a subscription's confirmation.

The rule: both addresses are built or strictly checked by the provider's own file, never
taken from a request unchecked; and even so they are not trusted. https only, no redirect,
no cookie, no proxy from the environment; no connection to a private, loopback or
link-local address, whatever the name (a cloud's metadata service is there); few
bytes, little time.
"""

import asyncio
import ipaddress
import socket
import ssl
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

MAX_ANSWER_BYTES: Final = 64 * 1024
TIMEOUT_S: Final = 5.0
_MOST_CONNECTIONS: Final = 4
_OK: Final = 200


class FetchError(Exception):
    """The file could not be fetched. The text is ours: no part of the URL's query, nothing of the answer."""


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses those with an address outside the public internet.

    The connection goes to exactly the addresses that it returns: a name cannot
    resolve to something else in between.
    """

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            OSError: one of them is not public.
        """
        found = await self._inner.resolve(host, port, family)
        if not found or not all(is_public(one["host"]) for one in found):
            message = "the name does not lead to the public internet"
            raise OSError(message)
        return found

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public internet."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        # an IPv4 address inside an IPv6 address: ::ffff:127.0.0.1, 2002:7f00:1::, 64:ff9b::7f00:1
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class GuardedClient:
    """Fetches a small file from the public internet.

    Args:
        resolver: of names; the system's by default.
        tls: which certificates to trust; those of the system by default.
        timeout_s: for one whole request.
    """

    def __init__(
        self,
        *,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._resolver = resolver
        self._tls = tls
        self._timeout_s = timeout_s
        self._session: ClientSession | None = None

    async def get(self, url: str) -> bytes:
        """Return the file at ``url``.

        Raises:
            FetchError: not https, not public, no 200, too large or too slow.
        """
        target = URL(url)
        if target.scheme != "https" or target.user or target.password or not target.host or _is_address(target.host):
            message = "only https and a host's name will do"
            raise FetchError(message)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client().get(target, allow_redirects=False) as answer,
            ):
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        message = f"the answer has more than {MAX_ANSWER_BYTES} bytes"
                        raise FetchError(message)
        except (ClientError, OSError, TimeoutError, ValueError) as error:
            message = f"{target.host}: {type(error).__name__}"
            raise FetchError(message) from None
        if answer.status != _OK:
            message = f"{target.host} answers {answer.status}"
            raise FetchError(message)
        return bytes(body)

    async def close(self) -> None:
        """Release the connections."""
        if self._session is not None:
            await self._session.close()

    def _client(self) -> ClientSession:
        if self._session is None:
            resolver = PublicResolver(self._resolver if self._resolver is not None else ThreadedResolver())
            self._session = ClientSession(
                connector=TCPConnector(
                    resolver=resolver,
                    use_dns_cache=False,  # each connection goes to addresses that were just checked
                    limit=_MOST_CONNECTIONS,
                    ssl=self._tls if self._tls is not None else True,
                ),
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=self._timeout_s),
                trust_env=False,
                auto_decompress=False,  # we ask for nothing compressed
                headers={"User-Agent": "mailstreams", "Accept-Encoding": "identity"},
            )
        return self._session


def _is_address(host: str) -> bool:
    """Tell whether a host is an IP address, for which no resolver is asked."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
