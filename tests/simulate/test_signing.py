"""What is signed here is what the ingress verifies; what is changed on its way is not."""

import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streams import codecs
from streams.providers import PROVIDERS, Refusal, Verification, VerificationError, WebhookRequest
from streams.simulate import signing
from streams.simulate.shapes import TOPIC_ARN, payload
from streams.simulate.signing import CERTIFICATE_FILE, KEY_ID, Secrets, Signed, signers
from streams.simulate.story import PROFILES, life

NOW = datetime.now(UTC).replace(microsecond=123456)
"""The certificates that are drawn are valid from yesterday on."""
SECRETS = signing.draw()
EVERY = pytest.mark.parametrize("provider", sorted(PROVIDERS))


def signed_by(secrets: Secrets, provider: str, *, at: datetime = NOW) -> Signed:
    one = life(seed=1, number=1, sent_at=NOW, profile=PROFILES["demo"], account="demo", providers=[provider])
    told = next(happening for happening in one.happenings if not happening.by_application)
    return signers(secrets)[provider](payload(provider, [told]), at=at)


def verify(provider: str, signed: Signed, *, now: datetime = NOW, secrets: Secrets = SECRETS) -> Verification:
    headers = {name.lower(): text for name, text in signed.headers.items()}
    request = WebhookRequest(signed.body, headers, "", "demo", now)
    known = PROVIDERS[provider]
    url = known.certificate_url(request)
    assert url is None or url.endswith(f"/{CERTIFICATE_FILE}")
    return known.verify(
        request,
        {KEY_ID: secrets.for_ingress()[provider]},
        now=now,
        replay_window_s=known.replay_window_s,
        certificate=None if url is None else SECRETS.sns_certificate.encode(),
    )


@EVERY
def test_what_is_signed_is_verified(provider: str) -> None:
    assert verify(provider, signed_by(SECRETS, provider)).key_id == KEY_ID


@EVERY
def test_the_secret_has_the_form_of_its_setting(provider: str) -> None:
    assert PROVIDERS[provider].secret_fault(SECRETS.for_ingress()[provider]) is None


@EVERY
def test_what_was_signed_with_other_secrets_is_refused(provider: str) -> None:
    with pytest.raises(VerificationError) as refused:
        verify(provider, signed_by(signing.draw(), provider))
    assert refused.value.reason is Refusal.MISMATCH


@pytest.mark.parametrize("provider", ["sendgrid", "amazon_ses"])
def test_a_body_that_was_changed_is_refused(provider: str) -> None:
    signed = signed_by(SECRETS, provider)
    changed = Signed(signed.body.replace(b"INV-", b"INV_"), signed.headers)

    with pytest.raises(VerificationError):
        verify(provider, changed)


def test_the_simulators_certificate_proves_nothing_of_another_topic() -> None:
    arn = "arn:aws:sns:eu-west-1:999988887777:production-mail"
    signed = signing.SignSns(SECRETS.sns_private_key, topic_arn=arn)({"eventType": "Delivery"}, at=NOW)
    request = WebhookRequest(signed.body, {}, "", "billing", NOW)
    known = PROVIDERS["amazon_ses"]

    with pytest.raises(VerificationError) as asked:
        known.certificate_url(request)
    with pytest.raises(VerificationError) as refused:
        known.verify(
            request, {"events": arn}, now=NOW, replay_window_s=None, certificate=SECRETS.sns_certificate.encode()
        )
    assert asked.value.reason is refused.value.reason is Refusal.UNTRUSTED


@pytest.mark.parametrize("provider", ["amazon_ses", "mailgun"])
def test_the_stamp_is_that_of_the_sending(provider: str) -> None:
    with pytest.raises(VerificationError) as refused:
        verify(provider, signed_by(SECRETS, provider, at=NOW - timedelta(days=2)))
    assert refused.value.reason is Refusal.STALE


def test_each_request_of_mailgun_has_a_token_of_its_own() -> None:
    tokens = {verify("mailgun", signed_by(SECRETS, "mailgun")).replay_token for _ in range(5)}

    assert len(tokens) == 5


def test_a_repeated_notification_of_sns_keeps_its_id() -> None:
    once, again = (signed_by(SECRETS, "amazon_ses").headers["x-amz-sns-message-id"] for _ in range(2))

    assert once == again


def test_raw_delivery_is_verified_by_its_credential() -> None:
    secret = "basic:sns:a:word"
    one = life(seed=1, number=1, sent_at=NOW, profile=PROFILES["demo"], account="demo", providers=["amazon_ses"])
    sign = signing.SignRawDelivery(signing.credential(secret))
    signed = sign(payload("amazon_ses", one.happenings[:1]), at=NOW)
    headers = {name.lower(): text for name, text in signed.headers.items()}
    request = WebhookRequest(signed.body, headers, "", "demo", NOW)

    found = PROVIDERS["amazon_ses"].verify(
        request, {"topic": TOPIC_ARN, "raw": secret}, now=NOW, replay_window_s=None, certificate=None
    )

    assert (found.key_id, len(PROVIDERS["amazon_ses"].normalise(request))) == ("raw", 1)


@pytest.mark.parametrize("secret", ["", "secret-of-ours", "header:x", "header:x:"])
def test_what_describes_no_credential_is_refused_without_a_word_of_it(secret: str) -> None:
    with pytest.raises(ValueError, match="neither basic") as refused:
        signing.credential(secret)
    assert "ours" not in str(refused.value)


def test_a_header_credential_is_sent_as_that_header() -> None:
    assert signing.credential("header:X-Hook:a:b") == {"X-Hook": "a:b"}


def test_secrets_are_made_once_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "simulate"

    made = signing.load(folder)

    assert signing.load(folder) == made
    assert signing.load(tmp_path / "other") != made
    assert stat.S_IMODE((folder / signing.SECRETS_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / signing.CERTIFICATES / CERTIFICATE_FILE).read_text() == made.sns_certificate
    assert sorted(path.name for path in folder.iterdir()) == [signing.CERTIFICATES, signing.SECRETS_FILE]


@pytest.mark.parametrize("name", ["azure_header_value", "brevo_token", "mailjet_password", "resend_signing_secret"])
def test_a_file_from_before_a_provider_keeps_its_secrets_and_gets_the_one_that_it_lacks(
    tmp_path: Path, name: str
) -> None:
    made = signing.load(tmp_path)
    older = codecs.decode((tmp_path / signing.SECRETS_FILE).read_bytes())
    del older[name]
    (tmp_path / signing.SECRETS_FILE).write_bytes(codecs.encode(older))

    found = signing.load(tmp_path)

    assert getattr(found, name) not in {"", getattr(made, name)}
    assert replace(found, **{name: getattr(made, name)}) == made
    assert signing.load(tmp_path) == found


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"sendgrid_private_key": "the-secret"}'])
def test_a_file_of_something_else_is_refused_without_a_word_of_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / signing.SECRETS_FILE).write_bytes(content)

    with pytest.raises(ValueError, match=r"holds no secrets of the simulator") as refused:
        signing.load(tmp_path)
    assert "the-secret" not in str(refused.value)
