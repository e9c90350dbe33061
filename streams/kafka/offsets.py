"""What a consumer group committed, and where partitions begin and end.

The rule: a missing answer does not mean "nothing was ever committed". aiokafka's own
function checks only the errors of single partitions. A coordinator that is still
loading its log, or no longer is the coordinator, returns one error for the request
and no partitions (KIP-88). Mistaken for a new group's answer, it would mean a start
at the oldest record.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP


async def committed_offsets(
    admin: AIOKafkaAdminClient, group_id: str, partitions: Iterable[TopicPartition] | None = None
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return the group's committed offsets and metadata, for these partitions or for all that it ever committed.

    A partition that was asked for and never committed has an offset of -1, or is left out.

    Raises:
        KafkaError: the offsets are not known now; if ``retriable``, they may be soon, as when a coordinator is loading.
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


async def bounds(consumer: AIOKafkaConsumer, tps: Iterable[TP]) -> tuple[dict[TP, int], dict[TP, int]]:
    """Return the first and the end offset of each partition."""
    asked = [TopicPartition(*tp) for tp in tps]
    if not asked:
        return {}, {}
    # All topics at once: one after the other, aiokafka would wait a tenth of a second for each that it does not know.
    await asyncio.gather(*(consumer._client.add_topic(topic) for topic in {tp.topic for tp in asked}))  # noqa: SLF001
    begins = await consumer.beginning_offsets(asked)
    ends = await consumer.end_offsets(asked)
    return {TP(*tp): at for tp, at in begins.items()}, {TP(*tp): at for tp, at in ends.items()}
