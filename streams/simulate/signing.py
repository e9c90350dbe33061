"""Signatures as the providers make them, over the very bytes that are sent; and the secrets for them.

The secrets are drawn at random and kept in a folder that only its owner may read.
They are no secrets of any provider: configure them only for an account that is used
for simulation alone, because anybody who has the folder can forge its webhooks.

- **SendGrid**: a key pair of our own; the ingress gets the public half, as it would get SendGrid's.
- **Amazon SES**: SNS envelopes of SignatureVersion 2, signed with a self-made certificate. It is not on Amazon's
  servers like a real one, so the ingress finds it only through its setting ``ingress.certificates_dir``. Without that,
  such envelopes can only go to a raw topic, or to an account whose setting says ``insecure``. An ingress knows this
  certificate by its file's name, and takes it for ``TOPIC_ARN`` only, whichever account has that among its secrets.
- **Mailgun**, **Postmark**, **Azure**, **Brevo**, **Mailjet**, **Resend**: the same secret on both sides.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from secrets import token_bytes, token_hex, token_urlsafe
from tempfile import mkstemp
from typing import Any, ClassVar, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from streams import codecs
from streams.simulate.shapes import REGION, TOPIC_ARN, Payload

KEY_ID: Final = "simulated"
"""The name that each of these secrets should have in the settings of the ingress."""
AZURE_HEADER: Final = "X-Mailstreams-Secret"
"""The header that simulated deliveries of Event Grid carry."""
SVIX_PREFIX: Final = "whsec_"
"""What a signing secret of Svix, and so of Resend, begins with."""
CERTIFICATE_FILE: Final = "SimpleNotificationService-simulated.pem"


@dataclass(frozen=True, slots=True)
class Signed:
    """A request as it goes out."""

    body: bytes
    headers: Mapping[str, str]


class Sign(Protocol):
    """Turns a payload into a request that carries its provider's proof."""

    def __call__(self, payload: Payload, *, at: datetime) -> Signed:
        """Return the request; ``at`` is when it is sent, for stamps."""
        ...


# --- the file of secrets ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What the simulated providers sign with."""

    sendgrid_private_key: str
    """PEM, PKCS 8."""
    sns_private_key: str
    """PEM, PKCS 8."""
    sns_certificate: str
    """PEM, self-signed."""
    mailgun_signing_key: str
    postmark_user: str
    postmark_password: str
    send_key: str
    """The application's API key for ``POST /sends``."""
    # Empty in a file that was made before the provider was simulated; then ``load`` draws it.
    azure_header_value: str = ""
    brevo_token: str = ""
    mailjet_password: str = ""
    resend_signing_secret: str = ""

    def for_ingress(self) -> dict[str, str]:
        """Return provider -> the secret that the ingress has to know, in the form of its setting."""
        return {
            "sendgrid": public_key(self.sendgrid_private_key),
            "amazon_ses": TOPIC_ARN,
            "mailgun": self.mailgun_signing_key,
            "postmark": f"basic:{self.postmark_user}:{self.postmark_password}",
            "azure_communication": f"header:{AZURE_HEADER}:{self.azure_header_value}",
            "brevo": f"header:Authorization:Bearer {self.brevo_token}",
            "mailjet": f"basic:mailjet:{self.mailjet_password}",
            "resend": self.resend_signing_secret,
        }


def public_key(private_key: str) -> str:
    """Return the verification key of a private key (PEM), as SendGrid's pages show theirs: base64 of DER.

    Raises:
        ValueError: it is no private key.
    """
    key = serialization.load_pem_private_key(private_key.encode(), None).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b64encode(der).decode()


def draw() -> Secrets:
    """Return new secrets, drawn at random."""
    sns_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return Secrets(
        sendgrid_private_key=_pem(ec.generate_private_key(ec.SECP256R1())),
        sns_private_key=_pem(sns_key),
        sns_certificate=_certificate(sns_key),
        mailgun_signing_key=token_hex(16),
        postmark_user="postmark",
        postmark_password=token_urlsafe(24),
        send_key=token_urlsafe(24),
        **{name: make() for name, make in _LATER.items()},
    )


def _svix_secret() -> str:
    return f"{SVIX_PREFIX}{b64encode(token_bytes(24)).decode()}"


_LATER: Final[Mapping[str, Callable[[], str]]] = {
    "azure_header_value": lambda: token_urlsafe(24),
    "brevo_token": lambda: token_urlsafe(24),
    "mailjet_password": lambda: token_urlsafe(24),
    "resend_signing_secret": _svix_secret,
}
"""Each secret that a file may lack, and how it is drawn."""


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


def _certificate(key: rsa.RSAPrivateKey) -> str:
    """Return a certificate like those that SNS signs with, issued by ourselves."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


SECRETS_FILE: Final = "secrets.json"
CERTIFICATES: Final = "certificates"
"""The subfolder that ``ingress.certificates_dir`` may name."""


def load(folder: Path) -> Secrets:
    """Return the secrets of a folder; a missing one is made, readable by its owner alone.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it holds something else; the text contains no secret.
    """
    path = folder / SECRETS_FILE
    if not path.exists():
        _write(folder, draw())
    try:
        found = _read(folder)
        signers(found)
    except ValueError:
        message = f"{path} holds no secrets of the simulator; remove it, and new ones are made"
        raise ValueError(message) from None
    return found


def _read(folder: Path) -> Secrets:
    found = _read_secrets((folder / SECRETS_FILE).read_bytes())
    lacking = {name: make() for name, make in _LATER.items() if not getattr(found, name)}
    if not lacking:
        return found
    found = replace(found, **lacking)
    signers(found)  # raises ValueError: a file of unusable secrets is not overwritten
    _write(folder, found)
    return found


def _write(folder: Path, made: Secrets) -> None:
    certificates = folder / CERTIFICATES
    certificates.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    (certificates / CERTIFICATE_FILE).write_text(made.sns_certificate)
    # The secrets are written last and atomically: if the file is there, everything is complete.
    descriptor, name = mkstemp(dir=folder)  # readable by its owner alone
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(codecs.encode(made) + b"\n")
    Path(name).replace(folder / SECRETS_FILE)


_read_secrets = codecs.typed_decoder(Secrets)


# --- the signers ---


def signers(secrets: Secrets) -> dict[str, Sign]:
    """Return provider -> how it signs.

    Raises:
        ValueError: a key cannot be read.
    """
    return {
        "sendgrid": SignSendGrid(secrets.sendgrid_private_key),
        "amazon_ses": SignSns(secrets.sns_private_key),
        "mailgun": SignMailgun(secrets.mailgun_signing_key),
        "postmark": SignPostmark(credential(f"basic:{secrets.postmark_user}:{secrets.postmark_password}")),
        "azure_communication": SignEventGrid(credential(f"header:{AZURE_HEADER}:{secrets.azure_header_value}")),
        "brevo": SignBrevo(credential(f"header:Authorization:Bearer {secrets.brevo_token}")),
        "mailjet": SignMailjet(credential(f"basic:mailjet:{secrets.mailjet_password}")),
        "resend": SignResend(secrets.resend_signing_secret),
    }


class SignSendGrid:
    """ECDSA on P-256 over the stamp and the body: the Signed Event Webhook."""

    def __init__(self, private_key: str) -> None:
        key = serialization.load_pem_private_key(private_key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            message = "not a key on an elliptic curve"
            raise ValueError(message)  # noqa: TRY004 - the content is wrong, not the type of the argument
        self._key = key

    def __call__(self, payload: Payload, *, at: datetime) -> Signed:
        """Sign a batch; the body ends in a line feed, as SendGrid's does."""
        body = codecs.encode(payload) + b"\r\n"
        stamp = str(int(at.timestamp()))
        signature = self._key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        return Signed(
            body,
            {
                "Content-Type": "application/json;charset=utf-8",
                "User-Agent": "SendGrid Event API",
                "X-Twilio-Email-Event-Webhook-Signature": b64encode(signature).decode(),
                "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
            },
        )


class SignMailgun:
    """HMAC-SHA256 of a stamp and a token, beside the event."""

    def __init__(self, signing_key: str) -> None:
        self._key = signing_key.encode()

    def __call__(self, payload: Payload, *, at: datetime) -> Signed:
        """Sign an event with a new token."""
        stamp, token = str(int(at.timestamp())), token_hex(25)
        signature = hmac.digest(self._key, f"{stamp}{token}".encode(), "sha256").hex()
        signed = {"signature": {"timestamp": stamp, "token": token, "signature": signature}, **payload}
        return Signed(codecs.encode(signed), {"Content-Type": "application/json", "User-Agent": "mailgun/treq-23.11.0"})


class _SendsCredential:
    """Nothing is signed: each request carries a credential, and the headers of its provider."""

    headers: ClassVar[Mapping[str, str]]

    def __init__(self, credential: Mapping[str, str]) -> None:
        self._credential = credential

    def __call__(self, payload: Payload, *, at: datetime) -> Signed:
        """Add the credential."""
        del at  # there is no stamp
        return Signed(codecs.encode(payload), {**self.headers, **self._credential})


class SignPostmark(_SendsCredential):
    """The user and password of its URL, or a header of ours."""

    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/json", "User-Agent": "Postmark"}


class SignBrevo(_SendsCredential):
    """A token, the user and password of its URL, or a header of ours."""

    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/json", "User-Agent": "Brevo-webhook/2.0"}


class SignEventGrid(_SendsCredential):
    """A header of ours: what Event Grid calls a delivery property."""

    headers: ClassVar[Mapping[str, str]] = {
        "Content-Type": "application/json; charset=utf-8",
        "aeg-event-type": "Notification",
        "aeg-subscription-name": "MAILSTREAMS-SIMULATED",
        "aeg-delivery-count": "0",
    }


class SignMailjet(_SendsCredential):
    """The user and password of its URL."""

    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/json"}


class SignResend:
    """HMAC-SHA256 over id, stamp and body, as Svix does it for Resend."""

    def __init__(self, signing_secret: str) -> None:
        self._key = b64decode(signing_secret.removeprefix(SVIX_PREFIX))  # raises binascii.Error, which is a ValueError

    def __call__(self, payload: Payload, *, at: datetime) -> Signed:
        """Sign an event; a repetition has the same id and another stamp."""
        body = codecs.encode(payload)
        own_id, stamp = f"msg_{blake2b(body, digest_size=14).hexdigest()}", str(int(at.timestamp()))
        signature = hmac.digest(self._key, f"{own_id}.{stamp}.".encode() + body, "sha256")
        return Signed(
            body,
            {
                "Content-Type": "application/json",
                "User-Agent": "Svix-Webhooks/1.69.0",
                "svix-id": own_id,
                "svix-timestamp": stamp,
                "svix-signature": f"v1,{b64encode(signature).decode()}",
            },
        )


class SignRawDelivery:
    """SNS raw message delivery: the bare record, with the credential of the subscription's URL."""

    def __init__(self, credential: Mapping[str, str]) -> None:
        self._credential = credential

    def __call__(self, payload: Payload, *, at: datetime) -> Signed:
        """Add the credential and the headers of SNS."""
        del at  # there is no stamp
        body = codecs.encode(payload)
        return Signed(
            body,
            {
                "Content-Type": "text/plain; charset=UTF-8",
                "User-Agent": "Amazon Simple Notification Service Agent",
                "x-amz-sns-message-type": "Notification",
                "x-amz-sns-message-id": _notification_id(body),
                "x-amz-sns-topic-arn": TOPIC_ARN,
                "x-amz-sns-rawdelivery": "true",
                **self._credential,
            },
        )


class SignSns:
    """An SNS envelope of SignatureVersion 2, signed with a certificate of our own."""

    def __init__(self, private_key: str, *, topic_arn: str = TOPIC_ARN) -> None:
        key = serialization.load_pem_private_key(private_key.encode(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            message = "not an RSA key"
            raise ValueError(message)  # noqa: TRY004 - the content is wrong, not the type of the argument
        self._key = key
        self._topic_arn = topic_arn

    def __call__(self, payload: Payload, *, at: datetime) -> Signed:
        """Put a record into an envelope and sign the envelope."""
        message = codecs.encode(payload)
        signed: dict[str, Any] = {
            "Type": "Notification",
            "MessageId": _notification_id(message),
            "TopicArn": self._topic_arn,
            "Subject": "Amazon SES Email Event Notification",
            "Message": message.decode(),
            "Timestamp": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
        }
        text = "".join(f"{name}\n{signed[name]}\n" for name in sorted(signed))  # the documented order is by name
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        host = f"https://sns.{REGION}.amazonaws.com"
        envelope = signed | {
            "SignatureVersion": "2",
            "Signature": b64encode(signature).decode(),
            "SigningCertURL": f"{host}/{CERTIFICATE_FILE}",
            "UnsubscribeURL": f"{host}/?Action=Unsubscribe&SubscriptionArn={self._topic_arn}:0",
        }
        return Signed(
            codecs.encode(envelope),
            {
                "Content-Type": "text/plain; charset=UTF-8",
                "User-Agent": "Amazon Simple Notification Service Agent",
                "x-amz-sns-message-type": "Notification",
                "x-amz-sns-message-id": signed["MessageId"],
                "x-amz-sns-topic-arn": self._topic_arn,
            },
        )


def _notification_id(message: bytes) -> str:
    """Return the id of a notification; a repetition has the same."""
    digits = blake2b(message, digest_size=16).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def credential(secret: str) -> dict[str, str]:
    """Return the header that carries a credential: ``basic:USER:PASSWORD`` or ``header:NAME:VALUE``.

    Raises:
        ValueError: it is neither.
    """
    kind, _, rest = secret.partition(":")
    name, _, value = rest.partition(":")
    if kind == "basic":
        return {"Authorization": f"Basic {b64encode(rest.encode()).decode()}"}
    if kind == "header" and name and value:
        return {name: value}
    message = "neither basic:USER:PASSWORD nor header:NAME:VALUE"
    raise ValueError(message)
