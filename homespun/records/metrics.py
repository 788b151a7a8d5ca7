"""Events of a run flow in, lines of `metrics.jsonl` come out, and are read back.

The file is the only record of a run: console, plots and every other view show values from it. It is strict JSON, one
object per line, so that any tool can read it while the run continues.
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
from homespun.records.events import (
    Advice,
    Evaluation,
    Event,
    LoggedSteps,
    Sample,
    Step,
    perplexity,
)

Record = Mapping[str, Any]
"""One line. All have `step` and `tokens`; losses are in nats per token.

Training: `loss`, `perplexity`, `lr`, `muon_lr` (with Muon), `grad_norm`, `clipped` (fraction of the steps since
the last such record), `refused` (steps so far), `tokens_per_second`, `memory_bytes` (the peak), `active_memory_bytes`
(where it is known), `seconds`, the exact loss as `loss_hex` (`float.hex`), and `batch` (a fingerprint of its tokens).
Evaluation: `val_loss`, `val_perplexity`, `val_bits_per_byte`. Sample: `prompt`, `text`. Advice: `cause` (a word or
two), `advice`.
"""


def as_record(event: Event) -> Record | None:
    """The line for an event; None for events that are not recorded."""
    match event:
        case Step(log=LoggedSteps() as log):
            values = _logged(event, log)
        case Evaluation(loss=loss):
            values = {
                "val_loss": loss,
                "val_perplexity": perplexity(loss),
                "val_bits_per_byte": event.bits_per_byte,
            }
        case Sample():
            values = {"prompt": event.prompt, "text": event.text}
        case Advice():
            values = {"cause": event.cause, "advice": event.text}
        case _:
            return None
    return {"step": event.step, "tokens": event.tokens, **values}


def _logged(event: Step, log: LoggedSteps) -> dict[str, Any]:
    values = {
        "loss": event.loss,
        "loss_hex": event.loss.hex(),
        "perplexity": perplexity(event.loss),
        "lr": event.rates["adamw"],
        "muon_lr": event.rates.get("muon"),
        "grad_norm": event.grad_norm,
        "clipped": log.clipped,
        "refused": log.refused,
        "tokens_per_second": log.tokens_per_second,
        "memory_bytes": log.memory_bytes,
        "active_memory_bytes": log.active_memory_bytes,
        "seconds": log.training_seconds,
        "batch": event.batch,
    }
    return {name: value for name, value in values.items() if value is not None}


class MetricsLog:
    """Appends records to a file; a complete line is in the file when `append` returns.

    While the disk is full, lines are held back and written with the next one. A torn last line, left by a killed
    process, is cut off when the file is opened.

    Raises:
        UserError: the file cannot be written, or is a link to another file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held_back = b""
        try:
            self.file = os.fdopen(
                durable.open_file(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0
            )
            self._cut(_whole_lines(path))
        except OSError as error:
            raise self._unwritable(error) from None

    def __call__(self, event: Event) -> None:
        """Write the line for an event, if it has one. Raises as `append`."""
        if record := as_record(event):
            self.append(record)

    def append(self, record: Record) -> None:
        """Write one line. A number that is not finite becomes null, since JSON has no word for it.

        Raises:
            UserError: the file cannot be written, for any reason but a full disk.
        """
        self._held_back += json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
        with contextlib.suppress(DiskFullError):
            self._write()

    def sync(self) -> int:
        """Flush the file to the disk and return its length in bytes, which a checkpoint may rely on.

        Raises:
            DiskFullError: there is no room for the lines held back.
            UserError: the file cannot be written.
        """
        self._write()
        try:
            durable.sync(self.file)
        except OSError as error:
            raise self._unwritable(error) from None
        return self.length

    def truncate(self, length: int) -> None:
        """Keep the first `length` bytes, so that a resumed run writes no record twice.

        An empty file, such as a new one in place of a lost one, is left as it is.

        Raises:
            UserError: the file belongs to another run: it is shorter, or no line ends at `length`.
        """
        if self.length == 0:
            return
        with self.path.open("rb") as file:
            file.seek(max(length - 1, 0))
            line_ends_here = length == 0 or file.read(1) == b"\n"
        if not line_ends_here:
            raise UserError(
                f"{self.path} is not the record of this run (no line ends at byte {length}): "
                "move it away to start a new one, or put the right one back"
            )
        self._cut(length)

    def close(self) -> None:
        with contextlib.suppress(UserError):
            self._write()
        self.file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

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
        self._held_back = b""

    def _cut(self, length: int) -> None:
        self.file.truncate(length)
        self.length = length

    def _unwritable(self, error: OSError) -> UserError:
        return cannot_write(
            error,
            f"{self.path} cannot be written",
            "choose another folder (--checkpoint-dir)",
        )


def length_up_to(path: Path, step: int) -> int:
    """Length of the lines before the first record of a later step, in bytes; 0 if there is no file.

    Raises:
        UserError: the file cannot be read, or a complete line is not a JSON object.
    """
    length = 0
    if path.exists():
        for end, record in read_lines(path):
            if record.get("step", 0) > step:
                break
            length = end
    return length


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file. It may still be growing: a torn last line is left out.

    Raises:
        UserError: the file cannot be read, or a complete line is not a JSON object.
    """
    for _, record in read_lines(path):
        yield record


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read`, with the offset of the end of each line."""
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
    """Length of the complete lines, in bytes: all but a torn last one."""
    with path.open("rb") as lines:
        return sum(len(line) for line in lines if line.endswith(b"\n"))


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: NumPy numbers as Python numbers, null for NaN and infinity."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
