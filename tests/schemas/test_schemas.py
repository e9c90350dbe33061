"""The schemas are true: what we write fits them, each valid example does, each invalid one fails for its own reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from streams.domain.advice import ADVICE, ALERT_ADVICE
from streams.domain.deferrals import Alert, Ending, Level
from streams.domain.destinations import DESTINATIONS
from streams.domain.events import BounceKind, DeliveryEvent, EventType, Send, SuppressionList
from streams.domain.reasons import ReasonClass
from streams.domain.status import Status, fold
from streams.providers import PROVIDERS
from streams.records import (
    RecordError,
    decode_alert,
    decode_event,
    decode_send,
    decode_status,
    encode_alert,
    encode_event,
    encode_send,
    encode_status,
)
from tests.domain.deferrals import alerts
from tests.domain.deliveries import events, fold_all, histories
from tests.test_sends_record import sends

SCHEMAS = Path(__file__).parents[2] / "schemas"
BY_NAME: dict[str, dict[str, Any]] = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in SCHEMAS.glob("*.schema.json")
}
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in BY_NAME.items()}
STATUS, EVENT, SEND = VALIDATORS["status.v1"], VALIDATORS["event.v1"], VALIDATORS["send.v1"]
ALERT, ALERT_SCHEMA = VALIDATORS["deferral-alert.v1"], BY_NAME["deferral-alert.v1"]
STATUS_SCHEMA, EVENT_SCHEMA, SEND_SCHEMA = BY_NAME["status.v1"], BY_NAME["event.v1"], BY_NAME["send.v1"]
VALID = sorted(SCHEMAS.glob("examples/*/*.json"))
INVALID = sorted(SCHEMAS.glob("examples/*/invalid/*.json"))


def name_of(path: Path) -> str:
    return str(path.relative_to(SCHEMAS / "examples"))


def validator_of(path: Path) -> Draft202012Validator:
    return VALIDATORS[path.relative_to(SCHEMAS / "examples").parts[0]]


def status_of(history: list[DeliveryEvent]) -> dict[str, Any]:
    return decode_status(encode_status(fold_all(history), support_contact=None, warn_after_us=3_600_000_000))


@pytest.mark.parametrize("name", sorted(VALIDATORS))
def test_a_schema_is_itself_valid(name: str) -> None:
    Draft202012Validator.check_schema(BY_NAME[name])


@given(histories)
def test_every_status_that_we_write_fits_its_schema(history: list[DeliveryEvent]) -> None:
    STATUS.validate(status_of(history))


@given(events(list(EventType)))
def test_every_event_that_we_write_fits_its_schema(one: DeliveryEvent) -> None:
    EVENT.validate(json.loads(encode_event(one, "mail.raw.sendgrid/0/0")))


@given(histories)
def test_the_schema_names_every_field_of_a_status_and_no_other(history: list[DeliveryEvent]) -> None:
    assert list(status_of(history)) == list(STATUS_SCHEMA["properties"])


@given(events())
def test_the_schema_names_every_field_of_an_event_and_no_other(one: DeliveryEvent) -> None:
    assert list(json.loads(encode_event(one, "mail.raw.sendgrid/0/0"))) == list(EVENT_SCHEMA["properties"])


@given(sends)
def test_every_send_that_we_write_fits_its_schema_which_names_all_its_fields(one: Send) -> None:
    written = json.loads(encode_send(one))

    SEND.validate(written)
    assert list(written) == list(SEND_SCHEMA["properties"])


@given(alerts)
def test_every_alert_that_we_write_fits_its_schema_which_names_all_its_fields(one: Alert) -> None:
    written = decode_alert(encode_alert(one, support_contact=None))

    ALERT.validate(written)
    assert list(written) == list(ALERT_SCHEMA["properties"]) == ALERT_SCHEMA["required"]


def test_the_schemas_name_every_word_of_the_vocabulary() -> None:
    alert = ALERT_SCHEMA["properties"]
    assert alert["level"]["enum"] == list(Level)
    assert set(alert["outcome"]["enum"]) == {*Ending, None}
    assert alert["reason_class"]["enum"] == list(ReasonClass)
    assert all(Draft202012Validator(alert["destination"]).is_valid(name) for name in DESTINATIONS)
    status, one = STATUS_SCHEMA["properties"], EVENT_SCHEMA["properties"]
    assert set(status["status"]["enum"]) == set(Status)
    assert set(status["previous"]["enum"]) == {*Status, None}
    assert set(one["type"]["enum"]) == set(EventType)
    assert SEND_SCHEMA["properties"]["provider"]["enum"] == list(PROVIDERS)
    for properties in (status, one):
        assert set(properties["bounce_kind"]["enum"]) == {*BounceKind, None}
        assert set(properties["suppression_list"]["enum"]) == {*SuppressionList, None}


@pytest.mark.parametrize("code", sorted({*ADVICE, *ALERT_ADVICE}))
def test_every_code_of_an_advice_fits_the_schema(code: str) -> None:
    Draft202012Validator(STATUS_SCHEMA["properties"]["advice"]["properties"]["code"]).validate(code)


@pytest.mark.parametrize("path", VALID, ids=name_of)
def test_a_valid_example_fits(path: Path) -> None:
    validator_of(path).validate(json.loads(path.read_text()))


@pytest.mark.parametrize("path", [path for path in VALID if "event.v1" in path.parts], ids=name_of)
def test_a_valid_event_can_be_read_and_folded(path: Path) -> None:
    event = decode_event(path.read_bytes())

    folded = fold(None, event)

    assert (folded.delivery is None) is (event.type in {EventType.OTHER, EventType.UNKNOWN})


@pytest.mark.parametrize("path", [path for path in VALID if "send.v1" in path.parts], ids=name_of)
def test_a_valid_send_can_be_read(path: Path) -> None:
    assert decode_send(path.read_bytes()).reference in {"INV-4711", None}


@pytest.mark.parametrize("path", [path for path in INVALID if "send.v1" in path.parts], ids=name_of)
def test_what_the_schema_of_a_send_refuses_is_never_read(path: Path) -> None:
    with pytest.raises(RecordError):
        decode_send(path.read_bytes())


@pytest.mark.parametrize("path", INVALID, ids=name_of)
def test_an_invalid_example_fails_for_the_one_reason_that_its_name_tells(path: Path) -> None:
    *place, keyword = path.name.removesuffix(".json").split(".")
    (error,) = validator_of(path).iter_errors(json.loads(path.read_text()))
    found = [str(step) for step in error.absolute_path]
    if keyword == "required":
        *place, missing = place
        assert repr(missing) in error.message
    assert (found, error.validator) == (place, keyword)


@given(st.sampled_from(sorted(STATUS_SCHEMA["required"])))
def test_a_status_without_any_of_its_fields_is_refused(name: str) -> None:
    example = json.loads((SCHEMAS / "examples" / "status.v1" / "bounced-hard.json").read_text())
    del example[name]
    assert not STATUS.is_valid(example)


def test_there_are_examples_of_every_status_and_bad_ones_of_every_schema() -> None:
    seen = {json.loads(path.read_text())["status"] for path in VALID if "status.v1" in path.parts}
    assert seen == set(Status)
    told = [json.loads(path.read_text()) for path in VALID if "deferral-alert.v1" in path.parts]
    assert {alert["level"] for alert in told} == set(Level)
    assert {path.relative_to(SCHEMAS / "examples").parts[0] for path in INVALID} == set(VALIDATORS)
