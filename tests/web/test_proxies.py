"""Which proxies are trusted."""

import pytest

from streams.web.proxies import trusts


def test_a_proxy_is_trusted_by_its_address_or_network_of_either_family() -> None:
    trusted = trusts(["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"])
    assert trusted is not None
    for address in ("10.1.2.3", "192.0.2.7", "::ffff:10.1.2.3", "2001:db8::1"):
        assert trusted(address), address
    for address in ("10.2.0.1", "192.0.2.8", "::ffff:10.2.0.1", "2001:db9::1", "", "proxy.example", "10.1.2.3:443"):
        assert not trusted(address), address


def test_without_a_network_nobody_is_trusted_and_what_is_no_network_is_refused() -> None:
    assert trusts([]) is None
    with pytest.raises(ValueError, match="host bits"):
        trusts(["10.1.2.3/16"])
