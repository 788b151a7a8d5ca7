"""Choices between texts: exact sums, ties, a model that knows nothing, and pairs from files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.cli.main import main
from homespun.errors import UserError
from homespun.evaluation import choices
from homespun.evaluation.choices import log_probabilities, read_pairs, scored
from homespun.evaluation.intervals import interval
from homespun.language_model import LanguageModel, load_stored
from homespun.stories.pairs import SKILLS, Pair

SEQ_LEN = 32


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A run on stories in `checkpoints`, and a model whose weights are all zero, `zero.npz`."""
    folder = tmp_path_factory.mktemp("choices")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shape: dict[str, Any] = {"model_size": "pico", "n_layers": 1, "d_model": 32, "n_heads": 2}
        homespun.train(data_file=story_file, vocab_size=300, seq_len=SEQ_LEN, max_steps=3, **shape)
        model = homespun.load("checkpoints")
        zeros = dataclasses.replace(
            model.stored,
            tensors=lambda: (
                (name, np.zeros_like(values)) for name, values in model.stored.tensors()
            ),
        )
        load_stored(zeros, homespun.GenerateConfig()).save_weights("zero.npz")
    return folder


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.setattr(choices, "PAIRS_PER_SKILL", 4)
    return trained


def one_by_one(model: LanguageModel, text: str) -> float:
    """The log-probability of a text, token by token, with the context of a window that slides by half."""
    ids = [model.tokenizer.eot_id, *model.tokenizer.encode(text)]
    total = 0.0
    for target in range(1, len(ids)):
        beyond = max(0, target - SEQ_LEN)
        start = -(-beyond // (SEQ_LEN // 2)) * (SEQ_LEN // 2)
        logits = model(ids[start:target])[-1].astype(np.float64)
        total += logits[ids[target]] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    return total


def test_the_sum_over_a_text_is_that_of_its_tokens(place: Path) -> None:
    model = homespun.load("checkpoints", precision="float32")
    texts = ["Once.", "Once upon a time, a fox met a bear. " * 5, "A fox."]
    sums = log_probabilities(model, texts, batch_size=2)
    assert sums == pytest.approx([one_by_one(model, text) for text in texts], rel=1e-5)


def test_a_model_that_knows_nothing_is_right_in_exactly_half(place: Path) -> None:
    [result] = homespun.evaluate(models=["zero.npz"], choices="stories")
    assert [score.skill for score in result.skills] == list(SKILLS)
    assert {score.share for score in (*result.skills, result.overall)} == {0.5}


def test_a_tie_counts_half() -> None:
    three = [Pair("a", "b", "x"), Pair("c", "d", "x"), Pair("e", "f")]
    overall, skills = scored(three, np.array([0.1, 0.0, -0.1]))
    assert (overall.n_pairs, overall.right, overall.share) == (3, 1.5, 0.5)
    assert [(score.skill, score.n_pairs, score.right) for score in skills] == [("x", 2, 1.5)]


def test_the_interval_is_that_of_wilson() -> None:
    # Brown, Cai and DasGupta 2001: no success in n trials reaches up to z^2 / (n + z^2).
    assert interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert interval(41, 50) == pytest.approx((0.6920, 0.9023), abs=1e-4)
    assert interval(50, 50)[1] == pytest.approx(1)


def test_the_table_and_the_json_agree(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "checkpoints", "--choices"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert main(["eval", "checkpoints", "--choices", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(table) == len(SKILLS) + 2
    assert table[-1].split()[:3] == ["all", "40", f"{result['overall']['share']:.1%}"]
    [again] = homespun.evaluate(models=["checkpoints"], choices="stories")
    assert json.loads(json.dumps(dataclasses.asdict(again))) == result


FILES = {
    "pairs.tsv": "A fox ran.\tA fox run.\tverbs\nA bear.\tA bears.\n",
    "titled.tsv": "skill\tsentence_bad\tsentence_good\r\nverbs\tA fox run.\tA fox ran.\r\n\tA bears.\tA bear.\r\n",
    "pairs.jsonl": '{"sentence_good": "A fox ran.", "sentence_bad": "A fox run.", "UID": "verbs"}\n'
    '{"sentence_good": "A bear.", "sentence_bad": "A bears.", "other": 1}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_pairs_come_from_files(name: str, place: Path, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(FILES[name], encoding="utf-8", newline="")
    expected = [Pair("A fox ran.", "A fox run.", "verbs"), Pair("A bear.", "A bears.")]
    assert read_pairs(file) == expected
    [result] = homespun.evaluate(models=["checkpoints"], choices=file)
    assert result.overall.n_pairs == 2
    assert [score.skill for score in result.skills] == ["verbs"]


BAD = [
    ("a.tsv", "one text\n", "line 1: 0 tabs"),
    ("a.tsv", "a\tb\tc\td\n", "line 1: 3 tabs"),
    ("a.tsv", "a\tb\n\na\t \n", "line 3: sentence_bad is missing or empty"),
    ("a.tsv", "same\tsame\n", "line 1: both texts are the same"),
    ("a.tsv", "\n", "has no pairs"),
    ("a.jsonl", "{", "line 1: not JSON"),
    ("a.jsonl", "[1]", "line 1: an object with"),
    ("a.jsonl", '{"sentence_good": "a", "sentence_bad": 1}', "line 1: sentence_bad is missing"),
    ("a.txt", "a\tb\n", "end in .jsonl or .tsv"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_a_bad_file_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / name)


def test_what_is_no_file_of_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.tsv").write_bytes(b"caf\xe9\tb\n")
    for path, message in (
        (tmp_path, "name models before --choices"),
        (tmp_path / "none.tsv", "no such file"),
        (tmp_path / "latin.tsv", "not UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            read_pairs(path)


@pytest.mark.parametrize(
    "setting", [{"precision": "bfloat16"}, {"data_file": "a.txt"}, {"stride": 2}, {"seq_len": 9}]
)
def test_settings_that_do_not_fit_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--choices"):
        homespun.EvalConfig(choices="stories", **setting)
