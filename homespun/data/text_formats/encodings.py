"""Bytes of a file flow in, their text flows out; what is not UTF-8 is refused, with a way to convert it."""

import codecs
import re
import shlex
from pathlib import Path
from typing import BinaryIO

from homespun.data.text_formats.compression import COMPRESSIONS, READ, suffix
from homespun.errors import UserError

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


def decode(text: bytes, name: str, offset: int, file: BinaryIO) -> str:
    """Decode the bytes that lie at `offset` of a file."""
    if (nul := text.find(b"\0")) >= 0:
        raise UserError(f"{name}: NUL at byte {offset + nul}; this is not a text file")
    try:
        return clean(text.decode())
    except UnicodeDecodeError as error:
        line = _line_number(file, offset + error.start)
        file.seek(offset + error.start)
        advice = _other_encoding(text[: error.start], file.read(READ), name)
        raise UserError(f"{name}: not UTF-8 in line {line:,}; {advice}") from None


def clean(text: str) -> str:
    """Line ends as LF, and no white space at either end."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def _line_number(file: BinaryIO, offset: int) -> int:
    """The number of the line that contains the byte at `offset`."""
    file.seek(0)
    starts = range(0, offset, READ)
    return 1 + sum(file.read(min(READ, offset - start)).count(b"\n") for start in starts)


def wide_encoding(beginning: bytes) -> str | None:
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


def iconv(encoding: str, name: str, option: str = "") -> str:
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
            f"bytes: {iconv('UTF-8', name, ' -c')}"
        )
    n_letters = len(re.findall(rb"[\x80-\xff]", text))
    in_words = sum(map(len, re.findall(rb"[\x80-\xff]{4,}", text)))
    if in_words < n_letters / 2:  # single letters with accents between those of ASCII
        return f"if it is Latin-1 or Windows-1252 text, convert it: {iconv('WINDOWS-1252', name)}"
    possible = {encoding: _is_likely(encoding, text) for encoding in EAST_ASIAN}
    likely = [encoding for encoding, is_likely in possible.items() if is_likely]
    decoded = [encoding for encoding, is_likely in possible.items() if is_likely is not None]
    encodings = likely or decoded or ["WINDOWS-1251", "KOI8-R"]
    right = " from the right one" if len(encodings) > 1 else ""
    listed = " or ".join(encodings)
    return f"if it is {listed} text, convert it{right}: {iconv(encodings[0], name)}"


def _is_likely(encoding: str, text: bytes) -> bool | None:
    """Whether a text has the characters that are frequent in an encoding's languages; None if it is not encoded so."""
    try:
        decoded = codecs.getincrementaldecoder(encoding)().decode(text)
    except UnicodeDecodeError:
        return None
    frequent, least_share = EAST_ASIAN[encoding]
    n_letters = len(re.findall(r"[^\x00-\x7f]", decoded))
    return len(re.findall(frequent, decoded)) >= least_share * n_letters
