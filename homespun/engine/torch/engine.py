"""The engine for CPUs and CUDA: batches in, optimizer steps, losses, logits and state out."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from homespun.architectures.families import initial_weights, parameters
from homespun.config import ModelConfig
from homespun.data.batch import Batch, Tokens
from homespun.engine.base import EngineOptions, Floats, StepResult, checked, within_memory
from homespun.engine.dropout import site_keys
from homespun.engine.hardware import n_cores
from homespun.engine.torch import machine
from homespun.engine.torch.dropout import Dropout, of_microbatches
from homespun.engine.torch.loss import head_loss, loss_and_slope, summed_loss
from homespun.engine.torch.model import BLOCKS, LayerCache, Model, document_mask
from homespun.engine.torch.optimizer import Optimizer
from homespun.named_array import NamedArray


class TorchEngine:
    """A model on one device, with its optimizer if the options have one."""

    @within_memory(*machine.OUT_OF_MEMORY)
    def __init__(self, config: ModelConfig, options: EngineOptions) -> None:
        self.options = options
        self.device = machine.device()
        if self.device.type == "cpu":
            torch.set_num_threads(options.threads or n_cores())
            machine.keep_freed_memory()
        trains = options.optimizer is not None
        spec = parameters(config)
        self.weights = {
            p.name: torch.zeros(p.shape, device=self.device, requires_grad=trains) for p in spec
        }
        block = BLOCKS[config.architecture]
        self.loss_and_slope = loss_and_slope
        if options.compiled:
            block = torch.compile(block, dynamic=False)
            self.loss_and_slope = torch.compile(loss_and_slope, dynamic=False)
        dtype = machine.computing_dtype(options.precision)
        self.model = Model(config, self.weights, dtype, block)
        self.optimizer: Optimizer | None = None
        if options.optimizer is not None:
            self.optimizer = Optimizer(options.optimizer, spec, self.weights, muon_dtype=dtype)
        if options.seed is not None:
            self.load(initial_weights(config, options.seed))

    @property
    def facts(self) -> dict[str, str]:
        return {
            "engine": f"torch {torch.__version__}",
            "device": machine.device_name(),
            "precision": str(self.model.dtype).removeprefix("torch."),
            "compiled": "yes" if self.options.compiled else "no",
            "threads": str(torch.get_num_threads()),
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
        max_norm = self.optimizer.settings.max_grad_norm
        loss, grads = self._backward(microbatches, step)
        norm = torch.nn.utils.get_total_norm(grads.values())
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        refused = (~(finite & (loss <= loss_limit) & (norm <= norm_limit))).float()
        with torch.no_grad():
            grad_scale = (norm / max_norm).clamp(min=1.0)
            self.optimizer.step(grads, lr, grad_scale, refused)
        self._release_gradients()
        return TorchStep(torch.stack((loss, norm, refused)), max_norm)

    @within_memory(*machine.OUT_OF_MEMORY)
    def loss(self, batch: Batch) -> tuple[float, int]:
        with torch.no_grad():
            hidden = self._hidden(batch).flatten(0, 1)
            targets = self._on_device(batch.targets).flatten()
            return summed_loss(hidden, self.model.head, targets).item(), batch.n_targets

    def logits(self, tokens: Tokens) -> Floats:
        with torch.no_grad():
            return _array(self.model.logits(self.model.hidden(self._on_device(tokens))))

    def gradients(
        self, microbatches: Sequence[Batch], step: int | None = None
    ) -> Iterator[NamedArray]:
        _, grads = self._backward(microbatches, step)
        for name, grad in grads.items():
            yield name, _array(grad)
        self._release_gradients()

    def decoder(self, batch_size: int, max_len: int) -> "TorchDecoder":
        return TorchDecoder(self.model.for_decoding(), batch_size, max_len)

    def state(self) -> Iterator[NamedArray]:
        for name, tensor in self._tensors():
            yield name, _array(tensor)

    def load(self, tensors: Iterable[NamedArray]) -> None:
        ours = dict(self._tensors())
        shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        for name, array in checked(tensors, shapes, self.weights):
            with torch.no_grad():
                ours[name].copy_(torch.from_numpy(array))

    def peak_memory(self) -> int:
        return machine.peak_memory()

    def active_memory(self) -> int | None:
        return machine.active_memory()

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.weights.items()
        if self.optimizer is not None:
            yield from self.optimizer.state()

    def _backward(
        self, microbatches: Sequence[Batch], step: int | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the valid targets of all micro-batches together, and its gradients, with the dropout of a
        step."""
        n_targets = sum(batch.n_targets for batch in microbatches)
        # Filled on the device: to send a number there from the host would make the host wait.
        scale = torch.full((), 1.0 / max(1, n_targets), device=self.device)
        self._release_gradients()
        loss = torch.zeros((), device=self.device)
        for batch, drop in zip(microbatches, self._dropouts(microbatches, step), strict=True):
            hidden = self._hidden(batch, drop)
            part = head_loss(
                hidden.flatten(0, 1),
                self.model.head,
                self._on_device(batch.targets).flatten(),
                scale,
                self.loss_and_slope,
            )
            torch.autograd.backward(part)
            loss += part.detach()
        return loss, {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad
            for name, weight in self.weights.items()
        }

    def _dropouts(
        self, microbatches: Sequence[Batch], step: int | None
    ) -> Iterable[Dropout | None]:
        """One for each micro-batch."""
        options = self.options
        if step is None or not options.dropout:
            return [None] * len(microbatches)
        keys = site_keys(options.seed or 0, step, self.model.config.n_layers).view(np.int32)
        shapes = [batch.inputs.shape for batch in microbatches]
        return of_microbatches(options.dropout, machine.on_device(keys, self.device), shapes)

    def _hidden(self, batch: Batch, drop: Dropout | None = None) -> Tensor:
        """The normed stream [B, T, D], no document of which sees another."""
        tokens, mark, mask = self._on_device(batch.inputs), self.options.document_mark, None
        # Only where it makes a difference, since without a mask there are faster kernels; compiled steps stay alike.
        if mark is not None and (self.options.compiled or (batch.inputs[:, 1:] == mark).any()):
            mask = document_mask(tokens, mark, self.model.dtype)
        checkpointing = self.options.gradient_checkpointing and torch.is_grad_enabled()
        return self.model.hidden(tokens, gradient_checkpointing=checkpointing, mask=mask, drop=drop)

    def _release_gradients(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    def _on_device(self, tokens: Tokens) -> Tensor:
        return machine.on_device(tokens, self.device).long()


class TorchStep:
    """A dispatched step; on CUDA its figures are on their way to the host, and reading them waits for this step, not
    for those that were dispatched after it."""

    def __init__(self, figures: Tensor, max_grad_norm: float) -> None:
        """`figures` [3] are loss, gradient norm, and 1.0 where the step was refused."""
        self.figures, self.arrived = machine.to_host(figures)
        self.max_grad_norm = max_grad_norm

    def ready(self) -> bool:
        return self.arrived is None or bool(self.arrived.query())  # type: ignore[no-untyped-call]

    def result(self) -> StepResult:
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, norm, refused = self.figures.tolist()
        applied = not refused
        return StepResult(
            loss, norm, clipped=applied and norm > self.max_grad_norm, applied=applied
        )


class TorchDecoder:
    """The model, one token at a time, with a cache for `max_len` positions."""

    def __init__(self, model: Model, batch_size: int, max_len: int) -> None:
        c = model.config
        if max_len > c.seq_len:
            raise ValueError(f"{max_len} positions are more than the model's {c.seq_len}")
        self.model = model
        shape = (batch_size, c.n_kv_heads, max_len, c.head_dim)
        device = model.embedding.device
        self.cache = [
            LayerCache(
                torch.zeros(shape, dtype=model.dtype, device=device),
                torch.zeros(shape, dtype=model.dtype, device=device),
            )
            for _ in range(c.n_layers)
        ]

    @property
    def length(self) -> int:
        return self.cache[0].length

    def prefill(self, tokens: Tokens) -> Floats:
        with torch.inference_mode():
            ids = machine.on_device(tokens, self.model.embedding.device).long()
            hidden = self.model.hidden(ids, self.cache)
            return _array(self.model.logits(hidden[:, -1]))

    def step(self, tokens: Tokens) -> Floats:
        return self.prefill(tokens[:, None])

    def rewind(self, length: int) -> None:
        for layer in self.cache:
            layer.length = length


def _array(tensor: Tensor) -> Floats:
    """A copy in NumPy, which later steps do not change."""
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()
