"""Files flow in, documents flow out, one at a time and in bounded memory.

All text that the project learns from is read here, under one policy:

- A source is a .txt, .md, .jsonl or .parquet file, a file without a suffix (read as text), or a folder. A folder stands
  for its .txt, .md, .jsonl and .parquet files in the order of their names. Other files, hidden files and subfolders are
  left out. A pattern such as `web/**/*.txt` stands for the files of these kinds that match it, in the same order. A
  mixture stands for its texts, see `text_file`.
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

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from homespun.data.files import files_to_read, opened, size
from homespun.data.text_formats.cutting import BLOCK_BYTES, Located, block_bytes
from homespun.data.text_formats.formats import format_of, opened_content
from homespun.errors import UserError


def documents(path: Path) -> Iterator[str]:
    """Stream the documents of a source.

    Raises:
        UserError: there is nothing to read, or a file breaks the policy of this module.
    """
    return _documents(files_to_read(path), path)


def block_of(files: Sequence[Path]) -> int:
    """The minimum size of the blocks into which a long text in these files is cut, see `read`."""
    return block_bytes(sum(map(size, files)))


def _documents(files: Sequence[Path], path: Path) -> Iterator[str]:
    block = block_of(files)
    empty = True
    for name in files:
        with opened(name) as file:
            for document, _ in read(file, str(name), block=block):
                empty = False
                yield document
    if empty:
        raise UserError(f"{path}: there is no text in it")


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
    file, is_packed = opened_content(file, name, start)
    for document, position in format_of(name).documents(file, name, start, block):
        if document:
            yield document, None if is_packed else position
