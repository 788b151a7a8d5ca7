"""Training in Python: listeners, signals to the program, results, and settings that are varied."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.errors import UserError
from homespun.records import events
from tests.api.small_run import SMALL
from tests.conftest import records


def test_a_grid_over_rates_and_batches_is_a_loop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    losses = {}
    for lr in [1e-3, 1e-2]:
        for batch_size in [2, 4]:
            result = homespun.train(
                SMALL,
                learning_rate=lr,
                batch_size=batch_size,
                checkpoint_dir=f"grid/{lr}-{batch_size}",
            )
            losses[lr, batch_size] = result.val_loss
    assert len(set(losses.values())) == 4
    assert homespun.load("grid/0.01-4").generate("The cat", max_tokens=3).startswith("The cat")


def test_equal_runs_are_equal_and_resuming_is_a_setting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    straight = homespun.train(SMALL, checkpoint_dir="straight", max_steps=4)
    homespun.train(SMALL, checkpoint_dir="again", max_steps=4)
    one, other = (homespun.load(name) for name in ("straight", "again"))
    for (name, values), (_, others) in zip(one.engine.state(), other.engine.state(), strict=True):
        np.testing.assert_array_equal(values, others, err_msg=name)
    went_on = homespun.train(SMALL, checkpoint_dir="again", max_steps=6, resume="latest")
    assert (straight.steps, went_on.steps) == (4, 6)


def test_a_listener_gets_the_story_and_ends_it_and_the_run_can_be_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    whole: list[events.Event] = []
    settings: dict[str, Any] = {"max_steps": 4, "eval_interval": 2, "sample_prompts": ("The cat",)}
    homespun.train(SMALL, checkpoint_dir="whole", on_event=whole.append, **settings)
    kinds = [type(event) for event in whole if not isinstance(event, events.Activity)]
    assert kinds[0] is events.Started
    assert kinds[-1] is events.Ended
    assert kinds.count(events.Step) == 4
    assert kinds.count(events.Evaluation) == 2
    [saved] = [event for event in whole if isinstance(event, events.Saved)]
    assert saved.path == Path("whole/checkpoint_step_4.npz")

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Evaluation):
            raise homespun.StopRun("good enough")

    stopped = homespun.train(SMALL, checkpoint_dir="stopped", on_event=stop, **settings)
    assert (stopped.steps, stopped.ended_by) == (2, "on_event: good enough")
    homespun.train(checkpoint_dir="stopped", resume="latest")
    losses = [
        [record["loss_hex"] for record in records(Path(name)) if "loss" in record]
        for name in ("whole", "stopped")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_an_error_of_a_listener_is_raised_after_the_run_is_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    def fail(event: events.Event) -> None:
        if isinstance(event, events.Step) and event.step == 2:
            raise ZeroDivisionError("of the listener")

    with pytest.raises(ZeroDivisionError, match="of the listener"):
        homespun.train(SMALL, checkpoint_dir="failed", on_event=fail)
    assert Path("failed/checkpoint_step_2.state.npz").exists()
    assert homespun.train(checkpoint_dir="failed", resume="latest").steps == 3


PROGRAM = """
import os, signal, sys
import homespun
from homespun.records.events import Step
from tests.api.small_run import SMALL

presses, number = int(sys.argv[1]), int(sys.argv[2])

def press(event):
    if isinstance(event, Step) and event.step == 2:
        for _ in range(presses):
            os.kill(os.getpid(), number)

try:
    for rate in (1e-3, 2e-3):
        print("begins", rate, flush=True)
        homespun.train(SMALL, learning_rate=rate, checkpoint_dir=f"sweep/{rate}", on_event=press)
except KeyboardInterrupt:
    print("KeyboardInterrupt")
finally:
    print("cleaned up")
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_a_sweep_and_the_program_cleans_up(
    folder: Path, tmp_path: Path, presses: int
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(presses), str(int(signal.SIGINT))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("beg", "Key", "cle"))]
    assert said == ["begins 0.001", "KeyboardInterrupt", "cleaned up"]
    assert (tmp_path / "sweep/0.001/checkpoint_step_2.state.npz").exists()


def test_a_program_is_terminated_after_the_run_is_saved(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "1", str(int(signal.SIGTERM))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert done.stdout.count("begins") == 1
    assert (tmp_path / "sweep/0.001/checkpoint_step_2.state.npz").exists()


def test_the_program_decides_about_a_signal_that_it_handles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Step):
            signal.raise_signal(signal.SIGTERM)

    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        result = homespun.train(SMALL, checkpoint_dir="handled", on_event=stop)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (result.steps, result.ended_by, received) == (1, "SIGTERM", [signal.SIGTERM])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_listener_that_leaves_the_program_does_not_cost_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.chdir(folder)

    def leave(event: events.Event) -> None:
        if isinstance(event, events.Step) and event.step == 2:
            raise error

    with pytest.raises(type(error)):
        homespun.train(SMALL, checkpoint_dir="left", on_event=leave)
    assert Path("left/checkpoint_step_2.state.npz").exists()


def test_accumulation_sees_the_same_samples_and_takes_the_same_steps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    homespun.train(SMALL, batch_size=2, grad_accumulation_steps=2, checkpoint_dir="accumulated")
    whole, divided = (
        [r for r in records(Path(name)) if "loss" in r] for name in ("checkpoints", "accumulated")
    )
    assert [r["batch"] for r in divided] == [r["batch"] for r in whole]
    assert len({r["batch"] for r in whole}) == 3
    assert [r["loss"] for r in divided] == pytest.approx([r["loss"] for r in whole], rel=1e-5)


def test_a_quiet_run_prints_nothing_and_its_result_has_the_records(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    run = homespun.train(SMALL, checkpoint_dir="quiet", quiet=True)
    assert capfd.readouterr() == ("", "")
    assert [record["step"] for record in run.records if "loss" in record] == [1, 2, 3]
    assert list(run.records) == records(folder / "quiet")
    described = run.records[0]["run"]
    assert described["model"].startswith("qwen3, 1 layer x 32, 2 heads, ")
    assert described["text"].endswith("stories.txt")
    assert described["settings"]["max_steps"] == 3
    assert "checkpoint_dir" not in described["settings"]
    samples = 4 * 32 / described["training_tokens"]
    assert run.records[-1]["epoch"] == pytest.approx(3 * samples, rel=0.01)
    assert "records" not in repr(run)
    with pytest.raises(UserError, match="--quiet is 3: true or false"):
        homespun.train(SMALL, quiet=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"homespun\.plan"):
        homespun.train(SMALL, dry_run=True)


def test_the_records_are_a_data_frame_where_pandas_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = ({"step": 1, "loss": 2.0}, {"step": 1, "val_loss": 3.0})
    run = events.TrainResult(Path(), Path(), 1, "max_steps", 3.0, 3.0, None, records=rows)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    assert run.frame() == list(rows)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        run.frame()
