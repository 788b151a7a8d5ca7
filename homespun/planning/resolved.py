"""A run whose settings are all chosen: the form in which the recipe hands them on."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from homespun.architectures.lora import ALL, Lora
from homespun.config import ModelConfig, Optimizer, Schedule, TrainConfig
from homespun.config.checked import preset_defaults

DEFAULT_TIME_BUDGET = "10m"
DEFAULT_EPOCHS = 10.0
SHORT_EVAL_TOKENS = (4096, 16_384, 65_536)
"""Tokens of the validation text that a short run evaluates. They are few sizes, so that runs of about the same length
compare."""
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
    averaging: float = _CHOSEN["averaging"]
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
    def sequences_per_update(self) -> int:
        """The most sequences from which one update of the weights learns. With a reward, a step has several updates,
        each with a part of the groups."""
        if self.reward is None:
            return self.sequences_per_step
        groups = self.sequences_per_step // self.group_size
        return math.ceil(groups / self.updates) * self.group_size

    @property
    def largest_microbatch(self) -> int:
        """The most sequences that are computed together."""
        return min(self.batch_size, self.sequences_per_update)

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
    longest_row: int | None = None
    """Tokens of the longest prompt with an answer, in a run with preferences or a reward, where they are known: so long
    are the rows of its batches at most, whatever the length of a sample."""

    @property
    def lora(self) -> Lora | None:
        """The adapters that are trained alone, if any."""
        return lora_of(self.config)

    @property
    def in_training(self) -> ModelConfig:
        """The model with the context of the training samples, which may be shorter than its own."""
        return dataclasses.replace(self.model, seq_len=self.config.seq_len)

    @property
    def in_rows(self) -> ModelConfig:
        """The model with the context of the rows of a batch."""
        return dataclasses.replace(self.model, seq_len=self.longest_row or self.config.seq_len)

    @property
    def tokens_per_step(self) -> int:
        """Of full rows."""
        return self.config.sequences_per_step * self.in_rows.seq_len


def lora_of(config: TrainConfig) -> Lora | None:
    """The adapters of a run, or None if it trains the whole model."""
    if config.lora_rank is None:
        return None
    targets = tuple(name.strip() for name in (config.lora_targets or ALL).split(","))
    return Lora(config.lora_rank, config.lora_alpha or ALPHA_PER_RANK * config.lora_rank, targets)


def given_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that have a value."""
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
