"""The first bytes of a file flow in; another kind of file is refused, with a way to convert it to text."""

import re
import shlex
from pathlib import Path

from homespun.data.text_formats.compression import COMPRESSIONS, suffix
from homespun.data.text_formats.encodings import iconv, wide_encoding
from homespun.errors import UserError

_SAVE = "save it as plain text (.txt, UTF-8) first: "
_UNPACK = "unpack it first: "
_WORD = ("a Word document", _SAVE + "in Word: Save as, Plain Text")
_PAGE = ("a web page", _SAVE + "pandoc -t plain {file} -o page.txt strips the tags")
_TAR = ("a tar archive", _UNPACK + "tar -xf {file}")
CONVERTIBLE = {
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


def not_text(name: str, kind: str) -> UserError:
    what, how = CONVERTIBLE[kind]
    shown = Path(name).suffix
    disguised = "" if suffix(name) == kind else f" with the name {shown or Path(name).name}"
    inner = suffix(Path(name).stem) if suffix(name) in CONVERTIBLE else suffix(name)
    how = how.replace("{suffix}", inner or ".txt").replace("{file}", shlex.quote(name))
    return UserError(f"{name}: this is {what}{disguised}: {how}")


def check_is_text(beginning: bytes, name: str) -> None:
    """Refuse another kind of file under the name of a text.

    Raises:
        UserError: names the kind of file, and a way to convert it.
    """
    if re.match(rb"PAR1[\x00-\x1f]", beginning):
        raise UserError(f"{name}: this is a parquet file: give it a name that ends in .parquet")
    for kind, bytes_of_kind in _DISGUISED.items():
        if re.match(bytes_of_kind, beginning, re.DOTALL):
            raise not_text(name, kind)
    if encoding := wide_encoding(beginning):
        family = encoding[:6]
        raise UserError(f"{name}: this is {family} text; convert it: {iconv(encoding, name)}")
