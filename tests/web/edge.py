"""A real ingress process in front of a real broker, and requests signed as the providers sign them, as of now."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector
from aiokafka import AIOKafkaConsumer, TopicPartition
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from deploy.local.broker import Broker
from streams import topics
from streams.settings import Settings, load
from tests.broker.harness import Record, read_all
from tests.providers import signing
from tests.providers.signing import Signed

PARTITIONS = 3
API_KEY = "an-api-key-of-billing"


@dataclass
class Edge:
    """An ingress process."""

    broker: Broker
    folder: Path
    environment: dict[str, str]
    settings: Settings = field(init=False)
    process: "subprocess.Popen[bytes] | None" = None
    url: str = ""
    admin_url: str = ""

    def __post_init__(self) -> None:
        self.settings = load(environment=self.environment)
        self.log = self.folder / f"ingress-{token_hex(4)}.log"

    def start(self, timeout_s: float = 30) -> None:
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "streams", "ingress"),
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + timeout_s
        while True:
            said = self.log.read_bytes()[begin:].decode()
            urls = [word for line in said.splitlines() for word in line.split() if "://127.0.0.1" in word]
            if len(urls) > 1:
                self.admin_url, self.url = (url.removesuffix("/metrics").partition("/webhooks")[0] for url in urls[:2])
                return
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)

    def wait_ready(self, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.admin_url}/readyz", timeout=2):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(self.output)

    @property
    def output(self) -> str:
        return self.log.read_bytes().decode()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 30) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.rpartition("/")[2].partition(":")
        return host, int(port)

    async def post(
        self,
        signed: Signed,
        *,
        account: str = "acme",
        provider: str | None = None,
        method: str = "POST",
        data: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a request to the ingress and return code, body and headers of the answer."""
        async with (
            ClientSession(connector=TCPConnector(force_close=True), timeout=ClientTimeout(total=30)) as client,
            client.request(
                method,
                f"{self.url}/webhooks/{provider or signed.provider}/{account}",
                data=signed.request.body if data is None else data,
                headers={**signed.request.headers, **(headers or {})},
                skip_auto_headers=["Content-Type"],
            ) as answer,
        ):
            return answer.status, await answer.read(), answer.headers

    async def raw(self, data: bytes, *, then: Sequence[tuple[float, bytes]] = (), timeout_s: float = 15) -> bytes:
        """Send these very bytes, further ones after a pause each, and return all that comes back until the end."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(data)
            for pause_s, more in then:
                await asyncio.sleep(pause_s)
                writer.write(more)
            return await asyncio.wait_for(reader.read(), timeout_s)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.admin_url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def rejected(self, provider: str, reason: str) -> float:
        """Return how many of a provider's requests were refused for a reason, of all accounts."""
        wanted = re.compile(
            rf'mailstreams_webhook_rejected_total{{account="[^"]*",provider="{provider}",reason="{reason}"}}'
        )
        return sum(value for name, value in self.metrics().items() if wanted.fullmatch(name))

    def answered(self, provider: str, code: int) -> float:
        return self.metrics().get(f'mailstreams_webhook_requests_total{{code="{code}",provider="{provider}"}}', 0)

    async def records(self, provider: str, account: str | None = None) -> list[Record]:
        """Return what lies on a raw topic, of one account or of all."""
        found = await read_all(self.broker, topics.raw_topic(provider), PARTITIONS)
        records = [record for partition in found.values() for record in partition]
        return [one for one in records if account is None or dict(one.headers)["account"] == account.encode()]

    async def count(self) -> int:
        """Return how many records lie on all raw topics: none is transactional, so offsets have no holes."""
        names = [topics.raw_topic(name) for name in self.settings.topics.providers]
        # Named at once: a consumer that has to learn of a topic waits for 0.1 s, for one after the other.
        async with AIOKafkaConsumer(*names, bootstrap_servers=self.broker.bootstrap) as consumer:
            ends = await consumer.end_offsets([TopicPartition(name, p) for name in names for p in range(PARTITIONS)])
            return sum(ends.values())


def environment(broker: Broker, folder: Path, **more: str) -> dict[str, str]:
    """Return the settings of an ingress with accounts at every provider."""
    certificates = folder / "certificates"
    certificates.mkdir(exist_ok=True)
    (certificates / signing.CERTIFICATE_URL.rpartition("/")[2]).write_bytes(live_certificate())
    account = "MAILSTREAMS_ACCOUNTS__{}__WEBHOOKS__{}__{}".format
    return {
        "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "MAILSTREAMS_TOPICS__PARTITIONS": str(PARTITIONS),
        "MAILSTREAMS_INGRESS__PORT": "0",
        "MAILSTREAMS_INGRESS__ADMIN_PORT": "0",
        "MAILSTREAMS_INGRESS__READ_TIMEOUT_S": "1",
        "MAILSTREAMS_INGRESS__CERTIFICATES_DIR": str(certificates),
        account("ACME", "SENDGRID", "SECRETS__2026"): signing.public_base64(signing.p256("first")),
        account("ACME", "SENDGRID", "SECRETS__2027"): signing.public_base64(signing.p256("next")),
        account("ACME", "MAILGUN", "SECRETS__2026"): signing.MAILGUN_KEY,
        account("ACME", "POSTMARK", "SECRETS__2026"): "basic:postmark:corréct horse",
        account("ACME", "AMAZON_SES", "SECRETS__EVENTS"): signing.TOPIC,
        account("ACME", "AZURE_COMMUNICATION", "SECRETS__2026"): f"header:X-Mailstreams-Secret:{signing.AZURE_SECRET}",
        account("ACME", "BREVO", "SECRETS__2026"): f"header:X-Brevo-Secret:{signing.BREVO_SECRET}",
        account("ACME", "MAILJET", "SECRETS__2026"): f"basic:{signing.MAILJET_CREDENTIAL}",
        account("ACME", "RESEND", "SECRETS__2026"): signing.RESEND_SECRET,
        account("OTHER", "SENDGRID", "SECRETS__2026"): signing.public_base64(signing.p256("others")),
        account("OTHER", "RESEND", "SECRETS__2026"): signing.RESEND_OTHER,
        account("OTHER", "MAILGUN", "SECRETS__2026"): "another-signing-key",
        account("OPEN", "SENDGRID", "INSECURE"): "true",
        account("OPEN", "AZURE_COMMUNICATION", "INSECURE"): "true",
        account("HEADER", "POSTMARK", "SECRETS__2026"): "header:User-Agent:a-secret-in-a-strange-place",
        account("HEADER", "AMAZON_SES", "SECRETS__2026"): "header:X-Amz-Firehose-Access-Key:firehose-key",
        account("HEADER", "AZURE_COMMUNICATION", "SECRETS__2026"): "header:X-Mailstreams-Secret:another-account's",
        account("HEADER", "BREVO", "SECRETS__2026"): "header:X-Brevo-Secret:another-account's",
        account("HEADER", "MAILJET", "SECRETS__2026"): "basic:mailjet:another-account's",
        "MAILSTREAMS_ACCOUNTS__ACME__API_KEYS": sha256(API_KEY.encode()).hexdigest(),
        **more,
    }


@cache
def live_certificate() -> bytes:
    now = datetime.now(UTC)
    return signing.certificate(not_before=now - timedelta(days=1), not_after=now + timedelta(days=1))


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def sendgrid(body: bytes | None = None, *, key: str = "first") -> Signed:
    body = (
        body if body is not None else f'[{{"email":"jo@customer.example","sg_event_id":"{token_hex(8)}"}}]\r\n'.encode()
    )
    return signing.sendgrid(body, stamp=str(int(time.time())), key=key)


def mailgun(*, token: str | None = None, key: str = signing.MAILGUN_KEY, age_s: float = 0) -> Signed:
    return signing.mailgun(stamp=str(int(time.time() - age_s)), token=token or token_hex(25), key=key)


def sns(**fields: Any) -> Signed:
    signed = signing.sns(signing.notification(Timestamp=now_text(), MessageId=token_hex(16), **fields))
    return signed.with_headers(content_type="text/plain; charset=UTF-8")


def confirmation(**fields: Any) -> Signed:
    signed = signing.sns(signing.confirmation(Timestamp=now_text(), **fields))
    return signed.with_headers(content_type="text/plain; charset=UTF-8")


def postmark(credential: str = "postmark:corréct horse") -> Signed:
    signed = signing.postmark(credential)
    return replace(
        signed, request=replace(signed.request, body=signed.request.body[:-1] + b',"Tag":"%s"}' % token_hex(6).encode())
    )


def azure_communication(secret: str = signing.AZURE_SECRET) -> Signed:
    return signing.azure_communication(signing.azure_report(token_hex(16)), secret=secret)


def resend(*, secret: str = signing.RESEND_SECRET, age_s: float = 0) -> Signed:
    body = signing.RESEND_BODY.replace(b"4ef9a417", token_hex(4).encode())
    return signing.resend(body, own_id=f"msg_{token_hex(14)}", stamp=str(int(time.time() - age_s)), secret=secret)


def azure_handshake(secret: str = signing.AZURE_SECRET, code: str | None = None) -> Signed:
    body = signing.azure_handshake(code or token_hex(16))
    return signing.azure_communication(body, secret=secret, word="SubscriptionValidation")


def brevo(secret: str = signing.BREVO_SECRET) -> Signed:
    return signing.brevo(f"{token_hex(8)}@smtp-relay.sender.example", secret=secret)


def mailjet(credential: str = signing.MAILJET_CREDENTIAL) -> Signed:
    return signing.mailjet(credential, message_id=int(token_hex(7), 16))


GENUINE: dict[str, Callable[[], Signed]] = {
    "sendgrid": sendgrid,
    "amazon_ses": sns,
    "mailgun": mailgun,
    "postmark": postmark,
    "azure_communication": azure_communication,
    "brevo": brevo,
    "mailjet": mailjet,
    "resend": resend,
}


def head(signed: Signed, *, account: str = "acme", length: int | None = None, more: str = "") -> bytes:
    """Return the bytes of a request's head."""
    fields = "".join(f"{name}: {text}\r\n" for name, text in signed.request.headers.items())
    size = f"content-length: {len(signed.request.body) if length is None else length}\r\n" if length != -1 else ""
    return f"POST /webhooks/{signed.provider}/{account} HTTP/1.1\r\nhost: h\r\n{fields}{size}{more}\r\n".encode()


def self_signed(path: Path, name: str, *, key: str = "server", days: int = 1) -> Path:
    """Write a key and its certificate for a host's name, valid for this many days, into one file."""
    private_key = signing.rsa_key(key)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    private = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


class Listener:
    """A server that must not be spoken to: counts the connections that it gets."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]

    def connections(self) -> int:
        count = 0
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._socket.close()
