"""What a consumer group committed.

The rule: no answer is not "nothing was ever committed". aiokafka's own function
looks for errors at partitions only. A coordinator that still loads its log, or is
none any more, says so for all of them at once and names none (KIP-88): whoever
took that for a new group would begin at the oldest record.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition


async def committed_offsets(
    admin: AIOKafkaAdminClient, group_id: str, partitions: Iterable[TopicPartition] | None = None
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return the group's committed offset and its metadata, of these partitions or of all that it ever committed.

    A partition that was asked for and never committed has an offset of -1, or is left out.

    Raises:
        KafkaError: it is not known now; ``retriable`` says whether it may be in a moment, as while a coordinator loads.
    """
    asked: dict[str, list[int]] | None = None
    if partitions is not None:
        asked = defaultdict(list)
        for tp in partitions:
            asked[tp.topic].append(tp.partition)
    coordinator = await admin.find_coordinator(group_id)
    request = OffsetFetchRequest(group_id, None if asked is None else list(asked.items()))
    response: Any = await admin._send_request(request, coordinator)  # noqa: SLF001 - see above
    _check(response.error_code, group_id)
    found = {}
    for topic, answers in response.topics:
        for partition, offset, metadata, error_code in answers:
            _check(error_code, f"{topic}/{partition}")
            found[TopicPartition(topic, partition)] = OffsetAndMetadata(offset, metadata)
    return found


def _check(error_code: int, of: str) -> None:
    if error_code:
        raise for_code(error_code)(of)
