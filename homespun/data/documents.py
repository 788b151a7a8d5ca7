"""Files flow in, documents flow out, one at a time and in bounded memory.

All text that the project learns from is read here, under one policy:

- A source is a .txt, .md, .jsonl or .parquet file, a file without a suffix (read as text), or a folder. A folder stands
  for its .txt, .md, .jsonl and .parquet files in the order of their names. Other files, hidden files and subfolders are
  left out.
- Text: a line that is exactly `<|endoftext|>` ends a document. A file without such a line in its first 1 MiB is one
  long text, such as a book, and is cut into blocks, see `block_bytes`. Inside other lines `<|endoftext|>` is ordinary
  text.
- .jsonl: each line is a string, or an object with a text column. .parquet: each row is a document. The text column is
  `text`, else `story` or `content`. A null is an empty document.
- Text is UTF-8. Other bytes are refused, and the message names their place. A byte-order mark at the start is dropped.
  CRLF and lone CR become LF. A file with a NUL byte is not text and is refused; an escaped NUL inside a .jsonl or
  .parquet value is dropped.
- White space at both ends of a document is removed, and empty documents are left out. A document of more than 1 MiB is
  cut into several.
- Cuts are made at the end of a paragraph if possible, else of a line, else of a sentence, else of a word.

A change of this policy needs a new `corpus.RULES`.
"""

import codecs
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from homespun.errors import UserError, did_you_mean
from homespun.terminal import counted
from homespun.tokenizer import END_OF_TEXT

BOM = b"\xef\xbb\xbf"
SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")
SUPPORTED = ".txt, .md, .jsonl or .parquet"

MAX_DOCUMENT = 1 << 20
"""Bytes of UTF-8 in a document. Longer ones are cut."""
BLOCK_BYTES = 4_000
"""Minimum bytes of a block of a long text. The maximum is twice this."""
BLOCKS_OF_SHORT_TEXT = 40
"""A text too short for this many blocks gets smaller ones, so that a tenth of it is still several blocks."""
MIN_BLOCK_BYTES = 200
"""Bytes. Blocks do not become smaller than this, because they would hardly be texts."""
MAX_LINE = 1 << 27
"""Bytes in a line of .jsonl, which is read into memory as a whole."""
MAX_SHOWN_NAME = 40
"""Characters of a column's name in a message."""
_READ = 1 << 18
_LINE_END = re.compile(rb"\r\n?|\n")
_CUTS = [
    re.compile(end)
    for end in (
        rb"(?=\n[ \t\r]*\n|\r[ \t]*\r)",  # end of a paragraph
        rb"(?=[\r\n])",  # end of a line
        rb"[.!?][^\w\s]*(?=\s)",  # end of a sentence, with its quotation marks
        rb"(?= )",  # end of a word
    )
]
"""The places where a text may be cut, best first."""

_WORD = ("a Word document", "in Word: Save as, Plain Text")
_PAGE = ("a web page", "pandoc -t plain page.html -o page.txt strips the tags")
_CONVERTIBLE = {
    ".pdf": ("a PDF", "pdftotext book.pdf book.txt"),
    ".epub": ("an e-book", "in Calibre: Convert books, to TXT"),
    ".docx": _WORD,
    ".doc": _WORD,
    ".rtf": _WORD,
    ".odt": ("a LibreOffice document", "in LibreOffice: Save as, Text"),
    ".html": _PAGE,
    ".htm": _PAGE,
}
"""Kinds of files that are not text, each with a way to convert it."""
_DISGUISED = {
    ".pdf": rb"%PDF-",
    ".epub": rb"PK\x03\x04.{26}mimetypeapplication/epub",
    ".odt": rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis",
    ".docx": rb"PK\x03\x04.{26}(\[Content_Types|_rels|docProps|word)",
    ".doc": rb"\xd0\xcf\x11\xe0",
    ".rtf": rb"\{\\rtf",
}
"""The first bytes of these kinds, to recognise them under another suffix."""

Located = tuple[str, int | None]
"""A document and the position after it; None if reading cannot start there."""


def documents(path: Path) -> Iterator[str]:
    """Stream the documents of a file or folder.

    Raises:
        UserError: there is nothing to read, or a file breaks the policy of this module.
    """
    return _documents(files_to_read(path), path)


def block_bytes(text_bytes: int) -> int:
    """The minimum size of a block of a text. A block ends at the next good place, and at twice this size anywhere."""
    return max(MIN_BLOCK_BYTES, min(BLOCK_BYTES, text_bytes // BLOCKS_OF_SHORT_TEXT))


def _documents(files: Sequence[Path], path: Path) -> Iterator[str]:
    block = block_bytes(sum(file.stat().st_size for file in files))
    empty = True
    for name in files:
        try:
            with name.open("rb") as file:
                for document, _ in read(file, str(name), block=block):
                    empty = False
                    yield document
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None
    if empty:
        raise UserError(f"{path}: there is no text in it")


def bytes_to_read(path: Path) -> int | None:
    """Bytes of text in a file or folder; None if it is compressed, so that the number is unknown."""
    files = files_to_read(path)
    is_compressed = any(file.suffix.lower() == ".parquet" for file in files)
    return None if is_compressed else sum(file.stat().st_size for file in files)


def left_out(path: Path) -> str:
    """The number of other files and folders in a folder, in words; empty if everything in it is read."""
    if not path.is_dir():
        return ""
    others = [
        entry for entry in path.iterdir() if not _is_read(entry) and not entry.name.startswith(".")
    ]
    n_folders = sum(entry.is_dir() for entry in others)
    return " and ".join(
        counted(n, kind)
        for n, kind in ((len(others) - n_folders, "other file"), (n_folders, "folder"))
        if n
    )


def _is_read(entry: Path) -> bool:
    """Whether a file is read as part of its folder."""
    hidden = entry.name.startswith(".")
    return entry.suffix.lower() in SUFFIXES and not hidden and entry.is_file()


def files_to_read(path: Path) -> list[Path]:
    """The files of a source, in order.

    Raises:
        UserError: there is nothing to read.
    """
    try:
        if path.is_dir():
            files = sorted(filter(_is_read, path.iterdir()))
            if not files:
                others = left_out(path)
                raise UserError(
                    f"{path}: no {SUPPORTED} file in this folder"
                    + (f" (only {others}; subfolders are not searched)" if others else "")
                )
            return files
        if not path.exists():
            names = [entry.name for entry in path.absolute().parent.glob("*")]
            close = did_you_mean(path.name, names, "")
            raise UserError(f"{path}: there is no such file or folder" + (close and f": {close}"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    suffix = path.suffix.lower()
    if suffix in _CONVERTIBLE:
        raise _not_text(str(path), suffix)
    if suffix and suffix not in SUFFIXES:
        raise UserError(f"{path}: cannot read this kind of file; give a {SUPPORTED} file")
    return [path]


def _not_text(name: str, kind: str) -> UserError:
    what, how = _CONVERTIBLE[kind]
    suffix = Path(name).suffix
    disguised = "" if suffix.lower() == kind else f" with the name {suffix or Path(name).name}"
    return UserError(
        f"{name}: this is {what}{disguised}: save it as plain text (.txt, UTF-8) first: {how}"
    )


def read(file: BinaryIO, name: str, start: int = 0, block: int = BLOCK_BYTES) -> Iterator[Located]:
    """Stream the documents of one seekable file, each with the position after it.

    A position is a byte offset in text and .jsonl, and a row in .parquet. Reading with a position as `start` gives the
    documents after it. Inside one long value the position is None, because reading cannot start there.

    Args:
        file: open for reading bytes.
        name: its suffix tells the kind of file. Messages begin with the name.
        start: the position to start at.
        block: minimum bytes of a block, see `block_bytes`.

    Raises:
        UserError: the file breaks the policy of this module.
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".jsonl":
        pieces = _read_values(_jsonl_values(file, name, start))
    elif suffix == ".parquet":
        pieces = _read_values(_parquet_values(file, name, start))
    else:
        pieces = _read_text(file, name, start, block)
    return ((document, position) for document, position in pieces if document)


def _read_text(file: BinaryIO, name: str, start: int, block: int) -> Iterator[Located]:
    file.seek(0)
    buffer = file.read(MAX_DOCUMENT + len(END_OF_TEXT) + 2)
    _check_is_text(buffer, name)
    is_book = _find_separator(buffer, 0, MAX_DOCUMENT + 1, at_end=True) is None
    most = 2 * block if is_book else MAX_DOCUMENT
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
        if separator is None and not at_end and len(buffer) - begin <= most + len(END_OF_TEXT) + 1:
            more = file.read(_READ)
            at_end = not more
            buffer, offset, begin = buffer[begin:] + more, offset + begin, 0
            continue
        end, following = separator or (len(buffer), len(buffer))
        cut = begin + _cut(buffer[begin : min(end, begin + most + 1)], most)
        if cut < end:
            following = cut
        yield _decode(buffer[begin:cut], name, offset + begin, file), offset + following
        begin = following
        if at_end and begin == len(buffer):
            return


def _find_separator(text: bytes, begin: int, end: int, at_end: bool) -> tuple[int, int] | None:
    """Find the first separator line that starts in [begin, end]; returns its start and its end, line end included.

    `text` starts at the beginning of a line. A mark at the very end of `text` counts only `at_end` of the file, since
    the bytes that follow may still make it an ordinary line.
    """
    mark = END_OF_TEXT.encode()
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


def _cut(text: bytes, most: int) -> int:
    """Length of the first piece of a text.

    A text of at most `most` bytes is one piece. Otherwise the piece has between `most / 2` and `most` bytes and ends at
    the first good place in that range, or, if there is none, after the last whole character.

    Args:
        text: the first `most + 1` bytes, or all of the text.
        most: maximum bytes of a piece.
    """
    if len(text) <= most:
        return len(text)
    for place in _CUTS:
        if found := place.search(text, (most + 1) // 2):
            return found.end()
    while most > 1 and text[most] & 0xC0 == 0x80:  # in the middle of a character
        most -= 1
    return most


def blocks(text: bytes, most: int) -> list[str]:
    """Cut a text of UTF-8 into pieces of at most `most` bytes, without empty ones; see `_cut`."""
    pieces = []
    begin = 0
    while begin < len(text):
        end = begin + _cut(text[begin : begin + most + 1], most)
        pieces.append(_clean(text[begin:end].decode()))
        begin = end
    return [piece for piece in pieces if piece]


def _check_is_text(beginning: bytes, name: str) -> None:
    """Refuse another kind of file under the name of a text.

    Raises:
        UserError: names the kind of file, and a way to convert it.
    """
    for kind, bytes_of_kind in _DISGUISED.items():
        if re.match(bytes_of_kind, beginning, re.DOTALL):
            raise _not_text(name, kind)
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{name}: this is UTF-16 text; {_converted('UTF-16', name)}")


def _converted(encoding: str, name: str) -> str:
    return f"convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(name)} > utf8.txt"


def _decode(text: bytes, name: str, offset: int, file: BinaryIO) -> str:
    """Decode the bytes that lie at `offset` of a file."""
    if (nul := text.find(b"\0")) >= 0:
        raise UserError(f"{name}: NUL at byte {offset + nul}; this is not a text file")
    try:
        return _clean(text.decode())
    except UnicodeDecodeError as error:
        line = _line_number(file, offset + error.start)
        raise UserError(
            f"{name}: not UTF-8 in line {line:,}; if it is Latin-1 or Windows-1252 text, "
            + _converted("WINDOWS-1252", name)
        ) from None


def _line_number(file: BinaryIO, offset: int) -> int:
    """The number of the line that contains the byte at `offset`."""
    file.seek(0)
    starts = range(0, offset, _READ)
    return 1 + sum(file.read(min(_READ, offset - start)).count(b"\n") for start in starts)


def _clean(text: str) -> str:
    """Line ends as LF, and no white space at either end."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


Value = tuple[object, str, int]
"""A value that should be a document, its place for messages, and the position after it."""


def _read_values(values: Iterator[Value]) -> Iterator[Located]:
    for value, place, after in values:
        if value is None:
            continue
        if not isinstance(value, str):
            raise UserError(f"{place}: the document must be a string, not a {type(value).__name__}")
        try:
            text = value.replace("\0", "").encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{place}: half of a surrogate pair, which is not a character"
            ) from None
        *pieces, last = blocks(text, MAX_DOCUMENT) or [""]
        for piece in pieces:
            yield piece, None
        yield last, after


def _jsonl_values(file: BinaryIO, name: str, start: int) -> Iterator[Value]:
    file.seek(start)
    position = start
    column = None
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        place = f"{name}:{number}" if start == 0 else f"{name}, line at byte {position}"
        if len(line) > MAX_LINE:
            raise UserError(
                f"{place}: a line of more than {MAX_LINE >> 20} MiB; split the document"
            )
        text = _decode(line, name, position, file)
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


def _parquet_values(file: BinaryIO, name: str, start: int) -> Iterator[Value]:
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        # Buffered and without prefetching, so that only the rows that are taken are read from a remote column.
        table = parquet.ParquetFile(file, buffer_size=_READ, pre_buffer=False)
        column = _text_column(table.schema_arrow.names, name)
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
    return ", ".join(repr(name[:MAX_SHOWN_NAME]) for name in names[:20]) or "none"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
