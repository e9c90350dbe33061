"""``mailstreams resume``: resume a source partition that stopped because too many of its records were bad."""

import secrets
from datetime import UTC, datetime

import click
from aiokafka import TopicPartition

from streams import records, topics
from streams.cli import NOTHING_FOUND, WRONG_USE, Failure, Invocation, json_option, pass_invocation
from streams.cli._kafka import acknowledged, committed, partitions_of, producer, run
from streams.cli._output import clean, json_line, note
from streams.kafka.positions import Position
from streams.settings import Settings


@click.command("resume")
@click.argument("topic", required=False)
@click.argument("partition", required=False, type=click.IntRange(min=0))
@click.option(
    "--dead-letter-through",
    "through",
    type=click.IntRange(min=0),
    metavar="OFFSET",
    help="Bad records up to this offset go to the dead letters without stopping the partition again.",
)
@json_option
@pass_invocation
def command(
    invocation: Invocation, topic: str | None, partition: int | None, *, through: int | None, as_json: bool
) -> None:
    """Let a stopped source partition go on; without arguments, list those that are stopped.

    A partition stops when too many of its records cannot be understood, because then our code or the provider's
    format is wrong, not the records. Correct that first: nothing is lost meanwhile. Then resume, and the records are
    tried again from where it stopped. For records that can never be understood, use --dead-letter-through.
    """
    settings = invocation.settings()
    if topic is None and through is not None:
        message = "--dead-letter-through needs TOPIC and PARTITION"
        raise Failure(message, exit_code=WRONG_USE)
    if topic is None:
        _list(settings, as_json=as_json)
        return
    if partition is None:
        message = "give TOPIC and PARTITION, or neither for the list of what is stopped"
        raise Failure(message, exit_code=WRONG_USE)
    run(_resume(settings, topic, partition, through))
    if as_json:
        json_line({"resumed": topic, "partition": partition, "dead_letter_through": through})
    else:
        note(f"{topic}/{partition}: told to go on; its worker does so within seconds, or once one runs")


def _list(settings: Settings, *, as_json: bool) -> None:
    stopped = run(_stopped(settings))
    for (topic, partition), position in sorted(stopped.items()):
        reason = position.poison.stopped if position.poison is not None else None
        if as_json:
            json_line({"topic": topic, "partition": partition, "offset": position.offset, "reason": reason})
        else:
            click.echo(f"{clean(topic)}/{partition} is stopped at offset {position.offset}: {clean(reason)}")
            click.echo(f"  mailstreams resume {clean(topic)} {partition}")
    if not stopped and not as_json:
        note("nothing is stopped")


async def _stopped(settings: Settings) -> dict[tuple[str, int], Position]:
    """Return the stopped partitions: the worker says so in the metadata of the offset that it commits."""
    stopped = {}
    for (topic, partition), at in (await committed(settings)).items():
        position = Position.of_committed(at.offset, at.metadata)
        if position.poison is not None and position.poison.stopped is not None:
            stopped[topic, partition] = position
    return stopped


async def _resume(settings: Settings, topic: str, partition: int, through: int | None) -> None:
    stopped = await _stopped(settings)
    if (topic, partition) not in stopped:
        message = f"{topic}/{partition} is not stopped; the list: mailstreams resume"
        raise Failure(message, exit_code=NOTHING_FOUND)
    position = stopped[topic, partition]
    assert position.poison is not None  # it is stopped
    if through is not None and through < position.offset:
        message = f"offset {through} is past: {topic}/{partition} is stopped at offset {position.offset}"
        raise Failure(message, exit_code=WRONG_USE)
    await partitions_of(settings, topics.CONTROL)
    async with producer(settings) as client:
        where = TopicPartition(topics.CONTROL, 0)
        key = f"{topic}/{partition}".encode()
        value = records.encode_resume(
            secrets.token_hex(8),
            datetime.now(UTC),
            through,
            app_id=settings.worker.app_id,
            offset=position.poison.stopped_at,  # its lane compares this, even if a person moved the offset
        )
        await acknowledged([client.send_and_wait(where.topic, value, key=key, partition=where.partition)])
