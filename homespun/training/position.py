"""Where a run stands: plain numbers, which a checkpoint holds as JSON."""

from dataclasses import dataclass, field
from typing import Any

from homespun.training.watch.advice import TrendWatch
from homespun.training.watch.guard import StepGuard


@dataclass
class Window:
    """The steps since the last line of metrics."""

    steps: int = 0
    clipped: int = 0
    seconds: float = 0.0


@dataclass
class Position:
    """Where a run stands: with weights and moments, all that it needs to go on."""

    step: int = 0
    next_sample: int = 0
    tokens: int = 0
    training_seconds: float = 0.0
    """Of steps alone."""
    elapsed_seconds: float = 0.0
    """With evaluating, sampling and saving: what a time budget counts."""
    evaluated_at: int = 0
    """The step of the last evaluation."""
    sampled_at: int = 0
    """The step of the last sample texts."""
    guard: StepGuard = field(default_factory=StepGuard)
    watch: TrendWatch = field(default_factory=TrendWatch)
    window: Window = field(default_factory=Window)

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "Position":
        """The inverse of `dataclasses.asdict`."""
        guard = dict(values["guard"])
        guard.pop("best_step", None)  # stored by earlier versions
        watch = TrendWatch.restored(values["watch"]) if "watch" in values else TrendWatch()
        parts = {"guard": StepGuard(**guard), "watch": watch, "window": Window(**values["window"])}
        return cls(**values | parts)
