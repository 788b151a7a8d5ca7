"""A stopped and resumed run equals the uninterrupted run, bit for bit. The tests start and kill real processes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Command, command, finished, new_workplace, records

SHAPE = [
    "--model-size",
    "pico",
    "--n-layers",
    2,
    "--d-model",
    64,
    "--n-heads",
    2,
    "--vocab-size",
    400,
]
PACE = [
    "--seq-len", 32, "--batch-size", 4, "--max-steps", 12, "--optimizer", "muon", "--threads", 2,
    "--dropout", 0.1, "--averaging", 0.3,
    "--log-interval", 1, "--eval-interval", 4, "--eval-tokens", 500, "--sample-interval", 6,
]  # fmt: skip
RUN = ["train", *SHAPE, *PACE]

MEASURED = {"tokens_per_second", "memory_bytes", "active_memory_bytes", "seconds"}
"""Record keys whose values may differ between two equal runs."""


def kept(folder: Path) -> list[dict[str, Any]]:
    """The records that equal runs share. Their descriptions may differ, for example in the intervals."""
    return [
        {k: v for k, v in record.items() if k not in MEASURED}
        for record in records(folder)
        if "run" not in record
    ]


def tensors(folder: Path, step: int) -> dict[str, np.ndarray]:
    found = {}
    for suffix in ("", ".state"):
        with np.load(folder / f"checkpoint_step_{step}{suffix}.npz") as archive:
            found |= {n: archive[n] for n in archive.files if not n.endswith("json")}
    return found


def assert_equal_runs(one: Path, other: Path, step: int = 12) -> None:
    assert kept(one) == kept(other)
    assert_equal_tensors(one, other, step)


def assert_equal_tensors(one: Path, other: Path, step: int) -> None:
    left, right = tensors(one, step), tensors(other, step)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def killed_when(
    process: "subprocess.Popen[str]", line: str, how: signal.Signals = signal.SIGKILL
) -> str:
    """Send a signal as soon as a line of the output begins with `line`, and return the output."""
    assert process.stdout is not None
    output = ""
    for printed in process.stdout:
        output += printed
        if printed.startswith(line):
            process.send_signal(how)
            break
    else:
        raise AssertionError(f"'{line}' was never printed:\n{output}")
    rest, _ = process.communicate(timeout=300)
    return output + rest


@pytest.fixture(scope="module")
def control_run(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A working folder with a tokenizer and an uninterrupted run, for all tests to copy."""
    folder = tmp_path_factory.mktemp("control")
    new_workplace(folder, story_file)
    finished(command(folder)("tokenizer", "--vocab-size", 400))
    finished(command(folder)(*RUN, "--checkpoint-dir", "control"))
    return folder


@pytest.fixture
def control(workplace: Path, control_run: Path) -> Path:
    """The uninterrupted run, in this test's working folder."""
    shutil.copytree(control_run, workplace, dirs_exist_ok=True)
    return workplace / "control"


def test_a_killed_and_resumed_run_is_the_uninterrupted_one(
    homespun: Command, workplace: Path, control: Path
) -> None:
    again = workplace / "again"
    finished(homespun(*RUN, "--checkpoint-dir", "again"))
    assert_equal_runs(control, again)

    # Right after the first save, between two saves, and at an evaluation.
    for line in ("step  1/12  loss", "step  5/12  loss", "step  8/12  val"):
        folder = workplace / f"killed at {line[5:7].strip()}"
        options = ["--checkpoint-dir", folder, "--save-interval", 3 if line[6] != "1" else 1]
        killed = homespun(*RUN, *options)
        killed_when(killed, line)
        assert killed.returncode == -signal.SIGKILL
        finished(homespun("train", "--resume", "auto", *RUN[1:], *options))
        assert_equal_runs(control, folder)


def test_a_stopped_run_saves_says_how_to_go_on_and_goes_on(
    homespun: Command, workplace: Path, control: Path
) -> None:
    for how, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        folder = workplace / how.name
        process = homespun(*RUN, "--checkpoint-dir", folder)
        output = killed_when(process, "step  3/12  loss", how)
        assert process.returncode == status
        assert output.endswith(f"resume  homespun train --resume --checkpoint-dir {folder}\n")
        assert list(folder.glob("checkpoint_step_*.state.npz"))
        finished(homespun("train", "--resume", "--checkpoint-dir", folder))
        assert_equal_runs(control, folder)


def test_a_run_whose_output_nobody_reads_any_more_is_saved_and_says_so(
    homespun: Command, workplace: Path, control: Path
) -> None:
    run = [sys.executable, "-m", "homespun", *map(str, RUN), "--checkpoint-dir", "piped"]
    with subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("step  2/12  loss"):
                break
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert said.startswith("The output cannot be written (Broken pipe). Finishing this step")
    assert said.endswith("resume  homespun train --resume --checkpoint-dir piped\n")
    assert "Traceback" not in said
    finished(homespun("train", "--resume", "--checkpoint-dir", "piped"))
    assert_equal_runs(control, workplace / "piped")


def test_a_complete_run_says_how_to_train_on_and_changes_nothing(
    homespun: Command, workplace: Path, control: Path
) -> None:
    before = {path.name: path.read_bytes() for path in control.glob("*.[nj]*")}
    output = finished(homespun("train", "--resume", "--checkpoint-dir", "control"))
    assert output.startswith("This run is complete: 12 steps (--max-steps 12)\n")
    train_on = "homespun train --resume --checkpoint-dir control --max-steps 24"
    assert output.endswith(f"longer  {train_on}\n")
    assert before == {path.name: path.read_bytes() for path in control.glob("*.[nj]*")}


def test_evaluations_and_samples_of_the_recipe_do_not_depend_on_kills(
    homespun: Command, workplace: Path, control: Path
) -> None:
    """Without explicit intervals they come every tenth of the run, or less often to limit their cost."""
    tiny = ["--n-layers", 1, "--d-model", 32, "--n-heads", 1, "--seq-len", 16, "--threads", 2]
    pace = ["--max-steps", 120, "--eval-tokens", 200, "--log-interval", 10, "--save-interval", 25]
    # Some gradients are clipped, so that the first record after a kill needs the count from before it.
    clipping = ["--max-grad-norm", 0.45]
    run = ["train", *tiny, *pace, *clipping, "--sample-prompts", "The cat"]
    finished(homespun(*run, "--checkpoint-dir", "recipe"))
    killed_when(homespun(*run, "--checkpoint-dir", "killed"), "step  80/120  loss")
    finished(homespun("train", "--resume", "--checkpoint-dir", "killed"))
    assert_equal_runs(workplace / "recipe", workplace / "killed", step=120)
    clipped = [record["clipped"] for record in kept(workplace / "recipe") if "clipped" in record]
    assert any(0 < share < 1 for share in clipped)
    evaluated = [record["step"] for record in kept(workplace / "recipe") if "val_loss" in record]
    assert evaluated == list(range(12, 121, 12))
    sampled = [record["step"] for record in kept(workplace / "recipe") if "text" in record]
    assert sampled == [27, 54, 81, 108]  # 16 x 50 tokens are 1.5% of 27 x 2,048


TOUCHY = """
import sys
from homespun.cli.main import main
from homespun.training.diagnostics import step_guard
step_guard.SPIKE_DEVIATIONS = 3
step_guard.MIN_RISE.update(loss=0.0, norm=0.0)
sys.exit(main(sys.argv[1:]))
"""


def test_what_is_refused_and_advised_does_not_depend_on_kills(
    workplace: Path, control: Path
) -> None:
    """The guard is so sensitive that it takes noise between batches for spikes, and all gradients are clipped."""

    def touchy(*arguments: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", TOUCHY, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    tiny = "--model-size pico --n-layers 1 --d-model 32 --n-heads 1 --threads 2 --seq-len 32"
    pace = "--batch-size 2 --max-steps 260 --log-interval 10 --save-interval 15 --eval-tokens 500"
    rates = "--learning-rate 0.01 --min-learning-rate-ratio 1 --max-grad-norm 0.01 --on-spike skip"
    run = ["train", *tiny.split(), *pace.split(), *rates.split(), "--sample-prompts", "The cat"]
    finished(touchy(*run, "--checkpoint-dir", "whole"))
    whole = kept(workplace / "whole")
    said = [record for record in whole if "advice" in record]
    assert {record["cause"] for record in said} == {"spike", "constant clipping"}
    spikes = [record["step"] for record in said if record["cause"] == "spike"]
    assert spikes[-1] > 100
    assert whole[-2]["refused"] == len(spikes)

    before_the_last = (spikes[-1] - 2) // 10 * 10
    folder = ["--checkpoint-dir", "killed"]
    killed_when(touchy(*run, *folder), f"step {before_the_last:3}/260  loss")
    finished(touchy("train", "--resume", *folder))
    assert_equal_runs(workplace / "whole", workplace / "killed", step=260)

    folder = ["--checkpoint-dir", "stopped"]
    output = finished(touchy(*run, *folder, "--on-spike", "stop"), status=2)
    [error] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: spike: in step {spikes[0]} the ")
    assert "continue from the last checkpoint with --resume --on-spike skip" in error
    output = finished(touchy("train", "--resume", *folder, "--on-spike", "skip"))
    assert f"Resuming at step {(spikes[0] - 1) // 15 * 15}\n" in output
    assert "changed for the rest of the run: on_spike is skip, was stop" in output
    assert_equal_tensors(workplace / "whole", workplace / "stopped", step=260)


def test_a_checkpoint_on_demand_does_not_stop_the_run(
    homespun: Command, workplace: Path, control: Path
) -> None:
    folder = workplace / "asked"
    process = homespun(*RUN, "--checkpoint-dir", folder, "--keep", 9)
    killed_when(process, "step  2/12  loss", signal.SIGUSR1)
    assert process.returncode == 0
    assert len(list(folder.glob("checkpoint_step_*.state.npz"))) == 2
    assert_equal_runs(control, folder)


def test_resume_without_a_checkpoint_is_an_error_and_auto_is_not(
    homespun: Command, workplace: Path
) -> None:
    output = finished(homespun(*RUN, "--resume"), status=2)
    assert output.startswith("error: checkpoints holds no checkpoint to resume")
    assert output.count("\n") == 1
    assert not (workplace / "checkpoints").exists()
    finished(homespun("tokenizer", "--vocab-size", 400))
    finished(homespun(*RUN, "--resume", "auto"))


def test_what_may_not_change_is_refused_and_what_may_is_said(
    homespun: Command, workplace: Path, control: Path
) -> None:
    resume = ["train", "--resume", "--checkpoint-dir", "control"]
    for flag, value, complaint in [
        ("--seq-len", 16, "--seq-len 16 (was 32)"),
        ("--seed", 7, "--seed 7 (was 0)"),
        ("--optimizer", "adamw", "--optimizer adamw (was muon)"),
        ("--n-layers", 3, "--n-layers 3 (was 2)"),
        ("--d-ff", 77, "--d-ff 77 (was "),
        ("--batch-size", 8, "4 sequences per step"),
    ]:
        assert complaint in finished(homespun(*resume, flag, value), status=2)
    other = workplace / "other.txt"
    other.write_text((workplace / "stories.txt").read_text().replace("the", "THE", 1))
    assert "is not the text of this run" in finished(
        homespun(*resume, "--data-file", other), status=2
    )
    moved = workplace / "moved.txt"
    (workplace / "stories.txt").rename(moved)
    output = finished(
        homespun(
            *resume,
            "--data-file",
            moved,
            "--max-steps",
            14,
            "--batch-size",
            2,
            "--grad-accumulation-steps",
            2,
        )
    )
    assert "changed for the rest of the run: max_steps is 14, was 12" in output
    assert [r["step"] for r in records(workplace / "control") if "loss" in r] == list(range(1, 15))


def test_an_earlier_run_is_moved_aside(homespun: Command, workplace: Path, control: Path) -> None:
    before = {path.name: path.read_bytes() for path in control.glob("[!.]*")}
    output = finished(homespun(*RUN, "--checkpoint-dir", "control", "--max-steps", 2))
    assert "The earlier run in control is now in control.1." in output
    after = {path.name: path.read_bytes() for path in (workplace / "control.1").glob("[!.]*")}
    assert before == after


def test_two_trainers_do_not_share_a_folder(
    homespun: Command, workplace: Path, control: Path
) -> None:
    first = homespun(*RUN, "--checkpoint-dir", "shared", "--max-steps", 100_000)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("step"):
            break
    output = finished(homespun(*RUN, "--checkpoint-dir", "shared"), status=2)
    assert f"in use by process {first.pid}" in output
    first.kill()
    first.communicate()
    finished(homespun("train", "--resume", "auto", *RUN[1:], "--checkpoint-dir", "shared"))


def test_a_last_evaluation_is_part_of_the_last_checkpoint(
    homespun: Command, workplace: Path, control: Path
) -> None:
    """The last step is no multiple of the evaluation interval, and its evaluation is kept on resume."""
    options = [
        "--checkpoint-dir",
        "last",
        "--max-steps",
        6,
        "--save-interval",
        3,
        "--eval-interval",
        4,
    ]
    finished(homespun(*RUN, *options))
    evaluated = [record for record in records(workplace / "last") if "val_loss" in record]
    assert [record["step"] for record in evaluated] == [4, 6]
    output = finished(homespun("train", "--resume", "--checkpoint-dir", "last", "--max-steps", 8))
    assert "changed for the rest of the run: max_steps is 8, was 6" in output
    again = [record for record in records(workplace / "last") if "val_loss" in record]
    assert again[:2] == evaluated
    assert [record["step"] for record in again] == [4, 6, 8]


def test_a_run_that_was_stopped_at_its_end_is_evaluated_on_resume(
    homespun: Command, workplace: Path, control: Path
) -> None:
    run = [*RUN, "--checkpoint-dir", "ended", "--eval-interval", 100]
    killed_when(homespun(*run), "step  5/12  loss", signal.SIGTERM)
    assert not (workplace / "ended" / "best.npz").exists()
    stopped_at = records(workplace / "ended")[-1]["step"]
    finished(homespun("train", "--resume", "--checkpoint-dir", "ended", "--max-steps", stopped_at))
    assert (workplace / "ended" / "best.npz").exists()


def test_limits_that_nobody_asked_for_give_way(
    homespun: Command, workplace: Path, control: Path
) -> None:
    small = [
        "--n-layers",
        1,
        "--d-model",
        32,
        "--n-heads",
        1,
        "--seq-len",
        16,
        "--eval-tokens",
        100,
    ]
    process = homespun("train", *small, "--checkpoint-dir", "open", "--log-interval", 1)
    started = killed_when(process, "step   3/", signal.SIGINT)
    assert "steps (--max-epochs) or 10m (--time-budget)" in started
    output = finished(homespun("train", "--resume", "--checkpoint-dir", "open", "--max-steps", 2))
    assert "(--max-steps 2)" in output
    assert "(--time-budget)" not in output
    assert "(--max-epochs)" not in output
    complaint = "a resumed run cannot change --model-size pico (was not given)"
    resume = ["train", "--resume", "--checkpoint-dir", "open"]
    assert complaint in finished(homespun(*resume, "--model-size", "pico"), status=2)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["off", "on"])
@pytest.mark.parametrize("preset", ["tiny", "mini"])
def test_at_full_size(homespun: Command, workplace: Path, preset: str, compiled: str) -> None:
    """Compare two uninterrupted runs and a killed one at 6 x 384 and 8 x 256 tokens, in the default precision."""
    shape = ["--model-size", preset, "--n-layers", 6, "--d-model", 384, "--n-heads", 6]
    pace = ["--batch-size", 8, "--max-steps", 6, "--threads", 2, "--compile", compiled]
    run = ["train", *shape, *pace, "--log-interval", 1, "--save-interval", 1]
    finished(homespun("tokenizer", "--vocab-size", 1000))
    finished(homespun(*run, "--checkpoint-dir", "control"))
    finished(homespun(*run, "--checkpoint-dir", "again"))
    assert_equal_runs(workplace / "control", workplace / "again", step=6)
    killed_when(homespun(*run, "--checkpoint-dir", "killed"), "step 1/6  loss")
    finished(homespun("train", "--resume", "auto", *run[1:], "--checkpoint-dir", "killed"))
    assert_equal_runs(workplace / "control", workplace / "killed", step=6)
