"""What a run was of: the first line that the faults and the soak print, so that a figure names its commit."""

import os
import subprocess
from pathlib import Path

from deploy.local import ROOT


def first_line(seed: int, kafka: str) -> str:
    """Return what tells this run from others."""
    of = commit()
    return f"seed={seed} kafka={kafka} load={os.getloadavg()[0]:.1f}" + (f" commit={of}" if of else "")


def commit(tree: Path = ROOT) -> str:
    """Return the short hash of the commit that is checked out, "+changes" behind it where files differ from it.

    Where there is no git, or no commit: an empty text.
    """
    command = ["git", "-C", str(tree), "describe", "--always", "--exclude=*", "--dirty=+changes"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
