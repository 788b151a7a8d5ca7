"""Preferences from end to end: a model learns which answers are better, and a killed run is the uninterrupted one."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as package
from homespun.checkpoint.archive import read_archive
from homespun.checkpoint.names import REFERENCE
from homespun.data.conversations import conversations
from homespun.engine.torch.engine import TorchStep
from homespun.errors import UserError
from homespun.training.preferences import preparation
from homespun.verify import verify
from tests.answering import model_and_questions
from tests.conftest import Command, command, finished, new_workplace, records
from tests.test_resume import assert_equal_runs, kept, killed_when

STEPS = 8
RUN: dict[str, Any] = {
    "preferences": "pairs.jsonl",
    "init_from": "base",
    "max_steps": STEPS,
    "batch_size": 8,
    "threads": 2,
    "log_interval": 1,
    "eval_interval": 3,
    "sample_interval": 4,
    "learning_rate": 3e-3,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A folder with a small model of stories, pairs of answers, and an uninterrupted run."""
    folder = tmp_path_factory.mktemp("preferences")
    new_workplace(folder, story_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model_and_questions(100)
        lines = []
        for one in conversations(Path("questions.jsonl")):
            *prompt, answer = one.messages
            pair = {"prompt": prompt, "chosen": answer["content"], "rejected": "nobody knows that"}
            lines.append(json.dumps(pair))
        Path("pairs.jsonl").write_text("\n".join(lines))
        package.train(quiet=True, checkpoint_dir="control", **RUN)
    return folder


@pytest.fixture
def start(place: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Starts `homespun ...` in the folder, which is also that of the test."""
    monkeypatch.chdir(place)
    return command(place)


def flags(**settings: Any) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in (RUN | settings).items()]


def test_a_killed_and_resumed_run_is_the_uninterrupted_one(place: Path, start: Command) -> None:
    folder = place / "killed"
    killed = start("train", *flags(checkpoint_dir=folder, save_interval=2))
    killed_when(killed, "step 5/8  loss")
    assert killed.returncode == -signal.SIGKILL
    output = finished(start("train", "--resume", "--checkpoint-dir", folder))
    assert "beta 0.1" in output
    assert_equal_runs(place / "control", folder, step=STEPS)


def test_the_records_have_all_figures_and_the_model_learns(place: Path) -> None:
    found = records(place / "control")
    steps = [record for record in found if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    for record in steps:
        assert 0 <= record["accuracy"] <= 1
        margin = record["chosen_reward"] - record["rejected_reward"]
        assert record["margin"] == pytest.approx(margin)
        assert "perplexity" not in record
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)
    evaluations = [record for record in found if "val_loss" in record]
    assert [record["step"] for record in evaluations] == [0, 3, 6, 8]
    assert evaluations[0]["val_loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert evaluations[-1]["val_accuracy"] > 0.9
    assert evaluations[-1]["val_margin"] > 0.5
    assert not {"val_perplexity", "val_bits_per_byte"} & set(evaluations[-1])
    assert (place / "control" / "training.png").exists()


def test_the_pairs_of_a_line_are_those_of_its_steps(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU and with MLX, a step is read after the next one has begun."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(TorchStep, "ready", lambda handle: False)
    package.train(**RUN, checkpoint_dir="later", quiet=True)
    assert kept(place / "later") == kept(place / "control")


def test_all_files_name_the_reference_and_verify_reads_it(place: Path) -> None:
    header = read_archive(place / "control" / "best.npz").header
    reference = read_archive(place / "control" / REFERENCE)
    assert header[preparation.REFERENCE_SHA256] == reference.sha256
    assert any(REFERENCE in line for line in verify(place / "control"))


@pytest.mark.usefixtures("start")
def test_adapters_need_no_second_model(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference of a run with LoRA is that of a run of the whole model, since both begin with the same one."""
    given = RUN | {"lora_rank": 2, "max_steps": 4, "checkpoint_dir": "lora"}
    package.train(quiet=True, **given)
    one, two = (dict(read_archive(place / n / REFERENCE).tensors()) for n in ("lora", "control"))
    for name in ("training", "held_out"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4)
    evaluations = [record for record in records(place / "lora") if "val_loss" in record]
    assert evaluations[0]["val_loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert evaluations[-1]["val_margin"] > evaluations[0]["val_margin"]
    package.train(quiet=True, resume="latest", **given | {"max_steps": 6})
    assert records(place / "lora")[-1]["step"] == 6


@pytest.mark.usefixtures("start")
def test_a_run_goes_on_in_another_folder_with_its_reference(place: Path) -> None:
    result = package.train(
        quiet=True, resume="control/best.npz", checkpoint_dir="moved", max_steps=STEPS + 1
    )
    assert result.steps == STEPS + 1
    one, two = (place / name / REFERENCE for name in ("control", "moved"))
    assert one.read_bytes() == two.read_bytes()
    two.unlink()
    with pytest.raises(
        UserError, match=r"log-probabilities of the initial model, .* cannot be read"
    ):
        package.train(quiet=True, resume="latest", checkpoint_dir="moved", max_steps=STEPS + 2)
    two.write_bytes((place / "base" / "best.npz").read_bytes())
    with pytest.raises(UserError, match="is not the one with which this run began"):
        package.train(quiet=True, resume="latest", checkpoint_dir="moved", max_steps=STEPS + 2)


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_from": None}, "--preferences improves a model that exists: name it with"),
        ({"batch_size": 3}, "3 answers .--batch-size., but a pair has two"),
        ({"dropout": 0.1}, "--dropout would change the probabilities"),
        ({"averaging": 0.1}, "--averaging would change the probabilities"),
        ({"data_file": "stories.txt"}, "--preferences takes the place of --data-file"),
        ({"reward": "questions"}, "--preferences and --reward are two ways to learn"),
        ({"preferences": "questions.jsonl"}, r"questions.jsonl:1: no column 'chosen'"),
        ({"preferences": "stories.txt"}, "preferences are in .jsonl or .parquet files"),
        ({"seq_len": 40}, "no pair fits into --seq-len 40"),
        ({"beta": 0.0}, "--beta"),
    ],
)
def test_settings_that_have_no_meaning(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        package.train(quiet=True, **RUN | {"checkpoint_dir": "wrong"} | settings)
    assert not Path("wrong").exists()


@pytest.mark.usefixtures("start")
def test_other_pairs_on_resume_are_refused() -> None:
    lines = Path("pairs.jsonl").read_text().splitlines()
    Path("others.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(UserError, match="name the right one with --preferences"):
        package.train(
            quiet=True, resume="latest", checkpoint_dir="control", preferences="others.jsonl"
        )
