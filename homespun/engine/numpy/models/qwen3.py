"""Qwen3: rotary positions, RMSNorm, SwiGLU, normed queries and keys. Letters of shapes as in `layers`."""

import numpy as np

from homespun.config import ModelConfig
from homespun.data.batch import Tokens
from homespun.engine.base import Floats
from homespun.engine.numpy.layers import (
    Apart,
    Positions,
    RotaryTables,
    Watch,
    Weights,
    attention,
    linear,
    rms_norm,
    rows,
    swiglu,
    weights_by_block,
)
from homespun.engine.numpy.narrow import Cache
from homespun.engine.numpy.products import Products

FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


class Model:
    """The forward pass of a Qwen3 without its head; see `models.Model`."""

    has_qk_norm = True

    def __init__(self, config: ModelConfig, weights: Weights, own: Products | None = None) -> None:
        self.config = config
        self.own = own
        self.embedding = weights["model.embed_tokens.weight"]
        self.rotary_tables = RotaryTables(config)
        self.blocks = weights_by_block(weights, "model.layers", config.n_layers)
        if self.has_qk_norm:
            for block in self.blocks:
                norms = [block["self_attn.q_norm.weight"]] * config.n_heads
                norms += [block["self_attn.k_norm.weight"]] * config.n_kv_heads
                block["self_attn.qk_norm.weight"] = np.stack(norms)[:, None]  # [H + K, 1, C]
        self.norm = weights["model.norm.weight"]

    def __call__(
        self,
        tokens: Tokens,
        positions: Positions,
        cache: Cache,
        apart: Apart | None = None,
        watch: Watch | None = None,
    ) -> Floats:
        batch, n_new = tokens.shape
        x = rows(self.embedding, tokens).reshape(batch * n_new, -1)
        if watch is not None:
            watch.hidden.append(x.copy())
        for weights, block_cache in zip(self.blocks, cache, strict=True):
            self.add_block(x, weights, tokens.shape, positions, block_cache, apart, watch)
            if watch is not None:
                watch.hidden.append(x.copy())
        return self.normed(x).reshape(batch, n_new, -1)

    def normed(self, x: Floats) -> Floats:
        return rms_norm(x, self.norm, self.config.norm_eps, self.own)

    def add_block(
        self,
        x: Floats,
        w: Weights,
        shape: tuple[int, ...],
        positions: Positions,
        cache: Cache,
        apart: Apart | None,
        watch: Watch | None,
    ) -> None:
        """Add attention and feed-forward layer of one block to x [N, D] in place; `shape` is B, T."""
        c, own = self.config, self.own
        h = rms_norm(x, w["input_layernorm.weight"], c.norm_eps, own)
        h = linear(h, w["self_attn.qkv_proj.weight"])  # [N, (H + 2 * K) * C]
        heads = h.reshape(*shape, -1, c.head_dim).transpose(0, 2, 1, 3)  # [B, H + 2 * K, T, C]
        qk_norm = w["self_attn.qk_norm.weight"] if self.has_qk_norm else None
        self.rotary_tables.turn(heads, positions, qk_norm, c.norm_eps, own)
        h = attention(heads, cache, positions, apart, watch, own)
        x += linear(h, w["self_attn.o_proj.weight"])
        h = rms_norm(x, w["post_attention_layernorm.weight"], c.norm_eps, own)
        x += self.feed_forward(h, w, watch)

    def feed_forward(self, h: Floats, w: Weights, watch: Watch | None) -> Floats:
        """h [N, D] -> [N, D]."""
        if watch is not None:
            watch.experts.append(None)
        h = linear(h, w["mlp.gate_up_proj.weight"])  # [N, 2 * F]
        return linear(swiglu(h, self.own), w["mlp.down_proj.weight"])
