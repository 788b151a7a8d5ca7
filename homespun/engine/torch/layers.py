"""The layers that models are made of: tensors in, tensors out.

Weights are float32. Each layer casts them to the dtype of its input, so a computation has the precision of the stream
that enters it. Attention, norms and rotary positions follow Hugging Face's models, which the tests compare them with.

B sequences, T tokens, S positions seen (T, or more with a cache), D width of the stream, F width of the feed-forward
layer, H heads, K key/value heads, C channels of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homespun.config import ModelConfig
from homespun.engine.torch.cache import LayerCache
from homespun.engine.traits import LONGEST_IN_FULL


class Linear(nn.Linear):
    """x [..., in] -> [..., out], with an adapter of LoRA if it has one."""

    lora_scale: float | None = None
    is_frozen = False
    """Whether the weight is part of a model that LoRA leaves as it is."""

    def reset_parameters(self) -> None:
        zero_parameters(self)

    def add_adapter(self, rank: int, scale: float) -> None:
        """Add `scale` times B A to the weight, in two products of their own; A [rank, in], B [out, rank]."""
        like = self.weight
        self.lora_a = nn.Parameter(torch.zeros(rank, self.in_features, device=like.device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, device=like.device))
        self.lora_scale = scale

    def forward(self, input: Tensor) -> Tensor:
        bias = self.bias
        y = F.linear(
            input, self.weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
        )
        if self.lora_scale is None:
            return y
        narrow = F.linear(input, self.lora_a.to(input.dtype))  # [..., rank]
        sum_ = torch.addmm(
            y.flatten(0, -2),
            narrow.flatten(0, -2),
            self.lora_b.to(input.dtype).t(),
            alpha=self.lora_scale,
        )
        return sum_.view(y.shape)

    def merged(self) -> Tensor:
        """The weight with its adapter, without a gradient."""
        weight = self.weight.detach()
        if self.lora_scale is None:
            return weight
        a, b = self.lora_a.detach(), self.lora_b.detach()
        return torch.addmm(weight.float(), b, a, alpha=self.lora_scale)

    def drop_adapter(self) -> None:
        """Keep the weight alone."""
        if self.lora_scale is not None:
            del self.lora_a, self.lora_b, self.lora_scale


class Embedding(nn.Embedding):
    """Tokens [B, T] -> [B, T, D], float32; in the dtype of the weight where that is narrow and not in training."""

    def reset_parameters(self) -> None:
        zero_parameters(self)

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if weight.dtype == torch.float32 or not weight.requires_grad:
            return super().forward(input)
        if weight.device.type == "cpu":
            return _NarrowEmbedding.apply(weight, input)  # type: ignore[no-any-return, no-untyped-call]
        return super().forward(input).float()


class _NarrowEmbedding(torch.autograd.Function):
    """Rows of a table in 16 bits. The gradients of a token that occurs often are added up in float32; on a CPU, PyTorch
    adds them up in 16 bits, where small ones vanish."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.like = table.detach()
        return F.embedding(tokens, table).float()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        [grad], [tokens] = grad_outputs, ctx.saved_tensors
        found, where = tokens.unique(return_inverse=True)
        sums = grad.new_zeros(len(found), grad.shape[-1], dtype=torch.float32)
        sums.index_add_(0, where.flatten(), grad.flatten(0, -2).float())
        grad_table = torch.zeros_like(ctx.like)
        grad_table[found] = sums.to(grad_table.dtype)
        return grad_table, None


class LayerNorm(nn.LayerNorm):
    """x [..., D] -> [..., D], computed in float32."""

    def reset_parameters(self) -> None:
        zero_parameters(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(
            input.float(),
            self.normalized_shape,
            self.weight.float(),
            self.bias.float(),
            self.eps,
        ).to(input.dtype)


class RMSNorm(nn.Module):
    """x [..., D] -> [..., D], computed in float32; see `rms_norm`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def zero_parameters(module: nn.Module) -> None:
    """Set all parameters to zero, without the framework's random initial values. The engine loads its own values."""
    for parameter in module.parameters(recurse=False):
        nn.init.zeros_(parameter)


class _RMSNorm(torch.autograd.Function):
    """The derivative is written out: step by step, it would read and write the numbers twice as often and keep two
    copies of them instead of one."""

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
        grad_weight = product.sum_to_size(weight.shape) if ctx.needs_input_grad[1] else None
        along = (product.mul_(weight)).mean(-1, keepdim=True)
        grad_x = (wide * weight).addcmul_(normed, along, value=-1).mul_(scale)
        return grad_x.to(grad.dtype), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., D] over its root mean square, times `weight`, in float32 inside; the result has the dtype of x."""
    return _RMSNorm.apply(x, weight.float(), eps)  # type: ignore[no-any-return, no-untyped-call]


def joined_linear(x: Tensor, *layers: Linear) -> Tensor:
    """Several layers without bias on the same input, as one product; their outputs follow each other, [..., out]."""
    if layers[0].is_frozen:  # one product would need a copy of the weights
        return torch.cat([layer(x) for layer in layers], dim=-1)
    return F.linear(x, torch.cat([layer.weight for layer in layers]).to(x.dtype))


def join(*layers: Linear) -> Linear:
    """One layer that computes `joined_linear` of these, without gradients."""
    n_out, weight = sum(layer.out_features for layer in layers), layers[0].weight
    joined = Linear(
        layers[0].in_features, n_out, bias=False, device=weight.device, dtype=weight.dtype
    ).requires_grad_(False)
    torch.cat([layer.weight.detach() for layer in layers], out=joined.weight)
    return joined


def rotary_tables(config: ModelConfig, n_positions: int) -> Tensor:
    """Cosine and sine of the angles of each position, [2, T, C], float32 (Su et al., 2021). The channels are rotated by
    halves, not interleaved; the sines for the first half are negative."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(
        torch.arange(n_positions, dtype=torch.float32), config.rope_theta**-exponents
    )
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the channels of x [B, H, T, C], float32, by the angles in `rope`, [2, T, C] or [2, B, 1, T, C]."""
    return torch.addcmul(x * rope[0], x.roll(x.shape[-1] // 2, dims=-1), rope[1])


def document_mask(document: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask with which each token sees only earlier tokens of its own document, whose number is in `document` [B, T].

    Returns:
        The numbers to add to the attention scores, 0 or minus infinity, [B, 1, T, T].
    """
    visible = (document[:, :, None] == document[:, None, :]).tril()
    hidden = torch.full(visible.shape, -torch.inf, dtype=dtype, device=document.device)
    return hidden.masked_fill_(visible, 0.0).unsqueeze(1)


def attention(
    q: Tensor, k: Tensor, v: Tensor, cache: LayerCache | None, mask: Tensor | None
) -> Tensor:
    """Attention by `mask`, or causal attention without one.

    q [B, H, T, C], k and v [B, K, T, C], mask [B, 1, T, S] -> [B, T, H * C].
    """
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
        if mask is None and 1 < n_new < n_seen:
            mask = torch.ones(n_new, n_seen, dtype=torch.bool, device=q.device).tril(n_seen - n_new)
        causal = mask is None and n_new == n_seen > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return y.transpose(1, 2).flatten(2)


def attention_in_full(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention as three large operations, with all weights in memory; all [B, H, T, C], the mask as in `attention`."""
    batch, heads, n, channels = q.shape
    if mask is None:
        mask = torch.full((n, n), -torch.inf, dtype=q.dtype).triu(1)
    mask = mask.expand(batch, heads, n, n).flatten(0, 1)
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=channels**-0.5)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(batch, heads, n, channels)
