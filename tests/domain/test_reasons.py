"""How words and codes are weighed for a cause, and that no text breaks the reader. Real answers: ``answers/``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain import reasons
from streams.domain.reasons import ReasonClass, classify, code_of, refuses_address, refuses_us
from streams.domain.smtp import AUTHENTICATION, bounce_kind_of, parse_reply
from streams.domain.wording import LOOKED_AT

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
    assert reasons._WORD.pattern == "[a-z0-9]+|[^\x00-\x7f]"  # two classes apart: each character is looked at once


def test_what_is_remembered_is_bounded() -> None:
    assert reasons._classify.cache_info().maxsize == 1_024


@pytest.mark.parametrize(
    ("answer", "plainly"),
    [
        ("550 Administrative prohibition", True),
        ("550 authentication required", True),
        ("550 Mail is rejected by recipients", True),
        ("550 Die Absenderadresse existiert nicht", True),
        ("550 Access denied, rejected by recipient", True),
        ("550 5.1.351 Remote server returned unknown recipient -> 550 5.7.1 Message refused", True),
        ("554 mx.example ESMTP not accepting connections", False),
        ("554 mx.example.com not accepting connections, out of disk space", False),
        ("550 Message rejected by recipient mail server: mailbox unavailable", False),
        ("550 rejecting spoofed message", True),
        ("550 recipient rejected by policy", False),
        ("550 Account suspended", False),
        ("550 User unknown", False),
    ],
)
def test_a_refusal_is_plainly_about_us_where_a_word_says_more_than_policy(answer: str, plainly: bool) -> None:
    reply = parse_reply(answer)
    kind = bounce_kind_of(reply.enhanced_code, reply.smtp_code, answer)
    assert refuses_us(kind, answer, *reply) is plainly


@pytest.mark.parametrize(
    ("answer", "plainly"),
    [
        ("550 5.1.1 User unknown", True),
        ("550 5.1.1 User unknown, blocked by policy", True),
        ("550 5.1.1 <ann@customer.example> rejected", True),
        ("550 5.4.1 Recipient address rejected: Access denied", True),
        ("550 5.1.1 Recipient address rejected: Relay access denied", False),
        ("550 5.1.1 Rejected as spam", False),
        ("550 5.7.1 Access denied", False),
        ("550 5.1.2 Host unknown", True),
        ("550 5.1.351 Remote server returned unknown recipient -> 550 5.1.1 rejected", True),
        ("450 4.1.1 User unknown", False),
        ("550 rejected", False),
        ("550 5.1.0 Your IP is not welcome here", False),
        ("550 5.4.4 Unable to route: your IP is refused", False),
        ("521 Your IP is not allowed to send here", False),
        ("551 Your IP is not local", False),
        ("550 MAIL FROM domain does not exist", False),
    ],
)
def test_a_refusal_is_plainly_about_the_address_by_its_words_or_by_a_code_without_words_about_us(
    answer: str, plainly: bool
) -> None:
    reply = parse_reply(answer)
    kind = bounce_kind_of(reply.enhanced_code, reply.smtp_code, answer)
    assert refuses_address(kind, answer, *reply) is plainly


@pytest.mark.parametrize(
    ("reported", "answer", "code"),
    [
        ("5.1.1", "550 5.7.1 rejected", "5.7.1"),
        ("5.1.0", "5.1.0 - Unknown address error 550-'5.7.1 rejected'", "5.7.1"),
        ("5.1.3", "553 192.0.2.1 is listed at zen.spamhaus.org", None),
        ("5.1.6", "551 blocked as spam", None),
        ("5.1.3", "553 too many complaints about you", None),
        ("5.0.0", "554 too many complaints about you", "5.0.0"),
        ("5.2.1", "550 5.2.2 mailbox full", "5.2.2"),
        ("5.1.1", "450 mailbox full", None),
        ("5.2.2", "552 message exceeds fixed maximum message size", None),
        ("5.1.1", "550 mailbox full", None),
        ("5.2.2", "552 mailbox full", "5.2.2"),
        ("5.1.1", "550 user unknown", "5.1.1"),
        ("5.7.1", "550 user unknown", "5.7.1"),  # Yandex has that code for it
        ("5.3.0", "550 denied", "5.3.0"),
        ("5.0.0", "554 192.0.2.1 is listed at zen.spamhaus.org", "5.0.0"),
        ("5.1.1", "550 5.0.0 rejected", "5.1.1"),
        ("4.0.0", "550 5.0.0 rejected", "5.0.0"),
        ("4.4.1", "421 try later", "4.4.1"),
        ("4.4.7", "550 192.0.2.1 is listed at zen.spamhaus.org", None),
        ("5.2.2", "552 Speicher erschoepft", "5.2.2"),  # an answer that we cannot read contradicts nothing
        ("5.2.2", "552 insufficient storage", "5.2.2"),
        ("5.2.2", "452 Buzon sin espacio", "5.2.2"),
        ("5.4.6", "554 too many hops", "5.4.6"),
        ("5.7.1", "552 Nachricht abgelehnt", "5.7.1"),
        ("5.7.1", "521 Verbindung abgelehnt", "5.7.1"),
        ("5.2.2", None, "5.2.2"),
        (None, "550 5.1.1 user unknown", "5.1.1"),
        (None, "550 5.0.0 rejected", "5.0.0"),
    ],
)
def test_an_answer_outweighs_the_status_code_that_somebody_reports_beside_it(
    reported: str | None, answer: str | None, code: str | None
) -> None:
    """Sendmail makes its own code of the reply code alone: 5.1.3 of any 553, 5.1.6 of any 551, 5.2.2 of any 552."""
    reply = parse_reply(answer)
    assert code_of(reply.enhanced_code, reported, reply.smtp_code, answer) == code
