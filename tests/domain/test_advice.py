"""What people are told: every advice can be reached, every status and cause has one, and none has a hole in it."""

import re

import pytest
from hypothesis import given

from streams.domain.advice import ADVICE, ALERT_ADVICE, Advice, advise, advise_deferral
from streams.domain.deferrals import Ending, Level
from streams.domain.events import BounceKind, DeliveryEvent, EventType, SuppressionList
from streams.domain.reasons import ReasonClass, classify
from streams.domain.smtp import AUTHENTICATION
from streams.domain.status import Kind, Status
from tests.domain.deliveries import event, fold_all, histories

HOUR = 3_600_000_000
SENT, DEFERRED, DELIVERED = EventType.SENT, EventType.DEFERRED, EventType.DELIVERED
BOUNCE, DROPPED = EventType.BOUNCE, EventType.DROPPED
HARD, SOFT, BLOCK, UNDETERMINED = BounceKind.HARD, BounceKind.SOFT, BounceKind.BLOCK, BounceKind.UNDETERMINED


def advice(*events: DeliveryEvent, support: str | None = "billing support (room 12)") -> Advice:
    return advise(fold_all(events), support_contact=support, warn_after_us=HOUR)


def bounce(kind: BounceKind, code: str | None = None, reason: str | None = None) -> list[DeliveryEvent]:
    return [event(SENT), event(BOUNCE, 5, kind=kind, enhanced_code=code, reason=reason)]


def deferral(code: str | None = None, reason: str | None = None) -> list[DeliveryEvent]:
    return [event(SENT), event(DEFERRED, 5, enhanced_code=code, reason=reason)]


def drop(by: SuppressionList | None) -> list[DeliveryEvent]:
    return [event(DROPPED, 5, suppression_list=by)]


EXPIRED = "smtp; 550 4.4.7 Message expired: unable to deliver in 840 minutes."  # SES; the last answer follows

CASES: list[tuple[str, list[DeliveryEvent]]] = [
    ("wait_for_answer", [event(SENT)]),
    ("auto_reply_only", [event(EventType.AUTO_REPLY)]),
    ("wait_for_answer", [event(SENT), event(EventType.AUTO_REPLY)]),
    ("accepted", [event(DELIVERED)]),
    ("accepted_read_by_machine", [event(DELIVERED), event(EventType.MACHINE_OPEN, 5)]),
    ("accepted_after_refusal", [event(BOUNCE, 0, kind=HARD), event(DELIVERED, 100)]),
    ("marked_as_spam", [event(DELIVERED), event(EventType.COMPLAINT, 5)]),
    ("marked_as_spam", [event(EventType.OPEN), event(EventType.COMPLAINT, 5), event(EventType.UNSUBSCRIBE, 6)]),
    ("unsubscribed", [event(EventType.OPEN), event(EventType.UNSUBSCRIBE, 5)]),
    ("opened", [event(DELIVERED), event(EventType.OPEN, 5)]),
    ("opened", [event(DELIVERED), event(EventType.MACHINE_OPEN, 5), event(EventType.CLICK, 5)]),
    ("no_such_address", bounce(HARD, "5.1.1")),
    ("no_such_domain", bounce(HARD, "5.1.2")),
    ("no_such_domain", bounce(HARD, "5.1.10")),
    ("no_such_domain", bounce(SOFT, "5.4.4")),
    ("owner_changed", bounce(HARD, "5.7.17", "550 5.7.17 Mailbox owner has changed")),
    ("owner_changed", bounce(HARD, "5.7.18")),
    ("no_such_domain", bounce(HARD, "5.4.310", "550 5.4.310 DNS domain mail.example does not exist")),
    (
        "no_such_address",
        bounce(HARD, "5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found by SMTP address lookup"),
    ),
    ("no_such_address", bounce(HARD, "5.4.1", "550 5.4.1 Recipient address rejected: Access denied")),
    ("no_such_address", bounce(HARD, "5.4.1", "550 5.4.1 All recipient addresses rejected : Access denied")),
    ("unreachable", bounce(SOFT, "5.4.1", "550 5.4.1 no answer from host")),
    ("unreachable", bounce(SOFT, None, "Unable to find MX of domain mail.example")),  # Brevo, in its own words
    ("unreachable", bounce(SOFT, None, "connection closed by recipient's server")),
    (
        "refused_this_message",  # a server's words
        [event(SENT), event(BOUNCE, 5, kind=SOFT, smtp_code=551, reason="551 Host not found in our tables")],
    ),
    ("mail_loop", bounce(SOFT, "5.4.6", "554 5.4.6 Too many hops")),
    ("mail_loop", bounce(SOFT, "5.4.14", "554 5.4.14 Hop count exceeded - possible mail loop ATTR34")),
    ("malformed_address", bounce(HARD, "5.1.3")),
    ("mailbox_moved", bounce(HARD, "5.1.6")),
    ("mailbox_closed", bounce(HARD, "5.2.1")),
    ("mailbox_full", bounce(SOFT, "5.2.2")),
    ("mailbox_full", bounce(SOFT, "4.2.2")),
    ("message_too_large", bounce(SOFT, "5.2.3")),
    ("message_too_large", bounce(SOFT, "5.3.4")),
    ("put_off_too_long", bounce(SOFT, "4.4.7")),
    ("put_off_too_long", bounce(SOFT, "5.4.7", "smtp; 5.4.7 - Delivery expired (message too old)")),
    ("put_off_too_long", bounce(SOFT, "5.4.300", "550 5.4.300 Message expired -> 421 4.3.2 not accepting messages")),
    ("put_off_too_long", bounce(SOFT, "4.4.7", f"{EXPIRED}<451 4.7.1 Greylisted, try again>")),
    ("put_off_too_long", bounce(SOFT, "4.4.7", f"{EXPIRED}<450 4.2.1 is receiving mail too quickly>")),
    ("put_off_too_long", bounce(SOFT, "4.4.7", "550 4.4.7 Message expired: timed out in the queue")),
    ("put_off_too_long", bounce(SOFT, "5.4.300", "5.4.300 Message expired -> 451 4.7.0 Temporary server error. PRX4")),
    ("put_off_too_long", bounce(SOFT, "5.2.1", "550 5.2.1 The user is receiving mail at a rate that prevents it")),
    # a temporary answer, where the provider gave up: of the address it says nothing that is permanent
    ("put_off_too_long", bounce(SOFT, "4.1.1", "450 4.1.1 Recipient address rejected: unverified address")),
    ("put_off_too_long", bounce(SOFT, "4.1.1", "450 4.1.1 User unknown in local recipient table")),
    ("mailbox_full", bounce(SOFT, "4.1.1", "452 4.1.1 requested mail action not taken: mailbox full")),
    ("unreachable", bounce(SOFT, "4.1.2", "450 4.1.2 Recipient address rejected: later")),
    ("unreachable", bounce(SOFT, "4.4.4")),
    ("put_off_too_long", bounce(BLOCK, "4.7.0", "421 4.7.0 Temporary System Problem. Try again later")),
    ("put_off_too_long", bounce(BLOCK, "4.7.1", "451 4.7.1 Greylisted")),
    ("put_off_too_long", bounce(SOFT, "4.0.0", "450 no such user")),
    ("put_off_too_long", bounce(SOFT, "5.4.5", "550 5.4.5 Daily SMTP relay sending limit exceeded for user.")),  # Gmail
    ("blocked", bounce(BLOCK, "4.7.0", "421 4.7.0 Try again later")),
    ("blocked", bounce(BLOCK, "4.7.650", "451 4.7.650 temporarily rate limited due to IP reputation")),
    ("authentication_refused", bounce(BLOCK, "4.7.0", "421 4.7.0 does not pass authentication checks")),
    ("message_too_large", bounce(SOFT, "4.3.0", "452 4.3.0 Message size exceeds the space that is left")),
    ("mailbox_closed", bounce(SOFT, "4.2.1", "450 4.2.1 mailbox temporarily disabled")),
    ("mailbox_full", bounce(SOFT, "4.4.7", f"{EXPIRED}<452 4.2.2 The email account that you tried is over quota>")),
    ("mailbox_full", bounce(SOFT, "4.4.7", f"{EXPIRED}<452 mailbox full>")),
    ("mailbox_full", bounce(SOFT, "5.4.300", "550 5.4.300 Message expired -> 452 4.2.2 Mailbox full")),
    ("authentication_refused", bounce(SOFT, "4.4.7", f"{EXPIRED}<421-4.7.26 rate limited, it is unauthenticated>")),
    ("blocked", bounce(SOFT, "4.4.7", f"{EXPIRED}<451 4.7.650 temporarily rate limited due to IP reputation>")),
    ("unreachable", bounce(SOFT, "4.4.7", f"{EXPIRED}<421 4.4.1 Failed to establish connection>")),
    ("unreachable", bounce(SOFT, "5.4.7", f"{EXPIRED}<421 4.4.0 Unable to lookup DNS for mail.example>")),
    ("put_off_too_long", bounce(SOFT, "4.4.7", "550 4.4.7 expired, <ann@b.example> <https://b.example/550>")),
    ("unreachable", bounce(SOFT, "4.4.1")),
    ("authentication_refused", bounce(BLOCK, "5.7.26")),
    *(("authentication_refused", bounce(BLOCK, f"5.{cause}")) for cause in sorted(AUTHENTICATION)),
    ("authentication_refused", bounce(BLOCK, "5.7.27", "550-5.7.27 blocked because SPF authentication didn't pass")),
    ("authentication_refused", bounce(BLOCK, "5.7.515", "550 5.7.515 Access denied, sending domain does not meet")),
    ("authentication_refused", bounce(BLOCK, "5.7.1", "smtp;550 5.7.1 DMARC policy of the domain")),
    ("authentication_refused", bounce(BLOCK, None, "Rejected by the From domain's DMARC policy")),
    ("authentication_refused", bounce(HARD, "5.0.0", "550 Sender verify failed")),
    # Exchange, for insiders only: nothing is wrong with SPF and DKIM
    (
        "blocked",
        bounce(
            BLOCK,
            "5.7.133",
            "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; the sender was not authenticated",
        ),
    ),
    ("blocked", bounce(BLOCK, "5.7.134", "the sender was not authenticated; SenderNotAuthenticatedForMailbox")),
    ("blocked", bounce(HARD, "5.7.1", "530 5.7.1 Client was not authenticated")),
    ("blocked", bounce(BLOCK, "5.7.29", "550-5.7.29 this message wasn't sent over a TLS connection")),
    ("blocked", bounce(BLOCK, "5.7.1", "550 5.7.1 blocked using zen.spamhaus.org")),
    ("no_such_address", bounce(HARD, "5.1.1", "550 5.1.1 unknown; our DMARC policy is at mail.example")),
    ("blocked", bounce(BLOCK, "5.7.1")),
    ("blocked", bounce(HARD, "5.7.1")),
    ("authentication_refused", bounce(BLOCK, "5.1.8", "553 5.1.8 Domain of sender address does not exist")),
    ("authentication_refused", bounce(HARD, "5.1.8")),
    ("blocked", bounce(BLOCK, "5.1.7")),
    ("blocked", bounce(HARD, "5.6.0")),
    ("blocked", bounce(BLOCK)),
    # SES, where there is no report of a server
    ("message_too_large", bounce(SOFT, None, "MessageTooLarge")),
    ("blocked", bounce(SOFT, None, "AttachmentRejected")),
    ("blocked", bounce(SOFT, None, "ContentRejected")),
    ("mailbox_full", bounce(SOFT, None, "MailboxFull")),
    ("put_off_too_long", bounce(SOFT, None, "CustomTimeoutExceeded")),
    ("no_such_address", bounce(HARD, None, "NoEmail")),
    # without an enhanced code, or with an undefined one
    ("mailbox_full", bounce(SOFT, None, "552 mailbox full")),
    ("mailbox_full", bounce(HARD, "5.0.0", "550 5.0.0 over quota")),
    ("mailbox_full", bounce(SOFT, None, "552 Requested mail action aborted: exceeded storage allocation")),
    ("blocked", bounce(SOFT, None, "552 Requested mail action aborted: exceeded storage allocation: spam")),
    ("message_too_large", bounce(HARD, None, "552 Message size exceeds maximum permitted")),
    ("message_too_large", bounce(BLOCK, "5.7.1", "554 5.7.1 Message size exceeds limit")),
    (
        "message_too_large",
        bounce(HARD, "5.1.0", "5.1.0 - Unknown address error('552', ['message size exceeds the limit'])"),
    ),
    ("mailbox_full", bounce(SOFT, None, "552 Mailbox full: message size 5000 would exceed quota")),
    ("mailbox_full", bounce(SOFT, "5.2.0", "552 5.2.0 Mailbox quota exceeded (message size 3 MB)")),
    (
        "message_too_large",
        bounce(SOFT, None, "552-aborted: exceeded storage allocation 552-The message size exceeds the limit"),
    ),
    ("mailbox_closed", bounce(HARD, None, "550 mailbox blocked for inactivity, see our spam policy")),
    ("refused_address", bounce(HARD, "5.1.0", "550 5.1.0 Invalid mailbox; see http://x.example/anti-spam")),
    (
        "authentication_refused",
        bounce(HARD, "5.1.1", "550-Response: 550 5.1.1 <us@ours.example>: User unknown 550 Sender verify failed"),
    ),
    # no block: the server itself may have the trouble, and a limit passes
    ("put_off_too_long", bounce(BLOCK, "4.7.28", "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail")),
    ("put_off_too_long", bounce(BLOCK, "4.7.0", "454 4.7.0 TLS not available due to local problem")),
    ("put_off_too_long", bounce(BLOCK, "4.7.1", "450 4.7.1 Greylisted, try again")),
    ("put_off_too_long", bounce(BLOCK, "4.7.0", "421 4.7.0 Temporary System Problem")),
    ("blocked", bounce(HARD, "5.3.0", "553 5.3.0 DNSBL:RBL 521< 192.0.2.1 >_is_blocked")),
    ("blocked", bounce(HARD, "5.2.0", "552 5.2.0 Suspected spam message rejected")),
    ("blocked", bounce(HARD, None, "521 < 192.0.2.1 > is blocked")),
    ("blocked", bounce(HARD, "5.1.0", "550 5.1.0 <us@ours.example> sender rejected")),
    ("blocked", bounce(HARD, "5.1.0", "550 5.1.0 Sender address rejected: User unknown")),
    ("refused_address", bounce(HARD, "5.1.0", "550 5.1.0 <ann@spam.example> Address rejected")),
    ("no_such_address", bounce(SOFT, "5.4.0", "550 5.4.0 Error: no such user")),
    ("unreachable", bounce(SOFT, "5.4.0")),
    ("no_such_address", bounce(SOFT, None, "552 1 Requested mail action aborted, mailbox not found")),
    ("no_such_address", bounce(HARD, None, "550 User unknown")),
    ("no_such_address", bounce(HARD, "5.0.0", "550 5.0.0 no such user, see https://spam.mail.example")),
    ("refused_address", bounce(HARD, None, "550 the domain does not exist")),
    ("blocked", bounce(BLOCK, "5.7.0", "550 5.7.0 the address of the sender does not exist")),
    # no code: no server said this
    ("unreachable", bounce(HARD, None, "Host or domain name not found. Name service error for name=b.example type=A")),
    ("unreachable", bounce(SOFT, None, "connect to mx.b.example[192.0.2.1]:25: Connection timed out")),
    ("unreachable", bounce(HARD, None, "no mail host")),  # Mailjet
    ("no_such_domain", bounce(HARD, None, "invalid domain: 550 rejected")),
    ("put_off_too_long", bounce(SOFT, None, "protocol issue")),
    ("unreachable", bounce(SOFT, None, "connection issue: 421 4.4.1 Connection timed out")),
    ("refused_address", bounce(HARD, "5.0.0", "550 5.0.0 lost connection")),
    ("refused_address", bounce(HARD)),
    ("refused_address", bounce(HARD, "5.0.0")),
    ("refused_this_message", bounce(SOFT)),
    ("refused_unknown_why", bounce(UNDETERMINED)),
    ("refused_or_auto_reply", [event(SENT), event(EventType.BOUNCE_OR_AUTO_REPLY, 5, enhanced_code="5.1.1")]),
    ("deferred", deferral()),
    ("deferred", deferral("4.2.0")),
    ("deferred_mailbox_full", deferral("4.2.2")),
    ("deferred_rate_or_reputation", deferral("4.7.0")),
    ("deferred_rate_or_reputation", deferral("4.7.28")),
    *(("deferred_authentication", deferral(f"4.{cause}")) for cause in sorted(AUTHENTICATION)),
    ("deferred_unreachable", deferral("4.4.1")),
    ("deferred_server_trouble", deferral("4.3.2")),
    ("deferred_server_trouble", deferral("4.3.1", "452 4.3.1 Insufficient system resources")),
    ("deferred_server_trouble", deferral("4.7.0", "421 4.7.0 Temporary System Problem. Try again later.")),
    ("deferred_mailbox_full", deferral(None, "MailboxFull")),  # SES
    ("deferred_mailbox_full", deferral(None, "452 mailbox full")),
    ("deferred_held_by_provider", deferral(None, "SendingDeferral")),  # SES
    ("deferred_held_by_provider", deferral(None, 'deferred: ["IPs reached ISP-suggested hourly limits: ..."]')),
    ("deferred_provider_trouble", deferral(None, "InternalFailure")),  # SES
    ("deferred_authentication", deferral(None, "BYOIPHostNameLookupUnavailable")),  # SES
    ("deferred_authentication", deferral("4.7.0", "421-4.7.0 rate limited because it is unauthenticated")),
    ("deferred_authentication", deferral("4.7.1", "450 4.7.1 <ours.example>: Helo command rejected: Host not found")),
    ("deferred_server_trouble", deferral("4.7.0", "451 4.7.0 Temporary server error. Please try again later. PRX4")),
    ("deferred_rate_or_reputation", deferral("4.7.133", "the sender was not authenticated; RESOLVER.RST")),
    ("deferred_unreachable", deferral("4.1.2")),
    ("deferred_authentication", deferral("4.1.8", "450 4.1.8 Sender address rejected: Domain not found")),
    ("deferred_unreachable", deferral(None, "TransientCommunicationFailure")),  # SES
    ("deferred_unreachable", deferral(None, "No MX for mail.example")),
    ("deferred_unencrypted", deferral("4.7.0", "421 4.7.0 TLS required for RCPT domain, closing connection.")),
    ("deferred_unencrypted", deferral("4.7.29")),
    ("deferred_rate_or_reputation", deferral("4.2.0", "450 4.2.0 Recipient address rejected: Greylisted")),
    ("deferred_rate_or_reputation", deferral("4.2.1", "450 4.2.1 The user is receiving mail too quickly.")),
    ("deferred_rate_or_reputation", deferral(None, "IPFailure")),  # SES
    ("deferred_rate_or_reputation", deferral("4.4.5", "421 4.4.5 Server busy, try again later.")),
    ("deferred_rate_or_reputation", deferral("4.6.0")),
    ("deferred", deferral(None, "Undetermined")),  # SES
    ("deferred", deferral(None, "451 Temporary local problem - please try later")),
    ("dropped_bounced_before", drop(SuppressionList.BOUNCE)),
    ("dropped_spam_report", drop(SuppressionList.SPAM)),
    ("dropped_unsubscribed", drop(SuppressionList.UNSUBSCRIBE)),
    ("dropped_invalid_address", drop(SuppressionList.INVALID)),
    ("dropped", drop(None)),
]


@pytest.mark.parametrize(("code", "history"), CASES, ids=[f"{number}-{code}" for number, (code, _) in enumerate(CASES)])
def test_the_status_and_its_cause_choose_the_advice(code: str, history: list[DeliveryEvent]) -> None:
    assert advice(*history).code == code


def test_every_advice_can_be_reached() -> None:
    assert {code for code, _ in CASES} == set(ADVICE)


def test_every_status_has_advice() -> None:
    assert {fold_all(history).status for _, history in CASES} == set(Status)


def test_no_two_advices_share_a_code_and_each_code_is_a_plain_word() -> None:
    assert all(code == advice.code for code, advice in ADVICE.items())
    assert all(code.replace("_", "").isalpha() and code.islower() for code in ADVICE)


def assert_has_no_hole(given_advice: Advice) -> None:
    for text in (given_advice.meaning, given_advice.what_to_do):
        assert text.endswith(".")
        assert not set(text) & set("{}")
        assert "  " not in text
        assert "None" not in text
        assert "since at" not in text
        assert "at ," not in text


@given(histories)
def test_whatever_happened_the_advice_has_no_hole(history: list[DeliveryEvent]) -> None:
    assert_has_no_hole(advice(*history))


@given(histories)
def test_advice_never_repeats_an_address_or_what_a_server_said(history: list[DeliveryEvent]) -> None:
    given_advice = advice(*history)
    assert "@example.com" not in given_advice.meaning + given_advice.what_to_do
    assert "Grüße" not in given_advice.meaning + given_advice.what_to_do


@pytest.mark.parametrize("reason_class", ReasonClass)
def test_a_status_and_an_alert_about_one_deferral_do_not_contradict_each_other(reason_class: ReasonClass) -> None:
    together = {
        "contact_recipient_held_back": {"deferred_rate_or_reputation"},
        "contact_recipient_greylisted": {"deferred_rate_or_reputation"},
        "contact_recipient_mailbox_full": {"deferred_mailbox_full"},
        "contact_recipient_unreachable": {"deferred_unreachable"},
        "contact_recipient_encryption": {"deferred_unencrypted"},
        "contact_recipient_now": {
            "deferred",
            "deferred_server_trouble",
            "deferred_provider_trouble",
            "deferred_rate_or_reputation",
        },
        "mend_authentication_now": {"deferred_authentication"},
        "wait_for_provider": {"deferred_held_by_provider"},
    }
    told = {
        code
        for code, history in CASES
        if fold_all(history).status is Status.DEFERRED and reason_class_of(history) is reason_class
    }
    assert told
    assert told <= together[alert_advice(Level.RAISED, reason_class).code]


def reason_class_of(history: list[DeliveryEvent]) -> ReasonClass:
    fact = fold_all(history).facts[Kind.DEFERRED]
    return classify(fact.reason, fact.smtp_code, fact.enhanced_code)


def test_a_deferral_says_from_when_on_to_contact_the_recipient() -> None:
    assert "at 2026-11-20 13:00 UTC" in advice(event(DEFERRED, 0), event(DEFERRED, 1_800)).what_to_do


def test_a_drop_says_since_when_the_address_is_listed_at_the_latest() -> None:
    history = [event(DROPPED, 900, suppression_list=SuppressionList.SPAM), *drop(SuppressionList.SPAM)]
    assert "since 2026-11-20 12:00 UTC at the latest" in advice(*history).meaning


def test_a_drop_names_the_accounts_contact_for_a_manual_send() -> None:
    history = drop(SuppressionList.BOUNCE)
    assert "ask billing support (room 12) for a manual send" in advice(*history).what_to_do
    assert "ask your support for a manual send" in advice(*history, support=None).what_to_do


@pytest.mark.parametrize("answer", ["421 4.7.0 Too many connections", f"{EXPIRED}<421 4.7.0 Too many connections>"])
def test_support_hears_of_a_limit_that_many_recipients_met_whoever_reports_it(answer: str) -> None:
    told = advice(*bounce(BLOCK, "4.7.0" if answer.startswith("421") else "4.4.7", answer))
    assert told.code == "put_off_too_long"
    assert "with several recipients, tell billing support (room 12)" in told.what_to_do


def test_a_contact_with_braces_is_taken_as_it_is() -> None:
    assert "ask {since} for" in advice(*drop(None), support="{since}").what_to_do


def test_delivered_warns_that_it_is_no_proof_of_the_inbox_and_points_to_the_spam_folder() -> None:
    assert "no proof" in advice(event(DELIVERED)).meaning
    assert "spam folder" in advice(event(DELIVERED)).what_to_do


def test_a_deferral_after_a_bounce_does_not_change_what_the_bounce_means() -> None:
    assert advice(*bounce(HARD, "5.1.1"), event(DEFERRED, 900, enhanced_code="4.7.1")).code == "no_such_address"


# --- the alerts of the deferral monitor ---


def alert_advice(
    level: Level,
    reason_class: ReasonClass = ReasonClass.UNKNOWN,
    ending: Ending | None = None,
    support: str | None = "billing support (room 12)",
) -> Advice:
    return advise_deferral(level, ending, reason_class, support_contact=support)


ALERTS: list[tuple[str, Level, ReasonClass, Ending | None]] = [
    ("contact_recipient_held_back", Level.RAISED, ReasonClass.RATE_LIMITED, None),
    ("contact_recipient_greylisted", Level.RAISED, ReasonClass.GREYLISTED, None),
    ("contact_recipient_mailbox_full", Level.RAISED, ReasonClass.MAILBOX_FULL, None),
    ("contact_recipient_held_back", Level.RAISED, ReasonClass.REPUTATION, None),
    ("contact_recipient_unreachable", Level.RAISED, ReasonClass.DNS, None),
    ("contact_recipient_encryption", Level.RAISED, ReasonClass.TLS, None),
    ("contact_recipient_unreachable", Level.RAISED, ReasonClass.TIMEOUT, None),
    ("contact_recipient_now", Level.RAISED, ReasonClass.POLICY, None),
    ("mend_authentication_now", Level.RAISED, ReasonClass.AUTH, None),
    ("contact_recipient_now", Level.RAISED, ReasonClass.CONTENT, None),
    ("wait_for_provider", Level.RAISED, ReasonClass.PREEMPTIVE, None),
    ("contact_recipient_now", Level.RAISED, ReasonClass.UNKNOWN, None),
    ("send_by_another_way", Level.ESCALATED, ReasonClass.RATE_LIMITED, None),
    ("ask_whether_it_arrived", Level.OVERDUE, ReasonClass.UNKNOWN, None),
    ("resolved_delivered", Level.RESOLVED, ReasonClass.TIMEOUT, Ending.DELIVERED),
    ("resolved_opened", Level.RESOLVED, ReasonClass.TIMEOUT, Ending.OPENED),
    ("resolved_bounced", Level.RESOLVED, ReasonClass.TIMEOUT, Ending.BOUNCED),
    ("resolved_dropped", Level.RESOLVED, ReasonClass.TIMEOUT, Ending.DROPPED),
    ("resolved_sent", Level.RESOLVED, ReasonClass.TIMEOUT, Ending.SENT),
    ("resolved_expired", Level.RESOLVED, ReasonClass.TIMEOUT, Ending.EXPIRED),
]


@pytest.mark.parametrize(
    ("code", "level", "reason_class", "ending"), ALERTS, ids=[f"{level}-{why}-{end}" for _, level, why, end in ALERTS]
)
def test_the_level_the_reason_and_the_ending_choose_the_advice_of_an_alert(
    code: str, level: Level, reason_class: ReasonClass, ending: Ending | None
) -> None:
    assert alert_advice(level, reason_class, ending).code == code


def test_every_advice_of_an_alert_can_be_reached() -> None:
    assert {code for code, *_ in ALERTS} == set(ALERT_ADVICE)


@pytest.mark.parametrize("support", [None, "billing support (room 12)"])
@pytest.mark.parametrize("reason_class", ReasonClass)
def test_every_alert_that_there_can_be_has_advice_without_a_hole(
    reason_class: ReasonClass, support: str | None
) -> None:
    for level in (Level.RAISED, Level.ESCALATED, Level.OVERDUE):
        assert_has_no_hole(alert_advice(level, reason_class, None, support))
    for ending in Ending:
        assert_has_no_hole(alert_advice(Level.RESOLVED, reason_class, ending, support))


def test_a_resolved_alert_that_nothing_ended_is_refused() -> None:
    with pytest.raises(KeyError):
        alert_advice(Level.RESOLVED)


def test_no_code_stands_in_both_tables() -> None:
    assert not set(ADVICE) & set(ALERT_ADVICE)
    assert all(code == advice.code for code, advice in ALERT_ADVICE.items())
    assert all(code.replace("_", "").isalpha() and code.islower() for code in ALERT_ADVICE)


def test_only_the_providers_own_throttling_tells_to_wait_when_an_alert_is_raised() -> None:
    waits = [why for why in ReasonClass if alert_advice(Level.RAISED, why).what_to_do.startswith("Wait")]
    assert waits == [ReasonClass.PREEMPTIVE]


def test_an_escalated_alert_tells_the_sender_to_use_another_way_whatever_the_reason() -> None:
    assert {alert_advice(Level.ESCALATED, why).code for why in ReasonClass} == {"send_by_another_way"}


def test_an_escalated_alert_does_not_say_that_the_provider_soon_gives_up() -> None:
    """It comes after half a day by default, and some providers try for three days."""
    advice = alert_advice(Level.ESCALATED)
    assert not {"soon", "last"} & set(re.findall("[a-z]+", advice.meaning))


def test_an_overdue_alert_claims_neither_that_it_arrived_nor_that_it_did_not() -> None:
    assert "is not known" in alert_advice(Level.OVERDUE).meaning
    assert alert_advice(Level.OVERDUE).what_to_do.startswith("Ask the recipient")


def test_an_alert_names_the_accounts_contact() -> None:
    assert "Tell billing support (room 12) now" in alert_advice(Level.RAISED, ReasonClass.AUTH).what_to_do
    assert "Tell your support now" in alert_advice(Level.RAISED, ReasonClass.AUTH, support=None).what_to_do
    assert "Tell {since} now" in alert_advice(Level.RAISED, ReasonClass.AUTH, support="{since}").what_to_do
