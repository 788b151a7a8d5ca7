"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm, biases, GELU; as Hugging Face's GPT2LMHeadModel.

The letters of the shapes are those of `layers.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homespun.config import ModelConfig
from homespun.engine.torch.cache import LayerCache
from homespun.engine.torch.dropout import Dropout, apply_dropout
from homespun.engine.torch.layers import Embedding, LayerNorm, Linear, attention
from homespun.engine.torch.model import Block, DecoderModel


class Attention(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = (3, config.n_heads, config.head_dim)
        self.c_attn = Linear(config.d_model, 3 * config.d_model)
        self.c_proj = Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, cache: LayerCache | None, mask: Tensor | None) -> Tensor:
        qkv = torch.unflatten(self.c_attn(x), -1, self.heads)  # [B, T, 3, H, C]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, T, C]
        projected: Tensor = self.c_proj(attention(q, k, v, cache, mask))
        return projected


class MLP(nn.Module):
    """x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.d_model, config.d_ff)
        self.c_proj = Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # from [B, T, F]
        return projected


class GPT2Block(Block):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.d_model, config.norm_eps)
        self.attn = Attention(config)
        self.ln_2 = LayerNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None,
        cache: LayerCache | None,
        mask: Tensor | None,
        dropout: Dropout | None,
    ) -> tuple[Tensor, Tensor | None]:
        x = x + apply_dropout(self.attn(self.ln_1(x), cache, mask), dropout, 0)
        return x + apply_dropout(self.mlp(self.ln_2(x)), dropout, 1), None


class Transformer(nn.Module):
    """All but the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.d_model)
        self.wpe = Embedding(config.seq_len, config.d_model)
        self.h = nn.ModuleList(GPT2Block(config) for _ in range(config.n_layers))
        self.ln_f = LayerNorm(config.d_model, config.norm_eps)


class Model(DecoderModel):
    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        self.transformer = Transformer(config)
        self.add_head()

    @property
    def embedding(self) -> Tensor:
        return self.transformer.wte.weight

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.h

    def embed(
        self, tokens: Tensor, positions: slice | Tensor, end: int
    ) -> tuple[Tensor, Tensor | None]:
        return self.transformer.wte(tokens) + self.transformer.wpe.weight[positions], None

    def final_norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.transformer.ln_f(x)
        return normed
