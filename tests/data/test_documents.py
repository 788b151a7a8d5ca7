"""Reading is lossless under its stated policy, in bounded memory; the split has two clean sides."""

import hashlib
import io
import json
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from homespun.data import documents as module
from homespun.data.documents import MAX_DOCUMENT, Corpus, documents, read, survey
from homespun.errors import UserError

MARK = "<|endoftext|>"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_parquet(path: Path, **columns: Sequence[str | None]) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=10)
    return path


# Policy, kind by kind


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"one\n{MARK}\ntwo\n{MARK}\n", ["one", "two"]),
        (f"one\n{MARK}\ntwo", ["one", "two"]),
        (f"one\n{MARK}", ["one"]),
        (f"\ufeff{MARK}\n\n one \n{MARK}\n \n{MARK}\ntwo", ["one", "two"]),
        (f"one\r\ntwo\r\n{MARK}\r\nthree\rfour\r{MARK}\rfive", ["one\ntwo", "three\nfour", "five"]),
        (f"say {MARK}\n{MARK} \n {MARK}\n{MARK}\nb", [f"say {MARK}\n{MARK} \n {MARK}", "b"]),
        (f"{MARK}{MARK}\n{MARK}\nb", [f"{MARK}{MARK}", "b"]),
        ("no mark, one text", ["no mark, one text"]),
    ],
)
def test_txt(tmp_path: Path, content: str, expected: list[str]) -> None:
    assert list(documents(written(tmp_path / "a.txt", content))) == expected


def test_jsonl_and_parquet_take_the_mark_as_text(tmp_path: Path) -> None:
    texts = [f"a\n{MARK}\nb", "\r\nc\rd ", "", "nul \0 inside", "ü 漢 🎈"]
    expected = [f"a\n{MARK}\nb", "c\nd", "nul  inside", "ü 漢 🎈"]
    lines = "\ufeff" + "\n\n".join(json.dumps({"id": 1, "text": text}) for text in texts)
    assert list(documents(written(tmp_path / "a.jsonl", lines))) == expected
    strings = "\n".join(json.dumps(text) for text in texts)
    assert list(documents(written(tmp_path / "b.jsonl", strings))) == expected
    table = as_parquet(tmp_path / "c.parquet", text=[*texts, None], id=["1"] * 6)
    assert list(documents(table)) == expected


@pytest.mark.parametrize(
    ("columns", "taken"),
    [
        (("text", "story"), "text"),
        (("content", "text", "story"), "text"),
        (("id", "story"), "story"),
        (("content",), "content"),
        (("story", "content"), None),
        (("body", "title"), None),
    ],
)
def test_text_column(tmp_path: Path, columns: tuple[str, ...], taken: str | None) -> None:
    row = {column: f"the {column}" for column in columns}
    lines = written(tmp_path / "a.jsonl", json.dumps(row))
    table = as_parquet(tmp_path / "a.parquet", **{name: [value] for name, value in row.items()})
    for path in (lines, table):
        if taken:
            assert list(documents(path)) == [f"the {taken}"]
        else:
            with pytest.raises(UserError, match=f"'{columns[0]}', '{columns[1]}'"):
                list(documents(path))
        assert list(documents(path, column=columns[-1])) == [f"the {columns[-1]}"]
        with pytest.raises(UserError, match="no column 'other'"):
            list(documents(path, column="other"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\n" * 300_000 + b"caf\xe9\n", "a.txt: not UTF-8 at byte 1500003"),
        ("a.txt", b"\xef\xbb\xbfcaf\xe9\n", "not UTF-8 at byte 6"),
        ("a.txt", "wide".encode("utf-16"), "not UTF-8 at byte 0|NUL at byte 3"),
        ("a.txt", b"text\0", "a.txt: NUL at byte 4: this is not a text file"),
        ("a.txt", b"", "no text"),
        ("a.txt", b" \n\n\t", "no text"),
        ("a.jsonl", b'"a"\n{"text": "b"\n', "a.jsonl:2: not a JSON value"),
        ("a.jsonl", b'{"text": 5}\n', "a.jsonl:1: the document is not a text but a int"),
        ("a.jsonl", b"[1]", "a.jsonl:1: the document is not a text but a list"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}', "a.jsonl:2: no column 'text'; it has 'body'"),
        ("a.jsonl", b'"\\ud83d"', "a.jsonl:1: half of a surrogate pair"),
        ("a.jsonl", b'"a"\n"\xff"', "a.jsonl: not UTF-8 at byte 5"),
        ("a.jsonl", b"[" * 200_000, "a.jsonl:1: not a JSON value"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: not readable as parquet"),
        ("a.parquet", b"", "a.parquet: not readable as parquet"),
        ("a.pdf", b"text", "a.pdf: this kind of file is not read"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        survey(path)
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        documents(tmp_path / "absent.txt")
    (tmp_path / "empty").mkdir()
    written(tmp_path / "empty" / "notes.md", "text")
    written(tmp_path / "empty" / ".hidden.txt", "text")
    with pytest.raises(UserError, match=r"no \.txt, \.jsonl, \.parquet file"):
        documents(tmp_path / "empty")


def test_invalid_utf8_in_parquet_names_the_file(tmp_path: Path) -> None:
    binary = pa.array([b"fine", b"caf\xe9"])
    text = pa.Array.from_buffers(pa.string(), 2, binary.buffers())
    parquet.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: not UTF-8"):
        list(documents(tmp_path / "a.parquet"))


def test_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    written(tmp_path / "b.TXT", "two")
    as_parquet(tmp_path / "c.parquet", story=["three"])
    written(tmp_path / "a.jsonl", '"one"')
    written(tmp_path / "a.md", "not this")
    (tmp_path / "d.txt").mkdir()
    assert list(documents(tmp_path)) == ["one", "two", "three"]


# Long texts


def test_a_book_becomes_blocks_of_whole_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}." + " word" * (20 + i % 90) for i in range(300)]
    blocks = list(documents(written(tmp_path / "book.txt", "\r\n\r\n".join(paragraphs))))
    assert "\n\n".join(blocks).split("\n\n") == paragraphs
    assert all(3_900 <= len(block) <= 5_000 for block in blocks[:-1])


@pytest.mark.parametrize("text", ["word " * 500_000, "x" * 3_000_000, "漢" * 1_000_000])
def test_a_line_without_end_loses_nothing(tmp_path: Path, text: str) -> None:
    everything = text.replace(" ", "")
    for content in (text, text + f"\n{MARK}\nlast", f"first\n{MARK}\n{text}\n{MARK}\nlast"):
        pieces = list(documents(written(tmp_path / "a.txt", content)))
        joined = "".join(pieces).replace(" ", "")
        assert joined.removeprefix("first").removesuffix("last") == everything
        assert all(len(piece.encode()) <= MAX_DOCUMENT for piece in pieces)
    line = written(tmp_path / "a.jsonl", json.dumps(text))
    table = as_parquet(tmp_path / "a.parquet", text=[text])
    for path in (line, table):
        pieces = list(documents(path))
        assert "".join(pieces).replace(" ", "") == everything
        assert all(len(piece.encode()) <= MAX_DOCUMENT for piece in pieces)
    if " " in text:
        assert all(piece.startswith("word") and piece.endswith("word") for piece in pieces)


def test_the_longest_document_survives_being_written_down(tmp_path: Path) -> None:
    longest = "words and, " + " more" * ((MAX_DOCUMENT - 11) // 5)
    assert len(longest) == MAX_DOCUMENT
    path = written(tmp_path / "a.txt", f"{longest}\n{MARK}\n{longest}\n{MARK}\n")
    assert list(documents(path)) == [longest, longest]


def test_a_hundred_megabytes_on_one_line_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(b"word " * 200_000)
    tracemalloc.start()
    try:
        n = sum(document.count("word") for document in documents(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n == 20_000_000
    assert peak < 10 << 20


# Positions and properties


parts = st.sampled_from(["a", "bc", " ", "\n", "\n\n", "\r", "\r\n", "<", MARK, "é", "漢"])
texts = st.lists(st.lists(parts, max_size=40).map("".join), max_size=8)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(texts, st.sampled_from(["txt", "jsonl", "parquet"]), st.sampled_from([f"\n{MARK}\n", "\n"]))
def test_reading_goes_on_from_every_position(texts: list[str], kind: str, between: str) -> None:
    file = io.BytesIO()
    if kind == "txt":
        file.write(between.join(texts).encode())
    elif kind == "jsonl":
        file.write("\n".join(json.dumps({"text": text}) for text in texts).encode())
    else:
        table = pa.table({"text": pa.array(texts, pa.string())})
        parquet.write_table(table, file, row_group_size=3)
    with pytest.MonkeyPatch.context() as small:
        for name, value in (("MAX_DOCUMENT", 40), ("BLOCK", 10), ("MAX_BLOCK", 20), ("_READ", 7)):
            small.setattr(module, name, value)
        name = f"a.{kind}"

        def all_from(start: int) -> list[tuple[str, int | None]]:
            return list(read(io.BytesIO(file.getvalue()), name, start=start))

        whole = all_from(0)
        assert all(len(text.encode()) <= 40 for text, _ in whole)
        for i, (_, position) in enumerate(whole):
            if position is not None:
                assert all_from(position) == whole[i + 1 :]
        if kind != "txt":
            wanted = "".join("".join(texts).split())
            assert "".join("".join(text for text, _ in whole).split()) == wanted


@settings(derandomize=True, deadline=None, max_examples=150)
@given(texts)
def test_txt_is_split_at_lines_that_are_the_mark(texts: list[str]) -> None:
    content = f"\n{MARK}\n".join(["", *texts])
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    expected: list[list[str]] = [[]]
    for line in lines:
        if line == MARK:
            expected.append([])
        else:
            expected[-1].append(line)
    stripped = ["\n".join(document).strip() for document in expected]
    with pytest.MonkeyPatch.context() as small:
        small.setattr(module, "_READ", 5)
        found = [text for text, _ in read(io.BytesIO(content.encode()), "a.txt")]
    assert found == [document for document in stripped if document]


# Identity and split


def is_validation(document: str) -> bool:
    return int(hashlib.sha256(document.encode()).hexdigest(), 16) % 10 == 0


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


@pytest.mark.parametrize("side", [False, True])
def test_without_one_side_the_smallest_hash_is_validation(tmp_path: Path, side: bool) -> None:
    candidates = (f"story {i}" for i in range(1000))
    texts = [text for text in candidates if is_validation(text) is side][:4] * 2
    smallest = min(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    corpus = survey(lines(tmp_path / "a.jsonl", texts))
    assert list(corpus.split()) == [(text, text == smallest) for text in texts]
    assert sides(corpus)[1] == [smallest] * 2


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


@pytest.mark.parametrize("texts", [["hello"], ["hello"] * 50, ["a" * 2_000]])
def test_too_little_for_two_sides(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(UserError, match="nothing to keep aside for validation"):
        survey(lines(tmp_path / "a.jsonl", texts))


def test_data_that_changes_is_noticed(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", ["one", "two", "three"])
    corpus = survey(path)
    lines(path, ["one", "two", "four"])
    with pytest.raises(UserError, match="changed while it was being read"):
        list(corpus.split())
