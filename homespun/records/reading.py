"""The file `metrics.jsonl` of a run flows in, its records flow out, each line checked.

The file may still be growing while it is read. It is strict JSON, one object per line.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from homespun.errors import UserError


class Line(NamedTuple):
    """A complete line of the file."""

    end: int
    """Offset of its end."""
    sha256: str
    """Hash of all lines up to this one, see `MetricsLog`."""
    record: dict[str, Any]


def read(
    path: Path, on_damage: Callable[[UserError], object] | None = None
) -> Iterator[dict[str, Any]]:
    """The records of a file. It may still be growing: a torn last line is left out.

    Args:
        on_damage: receives the error for each damaged line, which is then left out.

    Raises:
        UserError: the file cannot be read, or a complete line is damaged and there is no `on_damage`.
    """
    for line in read_lines(path, on_damage):
        yield line.record


def read_whole(path: Path) -> tuple[dict[str, Any], ...]:
    """All records of a file, without damaged lines; none if there is no file that can be read."""
    try:
        return tuple(read(path, on_damage=lambda error: None))
    except UserError:
        return ()


def read_lines(
    path: Path, on_damage: Callable[[UserError], object] | None = None
) -> Iterator[Line]:
    """As `read`, with the place and the hash of each line."""
    end, sha256 = 0, ""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                sha256 = continued(sha256, line)
                try:
                    record = parsed_line(line)
                except ValueError as error:
                    fault = UserError(f"{path}, line {number}: {error}; the file is damaged there")
                    if on_damage is None:
                        raise fault from None
                    on_damage(fault)
                else:
                    yield Line(end, sha256, record)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): is it a run's metrics.jsonl?"
        ) from None


def length_up_to(path: Path, step: int, *, with_samples: bool = True) -> int:
    """Length of the lines before the first record of a later step, in bytes; 0 if there is no file.

    Args:
        with_samples: the sample texts of the step itself are among these lines.

    Raises:
        UserError: the file cannot be read.
    """
    length = 0
    if path.exists():
        for line in read_lines(path, on_damage=lambda error: None):
            at = line.record["step"]
            if at > step or (at == step and not with_samples and "prompt" in line.record):
                break
            length = line.end
    return length


TEXTS = {"loss_hex", "batch", "prompt", "text", "cause", "advice"}
NUMBERS = {
    "tokens", "epoch", "loss", "perplexity", "lr", "muon_lr", "grad_norm", "clipped", "refused", "tokens_per_second",
    "memory_bytes", "active_memory_bytes", "seconds", "val_loss", "val_perplexity", "val_bits_per_byte",
    "eval_tokens", "best_val_loss", "best_step",
}  # fmt: skip
"""The fields that are numbers, or null in place of one that is not finite. Later versions may write other fields."""


def parsed_line(line: bytes) -> dict[str, Any]:
    """The record in a line.

    Raises:
        ValueError: it is damaged. The message says how.
    """
    try:
        record = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
        raise ValueError("its step is missing or is no number")
    for name, value in record.items():
        if name in TEXTS:
            if not isinstance(value, str):
                raise ValueError(f"{name} is no text")
        elif name == "run":
            if not isinstance(value, dict):
                raise ValueError(f"{name} is no object")
        elif name == "expert_load":
            if not _is_table(value):
                raise ValueError(f"{name} is no table of numbers")
        elif name in NUMBERS and value is not None and not is_number(value):
            raise ValueError(f"{name} is no number")
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def is_number(value: object) -> bool:
    """Whether a value of a record is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _is_table(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and all(map(is_number, row)) for row in value
    )


def continued(sha256: str, line: bytes) -> str:
    """The hash of all lines up to this one, from the hash of those before it."""
    return hashlib.sha256(sha256.encode() + line).hexdigest()
