"""A text file flows in, its documents flow out: the parts between the marks, or the blocks of a book."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from homespun.data.text_formats.compression import READ
from homespun.data.text_formats.cutting import MAX_DOCUMENT, Located, piece_length
from homespun.data.text_formats.encodings import decode
from homespun.tokenizer import END_OF_TEXT

BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n?|\n")


def documents(file: BinaryIO, name: str, start: int, block: int) -> Iterator[Located]:
    """Stream the documents of a text file. Arguments and errors as for `documents.read`."""
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
            more = file.read(READ)
            at_end = not more
            buffer, offset, begin = buffer[begin:] + more, offset + begin, 0
            continue
        end, following = separator or (len(buffer), len(buffer))
        cut = begin + piece_length(buffer[begin : min(end, begin + most + 1)], most)
        if cut < end:
            following = cut
        yield decode(buffer[begin:cut], name, offset + begin, file), offset + following
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
