"""The memory and the time that training takes, estimated from the shape of a model and the settings of a run.

This is the only place that estimates them, so that all commands report the same numbers.
"""

import dataclasses
from dataclasses import dataclass

from homespun.architectures.families import (
    count_parameters,
    family,
    flops_per_token,
    parameters,
)
from homespun.architectures.lora import Lora, count_trained
from homespun.config import ModelConfig
from homespun.engine.base import HEAD_ROWS, LONGEST_IN_FULL

FLOAT32_BYTES = 4
HALF_BYTES = 2
"""bfloat16 or float16."""

UTILISATION = 0.4
"""Share of a machine's peak speed in matrix products that training is expected to reach."""
EVALUATION_COST = 0.25
"""Cost of evaluating a token, in training tokens; measured on CPUs."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step by their use, above those of the bare process."""

    weights: int
    gradients: int
    moments: int
    """The state of the optimizer."""
    activations: int
    """Numbers that the forward pass keeps for the backward pass, and those of one block during its backward pass."""
    casts: int
    """Copies of the matrices in the precision of the computation."""
    mask: int
    """Which tokens see each other, so that documents are kept apart: a number for each pair in a sequence."""
    head: int
    """Some rows of logits with their derivatives, and the gradient of the head while it is summed up."""

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def training_memory(
    config: ModelConfig,
    batch_size: int,
    optimizer: str,
    *,
    half: bool,
    checkpointing: bool,
    full_attention: bool = True,
    lora: Lora | None = None,
) -> TrainingMemory:
    """Estimated memory of a training step; its total is within 15% of the measured one on a CPU (benchmarks/memory.py).

    Args:
        batch_size: sequences in a micro-batch.
        half: the model computes in a format of 16 bits.
        checkpointing: the backward pass computes the activations of each block again.
        full_attention: a model that computes in 16 bits keeps all attention weights of short contexts, as on a CPU.
        lora: train adapters alone, with the matrices in the precision of the computation.
    """
    c = config
    parameter_bytes = FLOAT32_BYTES * count_parameters(c)
    matrices = sum(p.size for p in parameters(c) if p.group == "matrix")
    number_bytes = HALF_BYTES if half else FLOAT32_BYTES
    tokens = batch_size * c.seq_len

    trained_bytes = FLOAT32_BYTES * count_trained(c, lora)
    weights = parameter_bytes
    if lora is not None:
        weights += trained_bytes - (FLOAT32_BYTES - number_bytes) * matrices

    # Muon keeps one moment of a matrix, AdamW two.
    by_muon = optimizer == "muon" and lora is None
    moments = 2 * trained_bytes - (FLOAT32_BYTES * matrices if by_muon else 0)

    kept = family(c.architecture).activations(c)
    in_full = half and full_attention and c.seq_len <= LONGEST_IN_FULL
    attention_weights = c.n_heads * c.seq_len if in_full else 0
    block = tokens * (
        FLOAT32_BYTES * kept.float32 + number_bytes * (kept.computed + attention_weights)
    )
    casts = number_bytes * matrices if half and lora is None else 0
    if checkpointing:  # the input of every block, and everything of one block at a time
        activations = c.n_layers * tokens * number_bytes * c.d_model + block
        casts //= c.n_layers
    else:
        activations = c.n_layers * block

    logits = min(tokens, HEAD_ROWS) * c.vocab_size * 12
    # The head in the precision of the computation, its gradient, and a part of that.
    head_copies = number_bytes if half else 0
    if lora is None:
        head_copies += FLOAT32_BYTES + number_bytes
    return TrainingMemory(
        weights=weights,
        gradients=trained_bytes,
        moments=moments,
        activations=activations + block,
        casts=casts,
        mask=number_bytes * tokens * c.seq_len,
        head=logits + c.vocab_size * c.d_model * head_copies,
    )


def training_bytes(
    config: ModelConfig,
    batch_size: int,
    optimizer: str,
    *,
    half: bool,
    checkpointing: bool,
    full_attention: bool = True,
    lora: Lora | None = None,
) -> int:
    """The total of `training_memory`."""
    return training_memory(
        config,
        batch_size,
        optimizer,
        half=half,
        checkpointing=checkpointing,
        full_attention=full_attention,
        lora=lora,
    ).total


def expected_seconds_per_step(
    config: ModelConfig, tokens_per_step: int, flops_per_second: float
) -> float:
    """Roughly how long an optimizer step takes.

    Args:
        flops_per_second: the machine's peak speed in large matrix products, in the precision of the run.
    """
    return tokens_per_step * flops_per_token(config) / (UTILISATION * flops_per_second)


def expected_tokens_per_second(config: ModelConfig, flops_per_second: float) -> float:
    """Roughly how fast training goes; arguments as for `expected_seconds_per_step`."""
    return UTILISATION * flops_per_second / flops_per_token(config)
