"""A token is used up by the request that was accepted."""

from streams.providers import STAMP_AHEAD_S
from streams.web.replay import TokenMemory, Use


def test_a_token_is_used_up_when_its_request_was_accepted() -> None:
    memory = TokenMemory(keep_s=100, most=10)
    assert memory.begin("t", "acme", b"one", 0) is Use.NEW
    memory.end("t", "acme", 0, accepted=True)
    assert memory.begin("t", "acme", b"one", 1) is Use.REPEATED
    assert memory.begin("t", "acme", b"two", 1) is Use.FORGED


def test_a_request_that_failed_leaves_its_token_to_the_retry() -> None:
    memory = TokenMemory(keep_s=100, most=10)
    memory.begin("t", "acme", b"one", 0)
    memory.end("t", "acme", 0, accepted=False)
    assert memory.begin("t", "acme", b"one", 1) is Use.NEW


def test_while_a_token_is_in_use_another_body_is_a_forgery_and_the_same_a_repetition_that_may_be_needed() -> None:
    memory = TokenMemory(keep_s=100, most=10)
    memory.begin("t", "acme", b"one", 0)
    assert memory.begin("t", "acme", b"two", 0) is Use.FORGED
    assert memory.begin("t", "acme", b"one", 0) is Use.NEW
    memory.end("t", "acme", 0, accepted=False)
    assert memory.begin("t", "acme", b"two", 0) is Use.FORGED
    memory.end("t", "acme", 0, accepted=True)
    assert memory.begin("t", "acme", b"one", 0) is Use.REPEATED


def test_a_token_is_remembered_for_longer_than_its_stamp_is_accepted() -> None:
    memory = TokenMemory.for_windows([60, 3600])
    memory.begin("t", "acme", b"one", 0)
    memory.end("t", "acme", 0, accepted=True)
    assert memory.begin("t", "acme", b"two", 3600 + STAMP_AHEAD_S) is Use.FORGED  # it was so far ahead of our clock
    assert memory.begin("t", "acme", b"two", 3600 + STAMP_AHEAD_S + 601) is Use.NEW


def test_a_token_that_was_used_at_one_account_is_a_forgery_at_another() -> None:
    memory = TokenMemory(keep_s=100, most=10)
    assert memory.begin("t", "acme", b"one", 0) is Use.NEW
    assert memory.begin("t", "other", b"one", 0) is Use.FORGED  # also while it is in use
    memory.end("t", "acme", 0, accepted=True)
    assert memory.begin("t", "other", b"one", 1) is Use.FORGED


def test_the_memory_of_accounts_outlasts_the_longest_of_their_windows() -> None:
    assert TokenMemory.for_windows([None, 60]).keep_s == 7 * 86_400


def test_the_memory_is_bounded() -> None:
    memory = TokenMemory(keep_s=1e9, most=10)
    for number in range(1000):
        memory.begin(f"t{number}", "acme", b"x", number)
        memory.end(f"t{number}", "acme", number, accepted=True)
    assert len(memory._used) == 10
    assert not memory._in_work
    assert memory.begin("t999", "acme", b"y", 1000) is Use.FORGED


def test_who_holds_one_accounts_key_cannot_make_the_others_tokens_forgotten() -> None:
    memory = TokenMemory(keep_s=1e9, most=10)
    memory.begin("theirs", "acme", b"x", 0)
    memory.end("theirs", "acme", 0, accepted=True)
    for number in range(100):
        memory.begin(f"t{number}", "mallory", b"x", number)
        memory.end(f"t{number}", "mallory", number, accepted=True)

    assert memory.begin("theirs", "acme", b"y", 1000) is Use.FORGED
    assert memory.begin("t0", "mallory", b"y", 1000) is Use.NEW
