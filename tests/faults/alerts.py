"""The alert oracle: which alerts a history of events demands, allows and forbids.

It knows nothing of stores, ticks, transactions or the rules in
``domain.deferrals``. It looks at a delivery from the end: every state that the
delivery was ever in is known, with the time at which it became known and the time
at which the next one did. From that follows for each level of each episode

- that it MUST be told: the clock surely came by while its deadline had passed;
- that it MAY be: the clock could come by;
- that it must not be: when the deadline passed, the end was known already.

What is sure and what is possible depends on who asks: a test that made the clock
tick itself knows exactly; one of a real worker knows how long an outage takes.

Only the status of a delivery is taken as given (``domain.status``, whose tests are
its own). Times are microseconds since 1970.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from itertools import groupby
from typing import Any, NamedTuple

from streams.domain.deferrals import Policy
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.reasons import ReasonClass, classify
from streams.domain.status import Delivery, Kind, Status, fold, to_micros

LEVELS = ("raised", "escalated", "overdue")
HALF_A_DAY = 12 * 3_600_000_000
NEVER = 1 << 62

Told = Mapping[str, Any]
"""An alert, decoded."""
Between = Callable[[int, int], bool]
"""(from, until) -> whether the clock came by in between, ``until`` not included."""


class Fault(StrEnum):
    """What is wrong with what was told."""

    MISSED = "missed"  # demanded, and not told
    FALSE = "false"  # told, and forbidden
    DOUBLED = "doubled"
    WRONG_ID = "wrong id"
    WRONG = "wrong"  # told rightly, with wrong words
    OUT_OF_ORDER = "out of order"


class Problem(NamedTuple):
    """One thing that was not told as the history demands."""

    kind: Fault
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


class Known(NamedTuple):
    """An event, and when it became known."""

    at: int
    event: DeliveryEvent


@dataclass(frozen=True, slots=True)
class State:
    """How a delivery stood for a while."""

    delivery: Delivery
    since: tuple[int, int]
    """The episode began then: the earliest and the latest that is thinkable. They differ only after a drop."""
    surely_from: int
    """It was known from then on, if the clock had come so far."""
    until: int
    """Then something else was known."""


@dataclass(frozen=True, slots=True)
class Episode:
    """The states of an episode in order, and the one that ended it."""

    states: Sequence[State]
    end: State | None

    @property
    def number(self) -> int:
        return self.states[0].delivery.change.revision


def problems(
    history: Sequence[Known], told: Sequence[Told], policy: Policy, sure: Between, possible: Between
) -> list[Problem]:
    """Compare what was told of one delivery with what its history demands and forbids; nothing found: an empty list.

    Args:
        history: In the order in which it was processed, repetitions included.
        told: In the order in which it was told.
        policy: That of the delivery.
        sure: Whether the clock surely came by.
        possible: Whether it may have come by.
    """
    episodes = list(_episodes(history))
    numbers = {episode.number for episode in episodes}
    found = [
        Problem(Fault.FALSE, f"{_name(alert)} is of no episode") for alert in told if alert["episode"] not in numbers
    ]
    found += [Problem(Fault.DOUBLED, name) for name, n in Counter(map(_name, told)).items() if n > 1]
    found += [Problem(Fault.WRONG_ID, _name(alert)) for alert in told if alert["id"] != _id(alert)]
    for episode in episodes:
        of_it = [alert for alert in told if alert["episode"] == episode.number]
        for level in LEVELS:
            found += _of_level(
                episode, level, [alert for alert in of_it if alert["level"] == level], policy, sure, possible
            )
        found += _of_end(episode, of_it)
        found += _of_order(episode, of_it)
    return found


def deadline(state: State, since: int, level: str, policy: Policy) -> int | None:
    """Return when a level falls due for one who knows this state and no more; None: never."""
    named = state.delivery.retry_until
    gives_up = since + policy.retry_window if named is None else named
    window = max(gives_up - since, 0)
    answer = state.delivery.facts[Kind.DEFERRED]
    throttled = classify(answer.reason, answer.smtp_code, answer.enhanced_code) is ReasonClass.PREEMPTIVE
    chosen = HALF_A_DAY if policy.escalate_after is None else policy.escalate_after
    share = window * 3 // 4 if policy.escalate_after is None else window
    match level:
        case "raised":
            age = policy.warn_after
        case "escalated" if throttled:
            return None
        case "escalated":
            age = max(min(chosen, share), policy.warn_after)
        case _:
            age = max(window, policy.warn_after) + policy.overdue_slack
    return since + age


def _of_level(  # noqa: PLR0917 - one question, all of its facts
    episode: Episode, level: str, told: Sequence[Told], policy: Policy, sure: Between, possible: Between
) -> Iterator[Problem]:
    allowed: list[tuple[int, int]] = []
    must = given_up = False
    for state in episode.states:
        first, last = (deadline(state, since, level, policy) for since in state.since)
        if first is not None and last is not None:
            if possible(first, state.until):
                allowed.append((first, last))
            if sure(max(last, state.surely_from), state.until) and not (level == "escalated" and given_up):
                must = True
                break  # from here on it is told, and never again
        over = deadline(state, state.since[0], "overdue", policy)
        given_up = given_up or (over is not None and possible(over, state.until))  # then nothing is escalated any more
    if must and not told:
        yield Problem(Fault.MISSED, f"{level} of episode {episode.number}")
    for alert in told:
        if not any(first <= micros(alert["due_at"]) <= last for first, last in allowed):
            yield Problem(Fault.FALSE, f"{_name(alert)} at {alert['due_at']}")


def _of_order(episode: Episode, told: Sequence[Told]) -> Iterator[Problem]:
    levels = [alert["level"] for alert in told if alert["level"] in LEVELS]
    if levels != sorted(levels, key=LEVELS.index):
        yield Problem(Fault.OUT_OF_ORDER, f"{levels} of episode {episode.number}")


def _of_end(episode: Episode, told: Sequence[Told]) -> Iterator[Problem]:
    levels = [alert["level"] for alert in told]
    if episode.end is None or set(levels) <= {"resolved"}:
        if "resolved" in levels:
            why = "which is open" if episode.end is None else "of which nothing was told"
            yield Problem(Fault.FALSE, f"resolved of episode {episode.number}, {why}")
        return
    if "resolved" not in levels:
        yield Problem(Fault.MISSED, f"resolved of episode {episode.number}")
        return
    if levels[-1] != "resolved":
        yield Problem(Fault.OUT_OF_ORDER, f"{levels} of episode {episode.number}")
    resolved = told[levels.index("resolved")]
    after = episode.end.delivery
    ended_at = after.change.received_at if after.change.effective_at is None else after.change.effective_at
    first_due = min(micros(alert["due_at"]) for alert in told if alert["level"] != "resolved")
    said = (resolved["outcome"], micros(resolved["due_at"]), resolved["annulled"])
    right = (after.status.value, ended_at, ended_at < first_due)
    if said != right:
        yield Problem(Fault.WRONG, f"resolved of episode {episode.number} says {said}, right is {right}")


def _episodes(history: Sequence[Known]) -> Iterator[Episode]:
    states = list(_states(history))
    runs = [list(run) for _, run in groupby(states, key=lambda state: state.delivery.status is Status.DEFERRED)]
    for run, after in zip(runs, [*runs[1:], None], strict=True):
        if run[0].delivery.status is Status.DEFERRED:
            yield Episode(run, None if after is None else after[0])


def _states(history: Sequence[Known]) -> Iterator[State]:
    delivery: Delivery | None = None
    for number, known in enumerate(history):
        delivery = fold(delivery, known.event).delivery
        if delivery is None:
            continue
        yield State(
            delivery,
            _since([each.event for each in history[: number + 1]]),
            max(each.at for each in history[: number + 1]),
            min((each.at for each in history[number + 1 :]), default=NEVER),
        )


def _since(events: Sequence[DeliveryEvent]) -> tuple[int, int]:
    deferrals = [event for event in events if event.type is EventType.DEFERRED]
    times = [to_micros(event.occurred_at) for event in deferrals if event.occurred_at is not None]
    received = [to_micros(event.received_at) for event in deferrals] or [
        0
    ]  # by then it had happened, whatever they say
    times = times or received[:1]
    first = min(*times, *received)
    dropped = any(event.type is EventType.DROPPED for event in events)
    return first, max(times) if dropped else first


def micros(text: str) -> int:
    """Return a time on the wire as microseconds."""
    return to_micros(datetime.fromisoformat(text))


def _name(alert: Told) -> str:
    return f"{alert['level']} of episode {alert['episode']}"


def _id(alert: Told) -> str:
    of = f"{alert['delivery_id']}/{micros(alert['first_received_at'])}/{alert['episode']}/{alert['level']}"
    return blake2b(of.encode(), digest_size=16).hexdigest()
