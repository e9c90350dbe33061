"""``mail.dead-letters``: what could not be understood, with its origin and the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from streams.records._shared import Headers, RecordError


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record, or one element of it, that can never be understood, and where it came from."""

    value: bytes | None
    """The original bytes; of a long original, only the beginning."""
    topic: str
    """This and the next three say which record it was."""
    partition: int
    offset: int
    timestamp_ms: int
    """The broker's time of the record, in milliseconds since 1970."""
    stage: str
    """The agent that could not process it."""
    reason: str
    """Why, without personal data."""
    element: int | None = None
    """Which element of the body it is, from 0; None: the whole record."""
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    """The record's own headers."""
    size: int
    """Length of the original, in bytes."""
    sha256: str
    """Digest of the original, in hexadecimal."""

    @property
    def truncated(self) -> bool:
        """The value is not the whole original: it cannot be replayed from here."""
        return len(self.value or b"") < self.size


def dead_letter(
    value: bytes | None,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    stage: str,
    reason: str,
    element: int | None = None,
    key: bytes | None = None,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> DeadLetter:
    """Return the dead letter of an original, with its size and digest."""
    original = value or b""
    return DeadLetter(
        value=value,
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=timestamp_ms,
        stage=stage,
        reason=reason,
        element=element,
        key=key,
        headers=tuple(headers),
        size=len(original),
        sha256=sha256(original).hexdigest(),
    )


_ORIGINAL = "original-"


def encode_dead_letter(letter: DeadLetter, *, limit: int) -> tuple[bytes | None, Headers]:
    """Return value and headers of a record of ``mail.dead-letters``.

    Args:
        letter: The dead letter.
        limit: Most bytes of the original that are kept.
    """
    value = None if letter.value is None else letter.value[:limit]
    headers = [
        ("origin-topic", letter.topic.encode()),
        ("origin-partition", b"%d" % letter.partition),
        ("origin-offset", b"%d" % letter.offset),
        ("origin-timestamp", b"%d" % letter.timestamp_ms),
        ("stage", letter.stage.encode()),
        ("reason", letter.reason.encode("utf-8", "replace")),
        ("size", b"%d" % letter.size),
        ("sha256", letter.sha256.encode()),
    ]
    if letter.element is not None:
        headers.append(("element", b"%d" % letter.element))
    if letter.key is not None:
        headers.append(("origin-key", letter.key))
    if len(value or b"") < letter.size:
        headers.append(("truncated", b"true"))
    headers.extend((_ORIGINAL + name, text or b"") for name, text in letter.headers)
    return value, headers


def decode_dead_letter(value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> DeadLetter:
    """Return the dead letter of a record of ``mail.dead-letters``.

    Raises:
        RecordError: a header is missing or malformed.
    """
    facts = {name: text or b"" for name, text in headers if not name.startswith(_ORIGINAL)}
    try:
        return DeadLetter(
            value=value,
            topic=facts["origin-topic"].decode(),
            partition=int(facts["origin-partition"]),
            offset=int(facts["origin-offset"]),
            timestamp_ms=int(facts["origin-timestamp"]),
            stage=facts["stage"].decode(),
            reason=facts["reason"].decode(),
            element=int(facts["element"]) if "element" in facts else None,
            key=facts.get("origin-key"),
            headers=tuple(
                (name.removeprefix(_ORIGINAL), text or b"") for name, text in headers if name.startswith(_ORIGINAL)
            ),
            size=int(facts["size"]),
            sha256=facts["sha256"].decode(),
        )
    except (KeyError, ValueError):
        message = "a header of the dead letter is missing or malformed"
        raise RecordError(message) from None
