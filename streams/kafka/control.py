"""Commands to running workers, on the compacted topic ``mail.control``: for now, resume a partition that stands."""

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.records import RecordError, decode_resume


class ControlTopic:
    """Reads the topic when a lane stands, which is rare, and not otherwise."""

    def __init__(self, topic: str, client_options: Mapping[str, Any]) -> None:
        self._topic = topic
        self._client_options = client_options

    async def latest(self, tp: TP) -> tuple[str, int | None] | None:
        """Return the newest resume command for ``tp`` as (its id, dead-letter through this offset), or None."""
        key = f"{tp.topic}/{tp.partition}".encode()
        found = None
        async with AIOKafkaConsumer(**self._client_options, isolation_level="read_committed") as consumer:
            control = TopicPartition(self._topic, 0)
            consumer.assign([control])
            end = (await consumer.end_offsets([control]))[control]
            # not seek_to_beginning: a reset to the end that is under way after assign can win over it
            consumer.seek(control, (await consumer.beginning_offsets([control]))[control])
            while await consumer.position(control) < end:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        if record.key == key and record.value is not None:
                            try:
                                command = decode_resume(record.value)
                            except RecordError:
                                continue  # not a command that this version knows
                            found = (command.resume_id, command.dead_letter_through)
        return found
