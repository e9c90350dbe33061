"""Azure: a header with a secret, which Event Grid sends with its handshake too; and what of a handshake is answered."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.providers import PROVIDERS, Refusal
from tests.providers.cases import PAYLOADS
from tests.providers.signing import (
    AZURE_HEADER,
    NOW,
    Signed,
    azure_communication,
    azure_handshake,
    azure_report,
    basic,
)

AZURE = PROVIDERS["azure_communication"]
VALIDATION = "SubscriptionValidation"


def asked(body: bytes | None = None) -> Signed:
    return azure_communication(azure_handshake() if body is None else body, word=VALIDATION)


def test_a_delivery_propertys_header_is_taken() -> None:
    assert azure_communication().verify().key_id == "2026"
    assert azure_communication().verify().replay_token is None


@pytest.mark.parametrize("wrong", ["a value that Event Grid sends alon", "A value that Event Grid sends along", "x"])
def test_any_other_value_is_a_mismatch(wrong: str) -> None:
    assert azure_communication(secret=wrong).refusal() is Refusal.MISMATCH


def test_without_the_header_it_is_missing_whatever_else_event_grid_sends() -> None:
    for signed in (azure_communication(), asked()):
        bare = signed.with_headers(**{AZURE_HEADER.replace("-", "_"): None})
        assert bare.with_headers(aeg_subscription_name="INVOICES", aeg_delivery_count="0").refusal() is Refusal.MISSING


def test_basic_authentication_in_a_delivery_property_is_taken_too() -> None:
    signed = replace(azure_communication(), secrets={"b": "basic:azure:password"})
    assert signed.with_headers(authorization=basic("azure:password")).verify().key_id == "b"
    assert signed.with_headers(authorization=basic("azure:guess")).refusal() is Refusal.MISMATCH


def test_there_is_no_stamp_so_no_window() -> None:
    assert AZURE.replay_window_s is None
    assert replace(azure_communication(), now=NOW + timedelta(days=400), window_s=1).refusal() is None


# --- the handshake ---


def test_a_handshake_is_answered_with_its_own_code_and_nothing_else() -> None:
    answer = AZURE.consent(asked().request)

    assert answer is not None
    assert json.loads(answer) == {"validationResponse": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"}


def test_the_documented_handshake_is_answered_and_gives_no_event() -> None:
    body = (PAYLOADS / "azure_communication" / "subscription_validation.json").read_bytes()

    assert AZURE.consent(asked(body).request) is not None
    assert AZURE.normalise(asked(body).request) == []


@pytest.mark.parametrize("word", ["Notification", "SubscriptionDeletion", "", None])
def test_what_the_header_does_not_call_a_handshake_is_none(word: str | None) -> None:
    assert AZURE.consent(asked().with_headers(aeg_event_type=word).request) is None


def test_the_headers_case_does_not_matter() -> None:
    assert AZURE.consent(asked().with_headers(aeg_event_type=" subscriptionvalidation").request) is not None


@pytest.mark.parametrize("code", [None, "", 17, True, ["a"], {"a": "b"}, "x" * 513])
def test_a_code_that_is_none_is_not_repeated(code: Any) -> None:
    assert AZURE.consent(asked(azure_handshake(code)).request) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b"null",
        b"[17]",
        b'[{"data": {"validationCode": "a"}}]',
        b'[{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": "a"}]',
        azure_report(),
        azure_handshake()[1:-1],
        azure_handshake()[:-1] + b"," + azure_report()[1:],
    ],
)
def test_a_body_that_is_no_handshake_alone_is_not_answered_as_one(body: bytes) -> None:
    assert AZURE.consent(asked(body).request) is None


@given(code=st.text(min_size=1, max_size=512))
def test_whatever_the_code_holds_the_answer_is_one_json_object_with_it(code: str) -> None:
    answer = AZURE.consent(asked(azure_handshake(code)).request)

    assert answer is not None
    assert list(json.loads(answer)) == ["validationResponse"]


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"azure_communication"}))
def test_no_other_provider_is_asked_for_consent(provider: str) -> None:
    assert PROVIDERS[provider].consent(asked().request) is None
