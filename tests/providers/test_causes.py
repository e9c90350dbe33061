"""A provider that says why reaches the person who asks why: from the webhook to the advice, where the server's answer is mute."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from streams.domain.advice import advise
from streams.domain.events import BounceKind, DeliveryEvent, EventType
from tests.domain.deliveries import fold_all
from tests.providers.cases import PAYLOADS, outcome

BOUNCE, DEFERRED, DROPPED = EventType.BOUNCE, EventType.DEFERRED, EventType.DROPPED
HARD, SOFT, BLOCK = BounceKind.HARD, BounceKind.SOFT, BounceKind.BLOCK
HOUR_US = 3_600_000_000


def told(provider: str, record: Any) -> tuple[DeliveryEvent, str]:
    """Return the event of a webhook, and the code of the advice that follows when it is all that is known."""
    (event,) = outcome(provider, json.dumps(record).encode()).events
    return event, advise(fold_all([event]), support_contact=None, warn_after_us=HOUR_US).code


def payload(path: str) -> Any:
    return json.loads((PAYLOADS / f"{path}.json").read_bytes())


def ses_delay(delay_type: str, answer: str) -> Any:
    record = payload("amazon_ses/delivery_delay")
    record["deliveryDelay"]["delayType"] = delay_type
    record["deliveryDelay"]["delayedRecipients"][0] |= {"status": "4.0.0", "diagnosticCode": answer}
    return record


def ses_bounce(bounce_type: str, subtype: str, answer: str) -> Any:
    record = payload("amazon_ses/bounce_permanent_general")
    record["bounce"] |= {"bounceType": bounce_type, "bounceSubType": subtype}
    record["bounce"]["bouncedRecipients"][0] |= {"status": "5.0.0", "diagnosticCode": answer}
    return record


def mailgun_failure(severity: str | None, reason: str, **status: Any) -> Any:
    record = payload("mailgun/failed_permanent_old")
    record["event-data"] |= {"severity": severity, "reason": reason, "delivery-status": status}
    return record


def postmark_bounce(bounce_type: str, details: str, description: str) -> Any:
    return payload("postmark/bounce_dns_error") | {
        "Type": bounce_type, "Details": details, "Description": description,
    }  # fmt: skip


def azure_report(status: str, message: str) -> Any:
    (report,) = payload("azure_communication/report_failed")
    report["data"] |= {"status": status, "deliveryStatusDetails": {"statusMessage": message}}
    return [report]


def resend_bounce(bounce_type: str, subtype: str, *answers: str) -> Any:
    record = payload("resend/bounced_permanent_general")
    record["data"]["bounce"] |= {"type": bounce_type, "subType": subtype, "diagnosticCode": list(answers)}
    return record


@pytest.mark.parametrize(
    ("delay_type", "code"),
    [
        ("MailboxFull", "deferred_mailbox_full"),
        ("SendingDeferral", "deferred_held_by_provider"),
        ("IPFailure", "deferred_rate_or_reputation"),
        ("SpamDetected", "deferred_rate_or_reputation"),
        ("TransientCommunicationFailure", "deferred_unreachable"),
        ("BYOIPHostNameLookupUnavailable", "deferred_authentication"),
        ("RecipientServerError", "deferred_server_trouble"),
        ("InternalFailure", "deferred_provider_trouble"),
    ],
)
def test_why_ses_delays_a_message_is_told_where_the_answer_does_not_say_it(delay_type: str, code: str) -> None:
    event, advice = told("amazon_ses", ses_delay(delay_type, "smtp; 450 try again later"))

    assert advice == code
    assert event.reason == f"{delay_type}: smtp; 450 try again later"


def test_an_answer_that_says_why_weighs_more_than_the_word_of_ses() -> None:
    event, advice = told("amazon_ses", ses_delay("IPFailure", "smtp; 452 4.2.2 mailbox full"))

    assert advice == "deferred_mailbox_full"
    assert event.reason == "smtp; 452 4.2.2 mailbox full"


@pytest.mark.parametrize("delay_type", ["General", "Undetermined"])
def test_a_word_that_says_nothing_is_not_put_before_the_answer(delay_type: str) -> None:
    event, _ = told("amazon_ses", ses_delay(delay_type, "smtp; 450 try again later"))

    assert event.reason == "smtp; 450 try again later"


@pytest.mark.parametrize(
    ("bounce_type", "subtype", "kind", "code"),
    [
        ("Transient", "MailboxFull", SOFT, "mailbox_full"),
        ("Transient", "MessageTooLarge", SOFT, "message_too_large"),
        ("Transient", "AttachmentRejected", SOFT, "blocked"),
        ("Transient", "ContentRejected", SOFT, "blocked"),
        ("Transient", "CustomTimeoutExceeded", SOFT, "put_off_too_long"),
        ("Permanent", "NoEmail", HARD, "no_such_address"),
        ("Permanent", "General", HARD, "refused_address"),
    ],
)
def test_why_ses_gave_up_is_told_where_the_answer_does_not_say_it(
    bounce_type: str, subtype: str, kind: BounceKind, code: str
) -> None:
    event, advice = told("amazon_ses", ses_bounce(bounce_type, subtype, "smtp; 550 rejected"))

    assert (event.type, event.bounce_kind, advice) == (BOUNCE, kind, code)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("smtp; 451 4.7.1 Greylisting in action", "put_off_too_long"),
        ("smtp; 450 greylisted, try later", "put_off_too_long"),
        ("smtp; 421 too many connections", "put_off_too_long"),
        ("smtp; 450 4.2.1 The user you are trying to contact is receiving mail at a rate that", "put_off_too_long"),
        ("smtp; 452 4.2.2 mailbox full", "mailbox_full"),
        ("smtp; 421 4.4.1 connection timed out", "unreachable"),
    ],
)
def test_a_message_whose_time_was_over_at_ses_was_put_off_for_as_long_as_it_had(answer: str, code: str) -> None:
    event, advice = told("amazon_ses", ses_bounce("Transient", "CustomTimeoutExceeded", answer))

    assert (event.type, event.bounce_kind, advice) == (BOUNCE, SOFT, code)


@pytest.mark.parametrize(
    ("status", "answer", "code", "kind", "advice"),
    [
        ("5.1.1", "550 5.7.1 rejected", "5.7.1", BLOCK, "blocked"),
        ("5.1.3", "553 192.0.2.1 is listed at zen.spamhaus.org", None, BLOCK, "blocked"),
        ("5.2.2", "552 message exceeds fixed maximum message size", None, SOFT, "message_too_large"),
        ("5.2.2", "552 mailbox full", "5.2.2", SOFT, "mailbox_full"),
        ("5.2.2", "552 insufficient storage", "5.2.2", SOFT, "mailbox_full"),
    ],
)
def test_the_answer_outweighs_the_status_code_that_ses_and_sendgrid_have_beside_it(
    status: str, answer: str, code: str | None, kind: BounceKind, advice: str
) -> None:
    """SES has the DSN's ``Status``, which the server that reports the bounce may make of the reply code alone."""
    ses = ses_bounce("Transient", "General", f"smtp; {answer}")
    ses["bounce"]["bouncedRecipients"][0]["status"] = status
    (sendgrid,) = payload("sendgrid/bounce_blocked")
    sendgrid |= {"bounce_classification": None, "status": status, "reason": answer}

    for provider, record in (("amazon_ses", ses), ("sendgrid", [sendgrid])):
        event, found = told(provider, record)
        assert (event.enhanced_code, event.bounce_kind, found) == (code, kind, advice)


def test_an_event_is_the_same_one_whether_or_not_a_word_leads_its_answer() -> None:
    ids = {
        told("amazon_ses", ses_delay(delay_type, "smtp; 450 try again later"))[0].event_id
        for delay_type in ("MailboxFull", "General")
    }

    assert len(ids) == 1


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("greylisted", "deferred_rate_or_reputation"),
        ("espblock", "deferred_rate_or_reputation"),
        ("blacklisted", "deferred_rate_or_reputation"),
        ("generic", "deferred"),
    ],
)
def test_why_mailgun_tries_again_is_told_where_the_answer_does_not_say_it(reason: str, code: str) -> None:
    record = mailgun_failure("temporary", reason, code=451, message="try later", **{"retry-seconds": 600})

    event, advice = told("mailgun", record)

    assert (event.type, advice) == (DEFERRED, code)


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        ("blacklisted", BLOCK, "blocked"),
        ("espblock", BLOCK, "blocked"),
        ("greylisted", SOFT, "refused_this_message"),
        ("generic", HARD, "refused_address"),
    ],
)
@pytest.mark.parametrize("bounce_type", [None, "hard"])
def test_an_address_is_not_to_blame_for_what_mailgun_says_of_the_sender(
    reason: str, kind: BounceKind, code: str, bounce_type: str | None
) -> None:
    record = mailgun_failure("permanent", reason, code=550, message="rejected", **{"bounce-type": bounce_type})

    event, advice = told("mailgun", record)

    assert (event.type, event.bounce_kind, advice) == (BOUNCE, kind, code)


def test_a_severity_that_nobody_knows_says_nothing_of_the_address() -> None:
    event, advice = told("mailgun", mailgun_failure("internal", "generic", code=None, message=""))

    assert (event.type, event.bounce_kind, advice) == (BOUNCE, BounceKind.UNDETERMINED, "refused_unknown_why")


@pytest.mark.parametrize("severity", ["permanent", "temporary"])
@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"code": 602, "message": "Too old"}, "put_off_too_long"),
        ({"code": 498, "message": "No MX for [customer.example]"}, "unreachable"),
        ({"code": 451, "message": "451 4.7.1 Greylisted, try again"}, "put_off_too_long"),
        ({"code": 451, "message": "451 4.3.2 not accepting messages"}, "put_off_too_long"),
        ({"code": 452, "message": "452 4.2.2 mailbox full"}, "mailbox_full"),
        ({"code": 450, "message": "450 4.2.1 is receiving mail at a rate that prevents it"}, "put_off_too_long"),
    ],
)
def test_a_message_that_became_too_old_at_mailgun_was_given_up(
    severity: str, status: Mapping[str, Any], code: str
) -> None:
    event, advice = told("mailgun", mailgun_failure(severity, "old", **status))

    assert (event.type, advice) == (BOUNCE, code)
    assert event.bounce_kind is not HARD


@pytest.mark.parametrize(
    ("last_code", "last_message", "kind", "code"),
    [
        (452, "4.2.2 mailbox full", SOFT, "mailbox_full"),
        (421, "4.7.0 [TSS04] temporarily deferred due to user complaints", BLOCK, "blocked"),
        (451, "try again later", SOFT, "put_off_too_long"),
        (None, "", SOFT, "put_off_too_long"),
    ],
)
def test_a_message_that_became_too_old_at_mailgun_has_the_advice_of_the_last_answer_beside_it(
    last_code: int | None, last_message: str, kind: BounceKind, code: str
) -> None:
    last = {"last-code": last_code, "last-message": last_message}

    event, advice = told("mailgun", mailgun_failure("permanent", "old", code=602, message="Too old", **last))

    assert (event.type, event.bounce_kind, event.smtp_code, advice) == (BOUNCE, kind, last_code, code)
    assert event.reason == f"old: {last_message or 'Too old'}"


def test_a_message_that_became_too_old_is_tried_no_more_whatever_the_last_answer_was() -> None:
    last = {"last-code": 451, "last-message": "try again later"}

    event, _ = told("mailgun", mailgun_failure("", "old", code=602, message="Too old", **last))

    assert event.type is BOUNCE


def test_a_message_that_mailgun_will_try_again_is_not_given_up() -> None:
    event, _ = told("mailgun", mailgun_failure("temporary", "old", code=498, message="", **{"retry-seconds": 600}))

    assert event.type is DEFERRED


def test_an_outlook_mailbox_that_does_not_exist_is_a_hard_bounce() -> None:
    answer = "5.5.0 Requested action not taken: mailbox unavailable"

    event, advice = told("mailgun", mailgun_failure("permanent", "generic", code=550, message=answer))

    assert (event.bounce_kind, advice) == (HARD, "refused_address")


@pytest.mark.parametrize(
    "cause",
    [
        "Reject due to policy restrictions.",
        "Reject due to SPF policy.",
        "your IP is listed on Spamhaus",
        "Reject due to spam content",
    ],
)
def test_the_fixed_words_of_a_550_blame_no_address_where_a_cause_follows(cause: str) -> None:
    """RFC 5321 has "Requested action not taken: mailbox unavailable" for all of them."""
    answer = f"Requested action not taken: mailbox unavailable 550-{cause}"

    event, advice = told("mailgun", mailgun_failure("permanent", "generic", code=550, message=answer))

    assert (event.bounce_kind, advice) in {(BLOCK, "blocked"), (BLOCK, "authentication_refused")}


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (
            "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; the sender was not authenticated for this group",
            BLOCK,
            "blocked",
        ),
        ("530 5.7.1 Client was not authenticated", BLOCK, "blocked"),
        ("552 Message size exceeds maximum permitted", SOFT, "message_too_large"),
        ("552 Requested mail action aborted: exceeded storage allocation", SOFT, "mailbox_full"),
        ("552 1 Requested mail action aborted, mailbox not found", HARD, "no_such_address"),
        ("552 5.2.0 Suspected spam message rejected", BLOCK, "blocked"),
        ("553 5.3.0 flpd575 DNSBL:RBL 521< 192.0.2.1 >_is_blocked.For assistance forward this error", BLOCK, "blocked"),
        ("521 < 192.0.2.1 > is blocked", BLOCK, "blocked"),
        ("550 5.1.0 <us@ours.example> sender rejected", BLOCK, "blocked"),
        ("550 5.4.0 Error: no such user", HARD, "no_such_address"),
        ("550 User unknown", HARD, "no_such_address"),
        ("550 5.7.1 No such user!", HARD, "no_such_address"),  # Yandex, for every unknown address
        ("550 5.7.1 Recipient rejected: User unknown in relay recipient table", HARD, "no_such_address"),
        ("550 5.1.1 User unknown; sender domain ours.example", HARD, "no_such_address"),
        ("550 Invalid User: ann@customer.example", HARD, "no_such_address"),  # NetEase
        ("550 Local mailbox ann@customer.example is unavailable: user is terminated", HARD, "no_such_address"),
        ("550 Your account has been blocked due to spam", BLOCK, "blocked"),
        ("550 Mail to mailbox blocked using Spamhaus ZEN", BLOCK, "blocked"),
        ("550 5.7.18 Domain owner has changed", HARD, "owner_changed"),
    ],
)
def test_what_a_server_says_in_words_is_told_whatever_the_provider_calls_it(
    answer: str, kind: BounceKind, code: str
) -> None:
    mailgun, at_mailgun = told("mailgun", mailgun_failure("permanent", "generic", code=int(answer[:3]), message=answer))
    ses, at_ses = told("amazon_ses", ses_bounce("Permanent", "General", f"smtp; {answer}"))
    resend, at_resend = told("resend", resend_bounce("Permanent", "General", f"smtp; {answer}"))

    assert (mailgun.bounce_kind, at_mailgun) == (kind, code)
    assert (ses.bounce_kind, at_ses) == (BLOCK if kind is BLOCK else HARD, code)  # SES has no word for a block
    assert (resend.bounce_kind, at_resend) == (ses.bounce_kind, code)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("550 mailbox blocked for inactivity", HARD),
        ("550 relay01.x.example: recipient rejected", HARD),
        ("550 Recipient suspended (policy)", HARD),
        ("550 mailbox is inactive, see http://x.example/policy", HARD),
        ("550 5.7.1 Recipient address rejected: User unknown in relay recipient table", HARD),
        ("550 relay02 rejected the recipient, relay", HARD),
        ("550 Message refused: poor reputation", BLOCK),
        ("550 Administrative prohibition - envelope blocked - https://community.x.example/docs/DOC-1369", BLOCK),
        ("550 Rejected by header based Anti-Spoofing policy", BLOCK),  # Mimecast, as the one before
        ("554-Transaction failed 554-Reject due to policy restrictions.", BLOCK),  # GMX
        ("550 relay not permitted", BLOCK),
        ("550 5.3.0 relay access denied", BLOCK),
        ("550 denied by administrative policy", BLOCK),
        ("554 IP address is black listed.", BLOCK),  # WEB.DE
        ("554 192.0.2.1 found on one or more DNSBLs", BLOCK),  # Comcast
        ("554-No SMTP service 554-Bad DNS PTR resource record", BLOCK),  # GMX
        ("550 SPF: 192.0.2.1 is not allowed to send mail", BLOCK),
        ("554 DT:SPM 163 mx1,please see http://mail.x.example/help/help_spam_16.htm", BLOCK),  # NetEase
        ("550 listed at rbl.x.example", BLOCK),
        ("550-Response: 550 5.1.1 <us@ours.example>: User unknown 550 Sender verify failed", BLOCK),
    ],
)
def test_a_single_word_does_not_outweigh_that_the_provider_blames_the_address(answer: str, kind: BounceKind) -> None:
    mailgun, _ = told(
        "mailgun", mailgun_failure("permanent", "bounce", code=550, message=answer, **{"bounce-type": "hard"})
    )
    ses, _ = told("amazon_ses", ses_bounce("Permanent", "General", f"smtp; {answer}"))

    assert (mailgun.bounce_kind, ses.bounce_kind) == (kind, kind)


@pytest.mark.parametrize(
    ("case", "kind", "code"),
    [
        ("permanent_general_without_answer", HARD, "refused_address"),
        ("permanent_no_email", HARD, "refused_address"),  # says of no address that it does not exist
        ("permanent_message_rejected", BLOCK, "blocked"),
        ("transient_mailbox_full", SOFT, "mailbox_full"),
        ("transient_message_too_large", SOFT, "message_too_large"),
        ("transient_content_rejected", SOFT, "blocked"),
        ("transient_attachment_rejected", SOFT, "blocked"),
        ("undetermined", BounceKind.UNDETERMINED, "refused_unknown_why"),
    ],
)
def test_why_it_came_back_is_told_by_resends_word_where_it_has_no_answer(
    case: str, kind: BounceKind, code: str
) -> None:
    record = payload(f"resend/bounced_{case}")
    record["data"]["bounce"].pop("diagnosticCode", None)

    event, advice = told("resend", record)

    assert (event.type, event.bounce_kind, advice) == (BOUNCE, kind, code)


@pytest.mark.parametrize(
    ("case", "event_type", "code"),
    [
        ("bounced_transient_general", EventType.BOUNCE_OR_AUTO_REPLY, "refused_or_auto_reply"),
        ("bounced_permanent_suppressed", DROPPED, "dropped_bounced_before"),
        ("bounced_permanent_on_account_suppression_list", DROPPED, "dropped_bounced_before"),
        ("suppressed", DROPPED, "dropped_bounced_before"),
        ("suppressed_for_a_complaint", DROPPED, "dropped_spam_report"),
        ("failed", DROPPED, "dropped"),
        ("delivery_delayed", DEFERRED, "deferred"),
    ],
)
def test_what_resend_did_not_send_or_cannot_tell_has_its_advice(case: str, event_type: EventType, code: str) -> None:
    event, advice = told("resend", payload(f"resend/{case}"))

    assert (event.type, advice) == (event_type, code)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("unable to get a response within 72 hours", "put_off_too_long"),
        ("delivery expired, last response: 421 try later", "put_off_too_long"),
        ("delivery expired, last response: 452 4.2.2 mailbox full", "mailbox_full"),
        ("451 4.7.1 blocked by policy", "blocked"),
        ("expired", "put_off_too_long"),
    ],
)
def test_a_message_that_expired_at_sendgrid_was_put_off_too_long(answer: str, code: str) -> None:
    record = payload("sendgrid/bounce_expired")
    del record[0]["status"]

    event, advice = told("sendgrid", [record[0] | {"reason": answer}])

    assert (event.type, event.bounce_kind, advice) == (BOUNCE, SOFT, code)


def test_the_examples_in_a_fixed_text_of_postmark_are_not_its_cause() -> None:
    description = (
        "Unable to temporarily deliver message (i.e. mailbox full, account disabled, exceeds quota, out of disk space)."
    )

    event, advice = told("postmark", postmark_bounce("SoftBounce", "", description))

    assert (event.reason, event.bounce_kind, advice) == (
        "Unable to temporarily deliver message.",
        SOFT,
        "refused_this_message",
    )


def test_a_dns_error_at_postmark_is_told_whatever_its_details_say() -> None:
    event, advice = told("postmark", postmark_bounce("DnsError", "smtp;451 try again later", "DNS error."))

    assert (event.type, advice) == (DEFERRED, "deferred_unreachable")
    assert event.reason == "DnsError: smtp;451 try again later"


def test_what_the_account_took_off_itself_is_no_unsubscription() -> None:
    event, advice = told("postmark", payload("postmark/bounce_manually_deactivated"))

    assert (event.type, event.suppression_list, advice) == (DROPPED, None, "dropped")


_BLOCKED = "550 5.7.1 Service unavailable, Client host [192.0.2.1] blocked using Spamhaus"


@pytest.mark.parametrize(
    "bounced",
    [
        ("amazon_ses", ses_bounce("Permanent", "General", f"smtp; {_BLOCKED}")),
        ("mailgun", mailgun_failure("permanent", "bounce", code=550, message=_BLOCKED, **{"bounce-type": "hard"})),
        ("mailgun", mailgun_failure("permanent", "bounce", code=550, message=_BLOCKED, **{"bounce-type": "soft"})),
        ("resend", resend_bounce("Permanent", "General", f"smtp; {_BLOCKED}")),
        ("azure_communication", azure_report("Failed", _BLOCKED)),
    ],
)
def test_a_class_that_says_only_permanent_or_given_up_yields_to_an_answer_that_is_about_the_sender(
    bounced: tuple[str, Any],
) -> None:
    event, advice = told(*bounced)

    assert (event.type, event.bounce_kind, advice) == (BOUNCE, BLOCK, "blocked")


@pytest.mark.parametrize(
    "bounced",
    [
        ("amazon_ses", ses_bounce("Permanent", "NoEmail", f"smtp; {_BLOCKED}")),
        ("amazon_ses", ses_bounce("Permanent", "General", "smtp; 552 5.2.2 mailbox full")),
        ("resend", resend_bounce("Permanent", "NoEmail", f"smtp; {_BLOCKED}")),
        ("resend", resend_bounce("Permanent", "General", "smtp; 552 5.2.2 mailbox full")),
        ("mailgun", mailgun_failure("permanent", "bounce", code=552, message="5.2.2 full", **{"bounce-type": "hard"})),
        ("postmark", postmark_bounce("HardBounce", f"smtp;{_BLOCKED}", "")),
        ("azure_communication", azure_report("Bounced", _BLOCKED)),
    ],
)
def test_any_other_class_of_hard_bounces_stays_hard(bounced: tuple[str, Any]) -> None:
    event, _ = told(*bounced)

    assert (event.type, event.bounce_kind) == (BOUNCE, HARD)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("550 5.1.1 Mailbox does not exist", "no_such_address"),
        ("DestinationMailboxFull", "mailbox_full"),
        ("", "refused_this_message"),
    ],
)
def test_what_azure_calls_failed_is_a_soft_bounce_where_nothing_says_that_we_are_refused(
    message: str, code: str
) -> None:
    event, advice = told("azure_communication", azure_report("Failed", message))

    assert (event.bounce_kind, advice) == (SOFT, code)
