"""GPT-2: learned positions, LayerNorm with biases, GELU. Letters of shapes as in `layers`."""

from homespun.config import ModelConfig
from homespun.data.batch import Tokens
from homespun.engine.base import Floats
from homespun.engine.numpy.layers import (
    Apart,
    Positions,
    Watch,
    Weights,
    attention,
    gelu,
    layer_norm,
    linear,
    rows,
    weights_by_block,
)
from homespun.engine.numpy.narrow import Cache
from homespun.engine.numpy.products import Products

FUSED: dict[str, str] = {}
"""No matrices are fused: queries, keys and values are one matrix in this family."""


class Model:
    """The forward pass of a GPT-2 without its head; see `models.Model`."""

    def __init__(self, config: ModelConfig, weights: Weights, own: Products | None = None) -> None:
        self.config = config
        self.own = own
        self.embedding = weights["transformer.wte.weight"]
        self.position_embedding = weights["transformer.wpe.weight"]
        self.blocks = weights_by_block(weights, "transformer.h", config.n_layers)
        self.norm = weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]

    def __call__(
        self,
        tokens: Tokens,
        positions: Positions,
        cache: Cache,
        apart: Apart | None = None,
        watch: Watch | None = None,
    ) -> Floats:
        batch, n_new = tokens.shape
        x = rows(self.embedding, tokens)  # [B, T, D]
        x = x + rows(self.position_embedding, positions)
        x = x.reshape(batch * n_new, -1)
        if watch is not None:
            watch.hidden.append(x.copy())
        for weights, block_cache in zip(self.blocks, cache, strict=True):
            self.add_block(x, weights, tokens.shape, positions, block_cache, apart, watch)
            if watch is not None:
                watch.hidden.append(x.copy())
        return self.normed(x).reshape(batch, n_new, -1)

    def normed(self, x: Floats) -> Floats:
        return layer_norm(x, *self.norm, self.config.norm_eps, self.own)

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
        h = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], c.norm_eps, own)
        h = linear(h, w["attn.c_attn.weight"], w["attn.c_attn.bias"])  # [N, 3 * H * C]
        heads = h.reshape(*shape, -1, c.head_dim).transpose(0, 2, 1, 3)  # [B, 3 * H, T, C]
        h = attention(heads, cache, positions, apart, watch, own)
        x += linear(h, w["attn.c_proj.weight"], w["attn.c_proj.bias"])
        h = layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], c.norm_eps, own)
        h = gelu(linear(h, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]), own)  # [N, F]
        x += linear(h, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
