"""Dropout in tensors: a stream in, the same with some numbers zero and the others larger out; see `engine/dropout.py`.

What changes from step to step is in tensors, so that compiled kernels stay as they are, and a block that is computed a
second time for its gradients drops the same again.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from homespun.engine.dropout import FIRST, SECOND, scale, threshold


class Dropout(NamedTuple):
    """What the sites of a micro-batch, or of a block of it, need. Bits are int32, whose products wrap around as those
    of uint32 do."""

    rate: float
    tokens: Tensor  # [B, T], their numbers in the step
    keys: Tensor  # [sites]


def of_microbatches(
    rate: float, keys: Tensor, shapes: Iterable[tuple[int, ...]]
) -> Iterator[Dropout]:
    """For the inputs [B, T] of a step, one after the other."""
    first = 0
    for shape in shapes:
        end = first + math.prod(shape)
        tokens = torch.arange(first, end, dtype=torch.int32, device=keys.device)
        yield Dropout(rate, tokens.view(shape), keys)
        first = end


def of_block(drop: Dropout | None, i: int) -> Dropout | None:
    """The same with the two sites of a block alone."""
    return drop and drop._replace(keys=drop.keys[2 * i + 1 : 2 * i + 3])


def dropped(x: Tensor, drop: Dropout | None, site: int) -> Tensor:
    """The stream x [B, T, D] after dropout, if there is any."""
    if drop is None:
        return x
    of_token = _hashed(drop.tokens ^ drop.keys[site]).unsqueeze(-1)
    channels = torch.arange(x.shape[-1], dtype=torch.int32, device=x.device)
    kept = _hashed(of_token ^ channels) >= threshold(drop.rate)
    return torch.where(kept, x * scale(drop.rate), 0.0)


def _hashed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 16)) * FIRST
    bits = (bits ^ _shifted(bits, 15)) * (SECOND - 2**32)
    return bits ^ _shifted(bits, 16)


def _shifted(bits: Tensor, n: int) -> Tensor:
    """To the right by n, zeros coming in from the left."""
    shifted: Tensor = (bits >> n) & (2 ** (32 - n) - 1)
    return shifted
