"""Resend's signature: id, stamp and raw body, by HMAC, as Svix and the Standard Webhooks specify it."""

import hmac
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.providers import PROVIDERS, Refusal
from tests.providers.signing import (
    NOW,
    RESEND_BODY,
    RESEND_OTHER,
    RESEND_SECRET,
    Signed,
    request,
    resend,
    resend_signature,
)

prefixes = pytest.mark.parametrize("prefix", ["svix", "webhook"])


def official() -> Signed:
    """Return the example of https://docs.svix.com/receiving/verifying-payloads/how-manual."""
    headers = {
        "svix-id": "msg_loFOjxBNrRLzqYUf",
        "svix-timestamp": "1731705121",
        "svix-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    }
    return Signed(
        provider="resend",
        request=request(b'{"event_type":"ping","data":{"success":true}}', headers),
        secrets={"published": "whsec_plJ3nmyCDGBKInavdOK15jsl"},
        now=datetime(2024, 11, 15, 21, 13, tzinfo=UTC),
    )


def test_the_published_example_is_taken() -> None:
    assert official().verify().key_id == "published"
    assert official().verify().replay_token is None


@prefixes
def test_either_naming_of_the_headers_is_taken(prefix: str) -> None:
    assert resend(prefix=prefix).verify().key_id == "2026"


@prefixes
@pytest.mark.parametrize("name", ["id", "timestamp", "signature"])
def test_headers_of_both_namings_do_not_make_one_proof(prefix: str, name: str) -> None:
    other = {"svix": "webhook", "webhook": "svix"}[prefix]
    signed = resend(prefix=prefix)
    moved = {f"{prefix}-{name}": None, f"{other}-{name}": signed.request.headers[f"{prefix}-{name}"]}
    assert signed.with_headers(**moved).refusal() is Refusal.MISSING


def test_the_id_that_names_the_event_is_the_signed_one() -> None:
    signed = resend(prefix="webhook", own_id="msg_signed").with_headers(svix_id="msg_forged", svix_timestamp="1")
    assert signed.refusal() is None
    assert [event.event_id for event in PROVIDERS["resend"].normalise(signed.request)] == ["msg_signed"]


@pytest.mark.parametrize(
    "listed",
    [
        "{old} {new}",
        "{new} {old}",
        "v1a,bm90IG91cnM= {new}",
        "v2,{garbage} {new}",
        "v1,{garbage} {new}",
        "{new} nonsense",
        " {new} ",
        "v1, {new}",
    ],
)
def test_one_good_signature_of_a_list_is_enough(listed: str) -> None:
    signed = resend()
    stamp, own_id = signed.request.headers["svix-timestamp"], signed.request.headers["svix-id"]
    text = listed.format(
        new=signed.request.headers["svix-signature"],
        old=resend_signature(RESEND_BODY, own_id=own_id, stamp=stamp, secret=RESEND_OTHER),
        garbage="%%%",
    )
    assert signed.with_headers(svix_signature=text).verify().key_id == "2026"


@pytest.mark.parametrize("kept", ["old", "new"])
def test_during_a_rotation_either_secret_is_enough(kept: str) -> None:
    signed = resend()
    stamp, own_id = signed.request.headers["svix-timestamp"], signed.request.headers["svix-id"]
    both = " ".join(
        resend_signature(RESEND_BODY, own_id=own_id, stamp=stamp, secret=secret)
        for secret in (RESEND_SECRET, RESEND_OTHER)
    )
    secrets = {"old": RESEND_OTHER, "new": RESEND_SECRET}
    signed = replace(signed.with_headers(svix_signature=both), secrets={kept: secrets[kept]})
    assert signed.verify().key_id == kept


def test_a_signature_of_another_version_is_not_taken_for_ours() -> None:
    signed = resend()
    given = signed.request.headers["svix-signature"].removeprefix("v1,")
    for version in ("v1a", "v2", "V1", "", "v1,v1"):
        assert signed.with_headers(svix_signature=f"{version},{given}").refusal() is Refusal.MALFORMED


@pytest.mark.parametrize(
    ("header", "value", "reason"),
    [
        ("signature", None, Refusal.MISSING),
        ("signature", "", Refusal.MISSING),
        ("id", None, Refusal.MISSING),
        ("id", "", Refusal.MISSING),
        ("timestamp", None, Refusal.MISSING),
        ("timestamp", "", Refusal.MISSING),
        ("signature", " ", Refusal.MALFORMED),
        ("signature", "v1,", Refusal.MALFORMED),
        ("signature", "v1", Refusal.MALFORMED),
        ("signature", "v1,sïgnature", Refusal.MALFORMED),
        ("signature", "v1,\udcff\udcfe", Refusal.MALFORMED),
        ("signature", "v1,AAAA", Refusal.MISMATCH),
        ("signature", "v1," + "A" * 10_000, Refusal.MISMATCH),
        ("id", "msg_ümlaut", Refusal.MALFORMED),
        ("id", "msg_\udcff", Refusal.MALFORMED),
        ("id", "two parts", Refusal.MALFORMED),
        ("id", "m" * 257, Refusal.MALFORMED),
        ("id", "msg_another", Refusal.MISMATCH),
        ("timestamp", "now", Refusal.MALFORMED),
        ("timestamp", "-1793707200", Refusal.MALFORMED),
        ("timestamp", "1793707200.5", Refusal.MALFORMED),
        ("timestamp", "\u0661\u0662", Refusal.MALFORMED),  # digits of another script
        ("timestamp", "9" * 5_000, Refusal.MALFORMED),
        ("timestamp", "1793707201", Refusal.MISMATCH),
    ],
)
def test_a_header_that_is_none_is_refused(header: str, value: str | None, reason: Refusal) -> None:
    signed = resend().with_headers(**{f"svix-{header}": value})
    assert signed.refusal() is reason
    provider = PROVIDERS["resend"]
    if reason is not Refusal.MISMATCH:  # known by the headers alone, before the body is read
        with pytest.raises(Exception, match="signature"):
            provider.read_headers(signed.request.headers, signed.secrets)
    else:
        assert not provider.read_headers(signed.request.headers, signed.secrets)


@pytest.mark.parametrize(
    ("own_id", "stamp"), [("msg", "1793707200.1"), ("msg.1793707200", "1"), ("msg.", "1793707200")]
)
def test_a_part_cannot_move_across_a_full_stop(own_id: str, stamp: str) -> None:
    signed = resend(b"1.{}", own_id="msg", stamp="1793707200")
    text = f"msg.1793707200.{signed.request.body.decode()}"
    rest = text.removeprefix(f"{own_id}.{stamp}.") if text.startswith(f"{own_id}.{stamp}.") else "{}"
    moved = replace(signed, window_s=None).with_body(rest.encode()).with_headers(svix_id=own_id, svix_timestamp=stamp)
    assert moved.refusal() is Refusal.MALFORMED


@pytest.mark.parametrize(
    ("age_s", "window_s", "reason"),
    [
        (0, 300, None),
        (300, 300, None),
        (301, 300, Refusal.STALE),
        (-86_400, 300, None),
        (-86_401, 300, Refusal.STALE),
        (86_400, None, None),
        (1, 0, Refusal.STALE),
    ],
)
def test_a_stamp_is_held_against_the_window(age_s: int, window_s: float | None, reason: Refusal | None) -> None:
    stamp = str(int((NOW - timedelta(seconds=age_s)).timestamp()))
    assert replace(resend(stamp=stamp), window_s=window_s).refusal() is reason


def test_the_window_is_that_of_the_libraries_because_each_attempt_has_a_stamp_of_its_own() -> None:
    assert PROVIDERS["resend"].replay_window_s == 300


def test_a_forger_learns_nothing_about_the_window() -> None:
    assert resend(secret=RESEND_OTHER, stamp="1000000000").refusal() is Refusal.MISMATCH


@given(body=st.binary(max_size=200))
def test_whatever_body_is_signed_is_taken_as_it_is(body: bytes) -> None:
    assert resend(body).refusal() is None
    assert resend(body).with_body(body + b" ").refusal() is Refusal.MISMATCH


def test_a_secret_may_have_blanks_around_it() -> None:
    assert replace(resend(), secrets={"k": f" {RESEND_SECRET}\n"}).verify().key_id == "k"


def test_the_prefix_of_a_secret_is_no_part_of_its_key() -> None:
    own_id, stamp = "msg_1", str(int(NOW.timestamp()))
    whole = hmac.digest(RESEND_SECRET.encode(), f"{own_id}.{stamp}.".encode() + RESEND_BODY, "sha256")
    signed = resend(own_id=own_id, stamp=stamp).with_headers(svix_signature=f"v1,{b64encode(whole).decode()}")
    assert signed.refusal() is Refusal.MISMATCH


def test_a_signature_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def spy(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return compare(first, second)

    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", spy)
    signed = resend()
    assert signed.verify().key_id == "2026"
    given = b64decode(signed.request.headers["svix-signature"].removeprefix("v1,"))
    assert compared == [(given, given)]
