"""The composition root: ``build(settings)`` puts a worker together. No logic lives here.

The only file that knows all the others. There is no module-level app: each call
builds a fresh one.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from faust.types import TP
from prometheus_client import CollectorRegistry

from streams import __version__, topics
from streams.agents import monitor, normalise, sends, track
from streams.domain.status import SECOND
from streams.kafka.application import BatchedApp
from streams.kafka.control import ControlTopic
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.lanes import FoldTurn, LaneContext, Lanes
from streams.kafka.poison import PoisonLimit
from streams.kafka.progress import Progress
from streams.kafka.publishing import Publisher
from streams.kafka.restore import LaneTableManager, Restoring, StatefulStage, StatelessStage
from streams.kafka.store import Budget
from streams.kafka.stores import Table
from streams.kafka.transactions import TransactionalWriter
from streams.kafka.transport import CODEC, FETCH_BYTES, SCHEME, Batching, register
from streams.kafka.watchdog import Watchdog
from streams.metrics import Metrics
from streams.observe import Health, Observer, Reached
from streams.policies import Held, Policies, policies_of
from streams.providers import PROVIDERS, UNKNOWN
from streams.records import due_of_row, watch_of_row
from streams.settings import Settings
from streams.web.health import HealthServer

MAX_POLL_INTERVAL_S = 10 * 365 * 86_400.0
"""In effect never. A worker without a partition fetches nothing, and aiokafka takes that for a hung loop: it would
leave the group and never come back. The watchdog detects real hangs."""
DAY_US = 86_400 * SECOND
MONITOR_LINGER_S = 0.5
"""Deferrals are counted in minutes: collecting half a second of them costs a tenth of the transactions."""
TRACK_REST_SHARE = 0.5
"""Of the time that a batch took: a status is waited for, and what a shorter rest costs the loop is little (decision 0015)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker, built and not yet started."""

    app: BatchedApp
    settings: Settings
    progress: Progress
    publisher: Publisher
    watchdog: Watchdog
    health_server: HealthServer
    crashed: "asyncio.Future[BaseException]"
    """Done when the worker can no longer work; the result is the reason."""


def nothing_reached(point: str, tp: TP) -> None:
    """Let the batch go on: the named points of its order are for the fault suite."""


def build(settings: Settings, *, reached: Reached = nothing_reached) -> Worker:
    """Return a worker for these settings. Call it inside a running event loop.

    ``reached`` is called at each named point of the batch order.
    """
    crashed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def on_crash(error: BaseException) -> None:
        if not crashed.done():
            crashed.set_result(error)

    app = _faust_app(settings)
    metrics = Metrics.create(CollectorRegistry(), version=__version__)
    for stage in (normalise.STAGE, sends.STAGE, track.STAGE, monitor.STAGE):
        metrics.begin_stage(stage)
    for topic in (*_raw_topics(settings), topics.SENDS, topics.EVENTS, topics.DEFERRALS):
        metrics.skipped_offsets.labels(topic)
    observer = Observer(metrics, reached)
    client_options = settings.kafka.client_options()
    publisher = Publisher(
        client_options=client_options,
        client_id=f"{settings.worker.app_id}-{normalise.STAGE}",
        request_timeout_s=settings.kafka.request_timeout_s,
        deadline_s=settings.kafka.commit_deadline_s,
        compression_type=settings.kafka.producer_compression,
    )
    app.batching = Batching(
        max_records=settings.worker.batch_records,
        max_bytes=settings.worker.batch_bytes,
        tick_topics=frozenset({topics.EVENTS, topics.DEFERRALS}),
        tick_interval_s=settings.worker.tick_interval_s,
        client_options=client_options,
        linger_s={topics.DEFERRALS: MONITOR_LINGER_S},
        rest_share={topics.EVENTS: TRACK_REST_SHARE},
    )
    app.progress = Progress(
        client_options=client_options,
        group_id=settings.worker.app_id,
        upstream_topics={
            topics.EVENTS: _raw_topics(settings),
            topics.DEFERRALS: (*_raw_topics(settings), topics.EVENTS),
        },
        timeless_topics=(topics.SENDS,),
        shared_topics=frozenset(_raw_topics(settings)),
    )
    app.lanes = Lanes(close_timeout_s=settings.kafka.commit_deadline_s + 5, on_crash=on_crash)
    app.restoring = _restoring(settings, publisher, observer, on_crash, app.progress)
    _declare(app, settings)
    watchdog = Watchdog(limit_s=settings.worker.watchdog_s, on_stall=on_crash)
    health = Health(
        metrics=metrics,
        observer=observer,
        tables=app.lane_tables,
        lanes=app.lanes,
        progress=app.progress,
        watchdog=watchdog,
    )
    app.progress.on_look.append(health.look)
    # After that time without an answer of its coordinator the group has given its partitions to another worker. The lag is
    # of the last whole look, so a single topic that fails ends it, too.
    session_s = settings.kafka.session_timeout_s
    metrics.show_partitions_while(
        lambda: app.progress.heard_within(session_s), lag=lambda: app.progress.looked_within(session_s)
    )
    return Worker(
        app=app,
        settings=settings,
        progress=app.progress,
        publisher=publisher,
        watchdog=watchdog,
        health_server=HealthServer(
            host=settings.web.host,
            port=settings.web.port,
            registry=metrics.registry,
            not_live=health.not_live,
            not_ready=health.not_ready,
        ),
        crashed=crashed,
    )


def _faust_app(settings: Settings) -> BatchedApp:
    register()
    servers = settings.kafka.bootstrap_servers.split(",")
    return BatchedApp(
        settings.worker.app_id,
        broker=[f"{SCHEME}://{server}" for server in servers],
        store="memory://",  # Faust's tables are only names; the rows are in streams.kafka.store
        datadir=str(settings.worker.datadir / "faust"),
        autodiscover=False,
        web_enabled=False,
        TableManager=LaneTableManager,
        topic_partitions=settings.topics.partitions,
        topic_allow_declare=False,  # `mailstreams topics create` does; the worker checks before it starts
        topic_disable_leader=True,
        table_standby_replicas=0,
        broker_session_timeout=settings.kafka.session_timeout_s,
        broker_heartbeat_interval=settings.kafka.heartbeat_interval_s,
        broker_request_timeout=settings.kafka.request_timeout_s,
        broker_rebalance_timeout=settings.kafka.rebalance_timeout_s,
        broker_max_poll_interval=MAX_POLL_INTERVAL_S,
        consumer_group_instance_id=settings.kafka.group_instance_id,
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_auto_offset_reset="earliest",  # Faust asks for it; our consumer never resets by itself
    )


def _declare(app: BatchedApp, settings: Settings) -> None:
    """Declare to Faust what it serves: the tables, the topics, the agents."""
    for table in (topics.DELIVERIES_TABLE, topics.OPEN_DEFERRALS_TABLE):
        app.Table(table, key_type=bytes, value_type=bytes, partitions=settings.topics.partitions)
    for names, stage in (
        (_raw_topics(settings), normalise.STAGE),
        ((topics.SENDS,), sends.STAGE),
        ((topics.EVENTS,), track.STAGE),
        ((topics.DEFERRALS,), monitor.STAGE),
    ):
        app.serve(app.topic(*names, key_serializer="raw", value_serializer=CODEC), stage)


def _restoring(
    settings: Settings,
    publisher: Publisher,
    observer: Observer,
    on_crash: Callable[[BaseException], None],
    progress: Progress,
) -> Restoring:
    app_id = settings.worker.app_id
    client_options = settings.kafka.client_options()
    dead_letters = DeadLetters(
        topic=topics.DEAD_LETTERS,
        partitions=settings.topics.partitions,
        max_bytes=settings.worker.dead_letter_max_bytes,
    )

    def new_writer(stage: str, partition: int) -> TransactionalWriter:
        return TransactionalWriter(
            client_options=client_options,
            transactional_id=f"{app_id}-{stage}-{partition}",  # part of the persisted contract: never renamed
            transaction_timeout_s=settings.kafka.transaction_timeout_s,
            request_timeout_s=settings.kafka.request_timeout_s,
            deadline_s=settings.kafka.commit_deadline_s,
            compression_type=settings.kafka.producer_compression,
        )

    policies = policies_of(settings)

    def held_in(source: str) -> Held:
        return lambda provider, partition: progress.held(topics.raw_topic(provider), TP(source, partition))

    return Restoring(
        stateful=(
            _track(settings, policies, held_in(topics.EVENTS)),
            _monitor(settings, policies, held_in(topics.DEFERRALS), observer.metrics),
        ),
        stateless=(
            *(_normalise(settings, name, dead_letters) for name in settings.topics.providers),
            _sends(settings),
        ),
        client_options=client_options,
        group_id=app_id,
        datadir=settings.worker.datadir,
        budget=Budget(
            cache_bytes=settings.worker.store_cache_mb << 20,
            write_buffer_bytes=settings.worker.store_write_buffer_mb << 20,
        ),
        new_writer=new_writer,
        publisher=publisher,
        lane_context=LaneContext(
            limit=PoisonLimit(
                share=settings.worker.poison_share,
                window=settings.worker.poison_window,
                minimum=settings.worker.poison_minimum,
            ),
            dead_letters=dead_letters,
            resume_commands=ControlTopic(topics.CONTROL, client_options, app_id=app_id),
            hooks=observer,
            on_crash=on_crash,
            fold_turn=FoldTurn(),
        ),
        on_crash=on_crash,
        hooks=observer,
    )


def _track(settings: Settings, policies: Policies, held: Held) -> StatefulStage:
    return StatefulStage(
        name=track.STAGE,
        source_topic=topics.EVENTS,
        fold=track.Track(
            status_changed_topic=topics.STATUS_CHANGED,
            status_topic=topics.STATUS,
            deferrals_topic=topics.DEFERRALS,
            support_contacts=_support_contacts(settings),
            policies=policies,
            expire_after_us=int(settings.delivery.expire_after_days * DAY_US),
            objective_us=int(settings.deferrals.objective_s * SECOND),
            held=held,
        ),
        table=Table(
            name=topics.DELIVERIES_TABLE,
            changelog_topic=topics.changelog_topic(settings.worker.app_id),
            due_of=due_of_row,
            watch_of=watch_of_row,
        ),
    )


def _monitor(settings: Settings, policies: Policies, held: Held, metrics: Metrics) -> StatefulStage:
    fold = monitor.Monitor(
        alerts_topic=topics.DEFERRAL_ALERTS,
        policies=policies,
        support_contacts=_support_contacts(settings),
        held=held,
        gauges=metrics.open_deferrals,
    )
    for provider, policy in policies.default.items():
        metrics.retry_window.labels(provider).set(policy.retry_window / SECOND)
    metrics.retry_window.labels(UNKNOWN).set(policies.other.retry_window / SECOND)
    return StatefulStage(
        name=monitor.STAGE,
        source_topic=topics.DEFERRALS,
        fold=fold,
        table=Table(
            name=topics.OPEN_DEFERRALS_TABLE,
            changelog_topic=topics.changelog_topic(settings.worker.app_id, topics.OPEN_DEFERRALS_TABLE),
            due_of=fold.due_of,
            watch_of=lambda _row: None,
            policy=policies.digest,
        ),
    )


def _support_contacts(settings: Settings) -> dict[str, str]:
    return {
        name: account.support_contact
        for name, account in settings.accounts.items()
        if account.support_contact is not None
    }


def _normalise(settings: Settings, provider: str, dead_letters: DeadLetters) -> StatelessStage:
    return StatelessStage(
        name=normalise.STAGE,
        source_topic=topics.raw_topic(provider),
        fold=normalise.Normalise(
            provider=PROVIDERS[provider],
            reference_keys=settings.delivery.reference_keys,
            events_topic=topics.EVENTS,
            events_partitions=settings.topics.partitions,
            dead_letters=dead_letters,
        ),
    )


def _sends(settings: Settings) -> StatelessStage:
    return StatelessStage(
        name=sends.STAGE,
        source_topic=topics.SENDS,
        fold=sends.Sends(events_topic=topics.EVENTS, events_partitions=settings.topics.partitions),
    )


def _raw_topics(settings: Settings) -> tuple[str, ...]:
    return tuple(topics.raw_topic(name) for name in settings.topics.providers)
