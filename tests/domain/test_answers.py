"""What real servers answer means what the files in ``answers`` say, one test an answer (``answers/README.md``)."""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from streams.domain.advice import advise
from streams.domain.events import BounceKind, EventType
from streams.domain.reasons import ReasonClass, classify
from streams.domain.smtp import bounce_kind_of, parse_reply
from streams.domain.status import fold
from tests.domain.deliveries import event

FILES = sorted((Path(__file__).parent / "answers").glob("*.txt"))
HOUR_US = 3_600_000_000
GIVEN_UP = ("expired: ", "old: ")
"""Mailgun's and SendGrid's words before the last answer: they put nothing off any more."""


class Answer(NamedTuple):
    """A line of a file, with the words above it."""

    text: str
    place: str
    meaning: tuple[str, ...]


def read(path: Path) -> Iterator[Answer]:
    """Return the answers of a file."""
    meaning: tuple[str, ...] = ()
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if line.startswith("    "):
            text = line.strip().replace(r"\r", "\r").replace(r"\n", "\n")
            yield Answer(text, f"{path.name}:{number}", meaning)
        elif line and not line.startswith("#"):
            meaning = tuple(line.split())


ANSWERS = [answer for path in FILES for answer in read(path)]


def advice_on(event_type: EventType, answer: str, kind: BounceKind | None) -> str:
    """Return the code of the advice for a message whose only news is this answer."""
    code, enhanced = parse_reply(answer)
    news = event(event_type, kind=kind, reason=answer, smtp_code=code, enhanced_code=enhanced)
    delivery = fold(None, news).delivery
    assert delivery is not None
    return advise(delivery, support_contact=None, warn_after_us=HOUR_US).code


def meaning_of(answer: str) -> tuple[str, str, str, str]:
    """Return what the code makes of an answer: kind, class, advice once it bounced, advice while it is deferred."""
    code, enhanced = parse_reply(answer)
    kind = bounce_kind_of(enhanced, code, answer)
    return (
        kind,
        classify(answer, code, enhanced),
        advice_on(EventType.BOUNCE, answer, kind),
        advice_on(EventType.DEFERRED, answer, None),
    )


@pytest.mark.parametrize("answer", ANSWERS, ids=[answer.text for answer in ANSWERS])
def test_an_answer_means_what_its_file_says(answer: Answer) -> None:
    assert meaning_of(answer.text)[: len(answer.meaning)] == answer.meaning, answer.place


def test_an_answer_stands_once_and_what_puts_off_says_what_is_advised_meanwhile() -> None:
    twice = [text for text, times in Counter(answer.text for answer in ANSWERS).items() if times > 1]
    assert twice == []
    puts_off = [answer for answer in ANSWERS if 400 <= (parse_reply(answer.text).smtp_code or 0) < 500]
    silent = [answer.text for answer in puts_off if len(answer.meaning) != 4]
    assert [text for text in silent if not text.startswith(GIVEN_UP)] == []


def test_kind_and_advice_of_a_refusal_do_not_contradict_each_other() -> None:
    for answer in ANSWERS:
        kind, _, advice, *_ = answer.meaning
        if (parse_reply(answer.text).smtp_code or 0) >= 500:
            assert not (kind == BounceKind.HARD and advice in {"blocked", "authentication_refused"}), answer.place
            assert not (kind == BounceKind.BLOCK and "such" in advice), answer.place


def test_every_class_is_met_by_an_answer() -> None:
    assert {answer.meaning[1] for answer in ANSWERS} == set(ReasonClass)


def test_only_the_provider_itself_defers_preemptively() -> None:
    preemptive = [answer.text for answer in ANSWERS if answer.meaning[1] == ReasonClass.PREEMPTIVE]
    assert preemptive != []
    assert [text for text in preemptive if parse_reply(text).smtp_code is not None] == []


_ADDRESS = re.compile(r"[\w.+-]+@([\w.-]+)")
_IP = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d\.)")
_DOCUMENTED = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]


def real_names(text: str) -> list[str]:
    """Return the addresses of an answer that may be somebody's."""
    mail = [
        domain for domain in _ADDRESS.findall(text) if not re.search(r"(?:^|\.)example(?:\.com|\.org)?\.?$", domain)
    ]
    hosts = [ip for ip in _IP.findall(text) if not any(ipaddress.ip_address(ip) in net for net in _DOCUMENTED)]
    return mail + hosts


def test_no_answer_names_anybody() -> None:
    assert [answer.place for answer in ANSWERS if real_names(answer.text)] == []


@pytest.mark.parametrize("text", ["550 <ann@mail.invalid> unknown", "550 blocked: 127.0.0.1", "550 ann@example.net"])
def test_a_name_that_may_be_somebodys_is_seen(text: str) -> None:
    assert len(real_names(text)) == 1
