"""What a run watches its steps and evaluations for: the best loss, patience, steps that are out of all proportion or
not finite. Plain numbers, stored with each checkpoint, so that a resumed run decides as the uninterrupted one would.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from homespun.engine.base import StepResult
from homespun.planning.recipe import ResolvedConfig

MAX_REFUSED_IN_A_ROW = 10

RECENT = 100
"""Steps that a new one is compared with."""
ENOUGH = 50
"""Without so many of them nobody knows what is usual."""
DEVIATIONS = 15
"""Median absolute deviations above the median at which a step is out of proportion: 10 standard deviations of a normal
distribution, but the losses of batches have longer tails."""
LEAST_RISE = {"loss": 0.2, "norm": 4.0}
"""And as shares of the median, for a run whose steps are very much alike."""

SPIKE = "spike"
NOT_FINITE = "not finite"
STANDSTILL = "standstill"


class Limits(NamedTuple):
    """What loss and gradient norm of a step may be at most."""

    loss: float = math.inf
    norm: float = math.inf


class Advice(NamedTuple):
    """What is wrong with a run, and what to do."""

    cause: str
    """One or two words, always the same for the same."""
    text: str
    ends_run: bool = False


@dataclass
class StepGuard:
    """What has been seen."""

    best_val_loss: float | None = None
    evaluations_without_better: int = 0
    refused: int = 0
    """Steps that were not finite, or too far out, and which changed nothing."""
    refused_in_a_row: int = 0
    recent: list[list[float]] = field(default_factory=list)
    """Number, loss and gradient norm of the last steps that were applied: one more than are compared with, as the
    last may not be."""
    spike_at: int = 0
    """The step of the last spike that was applied and reported."""

    def evaluated(self, val_loss: float) -> bool:
        """Take note of an evaluation; True if it is the best so far."""
        best = math.inf if self.best_val_loss is None else self.best_val_loss
        better = val_loss < best  # never, where the loss is not a number
        if better:
            self.best_val_loss = val_loss
            self.evaluations_without_better = 0
        else:
            self.evaluations_without_better += 1
        return better

    def limits(self, step: int) -> Limits:
        """For a step, from those before the last: on some devices that one is still being computed."""
        earlier = [values for number, *values in self.recent if number < step - 1][-RECENT:]
        if len(earlier) < ENOUGH:
            return Limits()
        losses, norms = zip(*earlier, strict=True)
        return Limits(_far_above(losses, LEAST_RISE["loss"]), _far_above(norms, LEAST_RISE["norm"]))

    def stepped(
        self, step: int, result: StepResult, limits: Limits, batch: str, config: ResolvedConfig
    ) -> Advice | None:
        """Take note of a step that had these `limits`; `batch` is the fingerprint of its tokens."""
        self.refused += not result.applied
        self.refused_in_a_row = 0 if result.applied else self.refused_in_a_row + 1
        advice = None
        if not result.finite:
            advice = Advice(NOT_FINITE, f"{_what_is_not_finite(result)}: refused, batch {batch}")
        elif not result.applied or (
            config.on_spike == "warn"
            and (result.loss > limits.loss or result.grad_norm > limits.norm)
        ):
            advice = self._spike(step, result, limits, batch, config)
        if self.refused_in_a_row >= MAX_REFUSED_IN_A_ROW:
            advice = self._standstill(step, result, batch, config)
        if result.applied:
            self.recent = [*self.recent[-RECENT:], [step, result.loss, result.grad_norm]]
        return advice

    def _spike(
        self, step: int, result: StepResult, limits: Limits, batch: str, config: ResolvedConfig
    ) -> Advice | None:
        _, losses, norms = zip(*self.recent, strict=True)
        name, value, usual = "gradient norm", result.grad_norm, statistics.median(norms)
        if result.loss > limits.loss:
            name, value, usual = "loss", result.loss, statistics.median(losses)
        jumped = f"the {name} jumped to {value:.3g} from about {usual:.3g}, batch {batch}"
        if config.on_spike == "skip":
            return Advice(SPIKE, f"{jumped}: refused; if that repeats, {lower_rate(config)}")
        if config.on_spike == "stop":
            go_on = "--resume goes on behind it, with --on-spike skip also behind the next"
            return Advice(SPIKE, f"in step {step:,} {jumped}: refused and saved; {go_on}", True)
        if self.spike_at and step - self.spike_at < RECENT:
            return None  # it has been said, and the level is not yet the usual one
        self.spike_at = step
        return Advice(SPIKE, f"{jumped}; if that repeats, {lower_rate(config)} or --on-spike skip")

    def _standstill(
        self, step: int, result: StepResult, batch: str, config: ResolvedConfig
    ) -> Advice:
        what = _what_is_not_finite(result)
        if result.finite:
            what = "loss or gradient norm was far above the usual"
        cure = f"go on from the last checkpoint with --resume {lower_rate(config)}"
        if math.isfinite(result.loss) and not result.finite and config.precision == "bfloat16":
            cure += ", or with --precision float32"
        return Advice(
            STANDSTILL,
            f"{what} in step {step:,} (batch {batch}), and the {MAX_REFUSED_IN_A_ROW - 1} steps before it were refused "
            f"as well: so it is no single batch, the weights have gone astray, at too high a rate; {cure}",
            ends_run=True,
        )


def lower_rate(config: ResolvedConfig) -> str:
    """The flags for the usual learning rate, or for a third of one that is not much higher."""
    return _rate_flags(config, min(1 / 3, _usual_to_own(config)))


def higher_rate(config: ResolvedConfig) -> str:
    """The flags for the usual learning rate, or for thrice one that is not much lower."""
    return _rate_flags(config, max(3.0, _usual_to_own(config)))


def _usual_to_own(config: ResolvedConfig) -> float:
    if config.optimizer == "muon":
        return ResolvedConfig.muon_learning_rate / config.muon_learning_rate
    return ResolvedConfig.learning_rate / config.learning_rate


def _rate_flags(config: ResolvedConfig, factor: float) -> str:
    flags = f"--learning-rate {min(1.0, config.learning_rate * factor):.1g}"
    if config.optimizer == "muon":
        flags += f" --muon-learning-rate {min(1.0, config.muon_learning_rate * factor):.1g}"
    return flags


def _what_is_not_finite(result: StepResult) -> str:
    if math.isfinite(result.loss):
        return "the loss was finite, its gradients were not"
    return "the loss was not finite"


def _far_above(values: Sequence[float], least_rise: float) -> float:
    """Median and median absolute deviation, which outliers among the values do not move."""
    median = statistics.median(values)
    deviation = statistics.median(abs(value - median) for value in values)
    return median + max(DEVIATIONS * deviation, least_rise * median)
