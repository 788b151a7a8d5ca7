"""Fixtures: the control run that all others are compared with, the tools to cause faults, and the table of results."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from homespun.stories import stories
from tests.faults import runs
from tests.faults.table import Table, save

NEEDED = {
    "strace": (
        ["strace", "-o", "/dev/null", "true"],
        "strace (apt install strace) and the right to use it",
    ),
    "small_disk": (
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"],
        "a file system of one's own (unshare -rm mount), as Linux has it",
    ),
}
"""Tools that the fixtures of these names need: a command that tries the tool, and a description for the message."""

TABLES = pytest.StashKey[dict[str, Table]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table",
        action="store_true",
        help="keep what was found in tests/faults/results.json",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLES] = {}


@pytest.hookimpl(trylast=True)  # after the selection by -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need a tool this machine lacks, and print a line for each such tool."""
    for name, (trial, what) in NEEDED.items():
        asking = [item for item in items if name in getattr(item, "fixturenames", ())]
        if asking and not _works(trial):
            print(f"Without {what}, {len(asking)} of the tests are left out.")
            config.hook.pytest_deselected(items=asking)
            items[:] = [item for item in items if item not in asking]
            config.option.write_table = False


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    if config.getoption("--write-table", default=False) and exitstatus == 0:
        save(config.stash[TABLES])


def _works(trial: list[str]) -> bool:
    return (
        bool(shutil.which(trial[0])) and not subprocess.run(trial, capture_output=True).returncode
    )


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """The table that collects the results of this module's tests."""
    table = request.config.stash[TABLES].setdefault(request.module.TITLE, Table())
    began = time.monotonic()
    yield table
    table.seconds += time.monotonic() - began


@pytest.fixture
def strace(tmp_path: Path) -> list[str]:
    """Prefix of a command that traces another command and its threads into the file `trace`."""
    return ["strace", "-f", "-qq", "-y", "-o", str(tmp_path / "trace")]


@pytest.fixture
def small_disk() -> list[str]:
    """Prefix of a command that may mount its own disks, which vanish when it ends."""
    return ["unshare", "-rm"]


@pytest.fixture(scope="session")
def control_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small text, its tokenizer, and an undisturbed run in `control`, for all tests to copy."""
    place = tmp_path_factory.mktemp("place")
    text = "\n<|endoftext|>\n".join(stories(12, seed=3))
    (place / "stories.txt").write_text(text, encoding="utf-8")
    (place / ".homespun.json").write_text('{"data": "stories.txt"}')
    runs.run(place, "tokenizer", "--vocab-size", 400)
    runs.train(place, "control")
    return place


@pytest.fixture
def place(control_place: Path, tmp_path: Path) -> Path:
    """The working folder of one test, with the control run in `control`."""
    return runs.copied(control_place, tmp_path / "place")
