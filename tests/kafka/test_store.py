"""The store on a real disk: what it keeps, what a kill leaves of it, and what becomes of a damaged one."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kafka import store as store_module
from streams.kafka.store import CONDEMNED, SUSPECT, Budget, Changes, Store, StoreCorruptError, open_store

BUDGET = Budget(cache_bytes=4 << 20, write_buffer_bytes=4 << 20)


class Rebuilds:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def rebuilds() -> Rebuilds:
    return Rebuilds()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "deliveries-0"


def aside(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}.corrupt-*"))


def refuse(reason: str) -> None:
    raise AssertionError(f"rebuilt: {reason}")


@pytest.fixture
def store(path: Path) -> "Store":
    return open_store(path, BUDGET, on_rebuild=refuse)


# -- what it keeps -------------------------------------------------------------------------------------------------------


def test_a_new_store_knows_nothing(store: Store) -> None:
    assert store.changelog_offset is None
    assert store.position is None
    assert store.get(b"k") is None
    assert list(store.rows()) == []
    assert store.due(2**63, 10) == []


@pytest.mark.parametrize(("there", "after"), [(None, 0o700), (0o750, 0o750)])
def test_a_folder_that_is_new_is_its_users_alone_and_one_that_was_there_stays_as_it_is(
    tmp_path: Path, there: int | None, after: int
) -> None:
    folder = tmp_path / "data"
    if there is not None:
        folder.mkdir()
        folder.chmod(there)

    open_store(folder / "deliveries-0", BUDGET, on_rebuild=refuse).close()

    assert folder.stat().st_mode & 0o777 == after


def test_a_batch_is_there_after_the_store_was_closed_and_opened_again(store: Store, path: Path) -> None:
    store.write(
        Changes(rows={b"a": b"1", b"b": b""}, due_added=[(7, b"a")], changelog_offset=12, position=b'{"offset":3}')
    )
    store.close()
    again = open_store(path, BUDGET, on_rebuild=refuse)
    assert dict(again.rows()) == {b"a": b"1", b"b": b""}
    assert again.get(b"b") == b"", "an empty row is a row"
    assert again.due(7, 10) == [(7, b"a")]
    assert (again.changelog_offset, again.position) == (12, b'{"offset":3}')
    again.close()


KILLED = """
import os, pathlib, signal, sys
from streams.kafka.store import Budget, Changes, open_store

budget = Budget(cache_bytes=4 << 20, write_buffer_bytes=4 << 20)
budget.shared_by(4)  # else an empty buffer is over the budget, and RocksDB flushes each write by itself
store = open_store(pathlib.Path(sys.argv[1]), budget, on_rebuild=print)
for offset, logged in enumerate(map(int, sys.argv[2]), 1):
    rows = {b"%d-%d" % (offset, number): bytes(1000) for number in range(int(sys.argv[3]))}
    store.set_loading(loading=not logged)
    store.write(Changes(rows=rows, changelog_offset=offset))
os.kill(os.getpid(), signal.SIGKILL)
"""
"""Writes batches, logged (1) or while it is loading (0), of so many rows of a kB, and is killed."""


@pytest.mark.parametrize(
    ("logged", "rows", "kept"),
    [
        ("111", 1, {3}),
        ("100", 1, {1}),
        ("1001", 1, {4}),
        ("10010", 1, {4}),
        ("0" * 50, 1_000, set(range(1, 50))),  # more than a write buffer holds: some of it was written to files
        ("1" + "0" * 50 + "1", 1_000, {52}),
    ],
)
def test_a_kill_takes_back_the_last_writes_while_loading_and_leaves_no_hole(
    path: Path, logged: str, rows: int, kept: set[int]
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), logged, str(rows)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    store = open_store(path, BUDGET, on_rebuild=refuse)
    reached = store.changelog_offset
    assert reached in kept
    whole = {b"%d-%d" % (offset, number) for offset in range(1, reached + 1) for number in range(rows)}
    assert {key for key, _ in store.rows()} == whole
    store.close()


def test_writes_while_loading_outlive_an_orderly_close(store: Store, path: Path) -> None:
    store.set_loading(loading=True)
    store.write(Changes(rows={b"a": b"1"}, changelog_offset=1))
    store.close()
    store = open_store(path, BUDGET, on_rebuild=refuse)
    assert (store.get(b"a"), store.changelog_offset) == (b"1", 1)
    store.close()


def test_a_store_that_was_loaded_is_one_that_was_written(store: Store, path: Path) -> None:
    store.write(Changes(rows={b"a": b"old", b"b": b"gone", b"c": b"1"}, changelog_offset=3, policy=b"p"))
    store.set_loading(loading=True)
    store.write(Changes(rows={b"a": b"newer", b"b": None, b"d": b"2"}, changelog_offset=6))
    store.write(Changes(rows={b"a": b"newest", b"d": None, b"e": b"3"}, changelog_offset=9, position=b"x"))
    expected = {b"a": b"newest", b"c": b"1", b"e": b"3"}
    assert (dict(store.rows()), store.get(b"d"), store.changelog_offset) == (expected, None, 9)
    store.set_loading(loading=False)
    assert (dict(store.rows()), store.get(b"d"), store.changelog_offset) == (expected, None, 9)
    store.write(Changes(rows={b"c": None}, changelog_offset=10))
    store.close()
    again = open_store(path, BUDGET, on_rebuild=refuse)
    assert dict(again.rows()) == {b"a": b"newest", b"e": b"3"}
    assert (again.changelog_offset, again.position, again.policy) == (10, b"x", b"p")
    again.close()


def test_a_store_that_cannot_be_opened_anew_is_no_corrupt_one_and_can_be_closed(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(Changes(rows={b"a": b"1"}, changelog_offset=1))
    with monkeypatch.context() as patch:

        def full(*_: object, **__: object) -> None:
            message = "IO error: No space left on device"
            raise OSError(message)

        patch.setattr(store_module, "_open_database", full)
        with pytest.raises(StoreCorruptError, match="No space left"):
            store.set_loading(loading=True)
    store.close()
    again = open_store(path, BUDGET, on_rebuild=refuse)
    assert again.get(b"a") == b"1"
    again.close()


@pytest.mark.parametrize("loading", [True, False])
def test_a_store_whose_files_are_lost_while_it_is_open_is_rebuilt_and_does_not_go_on_as_an_empty_one(
    store: Store, path: Path, loading: bool
) -> None:
    store.write(Changes(rows={b"a": b"1"}, changelog_offset=5))
    store.set_loading(loading=not loading)
    shutil.rmtree(path)
    with pytest.raises(StoreCorruptError):
        store.set_loading(loading=loading)
    with contextlib.suppress(Exception):
        store.close()  # it cannot write what it still has
    rebuilds: list[str] = []
    again = open_store(path, BUDGET, on_rebuild=rebuilds.append)
    assert again.changelog_offset is None
    again.close()


def test_a_deleted_row_is_gone(store: Store) -> None:
    store.write(Changes(rows={b"a": b"1", b"b": b"2"}))
    store.write(Changes(rows={b"a": None, b"never": None}))
    assert dict(store.rows()) == {b"b": b"2"}


def test_many_rows_are_looked_up_as_each_would_be(store: Store) -> None:
    store.write(Changes(rows={b"a": b"1", b"b": b"", b"c": b"3"}))
    store.write(Changes(rows={b"c": None}))
    assert store.get_many([b"never", b"b", b"a", b"b", b"c"]) == {b"never": None, b"b": b"", b"a": b"1", b"c": None}
    assert store.get_many([]) == {}


def test_what_is_not_in_the_changelog_leaves_its_offset_alone(store: Store) -> None:
    store.write(Changes(changelog_offset=12, position=b"p"))
    store.write(Changes(due_added=[(1, b"a")]))
    assert (store.changelog_offset, store.position) == (12, b"p")


def test_a_batch_older_than_the_store_is_refused_whole(store: Store) -> None:
    store.write(Changes(rows={b"a": b"new"}, changelog_offset=12, position=b"p12"))
    with pytest.raises(ValueError, match="at changelog offset 12, the batch only at 11"):
        store.write(Changes(rows={b"a": b"old", b"b": b"x"}, changelog_offset=11, position=b"p11"))
    assert dict(store.rows()) == {b"a": b"new"}
    assert (store.changelog_offset, store.position) == (12, b"p12")
    store.write(Changes(rows={b"b": b"y"}, changelog_offset=12))  # the same again is no harm


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**63), st.binary(min_size=0, max_size=30)), unique=True, min_size=1, max_size=30
    ),
    st.integers(0, 2**63),
    st.integers(1, 40),
)
def test_the_due_index_gives_the_earliest_first_up_to_the_time_and_the_limit(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[int, bytes]], until: int, limit: int
) -> None:
    store = open_store(tmp_path_factory.mktemp("due") / "s", BUDGET, on_rebuild=refuse)
    store.write(Changes(rows={b"\xffrow": b"1"}, due_added=entries, position=b"meta", changelog_offset=1))
    due = sorted(entry for entry in entries if entry[0] <= until)
    assert store.due(until, limit) == due[:limit]
    for number, entry in enumerate(due):
        assert store.due(until, limit, entry) == due[number + 1 :][:limit], "what is behind this one"
    store.write(Changes(due_removed=entries))
    assert store.due(2**63, 100) == []
    store.close()


ENTRIES = st.tuples(
    st.sampled_from([0, 1, 2, 255, 256, 2**40, 2**63]), st.sampled_from([b"", b"\0", b"a", b"b", b"\xff" * 9])
)
INDEX_STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), st.lists(ENTRIES, max_size=4))
    | st.tuples(st.just("load"), st.booleans())
    | st.tuples(
        st.just("look"), st.tuples(st.sampled_from([0, 2, 300, 2**63]), st.integers(1, 5), st.none() | ENTRIES)
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(st.booleans(), INDEX_STEPS)
def test_a_look_at_an_index_sees_what_is_there_whatever_was_removed_and_added_and_loaded_before(
    tmp_path_factory: pytest.TempPathFactory,
    watch: bool,
    steps: list[tuple[str, Any]],
) -> None:
    store = open_store(tmp_path_factory.mktemp("index") / "s", BUDGET, on_rebuild=refuse)
    there: set[tuple[int, bytes]] = set()
    for step, what in steps:
        if step == "add":
            there |= set(what)
            store.write(Changes(watch_added=what) if watch else Changes(due_added=what))
        elif step == "remove":
            there -= set(what)
            store.write(Changes(watch_removed=what) if watch else Changes(due_removed=what))
        elif step == "load":
            store.set_loading(loading=what)
        else:
            until, limit, after = what
            look = store.watched if watch else store.due
            behind = sorted(each for each in there if each[0] <= until and (after is None or each > after))
            assert look(until, limit, after) == behind[:limit]
    store.close()


def test_a_look_at_an_index_does_not_pass_again_what_was_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """RocksDB keeps what was removed for a while, so looks became slower and slower: after 300,000, 40 ms each."""
    entries = [(number, b"key") for number in range(100)]
    store.write(Changes(due_added=entries))
    store.write(Changes(due_removed=entries[:90]))
    assert store.due(89, 10) == []

    begins: list[bytes] = []
    read = Store._entries

    def recording(self: Store, kind: bytes, begin: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        begins.append(begin)
        return read(self, kind, begin)

    monkeypatch.setattr(Store, "_entries", recording)
    assert store.due(89, 10) == []
    assert store.due(95, 10) == entries[90:96]
    assert set(begins) == {(90).to_bytes(8, "big") + b"key"}


@settings(max_examples=25)
@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=40), max_size=20))
def test_rows_of_any_key_stand_apart_from_the_index_and_from_what_the_store_knows_of_itself(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[bytes, bytes]
) -> None:
    store = open_store(tmp_path_factory.mktemp("rows") / "s", BUDGET, on_rebuild=refuse)
    store.write(Changes(rows=rows, due_added=[(1, b"x")], changelog_offset=5, position=b"p"))
    assert dict(store.rows()) == rows
    assert all(store.get(key) == value for key, value in rows.items())
    assert store.due(2**63, 10) == [(1, b"x")]
    assert (store.changelog_offset, store.position) == (5, b"p")
    store.close()


def test_stores_of_one_process_share_their_budget(tmp_path: Path) -> None:
    stores = [open_store(tmp_path / f"s-{n}", BUDGET, on_rebuild=refuse) for n in range(8)]
    for first in range(0, 2_000, 200):
        for store in stores:
            store.write(Changes(rows={b"%d" % n: bytes(1_000) for n in range(first, first + 200)}))
    # 16 MB were written, 2 MB to each, far below RocksDB's own limit; but all together may keep 4 MiB in memory
    for _ in range(500):
        if any(tmp_path.rglob("*.sst")):
            break
        time.sleep(0.01)
    assert any(tmp_path.rglob("*.sst"))
    for store in stores:
        store.close()


def test_a_few_writes_to_each_of_many_stores_are_not_flushed_although_their_empty_buffers_count_for_the_budget(
    tmp_path: Path,
) -> None:
    budget = Budget(cache_bytes=4 << 20, write_buffer_bytes=16 << 20)
    budget.shared_by(64)
    stores = [open_store(tmp_path / f"s-{n}", budget, on_rebuild=refuse) for n in range(64)]
    for number in range(5):
        for store in stores:
            store.write(Changes(rows={b"%d" % number: bytes(100)}))
    time.sleep(0.2)  # a flush has a thread of its own
    assert not any(tmp_path.rglob("*.sst"))
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("stores", "mib"),
    [(1, 16), (8, 16), (16, 8), (256, 0.5), (100_000, 0.25)],
)
def test_a_write_buffer_is_the_smaller_the_more_stores_share_the_budget(stores: int, mib: float) -> None:
    budget = Budget(cache_bytes=4 << 20, write_buffer_bytes=64 << 20)
    budget.shared_by(stores)
    assert budget.write_buffer_size == mib * (1 << 20)


def test_an_open_store_takes_the_write_buffer_of_another_number_of_stores(tmp_path: Path) -> None:
    budget = Budget(cache_bytes=4 << 20, write_buffer_bytes=4 << 20)
    store = open_store(tmp_path / "s", budget, on_rebuild=refuse)
    for each in (8, 8, 1):
        budget.shared_by(each)
        store.resize()
    store.close()
    log = (tmp_path / "s" / "LOG").read_text()
    assert re.findall(r"\] write_buffer_size: (\d+)", log) == ["1048576", "8388608"], "only where the size is another"
    again = open_store(tmp_path / "s", budget, on_rebuild=refuse)
    again.write(Changes(rows={b"a": b"1"}))
    assert again.get(b"a") == b"1"
    again.close()


def options_in_use(path: Path) -> list[str]:
    """Return what RocksDB itself logs of its options at each opening, without the times and threads."""
    log = (path / "LOG").read_text().partition("Options for column family [default]")[2]
    lines = [line.rpartition("] ")[2].strip() for line in log.partition("Recovered from manifest")[0].splitlines()]
    return [re.sub(r"^\S+ \d+ +|0x\w+", "", line) for line in lines]


def test_a_store_that_is_opened_again_keeps_to_the_shared_cache_and_its_filters(store: Store, path: Path) -> None:
    anew = options_in_use(path)
    store.write(Changes(rows={b"a": b"1"}))
    store.close()
    again = open_store(path, BUDGET, on_rebuild=refuse)

    assert {"capacity : 4194304", "filter_policy: bloomfilter", "partition_filters: 1"} <= set(anew)
    assert anew == options_in_use(path)
    again.close()


def test_what_a_store_writes_about_itself_has_an_end_while_it_is_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "TEXT_LOG_BYTES", 64 << 10)
    store = open_store(path, BUDGET, on_rebuild=refuse)
    for number in range(100):
        store.write(Changes(rows={b"%d" % number: b"1"}))
        store._database.flush()  # a table of its own, with a page of text
    text = [log.stat().st_size for log in path.glob("LOG*")]
    store.close()
    assert len(text) == 2
    assert max(text) < 80 << 10


# -- a corrupt copy ---------------------------------------------------------------------------------------------------------


def filled(path: Path) -> None:
    """Leave a closed store with two tables on disk."""
    for first in (0, 2_000):
        store = open_store(path, BUDGET, on_rebuild=refuse)
        store.write(
            Changes(
                rows={b"key-%06d" % n: b"%06d" % n * 20 for n in range(first, first + 2_000)},
                changelog_offset=first + 2_000,
                position=b"p",
            )
        )
        store.close()  # flushes to a table


def tables(path: Path) -> list[Path]:
    return sorted(path.glob("*.sst"))


def remove_current(path: Path) -> None:
    (path / "CURRENT").unlink()


def empty_current(path: Path) -> None:
    (path / "CURRENT").write_bytes(b"")


def current_names_nothing(path: Path) -> None:
    (path / "CURRENT").write_bytes(b"MANIFEST-999999\n")


def remove_table(path: Path) -> None:
    tables(path)[0].unlink()


def truncate_table(path: Path) -> None:
    table = tables(path)[0]
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])


def damage_manifest(path: Path) -> None:
    manifest = next(path.glob("MANIFEST-*"))
    damaged = bytearray(manifest.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    manifest.write_bytes(damaged)


@pytest.mark.parametrize(
    "damage",
    [remove_current, empty_current, current_names_nothing, remove_table, truncate_table, damage_manifest],
    ids=lambda damage: damage.__name__,
)
def test_a_store_that_cannot_be_opened_is_moved_aside_and_an_empty_one_returned(
    path: Path, rebuilds: Rebuilds, damage: Callable[[Path], None]
) -> None:
    filled(path)
    damage(path)

    store = open_store(path, BUDGET, on_rebuild=rebuilds)

    assert store.changelog_offset is None, "the caller reads the whole changelog"
    assert list(store.rows()) == []
    assert len(rebuilds.reasons) == len(aside(path))
    store.write(Changes(rows={b"a": b"1"}, changelog_offset=1))
    store.close()
    again = open_store(path, BUDGET, on_rebuild=refuse)
    assert dict(again.rows()) == {b"a": b"1"}
    again.close()


def test_a_store_whose_own_notes_are_damaged_is_moved_aside_at_the_same_start(path: Path, rebuilds: Rebuilds) -> None:
    """It opens, and only then it is seen: its lock must not refuse the empty one."""
    filled(path)
    for table in tables(path):
        damaged = bytearray(table.read_bytes())
        damaged[20] ^= 1  # in the first block, which holds what the store knows about itself
        table.write_bytes(damaged)
    again = open_store(path, BUDGET, on_rebuild=rebuilds)
    assert again.changelog_offset is None
    assert len(rebuilds.reasons) == len(aside(path)) == 1
    again.close()


def test_a_truncated_manifest_opens_as_an_empty_store_that_says_so(path: Path, rebuilds: Rebuilds) -> None:
    filled(path)
    manifest = next(path.glob("MANIFEST-*"))
    manifest.write_bytes(b"")

    store = open_store(path, BUDGET, on_rebuild=rebuilds)

    assert store.changelog_offset is None
    assert store.position is None
    assert list(store.rows()) == []
    store.close()


def flip_bits(path: Path) -> None:
    for table in tables(path):
        damaged = bytearray(table.read_bytes())
        # the middle: the first block holds what opening reads, the end the table's own index
        for at in range(len(damaged) * 4 // 10, len(damaged) * 6 // 10, 500):
            damaged[at] ^= 1
        table.write_bytes(damaged)


def one_by_one(store: Store, keys: list[bytes]) -> list[bytes | None]:
    return [store.get(key) for key in keys]


def all_at_once(store: Store, keys: list[bytes]) -> list[bytes | None]:
    return list(store.get_many(keys).values())


@pytest.mark.parametrize("read", [one_by_one, all_at_once])
def test_a_flipped_bit_is_found_when_it_is_read_and_the_next_start_does_not_open_that_copy_again(
    path: Path, rebuilds: Rebuilds, read: Callable[[Store, list[bytes]], list[bytes | None]]
) -> None:
    filled(path)
    flip_bits(path)
    store = open_store(path, BUDGET, on_rebuild=refuse)  # opening reads no data block

    with pytest.raises(StoreCorruptError, match="deliveries-0"):
        read(store, [b"key-%06d" % n for n in range(4_000)])

    assert (path / CONDEMNED).exists()
    store.close()
    again = open_store(path, BUDGET, on_rebuild=rebuilds)
    assert again.changelog_offset is None
    assert list(again.rows()) == []
    assert rebuilds.reasons == ["was found corrupt in the last run"]
    assert len(aside(path)) == 1
    assert tables(aside(path)[0]), "the damaged copy is kept for who wants to look at it"
    again.close()


def test_a_corrupt_store_that_cannot_be_marked_says_why_it_is_corrupt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other error, told of one record while it is folded, would send that record to the dead letters."""
    filled(path)
    filled(path.with_name("deliveries-1"))
    flip_bits(path)
    store = open_store(path, BUDGET, on_rebuild=refuse)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(StoreCorruptError, match="deliveries-0: Corruption"):
        list(store.rows())
    store.close()


def test_a_flipped_bit_is_found_by_a_reader_of_all_rows_too(path: Path) -> None:
    filled(path)
    flip_bits(path)
    store = open_store(path, BUDGET, on_rebuild=refuse)
    with pytest.raises(StoreCorruptError):
        list(store.rows())
    assert (path / CONDEMNED).exists()
    store.close()


def test_a_flipped_bit_in_the_due_index_is_found_and_not_taken_for_its_end(path: Path) -> None:
    store = open_store(path, BUDGET, on_rebuild=refuse)
    store.write(Changes(due_added=[(n, b"key-%06d" % n) for n in range(4_000)], changelog_offset=1))
    store.close()
    flip_bits(path)
    store = open_store(path, BUDGET, on_rebuild=refuse)
    with pytest.raises(StoreCorruptError):
        store.due(2**63, 10_000)
    assert (path / CONDEMNED).exists()
    store.close()


def test_stores_beside_a_corrupt_one_are_suspect_until_they_were_read_through(path: Path, rebuilds: Rebuilds) -> None:
    sound, bad = path.with_name("deliveries-1"), path.with_name("deliveries-2")
    for each in (path, sound, bad):
        filled(each)
    for each in (path, bad):
        flip_bits(each)
    store = open_store(path, BUDGET, on_rebuild=refuse)
    assert not store.suspect
    with pytest.raises(StoreCorruptError):
        list(store.rows())
    store.close()

    first, second, third = stores = [open_store(each, BUDGET, on_rebuild=rebuilds) for each in (path, sound, bad)]

    assert rebuilds.reasons == ["was found corrupt in the last run"]
    assert [first.suspect, second.suspect, third.suspect] == [False, True, True]
    assert list(second.check()), "it gives others their turn"
    assert not second.suspect
    assert len(dict(second.rows())) == 4_000
    with pytest.raises(StoreCorruptError, match="deliveries-2"):
        list(third.check())
    assert third.condemned
    assert not second.suspect, "what harmed the third is known, and the second was read through since"
    for store in stores:
        store.close()
    again = open_store(bad, BUDGET, on_rebuild=rebuilds)
    assert list(again.rows()) == []
    assert not again.suspect
    again.close()


def test_a_store_that_cannot_be_opened_makes_those_beside_it_suspect_too(path: Path, rebuilds: Rebuilds) -> None:
    beside = path.with_name("deliveries-1")
    for each in (path, beside):
        filled(each)
    other = open_store(beside, BUDGET, on_rebuild=refuse)
    remove_table(path)
    open_store(path, BUDGET, on_rebuild=rebuilds).close()
    assert other.suspect, "although it was opened before"
    other.close()


def test_a_check_that_was_given_up_leaves_the_suspicion(path: Path) -> None:
    filled(path)
    (path / SUSPECT).touch()
    store = open_store(path, BUDGET, on_rebuild=refuse)
    check = store.check()
    next(check)
    check.close()
    assert store.suspect
    store.close()
    open_store(path, BUDGET, on_rebuild=refuse).close()  # nothing of it holds the database


def test_no_flipped_bit_is_ever_read_as_a_row(path: Path) -> None:
    filled(path)
    flip_bits(path)
    store = open_store(path, BUDGET, on_rebuild=refuse)
    wrong = 0
    for n in range(4_000):
        try:
            wrong += store.get(b"key-%06d" % n) not in (b"%06d" % n * 20, None)
        except StoreCorruptError:
            continue
    store.close()
    assert wrong == 0


def test_a_store_that_another_process_holds_is_refused_and_left_where_it_is(store: Store, path: Path) -> None:
    store.write(Changes(rows={b"a": b"1"}))
    with pytest.raises(StoreCorruptError, match="cannot be opened"):
        open_store(path, BUDGET, on_rebuild=refuse)
    assert aside(path) == []
    assert store.get(b"a") == b"1"
    store.close()


def test_a_path_that_cannot_be_a_store_is_refused_and_left_where_it_is(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("somebody's file")
    with pytest.raises((StoreCorruptError, OSError)):
        open_store(path, BUDGET, on_rebuild=refuse)
    assert path.read_text() == "somebody's file"
    assert aside(path) == []


def test_two_copies_moved_aside_do_not_meet(path: Path, rebuilds: Rebuilds) -> None:
    for _ in range(2):
        filled_once = open_store(path, BUDGET, on_rebuild=rebuilds)
        filled_once.write(Changes(rows={b"a": b"1"}))
        filled_once.close()
        (path / CONDEMNED).touch()
    open_store(path, BUDGET, on_rebuild=rebuilds).close()
    assert len(aside(path)) == 2
