"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm and biases, GELU, as many key/value heads as heads."""

import math
from collections.abc import Mapping
from typing import Any

from homespun.architectures.base import (
    Activations,
    Family,
    GGUFLayout,
    Parameter,
    refuse_other_settings,
)
from homespun.config import ModelConfig
from homespun.errors import UserError


class GPT2(Family):
    """Initial values have a standard deviation of 0.02. Matrices that write into the residual stream have this divided
    by the square root of their number."""

    name = "gpt2"
    huggingface_class = "GPT2LMHeadModel"
    block_prefix = "transformer.h"
    has_grouped_heads = False
    gguf = GGUFLayout(norm_eps="attention.layer_norm_epsilon", has_rotary_positions=False)

    def check(self, config: ModelConfig) -> None:
        c = config
        if c.n_heads * c.head_dim != c.d_model:
            raise UserError(
                f"{self.name} needs --d-model ({c.d_model}) divisible by --n-heads ({c.n_heads})"
            )
        if c.n_kv_heads != c.n_heads:
            raise UserError(
                f"{self.name} has as many key/value heads as heads: leave --n-kv-heads out"
            )

    def default_shape(self, n_layers: int, d_model: int, n_heads: int) -> ModelConfig:
        return ModelConfig(
            architecture=self.name,
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=d_model // n_heads,
            d_ff=self.default_d_ff(d_model),
        )

    def default_d_ff(self, d_model: int) -> int:
        return 4 * d_model

    def parameters(self, config: ModelConfig) -> list[Parameter]:
        c = config
        std, residual_std = 0.02, 0.02 / math.sqrt(2 * c.n_layers)

        def norm(name: str) -> list[Parameter]:
            return [
                Parameter(f"{name}.weight", (c.d_model,), "vector", mean=1.0),
                Parameter(f"{name}.bias", (c.d_model,), "vector"),
            ]

        def linear(
            name: str, n_out: int, n_in: int, std: float, stacked: int = 1
        ) -> list[Parameter]:
            return [
                Parameter(f"{name}.weight", (n_out, n_in), "matrix", std, stacked=stacked),
                Parameter(f"{name}.bias", (n_out,), "vector"),
            ]

        found = [
            Parameter("transformer.wte.weight", (c.vocab_size, c.d_model), "embedding", std),
            Parameter("transformer.wpe.weight", (c.seq_len, c.d_model), "embedding", std),
        ]
        for i in range(c.n_layers):
            block = f"{self.block_prefix}.{i}"
            found += norm(f"{block}.ln_1")
            found += linear(
                f"{block}.attn.c_attn", 3 * c.d_model, c.d_model, std, stacked=3 * c.n_heads
            )
            found += linear(f"{block}.attn.c_proj", c.d_model, c.d_model, residual_std)
            found += norm(f"{block}.ln_2")
            found += linear(f"{block}.mlp.c_fc", c.d_ff, c.d_model, std)
            found += linear(f"{block}.mlp.c_proj", c.d_model, c.d_ff, residual_std)
        found += norm("transformer.ln_f")
        if not c.tie_embeddings:
            found.append(Parameter("lm_head.weight", (c.vocab_size, c.d_model), "head", std))
        return found

    def activations(self, config: ModelConfig) -> Activations:
        c = config
        attention = 4 * c.n_heads * c.head_dim  # queries, keys, values and the result
        return Activations(float32=2 * c.d_model, computed=2 * c.d_model + attention + 2 * c.d_ff)

    def huggingface_config(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "architectures": [self.huggingface_class],
            "model_type": "gpt2",
            "vocab_size": config.vocab_size,
            "n_positions": config.seq_len,
            "n_ctx": config.seq_len,
            "n_embd": config.d_model,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_inner": config.d_ff,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": config.norm_eps,
            "tie_word_embeddings": config.tie_embeddings,
        }

    def from_huggingface_config(self, values: Mapping[str, Any]) -> ModelConfig:
        refuse_other_settings(
            values,
            {
                "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
                "scale_attn_weights": (True,),
                "scale_attn_by_inverse_layer_idx": (False,),
                "add_cross_attention": (False,),
            },
        )
        d_model, n_heads = values["n_embd"], values["n_head"]
        return ModelConfig(
            architecture=self.name,
            vocab_size=values["vocab_size"],
            seq_len=values["n_positions"] if "n_positions" in values else values["n_ctx"],
            n_layers=values["n_layer"],
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=d_model // n_heads,
            d_ff=values.get("n_inner") or self.default_d_ff(d_model),
            tie_embeddings=values.get("tie_word_embeddings", True),
            norm_eps=values.get("layer_norm_epsilon", 1e-5),
        )

    def canonical_name(self, name: str) -> str | None:
        """The published files leave the prefix out, and hold the causal mask."""
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            return None
        has_prefix = name.startswith(("transformer.", "lm_head."))
        return name if has_prefix else f"transformer.{name}"

    def check_for_mlx(self, config: ModelConfig) -> None:
        if not config.tie_embeddings or config.d_ff != self.default_d_ff(config.d_model):
            raise UserError(
                f"mlx-lm has {self.name} only with a tied head and a feed-forward width of four times the "
                "model's: export to another format"
            )

    def mlx_name(self, name: str) -> str:
        return name.replace("transformer.", "model.", 1)

    def is_transposed(self, name: str) -> bool:
        """The matrices of the blocks, which are `Conv1D` there."""
        return name.startswith(self.block_prefix) and name.endswith(
            ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        )
