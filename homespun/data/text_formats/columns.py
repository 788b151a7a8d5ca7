"""Records flow in, the documents in their text column flow out."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from homespun.data.text_formats.cutting import MAX_DOCUMENT, Located, blocks
from homespun.errors import UserError

TEXT_COLUMNS = ("text", "story", "content")
"""The columns of .jsonl and .parquet that may hold the documents."""
MAX_SHOWN_NAME = 40
"""Characters of a column's name in a message."""
Record = tuple[object, str, int]
"""A value that should be a document or an object with columns, its place for messages, and the position after it."""
Choose = Callable[[list[str]], list[str]]
"""Gets the names of the columns and returns those that are wanted."""
Records = Callable[[BinaryIO, str, int, Choose], Iterator[Record]]
"""Streams the records of a file. Arguments and errors as for `documents.read`. A format that stores the columns apart
asks the last argument and reads no others; another format gives each record whole."""


def documents_in_records(
    records: Records, file: BinaryIO, name: str, start: int
) -> Iterator[Located]:
    """Stream the documents in the text column of a file. Arguments and errors as for `documents.read`."""
    for value, place, after in _values(records, file, name, start):
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


def _values(records: Records, file: BinaryIO, name: str, start: int) -> Iterator[Record]:
    def choose(columns: list[str]) -> list[str]:
        return [_text_column(columns, name)]

    column = None
    for record, place, position in records(file, name, start, choose):
        value = record
        if isinstance(record, dict):
            column = column or _text_column(list(record), place)
            if column not in record:
                raise UserError(f"{place}: no column '{column}'; it has {listed(list(record))}")
            value = record[column]
        yield value, place, position


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
