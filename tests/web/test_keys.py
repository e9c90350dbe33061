"""API keys: whose a key is, told by its digest alone."""

from hashlib import sha256

from aiohttp.test_utils import make_mocked_request

from streams.web.keys import Keys, credential


def digest(key: bytes) -> str:
    return sha256(key).hexdigest()


def test_a_key_proves_each_account_that_has_it_and_no_other() -> None:
    keys = Keys({"small": [digest(b"one"), digest(b"shared").upper()], "large": [digest(b"shared")], "none": []})
    assert keys.accounts_of(b"one") == {"small"}
    assert keys.accounts_of(b"shared") == {"small", "large"}
    assert keys.accounts_of(b"other") == frozenset()


def test_no_key_and_one_that_is_too_long_prove_nothing_even_where_their_digest_is_known() -> None:
    keys = Keys({"small": [digest(b""), digest(b"k" * 512), digest(b"k" * 513)]})
    assert [bool(keys.accounts_of(key)) for key in (b"", b"k" * 512, b"k" * 513)] == [False, True, False]


def test_without_any_key_there_are_none() -> None:
    assert not Keys({})
    assert not Keys({"small": []})
    assert Keys({"small": [digest(b"one")]})


def test_what_a_request_proves_itself_by_is_its_scheme_and_what_follows() -> None:
    for header, found in [("bEARER  a key ", ("bearer", b"a key")), ("Basic", ("basic", b"")), ("", ("", b""))]:
        assert credential(make_mocked_request("GET", "/", headers={"Authorization": header})) == found
    assert credential(make_mocked_request("GET", "/")) == ("", b"")
