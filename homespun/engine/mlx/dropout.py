"""Dropout in MLX's arrays: the residual stream flows in, and flows out with some numbers zero and the others scaled up.

See `engine/dropout.py` for the masks.
"""

import math
from collections.abc import Iterable, Iterator

import mlx.core as mx

from homespun.engine.dropout import HASH_MULTIPLIERS, scale, threshold

Dropout = tuple[float, mx.array, mx.array]
"""The dropout of one micro-batch or block: the rate, the numbers of its tokens in the step [B, T], and the keys of its
sites. A plain tuple, so that the arrays, which change from step to step, are inputs of compiled functions."""


def of_microbatches(
    rate: float, keys: mx.array, shapes: Iterable[tuple[int, ...]]
) -> Iterator[Dropout]:
    """The dropout of each micro-batch of a step; `shapes` are those of the inputs, [B, T]."""
    first = 0
    for shape in shapes:
        end = first + math.prod(shape)
        yield rate, mx.arange(first, end, dtype=mx.uint32).reshape(shape), keys
        first = end


def of_block(dropout: Dropout | None, i: int) -> Dropout | None:
    """Only the two sites of block i."""
    if dropout is None:
        return None
    rate, tokens, keys = dropout
    return rate, tokens, keys[2 * i + 1 : 2 * i + 3]


def apply_dropout(x: mx.array, dropout: Dropout | None, site: int) -> mx.array:
    """x [B, T, D] -> [B, T, D]; without `dropout` it is x."""
    if dropout is None:
        return x
    rate, tokens, keys = dropout
    token_hash = hash_bits(tokens ^ keys[site])[..., None]  # [B, T, 1]
    bits = hash_bits(token_hash ^ mx.arange(x.shape[-1], dtype=mx.uint32))  # [B, T, D]
    keep = mx.stop_gradient(bits).view(mx.int32) >= threshold(rate)
    return mx.where(keep, x * scale(rate), 0.0)


def hash_bits(bits: mx.array) -> mx.array:
    """See `engine.dropout.hash_bits`; uint32."""
    bits = (bits ^ (bits >> 16)) * mx.array(HASH_MULTIPLIERS[0], mx.uint32)
    bits = (bits ^ (bits >> 15)) * mx.array(HASH_MULTIPLIERS[1], mx.uint32)
    return bits ^ (bits >> 16)
