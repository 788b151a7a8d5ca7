"""The layers that models are made of: arrays in, arrays out.

Weights are float32, or bfloat16 in low memory. Each layer casts them to the dtype of its input, so a computation has
the precision of the stream that enters it. Attention, norms and rotary positions are MLX's fused kernels.

B sequences, T tokens, S positions seen (T, or more with a cache), D width of the stream, F width of the feed-forward
layer, H heads, K key/value heads, C channels of a head.
"""

import math
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from homespun.config import ModelConfig
from homespun.engine.mlx.cache import LayerCache, Positions
from homespun.engine.mlx.packed import Packed

# The layers hold zeros until a model is filled. MLX is lazy, so these zeros take no memory.


class Linear(nn.Module):
    """x [..., in] -> [..., out], with an adapter of LoRA if it has one."""

    lora_scale: float | None = None
    packed: Packed | None = None
    """The weight in 8 bits, if decoding uses these."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.zeros((n_out, n_in))
        self.bias = mx.zeros((n_out,)) if bias else None

    def add_adapter(self, rank: int, scale: float) -> None:
        """Add `scale` times B A to the weight, in two products of their own; A [rank, in], B [out, rank]."""
        n_out, n_in = self.weight.shape
        self.lora_a, self.lora_b = mx.zeros((rank, n_in)), mx.zeros((n_out, rank))
        self.lora_scale = scale

    def __call__(self, x: mx.array) -> mx.array:
        y = self.packed.product(x) if self.packed else x @ self.weight.astype(x.dtype).T
        if self.lora_scale is not None:
            narrow = (x @ self.lora_a.astype(x.dtype).T) * self.lora_scale  # [..., rank]
            y = y + narrow @ self.lora_b.astype(x.dtype).T
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class Embedding(nn.Module):
    """Tokens [B, T] -> [B, T, D], float32; in the dtype of the scales where the table has 8 bits."""

    packed: Packed | None = None
    """As in `Linear`."""

    def __init__(self, n: int, size: int) -> None:
        super().__init__()
        self.weight = mx.zeros((n, size))

    def __call__(self, tokens: mx.array) -> mx.array:
        if self.packed:
            return self.packed.rows(tokens)
        if self.weight.dtype == mx.float32:
            return self.weight[tokens]
        return cast(mx.array, narrow_rows(self.weight, tokens))


@mx.custom_function
def narrow_rows(table: mx.array, tokens: mx.array) -> mx.array:
    """Rows of a table in 16 bits, in float32. The gradients of a token that occurs often are added up in float32; in 16
    bits small ones would vanish."""
    return table[tokens].astype(mx.float32)


@narrow_rows.vjp
def _narrow_rows_gradient(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
    table, tokens = primals
    order = mx.argsort(tokens.flatten())
    found = tokens.flatten()[order]
    begins = mx.concatenate([mx.zeros((1,), mx.bool_), found[1:] != found[:-1]])
    of_token = mx.cumsum(begins.astype(mx.int32))  # a number for each token that occurs
    slopes = cotangent.reshape(len(found), -1)[order]
    sums = mx.zeros(slopes.shape).at[of_token].add(slopes)
    gradient = mx.zeros(table.shape, table.dtype)
    gradient[found] = sums[of_token].astype(table.dtype)  # equal rows for equal tokens
    return gradient, mx.zeros_like(tokens)


class LayerNorm(nn.Module):
    """x [..., D] -> [..., D]."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.zeros((size,))
        self.bias = mx.zeros((size,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        # The float32 weights stay outside the kernel: inside, they would turn the whole stream into float32.
        normed = mx.fast.layer_norm(x, None, None, self.eps)
        return (normed * self.weight + self.bias).astype(x.dtype)


class RMSNorm(nn.Module):
    """x [..., D] -> [..., D]."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.zeros((size,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        # The weight stays outside the kernel, as in LayerNorm.
        return (mx.fast.rms_norm(x, None, self.eps) * self.weight).astype(x.dtype)


class HeadNorm(RMSNorm):
    """The RMSNorm of each head, x [B, H, T, C] in float32. The dtypes agree, so one fused kernel computes it."""

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self.eps)


# Elementwise operations are cheap: their results are computed again for the backward pass, not kept for it.
@mx.checkpoint
def gelu(x: mx.array) -> mx.array:
    """The tanh approximation, as in GPT-2 (Hendrycks and Gimpel, 2016)."""
    wide = x.astype(mx.float32)
    inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
    return (0.5 * wide * (1 + mx.tanh(inner))).astype(x.dtype)


@mx.checkpoint
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """Both [B, T, F] (Shazeer, 2020)."""
    wide = gate.astype(mx.float32)
    return (wide * mx.sigmoid(wide) * up).astype(up.dtype)


def rotate(x: mx.array, positions: Positions, config: ModelConfig) -> mx.array:
    """Rotate the channels of x [B, H, T, C], float32, by the angles of their positions (Su et al., 2021). The channels
    are rotated by halves, not interleaved."""
    return mx.fast.rope(
        x,
        config.head_dim,
        traditional=False,
        base=config.rope_theta,
        scale=1.0,
        offset=positions.start if isinstance(positions, slice) else positions[:, 0],
    )


def document_mask(document: mx.array) -> mx.array:
    """A mask with which each token sees only earlier tokens of its own document, whose number is in `document` [B, T].

    Returns:
        [B, 1, T, T], True where a token sees.
    """
    return mx.tril(document[:, :, None] == document[:, None, :])[:, None]


def attention(
    q: mx.array, k: mx.array, v: mx.array, cache: LayerCache | None, mask: mx.array | None
) -> mx.array:
    """Attention by `mask`, or causal attention without one.

    q [B, H, T, C], k and v [B, K, T, C], mask [B, 1, T, S] -> [B, T, H * C].
    """
    if cache is not None:
        k, v = cache.append(k, v)
    causal = "causal" if q.shape[2] > 1 else None  # the last new token is at the last position
    y = mx.fast.scaled_dot_product_attention(
        q, k, v, scale=q.shape[3] ** -0.5, mask=causal if mask is None else mask
    )
    return y.swapaxes(1, 2).flatten(2)
