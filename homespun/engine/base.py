"""The seam between the project and a framework: NumPy arrays in, numbers out.

An engine owns the model, the optimizer and the device. Nothing above it knows which framework computes.

Shapes: B sequences in a batch, T tokens in a sequence, V tokens in the vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Named = tuple[str, npt.NDArray[np.generic]]

IGNORED = -1
"""A target with this value counts neither in the loss nor in the number of tokens."""


@dataclass(frozen=True)
class Batch:
    """Sequences and what follows each of their positions."""

    inputs: Tokens
    """[B, T]"""
    targets: Tokens
    """[B, T], already shifted by one; `IGNORED` where nothing is to be learned."""

    @property
    def n_targets(self) -> int:
        return int(np.count_nonzero(self.targets != IGNORED))


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    loss: float
    """Mean over all valid targets of all micro-batches, in nats."""
    grad_norm: float
    """Global L2 norm before clipping."""
    clipped: bool
    """The norm was above the limit and the gradients were scaled down."""
    applied: bool
    """False where loss or norm was not finite: weights and moments are as before."""


class StepHandle(Protocol):
    """A step that may still be running on the device."""

    def ready(self) -> bool:
        """Whether the step is done, so that reading it does not wait."""

    def result(self) -> StepResult:
        """Wait for the step and read it."""


class Decoder(Protocol):
    """Runs the model one token at a time for B sequences of equal length; owns the key/value cache."""

    @property
    def length(self) -> int:
        """Positions that are in the cache."""

    def prefill(self, tokens: Tokens) -> Floats:
        """Append tokens [B, T]; returns the logits [B, V] after the last one."""

    def step(self, tokens: Tokens) -> Floats:
        """Append one token each, [B]; returns the logits [B, V] after it."""

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions."""


LESS_MEMORY = (
    "lower --batch-size (with more --grad-accumulation-steps the update stays the same), "
    "try --gradient-checkpointing, or choose a smaller model"
)
"""What to do where a step does not fit."""


@dataclass(frozen=True)
class MemoryStats:
    """In bytes."""

    used: int
    peak: int


@dataclass(frozen=True)
class OptimizerSettings:
    """All that an optimizer needs beside the learning rate of a step."""

    name: str
    weight_decay: float
    beta1: float
    beta2: float
    max_grad_norm: float
    eps: float = 1e-8
    muon_momentum: float = 0.95


class Engine(Protocol):
    """A model that can be trained, evaluated, read and run."""

    @property
    def facts(self) -> dict[str, str]:
        """What was resolved: engine and version, device, precision, whether compiled, threads. Two runs agree bit for
        bit only where these agree."""

    def train_step(self, microbatches: Sequence[Batch], lr: dict[str, float]) -> StepHandle:
        """One optimizer step over all micro-batches; `lr` has a rate for each optimizer, by name."""

    def loss(self, batch: Batch) -> tuple[float, int]:
        """Summed loss in nats, and the number of valid targets."""

    def logits(self, tokens: Tokens) -> Floats:
        """[B, T] -> [B, T, V]."""

    def gradients(self, microbatches: Sequence[Batch]) -> Iterator[Named]:
        """Gradients of the mean loss over all valid targets, by parameter, in float32; nothing is updated."""

    def decoder(self, batch_size: int, max_len: int) -> Decoder:
        """A decoder for `batch_size` sequences of at most `max_len` positions, with the weights as they are now."""

    def state(self) -> Iterator[Named]:
        """Weights under their own names, moments as `exp_avg/NAME`, `exp_avg_sq/NAME`, `momentum/NAME`, and the
        optimizer's step count as `optimizer/step`; one tensor at a time."""

    def load(self, tensors: Iterable[Named]) -> None:
        """The stream of `state()` back; weights alone are enough to evaluate and generate.

        Raises:
            ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
        """

    def memory(self) -> MemoryStats: ...
