"""Codes are found where servers put them, and nowhere else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.events import BounceKind
from streams.domain.smtp import (
    AUTHENTICATION,
    LOOKED_AT,
    bounce_kind_of,
    enhanced_code,
    kind_of_words,
    more_specific,
    parse_reply,
    quoted_answer,
    reply_code,
    says_closed,
    says_loop,
    says_no_such_mailbox,
    says_too_large,
    without_names,
    words_of,
)

ANSWERS: list[tuple[str, int | None, str | None]] = [
    ("550 5.1.1 The email account that you tried to reach does not exist", 550, "5.1.1"),
    ("smtp; 550-5.7.26 This mail is unauthenticated", 550, "5.7.26"),
    ("smtp;550 5.1.1 unknown", 550, "5.1.1"),
    ("421-4.7.28 Gmail has detected an unusual rate", 421, "4.7.28"),
    ("421 4.7.0 [192.0.2.4] try again later", 421, "4.7.0"),
    ("5.0.0", None, "5.0.0"),
    ("smtp; 5.4.7 - Delivery expired (message too old) (delivery attempts: 0)", None, "5.4.7"),
    ("5.1.1.", None, "5.1.1"),
    ("250 OK", 250, None),
    ("250 2.0.0 OK 1793620003 a12si3456789", 250, "2.0.0"),
    ("400 try again later", 400, None),
    ("500 unknown recipient", 500, None),
    ("550", 550, None),
    ("550.", 550, None),
    ("  550 x", 550, None),
    ("571 Message refused", 571, None),
    ("550 #5.1.0 Address rejected.", 550, "5.1.0"),
    ("550 4.4.7 QUEUE.Expired", 550, "4.4.7"),
    ("550 5.001.001 unknown", 550, "5.1.1"),
    ("554 Transaction failed (5.7.1)", 554, "5.7.1"),
    ("554 refused after a 4.7.1 at the other server", 554, None),
    ("host mx.example.com[192.0.2.1] said: 550 User unknown (in reply to RCPT TO command)", 550, None),
    ("host mx.example.com[192.0.2.1] said: 550 5.1.1 unknown", 550, "5.1.1"),
    ("smtp; 5.1.0 - Unknown address error 550-'5.1.1 <a@b.example>: Recipient rejected: User unknown'", 550, "5.1.1"),
    ("5.3.0 - Other mail system problem 554-'5.7.1 [B.2] Connections not accepted'", 554, "5.7.1"),
    ("5.1.0 - Unknown address error 450-'4.2.1 <a@b.example>: try later'", None, "5.1.0"),
    ("5.1.1 - Unknown address error 550-'5.2.2 full'", None, "5.1.1"),
    ("error from remote mail server after RCPT TO:<a@b.example>: 451 4.7.1 greylisted", 451, "4.7.1"),
    ("Action: failed Status: 5.1.1", None, "5.1.1"),
    # no codes
    ("", None, None),
    ("X-Postfix; unknown user", None, None),
    ("Bounced Address", None, None),
    ("connect to 192.0.2.55:25 timed out", None, None),
    ("connect to mx.example.com[192.0.2.55]:587: refused", None, None),
    ("5.1.1.7 refused", None, None),
    ("10.5.1.1 refused", None, None),
    ("5.1.1.example.com refused", None, None),
    ("port 465", None, None),
    ("2026-01-05 10:00", None, None),
    ("5.12.2026", None, None),
    ("500,000 items", None, None),
    ("552 MB", None, None),
    ("size: 552 bytes", None, None),
    ("200 messages per day", None, None),
    ("retry after: 300 seconds", None, None),
    ("Postfix 2.0.0", None, None),
    ("Exim version 4.5.1", None, None),
    ("agent/5.1.1", None, None),
    ("v5.1.1", None, None),
    ("599 and 699 and 000", None, None),
    ("5501 5.8.1", None, None),
    ("\N{FULLWIDTH DIGIT FIVE}\N{FULLWIDTH DIGIT FIVE}\N{FULLWIDTH DIGIT ZERO} x", None, None),
]


@pytest.mark.parametrize(("text", "code", "enhanced"), ANSWERS, ids=[text for text, _, _ in ANSWERS])
def test_an_answer_is_read_where_servers_put_codes(text: str, code: int | None, enhanced: str | None) -> None:
    assert parse_reply(text) == (code, enhanced)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("smtp; 550 4.4.7 Message expired: unable to deliver in 840 minutes.<452 4.2.2 full>", "452 4.2.2 full>"),
        ("550 5.4.300 Message expired -> 421 4.4.1 Connection timed out", "421 4.4.1 Connection timed out"),
        ("550 4.4.7 expired. <421-4.7.28 unusual rate>", "421-4.7.28 unusual rate>"),
        ("550 4.4.7 QUEUE.Expired; message expired", None),
        ("550 4.4.7 expired <ann@customer.example>", None),
        ("550 4.4.7 expired <250 messages", None),
        ("550 4.4.7 expired <450 messages", None),
        ("", None),
        ("x" * LOOKED_AT + "<452 4.2.2 full>", None),
    ],
)
def test_an_answer_that_is_quoted_within_another_is_found(text: str, quoted: str | None) -> None:
    assert quoted_answer(text) == quoted


def test_no_answer_says_nothing() -> None:
    assert parse_reply(None) == (None, None)


def test_codes_beyond_the_looked_at_characters_are_not_seen() -> None:
    assert parse_reply("x" * LOOKED_AT + ": 550 5.1.1 unknown") == (None, None)


_PIECES = st.sampled_from(
    ["5.1.1", "550", "4", ".", " ", "-", ";", ":", "<", "[", "#", "(", "smtp", "a", "\ud800", "\x00", "é"]
)


@given(st.one_of(st.text(st.characters()), st.lists(_PIECES, max_size=60).map("".join)))
def test_any_text_gives_a_valid_reply(text: str) -> None:
    code, enhanced = parse_reply(text)

    assert code is None or reply_code(code) == code
    assert enhanced is None or enhanced_code(enhanced) == enhanced


@given(st.integers(200, 559).filter(lambda code: code // 10 % 10 <= 5), st.integers(0, 7), st.integers(0, 999))
def test_a_code_with_its_enhanced_code_is_found_whatever_joins_them(code: int, subject: int, detail: int) -> None:
    enhanced = f"{4 if 400 <= code < 500 else 5 if code >= 500 else 2}.{subject}.{detail}"

    for joint in (" ", "-", " #", " ("):
        for prefix in ("", "smtp; ", "said: ", "x "):
            assert parse_reply(f"{prefix}{code}{joint}{enhanced} text") == (code, enhanced)


HOSTILE = [
    "5." * 5_000_000,
    " " * 10_000_000,
    "2.0.0 " * 2_000_000,
    "[<#" * 3_000_000,
    "smtp;" * 2_000_000,
    "550-" * 3_000_000,
    "<452 " * 2_000_000,
    "a" * 900 + " @" + "b" * 10_000_000,
    "@a" * 5_000_000,
    "->" * 5_000_000,
    "a." * 5_000_000,
    "a.aa-" * 2_000_000,
    "http://" * 2_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:6])
def test_ten_million_hostile_characters_take_no_time(text: str) -> None:
    start = time.thread_time()
    parse_reply(text)
    bounce_kind_of(None, 550, text)
    words = words_of(text)
    says_no_such_mailbox(words)
    says_too_large(words)
    says_loop(words)
    says_closed(words)
    quoted_answer(text)

    assert time.thread_time() - start < 0.2


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (550, 550),
        ("550", 550),
        (250, 250),
        (571, 571),
        (605, None),
        (498, None),
        (0, None),
        (-550, None),
        (True, None),
        (550.0, None),
        ("0550", None),
        ("²50", None),
        ("5.1", None),
        (None, None),
        ([550], None),
    ],
    ids=repr,
)
def test_a_reply_code_is_one_of_the_rfc(value: object, code: int | None) -> None:
    assert reply_code(value) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("5.1.1", "5.1.1"),
        (" 4.7.28 ", "4.7.28"),
        ("5.01.001", "5.1.1"),
        ("5.1", None),
        ("3.1.1", None),
        ("5.1.1 x", None),
        ("", None),
        (5, None),
        (None, None),
        (["5.1.1"], None),
        ("5" * 100_000, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_field_with_an_enhanced_code_is_read_whole(value: object, code: str | None) -> None:
    assert enhanced_code(value) == code


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("5.0.0", "5.1.1", "5.1.1"),
        ("5.1.1", "5.0.0", "5.1.1"),
        ("5.1.1", "5.7.1", "5.1.1"),
        ("5.0.0", None, "5.0.0"),
        (None, "5.1.1", "5.1.1"),
        (None, None, None),
    ],
)
def test_the_code_that_says_more_wins(first: str | None, second: str | None, expected: str | None) -> None:
    assert more_specific(first, second) == expected


def test_the_codes_of_authentication_are_those_that_the_receivers_document() -> None:
    gmail = {"7.26", "7.27", "7.30", "7.31", "7.32", "7.40"}
    microsoft = {"7.23", "7.509", "7.515"}
    registry = {f"7.{detail}" for detail in range(20, 28)}
    assert registry | gmail | microsoft == AUTHENTICATION
    assert "7.29" not in AUTHENTICATION  # Gmail: not sent over TLS


@pytest.mark.parametrize(
    ("enhanced", "code", "text", "kind"),
    [
        ("5.1.1", 550, None, BounceKind.HARD),
        ("5.1.10", 556, None, BounceKind.HARD),
        ("5.4.4", None, None, BounceKind.HARD),
        ("5.4.310", 550, "550 5.4.310 DNS domain mail.example does not exist", BounceKind.HARD),
        ("4.4.310", 450, None, BounceKind.SOFT),
        ("5.4.300", 550, "550 5.4.300 Message expired", BounceKind.SOFT),
        ("5.4.1", 550, "5.4.1 Recipient address rejected: Access denied. AS(201806281)", BounceKind.HARD),
        ("5.4.1", 550, "5.4.1 All recipient addresses rejected : Access denied. AS(201806281)", BounceKind.HARD),
        ("5.4.1", 550, "5.4.1 no answer from host", BounceKind.SOFT),
        ("4.4.1", 450, "4.4.1 Recipient address rejected: Access denied", BounceKind.SOFT),
        ("5.7.1", 554, "5.7.1 Recipient address rejected: Access denied", BounceKind.BLOCK),
        ("5.1.8", 553, None, BounceKind.BLOCK),  # our sender address
        ("5.2.1", 550, None, BounceKind.SOFT),
        ("5.2.2", 552, None, BounceKind.SOFT),
        ("5.3.4", 552, None, BounceKind.SOFT),
        ("5.4.7", None, None, BounceKind.SOFT),
        ("5.6.0", 554, None, BounceKind.BLOCK),
        ("5.7.1", 550, "550 5.7.1 No such user!", BounceKind.HARD),  # Yandex
        ("5.7.1", 550, "550 5.7.1 <us@ours.example>: Sender address rejected: User unknown", BounceKind.BLOCK),
        ("5.7.26", 550, "550 5.7.26 user unknown", BounceKind.BLOCK),
        ("5.1.1", 550, "550 5.1.1 User unknown; sender domain ours.example", BounceKind.HARD),
        ("5.2.0", 550, "550 5.2.0 Mail to this mailbox blocked due to poor reputation of 192.0.2.1", BounceKind.BLOCK),
        ("5.7.26", 550, None, BounceKind.BLOCK),
        ("4.1.1", None, None, BounceKind.SOFT),
        ("4.4.1", 421, None, BounceKind.SOFT),
        ("4.7.0", 421, None, BounceKind.BLOCK),
        ("4.0.0", None, None, BounceKind.SOFT),
        ("5.0.0", 550, "550 User unknown", BounceKind.HARD),
        ("5.0.0", None, "The mailbox is full", BounceKind.SOFT),
        ("5.0.0", None, None, BounceKind.UNDETERMINED),
        (None, 451, "blocked", BounceKind.SOFT),
        (None, 552, None, BounceKind.SOFT),
        (None, 521, None, BounceKind.HARD),
        (None, 571, None, BounceKind.BLOCK),
        (None, 521, "521 < 192.0.2.1 > is blocked", BounceKind.BLOCK),  # AT&T
        (None, 552, "552 Message size exceeds maximum permitted", BounceKind.SOFT),  # Exim
        (None, 552, "552 Requested mail action aborted: exceeded storage allocation", BounceKind.SOFT),
        (None, 552, "552 1 Requested mail action aborted, mailbox not found", BounceKind.HARD),  # Yahoo
        (None, 552, "552 Message rejected due to spam content", BounceKind.BLOCK),
        (None, 550, "550 Message too large", BounceKind.SOFT),
        (None, 554, "554 delivery error: dd This user doesn't have a yahoo.com account", BounceKind.HARD),
        (None, 571, "571 no such user", BounceKind.BLOCK),
        (None, 550, "Blocked by Spamhaus", BounceKind.BLOCK),
        (None, 550, "Requested action not taken", BounceKind.UNDETERMINED),
        # "other or undefined" of a subject: the words decide, and the subject where they say nothing
        ("5.1.0", 550, "550 #5.1.0 Address rejected.", BounceKind.HARD),
        ("5.1.0", 550, "550 5.1.0 <us@ours.example> sender rejected", BounceKind.BLOCK),
        (
            "5.1.0",
            550,
            "550 5.1.0 <us@ours.example>: Sender address rejected: User unknown",
            BounceKind.BLOCK,
        ),  # Postfix
        ("5.1.0", 550, "550 5.1.0 <ann@spamstorage.example> rejected", BounceKind.HARD),
        ("5.1.0", None, "5.1.0 - Unknown address error 554-'Blocked'", BounceKind.BLOCK),
        ("5.1.0", None, "5.1.0 - Unknown address error 550-'Denied'", BounceKind.HARD),
        ("5.2.0", 552, "552 5.2.0 Suspected spam message rejected", BounceKind.BLOCK),
        ("5.2.0", 550, "550 5.2.0 mailbox temporarily disabled", BounceKind.SOFT),
        ("5.3.0", 553, "553 5.3.0 DNSBL:RBL 521< 192.0.2.1 >_is_blocked", BounceKind.BLOCK),  # AT&T
        ("5.3.0", 553, "553 5.3.0 Addressee unknown, relay=[192.0.2.1]", BounceKind.HARD),
        ("5.3.0", 554, "554 5.3.0 try later", BounceKind.SOFT),
        ("5.4.0", 550, "550 5.4.0 Error: no such user", BounceKind.HARD),
        ("5.4.0", None, None, BounceKind.SOFT),
        ("5.7.0", 550, "550 5.7.0 the domain of your address does not exist", BounceKind.BLOCK),
        ("4.1.0", 450, "450 4.1.0 no such user", BounceKind.SOFT),
        ("5.1.0", 550, "550 5.1.0 Invalid mailbox; see http://x.example/anti-spam", BounceKind.HARD),
        ("5.2.0", 550, "550 5.2.0 Mailbox unavailable, blocked for inactivity", BounceKind.SOFT),
        # Exim: the code is from what our own server said of our own address
        (
            "5.1.1",
            550,
            "550-Response: 550 5.1.1 <us@ours.example>: User unknown 550 Sender verify failed",
            BounceKind.BLOCK,
        ),
        ("5.7.17", 550, "550 5.7.17 Mailbox owner has changed", BounceKind.HARD),
        ("5.7.18", 550, "550 5.7.18 Domain owner has changed", BounceKind.HARD),
        (None, None, None, BounceKind.UNDETERMINED),
    ],
)
def test_codes_tell_why_it_was_refused(
    enhanced: str | None, code: int | None, text: str | None, kind: BounceKind
) -> None:
    assert bounce_kind_of(enhanced, code, text) is kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("550 <relay@storage.example> rejected", BounceKind.UNDETERMINED),
        ("550 relay01.x.example: recipient rejected", BounceKind.UNDETERMINED),
        ("550 rejected, see http://x.example/anti-spam", BounceKind.UNDETERMINED),
        ("550 rejected, see https://www.spamhaus.org/query/ip/192.0.2.1", BounceKind.BLOCK),
        ("553 >_is_blocked.For assistance", BounceKind.BLOCK),  # AT&T
        ("550 RESOLVER.ADR.RecipientNotFound; not found", BounceKind.HARD),  # Exchange
        ("550 failed for one or more recipients (ann@b.example:blocked)", BounceKind.BLOCK),  # Barracuda
        ("550 mailbox blocked for inactivity", BounceKind.UNDETERMINED),
        ("550 user unknown.please check the address", BounceKind.HARD),
        ("550 see http://x.example/help;user unknown", BounceKind.HARD),
        ("550 mailbox is full.try again later", BounceKind.SOFT),
        ("550 refused by spam-filter.example", BounceKind.UNDETERMINED),
        ("550 blockchain.com does not accept the recipient", BounceKind.UNDETERMINED),
    ],
)
def test_the_words_of_an_address_a_link_or_a_host_are_nobodys_reason_unless_it_is_a_block_list(
    text: str, kind: BounceKind
) -> None:
    assert kind_of_words(words_of(text)) is kind


def test_only_what_is_named_is_left_out_of_an_answer() -> None:
    assert without_names("550 5.7.1 <no.such+user@spam.example>: at mx.x.example, mx1.example, later.") == (
        "550 5.7.1 <>: at , , later."
    )
    assert without_names("not listed at bl.x.example, mail.bl-x.example.Sorry") == "not listed at bl.x.example, .Sorry"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("550 User unknown", True),
        ("550 no such user in this domain", True),
        ("550 The account that you tried to reach does not exist", True),
        ("550 the domain does not exist", False),
        ("550 Sender verify failed: no such user", False),
        ("550 blocked", False),
    ],
)
def test_a_domain_or_a_sender_that_does_not_exist_is_no_mailbox(text: str, says: bool) -> None:
    assert says_no_such_mailbox(words_of(text)) is says


@pytest.mark.parametrize(
    ("text", "closed", "kind"),
    [
        ("550 mailbox is disabled", True, BounceKind.UNDETERMINED),
        ("550 Mailbox temporarily blocked", True, BounceKind.UNDETERMINED),
        ("550 the account has been blocked", True, BounceKind.UNDETERMINED),
        ("550 the recipient is inactive", True, BounceKind.UNDETERMINED),
        ("550 Your account has been blocked due to spam", False, BounceKind.BLOCK),
        ("550 Sender account blocked", False, BounceKind.BLOCK),
        ("550 your IP has been inactive and blacklisted", False, BounceKind.BLOCK),
        ("550 Mail to mailbox blocked using Spamhaus ZEN", True, BounceKind.BLOCK),
        ("550 Message to this mailbox blocked by spam filter", True, BounceKind.BLOCK),
        ("550 Mail from inactive domain blocked using reputation list", False, BounceKind.BLOCK),
    ],
)
def test_what_is_plainly_said_of_us_is_no_closed_mailbox(text: str, closed: bool, kind: BounceKind) -> None:
    assert says_closed(words_of(text)) is closed
    assert kind_of_words(words_of(text)) is kind


@given(st.none() | st.text(), st.none() | st.integers(), st.none() | st.text(st.characters()))
def test_any_input_has_a_kind(enhanced: str | None, code: int | None, text: str | None) -> None:
    assert isinstance(bounce_kind_of(enhanced, code, text), BounceKind)


@given(st.integers(0, 9), st.integers(0, 99))
def test_a_transient_code_is_never_hard(subject: int, detail: int) -> None:
    assert bounce_kind_of(f"4.{subject}.{detail}", None, "user unknown") is not BounceKind.HARD
