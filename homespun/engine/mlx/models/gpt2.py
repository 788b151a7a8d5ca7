"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm, biases, GELU; as Hugging Face's GPT2LMHeadModel.

The letters of the shapes are those of `layers.py`.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from homespun.config import ModelConfig
from homespun.engine.mlx.cache import LayerCache, Positions
from homespun.engine.mlx.dropout import Dropout, apply_dropout
from homespun.engine.mlx.layers import Embedding, LayerNorm, Linear, attention, gelu
from homespun.engine.mlx.model import Block, DecoderModel


class Attention(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.c_attn = Linear(config.d_model, 3 * config.d_model)
        self.c_proj = Linear(config.d_model, config.d_model)

    def __call__(self, x: mx.array, cache: LayerCache | None, mask: mx.array | None) -> mx.array:
        qkv = self.c_attn(x).reshape(
            *x.shape[:2], 3, self.n_heads, self.head_dim
        )  # [B, T, 3, H, C]
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, H, T, C]
        return self.c_proj(attention(q, k, v, cache, mask))


class MLP(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.d_model, config.d_ff)
        self.c_proj = Linear(config.d_ff, config.d_model)

    def __call__(self, x: mx.array) -> mx.array:
        return self.c_proj(gelu(self.c_fc(x)))  # from [B, T, F]


class GPT2Block(Block):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.d_model, config.norm_eps)
        self.attn = Attention(config)
        self.ln_2 = LayerNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config)

    def __call__(
        self,
        x: mx.array,
        mask: mx.array | None,
        dropout: Dropout | None,
        *,
        positions: Positions,
        cache: LayerCache | None,
    ) -> tuple[mx.array, mx.array | None]:
        x = x + apply_dropout(self.attn(self.ln_1(x), cache, mask), dropout, 0)
        return x + apply_dropout(self.mlp(self.ln_2(x)), dropout, 1), None


class Transformer(nn.Module):
    """All but the head."""

    def __init__(self, config: ModelConfig, blocks: list[GPT2Block]) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.d_model)
        self.wpe = Embedding(config.seq_len, config.d_model)
        self.h = blocks
        self.ln_f = LayerNorm(config.d_model, config.norm_eps)


class Model(DecoderModel):
    def __init__(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        super().__init__(config, dtype)
        self.transformer = Transformer(config, [self.block(i) for i in range(config.n_layers)])
        self.add_head()

    def block(self, i: int) -> GPT2Block:
        return GPT2Block(self.config)

    @property
    def embedding(self) -> mx.array:
        return self.transformer.wte.weight

    @property
    def blocks(self) -> Sequence[Block]:
        return self.transformer.h

    def embed(self, tokens: mx.array, positions: Positions) -> mx.array:
        return self.transformer.wte(tokens) + self.transformer.wpe.weight[positions]

    def final_norm(self, x: mx.array) -> mx.array:
        return self.transformer.ln_f(x)
