"""Codes are found where servers put them, and nowhere else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.events import BounceKind
from streams.domain.smtp import (
    AUTHENTICATION,
    bounce_kind_of,
    enhanced_code,
    more_specific,
    parse_reply,
    quoted_answer,
    reply_code,
)
from streams.domain.wording import LOOKED_AT
from tests.domain.hostile import HOSTILE

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


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:6])
def test_ten_million_hostile_characters_take_no_time(text: str) -> None:
    start = time.thread_time()
    parse_reply(text)
    bounce_kind_of(None, 550, text)
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


@given(st.none() | st.text(), st.none() | st.integers(), st.none() | st.text(st.characters()))
def test_any_input_has_a_kind(enhanced: str | None, code: int | None, text: str | None) -> None:
    assert isinstance(bounce_kind_of(enhanced, code, text), BounceKind)


@given(st.integers(0, 9), st.integers(0, 99))
def test_a_transient_code_is_never_hard(subject: int, detail: int) -> None:
    assert bounce_kind_of(f"4.{subject}.{detail}", None, "user unknown") is not BounceKind.HARD
