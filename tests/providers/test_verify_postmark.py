"""Postmark: a user and password, or a header of one's own choice. The same credentials serve what SNS does not sign."""

from base64 import b64encode
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.providers import PROVIDERS, Refusal
from tests.providers.signing import NOW, basic, postmark


def test_the_user_and_password_are_taken() -> None:
    assert postmark().verify().key_id == "2026"
    assert postmark().verify().replay_token is None


@pytest.mark.parametrize(
    "given_",
    [
        "postmark:corréct hors",
        "postmark:corréct horse ",
        "Postmark:corréct horse",
        "postmark:correct horse",
        "postmark:",
        ":corréct horse",
        ":",
        "",
        "postmark",
        "postmark:corréct horse\0",
    ],
)
def test_any_other_user_and_password_is_a_mismatch(given_: str) -> None:
    assert postmark(given_).refusal() in {Refusal.MISMATCH, Refusal.MALFORMED}


def test_a_password_may_hold_colons() -> None:
    assert replace(postmark("a:b:c"), secrets={"k": "basic:a:b:c"}).verify().key_id == "k"
    assert replace(postmark("a:b"), secrets={"k": "basic:a:b:c"}).refusal() is Refusal.MISMATCH


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, Refusal.MISSING),
        ("", Refusal.MISSING),
        ("  ", Refusal.MISSING),
        ("Basic", Refusal.MISMATCH),  # of nobody, without a password
        ("Bearer cG9zdG1hcms6eA==", Refusal.MALFORMED),
        ("Basic cG9zdG1hcms6e", Refusal.MALFORMED),
        ("Basic pöstmark", Refusal.MALFORMED),
        ("Basic \udcff", Refusal.MALFORMED),
        (basic("postmark:corréct horse") + "=", Refusal.MALFORMED),
        (basic("postmark:corréct horse")[:-4], Refusal.MISMATCH),
        ("Basic postmark:corréct horse", Refusal.MALFORMED),
    ],
)
def test_a_header_that_is_none_is_refused(header: str | None, reason: Refusal) -> None:
    assert postmark().with_headers(authorization=header).refusal() is reason


def test_the_scheme_is_written_in_any_case() -> None:
    encoded = b64encode("postmark:corréct horse".encode()).decode()
    for scheme in ("basic ", "BASIC ", "Basic   "):
        assert postmark().with_headers(authorization=scheme + encoded).refusal() is None


def test_a_header_of_ones_own_is_taken() -> None:
    signed = replace(postmark(), secrets={"h": "header:X-Webhook-Token:s3cret:with:colons"})
    assert signed.refusal() is Refusal.MISSING
    assert signed.with_headers(x_webhook_token="s3cret:with:colons").verify().key_id == "h"
    assert signed.with_headers(x_webhook_token=" s3cret:with:colons\t").verify().key_id == "h"
    for wrong in ("s3cret", "S3cret:with:colons", "s3cret:with:colons,", "\udcff", "ß"):
        assert signed.with_headers(x_webhook_token=wrong).refusal() is Refusal.MISMATCH
    assert signed.with_headers(x_webhook_token="").refusal() is Refusal.MISSING


def test_an_authorization_header_of_another_scheme_is_taken_as_a_header() -> None:
    signed = replace(postmark(), secrets={"h": "header:Authorization:Bearer abc"})
    assert signed.with_headers(authorization="Bearer abc").verify().key_id == "h"
    assert signed.with_headers(authorization="bearer abc").verify().key_id == "h"  # a scheme has no case
    for wrong in ("Bearer abd", "Bearer ABC", "Bearer", "abc", "Bearerabc"):
        assert signed.with_headers(authorization=wrong).refusal() is Refusal.MISMATCH


def test_several_credentials_of_both_kinds_live_side_by_side() -> None:
    secrets = {"old": "basic:postmark:old", "new": "header:x-token:new", "next": "basic:postmark:next"}
    sent: dict[str, dict[str, str | None]] = {
        "old": {"authorization": basic("postmark:old")},
        "new": {"authorization": None, "x-token": "new"},
        "next": {"authorization": basic("postmark:next"), "x-token": "wrong"},
    }
    for key_id, headers in sent.items():
        assert replace(postmark(), secrets=secrets).with_headers(**headers).verify().key_id == key_id
    neither = replace(postmark(), secrets=secrets).with_headers(authorization=None)
    assert neither.refusal() is Refusal.MISSING
    assert neither.with_headers(x_token="wrong").refusal() is Refusal.MISMATCH


def test_there_is_no_stamp_so_no_window() -> None:
    assert PROVIDERS["postmark"].replay_window_s is None
    assert replace(postmark(), now=NOW + timedelta(days=400), window_s=1).refusal() is None


@given(user=st.text(min_size=1).filter(lambda user: ":" not in user), password=st.text(min_size=1).filter(str.strip))
def test_any_credential_is_taken_and_no_other(user: str, password: str) -> None:
    secrets = {"k": f"basic:{user}:{password}"}
    assert replace(postmark(f"{user}:{password}"), secrets=secrets).verify().key_id == "k"
    assert replace(postmark(f"{user}:{password}x"), secrets=secrets).refusal() is Refusal.MISMATCH
