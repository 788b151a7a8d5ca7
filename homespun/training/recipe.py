"""Fills in what the user left open: with a preset the usual settings, without one a recipe for the data and the time.

A config with gaps, and facts of the data and the machine in; a model shape and a config without gaps out.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from homespun.config import ModelConfig, TrainConfig, seconds
from homespun.errors import UserError
from homespun.model.presets import preset, shaped
from homespun.model.spec import flops_per_token

LIMITS = ("max_epochs", "max_steps", "time_budget")
SHAPE = ("architecture", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff")

DEFAULT_TIME_BUDGET = "10m"
DEFAULT_EPOCHS = 10.0
WORTH_COMPILING = 600.0
"""Seconds that a run has to take: compiling costs half a minute, and gains 10 to 25% (benchmarks/engine.py)."""
UTILISATION = 0.4
"""Share of a machine's peak speed that training reaches."""


@dataclass(frozen=True)
class Plan:
    """A run with nothing left open."""

    model: ModelConfig
    config: TrainConfig


def plan(
    config: TrainConfig, *, vocab_size: int, n_training_tokens: int, flops_per_second: float
) -> Plan:
    """Settle every open setting.

    Args:
        flops_per_second: of large matrix products on this machine, in the precision of the run.

    Raises:
        UserError: settings that contradict each other or the data.
    """
    n_samples = (n_training_tokens - 1) // config.seq_len
    if n_samples < 1:
        raise UserError(
            f"the training text has {n_training_tokens:,} tokens, too few for one sample of --seq-len "
            f"{config.seq_len}: give more text or a shorter --seq-len"
        )
    if config.vocab_size not in (None, vocab_size):
        raise UserError(
            f"--vocab-size is {config.vocab_size:,}, but the tokenizer has {vocab_size:,} tokens: leave the flag out, "
            f"or train a tokenizer of that size (homespun tokenizer --vocab-size {config.vocab_size})"
        )
    by_preset = config.model_size is not None
    unlimited = all(getattr(config, name) is None for name in LIMITS)
    if by_preset:
        base = preset(config.model_size or "")
        defaults = USUAL | ({"max_epochs": DEFAULT_EPOCHS} if unlimited else {})
    else:
        if unlimited:
            config = dataclasses.replace(config, time_budget=DEFAULT_TIME_BUDGET)
        size = _size_for(seconds(config.time_budget or DEFAULT_TIME_BUDGET), flops_per_second)
        base = preset(size.preset)
        defaults = _recipe(config, size, n_samples)
    open_settings: dict[str, Any] = {
        name: value for name, value in defaults.items() if getattr(config, name) is None
    }
    config = dataclasses.replace(config, vocab_size=vocab_size, **open_settings)
    shape = {name: getattr(config, name) for name in SHAPE}
    model = shaped(base, {**shape, "vocab_size": vocab_size, "seq_len": config.seq_len})
    batch = (config.batch_size or 1) * (config.grad_accumulation_steps or 1)
    if batch > n_samples:
        raise UserError(
            f"a step takes {batch:,} sequences of {config.seq_len} tokens, but the training text has only "
            f"{n_samples:,}: lower --batch-size or --seq-len, or give more text"
        )
    if config.compile == "auto":
        expected = expected_seconds(model, config, n_samples, flops_per_second)
        config = dataclasses.replace(config, compile="on" if expected >= WORTH_COMPILING else "off")
    return Plan(model, config)


def step_limits(config: TrainConfig, n_samples: int) -> dict[str, int]:
    """The limits that are numbers of steps, by the name of their setting, the nearest first."""
    limits = {}
    if config.max_steps is not None:
        limits["max_steps"] = config.max_steps
    if config.max_epochs is not None:
        per_step = (config.batch_size or 1) * (config.grad_accumulation_steps or 1)
        limits["max_epochs"] = max(1, math.ceil(config.max_epochs * n_samples / per_step))
    return dict(sorted(limits.items(), key=lambda item: item[1]))


def expected_seconds(
    model: ModelConfig, config: TrainConfig, n_samples: int, flops_per_second: float
) -> float:
    """Roughly how long a run takes, its limits being settled."""
    limits = [seconds(config.time_budget)] if config.time_budget else []
    per_step = (config.batch_size or 1) * (config.grad_accumulation_steps or 1) * config.seq_len
    for steps in step_limits(config, n_samples).values():
        limits.append(steps * per_step * flops_per_token(model) / (UTILISATION * flops_per_second))
    return min(limits)


USUAL: dict[str, Any] = {
    "batch_size": 16,
    "grad_accumulation_steps": 1,
    "optimizer": "adamw",
    "learning_rate": 3e-4,
    "muon_learning_rate": 0.02,
    "schedule": "cosine",
    "min_learning_rate_ratio": 0.1,
    "weight_decay": 0.1,
    "log_interval": 10,
}
"""What people expect of a preset."""


@dataclass(frozen=True)
class Size:
    """What the recipe knows of a preset."""

    preset: str
    least_flops: float
    """Operations at the machine's peak speed from which on it learns more than the one before."""
    tokens_per_step: int
    """Small batches learn most from a token; larger models need larger ones to be worth Muon's own work."""


SIZES = (
    Size("pico", 0.0, 1024),
    Size("nano", 1.2e14, 1024),
    Size("micro", 4e14, 2048),
    Size("mini", 1.5e15, 2048),
    Size("small", 6e15, 4096),
)


LOGGED_TOKENS = 50 * 1024
"""Between two lines of metrics: small models take many small steps, and a line for every second is enough."""


def _recipe(config: TrainConfig, size: Size, n_samples: int) -> dict[str, Any]:
    """What learned fastest in trials on CPUs: Muon, small batches, a long linear decay to nothing."""
    batch = min(n_samples, max(1, size.tokens_per_step // config.seq_len))
    by_muon = config.optimizer in (None, "muon")
    return {
        "batch_size": max(1, batch // (config.grad_accumulation_steps or 1)),
        "grad_accumulation_steps": 1,
        "optimizer": "muon",
        "learning_rate": 0.02 if by_muon else 2e-3,
        "muon_learning_rate": 0.02,
        "schedule": "linear",
        "warmup_steps": 10,
        "min_learning_rate_ratio": 0.0,
        "weight_decay": 0.01 if by_muon else 0.1,
        "log_interval": max(1, LOGGED_TOKENS // size.tokens_per_step),
    }


def _size_for(time: float, flops_per_second: float) -> Size:
    """The largest size that still sees enough tokens in the time to use what it could learn."""
    return [size for size in SIZES if time * flops_per_second >= size.least_flops][-1]
