"""A text flows in; the stretches of it that teach a model nothing come out: random symbols, and repetitions of a line.

Both show in how well a piece of text compresses, whatever its language.
"""

import statistics
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homespun.data.documents import documents
from homespun.data.files import bytes_to_read
from homespun.terminal import bar

PIECE_BYTES = 16_384
MOST_BYTES = 50_000_000
"""Of the text: as much is examined."""

NOISE_BITS = 5.0
"""Bits per byte after compression. Text in any language stays below; random letters and encoded data are above."""
NOISE_RATIO = 1.5
"""Noise also is this much above the rest of the text."""
REPEATED_BITS = 0.2
"""A line repeated over and over stays below; tables and lists are above."""
REPEATED_RATIO = 0.2
LEAST_SHARE = 0.01
"""Of the text. Less does no harm."""


@dataclass(frozen=True)
class Fault:
    """A part of a text that teaches nothing."""

    kind: Literal["noise", "repetition"]
    share: float
    """Of the bytes that were examined."""
    bits_per_byte: float
    """After compression, as a mean."""
    usual_bits_per_byte: float
    """The median of the whole text."""
    first_document: int
    """The first and the last document with such a piece, from 1 on."""
    last_document: int
    excerpt: str
    """The beginning of the first piece."""


@dataclass(frozen=True)
class _Piece:
    bits_per_byte: float
    first_document: int
    last_document: int
    n_bytes: int
    beginning: str


def faults(text: Path) -> list[Fault]:
    """The stretches of a text that teach nothing, if they are more than a hundredth of it.

    Raises:
        UserError: the text cannot be read.
    """
    n_bytes = bytes_to_read(text)
    pieces = []
    with bar(f"Examining {text}", n_bytes and min(n_bytes, MOST_BYTES)) as advance:
        for piece in _pieces(text):
            pieces.append(piece)
            advance(piece.n_bytes)
    if not pieces:
        return []
    usual = statistics.median(piece.bits_per_byte for piece in pieces)
    noise = [
        piece
        for piece in pieces
        if piece.bits_per_byte > NOISE_BITS
        and (piece.bits_per_byte > NOISE_RATIO * usual or usual > NOISE_BITS)
    ]
    repeated = [
        piece
        for piece in pieces
        if piece.bits_per_byte < REPEATED_BITS
        and (piece.bits_per_byte < REPEATED_RATIO * usual or usual < REPEATED_BITS)
    ]
    total = sum(piece.n_bytes for piece in pieces)
    found = []
    kinds: tuple[tuple[Literal["noise", "repetition"], list[_Piece]], ...] = (
        ("noise", noise),
        ("repetition", repeated),
    )
    for kind, bad in kinds:
        share = sum(piece.n_bytes for piece in bad) / total
        if share >= LEAST_SHARE:
            found.append(
                Fault(
                    kind,
                    share,
                    statistics.fmean(piece.bits_per_byte for piece in bad),
                    usual,
                    bad[0].first_document,
                    bad[-1].last_document,
                    bad[0].beginning,
                )
            )
    return found


def _pieces(text: Path) -> Iterator[_Piece]:
    """The text in pieces of equal size, from one document into the next. A shorter last one counts if it is the only
    one, since little text compresses badly."""
    buffer, begins, examined = bytearray(), 1, 0
    number = 0
    for number, document in enumerate(documents(text), 1):
        encoded = document.encode()
        for start in range(0, max(1, len(encoded)), PIECE_BYTES):
            if not buffer:
                begins = number
            buffer += encoded[start : start + PIECE_BYTES] + b"\n"
            while len(buffer) >= PIECE_BYTES:
                yield _piece(bytes(buffer[:PIECE_BYTES]), begins, number)
                examined += PIECE_BYTES
                del buffer[:PIECE_BYTES]
                begins = number
                if examined >= MOST_BYTES:
                    return
    if not examined and buffer:
        yield _piece(bytes(buffer), begins, number)


def _piece(part: bytes, first: int, last: int) -> _Piece:
    bits = 8 * len(zlib.compress(part, 6)) / len(part)
    beginning = part[:200].decode(errors="replace")
    return _Piece(bits, first, last, len(part), " ".join(beginning.split())[:60])
