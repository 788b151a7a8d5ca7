"""Runs whose standard streams are closed, full or of an encoding that lacks characters; each is stopped and resumed."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.runs import NOTHING, STEPS, Lost, lost
from tests.faults.table import Table
from tests.faults.test_signals import SELDOM

pytestmark = pytest.mark.faults

TITLE = "Output"
STREAMS = "standard streams closed, on a full disk, or in ASCII; a SIGTERM, and a resumed run"

CLOSED = "exec <&- >&- 2>&-"
FULL = "exec >/dev/full 2>&1"
ASCII = "export PYTHONIOENCODING=ascii:strict"
FOLDER = "strëams"
"""The run shows this name."""


def under(streams: str) -> list[str]:
    """Prefix of a command with other standard streams."""
    return ["sh", "-c", f'{streams}; exec "$@"', "sh"]


def with_streams(place: Path, streams: str, *wrong: str) -> Lost:
    """Losses of a run that is stopped and resumed with these streams; all of its steps if it saved nothing."""
    folder = place / FOLDER
    how = {"under": under(streams), "wrong": list(wrong)}
    process = runs.start(place, "train", *runs.RUN, *SELDOM, "--checkpoint-dir", folder, **how)
    records = folder / "metrics.jsonl"
    runs.until(process, lambda: records.exists() and records.read_bytes().count(b"\n") >= 3)
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=runs.LONGEST)
    saved = runs.newest_step(folder)
    if status != 128 + signal.SIGTERM or saved is None:
        return Lost(STEPS, 0)
    resumed = runs.start(
        place, "train", "--resume", *SELDOM, "--checkpoint-dir", folder, under=under(streams)
    )
    assert resumed.wait(timeout=runs.LONGEST) == 0
    found = lost(place / "control", folder)
    shutil.rmtree(folder)
    return found


def test_any_streams(place: Path, table: Table) -> None:
    for streams in (CLOSED, FULL, ASCII):
        assert with_streams(place, streams) == NOTHING
    table.row(
        STREAMS, tries=3, lost=NOTHING, result="saved, exit status 143; resumed, equal to control"
    )


@pytest.mark.parametrize(
    ("streams", "sabotage"),
    [
        (CLOSED, "signals-answered-with-print"),
        (FULL, "failed-output-ends-the-run"),
        (ASCII, "characters-not-escaped"),
    ],
)
def test_other_streams_would_show(place: Path, table: Table, streams: str, sabotage: str) -> None:
    assert with_streams(place, streams, sabotage) != NOTHING
    table.red(STREAMS, sabotage)
