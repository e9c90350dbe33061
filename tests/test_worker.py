"""Tests for ``streams.worker``: what is said of the error that ends a worker. The rest is in ``tests/broker``."""

import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from streams.kafka.transactions import TransactionInDoubtError
from streams.worker import _described

HINT = "; which rights it takes: mailstreams acls worker"


def test_a_right_that_a_worker_lacks_is_told_with_the_command_that_lists_its_rights() -> None:
    assert _described(TopicAuthorizationFailedError("mail.events")).endswith(HINT)


def test_a_right_that_it_lacks_inside_a_transaction_is_told_so_as_well() -> None:
    with pytest.raises(TransactionInDoubtError) as raised:
        raise TransactionInDoubtError("refused") from TopicAuthorizationFailedError("mail.status")
    assert _described(raised.value).endswith(HINT)


def test_any_other_error_is_told_without_it() -> None:
    assert HINT not in _described(TransactionInDoubtError("lost"))
