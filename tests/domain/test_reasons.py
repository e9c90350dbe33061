"""The answers of real servers are read for their cause, and no text breaks the reader.

The answers are those that the receivers document: Google's "Gmail SMTP errors and codes", Yahoo's and Apple's error
codes, Microsoft's non-delivery reports, NetEase's and Comcast's lists, SendGrid's "Deferrals", the events of SES.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain import reasons
from streams.domain.reasons import ReasonClass, classify
from streams.domain.smtp import AUTHENTICATION, LOOKED_AT, parse_reply

RATE, GREY, FULL, REPUTATION = (
    ReasonClass.RATE_LIMITED,
    ReasonClass.GREYLISTED,
    ReasonClass.MAILBOX_FULL,
    ReasonClass.REPUTATION,
)
DNS, TLS, TIMEOUT, POLICY = ReasonClass.DNS, ReasonClass.TLS, ReasonClass.TIMEOUT, ReasonClass.POLICY
AUTH, CONTENT, PREEMPTIVE, UNKNOWN = (
    ReasonClass.AUTH,
    ReasonClass.CONTENT,
    ReasonClass.PREEMPTIVE,
    ReasonClass.UNKNOWN,
)

ANSWERS: list[tuple[str, ReasonClass]] = [
    # Gmail
    ("421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address.", RATE),
    ("421-4.7.28 Gmail has detected an unusual rate of unsolicited mail\n421-4.7.28 originating from your DKIM", RATE),
    ("421-4.7.28 Gmail has detected an unusual\r\n421-4.7.28 rate of unsolicited mail", RATE),
    ("421 4.7.0 Our system has detected an unusual rate of unsolicited mail originating from your IP address", RATE),
    ("450 4.2.1 The user you are trying to contact is receiving mail too quickly. Please resend later.", RATE),
    ("450-4.2.1 The user you are trying to contact is receiving mail at a rate that\n450-4.2.1 prevents", RATE),
    ("450 4.2.1 Peak SMTP relay limit exceeded for customer. This is a temporary error.", RATE),
    ("421 4.4.5 Server busy, try again later.", RATE),
    ("452 4.5.3 Your message has too many recipients.", RATE),
    ("452-4.2.2 The recipient's inbox is out of storage space. Please direct the recipient to", FULL),
    ("452 4.2.2 The email account that you tried to reach is over quota.", FULL),
    ("421-4.7.26 Your email has been rate limited because it is unauthenticated. Gmail requires all senders", AUTH),
    ("421-4.7.27 Your email has been rate limited because SPF authentication didn't pass for this message.", AUTH),
    ("421-4.7.30 Your email has been rate limited because DKIM authentication didn't pass", AUTH),
    (
        "421-4.7.32 Your email has been rate limited because the From: header isn't aligned with either SPF or DKIM",
        AUTH,
    ),
    ("421-4.7.29 Your email has been rate limited because this message wasn't sent over a TLS connection.", TLS),
    ("421 4.7.0 TLS required for RCPT domain, closing connection.", TLS),
    (
        (
            "421-4.7.0 [192.0.2.1 19] Our system has detected that this message is suspicious due to the very low "
            "reputation of the sending domain. To best protect our users from spam, the message has been blocked."
        ),
        REPUTATION,
    ),
    (
        (
            "421 4.7.0 Our system has detected that this message is suspicious due to the nature of the content and/or "
            "the links within. To best protect our users from spam, the message has been blocked."
        ),
        CONTENT,
    ),
    ("421 4.7.0 IP not in whitelist for RCPT domain, closing connection.", POLICY),
    (
        (
            "421-4.7.0 [192.0.2.1 15] Our system has detected that this message does not have authentication "
            "information or fails to pass authentication checks."
        ),
        AUTH,
    ),
    ("452 4.5.3 Domain policy size per transaction exceeded, please try this recipient in a separate one.", RATE),
    ("421 4.7.0 Temporary System Problem. Try again later.", UNKNOWN),
    ("421 4.3.0 Temporary System Problem. Try again later", UNKNOWN),
    ("451 4.4.2 Timeout - closing connection.", TIMEOUT),
    ("454 4.7.0 Cannot authenticate due to a temporary system problem. Try again later.", UNKNOWN),
    # Yahoo
    (
        (
            "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - "
            "4.16.55.1; see https://postmaster.yahooinc.com/error-codes"
        ),
        REPUTATION,
    ),
    (
        (
            "host mx-eu.mail.am0.yahoodns.net[192.0.2.9] said: 421 4.7.0 [TSS05] Messages from 192.0.2.1 temporarily "
            "deferred (in reply to MAIL FROM command)"
        ),
        REPUTATION,
    ),
    ("421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred", REPUTATION),
    ("421 Message from (192.0.2.1) temporarily deferred", REPUTATION),
    ("421 4.7.0 [PH01] Email not accepted for policy reasons", CONTENT),
    ("451 4.7.1 Resources temporarily unavailable. Please try again later [#4.16.5].", UNKNOWN),
    # Microsoft
    (
        (
            "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. For e-mail "
            "delivery information, see https://postmaster.live.com (S775)"
        ),
        REPUTATION,
    ),
    ("451 4.7.652 The mail server [192.0.2.1] has exceeded the maximum number of connections. (S3115)", RATE),
    ("451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", RATE),
    ("421 RP-001 The mail server IP connecting to Outlook.com server has exceeded the rate limit allowed.", RATE),
    ("450 4.4.316 Connection refused [Message=Socket error code 10061]", TIMEOUT),
    ("450 4.7.322 certificate-expired: Destination mail server's certificate is expired.", TLS),
    ("450 4.7.323 tlsa-invalid: The domain failed DANE validation", TLS),
    ("451 5.7.3 STARTTLS is required to send mail", TLS),
    ("452 4.3.1 Insufficient system resources", UNKNOWN),
    ("451 4.7.0 Temporary server error. Please try again later. PRX4", UNKNOWN),
    (
        (
            "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required; Delivery restriction check "
            "failed because the sender was not authenticated when sending to this group"
        ),
        POLICY,
    ),
    ("550 5.7.134 SenderNotAuthenticatedForMailbox; the sender was not authenticated when sending to it", POLICY),
    ("Delivery restriction check failed because the sender was not authenticated", POLICY),
    ("550 5.7.12 Access denied, sender not authenticated by organization", POLICY),
    ("530 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM", POLICY),
    ("530 5.7.57 Client not authenticated to send mail.", POLICY),
    ("530 5.7.1 Client was not authenticated", POLICY),
    # Apple
    ("421 4.7.1 Messages to ada@icloud.example deferred due to excessive volume. Try again later", RATE),
    ("451 4.7.1 Service unavailable - try again later", UNKNOWN),
    ("450 4.2.2 user is overquota", FULL),
    ("550 5.7.1 a domain in the From header that is not authenticated", AUTH),
    # Germany and France
    ("421 Rate limit reached. Please try again later", RATE),
    ("450 Reject due to policy violations.", POLICY),
    ("421-gmx.net (mxgmx104) Nemesis ESMTP Service not available\n421-No SMTP service\n421 Bad DNS PTR record", AUTH),
    ("554 IP address is block listed.", REPUTATION),
    ("550-mailbox unavailable 550-invalid DNS MX or A/AAAA resource record.", AUTH),
    ("554 IP=192.0.2.1 - A problem occurred. (Ask your postmaster for help ...) (BL)", REPUTATION),
    ("550 Connection refused, you are listed at bl.mailspike.example", REPUTATION),
    ("552 5.2.2 Over STORAGE quota", FULL),
    ("450 User has too many messages on the server.", FULL),
    ("421 mwinf5c04 ME Trop de connexions, veuillez verifier votre configuration. OFR004_104", RATE),
    ("421 mwinf5c04 ME Service refuse. Veuillez essayer plus tard. OFR_999", UNKNOWN),
    # NetEase, Comcast
    ("421 HL:ICC 163 mx1", RATE),
    ("421 HL:IFC 163 mx1", RATE),
    ("421 HL:REP 163 mx1", REPUTATION),
    ("451 DT:SPM 163 mx1,please try again", CONTENT),
    ("450 DT:RBL 163 mx1", REPUTATION),
    ("421 192.0.2.1 Throttled - try again later. http://postmaster.comcast.net/smtp-error-codes.php#RL000002", RATE),
    ("421 Too many sessions opened", RATE),
    ("421 Reverse DNS failure : Try again later", AUTH),
    # Postfix, Exim and what stands before them
    ("450 4.2.0 <ada@mail.example>: Recipient address rejected: Greylisted, see http://postgrey.example/", GREY),
    ("451 4.7.1 Greylisting in action, please come back later", GREY),
    ("451 Temporarily greylisted, try again in 300 seconds; rate limit follows", GREY),
    ("450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", AUTH),
    ("450 4.1.8 <billing@ours.example>: Sender address rejected: Domain not found", AUTH),
    ("451 4.1.8 Domain of sender address does not resolve", AUTH),
    ("450 4.7.1 <mail.provider.example>: Helo command rejected: Host not found", AUTH),
    ("504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname", AUTH),
    ("451 4.5.0 Error in processing, virus_scan FAILED: virus_scan: ALL VIRUS SCANNERS FAILED", UNKNOWN),
    ("451 4.7.1 Virus scanner temporarily unavailable", UNKNOWN),
    ("554 5.7.1 rejected by the virus scanner", CONTENT),
    ("552 Requested mail action aborted: exceeded storage allocation", FULL),
    ("552 Requested mail action aborted: exceeded storage allocation, rejected as spam", CONTENT),
    ("451 Could not complete sender verify callout", AUTH),
    ("421 4.7.0 mx.example Error: too many connections from 192.0.2.1", RATE),
    ("450 too frequent connects from 192.0.2.1, please try again later.", RATE),
    ("452 Too many recipients received this hour (throttled)", RATE),
    ("421 Too many concurrent SMTP connections from this IP address; please try again later.", RATE),
    ("421 Too many messages on this connection", RATE),
    ("451-The server has reached its limit for processing requests from your host.\n451 Please try again.", RATE),
    ("451 Temporary local problem - please try later", UNKNOWN),
    ("451 Requested action aborted: local error in processing", UNKNOWN),
    ("connect to mx.example[192.0.2.7]:25: Connection timed out", TIMEOUT),
    ("delivery temporarily suspended: connect to mx.example[2001:db8::7]:25: Network is unreachable", TIMEOUT),
    ("lost connection with mx.example[192.0.2.7] while receiving the initial server greeting", TIMEOUT),
    ("Host or domain name not found. Name service error for name=mx.example type=MX: Host not found", DNS),
    ("host lookup did not complete", DNS),
    ("all hosts for 'mail.example' have been failing for a long time (and retry time not reached)", TIMEOUT),
    ("TLS is required, but was not offered by host mx.example[192.0.2.7]", TLS),
    ("Cannot start TLS: handshake failure", TLS),
    ("454 4.3.0 TLS not available due to local problem", TLS),
    ("454 please come back", TLS),
    ("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", REPUTATION),
    ("451 4.7.1 Your message contains a domain that is present in the Spamhaus DBL", CONTENT),
    ("451 4.7.1 message looks like spam", CONTENT),
    ("450 4.3.2 Service currently unavailable", UNKNOWN),
    ("431 4.3.1 the disk is full", UNKNOWN),
    # SendGrid
    ("unable to get mx info: failed to get IPs from PTR record: lookup <nil>: unrecognized address", DNS),
    ('Email was deferred due to the following reason(s): ["IPs were throttled by recipient server"]', RATE),
    (
        (
            'Email was deferred due to the following reason(s): ["IPs reached ISP-suggested hourly limits: '
            'https://www.twilio.com/docs/sendgrid/ui/sending-email/deferrals"]'
        ),
        PREEMPTIVE,
    ),
    ('Email was deferred due to the following reason(s): ["IPs reached max port limit"]', PREEMPTIVE),
    ('Email was deferred due to the following reason(s): ["IP reached max connection limit"]', PREEMPTIVE),
    ("error dialing remote address: dial tcp 10.0.0.1:0->192.0.2.7:25: i/o timeout", TIMEOUT),
    ("read tcp 10.0.0.1:0->192.0.2.7:25: read: connection reset by peer", TIMEOUT),
    # Mailgun
    ("No MX for mail.example", DNS),
    ("Unable to find MX of domain mail.example", DNS),  # Brevo
    ("x509: certificate has expired or is not yet valid", TLS),
    ("espblock", REPUTATION),
    # Amazon SES: the delay types, and an answer
    ("smtp; 421 4.4.1 Unable to connect to remote host", TIMEOUT),
    ("InternalFailure", UNKNOWN),
    ("General", UNKNOWN),
    ("MailboxFull", FULL),
    ("SpamDetected", REPUTATION),
    ("RecipientServerError", UNKNOWN),
    ("IPFailure", REPUTATION),
    ("TransientCommunicationFailure", TIMEOUT),
    ("BYOIPHostNameLookupUnavailable", AUTH),
    ("SendingDeferral", PREEMPTIVE),
    ("Undetermined", UNKNOWN),
    # Postmark
    (
        "The server could not temporarily deliver your message (ex: Message is delayed due to network troubles).",
        UNKNOWN,
    ),
    # nothing
    ("400 try again later", UNKNOWN),
    ("", UNKNOWN),
]


@pytest.mark.parametrize(("answer", "expected"), ANSWERS, ids=[f"{number}" for number in range(len(ANSWERS))])
def test_an_answer_is_read_for_its_cause(answer: str, expected: ReasonClass) -> None:
    reply = parse_reply(answer)
    assert classify(answer, reply.smtp_code, reply.enhanced_code) is expected, answer


def test_every_class_is_met_by_an_answer() -> None:
    assert {expected for _, expected in ANSWERS} == set(ReasonClass)


CODES: list[tuple[int | None, str | None, ReasonClass]] = [
    (None, None, UNKNOWN),
    (421, None, UNKNOWN),
    (450, None, UNKNOWN),
    (454, None, TLS),
    (450, "4.1.1", UNKNOWN),
    (450, "4.1.2", DNS),
    (451, "4.1.8", AUTH),
    (450, "4.2.0", UNKNOWN),
    (452, "4.2.2", FULL),
    (None, "5.2.2", FULL),  # the class does not change the cause
    (452, "4.3.1", UNKNOWN),
    (421, "4.3.2", UNKNOWN),
    (421, "4.4.1", TIMEOUT),
    (421, "4.4.2", TIMEOUT),
    (451, "4.4.3", DNS),
    (451, "4.4.4", DNS),
    (421, "4.4.5", RATE),
    (450, "4.4.310", DNS),
    (452, "4.5.3", RATE),
    (451, "4.6.0", CONTENT),
    (421, "4.7.0", POLICY),
    (451, "4.7.10", TLS),
    (421, "4.7.29", TLS),
    *((421, f"4.{cause}", AUTH) for cause in sorted(AUTHENTICATION)),
    (421, "4.7.28", RATE),
    (450, "4.7.325", TLS),
    (451, "4.7.650", REPUTATION),
    (451, "4.7.652", RATE),
]


@pytest.mark.parametrize(("smtp_code", "enhanced_code", "expected"), CODES)
def test_without_words_the_codes_decide(
    smtp_code: int | None, enhanced_code: str | None, expected: ReasonClass
) -> None:
    assert classify(None, smtp_code, enhanced_code) is expected
    assert classify("please come back", smtp_code, enhanced_code) is expected


def test_words_that_name_a_cause_win_over_codes() -> None:
    assert classify("Greylisted", 452, "4.2.2") is GREY


def test_a_code_that_names_a_cause_wins_over_words_that_are_only_likely() -> None:
    assert classify("refused by the policy of the domain", 452, "4.2.2") is FULL
    assert classify("refused by the policy of the domain", 421, "4.3.2") is POLICY


def test_only_the_provider_itself_defers_preemptively() -> None:
    servers = [answer for answer, expected in ANSWERS if expected is PREEMPTIVE and parse_reply(answer).smtp_code]
    assert servers == []


@pytest.mark.parametrize("table", [reasons._TELLING_WORDS, reasons._LIKELY_WORDS])
def test_every_phrase_can_be_found(table: tuple[tuple[ReasonClass, tuple[str, ...]], ...]) -> None:
    phrases = [phrase for _, row in table for phrase in row]
    assert all(phrase == phrase.lower() and "  " not in phrase for phrase in phrases)
    assert len(phrases) == len(set(phrases))
    shadowed = [
        (earlier, later)
        for number, later in enumerate(phrases)
        for earlier in phrases[:number]
        if earlier in later  # the earlier one is found first, wherever the later one stands
    ]
    assert shadowed == []


@pytest.mark.parametrize("table", [reasons._TELLING_WORDS, reasons._LIKELY_WORDS])
def test_a_phrase_alone_gives_its_class(table: tuple[tuple[ReasonClass, tuple[str, ...]], ...]) -> None:
    for reason_class, phrases in table:
        for phrase in phrases:
            assert classify(f"4yz {phrase}, sorry", None, None) is reason_class, phrase


def test_a_phrase_begins_where_a_word_begins() -> None:
    assert classify("the antivirus-free marble surface", None, None) is UNKNOWN
    assert classify("a virus", None, None) is CONTENT


def test_words_beyond_the_looked_at_characters_are_not_seen() -> None:
    assert classify("x" * LOOKED_AT + " mailbox full", None, None) is UNKNOWN


_PIECES = st.sampled_from(
    [" ", "  ", "\r\n", "4", "421", "421 ", "4.7.28", "-", "[", "spam", "tls", "\ud800", "\x00", "İ", "é", "quota"]
)


@given(
    st.none() | st.text(st.characters()) | st.lists(_PIECES, max_size=80).map("".join),
    st.none() | st.integers(),
    st.none() | st.text(st.characters()) | st.from_regex(r"[245]\.\d{1,3}\.\d{1,3}", fullmatch=True),
)
def test_any_answer_gives_a_class(reason: str | None, smtp_code: int | None, enhanced_code: str | None) -> None:
    assert classify(reason, smtp_code, enhanced_code) in ReasonClass


def test_time_is_bounded_by_the_looked_at_characters_and_by_a_pattern_that_cannot_backtrack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []

    def plain(text: str) -> str:
        read.append(text)
        return text

    monkeypatch.setattr(reasons, "_plain", plain)
    classify("bounded " * 1_000_000, None, None)
    assert [len(text) for text in read] == [LOOKED_AT]
    assert not set("*+") & set(reasons._CODES.pattern)
    assert reasons._WORD.pattern == "[a-z0-9]+"  # one class alone: each character is looked at once


def test_what_is_remembered_is_bounded() -> None:
    assert reasons._classify.cache_info().maxsize == 1_024
