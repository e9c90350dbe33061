"""Azure: a header with a secret, which Event Grid sends with its handshake too."""

from dataclasses import replace
from datetime import timedelta

import pytest

from streams.providers import PROVIDERS, Refusal
from tests.providers.signing import (
    AZURE_HEADER,
    NOW,
    Signed,
    azure_communication,
    azure_handshake,
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
