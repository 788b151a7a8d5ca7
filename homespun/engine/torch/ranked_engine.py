"""The engine of one of several processes: a step of all flows in, its share is computed, and sums over all flow out.

Rank 0 tells the others about each call, so all compute their shares of the same rows at the same time. The two kinds of
this engine differ in the weights that a rank holds (`replicas.py`, `shards.py`).
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from homespun.architectures.lora import trained_parameters
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine.base import EngineOptions, Floats, checked, within_memory
from homespun.engine.torch import machine
from homespun.engine.torch.engine import TorchEngine, TorchStep, Whole
from homespun.engine.torch.group import Group
from homespun.engine.torch.optimizer import state_names
from homespun.engine.torch.shares import sent, share_of
from homespun.named_array import NamedArray

Rows = tuple[tuple[int, int], ...]
"""For each rank, the first of its rows of a tensor, and the end after its last one."""


class Part(NamedTuple):
    """The rows of a tensor that this rank holds."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    held: Tensor
    rows: Rows | None = None
    """None: every rank holds all rows."""


class RankedEngine(TorchEngine):
    """The engine of a rank. That of rank 0 tells the others to do as it does."""

    def __init__(self, config: ModelConfig, options: EngineOptions, group: Group) -> None:
        """Raises as `TorchEngine`."""
        self._group = group
        self._is_made = False
        spec = trained_parameters(config, options.lora)
        assert options.optimizer
        trained = [p for p in spec if p.name not in options.frozen]
        self._moments = state_names(trained, options.optimizer.name)
        super().__init__(config, options)
        self._is_made = True

    @property
    def facts(self) -> dict[str, str]:
        return super().facts | {"ranks": str(self._group.place.size)}

    def train_step(
        self, microbatches: Sequence[Batch], lr: dict[str, float], step: int, **limits: float
    ) -> TorchStep:
        self._tell("step", microbatches, lr=lr, step=step, limits=limits)
        return super().train_step(microbatches, lr, step, **limits)

    def gradients(
        self, microbatches: Sequence[Batch], step: int | None = None
    ) -> Iterator[NamedArray]:
        self._tell("gradients", microbatches, step=step)
        _, _, grads = self._backward(microbatches, step)
        found = []
        for name, weight in self.trained.items():
            held = grads.get(name, torch.zeros(0, device=self.device))
            part = Part(tuple(weight.shape), held, self._rows_of(name))
            found.append((name, machine.to_array(self._collected(part))))
        self._release_gradients()
        yield from found

    def loss(self, batch: Batch) -> tuple[float, int]:
        self._tell("loss", [batch])
        _, mine = self._share([batch])
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for rows in mine:
            total += super().loss(rows)[0]
        self._group.add_up(total)
        return total.item(), batch.n_targets

    def log_probabilities(self, batch: Batch) -> Floats:
        self._tell("log_probabilities", [batch])
        first, mine = self._share([batch])
        found = torch.zeros(batch.targets.shape, device=self.device)
        for rows in mine:
            here = torch.from_numpy(super().log_probabilities(rows))  # all ranks gather together
            if rows.n_targets:
                found[first : first + len(here)] = here.to(self.device)
        self._group.add_up(found)
        return machine.to_array(found)

    def state(self) -> Iterator[NamedArray]:
        for name in (*self.weights, *self._moments):
            yield name, machine.to_array(self.whole(name))

    def load(self, tensors: Iterable[NamedArray]) -> None:
        names = (*self.weights, *self._moments)
        self._load(checked(tensors, {name: self._part(name).shape for name in names}, self.weights))

    def load_base(self, tensors: Iterable[NamedArray]) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.base.items()}
        self._load(checked(tensors, shapes, shapes))

    @within_memory(*machine.OUT_OF_MEMORY)
    def _load(self, tensors: Iterable[tuple[str, Floats]]) -> None:
        self.decoding_model = None
        for name, array in tensors:
            if self._is_made:
                self._group.send({"do": "take", "name": name})
                self.take(name, torch.from_numpy(array))
                continue
            part = self._part(name)  # every rank makes the initial values itself
            first, end = part.rows[self._group.place.rank] if part.rows else (0, None)
            part.held.copy_(torch.from_numpy(array[first:end] if part.rows else array))

    def whole(self, name: str) -> Tensor:
        """On rank 0, a weight or a moment with the rows of all ranks."""
        part = self._part(name)
        if part.rows is None:
            return part.held
        self._group.send({"do": "give", "name": name})
        return self._collected(part)

    def give(self, name: str) -> None:
        """Send the rows of this rank to rank 0."""
        self._collected(self._part(name))

    def take(self, name: str, values: Tensor | None = None) -> None:
        """Set a weight or a moment to the values of rank 0."""
        group = self._group
        shape, held, rows = self._part(name)
        if rows is None:
            if values is not None:
                held.copy_(values)
            group.wait([group.spread(held, 0)])
            return
        for rank, (first, end) in enumerate(rows):
            if first == end:
                continue
            moved = held if values is None else values.view(shape)[first:end].to(held)
            if rank == group.place.rank:
                held.copy_(moved)
            group.move(moved, 0, rank)

    def _collected(self, part: Part) -> Tensor:
        """On rank 0, the whole tensor."""
        group = self._group
        if part.rows is None:
            return part.held
        like = part.held
        whole = like.new_empty(part.shape if group.leads else 0)
        for rank, (first, end) in enumerate(part.rows):
            if first == end:
                continue
            if not group.leads:
                group.move(like, rank, 0)
            elif rank == 0:
                whole[first:end] = like
            else:
                group.move(whole[first:end], rank, 0)
        return whole

    def _tell(self, do: str, microbatches: Sequence[Batch], **more: Any) -> None:
        """Let the other ranks make the same call."""
        if self._group.leads:
            command, tokens = sent(microbatches)
            self._group.send({"do": do, **more, **command}, tokens)

    def _share(self, microbatches: Sequence[Batch]) -> tuple[int, list[Batch]]:
        """As `share_of`, for this rank."""
        return share_of(microbatches, self._group.place)

    def _backward(
        self, microbatches: Sequence[Batch], step: int | None, whole: Whole | None = None
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Loss and use of the experts of this rank's share, and the rows of the gradients that it updates, added up
        over all ranks."""
        n_targets = sum(batch.n_targets for batch in microbatches)
        first, mine = self._share(microbatches)
        seq_len = max(batch.inputs.shape[1] for batch in microbatches)
        self._begin(len(mine))
        loss, uses, grads = super()._backward(mine, step, Whole(n_targets, first * seq_len))
        return loss, uses, self._summed(grads)

    def _totals(
        self, loss: Tensor, uses: Tensor | None, grads: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The sums over all ranks."""
        config = self.model.config
        if uses is None and config.experts:  # this rank has no rows
            shape = config.n_layers - config.dense_layers, 3 + config.experts
            uses = torch.zeros(shape, device=self.device)
        norm = torch.nn.utils.get_total_norm(grads.values()).to(self.device)
        figures = torch.stack((loss, norm)).double()
        figures[1] = figures[1].square()
        if uses is not None:
            figures = torch.cat((figures, uses.flatten().double()))
        self._group.add_up(figures)
        loss, square = figures[:2]
        if uses is not None:
            uses = figures[2:].view_as(uses).float()
        return loss.float(), uses, square.sqrt().float()

    def _begin(self, n_backward: int) -> None:
        """So many micro-batches of this rank follow."""

    @abstractmethod
    def _rows_of(self, name: str) -> Rows | None:
        """The rows of a trained parameter that each rank updates."""

    @abstractmethod
    def _part(self, name: str) -> Part:
        """The rows of a weight or a moment that this rank holds."""

    @abstractmethod
    def _summed(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums over all ranks of the gradients of this rank's rows, by parameter."""
