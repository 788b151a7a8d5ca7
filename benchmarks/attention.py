"""Forward and backward pass of attention on a CPU: PyTorch's flash kernel against three large operations.

    python -m benchmarks.attention

Interleaved; medians in milliseconds, and how many times faster the second way is.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from homespun.engine.torch_engine.machine import keep_freed_memory
from homespun.engine.torch_engine.model import attention_in_full

HEADS, CHANNELS, TOKENS, ROUNDS = 6, 64, 2048, 15


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def milliseconds(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], seq_len: int, dtype: torch.dtype
) -> float:
    shape = (TOKENS // seq_len, seq_len, HEADS, CHANNELS)
    q, k, v = (torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3))
    start = time.perf_counter()
    attend(q, k, v).sum().backward()  # type: ignore[no-untyped-call]
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    keep_freed_memory()
    print(f"{'dtype':10} {'seq_len':>8} {'flash ms':>9} {'in full ms':>11} {'faster':>7}")
    for dtype in (torch.bfloat16, torch.float32):
        for seq_len in (128, 256, 512, 1024):
            pairs = [
                (
                    milliseconds(flash, seq_len, dtype),
                    milliseconds(attention_in_full, seq_len, dtype),
                )
                for _ in range(ROUNDS)
            ]
            left, right = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"{str(dtype)[6:]:10} {seq_len:8} {left:9.1f} {right:11.1f} {ratio:7.2f}")


if __name__ == "__main__":
    main()
