"""The settings with which a trained model goes on: with a text, conversations, preferences or a reward."""

import dataclasses
import math
from dataclasses import dataclass

from homespun.config import ModelConfig, TrainConfig
from homespun.config.checked import seconds
from homespun.planning.estimate import EVALUATION_COST, expected_tokens_per_second
from homespun.planning.new_model import MAX_PASSES
from homespun.planning.resolved import DEFAULT_TIME_BUDGET, SHORT_EVAL_TOKENS, ResolvedConfig

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
"""Of AdamW with a reward, for a model that was trained here; others take `FINE_TUNING_RATE`. With 1e-3, a model of
stories answered as many questions after the same 30 steps, and had moved twice as far from where it began."""
REWARDED_GROUPS = (4, 4)
"""Groups of answers in a micro-batch, and micro-batches in a step, with a reward."""
REWARDED_EVAL_TOKENS = 512
"""Of answers that are held out. A short answer needs the reading of its whole conversation, and does not decide which
weights are the best."""
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


def settings_of_trained(
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
        eval_tokens=REWARDED_EVAL_TOKENS if initial.is_chat else SHORT_EVAL_TOKENS[1],
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
