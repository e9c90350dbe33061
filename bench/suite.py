"""The parts of the suite: each measures something on one broker and adds its figures.

The order within a part is always: all contestants once, then all again. So a machine
that slows down or warms up during the run affects all of them.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from bench import history, ingress, jobs, kafka_streams, monitor, pure, racing, traffic, workers
from bench.figures import Figures, growth_percent, percentile, ratio
from bench.ground import Ground
from bench.racing import AIOKAFKA, AIOKAFKA_STORED, OURS, QUIX, QUIX_EOS, UNTRANSACTED, Contestant, Race, Result
from streams import codecs
from streams.settings import Settings

FAUST_SHARE: Final = 0.1
"""Idiomatic Faust gets a tenth of the events, because it would take too long with all of them."""
PURE_SHARE: Final = 0.25
"""The pure functions are measured on a quarter of the events, in each round."""
IDIOMATIC_FAUST: Final = Contestant(
    "idiomatic_faust",
    [sys.executable, "-m", "bench.contestants.faust_idiomatic"],
    makes_changelog=True,
    share=FAUST_SHARE,
)
EVENTS_PER_BODY: Final = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    events: int
    rounds: int
    deliveries: int
    """Deliveries in the store while the worker is restarted."""
    kafka_streams_events: int
    """More than the others need: Java's compiler has to be warm."""
    latency_s: float
    ingress_s: float
    """Duration of each of the four loads on an ingress or a bare server."""
    kill: bool
    """Measure the start after a kill too: it takes a session timeout."""
    open_deferrals: int
    """Open deferrals among which the monitor finds the due ones."""
    monitored: bool
    """Also run workers for the monitor's figures, which takes minutes."""
    latency_events_per_s: int = 2_000
    streams_threads: int = 1
    compression: str = Settings().kafka.compression_type.value
    """The compression of all contestants' records: the product's default."""


FULL: Final = Plan(
    events=300_000,
    rounds=3,
    deliveries=1_000_000,
    kafka_streams_events=2_000_000,
    latency_s=30,
    ingress_s=5,
    kill=True,
    open_deferrals=monitor.OPEN,
    monitored=True,
)
FAST: Final = Plan(
    events=60_000,
    rounds=1,
    deliveries=60_000,
    kafka_streams_events=200_000,
    latency_s=8,
    ingress_s=2,
    kill=False,
    open_deferrals=50_000,
    monitored=False,
)
CALM_EVENTS_PER_S: Final = 500
"""The second rate at which latency is measured: far below the capacity of a small machine."""
LONG_DELIVERIES: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Run:
    """The arguments of a part."""

    ground: Ground
    plan: Plan
    figures: Figures
    tell: Callable[[str], None]


def _bodies(events: int, seed: int = 1) -> list[bytes]:
    return traffic.bodies_of(seed, events // EVENTS_PER_BODY, EVENTS_PER_BODY)


def _thin_records(count: int) -> list[tuple[bytes, bytes]]:
    return [(str(event["sg_message_id"]).encode(), codecs.encode(event)) for event in traffic.events_of(1, count)]


async def functions(run: Run) -> None:
    """``cpu_us_per_event_<function>``: each pure function by itself."""
    bodies = _bodies(round(run.plan.events * PURE_SHARE))
    for _ in range(run.plan.rounds):
        for name, value in pure.functions_us(bodies).items():
            run.figures.add(f"cpu_us_per_event_{name}", value)


async def thin(run: Run) -> None:
    """``thin_...``: the thin job, ours compared with the others."""
    race = Race(run.ground, jobs.named("thin"), _thin_records(run.plan.events))
    contestants = [OURS, AIOKAFKA, AIOKAFKA_STORED, QUIX, QUIX_EOS, IDIOMATIC_FAUST]
    for number in range(run.plan.rounds):
        results = await racing.hold(race, contestants, number, run.tell)
        ours = results["ours"].events_per_s
        _add_results(run.figures, "thin_", results)
        stored = results["aiokafka_stored"].events_per_s
        run.figures.add("thin_ratio_aiokafka", ratio(ours, results["aiokafka"].events_per_s))
        run.figures.add("thin_ratio_aiokafka_stored", ratio(ours, stored))
        run.figures.add("thin_stored_ratio_aiokafka", ratio(stored, results["aiokafka"].events_per_s))
        run.figures.add("thin_ratio_quix", ratio(ours, _faster_quix(results)))
        run.figures.add("thin_ratio_idiomatic_faust", ratio(ours, results["idiomatic_faust"].events_per_s))


async def product(run: Run) -> None:
    """``status_events_per_s``, ``ratio_...``, ``overhead_us_...``: the product's own logic in all contestants."""
    records = pure.events_of(_bodies(run.plan.events))
    race = Race(run.ground, jobs.named("product"), records)
    contestants = [OURS, AIOKAFKA, AIOKAFKA_STORED, QUIX, QUIX_EOS, UNTRANSACTED]
    for number in range(run.plan.rounds):
        fold_us = pure.job_us(race.job, records[: round(len(records) * PURE_SHARE)])
        results = await racing.hold(race, contestants, number, run.tell)
        ours = results["ours"]
        _add_results(run.figures, "status_", results)
        run.figures.add("cpu_us_per_event_product_fold", fold_us)
        overheads = {name: result.cpu_us - fold_us for name, result in results.items()}
        for name, value in overheads.items():
            run.figures.add(f"overhead_us_{name}", value)
        quix = min(overheads["quix"], overheads["quix_eos"])
        run.figures.add("overhead_ratio_quix", ratio(overheads["ours"], quix))
        run.figures.add("ratio_aiokafka", ratio(ours.events_per_s, results["aiokafka"].events_per_s))
        run.figures.add("ratio_aiokafka_stored", ratio(ours.events_per_s, results["aiokafka_stored"].events_per_s))
        run.figures.add("ratio_quix", ratio(ours.events_per_s, _faster_quix(results)))
        without = results["ours_untransacted"]
        run.figures.add("transaction_cost_percent", (1 - ratio(ours.events_per_s, without.events_per_s)) * 100)
        run.figures.add("transaction_cost_cpu_percent", growth_percent(without.cpu_us, ours.cpu_us))


async def end_to_end(run: Run) -> None:
    """``end_to_end_...``: from bodies to status changes in one real worker; ``disk_bytes_...`` of its topics."""
    events = run.plan.events
    for number in range(run.plan.rounds):
        flow, sizes = await workers.end_to_end(run.ground, f"bodies-{number}", events, EVENTS_PER_BODY, number)
        single, _ = await workers.end_to_end(run.ground, f"single-{number}", events // 2, 1, number)
        whole = await workers.whole_worker(run.ground, f"whole-{number}", _bodies(events))
        run.tell(
            f"one worker: {flow.events_per_s:,.0f} events/s end to end, {single.events_per_s:,.0f} in bodies of one, "
            f"{whole.events_per_s:,.0f} from mail.events on"
        )
        run.figures.add("end_to_end_events_per_s", flow.events_per_s)
        run.figures.add("end_to_end_cpu_us_per_event", flow.cpu_us)
        run.figures.add("end_to_end_single_events_per_s", single.events_per_s)
        run.figures.add("end_to_end_single_cpu_us_per_event", single.cpu_us)
        run.figures.add("worker_events_per_s", whole.events_per_s)
        run.figures.add("worker_cpu_us_per_event", whole.cpu_us)
        stage = run.figures.rounds.get("status_events_per_s")
        if stage is not None and number < len(stage):
            run.figures.add("end_to_end_ratio_status", ratio(flow.events_per_s, stage[number]))
        for topic, size in sizes.items():
            run.figures.add(f"disk_bytes_per_event_{topic}", size)


async def latency(run: Run) -> None:
    """``latency_...``: 2,000 events a second through one worker, stage by stage; then at a lower rate."""
    for number in range(run.plan.rounds):
        measured = await workers.latency(
            run.ground, f"latency-{number}", run.plan.latency_s, run.plan.latency_events_per_s, number
        )
        whole = measured.hops["status_changed"]
        run.tell(f"latency: p50 {percentile(whole, 0.5):.0f} ms, p99 {percentile(whole, 0.99):.0f} ms")
        run.figures.add("latency_p50_ms", percentile(whole, 0.5))
        run.figures.add("latency_p99_ms", percentile(whole, 0.99))
        for hop in ("raw", "events"):
            run.figures.add(f"latency_{hop}_p50_ms", percentile(measured.hops[hop], 0.5))
            run.figures.add(f"latency_{hop}_p99_ms", percentile(measured.hops[hop], 0.99))
        for name, value in measured.batches.items():
            run.figures.add(f"latency_{name}", value)
        run.figures.add("latency_sent_per_s", measured.sent_per_s)
        run.figures.add("latency_worker_cpu_percent", measured.cpu_percent)
        calm = await workers.latency(
            run.ground, f"latency-calm-{number}", run.plan.latency_s / 2, CALM_EVENTS_PER_S, number
        )
        run.tell(f"at {CALM_EVENTS_PER_S} a second: p50 {percentile(calm.hops['status_changed'], 0.5):.0f} ms")
        for share in (50, 99):
            age = percentile(calm.hops["status_changed"], share / 100)
            run.figures.add(f"latency_at_{CALM_EVENTS_PER_S}_p{share}_ms", age)


async def restart(run: Run) -> None:
    """``restart_...``, ``restore_...``, ``rss_...``: a million deliveries stored, the worker restarted, its store lost."""
    await _keep(run, run.plan.deliveries)


async def long(run: Run) -> None:
    """The same with ten million deliveries."""
    await _keep(run, LONG_DELIVERIES)


async def _keep(run: Run, deliveries: int) -> None:
    kept = await workers.keeping(run.ground, f"kept-{deliveries}", deliveries, run.plan.rounds, kill=run.plan.kill)
    count = _short(deliveries)
    # the goals are for a million; other counts are part of the figures' names
    suffix = "" if deliveries == FULL.deliveries else f"_at_{count}"
    run.tell(f"{count} deliveries: ready after {kept.restart_s[0]:.1f} s, {kept.rss_mb:.0f} MiB")
    for value in kept.restart_s:
        run.figures.add(f"restart_to_ready_s{suffix}", value)
    for value in kept.killed_s:
        run.figures.add(f"restart_after_kill_to_ready_s{suffix}", value)
    for value in kept.restore_rows_per_s:
        run.figures.add(f"restore_rows_per_s{suffix}", value)
    run.figures.add(f"rss_mb_at_{count}_deliveries", kept.rss_mb)
    run.figures.add(f"rss_mb_restarted_at_{count}_deliveries", kept.rss_restarted_mb)
    run.figures.add(f"first_event_of_each_per_s_at_{count}", kept.events_per_s)
    run.figures.add(f"disk_bytes_per_delivery_store{suffix}", kept.store_bytes)
    run.figures.add(f"disk_bytes_per_delivery_changelog{suffix}", kept.changelog_bytes)
    run.figures.add(f"disk_bytes_per_delivery_status{suffix}", kept.status_bytes)


async def deferral_monitor(run: Run) -> None:
    """``monitor_...``: a tick with a million open deferrals, the monitor's cost for a worker, time to resolve."""
    await monitor.of_the_store(run.figures, run.plan.open_deferrals)
    if run.plan.monitored:
        await monitor.of_the_stage(run.figures, run.ground, run.plan.rounds, run.tell)
        await monitor.of_resolving(run.figures, run.ground, run.tell)


async def scale(run: Run) -> None:
    """``workers_...``: 1, 2 and 4 workers on 8 partitions; ``partitions_...``: 128 partitions in one worker."""
    bodies = _bodies(run.plan.events)
    for number in range(run.plan.rounds):
        alone = None
        for count in (1, 2, 4):
            flow = await workers.several(run.ground, f"several-{count}-{number}", bodies, count, 8)
            run.tell(f"{count} workers: {flow.events_per_s:,.0f} events/s, {flow.cpu_us:.1f} us each")
            run.figures.add(f"workers_{count}_events_per_s", flow.events_per_s)
            run.figures.add(f"workers_{count}_cpu_us_per_event", flow.cpu_us)
            if alone is None:
                alone = flow.cpu_us
            else:
                run.figures.add(f"workers_{count}_cpu_growth_percent", growth_percent(alone, flow.cpu_us))
    for partitions in (4, 128):
        idle = await workers.many_partitions(run.ground, f"partitions-{partitions}", partitions)
        run.tell(f"{partitions} partitions: ready after {idle.ready_s:.1f} s, {idle.sockets} sockets")
        run.figures.add(f"partitions_{partitions}_ready_s", idle.ready_s)
        run.figures.add(f"partitions_{partitions}_sockets", idle.sockets)
        run.figures.add(f"partitions_{partitions}_threads", idle.threads)
        run.figures.add(f"partitions_{partitions}_rss_mb", idle.rss_mb)
        run.figures.add(f"partitions_{partitions}_idle_cpu_percent", idle.cpu_percent)


async def beside_kafka_streams(run: Run) -> None:
    """``thin_ratio_kafka_streams...``: the thin job and Kafka Streams, on enough events to warm up Java."""
    java, java_eos = kafka_streams.contestants(run.plan.streams_threads)
    race = Race(run.ground, jobs.named("thin"), _thin_records(run.plan.kafka_streams_events))
    for number in range(run.plan.rounds):
        results = await racing.hold(race, [OURS, java, java_eos], number, run.tell)
        ours = results["ours"].events_per_s
        _add_results(run.figures, "thin_beside_java_", results)
        run.figures.add("thin_ratio_kafka_streams", ratio(ours, results["kafka_streams"].events_per_s))
        run.figures.add("thin_ratio_kafka_streams_eos", ratio(ours, results["kafka_streams_eos"].events_per_s))


async def webhooks(run: Run) -> None:
    """``ingress_...``: signed webhooks taken by one ingress."""
    for number in range(run.plan.rounds):
        found = await ingress.measure(run.ground, run.plan.ingress_s)
        run.tell(f"round {number + 1}: {found['ingress_requests_per_s']:,.0f} requests/s")
        for name, value in found.items():
            run.figures.add(name, value)


async def sending_history(run: Run) -> None:
    """``history_...``: the Sending History's projection, pages and searches."""
    ground, plan = run.ground, run.plan
    found = await history.measure(
        ground.broker, ground.folder, events=plan.events, deliveries=plan.deliveries, tell=run.tell
    )
    await ground.delete("mail.")
    for name, value in found.items():
        run.figures.add(name, value)


Part = Callable[[Run], Awaitable[None]]

PARTS: Final[Mapping[str, Part]] = {
    "functions": functions,
    "thin": thin,
    "product": product,
    "end-to-end": end_to_end,
    "latency": latency,
    "restart": restart,
    "monitor": deferral_monitor,
    "scale": scale,
    "long": long,
    "kafka-streams": beside_kafka_streams,
    "ingress": webhooks,
    "history": sending_history,
}
QUICK: Final = ("functions", "thin", "product", "end-to-end", "latency", "restart", "monitor")
"""What a coarse run measures by default."""
ALWAYS: Final = (*QUICK, "ingress", "history")
"""What a full run measures by default."""


def _add_results(figures: Figures, prefix: str, results: Mapping[str, Result]) -> None:
    for name, result in results.items():
        suffix = "" if name == "ours" else f"_{name}"
        figures.add(f"{prefix}events_per_s{suffix}", result.events_per_s)
        figures.add(f"{prefix}cpu_us_per_event{suffix}", result.cpu_us)
        figures.add(f"{prefix}rss_mb{suffix}", result.rss_mb)


def _faster_quix(results: Mapping[str, Result]) -> float:
    """Return the rate of the guarantee that was faster in this round."""
    return max(results["quix"].events_per_s, results["quix_eos"].events_per_s)


def _short(count: int) -> str:
    return f"{count // 1_000_000}m" if count % 1_000_000 == 0 else f"{count // 1_000}k"
