"""Where a run stands and how it ended: plain numbers, which a checkpoint holds as JSON."""

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homespun.training.guard import Guard


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
    guard: Guard = field(default_factory=Guard)
    window: Window = field(default_factory=Window)

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "Position":
        """The inverse of `dataclasses.asdict`."""
        return cls(
            **{**values, "guard": Guard(**values["guard"]), "window": Window(**values["window"])}
        )


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    checkpoint_dir: Path
    steps: int
    ended_by: str
    """max_epochs, max_steps, time_budget, patience, or the name of the signal that stopped it."""
    val_loss: float | None
    """At the end, in nats per token; None where the run was stopped before."""
    best_val_loss: float | None
    stopped_by: signal.Signals | None

    @property
    def best(self) -> Path:
        """The weights with the lowest validation loss."""
        return self.checkpoint_dir / "best.npz"
