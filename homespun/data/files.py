"""The path of a source flows in; its files flow out in order, open for reading, and facts about them."""

import contextlib
import glob
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from homespun.data.text_file import Mixture, is_described, read_description
from homespun.data.text_formats.columns import TEXT_COLUMNS
from homespun.data.text_formats.compression import (
    COMPRESSIONS,
    NEVER_COMPRESSED,
    READ,
    codec_of,
    decompressed,
    suffix,
)
from homespun.data.text_formats.cutting import BLOCK_BYTES, BLOCKS_OF_SHORT_TEXT
from homespun.data.text_formats.foreign import CONVERTIBLE, not_text
from homespun.data.text_formats.formats import SUFFIXES, SUPPORTED, format_of
from homespun.errors import UserError, cannot_read, did_you_mean
from homespun.terminal import counted
from homespun.tokenizer import END_OF_TEXT


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
        if is_pattern(path):
            files = sorted(filter(_is_read, _matching(path)))
            if not files:
                others = left_out(path)
                raise UserError(
                    f"{path}: no {SUPPORTED} file matches this pattern"
                    + (others and f" (only {others})")
                )
            return files
        if is_described(path):
            described = read_description(path)
            if isinstance(described, Mixture):
                return [file for text in described.texts for file in files_to_read(text)]
            raise UserError(f"{path}: only the tokens of this text can be read, not the text")
        if not path.exists():
            names = [entry.name for entry in path.absolute().parent.glob("*")]
            close = did_you_mean(path.name, names, "")
            raise UserError(f"{path}: there is no such file or folder" + (close and f": {close}"))
    except OSError as error:
        raise cannot_read(error, f"{path}: cannot be read") from None
    kind = suffix(path.name)
    if kind in CONVERTIBLE:
        raise not_text(str(path), kind)
    if kind and kind not in SUFFIXES:
        raise UserError(f"{path}: cannot read this kind of file; give a {SUPPORTED} file")
    return [path]


def is_pattern(path: Path) -> bool:
    """Whether a path stands for all files that match it, and not for one of exactly this name."""
    return not path.exists() and any(sign in str(path) for sign in "*?[")


def _matching(pattern: Path) -> Iterator[Path]:
    # `Path.glob` takes no absolute pattern. Links, and several `**`, lead to a file more than once: the shortest way.
    found = map(Path, glob.glob(str(pattern), recursive=True))  # noqa: PTH207
    ways = sorted(found, key=lambda one: (len(one.parts), one), reverse=True)
    return iter({os.path.realpath(way): way for way in ways}.values())


def _is_read(entry: Path) -> bool:
    """Whether a file is read as part of its folder."""
    hidden = entry.name.startswith(".")
    return suffix(entry.name) in SUFFIXES and not hidden and entry.is_file()


def left_out(path: Path) -> str:
    """The number of other files and folders in a folder, or of other files that match a pattern, in words; empty if
    everything is read."""
    if path.is_dir():
        entries = path.iterdir()
    elif is_pattern(path):
        entries = (entry for entry in _matching(path) if not entry.is_dir())
    else:
        return ""
    others = [entry for entry in entries if not _is_read(entry) and not entry.name.startswith(".")]
    n_folders = sum(entry.is_dir() for entry in others)
    return " and ".join(
        counted(n, kind)
        for n, kind in ((len(others) - n_folders, "other file"), (n_folders, "folder"))
        if n
    )


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


def look_at(path: Path) -> os.stat_result:
    """The size and the times of a file.

    Raises:
        UserError: they cannot be read.
    """
    try:
        return path.stat()
    except OSError as error:
        raise cannot_read(error, f"{path}: cannot be read") from None


def size(path: Path) -> int:
    """Bytes of a file. Of a compressed one only as many of its text are counted as matter to `block_bytes`."""
    with opened(path) as file:
        codec = codec_of(path.name, file)
        if codec is None:
            return os.fstat(file.fileno()).st_size
        return len(decompressed(file, codec).read(BLOCK_BYTES * BLOCKS_OF_SHORT_TEXT))


def bytes_to_read(path: Path) -> int | None:
    """Bytes of text in a file or folder; None if it is compressed, so that the number is unknown."""
    return bytes_in(files_to_read(path))


def bytes_in(files: Iterable[Path]) -> int | None:
    """Bytes of text in files; None if one is compressed."""
    total = 0
    for name in files:
        with opened(name) as file:
            if suffix(name.name) in NEVER_COMPRESSED or codec_of(name.name, file):
                return None
            total += os.fstat(file.fileno()).st_size
    return total


def how_to_mark(path: Path) -> str:
    """How the marks inside the documents of a source become ends of documents."""
    if not path.is_file() or format_of(path.name).records:
        return "give each document a line (.jsonl) or a row (.parquet) of its own"
    file = shlex.quote(str(path))
    packed = COMPRESSIONS.get(path.suffix.lower())
    unpack, file = (f"{packed[2]} {file} | ", "") if packed else ("", f" {file}")
    own_line = rf"perl -pe 's/{re.escape(END_OF_TEXT)}/\n$&\n/g'"
    return f"give each a line of its own: {unpack}{own_line}{file} > marked.txt"


def looks_like_jsonl(path: Path) -> bool:
    """Whether a file that is read as text has lines of .jsonl."""
    if not path.is_file() or format_of(path.name).records:
        return False
    with opened(path) as file:
        codec = codec_of(path.name, file)
        first = (decompressed(file, codec) if codec else file).readline(READ)
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and any(column in record for column in TEXT_COLUMNS)
