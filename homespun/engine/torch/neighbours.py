"""Memory that the ranks of one machine share: gradients flow into it, sums flow out, and the weights lie in it.

Through a connection, each number would be copied into the system and out of it again. In shared memory a sum reads
the gradients of the other ranks where they are, and an updated weight is in its place at all ranks. For processors
only; GPUs have NCCL.
"""

import mmap
import os
import secrets
import sys
from pathlib import Path

import torch
from torch import Tensor

from homespun.engine.torch.group import Group


def neighbours(group: Group, n: int) -> "Neighbours | None":
    """The memory that all ranks share, for a model with `n` trained numbers. All ranks have to call this.

    Returns:
        None if they are on several machines, or cannot share memory.
    """
    place = group.place
    if place.size_on_machine != place.size or not sys.platform.startswith("linux"):
        return None
    mine, others, shared = None, [], torch.ones(1)
    try:
        name = secrets.token_hex(16)
        mine = os.memfd_create(name)  # has no name in any folder, so nothing stays after a kill
        # The first half has the gradients of a rank; the second half of rank 0's has the weights.
        os.ftruncate(mine, 2 * n * torch.float32.itemsize)
        told = f"{os.getpid()} {mine} {name}"
    except (
        OSError,
        AttributeError,
    ):  # AttributeError: a Python that was built for an old C library
        told = ""
    for word in group.told_by_all(told):
        try:
            others.append(_opened(word))
        except (OSError, ValueError):  # `LOCAL_WORLD_SIZE` does not hold, or the system forbids it
            shared.zero_()
    group.add_up(shared)
    if mine is not None:
        os.close(mine)  # all have opened it
    if shared.item() < place.size:
        return None
    return Neighbours(group, others[0][n:], [memory[:n] for memory in others])


def _opened(word: str) -> Tensor:
    """The memory of a rank that has told where it is.

    Raises:
        OSError: it is not there.
        ValueError: the rank has none.
    """
    process, number, name = word.split()
    path = f"/proc/{process}/fd/{number}"
    if name not in str(Path(path).readlink()):
        raise FileNotFoundError(path)
    file = os.open(path, os.O_RDWR)
    try:
        return torch.frombuffer(mmap.mmap(file, 0), dtype=torch.float32)
    finally:
        os.close(file)


class Neighbours:
    """The shared memory. All ranks make the same calls in the same order."""

    def __init__(self, group: Group, weights: Tensor, boxes: list[Tensor]) -> None:
        """`weights` [n], and of each rank a box [n]: what others add up."""
        self._group = group
        self._weights, self._boxes = weights, boxes
        self._n_placed = self._at = 0
        self._to_add: list[tuple[Tensor, slice]] = []

    def memory(self, n: int) -> Tensor:
        """Memory for the next `n` weights, which all ranks see."""
        start = self._n_placed
        self._n_placed += n
        return self._weights[start : self._n_placed]

    def sum_at(self, tensor: Tensor, owner: int) -> None:
        """A tensor of all ranks will be added up at one of them, in place, by `add_up`."""
        here = slice(self._at, self._at + tensor.numel())
        self._at = here.stop
        rank = self._group.place.rank
        if rank == owner:
            self._to_add.append((tensor, here))
        else:
            self._boxes[rank][here].view_as(tensor).copy_(tensor)

    def add_up(self) -> None:
        """Compute the sums of this rank, each in the order of the ranks."""
        self._group.wait([self._group.meet()])
        for tensor, here in self._to_add:
            for rank, box in enumerate(self._boxes):
                if rank != self._group.place.rank:
                    tensor += box[here].view_as(tensor)
        self._to_add, self._at = [], 0
        self._group.arriving.append(self._group.meet())  # then all have read, and may write again
