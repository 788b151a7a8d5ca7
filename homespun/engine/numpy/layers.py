"""Arrays flow in and out: the layers that the models share, and the memory for their weights. NumPy alone, float32.

A token's products read all the weights and sweep everything else out of the processor's cache, so a NumPy call between
them costs more than its arithmetic. Therefore the calls are few, work in place where the function owns the array, and
avoid NumPy functions that are written in Python, such as `mean`.

B sequences, T new tokens, N = B * T, S positions in the cache, D width of the model, F width of the feed-forward
layer, H heads, K key/value heads, C channels of a head, V tokens in the vocabulary.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.architectures.base import Parameter
from homespun.architectures.families import parameters
from homespun.config import ModelConfig
from homespun.engine.base import Floats
from homespun.engine.inside import Experts
from homespun.engine.numpy.narrow import Narrow, NarrowPrecision
from homespun.engine.numpy.products import Products

Weights = dict[str, Any]
"""By name: arrays in float32, and `Narrow` matrices where the model has such."""
Positions = slice | npt.NDArray[np.int64]
"""The places of the new tokens in the cache: a slice of T where they are the same in each sequence, else [B, T]."""


Apart = npt.NDArray[np.bool_]
"""Which positions each new token does not see because they are of another document, [B, 1, T, S]."""


class Watch:
    """Keeps what the blocks compute for one sequence, in their order; see `Inside`."""

    def __init__(self) -> None:
        self.hidden: list[Floats] = []  # [T, D]
        self.attention: list[Floats] = []  # [H, T, S]
        self.experts: list[Experts | None] = []


def allocate(
    config: ModelConfig,
    fused: Mapping[str, str],
    narrow: NarrowPrecision | None = None,
    products: Products | None = None,
) -> Weights:
    """Memory for the weights by name. Fused matrices lie below each other and have one more name together.

    All weights in float32 share one array, which the system maps in large pages: this saves 3% of a small model's time.
    A matrix with more rows than columns is stored by columns: its product with a vector is faster that way.

    Args:
        narrow: the precision of matrices and embeddings. Routers stay in float32: near ties would be decided by
            rounding.
        products: computes with narrow matrices.
    """
    groups: dict[str, list[Parameter]] = {}
    for p in parameters(config):
        name = ".".join(fused.get(part, part) for part in p.name.split("."))
        groups.setdefault(name, []).append(p)
    n_free = sum(p.size for p in parameters(config) if narrow is None or not _can_be_narrow(p))
    free = np.empty(n_free, np.float32)
    weights: Weights = {}
    for name, members in groups.items():
        ends = np.cumsum([p.shape[0] for p in members])
        shape = (int(ends[-1]), *members[0].shape[1:])
        if narrow is not None and _can_be_narrow(members[0]):
            matrix = weights[name] = Narrow.empty(shape, narrow, products)
            for p, end in zip(members, ends, strict=True):
                weights[p.name] = matrix[end - p.shape[0] : end]
            continue
        taken, free = np.split(free, [math.prod(shape)])
        if len(shape) > 1 and shape[-2] > shape[-1]:
            by_columns = taken.reshape(*shape[:-2], shape[-1], shape[-2])
            weights[name] = by_columns.swapaxes(-1, -2)
        else:
            weights[name] = taken.reshape(shape)
        for p, rows in zip(members, np.split(weights[name], ends[:-1]), strict=True):
            weights[p.name] = rows
    return weights


def _can_be_narrow(p: Parameter) -> bool:
    return len(p.shape) > 1 and not p.is_router


def weights_by_block(weights: Weights, prefix: str, n_layers: int) -> list[Weights]:
    """The weights of each block by their names within it."""
    blocks: list[Weights] = [{} for _ in range(n_layers)]
    for name, weight in weights.items():
        if name.startswith(f"{prefix}."):
            layer, _, inner = name.removeprefix(f"{prefix}.").partition(".")
            blocks[int(layer)][inner] = weight
    return blocks


def linear(x: Floats, weight: Floats | Narrow, bias: Floats | None = None) -> Floats:
    """x [N, D] and weight [out, D] -> [N, out]."""
    y: Floats = weight.product(x) if isinstance(weight, Narrow) else x.dot(weight.T)
    if bias is not None:
        y += bias
    return y


def rows(table: Floats | Narrow, places: npt.NDArray[np.integer[Any]] | slice) -> Floats:
    """Some rows of an embedding [V, D] -> [..., D]."""
    found: Floats = table.rows(places) if isinstance(table, Narrow) else table[places]
    return found


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
    """LayerNorm of the rows of x [N, D]."""
    y: Floats = x - x.dot(mean_vector(x.shape[-1]))[:, None]
    y /= root_mean_square(y, eps)
    y *= weight
    y += bias
    return y


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """RMSNorm of the last axis."""
    y: Floats = x / root_mean_square(x, eps)
    y *= weight
    return y


@functools.cache
def mean_vector(n: int) -> Floats:
    """A vector whose product with n numbers is their mean."""
    return np.full(n, 1 / n, np.float32)


def root_mean_square(x: Floats, eps: float) -> Floats | float:
    """x [..., D] -> [..., 1], or a number for a single row, since an array of one takes several times as long."""
    if x.size == x.shape[-1]:
        row = x.reshape(-1)
        return math.sqrt(row.dot(row) / row.size + eps)
    size: Floats = np.sqrt(np.vecdot(x, x)[..., None] / x.shape[-1] + eps)
    return size


def gelu(x: Floats) -> Floats:
    """GELU approximated by tanh, as in GPT-2 (Hendrycks and Gimpel, 2016)."""
    slope = math.sqrt(2 / math.pi)
    y: Floats = x * x
    y *= 0.044715 * slope
    y += slope
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= 0.5
    return y


def silu(x: Floats) -> Floats:
    """x times its sigmoid, computed by tanh, which cannot overflow."""
    half = 0.5 * x
    y: Floats = np.tanh(half)
    y += 1
    y *= half
    return y


class RotaryTables:
    """cos and sin of the angles of the positions that have been used (Su et al., 2021; by halves, not interleaved).

    The tables grow with the positions, so their memory follows from the text and not from the context that a file
    states.
    """

    def __init__(self, config: ModelConfig) -> None:
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
        self._rates = np.float32(config.rope_theta) ** -exponents
        self._tables = self._computed(0)  # [2, positions, C]

    def __call__(self, positions: Positions) -> Floats:
        """The tables at these positions: [2, T, C], or [2, B, 1, T, C] where sequences differ."""
        end = positions.stop if isinstance(positions, slice) else int(positions.max()) + 1
        n_known = self._tables.shape[1]
        if end > n_known:
            self._tables = self._computed(max(end, 2 * n_known))
        rows: Floats = self._tables[:, positions]
        return rows if isinstance(positions, slice) else rows[:, :, None]

    def _computed(self, n_positions: int) -> Floats:
        angles = np.arange(n_positions, dtype=np.float32)[:, None] * self._rates
        tables: Floats = np.stack((np.cos(angles), np.sin(angles)))
        return np.concatenate((tables, tables), axis=-1)


def rotate(x: Floats, angles: Floats) -> Floats:
    """Rotate the channels of x [B, H, T, C] by cos and sin of `RotaryTables`."""
    half = x.shape[-1] // 2
    rotated = np.concatenate((-x[..., half:], x[..., :half]), axis=-1)
    rotated *= angles[1]
    rotated += x * angles[0]
    return rotated


def attention(
    heads: Floats,
    cache: Floats,
    positions: Positions,
    apart: Apart | None = None,
    watch: Watch | None = None,
) -> Floats:
    """Causal attention of the new tokens to themselves and to those before them that are not `apart`.

    heads [B, H + 2 * K, T, C] are the queries, keys and values of the new tokens -> [N, H * C]. Keys and values are
    added to the cache of this block, [B, 2 * K, S, C].
    """
    batch, _, n_new, channels = heads.shape
    n_kv_heads = cache.shape[1] // 2
    n_heads = heads.shape[1] - 2 * n_kv_heads
    if isinstance(positions, slice):
        n_seen = positions.stop
        cache[:, :, positions] = heads[:, n_heads:]
    else:
        n_seen = int(positions.max()) + 1
        rows = np.arange(batch)[:, None]
        cache[rows, :, positions] = heads[:, n_heads:].transpose(0, 2, 1, 3)  # [B, T, 2 * K, C]
    k, v = cache[:, :n_kv_heads, :n_seen], cache[:, n_kv_heads:, :n_seen]
    # The heads that share their keys are laid side by side, as more positions of one head: [B, K, H / K * T, C].
    q = heads[:, :n_heads] * np.float32(channels**-0.5)
    scores = q.reshape(batch, n_kv_heads, -1, channels) @ k.swapaxes(-1, -2)
    if n_new > 1 or not isinstance(positions, slice):
        later = later_positions(positions, n_seen)
        np.copyto(scores.reshape(batch, n_heads, n_new, n_seen), -np.inf, where=later)
    if apart is not None:
        np.copyto(scores.reshape(batch, n_heads, n_new, n_seen), -np.inf, where=apart)
    scores -= np.maximum.reduce(scores, -1, keepdims=True)
    np.exp(scores, out=scores)
    y: Floats = np.matmul(scores, v)
    sums = np.add.reduce(scores, -1, keepdims=True)
    y /= sums
    if watch is not None:
        watch.attention.append((scores / sums).reshape(batch, n_heads, n_new, n_seen)[0])
    y = y.reshape(batch, n_heads, n_new, channels)
    return y.transpose(0, 2, 1, 3).reshape(batch * n_new, n_heads * channels)


def later_positions(positions: Positions, n_seen: int) -> npt.NDArray[np.bool_]:
    """Which of the first `n_seen` positions come after each new token.

    [T, n_seen], or [B, 1, T, n_seen] where the sequences differ.
    """
    if isinstance(positions, slice):
        later: npt.NDArray[np.bool_] = np.triu(
            np.ones((n_seen - positions.start, n_seen), dtype=bool), positions.start + 1
        )
        return later
    return np.arange(n_seen) > positions[:, None, :, None]
