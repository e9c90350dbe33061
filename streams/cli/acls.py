"""``mailstreams acls``: the rights that each part needs in Kafka, as commands for the cluster's administrator."""

import click

from streams.cli import WRONG_USE, Failure, Invocation, json_option, pass_invocation
from streams.cli._output import json_line

ROLES = ("ingress", "sender", "worker", "history", "subscriber", "support", "operator")


@click.command("acls")
@click.argument("role", required=False, type=click.Choice(ROLES))
@click.option("--user", metavar="NAME", help="The role's user in Kafka. Default: mailstreams-ROLE.")
@click.option(
    "--command-config",
    default="admin.properties",
    show_default=True,
    metavar="FILE",
    help="How kafka-acls.sh logs in: the administrator's file.",
)
@click.option("--table", "as_table", is_flag=True, help="Print a table in Markdown.")
@json_option
@pass_invocation
def command(
    invocation: Invocation, role: str | None, *, user: str | None, command_config: str, as_table: bool, as_json: bool
) -> None:
    """Print the kafka-acls.sh commands that give each part its rights in Kafka, and no more.

    They follow the settings: some names contain worker.app_id. The broker is not asked. Give ROLE for one part only;
    an application that subscribes has a user of its own, so: mailstreams acls subscriber --user NAME.
    """
    settings = invocation.settings()
    from streams import acls  # noqa: PLC0415 - Faust and SQLAlchemy take a while to import: not for --help

    if user is not None and role is None:
        message = "--user is the user of one role: name the role"
        raise Failure(message, exit_code=WRONG_USE)
    chosen = [one for one in acls.roles(settings, user) if role in {None, one.name}]
    if as_table:
        click.echo(acls.table(chosen))
        return
    for one in chosen:
        made = acls.commands(one, servers=settings.kafka.bootstrap_servers, command_config=command_config)
        if as_json:
            json_line({"role": one.name, "user": one.user, "commands": made})
        else:
            click.echo("\n".join([f"# {one.name}: {one.description}".replace("`", ""), *made]))
