"""The certificate of the public port while its files change, as a client sees it."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509

from streams.ingress import build
from streams.settings import Ingress as IngressSettings
from streams.settings import SettingsError, load
from streams.web.ingress import Ingress
from streams.web.listener import Listener
from streams.web.public import PublicServer
from streams.web.renewal import Renewal
from tests.web.edge import self_signed


@dataclass
class Port:
    """A public port with a certificate and a key in two files."""

    certfile: Path
    keyfile: Path
    expires: list[float] = field(default_factory=list)
    port: int = 0
    renewal: Renewal = field(init=False)

    def write(self, days: int, *, key: str = "server") -> None:
        """Write a certificate that is valid for this many days, and the key of the given name, into the two files."""
        both = self_signed(self.certfile, "hooks.test", key=key, days=days).read_bytes()
        end = both.index(b"-----BEGIN CERTIFICATE-----")
        self.keyfile.write_bytes(both[:end])
        self.certfile.write_bytes(both[end:])

    async def shown(self) -> float:
        """Return when the certificate that a new connection gets expires."""
        context = ssl._create_unverified_context()
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    port = Port(tmp_path / "cert.pem", tmp_path / "key.pem")
    port.write(1)
    settings = IngressSettings(tls_certfile=port.certfile, tls_keyfile=port.keyfile)
    server = PublicServer(cast("Ingress", Silent()), head_timeout_s=9, keepalive_timeout_s=9, max_connections=9)
    listener = Listener(server, tls=settings.tls_context())
    port.port = await listener.listen("127.0.0.1", 0)
    port.renewal = Renewal(
        port.certfile,
        port.keyfile,
        load=settings.tls_context,
        use=lambda context: setattr(listener, "tls", context),
        set_expiry=port.expires.append,
    )
    serving = asyncio.create_task(listener.serve())
    yield port
    serving.cancel()
    await server.shutdown(1)


class Silent:
    """An ingress that gets no request."""

    class limits:  # noqa: N801 - as the ingress's own
        read_timeout_s = 9


async def test_a_renewed_certificate_is_shown_to_the_next_connection_and_its_end_is_told(port: Port) -> None:
    assert [await port.shown()] == port.expires

    port.write(90)
    port.renewal.look()

    assert [await port.shown()] == port.expires[1:]
    assert port.expires[1] - port.expires[0] > 80 * 86_400


async def test_a_certificate_that_does_not_fit_its_key_is_not_used_until_both_fit(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    old = port.keyfile.read_bytes()
    port.write(90, key="another")
    new = port.keyfile.read_bytes()
    port.keyfile.write_bytes(old)

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            port.renewal.look()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert [await port.shown()] == port.expires

    port.keyfile.write_bytes(new)
    port.renewal.look()
    assert [await port.shown()] == port.expires[1:]


async def test_a_key_that_may_be_read_only_later_is_used_then(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    load = port.renewal._load
    allowed: list[bool] = []

    def refused_at_first() -> ssl.SSLContext | None:
        if not allowed:
            raise SettingsError(["ingress.tls_keyfile: Permission denied"])
        return load()

    monkeypatch.setattr(port.renewal, "_load", refused_at_first)
    port.write(90)
    port.renewal.look()
    assert [await port.shown()] == port.expires

    allowed.append(True)
    port.keyfile.chmod(0o640)
    port.renewal.look()
    assert [await port.shown()] == port.expires[1:]


async def test_a_certificate_that_is_gone_for_a_moment_stays_in_use(port: Port) -> None:
    port.certfile.unlink()
    port.renewal.look()
    assert [await port.shown()] == port.expires

    port.write(90)
    port.renewal.look()
    assert [await port.shown()] == port.expires[1:]


async def test_an_ingress_is_built_so_that_it_tells_its_certificates_end_and_takes_the_next(tmp_path: Path) -> None:
    pem = self_signed(tmp_path / "both.pem", "hooks.test")
    built = build(load(environment={"MAILSTREAMS_INGRESS__TLS_CERTFILE": str(pem)}))
    first, told = built.listener.tls, built.ingress._metrics.certificate_expiry._value.get()

    self_signed(pem, "hooks.test", days=90)
    built.renewal.look()

    assert built.listener.tls is not first
    assert built.ingress._metrics.certificate_expiry._value.get() > told > 0
    await built.client.close()
