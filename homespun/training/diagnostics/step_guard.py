"""Steps and evaluations flow in; the limits of the next step, and findings about spikes and non-finite steps, come out.

The state is plain numbers, stored with each checkpoint, so that a resumed run decides like the uninterrupted one.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from homespun.checkpoint.stored_values import Signed
from homespun.engine.base import StepResult
from homespun.planning.resolved import ResolvedConfig

MAX_REFUSED_IN_A_ROW = 10

RECENT_STEPS = 100
"""Number of steps that a new one is compared with."""
MIN_RECENT_STEPS = 50
"""With fewer steps the usual level is not known, and there are no limits."""
SPIKE_DEVIATIONS = 15
"""Median absolute deviations above the median from which on a step is a spike: 10 standard deviations of a normal
distribution, but the losses of batches have longer tails."""
MIN_RISE = {"loss": 0.2, "norm": 4.0}
"""A spike is also this much above the median, as a fraction of it: the steps of a run may be very much alike."""

SPIKE = "spike"
NOT_FINITE = "not finite"
STANDSTILL = "standstill"

FROM_LAST = "continue from the last checkpoint with --resume"
"""Part of the remedy of a finding that ends the run. The loop replaces it where another checkpoint is the right one."""


class Limits(NamedTuple):
    """The highest loss and gradient norm of a step that is no spike."""

    loss: float = math.inf
    norm: float = math.inf


class Finding(NamedTuple):
    """Something wrong with a step or with the run."""

    cause: str
    """One or two words, the same for the same cause."""
    text: str
    """The observation, and a remedy."""
    ends_run: bool = False


@dataclass
class StepGuard:
    """The best evaluation, the refused steps, and the recent ones. The fields are stored under their names."""

    best_val_loss: Signed | None = None
    """In a run with a reward, minus the best mean reward."""
    evaluations_without_better: int = 0
    refused: int = 0
    """Steps that changed nothing, since they were not finite or spikes."""
    refused_in_a_row: int = 0
    recent: list[tuple[int, Signed, float]] = field(default_factory=list)
    """Number, loss and gradient norm of the last applied steps that had a gradient: one more than are compared with,
    since the last one may not count yet."""
    spike_at: int = 0
    """The last spike that was applied and reported."""

    def observe_evaluation(self, val_loss: float) -> bool:
        """Count an evaluation; True if it is the best so far."""
        best = math.inf if self.best_val_loss is None else self.best_val_loss
        better = val_loss < best  # False if the loss is NaN
        if better:
            self.best_val_loss = val_loss
            self.evaluations_without_better = 0
        else:
            self.evaluations_without_better += 1
        return better

    def limits(self, step: int) -> Limits:
        """The limits of a step, from all before the last one, which a GPU may still be computing."""
        earlier = [values for number, *values in self.recent if number < step - 1][-RECENT_STEPS:]
        if len(earlier) < MIN_RECENT_STEPS:
            return Limits()
        losses, norms = zip(*earlier, strict=True)
        norm = _far_above(norms, MIN_RISE["norm"])
        if min(losses) <= 0:  # as with a reward: they lie around zero and have no usual level
            return Limits(norm=norm)
        return Limits(_far_above(losses, MIN_RISE["loss"]), norm)

    def observe_step(
        self, step: int, result: StepResult, limits: Limits, batch: str, config: ResolvedConfig
    ) -> Finding | None:
        """Count a step that had these `limits`; `batch` is the fingerprint of its tokens."""
        self.refused += not result.applied
        self.refused_in_a_row = 0 if result.applied else self.refused_in_a_row + 1
        finding = None
        if not result.finite:
            finding = Finding(NOT_FINITE, f"{_not_finite(result)}: refused, batch {batch}")
        elif not result.applied or (
            config.on_spike == "warn"
            and (result.loss > limits.loss or result.grad_norm > limits.norm)
        ):
            finding = self._spike(step, result, limits, batch, config)
        if self.refused_in_a_row >= MAX_REFUSED_IN_A_ROW:
            finding = self._standstill(step, result, batch, config)
        if result.applied and result.grad_norm > 0:
            # Without a gradient nothing was learned: all answers of a step had the same reward.
            self.recent = [*self.recent[-RECENT_STEPS:], (step, result.loss, result.grad_norm)]
        return finding

    def _spike(
        self, step: int, result: StepResult, limits: Limits, batch: str, config: ResolvedConfig
    ) -> Finding | None:
        _, losses, norms = zip(*self.recent, strict=True)
        name, value, usual = "gradient norm", result.grad_norm, statistics.median(norms)
        if result.loss > limits.loss:
            name, value, usual = "loss", result.loss, statistics.median(losses)
        jumped = f"the {name} jumped to {value:.3g} from about {usual:.3g}, batch {batch}"
        if config.on_spike == "skip":
            return Finding(SPIKE, f"{jumped}: refused; if that repeats, {lower_rate(config)}")
        if config.on_spike == "stop":
            remedy = f"{FROM_LAST} --on-spike skip, which skips this step and later spikes"
            return Finding(SPIKE, f"in step {step:,} {jumped}: refused; {remedy}", True)
        if self.spike_at and step - self.spike_at < RECENT_STEPS:
            return None  # reported already, and the new level is not the usual one yet
        self.spike_at = step
        return Finding(SPIKE, f"{jumped}; if that repeats, {lower_rate(config)} or --on-spike skip")

    def _standstill(
        self, step: int, result: StepResult, batch: str, config: ResolvedConfig
    ) -> Finding:
        observed = _not_finite(result)
        if result.finite:
            observed = "loss or gradient norm was far above the usual"
        cure = f"{FROM_LAST} {lower_rate(config)}"
        if math.isfinite(result.loss) and not result.finite and config.precision == "bfloat16":
            cure += ", or with --precision float32"
        return Finding(
            STANDSTILL,
            f"{observed} in step {step:,} (batch {batch}), and the {MAX_REFUSED_IN_A_ROW - 1} steps before it were "
            f"refused as well: the cause is not one batch, but a learning rate that is too high; {cure}",
            ends_run=True,
        )


def lower_rate(config: ResolvedConfig) -> str:
    """The flags for the default learning rate, or for a third of one that is less than three times that."""
    return _rate_flags(config, min(1 / 3, _default_over_current(config)))


def higher_rate(config: ResolvedConfig) -> str:
    """The flags for the default learning rate, or for three times one that is more than a third of that."""
    return _rate_flags(config, max(3.0, _default_over_current(config)))


def _default_over_current(config: ResolvedConfig) -> float:
    if config.optimizer == "muon":
        return ResolvedConfig.muon_learning_rate / config.muon_learning_rate
    return ResolvedConfig.learning_rate / config.learning_rate


def _rate_flags(config: ResolvedConfig, factor: float) -> str:
    flags = f"--learning-rate {min(1.0, config.learning_rate * factor):.1g}"
    if config.optimizer == "muon":
        flags += f" --muon-learning-rate {min(1.0, config.muon_learning_rate * factor):.1g}"
    return flags


def _not_finite(result: StepResult) -> str:
    if math.isfinite(result.loss):
        return "the loss was finite, its gradients were not"
    return "the loss was not finite"


def _far_above(values: Sequence[float], min_rise: float) -> float:
    """A limit from the median and the median absolute deviation, which outliers among the values do not move."""
    median = statistics.median(values)
    deviation = statistics.median(abs(value - median) for value in values)
    return median + max(SPIKE_DEVIATIONS * deviation, min_rise * median)
