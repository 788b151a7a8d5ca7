"""Fills in what the user left open: with a preset the usual settings, without one a recipe for the data and the time.

A config with gaps, and facts of the data and the machine in; a model shape and a config without gaps out.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from homespun.config import ModelConfig, TrainConfig, seconds
from homespun.errors import UserError
from homespun.model.presets import PRESETS, preset, shaped

SHAPE = ("architecture", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff")

DEFAULT_TIME_BUDGET = "10m"
DEFAULT_EPOCHS = 10.0
RECIPE_SIZES = ("pico", "nano", "micro", "mini", "small")
RECIPE_TOKENS_PER_STEP = 2048


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
    if config.vocab_size not in (None, vocab_size):
        raise UserError(
            f"--vocab-size is {config.vocab_size:,}, but the tokenizer has {vocab_size:,} tokens: leave the flag out, "
            f"or train a tokenizer of that size (homespun tokenizer --vocab-size {config.vocab_size})"
        )
    by_preset = config.model_size is not None
    unlimited = config.max_epochs is None and config.max_steps is None and config.time_budget is None
    if by_preset:
        base = preset(config.model_size or "")
        defaults = _usual(config)
        if unlimited:
            defaults["max_epochs"] = DEFAULT_EPOCHS
    else:
        if unlimited:
            config = dataclasses.replace(config, time_budget=DEFAULT_TIME_BUDGET)
        base = PRESETS[_size_for(seconds(config.time_budget or DEFAULT_TIME_BUDGET), flops_per_second)]
        defaults = _recipe(config, n_samples)
    open_settings: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, vocab_size=vocab_size, **open_settings)
    shape = {name: getattr(config, name) for name in SHAPE}
    model = shaped(base, {**shape, "vocab_size": vocab_size, "seq_len": config.seq_len})
    batch = (config.batch_size or 1) * (config.grad_accumulation_steps or 1)
    if batch > n_samples:
        raise UserError(
            f"a step takes {batch:,} sequences of {config.seq_len} tokens, but the training text has only "
            f"{n_samples:,}: lower --batch-size or --seq-len, or give more text"
        )
    return Plan(model, config)


def _usual(config: TrainConfig) -> dict[str, Any]:
    """What people expect of a preset."""
    return {
        "batch_size": 16,
        "grad_accumulation_steps": 1,
        "optimizer": "adamw",
        "learning_rate": 3e-4,
        "muon_learning_rate": 0.02,
        "schedule": "cosine",
        "min_learning_rate_ratio": 0.1,
        "weight_decay": 0.1,
    }


def _recipe(config: TrainConfig, n_samples: int) -> dict[str, Any]:
    """What learned fastest in trials on CPUs: Muon, small batches, a long linear decay to nothing."""
    batch = min(n_samples, max(1, RECIPE_TOKENS_PER_STEP // config.seq_len))
    by_muon = config.optimizer in (None, "muon")
    return {
        "batch_size": batch if config.grad_accumulation_steps in (None, 1) else 1,
        "grad_accumulation_steps": 1,
        "optimizer": "muon",
        "learning_rate": 0.02 if by_muon else 2e-3,
        "muon_learning_rate": 0.02,
        "schedule": "linear",
        "warmup_steps": 10,
        "min_learning_rate_ratio": 0.0,
        "weight_decay": 0.01 if by_muon else 0.1,
    }


def _size_for(time: float, flops_per_second: float) -> str:
    """The largest size that still sees enough tokens in the time to use what it could learn."""
    for name in reversed(RECIPE_SIZES):
        if time * flops_per_second >= MIN_FLOPS[name]:
            return name
    return RECIPE_SIZES[0]


MIN_FLOPS = {"nano": 1.6e13, "micro": 6e13, "mini": 2e14, "small": 1e15}
"""Operations at the machine's peak from which on a size learns more than the next smaller one."""
