"""Dropout in MLX's arrays: a stream in, the same with some numbers zero and the others larger out; see
`engine/dropout.py`. The twin of `torch/dropout.py`.
"""

import math
from collections.abc import Iterable, Iterator

import mlx.core as mx

from homespun.engine.dropout import HASH_MULTIPLIERS, scale, threshold

Dropout = tuple[float, mx.array, mx.array]
"""What the sites of a micro-batch, or of a block of it, need: the rate, the numbers [B, T] of its tokens in the step,
and the keys [sites]. A plain tuple, so that what changes from step to step is an input of compiled functions."""


def of_microbatches(
    rate: float, keys: mx.array, shapes: Iterable[tuple[int, ...]]
) -> Iterator[Dropout]:
    """For the inputs [B, T] of a step, one after the other."""
    first = 0
    for shape in shapes:
        end = first + math.prod(shape)
        yield rate, mx.arange(first, end, dtype=mx.uint32).reshape(shape), keys
        first = end


def of_block(drop: Dropout | None, i: int) -> Dropout | None:
    """The same with the two sites of a block alone."""
    if drop is None:
        return None
    rate, tokens, keys = drop
    return rate, tokens, keys[2 * i + 1 : 2 * i + 3]


def dropped(x: mx.array, drop: Dropout | None, site: int) -> mx.array:
    """The stream x [B, T, D] after dropout, if there is any."""
    if drop is None:
        return x
    rate, tokens, keys = drop
    of_token = _hashed(tokens ^ keys[site])[..., None]
    bits = _hashed(of_token ^ mx.arange(x.shape[-1], dtype=mx.uint32))
    kept = mx.stop_gradient(bits).view(mx.int32) >= threshold(rate)
    return mx.where(kept, x * scale(rate), 0.0)


def _hashed(bits: mx.array) -> mx.array:
    bits = (bits ^ (bits >> 16)) * mx.array(HASH_MULTIPLIERS[0], mx.uint32)
    bits = (bits ^ (bits >> 15)) * mx.array(HASH_MULTIPLIERS[1], mx.uint32)
    return bits ^ (bits >> 16)
