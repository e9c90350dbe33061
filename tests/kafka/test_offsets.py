"""What a group committed, from answers as a broker gives them (OffsetFetch version 3, KIP-88)."""

from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupLoadInProgressError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.kafka.offsets import committed_offsets

FIRST, SECOND = TopicPartition("mail.events", 0), TopicPartition("mail.events", 1)


class Admin(AIOKafkaAdminClient):
    """aiokafka's, with a coordinator that gives one answer."""

    def __init__(self, *, topics: list[Any], error_code: int = 0) -> None:
        self._answer = OffsetFetchResponse_v3(throttle_time_ms=0, topics=topics, error_code=error_code)
        self.asked: list[Any] = []

    async def find_coordinator(self, group_id: str, coordinator_type: int = 0) -> int:  # noqa: ARG002 - aiokafka's
        return 1

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        assert node_id == 1
        self.asked.append(request._partitions)
        return self._answer


async def test_what_was_committed_has_its_metadata_and_what_never_was_is_below_zero() -> None:
    admin = Admin(topics=[("mail.events", [(0, 12, "said", 0), (1, -1, "", 0)])])

    found = await committed_offsets(admin, "group", [FIRST, SECOND])

    assert found == {FIRST: OffsetAndMetadata(12, "said"), SECOND: OffsetAndMetadata(-1, "")}
    assert admin.asked == [[("mail.events", [0, 1])]]


async def test_without_partitions_all_that_the_group_ever_committed_is_asked_for() -> None:
    admin = Admin(topics=[])

    assert await committed_offsets(admin, "group") == {}
    assert admin.asked == [None]


@pytest.mark.parametrize(("error_code", "error"), [(14, GroupLoadInProgressError), (30, GroupAuthorizationFailedError)])
async def test_a_coordinator_that_does_not_know_is_no_group_that_never_committed(
    error_code: int, error: type[KafkaError]
) -> None:
    admin = Admin(topics=[], error_code=error_code)

    assert await admin.list_consumer_group_offsets("group", partitions=[FIRST]) == {}, "aiokafka's own sees nothing"
    with pytest.raises(error):
        await committed_offsets(admin, "group", [FIRST])


async def test_an_error_of_one_partition_is_told_by_its_name() -> None:
    admin = Admin(topics=[("mail.events", [(0, 12, "", 0), (1, -1, "", 29)])])

    with pytest.raises(TopicAuthorizationFailedError, match=r"mail\.events/1"):
        await committed_offsets(admin, "group", [FIRST, SECOND])
