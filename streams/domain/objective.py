"""Is mail late? Each message is judged once: at its delivery, or at its deadline if it was not delivered by then.

A histogram of delivery times alone hides deferrals: a stuck message never enters
it. So a message that its provider accepted (``sent``) is counted exactly once: as
``met`` if it was delivered within the objective, as ``missed`` if the deadline
passed before. A refused or dropped message is not late, and is not counted; nor
is one without a known time of sending.

A message that is still ``sent`` after ``WORD_WITHIN`` shows a fault: the webhooks
do not arrive, or the provider reports nothing.

The rule: pure, except that two fields of the delivery that was just made are set,
``judged`` and ``watch_at``. Times are microseconds since 1970-01-01T00:00:00Z.
"""

from enum import StrEnum
from typing import NamedTuple

from streams.domain.status import SECOND, Delivery, Kind, Status

WORD_WITHIN = 24 * 3600 * SECOND
_PROOFS = (Kind.OPEN, Kind.MACHINE_OPEN, Kind.CLICK, Kind.COMPLAINT, Kind.UNSUBSCRIBE)
"""What only a message that arrived can cause."""


class Judgement(StrEnum):
    """Whether a message was delivered in time."""

    MET = "met"
    MISSED = "missed"


class Judged(NamedTuple):
    """What to count for a message."""

    judgement: Judgement | None
    """None: it was judged at its deadline, before it was delivered."""
    took: int | None
    """From the provider's acceptance to the delivery (µs); None: it is not delivered yet."""


def judge(before: Delivery | None, delivery: Delivery, objective: int) -> Judged | None:
    """Judge a delivery that has just changed: return the judgement if it is due and, once delivered, how long it took.

    Args:
        before: The delivery before that change.
        delivery: Just made by ``fold`` and not yet shared; its ``judged`` and ``watch_at`` are set.
        objective: Microseconds after its acceptance within which it should be delivered.
    """
    if delivery.judged and before is not None and Kind.DELIVERED in before.facts:
        return None
    sent = delivery.facts.get(Kind.SENT)
    if sent is None:
        return None
    began = sent.began
    delivered = delivery.facts.get(Kind.DELIVERED)
    if delivered is None:
        if delivery.watch_at is None and not delivery.judged:
            delivery.watch_at = began + objective
        return None
    took = max(delivered.began - began, 0)
    if delivery.judged:
        return Judged(None, took)
    delivery.judged = True
    delivery.watch_at = None
    return Judged(Judgement.MET if took <= objective else Judgement.MISSED, took)


class Watched(NamedTuple):
    """What was found when a delivery was due."""

    judgement: Judgement | None
    """None: there is nothing to count, or not yet."""
    without_word: bool
    """The provider has said nothing since it took the message."""


def watch(delivery: Delivery, objective: int) -> Watched:
    """Look at a delivery whose ``watch_at`` has come; set its ``judged`` and ``watch_at``.

    An open or a complaint proves that it was delivered before, even if no event said so. A refused or dropped delivery
    is not counted: ``judge`` sets when to look again if it changes again. If the objective was shorter when
    ``watch_at`` was set, it is moved to the present deadline.
    """
    if delivery.judged:
        delivery.watch_at = None
        return Watched(None, without_word=delivery.status is Status.SENT)
    began = delivery.facts[Kind.SENT].began
    deadline = began + objective
    if delivery.watch_at is not None and delivery.watch_at < deadline:
        delivery.watch_at = deadline
        return Watched(None, without_word=False)
    if delivery.status is Status.OPENED or delivery.status is Status.DELIVERED:
        seen = min((delivery.facts[kind].began for kind in _PROOFS if kind in delivery.facts), default=None)
        judgement = Judgement.MET if seen is not None and seen <= deadline else Judgement.MISSED
    elif delivery.status is Status.SENT or delivery.status is Status.DEFERRED:
        judgement = Judgement.MISSED
    else:
        delivery.watch_at = None
        return Watched(None, without_word=False)
    delivery.judged = True
    delivery.watch_at = began + WORD_WITHIN if delivery.status is Status.SENT else None
    return Watched(judgement, without_word=False)
