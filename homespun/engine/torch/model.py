"""The two architectures as functions of their weights: tokens in, hidden states out.

Weights are a plain dict under the names of `architectures`, in float32; each layer casts what it uses to the dtype of
its input, so the precision of a computation is that of the stream that enters it. Attention, norms and rotary
positions follow Hugging Face's GPT2LMHeadModel and Qwen3ForCausalLM, which the tests compare them with.

B sequences, T tokens, S positions seen (T, or more with a cache), D width of the stream, F width of the feed-forward
layer, H heads, K key/value heads, C channels of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from homespun.config import ModelConfig
from homespun.engine.base import LONGEST_IN_FULL
from homespun.engine.torch.dropout import Dropout, dropped, of_block

Weights = dict[str, Tensor]


@dataclass
class LayerCache:
    """Keys and values of the positions seen so far, in one layer."""

    keys: Tensor  # [B, K, max_len, C]
    values: Tensor  # [B, K, max_len, C]
    length: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v [B, K, T, C]; returns all S positions."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def joined(w: Weights, names: tuple[str, ...]) -> Tensor:
    """Matrices that take the same input, one above the other: one product instead of several."""
    ready = w.get("+".join(names))
    return torch.cat([w[name] for name in names]) if ready is None else ready


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps).to(x.dtype)


class RMSNorm(torch.autograd.Function):
    """x [..., D] over its root mean square, times `weight`, in float32 within; its shape and dtype.

    The derivative is written out: step by step it would go over the numbers twice as often, and keep two copies of them
    where this keeps one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        square: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square()
        scale = (square / x.shape[-1] + eps).rsqrt()
        normed = wide * scale
        ctx.save_for_backward(normed, scale, weight)
        return (normed * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, weight = ctx.saved_tensors
        [grad] = grad_outputs
        wide = grad.float()
        product = wide * normed
        grad_weight = product.sum_to_size(weight.shape)
        along = (product.mul_(weight)).mean(-1, keepdim=True)
        grad_x = (wide * weight).addcmul_(normed, along, value=-1).mul_(scale)
        return grad_x.to(grad.dtype), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return RMSNorm.apply(x, weight.float(), eps)  # type: ignore[no-any-return, no-untyped-call]


def rotary_tables(config: ModelConfig, n_positions: int, device: torch.device) -> Tensor:
    """cos and sin of each position's angles, [2, T, C], float32 (Su et al., 2021; halves, not interleaved); the sines
    that the left half is turned by are negative."""
    exponents = (
        torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    )
    angles = torch.outer(
        torch.arange(n_positions, dtype=torch.float32, device=device), config.rope_theta**-exponents
    )
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Turn the channels of x [B, H, T, C], float32, by the angles of `rope` [2, T, C]."""
    return torch.addcmul(x * rope[0], x.roll(x.shape[-1] // 2, dims=-1), rope[1])


def document_mask(tokens: Tensor, mark: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores so that tokens [B, T] see what came before them in their own document, which
    begins with a mark: 0 or minus infinity, [B, 1, T, T]."""
    document = (tokens == mark).cumsum(1)
    visible = (document[:, :, None] == document[:, None, :]).tril()
    hidden = torch.full(visible.shape, -torch.inf, dtype=dtype, device=tokens.device)
    return hidden.masked_fill_(visible, 0.0).unsqueeze(1)


def attention(
    q: Tensor, k: Tensor, v: Tensor, cache: LayerCache | None, mask: Tensor | None
) -> Tensor:
    """Causal attention, or by a `document_mask`; q [B, H, T, C], k and v [B, K, T, C] -> [B, T, H * C]."""
    n_new = q.shape[2]
    if cache is not None:
        k, v = cache.append(k, v)
    if k.shape[1] != q.shape[1]:
        shared_by = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(shared_by, dim=1), v.repeat_interleave(shared_by, dim=1)
    n_seen = k.shape[2]
    half_on_cpu = q.device.type == "cpu" and q.dtype == torch.bfloat16
    if half_on_cpu and 1 < n_seen <= LONGEST_IN_FULL and cache is None:
        y = attention_in_full(q, k, v, mask)
    else:
        if 1 < n_new < n_seen:
            mask = torch.ones(n_new, n_seen, dtype=torch.bool, device=q.device).tril(n_seen - n_new)
        causal = mask is None and n_new == n_seen > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return y.transpose(1, 2).flatten(2)


def attention_in_full(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention by three large operations; all [B, H, T, C], the mask as in `attention`."""
    batch, heads, n, channels = q.shape
    if mask is None:
        mask = torch.full((n, n), -torch.inf, dtype=q.dtype).triu(1)
    mask = mask.expand(batch, heads, n, n).flatten(0, 1)
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=channels**-0.5)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(batch, heads, n, channels)


QKV = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
GATE_UP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")


def gpt2_block(
    w: Weights,
    x: Tensor,
    rope: Tensor | None,
    c: ModelConfig,
    cache: LayerCache | None,
    mask: Tensor | None,
    drop: Dropout | None,
) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    h = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], c.norm_eps)
    h = linear(h, w["attn.c_attn.weight"], w["attn.c_attn.bias"])
    qkv = torch.unflatten(h, -1, (3, c.n_heads, c.head_dim))  # [B, T, 3, H, C]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, T, C]
    h = attention(q, k, v, cache, mask)
    x = x + dropped(linear(h, w["attn.c_proj.weight"], w["attn.c_proj.bias"]), drop, 0)
    h = layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], c.norm_eps)
    h = F.gelu(linear(h, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]), approximate="tanh")  # [B, T, F]
    return x + dropped(linear(h, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"]), drop, 1)


def qwen3_block(
    w: Weights,
    x: Tensor,
    rope: Tensor | None,
    c: ModelConfig,
    cache: LayerCache | None,
    mask: Tensor | None,
    drop: Dropout | None,
) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    assert rope is not None
    h = rms_norm(x, w["input_layernorm.weight"], c.norm_eps)
    heads = torch.unflatten(linear(h, joined(w, QKV)), -1, (-1, c.head_dim))  # [B, T, H + 2 K, C]
    heads = heads.transpose(1, 2)  # [B, H + 2 K, T, C]
    qk, v = torch.split(heads, [c.n_heads + c.n_kv_heads, c.n_kv_heads], dim=1)
    gains = torch.cat(
        (
            w["self_attn.q_norm.weight"].expand(c.n_heads, 1, c.head_dim),
            w["self_attn.k_norm.weight"].expand(c.n_kv_heads, 1, c.head_dim),
        )
    )
    qk = rotate(rms_norm(qk.float(), gains, c.norm_eps), rope).to(h.dtype)
    q, k = torch.split(qk, [c.n_heads, c.n_kv_heads], dim=1)
    h = attention(q, k, v, cache, mask)
    x = x + dropped(linear(h, w["self_attn.o_proj.weight"]), drop, 0)
    h = rms_norm(x, w["post_attention_layernorm.weight"], c.norm_eps)
    gate, up = linear(h, joined(w, GATE_UP)).chunk(2, dim=-1)  # each [B, T, F]
    return x + dropped(linear(F.silu(gate) * up, w["mlp.down_proj.weight"]), drop, 1)


Block = Callable[
    [
        Weights,
        Tensor,
        Tensor | None,
        ModelConfig,
        LayerCache | None,
        Tensor | None,
        Dropout | None,
    ],
    Tensor,
]

BLOCKS: dict[str, Block] = {"gpt2": gpt2_block, "qwen3": qwen3_block}


class Model:
    """Weights by name, and the way through them."""

    def __init__(
        self, config: ModelConfig, weights: Weights, dtype: torch.dtype, block: Block | None = None
    ) -> None:
        self.config = config
        self.weights = weights
        self.dtype = dtype
        self.gpt2 = config.architecture == "gpt2"
        self.block = block or BLOCKS[config.architecture]
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
        self.rope = (
            None if self.gpt2 else rotary_tables(config, config.seq_len, self.embedding.device)
        )

    def hidden(
        self,
        tokens: Tensor,
        cache: list[LayerCache] | None = None,
        gradient_checkpointing: bool = False,
        mask: Tensor | None = None,
        drop: Dropout | None = None,
    ) -> Tensor:
        """Tokens [B, T] -> the normed stream [B, T, D], of which the logits are the product with the head."""
        start = cache[0].length if cache else 0
        end = start + tokens.shape[1]
        x = F.embedding(tokens, self.embedding)
        if self.gpt2:
            x = x + self.weights["transformer.wpe.weight"][start:end]
        x = dropped(x.to(self.dtype), drop, 0)
        rope = None if self.rope is None else self.rope[:, start:end]
        for i, w in enumerate(self.blocks):
            others = (rope, self.config, cache[i] if cache else None, mask, of_block(drop, i))
            if gradient_checkpointing:
                # A block draws no random numbers: what it drops out is in its arguments.
                x = checkpoint(
                    self.block, w, x, *others, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = self.block(w, x, *others)
        if self.gpt2:
            w = self.weights
            return layer_norm(
                x, w["transformer.ln_f.weight"], w["transformer.ln_f.bias"], self.config.norm_eps
            )
        return rms_norm(x, self.weights["model.norm.weight"], self.config.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V], float32."""
        return linear(hidden, self.head).float()

    def for_decoding(self) -> "Model":
        """A copy that is read once per token: matrices cast beforehand, those with the same input joined."""
        weights = {
            name: tensor.detach().to(self.dtype) if tensor.ndim > 1 else tensor.detach()
            for name, tensor in self.weights.items()
        }
        model = Model(self.config, weights, self.dtype)
        if not self.gpt2:
            for w in model.blocks:
                for names in (QKV, GATE_UP):
                    w["+".join(names)] = joined(w, names)
        return model
