"""What a tick looks at while some of what is due has to wait."""

from streams.kafka.walk import Entry, Walk
from streams.policies import LOOK_AGAIN_US

NOW = 1_790_000_000_000_000


class Index:
    """An index of a store; what begins with ``held`` has to wait, and everything else is done when it is looked at."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = set(entries)
        self.walk = Walk()

    def due(self, until: int, limit: int, after: Entry | None = None) -> list[Entry]:
        found = sorted(entry for entry in self.entries if entry[0] <= until and (after is None or entry > after))
        return found[:limit]

    def tick(self, now: int, limit: int = 2) -> list[bytes]:
        """Return the keys that were looked at."""
        piece = self.walk.piece(self.due, now, limit)
        for entry in piece:
            if entry[1].startswith(b"held"):
                self.walk.wait()
            else:
                self.entries.remove(entry)
        return [key for _, key in piece]


def test_while_nothing_waits_each_tick_begins_with_the_earliest() -> None:
    index = Index((5, b"e"), (6, b"f"), (7, b"g"))
    assert index.tick(NOW) == [b"e", b"f"]
    index.entries.add((1, b"a"))
    assert index.tick(NOW) == [b"a", b"g"]
    assert index.tick(NOW) == []


def test_what_waits_keeps_its_time_and_starves_nothing_behind_it() -> None:
    index = Index(*((n, b"held-%d" % n) for n in range(5)), (8, b"other"))
    assert [index.tick(NOW) for _ in range(4)] == [
        [b"held-0", b"held-1"],
        [b"held-2", b"held-3"],
        [b"held-4", b"other"],
        [],
    ]
    assert index.entries == {(n, b"held-%d" % n) for n in range(5)}


def test_what_waits_is_looked_at_again_after_a_while_and_so_is_what_came_behind_the_walk() -> None:
    index = Index((5, b"held"))
    index.tick(NOW)
    index.entries |= {(1, b"late"), (6, b"next")}
    assert index.tick(NOW + 1) == [b"next"]
    assert index.tick(NOW + LOOK_AGAIN_US - 1) == []
    assert index.tick(NOW + LOOK_AGAIN_US) == [b"late", b"held"]
    assert index.tick(NOW + 2 * LOOK_AGAIN_US - 1) == []
    assert index.tick(NOW + 2 * LOOK_AGAIN_US) == [b"held"]


def test_a_walk_that_takes_long_comes_to_its_end_before_it_begins_again() -> None:
    index = Index((1, b"held-1"), (2, b"held-2"), (3, b"held-3"), (4, b"other"))
    assert [index.tick(NOW + n * LOOK_AGAIN_US, limit=1) for n in range(6)] == [
        [b"held-1"],
        [b"held-2"],
        [b"held-3"],
        [b"other"],
        [],
        [b"held-1"],
    ]


def test_a_walk_begins_again_when_the_clock_turns_out_to_have_been_ahead() -> None:
    index = Index((NOW, b"held"))
    index.tick(NOW + 1_000 * LOOK_AGAIN_US)
    assert index.tick(NOW) == [b"held"]
