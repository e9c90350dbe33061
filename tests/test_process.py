"""What the processes have in common: which problems of the topics keep one from starting."""

import logging
from typing import Any

import pytest

from streams import process, topics
from streams.settings import Settings
from streams.topics import Problem


async def test_what_makes_less_safe_is_logged_and_only_what_forbids_keeps_a_process_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def found(*_: Any) -> list[Problem]:
        return [Problem("it is missing"), Problem("it is short", forbids=False)]

    monkeypatch.setattr(topics, "check", found)
    caplog.set_level(logging.WARNING)

    problems = await process.topic_problems(Settings())

    assert problems == ["it is missing"]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", "it is short")]
