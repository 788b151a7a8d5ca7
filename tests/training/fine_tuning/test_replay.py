"""A run with replay: it forgets less, resumes exactly, and refuses what it cannot mix."""

from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.checkpoint.archive import read_archive
from homespun.errors import UserError
from homespun.records.events import TrainResult
from tests.conftest import records
from tests.test_resume import assert_equal_runs
from tests.training.fine_tuning.talks import CONTEXT
from tests.training.small_runs import PACE, stop_at


@pytest.fixture
def trained(trained_for_talks: Path) -> Path:
    return trained_for_talks


def answering(folder: str, **settings: Any) -> TrainResult:
    new: dict[str, Any] = {
        "init_from": "base",
        "data_file": "chats.jsonl",
        "replay": "first.txt",
        "max_steps": 8,
        "checkpoint_dir": folder,
    }
    return homespun.train(quiet=True, **PACE | new | settings)


def evaluations(folder: str) -> list[dict[str, Any]]:
    return [record for record in records(folder) if "val_loss" in record]


def test_the_earlier_text_is_measured_and_kept(place: Path) -> None:
    common = {"max_steps": 60, "learning_rate": 0.01, "batch_size": 4, "eval_interval": 60}
    answering("kept", **common, replay_share=0.5)
    answering("forgotten", **common, replay_share=0.02)
    kept, forgotten = evaluations("kept"), evaluations("forgotten")
    assert kept[0]["val_replay_loss"] == forgotten[0]["val_replay_loss"]
    assert kept[-1]["val_replay_bits_per_byte"] < 0.8 * forgotten[-1]["val_replay_bits_per_byte"]
    assert kept[-1]["val_loss"] < 0.5 * kept[0]["val_loss"]
    [scored] = homespun.evaluate(models=["base"], data_file="first.txt", seq_len=CONTEXT)
    assert scored.bits_per_byte == pytest.approx(kept[0]["val_replay_bits_per_byte"], rel=0.02)


@pytest.mark.parametrize("adapters", [{}, {"lora_rank": 2}], ids=["whole", "lora"])
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(
    place: Path, adapters: dict[str, int]
) -> None:
    answering("control", **adapters)
    answering("again", **adapters, on_event=stop_at(3))
    Path("first.txt").rename("elsewhere.txt")
    with pytest.raises(UserError, match=r"first\.txt"):
        homespun.train(resume="latest", checkpoint_dir="again", quiet=True)
    homespun.train(resume="latest", checkpoint_dir="again", quiet=True, replay="elsewhere.txt")
    assert_equal_runs(Path("control"), Path("again"), 8)
    header = read_archive(Path("again/best.npz")).header
    assert header["replay_sha256"] in header["learned_before"]


def test_a_text_can_replay_another_one(place: Path) -> None:
    Path("second.txt").write_text("The sea is blue and the sand is warm. " * 400)
    answering("text", data_file="second.txt", max_steps=4)
    assert all("val_replay_loss" in record for record in evaluations("text"))
    with pytest.raises(UserError, match="a run that learns a text can only replay a text"):
        answering("wrong", data_file="second.txt", replay="chats.jsonl")


def test_conversations_can_replay_conversations(place: Path) -> None:
    lines = Path("chats.jsonl").read_text().splitlines(keepends=True)
    Path("new.jsonl").write_text("".join(lines[:30]))
    answering("chats", data_file="new.jsonl", replay="chats.jsonl", max_steps=4)
    assert all("val_replay_loss" in record for record in evaluations("chats"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_from": None, "data_file": "first.txt"}, "name the model with --init-from"),
        ({"preferences": "chats.jsonl", "data_file": None}, "not with --preferences"),
        ({"replay": "missing.txt"}, r"missing\.txt"),
        ({"replay_share": 1.0}, "--replay-share is 1.0: it must be below 1"),
    ],
)
def test_settings_that_have_no_meaning(place: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        answering("wrong", **settings)
    assert not Path("wrong", "best.npz").exists()


def test_a_run_cannot_begin_to_replay_when_it_is_resumed_nor_change_the_text(place: Path) -> None:
    answering("plain", replay=None, max_steps=2)
    with pytest.raises(UserError, match="this run has no --replay"):
        homespun.train(
            resume="latest", checkpoint_dir="plain", quiet=True, replay="first.txt", max_steps=4
        )
    answering("other", max_steps=2)
    Path("first.txt").write_text(Path("first.txt").read_text() + " The end.")
    with pytest.raises(UserError, match="is not the text that this run replays"):
        homespun.train(resume="latest", checkpoint_dir="other", quiet=True, max_steps=4)
