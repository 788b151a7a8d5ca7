"""How the training step of each engine uses memory on each kind of machine: facts for the estimate.

They were found by measurement (benchmarks/planning.py); those of CUDA follow from the code and were not measured.
"""

import math
from dataclasses import dataclass

LONGEST_IN_FULL = 512
"""The longest context for which a CPU that computes in bfloat16 keeps all attention weights in memory. That is faster
there: the backward pass of its flash kernel makes many small products (benchmarks/attention.py)."""


@dataclass(frozen=True)
class StepTraits:
    """The use of memory by a training step."""

    half: bool
    """It computes in 16 bits."""
    keeps_attention: bool
    """All attention weights are kept for the backward pass."""
    mask_bytes: int
    """For each pair of tokens of a sequence, where a mask keeps documents apart."""
    transient_blocks: float
    """Memory that the backward pass needs besides the activations, in those of a block."""
    muon_bytes: int
    """For each number of the matrices that Muon updates together."""
    logit_bytes: int
    """For each logit of the rows whose loss is computed at a time."""
    update_copies: float = 0.0
    """Memory that the update of the weights needs, in copies of them."""
    scattered_blocks: float = 0.0
    """More of them where no gradients take the place of activations that are gone: with accumulation or LoRA. On a CPU
    freed memory then lies in pieces that few tensors fit."""
    scattered_of_each: float = math.inf
    """At most so much for each block: a model of few blocks frees little."""
    recomputing_blocks: float = 0.0
    """More of them with checkpointing, for the same reason."""
    scattered_answers: float = 0.0
    """Share of the memory in which answers were written, or of the memory for training on them, if that is smaller, in
    pieces that the other one cannot use: on a CPU, for the same reason."""
    lost: float = 0.0
    """Share of the activations whose memory lies in pieces too small to be used again, as on a CPU."""


def torch_on_cpu(half: bool, seq_len: int) -> StepTraits:
    """PyTorch on a CPU."""
    in_full = half and seq_len <= LONGEST_IN_FULL
    return StepTraits(
        half,
        keeps_attention=in_full,
        mask_bytes=24 if in_full else 10 if half else 20,
        transient_blocks=1.0,
        muon_bytes=24 if half else 32,
        logit_bytes=8 if half else 4,
        scattered_blocks=1.5 if half else 2.6,
        scattered_of_each=0.75 if half else 0.45,
        recomputing_blocks=0.6 if half else 1.0,
        scattered_answers=0.3,
        lost=0.2 if half and seq_len > LONGEST_IN_FULL else 0.03,
    )


def torch_on_cuda(half: bool) -> StepTraits:
    """PyTorch on an NVIDIA GPU."""
    mask, muon, logit = (2, 24, 6) if half else (4, 32, 8)
    return StepTraits(half, False, mask, transient_blocks=1.0, muon_bytes=muon, logit_bytes=logit)


def mlx(half: bool) -> StepTraits:
    """MLX, whose fused attention has no backward pass, so that training takes the plain operations."""
    return StepTraits(
        half,
        keeps_attention=True,
        mask_bytes=1,
        transient_blocks=1.2,
        muon_bytes=12,
        logit_bytes=10 if half else 12,
        update_copies=1.3,
    )
