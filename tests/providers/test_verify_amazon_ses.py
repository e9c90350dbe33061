"""Amazon SES: what SNS signs, whose certificate it is, how a subscription is confirmed, and what comes unsigned."""

import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.providers import PROVIDERS, Refusal, VerificationError, _proof, _sns
from tests.providers.effort import is_affordable
from tests.providers.signing import (
    HOSTILE_JSON,
    NOW,
    SES_RECORD,
    TOPIC,
    Signed,
    basic,
    certificate,
    confirmation,
    notification,
    request,
    sign_sns,
    sns,
)

SES = PROVIDERS["amazon_ses"]
FIREHOSE_KEY = "x-amz-firehose-access-key"


def put(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change to a signed message: fields set, or left out if ``None``; its signature stays."""

    def change(message: dict[str, Any]) -> None:
        for name, value in fields.items():
            message[name] = value
            if value is None:
                del message[name]

    return change


# --- what is signed ---


@pytest.mark.parametrize("version", ["1", "2"])
def test_both_versions_of_the_signature_are_taken(version: str) -> None:
    assert sns(notification(version=version)).verify().key_id == "events"
    assert sns(confirmation(version=version)).verify().key_id == "events"
    assert sns(confirmation(version=version, Type="UnsubscribeConfirmation")).verify().key_id == "events"


def test_a_message_without_a_subject_is_taken() -> None:
    message = notification()
    del message["Subject"]
    assert sns(message).refusal() is None


def test_the_signed_text_is_the_one_that_amazon_documents() -> None:
    # The example of the page on verifying signatures.
    message = {
        "Type": "Notification",
        "MessageId": "4d4dc071-ddbf-465d-bba8-08f81c89da64",
        "TopicArn": "arn:aws:sns:us-east-2:123456789012:s4-MySNSTopic-1G1WEFCOXTC0P",
        "Subject": "My subject",
        "Message": "My Test Message",
        "Timestamp": "2019-01-31T04:37:04.321Z",
    }
    assert _sns._signed_text(message).decode().split("\n") == [
        *["Message", "My Test Message"],
        *["MessageId", "4d4dc071-ddbf-465d-bba8-08f81c89da64"],
        *["Subject", "My subject"],
        *["Timestamp", "2019-01-31T04:37:04.321Z"],
        *["TopicArn", "arn:aws:sns:us-east-2:123456789012:s4-MySNSTopic-1G1WEFCOXTC0P"],
        *["Type", "Notification"],
        "",
    ]


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=100))
def test_any_text_of_a_message_is_taken_as_signed(text: str) -> None:
    assert sns(notification(Message=text)).refusal() is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Message", SES_RECORD.replace("Delivery", "Bounce")),
        ("Message", SES_RECORD + " "),
        ("MessageId", "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf325"),
        ("Subject", "Another subject"),
        ("Subject", None),
        ("Timestamp", "2026-11-03T11:59:59.655Z"),
        ("SignatureVersion", "2"),
        ("Signature", b64encode(b"\0" * 256).decode()),
        ("Signature", b64encode(b"\0" * 255).decode()),
        ("Signature", "AAAA"),
    ],
)
def test_a_changed_field_is_a_mismatch(field: str, value: Any) -> None:
    assert sns().with_json(put(**{field: value})).refusal() is Refusal.MISMATCH


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("Signature", None, Refusal.MISSING),
        ("Signature", "", Refusal.MISSING),
        ("Signature", "not base64", Refusal.MALFORMED),
        ("Signature", "sïgnature", Refusal.MALFORMED),
        ("Signature", 7, Refusal.MALFORMED),
        ("SignatureVersion", "3", Refusal.MALFORMED),
        ("SignatureVersion", 1, Refusal.MALFORMED),
        ("SignatureVersion", None, Refusal.MALFORMED),
        ("SigningCertURL", None, Refusal.MISSING),
        ("Type", "Other", Refusal.MALFORMED),
        ("Type", None, Refusal.MALFORMED),
        ("Type", ["Notification"], Refusal.MALFORMED),
        ("Type", "SubscriptionConfirmation", Refusal.MALFORMED),  # it would need a Token
        ("Message", None, Refusal.MALFORMED),
        ("Message", {"eventType": "Delivery"}, Refusal.MALFORMED),
        ("MessageId", "a\nSubject\nb", Refusal.MALFORMED),
        ("MessageId", None, Refusal.MALFORMED),
        ("Subject", "a\nTimestamp\nb", Refusal.MALFORMED),
        ("Subject", ["a"], Refusal.MALFORMED),
        ("Timestamp", "2026-11-03 11:59:58", Refusal.MALFORMED),
        ("Timestamp", "2026-13-03T11:59:58.655Z", Refusal.MISMATCH),
        ("TopicArn", None, Refusal.MALFORMED),
        ("TopicArn", f"{TOPIC}\n", Refusal.MALFORMED),
        ("TopicArn", "arn:aws:sns:eu-west-1.evil.example/:123456789012:t", Refusal.MALFORMED),
    ],
)
def test_a_field_out_of_form_is_refused(field: str, value: Any, reason: Refusal) -> None:
    assert sns().with_json(put(**{field: value})).refusal() is reason


def test_a_signed_stamp_that_is_no_date_is_malformed() -> None:
    assert sns(notification(Timestamp="2026-13-03T11:59:58.655Z")).refusal() is Refusal.MALFORMED


def test_two_messages_never_share_a_signed_text() -> None:
    # Without forms for the fields, the line of a Subject could have been a part of Message, and the other way round.
    message = notification(Message="a\nMessageId\nb")
    signature = json.loads(sign_sns(message))["Signature"]
    shifted = {**message, "Message": "a", "MessageId": f"b\nMessageId\n{message['MessageId']}", "Signature": signature}
    assert _sns._signed_text(shifted) == _sns._signed_text(message)
    assert sns().with_body(json.dumps(shifted).encode()).refusal() is Refusal.MALFORMED


@pytest.mark.parametrize("field", ["eventType", "notificationType", "detail-type", "records"])
def test_what_is_added_beside_a_signed_message_is_not_believed(field: str) -> None:
    forged = json.loads(SES_RECORD.replace("Delivery", "Bounce").replace("delivery", "bounce"))
    forged[field] = [dict(forged)] if field == "records" else "Bounce"
    signed = sns()
    forged_too = signed.with_json(lambda message: message.update(forged))
    assert SES.normalise(forged_too.request) == SES.normalise(signed.request)


def test_a_body_of_several_messages_is_not_signed() -> None:
    body = sns().request.body
    for several in (b"[%b]" % body, b"%b\n%b" % (body, SES_RECORD.encode())):
        assert sns().with_body(several).refusal() is Refusal.MISSING


def test_raw_message_delivery_has_no_signature() -> None:
    assert sns().with_body(SES_RECORD.encode()).refusal() is Refusal.MISSING


# --- whose it is ---


def test_a_topic_that_is_not_among_ours_is_untrusted_however_well_signed() -> None:
    foreign = notification(TopicArn="arn:aws:sns:eu-west-1:999999999999:mail-events")
    assert sns(foreign).refusal() is Refusal.UNTRUSTED
    assert sns(confirmation(TopicArn="arn:aws:sns:eu-west-1:999999999999:x")).refusal() is Refusal.UNTRUSTED


@pytest.mark.parametrize("listed", [TOPIC[:-1], TOPIC + "s", TOPIC.upper(), "arn:aws:sns:*:123456789012:mail-events"])
def test_a_topic_is_ours_by_its_whole_name_only(listed: str) -> None:
    assert replace(sns(), secrets={"a": listed}).refusal() in {Refusal.UNTRUSTED, Refusal.UNCONFIGURED}


BAD_URLS = [
    "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "HTTPS://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com@evil.example/SimpleNotificationService-0.pem",
    "https://sns.us-east-1.amazonaws.com:443@evil.example/SimpleNotificationService-0.pem",
    "https://evil.example/?https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://evil.example/sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://evil.example#sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://user:pw@sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com:443/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem?x=1",
    "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem#x",
    "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem\n",
    "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem%00",
    "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.txt",
    "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-/../x.pem",
    "https://sns.eu-west-1.amazonaws.com/a/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com//SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com\\SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com/evil.pem",
    "https://sns.eu-west-1.amazonaws.com/?Action=GetTopicAttributes&SimpleNotificationService-0.pem",
    "https://SNS.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com./SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.com.de/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonaws.cn/SimpleNotificationService-0.pem",
    "https://sns.eu-west-1.amazonawsXcom/SimpleNotificationService-0.pem",
    "https://snsXeu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sns.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sns.a.b.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sns.s3.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sns.s3-us-west-2.amazonaws.com/SimpleNotificationService-0.pem",  # a bucket named "sns"
    "https://sns.s3-eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",  # not the topic's region
    "https://sns.eu-west-1.amazonaws.com.cn/SimpleNotificationService-0.pem",
    "https://sns.bücket.amazonaws.com/SimpleNotificationService-0.pem",
    "https://evil-sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://s3.amazonaws.com/sns/SimpleNotificationService-0.pem",
    "https://sns.s3.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://bucket.s3.amazonaws.com/SimpleNotificationService-0.pem",
    "https://sqs.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "https://169.254.169.254/SimpleNotificationService-0.pem",
    "https://localhost/SimpleNotificationService-0.pem",
    "file:///SimpleNotificationService-0.pem",
    "//sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    " https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
    "",
    7,
    ["https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem"],
]


@pytest.mark.parametrize("url", BAD_URLS, ids=repr)
def test_a_certificate_from_elsewhere_is_untrusted_and_its_address_is_not_given_away(url: Any) -> None:
    # SigningCertURL is not signed: anybody can put what he likes there.
    signed = sns().with_json(put(SigningCertURL=url))
    assert signed.refusal() is Refusal.UNTRUSTED
    with pytest.raises(VerificationError) as refused:
        SES.certificate_url(signed.request)
    assert refused.value.reason is Refusal.UNTRUSTED
    assert "evil" not in str(refused.value)


@pytest.mark.parametrize(
    ("arn", "host"),
    [
        (TOPIC, "sns.eu-west-1.amazonaws.com"),
        ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:t", "sns.us-gov-west-1.amazonaws.com"),
        ("arn:aws-cn:sns:cn-north-1:123456789012:t", "sns.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_a_certificate_of_sns_is_fetched_from_where_the_message_says(arn: str, host: str) -> None:
    url = f"https://{host}/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem"
    assert SES.certificate_url(sns().with_json(put(TopicArn=arn, SigningCertURL=url)).request) == url


def test_a_region_is_never_the_legacy_address_of_a_bucket() -> None:
    url = "https://sns.s3-us-west-2.amazonaws.com/SimpleNotificationService-0.pem"
    signed = sns().with_json(put(TopicArn="arn:aws:sns:s3-us-west-2:123456789012:t", SigningCertURL=url))
    with pytest.raises(VerificationError) as refused:
        SES.certificate_url(signed.request)
    assert refused.value.reason is Refusal.MALFORMED


@pytest.mark.parametrize("body", [b"", b"[]", b"7", SES_RECORD.encode(), b"{", b"\xff"])
def test_what_is_no_message_of_sns_needs_no_certificate(body: bytes) -> None:
    assert SES.certificate_url(request(body)) is None
    assert SES.handshake(request(body)) is None


CERTIFICATES: dict[str, Callable[[], bytes | None]] = {
    "none": lambda: None,
    "empty": lambda: b"",
    "a page instead": lambda: b"<html>403 Forbidden</html>",
    "junk in PEM": lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "expired": lambda: certificate(not_after=NOW - timedelta(seconds=1)),
    "made out to another host": lambda: certificate(name="evil.example"),
    "made out to a host that looks like it": lambda: certificate(name="sns.amazonaws.com.evil.example"),
    "made out to another service": lambda: certificate(name="sqs.amazonaws.com"),
    "with another kind of key": lambda: certificate(elliptic=True),
    "with a short key": lambda: certificate(key="short"),
    "cut short": lambda: certificate()[:-60],
}


@pytest.mark.parametrize("name", sorted(CERTIFICATES))
def test_a_certificate_that_is_not_good_now_is_untrusted(name: str) -> None:
    key = "short" if "short key" in name else "sns"
    assert replace(sns(key=key), certificate=CERTIFICATES[name]()).refusal() is Refusal.UNTRUSTED


def test_a_good_certificate_with_another_key_is_a_mismatch() -> None:
    assert replace(sns(), certificate=certificate(key="another")).refusal() is Refusal.MISMATCH


def test_a_certificate_that_is_not_valid_yet_has_signed_so_our_clock_is_slow() -> None:
    for ahead, reason in ((timedelta(hours=1), None), (timedelta(days=1), None), (timedelta(days=2), Refusal.STALE)):
        assert replace(sns(), certificate=certificate(not_before=NOW + ahead)).refusal() is reason
    forged = replace(sns(key="another"), certificate=certificate(not_before=NOW + timedelta(days=2)))
    assert forged.refusal() is Refusal.MISMATCH


@pytest.mark.parametrize(
    "name",
    [
        "sns.amazonaws.com",
        "sns-us-gov-west-1.amazonaws.com",
        "sns-signing.eu-south-1.amazonaws.com",
        "sns-cn-north-1.amazonaws.com.cn",
    ],
)
def test_the_names_that_amazon_gives_its_certificates_are_taken(name: str) -> None:
    assert replace(sns(), certificate=certificate(name=name)).refusal() is None


@pytest.mark.parametrize(
    ("age_s", "window_s", "reason"),
    [
        (0, 3_600, None),
        (3_600, 3_600, None),
        (3_601, 3_600, Refusal.STALE),
        (-86_398, 3_600, None),
        (-86_402, 3_600, Refusal.STALE),
        (1_000_000, None, None),
    ],
)
def test_a_stamp_is_held_against_the_window(age_s: int, window_s: float | None, reason: Refusal | None) -> None:
    stamp = (NOW - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert replace(sns(notification(Timestamp=stamp)), window_s=window_s).refusal() is reason


def test_the_last_retry_of_sns_is_not_lost_by_default() -> None:
    assert SES.replay_window_s is not None
    assert SES.replay_window_s > 3_600 + 100 * 15


# --- confirming a subscription ---


def test_a_subscription_is_confirmed_by_an_address_made_from_arn_and_token() -> None:
    shake = SES.handshake(sns(confirmation(SubscribeURL="https://evil.example/?Token=x")).request)
    assert shake is not None
    assert shake.topic_arn == TOPIC
    parts = urlsplit(shake.confirm_url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "sns.eu-west-1.amazonaws.com", "/")
    assert parse_qs(parts.query) == {
        "Action": ["ConfirmSubscription"],
        "TopicArn": [TOPIC],
        "Token": ["2336412f37fb687f5d51e6e2425dacbbab"],
    }


def test_a_token_cannot_add_to_the_address() -> None:
    shake = SES.handshake(sns(confirmation(Token="a=b/c+d.e")).request)
    assert shake is not None
    assert shake.confirm_url.endswith("&Token=a%3Db%2Fc%2Bd.e")
    for token in ("a&Action=DeleteTopic", "a#b", "a b", "a\n", "ä", "", "x" * 1_001):
        with pytest.raises(VerificationError):
            SES.handshake(sns(confirmation(Token=token)).request)


@pytest.mark.parametrize(
    ("arn", "host"),
    [
        ("arn:aws-cn:sns:cn-north-1:123456789012:t", "sns.cn-north-1.amazonaws.com.cn"),
        ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:t", "sns.us-gov-west-1.amazonaws.com"),
        ("arn:aws:sns:ap-southeast-5:123456789012:t", "sns.ap-southeast-5.amazonaws.com"),
    ],
)
def test_the_host_is_the_one_of_the_topics_region(arn: str, host: str) -> None:
    shake = SES.handshake(sns(confirmation(TopicArn=arn)).request)
    assert shake is not None
    assert urlsplit(shake.confirm_url).netloc == host


def test_a_notification_is_no_handshake() -> None:
    assert SES.handshake(sns().request) is None


def test_a_subscription_that_was_ended_is_restored_by_the_same_call_and_says_so() -> None:
    asked = SES.handshake(sns(confirmation()).request)
    ended = SES.handshake(sns(confirmation(Type="UnsubscribeConfirmation")).request)
    assert asked is not None
    assert ended is not None
    assert ended.confirm_url == asked.confirm_url
    assert (asked.ended, ended.ended) == (False, True)


def test_the_token_of_a_handshake_is_not_printed() -> None:
    assert "2336" not in repr(SES.handshake(sns(confirmation()).request))


def test_a_handshake_is_about_no_delivery() -> None:
    assert SES.normalise(sns(confirmation()).request) == []


# --- what comes unsigned ---

UNSIGNED = Signed(
    provider="amazon_ses",
    request=request(SES_RECORD.encode(), {FIREHOSE_KEY: "a-long-random-key"}),
    secrets={"topic": TOPIC, "firehose": "header:X-Amz-Firehose-Access-Key:a-long-random-key", "raw": "basic:sns:pw"},
)


def test_firehose_and_event_bridge_are_taken_by_their_header() -> None:
    assert UNSIGNED.verify().key_id == "firehose"
    assert UNSIGNED.with_headers(**{FIREHOSE_KEY: "a-long-random-kez"}).refusal() is Refusal.MISMATCH
    assert UNSIGNED.with_headers(**{FIREHOSE_KEY: None}).refusal() is Refusal.MISSING


def test_raw_message_delivery_is_taken_by_its_user_and_password() -> None:
    raw = UNSIGNED.with_headers(**{FIREHOSE_KEY: None, "authorization": basic("sns:pw")})
    assert raw.verify().key_id == "raw"
    assert raw.with_headers(authorization=basic("sns:pW")).refusal() is Refusal.MISMATCH


def test_a_signed_message_is_taken_beside_credentials() -> None:
    both = replace(sns(), secrets=UNSIGNED.secrets)
    assert both.verify().key_id == "topic"
    assert both.with_json(put(Subject="changed")).refusal() is Refusal.MISMATCH
    assert both.with_json(put(Signature=None)).with_headers(authorization=basic("sns:pw")).verify().key_id == "raw"


def test_a_credential_does_not_confirm_a_subscription() -> None:
    # Whoever knows it may send events. He may not subscribe us to a topic of his.
    foreign = confirmation(TopicArn="arn:aws:sns:eu-west-1:999999999999:theirs")
    attempt = replace(sns(foreign), secrets=UNSIGNED.secrets).with_headers(authorization=basic("sns:pw"))
    assert attempt.refusal() is Refusal.UNTRUSTED
    only_credentials = replace(attempt, secrets={"raw": "basic:sns:pw"})
    assert only_credentials.refusal() is Refusal.UNTRUSTED


# --- what it may cost before anything is proved ---


@pytest.mark.parametrize("size", [_proof.PARSED_LIMIT, 8 * _proof.PARSED_LIMIT])
@pytest.mark.parametrize("name", sorted(HOSTILE_JSON))
def test_a_stranger_cannot_make_us_work(name: str, size: int) -> None:
    signed = json.dumps({"Type": "Notification", "TopicArn": TOPIC, "SigningCertURL": "", "Signature": "AAAA"}).encode()
    for body in (HOSTILE_JSON[name](size), signed[:-1] + b',"Message":' + HOSTILE_JSON[name](size - 200) + b"}"):
        attempt = replace(sns().with_body(body), secrets=UNSIGNED.secrets)

        def refused(attempt: Signed = attempt) -> None:
            for ask in (SES.certificate_url, SES.handshake):
                with suppress(VerificationError):
                    ask(attempt.request)
            assert attempt.refusal() is not None

        assert is_affordable(refused)


def test_a_signed_message_over_the_limit_is_malformed_and_not_parsed() -> None:
    fits = sns(notification(Message="x" * 262_144))
    assert fits.refusal() is None
    large = sns(notification(Message="x" * _proof.PARSED_LIMIT))
    assert large.refusal() is Refusal.MALFORMED
    assert replace(large, secrets=UNSIGNED.secrets).refusal() is Refusal.MALFORMED
    assert SES.certificate_url(large.request) is None
    assert SES.handshake(sns(confirmation(Message="x" * _proof.PARSED_LIMIT)).request) is None


def test_a_credential_proves_a_body_of_any_size() -> None:
    large = UNSIGNED.with_body(b'{"records":[]}' + b" " * 8 * _proof.PARSED_LIMIT)
    assert large.verify().key_id == "firehose"
    assert large.with_headers(**{FIREHOSE_KEY: "a-long-random-kez"}).refusal() is Refusal.MISMATCH
    assert SES.certificate_url(large.request) is None
    assert SES.handshake(large.request) is None


def test_firehose_is_answered_with_its_own_id() -> None:
    answer = SES.answer(request(b"", {"x-amz-firehose-request-id": "ed4acda5-034f-9f42-bba1-f29aea6d7d8f"}))
    assert answer is not None
    assert json.loads(answer) == {
        "requestId": "ed4acda5-034f-9f42-bba1-f29aea6d7d8f",
        "timestamp": int(NOW.timestamp() * 1_000),
    }


@pytest.mark.parametrize("request_id", ["", 'a"b', "<script>", "x" * 129, "a\n"])
def test_nothing_of_a_strange_id_is_echoed(request_id: str) -> None:
    assert SES.answer(request(b"", {"x-amz-firehose-request-id": request_id})) is None


def test_sns_is_content_with_any_answer() -> None:
    assert SES.answer(sns().request) is None
