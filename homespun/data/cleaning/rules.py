"""A document flows in; the reason to leave it out flows out, if there is one.

The rules are few and hold for every language. They follow those of Gopher (Rae et al. 2021, appendix A) and C4 (Raffel
et al. 2020), without the ones that know English.
"""

import re
import zlib

from homespun.data.quality import NOISE_BITS, PIECE_BYTES

LEAST_CHARACTERS = 200
MOST_SYMBOLS = 0.3
"""Share of digits and symbols among the characters that are not blank. Usual punctuation does not count as a symbol."""
MOST_REPEATED = 0.3
"""Share of the characters that are in lines which occur earlier in the same document."""
MEASURED_BYTES = 2_000
"""Shorter documents are not compressed, since all of them compress badly."""
LEAST_COMPRESSED = 0.1
"""Share of a document that is left when it is compressed. Less is left of a sentence that is repeated all the time."""

SHORT = "short"
SYMBOLS = "mostly digits and symbols"
REPEATED_LINES = "repeated lines"
REPETITIVE = "repeats itself"
NOISE = "random characters"
REASONS = (SHORT, SYMBOLS, REPEATED_LINES, REPETITIVE, NOISE)

_SYMBOL = re.compile(r"[0-9#$%&*+/<=>@\[\\\]^_`{|}~]")


def fault_of(document: str) -> str | None:
    """The first of `REASONS` that holds for a document."""
    n_characters = len("".join(document.split()))
    if n_characters < LEAST_CHARACTERS:
        return SHORT
    if len(_SYMBOL.findall(document)) > MOST_SYMBOLS * n_characters:
        return SYMBOLS
    if _in_repeated_lines(document) > MOST_REPEATED * len(document):
        return REPEATED_LINES
    encoded = document.encode()
    if len(encoded) >= MEASURED_BYTES and _compressed(encoded) < LEAST_COMPRESSED:
        return REPETITIVE
    if len(encoded) >= PIECE_BYTES and 8 * _compressed(encoded[:PIECE_BYTES]) > NOISE_BITS:
        return NOISE
    return None


def _in_repeated_lines(document: str) -> int:
    """Characters in lines that occur earlier."""
    seen: set[str] = set()
    n = 0
    for line in map(str.strip, document.split("\n")):
        n += len(line) if line in seen else 0
        seen.add(line)
    return n


def _compressed(text: bytes) -> float:
    return len(zlib.compress(text, 6)) / len(text)
