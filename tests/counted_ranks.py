"""A rank that counts the bytes of its steps: `python -m tests.counted_ranks train ...`.

Counted is what has to travel: a broadcast brings a tensor to each other rank, and so on. The algorithms of a library
may send more.
"""

import os
import sys
from typing import Any

import torch.distributed as dist
from torch import Tensor

from homespun.cli.main import main
from homespun.engine.torch.ranked_engine import RankedEngine

sent = n_steps = 0
counts = False


def n_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def moved(tensor: Tensor, dst: int, tag: int = 0) -> float:
    return n_bytes(tensor)


def broadcast(tensor: Tensor, src: int) -> float:
    return n_bytes(tensor) * (dist.get_world_size() - 1) if dist.get_rank() == src else 0


def gathered(output: Tensor, input: Tensor) -> float:
    return n_bytes(input) * (dist.get_world_size() - 1)


def scattered(output: Tensor, input: Tensor) -> float:
    return n_bytes(output) * (dist.get_world_size() - 1)


def exchanged(output: Tensor, input: Tensor, there: list[int], here: list[int]) -> float:
    return n_bytes(input) * (1 - here[dist.get_rank()] / max(1, sum(here)))


def counted(name: str, cost: Any) -> None:
    """Let a function of `torch.distributed` count."""
    right = getattr(dist, name)

    def count(*arguments: Any, **more: Any) -> Any:
        global sent
        values = {k: v for k, v in more.items() if k not in ("op", "async_op", "group")}
        sent += counts * round(cost(*arguments, **values))
        return right(*arguments, **more)

    setattr(dist, name, count)


def train_step(self: RankedEngine, *arguments: Any, **more: Any) -> Any:
    global counts, n_steps
    counts, n_steps = True, n_steps + 1
    try:
        return right_step(self, *arguments, **more)
    finally:
        counts = False


if __name__ == "__main__":
    os.environ["LOCAL_WORLD_SIZE"] = "1"  # ranks of one machine send nothing
    counted("isend", moved)
    counted("broadcast", broadcast)
    counted("all_gather_single", gathered)
    counted("reduce_scatter_single", scattered)
    counted("all_to_all_single", exchanged)
    right_step, RankedEngine.train_step = RankedEngine.train_step, train_step
    status = main(sys.argv[1:])
    print(f"rank {dist.get_rank()} sent {sent / n_steps:.0f} bytes a step", flush=True)
    sys.exit(status)
