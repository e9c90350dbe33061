"""The open deferrals as the changelog holds them, and how they are shown to people and programs.

Addresses do not belong on a shared terminal: none is shown unless it was asked
for, not even those that receiving servers put into their answers.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from streams.cli._output import clean, plural, shortened, time_text
from streams.domain.deferrals import Episode, Level, ends_at, level_of
from streams.domain.qshape import COLUMNS, Row, qshape
from streams.domain.status import SECOND, from_micros
from streams.logs import without_addresses
from streams.policies import Policies
from streams.records import RowError, decode_open_deferral

LEVEL_STYLES: Final = {Level.RAISED: "yellow", Level.ESCALATED: "bold red", Level.OVERDUE: "bold magenta"}
_RESERVED: Final = b"\x00"
"""The first byte of those keys of the changelog that belong to no delivery."""
_HEADINGS: Final = (
    "age",
    "level",
    "gives up (UTC)",
    "reference",
    "provider",
    "destination",
    "tries",
    "reason",
    "delivery id",
)
"""The most needed first, because a narrow terminal cuts the end."""
_NUMBERS: Final = frozenset({"age", "tries"})
_ANSWER_WIDTH: Final = (40, 120)
"""Of the last column: the least on a terminal, and the width if there is no terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which open deferrals are shown; an empty set lets all pass."""

    providers: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()
    destinations: frozenset[str] = frozenset()
    levels: frozenset[Level | None] = frozenset()
    """The highest level published; None: no alert was."""
    older_than: int = 0
    """In microseconds."""

    def fits(self, episode: Episode, now: int) -> bool:
        """Tell whether an open deferral passes."""
        return (
            (not self.providers or episode.provider in self.providers)
            and (not self.accounts or episode.account in self.accounts)
            and (not self.destinations or episode.destination in self.destinations)
            and (not self.levels or level_of(episode.told) in self.levels)
            and (not self.older_than or now - episode.since > self.older_than)
        )


@dataclass(slots=True)
class OpenDeferrals:
    """The open deferrals as far as the changelog was read."""

    episodes: dict[bytes, Episode] = field(default_factory=dict)
    """By delivery id."""
    damaged: dict[bytes, str] = field(default_factory=dict)
    """Deliveries whose newest row cannot be understood, and why."""
    written: bool = False
    """A monitor has written to the changelog, even if only its position."""
    _unread: dict[bytes, bytes | None] = field(default_factory=dict)

    def take(self, records: Iterable[Any]) -> None:
        """Take in records of the changelog; only a key's newest counts, so none is decoded before ``settle``."""
        for record in records:
            self.written = True
            if record.key and not record.key.startswith(_RESERVED):
                self._unread[record.key] = record.value

    def settle(self) -> list[tuple[Episode | None, Episode | None]]:
        """Decode what was taken in; return each deferral before and after, None where it was or is not open."""
        unread, self._unread = self._unread, {}
        return [self._replace(key, row) for key, row in unread.items()]

    def fitting(self, chosen: Filter, now: int) -> list[Episode]:
        """Return those that fit, the oldest first."""
        found = [episode for episode in self.episodes.values() if chosen.fits(episode, now)]
        return sorted(found, key=lambda episode: (episode.since, episode.delivery_id))

    def remarks(self, fitting: int) -> Iterator[str]:
        """Yield what the rows do not show: how many there are, what it means if none, and what cannot be shown."""
        total = len(self.episodes)
        if fitting:
            yield plural(fitting, "open deferral") + (f", of {total}" if fitting < total else "")
        elif total:
            providers = Counter(clean(episode.provider) for episode in self.episodes.values())
            names = ", ".join(f"{name} {count}" for name, count in providers.most_common(5))
            yield f"nothing fits; open without the filters: {total} ({names})"
        elif self.damaged:
            yield "nothing can be shown"
        elif self.written:
            yield "nothing is deferred: as far as the worker has read, every delivery that was has another status now"
        else:
            yield "nothing is deferred as far as is known: no delivery ever was, or no worker has run (mailstreams worker)"
        if self.damaged:
            why = clean(next(iter(self.damaged.values())))
            yield f"{plural(len(self.damaged), 'row')} not shown: {why}"

    def _replace(self, key: bytes, row: bytes | None) -> tuple[Episode | None, Episode | None]:
        before = self.episodes.get(key)
        self.damaged.pop(key, None)
        if row is None:
            self.episodes.pop(key, None)
            return before, None
        try:
            after = decode_open_deferral(row)
        except RowError as error:  # it is open, but cannot be decoded
            self.damaged[key] = str(error)
            return before, before
        self.episodes[key] = after
        return before, after


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How open deferrals are shown."""

    out: Console
    policies: Policies
    addresses: bool
    """Whether addresses are shown."""

    def facts(self, episode: Episode, now: int) -> dict[str, Any]:
        """Return a deferral for a program; the names are those of ``mail.deferral-alerts``."""
        end = self._ends_at(episode)
        return {
            "delivery_id": episode.delivery_id,
            "account": episode.account,
            "provider": episode.provider,
            "message_id": episode.message_id,
            "recipient": episode.recipient if self.addresses else None,
            "reference": self._hidden(episode.reference),
            "first_received_at": from_micros(episode.first_received_at),
            "episode": episode.number,
            "level": level_of(episode.told),
            "destination": episode.destination,
            "deferred_since": from_micros(episode.since),
            "age_s": max(now - episode.since, 0) // SECOND,
            "attempts": episode.attempts,
            "reason": self._hidden(episode.reason),
            "smtp_code": episode.smtp_code,
            "enhanced_code": episode.enhanced_code,
            "reason_class": episode.reason_class,
            "retry_until": from_micros(end),
            "retry_left_s": (end - now) // SECOND,
        }

    def table(self, episodes: Sequence[Episode], now: int) -> list[Text]:
        """Return the table's lines; the last column, the answer, gets the rest of the terminal's width."""
        headings = [*_HEADINGS, "recipient"] if self.addresses else [*_HEADINGS]
        rows = [[Text(heading, "bold") for heading in headings]]
        rows.extend(self._cells(episode, now) for episode in episodes)
        widths = [max(cell_len(row[column].plain) for row in rows) for column in range(len(headings))]
        least, most = _ANSWER_WIDTH
        room = max(self.out.width - sum(widths) - 2 * len(widths), least) if self.out.is_terminal else most
        answers = [Text("answer", "bold"), *(Text(shortened(self._answer(each), room), "dim") for each in episodes)]
        lines = []
        for cells, answer in zip(rows, answers, strict=True):
            line = Text()
            for heading, cell, width in zip(headings, cells, widths, strict=True):
                padding = " " * (width - cell_len(cell.plain))
                both = (padding, cell) if heading in _NUMBERS else (cell, padding)
                line.append_text(Text.assemble(*both, "  "))
            lines.append(line.append_text(answer))
        return lines

    def change_line(self, change: str, episode: Episode, now: int) -> Text:
        """Return a change as one line for people."""
        recipient = f"  {clean(episode.recipient)}" if self.addresses else ""
        tries = "1 try" if episode.attempts == 1 else f"{episode.attempts} tries"
        return Text.assemble(
            (time_text(from_micros(now)), "dim"),
            f"  {change:<9}  {duration_text(now - episode.since):>7}  ",
            (f"{self._shown(episode.reference or '-'):<16}", "bold"),
            f"  {clean(episode.provider)} to {clean(episode.destination)}, {tries}, {episode.reason_class}",
            f", gives up {time_text(from_micros(self._ends_at(episode)))}",
            (f"  {clean(episode.delivery_id)}", "dim"),
            recipient,
            (f"  {shortened(self._answer(episode))}", "dim"),
        )

    def _cells(self, episode: Episode, now: int) -> list[Text]:
        level = level_of(episode.told)
        end = self._ends_at(episode)
        when = f"in {duration_text(end - now)}" if end >= now else f"{duration_text(now - end)} ago"
        cells = [
            Text(duration_text(now - episode.since), "bold"),
            Text("-", "dim") if level is None else Text(level, LEVEL_STYLES[level]),
            Text(f"{from_micros(end):%m-%d %H:%M}, {when}", "" if end >= now else "red"),
            Text(shortened(self._shown(episode.reference or "-"), 40), "bold"),
            Text(clean(episode.provider)),
            Text(clean(episode.destination)),
            Text(str(episode.attempts)),
            Text(episode.reason_class),
            Text(clean(episode.delivery_id), "dim"),
        ]
        if self.addresses:
            cells.append(Text(clean(episode.recipient)))
        return cells

    def _ends_at(self, episode: Episode) -> int:
        return ends_at(episode, self.policies(episode.account, episode.provider))

    def _answer(self, episode: Episode) -> str:
        """Return the receiving server's last answer, or its codes if the provider did not report the text."""
        codes = " ".join(str(code) for code in (episode.smtp_code, episode.enhanced_code) if code)
        return self._shown(episode.reason or codes or "-")

    def _shown(self, text: str) -> str:
        """Return a text as one harmless line; cleaned first, so that nothing invisible hides an address."""
        return clean(text) if self.addresses else without_addresses(clean(text))

    def _hidden(self, text: str | None) -> str | None:
        """Return a text for a program: as it came, or without addresses, even with invisible characters inside."""
        return text if text is None or self.addresses else self._shown(text)


def qshape_rows(episodes: Iterable[Episode], now: int) -> list[Row]:
    """Return how many wait, by destination and age; the total first."""
    return qshape((episode.destination, (now - episode.since) / SECOND) for episode in episodes)


def qshape_lines(rows: Iterable[Row]) -> list[Text]:
    """Return the matrix as Postfix prints it: minutes across, destinations down."""
    table = [["", *COLUMNS], *([clean(row.destination), str(row.total), *map(str, row.counts)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [" ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) for cells in table]
    headings, total, *destinations = lines
    return [Text(headings, "bold"), Text(total, "bold"), *map(Text, destinations)]


def qshape_facts(row: Row) -> dict[str, Any]:
    """Return a row of the matrix for a program: the counts by the upper limit of the age in minutes."""
    counts = dict(zip(COLUMNS[1:], row.counts, strict=True))
    return {"destination": row.destination, "total": row.total, "counts": counts}


def duration_text(micros: int) -> str:
    """Return a length of time in its two largest units; a negative one as zero."""
    seconds = max(micros, 0) // SECOND
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days}d {hours % 24:02}h"
    if hours:
        return f"{hours}h {minutes % 60:02}m"
    return f"{minutes}m {seconds % 60:02}s" if minutes else f"{seconds}s"


def now_us() -> int:
    """Return the time, in microseconds since 1970."""
    return time.time_ns() // 1000
