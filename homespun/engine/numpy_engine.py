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

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from threadpoolctl import ThreadpoolController

from homespun.config import ModelConfig
from homespun.engine.base import IGNORED, Batch, Floats, Named, Tokens, checked
from homespun.engine.memory import HEAD_ROWS
from homespun.model.spec import parameters

Weights = dict[str, Floats]

PREFILL = 256
"""Positions that are read at a time: a bound on the attention weights in memory."""


@dataclass
class LayerCache:
    """Keys and values of the positions seen so far, in one layer."""

    keys: Floats  # [B, K, max_len, C]
    values: Floats  # [B, K, max_len, C]

    def put(self, start: int, k: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Store k and v [B, K, T, C] from position `start` on; returns all S positions."""
        end = start + k.shape[2]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


def linear(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """x [N, D] and weight [out, D] -> [N, out]."""
    y: Floats = (weight @ x[0])[None] if len(x) == 1 else x @ weight.T
    if bias is not None:
        y += bias
    return y


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
    y: Floats = x - np.add.reduce(x, -1, keepdims=True) / x.shape[-1]
    y /= root_mean_square(y, eps)
    y *= weight
    y += bias
    return y


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    y: Floats = x / root_mean_square(x, eps)
    y *= weight
    return y


def root_mean_square(x: Floats, eps: float) -> Floats:
    """x [..., D] -> [..., 1]."""
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


def attention(q: Floats, k: Floats, v: Floats) -> Floats:
    """Causal attention of the last T of S positions; q [B, H, T, C], k and v [B, K, S, C] -> [N, H * C]."""
    batch, heads, n_new, channels = q.shape
    shared_by, n_seen = heads // k.shape[1], k.shape[2]
    # The heads that share their keys are laid side by side, as more positions of one head: [B, K, H / K * T, C].
    q = (q * np.float32(channels**-0.5)).reshape(batch, -1, shared_by * n_new, channels)
    scores: Floats = q @ k.swapaxes(-1, -2)  # [B, K, H / K * T, S]
    if n_new > 1:
        later = np.triu(np.ones((n_new, n_seen), dtype=bool), n_seen - n_new + 1)
        scores[..., np.tile(later, (shared_by, 1))] = -np.inf
    scores -= np.maximum.reduce(scores, -1, keepdims=True)
    np.exp(scores, out=scores)
    y = scores @ v
    y /= np.add.reduce(scores, -1, keepdims=True)
    y = y.reshape(batch, heads, n_new, channels)
    result: Floats = y.transpose(0, 2, 1, 3).reshape(batch * n_new, heads * channels)
    return result


class NumpyEngine:
    """A model that is read from; `load` gives it its weights."""

    def __init__(self, config: ModelConfig, threads: int | None = None) -> None:
        # One thread, since more gain little for small models, and those of OpenBLAS stand still in turn as soon as
        # anything else runs on the machine: beside a training run 10 tokens per second with two, 290 with one.
        # The limit holds while this engine computes: what else the process does with NumPy keeps its threads.
        self.threads = partial(ThreadpoolController().limit, limits=threads or 1, user_api="blas")
        self.config = config
        self.gpt2 = config.architecture == "gpt2"
        self.rope = None if self.gpt2 else rotary_tables(config)
        self.weights: Weights = {}
        self.blocks: list[Weights] = []

    def load(self, tensors: Iterable[Named]) -> None:
        """Weights by name.

        Raises:
            ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
        """
        shapes = {p.name: p.shape for p in parameters(self.config)}
        weights = {
            name: _by_columns(array.astype(np.float32))
            for name, array in checked(tensors, shapes, shapes)
        }
        self.weights = weights
        prefix = "transformer.h." if self.gpt2 else "model.layers."
        self.blocks = [
            {
                name.removeprefix(f"{prefix}{i}."): weight
                for name, weight in weights.items()
                if name.startswith(f"{prefix}{i}.")
            }
            for i in range(self.config.n_layers)
        ]

    def state(self) -> Iterator[Named]:
        """The weights, one at a time."""
        for name, weight in self.weights.items():
            yield name, np.ascontiguousarray(weight)

    def logits(self, tokens: Tokens) -> Floats:
        """[B, T] -> [B, T, V]."""
        with self.threads():
            hidden = self.hidden(tokens).reshape(-1, self.config.d_model)
            return linear(hidden, self.head).reshape(*tokens.shape, -1)

    def loss(self, batch: Batch) -> tuple[float, int]:
        """Summed loss in nats, and the number of valid targets."""
        with self.threads():
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

    def empty_cache(self, batch_size: int, max_len: int) -> list[LayerCache]:
        c = self.config
        shape = (batch_size, c.n_kv_heads, max_len, c.head_dim)
        return [
            LayerCache(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
            for _ in range(c.n_layers)
        ]

    def hidden(
        self, tokens: Tokens, cache: list[LayerCache] | None = None, start: int = 0
    ) -> Floats:
        """Tokens [B, T] from position `start` on -> the normed stream [B, T, D]."""
        batch, n = tokens.shape
        cache = cache or self.empty_cache(batch, n)
        parts = [
            self._slice(tokens[:, first : first + PREFILL], cache, start + first)
            for first in range(0, n, PREFILL)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _slice(self, tokens: Tokens, cache: list[LayerCache], start: int) -> Floats:
        """`hidden` of a slice that is short enough."""
        c, w = self.config, self.weights
        batch, n = tokens.shape
        x = self.embedding[tokens]  # [B, T, D]
        if self.gpt2:
            x = x + w["transformer.wpe.weight"][start : start + n]
        x = x.reshape(batch * n, c.d_model)
        block = self._gpt2_block if self.gpt2 else self._qwen3_block
        for weights, layer in zip(self.blocks, cache, strict=True):
            x = block(weights, x, (batch, n), layer, start)
        if self.gpt2:
            x = layer_norm(x, w["transformer.ln_f.weight"], w["transformer.ln_f.bias"], c.norm_eps)
        else:
            x = rms_norm(x, w["model.norm.weight"], c.norm_eps)
        return x.reshape(batch, n, c.d_model)

    def _gpt2_block(
        self, w: Weights, x: Floats, shape: tuple[int, int], cache: LayerCache, start: int
    ) -> Floats:
        """x [N, D] -> [N, D]."""
        c = self.config
        h = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], c.norm_eps)
        h = linear(h, w["attn.c_attn.weight"], w["attn.c_attn.bias"])
        q, k, v = h.reshape(*shape, 3, c.n_heads, c.head_dim).transpose(2, 0, 3, 1, 4)
        h = attention(q, *cache.put(start, k, v))  # q, k, v [B, H, T, C]
        x = x + linear(h, w["attn.c_proj.weight"], w["attn.c_proj.bias"])
        h = layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], c.norm_eps)
        h = gelu(linear(h, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))  # [N, F]
        return x + linear(h, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])

    def _qwen3_block(
        self, w: Weights, x: Floats, shape: tuple[int, int], cache: LayerCache, start: int
    ) -> Floats:
        """x [N, D] -> [N, D]."""
        assert self.rope is not None
        c, rope = self.config, self.rope[:, start : start + shape[1]]

        def heads(name: str) -> Floats:
            y = linear(h, w[f"self_attn.{name}_proj.weight"])
            return y.reshape(*shape, -1, c.head_dim).transpose(0, 2, 1, 3)  # [B, H or K, T, C]

        h = rms_norm(x, w["input_layernorm.weight"], c.norm_eps)
        q = rotate(rms_norm(heads("q"), w["self_attn.q_norm.weight"], c.norm_eps), rope)
        k = rotate(rms_norm(heads("k"), w["self_attn.k_norm.weight"], c.norm_eps), rope)
        h = attention(q, *cache.put(start, k, heads("v")))
        x = x + linear(h, w["self_attn.o_proj.weight"])
        h = rms_norm(x, w["post_attention_layernorm.weight"], c.norm_eps)
        gate, up = linear(h, w["mlp.gate_proj.weight"]), linear(h, w["mlp.up_proj.weight"])
        return x + linear(silu(gate) * up, w["mlp.down_proj.weight"])


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

    def prefill(self, tokens: Tokens) -> Floats:
        with self.engine.threads():
            hidden = self.engine.hidden(tokens, self.cache, self.length)
            self.length += tokens.shape[1]
            return linear(hidden[:, -1], self.engine.head)

    def step(self, tokens: Tokens) -> Floats:
        return self.prefill(tokens[:, None])

    def rewind(self, length: int) -> None:
        self.length = length


def _by_columns(weight: Floats) -> Floats:
    """A matrix with more rows than columns lies in memory by columns: its product with a vector is then faster."""
    tall = weight.ndim == 2 and weight.shape[0] > weight.shape[1]
    return np.asfortranarray(weight) if tall else weight
