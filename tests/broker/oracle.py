"""The oracle: what must be true after any fault, computed from the broker's own log of ``mail.events``.

It knows nothing of workers, transactions or time: it folds the log with the pure
rules and compares, byte by byte, with everything that the system wrote: the
sequence on ``mail.status-changed``, the newest records of ``mail.status``, the
changelog, and the rows in RocksDB.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.broker import Broker
from streams import records, topics
from streams.domain import status
from streams.domain.events import DeliveryEvent
from streams.kafka.lanes import POSITION_KEY
from streams.kafka.store import Budget, open_store
from streams.settings import Settings
from tests.broker.harness import Record, read_all

ALL_DELIVERED = "ALL-RECORDS-DELIVERED"
MORE = "PROCESSED-MORE-THAN-GENERATED"
LESS = "PROCESSED-LESS-THAN-GENERATED"


@dataclass
class Expected:
    """What the pure model says."""

    changes: dict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    latest: dict[bytes, bytes] = field(default_factory=dict)
    rows: dict[bytes, bytes] = field(default_factory=dict)
    applied: int = 0
    duplicate: int = 0
    ignored: int = 0
    poison: int = 0


@dataclass
class Verdict:
    """What the comparison found."""

    word: str
    differences: list[str]
    expected: Expected

    def __bool__(self) -> bool:
        return self.word == ALL_DELIVERED and not self.differences


def model(settings: Settings, log: Mapping[int, Sequence[Record]]) -> Expected:
    """Fold the log of ``mail.events`` in its order."""
    expected = Expected()
    deliveries: dict[bytes, status.Delivery] = {}
    for record in (record for partition in log.values() for record in partition):
        key, event = record.key, _event(record)
        if key is None or event is None:
            expected.poison += 1
            continue
        folded = status.fold(deliveries.get(key), event)
        setattr(expected, folded.outcome, getattr(expected, folded.outcome) + 1)
        if folded.delivery is None:
            continue
        deliveries[key] = folded.delivery
        if folded.changed or folded.shown:
            account = settings.accounts.get(folded.delivery.account)
            told = records.encode_status(
                folded.delivery,
                support_contact=account.support_contact if account else None,
                warn_after_us=int(settings.delivery.warn_after_s * 1_000_000),
            )
            expected.latest[key] = told
            if folded.changed:
                expected.changes[key].append(told)
    expected.rows = {key: records.encode_row(delivery) for key, delivery in deliveries.items()}
    return expected


async def verify(broker: Broker, settings: Settings, datadirs: list[Path]) -> Verdict:
    """Compare all that was written with the model. The workers must be caught up, and stopped if ``datadirs`` is given."""
    partitions = settings.topics.partitions
    log = await read_all(broker, topics.EVENTS, partitions)
    expected = model(settings, log)
    changes: dict[bytes, list[bytes]] = defaultdict(list)
    for found in (await read_all(broker, topics.STATUS_CHANGED, partitions)).values():
        for record in found:
            assert record.key is not None
            assert record.value is not None
            changes[record.key].append(record.value)
    told, wanted = sum(map(len, changes.values())), sum(map(len, expected.changes.values()))
    word = ALL_DELIVERED if told == wanted else MORE if told > wanted else LESS
    differences = [
        f"status-changed of {key!r}: revisions {_revisions(changes.get(key, []))} told, "
        f"{_revisions(expected.changes.get(key, []))} expected"
        for key in changes.keys() | expected.changes.keys()
        if changes.get(key, []) != expected.changes.get(key, [])
    ]
    differences += _compare("mail.status", await _newest(broker, topics.STATUS, partitions), expected.latest)
    changelog = await _newest(broker, topics.changelog_topic(settings.worker.app_id), partitions)
    changelog.pop(POSITION_KEY, None)
    differences += _compare("changelog", changelog, expected.rows)
    for datadir in datadirs:
        differences += _compare("store", _stored(datadir, partitions), expected.rows)
    return Verdict(word, differences, expected)


def _event(record: Record) -> DeliveryEvent | None:
    try:
        return records.decode_event(record.value)
    except records.RecordError:
        return None


def _stored(datadir: Path, partitions: int) -> dict[bytes, bytes]:
    budget = Budget(cache_bytes=8 << 20, write_buffer_bytes=8 << 20)
    rows: dict[bytes, bytes] = {}
    for partition in range(partitions):
        store = open_store(datadir / f"{topics.DELIVERIES_TABLE}-{partition}", budget, on_rebuild=_refuse)
        rows |= dict(store.rows())
        store.close()
    return rows


def _refuse(reason: str) -> None:
    raise AssertionError(f"the store was corrupt: {reason}")


async def _newest(broker: Broker, topic: str, partitions: int) -> dict[bytes, bytes]:
    newest: dict[bytes, bytes] = {}
    for found in (await read_all(broker, topic, partitions)).values():
        for record in found:
            assert record.key is not None
            if record.value is None:
                newest.pop(record.key, None)
            else:
                newest[record.key] = record.value
    return newest


def _compare(what: str, found: dict[bytes, bytes], expected: dict[bytes, bytes]) -> list[str]:
    return (
        [f"{what}: {key!r} is missing" for key in expected.keys() - found.keys()]
        + [f"{what}: {key!r} is too many" for key in found.keys() - expected.keys()]
        + [f"{what}: {key!r} differs" for key in expected.keys() & found.keys() if expected[key] != found[key]]
    )


def _revisions(values: list[bytes]) -> list[int]:
    return [records.decode_status(value)["revision"] for value in values]
