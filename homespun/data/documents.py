"""Files flow in, documents flow out, one at a time and in bounded memory.

All text that the project learns from is read here, under one policy:

- A source is a .txt, .md, .jsonl or .parquet file, a file without a suffix (read as text), or a folder. A folder stands
  for its .txt, .md, .jsonl and .parquet files in the order of their names. Other files, hidden files and subfolders are
  left out.
- A text or .jsonl file may be compressed with gzip or zstd. Its first bytes decide, and .gz or .zst may follow its
  suffix. It is decompressed piece by piece.
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
import contextlib
import io
import itertools
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from homespun.errors import UserError, cannot_read, did_you_mean
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
_HIRAGANA, _HANGUL = "[\u3041-\u309f]", "[\uac00-\ud7a3]"
EAST_ASIAN = {
    "SHIFT_JIS": (_HIRAGANA, 0.2),
    "EUC-JP": (_HIRAGANA, 0.2),
    "EUC-KR": (_HANGUL, 0.8),
    "GB18030": ("[的一是不了在人有我他和小大上来到这个]", 0.02),
    "BIG5": ("[的一是不了在人有我他和小大上來到這個]", 0.02),
}
"""Encodings in which letters take several bytes, by names that Python and iconv know. With each, characters that are
frequent in its languages, and the least share of them in a text."""
MIN_ZEROS = 16
"""Zero bytes at the start of a file, from which on their places may show UTF-16."""
TEXT_COLUMNS = ("text", "story", "content")
"""The columns of .jsonl and .parquet that may hold the documents."""
MAX_SHOWN_NAME = 40
"""Characters of a column's name in a message."""
_READ = 1 << 18
_HEAD = 1 << 12
"""Bytes at the start of a file that show which kind of file it is."""
_LINE_END = re.compile(rb"\r\n?|\n")
_CUTS = [
    re.compile(end)
    for end in (
        rb"(?=\n[ \t\r]*\n|\r[ \t]*\r)",  # end of a paragraph
        rb"(?=[\r\n])",  # end of a line
        rb"[.!?][^\w\s]*+(\s)?",  # end of a sentence, with its quotation marks
        rb"(?= )",  # end of a word
    )
]
"""The places where a text may be cut, best first. A match of an expression with a group counts only if the group does,
and the cut is before the group. So a run of marks is passed over as a whole, and no search is slower than linear."""

COMPRESSIONS = {
    ".gz": ("gzip", rb"\x1f\x8b", "gzip -dc"),
    ".zst": ("zstd", rb"(?s:\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)", "zstd -dc"),
}
"""By suffix: the codec, the first bytes, and a command that decompresses."""

_SAVE = "save it as plain text (.txt, UTF-8) first: "
_UNPACK = "unpack it first: "
_WORD = ("a Word document", _SAVE + "in Word: Save as, Plain Text")
_PAGE = ("a web page", _SAVE + "pandoc -t plain {file} -o page.txt strips the tags")
_TAR = ("a tar archive", _UNPACK + "tar -xf {file}")
_CONVERTIBLE = {
    ".pdf": ("a PDF", _SAVE + "pdftotext {file} book.txt"),
    ".epub": ("an e-book", _SAVE + "in Calibre: Convert books, to TXT"),
    ".docx": _WORD,
    ".doc": _WORD,
    ".rtf": _WORD,
    ".odt": ("a LibreOffice document", _SAVE + "in LibreOffice: Save as, Text"),
    ".html": _PAGE,
    ".htm": _PAGE,
    ".json": ("a JSON file", "make a line of each document: jq -c '.[]' {file} > text.jsonl"),
    ".zip": ("a zip archive", _UNPACK + "unzip {file}"),
    ".tar": _TAR,
    ".tgz": _TAR,
    ".7z": ("a 7-Zip archive", _UNPACK + "7z x {file}"),
    ".rar": ("a RAR archive", _UNPACK + "unrar x {file}"),
    ".bz2": ("compressed by bzip2", _UNPACK + "bzip2 -dc {file} > unpacked{suffix}"),
    ".xz": ("compressed by xz", _UNPACK + "xz -dc {file} > unpacked{suffix}"),
    ".parquet.gz": ("a compressed parquet file", _UNPACK + "gzip -dc {file} > unpacked.parquet"),
    ".parquet.zst": ("a compressed parquet file", _UNPACK + "zstd -dc {file} > unpacked.parquet"),
    ".gz": ("compressed twice", _UNPACK + "gzip -dc {file} > unpacked{suffix}"),
    ".zst": ("compressed twice", _UNPACK + "zstd -dc {file} > unpacked{suffix}"),
}
"""Kinds of files that are not text, each with a way to convert it."""
_DISGUISED = {
    ".pdf": rb"%PDF-",
    ".epub": rb"PK\x03\x04.{26}mimetypeapplication/epub",
    ".odt": rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis",
    ".docx": rb"PK\x03\x04.{26}(\[Content_Types|_rels|docProps|word)",
    ".zip": rb"PK\x03\x04",
    ".doc": rb"\xd0\xcf\x11\xe0",
    ".rtf": rb"\{\\rtf",
    ".tar": rb".{257}ustar",
    ".7z": rb"7z\xbc\xaf\x27\x1c",
    ".rar": rb"Rar!\x1a\x07",
    ".bz2": rb"BZh[1-9]1AY&SY",
    ".xz": rb"\xfd7zXZ\x00",
    **{suffix: first for suffix, (_, first, _) in COMPRESSIONS.items()},
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
    block = block_bytes(sum(map(_size, files)))
    empty = True
    for name in files:
        with opened(name) as file:
            for document, _ in read(file, str(name), block=block):
                empty = False
                yield document
    if empty:
        raise UserError(f"{path}: there is no text in it")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes.

    Raises:
        UserError: it cannot be opened, or, inside the block, not be read.
    """
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise cannot_read(error, f"{path}: cannot be read") from None


def _size(path: Path) -> int:
    """Bytes of a file. Of a compressed one only as many of its text are counted as matter to `block_bytes`."""
    with opened(path) as file:
        codec = _codec(path.name, file)
        if codec is None:
            return os.fstat(file.fileno()).st_size
        return len(_decompressed(file, codec).read(BLOCK_BYTES * BLOCKS_OF_SHORT_TEXT))


def bytes_to_read(path: Path) -> int | None:
    """Bytes of text in a file or folder; None if it is compressed, so that the number is unknown."""
    total = 0
    for name in files_to_read(path):
        with opened(name) as file:
            if suffix(name.name) == ".parquet" or _codec(name.name, file):
                return None
            total += os.fstat(file.fileno()).st_size
    return total


def suffix(name: str) -> str:
    """The suffix that tells the kind of a file, in small letters: `.jsonl` for `a.jsonl` and for `a.jsonl.gz`."""
    outer, inner = Path(name).suffix.lower(), Path(Path(name).stem).suffix.lower()
    if outer not in COMPRESSIONS:
        return outer
    return inner + outer if inner == ".parquet" else inner


def how_to_mark(path: Path) -> str:
    """How the marks inside the documents of a source become ends of documents."""
    if path.is_dir() or suffix(path.name) in (".jsonl", ".parquet"):
        return "give each document a line (.jsonl) or a row (.parquet) of its own"
    file = shlex.quote(str(path))
    packed = COMPRESSIONS.get(path.suffix.lower())
    unpack, file = (f"{packed[2]} {file} | ", "") if packed else ("", f" {file}")
    own_line = rf"perl -pe 's/{re.escape(END_OF_TEXT)}/\n$&\n/g'"
    return f"give each a line of its own: {unpack}{own_line}{file} > marked.txt"


def looks_like_jsonl(path: Path) -> bool:
    """Whether a file that is read as text has lines of .jsonl."""
    if path.is_dir() or suffix(path.name) in (".jsonl", ".parquet"):
        return False
    with opened(path) as file:
        codec = _codec(path.name, file)
        first = (_decompressed(file, codec) if codec else file).readline(_READ)
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and any(column in record for column in TEXT_COLUMNS)


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
    return suffix(entry.name) in SUFFIXES and not hidden and entry.is_file()


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
        raise cannot_read(error, f"{path}: cannot be read") from None
    kind = suffix(path.name)
    if kind in _CONVERTIBLE:
        raise _not_text(str(path), kind)
    if kind and kind not in SUFFIXES:
        raise UserError(f"{path}: cannot read this kind of file; give a {SUPPORTED} file")
    return [path]


def _not_text(name: str, kind: str) -> UserError:
    what, how = _CONVERTIBLE[kind]
    shown = Path(name).suffix
    disguised = "" if suffix(name) == kind else f" with the name {shown or Path(name).name}"
    inner = suffix(name) if suffix(name) in SUFFIXES else suffix(Path(name).stem)
    how = how.replace("{suffix}", inner or ".txt").replace("{file}", shlex.quote(name))
    return UserError(f"{name}: this is {what}{disguised}: {how}")


def read(file: BinaryIO, name: str, start: int = 0, block: int = BLOCK_BYTES) -> Iterator[Located]:
    """Stream the documents of one seekable file, each with the position after it.

    A position is a byte offset in text and .jsonl, and a row in .parquet. Reading with a position as `start` gives the
    documents after it. The position is None where reading cannot start: inside one long value and in a compressed file.

    Args:
        file: open for reading bytes.
        name: its suffix tells the kind of file. Messages begin with the name.
        start: the position to start at.
        block: minimum bytes of a block, see `block_bytes`.

    Raises:
        UserError: the file breaks the policy of this module.
    """
    kind = suffix(name)
    file, is_packed = opened_content(file, name, start)
    if kind == ".jsonl":
        pieces = _read_values(_jsonl_values(file, name, start))
    elif kind == ".parquet":
        pieces = _read_values(_parquet_values(file, name, start))
    else:
        pieces = _read_text(file, name, start, block)
    for document, position in pieces:
        if document:
            yield document, None if is_packed else position


def opened_content(file: BinaryIO, name: str, start: int) -> tuple[BinaryIO, bool]:
    """The content of a file, decompressed if it is compressed, and whether it is. Arguments and errors as for
    `read`."""
    if start or suffix(name) == ".parquet":
        return file, False
    codec = _codec(name, file)
    if codec:
        file = _decompressed(file, codec)
    _check_is_text(_head(file), name)
    return file, codec is not None


def _head(file: BinaryIO) -> bytes:
    """The first bytes of a file, whose position is at the start after that."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    return head


def _codec(name: str, file: BinaryIO) -> str | None:
    """The compression of a text or .jsonl file by its first bytes."""
    if suffix(name) == ".parquet":
        return None
    head = _head(file)
    return next((codec for codec, first, _ in COMPRESSIONS.values() if re.match(first, head)), None)


def _decompressed(file: BinaryIO, codec: str) -> BinaryIO:
    """The content of a compressed file. Damage raises an OSError where it is read."""
    return cast(BinaryIO, io.BufferedReader(_Decompressed(file, codec), _READ))


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, decompressed piece by piece."""

    def __init__(self, file: BinaryIO, codec: str) -> None:
        self._file, self._codec = file, codec
        self._restart()

    def _restart(self) -> None:
        import pyarrow

        self._file.seek(0)
        self._stream = pyarrow.CompressedInputStream(
            pyarrow.PythonFile(_Borrowed(self._file), mode="r"), self._codec
        )
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("only an offset from the start is known")
        if offset < self._position:
            self._restart()
        while self._position < offset:
            skipped = self._stream.read(min(_READ, offset - self._position))
            if not skipped:
                break
            self._position += len(skipped)
        return self._position

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


class _Borrowed:
    """A file that stays open when its reader closes it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        pass


def _read_text(file: BinaryIO, name: str, start: int, block: int) -> Iterator[Located]:
    file.seek(0)
    buffer = file.read(MAX_DOCUMENT + len(END_OF_TEXT) + 2)
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
        for found in place.finditer(text, (most + 1) // 2):
            if not place.groups:
                return found.end()
            if found[1]:
                return found.start(1)
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
    if re.match(rb"PAR1[\x00-\x1f]", beginning):
        raise UserError(f"{name}: this is a parquet file: give it a name that ends in .parquet")
    for kind, bytes_of_kind in _DISGUISED.items():
        if re.match(bytes_of_kind, beginning, re.DOTALL):
            raise _not_text(name, kind)
    if encoding := _wide_encoding(beginning):
        family = encoding[:6]
        raise UserError(f"{name}: this is {family} text; convert it: {_iconv(encoding, name)}")


def _wide_encoding(beginning: bytes) -> str | None:
    """UTF-16 or UTF-32, by a byte-order mark or by the zero bytes of Latin letters."""
    if beginning.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    n_zeros = [beginning[place::4].count(0) for place in range(4)]
    many, few = len(beginning) // 4 * 0.3, len(beginning) // 4 * 0.01
    is_zero = "".join("0" if n > many else "x" if n <= few else "?" for n in n_zeros)
    if sum(n_zeros) < MIN_ZEROS:
        return None
    patterns = {"x0x0": "UTF-16LE", "0x0x": "UTF-16BE", "x000": "UTF-32LE", "000x": "UTF-32BE"}
    return patterns.get(is_zero)


def _iconv(encoding: str, name: str, option: str = "") -> str:
    """The command that converts a file to UTF-8, and keeps the suffix that tells its kind."""
    outer = Path(name).suffix.lower()
    command, file = f"iconv{option} -f {encoding} -t UTF-8", shlex.quote(name)
    unpack = f"{COMPRESSIONS[outer][2]} {file} | " if outer in COMPRESSIONS else ""
    return f"{unpack}{command}{'' if unpack else f' {file}'} > utf8{suffix(name) or '.txt'}"


def _other_encoding(before: bytes, text: bytes, name: str) -> str:
    """Advice for a text that is not UTF-8.

    Args:
        before: the part of the document that is UTF-8.
        text: some of the text that follows.
        name: the file.
    """
    if not before.isascii():
        return (
            "the text before is UTF-8, so the file is damaged there or was joined from several; without the wrong "
            f"bytes: {_iconv('UTF-8', name, ' -c')}"
        )
    n_letters = len(re.findall(rb"[\x80-\xff]", text))
    in_words = sum(map(len, re.findall(rb"[\x80-\xff]{4,}", text)))
    if in_words < n_letters / 2:  # single letters with accents between those of ASCII
        return f"if it is Latin-1 or Windows-1252 text, convert it: {_iconv('WINDOWS-1252', name)}"
    possible = {encoding: _is_likely(encoding, text) for encoding in EAST_ASIAN}
    likely = [encoding for encoding, is_likely in possible.items() if is_likely]
    decoded = [encoding for encoding, is_likely in possible.items() if is_likely is not None]
    encodings = likely or decoded or ["WINDOWS-1251", "KOI8-R"]
    right = " from the right one" if len(encodings) > 1 else ""
    listed = " or ".join(encodings)
    return f"if it is {listed} text, convert it{right}: {_iconv(encodings[0], name)}"


def _is_likely(encoding: str, text: bytes) -> bool | None:
    """Whether a text has the characters that are frequent in an encoding's languages; None if it is not encoded so."""
    try:
        decoded = codecs.getincrementaldecoder(encoding)().decode(text)
    except UnicodeDecodeError:
        return None
    frequent, least_share = EAST_ASIAN[encoding]
    n_letters = len(re.findall(r"[^\x00-\x7f]", decoded))
    return len(re.findall(frequent, decoded)) >= least_share * n_letters


def _decode(text: bytes, name: str, offset: int, file: BinaryIO) -> str:
    """Decode the bytes that lie at `offset` of a file."""
    if (nul := text.find(b"\0")) >= 0:
        raise UserError(f"{name}: NUL at byte {offset + nul}; this is not a text file")
    try:
        return _clean(text.decode())
    except UnicodeDecodeError as error:
        line = _line_number(file, offset + error.start)
        file.seek(offset + error.start)
        advice = _other_encoding(text[: error.start], file.read(_READ), name)
        raise UserError(f"{name}: not UTF-8 in line {line:,}; {advice}") from None


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
    column = None
    for record, place, position in jsonl_records(file, name, start):
        value = record
        if isinstance(record, dict):
            column = column or _text_column(list(record), place)
            if column not in record:
                raise UserError(f"{place}: no column '{column}'; it has {listed(list(record))}")
            value = record[column]
        yield value, place, position


def jsonl_records(file: BinaryIO, name: str, start: int) -> Iterator[Value]:
    """Stream the values of the lines of a .jsonl file, each with its place and the position after it. Arguments and
    errors as for `read`."""
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
        yield record, place, position


def _parquet_values(file: BinaryIO, name: str, start: int) -> Iterator[Value]:
    def text(columns: list[str]) -> list[str]:
        return [_text_column(columns, name)]

    for record, place, position in parquet_records(file, name, start, text):
        [value] = record.values()
        yield value, place, position


def parquet_records(
    file: BinaryIO, name: str, start: int, choose: Callable[[list[str]], list[str]]
) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Stream the rows of a .parquet file, each with its place and its number. Arguments and errors as for `read`.

    Args:
        choose: gets the names of the columns and returns those that are wanted.
    """
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        # Buffered and without prefetching, so that only the rows that are taken are read from a remote column.
        table = parquet.ParquetFile(file, buffer_size=_READ, pre_buffer=False)
        columns = choose(table.schema_arrow.names)
        for group in range(table.num_row_groups):
            n_rows = table.metadata.row_group(group).num_rows
            if row + n_rows <= start:
                row += n_rows
                continue
            for batch in table.iter_batches(
                64, row_groups=[group], columns=columns, use_threads=False
            ):
                values = (batch.column(column).to_pylist() for column in columns)
                for values_of_row in zip(*values, strict=True):
                    row += 1
                    if row > start:
                        record = dict(zip(columns, values_of_row, strict=True))
                        yield record, f"{name}, row {row}", row
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8 in row {row + 1} or shortly after") from None
    except (pyarrow.ArrowException, OSError) as error:
        if row == 0:
            for packed in COMPRESSIONS:
                if re.match(COMPRESSIONS[packed][1], _head(file)):
                    raise _not_text(name, f".parquet{packed}") from None
        raise UserError(f"{name}: not readable as parquet ({_first_line(error)})") from None


def _text_column(columns: list[str], place: str) -> str:
    if "text" in columns:
        return "text"
    candidates = [column for column in columns if column in TEXT_COLUMNS]
    if len(candidates) != 1:
        raise UserError(
            f"{place}: which column is the text? Name it `text`; it has {listed(columns)}"
        )
    return candidates[0]


def listed(names: list[str]) -> str:
    return ", ".join(repr(name[:MAX_SHOWN_NAME]) for name in names[:20]) or "none"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
