"""What every provider's ``verify`` must do, whoever calls."""

import hmac
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from urllib.parse import unquote_plus

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import example, given
from hypothesis import strategies as st

from streams.domain.events import DeliveryEvent
from streams.providers import PROVIDERS, PoisonError, Refusal, VerificationError, _proof
from streams.providers import _fields as fields
from tests.providers.cases import CASES
from tests.providers.effort import is_affordable
from tests.providers.signing import GENUINE, HOSTILE_JSON, RESEND_OTHER, Signed, public_base64, request, rsa_key

every_provider = pytest.mark.parametrize("provider", sorted(PROVIDERS))
covered_provider = pytest.mark.parametrize(
    "provider", ["sendgrid", "amazon_ses", "resend"]
)  # their signatures cover the events


def test_there_is_a_genuine_request_for_every_provider() -> None:
    assert sorted(GENUINE) == sorted(PROVIDERS)


@every_provider
def test_a_genuine_request_is_taken_and_names_its_secret(provider: str) -> None:
    signed = GENUINE[provider]()
    assert signed.verify().key_id in signed.secrets


@every_provider
def test_a_genuine_request_is_understood(provider: str) -> None:
    events = PROVIDERS[provider].normalise(GENUINE[provider]().request)
    assert [type(event) for event in events] == [DeliveryEvent]


@every_provider
def test_of_two_live_secrets_either_is_taken_by_its_own_name(provider: str) -> None:
    signed = GENUINE[provider]()
    (secret,) = signed.secrets.values()
    other = {
        "sendgrid": public_base64(ec.generate_private_key(ec.SECP256R1())),
        "amazon_ses": "arn:aws:sns:eu-west-1:123456789012:another",
        "azure_communication": "header:X-Mailstreams-Secret:another",
        "brevo": "header:X-Brevo-Secret:another",
        "resend": RESEND_OTHER,
    }.get(provider, "basic:someone:else")
    assert replace(signed, secrets={"old": other, "new": secret}).verify().key_id == "new"
    assert replace(signed, secrets={"old": secret, "new": other}).verify().key_id == "old"
    assert replace(signed, secrets={"old": other}).refusal() in {Refusal.MISMATCH, Refusal.UNTRUSTED}


@every_provider
def test_a_secret_that_cannot_be_used_does_not_hide_one_that_can(provider: str) -> None:
    signed = GENUINE[provider]()
    (secret,) = signed.secrets.values()
    assert replace(signed, secrets={"spoilt": " ", "good": secret}).verify().key_id == "good"


@every_provider
@pytest.mark.parametrize("secrets", [{}, {"a": ""}, {"a": " \t\n"}], ids=["none", "empty", "blank"])
def test_without_a_usable_secret_nothing_is_taken(provider: str, secrets: dict[str, str]) -> None:
    assert replace(GENUINE[provider](), secrets=secrets).refusal() is Refusal.UNCONFIGURED


@every_provider
def test_the_headers_alone_prove_the_sender_exactly_where_it_sends_a_credential(provider: str) -> None:
    signed = GENUINE[provider]()
    sends_a_credential = provider in {"azure_communication", "brevo", "mailjet", "postmark"}
    assert PROVIDERS[provider].read_headers(signed.request.headers, signed.secrets) is sends_a_credential
    if sends_a_credential:  # then its body is not even read
        with pytest.raises(VerificationError, match="no credential"):
            PROVIDERS[provider].read_headers({}, signed.secrets)


@every_provider
def test_without_any_proof_it_is_missing(provider: str) -> None:
    body = b'[{"event":"delivered"}]' if provider == "sendgrid" else b'{"event-data":{},"RecordType":"Delivery"}'
    signed = replace(GENUINE[provider](), request=request(body))
    assert signed.refusal() is Refusal.MISSING


@every_provider
@pytest.mark.parametrize("other", sorted(GENUINE))
def test_a_request_that_is_genuine_for_another_provider_is_refused(provider: str, other: str) -> None:
    if other != provider:
        swapped = replace(GENUINE[provider](), request=GENUINE[other]().request)
        assert swapped.refusal() is not None


@every_provider
@pytest.mark.parametrize("other", sorted(GENUINE))
def test_a_secret_of_another_provider_lets_nothing_in(provider: str, other: str) -> None:
    if other != provider:
        assert replace(GENUINE[provider](), secrets=GENUINE[other]().secrets).refusal() is not None


@every_provider
def test_no_payload_is_taken_without_its_proof(provider: str) -> None:
    genuine = GENUINE[provider]()

    taken = [case for case in CASES if replace(genuine, request=request(case.body)).refusal() is None]

    assert [f"{case.provider}/{case.name}" for case in taken] == []


@covered_provider
def test_a_body_changed_by_one_bit_anywhere_is_refused_or_means_the_same(provider: str) -> None:
    signed = GENUINE[provider]()
    body = signed.request.body
    meant = PROVIDERS[provider].normalise(signed.request)
    taken = 0
    for position in range(len(body)):
        for bit in (0, 5):
            forged = signed.with_body(bytes([*body[:position], body[position] ^ (1 << bit), *body[position + 1 :]]))
            if forged.refusal() is None:
                # SNS signs fields, not bytes: UnsubscribeURL and the names of unsigned fields are free to change.
                assert provider == "amazon_ses"
                assert PROVIDERS[provider].normalise(forged.request) == meant
                taken += 1
    assert provider == "amazon_ses" or not taken


@covered_provider
@pytest.mark.parametrize("cut", [1, 2, 10, 100])
def test_a_truncated_body_is_refused(provider: str, cut: int) -> None:
    signed = GENUINE[provider]()
    assert signed.with_body(signed.request.body[:-cut]).refusal() is not None


# --- whatever comes ---

header_values = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="0123456789+/=ABCabc: \t", max_size=120),
    st.text(alphabet=st.characters(codec="utf-8", categories=["Cs", "L", "Nd"]), max_size=20),
    st.binary(max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.sampled_from(["", " ", "Basic", "Basic ", "Basic =", "basic Og==", "Bearer x", "\ud800", "é", "0" * 5_000]),
)
header_names = st.sampled_from(
    [
        "authorization",
        "x-token",
        "x-amz-firehose-request-id",
        "x-amz-firehose-access-key",
        *sorted(GENUINE["sendgrid"]().request.headers),
        *sorted(GENUINE["resend"]().request.headers),
    ]
)
bodies = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([make().request.body for make in GENUINE.values()]),
    st.sampled_from([case.body for case in CASES]),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
            for name in ["Type", "Message", "Signature", "SigningCertURL", "TopicArn", "token", "signature", "Token"]
        },
    ).map(lambda value: json.dumps(value).encode()),
)


def _raises_nothing_else(call: Callable[[], object]) -> object:
    try:
        return call()
    except VerificationError:
        return None


@every_provider
@given(body=bodies, headers=st.dictionaries(header_names, header_values), certificate=st.none() | st.binary())
@example(body=b"", headers={}, certificate=None)
@example(body=b"[" * 100_000, headers={}, certificate=b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----")
def test_any_bytes_and_headers_are_refused_with_a_reason(
    provider: str, body: bytes, headers: dict[str, str], certificate: bytes | None
) -> None:
    genuine = GENUINE[provider]()
    asked = request(body, headers)
    attempt = Signed(provider=provider, request=asked, secrets=_foreign(provider), certificate=certificate)
    assert attempt.refusal() is not None
    known = PROVIDERS[provider]
    for ask in (known.certificate_url, known.handshake, known.consent, known.answer):
        _raises_nothing_else(lambda ask=ask: ask(asked))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    # With the true secret, only what carries the true proof may pass; of the bodies, that is Mailgun's and SNS' own.
    passed = _raises_nothing_else(replace(attempt, secrets=genuine.secrets, certificate=genuine.certificate).verify)
    if passed is not None:
        assert provider in {"mailgun", "amazon_ses"}
        assert body == genuine.request.body


def _foreign(provider: str) -> dict[str, str]:
    """Return secrets of the right form that no request here is made with."""
    return {
        "sendgrid": {"k": public_base64(ec.generate_private_key(ec.SECP256R1()))},
        "amazon_ses": {"k": "arn:aws:sns:eu-west-1:123456789012:ours", "h": "header:x-token:\x01\x02 no-one's"},
        "mailgun": {"k": "no-one's"},
        "postmark": {"k": "basic:no:one's", "h": "header:x-token:\x01\x02 no-one's"},
        "azure_communication": {"k": "basic:no:one's", "h": "header:x-token:\x01\x02 no-one's"},
        "brevo": {"k": "basic:no:one's", "h": "header:x-token:\x01\x02 no-one's"},
        "mailjet": {"k": "basic:no:one's", "h": "header:x-token:\x01\x02 no-one's"},
        "resend": {"k": RESEND_OTHER},
    }[provider]


@every_provider
@given(secret=st.text(max_size=200))
@example(secret="basic::")
@example(secret="basic:a:")
@example(secret="header:a b:c")
@example(secret="header::c")
@example(secret="\ud800")
def test_any_secret_is_usable_or_has_a_fault_and_never_an_exception(provider: str, secret: str) -> None:
    genuine = GENUINE[provider]()
    refusal = replace(genuine, secrets={"k": secret}).refusal()
    fault = PROVIDERS[provider].secret_fault(secret)
    if fault is not None:
        assert refusal is Refusal.UNCONFIGURED
        assert len(secret) < 10 or secret not in fault
    else:
        assert refusal is not Refusal.UNCONFIGURED


@pytest.mark.parametrize(
    ("provider", "secret"),
    [
        ("sendgrid", "not base64"),
        ("sendgrid", public_base64(ec.generate_private_key(ec.SECP384R1()))),
        ("sendgrid", public_base64(rsa_key())),
        ("amazon_ses", "arn:aws:sqs:eu-west-1:123456789012:queue"),
        ("amazon_ses", "arn:aws:sns:eu-west-1:123456789012:topic:subscription"),
        ("amazon_ses", "arn:aws:sns:evil.example/:123456789012:topic"),
        ("mailgun", ""),
        ("mailgun", '"6e8f2a"'),
        ("postmark", "user:password"),
        ("postmark", "basic:user"),
        ("postmark", "header:X Token:value"),
        ("azure_communication", "X-Token:value"),
        ("azure_communication", "header:X-Token"),
        ("brevo", "Bearer a-token"),
        ("brevo", "header:Authorization"),
        ("mailjet", "https://mailjet:password@hooks.sender.example"),
        ("resend", "re_123456789"),
        ("resend", "whsec_"),
        ("resend", "whsec_MfKQ9r8GKYqrTwjU"),
        ("resend", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ],
)
def test_a_mistyped_secret_has_a_fault(provider: str, secret: str) -> None:
    assert PROVIDERS[provider].secret_fault(secret) is not None


def test_a_secret_that_the_genuine_request_needs_has_no_fault() -> None:
    for name, make in GENUINE.items():
        assert [PROVIDERS[name].secret_fault(secret) for secret in make().secrets.values()] == [None]


# --- what a refusal may say ---


@every_provider
def test_no_refusal_quotes_the_request_or_a_secret(provider: str) -> None:
    genuine = GENUINE[provider]()
    (secret,) = genuine.secrets.values()
    attempts = [
        genuine.with_headers(authorization="Basic am9AY3VzdG9tZXIuZXhhbXBsZTpzZWNyZXQ="),
        genuine.with_body(genuine.request.body.replace(b"customer", b"customed")),
        *(replace(GENUINE[other](), provider=provider, secrets=genuine.secrets) for other in GENUINE),
    ]
    refused = 0
    for attempt in attempts:
        error = attempt.refused()
        if error is not None:
            text = f"{error} {error!r} {error.reason}"
            assert "customer.example" not in text
            assert "@" not in text
            assert secret not in text
            assert not any(len(value) > 3 and value in text for value in attempt.request.headers.values())
            assert error.__context__ is None or error.__suppress_context__  # nor does a traceback
            refused += 1
    assert refused >= 3


# --- time ---


@pytest.mark.parametrize("provider", ["mailgun", "postmark", "amazon_ses", "azure_communication", "brevo", "mailjet"])
def test_a_secret_is_compared_in_constant_time(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def spy(first: bytes, second: bytes) -> bool:
        compared.append(len(first))
        return compare(first, second)

    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", spy)
    signed = GENUINE["mailgun" if provider == "mailgun" else "postmark"]()
    signed = replace(signed, provider=provider)
    assert signed.verify().key_id == "2026"
    wrong = {"2026": "basic:a:much longer secret than the one that was sent along"}
    assert replace(signed, secrets=wrong).refusal() is Refusal.MISMATCH
    assert compared == [32, 32]  # whole digests, whatever the lengths of what they were made of


def test_only_the_shared_comparison_touches_a_credential() -> None:
    wanted = _proof.credential("basic:user:password")
    assert wanted is not None
    assert b"password" not in wanted.digest
    assert "password" not in repr(wanted)


@every_provider
def test_what_is_refused_by_normalise_is_not_the_business_of_verify(provider: str) -> None:
    with pytest.raises(PoisonError):
        PROVIDERS[provider].normalise(request(b"no json"))


def test_every_reason_is_a_word_fit_for_a_label() -> None:
    assert sorted(Refusal) == ["malformed", "mismatch", "missing", "stale", "unconfigured", "untrusted"]


def test_keys_of_tests_differ_by_name() -> None:
    assert isinstance(rsa_key("a"), rsa.RSAPrivateKey)
    assert public_base64(rsa_key("a")) != public_base64(rsa_key("b"))


def test_the_measure_of_effort_refuses_what_a_megabyte_of_a_strangers_costs_when_it_is_read() -> None:
    for made in HOSTILE_JSON.values():
        text = made(_proof.PARSED_LIMIT)
        assert not is_affordable(partial(_read, text))
    names = ["%41" * (_proof.PARSED_LIMIT // 3_000)] * 1_000
    assert not is_affordable(lambda: [unquote_plus(name) for name in names])  # by its lines: it holds little


def _read(text: bytes) -> None:
    with suppress(PoisonError):
        fields.decode_body(text)
