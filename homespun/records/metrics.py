"""Records of a run in, lines of `metrics.jsonl` out, and back.

The file is the one record of a run: console, plots and every other view show what stands in it.
Strict JSON, one object per line, so that any tool can read it while the run goes on.
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from homespun import durable
from homespun.errors import DiskFullError, UserError, cannot_write

Record = Mapping[str, Any]
"""One line. All have `step` and `tokens`; losses are in nats per token.

Training: `loss`, `perplexity`, `lr`, `muon_lr` (with Muon), `grad_norm`, `clipped` (share of the steps since
the last such record), `refused` (steps so far), `tokens_per_second`, `memory_bytes` (the peak), `active_memory_bytes`
(where that is known), `seconds`, and for exactness `loss_hex` (`float.hex`) and `batch` (a fingerprint of its tokens).
Evaluation: `val_loss`, `val_perplexity`, `val_bits_per_byte`. Sample: `prompt`, `text`. What is wrong with the step
or the run, and what to do: `cause` (a word or two), `advice`.
"""


class MetricsLog:
    """Appends records to a file; a line is in the file, whole, when `append` returns.

    While the disk is full, lines are held back, and written with the next one. A torn last line, left by a killed
    process, is cut off on opening.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held_back = b""
        try:
            self._file = path.open("ab", buffering=0)
            self._cut(_whole_lines(path))
        except OSError as error:
            raise self._unwritable(error) from None

    def append(self, record: Record) -> None:
        """Write one line. A number that is not finite becomes null: JSON has no other word for it.

        Raises:
            UserError: the file cannot be written, for another reason than a full disk.
        """
        self._held_back += json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
        with contextlib.suppress(DiskFullError):
            self._write()

    def sync(self) -> int:
        """Bytes in the file, all of them on the disk: what a checkpoint may rely on.

        Raises:
            DiskFullError: there is no room for the last lines.
            UserError: they cannot be written.
        """
        self._write()
        try:
            durable.sync(self._file)
        except OSError as error:
            raise self._unwritable(error) from None
        return self._length

    def truncate(self, length: int) -> None:
        """Go back to the first `length` bytes, so that a resumed run writes no record twice.

        A file that was left behind or lost is begun anew.

        Raises:
            UserError: the file is another run's: it is shorter, or no line ends at `length`.
        """
        if self._length == 0:
            return
        with self.path.open("rb") as file:
            file.seek(max(length - 1, 0))
            line_ends_here = length == 0 or file.read(1) == b"\n"
        if not line_ends_here:
            raise UserError(
                f"{self.path} is not the record of this run (no line of it ends at byte {length}): "
                "move it away to begin a new one, or put the right one back"
            )
        self._cut(length)

    def close(self) -> None:
        with contextlib.suppress(UserError):
            self._write()
        self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self) -> None:
        """Append what is held back: all of it or, where that fails, nothing."""
        if not self._held_back:
            return
        try:
            if self._file.write(self._held_back) < len(self._held_back):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(self._length)
            raise self._unwritable(error) from None
        self._length += len(self._held_back)
        self._held_back = b""

    def _cut(self, length: int) -> None:
        self._file.truncate(length)
        self._length = length

    def _unwritable(self, error: OSError) -> UserError:
        return cannot_write(
            error,
            f"{self.path} cannot be written ({error.strerror}): make room or choose another folder",
        )


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, which may still be growing: a torn last line is left out.

    Raises:
        UserError: the file cannot be read, or another line than the last is not a JSON object.
    """
    for _, record in read_lines(path):
        yield record


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`read`, each record with the byte that its line ends at."""
    end = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                end += len(line)
                if line.endswith(b"\n"):
                    yield end, _parse(path, number, line)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): is it a run's metrics.jsonl?"
        ) from None


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path}, line {number}: not a JSON object; the file is damaged there")
    return record


def _whole_lines(path: Path) -> int:
    """Bytes in lines that are whole: all but a torn last one."""
    with path.open("rb") as lines:
        return sum(len(line) for line in lines if line.endswith(b"\n"))


def _plain(value: Any) -> Any:
    """Plain Python for what JSON knows: NumPy numbers are unwrapped, no NaN, no infinity."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
