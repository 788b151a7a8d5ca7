"""Shared fixtures: a small text, a working folder, and the command line as a process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homespun.stories import stories

Command = Callable[..., "subprocess.Popen[str]"]

# A shell that starts pytest in the background may make it ignore signals, and all its child processes with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-pictures",
        action="store_true",
        help="with the tests in a browser: write the pictures of the guide, from runs of some minutes",
    )
    parser.addoption(
        "--soak-seconds",
        default="30",
        help="duration of the load on the server, and on the studio, in tests/server/test_soak.py",
    )


@pytest.fixture(scope="session")
def story_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 stories in one .txt file."""
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(stories(400, seed=3)), encoding="utf-8")
    return path


def new_workplace(folder: Path, story_file: Path) -> None:
    """Make the stories the data of a folder."""
    shutil.copy(story_file, folder / "stories.txt")
    (folder / ".homespun.json").write_text('{"data": "stories.txt"}')


def command(folder: Path) -> Command:
    """Starts `homespun ...` in a folder."""

    def start(*arguments: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "homespun", *map(str, arguments)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    return start


@pytest.fixture
def workplace(tmp_path: Path, story_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the stories as its data."""
    monkeypatch.chdir(tmp_path)
    new_workplace(tmp_path, story_file)
    return tmp_path


@pytest.fixture
def homespun(workplace: Path) -> Command:
    """Starts `homespun ...` in the workplace."""
    return command(workplace)


def finished(process: "subprocess.Popen[str]", status: int = 0) -> str:
    """Wait for a process, check its exit status, and return its output."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def records(folder: str | Path) -> list[dict[str, Any]]:
    """The records in the metrics file of a run."""
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
