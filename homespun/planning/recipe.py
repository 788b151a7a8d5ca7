"""Fills in the settings that the user left open: with a preset the usual ones, else a recipe for the data and the time.

A config with gaps and facts about data and machine flow in; a model shape and a config without gaps come out.
"""

import dataclasses
import math
from typing import Any

from homespun.architectures.presets import preset, shaped
from homespun.config import ModelConfig, TrainConfig
from homespun.config.checked import seconds
from homespun.errors import UserError
from homespun.planning.estimate import (
    CHECKS_PER_RUN,
    EVALUATION_COST,
    MAX_EVALUATION_SHARE,
    expected_seconds_per_step,
    expected_tokens_per_second,
)
from homespun.planning.new_model import limit_memorizing, settings_of_new, size_for
from homespun.planning.resolved import (
    DEFAULT_EPOCHS,
    DEFAULT_TIME_BUDGET,
    SHORT_EVAL_TOKENS,
    Plan,
    ResolvedConfig,
    given_settings,
)
from homespun.planning.trained_model import Initial, settings_of_trained
from homespun.terminal import counted

LIMITS = ("max_epochs", "max_steps", "time_budget")
SHAPE = (
    *("architecture", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff"),
    *("experts", "experts_per_token", "d_expert", "dense_layers"),
)

MIN_SECONDS_TO_COMPILE = 600.0
"""Shorter runs are not compiled by a C++ compiler: compiling takes half a minute, and the gain depends on model and
processor (benchmarks/training.py)."""


def plan(
    config: TrainConfig,
    *,
    vocab_size: int,
    n_samples: int,
    flops_per_second: float,
    compiles_at_once: bool = False,
    initial: Initial | None = None,
) -> Plan:
    """Choose every setting that is left open.

    Args:
        vocab_size: of the tokenizer. It may be smaller than `config.vocab_size`.
        n_samples: samples of `config.seq_len` tokens in the training text.
        flops_per_second: of large matrix products on this machine, in the precision of the run.
        compiles_at_once: compiling takes no time, so that even a short run profits from it.
        initial: a trained model from which the run goes on.

    Raises:
        UserError: settings that contradict each other or the data.
    """
    check_step_fits(least_sequences_per_step(config), config.seq_len, n_samples)
    config, base, defaults = _defaults(config, vocab_size, n_samples, flops_per_second, initial)
    if initial is not None:
        vocab_size = initial.shape.vocab_size
    resolved = dataclasses.replace(defaults, **given_settings(config) | {"vocab_size": vocab_size})
    limits = step_limits(resolved, n_samples).values()
    if config.warmup_steps is None and resolved.warmup_steps and limits:
        warmup_steps = min(resolved.warmup_steps, max(1, min(limits) // 2))
        resolved = dataclasses.replace(resolved, warmup_steps=warmup_steps)
    model = (
        initial.shape
        if initial
        else shaped(
            base, {name: getattr(resolved, name) for name in (*SHAPE, "vocab_size", "seq_len")}
        )
    )
    in_training = Plan(model, resolved).in_training
    if config.model_size is None and initial is None:
        seen = expected_passes(in_training, resolved, n_samples, flops_per_second)
        resolved = dataclasses.replace(resolved, **limit_memorizing(config, seen))
    steps = expected_steps(in_training, resolved, n_samples, flops_per_second)
    resolved = dataclasses.replace(
        resolved, **records_of(config, resolved, steps, goes_on=initial is not None)
    )
    check_step_fits(resolved.sequences_per_step, config.seq_len, n_samples)
    if resolved.compile == "auto":
        expected = expected_seconds(in_training, resolved, n_samples, flops_per_second)
        resolved = dataclasses.replace(
            resolved,
            compile="on" if compiles_at_once or expected >= MIN_SECONDS_TO_COMPILE else "off",
        )
    if resolved.memory == "low":
        resolved = dataclasses.replace(resolved, gradient_checkpointing=True)
    if not config.learns_text and config.compile == "auto":
        resolved = dataclasses.replace(
            resolved,
            compile="off",  # the rows of its batches differ in length, and each length is compiled
        )
    return Plan(model, resolved)


def _defaults(
    config: TrainConfig,
    vocab_size: int,
    n_samples: int,
    flops_per_second: float,
    initial: Initial | None,
) -> tuple[TrainConfig, ModelConfig, ResolvedConfig]:
    """The config with a limit, the model to start from, and the settings for all that the config leaves open."""
    unlimited = all(getattr(config, name) is None for name in LIMITS)
    if config.model_size is not None:
        base = preset(config.model_size)
        if unlimited:
            config = dataclasses.replace(config, max_epochs=DEFAULT_EPOCHS)
        return config, base, ResolvedConfig()
    if unlimited:
        config = dataclasses.replace(config, time_budget=DEFAULT_TIME_BUDGET)
    if initial is not None:
        chosen = settings_of_trained(config, initial, n_samples, flops_per_second)
        return config, initial.shape, chosen
    time = seconds(config.time_budget or DEFAULT_TIME_BUDGET)
    size = size_for(time, flops_per_second, vocab_size, n_samples, config.seq_len)
    return config, preset(size.preset), settings_of_new(config, size, n_samples)


def least_sequences_per_step(config: TrainConfig) -> int:
    """The smallest step that `plan` may choose."""
    open_batch = 1 if config.model_size is None else ResolvedConfig.batch_size
    return (config.batch_size or open_batch) * (config.grad_accumulation_steps or 1)


def check_step_fits(sequences_per_step: int, seq_len: int, n_samples: int) -> None:
    """Make sure that the training text fills one step.

    Raises:
        UserError: it has fewer samples than a step takes.
    """
    if sequences_per_step > n_samples:
        raise UserError(
            f"a step takes {counted(sequences_per_step, 'sequence')} of {seq_len} tokens, but the training text "
            f"has only {n_samples:,}: lower --batch-size or --seq-len, or give more text"
        )


def step_limits(config: ResolvedConfig, n_samples: int) -> dict[str, int]:
    """The limits that are numbers of steps, by the name of their setting, the nearest first."""
    limits = {}
    if config.max_steps is not None:
        limits["max_steps"] = config.max_steps
    if config.max_epochs is not None:
        steps = math.ceil(config.max_epochs * n_samples / config.sequences_per_step)
        limits["max_epochs"] = max(1, steps)
    return dict(sorted(limits.items(), key=lambda item: item[1]))


def expected_seconds(
    model: ModelConfig, config: ResolvedConfig, n_samples: int, flops_per_second: float
) -> float:
    """Estimated duration of a run whose limits are chosen."""
    limits = [seconds(config.time_budget)] if config.time_budget else []
    per_step = expected_seconds_per_step(model, config.tokens_per_step, flops_per_second)
    limits += [steps * per_step for steps in step_limits(config, n_samples).values()]
    return min(limits)


def expected_passes(
    model: ModelConfig, config: ResolvedConfig, n_samples: int, flops_per_second: float
) -> float:
    """Estimated number of passes of a run over its text."""
    speed = expected_tokens_per_second(model, flops_per_second)
    tokens = speed * expected_seconds(model, config, n_samples, flops_per_second)
    return tokens / (n_samples * config.seq_len)


def expected_steps(
    model: ModelConfig, config: ResolvedConfig, n_samples: int, flops_per_second: float
) -> int:
    """Estimated number of steps of a run whose limits are chosen."""
    per_step = expected_seconds_per_step(model, config.tokens_per_step, flops_per_second)
    limits = [*step_limits(config, n_samples).values()]
    if config.time_budget:
        limits.append(int(seconds(config.time_budget) / per_step))
    return min(limits)


LINES_PER_RUN = 10
"""A short run has at least so many lines of metrics, or one for each step."""
LEAST_EVALUATIONS = 8
"""A short run takes the largest part of the validation text that it can evaluate so often."""


def records_of(
    config: TrainConfig, resolved: ResolvedConfig, steps: int, *, goes_on: bool
) -> dict[str, Any]:
    """The intervals of a run of about so many steps, except those that the user has given: short runs have enough
    lines and evaluations to show their course.

    An evaluation is of a fixed part of the validation text, the smaller the shorter the run. A run that goes on from a
    model has its own rule for the part.
    """
    settings: dict[str, Any] = {}
    if config.log_interval is None:
        settings["log_interval"] = min(resolved.log_interval, max(1, steps // LINES_PER_RUN))
    if config.eval_interval is not None:
        return settings
    if goes_on and config.learns_text:
        return settings | {"eval_interval": max(1, steps // CHECKS_PER_RUN)}
    usual = resolved.eval_interval
    if usual is not None and steps >= CHECKS_PER_RUN * usual:
        return settings
    settings["eval_interval"] = None  # tenths of the run
    if config.eval_tokens is None and resolved.eval_tokens > min(SHORT_EVAL_TOKENS):
        affordable = MAX_EVALUATION_SHARE * steps * resolved.tokens_per_step
        sizes = [*SHORT_EVAL_TOKENS, resolved.eval_tokens]
        fitting = [n for n in sizes if LEAST_EVALUATIONS * EVALUATION_COST * n <= affordable]
        settings["eval_tokens"] = max([sizes[0], *fitting])
    return settings
