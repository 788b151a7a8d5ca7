"""Steps with gradients that are not finite, two runs in one folder, and several faults in one run."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from homespun.checkpoint.folder import CheckpointFolder
from homespun.verify import verify
from tests.faults import runs, traces
from tests.faults.runs import NOTHING, SAVE_INTERVAL, STEPS, Lost, lost
from tests.faults.table import Table
from tests.faults.test_damage import EVERYWHERE, flip
from tests.test_resume import kept

pytestmark = pytest.mark.faults

TITLE = "Accidents of a run"
ONE_NAN = "NaN in the gradients of one batch"
MANY_NANS = "NaN in the gradients of every batch from some step on"
TWO_RUNS = "two runs in one folder; a folder whose run was killed"
RUINED = (
    "an applied step that ruins the weights, with --keep 1, saving every 5 steps and every step"
)
ONE_AFTER_THE_OTHER = (
    "two resumed runs, the first suspended between its choice of a checkpoint and its first step"
)
OTHER_EVALUATION = "a run continued with other --eval-tokens"
AT_ONCE = "a NaN, a corrupt shard, a full disk and a SIGTERM in one run"

NAN_STEP = 7


def batches(place: Path) -> dict[int, str]:
    """The fingerprint of each step's batch."""
    return {
        record["step"]: record["batch"] for record in kept(place / "control") if "batch" in record
    }


def arrays(folder: Path, step: int) -> dict[str, str]:
    checkpoint = CheckpointFolder(folder).open(step)
    both = checkpoint.weights.arrays | checkpoint.state.arrays
    return {name: info.sha256 for name, info in both.items()}


def moved_by_a_nan(place: Path, *wrong: str) -> int:
    """Number of arrays (weights and moments) changed by a step with a NaN gradient, which is saved all the same."""
    nan = f"nan-in-batch={batches(place)[NAN_STEP]}"
    every_step = ["--save-interval", 1, "--keep", STEPS, "--max-steps", NAN_STEP + 2]
    runs.train(place, "nan", *every_step, wrong=[nan, "refused-steps-saved", *wrong])
    before, after = (arrays(place / "nan", step) for step in (NAN_STEP - 1, NAN_STEP))
    return sum(before[name] != after[name] for name in before)


def test_a_nan_changes_nothing_and_is_counted(place: Path, table: Table) -> None:
    assert moved_by_a_nan(place) == 0
    refused = {
        record["step"]: record["refused"] for record in kept(place / "nan") if "refused" in record
    }
    assert refused == {step: int(step >= NAN_STEP) for step in range(1, NAN_STEP + 3)}
    assert arrays(place / "nan", NAN_STEP + 1) != arrays(place / "nan", NAN_STEP)
    table.row(
        ONE_NAN,
        tries=1,
        lost=NOTHING,
        result="refused and counted; weights and moments as before, bit for bit",
    )


def test_a_nan_would_show(place: Path, table: Table) -> None:
    assert moved_by_a_nan(place, "not-finite-but-applied") > 0
    table.red(ONE_NAN, "not-finite-but-applied")


def ends_by_itself(place: Path, *wrong: str) -> tuple[bool, str]:
    """Whether a run with NaNs in every step after `NAN_STEP` ends with an error, and its output."""
    fingerprints = ",".join(batch for step, batch in batches(place).items() if step > NAN_STEP)
    process = runs.start(
        place, "train", "--resume", "auto", *runs.RUN, "--checkpoint-dir", "nans",
        wrong=[f"nan-in-batch={fingerprints}", *wrong],
    )  # fmt: skip
    return process.wait(timeout=runs.LONGEST) == 2, runs.log_of(place).read_text()


def test_nans_without_end(place: Path, table: Table) -> None:
    ended, output = ends_by_itself(place)
    assert ended
    assert "gradients were not" in output.splitlines()[-1]
    assert runs.newest_step(place / "nans")
    assert all("whole" in line for line in verify(place / "nans"))
    runs.train(place, "nans")  # it resumes once the batches are finite
    assert runs.newest_step(place / "nans") == STEPS
    table.row(
        MANY_NANS, tries=1, lost=NOTHING, result="ended, cause named; last good checkpoint whole"
    )


def test_nans_without_end_would_show(place: Path, table: Table) -> None:
    assert not ends_by_itself(place, "refused-steps-not-counted")[0]
    table.red(MANY_NANS, "refused-steps-not-counted")


def second_run(place: Path, *wrong: str) -> tuple[int, str]:
    """Exit status and output of a second run in a folder in use. The first run is killed afterwards."""
    first = runs.start(
        place, "train", *runs.RUN, "--checkpoint-dir", "shared", wrong=["endless-step=4", *wrong]
    )
    log = runs.log_of(place)
    runs.until(first, lambda: "for ever" in log.read_text())
    other = runs.copied(place, place.parent / "other", without="shared")
    folder = ["--checkpoint-dir", place / "shared"]
    second = runs.start(other, "train", "--resume", "auto", *runs.RUN, *folder, wrong=wrong)
    status = second.wait(timeout=runs.LONGEST)
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=runs.LONGEST)
    return status, f"{first.pid}: {runs.log_of(other).read_text()}"


def test_two_runs_in_one_folder(place: Path, table: Table) -> None:
    status, said = second_run(place)
    pid = said.partition(":")[0]
    assert status == 2
    assert f"in use by process {pid} " in said
    runs.train(place, "shared")  # the lock of a killed run is ignored
    assert lost(place / "control", place / "shared") == NOTHING
    table.row(
        TWO_RUNS,
        tries=2,
        lost=NOTHING,
        result="the second is refused and told who; then it takes over",
    )


def test_two_runs_in_one_folder_would_show(place: Path, table: Table) -> None:
    assert second_run(place, "lock-not-taken")[0] == 0
    table.red(TWO_RUNS, "lock-not-taken")


RUIN_STEP = 12


def way_back(place: Path, interval: int, *wrong: str) -> str | None:
    """The advised flag with which a run gets out of a standstill; None if there is none, or it does not work.

    The weights are ruined by a step between two evaluations.
    """
    folder = f"ruined-{interval}"
    pace = ["--save-interval", interval, "--keep", 1, "--checkpoint-dir", folder]
    ruined = [f"ruined-in-step={RUIN_STEP}", *wrong]
    output = runs.run(place, "train", *runs.RUN, *pace, wrong=ruined, status=2)
    advice = re.search(r"(--resume(?: \d+)?) (--learning-rate \S+)", " ".join(output.split()))
    if not advice:
        return None
    flags = f"{advice[1]} {advice[2]}".split()
    process = runs.start(place, "train", *flags, "--checkpoint-dir", folder, wrong=wrong)
    works = process.wait(timeout=runs.LONGEST) == 0 and runs.newest_step(place / folder) == STEPS
    return advice[1] if works else None


def test_ruined_weights_replace_nothing(place: Path, table: Table) -> None:
    assert way_back(place, SAVE_INTERVAL) == "--resume"
    assert way_back(place, 1) == f"--resume {RUIN_STEP - 1}"
    table.row(
        RUINED,
        tries=2,
        lost=NOTHING,
        result="nothing is saved after a refused step; the advised flag goes back to usable weights, and the run ends",
    )


@pytest.mark.parametrize(
    ("sabotage", "interval"), [("refused-steps-saved", 5), ("newest-checkpoint-alone-kept", 1)]
)
def test_ruined_weights_would_show(place: Path, table: Table, sabotage: str, interval: int) -> None:
    assert way_back(place, interval, sabotage) is None
    table.red(RUINED, sabotage)


def overtaken(place: Path, *wrong: str) -> tuple[int | None, Lost]:
    """A second run resumes while the first one is suspended in its set-up, which then continues.

    Returns:
        The exit status of the second run, and the losses after both have ended.
    """
    runs.train(place, "shared", wrong=[f"die-in-step={2 * SAVE_INTERVAL + 2}"], status=-9)
    other = runs.copied(place, place.parent / "other")
    resume = ["train", "--resume", "--checkpoint-dir", place / "shared"]
    first = runs.start(place, *resume, wrong=[*wrong, "stopped-in-set-up"])
    runs.until(first, lambda: "set-up begins" in runs.log_of(place).read_text())
    second = runs.start(other, *resume, wrong=wrong)
    status = second.wait(timeout=runs.LONGEST)
    first.send_signal(signal.SIGCONT)
    first.wait(timeout=runs.LONGEST)
    return status, lost(place / "control", place / "shared")


def test_a_run_that_is_suspended_in_its_set_up_is_not_overtaken(place: Path, table: Table) -> None:
    status, found = overtaken(place)
    assert (status, found) == (2, NOTHING)
    table.row(
        ONE_AFTER_THE_OTHER,
        tries=1,
        lost=found,
        result="the second is refused, because the folder is locked before a checkpoint is chosen",
    )


def test_an_overtaken_run_would_show(place: Path, table: Table) -> None:
    assert overtaken(place, "lock-taken-after-the-set-up")[0] == 0
    table.red(ONE_AFTER_THE_OTHER, "lock-taken-after-the-set-up")


def best_after_another_evaluation(place: Path, *wrong: str) -> tuple[float, float | None]:
    """A run is continued with the evaluation of the control.

    Returns:
        The loss of its best weights according to the control, and according to its own next checkpoint.
    """
    shutil.rmtree(place / "few", ignore_errors=True)
    runs.train(place, "few", "--eval-tokens", 16)
    again = ["train", "--resume", "--checkpoint-dir", "few", "--eval-tokens", 300]
    output = runs.run(
        place, *again, "--max-steps", STEPS + 1, "--eval-interval", 1000, wrong=list(wrong)
    )
    assert wrong or "from here on evaluations differ" in output
    losses = {
        record["step"]: record["val_loss"]
        for record in kept(place / "control")
        if "val_loss" in record
    }
    measured = [record for record in kept(place / "few") if "eval_tokens" in record]
    step = measured[0]["best_step"] if measured else max(losses)
    list(verify(place / "few"))
    newest = CheckpointFolder(place / "few").open(STEPS + 1)
    last = kept(place / "few")[-1]["val_loss"]
    return min(losses[step], last), newest.state.header["position"]["guard"]["best_val_loss"]


def test_another_evaluation_is_another_yardstick(place: Path, table: Table) -> None:
    expected, stated = best_after_another_evaluation(place)
    assert expected == stated
    table.row(
        OTHER_EVALUATION,
        tries=1,
        lost=NOTHING,
        result="the best weights are measured again; later losses are compared with that",
    )


def test_another_evaluation_would_show(place: Path, table: Table) -> None:
    sabotage = "best-weights-not-measured-again"
    expected, stated = best_after_another_evaluation(place, sabotage)
    assert expected != stated
    table.red(OTHER_EVALUATION, sabotage)


# Several faults in one run


def all_at_once(place: Path, strace: list[str], *wrong: str) -> tuple[list[int], Lost]:
    """A run with a NaN that ends on a full disk, is resumed with a corrupt shard, stopped, and resumed again.

    Returns:
        The exit statuses, and the losses compared with a run that had only the NaN.
    """
    nan = f"nan-in-batch={batches(place)[NAN_STEP]}"
    under = [*strace, "-e", "trace=rename"]
    runs.train(place, "nan", wrong=[nan], under=under)
    third_save = f"checkpoint_step_{3 * SAVE_INTERVAL}.npz"
    k = traces.number(place.parent / "trace", "rename", third_save)
    full = [*under, "-e", f"inject=rename:error=ENOSPC:when={k}+"]
    run = ["train", "--resume", "auto", *runs.RUN, "--checkpoint-dir", "all"]
    statuses = [runs.start(place, *run, under=full, wrong=[nan, *wrong]).wait(timeout=runs.LONGEST)]
    assert runs.newest_step(place / "all") == 2 * SAVE_INTERVAL
    assert runs.leftovers(place / "all") == []
    [shard] = place.glob("data/tokens/*/training-00000.tokens")
    flip(shard, *EVERYWHERE)
    process = runs.start(place, *run, wrong=[nan, *wrong])
    log = runs.log_of(place)
    runs.until(process, lambda: "Resuming at step" in log.read_text())
    process.send_signal(signal.SIGTERM)
    statuses += [process.wait(timeout=runs.LONGEST)]
    statuses += [runs.start(place, *run, wrong=[nan, *wrong]).wait(timeout=runs.LONGEST)]
    return statuses, lost(place / "nan", place / "all")


def test_everything_at_once(place: Path, strace: list[str], table: Table) -> None:
    statuses, found = all_at_once(place, strace)
    assert statuses == [2, 128 + signal.SIGTERM, 0]
    assert found == NOTHING
    table.row(
        AT_ONCE,
        tries=1,
        lost=found,
        result="two clear ends; resumed, equal to a run that had the NaN alone",
    )


@pytest.mark.parametrize("sabotage", ["shards-not-verified", "records-not-cut-back"])
def test_everything_at_once_would_show(
    place: Path, strace: list[str], table: Table, sabotage: str
) -> None:
    assert all_at_once(place, strace, sabotage)[1] != NOTHING
    table.red(AT_ONCE, sabotage)
