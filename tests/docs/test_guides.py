"""A package's opening text that says where to begin names the modules there are: all of them, and no others."""

import importlib
import pkgutil
import re

import pytest

GUIDES = ("streams", "streams.agents", "streams.history", "streams.kafka", "streams.simulate")


def named(text: str) -> set[str]:
    """Return the names of modules in a guide: plain words in double backticks."""
    return set(re.findall(r"``([a-z][a-z_]*)``", text))


@pytest.mark.parametrize("package", GUIDES)
def test_a_guide_names_every_module_of_its_package_and_no_other(package: str) -> None:
    module = importlib.import_module(package)
    there_are = {found.name for found in pkgutil.iter_modules(module.__path__) if not found.name.startswith("_")}
    assert module.__doc__ is not None
    assert named(module.__doc__) == there_are


def test_what_is_no_plain_word_is_no_module() -> None:
    assert named("``lanes`` and ``dead_letters``, ``BatchedApp.serve``, ``mail.events``, ``tests/contracts``") == {
        "lanes",
        "dead_letters",
    }
