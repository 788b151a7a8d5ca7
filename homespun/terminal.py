"""What goes to the person at a terminal: lines of text that cannot do harm, and how far a long piece of work is."""

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

Say = Callable[[str], None]
"""Takes a message."""

# Control characters begin every escape sequence; the others turn the direction of writing around.
# Line breaks and tabs stay.
_UNPRINTABLE = dict.fromkeys(
    {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {9, 10}
)

BETWEEN_MOVES = 0.1
"""Seconds: moving a bar costs as much as reading some documents."""


def duration(seconds: float) -> str:
    """'42 s', '12 min', '3 h 05 min' or '2 d 4 h'."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def size(n_bytes: float) -> str:
    """'640 MB' or '1.2 GB', in powers of ten."""
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 0.9995e9 else f"{n_bytes / 1e9:.1f} GB"


def printable(text: str) -> str:
    """`text` without what could control a terminal: for all text that a model wrote."""
    return text.translate(_UNPRINTABLE)


def columns(file: TextIO) -> int | None:
    """The width of a terminal; None where the file is something else, whose lines are left as they are."""
    return shutil.get_terminal_size().columns if file.isatty() else None


def say(text: str, file: TextIO | None = None) -> None:
    """Print a message."""
    file = file or sys.stdout
    print(wrapped(printable(text), columns(file)), file=file, flush=True)


def wrapped(text: str, width: int | None, indent: str = "") -> str:
    """Lines of at most `width` columns that end between words; what is carried over stands behind `indent`.

    A longer word, such as a path, stays whole.
    """
    if width is None:
        return text
    lines = textwrap.TextWrapper(
        width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines.fill(line) for line in text.split("\n"))


def wrapped_as_it_comes(pieces: Iterable[str], width: int | None) -> Iterator[str]:
    """`wrapped`, of a text that comes in pieces: a word is held back until it is whole."""
    column = 0
    for word in _words(pieces) if width else pieces:
        if width and column and column + len(word) > width:
            yield "\n"
            column = 0
        yield word
        column = 0 if word.endswith("\n") else column + len(word)


def _words(pieces: Iterable[str]) -> Iterator[str]:
    """Each with the blank or the line break behind it."""
    held = ""
    for piece in pieces:
        *whole, held = re.split(r"(?<=[ \n])", held + piece)
        yield from whole
    yield held


@contextmanager
def bar(title: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """Show how far some work is, where standard error is a terminal; it leaves no trace.

    Args:
        title: the work.
        total: how much of it there is, in any unit; None where that is not known.

    Yields:
        What is to be called with each further amount that is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    terminal = Console(stderr=True)
    columns = Progress.get_default_columns()
    if total is None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=terminal, disable=not terminal.is_terminal, transient=True
    ) as progress:
        task = progress.add_task(title, total=total)
        done, moved = 0.0, time.monotonic()

        def advance(amount: float) -> None:
            nonlocal done, moved
            done += amount
            if (now := time.monotonic()) - moved >= BETWEEN_MOVES:
                progress.update(task, completed=done)
                moved = now

        yield advance
