"""Which proxies are trusted: by their addresses, as the settings name them."""

import contextlib
import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache


def trusts(networks: Sequence[str]) -> Callable[[str], bool] | None:
    """Return a function that tells whether an address is a trusted proxy's; None if no proxy is trusted.

    An IPv4 address that a dual-stack socket writes as IPv6 counts as IPv4. Text that is not an address is not trusted.

    Raises:
        ValueError: a network is not valid.
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
