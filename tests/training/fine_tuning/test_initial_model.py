"""A run that goes on from a trained model keeps its shape and its tokenizer, and is measured before its first step."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.errors import UserError
from homespun.language_model import LanguageModel
from homespun.records.events import TrainResult
from tests.conftest import records
from tests.test_resume import assert_equal_runs
from tests.training.small_runs import PACE, stop_at


@pytest.fixture
def place(place: Path) -> Path:
    """The folder without its tokenizer, which is that of the model alone then."""
    shutil.rmtree(place / "tokenizer_model")
    return place


def go_on(folder: str = "next", **settings: Any) -> TrainResult:
    new: dict[str, Any] = {"init_from": "base", "data_file": "second.txt", "max_steps": 8}
    return homespun.train(**{**PACE, "seq_len": 16, "checkpoint_dir": folder, **new, **settings})


def test_the_first_evaluation_is_that_of_the_initial_model(place: Path) -> None:
    go_on()
    base, own = homespun.load("base"), homespun.load("next")
    first, *later = [record for record in records("next") if "val_loss" in record]
    assert first["step"] == 0
    go_on("frozen", learning_rate=1e-30, max_steps=1, eval_interval=1)
    unchanged = [record["val_loss"] for record in records("frozen") if "val_loss" in record]
    assert unchanged == [first["val_loss"]] * 2
    assert later[-1]["val_loss"] < first["val_loss"]
    assert own.config == base.config
    assert own.tokenizer.sha256 == base.tokenizer.sha256


def test_the_weights_are_those_of_the_model(place: Path) -> None:
    go_on(learning_rate=1e-30, weight_decay=0.0, max_steps=1)
    expected, found = (dict(homespun.load(name).engine.state()) for name in ("base", "next"))
    for name, values in expected.items():
        assert (found[name] == values).all(), name


def test_samples_may_be_shorter_than_the_context(place: Path) -> None:
    go_on(seq_len=8)
    model = homespun.load("next")
    assert model.config.seq_len == 16
    assert len(model.generate("Once upon a time", max_tokens=40, temperature=0.0)) > 20


def test_the_context_of_the_model_is_the_default_where_it_is_shorter(place: Path) -> None:
    homespun.train(**PACE, init_from="base", data_file="second.txt", max_steps=1)
    assert records("checkpoints")[-1]["tokens"] == 2 * 16


@pytest.mark.parametrize("stop", [1, 6])
def test_it_resumes_bit_for_bit_without_the_initial_model(place: Path, stop: int) -> None:
    go_on("whole")
    go_on("parts", on_event=stop_at(stop))
    shutil.rmtree("base")
    homespun.train(resume="latest", checkpoint_dir="parts")
    assert_equal_runs(Path("whole"), Path("parts"), step=8)


def test_the_same_settings_resume_in_python(place: Path) -> None:
    config = homespun.TrainConfig(**PACE, init_from="base", data_file="second.txt", max_steps=2)
    homespun.train(config)  # with samples of 16 tokens, as the context is
    assert homespun.train(config, resume="latest", max_steps=3).steps == 3


def test_texts_that_were_learned_before_are_known(place: Path) -> None:
    go_on()
    go_on("third", init_from="next", data_file="first.txt", max_steps=1)
    for run, text, part in (
        ("base", "second.txt", "all"),
        ("next", "first.txt", "validation"),
        ("third", "first.txt", "validation"),
        ("third", "second.txt", "validation"),
    ):
        [found] = homespun.evaluate(models=[run], data_file=text, max_tokens=100)
        assert found.part == part, (run, text)


def as_huggingface(place: Path) -> str:
    return str(homespun_export(place, "huggingface", "copy"))


def as_gguf(place: Path) -> str:
    return str(homespun_export(place, "gguf", "copy.gguf"))


def homespun_export(place: Path, to: str, name: str) -> Path:
    from homespun.config import ExportConfig
    from homespun.exporting import export_model

    settings: Any = {"to": to, "checkpoint": "base", "output": str(place / name)}
    return export_model(ExportConfig(**settings), print)


@pytest.mark.parametrize("copied", [as_huggingface, as_gguf])
def test_files_of_other_programs_are_the_same_model(
    place: Path, copied: Callable[[Path], str]
) -> None:
    go_on(max_steps=1)
    source = copied(place)
    go_on("from-copy", init_from=source, max_steps=1)
    losses = [[r["loss_hex"] for r in records(f) if "loss_hex" in r] for f in ("next", "from-copy")]
    assert losses[0] == losses[1]


def test_a_run_may_go_on_in_its_own_folder(place: Path) -> None:
    first = go_on().best_val_loss
    go_on("base")
    assert records("base")[0]["step"] == 0
    assert homespun.load("base").stored.header["val_loss"] == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_from": "missing"}, "missing: there is no such file or folder; `homespun import`"),
        ({"init_from": "second.txt"}, "second.txt"),
        ({"model_size": "pico"}, "keeps its shape: leave --model-size out"),
        ({"n_layers": 2}, "it has --n-layers 1, not 2; leave the flag out"),
        ({"architecture": "gpt2"}, "it has --architecture qwen3, not gpt2"),
        ({"vocab_size": 301}, "with 300 tokens: leave --vocab-size out"),
        (
            {"seq_len": 17},
            "--seq-len 17 is more than the context of .*, 16 tokens: give at most 16",
        ),
        ({"tokenizer_path": "other"}, "other is not the tokenizer of base"),
    ],
)
def test_refused(place: Path, settings: dict[str, Any], message: str) -> None:
    homespun.train_tokenizer(data_file="first.txt", vocab_size=280, output_dir="other")
    with pytest.raises(UserError, match=message) as caught:
        go_on(**settings)
    assert "\n" not in str(caught.value)
    assert not any(Path("next").glob("*.npz"))


def test_settings_that_agree_are_accepted(place: Path) -> None:
    go_on(n_layers=1, d_model=32, vocab_size=300, max_steps=1)
    assert isinstance(homespun.load("next"), LanguageModel)
