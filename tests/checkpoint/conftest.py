"""Shared fixture: the folder of a run, locked by the test."""

from pathlib import Path
from typing import Any

import pytest

from homespun.checkpoint.folder import CheckpointFolder


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with folder.lock():
        yield folder
