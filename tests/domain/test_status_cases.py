"""What real providers do to a delivery, case by case; each case holds in every order and with every event twice.

The cases that depend on the order of arrival (revisions, late news) are in test_status.py.
"""

from itertools import permutations

from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.domain.status import Delivery, Status
from tests.domain.deliveries import event, fold_all

SENT, DEFERRED, DELIVERED = EventType.SENT, EventType.DEFERRED, EventType.DELIVERED
BOUNCE, DROPPED = EventType.BOUNCE, EventType.DROPPED
OPEN, MACHINE_OPEN, CLICK = EventType.OPEN, EventType.MACHINE_OPEN, EventType.CLICK
HARD, SOFT, BLOCK, UNDETERMINED = BounceKind.HARD, BounceKind.SOFT, BounceKind.BLOCK, BounceKind.UNDETERMINED


def outcome(*events: DeliveryEvent) -> Delivery:
    """Return the delivery of these events, after seeing that every order and repetition agrees on its status."""
    results = [fold_all(order) for order in permutations(events)]
    results += [fold_all((*order, *order)) for order in permutations(events)]
    results += [fold_all(each for each in order for _ in range(3)) for order in permutations(events)]
    seen = {
        (one.status, one.change.bounce_kind, one.change.complained, one.change.unsubscribed, one.machine_opened)
        for one in results
    }
    assert len(seen) == 1
    return results[0]


def status(*events: DeliveryEvent) -> tuple[Status, BounceKind | None]:
    delivery = outcome(*events)
    return delivery.status, delivery.change.bounce_kind


# --- nothing but one fact ---


def test_a_message_that_left_is_sent() -> None:
    assert status(event(SENT)) == (Status.SENT, None)


def test_a_message_that_was_only_auto_replied_to_is_sent() -> None:
    assert status(event(EventType.AUTO_REPLY)) == (Status.SENT, None)


def test_a_deferred_message_is_deferred() -> None:
    assert status(event(SENT), event(DEFERRED, 5)) == (Status.DEFERRED, None)


def test_each_kind_of_bounce_alone_is_bounced_of_that_kind() -> None:
    for kind in BounceKind:
        assert status(event(SENT), event(BOUNCE, 5, kind=kind)) == (Status.BOUNCED, kind)


# --- out of order ---


def test_delivered_before_processed_is_delivered() -> None:
    assert status(event(DELIVERED, 0), event(SENT, 3)) == (Status.DELIVERED, None)


def test_a_deferral_after_delivered_changes_nothing() -> None:
    for seconds in (None, -300, 0, 300, 90_000):
        assert status(event(DELIVERED, 0), event(DEFERRED, seconds)) == (Status.DELIVERED, None)


def test_a_deferral_after_a_hard_bounce_changes_nothing() -> None:
    for seconds in (None, -300, 0, 300):
        assert status(event(BOUNCE, 0, kind=HARD), event(DEFERRED, seconds)) == (Status.BOUNCED, HARD)


def test_a_sent_after_everything_changes_nothing() -> None:
    assert status(event(SENT, 500), event(DEFERRED, 5)) == (Status.DEFERRED, None)
    assert status(event(SENT, 500), event(DROPPED, 5)) == (Status.DROPPED, None)


# --- bounces and deliveries ---


def test_delivered_then_a_later_hard_bounce_is_bounced() -> None:
    assert status(event(SENT), event(DELIVERED, 5), event(BOUNCE, 3_600, kind=HARD)) == (Status.BOUNCED, HARD)


def test_a_hard_bounce_and_a_delivered_within_a_minute_are_bounced() -> None:
    for seconds in (0, 30, 60):
        assert status(event(BOUNCE, 0, kind=HARD), event(DELIVERED, seconds)) == (Status.BOUNCED, HARD)


def test_a_hard_bounce_and_a_delivered_of_unknown_time_are_bounced() -> None:
    assert status(event(BOUNCE, 0, kind=HARD), event(DELIVERED, None)) == (Status.BOUNCED, HARD)
    assert status(event(BOUNCE, None, kind=HARD), event(DELIVERED, 900)) == (Status.BOUNCED, HARD)


def test_a_hard_bounce_then_a_clearly_later_delivered_is_delivered() -> None:
    assert status(event(BOUNCE, 0, kind=HARD), event(DELIVERED, 60.000001)) == (Status.DELIVERED, None)


def test_a_hard_bounce_then_delivered_then_a_hard_bounce_again_is_bounced() -> None:
    events = event(BOUNCE, 0, kind=HARD), event(DELIVERED, 100), event(BOUNCE, 300, kind=HARD)
    assert status(*events) == (Status.BOUNCED, HARD)


def test_a_soft_bounce_then_delivered_is_delivered() -> None:
    for seconds in (None, 0, 30, 900):
        assert status(event(BOUNCE, 0, kind=SOFT), event(DELIVERED, seconds)) == (Status.DELIVERED, None)


def test_delivered_then_a_clearly_later_soft_block_or_undetermined_bounce_is_bounced() -> None:
    for kind in (SOFT, BLOCK, UNDETERMINED):
        assert status(event(DELIVERED, 0), event(BOUNCE, 61, kind=kind)) == (Status.BOUNCED, kind)


def test_delivered_and_a_softer_bounce_within_a_minute_or_of_unknown_time_is_delivered() -> None:
    for kind in (SOFT, BLOCK, UNDETERMINED):
        for seconds in (None, -900, 0, 60):
            assert status(event(DELIVERED, 0), event(BOUNCE, seconds, kind=kind)) == (Status.DELIVERED, None)
        assert status(event(DELIVERED, None), event(BOUNCE, 900, kind=kind)) == (Status.DELIVERED, None)


def test_a_soft_bounce_of_an_opened_message_without_delivered_is_bounced() -> None:
    assert status(event(OPEN, 900), event(BOUNCE, 0, kind=SOFT)) == (Status.BOUNCED, SOFT)


def test_the_last_of_several_softer_bounces_names_the_kind() -> None:
    assert status(event(BOUNCE, 0, kind=SOFT), event(BOUNCE, 5, kind=BLOCK)) == (Status.BOUNCED, BLOCK)
    assert status(event(BOUNCE, 5, kind=SOFT), event(BOUNCE, 0, kind=BLOCK)) == (Status.BOUNCED, SOFT)
    assert status(event(BOUNCE, 5, kind=SOFT), event(BOUNCE, None, kind=BLOCK)) == (Status.BOUNCED, SOFT)


def test_a_block_says_more_than_an_undetermined_bounce_of_the_same_time() -> None:
    assert status(event(BOUNCE, 0, kind=UNDETERMINED), event(BOUNCE, 0, kind=BLOCK)) == (Status.BOUNCED, BLOCK)


def test_a_hard_bounce_outranks_a_softer_one_of_any_time() -> None:
    assert status(event(BOUNCE, 0, kind=HARD), event(BOUNCE, 900, kind=SOFT)) == (Status.BOUNCED, HARD)


def test_a_hard_bounce_overcome_by_delivered_then_a_later_soft_bounce_is_bounced_softly() -> None:
    events = event(BOUNCE, 0, kind=HARD), event(DELIVERED, 100), event(BOUNCE, 300, kind=SOFT)
    assert status(*events) == (Status.BOUNCED, SOFT)


# --- out-of-office replies ---


def test_a_reply_that_may_be_a_bounce_never_bounces_a_delivered_invoice() -> None:
    for seconds in (None, -900, 0, 900, 90_000):
        events = event(DELIVERED, 0), event(EventType.BOUNCE_OR_AUTO_REPLY, seconds)
        assert status(*events) == (Status.DELIVERED, None)


def test_a_reply_that_may_be_a_bounce_never_bounces_what_was_opened_clicked_or_complained_about() -> None:
    for proof in (OPEN, MACHINE_OPEN, CLICK, EventType.COMPLAINT, EventType.UNSUBSCRIBE):
        assert outcome(event(EventType.BOUNCE_OR_AUTO_REPLY, 900), event(proof)).status is not Status.BOUNCED


def test_a_reply_that_may_be_a_bounce_bounces_what_nothing_shows_to_have_arrived() -> None:
    events = event(SENT), event(DEFERRED, 5), event(EventType.BOUNCE_OR_AUTO_REPLY, 900)
    assert status(*events) == (Status.BOUNCED, SOFT)


def test_an_auto_reply_known_as_such_changes_no_status() -> None:
    for before in (SENT, DEFERRED, DELIVERED, DROPPED, OPEN):
        assert outcome(event(before), event(EventType.AUTO_REPLY, 900)).status is outcome(event(before)).status


# --- opens ---


def test_an_open_without_delivered_is_opened() -> None:
    assert status(event(SENT), event(OPEN, 900)) == (Status.OPENED, None)


def test_an_open_before_delivered_is_opened() -> None:
    assert status(event(OPEN, 0), event(DELIVERED, 900)) == (Status.OPENED, None)


def test_a_click_is_opened() -> None:
    assert status(event(DELIVERED), event(CLICK, 900)) == (Status.OPENED, None)


def test_an_open_after_a_hard_bounce_stays_bounced() -> None:
    assert status(event(BOUNCE, 0, kind=HARD), event(OPEN, 900)) == (Status.BOUNCED, HARD)


def test_an_open_of_a_deferred_or_dropped_message_is_opened() -> None:
    assert status(event(DEFERRED, 900), event(OPEN, 0)) == (Status.OPENED, None)
    assert status(event(DROPPED, 900), event(OPEN, 0)) == (Status.OPENED, None)


def test_a_machines_open_proves_delivery_only() -> None:
    delivery = outcome(event(SENT), event(MACHINE_OPEN, 900))
    assert (delivery.status, delivery.machine_opened) == (Status.DELIVERED, True)


def test_an_open_or_click_that_a_machine_caused_counts_as_a_machines_open() -> None:
    for type_ in (OPEN, CLICK):
        delivery = outcome(event(SENT), event(type_, 900, machine=True))
        assert (delivery.status, delivery.machine_opened) == (Status.DELIVERED, True)


def test_a_persons_open_after_a_machines_is_opened() -> None:
    delivery = outcome(event(DELIVERED), event(MACHINE_OPEN, 5), event(OPEN, 900))
    assert (delivery.status, delivery.machine_opened) == (Status.OPENED, True)


# --- drops ---


def test_a_dropped_message_is_dropped() -> None:
    assert status(event(SENT), event(DROPPED, 5, suppression_list=SuppressionList.BOUNCE)) == (Status.DROPPED, None)


def test_a_drop_and_an_attempt_is_what_the_attempt_was() -> None:
    for seconds in (None, -900, 0, 900):
        assert status(event(DROPPED, 0), event(DELIVERED, seconds)) == (Status.DELIVERED, None)
        assert status(event(DROPPED, 0), event(BOUNCE, seconds, kind=HARD)) == (Status.BOUNCED, HARD)
        assert status(event(DROPPED, 0), event(BOUNCE, seconds, kind=SOFT)) == (Status.BOUNCED, SOFT)


def test_dropped_then_a_clearly_later_deferral_is_deferred() -> None:
    assert status(event(DROPPED, 0), event(DEFERRED, 61)) == (Status.DEFERRED, None)


def test_dropped_and_a_deferral_within_a_minute_or_of_unknown_time_is_dropped() -> None:
    for seconds in (None, -900, 0, 60):
        assert status(event(DROPPED, 0), event(DEFERRED, seconds)) == (Status.DROPPED, None)


# --- complaints and unsubscribes ---


def test_a_complaint_proves_delivery_and_is_kept() -> None:
    delivery = outcome(event(SENT), event(EventType.COMPLAINT, 900))
    assert (delivery.status, delivery.change.complained, delivery.change.unsubscribed) == (
        Status.DELIVERED,
        True,
        False,
    )


def test_an_unsubscribe_proves_delivery_and_is_kept() -> None:
    delivery = outcome(event(SENT), event(EventType.UNSUBSCRIBE, 900))
    assert (delivery.status, delivery.change.complained, delivery.change.unsubscribed) == (
        Status.DELIVERED,
        False,
        True,
    )


def test_a_complaint_leaves_an_opened_message_opened() -> None:
    delivery = outcome(event(DELIVERED), event(OPEN, 5), event(EventType.COMPLAINT, 900))
    assert (delivery.status, delivery.change.complained) == (Status.OPENED, True)


def test_a_complaint_leaves_a_bounced_message_bounced() -> None:
    delivery = outcome(event(BOUNCE, 0, kind=HARD), event(EventType.COMPLAINT, 900))
    assert (delivery.status, delivery.change.complained) == (Status.BOUNCED, True)


# --- clocks that cannot be right ---


def test_a_time_long_after_its_receipt_does_not_order() -> None:
    soft = event(BOUNCE, 301, received=0, kind=SOFT)  # would be later than delivered, were it believed
    assert status(event(DELIVERED, 0), soft) == (Status.DELIVERED, None)
    assert status(event(DELIVERED, 0), event(BOUNCE, 300, received=0, kind=SOFT)) == (Status.BOUNCED, SOFT)


def test_a_time_long_before_its_receipt_does_not_order() -> None:
    days = 40 * 86_400
    hard = event(BOUNCE, -days - 1, received=0, kind=HARD)  # delivered would be later, were it believed
    assert status(event(DELIVERED, 0), hard) == (Status.BOUNCED, HARD)
    assert status(event(DELIVERED, 0), event(BOUNCE, -days, received=0, kind=HARD)) == (Status.DELIVERED, None)


# --- what the server said ---


def test_a_report_without_an_answer_takes_none_back() -> None:
    answered = event(BOUNCE, 0, kind=HARD, reason="smtp;550 5.1.1 no such user", smtp_code=550, enhanced_code="5.1.1")
    listed = event(BOUNCE, 1, kind=HARD)  # Postmark: the SubscriptionChange of the same bounce
    for order in permutations((answered, listed, listed)):
        answer = fold_all(order).answer
        assert answer is not None
        assert (answer.reason, answer.smtp_code, answer.enhanced_code) == (answered.reason, 550, "5.1.1")
    assert status(answered, listed) == (Status.BOUNCED, HARD)
