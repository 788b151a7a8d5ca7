"""A working folder with a text."""

from pathlib import Path

import pytest

from tests.preparing.files import text_in


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a text in `web`."""
    monkeypatch.chdir(tmp_path)
    text_in(tmp_path / "web")
    return tmp_path
