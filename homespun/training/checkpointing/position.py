"""The position of a run: plain numbers that a checkpoint holds as JSON, so that a resumed run continues bit for bit."""

import dataclasses
from dataclasses import astuple, dataclass, field
from typing import Any

from homespun.checkpoint.stored_values import Signed, restored
from homespun.training.diagnostics.experts import ExpertWatch, Rows
from homespun.training.diagnostics.step_guard import StepGuard
from homespun.training.diagnostics.trends import TrendWatch

NEVER = -1
"""In place of the step of the last evaluation, where a run begins with an evaluation."""

STORED_NAMES = {
    "unigram_loss": "counting",
    "first_loss": "first",
    "current_block": "now",
    "since_evaluation": "at_evaluation",
    "advised_at": "said_at",
}
"""Fields of `TrendWatch` that have other names in checkpoints, whose format does not change."""


@dataclass
class AnswerSums:
    """Sums over sampled answers, in a run with a reward."""

    groups: int = 0
    skipped: int = 0
    """Groups whose answers all have the same score."""
    answers: int = 0
    tokens: int = 0
    unfinished: int = 0
    """Answers that were cut off."""
    distinct: int = 0
    """Answers that differ from all others of their group, where equal ones count once."""
    reward: Signed = 0.0
    square: float = 0.0
    """Of the rewards."""
    scored_tokens: int = 0
    """Tokens of the groups that were not skipped, to which the next two sums belong."""
    log_probability: Signed = 0.0
    divergence: float = 0.0
    """From the initial model."""
    updated_tokens: int = 0
    """Tokens in all updates."""
    clipped: int = 0
    """Those whose ratio was clipped."""


@dataclass
class PairSums:
    """Sums over pairs, in a run with preferences."""

    pairs: int = 0
    right: float = 0.0
    """Pairs whose better answer has the higher reward; a tie counts half."""
    chosen: Signed = 0.0
    """Rewards of the better answers."""
    rejected: Signed = 0.0
    """Those of the others."""
    tokens: int = 0
    """Of all answers."""

    def plus(self, other: "PairSums") -> "PairSums":
        """The sums of both."""
        return PairSums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class Window:
    """The steps since the last line of metrics."""

    steps: int = 0
    clipped: int = 0
    seconds: float = 0.0
    experts: Rows = field(default_factory=list)
    """Sums of the use of the experts over the steps that were applied."""
    with_experts: int = 0
    """The number of these steps."""
    loss: Signed = 0.0
    """Sum over the steps that were applied."""
    applied: int = 0
    """The number of the steps in this sum. Earlier versions stored neither; the mean then begins with the resume."""
    answers: AnswerSums = field(default_factory=AnswerSums)
    pairs: PairSums = field(default_factory=PairSums)


@dataclass
class Position:
    """All that a run needs to continue, besides weights and moments."""

    step: int = 0
    next_sample: int = 0
    next_replayed: int | None = None
    """The next sample of the earlier text, in a run with a reward and replay; None before the first one."""
    tokens: int = 0
    epoch: float = 0.0
    """Passes over the training text."""
    training_seconds: float = 0.0
    """Of the steps alone."""
    elapsed_seconds: float = 0.0
    """With evaluations, samples and checkpoints; a time budget counts these."""
    evaluated_at: int = 0
    """The step of the last evaluation, or `NEVER`."""
    sampled_at: int = 0
    """The step of the last sample texts."""
    prompts_done: int = 0
    """The prompts of this step's sample texts that are done, where a stop has left the others."""
    guard: StepGuard = field(default_factory=StepGuard)
    watch: TrendWatch = field(default_factory=TrendWatch)
    window: Window = field(default_factory=Window)
    experts: ExpertWatch = field(default_factory=ExpertWatch)

    def stored(self) -> dict[str, Any]:
        """The values that a checkpoint holds."""
        values = dataclasses.asdict(self)
        watch = values["watch"]
        values["watch"] = {STORED_NAMES.get(name, name): value for name, value in watch.items()}
        return values

    @classmethod
    def restored(cls, values: Any) -> "Position":
        """The inverse of `stored`, after conversion to JSON and back.

        Raises:
            ValueError: these are not the values of a position.
        """
        if isinstance(values, dict):
            values = dict(values)
            if isinstance(guard := values.get("guard"), dict):
                # "best_step" was stored by earlier versions
                values["guard"] = {
                    name: value for name, value in guard.items() if name != "best_step"
                }
            if isinstance(watch := values.get("watch"), dict):
                names = {stored: name for name, stored in STORED_NAMES.items()}
                values["watch"] = {names.get(name, name): value for name, value in watch.items()}
        return restored(cls, values, "position")
