"""Fills in what the user left open: with a preset the usual settings, without one a recipe for the data and the time.

A config with gaps, and facts of the data and the machine in; a model shape and a config without gaps out.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from homespun.architectures.presets import preset, shaped
from homespun.config import ModelConfig, Optimizer, Schedule, TrainConfig
from homespun.config.checked import seconds
from homespun.errors import UserError
from homespun.planning.estimate import expected_seconds_per_step, expected_tokens_per_second

LIMITS = ("max_epochs", "max_steps", "time_budget")
SHAPE = ("architecture", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff")

DEFAULT_TIME_BUDGET = "10m"
DEFAULT_EPOCHS = 10.0
WORTH_COMPILING = 600.0
"""Seconds that a run has to take where a C++ compiler does it: that costs half a minute, and gains nothing (gpt2) to
11% (qwen3), see benchmarks/training.py."""


@dataclass(frozen=True)
class Settled(TrainConfig):
    """Nothing of how a run learns is left open. The defaults are what people expect of a preset."""

    batch_size: int = 16
    grad_accumulation_steps: int = 1
    optimizer: Optimizer = "adamw"
    learning_rate: float = 3e-4
    muon_learning_rate: float = 0.02
    schedule: Schedule = "cosine"
    min_learning_rate_ratio: float = 0.1
    weight_decay: float = 0.1
    beta2: float = 0.95
    log_interval: int = 10
    eval_interval: int | None = 500
    """None: about ten times in a run, see `loop.Loop.is_due`; so with the next."""
    sample_interval: int | None = 500

    @property
    def sequences_per_step(self) -> int:
        return self.batch_size * self.grad_accumulation_steps

    @property
    def tokens_per_step(self) -> int:
        return self.sequences_per_step * self.seq_len


@dataclass(frozen=True)
class Plan:
    """A run with nothing left open."""

    model: ModelConfig
    config: Settled


def said(config: TrainConfig) -> dict[str, Any]:
    """The settings that are not left open."""
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}


def plan(
    config: TrainConfig,
    *,
    vocab_size: int,
    n_samples: int,
    flops_per_second: float,
    compiles_at_once: bool = False,
) -> Plan:
    """Settle every open setting.

    Args:
        n_samples: of `config.seq_len` tokens, in the training text.
        flops_per_second: of large matrix products on this machine, in the precision of the run.
        compiles_at_once: compiled kernels need not be earned back.

    Raises:
        UserError: settings that contradict each other or the data.
    """
    if config.vocab_size not in (None, vocab_size):
        raise UserError(
            f"--vocab-size is {config.vocab_size:,}, but the tokenizer has {vocab_size:,} tokens: leave the flag out, "
            f"or train a tokenizer of that size (homespun tokenizer --vocab-size {config.vocab_size})"
        )
    unlimited = all(getattr(config, name) is None for name in LIMITS)
    if config.model_size is not None:
        base, defaults = preset(config.model_size), Settled()
        if unlimited:
            config = dataclasses.replace(config, max_epochs=DEFAULT_EPOCHS)
    else:
        if unlimited:
            config = dataclasses.replace(config, time_budget=DEFAULT_TIME_BUDGET)
        size = _size_for(seconds(config.time_budget or DEFAULT_TIME_BUDGET), flops_per_second)
        base, defaults = preset(size.preset), _recipe(config, size, n_samples)
    settled = dataclasses.replace(defaults, **said(config) | {"vocab_size": vocab_size})
    model = shaped(
        base, {name: getattr(settled, name) for name in (*SHAPE, "vocab_size", "seq_len")}
    )
    if config.model_size is None:
        seen = expected_passes(model, settled, n_samples, flops_per_second)
        settled = dataclasses.replace(settled, **against_memorising(config, seen))
    if settled.sequences_per_step > n_samples:
        raise UserError(
            f"a step takes {settled.sequences_per_step:,} sequences of {config.seq_len} tokens, but the training text "
            f"has only {n_samples:,}: lower --batch-size or --seq-len, or give more text"
        )
    if settled.compile == "auto":
        expected = expected_seconds(model, settled, n_samples, flops_per_second)
        settled = dataclasses.replace(
            settled, compile="on" if compiles_at_once or expected >= WORTH_COMPILING else "off"
        )
    return Plan(model, settled)


def step_limits(config: Settled, n_samples: int) -> dict[str, int]:
    """The limits that are numbers of steps, by the name of their setting, the nearest first."""
    limits = {}
    if config.max_steps is not None:
        limits["max_steps"] = config.max_steps
    if config.max_epochs is not None:
        steps = math.ceil(config.max_epochs * n_samples / config.sequences_per_step)
        limits["max_epochs"] = max(1, steps)
    return dict(sorted(limits.items(), key=lambda item: item[1]))


def expected_seconds(
    model: ModelConfig, config: Settled, n_samples: int, flops_per_second: float
) -> float:
    """Roughly how long a run takes, its limits being settled."""
    limits = [seconds(config.time_budget)] if config.time_budget else []
    per_step = expected_seconds_per_step(model, config.tokens_per_step, flops_per_second)
    limits += [steps * per_step for steps in step_limits(config, n_samples).values()]
    return min(limits)


def expected_passes(
    model: ModelConfig, config: Settled, n_samples: int, flops_per_second: float
) -> float:
    """Roughly how often a run goes over its text."""
    speed = expected_tokens_per_second(model, flops_per_second)
    tokens = speed * expected_seconds(model, config, n_samples, flops_per_second)
    return tokens / (n_samples * config.seq_len)


def against_memorising(config: TrainConfig, passes: float) -> dict[str, Any]:
    """What keeps a model from learning by heart a text that it would see so often, where the user has not said it."""
    settings: dict[str, Any] = {}
    if config.weight_decay is None and config.optimizer != "adamw":
        settings["weight_decay"] = [d.weight_decay for d in DECAYS if passes >= d.least_passes][-1]
    if config.max_epochs is None and config.max_steps is None and passes > MOST_PASSES:
        settings["max_epochs"] = MOST_PASSES
    return settings


@dataclass(frozen=True)
class Size:
    """What the recipe knows of a preset."""

    preset: str
    least_flops: float
    """Operations at the machine's peak speed from which on it learns more than the one before."""
    tokens_per_step: int
    """Small batches learn most from a token; larger models need larger ones to be worth Muon's own work."""


SIZES = (
    Size("pico", 0.0, 2048),
    Size("nano", 3e14, 1024),
    Size("micro", 4e14, 2048),
    Size("mini", 1.5e15, 2048),
    Size("small", 6e15, 4096),
)


MUON_RATE = 0.012
"""At 1,024 tokens a step; it grows with the square root of their number, as the noise of a gradient shrinks."""

LOGGED_TOKENS = 50 * 1024
"""Between two lines of metrics: small models take many small steps, and a line for every second is enough."""


@dataclass(frozen=True)
class Decay:
    """How much of it learned most from so many passes over a text, with Muon."""

    least_passes: float
    weight_decay: float


DECAYS = (Decay(0.0, 0.03), Decay(1.2, 0.3), Decay(5.0, 0.5))

MOST_PASSES = 10.0
"""Of 2.4 MB of prose ten came to little more than six (1.598 and 1.603 bits per byte); more were not tried."""


def _recipe(config: TrainConfig, size: Size, n_samples: int) -> Settled:
    """What learned fastest in trials on CPUs: Muon, small batches, a long linear decay to nothing."""
    sequences = min(n_samples, max(1, size.tokens_per_step // config.seq_len))
    by_muon = config.optimizer in (None, "muon")
    return Settled(
        batch_size=max(1, sequences // (config.grad_accumulation_steps or 1)),
        optimizer="muon",
        learning_rate=0.04 if by_muon else 2e-3,
        muon_learning_rate=round(MUON_RATE * math.sqrt(size.tokens_per_step / 1024), 3),
        schedule="linear",
        warmup_steps=10,
        min_learning_rate_ratio=0.0,
        beta2=0.99,
        log_interval=max(1, LOGGED_TOKENS // size.tokens_per_step),
        eval_interval=None,
        sample_interval=None,
    )


def _size_for(time: float, flops_per_second: float) -> Size:
    """The largest size that still sees enough tokens in the time to use what it could learn."""
    return [size for size in SIZES if time * flops_per_second >= size.least_flops][-1]
