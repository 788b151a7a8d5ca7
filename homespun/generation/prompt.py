"""A file or standard input flows in, the text of a prompt flows out.

It is read like the text that models are trained on: UTF-8 without its byte-order mark, line ends as LF. One line end at
the end of the input is dropped, because editors and `echo` put one there.
"""

import io
import sys
from pathlib import Path
from typing import BinaryIO

from homespun.config import LONGEST_CONTEXT
from homespun.errors import UserError, cannot_read
from homespun.terminal import is_terminal, warn

MAX_BYTES = 64 * LONGEST_CONTEXT
"""A longer text is in no model's context, and is not read to its end."""


def from_file(path: Path) -> str:
    """The prompt in a file.

    Raises:
        UserError: the file cannot be read, holds no text, or too much.
    """
    try:
        with path.open("rb") as file:
            return _text(file, str(path), "--prompt-file")
    except OSError as error:
        raise cannot_read(error, f"{path}: cannot be read") from None


def from_standard_input() -> str:
    """The prompt on standard input, up to its end. At a terminal, a message says how to end it.

    Raises:
        UserError: as `from_file`.
    """
    file = sys.stdin
    if file is None:
        raise UserError("standard input is closed: --prompt - reads the prompt from it")
    if is_terminal(file):
        warn("Type the prompt; Ctrl-D on a line of its own ends it.")
    try:
        # A program may have put another object in its place, which has only text.
        content = getattr(file, "buffer", None) or io.BytesIO(file.read().encode())
        return _text(content, "standard input", "--prompt")
    except OSError as error:
        raise cannot_read(error, "standard input cannot be read") from None


def _text(file: BinaryIO, name: str, flag: str) -> str:
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"{name}: more than {MAX_BYTES >> 20} MiB, too long for a prompt")
    if (nul := content.find(b"\0")) >= 0:
        raise UserError(f"{name}: NUL at byte {nul}; this is not a text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise UserError(
            f"{name}: not UTF-8 in line {line}: convert it first, for example with iconv"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    if not text:
        raise UserError(
            f"{name}: there is no text in it: leave {flag} out to let the model begin by itself"
        )
    return text
