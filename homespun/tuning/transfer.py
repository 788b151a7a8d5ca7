"""A finished tune of a small model flows in; the settings that it suggests for another size come out.

All rules but one are published ones. Each result is only a first guess, which trials at the new size confirm or
correct.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.errors import UserError
from homespun.tuning.preparation import tokens_per_step
from homespun.tuning.space import MUON_RATE, RATE, Dimension, Point, rounded, written

RECORD = "tune.json"
RESULTS = "results.json"
WIDTH_POWER = {"adamw": -0.75, "muon": 0.0}
"""Of the learning rate. Under the maximal update parametrisation, AdamW's rate of hidden matrices falls as 1/width, and
that of the embeddings does not depend on the width (Yang et al., 2022). Here one rate serves both, so the power lies
between; it was measured on small models (benchmarks/rate_by_width.py). An update of Muon has the same effect at every
width, since its norm follows the shape of the matrix (Bernstein and Newhouse, 2024)."""
BATCH_POWER = 0.5
"""Of the learning rate of AdamW (Malladi et al., 2022); the recipe has the same rule for Muon."""
TOKENS_POWER = -0.32
"""Of the learning rate, at an equal batch: longer runs prefer lower rates. Bjorck et al. (2024) measured it with AdamW,
and Ren et al. (2026) found the same exponent with a kind of Muon."""
AROUND = (0.5, 1.0, 2.0)
"""Factors on the carried rate that are tried at the new size."""
LARGEST_DECAY = 2.0


@dataclass(frozen=True)
class Run:
    """The facts about a run that the rules need."""

    settings: Mapping[str, Any]
    width: int
    total_tokens: int

    @property
    def tokens_per_step(self) -> int:
        return tokens_per_step(self.settings)

    @property
    def steps(self) -> float:
        return self.total_tokens / self.tokens_per_step


@dataclass(frozen=True)
class Carried:
    """Settings that were carried over."""

    settings: Point
    lines: tuple[str, ...]
    """How they were derived, a line for each factor."""


def finished_tune(folder: Path) -> Run:
    """The best run of a tune.

    Raises:
        UserError: there is no finished tune in the folder.
    """
    try:
        record = durable.read_json(folder / RECORD)
        results = durable.read_json(folder / RESULTS)
    except OSError as error:
        raise UserError(f"--transfer-from {folder}: it cannot be read ({error.strerror})") from None
    if not record:
        raise UserError(f"--transfer-from {folder}: there is no tune")
    if not results:
        raise UserError(
            f"--transfer-from {folder}: this tune is not finished: homespun tune --resume --checkpoint-dir "
            f"{shlex.quote(str(folder))}"
        )
    try:
        return Run(results["best"], record["width"], record["ladder"][-1])
    except (KeyError, IndexError, TypeError):
        raise UserError(f"--transfer-from {folder}: this tune is of another version") from None


def carried(small: Run, target: Run) -> Carried:
    """The learning rate and the weight decay of `small` for `target`, a run with the recipe of the new size.

    Raises:
        UserError: they have different optimizers.
    """
    optimizer, own = small.settings["optimizer"], target.settings["optimizer"]
    if optimizer != own:
        raise UserError(
            f"--transfer-from: the small tune has the optimizer {optimizer}, and this one {own}: "
            f"add --optimizer {optimizer}"
        )
    width, batch, tokens = (
        target.width / small.width,
        target.tokens_per_step / small.tokens_per_step,
        target.total_tokens / small.total_tokens,
    )
    factors = {
        f"{written(width)} times the width (power {WIDTH_POWER[optimizer]:g})": width
        ** WIDTH_POWER[optimizer],
        f"{written(batch)} times the tokens per step (power {BATCH_POWER:g})": batch**BATCH_POWER,
        f"{written(tokens)} times the tokens (power {TOKENS_POWER:g})": tokens**TOKENS_POWER,
    }
    factor = math.prod(factors.values())
    rates = (RATE, MUON_RATE) if optimizer == "muon" else (RATE,)
    settings: Point = {name: min(1.0, rounded(small.settings[name] * factor)) for name in rates}
    lines = [
        f"the rate times {written(rounded(value))} for {why}" for why, value in factors.items()
    ]
    # The product of rate, decay and steps says over what part of a run the weights are averaged (Wang and Aitchison,
    # 2024). It is kept.
    steps = target.steps / small.steps
    decay = small.settings["weight_decay"] / factor / steps
    settings["weight_decay"] = min(LARGEST_DECAY, rounded(decay))
    lines.append(
        f"the weight decay times {written(rounded(1 / factor / steps))}, which keeps rate x decay x steps"
    )
    return Carried(settings, tuple(lines))


def around(found: Carried) -> tuple[list[Point], tuple[Dimension, ...]]:
    """The points to try at the new size, the carried one first, and the dimensions that they vary."""
    points: list[Point] = []
    for factor in sorted(AROUND, key=lambda factor: abs(math.log(factor))):
        point = dict(found.settings)
        for name in (RATE, MUON_RATE):
            if name in point:
                point[name] = min(1.0, rounded(float(point[name]) * factor))
        points.append(point)
    names = list(found.settings)
    space = tuple(
        Dimension(name, tuple(dict.fromkeys(point[name] for point in points))) for name in names
    )
    return points, space
