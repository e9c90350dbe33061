"""Mailjet: the user and password of the URL that it calls, which cover no body."""

from dataclasses import replace
from datetime import timedelta

import pytest

from streams.providers import PROVIDERS, Refusal
from tests.providers.signing import NOW, basic, mailjet

MAILJET = PROVIDERS["mailjet"]


def test_the_user_and_password_of_the_url_are_taken() -> None:
    assert mailjet().verify().key_id == "2026"
    assert mailjet().verify().replay_token is None
    assert MAILJET.read_headers(mailjet().request.headers, mailjet().secrets)


@pytest.mark.parametrize("wrong", ["mailjet:", "mailjet:pa:ss wor", "Mailjet:pa:ss word", ":pa:ss word", "x"])
def test_any_other_user_and_password_is_a_mismatch(wrong: str) -> None:
    assert mailjet(wrong).refusal() is Refusal.MISMATCH


def test_without_them_it_is_missing_even_if_they_are_in_the_url_that_we_see() -> None:
    bare = mailjet().with_headers(authorization=None)
    url = "https://mailjet:pa:ss%20word@hooks.sender.example/webhooks/mailjet/acme"

    assert replace(bare, request=replace(bare.request, url=url)).refusal() is Refusal.MISSING


def test_a_header_that_a_proxy_adds_is_taken_too() -> None:
    signed = replace(mailjet(), secrets={"h": "header:X-Hook-Token:s3cret"})

    assert signed.refusal() is Refusal.MISSING
    assert signed.with_headers(x_hook_token="s3cret").verify().key_id == "h"


def test_another_credential_is_taken_beside_the_first_while_it_is_replaced() -> None:
    signed = replace(mailjet("mailjet:new"), secrets={**mailjet().secrets, "2027": "basic:mailjet:new"})

    assert signed.verify().key_id == "2027"
    assert signed.with_headers(authorization=basic("mailjet:pa:ss word")).verify().key_id == "2026"


def test_there_is_no_stamp_so_no_window_and_no_code_makes_mailjet_give_up() -> None:
    assert MAILJET.replay_window_s is None
    assert replace(mailjet(), now=NOW + timedelta(days=400), window_s=1).refusal() is None
    assert MAILJET.instead_of == {}
