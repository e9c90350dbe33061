"""``mailstreams deferrals``: what is deferred now, since when, why, and until when the provider tries.

It reads the changelog of the table ``open-deferrals``: the newest row of a key is
an open deferral, a tombstone a closed one. So it shows what the monitor knows, and
does so while no worker runs.
"""

import re
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from streams import topics
from streams.cli import WRONG_USE, Failure, Invocation, json_option, pass_invocation
from streams.cli._kafka import read_and_follow, read_to_end, run
from streams.cli._open_deferrals import (
    LEVEL_STYLES,
    Filter,
    OpenDeferrals,
    View,
    now_us,
    qshape_facts,
    qshape_lines,
    qshape_rows,
)
from streams.cli._output import clean, console, json_line, note, progress, time_text
from streams.domain.deferrals import Episode, Level, level_of
from streams.domain.destinations import DESTINATIONS
from streams.domain.status import SECOND, from_micros
from streams.policies import policies_of
from streams.settings import Settings

REDRAW_S: Final = 2.0
SHOWN: Final = 50
"""Rows of a table, unless ``--limit`` says otherwise."""
_NOT_TOLD: Final = "none"
_FRAME_LINES: Final = 5
"""Lines of a screen that are not rows: two of head, the headings, how many are not shown, and a spare one."""

_DURATION: Final = re.compile(r"(?P<number>\d{1,6}(\.\d{1,3})?)\s*(?P<unit>s|m|min|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


class _Duration(click.ParamType):
    """Microseconds, from a number with its unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{clean(value)!r} is no duration such as 90s, 30m, 2h or 1d", param, ctx)
        return int(float(match["number"]) * _SECONDS[match["unit"]] * SECOND)


@click.command("deferrals")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="Only what this provider sends.")
@click.option("--account", "accounts", multiple=True, metavar="NAME", help="Only this account's.")
@click.option(
    "--destination",
    "destinations",
    multiple=True,
    type=click.Choice(DESTINATIONS),
    metavar="NAME",
    help=f"Only to this mailbox provider: {', '.join(DESTINATIONS)}.",
)
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.Choice([_NOT_TOLD, *(level.value for level in LEVEL_STYLES)]),
    help="Only those of which this is the highest alert told.",
)
@click.option("--older-than", type=_Duration(), metavar="AGE", help="Only those older than this: 90s, 30m, 2h, 1d.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help=f"Show the N oldest; a table shows {SHOWN}.")
@click.option("--qshape", "as_qshape", is_flag=True, help="Count by destination and age in minutes, as Postfix does.")
@click.option("--addresses", is_flag=True, help="Show recipients, and addresses in answers.")
@click.option("--watch", is_flag=True, help=f"Redraw every {REDRAW_S:g} s; where no terminal is, print what changes.")
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    *,
    providers: Sequence[str],
    accounts: Sequence[str],
    destinations: Sequence[str],
    levels: Sequence[str],
    older_than: int | None,
    limit: int | None,
    as_qshape: bool,
    addresses: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """Show what is deferred now, the oldest first: since when, why, and until when the provider tries.

    A filter that is given more than once lets either pass. The level is the highest alert published on
    mail.deferral-alerts. Addresses are hidden unless --addresses is given. Exit code 0 also when nothing is deferred.
    """
    settings = invocation.settings()
    chosen = Filter(
        providers=frozenset(providers),
        accounts=frozenset(accounts),
        destinations=frozenset(destinations),
        levels=frozenset(None if level == _NOT_TOLD else Level(level) for level in levels),
        older_than=older_than or 0,
    )
    view = View(out=console(), policies=policies_of(settings), addresses=addresses)
    if not watch:
        _show(run(_read(settings)), view, chosen, limit, as_qshape=as_qshape, as_json=as_json)
    elif view.out.is_terminal and not view.out.is_dumb_terminal and not as_json:
        run(_redraw(settings, view, chosen, limit or SHOWN, as_qshape=as_qshape))
    elif as_qshape:
        message = "--watch --qshape redraws a table: it needs a terminal, and no --json"
        raise Failure(message, exit_code=WRONG_USE)
    else:
        run(_print_changes(settings, view, chosen, as_json=as_json))


async def _read(settings: Settings) -> OpenDeferrals:
    """Return what is open now."""
    topic = _changelog(settings)
    found = OpenDeferrals()
    with progress(f"reading {topic}") as tell:
        async for batch in read_to_end(settings, topic, tell):
            found.take(batch)
    found.settle()
    return found


def _show(
    found: OpenDeferrals, view: View, chosen: Filter, limit: int | None, *, as_qshape: bool, as_json: bool
) -> None:
    now = now_us()
    episodes = found.fitting(chosen, now)
    shown = episodes
    if as_qshape:
        rows = qshape_rows(episodes, now)
        if as_json:
            for row in rows:
                json_line(qshape_facts(row))
        elif episodes:
            _print(view, qshape_lines(rows))
    elif as_json:
        shown = episodes[:limit]
        for episode in shown:
            json_line(view.facts(episode, now))
    elif episodes:
        shown = episodes[: limit or SHOWN]
        _print(view, view.table(shown, now))
    for remark in found.remarks(len(episodes)):
        note(remark)
    if len(shown) < len(episodes):
        note(f"{len(episodes) - len(shown)} more, all younger; see --limit")


def _print(view: View, lines: Sequence[Text]) -> None:
    for line in lines:
        view.out.print(line)


def _changelog(settings: Settings) -> str:
    return topics.changelog_topic(settings.worker.app_id, topics.OPEN_DEFERRALS_TABLE)


# --- watching --------------------------------------------------------------------------------------------------------

_Follower = AsyncGenerator[Sequence[Any] | None, None]


async def _follow(settings: Settings) -> tuple[OpenDeferrals, _Follower]:
    """Return what is open now, and what will be written to the changelog from here on; whoever gets that closes it.

    Else it is closed together with what it uses, when an output that is gone has ended the command: with a traceback.
    """
    topic = _changelog(settings)
    found = OpenDeferrals()
    with progress(f"reading {topic}") as tell:
        follower = read_and_follow(settings, topic, tell)
        async for batch in follower:
            if batch is None:
                break
            found.take(batch)
    found.settle()
    return found, follower


async def _redraw(settings: Settings, view: View, chosen: Filter, limit: int, *, as_qshape: bool) -> None:
    """Redraw the table every ``REDRAW_S`` on a screen of its own, until Ctrl-C."""
    found, follower = await _follow(settings)
    async with aclosing(follower):
        with Live(console=view.out, screen=True, auto_refresh=False) as live:
            drawn = float("-inf")
            async for batch in follower:
                found.take(batch or ())
                if time.monotonic() - drawn >= REDRAW_S:
                    found.settle()
                    live.update(_screen(found, view, chosen, limit, as_qshape=as_qshape), refresh=True)
                    drawn = time.monotonic()


def _screen(found: OpenDeferrals, view: View, chosen: Filter, limit: int, *, as_qshape: bool) -> Group:
    now = now_us()
    episodes = found.fitting(chosen, now)
    head = "  ".join([*found.remarks(len(episodes)), f"{time_text(from_micros(now))} UTC", "Ctrl-C ends"])
    lines = [Text(head, "dim"), Text()]
    if as_qshape and episodes:
        lines += qshape_lines(qshape_rows(episodes, now))
    elif episodes:
        shown = episodes[: min(limit, max(view.out.height - _FRAME_LINES, 1))]
        lines += view.table(shown, now)
        if len(shown) < len(episodes):
            lines.append(Text(f"{len(episodes) - len(shown)} more, all younger", "dim"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


async def _print_changes(settings: Settings, view: View, chosen: Filter, *, as_json: bool) -> None:
    """Print what is open, and then each change in a line of its own, until Ctrl-C."""

    def tell(change: str, episode: Episode) -> None:
        now = now_us()
        if as_json:
            json_line({"change": change} | view.facts(episode, now))
        else:
            view.out.print(view.change_line(change, episode, now))
            view.out.file.flush()

    found, follower = await _follow(settings)
    async with aclosing(follower):
        changes = _Changes(chosen)
        episodes = found.fitting(chosen, now_us())
        for episode in episodes:
            changes.fitting.add(episode.delivery_id)
            tell("open", episode)
        for remark in found.remarks(len(episodes)):
            note(remark)
        async for batch in follower:
            for before, after in _looked_at(found, batch, chosen):
                if change := changes.between(before, after):
                    tell(*change)


def _looked_at(
    found: OpenDeferrals, batch: Sequence[Any] | None, chosen: Filter
) -> Iterator[tuple[Episode | None, Episode | None]]:
    """Yield what a batch changed, record by record; at a pause, deferrals that may now be old enough to show."""
    for record in batch or ():
        found.take([record])
        yield from found.settle()
    if batch is None and chosen.older_than:
        for episode in found.fitting(chosen, now_us()):
            yield episode, episode


@dataclass(frozen=True, slots=True)
class _Changes:
    """Names each change by one word.

    ``opened`` and ``closed``; ``raised``, ``escalated`` and ``overdue`` when that alert was published; ``deferred``
    once more; ``changed`` in something else. An open deferral that begins to fit the filters ``came``; one that no
    longer fits ``left``.
    """

    chosen: Filter
    fitting: set[str] = field(default_factory=set)
    """The delivery ids of the deferrals that fit now."""

    def between(self, before: Episode | None, after: Episode | None) -> tuple[str, Episode] | None:
        """Return the word and the episode; None if no change is to be shown."""
        if after is not None and self.chosen.fits(after, now_us()):
            if after.delivery_id not in self.fitting:
                self.fitting.add(after.delivery_id)
                return ("opened" if before is None else "came"), after
            word = "" if before is None else _word(before, after)
            return (word, after) if word else None
        gone = after or before
        if gone is None or gone.delivery_id not in self.fitting:
            return None
        self.fitting.discard(gone.delivery_id)
        return ("closed" if after is None else "left"), gone


def _word(before: Episode, after: Episode) -> str:
    told = level_of(after.told)
    if before.number != after.number:  # closed and opened again before it was seen
        return "opened"
    if told is not None and told is not level_of(before.told):
        return told
    if after.attempts > before.attempts:
        return "deferred"
    return "changed" if before != after else ""
