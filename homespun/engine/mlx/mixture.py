"""A mixture of experts as a feed-forward layer: tokens flow in, the sum of a few experts for each token flows out.

The tokens are sorted by expert, so that each matrix is read once, and only if a token needs it. The twin of
`torch/mixture.py`; tests compare the two.

N tokens (B * T), D width of the stream, E experts, k experts of a token, F width of an expert.
"""

import mlx.core as mx
import mlx.nn as nn

from homespun.config import ModelConfig
from homespun.engine.mlx.layers import swiglu
from homespun.engine.mlx.packed import Packed


class Router(nn.Module):
    """x [N, D] -> logits [N, E], in float32 in every precision: near ties would be decided by rounding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = mx.zeros((config.experts, config.d_model))

    def __call__(self, x: mx.array) -> mx.array:
        return x.astype(mx.float32) @ self.weight.T


class Experts(nn.Module):
    """The matrices of all experts, [E, out, in]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        self.gate_up_proj = mx.zeros((c.experts, 2 * c.d_expert, c.d_model))
        self.down_proj = mx.zeros((c.experts, c.d_model, c.d_expert))
        self.packed: dict[str, Packed] = {}
        """By the name of the matrices, those that decoding uses in 8 bits."""

    def __call__(self, x: mx.array, experts: mx.array) -> mx.array:
        """Tokens [N * k, D], sorted by expert, and their experts [N * k] -> [N * k, D]."""

        # MLX has this product on a CPU in float32 only.
        dtype = mx.float32 if mx.default_device() == mx.Device(mx.cpu) else x.dtype

        def product(rows: mx.array, name: str) -> mx.array:
            if name in self.packed:
                return self.packed[name].products(rows, experts)
            matrices = self[name]
            turned = matrices.astype(x.dtype).astype(dtype).swapaxes(1, 2)
            y = mx.gather_mm(rows.astype(dtype), turned, rhs_indices=experts, sorted_indices=True)
            return y.astype(x.dtype)

        gate, up = mx.split(product(x[:, None], "gate_up_proj"), 2, axis=-1)  # [N * k, 1, F]
        return product(swiglu(gate, up), "down_proj")[:, 0]


class Mixture(nn.Module):
    """x [B, T, D] -> [B, T, D], and the use of the experts, [3 + E]; see `router_use`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts_per_token = config.experts_per_token
        self.gate = Router(config)
        self.experts = Experts(config)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        rows, k = x.flatten(0, 1), self.experts_per_token  # [N, D]
        logits = self.gate(rows)
        probabilities = mx.softmax(logits, axis=-1)
        # Indices have no derivative; without a stop, MLX looks for one.
        chosen = mx.stop_gradient(mx.argpartition(-logits, kth=k - 1, axis=-1)[:, :k])  # [N, k]
        weights = mx.take_along_axis(probabilities, chosen, axis=-1)
        weights = (weights / weights.sum(-1, keepdims=True)).astype(x.dtype)
        experts = chosen.flatten()
        order = mx.argsort(experts)
        y = self.experts(rows[order // k], experts[order])[mx.argsort(order)]
        y = weights[:, None] @ y.reshape(len(rows), k, -1)  # [N, 1, D]
        return y.reshape(x.shape), router_use(logits, probabilities, experts)


def router_use(logits: mx.array, probabilities: mx.array, experts: mx.array) -> mx.array:
    """How the experts are used by N tokens, [3 + E], see `base.RouterUse`.

    The balance loss is that of Switch Transformer (Fedus et al., 2021, equation 4) for k experts, as in Hugging Face's
    `load_balancing_loss_func`; the z-loss is that of ST-MoE (Zoph et al., 2022, equation 5). Only these two have a
    gradient.

    logits and probabilities [N, E], experts [N * k].
    """
    n, n_experts = logits.shape
    tokens = (experts[:, None] == mx.arange(n_experts)).sum(0).astype(mx.float32)  # of each expert
    balance = n_experts * ((tokens / n) * probabilities.mean(0)).sum()
    log_total = mx.logsumexp(logits, axis=-1)
    entropy = mx.stop_gradient((log_total - (probabilities * logits).sum(-1)).mean())
    entropy = mx.maximum(entropy, 0)  # rounding may have made it negative
    figures = mx.stack([balance, log_total.square().mean(), entropy])
    return mx.concatenate([figures, tokens / tokens.sum()])
