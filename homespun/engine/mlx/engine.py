"""The engine for Apple silicon: batches in, optimizer steps, losses, logits and state out.

MLX computes lazily. A step is a function from all tensors to new ones, compiled as a whole and handed to the device
without waiting for it; to read its result is to wait.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np

from homespun.architectures.families import initial_weights, parameters
from homespun.config import ModelConfig
from homespun.data.batch import Batch, Tokens
from homespun.engine.base import (
    FLOAT16_LOSS_SCALE,
    EngineOptions,
    Floats,
    StepResult,
    checked,
    within_memory,
)
from homespun.engine.dropout import site_keys
from homespun.engine.mlx import machine
from homespun.engine.mlx.dropout import Dropout, of_microbatches
from homespun.engine.mlx.loss import head_loss, row_losses
from homespun.engine.mlx.model import LayerCache, Model, Weights, document_mask
from homespun.engine.mlx.optimizer import Optimizer, Tensors
from homespun.named_array import NamedArray

MicroBatch = tuple[mx.array, mx.array, mx.array, bool, Dropout | None]
"""Tokens, targets, what a target's loss is multiplied with, whether attention has to stop at marks, and dropout."""
Sums = tuple[mx.array, Weights]
"""Loss and gradients of the micro-batches so far."""


class MlxEngine:
    """A model on one device, with its optimizer if the options have one."""

    def __init__(self, config: ModelConfig, options: EngineOptions) -> None:
        self.config = config
        self.options = options
        machine.settle_memory()
        self.dtype = machine.computing_dtype(options.precision)
        self.loss_scale = FLOAT16_LOSS_SCALE if self.dtype == mx.float16 else 1.0
        spec = parameters(config)
        self.names = [p.name for p in spec]
        self.tensors: Tensors = {p.name: mx.zeros(p.shape) for p in spec}
        """Weights and moments; a step replaces them all."""
        self.optimizer: Optimizer | None = None
        if options.optimizer is not None:
            self.optimizer = Optimizer(options.optimizer, spec, muon_dtype=self.dtype)
            self.tensors |= dict(self.optimizer.initial_state())
        compiled: Callable[[Any], Any] = (
            mx.compile if options.compiled else lambda function: function
        )
        self.step = compiled(self._step)
        self.accumulate = compiled(self._accumulate)
        self.row_losses = compiled(self._row_losses)
        if options.seed is not None:
            self.load(initial_weights(config, options.seed))

    @property
    def facts(self) -> dict[str, str]:
        return {
            "engine": f"mlx {version('mlx')}",
            "device": machine.device_name(),
            "precision": str(self.dtype).removeprefix("mlx.core."),
            "compiled": "yes" if self.options.compiled else "no",
        }

    @within_memory(*machine.OUT_OF_MEMORY)
    def train_step(
        self,
        microbatches: Sequence[Batch],
        lr: dict[str, float],
        step: int,
        *,
        loss_limit: float = math.inf,
        norm_limit: float = math.inf,
    ) -> "MlxStep":
        if self.optimizer is None:
            raise RuntimeError("this engine was made without an optimizer")
        rates = {name: mx.array(rate) for name, rate in lr.items()}
        limits = mx.array([loss_limit, norm_limit])
        *others, last = self._on_device(microbatches, step)
        self.tensors, outcome = self.step(self.tensors, self._sums(others), last, rates, limits)
        mx.async_eval(self.tensors, outcome)
        return MlxStep(outcome, self.optimizer.settings.max_grad_norm)

    @within_memory(*machine.OUT_OF_MEMORY)
    def loss(self, batch: Batch) -> tuple[float, int]:
        [(tokens, targets, _, marked, _)] = self._on_device([batch])
        losses = self.row_losses(self.weights, tokens, targets, marked)
        return float(_array(losses).sum(dtype=np.float64)), batch.n_targets

    def logits(self, tokens: Tokens) -> Floats:
        model = self._model(self.weights)
        return _array(model.logits(model.hidden(mx.array(tokens))))

    def gradients(
        self, microbatches: Sequence[Batch], step: int | None = None
    ) -> Iterator[NamedArray]:
        sums = self._sums(self._on_device(microbatches, step))
        assert sums is not None
        for name, grad in sums[1].items():
            yield name, _array(grad / self.loss_scale)

    def decoder(self, batch_size: int, max_len: int) -> "MlxDecoder":
        return MlxDecoder(self._model(self.weights).for_decoding(), batch_size, max_len)

    def state(self) -> Iterator[NamedArray]:
        for name, tensor in self.tensors.items():
            yield name, _array(tensor)

    def load(self, tensors: Iterable[NamedArray]) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        for name, array in checked(tensors, shapes, self.names):
            self.tensors[name] = mx.array(array)

    def peak_memory(self) -> int:
        return machine.peak_memory()

    def active_memory(self) -> int | None:
        return machine.active_memory()

    @property
    def weights(self) -> Weights:
        return {name: self.tensors[name] for name in self.names}

    def _sums(self, batches: Iterable[MicroBatch]) -> Sums | None:
        """Mean loss over the valid targets of all micro-batches together, and its gradients, times the loss scale."""
        sums = None
        for batch in batches:
            sums = self.accumulate(self.weights, sums, batch)
            mx.async_eval(sums)  # else the activations of all of them would be held at once
        return sums

    def _accumulate(self, weights: Weights, sums: Sums | None, batch: MicroBatch) -> Sums:
        """Add a micro-batch."""
        tokens, targets, scale, marked, drop = batch

        def scaled_loss(weights: Weights) -> mx.array:
            model = self._model(weights)
            mask = self._mask(tokens, marked)
            checkpointing = self.options.gradient_checkpointing
            hidden = model.hidden(
                tokens, gradient_checkpointing=checkpointing, mask=mask, drop=drop
            )
            return head_loss(hidden.flatten(0, 1), model.head, targets.flatten(), scale)

        loss, grads = mx.value_and_grad(scaled_loss)(weights)
        if sums is None:
            return loss, grads
        return sums[0] + loss, {name: sums[1][name] + grad for name, grad in grads.items()}

    def _step(
        self,
        old: Tensors,
        sums: Sums | None,
        last: MicroBatch,
        lr: dict[str, mx.array],
        limits: mx.array,
    ) -> tuple[Tensors, mx.array]:
        """Add the last micro-batch and update: all tensors, and [3]: loss, gradient norm, and 1 where that was done."""
        assert self.optimizer is not None
        weights = {name: old[name] for name in self.names}
        scaled_loss, grads = self._accumulate(weights, sums, last)
        squares = mx.stack([grad.square().sum() for grad in grads.values()])
        loss = scaled_loss / self.loss_scale
        norm = mx.sqrt(squares.sum()) / self.loss_scale
        figures = mx.stack([loss, norm])
        applied = (mx.isfinite(figures) & (figures <= limits)).all()
        new = self.optimizer.step(
            old,
            grads,
            lr,
            grad_scale=self.loss_scale
            * mx.maximum(norm / self.optimizer.settings.max_grad_norm, 1.0),
            refused=~applied,
        )
        return new, mx.concatenate([figures, applied.astype(mx.float32)[None]])

    def _row_losses(
        self, weights: Weights, tokens: mx.array, targets: mx.array, marked: bool
    ) -> mx.array:
        model = self._model(weights)
        hidden = model.hidden(tokens, mask=self._mask(tokens, marked))
        return row_losses(hidden.flatten(0, 1), model.head, targets.flatten())

    def _mask(self, tokens: mx.array, marked: bool) -> mx.array | None:
        """What keeps documents from seeing each other."""
        mark = self.options.document_mark
        return document_mask(tokens, mark) if marked and mark is not None else None

    def _model(self, weights: Weights) -> Model:
        return Model(self.config, weights, self.dtype)

    def _on_device(self, batches: Sequence[Batch], step: int | None = None) -> Iterator[MicroBatch]:
        """The micro-batches of a step, or without its number those of no training step."""
        n_targets = sum(batch.n_targets for batch in batches)
        scale = mx.array(self.loss_scale / max(1, n_targets))
        mark = self.options.document_mark
        for batch, drop in zip(batches, self._dropouts(batches, step), strict=True):
            # Only where it makes a difference, as without a mask there are faster kernels; compiled steps stay alike.
            marked = mark is not None and (
                self.options.compiled or bool((batch.inputs[:, 1:] == mark).any())
            )
            yield mx.array(batch.inputs), mx.array(batch.targets), scale, marked, drop

    def _dropouts(self, batches: Sequence[Batch], step: int | None) -> Iterable[Dropout | None]:
        """One for each micro-batch."""
        options = self.options
        if step is None or not options.dropout:
            return [None] * len(batches)
        keys = mx.array(site_keys(options.seed or 0, step, self.config.n_layers))
        return of_microbatches(options.dropout, keys, [batch.inputs.shape for batch in batches])


@dataclass(frozen=True)
class MlxStep:
    """A dispatched step."""

    outcome: mx.array
    max_grad_norm: float

    def ready(self) -> bool:
        """Never known: MLX does not say whether an array is computed without waiting for it."""
        return False

    @within_memory(*machine.OUT_OF_MEMORY)
    def result(self) -> StepResult:
        loss, norm, applied = map(float, _array(self.outcome))
        return StepResult(
            loss,
            norm,
            clipped=bool(applied) and norm > self.max_grad_norm,
            applied=bool(applied),
        )


class MlxDecoder:
    """The model, one token at a time, with a cache for `max_len` positions."""

    def __init__(self, model: Model, batch_size: int, max_len: int) -> None:
        c = model.config
        if max_len > c.seq_len:
            raise ValueError(f"{max_len} positions are more than the model's {c.seq_len}")
        self.model = model
        shape = (batch_size, c.n_kv_heads, max_len, c.head_dim)
        self.cache = [
            LayerCache(mx.zeros(shape, dtype=model.dtype), mx.zeros(shape, dtype=model.dtype))
            for _ in range(c.n_layers)
        ]

    @property
    def length(self) -> int:
        return self.cache[0].length

    def prefill(self, tokens: Tokens) -> Floats:
        hidden = self.model.hidden(mx.array(tokens), self.cache)
        return _array(self.model.logits(hidden[:, -1]))

    def step(self, tokens: Tokens) -> Floats:
        return self.prefill(tokens[:, None])

    def rewind(self, length: int) -> None:
        for layer in self.cache:
            layer.length = length


def _array(tensor: mx.array) -> Floats:
    """A copy in NumPy; waits for it."""
    return np.array(tensor.astype(mx.float32))
