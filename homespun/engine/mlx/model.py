"""The two architectures as functions of their weights: tokens in, hidden states out.

Weights are a plain dict under the names of `architectures`, in float32; each layer casts what it uses to the dtype of
its input, so the precision of a computation is that of the stream that enters it. Norms, rotary positions and attention
are MLX's fused kernels. The twin of `torch/model.py`, line by line; the tests hold the two against each other.

B sequences, T tokens, S positions seen (T, or more with a cache), D width of the stream, F width of the feed-forward
layer, H heads, K key/value heads, C channels of a head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from homespun.config import ModelConfig
from homespun.engine.mlx.dropout import Dropout, dropped, of_block

Weights = dict[str, mx.array]


@dataclass
class LayerCache:
    """Keys and values of the positions seen so far, in one layer."""

    keys: mx.array  # [B, K, max_len, C]
    values: mx.array  # [B, K, max_len, C]
    length: int = 0

    def append(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Store k and v [B, K, T, C]; returns all S positions."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    y = x @ weight.astype(x.dtype).T
    return y if bias is None else y + bias.astype(x.dtype)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    # The gains stay outside the kernel, and float32: inside they would turn the whole stream into float32.
    return (mx.fast.layer_norm(x, None, None, eps) * weight + bias).astype(x.dtype)


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    return (mx.fast.rms_norm(x, None, eps) * weight).astype(x.dtype)


# What follows from a few numbers by simple arithmetic is computed again for the backward pass, not kept for it.
@mx.checkpoint
def gelu(x: mx.array) -> mx.array:
    """By tanh, as GPT-2 has it (Hendrycks and Gimpel, 2016)."""
    wide = x.astype(mx.float32)
    inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
    return (0.5 * wide * (1 + mx.tanh(inner))).astype(x.dtype)


@mx.checkpoint
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """Shazeer, 2020."""
    wide = gate.astype(mx.float32)
    return (wide * mx.sigmoid(wide) * up).astype(up.dtype)


def rotate(x: mx.array, start: int, c: ModelConfig) -> mx.array:
    """Turn the channels of x [B, H, T, C], float32, by the angles of the positions from `start` on (Su et al., 2021;
    halves, not interleaved)."""
    return mx.fast.rope(
        x, c.head_dim, traditional=False, base=c.rope_theta, scale=1.0, offset=start
    )


def document_mask(tokens: mx.array, mark: int) -> mx.array:
    """Whether tokens [B, T] see each other: what came before them in their own document, which begins with a mark,
    [B, 1, T, T]."""
    document = (tokens == mark).astype(mx.int32).cumsum(1)
    return mx.tril(document[:, :, None] == document[:, None, :])[:, None]


def attention(
    q: mx.array, k: mx.array, v: mx.array, cache: LayerCache | None, mask: mx.array | None
) -> mx.array:
    """Causal attention, or by a `document_mask`; q [B, H, T, C], k and v [B, K, T, C] -> [B, T, H * C]."""
    n_new = q.shape[2]
    if cache is not None:
        k, v = cache.append(k, v)
    causal = "causal" if n_new > 1 else None  # the last of T is the last of S
    y = mx.fast.scaled_dot_product_attention(
        q, k, v, scale=q.shape[3] ** -0.5, mask=causal if mask is None else mask
    )
    return y.swapaxes(1, 2).flatten(2)


def gpt2_block(
    w: Weights,
    x: mx.array,
    c: ModelConfig,
    cache: LayerCache | None,
    mask: mx.array | None,
    drop: Dropout | None,
) -> mx.array:
    """x [B, T, D] -> [B, T, D]."""
    h = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], c.norm_eps)
    h = linear(h, w["attn.c_attn.weight"], w["attn.c_attn.bias"])
    qkv = h.reshape(*h.shape[:2], 3, c.n_heads, c.head_dim)  # [B, T, 3, H, C]
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, H, T, C]
    h = attention(q, k, v, cache, mask)
    x = x + dropped(linear(h, w["attn.c_proj.weight"], w["attn.c_proj.bias"]), drop, 0)
    h = layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], c.norm_eps)
    h = gelu(linear(h, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))  # [B, T, F]
    return x + dropped(linear(h, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"]), drop, 1)


def qwen3_block(
    w: Weights,
    x: mx.array,
    c: ModelConfig,
    cache: LayerCache | None,
    mask: mx.array | None,
    drop: Dropout | None,
) -> mx.array:
    """x [B, T, D] -> [B, T, D]."""
    start = cache.length if cache else 0

    def heads(name: str) -> mx.array:
        y = linear(h, w[f"self_attn.{name}_proj.weight"])
        return y.reshape(*y.shape[:2], -1, c.head_dim).swapaxes(1, 2)  # [B, H or K, T, C]

    def placed(name: str) -> mx.array:
        gain = w[f"self_attn.{name}_norm.weight"].astype(mx.float32)
        wide = mx.fast.rms_norm(heads(name).astype(mx.float32), gain, c.norm_eps)
        return rotate(wide, start, c).astype(h.dtype)

    h = rms_norm(x, w["input_layernorm.weight"], c.norm_eps)
    h = attention(placed("q"), placed("k"), heads("v"), cache, mask)
    x = x + dropped(linear(h, w["self_attn.o_proj.weight"]), drop, 0)
    h = rms_norm(x, w["post_attention_layernorm.weight"], c.norm_eps)
    gate, up = linear(h, w["mlp.gate_proj.weight"]), linear(h, w["mlp.up_proj.weight"])
    return x + dropped(linear(swiglu(gate, up), w["mlp.down_proj.weight"]), drop, 1)


Block = Callable[
    [Weights, mx.array, ModelConfig, LayerCache | None, mx.array | None, Dropout | None], mx.array
]

BLOCKS: dict[str, Block] = {"gpt2": gpt2_block, "qwen3": qwen3_block}


class Model:
    """Weights by name, and the way through them."""

    def __init__(self, config: ModelConfig, weights: Weights, dtype: mx.Dtype) -> None:
        self.config = config
        self.weights = weights
        self.dtype = dtype
        self.gpt2 = config.architecture == "gpt2"
        prefix = "transformer.h." if self.gpt2 else "model.layers."
        self.blocks: list[Weights] = [{} for _ in range(config.n_layers)]
        for name, tensor in weights.items():
            if name.startswith(prefix):
                index, short = name.removeprefix(prefix).split(".", 1)
                self.blocks[int(index)][short] = tensor
        self.embedding = weights[
            "transformer.wte.weight" if self.gpt2 else "model.embed_tokens.weight"
        ]
        self.head = self.embedding if config.tie_embeddings else weights["lm_head.weight"]

    def hidden(
        self,
        tokens: mx.array,
        cache: list[LayerCache] | None = None,
        gradient_checkpointing: bool = False,
        mask: mx.array | None = None,
        drop: Dropout | None = None,
    ) -> mx.array:
        """Tokens [B, T] -> the normed stream [B, T, D], of which the logits are the product with the head."""
        start = cache[0].length if cache else 0
        end = start + tokens.shape[1]
        x = self.embedding[tokens]
        if self.gpt2:
            x = x + self.weights["transformer.wpe.weight"][start:end]
        x = dropped(x.astype(self.dtype), drop, 0)
        for i, w in enumerate(self.blocks):
            inputs = w, x, mask, of_block(drop, i)
            if gradient_checkpointing:
                # A block draws no random numbers: what it drops out is in its arguments.
                x = mx.checkpoint(self._block)(*inputs)
            else:
                x = self._block(*inputs, cache[i] if cache else None)
        if self.gpt2:
            w = self.weights
            return layer_norm(
                x, w["transformer.ln_f.weight"], w["transformer.ln_f.bias"], self.config.norm_eps
            )
        return rms_norm(x, self.weights["model.norm.weight"], self.config.norm_eps)

    def logits(self, hidden: mx.array) -> mx.array:
        """[..., D] -> [..., V], float32."""
        return linear(hidden, self.head).astype(mx.float32)

    def for_decoding(self) -> "Model":
        """A copy that is read once per token: matrices cast beforehand."""
        weights = {
            name: tensor.astype(self.dtype) if tensor.ndim > 1 else tensor
            for name, tensor in self.weights.items()
        }
        return Model(self.config, weights, self.dtype)

    def _block(
        self,
        w: Weights,
        x: mx.array,
        mask: mx.array | None,
        drop: Dropout | None,
        cache: LayerCache | None = None,
    ) -> mx.array:
        return BLOCKS[self.config.architecture](w, x, self.config, cache, mask, drop)
