"""What every provider must do, whatever arrives."""

import json
import random
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.domain.events import BounceKind, DeliveryEvent, EventType
from streams.providers import PROVIDERS, PoisonError
from streams.providers._contract import MOST_BAD
from tests.providers.cases import CASES, PAYLOADS, RECEIVED_AT, Case, Outcome, outcome, request

every_provider = pytest.mark.parametrize("provider", sorted(PROVIDERS))
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.provider}/{case.name}")


def is_json(case: Case) -> bool:
    return case.path.suffix == ".json"


JSON_CASES = [case for case in CASES if is_json(case) and case.name != "half_a_surrogate_pair"]
every_json_case = pytest.mark.parametrize("case", JSON_CASES, ids=lambda case: f"{case.provider}/{case.name}")

# --- bad bodies ---

NOT_JSON = {
    "empty": b"",
    "blank": b" \n ",
    "cut short": b'[{"event": "delivered", "email": "a@',
    "wrong UTF-8": b'[{"event": "\xff\xfe"}]',
    "100,000 brackets": b"[" * 100_000,
    "100,000 closed brackets": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "NaN": b'[{"event": "delivered", "timestamp": NaN}]',
    "Infinity": b"Infinity",
    "a number beyond floats": b"1e999",
    "two values": b"{} {}",
    "half a surrogate pair and an error": b'["\\ud800", }',
    "bytes of a picture": bytes(range(256)) * 16,
}
SCALARS = [b"null", b"true", b"0", b"-1", b"1.5", b"123456789012345678901234567890", b'"text"', b'"\\ud800"']


@every_provider
@pytest.mark.parametrize("name", sorted(NOT_JSON))
def test_a_body_that_is_not_json_is_poison(provider: str, name: str) -> None:
    with pytest.raises(PoisonError):
        PROVIDERS[provider].normalise(request(provider, NOT_JSON[name]))


@every_provider
@pytest.mark.parametrize("body", SCALARS, ids=repr)
def test_a_json_scalar_is_poison(provider: str, body: bytes) -> None:
    with pytest.raises(PoisonError):
        PROVIDERS[provider].normalise(request(provider, body))


@every_provider
def test_an_empty_object_is_poison(provider: str) -> None:
    with pytest.raises(PoisonError):
        PROVIDERS[provider].normalise(request(provider, b"{}"))


@every_provider
@given(body=st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_no_bytes_raise_anything_but_poison(provider: str, body: bytes) -> None:
    outcome(provider, body)


# --- wrong values ---

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, 2**64 - 1, 10**40, -(2**63), 253402300800, 10**18, 1e300, -1.0, 0, 0.5]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(), max_size=20),  # surrogates too: a JSON escape can hold them
    st.sampled_from(
        ["", " ", "NaN", "inf", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "2026-13-40", "x" * 9_000]
    ),
    st.sampled_from(["\x00", "<>", "@", "a@b", "-1", "1e400", "5.1.1", "\ud83d", "{", "[]"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=12,
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every subtree but the root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = replaced(copy[key], tuple(rest), junk) if rest else junk
    return copy


def opened(case: Case) -> Any:
    """Return the value of a JSON payload, that of an SNS Message inside it opened too."""
    value = json.loads(case.body)
    if isinstance(value, dict) and str(value.get("Message", "")).startswith("{"):
        value = {**value, "Message": json.loads(value["Message"])}
    return value


def closed(value: Any) -> bytes:
    """Return the body of an opened value."""
    if isinstance(value, dict) and isinstance(value.get("Message"), dict):
        value = {**value, "Message": json.dumps(value["Message"])}
    return json.dumps(value, allow_nan=False).encode("ascii")


def check(found: Outcome) -> None:
    """Assert what holds of every outcome."""
    for event in found.events:
        assert event.event_id
        assert event.message_id
        assert event.recipient.strip()
        assert event.received_at == RECEIVED_AT
        for name, limit in (
            ("event_id", 512),
            ("message_id", 512),
            ("recipient", 512),
            ("reason", 2_000),
            ("user_agent", 512),
            ("reference", 256),
            ("provider_event", 520),
        ):
            value = getattr(event, name)
            assert value is None or (isinstance(value, str) and len(value) <= limit), name
        for moment in (event.occurred_at, event.retry_until):
            assert moment is None or (moment.tzinfo is UTC and datetime(1970, 1, 1, tzinfo=UTC) <= moment)
        assert (event.bounce_kind is not None) == (event.type is EventType.BOUNCE)
        assert event.bounce_kind is None or isinstance(event.bounce_kind, BounceKind)
        assert event.suppression_list is None or event.type is EventType.DROPPED
        assert event.smtp_code is None or 200 <= event.smtp_code <= 599
        assert event.attempt is None or event.attempt >= 1
        assert len(event.tags) <= 32
        assert all(isinstance(tag, str) and len(tag) <= 256 for tag in event.tags)
        assert len(event.metadata) <= 32
        assert all(
            isinstance(key, str) and isinstance(value, str) and len(key) <= 128 and len(value) <= 1_024
            for key, value in event.metadata.items()
        )
        for field in fields(DeliveryEvent):
            str(getattr(event, field.name)).encode()  # nothing that UTF-8 cannot hold gets out
    for index, data, reason in found.bad:
        assert index >= 0
        assert data
        assert reason
    assert found.poison != ""


@given(data=st.data())
@settings(max_examples=1_500, deadline=None)
def test_wrong_values_anywhere_give_events_or_poison(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(JSON_CASES))
    value = opened(case)
    for _ in range(data.draw(st.integers(1, 3))):
        paths = list(places(value))
        if not paths:
            break
        value = replaced(value, data.draw(st.sampled_from(paths)), data.draw(JUNK))
    body = closed(value)

    found = outcome(case.provider, body)

    check(found)
    assert outcome(case.provider, body) == found


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_wrong_bytes_in_a_form_or_in_lines_give_events_or_poison(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from([case for case in CASES if not is_json(case)]))
    body = case.body
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 200)))
        body = body[:start] + data.draw(st.binary(max_size=30)) + body[end:]

    check(outcome(case.provider, body))


@every_json_case
def test_every_field_may_be_missing(case: Case) -> None:
    value = opened(case)
    for path in places(value):
        if isinstance(path[-1], str):
            check(outcome(case.provider, closed(without(value, path))))


def without(value: Any, path: tuple[Any, ...]) -> Any:
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        copy[key] = without(copy[key], tuple(rest))
    else:
        del copy[key]
    return copy


# --- sameness ---


@every_case
def test_the_same_body_gives_the_same_events(case: Case) -> None:
    assert outcome(case.provider, case.body) == outcome(case.provider, case.body)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@every_json_case
def test_the_order_of_keys_in_the_body_changes_nothing(case: Case) -> None:
    before = outcome(case.provider, case.body)

    for seed in range(5):
        after = outcome(case.provider, closed(shuffled(opened(case), random.Random(seed))))

        assert after.events == before.events
        assert [(index, reason) for index, _, reason in after.bad] == [
            (index, reason) for index, _, reason in before.bad
        ]


@every_case
def test_event_ids_are_unique_within_a_payload(case: Case) -> None:
    ids = [event.event_id for event in outcome(case.provider, case.body).events]

    assert len(set(ids)) == len(ids)


@every_case
def test_a_message_id_of_a_webhook_stays_as_it_is_when_the_application_reports_it(case: Case) -> None:
    for event in outcome(case.provider, case.body).events:
        assert PROVIDERS[case.provider].message_id(event.message_id) == event.message_id


def test_two_accounts_never_share_a_fingerprint() -> None:
    ours = request("postmark", (PAYLOADS / "postmark" / "open.json").read_bytes())

    ids = {PROVIDERS["postmark"].normalise(replace(ours, account=account))[0].event_id for account in ("acme", "beta")}

    assert len(ids) == 2


# --- personal data ---

MARKER = "marker.person@private.example"


def marked(value: Any, order: random.Random) -> Any:
    """Return the value with the marker in most strings, and some of its parts broken."""
    if order.random() < 0.08:
        return order.choice([None, 17, MARKER, [MARKER], {MARKER: MARKER}])
    if isinstance(value, dict):
        return {key: marked(inner, order) for key, inner in value.items() if order.random() > 0.05}
    if isinstance(value, list):
        return [marked(inner, order) for inner in value]
    return MARKER if isinstance(value, str) and order.random() < 0.5 else value


@every_case
def test_no_reason_carries_an_address(case: Case) -> None:
    bodies = [case.body, MARKER.encode(), json.dumps(MARKER).encode(), b'{"a": "%s", ' % MARKER.encode()]
    if case in JSON_CASES:
        bodies += [closed(marked(opened(case), random.Random(seed))) for seed in range(40)]
    else:
        bodies += [case.body.replace(b"ann%40customer.example", b""), case.body.replace(b"event", MARKER.encode())]
    poisoned = 0
    for body in bodies:
        try:
            PROVIDERS[case.provider].normalise(request(case.provider, body))
        except PoisonError as error:
            poisoned += 1
            for text in (str(error), repr(error), error.reason, *(bad.reason for bad in error.bad)):
                assert MARKER not in text
                assert "@" not in text

    assert poisoned >= 2


# --- neighbours ---


def test_one_bad_element_spares_its_neighbours() -> None:
    folder = PAYLOADS / "sendgrid"
    good = json.loads((folder / "delivered.json").read_bytes())[0]
    elements = [{**good, "sg_event_id": f"id-{n}"} for n in range(50)]
    elements[17] = {**good, "email": None}

    found = outcome("sendgrid", json.dumps(elements).encode())

    assert [event.event_id for event in found.events] == [f"id-{n}" for n in range(50) if n != 17]
    assert [index for index, _, _ in found.bad] == [17]
    assert json.loads(found.bad[0][1]) == elements[17]


GOOD = {
    "sendgrid": "delivered",
    "azure_communication": "report_delivered",
    "amazon_ses": "delivery",
    "brevo": "delivered",
    "mailjet": "sent",
}


def several(provider: str, strange: str, count: int) -> bytes:
    """Return a body of that many strange elements after a good one."""
    good = next(case.body for case in JSON_CASES if (case.provider, case.path.stem) == (provider, GOOD[provider]))
    first = good.strip().removeprefix(b"[").removesuffix(b"]")
    return b"[%s%s]" % (first, f",{strange}".encode() * count)


@pytest.mark.parametrize("strange", ["1", "{}"])
@pytest.mark.parametrize("provider", GOOD)
def test_of_many_bad_elements_none_is_kept_and_the_good_ones_still_are(provider: str, strange: str) -> None:
    alone = outcome(provider, several(provider, strange, 0))
    few = outcome(provider, several(provider, strange, MOST_BAD))
    many = outcome(provider, several(provider, strange, MOST_BAD + 1))

    assert (few.events, len(few.bad)) == (alone.events, MOST_BAD)
    assert (many.events, many.bad) == (alone.events, ())
    assert many.poison == f"{MOST_BAD + 1} of {MOST_BAD + 1 + len(alone.events)} elements could not be understood"


def test_a_bad_element_can_be_replayed_alone() -> None:
    folder = PAYLOADS / "sendgrid"
    found = outcome("sendgrid", (folder / "batch_with_bad_elements.json").read_bytes())
    element = json.loads(found.bad[0][1])

    mended = outcome("sendgrid", json.dumps({**element, "email": "ann@customer.example"}).encode())

    assert [event.type for event in mended.events] == [EventType.DELIVERED]


def test_a_bad_element_nested_too_deeply_to_be_written_is_cut() -> None:
    deep: Any = None
    for _ in range(400):
        deep = [deep]

    found = outcome("sendgrid", json.dumps([{"event": "delivered", "deep": deep}]).encode())

    ((_, data, reason),) = found.bad
    assert reason == "no email"
    assert json.loads(data)["event"] == "delivered"
    assert data.count(b"[") == 63


@every_provider
def test_a_hostile_body_is_not_multiplied(provider: str) -> None:
    record = json.loads((PAYLOADS / "amazon_ses" / "bounce_permanent_general.json").read_bytes())
    bad_recipients = {**record, "bounce": {**record["bounce"], "bouncedRecipients": [{}] * 5_000}}
    deep = "[" * 300 + "]" * 300
    bodies = [
        json.dumps([{"event": "open"}] * 5_000),
        json.dumps(bad_recipients),
        json.dumps({"records": [{}] * 5_000}),
        "\n".join(['{"eventType": "Send"}'] * 5_000),
        "[" + ",".join([f'{{"event": "open", "x": {deep}}}'] * 2_000) + "]",
    ]
    for body in bodies:
        found = outcome(provider, body.encode())

        assert found.poison is not None
        assert sum(len(data) for _, data, _ in found.bad) <= 2 * len(body)
