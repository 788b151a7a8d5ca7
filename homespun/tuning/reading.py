"""The folder of a tune flows in, its table comes out, while the tune is in progress or at any time later.

Nothing is written and the database stays closed: the trials tell their losses in their own records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.checkpoint.names import METRICS
from homespun.errors import UserError
from homespun.records.reading import read_whole
from homespun.tuning.design import Design
from homespun.tuning.objective import Objective
from homespun.tuning.preparation import tokens_per_step
from homespun.tuning.result import RECIPE, rows_of
from homespun.tuning.store import Trial
from homespun.tuning.transfer import RECORD, RESULTS


@dataclass(frozen=True)
class TuneTable:
    """A tune so far."""

    rows: tuple[Mapping[str, Any], ...]
    """As those of `TuneResult`."""
    objective: Objective
    """The figure by which trials are compared."""
    columns: tuple[str, ...]
    """The settings that vary."""
    facts: Mapping[str, str]
    """The tune in words, by topic."""
    verdict: str | None
    """The result in a sentence; None while the tune is not complete."""


def is_tune(folder: Path) -> bool:
    """Whether a folder is that of a tune."""
    return (folder / RECORD).is_file()


def read_tune(folder: Path) -> TuneTable:
    """The table of a tune.

    Raises:
        UserError: there is no tune, or its record cannot be read.
    """
    try:
        record, results = durable.read_json(folder / RECORD), durable.read_json(folder / RESULTS)
    except OSError as error:
        raise UserError(
            f"the tune in {folder} cannot be read ({error.strerror}): check the rights of its files"
        ) from None
    if not record:
        raise UserError(f"{folder} holds no tune: {RECORD} is missing")
    try:
        design = Design.restored(record)
    except (LookupError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{folder / RECORD} is of another version of homespun ({error!r})"
        ) from None
    if isinstance(results.get("rows"), list):
        rows = tuple(results["rows"])
    else:
        trials = [_trial(folder / f"trial_{n}", design) for n in range(design.trials)]
        first_seed = design.recipe["seed"] + 1
        seeds = [
            _trial(folder / f"seed_{first_seed + n}", design)
            for n in range(design.config.spread_runs)
        ]
        table = rows_of(
            [_with_settings(trial, design.recipe) for trial in trials],
            [_with_settings(seed, design.recipe) for seed in seeds],
            design.ladder,
            design.columns,
            design.objective,
        )
        begun = {RECIPE} | {str(n) for n, trial in enumerate(trials) if trial.settings}
        begun |= {f"{RECIPE}, seed {t.settings['seed']}" for t in seeds if t.settings}
        rows = tuple(row for row in table if row["trial"] in begun)
    verdict = results.get("verdict")
    return TuneTable(
        rows,
        design.objective,
        tuple(design.columns),
        design.facts(),
        verdict if isinstance(verdict, str) else None,
    )


def _trial(folder: Path, design: Design) -> Trial:
    """A trial as its own record tells it; without settings if it has not begun."""
    settings: dict[str, Any] = {}
    losses: dict[int, float] = {}
    records = read_whole(folder / METRICS)
    for record in records:
        facts = record.get("run")
        if isinstance(facts, dict) and isinstance(facts.get("settings"), dict):
            settings = dict(facts["settings"])
    if settings:
        losses = _losses(records, design, tokens_per_step(settings))
    return Trial(folder.name, {}, settings, losses)


def _losses(
    records: Sequence[Mapping[str, Any]], design: Design, per_step: int
) -> dict[int, float]:
    """The figure at each rung that the trial has reached."""
    measured = {
        record["step"]: loss
        for record in records
        if (loss := design.objective.of(record)) is not None
    }
    rungs = zip(design.ladder.steps(per_step), design.ladder.tokens, strict=True)
    return {tokens: measured[step] for step, tokens in rungs if step in measured}


def _with_settings(trial: Trial, recipe: Mapping[str, Any]) -> Trial:
    return Trial(trial.name, trial.point, {**recipe, **trial.settings}, trial.losses)
