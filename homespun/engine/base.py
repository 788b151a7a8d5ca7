"""The seam between the project and a framework: NumPy arrays in, numbers out.

An engine owns the model, the optimizer and the device. Nothing above it knows which framework computes.

Shapes: B sequences in a batch, T tokens in a sequence, V tokens in the vocabulary.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from homespun.data.batch import Batch, Tokens
from homespun.named_array import NamedArray

Floats = npt.NDArray[np.float32]

LONGEST_IN_FULL = 512
"""Up to this context a CPU that computes in bfloat16 is faster with all attention weights in memory: the backward pass
of its flash kernel makes many small products (benchmarks/attention.py)."""
HEAD_ROWS = 512
"""Positions whose logits exist at a time."""

FLOAT16_LOSS_SCALE = 4096.0
"""Where float16 is computed in, the loss is multiplied by this before it is differentiated, and the gradients divided
after: its smallest numbers would not hold them. Where one is too large for it then, the step is refused."""


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
    """False where loss or norm was not finite or above its limit: weights and moments are as before."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class OutOfMemory(Exception):
    """What was to be computed does not fit into the memory of the device."""


@contextmanager
def within_memory(*signs: str) -> Iterator[None]:
    """Tell apart, from all that can go wrong, what does for want of memory.

    Args:
        signs: what the framework's message has in it then: its errors have no type of their own, at least on a CPU.

    Raises:
        OutOfMemory: it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
            raise OutOfMemory from error
        raise


class StepHandle(Protocol):
    """A step that may still be running on the device."""

    def ready(self) -> bool:
        """Whether the step is done, so that reading it does not wait."""

    def result(self) -> StepResult:
        """Wait for the step and read it.

        Raises:
            OutOfMemory: it needed more memory than there is.
        """


class Decoder(Protocol):
    """Runs the model one token at a time for B sequences, which may differ in length; owns the key/value cache.

    The result of a sequence does not depend on the others in the batch, up to rounding.
    """

    @property
    def length(self) -> int:
        """Positions in the cache of the longest sequence."""

    def prefill(self, tokens: Tokens, lengths: Sequence[int] | None = None) -> Floats:
        """Append tokens [B, T]; returns the logits [B, V] after the last one of each sequence.

        Where sequences differ in length, the cache has to be empty, `lengths` [B] says how many tokens of each row
        count, and the rest of a row is padding: it is never seen.
        """

    def step(self, tokens: Tokens) -> Floats:
        """Append one token each, [B]; returns the logits [B, V] after it."""

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions of each sequence."""

    def repeated(self, n: int) -> "Decoder":
        """A decoder for `n` sequences that all begin with what this one, of a single sequence, has read."""


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


@dataclass(frozen=True)
class EngineOptions:
    """All that an engine needs beside the model."""

    optimizer: OptimizerSettings | None = None
    """Without it the engine can evaluate and generate only."""
    precision: str = "auto"
    """Of what it computes; weights and moments are always float32."""
    compiled: bool = False
    gradient_checkpointing: bool = False
    document_mark: int | None = None
    """The token that documents begin with: in training and evaluation none of them sees another."""
    threads: int | None = None
    """Of a CPU; None: one per core."""
    seed: int | None = 0
    """For the initial weights and for dropout; None: the weights are zeros until some are loaded."""
    dropout: float = 0.0
    """Share of the embeddings and of what each layer adds to them that a training step sets to zero."""
    frozen: frozenset[str] = frozenset()
    """Names of parameters that training leaves as they are: they have no gradient and no moments."""


def checked(
    tensors: Iterable[NamedArray], shapes: Mapping[str, tuple[int, ...]], needed: Collection[str]
) -> Iterator[tuple[str, Floats]]:
    """The stream that an engine loads, tensor by tensor, if it is whole: of those in `shapes` that are not `needed`,
    the moments, there may be none, but not some.

    Raises:
        ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
    """
    missing = dict.fromkeys(shapes)
    for name, array in tensors:
        if name not in missing:
            raise ValueError(
                f"{name} is {'given twice' if name in shapes else 'not part of this model'}"
            )
        if array.shape != shapes[name] or array.dtype != np.float32:
            raise ValueError(
                f"{name} is {array.dtype}{list(array.shape)}, not float32{list(shapes[name])}"
            )
        del missing[name]
        yield name, array.astype(np.float32, copy=False)
    # Weights by themselves are a model; half a set of moments is nothing.
    some_moments = len(missing) < len(shapes) - len(needed)
    if absent := [name for name in missing if name in needed or some_moments]:
        raise ValueError(f"{absent[0]} is missing")


class Reader(Protocol):
    """A model that can be evaluated, read and run."""

    def loss(self, batch: Batch) -> tuple[float, int]:
        """Summed loss in nats, and the number of valid targets.

        Raises:
            OutOfMemory: that needs more memory than there is.
        """

    def logits(self, tokens: Tokens) -> Floats:
        """[B, T] -> [B, T, V]."""

    def decoder(self, batch_size: int, max_len: int) -> Decoder:
        """A decoder for `batch_size` sequences of at most `max_len` positions, with the weights as they are now."""

    def state(self) -> Iterator[NamedArray]:
        """Weights under their own names, one tensor at a time, each a copy that later steps do not change."""

    def load(self, tensors: Iterable[NamedArray]) -> None:
        """The stream of `state()` back.

        Raises:
            ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
        """


class Engine(Reader, Protocol):
    """A model that can be trained, too.

    Its `state` goes on, after the weights, with the moments as `exp_avg/NAME`, `exp_avg_sq/NAME`, `momentum/NAME` and
    the optimizer's step count as `optimizer/step`; to `load`, weights alone are enough.
    """

    @property
    def facts(self) -> dict[str, str]:
        """What was resolved: engine and version, device, precision, whether compiled, threads. Two runs agree bit for
        bit only where these agree."""

    def train_step(
        self,
        microbatches: Sequence[Batch],
        lr: dict[str, float],
        step: int,
        *,
        loss_limit: float = math.inf,
        norm_limit: float = math.inf,
    ) -> StepHandle:
        """One optimizer step over all micro-batches; `lr` has a rate for each optimizer, by name, and `step`, the
        number of the step in its run, decides what is dropped out.

        A step whose loss or gradient norm is not finite, or above its limit, is refused: it changes nothing. That is
        decided on the device, without waiting for it.

        Raises:
            OutOfMemory: a step needs more memory than there is.
        """

    def gradients(
        self, microbatches: Sequence[Batch], step: int | None = None
    ) -> Iterator[NamedArray]:
        """Gradients of the mean loss over all valid targets, by parameter, in float32; nothing is updated. With `step`
        those of that training step; without it nothing is dropped out."""

    def peak_memory(self) -> int:
        """The most bytes that this process has held on the device so far."""

    def active_memory(self) -> int | None:
        """Bytes that it holds on the device now; None where only the peak is known."""


class Machine(Protocol):
    """What an engine knows of this machine before there is a model."""

    def flops_per_second(self, precision: str) -> float:
        """Of large matrix products, measured in a moment."""

    def computes_in_half(self, precision: str) -> bool:
        """Whether `--precision` means a format of 16 bits here."""

    def compiles_at_once(self) -> bool:
        """Whether compiling takes no time worth mentioning."""

    def can_compile(self) -> bool:
        """Whether compiled kernels can be made here; takes a few seconds."""

    def memory_capacity(self) -> int:
        """Bytes of memory that the device has, and that this process may have of it."""

    def memory_available(self) -> int:
        """Bytes of it that nobody uses now."""
