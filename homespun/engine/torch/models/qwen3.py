"""Qwen3 (Qwen team, 2025): rotary positions, RMSNorm, SwiGLU, grouped key/value heads, normed queries and keys.

It follows Hugging Face's Qwen3ForCausalLM. The letters of the shapes are those of `layers.py`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homespun.config import ModelConfig
from homespun.engine.torch.cache import LayerCache
from homespun.engine.torch.dropout import Dropout, apply_dropout
from homespun.engine.torch.layers import (
    Embedding,
    Linear,
    RMSNorm,
    attention,
    join,
    joined_linear,
    rms_norm,
    rotary_tables,
    rotate,
)
from homespun.engine.torch.model import Block, DecoderModel


class Attention(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig, has_qk_norm: bool) -> None:
        super().__init__()
        c = config
        self.n_heads, self.n_kv_heads, self.head_dim = c.n_heads, c.n_kv_heads, c.head_dim
        self.q_proj = Linear(c.d_model, c.n_heads * c.head_dim, bias=False)
        self.k_proj = Linear(c.d_model, c.n_kv_heads * c.head_dim, bias=False)
        self.v_proj = Linear(c.d_model, c.n_kv_heads * c.head_dim, bias=False)
        self.q_norm = RMSNorm(c.head_dim, c.norm_eps) if has_qk_norm else None
        self.k_norm = RMSNorm(c.head_dim, c.norm_eps) if has_qk_norm else None
        self.o_proj = Linear(c.n_heads * c.head_dim, c.d_model, bias=False)
        self.qkv_proj: Linear | None = None

    def join_projections(self) -> None:
        self.qkv_proj = join(self.q_proj, self.k_proj, self.v_proj)
        del self.q_proj, self.k_proj, self.v_proj

    def qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values of all heads, [B, T, (H + 2 K) * C]."""
        if self.qkv_proj is None:
            return joined_linear(x, self.q_proj, self.k_proj, self.v_proj)
        joined: Tensor = self.qkv_proj(x)
        return joined

    def forward(
        self, x: Tensor, rope: Tensor, cache: LayerCache | None, mask: Tensor | None
    ) -> Tensor:
        heads = torch.unflatten(self.qkv(x), -1, (-1, self.head_dim))  # [B, T, H + 2 K, C]
        heads = heads.transpose(1, 2)  # [B, H + 2 K, T, C]
        qk, v = torch.split(heads, [self.n_heads + self.n_kv_heads, self.n_kv_heads], dim=1)
        qk = rotate(self.normed(qk.float()), rope).to(x.dtype)
        q, k = torch.split(qk, [self.n_heads, self.n_kv_heads], dim=1)
        projected: Tensor = self.o_proj(attention(q, k, v, cache, mask))
        return projected

    def normed(self, qk: Tensor) -> Tensor:
        """Queries and keys [B, H + K, T, C] after their norms, if the model has any."""
        if self.q_norm is None or self.k_norm is None:
            return qk
        weight = torch.cat(
            (
                self.q_norm.weight.expand(self.n_heads, 1, self.head_dim),
                self.k_norm.weight.expand(self.n_kv_heads, 1, self.head_dim),
            )
        )
        return rms_norm(qk, weight, self.q_norm.eps)


class MLP(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = Linear(config.d_ff, config.d_model, bias=False)
        self.gate_up_proj: Linear | None = None

    def join_projections(self) -> None:
        self.gate_up_proj = join(self.gate_proj, self.up_proj)
        del self.gate_proj, self.up_proj

    def gate_up(self, x: Tensor) -> Tensor:
        """[B, T, 2 F]."""
        if self.gate_up_proj is None:
            return joined_linear(x, self.gate_proj, self.up_proj)
        joined: Tensor = self.gate_up_proj(x)
        return joined

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # each [B, T, F]
        projected: Tensor = self.down_proj(F.silu(gate) * up)
        return projected


class Qwen3Block(Block):
    mlp_class: Callable[[ModelConfig], Any] = MLP

    def __init__(self, config: ModelConfig, has_qk_norm: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config, has_qk_norm)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = self.mlp_class(config)

    def join_projections(self) -> None:
        self.self_attn.join_projections()
        self.mlp.join_projections()

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None,
        cache: LayerCache | None,
        mask: Tensor | None,
        dropout: Dropout | None,
    ) -> tuple[Tensor, Tensor | None]:
        h = self.self_attn(self.input_layernorm(x), rope, cache, mask)
        x = x + apply_dropout(h, dropout, 0)
        h, router_use = self.feed_forward(self.post_attention_layernorm(x))
        return x + apply_dropout(h, dropout, 1), router_use

    def feed_forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.mlp(x), None


class Decoder(nn.Module):
    """All but the head."""

    def __init__(self, config: ModelConfig, blocks: Iterable[Qwen3Block]) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.d_model, config.norm_eps)


class Model(DecoderModel):
    has_qk_norm = True

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        self.model = Decoder(config, (self.block(i) for i in range(config.n_layers)))
        self.rope: Tensor | None = None
        self.add_head()

    def block(self, i: int) -> Qwen3Block:
        return Qwen3Block(self.config, self.has_qk_norm)

    @property
    def embedding(self) -> Tensor:
        return self.model.embed_tokens.weight

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.layers

    def embed(
        self, tokens: Tensor, positions: slice | Tensor, end: int
    ) -> tuple[Tensor, Tensor | None]:
        rope = self.rotary_tables(end)[:, positions]  # [2, T, C], or [2, B, T, C]
        if rope.ndim == 4:
            rope = rope.unsqueeze(2)  # [2, B, 1, T, C]
        return self.model.embed_tokens(tokens), rope

    def rotary_tables(self, end: int) -> Tensor:
        """The tables of at least the positions below `end`. They grow with the positions that are used, so their memory
        does not follow from the context that a file states."""
        n_known = 0 if self.rope is None else self.rope.shape[1]
        if self.rope is None or end > n_known:
            # Tensors that are made in inference mode could not be used in training.
            with torch.inference_mode(False), self.embedding.device:
                self.rope = rotary_tables(self.config, max(end, 2 * n_known))
        return self.rope

    def final_norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.model.norm(x)
        return normed
