"""Reading follows its documented policy, loses no text, and needs bounded memory."""

import gzip
import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from homespun.data.documents import documents, read
from homespun.data.files import bytes_to_read, files_to_read, left_out
from homespun.data.text_formats import columns, plain_text
from homespun.data.text_formats import parquet as parquet_format
from homespun.data.text_formats.cutting import MAX_DOCUMENT
from homespun.errors import UserError
from tests.data.files import as_parquet, written

MARK = "<|endoftext|>"
ZIP = b"PK\x03\x04" + bytes(26)
"""The bytes before the first file name in a zip archive."""


def gzipped(content: bytes) -> bytes:
    """The same bytes at any time, as the name of a test must be."""
    return gzip.compress(content, mtime=0)


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\n" * 300_000 + b"caf\xe9\n", "a.txt: not UTF-8 in line 300,001; .* iconv"),
        ("a b.txt", b"\xef\xbb\xbfcaf\xe9\n", "not UTF-8 in line 1; .*a b.txt' > utf8.txt"),
        (
            "a.txt",
            "wide".encode("utf-16"),
            "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 .*a.txt",
        ),
        ("a.txt", "\ufeffwide".encode("utf-16-be"), "UTF-16 text; convert it"),
        ("a.jsonl", "wide".encode("utf-16"), r"iconv -f UTF-16 -t UTF-8 .*a\.jsonl > utf8\.jsonl"),
        ("a.md", ("wide" * 9).encode("utf-16-le"), r"UTF-16 .* -f UTF-16LE .*a\.md > utf8\.md"),
        ("book", ("wide" * 9).encode("utf-16-be"), r"UTF-16 .* -f UTF-16BE .*book > utf8\.txt"),
        ("a.txt", ("wide" * 9).encode("utf-32"), "UTF-32 text; convert it: iconv -f UTF-32 -t"),
        ("a.txt", ("wide" * 9).encode("utf-32-le"), "UTF-32 text; .* -f UTF-32LE -t"),
        ("a.jsonl", '{"text": "中文的句子"}'.encode("gbk"), r"-f GB18030 -t UTF-8 .*> utf8\.jsonl"),
        ("a.txt", "這是一個中文的句子".encode("big5"), r"if it is BIG5 .*-f BIG5"),
        ("a.txt", "안녕하세요 오늘은".encode("euc_kr"), "if it is EUC-KR .*-f EUC-KR"),
        (
            "a.txt",
            "日本語の文章です。".encode("shift_jis"),
            "if it is SHIFT_JIS text, convert it: iconv",
        ),
        (
            "a.txt",
            "русские буквы".encode("cp1251"),
            "WINDOWS-1251 or KOI8-R text, .*iconv -f WINDOWS",
        ),
        (
            "a.txt",
            "café".encode() + b" \xff",
            r"file is damaged there .*iconv -c -f UTF-8 -t UTF-8",
        ),
        (
            "a.jsonl.gz",
            gzipped(b'"caf\xe9"'),
            r"gzip -dc .*a\.jsonl\.gz \| iconv -f WINDOWS-1252 ",
        ),
        ("a.jsonl.gz", gzipped(b'"a"')[:-9], r"a\.jsonl\.gz: cannot be read \(Truncated"),
        (
            "a.txt",
            gzipped(gzipped(b"a")),
            r"compressed twice .*unpack it first: gzip -dc",
        ),
        ("a.txt", ZIP + b"a.txt", r"a zip archive with the name \.txt: unpack it first: unzip "),
        ("a.zip", ZIP + b"a.txt", "this is a zip archive: unpack it first: unzip "),
        ("a.txt.xz", b"\xfd7zXZ\0", r"compressed by xz: .*: xz -dc .*a\.txt\.xz > unpacked\.txt"),
        ("a.jsonl", b"BZh91AY&SY", r"bzip2 with the name \.jsonl: .* > unpacked\.jsonl"),
        ("a.tar.gz", b"", r"a tar archive: unpack it first: tar -xf .*a\.tar\.gz"),
        ("a.txt", gzipped(b"a" * 257 + b"ustar"), r"a tar archive with the name \.txt: "),
        ("a.txt", b"PAR1\x15\4", r"a parquet file: give it a name that ends in \.parquet"),
        ("a.parquet", gzipped(b"PAR1"), "a compressed parquet file .* > unpacked.parquet"),
        ("a.parquet.zst", b"", "a compressed parquet file: .*zstd -dc .* > unpacked.parquet"),
        (
            "a.json",
            b"[]",
            r"a JSON file: make a line of each document: jq -c '\.\[\]' .*a\.json > ",
        ),
        ("a.txt", b"%PDF-1.7\n%\xb5\xb5", r"this is a PDF with the name \.txt: .* pdftotext"),
        ("book", b"%PDF-1.7\n%\xb5\xb5", "this is a PDF with the name book: "),
        ("a.txt", ZIP + b"[Content_Types].xml", r"this is a Word document with the name \.txt"),
        ("a.txt", ZIP + b"mimetypeapplication/epub+zip", r"an e-book with the name \.txt"),
        ("a.md", ZIP + b"mimetypeapplication/vnd.oasis.text", "a LibreOffice document with"),
        ("a.txt", rb"{\rtf1\ansi", r"a Word document with the name \.txt"),
        ("a.txt", b"text\0", "a.txt: NUL at byte 4; this is not a text file"),
        ("a.txt", b"", "no text"),
        ("a.txt", b" \n\n\t", "no text"),
        ("a.jsonl", b'"a"\n{"text": "b"\n', "a.jsonl:2: not a JSON value"),
        ("a.jsonl", b'{"text": 5}\n', "a.jsonl:1: the document must be a string, not a int"),
        ("a.jsonl", b"[1]", "a.jsonl:1: the document must be a string, not a list"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}', "a.jsonl:2: no column 'text'; it has 'body'"),
        ("a.jsonl", b'"\\ud83d"', "a.jsonl:1: half of a surrogate pair"),
        ("a.jsonl", b'"a"\n"\xff"', "a.jsonl: not UTF-8 in line 2"),
        ("a.jsonl", b"[" * 200_000, "a.jsonl:1: not a JSON value"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: not readable as parquet"),
        ("a.parquet", b"", "a.parquet: not readable as parquet"),
        ("a.pdf", b"text", r"a.pdf: this is a PDF: save it as plain text \(.txt, UTF-8\) first"),
        ("a.DOCX", b"text", "a.DOCX: this is a Word document: save .* in Word: Save as"),
        ("a.html", b"text", "a.html: this is a web page: .* strips the tags"),
        ("a.csv", b"text", "a.csv: cannot read this kind of file; give a .txt, .md, .jsonl or"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        list(documents(path))
    assert "\n" not in str(caught.value)


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(content, asbytes=True)
    return packed


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("ending", [".gz", ".zst", ""])
def test_compressed_text_is_read_like_text(
    tmp_path: Path, pack: Callable[[bytes], bytes], ending: str
) -> None:
    book = "\n\n".join(f"Paragraph {i}." + " word" * (20 + i % 90) for i in range(300)).encode()
    stories = f"\n{MARK}\n".join(f"story {i}" for i in range(300)).encode()
    lines = "\n".join(json.dumps(f"story {i}") for i in range(300)).encode()
    for name, content in (("a.txt", book), ("a.md", stories), ("a.jsonl", lines), ("book", book)):
        plain = list(documents(written(tmp_path / name, content)))
        (tmp_path / name).unlink()
        parts = pack(content[:1000]) + pack(content[1000:])  # as parallel packers write them
        packed = written(tmp_path / f"{name}{ending}", parts)
        assert list(documents(packed)) == plain
        assert bytes_to_read(packed) is None
        with packed.open("rb") as file:
            assert {position for _, position in read(file, packed.name)} == {None}
        packed.unlink()
    unpacked = written(tmp_path / "a.jsonl.gz", lines)  # decompressed under its old name
    assert list(documents(unpacked)) == [f"story {i}" for i in range(300)]
    assert bytes_to_read(unpacked) == len(lines)


def test_compressed_files_of_a_folder(tmp_path: Path) -> None:
    written(tmp_path / "a.txt.gz", gzip.compress(b"one"))
    written(tmp_path / "b.jsonl.zst", zstd(b'"two"'))
    written(tmp_path / "c.txt", "three")
    written(tmp_path / "d.tar.gz", "not this")
    written(tmp_path / "e.parquet.gz", "not this")
    assert list(documents(tmp_path)) == ["one", "two", "three"]
    assert left_out(tmp_path) == "2 other files"


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_decompressing_needs_little_memory(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = written(tmp_path / "bomb.txt", pack(b"word " * 20_000_000))
    assert path.stat().st_size < 200_000
    program = (
        "import resource; from pathlib import Path; from homespun.data.documents import documents\n"
        "import pyarrow, pyarrow.parquet\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "n = sum(len(document) for document in documents(Path('bomb.txt')))\n"
        "print(n, peak() - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    n, grown = map(int, result.stdout.split())
    assert 99_900_000 < n < 100_000_000
    assert grown < (40 << 20 if sys.platform == "darwin" else 40 << 10)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        documents(tmp_path / "absent.txt")
    written(tmp_path / "book.txt", "text")
    with pytest.raises(UserError, match=r"no such file or folder: did you mean book\.txt\?"):
        documents(tmp_path / "bok.txt")
    (tmp_path / "empty").mkdir()
    written(tmp_path / "empty" / ".hidden.txt", "text")
    with pytest.raises(
        UserError, match=r"no \.txt, \.md, \.jsonl or \.parquet file in this folder$"
    ):
        documents(tmp_path / "empty")
    written(tmp_path / "empty" / "a.pdf", "text")
    written(tmp_path / "empty" / "b.pdf", "text")
    (tmp_path / "empty" / "below").mkdir()
    with pytest.raises(
        UserError, match=r"only 2 other files and 1 folder; subfolders are not searched"
    ):
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
    written(tmp_path / "a.md", "one and a half")
    written(tmp_path / "a.pdf", "not this")
    written(tmp_path / "license", "not this")
    (tmp_path / "d.txt").mkdir()
    assert list(documents(tmp_path)) == ["one", "one and a half", "two", "three"]
    assert left_out(tmp_path) == "2 other files and 1 folder"
    assert list(documents(tmp_path / "license")) == ["not this"]
    assert left_out(tmp_path / "license") == ""


def test_how_much_there_is_to_read(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "text")
    written(tmp_path / "b.jsonl", '"more"')
    written(tmp_path / "c.json", "not this")
    assert bytes_to_read(tmp_path / "a.txt") == 4
    assert bytes_to_read(tmp_path) == 10
    as_parquet(tmp_path / "d.PARQUET", text=["packed"])
    assert bytes_to_read(tmp_path) is None


# Long texts


def test_a_book_becomes_blocks_of_whole_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}." + " word" * (20 + i % 90) for i in range(600)]
    blocks = list(documents(written(tmp_path / "book.txt", "\r\n\r\n".join(paragraphs))))
    assert "\n\n".join(blocks).split("\n\n") == paragraphs
    assert all(3_900 <= len(block) <= 5_000 for block in blocks[:-1])


SENTENCE = 'He said: "It goes on and on, ever and ever."'


@pytest.mark.parametrize(
    ("part", "between"), [(SENTENCE, "\n"), (SENTENCE, " "), ("ever", " "), ("é", "")]
)
def test_without_paragraphs_the_best_place_there_is_ends_a_block(
    tmp_path: Path, part: str, between: str
) -> None:
    book = between.join([part] * (400_000 // len((part + between).encode())))
    blocks = list(documents(written(tmp_path / "book.txt", book)))
    assert between.join(blocks) == book
    assert all(block.startswith(part) and block.endswith(part) for block in blocks)
    limit = 8_000 if between == "" else 4_000 + len(part + between)
    assert all(3_999 <= len(block.encode()) <= limit for block in blocks[:-1])


def test_the_blocks_of_a_short_text_are_shorter(tmp_path: Path) -> None:
    book = "\n\n".join([SENTENCE] * 450)
    assert len(book) == 20_698
    blocks = list(documents(written(tmp_path / "book.txt", book)))
    assert all(20_698 // 40 <= len(block) <= 20_698 // 20 for block in blocks)
    # In a folder, the size of the whole text counts.
    (tmp_path / "poems").mkdir()
    poems = [f"Poem {i}.\n" + "and so on\n\n" * 60 + "and an end" for i in range(250)]
    for i, poem in enumerate(poems):
        written(tmp_path / "poems" / f"{i:03}.txt", poem)
    assert list(documents(tmp_path / "poems")) == poems


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
        for one in (plain_text, columns):
            small.setattr(one, "MAX_DOCUMENT", 40)
        for one in (plain_text, parquet_format):
            small.setattr(one, "READ", 7)
        name = f"a.{kind}"

        def all_from(start: int) -> list[tuple[str, int | None]]:
            return list(read(io.BytesIO(file.getvalue()), name, start=start, block=10))

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
        small.setattr(plain_text, "READ", 5)
        found = [text for text, _ in read(io.BytesIO(content.encode()), "a.txt")]
    assert found == [document for document in stripped if document]


def test_a_pattern_reads_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "web/deep").mkdir(parents=True)
    written(tmp_path / "web/a.txt", "one")
    written(tmp_path / "web/deep/b.txt", "two")
    (tmp_path / "web/loop").symlink_to(".")
    found = files_to_read(tmp_path / "web/**/**/*.txt")
    assert [file.relative_to(tmp_path).as_posix() for file in found] == [
        "web/a.txt",
        "web/deep/b.txt",
    ]
