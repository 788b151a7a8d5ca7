"""Ranks that each hold a part of the model: weights, gradients and moments are divided by rows.

PyTorch's `fully_shard` gathers the weights of a block before the block computes, frees them afterwards, and adds the
gradients up. So a rank never holds more than two blocks, and the embedding and the head, as a whole. The optimizer
updates the rows of the rank; for Muon, which needs whole matrices, ranks exchange rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from homespun.architectures.base import Parameter
from homespun.architectures.families import count_parameters
from homespun.config import ModelConfig
from homespun.data.batch import Batch, Tokens
from homespun.engine.base import Floats, OptimizerSettings, OutOfMemory, within_memory
from homespun.engine.torch import machine
from homespun.engine.torch.decoder import TorchDecoder
from homespun.engine.torch.dropout import Dropout
from homespun.engine.torch.engine import Whole
from homespun.engine.torch.group import Group
from homespun.engine.torch.model import DecoderModel
from homespun.engine.torch.optimizer import Optimizer
from homespun.engine.torch.ranked_engine import Part, RankedEngine, Rows
from homespun.engine.torch.shares import filled_up


def rows_of(n: int, n_ranks: int) -> Rows:
    """The rows of each rank as `fully_shard` divides them: equally many, but for the last ranks."""
    size = -(-n // n_ranks)
    return tuple((min(n, rank * size), min(n, (rank + 1) * size)) for rank in range(n_ranks))


class ShardedEngine(RankedEngine):
    """The engine of a rank that holds some rows of each weight."""

    @property
    def facts(self) -> dict[str, str]:
        return super().facts | {"shard": "full"}

    def logits(self, tokens: Tokens) -> Floats:
        self._tell("logits", [Batch(tokens, tokens)])
        return super().logits(tokens)

    def decoder(self, batch_size: int, max_len: int) -> TorchDecoder:
        """A decoder of rank 0, which takes the whole model for it.

        Raises:
            OutOfMemory: it has no room for that.
        """
        if self.decoding_model is None:
            n_bytes = (4 + self.model.dtype.itemsize) * count_parameters(self.model.config)
            if n_bytes > machine.memory_available():
                raise OutOfMemory
            with within_memory(*machine.OUT_OF_MEMORY):  # before the others are told to send
                model = super()._make_model(self.model.config, self.model.dtype, self.device)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.whole(name))
            self.decoding_model = model.for_decoding(copy=False)
        return super().decoder(batch_size, max_len)

    def _set_up_memory(self) -> None:
        machine.return_freed_memory()

    def _make_model(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device
    ) -> DecoderModel:
        """The model is divided before it has memory."""
        model: Any = super()._make_model(config, dtype, torch.device("meta"))
        for name, parameter in model.named_parameters():
            if name in self.options.frozen:
                parameter.requires_grad_(False)
        mesh = init_device_mesh(device.type, (self._group.place.size,))
        for module in (*model.blocks, model):
            fully_shard(module, mesh=mesh)
            # The loss is divided by the targets of all ranks, so gradients are added up.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        register_fsdp_forward_method(model, "hidden")
        model.to_empty(device=device)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.to_local().zero_()
        divided: DecoderModel = model
        return divided

    def _make_optimizer(
        self, settings: OptimizerSettings, spec: list[Parameter], narrow: frozenset[str]
    ) -> Optimizer:
        return ShardedOptimizer(settings, spec, self._held_weights(), self.model.dtype, self._group)

    def _held_weights(self) -> dict[str, Tensor]:
        return {name: _held(weight) for name, weight in self.trained.items()}

    def _hidden(
        self, inputs: Tokens, documents: Tokens | None = None, dropout: Dropout | None = None
    ) -> tuple[Tensor, Tensor | None]:
        with self._group.computing():
            return super()._hidden(inputs, documents, dropout)

    def _backward(
        self, microbatches: Sequence[Batch], step: int | None, whole: Whole | None = None
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        with self._group.computing():
            return super()._backward(microbatches, step, whole)

    def _share(self, microbatches: Sequence[Batch]) -> tuple[int, list[Batch]]:
        """All ranks gather weights together, so each has the same number of micro-batches."""
        first, mine = super()._share(microbatches)
        return first, filled_up(mine, microbatches, self._group.place)

    def _summed(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self.optimizer
        self.optimizer.weights = self._held_weights()  # their memory may be another one now
        return {name: _held(grad) for name, grad in grads.items()}

    def _rows_of(self, name: str) -> Rows:
        return rows_of(len(self.trained[name]), self._group.place.size)

    def _part(self, name: str) -> Part:
        model: Any = self.model
        model.reshard()  # after an evaluation, embedding and head are still gathered
        n_ranks = self._group.place.size
        if (weight := self.weights.get(name, self.base.get(name))) is not None:
            return Part(tuple(weight.shape), _held(weight), rows_of(len(weight), n_ranks))
        assert self.optimizer
        p, held = self._moments[name], dict(self.optimizer.state())[name]
        return Part((), held) if p is None else Part(p.shape, held, rows_of(p.shape[0], n_ranks))


def _held(tensor: Any) -> Tensor:
    """The rows of this rank."""
    held: Tensor = tensor.detach().to_local()
    return held


class ShardedOptimizer(Optimizer):
    """An optimizer of rows. `weights` has those of this rank."""

    def __init__(
        self,
        settings: OptimizerSettings,
        spec: list[Parameter],
        weights: dict[str, Tensor],
        muon_dtype: torch.dtype,
        group: Group,
    ) -> None:
        super().__init__(settings, spec, weights, muon_dtype)
        self._group = group

    def _direction(self, ahead: Tensor, like: Parameter) -> Tensor:
        """Each rank gets the rows of some of the N matrices from all others, makes these matrices orthogonal, and
        returns the rows."""
        if len(like.shape) > 2:  # the rows are whole matrices
            return super()._direction(ahead, like) if ahead.numel() else ahead
        place = self._group.place
        n, (n_rows, width) = len(ahead), like.shape
        rows = rows_of(n_rows, place.size)
        taken = [
            n * (rank + 1) // place.size - n * rank // place.size for rank in range(place.size)
        ]
        mine = taken[place.rank]
        here = [count * ahead.shape[1] * width for count in taken]
        there = [mine * (end - first) * width for first, end in rows]
        received = self._group.exchange(ahead.flatten(), here, there)
        parts = zip(torch.split(received, there), rows, strict=True)
        whole = torch.cat([part.view(mine, end - first, width) for part, (first, end) in parts], 1)
        if mine:
            whole = super()._direction(whole, like)
        back = torch.cat([whole[:, first:end].flatten() for first, end in rows])
        return self._group.exchange(back, there, here).view(ahead.shape)
