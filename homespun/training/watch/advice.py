"""What a run does over hundreds of steps in; what is wrong with that and what to change out, while it goes on.

Plain numbers, stored with each checkpoint. What is seen does not depend on how often it is logged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from homespun.data.shards import TokenStream
from homespun.engine.base import StepResult
from homespun.planning.recipe import ResolvedConfig
from homespun.training.watch.guard import Advice, higher_rate, lower_rate

MOST_BLOCKS = 64
"""The whole run is kept as so many means at most; then each two become one."""
FIRST_BLOCK = 10
"""Steps of a mean at the start of a run."""

CERTAIN = 5.0
"""Standard errors by which two means differ where it cannot be chance."""
SOON, LATER = 100, 600
"""Steps at the full rate (or as much of lower ones) after which a run has begun to learn, and has learned."""
ENOUGH_TEXT = 25_000
"""Tokens, likewise, without which nobody learns more than how often each occurs, in however many steps."""
COUNTED = 1_000_000
"""Tokens of the text from which one knows how often each occurs."""


class Block(NamedTuple):
    """Some steps in a row: their number, and sums over them."""

    steps: int = 0
    loss: float = 0.0
    square: float = 0.0
    clipped: float = 0.0
    log_norm: float = 0.0
    """Of the gradient norm, before clipping."""
    rate: float = 0.0
    """Learning rate as a share of its peak."""

    @property
    def mean(self) -> float:
        return self.loss / self.steps

    @property
    def deviation(self) -> float:
        """Standard deviation of the loss."""
        return math.sqrt(max(0.0, self.square / self.steps - self.mean**2))

    @property
    def error(self) -> float:
        """Standard error of the mean loss."""
        return self.deviation / math.sqrt(self.steps)


@dataclass
class TrendWatch:
    """What has been seen since the settings that matter were as they are."""

    settings: list[float] = field(default_factory=list)
    counting: float = 0.0
    """Loss of a model that knows how often each token occurs, and nothing else."""
    first: float = 0.0
    """Loss of the first step."""
    block_steps: int = FIRST_BLOCK
    blocks: list[Block] = field(default_factory=list)
    now: Block = field(default_factory=Block)
    """The one that is not full yet."""
    at_evaluation: Block = field(default_factory=Block)
    """The steps since the last evaluation."""
    evaluations: list[list[float]] = field(default_factory=list)
    """Step, validation loss, and mean training loss since the one before: of the best, and of the last two after it."""
    said_at: dict[str, int] = field(default_factory=dict)
    """By cause."""

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "TrendWatch":
        """The inverse of `dataclasses.asdict` after a passage through JSON."""
        blocks = [Block(*block) for block in values["blocks"]]
        now, at_evaluation = Block(*values["now"]), Block(*values["at_evaluation"])
        return cls(**values | {"blocks": blocks, "now": now, "at_evaluation": at_evaluation})

    def begin(self, config: ResolvedConfig, counting: float) -> "TrendWatch":
        """This, or a new one where a resumed run has other settings: what was seen says nothing about them."""
        settings = [config.learning_rate, config.muon_learning_rate, config.max_grad_norm]
        return self if settings == self.settings else TrendWatch(settings, counting)

    def stepped(
        self, step: int, result: StepResult, rate: float, config: ResolvedConfig
    ) -> list[Advice]:
        """Take note of a step that was applied; `rate` is the share of the peak learning rate."""
        loss, norm = result.loss, max(result.grad_norm, 1e-30)
        if not self.blocks and not self.now.steps:
            self.first = loss
        values = Block(1, loss, loss**2, result.clipped, math.log(norm), rate)
        self.now, self.at_evaluation = _sum([self.now, values]), _sum([self.at_evaluation, values])
        if self.now.steps < self.block_steps:
            return []
        self.blocks.append(self.now)
        self.now = Block()
        if len(self.blocks) == MOST_BLOCKS:
            self.blocks = [
                _sum(pair) for pair in zip(self.blocks[::2], self.blocks[1::2], strict=True)
            ]
            self.block_steps *= 2
        course = (
            divergence(self.blocks, self.first, config)
            or stuck(self.blocks, self.first, self.counting, config)
            or plateau(self.blocks, config)
        )
        return self._unless_said(step, [course, constant_clipping(self.blocks, config)])

    def evaluated(self, step: int, val_loss: float, config: ResolvedConfig) -> list[Advice]:
        """Take note of an evaluation."""
        if not self.at_evaluation.steps or not math.isfinite(val_loss):
            return []
        self.evaluations.append([step, val_loss, self.at_evaluation.mean])
        self.at_evaluation = Block()
        best = min(self.evaluations, key=lambda evaluation: evaluation[1])
        after = [evaluation for evaluation in self.evaluations if evaluation[0] > best[0]]
        self.evaluations = [best, *after[-2:]]
        return self._unless_said(step, [overfitting(self.evaluations, config)])

    def _unless_said(self, step: int, found: Sequence[Advice | None]) -> list[Advice]:
        """The same cause again only when the run is four times as old."""
        due = [
            advice for advice in found if advice and step >= 4 * self.said_at.get(advice.cause, 0)
        ]
        self.said_at |= {advice.cause: step for advice in due}
        return due


def loss_of_counting(tokens: TokenStream) -> float:
    """The loss of a model that knows how often each token occurs, and nothing else, in nats."""
    _, counts = np.unique(tokens[:COUNTED], return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def divergence(blocks: Sequence[Block], first: float, config: ResolvedConfig) -> Advice | None:
    """The loss has risen, for good."""
    if len(blocks) < 3:
        return None
    best, last = min(blocks[:-2], key=lambda block: block.mean), _sum(blocks[-2:])
    if best.mean > first and last.mean - first > 0.2 * first + 3 * last.deviation:
        best = Block(1, first)  # it has risen at once
    rise, fall = last.mean - best.mean, blocks[0].mean - best.mean
    # A text that is known by heart is a little less so where the next pass cuts it elsewhere.
    if rise < max(CERTAIN * math.hypot(best.error, last.error), 0.05 * best.mean, 0.1 * fall):
        return None
    return Advice(
        "divergence",
        f"the loss has risen from {best.mean:.3g} to {last.mean:.3g}: the learning rate is too high; "
        f"go on with --resume {lower_rate(config)} (or begin again with it and more --warmup-steps)",
    )


def stuck(
    blocks: Sequence[Block], first: float, counting: float, config: ResolvedConfig
) -> Advice | None:
    """The loss is no better than that of `counting` tokens, and is not getting there."""
    at_full_rate = sum(block.rate for block in blocks)
    if at_full_rate < SOON or at_full_rate * config.tokens_per_step < ENOUGH_TEXT:
        return None
    before, last = _last_quarters(blocks)
    fall = before.mean - last.mean + 2 * math.hypot(before.error, last.error)  # at most, likely
    if last.mean < 0.97 * counting or fall > 0.02 * last.mean:
        return None
    if last.mean > 1.05 * counting and last.mean < 0.95 * first:
        return None  # it falls, or has at least
    if last.mean > 1.05 * counting:
        return Advice(
            "no fall",
            f"the loss hardly falls: {last.mean:.3g}, where knowing how often each token occurs would give "
            f"{counting:.3g}. The learning rate is too low: go on with --resume {higher_rate(config)}",
        )
    return Advice(
        "no fall",
        f"the loss stays at {last.mean:.3g}, which is what knowing how often each token occurs gives. The learning "
        f"rate is too high: begin again with {lower_rate(config)}, or is there no order in the text?",
    )


def plateau(blocks: Sequence[Block], config: ResolvedConfig) -> Advice | None:
    """The loss falls no more, although the rate is still high."""
    if sum(block.rate for block in blocks) < LATER:
        return None
    before, last = _last_quarters(blocks)
    if last.rate < 0.5 * last.steps or before.mean > 1.003 * last.mean:
        return None
    return Advice(
        "plateau",
        f"the loss has stayed at {last.mean:.3g} for {before.steps + last.steps:,} steps: more steps will not help; "
        "a larger model may (--model-size), or a shorter run, whose rate falls sooner",
    )


def constant_clipping(blocks: Sequence[Block], config: ResolvedConfig) -> Advice | None:
    """Every gradient is cut to a fraction."""
    if sum(block.rate for block in blocks) < 2 * SOON:
        return None
    recent = _sum(blocks[len(blocks) // 2 :])
    norm = math.exp(recent.log_norm / recent.steps)
    if recent.clipped < 0.99 * recent.steps or norm < 3 * config.max_grad_norm:
        return None
    return Advice(
        "constant clipping",
        f"all gradients are clipped, from a norm of about {norm:.2g} to {config.max_grad_norm:g}: clipping is there "
        f"for outliers; go on with --resume --max-grad-norm {2 * norm:.1g}",
    )


def overfitting(evaluations: Sequence[Sequence[float]], config: ResolvedConfig) -> Advice | None:
    """The loss on the validation text rises while that on the training text falls."""
    (best_step, best, training_then), *after = evaluations
    if len(after) < 2 or any(val_loss < 1.01 * best for _, val_loss, _ in after[-2:]):
        return None
    _, val_loss, training = after[-1]
    if training > 0.99 * training_then:
        return None
    return Advice(
        "overfitting",
        f"the validation loss has risen from {best:.4g} to {val_loss:.4g} since step {best_step:,} while the training "
        "loss fell: the model learns by heart; stop here (best.npz is from before), or train with more text, a "
        f"smaller model, --patience 2, --dropout 0.1 or --weight-decay {max(0.2, 2 * config.weight_decay):g}",
    )


def _last_quarters(blocks: Sequence[Block]) -> tuple[Block, Block]:
    """The third and the fourth quarter of what has been seen."""
    quarter = len(blocks) // 4
    return _sum(blocks[-2 * quarter : -quarter]), _sum(blocks[-quarter:])


def _sum(blocks: Sequence[Block]) -> Block:
    return Block(*map(sum, zip(*blocks, strict=True)))
