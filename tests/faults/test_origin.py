"""A run names the commit that it was of."""

import subprocess
from pathlib import Path

import pytest

from tests.faults.origin import commit


def git(tree: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(tree), *identity, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_commit_is_named_with_its_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "First")
    of = git(tmp_path, "rev-parse", "--short", "HEAD")

    clean = commit(tmp_path)
    (tmp_path / "file").write_text("two")

    assert clean == of
    assert commit(tmp_path) == f"{of}+changes"


def test_where_there_is_no_git_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(tmp_path) == ""

    monkeypatch.setenv("PATH", str(tmp_path))

    assert commit() == ""
