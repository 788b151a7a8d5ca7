"""The text and the tokenizer that a run chooses, and its messages about them."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from homespun.config import TokenizerConfig, TrainConfig
from homespun.data.corpus import survey
from homespun.data.train_tokenizer import train_tokenizer
from homespun.errors import UserError
from homespun.stories import stories
from homespun.tokenizer import END_OF_TEXT, Tokenizer
from homespun.training.stages import check_sizes, choose_text, choose_tokenizer


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages, in a folder with two texts and a tokenizer of one of them."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("book.txt", 1), ("other.txt", 2)):
        text = f"\n{END_OF_TEXT}\n".join(stories(60, seed))
        Path(name).write_text(text, encoding="utf-8")
    lines: list[str] = []
    train_tokenizer(TokenizerConfig("other.txt", vocab_size=300), lines.append)
    lines.clear()
    return lines


def tokenizer_for(text: str, said: list[str], **settings: str | int) -> Tokenizer:
    config = dataclasses.replace(TrainConfig(data_file=text), **settings)  # type: ignore[arg-type]
    corpus = survey(Path(text))
    check_sizes(config, corpus)
    return choose_tokenizer(config.tokenizer_path, config.vocab_size, corpus, said.append)


def test_the_last_tokenizer_serves_its_own_text(said: list[str]) -> None:
    shutil.copy("other.txt", "the_same.txt")
    last = Tokenizer.load(Path("tokenizer_model")).sha256
    for name in ("other.txt", "the_same.txt"):
        assert tokenizer_for(name, said).sha256 == last
        assert said.pop() == "Tokenizer: tokenizer_model, trained on this text."
    assert not Path("tokenizer_model.1").exists()


def test_another_text_gets_a_tokenizer_of_its_own(said: list[str]) -> None:
    last = Tokenizer.load(Path("tokenizer_model")).sha256
    trained = tokenizer_for("book.txt", said)
    assert said[:2] == [
        "The tokenizer in tokenizer_model was trained on another text (other.txt): "
        "training one on book.txt.",
        "The earlier tokenizer moved to tokenizer_model.1 "
        "(to use it: --tokenizer-path tokenizer_model.1).",
    ]
    assert Tokenizer.load(Path("tokenizer_model")).sha256 == trained.sha256 != last
    assert Tokenizer.load(Path("tokenizer_model.1")).sha256 == last
    assert tokenizer_for("book.txt", said).sha256 == trained.sha256
    assert said[-1] == "Tokenizer: tokenizer_model, trained on this text."


def test_the_text_of_a_tokenizer_may_have_changed(said: list[str]) -> None:
    shutil.copy("book.txt", "other.txt")
    tokenizer_for("other.txt", said)
    assert "was trained on an earlier content of other.txt: training one on" in said[0]


@pytest.mark.parametrize("name", ["tokenizer_model", "tokenizer_model/tokenizer.json"])
def test_a_tokenizer_that_is_named_is_taken_for_any_text(said: list[str], name: str) -> None:
    last = Tokenizer.load(Path("tokenizer_model")).sha256
    taken = tokenizer_for("book.txt", said, tokenizer_path=name)
    assert taken.sha256 == last
    assert said == [f"Tokenizer: {name}, trained on another text (other.txt)."]


def test_a_tokenizer_that_was_deleted_is_trained_again(said: list[str]) -> None:
    shutil.rmtree("tokenizer_model")
    with pytest.raises(UserError, match="there is no tokenizer here"):
        tokenizer_for("other.txt", said, tokenizer_path="tokenizer_model")
    tokenizer_for("other.txt", said)
    assert said[0] == "There is no tokenizer yet: training one on other.txt."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_size": "large"}, "--model-size 'large' is unknown"),
        ({"model_size": "tiny", "batch_size": 1000}, "lower --batch-size"),
        ({"model_size": "tiny", "n_heads": 7}, "--n-heads 7"),
    ],
)
def test_settings_are_refused_before_a_tokenizer_is_trained(
    said: list[str], settings: dict[str, str | int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tokenizer_for("book.txt", said, **settings)
    assert not Path("tokenizer_model.1").exists()


def test_too_little_text(said: list[str]) -> None:
    Path("tiny.txt").write_text("a hundred words " * 33)
    with pytest.raises(
        UserError, match=r"tiny\.txt has 526 bytes; a model needs at least about 100"
    ):
        choose_text("tiny.txt", said.append)
    assert said == []
    choose_text("book.txt", said.append)
    assert "bytes; a model needs at least about 100 kB (a short book has 300 kB) to" in said[0]


def test_no_text_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"homespun download --dataset stories \(needs no network\)"
    ):
        choose_text(None, print)
