"""Reading a trained model with NumPy alone: tokens in, logits and losses out, in float32 on the CPU.

It cannot train. But no framework has to be loaded, so a text begins at once, and a single token through a small model
is a row of matrix-vector products with little between them, which NumPy does faster than PyTorch (benchmarks/
generation.py). It is also the second opinion on the other engines.

A token's products read all the weights, which sweeps the rest out of the processor's cache: a call of NumPy between
them then costs more than its arithmetic. So calls are few, in place where an array is the function's own, and not of
those that are Python inside, like `mean`.

B sequences, T tokens, N = B * T, S positions seen (T, or more with a cache), D width of the stream, F width of the
feed-forward layer, H heads, K key/value heads, C channels of a head, V tokens in the vocabulary.
"""

import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from homespun.architectures.base import Parameter
from homespun.architectures.families import count_parameters, parameters
from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, Batch, Tokens
from homespun.engine.base import HEAD_ROWS, Floats, checked
from homespun.engine.numpy.threads import ProductThreads
from homespun.named_array import NamedArray

Weights = dict[str, Floats]

PREFILL = 256
"""Positions that are read at a time: a bound on the attention weights in memory."""


TOGETHER = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Matrices that are applied to the same vector lie below each other, as one of this name."""


def room(config: ModelConfig) -> Weights:
    """Room for the weights by name, also of those that lie together.

    All is one array, which the system maps in large pages: 3% of a small model's time. A matrix with more rows than
    columns lies in it by columns: its product with a vector is then faster.
    """
    groups: dict[str, list[Parameter]] = {}
    for p in parameters(config):
        name = ".".join(TOGETHER.get(part, part) for part in p.name.split("."))
        groups.setdefault(name, []).append(p)
    free = np.empty(count_parameters(config), np.float32)
    weights: Weights = {}
    for name, members in groups.items():
        ends = np.cumsum([p.shape[0] for p in members])
        shape = (int(ends[-1]), *members[0].shape[1:])
        taken, free = np.split(free, [math.prod(shape)])
        tall = shape[0] > shape[-1]
        weights[name] = taken.reshape(shape[::-1]).T if tall else taken.reshape(shape)
        for p, rows in zip(members, np.split(weights[name], ends[:-1]), strict=True):
            weights[p.name] = rows
    return weights


def linear(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """x [N, D] and weight [out, D] -> [N, out]."""
    y: Floats = x.dot(weight.T)
    if bias is not None:
        y += bias
    return y


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
    """Of the rows of x [N, D]."""
    y: Floats = x - x.dot(equal_shares(x.shape[-1]))[:, None]
    y /= root_mean_square(y, eps)
    y *= weight
    y += bias
    return y


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """Of the last axis."""
    y: Floats = x / root_mean_square(x, eps)
    y *= weight
    return y


@functools.cache
def equal_shares(n: int) -> Floats:
    return np.full(n, 1 / n, np.float32)


def root_mean_square(x: Floats, eps: float) -> Floats | float:
    """x [..., D] -> [..., 1], or a number for a single row: an array of one would take several times as long."""
    if x.size == x.shape[-1]:
        row = x.reshape(-1)
        return math.sqrt(row.dot(row) / row.size + eps)
    size: Floats = np.sqrt(np.vecdot(x, x)[..., None] / x.shape[-1] + eps)
    return size


def gelu(x: Floats) -> Floats:
    """By tanh, as GPT-2 has it (Hendrycks and Gimpel, 2016)."""
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
    """x times its sigmoid, which by tanh cannot overflow."""
    half = 0.5 * x
    y: Floats = np.tanh(half)
    y += 1
    y *= half
    return y


def rotary_tables(config: ModelConfig) -> Floats:
    """cos and sin of each position's angles, [2, T, C] (Su et al., 2021; halves, not interleaved)."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    rates = np.float32(config.rope_theta) ** -exponents
    angles = np.arange(config.seq_len, dtype=np.float32)[:, None] * rates
    tables: Floats = np.stack((np.cos(angles), np.sin(angles)))
    return np.concatenate((tables, tables), axis=-1)


def rotate(x: Floats, rope: Floats) -> Floats:
    """Turn the channels of x [B, H, T, C] by the angles of `rope` [2, T, C]."""
    half = x.shape[-1] // 2
    turned = np.concatenate((-x[..., half:], x[..., :half]), axis=-1)
    turned *= rope[1]
    turned += x * rope[0]
    return turned


def attention(heads: Floats, seen: Floats, start: int) -> Floats:
    """Causal attention of T new positions, from `start` on, to themselves and those before.

    heads [B, H + 2 * K, T, C] are the queries, keys and values of the new ones -> [N, H * C]. Keys and values are
    kept in `seen` [B, 2 * K, positions, C].
    """
    batch, _, n_new, channels = heads.shape
    n_kv_heads, n_seen = seen.shape[1] // 2, start + n_new
    n_heads = heads.shape[1] - 2 * n_kv_heads
    seen[:, :, start:n_seen] = heads[:, n_heads:]
    k, v = seen[:, :n_kv_heads, :n_seen], seen[:, n_kv_heads:, :n_seen]
    # The heads that share their keys are laid side by side, as more positions of one head: [B, K, H / K * T, C].
    q = heads[:, :n_heads] * np.float32(channels**-0.5)
    scores = q.reshape(batch, n_kv_heads, -1, channels) @ k.swapaxes(-1, -2)
    if n_new > 1:
        later = np.triu(np.ones((n_new, n_seen), dtype=bool), n_seen - n_new + 1)
        scores[..., np.tile(later, (n_heads // n_kv_heads, 1))] = -np.inf
    scores -= np.maximum.reduce(scores, -1, keepdims=True)
    np.exp(scores, out=scores)
    y: Floats = np.matmul(scores, v)
    y /= np.add.reduce(scores, -1, keepdims=True)
    y = y.reshape(batch, n_heads, n_new, channels)
    return y.transpose(0, 2, 1, 3).reshape(batch * n_new, n_heads * channels)


class NumpyEngine:
    """A model that is read from; `load` gives it its weights."""

    def __init__(self, config: ModelConfig, threads: int | None = None) -> None:
        self.threads = ProductThreads(threads)
        self.config = config
        self.gpt2 = config.architecture == "gpt2"
        self.rope = None if self.gpt2 else rotary_tables(config)
        self.weights: Weights = {}
        self.blocks: list[Weights] = []

    def load(self, tensors: Iterable[NamedArray]) -> None:
        """Weights by name.

        Raises:
            ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
        """
        shapes = {p.name: p.shape for p in parameters(self.config)}
        weights = room(self.config)
        for name, array in checked(tensors, shapes, shapes):
            weights[name][...] = array
        self.weights = weights
        self.blocks = [self._block(i) for i in range(self.config.n_layers)]

    def _block(self, layer: int) -> Weights:
        """The weights of a layer by their names in it."""
        c = self.config
        start = f"{'transformer.h' if self.gpt2 else 'model.layers'}.{layer}."
        block = {n.removeprefix(start): w for n, w in self.weights.items() if n.startswith(start)}
        if not self.gpt2:
            norms = [block["self_attn.q_norm.weight"]] * c.n_heads
            norms += [block["self_attn.k_norm.weight"]] * c.n_kv_heads
            block["self_attn.qk_norm.weight"] = np.stack(norms)[:, None]  # [H + K, 1, C]
        return block

    def state(self) -> Iterator[NamedArray]:
        """The weights, one at a time."""
        for p in parameters(self.config):
            yield p.name, np.ascontiguousarray(self.weights[p.name])

    def logits(self, tokens: Tokens) -> Floats:
        """[B, T] -> [B, T, V]."""
        with self.threads.few():
            hidden = self.hidden(tokens).reshape(-1, self.config.d_model)
            return linear(hidden, self.head).reshape(*tokens.shape, -1)

    def loss(self, batch: Batch) -> tuple[float, int]:
        """Summed loss in nats, and the number of valid targets."""
        with self.threads.few():
            return self._summed_loss(batch), batch.n_targets

    def _summed_loss(self, batch: Batch) -> float:
        hidden = self.hidden(batch.inputs).reshape(-1, self.config.d_model)
        targets = batch.targets.reshape(-1)
        total = 0.0
        for start in range(0, len(hidden), HEAD_ROWS):
            expected = targets[start : start + HEAD_ROWS]
            valid = np.flatnonzero(expected != IGNORED)
            logits = linear(hidden[start : start + HEAD_ROWS], self.head)[valid].astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            chosen = logits[np.arange(len(valid)), expected[valid]]
            total += float((np.log(np.exp(logits).sum(-1)) - chosen).sum())
        return total

    def decoder(self, batch_size: int, max_len: int) -> "NumpyDecoder":
        """A decoder for `batch_size` sequences of at most `max_len` positions."""
        return NumpyDecoder(self, batch_size, max_len)

    @property
    def embedding(self) -> Floats:
        return self.weights["transformer.wte.weight" if self.gpt2 else "model.embed_tokens.weight"]

    @property
    def head(self) -> Floats:
        return self.embedding if self.config.tie_embeddings else self.weights["lm_head.weight"]

    def empty_cache(self, batch_size: int, max_len: int) -> Floats:
        """For the keys and values of each layer, [layers, B, 2 * K, positions, C]."""
        c = self.config
        return np.zeros((c.n_layers, batch_size, 2 * c.n_kv_heads, max_len, c.head_dim), np.float32)

    def hidden(self, tokens: Tokens, cache: Floats | None = None, start: int = 0) -> Floats:
        """Tokens [B, T] from position `start` on -> the normed stream [B, T, D]."""
        batch, n = tokens.shape
        cache = self.empty_cache(batch, n) if cache is None else cache
        parts = [
            self._slice(tokens[:, first : first + PREFILL], cache, start + first)
            for first in range(0, n, PREFILL)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _slice(self, tokens: Tokens, cache: Floats, start: int) -> Floats:
        """`hidden` of a slice that is short enough."""
        c, w = self.config, self.weights
        batch, n = tokens.shape
        x = self.embedding[tokens]  # [B, T, D]
        if self.gpt2:
            x = x + w["transformer.wpe.weight"][start : start + n]
        x = x.reshape(batch * n, c.d_model)
        block = self._gpt2_block if self.gpt2 else self._qwen3_block
        for weights, seen in zip(self.blocks, cache, strict=True):
            block(weights, x, (batch, n), seen, start)
        if self.gpt2:
            x = layer_norm(x, w["transformer.ln_f.weight"], w["transformer.ln_f.bias"], c.norm_eps)
        else:
            x = rms_norm(x, w["model.norm.weight"], c.norm_eps)
        return x.reshape(batch, n, c.d_model)

    def _gpt2_block(
        self, w: Weights, x: Floats, shape: tuple[int, int], seen: Floats, start: int
    ) -> None:
        """Add to the stream x [N, D]."""
        c = self.config
        h = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], c.norm_eps)
        h = linear(h, w["attn.c_attn.weight"], w["attn.c_attn.bias"])
        heads = h.reshape(*shape, -1, c.head_dim).transpose(0, 2, 1, 3)  # [B, 3 * H, T, C]
        h = attention(heads, seen, start)
        x += linear(h, w["attn.c_proj.weight"], w["attn.c_proj.bias"])
        h = layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], c.norm_eps)
        h = gelu(linear(h, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))  # [N, F]
        x += linear(h, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])

    def _qwen3_block(
        self, w: Weights, x: Floats, shape: tuple[int, int], seen: Floats, start: int
    ) -> None:
        """Add to the stream x [N, D]."""
        assert self.rope is not None
        c, rope = self.config, self.rope[:, start : start + shape[1]]
        h = rms_norm(x, w["input_layernorm.weight"], c.norm_eps)
        h = linear(h, w["self_attn.qkv_proj.weight"])
        heads = h.reshape(*shape, -1, c.head_dim).transpose(0, 2, 1, 3)  # [B, H + 2 * K, T, C]
        qk = heads[:, : c.n_heads + c.n_kv_heads]
        qk[...] = rotate(rms_norm(qk, w["self_attn.qk_norm.weight"], c.norm_eps), rope)
        h = attention(heads, seen, start)
        x += linear(h, w["self_attn.o_proj.weight"])
        h = rms_norm(x, w["post_attention_layernorm.weight"], c.norm_eps)
        h = linear(h, w["mlp.gate_up_proj.weight"])  # [N, 2 * F]
        h = silu(h[:, : c.d_ff]) * h[:, c.d_ff :]
        x += linear(h, w["mlp.down_proj.weight"])


class NumpyDecoder:
    """The model, one token at a time, with a cache for `max_len` positions."""

    def __init__(self, engine: NumpyEngine, batch_size: int, max_len: int) -> None:
        if max_len > engine.config.seq_len:
            raise ValueError(
                f"{max_len} positions are more than the model's {engine.config.seq_len}"
            )
        self.engine = engine
        self.cache = engine.empty_cache(batch_size, max_len)
        self.length = 0
        engine.threads.begin(batch_size)

    def prefill(self, tokens: Tokens) -> Floats:
        with self.engine.threads.as_for_a_step():
            return self._append(tokens)

    def step(self, tokens: Tokens) -> Floats:
        with self.engine.threads.step():
            return self._append(tokens[:, None])

    def rewind(self, length: int) -> None:
        self.length = length

    def _append(self, tokens: Tokens) -> Floats:
        hidden = self.engine.hidden(tokens, self.cache, self.length)
        self.length += tokens.shape[1]
        return linear(hidden[:, -1], self.engine.head)
