"""Qwen3 (Qwen team, 2025): rotary positions, RMSNorm, SwiGLU, grouped key/value heads, normed queries and keys.

It follows Hugging Face's Qwen3ForCausalLM. The letters of the shapes are those of `layers.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from homespun.config import ModelConfig
from homespun.engine.mlx.cache import LayerCache, Positions
from homespun.engine.mlx.dropout import Dropout, apply_dropout
from homespun.engine.mlx.layers import (
    Embedding,
    HeadNorm,
    Linear,
    RMSNorm,
    attention,
    rotate,
    swiglu,
)
from homespun.engine.mlx.model import Block, DecoderModel


class Attention(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig, has_qk_norm: bool) -> None:
        super().__init__()
        c = config
        self.config = c
        self.q_proj = Linear(c.d_model, c.n_heads * c.head_dim, bias=False)
        self.k_proj = Linear(c.d_model, c.n_kv_heads * c.head_dim, bias=False)
        self.v_proj = Linear(c.d_model, c.n_kv_heads * c.head_dim, bias=False)
        self.q_norm = HeadNorm(c.head_dim, c.norm_eps) if has_qk_norm else None
        self.k_norm = HeadNorm(c.head_dim, c.norm_eps) if has_qk_norm else None
        self.o_proj = Linear(c.n_heads * c.head_dim, c.d_model, bias=False)

    def __call__(
        self, x: mx.array, positions: Positions, cache: LayerCache | None, mask: mx.array | None
    ) -> mx.array:
        q = self.placed(self.split(self.q_proj(x)), self.q_norm, positions)
        k = self.placed(self.split(self.k_proj(x)), self.k_norm, positions)
        v = self.split(self.v_proj(x))
        return self.o_proj(attention(q, k, v, cache, mask))

    def split(self, x: mx.array) -> mx.array:
        """Into heads."""
        return x.reshape(*x.shape[:2], -1, self.config.head_dim).swapaxes(1, 2)  # [B, H or K, T, C]

    def placed(self, x: mx.array, norm: HeadNorm | None, positions: Positions) -> mx.array:
        """Queries or keys after norm and rotation, both in float32."""
        wide = x.astype(mx.float32)
        if norm is not None:
            wide = norm(wide)
        return rotate(wide, positions, self.config).astype(x.dtype)


class MLP(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = Linear(config.d_ff, config.d_model, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))  # from [B, T, F]


class Qwen3Block(Block):
    mlp_class: Callable[[ModelConfig], Any] = MLP

    def __init__(self, config: ModelConfig, has_qk_norm: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config, has_qk_norm)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = self.mlp_class(config)

    def __call__(
        self,
        x: mx.array,
        mask: mx.array | None,
        dropout: Dropout | None,
        *,
        positions: Positions,
        cache: LayerCache | None,
    ) -> tuple[mx.array, mx.array | None]:
        h = self.self_attn(self.input_layernorm(x), positions, cache, mask)
        x = x + apply_dropout(h, dropout, 0)
        h, router_use = self.feed_forward(self.post_attention_layernorm(x))
        return x + apply_dropout(h, dropout, 1), router_use

    def feed_forward(self, x: mx.array) -> tuple[mx.array, mx.array | None]:
        return self.mlp(x), None


class Decoder(nn.Module):
    """All but the head."""

    def __init__(self, config: ModelConfig, blocks: list[Qwen3Block]) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.d_model)
        self.layers = blocks
        self.norm = RMSNorm(config.d_model, config.norm_eps)


class Model(DecoderModel):
    has_qk_norm = True

    def __init__(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        super().__init__(config, dtype)
        self.model = Decoder(config, [self.block(i) for i in range(config.n_layers)])
        self.add_head()

    def block(self, i: int) -> Qwen3Block:
        return Qwen3Block(self.config, self.has_qk_norm)

    @property
    def embedding(self) -> mx.array:
        return self.model.embed_tokens.weight

    @property
    def blocks(self) -> Sequence[Block]:
        return self.model.layers

    def embed(self, tokens: mx.array, positions: Positions) -> mx.array:
        return self.model.embed_tokens(tokens)

    def final_norm(self, x: mx.array) -> mx.array:
        return self.model.norm(x)
