"""Folding and deriving: what holds for every set of events, every order and every repetition."""

from copy import deepcopy
from dataclasses import replace
from itertools import combinations, pairwise, permutations
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.domain.status import (
    FUTURE,
    IDS_KEPT,
    PAST,
    SKEW,
    Delivery,
    Fact,
    Folded,
    Kind,
    Outcome,
    Status,
    derive,
    fold,
    from_micros,
    shows_otherwise,
    to_micros,
)
from streams.records import decode_row, encode_row
from tests.domain.deliveries import NOON, at, event, events, fold_all, histories

SECOND = 1_000_000


def depends_on_the_set_only(delivery: Delivery) -> tuple[object, ...]:
    """Return all of a delivery that no order and no repetition may change."""
    return (
        delivery.delivery_id,
        delivery.facts,
        delivery.recipient,
        delivery.reference,
        delivery.tags,
        delivery.metadata,
        delivery.suppression_list,
        delivery.attempt,
        delivery.retry_until,
        delivery.last_received_at,
        delivery.because,
        delivery.status,
        delivery.change.bounce_kind,
        delivery.change.complained,
        delivery.change.unsubscribed,
        shown(delivery),
    )


def shown(delivery: Delivery) -> tuple[object, ...]:
    """Return what ``mail.status`` shows of a delivery, its advice included, beside the last change."""
    answer = delivery.answer
    return (
        delivery.recipient[2],
        None if delivery.reference is None else delivery.reference[2],
        (None, None, None) if answer is None else (answer.reason, answer.smtp_code, answer.enhanced_code),
        delivery.attempts,
        delivery.machine_opened,
        delivery.because if delivery.status in {Status.SENT, Status.BOUNCED} else None,
        delivery.accepted_after_refusal,
        delivery.given_up_at,
        delivery.deferred_since,
        delivery.dropped_since,
        delivery.suppressed_by,
    )


def folds(history: list[DeliveryEvent]) -> list[Folded]:
    delivery, results = None, []
    for each in history:
        results.append(fold(delivery, each))
        delivery = results[-1].delivery
    return results


def emission(delivery: Delivery | None) -> tuple[object, ...] | None:
    if delivery is None:
        return None
    return delivery.status, delivery.change.bounce_kind, delivery.change.complained, delivery.change.unsubscribed


# --- properties ---


@given(histories, st.randoms(use_true_random=False))
def test_every_order_and_repetition_gives_the_same_facts_and_status(history: list[DeliveryEvent], dice: Random) -> None:
    shuffled = history + dice.choices(history, k=dice.randrange(len(history) + 1))
    dice.shuffle(shuffled)
    assert depends_on_the_set_only(fold_all(shuffled)) == depends_on_the_set_only(fold_all(history))


@given(histories)
def test_folding_an_event_twice_is_folding_it_once(history: list[DeliveryEvent]) -> None:
    once = fold_all(history)
    for each in history:
        again = fold(once, each)
        assert again.delivery is once
        assert (again.outcome, again.changed, again.refreshed) == (Outcome.DUPLICATE, False, False)


@given(histories)
def test_folding_changes_nothing_that_was_passed_in(history: list[DeliveryEvent]) -> None:
    delivery = None
    for each in history:
        before = deepcopy(delivery)
        after = fold(delivery, each).delivery
        assert delivery == before
        delivery = after


@given(histories)
def test_a_change_is_told_exactly_when_status_kind_complaint_or_unsubscribe_change(
    history: list[DeliveryEvent],
) -> None:
    before: Delivery | None = None
    for folded in folds(history):
        assert folded.changed == (emission(folded.delivery) != emission(before))
        before = folded.delivery


@given(histories)
def test_what_is_shown_differs_exactly_when_it_is_said_to(history: list[DeliveryEvent]) -> None:
    states = [folded.delivery for folded in folds(history) if folded.delivery is not None]
    for one, other in combinations(states, 2):
        if one.status is other.status:
            differs = shown(one) != shown(other)
            assert (shows_otherwise(one, other), shows_otherwise(other, one)) == (differs, differs)


def of_one_type(type_: EventType) -> st.SearchStrategy[tuple[list[DeliveryEvent], list[DeliveryEvent]]]:
    some = st.lists(events([type_]), min_size=1, max_size=3)
    return st.tuples(some, some)


def began_as(other: Fact, fact: Fact) -> Fact:
    return replace(fact, first_at=other.first_at, first_received_at=other.first_received_at)


@given(
    st.sampled_from([EventType.DEFERRED, EventType.DROPPED, EventType.BOUNCE, EventType.DELIVERED]).flatmap(of_one_type)
)
def test_what_is_shown_differs_exactly_when_it_is_said_to_whatever_single_value_differs(
    histories: tuple[list[DeliveryEvent], list[DeliveryEvent]],
) -> None:
    one, another = map(fold_all, histories)
    facts = {kind: another.facts.get(kind, fact) for kind, fact in one.facts.items()}
    for other in (
        replace(one, facts=facts),
        replace(one, facts={kind: began_as(facts[kind], fact) for kind, fact in one.facts.items()}),
        replace(one, recipient=another.recipient),
        replace(one, reference=another.reference),
        replace(one, suppression_list=another.suppression_list),
        replace(one, attempt=another.attempt),
        replace(one, retry_until=another.retry_until),
        replace(one, tags=another.tags),
    ):
        assert shows_otherwise(one, other) == (shown(one) != shown(other))


@given(histories)
def test_a_status_is_refreshed_exactly_when_no_change_is_told_and_it_shows_something_else(
    history: list[DeliveryEvent],
) -> None:
    for before, after in pairwise(folds(history)):
        assert before.delivery is not None
        assert after.delivery is not None
        assert after.refreshed == (not after.changed and shown(after.delivery) != shown(before.delivery))


@given(histories)
def test_revisions_count_the_changes_without_a_gap(history: list[DeliveryEvent]) -> None:
    results = folds(history)
    told = [folded.delivery for folded in results if folded.changed and folded.delivery]
    assert [one.change.revision for one in told] == list(range(1, len(told) + 1))
    assert [one.change.previous for one in told] == [None, *(one.status for one in told[:-1])]
    kept = [folded.delivery.change.revision for folded in results if folded.delivery]
    assert kept == sorted(kept)


@given(histories)
def test_the_cause_of_a_change_is_the_event_that_made_it(history: list[DeliveryEvent]) -> None:
    for each, folded in zip(history, folds(history), strict=True):
        assert folded.delivery is not None
        if folded.changed:
            assert folded.delivery.change.cause_event_id == each.event_id
            assert folded.delivery.change.received_at == to_micros(each.received_at)
            assert folded.delivery.change.occurred_at == (each.occurred_at and to_micros(each.occurred_at))


@given(histories)
def test_the_last_change_stays_as_it_was_until_the_next_one(history: list[DeliveryEvent]) -> None:
    for before, after in pairwise(folds(history)):
        assert before.delivery is not None
        assert after.delivery is not None
        if not after.changed:
            assert after.delivery.change == before.delivery.change


@given(histories)
def test_the_first_receipt_never_changes_because_it_orders_the_revisions(history: list[DeliveryEvent]) -> None:
    first = to_micros(history[0].received_at)
    assert all(folded.delivery and folded.delivery.first_received_at == first for folded in folds(history))


@given(histories, events())
def test_a_row_read_back_folds_the_same(history: list[DeliveryEvent], one_more: DeliveryEvent) -> None:
    delivery = fold_all(history)
    assert fold(decode_row(encode_row(delivery)), one_more) == fold(delivery, one_more)


def test_a_delivery_id_that_the_caller_knows_is_not_computed_again() -> None:
    known = fold(None, event(EventType.SENT), delivery_id="known").delivery
    computed = event(EventType.SENT)
    assert known is not None
    assert known.delivery_id == "known"
    assert fold_all([computed]).delivery_id == computed.delivery_id


# --- the rule against its own words ---


def as_the_design_says(  # noqa: C901 (the rule in one piece, to be read beside the design)
    history: list[DeliveryEvent],
) -> tuple[Status, BounceKind | None]:
    """Derive from the bare events, slowly and in the words of the design, to check the incremental way against."""

    def believed(one: DeliveryEvent) -> int | None:
        if one.occurred_at is None:
            return None
        age = to_micros(one.received_at) - to_micros(one.occurred_at)
        return to_micros(one.occurred_at) if -FUTURE <= age <= PAST else None

    def last(*of: object) -> int | None:
        times = [believed(one) for one in history if sort(one) in of]
        return max((time for time in times if time is not None), default=None)

    def sort(one: DeliveryEvent) -> object:
        if one.type is EventType.BOUNCE:
            return one.bounce_kind
        if one.machine and one.type in {EventType.OPEN, EventType.CLICK}:
            return EventType.MACHINE_OPEN
        return one.type

    def later(one: int | None, other: int | None) -> bool:
        return one is not None and other is not None and one - other > SKEW

    there = {sort(one) for one in history}
    delivered = last(EventType.DELIVERED)
    if BounceKind.HARD in there and not later(delivered, last(BounceKind.HARD)):
        return Status.BOUNCED, BounceKind.HARD
    softer = [kind for kind in (BounceKind.BLOCK, BounceKind.SOFT, BounceKind.UNDETERMINED) if kind in there]
    softer = [kind for kind in softer if EventType.DELIVERED not in there or later(last(kind), delivered)]
    if softer:
        return Status.BOUNCED, max(softer, key=lambda kind: -1 if (time := last(kind)) is None else time)
    seen = there & {EventType.OPEN, EventType.CLICK}
    arrived = there & {EventType.DELIVERED, EventType.MACHINE_OPEN, EventType.COMPLAINT, EventType.UNSUBSCRIBE}
    if EventType.BOUNCE_OR_AUTO_REPLY in there and not seen and not arrived:
        return Status.BOUNCED, BounceKind.SOFT
    if seen or arrived:
        return (Status.OPENED if seen else Status.DELIVERED), None
    if EventType.DROPPED in there and not later(last(EventType.DEFERRED), last(EventType.DROPPED)):
        return Status.DROPPED, None
    return (Status.DEFERRED if EventType.DEFERRED in there else Status.SENT), None


@given(histories)
def test_the_status_is_what_the_design_says(history: list[DeliveryEvent]) -> None:
    delivery = fold_all(history)
    assert (delivery.status, delivery.change.bounce_kind) == as_the_design_says(history)


@given(histories)
def test_the_status_follows_from_the_facts_alone(history: list[DeliveryEvent]) -> None:
    delivery = fold_all(history)
    assert derive(delivery.facts) == (delivery.status, delivery.change.bounce_kind, delivery.because)
    assert derive(dict(sorted(delivery.facts.items()))) == derive(delivery.facts)
    assert delivery.because in delivery.facts


def test_every_kind_of_fact_alone_has_a_status() -> None:
    def fact() -> Fact:
        return Fact(None, None, 0, (1,), "id", None, None, None)

    statuses = {kind: derive({kind: fact()}).status for kind in Kind}
    assert set(statuses.values()) == set(Status)


def what_the_design_lets_be_said(history: list[DeliveryEvent], kind: Kind) -> tuple[object, ...]:
    """Find the answer among the bare events of a kind, in the words of the design."""

    def rank(one: DeliveryEvent) -> tuple[int, int, str, str, int, str]:
        words, reply, code = one.reason or "", one.smtp_code or 0, one.enhanced_code or ""
        weight = 2 if words or (code and not code.endswith(".0.0")) else 1 if code or reply else 0
        first_at = fold_all([one]).facts[kind].first_at
        return weight, -1 if first_at is None else first_at, one.event_id, words, reply, code

    last = max((one for one in history if kind in fold_all([one]).facts), key=rank)
    return last.event_id, last.reason, last.smtp_code, last.enhanced_code


@given(histories)
def test_the_answer_is_the_one_that_the_design_says(history: list[DeliveryEvent]) -> None:
    for kind, fact in fold_all(history).facts.items():
        said = fact.event_id, fact.reason, fact.smtp_code, fact.enhanced_code
        assert said == what_the_design_lets_be_said(history, kind)


# --- facts ---


def test_a_fact_keeps_the_first_and_last_time_and_the_first_receipt() -> None:
    history = [
        event(EventType.OPEN, seconds, received=received) for seconds, received in [(50, 90), (10, 95), (70, 80)]
    ]
    fact = fold_all(history).facts[Kind.OPEN]
    assert (fact.first_at, fact.last_at) == (to_micros(at(10)), to_micros(at(70)))
    assert fact.first_received_at == to_micros(at(80))


def test_a_fact_without_any_known_time_has_none() -> None:
    fact = fold_all([event(EventType.OPEN, None), event(EventType.OPEN, None)]).facts[Kind.OPEN]
    assert (fact.first_at, fact.last_at, len(fact.ids)) == (None, None, 2)


def test_a_fact_keeps_the_words_of_its_last_event() -> None:
    history = [
        event(EventType.DEFERRED, 90, reason="second", smtp_code=451, enhanced_code="4.7.1"),
        event(EventType.DEFERRED, 30, reason="first", smtp_code=421),
        event(EventType.DEFERRED, None, reason="unknown when"),
    ]
    fact = fold_all(history).facts[Kind.DEFERRED]
    assert (fact.reason, fact.smtp_code, fact.enhanced_code) == ("second", 451, "4.7.1")


ANSWERED = {"reason": "452 4.2.2 mailbox full", "smtp_code": 452, "enhanced_code": "4.2.2"}


@pytest.mark.parametrize(
    "says_less",
    [{}, {"smtp_code": 450}, {"enhanced_code": "4.0.0"}, {"smtp_code": 450, "enhanced_code": "4.0.0"}],
    ids=["nothing", "a bare reply code", "an undefined code", "both"],
)
@pytest.mark.parametrize("says_more", [ANSWERED, {"reason": "MailboxFull"}, {"enhanced_code": "4.2.2"}], ids=str)
@pytest.mark.parametrize("seconds", [None, 0, 30, 900])
def test_an_event_that_says_less_does_not_erase_an_answer(
    seconds: float | None, says_more: dict[str, Any], says_less: dict[str, Any]
) -> None:
    answer = event(EventType.DEFERRED, 30, event_id="a", **says_more)
    less = event(EventType.DEFERRED, seconds, received=902, event_id="b", **says_less)
    for history in ([answer, less], [less, answer], [less, answer, less], [answer, less, answer]):
        fact = fold_all(history).facts[Kind.DEFERRED]
        expected = (answer.event_id, answer.reason, answer.smtp_code, answer.enhanced_code)
        assert (fact.event_id, fact.reason, fact.smtp_code, fact.enhanced_code) == expected
        assert fact.last_at == to_micros(at(max(30, seconds or 0)))
        assert len(fact.ids) == 2


def test_an_undefined_code_says_more_than_nothing() -> None:
    history = [event(EventType.DEFERRED, 0, enhanced_code="4.0.0"), event(EventType.DEFERRED, 90)]
    for each in (history, history[::-1]):
        assert fold_all(each).facts[Kind.DEFERRED].enhanced_code == "4.0.0"


def test_of_two_answers_the_later_one_counts_however_late_an_event_without_one_is() -> None:
    history = [
        event(EventType.DEFERRED, 10, reason="421 4.4.1 no answer", smtp_code=421, enhanced_code="4.4.1"),
        event(EventType.DEFERRED, 50, enhanced_code="4.7.1"),
        event(EventType.DEFERRED, 900),
    ]
    for each in permutations(history):
        fact = fold_all(each).facts[Kind.DEFERRED]
        assert (fact.reason, fact.smtp_code, fact.enhanced_code) == (None, None, "4.7.1")
        assert fact.last_at == to_micros(at(900))


def test_of_two_events_of_the_same_time_the_greater_event_id_has_the_last_word() -> None:
    history = [
        event(EventType.DEFERRED, 30, event_id="b", reason="b says"),
        event(EventType.DEFERRED, 30, event_id="a", reason="a says"),
    ]
    assert fold_all(history).facts[Kind.DEFERRED].reason == "b says"


def test_ids_beyond_the_limit_are_the_smallest_in_any_order() -> None:
    history = [event(EventType.OPEN, number, event_id=f"open-{number}") for number in range(200)]
    forwards, backwards = fold_all(history), fold_all(reversed(history))
    ids = forwards.facts[Kind.OPEN].ids
    assert len(ids) == IDS_KEPT
    assert list(ids) == sorted(set(ids))
    assert backwards.facts == forwards.facts
    everyone = sorted(fold_all([one]).facts[Kind.OPEN].ids[0] for one in history)
    assert list(ids) == everyone[:IDS_KEPT]


def test_a_hundred_thousand_loads_of_an_image_do_not_grow_a_delivery() -> None:
    delivery = fold_all(event(EventType.OPEN, 0, received=0, event_id=f"open-{number}") for number in range(2_000))
    assert len(encode_row(delivery)) < 3_000


# --- what is said of a delivery ---


def test_an_event_that_lacks_reference_tags_or_metadata_changes_nothing_about_them() -> None:
    full = event(EventType.SENT, 0, reference="4711", tags=("invoice",), metadata={"b": "2", "a": "1"})
    delivery = fold_all([full, event(EventType.DELIVERED, 500)])
    assert delivery.reference is not None
    assert delivery.tags is not None
    assert delivery.metadata is not None
    assert delivery.reference[2] == "4711"
    assert delivery.tags[2] == ("invoice",)
    assert delivery.metadata[2] == (("a", "1"), ("b", "2"))


def test_the_last_to_say_it_names_the_reference_and_the_recipient_as_written() -> None:
    history = [
        event(EventType.DELIVERED, 500, reference="new", recipient="Anna@Example.com"),
        event(EventType.SENT, 0, reference="old", recipient="anna@example.com"),
        event(EventType.OPEN, None, reference="unknown when", recipient="ANNA@example.com"),
    ]
    delivery = fold_all(history)
    assert delivery.reference is not None
    assert (delivery.reference[2], delivery.recipient[2]) == ("new", "Anna@Example.com")


def test_only_a_drop_names_the_suppression_list() -> None:
    bounce = event(EventType.BOUNCE, 0, kind=BounceKind.HARD, suppression_list=SuppressionList.BOUNCE)
    assert fold_all([bounce]).suppression_list is None
    dropped = fold_all([event(EventType.DROPPED, 0, suppression_list=SuppressionList.SPAM)])
    assert dropped.suppressed_by is SuppressionList.SPAM


def test_attempts_are_the_providers_count_or_ours_whichever_is_greater() -> None:
    deferrals = [event(EventType.DEFERRED, number) for number in range(3)]
    assert fold_all([event(EventType.SENT)]).attempts == 0
    assert fold_all(deferrals).attempts == 3
    assert fold_all([*deferrals, *deferrals]).attempts == 3
    assert fold_all([*deferrals, event(EventType.DEFERRED, 9, attempt=7)]).attempts == 7
    assert fold_all([*deferrals, event(EventType.DEFERRED, 9, attempt=2)]).attempts == 4


def test_the_providers_giving_up_is_the_latest_it_named_and_shown_while_deferred() -> None:
    history = [event(EventType.DEFERRED, 0, retry_until=900), event(EventType.DEFERRED, 5, retry_until=800)]
    assert fold_all(history).given_up_at == to_micros(at(900))
    assert fold_all([*history, event(EventType.DELIVERED, 9)]).given_up_at is None


def test_deferred_since_is_the_first_deferral_and_known_while_deferred_only() -> None:
    history = [
        event(EventType.DEFERRED, 90),
        event(EventType.DEFERRED, 30),
        event(EventType.DEFERRED, None, received=99),
    ]
    assert fold_all(history).deferred_since == to_micros(at(30))
    assert fold_all([event(EventType.DEFERRED, None, received=44)]).deferred_since == to_micros(at(44))
    assert fold_all([*history, event(EventType.DELIVERED, 99)]).deferred_since is None


def test_what_was_received_had_begun_whatever_time_is_known_of_what_came_later() -> None:
    history = [event(EventType.DEFERRED, None, received=44), event(EventType.DEFERRED, 90)]
    assert fold_all(history).deferred_since == fold_all(history[::-1]).deferred_since == to_micros(at(44))


def test_dropped_since_is_the_first_drop_and_known_while_dropped_only() -> None:
    assert fold_all([event(EventType.DROPPED, 90), event(EventType.DROPPED, 30)]).dropped_since == to_micros(at(30))
    assert fold_all([event(EventType.DROPPED, None, received=44)]).dropped_since == to_micros(at(44))
    assert fold_all([event(EventType.DROPPED, 0), event(EventType.OPEN, 99)]).dropped_since is None


def test_the_answer_is_that_of_the_fact_that_explains_the_status() -> None:
    bounce = event(EventType.BOUNCE, 0, kind=BounceKind.HARD, reason="no such user")
    history = [bounce, event(EventType.DEFERRED, 900, reason="try again")]
    answer = fold_all(history).answer
    assert answer is not None
    assert answer.reason == "no such user"
    opened = fold_all([event(EventType.DELIVERED, 0, reason="250 queued"), event(EventType.OPEN, 9, reason="pixel")])
    assert opened.answer is not None
    assert opened.answer.reason == "250 queued"
    assert fold_all([event(EventType.OPEN, 9, reason="pixel")]).answer is None


def test_settled_are_the_statuses_that_normally_change_no_more() -> None:
    settled = {
        Status.SENT: event(EventType.SENT),
        Status.DEFERRED: event(EventType.DEFERRED),
        Status.DELIVERED: event(EventType.DELIVERED),
        Status.OPENED: event(EventType.OPEN),
        Status.BOUNCED: event(EventType.BOUNCE, kind=BounceKind.SOFT),
        Status.DROPPED: event(EventType.DROPPED),
    }
    assert {status for status, one in settled.items() if fold_all([one]).settled} == set(Status) - {
        Status.SENT,
        Status.DEFERRED,
    }


# --- one fold ---


def test_the_first_event_is_a_change_from_nothing() -> None:
    folded = fold(None, event(EventType.DELIVERED))
    assert folded.delivery is not None
    assert (folded.outcome, folded.changed, folded.refreshed) == (Outcome.APPLIED, True, False)
    assert (folded.delivery.change.revision, folded.delivery.change.previous, folded.delivery.change.late) == (
        1,
        None,
        False,
    )


def test_an_event_that_says_nothing_makes_no_delivery_and_changes_none() -> None:
    delivery = fold_all([event(EventType.SENT)])
    for type_ in (EventType.OTHER, EventType.UNKNOWN):
        assert fold(None, event(type_)) == Folded(None, Outcome.IGNORED, False, False, False)
        folded = fold(delivery, event(type_, 500))
        assert folded.delivery is delivery
        assert folded.outcome is Outcome.IGNORED


def test_a_bounce_whose_kind_is_missing_is_undetermined() -> None:
    assert fold_all([event(EventType.BOUNCE)]).change.bounce_kind is BounceKind.UNDETERMINED


def test_a_complaint_about_an_opened_message_is_a_change_with_the_same_status() -> None:
    opened = fold_all([event(EventType.OPEN)])
    folded = fold(opened, event(EventType.COMPLAINT, 500))
    assert folded.delivery is not None
    assert folded.changed
    assert (folded.delivery.change.previous, folded.delivery.status) == (Status.OPENED, Status.OPENED)


def test_an_unsubscribe_after_a_complaint_is_a_change_with_the_same_status() -> None:
    complained = fold_all([event(EventType.COMPLAINT)])
    assert fold(complained, event(EventType.UNSUBSCRIBE, 500)).changed


def test_another_kind_of_bounce_is_a_change_with_the_same_status() -> None:
    soft = fold_all([event(EventType.BOUNCE, kind=BounceKind.SOFT)])
    folded = fold(soft, event(EventType.BOUNCE, 500, kind=BounceKind.HARD))
    assert folded.delivery is not None
    assert folded.changed
    assert (folded.delivery.change.previous, folded.delivery.status) == (Status.BOUNCED, Status.BOUNCED)


def test_another_suppression_list_is_shown_and_no_change() -> None:
    dropped = fold_all([event(EventType.DROPPED, suppression_list=SuppressionList.BOUNCE)])
    folded = fold(dropped, event(EventType.DROPPED, 500, suppression_list=SuppressionList.SPAM))
    assert (folded.changed, folded.refreshed) == (False, True)


def test_another_deferral_is_shown_and_no_change() -> None:
    folded = fold(fold_all([event(EventType.DEFERRED, 0)]), event(EventType.DEFERRED, 60, reason="451 later"))
    assert (folded.outcome, folded.changed, folded.refreshed) == (Outcome.APPLIED, False, True)


def test_news_that_changes_the_advice_only_is_shown_and_no_change() -> None:
    refused_before = [event(EventType.DELIVERED, 100), event(EventType.BOUNCE, 0, kind=BounceKind.HARD)]
    dropped_before = [event(EventType.DROPPED, 500), event(EventType.DROPPED, 100)]
    certainly_bounced = [event(EventType.BOUNCE_OR_AUTO_REPLY), event(EventType.BOUNCE, 500, kind=BounceKind.SOFT)]
    sent_as_well = [event(EventType.AUTO_REPLY), event(EventType.SENT)]
    for first, second in (refused_before, dropped_before, certainly_bounced, sent_as_well):
        folded = fold(fold_all([first]), second)
        assert (folded.changed, folded.refreshed) == (False, True)


def test_a_delivered_that_says_nothing_is_not_shown_of_what_was_opened() -> None:
    folded = fold(fold_all([event(EventType.OPEN, 0)]), event(EventType.DELIVERED, 60))
    assert (folded.changed, folded.refreshed) == (False, False)


def test_another_open_is_neither_a_change_nor_shown() -> None:
    folded = fold(fold_all([event(EventType.OPEN, 0)]), event(EventType.OPEN, 60))
    assert (folded.outcome, folded.changed, folded.refreshed) == (Outcome.APPLIED, False, False)


def test_a_copy_received_again_later_only_moves_the_last_receipt() -> None:
    delivery = fold_all([event(EventType.OPEN, 0, received=5, event_id="one")])
    folded = fold(delivery, event(EventType.OPEN, 0, received=900, event_id="one"))
    assert folded.delivery is not None
    assert (folded.outcome, folded.changed, folded.refreshed) == (Outcome.DUPLICATE, False, False)
    assert folded.delivery.last_received_at == to_micros(at(900))
    assert folded.delivery.facts == delivery.facts


def test_a_repeated_event_beyond_the_kept_ids_cannot_be_told_and_counts_as_applied() -> None:
    history = [event(EventType.OPEN, 0, received=0, event_id=f"open-{number}") for number in range(IDS_KEPT + 1)]
    delivery = fold_all(history)
    outcomes = [fold(delivery, one).outcome for one in history]
    assert outcomes.count(Outcome.APPLIED) == 1
    assert all(fold(delivery, one).delivery is delivery for one in history)


def test_news_older_than_the_news_before_is_late() -> None:
    deferred = fold_all([event(EventType.DEFERRED, 500)])
    late = fold(deferred, event(EventType.DELIVERED, 100, received=900)).delivery
    assert late is not None
    assert (late.status, late.change.late) == (Status.DELIVERED, True)
    in_time = fold(deferred, event(EventType.DELIVERED, 600)).delivery
    assert in_time is not None
    assert not in_time.change.late


def test_a_complaint_is_late_by_its_own_time_and_not_by_that_of_what_decides_the_status() -> None:
    opened = fold_all([event(EventType.CLICK, 500), event(EventType.OPEN, 490)])
    unsubscribed = fold(opened, event(EventType.UNSUBSCRIBE, 530)).delivery
    assert unsubscribed is not None
    assert not unsubscribed.change.late

    complained = fold(unsubscribed, event(EventType.COMPLAINT, 520, received=900)).delivery
    assert complained is not None
    assert (complained.change.revision, complained.change.late) == (3, True)


def test_a_status_that_comes_back_through_a_newer_event_is_not_late() -> None:
    bounced = fold_all([event(EventType.OPEN, 0), event(EventType.BOUNCE, 50, kind=BounceKind.SOFT)])
    opened = fold(bounced, event(EventType.DELIVERED, 60)).delivery
    assert opened is not None
    assert (opened.status, opened.change.late) == (Status.OPENED, False)


def test_news_of_the_same_time_is_not_late() -> None:
    deferred = fold_all([event(EventType.DEFERRED, 100)])
    delivered = fold(deferred, event(EventType.DELIVERED, 100)).delivery
    assert delivered is not None
    assert not delivered.change.late


def test_a_change_takes_effect_at_the_last_time_of_its_deciding_fact() -> None:
    hard, close = event(EventType.BOUNCE, 0, kind=BounceKind.HARD), event(EventType.DELIVERED, 30)
    delivery = fold_all([hard, close, event(EventType.DELIVERED, 300)])
    assert (delivery.status, delivery.change.effective_at) == (Status.DELIVERED, to_micros(at(300)))


def test_news_of_unknown_time_is_not_called_late() -> None:
    bounced = fold_all([event(EventType.BOUNCE, 500, kind=BounceKind.SOFT)])
    folded = fold(bounced, event(EventType.DELIVERED, None)).delivery
    assert folded is not None
    assert (folded.change.late, folded.change.effective_at) == (False, None)


def test_a_clock_that_cannot_be_right_is_reported_and_its_time_kept_as_reported() -> None:
    for seconds, skewed in [(300, False), (300.000001, True), (-40 * 86_400, False), (-40 * 86_400 - 1, True)]:
        folded = fold(None, event(EventType.DELIVERED, seconds, received=0))
        assert folded.delivery is not None
        assert folded.clock_skewed is skewed
        assert folded.delivery.change.occurred_at == to_micros(at(seconds))
        assert folded.delivery.facts[Kind.DELIVERED].last_at == (None if skewed else to_micros(at(seconds)))
    assert not fold(None, event(EventType.DELIVERED, None)).clock_skewed


@given(st.integers(-(10**15), 10**16))
def test_microseconds_and_datetimes_convert_without_loss(micros: int) -> None:
    assert to_micros(from_micros(micros)) == micros


def test_the_epoch_is_1970() -> None:
    assert to_micros(NOON) == int(NOON.timestamp()) * SECOND


def test_deferred_since_begins_after_the_last_drop_and_with_the_first_deferral_after_it() -> None:
    first_known_late = [event(EventType.DROPPED, 0), event(EventType.DEFERRED, 1_000), event(EventType.DEFERRED, 200)]
    for history in permutations(first_known_late):
        assert fold_all(history).deferred_since == to_micros(at(200))

    between_two_drops = [event(EventType.DEFERRED, 500), event(EventType.DEFERRED, 2_000)]
    drops = [event(EventType.DROPPED, 0), event(EventType.DROPPED, 1_000)]
    delivery = fold_all([*between_two_drops, *drops])
    assert (delivery.status, delivery.deferred_since) == (Status.DEFERRED, to_micros(at(1_000)))


def test_a_deferral_of_unknown_time_made_it_deferred_again_when_it_was_received() -> None:
    history = [
        event(EventType.DEFERRED, None, received=500),
        event(EventType.DEFERRED, 1_000),
        event(EventType.DEFERRED, -100),
        event(EventType.DROPPED, 0),
    ]
    assert fold_all(history).deferred_since == to_micros(at(500))


def test_the_last_deferral_and_not_the_first_is_compared_with_a_drop() -> None:
    history = [event(EventType.DEFERRED, 0), event(EventType.DROPPED, 500), event(EventType.DEFERRED, 2_000)]
    for order in permutations(history):
        assert fold_all(order).status is Status.DEFERRED
