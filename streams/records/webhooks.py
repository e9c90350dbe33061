"""``mail.raw.<provider>``: a webhook as received; the record's headers say how it came."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from streams.codecs import encode
from streams.providers import WebhookRequest
from streams.records._shared import Headers, RecordError, time_of, utc

RAW_PROVIDER = "provider"
RAW_ACCOUNT = "account"
RAW_RECEIVED_AT = "received-at"
"""RFC 3339."""
RAW_CONTENT_TYPE = "content-type"
RAW_URL = "url"
"""The full URL that the provider called."""
RAW_VERIFIED = "verified"
"""``true``: the request was verified, by a signature or by a secret in its headers; ``false``: it was not."""
RAW_KEY_ID = "key-id"
"""Which of the account's keys verified it."""
RAW_HTTP = "http-"
"""Prefix of the HTTP headers that are kept, their names in lower case."""


def encode_raw_headers(
    *,
    provider: str,
    account: str,
    received_at: datetime,
    content_type: str | None = None,
    url: str = "",
    verified: bool = False,
    key_id: str | None = None,
    http_headers: Mapping[str, str] | None = None,
) -> Headers:
    """Return the headers of a raw record; its value is the body of the request as received."""
    headers = [
        (RAW_PROVIDER, provider.encode()),
        (RAW_ACCOUNT, account.encode()),
        (RAW_RECEIVED_AT, encode(utc(received_at, RAW_RECEIVED_AT)).strip(b'"')),
        (RAW_URL, url.encode("utf-8", "surrogateescape")),
        (RAW_VERIFIED, b"true" if verified else b"false"),
    ]
    if content_type is not None:
        headers.append((RAW_CONTENT_TYPE, content_type.encode("utf-8", "surrogateescape")))
    if key_id is not None:
        headers.append((RAW_KEY_ID, key_id.encode()))
    headers.extend(
        (RAW_HTTP + name.lower(), text.encode("utf-8", "surrogateescape"))
        for name, text in (http_headers or {}).items()
    )
    return headers


def decode_raw(
    value: bytes | None, headers: Sequence[tuple[str, bytes | None]], *, reference_keys: Sequence[str]
) -> WebhookRequest:
    """Return the webhook request that a raw record keeps.

    Args:
        value: The body.
        headers: The record's headers; if a name occurs twice, the last counts.
        reference_keys: The names under which the account's messages carry their reference.

    Raises:
        RecordError: it has no value, no account or no time of receipt.
    """
    if value is None:
        message = "the record has no value"
        raise RecordError(message)
    texts = {name: (text or b"").decode("utf-8", "surrogateescape") for name, text in headers}
    account = texts.get(RAW_ACCOUNT)
    if not account:
        message = f"the header {RAW_ACCOUNT} is missing"
        raise RecordError(message)
    http = {name.removeprefix(RAW_HTTP): text for name, text in texts.items() if name.startswith(RAW_HTTP)}
    if RAW_CONTENT_TYPE in texts:
        http[RAW_CONTENT_TYPE] = texts[RAW_CONTENT_TYPE]
    return WebhookRequest(
        body=value,
        headers=http,
        url=texts.get(RAW_URL, ""),
        account=account,
        received_at=time_of(texts.get(RAW_RECEIVED_AT), RAW_RECEIVED_AT),
        reference_keys=reference_keys,
    )
