"""Why a broker cannot be used: told apart from a broker that is away. What SASL says is tried by ``make e2e``."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.local import ports
from streams import brokers, topics
from streams.brokers import RefusedError
from streams.settings import Settings, load
from tests.web.edge import self_signed


@asynccontextmanager
async def server(certificate: Path | None) -> AsyncIterator[int]:
    """Listen as a broker that speaks TLS, or does not, and yield the port."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"no TLS here, and no Kafka")
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with listening:
        port: int = listening.sockets[0].getsockname()[1]
        yield port


def settings(server: str, cafile: Path | None = None) -> Settings:
    environment = {"MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": server, "MAILSTREAMS_KAFKA__SECURITY_PROTOCOL": "SSL"}
    if cafile is not None:
        environment["MAILSTREAMS_KAFKA__SSL_CAFILE"] = str(cafile)
    return load(Path("/dev/null"), environment)


async def test_a_certificate_of_a_stranger_is_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    async with server(self_signed(tmp_path / "it.pem", "localhost")) as port:
        with pytest.raises(RefusedError) as refused:
            await topics.check(settings(f"localhost:{port}"))

    assert str(refused.value) == (
        f"the broker at localhost:{port} cannot be used: its certificate is not trusted (self-signed certificate): set "
        "kafka.ssl_cafile to the certificate of the authority that signed it"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_for_another_host_is_refused_with_what_to_change(tmp_path: Path, host: str) -> None:
    certificate = self_signed(tmp_path / "it.pem", "kafka-1.example.net")
    async with server(certificate) as port:
        refused = await brokers.refusal(settings(f"{host}:{port}", certificate).kafka.client_options())

    assert f"its certificate is not for {host!r}: name it in kafka.bootstrap_servers" in str(refused)


async def test_a_port_without_tls_is_refused_with_what_to_change() -> None:
    async with server(None) as port:
        refused = await brokers.refusal(settings(f"localhost:{port}").kafka.client_options())

    assert "TLS does not come about (WRONG_VERSION_NUMBER): set kafka.security_protocol" in str(refused)


async def test_of_several_brokers_the_one_that_answers_is_asked(tmp_path: Path) -> None:
    (nobody,) = ports.find(1)
    async with server(self_signed(tmp_path / "it.pem", "localhost")) as port:
        servers = f"localhost:{nobody},localhost:{port}"
        refused = await brokers.refusal(settings(servers).kafka.client_options())

    assert f"the broker at localhost:{port} cannot be used" in str(refused)


async def test_a_broker_that_is_away_or_hangs_up_is_no_refusal(tmp_path: Path) -> None:
    (nobody,) = ports.find(1)
    assert await brokers.refusal(settings(f"localhost:{nobody}").kafka.client_options()) is None
    certificate = self_signed(tmp_path / "it.pem", "localhost")
    async with server(certificate) as port:
        assert await brokers.refusal(settings(f"localhost:{port}", certificate).kafka.client_options()) is None


async def test_a_leader_that_refuses_us_is_not_called_silent(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "it.pem", "kafka-1.example.net")
    (nobody,) = ports.find(1)
    options = settings("kafka-1.example.net:9093", certificate).kafka.client_options()
    assert await brokers.silent(options, [("127.0.0.1", nobody)]) == [f"127.0.0.1:{nobody}"]
    async with server(certificate) as port:
        with pytest.raises(RefusedError) as refused:
            await brokers.silent(options, [("127.0.0.1", nobody), ("127.0.0.1", port)])

    assert f"the broker at 127.0.0.1:{port} cannot be used: its certificate is not for" in str(refused.value)
