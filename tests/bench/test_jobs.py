"""The jobs: the same work for all contestants, and for ours the very work of the product."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from aiokafka.structs import ConsumerRecord

from bench import jobs, pure, racing, traffic
from bench.contestants import Task
from bench.contestants.ours import POLICIES
from bench.ground import Contents, Ground
from bench.jobs import thin
from bench.jobs.product import OBJECTIVE_US
from deploy.local.broker import Broker
from streams import codecs
from streams.agents.track import Track
from streams.kafka.lanes import Effects

Records = Sequence[tuple[bytes, bytes]]


def written_by_the_product(records: Records) -> dict[str, Contents]:
    """Return what ``agents.track`` writes, by the job's names for the topics."""
    track = Track(
        status_changed_topic="status-changed",
        status_topic="status",
        deferrals_topic="deferrals",
        support_contacts={},
        policies=POLICIES,
        held=lambda _provider, _partition: False,
        expire_after_us=90 * 86_400 * 1_000_000,
        objective_us=OBJECTIVE_US,
    )
    effects = Effects()
    for offset, (key, value) in enumerate(records):
        record = ConsumerRecord("events", 0, offset, 0, 0, key, value, 0, len(key), len(value), ())
        track.record(record, 0, effects.rows.get, effects)
    found = {name: Contents() for name in jobs.named("product").outputs}
    for (topic, _), rows in effects.outputs.items():
        for row in rows:
            assert row.key is not None
            found[topic].add(row.key, row.value)
    return found


def test_the_product_job_writes_what_the_product_writes() -> None:
    records = pure.events_of(traffic.bodies_of(3, 200, 10))

    expected, outputs = racing.expected_of(jobs.named("product"), records)

    assert expected == written_by_the_product(records)
    assert outputs > 500
    assert all(contents.checksums for contents in expected.values())


def test_the_thin_job_writes_changes_only() -> None:
    row, outputs = thin.fold(None, b"m1", codecs.encode({"event": "processed", "timestamp": 1, "email": "a@b.example"}))
    assert outputs == [("changed", b'{"id":"m1","from":null,"to":"sent"}')]

    again, nothing = thin.fold(
        row, b"m1", codecs.encode({"event": "processed", "timestamp": 2, "email": "a@b.example"})
    )
    assert nothing == []
    assert again == b'{"status":"sent","at":2,"email":"a@b.example"}'

    _, outputs = thin.fold(again, b"m1", codecs.encode({"event": "bounce", "timestamp": 3, "email": "a@b.example"}))
    assert outputs == [("changed", b'{"id":"m1","from":"sent","to":"bounced"}')]


def test_a_job_of_no_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no job"):
        jobs.named("fat")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([(b"a", b"1"), (b"b", b"1"), (b"a", b"2")], ""),
        ([(b"b", b"1"), (b"a", b"1"), (b"a", b"2")], ""),  # the order between keys is nobody's promise
        ([(b"a", b"2"), (b"a", b"1"), (b"b", b"1")], "0 keys are missing, 0 are too many, 1 have other values"),
        ([(b"a", b"1"), (b"a", b"2"), (b"a", b"2"), (b"b", b"1")], "0 keys are missing, 0 are too many, 1 have"),
        ([(b"a", b"1"), (b"a", b"2")], "1 keys are missing, 0 are too many"),
        ([(b"a", b"1"), (b"a", b"2"), (b"b", b"1"), (b"c", b"1")], "0 keys are missing, 1 are too many"),
    ],
)
def test_outputs_that_differ_do_not_count(found: Records, said: str) -> None:
    expected, actual = Contents(), Contents()
    for key, value in [(b"a", b"1"), (b"a", b"2"), (b"b", b"1")]:
        expected.add(key, value)
    for key, value in found:
        actual.add(key, value)

    assert racing.differences(expected, actual).startswith(said)
    assert bool(racing.differences(expected, actual)) == bool(said)


def test_traffic_is_the_same_for_the_same_seed_and_repeats_itself() -> None:
    def ids(seed: int) -> list[object]:
        return [event["sg_event_id"] for event in traffic.events_of(seed, 2000)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    assert 1800 < len(set(ids(1))) < 2000


def test_a_task_survives_the_way_to_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(
        bootstrap="127.0.0.1:1", job="thin", source="s", outputs={"changed": "c"}, changelog="l", group="g",
        partitions=4, folder=tmp_path, compression="zstd", product_compression="auto",
        options={"transactions": "no"},
    )  # fmt: skip
    monkeypatch.setattr("sys.argv", ["contestant", task.to_argument()])

    assert Task.of_this_process() == task


@pytest.mark.parametrize(
    ("chosen", "known"), [("auto", "zstd"), *((name, name) for name in ("none", "lz4", "snappy", "zstd", "gzip"))]
)
def test_clients_that_do_not_know_auto_have_what_it_is_for_large_batches(
    tmp_path: Path, chosen: str, known: str
) -> None:
    ground = Ground(cast("Broker", SimpleNamespace(bootstrap="127.0.0.1:1")), tmp_path, 4, chosen)

    assert (ground.compression, ground.known_compression) == (chosen, known)
