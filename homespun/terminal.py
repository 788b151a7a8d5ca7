"""Output for a person at a terminal: messages, wrapped text, progress bars, and sizes and durations in words.

All output of the package goes through this module. A stream may be missing, closed or full, may have any encoding, and
may be any object of a program that uses the package. Text from models and files is printed without characters that
could control the terminal.
"""

import contextlib
import errno
import os
import shutil
import sys
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
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


SILENT_SECONDS = 10.0
"""Without a terminal, work that takes so long is named, and again whenever as much time has passed."""

LONGEST_MOVED = 30
"""Columns of the longest word that moves to the next line while it is written."""


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


def encodable(text: str, file: object = None) -> str:
    """`text` with escapes such as \\xe9 for the characters that the encoding of `file` lacks, by default UTF-8, which
    lacks the bytes of file names in other encodings."""
    encoding = getattr(file, "encoding", None)
    try:
        return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
    except (LookupError, TypeError, UnicodeError):
        return _ascii(text)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def is_terminal(file: object) -> bool:
    """Whether a stream is a terminal; False for a stream that is missing, closed or cannot tell."""
    with contextlib.suppress(Exception):
        return bool(file.isatty())  # type: ignore[attr-defined]
    return False


def columns(file: object) -> int | None:
    """The width of the terminal that `file` is; None if it is not a terminal, as its lines are then not wrapped."""
    return terminal_columns() if is_terminal(file) else None


class OutputLost(Exception):
    """The output cannot be written."""

    def __init__(self, error: Exception) -> None:
        super().__init__(why(error))
        self.reader_is_gone = reader_is_gone(error)


def why(error: Exception) -> str:
    """The reason of a failed write, for a message."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def reader_is_gone(error: Exception) -> bool:
    """Whether nobody can read the output any more: a closed pipe or connection, or a closed terminal."""
    return isinstance(error, ConnectionError) or getattr(error, "errno", 0) in (
        errno.EPIPE,
        errno.EIO,
    )


def write(text: str, file: TextIO) -> None:
    """Write text into a stream of any kind, and flush it.

    Raises:
        Exception: any exception of the stream.
    """
    try:
        file.write(encodable(text, file))
    except UnicodeError:  # the stream does not tell its encoding
        file.write(_ascii(text))
    if flush := getattr(file, "flush", None):
        flush()


@contextmanager
def nowhere(file: object) -> Iterator[None]:
    """Discard the text that a stream still holds, and all text that is written to it inside the block.

    After a failed write, a stream would try again to write its text, and fail again, when it is flushed.
    """
    try:
        descriptor = file.fileno()  # type: ignore[attr-defined]
        kept = os.dup(descriptor)
    except Exception:  # not a file of the system
        with contextlib.suppress(Exception):
            yield
        return
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), descriptor)
        with contextlib.suppress(Exception):
            yield
        with contextlib.suppress(Exception):
            file.flush()  # type: ignore[attr-defined]
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silence(wanted: bool = True) -> Iterator[None]:
    """Print no messages and no bars inside the block; warnings and errors are printed."""
    token = _silent.set(wanted)
    try:
        yield
    finally:
        _silent.reset(token)


def is_silent() -> bool:
    """Whether this is inside `silence`."""
    return _silent.get()


def say(text: str) -> None:
    """Print a message beside the work. If standard output cannot take it, standard error gets it.

    Raises:
        OutputLost: the reader of standard output is gone. Any other fault of the output costs no more than the message.
    """
    file = sys.stdout
    if file is None or is_silent():
        return
    try:
        write(wrapped(printable(text), columns(file)) + "\n", file)
    except Exception as error:
        with nowhere(file):
            pass
        if reader_is_gone(error):
            raise OutputLost(error) from error
        warn(text)


def warn(text: str) -> None:
    """Print a message to standard error, if that is possible."""
    file = sys.stderr
    if file is None:
        return
    try:
        write(wrapped(printable(text), columns(file)) + "\n", file)
    except Exception:
        with nowhere(file):
            pass


def put(text: str, end: str = "\n") -> None:
    """Print the text that a command is asked for to standard output, as it is.

    Raises:
        OutputLost: it cannot be written, or standard output is closed.
    """
    file = sys.stdout
    try:
        if file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        write(text + end, file)
    except Exception as error:
        with nowhere(file):
            pass
        raise OutputLost(error) from error


def occupy_standard_descriptors() -> None:
    """Open the null device in place of each standard stream that is closed.

    The next file that is opened would take its number, and messages of the system and of libraries would be written
    into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_WRONLY if number else os.O_RDONLY)
            os.set_inheritable(opened, True)


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
    """`wrapped` for a text that arrives in pieces, each of which is shown at once.

    A word that turns out to be too long for its line is erased there and repeated on the next line. Lines also break
    between wide characters, such as Chinese ones. Words of more than `LONGEST_MOVED` columns are left to the terminal.

    Args:
        pieces: the text.
        width: columns of the terminal; None leaves the text as it is.
    """
    if width is None:
        yield from pieces
        return
    column = 0  # of the cursor
    word = ""  # the characters before the cursor that belong together
    for piece in pieces:
        shown = ""
        for char in piece:
            cells, length = _cells(char), _width(word)
            # The last column is for blanks: behind it, terminals differ in where the cursor is.
            if column and cells and not char.isspace() and column + cells >= width:
                if not word or cells == 2:
                    shown += "\n"
                    column, word = 0, ""
                elif length < column and length <= LONGEST_MOVED:
                    shown += "\b" * length + " " * length + "\n" + word
                    column = length
            shown += char
            word = "" if cells == 2 or char.isspace() else word + char
            column += 8 - column % 8 if char == "\t" else cells
            if char == "\n":
                column = 0
            elif column > width:
                column = cells
        yield shown


def _width(text: str) -> int:
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    """The columns that a character takes: 0 for marks that join the character before them, 2 for wide characters."""
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Ticker:
    """Calls a function with the seconds since the beginning, after some time and then again and again, in a thread of
    its own, until it is stopped."""

    def __init__(self, tick: Callable[[float], object], first: float, every: float) -> None:
        self._tick, self._first, self._every = tick, first, every
        self._began = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="ticker", daemon=True).start()

    def stop(self) -> None:
        """End it. A call that has begun may still be under way."""
        self._stopped.set()

    def _run(self) -> None:
        pause = self._first
        while not self._stopped.wait(pause):
            self._tick(time.monotonic() - self._began)
            pause = self._every


@contextmanager
def bar(title: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error, if that is a terminal; it is erased at the end. Elsewhere, work that takes long
    is named in lines of its own, with the part that is done and the time that is left.

    Args:
        title: name of the work.
        total: amount of work in any unit; None if unknown.

    Yields:
        A function to call with each amount of work that has been done.
    """
    if is_terminal(sys.stderr) and not is_silent():
        with _drawn_bar(encodable(printable(title), sys.stderr), total) as advance:
            yield advance
    else:
        with named(title, total) as advance:
            yield advance


@contextmanager
def named(title: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Work that seldom takes long. If it does, it is named in lines, on a terminal, too; see `bar`."""
    done = 0.0

    def count(amount: float) -> None:
        nonlocal done
        done += amount

    def name(seconds: float) -> None:
        warn(f"{title}: {_so_far(seconds, done, total)}")

    if is_silent():
        yield count
        return
    ticker = Ticker(name, SILENT_SECONDS, SILENT_SECONDS)
    try:
        yield count
    finally:
        ticker.stop()


@contextmanager
def _drawn_bar(title: str, total: float | None) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    unknown = total is None
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *([TimeElapsedColumn()] if unknown else [TaskProgressColumn(), TimeRemainingColumn()]),
        console=Console(stderr=True, width=fixed_columns()),
        transient=True,
        redirect_stdout=is_terminal(sys.stdout),  # a file or a pipe gets its lines itself
    )
    task = progress.add_task(title, total=total)
    done, updated = 0.0, time.monotonic()

    def advance(amount: float) -> None:
        nonlocal done, updated
        done += amount
        if (now := time.monotonic()) - updated >= BAR_UPDATE_SECONDS:
            progress.update(task, completed=done)
            updated = now

    # A terminal that was closed costs the bar, not the work.
    with contextlib.suppress(OSError):
        progress.start()
    try:
        yield advance
    finally:
        with contextlib.suppress(OSError):
            progress.stop()


def _so_far(seconds: float, done: float, total: float | None) -> str:
    """'34%, 20 s, 39 s left', or the seconds alone where nothing else is known."""
    if not total or not done:
        return duration(seconds)
    left = seconds / done * max(0.0, total - done)
    return f"{min(1.0, done / total):.0%}, {duration(seconds)}, {duration(left)} left"
