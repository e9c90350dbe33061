"""Numbers as options of commands."""

from typing import Any

import click


class Between(click.FloatRange):
    """A number between two others. Click's own range lets ``nan`` pass, which is neither below nor above anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Raises:
            click.BadParameter: it is not a number, or not in the range.
        """
        number = super().convert(value, param, ctx)
        if number != number:  # noqa: PLR0124 - nan alone is not equal to itself
            self.fail(f"{value} is not a number.", param, ctx)
        return number


RATE = Between(min=0.001, max=1_000_000)
"""A number per second."""
SECONDS = Between(min=0, min_open=True, max=10 * 365 * 86_400)
"""At most ten years, so that every moment in them has a date."""
