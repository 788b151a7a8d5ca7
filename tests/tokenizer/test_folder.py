"""Writing and reading the folder of a tokenizer, and refusing a damaged one."""

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from homespun import durable
from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT, Tokenizer, train
from tests.tokenizer.conftest import story_texts


def test_a_saved_tokenizer_comes_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "deep" / "saved", {"note": "é"})
    saved = tmp_path / "deep" / "saved"
    for path in (saved, str(saved), saved / "tokenizer.json", str(saved / "tokenizer.json")):
        loaded = Tokenizer.load(path)
        assert loaded.sha256 == tokenizer.sha256
        assert loaded.encode(story_texts(1)[0]) == tokenizer.encode(story_texts(1)[0])
        assert 0 not in loaded.encode(END_OF_TEXT)
    assert Tokenizer.from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()
    facts = {"vocab_size": 500, "sha256": tokenizer.sha256, "note": "é"}
    assert durable.read_json(saved / "report.json") == facts
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


@pytest.fixture
def saved(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    tokenizer.save(tmp_path / "saved", {"data_sha256": "ab" * 32})
    return tmp_path / "saved"


def test_a_flipped_bit_never_gives_another_tokenizer(saved: Path, tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for name in ("tokenizer.json", "report.json"):
        whole = (saved / name).read_bytes()
        named = 0
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            (saved / name).write_bytes(damaged)
            try:
                loaded = Tokenizer.load(saved)
            except UserError as error:
                named += name in str(error) or "describes" in str(error)
            else:
                assert loaded.sha256 == tokenizer.sha256
        assert named > 100
        (saved / name).write_bytes(whole)


def test_another_tokenizer_of_the_same_size_is_refused_beside_the_report(
    saved: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    other = train(story_texts(200, seed=1), 500)
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other/tokenizer.json", saved)
    for path in (saved, saved / "tokenizer.json"):
        with pytest.raises(UserError, match=r"delete report\.json, if you put another") as refused:
            Tokenizer.load(path)
        assert str(refused.value).startswith(f"{saved}/tokenizer.json: damaged, or not the one")
    (saved / "report.json").unlink()
    assert Tokenizer.load(saved).sha256 == other.sha256


def test_a_damaged_report_is_named(saved: Path) -> None:
    report = saved / "report.json"
    report.write_bytes(report.read_bytes().replace(b"abab", b"abac", 1))
    for path in (saved, saved / "tokenizer.json"):
        with pytest.raises(UserError, match=r"report\.json is damaged .* delete this file to use"):
            Tokenizer.load(path)


@pytest.mark.parametrize("report", [None, b'{"score": 3}', b"{}"])
def test_a_tokenizer_of_others_needs_no_report(
    saved: Path, tokenizer: Tokenizer, report: bytes | None
) -> None:
    (saved / "report.json").unlink()
    if report is not None:
        (saved / "report.json").write_bytes(report)
    assert Tokenizer.load(saved).sha256 == tokenizer.sha256
    shutil.copy(saved / "tokenizer.json", saved / "mine.json")
    (saved / "report.json").write_text('{"sha256": "of another one"}')
    assert Tokenizer.load(saved / "mine.json").sha256 == tokenizer.sha256


def test_a_report_of_an_earlier_version_is_compared(saved: Path, tokenizer: Tokenizer) -> None:
    report = saved / "report.json"
    report.write_text(json.dumps({"sha256": tokenizer.sha256, "vocab_size": 500}))
    assert Tokenizer.load(saved).sha256 == tokenizer.sha256
    report.write_text(json.dumps({"sha256": "0" * 64, "vocab_size": 500}))
    with pytest.raises(UserError, match="damaged, or not the one"):
        Tokenizer.load(saved)


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
