"""The size of a new model, and the settings with which it learns fastest: data, time and machine flow in."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

from homespun.architectures.families import count_active_parameters
from homespun.architectures.presets import preset, shaped
from homespun.config import TrainConfig
from homespun.planning.estimate import expected_tokens_per_second
from homespun.planning.resolved import ResolvedConfig


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
(Hoffmann et al., 2022, found 20 for the best size). In twenty minutes of built-in stories, `micro` read one token for
each and `pico` 36, and neither told them better than the other (benchmarks.stories)."""

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

AVERAGING = 0.15
"""The best fraction was 0.2 for fairy tales and Python sources, 0.12 for essays (benchmarks/LOG.md)."""
MIN_PASSES_TO_AVERAGE = 2.5
"""After so many passes over the fairy tales, the last weights had 1.594 bits per byte and the mean had 1.585; after
five, 1.558 and 1.547. After a third of a pass over essays, the mean over 12% was worse: 1.927 in place of 1.919.
Nothing in between was tried."""

MAX_PASSES = 10.0
"""On 2.4 MB of prose ten passes were little better than six (1.598 and 1.603 bits per byte); more were not tried."""


def settings_of_new(config: TrainConfig, size: Size, n_samples: int) -> ResolvedConfig:
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


def limit_memorizing(config: TrainConfig, passes: float) -> dict[str, Any]:
    """The settings against memorizing a text that is seen `passes` times, except those that the user has given."""
    settings: dict[str, Any] = {}
    if config.weight_decay is None and config.optimizer != "adamw":
        settings["weight_decay"] = [d.weight_decay for d in DECAYS if passes >= d.min_passes][-1]
    if config.averaging is None and config.memory == "full" and passes >= MIN_PASSES_TO_AVERAGE:
        settings["averaging"] = AVERAGING
    if config.max_epochs is None and config.max_steps is None and passes > MAX_PASSES:
        settings["max_epochs"] = MAX_PASSES
    return settings


def size_for(
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
