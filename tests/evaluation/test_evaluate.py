"""Scores of models on texts: those of training, those of a slow reference, and the same for all formats."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.cli.main import main
from homespun.config import ExportConfig
from homespun.errors import UserError
from homespun.evaluation.evaluate import EvalResult
from homespun.exporting import export_model
from homespun.stories import stories
from tests.conftest import records

SEQ_LEN = 32
SETTINGS = homespun.TrainConfig(
    data_file="stories.txt",
    model_size="pico",
    n_layers=1,
    d_model=32,
    n_heads=2,
    seq_len=SEQ_LEN,
    batch_size=4,
    max_steps=20,
    learning_rate=3e-3,
    precision="float32",
    eval_tokens=10 * SEQ_LEN,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """Runs `fine` and `coarse` on stories, with 300 and 500 tokens, and another text, `other.txt`."""
    folder = tmp_path_factory.mktemp("evaluation")
    shutil.copy(story_file, folder / "stories.txt")
    text = "\n<|endoftext|>\n".join(stories(40, seed=9))
    (folder / "other.txt").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, size in (("fine", 300), ("coarse", 500)):
            homespun.train(SETTINGS, vocab_size=size, checkpoint_dir=name)
    return folder


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def score(model: object = "fine", data_file: object = "other.txt", **settings: Any) -> EvalResult:
    [result] = homespun.evaluate(models=[model], data_file=data_file, **settings)
    return result


def test_the_validation_loss_of_training_comes_back_exactly(place: Path) -> None:
    record = [record for record in records(place / "fine") if "val_loss" in record][-1]
    settings = {"max_tokens": 10 * SEQ_LEN, "batch_size": 4, "engine": "torch"}
    result = score(data_file="stories.txt", precision="float32", **settings)
    assert result.part == "validation"
    assert result.n_tokens == 10 * SEQ_LEN
    assert result.loss == record["val_loss"]
    assert result.perplexity == record["val_perplexity"]
    assert result.bits_per_byte == record["val_bits_per_byte"]


@pytest.mark.parametrize("stride", [SEQ_LEN, 20, "half", 1])
def test_scores_are_those_of_each_token_in_its_window(stride: int | str, place: Path) -> None:
    (place / "short.txt").write_text("Once upon a time, a fox met a bear. They ran. " * 4)
    model = homespun.load("fine", precision="float32")
    step = {"half": SEQ_LEN // 2}.get(str(stride), stride)
    assert isinstance(step, int)
    [ids] = [model.tokenizer.join([(place / "short.txt").read_text().strip()])]
    assert len(ids) > 3 * SEQ_LEN
    total = 0.0
    for target in range(1, len(ids)):
        beyond_first = max(0, target - SEQ_LEN)
        start = -(-beyond_first // step) * step
        logits = model(ids[start:target])[-1].astype(np.float64)
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[target]]
    result = score(data_file="short.txt", stride=stride)
    assert (result.n_tokens, result.stride) == (len(ids) - 1, step)
    assert result.loss == pytest.approx(total / (len(ids) - 1), abs=1e-5)
    n_bytes = len((place / "short.txt").read_text().strip())
    assert result.bits_per_byte == pytest.approx(total / math.log(2) / n_bytes, abs=1e-5)


def test_a_stride_of_a_window_is_no_sliding(place: Path) -> None:
    assert score(stride=SEQ_LEN) == score()
    assert score(stride=SEQ_LEN // 2).loss != score().loss


def test_every_format_of_a_model_has_the_same_score(place: Path) -> None:
    for name in ("gguf", "huggingface"):
        export_model(ExportConfig(name, "fine"), print)  # type: ignore[arg-type]
    models = ["fine", "fine/best.npz", "exported/model.gguf", "exported/huggingface"]
    first, *others = homespun.evaluate(models=models, data_file="other.txt")
    for other in others:
        assert other.loss == pytest.approx(first.loss, rel=1e-6)
        assert (other.n_tokens, other.n_bytes) == (first.n_tokens, first.n_bytes)


def test_a_text_that_a_model_did_not_learn_from_is_scored_whole(place: Path) -> None:
    result = score(max_tokens=None)
    documents = (place / "other.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    assert result.part == "all"
    assert result.n_bytes == sum(len(document.strip().encode()) for document in documents)


def test_all_models_leave_out_the_text_that_one_learned_from(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "others.txt").write_text((place / "stories.txt").read_text() + "\nThe end.")
    homespun.train(SETTINGS, data_file="others.txt", checkpoint_dir="elsewhere", max_steps=1)
    assert score("elsewhere", "stories.txt").part == "all"
    capsys.readouterr()
    both = homespun.evaluate(models=["elsewhere", "fine"], data_file="stories.txt")
    assert [result.part for result in both] == ["validation"] * 2
    assert "fine/best.npz learned from stories.txt: only the part" in capsys.readouterr().out


@pytest.mark.parametrize("max_tokens", [None, 2000])
def test_models_with_different_tokenizers_are_scored_on_the_same_text(
    max_tokens: int | None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, coarse = homespun.evaluate(
        models=["fine", "coarse"], data_file="other.txt", max_tokens=max_tokens
    )
    assert coarse.n_tokens < fine.n_tokens <= (max_tokens or fine.n_tokens)
    longest_token = homespun.load("coarse").tokenizer.byte_lengths.max()
    difference = abs(fine.n_bytes - coarse.n_bytes)
    assert difference <= (longest_token if max_tokens else 0)
    said = capsys.readouterr().out
    assert "The tokenizers differ: compare bits per byte." in said
    assert ("Only the first" in said) == (max_tokens is not None)


def test_the_last_download_is_the_default(place: Path) -> None:
    (place / ".homespun.json").write_text('{"data": "other.txt"}')
    assert score(data_file=None) == score()


def test_the_table_and_the_json_agree(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "fine", "coarse", "--data-file", "other.txt", "--stride"]
    assert main(words) == 0
    title, *rows = capsys.readouterr().out.splitlines()[-3:]
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    results = [json.loads(line) for line in out.splitlines()]
    assert title.split() == [
        "model",
        "tokens",
        "window",
        "slides",
        "loss",
        "perplexity",
        "bits/byte",
    ]
    for row, result in zip(rows, results, strict=True):
        model, tokens, window, by, stride, loss, perplexity, bits = row.split()
        assert (model, window, f"{by} {stride}") == (result["model"], "32", "by 16")
        assert tokens == f"{result['n_tokens']:,}"
        figures = result["loss"], result["perplexity"], result["bits_per_byte"]
        assert (loss, bits) == (f"{figures[0]:.4f}", f"{figures[2]:.4f}")
        assert perplexity == f"{figures[1]:,.2f}"
    assert "The tokenizers differ" in err


def test_a_figure_that_is_not_finite_is_null_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = EvalResult("m", "t", "all", 1, 1, 8, 8, math.nan, math.inf, 0.5)
    monkeypatch.setattr("homespun.evaluation.evaluate.evaluate", lambda *_: iter([result]))
    assert main(["eval", "m", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[name] for name in ("loss", "perplexity", "bits_per_byte")] == [None, None, 0.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": []}, "no model is named"),
        ({"seq_len": 33}, "--seq-len is 33, but the context of fine/best.npz is 32"),
        ({"stride": 33}, "--stride is 33, but a window of fine/best.npz has 32 tokens"),
        ({"stride": 17, "seq_len": 16}, "--stride is 17, but a window"),
        ({"stride": 0}, "--stride is 0: it must be at least 1"),
        ({"stride": "all"}, "--stride is 'all': a whole number is expected"),
        ({"models": ["fine", "missing"]}, "missing: no model is there"),
        ({"models": ["fine", ""]}, "--models is empty"),
        ({"models": ["stories.txt"]}, "stories.txt"),
        ({"data_file": "missing.txt"}, "missing.txt: there is no such file or folder"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    settings: dict[str, Any], message: str, place: Path
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        homespun.evaluate(**{"models": ["fine"], "data_file": "other.txt", **settings})
    assert "\n" not in str(refused.value)


def test_one_word_is_text_enough(place: Path) -> None:
    (place / "word.txt").write_text("Once")
    result = score(data_file="word.txt")
    assert (result.part, result.n_bytes) == ("all", 4)
    assert math.isfinite(result.loss)


def test_models_in_a_home_folder_are_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert score("~/fine").loss == score("fine").loss
