"""The trials of a tune flow in; their table, the best settings and a file of them for `train --config` come out."""

import json
import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.config.checked import flag
from homespun.records.frame import data_frame
from homespun.terminal import encodable
from homespun.tuning.ladder import Ladder
from homespun.tuning.objective import LOSS, Objective
from homespun.tuning.preparation import tokens_per_step
from homespun.tuning.space import MUON_RATE, RATE, written
from homespun.tuning.store import Trial

BEST = "best.toml"
RECIPE = "recipe"


@dataclass(frozen=True, repr=False)
class TuneResult:
    """The results of a tune. Printed, it is a table."""

    folder: Path
    rows: tuple[Mapping[str, Any], ...]
    """A trial each, with its settings, `tokens`, `val_loss` in nats per token or `val_reward`, and `state`: whole runs
    first, and the best first."""
    best: Mapping[str, Any]
    """The settings for `homespun.train`: those of the best trial, or those of the recipe if it stands."""
    best_val_loss: float | None
    """Of these settings after a whole run; None with a reward."""
    recipe_val_loss: float | None
    """Mean over the seeds; None with a reward."""
    spread: float | None
    """Difference of the highest and the lowest of these figures over the seeds of the recipe; None: it was not
    measured."""
    recipe_stands: bool
    """No trial was better than the recipe by more than the spread."""
    cost: float
    """All tokens of the tune, in whole runs."""
    best_toml: Path
    verdict: str
    """The result in a sentence."""
    is_complete: bool = True
    stopped_by: signal.Signals | None = None
    columns: Sequence[str] = field(default=())
    """The settings that vary."""
    at_edge: Sequence[str] = field(default=())
    """The settings whose best value is at an end of what was tried: a wider space may hold better ones."""
    best_reward: float | None = None
    """As `best_val_loss`, with a reward."""
    recipe_reward: float | None = None
    """As `recipe_val_loss`, with a reward."""
    objective: Objective = LOSS
    """The figure by which the trials were compared."""

    def frame(self) -> Any:
        """The rows as a `pandas.DataFrame`.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.rows, "rows")

    def table(self) -> str:
        """The rows as text."""
        return table(self.rows, self.columns, self.objective)

    def __str__(self) -> str:
        return f"{self.table()}\n{self.verdict}"

    __repr__ = __str__


def rows_of(
    trials: Sequence[Trial],
    seeds: Sequence[Trial],
    ladder: Ladder,
    columns: Sequence[str],
    objective: Objective = LOSS,
) -> tuple[Mapping[str, Any], ...]:
    """The table: trials that have come further first, then the better ones."""
    numbered = [(RECIPE if n == 0 else str(n), trial) for n, trial in enumerate(trials)]
    numbered += [(f"{RECIPE}, seed {trial.settings['seed']}", trial) for trial in seeds]
    found = [_row(name, trial, ladder, columns, objective) for name, trial in numbered]
    place = {name: n for n, (name, _) in enumerate(numbered)}
    return tuple(
        sorted(
            found,
            key=lambda row: (
                -row["tokens"],
                math.inf if row[objective.entry] is None else objective.sign * row[objective.entry],
                place[row["trial"]],
            ),
        )
    )


def _row(
    name: str, trial: Trial, ladder: Ladder, columns: Sequence[str], objective: Objective
) -> dict[str, Any]:
    tokens = max(trial.losses, default=0)
    if trial.error:
        state = f"failed: {trial.error}"
    elif tokens == ladder.total:
        state = "whole run"
    else:
        state = f"stopped at {tokens / ladder.total:.0%}" if tokens else "not yet"
    return {
        "trial": name,
        **{column: trial.settings.get(column) for column in columns},
        "steps": round(tokens / tokens_per_step(trial.settings)),
        "tokens": tokens,
        objective.entry: objective.value(trial.losses.get(tokens)),
        "state": state,
    }


def varied(space_names: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The settings that differ between trials: the dimensions, and Muon's rate if it follows."""
    names = list(space_names)
    if RATE in names and MUON_RATE not in names and settings.get("optimizer") == "muon":
        names.insert(names.index(RATE) + 1, MUON_RATE)
    return names


def table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], objective: Objective = LOSS
) -> str:
    """Rows as lines of text with aligned columns."""
    titles = ["trial", *columns, "steps", objective.title, "state"]
    cells = [titles]
    for row in rows:
        found = row[objective.entry]
        figures = ["" if row[name] is None else written(row[name]) for name in columns]
        shown = "" if found is None else f"{found:.4f}"
        cells.append([row["trial"], *figures, f"{row['steps']:,}", shown, row["state"]])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    last = len(titles) - 1
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if n in (0, last) else f"{cell:>{width}}"
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


@dataclass(frozen=True)
class Verdict:
    """Which settings to take, and why."""

    best: Trial
    best_loss: float | None
    recipe_loss: float | None
    spread: float | None
    recipe_stands: bool
    text: str


def judge(
    trials: Sequence[Trial], seeds: Sequence[Trial], total: int, objective: Objective = LOSS
) -> Verdict:
    """Compare the best trial with the recipe. It counts as better only if its loss is lower than the mean of the
    recipe's runs by more than their spread, the difference between the highest and the lowest; or its reward higher."""
    words, shown = objective.words, objective.shown
    recipe = trials[0]
    own = [trial.losses.get(total) for trial in (recipe, *seeds)]
    losses = [loss for loss in own if loss is not None and math.isfinite(loss)]
    finished = {
        n: trial.losses[total]
        for n, trial in enumerate(trials)
        if math.isfinite(trial.losses.get(total, math.inf))
    }
    if not finished or None in own[:1]:
        return Verdict(recipe, None, None, None, True, "No run has come to its end.")
    number = min(finished, key=lambda n: (finished[n], n))
    if not losses:
        text = (
            f"Trial {number} is better than the recipe ({words} {shown(finished[number])}), whose runs have no finite "
            f"{'loss' if objective.sign > 0 else 'reward'}."
        )
        return Verdict(trials[number], finished[number], None, None, False, text)
    mean = sum(losses) / len(losses)
    spread = max(losses) - min(losses) if len(losses) > 1 else None
    gain = mean - finished[number]
    measured = (
        f"the spread of its {len(losses)} seeds is {spread:.4f}" if spread is not None else ""
    )
    if number and spread is None:
        text = (
            f"Trial {number} is better than the recipe by {gain:.4f} ({words} {shown(finished[number])}); whether "
            "that is more than chance was not measured."
        )
        return Verdict(trials[number], finished[number], mean, None, False, text)
    if number and spread is not None and gain > spread:
        text = (
            f"Trial {number} is better than the recipe by {gain:.4f} ({words} {shown(finished[number])}, the recipe's "
            f"{shown(mean)}); {measured}."
        )
        return Verdict(trials[number], finished[number], mean, spread, False, text)
    reason = f"; {measured}" if measured else ""
    if gain > 0 and number:
        reason = f": trial {number} is better by {gain:.4f} only{reason}"
    elif number:
        reason = f": no trial is better than the mean of its runs{reason}"
    text = f"The recipe stands{reason}."
    return Verdict(recipe, losses[0], mean, spread, True, text)


def best_settings(
    trial: Trial, recipe: Mapping[str, Any], requested: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a trial as a user gives them to `train`, without the changes for the tune's own ends."""
    settings = dict(trial.settings)
    as_requested = ("tokenizer_path", "vocab_size", "threads")
    for name in ("eval_interval", "sample_interval", "keep", "seed", *as_requested):
        settings.pop(name, None)
        value = requested.get(name) if name in as_requested else recipe.get(name)
        if value is not None:
            settings[name] = value
    return settings


def write_best(
    folder: Path, settings: Mapping[str, Any], verdict: str, plain: Mapping[str, Any]
) -> Path:
    """Write the settings as TOML for `train --config`, without those that have their plain default.

    Raises:
        OSError: the file cannot be written.
    """
    lines = [
        f"# {verdict}",
        f"# Found by homespun tune in {json.dumps(str(folder))}. Train with: homespun train --config "
        f"{json.dumps(str(folder / BEST))}",
    ]
    for name, value in settings.items():
        if plain.get(name) != (tuple(value) if isinstance(value, list) else value):
            line = f"{name} = {_toml(value)}"
            if encodable(line) != line:  # TOML has no way to write such a name
                line = f"# Add {flag(name)} {json.dumps(value)}: its name is not in UTF-8."
            lines.append(line)
    path = folder / BEST
    durable.write_text(path, "\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # a text, a whole number, true or false
