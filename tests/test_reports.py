"""A failed test is named, whatever is collected meanwhile."""

import subprocess
import sys
from pathlib import Path

FAILING = """
import ast, gc

class Parses:
    def __init__(self):
        self.me = self

    def __del__(self):
        ast.parse("a + b")
        Parses()  # for the next collection

def test_fails():
    gc.set_threshold(50, 1, 1)
    Parses()
    assert 1 == 2
"""


def test_a_failure_is_told_also_if_what_is_collected_meanwhile_parses_source(tmp_path: Path) -> None:
    (tmp_path / "test_failing.py").write_text(FAILING)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.reports",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
    ]

    ran = subprocess.run(
        [*command, str(tmp_path)], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "test_failing.py::test_fails" in ran.stdout
