"""Requests signed as the providers sign them, with keys made here: an implementation of its own beside the project's."""

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from streams.providers import PROVIDERS, Refusal, Verification, VerificationError, WebhookRequest

NOW = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail-events"
CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"


def request(body: bytes, headers: Mapping[str, str] | None = None, *, provider: str = "any") -> WebhookRequest:
    return WebhookRequest(
        body=body,
        headers={"content-type": "application/json", **(headers or {})},
        url=f"https://hooks.sender.example/webhooks/{provider}/acme",
        account="acme",
        received_at=NOW,
    )


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A request that its provider's ``verify`` must take, and what it needs for that."""

    provider: str
    request: WebhookRequest
    secrets: dict[str, str]
    certificate: bytes | None = None
    now: datetime = NOW
    window_s: float | None = 3_600

    def verify(self) -> Verification:
        return PROVIDERS[self.provider].verify(
            self.request,
            self.secrets,
            now=self.now,
            replay_window_s=self.window_s,
            certificate=self.certificate,
        )

    def refused(self) -> VerificationError | None:
        """Return the refusal; ``None`` if it is taken. Any other exception comes through."""
        try:
            self.verify()
        except VerificationError as error:
            return error
        return None

    def refusal(self) -> Refusal | None:
        """Return why it is refused; ``None`` if it is not."""
        error = self.refused()
        return error.reason if error is not None else None

    def with_body(self, body: bytes) -> "Signed":
        return replace(self, request=replace(self.request, body=body))

    def with_headers(self, **headers: str | None) -> "Signed":
        """Return it with headers set, or left out; an underscore stands for a hyphen."""
        changed = {**self.request.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        kept = {name: value for name, value in changed.items() if value is not None}
        return replace(self, request=replace(self.request, headers=kept))

    def with_json(self, change: Callable[[dict[str, Any]], None]) -> "Signed":
        value = json.loads(self.request.body)
        change(value)
        return self.with_body(json.dumps(value).encode())


# --- SendGrid ---


@cache
def p256(name: str = "first") -> ec.EllipticCurvePrivateKey:
    """Return a key that is the same for the same name, and different for different ones."""
    del name
    return ec.generate_private_key(ec.SECP256R1())


def public_base64(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b64encode(der).decode()


SENDGRID_BODY = b'[{"email":"jo@customer.example","event":"delivered","sg_message_id":"abc.recv-1"}]\r\n'


def sendgrid(body: bytes = SENDGRID_BODY, *, stamp: str | None = None, key: str = "first") -> Signed:
    stamp = stamp if stamp is not None else str(int(NOW.timestamp()))
    signature = p256(key).sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    headers = {
        "x-twilio-email-event-webhook-signature": b64encode(signature).decode(),
        "x-twilio-email-event-webhook-timestamp": stamp,
    }
    return Signed(provider="sendgrid", request=request(body, headers), secrets={"2026": public_base64(p256("first"))})


# --- Amazon SNS ---


@cache
def rsa_key(name: str = "sns") -> rsa.RSAPrivateKey:
    """Return a key that is the same for the same name, and different for different ones."""
    return rsa.generate_private_key(public_exponent=65537, key_size=1_024 if name == "short" else 2_048)


@cache
def certificate(
    *,
    key: str = "sns",
    name: str = "sns.amazonaws.com",
    not_before: datetime = NOW - timedelta(days=100),
    not_after: datetime = NOW + timedelta(days=100),
    elliptic: bool = False,
) -> bytes:
    private = rsa_key(key)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Amazon RSA 2048 M01")]))
        .public_key(p256().public_key() if elliptic else private.public_key())
        .serial_number(4_711)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .sign(private, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def sns_text(message: Mapping[str, Any]) -> bytes:
    """Return what SNS signs, as the page on verifying signatures writes it: the names in order of their bytes."""
    names = ["Message", "MessageId", "Timestamp", "TopicArn", "Type"]
    if message["Type"] == "Notification":
        names += ["Subject"] if "Subject" in message else []
    else:
        names += ["SubscribeURL", "Token"]
    return "".join(f"{name}\n{message[name]}\n" for name in sorted(names)).encode()


def sign_sns(message: dict[str, Any], *, key: str = "sns") -> bytes:
    """Return the body of an SNS message, signed by its own ``SignatureVersion``."""
    algorithm = {"1": hashes.SHA1, "2": hashes.SHA256}[message["SignatureVersion"]]()
    signature = rsa_key(key).sign(sns_text(message), padding.PKCS1v15(), algorithm)
    return json.dumps({**message, "Signature": b64encode(signature).decode()}).encode()


SES_RECORD = json.dumps(
    {
        "eventType": "Delivery",
        "mail": {"messageId": "0102018f-true", "destination": ["jo@customer.example"]},
        "delivery": {"timestamp": "2026-11-03T11:59:50.000Z", "recipients": ["jo@customer.example"]},
    }
)


def notification(*, version: str = "1", **fields: Any) -> dict[str, Any]:
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Subject": "Amazon SES Email Event Notification",
        "Message": SES_RECORD,
        "Timestamp": "2026-11-03T11:59:58.655Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE_URL,
        "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=x",
        **fields,
    }


def confirmation(*, version: str = "1", **fields: Any) -> dict[str, Any]:
    message = notification(version=version)
    del message["Subject"], message["UnsubscribeURL"]
    return {
        **message,
        "Type": "SubscriptionConfirmation",
        "Token": "2336412f37fb687f5d51e6e2425dacbbab",
        "Message": f"You have chosen to subscribe to the topic {TOPIC}.\nTo confirm, visit the SubscribeURL.",
        "SubscribeURL": f"https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336",
        **fields,
    }


def sns(message: dict[str, Any] | None = None, *, key: str = "sns") -> Signed:
    return Signed(
        provider="amazon_ses",
        request=request(sign_sns(message if message is not None else notification(), key=key)),
        secrets={"events": TOPIC},
        certificate=certificate(),
    )


# --- Mailgun ---

MAILGUN_KEY = "a-webhook-signing-key"
MAILGUN_TOKEN = "5f3a9c1e7b2d4068a1c3e5f7092b4d6e8fa0c2e4f6180a2c4e"


def mailgun_signature(stamp: str, token: str, key: str = MAILGUN_KEY) -> str:
    return hmac.new(key.encode(), f"{stamp}{token}".encode(), "sha256").hexdigest()


def mailgun(*, stamp: str | None = None, token: str = MAILGUN_TOKEN, key: str = MAILGUN_KEY) -> Signed:
    stamp = stamp if stamp is not None else str(int(NOW.timestamp()))
    body = {
        "signature": {"timestamp": stamp, "token": token, "signature": mailgun_signature(stamp, token, key)},
        "event-data": {
            "event": "delivered",
            "id": "W3X4JOhFT-OZidZGKKr9iA",
            "recipient": "jo@customer.example",
            "message": {"headers": {"message-id": "20261103@sender.example"}},
        },
    }
    return Signed(provider="mailgun", request=request(json.dumps(body).encode()), secrets={"2026": MAILGUN_KEY})


# --- Postmark ---


def basic(user_and_password: str) -> str:
    return "Basic " + b64encode(user_and_password.encode()).decode()


def postmark(credential: str = "postmark:corréct horse") -> Signed:
    body = b'{"RecordType":"Delivery","MessageID":"m-1","Recipient":"jo@customer.example"}'
    return Signed(
        provider="postmark",
        request=request(body, {"authorization": basic(credential)}),
        secrets={"2026": "basic:postmark:corréct horse"},
    )


# --- Azure Communication Services ---

AZURE_HEADER = "x-mailstreams-secret"
AZURE_SECRET = "a value that Event Grid sends along"


def azure_report(event_id: str = "c1a7f2d4-5e60-4b8e-8f11-3a9d0c6b7e15") -> bytes:
    """Return the body of one delivery report."""
    report = {
        "id": event_id,
        "data": {"recipient": "jo@customer.example", "messageId": "m-1", "status": "Delivered"},
        "eventType": "Microsoft.Communication.EmailDeliveryReportReceived",
    }
    return json.dumps([report]).encode()


def azure_handshake(code: Any = "512d38b6-c7b8-40c8-89fe-f46f9e9622b6") -> bytes:
    """Return the body by which Event Grid asks whether its events are wanted."""
    host = "https://rp-westeurope.eventgrid.azure.net:553"
    question = {
        "id": "2d1781af-3a4c-4d7c-bd0c-e34b19da4e66",
        "subject": "",
        "data": {"validationCode": code, "validationUrl": f"{host}/eventsubscriptions/invoices/validate?token=1A1A"},
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
    }
    return json.dumps([question]).encode()


def azure_communication(body: bytes | None = None, *, secret: str = AZURE_SECRET, word: str = "Notification") -> Signed:
    body = body if body is not None else azure_report()
    return Signed(
        provider="azure_communication",
        request=request(body, {AZURE_HEADER: secret, "aeg-event-type": word}),
        secrets={"2026": f"header:X-Mailstreams-Secret:{AZURE_SECRET}"},
    )


# --- Brevo ---

BREVO_HEADER = "x-brevo-secret"
BREVO_SECRET = "a value that Brevo sends along"


def brevo(message_id: str = "m-1@smtp-relay.sender.example", *, secret: str = BREVO_SECRET) -> Signed:
    body = {"event": "delivered", "email": "jo@customer.example", "id": 1, "message-id": f"<{message_id}>"}
    return Signed(
        provider="brevo",
        request=request(json.dumps(body).encode(), {BREVO_HEADER: secret}),
        secrets={"2026": f"header:X-Brevo-Secret:{BREVO_SECRET}"},
    )


# --- Mailjet ---

MAILJET_CREDENTIAL = "mailjet:pa:ss word"


def mailjet(credential: str = MAILJET_CREDENTIAL, *, message_id: int = 1_152_921_526_333_757_313) -> Signed:
    delivered = {"event": "sent", "MessageID": message_id, "email": "jo@customer.example"}
    return Signed(
        provider="mailjet",
        request=request(json.dumps([delivered]).encode(), {"authorization": basic(credential)}),
        secrets={"2026": f"basic:{MAILJET_CREDENTIAL}"},
    )


# --- Resend ---

RESEND_SECRET = "whsec_" + b64encode(b"a signing secret of twenty-four bytes or more").decode()
RESEND_OTHER = "whsec_" + b64encode(b"another secret, of as many bytes").decode()
RESEND_BODY = json.dumps(
    {
        "type": "email.delivered",
        "created_at": "2026-11-03T11:59:50.126Z",
        "data": {"email_id": "4ef9a417-02e9-4d39-ad75-9611e0fcc33c", "to": ["jo@customer.example"]},
    }
).encode()


def resend_signature(body: bytes, *, own_id: str, stamp: str, secret: str = RESEND_SECRET) -> str:
    key = b64decode(secret.removeprefix("whsec_"))
    return "v1," + b64encode(hmac.digest(key, f"{own_id}.{stamp}.".encode() + body, "sha256")).decode()


def resend(
    body: bytes = RESEND_BODY,
    *,
    own_id: str = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",
    stamp: str | None = None,
    secret: str = RESEND_SECRET,
    prefix: str = "svix",
) -> Signed:
    stamp = stamp if stamp is not None else str(int(NOW.timestamp()))
    headers = {
        f"{prefix}-id": own_id,
        f"{prefix}-timestamp": stamp,
        f"{prefix}-signature": resend_signature(body, own_id=own_id, stamp=stamp, secret=secret),
    }
    return Signed(provider="resend", request=request(body, headers), secrets={"2026": RESEND_SECRET})


# --- what a stranger may send ---

HOSTILE_JSON: dict[str, Callable[[int], bytes]] = {  # by size in bytes
    "lists": lambda size: b"[" + b"[]," * (size // 3 - 2) + b"[]]",
    "lists in an object": lambda size: b'{"signature":[' + b"[]," * (size // 3 - 8) + b"[]]}",
    "names": lambda size: b"{" + b",".join(b'"%07x":1' % n for n in range(size // 12)) + b"}",
    "half a pair, then escapes": lambda size: b'"\\ud800' + b"\\n" * (size // 2 - 5) + b'"',
    "halves of pairs": lambda size: b'"' + b"\\ud800" * (size // 6 - 1) + b'"',
    "depth": lambda size: b"[" * size,
    "objects in depth": lambda size: b'{"a":' * (size // 5),
}


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
