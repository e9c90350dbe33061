"""What only Postmark has: records whose kind is only implied."""

import json
from typing import Any

import pytest

from streams.domain.events import BounceKind, EventType
from tests.providers.cases import PAYLOADS, outcome


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / "postmark" / f"{name}.json").read_bytes())


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("delivery", (EventType.DELIVERED, None)),
        ("bounce_hard_bounce", (EventType.BOUNCE, BounceKind.HARD)),
        ("bounce_transient", (EventType.DEFERRED, None)),
        ("spam_complaint", (EventType.COMPLAINT, None)),
        ("open", (EventType.OPEN, None)),
        ("click", (EventType.CLICK, None)),
        ("subscription_change_manual", None),
        ("subscription_change_unsubscribed", (EventType.UNSUBSCRIBE, None)),
    ],
)
def test_a_record_that_does_not_say_its_kind_is_of_the_kind_that_its_fields_imply(
    name: str, meaning: tuple[EventType, BounceKind | None] | None
) -> None:
    record = payload(name)
    record.pop("RecordType", None)

    found = outcome("postmark", json.dumps(record).encode())

    assert found.poison is None
    assert [(event.type, event.bounce_kind) for event in found.events] == ([] if meaning is None else [meaning])


@pytest.mark.parametrize("name", ["delivery", "bounce_hard_bounce", "spam_complaint", "open", "click"])
def test_only_a_change_of_subscription_may_be_about_no_message(name: str) -> None:
    found = outcome("postmark", json.dumps({**payload(name), "MessageID": None}).encode())

    assert (found.events, found.poison) == ((), "no MessageID")


@pytest.mark.parametrize("message_id", [None, ""])
def test_a_change_of_subscription_about_no_message_is_no_dead_letter(message_id: str | None) -> None:
    record = {**payload("subscription_change_unsubscribed"), "MessageID": message_id}

    assert outcome("postmark", json.dumps(record).encode()) == ((), (), None)
