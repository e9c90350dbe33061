"""The oracle: what must be true after any fault, computed from the broker's own logs.

The rule: it knows nothing of workers, transactions or time. It takes what went in
(``mail.raw.*``, ``mail.sends``) and what stands in between (``mail.events``,
``mail.deferrals``), folds each with the pure rules, and compares the result, byte
by byte, with everything that came out: the sequences on ``mail.status-changed``
and ``mail.deferrals``, the records of ``mail.status``, both changelogs, the rows,
indexes and positions in RocksDB, the dead letters, and the alerts on
``mail.deferral-alerts``, each of which has to be what a state of its episode says.

Every input is accounted for: a raw record as events or as a dead letter, an event
as applied, duplicate, ignored or a dead letter.

Time enters at three places only, where a tick writes: a row's ``judged`` and
``watch_at``, which are left out of the comparison; expiry; and the alerts, which
``tests/faults/alerts.py`` judges for whoever can say what the clock surely did.
In any case the monitor's own clock binds it: what was open when it passed a
deadline was told, ended since or not, and what was told and ended was resolved.
The levels that an open episode remembers are those told on ``mail.deferral-alerts``.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from time import time_ns

from streams import records, topics
from streams.agents import normalise, sends
from streams.domain import deferrals
from streams.domain.deferrals import Alert, Deferral, Episode, Told
from streams.domain.events import DeliveryEvent, EventType
from streams.domain.status import Delivery, Folded, Kind, Outcome, Status, fold, to_micros
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.lanes import POSITION_KEY, Effects, PartlyBadError
from streams.kafka.partitioner import partition_of
from streams.kafka.positions import Position
from streams.kafka.store import Budget, open_store
from streams.policies import Policies, policies_of
from streams.providers import PROVIDERS
from streams.settings import Settings
from tests.broker.harness import Brokers, Record, read_topics
from tests.faults import alerts

ALL_DELIVERED = "ALL-RECORDS-DELIVERED"
MORE = "PROCESSED-MORE-THAN-GENERATED"
LESS = "PROCESSED-LESS-THAN-GENERATED"

Log = Mapping[int, Sequence[Record]]
"""A topic's records by partition, in order."""
Origin = tuple[str, int, int, int | None]
"""Of a dead letter: topic, partition, offset, element."""


class Kinds(StrEnum):
    """How something differs from the model."""

    LOST = "lost"  # the model has it, the system has not
    WRONG = "wrong"  # the system has something else than the model
    SURPLUS = "surplus"  # the system has something that the model has not: wrong, and more
    REPEATED = "repeated"  # the system has it more often than the model


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the model says."""

    kind: Kinds
    where: str
    what: str

    def __str__(self) -> str:
        kind = Kinds.WRONG if self.kind is Kinds.SURPLUS else self.kind  # as it is counted
        return f"{self.where}: {self.what} ({kind})"


@dataclass
class Stored:
    """What the stores of one table hold, of all its partitions together."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    due: dict[bytes, set[int]] = field(default_factory=lambda: defaultdict(set))
    """The times at which a key stands in the due index."""
    watched: dict[bytes, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Likewise the watch index."""
    positions: dict[int, bytes | None] = field(default_factory=dict)
    """Each partition's source position."""


@dataclass
class Written:
    """Everything that stands on the broker, and in the stores of stopped workers."""

    logs: Mapping[str, Log]
    """By topic."""
    stores: Mapping[str, Stored] = field(default_factory=dict)
    """By table; one is left out if its stores are not compared."""


@dataclass
class Expected:
    """What the pure model says."""

    changes: dict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    shown: dict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    deferrals: dict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    deliveries: dict[bytes, Delivery] = field(default_factory=dict)
    forgotten: set[bytes] = field(default_factory=set)
    episodes: dict[bytes, Episode] = field(default_factory=dict)
    dead_letters: dict[Origin, bytes | None] = field(default_factory=dict)
    applied: int = 0
    duplicate: int = 0
    ignored: int = 0
    poison: int = 0
    """Records of ``mail.events`` that are no events."""


@dataclass
class Verdict:
    """What the comparison found."""

    differences: list[Difference]
    expected: Expected

    @property
    def word(self) -> str:
        """Kafka's own words for the outcome. They speak of numbers only: a wrong value is a difference all the same."""
        if self.lost:
            return LESS
        return MORE if self._count(Kinds.REPEATED, Kinds.SURPLUS) else ALL_DELIVERED

    @property
    def lost(self) -> int:
        return self._count(Kinds.LOST)

    @property
    def wrong(self) -> int:
        return self._count(Kinds.WRONG, Kinds.SURPLUS)

    @property
    def repeated(self) -> int:
        return self._count(Kinds.REPEATED)

    def _count(self, *kinds: Kinds) -> int:
        return sum(one.kind in kinds for one in self.differences)

    @property
    def right(self) -> bool:
        """All that was written is what the model says. A property, because a verdict that is false looks like none."""
        return not self.differences


async def verify(
    broker: Brokers,
    settings: Settings,
    datadirs: Sequence[Path] = (),
    *,
    foreign: Iterable[bytes | None] = (),
    ticked_us: int | None = None,
) -> Verdict:
    """Compare all that was written with the model.

    Args:
        broker: Where it stands.
        settings: Those of the workers.
        datadirs: Folders of stopped workers that together owned all partitions, caught up. Of several stores of a
            partition the one that got furthest is the last owner's.
        foreign: Values of ``mail.events`` that the test itself put there.
        ticked_us: Until then the workers' clocks were right and surely ticked, so that each alert that the facts demand
            must have been told; None: the alerts are not judged by time.
    """
    return judge(await read(broker, settings, datadirs), settings, foreign=foreign, ticked_us=ticked_us)


async def read(broker: Brokers, settings: Settings, datadirs: Sequence[Path] = ()) -> Written:
    """Read all logs to their ends as a ``read_committed`` reader, and the rows of the stores."""
    app_id, partitions = settings.worker.app_id, settings.topics.partitions
    names = [
        *_raw_topics(settings),
        topics.SENDS,
        topics.EVENTS,
        topics.STATUS_CHANGED,
        topics.STATUS,
        topics.DEFERRALS,
        topics.DEFERRAL_ALERTS,
        topics.DEAD_LETTERS,
        *(topics.changelog_topic(app_id, table) for table in TABLES),
    ]
    logs = await read_topics(broker, names, partitions)
    stores = {table: _stored(datadirs, table, partitions) for table in TABLES} if datadirs else {}
    return Written(logs, stores)


TABLES = (topics.DELIVERIES_TABLE, topics.OPEN_DEFERRALS_TABLE)


def judge(
    written: Written,
    settings: Settings,
    *,
    foreign: Iterable[bytes | None] = (),
    ticked_us: int | None = None,
    now_us: int | None = None,
) -> Verdict:
    """Compare; pure. ``now_us``: the time (default: it is read)."""
    logs = written.logs
    now_us = time_ns() // 1000 if now_us is None else now_us
    expected = model(logs, settings, now_us=now_us)
    app_id = settings.worker.app_id
    changelogs = {table: _newest(logs[topics.changelog_topic(app_id, table)]) for table in TABLES}
    for rows in changelogs.values():
        rows.pop(POSITION_KEY, None)
    found = [
        *_placed(logs, settings),
        *_events(logs, settings, expected, set(foreign)),
        *_sequences("status-changed", _by_key(logs[topics.STATUS_CHANGED]), expected.changes, _revision),
        *_sequences(
            "deferrals", _by_key(logs[topics.DEFERRALS], bad=expected.dead_letters), expected.deferrals, _revision
        ),
        *_status(logs[topics.STATUS], expected),
        *_rows("changelog of deliveries", changelogs[topics.DELIVERIES_TABLE], _deliveries_of(expected), _timeless),
        *_rows("changelog of open-deferrals", changelogs[topics.OPEN_DEFERRALS_TABLE], _open_of(expected), _untold),
        *_told(logs[topics.DEFERRAL_ALERTS], changelogs[topics.OPEN_DEFERRALS_TABLE]),
        *_worded(logs, settings),
        *_passed(logs, settings),
        *_dead_letters(logs[topics.DEAD_LETTERS], expected),
    ]
    if ticked_us is not None:
        found += _alerts(logs, expected, settings, ticked_us=ticked_us, now_us=now_us)
    for table, stored in written.stores.items():
        found += _rows(f"store of {table}", stored.rows, changelogs[table], bytes)
        found += _positions(f"store of {table}", stored, logs[topics.changelog_topic(app_id, table)])
        found += _indexes(table, stored, settings)
    return Verdict(found, expected)


# --- the model -------------------------------------------------------------------------------------------------------


def model(logs: Mapping[str, Log], settings: Settings, *, now_us: int) -> Expected:
    """Fold the logs in their order."""
    expected = Expected()
    for record in _in_order(logs[topics.EVENTS]):
        event = _event(record)
        if event is None or record.key is None:
            expected.poison += 1
            expected.dead_letters[_origin(record)] = record.value
        else:
            _track(expected, record.key, event, settings)
    _expire(expected, now_us - int(settings.delivery.expire_after_days * 86_400_000_000), settings)
    policies = policies_of(settings)
    for record in _in_order(logs[topics.DEFERRALS]):
        try:
            deferral = records.decode_deferral(record.value)
        except records.RecordError:
            expected.dead_letters[_origin(record)] = record.value
            continue
        if record.key is None:
            expected.dead_letters[_origin(record)] = record.value
            continue
        policy = policies(deferral.account, deferral.provider)
        after, _ = deferrals.observe(expected.episodes.pop(record.key, None), deferral, policy)
        if after is not None:
            expected.episodes[record.key] = after
    return expected


def _track(expected: Expected, key: bytes, event: DeliveryEvent, settings: Settings) -> None:
    before = expected.deliveries.get(key)
    folded = fold(before, event, delivery_id=key.decode("ascii"))
    setattr(expected, folded.outcome, getattr(expected, folded.outcome) + 1)
    after = folded.delivery
    if after is None or after is before:
        return
    expected.deliveries[key] = after
    if folded.changed or folded.refreshed:
        account = settings.accounts.get(after.account)
        told = records.encode_status(
            after,
            support_contact=account.support_contact if account else None,
            warn_after_us=policies_of(settings)(after.account, after.provider).warn_after,
        )
        expected.shown[key].append(told)
        if folded.changed:
            expected.changes[key].append(told)
    if Kind.DEFERRED in after.facts and _concerns_monitor(before, folded, event.type):
        attempt = event.type is EventType.DEFERRED and folded.outcome is Outcome.APPLIED
        expected.deferrals[key].append(records.encode_deferral(after, attempt=attempt))


def _concerns_monitor(before: Delivery | None, folded: Folded, type_: EventType) -> bool:
    """Another attempt, or news of a delivery that is or was deferred just before, such as a drop that comes late."""
    applied = folded.outcome is Outcome.APPLIED
    if type_ is EventType.DEFERRED and applied:
        return True
    statuses = {one.status for one in (before, folded.delivery) if one is not None}
    late_drop = type_ is EventType.DROPPED and applied
    return Status.DEFERRED in statuses and (folded.changed or folded.refreshed or late_drop)


def _expire(expected: Expected, until: int, settings: Settings) -> None:
    """Forget what had its last event before ``until``. (A delivery that comes back after it is not modelled.)"""
    for key in [key for key, one in expected.deliveries.items() if one.last_received_at <= until]:
        delivery = expected.deliveries.pop(key)
        expected.forgotten.add(key)
        if Kind.DEFERRED in delivery.facts:
            at = delivery.last_received_at + int(settings.delivery.expire_after_days * 86_400_000_000)
            is_open = delivery.status is Status.DEFERRED
            expected.deferrals[key].append(
                records.encode_forgotten(delivery, at) if is_open else records.encode_deferral(delivery, attempt=False)
            )


def _event(record: Record) -> DeliveryEvent | None:
    try:
        if record.key is not None:
            record.key.decode("ascii")
        return records.decode_event(record.value)
    except (records.RecordError, UnicodeDecodeError):
        return None


# --- the comparisons -------------------------------------------------------------------------------------------------


def _placed(logs: Mapping[str, Log], settings: Settings) -> Iterable[Difference]:
    """Whatever is about a delivery stands in the one partition where its subscribers and its table look for it."""
    app_id, partitions = settings.worker.app_id, settings.topics.partitions
    names = (topics.STATUS_CHANGED, topics.STATUS, topics.DEFERRALS, topics.DEFERRAL_ALERTS)
    for name in (*names, *(topics.changelog_topic(app_id, table) for table in TABLES)):
        for partition, found in logs[name].items():
            for key in {record.key for record in found} - {None, POSITION_KEY}:
                # what is no delivery id is a test's own poison, put anywhere
                if key is not None and len(key) == _ID_LENGTH and partition_of(key, partitions) != partition:
                    yield Difference(Kinds.WRONG, name, f"{key!r} stands in partition {partition}")


_ID_LENGTH = 26


def _events(
    logs: Mapping[str, Log], settings: Settings, expected: Expected, foreign: set[bytes | None]
) -> Iterable[Difference]:
    """``mail.events`` is at least once: everything that the sources say stands there, and nothing else."""
    wanted = set()
    for topic, apply in _sources(settings):
        for record in _in_order(logs[topic]):
            wanted |= _events_of(record, apply, expected)
    there = {(record.key, record.value) for record in _in_order(logs[topics.EVENTS])}
    for key, _ in wanted - there:
        yield Difference(Kinds.LOST, "events", f"an event of {key!r} is missing")
    for key, value in there - wanted:
        if value not in foreign:
            yield Difference(Kinds.WRONG, "events", f"an event of {key!r} is of no source")


def _events_of(
    record: Record, apply: Callable[[Record, Effects], None], expected: Expected
) -> set[tuple[bytes | None, bytes | None]]:
    """Return the events (key, value) that a source record is; note the dead letters."""
    effects = Effects()
    try:
        apply(record, effects)
    except PartlyBadError as error:
        error.apply(effects)
    except Exception:  # noqa: BLE001 - whatever a pure function raises on one record is poison
        expected.dead_letters[_origin(record)] = record.value
    found = set()
    for (topic, _), rows in effects.outputs.items():
        for row in rows:
            if topic == topics.EVENTS:
                found.add((row.key, row.value))
            else:
                letter = records.decode_dead_letter(row.value, row.headers)
                expected.dead_letters[letter.topic, letter.partition, letter.offset, letter.element] = letter.value
    return found


def _sources(settings: Settings) -> Iterable[tuple[str, Callable[[Record, Effects], None]]]:
    letters = DeadLetters(
        topic=topics.DEAD_LETTERS,
        partitions=settings.topics.partitions,
        max_bytes=settings.worker.dead_letter_max_bytes,
    )
    for name in settings.topics.providers:
        yield (
            topics.raw_topic(name),
            normalise.Normalise(
                provider=PROVIDERS[name],
                reference_keys=settings.delivery.reference_keys,
                events_topic=topics.EVENTS,
                events_partitions=settings.topics.partitions,
                dead_letters=letters,
            ),
        )
    yield topics.SENDS, sends.Sends(events_topic=topics.EVENTS, events_partitions=settings.topics.partitions)


def _sequences(
    where: str,
    found: Mapping[bytes, Sequence[bytes]],
    expected: Mapping[bytes, Sequence[bytes]],
    name: Callable[[bytes], str],
) -> Iterable[Difference]:
    """Each key's values exactly once and in order."""
    for key in sorted(found.keys() | expected.keys()):
        have, want = found.get(key, ()), expected.get(key, ())
        if list(have) == list(want):
            continue
        lost, extra = Counter(want) - Counter(have), Counter(have) - Counter(want)
        for value in lost.elements():
            yield Difference(Kinds.LOST, where, f"{key!r} {name(value)} is missing")
        for value in extra.elements():
            kind = Kinds.REPEATED if value in want else Kinds.SURPLUS
            yield Difference(kind, where, f"{key!r} {name(value)} is too many")
        if not lost and not extra:
            yield Difference(Kinds.WRONG, where, f"{key!r} is out of order: {[name(value) for value in have]}")


def _status(log: Log, expected: Expected) -> Iterable[Difference]:
    """The newest record is the model's, or a tombstone where it was forgotten; those before it are of the sequence."""
    found: dict[bytes, list[bytes | None]] = defaultdict(list)
    for record in _in_order(log):
        found[record.key or b""].append(record.value)
    for key in sorted(found.keys() | expected.shown.keys()):
        have = found.get(key, [])
        want: list[bytes | None] = [*expected.shown.get(key, [])]
        if key in expected.forgotten:
            want.append(None)
        if not have:
            yield Difference(Kinds.LOST, "status", f"{key!r} is missing")
        elif not want:
            yield Difference(Kinds.SURPLUS, "status", f"{key!r} is too many")
        elif have[-1] != want[-1]:
            kind = Kinds.LOST if have[-1] in want else Kinds.WRONG
            yield Difference(kind, "status", f"the newest of {key!r} differs")
        elif have != want and not _within(have, want):  # compaction may take from the sequence, nothing may add to it
            yield Difference(Kinds.REPEATED, "status", f"{key!r} has {len(have)} records, {len(want)} expected")


def _within(part: Sequence[bytes | None], whole: Sequence[bytes | None]) -> bool:
    rest = iter(whole)
    return all(one in rest for one in part)


def _rows(
    where: str,
    found: Mapping[bytes, bytes],
    expected: Mapping[bytes, bytes],
    comparable: Callable[[bytes], bytes],
) -> Iterable[Difference]:
    for key in expected.keys() - found.keys():
        yield Difference(Kinds.LOST, where, f"the row of {key!r} is missing")
    for key in found.keys() - expected.keys():
        yield Difference(Kinds.SURPLUS, where, f"the row of {key!r} is too many")
    for key in expected.keys() & found.keys():
        if expected[key] != found[key] and comparable(expected[key]) != comparable(found[key]):
            yield Difference(Kinds.WRONG, where, f"the row of {key!r} differs")


def _positions(where: str, stored: Stored, changelog: Log) -> Iterable[Difference]:
    """Each store stands where the last batch of its partition ended."""
    for partition, found in changelog.items():
        last = next((record.value for record in reversed(found) if record.key == POSITION_KEY), None)
        if stored.positions.get(partition) != last:
            what = f"partition {partition} stands at {stored.positions.get(partition)!r}, not at {last!r}"
            yield Difference(Kinds.WRONG, where, what)


def _indexes(table: str, stored: Stored, settings: Settings) -> Iterable[Difference]:
    """Nothing is forgotten by time: what will fall due stands in an index, in time. Old entries do no harm."""
    policies = policies_of(settings)
    for key, row in stored.rows.items():
        if table == topics.DELIVERIES_TABLE:
            if not any(at <= records.due_of_row(row) for at in stored.due.get(key, ())):
                yield Difference(Kinds.LOST, f"store of {table}", f"{key!r} would never expire")
            watch_at = records.watch_of_row(row)
            if watch_at is not None and watch_at not in stored.watched.get(key, ()):
                yield Difference(Kinds.LOST, f"store of {table}", f"{key!r} would never be judged")
        else:
            episode = records.decode_open_deferral(row)
            due = deferrals.next_due(episode, policies(episode.account, episode.provider))
            if due is not None and due not in stored.due.get(key, ()):
                yield Difference(Kinds.LOST, f"store of {table}", f"{key!r} would never be alerted on")


def _told(log: Log, rows: Mapping[bytes, bytes]) -> Iterable[Difference]:
    """No level of an episode twice; and an open episode remembers exactly the levels that were told of it."""
    told: dict[_Named, Told] = defaultdict(lambda: Told.NOTHING)
    seen = set()
    for record in _in_order(log):
        name, level, _ = _named(record)
        if (name, level) in seen:
            yield Difference(Kinds.REPEATED, "alerts", f"{level} of {record.key!r} is too many")
        seen.add((name, level))
        if level != deferrals.Level.RESOLVED:
            told[name] |= Told[level.upper()]
    for key, row in rows.items():
        episode = records.decode_open_deferral(row)
        said = told[key, episode.first_received_at, episode.number]
        if said != episode.told:
            kind = Kinds.LOST if episode.told & ~said else Kinds.WRONG
            yield Difference(kind, "alerts", f"{key!r}: told {said!r}, its row says {episode.told!r}")


_Named = tuple[bytes, int, int]
"""An episode: key, ``first_received_at`` (µs), number."""


def _named(record: Record) -> tuple[_Named, str, int]:
    """Return of which episode an alert is, its level, and its deadline (µs)."""
    alert = records.decode_alert(record.value)
    name = record.key or b"", alerts.micros(alert["first_received_at"]), alert["episode"]
    return name, alert["level"], alerts.micros(alert["due_at"])


def _worded(logs: Mapping[str, Log], settings: Settings) -> Iterable[Difference]:
    """Each alert is, byte by byte, what one of the states of its episode says at that level; of which, time decides."""
    first_due: dict[_Named, int] = {}
    for record in _in_order(logs[topics.DEFERRAL_ALERTS]):
        name, level, due = _named(record)
        if level != deferrals.Level.RESOLVED:
            first_due[name] = min(due, first_due.get(name, due))
    said = {
        records.encode_alert(one, support_contact=account.support_contact if account else None)
        for log in logs[topics.DEFERRALS].values()
        for one in _sayable(log, policies_of(settings), first_due)
        for account in (settings.accounts.get(one.episode.account),)
    }
    for record in _in_order(logs[topics.DEFERRAL_ALERTS]):
        if record.value not in said:
            (key, _, number), level, _ = _named(record)
            yield Difference(
                Kinds.WRONG, "alerts", f"{key!r} {level} of episode {number} says what no state of it does"
            )


def _sayable(log: Sequence[Record], policies: Policies, first_due: Mapping[_Named, int]) -> Iterable[Alert]:
    """Yield every alert that the states of the episodes give, whenever the clock comes by.

    ``first_due``: the earliest deadline that was told of an episode; its end refers to it.
    """
    open_ones: dict[bytes, Episode] = {}
    for key, _, deferral in _understood(log):
        policy = policies(deferral.account, deferral.provider)
        before = open_ones.pop(key, None)
        if before is not None:
            name = key, before.first_received_at, before.number
            before = replace(before, first_due=first_due.get(name))
        after, ends = deferrals.observe(before, deferral, policy)
        yield from ends
        if after is not None:
            open_ones[key] = after
            yield from deferrals.elapse(after, alerts.NEVER, policy).alerts


def _passed(logs: Mapping[str, Log], settings: Settings) -> Iterable[Difference]:
    """Whoever was open while the monitor's clock passed a deadline was told; and an end is told of these, and of no others.

    This is for runs in which no provider is held: there the clock passes deadlines that wait.
    """
    policies = policies_of(settings)
    told: dict[str, set[tuple[bytes, int, int]]] = defaultdict(set)
    for record in _in_order(logs[topics.DEFERRAL_ALERTS]):
        alert = records.decode_alert(record.value)
        first_received_at = alerts.micros(alert["first_received_at"])
        told[alert["level"]].add((record.key or b"", first_received_at, alert["episode"]))
    changelog = logs[topics.changelog_topic(settings.worker.app_id, topics.OPEN_DEFERRALS_TABLE)]
    ended: set[tuple[bytes, int, int]] = set()
    due: dict[str, set[tuple[bytes, int, int]]] = defaultdict(set)
    for partition, log in logs[topics.DEFERRALS].items():
        ticks = _ticks(changelog[partition], policies)
        for key, episode, since, until in _spans(log, policies):
            it = (key, episode.first_received_at, episode.number)
            if until is None:
                ended.add(it)
                continue
            seen = ticks[bisect_right(ticks, (since, alerts.NEVER)) : bisect_right(ticks, (until, alerts.NEVER))]
            clock = max((clock for _, clock in seen), default=0)
            for demanded in deferrals.elapse(episode, clock - 1, policies(episode.account, episode.provider)).alerts:
                due[demanded.level].add(it)
    for level, of in due.items():
        for key, _, number in of - told[level]:
            yield Difference(Kinds.LOST, "alerts", f"{key!r} missed: {level} of episode {number}, the clock passed it")
    resolved = told.pop(deferrals.Level.RESOLVED, set())
    wanted = ended & set().union(*told.values())
    for key, _, number in wanted - resolved:
        yield Difference(
            Kinds.LOST, "alerts", f"{key!r} missed: resolved of episode {number}, which was told and ended"
        )
    for key, _, number in resolved - wanted:
        yield Difference(Kinds.WRONG, "alerts", f"{key!r} false: resolved of episode {number}")


def _spans(log: Sequence[Record], policies: Policies) -> Iterable[tuple[bytes, Episode, int, int | None]]:
    """Yield how each episode stood, from behind which offset of its source up to which; None: then it has ended."""
    standing: dict[bytes, tuple[Episode, int]] = {}
    for key, record, deferral in _understood(log):
        before, since = standing.pop(key, (None, 0))
        after, _ = deferrals.observe(before, deferral, policies(deferral.account, deferral.provider))
        if before is not None:
            yield key, before, since, record.offset
        if after is not None:
            standing[key] = after, record.offset
        elif before is not None:
            yield key, before, record.offset, None
    for key, (episode, since) in standing.items():
        yield key, episode, since, alerts.NEVER


def _understood(log: Sequence[Record]) -> Iterable[tuple[bytes, Record, Deferral]]:
    """Yield what the monitor takes in, with its key and its record; the rest goes to the dead letters."""
    for record in log:
        try:
            deferral = records.decode_deferral(record.value)
        except records.RecordError:
            continue
        if record.key is not None:
            yield record.key, record, deferral


def _ticks(changelog: Sequence[Record], policies: Policies) -> list[tuple[int, int]]:
    """Return for each tick that told something to where the source was processed, and what time it was at least (µs).

    A tick takes what is due in the order of the deadlines: it had come to every one before the last that it told.
    """
    rows: dict[bytes, Episode] = {}
    found: list[tuple[int, int]] = []
    last, clock = -1, 0
    for record in changelog:
        assert record.key is not None
        if record.offset != last + 1:  # a commit marker lies between two batches; compaction breaks one up
            clock = 0
        last = record.offset
        if record.value is None:
            rows.pop(record.key, None)
        elif record.key != POSITION_KEY:
            before, after = rows.get(record.key), records.decode_open_deferral(record.value)
            rows[record.key] = after
            if before is not None and before.number == after.number and before.told != after.told:
                due = deferrals.next_due(replace(after, told=before.told), policies(after.account, after.provider))
                clock = max(clock, due or 0)
        elif clock:
            found.append((Position.decode(record.value).offset, clock))
    return found


def _alerts(
    logs: Mapping[str, Log], expected: Expected, settings: Settings, *, ticked_us: int, now_us: int
) -> Iterable[Difference]:
    """Each alert that the facts demand and none that they forbid.

    A tick's clock never passes an event that is not processed, so an outage changes nothing here but for the margins:
    an event was known at ``received_at``, and at the end the clock surely came by, as the caller says. What should have
    been told of an episode that ended since is not asked for here: an outage may have kept the clock away from all of
    it. Where the clock's own traces say that it came by, ``_passed`` asks.
    """

    def sure(since: int, until: int) -> bool:
        return until == alerts.NEVER and since < ticked_us

    def possible(since: int, until: int) -> bool:
        return since < min(until + _CLOCK_MARGIN_US, now_us)

    histories: dict[bytes, list[alerts.Known]] = defaultdict(list)
    for record in _in_order(logs[topics.EVENTS]):
        event = _event(record)
        if record.key in expected.deferrals and event is not None:
            histories[record.key].append(alerts.Known(to_micros(event.received_at), event))
    told: dict[bytes, list[dict[str, object]]] = defaultdict(list)
    for record in _in_order(logs[topics.DEFERRAL_ALERTS]):
        told[record.key or b""].append(records.decode_alert(record.value))
    policies = policies_of(settings)
    for key in sorted((histories.keys() | told.keys()) - expected.forgotten):
        history = histories.get(key, [])
        first = history[0].event if history else None
        policy = policies(first.account, first.provider) if first else policies.other
        for problem in alerts.problems(history, told.get(key, []), policy, sure, possible):
            yield Difference(_KIND_OF_FAULT.get(problem.kind, Kinds.WRONG), "alerts", f"{key!r} {problem}")


_CLOCK_MARGIN_US = 60_000_000
_KIND_OF_FAULT = {alerts.Fault.MISSED: Kinds.LOST, alerts.Fault.DOUBLED: Kinds.REPEATED}


def _dead_letters(log: Log, expected: Expected) -> Iterable[Difference]:
    """At least once, each with the original's bytes (as far as they are kept)."""
    found = {}
    for record in _in_order(log):
        letter = records.decode_dead_letter(record.value, record.headers)
        found[letter.topic, letter.partition, letter.offset, letter.element] = letter.value
    for origin in expected.dead_letters.keys() - found.keys():
        yield Difference(Kinds.LOST, "dead-letters", f"{origin} is missing")
    for origin in found.keys() - expected.dead_letters.keys():
        yield Difference(Kinds.SURPLUS, "dead-letters", f"{origin} is too many")
    for origin in expected.dead_letters.keys() & found.keys():
        whole, kept = expected.dead_letters[origin], found[origin]
        if kept != whole and (kept is None or whole is None or not whole.startswith(kept)):
            yield Difference(Kinds.WRONG, "dead-letters", f"{origin} has other bytes")


# --- reading ---------------------------------------------------------------------------------------------------------


def _raw_topics(settings: Settings) -> list[str]:
    return [topics.raw_topic(name) for name in settings.topics.providers]


def _in_order(log: Log) -> Iterable[Record]:
    return (record for partition in log.values() for record in partition)


def _origin(record: Record) -> Origin:
    return record.topic, record.partition, record.offset, None


def _by_key(log: Log, *, bad: Container[Origin] = ()) -> Mapping[bytes, Sequence[bytes]]:
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for record in _in_order(log):
        if _origin(record) not in bad:
            found[record.key or b""].append(record.value or b"")
    return found


def _newest(log: Log) -> dict[bytes, bytes]:
    newest: dict[bytes, bytes] = {}
    for record in _in_order(log):
        assert record.key is not None
        if record.value is None:
            newest.pop(record.key, None)
        else:
            newest[record.key] = record.value
    return newest


def _stored(datadirs: Sequence[Path], table: str, partitions: int) -> Stored:
    found = Stored()
    for partition in range(partitions):
        paths = [datadir / f"{table}-{partition}" for datadir in datadirs]
        owners = [path for path in paths if path.exists()] or paths[:1]  # where there is none, an empty one
        stores = [open_store(path, _BUDGET, on_rebuild=_refuse) for path in owners]
        store = max(stores, key=lambda one: one.changelog_offset or 0)
        found.rows |= dict(store.rows())
        for at, key in store.due_entries():
            found.due[key].add(at)
        for at, key in store.watched(1 << 63, 1 << 30):
            found.watched[key].add(at)
        found.positions[partition] = store.position
        for one in stores:
            one.close()
    return found


_BUDGET = Budget(cache_bytes=8 << 20, write_buffer_bytes=8 << 20)


def _refuse(reason: str) -> None:
    raise AssertionError(f"the store was corrupt: {reason}")


def _deliveries_of(expected: Expected) -> dict[bytes, bytes]:
    return {key: records.encode_row(delivery) for key, delivery in expected.deliveries.items()}


def _open_of(expected: Expected) -> dict[bytes, bytes]:
    return {key: records.encode_open_deferral(episode) for key, episode in expected.episodes.items()}


def _timeless(row: bytes) -> bytes:
    """Return a row of ``deliveries``, of any version, without what a tick or another version may have written."""
    delivery = records.decode_row(row)
    delivery.judged, delivery.watch_at = False, None
    return records.encode_row(delivery)


def _untold(row: bytes) -> bytes:
    return records.encode_open_deferral(replace(records.decode_open_deferral(row), told=Told.NOTHING, first_due=None))


def _revision(value: bytes) -> str:
    try:
        return f"revision {records.decode_status(value)['revision']}"
    except (records.RecordError, KeyError):
        return f"a value of {len(value)} bytes"
