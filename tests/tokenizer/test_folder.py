"""Writing and reading the folder of a tokenizer, and refusing a damaged one."""

import errno
import json
import os
from pathlib import Path

import pytest

from homespun import durable
from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT, Tokenizer, train
from tests.tokenizer.conftest import story_texts


def test_a_saved_tokenizer_comes_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "deep" / "saved", {"note": "é"})
    for path in ("deep/saved", "deep/saved/tokenizer.json"):
        loaded = Tokenizer.load(tmp_path / path)
        assert loaded.sha256 == tokenizer.sha256
        assert loaded.encode(story_texts(1)[0]) == tokenizer.encode(story_texts(1)[0])
        assert 0 not in loaded.encode(END_OF_TEXT)
    assert Tokenizer.from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()
    report = json.loads((tmp_path / "deep/saved/report.json").read_text(encoding="utf-8"))
    assert report == {"vocab_size": 500, "sha256": tokenizer.sha256, "note": "é"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["saved"]


def test_other_libraries_read_the_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Library
    from transformers import PreTrainedTokenizerFast

    tokenizer.save(tmp_path / "saved")
    text = story_texts(1)[0]
    library = Library.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert library.encode(text).ids == tokenizer.encode(text)
    assert library.decode(tokenizer.encode(text)) == text
    fast = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert fast(text)["input_ids"] == tokenizer.encode(text)
    assert fast.decode(tokenizer.encode(text)) == text
    assert (fast.eos_token, fast.eos_token_id, len(fast)) == (END_OF_TEXT, 0, 500)


def test_an_unreadable_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no tokenizer here"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="there is no tokenizer here"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not readable"):
        Tokenizer.load(tmp_path)


def test_an_earlier_tokenizer_moves_aside(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    others = [train(story_texts(50, seed), 300) for seed in (1, 2)]
    assert others[0].save(folder) is None
    assert others[1].save(folder) == tmp_path / "saved.1"
    assert tokenizer.save(folder) == tmp_path / "saved.2"
    kept = [Tokenizer.load(tmp_path / name).sha256 for name in ("saved.1", "saved.2", "saved")]
    assert kept == [others[0].sha256, others[1].sha256, tokenizer.sha256]


def test_a_folder_with_something_else_is_left_alone(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_text("text")
    for name in ("photos", "file", "file/below"):
        with pytest.raises(UserError, match=name):
            tokenizer.save(tmp_path / name)
    monkeypatch.chdir(photos)
    for here in (".", ".."):
        with pytest.raises(UserError, match="a folder of its own"):
            tokenizer.save(Path(here))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cat.jpg", "file", "photos"]


def test_a_full_disk_leaves_the_earlier_tokenizer(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = train(story_texts(50), 300)
    earlier.save(tmp_path / "saved")

    def full(path: Path, *parts: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "write", full)
    with pytest.raises(UserError, match="No space left"):
        tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").sha256 == earlier.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
