"""The split into training and validation has no overlap and depends on the text alone."""

import dataclasses
import gzip
import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from homespun.data import manifest
from homespun.data.corpus import Corpus, survey
from homespun.errors import UserError
from tests.data.files import as_parquet, written

MARK = "<|endoftext|>"


def hash_of(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()


def is_validation(document: str) -> bool:
    return int(hash_of(document), 16) % 10 == 0


def sides(corpus: Corpus) -> tuple[list[str], list[str]]:
    return list(corpus.training()), list(corpus.validation())


def lines(path: Path, texts: Iterator[str] | list[str]) -> Path:
    return written(path, "\n".join(json.dumps(text) for text in texts))


def test_a_tenth_is_validation_by_the_hash_of_each_document(tmp_path: Path) -> None:
    texts = [f"story {i % 700}" for i in range(1000)]
    corpus = survey(lines(tmp_path / "a.jsonl", texts))
    assert list(corpus.split()) == [(text, is_validation(text)) for text in texts]
    training, validation = sides(corpus)
    assert not set(training) & set(validation)
    assert sorted(training + validation) == sorted(texts)
    assert 60 < len(validation) < 140
    assert corpus.n_documents == 1000
    assert corpus.n_bytes == sum(len(text) for text in texts)


def test_identity_is_of_the_text_and_its_order(tmp_path: Path) -> None:
    texts = ["one ü", "two", "three"]
    same = {
        survey(lines(tmp_path / "a.jsonl", texts)).sha256,
        survey(as_parquet(tmp_path / "a.parquet", content=[*texts])).sha256,
        survey(written(tmp_path / "a.txt", f"\n{MARK}\n".join(texts))).sha256,
    }
    assert len(same) == 1
    for other in (["one ü", "three", "two"], ["one ü", "two"], ["one ü", "two t", "hree"]):
        assert survey(lines(tmp_path / "a.jsonl", other)).sha256 not in same


def share(corpus: Corpus) -> float:
    """The share of the bytes that belongs to validation."""
    training, validation = (sum(len(text.encode()) for text in side) for side in sides(corpus))
    return validation / (training + validation)


@pytest.mark.parametrize("n_bytes", [20_000, 100_000, 500_000])
@pytest.mark.parametrize("between", ["\n\n", "\n", " "])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_tenth_of_a_book_is_validation_however_it_is_laid_out(
    tmp_path: Path, n_bytes: int, between: str, seed: int
) -> None:
    rng = random.Random(seed)
    words = [str(rng.randrange(10**6)) for _ in range(1000)]
    paragraphs = [
        " ".join(rng.choice(words) for _ in range(rng.randint(3, 25))) + "."
        for _ in range(n_bytes // 50)
    ]
    corpus = survey(written(tmp_path / "book.txt", between.join(paragraphs)[:n_bytes]))
    assert 0.05 < share(corpus) < 0.2


@pytest.mark.parametrize("side", [False, True])
def test_of_few_documents_a_tenth_is_validation_in_the_order_of_their_hashes(
    tmp_path: Path, side: bool
) -> None:
    lengths = [1, 2, 3, 30]
    candidates = (f"story {i}" + " and so on" * lengths[i % 4] for i in range(1000))
    texts = [text for text in candidates if is_validation(text) is side][:40]
    texts.sort(key=hash_of)
    copies = texts[20:] + texts
    corpus = survey(lines(tmp_path / "a.jsonl", copies))
    different: list[str] = []
    n_bytes, total = 0, sum(map(len, copies))
    for text in texts:
        size = len(text) * copies.count(text)
        few = sum(map(len, [*different, text])) <= sum(map(len, texts)) / 5
        if n_bytes < total / 10 and n_bytes + size <= total / 5 and few:
            different.append(text)
            n_bytes += size
    assert set(sides(corpus)[1]) == set(different)
    assert not set(sides(corpus)[0]) & set(different)


def test_the_shortest_is_validation_where_each_is_more_than_a_fifth(tmp_path: Path) -> None:
    texts = ["a long story", "a story", "a longer story"]
    assert sides(survey(lines(tmp_path / "a.jsonl", texts * 2)))[1] == ["a story"] * 2


def test_of_what_is_divided_already_little_is_kept_aside(tmp_path: Path) -> None:
    texts = [text for text in (f"story {i}" for i in range(300)) if not is_validation(text)]
    assert sides(survey(lines(tmp_path / "a.jsonl", texts)))[1] == [min(texts, key=hash_of)]


def test_a_few_long_documents_are_cut_into_blocks(tmp_path: Path) -> None:
    texts = [" ".join(f"word{name}{i}" for i in range(20_000)) for name in "abc"]
    corpus = survey(lines(tmp_path / "a.jsonl", texts))
    assert 0.05 < share(corpus) < 0.2
    assert " ".join(block for block, _ in corpus.split()) == " ".join(texts)


@pytest.mark.parametrize("copies", [1, 3])
def test_a_lone_document_is_cut_into_blocks(tmp_path: Path, copies: int) -> None:
    text = " ".join(f"word{i}" for i in range(200)) + " again" * 2000 + " " * 5000 + "end"
    corpus = survey(lines(tmp_path / "a.jsonl", [text] * copies))
    training, validation = sides(corpus)
    assert training
    assert validation
    assert not set(training) & set(validation)
    assert all(block.strip() == block != "" for block, _ in corpus.split())
    assert " ".join(block for block, _ in corpus.split()).split() == text.split() * copies
    assert corpus.n_documents == len(training) + len(validation)
    assert corpus.n_bytes == copies * len(text)


@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize(("n_documents", "copies"), [(400, 10), (400, 100), (400, 1000), (12, 200)])
def test_copies_of_a_document_count_with_all_their_bytes(
    tmp_path: Path, side: bool, n_documents: int, copies: int
) -> None:
    candidates = [f"story {i}" + " and so on" * (i % 7) for i in range(2 * n_documents)]
    copied = next(text for text in candidates if is_validation(text) is side)
    texts = candidates[:n_documents] + [copied] * copies
    corpus = survey(lines(tmp_path / "a.jsonl", texts))
    training, validation = sides(corpus)
    assert not set(training) & set(validation)
    assert corpus.validation_bytes == sum(map(len, validation))
    assert share(corpus) <= 0.2
    assert len(set(validation)) <= 0.25 * len(set(texts))
    message = corpus.unevenness()
    if share(corpus) < 0.05:
        assert message
        assert message.startswith(f"Held out for validation: {share(corpus):.1%} of {corpus.path}")
    else:
        assert message is None


def test_a_repeated_line_is_announced(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "This is a text file.\n" * 500)
    corpus = survey(path)
    assert 0 < share(corpus) < 0.05
    assert f"{share(corpus):.1%} of {path} instead of" in str(corpus.unevenness())
    assert survey(path) == corpus  # from the manifest


def test_copies_in_a_large_text_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homespun.data.corpus.LARGE_CORPUS", 100)
    texts = [f"story {i}" for i in range(150)]
    copied = next(text for text in texts if is_validation(text))
    corpus = survey(lines(tmp_path / "a.jsonl", texts + [copied] * 100))
    assert corpus.validation_bytes == sum(map(len, sides(corpus)[1]))
    assert share(corpus) > 0.2
    assert f"{share(corpus):.1%}" in str(corpus.unevenness())


@pytest.mark.parametrize("texts", [["hello"], ["hello"] * 50, ["a" * 2_000]])
def test_too_little_for_two_sides(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(UserError, match="too little text to hold some out for validation"):
        survey(lines(tmp_path / "a.jsonl", texts))


def test_data_that_changes_is_noticed(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", ["one", "two", "three"])
    corpus = survey(path)
    lines(path, ["one", "two", "four"])
    with pytest.raises(UserError, match="changed while it was being read"):
        list(corpus.split())


def test_marks_inside_documents_are_counted_and_the_remedy_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "TIMESTAMP_GRANULARITY", 0)  # so that the text is read once
    said: list[str] = []
    text = written(
        tmp_path / "a b.txt",
        "\n".join(f"{i} one {MARK} {i} two {MARK}three {i}" for i in range(50)),
    )
    assert survey(text, said.append, tmp_path).n_marks == 100
    assert survey(text, said.append, tmp_path).n_marks == 100
    [line, again] = said
    assert f"a b.txt: 100 {MARK} inside documents, where it is ordinary text and ends none" in line
    assert line == again
    assert "\n" not in line
    command = line.partition("own: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    marked = survey(tmp_path / "marked.txt", said.append)
    assert (marked.n_documents, marked.n_marks) == (101, 0)
    assert len(said) == 2


@pytest.mark.parametrize("name", ["a.jsonl", "folder"])
def test_marks_inside_the_documents_of_other_sources(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a.jsonl", tmp_path / "folder" / "a.jsonl"):
        lines(path, [f"story {number} {MARK}" for number in range(30)])
    said: list[str] = []
    survey(tmp_path / name, said.append)
    assert "a line (.jsonl) or a row (.parquet) of its own" in said[0]


def test_the_size_of_blocks_follows_the_text_and_not_its_compressed_size(tmp_path: Path) -> None:
    book = "\n\n".join(f"Paragraph {i}." + " word" * (20 + i % 90) for i in range(300))
    plain = survey(written(tmp_path / "a.txt", book))
    assert survey(
        written(tmp_path / "b.txt.gz", gzip.compress(book.encode()))
    ) == dataclasses.replace(plain, path=tmp_path / "b.txt.gz")


def test_json_under_the_name_of_a_text_is_named(tmp_path: Path) -> None:
    texts = [json.dumps({"text": f"story {number}"}) for number in range(50)]
    said: list[str] = []
    for name, content in (
        ("a.txt", "\n".join(texts)),
        ("b.jsonl", "\n".join(texts)),
        ("c.txt", "\n".join(f"[{number}]" for number in range(500))),
    ):
        survey(written(tmp_path / name, content), said.append)
    [line] = said
    assert "a.txt: its lines are JSON and are read as they are. To read only the text" in line
