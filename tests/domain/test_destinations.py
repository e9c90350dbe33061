"""An address belongs to whoever runs its mailbox, as far as its domain tells, and to nobody unheard of."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain import destinations
from streams.domain.destinations import DESTINATIONS, OTHER, destination_of

ADDRESSES: list[tuple[str, str]] = [
    ("ada@gmail.com", "gmail"),
    ("ada@googlemail.com", "gmail"),
    ("ada@outlook.com", "microsoft"),
    ("ada@hotmail.fr", "microsoft"),
    ("ada@hotmail.co.uk", "microsoft"),
    ("ada@outlook.com.br", "microsoft"),
    ("ada@live.nl", "microsoft"),
    ("ada@msn.com", "microsoft"),
    ("ada@yahoo.com", "yahoo"),
    ("ada@yahoo.de", "yahoo"),
    ("ada@yahoo.com.mx", "yahoo"),
    ("ada@ymail.com", "yahoo"),
    ("ada@aol.co.uk", "yahoo"),
    ("ada@comcast.net", "yahoo"),
    ("ada@yahoo.co.jp", "yahoo_japan"),
    ("ada@ybb.ne.jp", "yahoo_japan"),
    ("ada@icloud.com", "apple"),
    ("x7@privaterelay.appleid.com", "apple"),
    ("ada@gmx.at", "gmx"),
    ("ada@gmx.net", "gmx"),
    ("ada@web.de", "web_de"),
    ("ada@t-online.de", "t_online"),
    ("ada@freenet.de", "freenet"),
    ("ada@pm.me", "proton"),
    ("ada@zohomail.eu", "zoho"),
    ("ada@wanadoo.fr", "orange"),
    ("ada@free.fr", "free_fr"),
    ("ada@laposte.net", "laposte"),
    ("ada@neuf.fr", "sfr"),
    ("ada@virgilio.it", "libero"),
    ("ada@bk.ru", "mail_ru"),
    ("ada@yandex.com.tr", "yandex"),
    ("ada@ya.ru", "yandex"),
    ("10001@qq.com", "qq"),
    ("ada@163.com", "netease"),
    ("ada@naver.com", "naver"),
    ("ada@seznam.cz", "seznam"),
    ("ada@o2.pl", "wp_pl"),
    # case, the root's dot, an @ in quotes
    ("Ada@GMail.COM", "gmail"),
    ("ada@gmail.com.", "gmail"),
    ("ada@HOTMAIL.Fr.", "microsoft"),
    ('"ada@work"@gmail.com', "gmail"),
    # nobody we know
    ("ada@company.example", OTHER),
    ("ada@mail.gmail.com", OTHER),
    ("ada@notgmail.com", OTHER),
    ("ada@gmail.com.evil.example", OTHER),
    ("ada@gmail.fr", OTHER),
    ("ada@live.example", OTHER),
    ("ada@live.co.example", OTHER),
    ("ada@yahoo.org.uk", OTHER),
    ("ada@yahoo.1a", OTHER),
    ("ada@yahoo.f", OTHER),
    ("ada@yahoo", OTHER),
    ("ada@yahoo..fr", OTHER),
    ("ada@gmail.com..", OTHER),
    # no address
    ("gmail.com", OTHER),
    ("ada@", OTHER),
    ("@", OTHER),
    ("", OTHER),
    ("ada@gmail.com ", OTHER),
]


@pytest.mark.parametrize(("address", "expected"), ADDRESSES)
def test_an_address_belongs_to_whoever_runs_its_mailbox(address: str, expected: str) -> None:
    assert destination_of(address) == expected


def test_every_destination_is_met_by_an_address() -> None:
    assert {expected for _, expected in ADDRESSES} == set(DESTINATIONS)


def test_the_names_are_few_distinct_and_fit_for_labels_and_end_with_other() -> None:
    assert DESTINATIONS[-1] == OTHER == "other"
    assert len(DESTINATIONS) == len(set(DESTINATIONS)) <= 25
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in DESTINATIONS)


def test_no_domain_is_listed_twice_and_each_is_in_lower_case() -> None:
    listed = [domain for domains in destinations._DOMAINS.values() for domain in domains.split()]
    assert len(listed) == len(set(listed))
    assert all(re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", domain) for domain in listed)
    assert set(destinations._BRANDS.values()) <= set(DESTINATIONS)


@given(st.text(st.characters()) | st.tuples(st.text(), st.sampled_from(["@", "@gmail.com", "@yahoo.fr"])).map("".join))
def test_any_text_has_a_destination(text: str) -> None:
    assert destination_of(text) in DESTINATIONS


@given(st.sampled_from(["gmail.com", "hotmail.fr", "yahoo.co.uk", "company.example"]), st.randoms())
def test_neither_case_nor_the_roots_dot_changes_the_destination(domain: str, random: object) -> None:
    written = "".join(random.choice((letter, letter.upper())) for letter in domain)  # type: ignore[attr-defined]  # hypothesis' Random
    assert destination_of(f"ada@{written}") == destination_of(f"ada@{written}.") == destination_of(f"ada@{domain}")


def test_what_is_remembered_is_bounded_in_number_and_size() -> None:
    destinations._of_domain.cache_clear()
    assert destination_of("ada@" + "x" * 1_000_000) == OTHER
    assert destinations._of_domain.cache_info().currsize == 0
    for number in range(5_000):
        destination_of(f"ada@company{number}.example")
    assert destinations._of_domain.cache_info().currsize == 4_096
