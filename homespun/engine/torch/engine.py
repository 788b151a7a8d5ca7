"""The engine for CPUs and CUDA: batches in, optimizer steps, losses, logits and state out."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from homespun.architectures.base import Parameter
from homespun.architectures.families import initial_values
from homespun.architectures.lora import trained_parameters
from homespun.config import ModelConfig
from homespun.data.batch import Batch, Tokens
from homespun.engine.averaging import TRAINED, is_trained, share_of_step
from homespun.engine.base import (
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
from homespun.engine.hardware import usable_cpus
from homespun.engine.low_memory import narrow_parameters
from homespun.engine.torch import machine
from homespun.engine.torch.decoder import TorchDecoder
from homespun.engine.torch.dropout import Dropout, of_microbatches
from homespun.engine.torch.eight_bits import DTYPE, rounded, widened
from homespun.engine.torch.layers import document_mask
from homespun.engine.torch.loss import (
    head_loss,
    loss_to_slope,
    row_log_probabilities,
    summed_loss,
)
from homespun.engine.torch.model import DecoderModel
from homespun.engine.torch.models import model_class
from homespun.engine.torch.narrow import NarrowOptimizer, total_norm
from homespun.engine.torch.optimizer import Optimizer
from homespun.errors import UserError
from homespun.named_array import NamedArray


class Whole(NamedTuple):
    """A step of which some micro-batches are a part."""

    n_targets: int
    """Valid targets of all."""
    tokens_before: int = 0
    """Tokens of the step before this part."""


class TorchEngine:
    """A model on one device, and its optimizer if the options have one.

    An engine with an optimizer owns the process: it sets the number of threads and keeps freed memory. An engine
    without one leaves the process as it is, and sets the number of threads for the time of a call.
    """

    @within_memory(*machine.OUT_OF_MEMORY)
    def __init__(self, config: ModelConfig, options: EngineOptions) -> None:
        """
        Raises:
            ValueError: a name in `options.frozen` is not a parameter, or all parameters are frozen.
            UserError: the model has no such adapters.
        """
        self.options = options
        self.device = machine.device()
        trains = options.optimizer is not None
        self.call_threads: int | None = None
        if self.device.type == "cpu":
            threads = options.threads or usable_cpus()
            if trains:
                torch.set_num_threads(threads)
                self._set_up_memory()
            else:
                self.call_threads = threads
        dtype = machine.computing_dtype(options.precision)
        if options.eight_bits:
            if self.device.type != "cpu":
                raise UserError("--precision int8 does not exist on this GPU: choose bfloat16")
            dtype = DTYPE
        spec = trained_parameters(config, options.lora)
        narrow = narrow_parameters(spec) if options.low_memory else frozenset[str]()
        self.model = self._make_model(
            config, dtype, torch.device("meta") if narrow else self.device
        )
        if narrow:
            self.model.allocate(narrow, self.device)
        tensors: dict[str, Tensor] = dict(self.model.named_parameters())
        self.weights: dict[str, Tensor] = {p.name: tensors.pop(p.name) for p in spec}
        """The weights that `state` gives: all of them, or with LoRA those of the adapters."""
        self.rounded = frozenset(
            p.name for p in spec if options.eight_bits and p.group != "vector" and not p.is_router
        )
        """Weights that are rounded to 8 bits when they are loaded."""
        self.base: dict[str, Tensor] = tensors
        """With LoRA, the weights of the model."""
        trained = _trained(self.weights, options.frozen) if trains else set()
        for name, weight in self.weights.items():
            weight.requires_grad_(name in trained)
        self.trained = {name: w for name, w in self.weights.items() if name in trained}
        self.means: dict[str, Tensor] = {}
        """The means of the trained weights over the steps, if the options ask for them."""
        if trains and options.averaging:
            self.means = {name: torch.zeros_like(w.detach()) for name, w in self.trained.items()}
        self.decoding_model: DecoderModel | None = None
        self.loss_to_slope = loss_to_slope
        if options.compiled:
            for block in self.model.blocks:
                block.compile(dynamic=False)
            self.loss_to_slope = torch.compile(loss_to_slope, dynamic=False)
        self.optimizer: Optimizer | None = None
        if options.optimizer is not None:
            spec = [p for p in spec if p.name in trained]
            self.optimizer = self._make_optimizer(options.optimizer, spec, narrow & trained)
        self.narrow = frozenset(n for n, t in self._tensors() if t.dtype == torch.bfloat16)
        if options.seed is not None:
            self.load(initial_values(trained_parameters(config, options.lora), options.seed))

    @property
    def facts(self) -> dict[str, str]:
        return {
            "engine": f"torch {torch.__version__}",
            "device": machine.device_name(),
            "precision": str(self.model.dtype).removeprefix("torch."),
            "compiled": "yes" if self.options.compiled else "no",
            "threads": str(self.call_threads or torch.get_num_threads()),
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
    ) -> "TorchStep":
        if self.optimizer is None:
            raise RuntimeError("this engine was made without an optimizer")
        self.decoding_model = None
        max_norm = self.optimizer.settings.max_grad_norm
        loss, uses, grads = self._backward(microbatches, step)
        loss, uses, norm = self._totals(loss, uses, grads)
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        refused = (~(finite & (loss <= loss_limit) & (norm <= norm_limit))).float()
        with torch.no_grad():
            grad_scale = (norm / max_norm).clamp(min=1.0)
            self.optimizer.step(grads, lr, grad_scale, refused)
            self._updated()
            self._add_to_means(step + 1, refused)
        self._release_gradients()
        return TorchStep(torch.stack((loss, norm, refused)), uses, max_norm)

    @within_memory(*machine.OUT_OF_MEMORY)
    def loss(self, batch: Batch) -> tuple[float, int]:
        with torch.no_grad(), machine.use_threads(self.call_threads), self._with_means():
            hidden, _ = self._hidden(batch.inputs, batch.documents)
            targets = self._on_device(batch.targets).flatten()
            total = summed_loss(hidden.flatten(0, 1), self.model.head, targets)
            return total.item(), batch.n_targets

    @within_memory(*machine.OUT_OF_MEMORY)
    def log_probabilities(self, batch: Batch) -> Floats:
        with torch.no_grad(), machine.use_threads(self.call_threads), self._with_means():
            hidden, _ = self._hidden(batch.inputs, batch.documents)
            targets = self._on_device(batch.targets)
            rows = row_log_probabilities(hidden.flatten(0, 1), self.model.head, targets.flatten())
            return machine.to_array(rows.view_as(targets))

    @within_memory(*machine.OUT_OF_MEMORY)
    def logits(self, tokens: Tokens) -> Floats:
        with torch.no_grad(), machine.use_threads(self.call_threads), self._with_means():
            hidden, _ = self._hidden(tokens)
            return machine.to_array(self.model.logits(hidden))

    def gradients(
        self, microbatches: Sequence[Batch], step: int | None = None
    ) -> Iterator[NamedArray]:
        _, _, grads = self._backward(microbatches, step)
        for name, grad in grads.items():
            yield name, machine.to_array(grad)
        self._release_gradients()

    @within_memory(*machine.OUT_OF_MEMORY)
    def update(
        self, gradients: Iterable[NamedArray], lr: dict[str, float], settings: OptimizerSettings
    ) -> None:
        if self.optimizer is None:
            raise RuntimeError("this engine was made without an optimizer")
        self.decoding_model = None
        shapes = {name: tuple(weight.shape) for name, weight in self.trained.items()}
        grads = {  # copies, because the optimizer may write into them
            name: torch.tensor(array, device=self.device)
            for name, array in checked(gradients, shapes, shapes)
        }
        self.optimizer.settings = settings
        whole, applied = torch.ones((), device=self.device), torch.zeros((), device=self.device)
        with torch.no_grad():
            self.optimizer.step(grads, lr, grad_scale=whole, refused=applied)

    @within_memory(*machine.OUT_OF_MEMORY)
    def decoder(self, batch_size: int, max_len: int) -> TorchDecoder:
        if self.decoding_model is None:
            # A decoder keeps its weights when training continues; without training, copies would only take memory.
            with self._with_means():
                self.decoding_model = self.model.for_decoding(
                    copy=self.optimizer is not None, eight_bits=self.options.eight_bits
                )
        return TorchDecoder(self.decoding_model, batch_size, max_len, self.call_threads)

    @property
    def rounds_weights(self) -> bool:
        return self.options.eight_bits

    def state(self) -> Iterator[NamedArray]:
        if self.options.eight_bits:
            raise weights_were_rounded()
        for name, tensor in self._tensors():
            yield name, machine.to_array(tensor)

    @within_memory(*machine.OUT_OF_MEMORY)
    def load(self, tensors: Iterable[NamedArray]) -> None:
        # Without an optimizer, decoders share the weights, and keep those that they began with.
        shared = self.decoding_model is not None and self.optimizer is None
        self.decoding_model = None
        ours = dict(self._tensors())
        shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        has_trained = False
        for name, array in checked(tensors, shapes, self.weights):
            has_trained = has_trained or is_trained(name)
            with torch.no_grad():
                if shared:
                    ours[name].data = torch.empty_like(ours[name])
                ours[name].copy_(torch.from_numpy(array))
                if name in self.rounded:
                    ours[name].copy_(widened(*rounded(ours[name])))
        if not has_trained:  # training goes on with the means
            with torch.no_grad():
                for name, mean in self.means.items():
                    self.trained[name].copy_(mean)

    @within_memory(*machine.OUT_OF_MEMORY)
    def load_base(self, tensors: Iterable[NamedArray]) -> None:
        self.decoding_model = None
        shapes = {name: tuple(tensor.shape) for name, tensor in self.base.items()}
        for name, array in checked(tensors, shapes, shapes):
            with torch.no_grad():
                self.base[name].copy_(torch.from_numpy(array))

    def peak_memory(self) -> int:
        return machine.peak_memory()

    def active_memory(self) -> int | None:
        return machine.active_memory()

    # Several ranks do these parts together (`ranks.py`).

    def _set_up_memory(self) -> None:
        """Choose how the processor's memory is allocated."""
        machine.keep_freed_memory()

    def _make_model(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device
    ) -> DecoderModel:
        """The model with its adapters; all values are zeros."""
        with device:
            model: DecoderModel = model_class(config.architecture)(config, dtype)
            if self.options.lora is not None:
                model.add_adapters(self.options.lora)
        return model

    def _make_optimizer(
        self, settings: OptimizerSettings, spec: list[Parameter], narrow: frozenset[str]
    ) -> Optimizer:
        """The optimizer of the trained parameters, of which those in `narrow` are in bfloat16."""
        dtype = self.model.dtype
        if narrow:
            seed = self.options.seed or 0
            return NarrowOptimizer(settings, spec, self.trained, dtype, narrow, seed)
        return Optimizer(settings, spec, self.trained, muon_dtype=dtype)

    def _totals(
        self, loss: Tensor, uses: Tensor | None, grads: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Loss and use of the experts of a step, and the norm of its gradients."""
        norm = total_norm if self.narrow else torch.nn.utils.get_total_norm
        return loss, uses, norm(grads.values())

    def _updated(self) -> None:
        """The optimizer has changed the weights that it holds."""

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from (self.weights | self.means).items()
        if self.optimizer is not None:
            yield from self.optimizer.state()
        for name in self.means:
            yield f"{TRAINED}/{name}", self.trained[name]

    def _add_to_means(self, step: int, refused: Tensor) -> None:
        """Let the means follow the weights that this step has changed. A refused step changes nothing."""
        share = share_of_step(step, self.options.averaging) if self.means else 0.0
        if not share:
            return
        taken = share * (1.0 - refused)
        for name, mean in self.means.items():
            mean.lerp_(self.trained[name], taken)

    @contextmanager
    def _with_means(self) -> Iterator[None]:
        """In the body, the model has the means in the place of the weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, mean in self.means.items():
            weight = self.trained[name]
            weight.data, self.means[name] = mean, weight.data

    def _backward(
        self, microbatches: Sequence[Batch], step: int | None, whole: Whole | None = None
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The mean loss over the valid targets of all micro-batches together, with the dropout of a step, the use of
        the experts, and the gradients. A micro-batch has the losses of its routers in proportion to its targets.

        `whole`: the step of which the micro-batches are a part; the results are then parts of a sum.
        """
        whole = whole or Whole(sum(batch.n_targets for batch in microbatches))
        # Filled on the device: a copy from the host would make the host wait.
        scale = torch.full((), 1.0 / max(1, whole.n_targets), device=self.device)
        self._release_gradients()
        loss = torch.zeros((), device=self.device)
        all_uses: Tensor | None = None
        dropouts = self._dropouts(microbatches, step, whole.tokens_before)
        for batch, dropout in zip(microbatches, dropouts, strict=True):
            hidden, uses = self._hidden(batch.inputs, batch.documents, dropout)
            part = head_loss(
                hidden.flatten(0, 1),
                self.model.head,
                self._on_device(batch.targets).flatten(),
                scale,
                self.loss_to_slope,
                None
                if batch.weights is None
                else machine.on_device(batch.weights, self.device).flatten(),
            )
            loss += part.detach()
            if uses is not None:
                uses = uses * (batch.n_targets * scale)  # [blocks, 3 + E]
                balance, z_loss = uses[:, 0].sum(), uses[:, 1].sum()
                part = part + self.options.aux_loss * balance + self.options.z_loss * z_loss
                all_uses = uses.detach() if all_uses is None else all_uses + uses.detach()
            torch.autograd.backward(part)
        return (
            loss,
            all_uses,
            {
                name: torch.zeros_like(weight) if weight.grad is None else weight.grad
                for name, weight in self.trained.items()
            },
        )

    def _dropouts(
        self, microbatches: Sequence[Batch], step: int | None, tokens_before: int
    ) -> Iterable[Dropout | None]:
        """The dropout of each micro-batch, of a step that has so many tokens before them."""
        options = self.options
        if step is None or not options.dropout:
            return [None] * len(microbatches)
        keys = site_keys(options.seed or 0, step, self.model.config.n_layers).view(np.int32)
        shapes = [batch.inputs.shape for batch in microbatches]
        keys_there = machine.on_device(keys, self.device)
        return of_microbatches(options.dropout, keys_there, shapes, tokens_before)

    def _hidden(
        self, inputs: Tokens, documents: Tokens | None = None, dropout: Dropout | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `DecoderModel.hidden`, with a mask that keeps documents apart: those given as in `Batch`, or those that
        the document mark of the options begins."""
        tokens, mark, mask = self._on_device(inputs), self.options.document_mark, None
        # Kernels without a mask are faster, so a mask is used only if a document begins inside a row. Compiled steps
        # always have a mask; otherwise they would be compiled twice.
        if documents is not None:
            mask = document_mask(self._on_device(documents), self.model.dtype)
        elif mark is not None and (self.options.compiled or (inputs[:, 1:] == mark).any()):
            mask = document_mask((tokens == mark).cumsum(1), self.model.dtype)
        checkpointing = self.options.gradient_checkpointing and torch.is_grad_enabled()
        return self.model.hidden(
            tokens, gradient_checkpointing=checkpointing, mask=mask, dropout=dropout
        )

    def _release_gradients(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    def _on_device(self, tokens: Tokens) -> Tensor:
        return machine.on_device(tokens, self.device).long()


class TorchStep:
    """A dispatched step. On CUDA its figures are on their way to the host; reading them waits for this step, but not
    for steps that were dispatched later."""

    def __init__(self, figures: Tensor, uses: Tensor | None, max_grad_norm: float) -> None:
        """`figures` [3]: loss, gradient norm, and 1.0 if the step was refused; `uses` [blocks, 3 + E]: of experts."""
        self.n_blocks = 0 if uses is None else len(uses)
        if uses is not None:
            figures = torch.cat((figures, uses.flatten()))
        self.figures, self.arrived = machine.to_host(figures)
        self.max_grad_norm = max_grad_norm

    def ready(self) -> bool:
        return self.arrived is None or bool(self.arrived.query())  # type: ignore[no-untyped-call]

    def result(self) -> StepResult:
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, norm, refused = self.figures[:3].tolist()
        applied = not refused
        rows = self.figures[3:].view(self.n_blocks, -1).tolist() if self.n_blocks else []
        return StepResult(
            loss,
            norm,
            clipped=applied and norm > self.max_grad_norm,
            applied=applied,
            routers=tuple(map(RouterUse.of_row, rows)),
        )


def _trained(weights: Iterable[str], frozen: frozenset[str]) -> set[str]:
    """The names of the parameters that are not frozen."""
    names = set(weights)
    if unknown := sorted(frozen - names):
        raise ValueError(f"{unknown[0]} cannot be frozen: it is not part of this model")
    if names == frozen:
        raise ValueError("all parameters are frozen: there is nothing to train")
    return names - frozen
