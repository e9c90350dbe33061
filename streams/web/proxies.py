"""Which proxies are trusted: by their addresses, as the settings name them."""

import contextlib
import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache


def trusts(networks: Sequence[str]) -> Callable[[str], bool] | None:
    """Return what tells whether an address is a trusted proxy's; None where none is trusted.

    An IPv4 address counts as itself where a socket of both kinds writes it as one of IPv6. What is no address is
    nobody's.

    Raises:
        ValueError: of a network that is none.
    """
    if not networks:
        return None
    parsed = [ipaddress.ip_network(network) for network in networks]

    @lru_cache(maxsize=1024)
    def trusted(address: str) -> bool:
        with contextlib.suppress(ValueError):
            found = ipaddress.ip_address(address)
            if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
                found = found.ipv4_mapped
            return any(found in network for network in parsed)
        return False

    return trusted
