"""Events of a run flow in, lines of `metrics.jsonl` come out.

The file is the only record of a run: console, plots and every other view show values from it. It is strict JSON, one
object per line, so that any tool can read it while the run continues.
"""

import contextlib
import errno
import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.errors import DiskFullError, UserError, cannot_write
from homespun.records.events import Event, Started
from homespun.records.reading import continued, parsed_line
from homespun.records.record import Record, as_record, line_of, plain


class MetricsLog:
    """Appends records to a file; a complete line is in the file when `append` returns.

    The line that describes the run waits for the next one, so that a run which is stopped before its first step leaves
    an empty file. A resumed run writes it only if it differs from the last such line.

    While the disk is full, lines are held back and written with the next one. A torn last line, left by a killed
    process, is cut off when the file is opened.

    Each checkpoint stores `length` and `sha256`, the hash of the lines that were written, so that a resumed run and
    `verify` notice when a line has changed since then.

    Raises:
        UserError: the file cannot be written, or is a link to another file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.report: Callable[[str], object] = lambda text: None
        """Receives a line when another program has changed the file."""
        self.length = 0
        self.sha256 = ""
        self._held_back = b""
        self._beginning = b""
        """The line that describes the run, until the next one comes."""
        self._described: Any = None
        """The last description in the file."""
        try:
            self.file = self._opened()
            self._keep()
        except OSError as error:
            raise self._unwritable(error) from None

    def __call__(self, event: Event) -> None:
        """Write the line for an event, if it has one. Raises as `append`."""
        record = as_record(event)
        if record is None:
            return
        if isinstance(event, Started):
            if plain(record["run"]) != self._described:
                self._beginning = line_of(record)
        else:
            self.append(record)

    def append(self, record: Record) -> None:
        """Write one line. A number that is not finite becomes null, since JSON has no word for it.

        Raises:
            UserError: the file cannot be written, for any reason but a full disk.
        """
        self._begin()
        self._held_back += line_of(record)
        with contextlib.suppress(DiskFullError):
            self._write()

    def sync(self) -> int:
        """Flush the file to the disk and return its length in bytes, which a checkpoint may rely on.

        Raises:
            DiskFullError: there is no room for the lines held back.
            UserError: the file cannot be written.
        """
        self._begin()
        self._write()
        try:
            self._notice_changes()
            durable.sync(self.file)
        except OSError as error:
            raise self._unwritable(error) from None
        return self.length

    def truncate(self, length: int, sha256: str | None = None) -> None:
        """Keep the first `length` bytes, so that a resumed run writes no record twice.

        An empty file, such as a new one in place of a lost one, is left as it is. A file with another `sha256` than
        that of the lines once written is reported and stays as it is: its other lines are still good. Later checkpoints
        go on from the given hash, so that `verify` still finds the damage.

        Raises:
            UserError: the file belongs to another run: it is shorter, or no line ends at `length`.
        """
        if self.length == 0:
            if length > 0:
                self.report(f"{self.path} is missing or empty: a new one begins here.")
            return
        with self.path.open("rb") as file:
            file.seek(max(length - 1, 0))
            line_ends_here = length == 0 or file.read(1) == b"\n"
        if not line_ends_here:
            raise UserError(
                f"{self.path} is not the record of this run (no line ends at byte {length}): "
                "move it away to start a new one, or put the right one back"
            )
        self._keep(length)
        if sha256 is not None and sha256 != self.sha256:
            self.report(
                f"{self.path} is damaged: it has changed since it was written. The run continues with it; "
                f"homespun verify {self.path.parent} tells more."
            )
            self.sha256 = sha256

    def close(self) -> None:
        with contextlib.suppress(UserError):
            self._write()
        self.file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self) -> None:
        """The next line comes, or the first checkpoint."""
        self._held_back += self._beginning
        self._beginning = b""

    def _write(self) -> None:
        """Append all lines held back; if that fails, none of them."""
        if not self._held_back:
            return
        try:
            if self.file.write(self._held_back) < len(self._held_back):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.file.truncate(self.length)
            raise self._unwritable(error) from None
        self.length += len(self._held_back)
        for line in self._held_back.splitlines(keepends=True):
            self.sha256 = continued(self.sha256, line)
        self._held_back = b""

    def _keep(self, length: float = math.inf) -> None:
        """Keep the complete lines of the first `length` bytes."""
        self.length, self.sha256, self._described = 0, "", None
        with os.fdopen(os.dup(self.file.fileno()), "rb") as lines:
            lines.seek(0)
            for line in lines:
                if not line.endswith(b"\n") or self.length + len(line) > length:
                    break
                self.length += len(line)
                self.sha256 = continued(self.sha256, line)
                if b'"run": {' in line:  # no text contains these quotes as they are
                    with contextlib.suppress(ValueError):
                        self._described = parsed_line(line).get("run")
        self.file.truncate(self.length)

    def _notice_changes(self) -> None:
        """Report if another program has removed, replaced or cut the file, and write it again as far as possible."""
        ours = os.fstat(self.file.fileno())
        if ours.st_size != self.length:
            written, sha256 = self.length, self.sha256
            self._keep()
            self.report(
                f"{self.path} was changed by another program: {written:,} bytes were written, and it has "
                f"{ours.st_size:,}. The run continues with it."
            )
            self.sha256 = sha256  # that of the lines as they were written
        if not self._is_in_place(ours):
            self.file.seek(0)
            content = self.file.read()
            if self.path.exists():
                durable.set_aside(self.path)
            durable.write(self.path, content)
            self.file.close()
            self.file = self._opened()
            self.report(
                f"{self.path} was removed or replaced by another program: it is written again."
            )

    def _opened(self) -> io.FileIO:
        descriptor = durable.open_file(self.path, os.O_RDWR | os.O_APPEND)
        return io.FileIO(descriptor, "a+")

    def _is_in_place(self, ours: os.stat_result) -> bool:
        try:
            return os.path.samestat(self.path.stat(), ours)
        except FileNotFoundError:
            return False

    def _unwritable(self, error: OSError) -> UserError:
        return cannot_write(
            error,
            f"{self.path} cannot be written",
            "choose another folder (--checkpoint-dir)",
        )
