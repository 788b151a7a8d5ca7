"""The folder of a run flows in; its records, its settings and where it stands come out.

Nothing is written, and no lock is taken: the run may be in progress. A part that is missing or damaged is left out, and
the rest is read.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homespun.architectures.families import count_active_parameters, model_config
from homespun.checkpoint.archive import Archive, CheckpointError, read_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BEST, METRICS
from homespun.checkpoint.origin import started_in
from homespun.config import TOKENS_DIR, ModelConfig
from homespun.config.checked import seconds
from homespun.data.corpus import survey
from homespun.data.files import is_pattern
from homespun.data.text_file import Mixture, is_described, read_description
from homespun.errors import UserError
from homespun.planning.resolved import ResolvedConfig
from homespun.records.reading import is_number, read_lines
from homespun.records.record import Record
from homespun.terminal import bar
from homespun.training.checkpointing.position import Position

SETTINGS_IN_RECORD = "run"
"""The entry of a record with the facts of the run, at its start and where a resumed run differs."""


@dataclass(frozen=True)
class RunRecord:
    """All that is known of a run."""

    folder: Path
    records: tuple[Record, ...]
    header: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Of the newest checkpoint, else of the best weights; empty where there are none."""
    position: Position | None = field(default=None, repr=False)
    """Where the newest checkpoint stands."""
    damage: tuple[str, ...] = ()
    """A line for each damaged line of the record."""

    @property
    def name(self) -> str:
        """The folder, as the user named it."""
        return str(self.folder)

    @functools.cached_property
    def steps(self) -> list[Record]:
        """The lines about training steps."""
        return [record for record in self.records if is_number(record.get("loss"))]

    @functools.cached_property
    def evaluations(self) -> list[Record]:
        """The lines about evaluations on the same validation tokens as the last one."""
        since = max(
            (i for i, record in enumerate(self.records) if "eval_tokens" in record), default=0
        )
        return [record for record in self.records[since:] if is_number(record.get("val_loss"))]

    @functools.cached_property
    def samples(self) -> list[Record]:
        return [record for record in self.records if "prompt" in record and "text" in record]

    @functools.cached_property
    def advice(self) -> list[Record]:
        return [record for record in self.records if "cause" in record and "advice" in record]

    @functools.cached_property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the run as its record has them; empty in records of earlier versions."""
        found = [record.get(SETTINGS_IN_RECORD) for record in self.records]
        return next((facts for facts in reversed(found) if isinstance(facts, dict)), {})

    @functools.cached_property
    def stored_settings(self) -> Mapping[str, Any]:
        """All settings by name, with those that were chosen; empty where they are unknown."""
        stored = self.header.get("resolved")
        recorded = self.facts.get("settings")
        return (stored if isinstance(stored, dict) else {}) | (
            recorded if isinstance(recorded, dict) else {}
        )

    @functools.cached_property
    def requested(self) -> Mapping[str, Any]:
        """The settings that the user gave, by name; empty where they are unknown."""
        stored = self.header.get("requested")
        return stored if isinstance(stored, dict) else {}

    @functools.cached_property
    def config(self) -> ResolvedConfig:
        """The settings; where nothing is stored, the usual ones with the learning rates of the record."""
        known = {f.name for f in dataclasses.fields(ResolvedConfig)}
        stored: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.stored_settings.items()
            if name in known
        }
        if stored:
            with contextlib.suppress(UserError):
                return ResolvedConfig(**stored)
        rates = {
            "learning_rate": self.most("lr"),
            "muon_learning_rate": self.most("muon_lr"),
        }
        found: dict[str, Any] = {name: rate for name, rate in rates.items() if rate and rate <= 1}
        if "muon_learning_rate" in found:
            found["optimizer"] = "muon"
        return ResolvedConfig(**found)

    @functools.cached_property
    def model(self) -> ModelConfig | None:
        stored = self.header.get("model")
        if not isinstance(stored, dict):
            return None
        with contextlib.suppress(UserError, TypeError, ValueError):
            return model_config(stored)
        return None

    @functools.cached_property
    def text(self) -> Path | None:
        """The text of the run, if it is still at its place, from wherever the run is read. Another text may have its
        name."""
        named = self.header.get("data_file")
        if not isinstance(named, str) or not named:
            return None
        places = dict.fromkeys((started_in(self.folder, self.header), Path()))
        return next((place / named for place in places if self._is_text(named, place)), None)

    def _is_text(self, named: str, place: Path) -> bool:
        """Whether a path leads to the text of the run from a place."""
        path, sha256 = place / named, self.header.get("data_sha256")
        tokens_dir = place / str(self.requested.get("tokens_dir") or TOKENS_DIR)
        with contextlib.suppress(UserError, OSError, ValueError):
            if not path.exists() and not is_pattern(path):
                return False
            if is_described(path) and not isinstance(read_description(path), Mixture):
                return False  # only its tokens can be read
            found = None if sha256 is None else survey(path, None, tokens_dir, keeps=False).sha256
            return bool(found == sha256)
        return False

    @property
    def parameters(self) -> int | None:
        """Those that a token uses, without the table of embeddings."""
        if self.model is None:
            return None
        return count_active_parameters(self.model) - self.model.vocab_size * self.model.d_model

    @functools.cached_property
    def bits_per_nat(self) -> float | None:
        """Bits per byte of the validation text for each nat per token."""
        for record in reversed(self.evaluations):
            bits = record.get("val_bits_per_byte")
            if is_number(bits) and record["val_loss"] > 0:
                return float(bits / record["val_loss"])
        return None

    @property
    def last_step(self) -> int:
        return max((record["step"] for record in self.records), default=0)

    @property
    def last_tokens(self) -> int:
        return max((record.get("tokens") or 0 for record in self.records), default=0)

    @property
    def planned_tokens(self) -> float:
        """Tokens at the end of the run: those of the nearest limit, or the present ones where it is unknown."""
        c, ends = self.config, []
        if c.max_steps is not None:
            ends.append(float(c.max_steps * c.tokens_per_step))
        epochs = [record["epoch"] for record in self.records if is_number(record.get("epoch"))]
        if c.max_epochs is not None and epochs and epochs[-1] > 0:
            ends.append(self.last_tokens * c.max_epochs / epochs[-1])
        position = self.position
        if c.time_budget is not None and position is not None and position.elapsed_seconds > 0:
            ends.append(position.tokens * seconds(c.time_budget) / position.elapsed_seconds)
        return max(self.last_tokens, min(ends, default=0.0))

    @property
    def best(self) -> Record | None:
        """The evaluation with the lowest validation loss."""
        return min(self.evaluations, key=lambda record: record["val_loss"], default=None)

    @property
    def goes_on(self) -> bool:
        """Whether the run began with a trained model instead of random weights."""
        return bool(self.config.init_from or self.config.lora_rank is not None)

    def most(self, name: str) -> float | None:
        """The greatest value of an entry."""
        values = [record[name] for record in self.records if is_number(record.get(name))]
        return float(max(values)) if values else None

    def curve(self, name: str) -> list[tuple[float, float]]:
        """An entry over the tokens."""
        return [
            (float(record.get("tokens") or 0), float(record[name]))
            for record in self.records
            if is_number(record.get(name)) and math.isfinite(record[name])
        ]


def read_run(path: Path) -> RunRecord:
    """The run in a folder, or to which a file belongs: its record or one of its checkpoints.

    Raises:
        UserError: there is no run, or its record cannot be read.
    """
    folder = path if path.is_dir() or not path.exists() else path.parent
    metrics, damage = folder / METRICS, list[str]()
    run = read_standing(folder)
    if not metrics.exists() and not run.header:
        raise UserError(
            f"{path}: there is no run (no {METRICS} and no checkpoint): name the folder of a run"
        )
    records, done = list[Record](), 0
    if metrics.exists():
        with bar(f"Reading {metrics}", metrics.stat().st_size) as advance:
            for line in read_lines(metrics, on_damage=lambda error: damage.append(str(error))):
                records.append(line.record)
                advance(line.end - done)
                done = line.end
    return dataclasses.replace(run, records=tuple(records), damage=tuple(damage))


def read_standing(folder: Path, records: Sequence[Record] = ()) -> RunRecord:
    """A run without its record: what its newest checkpoint holds.

    Args:
        records: those that are known.
    """
    newest, state = _newest(folder)
    position = None
    if state is not None:
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
            position = Position.restored(state.header["position"])
    return RunRecord(folder, tuple(records), newest.header if newest else {}, position)


def _newest(folder: Path) -> tuple[Archive | None, Archive | None]:
    """The newest checkpoint that can be read and its training state; or the best weights, without a state."""
    run = CheckpointFolder(folder)
    for step in sorted(run.steps(), reverse=True):
        with contextlib.suppress(CheckpointError):
            found = run.open(step)
            return found.weights, found.state
    for name in BEST:
        with contextlib.suppress(CheckpointError):
            if (folder / name).exists():
                return read_archive(folder / name), None
    return None, None


def common_names(runs: Sequence[RunRecord]) -> list[str]:
    """A short name for each run that differs from those of the others."""
    parts = [run.folder.resolve().parts for run in runs]
    for n in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{run.name} ({number})" for number, run in enumerate(runs, 1)]
