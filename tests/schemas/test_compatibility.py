"""A published schema may only grow; and the check that says so refuses what it should."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.schemas.compatibility import problems

SCHEMAS = Path(__file__).parents[2] / "schemas"
NAMES = sorted(path.name for path in SCHEMAS.glob("*.schema.json"))

BASELINE: dict[str, Any] = {
    "title": "A letter",
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "blue", None]},
        "count": {"type": ["integer", "null"], "minimum": 0},
        "name": {"type": "string", "pattern": "^a"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "extra": {"type": "object", "additionalProperties": {"type": "string"}},
        "inner": {"type": "object", "properties": {"one": {"type": "string"}}, "required": ["one"]},
    },
    "required": ["color", "count"],
    "allOf": [{"if": {"properties": {"count": {"const": 1}}}, "then": {"required": ["name"]}}],
}
Change = Callable[[dict[str, Any]], object]


def after(change: Change) -> list[str]:
    current = deepcopy(BASELINE)
    change(current)
    return list(problems(BASELINE, current))


@pytest.mark.parametrize(
    "change",
    [
        lambda schema: schema["properties"].update(new={"type": "string"}),
        lambda schema: schema["properties"]["inner"]["properties"].update(two={"type": "string"}),
        lambda schema: schema["properties"]["color"]["enum"].append("green"),
        lambda schema: schema.update(title="Another word", description="More words"),
        lambda schema: schema["properties"]["name"].update({"description": "More words", "examples": ["abc"]}),
        lambda schema: schema["required"].reverse(),
    ],
    ids=["property", "inner property", "value", "title", "description", "order"],
)
def test_what_only_adds_or_rewords_passes(change: Change) -> None:
    assert after(change) == []


REFUSED: list[tuple[Change, str]] = [
    (lambda schema: schema["properties"].pop("name"), "$.properties.name: removed"),
    (lambda schema: schema["properties"]["inner"]["properties"].pop("one"),
     "$.properties.inner.properties.one: removed"),
    (lambda schema: schema["required"].append("name"), "$.required: changed"),
    (lambda schema: schema["required"].remove("count"), "$.required: changed"),
    (lambda schema: schema["properties"]["inner"].pop("required"), "$.properties.inner.required: removed"),
    (lambda schema: schema["properties"]["tags"].update(required=["x"]), "$.properties.tags.required: added"),
    (lambda schema: schema["properties"]["count"].update(type="integer"), "$.properties.count.type: changed"),
    (lambda schema: schema["properties"]["name"].update(type=["string", "null"]),
     "$.properties.name.type: changed"),
    (lambda schema: schema["properties"]["color"]["enum"].remove("red"),
     "$.properties.color.enum: 'red' removed"),
    (lambda schema: schema["properties"]["color"]["enum"].remove(None), "$.properties.color.enum: None removed"),
    (lambda schema: schema["properties"]["color"].pop("enum"), "$.properties.color.enum: removed"),
    (lambda schema: schema["properties"]["name"].update(enum=["a"]), "$.properties.name.enum: added"),
    (lambda schema: schema["properties"]["name"].update(pattern="^b"), "$.properties.name.pattern: changed"),
    (lambda schema: schema["properties"]["name"].update(maxLength=3), "$.properties.name.maxLength: added"),
    (lambda schema: schema["properties"]["count"].update(minimum=1), "$.properties.count.minimum: changed"),
    (lambda schema: schema["properties"]["tags"]["items"].update(type="integer"),
     "$.properties.tags.items.type: changed"),
    (lambda schema: schema["properties"]["extra"].update(additionalProperties=False),
     "$.properties.extra.additionalProperties: changed"),
    (lambda schema: schema.update(additionalProperties=False), "$.additionalProperties: added"),
    (lambda schema: schema["allOf"].append({"required": ["name"]}), "$.allOf: changed"),
    (lambda schema: schema["allOf"].pop(), "$.allOf: changed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "problem"), REFUSED, ids=[f"{number} {problem}" for number, (_, problem) in enumerate(REFUSED)]
)
def test_what_takes_away_or_narrows_or_widens_a_promise_is_refused(change: Change, problem: str) -> None:
    assert after(change) == [problem]


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_only_adds_to_its_published_one(name: str) -> None:
    baseline, current = (json.loads((folder / name).read_text()) for folder in (SCHEMAS / "baseline", SCHEMAS))
    assert list(problems(baseline, current)) == []


def test_every_published_schema_is_still_there() -> None:
    assert {path.name for path in (SCHEMAS / "baseline").glob("*.json")} <= set(NAMES)
    assert NAMES
