"""Dropout in tensors: the residual stream flows in, and flows out with some numbers zero and the others scaled up.

See `engine/dropout.py` for the masks. Everything that changes from step to step is a tensor, so compiled kernels stay
valid, and a block that is recomputed for its gradients drops the same numbers again.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from homespun.engine.dropout import HASH_MULTIPLIERS, scale, threshold


class Dropout(NamedTuple):
    """The dropout of one micro-batch. Bits are int32, whose products wrap around like those of uint32."""

    rate: float
    tokens: Tensor  # [B, T], their numbers in the step
    keys: Tensor  # [sites]

    def of_block(self, i: int) -> "Dropout":
        """Only the two sites of block i."""
        return self._replace(keys=self.keys[2 * i + 1 : 2 * i + 3])


def of_microbatches(
    rate: float, keys: Tensor, shapes: Iterable[tuple[int, ...]], first: int = 0
) -> Iterator[Dropout]:
    """The dropout of each micro-batch of a step; `shapes` are those of the inputs, [B, T], and `first` is the number of
    the first token."""
    for shape in shapes:
        end = first + math.prod(shape)
        tokens = torch.arange(first, end, dtype=torch.int32, device=keys.device)
        yield Dropout(rate, tokens.view(shape), keys)
        first = end


def apply_dropout(x: Tensor, dropout: Dropout | None, site: int) -> Tensor:
    """x [B, T, D] -> [B, T, D]; without `dropout` it is x."""
    if dropout is None:
        return x
    token_hash = hash_bits(dropout.tokens ^ dropout.keys[site]).unsqueeze(-1)  # [B, T, 1]
    channels = torch.arange(x.shape[-1], dtype=torch.int32, device=x.device)
    keep = hash_bits(token_hash ^ channels) >= threshold(dropout.rate)  # [B, T, D]
    return torch.where(keep, x * scale(dropout.rate), 0.0)


def hash_bits(bits: Tensor) -> Tensor:
    """See `engine.dropout.hash_bits`; int32."""
    first, second = HASH_MULTIPLIERS
    bits = (bits ^ shift_right(bits, 16)) * first
    bits = (bits ^ shift_right(bits, 15)) * (second - 2**32)
    return bits ^ shift_right(bits, 16)


def shift_right(bits: Tensor, n: int) -> Tensor:
    """Shift as unsigned integers: zeros come in from the left."""
    shifted: Tensor = (bits >> n) & (2 ** (32 - n) - 1)
    return shifted
