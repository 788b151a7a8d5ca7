"""A conversation flows in; a line of a .jsonl file flows out, from which models can learn.

`homespun chat` and the studio save here. The form is the one that `data.conversations` reads.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from homespun.errors import UserError, cannot_write
from homespun.tokenizer import Message

SUFFIX = ".jsonl"
LONGEST_LINE = 16 << 20
"""Bytes of the first line of a file that are looked at."""


def add_conversation(path: Path, messages: Sequence[Message]) -> None:
    """Add a conversation to a file, which is made if it is not there.

    Raises:
        UserError: the name does not end in .jsonl, the file holds something else, or it cannot be written.
    """
    if path.suffix != SUFFIX or "\0" in str(path):
        raise UserError(f"{path}: give a file name that ends in {SUFFIX}")
    line = json.dumps({"messages": list(messages)}, ensure_ascii=False) + "\n"
    end = None
    try:
        with path.open("ab+") as file:
            if not _takes_conversations(file):
                raise UserError(f"{path} holds something other than messages: name another file")
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            whole = file.read() in (b"", b"\n")
            file.write(b"" if whole else b"\n")
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if end is not None:  # a part of a line would spoil the whole file
            with contextlib.suppress(OSError):
                os.truncate(path, end)
        raise cannot_write(error, f"{path} cannot be written", "choose another file") from None


def _takes_conversations(file: BinaryIO) -> bool:
    """Whether a file is empty or begins with a conversation. Others, such as the record of a run, are left alone."""
    file.seek(0)
    first = file.readline(LONGEST_LINE)
    if not first.strip():
        return not file.read(1)
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(value.get("messages"), list)
