"""The tokenizer command: its training text, its report, and its record of the last tokenizer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import homespun
from homespun import workspace
from homespun.config import TokenizerConfig
from homespun.data import train_tokenizer as module
from homespun.data.corpus import survey
from homespun.data.known_tokenizers import Origin, origin
from homespun.data.train_tokenizer import train_tokenizer
from homespun.errors import UserError
from homespun.stories import stories
from homespun.tokenizer import END_OF_TEXT, Tokenizer, train


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text in which one word is frequent in the validation documents and absent from all others."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.txt"
    plain = list(stories(300))
    marked = [story + " zqxj" * 20 for story in plain]
    _write_documents(path, plain + marked)
    fitting = [text for text, is_held_out in survey(path).split() if is_held_out == ("zq" in text)]
    _write_documents(path, fitting)
    return path


def _write_documents(path: Path, documents: list[str]) -> None:
    path.write_text(f"\n{END_OF_TEXT}\n".join(documents), encoding="utf-8")


def test_the_command_learns_from_the_training_side_only(data: Path) -> None:
    trained = train_tokenizer(TokenizerConfig(data_file=str(data), vocab_size=500))
    tokens = [trained.token_bytes(token) for token in range(trained.vocab_size)]
    assert not any(b"zq" in token for token in tokens)
    everything = train((text for text, _ in survey(data).split()), 500)
    assert any(b"zq" in everything.token_bytes(token) for token in range(500))


def test_the_command_reports_and_is_remembered(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.remember("data", data, print)
    trained = train_tokenizer(TokenizerConfig(vocab_size=500, output_dir="mine"))
    assert workspace.recall("tokenizer") == Path("mine")
    assert Tokenizer.load(Path("mine")).sha256 == trained.sha256
    report = json.loads(Path("mine/report.json").read_text(encoding="utf-8"))
    held_out = list(survey(data).validation())
    n_bytes = sum(len(text.encode()) for text in held_out)
    assert report["bytes_per_token"] == n_bytes / len(trained.join(held_out))
    assert origin(Path("mine")) == Origin(str(data), survey(data).sha256, 500, 500)
    assert origin(Path("nowhere")) == Origin()
    printed = capsys.readouterr().out
    assert trained.sha256[:12] in printed
    assert f"{report['bytes_per_token']:.3f} bytes per token" in printed

    train_tokenizer(TokenizerConfig(vocab_size=500, output_dir="mine"))
    assert "unchanged" in capsys.readouterr().out
    assert not Path("mine.1").exists()
    train_tokenizer(TokenizerConfig(vocab_size=450, output_dir="mine"))
    assert "(to use it: --tokenizer-path mine.1)" in capsys.readouterr().out
    assert Tokenizer.load(Path("mine.1")).sha256 == trained.sha256


def test_fewer_tokens_are_taken_with_a_line_if_the_text_supports_no_more(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default = homespun.train_tokenizer(data_file=str(data))
    assert 500 < default.vocab_size < 8000
    line = f"{default.vocab_size:,} of 8,000 tokens: the text has no more pairs to merge"
    assert capsys.readouterr().out.count(line) == 1
    trained = origin(Path("tokenizer_model"))
    assert (trained.vocab_size, trained.requested_vocab_size) == (default.vocab_size, 8000)
    for size in (default.vocab_size, default.vocab_size + 1, 8000, 50_000):
        assert trained.has_size(size)
    for size in (257, default.vocab_size - 1):
        assert not trained.has_size(size)
    exact = TokenizerConfig(vocab_size=default.vocab_size)
    assert train_tokenizer(replace(exact, data_file=str(data))).sha256 == default.sha256
    assert not origin(Path("tokenizer_model")).has_size(8000)  # it may have more pairs
    assert not Path("tokenizer_model.1").exists()
    assert "pairs" not in capsys.readouterr().out


def test_training_again_mends_the_report(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TokenizerConfig(data_file=str(data), vocab_size=300)
    train_tokenizer(config)
    report = Path("tokenizer_model/report.json")
    whole = report.read_bytes()
    for damaged in (b"", whole.replace(b"300", b"301", 1), None):
        report.unlink()
        if damaged is not None:
            report.write_bytes(damaged)
        train_tokenizer(config)
        assert "already holds this tokenizer" in capsys.readouterr().out
        assert report.read_bytes() == whole
    assert not Path("tokenizer_model.1").exists()


def test_a_damaged_record_is_named_before_the_work(data: Path) -> None:
    workspace.remember("data", data, print)
    workspace.RECORD.write_text(workspace.RECORD.read_text().replace("data.txt", "date.txt"))
    with pytest.raises(UserError, match=r"^\.homespun\.json is damaged .*: delete it"):
        train_tokenizer(TokenizerConfig(data_file=str(data), vocab_size=300))
    with pytest.raises(UserError, match=r"^\.homespun\.json is damaged .*: delete it"):
        homespun.download(dataset="stories", num_samples=3)
    assert not Path("tokenizer_model").exists()
    assert not Path("data").exists()


def test_training_again_moves_a_damaged_tokenizer_aside(data: Path) -> None:
    config = TokenizerConfig(data_file=str(data), vocab_size=300)
    trained = train_tokenizer(config)
    damaged = Path("tokenizer_model/tokenizer.json")
    damaged.write_text(damaged.read_text().replace('["h","e"]', '["h","a"]'))
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load("tokenizer_model")
    train_tokenizer(config)
    assert Tokenizer.load("tokenizer_model").sha256 == trained.sha256
    assert Path("tokenizer_model.1").exists()


def test_a_folder_that_cannot_be_used_is_refused_before_the_work(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "survey")
    with pytest.raises(UserError, match="a folder of its own"):
        train_tokenizer(TokenizerConfig(data_file=str(data), output_dir="."))


def test_the_command_needs_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="homespun download --dataset stories"):
        train_tokenizer(TokenizerConfig())
