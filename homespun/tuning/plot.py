"""The trials of a tune flow in; one picture comes out: loss by learning rate, all settings, and their weight."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homespun import durable
from homespun.records.plot import BLUE, FAINT, GREEN, INK, ORANGE
from homespun.tuning.ladder import Ladder
from homespun.tuning.objective import LOSS, Objective
from homespun.tuning.sampling import distribution
from homespun.tuning.space import RATE, Dimension, written
from homespun.tuning.store import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_FOR_IMPORTANCE = 12
"""Trials."""
GOOD_SHARE = 0.25
"""The importance tells the best trials, that share of them, from the others."""
COLOURS = (FAINT, "#9FC5DD", BLUE)
"""Of trials that stopped at the first rung, at later ones, and at the end."""


def plot_tune(
    out: Path,
    space: Sequence[Dimension],
    trials: Sequence[Trial],
    seeds: Sequence[Trial],
    ladder: Ladder,
    objective: Objective = LOSS,
) -> None:
    """Draw the trials as a PNG.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    rate, parallel, importance = figure.subplots(1, 3, width_ratios=(1.3, 1.5, 0.9))
    _draw_rates(rate, space, trials, seeds, ladder, objective)
    _draw_parallel(parallel, space, trials, ladder, objective)
    _draw_importance(importance, space, trials, ladder)
    for panel in (rate, parallel, importance):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(which="both", colors=INK, labelsize=7)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    durable.write(out, png.getvalue())


def _draw_rates(
    panel: "Axes",
    space: Sequence[Dimension],
    trials: Sequence[Trial],
    seeds: Sequence[Trial],
    ladder: Ladder,
    objective: Objective,
) -> None:
    """The figure of each trial against the learning rate (or the first dimension), a line of points for each rung."""
    names = [d.name for d in space]
    name = RATE if RATE in names else names[0]
    for n, tokens in enumerate(ladder.tokens):
        points = [
            (trial.settings[name], objective.sign * trial.losses[tokens])
            for trial in trials
            if math.isfinite(trial.losses.get(tokens, math.inf)) and name in trial.settings
        ]
        if points:
            last = n == len(ladder.tokens) - 1
            label = "whole run" if last else f"{tokens / ladder.total:.0%} of it"
            x, y = zip(*sorted(points), strict=True)
            colour = COLOURS[2] if last else COLOURS[min(n, 1)]
            panel.plot(
                x, y, "o", color=colour, markeredgecolor=INK, markeredgewidth=0.4, label=label
            )
    recipes = [trials[0], *seeds]
    points = [
        (trial.settings[name], objective.sign * trial.losses[ladder.total])
        for trial in recipes
        if math.isfinite(trial.losses.get(ladder.total, math.inf)) and name in trial.settings
    ]
    if points:
        x, y = zip(*points, strict=True)
        panel.plot(x, y, "*", color=ORANGE, markersize=12, label="recipe, all seeds")
    if any(d.name == name and (d.log or d.name == RATE) for d in space):
        panel.set_xscale("log")
        for axis in (panel.xaxis.set_major_formatter, panel.xaxis.set_minor_formatter):
            axis(lambda value, _: f"{value:.3g}")
    panel.set_xlabel(name, color=INK, fontsize=9)
    panel.set_title(objective.described, loc="left", color=INK, fontsize=10)
    panel.grid(color=FAINT)
    panel.legend(frameon=False, labelcolor=INK, fontsize=8)


def _draw_parallel(
    panel: "Axes",
    space: Sequence[Dimension],
    trials: Sequence[Trial],
    ladder: Ladder,
    objective: Objective,
) -> None:
    """A line for each trial through its settings and its figure at the first rung, the best ones green and on top."""
    first = ladder.tokens[0]
    arrived = [t for t in trials if math.isfinite(t.losses.get(first, math.inf))]
    arrived.sort(key=lambda trial: -trial.losses[first])
    names = [d.name for d in space]
    figures = [objective.sign * trial.losses[first] for trial in arrived]
    for place, trial in enumerate(arrived):
        heights = [_height(d, trial.settings.get(d.name)) for d in space]
        heights.append(_share(figures[place], figures))
        good = place >= len(arrived) - max(1, len(arrived) // 4)
        panel.plot(
            range(len(heights)),
            heights,
            color=GREEN if good else "#BBBBBB",
            linewidth=1.6 if good else 0.8,
        )
    for n, d in enumerate(space):
        panel.axvline(n, color=FAINT, zorder=0)
        ends = (d.choices[0], d.choices[-1]) if d.choices else (d.low, d.high)
        for height, value in zip((0, 1), ends, strict=True):
            panel.annotate(written(value), (n, height), fontsize=7, color=INK)
    figure = objective.title.removeprefix("val ")
    panel.set_xticks(range(len(names) + 1), [*names, figure])
    panel.set_yticks([])
    title = f"settings and {figure} at the first comparison"
    panel.set_title(title, loc="left", color=INK, fontsize=10)


def _height(dimension: Dimension, value: Any) -> float:
    """The place of a value on its axis, 0 to 1."""
    if dimension.choices:
        if value not in dimension.choices:
            return 0.5
        return dimension.choices.index(value) / max(1, len(dimension.choices) - 1)
    if value is None:
        return 0.5
    return dimension.height(value)


def _share(value: float, values: Sequence[float]) -> float:
    low, high = min(values), max(values)
    return (value - low) / (high - low) if high > low else 0.5


def _draw_importance(
    panel: "Axes", space: Sequence[Dimension], trials: Sequence[Trial], ladder: Ladder
) -> None:
    """How much of the differences each setting explains."""
    shares = importances(space, trials, ladder)
    panel.set_title("importance", loc="left", color=INK, fontsize=10)
    if not shares:
        panel.text(0.5, 0.5, "too few trials", ha="center", color=INK, fontsize=9)
        panel.set_axis_off()
        return
    names = sorted(shares, key=lambda name: shares[name])
    panel.barh(names, [shares[name] for name in names], color=BLUE)
    panel.set_xlim(0, 1)


def importances(
    space: Sequence[Dimension], trials: Sequence[Trial], ladder: Ladder
) -> dict[str, float]:
    """The share of each setting in the differences of the loss at the first rung (PED-ANOVA, Watanabe et al., 2023);
    empty with too few trials."""
    import optuna

    first = ladder.tokens[0]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study()
        for trial in trials:
            loss = trial.losses.get(first, math.inf)
            if math.isfinite(loss) and all(
                d.name in trial.point and d.contains(trial.point[d.name]) for d in space
            ):
                study.add_trial(
                    optuna.trial.create_trial(
                        params=trial.point,
                        distributions={d.name: distribution(d) for d in space},
                        value=loss,
                    )
                )
        if len(study.trials) < LEAST_FOR_IMPORTANCE:
            return {}
        return dict(
            optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=GOOD_SHARE),
            )
        )
