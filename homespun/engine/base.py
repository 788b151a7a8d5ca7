"""The seam between the project and a framework: NumPy arrays flow in, numbers flow out.

An engine owns the model, the optimizer and the device. Code above this seam does not know which framework computes.

Shapes: B sequences in a batch, T tokens in a sequence, V tokens in the vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from homespun.architectures.lora import Lora
from homespun.data.batch import Batch, Tokens
from homespun.engine.averaging import is_trained
from homespun.engine.traits import StepTraits
from homespun.errors import UserError
from homespun.named_array import NamedArray

Floats = npt.NDArray[np.float32]
Draw = Callable[[Sequence[Floats], npt.NDArray[np.float64]], tuple[list[int], list[int]]]
"""Draws a token after each of the logits [V], with settings [N, 3]: temperature, logarithm of min-p (-inf: none), and a
random number below 1. Returns the tokens, -1 where a logit is not finite, and whether each number was needed. It is not
needed where only one token may be drawn. With temperature 0, this is the first of the likeliest ones."""

MEASURING_SECONDS = 0.5
"""After this time a measurement of speed repeats nothing more."""
READ_BYTES = 1 << 28
"""Read to measure the speed of the memory: more than caches hold."""
HEAD_ROWS = 512
"""The number of positions whose logits are in memory at a time."""

FLOAT16_LOSS_SCALE = 4096.0
"""The loss is multiplied by this before a backward pass in float16, and the gradients are divided by it afterwards;
without it small gradients would underflow. A step whose scaled gradients overflow is refused."""


@dataclass(frozen=True)
class RouterUse:
    """How the router of one block has spread the tokens of a step over its experts.

    Engines keep it as a row of numbers in this order. Each is a mean over the micro-batches, weighted by their targets.
    """

    balance_loss: float
    """The number of experts of a token if all are used evenly; more if they are not. A micro-batch is measured as a
    whole."""
    z_loss: float
    """Mean square of the logarithm of the sum of the exponentials of the logits."""
    entropy: float
    """Of the router's probabilities for a token, in nats, as a mean over the tokens."""
    load: tuple[float, ...]
    """The share of each expert in all that the experts were given; the sum is 1."""

    @classmethod
    def of_row(cls, row: Sequence[float]) -> "RouterUse":
        balance_loss, z_loss, entropy, *load = row
        return cls(balance_loss, z_loss, entropy, tuple(load))


@dataclass(frozen=True)
class StepResult:
    """The outcome of one optimizer step."""

    loss: float
    """Mean over all valid targets of all micro-batches, in nats, each times its weight."""
    grad_norm: float
    """Global L2 norm before clipping."""
    clipped: bool
    """Whether the norm was above the limit, so that the gradients were scaled down."""
    applied: bool
    """False if the loss or the norm was not finite or above its limit; then weights and moments are unchanged."""
    routers: tuple[RouterUse, ...] = ()
    """Of each block that has experts. Their losses are not part of `loss`."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class OutOfMemory(UserError):
    """A computation does not fit into the memory of the device."""

    def __init__(self) -> None:
        super().__init__(
            "out of memory: the model with its texts takes more than is free here: take fewer or shorter texts, "
            "or close other programs"
        )


@contextmanager
def within_memory(*signs: str) -> Iterator[None]:
    """Turn a framework's errors for lack of memory into one type.

    Args:
        signs: parts of the messages of such errors. Frameworks have no type for them, at least on a CPU.

    Raises:
        OutOfMemory: the body ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
            raise OutOfMemory() from error
        raise


class StepHandle(Protocol):
    """A step that may still be running on the device."""

    def ready(self) -> bool:
        """Whether the step is done, so that `result` does not wait."""

    def result(self) -> StepResult:
        """Wait for the step and read its figures.

        Raises:
            OutOfMemory: the step needed more memory than there is.
        """


class Decoder(Protocol):
    """Runs the model one token at a time for B sequences, which may differ in length, and owns the key/value cache.

    The logits of a sequence do not depend on the other sequences of the batch, up to rounding. All methods raise
    `OutOfMemory` if they need more memory than there is.
    """

    @property
    def length(self) -> int:
        """The number of positions that the longest sequence has in the cache."""

    def prefill(self, tokens: Tokens, lengths: Sequence[int] | None = None) -> Floats:
        """Append tokens [B, T]; returns the logits [B, V] after the last token of each sequence.

        For sequences of different length, `lengths` [B] gives the number of tokens of each row; the rest of a row is
        padding, which no token sees. The cache has to be empty then.
        """

    def step(self, tokens: Tokens) -> Floats:
        """Append one token to each sequence, [B]; returns the logits [B, V] after it."""

    def rewind(self, length: int) -> None:
        """Keep only the first `length` positions of each sequence."""

    def repeated(self, n: int) -> "Decoder":
        """A decoder for `n` sequences that all begin with the tokens of this decoder's only sequence. Both go on
        independently."""

    def join(self, other: Self) -> None:
        """Add the only sequence of another decoder of this model, which may be longer or shorter, as the last row. Both
        go on independently. The cache gets the larger `max_len` of the two."""

    def drop(self, row: int) -> None:
        """Remove one of several sequences. The last row takes its place."""


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of an optimizer, apart from the learning rate of a step."""

    name: str
    weight_decay: float
    beta1: float
    beta2: float
    max_grad_norm: float
    eps: float = 1e-8
    muon_momentum: float = 0.95


@dataclass(frozen=True)
class EngineOptions:
    """The settings of an engine, apart from the model."""

    optimizer: OptimizerSettings | None = None
    """Without one, the engine can only evaluate and generate."""
    precision: str = "auto"
    """The precision of computations; weights and moments are float32, unless `low_memory` is on."""
    compiled: bool = False
    gradient_checkpointing: bool = False
    document_mark: int | None = None
    """The token that begins a document. If it is given, no document sees another in training, losses and logits."""
    threads: int | None = None
    """The number of CPU threads; None: one for each usable processor."""
    seed: int | None = 0
    """The seed of the initial weights, those of the adapters with LoRA, and of dropout; None: they are zeros until
    others are loaded."""
    dropout: float = 0.0
    """The fraction of the embeddings, and of the outputs of attention and feed-forward layers, that a training step
    sets to zero."""
    aux_loss: float = 0.0
    """Factor of the balance loss of each router in the loss that a step minimises."""
    z_loss: float = 0.0
    """Factor of the z-loss of each router."""
    frozen: frozenset[str] = frozenset()
    """Names of parameters that training does not change. They have no gradient and no moments."""
    lora: Lora | None = None
    """Train adapters alone. All weights of the model are frozen then, and `load_base` gives them."""
    sharded: bool = False
    """Where several processes train together, each holds a part of the weights only."""

    def stored(self) -> dict[str, Any]:
        """The options as JSON holds them, for another process."""
        return dataclasses.asdict(self) | {"frozen": sorted(self.frozen)}

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> "EngineOptions":
        """The inverse of `stored`."""
        optimizer, lora = values["optimizer"], values["lora"]
        return cls(
            **{
                **values,
                "optimizer": optimizer and OptimizerSettings(**optimizer),
                "lora": lora and Lora(**{**lora, "targets": tuple(lora["targets"])}),
                "frozen": frozenset(values["frozen"]),
            }
        )

    low_memory: bool = False
    """Matrices and embeddings have weights, gradients and moments in bfloat16, with stochastic rounding. Adapters stay
    as they are."""

    averaging: float = 0.0
    """If it is above 0, all methods but those of training use the mean of the weights over about this fraction of the
    steps so far (`averaging.py`); training itself goes on with the weights."""

    eight_bits: bool = False
    """The weights of matrices and embeddings are rounded to 8 bits when they are loaded, and decoders read 8 bits. Only
    without an optimizer."""


def weights_were_rounded() -> RuntimeError:
    """The error of an engine that is asked for weights which it has only rounded."""
    return RuntimeError("the weights were rounded when they were loaded")


def checked(
    tensors: Iterable[NamedArray], shapes: Mapping[str, tuple[int, ...]], needed: Collection[str]
) -> Iterator[tuple[str, Floats]]:
    """Check a stream of tensors that an engine loads, and pass it on, tensor by tensor. Weights that training goes on
    with beside their means are left out if the engine has no means.

    Args:
        shapes: the shapes of all weights and moments, by name.
        needed: the names of the weights. All moments may be missing together, but not in part, and so may the weights
            that training goes on with.

    Raises:
        ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
    """
    missing = dict.fromkeys(shapes)
    has_means = any(map(is_trained, shapes))
    for name, array in tensors:
        if is_trained(name) and not has_means:
            continue
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
    # Weights alone are a model; a part of the others is useless.
    others = [name for name in shapes if name not in needed]
    for names in ([n for n in others if not is_trained(n)], [*filter(is_trained, others)]):
        if not missing.keys() >= {*names}:
            needed = {*needed, *names}
    if absent := [name for name in missing if name in needed]:
        raise ValueError(f"{absent[0]} is missing")


class Reader(Protocol):
    """A model that can evaluate, give its weights and generate."""

    @property
    def rounds_weights(self) -> bool:
        """Whether weights are rounded when they are loaded, so that `state` cannot give them."""

    def loss(self, batch: Batch) -> tuple[float, int]:
        """Summed loss in nats, and the number of valid targets.

        Raises:
            OutOfMemory: the batch needs more memory than there is.
        """

    def log_probabilities(self, batch: Batch) -> Floats:
        """The log-probability of each target in nats, [B, T]; 0 where there is none. Raises as `loss`."""

    def logits(self, tokens: Tokens) -> Floats:
        """[B, T] -> [B, T, V]. Raises as `loss`."""

    def decoder(self, batch_size: int, max_len: int) -> Decoder:
        """A decoder for `batch_size` sequences of at most `max_len` positions, with the weights as they are now. Raises
        as `loss`."""

    def state(self) -> Iterator[NamedArray]:
        """The weights by name in float32, one tensor at a time, with LoRA only those of the adapters. Each is a copy,
        which later steps do not change.

        Raises:
            RuntimeError: the engine has rounded the weights.
        """

    def load(self, tensors: Iterable[NamedArray]) -> None:
        """Take the tensors of `state()`, in any order.

        Raises:
            OutOfMemory: the weights need more memory than there is.
            ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
        """


@runtime_checkable
class Drawer(Protocol):
    """An engine that may draw tokens faster than NumPy does."""

    @property
    def draw(self) -> Draw | None:
        """None where it does not."""


class Engine(Reader, Protocol):
    """A model that can also be trained.

    After the weights, its `state` gives the optimizer's step count as `optimizer/step` and the moments as
    `exp_avg/NAME`, `exp_avg_sq/NAME` and `momentum/NAME`; in low memory, there are `exp_avg_sq_rows/NAME` and
    `exp_avg_sq_columns/NAME` instead of the second. Where the options ask for means of the weights, these are in
    the place of the weights, and the weights that training goes on with come last, as `trained/NAME`. For `load`,
    weights alone are enough.
    """

    @property
    def narrow(self) -> frozenset[str]:
        """The names in `state` whose values are bfloat16 numbers."""

    def load_base(self, tensors: Iterable[NamedArray]) -> None:
        """Take the weights of the model that LoRA adapts. They are zeros before. Raises as `load`."""

    @property
    def facts(self) -> dict[str, str]:
        """Engine and version, device, precision, whether compiled, and threads, as they were chosen. Two runs can agree
        bit for bit only if these facts agree."""

    def train_step(
        self,
        microbatches: Sequence[Batch],
        lr: dict[str, float],
        step: int,
        *,
        loss_limit: float = math.inf,
        norm_limit: float = math.inf,
    ) -> StepHandle:
        """One optimizer step over all micro-batches.

        A step whose loss or gradient norm is not finite, or above its limit, is refused: it changes nothing. The device
        decides this, and the host does not wait for it.

        Args:
            lr: the learning rate of each optimizer, by name.
            step: the number of the step in its run, which determines the dropout masks.

        Raises:
            OutOfMemory: the step needs more memory than there is.
        """

    def gradients(
        self, microbatches: Sequence[Batch], step: int | None = None
    ) -> Iterator[NamedArray]:
        """Gradients of the mean loss over all valid targets, by the name of the parameter, in float32, without those of
        frozen parameters; nothing is updated. With `step`, dropout is that of this training step; otherwise there is
        none."""

    def update(
        self, gradients: Iterable[NamedArray], lr: dict[str, float], settings: OptimizerSettings
    ) -> None:
        """One optimizer step with gradients that are given, by the name of the parameter, without clipping.

        Args:
            lr: as for `train_step`.
            settings: those of the optimizer, from this step on; the optimizer itself stays the same.

        Raises:
            OutOfMemory: the step needs more memory than there is.
            ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
        """

    def peak_memory(self) -> int:
        """The largest number of bytes that this process has held on the device so far."""

    def active_memory(self) -> int | None:
        """Bytes that this process holds on the device now; None if only the peak is known."""


class Machine(Protocol):
    """This machine as an engine sees it, without a model."""

    def flops_per_second(self, precision: str, threads: int | None = None) -> float:
        """The speed of large matrix products with so many CPU threads, by default as many as an engine takes. It is
        measured in about a second, also where a precision is emulated."""

    def peak_flops_per_second(self, precision: str, threads: int | None = None) -> float:
        """The speed of large matrix products alone, the most that a model can reach. It is measured in about a
        second."""

    def bytes_per_second(self, threads: int | None = None) -> float:
        """The speed at which the memory of the device is read. It is measured in about a second."""

    def computes_in_half(self, precision: str) -> bool:
        """Whether computations in this precision use a 16-bit format here."""

    def step_traits(self, precision: str, seq_len: int) -> StepTraits:
        """How a training step in this precision, with such a context, uses memory."""

    def compiles_at_once(self) -> bool:
        """Whether compilation takes almost no time."""

    def can_compile(self) -> bool:
        """Whether compilation works here. The check takes a few seconds."""

    def has_own_memory(self) -> bool:
        """Whether the device has memory apart from that of the processor, as CUDA's have."""

    def memory_capacity(self) -> int:
        """Bytes of the device's memory that this process may use."""

    def memory_available(self) -> int:
        """Bytes of that memory that are free now."""
