"""Mailgun's signature: stamp and token, inside the body, by HMAC. The event itself is not covered."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.providers import PROVIDERS, Refusal, _proof
from tests.providers.effort import is_affordable
from tests.providers.signing import (
    HOSTILE_JSON,
    MAILGUN_KEY,
    MAILGUN_TOKEN,
    NOW,
    Signed,
    mailgun,
    mailgun_signature,
    request,
)

STAMP = str(int(NOW.timestamp()))


def form(fields: dict[str, str], *, before: Sequence[tuple[str, str]] = (), multipart: bool = False) -> Signed:
    pairs = [*before, *fields.items()]
    if multipart:
        parts = [f'--b0\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in pairs]
        body, kind = "".join([*parts, "--b0--\r\n"]), "multipart/form-data; boundary=b0"
    else:
        body, kind = urlencode(pairs), "application/x-www-form-urlencoded"
    return replace(mailgun(), request=request(body.encode(), {"content-type": kind}))


LEGACY = {
    "event": "delivered",
    "recipient": "jo@customer.example",
    "timestamp": STAMP,
    "token": MAILGUN_TOKEN,
    "signature": mailgun_signature(STAMP, MAILGUN_TOKEN),
}


def edited(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change to the signature: fields set, or left out if ``None``."""

    def change(body: dict[str, Any]) -> None:
        merged = {**body["signature"], **{name.replace("_", "-"): value for name, value in changes.items()}}
        body["signature"] = {name: value for name, value in merged.items() if value is not None}

    return change


def test_the_hmac_is_the_one_that_openssl_makes() -> None:
    # Mailgun's page has an example, but not its key. So, with its stamp and token and the key "key":
    # printf %s 1770920772e0b5...e123 | openssl dgst -sha256 -hmac key
    changes = {
        "timestamp": "1770920772",
        "token": "e0b5477167110d68991efc6b9f89f0a11066af27834600e123",
        "signature": "e8f5d8f1bd9ce26cc6e78f1cbde9e93cc2bba777a3d3005819ca8de26128118d",
    }
    signed = replace(mailgun().with_json(edited(**changes)), secrets={"k": "key"}, window_s=None)
    assert signed.verify().key_id == "k"


def test_the_token_comes_back_so_that_it_is_accepted_once() -> None:
    assert mailgun().verify().replay_token == MAILGUN_TOKEN


@pytest.mark.parametrize("multipart", [False, True])
def test_a_legacy_form_is_taken(multipart: bool) -> None:
    verified = form(LEGACY, multipart=multipart).verify()
    assert (verified.key_id, verified.replay_token) == ("2026", MAILGUN_TOKEN)


@pytest.mark.parametrize("multipart", [False, True])
@pytest.mark.parametrize("name", ["timestamp", "token", "signature"])
def test_a_legacy_form_without_a_part_of_its_signature_is_missing_it(name: str, multipart: bool) -> None:
    fields = {key: value for key, value in LEGACY.items() if key != name}
    assert form(fields, multipart=multipart).refusal() is Refusal.MISSING


@pytest.mark.parametrize("multipart", [False, True])
@pytest.mark.parametrize("name", ["timestamp", "token", "signature", "Token"])
def test_a_variable_before_a_part_of_the_signature_does_not_replace_it(name: str, multipart: bool) -> None:
    assert form(LEGACY, before=[(name, "unsubscribe-123!")], multipart=multipart).verify().replay_token == MAILGUN_TOKEN


def test_a_form_with_a_thousand_and_more_fields_is_malformed() -> None:
    assert form({**LEGACY, **{f"v{n}": "x" for n in range(1_100)}}).refusal() is Refusal.MALFORMED


def test_a_multipart_form_without_a_boundary_is_malformed() -> None:
    signed = form(LEGACY, multipart=True).with_headers(content_type="multipart/form-data")
    assert signed.refusal() is Refusal.MALFORMED


def test_a_stamp_may_be_a_number() -> None:
    assert mailgun().with_json(edited(timestamp=int(STAMP))).refusal() is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"timestamp": str(int(STAMP) + 1)}, Refusal.MISMATCH),
        ({"token": MAILGUN_TOKEN[:-1] + "0"}, Refusal.MISMATCH),
        ({"signature": "0" * 64}, Refusal.MISMATCH),
        ({"signature": mailgun_signature(STAMP, MAILGUN_TOKEN)[:-1]}, Refusal.MALFORMED),
        ({"signature": mailgun_signature(STAMP, MAILGUN_TOKEN)[:-2]}, Refusal.MALFORMED),
        ({"signature": ""}, Refusal.MALFORMED),
        ({"signature": "ä" * 64}, Refusal.MALFORMED),
        ({"signature": True}, Refusal.MALFORMED),
        ({"signature": None}, Refusal.MISSING),
        ({"token": None}, Refusal.MISSING),
        ({"timestamp": None}, Refusal.MISSING),
        ({"token": ""}, Refusal.MALFORMED),
        ({"token": "x" * 101}, Refusal.MALFORMED),
        ({"token": "a\nb"}, Refusal.MALFORMED),
        ({"token": ["a"]}, Refusal.MALFORMED),
        ({"timestamp": True}, Refusal.MALFORMED),
        ({"timestamp": 1.5}, Refusal.MALFORMED),
        ({"timestamp": "0793707200"}, Refusal.MALFORMED),
        ({"timestamp": "\u0661" * 10}, Refusal.MALFORMED),
        ({"timestamp": "1" * 4_000}, Refusal.MALFORMED),
    ],
)
def test_a_changed_signature_is_refused(changes: dict[str, Any], reason: Refusal) -> None:
    assert mailgun().with_json(edited(**changes)).refusal() is reason


def test_a_digit_cannot_move_between_stamp_and_token_to_make_a_new_token() -> None:
    token = "7" + MAILGUN_TOKEN
    signature = mailgun_signature(STAMP, token)
    for stamp, moved in ((STAMP + "7", MAILGUN_TOKEN), (STAMP[:-1], STAMP[-1] + token)):
        assert mailgun_signature(stamp, moved) == signature
        attempt = mailgun().with_json(edited(timestamp=stamp, token=moved, signature=signature))
        assert replace(attempt, window_s=None).refusal() is Refusal.MALFORMED


def test_an_event_under_a_signature_of_another_is_taken_because_mailgun_does_not_sign_events() -> None:
    # Not a wish: the limit of the scheme, which the replay token and the window narrow.
    def other_event(body: dict[str, Any]) -> None:
        body["event-data"]["event"] = "failed"

    assert mailgun().with_json(other_event).verify().replay_token == MAILGUN_TOKEN


def test_a_subaccounts_webhook_is_taken_by_the_primary_accounts_key() -> None:
    changes = {
        "signature": mailgun_signature(STAMP, MAILGUN_TOKEN, "the subaccount's"),
        "parent_signature": mailgun_signature(STAMP, MAILGUN_TOKEN),
    }
    signed = mailgun().with_json(edited(**changes))
    assert signed.verify().key_id == "2026"
    assert replace(signed, secrets={"sub": "the subaccount's"}).verify().key_id == "sub"
    assert replace(signed, secrets={"other": "another"}).refusal() is Refusal.MISMATCH


def test_the_hex_digits_may_be_capitals() -> None:
    assert mailgun().with_json(edited(signature=mailgun_signature(STAMP, MAILGUN_TOKEN).upper())).refusal() is None


@pytest.mark.parametrize("signature", [None, [], "text", 7, {"timestamp": {}, "token": {}, "signature": {}}], ids=repr)
def test_a_signature_of_another_kind_is_refused(signature: Any) -> None:
    body = json.dumps({"signature": signature, "event-data": {}}).encode()
    assert mailgun().with_body(body).refusal() in {Refusal.MISSING, Refusal.MALFORMED}


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [(0, None), (3_600, None), (3_601, Refusal.STALE), (-86_400, None), (-86_401, Refusal.STALE)],
)
def test_a_stamp_is_held_against_the_window(age_s: int, reason: Refusal | None) -> None:
    stamp = str(int((NOW - timedelta(seconds=age_s)).timestamp()))
    assert mailgun(stamp=stamp).refusal() is reason


def test_the_last_retry_of_mailgun_is_not_lost_by_default() -> None:
    waits_min = (10, 10, 15, 30, 60, 120, 240)
    window_s = PROVIDERS["mailgun"].replay_window_s
    assert window_s is not None
    assert window_s > 1.4 * 60 * sum(waits_min)


@given(key=st.text(min_size=1).filter(lambda key: key.strip() != MAILGUN_KEY and key.strip()[:1] not in {"", '"', "'"}))
def test_no_other_key_takes_it(key: str) -> None:
    assert replace(mailgun(), secrets={"k": key}).refusal() is Refusal.MISMATCH


# --- what it may cost before anything is proved ---

URLENCODED = "application/x-www-form-urlencoded"
HOSTILE: dict[str, tuple[str, Callable[[int], bytes]]] = {
    **{name: ("application/json", made) for name, made in HOSTILE_JSON.items()},
    "percent": (URLENCODED, lambda size: b"a=" + b"%41" * (size // 3 - 1)),
    "percent in a token": (URLENCODED, lambda size: b"token=" + b"%41" * (size // 3 - 2)),
    "a thousand names": (URLENCODED, lambda size: b"&".join([b"%41" * (size // 3_000 - 1)] * 1_000)),
    "a thousand short names": (URLENCODED, lambda size: b"&".join([b"%41" * 16] * 999 + [b"%41" * (size // 4)])),
    "separators": (URLENCODED, lambda size: b"&" * size),
    "no text": (URLENCODED, lambda size: b"\xff" * size),
    "a part of no text": (
        "multipart/form-data; boundary=b",
        lambda size: b'--b\r\nA: b; name="token"\r\n\r\n' + b"\xff" * (size - 32),
    ),
    "names of parts": ("multipart/form-data; boundary=b", lambda size: (b"--b" + b' name="' * 144) * (size // 1_011)),
}


@pytest.mark.parametrize("size", [_proof.PARSED_LIMIT, 8 * _proof.PARSED_LIMIT])
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_stranger_cannot_make_us_work(name: str, size: int) -> None:
    kind, made = HOSTILE[name]
    attempt = replace(mailgun(), request=request(made(size), {"content-type": kind}))

    def refused() -> None:
        assert attempt.refusal() in {Refusal.MALFORMED, Refusal.MISSING}

    assert is_affordable(refused)


def test_a_signed_webhook_over_the_limit_is_malformed() -> None:
    body = mailgun().request.body
    assert mailgun().with_body(body + b" " * (_proof.PARSED_LIMIT - len(body))).refusal() is None
    assert mailgun().with_body(body + b" " * (_proof.PARSED_LIMIT - len(body) + 1)).refusal() is Refusal.MALFORMED


def test_half_a_surrogate_pair_in_an_event_does_not_spoil_its_signature() -> None:
    body = mailgun().request.body.replace(b'"delivered"', b'"delivered", "tags": ["\\ud83d"]')
    assert mailgun().with_body(body).refusal() is None


def test_another_providers_batch_has_no_signature_of_mailgun() -> None:
    assert mailgun().with_body(b' [{"event":"delivered"}]').refusal() is Refusal.MISSING
