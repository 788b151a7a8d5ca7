"""How a run ended in, what its owner is told out: what it reached, where it lies, and what to type next."""

import shlex
import signal
from dataclasses import dataclass
from pathlib import Path

from homespun.checkpoint.folder import BEST
from homespun.config import TrainConfig
from homespun.config.checked import flag, seconds

PLOT = "training.png"
WORSE = 1.01
"""Times the best validation loss: a last one above that says that the text is being learned by heart."""


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
        return self.checkpoint_dir / BEST[0]


def headline(result: TrainResult, config: TrainConfig, was_complete: bool) -> str:
    """What ended a run, and where; a run that `was_complete` had nothing left to do."""
    if result.stopped_by and not result.steps:
        return "Stopped before the first step"
    if result.stopped_by:
        return f"Stopped at step {result.steps:,} and saved"
    limit = _flag(result.ended_by, getattr(config, result.ended_by))
    done = "This run is complete" if was_complete else "Done"
    return f"{done}: {result.steps:,} steps ({limit})"


def what_now(result: TrainResult, config: TrainConfig) -> dict[str, str]:
    """What the run has left, and the commands that one may want next."""
    resume, generate = "homespun train --resume", "homespun generate"
    if config.checkpoint_dir != TrainConfig.checkpoint_dir:
        resume += f" {_flag('checkpoint_dir', shlex.quote(config.checkpoint_dir))}"
        generate += f" {_flag('checkpoint', shlex.quote(config.checkpoint_dir))}"
    now = {}
    if result.best_val_loss is not None:
        now["best"] = f"validation loss {result.best_val_loss:.4f}, in {result.best}"
    if (picture := result.checkpoint_dir / PLOT).exists():
        now["curves"] = str(picture)
    if result.stopped_by and result.steps:
        now["go on"] = resume
    elif not result.stopped_by:
        now["try it"] = f"{generate} --interactive"
        if not _has_enough(result, config):
            now["train on"] = f"{resume} {_twice(result.ended_by, config)}"
    return now


def _has_enough(result: TrainResult, config: TrainConfig) -> bool:
    """Whether a longer run would hardly help: it got no better, or has seen its text too often."""
    if result.ended_by == "patience" or (result.ended_by == "max_epochs" and config.time_budget):
        return True
    last, best = result.val_loss, result.best_val_loss
    return last is not None and best is not None and last > WORSE * best


def _twice(limit: str, config: TrainConfig) -> str:
    """The flag for a run twice as long."""
    value = getattr(config, limit)
    if limit != "time_budget":
        return _flag(limit, 2 * value)
    time = 2 * seconds(value)
    units = {3600: "h", 60: "m"}
    size = next((size for size in units if time % size == 0), 1)
    return _flag(limit, f"{time / size:.15g}{units.get(size, 's')}")


def _flag(name: str, value: str | float) -> str:
    return f"{flag(name)} {value if isinstance(value, str) else f'{value:.15g}'}"
