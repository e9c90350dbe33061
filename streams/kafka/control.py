"""Commands to running workers, on the compacted topic ``mail.control``: for now, to resume a stopped partition.

The rule: a command is valid for one stop: this application, this partition, this offset.
The topic keeps the last command of each partition for ever, so it must not resume a
later stop.
"""

import logging
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.kafka.closing import stop_consumer
from streams.kafka.lanes import ResumeCommand
from streams.records import RecordError, Resume, decode_resume

logger = logging.getLogger(__name__)


class ControlTopic:
    """Reads the topic only while a lane is stopped, which is rare."""

    def __init__(self, topic: str, client_options: Mapping[str, Any], *, app_id: str) -> None:
        self._topic = topic
        self._client_options = client_options
        self._app_id = app_id
        self._passed_over: set[str] = set()
        """Ids of commands for other stops; each is logged once."""

    async def latest(self, tp: TP, stopped_at: int) -> ResumeCommand | None:
        """Return the newest command for ``tp``, stopped at this offset, or None.

        Raises:
            KafkaError, OSError: the broker does not answer, or refuses.
        """
        found = None
        for command in await self._commands(f"{tp.topic}/{tp.partition}".encode()):
            if (command.app_id, command.offset) == (self._app_id, stopped_at):
                found = ResumeCommand(command.resume_id, command.dead_letter_through)
            elif command.resume_id not in self._passed_over:
                self._passed_over.add(command.resume_id)
                logger.info(
                    "%s/%s is stopped at offset %d: the command of %s to resume it is for another stop, and is ignored",
                    tp.topic,
                    tp.partition,
                    stopped_at,
                    command.requested_at,
                )
        return found

    async def _commands(self, key: bytes) -> list[Resume]:
        """Return all that the topic holds for one partition, oldest first."""
        found = []
        control = TopicPartition(self._topic, 0)
        consumer = AIOKafkaConsumer(**self._client_options, isolation_level="read_committed")
        try:  # not `async with`, which does not close a consumer whose start failed
            await consumer.start()
            consumer.assign([control])
            end = (await consumer.end_offsets([control]))[control]
            # not seek_to_beginning: assign has begun a reset to the end, which could override it
            consumer.seek(control, (await consumer.beginning_offsets([control]))[control])
            while await consumer.position(control) < end:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        if record.key == key and record.value is not None:
                            try:
                                found.append(decode_resume(record.value))
                            except RecordError:
                                continue  # not a command that this version knows
        finally:
            await stop_consumer(consumer)
        return found
