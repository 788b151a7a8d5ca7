"""The message at the end of a run: its files, and commands that can be pasted."""

import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from homespun.config import TrainConfig
from homespun.records.events import TrainResult
from homespun.training.output.ending import PLOT, headline, what_now


def result(folder: Path, ended_by: str, **changes: Any) -> TrainResult:
    facts = {
        "best": folder / "best.npz",
        "steps": 1288,
        "val_loss": 3.26,
        "best_val_loss": 3.25,
        "stopped_by": None,
        "saved_step": 1288,
    }
    return TrainResult(checkpoint_dir=folder, ended_by=ended_by, **facts | changes)


@pytest.mark.parametrize(
    ("limit", "given", "reached", "twice"),
    [
        ("time_budget", "2m", "--time-budget 2m", "--time-budget 4m"),
        ("time_budget", "45s", "--time-budget 45s", "--time-budget 90s"),
        ("time_budget", "1h30m", "--time-budget 1h30m", "--time-budget 3h"),
        ("max_steps", 1_288_000, "--max-steps 1288000", "--max-steps 2576000"),
        ("max_epochs", 0.5, "--max-epochs 0.5", "--max-epochs 1"),
    ],
)
def test_the_limit_is_named_and_how_to_train_twice_as_long(
    limit: str, given: Any, reached: str, twice: str
) -> None:
    config = TrainConfig(**{limit: given})
    ended = result(Path("checkpoints"), limit)
    assert headline(ended, config, was_complete=False) == f"Done: 1,288 steps ({reached})"
    assert headline(ended, config, was_complete=True).startswith("This run is complete: 1,288 ")
    assert what_now(ended, config, is_complete=True) == {
        "best": "validation loss 3.2500, in checkpoints/best.npz",
        "try it": "homespun generate --interactive",
        "longer": f"homespun train --resume {twice}",
    }


@pytest.mark.parametrize(
    ("reward", "named"), [("questions", False), ("mine.py:reward", True), ("a b.py:reward", True)]
)
def test_a_reward_that_is_code_is_named_again(reward: str, named: bool) -> None:
    now = what_now(
        result(Path("checkpoints"), "max_steps", best_val_loss=None, best_reward=0.5),
        TrainConfig(max_steps=8, reward=reward),
        is_complete=True,
    )
    words = shlex.split(now["longer"])
    assert (["--reward", reward] == words[3:5]) is named
    assert words[-2:] == ["--max-steps", "16"]


def test_commands_name_another_folder_as_a_shell_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / PLOT).touch()
    config = TrainConfig(checkpoint_dir=str(folder), patience=5)
    now = what_now(result(folder, "patience"), config, is_complete=True)
    assert now["curves"] == f"{folder}/training.png"
    assert shlex.split(now["try it"])[2:] == ["--checkpoint", str(folder), "--interactive"]
    assert "longer" not in now  # its loss no longer improved


def test_a_run_that_has_seen_its_text_often_enough_is_not_to_be_trained_on() -> None:
    config = TrainConfig(max_epochs=10, time_budget="1h")
    assert "longer" not in what_now(result(Path("checkpoints"), "max_epochs"), config, True)
    assert "longer" in what_now(result(Path("checkpoints"), "time_budget"), config, True)


def test_a_run_that_learns_by_heart_is_not_to_be_trained_on() -> None:
    config = TrainConfig(time_budget="1h")
    worse = result(Path("checkpoints"), "time_budget", val_loss=3.5, best_val_loss=3.0)
    assert "longer" not in what_now(worse, config, is_complete=True)


def test_a_stopped_run_goes_on_and_one_that_never_began_does_not() -> None:
    facts: dict[str, Any] = {"val_loss": None, "best_val_loss": None, "stopped_by": signal.SIGINT}
    stopped = result(Path("checkpoints"), "SIGINT", **facts)
    assert headline(stopped, TrainConfig(), was_complete=False) == "Stopped at step 1,288 and saved"
    assert what_now(stopped, TrainConfig(), is_complete=False) == {
        "resume": "homespun train --resume"
    }
    unbegun = result(Path("checkpoints"), "SIGINT", **facts | {"steps": 0, "saved_step": None})
    assert headline(unbegun, TrainConfig(), was_complete=False) == "Stopped before the first step"
    assert what_now(unbegun, TrainConfig(), is_complete=False) == {}


def test_a_run_that_was_stopped_after_its_last_evaluation_has_nothing_to_resume() -> None:
    stopped = result(Path("checkpoints"), "SIGINT", best_val_loss=None, stopped_by=signal.SIGINT)
    assert what_now(stopped, TrainConfig(), is_complete=True) == {
        "try it": "homespun generate --interactive"
    }
    unmeasured = result(Path("checkpoints"), "max_steps", best_val_loss=None)
    assert what_now(unmeasured, TrainConfig(max_steps=1), is_complete=False) == {
        "resume": "homespun train --resume",
        "longer": "homespun train --resume --max-steps 2",
    }


def test_one_step_is_one_step() -> None:
    once = result(Path("checkpoints"), "max_steps", steps=1)
    assert (
        headline(once, TrainConfig(max_steps=1), was_complete=False)
        == "Done: 1 step (--max-steps 1)"
    )
