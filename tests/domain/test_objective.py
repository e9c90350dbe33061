"""Each message is judged once, at its delivery or at its deadline; and silence after the acceptance is counted."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.events import BounceKind, DeliveryEvent, EventType
from streams.domain.objective import WORD_WITHIN, Judged, Judgement, Watched, judge, watch
from streams.domain.status import SECOND, Delivery, Status, fold, to_micros
from tests.domain.deliveries import at, event, histories

OBJECTIVE = 900 * SECOND
DAY = 86_400
SENT, DEFERRED, DELIVERED = EventType.SENT, EventType.DEFERRED, EventType.DELIVERED


def us(seconds: float) -> int:
    return to_micros(at(seconds))


def judged(history: Sequence[DeliveryEvent]) -> tuple[Delivery, list[Judged]]:
    """Fold a history as ``track`` does; return the delivery and every judgement."""
    delivery: Delivery | None = None
    found = []
    for each in history:
        folded = fold(delivery, each)
        if folded.delivery is not None and folded.delivery is not delivery:
            judgement = judge(delivery, folded.delivery, OBJECTIVE)
            if judgement is not None:
                found.append(judgement)
        delivery = folded.delivery
    assert delivery is not None
    return delivery, found


def test_a_message_delivered_within_the_objective_met_it() -> None:
    delivery, found = judged([event(SENT, 0), event(DELIVERED, 900)])
    assert found == [Judged(Judgement.MET, OBJECTIVE)]
    assert (delivery.judged, delivery.watch_at) == (True, None)


def test_a_message_delivered_later_missed_it() -> None:
    _, found = judged([event(SENT, 0), event(DELIVERED, 901)])
    assert found == [Judged(Judgement.MISSED, 901 * SECOND)]


def test_a_message_that_was_only_taken_is_looked_at_at_its_deadline() -> None:
    delivery, found = judged([event(SENT, 0)])
    assert (found, delivery.watch_at) == ([], us(900))


def test_one_that_is_not_delivered_at_its_deadline_missed_it() -> None:
    delivery, _ = judged([event(SENT, 0), event(DEFERRED, 60)])
    assert watch(delivery, OBJECTIVE) == Watched(Judgement.MISSED, without_word=False)
    assert (delivery.judged, delivery.watch_at) == (True, None)


def test_a_delivery_after_the_deadline_is_not_counted_again_but_tells_once_how_long_it_took() -> None:
    delivery, _ = judged([event(SENT, 0)])
    watch(delivery, OBJECTIVE)
    late = fold(delivery, event(DELIVERED, 1_000)).delivery
    assert late is not None
    assert judge(delivery, late, OBJECTIVE) == Judged(None, 1_000 * SECOND)
    opened = fold(late, event(EventType.OPEN, 2_000)).delivery
    assert opened is not None
    assert judge(late, opened, OBJECTIVE) is None


def test_the_order_in_which_the_two_become_known_does_not_matter() -> None:
    taken, arrived = event(SENT, 0), event(DELIVERED, 30)
    assert judged([taken, arrived])[1] == judged([arrived, taken])[1] == [Judged(Judgement.MET, 30 * SECOND)]


def test_a_message_of_which_nobody_knows_when_it_was_taken_is_not_counted() -> None:
    delivery, found = judged([event(DEFERRED, 0), event(DELIVERED, 5)])
    assert (found, delivery.judged, delivery.watch_at) == ([], False, None)


def test_one_that_was_refused_is_no_matter_of_lateness() -> None:
    delivery, found = judged([event(SENT, 0), event(EventType.BOUNCE, 5, kind=BounceKind.HARD)])
    assert (found, watch(delivery, OBJECTIVE)) == ([], Watched(None, without_word=False))
    assert (delivery.judged, delivery.watch_at) == (False, None)


@pytest.mark.parametrize("end", [EventType.DELIVERED, None])
def test_one_that_was_dropped_at_its_deadline_and_is_released_is_counted_after_all(end: EventType | None) -> None:
    dropped, _ = judged([event(SENT, 0), event(EventType.DROPPED, 60)])
    watch(dropped, OBJECTIVE)
    released = fold(dropped, event(end or DEFERRED, 3_600)).delivery
    assert released is not None
    counted = judge(dropped, released, OBJECTIVE)
    if end is not None:
        assert counted == Judged(Judgement.MISSED, 3_600 * SECOND)
    else:
        assert (counted, released.watch_at) == (None, us(900)), "it is over, so the next tick counts it"
        assert watch(released, OBJECTIVE) == Watched(Judgement.MISSED, without_word=False)


def test_an_objective_that_was_raised_holds_for_what_is_under_way() -> None:
    """The index has the deadline of before: the restart does not make it anew."""
    delivery, _ = judged([event(SENT, 0)])
    assert watch(delivery, 4 * OBJECTIVE) == Watched(None, without_word=False)
    assert (delivery.judged, delivery.watch_at) == (False, us(3_600))

    arrived = fold(delivery, event(DELIVERED, 1_200)).delivery
    assert arrived is not None
    assert judge(delivery, arrived, 4 * OBJECTIVE) == Judged(Judgement.MET, 1_200 * SECOND)
    assert watch(delivery, 4 * OBJECTIVE) == Watched(Judgement.MISSED, without_word=False)


def test_an_objective_that_was_lowered_counts_what_is_under_way_at_the_deadline_of_before() -> None:
    delivery, _ = judged([event(SENT, 0)])
    assert watch(delivery, OBJECTIVE // 3) == Watched(Judgement.MISSED, without_word=False)


def test_a_provider_that_names_no_time_is_measured_by_when_we_heard_of_it() -> None:
    _, found = judged([event(SENT, None, received=0), event(DELIVERED, None, received=40)])
    assert found == [Judged(Judgement.MET, 40 * SECOND)]


def test_a_clock_that_ran_ahead_makes_no_negative_time() -> None:
    _, found = judged([event(SENT, 5), event(DELIVERED, 0)])
    assert found == [Judged(Judgement.MET, 0)]


def test_a_message_that_is_still_sent_after_a_day_is_without_word() -> None:
    delivery, _ = judged([event(SENT, 0)])
    watch(delivery, OBJECTIVE)
    assert delivery.watch_at == us(0) + WORD_WITHIN == us(DAY)
    assert watch(delivery, OBJECTIVE) == Watched(None, without_word=True)
    assert delivery.watch_at is None, "counted once"


def test_a_message_that_had_any_word_in_that_day_is_not() -> None:
    delivery, _ = judged([event(SENT, 0)])
    watch(delivery, OBJECTIVE)
    folded = fold(delivery, event(DEFERRED, 7_200))
    assert folded.delivery is not None
    assert folded.delivery.watch_at == us(DAY)
    assert watch(folded.delivery, OBJECTIVE) == Watched(None, without_word=False)


@given(histories)
def test_no_history_is_judged_twice(history: list[DeliveryEvent]) -> None:
    delivery, found = judged(history)
    assert len(found) <= 1
    assert delivery.judged == bool(found)
    assert delivery.watch_at is None or not found


@given(histories)
def test_exactly_that_is_judged_of_which_is_known_when_it_was_taken_and_when_delivered(
    history: list[DeliveryEvent],
) -> None:
    delivery, found = judged(history)
    assert bool(found) == {SENT, DELIVERED}.issubset({each.type for each in history})
    if not found and any(each.type is SENT for each in history):
        assert delivery.watch_at is not None


@given(histories, st.integers(0, 12))
def test_a_look_at_the_deadline_counts_what_is_still_on_its_way_and_only_once(
    history: list[DeliveryEvent], cut: int
) -> None:
    """The clock comes after ``cut`` events; whatever follows, the message is counted once at most."""
    delivery: Delivery | None = None
    counted = 0
    for number, each in enumerate(history):
        if number == cut and delivery is not None and delivery.watch_at is not None:
            on_its_way = delivery.status in {Status.SENT, Status.DEFERRED, Status.OPENED, Status.DELIVERED}
            watched = watch(delivery, OBJECTIVE)
            assert (watched.judgement is not None) == on_its_way == delivery.judged
            counted += watched.judgement is not None
        folded = fold(delivery, each)
        if folded.delivery is not None and folded.delivery is not delivery:
            judgement = judge(delivery, folded.delivery, OBJECTIVE)
            counted += judgement is not None and judgement.judgement is not None
        delivery = folded.delivery
    assert counted <= 1


@pytest.mark.parametrize("proof", [EventType.OPEN, EventType.CLICK, EventType.COMPLAINT])
def test_a_message_that_was_opened_in_time_met_it_though_nobody_said_that_it_was_delivered(proof: EventType) -> None:
    delivery, found = judged([event(SENT, 0), event(proof, 600), event(proof, 9_000)])
    assert found == []
    assert watch(delivery, OBJECTIVE) == Watched(Judgement.MET, without_word=False)
    assert (delivery.judged, delivery.watch_at) == (True, None)


def test_one_that_was_opened_only_after_its_deadline_missed_it() -> None:
    delivery, _ = judged([event(SENT, 0), event(EventType.OPEN, 901)])
    assert watch(delivery, OBJECTIVE) == Watched(Judgement.MISSED, without_word=False)


@pytest.mark.parametrize("proof", [EventType.MACHINE_OPEN, EventType.UNSUBSCRIBE])
def test_any_proof_at_the_deadline_itself_met_it_whatever_came_later(proof: EventType) -> None:
    delivery, _ = judged([event(SENT, 0, received=0), event(proof, 900), event(EventType.CLICK, 9_000)])
    assert watch(delivery, OBJECTIVE) == Watched(Judgement.MET, without_word=False)
