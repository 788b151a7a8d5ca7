"""The text and the tokenizer that a run chooses, and its messages about them."""

import dataclasses
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from homespun.config import TokenizerConfig, TrainConfig
from homespun.data.corpus import survey
from homespun.data.train_tokenizer import train_tokenizer
from homespun.errors import UserError
from homespun.stories import stories
from homespun.tokenizer import END_OF_TEXT, Tokenizer
from homespun.training import stages
from homespun.training.stages import choose_plan, set_up
from homespun.training.text_stage import check_sizes, choose_text, choose_tokenizer


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


def test_a_tokenizer_of_this_text_is_found_again_after_others(said: list[str]) -> None:
    """The choice follows the tokenizers that are there, and not the last command."""
    first = Tokenizer.load("tokenizer_model").sha256
    train_tokenizer(TokenizerConfig("book.txt", 300, "elsewhere"), said.append)
    said.clear()
    assert tokenizer_for("other.txt", said).sha256 == first
    assert said == ["Tokenizer: tokenizer_model, trained on this text."]

    train_tokenizer(TokenizerConfig("book.txt", 320), said.append)  # moves it aside
    train_tokenizer(TokenizerConfig("book.txt", 340), said.append)
    said.clear()
    assert tokenizer_for("other.txt", said).sha256 == first
    assert said == ["Tokenizer: tokenizer_model.1, trained on this text."]

    assert tokenizer_for("book.txt", said).vocab_size == 340  # the last one of this text
    assert tokenizer_for("book.txt", said, vocab_size=320).vocab_size == 320
    assert tokenizer_for("book.txt", said, vocab_size=300).vocab_size == 300
    assert said[1:] == [
        f"Tokenizer: {path}, trained on this text."
        for path in ("tokenizer_model", "tokenizer_model.2", "elsewhere")
    ]
    Path(".homespun.json").unlink()
    assert tokenizer_for("other.txt", said).sha256 == first


def test_another_vocabulary_gets_a_tokenizer_of_its_own(said: list[str]) -> None:
    assert tokenizer_for("other.txt", said, vocab_size=400).vocab_size == 400
    assert said[0] == (
        "The tokenizer in tokenizer_model has 300 tokens: training one of 400 tokens on other.txt."
    )
    assert Tokenizer.load("tokenizer_model.1").vocab_size == 300
    said.clear()
    for size in (300, 400):
        assert tokenizer_for("other.txt", said, vocab_size=size).vocab_size == size
    assert len(said) == 2


def test_a_vocabulary_beyond_the_text_is_trained_once(said: list[str]) -> None:
    trained = tokenizer_for("book.txt", said, vocab_size=8000)
    assert 300 < trained.vocab_size < 8000
    [line] = [line for line in said if line.startswith("vocabulary")]
    assert f"{trained.vocab_size:,} of 8,000 tokens: the text has no more pairs to merge" in line
    said.clear()
    for size in (8000, 20_000, trained.vocab_size):
        assert tokenizer_for("book.txt", said, vocab_size=size).sha256 == trained.sha256
        named = {"tokenizer_path": "tokenizer_model", "vocab_size": size}
        assert tokenizer_for("book.txt", said, **named).sha256 == trained.sha256
    assert set(said) == {"Tokenizer: tokenizer_model, trained on this text."}
    with pytest.raises(UserError, match=r"--vocab-size is 400, but the tokenizer in tokenizer_mod"):
        tokenizer_for("book.txt", said, vocab_size=400, tokenizer_path="tokenizer_model")


def damage(path: str) -> None:
    content = Path(path).read_text()
    assert "sha256" in content or '["h","e"]' in content
    Path(path).write_text(content.replace("sha256", "sha257").replace('["h","e"]', '["h","a"]'))


@pytest.mark.parametrize("name", ["tokenizer.json", "report.json"])
def test_a_damaged_tokenizer_is_named_and_not_used(said: list[str], name: str) -> None:
    damage(f"tokenizer_model/{name}")
    with pytest.raises(UserError, match=f"tokenizer_model/{name}.*damaged"):
        tokenizer_for("other.txt", said)
    with pytest.raises(UserError, match=f"tokenizer_model/{name}.*damaged"):
        tokenizer_for("other.txt", said, tokenizer_path="tokenizer_model")
    assert not Path("tokenizer_model.1").exists()
    train_tokenizer(TokenizerConfig("other.txt", 300), said.append)  # the remedy in the message
    said.clear()
    assert tokenizer_for("other.txt", said).vocab_size == 300
    assert said == ["Tokenizer: tokenizer_model, trained on this text."]


def test_a_damaged_tokenizer_that_was_set_aside_is_named_and_left_out(said: list[str]) -> None:
    tokenizer_for("book.txt", said)
    damage("tokenizer_model.1/tokenizer.json")
    said.clear()
    tokenizer_for("other.txt", said)
    assert said[0].startswith("Left out: tokenizer_model.1/tokenizer.json: ")
    assert "damaged" in said[0]
    assert said[1].startswith("The tokenizer in tokenizer_model was trained on another text")


def test_a_damaged_record_of_the_last_tokenizer_is_named(said: list[str]) -> None:
    record = Path(".homespun.json")
    record.write_text(record.read_text().replace("tokenizer_model", "tokenizer_modem"))
    with pytest.raises(UserError, match=r"^\.homespun\.json is damaged .*: delete it"):
        tokenizer_for("other.txt", said)
    named = tokenizer_for("other.txt", said, tokenizer_path="tokenizer_model")
    record.unlink()
    assert tokenizer_for("other.txt", said).sha256 == named.sha256


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


def test_the_folder_of_tokens_is_checked_before_any_work(said: list[str]) -> None:
    config = TrainConfig(data_file="missing.txt", tokens_dir="book.txt/tokens")
    with pytest.raises(UserError, match=r"book\.txt is a file\): choose .*\(--tokens-dir\)"):
        set_up(config, None, said.append)
    assert said == []


def test_nothing_is_written_beside_the_text(said: list[str], tmp_path: Path) -> None:
    for name in ("here", "texts"):
        Path(name).mkdir()
    text = shutil.copy("book.txt", "texts")
    os.chdir("here")
    config = TrainConfig(
        data_file="../texts/book.txt",
        tokenizer_path="../tokenizer_model",
        model_size="pico",
        n_layers=1,
        max_steps=1,
        compile="off",
    )
    for tokens_dir in ("data/tokens", "../elsewhere"):
        set_up(dataclasses.replace(config, tokens_dir=tokens_dir), None, said.append)
        assert sorted(path.name for path in Path(tokens_dir).glob("*/*.tokens")) == [
            "training-00000.tokens",
            "validation-00000.tokens",
        ]
    assert list((tmp_path / "texts").iterdir()) == [tmp_path / text]


def test_too_little_text(said: list[str]) -> None:
    Path("tiny.txt").write_text("a hundred words " * 33)
    with pytest.raises(
        UserError, match=r"tiny\.txt has 526 bytes; a model needs at least about 100"
    ):
        choose_text("tiny.txt", said.append)
    assert said == []
    choose_text("book.txt", said.append)
    assert "bytes; a model needs at least about 100 kB (a short book has 300 kB) to" in said[0]


def test_an_uneven_split_is_announced(said: list[str]) -> None:
    Path("lines.txt").write_text("This is a text file.\n" * 500)
    choose_text("lines.txt", said.append)
    assert said[-1].startswith(
        "Held out for validation: 3.8% of lines.txt instead of about a tenth."
    )
    said.clear()
    choose_text("book.txt", said.append)
    assert len(said) == 1  # about its length


def test_no_text_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"homespun download --dataset stories \(needs no network\)"
    ):
        choose_text(None, print)


@pytest.mark.parametrize("threads", [1, None])
def test_the_machine_is_measured_with_the_threads_of_the_run(
    threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def flops_per_second(precision: str, threads: int | None) -> float:
        asked.append((precision, threads))
        return 1e11

    machine = SimpleNamespace(flops_per_second=flops_per_second, compiles_at_once=lambda: False)
    monkeypatch.setattr(stages.select, "machine", lambda name: machine)
    choose_plan(TrainConfig(threads=threads, precision="bfloat16"), 400, 10_000, print)
    assert asked == [("bfloat16", threads)]


@pytest.mark.parametrize(("works", "last"), [(True, "kernels are compiled"), (False, "no C++")])
def test_the_trial_of_the_compiler_is_announced_before_it_begins(works: bool, last: str) -> None:
    """It takes a minute on a slow machine, and a pipe shows no bar."""
    happened: list[str] = []

    def can_compile() -> bool:
        happened.append("tried")
        return works

    machine: Any = SimpleNamespace(can_compile=can_compile, compiles_at_once=lambda: False)
    assert stages._compiled(True, machine, happened.append) is works
    assert happened[0].startswith("Trying the C++ compiler, which takes up to a minute")
    assert happened[1] == "tried"
    assert last in happened[2]
    assert not stages._compiled(False, machine, happened.append)
    assert len(happened) == 3
