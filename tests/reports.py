"""No failure without its name: what CPython 3.11 would make of the report of a failed test.

It cannot parse source while it parses source ("AST constructor recursion depth mismatch"). pytest parses a failed test's
source to show it; if a forgotten future is collected just then, its traceback is logged, which parses as well. Then the
whole run ends with an internal error that does not say what failed. So no garbage is collected meanwhile.
"""

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the outcome of a test into words."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
