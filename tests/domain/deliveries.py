"""Events of one delivery, as the tests of the domain and of the records need them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

from hypothesis import strategies as st

from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.domain.status import Delivery, fold

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
_numbers = count()


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def event(
    type_: EventType,
    seconds: float | None = 0,
    *,
    received: float | None = None,
    kind: BounceKind | None = None,
    event_id: str | None = None,
    recipient: str = "anna@example.com",
    reference: str | None = None,
    reason: str | None = None,
    smtp_code: int | None = None,
    enhanced_code: str | None = None,
    attempt: int | None = None,
    tags: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
    machine: bool = False,
    suppression_list: SuppressionList | None = None,
    retry_until: float | None = None,
) -> DeliveryEvent:
    """Return an event that happened so many seconds after NOON and was received two seconds later."""
    if received is None:
        received = 2 if seconds is None else seconds + 2
    return DeliveryEvent(
        event_id=event_id or f"event-{next(_numbers)}",
        provider="sendgrid",
        account="main",
        message_id="message-1",
        recipient=recipient,
        type=type_,
        occurred_at=None if seconds is None else at(seconds),
        received_at=at(received),
        bounce_kind=kind,
        reference=reference,
        reason=reason,
        smtp_code=smtp_code,
        enhanced_code=enhanced_code,
        attempt=attempt,
        tags=tags,
        metadata=metadata or {},
        machine=machine,
        suppression_list=suppression_list,
        retry_until=None if retry_until is None else at(retry_until),
    )


def fold_all(events: Iterable[DeliveryEvent]) -> Delivery:
    delivery = None
    for each in events:
        delivery = fold(delivery, each).delivery
    assert delivery is not None
    return delivery


SAYING = [each for each in EventType if each not in {EventType.OTHER, EventType.UNKNOWN}]
_DAY = 86_400
# Close together, around SKEW, and unbelievable: 6 minutes after and 41 days before the receipts below.
_SECONDS = st.none() | st.sampled_from([0, 30, 60, 61, 90, 121, 200, 3_600, 700, -40.9 * _DAY]) | st.integers(0, 300)
_RECEIVED = st.sampled_from([0, 50, 100, 250, 400, 3_700]) | st.integers(0, 4_000)
_IDS = st.integers(0, 12).map("id-{}".format)
_TEXTS = st.none() | st.sampled_from(["no", "later", "Grüße \N{GRINNING FACE}"])
_REPLIES = st.none() | st.sampled_from([250, 421, 550])
_CODES = st.none() | st.sampled_from(["2.0.0", "4.0.0", "4.2.2", "4.7.1", "5.1.1", "5.7.26"])
# Every third event says nothing: then the one that does is not the last one.
_ANSWERS = st.just((None, None, None)) | st.tuples(_TEXTS, _REPLIES, _CODES) | st.tuples(st.none(), _REPLIES, _CODES)


@st.composite
def events(draw: st.DrawFn, types: Sequence[EventType] = SAYING) -> DeliveryEvent:
    """Draw an event of one and the same delivery; a few ids, so that copies which differ occur too."""
    type_ = draw(st.sampled_from(types))
    reason, smtp_code, enhanced_code = draw(_ANSWERS)
    return event(
        type_,
        draw(_SECONDS),
        received=draw(_RECEIVED),
        kind=draw(st.sampled_from(BounceKind)) if type_ is EventType.BOUNCE else None,
        event_id=draw(_IDS),
        recipient=draw(st.sampled_from(["anna@example.com", "Anna@Example.com"])),
        reference=draw(st.none() | st.sampled_from(["4711", "4712"])),
        reason=reason,
        smtp_code=smtp_code,
        enhanced_code=enhanced_code,
        attempt=draw(st.none() | st.integers(1, 5)),
        tags=draw(st.sampled_from([(), ("invoice",), ("invoice", "march")])),
        metadata=draw(st.sampled_from([{}, {"customer": "7"}, {"customer": "8", "a": "b"}])),
        machine=draw(st.booleans()),
        suppression_list=draw(st.none() | st.sampled_from(SuppressionList)) if type_ is EventType.DROPPED else None,
        retry_until=draw(st.none() | st.integers(5_000, 9_000)),
    )


histories = st.lists(events(), min_size=1, max_size=12)
