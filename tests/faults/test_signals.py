"""A signal makes a run finish its step, save and report it; a second stop signal ends the run at once."""

import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.runs import NOTHING, STEPS, Lost, lost
from tests.faults.table import Table

pytestmark = pytest.mark.faults

TITLE = "Signals"
STOP = "SIGINT, SIGTERM, SIGHUP"
DUE = "SIGINT, SIGTERM, SIGHUP after a step with an evaluation and samples due"
TWICE = "SIGINT and SIGTERM twice, in a step that never ends"
SAVE = "SIGUSR1"
EARLY = "SIGINT, SIGTERM, SIGHUP and SIGUSR1 before the first step"

SELDOM = ["--save-interval", 1000]
"""No save by interval, so that all saves come from the signal."""


def signalled(
    place: Path,
    folder: str,
    *numbers: signal.Signals,
    wrong: list[str],
    more: Sequence[object] = (),
) -> int:
    """Exit status of a run that gets a signal after its third step, and each further one after it reacts."""
    process = runs.start(
        place, "train", *runs.RUN, *SELDOM, *more, "--checkpoint-dir", folder, wrong=wrong
    )
    log = runs.log_of(place)
    runs.until(process, lambda: "\nstep  3" in log.read_text())
    if any("endless" in word for word in wrong):
        runs.until(process, lambda: "for ever" in log.read_text())
    for number in numbers:
        process.send_signal(number)
        runs.until(process, lambda: "Finishing this step" in log.read_text())
    return process.wait(timeout=runs.LONGEST)


def stopped(place: Path, number: signal.Signals, *wrong: str) -> Lost:
    """Losses of a stopped and resumed run; all of its steps if it saved nothing."""
    status = signalled(place, "stopped", number, wrong=list(wrong))
    saved = runs.newest_step(place / "stopped")
    if status != 128 + number or saved is None:
        return Lost(STEPS, 0)
    runs.train(place, "stopped", *SELDOM)
    found = lost(place / "control", place / "stopped")
    shutil.rmtree(place / "stopped")
    return found


def test_stopped_and_resumed(place: Path, table: Table) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        assert stopped(place, number) == NOTHING
    table.row(
        STOP,
        tries=3,
        lost=NOTHING,
        result="step finished and saved, exit status 130, 143, 129; equal to control",
    )


def test_a_stop_would_show(place: Path, table: Table) -> None:
    assert stopped(place, signal.SIGTERM, "signals-end-at-once") != NOTHING
    table.red(STOP, "signals-end-at-once")


ALWAYS: list[object] = [
    "--max-steps", 12, "--eval-interval", 1, "--sample-interval", 1,
    "--sample-prompts", "The cat", "A dog", "She",
]  # fmt: skip
"""An evaluation and samples after each step, so that any stop comes where they are due."""


def stopped_where_checks_are_due(place: Path, number: signal.Signals, *wrong: str) -> Lost:
    """Losses of a run that is stopped and resumed."""
    shutil.rmtree(place / "due", ignore_errors=True)
    status = signalled(place, "due", number, wrong=list(wrong), more=ALWAYS)
    assert status == 128 + number
    runs.train(place, "due", *SELDOM, *ALWAYS, wrong=list(wrong))
    return lost(place / "always", place / "due")


def test_a_stop_loses_no_evaluation_and_no_sample(place: Path, table: Table) -> None:
    runs.train(place, "always", *SELDOM, *ALWAYS)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        assert stopped_where_checks_are_due(place, number) == NOTHING
    table.row(
        DUE,
        tries=len(numbers),
        lost=NOTHING,
        result="stopped without them; the resumed run does them first; equal to control",
    )


def test_a_lost_sample_would_show(place: Path, table: Table) -> None:
    sabotage = "due-checks-forgotten"
    runs.train(place, "always", *SELDOM, *ALWAYS)
    assert stopped_where_checks_are_due(place, signal.SIGTERM, sabotage) != NOTHING
    table.red(DUE, sabotage)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(place: Path, number: signal.Signals, table: Table) -> None:
    assert signalled(place, "twice", number, number, wrong=["endless-step=4"]) == 128 + number
    assert not runs.leftovers(place / "twice")
    runs.train(place, "twice")
    assert lost(place / "control", place / "twice") == NOTHING
    table.row(
        TWICE, tries=2, lost=NOTHING, result="exit status 130, 143; resumed, equal to control"
    )


def test_a_second_signal_would_show(place: Path, table: Table) -> None:
    process = runs.start(
        place, "train", *runs.RUN, "--checkpoint-dir", "deaf",
        wrong=["endless-step=4", "second-signal-ignored"],
    )  # fmt: skip
    log = runs.log_of(place)
    runs.until(process, lambda: "for ever" in log.read_text())
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        runs.until(process, lambda: "Finishing this step" in log.read_text())
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=runs.LONGEST)
    table.red(TWICE, "second-signal-ignored")


def saved_on_demand(place: Path, *wrong: str) -> tuple[int, int, Lost]:
    """Exit status, number of checkpoints beside the last one, and losses, of a run that is asked to save."""
    status = signalled(place, "asked", signal.SIGUSR1, wrong=list(wrong))
    extra = len(list((place / "asked").glob("checkpoint_step_*.state.npz"))) - 1
    return status, extra, lost(place / "control", place / "asked")


def test_a_save_on_demand(place: Path, table: Table) -> None:
    assert saved_on_demand(place) == (0, 1, NOTHING)
    table.row(
        SAVE, tries=1, lost=NOTHING, result="saved after the step, and went on to the control's end"
    )


def test_a_save_on_demand_would_show(place: Path, table: Table) -> None:
    assert saved_on_demand(place, "save-on-demand-forgotten")[1] == 0
    table.red(SAVE, "save-on-demand-forgotten")


def signalled_early(place: Path, number: signal.Signals, *wrong: str) -> tuple[int, str]:
    """Exit status and output of a run that gets a signal during its preparations."""
    process = runs.start(
        place, "train", *runs.RUN, *SELDOM, "--checkpoint-dir", "early",
        wrong=["slow-set-up=go", *wrong],
    )  # fmt: skip
    log = runs.log_of(place)
    runs.until(process, lambda: "for ever" in log.read_text())
    process.send_signal(number)
    (place / "go").touch()
    return process.wait(timeout=runs.LONGEST), log.read_text()


def test_a_signal_before_the_first_step(place: Path, table: Table) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        status, output = signalled_early(place, number)
        assert (status, output.splitlines()[-1]) == (128 + number, "Stopped before the first step.")
        assert "Traceback" not in output
        (place / "go").unlink()
    assert signalled_early(place, signal.SIGUSR1)[0] == 0
    assert (place / "early" / "checkpoint_step_1.npz").exists()
    assert lost(place / "control", place / "early") == NOTHING
    table.row(
        EARLY,
        tries=4,
        lost=NOTHING,
        result="one line, exit status 130, 143, 129; SIGUSR1: saved after the first step, equal to control",
    )


def test_a_signal_before_the_first_step_would_show(place: Path, table: Table) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        assert signalled_early(place, number, "signals-end-at-once")[0] == -number
        (place / "go").unlink()
    table.red(EARLY, "signals-end-at-once")
