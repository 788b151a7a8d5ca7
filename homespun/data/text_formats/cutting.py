"""A long text flows in; pieces of a limited size flow out, cut at the best places."""

import re

from homespun.data.text_formats.encodings import clean

MAX_DOCUMENT = 1 << 20
"""Bytes of UTF-8 in a document. Longer ones are cut."""
BLOCK_BYTES = 4_000
"""Minimum bytes of a block of a long text. The maximum is twice this."""
BLOCKS_OF_SHORT_TEXT = 40
"""A text too short for this many blocks gets smaller ones, so that a tenth of it is still several blocks."""
MIN_BLOCK_BYTES = 200
"""Bytes. Blocks do not become smaller than this, because they would hardly be texts."""
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
Located = tuple[str, int | None]
"""A document and the position after it; None if reading cannot start there."""


def block_bytes(text_bytes: int) -> int:
    """The minimum size of a block of a text. A block ends at the next good place, and at twice this size anywhere."""
    return max(MIN_BLOCK_BYTES, min(BLOCK_BYTES, text_bytes // BLOCKS_OF_SHORT_TEXT))


def piece_length(text: bytes, most: int) -> int:
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
    """Cut a text of UTF-8 into pieces of at most `most` bytes, without empty ones; see `piece_length`."""
    pieces = []
    begin = 0
    while begin < len(text):
        end = begin + piece_length(text[begin : begin + most + 1], most)
        pieces.append(clean(text[begin:end].decode()))
        begin = end
    return [piece for piece in pieces if piece]
