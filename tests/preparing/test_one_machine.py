"""`homespun prepare`, from the command line to the tokens of a run."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from homespun import child_process
from homespun.checkpoint.archive import read_archive
from homespun.cli.main import main
from homespun.data.corpus import survey
from homespun.data.files import files_to_read
from homespun.data.prepare import prepare
from homespun.data.remote import RECORD
from homespun.errors import UserError
from homespun.stories import stories
from homespun.tokenizer import Tokenizer
from tests.preparing.files import MARK, contents


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with texts in folders of two depths."""
    monkeypatch.chdir(tmp_path)
    texts = list(stories(120, seed=1))
    (tmp_path / "web/deep").mkdir(parents=True)
    (tmp_path / "web/a.txt").write_text(MARK.join(texts[:60]))
    lines = (json.dumps({"text": text}) for text in [*texts[60:], texts[0]])
    (tmp_path / "web/deep/b.jsonl").write_text("\n".join(lines))
    (tmp_path / "web/notes.pdf").write_bytes(b"%PDF-1.7")
    return tmp_path


def tokens_in(place: Path, folder: str = "data/tokens") -> Path:
    [found] = [path for path in (place / folder).iterdir() if path.is_dir()]
    return found


def test_the_tokens_are_those_of_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", "--data-file", "web/**/*", "--workers", "2", "--vocab-size", "500"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "There is no tokenizer yet: training one of 500 tokens" in first
    assert "text    web/**/*: 121 documents" in first
    assert "with 2 processes" in first
    assert "next    homespun train --data-file 'web/**/*'" in first
    corpus, tokenizer = survey(Path("web/**/*")), Tokenizer.load("tokenizer_model")
    expected = contents(prepare(corpus, tokenizer, place / "control").folder)
    assert contents(tokens_in(place)) == expected
    folder = str(tokens_in(place))
    assert main(["verify", folder]) == 0
    record = place / folder / RECORD
    assert f"{record}: tokens of" in capsys.readouterr().out
    record.write_bytes(record.read_bytes().replace(b'"n_documents": 121', b'"n_documents": 122'))
    assert main(["verify", folder]) == 2
    assert f"{record} is damaged" in capsys.readouterr().out
    assert main(command) == 0  # writes it anew
    assert main(["verify", folder]) == 0
    capsys.readouterr()
    assert main(command) == 0
    again = capsys.readouterr().out
    assert "Tokenizer: tokenizer_model, trained on this text." in again
    assert "time    already there" in again
    assert contents(tokens_in(place)) == expected


def test_documents_are_left_out_first(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", "--data-file", "web/**/*", "--drop-duplicates", "exact", "--drop-poor"]
    assert main([*command, "--output", "kept"]) == 0
    said = capsys.readouterr().out
    assert ["duplicate", "1"] in [line.split()[:2] for line in said.split("\n")]
    assert "next    homespun train --data-file kept" in said
    assert survey(Path("kept")).n_documents == 120
    assert main([*command, "--output", "kept"]) == 0
    assert "kept: already there, see kept.report.json" in capsys.readouterr().out


def test_a_mixture_and_its_tokens_elsewhere(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mix.toml").write_text('[mixture]\n"web/a.txt" = 1\n"web/deep/*.jsonl" = 2\n')
    assert main(["prepare", "--data-file", "mix.toml", "--workers", "2"]) == 0
    folders = [path for path in (place / "data/tokens").iterdir() if path.is_dir()]
    assert len(folders) == 2
    for number, folder in enumerate(folders):
        shutil.copytree(folder, place / f"copy{number}")
        (place / f"{number}.toml").write_text(f'[tokens]\nurl = "copy{number}"\n')
    (place / "elsewhere.toml").write_text('[mixture]\n"0.toml" = 1\n"1.toml" = 2\n')
    capsys.readouterr()
    assert main(["prepare", "--data-file", "elsewhere.toml"]) == 0
    said = capsys.readouterr().out
    assert "Tokenizer: the one that made the tokens of elsewhere.toml." in said
    assert "time    already there" in said
    assert main(["prepare", "--data-file", "mix.toml", "--drop-poor"]) == 2
    assert "mix.toml describes a text: leave documents out of" in capsys.readouterr().err


def test_conversations_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"prompt": f"How many? {n}", "answer": "Two."}) for n in range(30)]
    (place / "chats.jsonl").write_text("\n".join(lines))
    assert main(["prepare", "--data-file", "chats.jsonl"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: chats.jsonl holds conversations, whose tokens depend on")
    assert not (place / "data").exists()


def test_patterns(place: Path) -> None:
    assert [path.name for path in files_to_read(Path("web/*"))] == ["a.txt"]
    assert [path.name for path in files_to_read(place / "web/**/*")] == ["a.txt", "b.jsonl"]
    said: list[str] = []
    survey(Path("web/**/*"), said.append)
    assert said == ["Left out of web/**/*: 1 other file."]
    with pytest.raises(UserError, match=r"web/\*\.pdf: no .* matches this pattern \(only 1 other"):
        files_to_read(Path("web/*.pdf"))
    (place / "web/[odd].txt").write_text("x")
    assert files_to_read(Path("web/[odd].txt")) == [Path("web/[odd].txt")]


def test_an_interrupted_command_leaves_no_process(place: Path) -> None:
    """Ctrl-C reaches only the command, which ends the others."""
    texts = list(stories(300, seed=2))
    (place / "long.txt").write_text(MARK.join(f"{n} {text}" for n in range(120) for text in texts))
    assert main(["tokenizer", "--data-file", "web/a.txt", "--vocab-size", "300"]) == 0
    words = ["prepare", "--data-file", "long.txt", "--tokenizer-path", "tokenizer_model"]
    command = [*child_process.command("homespun"), *words, "--workers", "2"]
    environment = child_process.environment() | {"HOMESPUN_TEST": str(place)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    while not list(place.glob("data/tokens/*/lock")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    mark = f"HOMESPUN_TEST={place}".encode()
    left = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            left += [entry] if mark in entry.read_bytes().split(b"\0") else []
        except OSError:
            continue
    assert not left


def test_a_run_on_a_mixture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mix.toml").write_text('[mixture]\n"web/a.txt" = 1\n"web/deep/*.jsonl" = 2\n')
    model = "--model-size pico --n-layers 1 --d-model 32 --n-heads 2 --seq-len 32 --batch-size 4"
    train = ["train", *model.split(), "--eval-tokens", "500", "--max-steps", "2"]
    assert main([*train, "--data-file", "mix.toml", "--vocab-size", "400"]) == 0
    said = capsys.readouterr().out
    assert "Mixture: 33.3% web/a.txt, used " in said
    assert "Mixture: 66.7% web/deep/*.jsonl, used " in said
    header = read_archive(place / "checkpoints/best.npz").header
    texts = [survey(Path(name)).sha256 for name in ("web/a.txt", "web/deep/*.jsonl")]
    assert header["learned_before"] == texts
    assert header["data_sha256"] == survey(Path("mix.toml")).sha256
    assert main(["eval", "--data-file", "web/a.txt"]) == 0
    assert "only the part that was held out" in capsys.readouterr().out
    assert main(["train", "--resume", "--max-steps", "3"]) == 0
    (place / "mix.toml").write_text('[mixture]\n"web/a.txt" = 1\n"web/deep/*.jsonl" = 3\n')
    capsys.readouterr()
    assert main(["train", "--resume", "--max-steps", "4"]) == 2
    assert "is not the text of this run, or has other weights" in capsys.readouterr().err
