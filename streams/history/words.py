"""Texts for people: the names of events, lists and levels; and how times are shown."""

from datetime import UTC, datetime
from typing import Any, Final

from streams.domain.status import SECOND, from_micros, to_micros

EVENTS: Final = {
    "sent": "The provider took the message",
    "deferred": "The receiving server put it off",
    "delivered": "The receiving server accepted it",
    "bounce": "The receiving server refused it",
    "bounce_or_auto_reply": "It was refused, or an automatic reply came; the provider cannot tell",
    "auto_reply": "An automatic reply came, such as an out-of-office note",
    "dropped": "The provider did not send it",
    "open": "The message was opened",
    "machine_open": "A machine loaded the tracking image",
    "click": "A link in the message was followed",
    "complaint": "The recipient marked the message as spam",
    "unsubscribe": "The recipient unsubscribed",
    "other": "The provider reported something that does not concern the delivery",
}
"""By the type of an event."""
GIVEN_UP: Final = "It was refused, or the provider gave up"
"""Of a bounce in whose kinds the provider puts those, too, for which the time to try was over."""
UNKNOWN_EVENT: Final = "The provider reported something that we do not know"

BY_MACHINE: Final = "by a machine, as far as the provider can tell"

LISTS: Final = {
    "bounce": "addresses that bounced",
    "spam": "recipients who marked a message as spam",
    "unsubscribe": "recipients who unsubscribed",
    "invalid": "invalid addresses",
}
"""By the suppression list of a drop."""

BOUNCE_KINDS: Final = {
    "hard": "permanent: the provider takes it to be about the address",
    "soft": "a later message may pass",
    "block": "it is about the sender or the content, not about the address",
    "undetermined": "the provider does not say which kind",
}

LEVELS: Final = {
    "raised": "Alert: it has been deferred for long",
    "escalated": "Alert: it has been deferred for too long to go on waiting",
    "overdue": "Alert: the time to try again is over, and no final word came",
    "resolved": "The deferral ended",
}
"""By the level of an alert."""

NO_WORD: Final = {
    "code": "no_word",
    "meaning": (
        "The message left, and nothing more is known here after a week. No provider tries for so long: its report was "
        "lost or is not read yet, or it sends none."
    ),
    "what_to_do": (
        "Do not wait any longer, unless the message was to be sent at a later time. Ask the recipient whether they have "
        "it. If it is so of other messages, too, tell whoever runs this."
    ),
}
"""The advice on a message that was sent, in place of the worker's to wait, which does not know how long one waits."""

OPENED: Final = (
    "The tracking image was loaded or a link was followed: the message reached a mailbox, and somebody probably saw it. "
    "Many mail programs load no images, so without an open it may have been read all the same."
)
MACHINE_OPENED: Final = "A machine, such as a privacy proxy or a mail gateway, loaded the image too. That alone proves delivery, not reading."
ONLY_MACHINE_OPENED: Final = "A machine, such as a privacy proxy or a mail gateway, loaded the tracking image. That proves delivery, not reading."

_MINUTE, _HOUR, _DAY = 60, 3600, 24 * 3600
_FIRST, _LAST = to_micros(datetime.min.replace(tzinfo=UTC)), to_micros(datetime.max.replace(tzinfo=UTC))


def micros(text: Any) -> int | None:
    """Return the µs of a record's time, RFC 3339 text with its zone; None for anything else.

    Also for one that is beyond the calendar in UTC, which nobody could be shown: ``9999-12-31T23:59:59-01:00``.
    """
    try:
        at = to_micros(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return None
    return at if _FIRST <= at <= _LAST else None


def machine_time(at: int) -> str:
    """Return a time as RFC 3339, for ``<time datetime>`` and JSON."""
    return from_micros(at).isoformat().replace("+00:00", "Z")


def exact(at: int) -> str:
    """Return a time as people read it."""
    return f"{from_micros(at):%Y-%m-%d %H:%M:%S} UTC"


def relative(at: int, now: datetime) -> str:
    """Return a time seen from now: ``3 minutes ago``, ``in 2 hours``."""
    seconds = round((to_micros(now.astimezone(UTC)) - at) / SECOND)
    if abs(seconds) < _MINUTE // 6:
        return "just now"
    span = duration(abs(seconds))
    return f"{span} ago" if seconds > 0 else f"in {span}"


def duration(seconds: float) -> str:
    """Return a span in its largest unit: ``50 seconds``, ``2 hours``, ``3 days``."""
    for size, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"), (1, "second")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {name}{'' if number == 1 else 's'}"
    return "no time"
