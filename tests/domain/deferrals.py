"""What ``track`` says of one delivery, as the tests of episodes and of their alerts need it. Times are seconds after NOON."""

from typing import Any

from streams.domain.deferrals import Deferral, Policy
from streams.domain.status import SECOND, Status, to_micros
from tests.domain.deliveries import NOON

MINUTE, HOUR = 60, 3_600
GREYLISTED = {"reason": "451 4.7.1 Greylisting in action, please come back later", "smtp_code": 451}
THROTTLED = {"reason": "Delayed: IPs reached ISP-suggested hourly limits", "smtp_code": None, "enhanced_code": None}
POLICY = Policy(
    warn_after=HOUR * SECOND, escalate_after=None, retry_window=72 * HOUR * SECOND, overdue_slack=HOUR * SECOND
)


def us(seconds: float) -> int:
    """Return a time after NOON in microseconds since 1970."""
    return to_micros(NOON) + round(seconds * SECOND)


def deferred(first: float = 0, last: float | None = None, **more: Any) -> Deferral:
    """Return what is said of a delivery that is deferred: from ``first`` on, and again at ``last``."""
    last = first if last is None else last
    return said(Status.DEFERRED, last, first=first, last=last, attempt=True, **more)


def said(status: Status | None, at: float, *, first: float = 0, last: float | None = None, **more: Any) -> Deferral:
    """Return what is said of a delivery that became ``status`` at ``at``, and was deferred from ``first`` on."""
    dropped_at = more.pop("dropped_at", None)
    retry_until = more.pop("retry_until", None)
    fields: dict[str, Any] = {
        "delivery_id": "3ez2dq7dfqkjp25zbwcswk4ooe",
        "account": "billing",
        "provider": "sendgrid",
        "message_id": "message-1",
        "recipient": "anna@gmail.com",
        "reference": "4711",
        "first_received_at": us(-5),
        "revision": 2,
        "attempts": 1,
        "reason": "421 4.7.0 Try again later",
        "smtp_code": 421,
        "enhanced_code": "4.7.0",
        "attempt": False,
    }
    return Deferral(
        **fields
        | more
        | {
            "status": status,
            "status_at": us(at),
            "first_at": us(first),
            "last_at": us(first if last is None else last),
            "dropped_at": None if dropped_at is None else us(dropped_at),
            "retry_until": None if retry_until is None else us(retry_until),
        }
    )
