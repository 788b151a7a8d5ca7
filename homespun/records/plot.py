"""The records of a run flow in, one picture of its curves comes out."""

import io
import math
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.errors import UserError
from homespun.records.reading import is_number, read
from homespun.terminal import counted, duration, encodable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = npt.NDArray[np.float64]
Curve = tuple[Values, Values]
"""Steps, and the values at these steps."""

# Distinct for colour-blind readers and in greyscale (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#8F4E8B"
INK, FAINT = "#333333", "#E3E3E3"
FEW_POINTS = 20
"""Up to so many points of a curve are marked, so that a run of a few steps shows its steps."""
TITLE_COLUMNS = 118
"""Characters of the title in a line of the picture."""


def plot_run(
    metrics: Path,
    out: Path,
    max_grad_norm: float | None = None,
    report: Callable[[str], object] = lambda text: None,
) -> None:
    """Draw the curves of a run as a PNG: losses, learning rates, gradient norm, speed, the use of its experts, the
    accuracy and rewards of its pairs, and the rewards and the variety of its answers.

    A run with few records, or without evaluations, gives a picture of what there is. Damaged records are left out.

    Args:
        report: receives a line about the damaged records, if there are any.

    Raises:
        UserError: `metrics` cannot be read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    damaged: list[UserError] = []
    curves, runs = _curves(metrics, damaged.append)
    if damaged:
        more = f" (and {len(damaged) - 1:,} more)" if damaged[1:] else ""
        report(f"{damaged[0]}{more}: the picture leaves that out.")
    rows: list[Any] = [["loss", "loss", "loss"], ["lr", "norm", "speed"]]
    heights = [2.3, 1.0]
    if has_experts := len(curves["largest_load"][1]) > 0:
        rows, heights = [*rows, ["load", "entropy", "auxiliary"]], [*heights, 1.0]
    if has_pairs := len(curves["accuracy"][1]) > 0:
        rows, heights = [*rows, ["accuracy", "margin", "rewards"]], [*heights, 1.0]
    if has_answers := len(curves["reward"][1]) > 0:
        rows, heights = [*rows, ["reward", "variety", "kl"]], [*heights, 1.0]
    figure = Figure(figsize=(10, 2.1 * sum(heights)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic(rows, height_ratios=heights)
    figure.suptitle(_title(curves, runs), x=0.015, ha="left", color=INK, fontsize=10.5)
    _draw_losses(panels["loss"], curves, [step for step, _ in runs if step])
    with_muon = len(curves["muon_lr"][1]) > 0
    _draw(panels["lr"], curves["lr"], GREEN, label="AdamW" if with_muon else "")
    _draw(panels["lr"], curves["muon_lr"], ORANGE, label="Muon")
    _draw_with_mean(panels["norm"], curves["grad_norm"], PURPLE)
    _draw_with_mean(panels["speed"], curves["tokens_per_second"], BLUE)
    if max_grad_norm:
        panels["norm"].axhline(
            max_grad_norm, color=INK, linestyle="--", linewidth=1, label="clipped above"
        )

    n_steps = curves["tokens"][0].max(initial=1)
    unit = "loss of the pairs" if has_pairs else "loss, nats per token"
    _style(panels["loss"], unit, n_steps)
    _style(panels["lr"], "learning rate", n_steps)
    _style(panels["norm"], "gradient norm", n_steps)
    _style(panels["speed"], "tokens per second", n_steps)
    if has_experts:
        _draw_experts(panels, curves, n_steps)
    if has_answers:
        _draw_answers(panels, curves, n_steps)
    for panel in list(panels.values())[1:]:
        panel.set_ylim(bottom=0)
    if has_answers:  # a reward may be negative
        panels["reward"].autoscale(axis="y")
    if has_pairs:
        _draw_pairs(panels, curves, n_steps)
    panels["lr"].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels["speed"].yaxis.set_major_formatter(lambda value, _: _si(value))
    _add_token_axis(panels["loss"], curves["tokens"])
    _add_byte_axis(panels["loss"], curves["bits_per_nat"])
    _add_legend(panels["loss"], above=1.06, fontsize=9)
    for panel in list(panels.values())[1:]:
        _add_legend(panel, above=1.0, fontsize=8)

    png = io.BytesIO()
    with warnings.catch_warnings():
        # The name of a text may have letters that the font lacks: a box stands for each.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(png, format="png")
    durable.write(out, png.getvalue())


def _curves(
    metrics: Path, on_damage: Callable[[UserError], object] | None = None
) -> tuple[defaultdict[str, Curve], list[tuple[int, dict[str, Any]]]]:
    """All numbers of the run by name, without those that are not finite, and its descriptions with their steps."""
    points: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    runs = []
    for record in read(metrics, on_damage):
        if "run" in record:
            runs.append((record["step"], record["run"]))
        nats: Any = record.get("val_loss")
        bits: Any = record.get("val_bits_per_byte")
        if is_number(nats) and is_number(bits) and nats > 0 and bits > 0:
            points["bits_per_nat"].append((record["step"], bits / nats))
        if "eval_tokens" in record:  # later losses do not compare with earlier ones
            points["earlier_val_loss"] += points.pop("val_loss", [])
            points["best"] = []
            if is_number(record.get("best_step")) and is_number(record.get("best_val_loss")):
                points["best"] = [(record["best_step"], record["best_val_loss"])]
        for name, value in record.items():
            if is_number(value):
                points[name].append((record["step"], value))
    nothing: Curve = np.empty(0), np.empty(0)
    curves: defaultdict[str, Curve] = defaultdict(lambda: nothing)
    for name, pairs in points.items():
        steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        curves[name] = steps, values
    return curves, runs


def _title(curves: defaultdict[str, Curve], runs: Sequence[tuple[int, dict[str, Any]]]) -> str:
    """Model and text, then the length of the run and the machine, as far as they are known."""
    lines = [_headline(curves)]
    if runs:
        last = {name: value for name, value in runs[-1][1].items() if isinstance(value, str)}
        if machine := last.get("machine"):
            lines[0] += f"  ·  {machine}"
        subject = [last.get("model", ""), encodable(Path(last.get("text", "")).name)]
        lines.insert(0, "  ·  ".join(part for part in subject if part))
    return "\n".join(
        textwrap.fill(line.replace("$", r"\$"), TITLE_COLUMNS) for line in lines if line
    )


def _headline(curves: defaultdict[str, Curve]) -> str:
    """'10,000 steps · 41M tokens · 2.5 passes · 32 min'."""
    steps, tokens = curves["tokens"]
    if not len(steps) or not steps[-1]:
        return "nothing was logged"
    facts = [counted(int(steps[-1]), "step"), f"{_si(tokens[-1])} tokens"]
    _, epochs = curves["epoch"]
    if len(epochs) and epochs[-1]:
        passes = f"{epochs[-1]:.2g}" if epochs[-1] < 10 else f"{epochs[-1]:,.0f}"
        facts.append(f"{passes} {'pass' if passes == '1' else 'passes'}")
    _, seconds = curves["seconds"]
    if len(seconds):
        facts.append(duration(seconds[-1]))
    return "  ·  ".join(facts)


def _draw_losses(panel: "Axes", curves: defaultdict[str, Curve], resumed: Sequence[int]) -> None:
    """The losses, the best one, and the steps at which a resumed run had other settings or another machine."""
    _draw_with_mean(panel, curves["loss"], BLUE, label="training")
    if len(curves["earlier_val_loss"][1]):
        earlier = "validation, measured otherwise"
        _draw(panel, curves["earlier_val_loss"], ORANGE, label=earlier, marker="o", alpha=0.3)
    if len(curves["val_loss"][1]):
        _draw(panel, curves["val_loss"], ORANGE, label="validation", marker="o")
    if len(curves["val_replay_loss"][1]):
        _draw(panel, curves["val_replay_loss"], GREEN, label="earlier text", marker="o")
    candidates = [curves["best"], curves["val_loss"]]
    steps, losses = (np.concatenate(values) for values in zip(*candidates, strict=True))
    if len(losses):
        best = int(np.argmin(losses))
        panel.plot(
            steps[best],
            losses[best],
            color=ORANGE,
            marker="*",
            markersize=17,
            markeredgecolor="white",
            linestyle="none",
            zorder=5,
            label=f"best: {losses[best]:.4f} at step {steps[best]:,.0f}",
        )
    for number, step in enumerate(resumed):
        label = "" if number else "resumed, with a change"
        panel.axvline(step, color=INK, linestyle=":", linewidth=1, label=label)
    _crop_initial_fall(panel, curves)


def _draw_experts(panels: "dict[str, Axes]", curves: defaultdict[str, Curve], steps: float) -> None:
    """The most and the least used expert of all blocks, how decided the routers are, and the share of their losses."""
    _draw(panels["load"], curves["largest_load"], ORANGE, label="most")
    _draw(panels["load"], curves["smallest_load"], BLUE, label="least")
    _draw(panels["entropy"], curves["router_entropy"], GREEN)
    _draw(panels["auxiliary"], curves["auxiliary_share"], PURPLE)
    _style(panels["load"], "load (1 = even)", steps)
    _style(panels["entropy"], "entropy of the routers, 1 = undecided", steps)
    _style(panels["auxiliary"], "share of the auxiliary losses", steps)


def _draw_pairs(panels: "dict[str, Axes]", curves: defaultdict[str, Curve], steps: float) -> None:
    """How often the better answer has the higher reward, by how much, and the rewards of both."""
    for name in ("accuracy", "margin"):
        _draw_with_mean(panels[name], curves[name], BLUE, label="training")
        _draw(panels[name], curves[f"val_{name}"], ORANGE, label="validation", marker="o")
        _style(panels[name], name, steps)
    panels["accuracy"].set_ylim(0, 1.02)
    _draw(panels["rewards"], curves["val_chosen_reward"], GREEN, label="chosen", marker="o")
    _draw(panels["rewards"], curves["val_rejected_reward"], PURPLE, label="rejected", marker="o")
    _style(panels["rewards"], "rewards", steps)
    for name in ("margin", "rewards"):
        panels[name].axhline(0, color=INK, linewidth=0.8)
        panels[name].autoscale(axis="y")


def _draw_answers(panels: "dict[str, Axes]", curves: defaultdict[str, Curve], steps: float) -> None:
    """The rewards, and what a model may give up for them: the variety of its answers, and its closeness to the initial
    model."""
    _draw_with_mean(panels["reward"], curves["reward"], BLUE, label="sampled")
    _draw(panels["reward"], curves["val_reward"], ORANGE, label="held out", marker="o")
    _draw_with_mean(panels["variety"], curves["distinct"], GREEN, label="distinct")
    _draw_with_mean(panels["variety"], curves["entropy"], PURPLE, label="entropy")
    _draw_with_mean(panels["kl"], curves["kl"], PURPLE)
    _style(panels["reward"], "reward", steps)
    _style(panels["variety"], "variety of the answers", steps)
    _style(panels["kl"], "distance from the initial model", steps)


def _crop_initial_fall(panel: "Axes", curves: defaultdict[str, Curve]) -> None:
    """Scale the losses of a long run without its first steps, whose high losses would flatten the rest of the curve."""
    steps, losses = curves["loss"]
    if len(losses) < 50:
        return
    late = steps[-1] / 25
    val_steps, val_losses = curves["val_loss"]
    shown = np.concatenate([smoothed(losses)[steps > late], val_losses[val_steps > late]])
    margin = max(0.15 * np.ptp(shown), 0.05)
    panel.set_ylim(shown.min() - margin, shown.max() + margin)


def _draw_with_mean(panel: "Axes", curve: Curve, color: str, label: str = "") -> None:
    """The measured curve in a pale colour, and its running mean above it."""
    steps, values = curve
    _draw(panel, curve, color, linewidth=0.8, alpha=0.3)
    _draw(panel, (steps, smoothed(values)), color, label=label)


def _draw(
    panel: "Axes",
    curve: Curve,
    color: str,
    linewidth: float = 1.8,
    alpha: float = 1.0,
    label: str = "",
    marker: str = "",
) -> None:
    steps, values = curve
    if not len(steps):
        return
    if len(steps) <= FEW_POINTS:
        marker = "o"
    elif len(steps) > 50:
        marker = ""
    every = math.ceil(len(steps) / 5000)
    panel.plot(
        steps[::every],
        values[::every],
        color=color,
        linewidth=linewidth,
        alpha=alpha,
        label=label,
        marker=marker,
        markersize=4 if len(steps) > 1 else 6,
    )


def smoothed(values: Values) -> Values:
    """Mean over a window of a fortieth of the run, centred, so that changes are not shown late."""
    half = len(values) // 80
    sums = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(len(values))
    # The window is narrow near the start of the run, so that the steep fall there keeps its shape.
    before = np.minimum(half, index)
    after = np.minimum(before, index[::-1])
    means: Values = (sums[index + after + 1] - sums[index - before]) / (before + after + 1)
    return means


def _style(panel: "Axes", title: str, n_steps: float) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_title(title, loc="left", fontsize=10, color=INK)
    panel.set_xlim(0, 1.02 * n_steps)
    panel.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    panel.xaxis.set_major_formatter(lambda value, _: _si(value))
    panel.grid(color=FAINT, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(colors=INK, labelsize=9, length=0)
    for side, spine in panel.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)


def _add_token_axis(panel: "Axes", tokens: Curve) -> None:
    """Tokens along the upper edge, if all steps had equally many."""
    steps, counts = (values[tokens[0] > 0] for values in tokens)
    panel.set_xlabel("step", loc="right", color=INK, fontsize=9)
    per_step = counts / np.maximum(steps, 1)
    if len(steps) and np.ptp(per_step) < 1e-6 * per_step.max():
        axis = panel.secondary_xaxis(
            "top", functions=(lambda x: x * per_step[-1], lambda x: x / per_step[-1])
        )
        axis.xaxis.set_major_formatter(lambda value, _: _si(value))
        axis.tick_params(colors=INK, labelsize=9, length=0)
        axis.spines["top"].set_visible(False)
        axis.set_xlabel("tokens", loc="left", color=INK, fontsize=9)


def _add_byte_axis(panel: "Axes", ratio: Curve) -> None:
    """Bits per byte along the right edge: those of the validation text, whose tokens have as many bytes."""
    if not len(ratio[1]):
        return
    bits_per_nat = ratio[1][-1]
    axis = panel.secondary_yaxis(
        "right", functions=(lambda nats: nats * bits_per_nat, lambda bits: bits / bits_per_nat)
    )
    axis.tick_params(colors=INK, labelsize=9, length=0)
    axis.spines["right"].set_visible(False)
    axis.set_ylabel("bits per byte", color=INK, fontsize=9)


def _add_legend(panel: "Axes", above: float, fontsize: float) -> None:
    """The names of the curves in a line above the panel, where they hide nothing."""
    _, labels = panel.get_legend_handles_labels()
    if labels:
        panel.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, above),
            ncols=len(labels),
            frameon=False,
            labelcolor=INK,
            fontsize=fontsize,
            borderpad=0.0,
            borderaxespad=0.3,
            handlelength=1.4,
            columnspacing=1.2,
        )


def _si(value: float) -> str:
    """'950', '12.5k', '41M', '1.2B'."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"
