"""Words are read without names, and what is said of us is told from what is said of the mailbox. Answers: ``answers/``."""

import time

import pytest

from streams.domain.events import BounceKind
from streams.domain.wording import (
    kind_of_words,
    says_closed,
    says_loop,
    says_no_such_mailbox,
    says_too_large,
    without_names,
    words_of,
)
from tests.domain.hostile import HOSTILE


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
        ("550 Sending account is suspended due to spam", False, BounceKind.BLOCK),
        ("550 Das Absenderpostfach ist gesperrt", False, BounceKind.BLOCK),
        ("550 Relaying to this recipient is disabled", False, BounceKind.BLOCK),
        ("550 your IP has been inactive and blacklisted", False, BounceKind.BLOCK),
        ("550 Mail to mailbox blocked using Spamhaus ZEN", True, BounceKind.BLOCK),
        ("550 Message to this mailbox blocked by spam filter", True, BounceKind.BLOCK),
        ("550 Mail from inactive domain blocked using reputation list", False, BounceKind.BLOCK),
    ],
)
def test_what_is_plainly_said_of_us_is_no_closed_mailbox(text: str, closed: bool, kind: BounceKind) -> None:
    assert says_closed(words_of(text)) is closed
    assert kind_of_words(words_of(text)) is kind


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:6])
def test_ten_million_hostile_characters_take_no_time(text: str) -> None:
    start = time.thread_time()
    words = words_of(text)
    kind_of_words(words)
    says_no_such_mailbox(words)
    says_too_large(words)
    says_loop(words)
    says_closed(words)

    assert time.thread_time() - start < 0.2
