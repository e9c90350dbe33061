"""The ground of the benchmark."""

import os
from pathlib import Path
from typing import Any

import pytest

from bench.ground import size_of


def test_a_deleted_topic_that_is_still_on_the_disk_is_not_counted(tmp_path: Path) -> None:
    for folder, size in (
        ("mail.events-0", 3),
        ("mail.events-12", 40),
        ("mail.events-0.0f3c-delete", 500),
        ("mail.events-old-0", 6_000),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "00000000000000000000.log").write_bytes(b"x" * size)
    (tmp_path / "mail.events-0" / "00000000000000000000.index").write_bytes(b"x" * 70_000)

    assert size_of(tmp_path, "mail.events") == 43


def test_a_deleted_topic_that_vanishes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("mail.events-0", "mail.events-0.0f3c-delete"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "00000000000000000000.log").write_bytes(b"xyz")
    scandir = os.scandir

    def vanishing(path: Any) -> Any:
        if str(path).endswith("-delete"):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert size_of(tmp_path, "mail.events") == 3
