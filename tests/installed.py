"""Programs that some tests look through: without them a person's `make test` leaves those out, CI does not."""

import os
import shutil
from pathlib import Path

import pytest


def absent(path: str) -> bool:
    """Tell whether a test may be left out because ``path`` is not installed: in CI it may not."""
    return not Path(path).exists() and not os.environ.get("CI")


def need(program: str, package: str) -> None:
    """Skip the test unless ``program`` is installed; in CI that is a failure, as it has to install everything."""
    if shutil.which(program) is None:
        missing = f"{program} is missing: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
