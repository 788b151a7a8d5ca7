"""Files in, documents out, one at a time; and which of them are kept aside for validation.

Every text that the project learns from passes through here, in bounded memory, under one policy:

- A source is a .txt, .jsonl or .parquet file, or a folder of them: its files in the order of their
  names; other kinds of files, hidden ones and folders are left out.
- .txt: a line that is exactly `<|endoftext|>` ends a document. A file without such a line in its
  first 1 MiB is one long text (a book) and is cut into blocks of whole paragraphs, of 4,000 bytes
  or a little more. Anywhere else `<|endoftext|>` is text.
- .jsonl: a line is a string, or an object with a text column. .parquet: a row is a document. The
  text column is `text`, or without one whichever of `story` and `content` there is. A null is an
  empty document.
- Text is UTF-8; other bytes are refused with their place. A byte-order mark at the start is
  dropped; CRLF and lone CR become LF. NUL means that a file is not text, and is refused; one that
  is written out inside a .jsonl or .parquet value is dropped.
- Documents lose the white space at both ends, and empty ones are left out. One of more than 1 MiB
  becomes several, cut at a line end or a space where there is one.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from homespun.errors import UserError

SEPARATOR = "<|endoftext|>"
BOM = b"\xef\xbb\xbf"
SUFFIXES = (".txt", ".jsonl", ".parquet")

MAX_DOCUMENT = 1 << 20
"""Bytes of UTF-8; a longer text becomes several documents."""
BLOCK = 4_000
"""Bytes from which on the end of a paragraph also ends a block of a text without separators."""
MAX_BLOCK = 4 * BLOCK
MAX_LINE = 1 << 27
"""Bytes in a line of .jsonl, which has to be in memory as a whole."""
_READ = 1 << 18
_LINE_END = re.compile(rb"\r\n?|\n")
_PARAGRAPH_END = re.compile(rb"\n[ \t\r]*\n|\r[ \t]*\r")

Located = tuple[str, int | None]
"""A document, and the position after it."""


def documents(path: Path, column: str | None = None) -> Iterator[str]:
    """Stream the documents of a file or folder.

    Raises:
        UserError: there is nothing to read, or a file breaks the policy above.
    """
    return _documents(_files(path), path, column)


def _documents(files: Sequence[Path], path: Path, column: str | None) -> Iterator[str]:
    empty = True
    for name in files:
        try:
            with name.open("rb") as file:
                for document, _ in read(file, str(name), column):
                    empty = False
                    yield document
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None
    if empty:
        raise UserError(f"{path}: there is no text in it")


def _files(path: Path) -> list[Path]:
    supported = ", ".join(SUFFIXES)
    try:
        if path.is_dir():
            files = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
                if file.is_file()
            )
            if not files:
                raise UserError(f"{path}: no {supported} file in this folder")
            return files
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: this kind of file is not read; give a {supported} file")
    return [path]


def read(file: BinaryIO, name: str, column: str | None = None, start: int = 0) -> Iterator[Located]:
    """Stream the documents of one seekable file, each with the position after it.

    A position is a byte in .txt and .jsonl and a row in .parquet; reading from it as `start` gives
    the documents that follow. Inside one long value there is no position to go on from (None).

    Raises:
        UserError: the file breaks the policy of this module.
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".txt":
        pieces = _read_text(file, name, start)
    elif suffix == ".jsonl":
        pieces = _read_values(_jsonl_values(file, name, column, start))
    else:
        pieces = _read_values(_parquet_values(file, name, column, start))
    return ((document, position) for document, position in pieces if document)


def _read_text(file: BinaryIO, name: str, start: int) -> Iterator[Located]:
    file.seek(0)
    buffer = file.read(MAX_DOCUMENT + len(SEPARATOR) + 2)
    is_book = _find_separator(buffer, 0, MAX_DOCUMENT + 1, at_end=True) is None
    least, most = (BLOCK, MAX_BLOCK) if is_book else (MAX_DOCUMENT, MAX_DOCUMENT)
    if start:
        file.seek(start)
        buffer = b""
    elif buffer.startswith(BOM):
        buffer, start = buffer[len(BOM) :], len(BOM)
    offset = start  # of the buffer in the file
    begin = 0  # of a document in the buffer
    at_end = False
    while True:
        separator = _find_separator(buffer, begin, begin + most + 1, at_end)
        if separator is None and not at_end and len(buffer) - begin <= most + len(SEPARATOR) + 1:
            more = file.read(_READ)
            at_end = not more
            buffer, offset, begin = buffer[begin:] + more, offset + begin, 0
            continue
        end, following = separator or (len(buffer), len(buffer))
        cut = begin + _cut(buffer[begin : min(end, begin + most + 1)], least, most)
        if cut < end:
            following = cut
        yield _decode(buffer[begin:cut], name, offset + begin), offset + following
        begin = following
        if at_end and begin == len(buffer):
            return


def _find_separator(text: bytes, begin: int, end: int, at_end: bool) -> tuple[int, int] | None:
    """Where the first separator line that starts in [begin, end] lies, line end included.

    `text` starts with a line. A mark at its very end counts only `at_end` of the file: what follows
    may still make it an ordinary line.
    """
    mark = SEPARATOR.encode()
    at = begin - 1
    while (at := text.find(mark, at + 1, end + len(mark))) >= 0:
        after = at + len(mark)
        if at and text[at - 1] not in b"\r\n":
            continue
        if line_end := _LINE_END.match(text, after):
            return at, line_end.end()
        if at_end and after == len(text):
            return at, after
    return None


def _cut(text: bytes, least: int, most: int) -> int:
    """Length of the first block of `text`: up to the first paragraph end after `least` bytes;
    without one at most `most` bytes, up to a line end, a space, or at least a whole character."""
    if paragraph := _PARAGRAPH_END.search(text, least, most):
        return paragraph.start()
    if len(text) <= most:
        return len(text)
    for space in (b"\n", b"\r", b" "):
        if (at := text.rfind(space, 1, most + 1)) > 0:
            return at
    while most > 1 and text[most] & 0xC0 == 0x80:  # inside a character
        most -= 1
    return most


def _blocks(text: bytes, least: int, most: int) -> list[str]:
    blocks = []
    begin = 0
    while begin < len(text):
        end = begin + _cut(text[begin : begin + most + 1], least, most)
        blocks.append(_clean(text[begin:end].decode()))
        begin = end
    return blocks


def _decode(text: bytes, name: str, offset: int) -> str:
    if (nul := text.find(b"\0")) >= 0:
        raise UserError(f"{name}: NUL at byte {offset + nul}: this is not a text file")
    try:
        return _clean(text.decode())
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: not UTF-8 at byte {offset + error.start}; convert it, for example with iconv"
        ) from None


def _clean(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


Value = tuple[object, str, int]
"""What stands where a document should be, the name of that place, and the position after it."""


def _read_values(values: Iterator[Value]) -> Iterator[Located]:
    for value, place, after in values:
        if value is None:
            continue
        if not isinstance(value, str):
            raise UserError(f"{place}: the document is not a text but a {type(value).__name__}")
        try:
            text = value.replace("\0", "").encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}: half of a surrogate pair, which is no character") from None
        *pieces, last = _blocks(text, MAX_DOCUMENT, MAX_DOCUMENT) or [""]
        for piece in pieces:
            yield piece, None
        yield last, after


def _jsonl_values(file: BinaryIO, name: str, column: str | None, start: int) -> Iterator[Value]:
    file.seek(start)
    position = start
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        place = f"{name}:{number}" if start == 0 else f"{name}, line at byte {position}"
        if len(line) > MAX_LINE:
            raise UserError(
                f"{place}: a line of more than {MAX_LINE >> 20} MiB; split the document"
            )
        text = _decode(line, name, position)
        if position == 0:
            text = text.removeprefix("\ufeff")
        position += len(line)
        if not text:
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not a JSON value ({error})") from None
        if isinstance(record, dict):
            column = column or _text_column(list(record), place)
            if column not in record:
                raise UserError(f"{place}: no column '{column}'; it has {_listed(list(record))}")
            record = record[column]
        yield record, place, position


def _parquet_values(file: BinaryIO, name: str, column: str | None, start: int) -> Iterator[Value]:
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        # Buffered, with nothing fetched ahead: of a remote column only the rows taken are read.
        table = parquet.ParquetFile(file, buffer_size=_READ, pre_buffer=False)
        names = table.schema_arrow.names
        column = column or _text_column(names, name)
        if column not in names:
            raise UserError(f"{name}: no column '{column}'; it has {_listed(names)}")
        for group in range(table.num_row_groups):
            n_rows = table.metadata.row_group(group).num_rows
            if row + n_rows <= start:
                row += n_rows
                continue
            for batch in table.iter_batches(
                64, row_groups=[group], columns=[column], use_threads=False
            ):
                for value in batch.column(0).to_pylist():
                    row += 1
                    if row > start:
                        yield value, f"{name}, row {row}", row
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8 in row {row + 1} or shortly after") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name}: not readable as parquet ({_first_line(error)})") from None


def _text_column(columns: list[str], place: str) -> str:
    if "text" in columns:
        return "text"
    candidates = [column for column in columns if column in ("story", "content")]
    if len(candidates) != 1:
        raise UserError(
            f"{place}: which column is the text? Name it `text`; it has {_listed(columns)}"
        )
    return candidates[0]


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:20]) or "none"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


@dataclass(frozen=True)
class Corpus:
    """Documents on disk: what they are, and which of them are kept aside for validation.

    A document is validation where its SHA-256 is divisible by ten: about a tenth of them, and equal
    documents on one side, whatever else the data holds. Where that leaves a side empty, the
    document with the smallest SHA-256 is validation and all others are training. Where all
    documents are equal, they are cut into blocks, and the blocks are the documents.
    """

    path: Path
    sha256: str
    """Identity of the text: over the SHA-256 of each document, in order; no matter what kind of
    file it is in."""
    n_documents: int
    """Blocks, where all documents are equal."""
    n_bytes: int
    """Of UTF-8, without separators."""
    validation_sha256: str | None = None
    """The one validation document, where the rule left a side empty."""
    block_bytes: int | None = None
    """Size from which on a block ends, where all documents are equal."""

    def split(self) -> Iterator[tuple[str, bool]]:
        """Stream (document, is it validation).

        Raises:
            UserError: the data has changed since it was surveyed (known at the end).
        """
        identity = hashlib.sha256()
        for document in documents(self.path):
            digest = hashlib.sha256(document.encode())
            identity.update(digest.digest())
            if self.block_bytes is None:
                yield document, self._is_validation(digest.hexdigest())
            else:
                for block in _lone_blocks(document, self.block_bytes):
                    yield block, self._is_validation(_sha256(block))
        if identity.hexdigest() != self.sha256:
            raise UserError(f"{self.path}: changed while it was being read; run this again")

    def training(self) -> Iterator[str]:
        """Stream the documents to learn from."""
        return (document for document, is_validation in self.split() if not is_validation)

    def validation(self) -> Iterator[str]:
        """Stream the documents kept aside."""
        return (document for document, is_validation in self.split() if is_validation)

    def _is_validation(self, sha256: str) -> bool:
        if self.validation_sha256 is not None:
            return sha256 == self.validation_sha256
        return _in_validation(sha256)


def survey(path: Path) -> Corpus:
    """Read all documents once, to know what they are and how they split; with a bar on a terminal.

    Args:
        path: a file or folder.

    Raises:
        UserError: nothing to read, a file breaks the policy of this module, or too little text for
            two sides.
    """
    identity = hashlib.sha256()
    n_documents = n_bytes = 0
    first = ""
    split = _Split()
    for document in _with_bar(path):
        encoded = document.encode()
        digest = hashlib.sha256(encoded)
        identity.update(digest.digest())
        split.add(digest.hexdigest())
        first = first or document
        n_documents += 1
        n_bytes += len(encoded)
    block_bytes = None
    if split.smallest == split.largest:
        block_bytes = max(MIN_BLOCK, len(first.encode()) // 10)
        split = _Split()
        blocks = _lone_blocks(first, block_bytes)
        for block in blocks:
            split.add(_sha256(block))
        n_documents *= len(blocks)
        if split.smallest == split.largest:
            raise UserError(
                f"{path}: {n_bytes:,} bytes with nothing to keep aside for validation; "
                "give more text, or more than one document"
            )
    return Corpus(
        path=path,
        sha256=identity.hexdigest(),
        n_documents=n_documents,
        n_bytes=n_bytes,
        validation_sha256=None if split.has_both_sides else split.smallest,
        block_bytes=block_bytes,
    )


def _with_bar(path: Path) -> Iterator[str]:
    """The documents, with how far they have been read on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    files = _files(path)
    on_disk = sum(file.stat().st_size for file in files)
    packed = any(file.suffix == ".parquet" for file in files)
    terminal = Console(stderr=True)
    with Progress(console=terminal, disable=not terminal.is_terminal, transient=True) as bar:
        task = bar.add_task(f"Reading {path}", total=None if packed else on_disk)
        unreported = 0
        for document in documents(path):
            yield document
            unreported += len(document)
            if unreported > BAR_CHARACTERS:
                bar.advance(task, unreported)
                unreported = 0


BAR_CHARACTERS = 1_000_000
"""Between two movements of the bar, which cost as much as reading some documents."""

MIN_BLOCK = 200
"""Bytes of the smallest block that a lone document is cut into."""


class _Split:
    """What has to be known of all documents' hashes to split them."""

    def __init__(self) -> None:
        self.smallest = self.largest = ""
        self._sides: set[bool] = set()

    def add(self, sha256: str) -> None:
        self.smallest = min(self.smallest or sha256, sha256)
        self.largest = max(self.largest, sha256)
        self._sides.add(_in_validation(sha256))

    @property
    def has_both_sides(self) -> bool:
        return len(self._sides) == 2


def _in_validation(sha256: str) -> bool:
    return int(sha256, 16) % 10 == 0


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lone_blocks(document: str, least: int) -> list[str]:
    return [block for block in _blocks(document.encode(), least, 2 * least) if block]
