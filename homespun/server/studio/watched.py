"""The record of a run flows in while it grows; its curves, samples and advice flow out, whole or what is new of them.

A curve of many points is thinned to those that a screen can show: of each of its stretches the least and the greatest
value, so that a spike of one step stays.
"""

import threading
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from homespun.checkpoint.names import METRICS
from homespun.records.following import Follower
from homespun.records.reading import is_number
from homespun.records.thinning import extremes
from homespun.server.limits import Limits
from homespun.server.studio.exchange import JSON

TRAINING = (
    *("loss", "lr", "muon_lr", "grad_norm", "clipped", "tokens_per_second", "memory_bytes"),
    *("largest_load", "smallest_load", "router_entropy", "auxiliary_share", "seconds"),
)
EVALUATION = ("val_loss", "val_bits_per_byte")
DRAWN = (*(name for name in TRAINING if name != "seconds"), *EVALUATION)


class Table:
    """Columns of numbers; a value that is missing is NaN."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = ("step", "tokens", *names)
        self._columns = {name: array("d") for name in self.names}

    def __len__(self) -> int:
        return len(self._columns["step"])

    def add(self, record: Mapping[str, Any]) -> None:
        for name, column in self._columns.items():
            value = record.get(name)
            column.append(float(value) if is_number(value) and value is not None else np.nan)

    def column(self, name: str, start: int = 0) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """`[n]`: a copy of the values from a row on."""
        return np.array(self._columns[name][start:], dtype=np.float64)

    def last(self, name: str) -> float | None:
        """The value of the last row, if it has one."""
        column = self._columns[name]
        return column[-1] if len(column) and column[-1] == column[-1] else None

    def curves(
        self, names: tuple[str, ...], start: int, low: float, high: float, most: int
    ) -> dict[str, Any]:
        """The columns from a row on, thinned, by name: steps, tokens and values. Those without a value are left out.

        Args:
            low, high: the first and the last step.
            most: points of a curve.
        """
        steps, tokens = self.column("step", start), self.column("tokens", start)
        inside = (steps >= low) & (steps <= high)
        found = {}
        for name in names:
            values = self.column(name, start)
            there = np.flatnonzero(inside & np.isfinite(values))
            if len(there):
                kept = there[extremes(values[there], most)]
                found[name] = [
                    steps[kept].astype(np.int64).tolist(),
                    tokens[kept].tolist(),
                    [float(f"{value:.6g}") for value in values[kept].tolist()],
                ]
        return found


@dataclass(frozen=True)
class Cursor:
    """How much of a record a reader has had."""

    generation: int
    training: int
    evaluations: int
    samples: int
    notes: int
    points: int = 0
    """Rows that came since the whole was sent."""


@dataclass
class Watched:
    """A run whose record is followed. Usable from several threads."""

    folder: Path
    limits: Limits
    generation: int = 0
    """Counts how often the record began anew."""
    training: Table = field(default_factory=lambda: Table(TRAINING))
    evaluations: Table = field(default_factory=lambda: Table(EVALUATION))
    samples: list[JSON] = field(default_factory=list)
    notes: list[JSON] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of the run, as its record has them."""
    last: Mapping[str, Any] = field(default_factory=dict)
    """The last line about the run's own steps."""
    lock: Any = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._follower = Follower(self.folder / METRICS)

    @property
    def damaged(self) -> int:
        """Lines of the record that cannot be read."""
        return self._follower.damaged

    def update(self) -> None:
        """Read what the record has now."""
        with self.lock:
            is_all = False
            while not is_all:
                news = self._follower.read()
                is_all = news.is_all
                if news.begins_anew:
                    self._clear()
                for record in news.records:
                    self._take(record)

    def _clear(self) -> None:
        self.generation += 1
        self.training, self.evaluations = Table(TRAINING), Table(EVALUATION)
        self.samples, self.notes, self.facts, self.last = [], [], {}, {}

    def _take(self, record: Mapping[str, Any]) -> None:
        if "loss" in record:
            self.training.add(record)
        elif "val_loss" in record:
            self.evaluations.add(record)
        elif "prompt" in record and "text" in record:
            texts = {
                name: record[name][: self.limits.sample_characters] for name in ("prompt", "text")
            }
            self.samples.append({"step": record["step"], **texts})
        elif "cause" in record and "advice" in record:
            self.notes.append(
                {"step": record["step"], "cause": record["cause"], "text": record["advice"]}
            )
        elif "eval_tokens" in record:
            # Later losses are measured by another yardstick, so that the earlier ones do not compare.
            self.evaluations = Table(EVALUATION)
            self.generation += 1
        elif isinstance(record.get("run"), dict):
            self.facts = record["run"]
        self.last = record

    def best(self) -> JSON | None:
        """The evaluation with the lowest loss."""
        with self.lock:
            losses = self.evaluations.column("val_loss")
            if not np.isfinite(losses).any():
                return None
            row = int(np.nanargmin(losses))
            bits = self.evaluations.column("val_bits_per_byte")[row]
            return {
                "step": int(self.evaluations.column("step")[row]),
                "val_loss": float(losses[row]),
                "bits_per_byte": float(bits) if np.isfinite(bits) else None,
            }

    def whole(self, low: float = 0, high: float = np.inf) -> JSON:
        """All curves between two steps, the last samples and notes."""
        with self.lock:
            return self._part(Cursor(self.generation, 0, 0, 0, 0), low, high) | {"begins": True}

    def since(self, cursor: Cursor | None) -> tuple[JSON | None, Cursor]:
        """The part of the record that a reader does not have yet, and its cursor after that. It is the whole record if
        that began anew, or if the new points have to be thinned."""
        with self.lock:
            now = Cursor(
                self.generation,
                len(self.training),
                len(self.evaluations),
                len(self.samples),
                len(self.notes),
            )
            if cursor is None or cursor.generation != now.generation:
                return self.whole(), now
            new = now.training - cursor.training + now.evaluations - cursor.evaluations
            points = cursor.points + new
            if points > self.limits.points:
                return self.whole(), now
            if (new, now.samples, now.notes) == (0, cursor.samples, cursor.notes):
                return None, cursor
            return self._part(cursor, 0, np.inf), Cursor(
                now.generation, now.training, now.evaluations, now.samples, now.notes, points
            )

    def _part(self, cursor: Cursor, low: float, high: float) -> JSON:
        training = tuple(name for name in TRAINING if name in DRAWN)
        most = self.limits.points
        return {
            "begins": False,
            "curves": self.training.curves(training, cursor.training, low, high, most)
            | self.evaluations.curves(EVALUATION, cursor.evaluations, low, high, most),
            "samples": self.samples[
                max(cursor.samples, len(self.samples) - self.limits.sample_texts) :
            ],
            "notes": self.notes[max(cursor.notes, len(self.notes) - self.limits.notes) :],
            "n_samples": len(self.samples),
            "damaged": self.damaged,
        }
