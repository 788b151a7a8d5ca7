"""Forward and backward pass of attention on a CPU: PyTorch's flash kernel against three large operations.

python -m benchmarks.attention
"""

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from benchmarks import report
from benchmarks.rounds import compared, interleaved
from homespun.engine.torch.layers import attention_in_full
from homespun.engine.torch.machine import keep_freed_memory

HEADS, CHANNELS, TOKENS = 6, 64, 2048

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def milliseconds(attend: Attention, seq_len: int, dtype: torch.dtype) -> float:
    shape = (TOKENS // seq_len, seq_len, HEADS, CHANNELS)
    q, k, v = (torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3))
    start = time.perf_counter()
    attend(q, k, v).sum().backward()  # type: ignore[no-untyped-call]
    return 1000 * (time.perf_counter() - start)


def main(rounds: int = 15) -> None:
    """Measure and save.

    Args:
        rounds: measured passes of each kind.
    """
    keep_freed_memory()
    tables = {}
    for dtype in (torch.bfloat16, torch.float32):
        for seq_len in (128, 256, 512, 1024):
            variants = {
                "flash": partial(milliseconds, flash, seq_len, dtype),
                "in full": partial(milliseconds, attention_in_full, seq_len, dtype),
            }
            title = f"{str(dtype).removeprefix('torch.')}, {seq_len} tokens of context"
            tables[title] = compared(interleaved(variants, rounds), "ms", 1)
    report.save("attention", tables)


if __name__ == "__main__":
    tyro.cli(main)
