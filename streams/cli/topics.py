"""``mailstreams topics create|check``."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import click

from streams import topics
from streams.cli import NOTHING_FOUND, Invocation, json_option, pass_invocation
from streams.cli._kafka import run
from streams.cli._output import json_line, note, plural
from streams.settings import Settings

_HEARD_S: Final = 5.0
"""Until each broker has heard of a new topic: the one that is asked may be another than that which showed it before."""
_RETRY_S: Final = 0.2


@click.group("topics")
def command() -> None:
    """Create the topics, or check that they fit."""


@command.command()
@json_option
@pass_invocation
@click.pass_context
def create(ctx: click.Context, invocation: Invocation, *, as_json: bool) -> None:
    """Create the topics that are missing, then check all of them.

    Doing it again does no harm: a topic that is there is left as it is. Exit code 1 if one does not fit so that no
    worker would start; of one that only makes less safe than the settings say, it is said.
    """
    settings = invocation.settings()
    created = run(topics.create(settings))
    for spec in created:
        if as_json:
            json_line({"created": spec.name, "partitions": spec.partitions, "config": dict(spec.config)})
        else:
            click.echo(f"created {spec.name} ({plural(spec.partitions, 'partition')}): {spec.description}")
    problems = run(_checked(settings, patience_s=_HEARD_S if created else 0.0))
    _tell(ctx, settings, problems, as_json=as_json, fails=lambda problem: problem.forbids)


@command.command()
@json_option
@pass_invocation
@click.pass_context
def check(ctx: click.Context, invocation: Invocation, *, as_json: bool) -> None:
    """Check that every topic is there and fits; says which command mends it. Exit code 1 if not.

    It asks each broker that leads a partition of theirs, too: exit code 3 if one does not answer, or refuses us, and if a
    partition has no leader.
    """
    settings = invocation.settings()
    _tell(ctx, settings, run(topics.check(settings, answering=True)), as_json=as_json, fails=lambda _: True)


async def _checked(settings: Settings, patience_s: float) -> list[topics.Problem]:
    """Return what does not fit; look again for so long while that keeps a process from starting."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    problems = await topics.check(settings)
    while loop.time() < deadline and any(problem.forbids for problem in problems):
        await asyncio.sleep(_RETRY_S)
        problems = await topics.check(settings)
    return problems


def _tell(
    ctx: click.Context,
    settings: Settings,
    problems: Sequence[topics.Problem],
    *,
    as_json: bool,
    fails: Callable[[topics.Problem], bool],
) -> None:
    for problem in problems:
        if as_json:
            json_line({"problem": problem.text, "forbids_start": problem.forbids})
        else:
            click.echo(problem.text)
    if problems:
        note(f"{plural(len(problems), 'problem')}")
        ctx.exit(NOTHING_FOUND if any(map(fails, problems)) else 0)
    note(f"{plural(len(topics.all_topics(settings)), 'topic')}, all fit")
