"""What ``track`` says of one delivery, as the tests of episodes and of their alerts need it. Times are seconds after NOON."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from streams.domain.deferrals import Alert, Deferral, Episode, Policy, elapse, observe
from streams.domain.status import SECOND, Status, to_micros
from tests.domain.deliveries import NOON

MINUTE, HOUR = 60, 3_600
GREYLISTED: dict[str, Any] = {"reason": "451 4.7.1 Greylisting in action, please come back later", "smtp_code": 451}
THROTTLED: dict[str, Any] = {
    "reason": "Delayed: IPs reached ISP-suggested hourly limits",
    "smtp_code": None,
    "enhanced_code": None,
}
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


SECONDS = st.integers(0, 100 * HOUR)
POLICIES = st.builds(
    Policy,
    warn_after=st.integers(1, 20 * HOUR).map(SECOND.__mul__),
    escalate_after=st.none() | st.integers(1, 90 * HOUR).map(SECOND.__mul__),
    retry_window=st.integers(1, 90 * HOUR).map(SECOND.__mul__),
    overdue_slack=st.integers(0, 5 * HOUR).map(SECOND.__mul__),
)
DEFERRALS = st.builds(
    lambda first, more, until, throttled: deferred(
        first, first + more, retry_until=until, **(THROTTLED if throttled else GREYLISTED)
    ),
    SECONDS,
    SECONDS,
    st.none() | SECONDS,
    st.booleans(),
)
ENDS = st.builds(said, st.sampled_from([status for status in Status if status is not Status.DEFERRED]) | st.none(), SECONDS)  # fmt: skip
STEPS = st.lists(DEFERRALS | ENDS | SECONDS, max_size=12)
"""A fact, or what time it is (seconds after NOON)."""


def play(steps: Sequence[Deferral | int], policy: Policy) -> list[tuple[int, Alert]]:
    """Return the alerts with the index of the step that told them. Revisions count up; the clock never goes back."""
    episode: Episode | None = None
    told: list[tuple[int, Alert]] = []
    now = us(0)
    for index, step in enumerate(steps):
        if isinstance(step, Deferral):
            episode, alerts = observe(episode, replace(step, revision=index + 1), policy)
        else:
            now = max(now, us(step))
            if episode is None:
                continue
            episode, alerts = elapse(episode, now, policy)
        told += [(index, alert) for alert in alerts]
    return told


alerts = (
    st.tuples(STEPS, POLICIES)
    .map(lambda drawn: [alert for _, alert in play(*drawn)])
    .filter(bool)
    .flatmap(st.sampled_from)
)
"""Alerts as the rule tells them."""
