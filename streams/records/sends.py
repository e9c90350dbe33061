"""``mail.sends``: what the application handed to a provider."""

import re
from collections.abc import Mapping
from types import NoneType
from typing import Any

from streams.codecs import encode
from streams.domain.events import Send
from streams.providers import PROVIDERS
from streams.records._shared import (
    LONGEST_NAME,
    LONGEST_TEXT,
    MOST_LABELS,
    TEXT,
    TEXT_OR_NONE,
    RecordError,
    all_text,
    json_object,
    since_1970,
    time_of,
    utc,
)


def encode_send(send: Send) -> bytes:
    """Return the value of a record of ``mail.sends``; its key is the delivery id.

    Raises:
        RecordError: ``decode_send`` would refuse it.
    """
    value = encode(
        {
            "account": send.account,
            "provider": send.provider,
            "message_id": send.message_id,
            "recipient": send.recipient,
            "reference": send.reference,
            "sent_at": None if send.sent_at is None else utc(send.sent_at, "sent_at"),
            "tags": send.tags,
            "metadata": send.metadata,
        }
    )
    _check_send(send)
    return value


def decode_send(value: bytes | None) -> Send:
    """Return the send that the application reported in a record of ``mail.sends``.

    Raises:
        RecordError: it is not such a record, or names an unknown provider.
    """
    return send_of(json_object(value))


def send_of(fields: Mapping[str, Any]) -> Send:
    """Return the send of a decoded JSON object: the id as in the provider's webhooks, the address without blanks around it.

    No other text is cut to a limit: a reference without its end would name another invoice.

    Raises:
        RecordError: a field is missing, has the wrong type or is too long; the text names the field, never its value.
    """
    for name, allowed in _SEND_FIELDS.items():
        if type(fields.get(name)) not in allowed:
            message = f"{name} is missing or has the wrong type"
            raise RecordError(message)
    sent_at, tags, metadata = fields.get("sent_at"), fields.get("tags") or [], fields.get("metadata") or {}
    if (tags and not all_text(tags)) or (metadata and not all_text(metadata.values())):
        message = "a tag or a value of the metadata is no text"
        raise RecordError(message)
    provider = PROVIDERS.get(fields["provider"])
    send = Send(
        account=fields["account"],
        provider=fields["provider"],
        message_id=fields["message_id"] if provider is None else provider.message_id(fields["message_id"]),
        recipient=fields["recipient"].strip(),
        reference=(fields.get("reference") or "").strip() or None,
        sent_at=None if sent_at is None else since_1970(time_of(sent_at, "sent_at"), "sent_at"),
        tags=tuple(tags),
        metadata=metadata,
    )
    _check_send(send)
    return send


_SEND_FIELDS: dict[str, tuple[type, ...]] = {
    "account": TEXT,
    "provider": TEXT,
    "message_id": TEXT,
    "recipient": TEXT,
    "reference": TEXT_OR_NONE,
    "sent_at": TEXT_OR_NONE,
    "tags": (list, NoneType),
    "metadata": (dict, NoneType),
}
_ADDRESS = re.compile(r"""("[^"\x00-\x1f\x7f]+"|[^\s<>",;@\x00-\x1f\x7f]+)@[^\s<>",;@\x00-\x1f\x7f]+""")
"""An address alone: only what is plainly a display name, a list or a mistake is refused."""


def _check_send(send: Send) -> None:
    """Raise RecordError if the send breaks a rule that types do not express."""
    texts = (send.reference or "", *send.tags, *send.metadata, *send.metadata.values())
    if send.provider not in PROVIDERS:
        message = f"provider is none of {', '.join(PROVIDERS)}"
    elif not (
        0 < len(send.account) <= LONGEST_NAME
        and 0 < len(send.message_id) <= LONGEST_NAME
        and 0 < len(send.recipient) <= LONGEST_NAME
    ):
        message = f"account, message_id or recipient is empty or has over {LONGEST_NAME} characters"
    elif _ADDRESS.fullmatch(send.recipient) is None:
        message = "recipient is no e-mail address alone"
    elif len(send.tags) > MOST_LABELS or len(send.metadata) > MOST_LABELS:
        message = f"over {MOST_LABELS} tags or entries of the metadata"
    elif max(map(len, texts)) > LONGEST_TEXT:
        message = f"reference, a tag or an entry of the metadata has over {LONGEST_TEXT} characters"
    else:
        return
    raise RecordError(message)
