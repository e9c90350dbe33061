"""Ids are persisted: what they are made of never changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.events import Send, delivery_id, normalised_reference, searched_recipient


def test_the_id_of_a_delivery_is_the_same_in_every_version() -> None:
    assert delivery_id("billing", "mailgun", "m-1", " Jo@Customer.example") == "xhpsrigz3r4hurjgrlgnymepnq"


def test_the_id_of_a_send_is_the_same_in_every_version() -> None:
    send = Send(
        account="billing", provider="mailgun", message_id="m-1", recipient="jo@customer.example", reference="4711"
    )

    assert send.event_id == "40d14e6b8ac586f3463d2f5a2c83b10c867c86e0ac559b206f6bd1bc62764e88"


def test_a_letter_that_moves_from_one_part_to_the_next_gives_another_id() -> None:
    assert delivery_id("ab", "c", "m", "r") != delivery_id("a", "bc", "m", "r")


def test_a_reference_is_compared_without_case_blanks_and_the_way_in_which_its_letters_are_composed() -> None:
    assert normalised_reference(" RU\u0308-1\n") == normalised_reference("rü-1") == "rü-1"


@pytest.mark.parametrize(
    ("address", "searched"),
    [
        (" Ann@Xn--Mller-Kva.example", "ann@müller.example"),
        ("ann@MU\u0308LLER.example", "ann@müller.example"),
        ("ann@mail.xn--strae-oqa.xn--p1ai", "ann@mail.straße.рф"),
        ("xn--mller-kva@example.net", "xn--mller-kva@example.net"),
        ("ann@xn--\u00fc.example", "ann@xn--ü.example"),  # no ASCII: nothing that was coded
        ("ann@xn--99999999999.example", "ann@xn--99999999999.example"),
        ("ann", "ann"),
    ],
)
def test_an_address_is_searched_with_the_own_letters_of_its_domain(address: str, searched: str) -> None:
    assert searched_recipient(address) == searched_recipient(searched) == searched


@given(st.text(alphabet="abc-019üż.@", max_size=12))
def test_whatever_a_domain_claims_to_be_coded_is_searched_as_text(domain: str) -> None:
    searched_recipient(f"ann@xn--{domain}").encode()
