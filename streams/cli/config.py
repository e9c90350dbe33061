"""``mailstreams config show|reference``."""

from collections.abc import Mapping
from typing import Any

import click

from streams import codecs
from streams.cli import Invocation, json_option, pass_invocation
from streams.cli._output import json_line, note
from streams.settings import SettingsError, shown
from streams.settings import reference as settings_reference


@click.group("config")
def command() -> None:
    """Show the settings in force, or all that can be set."""


@command.command()
@json_option
@pass_invocation
def show(invocation: Invocation, *, as_json: bool) -> None:
    """Print the settings in force, from file, environment and defaults; secrets are masked.

    Names of files that are not there are noted on standard error: the ingress would not start here.
    """
    settings = invocation.settings()
    try:
        settings.ingress.check_files()
    except SettingsError as error:
        note(f"the ingress cannot start here: {error}")
    if as_json:
        json_line(shown(settings))
        return
    for section, values in shown(settings).items():
        if section == "accounts":
            for account, contents in values.items():
                _print_table(f"accounts.{codecs.encode(account).decode()}", contents)
        else:
            _print_table(section, values)


@command.command()
def reference() -> None:
    """Print every setting with its unit, default and reason, as Markdown (docs/configuration.md)."""
    click.echo(settings_reference(), nl=False)


def _print_table(name: str, values: Mapping[str, Any]) -> None:
    """Print a TOML table; a JSON string, number or list of strings is also valid TOML."""
    click.echo(f"[{name}]")
    for key, value in values.items():
        if not isinstance(value, Mapping):
            click.echo(f"# {key} is not set" if value is None else f"{key} = {codecs.encode(value).decode()}")
    click.echo()
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            _print_table(f"{name}.{codecs.encode(key).decode()}", value)
