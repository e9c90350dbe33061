"""The name of an account, as an option of commands that write in its name."""

import re
from typing import Any, Final

import click

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class _Account(click.ParamType):
    """A name that an account can have, in a URL and in the settings: an empty one makes every record a dead letter."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if _NAME.fullmatch(str(value)) is None:
            self.fail("an account's name has letters, digits, . _ - only, 1 to 64 of them", param, ctx)
        return str(value)


ACCOUNT: Final = _Account()
