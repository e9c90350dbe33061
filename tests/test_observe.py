"""What a worker concludes once a second from what the broker says."""

from types import SimpleNamespace
from typing import Any, cast

from faust.types import TP
from prometheus_client import CollectorRegistry

from deploy.local import stack
from streams.kafka.progress import Standing
from streams.metrics import Metrics
from streams.observe import Health

RUNS, OPENS, STANDS = (TP("mail.deferrals", number) for number in range(3))


def test_a_stopped_partition_is_a_line_that_who_starts_a_worker_knows_from_all_others() -> None:
    def health(stopped: dict[TP, str], *, fresh: bool = True, missing: str | None = None) -> Health:
        return Health(
            metrics=Metrics.create(CollectorRegistry(), version="1"),
            observer=cast("Any", SimpleNamespace(stopped_partitions=stopped)),
            tables=cast("Any", SimpleNamespace(restoring=False, actives_ready=fresh)),
            lanes=cast("Any", None),
            progress=cast("Any", SimpleNamespace(fresh=fresh, missing=missing)),
            watchdog=cast("Any", None),
        )

    bad = health({STANDS: "21 of the last 30 records are bad: no JSON"}).not_ready()
    others = health({}, fresh=False).not_ready()

    assert bad == ["mail.deferrals/2 stopped: 21 of the last 30 records are bad: no JSON"]
    assert all(map(stack._STOPPED.fullmatch, bad))
    assert len(others) == 2
    others += health({}, fresh=False, missing="mail.raw.mailgun").not_ready()
    assert "the brokers do not show the topic mail.raw.mailgun" in others
    assert not any(map(stack._STOPPED.fullmatch, others))


async def test_the_watchdog_is_asked_neither_about_a_stopped_partition_nor_about_one_that_still_opens() -> None:
    asked: list[Any] = []
    lanes = {tp: SimpleNamespace(opening=tp == OPENS, turns_passed=None) for tp in (RUNS, OPENS, STANDS)}
    health = Health(
        metrics=Metrics.create(CollectorRegistry(), version="1"),
        observer=cast("Any", SimpleNamespace(stopped_partitions={STANDS: "too much is bad"})),
        tables=cast("Any", SimpleNamespace(restoring=False, actives_ready=True, steps=0)),
        lanes=cast("Any", SimpleNamespace(by_partition=lanes)),
        progress=cast("Any", SimpleNamespace(fresh=True)),
        watchdog=cast(
            "Any", SimpleNamespace(look=lambda _, owned, **__: asked.append(owned), restore_idle_s=0.0, stalled=None)
        ),
    )

    health.look({RUNS: Standing(end=9, position=4, timestamp_ms=1)})

    assert asked == [{RUNS}]
