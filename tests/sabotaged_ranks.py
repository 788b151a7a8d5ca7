"""A rank with a mistake in it: `python -m tests.sabotaged_ranks MISTAKE train ...`. Tests prove that they find it."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from homespun.cli.main import main
from homespun.data.batch import Batch
from homespun.engine.launcher import Place
from homespun.engine.torch import ranked_engine
from homespun.engine.torch.engine import TorchEngine, Whole
from homespun.engine.torch.group import Group
from homespun.engine.torch.neighbours import Neighbours
from homespun.engine.torch.ranked_engine import RankedEngine
from homespun.engine.torch.replicas import ReplicatedEngine


def loss_is_a_mean_over_ranks() -> None:
    """Each rank divides by its own targets, so those of a rank with fewer rows count more."""

    def _backward(self: Any, mine: Sequence[Batch], step: int, whole: Whole) -> Any:
        n_targets = self._group.place.size * sum(batch.n_targets for batch in mine)
        return right(self, mine, step, Whole(n_targets, whole.tokens_before))

    right, TorchEngine._backward = TorchEngine._backward, _backward


def ranks_choose_rows_for_themselves() -> None:
    """Rank 1 takes rows of rank 0."""

    def share_of(microbatches: Sequence[Batch], place: Place) -> tuple[int, list[Batch]]:
        return right(microbatches, dataclasses.replace(place, rank=0))

    right, ranked_engine.share_of = ranked_engine.share_of, share_of


def norm_is_that_of_one_rank() -> None:
    """Each rank clips by the norm of the gradients that it has."""

    def _totals(self: RankedEngine, loss: Tensor, uses: Any, grads: Any) -> Any:
        loss, uses, _ = right(self, loss, uses, grads)
        return TorchEngine._totals(self, loss, uses, grads)

    right, RankedEngine._totals = RankedEngine._totals, _totals


def evaluation_is_that_of_one_rank() -> None:
    """The losses of other ranks do not count."""

    def add_up(self: Group, tensor: Tensor) -> None:
        if tensor.ndim:
            right(self, tensor)

    right, Group.add_up = Group.add_up, add_up


def ranks_are_on_machines_of_their_own() -> None:
    """No mistake: ranks send what they would otherwise find in memory that they share."""
    os.environ["LOCAL_WORLD_SIZE"] = "1"


def weights_stay_where_they_are_updated() -> None:
    """No rank gets the weights that others have updated."""
    ranks_are_on_machines_of_their_own()
    ReplicatedEngine._updated = lambda self: None


def gradients_of_neighbours_are_forgotten() -> None:
    """No rank adds what others have left in the memory that they share."""

    def add_up(self: Neighbours) -> None:
        self._boxes = [box.zero_() for box in self._boxes]
        right(self)

    right, Neighbours.add_up = Neighbours.add_up, add_up


def gradients_are_added_up_too_early() -> None:
    """The sums begin after the first of several micro-batches."""

    def _begin(self: ReplicatedEngine, n_backward: int) -> None:
        right(self, 1)

    right, ReplicatedEngine._begin = ReplicatedEngine._begin, _begin


def moments_are_forgotten() -> None:
    """Ranks above 0 begin with new moments when they resume."""

    def take(self: RankedEngine, name: str, values: Tensor | None = None) -> None:
        right(self, name, values)
        if "/" in name and self._group.place.rank:
            self._part(name).held.zero_()

    right, RankedEngine.take = RankedEngine.take, take


def matrices_are_not_exchanged() -> None:
    """Muon makes the rows of each rank orthogonal instead of the matrices."""
    from homespun.engine.torch.optimizer import orthogonalise
    from homespun.engine.torch.shards import ShardedOptimizer

    def _direction(self: ShardedOptimizer, ahead: Tensor, like: Any) -> Tensor:
        return orthogonalise(ahead) if ahead.numel() else ahead

    ShardedOptimizer._direction = _direction


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
