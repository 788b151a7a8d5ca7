"""The result of a run flows in; its summary and the commands that may follow come out."""

import shlex

from homespun.checkpoint.names import PLOT
from homespun.config import BUILT_IN_REWARDS, TrainConfig
from homespun.config.checked import flag, seconds
from homespun.planning.recipe import LIMITS
from homespun.records.events import TrainResult
from homespun.terminal import counted

OVERFITTING_RATIO = 1.01
"""If the last validation loss is above the best one times this, the model is memorizing the text."""


def headline(result: TrainResult, config: TrainConfig, was_complete: bool) -> str:
    """How a run ended, in a line; a run that `was_complete` had nothing left to do."""
    if _stopped(result):
        by = "" if result.stopped_by else f" ({result.ended_by})"
        if not result.steps:
            return f"Stopped before the first step{by}"
        saved = "and saved" if result.saved_step == result.steps else "and not saved"
        return f"Stopped at step {result.steps:,} {saved}{by}"
    limit = _flag(result.ended_by, getattr(config, result.ended_by))
    done = "This run is complete" if was_complete else "Done"
    return f"{done}: {counted(result.steps, 'step')} ({limit})"


def what_now(
    result: TrainResult, config: TrainConfig, is_complete: bool, *, answers: bool = False
) -> dict[str, str]:
    """The files of the run, and the commands that may follow; a run that `is_complete` has nothing left to do, and one
    of conversations `answers`."""
    resume, generate, chat = "homespun train --resume", "homespun generate", "homespun chat"
    if config.checkpoint_dir != TrainConfig.checkpoint_dir:
        resume += f" {_flag('checkpoint_dir', shlex.quote(config.checkpoint_dir))}"
        generate += f" {_flag('checkpoint', shlex.quote(config.checkpoint_dir))}"
        chat += f" {shlex.quote(config.checkpoint_dir)}"
    if config.reward is not None and config.reward not in BUILT_IN_REWARDS:
        resume += f" {_flag('reward', shlex.quote(config.reward))}"  # no file runs code by itself
    now = {}
    if result.best_val_loss is not None:
        now["best"] = f"validation loss {result.best_val_loss:.4f}, in {result.best}"
    if result.best_reward is not None:
        now["best"] = f"reward {result.best_reward:.3f} on held-out prompts, in {result.best}"
    if (picture := result.checkpoint_dir / PLOT).exists():
        now["curves"] = str(picture)
    if is_complete:
        now["try it"] = chat if answers else f"{generate} --interactive"
    elif result.saved_step:
        now["resume"] = resume
    if not _stopped(result) and not _trained_enough(result, config):
        now["longer"] = f"{resume} {_twice(result.ended_by, config)}"
    return now


def _stopped(result: TrainResult) -> bool:
    """Whether a signal or a listener ended the run before its limits."""
    return result.ended_by not in (*LIMITS, "patience")


def _trained_enough(result: TrainResult, config: TrainConfig) -> bool:
    """Whether a longer run would hardly help: the loss stopped falling, or the text has been seen too often."""
    if result.ended_by == "patience" or (result.ended_by == "max_epochs" and config.time_budget):
        return True
    last, best = result.val_loss, result.best_val_loss
    return last is not None and best is not None and last > OVERFITTING_RATIO * best


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
