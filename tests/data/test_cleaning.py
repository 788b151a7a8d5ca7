"""Documents that are left out, and the report of them."""

import base64
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from homespun.data.cleaning import clean as module
from homespun.data.cleaning import rules
from homespun.data.cleaning.clean import Filters, Report, clean, record_of
from homespun.data.cleaning.duplicates import SAMPLES, Duplicates, NearDuplicates, signatures
from homespun.data.cleaning.rules import fault_of
from homespun.data.documents import documents
from homespun.errors import UserError
from homespun.stories import stories
from tests.data.files import as_parquet, written

EXACT = Filters(poor=False, duplicates=True, near_duplicates=False, similarity=0.8)
NEAR = Filters(poor=False, duplicates=True, near_duplicates=True, similarity=0.8)
POOR = Filters(poor=True, duplicates=False, near_duplicates=False, similarity=0.8)
ALL = Filters(poor=True, duplicates=True, near_duplicates=True, similarity=0.8)

STORIES = list(stories(60, seed=4))
CHINESE = "从前有一只小猫，它住在河边的房子里。" + "".join(chr(0x4E00 + 7 * n) for n in range(400))
HINDI = " ".join(f"एक समय की बात है राजा और रानी {word}" for word in ("क", "ख", "ग", "घ", "च")) * 3


def changed(story: str) -> str:
    """The same story with another word in one place."""
    words = story.split(" ")
    words[len(words) // 2] = "suddenly"
    return " ".join(words)


# Rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("Too short.", rules.SHORT),
        ("1 2 3, 4 5 6; " * 100, rules.SYMBOLS),
        ("\n".join(["Home | About | Contact us today"] * 20 + ["A line."]), rules.REPEATED_LINES),
        ("All work and no play makes Jack a dull boy. " * 100, rules.REPETITIVE),
        (
            "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ", k=20_000)),
            rules.NOISE,
        ),
        (base64.b64encode(random.Random(2).randbytes(300)).decode(), None),
        (CHINESE, None),
        (HINDI, None),
        *[(story, None) for story in STORIES[:5] if len(story) > 300],
    ],
)  # fmt: skip
def test_the_reason_to_leave_a_document_out(document: str, reason: str | None) -> None:
    assert fault_of(document) == reason


# Duplicates -------------------------------------------------------------------------------------


def test_the_first_of_equal_documents_is_the_original() -> None:
    found = Duplicates()
    hashes = [bytes([n]) * 32 for n in (1, 2, 1, 3, 2, 1)]
    originals = [found.original(number, sha256) for number, sha256 in enumerate(hashes)]
    assert originals == [None, None, 0, None, 1, 0]


def test_signatures_measure_similarity() -> None:
    pytest.importorskip("datasketch")
    words = [f"w{n}" for n in range(1000)]
    whole, half = " ".join(words), " ".join(words[:500])
    a, b, c = signatures([whole, half, whole.upper()])
    assert np.mean(a == b) == pytest.approx(0.5, abs=0.15)
    assert np.array_equal(a, c)
    assert signatures([]).shape == (0, SAMPLES)
    smile, other = signatures(["😀😀", "🚀"])
    assert not np.array_equal(smile, other)


def test_near_duplicates_are_found() -> None:
    pytest.importorskip("datasketch")
    texts = [" ".join(f"w{n}" for n in range(start, start + 400)) for start in (0, 5_000, 20, 300)]
    found = NearDuplicates(0.8)
    originals = [found.original(number, one) for number, one in enumerate(signatures(texts))]
    assert originals == [None, None, 0, None]  # 90% in common with the first, and 14%


# The whole --------------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Stories, some of them twice, some nearly, in files of two kinds."""
    folder = tmp_path / "texts"
    folder.mkdir()
    mark = "\n<|endoftext|>\n"
    written(folder / "a.txt", mark.join([*STORIES[:40], STORIES[3], "Too short.", STORIES[5]]))
    as_parquet(folder / "b.parquet", text=[*STORIES[40:], changed(STORIES[0]), STORIES[3]])
    return folder


def kept(folder: Path) -> list[str]:
    return list(documents(folder))


def test_equal_documents_are_left_out(text: Path, tmp_path: Path) -> None:
    report = clean(text, tmp_path / "clean", EXACT)
    assert report
    expected = list(dict.fromkeys(documents(text)))
    assert kept(tmp_path / "clean") == expected
    assert report.kept.documents == len(expected)
    assert report.kept.n_bytes == sum(len(document.encode()) for document in expected)
    assert {reason: share.documents for reason, share in report.dropped.items()} == {"duplicate": 3}
    first = report.dropped["duplicate"].examples[0]
    assert first.place == f"{text / 'a.txt'}, document 41"
    assert first.original == f"{text / 'a.txt'}, document 4"
    across = report.dropped["duplicate"].examples[2]
    assert across.place == f"{text / 'b.parquet'}, document 22"
    record = json.loads(record_of(tmp_path / "clean").read_text())
    assert record["dropped"]["duplicate"]["documents"] == 3
    assert record["filters"]["duplicates"] is True
    assert report.table()[1].split()[:2] == ["kept", "62"]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_all_filters_together(
    text: Path, tmp_path: Path, n_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasketch")
    monkeypatch.setattr(module, "TOGETHER", 5_000)
    monkeypatch.setattr(module, "PART_BYTES", 20_000)
    report = clean(text, tmp_path / "clean", ALL, n_workers)
    assert report
    assert {reason: share.documents for reason, share in report.dropped.items()} == {
        "duplicate": 3,
        "near duplicate": 1,
        "short": 1,
    }
    assert kept(tmp_path / "clean") == STORIES
    assert len(list((tmp_path / "clean").iterdir())) > 1


def test_a_folder_that_is_there_is_not_made_again(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "clean"
    assert isinstance(clean(text, output, EXACT), Report)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert clean(text, output, EXACT) is None
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    with pytest.raises(UserError, match="is there already, and was not made from this text"):
        clean(text, output, POOR)
    written(text / "c.txt", "\n".join(STORIES))
    with pytest.raises(UserError, match="is there already"):
        clean(text, output, EXACT)
    (text / "c.txt").unlink()
    [part] = output.iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match="is there already"):
        clean(text, output, EXACT)


def test_a_folder_of_somebody_else_is_left_alone(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    with pytest.raises(UserError, match="mine is there already"):
        clean(text, output, EXACT)
    with pytest.raises(UserError, match="holds a part of"):
        clean(text, text, EXACT)


def test_nothing_is_left_behind_by_a_failure(text: Path, tmp_path: Path) -> None:
    written(text / "z.txt", b"good text\n\xff\xfe\xff")
    with pytest.raises(UserError, match=r"z\.txt: not UTF-8 in line 2"):
        clean(text, tmp_path / "clean", EXACT)
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_a_text_of_which_nothing_is_left(tmp_path: Path) -> None:
    text = written(tmp_path / "a.jsonl", '"short"\n"shorter"\n')
    with pytest.raises(UserError, match=r"a\.jsonl: no document is left \(short: 2\)"):
        clean(text, tmp_path / "clean", POOR)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_folder_without_a_name_is_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"--output \.: name a new folder"):
        clean(text, Path(), POOR)


def test_the_library_is_named_where_it_is_missing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(UserError, match=r"pip install 'homespun\[clean\]'"):
        clean(text, tmp_path / "clean", NEAR)
