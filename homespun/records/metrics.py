"""Events of a run flow in, lines of `metrics.jsonl` come out, and are read back.

The file is the only record of a run: console, plots and every other view show values from it. It is strict JSON, one
object per line, so that any tool can read it while the run continues.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from homespun import durable
from homespun.errors import DiskFullError, UserError, cannot_write
from homespun.records.events import (
    Advice,
    Answers,
    Evaluation,
    Event,
    LoggedSteps,
    Pairs,
    Remeasured,
    Sample,
    Started,
    Step,
    perplexity,
)

Record = Mapping[str, Any]
"""One line. All have `step`, `tokens` and `epoch` (passes over the training text); losses are in nats per token.

Training: `loss` (mean over the steps since the last such record that were applied; of the last step where none was),
`perplexity`, `lr`, `muon_lr` (with Muon), `grad_norm`, `clipped` (fraction of the steps since the last such record),
`refused` (steps so far), `tokens_per_second`, `memory_bytes` (the peak), `active_memory_bytes` (where it is known),
`seconds`, the exact loss as `loss_hex` (`float.hex`), and `batch` (a fingerprint of the tokens of the last step).
With experts also, as means over the steps since the last such record: `expert_load` (for each router the share of each
expert in its tokens, times their number: 1 is an even share), the largest and smallest of these as `largest_load` and
`smallest_load`, `dead_experts` (how many had no token), `router_entropy` (of a token's probabilities, as a fraction of
the largest possible, mean over the routers), `balance_loss` and `z_loss` (means over the routers), and
`auxiliary_loss`, the part of the minimised loss that comes from all routers, with its share as `auxiliary_share`
(both without LoRA, which leaves routers as they are).
With a reward also, as means over the answers since the last such record: `reward`, `reward_deviation`, `answer_tokens`,
`unfinished` (fraction that was cut off), `distinct` (fraction that is left if equal ones of a group count once),
`entropy` and `kl` (in nats per token, over the groups that were not skipped), `groups_skipped` and `ratio_clipped`
(fractions of groups and of tokens); `tokens_per_second` are those of the answers, and `perplexity` is missing, since
`loss` is no cross-entropy.
With preferences also, as means over the pairs since the last such record: `accuracy`, `margin`, `chosen_reward` and
`rejected_reward` (see `events.Pairs`); `loss` is that of the pairs, `tokens_per_second` are those of the answers, and
`perplexity` is missing.
Evaluation: `val_loss`, `val_perplexity`, `val_bits_per_byte`, and `val_reward` with a reward; with preferences
`val_loss` of pairs, `val_accuracy`, `val_margin`, `val_chosen_reward` and `val_rejected_reward`; with replay also
`val_replay_loss` and `val_replay_bits_per_byte` of the earlier text. Sample: `prompt`, `text`. Advice: `cause` (a word
or two), `advice`. Where a resumed run evaluates on other tokens or in another precision, from there on: `eval_tokens`,
`best_val_loss` and `best_step` (of the best weights, measured again; null where there are none).
The run itself, in the first line and again where a resumed run differs: `run`, an object with `model`, `text`,
`machine`, `settings` and others (see `training.run`). Readers skip lines of other kinds.
"""


def as_record(event: Event) -> Record | None:
    """The line for an event; None for events that are not recorded."""
    match event:
        case Step(log=LoggedSteps() as log):
            values = _logged(event, log)
        case Evaluation(loss=loss):
            values = {
                "val_loss": loss,
                **(_pairs(event.pairs, "val_") if event.pairs else _of_text(event)),
                **({} if event.reward is None else {"val_reward": event.reward}),
                **_replayed(event),
            }
        case Sample():
            values = {"prompt": event.prompt, "text": event.text}
        case Remeasured():
            values = {
                "eval_tokens": event.eval_tokens,
                "best_val_loss": event.best_val_loss,
                "best_step": event.best_step,
            }
        case Started(run=run) if run:
            values = {"run": dict(run)}
        case Advice():
            values = {"cause": event.cause, "advice": event.text}
        case _:
            return None
    return {"step": event.step, "tokens": event.tokens, "epoch": event.epoch, **values}


def _logged(event: Step, log: LoggedSteps) -> dict[str, Any]:
    values = {
        "loss": log.loss,
        "loss_hex": log.loss.hex(),
        "perplexity": None if log.answers or log.pairs else perplexity(log.loss),
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
        **(_experts(log.loss, log) if log.routers else {}),
        **(_answers(log.answers) if log.answers else {}),
        **(_pairs(log.pairs) if log.pairs else {}),
    }
    return {name: value for name, value in values.items() if value is not None}


def _answers(answers: Answers) -> dict[str, float]:
    values = {
        "reward": answers.reward,
        "reward_deviation": answers.reward_deviation,
        "answer_tokens": answers.tokens,
        "unfinished": answers.unfinished,
        "distinct": answers.distinct,
        "entropy": answers.entropy,
        "kl": answers.divergence,
        "groups_skipped": answers.skipped,
        "ratio_clipped": answers.clipped,
    }
    return {name: value for name, value in values.items() if value is not None}


def _of_text(event: Evaluation) -> dict[str, Any]:
    return {
        "val_perplexity": perplexity(event.loss),
        "val_bits_per_byte": event.bits_per_byte,
    }


def _replayed(event: Evaluation) -> dict[str, Any]:
    values = {
        "val_replay_loss": event.replay_loss,
        "val_replay_bits_per_byte": event.replay_bits_per_byte,
    }
    return {name: value for name, value in values.items() if value is not None}


def _pairs(pairs: Pairs, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in dataclasses.asdict(pairs).items()}


def _experts(loss: float, log: LoggedSteps) -> dict[str, Any]:
    """The use of the experts."""
    routers, auxiliary = log.routers, log.auxiliary_loss
    loads = [[share * len(router.load) for share in router.load] for router in routers]
    all_loads = [load for of_router in loads for load in of_router]
    return {
        "expert_load": [[round(load, 4) for load in of_router] for of_router in loads],
        "largest_load": max(all_loads),
        "smallest_load": min(all_loads),
        "dead_experts": sum(load == 0 for load in all_loads),
        "router_entropy": fmean(r.entropy / math.log(len(r.load)) for r in routers),
        "balance_loss": fmean(r.balance_loss for r in routers),
        "z_loss": fmean(r.z_loss for r in routers),
        "auxiliary_loss": auxiliary,
        "auxiliary_share": None if auxiliary is None else auxiliary / (loss + auxiliary),
    }


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
            if _plain(record["run"]) != self._described:
                self._beginning = _line(record)
        else:
            self.append(record)

    def append(self, record: Record) -> None:
        """Write one line. A number that is not finite becomes null, since JSON has no word for it.

        Raises:
            UserError: the file cannot be written, for any reason but a full disk.
        """
        self._begin()
        self._held_back += _line(record)
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
            self.sha256 = _continued(self.sha256, line)
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
                self.sha256 = _continued(self.sha256, line)
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


def length_up_to(path: Path, step: int) -> int:
    """Length of the lines before the first record of a later step, in bytes; 0 if there is no file.

    Raises:
        UserError: the file cannot be read.
    """
    length = 0
    if path.exists():
        for line in read_lines(path, on_damage=lambda error: None):
            if line.record["step"] > step:
                break
            length = line.end
    return length


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
                sha256 = _continued(sha256, line)
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


def _line(record: Record) -> bytes:
    return json.dumps(_plain(record), allow_nan=False).encode() + b"\n"


def _continued(sha256: str, line: bytes) -> str:
    """The hash of all lines up to this one, from the hash of those before it."""
    return hashlib.sha256(sha256.encode() + line).hexdigest()


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
