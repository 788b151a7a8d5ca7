"""Fills in the settings that the user left open: with a preset the usual ones, else a recipe for the data and the time.

A config with gaps and facts about data and machine flow in; a model shape and a config without gaps come out.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any

from homespun.architectures.families import count_active_parameters
from homespun.architectures.lora import ALL, Lora
from homespun.architectures.presets import preset, shaped
from homespun.config import ModelConfig, Optimizer, Schedule, TrainConfig
from homespun.config.checked import preset_defaults, seconds
from homespun.errors import UserError
from homespun.planning.estimate import (
    CHECKS_PER_RUN,
    EVALUATION_COST,
    MAX_EVALUATION_SHARE,
    expected_seconds_per_step,
    expected_tokens_per_second,
)
from homespun.terminal import counted

LIMITS = ("max_epochs", "max_steps", "time_budget")
SHAPE = (
    *("architecture", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff"),
    *("experts", "experts_per_token", "d_expert", "dense_layers"),
)

DEFAULT_TIME_BUDGET = "10m"
DEFAULT_EPOCHS = 10.0
MIN_SECONDS_TO_COMPILE = 600.0
"""Shorter runs are not compiled by a C++ compiler: compiling takes half a minute, and the gain depends on model and
processor (benchmarks/training.py)."""


ALPHA_PER_RANK = 2.0
"""Alpha of adapters for each rank, where none is given, as in most published runs. In this way one learning rate suits
every rank."""

_PRESET = preset_defaults(TrainConfig)
_CHOSEN: dict[str, Any] = {
    setting.name: dataclasses.field(default=_PRESET.get(setting.name), metadata=setting.metadata)
    for setting in dataclasses.fields(TrainConfig)
}
"""Fields with the rules of the settings, and with the defaults of a preset."""


@dataclass(frozen=True)
class ResolvedConfig(TrainConfig):
    """The settings of a run with no gap that affects training. The defaults are those of a preset."""

    batch_size: int = _CHOSEN["batch_size"]
    grad_accumulation_steps: int = _CHOSEN["grad_accumulation_steps"]
    optimizer: Optimizer = _CHOSEN["optimizer"]
    learning_rate: float = _CHOSEN["learning_rate"]
    muon_learning_rate: float = _CHOSEN["muon_learning_rate"]
    schedule: Schedule = _CHOSEN["schedule"]
    min_learning_rate_ratio: float = _CHOSEN["min_learning_rate_ratio"]
    weight_decay: float = _CHOSEN["weight_decay"]
    beta2: float = _CHOSEN["beta2"]
    log_interval: int = _CHOSEN["log_interval"]
    eval_tokens: int = _CHOSEN["eval_tokens"]
    eval_interval: int | None = _CHOSEN["eval_interval"]
    """None: about ten times in a run, see `training.timing.due`; the same for the next."""
    sample_interval: int | None = _CHOSEN["sample_interval"]

    @property
    def sequences_per_step(self) -> int:
        return self.batch_size * self.grad_accumulation_steps

    @property
    def tokens_per_step(self) -> int:
        return self.sequences_per_step * self.seq_len

    @property
    def sequences_together(self) -> int:
        """Sequences that no micro-batch divides: a pair of answers with preferences, a group of them with a reward."""
        if self.preferences is not None:
            return 2
        return 1 if self.reward is None else self.group_size


@dataclass(frozen=True)
class Plan:
    """A run whose settings are all chosen."""

    model: ModelConfig
    config: ResolvedConfig

    @property
    def lora(self) -> Lora | None:
        """The adapters that are trained alone, if any."""
        return lora_of(self.config)

    @property
    def in_training(self) -> ModelConfig:
        """The model with the context of the training samples, which may be shorter than its own."""
        return dataclasses.replace(self.model, seq_len=self.config.seq_len)


def lora_of(config: TrainConfig) -> Lora | None:
    """The adapters of a run, or None if it trains the whole model."""
    if config.lora_rank is None:
        return None
    targets = tuple(name.strip() for name in (config.lora_targets or ALL).split(","))
    return Lora(config.lora_rank, config.lora_alpha or ALPHA_PER_RANK * config.lora_rank, targets)


def given_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that have a value."""
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}


def plan(
    config: TrainConfig,
    *,
    vocab_size: int,
    n_samples: int,
    flops_per_second: float,
    compiles_at_once: bool = False,
    initial: "Initial | None" = None,
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
    initial: "Initial | None",
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
        chosen = _going_on(config, initial, n_samples, flops_per_second)
        return config, initial.shape, chosen
    time = seconds(config.time_budget or DEFAULT_TIME_BUDGET)
    size = _size_for(time, flops_per_second, vocab_size, n_samples, config.seq_len)
    return config, preset(size.preset), _recipe(config, size, n_samples)


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
SHORT_EVAL_TOKENS = (4096, 16_384, 65_536)
"""Tokens of the validation text that a short run evaluates. They are few sizes, so that runs of about the same length
compare."""
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
    if config.eval_tokens is None:
        affordable = MAX_EVALUATION_SHARE * steps * resolved.tokens_per_step
        sizes = [*SHORT_EVAL_TOKENS, resolved.eval_tokens]
        fitting = [n for n in sizes if LEAST_EVALUATIONS * EVALUATION_COST * n <= affordable]
        settings["eval_tokens"] = max([sizes[0], *fitting])
    return settings


def limit_memorizing(config: TrainConfig, passes: float) -> dict[str, Any]:
    """The settings against memorizing a text that is seen `passes` times, except those that the user has given."""
    settings: dict[str, Any] = {}
    if config.weight_decay is None and config.optimizer != "adamw":
        settings["weight_decay"] = [d.weight_decay for d in DECAYS if passes >= d.min_passes][-1]
    if config.max_epochs is None and config.max_steps is None and passes > MAX_PASSES:
        settings["max_epochs"] = MAX_PASSES
    return settings


@dataclass(frozen=True)
class Size:
    """When the recipe takes a preset, and with which batch."""

    preset: str
    min_flops: float
    """Least number of operations, at the machine's peak speed, with which it learns more from a text of 2.4 MB than the
    next smaller one, which reads it more often."""
    tokens_per_step: int
    """Small batches learn most from a token; larger models need larger ones, since Muon's own work grows with them."""


SIZES = (
    Size("pico", 0.0, 2048),
    Size("nano", 3e14, 1024),
    Size("micro", 4e14, 2048),
    Size("mini", 1.5e15, 2048),
    Size("small", 6e15, 4096),
)


TOKENS_PER_PARAMETER = 30.0
"""A model that reads more tokens for each of its parameters, those of the embeddings not counted, should be larger
(Hoffmann et al., 2022, found 20 for the best size). In twenty minutes `micro` read one token for each, and learned no
more from the built-in stories than `pico` in four."""

MUON_RATE = 0.012
"""At 1,024 tokens per step; it grows with the square root of their number, since the noise of the gradient shrinks."""

TOKENS_PER_LOG = 50 * 1024
"""Training tokens between two lines of metrics: small models take many steps, and one line per second is enough."""


@dataclass(frozen=True)
class Decay:
    """The weight decay that learned most from so many passes over a text, with Muon."""

    min_passes: float
    weight_decay: float


DECAYS = (Decay(0.0, 0.03), Decay(1.2, 0.3), Decay(5.0, 0.5))

MAX_PASSES = 10.0
"""On 2.4 MB of prose ten passes were little better than six (1.598 and 1.603 bits per byte); more were not tried."""


def _recipe(config: TrainConfig, size: Size, n_samples: int) -> ResolvedConfig:
    """The settings that learned fastest in trials on CPUs: Muon, small batches, a long linear decay to zero."""
    sequences = min(n_samples, max(1, size.tokens_per_step // config.seq_len))
    with_muon = config.optimizer in (None, "muon")
    return ResolvedConfig(
        batch_size=max(1, sequences // (config.grad_accumulation_steps or 1)),
        optimizer="muon",
        learning_rate=0.04 if with_muon else 2e-3,
        muon_learning_rate=round(MUON_RATE * math.sqrt(size.tokens_per_step / 1024), 3),
        schedule="linear",
        warmup_steps=10,
        min_learning_rate_ratio=0.0,
        beta2=0.99,
        log_interval=max(1, TOKENS_PER_LOG // size.tokens_per_step),
        eval_interval=None,
        sample_interval=None,
    )


FINE_TUNING_STEPS = 150
"""A model from elsewhere takes at least about so many steps in the time, if steps can be that small."""
MAX_FINE_TUNING_TOKENS = 2048
"""Per step."""
FINE_TUNING_RATE = 1e-4
"""Of AdamW. After 60 steps of 512 tokens of tales, SmolLM2-135M had a loss of 2.974 with 3e-5, 2.937 with 1e-4 and
3.017 with 3e-4, from 3.186 before."""
LORA_RATE = 1e-3
"""Of adapters: ten times that of the whole model, as Schulman et al. (2025) found for many models and texts. In that
trial, the loss was 2.944 with it, and 2.987 with 3e-4."""
FINE_TUNING_EPOCHS = 3.0
CHAT_EPOCHS = 3.0
"""Over conversations, at least."""
LEAST_CHAT_STEPS = 200
"""A small file of conversations is read more often, until a run has so many steps, but at most `MAX_PASSES` times."""
OF_ITS_RUN = (
    "optimizer",
    "learning_rate",
    "muon_learning_rate",
    "schedule",
    "min_learning_rate_ratio",
    "weight_decay",
    "beta2",
)
"""Settings with which a model that was trained here goes on. It has seen little text, so another one teaches it as much
as the first: a small model of stories went from 7.51 bits per byte of tales to 2.09 in 150 steps with the rates of its
run, to 2.14 with half of them, and to 2.29 with the best rate of AdamW."""
REWARD_RATE = 3e-4
"""Of AdamW with a reward, for a model that was trained here; others take `FINE_TUNING_RATE`. In a trial of 16 steps
with 1e-3, a model of stories moved 0.2 nats per token from where it began, and its reward hardly rose."""
REWARDED_GROUPS = (4, 4)
"""Groups of answers in a micro-batch, and micro-batches in a step, with a reward."""
PREFERENCE_RATE = 3e-4
"""Of AdamW with preferences, for a model that was trained here. After 75 steps, a model of stories had a held-out loss
of 0.637 with 3e-5 and 0.466 with 3e-4, with 91% and 93% of the pairs right, and its better answers were as likely as
before. Adapters take `LORA_RATE`, which was not tried."""
FINE_TUNING_PREFERENCE_RATE = 1e-6
"""The same for a model from elsewhere, as in most published runs; adapters take ten times that. Neither was tried."""
PAIRS_PER_STEP = 16
PREFERENCE_EPOCHS = 1.0
"""DPO soon knows its pairs by heart."""
EVALUATION_SHARE = 0.01
"""The fraction of the time that one evaluation takes."""
LEAST_EVAL_TOKENS = 4096
SECONDS_PER_LOG = 2.0


@dataclass(frozen=True)
class Initial:
    """A trained model from which a run goes on."""

    shape: ModelConfig
    settings: ResolvedConfig | None = None
    """Of the run that trained it; None for a model from elsewhere."""
    is_chat: bool = False
    """Whether it goes on with conversations."""


def _going_on(
    config: TrainConfig, initial: Initial, n_samples: int, flops_per_second: float
) -> ResolvedConfig:
    """The settings for a new text: those of the model's own run, or the usual ones of fine-tuning."""
    if config.reward is not None:
        return _with_reward(config, initial)
    if config.preferences is not None:
        return _with_preferences(config, initial)
    own = initial.settings
    adapters = config.lora_rank is not None or (own is not None and own.lora_rank is not None)
    if adapters or config.optimizer not in (None, own and own.optimizer):
        own = None
    in_training = dataclasses.replace(initial.shape, seq_len=config.seq_len)
    speed = expected_tokens_per_second(in_training, flops_per_second)
    tokens = speed * seconds(config.time_budget or DEFAULT_TIME_BUDGET)
    accumulation = config.grad_accumulation_steps or (own.grad_accumulation_steps if own else 1)
    if own:
        tokens_per_step = own.tokens_per_step
        chosen = {name: getattr(own, name) for name in OF_ITS_RUN}
        chosen["max_epochs"] = min(own.max_epochs or MAX_PASSES, MAX_PASSES)
    else:
        tokens_per_step = min(MAX_FINE_TUNING_TOKENS, int(tokens / FINE_TUNING_STEPS))
        chosen = {
            "optimizer": "adamw",
            "learning_rate": FINE_TUNING_RATE if config.lora_rank is None else LORA_RATE,
            # With this rate, the steps of Muon are as large as those of AdamW.
            "muon_learning_rate": round(FINE_TUNING_RATE * math.sqrt(initial.shape.d_model), 4),
            "schedule": "linear",
            "min_learning_rate_ratio": 0.0,
            "weight_decay": 0.0,
            "beta2": 0.99,
            "max_epochs": FINE_TUNING_EPOCHS,
        }
    sequences = min(n_samples, max(1, tokens_per_step // config.seq_len))
    if initial.is_chat:
        steps_per_pass = n_samples / sequences
        passes = math.ceil(LEAST_CHAT_STEPS / steps_per_pass)
        chosen["max_epochs"] = min(MAX_PASSES, max(CHAT_EPOCHS, float(passes)))
    if config.max_steps is not None:
        del chosen["max_epochs"]
    eval_tokens = int(EVALUATION_SHARE * tokens / EVALUATION_COST)
    return ResolvedConfig(
        **chosen,
        batch_size=max(1, sequences // accumulation),
        grad_accumulation_steps=accumulation,
        gradient_checkpointing=own.gradient_checkpointing if own else False,
        log_interval=max(1, int(SECONDS_PER_LOG * speed / (sequences * config.seq_len))),
        eval_interval=None,
        eval_tokens=min(ResolvedConfig.eval_tokens, max(LEAST_EVAL_TOKENS, eval_tokens)),
        sample_interval=None,
    )


def _with_reward(config: TrainConfig, initial: Initial) -> ResolvedConfig:
    """The settings for a model that learns from the scores of its answers."""
    groups, microbatches = REWARDED_GROUPS
    rate = FINE_TUNING_RATE if initial.settings is None else REWARD_RATE
    return ResolvedConfig(
        optimizer="adamw",
        learning_rate=rate if config.lora_rank is None else LORA_RATE,
        schedule="linear",
        min_learning_rate_ratio=0.0,
        weight_decay=0.0,
        beta2=0.99,
        batch_size=groups * config.group_size,
        grad_accumulation_steps=microbatches,
        log_interval=1,
        eval_interval=None,
        eval_tokens=SHORT_EVAL_TOKENS[1],
        sample_interval=None,
    )


def _with_preferences(config: TrainConfig, initial: Initial) -> ResolvedConfig:
    """The settings for a model that learns from pairs of answers."""
    trained_here, whole = initial.settings is not None, config.lora_rank is None
    if trained_here:
        rate = PREFERENCE_RATE if whole else LORA_RATE
    else:
        rate = FINE_TUNING_PREFERENCE_RATE * (1 if whole else 10)
    accumulation = config.grad_accumulation_steps or 1
    return ResolvedConfig(
        optimizer="adamw",
        learning_rate=rate,
        schedule="linear",
        min_learning_rate_ratio=0.0,
        weight_decay=0.0,
        beta2=0.99,
        max_epochs=PREFERENCE_EPOCHS if config.max_steps is None else None,
        batch_size=2 * max(1, PAIRS_PER_STEP // accumulation),
        grad_accumulation_steps=accumulation,
        eval_interval=None,
        eval_tokens=SHORT_EVAL_TOKENS[1],
        sample_interval=None,
    )


def _size_for(
    time: float, flops_per_second: float, vocab_size: int, n_samples: int, seq_len: int
) -> Size:
    """The smallest size that still learns at the end of the time. One that has read the text often, or many tokens for
    each of its parameters, gains little from more: a larger one does, if the time is enough for it."""
    for size, larger in itertools.pairwise(SIZES):
        model = shaped(preset(size.preset), {"vocab_size": vocab_size, "seq_len": seq_len})
        parameters = count_active_parameters(model) - model.vocab_size * model.d_model
        enough = min(TOKENS_PER_PARAMETER * parameters, MAX_PASSES * n_samples * seq_len)
        tokens = time * expected_tokens_per_second(model, flops_per_second)
        if time * flops_per_second < larger.min_flops or tokens < enough:
            return size
    return SIZES[-1]
