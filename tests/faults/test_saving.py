"""After a kill or an error at any system call of a save, a valid checkpoint is left, and saving again works."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import UserError
from tests.checkpoint.kill_points import best, found
from tests.faults import runs, saving, traces
from tests.faults.runs import NOTHING, SAVE_INTERVAL, Lost, lost
from tests.faults.table import Table

pytestmark = pytest.mark.faults

TITLE = "Saving"
KILLED = "killed inside a save, at every write, fsync, rename and unlink"
POWER = "power loss: the order of write, fsync, rename, fsync of the folder"
NEW_FOLDERS = "power loss: the name of each new folder, of the run, its parents, its tokens, and an earlier run"
REFUSED = "disk full or broken at every write, fsync and rename of a save"
FULL = "disk really full in the middle of a run (a small tmpfs)"
FULL_RUN = "disk full at every write of a real run"

Inject = Callable[[str, int], str]


def kill(call: str, k: int) -> str:
    return f"inject={call}:signal=KILL:when={k}"


def refuse(call: str, k: int) -> str:
    return f"inject={call}:error={'ENOSPC' if call == 'write' else 'EIO'}:when={k}"


class Outcome(NamedTuple):
    tries: int
    lost: Lost
    """`steps` counts folders without a valid checkpoint of before or after, `files` counts wrong or leftover files."""


def at_every_call(
    root: Path, strace: list[str], inject: Inject, calls: tuple[str, ...], *sabotage: str
) -> Outcome:
    """Save in each scenario, once per system call in its trace, with a kill or an error injected at that call."""
    start = root / "start"
    saving.prepare(start)
    tries, lost = 0, [0, 0]
    for scenario in ("next", "same", "best"):
        folder = root / "folder"
        how = [*strace, "-e", f"trace={','.join(traces.CALLS)}"]
        assert _save(how, scenario, shutil.copytree(start, folder), sabotage).returncode == 0
        shutil.rmtree(folder)
        numbers = traces.count(root / "trace")
        for call in calls:
            for k in range(1, numbers[call] + 1):
                shutil.copytree(start, folder)
                done = _save([*how, "-e", inject(call, k)], scenario, folder, sabotage)
                tries += 1
                steps, files = _loss(done, scenario, folder)
                lost = [lost[0] + steps, lost[1] + files]
                shutil.rmtree(folder)
    assert tries > 10
    return Outcome(tries, Lost(*lost))


def _save(
    how: list[str], scenario: str, folder: Path, sabotage: tuple[str, ...]
) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-B", "-m", "tests.faults.saving", scenario, str(folder), *sabotage]
    return subprocess.run(
        [*how, *program], cwd=runs.ROOT, capture_output=True, text=True, check=False
    )


def _loss(done: "subprocess.CompletedProcess[str]", scenario: str, folder: Path) -> Lost:
    """Faults in the folder after a save with a kill or an error, and after saving once more."""
    path = CheckpointFolder(folder, keep=1)
    steps = files = 0
    if done.returncode == -signal.SIGKILL:
        pass
    elif done.returncode == 2:
        files += len(runs.leftovers(folder)) + (done.stderr.count("\n") != 1)
    else:  # it ignored the error
        steps += 1
    later = {"next": 2, "same": 1}.get(scenario, 1)
    version = 1.0 if scenario == "best" else 2.0
    now = found(path)
    steps += (now["step"], now["versions"]) not in ((1, [1.0]), (later, [version]))
    try:
        files += best(path) not in ([1.0], [2.0] if scenario == "best" else [1.0])
        saving.act(scenario, folder)
        again = found(path)
        files += (again["step"], again["versions"]) != (later, [version])
        files += len(runs.leftovers(folder))
    except UserError:
        files += 1
    return Lost(steps, files)


def test_killed_at_every_call(tmp_path: Path, strace: list[str], table: Table) -> None:
    outcome = at_every_call(tmp_path, strace, kill, traces.CALLS)
    assert outcome.lost == NOTHING
    table.row(
        KILLED,
        tries=outcome.tries,
        lost=outcome.lost,
        result="the checkpoint of before or of after",
    )


@pytest.mark.parametrize(
    "sabotage", ["old-checkpoint-dropped-first", "committed-before-the-weights", "written-in-place"]
)
def test_a_kill_would_show(tmp_path: Path, strace: list[str], table: Table, sabotage: str) -> None:
    outcome = at_every_call(tmp_path, strace, kill, traces.CALLS, sabotage)
    assert outcome.lost != NOTHING
    table.red(KILLED, sabotage)


def test_refused_at_every_call(tmp_path: Path, strace: list[str], table: Table) -> None:
    outcome = at_every_call(tmp_path, strace, refuse, ("write", "fsync", "rename"))
    assert outcome.lost == NOTHING
    table.row(
        REFUSED,
        tries=outcome.tries,
        lost=outcome.lost,
        result="one line, exit status 2, nothing left over",
    )


@pytest.mark.parametrize("sabotage", ["failed-saves-are-silent", "temporary-files-left"])
def test_a_refusal_would_show(
    tmp_path: Path, strace: list[str], table: Table, sabotage: str
) -> None:
    outcome = at_every_call(tmp_path, strace, refuse, ("fsync", "rename"), sabotage)
    assert outcome.lost != NOTHING
    table.red(REFUSED, sabotage)


# Power loss


def broken_promises(place: Path, strace: list[str], *sabotage: str) -> list[str]:
    """Violations of the order of writes in a real run with three saves and two saves of best weights."""
    folder = place / "traced"
    options = ["--max-steps", 3 * SAVE_INTERVAL, "--keep", 1, "--eval-interval", SAVE_INTERVAL]
    under = [*strace, "-e", f"trace={','.join(traces.CALLS)}"]
    runs.train(place, folder.name, *options, under=under, wrong=list(sabotage))
    trace = place.parent / "trace"
    found = traces.violations(trace, folder)
    on_disk = traces.records_on_disk(trace, folder)
    assert len(on_disk) == 3
    newest = CheckpointFolder(folder).open(3 * SAVE_INTERVAL)
    if newest.state.header["metrics_length"] > on_disk[newest.step]:
        found.append("the checkpoint speaks of records that are not on the disk")
    return found


def test_power_loss(place: Path, strace: list[str], table: Table) -> None:
    assert broken_promises(place, strace) == []
    table.row(POWER, tries=3, lost=NOTHING, result="asserted from a trace of a real run")


@pytest.mark.parametrize(
    "sabotage",
    [
        "no-fsync-of-files",
        "no-fsync-of-folders",
        "renamed-before-it-is-whole",
        "records-not-flushed",
    ],
)
def test_a_wrong_order_would_show(
    place: Path, strace: list[str], table: Table, sabotage: str
) -> None:
    assert broken_promises(place, strace, sabotage) != []
    table.red(POWER, sabotage)


def unflushed_folders(place: Path, strace: list[str], *sabotage: str) -> tuple[int, list[str]]:
    """The folders that two runs made or renamed, the second over the first, and those with no later fsync of their
    parent before the next file got its name in them."""
    shutil.rmtree(place / "data")
    made, unflushed = 0, []
    for _ in range(2):
        under = [*strace, "-e", "trace=mkdir,rename,fsync"]
        runs.run(
            place, "train", *runs.RUN, "--max-steps", 2, "--checkpoint-dir", "runs/a/b",
            under=under, wrong=list(sabotage),
        )  # fmt: skip
        waiting: dict[Path, str] = {}
        for line in (place.parent / "trace").read_text().splitlines():
            names = [place / name for name in re.findall(r'"([^"]*)"', line)]
            if re.search(r"fsync\(", line) and (match := re.search(r"<([^>]*)>", line)):
                waiting.pop(Path(match[1]), None)
            elif " mkdir(" in line or (" rename(" in line and names[-1].is_dir()):
                if names[-1].is_relative_to(place) and line.endswith("= 0"):
                    made += 1
                    waiting[names[-1].parent] = line
            elif " rename(" in line and names[-1].parent.parent in waiting:
                unflushed.append(waiting[names[-1].parent.parent])
        unflushed += waiting.values()
    return made, unflushed


def test_the_names_of_new_folders_are_flushed(place: Path, strace: list[str], table: Table) -> None:
    made, unflushed = unflushed_folders(place, strace)
    assert unflushed == []
    assert made >= 7
    table.row(
        NEW_FOLDERS, tries=made, lost=NOTHING, result="asserted from the traces of two real runs"
    )


def test_an_unflushed_folder_would_show(place: Path, strace: list[str], table: Table) -> None:
    assert unflushed_folders(place, strace, "new-folders-not-flushed")[1] != []
    table.red(NEW_FOLDERS, "new-folders-not-flushed")


# Disk full


def filled_under_way(place: Path, small_disk: list[str], *sabotage: str) -> dict[str, Any]:
    """Result of a run whose disk fills up after its first save, and which is resumed once there is space again."""
    quiet = ["--log-interval", 1000]  # as in `small_disk`
    runs.run(place, "train", *runs.RUN, *quiet, "--checkpoint-dir", "control")
    program = [sys.executable, "-m", "tests.faults.small_disk", str(place), *sabotage]
    done = subprocess.run(
        [*small_disk, *program], cwd=runs.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_disk_that_fills_up(place: Path, small_disk: list[str], table: Table) -> None:
    result = filled_under_way(place, small_disk)
    assert (result["status"], result["left"]) == (2, [])
    assert result["said"].startswith("error: ")
    assert result["kept"] >= SAVE_INTERVAL
    assert Lost(*result["lost"]) == NOTHING
    table.row(
        FULL,
        tries=1,
        lost=NOTHING,
        result="one line, exit status 2, old checkpoint kept; with room again equal to control",
    )


def test_a_full_disk_would_show(place: Path, small_disk: list[str], table: Table) -> None:
    assert filled_under_way(place, small_disk, "failed-saves-are-silent")["status"] == 0
    table.red(FULL, "failed-saves-are-silent")


def test_a_write_of_a_run_that_finds_no_room(place: Path, strace: list[str], table: Table) -> None:
    """Fail about two dozen of the writes of a run, to any file and to the terminal, one per try."""
    short = ["--max-steps", 2 * SAVE_INTERVAL, "--keep", 1, "--eval-interval", SAVE_INTERVAL]
    under = [*strace, "-e", "trace=write"]
    runs.train(place, "short", *short, under=under)
    n = traces.count(place.parent / "trace")["write"]
    tried = range(1, n + 1, max(1, n // 24))
    for k in tried:
        full = [*under, "-e", f"inject=write:error=ENOSPC:when={k}"]
        process = runs.start(
            place, "train", *runs.RUN, *short, "--checkpoint-dir", "full", under=full
        )
        status = process.wait(timeout=runs.LONGEST)
        assert "Traceback" not in runs.log_of(place).read_text(), k
        # 0: a later save succeeded; 141: the failed write was to the terminal.
        assert status in (0, 2, 141), k
        runs.train(place, "full", *short)
        assert lost(place / "short", place / "full") == NOTHING, k
        shutil.rmtree(place / "full")
    table.row(FULL_RUN, tries=len(tried), lost=NOTHING, result="loud; resumed, equal to control")
