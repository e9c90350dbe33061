"""``mailstreams dead-letters list|show|replay``: what could not be understood.

A dead letter is named by its origin, ``TOPIC/PARTITION/OFFSET``; where only one
element of a body was bad, ``#INDEX`` follows.
"""

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

import click

from streams import topics
from streams.cli import NOTHING_FOUND, WRONG_USE, Failure, Invocation, json_option, pass_invocation
from streams.cli._kafka import acknowledged, partitions_of, producer, read_to_end, run
from streams.cli._output import clean, json_line, note, plural, progress, time_of_ms
from streams.domain.status import Status, to_micros
from streams.records import DeadLetter, RecordError, decode_dead_letter, decode_deferral, decode_status
from streams.settings import Settings

_ID: Final = re.compile(
    r"(?P<topic>[A-Za-z0-9._-]+)/(?P<partition>\d{1,9})/(?P<offset>\d{1,18})(#(?P<element>\d{1,9}))?"
)


_Kept = TypeVar("_Kept")


@click.group("dead-letters")
def command() -> None:
    """List, show and replay what could not be understood.

    A dead letter is named by its origin: TOPIC/PARTITION/OFFSET, and #INDEX where one element of a body was bad.
    """


@dataclass(frozen=True, slots=True)
class _Origin:
    """Which dead letters are meant: those of a record, or of one of its elements."""

    topic: str
    partition: int
    offset: int
    element: int | None

    def fits(self, letter: DeadLetter) -> bool:
        same = (letter.topic, letter.partition, letter.offset) == (self.topic, self.partition, self.offset)
        return same and self.element in {None, letter.element}


class _OriginType(click.ParamType):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _Origin:
        match = _ID.fullmatch(str(value))
        if match is None:
            self.fail(f"{clean(value)!r} is not TOPIC/PARTITION/OFFSET or TOPIC/PARTITION/OFFSET#INDEX", param, ctx)
        element = None if match["element"] is None else int(match["element"])
        return _Origin(match["topic"], int(match["partition"]), int(match["offset"]), element)


_topic_option = click.option("--topic", metavar="TOPIC", help="Only those that came from this topic.")


@command.command("list")
@_topic_option
@json_option
@pass_invocation
def list_(invocation: Invocation, *, topic: str | None, as_json: bool) -> None:
    """List the dead letters that are kept, oldest first. Exit code 1: there are none."""
    letters = _read(invocation.settings(), lambda letter: topic in {None, letter.topic}, _facts)
    if not letters:
        message = "no dead letters" if topic is None else f"no dead letters from {clean(topic)}"
        raise Failure(message, exit_code=NOTHING_FOUND)
    for letter in letters:
        if as_json:
            json_line(letter)
        else:
            size = f"{plural(letter['size'], 'byte')}{', truncated' if letter['truncated'] else ''}"
            at = time_of_ms(letter["timestamp_ms"])
            click.echo(f"{at}  {letter['id']}  {size}  {clean(letter['reason'])}")
    if not as_json:
        note(plural(len(letters), "dead letter"))


@command.command()
@click.argument("origin", type=_OriginType(), metavar="ID")
@click.option("--body", is_flag=True, help="Write the kept bytes to standard output, exactly, and nothing else.")
@json_option
@pass_invocation
def show(invocation: Invocation, origin: _Origin, *, body: bool, as_json: bool) -> None:
    """Show a dead letter: where it came from, why, its headers and its body."""
    letters = _read(invocation.settings(), origin.fits, _whole)
    if not letters:
        message = f"no dead letter {_text(origin)}; the list: mailstreams dead-letters list"
        raise Failure(message)
    for letter in letters:
        if body:
            click.get_binary_stream("stdout").write(letter.value or b"")
        elif as_json:
            text = None if letter.value is None else letter.value.decode("utf-8", "replace")
            headers = {name: (value or b"").decode("utf-8", "replace") for name, value in letter.headers}
            json_line(_facts(letter) | {"headers": headers, "body": text})
        else:
            _print(letter)


@command.command()
@click.argument("origins", nargs=-1, type=_OriginType(), metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that are kept, also those replayed before.")
@_topic_option
@click.option("--dry-run", is_flag=True, help="Say what would be replayed, and do nothing.")
@json_option
@pass_invocation
@click.pass_context
def replay(
    ctx: click.Context,
    invocation: Invocation,
    origins: Sequence[_Origin],
    *,
    everything: bool,
    topic: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send dead letters to their origin topic again, with their original key and headers.

    Do so after the mistake that caused them is corrected. They stay in the dead letters until their retention ends;
    replaying one twice changes nothing, because an event that was seen before is recognised by its id. A truncated one
    is refused: replay its original with a consumer, or ask the provider for the event again. One of mail.deferrals is
    also refused if something newer is known of its delivery; for that mail.status is read. Exit code 1: nothing to
    replay, or some were refused.
    """
    if bool(origins) == (everything or topic is not None):
        message = "give either the ids of dead letters, or --all, or --topic TOPIC"
        raise Failure(message, exit_code=WRONG_USE)
    settings = invocation.settings()

    def is_meant(letter: DeadLetter) -> bool:
        return topic in {None, letter.topic} and (not origins or any(origin.fits(letter) for origin in origins))

    letters = _read(settings, is_meant, _whole)
    absent = [_text(origin) for origin in origins if not any(origin.fits(letter) for letter in letters)]
    if absent or not letters:
        nothing = "to replay" if topic is None else f"from {clean(topic)} to replay"
        raise Failure(*(f"no dead letter {name}" for name in absent or [nothing]))
    ours = {spec.name for spec in topics.all_topics(settings)}
    refused = {_identity(letter): why for letter in letters if (why := _refusal(letter, ours))}
    said = [letter for letter in letters if letter.topic == topics.DEFERRALS and _identity(letter) not in refused]
    if said:
        now = run(_newest_statuses(settings, {letter.key for letter in said}))
        refused |= {_identity(letter): why for letter in said if (why := _superseded(letter, now))}
    accepted = [letter for letter in letters if _identity(letter) not in refused]
    if not dry_run and accepted:
        run(_send(settings, accepted))
    for letter in letters:
        why = refused.get(_identity(letter))
        if as_json:
            json_line(
                {
                    "id": _name(letter),
                    "sha256": letter.sha256,
                    "replayed": not dry_run and why is None,
                    "refused": why,
                }
            )
        elif why:
            note(f"refused {_name(letter)}: {why}")
        elif dry_run:
            click.echo(f"would replay {_name(letter)}")
    done = "would be replayed" if dry_run else "replayed"
    note(f"{plural(len(accepted), 'dead letter')} {done}, {len(refused)} refused")
    ctx.exit(NOTHING_FOUND if refused else 0)


def _read(
    settings: Settings, is_meant: Callable[[DeadLetter], bool], kept: Callable[[DeadLetter], _Kept]
) -> list[_Kept]:
    """Return the chosen dead letters, oldest first, each once: of each what is to be kept in memory."""
    return run(_read_letters(settings, is_meant, kept))


async def _read_letters(
    settings: Settings, is_meant: Callable[[DeadLetter], bool], kept: Callable[[DeadLetter], _Kept]
) -> list[_Kept]:
    letters: dict[Hashable, tuple[tuple[int | str, ...], _Kept]] = {}
    with progress(f"reading {topics.DEAD_LETTERS}") as tell:
        async for batch in read_to_end(settings, topics.DEAD_LETTERS, tell):
            for record in batch:
                try:
                    letter = decode_dead_letter(record.value, record.headers)
                except RecordError as error:
                    note(f"{record.topic}/{record.partition}/{record.offset} cannot be read: {error}")
                    continue
                if is_meant(letter):
                    letters[_identity(letter)] = ((record.timestamp, *_place(letter)), kept(letter))
    return [letter for _, letter in sorted(letters.values(), key=itemgetter(0))]


def _whole(letter: DeadLetter) -> DeadLetter:
    return letter


def _identity(letter: DeadLetter) -> Hashable:
    """Return what only copies of a letter share: a topic that was created again has the same offsets once more."""
    return _name(letter), letter.timestamp_ms, letter.sha256


def _place(letter: DeadLetter) -> tuple[str, int, int, int]:
    """Return a sort key that orders letters of the same time like their records."""
    return letter.topic, letter.partition, letter.offset, -1 if letter.element is None else letter.element


class _Newest(NamedTuple):
    """The newest status of a delivery. The first three fields order all its statuses."""

    first_received_at: int
    revision: int
    attempts: int
    status: str


async def _newest_statuses(settings: Settings, keys: Collection[bytes | None]) -> dict[bytes | None, _Newest]:
    """Return the newest status of some deliveries; one that is missing has expired."""
    newest: dict[bytes | None, _Newest] = {}
    with progress(f"reading {topics.STATUS}") as tell:
        async for batch in read_to_end(settings, topics.STATUS, tell):
            for record in batch:
                if record.key not in keys:
                    continue
                if not record.value:  # a tombstone: the delivery expired
                    newest.pop(record.key, None)
                    continue
                try:
                    status = decode_status(record.value)
                    began = to_micros(datetime.fromisoformat(status["first_received_at"]))
                    newest[record.key] = _Newest(began, status["revision"], status["attempts"], status["status"])
                except (RecordError, KeyError, TypeError, ValueError):
                    continue  # not the worker's: it writes none like this
    return newest


def _superseded(letter: DeadLetter, newest: Mapping[bytes | None, _Newest]) -> str | None:
    """Return why a replayed record of ``mail.deferrals`` would overwrite something newer; None if it would not.

    The monitor cannot find out: it keeps only open deferrals. A record that opens or renews one must be the newest of
    its delivery; ``track`` writes both topics in one transaction. A record that ends one is true as long as the
    delivery is not deferred now: ``track`` does not report to the monitor what comes after the end, such as an open.
    """
    try:
        said = decode_deferral(letter.value)
    except RecordError as error:
        return f"it is not understood by this version either: {error}"
    now = newest.get(letter.key)
    if said.status is not Status.DEFERRED and (now is None or now.status != Status.DEFERRED):
        return None
    if now is None:
        return "its delivery is gone"
    if said.status is None:
        return "its delivery was forgotten, and has begun again since"
    if (said.first_received_at, said.revision, said.attempts) != now[:3]:
        return f"something newer was said of its delivery, which has revision {now.revision} and {plural(now.attempts, 'attempt')}"
    return None


async def _send(settings: Settings, letters: Sequence[DeadLetter]) -> None:
    for topic in sorted({letter.topic for letter in letters}):
        await partitions_of(settings, topic)  # a missing topic is reported at once, and not created by asking for it
    async with producer(settings) as client:
        waiting = [
            await client.send(letter.topic, letter.value, key=letter.key, headers=list(letter.headers))
            for letter in letters
        ]
        await acknowledged(waiting)


def _refusal(letter: DeadLetter, ours: set[str]) -> str | None:
    """Return why a dead letter cannot be replayed; None if it can."""
    if letter.truncated:
        return f"truncated, {len(letter.value or b'')} of {letter.size} bytes are kept"
    if sha256(letter.value or b"").hexdigest() != letter.sha256:
        return "its bytes do not fit its hash"
    if letter.topic not in ours:
        return f"{letter.topic} is no topic of ours"
    return None


def _name(letter: DeadLetter) -> str:
    element = "" if letter.element is None else f"#{letter.element}"
    return f"{clean(letter.topic)}/{letter.partition}/{letter.offset}{element}"


def _text(origin: _Origin) -> str:
    element = "" if origin.element is None else f"#{origin.element}"
    return f"{origin.topic}/{origin.partition}/{origin.offset}{element}"


def _facts(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": _name(letter),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "element": letter.element,
        "timestamp_ms": letter.timestamp_ms,
        "stage": letter.stage,
        "reason": letter.reason,
        "size": letter.size,
        "sha256": letter.sha256,
        "truncated": letter.truncated,
    }


def _print(letter: DeadLetter) -> None:
    facts = {
        "id": _name(letter),
        "received": time_of_ms(letter.timestamp_ms),
        "stage": letter.stage,
        "reason": letter.reason,
        "size": f"{plural(letter.size, 'byte')}{', truncated' if letter.truncated else ''}",
        "sha256": letter.sha256,
    }
    headers = {f"header {name}": (value or b"").decode("utf-8", "replace") for name, value in letter.headers}
    for name, value in (facts | headers).items():
        click.echo(f"{clean(name)}: {clean(value)}")
    if letter.value is not None:
        click.echo(f"body: {clean(letter.value.decode('utf-8', 'replace'))}")
