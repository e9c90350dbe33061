"""The Faust app, with the attributes that our transport and table manager use."""

from typing import TYPE_CHECKING, Any, cast

import faust
from faust.app.base import BootStrategy
from faust.streams import Stream
from faust.transport.consumer import Fetcher
from faust.types import StreamT, TopicT

from streams.kafka.assignor import Assignor

if TYPE_CHECKING:
    from streams.kafka.batches import Batch
    from streams.kafka.lanes import Lanes
    from streams.kafka.progress import Progress
    from streams.kafka.restore import LaneTableManager, Restoring
    from streams.kafka.transport import BatchConsumer, Batching


class _Boot(BootStrategy):
    """Starts without Faust's producer: our stages have their own, and Faust's would lack our TLS and passwords."""

    enable_kafka_producer = False


class BatchedApp(faust.App):
    """A Faust app whose events are batches. ``streams.app.build`` sets the attributes before it starts."""

    BootStrategy = _Boot
    batching: "Batching"
    lanes: "Lanes"
    progress: "Progress"
    restoring: "Restoring"
    _fetcher: Fetcher

    def __init__(self, app_id: str, **options: Any) -> None:
        """Take Faust's options. The assignor is none of them: our transport needs ours."""
        super().__init__(app_id, PartitionAssignor=Assignor, **options)

    def serve(self, topic: TopicT, stage: str) -> None:
        """Declare a stage's agent: it hands each batch to its lane, which acknowledges it once it has taken effect."""
        lanes = self.lanes

        async def serve(stream: StreamT[Any]) -> None:
            async for event in cast("Stream[Batch]", stream).noack().events():
                lanes.take(event)

        serve.__qualname__ = f"serve {stage}"  # what Faust's logs call it
        self.agent(topic, name=stage)(serve)

    @property
    def batch_consumer(self) -> "BatchConsumer":
        """The consumer, which our transport made."""
        return cast("BatchConsumer", self.consumer)

    @property
    def group_assignor(self) -> Assignor:
        """What divides the group's partitions, and knows which topics were divided."""
        return cast("Assignor", self.assignor)

    @property
    def lane_tables(self) -> "LaneTableManager":
        """The table manager, which restores and opens lanes."""
        return cast("LaneTableManager", self.tables)

    @property
    def fetcher(self) -> Fetcher:
        """Faust's service that runs the consumer's fetch loop."""
        return self._fetcher

    def _create_directories(self) -> None:
        """Create none of Faust's directories: our store creates its own."""
