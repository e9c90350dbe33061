"""What a change of a published schema may do: only add.

Records written before the change stay in the topics for weeks, and readers
written before it go on reading. So against the published one (``baseline``):

- a property may be added, if it is not required;
- a value may be added to an ``enum`` (readers treat an unknown one as the
  schema's text says);
- titles, descriptions, comments and examples may be reworded;
- nothing else may change.
"""

from collections.abc import Callable, Iterator
from typing import Any

WORDS = frozenset({"title", "description", "$comment", "examples"})

Schema = dict[str, Any]


def problems(baseline: Any, current: Any, place: str = "$") -> Iterator[str]:
    """Yield what the current schema does that it may not, each with its place."""
    if not isinstance(baseline, dict) or not isinstance(current, dict):
        yield from _same(baseline, current, place)
        return
    for keyword in sorted((baseline.keys() | current.keys()) - WORDS):
        there = f"{place}.{keyword}"
        if keyword not in current:
            yield f"{there}: removed"
        elif keyword not in baseline:
            yield f"{there}: added"
        else:
            yield from _COMPARED.get(keyword, _same)(baseline[keyword], current[keyword], there)


def _same(baseline: Any, current: Any, place: str) -> Iterator[str]:
    if baseline != current:
        yield f"{place}: changed"


def _properties(baseline: Schema, current: Schema, place: str) -> Iterator[str]:
    for name, schema in baseline.items():
        if name not in current:
            yield f"{place}.{name}: removed"
        else:
            yield from problems(schema, current[name], f"{place}.{name}")


def _values(baseline: list[Any], current: list[Any], place: str) -> Iterator[str]:
    for value in baseline:
        if value not in current:
            yield f"{place}: {value!r} removed"


def _required(baseline: list[str], current: list[str], place: str) -> Iterator[str]:
    yield from _same(sorted(baseline), sorted(current), place)


_COMPARED: dict[str, Callable[[Any, Any, str], Iterator[str]]] = {
    "properties": _properties,
    "enum": _values,
    "required": _required,
    "items": problems,
    "additionalProperties": problems,
}
