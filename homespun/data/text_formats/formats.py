"""The name of a file flows in, the format by which it is read flows out.

A new format is one file in this folder and an entry in `FORMATS`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from homespun.data.text_formats import jsonl, parquet, plain_text
from homespun.data.text_formats.columns import Records, documents_in_records
from homespun.data.text_formats.compression import (
    NEVER_COMPRESSED,
    codec_of,
    decompressed,
    head_of,
    suffix,
)
from homespun.data.text_formats.cutting import Located
from homespun.data.text_formats.foreign import check_is_text


@dataclass(frozen=True)
class Format:
    """How files of some kinds are read."""

    suffixes: tuple[str, ...]
    documents: Callable[[BinaryIO, str, int, int], Iterator[Located]]
    """Streams the documents of a file. Arguments and errors as for `documents.read`."""
    records: Records | None = None
    """Streams its records, for a format that has columns."""


def _with_columns(suffix: str, records: Records) -> Format:
    def documents(file: BinaryIO, name: str, start: int, block: int) -> Iterator[Located]:
        return documents_in_records(records, file, name, start)

    return Format((suffix,), documents, records)


TEXT = Format((".txt", ".md"), plain_text.documents)
FORMATS = (
    TEXT,
    _with_columns(".jsonl", jsonl.records),
    _with_columns(".parquet", parquet.records),
)


def _either(formats: Iterable[Format]) -> str:
    """The suffixes of these formats, in words."""
    *others, last = (suffix for one in formats for suffix in one.suffixes)
    return f"{', '.join(others)} or {last}"


SUFFIXES = tuple(suffix for one in FORMATS for suffix in one.suffixes)
SUPPORTED = _either(FORMATS)
WITH_COLUMNS = _either(one for one in FORMATS if one.records)


def format_of(name: str) -> Format:
    """The format of a file by its name. Any other file is read as text."""
    kind = suffix(name)
    return next((one for one in FORMATS if kind in one.suffixes), TEXT)


def opened_content(file: BinaryIO, name: str, start: int) -> tuple[BinaryIO, bool]:
    """The content of a file, decompressed if it is compressed, and whether it is. Arguments and errors as for
    `documents.read`."""
    if start or suffix(name) in NEVER_COMPRESSED:
        return file, False
    codec = codec_of(name, file)
    if codec:
        file = decompressed(file, codec)
    check_is_text(head_of(file), name)
    return file, codec is not None
