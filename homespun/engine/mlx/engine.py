"""The engine for Apple silicon: batches go in, optimizer steps, losses, logits and state come out.

MLX computes lazily. A step is a function from all tensors to new ones. It is compiled as a whole and dispatched to the
device; only reading its result waits for it.

B sequences, T tokens, D width of the stream, V tokens in the vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np

from homespun.architectures.base import Parameter
from homespun.architectures.families import family, initial_values, parameters
from homespun.architectures.lora import trained_parameters
from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, Batch, Tokens
from homespun.engine.averaging import TRAINED, is_trained, share_of_step
from homespun.engine.base import (
    FLOAT16_LOSS_SCALE,
    EngineOptions,
    Floats,
    OptimizerSettings,
    RouterUse,
    StepResult,
    checked,
    weights_were_rounded,
    within_memory,
)
from homespun.engine.dropout import site_keys
from homespun.engine.low_memory import narrow_parameters
from homespun.engine.mlx import machine
from homespun.engine.mlx.blockwise import Blockwise
from homespun.engine.mlx.decoder import MlxDecoder
from homespun.engine.mlx.dropout import Dropout, of_microbatches
from homespun.engine.mlx.loss import head_loss, row_losses
from homespun.engine.mlx.microbatch import MicroBatch, Sums, attention_mask
from homespun.engine.mlx.model import DecoderModel, Weights
from homespun.engine.mlx.models import model_class
from homespun.engine.mlx.narrow import NarrowOptimizer, total_norm
from homespun.engine.mlx.optimizer import Optimizer, Tensors
from homespun.engine.mlx.packed import Packed
from homespun.named_array import NamedArray


class MlxEngine:
    """A model on one device, with its optimizer if the options have one."""

    def __init__(self, config: ModelConfig, options: EngineOptions) -> None:
        """
        Raises:
            ValueError: a name in `options.frozen` is not a parameter, or all parameters are frozen.
            UserError: the model has no such adapters.
        """
        self.config = config
        self.options = options
        self.model_class = model_class(config.architecture)
        self.dtype = machine.computing_dtype(options.precision)
        self.loss_scale = FLOAT16_LOSS_SCALE if self.dtype == mx.float16 else 1.0
        spec = trained_parameters(config, options.lora)
        self.names = [p.name for p in spec]
        """The weights that `state` gives: all of them, or with LoRA those of the adapters."""
        in_dtype = {
            p.name
            for p in parameters(config)
            if p.group in ("matrix", "head") and not p.is_router  # routers compute in float32
        }
        self.rounded = frozenset(
            p.name for p in spec if options.eight_bits and p.group != "vector" and not p.is_router
        )
        """Weights that are rounded to 8 bits when they are loaded."""
        self.packed: dict[str, Packed] = {}
        """These in 8 bits."""
        self.base: dict[str, mx.array] = {}
        """With LoRA, the weights of the model. Layers cast the matrices, so these are kept in the computing dtype."""
        if options.lora is not None:
            self.base = {
                p.name: mx.zeros(p.shape, self.dtype if p.name in in_dtype else mx.float32)
                for p in parameters(config)
            }
        trained = [p for p in spec if p.name not in options.frozen]
        if unknown := sorted(options.frozen.difference(self.names)):
            raise ValueError(f"{unknown[0]} cannot be frozen: it is not part of this model")
        if not trained:
            raise ValueError("all parameters are frozen: there is nothing to train")
        self.trained = [p.name for p in trained]
        self.trains_head = any(p.group in ("embedding", "head") for p in trained)
        narrow = narrow_parameters(spec) if options.low_memory else frozenset[str]()
        self.tensors: Tensors = {
            p.name: mx.zeros(p.shape, mx.bfloat16 if p.name in narrow else mx.float32) for p in spec
        }
        """Weights and moments; a step replaces them all, or changes those in bfloat16 in place."""
        self.means: Tensors = {}
        """The means of the trained weights over the steps, if the options ask for them."""
        self.compiled: Callable[[Any], Any] = (
            mx.compile if options.compiled else lambda function: function
        )
        self.decoding_model: DecoderModel | None = None
        """Made by the first decoder, dropped when the weights change."""
        self.optimizer: Optimizer | None = None
        if options.optimizer is not None:
            # Only training needs these limits. A process that only reads a model keeps its own.
            machine.set_memory_limits(low=bool(narrow))
            self.optimizer = self._make_optimizer(options.optimizer, trained, narrow)
            self.tensors |= dict(self.optimizer.initial_state())
            if options.averaging:
                self.means = {p.name: mx.zeros(p.shape) for p in trained}
        self.narrow = frozenset(n for n, t in self.tensors.items() if t.dtype == mx.bfloat16)
        self.blockwise: Blockwise | None = None
        """Computes the gradients in low memory."""
        if narrow:
            self.blockwise = Blockwise(
                self._model,
                spec,
                family(config.architecture).block_prefix,
                self.trained,
                (options.aux_loss, options.z_loss),
                self.compiled,
            )
        self.step, self.accumulate = self._functions()
        self.row_losses = self.compiled(self._row_losses)
        if options.seed is not None:
            self.load(initial_values(spec, options.seed))

    @property
    def facts(self) -> dict[str, str]:
        return {
            "engine": f"mlx {version('mlx')}",
            "device": machine.device_name(),
            "precision": str(self.dtype).removeprefix("mlx.core."),
            "compiled": "yes" if self.options.compiled else "no",
            **({"memory": "low"} if self.narrow else {}),
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
        self.decoding_model = None
        rates = {name: mx.array(rate) for name, rate in lr.items()}
        limits = mx.array([loss_limit, norm_limit])
        *others, last = self._on_device(microbatches, step)
        self.tensors, outcome = self.step(
            self.tensors, self.base, self._sums(others), last, rates, limits
        )
        self._add_to_means(step + 1, applied=outcome[2])
        mx.async_eval(self.tensors, self.means, outcome)
        return MlxStep(
            outcome, self.optimizer.settings.max_grad_norm, row_size=3 + self.config.experts
        )

    @within_memory(*machine.OUT_OF_MEMORY)
    def loss(self, batch: Batch) -> tuple[float, int]:
        losses = self._losses(batch)
        return float(losses.sum(dtype=np.float64)), batch.n_targets

    @within_memory(*machine.OUT_OF_MEMORY)
    def log_probabilities(self, batch: Batch) -> Floats:
        return -self._losses(batch).reshape(batch.targets.shape)

    def _losses(self, batch: Batch) -> Floats:
        """The loss of each target, [B * T]."""
        [(tokens, targets, _, _, documents, _)] = self._on_device([batch])
        return machine.to_array(self.row_losses(self.read_weights, tokens, targets, documents))

    @within_memory(*machine.OUT_OF_MEMORY)
    def logits(self, tokens: Tokens) -> Floats:
        model = self._model(self.read_weights)
        documents = self._documents(tokens, always=False)
        hidden, _ = model.hidden(mx.array(tokens), mask=attention_mask(documents))
        return machine.to_array(model.logits(hidden))

    def gradients(
        self, microbatches: Sequence[Batch], step: int | None = None
    ) -> Iterator[NamedArray]:
        sums = self._sums(self._on_device(microbatches, step))
        assert sums is not None
        for name, grad in sums[1].items():
            yield name, machine.to_array(grad / self.loss_scale)

    @within_memory(*machine.OUT_OF_MEMORY)
    def update(
        self, gradients: Iterable[NamedArray], lr: dict[str, float], settings: OptimizerSettings
    ) -> None:
        if self.optimizer is None:
            raise RuntimeError("this engine was made without an optimizer")
        self.decoding_model = None
        if settings != self.optimizer.settings:
            self.optimizer.settings = settings
            self.step, _ = self._functions()  # a compiled step holds the settings as constants
        shapes = {name: self.tensors[name].shape for name in self.trained}
        self.tensors = self.optimizer.step(
            self.tensors,
            {name: mx.array(array) for name, array in checked(gradients, shapes, shapes)},
            {name: mx.array(rate) for name, rate in lr.items()},
            grad_scale=mx.array(1.0),
            refused=mx.array(False),
        )
        mx.eval(self.tensors)

    @within_memory(*machine.OUT_OF_MEMORY)
    def decoder(self, batch_size: int, max_len: int) -> MlxDecoder:
        if self.decoding_model is None:
            self.decoding_model = self._model(self.read_weights).for_decoding(self.packed)
        return MlxDecoder(self.decoding_model, batch_size, max_len)

    @property
    def rounds_weights(self) -> bool:
        return self.options.eight_bits

    def state(self) -> Iterator[NamedArray]:
        if self.options.eight_bits:
            raise weights_were_rounded()
        for name, tensor in self._named_tensors().items():
            yield name, machine.to_array(tensor)

    @within_memory(*machine.OUT_OF_MEMORY)
    def load(self, tensors: Iterable[NamedArray]) -> None:
        self.decoding_model = None
        shapes = {name: tensor.shape for name, tensor in self._named_tensors().items()}
        has_trained = False
        for name, array in checked(tensors, shapes, self.names):
            has_trained = has_trained or is_trained(name)
            place = self.means if name in self.means else self.tensors
            key = name.removeprefix(f"{TRAINED}/")
            place[key] = mx.array(array).astype(place[key].dtype)
            if name in self.narrow:  # otherwise all arrays would be in memory in both dtypes
                mx.eval(place[key])
            # Scales in float32 would turn the stream into float32.
            if name in self.rounded and (packed := Packed.of(mx.array(array).astype(self.dtype))):
                self.packed[name] = packed
                mx.eval(packed.values, packed.scales, packed.offsets)
                self.tensors[name] = packed.widened()  # computed, and in memory, if it is needed
        if not has_trained:  # training goes on with the means
            self.tensors |= self.means

    @within_memory(*machine.OUT_OF_MEMORY)
    def load_base(self, tensors: Iterable[NamedArray]) -> None:
        self.decoding_model = None
        shapes = {name: tensor.shape for name, tensor in self.base.items()}
        for name, array in checked(tensors, shapes, shapes):
            self.base[name] = mx.array(array).astype(self.base[name].dtype)
            mx.eval(self.base[name])  # as in `load`

    def peak_memory(self) -> int:
        return machine.peak_memory()

    def active_memory(self) -> int | None:
        return machine.active_memory()

    @property
    def weights(self) -> Weights:
        """Those that a training step changes."""
        return self.base | {name: self.tensors[name] for name in self.names}

    @property
    def read_weights(self) -> Weights:
        """Those that all but a training step uses."""
        return self.weights | self.means

    def _named_tensors(self) -> Tensors:
        """All tensors of the state, in its order."""
        trained = {f"{TRAINED}/{name}": self.tensors[name] for name in self.means}
        return self.tensors | self.means | trained

    def _add_to_means(self, step: int, applied: mx.array) -> None:
        """Let the means follow the weights that this step has changed. A refused step changes nothing."""
        share = share_of_step(step, self.options.averaging) if self.means else 0.0
        if not share:
            return
        taken = share * applied
        self.means = {
            name: mean + taken * (self.tensors[name] - mean) for name, mean in self.means.items()
        }

    def _make_optimizer(
        self, settings: OptimizerSettings, trained: list[Parameter], narrow: frozenset[str]
    ) -> Optimizer:
        """The optimizer of the trained parameters, of which those in `narrow` are in bfloat16."""
        if not narrow:
            return Optimizer(settings, trained, muon_dtype=self.dtype)
        seed = self.options.seed or 0
        return NarrowOptimizer(settings, trained, self.dtype, narrow, seed, self.compiled)

    def _functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """`_step` and `_accumulate`, compiled if the options say so. In low memory they compute as they go, and only
        their parts are compiled."""
        if self.narrow:
            return self._step, self._accumulate
        return self.compiled(self._step), self.compiled(self._accumulate)

    def _sums(self, batches: Iterable[MicroBatch]) -> Sums | None:
        """Mean loss over the valid targets of all micro-batches together, and its gradients, times the loss scale."""
        sums = None
        for batch in batches:
            sums = self.accumulate(self.weights, sums, batch)
            mx.async_eval(sums)  # otherwise all activations would be in memory at once
        return sums

    def _accumulate(self, weights: Weights, sums: Sums | None, batch: MicroBatch) -> Sums:
        """Add a micro-batch."""
        if self.blockwise is not None:
            return self.blockwise.add(weights, sums, batch)
        tokens, targets, scale, target_weights, documents, dropout = batch

        def scaled_loss(trained: Weights) -> tuple[mx.array, mx.array, mx.array | None]:
            model = self._model(weights | trained)
            hidden, uses = model.hidden(
                tokens,
                gradient_checkpointing=self.options.gradient_checkpointing,
                mask=attention_mask(documents),
                dropout=dropout,
            )
            loss = head_loss(
                hidden.flatten(0, 1),
                model.head,
                targets.flatten(),
                scale,
                None if target_weights is None else target_weights.flatten(),
                wants_head=self.trains_head,
            )
            if uses is None:
                return loss, loss, None
            uses = uses * (
                scale * (targets != IGNORED).sum()
            )  # a micro-batch counts by its targets
            balance, z_loss = uses[:, 0].sum(), uses[:, 1].sum()
            routers = self.options.aux_loss * balance + self.options.z_loss * z_loss
            return loss + routers, loss, uses

        trained = {name: weights[name] for name in self.trained}
        (_, loss, uses), grads = mx.value_and_grad(scaled_loss)(trained)
        if sums is None:
            return loss, grads, uses
        added = {name: sums[1][name] + grad for name, grad in grads.items()}
        all_uses = uses if uses is None or sums[2] is None else sums[2] + uses
        return sums[0] + loss, added, all_uses

    def _step(
        self,
        old: Tensors,
        base: Weights,
        sums: Sums | None,
        last: MicroBatch,
        lr: dict[str, mx.array],
        limits: mx.array,
    ) -> tuple[Tensors, mx.array]:
        """Add the last micro-batch and update: all tensors, and [3 + blocks * (3 + E)]: loss, gradient norm, 1 where it
        was applied, and the use of the experts."""
        assert self.optimizer is not None
        weights = base | {name: old[name] for name in self.names}
        scaled_loss, grads, uses = self._accumulate(weights, sums, last)
        loss = scaled_loss / self.loss_scale
        if self.narrow:
            norm = total_norm(grads.values()) / self.loss_scale
        else:
            squares = mx.stack([grad.square().sum() for grad in grads.values()])
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
        outcome = [figures, applied.astype(mx.float32)[None]]
        if uses is not None:
            outcome.append(uses.flatten() / self.loss_scale)
        return new, mx.concatenate(outcome)

    def _row_losses(
        self, weights: Weights, tokens: mx.array, targets: mx.array, documents: mx.array | None
    ) -> mx.array:
        """[B * T]"""
        model = self._model(weights)
        hidden, _ = model.hidden(tokens, mask=attention_mask(documents))
        return row_losses(hidden.flatten(0, 1), model.head, targets.flatten())

    def _documents(self, tokens: Tokens, *, always: bool) -> mx.array | None:
        """The number of the document of each token [B, T], if a document begins inside a row or numbers are `always`
        wanted: kernels without a mask are faster."""
        mark = self.options.document_mark
        if mark is None or not (always or (tokens[:, 1:] == mark).any()):
            return None
        return mx.array((tokens == mark).cumsum(1, dtype=np.int32))

    def _model(self, weights: Weights) -> DecoderModel:
        """A new module for one computation. Modules are not kept, because they would hold weights that a step has
        replaced, or the tracers of a compilation or a derivative."""
        model = self.model_class(self.config, self.dtype)
        if self.options.lora is not None:
            model.add_adapters(self.options.lora)
        return model.filled(weights)

    def _on_device(self, batches: Sequence[Batch], step: int | None = None) -> Iterator[MicroBatch]:
        """The micro-batches of a step; without a step number there is no dropout."""
        n_targets = sum(batch.n_targets for batch in batches)
        scale = mx.array(self.loss_scale / max(1, n_targets))
        for batch, dropout in zip(batches, self._dropouts(batches, step), strict=True):
            if batch.documents is not None:
                documents: mx.array | None = mx.array(batch.documents)
            else:  # a compiled step always has a mask; otherwise it would be compiled twice
                documents = self._documents(batch.inputs, always=self.options.compiled)
            weights = None if batch.weights is None else mx.array(batch.weights)
            targets = mx.array(batch.targets)
            yield mx.array(batch.inputs), targets, scale, weights, documents, dropout

    def _dropouts(self, batches: Sequence[Batch], step: int | None) -> Iterable[Dropout | None]:
        """The dropout of each micro-batch."""
        options = self.options
        if step is None or not options.dropout:
            return [None] * len(batches)
        keys = mx.array(site_keys(options.seed or 0, step, self.config.n_layers))
        return of_microbatches(options.dropout, keys, [batch.inputs.shape for batch in batches])


@dataclass(frozen=True)
class MlxStep:
    """A dispatched step."""

    outcome: mx.array
    """Loss, gradient norm, 1 where the step was applied, and a row for each block that has experts."""
    max_grad_norm: float
    row_size: int

    def ready(self) -> bool:
        """Always False: MLX cannot tell whether an array is computed without waiting for it."""
        return False

    @within_memory(*machine.OUT_OF_MEMORY)
    def result(self) -> StepResult:
        loss, norm, applied, *uses = map(float, machine.to_array(self.outcome))
        rows = [uses[i : i + self.row_size] for i in range(0, len(uses), self.row_size)]
        return StepResult(
            loss,
            norm,
            clipped=bool(applied) and norm > self.max_grad_norm,
            applied=bool(applied),
            routers=tuple(map(RouterUse.of_row, rows)),
        )
