"""RocksDB: what one table partition's changelog says, kept on disk so that a restart is short.

The rule: the store is never ahead of the changelog. A batch is written only
after its transaction was committed, and together with the changelog offset it
reaches, so that the store always equals the changelog up to ``changelog_offset``
and everything missing can be read again. A store that is lost or corrupt costs
time, never data.

What corrupted one store may also have harmed the others on the same disk. So they
are marked as ``SUSPECT``, and each is read through once (``Store.check``) before it
is used again: one restart for all corrupt ones, instead of one for each.

Keys: ``r`` + key = a row; ``d`` + 8 bytes + key = an entry of the due index,
``w`` + 8 bytes + key = one of the watch index: two lists of keys by time, for two
kinds of deadlines; ``m`` + name = what is known about the store itself.
"""

import contextlib
import logging
import struct
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    MemtableFactory,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

logger = logging.getLogger(__name__)

ROW, DUE, WATCH, META = b"r", b"d", b"w", b"m"
CHANGELOG_OFFSET = META + b"changelog-offset"
POSITION = META + b"position"
POLICY = META + b"policy"
CHANGELOG = META + b"changelog"
_NOTES = (CHANGELOG_OFFSET, POSITION, POLICY, CHANGELOG)  # read once: a store that is loading would sort all for each
UNKNOWN_POLICY = b""  # the indexes' times were computed with several policies, or some are missing
CONDEMNED = "CONDEMNED"  # a file beside the database's own: this copy was found corrupt while it was read
SUSPECT = "SUSPECT"  # another such file: a store beside this one was corrupt, and this one was not checked since
ASIDE = ".corrupt-"  # in the name of a store that was moved aside
ROWS_PER_PIECE = 2_000  # read at a time by a check: some milliseconds
TEXT_LOG_BYTES = 1 << 20  # of RocksDB's own text log; by default it grows as long as the store is open
MAX_WRITE_BUFFER = 16 << 20  # of one store, when a process has few
MIN_WRITE_BUFFER = 256 << 10
MAX_OPEN_FILES = 256  # of one store; RocksDB's own default is unlimited, Faust's 0.9 of the process's limit
CONNECTIONS = 4  # that come with one store: its lane's producer, to several brokers
OTHER_FILES = 128  # that a worker has open whatever it owns

_BEHIND_ALL = b"\xff" * 9  # where an index without entries begins

_pack_u64 = struct.Struct(">Q").pack
_unpack_u64 = struct.Struct(">Q").unpack


class StoreCorruptError(Exception):
    """The store cannot be read: the worker must end; the next start rebuilds it from the changelog."""


@dataclass(slots=True)
class Changes:
    """What one committed batch changes in the store; written as one RocksDB batch."""

    rows: Mapping[bytes, bytes | None] = field(default_factory=dict)
    """Key -> row, or None for a deleted one."""
    due_added: list[tuple[int, bytes]] = field(default_factory=list)
    due_removed: list[tuple[int, bytes]] = field(default_factory=list)
    watch_added: list[tuple[int, bytes]] = field(default_factory=list)
    watch_removed: list[tuple[int, bytes]] = field(default_factory=list)
    changelog_offset: int | None = None
    """The store then holds the changelog up to here (exclusive). None: the changes are not from the changelog."""
    position: bytes | None = None
    """The reserved row that holds the source position."""
    policy: bytes | None = None
    """The policy that the times in the indexes were computed with, so that a change of it is noticed."""
    changelog: bytes | None = None
    """The name of the changelog that the store is a copy of."""


class Budget:
    """The memory that all stores of a process share: one block cache, one write-buffer budget.

    RocksDB's own defaults are per database, and each partition has a database. Even an empty write buffer takes memory
    in proportion to its size (its filter, its first block), which counts towards the budget: if many stores had large
    ones, empty ones alone would exhaust it, and every write would be flushed to a file of its own.
    """

    def __init__(self, *, cache_bytes: int, write_buffer_bytes: int) -> None:
        self._write_buffer_bytes = write_buffer_bytes
        self.write_buffer_size = MAX_WRITE_BUFFER
        """Of each store. Some buffers are nearly empty at any time, so all together may have twice the budget."""
        self._cache = Cache(cache_bytes)
        self._write_buffers = WriteBufferManager.new_write_buffer_manager_with_cache(
            write_buffer_bytes, False, self._cache
        )

    def shared_by(self, stores: int) -> None:
        """Size the write buffers for this many stores; a store takes the size when it is opened, or at ``resize``."""
        share = 2 * self._write_buffer_bytes // max(stores, 1)
        self.write_buffer_size = min(max(share, MIN_WRITE_BUFFER), MAX_WRITE_BUFFER)

    @property
    def arena_block_size(self) -> int:
        """The memory that a write buffer allocates at a time."""
        return self.write_buffer_size // 8

    def options(self, *, loading: bool = False) -> Options:
        """Return the options of one partition's database, which is to be used or only to take in many rows."""
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_max_open_files(MAX_OPEN_FILES)
        options.set_write_buffer_manager(self._write_buffers)
        options.set_write_buffer_size(self.write_buffer_size)
        options.set_arena_block_size(self.arena_block_size)
        options.set_max_write_buffer_number(2)
        # One thread writes to a store, so its buffer needs no inserts that several could do at once: those are slower.
        options.set_allow_concurrent_memtable_write(False)
        if loading:
            # A list, sorted when it is written to a file: that is another thread's work, and costs half of a sorted buffer's.
            options.set_memtable_factory(MemtableFactory.vector())
        else:
            # The files' bloom filters do not cover the write buffer, which every look-up of a new delivery searches.
            options.set_memtable_whole_key_filtering(True)
            options.set_memtable_prefix_bloom_ratio(0.1)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(TEXT_LOG_BYTES)
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_bloom_filter(10, False)
        # Index and filters are in that cache too, in pieces: whole, those of a 64 MiB file are two 1 MiB blocks,
        # more than one shard of the cache holds, so that every look-up would read and unpack them again.
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_index_type(BlockBasedIndexType.two_level_index_search())
        blocks.set_partition_filters(True)
        options.set_block_based_table_factory(blocks)
        return options


def files_needed(stores: int) -> int:
    """Return how many open files a worker with so many stores may come to.

    One that has none left cannot read a table any more, which ends the worker, and after the restart it is the same.
    """
    return stores * (MAX_OPEN_FILES + CONNECTIONS) + OTHER_FILES


class Store:
    """One table partition on disk.

    Not safe for two processes: RocksDB's lock refuses the second.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        """Open or create it. Any exception is RocksDB's."""
        self.path = path
        self._budget = budget
        self._database = _open_database(path, budget)
        try:
            self._notes = self._read_notes()
        except Exception:
            with contextlib.suppress(Exception):  # it flushes, and of a corrupt one that may fail
                self._database.close()  # else its lock, which goes by the path, would refuse the empty one, too
            raise
        self.is_loading = False
        """Only many rows are taken in: without RocksDB's log, so a kill loses some, and the changelog offset with them."""
        self._write_buffer_size = budget.write_buffer_size
        self._condemned = False
        self._begins = {DUE: b"", WATCH: b""}
        """No entry of the index is before this. What was removed there stays in RocksDB's files for a while: a look that had
        to pass all of it would take the longer, the more was removed."""

    @property
    def changelog_offset(self) -> int | None:
        """The offset up to which (exclusive) the changelog is contained, or None for an empty store."""
        value = self._notes[CHANGELOG_OFFSET]
        return None if value is None else int(_unpack_u64(value)[0])

    @property
    def position(self) -> bytes | None:
        """The reserved row that holds the source position, or None before the first batch."""
        return self._notes[POSITION]

    @property
    def policy(self) -> bytes | None:
        """The policy that the times in the indexes were computed with, or None if none was noted."""
        return self._notes[POLICY]

    @property
    def changelog(self) -> bytes | None:
        """The name of the changelog that this is a copy of, or None if none was noted."""
        return self._notes[CHANGELOG]

    def get(self, key: bytes) -> bytes | None:
        """Return the row of ``key``."""
        return self._read(ROW + key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """Return the rows of all ``keys``: one look-up of many keys costs less than many of one.

        Any thread may call this, as long as the store is not closed meanwhile.
        """
        try:
            found = cast("list[bytes | None]", self._database.get([ROW + key for key in keys]))
        except Exception as error:
            raise self._condemn(error) from error
        return dict(zip(keys, found, strict=True))

    def due(self, until: int, limit: int, after: tuple[int, bytes] | None = None) -> list[tuple[int, bytes]]:
        """Return up to ``limit`` entries (due, key) of the due index with ``due <= until``, the earliest first.

        Args:
            until: µs, included.
            limit: Most entries.
            after: Begin behind this entry, whether it is still there or not.
        """
        return self._until(DUE, until, limit, after)

    def due_entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield every entry (due, key) of the due index, as it was when the iteration began."""
        for entry, _ in self._entries(DUE):
            yield int(_unpack_u64(entry[1:9])[0]), entry[9:]

    def watched(self, until: int, limit: int, after: tuple[int, bytes] | None = None) -> list[tuple[int, bytes]]:
        """Do the same for the watch index."""
        return self._until(WATCH, until, limit, after)

    def _until(self, index: bytes, until: int, limit: int, after: tuple[int, bytes] | None) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        begin = self._begins[index]
        if after is not None:
            begin = max(begin, _pack_u64(after[0]) + after[1] + b"\0")  # no key is between
        first = b""
        for entry, _ in self._entries(index, begin):
            first = first or entry[1:]
            due = int(_unpack_u64(entry[1:9])[0])
            if due > until or len(found) >= limit:
                break
            found.append((due, entry[9:]))
        if after is None:
            self._begins[index] = first or _BEHIND_ALL
        return found

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row as (key, value)."""
        for entry, value in self._entries(ROW):
            yield entry[1:], value

    def _entries(self, kind: bytes, begin: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield all (key, value) of one kind in order, from ``begin`` on.

        RocksDB's iterator stops at a corrupt block as it does at the end: only its status shows the difference.
        """
        try:
            iterator = self._database.iter()
            iterator.seek(kind + begin)
            while iterator.valid():
                key = cast("bytes", iterator.key())
                if key[:1] != kind:
                    return
                yield key, cast("bytes", iterator.value())
                iterator.next()
            iterator.status()
        except Exception as error:
            raise self._condemn(error) from error

    def set_loading(self, *, loading: bool) -> None:
        """Open the database anew to take in many rows, or to be used again. Then everything is on disk that was written.

        While it is loading, a row costs half as much to write, and one to read as much as sorting all the last ones.
        This may take seconds: RocksDB ends its compactions first, behind those of other stores. Any thread may call it,
        while nothing else uses the store.

        Raises:
            StoreCorruptError: RocksDB refused, or what was written is not there any more.
        """
        if loading == self.is_loading:
            return
        try:
            self._database.flush()
            self._database.close()
            self._database = _open_database(self.path, self._budget, loading=loading)
            self._write_buffer_size = self._budget.write_buffer_size
            notes = self._read_notes()
        except Exception as error:
            raise self._condemn(error) from error
        if notes != self._notes:  # RocksDB opens a database that was lost or shortened as an empty or older one
            raise self._condemn(OSError("Corruption: what was written is gone"))
        self.is_loading = loading

    def _read_notes(self) -> dict[bytes, bytes | None]:
        return {name: cast("bytes | None", self._database.get(name)) for name in _NOTES}

    def write(self, changes: Changes) -> None:
        """Write a batch, all or nothing.

        Raises:
            ValueError: ``changelog_offset`` is older than the store's: the batch is not the newest.
            StoreCorruptError: RocksDB refused.
        """
        batch = WriteBatch(raw_mode=True)
        for key, row in changes.rows.items():
            if row is None:
                batch.delete(ROW + key)
            else:
                batch.put(ROW + key, row)
        for index, removed, added in (
            (DUE, changes.due_removed, changes.due_added),
            (WATCH, changes.watch_removed, changes.watch_added),
        ):
            for at, key in removed:
                batch.delete(index + _pack_u64(at) + key)
            for at, key in added:
                entry = _pack_u64(at) + key
                batch.put(index + entry, b"")
                self._begins[index] = min(self._begins[index], entry)
        notes = self._notes_of(changes)
        for name, note in notes.items():
            batch.put(name, note)
        options = WriteOptions()
        options.disable_wal = self.is_loading  # type: ignore[method-assign,assignment] # a property; rocksdict's stub is wrong
        try:
            self._database.write(batch, options)
        except Exception as error:
            raise self._condemn(error) from error
        self._notes |= notes

    def _notes_of(self, changes: Changes) -> dict[bytes, bytes]:
        offset, stored = changes.changelog_offset, self.changelog_offset
        if offset is not None and stored is not None and offset < stored:
            message = f"the store is at changelog offset {stored}, the batch only at {offset}"
            raise ValueError(message)
        notes = {
            POLICY: changes.policy,
            CHANGELOG: changes.changelog,
            POSITION: changes.position,
            CHANGELOG_OFFSET: None if offset is None else _pack_u64(offset),
        }
        return {name: note for name, note in notes.items() if note is not None}

    @property
    def suspect(self) -> bool:
        """A store beside this one was found corrupt, and this one was not read through since."""
        return (self.path / SUSPECT).exists()

    @property
    def condemned(self) -> bool:
        """The store was found corrupt; when it is opened again, it is empty."""
        return self._condemned

    def check(self) -> Generator[int, None, None]:
        """Read everything once; yield the number of entries from time to time. Then the store is no longer suspect.

        RocksDB compares the checksum of each block that it reads.

        Raises:
            StoreCorruptError: it cannot be read; if it is corrupt, it is condemned.
        """
        options = ReadOptions()
        options.fill_cache(False)  # type: ignore[call-arg] # missing in rocksdict's stub
        options.set_verify_checksums(True)
        options.set_readahead_size(2 << 20)
        count = 0
        iterator = self._database.iter(options)
        try:
            iterator.seek_to_first()
            while iterator.valid():
                iterator.next()
                count += 1
                if not count % ROWS_PER_PIECE:
                    yield count
            iterator.status()
        except Exception as error:
            raise self._condemn(error) from error
        finally:
            del iterator  # while it lives, if only in a traceback, the database stays open and locked
        (self.path / SUSPECT).unlink(missing_ok=True)

    def resize(self) -> None:
        """Use the budget's current size per store, from the next write buffer on."""
        budget = self._budget
        if budget.write_buffer_size == self._write_buffer_size:
            return
        self._write_buffer_size = budget.write_buffer_size
        sizes = {"write_buffer_size": budget.write_buffer_size, "arena_block_size": budget.arena_block_size}
        try:
            self._database.set_options({name: str(size) for name, size in sizes.items()})
        except Exception as error:
            raise self._condemn(error) from error

    def close(self) -> None:
        """Flush and close. The object is of no use afterwards."""
        with contextlib.suppress(DbClosedError):  # it was closed to be opened anew, which failed
            self._database.close()

    def _read(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise self._condemn(error) from error
        return value

    def _condemn(self, error: Exception) -> StoreCorruptError:
        """Leave a mark on a corrupt database, so that the next start does not open it again."""
        if _is_corruption(error) and not self._condemned:
            self._condemned = True
            with contextlib.suppress(OSError):  # a disk that takes no mark: `error` is what matters
                if not self.suspect:  # else the others were marked together with it
                    _suspect_others(self.path)
            with contextlib.suppress(OSError):
                (self.path / CONDEMNED).touch()
        return StoreCorruptError(f"store {self.path.name}: {error}")


def open_store(path: Path, budget: Budget, *, on_rebuild: Callable[[str], None]) -> Store:
    """Open or create the store at ``path``; a corrupt one is moved aside and an empty one returned.

    An empty store has no ``changelog_offset``, so the caller reads the whole
    changelog. (RocksDB opens a truncated MANIFEST as an empty database: the
    same case.) ``on_rebuild`` is called with the reason.

    Raises:
        StoreCorruptError: it cannot be opened, and neither could an empty one: locked, no space, no permission.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold addresses
    if (path / CONDEMNED).exists():
        _move_aside(path, "was found corrupt in the last run", on_rebuild)
    try:
        return Store(path, budget)
    except Exception as error:
        if not _is_corruption(error):
            message = f"store {path.name} cannot be opened: {error}"
            raise StoreCorruptError(message) from error
        _suspect_others(path)
        _move_aside(path, str(error), on_rebuild)
        return Store(path, budget)


def _open_database(path: Path, budget: Budget, *, loading: bool = False) -> Rdict:
    """Open or create a database.

    The options are given twice: without those of the column family, rocksdict reads an existing database's from its
    directory, where they lack the shared cache and the bloom filter.
    """
    options = budget.options(loading=loading)
    return Rdict(str(path), options, column_families={"default": options})


def _move_aside(path: Path, reason: str, on_rebuild: Callable[[str], None]) -> None:
    aside = path.with_name(f"{path.name}{ASIDE}{time.time_ns()}")
    path.rename(aside)
    logger.warning("store %s moved aside as %s, to be rebuilt from the changelog: %s", path.name, aside.name, reason)
    on_rebuild(reason)


def _suspect_others(path: Path) -> None:
    """Mark the stores beside ``path``."""
    for other in path.parent.iterdir():
        if other != path and ASIDE not in other.name and (other / "CURRENT").exists():
            (other / SUSPECT).touch()


def _is_corruption(error: Exception) -> bool:
    """Distinguish corruption from a lock, a full disk or a missing permission; rocksdict has one exception for all."""
    text = str(error)
    if "While lock file" in text or "lock hold by" in text:
        return False
    return "Corruption" in text or "does not exist (create_if_missing is false)" in text or "No such file" in text
