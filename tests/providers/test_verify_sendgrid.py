"""SendGrid's signature: stamp and raw body, by ECDSA."""

from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.providers import PROVIDERS, Refusal
from tests.providers.signing import NOW, Signed, p256, public_base64, request, sendgrid

SIGNATURE = "x-twilio-email-event-webhook-signature"
STAMP = "x-twilio-email-event-webhook-timestamp"


def official() -> Signed:
    """Return the example that SendGrid publishes with its libraries (helpers/eventwebhook)."""
    body = (
        b'[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",'
        b'"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
        b'"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",'
        b'"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]\r\n'
    )
    headers = {
        SIGNATURE: "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=",
        STAMP: "1600112502",
    }
    key = (
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglS"
        "I8eNEc6wEA3F+g=="
    )
    return Signed(
        provider="sendgrid",
        request=request(body, headers),
        secrets={"published": key},
        now=datetime(2020, 9, 14, 19, 42, tzinfo=UTC),
    )


def test_the_published_example_is_taken() -> None:
    assert official().verify().key_id == "published"
    assert official().verify().replay_token is None


def test_the_published_example_without_its_last_line_feed_is_refused() -> None:
    body = official().request.body
    assert official().with_body(body.removesuffix(b"\r\n")).refusal() is Refusal.MISMATCH


def test_the_published_example_under_another_published_key_is_refused() -> None:
    other = (
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqTxd43gyp8IOEto2LdIfjRQrIbsd4SXZkLW6jDutdhXSJCWHw8REntlo7aNDthvj+y7GjUuF"
        "Db/R1NGe1OPzpA=="
    )
    assert replace(official(), secrets={"other": other}).refusal() is Refusal.MISMATCH


def test_a_key_may_be_wrapped_in_lines() -> None:
    (key,) = official().secrets.values()
    assert replace(official(), secrets={"k": f" {key[:40]}\n{key[40:]}\n"}).verify().key_id == "k"


def test_a_changed_stamp_is_refused() -> None:
    signed = sendgrid()
    later = str(int(signed.request.headers[STAMP]) + 1)
    assert signed.with_headers(**{STAMP: later}).refusal() is Refusal.MISMATCH


def test_a_digit_cannot_move_between_stamp_and_body() -> None:
    signed = sendgrid(b"7[]", stamp="179370720")
    moved = signed.with_headers(**{STAMP: "1793707207"}).with_body(b"[]")
    # Both have the same signed bytes. Only the one whose body can be SendGrid's is taken.
    assert replace(moved, window_s=None).refusal() is None
    assert replace(signed, window_s=None).refusal() is Refusal.MALFORMED


def test_the_signature_of_another_key_is_a_mismatch() -> None:
    assert sendgrid(key="second").refusal() is Refusal.MISMATCH


@pytest.mark.parametrize("cut", [1, 4, 40, 90])
def test_a_truncated_signature_is_refused(cut: int) -> None:
    signed = sendgrid()
    raw = b64decode(signed.request.headers[SIGNATURE])
    whole_groups = b64encode(raw[: -min(cut, len(raw) - 1)]).decode()
    assert signed.with_headers(**{SIGNATURE: whole_groups}).refusal() is Refusal.MISMATCH
    assert signed.with_headers(**{SIGNATURE: signed.request.headers[SIGNATURE][:-cut]}).refusal() is not None


@pytest.mark.parametrize(
    ("header", "value", "reason"),
    [
        (SIGNATURE, None, Refusal.MISSING),
        (SIGNATURE, "", Refusal.MISSING),
        (STAMP, None, Refusal.MISSING),
        (STAMP, "", Refusal.MISSING),
        (SIGNATURE, " ", Refusal.MALFORMED),
        (SIGNATURE, "sïgnature", Refusal.MALFORMED),
        (SIGNATURE, "\udcff\udcfe", Refusal.MALFORMED),
        (SIGNATURE, "AAAA", Refusal.MISMATCH),
        (SIGNATURE, "MAYCAQACAQA=", Refusal.MISMATCH),  # r = s = 0
        (STAMP, "now", Refusal.MALFORMED),
        (STAMP, "-1793707200", Refusal.MALFORMED),
        (STAMP, "1793707200.5", Refusal.MALFORMED),
        (STAMP, "\u0661\u0662", Refusal.MALFORMED),  # digits of another script
        (STAMP, "9" * 5_000, Refusal.MALFORMED),
    ],
)
def test_a_header_that_is_none_is_refused(header: str, value: str | None, reason: Refusal) -> None:
    assert sendgrid().with_headers(**{header: value}).refusal() is reason


@pytest.mark.parametrize(
    ("age_s", "window_s", "reason"),
    [
        (0, 600, None),
        (600, 600, None),
        (601, 600, Refusal.STALE),
        (-86_400, 600, None),
        (-86_401, 600, Refusal.STALE),
        (86_400, None, None),
        (-86_400, None, None),
        (1, 0, Refusal.STALE),
    ],
)
def test_a_stamp_is_held_against_the_window(age_s: int, window_s: float | None, reason: Refusal | None) -> None:
    stamp = str(int((NOW - timedelta(seconds=age_s)).timestamp()))
    assert replace(sendgrid(stamp=stamp), window_s=window_s).refusal() is reason


def test_a_retry_of_a_day_ago_is_not_lost_by_default() -> None:
    assert PROVIDERS["sendgrid"].replay_window_s is None


def test_a_forger_learns_nothing_about_the_window() -> None:
    forged = sendgrid(key="second", stamp="1000000000")
    assert forged.refusal() is Refusal.MISMATCH


@given(body=st.binary(max_size=200))
def test_whatever_body_is_signed_is_taken_as_it_is(body: bytes) -> None:
    expected = Refusal.MALFORMED if body[:1].isdigit() else None
    assert sendgrid(body).refusal() is expected
    assert sendgrid(body).with_body(body + b" ").refusal() in {expected, Refusal.MISMATCH} - {None}


def test_a_batch_of_a_megabyte_is_taken() -> None:
    assert sendgrid(b"[" + b'{"event":"open"},' * 60_000 + b"{}]").refusal() is None


def test_the_key_is_a_public_one() -> None:
    assert PROVIDERS["sendgrid"].secret_fault(public_base64(p256())) is None
