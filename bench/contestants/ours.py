"""Our own stack with one stage: the parts that ``streams.app`` puts together, and nothing else.

The product job runs the product's own class in ``streams.agents.track``; the thin
job has its own fold. With the option ``transactions=no`` the same batches are
produced without a transaction, to show the cost of transactions.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import uvloop
from prometheus_client import CollectorRegistry

from bench import jobs
from bench.contestants import Task
from bench.jobs.product import OBJECTIVE_US, WARN_AFTER_US
from streams.agents import track
from streams.app import DAY_US, nothing_reached
from streams.domain.deferrals import Policy
from streams.kafka.application import BatchedApp
from streams.kafka.batches import Destination, Record, Row, Rows
from streams.kafka.control import ControlTopic
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.lanes import Effects, FoldTurn, LaneContext, Lanes, StatefulFold
from streams.kafka.poison import PoisonLimit
from streams.kafka.producer import MAX_BATCH_BYTES, RETRY_BACKOFF_MS, Producer
from streams.kafka.progress import Progress
from streams.kafka.publishing import Publisher
from streams.kafka.restore import LaneTableManager, Restoring, StatefulStage
from streams.kafka.session import ProducerSession
from streams.kafka.store import Budget, Store
from streams.kafka.stores import Table
from streams.kafka.transactions import TransactionalWriter
from streams.kafka.transport import CODEC, FETCH_BYTES, SCHEME, Batching, register
from streams.metrics import Metrics
from streams.observe import Observer
from streams.policies import Policies
from streams.records import due_of_row, watch_of_row
from streams.settings import Kafka, Settings, load
from streams.worker import GC_THRESHOLD

POLICIES = Policies(
    default={},
    other=Policy(warn_after=WARN_AFTER_US, escalate_after=None, retry_window=3 * DAY_US, overdue_slack=0),
)
TABLE = "rows"
STAGE = "bench"


@dataclass(frozen=True, slots=True)
class Thin:
    """The thin job as a stage's fold."""

    fold: Callable[[bytes | None, bytes, bytes], jobs.Folded]
    topic: str

    async def opened(self, partition: int, store: Store) -> None:
        """Nothing to prepare."""

    def closed(self, partition: int) -> None:
        """Nothing to forget."""

    def record(self, record: Record, partition: int, get: Callable[[bytes], bytes | None], effects: Effects) -> None:
        """Fold one event."""
        key, value = record.key, record.value
        assert key is not None
        assert value is not None
        row, outputs = self.fold(get(key), key, value)
        effects.rows[key] = row
        for _, output in outputs:
            effects.emit(self.topic, partition, Row(key, output, record.timestamp))

    def tick(self, now: int, partition: int, store: Store, effects: Effects) -> None:
        """Nothing falls due."""


class Untransacted:
    """A lane's writer that sends the same batches in the same way, without a transaction around them.

    At least once, without fencing: it is for comparison only.
    """

    def __init__(self, client_options: Mapping[str, Any], kafka: Kafka) -> None:
        self._producer = Producer(
            **client_options,
            enable_idempotence=True,
            retry_backoff_ms=RETRY_BACKOFF_MS,
            max_batch_size=MAX_BATCH_BYTES,
            compression_type=kafka.producer_compression,
        )
        self._request_timeout_s = kafka.request_timeout_s

    async def fence(self) -> None:
        """Start the producer."""
        await self._producer.start()
        self._session = ProducerSession(self._producer, self._request_timeout_s)

    async def commit(self, rows: Rows) -> dict[Destination, int]:
        """Produce; the position is in the changelog's reserved row."""
        return await self._session.write(rows)

    async def close(self) -> None:
        """Release the connections."""
        await self._producer.stop()


async def run(task: Task) -> NoReturn:
    """Do the job until something fails; then say it and end the process at once, as the worker does."""
    try:
        await _run(task)
    except Exception as error:  # noqa: BLE001 - it is reported
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


async def _run(task: Task) -> None:
    settings = load(
        environment={
            "MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS": task.bootstrap,
            "MAILSTREAMS_TOPICS__PARTITIONS": str(task.partitions),
            "MAILSTREAMS_KAFKA__COMPRESSION_TYPE": task.product_compression,
            "MAILSTREAMS_WORKER__APP_ID": task.group,
            "MAILSTREAMS_WORKER__DATADIR": str(task.folder),
        }
    )
    crashed: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()

    def on_crash(error: BaseException) -> None:
        if not crashed.done():
            crashed.set_exception(error)

    app = _app(task, settings, on_crash)
    await asyncio.gather(crashed, _faust_crashed(app), app.progress.run(), app.start())  # raises what the first raises


async def _faust_crashed(app: BatchedApp) -> NoReturn:
    while not app.crashed:  # noqa: ASYNC110 - Faust's crash is a flag, there is nothing to await
        await asyncio.sleep(0.1)
    raise app.crash_reason or RuntimeError("Faust crashed")


def _app(task: Task, settings: Settings, on_crash: Callable[[BaseException], None]) -> BatchedApp:
    register()
    client_options = settings.kafka.client_options()
    app = BatchedApp(
        task.group,
        broker=f"{SCHEME}://{task.bootstrap}",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        TableManager=LaneTableManager,
        topic_partitions=task.partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        broker_max_poll_interval=86_400,
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_auto_offset_reset="earliest",
    )
    app.batching = Batching(
        max_records=settings.worker.batch_records,
        max_bytes=settings.worker.batch_bytes,
        tick_topics=frozenset({task.source}),
        tick_interval_s=settings.worker.tick_interval_s,
        client_options=client_options,
    )
    app.progress = Progress(
        client_options=client_options,
        group_id=task.group,
        upstream_topics={task.source: ()},
        shared_topics=frozenset(),
    )
    app.lanes = Lanes(close_timeout_s=30, on_crash=on_crash)
    app.restoring = _restoring(task, settings, client_options, on_crash)
    app.Table(TABLE, key_type=bytes, value_type=bytes, partitions=task.partitions)
    source = app.topic(task.source, key_serializer="raw", value_serializer=CODEC)
    app.serve(source, STAGE)
    return app


def _restoring(
    task: Task, settings: Settings, client_options: Mapping[str, Any], on_crash: Callable[[BaseException], None]
) -> Restoring:
    observer = Observer(Metrics.create(CollectorRegistry(), version="bench"), nothing_reached)
    chosen = settings.worker

    def new_writer(stage: str, partition: int) -> TransactionalWriter:
        if task.options.get("transactions") == "no":
            return cast("TransactionalWriter", Untransacted(client_options, settings.kafka))
        return TransactionalWriter(
            client_options=client_options,
            transactional_id=f"{task.group}-{stage}-{partition}",
            transaction_timeout_s=settings.kafka.transaction_timeout_s,
            request_timeout_s=settings.kafka.request_timeout_s,
            deadline_s=settings.kafka.commit_deadline_s,
            compression_type=settings.kafka.producer_compression,
        )

    return Restoring(
        stateful=(_stage(task),),
        stateless=(),
        client_options=client_options,
        group_id=task.group,
        datadir=task.folder,
        budget=Budget(
            cache_bytes=chosen.store_cache_mb << 20,
            write_buffer_bytes=chosen.store_write_buffer_mb << 20,
        ),
        new_writer=new_writer,
        publisher=Publisher(
            client_options=client_options,
            client_id=task.group,
            request_timeout_s=settings.kafka.request_timeout_s,
            deadline_s=settings.kafka.commit_deadline_s,
            compression_type=settings.kafka.producer_compression,
        ),
        lane_context=LaneContext(
            limit=PoisonLimit(share=chosen.poison_share, window=chosen.poison_window, minimum=chosen.poison_minimum),
            dead_letters=DeadLetters(topic="unused", partitions=1, max_bytes=1 << 20),
            resume_commands=ControlTopic("unused", client_options, app_id=task.group),
            hooks=observer,
            on_crash=on_crash,
            fold_turn=FoldTurn(),
        ),
        on_crash=on_crash,
        hooks=observer,
    )


def _stage(task: Task) -> StatefulStage:
    fold: StatefulFold
    due_of: Callable[[bytes], int | None]
    watch_of: Callable[[bytes], int | None]
    if task.job == "product":
        fold = track.Track(
            status_changed_topic=task.outputs["status-changed"],
            status_topic=task.outputs["status"],
            deferrals_topic=task.outputs["deferrals"],
            support_contacts={},
            policies=POLICIES,
            held=lambda _provider, _partition: False,
            expire_after_us=90 * DAY_US,
            objective_us=OBJECTIVE_US,
        )
        due_of, watch_of = due_of_row, watch_of_row
    else:
        fold = Thin(jobs.named(task.job).fold, task.outputs["changed"])
        due_of = watch_of = _never
    return StatefulStage(
        name=STAGE,
        source_topic=task.source,
        fold=fold,
        table=Table(name=TABLE, changelog_topic=f"{task.group}-{TABLE}-changelog", due_of=due_of, watch_of=watch_of),
    )


def _never(_row: bytes) -> None:
    """A row of the thin job is never due."""


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(run(Task.of_this_process()))
