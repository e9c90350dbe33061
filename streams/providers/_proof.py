"""What the ``verify`` functions share: stamps, and the credentials of providers that sign nothing.

Rule: a secret, or what was made with one, is compared only by ``hmac.compare_digest``.

**Credentials.** A secret is ``basic:USER:PASSWORD`` (HTTP basic authentication, RFC 7617) or ``header:NAME:VALUE`` (a
header of that name with that value). They prove who calls, not that the content is genuine: anybody who sees one
request can send others. So they are only as good as the TLS that carries them.
"""

import binascii
import hashlib
import hmac
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from streams.providers import _fields as fields
from streams.providers._contract import (
    STAMP_AHEAD_S,
    PoisonError,
    Refusal,
    Verification,
    VerificationError,
    WebhookRequest,
)

PARSED_LIMIT = 1 << 20
"""Most bytes of a body that is parsed before its sender is proven. A larger one is refused, unless a header proves it:
the work that a stranger can cause with one request has to be bounded, and a compressed body is quickly sent."""


def check_stamp(stamp_s: float, *, now: datetime, replay_window_s: float | None) -> float:
    """Check a genuine stamp, in seconds since the epoch, and return how far it is ahead of our clock.

    Raises:
        VerificationError: it is older than the window, or more than ``STAMP_AHEAD_S`` ahead.
    """
    age_s = now.timestamp() - stamp_s
    # Written so that NaN is refused too.
    if replay_window_s is not None and not -STAMP_AHEAD_S <= age_s <= replay_window_s:
        raise VerificationError(Refusal.STALE, "the stamp is outside the replay window")
    return max(0.0, -age_s)


class Credential(NamedTuple):
    """A secret that the provider sends along with each request."""

    header: str
    """In lower case."""
    digest: bytes
    """SHA-256 of what must be sent: equally long for every secret, so that a comparison does not reveal its length."""
    basic: bool
    """The header holds ``Basic`` with the user and password in base64; if False, the value as it is."""


_BLANKS = " \t"  # RFC 9110, 5.5: at its ends they are no part of a header's value
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110, 5.6.2: a token


def credential(secret: str) -> Credential | None:
    """Return the credential that a secret describes; ``None`` if it describes none."""
    kind, _, rest = secret.partition(":")
    name, _, value = rest.partition(":")
    if not name or not value.strip(_BLANKS):
        return None
    if kind == "basic":
        return Credential("authorization", _digest(_bytes(rest)), basic=True)
    if kind == "header" and _HEADER_NAME.fullmatch(name):
        name = name.lower()
        return Credential(name, _digest(_bytes(_value(name, value.strip(_BLANKS)))), basic=False)
    return None


def _value(header: str, value: str) -> str:
    """Return a header's value; the scheme of ``Authorization`` in lower case, as RFC 9110, 11.1, gives it none."""
    scheme, blank, token = value.partition(" ")
    return f"{scheme.lower()} {token}" if header == "authorization" and blank else value


def verify_credentials(headers: Mapping[str, str], secrets: Mapping[str, str]) -> Verification:
    """Return which credential a request with these headers carries; secrets that describe none are skipped.

    Raises:
        VerificationError: it carries none of them.
    """
    refusal = VerificationError(Refusal.UNCONFIGURED, "no credential is configured")
    refused = False
    for key_id, secret in secrets.items():
        wanted = credential(secret)
        if wanted is None:
            continue
        given = headers.get(wanted.header)
        if given and (given := given.strip(_BLANKS)):
            sent = _basic(given) if wanted.basic else _bytes(_value(wanted.header, given))
            if sent is None:
                refusal = VerificationError(Refusal.MALFORMED, "the Authorization header is no basic authentication")
            elif hmac.compare_digest(_digest(sent), wanted.digest):
                return Verification(key_id=key_id)
            else:
                refusal = VerificationError(Refusal.MISMATCH, "the credential is none of ours")
            refused = True
        elif not refused:
            refusal = VerificationError(Refusal.MISSING, "no credential")
    raise refusal


def verify_sender(
    request: WebhookRequest,
    secrets: Mapping[str, str],
    *,
    now: datetime,  # noqa: ARG001 the contract's; nothing here has a time
    replay_window_s: float | None,  # noqa: ARG001 likewise
    certificate: bytes | None = None,  # noqa: ARG001 likewise
) -> Verification:
    """Return which of the credentials a request carries: ``verify`` of a provider that signs nothing.

    Raises:
        VerificationError: none of them.
    """
    return verify_credentials(request.headers, secrets)


def read_credentials(headers: Mapping[str, str], secrets: Mapping[str, str]) -> bool:
    """Return True, because the whole proof is in the headers: ``read_headers`` of a provider that signs nothing.

    Raises:
        VerificationError: they carry none of the credentials.
    """
    verify_credentials(headers, secrets)
    return True


def credential_fault(secret: str) -> str | None:
    """Return why a secret describes no credential, without quoting it; ``None`` if it does."""
    if credential(secret) is not None:
        return None
    return "neither basic:USER:PASSWORD nor header:NAME:VALUE"


def base64_bytes(text: str) -> bytes | None:
    """Return what a strict base64 text encodes; ``None`` if it is none."""
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return None


def _basic(header: str) -> bytes | None:
    scheme, _, encoded = header.partition(" ")
    return base64_bytes(encoded.strip()) if scheme.lower() == "basic" else None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a header's bytes that are no UTF-8 arrive as surrogates


def _digest(sent: bytes) -> bytes:
    return hashlib.sha256(sent).digest()


def check_json(body: bytes) -> None:
    """Refuse a body that is not JSON although its signed part is genuine: somebody changed the rest.

    Called only after the proof, because it costs as much as parsing the whole body.

    Raises:
        VerificationError: it is not JSON.
    """
    try:
        fields.decode_body(body)
    except PoisonError:
        raise VerificationError(Refusal.MALFORMED, "genuine, but what is not signed of it is no JSON") from None
