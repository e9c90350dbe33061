"""Episodes: what opens, moves and ends them, and which alert falls due when."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streams.domain.deferrals import (
    Alert,
    Deferral,
    Ending,
    Episode,
    Level,
    Policy,
    Told,
    elapse,
    ends_at,
    level_of,
    next_due,
    observe,
)
from streams.domain.destinations import destination_of
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.reasons import ReasonClass
from streams.domain.status import SECOND, Delivery, Kind, Status, fold
from streams.records import decode_deferral, encode_deferral
from tests.domain.deferrals import (
    DEFERRALS,
    GREYLISTED,
    HOUR,
    MINUTE,
    POLICIES,
    POLICY,
    SECONDS,
    STEPS,
    THROTTLED,
    deferred,
    play,
    said,
    us,
)
from tests.domain.deliveries import event


def opened(deferral: Deferral | None = None, policy: Policy = POLICY) -> Episode:
    step = observe(None, deferred() if deferral is None else deferral, policy)
    assert step.alerts == ()
    assert step.episode is not None
    return step.episode


def after(episode: Episode, deferral: Deferral, policy: Policy = POLICY) -> Episode:
    """Return the episode after more was said of it; still open, and nothing told."""
    step = observe(episode, deferral, policy)
    assert step.alerts == ()
    assert step.episode is not None
    return step.episode


def at(episode: Episode, seconds: float, policy: Policy = POLICY) -> tuple[Episode, list[tuple[Level, float]]]:
    """Let it become so late; return the episode and what was told, as (level, deadline in seconds after NOON)."""
    step = elapse(episode, us(seconds), policy)
    assert step.episode is not None
    return step.episode, [(alert.level, (alert.due_at - us(0)) / SECOND) for alert in step.alerts]


def raised(deferral: Deferral | None = None) -> Episode:
    episode, told = at(opened(deferral), HOUR)
    assert told == [(Level.RAISED, HOUR)]
    return episode


def resolved(episode: Episode, deferral: Deferral, policy: Policy = POLICY) -> Alert:
    step = observe(episode, deferral, policy)
    assert step.episode is None
    [alert] = step.alerts
    assert alert.level is Level.RESOLVED
    return alert


# -- what opens and ends it ---------------------------------------------------------------------------------------------------


def test_a_deferral_opens_an_episode_and_tells_nothing() -> None:
    episode = opened(deferred(30, revision=4, attempts=3, **GREYLISTED))

    assert (episode.since, episode.number, episode.attempts) == (us(30), 4, 3)
    assert episode.destination == destination_of("anna@gmail.com") == "gmail"
    assert episode.reason_class is ReasonClass.GREYLISTED
    assert (episode.told, episode.first_due) == (Told.NOTHING, None)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.DEFERRED])
def test_any_other_status_opens_nothing(status: Status) -> None:
    assert observe(None, said(status, 60), POLICY) == (None, ())
    assert observe(None, said(None, 60), POLICY) == (None, ())


def test_an_episode_that_ends_before_its_warn_age_is_told_of_nobody() -> None:
    assert observe(opened(), said(Status.DELIVERED, 59 * MINUTE), POLICY) == (None, ())


@pytest.mark.parametrize(
    ("status", "ending"), [(status, Ending(status)) for status in Status if status is not Status.DEFERRED]
)
def test_an_episode_that_was_raised_is_resolved_with_what_ended_it(status: Status, ending: Ending) -> None:
    alert = resolved(raised(), said(status, 5 * HOUR))

    assert (alert.ending, alert.due_at, alert.annulled) == (ending, us(5 * HOUR), False)
    assert alert.duration == 5 * HOUR * SECOND


def test_a_delivery_that_is_forgotten_ends_its_episode_as_expired() -> None:
    alert = resolved(raised(), said(None, 90 * 24 * HOUR))

    assert (alert.ending, alert.annulled) == (Ending.EXPIRED, False)


def test_what_resolves_bears_all_attempts_and_the_last_answer() -> None:
    """An attempt that came late, or that was not told at its time, is known at the end."""
    last = said(Status.DELIVERED, 2 * HOUR, first=-60, attempts=7, reason="452 4.2.2 Mailbox full", smtp_code=452)
    alert = resolved(raised(), last)
    assert (alert.episode.attempts, alert.episode.smtp_code, alert.episode.since) == (7, 452, us(-60))
    assert alert.episode.reason_class is ReasonClass.MAILBOX_FULL
    assert alert.duration == us(2 * HOUR) - us(-60)


def test_what_resolves_bears_the_newest_recipient_and_reference() -> None:
    alert = resolved(raised(), said(Status.DELIVERED, 2 * HOUR, recipient="Anna@gmail.com", reference="4712"))

    assert (alert.episode.recipient, alert.episode.reference) == ("Anna@gmail.com", "4712")


def test_an_attempt_brings_the_last_answer_and_leaves_the_age_alone() -> None:
    episode = after(opened(), deferred(0, 1_200, attempts=4, **GREYLISTED))

    assert (episode.since, episode.attempts, episode.reason_class) == (us(0), 4, ReasonClass.GREYLISTED)
    assert (episode.reason, episode.smtp_code) == (GREYLISTED["reason"], 451)
    assert next_due(episode, POLICY) == us(HOUR)


# -- levels and deadlines -----------------------------------------------------------------------------------------------------


def test_a_delivery_deferred_for_an_hour_is_raised_and_not_a_moment_before() -> None:
    episode = opened()

    assert elapse(episode, us(HOUR) - 1, POLICY) == (episode, ())
    episode, told = at(episode, HOUR)
    assert told == [(Level.RAISED, HOUR)]
    assert level_of(episode.told) is Level.RAISED
    assert episode.first_due == us(HOUR)


def test_it_is_escalated_after_half_a_day_where_the_window_is_long() -> None:
    episode = raised()

    assert at(episode, 12 * HOUR - 1)[1] == []
    assert at(episode, 12 * HOUR)[1] == [(Level.ESCALATED, 12 * HOUR)]


def test_it_is_escalated_when_a_quarter_of_the_window_is_left_where_that_is_shorter() -> None:
    mailgun = replace(POLICY, retry_window=8 * HOUR * SECOND)

    assert at(raised(), 6 * HOUR - 1, mailgun)[1] == []
    assert at(raised(), 6 * HOUR, mailgun)[1] == [(Level.ESCALATED, 6 * HOUR)]


def test_the_policy_may_say_when_it_is_escalated() -> None:
    policy = replace(POLICY, escalate_after=2 * HOUR * SECOND)

    assert at(raised(), 2 * HOUR, policy)[1] == [(Level.ESCALATED, 2 * HOUR)]


def test_it_is_overdue_when_the_window_and_the_slack_are_over_and_no_word_came() -> None:
    episode, _ = at(raised(), 12 * HOUR)

    assert at(episode, 73 * HOUR - 1)[1] == []
    episode, told = at(episode, 73 * HOUR)
    assert told == [(Level.OVERDUE, 73 * HOUR)]
    assert level_of(episode.told) is Level.OVERDUE
    assert next_due(episode, POLICY) is None, "nothing more falls due"


def test_the_providers_own_deadline_wins_over_the_policys_window() -> None:
    episode = opened(deferred(retry_until=4 * HOUR))

    assert ends_at(episode, POLICY) == us(4 * HOUR)
    _, told = at(episode, 100 * HOUR)
    assert told == [(Level.RAISED, HOUR), (Level.ESCALATED, 3 * HOUR), (Level.OVERDUE, 5 * HOUR)]


def test_a_provider_that_gives_up_within_the_warn_age_is_escalated_as_soon_as_it_is_raised() -> None:
    episode = opened(deferred(retry_until=10 * MINUTE))

    assert at(episode, HOUR)[1] == [(Level.RAISED, HOUR), (Level.ESCALATED, HOUR)]
    assert at(episode, 2 * HOUR)[1][-1] == (Level.OVERDUE, 2 * HOUR)


def test_it_is_never_escalated_after_the_end_of_the_window() -> None:
    """What is over is told by another level."""
    policy = replace(POLICY, escalate_after=30 * HOUR * SECOND)

    _, told = at(opened(deferred(retry_until=4 * HOUR)), 100 * HOUR, policy)
    assert told == [(Level.RAISED, HOUR), (Level.ESCALATED, 4 * HOUR), (Level.OVERDUE, 5 * HOUR)]


def test_the_providers_own_throttling_is_raised_and_overdue_and_never_escalated() -> None:
    episode = opened(deferred(**THROTTLED))

    assert episode.reason_class is ReasonClass.PREEMPTIVE
    _, told = at(episode, 1_000 * HOUR)
    assert told == [(Level.RAISED, HOUR), (Level.OVERDUE, 73 * HOUR)]


def test_throttling_that_turns_into_an_answer_of_the_receiving_server_is_escalated() -> None:
    episode, _ = at(opened(deferred(**THROTTLED)), 20 * HOUR)

    _, told = at(after(episode, deferred(0, 20 * HOUR, **GREYLISTED)), 20 * HOUR)
    assert told == [(Level.ESCALATED, 12 * HOUR)]


def test_nothing_is_escalated_once_the_provider_should_have_given_up() -> None:
    """An answer of the receiving server that comes late would else say that the provider still tries."""
    episode, _ = at(opened(deferred(**THROTTLED)), 80 * HOUR)

    late = after(episode, deferred(0, 40 * HOUR, attempts=2, **GREYLISTED))

    assert at(late, 80 * HOUR) == (late, [])
    assert next_due(late, POLICY) is None


def test_an_alert_bears_its_deadline_and_not_the_time_at_which_that_was_noticed() -> None:
    _, told = at(opened(), 500 * HOUR)
    assert told == [(Level.RAISED, HOUR), (Level.ESCALATED, 12 * HOUR), (Level.OVERDUE, 73 * HOUR)]


def test_what_the_alert_says_of_the_end_of_the_window_is_what_the_policy_says() -> None:
    [alert] = elapse(opened(), us(HOUR), POLICY).alerts
    assert alert.retry_until == us(72 * HOUR)
    assert alert.duration is None


# -- late facts -----------------------------------------------------------------------------------------------------------------


def test_an_earlier_deferral_learned_late_moves_the_deadlines_forward() -> None:
    episode = after(opened(deferred(1_800)), deferred(600, 1_800, attempts=2))

    assert episode.since == us(600)
    assert at(episode, HOUR + 600)[1] == [(Level.RAISED, HOUR + 600)]


def test_an_earlier_deferral_learned_after_the_alert_raises_no_second_one() -> None:
    episode = after(raised(), deferred(-7_200, 0, attempts=2))

    assert at(episode, 2 * HOUR)[1] == []


def test_a_late_delivery_annuls_the_alert() -> None:
    alert = resolved(raised(), said(Status.DELIVERED, 10 * MINUTE))

    assert (alert.annulled, alert.ending, alert.due_at) == (True, Ending.DELIVERED, us(10 * MINUTE))
    assert alert.duration == 10 * MINUTE * SECOND


def test_one_that_ended_at_its_deadline_was_rightly_raised() -> None:
    assert not resolved(raised(), said(Status.DELIVERED, HOUR)).annulled
    assert resolved(raised(), said(Status.DELIVERED, HOUR - 0.000_001)).annulled


def test_annulled_is_measured_by_the_first_deadline_of_which_was_told() -> None:
    """Not by today's: that an earlier deferral became known later makes a right alert no wrong one."""
    episode = after(raised(), deferred(-1_800, 0, attempts=2))

    assert resolved(episode, said(Status.DELIVERED, 45 * MINUTE, attempts=2)).annulled
    assert not resolved(episode, said(Status.DELIVERED, HOUR, attempts=2)).annulled


def test_an_earlier_deadline_that_is_told_later_counts_for_annulled() -> None:
    """Deferred for thirteen and a half hours: `escalated` was right, whatever was known when `raised` was told."""
    episode, told = at(opened(deferred(13 * HOUR)), 14 * HOUR)
    assert told == [(Level.RAISED, 14 * HOUR)]
    episode, told = at(after(episode, deferred(0, 13 * HOUR, attempts=2)), 14 * HOUR)
    assert told == [(Level.ESCALATED, 12 * HOUR)]

    assert not resolved(episode, said(Status.DELIVERED, 13.5 * HOUR, attempts=2)).annulled
    assert resolved(episode, said(Status.DELIVERED, 11.5 * HOUR, attempts=2)).annulled


def test_an_end_that_was_before_the_beginning_has_no_negative_duration() -> None:
    assert resolved(raised(), said(Status.BOUNCED, -300)).duration == 0


# -- one episode after another ---------------------------------------------------------------------------------------------------


def test_a_deferral_after_a_drop_is_another_episode_with_its_own_age_number_and_alerts() -> None:
    first, _ = at(opened(deferred(0, revision=2)), 2 * HOUR)
    assert resolved(first, said(Status.DROPPED, 3 * HOUR, revision=3)).ending is Ending.DROPPED

    second = opened(deferred(0, 30 * HOUR, dropped_at=3 * HOUR, revision=4))

    assert (second.number, second.since, second.told) == (4, us(30 * HOUR), Told.NOTHING)
    assert at(second, 31 * HOUR)[1] == [(Level.RAISED, 31 * HOUR)]


def test_an_attempt_in_the_second_episode_does_not_give_it_the_age_of_the_first() -> None:
    second = opened(deferred(0, 30 * HOUR, dropped_at=3 * HOUR, revision=4))
    again = after(second, deferred(0, 30.5 * HOUR, dropped_at=3 * HOUR, revision=4))

    assert again.since == us(30 * HOUR)


def test_a_drop_between_the_deferrals_that_comes_late_takes_its_first_age_from_the_episode() -> None:
    episode = after(opened(deferred(0)), deferred(0, 10 * HOUR, attempts=2))

    later = after(episode, deferred(0, 10 * HOUR, dropped_at=HOUR / 2, attempts=2))

    assert (later.since, later.number) == (us(10 * HOUR), episode.number)
    assert at(later, 12 * HOUR)[1] == [(Level.RAISED, 11 * HOUR)]


def test_a_drop_before_all_deferrals_leaves_the_age_alone() -> None:
    assert opened(deferred(0, HOUR, dropped_at=-HOUR)).since == us(0)


# -- what was said earlier and comes once more -------------------------------------------------------------------------------------


def test_what_was_said_before_the_episode_opened_does_not_end_it() -> None:
    """A dead letter replayed after the delivery went on: the drop of revision 3, while that of 4 is deferred again."""
    second, _ = at(opened(deferred(0, 30 * HOUR, dropped_at=3 * HOUR, revision=4)), 31 * HOUR)

    assert observe(second, said(Status.DROPPED, 3 * HOUR, revision=3), POLICY) == (second, ())
    assert observe(second, deferred(0, revision=2, **THROTTLED), POLICY) == (second, ())


def test_what_was_said_in_an_earlier_life_of_the_delivery_does_not_end_its_episode() -> None:
    episode = raised(deferred(revision=1, first_received_at=us(-5)))

    assert observe(episode, said(None, HOUR, revision=7, first_received_at=us(-500)), POLICY) == (episode, ())
    assert resolved(episode, said(None, 2 * HOUR, revision=1, first_received_at=us(-5))).ending is Ending.EXPIRED


def test_an_attempt_that_was_said_already_does_not_lower_their_number_or_bring_an_older_answer_back() -> None:
    episode = after(opened(deferred(0, **THROTTLED)), deferred(0, 1_200, attempts=2, **GREYLISTED))

    assert observe(episode, deferred(0, **THROTTLED), POLICY) == (episode, ())


def test_an_end_that_more_attempts_followed_does_not_end_it() -> None:
    """The end was not understood, so the episode is one with the next; its replay says nothing of what came after it."""
    episode = after(opened(deferred(0, revision=2)), deferred(0, 9_000, dropped_at=60, attempts=2, revision=4))

    assert observe(episode, said(Status.DROPPED, 60, revision=3), POLICY) == (episode, ())


def test_what_is_said_again_without_what_is_known_since_leaves_the_deadline_and_the_reference() -> None:
    known = opened(deferred(attempts=64, retry_until=4 * HOUR, reference="4711"))

    again = after(known, deferred(attempts=64, retry_until=2 * HOUR, reference=None))
    assert (again.retry_until, again.reference) == (us(4 * HOUR), "4711")
    assert after(known, deferred(attempts=64)).retry_until == us(4 * HOUR)


# -- properties -------------------------------------------------------------------------------------------------------------------


@given(STEPS, POLICIES)
def test_each_level_is_told_at_most_once_an_episode(steps: list[Deferral | int], policy: Policy) -> None:
    levels = [(alert.episode.number, alert.level) for _, alert in play(steps, policy)]
    assert len(levels) == len(set(levels))


@given(STEPS, POLICIES)
def test_only_time_raises_and_only_facts_resolve(steps: list[Deferral | int], policy: Policy) -> None:
    for index, alert in play(steps, policy):
        assert isinstance(steps[index], Deferral) == (alert.level is Level.RESOLVED)


@given(STEPS, POLICIES)
def test_resolved_is_the_last_word_and_never_the_first(steps: list[Deferral | int], policy: Policy) -> None:
    by_episode: dict[int, list[Level]] = {}
    for _, alert in play(steps, policy):
        by_episode.setdefault(alert.episode.number, []).append(alert.level)
    for levels in by_episode.values():
        assert levels[0] is not Level.RESOLVED
        assert Level.RESOLVED not in levels[:-1]


@given(DEFERRALS, POLICIES)
def test_levels_fall_due_in_the_order_of_their_age(deferral: Deferral, policy: Policy) -> None:
    alerts = elapse(opened(deferral, policy), us(1_000_000_000), policy).alerts
    assert [alert.due_at for alert in alerts] == sorted(alert.due_at for alert in alerts)
    assert [alert.level for alert in alerts] == [
        level
        for level in (Level.RAISED, Level.ESCALATED, Level.OVERDUE)
        if level is not Level.ESCALATED or alerts[0].episode.reason_class is not ReasonClass.PREEMPTIVE
    ]


@given(DEFERRALS, POLICIES, st.lists(SECONDS.map(lambda s: s * 3), max_size=8), SECONDS.map(lambda s: s * 3))
def test_when_the_clock_was_looked_at_makes_no_difference(
    deferral: Deferral, policy: Policy, looks: list[int], last: int
) -> None:
    episode = opened(deferral, policy)
    told = []
    for seconds in sorted([*(s for s in looks if s < last), last]):
        step = elapse(episode, us(seconds), policy)
        assert step.episode is not None
        episode = step.episode
        told += [(alert.level, alert.due_at) for alert in step.alerts]
    at_once = elapse(opened(deferral, policy), us(last), policy)
    assert sorted(told) == sorted((alert.level, alert.due_at) for alert in at_once.alerts)
    assert at_once.episode is not None
    assert episode.told == at_once.episode.told


@given(DEFERRALS, POLICIES, st.sampled_from([Told(n) for n in range(8)]))
def test_the_next_deadline_is_the_first_moment_at_which_something_is_told(
    deferral: Deferral, policy: Policy, told: Told
) -> None:
    episode = replace(opened(deferral, policy), told=told)
    due = next_due(episode, policy)
    if due is None:
        assert elapse(episode, us(1_000_000_000), policy).alerts == ()
    else:
        assert elapse(episode, due - 1, policy).alerts == ()
        assert due in [alert.due_at for alert in elapse(episode, due, policy).alerts]


@given(st.lists(SECONDS, min_size=1, max_size=6), st.data())
def test_the_age_is_that_of_the_earliest_deferral_in_whatever_order_they_come(
    times: list[int], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(times))
    episode: Episode | None = None
    known: list[int] = []
    for seconds in order:
        known.append(seconds)
        episode = observe(episode, deferred(min(known), max(known)), POLICY).episode
    assert episode is not None
    assert episode.since == us(min(times))


@given(STEPS, POLICIES, st.data())
def test_saying_something_twice_makes_no_difference(
    steps: list[Deferral | int], policy: Policy, data: st.DataObject
) -> None:
    """What was said is said again before anything else is."""
    assume(steps)
    twice = set(data.draw(st.lists(st.integers(0, len(steps) - 1))))
    repeated = [step for index, step in enumerate(steps) for _ in range(1 + (index in twice))]

    def levels(alerts: list[tuple[int, Alert]]) -> list[tuple[Level, int]]:
        return [(alert.level, alert.due_at) for _, alert in alerts]

    assert levels(play(repeated, policy)) == levels(play(steps, policy))


@given(STEPS, POLICIES)
def test_annulled_is_told_only_of_what_ended_before_the_earliest_deadline_told(
    steps: list[Deferral | int], policy: Policy
) -> None:
    earliest: dict[int, int] = {}
    for _, alert in play(steps, policy):
        number = alert.episode.number
        if alert.level is Level.RESOLVED:
            assert alert.annulled == (alert.due_at < earliest[number])
        else:
            earliest[number] = min(alert.due_at, earliest.get(number, alert.due_at))


@given(STEPS, POLICIES)
def test_the_levels_of_an_episode_only_rise(steps: list[Deferral | int], policy: Policy) -> None:
    told: dict[int, list[Level]] = {}
    for _, alert in play(steps, policy):
        told.setdefault(alert.episode.number, []).append(alert.level)
    for levels in told.values():
        assert levels == sorted(levels, key=list(Level).index)


UNENDED = st.lists(
    st.builds(
        event,
        st.sampled_from([EventType.SENT, EventType.DEFERRED, EventType.DEFERRED, EventType.DROPPED]),
        st.integers(0, 20).map(lambda n: n * 50),
        attempt=st.none() | st.integers(1, 5),
    ),
    max_size=10,
)


@given(UNENDED)
def test_whatever_was_said_before_makes_no_difference_to_an_open_episode(history: list[DeliveryEvent]) -> None:
    """``dead-letters replay`` may say any of it once more; what is alike in revision and attempts is the same episode.

    But for a drop that came late: it moves the beginning, and neither of the two counts it.
    """
    delivery: Delivery | None = None
    episode: Episode | None = None
    words: list[Deferral] = []
    for each in history:
        delivery = fold(delivery, each).delivery
        if delivery is None or Kind.DEFERRED not in delivery.facts:
            continue
        words.append(decode_deferral(encode_deferral(delivery, attempt=each.type is EventType.DEFERRED)))
        episode = observe(episode, words[-1], POLICY).episode
        if episode is not None:
            now = (words[-1].revision, words[-1].attempts)
            for old in words:
                again = observe(episode, old, POLICY)
                assert again.episode is not None
                assert again == (episode, ()) or (old.revision, old.attempts) == now
                if old.dropped_at == words[-1].dropped_at:
                    assert next_due(again.episode, POLICY) == next_due(episode, POLICY)


def test_an_end_that_the_provider_names_or_puts_off_later_holds_for_the_open_episode() -> None:
    named = after(opened(deferred()), deferred(0, MINUTE, attempts=2, retry_until=4 * HOUR))
    assert ends_at(named, POLICY) == us(4 * HOUR)
    assert at(named, 3 * HOUR)[1] == [(Level.RAISED, HOUR), (Level.ESCALATED, 3 * HOUR)]

    put_off = after(named, deferred(0, 2 * MINUTE, attempts=3, retry_until=8 * HOUR))
    assert ends_at(put_off, POLICY) == us(8 * HOUR)
    assert at(put_off, 5 * HOUR)[1] == [(Level.RAISED, HOUR)]


def test_the_answer_that_counts_now_is_told_with_both_of_its_codes() -> None:
    full = after(
        opened(deferred(0, reason="421 4.7.0 Try again later", smtp_code=421, enhanced_code="4.7.0")),
        deferred(0, MINUTE, attempts=2, reason="452 4.2.2 Mailbox full", smtp_code=452, enhanced_code="4.2.2"),
    )
    assert (full.reason, full.smtp_code, full.enhanced_code) == ("452 4.2.2 Mailbox full", 452, "4.2.2")


def test_levels_that_are_told_together_count_for_annulled_by_the_first_of_their_deadlines() -> None:
    episode, told = at(opened(), 12 * HOUR)
    assert told == [(Level.RAISED, HOUR), (Level.ESCALATED, 12 * HOUR)]

    assert not resolved(episode, said(Status.DELIVERED, 2 * HOUR)).annulled
    assert resolved(episode, said(Status.DELIVERED, HOUR - 1)).annulled
