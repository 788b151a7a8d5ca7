"""Ranks that all hold the whole model, and divide the work of the optimizer: each updates some of the weights.

The sum of a gradient is needed only where its weights are updated. It is computed there while the backward pass goes
on, in a fixed order, so that the result does not depend on timing. The new weights then go to all ranks. Moments exist
once (ZeRO stage 1, Rajbhandari et al., 2020). Muon needs whole matrices, so each matrix is updated by one rank. On the
processors of one machine, gradients and weights lie in memory that all ranks see (`neighbours.py`).
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from homespun.architectures.base import Parameter
from homespun.config import ModelConfig
from homespun.data.batch import Tokens
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.muon import parameter_groups
from homespun.engine.torch.decoder import TorchDecoder
from homespun.engine.torch.dropout import Dropout
from homespun.engine.torch.group import Begun, Group
from homespun.engine.torch.neighbours import neighbours
from homespun.engine.torch.optimizer import Optimizer
from homespun.engine.torch.ranked_engine import Part, RankedEngine, Rows

SMALL = 2**13
"""Parameters of at most so many numbers travel together."""


class Parcel(NamedTuple):
    """Gradients, and later weights, that travel together: one large parameter, or the small ones of one rank."""

    names: tuple[str, ...]
    owner: int | None = None
    """The rank that updates the small ones."""


def divided(spec: Sequence[Parameter], optimizer: str, n_ranks: int) -> dict[str, Rows]:
    """The rows of each parameter that each rank updates, so that all have about the same work.

    Large parameters are cut into even pieces. Small ones, and matrices that Muon updates, stay whole.
    """
    stacks, _ = parameter_groups(list(spec), optimizer)
    of_muon = {p.name for alike in stacks for p in alike}
    work = {is_muon: [0] * n_ranks for is_muon in (False, True)}
    found = {}
    for p in sorted(spec, key=lambda p: p.size, reverse=True):
        is_muon, n = p.name in of_muon, p.shape[0]
        if p.size > SMALL and not (is_muon and len(p.shape) == 2):
            found[p.name] = even_rows(n, n_ranks)
            continue
        loads = work[is_muon]
        owner = loads.index(min(loads))
        loads[owner] += p.size * min(p.matrix_shape) if is_muon else p.size
        found[p.name] = tuple((0, n if rank == owner else 0) for rank in range(n_ranks))
    return found


def even_rows(n: int, n_ranks: int) -> Rows:
    """Rows in pieces that differ by one at most."""
    cuts = [n * rank // n_ranks for rank in range(n_ranks + 1)]
    return tuple(itertools.pairwise(cuts))


def parcels(spec: Sequence[Parameter], rows: dict[str, Rows]) -> list[Parcel]:
    """All parameters, in about the order in which a backward pass computes their gradients."""
    small: dict[int, list[str]] = {}
    for p in spec:
        if p.size <= SMALL:
            [owner] = (rank for rank, (first, end) in enumerate(rows[p.name]) if end > first)
            small.setdefault(owner, []).append(p.name)
    large = [Parcel((p.name,)) for p in reversed(spec) if p.size > SMALL]
    return large + [Parcel(tuple(names), owner) for owner, names in sorted(small.items())]


class ReplicatedEngine(RankedEngine):
    """The engine of a rank that holds the whole model."""

    def __init__(self, config: ModelConfig, options: EngineOptions, group: Group) -> None:
        """Raises as `TorchEngine`."""
        super().__init__(config, options, group)
        if self._neighbours:
            group.arriving.append(group.meet())  # all have written the initial weights

    def _make_optimizer(
        self, settings: OptimizerSettings, spec: list[Parameter], narrow: frozenset[str]
    ) -> Optimizer:
        group = self._group
        self._rows = divided(spec, settings.name, group.place.size)
        self._parcels = parcels(spec, self._rows)
        self._neighbours = (
            neighbours(group, sum(p.size for p in spec)) if self.device.type == "cpu" else None
        )
        self._pieces = [self._weights_of(parcel) for parcel in self._parcels]
        self._counts: dict[str, int] = {}
        """The micro-batches of a step that have added to each gradient."""
        self._n_backward = self._n_begun = 0
        self._sums: list[Begun] = []
        self._flat: dict[int, Tensor] = {}
        """The gradients of the small parameters of each rank."""
        held = {}
        for name, weight in self.trained.items():
            first, end = self._rows[name][group.place.rank]
            if end > first:
                held[name] = weight.detach()[first:end]
            hook = partial(self._on_gradient, name)
            weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        mine = [p for p in spec if p.name in held]
        optimizer = Optimizer(settings, mine, held, muon_dtype=self.model.dtype)
        optimizer.steps = optimizer.steps.to(self.device)
        return optimizer

    def _weights_of(self, parcel: Parcel) -> list[tuple[Tensor, int]]:
        """The pieces of a parcel's weights, each with the rank that updates it. Small weights get one memory."""
        weights = [self.trained[name] for name in parcel.names]
        whole = weights[0].detach()
        if self._neighbours or parcel.owner is not None:
            n = sum(weight.numel() for weight in weights)
            flat = self._neighbours.memory(n) if self._neighbours else whole.new_empty(n)
            for weight, values in zip(weights, _split(flat, weights), strict=True):
                values.copy_(weight.detach())
                weight.data = values
            if parcel.owner is not None:
                return [(flat, parcel.owner)]
            whole = weights[0].detach()
        rows = self._rows[parcel.names[0]]
        return [(whole[a:b], rank) for rank, (a, b) in enumerate(rows) if b > a]

    def decoder(self, batch_size: int, max_len: int) -> TorchDecoder:
        self._group.settle()
        return super().decoder(batch_size, max_len)

    def _hidden(
        self, inputs: Tokens, documents: Tokens | None = None, dropout: Dropout | None = None
    ) -> tuple[Tensor, Tensor | None]:
        self._group.settle()
        return super()._hidden(inputs, documents, dropout)

    def _begin(self, n_backward: int) -> None:
        if not n_backward:
            self._group.settle()  # no forward pass of this rank waits for the weights
        self._n_backward, self._n_begun, self._sums = n_backward, 0, []
        self._counts = dict.fromkeys(self.trained, 0)

    def _on_gradient(self, name: str, weight: Tensor) -> None:
        """A micro-batch has added to a gradient. Sums begin in the order of the parcels."""
        self._counts[name] += 1
        while self._n_begun < len(self._parcels) and all(
            self._counts[name] == self._n_backward for name in self._parcels[self._n_begun].names
        ):
            self._begin_sum()

    def _begin_sum(self) -> None:
        parcel = self._parcels[self._n_begun]
        self._n_begun += 1
        grads = [self._gradient(name) for name in parcel.names]
        if parcel.owner is not None:
            flat = self._flat[parcel.owner] = torch.cat([grad.flatten() for grad in grads])
            self._sum_at(flat, parcel.owner)
            return
        for rank, (first, end) in enumerate(self._rows[parcel.names[0]]):
            if end > first:
                self._sum_at(grads[0][first:end], rank)

    def _sum_at(self, tensor: Tensor, owner: int) -> None:
        if self._neighbours:
            self._neighbours.sum_at(tensor, owner)
        else:
            self._sums.append(self._group.sum_at(tensor, owner))

    def _gradient(self, name: str) -> Tensor:
        weight = self.trained[name]
        grad = torch.zeros_like(weight) if weight.grad is None else weight.grad.contiguous()
        weight.grad = grad
        return grad

    def _summed(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        while self._n_begun < len(self._parcels):  # those that this rank has no gradients of
            self._begin_sum()
        if self._neighbours:
            self._neighbours.add_up()
        self._group.wait(self._sums)
        rank, found = self._group.place.rank, {}
        for parcel in self._parcels:
            if parcel.owner is None:
                [name] = parcel.names
                first, end = self._rows[name][rank]
                if end > first:
                    found[name] = self._gradient(name)[first:end]
            elif parcel.owner == rank:
                like = [self.trained[name] for name in parcel.names]
                found.update(zip(parcel.names, _split(self._flat[rank], like), strict=True))
        self._flat = {}
        return found

    def _updated(self) -> None:
        """Send the new weights to all ranks, those first that are needed first."""
        if self._neighbours:  # they are there as soon as all ranks have come here
            self._group.arriving.append(self._group.meet())
            return
        for pieces in reversed(self._pieces):
            for piece, owner in pieces:
                self._group.arriving.append(self._group.spread(piece, owner))

    def _rows_of(self, name: str) -> Rows:
        return self._rows[name]

    def _part(self, name: str) -> Part:
        self._group.settle()
        if (weight := self.weights.get(name, self.base.get(name))) is not None:
            return Part(tuple(weight.shape), weight.detach())
        assert self.optimizer
        p = self._moments[name]
        held = dict(self.optimizer.state()).get(name)
        if p is None:
            assert held is not None
            return Part((), held)
        if held is None:
            held = torch.zeros(0, device=self.device)
        return Part(p.shape, held, self._rows[p.name])


def _split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """One memory as tensors of these shapes."""
    pieces = torch.split(flat, [tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]
