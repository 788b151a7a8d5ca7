"""Reinforcement from end to end: a model learns what its reward wants, and a killed run is the uninterrupted one."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as package
from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import UserError
from homespun.records import events
from homespun.training import policy_steps
from tests.conftest import Command, command, finished, new_workplace, records
from tests.test_resume import assert_equal_runs, killed_when

BASE = [
    "train", "--model-size", "pico", "--n-layers", 1, "--d-model", 32, "--n-heads", 2, "--vocab-size", 400,
    "--seq-len", 384, "--batch-size", 2, "--max-steps", 20, "--threads", 2, "--checkpoint-dir", "base",
    "--learning-rate", 3e-3,
]  # fmt: skip
STEPS = 8
RUN = [
    "reinforce", "base", "--data-file", "questions.jsonl", "--max-steps", STEPS, "--group-size", 4, "--batch-size", 8,
    "--grad-accumulation-steps", 1, "--answer-tokens", 6, "--threads", 2, "--seq-len", 384, "--log-interval", 1,
    "--eval-interval", 3, "--eval-tokens", 500, "--sample-interval", 4, "--learning-rate", 3e-3,
]  # fmt: skip

REWARD = """
def letters(prompt, answers):
    assert prompt["messages"][-1]["role"] == "user"
    assert prompt["answer"]
    return [answer.count("e") / (1 + len(answer)) for answer in answers]

def fails_later(prompt, answers, calls=[]):
    calls.append(len(answers) > 1)
    if sum(calls) > 6:
        raise ValueError("no more")
    return letters(prompt, answers)
"""
"""The second one fails in the fourth step of two groups; an evaluation has one answer to a prompt."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A folder with a small model of stories, questions, a reward, and an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reinforce")
    new_workplace(folder, story_file)
    run = command(folder)
    finished(run(*BASE))
    download = ["download", "--dataset", "stories-questions", "--plain", "--questions", 1]
    finished(run(*download, "--num-samples", 120, "--output", "questions.jsonl"))
    (folder / "mine.py").write_text(REWARD)
    finished(run(*RUN, "--reward", "mine.py:letters", "--checkpoint-dir", "control"))
    return folder


@pytest.fixture
def start(place: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(place)
    return command(place)


def test_a_killed_and_resumed_run_is_the_uninterrupted_one(place: Path, start: Command) -> None:
    for line, interval in (("step 3/8  reward", 2), ("step 6/8  val", 1)):
        folder = place / f"killed {line[5]}"
        options = ["--reward", "mine.py:letters", "--checkpoint-dir", folder]
        killed = start(*RUN, *options, "--save-interval", interval)
        killed_when(killed, line)
        assert killed.returncode == -signal.SIGKILL
        finished(start("reinforce", "--resume", "--checkpoint-dir", folder))
        assert_equal_runs(place / "control", folder, step=STEPS)


def test_the_records_have_all_figures(place: Path) -> None:
    found = records(place / "control")
    steps = [record for record in found if "reward" in record]
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    for record in steps:
        assert 0 <= record["reward"] <= 1
        assert 0 < record["answer_tokens"] <= 6
        if record["groups_skipped"] < 1:
            assert record["entropy"] > 0
            assert record["kl"] >= 0
        else:
            assert "kl" not in record
        assert 0 <= record["groups_skipped"] <= 1
        assert 0 <= record["ratio_clipped"] <= 1
        assert "perplexity" not in record
    assert steps[0]["kl"] == 0  # the first answers are those of the initial model
    assert steps[-1]["kl"] > 0
    assert [record["step"] for record in found if "val_reward" in record] == [0, 3, 6, 8]
    assert [record["step"] for record in found if "text" in record][::3] == [4, 8]


def test_the_model_learns_what_the_reward_wants(place: Path, start: Command) -> None:
    output = finished(
        start(*RUN, "--reward", "mine.py:letters", "--checkpoint-dir", "longer", "--max-steps", 40)
    )
    rewards = [record["reward"] for record in records(place / "longer") if "reward" in record]
    assert np.mean(rewards[-10:]) > 1.3 * np.mean(rewards[:10])
    assert "on held-out prompts, in longer/best.npz" in output


def test_a_reward_that_raises_ends_the_run_and_the_checkpoint_is_intact(
    place: Path, start: Command
) -> None:
    options = ["--checkpoint-dir", "failed", "--save-interval", 1, "--eval-interval", 100]
    output = finished(start(*RUN, "--reward", "mine.py:fails_later", *options), status=2)
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: the reward mine.py:fails_later raised ValueError: no more, for")
    found = CheckpointFolder(place / "failed").latest()
    assert found
    assert found.weights.step >= 1
    finished(
        start("reinforce", "--resume", "--checkpoint-dir", "failed", "--reward", "mine.py:letters")
    )


def test_another_initial_model_in_the_folder_is_refused(place: Path, start: Command) -> None:
    options = ["--reward", "mine.py:letters", "--checkpoint-dir", "moved", "--max-steps", 2]
    finished(start(*RUN, *options))
    (place / "moved" / "base.npz").write_bytes((place / "moved" / "best.npz").read_bytes())
    resume = ["reinforce", "--resume", "--checkpoint-dir", "moved", "--max-steps", 4]
    assert "is not the model from which this run began" in finished(start(*resume), status=2)


def small(**settings: Any) -> dict[str, Any]:
    """The settings of `RUN` from Python."""
    names = [str(word).removeprefix("--").replace("-", "_") for word in RUN[2::2]]
    return dict(zip(names, RUN[3::2], strict=True)) | settings


@pytest.mark.usefixtures("start")
def test_from_python_with_a_function(place: Path) -> None:
    def shortest(prompt: Any, answers: list[str]) -> list[float]:
        return [-float(len(answer)) for answer in answers]

    found: list[events.Event] = []
    result = package.reinforce(
        "base",
        reward=shortest,
        on_event=found.append,
        quiet=True,
        **small(max_steps=2, checkpoint_dir="from python"),
    )
    assert result.steps == 2
    assert result.best_val_loss is None
    assert result.best_reward is not None
    assert result.best_reward <= 0
    [described] = [event.run for event in found if isinstance(event, events.Started)]
    assert described["settings"]["reward"].endswith("shortest")


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "nothing"}, "--reward nothing: questions, stories"),
        ({"batch_size": 6}, "which is no multiple of --group-size 4"),
        ({"dropout": 0.1}, "--dropout would change the probabilities"),
        ({"answer_tokens": 500}, "leaves no room for a prompt"),
        ({"answer_tokens": 380}, "no prompt leaves room for an answer"),
        ({"data_file": "stories.txt"}, "--reward questions needs conversations"),
    ],
)
def test_settings_that_have_no_meaning(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        package.reinforce("base", quiet=True, **small(**{"checkpoint_dir": "wrong"} | settings))


@pytest.mark.usefixtures("start")
def test_a_model_has_to_be_named(start: Command) -> None:
    output = finished(start("reinforce", "--data-file", "questions.jsonl"), status=2)
    assert "name it, as in `homespun reinforce MODEL`" in output


@pytest.mark.usefixtures("start")
def test_with_one_update_nothing_is_clipped_and_the_ratio_is_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios: list[float] = []
    original = policy_steps.token_losses

    def watched(new: Any, old: Any, *others: Any, **more: Any) -> Any:
        ratios.append(float(np.abs(np.exp(np.asarray(new) - np.asarray(old)) - 1).max()))
        return original(new, old, *others, **more)

    monkeypatch.setattr(policy_steps, "token_losses", watched)
    common = {"reward": "mine.py:letters", "batch_size": 4, "grad_accumulation_steps": 4}
    for updates in (1, 4):
        ratios.clear()
        folder = f"updates {updates}"
        given = common | {"updates": updates, "max_steps": 3, "checkpoint_dir": folder}
        package.reinforce("base", quiet=True, **small(**given))
        assert (max(ratios) > 1e-4) == (updates > 1), ratios


@pytest.mark.usefixtures("start")
def test_adapters_learn_from_a_reward_too(place: Path) -> None:
    given = {"reward": "mine.py:letters", "lora_rank": 2, "max_steps": 3, "checkpoint_dir": "lora"}
    package.reinforce("base", quiet=True, **small(**given))
    steps = [record for record in records(place / "lora") if "reward" in record]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps[-1]["kl"] > 0
