"""``mailstreams lookup``: what became of a message, and what to do now.

The rule: the question is read from the options (``_lookup_question``), the topics are
searched for it (``_lookup_search``), and what was found (``_lookup_found``) is printed, for
people (``_lookup_text``) or for programs.
"""

import time
from collections.abc import Sequence
from typing import Final

import click

from streams.cli import NOTHING_FOUND, Failure, Invocation, json_option, pass_invocation
from streams.cli._kafka import run
from streams.cli._lookup_found import Found
from streams.cli._lookup_question import Question
from streams.cli._lookup_search import search
from streams.cli._lookup_text import print_delivery
from streams.cli._output import clean, console, json_line, note, time_text
from streams.domain.status import SECOND, from_micros
from streams.settings import Settings

_QUIET_S: Final = 900.0
"""Without any event for so long it is said since when: whether no mail was sent or no worker runs, is not known here."""


@click.command("lookup")
@click.argument("text", required=False)
@click.option(
    "--reference",
    metavar="TEXT",
    help="The application's reference, such as the invoice's number; in any case of letters.",
)
@click.option(
    "--recipient",
    metavar="ADDRESS",
    help="The recipient's address, in any case of letters; or as in: Ann Berg <ann@customer.example>.",
)
@click.option(
    "--message-id", metavar="ID", help="The provider's id of the message, in any form that docs/sends.md names."
)
@click.option("--delivery-id", metavar="ID", help="Our id of one message to one recipient.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Show the newest N; --json prints all."
)
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    text: str | None,
    *,
    reference: str | None,
    recipient: str | None,
    message_id: str | None,
    delivery_id: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Say what became of a message, and what to do now: status, advice and timeline.

    TEXT alone is tried as reference, recipient, message id and delivery id. Options given together must all fit.
    The timeline goes back as far as mail.events is kept (topics.events_retention_days), and holds the alerts that
    were published for the delivery while it was deferred. While it is deferred, the advice is that of its newest
    alert; there is none if the status lacks a final word that an event has. Times are UTC. Exit code 1: nothing found.
    """
    chosen = {"reference": reference, "recipient": recipient, "message_id": message_id, "delivery_id": delivery_id}
    question = Question.of(text, {name: value for name, value in chosen.items() if value is not None})
    settings = invocation.settings()
    found, newest = run(search(settings, question))
    how_new = "there is no event of any mail" if newest is None else _received(newest)
    if not found:
        lines = [f"nothing found for {clean(question)}"]
        lines.append(
            "an event shows up once the worker has read it (mailstreams worker), unless its partition is stopped "
            "(mailstreams resume) or it could not be understood (mailstreams dead-letters list); "
            f"the timeline goes back {settings.topics.events_retention_days:g} days, "
            f"the status {settings.delivery.expire_after_days:g} days; {how_new}"
        )
        raise Failure(*lines, exit_code=NOTHING_FOUND)
    if as_json:
        _print_json(found)
    else:
        _print(found, limit, settings)
    if newest is None or time.time() - newest / SECOND > _QUIET_S:
        note(f"{how_new}: what was reported since is not here if no worker runs (mailstreams worker)")


def _print_json(found: Sequence[Found]) -> None:
    for delivery in found:
        json_line(
            {
                "delivery_id": delivery.delivery_id,
                "status": delivery.status,
                "no_status": delivery.no_status,
                "status_is_behind": delivery.status_is_behind,
                "advice": delivery.advice(),
                "timeline": delivery.timeline(),
                "alerts": delivery.told(),
            }
        )


def _print(found: Sequence[Found], limit: int, settings: Settings) -> None:
    out = console()
    for number, delivery in enumerate(found[-limit:]):
        if number:
            out.print()
        print_delivery(out, delivery, settings)
    if len(found) > limit:
        note(f"{len(found) - limit} older not shown; see --limit")


def _received(newest: int) -> str:
    return f"the newest event of all mail was received at {time_text(from_micros(newest))}"
