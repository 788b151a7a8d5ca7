"""Output for a person at a terminal: messages, wrapped text, progress bars, and sizes and durations in words.

Text from models and files is printed without characters that could control the terminal.
"""

import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

Say = Callable[[str], None]
"""A function that shows a message."""

# Control characters start escape sequences; the other ranges change the direction of the text. Line breaks and tabs
# stay.
_UNPRINTABLE = dict.fromkeys(
    {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {9, 10}
)

MIN_COLUMNS, MAX_COLUMNS = 20, 1000
"""Widths that texts and bars are laid out for; `COLUMNS` may name any."""

BAR_UPDATE_SECONDS = 0.1
"""Time between two updates of a bar. Each costs as much as reading several documents."""


def duration(seconds: float) -> str:
    """A duration in words: '42 s', '12 min', '3 h 05 min' or '2 d 4 h'."""
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
    """A number of bytes in words: '640 MB' or '1.2 GB', in powers of ten."""
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 0.9995e9 else f"{n_bytes / 1e9:.1f} GB"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: '1 step', '1,200 steps', '1 story' or '2 stories'; the plural ends in s unless given."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def printable(text: str) -> str:
    """`text` without the characters that could control a terminal. Apply it to everything that a model wrote."""
    return text.translate(_UNPRINTABLE)


def terminal_columns() -> int:
    """The width of the terminal, or that in COLUMNS, within reason."""
    return min(max(shutil.get_terminal_size().columns, MIN_COLUMNS), MAX_COLUMNS)


def fixed_columns() -> int | None:
    """The width for a `rich` console: that in COLUMNS, within reason; None if it follows the terminal."""
    return terminal_columns() if os.environ.get("COLUMNS", "").isdigit() else None


def columns(file: TextIO) -> int | None:
    """The width of the terminal that `file` is; None if it is not a terminal, as its lines are then not wrapped."""
    return terminal_columns() if file.isatty() else None


def say(text: str, file: TextIO | None = None) -> None:
    """Print a message to `file`, by default standard output."""
    file = file or sys.stdout
    print(wrapped(printable(text), columns(file)), file=file, flush=True)


def wrapped(text: str, width: int | None, indent: str = "") -> str:
    """`text` in lines of at most `width` columns, broken between words; None leaves it as it is.

    Continuation lines start with `indent`. A word longer than a line, such as a path, stays whole.
    """
    if width is None:
        return text
    lines = textwrap.TextWrapper(
        width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines.fill(line) for line in text.split("\n"))


def wrapped_stream(pieces: Iterable[str], width: int | None) -> Iterator[str]:
    """`wrapped` for a text that arrives in pieces. A word is held back until it is complete."""
    column = 0
    for word in _words(pieces) if width else pieces:
        if width and column and column + len(word) > width:
            yield "\n"
            column = 0
        yield word
        column = 0 if word.endswith("\n") else column + len(word)


def _words(pieces: Iterable[str]) -> Iterator[str]:
    """The words of a text, each with the space or line break after it."""
    incomplete = ""
    for piece in pieces:
        *complete, incomplete = re.split(r"(?<=[ \n])", incomplete + piece)
        yield from complete
    yield incomplete


@contextmanager
def bar(title: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error, if that is a terminal. It is erased at the end.

    Args:
        title: name of the work.
        total: amount of work in any unit; None if unknown.

    Yields:
        A function to call with each amount of work that has been done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    terminal = Console(stderr=True, width=fixed_columns())
    shown = Progress.get_default_columns()
    if total is None:
        shown = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *shown, console=terminal, disable=columns(sys.stderr) is None, transient=True
    ) as progress:
        task = progress.add_task(title, total=total)
        done, updated = 0.0, time.monotonic()

        def advance(amount: float) -> None:
            nonlocal done, updated
            done += amount
            if (now := time.monotonic()) - updated >= BAR_UPDATE_SECONDS:
                progress.update(task, completed=done)
                updated = now

        yield advance
