"""Shared fixtures: a hub on the loopback interface, and downloads from it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from homespun.data import download_file
from homespun.data import hub as hub_module
from tests.data.downloading import Log
from tests.data.hub import hub

__all__ = ["hub"]


@pytest.fixture
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that a small download has many requests and records."""
    monkeypatch.setattr(hub_module, "BLOCK", 300_000)
    monkeypatch.setattr(download_file, "COMMIT", 100_000)


@pytest.fixture
def log() -> Log:
    return Log()
