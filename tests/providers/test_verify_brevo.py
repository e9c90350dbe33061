"""Brevo: a bearer token, a user and password of the URL, or a header; and at which answers it never comes again."""

from dataclasses import replace
from datetime import timedelta

import pytest

from streams.providers import PROVIDERS, Refusal
from tests.providers.signing import NOW, Signed, basic, brevo

BREVO = PROVIDERS["brevo"]


def with_token(sent: str | None, secret: str = "header:Authorization:Bearer s3cret-Token") -> Signed:
    return replace(brevo(), secrets={"2026": secret}).with_headers(authorization=sent)


def test_a_header_of_ones_own_is_taken() -> None:
    assert brevo().verify().key_id == "2026"
    assert brevo().verify().replay_token is None
    assert brevo(secret="a value that Brevo sends alonh").refusal() is Refusal.MISMATCH


def test_the_user_and_password_of_the_url_are_taken() -> None:
    assert with_token(basic("brevo:password"), "basic:brevo:password").verify().key_id == "2026"
    assert with_token(basic("brevo:guess"), "basic:brevo:password").refusal() is Refusal.MISMATCH


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bearer_token_is_taken_and_its_scheme_has_no_case(scheme: str) -> None:
    assert with_token(f"{scheme} s3cret-Token").verify().key_id == "2026"
    assert with_token("Bearer s3cret-Token", f"header:authorization:{scheme} s3cret-Token").verify().key_id == "2026"


@pytest.mark.parametrize(
    "sent",
    [
        "Bearer s3cret-token",
        "Bearer S3CRET-TOKEN",
        "Bearer",
        "s3cret-Token",
        "Basic s3cret-Token",
        "Bearers3cret-Token",
    ],
)
def test_any_other_token_is_a_mismatch_and_its_case_counts(sent: str) -> None:
    assert with_token(sent).refusal() is Refusal.MISMATCH


def test_the_case_of_a_token_without_a_scheme_counts() -> None:
    assert with_token("s3cret-Token", "header:Authorization:s3cret-Token").refusal() is None
    assert with_token("S3cret-Token", "header:Authorization:s3cret-Token").refusal() is Refusal.MISMATCH


def test_without_any_of_them_it_is_missing() -> None:
    assert with_token(None).refusal() is Refusal.MISSING
    assert with_token(" ").refusal() is Refusal.MISSING


def test_there_is_no_stamp_so_no_window() -> None:
    assert BREVO.replay_window_s is None
    assert replace(brevo(), now=NOW + timedelta(days=400), window_s=1).refusal() is None


def test_429_is_the_answer_wherever_a_later_attempt_may_succeed() -> None:
    assert BREVO.instead_of == dict.fromkeys([401, 403, 408, 500, 503], 429)
