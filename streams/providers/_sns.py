"""Amazon SNS: how a notification proves that it comes from a topic of ours, and how a subscription is confirmed.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html

- **What is signed**: a few fields, not the body. So every one of them but ``Message`` must have its documented form,
  without a line break, else two different messages could have the same signed text; and unsigned fields must not be
  trusted (amazon_ses looks into ``Message`` first).
- **Versions**: 1 is RSA with SHA-1, the default of a topic; 2 is RSA with SHA-256 (topic attribute
  ``SignatureVersion``). SHA-1 has no second preimages, and only Amazon chooses what is signed.
- **Trust**: the certificate has to be at ``https://sns.REGION.amazonaws.com/SimpleNotificationService-....pem``, in the
  topic's region (a bucket named "sns" has a host such as ``sns.s3-us-west-2.amazonaws.com``), within its dates and
  issued to SNS. Its chain is not checked, because the file holds only the last certificate: the TLS of the download
  proves that it came from Amazon.
- Anybody with an AWS account can make SNS sign messages of a topic of theirs. So only the ``TopicArn`` shows that a
  request is for us.
- **The simulator** signs with a certificate of its own, which an ingress finds in a folder of its machine. So that it can
  forge nothing else, a certificate of that name counts for the simulator's topic only.
- **Size**: a topic with HTTP(S) subscribers takes messages of at most 256 KiB
  (https://docs.aws.amazon.com/sns/latest/dg/large-message-payloads.html), which escaping in the envelope may double.
  So a body over ``PARSED_LIMIT`` (1 MiB) is not a message of SNS and is not parsed.
- **Raw message delivery** has no signature: use a basic credential in the subscription's URL for it.
"""

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from streams import codecs
from streams.providers import _fields as fields
from streams.providers import _proof as proof
from streams.providers._contract import STAMP_AHEAD_S, Handshake, Refusal, VerificationError

NOTIFICATION = "Notification"
SUBSCRIPTION = "SubscriptionConfirmation"
UNSUBSCRIPTION = "UnsubscribeConfirmation"
_SIGNED: dict[str, tuple[str, ...]] = {  # the signed fields in their order; Subject only if there is one
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    SUBSCRIPTION: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    UNSUBSCRIPTION: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_OPTIONAL = "Subject"
_FORMS: dict[str, re.Pattern[str]] = {
    "Message": re.compile(r".*", re.DOTALL),
    "MessageId": re.compile(r"[0-9A-Za-z-]{1,100}"),  # a UUID
    "Subject": re.compile(r"[^\x00-\x1f\x7f]{0,200}"),  # at most 100 characters, "no line breaks or control characters"
    "SubscribeURL": re.compile(r"[\x21-\x7e]{1,4000}"),
    "Timestamp": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z"),
    "Token": re.compile(r"[0-9A-Za-z_+/=.-]{1,1000}"),
    "TopicArn": re.compile(
        r"arn:(?P<partition>aws|aws-cn|aws-us-gov):sns:(?P<region>[a-z]{2,4}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2})"
        r":[0-9]{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?"
    ),
    "Type": re.compile("|".join(_SIGNED)),
}
_members = codecs.members_decoder(*_FORMS, "Signature", "SignatureVersion", "SigningCertURL")
_CERTIFICATE_URL = re.compile(
    r"https://(?P<host>[a-z0-9.-]{1,100})/SimpleNotificationService-[0-9A-Za-z_-]{1,100}\.pem"
)
_SIMULATED = ("SimpleNotificationService-simulated.pem", "arn:aws:sns:eu-west-1:123456789012:mailstreams-simulated")
"""The simulator's certificate and its topic, as ``simulate.signing`` and ``simulate.shapes`` name them."""
_CERTIFICATE_NAME = re.compile(r"sns(?:[.-][a-z0-9.-]{1,60})?\.amazonaws\.com(?:\.cn)?")  # sns.amazonaws.com, mostly
_HASHES: dict[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303 the version that SNS uses unless told otherwise


def envelope(body: bytes) -> dict[str, Any] | None:
    """Return the SNS envelope of a body, its signed fields in their documented form; ``None`` if it is no envelope.

    A body over ``PARSED_LIMIT`` is none. Only the fields of the proof are decoded; each is a string, ``None``, or the
    raw bytes of another kind of value.

    Raises:
        VerificationError: it is an envelope, but a field has another form.
    """
    if len(body) > proof.PARSED_LIMIT:
        return None
    try:
        members = _members(body)
    except codecs.DecodeError:
        return None
    if not ("Signature" in members or "TopicArn" in members):
        return None
    value = {name: _shallow(member) for name, member in members.items()}
    signed = _SIGNED.get(fields.text(value.get("Type")) or "")
    if signed is None:
        raise VerificationError(Refusal.MALFORMED, "an SNS message of an unknown type")
    for name in signed:
        field = value.get(name)
        if field is None and name == _OPTIONAL:
            continue
        if not isinstance(field, str) or not _FORMS[name].fullmatch(field):
            raise VerificationError(Refusal.MALFORMED, f"the SNS field {name} has not its form")
    return value


def _shallow(member: bytes) -> str | bytes | None:
    if member == b"null":
        return None
    if not member.startswith(b'"'):
        return member
    try:
        found: str = codecs.decode(member)
    except codecs.DecodeError:  # half of a surrogate pair: SNS takes UTF-8 only
        return member
    return found


def is_topic(arn: str) -> bool:
    """Whether this is the ARN of an SNS topic."""
    return _FORMS["TopicArn"].fullmatch(arn) is not None


def certificate_url(message: dict[str, Any]) -> str:
    """Return the address of an envelope's certificate.

    Raises:
        VerificationError: there is no address, or it is not one of Amazon SNS in the topic's region.
    """
    url = message.get("SigningCertURL")
    if url is None:
        raise VerificationError(Refusal.MISSING, "the SNS message names no certificate")
    found = _CERTIFICATE_URL.fullmatch(url) if isinstance(url, str) else None
    if not isinstance(url, str) or found is None or found["host"] != _host(message["TopicArn"]):
        raise VerificationError(Refusal.UNTRUSTED, "the certificate is not at Amazon SNS")
    file, topic = _SIMULATED
    if url.endswith(f"/{file}") and message["TopicArn"] != topic:
        raise VerificationError(Refusal.UNTRUSTED, "the simulator's certificate is for its own topic only")
    return url


def check_signature(
    message: dict[str, Any], *, certificate: bytes | None, now: datetime, replay_window_s: float | None
) -> float:
    """Check the signature, the certificate's dates and the stamp of an envelope; not its topic.

    Returns how far the stamp is ahead of our clock, in seconds.

    Raises:
        VerificationError: SNS did not sign it, or a date does not fit.
    """
    given, algorithm = message.get("Signature"), _HASHES.get(fields.text(message.get("SignatureVersion")) or "")
    if not given:
        raise VerificationError(Refusal.MISSING, "the SNS message is not signed")
    signature = proof.base64_bytes(given) if isinstance(given, str) else None
    if signature is None or algorithm is None:
        raise VerificationError(Refusal.MALFORMED, "an SNS signature that cannot be read")
    certificate_url(message)
    if certificate is None:
        raise VerificationError(Refusal.UNTRUSTED, "there is no certificate for the SNS message")
    found = _certificate(certificate)
    if found is None:
        raise VerificationError(Refusal.UNTRUSTED, "the certificate is not one of Amazon SNS")
    if now > found.not_after:
        raise VerificationError(Refusal.UNTRUSTED, "the certificate of the SNS message is out of date")
    try:
        found.key.verify(signature, _signed_text(message), padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        raise VerificationError(Refusal.MISMATCH, "the SNS signature does not match") from None
    except UnsupportedAlgorithm:  # an OpenSSL that is configured to refuse SHA-1
        raise VerificationError(Refusal.UNTRUSTED, "the SNS signature's hash is not supported here") from None
    if found.not_before - now > timedelta(seconds=STAMP_AHEAD_S):  # it has signed: so it is our clock
        raise VerificationError(Refusal.STALE, "the certificate of the SNS message is not valid yet")
    stamp = fields.iso_moment(message["Timestamp"])
    if stamp is None:
        raise VerificationError(Refusal.MALFORMED, "the SNS message's stamp is no time")
    return proof.check_stamp(stamp.timestamp(), now=now, replay_window_s=replay_window_s)


def handshake(message: dict[str, Any]) -> Handshake | None:
    """Return the confirmation that an envelope asks for, or the end that it reports; ``None`` if it does neither.

    The token of an ended subscription restores it by the same call:
    https://docs.aws.amazon.com/sns/latest/dg/http-unsubscribe-confirmation-json.html
    https://docs.aws.amazon.com/sns/latest/api/API_ConfirmSubscription.html
    """
    host = _host(message["TopicArn"])
    if message["Type"] == NOTIFICATION or host is None:
        return None
    query = urlencode({"Action": "ConfirmSubscription", "TopicArn": message["TopicArn"], "Token": message["Token"]})
    return Handshake(
        topic_arn=message["TopicArn"],
        confirm_url=f"https://{host}/?{query}",
        ended=message["Type"] == UNSUBSCRIPTION,
    )


def _host(topic_arn: str) -> str | None:
    """Return the host of SNS in a topic's region; ``None`` if it is no topic."""
    topic = _FORMS["TopicArn"].fullmatch(topic_arn)
    if topic is None:
        return None
    return f"sns.{topic['region']}.amazonaws.com" + (".cn" if topic["partition"] == "aws-cn" else "")


def _signed_text(message: dict[str, Any]) -> bytes:
    """Return the text that SNS signs: each field's name and value, each ended by a line feed."""
    text = "".join(
        [f"{name}\n{value}\n" for name in _SIGNED[message["Type"]] if (value := message.get(name)) is not None]
    )
    return text.encode("utf-8", "surrogatepass")


class _Certificate:
    """The parts of a certificate that we need, read once."""

    __slots__ = ("key", "not_after", "not_before")

    def __init__(self, key: rsa.RSAPublicKey, not_before: datetime, not_after: datetime) -> None:
        self.key = key
        self.not_before = not_before
        self.not_after = not_after


@lru_cache(maxsize=32)
def _certificate(pem: bytes) -> _Certificate | None:
    """Return the first certificate of a PEM file; ``None`` if SNS does not sign with one like it."""
    try:
        found = x509.load_pem_x509_certificate(pem)
        key = found.public_key()
        names = [attribute.value for attribute in found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        dates = found.not_valid_before_utc, found.not_valid_after_utc
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        return None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _LEAST_BITS:
        return None
    if not any(isinstance(name, str) and _CERTIFICATE_NAME.fullmatch(name) for name in names):
        return None
    return _Certificate(key, *dates)


_LEAST_BITS = 2_048  # Amazon's keys have this many; with far fewer "verify" itself would fail
