"""What is said to run in production is what is locked; ``make sbom`` itself is tried by ``make e2e``."""

from typing import Any

import pytest

import streams
from deploy.sbom import problems

LOCK = """\
# made by a tool
One.Name==1.0 \\
    --hash=sha256:00
    # via two
two==2.1 ; python_version >= '3.11' \\
    --hash=sha256:01
three==3 ; sys_platform == 'nowhere' \\
    --hash=sha256:02
"""


def component(name: str, version: str) -> dict[str, Any]:
    return {"name": name, "version": version, "licenses": [{"license": {"id": "MIT"}}]}


def document(*components: dict[str, Any], version: str = streams.__version__) -> dict[str, Any]:
    root = {"bom-ref": "root", "name": "mailstreams", "version": version}
    return {
        "metadata": {"component": root},
        "components": list(components),
        "dependencies": [{"ref": "root", "dependsOn": ["one-name==1.0"]}],
    }


ONE, TWO = component("one_name", "1.0"), component("two", "2.1")


def test_what_names_the_locked_packages_of_this_platform_is_right() -> None:
    assert problems(document(ONE, TWO), LOCK) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (document(ONE), "two==2.1 is locked and not named"),
        (document(ONE, TWO, component("three", "3")), "three==3 is named and not locked"),
        (document(ONE, component("two", "2.2")), "two==2.2 is named, 2.1 is locked"),
        (document(ONE, {**TWO, "licenses": []}), "two has no licence"),
        (document(ONE, TWO, version="0"), f"it is not about mailstreams {streams.__version__} and what it depends on"),
        (document(ONE, TWO) | {"dependencies": []}, f"it is not about mailstreams {streams.__version__} and"),
    ],
)
def test_whatever_differs_from_the_lock_is_said(wrong: dict[str, Any], said: str) -> None:
    (problem,) = problems(wrong, LOCK)

    assert problem.startswith(said)
