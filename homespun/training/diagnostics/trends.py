"""Steps and evaluations flow in; findings about the course of the run over hundreds of steps come out, with advice.

The state is plain numbers, stored with each checkpoint. It does not depend on the log interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from homespun.checkpoint.stored_values import Signed
from homespun.data.batch import Tokens
from homespun.engine.base import StepResult
from homespun.planning.resolved import ResolvedConfig
from homespun.training.diagnostics.step_guard import Finding, higher_rate, lower_rate

MAX_BLOCKS = 64
"""The whole run is kept as at most so many blocks; when they are full, each two become one."""
FIRST_BLOCK_STEPS = 10
"""Steps of a block at the start of a run."""

CERTAIN_ERRORS = 5.0
"""Two means that differ by so many standard errors do not differ by chance."""
EARLY_STEPS, LATE_STEPS = 100, 600
"""Steps at the full rate (or more at lower rates) after which a loss should have begun to fall, and may stay."""
MIN_TOKENS = 25_000
"""Tokens at the full rate with which a model learns more than token frequencies, in however many steps."""
COUNTED_TOKENS = 1_000_000
"""Tokens of the text from which token frequencies are counted."""

LEAST_RISE = 0.05
"""Relative rise that counts. The loss of a memorized text rises a little when the next pass cuts it into other windows.
"""
REWARMING_RISE = 0.2
"""The same for a run that goes on from a trained model, whose rate had decayed. The loss rises with the rate and falls
when it decays again (Gupta et al. 2023, "Continual Pre-Training of Large Language Models: How to (re)warm your
model?")."""

SLOW = "slow fall"
"""The cause of a loss that falls all the time, and is still far too high."""
OVERSHOOT = "overshoot"
"""The cause of a loss that rose in the first steps, and fell when the learning rate did."""
NO_GAIN = "no gain"
"""The cause of a run that has made the model worse with which it began."""
OVERSHOOT_RISE = 0.1
"""Relative rise above the loss of the first step."""
UNLIKE_RATIO = 1.3
"""In the first pass over a text, validation and training loss differ by less."""


class Block(NamedTuple):
    """Consecutive steps: their number, and sums over them."""

    steps: int = 0
    loss: float = 0.0
    square: float = 0.0
    clipped: float = 0.0
    log_norm: Signed = 0.0
    """Logarithm of the gradient norm before clipping."""
    rate: float = 0.0
    """Learning rate as a fraction of its peak."""

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

    def is_possible(self) -> bool:
        """Whether steps can have these sums: a rate is at most 1, and a norm is a number of the machine."""
        return (
            max(self.clipped, self.rate) <= 1.001 * self.steps
            and abs(self.log_norm) <= 700 * self.steps
        )


@dataclass
class TrendWatch:
    """The course of a run since its learning rates, its clipping and its dropout last changed. `position` maps the
    stored names."""

    settings: list[float] = field(default_factory=list)
    unigram_loss: float = 0.0
    """Loss of a model that knows the token frequencies only, in nats."""
    first_loss: float = 0.0
    """Loss of the first step."""
    block_steps: int = FIRST_BLOCK_STEPS
    blocks: list[Block] = field(default_factory=list)
    current_block: Block = field(default_factory=Block)
    """The block that is not full yet."""
    since_evaluation: Block = field(default_factory=Block)
    """The steps since the last evaluation."""
    evaluations: list[tuple[int, float, float]] = field(default_factory=list)
    """The best one and the last two after it: step, validation loss, and mean training loss since the one before."""
    advised_at: dict[str, int] = field(default_factory=dict)
    """The step of the last finding, by cause."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: no run has these blocks.
        """
        short = self.block_steps == FIRST_BLOCK_STEPS or len(self.blocks) >= MAX_BLOCKS // 2
        if not short or len(self.blocks) >= MAX_BLOCKS:
            raise ValueError(f"{len(self.blocks)} blocks of {self.block_steps} steps")
        whole = all(block.steps == self.block_steps for block in self.blocks)
        parts = [*self.blocks, self.current_block, self.since_evaluation]
        if not whole or not all(block.is_possible() for block in parts):
            raise ValueError("impossible sums over steps")

    def begin(self, config: ResolvedConfig, unigram_loss: float) -> "TrendWatch":
        """This watch, or a new one if a resumed run has other settings, to which the earlier steps do not apply."""
        settings = [config.learning_rate, config.muon_learning_rate, config.max_grad_norm]
        settings.append(config.dropout)
        known = len(self.settings)  # earlier versions did not store the dropout
        if known and settings[:known] == self.settings:
            self.settings = settings
            return self
        return TrendWatch(settings, unigram_loss)

    def observe_step(
        self, step: int, result: StepResult, rate: float, config: ResolvedConfig
    ) -> list[Finding]:
        """Count a step that was applied; `rate` is the fraction of the peak learning rate."""
        loss, norm = result.loss, max(result.grad_norm, 1e-30)
        if not self.blocks and not self.current_block.steps:
            self.first_loss = loss
        values = Block(1, loss, loss**2, result.clipped, math.log(norm), rate)
        self.current_block, self.since_evaluation = (
            _sum([self.current_block, values]),
            _sum([self.since_evaluation, values]),
        )
        if self.current_block.steps < self.block_steps:
            return []
        self.blocks.append(self.current_block)
        self.current_block = Block()
        if len(self.blocks) == MAX_BLOCKS:
            self.blocks = [
                _sum(pair) for pair in zip(self.blocks[::2], self.blocks[1::2], strict=True)
            ]
            self.block_steps *= 2
        course = (
            divergence(self.blocks, self.first_loss, config)
            or stuck(self.blocks, self.first_loss, self.unigram_loss, config)
            or plateau(self.blocks, config)
        )
        return self._new_findings(step, [course, constant_clipping(self.blocks, config)])

    def observe_evaluation(
        self, step: int, val_loss: float, config: ResolvedConfig
    ) -> list[Finding]:
        """Count an evaluation."""
        if not self.since_evaluation.steps or not math.isfinite(val_loss):
            return []
        self.evaluations.append((step, val_loss, self.since_evaluation.mean))
        self.since_evaluation = Block()
        best = min(self.evaluations, key=lambda evaluation: evaluation[1])
        after = [evaluation for evaluation in self.evaluations if evaluation[0] > best[0]]
        self.evaluations = [best, *after[-2:]]
        if not self.advised_at.keys().isdisjoint(("divergence", "no fall")):
            return []  # the validation loss has the same cause
        return self._new_findings(step, [overfitting(self.evaluations, config)])

    def _new_findings(self, step: int, found: Sequence[Finding | None]) -> list[Finding]:
        """The findings, without those whose cause was found when the run was more than a quarter as old."""
        new = [
            finding
            for finding in found
            if finding and step >= 4 * self.advised_at.get(finding.cause, 0)
        ]
        self.advised_at |= {finding.cause: step for finding in new}
        return new


def unigram_loss(targets: Tokens) -> float:
    """The loss, in nats, of a model that knows the frequencies of the targets only."""
    _, counts = np.unique(targets, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def divergence(blocks: Sequence[Block], first: float, config: ResolvedConfig) -> Finding | None:
    """The loss has risen and does not fall again."""
    if len(blocks) < 3:
        return None
    best, last = min(blocks[:-2], key=lambda block: block.mean), _sum(blocks[-2:])
    if best.mean > first and last.mean - first > 0.2 * first + 3 * last.deviation:
        best = Block(1, first)  # it rose from the first step on
    rise, fall = last.mean - best.mean, blocks[0].mean - best.mean
    least = REWARMING_RISE if _goes_on(config) else LEAST_RISE
    if rise < max(
        CERTAIN_ERRORS * math.hypot(best.error, last.error), least * best.mean, 0.1 * fall
    ):
        return None
    return Finding(
        "divergence",
        f"the loss has risen from {best.mean:.3g} to {last.mean:.3g}: the learning rate is too high; "
        f"continue with --resume {lower_rate(config)} (or start again with it and more --warmup-steps)",
    )


def stuck(
    blocks: Sequence[Block], first: float, unigram_loss: float, config: ResolvedConfig
) -> Finding | None:
    """The loss is no better than with token frequencies only, and hardly falls."""
    at_full_rate = sum(block.rate for block in blocks)
    if at_full_rate < EARLY_STEPS or at_full_rate * config.tokens_per_step < MIN_TOKENS:
        return None
    before, last = _last_quarters(blocks)
    fall = (
        before.mean - last.mean + 2 * math.hypot(before.error, last.error)
    )  # the largest likely fall
    if last.mean < 0.97 * unigram_loss or fall > 0.02 * last.mean:
        return None
    if last.mean > 1.05 * unigram_loss and last.mean < 0.95 * first:
        return None  # it falls, or did fall
    if last.mean > 1.05 * unigram_loss:
        return Finding(
            "no fall",
            f"the loss hardly falls: {last.mean:.3g}, while token frequencies alone would give "
            f"{unigram_loss:.3g}. The learning rate is too low: continue with --resume {higher_rate(config)}",
        )
    return Finding(
        "no fall",
        f"the loss stays at {last.mean:.3g}, no better than token frequencies alone. The learning rate is too high: "
        f"start again with {lower_rate(config)}. (Or the text is random.)",
    )


def slow_fall(
    blocks: Sequence[Block], first: float, unigram_loss: float, config: ResolvedConfig
) -> Finding | None:
    """The loss falls, and after so many steps is still no better than with token frequencies only."""
    at_full_rate = sum(block.rate for block in blocks)
    if at_full_rate < 2 * EARLY_STEPS or at_full_rate * config.tokens_per_step < 4 * MIN_TOKENS:
        return None
    before, last = _last_quarters(blocks)
    if last.mean < 0.97 * unigram_loss or last.mean > first or before.mean < last.mean:
        return None
    early = min(block.mean for block in blocks[: len(blocks) // 2])
    if early < 1.05 * unigram_loss:
        return Finding(
            "no fall",
            f"the loss soon fell to {early:.3g} and is at {last.mean:.3g} now, no better than token frequencies alone. "
            f"The learning rate is too high: start again with {lower_rate(config)}. (Or the text is random.)",
        )
    return Finding(
        SLOW,
        f"the loss falls too slowly: from {first:.3g} to {last.mean:.3g} in {sum(b.steps for b in blocks):,} steps, "
        f"while token frequencies alone would give {unigram_loss:.3g}. The learning rate is too low: start again "
        f"with {higher_rate(config)}",
    )


def overshoot(blocks: Sequence[Block], first: float, config: ResolvedConfig) -> Finding | None:
    """The first steps made the model worse than it was at the start."""
    early = blocks[: max(1, len(blocks) // 4)]
    worst = max(early, key=lambda block: block.mean)
    if worst.mean < (1 + (REWARMING_RISE if _goes_on(config) else OVERSHOOT_RISE)) * first:
        return None
    return Finding(
        OVERSHOOT,
        f"the loss rose from {first:.3g} to {worst.mean:.3g} in the first steps, and later fell to "
        f"{blocks[-1].mean:.3g}: the learning rate is too high; start again with {lower_rate(config)} "
        "(or more --warmup-steps)",
    )


def plateau(blocks: Sequence[Block], config: ResolvedConfig) -> Finding | None:
    """The loss has stopped falling, although the rate is still high."""
    if sum(block.rate for block in blocks) < LATE_STEPS:
        return None
    before, last = _last_quarters(blocks)
    if last.rate < 0.5 * last.steps or before.mean > 1.003 * last.mean:
        return None
    return Finding(
        "plateau",
        f"the loss has stayed at {last.mean:.3g} for {before.steps + last.steps:,} steps: more steps will not help; "
        "a larger model may (--model-size), or a shorter run, in which the rate falls sooner",
    )


def constant_clipping(blocks: Sequence[Block], config: ResolvedConfig) -> Finding | None:
    """Every gradient is clipped to a fraction of its norm."""
    if sum(block.rate for block in blocks) < 2 * EARLY_STEPS:
        return None
    recent = _sum(blocks[len(blocks) // 2 :])
    norm = math.exp(recent.log_norm / recent.steps)
    if recent.clipped < 0.99 * recent.steps or norm < 3 * config.max_grad_norm:
        return None
    return Finding(
        "constant clipping",
        f"all gradients are clipped, from a norm of about {norm:.2g} to {config.max_grad_norm:g}: only outliers "
        f"should be; continue with --resume --max-grad-norm {2 * norm:.1g}",
    )


def overfitting(evaluations: Sequence[Sequence[float]], config: ResolvedConfig) -> Finding | None:
    """The validation loss rises while the training loss falls."""
    (best_step, best, training_then), *after = evaluations
    if len(after) < 2 or any(val_loss < 1.01 * best for _, val_loss, _ in after[-2:]):
        return None
    _, val_loss, training = after[-1]
    if training > 0.99 * training_then:
        return None
    return Finding(
        "overfitting",
        f"the validation loss has risen from {best:.4g} to {val_loss:.4g} since step {best_step:,} while the training "
        "loss fell: the model memorizes the text; stop here (best.npz is from before), or train with more text, a "
        f"smaller model, --patience 2, --dropout 0.1 or --weight-decay {max(0.2, 2 * config.weight_decay):g}",
    )


def unlike_validation(evaluations: Sequence[Sequence[float]], passes: float) -> Finding | None:
    """The validation loss is far above the training loss, before the model can have memorized anything."""
    step, val_loss, training = evaluations[-1]
    if passes > 1 or val_loss < UNLIKE_RATIO * training:
        return None
    return Finding(
        "bad text",
        f"the validation loss is {val_loss:.4g} at step {step:,.0f} and the training loss {training:.4g}, in the first "
        "pass over the text, where a model cannot memorize: the two parts of the text are of different kinds, or one "
        "of them has much that is repeated or random. Look at the text, and start again with a cleaner one "
        "(--data-file)",
    )


def no_gain(
    evaluations: Sequence[tuple[int, float]], rate: float, config: ResolvedConfig
) -> Finding | None:
    """A run that began with a trained model has only made it worse, although its rate has decayed.

    Args:
        evaluations: step and validation loss; the first is that of the model at step 0.
        rate: the present fraction of the peak learning rate.
    """
    (first_step, before), *after = evaluations
    if first_step > 0 or len(after) < 3 or rate > 0.5:
        return None
    if min(val_loss for _, val_loss in after) <= before:
        return None
    step, now = after[-1]
    return Finding(
        NO_GAIN,
        f"the validation loss was {before:.4g} at the start and is {now:.4g} at step {step:,}, and never was lower: "
        "the learning rate is too high for a trained model, or it knows this text already; start again with "
        f"{lower_rate(config)}, or keep the model that the run began with",
    )


def _goes_on(config: ResolvedConfig) -> bool:
    """Whether the run began with a trained model."""
    return config.init_from is not None or config.lora_rank is not None


def _last_quarters(blocks: Sequence[Block]) -> tuple[Block, Block]:
    """The third and the fourth quarter of the run."""
    quarter = len(blocks) // 4
    return _sum(blocks[-2 * quarter : -quarter]), _sum(blocks[-quarter:])


def _sum(blocks: Sequence[Block]) -> Block:
    return Block(*map(sum, zip(*blocks, strict=True)))
