"""Qwen3-MoE (Qwen team, 2025): the model of Qwen3 with a mixture of experts in its blocks.

It follows Hugging Face's Qwen3MoeForCausalLM.
"""

from torch import Tensor

from homespun.engine.torch.mixture import Mixture
from homespun.engine.torch.models import qwen3


class Qwen3MoeBlock(qwen3.Qwen3Block):
    mlp_class = Mixture

    def join_projections(self) -> None:
        self.self_attn.join_projections()

    def feed_forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        y: tuple[Tensor, Tensor | None] = self.mlp(x)
        return y


class Model(qwen3.Model):
    def block(self, i: int) -> qwen3.Qwen3Block:
        kind = qwen3.Qwen3Block if i < self.config.dense_layers else Qwen3MoeBlock
        return kind(self.config, self.has_qk_norm)
