"""Ranks of one machine find the memory of each other, and add up what lies there. Without processes."""

import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from homespun.engine.torch import neighbours
from homespun.engine.torch.neighbours import Neighbours

linux = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this Python has no memory without a file"
)


def members(size: int, n: int) -> list[Neighbours]:
    """The neighbours of each rank, as threads would have them."""
    barrier = threading.Barrier(size)
    weights, boxes = torch.zeros(n), [torch.zeros(n) for _ in range(size)]
    found = []
    for rank in range(size):
        group: Any = SimpleNamespace(
            place=SimpleNamespace(rank=rank, size=size),
            meet=lambda: SimpleNamespace(wait=barrier.wait),
            wait=lambda works: [work.wait() for work in works],
            arriving=[],
        )
        found.append(Neighbours(group, weights, boxes))
    return found


def test_each_rank_has_the_sums_of_its_own_rows() -> None:
    """In the order of the ranks after its own, which matters for the last bit."""
    size, n = 3, 1000
    ranks = members(size, 2 * n)
    gradients = [torch.randn(2, n, generator=torch.Generator().manual_seed(r)) for r in range(size)]
    mine = [gradient.clone() for gradient in gradients]

    def exchange(rank: int) -> None:
        ranks[rank].sum_at(mine[rank][0], 2)
        ranks[rank].sum_at(mine[rank][1], 0)
        ranks[rank].add_up()

    threads = [threading.Thread(target=exchange, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second, third = gradients
    torch.testing.assert_close(mine[2][0], third[0] + first[0] + second[0], rtol=0, atol=0)
    torch.testing.assert_close(mine[0][1], first[1] + second[1] + third[1], rtol=0, atol=0)
    torch.testing.assert_close(mine[1], second, rtol=0, atol=0)
    assert [len(rank._group.arriving) for rank in ranks] == [1, 1, 1]


def test_weights_get_memory_one_after_the_other() -> None:
    one, other = members(2, 10)
    for rank in (one, other):
        rank.memory(3)
    one.memory(7).fill_(1.0)
    assert other._weights.tolist() == [0.0] * 3 + [1.0] * 7


@linux
def test_only_the_memory_that_was_told_is_taken() -> None:
    file = os.memfd_create("one")
    try:
        os.ftruncate(file, 40)
        here = f"{os.getpid()} {file}"
        neighbours._opened(f"{here} one")[3] = 5.0
        assert neighbours._opened(f"{here} one").tolist() == [0, 0, 0, 5, 0, 0, 0, 0, 0, 0]
        with pytest.raises(FileNotFoundError):
            neighbours._opened(f"{here} another")
        with pytest.raises(ValueError, match="not enough values"):
            neighbours._opened("")
    finally:
        os.close(file)


@linux
@pytest.mark.parametrize("told", ["", "999999999 3 name"])
def test_ranks_that_cannot_share_memory_send(told: str) -> None:
    """Also if this rank could."""
    group: Any = SimpleNamespace(
        place=SimpleNamespace(rank=0, size=2, size_on_machine=2),
        told_by_all=lambda word: [word, told],
        add_up=lambda shared: shared.add_(1.0),  # the other rank finds all
    )
    assert neighbours.neighbours(group, 10) is None


def test_ranks_of_several_machines_send() -> None:
    group: Any = SimpleNamespace(place=SimpleNamespace(rank=0, size=4, size_on_machine=2))
    assert neighbours.neighbours(group, 10) is None
