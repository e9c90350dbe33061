"""Generated lives of deliveries, with every disorder and death on the way: what is told is what the oracle demands."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.domain.deferrals import Policy
from streams.domain.events import BounceKind, DeliveryEvent, EventType
from streams.domain.status import SECOND
from tests.agents.driving import Partition, policies_of
from tests.domain.deferrals import GREYLISTED, HOUR, POLICY, THROTTLED, us
from tests.domain.deliveries import event
from tests.faults.alerts import Fault, Known, Problem, Told, problems

MESSAGES = 3
HOURS = 60
ANSWERS: list[dict[str, Any]] = [GREYLISTED, THROTTLED, GREYLISTED | {"retry_until": 9 * HOUR}, {}]


@dataclass(frozen=True, slots=True)
class Life:
    """Events of some messages with the time (s after NOON) at which each becomes known, and when the clock ticks."""

    arrivals: Sequence[tuple[int, DeliveryEvent]]
    ticks: Sequence[int]
    deaths: dict[int, str]
    """By the number of the step."""
    policy: Policy


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Draw it so that most things go their way and each goes wrong at times: late, twice, in disorder."""
    seconds = st.integers(0, HOURS * HOUR)
    arrivals: list[tuple[int, DeliveryEvent]] = []
    for number in range(MESSAGES):
        for _ in range(draw(st.integers(0, 6))):
            happened = draw(seconds)
            known = happened + draw(st.sampled_from([1, 2, 60, HOUR, 6 * HOUR, 20 * HOUR]))
            type_ = draw(
                st.sampled_from(
                    [EventType.DEFERRED] * 5
                    + [EventType.SENT, EventType.DELIVERED, EventType.DELIVERED, EventType.BOUNCE, EventType.DROPPED]
                )
            )
            made = replace(
                event(
                    type_,
                    happened,
                    received=known,
                    kind=BounceKind.HARD if type_ is EventType.BOUNCE else None,
                    **(draw(st.sampled_from(ANSWERS)) if type_ is EventType.DEFERRED else {}),
                ),
                message_id=f"message-{number}",
            )
            arrivals += [(known, made)] + [
                (known + draw(st.integers(0, 10 * HOUR)), made) for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2])))
            ]
    ticks = draw(st.lists(st.integers(0, 2 * HOURS * HOUR), max_size=25))
    deaths = draw(st.dictionaries(st.integers(0, 40), st.sampled_from(["restart", "rebuild", "die"]), max_size=6))
    policy = draw(
        st.sampled_from(
            [
                POLICY,
                replace(POLICY, warn_after=10 * 60 * SECOND, retry_window=8 * HOUR * SECOND),
                replace(POLICY, escalate_after=2 * HOUR * SECOND, overdue_slack=0),
                replace(POLICY, warn_after=10 * HOUR * SECOND, retry_window=2 * HOUR * SECOND),
            ]
        )
    )
    return Life(sorted(arrivals, key=lambda arrival: arrival[0]), sorted(ticks), deaths, policy)


def live(life: Life, folder: Path) -> list[Told]:
    """Drive the monitor through a life. The clock ticks only when all that was known before was read."""
    partition = Partition(folder, policies=policies_of(life.policy))
    steps: list[tuple[int, int, DeliveryEvent | None]] = sorted(
        [(known, 0, happened) for known, happened in life.arrivals] + [(at, 1, None) for at in life.ticks],
        key=lambda step: step[:2],
    )
    try:
        for number, (at, _, happened) in enumerate(steps):
            death = life.deaths.get(number)
            if happened is not None:
                partition.happens(happened)
                if number % 3 == 0:  # else it waits, to be one batch with what comes next
                    partition.read(dies=death == "die")
            else:
                partition.read()
                partition.tick(us(at), dies=death == "die")
            if death == "restart":
                partition.restart()
            elif death == "rebuild":
                partition.rebuild()
        partition.read()
        return list(partition.told)
    finally:
        partition.close()


def judged(life: Life, told: Sequence[Told]) -> list[Problem]:
    ticks = [us(at) for at in life.ticks]

    def ticked(since: int, until: int) -> bool:
        return any(since <= tick < until for tick in ticks)

    found: list[Problem] = []
    for message_id in {happened.message_id for _, happened in life.arrivals}:
        history = [Known(us(known), happened) for known, happened in life.arrivals if happened.message_id == message_id]
        of_it = [alert for alert in told if alert["message_id"] == message_id]
        found += problems(history, of_it, life.policy, ticked, ticked)
    return found


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(lives())
def test_exactly_the_alerts_are_told_that_the_oracle_demands(
    tmp_path_factory: pytest.TempPathFactory, life: Life
) -> None:
    assert judged(life, live(life, tmp_path_factory.mktemp("life"))) == []


# -- the oracle has seen what it refuses ----------------------------------------------------------------------------------------


def plain_life() -> Life:
    """One message that is raised, escalated and delivered, one that is annulled, one that ends in time."""
    messages = [
        [(5, event(EventType.DEFERRED, 0, **GREYLISTED)), (20 * HOUR, event(EventType.DELIVERED, 20 * HOUR - 5))],
        [(5, event(EventType.DEFERRED, 0, **GREYLISTED)), (9 * HOUR, event(EventType.DELIVERED, 60))],
        [(5, event(EventType.DEFERRED, 0, **GREYLISTED)), (1_800, event(EventType.DELIVERED, 1_795))],
    ]
    arrivals = [
        (known, replace(happened, message_id=f"message-{number}"))
        for number, history in enumerate(messages)
        for known, happened in history
    ]
    return Life(sorted(arrivals, key=lambda a: a[0]), range(0, 30 * HOUR, 600), {}, POLICY)


@pytest.fixture(scope="module")
def life() -> Life:
    return plain_life()


@pytest.fixture(scope="module")
def told(life: Life, tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    return live(life, tmp_path_factory.mktemp("plain"))


def test_the_plain_life_is_told_as_one_would_tell_it(life: Life, told: list[Told]) -> None:
    assert [(alert["message_id"][-1], alert["level"], alert["annulled"]) for alert in told] == [
        ("0", "raised", False), ("1", "raised", False), ("1", "resolved", True), ("0", "escalated", False), ("0", "resolved", False)
    ]  # fmt: skip
    assert judged(life, told) == []


Mutant = Callable[[list[Told]], list[Told]]


def without(level: str) -> Mutant:
    return lambda told: [alert for alert in told if alert["level"] != level or alert["message_id"] != "message-0"]


def with_(level: str, **changes: Any) -> Mutant:
    return lambda told: [
        alert | changes if (alert["level"], alert["message_id"]) == (level, "message-0") else alert  # type: ignore[operator] # dictionaries, all of them
        for alert in told
    ]


MUTANTS: dict[str, tuple[Mutant, str]] = {
    "nothing": (lambda _: [], "missed: raised"),
    "a missed one": (without("raised"), "missed: raised"),
    "a missed escalation": (without("escalated"), "missed: escalated"),
    "a missed end": (without("resolved"), "missed: resolved"),
    "one told twice": (lambda told: [*told[:1], *told], "doubled: raised"),
    "a false one of what ended in time": (
        lambda told: [*told, {**told[0], "message_id": "message-2"}],
        "false: raised",
    ),
    "a false level": (lambda told: [*told[:-1], {**told[0], "level": "overdue"}, told[-1]], "false: overdue"),
    "one of an episode that there never was": (with_("raised", episode=9), "is of no episode"),
    "a wrong id": (with_("raised", id="0" * 32), "wrong id: raised"),
    "a deadline that was noticed instead of kept": (with_("raised", due_at="2026-11-20T13:10:00Z"), "false: raised"),
    "a wrong outcome": (with_("resolved", outcome="bounced"), "wrong: resolved"),
    "a wrong annulment": (with_("resolved", annulled=True), "wrong: resolved"),
    "an end before its alert": (lambda told: [told[-1], *told[:-1]], "out of order"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_oracle_refuses(name: str, life: Life, told: list[Told]) -> None:
    mutate, reason = MUTANTS[name]
    found = judged(life, mutate(list(told)))
    assert any(reason in str(problem) for problem in found), found


@pytest.mark.parametrize("seed", range(3))
def test_the_oracle_refuses_a_monitor_that_goes_by_the_wall_clock(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that does not wait for what is unread: its clock is an hour ahead."""
    life = plain_life()
    chance = random.Random(seed)
    tick = Partition.tick
    monkeypatch.setattr(
        Partition, "tick", lambda self, now, **more: tick(self, now + chance.randrange(1, 3) * HOUR * SECOND, **more)
    )
    false = [problem.what for problem in judged(life, live(life, tmp_path)) if problem.kind is Fault.FALSE]
    assert any(what.startswith("raised") for what in false)
