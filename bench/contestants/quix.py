"""Quix Streams, as in its documentation: a stateful function, its RocksDB state with a changelog, ``to_topic``.

Rows are bytes already, so they are stored as bytes; the guarantee is an option. All
else is Quix's default, except for the compression, which is that of all contestants
but ours, and for librdkafka's ``linger.ms``: its default of 5 makes batches so small that
compressing them takes a third of the processor time.
"""

import logging
from typing import Any

from quixstreams import Application, State
from quixstreams.models import Topic
from quixstreams.models.serializers import SerializationContext, Serializer

from bench import jobs
from bench.contestants import Task

LINGER_MS = 50


class _Value(Serializer):  # type: ignore[misc] # Quix is installed in the bench's own environment only
    """Takes the value out of (output, value)."""

    def __call__(self, value: tuple[str, bytes], ctx: SerializationContext) -> bytes:  # noqa: ARG002 - Quix's signature
        return value[1]


def run(task: Task) -> None:
    """Do the job for ever."""
    job = jobs.named(task.job)
    fold = job.fold
    app = Application(
        broker_address=task.bootstrap,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        state_dir=task.folder,
        processing_guarantee=task.options["guarantee"],
        producer_extra_config={"compression.type": task.compression, "linger.ms": LINGER_MS},
        loglevel=logging.WARNING,
    )
    source = app.topic(task.source, key_deserializer="bytes", value_deserializer="bytes")

    def topic(name: str, serializer: Any) -> Topic:
        return app.topic(task.outputs[name], key_serializer="bytes", value_serializer=serializer)

    def folded(value: bytes, key: bytes, _timestamp: int, _headers: Any, state: State) -> list[tuple[str, bytes]]:
        row, outputs = fold(state.get_bytes("row"), key, value)
        if row is not None:
            state.set_bytes("row", row)
        return outputs

    stream = app.dataframe(source).apply(folded, stateful=True, metadata=True, expand=True)
    if len(job.outputs) == 1:
        stream.to_topic(topic(job.outputs[0], _Value()))
    else:
        topics = {name: topic(name, _Value()) for name in job.outputs}
        stream.to_topic(lambda output, _key, _timestamp, _headers: topics[output[0]])
    app.run()


if __name__ == "__main__":
    run(Task.of_this_process())
