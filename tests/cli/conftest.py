"""A folder in which the commands work: stories, tokenizers, a tiny model, and bad files."""

import shlex
from pathlib import Path

import pytest

from homespun.cli.main import main
from tests.cli.lines import TRAIN

FILES = {
    "empty.txt": b"",
    "blank.txt": b" \n\n \n",
    "short.txt": b"Once.",
    "latin1.txt": "Es war einmal ein Bär.\n".encode("latin-1") * 50,
    "binary.txt": bytes(range(256)) * 10,
    "bad.jsonl": b'{"text": "a"}\n{oops\n',
    "columns.jsonl": b'{"one": "a", "other": "b"}\n',
    "bad.parquet": b"PAR1 and so on",
    "paper.pdf": b"%PDF",
    "folder/notes.csv": b"# notes",
    "key.toml": b"learnin_rate = 1\n",
    "type.toml": b'batch_size = "8"\n',
    "syntax.toml": b"batch_size = \n",
    "bound.toml": b"batch_size = -3\n",
    "nan.toml": b"learning_rate = nan\n",
    "there.json": b"{}",
    "latin1.toml": b'data_file = "\xe9"\n',
    "nul.toml": b'checkpoint_dir = "a\\u0000b"\n',
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A folder with stories, two tokenizers, a tiny model in `checkpoints`, and many bad files."""
    folder = tmp_path_factory.mktemp("trained")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "stories.txt").write_bytes(story_file.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        other = "tokenizer --data-file stories.txt --vocab-size 300 --output-dir other_tokenizer"
        assert main(shlex.split(other)) == 0
        assert main(shlex.split("tokenizer --data-file stories.txt --vocab-size 400")) == 0
        assert main(shlex.split(f"{TRAIN} --checkpoint-dir checkpoints")) == 0
        assert main(shlex.split(f"{TRAIN} --checkpoint-dir torn --max-steps 1")) == 0
    best = (folder / "checkpoints/best.npz").read_bytes()
    flipped = bytearray(best)
    flipped[len(best) // 2] ^= 1
    (folder / "flipped.npz").write_bytes(flipped)
    (folder / "truncated.npz").write_bytes(best[: len(best) // 2])
    (folder / "torn/checkpoint_step_1.npz").write_bytes(best[: len(best) // 2])
    return folder


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained
