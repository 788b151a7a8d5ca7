"""Arrays flow in and out: the layers that the models share, and the memory for their weights. All is in float32, apart
from narrow weights, keys and values.

Functions with a parameter `own` compute with the compiled functions if there are any, and with NumPy otherwise.

A token's products read all the weights and sweep everything else out of the processor's cache, so a NumPy call between
them costs more than its arithmetic. Therefore the calls are few, work in place where the function owns the array, and
avoid NumPy functions that are written in Python, such as `mean`.

B sequences, T new tokens, N = B * T, S positions in the cache, D width of the model, F width of the feed-forward
layer, H heads, K key/value heads, C channels of a head, V tokens in the vocabulary.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.architectures.base import Parameter
from homespun.architectures.families import parameters
from homespun.bfloat16 import to_bfloat16
from homespun.config import ModelConfig
from homespun.engine.base import Floats
from homespun.engine.inside import Experts
from homespun.engine.numpy.narrow import Cache, Narrow, NarrowPrecision, in_float32
from homespun.engine.numpy.panels import Memory, Panels
from homespun.engine.numpy.products import Products, Routes

Matrix = Floats | Narrow | Panels
"""[out, in]"""
Weights = dict[str, Any]
"""By name: vectors are arrays in float32; matrices are `Panels` where products are compiled, otherwise arrays or
`Narrow`."""
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
    own: Products | None = None,
) -> Weights:
    """Memory for the weights by name. Fused matrices lie below each other and have one more name together.

    All weights in float32, or all matrices in panels, share one array, which the system maps in large pages: this saves
    3% of a small model's time. Without compiled products, a matrix with more rows than columns is stored by columns:
    its product with a vector is faster that way.

    Args:
        narrow: the precision of matrices and embeddings. Routers stay in float32: near ties would be decided by
            rounding.
    """
    groups: dict[str, list[Parameter]] = {}
    for p in parameters(config):
        name = ".".join(fused.get(part, part) for part in p.name.split("."))
        groups.setdefault(name, []).append(p)
    ends = {name: np.cumsum([p.shape[0] for p in group]) for name, group in groups.items()}
    shapes = {name: (int(ends[name][-1]), *group[0].shape[1:]) for name, group in groups.items()}
    precisions = {  # of the matrices that are no arrays
        name: None if group[0].is_router else narrow
        for name, group in groups.items()
        if len(group[0].shape) > 1 and (own or (narrow and not group[0].is_router))
    }
    memory = None
    if own:
        memory = Memory(
            sum(Panels.size(shapes[name], kind, own) for name, kind in precisions.items())
        )
    free = np.empty(
        sum(math.prod(shapes[name]) for name in groups.keys() - precisions.keys()), np.float32
    )
    weights: Weights = {}
    for name, members in groups.items():
        shape, starts = shapes[name], [0, *ends[name]]
        parts: list[Any]
        if name not in precisions:
            taken, free = np.split(free, [math.prod(shape)])
            weights[name] = _by_columns(taken, shape)
            parts = np.split(weights[name], ends[name][:-1])
        elif own:
            panels = weights[name] = Panels.empty(shape, precisions[name], own, memory)
            # Several matrices are never fused.
            parts = (
                [panels]
                if len(members) == 1
                else [panels.part(*place) for place in itertools.pairwise(starts)]
            )
        else:
            assert narrow
            weights[name] = Narrow.empty(shape, narrow)
            parts = [weights[name][start:end] for start, end in itertools.pairwise(starts)]
        weights |= {p.name: part for p, part in zip(members, parts, strict=True)}
    return weights


def _by_columns(numbers: Floats, shape: tuple[int, ...]) -> Floats:
    """Numbers as an array of this shape, by columns where it has more rows than columns."""
    if len(shape) == 1 or shape[-2] <= shape[-1]:
        return numbers.reshape(shape)
    return numbers.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)


def weights_by_block(weights: Weights, prefix: str, n_layers: int) -> list[Weights]:
    """The weights of each block by their names within it."""
    blocks: list[Weights] = [{} for _ in range(n_layers)]
    for name, weight in weights.items():
        if name.startswith(f"{prefix}."):
            layer, _, inner = name.removeprefix(f"{prefix}.").partition(".")
            blocks[int(layer)][inner] = weight
    return blocks


def linear(x: Floats, weight: Matrix, bias: Floats | None = None) -> Floats:
    """x [N, D] and weight [out, D] -> [N, out], plus `bias` [out]."""
    if isinstance(weight, Panels):
        return weight.product(x, bias)
    y: Floats = x.dot(weight.T) if isinstance(weight, np.ndarray) else weight.product(x)
    if bias is not None:
        y += bias
    return y


def grouped_linear(x: Floats, weights: Matrix, ends: npt.NDArray[np.int64]) -> Floats:
    """x [N, D] and weights [E, out, D] -> [N, out]. The rows of x are sorted by their matrix; those of each matrix end
    before `ends` [E]."""
    if isinstance(weights, Panels):
        return weights.grouped_product(x, ends)
    y = np.empty((len(x), weights.shape[-2]), np.float32)
    for matrix, (start, end) in enumerate(itertools.pairwise([0, *ends.tolist()])):
        if start < end:
            y[start:end] = linear(x[start:end], weights[matrix])
    return y


def route(logits: Floats, k: int, own: Products | None = None) -> Routes:
    """The k experts with the largest of a token's logits [N, E], of equal ones the first. Their weights are their
    probabilities divided by the sum of these, which is a softmax over the chosen logits."""
    if own:
        return own.route(logits, k)
    n, n_experts = logits.shape
    size = np.where(np.isnan(logits), np.inf, logits)  # a damaged router gives NaN, not a text
    chosen = np.sort(np.argsort(-size, axis=-1, kind="stable")[:, :k])
    weights = np.take_along_axis(logits, chosen, axis=-1)
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    pairs = chosen.reshape(-1).argsort(kind="stable")
    places = np.empty_like(pairs)
    places[pairs] = np.arange(n * k)
    ends = np.bincount(chosen.reshape(-1), minlength=n_experts).cumsum()
    return Routes(chosen, weights, ends, places.reshape(n, k), pairs // k)


def combine(outputs: Floats, routes: Routes, own: Products | None = None) -> Floats:
    """The outputs of the experts for the sorted pairs, [N * k, D] -> the weighted sum of each token, [N, D]."""
    if own:
        return own.combine(outputs, routes)
    y: Floats = (routes.weights[..., None] * outputs[routes.places]).sum(1)
    return y


def rows(table: Matrix, places: npt.NDArray[np.integer[Any]] | slice) -> Floats:
    """Some rows of an embedding [V, D] -> [..., D]."""
    found: Floats = table[places] if isinstance(table, np.ndarray) else table.rows(places)
    return found


def layer_norm(
    x: Floats, weight: Floats, bias: Floats, eps: float, own: Products | None = None
) -> Floats:
    """LayerNorm of the rows of x [N, D]."""
    if own:
        return own.norm(x, weight, bias, eps)
    y: Floats = x - x.dot(mean_vector(x.shape[-1]))[:, None]
    y /= root_mean_square(y, eps)
    y *= weight
    y += bias
    return y


def rms_norm(x: Floats, weight: Floats, eps: float, own: Products | None = None) -> Floats:
    """RMSNorm of the last axis, with `own` of x [N, D]."""
    if own:
        return own.norm(x, weight, None, eps)
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


def gelu(x: Floats, own: Products | None = None) -> Floats:
    """GELU of x [N, D] approximated by tanh, as in GPT-2 (Hendrycks and Gimpel, 2016). It may overwrite x."""
    if own:
        return own.gelu(x)
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


def swiglu(x: Floats, own: Products | None = None) -> Floats:
    """SiLU of the first half of each row of x [N, 2 * F], times the second half -> [N, F] (Shazeer, 2020)."""
    if own:
        return own.swiglu(x)
    gate, up = np.split(x, 2, axis=-1)
    half = 0.5 * gate
    y: Floats = np.tanh(half)  # the sigmoid by tanh, which cannot overflow
    y += 1
    y *= half
    y *= up
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
        self._n_turned = config.n_heads + config.n_kv_heads

    def turn(
        self,
        heads: Floats,
        positions: Positions,
        norm: Floats | None,
        eps: float,
        own: Products | None = None,
    ) -> None:
        """Norm the queries and keys of new tokens, if `norm` [turned heads, 1, C] has weights, and rotate them.

        heads [B, H + 2 * K, T, C] are changed in place, except for the values.
        """
        end = positions.stop if isinstance(positions, slice) else int(positions.max()) + 1
        n_known = self._tables.shape[1]
        if end > n_known:
            self._tables = self._computed(max(end, 2 * n_known))
        if own and heads.shape[2] == 1:
            own.rotary(
                heads, self._n_turned, _of_one(positions, len(heads)), self._tables, norm, eps
            )
            return
        angles = self._tables[:, positions]  # [2, T, C], or [2, B, T, C] where sequences differ
        if not isinstance(positions, slice):
            angles = angles[:, :, None]
        turned = heads[:, : self._n_turned]
        normed = turned if norm is None else rms_norm(turned, norm, eps)
        turned[...] = rotate(normed, angles)

    def _computed(self, n_positions: int) -> Floats:
        angles = np.arange(n_positions, dtype=np.float32)[:, None] * self._rates
        tables: Floats = np.stack((np.cos(angles), np.sin(angles)))
        return np.concatenate((tables, tables), axis=-1)


def rotate(x: Floats, angles: Floats) -> Floats:
    """Rotate the channels of x [B, H, T, C] by the cos and sin of its positions."""
    half = x.shape[-1] // 2
    rotated = np.concatenate((-x[..., half:], x[..., :half]), axis=-1)
    rotated *= angles[1]
    rotated += x * angles[0]
    return rotated


def attention(
    heads: Floats,
    cache: Cache,
    positions: Positions,
    apart: Apart | None = None,
    watch: Watch | None = None,
    own: Products | None = None,
) -> Floats:
    """Causal attention of the new tokens to themselves and to those before them that are not `apart`.

    heads [B, H + 2 * K, T, C] are the queries, keys and values of the new tokens -> [N, H * C]. Keys and values are
    added to the cache of this block, [B, 2 * K, S, C], and read from there, so that they are as exact as it keeps them.

    Raises:
        IndexError: the cache has no such position.
    """
    batch, _, n_new, channels = heads.shape
    n_seen = positions.stop if isinstance(positions, slice) else int(positions.max()) + 1
    if n_seen > cache.shape[2]:  # the compiled function would write behind it
        raise IndexError(f"position {n_seen - 1} is not in a cache of {cache.shape[2]}")
    if own and n_new == 1 and apart is None and watch is None:
        return own.attention(heads, cache, _of_one(positions, batch))
    n_kv_heads = cache.shape[1] // 2
    n_heads = heads.shape[1] - 2 * n_kv_heads
    added: Cache = heads[:, n_heads:]
    if cache.dtype == np.uint16:
        added = to_bfloat16(heads[:, n_heads:])
    if isinstance(positions, slice):
        cache[:, :, positions] = added
    else:
        rows = np.arange(batch)[:, None]
        cache[rows, :, positions] = added.transpose(0, 2, 1, 3)  # [B, T, 2 * K, C]
    wide = in_float32(cache[:, :, :n_seen])
    k, v = wide[:, :n_kv_heads], wide[:, n_kv_heads:]
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


def _of_one(positions: Positions, batch: int) -> npt.NDArray[np.int64]:
    """The position of the only new token of each sequence, [B]."""
    if isinstance(positions, slice):
        return np.full(batch, positions.start, np.int64)
    return np.ascontiguousarray(positions[:, 0], np.int64)


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
