"""A .jsonl file flows in, the values of its lines flow out."""

import itertools
import json
from collections.abc import Iterator
from typing import BinaryIO

from homespun.data.text_formats.columns import Choose, Record
from homespun.data.text_formats.encodings import decode
from homespun.errors import UserError

MAX_LINE = 1 << 27
"""Bytes in a line of .jsonl, which is read into memory as a whole."""


def records(file: BinaryIO, name: str, start: int, _: Choose) -> Iterator[Record]:
    """Stream the values of the lines, each with its place and the position after it. Arguments and errors as for
    `documents.read`."""
    file.seek(start)
    position = start
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        place = f"{name}:{number}" if start == 0 else f"{name}, line at byte {position}"
        if len(line) > MAX_LINE:
            raise UserError(
                f"{place}: a line of more than {MAX_LINE >> 20} MiB; split the document"
            )
        text = decode(line, name, position, file)
        if position == 0:
            text = text.removeprefix("\ufeff")
        position += len(line)
        if not text:
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not a JSON value ({error})") from None
        yield record, place, position
